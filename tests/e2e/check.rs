//! What `mainstay check` says of a repository before anybody merges it.

use mainstay_models::Blob;
use serde_json::{Value, json};

use crate::harness::{Server, World, edited, mainstay, run, shipped};
use crate::signing::ModelKey;

/// Runs `mainstay check` in the world's clone; as GitHub Actions would where `github` says so.
fn check(world: &World, arguments: &[&str], github: bool) -> (i32, String, String) {
    let mut command = mainstay(&["check"]);
    command.arg(&world.repository.clone).args(arguments).env_remove("GITHUB_ACTIONS");
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
