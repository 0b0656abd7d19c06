//! `mainstay promote` against a real repository: what it commits, what it never does, and what it does in a crowd.

use std::path::{Path, PathBuf};

use mainstay_models::{Blob, Serving};
use serde_json::{Value, json};

use crate::harness::{Program, Repository, World, edited, mainstay, run, shipped};
use crate::signing::ModelKey;

/// `mainstay promote` into the world's repository, by somebody with a name.
fn promote(world: &World, arguments: &[&str]) -> std::process::Command {
    let mut command = mainstay(&["promote", "--repo", world.repository.bare.to_str().unwrap()]);
    command.args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.envs([("GIT_AUTHOR_NAME", "Release"), ("GIT_AUTHOR_EMAIL", "release@example.org")]);
    command.envs([("GIT_COMMITTER_NAME", "Release"), ("GIT_COMMITTER_EMAIL", "release@example.org")]);
    command
}

const IRIS: [&str; 6] = ["--env", "prod", "--model", "iris", "--version", "1.1.0"];

/// What `branch` has at `path` in the repository that everybody pushes to.
fn pushed(repository: &Repository, branch: &str, path: &str) -> String {
    repository.git(&["fetch", "--quiet", "origin", branch]);
    repository.git(&["show", &format!("FETCH_HEAD:{path}")])
}

fn tip(repository: &Repository, branch: &str) -> String {
    repository.git(&["ls-remote", "origin", &format!("refs/heads/{branch}")]).split('\t').next().unwrap().to_owned()
}

fn serving(repository: &Repository, environment: &str) -> Serving {
    let path = format!("environments/{environment}/serving.yaml");
    Serving::parse(&path, pushed(repository, "main", &path).as_bytes()).unwrap()
}

/// A folder with a version that the repository does not have.
fn release(world: &World, version: &str) -> PathBuf {
    let folder = world.folder.path().join(format!("release-{version}"));
    let model = shipped("iris", "1.1.0");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.yaml"), edited(&model, version, Blob::of(model.artifact))).unwrap();
    std::fs::write(folder.join("model.onnx"), model.artifact).unwrap();
    std::fs::write(folder.join("model.sig"), "a signature").unwrap();
    std::fs::write(folder.join("report.html"), "not for the repository").unwrap();
    folder
}

