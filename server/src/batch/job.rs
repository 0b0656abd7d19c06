//! Requests for one version, and the run that answers them.
//!
//! Guarantees: a caller gets the rows of its own request, in their order; a row that the model fails at fails its own request
//! alone; what nobody waits for any more, or what is late, is not run. Knows tensors and time; does not know threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::{ArrayView2, Axis, concatenate};
use tokio::sync::oneshot;

use super::{Ran, RunnerError};
use crate::catalog::LoadedVersion;
use crate::engine::{Engine, Prediction, RunError};
use crate::rows::Rows;

/// What a job has come to: it ran or failed; or its rows, where every session was busy.
pub(super) type Outcome = Result<Result<Ran, RunnerError>, Rows>;

/// How rows are run; it gives nothing if every session is busy until the deadline.
type Run = fn(&Engine, &Rows, Instant) -> Option<Result<Prediction, RunError>>;

/// A request that waits for its run.
pub(super) struct Job {
    pub(super) version: Arc<LoadedVersion>,
    pub(super) rows: Rows,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Outcome>,
}

impl Job {
    /// Whether `other`, which would wait for this one's run otherwise, may have its rows in the same run, which has so many
    /// `rows` already.
    pub(super) fn admits(&self, rows: usize, other: &Self) -> bool {
        Arc::ptr_eq(&self.version, &other.version) && rows + other.rows.len() <= self.version.engine.batch_rows_max()
    }

    /// This one if it is to be run `now`: somebody waits for it, and it is not late.
    fn wanted(self, now: Instant) -> Option<Self> {
        if self.reply.is_closed() {
            return None;
        }
        if now >= self.deadline {
            tell(self.reply, Ok(Err(RunnerError::Late)));
            return None;
        }
        Some(self)
    }

    fn run_alone(self, run: Run) {
        let now = Instant::now();
        let Some(job) = self.wanted(now) else { return };
        let Self { version, rows, since, deadline, reply } = job;
        let outcome = match run(&version.engine, &rows, deadline) {
            Some(Ok(prediction)) => {
                version.metrics.queued(rows.len(), now - since);
                Ok(Ok(Ran { prediction, shared_rows: None }))
            }
            Some(Err(error)) => Ok(Err(RunnerError::Failed(error))),
            None => Err(rows),
        };
        tell(reply, outcome);
    }
}

/// Answers jobs for one version: by one run of all their rows where they are many, and by one of each where that fails.
pub(super) fn answer(jobs: Vec<Job>, run: Run) {
    let now = Instant::now();
    let jobs: Vec<_> = jobs.into_iter().filter_map(|job| job.wanted(now)).collect();
    let Some(Ran { prediction, shared_rows }) = run_together(&jobs, now, run) else {
        // Of many, one may be what the model failed at.
        jobs.into_iter().for_each(|job| job.run_alone(run));
        return;
    };
    let mut first = 0;
    for job in jobs {
        let end = first + job.rows.len();
        let prediction = prediction.slice(first, end);
        tell(job.reply, Ok(Ok(Ran { prediction, shared_rows })));
        first = end;
    }
}

/// What one run says of the rows of all `jobs`, in their order; nothing if it fails, could not be made, or would be one job's.
fn run_together(jobs: &[Job], now: Instant, run: Run) -> Option<Ran> {
    let [first, _, ..] = jobs else { return None };
    let views: Vec<_> = jobs.iter().map(|job| matrix(&job.rows)).collect::<Option<_>>()?;
    let rows = Rows::Matrix(concatenate(Axis(0), &views).ok()?);
    let deadline = jobs.iter().map(|job| job.deadline).min()?;
    let begun = Instant::now();
    let prediction = run(&first.version.engine, &rows, deadline)?.ok()?;
    let waited: Duration = jobs.iter().map(|job| now - job.since).sum();
    first.version.metrics.ran_together(rows.len(), waited, begun.elapsed());
    Some(Ran { prediction, shared_rows: Some(rows.len()) })
}

fn matrix(rows: &Rows) -> Option<ArrayView2<'_, f32>> {
    match rows {
        Rows::Matrix(matrix) => Some(matrix.view()),
        Rows::Tensors(_) => None,
    }
}

/// A caller that left meanwhile wants no answer.
fn tell(reply: oneshot::Sender<Outcome>, outcome: Outcome) {
    let _ = reply.send(outcome);
}
