//! Whether the files of a version are signed by somebody who may sign models, as OpenSSF model signing has it.
//!
//! `model_signing sign key` writes a Sigstore bundle: a DSSE envelope around an in-toto statement, which lists each file
//! with its digest. It lies beside the card, as [`FILE`], and must name exactly the card and the model file: the card binds
//! the name, the version and what the model's numbers mean. Everything needed is in the commit and the allowed signers;
//! nobody is asked. What a signature says about its key is a hint: only the allowed signers' keys are used.
//!
//! Does not know whether the bytes are what the digests say: the store finds that out, as it does for every blob.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_models::{Digest, EnvironmentName, ModelName, ModelSpec, Version};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::sign::Verifier;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::signers::{Reason, Signer, Signers};
use crate::board::Board;
use crate::desired::{Unread, VersionFiles};
use crate::trouble::{Refusal, Trouble};

/// The signature's name in a version's folder, which is what `model_signing` calls it by itself.
pub const FILE: &str = "model.sig";
/// The longest signature that is looked at, in bytes. One for two files is under 2 KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
/// The name that the tool gives to a model of one file.
const SINGLE_FILE: &str = ".";

/// Whose word was taken for a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SignedModel {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// Who signed it.
    pub signer: String,
    /// The key.
    pub fingerprint: String,
}

/// A public key that models are signed with, of a kind that the tool makes signatures with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pem: String,
}

/// Why a signature is worth nothing here, in words that go on from `models/…/model.sig: `.
#[derive(Debug)]
struct Unproven {
    reason: Reason,
    problem: String,
}

impl Unproven {
    fn bad(problem: impl Into<String>) -> Self {
        Self { reason: Reason::BadSignature, problem: problem.into() }
    }
}

/// Refuses versions that nobody signed who may, where that is asked; says who signed each. `read` gives the content of a
/// file of the commit, of at most so many bytes.
pub fn check(
    settings: &Settings,
    environment: &EnvironmentName,
    versions: &[VersionFiles],
    board: Option<&Board>,
    mut read: impl FnMut(&str, u64) -> Result<Vec<u8>, Unread>,
) -> Result<Vec<SignedModel>, Trouble> {
    let Some(path) = settings.allowed_signers.as_ref().filter(|_| settings.verify_models) else {
        return Ok(Vec::new());
    };
    let signers = Signers::read(path).map_err(Trouble::Retry)?;
    let mut signed = Vec::new();
    for version in versions {
        let card = ModelSpec::path(&version.name, &version.version);
        let folder = card.rsplit_once('/').map_or("", |(folder, _)| folder);
        let file = format!("{folder}/{FILE}");
        let verdict = match read(&file, FILE_BYTES_MAX) {
            Ok(bytes) => verify(&signers, environment, version, &bytes),
            Err(Unread::Missing) => {
                let command = format!("model_signing sign key --private_key KEY --signature {file} {folder}");
                let problem = format!("is not in the commit, and models must be signed: `{command}`");
                Err(Unproven { reason: Reason::Unsigned, problem })
            }
            Err(Unread::Unfit(problem)) => Err(Unproven::bad(problem)),
            Err(Unread::Trouble(problem)) => return Err(Trouble::Retry(problem)),
        };
        match verdict {
            Ok(signer) => {
                board.inspect(|board| board.model_signature_verified());
                let (signer, fingerprint) = (signer.name.clone(), signer.fingerprint.clone());
                let (model, version) = (version.name.clone(), version.version.clone());
                signed.push(SignedModel { model, version, signer, fingerprint });
            }
            Err(Unproven { reason, problem }) => {
                board.inspect(|board| board.model_signature_failed(reason));
                return Err(Refusal::whole(&file, problem).into());
            }
        }
    }
    Ok(signed)
}

/// Who signed a version's files, if it is somebody who may.
fn verify<'s>(
    signers: &'s Signers,
    environment: &EnvironmentName,
    version: &VersionFiles,
    bundle: &[u8],
) -> Result<&'s Signer, Unproven> {
    let envelope = Envelope::parse(bundle)?;
    let entries = envelope.signed_by(signers)?;
    let may = entries.iter().find(|entry| entry.allows(environment, &version.name));
    let Some(signer) = may else {
        let by = entries.first().map_or(String::new(), ToString::to_string);
        let problem = format!("is signed by {by}, who may not sign the model `{}` for `{environment}`", version.name);
        return Err(Unproven { reason: Reason::NotAllowed, problem });
    };
    // Only now is what is in it worth reading.
    check_files(&statement(&envelope.payload)?, version)?;
    Ok(signer)
}

