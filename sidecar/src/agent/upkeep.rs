//! Looks after what is published: reads it again bit by bit, and fetches anew what the disk has damaged or lost.
//!
//! A little in each pass, so that a pass stays short and a round through the whole store still ends. The bytes come
//! from where they came from at first, by the same code; the mirror of the repository has most of them, so that the
//! remote need not be reachable. What cannot be had is tried again in the next pass, and stays in its place meanwhile.

use std::collections::BTreeSet;
use std::time::Instant;

use mainstay_models::{Blob, Fallback, Release};
use tracing::{info, warn};

use super::{Agent, unread};
use crate::board::now_unix_ms;
use crate::desired::{Desired, desired, stable_of};
use crate::ledger::Look;
use crate::trouble::Trouble;

/// What an agent remembers of its store's health.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// When the next round of the scrub may begin; none while one is under way, and at the start.
    next_round: Option<Instant>,
    /// The blobs that are known to be damaged or lost.
    damaged: BTreeSet<Blob>,
    /// What a fetch did not help against.
    fetched_for: BTreeSet<Blob>,
    /// What was said last about why something could not be done.
    problem: Option<Trouble>,
}

impl Agent {
    /// One step. `reachable` says whether the remote answered in this pass.
    pub(super) fn look_after_the_store(&mut self, reachable: bool) {
        let problem = self.step(reachable).err();
        if problem != self.upkeep.problem
            && let Some(problem) = &problem
        {
            warn!(%problem, "cannot look after the store");
        }
        self.upkeep.problem = problem;
        let damaged: Vec<_> = self.upkeep.damaged.iter().map(|blob| blob.sha256).collect();
        if self.board.status().damaged != damaged {
            self.board.update(|status| status.damaged = damaged);
        }
    }

    fn step(&mut self, reachable: bool) -> Result<(), Trouble> {
        // The price of one readlink and a stat per blob: what is lost is seen at once, not when its turn comes.
        self.restore(Look::Name);
        let Some(current) = &self.current else { return Ok(()) };
        let mut damaged: BTreeSet<_> =
            self.publisher.lacking(&current.release).map_err(|e| Trouble::retry(&e))?.into_iter().collect();
        let scrubbed = self.scrub();
        damaged.extend(self.publisher.damaged());
        for blob in damaged.difference(&self.upkeep.damaged) {
            self.board.damaged();
            warn!(blob = %blob.sha256, "a blob is damaged or lost: it is fetched again");
        }
        self.upkeep.damaged = damaged;
        if !self.upkeep.damaged.is_empty() {
            self.mend(reachable)?;
        }
        scrubbed
    }

    /// Reads a piece of the store, unless the pause between two rounds is not over.
    fn scrub(&mut self) -> Result<(), Trouble> {
        if self.upkeep.next_round.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        self.upkeep.next_round = None;
        let scrubbed = self.publisher.scrub(self.settings.scrub_bytes).map_err(|e| Trouble::retry(&e))?;
        self.board.scrubbed(scrubbed.bytes);
        if scrubbed.round_ended {
            self.upkeep.next_round = Some(Instant::now() + self.settings.scrub_pause);
            self.board.update(|status| status.last_scrub_unix_ms = Some(now_unix_ms()));
            // The release's own file is read once a round too.
            self.restore(Look::Content);
        }
        Ok(())
    }

    /// Has the published release put back where something else has changed or damaged it.
    fn restore(&mut self, look: Look) {
        self.ledger.restore(look);
        self.catch_up();
        self.show_release();
    }

    /// Brings back the blobs that are damaged or lost, as far as their bytes can be had now.
    fn mend(&mut self, reachable: bool) -> Result<(), Trouble> {
        let mut mended = self.mend_from_mirror();
        let is_new = self.upkeep.fetched_for != self.upkeep.damaged;
        if mended.is_err() && is_new && reachable && !self.control.cuts_short() {
            // A new mirror lacks the past. What the remote lacks too is not asked of it at each pass.
            self.upkeep.fetched_for.clone_from(&self.upkeep.damaged);
            mended = self.git.fetch().map_err(|e| Trouble::retry(&e)).and_then(|_| self.mend_from_mirror());
            if mended.is_err() && self.control.cuts_short() {
                // An operator's order is no proof that the remote lacks it.
                self.upkeep.fetched_for.clear();
            }
        }
        mended
    }

    fn mend_from_mirror(&mut self) -> Result<(), Trouble> {
        let mut problem = None;
        for blob in self.upkeep.damaged.clone() {
            let releases = self.publisher.releases_that_need(&blob).map_err(|e| Trouble::retry(&e))?;
            // Newest first: the first commit that still has the bytes will do.
            let mended = releases.iter().try_fold(None, |failed: Option<Trouble>, release| {
                match self.mend_blob(&blob, release) {
                    Ok(()) => Err(()),
                    Err(trouble) => Ok(failed.or(Some(trouble))),
                }
            });
            match mended {
                Err(()) => {
                    info!(blob = %blob.sha256, "a damaged blob has been replaced");
                    self.upkeep.damaged.remove(&blob);
                }
                Ok(failed) => problem = problem.or(failed),
            }
        }
        problem.map_or(Ok(()), Err)
    }

    fn mend_blob(&mut self, blob: &Blob, release: &Release) -> Result<(), Trouble> {
        let commit = &release.commit.id;
        for (name, model) in &release.models {
            if let Some(Fallback { commit, .. }) =
                model.fallback.as_ref().filter(|fallback| [fallback.bytes.spec, fallback.bytes.artifact].contains(blob))
            {
                let git = &mut self.git;
                let read = |path: &str, bytes_max| git.read(commit, path, bytes_max).map_err(unread);
                let stable = stable_of(&self.settings.environment, &BTreeSet::from([name.clone()]), read)?;
                let sources = stable.into_iter().flatten().flat_map(|stable| stable.sources);
                return self.supply(commit, sources.filter(|source| source.blob == *blob).collect());
            }
        }
        let Desired { sources, .. } = {
            let (git, board) = (&mut self.git, &self.board);
            let read = |path: &str, bytes_max| {
                board.beat();
                git.read(commit, path, bytes_max).map_err(unread)
            };
            desired(&self.settings.environment, read)?
        };
        match sources.into_iter().find(|source| source.blob == *blob) {
            Some(source) => self.supply(commit, vec![source]),
            None => Err(Trouble::Retry(format!("commit {commit} no longer says where blob {} is", blob.sha256))),
        }
    }
}
