//! What the sidecar tells the world about itself: one status, swapped whole, and the metrics.
//!
//! Written by the loop and by operators' orders, read by anybody at any time without holding the loop up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use mainstay_models::store::Current;
use mainstay_models::{Commit, CommitId, Digest, EnvironmentName, ModelName, ReleasedModel, Rollback};
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use serde::Serialize;

use crate::ledger::Holds;
pub use crate::server::{FailedModel, TriedFallback};
use crate::trouble::{Refusal, Trouble};
use crate::trust::model::SignedModel;
use crate::trust::signers::Reason;
use crate::trust::{Verified, Verify};

/// Whether what is published is what git asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Sync {
    /// The newest commit is published.
    Synced,
    /// The newest commit is known, and something else is published.
    OutOfSync,
    /// Git could not be asked, so the newest commit is not known.
    Unknown,
}

/// How what is published is doing, whatever git asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Health {
    /// The server has taken the release, whole. Without a server to ask: there is a release.
    Healthy,
    /// The server has not taken the release yet.
    Progressing,
    /// There is no release, the server does not take it, or a model of it did not load.
    Degraded,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// A release was published.
    Published,
    /// What is published is what git asks for.
    Unchanged,
    /// What git asks for is verified and held back.
    Held,
    /// The commit was refused, now or earlier.
    Refused,
    /// Something failed that the next pass may not meet.
    Retry,
}

/// Who asked for a pass before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A signed webhook.
    Webhook,
    /// SIGHUP.
    Signal,
    /// The admin listener.
    Operator,
}

/// What /status says. Fields are added, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The environment that is followed.
    pub environment: EnvironmentName,
    /// The repository; it holds no credentials.
    pub repository: String,
    /// The reference that is followed.
    pub reference: String,
    /// The full name of the branch or tag that it stands for, such as the tag that a range chose; as last advertised.
    pub resolved: Option<String>,
    /// Which commits must be signed.
    pub verify: Verify,
    /// Whose word was taken for the newest release; none before this process published one, or without verification.
    pub verified: Option<Verified>,
    /// Whether every version must be signed by itself.
    pub verify_models: bool,
    /// Who signed the versions of the newest release; none before this process published one, or without verification.
    pub signed_models: Vec<SignedModel>,
    /// Whether what is published is what git asks for.
    pub sync: Sync,
    /// How what is published is doing.
    pub health: Health,
    /// Why it is not healthy.
    pub health_reason: Option<String>,
    /// The versions that are asked for and not live in the server.
    pub failed: Vec<FailedModel>,
    /// Why models of which nothing answers have no earlier version to stand in for them.
    pub walk_back: Option<String>,
    /// Why the last pass did not publish what git asks for.
    pub problem: Option<Problem>,
    /// The newest commit that git asked for, as far as known.
    pub desired: Option<CommitId>,
    /// What is verified and may not go live, and why.
    pub held_back: Option<HeldBack>,
    /// What operators hold.
    pub hold: Holds,
    /// What is published.
    pub release: Option<PublishedRelease>,
    /// The last pass.
    pub last_pass: Option<LastPass>,
    /// When a pass last found or made what is published the same as what git asks for, in ms since 1970.
    pub last_success_unix_ms: Option<u64>,
    /// The blobs of published releases that the disk has damaged or lost, and that are not replaced yet.
    pub damaged: Vec<Digest>,
    /// When the whole store was last read again, in ms since 1970.
    pub last_scrub_unix_ms: Option<u64>,
}

/// A release that is verified and may not go live.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HeldBack {
    /// The commit that asks for it.
    pub commit: Commit,
    /// What holds it back.
    pub by: HeldBy,
    /// Why, in one line.
    pub reason: String,
    /// When it goes live by itself, in ms since 1970; null where that takes a person.
    pub until_unix_ms: Option<u64>,
    /// The default model that it asks for.
    pub default: ModelName,
    /// The models that it asks for.
    pub models: BTreeMap<ModelName, ReleasedModel>,
    /// The models that move only together.
    pub together: Vec<BTreeSet<ModelName>>,
}

