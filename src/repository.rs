//! Commits to a configuration repository, as the person who runs the command.
//!
//! By the `git` that is installed, and not by the library that the sidecar reads with: so the commit has that person's
//! name and signature, and is pushed with what lets that person in, however the machine is set up for it. Works in a
//! folder of its own, never forces a push, and never asks anything at the terminal. Every call has a deadline.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
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
    /// Clones `branch`, or the repository's own default branch, with its history, from `address`.
    pub fn of(address: &str, branch: Option<&str>) -> Result<Self, GitError> {
        let mut clone = Self { folder: TempDir::new()?, branch: String::new() };
        // Files of old commits come when they are read, where the host can do that.
        let mut arguments = vec!["clone", "--quiet", "--filter=blob:none", "--single-branch"];
        arguments.extend(branch.iter().flat_map(|branch| ["--branch", branch]));
        clone.git("clone the repository", &[&arguments[..], &["--", address, "."]].concat())?;
        clone.branch = clone.git("find the default branch", &["symbolic-ref", "--short", "HEAD"])?;
        Ok(clone)
    }

    /// The folder with the files, as they are to be committed.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The branch that was cloned.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// Makes everything what the remote's branch is now, whatever was changed or committed here.
    pub fn renew(&self) -> Result<(), GitError> {
        self.git("fetch the branch again", &["fetch", "--quiet", "origin", &self.branch])?;
        self.git("take what was fetched", &["reset", "--quiet", "--hard", "FETCH_HEAD"])?;
        self.git("take what was fetched", &["clean", "--quiet", "-d", "-x", "--force"]).map(|_| ())
    }

    /// The commit at which `branch` stands at the remote, which is fetched; none where there is no such branch.
    pub fn fetch(&self, branch: &str) -> Result<Option<String>, GitError> {
        let name = format!("refs/heads/{branch}");
        let what = "look for the branch at the remote";
        let Some(tip) = self.git(what, &["ls-remote", "origin", &name])?.split_whitespace().next().map(str::to_owned)
        else {
            return Ok(None);
        };
        self.git("fetch the branch", &["fetch", "--quiet", "origin", &name])?;
        Ok(Some(tip))
    }

    /// The commit that is checked out.
    pub fn head(&self) -> Result<String, GitError> {
        self.git("find the commit", &["rev-parse", "HEAD"])
    }

    /// Whether all of `commit` is in what is checked out.
    pub fn contains(&self, commit: &str) -> bool {
        self.git("compare two commits", &["merge-base", "--is-ancestor", commit, "HEAD"]).is_ok()
    }

    /// Takes what was written into `paths` into the next commit.
    pub fn stage(&self, paths: &[String]) -> Result<(), GitError> {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        self.git("add the files", &[&["add", "--"], &paths[..]].concat()).map(|_| ())
    }

    /// What the next commit holds at `paths`, as ids of git's: equal where the files are.
    pub fn staged(&self, paths: &[String]) -> Result<String, GitError> {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        self.git("list the files", &[&["ls-files", "--stage", "--"], &paths[..]].concat())
    }

    /// Whether `commit` has at `path` what the next commit will have there.
    pub fn same(&self, commit: &str, path: &str) -> bool {
        self.git("compare the files", &["diff", "--cached", "--quiet", commit, "--", path]).is_ok()
    }

    /// What the next commit changes in `path`, line by line; `whole` false: only how much.
    pub fn difference(&self, path: &str, whole: bool) -> Result<String, GitError> {
        let how = if whole { "--patch" } else { "--stat" };
        self.git("compare the files", &["diff", "--cached", "--no-color", "--no-ext-diff", how, "HEAD", "--", path])
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
        self.head().map(Some)
    }

    /// Pushes to the branch that was cloned.
    pub fn push(&self) -> Result<(), GitError> {
        self.push_to(&self.branch)
    }

    /// Pushes to `branch`. Somebody else's push in between makes this fail, and is not undone.
    pub fn push_to(&self, branch: &str) -> Result<(), GitError> {
        let target = format!("HEAD:refs/heads/{branch}");
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
