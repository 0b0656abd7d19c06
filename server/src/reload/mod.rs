//! Store to engines to catalog: an idempotent pass, repeated.
//!
//! A pass compares what the store's `current` asks for with what is served, loads what is new aside, a few versions at
//! a time, and swaps the catalog. Load before unload, always; what is unchanged by its digests is reused; a model that
//! fails keeps what it served before, with the reason in the status, and holds up no other: each model moves when it is
//! ready, each group of models that move together when all of it is. What is being loaded is abandoned as soon as
//! `current` asks for something else. What failed is tried again when another commit comes, or somebody orders it, not
//! before. A model that an order unloaded answers nothing until another order or another version of it.
//!
//! A file system event is a hint that carries no data; a poll each second is the truth, since inotify
//! misses swaps on mounted volumes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use mainstay_models::embedded::Embedded;
use mainstay_models::store::Current;
use mainstay_models::{Blob, ModelName, ModelSpec, Reader, Release, ReleasedModel, ReleasedVersion, Role};
use notify::{RecursiveMode, Watcher};

use crate::allocator;
use crate::catalog::{Catalog, CatalogModel, LiveRelease, LoadedVersion};
use crate::engine::{Engine, EngineChoice};
use crate::monitor::{Metrics, ReloadOutcome, unix_now_s};
use crate::priority;
use crate::reference::Documents;
use crate::wire::Signature;

mod aside;
mod folder;
mod loads;
mod memory;
mod order;
mod plain;
mod status;
#[cfg(test)]
mod tests;
mod trial;
mod verdict;

pub use folder::FolderError;
use loads::{Bench, Loads, Outcome};
pub use order::{Action, OrderError, Orders};
use order::{ORDERS_MAX, Order};
pub use plain::{Plain, Source};
pub use status::{FallbackStatus, Loading, ReleaseStatus, State, Status, VersionStatus, embedded_status};
pub use trial::{Admission, Trial, TrialError, parse_argument as parse_trial_argument, run as run_trial};
use verdict::{Verdict, Wanted};

/// How often the store is looked at without a hint.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked at while it cannot be watched, since its folder is yet to be made.
const BLIND_INTERVAL: Duration = Duration::from_millis(100);
/// How long a release must have been live before the memory that its loads took is given back. The next load takes the same
/// again, and to give it back keeps whoever answers from the allocator for some hundred microseconds.
const QUIET: Duration = Duration::from_secs(10);

/// Keeps a catalog as a store asks.
pub struct Reloader {
    reader: Reader,
    loads: Loads,
    catalog: Arc<ArcSwap<Catalog>>,
    status: Arc<ArcSwap<Status>>,
    target: Option<Target>,
    orders: Receiver<Order>,
    /// The models that an order unloaded, each with what the release asked of it then.
    unloaded: BTreeMap<ModelName, ReleasedModel>,
    /// The loads that were ordered and are not decided yet.
    ordered: Vec<Order>,
    /// When the allocator is to give back what loads have left.
    give_back: Option<Instant>,
}

/// The release that the catalog is brought to.
struct Target {
    current: Current,
    begun: Instant,
    /// What is known about its versions, beside those that are served.
    known: HashMap<Wanted, Known>,
    /// How many groups had been decided when the catalog was swapped last; none before the first look.
    swapped: Option<usize>,
    /// Whether there is nothing to do until another release comes, or a failure may have passed.
    settled: bool,
}

