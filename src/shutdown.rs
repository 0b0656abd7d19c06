//! The signals: two that mean to finish what is at hand and end, and one that means to look again.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `stop` at the first SIGINT or SIGTERM from now on.
///
/// The handlers are in place when this returns, so that no signal ends the program half-way. The thread that waits is
/// not joined: the signal may never come, and the thread holds nothing.
pub fn on_request(stop: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            stop();
        }
    })?;
    Ok(())
}

/// Calls `look` at every SIGHUP that comes after this returns, for programs that are not async.
///
/// The thread is not joined, as above.
pub fn on_hangup(look: impl Fn() + Send + 'static) -> std::io::Result<()> {
    let mut hangups = Signals::new([SIGHUP])?;
    std::thread::Builder::new().name("hangups".to_owned()).spawn(move || {
        for _ in hangups.forever() {
            look();
        }
    })?;
    Ok(())
}
