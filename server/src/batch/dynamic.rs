//! Requests that come to a thread in one turn, and are answered by one run.
//!
//! A thread of connections goes over them in turns: what is ready at the beginning of one is polled in it. The first request
//! of a turn begins a batch, and a task that the runtime polls after all that are ready by then runs it: nobody waits for
//! company that has not come yet. Guarantees: a caller gets the rows of its own request, in their order; a row that the model
//! fails at fails its own request alone; what nobody waits for any more, or what is late, is not run.
//! Knows tensors and time; does not know requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ndarray::{Array2, Axis, concatenate};
use tokio::sync::oneshot;

use super::{Ran, RunnerError};
use crate::catalog::LoadedVersion;
use crate::rows::Rows;

/// The most batches of a turn.
const BATCHES_MAX: usize = 16;

thread_local! {
    static TURN: Arc<Turn> = Arc::default();
}

/// What a request in a batch has come to: it ran or failed; or its rows, where every session was busy.
pub(super) type Outcome = Result<Result<Ran, RunnerError>, Rows>;

/// The batches of a thread's turn.
#[derive(Default)]
struct Turn(Mutex<Vec<Batch>>);

/// Requests for one version.
struct Batch {
    version: Arc<LoadedVersion>,
    rows: usize,
    members: Vec<Member>,
}

struct Member {
    rows: Array2<f32>,
    joined: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
}

/// Puts `rows` into a batch of this turn `now`, or gives them back where they are no matrix or the turn has batches enough. To
/// be called in a runtime.
pub(super) fn join(
    version: &Arc<LoadedVersion>,
    rows: Rows,
    now: Instant,
    deadline: Instant,
) -> Result<oneshot::Receiver<Outcome>, Rows> {
    let matrix = match rows {
        Rows::Matrix(matrix) => matrix,
        other => return Err(other),
    };
    let rows_max = version.engine.inline_rows_max();
    TURN.with(|turn| {
        let mut batches = turn.lock();
        let has_place = |batch: &Batch| Arc::ptr_eq(&batch.version, version) && batch.rows + matrix.nrows() <= rows_max;
        let at = match batches.iter().position(has_place) {
            Some(at) => at,
            None if batches.len() == BATCHES_MAX => return Err(Rows::Matrix(matrix)),
            None => {
                if batches.is_empty() {
                    let turn = Arc::clone(turn);
                    // Nobody needs to wait for it: it ends when it is polled first.
                    tokio::spawn(async move { turn.end() });
                }
                batches.push(Batch { version: Arc::clone(version), rows: 0, members: Vec::new() });
                batches.len() - 1
            }
        };
        let (reply, outcome) = oneshot::channel();
        batches[at].rows += matrix.nrows();
        batches[at].members.push(Member { rows: matrix, joined: now, deadline, reply });
        Ok(outcome)
    })
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let batches = std::mem::take(&mut *self.lock());
        batches.into_iter().for_each(Batch::run);
    }
}

impl Batch {
    fn run(self) {
        let Self { version, members, .. } = self;
        let now = Instant::now();
        let wanted = members.into_iter().filter(|member| !member.reply.is_closed());
        let (members, late): (Vec<_>, Vec<_>) = wanted.partition(|member| now < member.deadline);
        late.into_iter().for_each(|member| tell(member.reply, Ok(Err(RunnerError::Late))));
        let together = if members.len() > 1 { run_together(&version, &members, now) } else { None };
        let Some(Ran { prediction, shared_rows }) = together else {
            // Of many, one may be what the model failed at.
            members.into_iter().for_each(|member| member.run_alone(&version));
            return;
        };
        let mut first = 0;
        for member in members {
            let end = first + member.rows.nrows();
            let prediction = prediction.slice(first, end);
            tell(member.reply, Ok(Ok(Ran { prediction, shared_rows })));
            first = end;
        }
    }
}

