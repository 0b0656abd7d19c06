//! The remote: what it advertises, and what comes from it, with credentials and within bounds.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use git2::{
    AutotagOption, Cred, CredentialType, Direction, ErrorClass, ErrorCode, FetchOptions, ObjectType, Oid, ProxyOptions,
    Remote, RemoteCallbacks, RemoteConnection, RemoteRedirect, Repository,
};

use super::home::Home;
use super::objects::find_commit;
use super::{Fault, TARGET, commit_id, excerpt};
use crate::git::frame::{self, Advertised, Failure, Fetched, Job, Reply};
use crate::git::tags::{self, NoTag};
use crate::git::{PROXY_VARIABLES, Transport};

/// The longest token file, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

pub(super) fn advertise(job: &Job, home: &Home) -> Result<Advertised, Failure> {
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

pub(super) fn fetch(job: &Job, repo: &Repository) -> Result<Fetched, Fault> {
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
