//! Reads a store, and believes nothing that it has not checked.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Layout, RELEASE_BYTES_MAX, ReleaseName, release_named_by};
use crate::{Blob, Digest, Release};

/// How much of a file is asked for at once: most kernels let nobody else compute while they copy, and a server that reads a
/// model has requests to answer.
const PIECE_BYTES: u64 = 64 << 10;

/// Follows a store's `current`. Cheap to make, holds nothing open, may outlive any number of publishers.
#[derive(Debug, Clone)]
pub struct Reader {
    layout: Layout,
}

/// A release of a store; the live one, unless something else is said.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    /// Its name in this store.
    pub name: ReleaseName,
    /// The digest of its file, by which two programs can tell that they mean the same.
    pub sha256: Digest,
    /// What it asks for.
    pub release: Release,
}

/// Why something could not be read from a store.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system refused.
    #[error("cannot read {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `current` names something that is not a release.
    #[error("{path} points to {target}, which is not the name of a release")]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// The release's file is not a release.
    #[error("{path} is not a release")]
    Release {
        /// The path.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A blob does not have the bytes that its name says.
    #[error(
        "{path} does not have the {expected} bytes with the sha256 that it is named by: the volume is damaged; a running sidecar replaces the file by itself"
    )]
    Damaged {
        /// The path.
        path: PathBuf,
        /// How many bytes it should have.
        expected: u64,
    },
}

impl Reader {
    /// A reader of the store at `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { layout: Layout { root: root.into() } }
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// The name of the live release, at the price of one readlink; none before the first.
    pub fn current_name(&self) -> Result<Option<ReleaseName>, ReadError> {
        let path = self.layout.current();
        match std::fs::read_link(&path) {
            Ok(target) => match release_named_by(&target) {
                Some(name) => Ok(Some(name)),
                None => Err(ReadError::Link { path, target }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Io { path, source }),
        }
    }

    /// The live release; none before the first.
    pub fn current(&self) -> Result<Option<Current>, ReadError> {
        self.current_name()?.map(|name| self.release(name)).transpose()
    }

    /// The release of that name, live or kept.
    pub fn release(&self, name: ReleaseName) -> Result<Current, ReadError> {
        let path = self.layout.release(&name);
        let text = read_bounded(&path, RELEASE_BYTES_MAX)?;
        let release = serde_json::from_slice(&text).map_err(|source| ReadError::Release { path, source })?;
        Ok(Current { name, sha256: Digest::of(&text), release })
    }

    /// The releases that the store keeps, oldest first.
    pub fn releases(&self) -> Result<BTreeSet<ReleaseName>, ReadError> {
        self.layout.list().map_err(|source| ReadError::Io { path: self.layout.releases(), source })
    }

    /// When a release was published: its file is written once.
    pub fn published_at(&self, name: &ReleaseName) -> Result<SystemTime, ReadError> {
        let path = self.layout.release(name);
        std::fs::metadata(&path).and_then(|data| data.modified()).map_err(|source| ReadError::Io { path, source })
    }

    /// The bytes of `blob`, verified as they are read.
    pub fn blob(&self, blob: &Blob) -> Result<Vec<u8>, ReadError> {
        let path = self.layout.blob(&blob.sha256);
        let bytes = read_bounded(&path, blob.size_bytes)?;
        if Blob::of(&bytes) != *blob {
            return Err(ReadError::Damaged { path, expected: blob.size_bytes });
        }
        Ok(bytes)
    }
}

/// Reads a file of at most `bytes_max` bytes; of a longer one, one byte more, which tells it from a fitting one.
fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    let read = || {
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        let length = file.metadata()?.len().min(bytes_max);
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.try_reserve_exact(length.saturating_add(1)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut file = file.take(bytes_max.saturating_add(1));
        while file.by_ref().take(PIECE_BYTES).read_to_end(&mut bytes)? > 0 {}
        Ok(bytes)
    };
    read().map_err(|source| ReadError::Io { path: path.to_owned(), source })
}
