//! What a release comes to, of each model as much as its verdict allows, with what is known about its versions.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use mainstay_models::store::Current;
use mainstay_models::{ModelName, Release, ReleasedVersion, Role};

use super::order::OrderError;
use super::sentence;
use super::status::{self, FallbackStatus, State, VersionStatus};
use super::verdict::{self, Verdict, Wanted};
use crate::catalog::{Catalog, CatalogModel, LoadedVersion};
use crate::reference::Documents;

/// The release that the catalog is brought to.
pub(super) struct Target {
    pub(super) current: Current,
    pub(super) begun: Instant,
    /// What is known about its versions, beside those that are served.
    pub(super) known: HashMap<Wanted, Known>,
    /// How many groups had been decided when the catalog was swapped last; none before the first look.
    pub(super) swapped: Option<usize>,
    /// Whether there is nothing to do until another release comes, or a failure may have passed.
    pub(super) settled: bool,
}

/// What is known about a version that is not served.
pub(super) enum Known {
    Loaded(Arc<LoadedVersion>),
    Failed(Failure),
}

/// Why a version is not live.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// Whether trying again may help although the release is the same.
    pub(super) passing: bool,
}

impl Failure {
    pub(super) fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passing: false }
    }

    pub(super) fn passing(error: &dyn Error) -> Self {
        Self { reason: sentence(error), passing: true }
    }
}

impl Target {
    /// What is known about a version; nothing where that is yet to be found out.
    pub(super) fn find(&self, wanted: &Wanted, served: &Catalog) -> Option<Result<Arc<LoadedVersion>, &Failure>> {
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
    pub(super) fn try_again(&mut self) {
        if self.settled && self.is_passing() {
            self.known.retain(|_, known| !matches!(known, Known::Failed(failure) if failure.passing));
            self.settled = false;
        }
    }

    /// Has all be decided anew, from what is known.
    pub(super) fn look_again(&mut self) {
        self.settled = false;
        self.swapped = None;
    }

    /// How it went with a model that was ordered to be loaded, where all that the release asks of it is decided.
    pub(super) fn outcome(&self, name: &ModelName, statuses: &[VersionStatus]) -> Result<(), OrderError> {
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

    pub(super) fn is_passing(&self) -> bool {
        self.known.values().any(|known| matches!(known, Known::Failed(failure) if failure.passing))
    }

    /// One model as the release asks for it, or as near to it as its group allows.
    pub(super) fn model(&self, name: &ModelName, verdict: &Verdict, before: &Catalog) -> CatalogModel {
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
    pub(super) fn catalog_meanwhile(&self, before: &Catalog, verdicts: &BTreeMap<ModelName, Verdict>) -> Catalog {
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
    pub(super) fn statuses(&self, catalog: &Catalog, verdicts: &BTreeMap<ModelName, Verdict>) -> Vec<VersionStatus> {
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
pub(super) fn asked_versions(release: &Release) -> impl Iterator<Item = (Role, Wanted)> {
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
pub(super) fn every_version(release: &Release) -> impl Iterator<Item = Wanted> {
    let fallbacks = release.models.keys().filter_map(|name| verdict::fallback(release, name));
    asked_versions(release).map(|(_, wanted)| wanted).chain(fallbacks)
}