/// What is known about a version that is not served.
enum Known {
    Loaded(Arc<LoadedVersion>),
    Failed(Failure),
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
#[derive(Debug, Clone)]
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
    ) -> std::io::Result<Self> {
        let bench = Bench { reader: reader.clone(), trial, loader, passed: Mutex::default() };
        Ok(Self {
            reader,
            loads: Loads::start(bench)?,
            catalog,
            status,
            target: None,
            orders: crossbeam_channel::never(),
            unloaded: BTreeMap::new(),
            ordered: Vec::new(),
            give_back: None,
        })
    }

    /// Where requests may leave orders from now on.
    pub fn take_orders(&mut self) -> Orders {
        let (orders, taken) = Orders::channel();
        self.orders = taken;
        orders
    }

    /// Learns what the store asks for.
    fn look(&mut self) {
        let trouble = self.follow().err();
        if self.status.load().trouble != trouble {
            if let Some(reason) = &trouble {
                tracing::warn!(reason, "cannot read the store");
            }
            self.status.store(Arc::new(Status { trouble, ..Status::clone(&self.status.load()) }));
        }
    }

    fn follow(&mut self) -> Result<(), String> {
        let Some(name) = self.reader.current_name().map_err(|e| sentence(&e))? else { return Ok(()) };
        if let Some(target) = self.target.as_mut().filter(|target| target.current.name == name) {
            target.try_again();
            return Ok(());
        }
        if let Some(current) = self.reader.current().map_err(|e| sentence(&e))? {
            self.aim(current);
        }
        Ok(())
    }

    /// Makes a release the one that the catalog is brought to.
    fn aim(&mut self, current: Current) {
        let asks_the_same = |name: &ModelName, before: &ReleasedModel| {
            let now = current.release.models.get(name);
            now.is_some_and(|now| (&now.stable, &now.versions) == (&before.stable, &before.versions))
        };
        self.unloaded.retain(|name, before| asks_the_same(name, before));
        let wanted: HashSet<_> = every_version(&current.release).collect();
        let mut known = HashMap::new();
        if let Some(before) = self.target.take() {
            // Another release of the same commit changes nothing about what failed.
            let same = before.current.release.commit.id == current.release.commit.id;
            for (version, found) in before.known {
                match found {
                    Known::Failed(_) if !same => {}
                    found if wanted.contains(&version) => {
                        known.insert(version, found);
                    }
                    found => self.drop_unserved(&version, found),
                }
            }
        }
        self.target = Some(Target { current, begun: Instant::now(), known, swapped: None, settled: false });
    }

    /// Takes what became of a load.
    fn take(&mut self, wanted: Wanted, outcome: Outcome) {
        self.loads.finished(&wanted);
        let metrics = &self.loads.loader().metrics;
        let found = match outcome {
            Outcome::Loaded(loaded) => {
                metrics.reloaded(ReloadOutcome::Loaded);
                Known::Loaded(loaded)
            }
            Outcome::Failed(failure) => {
                metrics.reloaded(ReloadOutcome::Failed);
                let Wanted { name, version, .. } = &wanted;
                let told = |old: &VersionStatus| {
                    (&old.name, &old.version, old.reason.as_ref()) == (name, version, Some(&failure.reason))
                };
                // What is tried at each poll is told once.
                if !self.status.load().models.iter().any(told) {
                    let reason = &failure.reason;
                    tracing::warn!(model = %name, %version, reason, "a version failed; what was live stays");
                }
                Known::Failed(failure)
            }
            Outcome::Abandoned => return,
        };
        match &mut self.target {
            Some(target) if every_version(&target.current.release).any(|version| version == wanted) => {
                target.known.insert(wanted, found);
            }
            _ => self.drop_unserved(&wanted, found),
        }
    }

    /// Does what can be done with what is known: begins loads, moves what is ready, and says how it went at the end.
    fn advance(&mut self) {
        let Some(target) = self.target.as_mut().filter(|target| !target.settled) else { return };
        let before = self.catalog.load_full();
        let release = &target.current.release;
        let served = |name: &ModelName| before.models.get(name).is_some_and(|model| model.stable.is_some());
        let mut missing = Vec::new();
        let mut verdicts = BTreeMap::new();
        let mut decided = 0;
        for group in release.units() {
            // A model that was unloaded neither waits for its group nor holds it up.
            let (out, group): (BTreeSet<_>, BTreeSet<_>) =
                group.into_iter().partition(|name| self.unloaded.contains_key(name));
            verdicts.extend(out.into_iter().map(|name| (name, Verdict::Unloaded)));
            if group.is_empty() {
                continue;
            }
            let verdict =
                verdict::decide(&group, release, |wanted| target.find(wanted, &before).map(|f| f.is_ok()), served);
            match &verdict {
                Verdict::Wait(versions) => missing.extend(versions.iter().cloned()),
                _ => decided += 1,
            }
            verdicts.extend(group.into_iter().map(|name| (name, verdict.clone())));
        }
        let waited_for: HashSet<_> = missing.iter().cloned().collect();
        let unknown = asked_versions(release)
            .map(|(_, wanted)| wanted)
            .filter(|wanted| !self.unloaded.contains_key(&wanted.name))
            .filter(|wanted| !waited_for.contains(wanted) && target.find(wanted, &before).is_none());
        missing.extend(unknown.collect::<Vec<_>>());
        if missing.is_empty() {
            return self.finish(&before, &verdicts);
        }
        let is_news = target.swapped.is_some_and(|swapped| decided > swapped);
        target.swapped = Some(decided);
        // Whoever ordered a load waits for its model alone.
        let is_decided = |order: &Order| {
            let waits = matches!(verdicts.get(&order.model), Some(Verdict::Wait(_)));
            !waits && !missing.iter().any(|wanted| wanted.name == order.model)
        };
        let answered: Vec<_> = self.ordered.extract_if(.., |order| is_decided(order)).collect();
        if is_news || !answered.is_empty() {
            let catalog = target.catalog_meanwhile(&before, &verdicts);
            let statuses = target.statuses(&catalog, &verdicts);
            let outcome = |order: Order| (target.outcome(&order.model, &statuses), order);
            let outcomes: Vec<_> = answered.into_iter().map(outcome).collect();
            self.swap(&before, catalog);
            outcomes.into_iter().for_each(|(outcome, order)| order.answer(outcome));
        }
        let mut loading: Vec<_> = missing
            .iter()
            .map(|Wanted { name, version, .. }| Loading { name: name.clone(), version: version.clone() })
            .collect();
        loading.sort();
        self.loads.want(missing);
        if self.status.load().loading != loading {
            self.status.store(Arc::new(Status { loading, ..Status::clone(&self.status.load()) }));
        }
    }

    /// Every version is decided: swaps the catalog to the whole of it, and says so.
    fn finish(&mut self, before: &Catalog, verdicts: &BTreeMap<ModelName, Verdict>) {
        let Some(target) = &mut self.target else { return };
        self.loads.want(Vec::new());
        let current = &target.current;
        let catalog = Catalog {
            release: Some(LiveRelease { name: current.name.clone(), sha256: current.sha256 }),
            default: Some(current.release.default.clone()),
            models: verdicts
                .iter()
                .map(|(name, verdict)| (name.clone(), target.model(name, verdict, before)))
                .collect(),
            changes: current.release.changes.clone(),
            partial: false,
            documents: Documents::default(),
        };
        let models = target.statuses(&catalog, verdicts);
        let first = self.status.load().release.as_ref().is_none_or(|r| r.name != current.name.to_string());
        let status = Status {
            release: Some(ReleaseStatus {
                name: current.name.to_string(),
                commit: current.release.commit.id.clone(),
                sha256: current.sha256,
                done_unix_s: unix_now_s(),
            }),
            models,
            loading: Vec::new(),
            trouble: None,
        };
        let (name, took) = (current.name.clone(), target.begun.elapsed());
        target.settled = true;
        // Of what is not served, only what may be needed at another try is kept.
        let unserved: Vec<_> = if target.is_passing() {
            Vec::new()
        } else {
            target.known.extract_if(|_, known| matches!(known, Known::Loaded(_))).collect()
        };
        let outcome = |order: Order| (target.outcome(&order.model, &status.models), order);
        let outcomes: Vec<_> = self.ordered.drain(..).map(outcome).collect();
        self.swap(before, catalog);
        for (wanted, known) in unserved {
            self.drop_unserved(&wanted, known);
        }
        // Before the log says so: who reads that may ask at once.
        let status = Arc::new(status);
        self.status.store(Arc::clone(&status));
        if first {
            self.loads.loader().metrics.released(took);
            let count = |state| status.models.iter().filter(|version| version.state == state).count();
            let (versions, failed, held) = (status.models.len(), count(State::Failed), count(State::Held));
            tracing::info!(release = %name, versions, failed, held, took_ms = took.as_millis() as u64, "released");
            for version in &status.models {
                if let Some(fallback) = version.fallback.as_ref().filter(|fallback| fallback.state == State::Live) {
                    let (model, commit) = (&version.name, fallback.commit.short());
                    tracing::warn!(%model, version = %fallback.version, commit, "an earlier commit's version stands in");
                }
            }
        }
        outcomes.into_iter().for_each(|(outcome, order)| order.answer(outcome));
        // Read and parsed, a model takes several times what its engine keeps. At the start nobody is held up by that.
        let patience = if before.release.is_none() { Duration::ZERO } else { QUIET };
        self.give_back = Some(Instant::now() + patience);
    }

    fn swap(&self, before: &Catalog, next: Catalog) {
        swap(&self.catalog, &self.loads.loader().metrics, before, next);
    }

    /// Carries an order out, or begins to.
    fn obey(&mut self, order: Order) {
        if !order.is_awaited() {
            return;
        }
        // What the store asks for at this moment.
        self.look();
        match order.action {
            Action::Load => self.begin_load(order),
            Action::Unload => {
                let result = self.unload(&order.model);
                order.answer(result);
            }
        }
    }

    /// Has a model tried again that is not as the release asks for it. What is live is left as it is: its digests say
    /// that it is what the store has.
    fn begin_load(&mut self, order: Order) {
        let Some(target) = &mut self.target else { return order.answer(Err(OrderError::Early)) };
        let release = &target.current.release;
        if !release.models.contains_key(&order.model) {
            let unknown = OrderError::unknown(&order.model, release.models.keys());
            return order.answer(Err(unknown));
        }
        self.ordered.retain(Order::is_awaited);
        if self.ordered.len() == ORDERS_MAX {
            return order.answer(Err(OrderError::Busy));
        }
        self.unloaded.remove(&order.model);
        let is_kept = |wanted: &Wanted, known: &Known| wanted.name != order.model || matches!(known, Known::Loaded(_));
        target.known.retain(|wanted, known| is_kept(wanted, known));
        target.look_again();
        self.ordered.push(order);
    }

    fn unload(&mut self, name: &ModelName) -> Result<(), OrderError> {
        let target = self.target.as_mut().ok_or(OrderError::Early)?;
        let models = &target.current.release.models;
        let asked = models.get(name).ok_or_else(|| OrderError::unknown(name, models.keys()))?;
        self.unloaded.insert(name.clone(), asked.clone());
        let forgotten: Vec<_> = target.known.extract_if(|wanted, _| wanted.name == *name).collect();
        target.look_again();
        // At once, although the rest of a release may still be loading.
        let before = self.catalog.load_full();
        self.swap(&before, before.with(name.clone(), CatalogModel::default()));
        self.status.store(Arc::new(self.status.load().unloaded(name)));
        for (wanted, known) in forgotten {
            self.drop_unserved(&wanted, known);
        }
        tracing::info!(model = %name, "unloaded by an order");
        Ok(())
    }

    /// Drops a version that was loaded and does not answer.
    fn drop_unserved(&self, wanted: &Wanted, known: Known) {
        let catalog = self.catalog.load();
        let served = catalog.models.get(&wanted.name).is_some_and(|model| model.versions.contains_key(&wanted.version));
        if let Known::Loaded(loaded) = known
            && !served
        {
            self.loads.loader().metrics.forget(&loaded.spec);
        }
    }

    /// Follows the store on a thread of its own until the returned [`Watch`] is stopped.
    pub fn watch(mut self) -> std::io::Result<Watch> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            // To read a release and to bring the catalog up to date takes some hundred microseconds, which no request is to
            // wait for.
            priority::step_far_back();
            // One place: a hint that finds another one waiting says nothing new.
            let (hint, hints) = crossbeam_channel::bounded(1);
            let mut watcher = None;
            let loaded = self.loads.done().clone();
            let mut orders = self.orders.clone();
            let mut due = Instant::now();
            loop {
                if watcher.is_none() {
                    watcher = watch_folder(self.reader.root(), hint.clone());
                }
                priority::give_way();
                if Instant::now() >= due {
                    self.look();
                    due = Instant::now() + if watcher.is_some() { POLL_INTERVAL } else { BLIND_INTERVAL };
                }
                self.advance();
                if self.give_back.take_if(|due| Instant::now() >= *due).is_some() {
                    allocator::give_back();
                }
                let mut is_ordering_over = false;
                crossbeam_channel::select! {
                    recv(stopped) -> _ => return,
                    recv(hints) -> _ => due = Instant::now(),
                    recv(loaded) -> done => {
                        let (wanted, outcome) = done.expect("the loads keep their threads");
                        self.take(wanted, outcome);
                    }
                    recv(orders) -> order => match order {
                        Ok(order) => self.obey(order),
                        // Nobody is left who could give one.
                        Err(_) => is_ordering_over = true,
                    },
                    default(due.saturating_duration_since(Instant::now())) => {}
                }
                if is_ordering_over {
                    orders = crossbeam_channel::never();
                }
            }
        })?;
        Ok(Watch { stop, abandoned: Arc::default(), thread })
    }
}

