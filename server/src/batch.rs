//! When and with whom a request runs: at once on its own thread, or in one bounded queue.
//!
//! A small request runs inline, since a hand-off costs more than most tabular models. A large one would
//! keep its connection's thread from its other connections, so it goes to a worker thread. Nothing waits
//! for company. Knows tensors and time; does not know HTTP, ONNX, or how models come and go.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use ndarray::Array2;
use tokio::sync::oneshot;

use crate::catalog::LoadedVersion;
use crate::engine::{Answer, RunError};

/// The most rows that run inline: some hundred µs of a forest, well under a scheduler's time slice.
const INLINE_ROWS_MAX: usize = 64;

/// Runs requests. Dropping the future of [`Runner::run`] drops the request's place in the queue:
/// a worker that meets it does not run it.
pub struct Runner {
    queue: Sender<Job>,
    workers: Vec<JoinHandle<()>>,
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

struct Job {
    version: Arc<LoadedVersion>,
    rows: Array2<f32>,
    deadline: Instant,
    reply: oneshot::Sender<Result<Answer, RunnerError>>,
}

impl Runner {
    /// Starts `workers` threads behind a queue of at most `queue_jobs_max` requests.
    pub fn start(workers: usize, queue_jobs_max: usize) -> std::io::Result<Self> {
        let (queue, jobs) = crossbeam_channel::bounded(queue_jobs_max);
        let spawn = |index| {
            let jobs = jobs.clone();
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || work(&jobs))
        };
        Ok(Self { queue, workers: (0..workers).map(spawn).collect::<Result<_, _>>()? })
    }

    /// Runs `rows` through `version`, not after `deadline`.
    pub async fn run(
        &self,
        version: &Arc<LoadedVersion>,
        rows: Array2<f32>,
        deadline: Instant,
    ) -> Result<Answer, RunnerError> {
        if rows.nrows() <= INLINE_ROWS_MAX
            && let Some(result) = version.engine.try_run(&rows.view())
        {
            return result.map_err(RunnerError::Failed);
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { version: Arc::clone(version), rows, deadline, reply };
        self.queue.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => RunnerError::Full,
            TrySendError::Disconnected(_) => unreachable!("the workers live as long as the runner"),
        })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answer) => answer.expect("a worker answers every job that it takes"),
            Err(_) => Err(RunnerError::Late),
        }
    }

    /// Stops the workers once they have answered what is queued.
    pub fn stop(self) {
        drop(self.queue);
        for worker in self.workers {
            worker.join().expect("a worker catches nothing and panics at nothing");
        }
    }
}

fn work(jobs: &Receiver<Job>) {
    for Job { version, rows, deadline, reply } in jobs {
        if reply.is_closed() {
            continue;
        }
        let answer = if Instant::now() >= deadline {
            Err(RunnerError::Late)
        } else {
            version.engine.run(&rows.view(), deadline).map_err(|e| match e {
                RunError::Busy => RunnerError::Late,
                failed => RunnerError::Failed(failed),
            })
        };
        // A caller that left meanwhile wants no answer.
        let _ = reply.send(answer);
    }
}