/// What one run says of the rows of all `members`, in their order; nothing if it fails, or could not be made.
fn run_together(version: &LoadedVersion, members: &[Member], now: Instant) -> Option<Ran> {
    let views: Vec<_> = members.iter().map(|member| member.rows.view()).collect();
    let rows = Rows::Matrix(concatenate(Axis(0), &views).ok()?);
    let prediction = version.engine.try_run(&rows)?.ok()?;
    let waited: Duration = members.iter().map(|member| now - member.joined).sum();
    version.metrics.ran_together(rows.len(), waited, now.elapsed());
    Some(Ran { prediction, shared_rows: Some(rows.len()) })
}

impl Member {
    fn run_alone(self, version: &LoadedVersion) {
        let waited = self.joined.elapsed();
        let rows = Rows::Matrix(self.rows);
        let outcome = match version.engine.try_run(&rows) {
            Some(Ok(prediction)) => {
                version.metrics.queued(rows.len(), waited);
                Ok(Ok(Ran { prediction, shared_rows: None }))
            }
            Some(Err(error)) => Ok(Err(RunnerError::Failed(error))),
            None => Err(rows),
        };
        tell(self.reply, outcome);
    }
}

/// A caller that left meanwhile wants no answer.
fn tell(reply: oneshot::Sender<Outcome>, outcome: Outcome) {
    let _ = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Runner;
    use crate::batch::tests::{flowers, iris, later, loaded};
    use crate::engine::{Prediction, RunError};

    /// The largest of three, by softmax: no probability where a value is none.
    fn softmax() -> Arc<LoadedVersion> {
        let file = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/content/half-classes");
            fs_err::read(format!("{folder}/{name}")).unwrap()
        };
        loaded(&file("model.yaml"), &file("model.onnx"))
    }

    /// `rows` as matrices, each asked about by a task of its own, all of them in one turn.
    async fn ask(runner: &Arc<Runner>, version: &Arc<LoadedVersion>, rows: Vec<Rows>) -> Vec<Result<Ran, RunnerError>> {
        let asked = rows.into_iter().map(|rows| {
            let (runner, version) = (Arc::clone(runner), Arc::clone(version));
            tokio::spawn(async move { runner.run(&version, rows, Instant::now(), later()).await })
        });
        let mut answers = Vec::new();
        for task in asked.collect::<Vec<_>>() {
            answers.push(task.await.unwrap());
        }
        answers
    }

    fn runs(version: &LoadedVersion) -> Vec<(u64, u64)> {
        version.metrics.statistics().batches.iter().map(|batch| (batch.rows, batch.run.0)).collect()
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
        let join = |deadline| join(&version, flowers(1), now, deadline).unwrap();
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
        let join = |version| join(version, flowers(1), Instant::now(), later());
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
            thread_local! {
                // All different, so that no row's answer can stand for another's.
                static MODELS: [(Arc<LoadedVersion>, Rows, Prediction); 2] = [softmax(), softmax()].map(|version| {
                    let rows = Rows::Matrix(Array2::from_shape_fn((102, 3), |(row, column)| (row * (column + 1)) as f32 / 200.0));
                    let answers = version.engine.run(&rows, later()).unwrap();
                    (version, rows, answers)
                });
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let runner = Arc::new(Runner::start(1, 64).unwrap());
            let tasks = asked.iter().map(|Asked { model, first, rows, turn, .. }| {
                let (version, rows) = MODELS.with(|models| {
                    (Arc::clone(&models[*model].0), models[*model].1.slice(*first, first + rows))
                });
                let (runner, turn) = (Arc::clone(&runner), *turn);
                runtime.spawn(async move {
                    for _ in 0..turn {
                        tokio::task::yield_now().await;
                    }
                    runner.run(&version, rows, Instant::now(), later()).await
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
                            let expected = MODELS.with(|models| models[*model].2.slice(*first, first + rows));
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
