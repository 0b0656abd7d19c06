//! Makes the store say what git says: one pass at a time, each the whole story.
//!
//! A pass is idempotent and has no arguments: it looks at git and at the store, and closes the gap. Nothing is tried
//! twice in a pass, since the next pass is the retry. Whatever goes wrong, what was published stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_models::store::Current;
use mainstay_models::yaml::FILE_BYTES_MAX;
use mainstay_models::{Change, Commit, CommitId, Digest, EnvironmentName, Publisher, Release, ReleaseName, Serving};
use rustix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use crate::Control;
use crate::board::{Board, Ended, FailedModel, Health, HeldBack, Problem, Sync, Times, TriedFallback, now_unix_ms};
use crate::clock::{Clock, unix_ms};
use crate::desired::{Desired, Source, Unread, desired};
use crate::fetch::{self, Fetcher};
use crate::git::{self, Advertised, Failure, Git};
use crate::ledger::{Ledger, Ready, Verdict};
use crate::server::{Echo, Server};
use crate::supply::Supply;
use crate::trouble::{Refusal, Trouble};
use crate::trust::{self, Judge, Verified};

mod upkeep;
mod walk;

/// How long the server may take to take a release before that counts as a fault.
const TAKING_MAX: Duration = Duration::from_secs(60);
/// How often the server is asked whether it has taken a new release.
const TAKING_CHECK: Duration = Duration::from_millis(25);
/// The least time that is waited for what is held back to go live by itself.
const OPENING_MIN: Duration = Duration::from_millis(50);
/// How many commits that changed serving.yaml are named in a release.
const CHANGES_MAX: usize = 20;
/// How many commits are looked at to find them.
const COMMITS_MAX: usize = 2000;

/// What an agent is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The environment that is followed.
    pub environment: EnvironmentName,
    /// How many releases before the live one are kept.
    pub keep_releases: usize,
    /// Where artifacts come from.
    pub supply: Supply,
    /// What may be fetched from outside git.
    pub fetch: fetch::Settings,
    /// The file with the token for the repository, which its Git LFS store takes too.
    pub token_file: Option<PathBuf>,
    /// How long a pass may wait for the server to take a release.
    pub confirm_max: Duration,
    /// What is asked of a commit before it is believed.
    pub trust: trust::Settings,
    /// How many bytes of the store a pass reads again.
    pub scrub_bytes: u64,
    /// The pause between two rounds of that through the whole store.
    pub scrub_pause: Duration,
}

/// Follows one environment of one repository into one store.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    git: Git,
    fetcher: Fetcher,
    publisher: Arc<Publisher>,
    ledger: Arc<Ledger>,
    server: Option<Server>,
    board: Arc<Board>,
    control: Control,
    clock: Clock,
    /// What is published, as of this agent's last look: an operator may have rolled back since.
    current: Option<Current>,
    /// The commit of `current`, also where that cannot be read.
    live: Option<CommitId>,
    /// The newest release's way here.
    times: Times,
    /// The commit that git asks for, and when it first did, in ms since 1970.
    seen: Option<(CommitId, u64)>,
    /// Since when the server has not shown that it has taken the newest release whole.
    untaken_since: Option<Instant>,
    /// Whether the newest release's way here says how fast it was.
    timed: bool,
    /// The release that was verified last and held back, so that it is not read again at each poll, and the mark of the
    /// allowed signers.
    ready: Option<(Ready, Option<Digest>)>,
    /// What held a release back in the last pass.
    held: Option<HeldBack>,
    /// The commit that was refused last, so that it is not read again at each poll, and the mark of the allowed signers.
    refused: Option<(CommitId, Refusal, Option<Digest>)>,
    upkeep: upkeep::Upkeep,
    walk: walk::Walk,
}

/// How a pass ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Pass {
    /// A release was published.
    Published,
    /// What is published is what git asks for.
    Unchanged,
    /// What git asks for is verified, and held back.
    Held(HeldBack),
    /// A person must change git.
    Refused(Refusal),
    /// The next pass tries again.
    Retry(String),
    /// Another publisher holds the store.
    Waiting,
}

