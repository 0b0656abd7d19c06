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

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use git2::{
    AutotagOption, Commit as GitCommit, ConfigLevel, Cred, CredentialType, Direction, ErrorClass, ErrorCode,
    FetchOptions, ObjectType, Oid, ProxyOptions, Remote, RemoteCallbacks, RemoteConnection, RemoteRedirect, Repository,
    RepositoryInitOptions, Tree,
};
use mainstay_models::{Commit, CommitId};
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use super::frame::{self, Advertised, Failure, Fetched, History, Job, Lineage, Relation, Reply, Request};
use super::tags::{self, NoTag};
use super::{PROXY_VARIABLES, Transport};
use crate::footprint;

/// The longest silence of a remote. It bounds one read; the parent's deadline bounds the whole.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The most memory that the process may map. A pack is mapped piece by piece and a blob held at most thrice.
const ADDRESS_SPACE_BYTES_MAX: u64 = 3 << 30;
/// The largest tree, commit or tag object.
const OBJECT_BYTES_MAX: usize = 16 << 20;
/// The longest token file, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// The longest text taken over from a commit or an error, in characters.
const TEXT_CHARS_MAX: usize = 300;
/// How many packs a mirror may have: each fetch that brings something adds one, and each question opens them all.
const PACKS_MAX: usize = 48;
/// The name by which the mirror holds what it fetched last.
const TARGET: &str = "refs/mainstay/target";

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

/// The folder that the worker owns.
struct Home {
    folder: PathBuf,
    lender: Option<PathBuf>,
    /// The repository, where that is read instead of a mirror.
    in_place: Option<PathBuf>,
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

impl Home {
    fn open(job: &Job) -> Result<Self, Failure> {
        let in_place = job.address.folder().filter(|_| job.in_place).map(Path::to_owned);
        let home = Self { folder: job.home.clone(), lender: job.lender.clone(), in_place };
        home.prepare(job).map_err(|e| home.unusable(&e.to_string()))?;
        Ok(home)
    }

    fn prepare(&self, job: &Job) -> io::Result<()> {
        // Its own, for nobody else: libgit2 refuses a repository that belongs to another user.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.folder.join(".ssh"))?;
        let link = self.folder.join(".ssh/known_hosts");
        let wanted = job.credentials.known_hosts_file.as_deref().map(std::path::absolute).transpose()?;
        if std::fs::read_link(&link).ok() != wanted {
            match std::fs::remove_file(&link) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            wanted.map(|wanted| symlink(wanted, &link)).transpose()?;
        }
        Ok(())
    }

    /// How many packs the mirror has.
    fn packs(&self) -> usize {
        let entries = std::fs::read_dir(self.mirror().join("objects/pack")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
    }

    fn mirror(&self) -> PathBuf {
        self.folder.join("mirror")
    }

    /// Where a mirror is made that is to take the place of the other one.
    fn fresh(&self) -> PathBuf {
        self.folder.join("mirror.new")
    }

    fn unusable(&self, reason: &str) -> Failure {
        Failure::Folder { folder: self.folder.display().to_string(), reason: excerpt(reason) }
    }

    /// The mirror; an empty one where there is none that can be used. Opened for each question, since an open
    /// repository keeps packs mapped that are deleted.
    fn repository(&self) -> Result<Repository, Failure> {
        if let Some(folder) = &self.in_place {
            return Repository::open(folder).map_err(|e| unread(folder, &e));
        }
        let path = self.mirror();
        if let Ok(repo) = Repository::open_bare(&path)
            && repo.config().is_ok_and(|config| config.get_bool("http.followRedirects").is_ok_and(|follow| !follow))
        {
            return Ok(repo);
        }
        self.discard()?;
        self.empty_repository(&path)
    }

    fn empty_repository(&self, path: &Path) -> Result<Repository, Failure> {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).no_reinit(true).external_template(false);
        let mut repo = Repository::init_opts(path, &options).map_err(|e| self.unusable(e.message()))?;
        if let Some(lender) = &self.lender {
            repo = borrow_from(&lender.join("mirror"), repo).map_err(|e| self.unusable(&e.to_string()))?;
        }
        // The one way to say so for an advertisement; a fetch says it again.
        let redirects = repo.config().and_then(|mut config| config.set_bool("http.followRedirects", false));
        redirects.map_err(|e| self.unusable(e.message()))?;
        Ok(repo)
    }

