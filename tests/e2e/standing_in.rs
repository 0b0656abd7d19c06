//! What answers where a version does not load: all of a group or none of it, and on a fresh pod the last good version.

use mainstay_models::{Blob, CommitId};
use serde_json::{Value, json};

use crate::harness::{MILL, Repository, SETOSA, Server, World, edited, mainstay, run, shipped};

/// What is no model, though it is what its card promises.
const GARBAGE: &[u8] = b"this is no model";

/// Puts a version of iris into the repository that is no model.
fn write_broken(repository: &Repository, version: &str) {
    let spec = edited(&shipped("iris", "1.0.0"), version, Blob::of(GARBAGE));
    repository.write_model("iris", version, spec, GARBAGE);
}

/// Puts a version of iris into the repository that is a model, and not the one whose answers the card knows.
fn write_wrong(repository: &Repository, version: &str) {
    let (old, new) = (shipped("iris", "1.0.0"), shipped("iris", "1.1.0"));
    repository.write_model("iris", version, edited(&new, version, Blob::of(old.artifact)), old.artifact);
}

/// Asks for these versions, which move together.
fn serve_together(repository: &Repository, iris: &str, pred_main: &str) {
    repository.serve(iris, &format!("{pred_main}\ntogether:\n  - [iris, pred-main]"));
}

/// The version that answers for each model, and the commit that asked for it.
fn answers(server: &Server) -> [(String, String); 2] {
    [("/models/iris/predict", SETOSA), ("/models/pred-main/predict", MILL)].map(|(path, body)| {
        let answer = server.post(path, body).ok();
        (answer["version"].as_str().unwrap().to_owned(), answer["commit"].as_str().unwrap().to_owned())
    })
}

fn at(version: &str, commit: &CommitId) -> (String, String) {
    (version.to_owned(), commit.to_string())
}

#[test]
fn models_that_move_together_stay_together_and_every_command_says_so() {
    let world = World::new();
    serve_together(&world.repository, "1.0.0", "1.0.0");
    let first = world.repository.commit("Move iris and pred-main together");
    let (server, sidecar) = world.rolling();
    assert_eq!(answers(&server), [at("1.0.0", &first), at("1.0.0", &first)]);

    write_wrong(&world.repository, "1.2.0");
    serve_together(&world.repository, "1.2.0", "1.1.0");
    let (code, words, _) = run(mainstay(&["check", world.repository.clone.to_str().unwrap(), "--env", "prod"]));
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("pred-main 1.1.0 (stable): iris 1.2.0 of its group would not load"), "{words}");
    assert!(words.contains("move only together: iris, pred-main"), "{words}");

    let broken = world.repository.commit("Roll both, and iris to the wrong model");
    server.until_live(&broken);
    assert_eq!(answers(&server), [at("1.0.0", &first), at("1.0.0", &first)], "neither has moved");
    let pred_main = server.status_of("pred-main");
    assert_eq!((&pred_main["state"], &pred_main["serving"]), (&json!("held"), &json!("1.0.0")));
    assert_eq!(pred_main["reason"], json!("held back since iris 1.2.0 of its group failed"));
    let status = sidecar.until("Degraded", |status| status["health"] == "Degraded");
    let failed: Vec<_> = status["failed"].as_array().unwrap().iter().map(|one| (&one["name"], &one["state"])).collect();
    assert_eq!(failed, [(&json!("iris"), &json!("failed")), (&json!("pred-main"), &json!("held"))]);
    let url = format!("http://{}", sidecar.admin);
    let (code, words, _) = run(mainstay(&["status", "--sidecar", &url, "--server", &server.admin_url()]));
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("MOVES WITH") && words.contains("pred-main 1.1.0 is not live: held back since"), "{words}");

    // A fresh server has nothing that it could keep: it answers as the last commit asked whose versions all load.
    drop(server);
    let server = world.server(&[]);
    drop(sidecar);
    let sidecar = world.sidecar(&server);
    server.until_live(&broken);
    sidecar.until("both stand in", |status| {
        let stand_in = |failed: &Value| failed["fallback"]["state"] == "live";
        status["failed"].as_array().is_some_and(|failed| failed.len() == 2 && failed.iter().all(stand_in))
    });
    assert_eq!(answers(&server), [at("1.0.0", &first), at("1.0.0", &first)]);

    serve_together(&world.repository, "1.1.0", "1.1.0");
    let good = world.repository.commit("Roll both");
    server.until_live(&good);
    assert_eq!(answers(&server), [at("1.1.0", &good), at("1.1.0", &good)]);
    let url = format!("http://{}", sidecar.admin);
    sidecar.until("Healthy", |status| status["health"] == "Healthy");
    let (code, words, _) = run(mainstay(&["rollback", "--local", "--sidecar", &url]));
    assert_eq!(code, 0, "{words}");
    let status = sidecar.until("the rollback is taken", |status| status["release"]["rollback"].is_object());
    assert_eq!(status["release"]["together"], json!([["iris", "pred-main"]]));
}

