//! Tells a webhook of the repository's host from everybody else's requests.
//!
//! A webhook only says "look now": nothing of its body is believed or even parsed, so that a forged or replayed one
//! can cause a look at the repository and nothing else. The signature keeps strangers from causing even that.
//!
//! | host | header | what it holds |
//! |---|---|---|
//! | GitHub | `X-Hub-Signature-256` | `sha256=` and the body's HMAC-SHA256, in hexadecimal |
//! | Gitea, Forgejo | `X-Gitea-Signature`, `X-Forgejo-Signature` | the same without `sha256=` |
//! | Bitbucket | `X-Hub-Signature` | as GitHub's |
//! | GitLab | `X-Gitlab-Token` | the secret itself |

use std::io;
use std::path::Path;

use axum::body::Body;
use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::BodyExt;
use sha2::Sha256;

/// The longest body: what GitHub sends at most. It is hashed as it comes, never kept.
const BODY_BYTES_MAX: usize = 25 << 20;
/// The longest secret or token.
const SECRET_BYTES_MAX: u64 = 4096;

/// Why a webhook causes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// No header of a known host, or one that does not fit the body and the secret.
    Forged,
    /// The body is longer than any host sends.
    TooLong,
    /// The body broke off.
    BrokenOff,
}

/// What the host says about who it is: a signature of the body, or the secret itself.
enum Proof {
    Signature(Vec<u8>),
    Secret(Vec<u8>),
}

/// Whether a request with `headers` and `body` comes from somebody who knows `secret`.
pub async fn verify(secret: &[u8], headers: &HeaderMap, mut body: Body) -> Result<(), Unsigned> {
    // A host may send several headers, and each that fits is proof by itself.
    let proofs = proofs(headers);
    if proofs.is_empty() {
        return Err(Unsigned::Forged);
    }
    let mut mac = keyed(secret);
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unsigned::BrokenOff)?;
        if let Some(piece) = frame.data_ref() {
            length += piece.len();
            if length > BODY_BYTES_MAX {
                return Err(Unsigned::TooLong);
            }
            mac.update(piece);
        }
    }
    let fits = |proof: &Proof| match proof {
        Proof::Signature(signature) => mac.clone().verify_slice(signature).is_ok(),
        Proof::Secret(given) => same(secret, given),
    };
    if proofs.iter().any(fits) { Ok(()) } else { Err(Unsigned::Forged) }
}

/// Whether `given` is `secret`, in a time that does not tell where they differ, nor by how much they differ in length.
pub fn same(secret: &[u8], given: &[u8]) -> bool {
    // The code of one under the other as the key is compared in constant time, and is as long for every length.
    let expected = keyed(secret).chain_update(secret).finalize().into_bytes();
    keyed(secret).chain_update(given).verify(&expected).is_ok()
}

/// Reads a secret from its file, without the line's end. Read anew at each use, since secrets are rotated.
pub fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;

    let mut secret = Vec::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_end(&mut secret)?;
    while secret.last().is_some_and(u8::is_ascii_whitespace) {
        secret.pop();
    }
    if secret.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
    }
    if secret.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {SECRET_BYTES_MAX} bytes")));
    }
    Ok(secret)
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}