    /// Runs `fetch` on an empty mirror, which takes the place of the old one when it has succeeded. Whenever this ends,
    /// there is the old one, or the new one, or none, which is what a new sidecar begins with.
    fn renewing<T>(&self, fetch: impl FnOnce(&Repository) -> Result<T, Fault>) -> Result<T, Failure> {
        let fresh = self.fresh();
        let unusable = |e: io::Error| self.unusable(&e.to_string());
        remove(&fresh).map_err(unusable)?;
        let fetched = fetch(&self.empty_repository(&fresh)?).map_err(|fault| match fault {
            Fault::Other(failure) => failure,
            Fault::Mirror(error) => Failure::Damaged { reason: excerpt(error.message()) },
        })?;
        self.discard()?;
        std::fs::rename(&fresh, self.mirror()).map_err(unusable)?;
        Ok(fetched)
    }

    /// Runs `question` on the mirror, and throws the mirror away if that shows it to be damaged.
    fn healing<T>(&self, question: impl FnOnce(&Repository) -> Result<T, Fault>) -> Result<T, Failure> {
        question(&self.repository()?).map_err(|fault| match (fault, &self.in_place) {
            (Fault::Other(failure), _) => failure,
            (Fault::Mirror(error), Some(folder)) => unread(folder, &error),
            (Fault::Mirror(error), None) => match self.discard() {
                Ok(()) => Failure::Damaged { reason: excerpt(error.message()) },
                Err(failure) => failure,
            },
        })
    }

    /// Refuses to say how a commit stands to an earlier one where a repository that is read where it lies lacks what the
    /// answer depends on. A mirror has all that its remote has.
    fn check_whole(&self, lineage: &Lineage, earlier: &CommitId) -> Result<(), Failure> {
        let Some(folder) = &self.in_place else { return Ok(()) };
        let repo = self.repository()?;
        // The commits whose parents were left out.
        let edge = std::fs::read_to_string(repo.commondir().join("shallow")).unwrap_or_default();
        let mut edge = edge.lines().peekable();
        let unknown = edge.peek().is_some() && matches!(lineage.relation, Relation::Apart | Relation::Gone);
        if unknown || edge.any(|id| lineage.commits.iter().any(|commit| commit.as_str() == id)) {
            let (address, earlier) = (folder.display().to_string(), earlier.short().to_owned());
            return Err(Failure::Shallow { address, earlier });
        }
        Ok(())
    }

