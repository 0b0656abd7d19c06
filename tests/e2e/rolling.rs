//! A commit changes what answers, whatever it says, and nobody who asks meanwhile notices more than that.

use std::time::{Duration, Instant};

use mainstay_models::{Blob, CommitId, Digest, ModelSpec};
use serde_json::{Value, json};

use crate::harness::{Load, MILL, SETOSA, SETOSA_QUERY, Server, Sidecar, World, edited, mainstay, run, shipped};

/// Between two requests of a client that is only there to notice a failure.
const GENTLY: Duration = Duration::from_millis(2);

#[test]
fn a_commit_makes_the_new_version_answer_and_a_revert_the_old_one() {
    let world = World::new();
    let (server, sidecar) = world.rolling();
    let first = world.repository.head();
    let answers = |version: &str, commit: &CommitId| {
        let answer = server.post("/models/iris/predict", SETOSA);
        let body = answer.ok();
        assert_eq!(
            (&body["model"], &body["version"], &body["commit"]),
            (&json!("iris"), &json!(version), &json!(commit))
        );
        assert_eq!((&body["prediction"], &body["label"]), (&json!([0]), &json!(["setosa"])));
        assert_eq!((answer.header("x-model"), answer.header("x-model-version")), (Some("iris"), Some(version)));
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 32), "{answer:?}");
        // The default model, from the address bar, is the same.
        assert_eq!(server.get(&format!("/predict?{SETOSA_QUERY}")).ok(), body);
        // What answers is what was reviewed: one digest from the card to the page that operators read.
        let info = server.get("/info").ok();
        let spec = ModelSpec::parse("model.yaml", shipped("iris", version).spec).unwrap();
        let iris = &info["models"][0];
        assert_eq!(
            (&iris["name"], &iris["stable"], &iris["commit"]),
            (&json!("iris"), &json!(version), &json!(commit))
        );
        assert_eq!(iris["versions"][0]["artifact"]["sha256"], json!(spec.artifact.blob.sha256));
        assert_eq!(server.status_of("iris")["sha256"], json!(spec.artifact.blob.sha256));
        info
    };
    answers("1.0.0", &first);

    let rolled = world.repository.roll_iris("1.1.0");
    server.until_live(&rolled);
    answers("1.1.0", &rolled);

    let reverted = world.repository.revert();
    server.until_live(&reverted);
    let info = answers("1.0.0", &reverted);

    let changes: Vec<_> = info["changes"].as_array().unwrap().iter().collect();
    let told: Vec<_> = changes.iter().map(|change| (&change["commit"]["id"], &change["commit"]["subject"])).collect();
    let roll_subject = json!("Roll iris to 1.1.0");
    assert_eq!(
        told[..2],
        [(&json!(reverted), &json!("Revert \"Roll iris to 1.1.0\"")), (&json!(rolled), &roll_subject)]
    );
    let there = json!([{"model": "iris", "role": "stable", "from": "1.0.0", "to": "1.1.0"}]);
    let back = json!([{"model": "iris", "role": "stable", "from": "1.1.0", "to": "1.0.0"}]);
    assert_eq!((&changes[0]["moves"], &changes[1]["moves"]), (&back, &there));
    assert_eq!((changes.len(), &changes[1]["commit"]["author"]), (3, &json!("Ada")));

    // The two are not said in one instant.
    let status = sidecar.until("the release is live and all is well", |status| {
        !status["release"]["times"]["live_unix_ms"].is_null() && status["health"] == "Healthy"
    });
    assert_eq!(status["sync"], "Synced");
    assert_eq!(status["release"]["commit"]["id"], json!(reverted));
}

