//! How many trials may run at once, and how much memory each may take, so that all of them and the server together stay
//! below the limit of their container.
//!
//! The kernel ends a whole container that goes beyond its limit, the server too, so a trial must fail before. Knows the
//! control groups of Linux, of both versions, and this process's own memory; where there is no limit, or none that can be
//! read, a trial gets what no sensible model needs. Read by hand: it is two files. Does not know what a trial does.

use std::path::Path;

/// The most trials at once. More than there are processors may be: one that hangs only waits.
pub(super) const AT_ONCE_MAX: usize = 4;
/// The most memory that a trial gets, whatever there is.
const TRIAL_BYTES_MAX: u64 = 4 << 30;
/// The memory below which a trial is rather alone than with others: five times what ONNX Runtime and a small model take.
const TRIAL_BYTES_WANTED: u64 = 256 << 20;
/// The part of a limit that is left for what no process's own memory shows, such as sockets and page tables.
const RESERVE_DIVISOR: u64 = 16;

/// What trials get of the memory that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// How many may run at once.
    pub at_once: usize,
    /// What each of them may take.
    pub bytes: u64,
}

impl Share {
    /// What there is now: the server's own memory changes with its models.
    pub(super) fn now() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::of(limit(Path::new("/sys/fs/cgroup"), &groups), own_bytes(&status))
    }

    fn of(limit_bytes: Option<u64>, own_bytes: u64) -> Self {
        let Some(limit_bytes) = limit_bytes else {
            return Self { at_once: AT_ONCE_MAX, bytes: TRIAL_BYTES_MAX };
        };
        let left = limit_bytes.saturating_sub(limit_bytes / RESERVE_DIVISOR).saturating_sub(own_bytes);
        let at_once = (left / TRIAL_BYTES_WANTED).clamp(1, AT_ONCE_MAX as u64);
        Self { at_once: at_once as usize, bytes: (left / at_once).min(TRIAL_BYTES_MAX) }
    }
}

/// The memory of a process that nothing but itself can give back, by its `/proc/<id>/status`.
fn own_bytes(status: &str) -> u64 {
    let kb =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kb.unwrap_or(0) * 1024
}

/// The tightest limit of the control groups that `groups`, a `/proc/<id>/cgroup`, names, and of those around them. In a
/// container `root` is its own group, whatever the name is by which the machine knows it.
fn limit(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let around = Path::new(group.trim_start_matches('/')).ancestors();
        // `max` is no number, and stands for no limit.
        around.filter_map(|group| std::fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse().ok()).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn trials_and_the_server_together_stay_below_the_limit() {
        assert_eq!(Share::of(None, 100 * MIB), Share { at_once: 4, bytes: 4096 * MIB });
        assert_eq!(Share::of(Some(1024 * MIB), 60 * MIB), Share { at_once: 3, bytes: 300 * MIB });
        assert_eq!(Share::of(Some(256 * MIB), 40 * MIB), Share { at_once: 1, bytes: 200 * MIB });
        assert_eq!(Share::of(Some(64 * MIB), 70 * MIB), Share { at_once: 1, bytes: 0 });
        assert_eq!(Share::of(Some(64 << 30), 0), Share { at_once: 4, bytes: 4096 * MIB });
        // What version 1 says where nothing is limited.
        assert_eq!(Share::of(Some(0x7fff_ffff_ffff_f000), 0), Share { at_once: 4, bytes: 4096 * MIB });
        for limit in (1..100).map(|step| step * 97 * MIB) {
            let Share { at_once, bytes } = Share::of(Some(limit), 50 * MIB);
            assert!(at_once as u64 * bytes + 50 * MIB <= limit.max(50 * MIB), "{limit}: {at_once} of {bytes}");
        }
    }

    #[test]
    fn the_tightest_limit_around_a_process_counts_in_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(limit(dir.path(), "0::/\n"), None);
        // A container sees its own group as the root.
        write("memory.max", "1073741824\n");
        assert_eq!(limit(dir.path(), "0::/\n"), Some(1 << 30));
        assert_eq!(limit(dir.path(), "0::/kubepods/pod1/unknown\n"), Some(1 << 30));
        write("memory.max", "max\n");
        assert_eq!(limit(dir.path(), "0::/\n"), None);
        write("kubepods/memory.max", "5000\n");
        write("kubepods/pod1/memory.max", "3000\n");
        write("kubepods/pod1/server/memory.max", "max\n");
        assert_eq!(limit(dir.path(), "0::/kubepods/pod1/server\n"), Some(3000));
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/1/memory.limit_in_bytes", "2000\n");
        let groups = "12:cpu,cpuacct:/docker/1\n11:memory:/docker/1\n0::/docker/1\n";
        assert_eq!(limit(dir.path(), groups), Some(2000));
        assert_eq!(limit(dir.path(), "nonsense\n1:memory\n"), None);
    }

    #[test]
    fn what_a_process_holds_is_read_from_its_status() {
        assert_eq!(own_bytes("VmRSS:\t  999 kB\nRssAnon:\t    2128 kB\n"), 2128 * 1024);
        assert_eq!(own_bytes("RssAnon:\tmany\n"), 0);
        #[cfg(target_os = "linux")]
        assert!(own_bytes(&std::fs::read_to_string("/proc/self/status").unwrap()) > 0);
    }
}
