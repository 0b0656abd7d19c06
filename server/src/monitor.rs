//! What the server counts, and how Prometheus reads it.
//!
//! The handles of one version are made once, when it is loaded. A request counts in its thread's own shard, whose lock no other
//! thread wants unless somebody reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use mainstay_models::{ModelName, ModelSpec, Version};
use prometheus::core::Collector;
use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use self::shard::{Shards, Sum};
use crate::rows::{Layout, Rows};

mod shard;

/// Upper bounds of the latency histogram in seconds: from 50 µs, where small models answer, to the deadline of a request.
const LATENCY_BUCKETS_S: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_35, 0.000_5, 0.000_75, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 5.0, 30.0,
];

/// How many sizes of runs a thread counts each by itself.
const BATCH_SIZES_MAX: usize = 32;

/// Stands in the labels `model` and `version` of a request that names none that there is.
const NONE: &str = "";

/// All metrics of the server. One per process, shared.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    latency_s: HistogramVec,
    rows: IntCounterVec,
    out_of_range: IntCounterVec,
    in_flight: IntGauge,
    /// The prediction requests that have begun and not ended.
    at_hand: Sum,
    /// What has been counted of each version that is loaded.
    versions: Mutex<Vec<Weak<Shards<Counts>>>>,
    reloads: IntCounterVec,
    reload_s: Histogram,
    release_age_s: Gauge,
    released: Mutex<Option<Instant>>,
}

/// A request that is being answered, until dropped; also where the client leaves and its future is dropped.
#[derive(Debug)]
pub struct InFlight<'a>(&'a Metrics);

/// The handles of one version of one model.
#[derive(Debug)]
pub struct VersionMetrics {
    counts: Arc<Shards<Counts>>,
    ok: IntCounter,
    latency_s: Histogram,
    rows: IntCounter,
    /// One per feature, in the model's order.
    out_of_range: Vec<IntCounter>,
}

/// What one thread has counted of a version, as far as it has not been read yet, and the sums of all time.
#[derive(Debug)]
struct Counts {
    ok: LocalIntCounter,
    latency_s: LocalHistogram,
    rows: LocalIntCounter,
    sums: Sums,
}

/// What the Open Inference Protocol's statistics add up, in nanoseconds.
#[derive(Debug, Default)]
struct Sums {
    last: Option<Instant>,
    success_ns: u64,
    fail: u64,
    fail_ns: u64,
    /// By the runs' number of rows; under 0 also the sizes that found no place.
    batches: BTreeMap<u64, Batch>,
}

/// What is added up of the runs of one size.
#[derive(Debug, Default, Clone, Copy)]
struct Batch {
    runs: u64,
    input_ns: u64,
    queue_ns: u64,
    run_ns: u64,
    output_ns: u64,
}

/// The instants at which the parts of an answered request began.
#[derive(Debug, Clone, Copy)]
pub struct Phases {
    begun: Instant,
    decoded: Instant,
    ran: Instant,
    rows: usize,
    /// Of the run that the request shared with others.
    shared_rows: Option<usize>,
}

/// What has been counted of a version: for each duration, how often and how many nanoseconds in all.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// When it last answered; 0 before.
    pub last_unix_ms: u64,
    /// The rows answered.
    pub rows: u64,
    /// Runs that gave answers; one may be of many requests.
    pub runs: u64,
    /// Requests that were answered.
    pub success: (u64, u64),
    /// Requests that were refused or failed.
    pub fail: (u64, u64),
    /// Waiting for a run.
    pub queue: (u64, u64),
    /// Reading and decoding.
    pub input: (u64, u64),
    /// Running the model.
    pub run: (u64, u64),
    /// Encoding.
    pub output: (u64, u64),
    /// The runs by their size, the smallest first; as many sizes as came first and are counted each by itself.
    pub batches: Vec<BatchStatistics>,
}

/// What has been counted of the runs of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchStatistics {
    /// The size in rows.
    pub rows: u64,
    /// Reading and decoding.
    pub input: (u64, u64),
    /// Running the model.
    pub run: (u64, u64),
    /// Encoding.
    pub output: (u64, u64),
}

/// How a version's loading went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The version is live.
    Loaded,
    /// It failed its checks, and what was live before stays.
    Failed,
}