impl Agent {
    /// An agent that starts from what the ledger says.
    #[allow(clippy::too_many_arguments, reason = "each is a part of its own, put together in one place")]
    pub(crate) fn new(
        settings: Settings,
        git: Git,
        publisher: Arc<Publisher>,
        ledger: Arc<Ledger>,
        server: Option<Server>,
        board: Arc<Board>,
        control: Control,
        clock: Clock,
    ) -> Self {
        let current = ledger.current();
        // Of a release that cannot be read, the name still says which commit nothing may go back behind.
        let live = match publisher.reader().current() {
            Ok(_) => current.as_ref().map(|current| current.release.commit.id.clone()),
            Err(_) => publisher.reader().current_name().ok().flatten().map(|name| name.commit),
        };
        let untaken_since = Some(Instant::now());
        let times = Times::default();
        let fetcher =
            Fetcher::new(settings.fetch.clone(), settings.token_file.clone(), control.clone(), Some(board.clone()));
        let agent = Self {
            settings,
            git,
            fetcher,
            publisher,
            ledger,
            server,
            board,
            control,
            clock,
            current,
            live,
            times,
            seen: None,
            untaken_since,
            timed: true,
            ready: None,
            held: None,
            refused: None,
            upkeep: upkeep::Upkeep::default(),
            walk: walk::Walk::default(),
        };
        agent.show_release();
        agent
    }

    /// The process id of the git worker, where one is running.
    pub fn git_worker_id(&self) -> Option<u32> {
        self.git.worker_id()
    }

    /// How often a git worker was started.
    pub fn git_workers_started(&self) -> u64 {
        self.git.workers_started()
    }

    /// Makes the store say what git says, or says why not.
    pub fn reconcile(&mut self) -> Pass {
        let (started, cpu) = (Instant::now(), self.cpu_time());
        let orders = self.control.begin();
        self.board.beat();
        self.held = None;
        if orders.interrupted {
            // Whether a rollback is live must not wait for a git that may be the reason for it.
            self.confirm(started + self.settings.confirm_max);
        }
        self.catch_up();
        let mut asked = None;
        let result = self.publish_what_git_asks(&mut asked, orders.publish_now);
        if let Err(Trouble::Retry(problem)) = &result
            && self.control.cuts_short()
        {
            // Cut short by an operator: not worth a word, and not the repository's fault.
            return Pass::Retry(problem.clone());
        }
        self.show_outcome(&result, asked.as_ref());
        // Counted before the server is waited for: publishing is this pass's work, taking is the server's.
        let ended = match &result {
            Ok(ended) => *ended,
            Err(Trouble::Refused(_)) => Ended::Refused,
            Err(Trouble::Retry(_)) => Ended::Retry,
        };
        let cpu = self.cpu_time().saturating_sub(cpu);
        self.board.passed(ended, started.elapsed(), cpu, orders.trigger, self.git.workers_started());
        self.look_after_the_store(asked.is_some());
        self.confirm(started + self.settings.confirm_max);
        self.board.beat();
        match result {
            Ok(Ended::Published) => Pass::Published,
            Ok(Ended::Held) => Pass::Held(self.held.clone().expect("what holds a release back was noted")),
            Ok(_) => Pass::Unchanged,
            Err(Trouble::Refused(refusal)) => Pass::Refused(refusal),
            Err(Trouble::Retry(problem)) => Pass::Retry(problem),
        }
    }

    /// What this thread and the git worker have used of the processor.
    fn cpu_time(&mut self) -> Duration {
        let own = clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or(Duration::ZERO);
        own + self.git.cpu_time()
    }

