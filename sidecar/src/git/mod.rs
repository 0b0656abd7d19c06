//! Asks a git repository, through a child process that can be killed.
//!
//! libgit2 blocks, and a call into it that hangs cannot be cut short from inside. So it lives in a [`worker`],
//! a child process of the same program: every question has a deadline, and a worker that misses one, dies or
//! answers nonsense is killed, and started anew for the next question. Nothing is tried twice here.
//!
//! Does not know what the files mean.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mainstay_models::{Commit, CommitId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::Control;

mod address;
mod frame;
pub mod github;
mod signed;
mod tags;
pub mod worker;

pub use address::{Address, AddressError, Reference, ReferenceError, Transport};
pub use frame::{Advertised, Failure, Fetched, History, Lineage, Relation};
use frame::{Job, Reply, Request};
pub use signed::Signed;

/// How often a running question looks whether the end was asked for.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// What says through which proxy https goes, the first in front; it may hold a password.
const PROXY_VARIABLES: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
/// How much of what a worker complains about is kept.
const COMPLAINT_BYTES_MAX: usize = 2 << 10;

/// What git needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program that runs [`worker::run`] when it is started with `worker_arguments`.
    pub program: PathBuf,
    /// What to start it with.
    pub worker_arguments: Vec<String>,
    /// A folder for the worker alone; it is made where there is none, and nothing in it is precious.
    pub folder: PathBuf,
    /// The folder of another worker of the same repository, whose mirror's objects need not be fetched again. It is read
    /// and never written to.
    pub lender: Option<PathBuf>,
    /// The repository.
    pub address: Address,
    /// Whether the repository is a folder that is read where it lies, and never written to, instead of a mirror of it. What
    /// is followed is then the commit that is checked out there.
    pub in_place: bool,
    /// What is followed.
    pub reference: Reference,
    /// How to be let in.
    pub credentials: Credentials,
    /// How long a fetch may take.
    pub fetch_deadline: Duration,
    /// How long any other question may take.
    pub request_deadline: Duration,
    /// The most bytes that one fetch may bring.
    pub transfer_bytes_max: u64,
    /// How long a fetch that has begun to bring something may go without [`Settings::pace_bytes`] having come.
    pub pace: Duration,
    /// See [`Settings::pace`].
    pub pace_bytes: u64,
}

/// The files that hold what lets us in. They are read by the worker, anew each time it is asked for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// For https: a file with a token, or NAME:TOKEN.
    pub token_file: Option<PathBuf>,
    /// For ssh: a file with a private key that has no passphrase.
    pub ssh_key_file: Option<PathBuf>,
    /// For ssh: a file with the keys of the hosts that may be talked to.
    pub known_hosts_file: Option<PathBuf>,
    /// For https: the GitHub App that lets us in, instead of a token's file.
    pub github_app: Option<github::App>,
}

/// Why git could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was asked, and said no.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// There is no token to ask with.
    #[error(transparent)]
    App(#[from] github::AppError),
    /// The worker could not be started.
    #[error("cannot start the git worker {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The worker took too long and was killed.
    #[error("cannot {what} within {} s: the git worker was killed", deadline.as_secs_f64())]
    Deadline {
        /// What was attempted.
        what: &'static str,
        /// How long it was given.
        deadline: Duration,
    },
    /// The worker died.
    #[error("cannot {what}: the git worker died ({status}){}{complaint}", if complaint.is_empty() { "" } else { ": " })]
    Died {
        /// What was attempted.
        what: &'static str,
        /// How it died.
        status: ExitStatus,
        /// The end of what it wrote to its standard error.
        complaint: String,
    },
    /// The end was asked for, or something that does not wait for git.
    #[error("cannot {what}: cut short by an operator")]
    Stopping {
        /// What was attempted.
        what: &'static str,
    },
    /// The worker did not answer what was asked, and was killed.
    #[error("cannot {what}: the git worker answered out of turn and was killed")]
    Garbled {
        /// What was attempted.
        what: &'static str,
    },
}

