//! The operations by which platforms that host models ask: KServe V1, MLflow, SageMaker and Azure Machine Learning.

use serde_json::{Value, json};

use super::predict::golden_rows;
use super::v2::{object, operation, refused, text, truth};
use super::{Answer, Example, Group, ModelReference, Offered, Operation, Parameter, predict, schema};
use crate::api::RequestLimits;

const JSON: &str = "application/json";

const READ_ERRORS: &[u16] = &[404, 405, 503];
const POST_ERRORS: &[u16] = &[400, 404, 405, 408, 413, 415, 422, 500, 503, 504];

/// The operations of one model.
pub(super) fn model(model: &ModelReference<'_>, limits: &RequestLimits) -> Vec<Operation> {
    let name = model.name;
    let summary = format!("Predictions by {name}, for KServe's and Vertex AI's clients");
    let predict =
        instances(model, limits, &format!("v1.predict.{name}"), &format!("/v1/models/{name}:predict"), summary);
    let ready = object(&[("name", text()), ("ready", truth())]);
    let path = format!("/v1/models/{name}");
    let explain = Operation {
        // Refused whatever it is.
        bodies: vec![(JSON, json!({}))],
        ..refused(
            "POST",
            format!("v1.explain.{name}"),
            format!("{path}:explain"),
            "Explanations, which are not made here",
            (501, "explain"),
        )
    };
    vec![predict, operation(format!("v1.model.{name}"), path, "Whether it answers", ready, READ_ERRORS), explain]
}

/// The prediction of the V1 protocol, at `path`.
fn instances(model: &ModelReference<'_>, limits: &RequestLimits, id: &str, path: &str, summary: String) -> Operation {
    let rows = golden_rows(model.spec());
    let records: Vec<Value> = rows.iter().map(|row| schema::record(model.spec(), row)).collect();
    let known = known(predict::classes(model.spec(), &rows));
    let example = Example {
        title: "instances".to_owned(),
        query: Vec::new(),
        body: Some((JSON, format!("{:#}", json!({"instances": records})))),
        status: 200,
        answer: known.clone(),
    };
    Operation {
        id: id.to_owned(),
        method: "POST",
        path: path.to_owned(),
        summary,
        description: "The V1 protocol.".to_owned(),
        parameters: Vec::new(),
        bodies: vec![(JSON, predict::instances(model, limits))],
        answer: Some(predictions(&known)),
        errors: POST_ERRORS,
        unready: None,
        examples: vec![example],
    }
}

/// The operations at the paths that this server was told to answer further.
pub(super) fn further(default: Option<&ModelReference<'_>>, limits: &RequestLimits, offered: Offered<'_>) -> Group {
    let health = offered.health_route.map(|path| ping("further.health", path));
    let predict = default.zip(offered.predict_route).map(|(model, path)| {
        let summary = format!("Predictions by {}, at the path that this server was told", model.name);
        instances(model, limits, "further.predict", path, summary)
    });
    let description = "What this server was told to answer at further paths, as Vertex AI tells its own.";
    let operations = health.into_iter().chain(predict).collect();
    Group { name: "further".to_owned(), description: description.to_owned(), operations }
}

fn ping(id: &str, path: &str) -> Operation {
    let mut ping =
        operation(id.to_owned(), path.to_owned(), "Whether the server answers predictions", json!({}), &[405, 503]);
    ping.answer = plain("Nothing: it does.", "", json!({}));
    ping
}

/// The operations of the server, where `default` is the model that it asks.
pub(super) fn group(default: Option<&ModelReference<'_>>) -> Group {
    let names = json!({"type": "array", "items": {"type": "string"}});
    let models = object(&[("models", names)]);
    let mut operations =
        vec![operation("v1.models".to_owned(), "/v1/models".to_owned(), "The models' names", models, &[405, 503])];
    operations.extend([ping("ping", "/ping"), ping("health", "/health")]);
    let mut version =
        operation("version".to_owned(), "/version".to_owned(), "The server's version", text(), &[405, 503]);
    version.answer = plain("The server's version.", "text/plain", text());
    operations.push(version);
    operations.push(swagger());
    operations.extend(default.map(|model| invocations(model, "invocations", "/invocations")));
    operations.extend(default.map(|model| invocations(model, "score", "/score")));
    let description = "What KServe V1, MLflow, SageMaker and Azure Machine Learning ask of a server.";
    Group { name: "platforms".to_owned(), description: description.to_owned(), operations }
}

fn plain(description: &str, kind: &'static str, schema: Value) -> Option<Answer> {
    Some(Answer { description: description.to_owned(), kind, schema, example: None })
}

fn swagger() -> Operation {
    let document = object(&[("info", json!({"type": "object"})), ("paths", json!({"type": "object"}))]);
    let path = "/swagger.json".to_owned();
    let summary = "What Azure Machine Learning may ask of the default model";
    let mut swagger = operation("swagger".to_owned(), path, summary, document, READ_ERRORS);
    swagger.parameters = vec![Parameter {
        name: "version".to_owned(),
        description: "2 for Swagger 2.0, which is given without it, or 3 for OpenAPI 3.0.".to_owned(),
        required: false,
        schema: json!({"type": "string", "enum": ["2", "3"]}),
        example: None,
    }];
    swagger.examples.push(Example {
        title: "as OpenAPI 3.0".to_owned(),
        query: vec![("version".to_owned(), "3".to_owned())],
        body: None,
        status: 200,
        answer: vec![("openapi", "3.0.3".into())],
    });
    swagger
}

/// What is known of an answer whose rows are of these classes.
fn known(classes: Option<Value>) -> Vec<(&'static str, Value)> {
    classes.map(|classes| ("predictions", classes)).into_iter().collect()
}

fn predictions(known: &[(&'static str, Value)]) -> Answer {
    let schema = object(&[("predictions", json!({"type": "array"}))]);
    let example = known.first().map(|(key, value)| json!({ *key: value }));
    Answer { description: "The predictions.".to_owned(), kind: JSON, schema, example }
}

fn invocations(model: &ModelReference<'_>, id: &str, path: &str) -> Operation {
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
        object(&[("input_data", object(&[("data", list())]))]),
    ]});
    let by_column: serde_json::Map<String, Value> = spec
        .input
        .features
        .iter()
        .enumerate()
        .map(|(at, feature)| (feature.name.clone(), lists.iter().map(|row| row[at].clone()).collect()))
        .collect();
    Operation {
        id: id.to_owned(),
        method: "POST",
        path: path.to_owned(),
        summary: format!(
            "Predictions by {}, for the clients of MLflow, SageMaker and Azure Machine Learning",
            model.name
        ),
        description: "Reads data frames as MLflow writes them; also CSV.".to_owned(),
        parameters: Vec::new(),
        bodies: vec![(JSON, request)],
        answer: Some(predictions(&known)),
        errors: POST_ERRORS,
        unready: None,
        examples: vec![
            example("a data frame, split", json!({"dataframe_split": {"columns": columns, "data": lists}})),
            example("a data frame's records", json!({"dataframe_records": records})),
            example("inputs by column", json!({"inputs": by_column})),
            example("input data", json!({"input_data": {"columns": columns, "data": lists}})),
        ],
    }
}
