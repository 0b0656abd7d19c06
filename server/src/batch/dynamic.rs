//! Requests that come to a thread in one turn, and are answered by one run.
//!
//! A thread of connections goes over them in turns: what is ready at the beginning of one is polled in it. The first request
//! of a turn begins a batch, and a task that the runtime polls after all that are ready by then runs it: nobody waits for
//! company that has not come yet. Knows tensors and time; does not know requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::job::{self, Job};

/// The most batches of a turn.
const BATCHES_MAX: usize = 16;

thread_local! {
    static TURN: Arc<Turn> = Arc::default();
}

/// The batches of a thread's turn.
#[derive(Default)]
struct Turn(Mutex<Vec<Batch>>);

/// Requests for one version.
struct Batch {
    rows: usize,
    jobs: Vec<Job>,
}

/// Puts `job` into a batch of this turn, or gives it back where the turn has batches enough. To be called in a runtime.
pub(super) fn join(job: Job) -> Result<(), Job> {
    let rows = job.rows.len();
    let rows_max = job.version.engine.inline_rows_max();
    TURN.with(|turn| {
        let mut batches = turn.lock();
        let has_place = |batch: &Batch| batch.rows + rows <= rows_max && batch.jobs[0].admits(batch.rows, &job);
        let at = match batches.iter().position(has_place) {
            Some(at) => at,
            None if batches.len() == BATCHES_MAX => return Err(job),
            None => {
                if batches.is_empty() {
                    let turn = Arc::clone(turn);
                    // Nobody needs to wait for it: it ends when it is polled first.
                    tokio::spawn(async move { turn.end() });
                }
                batches.push(Batch { rows: 0, jobs: Vec::new() });
                batches.len() - 1
            }
        };
        batches[at].rows += rows;
        batches[at].jobs.push(job);
        Ok(())
    })
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let batches = std::mem::take(&mut *self.lock());
        for batch in batches {
            job::answer(batch.jobs, |engine, rows, _| engine.try_run(rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ndarray::array;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::*;
    use crate::batch::tests::{flowers, iris, later, of_model, runs, softmax};
    use crate::batch::{Place, Ran, Runner, RunnerError};
    use crate::catalog::LoadedVersion;
    use crate::engine::RunError;
    use crate::rows::Rows;

    /// `rows` as matrices, each asked about by a task of its own, all of them in one turn.
    async fn ask(runner: &Arc<Runner>, version: &Arc<LoadedVersion>, rows: Vec<Rows>) -> Vec<Result<Ran, RunnerError>> {
        let asked = rows.into_iter().map(|rows| {
            let (runner, version) = (Arc::clone(runner), Arc::clone(version));
            tokio::spawn(async move { runner.run(&version, rows, Place::default(), Instant::now(), later()).await })
        });
        let mut answers = Vec::new();
        for task in asked.collect::<Vec<_>>() {
            answers.push(task.await.unwrap());
        }
        answers
    }

    /// The outcome of one row that waits in this turn; its rows, where it has no place.
    fn joined(version: &Arc<LoadedVersion>, deadline: Instant) -> Result<oneshot::Receiver<job::Outcome>, Rows> {
        let (reply, outcome) = oneshot::channel();
        let job = Job { version: Arc::clone(version), rows: flowers(1), since: Instant::now(), deadline, reply };
        join(job).map(|()| outcome).map_err(|job| job.rows)
    }

    #[tokio::test]
    async fn requests_of_a_turn_are_one_run_as_far_as_they_find_a_place_in_it() {
        let (runner, version) = (Arc::new(Runner::start(1, 4).unwrap()), iris());
        let answers = ask(&runner, &version, (0..30).map(|_| flowers(3)).collect()).await;
        let alone = version.engine.run(&flowers(3), later()).unwrap();
        for answer in answers {
            let Ran { prediction, shared_rows } = answer.unwrap();
            assert_eq!(prediction, alone);
            assert!([Some(63), Some(27)].contains(&shared_rows), "{shared_rows:?}");
        }
        assert_eq!(runs(&version), [(27, 1), (63, 1)]);
        // Who comes alone is not kept waiting, and is counted by who asks.
        let answer = ask(&runner, &version, vec![flowers(3)]).await.remove(0).unwrap();
        assert_eq!((answer.prediction, answer.shared_rows), (alone, None));
        assert_eq!(runs(&version), [(27, 1), (63, 1)]);
    }

    #[tokio::test]
    async fn a_row_that_the_model_fails_at_fails_its_own_request_alone() {
        let (runner, version) = (Arc::new(Runner::start(1, 4).unwrap()), softmax());
        let rows = [array![[1.0, 0.0, 0.0]], array![[f32::NAN, 2.0, 0.5]], array![[-1.0, -1.0, 3.0]]];
        let answers = ask(&runner, &version, rows.map(Rows::Matrix).into()).await;
        let labels = answers.into_iter().map(|answer| match answer {
            Ok(ran) => Ok(ran.prediction.into_classes().unwrap().labels),
            Err(RunnerError::Failed(error)) => Err(matches!(error, RunError::Probability { row: 0, .. })),
            Err(other) => panic!("{other}"),
        });
        assert_eq!(labels.collect::<Vec<_>>(), [Ok(vec![0]), Err(true), Ok(vec![2])]);
    }

    #[tokio::test]
    async fn what_is_late_or_not_waited_for_is_not_run() {
        let version = iris();
        let now = Instant::now();
        let join = |deadline| joined(&version, deadline).unwrap();
        let (late, left, others) = (join(now), join(later()), [join(later()), join(later())]);
        drop(left);
        assert!(matches!(late.await, Ok(Ok(Err(RunnerError::Late)))));
        for answer in others {
            assert_eq!(answer.await.unwrap().unwrap().unwrap().shared_rows, Some(2));
        }
        assert_eq!(runs(&version), [(2, 1)]);
    }

    #[test]
    fn a_turn_has_no_more_batches_than_it_may_and_the_next_has_places_again() {
        let versions: Vec<_> = (0..=BATCHES_MAX).map(|_| iris()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let join = |version| joined(version, later());
        runtime.block_on(async {
            let outcomes: Vec<_> = versions[..BATCHES_MAX].iter().map(|version| join(version).unwrap()).collect();
            assert_eq!(join(&versions[BATCHES_MAX]).err(), Some(flowers(1)));
            for outcome in outcomes {
                assert!(matches!(outcome.await, Ok(Ok(Ok(_)))));
            }
            assert!(join(&versions[BATCHES_MAX]).is_ok());
        });
    }

    /// A request: for which of two models, of which rows, in which turn; and whether its caller leaves in that turn.
    #[derive(Debug, Clone)]
    struct Asked {
        model: usize,
        first: usize,
        rows: usize,
        turn: usize,
        leaves: bool,
    }

    fn asked() -> impl Strategy<Value = Asked> {
        (0..2usize, 0..90usize, 1..12usize, 0..3usize, prop::bool::weighted(0.2))
            .prop_map(|(model, first, rows, turn, leaves)| Asked { model, first, rows, turn, leaves })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_caller_gets_the_answers_to_its_own_rows(asked in prop::collection::vec(asked(), 1..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let runner = Arc::new(Runner::start(1, 64).unwrap());
            let tasks = asked.iter().map(|Asked { model, first, rows, turn, .. }| {
                let (version, rows, _) = of_model(*model, *first, *rows);
                let (runner, turn) = (Arc::clone(&runner), *turn);
                runtime.spawn(async move {
                    for _ in 0..turn {
                        tokio::task::yield_now().await;
                    }
                    runner.run(&version, rows, Place::default(), Instant::now(), later()).await
                })
            });
            let tasks: Vec<_> = tasks.collect();
            runtime.block_on(async {
                tokio::task::yield_now().await;
                for (task, asked) in tasks.iter().zip(&asked) {
                    if asked.leaves {
                        task.abort();
                    }
                }
                for (task, Asked { model, first, rows, leaves, .. }) in tasks.into_iter().zip(&asked) {
                    match task.await {
                        Ok(answer) => {
                            let (.., expected) = of_model(*model, *first, *rows);
                            assert_eq!(answer.unwrap().prediction, expected);
                        }
                        Err(error) => assert!(error.is_cancelled() && *leaves),
                    }
                }
            });
            Arc::into_inner(runner).unwrap().stop();
        }
    }
}