/// What holds a release back, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldBy {
    /// serving.yaml: `suspend`.
    Suspend,
    /// An operator's `mainstay hold`.
    Operator,
    /// An operator's `mainstay rollback`.
    Rollback,
    /// serving.yaml: `hold`.
    Hold,
    /// serving.yaml: `windows`.
    Window,
    /// serving.yaml: `sync: manual`.
    Manual,
}

/// Why a pass did not publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Problem {
    /// A person must change git.
    Refused {
        /// The commit that was refused.
        commit: CommitId,
        /// The refusal in one line.
        text: String,
        /// The refusal in parts.
        #[serde(flatten)]
        refusal: Refusal,
    },
    /// The next pass tries again.
    Retry {
        /// What went wrong.
        text: String,
    },
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PublishedRelease {
    /// Its name in the store.
    pub name: String,
    /// The digest of its file.
    pub sha256: Digest,
    /// The commit that asked for it.
    pub commit: Commit,
    /// The default model.
    pub default: ModelName,
    /// The models.
    pub models: BTreeMap<ModelName, ReleasedModel>,
    /// The models that move only together.
    pub together: Vec<BTreeSet<ModelName>>,
    /// Where it is an earlier release's content again: which, and instead of what.
    pub rollback: Option<Rollback>,
    /// Its way here.
    pub times: Times,
}

/// The way of a release, in ms since 1970; null for what this process has not seen, such as before a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Times {
    /// The remote was first seen to advertise its commit.
    pub desired_unix_ms: Option<u64>,
    /// Its commit was fetched.
    pub fetched_unix_ms: Option<u64>,
    /// All its bytes were verified and in the store.
    pub verified_unix_ms: Option<u64>,
    /// The server was first seen to have taken it.
    pub loaded_unix_ms: Option<u64>,
    /// The server was first seen to have taken it with every model loaded.
    pub live_unix_ms: Option<u64>,
}

/// The last pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastPass {
    /// How it ended.
    pub ended: Ended,
    /// When it ended, in ms since 1970.
    pub at_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// The newest trigger that it answers; triggers are counted from 1.
    pub trigger: u64,
}

/// The status and the metrics of one sidecar.
#[derive(Debug)]
pub struct Board {
    status: ArcSwap<Status>,
    metrics: Metrics,
    /// Since when git asks for something else than is published; none while it does not. Held by whoever changes the
    /// status, so that no change is lost and the metrics follow in order.
    behind_since: Mutex<Option<Instant>>,
    started: Instant,
    /// When the loop last showed that it is not stuck, in ms since `started`.
    beat_ms: AtomicU64,
}

#[derive(Debug)]
struct Metrics {
    registry: Registry,
    passes: IntCounterVec,
    pass_seconds: HistogramVec,
    pass_cpu_seconds: CounterVec,
    last_success: Gauge,
    behind: Gauge,
    release: IntGaugeVec,
    desired: IntGaugeVec,
    sync: IntGaugeVec,
    health: IntGaugeVec,
    fetched_bytes: IntCounter,
    downloads: IntCounterVec,
    downloaded_bytes: IntCounterVec,
    downloads_resumed: IntCounter,
    digest_failures: IntCounterVec,
    releases: IntCounter,
    scrubbed_bytes: IntCounter,
    damaged_blobs: IntCounter,
    workers: IntCounter,
    triggers: IntCounterVec,
    webhooks_refused: IntCounter,
    rollbacks: IntCounter,
    held_back: IntGaugeVec,
    holds: IntGaugeVec,
    rewinds_refused: IntCounter,
    signatures_verified: IntCounter,
    signature_failures: IntCounterVec,
    model_signatures_verified: IntCounter,
    model_signature_failures: IntCounterVec,
    commit_to_live: Histogram,
    stage: GaugeVec,
}

