//! One connection as its core sees it from outside: whether a request is at hand, since when none was, and that it is to end.
//!
//! hyper's own timeout sets a timer for each request, and its own drain polls a lock at each step of each connection. This
//! costs a request two additions: its core looks at all of its connections once a second. Does not know HTTP.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize};
use std::task::{Poll, Waker};

/// What a connection and its core tell each other. Both are on one thread, and the atomics only say so to the compiler.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Requests that are being answered.
    at_hand: AtomicUsize,
    /// How often the core has looked since the last request began or was answered.
    idle_looks: AtomicU32,
    begun: AtomicBool,
    is_multiplexed: AtomicBool,
    end: AtomicU8,
    waker: OnceLock<Waker>,
}

/// How a connection is to end, as [`Link::end`] holds it.
const GRACEFULLY: u8 = 1;
const AT_ONCE: u8 = 2;

/// A request that is being answered, until dropped.
pub(super) struct AtHand<'a>(&'a Link);

impl Link {
    /// Notes that a request has begun; one of many at the same time on this connection, if `is_multiplexed`.
    pub(super) fn request(&self, is_multiplexed: bool) -> AtHand<'_> {
        self.begun.store(true, Relaxed);
        self.is_multiplexed.store(is_multiplexed, Relaxed);
        self.idle_looks.store(0, Relaxed);
        self.at_hand.fetch_add(1, Relaxed);
        AtHand(self)
    }

    /// Ends the connection if it has been idle for too many looks: `first` until its first request has begun, `between` two.
    ///
    /// One that carries many requests at once keeps itself alive with pings, and ends with its client.
    pub(super) fn look(&self, first: u32, between: u32) {
        if self.at_hand.load(Relaxed) > 0 || self.is_multiplexed.load(Relaxed) {
            return;
        }
        let allowed = if self.begun.load(Relaxed) { between } else { first };
        if self.idle_looks.fetch_add(1, Relaxed) >= allowed {
            self.tell(AT_ONCE);
        }
    }

    /// Ends the connection once the requests at hand are answered.
    pub(super) fn end_gracefully(&self) {
        self.tell(GRACEFULLY);
    }

    fn tell(&self, how: u8) {
        self.end.store(how, Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Drives `connection` to its end, or to the one that it is told; nothing if that was at once. To be a task of its
    /// own, whose waker stays the same.
    pub(super) async fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        end_gracefully: impl Fn(Pin<&mut C>),
    ) -> Option<C::Output> {
        let mut is_ending = false;
        poll_fn(|context| {
            self.waker.get_or_init(|| context.waker().clone());
            match self.end.load(Relaxed) {
                AT_ONCE => return Poll::Ready(None),
                GRACEFULLY if !is_ending => {
                    is_ending = true;
                    end_gracefully(connection.as_mut());
                }
                _ => {}
            }
            connection.as_mut().poll(context).map(Some)
        })
        .await
    }
}

impl Drop for AtHand<'_> {
    fn drop(&mut self) {
        self.0.idle_looks.store(0, Relaxed);
        self.0.at_hand.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::Notify;

    use super::*;

    /// How a connection ends of which `told` is done after it has begun to wait.
    async fn end(link: &Link, told: impl FnOnce(&Link)) -> Option<()> {
        let notify = Notify::new();
        let connection = pin!(notify.notified());
        tokio::join!(link.drive(connection, |_| notify.notify_one()), async { told(link) }).0
    }

    #[tokio::test]
    async fn a_connection_ends_as_it_is_told() {
        assert_eq!(end(&Link::default(), Link::end_gracefully).await, Some(()));
        assert_eq!(end(&Link::default(), |link| (0..=3).for_each(|_| link.look(3, 100))).await, None);
    }

    #[test]
    fn only_a_connection_without_a_request_is_idle_and_each_request_begins_the_wait_anew() {
        let link = Link::default();
        let looks = |count| {
            (0..count).for_each(|_| link.look(2, 4));
            link.end.load(Relaxed)
        };
        assert_eq!(looks(2), 0);
        let request = link.request(false);
        assert_eq!(looks(10), 0);
        drop(request);
        assert_eq!(looks(4), 0);
        drop(link.request(false));
        assert_eq!(looks(4), 0);
        assert_eq!(looks(1), AT_ONCE);
    }

    #[test]
    fn a_connection_of_many_requests_is_left_to_its_pings() {
        let link = Link::default();
        drop(link.request(true));
        (0..100).for_each(|_| link.look(2, 4));
        assert_eq!(link.end.load(Relaxed), 0);
    }
}
