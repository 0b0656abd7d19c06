//! A configuration repository as teams have it: a bare one that is followed, and a clone to commit in.

use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_models::embedded::{self, Embedded};
use mainstay_models::{Blob, CommitId};

/// A shipped version.
pub fn shipped(name: &str, version: &str) -> Embedded {
    *embedded::MODELS.iter().find(|m| (m.name, m.version) == (name, version)).expect("Mainstay ships it")
}

/// The card of a shipped version, made to say that it is `version` and has `artifact`.
pub fn edited(shipped: &Embedded, version: &str, artifact: Blob) -> String {
    let real = Blob::of(shipped.artifact);
    std::str::from_utf8(shipped.spec)
        .unwrap()
        .replacen(&format!("version: {}", shipped.version), &format!("version: {version}"), 1)
        .replacen(&real.sha256.to_string(), &artifact.sha256.to_string(), 1)
        .replacen(&format!("size_bytes: {}", real.size_bytes), &format!("size_bytes: {}", artifact.size_bytes), 1)
}

pub struct Repository {
    pub bare: PathBuf,
    pub clone: PathBuf,
}

impl Repository {
    /// A repository with every shipped model, whose environment `prod` serves the oldest ones.
    pub fn make(folder: &Path) -> Self {
        let repository = Self { bare: folder.join("config.git"), clone: folder.join("config") };
        std::fs::create_dir(&repository.clone).unwrap();
        repository.git(&["init", "--quiet", "--bare", "--initial-branch=main", "../config.git"]);
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.git(&["remote", "add", "origin", "../config.git"]);
        for model in embedded::MODELS {
            repository.write_model(model.name, model.version, model.spec, model.artifact);
        }
        repository.serve("1.0.0", "1.0.0");
        repository.commit("Serve iris and pred-main");
        repository
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(&self.clone)
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.org")])
            .envs([("GIT_COMMITTER_NAME", "Ada"), ("GIT_COMMITTER_EMAIL", "ada@example.org")])
            .output()
            .expect("git is installed");
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.clone.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn write_model(&self, name: &str, version: &str, spec: impl AsRef<[u8]>, artifact: &[u8]) {
        self.write(&format!("models/{name}/{version}/model.yaml"), spec);
        self.write(&format!("models/{name}/{version}/model.onnx"), artifact);
    }

    /// Asks for these versions of the two models; nothing follows before it is committed.
    pub fn serve(&self, iris: &str, pred_main: &str) {
        let models = format!("  iris:\n    stable: {iris}\n  pred-main:\n    stable: {pred_main}\n");
        self.write(SERVING, format!("apiVersion: mainstay/v1\ndefault: iris\nmodels:\n{models}"));
    }

    /// Commits everything and pushes it.
    pub fn commit(&self, subject: &str) -> CommitId {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", subject]);
        self.push()
    }

    /// Takes the last commit back with another one.
    pub fn revert(&self) -> CommitId {
        self.git(&["revert", "--no-edit", "HEAD"]);
        self.push()
    }

    /// Commits that iris is to be served in `version`.
    pub fn roll_iris(&self, version: &str) -> CommitId {
        self.serve(version, "1.0.0");
        self.commit(&format!("Roll iris to {version}"))
    }

    pub fn head(&self) -> CommitId {
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    fn push(&self) -> CommitId {
        self.git(&["push", "--quiet", "origin", "main"]);
        self.head()
    }
}

/// What the environment `prod` asks for.
pub const SERVING: &str = "environments/prod/serving.yaml";