fn proofs(headers: &HeaderMap) -> Vec<Proof> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let prefixed = |name| text(name).and_then(|value| value.strip_prefix("sha256="));
    let signatures = [
        prefixed("x-hub-signature-256"),
        prefixed("x-hub-signature"),
        text("x-gitea-signature"),
        text("x-forgejo-signature"),
    ];
    let mut proofs: Vec<_> = signatures.into_iter().flatten().filter_map(from_hex).map(Proof::Signature).collect();
    proofs.extend(headers.get("x-gitlab-token").map(|token| Proof::Secret(token.as_bytes().to_vec())));
    proofs
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_models::Digest;

    const SECRET: &str = "It's a Secret to Everybody";

    fn judge(secret: &str, headers: &[(&'static str, &str)], body: &str) -> Result<(), Unsigned> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(verify(secret.as_bytes(), &headers, Body::from(body.to_owned())))
    }

    /// HMAC-SHA256 as RFC 2104 writes it, without the library that is being tested.
    fn by_hand(secret: &[u8], body: &[u8]) -> String {
        let mut key = [0; 64];
        key[..secret.len()].copy_from_slice(secret);
        let padded = |byte: u8, rest: &[u8]| {
            let pad: Vec<u8> = key.iter().map(|k| k ^ byte).chain(rest.iter().copied()).collect();
            Digest::of(&pad).to_string()
        };
        padded(0x5c, &from_hex(&padded(0x36, body)).unwrap())
    }

    #[test]
    fn the_signatures_that_hosts_publish_as_examples_are_taken() {
        // docs.github.com, "Validating webhook deliveries".
        let github = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(judge(SECRET, &[("x-hub-signature-256", github)], "Hello, World!"), Ok(()));
        // support.atlassian.com, "Manage webhooks": the same secret, another body and another header.
        let bitbucket = "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9";
        assert_eq!(judge(SECRET, &[("x-hub-signature", bitbucket)], "Hello World!"), Ok(()));
        assert_eq!(judge(SECRET, &[("x-hub-signature", bitbucket)], "Hello, World!"), Err(Unsigned::Forged));
        // RFC 4231, test case 2.
        let rfc = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(judge("Jefe", &[("x-gitea-signature", rfc)], "what do ya want for nothing?"), Ok(()));
    }

    #[test]
    fn every_host_is_known_by_its_own_header_and_only_with_the_secret() {
        let body = r#"{"ref":"refs/heads/main"}"#;
        let (good, bad) = (by_hand(SECRET.as_bytes(), body.as_bytes()), by_hand(b"another", body.as_bytes()));
        let headers = [
            ("x-hub-signature-256", "sha256="),
            ("x-hub-signature", "sha256="),
            ("x-gitea-signature", ""),
            ("x-forgejo-signature", ""),
        ];
        for (header, prefix) in headers {
            assert_eq!(judge(SECRET, &[(header, &format!("{prefix}{good}"))], body), Ok(()), "{header}");
            for wrong in [bad.as_str(), &good[1..], "", "é", &good.replace(|_| true, "g")] {
                let proof = format!("{prefix}{wrong}");
                assert_eq!(judge(SECRET, &[(header, &proof)], body), Err(Unsigned::Forged), "{header}: {proof}");
            }
            assert_eq!(judge(SECRET, &[(header, &format!("{prefix}{good}"))], "other"), Err(Unsigned::Forged));
        }
        assert_eq!(judge(SECRET, &[("x-gitlab-token", SECRET)], body), Ok(()));
        for wrong in ["", "It's", "It's a Secret to Everybody!"] {
            assert_eq!(judge(SECRET, &[("x-gitlab-token", wrong)], body), Err(Unsigned::Forged));
        }
        assert_eq!(judge(SECRET, &[], body), Err(Unsigned::Forged));
        // GitHub sends its old SHA-1 signature beside the new one, under the name that Bitbucket uses.
        let both = [("x-hub-signature", "sha1=aaaa"), ("x-hub-signature-256", &format!("sha256={good}"))];
        assert_eq!(judge(SECRET, &both, body), Ok(()));
        assert_eq!(judge(SECRET, &both[..1], body), Err(Unsigned::Forged));
    }

    #[test]
    fn a_body_without_end_is_not_read_to_its_end() {
        let body = "x".repeat(BODY_BYTES_MAX + 1);
        assert_eq!(judge(SECRET, &[("x-gitlab-token", SECRET)], &body), Err(Unsigned::TooLong));
    }

    #[test]
    fn a_secret_is_what_its_file_holds_without_the_end_of_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s e\n\r\n").unwrap();
        assert_eq!(read_secret(file.path()).unwrap(), b"s e");
        for empty in [String::new(), "\n".to_owned(), "x".repeat(5000)] {
            std::fs::write(file.path(), empty).unwrap();
            assert!(read_secret(file.path()).is_err());
        }
    }
}