    /// The story of a pass. `asked` becomes the commit that git asks for, as soon as that is known.
    fn publish_what_git_asks(&mut self, asked: &mut Option<CommitId>, now: bool) -> Result<Ended, Trouble> {
        let advertised = self.ask_git(asked, |git| git.advertised())?;
        let desired_unix_ms = Some(self.first_seen(&advertised));
        if self.is_published(&advertised) {
            self.ledger.settled();
            return Ok(Ended::Unchanged);
        }
        if let Some(lost) = self.ledger.lost()
            && lost.commit != advertised
            && let Err(problem) = self.make_anew(&lost)
        {
            warn!(release = %lost, %problem, "cannot publish a release anew that cannot be read");
        }
        if let Some(refusal) = self.refusal_of(&advertised) {
            return Err(refusal.into());
        }

        // Taken before the file is used: what changes in between is looked at in the next pass.
        let mark = self.settings.trust.mark();
        let unchanged =
            |(ready, by): &mut (Ready, Option<Digest>)| ready.release.commit.id == advertised && *by == mark;
        if let Some((ready, _)) = self.ready.take_if(unchanged) {
            return self.publish(ready, mark, now);
        }

        let fetched = self.git.fetch().map_err(|e| Trouble::retry(&e))?;
        let times = Times { desired_unix_ms, fetched_unix_ms: Some(now_unix_ms()), ..Times::default() };
        self.board.fetched(fetched.bytes);
        // The remote may have moved on between the two questions.
        let commit = self.ask_git(asked, |_| Ok(fetched.advertised))?;
        if self.is_published(&commit) {
            self.ledger.settled();
            return Ok(Ended::Unchanged);
        }

        let live = self.live.as_ref();
        let (settings, environment) = (&self.settings.trust, &self.settings.environment);
        let mut judge = Judge { settings, environment, git: &mut self.git, board: Some(&self.board), counts: true };
        let ready = judge.check(&commit, live).and_then(|verified| self.prepare(&commit, times, verified));
        if let Err(Trouble::Refused(refusal)) = &ready {
            warn!(%commit, %refusal, "refused a commit");
            self.refused = Some((commit, refusal.clone(), mark));
        }
        self.publish(ready?, mark, now)
    }

    /// What git asks for now, which is also shown.
    fn ask_git(
        &mut self,
        asked: &mut Option<CommitId>,
        ask: impl FnOnce(&mut Git) -> Result<Advertised, git::Error>,
    ) -> Result<CommitId, Trouble> {
        let Advertised { commit, name } = ask(&mut self.git).map_err(|e| Trouble::retry(&e))?;
        *asked = Some(commit.clone());
        self.ledger.asked(&commit);
        if self.board.status().resolved.as_ref() != Some(&name) {
            self.board.update(|status| status.resolved = Some(name));
        }
        Ok(commit)
    }

    /// Verifies everything that a fetched commit asks for, and brings it into the store.
    fn prepare(&mut self, commit: &CommitId, mut times: Times, verified: Option<Verified>) -> Result<Ready, Trouble> {
        let described = self.git.describe(commit).map_err(|e| Trouble::retry(&e))?;
        let (Desired { default, models, together, policy, sources, .. }, signed_models) = {
            let (git, board) = (&mut self.git, &self.board);
            let mut read = |path: &str, bytes_max| {
                board.beat();
                git.read(commit, path, bytes_max).map_err(unread)
            };
            let (environment, trust) = (&self.settings.environment, &self.settings.trust);
            let desired = desired(environment, &mut read)?;
            // Before anything is fetched for it.
            let signed = trust::model::check(trust, environment, &desired.versions, Some(board), &mut read)?;
            (desired, signed)
        };
        self.supply(commit, sources)?;
        times.verified_unix_ms = Some(now_unix_ms());

        let changes = self.changes(commit)?;
        let release = Release::new(self.settings.environment.clone(), described, default, models, changes);
        let release = release.and_then(|release| release.moving_together(together));
        let release = release.expect("a validated serving.yaml names its default, its stable versions and its groups");
        Ok(Ready { release, policy, times, verified, signed_models, held: false })
    }

