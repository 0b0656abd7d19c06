//! Who may sign: the file of allowed signers, and whether a commit's signature is one of theirs.
//!
//! An entry permits, nothing forbids: a key may stand in several entries, and what one of them permits is permitted.
//! The file is small and read anew for each commit, since keys rotate. Knows neither git nor what a commit asks for.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use mainstay_models::yaml::{self, Fault as YamlFault};
use mainstay_models::{EnvironmentName, ModelName, YamlError};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::openpgp::{self, Certificate};
use super::touched::Touched;
use super::{model, ssh};
use crate::git::Signed;

/// The most entries.
const SIGNERS_MAX: usize = 1000;
/// The longest signature that is looked at, in bytes.
const SIGNATURE_BYTES_MAX: usize = 64 << 10;
/// The longest name of a signer, in characters.
const NAME_CHARS_MAX: usize = 100;

/// The allowed signers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers(Vec<Signer>);

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Who it is, for people.
    pub name: String,
    /// As the key's own tools show it.
    pub fingerprint: String,
    key: Key,
    environments: Option<BTreeSet<EnvironmentName>>,
    models: Option<BTreeSet<ModelName>>,
    valid_from: Option<Timestamp>,
    valid_until: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Ssh(ssh::Key),
    OpenPgp(Certificate),
    /// For models alone: no commit is signed with it.
    Model(model::Key),
}

/// Why a signature is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is not a signature that can be read.
    Unreadable(String),
    /// It is by the key, and not good.
    Wrong(String),
}

/// Why a commit, or a version of a model, is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no signature.
    Unsigned,
    /// The signature cannot be read, or does not fit.
    BadSignature,
    /// The key is not one of the allowed signers'.
    UnknownKey,
    /// The signer's time had not come, or was over.
    OutsideValidity,
    /// The signer may not sign for this environment or model.
    NotAllowed,
    /// A model's signature is for other files.
    OtherFiles,
}

impl Reason {
    /// Those for a commit.
    pub const OF_COMMITS: [Self; 5] =
        [Self::Unsigned, Self::BadSignature, Self::UnknownKey, Self::OutsideValidity, Self::NotAllowed];
    /// Those for a model.
    pub const OF_MODELS: [Self; 5] =
        [Self::Unsigned, Self::BadSignature, Self::UnknownKey, Self::NotAllowed, Self::OtherFiles];

    /// Its name in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad_signature",
            Self::UnknownKey => "unknown_key",
            Self::OutsideValidity => "outside_validity",
            Self::NotAllowed => "not_allowed",
            Self::OtherFiles => "other_files",
        }
    }
}

/// Why a commit is not believed, in words that go on from `commit 0123456789 `.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// The kind.
    pub reason: Reason,
    /// The words.
    pub text: String,
}

impl Distrust {
    fn new(reason: Reason, text: String) -> Self {
        Self { reason, text }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSigners {
    api_version: Spanned<String>,
    signers: Spanned<Vec<Spanned<RawSigner>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSigner {
    name: Spanned<String>,
    ssh: Option<Spanned<String>>,
    openpgp: Option<Spanned<String>>,
    model_key: Option<Spanned<String>>,
    environments: Option<Spanned<BTreeSet<EnvironmentName>>>,
    models: Option<Spanned<BTreeSet<ModelName>>>,
    valid_from: Option<Spanned<String>>,
    valid_until: Option<Spanned<String>>,
}

impl Signers {
    /// Reads and validates the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::File::open(path).and_then(|file| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::Read::take(file, yaml::FILE_BYTES_MAX as u64 + 1), &mut bytes)?;
            Ok(bytes)
        });
        let bytes = bytes.map_err(|e| format!("cannot read the allowed signers {}: {e}", path.display()))?;
        Self::parse(&path.display().to_string(), &bytes).map_err(|e| format!("cannot use the allowed signers: {e}"))
    }

