//! A reloader on its thread, and what wakes it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use notify::{RecursiveMode, Watcher};

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

/// Watches the folder that holds `current`, not the link: a watch on a name follows what the name meant.
pub(super) fn watch_folder(root: &Path, hint: Sender<()>) -> Option<notify::RecommendedWatcher> {
    let send = move |_event| {
        // Full means that a hint waits already.
        let _ = hint.try_send(());
    };
    let mut watcher = notify::recommended_watcher(send).ok()?;
    watcher.watch(root, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