fn from(folder: &Path, version: &str) -> Vec<String> {
    ["--env", "prod", "--model", "iris", "--version", version, "--from", folder.to_str().unwrap()]
        .map(str::to_owned)
        .into()
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_promoted_version_goes_live_and_the_history_says_what_it_is() {
    let world = World::new();
    let (server, _sidecar) = world.rolling();
    let before = "# Ours.\napiVersion: mainstay/v1\ndefault:  iris\nmodels:\n  iris: {stable: \"1.0.0\", preview: [1.1.0]} # two\n";
    world.repository.write("environments/prod/serving.yaml", before);
    world.repository.commit("Say it in our way");

    let (code, out, err) = run(promote(&world, &IRIS));
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("promoted iris 1.0.0 -> 1.1.0 in prod: committed to main as "), "{out}");
    let after = before.replace("\"1.0.0\", preview: [1.1.0]", "\"1.1.0\", preview: []");
    assert_eq!(pushed(&world.repository, "main", "environments/prod/serving.yaml"), after.trim_end());
    server.until_live(&tip(&world.repository, "main").parse().unwrap());

    let message = world.repository.git(&["log", "-1", "--format=%an%n%B", "FETCH_HEAD"]);
    let artifact = Blob::of(shipped("iris", "1.1.0").artifact);
    for line in [
        "Release\nPromote iris 1.1.0 to prod\n",
        "\nModel: iris\nVersion: 1.1.0\nEnvironment: prod\n",
        &format!("\nArtifact-SHA256: {}\n", artifact.sha256),
        "\nTraining-Commit: ",
    ] {
        assert!(message.contains(line), "{message}");
    }

    let (code, out, err) = run(promote(&world, &[&IRIS[..], &["--json"]].concat()));
    assert_eq!(code, 0, "{out}{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&document["outcome"], &document["commit"]), (&json!("already promoted"), &Value::Null));
}

#[test]
fn a_version_comes_along_once_and_never_changes() {
    let world = World::new();
    let folder = release(&world, "1.2.0");
    let (code, out, err) = run(promote(&world, &["--env", "prod", "--model", "iris", "--version", "1.2.0"]));
    assert_eq!(code, 1, "{out}");
    assert!(err.contains("models/iris/1.2.0/model.yaml is not in the repository: bring it with --from DIR"), "{err}");

    let arguments = from(&folder, "1.2.0");
    let (code, out, err) = run(promote(&world, &strs(&arguments)));
    assert_eq!(code, 0, "{out}{err}");
    pushed(&world.repository, "main", "models/iris/1.2.0/model.yaml");
    let files = world.repository.git(&["ls-tree", "-r", "--name-only", "FETCH_HEAD", "models/iris/1.2.0/"]);
    assert_eq!(files, "models/iris/1.2.0/model.onnx\nmodels/iris/1.2.0/model.sig\nmodels/iris/1.2.0/model.yaml");
    let (code, out, _) = run(promote(&world, &strs(&arguments)));
    assert!(code == 0 && out.contains("already"), "{out}");

    let card = std::fs::read_to_string(folder.join("model.yaml")).unwrap();
    std::fs::write(folder.join("model.yaml"), card.replace("gate: 0.93", "gate: 0.92")).unwrap();
    let head = tip(&world.repository, "main");
    let (code, _, err) = run(promote(&world, &strs(&arguments)));
    assert_eq!(code, 1);
    assert!(
        err.contains("the repository has models/iris/1.2.0/model.yaml with other bytes: a version never changes"),
        "{err}"
    );
    let (code, _, err) = run(promote(&world, &strs(&from(&folder, "1.3.0"))));
    assert!(code == 1 && err.contains("is the card of iris 1.2.0"), "{err}");
    assert_eq!(tip(&world.repository, "main"), head);
}

#[test]
fn an_environment_on_hold_is_not_touched() {
    let world = World::new();
    for (policy, words) in
        [("hold:\n  reason: the accounts\n", "on hold (the accounts)"), ("suspend: true\n", "suspended")]
    {
        world.repository.serve("1.0.0", "1.0.0");
        let text = std::fs::read_to_string(world.repository.clone.join("environments/prod/serving.yaml")).unwrap();
        world.repository.write("environments/prod/serving.yaml", format!("{text}{policy}"));
        let head = world.repository.commit("Hold");
        for more in [&[][..], &["--branch", "promote/iris"], &["--dry-run"]] {
            let (code, out, err) = run(promote(&world, &[&IRIS[..], more].concat()));
            assert_eq!(code, 3, "{out}{err}");
            assert!(
                err.contains(&format!("prod is {words}: take that out of environments/prod/serving.yaml first")),
                "{err}"
            );
        }
        assert_eq!(tip(&world.repository, "main"), head.as_str());
        assert_eq!(tip(&world.repository, "promote/iris"), "");
    }
}

#[test]
fn a_version_that_would_not_load_is_not_pushed() {
    let world = World::new();
    let folder = release(&world, "1.2.0");
    let garbage = b"no model at all";
    std::fs::write(folder.join("model.onnx"), garbage).unwrap();
    std::fs::write(folder.join("model.yaml"), edited(&shipped("iris", "1.1.0"), "1.2.0", Blob::of(garbage))).unwrap();
    let head = tip(&world.repository, "main");
    let (code, out, err) = run(promote(&world, &strs(&from(&folder, "1.2.0"))));
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("would not load: iris 1.2.0 (stable): cannot accept the model file"), "{out}");
    assert!(err.contains("the check does not pass: nothing was pushed"), "{err}");

    // One that loads, and answers otherwise than its card says.
    let folder = release(&world, "1.3.0");
    let card = std::fs::read_to_string(folder.join("model.yaml")).unwrap();
    let wrong = card.replacen("0.2], label: 0", "0.2], label: 1", 1);
    assert_ne!(wrong, card);
    std::fs::write(folder.join("model.yaml"), wrong).unwrap();
    let (code, out, _) = run(promote(&world, &[&strs(&from(&folder, "1.3.0"))[..], &["--json"]].concat()));
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &document["outcome"]), (1, &json!("refused")));
    assert!(document["check"]["versions"][0]["failed"].as_str().unwrap().contains("golden row"), "{document}");
    assert_eq!(tip(&world.repository, "main"), head);
}

