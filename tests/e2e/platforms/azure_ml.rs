//! Azure Machine Learning: `/score`.

use serde_json::json;

use super::{check_place, check_predictions, frame, frame_with, records};
use crate::harness::Server;

const PATH: &str = "/score";

#[test]
fn its_frame_and_mlflows_forms_get_their_predictions() {
    let server = Server::start(&[]);
    check_predictions(&server, PATH, &json!({"input_data": frame()}));
    check_predictions(&server, PATH, &json!({"dataframe_records": records()}));
    assert_eq!(server.get("/").ok(), json!({"status": "alive"}));
}

#[test]
fn a_bad_value_is_told_its_place() {
    let server = Server::start(&[]);
    let body = |bad: &str| format!(r#"{{"input_data": {}}}"#, frame_with(bad));
    check_place(&server, PATH, body, "input_data.data[1][3]", true);
}
