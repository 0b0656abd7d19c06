//! Loading and unloading models by requests, where the operator allows it: of a store, of a folder, and the shipped ones.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Answer, SETOSA, Server, World, eventually};

const CONTENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/server/tests/fixtures/content");
const ALLOWED: [&str; 2] = ["--repository-control", "true"];

fn load(server: &Server, model: &str) -> Answer {
    server.post(&format!("/v2/repository/models/{model}/load"), "")
}

fn unload(server: &Server, model: &str) -> Answer {
    server.post(&format!("/v2/repository/models/{model}/unload"), r#"{"parameters": {"unload_dependents": true}}"#)
}

/// State and reason of each version of a model in the index.
fn index(server: &Server, model: &str) -> Vec<[String; 3]> {
    let index = server.post("/v2/repository/index", "{}").ok();
    let entries = index.as_array().unwrap().iter().filter(|entry| entry["name"] == model);
    entries.map(|entry| ["version", "state", "reason"].map(|key| entry[key].as_str().unwrap().to_owned())).collect()
}

fn copied(model: &str, version: &str, to: &Path) {
    let (from, to) = (Path::new(CONTENT).join(model), to.join(model).join(version));
    std::fs::create_dir_all(&to).unwrap();
    std::fs::copy(from.join("model.onnx"), to.join("model.onnx")).unwrap();
    let card = std::fs::read_to_string(from.join("model.yaml")).unwrap();
    std::fs::write(to.join("model.yaml"), card.replacen("version: 1.0.0", &format!("version: {version}"), 1)).unwrap();
}

#[test]
fn a_model_of_a_store_is_unloaded_until_it_is_loaded_or_another_version_is_released() {
    let world = World::new();
    let server = world.server(&ALLOWED);
    let sidecar = world.sidecar(&server);
    server.until_live(&world.repository.head());
    assert!(server.get("/v2").ok()["extensions"].as_array().unwrap().contains(&json!("model_repository")));

    assert_eq!(unload(&server, "iris").ok(), json!({"name": "iris", "unload": true}));
    for answer in [server.post("/predict", SETOSA), server.get("/v2/models/iris/ready")] {
        assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("not_loaded")), "{answer:?}");
    }
    assert_eq!(index(&server, "iris"), [["1.0.0", "UNAVAILABLE", "unloaded by a request"]]);
    let ready = server.post("/v2/repository/index", r#"{"ready": true}"#).ok();
    assert_eq!(ready, json!([{"name": "pred-main", "version": "1.0.0", "state": "READY", "reason": ""}]));
    assert_eq!(server.status_of("iris")["state"], "unloaded");
    sidecar.until("iris is not live", |status| status["failed"][0]["state"] == "unloaded");

    assert_eq!(load(&server, "iris").ok(), json!({"name": "iris", "load": true}));
    server.post("/predict", SETOSA).ok();
    assert_eq!(index(&server, "iris"), [["1.0.0", "READY", ""]]);

    unload(&server, "iris").ok();
    let commit = world.repository.roll_iris("1.1.0");
    server.until_live(&commit);
    assert_eq!(server.post("/predict", SETOSA).ok()["version"], "1.1.0");
    // A release that does not ask for something else of it leaves it out.
    unload(&server, "iris").ok();
    world.repository.serve("1.1.0", "1.1.0");
    server.until_live(&world.repository.commit("Roll pred-main"));
    assert_eq!(server.post("/predict", SETOSA).status, 503);
    sidecar.until("nothing stands in for it", |status| status["walk_back"].is_null());
}

#[test]
fn a_model_of_a_folder_is_read_again_when_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    copied("zipmap", "1.0.0", folder.path());
    let server = Server::start(&[&["--models", folder.path().to_str().unwrap()], &ALLOWED[..]].concat());
    let version = || server.post("/predict", "[[1, 2, 3, 4]]").ok()["version"].clone();
    copied("zipmap", "2.0.0", folder.path());
    copied("regression", "1.0.0", folder.path());
    assert_eq!(version(), "1.0.0");
    load(&server, "zipmap").ok();
    assert_eq!(version(), "2.0.0");
    load(&server, "regression").ok();
    server.post("/models/regression/predict", "[[1, 2, 3, 4]]").ok();

    // What fails is told, and what answered stays.
    copied("zipmap", "3.0.0", folder.path());
    let file = folder.path().join("zipmap/3.0.0/model.onnx");
    std::fs::write(&file, b"no model").unwrap();
    let refused = load(&server, "zipmap");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("load_failed")), "{refused:?}");
    assert!(
        refused.body.contains("version 3.0.0: its model file is not the one that its model.yaml names"),
        "{refused:?}"
    );
    assert!(!refused.body.contains(folder.path().to_str().unwrap()), "{refused:?}");
    assert_eq!(version(), "2.0.0");
    let entries = index(&server, "zipmap");
    let states: Vec<_> = entries.iter().map(|[version, state, _]| (version.as_str(), state.as_str())).collect();
    assert_eq!(states, [("1.0.0", "READY"), ("2.0.0", "READY"), ("3.0.0", "UNAVAILABLE")]);

    std::fs::remove_dir_all(folder.path().join("zipmap")).unwrap();
    unload(&server, "zipmap").ok();
    assert_eq!(server.post("/predict", "[[1, 2, 3, 4]]").status, 503);
    let unknown = load(&server, "zipmap");
    assert_eq!((unknown.status, unknown.json()["code"].as_str()), (404, Some("unknown_model")), "{unknown:?}");
    assert_eq!(load(&server, "a%2Fb").status, 404);
}

#[test]
fn no_request_brings_a_model_or_its_configuration() {
    let server = Server::start(&ALLOWED);
    for parameters in [json!({"config": "{}"}), json!({"file:1/model.onnx": "AAAA"})] {
        let body = json!({"parameters": parameters}).to_string();
        let answer = server.post("/v2/repository/models/iris/load", &body);
        assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("overrides")), "{answer:?}");
    }
    for body in ["[", "[]", "1", r#"{"parameters": 1}"#] {
        assert_eq!(server.post("/v2/repository/models/iris/load", body).status, 400, "{body}");
    }
    assert_eq!(server.post("/v2/repository/index", r#"{"ready": 1}"#).status, 400);
    unload(&server, "iris").ok();
    unload(&server, "pred-main").ok();
    assert_eq!(server.get("/v2/health/ready").status, 503);
    load(&server, "iris").ok();
    eventually("the server is ready", || (server.get("/v2/health/ready").status == 200).then_some(()));
    assert_eq!(server.post("/predict", SETOSA).ok()["prediction"], Value::from(vec![0]));
}
