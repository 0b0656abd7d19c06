//! Vertex AI: the paths that it says it will ask.

use serde_json::json;

use super::{check_place, check_predictions, row, rows};
use crate::harness::Server;

#[test]
fn the_paths_that_it_says_are_answered() {
    let route = "/v1/endpoints/1/deployedModels/2";
    let predict = format!("{route}:predict");
    let server = Server::start(&["--health-route", route, "--predict-route", &predict]);
    assert_eq!(server.get(route).status, 200);
    check_predictions(&server, &predict, &json!({"instances": rows(), "parameters": {}}));
    let body = |bad: &str| format!(r#"{{"instances": [{}]}}"#, row(bad));
    check_place(&server, &predict, body, "instances[0][3]", false);
}
