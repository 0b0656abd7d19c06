//! Git LFS: the repository's own store of large files, by its batch interface (github.com/git-lfs/git-lfs, docs/api).
//!
//! The token goes to the repository's own host and to nobody else; what that host says about where the bytes lie is
//! followed with the headers that it gave for that place alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use mainstay_models::{Blob, Digest};
use reqwest::StatusCode;
use reqwest::header::RANGE;
use serde::Deserialize;

use super::{Failed, Opened, client, following_client};
use crate::git::{Address, Transport};

/// The largest pointer, as the specification has it.
const POINTER_BYTES_MAX: usize = 1024;
/// The longest answer to a batch of one.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How many bytes are read from a file at once.
const PIECE_BYTES: usize = 256 << 10;
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// Where a repository keeps its large files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Beside a repository on this machine.
    Folder(PathBuf),
    /// The address of a batch interface, without `/objects/batch`.
    Server(String),
}

impl Store {
    /// That of a repository, where git-lfs looks for it too.
    pub fn of(repository: &Address) -> Self {
        let address = repository.as_str();
        match repository.transport() {
            Transport::File => {
                let folder = Path::new(address.strip_prefix("file://").unwrap_or(address));
                let inner = folder.join(".git");
                Self::Folder(if inner.is_dir() { inner } else { folder.to_owned() })
            }
            Transport::Http => Self::Server(format!("{}/info/lfs", with_suffix(address))),
            // git-lfs would ask over ssh first for another address; most hosts answer at this one.
            Transport::Ssh => {
                let rest = address.strip_prefix("ssh://").map(str::to_owned);
                let rest = rest.unwrap_or_else(|| address.replacen(':', "/", 1));
                let rest = rest.split_once('@').map_or(rest.as_str(), |(_, rest)| rest);
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.split(':').next().unwrap_or(host);
                Self::Server(format!("https://{host}/{}/info/lfs", with_suffix(path)))
            }
        }
    }
}

fn with_suffix(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.ends_with(".git") { address.to_owned() } else { format!("{address}.git") }
}

/// What a pointer stands for; none where `text` is not a pointer.
pub fn pointer(text: &[u8]) -> Option<Blob> {
    if text.len() > POINTER_BYTES_MAX {
        return None;
    }
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    if lines.next()? != "version https://git-lfs.github.com/spec/v1" {
        return None;
    }
    let fields: BTreeMap<_, _> = lines.filter_map(|line| line.split_once(' ')).collect();
    let sha256: Digest = fields.get("oid")?.strip_prefix("sha256:")?.parse().ok()?;
    Some(Blob { sha256, size_bytes: fields.get("size")?.parse().ok()? })
}

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: i64,
}

#[derive(Deserialize)]
struct Actions {
    download: Action,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, String>,
}

/// Asks for the bytes of `blob` from `offset` on.
pub(super) async fn open(store: &Store, blob: &Blob, offset: u64, token: Option<&Path>) -> Result<Opened, Failed> {
    match store {
        Store::Folder(folder) => from_folder(folder, blob, offset),
        Store::Server(server) => from_server(server, blob, offset, token).await,
    }
}

fn from_folder(folder: &Path, blob: &Blob, offset: u64) -> Result<Opened, Failed> {
    let oid = blob.sha256.to_string();
    let path = folder.join("lfs/objects").join(&oid[..2]).join(&oid[2..4]).join(&oid);
    let mut file = File::open(path).map_err(|e| Failed::other(&e))?;
    file.seek(SeekFrom::Start(offset)).map_err(|e| Failed::other(&e))?;
    let pieces = std::iter::from_fn(move || {
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                Some(Ok(Bytes::from(piece)))
            }
            Err(error) => Some(Err(Failed::other(&error))),
        }
    });
    Ok(Opened { offset, total_bytes: None, validator: None, bytes: stream::iter(pieces).boxed() })
}