    fn discard(&self) -> Result<(), Failure> {
        remove(&self.mirror()).map_err(|e| self.unusable(&e.to_string()))
    }
}

/// Lets an empty repository use the objects of another one, and tell a remote that it has them; one that holds nothing
/// has nothing to lend. What is fetched is written to the borrower alone.
fn borrow_from(lender: &Path, empty: Repository) -> io::Result<Repository> {
    let held = Repository::open_bare(lender).and_then(|lender| lender.refname_to_id(TARGET));
    let Ok(held) = held else { return Ok(empty) };
    let (path, objects) = (empty.path().to_owned(), std::path::absolute(lender)?.join("objects"));
    let mut line = objects.into_os_string().into_vec();
    line.push(b'\n');
    std::fs::create_dir_all(path.join("objects/info"))?;
    std::fs::write(path.join("objects/info/alternates"), line)?;
    // Opened anew, since an open one does not look there again.
    let borrower = Repository::open_bare(&path).map_err(io::Error::other)?;
    borrower.reference(TARGET, held, true, "").map_err(io::Error::other)?;
    Ok(borrower)
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A repository that is read where it lies, and cannot be.
fn unread(folder: &Path, error: &git2::Error) -> Failure {
    let (attempt, address) = ("read the repository".to_owned(), folder.display().to_string());
    Failure::Remote { attempt, address, reason: excerpt(error.message()) }
}

fn advertise(job: &Job, home: &Home) -> Result<Advertised, Failure> {
    if home.in_place.is_some() {
        let commit = home.healing(|repo| repo.refname_to_id("HEAD").map_err(Fault::Mirror))?;
        return Ok(Advertised { commit: commit_id(commit), name: "HEAD".to_owned() });
    }
    if let Some(commit) = job.reference.commit() {
        let name = commit.to_owned();
        return Ok(Advertised { commit: commit.parse().expect("40 hexadecimal digits are a commit id"), name });
    }
    let repo = home.repository()?;
    let mut remote = open_remote(job, &repo)?;
    let connection = connect(job, &mut remote)?;
    Ok(resolve(job, &connection)?.advertised())
}

fn fetch(job: &Job, repo: &Repository) -> Result<Fetched, Fault> {
    remove_leftovers(repo.path());
    let mut remote = open_remote(job, repo)?;
    let mut connection = connect(job, &mut remote)?;
    let target = resolve(job, &connection)?;
    let pack = Pack::default();
    let seen = &pack;
    // Nothing is ever sent: while the callback holds its end, something is to come.
    let (coming, come) = mpsc::sync_channel::<()>(0);
    let mut coming = Some(coming);
    let mut callbacks = callbacks(job);
    callbacks.transfer_progress(move |progress| {
        let bytes = progress.received_bytes() as u64;
        seen.bytes.store(bytes, Ordering::Relaxed);
        // Before, the remote makes the pack; and what comes after it is this machine's work.
        let objects = progress.total_objects();
        seen.begun.store(objects > 0, Ordering::Relaxed);
        if objects > 0 && progress.received_objects() == objects {
            drop(coming.take());
        }
        bytes <= job.transfer_bytes_max
    });
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks)
        .proxy_options(proxy())
        .follow_redirects(RemoteRedirect::None)
        .download_tags(AutotagOption::None)
        .update_fetchhead(false);
    let downloaded = std::thread::scope(|scope| {
        scope.spawn(move || watch(job, seen, &come));
        let downloaded = connection.remote().download(&[&target.name], Some(&mut options));
        // And with it the callback.
        drop(options);
        downloaded
    });
    let received = pack.bytes.into_inner();
    downloaded.map_err(|error| {
        if received > job.transfer_bytes_max {
            let reason = format!("it sends more than the {} bytes allowed for one fetch", job.transfer_bytes_max);
            return Fault::Other(unreached(job, "fetch from", &reason));
        }
        match error.class() {
            // Of our own files: a lock left by a killed worker, a lost pack, a full disk.
            ErrorClass::Os | ErrorClass::Odb | ErrorClass::Reference | ErrorClass::Repository => Fault::Mirror(error),
            _ => Fault::Other(unreached(job, "fetch from", error.message())),
        }
    })?;
    let (_, kind) = repo.odb().and_then(|odb| odb.read_header(target.commit)).map_err(Fault::Mirror)?;
    if kind != ObjectType::Commit {
        let (address, reference) = (job.address.to_string(), excerpt(&target.name));
        return Err(Failure::NotACommit { address, reference, kind: kind.str().to_owned() }.into());
    }
    let commit = find_commit(repo, &commit_id(target.commit))?;
    repo.reference(TARGET, commit.id(), true, "").map_err(Fault::Mirror)?;
    Ok(Fetched { advertised: target.advertised(), bytes: received })
}

/// What libgit2 has told of a pack that is on its way: it does so at its beginning, at each 100 kB and at each object.
#[derive(Default)]
struct Pack {
    begun: AtomicBool,
    bytes: AtomicU64,
}

/// Says so, and nothing more is said, where a pack has begun to come and comes too slowly. libgit2's own time-out never ends
/// a read that gets a byte now and then.
fn watch(job: &Job, pack: &Pack, come: &mpsc::Receiver<()>) {
    let mut before = None;
    while come.recv_timeout(job.pace) == Err(RecvTimeoutError::Timeout) {
        let now = pack.bytes.load(Ordering::Relaxed);
        if before.is_some_and(|before| now - before < job.pace_bytes) {
            let (address, pace_bytes, pace) = (job.address.to_string(), job.pace_bytes, job.pace);
            let mut stdout = io::stdout().lock();
            let _ = frame::write(&mut stdout, &Reply::Failed(Failure::Slow { address, pace_bytes, pace }));
            // The parent ends the process, which is to say nothing else until then.
            loop {
                std::thread::park();
            }
        }
        before = pack.begun.load(Ordering::Relaxed).then_some(now);
    }
}

/// Takes away what a worker left that was killed in a fetch; packs that are whole have other names, and nobody else locks.
fn remove_leftovers(repository: &Path) {
    let _ = std::fs::remove_file(repository.join(format!("{TARGET}.lock")));
    let Ok(entries) = std::fs::read_dir(repository.join("objects/pack")) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if !path.extension().is_some_and(|extension| extension == "pack" || extension == "idx") {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn open_remote<'r>(job: &Job, repo: &'r Repository) -> Result<Remote<'r>, Failure> {
    repo.remote_anonymous(job.address.as_str()).map_err(|e| unreached(job, "use", e.message()))
}

fn connect<'r, 'c, 'j: 'c>(job: &'j Job, remote: &'c mut Remote<'r>) -> Result<RemoteConnection<'r, 'c, 'j>, Failure> {
    let connected = remote.connect_auth(Direction::Fetch, Some(callbacks(job)), Some(proxy()));
    connected.map_err(|e| {
        let reason = match (e.code(), job.address.transport()) {
            (ErrorCode::Certificate, Transport::Ssh) => "its host key is not the one in the known_hosts file",
            (ErrorCode::Certificate, _) => "its certificate is not one that is trusted for it",
            // libgit2 takes a folder that is not there for an address of a kind that it does not know.
            _ if job.address.folder().is_some_and(|folder| !folder.exists()) => "there is no such folder",
            _ => e.message(),
        };
        unreached(job, "reach", reason)
    })
}

/// What a remote says that the followed reference is.
struct Target {
    /// What to ask the remote for.
    name: String,
    /// The commit; of an annotated tag the one that it points to, through any number of tags.
    commit: Oid,
}

impl Target {
    fn advertised(&self) -> Advertised {
        Advertised { commit: commit_id(self.commit), name: excerpt(&self.name) }
    }
}

fn resolve(job: &Job, connection: &RemoteConnection<'_, '_, '_>) -> Result<Target, Failure> {
    if let Some(commit) = job.reference.commit() {
        let oid = Oid::from_str(commit).expect("40 hexadecimal digits are an object id");
        return Ok(Target { name: commit.to_owned(), commit: oid });
    }
    let heads = connection.list().map_err(|e| unreached(job, "list the references of", e.message()))?;
    if let Some(range) = job.reference.range() {
        let heads = heads.iter().map(|head| (head.name(), head.oid()));
        let address = job.address.to_string();
        return match tags::highest(range, heads) {
            Ok((name, commit)) => Ok(Target { name, commit }),
            Err(NoTag::None { versions }) => {
                Err(Failure::NoTag { address, range: job.reference.to_string(), versions })
            }
            Err(NoTag::Ambiguous(one, other)) => Err(Failure::AmbiguousTags { address, one, other }),
        };
    }
    let find = |name: &str| heads.iter().find(|head| head.name() == name).map(|head| head.oid());
    let target = job.reference.candidates().into_iter().find_map(|name| {
        let commit = find(&format!("{name}^{{}}")).or_else(|| find(&name))?;
        Some(Target { name, commit })
    });
    target
        .ok_or_else(|| Failure::NoReference { address: job.address.to_string(), reference: job.reference.to_string() })
}

/// Lets us in, with what is in the files at this moment, since credentials rotate.
///
/// There is deliberately no check of certificates or host keys here: without one, libgit2 goes by its own verdict,
/// which for https is OpenSSL's and for ssh is that of the known_hosts file.
fn callbacks(job: &Job) -> RemoteCallbacks<'_> {
    let mut callbacks = RemoteCallbacks::new();
    let mut offered = false;
    callbacks.credentials(move |_, user, allowed| {
        let user = user.unwrap_or("git");
        if allowed.contains(CredentialType::USERNAME) {
            return Cred::username(user);
        }
        // libgit2 asks until it is let in.
        if std::mem::replace(&mut offered, true) {
            return Err(git2::Error::from_str("the credentials were not accepted"));
        }
        let credentials = &job.credentials;
        match job.address.transport() {
            Transport::Http if allowed.contains(CredentialType::USER_PASS_PLAINTEXT) => {
                if let Some(token) = &job.token {
                    return Cred::userpass_plaintext("x-access-token", token);
                }
                let Some(path) = &credentials.token_file else {
                    return Err(git2::Error::from_str("it asks for credentials: give --token-file"));
                };
                let token = read_token(path).map_err(|reason| git2::Error::from_str(&reason))?;
                // Most hosts take any name beside a token; for those that do not, the file may hold NAME:TOKEN.
                let (name, token) = token.split_once(':').unwrap_or(("x-access-token", &token));
                Cred::userpass_plaintext(name, token)
            }
            Transport::Ssh if allowed.contains(CredentialType::SSH_KEY) => {
                let Some(path) = &credentials.ssh_key_file else {
                    return Err(git2::Error::from_str("it asks for a key: give --ssh-key-file"));
                };
                Cred::ssh_key(user, None, path, None)
            }
            _ => Err(git2::Error::from_str("it asks for a kind of credentials that is not supported")),
        }
    });
    callbacks
}

/// The way through a proxy, for https: what `https_proxy` and `no_proxy` say, which the parent passes on. It is asked for
/// no credentials of the repository's: its own stand in its address.
fn proxy<'a>() -> ProxyOptions<'a> {
    let mut options = ProxyOptions::new();
    options.auto();
    options
}

fn read_token(path: &Path) -> Result<String, String> {
    let problem = |problem: &str| format!("cannot use the token file {}: {problem}", path.display());
    let bytes = std::fs::read(path).map_err(|e| problem(&e.to_string()))?;
    if bytes.len() > TOKEN_BYTES_MAX {
        return Err(problem("it is too long for a token"));
    }
    let token = String::from_utf8(bytes).map_err(|_| problem("it is not text"))?;
    let token = token.trim();
    let good = !token.is_empty() && !token.contains(|c: char| c.is_control() || c.is_whitespace());
    if good { Ok(token.to_owned()) } else { Err(problem("it does not hold one token on one line")) }
}

fn unreached(job: &Job, attempt: &str, reason: &str) -> Failure {
    // Of a proxy's address that it cannot use libgit2 repeats all, the password too.
    let addresses = PROXY_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
    let told = |address: String| {
        let secret =
            address.rsplit_once('@').map(|(secret, _)| secret.rsplit("//").next().unwrap_or(secret).to_owned());
        secret.is_some_and(|secret| !secret.is_empty() && reason.contains(&secret))
    };
    let reason = if addresses.into_iter().any(told) { "the proxy's address cannot be used" } else { reason };
    Failure::Remote { attempt: attempt.to_owned(), address: job.address.to_string(), reason: excerpt(reason) }
}

fn commit_id(oid: Oid) -> CommitId {
    oid.to_string().parse().expect("an object id is a commit id")
}

fn find_commit<'r>(repo: &'r Repository, id: &CommitId) -> Result<GitCommit<'r>, Fault> {
    let oid = Oid::from_str(id.as_str()).map_err(Fault::Mirror)?;
    check_size(repo, oid)?;
    repo.find_commit(oid).map_err(Fault::Mirror)
}

