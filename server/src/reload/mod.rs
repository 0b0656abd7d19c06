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
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use mainstay_models::store::Current;
use mainstay_models::{ModelName, Reader, ReleasedModel};

use crate::catalog::{Catalog, CatalogModel, LiveRelease};
use crate::monitor::{Metrics, ReloadOutcome, unix_now_s};
use crate::reference::Documents;

mod aside;
mod folder;
mod loader;
mod loads;
mod memory;
mod order;
mod plain;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod trial;
mod verdict;
mod watch;

pub use folder::FolderError;
pub use loader::{EmbeddedError, Loader};
use loads::{Bench, Loads, Outcome};
pub use order::{Action, OrderError, Orders};
use order::{ORDERS_MAX, Order};
pub use plain::{Plain, Source};
pub use status::{FallbackStatus, Loading, ReleaseStatus, State, Status, VersionStatus, embedded_status};
use target::{Failure, Known, Target, asked_versions, every_version};
pub use trial::{Admission, Trial, TrialError, parse_argument as parse_trial_argument, run as run_trial};
use verdict::{Verdict, Wanted};
pub use watch::Watch;

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
