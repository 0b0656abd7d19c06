//! What /status says, and the words in it.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_models::store::Current;
use mainstay_models::{Commit, CommitId, Digest, EnvironmentName, ModelName, ReleasedModel, Rollback};
use serde::Serialize;

use crate::ledger::Holds;
use crate::server::FailedModel;
use crate::trouble::{Refusal, Trouble};
use crate::trust::model::SignedModel;
use crate::trust::{Verified, Verify};

/// Whether what is published is what git asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Sync {
    /// The newest commit is published.
    Synced,
    /// The newest commit is known, and something else is published.
    OutOfSync,
    /// Git could not be asked, so the newest commit is not known.
    Unknown,
}

/// How what is published is doing, whatever git asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Health {
    /// The server has taken the release, whole. Without a server to ask: there is a release.
    Healthy,
    /// The server has not taken the release yet.
    Progressing,
    /// There is no release, the server does not take it, or a model of it did not load.
    Degraded,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// A release was published.
    Published,
    /// What is published is what git asks for.
    Unchanged,
    /// What git asks for is verified and held back.
    Held,
    /// The commit was refused, now or earlier.
    Refused,
    /// Something failed that the next pass may not meet.
    Retry,
}

/// Who asked for a pass before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A signed webhook.
    Webhook,
    /// SIGHUP.
    Signal,
    /// The admin listener.
    Operator,
}

/// What /status says. Fields are added, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The environment that is followed.
    pub environment: EnvironmentName,
    /// The repository; it holds no credentials.
    pub repository: String,
    /// The reference that is followed.
    pub reference: String,
    /// The full name of the branch or tag that it stands for, such as the tag that a range chose; as last advertised.
    pub resolved: Option<String>,
    /// Which commits must be signed.
    pub verify: Verify,
    /// Whose word was taken for the newest release; none before this process published one, or without verification.
    pub verified: Option<Verified>,
    /// Whether every version must be signed by itself.
    pub verify_models: bool,
    /// Who signed the versions of the newest release; none before this process published one, or without verification.
    pub signed_models: Vec<SignedModel>,
    /// Whether what is published is what git asks for.
    pub sync: Sync,
    /// How what is published is doing.
    pub health: Health,
    /// Why it is not healthy.
    pub health_reason: Option<String>,
    /// The versions that are asked for and not live in the server.
    pub failed: Vec<FailedModel>,
    /// Why models of which nothing answers have no earlier version to stand in for them.
    pub walk_back: Option<String>,
    /// Why the last pass did not publish what git asks for.
    pub problem: Option<Problem>,
    /// The newest commit that git asked for, as far as known.
    pub desired: Option<CommitId>,
    /// What is verified and may not go live, and why.
    pub held_back: Option<HeldBack>,
    /// What operators hold.
    pub hold: Holds,
    /// What is published.
    pub release: Option<PublishedRelease>,
    /// The last pass.
    pub last_pass: Option<LastPass>,
    /// When a pass last found or made what is published the same as what git asks for, in ms since 1970.
    pub last_success_unix_ms: Option<u64>,
    /// The blobs of published releases that the disk has damaged or lost, and that are not replaced yet.
    pub damaged: Vec<Digest>,
    /// When the whole store was last read again, in ms since 1970.
    pub last_scrub_unix_ms: Option<u64>,
}

/// A release that is verified and may not go live.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HeldBack {
    /// The commit that asks for it.
    pub commit: Commit,
    /// What holds it back.
    pub by: HeldBy,
    /// Why, in one line.
    pub reason: String,
    /// When it goes live by itself, in ms since 1970; null where that takes a person.
    pub until_unix_ms: Option<u64>,
    /// The default model that it asks for.
    pub default: ModelName,
    /// The models that it asks for.
    pub models: BTreeMap<ModelName, ReleasedModel>,
    /// The models that move only together.
    pub together: Vec<BTreeSet<ModelName>>,
}

