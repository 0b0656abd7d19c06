//! Jobs that wait for a worker, the one with the nearest deadline first, and with it those that can be done with it.
//!
//! Guarantees: never more jobs, with the places that are kept for some, than it was made for; a job that is taken goes to one
//! worker; what is put in before the end is still taken after it; a job that nobody waits for any more gives its place up
//! when another needs it. Does not know what a job does.
//!
//! Its lock is held for a few steps. But who holds it may be a worker that others go before, and then whoever wants it waits for
//! that worker's turn: so what finds no place is told so without it, but for the first after somebody has left.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

// Named from outside, so that a model checker's can stand in for the standard library's.
use super::sync::{AtomicUsize, Condvar, Mutex, MutexGuard};

/// How many of the next jobs are asked whether they can be done with another, or at all.
const LOOKED_AT_MAX: usize = 64;

/// A bounded queue in the order of deadlines; of equal ones, the first comes first.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    /// How many places jobs have or are kept for some.
    taken: AtomicUsize,
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

/// A place that is kept until a job is put there, or this is dropped.
pub(super) struct Reservation<'a, J>(&'a Queue<J>);

impl<J> Reservation<'_, J> {
    /// Puts a job there.
    pub(super) fn put(self, deadline: Instant, job: J) {
        let queue = self.0;
        // The place is the job's.
        std::mem::forget(self);
        let mut state = queue.lock();
        let number = state.count;
        state.count += 1;
        state.waiting.insert((deadline, number), job);
        queue.waiting.store(state.waiting.len(), Relaxed);
        drop(state);
        queue.changed.notify_one();
    }
}

impl<J> Drop for Reservation<'_, J> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

impl<J> Queue<J> {
    /// A queue of at most `jobs_max` jobs that somebody waits for, which `is_wanted` tells of each.
    pub(super) fn new(jobs_max: usize, is_wanted: fn(&J) -> bool) -> Self {
        let state = State { waiting: BTreeMap::new(), count: 0, is_closed: false };
        let [taken, waiting, left] = [0; 3].map(AtomicUsize::new);
        Self { state: Mutex::new(state), taken, waiting, left, changed: Condvar::new(), jobs_max, is_wanted }
    }

    /// Whether nothing waits, as far as this thread knows.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }

    /// Notes that nobody waits any more for a job that was put in.
    pub(super) fn leave(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    /// Keeps a place for a job that is to come, if there is one.
    pub(super) fn reserve(&self) -> Option<Reservation<'_, J>> {
        self.try_reserve().or_else(|| {
            // To look at every job for each that finds no place would cost more than to turn it away.
            let may_make_room = self.left.load(Relaxed) > 0 && self.left.swap(0, Relaxed) > 0;
            if !may_make_room {
                return None;
            }
            let mut state = self.lock();
            state.waiting.retain(|_, job| (self.is_wanted)(job));
            self.note(&state);
            drop(state);
            self.try_reserve()
        })
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
                self.note(&state);
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
        self.note(&state);
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

    fn try_reserve(&self) -> Option<Reservation<'_, J>> {
        let one_more = |taken| (taken < self.jobs_max).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Reservation(self))
    }

    /// Notes that jobs have gone out of `state`, and their places are free.
    fn note(&self, state: &State<J>) {
        let waiting = state.waiting.len();
        let gone = self.waiting.swap(waiting, Relaxed) - waiting;
        self.taken.fetch_sub(gone, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
