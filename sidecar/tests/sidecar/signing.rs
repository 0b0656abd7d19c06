//! A key that signs a version's folder as `model_signing sign key` does, for tests that must not need Python. That the real
//! program does the same is shown where signatures are verified, and by the tests that `.ci/peers` runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;
use serde_json::json;

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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
