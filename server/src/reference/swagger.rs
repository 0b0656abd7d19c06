//! What Azure Machine Learning reads of a model: its scoring route, as Swagger 2.0 or OpenAPI 3.0.
//!
//! Both know less of JSON Schema than OpenAPI 3.1, so the schemas here are plain ones.

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Domain, Feature, Output};
use serde_json::{Map, Value, json};

use super::predict::{golden_rows, list};
use super::{ModelReference, schema};

/// The document of `version` 2 or 3, about the default model.
pub(super) fn document(model: Option<&ModelReference<'_>>, version: u8) -> Value {
    let reference = |what: &str| {
        let place = if version == 2 { "definitions" } else { "components/schemas" };
        json!({"$ref": format!("#/{place}/{what}")})
    };
    let answer = |description: &str, what: &str| match version {
        2 => json!({"description": description, "schema": reference(what)}),
        _ => json!({
            "description": description,
            "content": {"application/json": {"schema": reference(what)}},
        }),
    };
    let responses = json!({"200": answer("The predictions.", "ServiceOutput"), "default": answer("What is wrong.", "ErrorResponse")});
    let mut score = json!({
        "operationId": "RunMLService",
        "description": "Predictions by the default model.",
        "responses": responses,
    });
    let mut health = json!({
        "operationId": "ServiceHealthCheck",
        "description": "Whether the server lives.",
        "responses": {"200": {"description": "It does."}},
    });
    let info = json!({
        "title": model.map_or("Mainstay", |model| model.name.as_str()),
        "description": model.map_or("No model is loaded.", |model| &model.spec().description),
        "version": model.map_or_else(|| env!("CARGO_PKG_VERSION").to_owned(), |model| model.spec().version.to_string()),
    });
    let schemas = json!({
        "ServiceInput": input(model),
        "ServiceOutput": output(model),
        "ErrorResponse": schema::plain_error(),
    });
    if version == 2 {
        score["parameters"] = json!([{"name": "serviceInputPayload", "in": "body", "required": true, "schema": reference("ServiceInput")}]);
        for operation in [&mut score, &mut health] {
            operation["consumes"] = json!(["application/json"]);
            operation["produces"] = json!(["application/json"]);
        }
        json!({
            "swagger": "2.0",
            "info": info,
            "paths": {"/": {"get": health}, "/score": {"post": score}},
            "definitions": schemas,
        })
    } else {
        score["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": reference("ServiceInput")}}});
        json!({
            "openapi": "3.0.3",
            "info": info,
            "paths": {"/": {"get": health}, "/score": {"post": score}},
            "components": {"schemas": schemas},
        })
    }
}

/// The schema of a split data frame, with golden rows as its example.
fn input(model: Option<&ModelReference<'_>>) -> Value {
    let columns = json!({"type": "array", "items": {"type": "string"}});
    let mut data = json!({"type": "array", "items": {"type": "array", "items": {}}});
    let mut example = json!({});
    if let Some(model) = model {
        let spec = model.spec();
        let features = &spec.input.features;
        let told: Vec<String> = features.iter().map(|feature| format!("{}: {}", feature.name, kind(feature))).collect();
        data["description"] = told.join(", ").into();
        let names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
        let rows: Vec<Vec<Value>> = golden_rows(spec).iter().map(|row| list(row)).collect();
        example = json!({"input_data": {"columns": names, "data": rows}});
    }
    let frame = json!({
        "type": "object",
        "properties": {"columns": columns, "data": data},
        "required": ["data"],
    });
    json!({
        "type": "object",
        "properties": {"input_data": frame},
        "required": ["input_data"],
        "example": example,
    })
}

fn kind(feature: &Feature) -> String {
    let unit = feature.unit.as_ref().map(|unit| format!(" in {unit}")).unwrap_or_default();
    match &feature.domain {
        Domain::Number { .. } if feature.dtype.integers().is_some() => format!("integer{unit}"),
        Domain::Number { .. } => format!("number{unit}"),
        Domain::Category(categories) => format!("one of {}", categories.join(" ")),
        Domain::Text => "text".to_owned(),
        Domain::Truth => "true or false".to_owned(),
    }
}

/// The schema of the predictions.
fn output(model: Option<&ModelReference<'_>>) -> Value {
    let is_classifier = |spec: &ModelSpec| matches!(spec.output, Output::Classifier(_));
    let item =
        if model.is_some_and(|model| is_classifier(model.spec())) { json!({"type": "integer"}) } else { json!({}) };
    let predictions = json!({"type": "array", "items": item});
    let properties = Map::from_iter([("predictions".to_owned(), predictions)]);
    json!({"type": "object", "properties": properties, "required": ["predictions"]})
}