impl Metrics {
    /// Metrics that all stand at zero; `library` is the file name of ONNX Runtime's.
    pub fn new(library: &str) -> Self {
        let registry = Registry::new();
        let version_labels = ["model", "version"];
        let requests = IntCounterVec::new(
            Opts::new("mainstay_requests_total", "Prediction requests answered, by model, version and HTTP status."),
            &["model", "version", "code"],
        );
        let latency_s = HistogramVec::new(
            HistogramOpts::new(
                "mainstay_request_duration_seconds",
                "Time from a prediction request's head to its answer, of requests that were answered with 200.",
            )
            .buckets(LATENCY_BUCKETS_S.to_vec()),
            &version_labels,
        );
        let rows = IntCounterVec::new(Opts::new("mainstay_rows_total", "Rows predicted."), &version_labels);
        let out_of_range = IntCounterVec::new(
            Opts::new(
                "mainstay_out_of_range_total",
                "Values received outside their feature's training range; they are served.",
            ),
            &["model", "version", "feature"],
        );
        let in_flight = IntGauge::new("mainstay_requests_in_flight", "Prediction requests being answered.");
        let reloads = IntCounterVec::new(
            Opts::new("mainstay_reloads_total", "Attempts to load a model version from a release, by outcome."),
            &["outcome"],
        );
        let reload_s = Histogram::with_opts(
            HistogramOpts::new("mainstay_reload_duration_seconds", "Time from seeing a release to serving it.")
                .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
        );
        let release_age_s =
            Gauge::new("mainstay_release_age_seconds", "Time since the last release went live; 0 before the first.");
        let build = GaugeVec::new(
            Opts::new("mainstay_build_info", "Constant 1; the labels say what is running."),
            &["version", "onnxruntime_library"],
        );
        let valid = "the metrics' names, labels and buckets are valid and stand once";
        let (build, in_flight, reload_s) = (build.expect(valid), in_flight.expect(valid), reload_s.expect(valid));
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), library]).set(1.0);
        let metrics = Self {
            requests: requests.expect(valid),
            latency_s: latency_s.expect(valid),
            rows: rows.expect(valid),
            out_of_range: out_of_range.expect(valid),
            reloads: reloads.expect(valid),
            release_age_s: release_age_s.expect(valid),
            released: Mutex::new(None),
            at_hand: Sum::default(),
            versions: Mutex::default(),
            in_flight,
            reload_s,
            registry,
        };
        for outcome in [ReloadOutcome::Loaded, ReloadOutcome::Failed] {
            metrics.reloads.with_label_values(&[outcome.label()]);
        }
        let collectors: [Box<dyn Collector>; 9] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.latency_s.clone()),
            Box::new(metrics.rows.clone()),
            Box::new(metrics.out_of_range.clone()),
            Box::new(metrics.in_flight.clone()),
            Box::new(metrics.reloads.clone()),
            Box::new(metrics.reload_s.clone()),
            Box::new(metrics.release_age_s.clone()),
            Box::new(build),
        ];
        for collector in collectors {
            metrics.registry.register(collector).expect(valid);
        }
        metrics
    }

    /// The handles of the version that `spec` describes.
    pub fn version(&self, spec: &ModelSpec) -> VersionMetrics {
        let (model, version) = (spec.name.as_str(), spec.version.to_string());
        let labels = [model, version.as_str()];
        let out_of_range = |feature: &str| self.out_of_range.with_label_values(&[model, version.as_str(), feature]);
        let (ok, latency_s, rows) = (
            self.requests.with_label_values(&[model, version.as_str(), "200"]),
            self.latency_s.with_label_values(&labels),
            self.rows.with_label_values(&labels),
        );
        let out_of_range = spec.input.features.iter().map(|feature| out_of_range(&feature.name)).collect();
        let counts = Arc::default();
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.retain(|version| version.strong_count() > 0);
        versions.push(Arc::downgrade(&counts));
        VersionMetrics { counts, ok, latency_s, rows, out_of_range }
    }

    /// Counts a prediction request as being answered until what this gives is dropped.
    pub fn begin(&self) -> InFlight<'_> {
        self.at_hand.add(1);
        InFlight(self)
    }

    /// Drops the series of a version that is no longer served, so that a server that lives through many versions does not grow.
    pub fn forget(&self, spec: &ModelSpec) {
        let (model, version) = (spec.name.as_str(), spec.version.to_string());
        // A series that was never counted is no error.
        let _ = self.latency_s.remove_label_values(&[model, version.as_str()]);
        let _ = self.rows.remove_label_values(&[model, version.as_str()]);
        for feature in &spec.input.features {
            let _ = self.out_of_range.remove_label_values(&[model, version.as_str(), &feature.name]);
        }
        for family in self.requests.collect() {
            for metric in family.get_metric() {
                let value = |name: &str| metric.get_label().iter().find(|l| l.name() == name).map(|l| l.value());
                if value("model") == Some(model) && value("version") == Some(&version) {
                    let _ =
                        self.requests.remove_label_values(&[model, version.as_str(), value("code").unwrap_or(NONE)]);
                }
            }
        }
    }

    /// Counts a request that was not answered with 200; `version` is none where the request named none that there is.
    pub fn refused(&self, version: Option<(&ModelName, &Version)>, status: http::StatusCode) {
        let (model, version) = version.map_or((NONE, NONE.to_owned()), |(m, v)| (m.as_str(), v.to_string()));
        self.requests.with_label_values(&[model, version.as_str(), status.as_str()]).inc();
    }

    /// Counts the loading of a version.
    pub fn reloaded(&self, outcome: ReloadOutcome) {
        self.reloads.with_label_values(&[outcome.label()]).inc();
    }

    /// Notes that a release went live now, `took` after it was seen.
    pub fn released(&self, took: Duration) {
        self.reload_s.observe(took.as_secs_f64());
        *self.released.lock().expect("no panic while the lock is held") = Some(Instant::now());
    }

    /// All metrics in Prometheus's text format, version 0.0.4.
    pub fn render(&self) -> String {
        let released = *self.released.lock().expect("no panic while the lock is held");
        self.release_age_s.set(released.map_or(0.0, |at| at.elapsed().as_secs_f64()));
        self.in_flight.set(self.at_hand.get());
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.iter().filter_map(Weak::upgrade).for_each(|counts| flush(&counts));
        drop(versions);
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("our metrics have valid names and values")
    }
}

