//! Asks of the commit that is checked out in a folder what a sidecar would ask, before it is pushed or merged.
//!
//! By the same judge and the same git worker; the repository is read where it lies, and never written to. Whose commits
//! are live, the caller says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_models::{CommitId, EnvironmentName};

use super::{FOLDERS_MAX, Judge, Settings, Verified};
use crate::Control;
use crate::agent::unread;
use crate::desired::Unread;
use crate::git::{self, AddressError, Advertised, Credentials, Git};
use crate::trouble::Trouble;

/// How long one question to git may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A folder with a repository and the files of one of its commits.
#[derive(Debug)]
pub struct Checkout {
    git: Git,
    commit: CommitId,
}

/// Why there is no commit to judge.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// There is no repository, or the folder lies deeper in one, where no sidecar looks.
    #[error(
        "cannot verify the commit in {}: it is not the top of a git repository, which is where a sidecar reads; give a \
         clone's own folder, or leave --verify out", folder.display()
    )]
    Outside {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder's name cannot be handed on.
    #[error("cannot verify the commit in {}", folder.display())]
    Name {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: AddressError,
    },
    /// Git cannot read the repository.
    #[error(transparent)]
    Git(#[from] git::Error),
}

impl Checkout {
    /// Looks for the commit that is checked out in `folder`. `program` is started with `git-worker` to read it, with `scratch`
    /// as its own folder.
    pub fn open(folder: &Path, program: PathBuf, scratch: PathBuf) -> Result<Self, CheckoutError> {
        // A file in worktrees and submodules.
        if !folder.join(".git").exists() {
            return Err(CheckoutError::Outside { folder: folder.to_owned() });
        }
        let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let address = whole.to_str().ok_or(AddressError::Shape).and_then(str::parse);
        let address = address.map_err(|source| CheckoutError::Name { folder: folder.to_owned(), source })?;
        let settings = git::Settings {
            program,
            worker_arguments: vec!["git-worker".to_owned()],
            folder: scratch,
            lender: None,
            address,
            in_place: true,
            reference: "HEAD".parse().expect("HEAD is a reference"),
            credentials: Credentials::default(),
            fetch_deadline: ANSWER_MAX,
            request_deadline: ANSWER_MAX,
            transfer_bytes_max: 0,
            pace: ANSWER_MAX,
            pace_bytes: 0,
        };
        let mut git = Git::new(settings, Control::new());
        let Advertised { commit, .. } = git.advertised()?;
        Ok(Self { git, commit })
    }

    /// The commit.
    pub fn commit(&self) -> &CommitId {
        &self.commit
    }

    /// Refuses the commit where a sidecar that follows `environment`, and has `live`, would; says who signed it, where that
    /// is asked.
    pub fn judge(
        &mut self,
        settings: &Settings,
        environment: &EnvironmentName,
        live: Option<&CommitId>,
    ) -> Result<Option<Verified>, Trouble> {
        Judge { settings, environment, git: &mut self.git, board: None, counts: false }.check(&self.commit, live)
    }

    /// The content of a file in the commit, whatever lies in the folder.
    pub fn read(&mut self, path: &str, bytes_max: u64) -> Result<Vec<u8>, Unread> {
        self.git.read(&self.commit, path, bytes_max).map_err(unread)
    }

    /// The environments of the commit, whatever lies in the folder; also those that have no serving.yaml.
    pub fn environments(&mut self) -> Result<Vec<EnvironmentName>, CheckoutError> {
        let names = self.git.folder(&self.commit, "environments", FOLDERS_MAX)?;
        Ok(names.into_keys().filter_map(|name| name.parse().ok()).collect())
    }
}