#[test]
fn a_commit_that_is_wrong_changes_nothing_that_answers_and_says_why() {
    let world = World::new();
    let (server, sidecar) = world.rolling();
    let repository = &world.repository;
    let (old, new) = (shipped("iris", "1.0.0"), shipped("iris", "1.1.0"));
    let first = repository.head();
    let clients = Load::start(server.listen, 2, "/models/iris/predict", SETOSA, GENTLY);

    // Its bytes are the ones that the card promises, and no model. The other model of the commit is none the worse.
    let garbage = b"this is no model";
    repository.write_model("iris", "1.2.0", edited(&old, "1.2.0", Blob::of(garbage)), garbage);
    repository.serve("1.2.0", "1.1.0");
    let broken = repository.commit("Roll iris to something broken");
    server.until_live(&broken);
    let iris = server.status_of("iris");
    assert_eq!(
        (&iris["version"], &iris["state"], &iris["serving"]),
        (&json!("1.2.0"), &json!("failed"), &json!("1.0.0"))
    );
    assert!(
        iris["reason"].as_str().is_some_and(|reason| reason.contains("cannot read the file as an onnx model")),
        "{iris}"
    );
    assert_eq!(server.status_of("pred-main")["state"], json!("live"));
    let mill = server.post("/models/pred-main/predict", MILL).ok();
    assert_eq!((&mill["version"], &mill["commit"]), (&json!("1.1.0"), &json!(broken)));
    let status = sidecar.until("Degraded", |status| status["health"] == "Degraded");
    assert_eq!((&status["failed"][0]["name"], &status["failed"][0]["version"]), (&json!("iris"), &json!("1.2.0")));
    assert_eq!(status["sync"], json!("Synced"), "what git asks for is published: it is the server that cannot use it");

    // A model, and not the one whose answers the card knows.
    repository.write_model("iris", "1.3.0", edited(&new, "1.3.0", Blob::of(old.artifact)), old.artifact);
    repository.serve("1.3.0", "1.1.0");
    server.until_live(&repository.commit("Roll iris to the wrong model"));
    let iris = server.status_of("iris");
    assert_eq!(
        (&iris["version"], &iris["state"], &iris["serving"]),
        (&json!("1.3.0"), &json!("failed"), &json!("1.0.0"))
    );
    assert!(iris["reason"].as_str().is_some_and(|reason| reason.starts_with("golden row 0 alone: expected")), "{iris}");
    let published = server.status();

    // Not the bytes that the card promises.
    let promised = Blob::of(b"something else");
    repository.write_model("iris", "1.4.0", edited(&new, "1.4.0", promised), new.artifact);
    repository.serve("1.4.0", "1.1.0");
    let refused = sidecar.until_refused(&repository.commit("Roll iris to other bytes"));
    assert_eq!(place(&refused), ("models/iris/1.4.0/model.yaml", 7, "artifact.sha256"), "{refused}");

    // A word that nobody knows.
    repository.serve("1.1.0\n    stabel: 1.0.0", "1.1.0");
    let refused = sidecar.until_refused(&repository.commit("Misspell a field"));
    assert_eq!(place(&refused), ("environments/prod/serving.yaml", 6, "models.iris.stabel"), "{refused}");
    assert!(
        refused["problem"].as_str().is_some_and(|text| text.contains("expected one of stable, preview")),
        "{refused}"
    );
    assert_eq!(server.status(), published, "a refused commit does not reach the server");
    assert_eq!(sidecar.status()["sync"], json!("OutOfSync"));

    let mend = Instant::now();
    repository.serve("1.1.0", "1.1.0");
    let good = repository.commit("Roll iris to 1.1.0");
    server.until_live(&good);
    sidecar.until("Healthy", |s| s["health"] == "Healthy" && s["problem"].is_null() && s["failed"] == json!([]));

    let seen: Vec<_> = clients.stop().into_iter().flatten().collect();
    for request in &seen {
        let expected = match request.prediction.version.as_str() {
            "1.0.0" => &first,
            "1.1.0" if request.ended > mend => &good,
            other => panic!("{other} answered"),
        };
        assert_eq!(request.prediction.commit, expected.as_str());
        assert_eq!(request.prediction.label, ["setosa"]);
    }
    assert!(seen.iter().any(|request| request.prediction.version == "1.1.0"), "the good commit was seen");
    println!("{} requests were answered meanwhile, none failed", seen.len());
}

/// Where a refusal points.
fn place(refusal: &Value) -> (&str, u64, &str) {
    (refusal["file"].as_str().unwrap(), refusal["line"].as_u64().unwrap(), refusal["field"].as_str().unwrap())
}

#[test]
fn a_first_release_that_does_not_load_is_told_and_leaks_nothing() {
    let world = World::new();
    let garbage = b"this is no model";
    let spec = edited(&shipped("iris", "1.0.0"), "1.0.0", Blob::of(garbage));
    world.repository.write_model("iris", "1.0.0", spec, garbage);
    let broken = world.repository.commit("Break iris");
    let server = world.server(&[]);
    let _sidecar = world.sidecar(&server);
    server.until_live(&broken);

    let answer = server.post("/predict", SETOSA);
    assert_eq!(
        (answer.status, &answer.json()["code"], answer.header("retry-after")),
        (503, &json!("not_loaded"), Some("1"))
    );
    assert!(!answer.body.contains(world.folder.path().to_str().unwrap()), "{answer:?}");
    assert_eq!(server.status_of("iris")["serving"], Value::Null);
    server.post("/models/pred-main/predict", MILL).ok();
    assert_eq!(server.probe("/ready").status, 200, "one model answers");
}

/// How many version changes the load lives through.
const CHANGES: usize = 50;

/// A commit, from before it was made until the server confirmed it.
struct Roll {
    commit: CommitId,
    version: &'static str,
    made: Instant,
    confirmed: Instant,
}

