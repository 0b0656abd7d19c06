//! The demo's configuration repository, after examples/config-repo: a bare one, as on a git host, and a clone, as on an
//! operator's desk.

use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_models::embedded;

/// The demo's repository.
pub struct Repository {
    /// What the sidecar follows.
    pub bare: PathBuf,
    /// What a person commits in.
    pub clone: PathBuf,
}

/// Why there is no repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// git is not there.
    #[error("cannot run git: install it and try again")]
    Git(#[source] std::io::Error),
    /// git failed.
    #[error("`git {command}` failed: {words}")]
    Failed { command: String, words: String },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// There is something else.
    #[error("{} is there and is not a demo's folder: choose another with --dir", path.display())]
    Foreign { path: PathBuf },
}

/// Pushes each commit, whichever command made it. A push that fails must not look like a commit that failed.
const HOOK: &str = "#!/bin/sh\ngit push --quiet origin HEAD || echo 'the commit was not pushed; try: git push' >&2\n";

macro_rules! template {
    ($($path:literal),* $(,)?) => { [$(($path, include_bytes!(concat!("../../examples/config-repo/", $path)))),*] };
}

/// The files of examples/config-repo beside the models, which are in the binary already.
const TEMPLATE: [(&str, &[u8]); 8] = template![
    ".gitattributes",
    ".github/CODEOWNERS",
    ".github/workflows/check.yml",
    ".gitignore",
    "README.md",
    "environments/dev/serving.yaml",
    "environments/prod/serving.yaml",
    "environments/stage/serving.yaml",
];

impl Repository {
    /// The repository in `dir`: the one that an earlier demo left, or a new one.
    pub fn open_or_make(dir: &Path) -> Result<Self, RepositoryError> {
        let repository = Self { bare: dir.join("config.git"), clone: dir.join("config") };
        match (repository.bare.join("HEAD").exists(), repository.clone.join(".git").exists()) {
            (true, true) => Ok(repository),
            (false, false) if !repository.bare.exists() && !repository.clone.exists() => {
                repository.make(dir)?;
                Ok(repository)
            }
            _ => Err(RepositoryError::Foreign { path: repository.bare }),
        }
    }

    fn make(&self, dir: &Path) -> Result<(), RepositoryError> {
        git(dir, &["init", "--quiet", "--bare", "--initial-branch=main", "config.git"])?;
        git(dir, &["init", "--quiet", "--initial-branch=main", "config"])?;
        git(&self.clone, &["remote", "add", "origin", "../config.git"])?;
        // Commits need an author: the person's own name where git knows it.
        for (key, value) in [("user.name", "Demo Operator"), ("user.email", "operator@localhost")] {
            if git(&self.clone, &["config", key]).is_err() {
                git(&self.clone, &["config", key, value])?;
            }
        }
        for model in embedded::MODELS {
            let folder = format!("models/{}/{}", model.name, model.version);
            self.write(&format!("{folder}/model.yaml"), model.spec)?;
            self.write(&format!("{folder}/model.onnx"), model.artifact)?;
        }
        for (path, content) in TEMPLATE {
            self.write(path, content)?;
        }
        git(&self.clone, &["add", "--all"])?;
        git(&self.clone, &["commit", "--quiet", "--message", "Serve iris and pred-main"])?;
        git(&self.clone, &["push", "--quiet", "--set-upstream", "origin", "main"])?;
        for hook in ["post-commit", "post-merge", "post-rewrite"] {
            let path = format!(".git/hooks/{hook}");
            self.write(&path, HOOK.as_bytes())?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            let path = self.clone.join(path);
            std::fs::set_permissions(&path, mode).map_err(|source| RepositoryError::Write { path, source })?;
        }
        Ok(())
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
        let path = self.clone.join(path);
        let parent = path.parent().expect("every file of the repository lies in a folder");
        let write = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, bytes));
        write.map_err(|source| RepositoryError::Write { path, source })
    }
}

fn git(dir: &Path, arguments: &[&str]) -> Result<(), RepositoryError> {
    let output = Command::new("git").arg("-C").arg(dir).args(arguments).output().map_err(RepositoryError::Git)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(RepositoryError::Failed { command: arguments.join(" "), words })
}
