//! The operations of the Open Inference Protocol (V2) under `/v2`.

use mainstay_models::spec::{Feature, GoldenRow, Value as Known};
use serde_json::{Value, json};

use super::predict::{golden_rows, reference};
use super::{Answer, Example, Group, ModelReference, Operation, schema};
use crate::wire::oip::TensorMetadata;

const JSON: &str = "application/json";

const READ_ERRORS: &[u16] = &[404, 405, 503];
const INFER_ERRORS: &[u16] = &[400, 404, 405, 408, 413, 415, 500, 503, 504];
const INDEX_ERRORS: &[u16] = &[400, 405, 408, 413, 415, 503];
const ORDER_ERRORS: &[u16] = &[400, 403, 404, 405, 408, 413, 415, 503, 504];

/// The operations of one model; `may_order` says whether requests may load and unload it.
pub(super) fn model(model: &ModelReference<'_>, may_order: bool) -> Vec<Operation> {
    let name = model.name;
    let versioned = format!("/versions/{}", model.spec().version);
    let mut operations = Vec::new();
    for (id, under) in [("", ""), ("version-", versioned.as_str())] {
        let path = |path: &str| format!("/v2/models/{name}{under}{path}");
        let id = |what: &str| format!("v2.{id}{what}.{name}");
        let read = |what: &str, end: &str, summary: &str, schema: Value| {
            operation(id(what), path(end), summary, schema, READ_ERRORS)
        };
        operations.push(infer(model, id("infer"), path("/infer")));
        operations.push(read("metadata", "", "What goes in and what comes out, as tensors", metadata(model)));
        operations.push(read("ready", "/ready", "Whether it answers", object(&[("name", text()), ("ready", truth())])));
        operations.push(read("config", "/config", "Its configuration, as Triton's clients read it", config(model)));
        operations.push(read("stats", "/stats", "What has been counted of it", statistics()));
        operations.extend(settings(&id("trace"), path("/trace/setting"), "trace", trace()));
    }
    // In this order, so that who tries both has it loaded in the end.
    operations.extend(["unload", "load"].map(|verb| order(model, verb, may_order)));
    operations
}

fn metadata(model: &ModelReference<'_>) -> Value {
    let tensors = json!({"type": "array", "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}, "description": "-1 is the number of rows."},
        },
        "required": ["name", "datatype", "shape"],
    }});
    object(&[
        ("name", json!({"const": model.name.as_str()})),
        ("versions", json!({"type": "array", "items": {"type": "string"}})),
        ("platform", text()),
        ("inputs", tensors.clone()),
        ("outputs", tensors),
    ])
}

fn config(model: &ModelReference<'_>) -> Value {
    object(&[
        ("name", json!({"const": model.name.as_str()})),
        ("max_batch_size", json!({"type": "integer"})),
        ("input", list()),
        ("output", list()),
    ])
}

fn statistics() -> Value {
    object(&[("model_stats", list())])
}

fn trace() -> Value {
    object(&[
        ("trace_level", json!({"type": "array", "items": text()})),
        ("trace_rate", text()),
        ("trace_count", text()),
    ])
}

fn list() -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

/// Settings, which are shown and not changed.
fn settings(id: &str, path: String, what: &str, schema: Value) -> [Operation; 2] {
    let change = Operation {
        // Refused whatever it is.
        bodies: vec![(JSON, json!({}))],
        ..refused("POST", format!("{id}.change"), path.clone(), "Changes them, which is refused", (403, "read_only"))
    };
    [operation(id.to_owned(), path, &format!("The {what} settings"), schema, READ_ERRORS), change]
}

