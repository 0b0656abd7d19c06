//! The models being served: a picture that is never changed, only replaced as a whole.
//!
//! Picks the version for a request. Knows nothing of how models come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_models::{Change, CommitId, Digest, ModelName, ModelSpec, ReleaseName, ReleasedVersion, Version};

use crate::engine::Engine;
use crate::monitor::VersionMetrics;
use crate::reference::Documents;
use crate::wire::Signature;

/// Everything that is served at one instant.
#[derive(Default)]
pub struct Catalog {
    /// The release that asked for it; none without a store or before the first release.
    pub release: Option<LiveRelease>,
    /// The model that a request without a model's name gets.
    pub default: Option<ModelName>,
    /// The models, also those of which no version could be loaded.
    pub models: BTreeMap<ModelName, CatalogModel>,
    /// The commits that changed what is served, newest first.
    pub changes: Vec<Change>,
    /// Whether the first release is still being loaded, so that this is a part of it.
    pub partial: bool,
    /// What may be asked of it, written down once somebody wants to know.
    pub documents: Documents,
}

/// Which release a catalog shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRelease {
    /// Its name in the store.
    pub name: ReleaseName,
    /// The digest of its file.
    pub sha256: Digest,
}

/// One model of a catalog; without anything that answers by default.
#[derive(Clone, Default)]
pub struct CatalogModel {
    /// The version that answers unless a request names another; none where none could be loaded.
    pub stable: Option<Version>,
    /// Every loaded version.
    pub versions: BTreeMap<Version, Arc<LoadedVersion>>,
    /// The newest commit that asked for what is served here; none where the models came without git.
    pub commit: Option<CommitId>,
}

/// A version that is loaded, checked and warm.
pub struct LoadedVersion {
    /// Its card.
    pub spec: ModelSpec,
    /// The digests of its card and its file.
    pub blobs: ReleasedVersion,
    /// Its features, prepared for decoding requests.
    pub signature: Signature,
    /// What answers.
    pub engine: Engine,
    /// Why the engine is not the compiled one; none if it is.
    pub not_compiled: Option<String>,
    /// What counts.
    pub metrics: VersionMetrics,
}

/// The version that answers a request.
pub struct Picked {
    /// The version.
    pub version: Arc<LoadedVersion>,
    /// The commit that asked for it.
    pub commit: Option<CommitId>,
}

/// Why no version answers a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// No release has been loaded yet.
    #[error("no model is loaded yet; try again shortly")]
    Empty,
    /// No such model is asked for by the configuration.
    #[error("there is no model `{name}`; there are {}", known.join(", "))]
    Model {
        /// The name, cut to a printable length.
        name: String,
        /// The models that there are.
        known: Vec<String>,
    },
    /// The model has no such version loaded.
    #[error("model `{name}` has no version `{version}` loaded; it has {}", known.join(", "))]
    Version {
        /// The model.
        name: ModelName,
        /// The version, cut to a printable length.
        version: String,
        /// The versions that there are.
        known: Vec<String>,
    },
    /// The model is asked for, but none of its versions is loaded.
    #[error("model `{name}` is asked for, but it is not loaded; its operator sees why in the server's status")]
    Unloaded {
        /// The model.
        name: ModelName,
    },
}

impl CatalogModel {
    /// The stable version, where there is one.
    pub fn stable_version(&self) -> Option<(&Version, &Arc<LoadedVersion>)> {
        self.versions.get_key_value(self.stable.as_ref()?)
    }
}

impl Catalog {
    /// The version for a request that names a `model` and a `version`, or leaves either to the catalog.
    pub fn pick(&self, model: Option<&str>, version: Option<&str>) -> Result<Picked, PickError> {
        let default = self.default.as_ref().ok_or(PickError::Empty)?;
        let asked = model.unwrap_or(default.as_str());
        let Some((name, model)) = self.models.get_key_value(asked) else {
            let known = self.models.keys().map(ToString::to_string).collect();
            return Err(PickError::Model { name: printable(asked), known });
        };
        let stable = model.stable.as_ref().ok_or_else(|| PickError::Unloaded { name: name.clone() })?;
        let found = match version {
            None => model.versions.get(stable),
            Some(version) => version.parse().ok().and_then(|version: Version| model.versions.get(&version)),
        };
        match found {
            Some(found) => Ok(Picked { version: Arc::clone(found), commit: model.commit.clone() }),
            None => Err(PickError::Version {
                name: name.clone(),
                version: printable(version.unwrap_or_default()),
                known: model.versions.keys().map(ToString::to_string).collect(),
            }),
        }
    }

    /// The same with `model` under `name`.
    #[must_use]
    pub fn with(&self, name: ModelName, model: CatalogModel) -> Self {
        let mut models = self.models.clone();
        models.insert(name, model);
        Self {
            release: self.release.clone(),
            default: self.default.clone(),
            models,
            changes: self.changes.clone(),
            partial: self.partial,
            documents: Documents::default(),
        }
    }

    /// Whether any version answers, and none that may still come with the first release is waited for.
    pub fn answers(&self) -> bool {
        !self.partial && self.models.values().any(|model| model.stable.is_some())
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