/// Replaces what is served, and drops what was counted of versions that no longer are.
fn swap(catalog: &ArcSwap<Catalog>, metrics: &Metrics, before: &Catalog, next: Catalog) {
    for (name, model) in &before.models {
        let now = next.models.get(name);
        for (version, loaded) in &model.versions {
            if !now.is_some_and(|now| now.versions.contains_key(version)) {
                metrics.forget(&loaded.spec);
            }
        }
    }
    catalog.store(Arc::new(next));
}

impl Target {
    /// What is known about a version; nothing where that is yet to be found out.
    fn find(&self, wanted: &Wanted, served: &Catalog) -> Option<Result<Arc<LoadedVersion>, &Failure>> {
        match self.known.get(wanted) {
            Some(Known::Loaded(loaded)) => Some(Ok(Arc::clone(loaded))),
            Some(Known::Failed(failure)) => Some(Err(failure)),
            None => {
                let loaded = served.models.get(&wanted.name)?.versions.get(&wanted.version)?;
                (loaded.blobs == wanted.bytes).then(|| Ok(Arc::clone(loaded)))
            }
        }
    }

    /// Forgets the failures that may have passed, once all is decided.
    fn try_again(&mut self) {
        if self.settled && self.is_passing() {
            self.known.retain(|_, known| !matches!(known, Known::Failed(failure) if failure.passing));
            self.settled = false;
        }
    }