impl VersionMetrics {
    /// Counts the values of `rows` that lie outside their feature's training range.
    pub fn received(&self, spec: &ModelSpec, layout: &Layout, rows: &Rows) {
        rows.each_outside(layout, &spec.input.features, |feature, count| {
            self.out_of_range[feature].inc_by(count as u64)
        });
    }

    /// Counts a request that was answered now.
    pub fn answered(&self, phases: &Phases) {
        let Phases { begun, decoded, ran, rows, shared_rows } = *phases;
        let now = Instant::now();
        let since_begun = |instant: Instant| nanoseconds(instant - begun);
        let (decoded_ns, ran_ns, took_ns) = (since_begun(decoded), since_begun(ran), since_begun(now));
        let mut counts = self.own();
        counts.ok.inc();
        counts.latency_s.observe(took_ns as f64 * 1e-9);
        counts.rows.inc_by(rows as u64);
        let sums = &mut counts.sums;
        sums.success_ns += took_ns;
        sums.last = Some(now);
        let batch = sums.batch(shared_rows.unwrap_or(rows));
        if shared_rows.is_none() {
            batch.runs += 1;
            batch.run_ns += ran_ns - decoded_ns;
        }
        batch.input_ns += decoded_ns;
        batch.output_ns += took_ns - ran_ns;
    }

    /// Counts a request that was not answered, `took` after it began.
    pub fn failed(&self, took: Duration) {
        let sums = &mut self.own().sums;
        sums.fail += 1;
        sums.fail_ns += nanoseconds(took);
    }

    /// Counts a run of many requests' rows: how many these are, how long all the requests together waited for it, and how long
    /// it took.
    pub fn ran_together(&self, rows: usize, waited: Duration, took: Duration) {
        let mut counts = self.own();
        let batch = counts.sums.batch(rows);
        batch.runs += 1;
        batch.queue_ns += nanoseconds(waited);
        batch.run_ns += nanoseconds(waited) + nanoseconds(took);
    }

    /// Adds the time that a request of so many rows waited for its run.
    pub fn queued(&self, rows: usize, waited: Duration) {
        self.own().sums.batch(rows).queue_ns += nanoseconds(waited);
    }

    /// What this thread counts.
    fn own(&self) -> MutexGuard<'_, Counts> {
        self.counts.own(|| Counts {
            ok: self.ok.local(),
            latency_s: self.latency_s.local(),
            rows: self.rows.local(),
            sums: Sums::default(),
        })
    }

    /// What has been counted.
    pub fn statistics(&self) -> Statistics {
        flush(&self.counts);
        let mut sums = Sums::default();
        self.counts.each().for_each(|counts| sums.add(&counts.sums));
        let success = self.ok.get();
        let all = sums.batches.values().fold(Batch::default(), |all, batch| all.plus(batch));
        let batches = sums.batches.iter().filter(|(rows, batch)| **rows > 0 && batch.runs > 0);
        Statistics {
            last_unix_ms: sums.last.map_or(0, unix_ms),
            rows: self.rows.get(),
            runs: all.runs,
            success: (success, sums.success_ns),
            fail: (sums.fail, sums.fail_ns),
            queue: (success, all.queue_ns),
            input: (success, all.input_ns),
            run: (success, all.inside_ns()),
            output: (success, all.output_ns),
            batches: batches
                .map(|(&rows, batch)| BatchStatistics {
                    rows,
                    input: (batch.runs, batch.input_ns),
                    run: (batch.runs, batch.inside_ns()),
                    output: (batch.runs, batch.output_ns),
                })
                .collect(),
        }
    }
}

