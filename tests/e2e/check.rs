//! What `mainstay check` says of a repository before anybody merges it.

use std::path::{Path, PathBuf};

use mainstay_models::{Blob, CommitId};
use serde_json::{Value, json};

use crate::harness::{Server, World, edited, mainstay, run, shipped};
use crate::signing::{ModelKey, Person};

/// Runs `mainstay check` in the world's clone; as GitHub Actions would where `github` says so.
fn check(world: &World, arguments: &[&str], github: bool) -> (i32, String, String) {
    check_in(&world.repository.clone, arguments, github)
}

fn check_in(folder: &Path, arguments: &[&str], github: bool) -> (i32, String, String) {
    let mut command = mainstay(&["check"]);
    command.arg(folder).args(arguments).env_remove("GITHUB_ACTIONS");
    if github {
        command.env("GITHUB_ACTIONS", "true");
    }
    run(command)
}

#[test]
fn a_good_repository_is_good_and_nothing_is_said_to_differ_from_the_same() {
    let world = World::new();
    let (code, out, err) = check(&world, &[], false);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("good iris 1.0.0 (stable): loads, and gives its 57 golden answers"), "{out}");
    assert!(out.contains("good pred-main 1.0.0 (stable)"), "{out}");

    let (server, _sidecar) = world.rolling();
    let (code, out, _) = check(&world, &["--live", &server.url()], false);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("nothing differs from what is live"), "{out}");
}

#[test]
fn the_template_of_a_repository_passes_as_it_lies_there() {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config-repo");
    let (code, out, err) = run(mainstay(&["check", template]));
    assert_eq!(code, 0, "{out}{err}");
    for environment in ["dev", "prod", "stage"] {
        assert!(out.contains(&format!("environment {environment}\n  good iris 1.0.0 (stable)")), "{out}");
    }
    assert!(out.contains("good pred-main 1.1.0 (preview)"), "{out}");
}

#[test]
fn what_the_sidecar_would_refuse_is_annotated_at_its_file_and_line() {
    let world = World::new();
    world.repository.write(
        "environments/prod/serving.yaml",
        "apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n    stabel: 1.0.0\n",
    );
    let (code, out, _) = check(&world, &["--env", "prod"], true);
    assert_eq!(code, 1);
    assert!(
        out.contains("would be refused: environments/prod/serving.yaml:5: models.iris.stabel: unknown field"),
        "{out}"
    );
    assert!(
        out.contains("::error file=environments/prod/serving.yaml,line=5::models.iris.stabel: unknown field"),
        "{out}"
    );

    world.repository.serve("1.0.0", "1.0.0");
    world.repository.write("models/iris/1.0.0/model.onnx", "other bytes");
    let (code, out, _) = check(&world, &["--env", "prod"], true);
    assert_eq!(code, 1);
    assert!(out.contains("::error file=models/iris/1.0.0/model.yaml,line=7::artifact.sha256: "), "{out}");

    let (code, _, err) = check(&world, &["--env", "no such"], false);
    assert_eq!(code, 64, "{err}");
}