#[test]
fn on_a_fresh_pod_the_last_version_that_loads_stands_in_until_a_commit_mends_it() {
    let world = World::new();
    let repository = &world.repository;
    let first = repository.head();
    let good = repository.roll_iris("1.1.0");
    // Two in a row, each bad in its own way, and a change of the other model after them.
    write_wrong(repository, "1.2.0");
    repository.roll_iris("1.2.0");
    write_broken(repository, "1.3.0");
    repository.roll_iris("1.3.0");
    repository.serve("1.3.0", "1.1.0");
    let newest = repository.commit("Roll pred-main");

    let (server, sidecar) = world.rolling();
    let status =
        sidecar.until("an earlier version stands in", |status| status["failed"][0]["fallback"]["state"] == "live");
    assert_eq!(answers(&server), [at("1.1.0", &good), at("1.1.0", &newest)]);
    assert_eq!((&status["sync"], &status["health"]), (&json!("Synced"), &json!("Degraded")));
    let reason = status["health_reason"].as_str().unwrap();
    let expected = format!("; 1.1.0, as commit {} asked for it, stands in", good.short());
    assert!(reason.starts_with("iris 1.3.0 did not load: ") && reason.ends_with(&expected), "{reason}");
    assert_eq!(status["release"]["commit"]["id"], json!(newest), "the release is the one that git asks for");
    let iris = server.status_of("iris");
    assert_eq!((&iris["state"], &iris["serving"], &iris["commit"]), (&json!("failed"), &json!("1.1.0"), &json!(good)));
    assert_eq!(server.probe("/ready").status, 200);

    // Without git, and after a restart, it is the same at once.
    let releases = || std::fs::read_dir(world.store.join("releases")).unwrap().count();
    let (before, away) = (releases(), world.folder.path().join("away.git"));
    std::fs::rename(&repository.bare, &away).unwrap();
    drop(server);
    let server = world.server(&[]);
    server.until_live(&newest);
    assert_eq!(answers(&server), [at("1.1.0", &good), at("1.1.0", &newest)]);
    drop(sidecar);
    let sidecar = world.sidecar(&server);
    sidecar.until("it still stands in", |status| {
        status["problem"]["kind"] == "retry" && status["failed"][0]["fallback"]["state"] == "live"
    });
    assert_eq!(releases(), before, "nothing more was published");
    std::fs::rename(&away, &repository.bare).unwrap();

    let mended = repository.roll_iris("1.0.0");
    server.until_live(&mended);
    let status = sidecar.until("Healthy", |status| status["health"] == "Healthy");
    assert_eq!(answers(&server), [at("1.0.0", &mended), at("1.0.0", &mended)]);
    assert!(status["release"]["models"]["iris"]["fallback"].is_null(), "a newer commit's release knows nothing of it");
    assert_ne!(first, mended);
}

#[test]
fn a_version_that_was_broken_in_place_gives_way_to_its_earlier_bytes_and_where_there_are_none_that_is_said() {
    let world = World::new();
    let repository = &world.repository;
    let first = repository.head();
    // The same version with other bytes, and serving.yaml as it was.
    write_broken(repository, "1.0.0");
    let broken = repository.commit("Break iris 1.0.0");
    let (server, sidecar) = world.rolling();
    sidecar.until("earlier bytes stand in", |status| status["failed"][0]["fallback"]["state"] == "live");
    assert_eq!(answers(&server), [at("1.0.0", &first), at("1.0.0", &broken)]);
    drop((server, sidecar));

    let world = World::new();
    let repository = &world.repository;
    write_broken(repository, "1.4.0");
    repository.serve("1.4.0", "1.0.0");
    // A history that begins with it.
    repository.git(&["add", "--all"]);
    repository.git(&["commit", "--quiet", "--amend", "--message", "Begin badly"]);
    repository.git(&["push", "--quiet", "--force", "origin", "main"]);
    let (server, sidecar) = world.rolling();
    let status = sidecar.until("the walk has ended", |status| !status["walk_back"].is_null());
    assert_eq!(status["walk_back"], json!("no earlier commit has a version of iris that may stand in"));
    assert_eq!(server.post("/models/iris/predict", SETOSA).status, 503);
    server.post("/models/pred-main/predict", MILL).ok();
    let releases = std::fs::read_dir(world.store.join("releases")).unwrap().count();
    assert_eq!(releases, 1, "nothing is published in vain");
}
