//! When and with whom a request runs: at once on its own thread, or in one bounded queue.
//!
//! A small request runs inline, since a hand-off costs more than most tabular models. A large one would
//! keep its connection's thread from its other connections, so it goes to a worker thread, the nearest deadline first; and so does
//! one of middling size while that thread is behind, which takes it back once it has looked at its connections, if no worker has.
//! What finds the queue full is refused.
//! Requests for a version that gains by it are one run if they are there at the same time: small ones in one turn of their
//! thread, others in the queue. Nothing waits for company. Knows tensors and time; does not know HTTP, ONNX, or how models
//! come and go.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use self::job::Job;
use self::queue::{Queue, Reservation};
use crate::catalog::LoadedVersion;
use crate::engine::{Prediction, RunError};
use crate::priority;
use crate::rows::Rows;

mod dynamic;
mod hand;
mod job;
mod queue;
mod turn;

/// What the queue counts and waits with.
mod sync {
    pub(super) use std::sync::atomic::AtomicUsize;
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

/// The share of what may run inline from which on a run is costly.
const COSTLY_SHARE: usize = 8;

/// Runs requests. Dropping the future of [`Runner::run`] gives the request's place in the queue up:
/// a worker that meets it does not run it.
pub struct Runner {
    queue: Arc<Queue<Job>>,
    workers: Vec<JoinHandle<()>>,
    /// How many callers wait for what they have put into the queue.
    callers: AtomicUsize,
    /// How many have put something there.
    handed_over: AtomicUsize,
    /// How many have found no place there.
    refused: AtomicUsize,
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The queue is full.
    #[error("the queue is full")]
    Full,
    /// The deadline passed; the model is not run afterwards.
    #[error("the deadline passed before the model ran")]
    Late,
    /// The model failed.
    #[error("the model failed")]
    Failed(#[source] RunError),
}

/// What a request has come to.
#[derive(Debug)]
pub struct Ran {
    /// What the model says of the request's rows.
    pub prediction: Prediction,
    /// How many rows the run had, where it was of many requests; such a run has been counted.
    pub shared_rows: Option<usize>,
}

/// Where a request can run: on its own thread, or from a place in the queue, which is kept until this is dropped. The default
/// is that of who has not asked, for whom there may be none.
#[derive(Default)]
pub struct Place<'a>(Option<Reservation<'a, Job>>);

/// Who waits for a job that is in the queue or at work.
struct Caller<'a> {
    runner: &'a Runner,
    is_answered: bool,
}

impl<'a> Caller<'a> {
    fn of(runner: &'a Runner) -> Self {
        runner.callers.fetch_add(1, Relaxed);
        Self { runner, is_answered: false }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.runner.callers.fetch_sub(1, Relaxed);
        if !self.is_answered {
            self.runner.queue.leave();
        }
    }
}

impl Ran {
    fn alone(prediction: Prediction) -> Self {
        Self { prediction, shared_rows: None }
    }
}

