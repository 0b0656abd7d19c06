//! A release: what one commit means for one environment, fully resolved.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Blob, EnvironmentName, ModelName, Move, ReleaseName, Version};

/// The complete set of models that one commit asks for, with the digest of every byte they need.
///
/// Its serialised form is the same for the same commit, wherever and whenever it is made; a rollback apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRelease")]
#[non_exhaustive]
pub struct Release {
    /// The environment whose serving.yaml was followed.
    pub environment: EnvironmentName,
    /// The commit that asked for this.
    pub commit: Commit,
    /// The model that a request without a model's name gets; one of `models`.
    pub default: ModelName,
    /// The models, never empty.
    pub models: BTreeMap<ModelName, ReleasedModel>,
    /// The commits that changed what is served, newest first; as many as the publisher keeps.
    pub changes: Vec<Change>,
    /// Where this is the content of an earlier release again: which, and instead of what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
}

/// A way back inside one store, without git.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The release that was live before.
    pub from: ReleaseName,
    /// The earlier release whose content is live again.
    pub to: ReleaseName,
}

/// One model of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasedModel {
    /// The version that answers unless a request names another; one of `versions`.
    pub stable: Version,
    /// Every version to load.
    pub versions: BTreeMap<Version, ReleasedVersion>,
}

/// The bytes of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasedVersion {
    /// The model.yaml.
    pub spec: Blob,
    /// The model.onnx.
    pub artifact: Blob,
}

/// A commit, as far as people need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Its object id.
    pub id: CommitId,
    /// The author's name.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
    /// When the committer says it was made, in seconds since 1970 (UTC). Shown, never used for ordering.
    pub time_unix_s: i64,
}

/// A commit that changed what is served, and what it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The commit.
    pub commit: Commit,
    /// What changed; empty where the commit's serving.yaml could not be read.
    pub moves: Vec<Move>,
}

/// The object id of a commit: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(String);

impl CommitId {
    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 10 digits, for people to read.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

/// A text that is not a commit's object id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a commit id: write its 40 or 64 lower-case hexadecimal digits")]
pub struct CommitIdError;

impl FromStr for CommitId {
    type Err = CommitIdError;

    fn from_str(text: &str) -> Result<Self, CommitIdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let good = matches!(text.len(), 40 | 64) && text.bytes().all(hex);
        if good { Ok(Self(text.to_owned())) } else { Err(CommitIdError) }
    }
}

impl TryFrom<String> for CommitId {
    type Error = CommitIdError;

    fn try_from(text: String) -> Result<Self, CommitIdError> {
        text.parse()
    }
}

impl From<CommitId> for String {
    fn from(id: CommitId) -> String {
        id.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of models that is not a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The default model is not among the models.
    #[error("the default model `{0}` is not one of the release's models")]
    Default(ModelName),
    /// A model's stable version is not among its versions.
    #[error("the stable version {1} of `{0}` is not one of its versions")]
    Stable(ModelName, Version),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelease {
    environment: EnvironmentName,
    commit: Commit,
    default: ModelName,
    models: BTreeMap<ModelName, ReleasedModel>,
    changes: Vec<Change>,
    rollback: Option<Rollback>,
}

impl TryFrom<RawRelease> for Release {
    type Error = ReleaseError;

    fn try_from(raw: RawRelease) -> Result<Self, ReleaseError> {
        let release = Self::new(raw.environment, raw.commit, raw.default, raw.models, raw.changes)?;
        Ok(Self { rollback: raw.rollback, ..release })
    }
}

impl Release {
    /// Puts a release together.
    pub fn new(
        environment: EnvironmentName,
        commit: Commit,
        default: ModelName,
        models: BTreeMap<ModelName, ReleasedModel>,
        changes: Vec<Change>,
    ) -> Result<Self, ReleaseError> {
        if !models.contains_key(&default) {
            return Err(ReleaseError::Default(default));
        }
        if let Some((name, model)) = models.iter().find(|(_, model)| !model.versions.contains_key(&model.stable)) {
            return Err(ReleaseError::Stable(name.clone(), model.stable.clone()));
        }
        Ok(Self { environment, commit, default, models, changes, rollback: None })
    }

    /// The same, as a way back.
    pub(crate) fn rolled_back(self, rollback: Rollback) -> Self {
        Self { rollback: Some(rollback), ..self }
    }

    /// Whether the same models answer in the same way, whatever asked for them.
    pub fn serves_as(&self, other: &Self) -> bool {
        self.default == other.default && self.models == other.models
    }

    /// Every blob that the release needs; a blob may come more than once.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        self.models.values().flat_map(|model| model.versions.values()).flat_map(|v| [v.spec, v.artifact])
    }
}