#[test]
fn fifty_version_changes_under_load_fail_no_request() {
    let world = World::new();
    let server = world.server(&[]);
    let _sidecar = world.sidecar(&server);
    let mut rolls = Vec::new();
    let mut roll = |make: &dyn Fn() -> CommitId, version| {
        let made = Instant::now();
        let commit = make();
        server.until_live(&commit);
        rolls.push(Roll { commit, version, made, confirmed: Instant::now() });
    };
    roll(&|| world.repository.head(), "1.0.0");
    let begun = Instant::now();
    let clients = Load::start(server.listen, 4, "/predict", SETOSA, Duration::ZERO);
    for version in ["1.1.0", "1.0.0"].into_iter().cycle().take(CHANGES) {
        roll(&|| world.repository.roll_iris(version), version);
    }
    let seen = clients.stop();
    let took = begun.elapsed();

    let mut versions_seen = vec![0; rolls.len()];
    for connection in &seen {
        let mut last = 0;
        for request in connection {
            let commit = &request.prediction.commit;
            let index = rolls.iter().position(|roll| roll.commit.as_str() == commit).expect("a commit that was made");
            assert_eq!(
                request.prediction.version, rolls[index].version,
                "the version is the one that {commit} asks for"
            );
            assert!(index >= last, "a connection never goes back");
            let confirmed = rolls.iter().rposition(|roll| roll.confirmed <= request.begun).unwrap_or_default();
            assert!(index >= confirmed, "release {confirmed} was live when the request began, and {index} answered");
            assert!(rolls[index].made <= request.ended, "release {index} answered before its commit was made");
            last = index;
            versions_seen[index] += 1;
        }
    }
    let requests: usize = versions_seen.iter().sum();
    println!("{requests} requests over {CHANGES} version changes in {took:.1?}, none failed");
    assert!(versions_seen.iter().all(|count| *count > 0), "every version was seen at work: {versions_seen:?}");
    let digest = |version| Digest::of(shipped("iris", version).artifact);
    assert_ne!(digest("1.0.0"), digest("1.1.0"), "the changes were changes");
}

/// `mainstay rollback`, by somebody whom git knows.
fn rollback(sidecar: &Sidecar, arguments: &[&str]) -> (i32, String, String) {
    let url = format!("http://{}", sidecar.admin);
    let mut command = mainstay(&[&["rollback", "--sidecar", &url], arguments].concat());
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Grace").env(format!("GIT_{role}_EMAIL"), "grace@example.org");
    }
    run(command)
}

#[test]
fn a_rollback_is_committed_so_that_every_pod_follows_it() {
    let world = World::new();
    let (server, sidecar) = world.rolling();
    let first = world.repository.head();
    let rolled = world.repository.roll_iris("1.1.0");
    server.until_live(&rolled);
    // Another pod, with a store of its own.
    let other_store = world.folder.path().join("other");
    let other = Server::start(&["--store", other_store.to_str().unwrap()]);
    let mut arguments = world.sync_arguments();
    arguments[3] = other_store.to_str().unwrap();
    let admin = other.admin_url();
    let _other_sidecar = Sidecar::start(&[&arguments[..], &["--interval", "50ms", "--server", &admin]].concat());
    other.until_live(&rolled);

    let (code, words, complaints) = rollback(&sidecar, &[]);
    assert_eq!(code, 0, "{words}{complaints}");
    assert!(words.starts_with(&format!("rolled back from 2-{rolled} to 1-{first}\ncommitted to main as ")), "{words}");
    world.repository.git(&["pull", "--quiet", "origin", "main"]);
    let committed = world.repository.head();
    let log = world.repository.git(&["log", "-1", "--format=%an: %s, on %P"]);
    assert_eq!(log, format!("Grace: Roll prod back to {}, on {rolled}", first.short()));
    for server in [&server, &other] {
        server.until_live(&committed);
        let answer = server.post("/predict", SETOSA).ok();
        assert_eq!((&answer["version"], &answer["commit"]), (&json!("1.0.0"), &json!(committed)));
    }
    sidecar.until("the hold is gone, and what git asks for is published", |status| {
        status["hold"]["rollback"].is_null() && status["sync"] == "Synced"
    });

    // And forth again, for programs.
    let (code, words, _) = rollback(&sidecar, &[&format!("2-{rolled}"), "--json"]);
    let words: Value = serde_json::from_str(&words).unwrap();
    let commit: CommitId = words[1]["git"]["commit"].as_str().unwrap_or_else(|| panic!("{words:#}")).parse().unwrap();
    assert_eq!((code, &words[1]["git"]["branch"]), (0, &json!("main")));
    other.until_live(&commit);
    assert_eq!(other.post("/predict", SETOSA).ok()["version"], "1.1.0");
}

#[test]
fn a_rollback_that_git_cannot_know_of_is_live_all_the_same_and_says_so() {
    let world = World::new();
    let (server, sidecar) = world.rolling();
    let first = world.repository.head();
    let rolled = world.repository.roll_iris("1.1.0");
    server.until_live(&rolled);
    std::fs::rename(&world.repository.bare, world.folder.path().join("gone")).unwrap();
    let (code, words, complaints) = rollback(&sidecar, &[]);
    assert_eq!(code, 3, "{words}{complaints}");
    assert!(words.contains(&format!("to 1-{first}")) && words.contains("git is not changed"), "{words}");
    assert!(complaints.contains("cannot clone the repository"), "{complaints}");
    assert_eq!(server.until_live(&first)["release"]["commit"], first.as_str());
    assert_eq!(server.post("/predict", SETOSA).ok()["version"], "1.0.0");
}
