//! Walks back through git's history for models of which nothing answers.
//!
//! Where the server has taken a release and a model has no version that answers at all, such as on a fresh pod whose
//! newest commit asks for a version that does not load, the last version that an earlier commit asked for is to stand in.
//! It comes as a new release of the same commit, which brings it along as a fallback; the server uses it only where the
//! version that is asked for does not load. A newer commit's release knows nothing of it.
//!
//! One step at a time: the server's status says whether the fallback loads, and if not, the walk goes on from its commit.
//! So it ends, and a restart does not begin it anew. Only commits that the live one descends from by first parents are
//! looked at, and where signatures are verified, each must have a good one of its own, and so must a signed model. Models that move together walk
//! back together, to one commit. Asks the mirror alone: the repository need not be reachable.

use std::collections::{BTreeSet, HashSet};

use mainstay_models::store::Current;
use mainstay_models::{CommitId, Fallback, ModelName, ReleaseName, ReleasedVersion, Serving};
use tracing::{info, warn};

use super::{Agent, COMMITS_MAX, unread};
use crate::board::{FailedModel, Times};
use crate::desired::{Stable, stable_of};
use crate::trouble::Trouble;
use crate::trust::{Judge, model};

/// How many commits that changed one of the models, or serving.yaml, are looked at.
const STEPS_MAX: usize = 32;

/// What an agent remembers of its walks.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The live release's commit, which the rest is about.
    commit: Option<CommitId>,
    /// The versions that did not load.
    bad: HashSet<ReleasedVersion>,
    /// The release from which no walk leads further.
    ended: Option<ReleaseName>,
}

impl Agent {
    /// Publishes what is to stand in for models of which nothing answers, as the server says. Says whether it did.
    pub(super) fn walk_back(&mut self, failed: &[FailedModel]) -> bool {
        let Some(current) = self.current.clone() else { return false };
        if self.walk.commit.as_ref() != Some(&current.release.commit.id) {
            self.walk = Walk { commit: Some(current.release.commit.id.clone()), ..Walk::default() };
        }
        // What somebody unloaded is to be silent.
        let is_silent =
            |model: &&FailedModel| model.role == "stable" && model.serving.is_none() && model.state != "unloaded";
        let silent: Vec<_> = failed.iter().filter(is_silent).collect();
        if silent.is_empty() {
            self.show_walk(None);
            return false;
        }
        if self.walk.ended.as_ref() == Some(&current.name) {
            return false;
        }
        match self.step_back(&current, &silent) {
            Ok(published) => published,
            Err(problem) => {
                // Tried again at the next pass.
                self.show_walk(Some(format!("cannot look for an earlier version: {problem}")));
                false
            }
        }
    }

    fn step_back(&mut self, current: &Current, silent: &[&FailedModel]) -> Result<bool, Trouble> {
        let mut release = current.release.clone();
        let mut without = Vec::new();
        let mut found_any = false;
        for group in current.release.units() {
            let members: Vec<_> =
                silent.iter().filter(|model| group.iter().any(|name| name.as_str() == model.name)).collect();
            if members.is_empty() {
                continue;
            }
            // What the server has tried, by its bytes.
            for name in &group {
                let Some(status) = members.iter().find(|model| model.name == name.as_str()) else { continue };
                let model = &current.release.models[name];
                if status.state == "failed" {
                    self.walk.bad.insert(model.versions[&model.stable]);
                }
                let is_bad = status.fallback.as_ref().is_some_and(|tried| tried.state == "failed");
                if let Some(fallback) = model.fallback.as_ref().filter(|_| is_bad) {
                    self.walk.bad.insert(fallback.bytes);
                }
            }
            match self.earlier(current, &group)? {
                Some((commit, stable)) => {
                    for Stable { name, version, bytes, .. } in stable {
                        info!(model = %name, %version, %commit, "nothing answers for a model: an earlier version stands in");
                        let model = release.models.get_mut(&name).expect("a group's models are the release's");
                        model.fallback = Some(Fallback { version, bytes, commit: commit.clone() });
                    }
                    found_any = true;
                }
                None => without.extend(group),
            }
        }
        let names: Vec<_> = without.iter().map(ModelName::as_str).collect();
        let text = (!names.is_empty())
            .then(|| format!("no earlier commit has a version of {} that may stand in", names.join(", ")));
        if let Some(text) = &text {
            warn!(text, "the walk back has ended");
        }
        self.show_walk(text);
        if !found_any {
            self.walk.ended = Some(current.name.clone());
            return Ok(false);
        }
        let Some(published) = self.ledger.stand_in(&current.name, &release, self.settings.keep_releases)? else {
            return Ok(false);
        };
        self.board.published();
        info!(release = %published.name, commit = %published.release.commit.id, "published what stands in");
        self.current = Some(published);
        // When it is live says nothing about how fast its commit was.
        (self.times, self.timed) = (Times { loaded_unix_ms: None, live_unix_ms: None, ..self.times }, false);
        self.untaken_since = None;
        self.show_release();
        Ok(true)
    }