/// An order to load or to unload a model.
fn order(model: &ModelReference<'_>, verb: &str, may_order: bool) -> Operation {
    let name = model.name;
    let answer: Vec<(&'static str, Value)> =
        if may_order { vec![("name", name.as_str().into())] } else { vec![("code", "git_decides".into())] };
    let options = json!({"type": "object", "properties": {"parameters": {"type": "object"}}});
    let done = object(&[("name", json!({"const": name.as_str()}))]);
    let summary = if verb == "load" { "Loads it anew, as a commit asks for it" } else { "Takes it out of service" };
    Operation {
        id: format!("v2.{verb}.{name}"),
        method: "POST",
        path: format!("/v2/repository/models/{name}/{verb}"),
        summary: summary.to_owned(),
        description: "Refused unless the server's operator lets requests load and unload models.".to_owned(),
        parameters: Vec::new(),
        bodies: vec![(JSON, if may_order { options } else { json!({}) })],
        answer: Some(Answer { description: "It is done.".to_owned(), kind: JSON, schema: done, example: None }),
        errors: ORDER_ERRORS,
        unready: None,
        examples: vec![Example {
            title: "as it is".to_owned(),
            query: Vec::new(),
            body: None,
            status: if may_order { 200 } else { 403 },
            answer,
        }],
    }
}

/// The operations of the server.
pub(super) fn group() -> Group {
    let read = |id: &str, path: &str, summary: &str, schema: Value| {
        operation(format!("v2.{id}"), format!("/v2{path}"), summary, schema, &[405, 503])
    };
    let names = json!({"type": "array", "items": {"type": "string"}});
    let health = || object(&[("live", truth()), ("ready", truth())]);
    let server = object(&[("name", text()), ("version", text()), ("extensions", names.clone())]);
    let logging =
        object(&[("log_file", text()), ("log_info", truth()), ("log_warning", truth()), ("log_error", truth())]);
    let mut ready = read("ready", "/health/ready", "Whether it answers predictions", health());
    ready.unready = Some((503, health()));
    let mut operations = vec![
        read("live", "/health/live", "Whether the server lives", health()),
        ready,
        read("server", "", "What the server is", server),
        read("models", "/models", "The models' names", object(&[("models", names)])),
        read("stats", "/models/stats", "What has been counted of all models", statistics()),
        repository_index(),
    ];
    operations.extend(settings("v2.trace", "/v2/trace/setting".to_owned(), "trace", trace()));
    operations.extend(settings("v2.logging", "/v2/logging".to_owned(), "log", logging));
    for memory in ["systemsharedmemory", "cudasharedmemory"] {
        let summary = "Tensors in shared memory, which are not read here";
        for (method, what, path) in [
            ("GET", "status", "status"),
            ("POST", "register", "region/inputs/register"),
            ("POST", "unregister", "unregister"),
        ] {
            let (id, path) = (format!("v2.{memory}.{what}"), format!("/v2/{memory}/{path}"));
            operations.push(refused(method, id, path, summary, (501, "shared_memory")));
        }
    }
    let description = "The Open Inference Protocol, as clients of Triton and KServe speak it. Each model has its \
                       operations in its own topic.";
    Group { name: "v2".to_owned(), description: description.to_owned(), operations }
}

fn repository_index() -> Operation {
    let entry = object(&[
        ("name", text()),
        ("version", text()),
        ("state", json!({"enum": ["READY", "LOADING", "UNAVAILABLE"]})),
        ("reason", text()),
    ]);
    let summary = "Every version of every model";
    let schema = json!({"type": "array", "items": entry});
    let ready = json!({"type": "boolean", "description": "Whether only what is ready is wanted."});
    let mut index = operation("v2.index".to_owned(), "/v2/repository/index".to_owned(), summary, schema, INDEX_ERRORS);
    index.method = "POST";
    index.bodies = vec![(JSON, json!({"type": "object", "properties": {"ready": ready}}))];
    index.examples.push(Example {
        title: "what is ready".to_owned(),
        query: Vec::new(),
        body: Some((JSON, json!({"ready": true}).to_string())),
        status: 200,
        answer: Vec::new(),
    });
    index
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
        answer: Some(Answer { description: format!("{summary}."), kind: JSON, schema, example: None }),
        errors,
        unready: None,
        examples: vec![example],
    }
}

/// An operation that is always refused, with a status and a code.
pub(super) fn refused(
    method: &'static str,
    id: String,
    path: String,
    summary: &str,
    (status, code): (u16, &str),
) -> Operation {
    let errors = if status == 501 { &[405, 501, 503][..] } else { &[403, 405, 503] };
    let mut operation = operation(id, path, summary, json!({}), errors);
    operation.method = method;
    operation.answer = None;
    for example in &mut operation.examples {
        (example.status, example.answer) = (status, vec![("code", code.into())]);
    }
    operation
}

/// A value as the model gets it: a category by its place.
fn encoded(feature: &Feature, known: &Known) -> Value {
    let place = match known {
        Known::Text(text) => feature.domain.category_index(text).map(schema::number),
        _ => None,
    };
    place.unwrap_or_else(|| schema::value(known))
}

fn shaped(tensor: &TensorMetadata, shape: Value, elements: (&str, Value)) -> Value {
    object(&[
        ("name", json!({"const": tensor.name})),
        ("datatype", json!({"const": tensor.datatype.name()})),
        ("shape", shape),
        elements,
    ])
}

/// The schema of a request for a prediction.
pub(super) fn infer_request(model: &ModelReference<'_>) -> Value {
    let metadata = model.version.signature.metadata();
    let input = |tensor: &TensorMetadata| {
        let elements = if tensor.datatype.is_binary_only() {
            let size =
                json!({"type": "integer", "minimum": 0, "description": "How many bytes follow the JSON for it."});
            ("parameters", object(&[("binary_data_size", size)]))
        } else {
            let description = "Row by row, flat or nested: as many as the shape says.";
            ("data", json!({"type": "array", "description": description}))
        };
        let size = tensor.shape.len();
        let shape =
            json!({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": size, "maxItems": size});
        shaped(tensor, shape, elements)
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
    request
}

/// The schema of its answer.
pub(super) fn infer_answer(model: &ModelReference<'_>) -> Value {
    let sizes = json!({"type": "array", "items": {"type": "integer"}});
    let output = |tensor: &TensorMetadata| shaped(tensor, sizes.clone(), ("data", json!({"type": "array"})));
    let outputs = &model.version.signature.metadata().outputs;
    object(&[
        ("model_name", json!({"const": model.name.as_str()})),
        ("model_version", text()),
        ("outputs", json!({"type": "array", "items": {"anyOf": outputs.iter().map(output).collect::<Vec<_>>()}})),
    ])
}

fn infer(model: &ModelReference<'_>, id: String, path: String) -> Operation {
    let spec = model.spec();
    let name = model.name;
    let rows = golden_rows(spec);
    let metadata = model.version.signature.metadata();
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
        id,
        method: "POST",
        path,
        summary: format!("Predictions by {name}, as tensors"),
        description: "The Open Inference Protocol. Tensors may also be binary, and bodies compressed.".to_owned(),
        parameters: Vec::new(),
        bodies: vec![(JSON, reference(model, "InferRequest"))],
        answer: Some(Answer {
            description: "The predictions, as tensors.".to_owned(),
            kind: JSON,
            schema: reference(model, "InferAnswer"),
            example: None,
        }),
        errors: INFER_ERRORS,
        unready: None,
        examples,
    }
}