/// Moves what threads have counted to where Prometheus reads it.
fn flush(counts: &Shards<Counts>) {
    for counts in counts.each() {
        counts.ok.flush();
        counts.latency_s.flush();
        counts.rows.flush();
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        // Perhaps on another thread: only the sum of all means anything.
        self.0.at_hand.add(-1);
    }
}

impl Sums {
    /// Where runs of so many rows are added up, while there is a place.
    fn batch(&mut self, rows: usize) -> &mut Batch {
        let rows = rows as u64;
        let has_place = self.batches.len() < BATCH_SIZES_MAX || self.batches.contains_key(&rows);
        self.batches.entry(if has_place { rows } else { 0 }).or_default()
    }

    fn add(&mut self, other: &Self) {
        self.last = self.last.max(other.last);
        self.success_ns += other.success_ns;
        self.fail += other.fail;
        self.fail_ns += other.fail_ns;
        for (&rows, batch) in &other.batches {
            let sum = self.batches.entry(rows).or_default();
            *sum = sum.plus(batch);
        }
    }
}

impl Batch {
    fn plus(self, other: &Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            input_ns: self.input_ns + other.input_ns,
            queue_ns: self.queue_ns + other.queue_ns,
            run_ns: self.run_ns + other.run_ns,
            output_ns: self.output_ns + other.output_ns,
        }
    }

    /// A run is timed with the wait for it.
    fn inside_ns(&self) -> u64 {
        self.run_ns.saturating_sub(self.queue_ns)
    }
}

impl Phases {
    /// A request that began then and whose rows have been decoded now.
    pub fn decoded(begun: Instant, rows: usize) -> Self {
        let now = Instant::now();
        Self { begun, decoded: now, ran: now, rows, shared_rows: None }
    }

    /// When the rows had been decoded.
    pub fn decoded_at(&self) -> Instant {
        self.decoded
    }

    /// Notes that the model has answered now, in a run that had so many rows if it was of many requests.
    pub fn ran(&mut self, shared_rows: Option<usize>) {
        self.ran = Instant::now();
        self.shared_rows = shared_rows;
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

impl ReloadOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Failed => "failed",
        }
    }
}

/// Seconds since 1970, for people and dashboards; never for ordering.
pub(crate) fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// When `instant` was, in milliseconds since 1970 as the clock is set now, for people.
fn unix_ms(instant: Instant) -> u64 {
    let then = SystemTime::now().checked_sub(instant.elapsed());
    let since = then.and_then(|then| then.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_their_size_as_far_as_there_are_places() {
        let spec = mainstay_models::embedded::MODELS[0];
        let spec = ModelSpec::parse("model.yaml", spec.spec).unwrap();
        let metrics = Metrics::new("").version(&spec);
        let answer = |rows: usize| metrics.answered(&Phases::decoded(Instant::now(), rows));
        [1, 64, 1, 0, 1024, 64, 1].into_iter().for_each(answer);
        let counted = |statistics: &Statistics| -> Vec<_> {
            statistics.batches.iter().map(|batch| (batch.rows, batch.run.0, batch.output.0)).collect()
        };
        let statistics = metrics.statistics();
        assert_eq!(counted(&statistics), [(1, 3, 3), (64, 2, 2), (1024, 1, 1)]);
        assert_eq!((statistics.success.0, statistics.rows), (7, 3 + 2 * 64 + 1024));
        let waited = Duration::from_secs(3600);
        metrics.queued(64, waited);
        let (before, after) = (statistics, metrics.statistics());
        assert_eq!((after.queue.1, after.batches[1].run), (nanoseconds(waited), (2, 0)));
        assert_eq!(after.batches[0], before.batches[0]);

        let second = Duration::from_secs(1);
        metrics.ran_together(7, second * 3, second);
        for rows in [3, 4] {
            let mut phases = Phases::decoded(Instant::now(), rows);
            phases.ran(Some(7));
            metrics.answered(&phases);
        }
        let shared = metrics.statistics();
        assert_eq!((shared.runs, shared.success.0, shared.rows), (after.runs + 1, after.success.0 + 2, after.rows + 7));
        assert_eq!(shared.queue.1, after.queue.1 + 3_000_000_000);
        assert_eq!((shared.batches[1].rows, shared.batches[1].run), (7, (1, 1_000_000_000)));

        (1..10_000).for_each(answer);
        let statistics = metrics.statistics();
        assert!(statistics.batches.len() <= BATCH_SIZES_MAX, "{}", statistics.batches.len());
        assert_eq!((statistics.runs, statistics.success.0), (7 + 1 + 9_999, 7 + 2 + 9_999));
        let listed: u64 = statistics.batches.iter().map(|batch| batch.input.1).sum();
        assert!(statistics.input.1 >= listed, "what has no place of its own is in the sums");
    }
}
