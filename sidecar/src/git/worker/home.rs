//! The folder that the worker owns, with its mirror, which is made anew when it is damaged or has piled up.

use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use git2::{Repository, RepositoryInitOptions};
use mainstay_models::CommitId;

use super::{Fault, TARGET, excerpt};
use crate::git::frame::{Failure, Job, Lineage, Relation};

/// The folder that the worker owns.
pub(super) struct Home {
    folder: PathBuf,
    lender: Option<PathBuf>,
    /// The repository, where that is read instead of a mirror.
    pub(super) in_place: Option<PathBuf>,
}

impl Home {
    pub(super) fn open(job: &Job) -> Result<Self, Failure> {
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
    pub(super) fn packs(&self) -> usize {
        let entries = std::fs::read_dir(self.mirror().join("objects/pack")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
    }

    fn mirror(&self) -> PathBuf {
        self.folder.join("mirror")
    }

    /// Where a mirror is made that is to take the place of the other one.
    pub(super) fn fresh(&self) -> PathBuf {
        self.folder.join("mirror.new")
    }

    pub(super) fn unusable(&self, reason: &str) -> Failure {
        Failure::Folder { folder: self.folder.display().to_string(), reason: excerpt(reason) }
    }

    /// The mirror; an empty one where there is none that can be used. Opened for each question, since an open
    /// repository keeps packs mapped that are deleted.
    pub(super) fn repository(&self) -> Result<Repository, Failure> {
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
    pub(super) fn renewing<T>(&self, fetch: impl FnOnce(&Repository) -> Result<T, Fault>) -> Result<T, Failure> {
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
    pub(super) fn healing<T>(&self, question: impl FnOnce(&Repository) -> Result<T, Fault>) -> Result<T, Failure> {
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
    pub(super) fn check_whole(&self, lineage: &Lineage, earlier: &CommitId) -> Result<(), Failure> {
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
pub(super) fn remove(folder: &Path) -> io::Result<()> {
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