#[test]
fn a_version_that_is_not_signed_as_asked_would_be_refused() {
    let (world, key) = (World::new(), ModelKey::new());
    let signers = world.folder.path().join("signers.yaml");
    let entry = key.entry("Training", "    models: [iris]\n");
    std::fs::write(&signers, format!("apiVersion: mainstay/v1\nsigners:\n{entry}")).unwrap();
    let asked = ["--verify-models", "--allowed-signers", signers.to_str().unwrap()];
    let (code, out, _) = check(&world, &asked, true);
    assert_eq!(code, 1);
    assert!(out.contains("would be refused: models/iris/1.0.0/model.sig: is not in the commit"), "{out}");
    assert!(out.contains("::error file=models/iris/1.0.0/model.sig,line=1::is not in the commit"), "{out}");

    key.sign(&world.repository.clone.join("models/iris/1.0.0"));
    key.sign(&world.repository.clone.join("models/pred-main/1.0.0"));
    let (code, out, _) = check(&world, &asked, false);
    assert_eq!(code, 1);
    assert!(out.contains("models/pred-main/1.0.0/model.sig: is signed by Training ("), "{out}");
    let serving = "apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n    stable: 1.0.0\n";
    world.repository.write("environments/prod/serving.yaml", serving);
    let (code, out, err) = check(&world, &asked, false);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("good iris 1.0.0 (stable)"), "{out}");
    let (code, _, err) = check(&world, &["--verify-models"], false);
    assert_eq!(code, 64, "{err}");
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_repository_is_not_followed() {
    let world = World::new();
    let path = world.repository.clone.join("models/iris/1.0.0/model.onnx");
    let outside = world.folder.path().join("outside.onnx");
    std::fs::rename(&path, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    let (code, out, _) = check(&world, &[], false);
    assert_eq!(code, 1);
    assert!(out.contains("is reached through a symbolic link"), "{out}");
}

#[test]
fn a_version_that_would_not_load_fails_the_check_and_the_others_are_still_checked() {
    let world = World::new();
    let garbage = b"no model at all";
    let card = edited(&shipped("iris", "1.1.0"), "1.2.0", Blob::of(garbage));
    world.repository.write_model("iris", "1.2.0", card, garbage);
    world.repository.serve("1.2.0", "1.1.0");
    let (code, out, _) = check(&world, &["--json"], true);
    assert_eq!(code, 1);
    let findings: Value = serde_json::from_str(&out).expect("one JSON document");
    let versions = findings[0]["versions"].as_array().unwrap();
    let failed = |model: &str| &versions.iter().find(|version| version["model"] == model).unwrap()["failed"];
    assert!(failed("iris").as_str().unwrap().contains("cannot accept the model file"), "{findings}");
    assert_eq!(*failed("pred-main"), Value::Null);
}

#[test]
fn what_would_change_for_the_clients_of_a_live_server_is_said() {
    let world = World::new();
    let (server, _sidecar) = world.rolling();
    let model = shipped("pred-main", "1.1.0");
    let card = edited(&model, "2.0.0", Blob::of(model.artifact)).replace("torque [Nm]", "moment [Nm]");
    world.repository.write_model("pred-main", "2.0.0", card, model.artifact);
    world.repository.serve("1.1.0", "2.0.0");
    let (code, out, err) = check(&world, &["--live", &server.url(), "--json"], false);
    assert_eq!(code, 0, "{out}{err}");
    let findings: Value = serde_json::from_str(&out).unwrap();
    let differences = findings[0]["differences"].as_array().unwrap();
    let of = |model: &str| differences.iter().find(|difference| difference["model"] == model).unwrap();
    assert_eq!((&of("iris")["from"], &of("iris")["to"]), (&json!("1.0.0"), &json!("1.1.0")));
    assert_eq!(of("iris")["breaking"], json!([]));
    assert_eq!(of("iris")["metrics"][0]["from"], json!(0.9467));
    let breaking = of("pred-main")["breaking"].to_string();
    assert!(breaking.contains("feature `torque [Nm]` is gone"), "{breaking}");
    assert!(breaking.contains("feature `moment [Nm]` is new and required"), "{breaking}");
    let (_, out, _) = check(&world, &["--live", &server.url()], true);
    assert!(out.contains("::warning ::pred-main in prod: breaking: feature `torque [Nm]` is gone"), "{out}");
}

#[test]
fn a_live_server_that_cannot_be_asked_is_an_exit_code_of_its_own() {
    let world = World::new();
    let gone = Server::start(&[]).url();
    let (code, _, err) = check(&world, &["--live", &gone], false);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("cannot ask the live server"), "{err}");
}

/// A world whose first commit Ada has signed, and the file that says so.
struct Signed {
    world: World,
    ada: Person,
    file: PathBuf,
    first: CommitId,
}

impl Signed {
    fn new() -> Self {
        let (world, ada) = (World::new(), Person::new("Ada"));
        let file = world.folder.path().join("signers.yaml");
        let first = ada.sign(&world.repository.clone);
        let signed = Self { world, ada, file, first };
        signed.allow(&[signed.ada.entry("")]);
        signed
    }

    fn allow(&self, entries: &[String]) {
        std::fs::write(&self.file, format!("apiVersion: mainstay/v1\nsigners:\n{}", entries.concat())).unwrap();
    }

    fn clone(&self) -> &Path {
        &self.world.repository.clone
    }