/// A bundle's envelope, not yet verified.
struct Envelope {
    payload: Vec<u8>,
    signature: Vec<u8>,
    /// The digest of the key's PEM, as far as it is said.
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBundle {
    media_type: String,
    verification_material: RawMaterial,
    dsse_envelope: RawEnvelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMaterial {
    public_key: Option<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<RawSignature>,
}

#[derive(Deserialize)]
struct RawSignature {
    sig: String,
}

impl Envelope {
    fn parse(bytes: &[u8]) -> Result<Self, Unproven> {
        let unreadable =
            |problem: &dyn std::fmt::Display| Unproven::bad(format!("is not a signature of a model: {problem}"));
        let raw: RawBundle = serde_json::from_slice(bytes).map_err(|e| unreadable(&e))?;
        if raw.media_type != MEDIA_TYPE {
            return Err(unreadable(&format!("its mediaType is not {MEDIA_TYPE}")));
        }
        let Some(key) = raw.verification_material.public_key else {
            let problem = "is signed with a certificate or an identity; sign with a key (`model_signing sign key`)";
            return Err(Unproven::bad(problem));
        };
        if raw.dsse_envelope.payload_type != PAYLOAD_TYPE {
            return Err(unreadable(&format!("its payloadType is not {PAYLOAD_TYPE}")));
        }
        let [signature] = raw.dsse_envelope.signatures.as_slice() else {
            return Err(unreadable(&"it must hold exactly one signature"));
        };
        Ok(Self {
            payload: STANDARD.decode(&raw.dsse_envelope.payload).map_err(|e| unreadable(&e))?,
            signature: STANDARD.decode(&signature.sig).map_err(|e| unreadable(&e))?,
            hint: key.hint.filter(|hint| !hint.is_empty()),
        })
    }

    /// The entries of the key that made the signature; never empty.
    fn signed_by<'s>(&self, signers: &'s Signers) -> Result<Vec<&'s Signer>, Unproven> {
        let hinted = |key: &Key| self.hint.as_ref().is_none_or(|hint| *hint == key.fingerprint());
        let candidates: Vec<_> =
            signers.of_models().filter(|(_, key)| hinted(key)).map(|(signer, key)| (signer, key.clone())).collect();
        // The DSSE pre-authentication encoding: neither the type nor the payload can be mistaken for the other.
        let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), self.payload.len());
        let message = [head.as_bytes(), &self.payload].concat();
        let mut verdicts = BTreeMap::new();
        let mut good = Vec::new();
        for (signer, key) in &candidates {
            let verdict = verdicts.entry(&key.pem).or_insert_with(|| key.verifies(&self.signature, &message));
            if *verdict {
                good.push(*signer);
            }
        }
        if !good.is_empty() {
            return Ok(good);
        }
        match (&self.hint, candidates.first()) {
            (Some(_), Some((signer, _))) => {
                let problem = format!("says that it is by {signer}, whose key did not make it for what is in it");
                Err(Unproven::bad(problem))
            }
            (hint, _) => {
                let hint =
                    hint.as_deref().filter(|hint| hint.parse::<Digest>().is_ok()).unwrap_or("that it does not name");
                let problem =
                    format!("is signed with the key {hint}, which is not one of the allowed signers' `modelKey`");
                Err(Unproven { reason: Reason::UnknownKey, problem })
            }
        }
    }
}