    /// Has all be decided anew, from what is known.
    fn look_again(&mut self) {
        self.settled = false;
        self.swapped = None;
    }

    /// How it went with a model that was ordered to be loaded, where all that the release asks of it is decided.
    fn outcome(&self, name: &ModelName, statuses: &[VersionStatus]) -> Result<(), OrderError> {
        let models = &self.current.release.models;
        let Some(model) = models.get(name) else { return Err(OrderError::unknown(name, models.keys())) };
        let Some(status) = statuses.iter().find(|status| status.name == *name && status.state != State::Live) else {
            return Ok(());
        };
        let VersionStatus { version, reason, .. } = status;
        let wanted = Wanted { name: name.clone(), version: version.clone(), bytes: model.versions[version] };
        // Such a reason has paths of this machine.
        let is_internal = matches!(self.known.get(&wanted), Some(Known::Failed(failure)) if failure.passing);
        let reason = reason.clone().filter(|_| !is_internal);
        Err(OrderError::failed(name, version, reason))
    }

    fn is_passing(&self) -> bool {
        self.known.values().any(|known| matches!(known, Known::Failed(failure) if failure.passing))
    }

    /// One model as the release asks for it, or as near to it as its group allows.
    fn model(&self, name: &ModelName, verdict: &Verdict, before: &Catalog) -> CatalogModel {
        if *verdict == Verdict::Unloaded {
            return CatalogModel::default();
        }
        let release = &self.current.release;
        let asked = verdict::stable(release, name);
        let mut versions = BTreeMap::new();
        for (role, wanted) in versions_of(release, name) {
            if role == Role::Preview
                && let Some(Ok(loaded)) = self.find(&wanted, before)
            {
                versions.insert(wanted.version, loaded);
            }
        }
        let old = before.models.get(name);
        let (stable, commit) = match verdict {
            Verdict::Move => (self.find(&asked, before), Some(release.commit.id.clone())),
            Verdict::FallBack(_) => {
                let fallback = release.models[name].fallback.as_ref();
                let wanted = verdict::fallback(release, name);
                (wanted.and_then(|wanted| self.find(&wanted, before)), fallback.map(|fallback| fallback.commit.clone()))
            }
            Verdict::Keep(_) | Verdict::Wait(_) | Verdict::Unloaded => {
                let kept = old.and_then(|old| old.versions.get(old.stable.as_ref()?));
                (kept.map(|kept| Ok(Arc::clone(kept))), old.and_then(|old| old.commit.clone()))
            }
        };
        let Some(Ok(stable)) = stable else { return CatalogModel { stable: None, versions, commit: None } };
        let version = stable.spec.version.clone();
        versions.insert(version.clone(), stable);
        CatalogModel { stable: Some(version), versions, commit }
    }

