//! What platforms that host models ask of a container: KServe V1, MLflow, SageMaker, Vertex AI, Azure ML.

use serde_json::{Value, json};

use crate::harness::{Connection, SETOSA, Server};

const COLUMNS: [&str; 4] = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"];

/// Two rows, of which the shipped iris says 0 and 2.
fn rows() -> Value {
    json!([[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.3, 1.8]])
}

#[test]
fn each_platform_gets_its_predictions() {
    let server = Server::start(&[]);
    let expected = json!({"predictions": [0, 2]});
    let records: Vec<Value> = rows()
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            COLUMNS
                .iter()
                .zip(row.as_array().unwrap())
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect()
        })
        .collect();
    for (path, body) in [
        ("/v1/models/iris:predict", json!({"instances": rows()})),
        ("/v1/models/iris:predict", json!({"instances": records, "parameters": {"a": 1}})),
        ("/invocations", json!({"dataframe_split": {"columns": COLUMNS, "index": [0, 1], "data": rows()}})),
        ("/invocations", json!({"dataframe_records": records})),
        ("/invocations", json!({"instances": rows(), "params": {}})),
        ("/invocations", json!({"inputs": rows()})),
        ("/score", json!({"input_data": {"columns": COLUMNS, "data": rows()}})),
    ] {
        let answer = server.post(path, &body.to_string());
        assert_eq!((answer.ok(), answer.header("x-model")), (expected.clone(), Some("iris")), "{path} {body}");
    }
    let mut connection = Connection::open(server.listen);
    let mut csv = |headers: &str, body: &str| connection.ask("POST", "/invocations", headers, body).unwrap();
    let named = format!("{}\n5.1,3.5,1.1,0.2\n6.3,2.9,6.3,1.8\n", COLUMNS.join(","));
    assert_eq!(csv("content-type: text/csv; charset=utf-8\r\n", &named).ok(), expected, "as MLflow sends it");
    let answer = csv("content-type: text/csv\r\naccept: text/csv\r\n", "5.1,3.5,1.1,0.2\n6.3,2.9,6.3,1.8");
    assert_eq!(
        (answer.body.as_str(), answer.header("content-type")),
        ("0\n2\n", Some("text/csv")),
        "as SageMaker does"
    );
}

#[test]
fn bad_values_of_every_platform_are_told_their_place() {
    let server = Server::start(&[]);
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let columns = json!(COLUMNS).to_string();
    let row = |bad: &str| format!("[5.1, 3.5, 1.1, {bad}]");
    let split = |bad: &str| format!(r#"{{"columns": {columns}, "data": [[5.1, 3.5, 1.1, 0.2], {}]}}"#, row(bad));
    for bad in ["1e400", r#""\ud800""#, "null", "true", &deep, "NaN"] {
        let record = format!(
            r#"{{"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.1, "petal width (cm)": {bad}}}"#
        );
        let by_column = format!(r#"{{"petal width (cm)": [0.2, {bad}]}}"#);
        for (path, body, place) in [
            ("/invocations", format!(r#"{{"dataframe_split": {}}}"#, split(bad)), "dataframe_split.data[1][3]"),
            ("/score", format!(r#"{{"input_data": {}}}"#, split(bad)), "input_data.data[1][3]"),
            (
                "/invocations",
                format!(r#"{{"dataframe_records": [{record}]}}"#),
                "dataframe_records[0].petal width (cm)",
            ),
            ("/invocations", format!(r#"{{"inputs": [{}]}}"#, row(bad)), "inputs[0][3]"),
            ("/invocations", format!(r#"{{"inputs": {by_column}}}"#), "inputs.petal width (cm)[1]"),
            ("/invocations", format!(r#"{{"inputs": {{"features": [{}]}}}}"#, row(bad)), "inputs.features[0][3]"),
            ("/v1/models/iris:predict", format!(r#"{{"instances": [{}]}}"#, row(bad)), "instances[0][3]"),
            ("/predict", format!("[{}]", row(bad)), "[0][3]"),
        ] {
            let answer = server.post(path, &body);
            let error = answer.json();
            // What is no JSON ends a frame, and is a fault of one value elsewhere.
            let is_frame = path != "/predict" && !path.starts_with("/v1");
            let status = if bad == "NaN" && is_frame { 400 } else { 422 };
            assert_eq!((answer.status, &error["details"][0]["path"]), (status, &json!(place)), "{bad:.20}: {error}");
        }
    }
}

#[test]
fn each_platform_sees_that_the_server_lives() {
    let server = Server::start(&[]);
    for path in ["/ping", "/health"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
    }
    let version = server.get("/version");
    assert_eq!((version.status, version.body.as_str()), (200, env!("CARGO_PKG_VERSION")));
    assert_eq!(server.get("/v1/models").ok(), json!({"models": ["iris", "pred-main"]}));
    assert_eq!(server.get("/v1/models/iris").ok(), json!({"name": "iris", "ready": true}));
    assert_eq!(server.get("/").ok(), json!({"status": "alive"}));
}

#[test]
fn vertex_ai_says_which_paths_it_asks() {
    let route = "/v1/endpoints/1/deployedModels/2";
    let predict = format!("{route}:predict");
    let server = Server::start(&["--health-route", route, "--predict-route", &predict]);
    assert_eq!(server.get(route).status, 200);
    let body = json!({"instances": rows(), "parameters": {}}).to_string();
    assert_eq!(server.post(&predict, &body).ok(), json!({"predictions": [0, 2]}));
}

#[test]
fn what_a_platform_sends_wrongly_is_its_fault() {
    let server = Server::start(&[]);
    let code = |path: &str, body: &str| {
        let answer = server.post(path, body);
        (answer.status, answer.json()["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(code("/v1/models/irs:predict", SETOSA), (404, "unknown_model".into()));
    assert_eq!(code("/v1/models/iris:explain", SETOSA), (501, "explain".into()));
    assert_eq!(code("/v1/models/iris:predict", r#"{"instances": [[1, 2, 3]]}"#), (422, "invalid_rows".into()));
    assert_eq!(code("/invocations", "{}"), (400, "malformed".into()));
    assert_eq!(code("/invocations", r#"{"inputs": [], "instances": []}"#), (400, "malformed".into()));
    assert_eq!(server.get("/invocations").status, 405);
    let mut connection = Connection::open(server.listen);
    for headers in ["content-type: text/plain\r\n", "content-type: text/csv; charset=latin1\r\n"] {
        let answer = connection.ask("POST", "/invocations", headers, "1,2,3,4").unwrap();
        assert_eq!((answer.status, answer.json()["code"].as_str()), (415, Some("content_type")), "{headers}");
    }
}
