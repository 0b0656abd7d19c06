//! Reads a checkout as the sidecar reads a commit: files only, never through a link, never beyond a bound.

use std::io::{ErrorKind, Read};
use std::path::Path;

use mainstay_models::EnvironmentName;
use mainstay_sidecar::desired::Unread;

use super::CheckError;

/// The environments of the checkout at `root`, in the order of their names.
pub fn environments(root: &Path) -> Result<Vec<EnvironmentName>, CheckError> {
    let path = root.join("environments");
    let fail = |source| CheckError::Environments { path: path.clone(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A folder whose name is no environment's is one that no sidecar can follow.
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && entry.path().join("serving.yaml").exists()
        {
            names.push(name);
        }
    }
    names.sort();
    if names.is_empty() { Err(CheckError::Empty { path }) } else { Ok(names) }
}

/// The content of the file at `path` below `root`, of at most `bytes_max` bytes.
pub fn read(root: &Path, path: &str, bytes_max: u64) -> Result<Vec<u8>, Unread> {
    let mut at = root.to_owned();
    for segment in path.split('/') {
        at.push(segment);
        let metadata = match std::fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(Unread::Missing);
            }
            Err(e) => return Err(Unread::Trouble(format!("cannot read {}: {e}", at.display()))),
        };
        if metadata.is_symlink() {
            return Err(Unread::Unfit(format!("{path} is reached through a symbolic link")));
        }
    }
    let trouble = |e: std::io::Error| Unread::Trouble(format!("cannot read {}: {e}", at.display()));
    if !std::fs::metadata(&at).map_err(trouble)?.is_file() {
        return Err(Unread::Unfit(format!("{path} is not a file")));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(&at).map_err(trouble)?.take(bytes_max + 1).read_to_end(&mut bytes).map_err(trouble)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Unread::Unfit(format!("{path} has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}