impl Key {
    /// Parses a public key in PEM.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let shape = "is not a public key in PEM: write what `openssl pkey -in KEY -pubout` prints";
        // OpenSSL takes more than one kind of text for a key, among them a private one.
        let body = text.strip_prefix("-----BEGIN PUBLIC KEY-----\n").ok_or(shape)?;
        if body.strip_suffix("\n-----END PUBLIC KEY-----").is_none_or(|body| body.contains("-----")) {
            return Err(shape.to_owned());
        }
        let key = PKey::public_key_from_pem(text.as_bytes()).map_err(|_| shape)?;
        if digest_for(&key).is_none() {
            return Err("is not a key on the curve P-256, P-384 or P-521, with which models are signed".to_owned());
        }
        // Written anew, so that one key has one text, and that the one whose digest the tool writes as its hint.
        let pem = key.public_key_to_pem().ok().and_then(|pem| String::from_utf8(pem).ok()).ok_or(shape)?;
        Ok(Self { pem })
    }

    /// As the tool writes it into signatures: the SHA-256 of the PEM.
    pub(super) fn fingerprint(&self) -> String {
        Digest::of(self.pem.as_bytes()).to_string()
    }

    fn verifies(&self, signature: &[u8], message: &[u8]) -> bool {
        let verify = || {
            let key = PKey::public_key_from_pem(self.pem.as_bytes()).ok()?;
            let mut verifier = Verifier::new(digest_for(&key)?, &key).ok()?;
            verifier.verify_oneshot(signature, message).ok()
        };
        verify().unwrap_or(false)
    }
}

