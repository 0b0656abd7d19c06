//! The account as a Postman collection 2.1: every example is a request with tests of its answer.

use serde_json::{Value, json};

use super::{Example, Group, Operation, Reference, encoded};

const SCHEMA: &str = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json";

/// The collection, whose requests go to `base_url`.
pub(super) fn collection(reference: &Reference<'_>, base_url: &str) -> Value {
    let mut folders: Vec<Value> = reference.groups.iter().map(|group| folder(group, |status| status == 200)).collect();
    let faults = reference.groups.iter().map(|group| folder(group, |status| status != 200));
    let mut faults: Vec<Value> = faults.filter(|folder| folder["item"] != json!([])).collect();
    faults.push(json!({"name": "paths", "item": [request(
        "GET",
        "/models/nothing/predict",
        &Example {
            title: "a model that there is not".to_owned(),
            query: Vec::new(),
            body: None,
            status: 404,
            answer: vec![("code", "unknown_model".into())],
        },
        "Names the models that there are.",
    )]}));
    folders.push(json!({
        "name": "errors",
        "description": "Every error has one shape, and is never a 5xx for a client's fault.",
        "item": faults,
    }));
    json!({
        "info": {
            "name": "Mainstay",
            "description": "Predictions by the models being served. The variable `baseUrl` says where.",
            "schema": SCHEMA,
        },
        "variable": [{"key": "baseUrl", "value": base_url, "type": "string"}],
        "item": folders,
    })
}

fn folder(group: &Group, of_status: impl Fn(u16) -> bool) -> Value {
    let of = |operation: &Operation| -> Vec<Value> {
        let examples = operation.examples.iter().filter(|example| of_status(example.status));
        examples.map(|example| request(operation.method, &operation.path, example, &operation.summary)).collect()
    };
    let items: Vec<Value> = group.operations.iter().flat_map(of).collect();
    json!({"name": group.name, "description": group.description, "item": items})
}

fn request(method: &str, path: &str, example: &Example, summary: &str) -> Value {
    let query = example.query_string();
    let question = if query.is_empty() { "" } else { "?" };
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let pairs = |(name, value): &(String, String)| json!({"key": encoded(name), "value": encoded(value)});
    let mut request = json!({
        "method": method,
        "description": summary,
        "header": [{"key": "Accept", "value": "application/json"}],
        "url": {
            "raw": format!("{{{{baseUrl}}}}{path}{question}{}", query),
            "host": ["{{baseUrl}}"],
            "path": segments,
            "query": example.query.iter().map(pairs).collect::<Vec<_>>(),
        },
    });
    if let Some((kind, text)) = &example.body {
        request["header"] =
            json!([{"key": "Content-Type", "value": kind}, {"key": "Accept", "value": "application/json"}]);
        request["body"] = json!({"mode": "raw", "raw": text});
    }
    let script = tests(example);
    json!({
        "name": format!("{method} {path}: {}", example.title),
        "request": request,
        "event": [{"listen": "test", "script": {"type": "text/javascript", "exec": script}}],
    })
}

/// What must hold of the answer, as the lines of a script.
fn tests(example: &Example) -> Vec<String> {
    let status = example.status;
    let mut lines = vec![
        format!("pm.test('status {status}', () => pm.response.to.have.status({status}));"),
        "pm.test('has an id', () => pm.response.to.have.header('x-request-id'));".to_owned(),
    ];
    for (key, value) in &example.answer {
        lines.push(format!("pm.test('{key}', () => pm.expect(pm.response.json()['{key}']).to.eql({value}));"));
    }
    if status != 200 {
        lines.push(
            "pm.test('says what is wrong', () => pm.expect(pm.response.json().error).to.be.a('string'));".to_owned(),
        );
    }
    lines
}
