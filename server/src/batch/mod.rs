//! When and with whom a request runs: at once on its own thread, or in one bounded queue.
//!
//! A small request runs inline, since a hand-off costs more than most tabular models. A large one would
//! keep its connection's thread from its other connections, so it goes to a worker thread, the nearest deadline first; and so does
//! one of middling size while that thread is behind. What finds the queue full is refused.
//! Nothing waits for company, and no run has the rows of two requests. Knows tensors and time; does not know HTTP, ONNX, or how models come and go.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use self::queue::Queue;
use crate::catalog::LoadedVersion;
use crate::engine::{Prediction, RunError};
use crate::priority;
use crate::rows::Rows;

mod dynamic;
mod queue;
mod turn;

/// What the queue waits with.
mod sync {
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

struct Job {
    version: Arc<LoadedVersion>,
    rows: Rows,
    queued: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Result<Prediction, RunnerError>>,
}

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
        Ok(Self { queue, workers, callers: AtomicUsize::new(0) })
    }

    /// Whether a request of so many rows would run now, on its own thread or from a place in the queue. To be asked in a
    /// runtime.
    pub fn has_place(&self, version: &LoadedVersion, rows: usize) -> bool {
        self.runs_inline(version, rows, Instant::now()) || self.queue.has_place()
    }

    /// Whether so many rows are to be run on the thread that asks: not what is costly, while that thread is behind or others
    /// wait for a worker already, since then it has the more to do with refusing.
    fn runs_inline(&self, version: &LoadedVersion, rows: usize, now: Instant) -> bool {
        let is_free = || self.queue.is_idle() && !turn::is_over(now);
        rows <= version.engine.inline_rows_max() && (!is_costly(version, rows) || is_free())
    }

    /// Runs `rows` through `version`, not after `deadline`; `now` has just been read from the clock.
    pub async fn run(
        &self,
        version: &Arc<LoadedVersion>,
        mut rows: Rows,
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
            if version.engine.gains_by_batches() && !is_costly {
                rows = match dynamic::join(version, rows, now, deadline) {
                    // Without a deadline of its own: the batch runs before this thread looks at its connections again.
                    Ok(outcome) => match outcome.await.expect("a turn answers every request that joins it") {
                        Ok(result) => return result,
                        Err(rows) => rows,
                    },
                    Err(rows) => rows,
                };
            }
            if let Some(result) = version.engine.try_run(&rows) {
                return result.map(Ran::alone).map_err(RunnerError::Failed);
            }
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { version: Arc::clone(version), rows, queued: now, deadline, reply };
        self.queue.put(deadline, job).map_err(|_| RunnerError::Full)?;
        let mut caller = Caller::of(self);
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answer) => {
                caller.is_answered = true;
                answer.expect("a worker answers every job that it takes").map(Ran::alone)
            }
            Err(_) => Err(RunnerError::Late),
        }
    }

    /// How many requests have been put into the queue and are not answered yet.
    pub fn callers(&self) -> usize {
        self.callers.load(Relaxed)
    }

    /// Stops the workers once they have answered what is queued.
    pub fn stop(self) {
        self.queue.close();
        for worker in self.workers {
            worker.join().expect("a worker catches nothing and panics at nothing");
        }
    }
}

/// Whether so many rows cost so much more than a refusal and a hand-off that these are worth their while.
fn is_costly(version: &LoadedVersion, rows: usize) -> bool {
    rows > version.engine.inline_rows_max() / COSTLY_SHARE
}

fn work(queue: &Queue<Job>) {
    // The threads of connections answer what is small, and refuse.
    priority::step_back();
    while let Some(Job { version, rows, queued, deadline, reply }) = queue.take() {
        if reply.is_closed() {
            continue;
        }
        let taken = Instant::now();
        let answer = if taken >= deadline {
            Err(RunnerError::Late)
        } else {
            version.engine.run(&rows, deadline).map_err(|e| match e {
                RunError::Busy => RunnerError::Late,
                failed => RunnerError::Failed(failed),
            })
        };
        if answer.is_ok() {
            version.metrics.queued(rows.len(), taken - queued);
        }
        // A caller that left meanwhile wants no answer.
        let _ = reply.send(answer);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use mainstay_models::{Blob, ModelSpec, ReleasedVersion, embedded};
    use ndarray::Array2;

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
        let spec = ModelSpec::parse("model.yaml", card).unwrap();
        let engine = Engine::load(&Runtime::load().unwrap(), model, &spec, NonZeroUsize::MIN).unwrap();
        let blobs = ReleasedVersion { spec: Blob::of(card), artifact: spec.artifact.blob };
        let (signature, metrics) = (Signature::new(&spec), Metrics::new("").version(&spec));
        Arc::new(LoadedVersion { spec, blobs, signature, engine, not_compiled: None, metrics })
    }

    pub(in crate::batch) fn iris() -> Arc<LoadedVersion> {
        loaded(embedded::MODELS[0].spec, embedded::MODELS[0].artifact)
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
        let many = runner.run(&version, flowers(MANY_ROWS), Instant::now(), later()).await.unwrap().prediction;
        let few = runner.run(&version, flowers(7), Instant::now(), later()).await.unwrap().prediction;
        assert_eq!(many.slice(0, 7), few);
        runner.stop();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_queue_refuses_at_once_and_a_late_request_is_not_run() {
        let (runner, version) = (Arc::new(Runner::start(1, 1).unwrap()), iris());
        let run = |rows, deadline| {
            let (runner, version) = (Arc::clone(&runner), Arc::clone(&version));
            tokio::spawn(async move { runner.run(&version, flowers(rows), Instant::now(), deadline).await })
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
            let refused = runner.run(&version, flowers(rows), Instant::now(), later()).await;
            assert!(matches!(refused, Err(RunnerError::Full)), "{rows} rows: {refused:?}");
        }
        assert_eq!(slow.await.unwrap().unwrap().prediction.len(), SLOW_ROWS);
        assert_eq!(queued.await.unwrap().unwrap().prediction.len(), MANY_ROWS);
        assert!(matches!(
            runner.run(&version, flowers(100), Instant::now(), Instant::now()).await,
            Err(RunnerError::Late)
        ));
        Arc::into_inner(runner).unwrap().stop();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_whose_caller_left_gives_its_place_up() {
        let (runner, version) = (Arc::new(Runner::start(1, 1).unwrap()), iris());
        let spawn = |rows| {
            let (runner, version) = (Arc::clone(&runner), Arc::clone(&version));
            tokio::spawn(async move { runner.run(&version, flowers(rows), Instant::now(), later()).await })
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
        assert_eq!(runner.run(&version, flowers(100), Instant::now(), later()).await.unwrap().prediction.len(), 100);
        Arc::into_inner(runner).unwrap().stop();
    }
}