/// A repository, as its worker sees it. Dropping it kills the worker.
#[derive(Debug)]
pub struct Git {
    settings: Settings,
    control: Control,
    worker: Option<Worker>,
    started: u64,
    spent: Spent,
    /// Of the GitHub App, where that lets us in.
    token: Option<github::Token>,
}

/// The processor time of workers, as of the last question about it.
#[derive(Debug, Default)]
struct Spent {
    /// The last worker.
    worker: Option<u32>,
    by_it: Duration,
    all: Duration,
}

impl Git {
    /// Nothing is started before the first question.
    pub fn new(settings: Settings, control: Control) -> Self {
        Self { settings, control, worker: None, started: 0, spent: Spent::default(), token: None }
    }

    /// How often a worker was started.
    pub fn workers_started(&self) -> u64 {
        self.started
    }

    /// The process id of the worker, where one is running.
    pub fn worker_id(&self) -> Option<u32> {
        self.worker.as_ref().map(|worker| worker.child.id())
    }

    /// The processor time that workers have used, as far as the kernel says; what one used between the last question and
    /// its end is missing.
    pub fn cpu_time(&mut self) -> Duration {
        let Some(id) = self.worker_id() else { return self.spent.all };
        // In nanoseconds, unlike /proc/<id>/stat.
        let text = std::fs::read_to_string(format!("/proc/{id}/schedstat")).unwrap_or_default();
        let ns = text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        let now = Duration::from_nanos(ns);
        let before = if self.spent.worker == Some(id) { self.spent.by_it } else { Duration::ZERO };
        self.spent = Spent { worker: Some(id), by_it: now, all: self.spent.all + now.saturating_sub(before) };
        self.spent.all
    }

    /// What the remote advertises: one list of references, no fetch.
    pub fn advertised(&mut self) -> Result<Advertised, Error> {
        let what = "ask the remote for its newest commit";
        match self.ask(what, Request::Advertise, self.settings.request_deadline, 0)? {
            (Reply::Advertised(advertised), _) => Ok(advertised),
            _ => Err(self.garbled(what)),
        }
    }

    /// Fetches what the remote advertises.
    pub fn fetch(&mut self) -> Result<Fetched, Error> {
        let what = "fetch from the remote";
        match self.ask(what, Request::Fetch, self.settings.fetch_deadline, 0)? {
            (Reply::Fetched(fetched), _) => Ok(fetched),
            _ => Err(self.garbled(what)),
        }
    }

    /// What a fetched commit says about itself.
    pub fn describe(&mut self, commit: &CommitId) -> Result<Commit, Error> {
        let what = "read a commit";
        let request = Request::Describe { commit: commit.clone() };
        match self.ask(what, request, self.settings.request_deadline, 0)? {
            (Reply::Described(commit), _) => Ok(commit),
            _ => Err(self.garbled(what)),
        }
    }

    /// The content of a regular file in a fetched commit. Its size is known before it is read.
    pub fn read(&mut self, commit: &CommitId, path: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let what = "read a file of a commit";
        let request = Request::Read { commit: commit.clone(), path: path.to_owned(), bytes_max };
        match self.ask(what, request, self.settings.request_deadline, bytes_max)? {
            (Reply::Blob { .. }, body) => Ok(body),
            _ => Err(self.garbled(what)),
        }
    }

    /// A fetched commit, taken apart into what is signed and the signature; `None` where it is not well formed.
    pub fn signed(&mut self, commit: &CommitId, bytes_max: u64) -> Result<Option<Signed>, Error> {
        let what = "read a commit's signature";
        let request = Request::CommitObject { commit: commit.clone(), bytes_max };
        match self.ask(what, request, self.settings.request_deadline, bytes_max)? {
            (Reply::Blob { .. }, body) => Ok(Signed::parse(&body)),
            _ => Err(self.garbled(what)),
        }
    }

    /// The object id of each entry of a folder at the top of a fetched commit; none where there is no such folder.
    pub fn folder(
        &mut self,
        commit: &CommitId,
        name: &str,
        entries_max: usize,
    ) -> Result<BTreeMap<String, String>, Error> {
        let what = "read a folder of a commit";
        let request = Request::Folder { commit: commit.clone(), name: name.to_owned(), entries_max };
        match self.ask(what, request, self.settings.request_deadline, 0)? {
            (Reply::Folder(entries), _) => Ok(entries),
            _ => Err(self.garbled(what)),
        }
    }

