//! What the sidecar tells the world about itself: one status, swapped whole, and the metrics.
//!
//! Written by the loop and by operators' orders, read by anybody at any time without holding the loop up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use prometheus::TextEncoder;

use self::metrics::Metrics;
use crate::trust::signers::Reason;

mod metrics;
mod status;

pub use status::{Ended, Health, HeldBack, HeldBy, LastPass, Problem, PublishedRelease, Status, Sync, Times, Trigger};

pub use crate::server::{FailedModel, TriedFallback};

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
