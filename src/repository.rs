//! Commits to a configuration repository, as the person who runs the command.
//!
//! By the `git` that is installed, and not by the library that the sidecar reads with: so the commit has that person's
//! name and signature, and is pushed with what lets that person in, however the machine is set up for it. Works in a
//! folder of its own, never forces a push, and never asks anything at the terminal. Every call has a deadline.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long one call of git may take.
const CALL_MAX: Duration = Duration::from_secs(60);
/// How often a running call is looked at.
const GLANCE: Duration = Duration::from_millis(10);
/// How much of what git says is kept.
const WORDS_BYTES_MAX: u64 = 64 << 10;

/// Why git did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It cannot be started, or its folder cannot be made.
    #[error("cannot run git: is it installed?")]
    Start(#[from] std::io::Error),
    /// It said no.
    #[error("cannot {what}: {words}")]
    Failed {
        /// What was attempted.
        what: &'static str,
        /// The end of what it said.
        words: String,
    },
    /// It took too long.
    #[error("cannot {what}: git took longer than {} s", CALL_MAX.as_secs())]
    Late {
        /// What was attempted.
        what: &'static str,
    },
}

/// A clone of one branch, which goes away with this.
pub struct Clone {
    folder: TempDir,
    branch: String,
}

impl Clone {
    /// Clones `branch`, with its history, from `address`.
    pub fn of(address: &str, branch: &str) -> Result<Self, GitError> {
        let clone = Self { folder: TempDir::new()?, branch: branch.to_owned() };
        clone.git(
            "clone the repository",
            &["clone", "--quiet", "--single-branch", "--branch", branch, "--", address, "."],
        )?;
        Ok(clone)
    }

    /// The content of a file in `commit`; none where it has none, or git does not know the commit.
    pub fn read(&self, commit: &str, path: &str) -> Option<String> {
        self.git("read a file of a commit", &["show", &format!("{commit}:{path}")]).ok()
    }

    /// Makes `paths` what they were in `commit`.
    pub fn restore(&self, commit: &str, paths: &[String]) -> Result<(), GitError> {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let what = "restore what an earlier commit has";
        self.git(
            what,
            &[&["restore", "--quiet", "--source", commit, "--staged", "--worktree", "--"], &paths[..]].concat(),
        )?;
        Ok(())
    }

    /// Commits what was changed, and gives the commit's id; none where nothing was.
    pub fn commit(&self, message: &str) -> Result<Option<String>, GitError> {
        if self.git("see what has changed", &["status", "--porcelain"])?.is_empty() {
            return Ok(None);
        }
        self.git("commit", &["commit", "--quiet", "--all", "--message", message])?;
        self.git("find the commit", &["rev-parse", "HEAD"]).map(Some)
    }

    /// Pushes the branch. Somebody else's push in between makes this fail, and is not undone.
    pub fn push(&self) -> Result<(), GitError> {
        let target = format!("HEAD:refs/heads/{}", self.branch);
        self.git("push", &["push", "--quiet", "origin", &target]).map(|_| ())
    }

    fn git(&self, what: &'static str, arguments: &[&str]) -> Result<String, GitError> {
        let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = Command::new("git");
        command.current_dir(self.folder.path()).args(arguments).env("GIT_TERMINAL_PROMPT", "0");
        // Files, which git can fill without anybody reading them meanwhile.
        let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).spawn()?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > CALL_MAX {
                child.kill()?;
                child.wait()?;
                return Err(GitError::Late { what });
            }
            std::thread::sleep(GLANCE);
        };
        let read = |mut file: std::fs::File| -> std::io::Result<String> {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0))?;
            file.take(WORDS_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        if status.success() {
            Ok(read(out)?)
        } else {
            Err(GitError::Failed { what, words: read(err)?.replace('\n', " ") })
        }
    }
}
