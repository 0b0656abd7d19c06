//! Store to engines to catalog: one idempotent pass, repeated.
//!
//! A pass compares what the store's `current` asks for with what is served, loads what is new aside, and
//! swaps the catalog once. Load before unload, always; what is unchanged by its digests is reused; a
//! model that fails keeps what it served before, with the reason in the status, and holds up no other.
//!
//! A file system event is a hint that carries no data; a poll each second is the truth, since inotify
//! misses swaps on mounted volumes.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use mainstay_models::embedded::Embedded;
use mainstay_models::store::Current;
use mainstay_models::{
    Blob, CommitId, Digest, ModelName, ModelSpec, Reader, ReleaseName, ReleasedModel, ReleasedVersion, Role, Version,
};
use notify::{RecursiveMode, Watcher};
use serde::Serialize;

use crate::catalog::{Catalog, CatalogModel, LiveRelease, LoadedVersion};
use crate::engine::{EngineChoice, EngineName};
use crate::monitor::{Metrics, ReloadOutcome, unix_now_s};
use crate::wire::Signature;

mod trial;

pub use trial::{Admission, Trial, TrialError, parse_argument as parse_trial_argument, run as run_trial};

/// How often the store is looked at without a hint.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked at while it cannot be watched, since its folder is yet to be made.
const BLIND_INTERVAL: Duration = Duration::from_millis(100);
/// How many versions are remembered as having passed their trial; a rollback to one of them needs no other.
const PASSED_MAX: usize = 256;

/// How the last pass went: the body of `/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The release whose pass is done; none before the first, or without a store.
    pub release: Option<ReleaseStatus>,
    /// Every version that the release asks for.
    pub models: Vec<VersionStatus>,
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
    /// The version that answers in this role: another one where this one failed, or none.
    pub serving: Option<Version>,
    /// Why it failed.
    pub reason: Option<String>,
    /// What runs it, if it is live.
    pub engine: Option<EngineName>,
    /// Why it is not compiled, if it is live and is not.
    pub not_compiled: Option<String>,
}

/// Whether a version is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It answers.
    Live,
    /// It failed its checks.
    Failed,
}

/// Keeps a catalog as a store asks.
pub struct Reloader {
    reader: Reader,
    trial: Trial,
    loader: Loader,
    catalog: Arc<ArcSwap<Catalog>>,
    status: Arc<ArcSwap<Status>>,
    /// The release whose pass is done, so that there is nothing to do until another comes.
    done: Option<ReleaseName>,
    passed: HashMap<ReleasedVersion, Admission>,
}

/// Turns bytes into versions that answer.
pub struct Loader {
    /// Which engine models are to be run by.
    pub engine: EngineChoice,
    /// What counts.
    pub metrics: Arc<Metrics>,
    /// How many requests one version may answer at the same time.
    pub sessions: NonZeroUsize,
}

/// Why a version is not live.
struct Failure {
    reason: String,
    /// Whether trying again may help although the release is the same.
    passing: bool,
}

impl Failure {
    fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passing: false }
    }

    fn passing(error: &dyn Error) -> Self {
        Self { reason: sentence(error), passing: true }
    }
}

impl Reloader {
    /// Follows the store that `reader` reads.
    pub fn new(
        reader: Reader,
        trial: Trial,
        loader: Loader,
        catalog: Arc<ArcSwap<Catalog>>,
        status: Arc<ArcSwap<Status>>,
    ) -> Self {
        Self { reader, trial, loader, catalog, status, done: None, passed: HashMap::new() }
    }

    /// Brings the catalog to what the store asks for; does nothing where it is there already.
    pub fn pass(&mut self) {
        let begun = Instant::now();
        let trouble = self.follow(begun).err();
        if self.status.load().trouble != trouble {
            if let Some(reason) = &trouble {
                tracing::warn!(reason, "cannot read the store");
            }
            self.status.store(Arc::new(Status { trouble, ..Status::clone(&self.status.load()) }));
        }
    }

    fn follow(&mut self, begun: Instant) -> Result<(), String> {
        let name = self.reader.current_name().map_err(|e| sentence(&e))?;
        if name == self.done {
            return Ok(());
        }
        let Some(current) = self.reader.current().map_err(|e| sentence(&e))? else { return Ok(()) };
        self.release(&current, begun);
        Ok(())
    }