    /// Parses and validates the file's content; `file` is its path, for errors.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, YamlError> {
        yaml::parse(file, text, Self::validate)
    }

    fn validate(raw: RawSigners) -> Result<Self, YamlFault> {
        yaml::check_api_version(&raw.api_version)?;
        if raw.signers.value.is_empty() {
            return Err(YamlFault::at(&raw.signers, "signers", "names nobody, so that every commit would be refused"));
        }
        if raw.signers.value.len() > SIGNERS_MAX {
            return Err(YamlFault::at(&raw.signers, "signers", format!("more than {SIGNERS_MAX} signers")));
        }
        let signers = raw.signers.value.into_iter().enumerate();
        signers
            .map(|(index, raw)| Signer::validate(raw, &format!("signers[{index}]")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The entries of the key that made the signature, where that is good at the time that the commit says.
    ///
    /// Whatever a hostile signature does to the libraries that read it, it is a bad signature and no more.
    pub fn verify(&self, signed: &Signed, now_unix_s: i64) -> Result<Vec<&Signer>, Distrust> {
        std::panic::catch_unwind(|| self.verify_text(signed, now_unix_s)).unwrap_or_else(|_| {
            Err(Distrust::new(Reason::BadSignature, "has a signature that cannot be read".to_owned()))
        })
    }

    fn verify_text(&self, signed: &Signed, now_unix_s: i64) -> Result<Vec<&Signer>, Distrust> {
        let Some(text) = &signed.signature else {
            return Err(Distrust::new(Reason::Unsigned, "is not signed".to_owned()));
        };
        let bad = |problem: &str| {
            Distrust::new(Reason::BadSignature, format!("has a signature that cannot be read: {problem}"))
        };
        if text.len() > SIGNATURE_BYTES_MAX {
            return Err(bad("it is too long for one"));
        }
        let unreadable = |fault: Fault| match fault {
            Fault::Unreadable(problem) | Fault::Wrong(problem) => bad(&excerpt(&problem)),
        };
        let payload = &signed.payload;
        let mut times = vec![signed.time_unix_s];
        let (fingerprint, verified): (_, Vec<_>) = match text.lines().next().unwrap_or_default() {
            "-----BEGIN SSH SIGNATURE-----" => {
                let signature = ssh::Signature::parse(text).map_err(unreadable)?;
                let verify = |signer: &Signer| match &signer.key {
                    Key::Ssh(key) => signature.verify(key, payload),
                    Key::OpenPgp(_) | Key::Model(_) => Ok(false),
                };
                (signature.fingerprint(), self.0.iter().map(|signer| (signer, verify(signer))).collect())
            }
            "-----BEGIN PGP SIGNATURE-----" => {
                let signature = openpgp::Signature::parse(text).map_err(unreadable)?;
                times.extend(signature.time_unix_s());
                let verify = |signer: &Signer| match &signer.key {
                    Key::OpenPgp(certificate) => signature.verify(certificate, payload, now_unix_s),
                    Key::Ssh(_) | Key::Model(_) => Ok(false),
                };
                (signature.fingerprint(), self.0.iter().map(|signer| (signer, verify(signer))).collect())
            }
            "-----BEGIN SIGNED MESSAGE-----" => {
                return Err(bad("it is an X.509 signature; sign with an SSH or an OpenPGP key"));
            }
            _ => return Err(bad("it is neither an SSH nor an OpenPGP signature")),
        };
        let mut good = Vec::new();
        for (signer, verdict) in verified {
            match verdict {
                Ok(true) => good.push(signer),
                Ok(false) => {}
                Err(Fault::Wrong(problem) | Fault::Unreadable(problem)) => {
                    let text = format!("has a signature by {signer} that is not good: {problem}");
                    return Err(Distrust::new(Reason::BadSignature, text));
                }
            }
        }
        let Some(signer) = good.first().copied() else {
            let text = format!("is signed with the key {fingerprint}, which is not one of the allowed signers'");
            return Err(Distrust::new(Reason::UnknownKey, text));
        };
        good.retain(|signer| times.iter().all(|&time| signer.valid_at(time)));
        if good.is_empty() {
            let show =
                |time: i64| Timestamp::from_second(time).map_or("no time at all".to_owned(), |time| time.to_string());
            let at: BTreeSet<_> = times.iter().map(|&time| show(time)).collect();
            let at = at.into_iter().collect::<Vec<_>>().join(" and ");
            let text = format!("is signed by {signer}, whose entry is not valid at {at}, when it says it was made");
            return Err(Distrust::new(Reason::OutsideValidity, text));
        }
        Ok(good)
    }

    /// The entries with a key for models.
    pub(super) fn of_models(&self) -> impl Iterator<Item = (&Signer, &model::Key)> {
        self.0.iter().filter_map(|signer| match &signer.key {
            Key::Model(key) => Some((signer, key)),
            Key::Ssh(_) | Key::OpenPgp(_) => None,
        })
    }

    /// Whether one and the same signer, by its entries, may sign what is touched.
    pub fn permit(entries: &[&Signer], environment: &EnvironmentName, touched: &Touched) -> Result<(), Distrust> {
        let signer = entries.first().map_or(String::new(), ToString::to_string);
        let refuse =
            |what: String| Err(Distrust::new(Reason::NotAllowed, format!("is signed by {signer}, who may not {what}")));
        let here: Vec<_> = entries.iter().filter(|entry| entry.allows_environment(environment)).collect();
        if here.is_empty() && !touched.is_empty() {
            return refuse(format!("change what the environment `{environment}` serves"));
        }
        for model in &touched.models {
            if !here.iter().any(|entry| entry.models.as_ref().is_none_or(|models| models.contains(model))) {
                return refuse(format!("change the model `{model}` in the environment `{environment}`"));
            }
        }
        if touched.rest && !here.iter().any(|entry| entry.models.is_none()) {
            return refuse(format!("change more than single models in the environment `{environment}`"));
        }
        Ok(())
    }
}

impl Signer {
    fn validate(raw: Spanned<RawSigner>, field: &str) -> Result<Self, YamlFault> {
        let field = |name: &str| format!("{field}.{name}");
        let place = Spanned { value: (), referenced: raw.referenced, defined: raw.defined };
        let raw = raw.value;
        let name = raw.name.value.trim().to_owned();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.contains(char::is_control) {
            let problem = format!("is not a name of 1 to {NAME_CHARS_MAX} characters on one line");
            return Err(YamlFault::at(&raw.name, field("name"), problem));
        }
        let (key, fingerprint) = match (&raw.ssh, &raw.openpgp, &raw.model_key) {
            (Some(ssh), None, None) => {
                let key = ssh::Key::parse(&ssh.value).map_err(|problem| YamlFault::at(ssh, field("ssh"), problem))?;
                let fingerprint = key.fingerprint();
                (Key::Ssh(key), fingerprint)
            }
            (None, Some(openpgp), None) => {
                let certificate = Certificate::parse(&openpgp.value);
                let certificate = certificate.map_err(|problem| YamlFault::at(openpgp, field("openpgp"), problem))?;
                let fingerprint = certificate.fingerprint();
                (Key::OpenPgp(certificate), fingerprint)
            }
            (None, None, Some(pem)) => {
                let key = model::Key::parse(&pem.value);
                let key = key.map_err(|problem| YamlFault::at(pem, field("modelKey"), problem))?;
                for (time, name) in [(&raw.valid_from, "validFrom"), (&raw.valid_until, "validUntil")] {
                    if let Some(time) = time {
                        let problem =
                            "says nothing of a model's signature, which has no time: take the entry away instead";
                        return Err(YamlFault::at(time, field(name), problem));
                    }
                }
                let fingerprint = key.fingerprint();
                (Key::Model(key), fingerprint)
            }
            _ => {
                let problem =
                    "has one key: give either `ssh`, `openpgp` or `modelKey`, and a further entry for a further key";
                return Err(YamlFault::at(&place, field("ssh"), problem));
            }
        };
        if let Some(empty) = raw.environments.as_ref().filter(|list| list.value.is_empty()) {
            return Err(YamlFault::at(empty, field("environments"), "allows none; leave it out to allow all"));
        }
        if let Some(empty) = raw.models.as_ref().filter(|list| list.value.is_empty()) {
            return Err(YamlFault::at(empty, field("models"), "allows none; leave it out to allow all"));
        }
        let instant = |text: &Option<Spanned<String>>, name: &str| {
            let parse = |text: &Spanned<String>| {
                let problem = "is not an instant such as 2026-01-31T00:00:00Z";
                text.value.parse().map_err(|_| YamlFault::at(text, field(name), problem))
            };
            text.as_ref().map(parse).transpose()
        };
        let valid_from: Option<Timestamp> = instant(&raw.valid_from, "validFrom")?;
        let valid_until: Option<Timestamp> = instant(&raw.valid_until, "validUntil")?;
        if let (Some(from), Some(until), Some(at)) = (valid_from, valid_until, &raw.valid_until)
            && until <= from
        {
            return Err(YamlFault::at(at, field("validUntil"), "is not later than validFrom"));
        }
        let environments = raw.environments.map(|list| list.value);
        let models = raw.models.map(|list| list.value);
        Ok(Self { name, fingerprint, key, environments, models, valid_from, valid_until })
    }

    /// Whether it may change anything in `environment`.
    pub fn allows_all_of(&self, environment: &EnvironmentName) -> bool {
        self.allows_environment(environment) && self.models.is_none()
    }

    /// Whether it may sign `model` where it is for `environment`.
    pub(super) fn allows(&self, environment: &EnvironmentName, model: &ModelName) -> bool {
        self.allows_environment(environment) && self.models.as_ref().is_none_or(|models| models.contains(model))
    }

    fn allows_environment(&self, environment: &EnvironmentName) -> bool {
        self.environments.as_ref().is_none_or(|environments| environments.contains(environment))
    }

    fn valid_at(&self, time_unix_s: i64) -> bool {
        self.valid_from.is_none_or(|from| from.as_second() <= time_unix_s)
            && self.valid_until.is_none_or(|until| time_unix_s < until.as_second())
    }
}

impl std::fmt::Display for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.fingerprint)
    }
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../tests/fixtures/trust/signers.yaml");
    const NOW: i64 = 1_790_000_000;

    macro_rules! commit {
        ($name:literal) => {
            ($name, include_str!(concat!("../../tests/fixtures/trust/", $name, ".commit")).as_bytes())
        };
    }

    fn signers() -> Signers {
        Signers::parse("signers.yaml", FILE.as_bytes()).unwrap()
    }

    fn verify(signers: &Signers, object: &[u8]) -> Result<String, Distrust> {
        let signed = Signed::parse(object).unwrap();
        signers.verify(&signed, NOW).map(|entries| entries[0].name.clone())
    }

    const GOOD: [(&str, &[u8]); 8] = [
        commit!("ssh-ed25519-256"),
        commit!("ssh-ecdsa-256"),
        commit!("ssh-ecdsa-384"),
        commit!("ssh-ecdsa-521"),
        commit!("ssh-rsa-3072"),
        commit!("pgp-ed25519"),
        commit!("pgp-rsa"),
        commit!("pgp-subkey"),
    ];

    #[test]
    fn what_git_signed_with_ssh_keygen_and_gnupg_is_by_its_signer() {
        for (name, object) in GOOD {
            assert_eq!(verify(&signers(), object).as_deref(), Ok(name));
        }
        assert_eq!(verify(&signers(), commit!("pgp-before-expiry").1).as_deref(), Ok("pgp-expired"));
    }

    #[test]
    fn a_signature_on_anything_else_is_bad() {
        for (name, object) in GOOD {
            let text = String::from_utf8(object.to_vec()).unwrap();
            for (from, to) in [("With a body", "With a body "), ("tree 4", "tree 5"), ("> 1772", "> 1773")] {
                let changed = text.replacen(from, to, 1);
                assert_ne!(changed, text, "{name}");
                let distrust = verify(&signers(), changed.as_bytes()).unwrap_err();
                assert_eq!(distrust.reason, Reason::BadSignature, "{name}: {}", distrust.text);
                assert!(distrust.text.contains(&format!("has a signature by {name} (")), "{}", distrust.text);
            }
            // A signature cut anywhere, or with a byte changed, is bad and no more.
            let signed = Signed::parse(object).unwrap();
            let signature = signed.signature.clone().unwrap();
            let mut accepted = 0;
            for at in (0..signature.len()).step_by(7) {
                let mut bytes = signature.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                for changed in [String::from_utf8(bytes).unwrap(), signature[..at].to_owned()] {
                    let changed = Signed { signature: Some(changed), ..signed.clone() };
                    // Not all of a signature is signed: not an armor's checksum, not a length that is read leniently.
                    if let Ok(entries) = signers().verify(&changed, NOW) {
                        assert_eq!(entries[0].name, name, "{at}");
                        accepted += 1;
                    }
                }
            }
            assert!(accepted * 10 < signature.len() / 7, "{name}: {accepted} changes did not matter");
        }
    }

    #[test]
    fn what_is_not_trusted_is_said_with_its_reason() {
        for ((name, object), reason, expected) in [
            (commit!("unsigned"), Reason::Unsigned, "is not signed"),
            (commit!("ssh-stranger"), Reason::UnknownKey, "is signed with the key SHA256:"),
            (commit!("pgp-stranger"), Reason::UnknownKey, "which is not one of the allowed signers'"),
            (commit!("ssh-other-namespace"), Reason::BadSignature, "it was made for `file`, not for git"),
            (commit!("pgp-revoked"), Reason::BadSignature, "its certificate is revoked"),
            (commit!("pgp-revoked-subkey"), Reason::BadSignature, "its subkey is revoked"),
            (commit!("pgp-expired"), Reason::BadSignature, "its key had expired"),
            (commit!("pgp-sha1"), Reason::BadSignature, "its hash function is not trusted"),
        ] {
            let distrust = verify(&signers(), object).unwrap_err();
            assert_eq!(distrust.reason, reason, "{name}: {}", distrust.text);
            assert!(distrust.text.contains(expected), "{name}: {}", distrust.text);
        }
        let odd = |signature: &str| {
            let signed = Signed::parse(commit!("unsigned").1).unwrap();
            signers().verify(&Signed { signature: Some(signature.to_owned()), ..signed }, NOW).unwrap_err().text
        };
        assert!(odd("-----BEGIN SIGNED MESSAGE-----\n").contains("it is an X.509 signature"));
        assert!(odd("nonsense").contains("neither an SSH nor an OpenPGP signature"));
        assert!(odd(&"x".repeat(SIGNATURE_BYTES_MAX + 1)).contains("too long"));
    }

    /// Like a key file of a security key, which only such hardware could sign with: made here by hand.
    #[test]
    fn a_security_key_must_have_been_touched() {
        use ssh_key::private::Ed25519Keypair;
        use ssh_key::public::{KeyData, SkEd25519};
        use ssh_key::{Algorithm, HashAlg, LineEnding, PublicKey, Signature, SshSig};

        let pair = Ed25519Keypair::from_seed(&[7; 32]);
        let key = KeyData::SkEd25519(SkEd25519::new(pair.public, "ssh:".to_owned()));
        let line = PublicKey::from(key.clone()).to_openssh().unwrap();
        let file = format!("apiVersion: mainstay/v1\nsigners:\n  - name: Sk\n    ssh: {line}\n");
        let signers = Signers::parse("signers.yaml", file.as_bytes()).unwrap();
        let unsigned = Signed::parse(commit!("unsigned").1).unwrap();
        let message = SshSig::signed_data("git", HashAlg::Sha512, &unsigned.payload).unwrap();
        let sign = |flags: u8| {
            let sha256 = |bytes: &[u8]| HashAlg::Sha256.digest(bytes);
            let trailer = [flags, 0, 0, 0, 9];
            let data = [sha256(b"ssh:").as_slice(), &trailer, &sha256(&message)].concat();
            let raw = ssh_key::private::PrivateKey::from(pair.clone());
            let inner: Signature = rsa::signature::Signer::try_sign(&raw, &data).unwrap();
            let inner = Signature::new(Algorithm::SkEd25519, [inner.as_bytes(), &trailer].concat()).unwrap();
            let pem = SshSig::new(key.clone(), "git", HashAlg::Sha512, inner).unwrap().to_pem(LineEnding::LF).unwrap();
            signers.verify(&Signed { signature: Some(pem), ..unsigned.clone() }, NOW).map(|entries| entries.len())
        };
        assert_eq!(sign(1), Ok(1));
        assert!(sign(0).unwrap_err().text.contains("was not touched"));
    }

    #[test]
    fn the_file_is_refused_with_line_and_field() {
        let ssh_line = FILE.lines().nth(3).unwrap().trim();
        let good = format!("apiVersion: mainstay/v1\nsigners:\n  - name: Ada\n    {ssh_line}\n    models: [iris]\n");
        Signers::parse("s.yaml", good.as_bytes()).unwrap();
        let weak = include_str!("../../tests/fixtures/trust/ssh-rsa-1024.pub").trim();
        for (from, to, expected) in [
            ("mainstay/v1", "mainstay/v2", "s.yaml:1: apiVersion: "),
            ("name: Ada", "nmae: Ada", "s.yaml:3: signers[0].nmae: unknown field"),
            ("name: Ada", "name: ''", "s.yaml:3: signers[0].name: is not a name"),
            (ssh_line, "ssh: x", "s.yaml:4: signers[0].ssh: is not a public key"),
            (ssh_line, &format!("ssh: {weak}"), "s.yaml:4: signers[0].ssh: is an RSA key of 1024 bits"),
            (ssh_line, "openpgp: x", "s.yaml:4: signers[0].openpgp: is not a certificate"),
            (ssh_line, "environments: [prod]", "signers[0].ssh: has one key: give either"),
            ("[iris]", "[]", "s.yaml:5: signers[0].models: allows none"),
            ("[iris]", "[Iris]", "s.yaml:5: signers[0].models"),
            ("models: [iris]", "validFrom: soon", "s.yaml:5: signers[0].validFrom: is not an instant"),
            (
                "models: [iris]",
                "validFrom: 2026-01-01T00:00:00Z\n    validUntil: 2026-01-01T00:00:00Z",
                "s.yaml:6: signers[0].validUntil: is not later than validFrom",
            ),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            let error = Signers::parse("s.yaml", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\n  should contain {expected}");
            assert!(!error.contains('\n'), "{error}");
        }
        let none = Signers::parse("s.yaml", b"apiVersion: mainstay/v1\nsigners: []\n").unwrap_err().to_string();
        assert!(none.contains("names nobody"), "{none}");
    }

    #[test]
    fn an_entry_is_good_in_its_time_and_for_what_it_names() {
        let ssh_line = FILE.lines().nth(3).unwrap().trim();
        let entry = |limits: &str| format!("  - name: Ada\n    {ssh_line}\n{limits}");
        let with = |entries: &[&str]| {
            let entries: String = entries.iter().map(|limits| entry(limits)).collect();
            Signers::parse("s.yaml", format!("apiVersion: mainstay/v1\nsigners:\n{entries}").as_bytes()).unwrap()
        };
        let object = commit!("ssh-ed25519-256").1;
        // The commit says 2026-03-01T12:00:00Z.
        let until = "    validUntil: 2026-03-01T12:00:00Z\n";
        let from = "    validFrom: 2026-03-01T12:00:00Z\n";
        let distrust = verify(&with(&[until]), object).unwrap_err();
        assert_eq!(distrust.reason, Reason::OutsideValidity);
        assert!(distrust.text.contains("is not valid at 2026-03-01T12:00:00Z"), "{}", distrust.text);
        assert!(verify(&with(&[from]), object).is_ok());
        assert!(verify(&with(&[until, from]), object).is_ok(), "an entry permits, nothing forbids");

        let prod = "prod".parse().unwrap();
        let touched =
            |models: &[&str], rest| Touched { models: models.iter().map(|m| m.parse().unwrap()).collect(), rest };
        let permit = |limits: &[&str], touched: Touched| {
            let signers = with(limits);
            let signed = Signed::parse(object).unwrap();
            let entries = signers.verify(&signed, NOW).unwrap();
            Signers::permit(&entries, &prod, &touched).map_err(|distrust| distrust.text)
        };
        let (dev, iris) = ("    environments: [dev]\n", "    models: [iris]\n    environments: [prod]\n");
        assert_eq!(permit(&[""], touched(&["iris", "b"], true)), Ok(()));
        assert_eq!(permit(&[dev], touched(&[], false)), Ok(()));
        assert!(permit(&[dev], touched(&["iris"], false)).unwrap_err().contains("change what the environment `prod`"));
        assert_eq!(permit(&[iris], touched(&["iris"], false)), Ok(()));
        assert!(permit(&[iris], touched(&["iris", "b"], false)).unwrap_err().contains("change the model `b`"));
        assert!(permit(&[iris], touched(&["iris"], true)).unwrap_err().contains("more than single models"));
        assert_eq!(permit(&[dev, iris], touched(&["iris"], false)), Ok(()));
        assert!(permit(&[dev, iris], touched(&["b"], false)).is_err(), "of another entry's environment is no help");
    }
}
