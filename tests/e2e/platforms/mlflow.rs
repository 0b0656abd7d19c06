//! MLflow's scoring server: `/invocations` with its frames and tables, `/ping`, `/health` and `/version`.

use serde_json::json;

use super::{COLUMNS, check_place, check_predictions, code, frame, frame_with, records, row, rows};
use crate::harness::{Connection, Server};

const PATH: &str = "/invocations";

#[test]
fn every_form_gets_its_predictions() {
    let server = Server::start(&[]);
    for body in [
        json!({"dataframe_split": frame()}),
        json!({"dataframe_records": records()}),
        json!({"instances": rows(), "params": {}}),
        json!({"inputs": rows()}),
    ] {
        check_predictions(&server, PATH, &body);
    }
    let table = format!("{}\n5.1,3.5,1.1,0.2\n6.3,2.9,6.3,1.8\n", COLUMNS.join(","));
    let headers = "content-type: text/csv; charset=utf-8\r\n";
    let answer = Connection::open(server.listen).ask("POST", PATH, headers, &table).unwrap();
    assert_eq!(answer.ok(), json!({"predictions": [0, 2]}));
}

#[test]
fn the_server_is_alive_and_says_its_version() {
    let server = Server::start(&[]);
    for path in ["/ping", "/health"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
    }
    let version = server.get("/version");
    assert_eq!((version.status, version.body.as_str()), (200, env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_sent_wrongly_is_told() {
    let server = Server::start(&[]);
    assert_eq!(code(&server.post(PATH, "{}")), (400, "malformed".into()));
    assert_eq!(code(&server.post(PATH, r#"{"inputs": [], "instances": []}"#)), (400, "malformed".into()));
    assert_eq!(server.get(PATH).status, 405);
    let record = |bad: &str| {
        let names = [COLUMNS[0], COLUMNS[1], COLUMNS[2]].map(|name| format!(r#""{name}": 1.5, "#)).concat();
        format!(r#"{{"dataframe_records": [{{{names}"petal width (cm)": {bad}}}]}}"#)
    };
    check_place(&server, PATH, record, "dataframe_records[0].petal width (cm)", true);
    let split = |bad: &str| format!(r#"{{"dataframe_split": {}}}"#, frame_with(bad));
    check_place(&server, PATH, split, "dataframe_split.data[1][3]", true);
    let list = |bad: &str| format!(r#"{{"inputs": [{}]}}"#, row(bad));
    check_place(&server, PATH, list, "inputs[0][3]", true);
    let columns = |bad: &str| format!(r#"{{"inputs": {{"petal width (cm)": [0.2, {bad}]}}}}"#);
    check_place(&server, PATH, columns, "inputs.petal width (cm)[1]", true);
    let tensor = |bad: &str| format!(r#"{{"inputs": {{"features": [{}]}}}}"#, row(bad));
    check_place(&server, PATH, tensor, "inputs.features[0][3]", true);
}
