//! Threads and processes that let those go first that answer what is small.

/// Lets the other threads of this process go before this one, where both want a processor: it gets a third of what a thread of
/// usual priority gets. What this thread starts inherits it.
pub(crate) fn step_back() {
    set_niceness(5);
}

/// The same, with a sixtieth: what is short and must end, whoever else computes. What this thread starts can have no more.
pub(crate) fn go_last() {
    set_niceness(19);
}

fn set_niceness(niceness: i32) {
    // Elsewhere it would be the whole process's.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::debug!(%error, niceness, "a thread keeps its priority");
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
