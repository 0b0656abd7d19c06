//! The store's three facts, checked from outside: with nothing but the file system and sha256.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_models::{Blob, Digest, Reader};

/// What every write-once file held when it was last seen.
pub type Seen = BTreeMap<PathBuf, Digest>;

/// Asserts facts 1 and 2 of the store at `root`, and returns what its write-once files hold, for fact 3.
pub fn check(root: &Path) -> Seen {
    let mut seen = Seen::new();
    for folder in ["blobs/sha256", "releases"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            seen.insert(path.clone(), Digest::of(&std::fs::read(&path).unwrap()));
        }
    }
    for (path, digest) in seen.iter().filter(|(path, _)| path.starts_with(root.join("blobs"))) {
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), digest.to_string(), "a blob is not what its name says");
    }
    let reader = Reader::new(root);
    if let Some(current) = reader.current().expect("current names a whole release") {
        for blob in current.release.blobs() {
            let bytes = reader.blob(&blob).expect("the live release has all its blobs");
            assert_eq!(Blob::of(&bytes), blob);
        }
    }
    seen
}

/// Asserts fact 3: what was there before is unchanged or gone.
pub fn check_unchanged(before: &Seen, now: &Seen) {
    for (path, digest) in now {
        assert!(before.get(path).is_none_or(|old| old == digest), "{} was changed in place", path.display());
    }
}
