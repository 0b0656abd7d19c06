//! Jobs that wait for a worker, the one with the nearest deadline first.
//!
//! Guarantees: never more jobs than it was made for; a job that is taken goes to one worker; what is put in before the end is
//! still taken after it; a job that nobody waits for any more gives its place up when another needs it. Does not know
//! what a job does. Its lock is held for a few steps, and only by requests that are not answered on their own thread.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

// Named from outside, so that a model checker's can stand in for the standard library's.
use super::sync::{Condvar, Mutex, MutexGuard};

/// A bounded queue in the order of deadlines; of equal ones, the first comes first.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    /// How many jobs wait, for who does not need to know exactly.
    waiting: AtomicUsize,
    /// How many have left since room was made last, whose jobs may still lie here.
    left: AtomicUsize,
    changed: Condvar,
    jobs_max: usize,
    is_wanted: fn(&J) -> bool,
}

struct State<J> {
    waiting: BinaryHeap<Waiting<J>>,
    /// How many jobs have come.
    count: u64,
    is_closed: bool,
}

struct Waiting<J> {
    deadline: Instant,
    number: u64,
    job: J,
}

impl<J> Queue<J> {
    /// A queue of at most `jobs_max` jobs that somebody waits for, which `is_wanted` tells of each.
    pub(super) fn new(jobs_max: usize, is_wanted: fn(&J) -> bool) -> Self {
        let state = State { waiting: BinaryHeap::new(), count: 0, is_closed: false };
        let (waiting, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { state: Mutex::new(state), waiting, left, changed: Condvar::new(), jobs_max, is_wanted }
    }

    /// Whether nothing waits, as far as this thread knows.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }

    /// Notes that nobody waits any more for a job that was put in.
    pub(super) fn leave(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    /// Whether there is a place now.
    pub(super) fn has_place(&self) -> bool {
        self.make_room(&mut self.lock())
    }

    /// Puts a job in, or gives it back if there is no place.
    pub(super) fn put(&self, deadline: Instant, job: J) -> Result<(), J> {
        let mut state = self.lock();
        if !self.make_room(&mut state) {
            return Err(job);
        }
        let number = state.count;
        state.count += 1;
        state.waiting.push(Waiting { deadline, number, job });
        self.waiting.store(state.waiting.len(), Relaxed);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job; nothing once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.waiting.pop() {
                self.waiting.store(state.waiting.len(), Relaxed);
                return Some(next.job);
            }
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the workers end once nothing waits.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// How many jobs wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn make_room(&self, state: &mut State<J>) -> bool {
        // To look at every job for each that finds no place would cost more than to turn it away.
        if state.waiting.len() >= self.jobs_max && self.left.swap(0, Relaxed) > 0 {
            state.waiting.retain(|waiting| (self.is_wanted)(&waiting.job));
            self.waiting.store(state.waiting.len(), Relaxed);
        }
        state.waiting.len() < self.jobs_max
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The greatest is the next.
impl<J> Ord for Waiting<J> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.deadline, other.number).cmp(&(self.deadline, self.number))
    }
}

impl<J> PartialOrd for Waiting<J> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<J> PartialEq for Waiting<J> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<J> Eq for Waiting<J> {}