/// What holds a release back, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldBy {
    /// serving.yaml: `suspend`.
    Suspend,
    /// An operator's `mainstay hold`.
    Operator,
    /// An operator's `mainstay rollback`.
    Rollback,
    /// serving.yaml: `hold`.
    Hold,
    /// serving.yaml: `windows`.
    Window,
    /// serving.yaml: `sync: manual`.
    Manual,
}

/// Why a pass did not publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Problem {
    /// A person must change git.
    Refused {
        /// The commit that was refused.
        commit: CommitId,
        /// The refusal in one line.
        text: String,
        /// The refusal in parts.
        #[serde(flatten)]
        refusal: Refusal,
    },
    /// The next pass tries again.
    Retry {
        /// What went wrong.
        text: String,
    },
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PublishedRelease {
    /// Its name in the store.
    pub name: String,
    /// The digest of its file.
    pub sha256: Digest,
    /// The commit that asked for it.
    pub commit: Commit,
    /// The default model.
    pub default: ModelName,
    /// The models.
    pub models: BTreeMap<ModelName, ReleasedModel>,
    /// The models that move only together.
    pub together: Vec<BTreeSet<ModelName>>,
    /// Where it is an earlier release's content again: which, and instead of what.
    pub rollback: Option<Rollback>,
    /// Its way here.
    pub times: Times,
}

/// The way of a release, in ms since 1970; null for what this process has not seen, such as before a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Times {
    /// The remote was first seen to advertise its commit.
    pub desired_unix_ms: Option<u64>,
    /// Its commit was fetched.
    pub fetched_unix_ms: Option<u64>,
    /// All its bytes were verified and in the store.
    pub verified_unix_ms: Option<u64>,
    /// The server was first seen to have taken it.
    pub loaded_unix_ms: Option<u64>,
    /// The server was first seen to have taken it with every model loaded.
    pub live_unix_ms: Option<u64>,
}

/// The last pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastPass {
    /// How it ended.
    pub ended: Ended,
    /// When it ended, in ms since 1970.
    pub at_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// The newest trigger that it answers; triggers are counted from 1.
    pub trigger: u64,
}

impl Status {
    /// Whether git is known to ask for something else than is published.
    pub(super) fn is_behind(&self) -> bool {
        let published = self.release.as_ref().map(|release| &release.commit.id);
        self.desired.is_some() && self.desired.as_ref() != published
    }
}

impl Ended {
    pub(super) const ALL: [Self; 5] = [Self::Published, Self::Unchanged, Self::Held, Self::Refused, Self::Retry];

    /// Its name in /status and in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Unchanged => "unchanged",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::Retry => "retry",
        }
    }
}

impl HeldBy {
    pub(super) const ALL: [Self; 6] =
        [Self::Suspend, Self::Operator, Self::Rollback, Self::Hold, Self::Window, Self::Manual];

    /// Its name in /status and in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Operator => "operator",
            Self::Rollback => "rollback",
            Self::Hold => "hold",
            Self::Window => "window",
            Self::Manual => "manual",
        }
    }
}

impl Trigger {
    pub(super) const ALL: [Self; 3] = [Self::Webhook, Self::Signal, Self::Operator];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Signal => "signal",
            Self::Operator => "operator",
        }
    }
}

impl Problem {
    pub(crate) fn new(trouble: &Trouble, commit: Option<&CommitId>) -> Self {
        match (trouble, commit) {
            (Trouble::Refused(refusal), Some(commit)) => {
                Self::Refused { commit: commit.clone(), text: refusal.to_string(), refusal: refusal.clone() }
            }
            _ => Self::Retry { text: trouble.to_string() },
        }
    }
}

impl PublishedRelease {
    pub(crate) fn new(current: &Current, times: Times) -> Self {
        Self {
            name: current.name.to_string(),
            sha256: current.sha256,
            commit: current.release.commit.clone(),
            default: current.release.default.clone(),
            models: current.release.models.clone(),
            together: current.release.together.clone(),
            rollback: current.release.rollback.clone(),
            times,
        }
    }
}