/// Looks at an object's size before anything unpacks it: a few bytes can claim to be gigabytes.
fn check_size(repo: &Repository, oid: Oid) -> Result<(), Fault> {
    let (size, _) = repo.odb().and_then(|odb| odb.read_header(oid)).map_err(Fault::Mirror)?;
    if size <= OBJECT_BYTES_MAX {
        return Ok(());
    }
    let (path, size_bytes, bytes_max) = (format!("object {oid}"), size as u64, OBJECT_BYTES_MAX as u64);
    Err(Fault::Other(Failure::TooLarge { path, size_bytes, bytes_max }))
}

fn describe(commit: &GitCommit<'_>) -> Result<Commit, Fault> {
    Ok(Commit {
        id: commit_id(commit.id()),
        author: excerpt(&String::from_utf8_lossy(commit.author().name_bytes())),
        subject: excerpt(&String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default())),
        time_unix_s: commit.time().seconds(),
    })
}

/// What a path leads to in a commit.
enum Entry {
    File(Oid),
    Folder(Oid),
    Other(&'static str),
    None,
}

fn find_entry(repo: &Repository, commit: &GitCommit<'_>, path: &str) -> Result<Entry, Fault> {
    let mut tree_id = commit.tree_id();
    let mut segments = path.split('/').peekable();
    // By hand, since only so a path that is not there can be told from a tree that is lost.
    while let Some(segment) = segments.next() {
        check_size(repo, tree_id)?;
        let tree: Tree<'_> = repo.find_tree(tree_id).map_err(Fault::Mirror)?;
        let Some(entry) = tree.get_name(segment) else { return Ok(Entry::None) };
        match (entry.filemode(), segments.peek()) {
            (0o100644 | 0o100755 | 0o100664, None) => return Ok(Entry::File(entry.id())),
            (0o040000, None) => return Ok(Entry::Folder(entry.id())),
            (0o040000, Some(_)) => tree_id = entry.id(),
            (0o120000, _) => return Ok(Entry::Other("behind a symbolic link")),
            (0o160000, _) => return Ok(Entry::Other("in a submodule")),
            (_, Some(_)) => return Ok(Entry::None),
            (_, None) => return Ok(Entry::Other("not a regular file")),
        }
    }
    Ok(Entry::None)
}

fn read(repo: &Repository, commit: &CommitId, path: &str, bytes_max: u64) -> Result<Vec<u8>, Fault> {
    let oid = match find_entry(repo, &find_commit(repo, commit)?, path)? {
        Entry::File(oid) => oid,
        Entry::Folder(_) => {
            return Err(Failure::NotAFile { path: path.to_owned(), kind: "a folder".to_owned() }.into());
        }
        Entry::Other(kind) => {
            return Err(Failure::NotAFile { path: path.to_owned(), kind: kind.to_owned() }.into());
        }
        Entry::None => return Err(Failure::NoFile { path: path.to_owned() }.into()),
    };
    let odb = repo.odb().map_err(Fault::Mirror)?;
    let (size, kind) = odb.read_header(oid).map_err(Fault::Mirror)?;
    if kind != ObjectType::Blob {
        return Err(Failure::NotAFile { path: path.to_owned(), kind: "not a blob".to_owned() }.into());
    }
    let size_bytes = size as u64;
    if size_bytes > bytes_max {
        return Err(Failure::TooLarge { path: path.to_owned(), size_bytes, bytes_max }.into());
    }
    Ok(odb.read(oid).map_err(Fault::Mirror)?.data().to_vec())
}

/// The bytes of a commit. libgit2 holds them against its id as it reads them.
fn commit_object(repo: &Repository, commit: &CommitId, bytes_max: u64) -> Result<Vec<u8>, Fault> {
    let oid = find_commit(repo, commit)?.id();
    let object =
        repo.odb().and_then(|odb| odb.read(oid).map(|object| object.data().to_vec())).map_err(Fault::Mirror)?;
    if object.len() as u64 > bytes_max {
        let (path, size_bytes) = (format!("commit {}", commit.short()), object.len() as u64);
        return Err(Failure::TooLarge { path, size_bytes, bytes_max }.into());
    }
    Ok(object)
}

fn folder(
    repo: &Repository,
    commit: &CommitId,
    name: &str,
    entries_max: usize,
) -> Result<BTreeMap<String, String>, Fault> {
    let top = find_commit(repo, commit)?.tree_id();
    check_size(repo, top)?;
    let top = repo.find_tree(top).map_err(Fault::Mirror)?;
    let Some(entry) = top.get_name(name).filter(|entry| entry.kind() == Some(ObjectType::Tree)) else {
        return Ok(BTreeMap::new());
    };
    check_size(repo, entry.id())?;
    let tree = repo.find_tree(entry.id()).map_err(Fault::Mirror)?;
    if tree.len() > entries_max {
        let (path, size_bytes, bytes_max) = (format!("folder {name}"), tree.len() as u64, entries_max as u64);
        return Err(Failure::TooLarge { path, size_bytes, bytes_max }.into());
    }
    // A name that is longer, or not text, is nobody's model.
    let named = |entry: git2::TreeEntry<'_>| {
        let name = std::str::from_utf8(entry.name_bytes()).ok().filter(|name| name.len() <= 100)?;
        Some((name.to_owned(), entry.id().to_string()))
    };
    Ok(tree.iter().filter_map(named).collect())
}

