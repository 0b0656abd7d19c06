//! What is published, and what keeps it from being changed: the one place where either changes.
//!
//! The loop publishes through it, the admin listener rolls back and holds through it, each under one lock that is
//! never held while git or a network is waited for. So a rollback takes as long as the disk, whatever the loop is
//! doing, and a release that was being made meanwhile meets the hold when it comes to be published.
//!
//! Holds are kept in `hold.json` in the store, replaced whole: a restart changes nothing about them. Only a change of
//! what is live can be held back. Where nothing is live yet, the first release is published whatever holds, except
//! under `suspend`: a new pod in a freeze is to serve.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use mainstay_models::store::{Current, PublishError, ReadError, RepublishError};
use mainstay_models::{
    Commit, CommitId, EnvironmentName, ModelName, Policy, Publisher, Release, ReleaseName, Rollback, Version,
};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::Control;
use crate::board::{Board, HeldBack, HeldBy, PublishedRelease, Times};
use crate::clock::{Clock, unix_ms};
use crate::trouble::Trouble;
use crate::trust::Verified;
use crate::trust::model::SignedModel;

/// The longest text that an operator may give as a reason, in characters.
const REASON_CHARS_MAX: usize = 500;
/// The longest file of holds.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How many commits one rollback after another may keep out.
const COMMITS_MAX: usize = 1000;
/// The fewest digits of a commit by which a release is found.
const DIGITS_MIN: usize = 4;

/// What a sidecar has published, and what holds it there.
#[derive(Debug)]
pub struct Ledger {
    publisher: Arc<Publisher>,
    file: PathBuf,
    clock: Clock,
    board: Arc<Board>,
    control: Control,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Option<Current>,
    /// What `current` names, where that cannot be read: it is to be made anew, and holds as if it could.
    lost: Option<ReleaseName>,
    holds: Holds,
    /// What git asked for when it was last asked.
    asked: Option<CommitId>,
}

/// How closely the store is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// At the name of what is live.
    Name,
    /// At its content too.
    Content,
}

/// What operators hold, apart from what git's policy says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Holds {
    /// Somebody holds what is published, until somebody resumes.
    pub operator: Option<Hold>,
    /// Somebody rolled back, which holds until git asks for something newer, or somebody resumes.
    pub rollback: Option<RolledBack>,
}

/// A hold by an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Why.
    pub reason: String,
    /// Since when, in ms since 1970.
    pub since_unix_ms: u64,
}

/// A rollback without git.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolledBack {
    /// The release that was live before.
    pub from: ReleaseName,
    /// The earlier release whose content is live again.
    pub to: ReleaseName,
    /// Since when, in ms since 1970.
    pub since_unix_ms: u64,
    /// The commits that do not come back: those rolled back from, and what git asked for at the time.
    pub commits: Vec<CommitId>,
}

/// Everything that a commit asks for, verified and in the store.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The release.
    pub release: Release,
    /// When its commit lets it go live.
    pub policy: Policy,
    /// Its way here.
    pub times: Times,
    /// Whose word was taken for its commit.
    pub verified: Option<Verified>,
    /// Whose word was taken for its versions.
    pub signed_models: Vec<SignedModel>,
    /// Whether it was held back, so that the time until it is live says nothing about speed.
    pub held: bool,
}

/// What became of a release that was to be published.
#[derive(Debug)]
pub enum Verdict {
    /// It is live.
    Published(Current),
    /// Something holds it back.
    Held(HeldBack),
}

/// One release of the store's history.
#[derive(Debug, Clone, Serialize)]
pub struct Past {
    /// Its name in the store.
    pub name: ReleaseName,
    /// Its place in the sequence.
    pub seq: u64,
    /// Whether it is live.
    pub live: bool,
    /// When it was published, in ms since 1970.
    pub published_unix_ms: u64,
    /// The commit that asked for its content.
    pub commit: Commit,
    /// The stable version of each model.
    pub models: BTreeMap<ModelName, Version>,
    /// The version that it brings along for a model whose stable one does not load.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fallbacks: BTreeMap<ModelName, Version>,
    /// Why nothing but its name is known: its file cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Where it is a way back: from what, to what.
    pub rollback: Option<Rollback>,
}

