//! The house rules that a reader cannot see at a glance, as tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::{Path, PathBuf};

/// Every Rust file of the workspace that is the project's own.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> =
        ["src", "tests", "models/src", "models/tests", "server/src", "server/tests", "sidecar/src", "sidecar/tests"]
            .map(|folder| root.join(folder))
            .into();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(files.len() > 40, "the walk found only {} files", files.len());
    files
}

/// Asserts that only files below `room` use the crate `name`.
fn assert_only_in(name: &str, room: &str) {
    let uses = format!("{name}::");
    // Not `support::`, of which `ort::` is the end.
    let used_in = |line: &str| {
        line.match_indices(&uses)
            .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
    };
    let mut inside = 0;
    for (path, text) in sources() {
        let found = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")).any(used_in);
        if found && path.starts_with(room) {
            inside += 1;
        }
        assert!(
            !found || path.starts_with(room) || path == Path::new("tests/tidy.rs"),
            "{} uses {name}",
            path.display()
        );
    }
    assert!(inside > 0, "nothing in {room} uses {name}: has the room moved?");
}

#[test]
fn onnx_runtime_is_named_in_the_engine_alone() {
    assert_only_in("ort", "server/src/engine");
}

#[test]
fn libgit2_is_named_in_the_git_module_alone() {
    assert_only_in("git2", "sidecar/src/git");
}

#[test]
fn every_module_begins_with_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no `//!` header", path.display());
    }
}

#[test]
fn the_models_crate_knows_no_network_no_time_and_no_engine() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/Cargo.toml")).unwrap();
    for name in ["tokio", "hyper", "ort", "git2", "mainstay-server", "mainstay-sidecar"] {
        assert!(
            !manifest.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(name)),
            "models depends on {name}"
        );
    }
}