    /// The newest commit before the last one tried whose stable versions of `group` may be tried, with those in the store.
    fn earlier(
        &mut self,
        current: &Current,
        group: &BTreeSet<ModelName>,
    ) -> Result<Option<(CommitId, Vec<Stable>)>, Trouble> {
        let environment = self.settings.environment.clone();
        let mut paths = vec![Serving::path(&environment)];
        paths.extend(group.iter().map(|name| format!("models/{name}")));
        let head = &current.release.commit.id;
        let history = self.git.history(head, paths, COMMITS_MAX, STEPS_MAX).map_err(|e| Trouble::retry(&e))?;
        let tried = group.iter().find_map(|name| Some(&current.release.models[name].fallback.as_ref()?.commit));
        let mut commits = history.commits.into_iter().map(|commit| commit.id);
        if let Some(tried) = tried {
            // Everything up to and with the commit that was tried last.
            commits.by_ref().take_while(|commit| commit != tried).for_each(drop);
        }
        for commit in commits {
            self.board.beat();
            let stable = {
                let git = &mut self.git;
                stable_of(&environment, group, |path, bytes_max| git.read(&commit, path, bytes_max).map_err(unread))
            };
            let checked = stable.and_then(|stable| {
                let Some(mut stable) = stable.filter(|stable| !self.is_bad(current, stable)) else { return Ok(None) };
                let (settings, git, board) = (&self.settings.trust, &mut self.git, Some(&*self.board));
                Judge { settings, environment: &environment, git, board, counts: false }.check_earlier(&commit)?;
                let versions: Vec<_> = stable.iter().map(|stable| stable.files.clone()).collect();
                let (trust, git) = (&self.settings.trust, &mut self.git);
                let read = |path: &str, bytes_max| git.read(&commit, path, bytes_max).map_err(unread);
                model::check(trust, &environment, &versions, None, read)?;
                for Stable { sources, .. } in &mut stable {
                    self.supply(&commit, std::mem::take(sources))?;
                }
                Ok(Some(stable))
            });
            match checked {
                Ok(Some(stable)) => return Ok(Some((commit, stable))),
                Ok(None) => {}
                Err(Trouble::Refused(refusal)) => info!(%commit, %refusal, "passed over an earlier commit"),
                Err(retry) => return Err(retry),
            }
        }
        Ok(None)
    }

    /// Whether a version did not load before, or nothing else is asked for than now.
    fn is_bad(&self, current: &Current, stable: &[Stable]) -> bool {
        let asked = |stable: &Stable| {
            let model = &current.release.models[&stable.name];
            model.versions[&model.stable] == stable.bytes
        };
        stable.iter().any(|stable| self.walk.bad.contains(&stable.bytes)) || stable.iter().all(asked)
    }

    fn show_walk(&self, text: Option<String>) {
        if self.board.status().walk_back != text {
            self.board.update(|status| status.walk_back = text);
        }
    }
}