    /// Publishes anew what is live, where its file cannot be read. It was verified when it went live.
    fn make_anew(&mut self, lost: &ReleaseName) -> Result<(), Trouble> {
        if self.git.describe(&lost.commit).is_err() {
            self.git.fetch().map_err(|e| Trouble::retry(&e))?;
        }
        let Ready { release, .. } = self.prepare(&lost.commit, Times::default(), None)?;
        self.ledger.make_anew(lost, &release, self.settings.keep_releases)?;
        info!(release = %lost, "published a release anew from its commit, since its file could not be read");
        self.catch_up();
        Ok(())
    }

    /// Makes a verified release live, unless something holds it back. `mark` stands for the signers that it was verified by.
    fn publish(&mut self, mut ready: Ready, mark: Option<Digest>, now: bool) -> Result<Ended, Trouble> {
        let current = match self.ledger.publish(&ready, now, self.settings.keep_releases)? {
            Verdict::Published(current) => current,
            Verdict::Held(held) => {
                if self.board.status().held_back.as_ref() != Some(&held) {
                    info!(commit = %held.commit.id, by = held.by.label(), reason = held.reason, "held a release back");
                }
                self.held = Some(held);
                ready.held = true;
                self.ready = Some((ready, mark));
                return Ok(Ended::Held);
            }
        };
        let Commit { id, author, subject, .. } = &current.release.commit;
        let models = current.release.models.len();
        info!(release = %current.name, commit = %id, author, subject, models, "published a release");
        if let Some(Verified { signer, fingerprint, commits, note, .. }) = &ready.verified {
            info!(commit = %id, signer, fingerprint, commits, note, "verified the signatures");
        }
        for trust::model::SignedModel { model, version, signer, fingerprint } in &ready.signed_models {
            info!(commit = %id, %model, %version, signer, fingerprint, "verified a model's signature");
        }
        self.live = Some(id.clone());
        self.current = Some(current);
        self.times = ready.times;
        self.timed = !ready.held;
        self.untaken_since = Some(Instant::now());
        self.refused = None;
        if let Err(error) = self.publisher.forget_arrivals() {
            warn!(%error, "cannot remove what is left of downloads");
        }
        self.board.published();
        self.board.update(|status| {
            status.verified = ready.verified;
            status.signed_models = ready.signed_models;
        });
        self.show_release();
        Ok(Ended::Published)
    }

    /// How long until what is held back goes live by itself.
    pub(crate) fn opens_in(&self) -> Option<Duration> {
        let until_unix_ms = self.held.as_ref()?.until_unix_ms?;
        Some(Duration::from_millis(until_unix_ms.saturating_sub(unix_ms(self.clock.now()))).max(OPENING_MIN))
    }

    /// Learns what was published beside the loop, by an operator or in place of what was lost.
    fn catch_up(&mut self) {
        let current = self.ledger.current();
        if current.as_ref().map(|current| &current.name) != self.current.as_ref().map(|current| &current.name) {
            // A release that was lost still says what nothing may go back behind.
            if let Some(current) = &current {
                self.live = Some(current.release.commit.id.clone());
            }
            self.current = current;
            self.times = Times::default();
            self.untaken_since = Some(Instant::now());
        }
    }

