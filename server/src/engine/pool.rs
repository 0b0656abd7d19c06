//! Things that one may hold at a time, handed out without a lock.
//!
//! What was taken goes back when its guard is dropped, also by an error or a panic. Does not know what the things are.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

/// The idle ones wait in a channel with room for all of them, so that giving one back never waits.
#[derive(Debug)]
pub(super) struct Pool<T> {
    idle: Receiver<T>,
    back: Sender<T>,
}

/// One of the things, until dropped.
pub(super) struct Taken<'a, T> {
    /// Empty only inside `drop`.
    thing: Option<T>,
    back: &'a Sender<T>,
}

impl<T> Pool<T> {
    pub(super) fn new(things: Vec<T>) -> Self {
        let (back, idle) = bounded(things.len());
        for thing in things {
            back.try_send(thing).expect("the channel has room for every thing");
        }
        Self { idle, back }
    }

    pub(super) fn try_take(&self) -> Option<Taken<'_, T>> {
        self.idle.try_recv().ok().map(|thing| self.taken(thing))
    }

    pub(super) fn take(&self, deadline: Instant) -> Option<Taken<'_, T>> {
        self.idle.recv_deadline(deadline).ok().map(|thing| self.taken(thing))
    }

    pub(super) fn wait(&self) -> Taken<'_, T> {
        self.taken(self.idle.recv().expect("the pool keeps a sender"))
    }

    fn taken(&self, thing: T) -> Taken<'_, T> {
        Taken { thing: Some(thing), back: &self.back }
    }
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("the thing is here until the guard is dropped")
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("the thing is here until the guard is dropped")
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take() {
            // Cannot fail: the channel has room for every thing, and the pool, which this borrows from, keeps it open.
            let _ = self.back.try_send(thing);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thing_goes_back_also_after_a_panic() {
        let pool = Pool::new(vec![7]);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _taken = pool.try_take().unwrap();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(*pool.try_take().unwrap(), 7);
    }

    #[test]
    fn an_empty_pool_gives_nothing_until_the_deadline() {
        let pool = Pool::new(vec![7]);
        let taken = pool.wait();
        assert!(pool.try_take().is_none());
        assert!(pool.take(Instant::now() + Duration::from_millis(5)).is_none());
        drop(taken);
        assert!(pool.take(Instant::now()).is_some());
    }
}
