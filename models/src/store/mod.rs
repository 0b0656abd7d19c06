//! The store: the one thing that the publishing and the serving program share.
//!
//! ```text
//! <store>/blobs/sha256/<hex>            write-once, verified before it gets its name
//! <store>/releases/<seq>-<commit>.json  write-once: the complete set of models of one release
//! <store>/current -> releases/….json    the only name that ever changes; relative; replaced by rename(2)
//! <store>/tmp/<random>                  emptied when a publisher opens
//! <store>/partial/<hex>                 what has come so far of a blob from far away; nothing believes it
//! <store>/quarantine/<n>-<hex>          the last few files of blobs/ that the disk had damaged, for people to look at
//! <store>/lock                          held by the one publisher
//! ```
//!
//! Three facts hold at every instant, also after SIGKILL or power loss at any instruction:
//!
//! 1. a file in `blobs/` has the bytes that its name says;
//! 2. a release that `current` names has all its blobs;
//! 3. nothing of these but `current` is ever changed in place.
//!
//! One [`Publisher`] writes, any number of [`Reader`]s read, and a reader needs no lock: it follows
//! `current` to a file that never changes, and the blobs of the live and of some earlier releases stay.
//!
//! What no program can promise is the disk's part: that bytes stay as they were written, and files where they were put.
//! So a reader verifies what it reads, and the publisher reads everything again now and then ([`Publisher::scrub`]).
//! A damaged blob **stays in its place until the good bytes are there**, verified and synced; then one rename puts them
//! over it. Taking it away first would gain nothing, since no reader believes it, and would break fact 2 for as long
//! as the bytes cannot be had; putting the good bytes over it keeps the name there throughout. Until then the publisher
//! treats it as absent, so that no new release is published on top of it. Fact 3 is about good bytes: those of a blob
//! never change, and what is put over a damaged file is a new file.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CommitId, Digest};

mod incoming;
mod publisher;
mod reader;
mod scrub;

pub use incoming::Incoming;
pub use publisher::{AddError, Collected, OpenError, PublishError, Publisher, RepublishError};
pub use reader::{Current, ReadError, Reader};
pub use scrub::Scrubbed;

/// The largest release file, in bytes.
const RELEASE_BYTES_MAX: u64 = 16 << 20;

/// The name of a release in a store: its place in that store's sequence, and its commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseName {
    /// Counts the releases of this store, from 1.
    pub seq: u64,
    /// The commit that asked for the release.
    pub commit: CommitId,
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.commit)
    }
}

/// A text that is not a release's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a release")]
pub struct ReleaseNameError;

impl FromStr for ReleaseName {
    type Err = ReleaseNameError;

    fn from_str(text: &str) -> Result<Self, ReleaseNameError> {
        let (seq, commit) = text.split_once('-').ok_or(ReleaseNameError)?;
        let name = Self {
            seq: seq.parse().map_err(|_| ReleaseNameError)?,
            commit: commit.parse().map_err(|_| ReleaseNameError)?,
        };
        // One release, one name: `07-…` and `+7-…` are none.
        if name.to_string() == text { Ok(name) } else { Err(ReleaseNameError) }
    }
}

impl TryFrom<String> for ReleaseName {
    type Error = ReleaseNameError;

    fn try_from(text: String) -> Result<Self, ReleaseNameError> {
        text.parse()
    }
}

impl From<ReleaseName> for String {
    fn from(name: ReleaseName) -> String {
        name.to_string()
    }
}

/// Where things lie in a store.
#[derive(Debug, Clone)]
struct Layout {
    root: PathBuf,
}

impl Layout {
    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_string())
    }

    fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    fn release(&self, name: &ReleaseName) -> PathBuf {
        self.root.join(release_link(name))
    }

    /// The releases in the store, oldest first.
    fn list(&self) -> io::Result<BTreeSet<ReleaseName>> {
        let entries = std::fs::read_dir(self.releases())?;
        entries.filter_map(|entry| entry.map(|entry| release_named_by(&entry.path())).transpose()).collect()
    }

    fn current(&self) -> PathBuf {
        self.root.join("current")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
}

/// What `current` points to: relative, so that a store may be mounted anywhere.
fn release_link(name: &ReleaseName) -> PathBuf {
    Path::new("releases").join(format!("{name}.json"))
}

/// The release that a file in `releases/` or the target of `current` names.
fn release_named_by(path: &Path) -> Option<ReleaseName> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}
