//! What platforms that host models ask of a container, each in a file of its own, and what they are asked with here.

use serde_json::{Value, json};

use crate::harness::{Answer, Server};

mod azure_ml;
mod kserve;
mod mlflow;
mod sagemaker;
mod vertex_ai;

const COLUMNS: [&str; 4] = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"];

/// Two rows, of which the shipped iris says 0 and 2.
fn rows() -> Value {
    json!([[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.3, 1.8]])
}

/// The same with their columns' names.
fn records() -> Value {
    let record = |row: &Value| -> Value {
        let values = COLUMNS.iter().zip(row.as_array().unwrap());
        values.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    };
    rows().as_array().unwrap().iter().map(record).collect()
}

/// The same as a data frame.
fn frame() -> Value {
    json!({"columns": COLUMNS, "index": [0, 1], "data": rows()})
}

/// Holds what is answered to `path` and `body` against what the shipped iris says of [`rows`].
fn check_predictions(server: &Server, path: &str, body: &Value) {
    let answer = server.post(path, &body.to_string());
    let expected = json!({"predictions": [0, 2]});
    assert_eq!((answer.ok(), answer.header("x-model")), (expected, Some("iris")), "{path} {body}");
}

/// Puts values that are none of a feature's where `body` has them, and looks whether the answer names `place`; `is_frame` says
/// that a body which is no JSON is told as that, and not as a fault of one value.
pub fn check_place(server: &Server, path: &str, body: impl Fn(&str) -> String, place: &str, is_frame: bool) {
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    for bad in ["1e400", r#""\ud800""#, "null", "true", &deep, "NaN"] {
        let answer = server.post(path, &body(bad));
        let error = answer.json();
        let status = if bad == "NaN" && is_frame { 400 } else { 422 };
        assert_eq!((answer.status, &error["details"][0]["path"]), (status, &json!(place)), "{bad:.20}: {error}");
    }
}

/// A row whose last value is `bad`.
pub fn row(bad: &str) -> String {
    format!("[5.1, 3.5, 1.1, {bad}]")
}

/// A data frame whose last value is `bad`.
fn frame_with(bad: &str) -> String {
    format!(r#"{{"columns": {}, "data": [[5.1, 3.5, 1.1, 0.2], {}]}}"#, json!(COLUMNS), row(bad))
}

/// The status and the code of an error.
fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap().to_owned())
}