fn lineage(repo: &Repository, commit: &CommitId, earlier: &CommitId, commits_max: usize) -> Result<Lineage, Fault> {
    let commit = find_commit(repo, commit)?.id();
    let earlier = Oid::from_str(earlier.as_str()).map_err(Fault::Mirror)?;
    if !repo.odb().map_err(Fault::Mirror)?.exists(earlier) {
        // Before anybody is blamed for it: a mirror that lost objects lacks more than that, and is cured.
        let mut walk = repo.revwalk().map_err(Fault::Mirror)?;
        walk.push(commit).and_then(|()| walk.try_for_each(|oid| oid.map(drop))).map_err(Fault::Mirror)?;
        return Ok(Lineage { relation: Relation::Gone, commits: Vec::new(), complete: false });
    }
    let descends = |from, of| repo.graph_descendant_of(from, of).map_err(Fault::Mirror);
    let relation = if commit == earlier || descends(commit, earlier)? {
        Relation::Descendant
    } else if descends(earlier, commit)? {
        Relation::Ancestor
    } else {
        Relation::Apart
    };
    // Where clocks were wrong the walk may go too far back, which is a commit too many and never one too few.
    let mut walk = repo.revwalk().map_err(Fault::Mirror)?;
    let between = walk
        .push(commit)
        .and_then(|()| walk.hide(earlier))
        .and_then(|()| walk.take(commits_max + 1).map(|oid| oid.map(commit_id)).collect::<Result<Vec<_>, _>>());
    let mut commits = between.map_err(Fault::Mirror)?;
    let complete = commits.len() <= commits_max;
    commits.truncate(commits_max);
    Ok(Lineage { relation, commits, complete })
}

