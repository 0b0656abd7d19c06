//! Runs a part of this test's own program one system call at a time, and can end it, or refuse a call, at any of them.
//!
//! Needs nothing but ptrace(2), which every process may use on its own children. Knows system calls and how they fail;
//! does not know what a store is.

use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};

/// Names the store to the child; its absence makes the tests that are children pass at once.
const STORE: &str = "MAINSTAY_TEST_TRACED_STORE";
const FORBIDDEN: &str = "this test needs ptrace(2) on its own child: a seccomp profile, or kernel.yama.ptrace_scope=3, \
                         seems to forbid it; allow it, for example with `--cap-add=SYS_PTRACE`";

/// The store that this process is the traced child for; none in a test that was not started by [`Tracee::start`].
pub fn traced_store() -> Option<PathBuf> {
    std::env::var_os(STORE).map(PathBuf::from)
}

/// Called by the child: everything after this, in this thread, is stopped at.
pub fn begin() {
    // The one that runs a test is not the process's first thread.
    eprintln!("thread {}", gettid());
    ptrace::traceme().expect(FORBIDDEN);
    raise(Signal::SIGSTOP).unwrap();
}

/// Called by the child: a call that the tracer can tell from all others, since nothing else makes it.
pub fn mark() {
    let _ = nix::unistd::getppid();
}

/// A child that stands still between two system calls.
pub struct Tracee {
    child: Child,
    thread: Pid,
}

/// What a child came to.
pub enum Stop {
    /// A system call that has not been done.
    Entry(Call),
    /// Its own end, with this exit code.
    End(i32),
}

/// A system call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub kind: Kind,
    pub number: i64,
    arguments: [u64; 5],
}

/// What a system call is for, as far as files are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Open,
    Close,
    Read,
    Write,
    Sync,
    Rename,
    Link,
    Symlink,
    Unlink,
    MakeDir,
    List,
    Stat,
    ReadLink,
    Mode,
    Lock,
    Mark,
    Other,
}

impl Tracee {
    /// Starts this program again, as the test `name` with a `store`, and lets it run to its call of [`begin`].
    pub fn start(name: &str, store: &Path) -> Self {
        Self::start_with(name, store, Stdio::null())
    }

    /// The same, with something to read.
    pub fn start_with(name: &str, store: &Path, stdin: Stdio) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(STORE, store)
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let complaints = BufReader::new(child.stderr.take().unwrap());
        let line = complaints.lines().map_while(Result::ok).find_map(|line| line.strip_prefix("thread ")?.parse().ok());
        let thread = Pid::from_raw(line.expect("the child says which thread is to be traced"));
        // Until the child has asked to be traced there is nothing to wait for, so its first answer may be an error.
        let stop = loop {
            match waitpid(thread, Some(WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) if child.try_wait().unwrap().is_none() => std::thread::yield_now(),
                stop => break stop,
            }
        };
        assert!(matches!(stop, Ok(WaitStatus::Stopped(_, Signal::SIGSTOP))), "{FORBIDDEN} ({stop:?})");
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(thread, options).expect(FORBIDDEN);
        Self { child, thread }
    }

    /// Lets it run to its next system call, which is not done yet.
    pub fn entry(&mut self) -> Stop {
        match self.go_on() {
            Ok(()) => Stop::Entry(self.call()),
            Err(code) => Stop::End(code),
        }
    }

    /// Lets the system call be done, and returns its result; none if it was the end.
    pub fn exit(&mut self) -> Option<i64> {
        self.go_on().ok().map(|()| registers::result(self.thread))
    }

    /// Keeps the system call at whose entry it stands from being done, and makes it fail with `errno`.
    pub fn refuse(&mut self, errno: Errno) {
        registers::skip(self.thread);
        assert!(self.go_on().is_ok());
        registers::set_result(self.thread, -(errno as i64));
    }

    /// Ends it where it stands, with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        let ended = waitpid(self.thread, Some(WaitPidFlag::__WALL));
        assert!(matches!(ended, Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _))), "{ended:?}");
        self.child.wait().unwrap();
    }

    /// The path that an argument of a call points to.
    pub fn path(&self, call: &Call, argument: usize) -> PathBuf {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.thread)).unwrap();
        let mut bytes = vec![0; 4096];
        // Shorter where the memory ends before that.
        let length = memory.read_at(&mut bytes, call.arguments[argument]).unwrap();
        let end = bytes[..length].iter().position(|byte| *byte == 0).expect("a path ends");
        let text = CString::new(&bytes[..end]).unwrap();
        std::ffi::OsString::from_vec(text.into_bytes()).into()
    }

    /// Runs to the next entry or exit of a system call, or to the end, of which it gives the exit code.
    fn go_on(&mut self) -> Result<(), i32> {
        let mut signal = None;
        loop {
            ptrace::syscall(self.thread, signal.take()).unwrap();
            match waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::PtraceSyscall(_) => return Ok(()),
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::Exited(_, code) => {
                    self.child.wait().unwrap();
                    return Err(code);
                }
                other => panic!("the child came to {other:?}"),
            }
        }
    }

    fn call(&self) -> Call {
        let (number, arguments) = registers::call(self.thread);
        Call { kind: kind(number), number, arguments }
    }
}