/// Why an operator's order was not followed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No release has that name.
    #[error("the store has no release before the live one that is called `{0}`; `mainstay history` lists them")]
    Unknown(String),
    /// There is nothing to go back to.
    #[error("the store has no earlier release that serves something else")]
    NoEarlier,
    /// It would change nothing.
    #[error("release {0} serves what is live")]
    Same(ReleaseName),
    /// Nothing was published yet.
    #[error("nothing is published yet")]
    Empty,
    /// A reason that people cannot read.
    #[error("give a reason: one line of at most {REASON_CHARS_MAX} characters")]
    Reason,
    /// The store cannot be read.
    #[error("cannot read the store")]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error("cannot publish")]
    Republish(#[from] RepublishError),
    /// The holds cannot be written.
    #[error("cannot write the hold down")]
    Write(#[source] io::Error),
}

impl Ledger {
    /// What `publisher`'s store says, and what holds it.
    pub(crate) fn open(
        publisher: Arc<Publisher>,
        environment: &EnvironmentName,
        clock: Clock,
        board: Arc<Board>,
        control: Control,
    ) -> Self {
        let (mut current, mut lost) = published(&publisher, environment);
        let file = publisher.reader().root().join("hold.json");
        let holds = read(&file).unwrap_or_else(|error| {
            warn!(file = %file.display(), %error, "the holds cannot be read, so everything is held");
            let reason = "the file with the holds cannot be read; `mainstay resume` makes it anew".to_owned();
            Holds { operator: Some(Hold { reason, since_unix_ms: clock.now_unix_ms() }), rollback: None }
        });
        board.update(|status| status.hold = holds.clone());
        if let Some(name) = &lost
            && publish_copy(&publisher, name, &holds, environment)
        {
            (current, lost) = published(&publisher, environment);
        }
        let state = Mutex::new(State { current, lost, holds, asked: None });
        Self { publisher, file, clock, board, control, state }
    }

    /// What is published.
    pub(crate) fn current(&self) -> Option<Current> {
        self.state().current.clone()
    }

    /// What `current` names, where that cannot be read.
    pub(crate) fn lost(&self) -> Option<ReleaseName> {
        self.state().lost.clone()
    }

    /// Notes what git asks for.
    pub(crate) fn asked(&self, commit: &CommitId) {
        self.state().asked = Some(commit.clone());
    }

    /// Shows `shown` as what is published, unless something else is by now.
    pub(crate) fn show(&self, shown: &Current, times: Times) {
        let state = self.state();
        if state.current.as_ref().is_some_and(|current| current.name == shown.name) {
            let release = PublishedRelease::new(shown, times);
            self.board.show_release(Some(release));
        }
    }

    /// Notes that git asks for what is live: whatever a rollback kept out is not asked for any more.
    pub(crate) fn settled(&self) {
        self.lift_rollback(&mut self.state());
    }

    /// Makes a release live and removes what is not kept, unless something holds it back.
    pub(crate) fn publish(&self, ready: &Ready, publish_now: bool, keep: usize) -> Result<Verdict, Trouble> {
        let mut state = self.state();
        if let Some((by, reason, until)) = self.held_by(&state, ready, publish_now) {
            let release = &ready.release;
            return Ok(Verdict::Held(HeldBack {
                commit: release.commit.clone(),
                by,
                reason,
                until_unix_ms: until.map(unix_ms),
                default: release.default.clone(),
                models: release.models.clone(),
                together: release.together.clone(),
            }));
        }
        let current = self.publish_as(&mut state, &ready.release, keep)?;
        self.lift_rollback(&mut state);
        Ok(Verdict::Published(current))
    }

    /// Publishes `release` in place of `known`, which asks for the same and lacks what stands in where something does not
    /// load. No hold applies: it changes nothing that answers. Nothing is done where something else is live by now.
    pub(crate) fn stand_in(
        &self,
        known: &ReleaseName,
        release: &Release,
        keep: usize,
    ) -> Result<Option<Current>, Trouble> {
        let mut state = self.state();
        if state.current.as_ref().map(|current| &current.name) != Some(known) {
            return Ok(None);
        }
        self.publish_as(&mut state, release, keep).map(Some)
    }

    /// Publishes the content of a release anew whose file cannot be read. No hold applies: nothing changes.
    pub(crate) fn make_anew(&self, lost: &ReleaseName, release: &Release, keep: usize) -> Result<(), Trouble> {
        let mut state = self.state();
        if state.lost.as_ref() == Some(lost) {
            self.publish_as(&mut state, release, keep)?;
        }
        Ok(())
    }

    /// Makes a release live, and removes what is not kept.
    fn publish_as(&self, state: &mut State, release: &Release, keep: usize) -> Result<Current, Trouble> {
        self.publisher.publish(release).map_err(|e| Trouble::retry(&e))?;
        state.current = self.publisher.reader().current().map_err(|e| Trouble::retry(&e))?;
        state.lost = None;
        // The release is published whether or not this succeeds. Under the lock: a rollback needs what would go.
        match self.publisher.collect(keep) {
            Ok(collected) if collected.releases + collected.blobs > 0 => {
                info!(releases = collected.releases, blobs = collected.blobs, "collected what no release needs");
            }
            Ok(_) => {}
            Err(error) => warn!(error = %Trouble::retry(&error), "cannot collect what no release needs"),
        }
        Ok(state.current.clone().expect("a release was published just now"))
    }

    /// Publishes anew what is live, if something else has changed or damaged it in the store. No hold applies: nothing
    /// that is served changes. Where it cannot be published, the store is believed, and the next pass closes the gap.
    pub(crate) fn restore(&self, look: Look) {
        let mut state = self.state();
        let Some(known) = &state.current else { return };
        let reader = self.publisher.reader();
        let is_whole = match look {
            // What cannot be read now is told from what is gone when its content is looked at.
            Look::Name => reader.current_name().map_or(true, |name| name.as_ref() == Some(&known.name)),
            Look::Content => matches!(reader.current(), Ok(Some(found)) if found == *known),
        };
        if is_whole {
            return;
        }
        warn!(release = %known.name, "the published release has been changed or damaged by something else");
        let environment = known.release.environment.clone();
        match self.publisher.publish(&known.release) {
            Ok(name) => {
                info!(release = %name, "published it anew");
                self.board.published();
            }
            Err(error) => warn!(error = %Trouble::retry(&error), "cannot publish it anew"),
        }
        (state.current, state.lost) = published(&self.publisher, &environment);
        let release = state.current.as_ref().map(|current| PublishedRelease::new(current, Times::default()));
        self.board.show_release(release);
    }

    /// What holds a release back. The strongest comes first, since that is what has to go first.
    fn held_by(
        &self,
        state: &State,
        ready: &Ready,
        publish_now: bool,
    ) -> Option<(HeldBy, String, Option<jiff::Timestamp>)> {
        let Ready { release, policy, .. } = ready;
        if policy.suspend {
            return Some((HeldBy::Suspend, "`suspend: true` in serving.yaml".to_owned(), None));
        }
        let live = state.current.as_ref().map(|current| &current.release.commit.id);
        let live = live.or(state.lost.as_ref().map(|lost| &lost.commit))?;
        if state.current.is_none() && *live == release.commit.id {
            return None;
        }
        if let Some(hold) = &state.holds.operator {
            return Some((HeldBy::Operator, hold.reason.clone(), None));
        }
        if let Some(rolled) = &state.holds.rollback
            && rolled.commits.contains(&release.commit.id)
        {
            let reason =
                format!("rolled back from {} to {}, until a newer commit comes", rolled.from.seq, rolled.to.seq);
            return Some((HeldBy::Rollback, reason, None));
        }
        if let Some(reason) = &policy.hold {
            return Some((HeldBy::Hold, reason.clone(), None));
        }
        if let Some(closed) = policy.closed(self.clock.now()) {
            return Some((HeldBy::Window, closed.reason, closed.until));
        }
        if policy.manual && !publish_now {
            let reason = "`sync: manual` in serving.yaml: `mainstay sync-now` publishes it".to_owned();
            return Some((HeldBy::Manual, reason, None));
        }
        None
    }

    /// Makes an earlier release's content live again, and keeps it so until git asks for something newer.
    ///
    /// `wanted` is a release's name, its place in the sequence, or the beginning of its commit; without it, it is the
    /// newest earlier release that serves something else.
    pub fn roll_back(&self, wanted: Option<&str>) -> Result<RolledBack, OrderError> {
        let mut state = self.state();
        let live = state.current.clone().ok_or(OrderError::Empty)?;
        let earlier = self.earlier(&live, wanted)?;
        let mut commits = state.holds.rollback.as_ref().map_or_else(Vec::new, |rolled| rolled.commits.clone());
        for commit in [Some(&live.release.commit.id), state.asked.as_ref()].into_iter().flatten() {
            if !commits.contains(commit) {
                commits.push(commit.clone());
            }
        }
        commits.drain(..commits.len().saturating_sub(COMMITS_MAX));
        let to = earlier.release.rollback.as_ref().map_or(&earlier.name, |rollback| &rollback.to).clone();
        let rolled = RolledBack { from: live.name, to, since_unix_ms: self.clock.now_unix_ms(), commits };
        let before = state.holds.clone();
        // The hold first: were this killed between the two, a hold without a rollback is the lesser evil.
        self.set(&mut state, Holds { rollback: Some(rolled.clone()), ..before.clone() }).map_err(OrderError::Write)?;
        if let Err(error) = self.publisher.republish(&earlier.name) {
            self.set(&mut state, before).unwrap_or_else(|error| warn!(%error, "cannot take a hold back"));
            return Err(error.into());
        }
        state.current = self.publisher.reader().current()?;
        if let Some(current) = &state.current {
            let release = PublishedRelease::new(current, Times::default());
            self.board.show_release(Some(release));
        }
        self.board.rolled_back();
        info!(from = %rolled.from, to = %rolled.to, "rolled back");
        self.control.interrupt();
        Ok(rolled)
    }

    /// The release to go back to.
    fn earlier(&self, live: &Current, wanted: Option<&str>) -> Result<Current, OrderError> {
        let reader = self.publisher.reader();
        let mut names = reader.releases()?;
        names.retain(|name| name.seq < live.name.seq);
        if let Some(wanted) = wanted {
            let named = |name: &&ReleaseName| {
                let digits = wanted.len() >= DIGITS_MIN && name.commit.as_str().starts_with(wanted);
                name.to_string() == wanted || name.seq.to_string() == wanted || digits
            };
            // A place in the sequence goes before a commit that begins like it.
            let place = names.iter().find(|name| name.seq.to_string() == wanted);
            let name = place.or_else(|| names.iter().rev().find(named));
            let name = name.ok_or_else(|| OrderError::Unknown(wanted.chars().take(80).collect()))?;
            let release = reader.release(name.clone())?;
            return if release.release.serves_as(&live.release) {
                Err(OrderError::Same(name.clone()))
            } else {
                Ok(release)
            };
        }
        // After a way back, what it led away from is no way back: only what is older than where it led.
        let before = live.release.rollback.as_ref().map_or(live.name.seq, |rollback| rollback.to.seq);
        for name in names.into_iter().rev().filter(|name| name.seq < before) {
            let earlier = match reader.release(name) {
                Ok(earlier) => earlier,
                Err(error) => {
                    warn!(error = %Trouble::retry(&error), "passed over an earlier release that cannot be read");
                    continue;
                }
            };
            let same_place = earlier.release.environment == live.release.environment;
            if same_place && earlier.release.rollback.is_none() && !earlier.release.serves_as(&live.release) {
                return Ok(earlier);
            }
        }
        Err(OrderError::NoEarlier)
    }

    /// Holds what is published until [`Ledger::resume`].
    pub fn hold(&self, reason: &str) -> Result<(), OrderError> {
        let reason = reason.trim();
        if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX || reason.contains(char::is_control) {
            return Err(OrderError::Reason);
        }
        let mut state = self.state();
        let hold = Hold { reason: reason.to_owned(), since_unix_ms: self.clock.now_unix_ms() };
        let holds = Holds { operator: Some(hold), ..state.holds.clone() };
        self.set(&mut state, holds).map_err(OrderError::Write)?;
        info!(reason, "held");
        self.control.trigger();
        Ok(())
    }

    /// Lifts what operators hold, a rollback's hold too. Says what that was.
    pub fn resume(&self) -> Result<Holds, OrderError> {
        let mut state = self.state();
        let before = state.holds.clone();
        if before != Holds::default() {
            self.set(&mut state, Holds::default()).map_err(OrderError::Write)?;
            info!("resumed");
        }
        self.control.trigger();
        Ok(before)
    }

    /// The releases that the store keeps, newest first.
    pub fn history(&self) -> Result<Vec<Past>, OrderError> {
        // Under the lock, so that nothing is collected while it is read.
        let state = self.state();
        let reader = self.publisher.reader();
        let past = |name: ReleaseName| {
            let published = reader.published_at(&name)?.duration_since(SystemTime::UNIX_EPOCH);
            let past = Past {
                seq: name.seq,
                live: state.current.as_ref().is_some_and(|current| current.name == name),
                published_unix_ms: published.map_or(0, |since| since.as_millis() as u64),
                commit: Commit {
                    id: name.commit.clone(),
                    author: String::new(),
                    subject: String::new(),
                    time_unix_s: 0,
                },
                models: BTreeMap::new(),
                fallbacks: BTreeMap::new(),
                problem: None,
                rollback: None,
                name: name.clone(),
            };
            let release = match reader.release(name) {
                Ok(Current { release, .. }) => release,
                // One that the disk has damaged must not hide the others.
                Err(error) => {
                    let problem = Some(Trouble::retry(&error).to_string());
                    return Ok(Past { problem, ..past });
                }
            };
            let mut fallbacks = BTreeMap::new();
            for (name, model) in &release.models {
                fallbacks.extend(model.fallback.iter().map(|fallback| (name.clone(), fallback.version.clone())));
            }
            Ok(Past {
                commit: release.commit,
                models: release.models.into_iter().map(|(model, released)| (model, released.stable)).collect(),
                fallbacks,
                rollback: release.rollback,
                ..past
            })
        };
        reader.releases()?.into_iter().rev().map(past).collect()
    }

    fn lift_rollback(&self, state: &mut State) {
        if state.holds.rollback.is_none() {
            return;
        }
        let holds = Holds { rollback: None, ..state.holds.clone() };
        // What it keeps out is not asked for now, so a hold that stays written down harms nobody.
        match self.set(state, holds) {
            Ok(()) => info!("a newer commit ends the rollback's hold"),
            Err(error) => warn!(%error, "cannot write down that a rollback's hold has ended"),
        }
    }

    /// Writes the holds down, then believes and shows them.
    fn set(&self, state: &mut State, holds: Holds) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&holds).expect("holds are text and numbers");
        let folder = self.publisher.reader().root().to_owned();
        let mut file = tempfile::NamedTempFile::new_in(folder.join("tmp"))?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(&self.file).map_err(|e| e.error)?;
        std::fs::File::open(folder)?.sync_all()?;
        state.holds = holds.clone();
        self.board.update(|status| status.hold = holds);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made on disk first, so what a panicking thread left is at worst behind the disk.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the store says is published for an environment, or what it names as that and cannot be read.
fn published(publisher: &Publisher, environment: &EnvironmentName) -> (Option<Current>, Option<ReleaseName>) {
    let reader = publisher.reader();
    match reader.current() {
        Ok(current) => (current.filter(|current| current.release.environment == *environment), None),
        Err(error) => {
            warn!(error = %Trouble::retry(&error), "the published release cannot be read");
            (None, reader.current_name().ok().flatten())
        }
    }
}

/// Publishes what the store still has of a release whose file cannot be read: another one of the same commit. Says
/// whether there was one.
fn publish_copy(publisher: &Publisher, lost: &ReleaseName, holds: &Holds, environment: &EnvironmentName) -> bool {
    if let Some(rolled) = holds.rollback.as_ref().filter(|rolled| rolled.to.commit == lost.commit)
        && publisher.republish(&rolled.to).is_ok()
    {
        info!(release = %lost, from = %rolled.to, "published a release anew that could not be read");
        return true;
    }
    let reader = publisher.reader();
    let names = reader.releases().unwrap_or_default();
    names.into_iter().rev().filter(|name| name.commit == lost.commit && name != lost).any(|name| {
        let copy = reader.release(name.clone()).ok().filter(|copy| copy.release.environment == *environment);
        let published = copy.is_some_and(|copy| publisher.publish(&copy.release).is_ok());
        if published {
            info!(release = %lost, from = %name, "published a release anew that could not be read");
        }
        published
    })
}

fn read(file: &std::path::Path) -> io::Result<Holds> {
    use io::Read as _;

    let mut text = Vec::new();
    match std::fs::File::open(file) {
        Ok(open) => open.take(FILE_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holds::default()),
        Err(error) => return Err(error),
    };
    Ok(serde_json::from_slice(&text)?)
}

/// Whether the fault of an order is the store's or the disk's.
impl OrderError {
    pub(crate) fn is_internal(&self) -> bool {
        match self {
            Self::Read(_) | Self::Write(_) => true,
            Self::Republish(error) => !matches!(error, RepublishError::Publish(PublishError::Missing(_))),
            Self::Unknown(_) | Self::NoEarlier | Self::Same(_) | Self::Empty | Self::Reason => false,
        }
    }
}