impl Runner {
    /// Starts `workers` threads behind a queue of at most `queue_jobs_max` requests.
    pub fn start(workers: usize, queue_jobs_max: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::new(queue_jobs_max, |job: &Job| !job.reply.is_closed()));
        let spawn = |index| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || work(&queue))
        };
        let workers = (0..workers).map(spawn).collect::<Result<_, _>>()?;
        let [callers, handed_over, refused] = [0; 3].map(AtomicUsize::new);
        Ok(Self { queue, workers, callers, handed_over, refused })
    }

    /// Where a request of so many rows would run now, if it would. Where it would not, the thread that asks makes room after its
    /// turn. To be asked in a runtime.
    pub fn find_place(&self, version: &LoadedVersion, rows: usize) -> Option<Place<'_>> {
        if self.runs_inline(version, rows, Instant::now()) {
            return Some(Place::default());
        }
        let reservation = self.reserve();
        if reservation.is_none() && may_run_inline(version, rows) {
            hand::lend(&self.queue);
        }
        reservation.map(|reservation| Place(Some(reservation)))
    }

    /// A place in the queue, if there is one; that there is none is counted.
    fn reserve(&self) -> Option<Reservation<'_, Job>> {
        let reservation = self.queue.reserve();
        if reservation.is_none() {
            self.refused.fetch_add(1, Relaxed);
        }
        reservation
    }

    /// Whether so many rows are to be run on the thread that asks: not what is costly, while that thread is behind or others
    /// wait for a worker already, since then it has the more to do with refusing.
    fn runs_inline(&self, version: &LoadedVersion, rows: usize, now: Instant) -> bool {
        let is_free = || self.queue.is_idle() && !turn::is_over(now);
        rows <= version.engine.inline_rows_max() && (!is_costly(version, rows) || is_free())
    }

    /// Runs `rows` through `version`, at `place` if need be, not after `deadline`; `now` has just been read from the clock.
    pub async fn run(
        &self,
        version: &Arc<LoadedVersion>,
        mut rows: Rows,
        place: Place<'_>,
        now: Instant,
        deadline: Instant,
    ) -> Result<Ran, RunnerError> {
        if now >= deadline {
            return Err(RunnerError::Late);
        }
        if self.runs_inline(version, rows.len(), now) {
            let is_costly = is_costly(version, rows.len());
            if is_costly {
                turn::begin(now);
            }
            if version.engine.batch_rows_max() > 1 && !is_costly {
                let (reply, outcome) = oneshot::channel();
                match dynamic::join(Job { version: Arc::clone(version), rows, since: now, deadline, reply }) {
                    // Without a deadline of its own: the batch runs before this thread looks at its connections again.
                    Ok(()) => match outcome.await.expect("a turn answers every request that joins it") {
                        Ok(result) => return result,
                        Err(back) => rows = back,
                    },
                    Err(job) => rows = job.rows,
                }
            }
            if let Some(result) = version.engine.try_run(&rows) {
                return result.map(Ran::alone).map_err(RunnerError::Failed);
            }
        }
        if may_run_inline(version, rows.len()) {
            hand::lend(&self.queue);
        }
        let reservation = place.0.or_else(|| self.reserve()).ok_or(RunnerError::Full)?;
        let (reply, outcome) = oneshot::channel();
        reservation.put(deadline, Job { version: Arc::clone(version), rows, since: now, deadline, reply });
        self.handed_over.fetch_add(1, Relaxed);
        let mut caller = Caller::of(self);
        match tokio::time::timeout_at(deadline.into(), outcome).await {
            Ok(outcome) => {
                caller.is_answered = true;
                // The rows come back where no session was free until the deadline.
                outcome.expect("a worker answers every job that it takes").unwrap_or(Err(RunnerError::Late))
            }
            Err(_) => Err(RunnerError::Late),
        }
    }

    /// How many requests have been put into the queue and are not answered yet.
    pub fn callers(&self) -> usize {
        self.callers.load(Relaxed)
    }

    /// How many requests have been put into the queue so far.
    pub fn handed_over(&self) -> usize {
        self.handed_over.load(Relaxed)
    }

    /// How many requests have found no place in the queue so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }

    /// Stops the workers once they have answered what is queued.
    pub fn stop(self) {
        self.queue.close();
        for worker in self.workers {
            worker.join().expect("a worker catches nothing and panics at nothing");
        }
    }
}

/// Whether so many rows may run on the thread of a connection, and find their engine free there.
fn may_run_inline(version: &LoadedVersion, rows: usize) -> bool {
    version.engine.is_reentrant() && rows <= version.engine.inline_rows_max()
}

/// Whether so many rows cost so much more than a refusal and a hand-off that these are worth their while.
fn is_costly(version: &LoadedVersion, rows: usize) -> bool {
    rows > version.engine.inline_rows_max() / COSTLY_SHARE
}

