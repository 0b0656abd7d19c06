//! The git worker: a child process that owns libgit2, so that a hang, a crash or a leak in it is a killed process.
//!
//! The only place that knows libgit2. Answers one question at a time, keeps nothing between two questions but its
//! folder on disk, never checks anything out, follows no redirect, reads no configuration of the machine or the
//! user, and never asks anybody for anything. It knows no deadline, since its parent kills it; that a fetch comes too
//! slowly it says itself, since nobody else sees what comes.
//!
//! ```text
//! <home>/mirror/             a bare repository; thrown away and fetched anew when it is damaged, and replaced by a
//!                            fresh one when its packs have piled up, since libgit2 cannot repack
//! <home>/mirror.new/         the fresh one, until it is whole
//! <home>/.ssh/known_hosts    a link to the file that was given; libgit2 finds it since HOME is <home>
//! ```

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use git2::{ConfigLevel, Oid};
use mainstay_models::CommitId;
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use self::home::{Home, remove};
use self::objects::{commit_object, describe, find_commit, folder, history, lineage, read};
use self::remote::{advertise, fetch};
use super::frame::{self, Failure, Fetched, Job, Reply, Request};
use crate::footprint;

mod home;
mod objects;
mod remote;

/// The longest silence of a remote. It bounds one read; the parent's deadline bounds the whole.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The most memory that the process may map. A pack is mapped piece by piece and a blob held at most thrice.
const ADDRESS_SPACE_BYTES_MAX: u64 = 3 << 30;
/// How many packs a mirror may have: each fetch that brings something adds one, and each question opens them all.
const PACKS_MAX: usize = 48;
/// The name by which the mirror holds what it fetched last.
const TARGET: &str = "refs/mainstay/target";
/// The longest text taken over from a commit or an error, in characters.
const TEXT_CHARS_MAX: usize = 300;

/// Answers questions from stdin on stdout. When stdin ends, so does the process.
pub fn run() -> ExitCode {
    let limited = limit_process().and_then(|()| limit_library().map_err(|e| e.to_string()));
    if let Err(reason) = limited {
        let _ = writeln!(io::stderr(), "cannot limit the git worker: {reason}");
        return ExitCode::FAILURE;
    }
    // Reading has a thread of its own, which is never joined: when the parent is gone, also by SIGKILL, the process
    // must end at once, whatever libgit2 is waiting for.
    let (sender, jobs) = mpsc::sync_channel::<Job>(1);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        while let Ok(job) = frame::read(&mut stdin) {
            if sender.send(job).is_err() {
                break;
            }
        }
        // Not an exit, whose handlers would meet libgit2 in the middle of something.
        let _ = kill_process(getpid(), Signal::KILL);
    });
    let mut busy = true;
    for job in jobs {
        let was_busy = std::mem::replace(&mut busy, !matches!(job.request, Request::Advertise));
        let (reply, body) = match answer(&job) {
            Ok(Answer::Said(reply)) => (reply, Vec::new()),
            Ok(Answer::Blob(body)) => (Reply::Blob { size_bytes: body.len() as u64 }, body),
            Err(failure) => (Reply::Failed(failure), Vec::new()),
        };
        // Locked for this alone: a fetch that is too slow is told of by another thread.
        let mut stdout = io::stdout().lock();
        let sent =
            frame::write(&mut stdout, &reply).and_then(|()| stdout.write_all(&body)).and_then(|()| stdout.flush());
        if sent.is_err() {
            break;
        }
        drop(stdout);
        // From here on there may be nothing but advertisements for days.
        if was_busy && !busy {
            footprint::give_back();
        }
    }
    ExitCode::SUCCESS
}

fn limit_process() -> Result<(), String> {
    let limit = |resource, most: u64| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|e| format!("{resource:?}: {e}"))
    };
    // No core file: it would hold the credentials.
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, 256)?;
    // Elsewhere the kernel does not enforce it, or refuses it.
    #[cfg(target_os = "linux")]
    limit(Resource::As, ADDRESS_SPACE_BYTES_MAX)?;
    Ok(())
}

#[allow(unsafe_code)]
fn limit_library() -> Result<(), git2::Error> {
    let silence_ms = SILENCE_MAX.as_millis() as i32;
    // SAFETY: these write globals of libgit2 without a lock, and no other thread has been started yet.
    unsafe {
        git2::opts::set_server_connect_timeout_in_milliseconds(silence_ms)?;
        git2::opts::set_server_timeout_in_milliseconds(silence_ms)?;
        git2::opts::set_mwindow_mapped_limit(512 << 20)?;
        git2::opts::set_mwindow_file_limit(64)?;
        git2::opts::set_cache_max_size(4 << 20)?;
        for level in [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData] {
            git2::opts::set_search_path(level, "")?;
        }
    }
    Ok(())
}

enum Answer {
    Said(Reply),
    Blob(Vec<u8>),
}

fn answer(job: &Job) -> Result<Answer, Failure> {
    let home = Home::open(job)?;
    let reply = match &job.request {
        Request::Advertise => Reply::Advertised(advertise(job, &home)?),
        // What lies here already need not come.
        Request::Fetch if home.in_place.is_some() => {
            Reply::Fetched(Fetched { advertised: advertise(job, &home)?, bytes: 0 })
        }
        Request::Fetch if home.packs() >= PACKS_MAX => Reply::Fetched(home.renewing(|repo| fetch(job, repo))?),
        Request::Fetch => {
            // One that was whole when a worker was killed is as easily fetched.
            remove(&home.fresh()).map_err(|e| home.unusable(&e.to_string()))?;
            Reply::Fetched(home.healing(|repo| fetch(job, repo))?)
        }
        Request::Describe { commit } => Reply::Described(home.healing(|repo| describe(&find_commit(repo, commit)?))?),
        Request::Read { commit, path, bytes_max } => {
            return home.healing(|repo| read(repo, commit, path, *bytes_max)).map(Answer::Blob);
        }
        Request::CommitObject { commit, bytes_max } => {
            return home.healing(|repo| commit_object(repo, commit, *bytes_max)).map(Answer::Blob);
        }
        Request::Folder { commit, name, entries_max } => {
            Reply::Folder(home.healing(|repo| folder(repo, commit, name, *entries_max))?)
        }
        Request::Lineage { commit, earlier, commits_max } => {
            let lineage = home.healing(|repo| lineage(repo, commit, earlier, *commits_max))?;
            home.check_whole(&lineage, earlier)?;
            Reply::Lineage(lineage)
        }
        Request::History { commit, paths, commits_max, entries_max } => {
            Reply::History(home.healing(|repo| history(repo, commit, paths, *commits_max, *entries_max))?)
        }
    };
    Ok(Answer::Said(reply))
}

/// Whether the mirror is at fault, which is cured by throwing it away, or something else.
enum Fault {
    Mirror(git2::Error),
    Other(Failure),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

fn commit_id(oid: Oid) -> CommitId {
    oid.to_string().parse().expect("an object id is a commit id")
}

/// Enough of a foreign text to recognise it, without control characters.
fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}
