//! Brings the bytes that a commit names into the store, as far as the commit has them itself.
//!
//! What lies elsewhere comes back as [`Wanted`], for the fetcher: a place that the card names, a Git LFS pointer instead
//! of the file, or a DVC pointer beside where the file would be. Neither pointer is believed: the card's digest is.

use mainstay_models::yaml::FILE_BYTES_MAX;
use mainstay_models::{Blob, Publisher};

use crate::desired::{Artifact, Origin, Source, Unread};
use crate::fetch::{Place, Wanted, dvc, lfs};
use crate::trouble::Trouble;

/// What is known beside the commit.
#[derive(Debug, Clone)]
pub struct Supply {
    /// The largest artifact that is read from the commit itself.
    pub artifact_bytes_max: u64,
    /// Where the repository keeps what Git LFS pointers stand for; none where that is not known.
    pub lfs: Option<lfs::Store>,
}

impl Supply {
    /// Adds one blob, whose files come through `read`. Says what is to be fetched from elsewhere, if anything.
    pub fn add(
        &self,
        publisher: &Publisher,
        source: Source,
        mut read: impl FnMut(&str, u64) -> Result<Vec<u8>, Unread>,
    ) -> Result<Option<Wanted>, Trouble> {
        let blob = source.blob;
        if publisher.has(&blob).map_err(|e| Trouble::retry(&e))? {
            return Ok(None);
        }
        let artifact = match source.origin {
            // Its digest was worked out from these bytes: only the disk can fail.
            Origin::Bytes(bytes) => {
                publisher.add(&blob, &*bytes).map_err(|e| Trouble::retry(&e))?;
                return Ok(None);
            }
            Origin::Artifact(artifact) => artifact,
            Origin::Elsewhere { uris, spec, line } => {
                let places = uris.into_iter().map(Place::Uri).collect();
                return Ok(Some(Wanted { blob, places, spec, line }));
            }
        };
        let bytes = match read(&artifact.path, blob.size_bytes.min(self.artifact_bytes_max)) {
            Ok(bytes) => bytes,
            Err(Unread::Missing) => return tracked_by_dvc(artifact, blob, read).map(Some),
            Err(Unread::Unfit(problem)) => return Err(artifact.refuse(problem).into()),
            Err(Unread::Trouble(problem)) => return Err(Trouble::Retry(problem)),
        };
        if let Some(pointed) = lfs::pointer(&bytes)
            && Blob::of(&bytes) != blob
        {
            return self.in_lfs(artifact, blob, pointed).map(Some);
        }
        let added = publisher.add(&blob, &*bytes);
        added.map_err(|e| artifact.refuse_bytes(&e).map_or_else(|| Trouble::retry(&e), Trouble::Refused))?;
        Ok(None)
    }

    fn in_lfs(&self, artifact: Artifact, blob: Blob, pointed: Blob) -> Result<Wanted, Trouble> {
        let path = &artifact.path;
        if pointed != blob {
            let Blob { sha256, size_bytes } = pointed;
            let problem = format!("{path} is a Git LFS pointer to {size_bytes} bytes with sha256 {sha256}");
            return Err(artifact.refuse(problem).into());
        }
        let Some(store) = self.lfs.clone() else {
            return Err(artifact.refuse(format!("{path} is a Git LFS pointer: `git lfs pull` brings the file")).into());
        };
        Ok(Wanted { blob, places: vec![Place::Lfs(store)], spec: artifact.spec, line: artifact.line })
    }
}

/// What is wanted where a commit has a DVC pointer instead of the file.
fn tracked_by_dvc(
    artifact: Artifact,
    blob: Blob,
    mut read: impl FnMut(&str, u64) -> Result<Vec<u8>, Unread>,
) -> Result<Wanted, Trouble> {
    let mut read = |path: &str, missing: &str| match read(path, FILE_BYTES_MAX as u64) {
        Ok(bytes) => Ok(bytes),
        Err(Unread::Missing) => Err(Trouble::from(artifact.refuse(missing))),
        Err(Unread::Unfit(problem)) => Err(artifact.refuse(problem).into()),
        Err(Unread::Trouble(problem)) => Err(Trouble::Retry(problem)),
    };
    let path = &artifact.path;
    let pointer = read(&format!("{path}.dvc"), &format!("{path} is not in the commit"))?;
    let config = read(".dvc/config", &format!("{path}.dvc is in the commit, .dvc/config is not"))?;
    let file = path.rsplit_once('/').map_or(path.as_str(), |(_, file)| file);
    let uri = dvc::locate(file, &pointer, &config).map_err(|problem| artifact.refuse(problem))?;
    Ok(Wanted { blob, places: vec![Place::Uri(uri)], spec: artifact.spec.clone(), line: artifact.line })
}
