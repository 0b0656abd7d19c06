//! The two signals that mean: finish what is at hand, and end.

use signal_hook::consts::{SIGINT, SIGTERM};
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