    /// How a fetched commit stands to an earlier one, and at most `commits_max` of the commits in between.
    pub fn lineage(&mut self, commit: &CommitId, earlier: &CommitId, commits_max: usize) -> Result<Lineage, Error> {
        let what = "read where a commit comes from";
        let request = Request::Lineage { commit: commit.clone(), earlier: earlier.clone(), commits_max };
        match self.ask(what, request, self.settings.request_deadline, 0)? {
            (Reply::Lineage(lineage), _) => Ok(lineage),
            _ => Err(self.garbled(what)),
        }
    }

    /// The commits that changed any of some files and folders, by first parents from a fetched commit.
    pub fn history(
        &mut self,
        commit: &CommitId,
        paths: Vec<String>,
        commits_max: usize,
        entries_max: usize,
    ) -> Result<History, Error> {
        let what = "read the history of files";
        let request = Request::History { commit: commit.clone(), paths, commits_max, entries_max };
        match self.ask(what, request, self.settings.request_deadline, 0)? {
            (Reply::History(history), _) => Ok(history),
            _ => Err(self.garbled(what)),
        }
    }

    fn ask(
        &mut self,
        what: &'static str,
        request: Request,
        deadline: Duration,
        body_bytes_max: u64,
    ) -> Result<(Reply, Vec<u8>), Error> {
        let token = self.token_for(&request)?;
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start()?,
        };
        let job = Job {
            home: self.settings.folder.clone(),
            lender: self.settings.lender.clone(),
            address: self.settings.address.clone(),
            in_place: self.settings.in_place,
            reference: self.settings.reference.clone(),
            credentials: self.settings.credentials.clone(),
            token,
            transfer_bytes_max: self.settings.transfer_bytes_max,
            pace: self.settings.pace,
            pace_bytes: self.settings.pace_bytes,
            request,
        };
        match worker.exchange(&job, Instant::now() + deadline, body_bytes_max, &self.control) {
            // It cannot be told to stop waiting, so it is not kept.
            Ok((Reply::Failed(failure @ Failure::Slow { .. }), _)) => Err(failure.into()),
            Ok((Reply::Failed(failure), _)) => {
                self.worker = Some(worker);
                // Whatever was wrong, a token that may have been taken back is not offered again.
                self.token.take_if(|token| token.may_be_revoked());
                Err(failure.into())
            }
            Ok(answer) => {
                self.worker = Some(worker);
                Ok(answer)
            }
            Err(Cut::Deadline) => Err(Error::Deadline { what, deadline }),
            Err(Cut::Stopping) => Err(Error::Stopping { what }),
            Err(Cut::Garbled) => Err(Error::Garbled { what }),
            Err(Cut::Died) => {
                let (status, complaint) = worker.bury();
                Err(Error::Died { what, status, complaint })
            }
        }
    }

    /// The token to ask the remote with, made anew before it grows old; none where files let us in.
    fn token_for(&mut self, request: &Request) -> Result<Option<String>, Error> {
        let Some(app) = &self.settings.credentials.github_app else { return Ok(None) };
        if !matches!(request, Request::Advertise | Request::Fetch) {
            return Ok(None);
        }
        let token = match self.token.take().filter(github::Token::is_fresh) {
            Some(token) => token,
            None => app.token(&self.settings.address)?,
        };
        let text = token.text().to_owned();
        self.token = Some(token);
        Ok(Some(text))
    }

    fn garbled(&mut self, what: &'static str) -> Error {
        self.worker = None;
        Error::Garbled { what }
    }

    fn start(&mut self) -> Result<Worker, Error> {
        let settings = &self.settings;
        let fail = |source| Error::Start { program: settings.program.clone(), source };
        let folder = std::path::absolute(&settings.folder).map_err(fail)?;
        let mut command = Command::new(&settings.program);
        command.args(&settings.worker_arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What is not named here it does not get. HOME is where libgit2 looks for known_hosts.
        command.env_clear().env("HOME", folder);
        // It does one thing at a time and then waits, often for hours: glibc is to give back what a fetch needed.
        command.env("MALLOC_ARENA_MAX", "1").env("MALLOC_TRIM_THRESHOLD_", "131072");
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "no_proxy", "NO_PROXY"].into_iter().chain(PROXY_VARIABLES) {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // Ctrl-C in a terminal goes to a group; ending the worker is this program's business.
        command.process_group(0);
        let mut child = command.spawn().map_err(fail)?;
        self.started += 1;
        Ok(Worker {
            stdin: child.stdin.take().expect("stdin is piped"),
            stdout: child.stdout.take().expect("stdout is piped"),
            stderr: child.stderr.take(),
            complaint: Vec::new(),
            child,
        })
    }
}

