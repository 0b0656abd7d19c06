//! What `/status` says: the release whose pass is done, every version that it asks for, and what answers instead.

use mainstay_models::{CommitId, Digest, ModelName, Role, Version};
use serde::Serialize;

use crate::catalog::Catalog;
use crate::engine::EngineName;

/// How the last pass went: the body of `/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The release whose pass is done; none before the first, or without a store.
    pub release: Option<ReleaseStatus>,
    /// Every version that the release asks for.
    pub models: Vec<VersionStatus>,
    /// The versions that are being loaded for a newer release, or once more for this one.
    pub loading: Vec<Loading>,
    /// Why the store cannot be read at the moment.
    pub trouble: Option<String>,
}

/// The release that a status is about.
#[derive(Debug, Clone, Serialize)]
pub struct ReleaseStatus {
    /// Its name in the store.
    pub name: String,
    /// The commit that asked for it.
    pub commit: CommitId,
    /// The digest of its file.
    pub sha256: Digest,
    /// When its pass was done, in seconds since 1970.
    pub done_unix_s: u64,
}

impl Status {
    /// The same with `models` instead of what it says of the model `name`.
    pub(super) fn with(&self, name: &ModelName, models: Vec<VersionStatus>) -> Self {
        let mut status = self.clone();
        status.models.retain(|version| version.name != *name);
        status.models.extend(models);
        status.models.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        status
    }

    /// The same once an order has unloaded the model `name`.
    pub(super) fn unloaded(&self, name: &ModelName) -> Self {
        let mut status = self.clone();
        for version in status.models.iter_mut().filter(|version| version.name == *name) {
            version.state = State::Unloaded;
            version.reason = Some(UNLOADED.to_owned());
            (version.serving, version.commit, version.fallback) = (None, None, None);
            (version.engine, version.not_compiled) = (None, None);
        }
        status
    }
}

/// How it went with one version that a release asks for.
#[derive(Debug, Clone, Serialize)]
pub struct VersionStatus {
    /// The model.
    pub name: ModelName,
    /// The version asked for.
    pub version: Version,
    /// What it is asked for as.
    pub role: Role,
    /// Whether it is live.
    pub state: State,
    /// The digest of its model file.
    pub sha256: Digest,
    /// The version that answers in this role: another one where this one is not live, or none.
    pub serving: Option<Version>,
    /// The newest commit that asked for what answers.
    pub commit: Option<CommitId>,
    /// Why it is not live.
    pub reason: Option<String>,
    /// The earlier version that the release brings along for this case, where it was needed.
    pub fallback: Option<FallbackStatus>,
    /// What runs it, if it is loaded.
    pub engine: Option<EngineName>,
    /// Why it is not compiled, if it is loaded and is not.
    pub not_compiled: Option<String>,
}

/// How it went with the version that stands in for one that does not load.
#[derive(Debug, Clone, Serialize)]
pub struct FallbackStatus {
    /// The version.
    pub version: Version,
    /// The commit that asked for it.
    pub commit: CommitId,
    /// Whether it is live.
    pub state: State,
    /// Why it is not.
    pub reason: Option<String>,
}

/// Whether a version is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It answers.
    Live,
    /// It failed its checks.
    Failed,
    /// It is good, and waits for another model that it moves together with.
    Held,
    /// An order unloaded its model.
    Unloaded,
}

/// Why a version of a model that an order unloaded is not live.
pub(super) const UNLOADED: &str = "unloaded by a request; load it again, or ask for another version";

/// A version that is being loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Loading {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub version: Version,
}

/// The status of a catalog that no store asked for.
pub fn embedded_status(catalog: &Catalog) -> Status {
    let models = catalog.models.iter().flat_map(|(name, model)| {
        model.versions.iter().map(|(version, loaded)| VersionStatus {
            name: name.clone(),
            version: version.clone(),
            role: Role::Stable,
            state: State::Live,
            sha256: loaded.blobs.artifact.sha256,
            serving: Some(version.clone()),
            commit: None,
            reason: None,
            fallback: None,
            engine: Some(loaded.engine.name()),
            not_compiled: loaded.not_compiled.clone(),
        })
    });
    Status { models: models.collect(), ..Status::default() }
}
