//! Answers what a commit of the followed repository would change, without publishing anything of it.
//!
//! Asks with a git worker and a mirror of its own, which both end with the answer: the loop's are left alone, and nothing
//! waits for it. What the loop's mirror has is borrowed from it and not fetched again; where that mirror is replaced
//! meanwhile, there is no answer this time. Reads the environment's files and no more: nothing is fetched from outside git, no signature is verified,
//! and what it reads is believed by nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_models::store::ReadError;
use mainstay_models::{Blob, Commit, CommitId, EnvironmentName, ModelName, Reader, ReleasedModel};
use serde::Serialize;

use crate::Control;
use crate::agent::unread;
use crate::desired::{Desired, Origin, desired};
use crate::git::{self, Advertised, Git, Reference, ReferenceError};
use crate::trouble::{Refusal, Trouble};

/// How long a fetch may take: somebody waits for the answer.
const FETCH_MAX: Duration = Duration::from_secs(60);
/// The fewest digits by which a commit may be named, as far as the store knows it.
const DIGITS_MIN: usize = 7;
/// The most bytes of cards in an answer.
const CARDS_BYTES_MAX: usize = 32 << 20;

/// Where answers come from.
#[derive(Debug, Clone)]
pub struct Inquiry {
    /// How the followed repository is asked; its folder holds the one for inquiries.
    pub git: git::Settings,
    /// The environment.
    pub environment: EnvironmentName,
    /// The store that says what is live.
    pub store: PathBuf,
    /// Cuts a question to git short.
    pub control: Control,
}

/// What is live, and what a commit asks for.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// What is live; none where nothing is.
    pub live: Option<Side>,
    /// What the commit asks for; none where it would be refused.
    pub asked: Option<Side>,
    /// The commit.
    pub commit: Commit,
    /// What was asked for, as the repository names it.
    pub name: String,
    /// Why it would be refused, as far as its files say.
    pub refused: Option<Refusal>,
}