    /// What is served while something is still being loaded: what is ready as the release asks for it, the rest as it was.
    fn catalog_meanwhile(&self, before: &Catalog, verdicts: &BTreeMap<ModelName, Verdict>) -> Catalog {
        let mut models = before.models.clone();
        for (name, verdict) in verdicts {
            match verdict {
                Verdict::Wait(_) if models.contains_key(name) => {}
                verdict => {
                    models.insert(name.clone(), self.model(name, verdict, before));
                }
            }
        }
        let default = &self.current.release.default;
        let is_ready = !matches!(verdicts.get(default), Some(Verdict::Wait(_)));
        let default = before.default.as_ref().filter(|_| !is_ready).unwrap_or(default).clone();
        Catalog {
            release: before.release.clone(),
            default: Some(default),
            models,
            changes: before.changes.clone(),
            partial: before.release.is_none(),
            documents: Documents::default(),
        }
    }

    /// How it went with every version that the release asks for.
    fn statuses(&self, catalog: &Catalog, verdicts: &BTreeMap<ModelName, Verdict>) -> Vec<VersionStatus> {
        let release = &self.current.release;
        let status = |(role, wanted): (Role, Wanted)| {
            let model = &catalog.models[&wanted.name];
            let stable = model.stable.as_ref().and_then(|stable| model.versions.get(stable));
            let is_stable = |bytes: &ReleasedVersion| stable.is_some_and(|stable| stable.blobs == *bytes);
            let found = self.find(&wanted, catalog);
            let (state, reason) = match (&found, &verdicts[&wanted.name], role) {
                (_, Verdict::Unloaded, _) => (State::Unloaded, Some(status::UNLOADED.to_owned())),
                (Some(Err(failure)), ..) => (State::Failed, Some(failure.reason.clone())),
                (_, Verdict::Keep(failed) | Verdict::FallBack(failed), Role::Stable) if !is_stable(&wanted.bytes) => {
                    (State::Held, Some(held_since(failed)))
                }
                _ => (State::Live, None),
            };
            let loaded = found.as_ref().and_then(|found| found.as_ref().ok());
            let (engine, not_compiled) = (loaded.map(|l| l.engine.name()), loaded.and_then(|l| l.not_compiled.clone()));
            let serving = match role {
                Role::Stable => model.stable.clone(),
                Role::Preview => (state == State::Live).then(|| wanted.version.clone()),
            };
            let fallback = release.models[&wanted.name].fallback.as_ref().filter(|_| role == Role::Stable);
            let fallback = fallback.and_then(|fallback| {
                let version = Wanted { version: fallback.version.clone(), bytes: fallback.bytes, ..wanted.clone() };
                let (state, reason) = match self.find(&version, catalog)? {
                    _ if is_stable(&fallback.bytes) => (State::Live, None),
                    Err(failure) => (State::Failed, Some(failure.reason.clone())),
                    Ok(_) => (State::Held, Some("another model of its group has none that loads".to_owned())),
                };
                let (version, commit) = (fallback.version.clone(), fallback.commit.clone());
                Some(FallbackStatus { version, commit, state, reason })
            });
            VersionStatus {
                sha256: wanted.bytes.artifact.sha256,
                name: wanted.name,
                version: wanted.version,
                role,
                state,
                serving,
                commit: model.commit.clone(),
                reason,
                fallback,
                engine,
                not_compiled,
            }
        };
        asked_versions(release).map(status).collect()
    }
}

