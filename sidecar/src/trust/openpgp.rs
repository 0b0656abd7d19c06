//! Verifies the signatures that `git commit -S` makes with GnuPG and its like.
//!
//! The library verifies single signatures. What makes a key fit to sign is decided here: it is the certificate's own, or
//! bound to it in both directions; meant for signing; not revoked; not expired when it signed; and not weak.

use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature as Packet, SignatureType};
use pgp::types::{KeyDetails, PublicParams, Tag, VerifyingKey};
use rsa::traits::PublicKeyParts;

use super::signers::Fault;

/// The shortest RSA key that is trusted.
const RSA_BITS_MIN: usize = 2048;

/// A certificate: a primary key, its subkeys, and what it says about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate(Box<SignedPublicKey>);

impl Certificate {
    /// Parses what `gpg --armor --export` writes for one key.
    pub fn parse(armored: &str) -> Result<Self, String> {
        let armored = format!("{}\n", armored.trim());
        let unreadable =
            |e: pgp::errors::Error| format!("is not a certificate as `gpg --armor --export` writes it ({e})");
        let (mut certificates, _) = SignedPublicKey::from_string_many(&armored).map_err(unreadable)?;
        let certificate = certificates.next().ok_or("holds no certificate")?.map_err(unreadable)?;
        if certificates.next().is_some() {
            return Err("holds more than one certificate: give each a signer of its own".to_owned());
        }
        Ok(Self(Box::new(certificate)))
    }

    /// As `gpg --fingerprint` shows it, without spaces.
    pub fn fingerprint(&self) -> String {
        format!("{:X}", self.0.fingerprint())
    }

    /// What its owner said last, at `time`, about the primary key: user ids and direct signatures.
    fn newest_self_signature(&self, time: u32) -> Option<&Packet> {
        let primary = &self.0.primary_key;
        let of_users = self.0.details.users.iter().flat_map(|user| {
            let good = |signature: &&Packet| {
                signature.is_certification() && signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
            };
            user.signatures.iter().filter(good)
        });
        let direct = self.0.details.direct_signatures.iter().filter(|signature| signature.verify_key(primary).is_ok());
        newest(of_users.chain(direct), time)
    }

    /// What the primary key says about itself, if it is good at `time`.
    fn check_primary(&self, time: u32) -> Result<&Packet, String> {
        let primary = &self.0.primary_key;
        if self.0.details.revocation_signatures.iter().any(|signature| signature.verify_key(primary).is_ok()) {
            return Err("its certificate is revoked".to_owned());
        }
        let own = self.newest_self_signature(time).ok_or("its certificate says nothing about itself")?;
        check_age(primary.created_at().as_secs(), own, time)?;
        Ok(own)
    }

    /// Whether a subkey may sign at `time`.
    fn check_subkey(&self, subkey: &SignedPublicSubKey, time: u32) -> Result<(), String> {
        let primary = &self.0.primary_key;
        let bound = |signature: &&Packet| signature.verify_subkey_binding(primary, &subkey.key).is_ok();
        let of_type =
            |kind| subkey.signatures.iter().filter(move |signature| signature.typ() == Some(kind)).filter(bound);
        if of_type(SignatureType::SubkeyRevocation).next().is_some() {
            return Err("its subkey is revoked".to_owned());
        }
        let binding = newest(of_type(SignatureType::SubkeyBinding), time).ok_or("its subkey is not bound to it")?;
        let back = binding.embedded_signature();
        if back.is_none_or(|back| back.verify_primary_key_binding(&subkey.key, primary).is_err()) {
            return Err("its subkey did not agree to be bound to it".to_owned());
        }
        if !binding.key_flags().sign() {
            return Err("its subkey is not meant for signing".to_owned());
        }
        check_age(subkey.key.created_at().as_secs(), binding, time)
    }
}

/// The newest signature that was there at `time`.
fn newest<'a>(signatures: impl Iterator<Item = &'a Packet>, time: u32) -> Option<&'a Packet> {
    let created = |signature: &Packet| signature.created().map(|created| created.as_secs());
    signatures.filter(|signature| created(signature).is_some_and(|at| at <= time)).max_by_key(|one| created(one))
}