    fn release(&mut self, current: &Current, begun: Instant) {
        let previous = self.catalog.load_full();
        let mut models = BTreeMap::new();
        let mut statuses = Vec::new();
        let mut done = true;
        for (name, released) in &current.release.models {
            let old = previous.models.get(name);
            let (model, status, settled) = self.model(name, released, old, &current.release.commit.id);
            models.insert(name.clone(), model);
            statuses.extend(status);
            done &= settled;
        }
        let live = LiveRelease { name: current.name.clone(), sha256: current.sha256 };
        let catalog = Catalog {
            release: Some(live),
            default: Some(current.release.default.clone()),
            models,
            changes: current.release.changes.clone(),
        };
        self.forget(&previous, &catalog);
        self.catalog.store(Arc::new(catalog));

        let failed = statuses.iter().filter(|status| status.state == State::Failed).count();
        let first = self.status.load().release.as_ref().is_none_or(|r| r.name != current.name.to_string());
        self.status.store(Arc::new(Status {
            release: Some(ReleaseStatus {
                name: current.name.to_string(),
                commit: current.release.commit.id.clone(),
                sha256: current.sha256,
                done_unix_s: unix_now_s(),
            }),
            models: statuses,
            trouble: None,
        }));
        if first {
            self.loader.metrics.released(begun.elapsed());
            let took_ms = begun.elapsed().as_millis() as u64;
            let versions = self.status.load().models.len();
            tracing::info!(release = %current.name, versions, failed, took_ms, "released");
        }
        self.done = done.then(|| current.name.clone());
    }

    /// One model as `released` asks for it, or as near as it can be had; false where another try may bring it nearer.
    fn model(
        &mut self,
        name: &ModelName,
        released: &ReleasedModel,
        old: Option<&CatalogModel>,
        commit: &CommitId,
    ) -> (CatalogModel, Vec<VersionStatus>, bool) {
        let mut versions = BTreeMap::new();
        let mut failures = BTreeMap::new();
        for (version, blobs) in &released.versions {
            let loaded = old.and_then(|old| old.versions.get(version)).filter(|loaded| loaded.blobs == *blobs);
            let result = match loaded {
                Some(loaded) => Ok(Arc::clone(loaded)),
                None => self.load(name, version, blobs),
            };
            match result {
                Ok(loaded) => {
                    versions.insert(version.clone(), loaded);
                }
                Err(failure) => {
                    failures.insert(version.clone(), failure);
                }
            }
        }
        let failed = failures.contains_key(&released.stable);
        let kept = old.filter(|_| failed).and_then(|old| Some((old.stable.clone()?, old)));
        let (stable, commit) = match kept {
            _ if !failed => (Some(released.stable.clone()), Some(commit.clone())),
            None => (None, None),
            Some((stable, old)) => {
                let version = old.versions.get(&stable).expect("a model's stable version is one of its versions");
                versions.insert(stable.clone(), Arc::clone(version));
                (Some(stable), old.commit.clone())
            }
        };
        let status = |(version, blobs): (&Version, &ReleasedVersion)| {
            let role = if *version == released.stable { Role::Stable } else { Role::Preview };
            let failure = failures.get(version);
            let serving = match (role, failure) {
                (Role::Stable, _) => stable.clone(),
                (Role::Preview, None) => Some(version.clone()),
                (Role::Preview, Some(_)) => None,
            };
            VersionStatus {
                name: name.clone(),
                version: version.clone(),
                role,
                state: if failure.is_none() { State::Live } else { State::Failed },
                sha256: blobs.artifact.sha256,
                serving,
                reason: failure.map(|failure| failure.reason.clone()),
                engine: versions.get(version).filter(|_| failure.is_none()).map(|loaded| loaded.engine.name()),
                not_compiled: versions.get(version).and_then(|loaded| loaded.not_compiled.clone()),
            }
        };
        let statuses = released.versions.iter().map(status).collect();
        let settled = !failures.values().any(|failure| failure.passing);
        (CatalogModel { stable, versions, commit }, statuses, settled)
    }

    fn load(
        &mut self,
        name: &ModelName,
        version: &Version,
        blobs: &ReleasedVersion,
    ) -> Result<Arc<LoadedVersion>, Failure> {
        let begun = Instant::now();
        let result = self.try_load(name, version, blobs);
        match &result {
            Ok(_) => {
                self.loader.metrics.reloaded(ReloadOutcome::Loaded);
                let took_ms = begun.elapsed().as_millis() as u64;
                tracing::info!(model = %name, %version, sha256 = blobs.artifact.sha256.short(), took_ms, "loaded");
            }
            Err(failure) => {
                self.loader.metrics.reloaded(ReloadOutcome::Failed);
                let status = self.status.load();
                let told = |old: &VersionStatus| {
                    (&old.name, &old.version, old.reason.as_ref()) == (name, version, Some(&failure.reason))
                };
                // What is tried at each poll is told once.
                if status.models.iter().any(told) {
                    return result;
                }
                tracing::warn!(model = %name, %version, reason = failure.reason, "a version failed; what was live stays");
            }
        }
        result
    }

