//! KServe's first protocol: `/v1/models`.

use serde_json::json;

use super::{check_place, check_predictions, code, records, row, rows};
use crate::harness::{SETOSA, Server};

#[test]
fn rows_and_records_get_their_predictions() {
    let server = Server::start(&[]);
    check_predictions(&server, "/v1/models/iris:predict", &json!({"instances": rows()}));
    check_predictions(&server, "/v1/models/iris:predict", &json!({"instances": records(), "parameters": {"a": 1}}));
}

#[test]
fn the_models_are_listed_and_the_server_is_alive() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/v1/models").ok(), json!({"models": ["iris", "pred-main"]}));
    assert_eq!(server.get("/v1/models/iris").ok(), json!({"name": "iris", "ready": true}));
    assert_eq!(server.get("/").ok(), json!({"status": "alive"}));
}

#[test]
fn what_is_sent_wrongly_is_told() {
    let server = Server::start(&[]);
    let predict = "/v1/models/iris:predict";
    assert_eq!(code(&server.post("/v1/models/irs:predict", SETOSA)), (404, "unknown_model".into()));
    assert_eq!(code(&server.post("/v1/models/iris:explain", SETOSA)), (501, "explain".into()));
    assert_eq!(code(&server.post(predict, r#"{"instances": [[1, 2, 3]]}"#)), (422, "invalid_rows".into()));
    let body = |bad: &str| format!(r#"{{"instances": [{}]}}"#, row(bad));
    check_place(&server, predict, body, "instances[0][3]", false);
}
