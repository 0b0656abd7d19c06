//! The model file: its digest, its size and where it lies.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::LABEL_BYTES_MAX;
use crate::uri::UriError;
use crate::yaml::Fault;
use crate::{Blob, Digest, Uri};

/// The largest artifact, in bytes.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// The most places beside the first that an artifact may lie in.
const MIRRORS_MAX: usize = 7;

/// A reference to the model file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Artifact {
    /// Where its bytes are.
    pub location: Location,
    /// Its bytes.
    pub blob: Blob,
}

/// Where a model file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The name of a file beside the model.yaml.
    File(String),
    /// Outside git: the places that have it, the one to ask first in front; never empty.
    Uris(Vec<Uri>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArtifact {
    file: Option<Spanned<String>>,
    uri: Option<Spanned<String>>,
    #[serde(default)]
    mirrors: Vec<Spanned<String>>,
    sha256: Spanned<Digest>,
    size_bytes: Spanned<u64>,
}

impl Artifact {
    pub(super) fn validate(raw: RawArtifact) -> Result<Self, Fault> {
        let size_bytes = raw.size_bytes.value;
        if size_bytes == 0 || size_bytes > ARTIFACT_BYTES_MAX {
            let problem = format!("is {size_bytes}; it must lie between 1 and {ARTIFACT_BYTES_MAX}");
            return Err(Fault::at(&raw.size_bytes, "artifact.size_bytes", problem));
        }
        let location = match (raw.file, raw.uri) {
            (Some(file), None) => {
                if let Some(mirror) = raw.mirrors.first() {
                    return Err(Fault::at(mirror, "artifact.mirrors[0]", "is for an artifact with a `uri`"));
                }
                Location::file(file)?
            }
            (None, Some(uri)) => Location::uris(&uri, &raw.mirrors)?,
            (Some(_), Some(uri)) => return Err(Fault::at(&uri, "artifact.uri", "stands beside `file`; keep one")),
            (None, None) => {
                return Err(Fault::at(&raw.sha256, "artifact", "needs either `file` or `uri`"));
            }
        };
        Ok(Self { location, blob: Blob { sha256: raw.sha256.value, size_bytes } })
    }
}

impl Location {
    /// The file's name, without where it lies: that is nothing for clients to know.
    pub fn file_name(&self) -> &str {
        match self {
            Self::File(name) => name,
            Self::Uris(uris) => uris.first().and_then(|uri| uri.path().rsplit('/').next()).unwrap_or_default(),
        }
    }

    fn file(name: Spanned<String>) -> Result<Self, Fault> {
        let text = &name.value;
        let segment = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if text.is_empty() || text.len() > LABEL_BYTES_MAX || text.starts_with('.') || !text.bytes().all(segment) {
            let problem = "names no file beside model.yaml; use letters, digits, `-`, `_` and `.`";
            return Err(Fault::at(&name, "artifact.file", problem));
        }
        Ok(Self::File(name.value))
    }

    fn uris(uri: &Spanned<String>, mirrors: &[Spanned<String>]) -> Result<Self, Fault> {
        let mut uris = vec![uri.value.parse().map_err(|e: UriError| Fault::at(uri, "artifact.uri", e.to_string()))?];
        for (index, mirror) in mirrors.iter().enumerate() {
            let fault = |problem: String| Fault::at(mirror, format!("artifact.mirrors[{index}]"), problem);
            if index >= MIRRORS_MAX {
                return Err(fault(format!("more than {MIRRORS_MAX} mirrors")));
            }
            let parsed = mirror.value.parse().map_err(|e: UriError| fault(e.to_string()))?;
            if uris.contains(&parsed) {
                return Err(fault("stands twice".to_owned()));
            }
            uris.push(parsed);
        }
        Ok(Self::Uris(uris))
    }
}
