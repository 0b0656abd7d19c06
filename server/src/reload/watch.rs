//! A reloader on its thread, and what wakes it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use notify::{RecursiveMode, Watcher};

use super::Reloader;
use crate::{allocator, priority};

/// How often the store is looked at without a hint.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked at while it cannot be watched, since its folder is yet to be made.
const BLIND_INTERVAL: Duration = Duration::from_millis(100);

/// A reloader at work.
#[derive(Debug)]
pub struct Watch {
    pub(super) stop: Sender<()>,
    /// The word by which the one trial of a [`super::Plain`] ends early.
    pub(super) abandoned: Arc<AtomicBool>,
    pub(super) thread: JoinHandle<()>,
}

impl Watch {
    /// Stops; what is being loaded is abandoned.
    pub fn stop(self) {
        self.abandoned.store(true, Ordering::Relaxed);
        drop(self.stop);
        self.thread.join().expect("a pass turns every failure into a status");
    }
}

impl Reloader {
    /// Follows the store on a thread of its own until the returned [`Watch`] is stopped.
    pub fn watch(mut self) -> std::io::Result<Watch> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            // To read a release and to bring the catalog up to date takes some hundred microseconds, which no request is to
            // wait for.
            priority::step_far_back();
            // One place: a hint that finds another one waiting says nothing new.
            let (hint, hints) = crossbeam_channel::bounded(1);
            let mut watcher = None;
            let loaded = self.loads.done().clone();
            let mut orders = self.orders.clone();
            let mut due = Instant::now();
            loop {
                if watcher.is_none() {
                    watcher = watch_folder(self.reader.root(), hint.clone());
                }
                priority::give_way();
                if Instant::now() >= due {
                    self.look();
                    due = Instant::now() + if watcher.is_some() { POLL_INTERVAL } else { BLIND_INTERVAL };
                }
                self.advance();
                if self.give_back.take_if(|due| Instant::now() >= *due).is_some() {
                    allocator::give_back();
                }
                let mut is_ordering_over = false;
                crossbeam_channel::select! {
                    recv(stopped) -> _ => return,
                    recv(hints) -> _ => due = Instant::now(),
                    recv(loaded) -> done => {
                        let (wanted, outcome) = done.expect("the loads keep their threads");
                        self.take(wanted, outcome);
                    }
                    recv(orders) -> order => match order {
                        Ok(order) => self.obey(order),
                        // Nobody is left who could give one.
                        Err(_) => is_ordering_over = true,
                    },
                    default(due.saturating_duration_since(Instant::now())) => {}
                }
                if is_ordering_over {
                    orders = crossbeam_channel::never();
                }
            }
        })?;
        Ok(Watch { stop, abandoned: Arc::default(), thread })
    }
}

/// Watches the folder that holds `current`, not the link: a watch on a name follows what the name meant.
fn watch_folder(root: &Path, hint: Sender<()>) -> Option<notify::RecommendedWatcher> {
    let send = move |_event| {
        // Full means that a hint waits already.
        let _ = hint.try_send(());
    };
    let mut watcher = notify::recommended_watcher(send).ok()?;
    watcher.watch(root, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
