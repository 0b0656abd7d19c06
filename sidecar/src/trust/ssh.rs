//! Verifies the signatures that `git commit -S` makes with `gpg.format=ssh`.

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig};

use super::signers::Fault;

/// What git puts into a signature, so that one made for another purpose is worth nothing here.
const NAMESPACE: &str = "git";
/// The shortest RSA key that is trusted.
const RSA_BITS_MIN: usize = 2048;
/// In a signature of a security key: somebody touched it.
const USER_PRESENT: u8 = 1;

/// A public key as `ssh-keygen` writes it, of a kind that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(PublicKey);

impl Key {
    /// Parses one line such as `ssh-ed25519 AAAA… ada@example.org`.
    pub fn parse(line: &str) -> Result<Self, String> {
        let key = PublicKey::from_openssh(line.trim())
            .map_err(|e| format!("is not a public key as `ssh-keygen` writes it, such as `ssh-ed25519 AAAA…` ({e})"))?;
        match key.key_data() {
            KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {}
            KeyData::Rsa(rsa) => {
                let modulus = rsa.n.as_positive_bytes().unwrap_or_default();
                let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
                if bits < RSA_BITS_MIN {
                    return Err(format!("is an RSA key of {bits} bits; {RSA_BITS_MIN} are the least that is trusted"));
                }
            }
            other => return Err(format!("is a key of the kind `{}`, which is not trusted", other.algorithm())),
        }
        Ok(Self(key))
    }

    /// As `ssh-keygen -l` shows it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

/// A signature, not yet verified.
#[derive(Debug)]
pub struct Signature(SshSig);

impl Signature {
    /// Parses what stands in a commit.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        // Git may leave the last line without its end.
        let text = format!("{}\n", text.trim_end());
        SshSig::from_pem(&text).map(Self).map_err(|e| Fault::Unreadable(e.to_string()))
    }

    /// The key that it says it was made with.
    pub fn fingerprint(&self) -> String {
        self.0.public_key().fingerprint(HashAlg::Sha256).to_string()
    }

    /// Whether `key` signed `payload`; false where it says that another key did.
    pub fn verify(&self, key: &Key, payload: &[u8]) -> Result<bool, Fault> {
        if self.0.public_key() != key.0.key_data() {
            return Ok(false);
        }
        if self.0.namespace() != NAMESPACE {
            return Err(Fault::Wrong(format!("it was made for `{}`, not for git", excerpt(self.0.namespace()))));
        }
        if let Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 = self.0.algorithm() {
            // The end of such a signature: one byte of flags, four of a counter.
            let flags = self.0.signature_bytes().iter().rev().nth(4);
            if flags.is_none_or(|flags| flags & USER_PRESENT == 0) {
                return Err(Fault::Wrong("the security key that made it was not touched".to_owned()));
            }
        }
        let verified = key.0.verify(NAMESPACE, payload, &self.0);
        verified.map(|()| true).map_err(|_| Fault::Wrong("it does not fit what is in the commit".to_owned()))
    }
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}
