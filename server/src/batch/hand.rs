//! A thread of connections that lends the workers a hand with what waits in their queue.
//!
//! What is small enough to run there is in the queue only because a thread had to look at its other connections first. Once
//! it has, it takes one such job, and looks again: a worker that is woken for it costs as much as a small run, and waits
//! where the threads of connections take all that there is. So does one that turns something away while the queue is full of
//! what others put there. Knows the queue; does not know requests.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::job::{self, Job};
use super::may_run_inline;
use super::queue::Queue;
use crate::priority;

thread_local! {
    static IS_LENT: Arc<AtomicBool> = Arc::default();
}

/// The hand of a thread, which has one, until dropped.
struct Hand(Arc<AtomicBool>);

impl Drop for Hand {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// Takes jobs from `queue` on this thread, one after each turn, until it has none that may run here. To be called in a runtime.
pub(super) fn lend(queue: &Arc<Queue<Job>>) {
    let is_lent = IS_LENT.with(Arc::clone);
    if is_lent.swap(true, Relaxed) {
        return;
    }
    let (hand, queue) = (Hand(is_lent), Arc::clone(queue));
    // Nobody needs to wait for it: it ends with the queue's last such job, and a runtime that ends drops it between two.
    tokio::spawn(async move {
        let _hand = hand;
        loop {
            // Until everything that is ready has been looked at.
            tokio::task::yield_now().await;
            let is_small = |job: &Job| may_run_inline(&job.version, job.rows.len());
            let Some(job) = queue.try_take(is_small) else { return };
            job::answer(vec![job], |engine, rows, _| engine.try_run(rows));
            // Else the kernel looks whose turn it is every few milliseconds only, which who asks may wait for.
            priority::give_way();
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mainstay_models::embedded;
    use ndarray::Array2;
    use proptest::prelude::*;
    use tokio::sync::oneshot;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::batch::tests::{later, version};
    use crate::batch::{Place, Ran, Runner, RunnerError};
    use crate::catalog::LoadedVersion;
    use crate::engine::Engine;
    use crate::rows::Rows;

    fn compiled() -> Arc<LoadedVersion> {
        let shipped = &embedded::MODELS[0];
        version(shipped.spec, |spec| Engine::compile(shipped.artifact, spec).unwrap())
    }

    /// Rows that are all different.
    fn flowers(first: usize, rows: usize) -> Rows {
        let value = |(row, column)| [4.5, 2.0, 1.0, 0.1][column] + ((first + row) % 900) as f32 * 0.003;
        Rows::Matrix(Array2::from_shape_fn((rows, 4), value))
    }

    fn ask(runner: &Arc<Runner>, version: &Arc<LoadedVersion>, rows: Rows) -> JoinHandle<Result<Ran, RunnerError>> {
        let (runner, version) = (Arc::clone(runner), Arc::clone(version));
        tokio::spawn(async move { runner.run(&version, rows, Place::default(), Instant::now(), later()).await })
    }

    #[tokio::test]
    async fn a_thread_does_what_it_put_into_the_queue_and_leaves_what_is_large() {
        // There is nobody else to do it.
        let (runner, version) = (Arc::new(Runner::start(0, 4).unwrap()), compiled());
        let rows_max = version.engine.inline_rows_max();
        let large = ask(&runner, &version, flowers(0, rows_max + 1));
        yield_now().await;
        assert_eq!(runner.queue.len(), 1);
        for first in [1, 2, 3] {
            let behind = ask(&runner, &version, flowers(first, rows_max));
            let expected = version.engine.run(&flowers(first, rows_max), later()).unwrap();
            assert_eq!(behind.await.unwrap().unwrap().prediction, expected);
        }
        // And again, once the hand has found nothing more to do.
        while IS_LENT.with(|is_lent| is_lent.load(Relaxed)) {
            yield_now().await;
        }
        assert!(ask(&runner, &version, flowers(4, rows_max)).await.unwrap().is_ok());
        assert_eq!(runner.queue.len(), 1);
        large.abort();
    }

    #[tokio::test]
    async fn a_thread_that_turns_something_away_helps_to_make_room() {
        let (runner, version) = (Runner::start(0, 1).unwrap(), compiled());
        let rows_max = version.engine.inline_rows_max();
        let (reply, outcome) = oneshot::channel();
        let since = Instant::now();
        let job = Job { version: Arc::clone(&version), rows: flowers(0, 1), since, deadline: later(), reply };
        runner.queue.reserve().unwrap().put(later(), job);
        assert!(runner.find_place(&version, rows_max + 1).is_none());
        yield_now().await;
        // What is large says nothing of what waits.
        assert_eq!(runner.queue.len(), 1);
        assert!(runner.find_place(&version, rows_max).is_none());
        assert_eq!(runner.refused(), 2);
        assert_eq!(outcome.await.unwrap().unwrap().unwrap().prediction.len(), 1);
        assert!(runner.find_place(&version, rows_max + 1).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Each of so many sixteenths of what may run on the thread, in one of some turns; or its caller leaves.
        #[test]
        fn every_caller_gets_the_answers_to_its_own_rows_whoever_runs_them(
            asked in prop::collection::vec((0..900usize, 1..24usize, 0..4usize, prop::bool::weighted(0.2)), 1..20)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let (runner, version) = (Arc::new(Runner::start(1, 64).unwrap()), compiled());
            let rows_max = version.engine.inline_rows_max();
            let rows = |first, sixteenths: usize| flowers(first, (rows_max * sixteenths / 16).max(1));
            runtime.block_on(async {
                let mut tasks = Vec::new();
                for turn in 0..4 {
                    for &(first, sixteenths, _, leaves) in asked.iter().filter(|(.., at, _)| *at == turn) {
                        tasks.push((ask(&runner, &version, rows(first, sixteenths)), first, sixteenths, leaves));
                    }
                    yield_now().await;
                    tasks.iter().filter(|(.., leaves)| *leaves).for_each(|(task, ..)| task.abort());
                }
                for (task, first, sixteenths, leaves) in tasks {
                    match task.await {
                        Ok(ran) => {
                            let expected = version.engine.run(&rows(first, sixteenths), later()).unwrap();
                            assert_eq!(ran.unwrap().prediction, expected);
                        }
                        Err(error) => assert!(error.is_cancelled() && leaves),
                    }
                }
            });
            drop(runtime);
            Arc::into_inner(runner).unwrap().stop();
        }
    }
}
