//! Threads and processes that let those go first that answer what is small.

/// A third of the processor time that a thread of usual priority gets beside it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Lets the other threads of this process go before this one, where both want a processor. What this thread starts inherits it.
pub(crate) fn step_back() {
    // Elsewhere it would be the whole process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// Lets this thread, and what it starts, compute only when no other thread wants the processor.
///
/// Niceness does not do that: a thread that is woken waits until the one at hand has used its turn of some milliseconds up.
pub(crate) fn take_what_is_left() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
        use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
            tracing::debug!(?error, "a thread keeps its share of the processors");
        }
    }
}
