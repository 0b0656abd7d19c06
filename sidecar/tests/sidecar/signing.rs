//! Keys that sign as the real programs do, for tests that must not need them: a version's folder as `model_signing sign key`,
//! and a commit as `git commit -S` with `ssh-keygen`. That those do the same is shown where signatures are verified, and for
//! models by the tests that `.ci/peers` runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_models::CommitId;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;
use serde_json::json;
use ssh_key::private::{Ed25519Keypair, PrivateKey};
use ssh_key::{HashAlg, LineEnding};

pub struct ModelKey(PKey<Private>);

impl ModelKey {
    pub fn new() -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self(PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        String::from_utf8(self.0.public_key_to_pem().unwrap()).unwrap()
    }

    /// Its entry in the file of allowed signers.
    pub fn entry(&self, name: &str, limits: &str) -> String {
        let pem = self.pem().replace('\n', "\n      ");
        format!("  - name: {name}\n    modelKey: |\n      {pem}\n{limits}")
    }

    /// Signs whatever is in a folder.
    pub fn sign(&self, folder: &Path) {
        let _ = fs::remove_file(folder.join("model.sig"));
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let digest = |path: &Path| sha256(&fs::read(path).unwrap());
        let files: BTreeMap<_, _> =
            entries.map(|path| (path.file_name().unwrap().to_owned().into_string().unwrap(), digest(&path))).collect();
        let whole = hex(&sha256(&files.values().flatten().copied().collect::<Vec<_>>()));
        let resource = |(name, digest): (&String, &[u8; 32])| {
            let digest = hex(digest);
            json!({ "name": name, "algorithm": "sha256", "digest": digest })
        };
        let payload = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "name": "model", "digest": { "sha256": whole } }],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "serialization": { "method": "files", "hash_type": "sha256", "allow_symlinks": false },
                "resources": files.iter().map(resource).collect::<Vec<_>>(),
            },
        })
        .to_string();
        let kind = "application/vnd.in-toto+json";
        let message = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
        let mut signer = Signer::new(MessageDigest::sha256(), &self.0).unwrap();
        let signature = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": { "publicKey": { "hint": hex(&sha256(self.pem().as_bytes())) }, "tlogEntries": [] },
            "dsseEnvelope": {
                "payload": STANDARD.encode(payload),
                "payloadType": kind,
                "signatures": [{ "sig": STANDARD.encode(signature), "keyid": "" }],
            },
        });
        fs::write(folder.join("model.sig"), bundle.to_string()).unwrap();
    }
}

/// Somebody who signs commits.
pub struct Person {
    name: &'static str,
    pub key: PrivateKey,
}

impl Person {
    pub fn new(name: &'static str) -> Self {
        let seed = [name.as_bytes()[0]; 32];
        Self { name, key: PrivateKey::from(Ed25519Keypair::from_seed(&seed)) }
    }

    /// Signs the newest commit of a clone, as `git commit --amend -S` would.
    pub fn sign(&self, clone: &Path) -> CommitId {
        let git = |arguments: &[&str]| {
            let output = Command::new("git").current_dir(clone).args(arguments).output().unwrap();
            assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let object = git(&["cat-file", "commit", "HEAD"]);
        let pem = self.key.sign("git", HashAlg::Sha512, object.as_bytes()).unwrap().to_pem(LineEnding::LF).unwrap();
        let (head, message) = object.split_once("\n\n").unwrap();
        let object = format!("{head}\ngpgsig {}\n\n{message}", pem.trim_end().replace('\n', "\n "));
        let file = clone.join(".git/signed");
        fs::write(&file, object).unwrap();
        let id = git(&["hash-object", "-t", "commit", "-w", file.to_str().unwrap()]);
        git(&["reset", "--soft", "--quiet", id.trim()]);
        id.trim().parse().unwrap()
    }

    /// Their entry in the file of allowed signers.
    pub fn entry(&self, limits: &str) -> String {
        let key = self.key.public_key().to_openssh().unwrap();
        format!("  - name: {}\n    ssh: {key}\n{limits}", self.name)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
