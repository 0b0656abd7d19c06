//! An OCI registry: Debian's docker-registry, open and with passwords.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use mainstay_models::Blob;
use mainstay_sidecar::agent::Pass;
use serde_json::{Value, json};

use crate::bench::{refusal, retry};
use crate::harness::{Peer, bench, cut_off_at, metric, model, repository};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry, and a client that pushes into it as a model's author would.
struct Registry {
    peer: Peer,
    /// What lets the author in.
    password: Option<&'static str>,
}

impl Registry {
    /// One that lets in everybody, or `author` with the password.
    fn start(password: Option<&'static str>) -> Self {
        let peer = Peer::start(|port, folder| {
            let auth = password.map_or(String::new(), |password| {
                let file = folder.join("htpasswd");
                fs::write(&file, format!("author:{}\n", hashed(password))).unwrap();
                format!("auth: {{htpasswd: {{realm: models, path: {}}}}}\n", file.display())
            });
            let storage = folder.join("storage");
            let configuration = format!(
                "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}",
                storage.display()
            );
            fs::write(folder.join("config.yml"), configuration).unwrap();
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(folder.join("config.yml"));
            command
        });
        Self { peer, password }
    }

    fn put(&self, url: &str, media_type: &str, body: &[u8]) {
        let mut request = ureq::put(url).header("Content-Type", media_type);
        if let Some(password) = self.password {
            request = request.header("Authorization", format!("Basic {}", basic("author", password)));
        }
        assert_eq!(request.send(body).unwrap().status(), 201);
    }

    /// Pushes bytes, and says what a manifest calls them.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let mut request = ureq::post(format!("{}/v2/models/iris/blobs/uploads/", self.peer.url()));
        if let Some(password) = self.password {
            request = request.header("Authorization", format!("Basic {}", basic("author", password)));
        }
        let begun = request.send_empty().unwrap();
        let location = begun.headers()["location"].to_str().unwrap();
        let digest = format!("sha256:{}", Blob::of(bytes).sha256);
        self.put(&format!("{location}&digest={digest}"), "application/octet-stream", bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Pushes a manifest under a tag or its digest, and says what an index calls it.
    fn manifest(&self, tag: Option<&str>, manifest: &Value) -> Value {
        let text = manifest.to_string();
        let digest = format!("sha256:{}", Blob::of(text.as_bytes()).sha256);
        let media_type = manifest["mediaType"].as_str().unwrap();
        let name = tag.unwrap_or(&digest);
        self.put(&format!("{}/v2/models/iris/manifests/{name}", self.peer.url()), media_type, text.as_bytes());
        json!({ "mediaType": media_type, "digest": digest, "size": text.len() })
    }

    /// Pushes a model as ModelPack lays it out: each file a layer as it is.
    fn model_pack(&self, tag: &str, artifact: &[u8]) -> Value {
        let readme = self.blob("application/vnd.cncf.model.doc.v1.raw", b"# iris\n");
        let mut weight = self.blob("application/vnd.cncf.model.weight.v1.raw", artifact);
        weight["annotations"] = json!({ "org.cncf.model.filepath": "model.onnx" });
        let config = json!({ "descriptor": { "name": "iris" }, "modelfs": { "type": "layers", "diffIds": [] } });
        let config = self.blob("application/vnd.cncf.model.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "config": config,
            "layers": [readme, weight],
        });
        self.manifest(Some(tag), &manifest)
    }

