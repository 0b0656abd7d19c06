//! The operations by which platforms that host models ask: KServe V1, MLflow and SageMaker.

use serde_json::{Value, json};

use super::predict::golden_rows;
use super::v2::{object, operation, text, truth};
use super::{Answer, Example, Group, ModelReference, Operation, predict, schema};
use crate::api::RequestLimits;

const JSON: &str = "application/json";

const READ_ERRORS: &[u16] = &[404, 405, 503];
const POST_ERRORS: &[u16] = &[400, 404, 405, 408, 413, 415, 422, 500, 503, 504];

/// The operations of one model.
pub(super) fn model(model: &ModelReference<'_>, limits: &RequestLimits) -> Vec<Operation> {
    let name = model.name;
    let rows = golden_rows(model.spec());
    let records: Vec<Value> = rows.iter().map(|row| schema::record(model.spec(), row)).collect();
    let known = known(predict::classes(model.spec(), &rows));
    let path = format!("/v1/models/{name}:predict");
    let example = Example {
        title: "instances".to_owned(),
        query: Vec::new(),
        body: Some((JSON, format!("{:#}", json!({"instances": records})))),
        status: 200,
        answer: known.clone(),
    };
    let predict = Operation {
        id: format!("v1.predict.{name}"),
        method: "POST",
        path,
        summary: format!("Predictions by {name}, for KServe's and Vertex AI's clients"),
        description: "The V1 protocol.".to_owned(),
        parameters: Vec::new(),
        bodies: vec![(JSON, predict::instances(model, limits))],
        answer: predictions(&known),
        errors: POST_ERRORS,
        examples: vec![example],
    };
    let ready = object(&[("name", text()), ("ready", truth())]);
    let path = format!("/v1/models/{name}");
    vec![predict, operation(format!("v1.model.{name}"), path, "Whether it answers", ready, READ_ERRORS)]
}

/// The operations of the server, where `default` is the model that it asks.
pub(super) fn group(default: Option<&ModelReference<'_>>) -> Group {
    let names = json!({"type": "array", "items": {"type": "string"}});
    let models = object(&[("models", names)]);
    let mut operations =
        vec![operation("v1.models".to_owned(), "/v1/models".to_owned(), "The models' names", models, &[405, 503])];
    operations.extend(default.map(invocations));
    let description = "What KServe V1, MLflow and SageMaker ask of a server.";
    Group { name: "platforms".to_owned(), description: description.to_owned(), operations }
}

/// What is known of an answer whose rows are of these classes.
fn known(classes: Option<Value>) -> Vec<(&'static str, Value)> {
    classes.map(|classes| ("predictions", classes)).into_iter().collect()
}

fn predictions(known: &[(&'static str, Value)]) -> Answer {
    let schema = object(&[("predictions", json!({"type": "array"}))]);
    let example = known.first().map(|(key, value)| json!({ *key: value }));
    Answer { description: "The predictions.".to_owned(), schema, example }
}

fn invocations(model: &ModelReference<'_>) -> Operation {
    let spec = model.spec();
    let rows = golden_rows(spec);
    let records: Vec<Value> = rows.iter().map(|row| schema::record(spec, row)).collect();
    let lists: Vec<Vec<Value>> = rows.iter().map(|row| predict::list(row)).collect();
    let columns: Vec<&str> = spec.input.features.iter().map(|feature| feature.name.as_str()).collect();
    let known = known(predict::classes(spec, &rows));
    let example = |title: &str, body: Value| Example {
        title: title.to_owned(),
        query: Vec::new(),
        body: Some((JSON, format!("{body:#}"))),
        status: 200,
        answer: known.clone(),
    };
    let list = || json!({"type": "array"});
    let request = json!({"anyOf": [
        object(&[("dataframe_split", object(&[("data", list())]))]),
        object(&[("dataframe_records", list())]),
        object(&[("instances", list())]),
        object(&[("inputs", json!({}))]),
    ]});
    Operation {
        id: "invocations".to_owned(),
        method: "POST",
        path: "/invocations".to_owned(),
        summary: format!("Predictions by {}, for MLflow's and SageMaker's clients", model.name),
        description: "Reads data frames as MLflow writes them; also CSV.".to_owned(),
        parameters: Vec::new(),
        bodies: vec![(JSON, request)],
        answer: predictions(&known),
        errors: POST_ERRORS,
        examples: vec![
            example("a data frame, split", json!({"dataframe_split": {"columns": columns, "data": lists}})),
            example("a data frame's records", json!({"dataframe_records": records})),
        ],
    }
}
