//! What a process and its descendants cost, as the kernel tells it.

use std::collections::BTreeMap;
use std::fs;

use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};

/// A process and all its descendants, by their ids.
pub fn family(id: u32) -> Vec<u32> {
    let parent_of = |id: u32| stat(&id.to_string())?.get(1)?.parse::<u32>().ok();
    let ids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: BTreeMap<u32, u32> = ids.filter_map(|child| Some((child, parent_of(child)?))).collect();
    let mut family = vec![id];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(child, _)| *child));
        next += 1;
    }
    family
}

/// The processor time that processes have used, in seconds; those that have ended meanwhile count nothing.
pub fn cpu_seconds(ids: &[u32]) -> f64 {
    ids.iter().filter_map(|id| Some(seconds(&stat(&id.to_string())?[11..13]))).sum()
}

/// The processor time of this process's children that have ended.
pub fn ended_children_seconds() -> f64 {
    seconds(&stat("self").expect("this process is there")[13..15])
}

/// What the kernel says of a process, from its state on; none where there is no such process.
fn stat(id: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold anything, and ends with the last bracket.
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// The sum of times. The kernel tells user programs hundredths of a second, whatever its own clock does.
fn seconds(ticks: &[String]) -> f64 {
    ticks.iter().map(|field| field.parse::<u64>().unwrap()).sum::<u64>() as f64 / 100.0
}

/// The same to the nanosecond, without the threads that have ended.
pub fn thread_seconds(id: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).unwrap().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// The memory of processes in MiB, what they share counted once.
pub fn memory_mib(ids: &[u32]) -> f64 {
    let of = |id: &u32| {
        let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    ids.iter().filter_map(of).sum::<f64>() / 1024.0
}

/// This process, the load generator, on the first processor, and servers on the last; until dropped for the load generator.
///
/// Where they share processors, the time of an answer is that of waiting for the other, and what a server cannot do is what
/// the load generator does.
pub struct Apart {
    last: usize,
}

impl Apart {
    /// With `servers`, by their processes' ids.
    pub fn keep(servers: impl IntoIterator<Item = u32>) -> Self {
        let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
        keep_to(std::process::id(), [0]);
        let this = Self { last };
        servers.into_iter().for_each(|id| this.add(id));
        this
    }

    /// And one more server.
    pub fn add(&self, server: u32) {
        keep_to(server, [self.last]);
    }

    /// And this thread beside the servers.
    pub fn add_thread(&self) {
        sched_setaffinity(None, &processors([self.last])).unwrap();
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        keep_to(std::process::id(), 0..=self.last);
    }
}

/// Keeps a process, with all the threads that it has and will have, to some processors.
fn keep_to(id: u32, of: impl IntoIterator<Item = usize>) {
    let processors = processors(of);
    for task in fs::read_dir(format!("/proc/{id}/task")).unwrap().flatten() {
        let thread = task.file_name().to_str().and_then(|id| Pid::from_raw(id.parse().ok()?));
        match sched_setaffinity(thread, &processors) {
            // It has ended meanwhile.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("cannot keep {id} to its processors: {error}"),
        }
    }
}

fn processors(of: impl IntoIterator<Item = usize>) -> CpuSet {
    let mut processors = CpuSet::new();
    of.into_iter().for_each(|processor| processors.set(processor));
    processors
}

/// Lets this thread run only when no other one wants the processor.
pub fn take_what_is_left() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy).unwrap();
}
