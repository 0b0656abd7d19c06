//! Counts that many threads make, each in memory of its own.
//!
//! Two processors that add to the same number wait for each other for some 50 ns each time, a dozen times a request. So
//! whoever reads adds up what each thread has counted. Nothing is lost or late, also of threads that have ended. Knows nothing
//! of what is counted.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use thread_local::ThreadLocal;

/// A `T` for each of the threads that count. No other thread wants its lock unless somebody reads.
#[derive(Debug)]
pub(super) struct Shards<T: Send>(ThreadLocal<Apart<Mutex<T>>>);

/// A number that each thread adds to.
#[derive(Debug, Default)]
pub(super) struct Sum(ThreadLocal<Apart<AtomicI64>>);

/// Aligned so that no two are fetched together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T: Send> Shards<T> {
    /// This thread's, which `new` makes if it has none.
    pub(super) fn own(&self, new: impl FnOnce() -> T) -> MutexGuard<'_, T> {
        lock(&self.0.get_or(|| Apart(Mutex::new(new()))).0)
    }

    /// Every thread's, one after another.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(|shard| lock(&shard.0))
    }
}

impl<T: Send> Default for Shards<T> {
    fn default() -> Self {
        Self(ThreadLocal::new())
    }
}

impl Sum {
    /// Adds `more`.
    pub(super) fn add(&self, more: i64) {
        let own = &self.0.get_or_default().0;
        // No other thread writes here, so that what lies between the two is not lost.
        own.store(own.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    /// What all threads have added.
    pub(super) fn get(&self) -> i64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_thread_counts_is_lost() {
        const THREADS: i64 = 40;
        let (shards, sum) = (Shards::default(), Sum::default());
        let count = || {
            for _ in 0..100 {
                *shards.own(|| 0) += 1;
                sum.add(2);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(count);
            }
        });
        // Threads that come after others have ended have their places, with what is in them.
        std::thread::scope(|scope| scope.spawn(count).join().unwrap());
        let counted: i64 = shards.each().map(|count| *count).sum();
        assert_eq!((counted, sum.get()), ((THREADS + 1) * 100, (THREADS + 1) * 200));
    }
}