fn work(queue: &Queue<Job>) {
    // The threads of connections answer what is small, and refuse. With a third of a processor for this one, they fall
    // behind where two of three requests are refused, and then every refusal waits.
    priority::step_far_back();
    loop {
        let mut rows = None;
        let jobs = queue.take(|first, job| {
            let rows = rows.get_or_insert(first.rows.len());
            let joins = first.admits(*rows, job);
            if joins {
                *rows += job.rows.len();
            }
            joins
        });
        let Some(jobs) = jobs else { return };
        job::answer(jobs, |engine, rows, deadline| match engine.run(rows, deadline) {
            Err(RunError::Busy) => None,
            result => Some(result),
        });
        // Else the kernel looks whose turn it is every few milliseconds only, which a thread of connections would wait for.
        priority::give_way();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use mainstay_models::{Blob, ModelSpec, ReleasedVersion, embedded};
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Engine, Runtime};
    use crate::monitor::Metrics;
    use crate::wire::Signature;

    /// Slow enough to be still running when the next requests come, whatever the machine does.
    const SLOW_ROWS: usize = 300_000;
    /// More than run inline in ONNX Runtime.
    const MANY_ROWS: usize = 65;

    /// A model in ONNX Runtime, of which one thread at a time may run.
    pub(in crate::batch) fn loaded(card: &[u8], model: &[u8]) -> Arc<LoadedVersion> {
        version(card, |spec| Engine::load(&Runtime::load().unwrap(), model, spec, NonZeroUsize::MIN).unwrap())
    }

    pub(in crate::batch) fn version(card: &[u8], engine: impl FnOnce(&ModelSpec) -> Engine) -> Arc<LoadedVersion> {
        let spec = ModelSpec::parse("model.yaml", card).unwrap();
        let engine = engine(&spec);
        let blobs = ReleasedVersion { spec: Blob::of(card), artifact: spec.artifact.blob };
        let (signature, metrics) = (Signature::new(&spec), Metrics::new("").version(&spec));
        Arc::new(LoadedVersion { spec, blobs, signature, engine, not_compiled: None, metrics })
    }

    pub(in crate::batch) fn iris() -> Arc<LoadedVersion> {
        loaded(embedded::MODELS[0].spec, embedded::MODELS[0].artifact)
    }

    /// The largest of three, by softmax: no probability where a value is none.
    pub(in crate::batch) fn softmax() -> Arc<LoadedVersion> {
        let file = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/content/half-classes");
            fs_err::read(format!("{folder}/{name}")).unwrap()
        };
        loaded(&file("model.yaml"), &file("model.onnx"))
    }

    /// One of two such models, some of its rows, all of which are different, and its answers to them.
    pub(in crate::batch) fn of_model(
        model: usize,
        first: usize,
        rows: usize,
    ) -> (Arc<LoadedVersion>, Rows, Prediction) {
        thread_local! {
            static MODELS: [(Arc<LoadedVersion>, Rows, Prediction); 2] = [softmax(), softmax()].map(|version| {
                let value = |(row, column)| (row * (column + 1)) as f32 / 200.0;
                let rows = Rows::Matrix(Array2::from_shape_fn((102, 3), value));
                let answers = version.engine.run(&rows, later()).unwrap();
                (version, rows, answers)
            });
        }
        MODELS.with(|models| {
            let (version, all, answers) = &models[model];
            (Arc::clone(version), all.slice(first, first + rows), answers.slice(first, first + rows))
        })
    }

    /// How many runs of how many rows have been counted.
    pub(in crate::batch) fn runs(version: &LoadedVersion) -> Vec<(u64, u64)> {
        version.metrics.statistics().batches.iter().map(|batch| (batch.rows, batch.run.0)).collect()
    }

    pub(in crate::batch) fn flowers(rows: usize) -> Rows {
        let value = |(row, column)| [5.1, 3.5, 1.4, 0.2][column] + (row % 7) as f32 * 0.7;
        Rows::Matrix(Array2::from_shape_fn((rows, 4), value))
    }

    pub(in crate::batch) fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_have_the_same_answers_inline_and_in_the_queue() {
        let (runner, version) = (Runner::start(1, 4).unwrap(), iris());
        let many = runner
            .run(&version, flowers(MANY_ROWS), Place::default(), Instant::now(), later())
            .await
            .unwrap()
            .prediction;
        let few = runner.run(&version, flowers(7), Place::default(), Instant::now(), later()).await.unwrap().prediction;
        assert_eq!(many.slice(0, 7), few);
        runner.stop();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_queue_refuses_at_once_and_a_late_request_is_not_run() {
        let (runner, version) = (Arc::new(Runner::start(1, 1).unwrap()), iris());
        let run = |rows, deadline| {
            let (runner, version) = (Arc::clone(&runner), Arc::clone(&version));
            tokio::spawn(async move {
                runner.run(&version, flowers(rows), Place::default(), Instant::now(), deadline).await
            })
        };
        let slow = run(SLOW_ROWS, later());
        // The one worker has taken it once the one session is in use.
        while version.engine.try_run(&flowers(1)).is_some() {
            tokio::task::yield_now().await;
        }
        let queued = run(MANY_ROWS, later());
        while runner.queue.len() == 0 {
            tokio::task::yield_now().await;
        }
        for rows in [1, 100] {
            let refused = runner.run(&version, flowers(rows), Place::default(), Instant::now(), later()).await;
            assert!(matches!(refused, Err(RunnerError::Full)), "{rows} rows: {refused:?}");
        }
        assert_eq!(slow.await.unwrap().unwrap().prediction.len(), SLOW_ROWS);
        assert_eq!(queued.await.unwrap().unwrap().prediction.len(), MANY_ROWS);
        assert!(matches!(
            runner.run(&version, flowers(100), Place::default(), Instant::now(), Instant::now()).await,
            Err(RunnerError::Late)
        ));
        Arc::into_inner(runner).unwrap().stop();
    }

    #[tokio::test]
    async fn who_has_found_a_place_keeps_it_while_it_prepares() {
        let (runner, version) = (Runner::start(1, 1).unwrap(), iris());
        let run = |place| runner.run(&version, flowers(MANY_ROWS), place, Instant::now(), later());
        let place = runner.find_place(&version, MANY_ROWS).unwrap();
        assert!(runner.find_place(&version, MANY_ROWS).is_none());
        assert!(matches!(run(Place::default()).await, Err(RunnerError::Full)));
        // What runs at once needs none.
        assert!(runner.find_place(&version, 1).is_some());
        assert_eq!(run(place).await.unwrap().prediction.len(), MANY_ROWS);
        // And neither what is answered nor who gives up keeps it longer.
        drop(runner.find_place(&version, MANY_ROWS).unwrap());
        assert!(runner.find_place(&version, MANY_ROWS).is_some());
        runner.stop();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_whose_caller_left_gives_its_place_up() {
        let (runner, version) = (Arc::new(Runner::start(1, 1).unwrap()), iris());
        let spawn = |rows| {
            let (runner, version) = (Arc::clone(&runner), Arc::clone(&version));
            tokio::spawn(
                async move { runner.run(&version, flowers(rows), Place::default(), Instant::now(), later()).await },
            )
        };
        let slow = spawn(SLOW_ROWS);
        while version.engine.try_run(&flowers(1)).is_some() {
            tokio::task::yield_now().await;
        }
        let left = spawn(SLOW_ROWS);
        while runner.queue.len() == 0 {
            tokio::task::yield_now().await;
        }
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        slow.await.unwrap().unwrap();
        while runner.queue.len() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            runner
                .run(&version, flowers(100), Place::default(), Instant::now(), later())
                .await
                .unwrap()
                .prediction
                .len(),
            100
        );
        Arc::into_inner(runner).unwrap().stop();
    }

    /// A queue of such requests, in this order, and who waits for each.
    fn queued(jobs: Vec<(Arc<LoadedVersion>, Rows, Instant)>) -> (Queue<Job>, Vec<oneshot::Receiver<job::Outcome>>) {
        let queue = Queue::new(jobs.len(), |job: &Job| !job.reply.is_closed());
        let put = |(version, rows, deadline)| {
            let (reply, outcome) = oneshot::channel();
            let since = Instant::now();
            queue.reserve().unwrap().put(deadline, Job { version, rows, since, deadline, reply });
            outcome
        };
        let outcomes = jobs.into_iter().map(put).collect();
        (queue, outcomes)
    }

    /// Does what is queued on a worker of its own, until all is done.
    fn work_off(queue: &Queue<Job>) {
        queue.close();
        std::thread::scope(|scope| scope.spawn(|| work(queue)).join().unwrap());
    }

    #[test]
    fn what_is_queued_for_one_version_is_one_run_and_what_the_model_fails_at_fails_alone() {
        let (flower, class, at) = (iris(), softmax(), later());
        let row = |row| (Arc::clone(&class), Rows::Matrix(row), at);
        let (queue, mut outcomes) = queued(vec![
            (Arc::clone(&flower), flowers(40), at),
            row(array![[1.0, 0.0, 0.0]]),
            (Arc::clone(&flower), flowers(20), at),
            // Has no place in the run of the two before it, and the next one has.
            (Arc::clone(&flower), flowers(5), at),
            (Arc::clone(&flower), flowers(4), at),
            row(array![[f32::NAN, 2.0, 0.5]]),
            (iris(), flowers(2), Instant::now()),
            (Arc::clone(&flower), flowers(1), at),
            row(array![[-1.0, -1.0, 3.0]]),
        ]);
        outcomes[7].close();
        work_off(&queue);
        let mut outcome = |index: usize| outcomes[index].try_recv().unwrap().unwrap();
        for (index, rows, shared_rows) in [(0, 40, Some(64)), (2, 20, Some(64)), (3, 5, None), (4, 4, Some(64))] {
            let ran = outcome(index).unwrap();
            assert_eq!((ran.prediction.len(), ran.shared_rows), (rows, shared_rows));
        }
        assert_eq!(runs(&flower).iter().find(|(rows, _)| *rows == 64), Some(&(64, 1)));
        assert!(matches!(outcome(6), Err(RunnerError::Late)));
        let labels = [1, 8].map(|index| outcome(index).unwrap().prediction.into_classes().unwrap().labels);
        assert_eq!(labels, [[0], [2]]);
        assert!(matches!(outcome(5), Err(RunnerError::Failed(RunError::Probability { row: 0, .. }))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_request_in_the_queue_gets_the_answers_to_its_own_rows(
            asked in prop::collection::vec((0..2usize, 0..90usize, 1..12usize, 0..3u64), 1..90)
        ) {
            let at = later();
            let jobs = asked.iter().map(|(model, first, rows, seconds)| {
                let (version, rows, _) = of_model(*model, *first, *rows);
                (version, rows, at + Duration::from_secs(*seconds))
            });
            let (queue, outcomes) = queued(jobs.collect());
            work_off(&queue);
            for (mut outcome, (model, first, rows, _)) in outcomes.into_iter().zip(asked) {
                let (.., expected) = of_model(model, first, rows);
                prop_assert_eq!(outcome.try_recv().unwrap().unwrap().unwrap().prediction, expected);
            }
        }
    }
}