fn check_age(created: u32, said: &Packet, time: u32) -> Result<(), String> {
    if time < created {
        return Err("its key was made later".to_owned());
    }
    match said.key_expiration_time().map(|duration| duration.as_secs()) {
        Some(lasts) if lasts > 0 && u64::from(time) >= u64::from(created) + u64::from(lasts) => {
            Err("its key had expired".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_strength(params: &PublicParams) -> Result<(), String> {
    match params {
        PublicParams::RSA(rsa) if rsa.key.n().bits() < RSA_BITS_MIN => {
            Err(format!("its RSA key has {} bits; {RSA_BITS_MIN} are the least that is trusted", rsa.key.n().bits()))
        }
        PublicParams::RSA(_)
        | PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => Ok(()),
        _ => Err("its key is of a kind that is not trusted".to_owned()),
    }
}

/// A signature, not yet verified.
#[derive(Debug)]
pub struct Signature(Packet);

impl Signature {
    /// Parses what stands in a commit.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let text = format!("{}\n", text.trim());
        let unreadable = |e: pgp::errors::Error| Fault::Unreadable(e.to_string());
        let (mut signatures, _) = DetachedSignature::from_string_many(&text).map_err(unreadable)?;
        let none = || Fault::Unreadable("there is none in it".to_owned());
        let signature = signatures.next().ok_or_else(none)?.map_err(unreadable)?.signature;
        if signatures.next().is_some() {
            return Err(Fault::Unreadable("there is more than one in it".to_owned()));
        }
        Ok(Self(signature))
    }

    /// The key that it says it was made with.
    pub fn fingerprint(&self) -> String {
        if let Some(fingerprint) = self.0.issuer_fingerprint().first() {
            return format!("{fingerprint:X}");
        }
        self.0.issuer_key_id().first().map_or("unknown".to_owned(), |id| id.to_string().to_uppercase())
    }

    /// When it says it was made, in seconds since 1970.
    pub fn time_unix_s(&self) -> Option<i64> {
        self.0.created().map(|created| i64::from(created.as_secs()))
    }

    /// Whether a key of `certificate` signed `payload`; false where it says that another key did.
    pub fn verify(&self, certificate: &Certificate, payload: &[u8], now_unix_s: i64) -> Result<bool, Fault> {
        let primary = &certificate.0.primary_key;
        let subkey = certificate.0.public_subkeys.iter().find(|subkey| self.names(&subkey.key));
        if !self.names(primary) && subkey.is_none() {
            return Ok(false);
        }
        let time =
            self.0.created().ok_or_else(|| Fault::Wrong("it does not say when it was made".to_owned()))?.as_secs();
        self.check(time, now_unix_s).map_err(Fault::Wrong)?;
        // A subkey is worth nothing under a primary key that is not.
        let own = certificate.check_primary(time).map_err(Fault::Wrong)?;
        let verified = match subkey {
            Some(subkey) => {
                certificate.check_subkey(subkey, time).map_err(Fault::Wrong)?;
                self.check_made_by(&subkey.key, payload)
            }
            None if own.key_flags().sign() => self.check_made_by(primary, payload),
            None => Err("its key is not meant for signing".to_owned()),
        };
        verified.map(|()| true).map_err(Fault::Wrong)
    }

    /// Whether it says that `key` made it. The longer name decides where there is one.
    fn names(&self, key: &impl KeyDetails) -> bool {
        let fingerprints = self.0.issuer_fingerprint();
        if fingerprints.is_empty() {
            return self.0.issuer_key_id().contains(&&key.legacy_key_id());
        }
        fingerprints.contains(&&key.fingerprint())
    }

    fn check(&self, time: u32, now_unix_s: i64) -> Result<(), String> {
        if !matches!(self.0.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
            return Err("it is not the signature of a document".to_owned());
        }
        let strong = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
        let newer = [HashAlgorithm::Sha3_256, HashAlgorithm::Sha3_512];
        if !self.0.hash_alg().is_some_and(|hash| strong.contains(&hash) || newer.contains(&hash)) {
            return Err("its hash function is not trusted: sign with SHA-256 or better".to_owned());
        }
        match self.0.signature_expiration_time().map(|duration| i64::from(duration.as_secs())) {
            Some(lasts) if lasts > 0 && now_unix_s >= i64::from(time) + lasts => Err("it has expired".to_owned()),
            _ => Ok(()),
        }
    }

    fn check_made_by(&self, key: &impl VerifyingKey, payload: &[u8]) -> Result<(), String> {
        check_strength(key.public_params())?;
        self.0.verify(key, payload).map_err(|_| "it does not fit what is in the commit".to_owned())
    }
}
