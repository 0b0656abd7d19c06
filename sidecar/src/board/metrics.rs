//! What Prometheus reads of it.

use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry,
};

use super::status::{Ended, Health, HeldBy, Status, Sync, Trigger};
use crate::trust::signers::Reason;

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) registry: Registry,
    pub(super) passes: IntCounterVec,
    pub(super) pass_seconds: HistogramVec,
    pub(super) pass_cpu_seconds: CounterVec,
    pub(super) last_success: Gauge,
    pub(super) behind: Gauge,
    pub(super) release: IntGaugeVec,
    pub(super) desired: IntGaugeVec,
    pub(super) sync: IntGaugeVec,
    pub(super) health: IntGaugeVec,
    pub(super) fetched_bytes: IntCounter,
    pub(super) downloads: IntCounterVec,
    pub(super) downloaded_bytes: IntCounterVec,
    pub(super) downloads_resumed: IntCounter,
    pub(super) digest_failures: IntCounterVec,
    pub(super) releases: IntCounter,
    pub(super) scrubbed_bytes: IntCounter,
    pub(super) damaged_blobs: IntCounter,
    pub(super) workers: IntCounter,
    pub(super) triggers: IntCounterVec,
    pub(super) webhooks_refused: IntCounter,
    pub(super) rollbacks: IntCounter,
    pub(super) held_back: IntGaugeVec,
    pub(super) holds: IntGaugeVec,
    pub(super) rewinds_refused: IntCounter,
    pub(super) signatures_verified: IntCounter,
    pub(super) signature_failures: IntCounterVec,
    pub(super) model_signatures_verified: IntCounter,
    pub(super) model_signature_failures: IntCounterVec,
    pub(super) commit_to_live: Histogram,
    pub(super) stage: GaugeVec,
}

impl Metrics {
    pub(super) fn new() -> Self {
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

    /// Shows what of `status` is not what `before` was.
    pub(super) fn show(&self, before: Option<&Status>, status: &Status) {
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