impl Call {
    /// The file descriptor that is its first argument.
    pub fn descriptor(&self) -> i32 {
        self.arguments[0] as i32
    }

    /// Whether an open makes a file that must not have been there.
    pub fn creates(&self) -> bool {
        let flags = if cfg!(target_arch = "x86_64") && self.number == OPEN { 1 } else { 2 };
        self.kind == Kind::Open && self.arguments[flags] & libc::O_CREAT as u64 != 0
    }

    /// Where its paths stand among its arguments.
    pub fn paths(&self) -> &'static [usize] {
        let (plain, at) = match self.kind {
            Kind::Open | Kind::Unlink | Kind::MakeDir | Kind::ReadLink => (&[0][..], &[1][..]),
            Kind::Rename | Kind::Link => (&[0, 1][..], &[1, 3][..]),
            Kind::Symlink => (&[0, 1][..], &[0, 2][..]),
            _ => (&[][..], &[][..]),
        };
        if PLAIN.contains(&self.number) { plain } else { at }
    }

    /// The ways in which a disk, or the limits of a process, make such a call fail.
    pub fn faults(&self) -> &'static [Errno] {
        use Errno::{EDQUOT, EIO, EMFILE, ENOLCK, ENOSPC, EROFS};
        match self.kind {
            Kind::Open if self.creates() => &[EMFILE, ENOSPC, EDQUOT, EROFS, EIO],
            Kind::Open => &[EMFILE, EIO],
            // No inode left is ENOSPC too.
            Kind::Rename | Kind::Link | Kind::Symlink | Kind::MakeDir => &[ENOSPC, EDQUOT, EROFS, EIO],
            Kind::Write | Kind::Sync => &[ENOSPC, EDQUOT, EIO],
            Kind::Unlink | Kind::Mode => &[EROFS, EIO],
            Kind::Read | Kind::List | Kind::Stat | Kind::ReadLink => &[EIO],
            Kind::Lock => &[ENOLCK, EIO],
            Kind::Close | Kind::Mark | Kind::Other => &[],
        }
    }
}

#[cfg(target_arch = "x86_64")]
const OPEN: i64 = libc::SYS_open;
#[cfg(not(target_arch = "x86_64"))]
const OPEN: i64 = -1;

/// The calls that take paths from the working folder; newer machines have only those that name a folder first.
#[cfg(target_arch = "x86_64")]
const PLAIN: &[i64] = &[
    libc::SYS_open,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
];
#[cfg(not(target_arch = "x86_64"))]
const PLAIN: &[i64] = &[];

