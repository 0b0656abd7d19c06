//! Wakes and stops the loop, from any thread and from a signal's task.
//!
//! A trigger is a count, not a queue: triggers that come during a pass cause one more pass, and none is lost. It
//! carries no data, so whoever may trigger can cause a pass and nothing else.

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
    /// Whether the next pass publishes what would wait for a person's word.
    publish_now: bool,
    /// Whether something was published beside the loop.
    interrupted: bool,
    /// How many triggers there were.
    triggers: u64,
}

/// What a pass begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orders {
    /// How many triggers had come: this pass answers all of them.
    pub trigger: u64,
    /// Whether a person said that what waits for a word is to be published.
    pub publish_now: bool,
    /// Whether something was published beside the loop since the pass before began.
    pub interrupted: bool,
}

impl Control {
    /// A handle that has been asked for nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a pass now, or for another one if a pass is running. Gives the trigger's number: the pass that
    /// answers it shows that number, or a later one.
    pub fn trigger(&self) -> u64 {
        self.ask(|_| {})
    }

    /// Asks for a pass that publishes also what waits for a person's word. Holds for one pass, so that it never
    /// publishes by surprise what comes later.
    pub fn publish_now(&self) -> u64 {
        self.ask(|flags| flags.publish_now = true)
    }

    /// Asks for a pass because something was published beside the loop: a question to git that is under way is cut
    /// short, and the server is asked first.
    pub(crate) fn interrupt(&self) -> u64 {
        self.ask(|flags| flags.interrupted = true)
    }

    fn ask(&self, order: impl FnOnce(&mut Flags)) -> u64 {
        let mut flags = self.flags();
        order(&mut flags);
        flags.triggered = true;
        flags.triggers += 1;
        self.0.changed.notify_all();
        flags.triggers
    }

    /// What the pass that begins now has to heed; it is heeded once.
    pub(crate) fn begin(&self) -> Orders {
        let mut flags = self.flags();
        Orders {
            trigger: flags.triggers,
            publish_now: std::mem::take(&mut flags.publish_now),
            interrupted: std::mem::take(&mut flags.interrupted),
        }
    }

    /// Whether a question to git is to be cut short.
    pub(crate) fn cuts_short(&self) -> bool {
        let flags = self.flags();
        flags.stopped || flags.interrupted
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
        // Flags and a count are right whatever the thread that panicked was doing.
        self.0.flags.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_trigger_during_a_pass_is_not_lost() {
        let control = Control::new();
        control.trigger();
        assert!(!control.pause(LONG), "a pause sees the trigger and leaves it");
        let (waiting, (done, waited)) = (control.clone(), mpsc::channel());
        std::thread::spawn(move || {
            waiting.wait_until(Instant::now() + 60 * LONG);
            let _ = done.send(());
        });
        waited.recv_timeout(LONG).expect("a wait ends with a trigger");
        assert!(control.pause(Duration::ZERO), "the wait used the trigger up");
    }

    #[test]
    fn an_order_is_heeded_by_one_pass_and_every_trigger_is_answered() {
        let control = Control::new();
        assert_eq!(control.trigger(), 1);
        assert_eq!(control.publish_now(), 2);
        assert_eq!(control.begin(), Orders { trigger: 2, publish_now: true, interrupted: false });
        assert_eq!(control.interrupt(), 3);
        assert!(control.cuts_short());
        assert_eq!(control.begin(), Orders { trigger: 3, publish_now: false, interrupted: true });
        assert!(!control.cuts_short());
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
