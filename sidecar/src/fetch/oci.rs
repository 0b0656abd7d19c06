//! OCI registries: an artifact is a layer of its own, or a file in a layer of an image.
//!
//! ModelPack, ORAS and the like put each file into a layer as it is, so the layer's digest is the artifact's, and a
//! download can go on in the middle. KServe's modelcars are images: their layers are archives, which are downloaded
//! aside and searched for the one regular file that has the right bytes. No name in an archive is ever used as a path,
//! and no link followed. A tag is a locator: what it points to does not matter as long as the digest is found.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use flate2::read::MultiGzDecoder;
use futures_util::{StreamExt as _, TryStreamExt as _};
use mainstay_models::store::AddError;
use mainstay_models::{Blob, Publisher, Uri};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol, current_platform_resolver};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde::Deserialize;

use super::{Arrived, BEGIN_MAX, CONNECT_MAX, Failed, Fetcher, Opened};

/// The largest file with what lets us in.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The most layers of an image that are searched.
const LAYERS_MAX: usize = 64;
/// The most entries of an archive that are looked at.
const ENTRIES_MAX: usize = 100_000;
/// How many times its compressed size, and this much more, an archive may have: models do not shrink further.
const INFLATION_MAX: u64 = 20;

/// An image or artifact in a registry.
pub(super) struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

/// Docker's config.json, as far as it lets us in.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Registry {
    /// Asks nobody yet. `config` is the file that lets us in, read anew.
    pub(super) fn open(uri: &Uri, config: Option<&Path>) -> Result<Self, Failed> {
        let host = uri.authority();
        let reference = format!("{host}/{}", uri.path()).parse::<Reference>().map_err(|e| Failed::other(&e))?;
        let auth = config.map_or(Ok(RegistryAuth::Anonymous), |path| auth(path, host))?;
        // As every other client of registries does: this machine itself is asked in plain text, everybody else is not.
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is_here = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
        let config = ClientConfig {
            protocol: if is_here { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_MAX),
            read_timeout: Some(BEGIN_MAX),
            // A model is the same for every platform.
            platform_resolver: Some(Box::new(|entries| {
                current_platform_resolver(entries).or_else(|| entries.first().map(|entry| entry.digest.clone()))
            })),
            ..ClientConfig::default()
        };
        Ok(Self { client: Client::new(config), reference, auth })
    }

    /// Brings `blob` into the store.
    pub(super) async fn bring(&self, fetcher: &Fetcher, publisher: &Arc<Publisher>, blob: &Blob) -> Result<(), Failed> {
        let asked = tokio::time::timeout(BEGIN_MAX, self.client.pull_image_manifest(&self.reference, &self.auth)).await;
        let asked = asked.map_err(|_| Failed::Other("gives no manifest".to_owned()))?;
        let (manifest, _) = asked.map_err(|e| Failed::other(&e))?;
        let digest = format!("sha256:{}", blob.sha256);
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.digest == digest) {
            // A second time from the beginning, where the first went on and came out wrong.
            for _ in 0..2 {
                if let Arrived::Whole = self.arrive(fetcher, publisher, blob, layer).await? {
                    return Ok(());
                }
            }
            return Err(Failed::Wrong("gives other bytes each time".to_owned()));
        }
        let mut searched = 0;
        // A later layer covers what an earlier one holds.
        for layer in manifest.layers.iter().rev().filter(|layer| layer.media_type.contains("tar")).take(LAYERS_MAX) {
            if layer.media_type.contains("zstd") {
                return Err(Failed::Other(
                    "has layers in zstd: build it with gzip, or push the file itself".to_owned(),
                ));
            }
            searched += 1;
            let archive = self.download(fetcher, layer).await?;
            let (publisher, blob) = (publisher.clone(), *blob);
            let inflated_max = u64::try_from(layer.size).unwrap_or(0).saturating_mul(INFLATION_MAX) + blob.size_bytes;
            let search = tokio::task::spawn_blocking(move || search(archive, inflated_max, &publisher, &blob));
            if search.await.map_err(|e| Failed::other(&e))?? {
                return Ok(());
            }
        }
        let layers = manifest.layers.len();
        Err(Failed::Wrong(format!("has {layers} layers, none with {digest}, and no such file in {searched} archives")))
    }

    async fn arrive(
        &self,
        fetcher: &Fetcher,
        publisher: &Publisher,
        blob: &Blob,
        layer: &OciDescriptor,
    ) -> Result<Arrived, Failed> {
        let mut incoming = publisher.receive(blob).map_err(Failed::from)?;
        let offset = incoming.offset();
        let stream = if offset == blob.size_bytes {
            futures_util::stream::empty().boxed()
        } else if offset > 0 {
            let answer = self.client.pull_blob_stream_partial(&self.reference, layer, offset, None).await;
            match answer.map_err(|e| Failed::other(&e))? {
                BlobResponse::Partial(answer) => answer.stream,
                BlobResponse::Full(answer) => {
                    incoming.restart().map_err(Failed::from)?;
                    answer.stream
                }
            }
        } else {
            self.client.pull_blob_stream(&self.reference, layer).await.map_err(|e| Failed::other(&e))?.stream
        };
        let bytes = stream.map_err(|e| Failed::other(&e)).boxed();
        let opened = Opened { offset: incoming.offset(), total_bytes: None, validator: None, bytes };
        fetcher.pour("oci", opened, incoming).await
    }

    /// Downloads an archive aside.
    async fn download(&self, fetcher: &Fetcher, layer: &OciDescriptor) -> Result<File, Failed> {
        let bytes_max = fetcher.settings.bytes_max;
        if u64::try_from(layer.size).map_or(true, |size| size > bytes_max) {
            return Err(Failed::Other(format!("has a layer of more than {bytes_max} bytes")));
        }
        let answer = self.client.pull_blob_stream(&self.reference, layer).await.map_err(|e| Failed::other(&e))?;
        let mut pieces = fetcher.paced(answer.stream.map_err(|e| Failed::other(&e)).boxed());
        let mut file = tempfile::tempfile().map_err(|e| Failed::other(&e))?;
        let mut came = 0;
        while let Some(piece) = pieces.try_next().await? {
            came += piece.len() as u64;
            if came > bytes_max {
                return Err(Failed::Other(format!("has a layer of more than {bytes_max} bytes")));
            }
            fetcher.count(|board| board.downloaded_bytes("oci", piece.len() as u64));
            file.write_all(&piece).map_err(|e| Failed::other(&e))?;
        }
        file.seek(SeekFrom::Start(0)).map_err(|e| Failed::other(&e))?;
        Ok(file)
    }
}