#[test]
fn where_models_must_be_signed_only_a_signed_version_is_pushed() {
    let (world, key) = (World::new(), ModelKey::new());
    let signers = world.folder.path().join("signers.yaml");
    std::fs::write(&signers, format!("apiVersion: mainstay/v1\nsigners:\n{}", key.entry("Training", ""))).unwrap();
    for folder in ["models/iris/1.0.0", "models/pred-main/1.0.0"] {
        key.sign(&world.repository.clone.join(folder));
    }
    let head = world.repository.commit("Sign what is live");
    let folder = release(&world, "1.2.0");
    std::fs::remove_file(folder.join("report.html")).unwrap();
    let mut arguments = from(&folder, "1.2.0");
    arguments.extend(["--verify-models", "--allowed-signers", signers.to_str().unwrap()].map(str::to_owned));

    // Its model.sig is no signature; then there is none; then one by somebody else.
    let other = ModelKey::new();
    let attempts: [&dyn Fn(); 3] =
        [&|| {}, &|| std::fs::remove_file(folder.join("model.sig")).unwrap(), &|| other.sign(&folder)];
    for attempt in attempts {
        attempt();
        let (code, out, err) = run(promote(&world, &strs(&arguments)));
        assert_eq!(code, 1, "{out}{err}");
        assert!(out.contains("would be refused: models/iris/1.2.0/model.sig: "), "{out}");
        assert!(err.contains("the check does not pass: nothing was pushed"), "{err}");
        assert_eq!(tip(&world.repository, "main"), head.as_str());
    }
    key.sign(&folder);
    let (code, out, err) = run(promote(&world, &strs(&arguments)));
    assert_eq!(code, 0, "{out}{err}");
    let signature = std::fs::read_to_string(folder.join("model.sig")).unwrap();
    assert_eq!(pushed(&world.repository, "main", "models/iris/1.2.0/model.sig"), signature.trim());
}

#[test]
fn a_promotion_of_a_model_that_moves_with_others_says_so_and_leaves_the_group_as_it_is() {
    let world = World::new();
    world.repository.serve("1.0.0", "1.0.0\ntogether:\n  - [iris, pred-main]");
    let head = world.repository.commit("Move iris and pred-main together");
    let folder = release(&world, "1.2.0");
    let garbage = b"no model at all";
    let card = edited(&shipped("iris", "1.1.0"), "1.2.0", Blob::of(garbage));
    std::fs::write(folder.join("model.onnx"), garbage).unwrap();
    std::fs::write(folder.join("model.yaml"), card).unwrap();
    let (code, out, err) = run(promote(&world, &strs(&from(&folder, "1.2.0"))));
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("would not load: iris 1.2.0 (stable): "), "{out}");
    assert!(out.contains("pred-main 1.0.0 (stable): iris 1.2.0 of its group would not load"), "{out}");
    assert_eq!(tip(&world.repository, "main"), head.as_str());

    let (code, out, err) = run(promote(&world, &IRIS));
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("move only together: iris, pred-main"), "{out}");
    let after = serving(&world.repository, "prod");
    let group: Vec<_> = after.together.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(group, ["iris", "pred-main"]);
    assert_eq!(after.models[&"iris".parse::<mainstay_models::ModelName>().unwrap()].stable.to_string(), "1.1.0");
}

#[test]
fn a_dry_run_shows_the_change_and_the_check_and_pushes_nothing() {
    let world = World::new();
    let head = tip(&world.repository, "main");
    let arguments = from(&release(&world, "1.2.0"), "1.2.0");
    let (code, out, err) = run(promote(&world, &[&strs(&arguments)[..], &["--dry-run"]].concat()));
    assert_eq!(code, 0, "{out}{err}");
    for line in [
        "-    stable: 1.0.0",
        "+    stable: 1.2.0",
        "models/iris/1.2.0/model.onnx",
        "good iris 1.2.0 (stable): loads, and gives its ",
        "iris 1.0.0 -> 1.2.0 in prod would pass; nothing was pushed to main",
    ] {
        assert!(out.contains(line), "{out}");
    }
    assert_eq!(tip(&world.repository, "main"), head);
}

#[test]
fn a_branch_of_its_own_is_for_a_pull_request() {
    let world = World::new();
    let head = tip(&world.repository, "main");
    let arguments = [&IRIS[..], &["--branch", "promote/iris-1.1.0"]].concat();
    let (code, out, err) = run(promote(&world, &arguments));
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("to promote/iris-1.1.0 as ") && out.contains("open a pull request"), "{out}");
    assert_eq!(tip(&world.repository, "main"), head);
    assert!(
        pushed(&world.repository, "promote/iris-1.1.0", "environments/prod/serving.yaml").contains("stable: 1.1.0")
    );
    let proposed = tip(&world.repository, "promote/iris-1.1.0");
    let (code, out, _) = run(promote(&world, &arguments));
    assert!(code == 0 && out.contains("proposes iris 1.1.0 in prod already"), "{out}");
    assert_eq!(tip(&world.repository, "promote/iris-1.1.0"), proposed);

    // The name is taken by something else; and once that is merged, free again.
    let other = ["--env", "prod", "--model", "pred-main", "--version", "1.1.0", "--branch", "promote/iris-1.1.0"];
    let (code, _, err) = run(promote(&world, &other));
    assert!(code == 1 && err.contains("is there and holds something else"), "{err}");
    world.repository.git(&["fetch", "--quiet", "origin", "promote/iris-1.1.0"]);
    world.repository.git(&["merge", "--quiet", "FETCH_HEAD"]);
    world.repository.git(&["push", "--quiet", "origin", "main"]);
    let (code, out, err) = run(promote(&world, &other));
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = run(promote(&world, &[&IRIS[..], &["--branch", "main"]].concat()));
    assert!(code == 1 && err.contains("--branch main is the branch that is promoted on"), "{err}");
}

