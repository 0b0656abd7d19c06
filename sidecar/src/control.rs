//! Wakes and stops the loop, from any thread and from a signal's task.
//!
//! A trigger is a flag, not a queue: triggers that come during a pass cause one more pass, and none is lost.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A handle on a running sidecar; clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    flags: Mutex<Flags>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Flags {
    triggered: bool,
    stopped: bool,
}

impl Control {
    /// A handle that has been asked for nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a pass now, or for another one if a pass is running.
    pub fn trigger(&self) {
        self.flags().triggered = true;
        self.0.changed.notify_all();
    }

    /// Asks for the end. Cannot be taken back.
    pub fn stop(&self) {
        self.flags().stopped = true;
        self.0.changed.notify_all();
    }

    /// Whether the end was asked for.
    pub fn stopped(&self) -> bool {
        self.flags().stopped
    }

    /// Waits until `due`, a trigger or the end; a trigger is used up.
    pub(crate) fn wait_until(&self, due: Instant) {
        let mut flags = self.wait(self.flags(), due);
        flags.triggered = false;
    }

    /// Waits for `pause`, or less if something was asked for, which stays asked for. Says whether nothing was.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let flags = self.wait(self.flags(), Instant::now() + pause);
        !flags.triggered && !flags.stopped
    }

    fn wait<'a>(&self, flags: MutexGuard<'a, Flags>, due: Instant) -> MutexGuard<'a, Flags> {
        let left = due.saturating_duration_since(Instant::now());
        let waited = self.0.changed.wait_timeout_while(flags, left, |flags| !flags.triggered && !flags.stopped);
        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }

    fn flags(&self) -> MutexGuard<'_, Flags> {
        // Two booleans are right whatever the thread that panicked was doing.
        self.0.flags.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_trigger_during_a_pass_is_not_lost() {
        let control = Control::new();
        control.trigger();
        assert!(!control.pause(LONG), "a pause sees the trigger and leaves it");
        let started = Instant::now();
        control.wait_until(Instant::now() + LONG);
        assert!(started.elapsed() < LONG / 2);
        assert!(control.pause(Duration::ZERO), "the wait used the trigger up");
    }

    #[test]
    fn a_stop_ends_every_wait_and_stays() {
        let control = Control::new();
        let handle = control.clone();
        let stopper = std::thread::spawn(move || handle.stop());
        control.wait_until(Instant::now() + LONG);
        control.wait_until(Instant::now() + LONG);
        assert!(control.stopped());
        stopper.join().unwrap();
    }
}
