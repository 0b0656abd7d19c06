//! From bytes to versions that answer.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use mainstay_models::embedded::Embedded;
use mainstay_models::{Blob, ModelSpec, ReleasedVersion};

use super::trial::{self, Admission};
use crate::catalog::{Catalog, CatalogModel, LoadedVersion};
use crate::engine::{Engine, EngineChoice};
use crate::monitor::Metrics;
use crate::wire::Signature;

/// Turns bytes into versions that answer.
pub struct Loader {
    /// Which engine models are to be run by.
    pub engine: EngineChoice,
    /// What counts.
    pub metrics: Arc<Metrics>,
    /// How many requests one version may answer at the same time.
    pub sessions: NonZeroUsize,
}

impl Loader {
    /// Loads, checks and warms one version. The error is one line for people.
    pub(super) fn load(
        &self,
        spec: ModelSpec,
        blobs: ReleasedVersion,
        artifact: &[u8],
        admission: &Admission,
    ) -> Result<LoadedVersion, String> {
        let engine = trial::load(self.engine, admission, artifact, &spec, self.sessions)?;
        Ok(self.with_engine(spec, blobs, engine))
    }

    /// The version that [`trial::load`] has made `engine` for.
    pub(super) fn with_engine(
        &self,
        spec: ModelSpec,
        blobs: ReleasedVersion,
        (engine, not_compiled): (Engine, Option<String>),
    ) -> LoadedVersion {
        let signature = Signature::new(&spec).with_interface(engine.interface());
        let metrics = self.metrics.version(&spec);
        LoadedVersion { spec, blobs, signature, engine, not_compiled, metrics }
    }

    /// A catalog of shipped models, of each the newest version; the first model is the default.
    pub fn embedded(&self, models: &[Embedded]) -> Result<Catalog, EmbeddedError> {
        let newest: BTreeMap<&str, &Embedded> = models.iter().map(|model| (model.name, model)).collect();
        // Each on a thread of its own: they are few, and so is the time until the server is ready.
        let loaded: Vec<_> = std::thread::scope(|scope| {
            let loads: Vec<_> = newest.values().map(|model| scope.spawn(|| self.shipped(model))).collect();
            loads.into_iter().map(|load| load.join().expect("a load turns every failure into an error")).collect()
        });
        let mut catalog = Catalog::default();
        for loaded in loaded {
            let loaded = Arc::new(loaded?);
            let (name, version) = (loaded.spec.name.clone(), loaded.spec.version.clone());
            let stable = Some(version.clone());
            catalog.default.get_or_insert_with(|| name.clone());
            let versions = BTreeMap::from([(version, loaded)]);
            catalog.models.insert(name, CatalogModel { stable, versions, commit: None });
        }
        Ok(catalog)
    }

    fn shipped(&self, model: &Embedded) -> Result<LoadedVersion, EmbeddedError> {
        let fail = |reason| EmbeddedError { name: model.name, version: model.version, reason };
        let file = format!("{}/{}/model.yaml", model.name, model.version);
        let spec = ModelSpec::parse(&file, model.spec).map_err(|e| fail(e.to_string()))?;
        let blobs = ReleasedVersion { spec: Blob::of(model.spec), artifact: spec.artifact.blob };
        // A test compares every shipped model with ONNX Runtime, and these are the same bytes.
        self.load(spec, blobs, model.artifact, &Admission::Compiled).map_err(fail)
    }
}

/// A shipped model that does not load: the runtime is not the one that it was tested with.
#[derive(Debug, thiserror::Error)]
#[error("cannot load the shipped model {name} {version}: {reason}")]
pub struct EmbeddedError {
    name: &'static str,
    version: &'static str,
    reason: String,
}
