//! Jobs that wait for a worker, the one with the nearest deadline first, and with it those that can be done with it.
//!
//! Guarantees: never more jobs than it was made for; a job that is taken goes to one worker; what is put in before the end is
//! still taken after it; a job that nobody waits for any more gives its place up when another needs it. Does not know
//! what a job does. Its lock is held for a few steps, and only by requests that are not answered on their own thread.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

// Named from outside, so that a model checker's can stand in for the standard library's.
use super::sync::{Condvar, Mutex, MutexGuard};

/// How many of the next jobs are asked whether they can be done with another, or at all.
const LOOKED_AT_MAX: usize = 64;

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
    /// By deadline and number, so that the first is the next.
    waiting: BTreeMap<(Instant, u64), J>,
    /// How many jobs have come.
    count: u64,
    is_closed: bool,
}

impl<J> Queue<J> {
    /// A queue of at most `jobs_max` jobs that somebody waits for, which `is_wanted` tells of each.
    pub(super) fn new(jobs_max: usize, is_wanted: fn(&J) -> bool) -> Self {
        let state = State { waiting: BTreeMap::new(), count: 0, is_closed: false };
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
        state.waiting.insert((deadline, number), job);
        self.waiting.store(state.waiting.len(), Relaxed);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job, and takes with it those behind it that `joins`, asked with the first and with each, and that are there
    /// already. Nothing once the queue is closed and empty.
    pub(super) fn take(&self, mut joins: impl FnMut(&J, &J) -> bool) -> Option<Vec<J>> {
        let mut state = self.lock();
        loop {
            if let Some((_, first)) = state.waiting.pop_first() {
                let behind = state.waiting.iter().take(LOOKED_AT_MAX);
                let joined: Vec<_> = behind.filter(|(_, job)| joins(&first, job)).map(|(place, _)| *place).collect();
                let mut taken = vec![first];
                taken.extend(joined.iter().filter_map(|place| state.waiting.remove(place)));
                self.waiting.store(state.waiting.len(), Relaxed);
                return Some(taken);
            }
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next job that `accepts`, if it is there already.
    pub(super) fn try_take(&self, accepts: impl Fn(&J) -> bool) -> Option<J> {
        let mut state = self.lock();
        let place = state.waiting.iter().take(LOOKED_AT_MAX).find(|(_, job)| accepts(job)).map(|(place, _)| *place)?;
        let taken = state.waiting.remove(&place);
        self.waiting.store(state.waiting.len(), Relaxed);
        taken
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
            state.waiting.retain(|_, job| (self.is_wanted)(job));
            self.waiting.store(state.waiting.len(), Relaxed);
        }
        state.waiting.len() < self.jobs_max
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