/// Puts the file of an archive that is `blob` into the store, and says whether there is one.
fn search(mut archive: File, inflated_max: u64, publisher: &Publisher, blob: &Blob) -> Result<bool, Failed> {
    let mut magic = [0; 2];
    let is_gzip = archive.read(&mut magic).map_err(|e| Failed::other(&e))? == 2 && magic == [0x1f, 0x8b];
    archive.seek(SeekFrom::Start(0)).map_err(|e| Failed::other(&e))?;
    let reader = BufReader::new(archive);
    let reader: Box<dyn Read> = if is_gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let mut archive = tar::Archive::new(reader.take(inflated_max));
    let broken = |e: io::Error| Failed::Other(format!("has an archive that cannot be read to its end: {e}"));
    for entry in archive.entries().map_err(broken)?.take(ENTRIES_MAX) {
        let entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() || entry.size() != blob.size_bytes {
            continue;
        }
        match publisher.add(blob, entry) {
            Ok(()) => return Ok(true),
            Err(AddError::Mismatch { .. } | AddError::TooLong { .. }) => {}
            Err(AddError::Source(error)) => return Err(broken(error)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// What lets us into `host`, by a file in the format of Docker's config.json.
fn auth(path: &Path, host: &str) -> Result<RegistryAuth, Failed> {
    let fail = |problem: &str| Failed::Other(format!("{}: {problem}", path.display()));
    let file = File::open(path).map_err(|e| fail(&e.to_string()))?;
    let mut text = Vec::new();
    file.take(CONFIG_BYTES_MAX).read_to_end(&mut text).map_err(|e| fail(&e.to_string()))?;
    // Never with the parser's words, which may repeat what is secret.
    let config: Config = serde_json::from_slice(&text).map_err(|_| fail("is not Docker's config.json"))?;
    let entry = config.auths.into_iter().find(|(name, _)| {
        let name = name.trim_start_matches("https://");
        name == host || name.strip_prefix(host).is_some_and(|rest| rest.starts_with('/'))
    });
    let Some((_, Auth { auth, username, password })) = entry else { return Ok(RegistryAuth::Anonymous) };
    if let (Some(username), Some(password)) = (username, password) {
        return Ok(RegistryAuth::Basic(username, password));
    }
    let decoded =
        auth.and_then(|auth| BASE64_STANDARD.decode(auth.trim()).ok()).and_then(|b| String::from_utf8(b).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = pair.ok_or_else(|| fail("has an entry for this registry without a password"))?;
    Ok(RegistryAuth::Basic(username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: impl FnOnce(&mut tar::Builder<File>)) -> File {
        let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
        entries(&mut builder);
        let mut file = builder.into_inner().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    fn file(builder: &mut tar::Builder<File>, name: &[u8], content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn store() -> (tempfile::TempDir, Publisher) {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::open(folder.path()).unwrap();
        (folder, publisher)
    }

    #[test]
    fn the_file_with_the_right_bytes_is_found_whatever_it_is_called() {
        let (folder, publisher) = store();
        let blob = Blob::of(b"the model");
        let archive = archive(|builder| {
            file(builder, b"models/other.onnx", b"eledom eht");
            file(builder, b"models/decoy.onnx", b"not model");
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(tar::EntryType::Symlink);
            link.set_size(0);
            builder.append_link(&mut link, "models/model.onnx", "/etc/passwd").unwrap();
            file(builder, b"../../outside.onnx", b"the model");
        });
        assert!(search(archive, 1 << 20, &publisher, &blob).unwrap());
        assert_eq!(publisher.reader().blob(&blob).unwrap(), b"the model");
        assert!(!folder.path().join("../../outside.onnx").exists());
    }

    #[test]
    fn an_archive_that_swells_is_cut_off() {
        let (_folder, publisher) = store();
        let mut packed = flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), flate2::Compression::best());
        let mut header = tar::Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_size(64 << 20);
        header.set_cksum();
        packed.write_all(header.as_bytes()).unwrap();
        io::copy(&mut io::repeat(0).take(64 << 20), &mut packed).unwrap();
        let mut packed = packed.finish().unwrap();
        packed.seek(SeekFrom::Start(0)).unwrap();
        let size = packed.metadata().unwrap().len();
        assert!(size < 1 << 20);
        let failed = search(packed, size * INFLATION_MAX, &publisher, &Blob::of(b"the model")).unwrap_err();
        assert!(matches!(failed, Failed::Other(problem) if problem.contains("cannot be read to its end")));
    }

    #[test]
    fn a_password_is_for_its_own_registry() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = BASE64_STANDARD.encode("ada:se:cret");
        let text = format!(
            r#"{{"auths": {{"registry.example": {{"auth": "{secret}"}}, "https://other.example/v1/": {{"username": "bob", "password": "x"}}}}}}"#
        );
        std::fs::write(file.path(), text).unwrap();
        let basic = |user: &str, password: &str| RegistryAuth::Basic(user.to_owned(), password.to_owned());
        assert_eq!(auth(file.path(), "registry.example").unwrap(), basic("ada", "se:cret"));
        assert_eq!(auth(file.path(), "other.example").unwrap(), basic("bob", "x"));
        assert_eq!(auth(file.path(), "registry.example.evil").unwrap(), RegistryAuth::Anonymous);
        std::fs::write(file.path(), r#"{"auths": {"registry.example": "secret"}}"#).unwrap();
        let Failed::Other(problem) = auth(file.path(), "registry.example").unwrap_err() else { panic!() };
        assert!(problem.ends_with("is not Docker's config.json"), "{problem}");
    }
}
