//! Threads and processes that let those go first that answer what is small, and where and when these compute.

use std::time::Duration;

/// Processors, to which threads can be kept.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processors(rustix::thread::CpuSet);

/// Processors, to which threads can be kept: none are told here.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processors {}

#[cfg(target_os = "linux")]
impl Processors {
    /// Those that this thread may use, where the system says which.
    pub(crate) fn allowed() -> Option<Self> {
        rustix::thread::sched_getaffinity(None).ok().map(Self)
    }

    /// Each of them by itself.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        use rustix::thread::CpuSet;
        let alone = |processor| {
            let mut set = CpuSet::new();
            set.set(processor);
            Self(set)
        };
        (0..CpuSet::MAX_CPU).filter(|processor| self.0.is_set(*processor)).map(alone)
    }

    /// Keeps this thread to them, and what it starts.
    pub(crate) fn keep(&self) {
        if let Err(error) = rustix::thread::sched_setaffinity(None, &self.0) {
            tracing::debug!(%error, "a thread keeps its processors");
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Processors {
    pub(crate) fn allowed() -> Option<Self> {
        None
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        std::iter::empty()
    }

    pub(crate) fn keep(&self) {}
}

/// How long a thread has waited for a processor in all, and how often it has been given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waits {
    pub total: Duration,
    pub turns: u32,
}

impl Waits {
    /// This thread's so far, where the kernel says.
    pub(crate) fn so_far() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    /// The nanoseconds that a thread has computed, those that it has waited, and its turns.
    fn parse(schedstat: &str) -> Option<Self> {
        let mut fields = schedstat.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
        let (waited_ns, turns) = (fields.next()?.ok()?, fields.next()?.ok()?);
        // A thread that runs for years may have had more turns; only differences matter.
        Some(Self { total: Duration::from_nanos(waited_ns), turns: turns as u32 })
    }
}

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

/// Has this thread take short turns, and says what becomes of who computes where it is woken. With `patience`, the other goes on
/// for about as long, unless it sleeps before or only takes what is left. Without, it is interrupted, also where it has the same
/// priority, and the kernel does not let it finish its own turn of up to 3 ms; before Linux 6.12 it may.
pub(crate) fn take_short_turns(patience: Option<Duration>) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// How long a turn is without patience. With it, it is as long as that: the kernel lets go on who computes for as long as
        /// the shortest turn is of those that wait.
        const TURN: Duration = Duration::from_micros(100);
        let policy = if patience.is_some() { libc::SCHED_BATCH } else { libc::SCHED_OTHER };
        let niceness = rustix::process::getpriority_process(None).unwrap_or_default();
        let attributes = libc::sched_attr {
            size: size_of::<libc::sched_attr>() as u32,
            sched_policy: policy as u32,
            sched_flags: 0,
            sched_nice: niceness,
            sched_priority: 0,
            sched_runtime: patience.unwrap_or(TURN).as_nanos() as u64,
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

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_thread_knows_how_long_it_has_waited() {
        let waits = Waits::parse("2153 7000000 12\n");
        assert_eq!(waits, Some(Waits { total: Duration::from_millis(7), turns: 12 }));
        assert_eq!(Waits::parse(""), None);
        assert_eq!(Waits::parse("1 2 many"), None);
    }

    #[test]
    fn the_processors_of_a_thread_are_told_one_by_one() {
        let allowed = Processors::allowed().unwrap();
        let each: Vec<_> = allowed.each().collect();
        // Not by the standard library, which counts fewer where a container has a quota.
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap();
        let count: u32 = mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum();
        assert_eq!(each.len(), count as usize);
        let last = *each.last().unwrap();
        std::thread::spawn(move || {
            last.keep();
            assert_eq!(Processors::allowed(), Some(last));
            allowed.keep();
            assert_eq!(Processors::allowed(), Some(allowed));
        })
        .join()
        .unwrap();
    }
}