async fn from_server(server: &str, blob: &Blob, offset: u64, token: Option<&Path>) -> Result<Opened, Failed> {
    let download = batch(server, blob, token).await?;
    let is_secret = download.href.starts_with("https://");
    if !is_secret && server.starts_with("https://") {
        return Err(Failed::Other("leads from https to plain text".to_owned()));
    }
    // What lets us in at that place must not travel on with a redirect.
    let client = if download.header.is_empty() { following_client()? } else { client()? };
    let mut request = client.get(&download.href);
    for (name, value) in &download.header {
        request = request.header(name, value);
    }
    if offset > 0 {
        request = request.header(RANGE, format!("bytes={offset}-"));
    }
    // Never with its address: it may carry what lets its reader in.
    let answer = request.send().await.map_err(|e| Failed::other(&e.without_url()))?;
    match (answer.status(), offset) {
        (StatusCode::OK, 0) | (StatusCode::PARTIAL_CONTENT, 1..) => {}
        (StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE, 1..) => return Err(Failed::NotFromTheMiddle),
        (status, _) => return Err(Failed::Other(format!("the file's server answers {status}"))),
    }
    let bytes = answer.bytes_stream().map(|piece| piece.map_err(|e| Failed::other(&e.without_url())));
    Ok(Opened { offset, total_bytes: None, validator: None, bytes: bytes.boxed() })
}

/// Asks the batch interface where one object lies.
async fn batch(server: &str, blob: &Blob, token: Option<&Path>) -> Result<Action, Failed> {
    let oid = blob.sha256.to_string();
    let question = serde_json::json!({
        "operation": "download",
        "transfers": ["basic"],
        "hash_algo": "sha256",
        "objects": [{ "oid": oid, "size": blob.size_bytes }],
    });
    let mut request = client()?
        .post(format!("{server}/objects/batch"))
        .header("Accept", MEDIA_TYPE)
        .header("Content-Type", MEDIA_TYPE)
        .body(question.to_string());
    if let Some(path) = token {
        let token = std::fs::read_to_string(path).map_err(|e| Failed::Other(format!("cannot read the token: {e}")))?;
        let token = token.trim_end();
        let (name, token) = token.split_once(':').unwrap_or(("x-access-token", token));
        request = request.basic_auth(name, Some(token));
    }
    let answer = request.send().await.map_err(|e| Failed::other(&e))?;
    if answer.status() != StatusCode::OK {
        return Err(Failed::Other(format!("{server} answers {}", answer.status())));
    }
    let mut text = Vec::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.map_err(|e| Failed::other(&e))?);
        if text.len() > ANSWER_BYTES_MAX {
            return Err(Failed::Other(format!("{server} answers with more than {ANSWER_BYTES_MAX} bytes")));
        }
    }
    let batch: Batch = serde_json::from_slice(&text).map_err(|e| Failed::other(&e))?;
    let object = batch.objects.into_iter().find(|object| object.oid == oid);
    match object {
        Some(Object { actions: Some(Actions { download }), .. }) => Ok(download),
        Some(Object { error: Some(ObjectError { code }), .. }) => {
            Err(Failed::Other(format!("does not have it (error {code})")))
        }
        _ => Err(Failed::Other("does not say where it is".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_names_the_bytes_it_stands_for() {
        let blob = Blob::of(b"a large model");
        let text = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
            blob.sha256, blob.size_bytes
        );
        assert_eq!(pointer(text.as_bytes()), Some(blob));
        assert_eq!(pointer(b"a large model"), None);
        assert_eq!(pointer(text.replace("sha256:", "md5:").as_bytes()), None);
        assert_eq!(pointer(text.replace("size ", "size -").as_bytes()), None);
        assert_eq!(pointer(format!("{text}{}", "x".repeat(POINTER_BYTES_MAX)).as_bytes()), None);
    }

    #[test]
    fn the_store_of_a_repository_is_where_git_lfs_looks_for_it() {
        let store = |address: &str| Store::of(&address.parse().unwrap());
        let server = |text: &str| Store::Server(text.to_owned());
        assert_eq!(store("https://git.example/a/config"), server("https://git.example/a/config.git/info/lfs"));
        assert_eq!(store("https://git.example/a/config.git/"), server("https://git.example/a/config.git/info/lfs"));
        assert_eq!(store("git@git.example:a/config.git"), server("https://git.example/a/config.git/info/lfs"));
        assert_eq!(store("ssh://git@git.example:2222/a/config"), server("https://git.example/a/config.git/info/lfs"));
    }
}