    /// Commits iris in `version`, signed by `person`.
    fn roll(&self, version: &str, person: &Person) -> CommitId {
        self.world.repository.serve(version, "1.0.0");
        self.world.repository.git(&["commit", "--quiet", "--all", "--message", "Roll iris"]);
        person.sign(self.clone())
    }

    fn check(&self, verify: &str, arguments: &[&str]) -> (i32, String, String) {
        self.check_in(self.clone(), verify, arguments)
    }

    fn check_in(&self, folder: &Path, verify: &str, arguments: &[&str]) -> (i32, String, String) {
        let signers = ["--verify", verify, "--allowed-signers", self.file.to_str().unwrap()];
        check_in(folder, &[&signers[..], arguments].concat(), true)
    }

    /// The same, since the first commit.
    fn since_first(&self, verify: &str) -> (i32, String, String) {
        self.check(verify, &["--since", self.first.as_str()])
    }
}

#[test]
fn the_commit_that_is_checked_out_must_be_signed_by_somebody_who_may() {
    let signed = Signed::new();
    let git = |arguments: &[&str]| signed.world.repository.git(arguments);
    signed.world.repository.serve("1.1.0", "1.0.0");
    git(&["commit", "--quiet", "--all", "--message", "Roll iris"]);
    let unsigned = signed.world.repository.head();
    for verify in ["head", "strict"] {
        let (code, out, err) = signed.since_first(verify);
        assert_eq!(code, 1, "{out}{err}");
        let refused = format!("commit {} is not signed", unsigned.short());
        assert!(out.contains(&format!("would be refused: {refused}")), "{out}");
        assert!(out.contains(&format!("::error ::prod: {refused}")), "{out}");
    }

    // A signed one on top of it is enough for head, and not for strict.
    let newest = signed.roll("1.0.0", &signed.ada);
    let (code, out, err) = signed.since_first("head");
    assert_eq!(code, 0, "{out}{err}");
    let said = format!("good commit {}: may follow the live {}; signed by Ada (", newest.short(), signed.first.short());
    assert!(out.contains(&said) && out.contains("), 1 commit verified\n"), "{out}");
    let (code, out, _) = signed.since_first("strict");
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(&format!("commit {} is not signed", unsigned.short())), "{out}");

    git(&["reset", "--hard", "--quiet", signed.first.as_str()]);
    signed.roll("1.1.0", &signed.ada);
    let newest = signed.roll("1.0.0", &signed.ada);
    let (code, out, err) = signed.check("strict", &["--since", signed.first.as_str(), "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let findings: Value = serde_json::from_str(&out).unwrap();
    let commit = &findings[0]["commit"];
    assert_eq!((&commit["id"], &commit["live"]), (&json!(newest), &json!(signed.first)));
    assert_eq!((&commit["verified"]["signer"], &commit["verified"]["commits"]), (&json!("Ada"), &json!(2)));

    // Without anything that is live, strict says what it did not verify.
    let (code, out, _) = signed.check("strict", &[]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("nothing is known to be live; signed by Ada"), "{out}");
    assert!(out.contains("of all commits, only the newest was verified"), "{out}");
}

#[test]
fn a_signer_may_change_no_more_than_the_entry_says() {
    let (signed, bob) = (Signed::new(), Person::new("Bob"));
    let said = |limits: &str, expected: &str| {
        signed.allow(&[signed.ada.entry(""), bob.entry(limits)]);
        let (code, out, err) = signed.since_first("strict");
        assert_eq!(code, i32::from(!expected.starts_with("good")), "{out}{err}");
        assert!(out.contains(expected), "{out}");
    };
    signed.roll("1.1.0", &bob);
    said("", "good commit");
    said("    models: [iris]\n", "good commit");
    said("    environments: [prod]\n", "good commit");
    said("    models: [pred-main]\n", "may not change the model `iris`");
    said("    environments: [dev]\n", "may not change what the environment `prod`");
}

#[test]
fn a_commit_that_does_not_descend_from_the_live_one_would_be_refused() {
    let signed = Signed::new();
    let git = |arguments: &[&str]| signed.world.repository.git(arguments);
    let live = signed.roll("1.1.0", &signed.ada);
    git(&["reset", "--hard", "--quiet", signed.first.as_str()]);
    let since = ["--since", live.as_str()];
    let older = format!("commit {} is older than the live {}", signed.first.short(), live.short());
    let (code, out, _) = signed.check("strict", &since);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(&older), "{out}");
    // Descent is asked for without signatures too.
    let (code, out, _) = check(&signed.world, &["--verify", "none", "--since", live.as_str()], false);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(&older), "{out}");
    let (code, out, err) = signed.check("strict", &["--since", live.as_str(), "--allow-rewind"]);
    assert_eq!(code, 0, "{out}{err}");

    let apart = signed.roll("1.1.0", &signed.ada);
    git(&["commit", "--quiet", "--amend", "--message", "Another"]);
    signed.ada.sign(signed.clone());
    let (code, out, _) = signed.check("strict", &["--since", apart.as_str()]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("the history was rewritten, or a tag lies on another line"), "{out}");
    let (code, out, _) = signed.check("strict", &["--since", &"1".repeat(40)]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("which is not in its repository any more"), "{out}");
}

