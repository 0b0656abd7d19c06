//! Reads a checkout as the sidecar reads a commit: files only, never through a link, never beyond a bound.

use std::io::{ErrorKind, Read};
use std::path::Path;

use mainstay_models::{Blob, CommitId, EnvironmentName};
use mainstay_sidecar::desired::Unread;
use mainstay_sidecar::fetch::lfs;

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

/// The content of a file, where the folder and the commit that is checked out in it have the same. `here` is the former's,
/// `committed` the latter's.
pub fn same(
    path: &str,
    commit: &CommitId,
    here: Result<Vec<u8>, Unread>,
    committed: Result<Vec<u8>, Unread>,
) -> Result<Vec<u8>, Unread> {
    match (here, committed) {
        (Err(Unread::Trouble(problem)), _) | (_, Err(Unread::Trouble(problem))) => Err(Unread::Trouble(problem)),
        (Ok(here), Ok(committed)) if here == committed => Ok(here),
        // Git LFS has a pointer in the commit, and brings the file into a checkout.
        (Ok(here), Ok(committed)) if lfs::pointer(&committed) == Some(Blob::of(&here)) => Ok(here),
        (Err(Unread::Missing), Err(Unread::Missing)) => Err(Unread::Missing),
        (Err(Unread::Unfit(problem)), Err(Unread::Unfit(_))) => Err(Unread::Unfit(problem)),
        _ => Err(Unread::Trouble(format!(
            "{path} is not what commit {} has: commit or undo the change, or leave --verify out to check the files alone",
            commit.short()
        ))),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_commits_only_where_both_have_the_same() {
        let commit = "1".repeat(40).parse().unwrap();
        let same = |here: Result<&str, Unread>, committed: Result<&str, Unread>| {
            let bytes = |read: Result<&str, Unread>| read.map(|text| text.as_bytes().to_vec());
            match super::same("f", &commit, bytes(here), bytes(committed)) {
                Ok(bytes) => String::from_utf8(bytes).unwrap(),
                Err(unread) => format!("{unread:?}"),
            }
        };
        assert_eq!(same(Ok("a"), Ok("a")), "a");
        let changed = "Trouble(\"f is not what commit 1111111111 has: ";
        for (here, committed) in [
            (Ok("a"), Ok("b")),
            (Ok("a"), Err(Unread::Missing)),
            (Err(Unread::Missing), Ok("a")),
            (Err(Unread::Unfit("a link".to_owned())), Ok("a")),
        ] {
            let said = same(here, committed);
            assert!(said.starts_with(changed), "{said}");
        }
        assert_eq!(same(Err(Unread::Missing), Err(Unread::Missing)), "Missing");
        let unfit = |text: &str| Err(Unread::Unfit(text.to_owned()));
        assert_eq!(same(unfit("here"), unfit("there")), "Unfit(\"here\")");
        let trouble = |text: &str| Err(Unread::Trouble(text.to_owned()));
        assert_eq!(same(trouble("a disk"), Ok("a")), "Trouble(\"a disk\")");
        assert_eq!(same(Ok("a"), trouble("a pipe")), "Trouble(\"a pipe\")");

        let Blob { sha256, size_bytes } = Blob::of(b"large");
        let pointer = |size| format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        assert_eq!(same(Ok("large"), Ok(&pointer(size_bytes))), "large");
        assert!(same(Ok("large"), Ok(&pointer(6))).starts_with(changed));
        assert!(same(Ok("larger"), Ok(&pointer(size_bytes))).starts_with(changed));
    }
}