    /// Pushes an image as KServe mounts it: the model lies at /models in one of its layers.
    fn model_car(&self, tag: Option<&str>, artifact: &[u8]) -> Value {
        let system = packed(&[("bin/sh", b"a shell"), ("models/README.md", b"# iris\n")]);
        let models = packed(&[("models/labels.txt", b"setosa\n"), ("models/model.onnx", artifact)]);
        let layers = [system, models].map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &layer));
        let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [] } });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.manifest(tag, &manifest)
    }

    fn uri(&self, reference: &str) -> String {
        format!("oci://{}/models/iris{reference}", self.peer.address)
    }

    fn folder(&self) -> String {
        format!("oci://{}/models/", self.peer.address)
    }

    /// The file in which the registry keeps some bytes.
    fn kept(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.peer.folder.path().join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

/// A password as the registry wants to have it: by bcrypt, which Perl's crypt knows and openssl does not.
fn hashed(password: &str) -> String {
    let output =
        Command::new("perl").args(["-e", r#"print crypt($ARGV[0], q($2b$05$) . "." x 22)"#, password]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.starts_with("$2b$"), "this machine's crypt knows bcrypt: {text}");
    text
}

fn basic(name: &str, password: &str) -> String {
    BASE64_STANDARD.encode(format!("{name}:{password}"))
}

/// A compressed archive of files.
fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

const BYTES: &str = "mainstay_sync_downloaded_bytes_total{scheme=\"oci\"}";

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_model_pack_is_fetched_by_tag_and_by_digest_and_gone_on_with() {
    let registry = Registry::start(None);
    let artifact = model();
    let manifest = registry.model_pack("1.0.0", &artifact);
    let pinned = format!("@{}", manifest["digest"].as_str().unwrap());
    for (reference, there) in [(":1.0.0", 0), (&pinned, 0), (&pinned, 1_000_000)] {
        let repo = repository(&registry.uri(reference), &artifact);
        let bench = bench(&repo, &registry.folder(), &[]);
        if there > 0 {
            cut_off_at(&bench, &artifact, there);
        }
        let mut sidecar = bench.open();
        assert_eq!(sidecar.reconcile(), Pass::Published, "{reference}");
        assert!(bench.serves().1 == artifact);
        let metrics = sidecar.board().metrics();
        assert_eq!(metric(&metrics, BYTES), (artifact.len() - there) as u64);
        assert_eq!(metric(&metrics, "mainstay_sync_downloads_resumed_total"), u64::from(there > 0));
    }
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_model_car_is_unpacked_whether_it_is_one_image_or_one_for_each_platform() {
    let registry = Registry::start(None);
    let artifact = model();
    let mut image = registry.model_car(Some("1.0.0"), &artifact);
    image["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut other = registry.model_car(None, &artifact);
    other["platform"] = json!({ "os": "linux", "architecture": "arm64" });
    // What builders add to say how the image was made.
    let mut proof = registry.model_pack("proof", b"a proof");
    proof["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    registry
        .manifest(Some("all"), &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [image, other, proof] }));
    for tag in [":1.0.0", ":all"] {
        let repo = repository(&registry.uri(tag), &artifact);
        let bench = bench(&repo, &registry.folder(), &[]);
        assert_eq!(bench.open().reconcile(), Pass::Published, "{tag}");
        assert!(bench.serves().1 == artifact);
    }
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_registry_that_has_other_bytes_than_were_asked_for_is_not_believed() {
    let registry = Registry::start(None);
    let artifact = model();
    let manifest = registry.model_pack("1.0.0", &artifact);
    let pinned = format!("@{}", manifest["digest"].as_str().unwrap());
    let open = |reference: &str| {
        let repo = repository(&registry.uri(reference), &artifact);
        let bench = bench(&repo, &registry.folder(), &[]);
        (bench.open(), bench, repo)
    };

    // Somebody moves the tag to another model: only what pins the digest gets the right one.
    let mut other = artifact.clone();
    other[7] ^= 1;
    registry.model_pack("1.0.0", &other);
    registry.model_car(Some("car"), &other);
    for tag in [":1.0.0", ":car"] {
        let (mut sidecar, _bench, _repo) = open(tag);
        let text = refusal(sidecar.reconcile());
        assert!(text.contains("artifact.sha256: ") && text.contains("layers, none with sha256:"), "{text}");
    }
    assert_eq!(open(&pinned).0.reconcile(), Pass::Published);
    // A digest that nobody pushed is nowhere, which may change.
    let text = retry(open(&format!("@sha256:{}", "0".repeat(64))).0.reconcile());
    assert!(text.contains("not found") || text.contains("unknown"), "{text}");

    // The registry's disk fails, first at the model, then at the manifest: that is no fault of the card.
    let kept = registry.kept(&format!("sha256:{}", Blob::of(&artifact).sha256));
    fs::write(&kept, &other).unwrap();
    let (mut sidecar, bench, _repo) = open(&pinned);
    let text = retry(sidecar.reconcile());
    assert!(text.contains("Invalid digest"), "{text}");
    fs::write(&kept, &artifact).unwrap();
    let kept = registry.kept(manifest["digest"].as_str().unwrap());
    let mut text = fs::read_to_string(&kept).unwrap();
    text.push('\n');
    fs::write(&kept, text).unwrap();
    let text = retry(sidecar.reconcile());
    assert!(text.to_lowercase().contains("digest"), "{text}");
    assert!(bench.reader().current().unwrap().is_none());
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_registry_is_entered_with_the_password_of_the_moment_and_tells_nobody() {
    let registry = Registry::start(Some("open sesame"));
    let artifact = model();
    registry.model_pack("1.0.0", &artifact);
    registry.model_car(Some("car"), &artifact);
    let file = registry.peer.folder.path().join("config.json");
    for tag in [":1.0.0", ":car"] {
        let repo = repository(&registry.uri(tag), &artifact);
        let mut bench = bench(&repo, &registry.folder(), &[]);
        let text = retry(bench.open().reconcile());
        assert!(text.contains("Not authorized"), "{text}");
        bench.settings.fetch.registry_config = Some(file.clone());
        let mut sidecar = bench.open();
        let config = |password: &str| {
            let host = registry.peer.address.to_string();
            fs::write(&file, json!({ "auths": { host: { "auth": basic("author", password) } } }).to_string()).unwrap();
        };
        config("shut sesame");
        let text = retry(sidecar.reconcile());
        assert!(text.contains("Not authorized"), "{text}");
        assert!(!text.contains("sesame") && !text.contains(&basic("author", "shut sesame")), "{text}");
        config("open sesame");
        assert_eq!(sidecar.reconcile(), Pass::Published);
        assert!(bench.serves().1 == artifact);
        fs::remove_file(&file).unwrap();
    }
}
