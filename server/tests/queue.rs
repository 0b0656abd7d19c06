//! The queue of requests under every interleaving of callers and workers that a model checker tries.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use shuttle::sync::Arc;
use shuttle::sync::mpsc::{Sender, channel};
use shuttle::thread;

use self::queue::Queue;

#[path = "../src/batch/queue.rs"]
mod queue;

/// What the queue takes for the standard library's.
mod sync {
    pub(super) use shuttle::sync::atomic::AtomicUsize;
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
}

/// How many interleavings are tried.
const INTERLEAVINGS: usize = 3000;
const ROWS: u32 = 3;
const JOBS_MAX: usize = 2;

/// The rows of one request, each with its caller and its number, and where their answers go.
struct Job {
    rows: Vec<(u32, u32)>,
    is_bad: bool,
    reply: Sender<Result<Vec<(u32, u32)>, u32>>,
}

/// Answers each row with itself, and a bad job with its caller.
fn answer(job: Job) {
    let answer = if job.is_bad { Err(job.rows[0].0) } else { Ok(job.rows) };
    let _ = job.reply.send(answer);
}

/// Takes good jobs with good ones, and bad ones with bad ones.
fn work(queue: &Queue<Job>) {
    while let Some(jobs) = queue.take(|first, job| first.is_bad == job.is_bad) {
        jobs.into_iter().for_each(answer);
    }
}

/// Jobs, each by itself, until the queue is closed and empty.
fn each<J>(queue: &Queue<J>) -> Vec<J> {
    std::iter::from_fn(|| queue.take(|_, _| false)).flatten().collect()
}

/// Asks twice, where it finds a place, which it keeps for a while before it uses it, and lends a hand with what is good. The bad
/// caller's requests fail, and nobody else's do.
fn ask(queue: &Queue<Job>, caller: u32, is_bad: bool, begun: Instant) {
    for request in 0..2 {
        let rows: Vec<_> = (0..ROWS).map(|row| (caller, request * ROWS + row)).collect();
        let (reply, answer) = channel();
        let deadline = begun + Duration::from_secs(u64::from((caller * 7 + request) % 3));
        let Some(reservation) = queue.reserve() else { continue };
        thread::yield_now();
        reservation.put(deadline, Job { rows: rows.clone(), is_bad, reply });
        assert!(queue.len() <= JOBS_MAX);
        if let Some(job) = queue.try_take(|job| !job.is_bad) {
            assert!(!job.is_bad);
            self::answer(job);
        }
        assert_eq!(answer.recv().unwrap(), if is_bad { Err(caller) } else { Ok(rows) });
    }
}

#[test]
fn each_row_returns_to_its_caller_and_a_bad_request_fails_alone() {
    let begun = Instant::now();
    shuttle::check_random(
        move || {
            let queue = Arc::new(Queue::new(JOBS_MAX, |_: &Job| true));
            let worker = |_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || work(&queue))
            };
            let caller = |caller| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || ask(&queue, caller, caller == 1, begun))
            };
            let workers: Vec<_> = (0..2).map(worker).collect();
            let callers: Vec<_> = (0..3).map(caller).collect();
            for caller in callers {
                caller.join().unwrap();
            }
            queue.close();
            for worker in workers {
                worker.join().unwrap();
            }
            assert_eq!(queue.len(), 0);
            assert!(queue.is_idle());
        },
        INTERLEAVINGS,
    );
}

#[test]
fn what_was_put_in_before_the_end_is_taken_after_it() {
    let begun = Instant::now();
    shuttle::check_random(
        move || {
            let queue = Arc::new(Queue::new(4, |_: &u32| true));
            let taken = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || each(&queue))
            };
            for job in [1, 2, 3] {
                queue.reserve().unwrap().put(begun, job);
            }
            queue.close();
            assert_eq!(taken.join().unwrap(), [1, 2, 3]);
        },
        INTERLEAVINGS,
    );
}

#[test]
fn the_nearest_deadline_comes_first_and_what_nobody_wants_makes_room() {
    let begun = Instant::now();
    shuttle::check_random(
        move || {
            let queue = Queue::new(3, |job: &&str| *job != "left");
            let at = |seconds| begun + Duration::from_secs(seconds);
            let put = |seconds, job| queue.reserve().unwrap().put(at(seconds), job);
            put(3, "late");
            put(1, "left");
            queue.leave();
            put(2, "first of two");
            let reservation = queue.reserve().unwrap();
            assert!(queue.reserve().is_none());
            drop(reservation);
            put(2, "second of two");
            assert!(queue.reserve().is_none());
            assert_eq!(queue.try_take(|job| job.starts_with("none")), None);
            assert_eq!(queue.try_take(|job| job.contains("of two")), Some("first of two"));
            queue.close();
            assert_eq!(each(&queue), ["second of two", "late"]);
        },
        1,
    );
}

#[test]
fn what_can_be_done_together_is_taken_together_in_the_order_of_deadlines() {
    let begun = Instant::now();
    shuttle::check_random(
        move || {
            let queue = Queue::new(200, |_: &u32| true);
            for job in 0..140 {
                queue.reserve().unwrap().put(begun + Duration::from_secs(u64::from(139 - job)), job);
            }
            let same_half = |first: &u32, job: &u32| first % 2 == job % 2;
            // Every other one of the 64 behind the first.
            assert_eq!(queue.take(same_half), Some((75..=139).rev().step_by(2).collect()));
            assert_eq!(queue.take(|_, _| false), Some(vec![138]));
            assert_eq!(queue.len(), 140 - 33 - 1);
        },
        1,
    );
}