/// The hash function that goes with a key; none for a key of another kind.
fn digest_for(key: &PKey<Public>) -> Option<MessageDigest> {
    match key.ec_key().ok()?.group().curve_name()? {
        Nid::X9_62_PRIME256V1 => Some(MessageDigest::sha256()),
        Nid::SECP384R1 => Some(MessageDigest::sha384()),
        Nid::SECP521R1 => Some(MessageDigest::sha512()),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<RawSubject>,
    predicate_type: String,
    /// Looked into only where its type is the right one.
    predicate: serde_json::Value,
}

#[derive(Deserialize)]
struct RawSubject {
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawPredicate {
    serialization: RawSerialization,
    resources: Vec<RawResource>,
}

#[derive(Deserialize)]
struct RawSerialization {
    method: String,
}

#[derive(Deserialize)]
struct RawResource {
    name: String,
    algorithm: String,
    digest: String,
}

/// The files that a verified payload names, with their digests.
fn statement(payload: &[u8]) -> Result<BTreeMap<String, Digest>, Unproven> {
    // What somebody signed with an allowed key, and is no list of files: another program's attestation, say.
    let other = |problem: String| Unproven::bad(format!("does not say what the model's files are: {problem}"));
    let raw: RawStatement = serde_json::from_slice(payload).map_err(|e| other(e.to_string()))?;
    if raw.kind != STATEMENT_TYPE {
        return Err(other(format!("its _type is not {STATEMENT_TYPE}")));
    }
    if raw.predicate_type != PREDICATE_TYPE {
        return Err(other(format!("its predicateType is not {PREDICATE_TYPE}")));
    }
    let predicate: RawPredicate = serde_json::from_value(raw.predicate).map_err(|e| other(e.to_string()))?;
    if predicate.serialization.method != "files" {
        return Err(other("it lists parts of files; sign whole files, as `model_signing` does by itself".to_owned()));
    }
    let mut files = BTreeMap::new();
    let mut all = Vec::new();
    for RawResource { name, algorithm, digest } in predicate.resources {
        let digest = Some(digest).filter(|_| algorithm == "sha256").and_then(|digest| digest.parse::<Digest>().ok());
        let digest = digest.ok_or_else(|| other("a digest in it is not a sha256; sign with that".to_owned()))?;
        all.extend_from_slice(digest.as_bytes());
        if files.insert(name, digest).is_some() {
            return Err(other("it names a file twice".to_owned()));
        }
    }
    let whole = Digest::of(&all).to_string();
    match raw.subject.as_slice() {
        [subject] if subject.digest.get("sha256") == Some(&whole) => Ok(files),
        _ => Err(other("its subject is not the digest of the files that it names".to_owned())),
    }
}

/// Refuses a list of files that is not exactly the version's.
fn check_files(signed: &BTreeMap<String, Digest>, version: &VersionFiles) -> Result<(), Unproven> {
    let refuse = |problem: String| Err(Unproven { reason: Reason::OtherFiles, problem });
    if signed.len() == 1 && signed.contains_key(SINGLE_FILE) {
        return refuse(format!(
            "signs one file, and not which model it is: sign the folder, with model.yaml and {} in it",
            version.artifact_file
        ));
    }
    let files = [("model.yaml", version.spec.sha256), (version.artifact_file.as_str(), version.artifact.sha256)];
    for (name, sha256) in files {
        match signed.get(name) {
            None => return refuse(format!("does not sign {name}")),
            Some(other) if *other != sha256 => {
                return refuse(format!("signs a {name} with sha256 {other}, and the commit has one with {sha256}"));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<_> = files.iter().map(|(name, _)| *name).collect();
    match signed.keys().find(|name| !known.contains(name.as_str())) {
        None => Ok(()),
        Some(other) => refuse(format!(
            "also signs {}, which is none of the version's files: sign again with `--ignore-paths` for it",
            excerpt(other)
        )),
    }
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mainstay_models::Blob;

    use super::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/model/", $name)).as_slice()
        };
    }

    /// What `make` beside the fixtures signed.
    fn version() -> VersionFiles {
        VersionFiles {
            name: "iris".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            spec: Blob::of(b"the card"),
            artifact_file: "model.onnx".to_owned(),
            artifact: Blob::of(b"the forest"),
        }
    }

    fn entry(name: &str, pem: &[u8], limits: &str) -> String {
        let pem = String::from_utf8(pem.to_vec()).unwrap().replace('\n', "\n      ");
        format!("  - name: {name}\n    modelKey: |\n      {pem}\n{limits}")
    }

    fn signers(entries: &[String]) -> String {
        format!("apiVersion: mainstay/v1\nsigners:\n{}", entries.concat())
    }

    fn allowed() -> String {
        let keys = [("p256", fixture!("p256.pub")), ("p384", fixture!("p384.pub")), ("p521", fixture!("p521.pub"))];
        signers(&keys.map(|(name, pem)| entry(name, pem, "")))
    }

    /// What becomes of a signature: its signer, or the reason and the words.
    fn verify(signers: &str, version: &VersionFiles, bundle: &[u8]) -> Result<String, (Reason, String)> {
        let signers = Signers::parse("signers.yaml", signers.as_bytes()).unwrap();
        let verdict = super::verify(&signers, &"prod".parse().unwrap(), version, bundle);
        verdict.map(|signer| signer.name.clone()).map_err(|unproven| (unproven.reason, unproven.problem))
    }

    fn refused(signers: &str, bundle: &[u8], reason: Reason, expected: &str) {
        let (got, problem) = verify(signers, &version(), bundle).unwrap_err();
        assert_eq!(got, reason, "{problem}");
        assert!(problem.contains(expected) && !problem.contains('\n'), "{problem}\n  should contain {expected}");
    }

    #[test]
    fn what_the_reference_implementation_signed_is_by_its_signer() {
        for (name, bundle) in
            [("p256", fixture!("p256.sig")), ("p384", fixture!("p384.sig")), ("p521", fixture!("p521.sig"))]
        {
            assert_eq!(verify(&allowed(), &version(), bundle).as_deref(), Ok(name));
            // Signatures from before there were hints.
            let unhinted = replaced(bundle, "hint", "note");
            assert_eq!(verify(&allowed(), &version(), &unhinted).as_deref(), Ok(name));
        }
    }

    #[test]
    fn a_signature_is_for_exactly_the_versions_files() {
        for (bundle, expected) in [
            (fixture!("other-forest.sig"), "signs a model.onnx with sha256 "),
            (fixture!("more-files.sig"), "also signs NOTES.md, which is none of the version's files"),
            (fixture!("without-card.sig"), "does not sign model.yaml"),
            (fixture!("single-file.sig"), "sign the folder, with model.yaml and model.onnx in it"),
        ] {
            refused(&allowed(), bundle, Reason::OtherFiles, expected);
        }
        let good = fixture!("p256.sig");
        let change = |change: fn(&mut VersionFiles)| {
            let mut version = version();
            change(&mut version);
            verify(&allowed(), &version, good).unwrap_err().1
        };
        assert!(change(|version| version.spec = Blob::of(b"a kinder card")).contains("signs a model.yaml with sha256"));
        assert!(change(|version| version.artifact = Blob::of(b"a fire")).contains("and the commit has one with"));
        assert!(change(|version| version.artifact_file = "forest.onnx".to_owned()).contains("not sign forest.onnx"));
    }

    #[test]
    fn only_an_allowed_key_signs_and_only_what_it_is_allowed_for() {
        refused(&allowed(), fixture!("stranger.sig"), Reason::UnknownKey, "which is not one of the allowed signers'");
        let only = |limits: &str| signers(&[entry("Ada", fixture!("p256.pub"), limits)]);
        for limits in ["    models: [pred-main]\n", "    environments: [dev]\n"] {
            let expected = "who may not sign the model `iris` for `prod`";
            refused(&only(limits), fixture!("p256.sig"), Reason::NotAllowed, expected);
        }
        for limits in ["    models: [iris]\n", "    environments: [prod]\n    models: [iris, pred-main]\n"] {
            assert_eq!(verify(&only(limits), &version(), fixture!("p256.sig")).as_deref(), Ok("Ada"));
        }
        // An entry permits, nothing forbids.
        let both = ["    environments: [dev]\n", ""].map(|limits| entry("Ada", fixture!("p256.pub"), limits));
        assert_eq!(verify(&signers(&both), &version(), fixture!("p256.sig")).as_deref(), Ok("Ada"));
        // Keys of commits are none of models.
        let commits = include_str!("../../tests/fixtures/trust/signers.yaml");
        refused(commits, fixture!("p256.sig"), Reason::UnknownKey, "which is not one of the allowed signers'");
    }

    #[test]
    fn whatever_is_changed_in_a_signature_makes_it_worthless() {
        let good = fixture!("p256.sig");
        // Of the payload, all of which is signed.
        let payload = field(good, "payload");
        for at in (0..payload.len()).step_by(11) {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            let bundle = replaced(good, &STANDARD.encode(&payload), &STANDARD.encode(changed));
            refused(&allowed(), &bundle, Reason::BadSignature, "says that it is by p256 (");
        }
        // Another's signature, and another's hint.
        let stranger = STANDARD.encode(field(fixture!("stranger.sig"), "sig"));
        let bundle = replaced(good, &STANDARD.encode(field(good, "sig")), &stranger);
        refused(&allowed(), &bundle, Reason::BadSignature, "whose key did not make it for what is in it");
        let key = |pem| Key::parse(std::str::from_utf8(pem).unwrap()).unwrap().fingerprint();
        let (own, other) = (key(fixture!("p256.pub")), key(fixture!("stranger.pub")));
        refused(&allowed(), &replaced(good, &own, &other), Reason::UnknownKey, &other);
        // Cut anywhere, or with anything in place of a byte, it is refused, or not changed in what it says.
        for at in (0..good.len()).step_by(7) {
            assert!(verify(&allowed(), &version(), &good[..at]).is_err(), "{at}");
            let mut changed = good.to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            if let Ok(signer) = verify(&allowed(), &version(), &changed) {
                assert_eq!(signer, "p256", "{at}");
            }
        }
    }

    #[test]
    fn what_is_no_signature_of_files_by_a_key_is_refused_with_what_to_do() {
        for (bundle, expected) in [
            (fixture!("certificate.sig"), "sign with a key (`model_signing sign key`)"),
            (fixture!("blake2.sig"), "a digest in it is not a sha256"),
            (fixture!("shards.sig"), "it lists parts of files"),
            (b"{}".as_slice(), "is not a signature of a model: missing field `mediaType`"),
            (b"", "is not a signature of a model: EOF"),
            (&replaced(fixture!("p256.sig"), "bundle.v0.3", "bundle.v0.9"), "its mediaType is not"),
            (&replaced(fixture!("p256.sig"), "vnd.in-toto", "vnd.other"), "its payloadType is not"),
            (
                &replaced(fixture!("p256.sig"), "\"signatures\":[", "\"signatures\":[{\"sig\":\"\"},"),
                "exactly one signature",
            ),
        ] {
            refused(&allowed(), bundle, Reason::BadSignature, expected);
        }
    }

    #[test]
    fn what_an_allowed_key_signed_for_another_purpose_is_no_list_of_files() {
        let group = openssl::ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
        let allowed = signers(&[entry("Ada", &key.public_key_to_pem().unwrap(), "")]);
        let sign = |payload: &str| {
            let message = format!("DSSEv1 {} {PAYLOAD_TYPE} {} {payload}", PAYLOAD_TYPE.len(), payload.len());
            let mut signer = openssl::sign::Signer::new(MessageDigest::sha256(), &key).unwrap();
            let sig = STANDARD.encode(signer.sign_oneshot_to_vec(message.as_bytes()).unwrap());
            let payload = STANDARD.encode(payload);
            format!(
                r#"{{"mediaType":"{MEDIA_TYPE}","verificationMaterial":{{"publicKey":{{}}}},"dsseEnvelope":{{
                "payload":"{payload}","payloadType":"{PAYLOAD_TYPE}","signatures":[{{"sig":"{sig}"}}]}}}}"#
            )
        };
        let good = String::from_utf8(field(fixture!("p256.sig"), "payload")).unwrap();
        assert_eq!(verify(&allowed, &version(), sign(&good).as_bytes()).as_deref(), Ok("Ada"));
        for (from, to, expected) in [
            ("in-toto.io/Statement/v1", "in-toto.io/Statement/v2", "its _type is not"),
            ("model_signing/signature/v1.0", "slsa.dev/provenance/v1", "its predicateType is not"),
            ("\"resources\"", "\"sources\"", "missing field `resources`"),
            ("\"sha256\": \"", "\"sha256\": \"0", "its subject is not the digest"),
            ("\"subject\": [", "\"subject\": [{\"digest\": {}}, ", "its subject is not the digest"),
            (
                "\"resources\": [",
                "\"resources\": [{\"name\": \"model.yaml\", \"algorithm\": \"md5\", \"digest\": \"\"}, ",
                "not a sha256",
            ),
            ("\"name\": \"model.yaml\"", "\"name\": \"model.onnx\"", "it names a file twice"),
        ] {
            let changed = good.replacen(from, to, 1);
            assert_ne!(changed, good, "{from}");
            refused(&allowed, sign(&changed).as_bytes(), Reason::BadSignature, expected);
        }
    }

    #[test]
    fn a_key_that_models_are_not_signed_with_is_refused_where_it_stands() {
        let good = signers(&[entry("Ada", fixture!("p256.pub"), "    models: [iris]\n")]);
        let group = openssl::ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
        let private = key.private_key_to_pem_pkcs8().unwrap();
        let own = String::from_utf8(fixture!("p256.pub").to_vec()).unwrap();
        for (pem, expected) in [
            (fixture!("other-curve.pub"), "is not a key on the curve P-256, P-384 or P-521"),
            (&private, "is not a public key in PEM"),
            (b"x", "is not a public key in PEM"),
            (format!("{own}{own}").as_bytes(), "is not a public key in PEM"),
            (own.replace("MFk", "MFX").as_bytes(), "is not a public key in PEM"),
        ] {
            let text = signers(&[entry("Ada", pem, "")]);
            let error = Signers::parse("s.yaml", text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("s.yaml:5: signers[0].modelKey: ") && error.contains(expected), "{error}");
        }
        for (from, to, expected) in [
            ("models: [iris]", "validUntil: 2026-01-01T00:00:00Z", "signers[0].validUntil: says nothing of a model's"),
            ("models: [iris]", "ssh: ssh-ed25519 x", "signers[0].ssh: has one key: give either"),
        ] {
            let error = Signers::parse("s.yaml", good.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn nothing_is_asked_where_models_need_no_signature() {
        let read = |_: &str, _| -> Result<Vec<u8>, Unread> { panic!("nothing is read") };
        let prod = "prod".parse().unwrap();
        let settings = Settings { allowed_signers: Some(PathBuf::from("/nonexistent")), ..Settings::default() };
        assert_eq!(check(&settings, &prod, &[version()], None, read), Ok(Vec::new()));
    }

    fn replaced(bundle: &[u8], from: &str, to: &str) -> Vec<u8> {
        // The tool writes spaces or none, by its version.
        let text = serde_json::from_slice::<serde_json::Value>(bundle).unwrap().to_string();
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        changed.into_bytes()
    }

    /// The bytes of the payload, or of the signature.
    fn field(bundle: &[u8], name: &str) -> Vec<u8> {
        let bundle: serde_json::Value = serde_json::from_slice(bundle).unwrap();
        let envelope = &bundle["dsseEnvelope"];
        let text = if name == "payload" { &envelope["payload"] } else { &envelope["signatures"][0]["sig"] };
        STANDARD.decode(text.as_str().unwrap()).unwrap()
    }
}