    fn try_load(
        &mut self,
        name: &ModelName,
        version: &Version,
        blobs: &ReleasedVersion,
    ) -> Result<Arc<LoadedVersion>, Failure> {
        let text = self.reader.blob(&blobs.spec).map_err(|e| Failure::passing(&e))?;
        let spec =
            ModelSpec::parse(&ModelSpec::path(name, version), &text).map_err(|e| Failure::lasting(e.to_string()))?;
        if (&spec.name, &spec.version, &spec.artifact.blob) != (name, version, &blobs.artifact) {
            let reason = "the release and the version's model.yaml do not name the same version and file";
            return Err(Failure::lasting(reason));
        }
        let admission = match self.passed.get(blobs) {
            Some(admission) => admission.clone(),
            None => self.trial.check(self.reader.root(), blobs).map_err(|e| match e {
                trial::TrialError::Start(_) => Failure::passing(&e),
                lasting => Failure::lasting(sentence(&lasting)),
            })?,
        };
        let artifact = self.reader.blob(&blobs.artifact).map_err(|e| Failure::passing(&e))?;
        let loaded = self.loader.load(spec, *blobs, &artifact, &admission).map_err(Failure::lasting)?;
        if self.passed.len() == PASSED_MAX {
            self.passed.clear();
        }
        self.passed.insert(*blobs, admission);
        Ok(Arc::new(loaded))
    }

    fn forget(&self, previous: &Catalog, next: &Catalog) {
        for (name, model) in &previous.models {
            let now = next.models.get(name);
            for (version, loaded) in &model.versions {
                if !now.is_some_and(|now| now.versions.contains_key(version)) {
                    self.loader.metrics.forget(&loaded.spec);
                }
            }
        }
    }

    /// Passes on a thread of its own until the returned [`Watch`] is stopped.
    pub fn watch(mut self) -> std::io::Result<Watch> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            // One place: a hint that finds another one waiting says nothing new.
            let (hint, hints) = crossbeam_channel::bounded(1);
            let mut watcher = None;
            loop {
                if watcher.is_none() {
                    watcher = watch_folder(self.reader.root(), hint.clone());
                }
                self.pass();
                let interval = if watcher.is_some() { POLL_INTERVAL } else { BLIND_INTERVAL };
                if !wait(&hints, &stopped, interval) {
                    return;
                }
            }
        })?;
        Ok(Watch { stop, thread })
    }
}

/// A reloader at work.
#[derive(Debug)]
pub struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Stops once the pass at hand is done.
    pub fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("a pass turns every failure into a status");
    }
}

/// Waits for a hint or the poll; false where the watch was stopped.
fn wait(hints: &Receiver<()>, stopped: &Receiver<()>, interval: Duration) -> bool {
    crossbeam_channel::select! {
        recv(stopped) -> _ => false,
        recv(hints) -> _ => true,
        default(interval) => true,
    }
}

/// Watches the folder that holds `current`, not the link: a watch on a name follows what the name meant.
fn watch_folder(root: &Path, hint: Sender<()>) -> Option<notify::RecommendedWatcher> {
    let send = move |_event| {
        // Full means that a hint waits already.
        let _ = hint.try_send(());
    };
    let mut watcher = notify::recommended_watcher(send).ok()?;
    watcher.watch(root, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

impl Loader {
    /// Loads, checks and warms one version. The error is one line for people.
    fn load(
        &self,
        spec: ModelSpec,
        blobs: ReleasedVersion,
        artifact: &[u8],
        admission: &Admission,
    ) -> Result<LoadedVersion, String> {
        let (engine, not_compiled) = trial::load(self.engine, admission, artifact, &spec, self.sessions)?;
        let signature = Signature::new(&spec);
        let metrics = self.metrics.version(&spec);
        Ok(LoadedVersion { spec, blobs, signature, engine, not_compiled, metrics })
    }

    /// A catalog of shipped models, of each the newest version; the first model is the default.
    pub fn embedded(&self, models: &[Embedded]) -> Result<Catalog, EmbeddedError> {
        let mut catalog = Catalog::default();
        let newest: BTreeMap<&str, &Embedded> = models.iter().map(|model| (model.name, model)).collect();
        for model in newest.values() {
            let fail = |reason| EmbeddedError { name: model.name, version: model.version, reason };
            let file = format!("{}/{}/model.yaml", model.name, model.version);
            let spec = ModelSpec::parse(&file, model.spec).map_err(|e| fail(e.to_string()))?;
            let (name, version) = (spec.name.clone(), spec.version.clone());
            let blobs = ReleasedVersion { spec: Blob::of(model.spec), artifact: spec.artifact.blob };
            // A test compares every shipped model with ONNX Runtime, and these are the same bytes.
            let loaded = Arc::new(self.load(spec, blobs, model.artifact, &Admission::Compiled).map_err(fail)?);
            let stable = Some(version.clone());
            catalog.default.get_or_insert_with(|| name.clone());
            let versions = BTreeMap::from([(version, loaded)]);
            catalog.models.insert(name, CatalogModel { stable, versions, commit: None });
        }
        Ok(catalog)
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
            reason: None,
            engine: Some(loaded.engine.name()),
            not_compiled: loaded.not_compiled.clone(),
        })
    });
    Status { release: None, models: models.collect(), trouble: None }
}

/// An error and all its causes on one line.
pub(crate) fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}
