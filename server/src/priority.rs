//! Threads and processes that let those go first that answer what is small.

/// Lets the other threads of this process go before this one, where both want a processor: it gets a third of what a thread of
/// usual priority gets. What this thread starts inherits it.
pub(crate) fn step_back() {
    set_niceness(5);
}

/// The same, with a tenth.
pub(crate) fn step_far_back() {
    set_niceness(10);
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
        give_way();
    }
}

/// Lets those go on first that wait for the processor at this moment.
///
/// A thread that has slept has turns to its credit, and who is woken together with it and has not waits until it sleeps again or
/// the next tick of the kernel comes, 1 to 4 ms later, whatever their priorities. This gives them up.
pub(crate) fn give_way() {
    std::thread::yield_now();
}

/// Lets this thread go on as soon as it is woken, where another one of the same priority computes: for the turn of a tenth of a
/// millisecond that it asks for, the kernel does not let the other finish its own of up to 3 ms. Before Linux 6.12 this
/// changes nothing.
pub(crate) fn take_short_turns() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TURN_NS: u64 = 100_000;
        let niceness = rustix::process::getpriority_process(None).unwrap_or_default();
        let attributes = libc::sched_attr {
            size: size_of::<libc::sched_attr>() as u32,
            sched_policy: libc::SCHED_OTHER as u32,
            sched_flags: 0,
            sched_nice: niceness,
            sched_priority: 0,
            sched_runtime: TURN_NS,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: the kernel reads as many bytes as `size` says, and this thread is 0.
        #[allow(unsafe_code)]
        let outcome = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        if outcome != 0 {
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, "a thread keeps the turns that all have");
        }
    }
}
