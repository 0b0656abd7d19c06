//! Where an artifact lies, when it does not lie in git.
//!
//! Parsing is validating: a [`Uri`] names a place and nothing else. It carries no credential, no query and nothing that
//! could mean another place to another program: no `..`, no escapes, no control characters. Does not know how any of
//! these places is read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest uri, in bytes.
const URI_BYTES_MAX: usize = 1024;

/// A place outside git, such as `s3://models/iris/1.0.0/model.onnx`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uri {
    scheme: Scheme,
    /// A bucket, a container, or a host with its port.
    authority: String,
    /// Without the slash at its beginning.
    path: String,
}

/// How a place is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Amazon S3, or what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A web server.
    Https,
    /// A web server that is asked in plain text.
    Http,
    /// An OCI registry.
    Oci,
}

/// A text that is no [`Uri`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The scheme is not known.
    #[error("is no place that can be read; write s3://, gs://, az://, https://, http:// or oci:// and what lies there")]
    Scheme,
    /// A part is missing.
    #[error("needs a bucket, container or host, and a path in it")]
    Incomplete,
    /// It could let somebody in.
    #[error("must not carry a name, password, query or fragment: the sidecar's own settings say how it is let in")]
    Credential,
    /// It could mean several places.
    #[error("may have letters, digits and `-_.~+=:@/` only, and no empty, `.` or `..` segment")]
    Ambiguous,
    /// It is too long.
    #[error("is longer than {URI_BYTES_MAX} bytes")]
    TooLong,
}

impl Scheme {
    const ALL: [Self; 6] = [Self::S3, Self::Gs, Self::Az, Self::Https, Self::Http, Self::Oci];

    /// As it is written, without `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::Https => "https",
            Self::Http => "http",
            Self::Oci => "oci",
        }
    }
}

impl Uri {
    /// How it is read.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, the container, or the host with its port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What lies there: a key, or a path without the slash at its beginning.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it lies in `folder`, judged by whole segments: `s3://models/a` lies in `s3://models/` and in itself, not in
    /// `s3://mod`.
    pub fn lies_in(&self, folder: &str) -> bool {
        let folder = folder.trim_end_matches('/');
        let text = self.to_string();
        let Some(rest) = text.strip_prefix(folder) else { return false };
        // A tag or a digest lies in its repository.
        let is_reference = || self.scheme == Scheme::Oci && rest.starts_with([':', '@']) && !rest.contains('/');
        rest.is_empty() || rest.starts_with('/') || is_reference()
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::TooLong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
        let scheme = Scheme::ALL.into_iter().find(|known| known.as_str() == scheme).ok_or(UriError::Scheme)?;
        let (authority, path) = rest.split_once('/').ok_or(UriError::Incomplete)?;
        if authority.contains('@') || rest.contains(['?', '#']) {
            return Err(UriError::Credential);
        }
        if authority.is_empty() || path.is_empty() {
            return Err(UriError::Incomplete);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~+=:@/".contains(&b);
        let named = |b: u8| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b);
        let segments = || path.split('/');
        if !authority.bytes().all(named)
            || !path.bytes().all(plain)
            || segments().any(|segment| matches!(segment, "" | "." | ".."))
        {
            return Err(UriError::Ambiguous);
        }
        Ok(Self { scheme, authority: authority.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.as_str(), self.authority, self.path)
    }
}

impl TryFrom<String> for Uri {
    type Error = UriError;

    fn try_from(text: String) -> Result<Self, UriError> {
        text.parse()
    }
}

impl From<Uri> for String {
    fn from(uri: Uri) -> String {
        uri.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_as_it_was_written() {
        for text in [
            "s3://models/iris/1.0.0/model.onnx",
            "gs://models/a",
            "az://container/iris/model.onnx",
            "https://models.example:8443/iris/model.onnx",
            "http://[::1]:8080/a",
            "oci://registry.example/models/iris:1.0.0",
            "oci://registry.example:5000/models/iris@sha256:00",
        ] {
            assert_eq!(text.parse::<Uri>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_could_mean_something_else_is_no_place() {
        for (text, error) in [
            ("ftp://host/a", UriError::Scheme),
            ("/etc/passwd", UriError::Scheme),
            ("file:///etc/passwd", UriError::Scheme),
            ("S3://models/a", UriError::Scheme),
            ("s3://models", UriError::Incomplete),
            ("s3://models/", UriError::Incomplete),
            ("s3:///a", UriError::Incomplete),
            ("https://ada:secret@host/a", UriError::Credential),
            ("https://host/a?token=secret", UriError::Credential),
            ("https://host/a#b", UriError::Credential),
            ("s3://models/../other/a", UriError::Ambiguous),
            ("s3://models/a//b", UriError::Ambiguous),
            ("s3://models/a%2e%2e", UriError::Ambiguous),
            ("s3://models/a\nb", UriError::Ambiguous),
            ("https://ho st/a", UriError::Ambiguous),
            (&format!("s3://models/{}", "a".repeat(URI_BYTES_MAX)), UriError::TooLong),
        ] {
            assert_eq!(text.parse::<Uri>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_folder_is_matched_by_whole_segments() {
        let lies_in = |uri: &str, folder: &str| uri.parse::<Uri>().unwrap().lies_in(folder);
        assert!(lies_in("s3://models/iris/a", "s3://models/"));
        assert!(lies_in("s3://models/iris/a", "s3://models/iris"));
        assert!(lies_in("s3://models/iris/a", "s3://models/iris/a"));
        assert!(lies_in("oci://r.example/models/iris:1.0.0", "oci://r.example/models/iris"));
        assert!(lies_in("oci://r.example/models/iris@sha256:00", "oci://r.example/models/iris"));
        assert!(!lies_in("s3://models/iris/a", "s3://mod"));
        assert!(!lies_in("s3://models/iris/a", "s3://models/ir"));
        assert!(!lies_in("https://models.example.evil/a", "https://models.example"));
        assert!(!lies_in("https://models.example:8443/a", "https://models.example"));
        assert!(!lies_in("oci://r.example:5000/a/b", "oci://r.example"));
        assert!(!lies_in("http://models.example/a", "https://models.example/"));
        assert!(!lies_in("https://models.example/a@b", "https://models.example/a"));
    }
}
