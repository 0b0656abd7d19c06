//! The account as OpenAPI 3.1.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Answer, Operation, Reference, schema, v2};

/// Every status but 200 that a request may be answered with, and when it is.
pub(super) const ERRORS: [(u16, &str); 12] = [
    (400, "The body is not of a form that is read here, or was cut off."),
    (403, "What only a commit or the server's operator may change."),
    (404, "There is no such model or version; the answer names those that there are."),
    (405, "The path does not answer this method; `Allow` names those that it does."),
    (408, "The body did not arrive in time."),
    (413, "The body has too many bytes or rows."),
    (415, "The body is of a type that is not read here, or compressed."),
    (422, "Values are not what the model's features ask for; `details` lists them."),
    (500, "The model failed; the server's log has the reason under the request's id."),
    (501, "What is not done here; the answer says what to do instead."),
    (
        503,
        "The server has as much to do as it may, or the model is not loaded yet; `Retry-After` says when to ask again.",
    ),
    (504, "The request's time was over before the model could run; it was not run."),
];

/// The document.
pub(super) fn document(reference: &Reference<'_>) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for group in &reference.groups {
        for one in &group.operations {
            let methods = paths.entry(&one.path).or_default();
            methods.insert(one.method.to_ascii_lowercase(), operation(one, &group.name));
        }
    }
    let tags = reference.groups.iter().map(|group| json!({"name": group.name, "description": group.description}));
    let mut schemas = Map::from_iter([("Error".to_owned(), schema::error())]);
    for model in &reference.models {
        let spec = model.spec();
        for (what, schema) in [
            ("Record", schema::record_object(spec)),
            ("Row", schema::record_list(spec)),
            ("Answer", schema::answer(spec)),
            ("InferRequest", v2::infer_request(model)),
            ("InferAnswer", v2::infer_answer(model)),
        ] {
            schemas.insert(format!("{}.{what}", model.name), schema);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mainstay",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Predictions by the models being served.",
            "description": description(reference),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        // Relative to this document, so that it holds behind any address.
        "servers": [{"url": "."}],
        "tags": tags.collect::<Vec<_>>(),
        "paths": paths,
        "components": {"schemas": schemas, "responses": responses(), "headers": headers()},
    })
}

fn description(reference: &Reference<'_>) -> String {
    let mut text = "Describes the models as they are served now: it changes with each release. Every answer has an \
                    `x-request-id`; every error is of one shape."
        .to_owned();
    if !reference.left_out.is_empty() {
        let names: Vec<&str> = reference.left_out.iter().map(|name| name.as_str()).collect();
        text = format!(
            "{text} Models that are served too, and described by `openapi.json?model=NAME`: {}.",
            names.join(", ")
        );
    }
    text
}

fn operation(operation: &Operation, tag: &str) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [tag],
        "summary": operation.summary,
        "description": operation.description,
    });
    let parameters: Vec<Value> = operation.parameters.iter().map(parameter).collect();
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if !operation.bodies.is_empty() {
        let content =
            operation.bodies.iter().map(|(kind, schema)| ((*kind).to_owned(), media(operation, kind, schema)));
        described["requestBody"] = json!({"required": operation.needs_body(), "content": Map::from_iter(content)});
    }
    let mut responses = json!({});
    if let Some(answer) = &operation.answer {
        responses["200"] = success(answer);
    }
    for status in operation.errors {
        responses[status.to_string()] = json!({"$ref": format!("#/components/responses/{status}")});
    }
    if let Some((status, schema)) = &operation.unready {
        let schema = json!({"anyOf": [schema, {"$ref": "#/components/schemas/Error"}]});
        responses[status.to_string()] = json!({
            "description": Reference::meaning(*status),
            "headers": {"x-request-id": {"$ref": "#/components/headers/x-request-id"}},
            "content": {"application/json": {"schema": schema}},
        });
    }
    described["responses"] = responses;
    described
}

fn success(answer: &Answer) -> Value {
    let mut response = json!({
        "description": answer.description,
        "headers": {"x-request-id": {"$ref": "#/components/headers/x-request-id"}},
    });
    if !answer.kind.is_empty() {
        let mut media = json!({"schema": answer.schema});
        if let Some(example) = &answer.example {
            media["example"] = example.clone();
        }
        response["content"] = Value::Object(Map::from_iter([(answer.kind.to_owned(), media)]));
    }
    response
}

fn parameter(parameter: &super::Parameter) -> Value {
    let mut described = json!({
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "required": parameter.required,
        "schema": parameter.schema,
    });
    if let Some(example) = &parameter.example {
        described["example"] = example.clone();
    }
    described
}

/// A body of one content type, with the examples that are of it and are answered.
fn media(operation: &Operation, kind: &str, schema: &Value) -> Value {
    let mut examples = Map::new();
    for (place, example) in operation.examples.iter().enumerate() {
        let Some((_, text)) = example.body.as_ref().filter(|(k, _)| *k == kind && example.status == 200) else {
            continue;
        };
        // A form's example is the object that its fields are; its text is for other forms of this account.
        let value = match kind {
            "application/json" => serde_json::from_str(text).unwrap_or_default(),
            "application/x-www-form-urlencoded" => continue,
            _ => Value::from(text.as_str()),
        };
        examples.insert(format!("example-{place}"), json!({"summary": example.title, "value": value}));
    }
    let mut media = json!({"schema": schema});
    if !examples.is_empty() {
        media["examples"] = examples.into();
    }
    media
}

fn responses() -> Value {
    let response = |(status, when): &(u16, &str)| {
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/x-request-id"}});
        let extra = match status {
            405 => Some("Allow"),
            503 => Some("Retry-After"),
            _ => None,
        };
        if let Some(name) = extra {
            headers[name] = json!({"$ref": format!("#/components/headers/{name}")});
        }
        let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}});
        (status.to_string(), json!({"description": when, "headers": headers, "content": content}))
    };
    Value::Object(ERRORS.iter().map(response).collect())
}

fn headers() -> Value {
    json!({
        "x-request-id": {
            "description": "The client's id for the request where it sent a printable one, else a new one.",
            "required": true,
            "schema": {"type": "string"},
        },
        "Allow": {"description": "The methods that the path answers.", "schema": {"type": "string"}},
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    })
}