/// Why a version that loads is not live.
fn held_since(failed: &Wanted) -> String {
    format!("held back since {} {} of its group failed", failed.name, failed.version)
}

/// Every version that a release asks for, as what, in the order of the release.
fn asked_versions(release: &Release) -> impl Iterator<Item = (Role, Wanted)> {
    release.models.keys().flat_map(|name| versions_of(release, name))
}

fn versions_of(release: &Release, name: &ModelName) -> impl Iterator<Item = (Role, Wanted)> {
    let model = &release.models[name];
    model.versions.iter().map(|(version, bytes)| {
        let role = if *version == model.stable { Role::Stable } else { Role::Preview };
        (role, Wanted { name: name.clone(), version: version.clone(), bytes: *bytes })
    })
}

/// Every version that may be needed for a release.
fn every_version(release: &Release) -> impl Iterator<Item = Wanted> {
    let fallbacks = release.models.keys().filter_map(|name| verdict::fallback(release, name));
    asked_versions(release).map(|(_, wanted)| wanted).chain(fallbacks)
}

/// A reloader at work.
#[derive(Debug)]
pub struct Watch {
    stop: Sender<()>,
    /// The word by which the one trial of a [`Plain`] ends early.
    abandoned: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Stops; what is being loaded is abandoned.
    pub fn stop(self) {
        self.abandoned.store(true, Ordering::Relaxed);
        drop(self.stop);
        self.thread.join().expect("a pass turns every failure into a status");
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
        let engine = trial::load(self.engine, admission, artifact, &spec, self.sessions)?;
        Ok(self.with_engine(spec, blobs, engine))
    }

    /// The version that [`trial::load`] has made `engine` for.
    fn with_engine(
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
