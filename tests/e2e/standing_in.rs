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

/// A model that ends the process that loads it: a tree of one branch, so deep that ONNX Runtime, which follows it by
/// calling itself, has no stack left.
fn deep_tree() -> Vec<u8> {
    const DEPTH: u64 = 100_000;
    fn number(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
    fn field(tag: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        [number(tag << 3 | 2), number(bytes.as_ref().len() as u64), bytes.as_ref().to_vec()].concat()
    }
    let int = |tag: u64, value: u64| [number(tag << 3), number(value)].concat();
    // An attribute's type: 2 INT, 6 FLOATS, 7 INTS, 8 STRINGS.
    let attribute = |name: &str, value: Vec<u8>, kind: u64| field(5, [field(1, name), value, int(20, kind)].concat());
    let ints = |name: &str, values: &mut dyn Iterator<Item = u64>| {
        attribute(name, field(8, values.flat_map(number).collect::<Vec<_>>()), 7)
    };
    let floats = |name: &str, count: u64| attribute(name, field(7, vec![0; 4 * count as usize]), 6);
    let modes = (0..DEPTH + 2).flat_map(|node| field(9, if node < DEPTH { "BRANCH_LEQ" } else { "LEAF" })).collect();
    // The nodes before the two leaves lead to the next, or to the second leaf.
    let next = |branch: fn(u64) -> u64| (0..DEPTH + 2).map(move |node| if node < DEPTH { branch(node) } else { 0 });
    let node = [
        field(1, "features"),
        field(2, "score"),
        field(4, "TreeEnsembleRegressor"),
        ints("nodes_treeids", &mut (0..DEPTH + 2).map(|_| 0)),
        ints("nodes_nodeids", &mut (0..DEPTH + 2)),
        ints("nodes_featureids", &mut (0..DEPTH + 2).map(|_| 0)),
        floats("nodes_values", DEPTH + 2),
        attribute("nodes_modes", modes, 8),
        ints("nodes_falsenodeids", &mut next(|node| node + 1)),
        ints("nodes_truenodeids", &mut next(|_| DEPTH + 1)),
        ints("target_treeids", &mut [0, 0].into_iter()),
        ints("target_nodeids", &mut [DEPTH, DEPTH + 1].into_iter()),
        ints("target_ids", &mut [0, 0].into_iter()),
        floats("target_weights", 2),
        attribute("n_targets", int(3, 1), 2),
        field(7, "ai.onnx.ml"),
    ];
    let tensor = |name: &str, columns: u64| {
        let dimensions = [field(1, field(2, "N")), field(1, int(1, columns))].concat();
        let float32 = [int(1, 1), field(2, dimensions)].concat();
        [field(1, name), field(2, field(1, float32))].concat()
    };
    let graph =
        [field(1, node.concat()), field(2, "deep"), field(11, tensor("features", 4)), field(12, tensor("score", 1))];
    let operators = |domain: &str, version: u64| field(8, [field(1, domain), int(2, version)].concat());
    [int(1, 8), field(7, graph.concat()), operators("", 15), operators("ai.onnx.ml", 3)].concat()
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

#[test]
fn on_a_fresh_pod_a_version_that_crashes_onnx_runtime_costs_its_trial_and_the_one_before_answers() {
    let world = World::new();
    let repository = &world.repository;
    let good = repository.roll_iris("1.1.0");
    let crashing = deep_tree();
    let spec = edited(&shipped("iris", "1.0.0"), "1.2.0", Blob::of(&crashing));
    repository.write_model("iris", "1.2.0", spec, &crashing);
    let newest = repository.roll_iris("1.2.0");

    let (server, sidecar) = world.rolling();
    let status =
        sidecar.until("the version before stands in", |status| status["failed"][0]["fallback"]["state"] == "live");
    assert_eq!(answers(&server), [at("1.1.0", &good), at("1.0.0", &newest)]);
    let reason = status["failed"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("loading the version in a child process ended it (signal: "), "{reason}");
    assert_eq!(server.probe("/ready").status, 200);

    // A process that begins anew does not stumble over it either.
    drop(server);
    let server = world.server(&[]);
    server.until_live(&newest);
    assert_eq!(answers(&server), [at("1.1.0", &good), at("1.0.0", &newest)]);
}

#[test]
fn a_trial_gets_the_memory_that_it_is_given_and_no_more() {
    let world = World::new();
    let (_server, _sidecar) = world.rolling();
    let current = mainstay_models::Reader::new(&world.store).current().unwrap().unwrap();
    let iris = &current.release.models[&"iris".parse::<mainstay_models::ModelName>().unwrap()];
    let bytes = iris.versions[&iris.stable];
    let trial = |memory_bytes: u64| {
        let blob = |blob: Blob| format!("{}:{}", blob.sha256, blob.size_bytes);
        let (spec, artifact, memory) = (blob(bytes.spec), blob(bytes.artifact), memory_bytes.to_string());
        let store = world.store.to_str().unwrap();
        run(mainstay(&["trial", "--store", store, "--spec", &spec, "--artifact", &artifact, "--memory-bytes", &memory]))
    };
    assert_eq!(trial(256 << 20).0, 0);
    let (code, out, err) = trial(8 << 20);
    assert_ne!(code, 0, "{out}{err}");
}