#[test]
fn the_live_server_says_what_the_commit_must_follow() {
    let signed = Signed::new();
    let git = |arguments: &[&str]| signed.world.repository.git(arguments);
    signed.roll("1.1.0", &signed.ada);
    git(&["push", "--quiet", "--force", "origin", "main"]);
    let (server, _sidecar) = signed.world.rolling();
    let live = signed.world.repository.head();
    let newest = signed.roll("1.0.0", &signed.ada);
    let url = server.url();
    let (code, out, err) = signed.check("strict", &["--live", &url]);
    assert_eq!(code, 0, "{out}{err}");
    let said = format!("good commit {}: may follow the live {}; signed by Ada", newest.short(), live.short());
    assert!(out.contains(&said), "{out}");
    git(&["reset", "--hard", "--quiet", signed.first.as_str()]);
    let (code, out, _) = signed.check("strict", &["--live", &url]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(&format!("is older than the live {}", live.short())), "{out}");
    // Whoever does not ask about the commit is told about the files alone.
    let (code, out, err) = check(&signed.world, &["--live", &url], false);
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains("commit"), "{out}");
}

#[test]
fn files_that_are_not_as_they_were_committed_cannot_be_judged() {
    let signed = Signed::new();
    let write = |path: &str, text: &str| signed.world.repository.write(path, text);
    let cannot = |path: &str| {
        let (code, out, err) = signed.since_first("strict");
        assert_eq!(code, 2, "{out}{err}");
        assert!(err.contains(&format!("{path} is not what commit {} has", signed.first.short())), "{err}");
    };
    // What no sidecar reads is nobody's concern.
    write("notes", "x");
    let (code, out, err) = signed.since_first("strict");
    assert_eq!(code, 0, "{out}{err}");

    signed.world.repository.serve("1.1.0", "1.0.0");
    cannot("environments/prod/serving.yaml");
    signed.world.repository.git(&["checkout", "--quiet", "--", "."]);
    write("models/iris/1.0.0/model.onnx", "other bytes");
    cannot("models/iris/1.0.0/model.onnx");
    signed.world.repository.git(&["checkout", "--quiet", "--", "."]);
    write("environments/dev/serving.yaml", "apiVersion: mainstay/v1\n");
    cannot("environments/dev/serving.yaml");
    std::fs::remove_dir_all(signed.clone().join("environments/prod")).unwrap();
    std::fs::remove_dir_all(signed.clone().join("environments/dev")).unwrap();
    write("environments/stage/serving.yaml", "apiVersion: mainstay/v1\n");
    cannot("environments/prod/serving.yaml");
}

