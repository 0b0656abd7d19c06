//! Threads that let those go first that answer what is small.

/// A third of the processor time that a thread of usual priority gets beside it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Lets the other threads of this process go before this one, where both want a processor. What this thread starts inherits it.
pub(crate) fn step_back() {
    // Elsewhere the priority would be the whole process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}