/// One of the two.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Side {
    /// Its commit.
    pub commit: Commit,
    /// The model that a request without a model's name gets.
    pub default: ModelName,
    /// The models.
    pub models: BTreeMap<ModelName, ReleasedModel>,
    /// The models that move only together.
    pub together: Vec<BTreeSet<ModelName>>,
    /// The cards of the stable versions that are not the same on both sides.
    pub cards: BTreeMap<ModelName, String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InquiryError {
    /// What was asked for is not a name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The repository cannot be asked, or has no such thing.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// The commit cannot be read this time.
    #[error("{0}")]
    Unread(String),
    /// The store cannot be read.
    #[error("cannot read what is live")]
    Store(#[from] ReadError),
    /// There is no folder to work in.
    #[error("cannot work in {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer would be too long.
    #[error("the cards that differ have more than {CARDS_BYTES_MAX} bytes")]
    TooLong,
}

impl Inquiry {
    /// What `asked` would change: a branch, a tag, a range of tags, a commit, or the beginning of one that the store knows.
    /// Blocks, for as long as two fetches may take at most. One at a time.
    pub fn answer(&self, asked: &str) -> Result<Answer, InquiryError> {
        let reader = Reader::new(&self.store);
        let current = reader.current()?.filter(|current| current.release.environment == self.environment);
        let reference: Reference = self.known(&reader, asked)?.parse()?;
        let folder = Workplace::make(self.git.folder.join("diff"))?;
        let (mut git, Advertised { commit, name }) = self.fetch(&folder.0, reference)?;
        let described = git.describe(&commit)?;
        let resolved = desired(&self.environment, |path, bytes_max| git.read(&commit, path, bytes_max).map_err(unread));
        let (wanted, refused) = match resolved {
            Ok(desired) => (Some(desired), None),
            Err(Trouble::Refused(refusal)) => (None, Some(refusal)),
            Err(Trouble::Retry(problem)) => return Err(InquiryError::Unread(problem)),
        };
        let live = current.map(|current| {
            let release = current.release;
            let (default, models, together) = (release.default, release.models, release.together);
            Side { commit: release.commit, default, models, together, cards: BTreeMap::new() }
        });
        let (mut live, mut asked) = (live, None);
        if let Some(Desired { default, models, together, sources, .. }) = wanted {
            let mut texts = BTreeMap::new();
            for source in sources {
                if let Origin::Bytes(bytes) = source.origin {
                    texts.insert(source.blob.sha256, bytes);
                }
            }
            let mut side = Side { commit: described.clone(), default, models, together, cards: BTreeMap::new() };
            let live_models = live.as_ref().map(|live| &live.models);
            for (name, blob) in differing(&side.models, live_models) {
                let bytes = texts.get(&blob.sha256).map_or(&[][..], Vec::as_slice);
                side.cards.insert(name, String::from_utf8_lossy(bytes).into_owned());
            }
            if let Some(live) = &mut live {
                for (name, blob) in differing(&live.models, Some(&side.models)) {
                    live.cards.insert(name, String::from_utf8_lossy(&reader.blob(&blob)?).into_owned());
                }
            }
            asked = Some(side);
        }
        let cards = live.iter().chain(&asked).flat_map(|side| side.cards.values()).map(String::len);
        if cards.sum::<usize>() > CARDS_BYTES_MAX {
            return Err(InquiryError::TooLong);
        }
        Ok(Answer { live, asked, commit: described, name, refused })
    }

    /// The whole id of a commit of which the beginning is asked for, where exactly one release of the store has such a
    /// commit; else what was asked for.
    fn known(&self, reader: &Reader, asked: &str) -> Result<String, InquiryError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if asked.len() < DIGITS_MIN || !asked.bytes().all(hex) {
            return Ok(asked.to_owned());
        }
        let mut commits: Vec<_> = reader.releases()?.into_iter().map(|name| name.commit).collect();
        commits.retain(|commit| commit.as_str().starts_with(asked));
        commits.dedup();
        Ok(match commits.as_slice() {
            [commit] => commit.to_string(),
            _ => asked.to_owned(),
        })
    }

    fn fetch(&self, folder: &Path, reference: Reference) -> Result<(Git, Advertised), InquiryError> {
        let git = |reference: Reference| {
            let (folder, lender) = (folder.to_owned(), Some(self.git.folder.clone()));
            let fetch_deadline = self.git.fetch_deadline.min(FETCH_MAX);
            let settings = git::Settings { folder, lender, reference, fetch_deadline, ..self.git.clone() };
            Git::new(settings, self.control.clone())
        };
        let mut asking = git(reference.clone());
        let error = match asking.fetch() {
            Ok(fetched) => return Ok((asking, fetched.advertised)),
            Err(error) => error,
        };
        // Not every host gives out a commit that no name leads to: it may lie in the history of what is followed.
        let Some(commit) = reference.commit() else { return Err(error.into()) };
        let id: CommitId = commit.parse().expect("a reference's commit has the digits of one");
        let mut following = git(self.git.reference.clone());
        following.fetch()?;
        match following.describe(&id) {
            Ok(_) => Ok((following, Advertised { commit: id, name: commit.to_owned() })),
            Err(_) => Err(error.into()),
        }
    }
}

/// The cards of the stable versions that are not the same on the other side.
fn differing(
    models: &BTreeMap<ModelName, ReleasedModel>,
    other: Option<&BTreeMap<ModelName, ReleasedModel>>,
) -> Vec<(ModelName, Blob)> {
    let card = |model: &ReleasedModel| model.versions.get(&model.stable).map(|version| version.spec);
    let cards = models.iter().filter_map(|(name, model)| {
        let own = card(model)?;
        let theirs = other.and_then(|other| other.get(name)).and_then(card);
        (theirs != Some(own)).then(|| (name.clone(), own))
    });
    cards.collect()
}

/// A folder that is there while somebody works in it, and was emptied before.
struct Workplace(PathBuf);

impl Workplace {
    fn make(folder: PathBuf) -> Result<Self, InquiryError> {
        match std::fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(InquiryError::Folder { folder, source }),
            _ => Ok(Self(folder)),
        }
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // What is left is emptied by the next one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