/// A running worker. Dropping it kills it.
#[derive(Debug)]
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// None once it ended.
    stderr: Option<ChildStderr>,
    complaint: Vec<u8>,
}

/// Why an exchange did not end with an answer.
enum Cut {
    Deadline,
    Died,
    Stopping,
    Garbled,
}

impl Worker {
    fn exchange(
        &mut self,
        job: &Job,
        deadline: Instant,
        body_bytes_max: u64,
        control: &Control,
    ) -> Result<(Reply, Vec<u8>), Cut> {
        frame::write(&mut self.stdin, job).map_err(|_| Cut::Died)?;
        let mut bytes = |length: usize| self.read(length, deadline, control);
        let length = bytes(4)?;
        let length = u32::from_be_bytes(length.try_into().expect("four bytes were read")) as usize;
        if length > frame::JSON_BYTES_MAX {
            return Err(Cut::Garbled);
        }
        let reply = serde_json::from_slice(&bytes(length)?).map_err(|_| Cut::Garbled)?;
        let body = match reply {
            Reply::Blob { size_bytes } if size_bytes <= body_bytes_max => bytes(size_bytes as usize)?,
            Reply::Blob { .. } => return Err(Cut::Garbled),
            _ => Vec::new(),
        };
        Ok((reply, body))
    }

    /// Reads exactly `length` bytes of the answer, and whatever the worker complains about meanwhile.
    fn read(&mut self, length: usize, deadline: Instant, control: &Control) -> Result<Vec<u8>, Cut> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            if control.cuts_short() {
                return Err(Cut::Stopping);
            }
            let left = deadline.checked_duration_since(Instant::now()).ok_or(Cut::Deadline)?;
            let (answer, complaint) = self.wait(left.min(STOP_CHECK))?;
            if complaint {
                self.listen();
            }
            if answer {
                match self.stdout.read(&mut bytes[filled..]) {
                    Ok(0) => return Err(Cut::Died),
                    Ok(count) => filled += count,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => return Err(Cut::Died),
                }
            }
        }
        Ok(bytes)
    }

    /// Waits until the worker says something, and on which of its outputs it does.
    fn wait(&self, patience: Duration) -> Result<(bool, bool), Cut> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.stdout.as_fd(), PollFlags::IN)];
        fds.extend(self.stderr.as_ref().map(|stderr| PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN)));
        let patience = Timespec::try_from(patience).expect("a tenth of a second fits");
        match poll(&mut fds, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(Cut::Died),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok((ready(0), ready(1)))
    }

    fn listen(&mut self) {
        let mut piece = [0; 512];
        match self.stderr.as_mut().map(|stderr| stderr.read(&mut piece)) {
            Some(Ok(count)) if count > 0 => {
                self.complaint.extend_from_slice(&piece[..count]);
                let excess = self.complaint.len().saturating_sub(COMPLAINT_BYTES_MAX);
                self.complaint.drain(..excess);
            }
            _ => self.stderr = None,
        }
    }

    /// How it died, and the end of what it complained about.
    fn bury(mut self) -> (ExitStatus, String) {
        let _ = self.child.kill();
        let status = self.child.wait().expect("a child of ours can be waited for");
        // It is dead, so this comes to an end.
        while self.stderr.is_some() {
            self.listen();
        }
        let complaint = String::from_utf8_lossy(&self.complaint).replace(char::is_control, " ");
        (status, complaint.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
