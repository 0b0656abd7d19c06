//! Counts that many threads make, each in memory of its own.
//!
//! Two processors that add to the same number wait for each other for some 50 ns each time, a dozen times a request. So a
//! thread counts in a shard, which it seldom shares with another, and whoever reads adds the shards up. Nothing is lost or late:
//! reading takes every shard's lock. Knows nothing of what is counted.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

/// For each processor, a thread of connections and one that runs what they queue.
const SHARDS_PER_PROCESSOR: usize = 2;
/// The most shards.
const SHARDS_MAX: usize = 128;

/// A `T` for each of the threads that count.
#[derive(Debug)]
pub(super) struct Shards<T>(Box<[Shard<T>]>);

/// Aligned so that no two are fetched together.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<T>(Mutex<T>);

impl<T> Shards<T> {
    /// Shards that `new` makes.
    pub(super) fn new(new: impl Fn() -> T) -> Self {
        let count = available_parallelism().map_or(1, NonZeroUsize::get) * SHARDS_PER_PROCESSOR;
        Self((0..count.min(SHARDS_MAX)).map(|_| Shard(Mutex::new(new()))).collect())
    }

    /// The shard of this thread.
    pub(super) fn own(&self) -> MutexGuard<'_, T> {
        self.0[number_of_thread() % self.0.len()].lock()
    }

    /// All shards, one after another.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(Shard::lock)
    }
}

impl<T> Shard<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many threads had counted before this one.
fn number_of_thread() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = COUNT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_thread_counts_is_lost() {
        let shards = Shards::new(|| 0);
        std::thread::scope(|scope| {
            for _ in 0..SHARDS_MAX + 1 {
                scope.spawn(|| (0..100).for_each(|_| *shards.own() += 1));
            }
        });
        assert_eq!(shards.each().map(|count| *count).sum::<usize>(), (SHARDS_MAX + 1) * 100);
    }
}
