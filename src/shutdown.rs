//! The two signals that mean: finish what is at hand, and end.

use tokio::signal::unix::{SignalKind, signal};

/// Completes at the first SIGINT or SIGTERM that comes after it is first polled.
pub async fn requested() {
    let listen = |kind| signal(kind).expect("a signal handler can be installed at the start of a program");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Calls `stop` at the first SIGINT or SIGTERM, for programs that are not async.
///
/// The thread that waits is not joined: the signal may never come, and the thread holds nothing.
pub fn on_request(stop: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(requested());
        stop();
    })?;
    Ok(())
}
