//! The operations that tell of the server itself.

use serde_json::{Value, json};

use super::{Answer, Example, Group, Operation, Parameter};
use crate::catalog::Catalog;

const ERRORS: &[u16] = &[405, 503];
const MODEL_ERRORS: &[u16] = &[404, 405, 503];

/// The group of the server.
pub(super) fn group(catalog: &Catalog) -> Group {
    let name = |name: &str| json!({"type": "string", "description": name});
    let info = json!({
        "type": "object",
        "properties": {
            "server": name("The program and its version."),
            "release": {"type": ["object", "null"], "description": "The release that is served; null without one."},
            "default": {"type": ["string", "null"], "description": "The model that bare /predict asks."},
            "models": {"type": "array", "items": {"type": "object"}},
            "changes": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["server", "release", "default", "models", "changes"],
    });
    let names: Vec<&str> = catalog.models.iter().filter(|(_, m)| m.stable.is_some()).map(|(n, _)| n.as_str()).collect();
    let model = Parameter {
        name: "model".to_owned(),
        description: "Describes this model alone.".to_owned(),
        required: false,
        schema: json!({"type": "string", "enum": names}),
        example: None,
    };
    let openapi = json!({
        "type": "object",
        "properties": {"openapi": name("3.1.0"), "info": {"type": "object"}, "paths": {"type": "object"}},
        "required": ["openapi", "info", "paths"],
    });
    let postman = json!({
        "type": "object",
        "properties": {"info": {"type": "object"}, "item": {"type": "array"}},
        "required": ["info", "item"],
    });
    let mut documents = vec![
        operation("info", "/info", "What is served", "From which bytes, trained how, changed by which commits.", info),
        operation("openapi", "/openapi.json", "This interface", "For tools; /docs shows it to people.", openapi),
        operation("postman", "/postman.json", "This interface as a Postman collection", "Ready to import.", postman),
    ];
    // An empty choice would be a schema that nothing fits.
    if !names.is_empty() {
        documents[1].parameters.push(model);
        documents[1].errors = MODEL_ERRORS;
        documents[1].examples.push(Example {
            title: "a model that there is not".to_owned(),
            query: vec![("model".to_owned(), "nothing".to_owned())],
            body: None,
            status: 404,
            answer: vec![("code", "unknown_model".into())],
        });
    }
    let alive = json!({"type": "object", "properties": {"status": {"const": "alive"}}, "required": ["status"]});
    documents.push(operation("alive", "/", "Whether the server lives", "A browser gets the page instead.", alive));
    let mut docs = operation("docs", "/docs", "This interface, as a page", "With requests to try.", name("HTML."));
    if let Some(answer) = &mut docs.answer {
        answer.kind = "text/html";
    }
    documents.push(docs);
    Group {
        name: "server".to_owned(),
        description: "What the server says of itself.".to_owned(),
        operations: documents,
    }
}

fn operation(id: &str, path: &str, summary: &str, description: &str, schema: Value) -> Operation {
    Operation {
        id: format!("server.{id}"),
        method: "GET",
        path: path.to_owned(),
        summary: summary.to_owned(),
        description: description.to_owned(),
        parameters: Vec::new(),
        bodies: Vec::new(),
        answer: Some(Answer { description: format!("{summary}."), kind: "application/json", schema, example: None }),
        errors: ERRORS,
        unready: None,
        examples: vec![Example {
            title: "as it is".to_owned(),
            query: Vec::new(),
            body: None,
            status: 200,
            answer: Vec::new(),
        }],
    }
}