fn history(
    repo: &Repository,
    start: &CommitId,
    paths: &[String],
    commits_max: usize,
    entries_max: usize,
) -> Result<History, Fault> {
    let content = |commit: &GitCommit<'_>| {
        let id = |path: &String| match find_entry(repo, commit, path)? {
            Entry::File(oid) | Entry::Folder(oid) => Ok::<_, Fault>(Some(oid)),
            Entry::Other(_) | Entry::None => Ok(None),
        };
        paths.iter().map(id).collect::<Result<Vec<_>, _>>()
    };
    let nothing = vec![None; paths.len()];
    let mut commits = Vec::new();
    let mut commit = find_commit(repo, start)?;
    let mut after = content(&commit)?;
    for _ in 0..commits_max {
        // A parent that is not there is the edge of a shallow remote.
        let parent = commit.parent_id(0).ok().and_then(|id| repo.find_commit(id).ok());
        let before = parent.as_ref().map_or_else(|| Ok(nothing.clone()), content)?;
        if before != after {
            if commits.len() == entries_max {
                return Ok(History { commits, complete: false });
            }
            commits.push(describe(&commit)?);
        }
        let Some(parent) = parent else { return Ok(History { commits, complete: true }) };
        (commit, after) = (parent, before);
    }
    Ok(History { commits, complete: false })
}

/// Enough of a foreign text to recognise it, without control characters.
fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}