fn kind(number: i64) -> Kind {
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_open => return Kind::Open,
        libc::SYS_unlink => return Kind::Unlink,
        libc::SYS_mkdir => return Kind::MakeDir,
        libc::SYS_readlink => return Kind::ReadLink,
        libc::SYS_rename => return Kind::Rename,
        libc::SYS_link => return Kind::Link,
        libc::SYS_symlink => return Kind::Symlink,
        libc::SYS_stat | libc::SYS_lstat => return Kind::Stat,
        libc::SYS_chmod => return Kind::Mode,
        _ => {}
    }
    match number {
        libc::SYS_openat => Kind::Open,
        libc::SYS_close => Kind::Close,
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv => Kind::Read,
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_ftruncate | libc::SYS_copy_file_range => {
            Kind::Write
        }
        libc::SYS_fsync | libc::SYS_fdatasync => Kind::Sync,
        libc::SYS_renameat | libc::SYS_renameat2 => Kind::Rename,
        libc::SYS_linkat => Kind::Link,
        libc::SYS_symlinkat => Kind::Symlink,
        libc::SYS_unlinkat => Kind::Unlink,
        libc::SYS_mkdirat => Kind::MakeDir,
        libc::SYS_getdents64 => Kind::List,
        libc::SYS_statx | libc::SYS_fstat | libc::SYS_newfstatat => Kind::Stat,
        libc::SYS_readlinkat => Kind::ReadLink,
        libc::SYS_fchmod | libc::SYS_fchmodat => Kind::Mode,
        libc::SYS_flock => Kind::Lock,
        libc::SYS_getppid => Kind::Mark,
        _ => Kind::Other,
    }
}

/// Where a processor keeps the number, the arguments and the result of a system call.
#[cfg(target_arch = "x86_64")]
mod registers {
    use nix::sys::ptrace::{getregs, setregs};
    use nix::unistd::Pid;

    pub fn call(thread: Pid) -> (i64, [u64; 5]) {
        let registers = getregs(thread).unwrap();
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8];
        (registers.orig_rax as i64, arguments)
    }

    pub fn result(thread: Pid) -> i64 {
        getregs(thread).unwrap().rax as i64
    }

    pub fn set_result(thread: Pid, result: i64) {
        let mut registers = getregs(thread).unwrap();
        registers.rax = result as u64;
        setregs(thread, registers).unwrap();
    }

    pub fn skip(thread: Pid) {
        let mut registers = getregs(thread).unwrap();
        registers.orig_rax = u64::MAX;
        setregs(thread, registers).unwrap();
    }
}

/// Where a processor keeps the number, the arguments and the result of a system call.
#[cfg(target_arch = "aarch64")]
mod registers {
    use nix::errno::Errno;
    use nix::libc;
    use nix::sys::ptrace::{getregs, setregs};
    use nix::unistd::Pid;

    /// `NT_ARM_SYSTEM_CALL` of linux/elf.h: the number as the kernel will look at it, which x8 no longer is.
    const SYSTEM_CALL: usize = 0x404;

    pub fn call(thread: Pid) -> (i64, [u64; 5]) {
        let r = getregs(thread).unwrap().regs;
        (r[8] as i64, [r[0], r[1], r[2], r[3], r[4]])
    }

    pub fn result(thread: Pid) -> i64 {
        getregs(thread).unwrap().regs[0] as i64
    }

    pub fn set_result(thread: Pid, result: i64) {
        let mut registers = getregs(thread).unwrap();
        registers.regs[0] = result as u64;
        setregs(thread, registers).unwrap();
    }

    #[allow(unsafe_code, reason = "nix has no name for this set of registers")]
    pub fn skip(thread: Pid) {
        let mut none: libc::c_int = -1;
        let mut set = libc::iovec { iov_base: (&raw mut none).cast(), iov_len: size_of_val(&none) };
        // SAFETY: the kernel reads one c_int through `set`, and both outlive the call.
        let done = unsafe {
            libc::ptrace(libc::PTRACE_SETREGSET, thread.as_raw(), SYSTEM_CALL as *mut libc::c_void, &raw mut set)
        };
        Errno::result(done).unwrap();
    }
}