#[test]
fn everybody_who_promotes_at_the_same_time_gets_through_and_undoes_nobody() {
    let world = World::new();
    let text = std::fs::read_to_string(world.repository.clone.join("environments/prod/serving.yaml")).unwrap();
    world.repository.write("environments/dev/serving.yaml", &text);
    world.repository.commit("Have dev");
    let all: Vec<_> = ["dev", "prod"]
        .iter()
        .flat_map(|environment| ["iris", "pred-main"].map(|model| (*environment, model)))
        .map(|(environment, model)| {
            let arguments = ["--env", environment, "--model", model, "--version", "1.1.0", "--json"];
            Program::spawn(promote(&world, &arguments))
        })
        .collect();
    // Somebody who works by hand meanwhile.
    for n in 0..3 {
        world.repository.write("notes.md", format!("note {n}"));
        world.repository.git(&["add", "--all"]);
        world.repository.git(&["commit", "--quiet", "--message", &format!("Note {n}")]);
        while std::process::Command::new("git")
            .current_dir(&world.repository.clone)
            .args(["push", "--quiet", "origin", "main"])
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| !status.success())
        {
            world.repository.git(&["pull", "--quiet", "--rebase", "origin", "main"]);
        }
    }
    for mut program in all {
        let code = program.ended();
        assert_eq!(code, 0, "{}{}", program.stdout(), program.stderr());
        let document: Value = serde_json::from_str(&program.stdout()).unwrap();
        assert_eq!(document["outcome"], json!("promoted"));
    }
    for environment in ["dev", "prod"] {
        let serving = serving(&world.repository, environment);
        let versions: Vec<_> = serving.models.values().map(|model| model.stable.to_string()).collect();
        assert_eq!(versions, ["1.1.0", "1.1.0"]);
    }
    assert_eq!(pushed(&world.repository, "main", "notes.md"), "note 2");
    let subjects = world.repository.git(&["log", "--format=%s", "FETCH_HEAD"]);
    assert_eq!(subjects.lines().filter(|subject| subject.starts_with("Promote ")).count(), 4, "{subjects}");
    assert_eq!(subjects.lines().filter(|subject| subject.starts_with("Note ")).count(), 3, "{subjects}");
}

#[test]
fn what_git_refuses_is_said_and_is_not_tried_for_ever() {
    let world = World::new();
    let hook = world.repository.bare.join("hooks/pre-receive");
    std::fs::write(&hook, "#!/bin/sh\necho 'only by pull request' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (code, out, err) = run(promote(&world, &IRIS));
    assert_eq!(code, 2, "{out}");
    assert!(err.contains("cannot push: ") && err.contains("only by pull request"), "{err}");

    let gone = world.folder.path().join("gone");
    let (code, _, err) = run(mainstay(&[&["promote", "--repo", gone.to_str().unwrap()], &IRIS[..]].concat()));
    assert!(code == 2 && err.contains("cannot clone the repository"), "{code}: {err}");
    let secret = "https://me:secret@git.example/config.git";
    let (code, _, err) = run(mainstay(&[&["promote", "--repo", secret], &IRIS[..]].concat()));
    assert!(code == 64 && !err.contains("me:secret"), "{code}: {err}");
    let (code, _, err) = run(promote(&world, &["--env", "nowhere", "--model", "iris", "--version", "1.1.0"]));
    assert!(code == 1 && err.contains("environments/nowhere/serving.yaml is not in main"), "{code}: {err}");
}

#[test]
fn a_link_in_the_repository_leads_nobody_out_of_it() {
    let world = World::new();
    let outside = world.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, world.repository.clone.join("models/rose")).unwrap();
    world.repository.commit("Link");
    let folder = release(&world, "1.2.0");
    let card = std::fs::read_to_string(folder.join("model.yaml")).unwrap();
    std::fs::write(folder.join("model.yaml"), card.replacen("name: iris", "name: rose", 1)).unwrap();
    let folder = folder.to_str().unwrap();
    let (code, out, err) =
        run(promote(&world, &["--env", "prod", "--model", "rose", "--version", "1.2.0", "--from", folder]));
    assert_eq!(code, 1, "{out}{err}");
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
}
