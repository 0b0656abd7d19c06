//! What the sidecar and its git worker say to each other: one question, one answer, over a pipe.
//!
//! A frame is a length (4 bytes, big endian), that many bytes of JSON, and after a [`Reply::Blob`] the blob's
//! bytes as they are. Both sides bound what they read.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use mainstay_models::{Commit, CommitId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Address, Credentials, Reference};

/// The longest JSON part. Only an answer can come near: a question is a few kilobytes, which a pipe takes at once.
pub const JSON_BYTES_MAX: usize = 1 << 20;

/// A question, with all that is needed to answer it, so that a worker has no state to lose.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The folder that the worker owns.
    pub home: PathBuf,
    /// The folder of another worker, whose mirror's objects are used too.
    pub lender: Option<PathBuf>,
    /// The repository.
    pub address: Address,
    /// Whether the repository is read where it lies.
    pub in_place: bool,
    /// What is followed.
    pub reference: Reference,
    /// How to be let in.
    pub credentials: Credentials,
    /// What lets us in, where it lies in no file.
    pub token: Option<String>,
    /// The most bytes that one fetch may bring.
    pub transfer_bytes_max: u64,
    /// How long a fetch may go without `pace_bytes` having come.
    pub pace: Duration,
    /// See there.
    pub pace_bytes: u64,
    /// What is asked.
    pub request: Request,
}

/// What is asked of the worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Which commit does the remote advertise? Nothing is fetched.
    Advertise,
    /// Fetch that commit.
    Fetch,
    /// What does a fetched commit say about itself?
    Describe {
        /// The commit.
        commit: CommitId,
    },
    /// What is in a regular file of a fetched commit?
    Read {
        /// The commit.
        commit: CommitId,
        /// The file.
        path: String,
        /// The most bytes it may have.
        bytes_max: u64,
    },
    /// What are the bytes of a fetched commit object?
    CommitObject {
        /// The commit.
        commit: CommitId,
        /// The most bytes it may have.
        bytes_max: u64,
    },
    /// What is in a folder at the top of a fetched commit?
    Folder {
        /// The commit.
        commit: CommitId,
        /// The folder.
        name: String,
        /// The most entries it may have.
        entries_max: usize,
    },
    /// How does a fetched commit stand to an earlier one, and which commits came in between?
    Lineage {
        /// The commit.
        commit: CommitId,
        /// The earlier one.
        earlier: CommitId,
        /// The most commits to answer with.
        commits_max: usize,
    },
    /// Which commits, by first parents from a fetched one, changed any of some files and folders?
    History {
        /// The commit to start from.
        commit: CommitId,
        /// The files and folders.
        paths: Vec<String>,
        /// The most commits to look at.
        commits_max: usize,
        /// The most commits to answer with.
        entries_max: usize,
    },
}

/// The worker's answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// What the remote advertises.
    Advertised(Advertised),
    /// What was fetched.
    Fetched(Fetched),
    /// What the commit says about itself.
    Described(Commit),
    /// This many raw bytes follow.
    Blob {
        /// How many.
        size_bytes: u64,
    },
    /// The object id of each entry; nothing where there is no such folder.
    Folder(BTreeMap<String, String>),
    /// How the commits stand to each other.
    Lineage(Lineage),
    /// The commits that changed something.
    History(History),
    /// It cannot be done.
    Failed(Failure),
}

/// What the remote says that the followed reference is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertised {
    /// The commit.
    pub commit: CommitId,
    /// The full name of the branch or tag that stands for it; the commit where that is what is followed.
    pub name: String,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// What the remote advertised while it was fetched.
    pub advertised: Advertised,
    /// How many bytes came.
    pub bytes: u64,
}

/// How a commit stands to one that was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// How.
    pub relation: Relation,
    /// What can be reached from the commit, by all parents, and not from the earlier one; newest first. Empty where the
    /// earlier one is not there.
    pub commits: Vec<CommitId>,
    /// Whether these are all.
    pub complete: bool,
}