#[test]
fn without_the_whole_history_nothing_is_said() {
    let signed = Signed::new();
    signed.roll("1.1.0", &signed.ada);
    signed.roll("1.0.0", &signed.ada);
    signed.world.repository.git(&["push", "--quiet", "--force", "origin", "main"]);
    let shallow = signed.world.folder.path().join("shallow");
    let origin = format!("file://{}", signed.world.repository.bare.display());
    let since = ["--since", signed.first.as_str()];
    for depth in ["1", "2"] {
        let _ = std::fs::remove_dir_all(&shallow);
        let depth = format!("--depth={depth}");
        signed.world.repository.git(&["clone", "--quiet", &depth, &origin, shallow.to_str().unwrap()]);
        for verify in ["head", "strict"] {
            let (code, out, err) = signed.check_in(&shallow, verify, &since);
            assert_eq!(code, 2, "{out}{err}");
            let said =
                format!("is a shallow clone that does not hold every commit since the live {}", signed.first.short());
            assert!(err.contains(&said) && err.contains("fetch-depth: 0"), "{err}");
        }
    }
    // The newest signature alone needs no history.
    let (code, out, err) = signed.check_in(&shallow, "head", &[]);
    assert_eq!(code, 0, "{out}{err}");
    // With the live commit at its edge, all that came since is there.
    signed.world.repository.git(&["-C", shallow.to_str().unwrap(), "fetch", "--quiet", "--depth=3"]);
    let (code, out, err) = signed.check_in(&shallow, "strict", &since);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("2 commits verified"), "{out}");
}

#[test]
fn a_folder_that_is_no_clone_has_no_commit_to_judge() {
    let signed = Signed::new();
    let deeper = signed.clone().join("deeper");
    let outside = signed.world.folder.path().join("outside");
    for folder in [&deeper, &outside] {
        std::fs::create_dir_all(folder.join("environments/prod")).unwrap();
        std::fs::write(folder.join("environments/prod/serving.yaml"), "apiVersion: mainstay/v1\n").unwrap();
        let (code, out, err) = signed.check_in(folder, "head", &[]);
        assert_eq!(code, 2, "{out}{err}");
        assert!(err.contains("is not the top of a git repository"), "{err}");
    }
    // A worktree is a clone like another.
    let worktree = signed.world.folder.path().join("worktree");
    signed.world.repository.git(&["worktree", "add", "--quiet", "--detach", worktree.to_str().unwrap()]);
    let (code, out, err) = signed.check_in(&worktree, "strict", &["--since", signed.first.as_str()]);
    assert_eq!(code, 0, "{out}{err}");

    for wrong in [
        &["--verify", "head"][..],
        &["--allowed-signers", "/signers.yaml"],
        &["--verify", "none", "--allowed-signers", "/signers.yaml"],
        &["--since", signed.first.as_str()],
        &["--allow-rewind"],
        &["--verify", "head", "--since", "main"],
    ] {
        let (code, out, err) = check(&signed.world, wrong, false);
        assert_eq!(code, 64, "{wrong:?}: {out}{err}");
    }
}

/// Commits by git with ssh-keygen and GnuPG, in a repository that serves nothing: what is believed is refused for that.
#[test]
fn what_git_signed_itself_with_openpgp_and_ssh_is_believed() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sidecar/tests/fixtures/trust");
    let (world, signers) = (World::new(), fixtures.join("signers.yaml"));
    let git = |arguments: &[&str]| world.repository.git(arguments);
    git(&["fetch", "--quiet", fixtures.join("all.bundle").to_str().unwrap(), "HEAD:refs/heads/signed"]);
    let nothing = "environments/prod/serving.yaml: is not in the commit";
    for (name, expected) in [
        ("pgp-subkey", nothing),
        ("pgp-rsa", nothing),
        ("ssh-ecdsa-384", nothing),
        ("pgp-revoked", "its certificate is revoked"),
        ("pgp-stranger", "which is not one of the allowed signers'"),
        ("ssh-stranger", "which is not one of the allowed signers'"),
    ] {
        let id = git(&["hash-object", "-t", "commit", fixtures.join(format!("{name}.commit")).to_str().unwrap()]);
        git(&["checkout", "--quiet", "--detach", &id]);
        let asked = ["--env", "prod", "--verify", "head", "--allowed-signers", signers.to_str().unwrap()];
        let (code, out, err) = check(&world, &asked, false);
        assert_eq!(code, 1, "{name}: {out}{err}");
        assert!(out.contains(expected), "{name}: {out}");
        let (_, out, _) = check(&world, &[&asked[..], &["--json"]].concat(), false);
        let findings: Value = serde_json::from_str(&out).unwrap();
        let signer = &findings[0]["commit"]["verified"]["signer"];
        assert_eq!(signer.as_str(), (expected == nothing).then_some(name), "{out}");
    }
}