    /// Brings the bytes of blobs into the store, unless they are there: from the commit, or from where it says.
    fn supply(&mut self, commit: &CommitId, sources: Vec<Source>) -> Result<(), Trouble> {
        let mut wanted = Vec::new();
        for source in sources {
            self.board.beat();
            let read = |path: &str, bytes_max| self.git.read(commit, path, bytes_max).map_err(unread);
            let taken = self.settings.supply.add(&self.publisher, source, read);
            if let Err(Trouble::Refused(_)) = &taken {
                self.board.digest_failed("git");
            }
            wanted.extend(taken?);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        info!(%commit, artifacts = wanted.len(), "fetching artifacts from outside the repository");
        let asked = self.seen.as_ref().map(|(commit, _)| commit.clone());
        let git = &mut self.git;
        // A repository that does not answer right now is no reason to stop what it asked for.
        let still_wanted = || match (&asked, git.advertised()) {
            (Some(asked), Ok(Advertised { commit, .. })) => commit == *asked,
            _ => true,
        };
        self.fetcher.fetch(&self.publisher, &wanted, still_wanted)
    }

    /// The commits that changed what is served, newest first, and what each changed.
    fn changes(&mut self, commit: &CommitId) -> Result<Vec<Change>, Trouble> {
        let path = Serving::path(&self.settings.environment);
        // One more than is named, so that the oldest has something to be compared with.
        let history = self
            .git
            .history(commit, vec![path.clone()], COMMITS_MAX, CHANGES_MAX + 1)
            .map_err(|e| Trouble::retry(&e))?;
        let mut previous = None;
        let mut changes = Vec::new();
        for commit in history.commits.into_iter().rev() {
            self.board.beat();
            let text = match self.git.read(&commit.id, &path, FILE_BYTES_MAX as u64).map_err(unread) {
                Ok(text) => Some(text),
                Err(Unread::Missing | Unread::Unfit(_)) => None,
                Err(Unread::Trouble(problem)) => return Err(Trouble::Retry(problem)),
            };
            let serving = text.and_then(|text| Serving::parse(&path, &text).ok());
            let moves = serving.as_ref().map_or_else(Vec::new, |serving| serving.moves_from(previous.as_ref()));
            previous = serving.or(previous);
            changes.push(Change { commit, moves });
        }
        if !history.complete && !changes.is_empty() {
            changes.remove(0);
        }
        changes.reverse();
        changes.truncate(CHANGES_MAX);
        Ok(changes)
    }

    /// Asks the server whether it has taken the newest release whole, until it has, `due`, or something else comes up.
    /// Where nothing answers for a model, what is to stand in becomes a newer release, which is asked about likewise.
    fn confirm(&mut self, due: Instant) {
        loop {
            self.ask_server(due);
            let failed = self.board.status().failed.clone();
            if !self.walk_back(&failed) || Instant::now() >= due || self.control.stopped() {
                return;
            }
        }
    }

    fn ask_server(&mut self, due: Instant) {
        self.catch_up();
        let Some(current) = &self.current else { return };
        let Some(server) = &self.server else { return };
        let (health, reason, failed) = loop {
            let echo = server.echo(current);
            let waiting_since = *self.untaken_since.get_or_insert_with(Instant::now);
            let patient = waiting_since.elapsed() < TAKING_MAX;
            let verdict = match echo {
                Echo::Taken(failed) => {
                    let now = now_unix_ms();
                    self.times.loaded_unix_ms.get_or_insert(now);
                    if !failed.is_empty() {
                        break (Health::Degraded, Some(reason_of(&failed)), failed);
                    }
                    self.untaken_since = None;
                    if self.times.live_unix_ms.replace(self.times.live_unix_ms.unwrap_or(now)).is_none() {
                        info!(release = %current.name, "a release is live");
                        if let Some(desired) = self.times.desired_unix_ms.filter(|_| self.timed) {
                            self.board.live(Duration::from_millis(now.saturating_sub(desired)));
                        }
                    }
                    break (Health::Healthy, None, Vec::new());
                }
                Echo::Other => "the server has not taken the release".to_owned(),
                Echo::Silent(problem) => problem,
            };
            let health = if patient { Health::Progressing } else { Health::Degraded };
            // Waiting longer than a pass may, or while there is something to do, would hold up newer commits.
            if !patient || Instant::now() + TAKING_CHECK >= due || !self.control.pause(TAKING_CHECK) {
                break (health, Some(verdict), Vec::new());
            }
        };
        self.show_release();
        self.show_health(health, reason, failed);
    }

    fn is_published(&self, commit: &CommitId) -> bool {
        self.current.as_ref().is_some_and(|current| current.release.commit.id == *commit)
    }

    /// When git first asked for a commit: a release that took several passes counts from the first of them.
    fn first_seen(&mut self, commit: &CommitId) -> u64 {
        match &self.seen {
            Some((seen, unix_ms)) if seen == commit => *unix_ms,
            _ => self.seen.insert((commit.clone(), now_unix_ms())).1,
        }
    }

    fn refusal_of(&self, commit: &CommitId) -> Option<Refusal> {
        let (refused, refusal, mark) = self.refused.as_ref()?;
        (refused == commit && *mark == self.settings.trust.mark()).then(|| refusal.clone())
    }

    fn show_release(&self) {
        if let Some(current) = &self.current {
            self.ledger.show(current, self.times);
        }
    }

    fn show_outcome(&self, result: &Result<Ended, Trouble>, asked: Option<&CommitId>) {
        let before = self.board.status();
        let problem = result.as_ref().err().map(|trouble| Problem::new(trouble, asked));
        if problem != before.problem {
            match &problem {
                Some(Problem::Retry { text }) => warn!(problem = text, "a pass failed and will be tried again"),
                // A refusal was told when the commit was read.
                Some(Problem::Refused { .. }) => {}
                None => info!("the problem is gone"),
            }
        }
        let sync = match (result, asked) {
            (Ok(Ended::Held), _) => Sync::OutOfSync,
            (Ok(_), _) => Sync::Synced,
            (Err(_), Some(_)) => Sync::OutOfSync,
            (Err(_), None) => Sync::Unknown,
        };
        let health = match (&self.current, &self.server) {
            (None, _) => {
                let why = self.held.as_ref().map(|held| held.reason.clone());
                let why = why.or_else(|| result.as_ref().err().map(ToString::to_string));
                Some((Health::Degraded, why.map(|why| format!("nothing is published: {why}"))))
            }
            (Some(_), None) => Some((Health::Healthy, None)),
            // The server is asked next.
            (Some(_), Some(_)) => None,
        };
        if let Some((health, reason)) = &health {
            self.tell_health(*health, reason.as_deref());
        }
        // In one step: nobody sees a release that nothing is waited for as one that progresses.
        self.board.update(|status| {
            status.sync = sync;
            status.desired = asked.cloned().or(status.desired.take());
            status.problem = problem;
            // Without git nobody knows better than before.
            if asked.is_some() {
                status.held_back = self.held.clone();
            }
            if let Some((health, reason)) = health {
                (status.health, status.health_reason, status.failed) = (health, reason, Vec::new());
            }
        });
    }

    fn show_health(&self, health: Health, reason: Option<String>, failed: Vec<FailedModel>) {
        self.tell_health(health, reason.as_deref());
        self.board.update(|status| {
            (status.health, status.health_reason, status.failed) = (health, reason, failed);
        });
    }

    /// A line in the log where the health becomes another.
    fn tell_health(&self, health: Health, reason: Option<&str>) {
        if self.board.status().health == health {
            return;
        }
        match health {
            Health::Healthy => info!("healthy"),
            Health::Progressing => info!(reason, "progressing"),
            Health::Degraded => warn!(reason, "degraded"),
        }
    }
}

/// What is not live, and what answers instead, in one line.
fn reason_of(failed: &[FailedModel]) -> String {
    let text = |model: &FailedModel| {
        let reason = model.reason.as_deref().unwrap_or("no reason given");
        let verb = if model.state == "failed" { "did not load" } else { "is not live" };
        let text = format!("{} {} {verb}: {reason}", model.name, model.version);
        match model.fallback.as_ref().filter(|fallback| fallback.state == "live") {
            Some(TriedFallback { version, commit, .. }) => {
                let commit = commit.get(..10).unwrap_or(commit);
                format!("{text}; {version}, as commit {commit} asked for it, stands in")
            }
            None => text,
        }
    };
    failed.iter().map(text).collect::<Vec<_>>().join("; ")
}

/// Whether a file that was not read is git's fault or the commit's.
pub(crate) fn unread(error: git::Error) -> Unread {
    match error {
        git::Error::Failed(Failure::NoFile { .. }) => Unread::Missing,
        git::Error::Failed(failure @ (Failure::NotAFile { .. } | Failure::TooLarge { .. })) => {
            Unread::Unfit(failure.to_string())
        }
        error => match Trouble::retry(&error) {
            Trouble::Retry(problem) => Unread::Trouble(problem),
            Trouble::Refused(_) => unreachable!("a retry is no refusal"),
        },
    }
}