/// Now, in ms since 1970.
pub(crate) fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

impl Board {
    pub(crate) fn new(status: Status) -> Self {
        let board = Self {
            status: ArcSwap::from_pointee(status),
            metrics: Metrics::new(),
            behind_since: Mutex::new(None),
            started: Instant::now(),
            beat_ms: AtomicU64::new(0),
        };
        board.metrics.show(None, &board.status());
        board
    }

    /// The status now.
    pub fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    /// The metrics now, in the text format.
    pub fn metrics(&self) -> String {
        let behind = self.behind_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.behind.set(behind.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        drop(behind);
        let text = TextEncoder::new().encode_to_string(&self.metrics.registry.gather());
        text.expect("metrics that were registered can be written")
    }

    /// How long ago the loop last showed that it is not stuck.
    pub fn silence(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.beat_ms.load(Ordering::Relaxed)))
    }

    pub(crate) fn beat(&self) {
        self.beat_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Changes the status. The loop and the orders of operators do, one after the other; readers never wait.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut behind = self.behind_since.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.status();
        let mut status = (*before).clone();
        change(&mut status);
        self.metrics.show(Some(&before), &status);
        *behind = if status.is_behind() { behind.or_else(|| Some(Instant::now())) } else { None };
        self.status.store(Arc::new(status));
    }

    /// Shows what is published. What the server said of another release is not said of this one.
    pub(crate) fn show_release(&self, release: Option<PublishedRelease>) {
        let name = |release: &Option<PublishedRelease>| release.as_ref().map(|release| release.name.clone());
        self.update(|status| {
            if name(&status.release) != name(&release) {
                status.health = Health::Progressing;
                status.health_reason = Some("the server has not been asked about the release yet".to_owned());
                status.failed = Vec::new();
            }
            status.release = release;
        });
    }

    pub(crate) fn fetched(&self, bytes: u64) {
        self.metrics.fetched_bytes.inc_by(bytes);
    }

    /// How asking one place for an artifact ended.
    pub(crate) fn downloaded(&self, scheme: &str, outcome: &str) {
        self.metrics.downloads.with_label_values(&[scheme, outcome]).inc();
        if outcome == "wrong" {
            self.digest_failed(scheme);
        }
    }

    /// An artifact was not what its card promises; `source` is the kind of place that has it.
    pub(crate) fn digest_failed(&self, source: &str) {
        self.metrics.digest_failures.with_label_values(&[source]).inc();
    }

    pub(crate) fn downloaded_bytes(&self, scheme: &str, bytes: u64) {
        self.metrics.downloaded_bytes.with_label_values(&[scheme]).inc_by(bytes);
    }

    /// A download went on where one before it was cut off.
    pub(crate) fn resumed(&self) {
        self.metrics.downloads_resumed.inc();
    }

    pub(crate) fn published(&self) {
        self.metrics.releases.inc();
    }

    pub(crate) fn scrubbed(&self, bytes: u64) {
        self.metrics.scrubbed_bytes.inc_by(bytes);
    }

    pub(crate) fn damaged(&self) {
        self.metrics.damaged_blobs.inc();
    }

    pub(crate) fn rolled_back(&self) {
        self.metrics.rollbacks.inc();
    }

    pub(crate) fn rewind_refused(&self) {
        self.metrics.rewinds_refused.inc();
    }

    pub(crate) fn signature_verified(&self) {
        self.metrics.signatures_verified.inc();
    }

    pub(crate) fn signature_failed(&self, reason: Reason) {
        self.metrics.signature_failures.with_label_values(&[reason.label()]).inc();
    }

    pub(crate) fn model_signature_verified(&self) {
        self.metrics.model_signatures_verified.inc();
    }

    pub(crate) fn model_signature_failed(&self, reason: Reason) {
        self.metrics.model_signature_failures.with_label_values(&[reason.label()]).inc();
    }

    pub(crate) fn live(&self, since_desired: Duration) {
        self.metrics.commit_to_live.observe(since_desired.as_secs_f64());
    }

    /// Counts a trigger.
    pub fn triggered(&self, by: Trigger) {
        self.metrics.triggers.with_label_values(&[by.label()]).inc();
    }

    pub(crate) fn webhook_refused(&self) {
        self.metrics.webhooks_refused.inc();
    }

    /// A pass came to its end, and cost so much of the processor.
    pub(crate) fn passed(&self, ended: Ended, took: Duration, cpu: Duration, trigger: u64, workers_started: u64) {
        let label = ended.label();
        self.metrics.pass_cpu_seconds.with_label_values(&[label]).inc_by(cpu.as_secs_f64());
        self.metrics.passes.with_label_values(&[label]).inc();
        self.metrics.pass_seconds.with_label_values(&[label]).observe(took.as_secs_f64());
        self.metrics.workers.inc_by(workers_started.saturating_sub(self.metrics.workers.get()));
        let at_unix_ms = now_unix_ms();
        self.update(|status| {
            status.last_pass = Some(LastPass { ended, at_unix_ms, seconds: took.as_secs_f64(), trigger });
            if matches!(ended, Ended::Published | Ended::Unchanged) {
                status.last_success_unix_ms = Some(at_unix_ms);
            }
        });
    }
}