/// How a commit stands to one that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// It descends from it, or is the same.
    Descendant,
    /// It is one of its ancestors.
    Ancestor,
    /// Neither: their histories have parted, or never met.
    Apart,
    /// The earlier one is not in the repository any more.
    Gone,
}

/// The commits that changed a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Newest first.
    pub commits: Vec<Commit>,
    /// Whether there are no earlier ones.
    pub complete: bool,
}

/// Why the worker could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The remote could not be asked.
    #[error("cannot {attempt} {address}: {reason}")]
    Remote {
        /// What was attempted.
        attempt: String,
        /// The repository.
        address: String,
        /// Why.
        reason: String,
    },
    /// The remote has begun to send, and sends too slowly. The worker still waits for it, so it is to be ended.
    #[error("cannot fetch from {address}: it gave less than {pace_bytes} bytes in {} s", pace.as_secs_f64())]
    Slow {
        /// The repository.
        address: String,
        /// What should have come.
        pace_bytes: u64,
        /// In which time.
        pace: Duration,
    },
    /// The remote has no such reference.
    #[error("{address} has no branch or tag `{reference}`: create it there, or follow another with --ref")]
    NoReference {
        /// The repository.
        address: String,
        /// The reference.
        reference: String,
    },
    /// The remote has no tag in the range.
    #[error(
        "{address} has no tag in the range `{range}`; {versions} of its tags are versions: tag a commit such as v1.2.3, \
         or follow another range with --ref (a pre-release is only chosen by a range that names one)"
    )]
    NoTag {
        /// The repository.
        address: String,
        /// The range.
        range: String,
        /// How many tags are versions.
        versions: usize,
    },
    /// Tags of one version that point to different commits.
    #[error("{address} has the tags `{one}` and `{other}`, which are one version and two commits: delete one of them")]
    AmbiguousTags {
        /// The repository.
        address: String,
        /// One of them.
        one: String,
        /// Another.
        other: String,
    },
    /// The reference points to something else.
    #[error("`{reference}` in {address} points to a {kind}, not to a commit: move it to a commit")]
    NotACommit {
        /// The repository.
        address: String,
        /// The reference.
        reference: String,
        /// What it points to.
        kind: String,
    },
    /// The worker's own folder cannot be used.
    #[error("cannot use the mirror in {folder}: {reason}")]
    Folder {
        /// The folder.
        folder: String,
        /// Why.
        reason: String,
    },
    /// The mirror is damaged and was thrown away; the next fetch makes it anew.
    #[error("the mirror was damaged and has been thrown away ({reason}): the next pass fetches it again")]
    Damaged {
        /// How it showed.
        reason: String,
    },
    /// The repository, which is read where it lies, lacks commits.
    #[error(
        "{address} is a shallow clone that does not hold every commit since the live {earlier}: fetch them with \
         `git fetch --unshallow` (for actions/checkout: `fetch-depth: 0`)"
    )]
    Shallow {
        /// The repository.
        address: String,
        /// The first digits of the commit that its history is to reach.
        earlier: String,
    },
    /// The commit has no such file.
    #[error("{path} is not in the commit")]
    NoFile {
        /// The file.
        path: String,
    },
    /// The path leads to something that is not read.
    #[error("{path} is {kind}: only regular files are read")]
    NotAFile {
        /// The path.
        path: String,
        /// What it is.
        kind: String,
    },
    /// The file is larger than allowed.
    #[error("{path} has {size_bytes} bytes, more than the {bytes_max} allowed")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        size_bytes: u64,
        /// The most that was allowed.
        bytes_max: u64,
    },
}

/// Writes the JSON part of a frame.
pub fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).ok().filter(|&length| length as usize <= JSON_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a message is too long for its frame"))?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&json)?;
    to.flush()
}

/// Reads the JSON part of a frame.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > JSON_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
