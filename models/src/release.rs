//! A release: what one commit means for one environment, fully resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Blob, EnvironmentName, ModelName, Move, ReleaseName, Version};

/// The complete set of models that one commit asks for, with the digest of every byte they need.
///
/// Its serialised form is the same for the same commit, wherever and whenever it is made; rollbacks and fallbacks apart.
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
    /// The models whose stable versions move only together: if one cannot be had, none of its group moves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub together: Vec<BTreeSet<ModelName>>,
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
    /// What answers where the stable version does not load and nothing answered before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// A version that an earlier commit asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// The version.
    pub version: Version,
    /// Its bytes.
    pub bytes: ReleasedVersion,
    /// The commit that asked for it, which the release's own commit descends from.
    pub commit: CommitId,
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
    /// Models that are to move together are not among the models, too few, or in two groups.
    #[error("the models that move together are not each in one group of at least two of the release's models")]
    Together,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelease {
    environment: EnvironmentName,
    commit: Commit,
    default: ModelName,
    models: BTreeMap<ModelName, ReleasedModel>,
    #[serde(default)]
    together: Vec<BTreeSet<ModelName>>,
    changes: Vec<Change>,
    rollback: Option<Rollback>,
}

impl TryFrom<RawRelease> for Release {
    type Error = ReleaseError;

    fn try_from(raw: RawRelease) -> Result<Self, ReleaseError> {
        let release = Self::new(raw.environment, raw.commit, raw.default, raw.models, raw.changes)?;
        let release = release.moving_together(raw.together)?;
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
        Ok(Self { environment, commit, default, models, together: Vec::new(), changes, rollback: None })
    }

    /// The same, whose models move together in `groups`.
    pub fn moving_together(self, groups: Vec<BTreeSet<ModelName>>) -> Result<Self, ReleaseError> {
        let members: BTreeSet<_> = groups.iter().flatten().collect();
        let each_in_one = members.len() == groups.iter().map(BTreeSet::len).sum::<usize>();
        let known = members.iter().all(|name| self.models.contains_key(*name));
        if !each_in_one || !known || groups.iter().any(|group| group.len() < 2) {
            return Err(ReleaseError::Together);
        }
        Ok(Self { together: groups, ..self })
    }

    /// Every model once, in sets that move as one: the groups, then each other model alone.
    pub fn units(&self) -> Vec<BTreeSet<ModelName>> {
        let mut units = self.together.clone();
        let alone = self.models.keys().filter(|name| !self.together.iter().any(|group| group.contains(*name)));
        units.extend(alone.map(|name| BTreeSet::from([name.clone()])));
        units
    }

    /// The same, as a way back.
    pub(crate) fn rolled_back(self, rollback: Rollback) -> Self {
        Self { rollback: Some(rollback), ..self }
    }

    /// Whether the same models are asked for, whatever asked for them and whatever stands in for one that does not load.
    pub fn serves_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&ReleasedModel, &ReleasedModel)| (&a.stable, &a.versions) == (&b.stable, &b.versions);
        self.default == other.default
            && self.models.keys().eq(other.models.keys())
            && self.models.values().zip(other.models.values()).all(same)
    }

    /// Every blob that the release needs; a blob may come more than once.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        let versions = self
            .models
            .values()
            .flat_map(|model| model.versions.values().chain(model.fallback.iter().map(|fallback| &fallback.bytes)));
        versions.flat_map(|version| [version.spec, version.artifact])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(bytes: &[u8]) -> ReleasedVersion {
        ReleasedVersion { spec: Blob::of(bytes), artifact: Blob::of(bytes) }
    }

    fn release() -> Release {
        let one: Version = "1.0.0".parse().unwrap();
        let versions = BTreeMap::from([(one.clone(), version(b"one"))]);
        let model = ReleasedModel { stable: one, versions, fallback: None };
        let models = ["a", "b", "c"].map(|name| (name.parse().unwrap(), model.clone()));
        let id = "1".repeat(40).parse().unwrap();
        let commit = Commit { id, author: "Ada".to_owned(), subject: "Serve".to_owned(), time_unix_s: 0 };
        Release::new("prod".parse().unwrap(), commit, "a".parse().unwrap(), models.into(), Vec::new()).unwrap()
    }

    fn group(names: &[&str]) -> BTreeSet<ModelName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_release_without_groups_and_fallbacks_is_written_as_before_there_were_any() {
        let text = serde_json::to_string(&release()).unwrap();
        assert!(!text.contains("together") && !text.contains("fallback"), "{text}");
        assert_eq!(serde_json::from_str::<Release>(&text).unwrap(), release());
    }

    #[test]
    fn groups_and_fallbacks_are_read_as_they_were_written() {
        let mut release = release().moving_together(vec![group(&["a", "c"])]).unwrap();
        let fallback =
            Fallback { version: "0.9.0".parse().unwrap(), bytes: version(b"old"), commit: release.commit.id.clone() };
        release.models.get_mut("a").unwrap().fallback = Some(fallback);
        let text = serde_json::to_string(&release).unwrap();
        assert_eq!(serde_json::from_str::<Release>(&text).unwrap(), release);
        assert_eq!(release.units(), [group(&["a", "c"]), group(&["b"])]);
        assert!(release.blobs().any(|blob| blob == Blob::of(b"old")), "a fallback's bytes are kept");
        assert!(release.serves_as(&self::release()), "what stands in is not what is asked for");
    }

    #[test]
    fn a_group_is_of_two_models_of_the_release_that_are_in_no_other() {
        for groups in [vec![group(&["a"])], vec![group(&["a", "z"])], vec![group(&["a", "b"]), group(&["b", "c"])]] {
            assert_eq!(release().moving_together(groups), Err(ReleaseError::Together));
        }
    }
}