impl Status {
    /// Whether git is known to ask for something else than is published.
    fn is_behind(&self) -> bool {
        let published = self.release.as_ref().map(|release| &release.commit.id);
        self.desired.is_some() && self.desired.as_ref() != published
    }
}

impl Ended {
    const ALL: [Self; 5] = [Self::Published, Self::Unchanged, Self::Held, Self::Refused, Self::Retry];

    /// Its name in /status and in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Unchanged => "unchanged",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::Retry => "retry",
        }
    }
}

impl HeldBy {
    const ALL: [Self; 6] = [Self::Suspend, Self::Operator, Self::Rollback, Self::Hold, Self::Window, Self::Manual];

    /// Its name in /status and in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Operator => "operator",
            Self::Rollback => "rollback",
            Self::Hold => "hold",
            Self::Window => "window",
            Self::Manual => "manual",
        }
    }
}

impl Trigger {
    const ALL: [Self; 3] = [Self::Webhook, Self::Signal, Self::Operator];

    fn label(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Signal => "signal",
            Self::Operator => "operator",
        }
    }
}

impl Problem {
    pub(crate) fn new(trouble: &Trouble, commit: Option<&CommitId>) -> Self {
        match (trouble, commit) {
            (Trouble::Refused(refusal), Some(commit)) => {
                Self::Refused { commit: commit.clone(), text: refusal.to_string(), refusal: refusal.clone() }
            }
            _ => Self::Retry { text: trouble.to_string() },
        }
    }
}

