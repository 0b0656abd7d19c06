//! Says in words what the two programs report: what was asked for, what became of it, how long it took.

use std::time::Duration;

use mainstay_models::{Change, CommitId, ModelName, Move, Role, Version};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How long one of the programs may take to say how it is.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Watches the server and the sidecar through their own addresses.
pub struct Narrator {
    agent: ureq::Agent,
    info_url: String,
    sync_url: String,
    /// The release that was last told about.
    told: Option<String>,
    /// The version at which iris stood when that was told.
    iris: Option<Version>,
    /// The refusal that was last told about.
    refused: Option<String>,
    retrying: bool,
}

/// The part of the sidecar's status that matters here.
#[derive(Deserialize)]
struct SyncStatus {
    problem: Option<Problem>,
    release: Option<SyncRelease>,
    failed: Vec<Failed>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Problem {
    Refused { commit: CommitId, text: String },
    Retry { text: String },
}

#[derive(Deserialize)]
struct SyncRelease {
    name: String,
    times: Times,
}

#[derive(Deserialize)]
struct Times {
    desired_unix_ms: Option<u64>,
    loaded_unix_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Failed {
    name: ModelName,
    version: Version,
    state: String,
    reason: Option<String>,
}

/// The part of the server's info that matters here.
#[derive(Deserialize)]
struct Info {
    release: Option<InfoRelease>,
    models: Vec<InfoModel>,
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct InfoRelease {
    name: String,
    commit: CommitId,
}

#[derive(Deserialize)]
struct InfoModel {
    name: ModelName,
    stable: Option<Version>,
}

impl Narrator {
    /// Watches the server at `data_url` and the sidecar at `sync_url`.
    pub fn new(data_url: &str, sync_url: &str) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).proxy(None).build();
        Self {
            agent: config.new_agent(),
            info_url: format!("{data_url}/info"),
            sync_url: format!("{sync_url}/status"),
            told: None,
            iris: None,
            refused: None,
            retrying: false,
        }
    }

    /// Whether a release has been told about.
    pub fn live(&self) -> bool {
        self.told.is_some()
    }

    /// The version at which iris stands.
    pub fn iris(&self) -> Option<&Version> {
        self.iris.as_ref()
    }

    /// What has happened since the last look, in words.
    pub fn look(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        // A program that does not answer this time is asked again the next.
        let Some(sync) = self.get::<SyncStatus>(&self.sync_url) else { return lines };
        self.tell_problem(sync.problem, &mut lines);
        if let Some(release) = sync.release
            && release.times.loaded_unix_ms.is_some()
            && self.told.as_ref() != Some(&release.name)
            && let Some(info) = self.get::<Info>(&self.info_url)
            && info.release.as_ref().is_some_and(|live| live.name == release.name)
        {
            tell_release(&info, &release.times, &sync.failed, &mut lines);
            self.told = Some(release.name);
            self.iris =
                info.models.into_iter().find(|model| model.name.as_str() == "iris").and_then(|model| model.stable);
        }
        lines
    }

    fn tell_problem(&mut self, problem: Option<Problem>, lines: &mut Vec<String>) {
        match problem {
            Some(Problem::Refused { commit, text }) => {
                let key = format!("{commit} {text}");
                if self.refused.as_ref() != Some(&key) {
                    lines.push(format!("Commit {} was refused: {text}", commit.short()));
                    lines.push("  What was live stays live. Mend it with another commit, or git revert.".to_owned());
                    self.refused = Some(key);
                }
            }
            Some(Problem::Retry { text }) if !self.retrying => {
                lines.push(format!("The repository cannot be followed right now: {text}"));
                lines.push("  What was live stays live. It is tried again by itself.".to_owned());
                self.retrying = true;
            }
            Some(Problem::Retry { .. }) => {}
            None => {
                if std::mem::take(&mut self.retrying) {
                    lines.push("The repository can be followed again.".to_owned());
                }
                self.refused = None;
            }
        }
    }

    fn get<T: DeserializeOwned>(&self, url: &str) -> Option<T> {
        self.agent.get(url).call().ok()?.body_mut().read_json().ok()
    }
}

fn tell_release(info: &Info, times: &Times, failed: &[Failed], lines: &mut Vec<String>) {
    let Some(release) = &info.release else { return };
    let took = times.desired_unix_ms.zip(times.loaded_unix_ms);
    let took =
        took.map(|(seen, live)| format!(", {:.1} s after it was seen", live.saturating_sub(seen) as f64 / 1000.0));
    let took = took.unwrap_or_default();
    let change = info.changes.first().filter(|change| change.commit.id == release.commit);
    match change {
        Some(Change { commit, moves }) => {
            lines.push(format!("Commit {} by {} is live{took}: {}", commit.id.short(), commit.author, commit.subject));
            let moved =
                moves.iter().filter(|m| !failed.iter().any(|f| f.name == m.model && Some(&f.version) == m.to.as_ref()));
            lines.extend(moved.map(|m| format!("  {}", told(m))));
        }
        None => {
            lines.push(format!("Commit {} is live{took}; it changes nothing that is served", release.commit.short()));
        }
    }
    for Failed { name, version, state, reason } in failed {
        let reason = reason.as_deref().unwrap_or("the server gives no reason");
        let what = if state == "failed" { "did not load" } else { "is not live" };
        lines.push(format!("  {name} {version} {what}: {reason}"));
        let stays = info.models.iter().find(|model| model.name == *name).and_then(|model| model.stable.as_ref());
        lines.push(match stays {
            Some(version) => format!("  {name} {version} keeps answering"),
            None => format!("  {name} has no version that answers"),
        });
    }
}

fn told(Move { model, role, from, to }: &Move) -> String {
    match (role, from, to) {
        (Role::Stable, Some(from), Some(to)) => format!("{model} rolled from {from} to {to}"),
        (Role::Stable, None, Some(to)) => format!("{model} {to} answers now"),
        (Role::Stable, Some(from), None) => format!("{model} is no longer served; it was at {from}"),
        (Role::Preview, _, Some(to)) => format!("{model} {to} can be tried with ?version={to}"),
        (Role::Preview, Some(from), None) => format!("{model} {from} can no longer be tried"),
        (_, None, None) => format!("{model} did not change"),
    }
}
