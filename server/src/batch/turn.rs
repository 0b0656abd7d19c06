//! How long a thread has been computing while what has come to its other connections waits.
//!
//! A thread of connections goes over them in turns: what is ready at the beginning of one is polled in it. A turn is begun by
//! the first costly request that runs in it, and ended by a task that the runtime polls after all that are ready by then. A request that comes
//! late in a long turn has waited for those before it, and so would those behind it. What is cheap has no part in this:
//! refusing it would cost nearly as much as answering it. Knows time; does not know requests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much a thread computes in a turn before what is costly goes elsewhere.
const TURN_MAX: Duration = Duration::from_millis(4);

thread_local! {
    static TURN: Arc<Turn> = Arc::default();
}

/// When the turn of a thread began, if one has.
#[derive(Default)]
struct Turn(Mutex<Option<Instant>>);

impl Turn {
    fn set(&self, begun: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    fn begun(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the turn of this thread has lasted too long by `now` for anything costly.
pub(super) fn is_over(now: Instant) -> bool {
    TURN.with(|turn| turn.begun()).is_some_and(|begun| now.saturating_duration_since(begun) > TURN_MAX)
}

/// Begins a turn of this thread `now`, unless one has begun. To be called in a runtime.
pub(super) fn begin(now: Instant) {
    TURN.with(|turn| {
        if turn.begun().is_none() {
            turn.set(Some(now));
            let turn = Arc::clone(turn);
            // Nobody needs to wait for it: it ends when it is polled first.
            tokio::spawn(async move { turn.set(None) });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_ends_after_everything_that_was_ready() {
        let began = Instant::now();
        let late = began + TURN_MAX + Duration::from_nanos(1);
        let ready = tokio::spawn(async move { is_over(late) });
        assert!(!is_over(late));
        begin(began);
        assert!(!is_over(began + TURN_MAX));
        assert!(is_over(late));
        // A turn is not begun twice.
        begin(late);
        assert!(is_over(late));
        let next = tokio::spawn(async move { is_over(late) });
        assert!(ready.await.unwrap());
        assert!(!next.await.unwrap());
    }
}