impl PublishedRelease {
    pub(crate) fn new(current: &Current, times: Times) -> Self {
        Self {
            name: current.name.to_string(),
            sha256: current.sha256,
            commit: current.release.commit.clone(),
            default: current.release.default.clone(),
            models: current.release.models.clone(),
            together: current.release.together.clone(),
            rollback: current.release.rollback.clone(),
            times,
        }
    }
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new_custom(Some("mainstay_sync".to_owned()), None);
        let registry = registry.expect("the prefix is a metric's name");
        let register = |metric: Box<dyn prometheus::core::Collector>| {
            registry.register(metric).expect("every metric has its own name");
        };
        macro_rules! metric {
            ($made:expr) => {{
                let metric = $made.expect("the name and the labels are well formed");
                register(Box::new(metric.clone()));
                metric
            }};
        }
        let buckets = vec![0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0];
        let pass_buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];
        let pass_opts = HistogramOpts::new("pass_duration_seconds", "Duration of a pass, by outcome.");
        let live_opts = HistogramOpts::new(
            "commit_to_live_seconds",
            "Time from first seeing a commit advertised to the server having taken its release with every model loaded.",
        );
        let metrics = Self {
            passes: metric!(IntCounterVec::new(Opts::new("passes_total", "Passes, by outcome."), &["outcome"])),
            pass_seconds: metric!(HistogramVec::new(pass_opts.buckets(pass_buckets), &["outcome"])),
            pass_cpu_seconds: metric!(CounterVec::new(
                Opts::new(
                    "pass_cpu_seconds_total",
                    "Processor time of passes and of the git worker in them, by outcome."
                ),
                &["outcome"],
            )),
            behind: metric!(Gauge::with_opts(Opts::new(
                "behind_seconds",
                "For how long git has been known to ask for something else than is published; 0 while it does not.",
            ))),
            last_success: metric!(Gauge::with_opts(Opts::new(
                "last_success_timestamp_seconds",
                "When a pass last found or made the published release the one that git asks for; 0 before the first.",
            ))),
            release: metric!(IntGaugeVec::new(
                Opts::new("release_info", "The published release, always 1."),
                &["environment", "name", "commit"],
            )),
            desired: metric!(IntGaugeVec::new(
                Opts::new("desired_info", "The newest commit that git asked for, always 1."),
                &["commit"],
            )),
            sync: metric!(IntGaugeVec::new(
                Opts::new(
                    "state",
                    "Whether the published release is the one that git asks for: 1 for the state that holds."
                ),
                &["state"],
            )),
            health: metric!(IntGaugeVec::new(
                Opts::new("health", "How the published release is doing: 1 for the state that holds."),
                &["state"],
            )),
            fetched_bytes: metric!(IntCounter::new("fetched_bytes_total", "Bytes that fetches brought.")),
            downloads: metric!(IntCounterVec::new(
                Opts::new(
                    "downloads_total",
                    "Places asked for artifacts, by kind and outcome; wrong: other bytes came."
                ),
                &["scheme", "outcome"],
            )),
            downloaded_bytes: metric!(IntCounterVec::new(
                Opts::new("downloaded_bytes_total", "Bytes of artifacts that came from outside git, by kind of place."),
                &["scheme"],
            )),
            downloads_resumed: metric!(IntCounter::new(
                "downloads_resumed_total",
                "Downloads that went on where one before them was cut off.",
            )),
            digest_failures: metric!(IntCounterVec::new(
                Opts::new(
                    "digest_failures_total",
                    "Artifacts that were not what their card promises, by the kind of place that has them.",
                ),
                &["source"],
            )),
            releases: metric!(IntCounter::new("releases_published_total", "Releases published.")),
            scrubbed_bytes: metric!(IntCounter::new(
                "scrubbed_bytes_total",
                "Bytes of the store that were read again to find damage.",
            )),
            damaged_blobs: metric!(IntCounter::new(
                "damaged_blobs_total",
                "Blobs of published releases that were found damaged or lost.",
            )),
            workers: metric!(IntCounter::new(
                "git_workers_started_total",
                "Git workers started; more than one means that one was killed or died.",
            )),
            triggers: metric!(IntCounterVec::new(
                Opts::new("triggers_total", "Passes asked for before their time, by who asked."),
                &["by"],
            )),
            webhooks_refused: metric!(IntCounter::new(
                "webhooks_refused_total",
                "Webhooks that were not signed with the secret, or did not come whole.",
            )),
            rollbacks: metric!(IntCounter::new("rollbacks_total", "Rollbacks to an earlier release of the store.")),
            held_back: metric!(IntGaugeVec::new(
                Opts::new("held_back", "Whether a verified release is held back, by what: 1 for what holds it."),
                &["by"],
            )),
            holds: metric!(IntGaugeVec::new(
                Opts::new("hold", "Whether operators hold what is published: 1 for a hold that is in force."),
                &["by"],
            )),
            rewinds_refused: metric!(IntCounter::new(
                "rewinds_refused_total",
                "Commits refused because they do not descend from the live one.",
            )),
            signatures_verified: metric!(IntCounter::new(
                "signatures_verified_total",
                "Commits whose signature was good and by somebody who may sign them.",
            )),
            signature_failures: metric!(IntCounterVec::new(
                Opts::new("signature_failures_total", "Commits refused for their signature, by reason."),
                &["reason"],
            )),
            model_signatures_verified: metric!(IntCounter::new(
                "model_signatures_verified_total",
                "Versions whose signature was good and by somebody who may sign them.",
            )),
            model_signature_failures: metric!(IntCounterVec::new(
                Opts::new("model_signature_failures_total", "Versions refused for their signature, by reason."),
                &["reason"],
            )),
            commit_to_live: metric!(Histogram::with_opts(live_opts.buckets(buckets))),
            stage: metric!(GaugeVec::new(
                Opts::new("release_stage_timestamp_seconds", "When the published release reached a stage on its way."),
                &["stage"],
            )),
            registry: registry.clone(),
        };
        for ended in Ended::ALL {
            // A rate over a counter that is not there yet misses its first step.
            metrics.passes.with_label_values(&[ended.label()]);
            metrics.pass_cpu_seconds.with_label_values(&[ended.label()]);
        }
        metrics.digest_failures.with_label_values(&["git"]);
        for by in Trigger::ALL {
            metrics.triggers.with_label_values(&[by.label()]);
        }
        for reason in Reason::OF_COMMITS {
            metrics.signature_failures.with_label_values(&[reason.label()]);
        }
        for reason in Reason::OF_MODELS {
            metrics.model_signature_failures.with_label_values(&[reason.label()]);
        }
        metrics
    }

    fn show(&self, before: Option<&Status>, status: &Status) {
        let set = |gauge: &IntGaugeVec, states: &[(&str, bool)]| {
            for (state, holds) in states {
                gauge.with_label_values(&[state]).set(i64::from(*holds));
            }
        };
        set(
            &self.sync,
            &[
                ("Synced", status.sync == Sync::Synced),
                ("OutOfSync", status.sync == Sync::OutOfSync),
                ("Unknown", status.sync == Sync::Unknown),
            ],
        );
        set(
            &self.health,
            &[
                ("Healthy", status.health == Health::Healthy),
                ("Progressing", status.health == Health::Progressing),
                ("Degraded", status.health == Health::Degraded),
            ],
        );
        let held = status.held_back.as_ref().map(|held| held.by);
        set(&self.held_back, &HeldBy::ALL.map(|by| (by.label(), held == Some(by))));
        let holds = &status.hold;
        set(&self.holds, &[("operator", holds.operator.is_some()), ("rollback", holds.rollback.is_some())]);
        self.last_success.set(status.last_success_unix_ms.unwrap_or(0) as f64 / 1e3);
        // A scrape must not meet a moment without them, so they are taken away only when there are others.
        if before.is_none_or(|before| before.desired != status.desired) {
            self.desired.reset();
            if let Some(commit) = &status.desired {
                self.desired.with_label_values(&[commit.as_str()]).set(1);
            }
        }
        if before.is_some_and(|before| before.release == status.release) {
            return;
        }
        self.release.reset();
        self.stage.reset();
        if let Some(release) = &status.release {
            let labels = [status.environment.as_str(), &release.name, release.commit.id.as_str()];
            self.release.with_label_values(&labels).set(1);
            let times = &release.times;
            for (stage, unix_ms) in [
                ("desired", times.desired_unix_ms),
                ("fetched", times.fetched_unix_ms),
                ("verified", times.verified_unix_ms),
                ("loaded", times.loaded_unix_ms),
                ("live", times.live_unix_ms),
            ] {
                if let Some(unix_ms) = unix_ms {
                    self.stage.with_label_values(&[stage]).set(unix_ms as f64 / 1e3);
                }
            }
        }
    }
}
