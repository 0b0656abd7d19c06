//! The operations of the Open Inference Protocol (V2) under `/v2`.

use mainstay_models::spec::{Feature, GoldenRow, Value as Known};
use serde_json::{Value, json};

use super::predict::golden_rows;
use super::{Answer, Example, Group, ModelReference, Operation, schema};
use crate::wire::oip::TensorMetadata;

const JSON: &str = "application/json";

const READ_ERRORS: &[u16] = &[404, 405, 503];
const INFER_ERRORS: &[u16] = &[400, 404, 405, 408, 413, 415, 500, 503, 504];

/// The operations of one model.
pub(super) fn model(model: &ModelReference<'_>) -> Vec<Operation> {
    let name = model.name;
    let read = |id: &str, path: &str, summary: &str, schema: Value| {
        operation(format!("v2.{id}.{name}"), format!("/v2/models/{name}{path}"), summary, schema, READ_ERRORS)
    };
    let tensors = json!({"type": "array", "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}, "description": "-1 is the number of rows."},
        },
        "required": ["name", "datatype", "shape"],
    }});
    let metadata = object(&[
        ("name", json!({"const": name.as_str()})),
        ("versions", json!({"type": "array", "items": {"type": "string"}})),
        ("platform", json!({"type": "string"})),
        ("inputs", tensors.clone()),
        ("outputs", tensors),
    ]);
    let list = || json!({"type": "array", "items": {"type": "object"}});
    let config = object(&[
        ("name", json!({"const": name.as_str()})),
        ("max_batch_size", json!({"type": "integer"})),
        ("input", list()),
        ("output", list()),
    ]);
    vec![
        infer(model),
        read("metadata", "", "What goes in and what comes out, as tensors", metadata),
        read("ready", "/ready", "Whether it answers", object(&[("name", text()), ("ready", truth())])),
        read("config", "/config", "Its configuration, as Triton's clients read it", config),
        read("stats", "/stats", "What has been counted of it", object(&[("model_stats", list())])),
    ]
}

/// The operations of the server.
pub(super) fn group() -> Group {
    let read = |id: &str, path: &str, summary: &str, schema: Value| {
        operation(format!("v2.{id}"), format!("/v2{path}"), summary, schema, &[405, 503])
    };
    let list = || json!({"type": "array", "items": {"type": "object"}});
    let names = json!({"type": "array", "items": {"type": "string"}});
    let health = || object(&[("live", truth()), ("ready", truth())]);
    let server = object(&[("name", text()), ("version", text()), ("extensions", names.clone())]);
    let operations = vec![
        read("live", "/health/live", "Whether the server lives", health()),
        read("ready", "/health/ready", "Whether it answers predictions", health()),
        read("server", "", "What the server is", server),
        read("models", "/models", "The models' names", object(&[("models", names)])),
        read("stats", "/models/stats", "What has been counted of all models", object(&[("model_stats", list())])),
    ];
    let description = "The Open Inference Protocol, as clients of Triton and KServe speak it. Each model has its \
                       operations in its own topic.";
    Group { name: "v2".to_owned(), description: description.to_owned(), operations }
}

/// The schema of a text.
pub(super) fn text() -> Value {
    json!({"type": "string"})
}

/// The schema of a truth value.
pub(super) fn truth() -> Value {
    json!({"type": "boolean"})
}

/// An object that has at least these keys.
pub(super) fn object(properties: &[(&str, Value)]) -> Value {
    let required: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let properties: serde_json::Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// An operation that reads.
pub(super) fn operation(id: String, path: String, summary: &str, schema: Value, errors: &'static [u16]) -> Operation {
    let example =
        Example { title: "as it is".to_owned(), query: Vec::new(), body: None, status: 200, answer: Vec::new() };
    Operation {
        id,
        method: "GET",
        path,
        summary: summary.to_owned(),
        description: String::new(),
        parameters: Vec::new(),
        bodies: Vec::new(),
        answer: Answer { description: format!("{summary}."), schema, example: None },
        errors,
        examples: vec![example],
    }
}

/// A value as the model gets it: a category by its place.
fn encoded(feature: &Feature, known: &Known) -> Value {
    let place = match known {
        Known::Text(text) => feature.domain.category_index(text).map(schema::number),
        _ => None,
    };
    place.unwrap_or_else(|| schema::value(known))
}

fn infer(model: &ModelReference<'_>) -> Operation {
    let spec = model.spec();
    let name = model.name;
    let path = format!("/v2/models/{name}/infer");
    let rows = golden_rows(spec);
    let metadata = model.version.signature.metadata();
    let tensor = |tensor: &TensorMetadata| {
        object(&[
            ("name", json!({"const": tensor.name})),
            ("datatype", json!({"const": tensor.datatype.name()})),
            ("shape", json!({"type": "array", "items": {"type": "integer"}})),
            ("data", json!({"type": "array"})),
        ])
    };
    let answer = object(&[
        ("model_name", json!({"const": name.as_str()})),
        ("model_version", text()),
        (
            "outputs",
            json!({"type": "array", "items": {"anyOf": metadata.outputs.iter().map(tensor).collect::<Vec<_>>()}}),
        ),
    ]);
    let input = |tensor: &TensorMetadata| {
        let data = json!({"type": "array", "description": "Row by row, flat or nested: as many as the shape says."});
        let shape = json!({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": tensor.shape.len(), "maxItems": tensor.shape.len()});
        object(&[
            ("name", json!({"const": tensor.name})),
            ("datatype", json!({"const": tensor.datatype.name()})),
            ("shape", shape),
            ("data", data),
        ])
    };
    let count = metadata.inputs.len();
    let inputs = json!({
        "type": "array",
        "items": {"anyOf": metadata.inputs.iter().map(input).collect::<Vec<_>>()},
        "minItems": count,
        "maxItems": count,
    });
    let mut request = object(&[("inputs", inputs)]);
    request["properties"]["id"] = json!({"type": "string", "description": "Given back."});
    let mut examples = Vec::new();
    if let ([input], Some(_)) = (&metadata.inputs[..], spec.input.matrix()) {
        let encoded = |row: &&GoldenRow| -> Vec<Value> {
            spec.input.features.iter().zip(&row.features).map(|(feature, known)| encoded(feature, known)).collect()
        };
        let values: Vec<Value> = rows.iter().flat_map(encoded).collect();
        let tensor = json!({
            "name": input.name,
            "shape": [rows.len(), spec.input.features.len()],
            "datatype": input.datatype.name(),
            "data": values,
        });
        let body = json!({"id": "example", "inputs": [tensor]});
        examples.push(Example {
            title: "rows as a tensor".to_owned(),
            query: Vec::new(),
            body: Some((JSON, format!("{body:#}"))),
            status: 200,
            answer: vec![("id", "example".into()), ("model_name", name.as_str().into())],
        });
    }
    examples.push(Example {
        title: "without inputs".to_owned(),
        query: Vec::new(),
        body: Some((JSON, "{}".to_owned())),
        status: 400,
        answer: vec![("code", "invalid_request".into())],
    });
    Operation {
        id: format!("v2.infer.{name}"),
        method: "POST",
        path,
        summary: format!("Predictions by {name}, as tensors"),
        description: "The Open Inference Protocol. Tensors may also be binary, and bodies compressed.".to_owned(),
        parameters: Vec::new(),
        bodies: vec![(JSON, request)],
        answer: Answer { description: "The predictions, as tensors.".to_owned(), schema: answer, example: None },
        errors: INFER_ERRORS,
        examples,
    }
}
