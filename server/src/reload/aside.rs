//! Work that is done while the requests leave a processor idle, and not put off for long.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::priority;

/// How long work may live on what the requests leave of the processors. It takes some tens of milliseconds of them, and as many
/// seconds where they come so often that they leave only moments.
const PATIENCE: Duration = Duration::from_secs(2);

/// A thread's helper, of which there is one at a time.
#[derive(Default)]
pub(super) struct Aside {
    /// The one that was not waited for to its end.
    late: Option<JoinHandle<()>>,
}

impl Aside {
    /// What `work` gives. It may be done twice, and must not wait for what another thread holds, nor hold what another waits
    /// for: the kernel may not let it go on for long.
    pub(super) fn run<T: Send + 'static>(&mut self, work: impl Fn() -> T + Send + Sync + 'static) -> T {
        self.run_patiently(work, PATIENCE)
    }

    fn run_patiently<T: Send + 'static>(
        &mut self,
        work: impl Fn() -> T + Send + Sync + 'static,
        patience: Duration,
    ) -> T {
        if self.late.as_ref().is_some_and(|late| !late.is_finished()) {
            return work();
        }
        self.join();
        let work = Arc::new(work);
        let (give, done) = mpsc::sync_channel(1);
        let helper = {
            let work = Arc::clone(&work);
            std::thread::Builder::new().name("aside".to_owned()).spawn(move || {
                priority::take_what_is_left();
                // Nobody may wait for it any more.
                let _ = give.send(work());
            })
        };
        // Without a thread to be had, or with one that is not let go on, it is done here.
        let Ok(helper) = helper else { return work() };
        self.late = Some(helper);
        let given = done.recv_timeout(patience);
        priority::give_way();
        match given {
            Ok(given) => {
                // It has only to end now, and the next work is to find it gone.
                self.join();
                priority::give_way();
                given
            }
            Err(_) => work(),
        }
    }

    fn join(&mut self) {
        if let Some(late) = self.late.take() {
            // What made it panic does so where it is done again.
            let _ = late.join();
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use super::*;

    #[test]
    fn work_is_done_by_a_helper_in_time_and_else_here() {
        let here = std::thread::current().id();
        let (long, none) = (Duration::from_secs(60), Duration::ZERO);
        let mut aside = Aside::default();
        let who: ThreadId = aside.run_patiently(|| std::thread::current().id(), long);
        assert_ne!(who, here);

        // A helper that is held up until the end of the test.
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().unwrap();
        let wait = Arc::clone(&gate);
        let work = move || {
            let who = std::thread::current().id();
            if who != here {
                drop(wait.lock());
            }
            who
        };
        assert_eq!(aside.run_patiently(work.clone(), none), here);
        // There is no second one meanwhile.
        assert_eq!(aside.run_patiently(work.clone(), long), here);
        drop(held);
        aside.join();
        assert_ne!(aside.run_patiently(work, long), here);
    }
}
