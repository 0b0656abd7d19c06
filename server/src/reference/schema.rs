//! JSON Schemas (2020-12, as OpenAPI 3.1 has them) of what a model takes and gives, and of every error.

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Domain, Dtype, Feature, GoldenRow, Output, OutputKind, OutputTensor, Value as Known};
use serde_json::{Map, Number, Value, json};

/// A number as JSON has it: short, and exactly itself when it is read again.
pub(super) fn number(value: impl ToString) -> Value {
    value.to_string().parse::<Number>().map_or(Value::Null, Value::Number)
}

/// A value of a card, as a request writes it.
pub(crate) fn value(value: &Known) -> Value {
    match value {
        Known::Truth(truth) => (*truth).into(),
        Known::Integer(integer) => number(integer),
        Known::Number(value) => number(value),
        Known::Text(text) => text.as_str().into(),
    }
}

/// A value as a query or a table writes it.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// A golden row as a record.
pub(super) fn record(spec: &ModelSpec, row: &GoldenRow) -> Value {
    let fields = spec.input.features.iter().zip(&row.features);
    Value::Object(fields.map(|(feature, known)| (feature.name.clone(), value(known))).collect())
}

/// The schema of one feature's value.
pub(super) fn feature(feature: &Feature) -> Value {
    let mut schema = match &feature.domain {
        Domain::Number { min, max } => {
            // The range of training is not a limit.
            let mut schema = json!({"type": "number", "x-training-range": [number(min), number(max)]});
            if let Some((least, greatest)) = feature.dtype.integers() {
                schema["type"] = "integer".into();
                schema["minimum"] = number(least);
                schema["maximum"] = number(greatest);
            } else if let Some(end) = feature.dtype.end().filter(|end| end.is_finite()) {
                schema["exclusiveMinimum"] = (-end).into();
                schema["exclusiveMaximum"] = end.into();
            }
            schema
        }
        Domain::Category(categories) => json!({"type": "string", "enum": categories}),
        // No zero byte.
        Domain::Text => json!({"type": "string", "pattern": "^[^\\u0000]*$"}),
        Domain::Truth => json!({"type": "boolean"}),
    };
    schema["description"] = feature_description(feature).into();
    schema["examples"] = json!([value(&feature.example)]);
    if let Some(unit) = &feature.unit {
        schema["x-unit"] = unit.as_str().into();
    }
    if let Some(default) = &feature.default {
        schema["default"] = value(default);
    }
    schema
}

/// A card's text as a sentence that others may follow.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() || text.ends_with(['.', '!', '?', '…']) { text.to_owned() } else { format!("{text}.") }
}

/// What a feature means, and which values training saw.
pub(super) fn feature_description(feature: &Feature) -> String {
    let unit = feature.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
    match &feature.domain {
        Domain::Number { min, max } => {
            format!("{} Training saw {min} to {max}{unit}.", sentence(&feature.description))
        }
        Domain::Category(_) | Domain::Text | Domain::Truth => feature.description.clone(),
    }
}

/// The schema of a record: an object keyed by feature, or a list in the features' order.
pub(super) fn record_object(spec: &ModelSpec) -> Value {
    let features = &spec.input.features;
    let properties: Map<String, Value> = features.iter().map(|f| (f.name.clone(), feature(f))).collect();
    let required: Vec<&str> = features.iter().filter(|f| f.default.is_none()).map(|f| f.name.as_str()).collect();
    json!({
        "type": "object",
        "description": "A row, by feature.",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The schema of a row without names.
pub(super) fn record_list(spec: &ModelSpec) -> Value {
    let features = &spec.input.features;
    let needed = features.iter().rposition(|feature| feature.default.is_none()).map_or(0, |last| last + 1);
    json!({
        "type": "array",
        "description": "A row, its values in the order of the features.",
        "prefixItems": features.iter().map(feature).collect::<Vec<_>>(),
        "minItems": needed,
        "maxItems": features.len(),
    })
}

/// The schema of an answer.
pub(super) fn answer(spec: &ModelSpec) -> Value {
    let classes = match &spec.output {
        Output::Classifier(classifier) => &classifier.label.classes,
        Output::Tensors(outputs) => return tensors_answer(spec, outputs),
    };
    let mut schema = answer_of(spec);
    let columns = &mut schema["properties"];
    columns["prediction"] = json!({
        "type": "array",
        "description": "The predicted class, as an index into the classes.",
        "items": {"type": "integer", "minimum": 0, "maximum": classes.len() - 1},
    });
    columns["label"] =
        json!({"type": "array", "description": "The predicted class's name.", "items": {"enum": classes}});
    columns["probability"] = json!({
        "type": "array",
        "description": "One probability per class.",
        "items": {
            "type": "array",
            "items": {"type": "number"},
            "minItems": classes.len(),
            "maxItems": classes.len(),
        },
    });
    schema["required"] = json!(["model", "version", "commit", "prediction", "label", "probability"]);
    schema
}

/// What the schema of every answer says: who answered.
fn answer_of(spec: &ModelSpec) -> Value {
    json!({
        "type": "object",
        "description": "Columns: one entry per row of the request.",
        "properties": {
            "model": {"const": spec.name.as_str()},
            "version": {"type": "string", "description": "The version that answered."},
            "commit": {
                "type": ["string", "null"],
                "description": "The commit of the configuration repository that asked for it; null without one.",
            },
        },
        "required": ["model", "version", "commit", "prediction"],
    })
}

/// The schema of an answer of a model that is no classifier.
fn tensors_answer(spec: &ModelSpec, outputs: &[OutputTensor]) -> Value {
    let column = |output: &OutputTensor| {
        let unit = output.unit.as_ref().map(|unit| format!(", in {unit}")).unwrap_or_default();
        let description = output.description.clone().unwrap_or_else(|| output.name.clone());
        json!({"type": "array", "description": format!("{description}{unit}"), "items": output_row(output)})
    };
    let mut schema = answer_of(spec);
    if let Some(first) = outputs.first() {
        schema["properties"]["prediction"] = column(first);
    }
    if outputs.len() > 1 {
        let columns: Map<String, Value> = outputs.iter().map(|output| (output.name.clone(), column(output))).collect();
        schema["properties"]["outputs"] = json!({"type": "object", "properties": columns});
    }
    schema
}

/// The schema of what one row gets of an output. A number that is none is null.
fn output_row(output: &OutputTensor) -> Value {
    let one = match (&output.kind, output.dtype) {
        (OutputKind::Label(classes), _) => json!({"enum": classes}),
        (_, Dtype::String) => json!({"type": "string"}),
        (_, Dtype::Bool) => json!({"type": "boolean"}),
        (_, Dtype::Fp16 | Dtype::Bf16 | Dtype::Fp32 | Dtype::Fp64) => json!({"type": ["number", "null"]}),
        _ => json!({"type": "integer"}),
    };
    if let OutputKind::Map(keys) = &output.kind {
        let properties: Map<String, Value> = keys.iter().map(|key| (key.clone(), one.clone())).collect();
        return json!({"type": "object", "properties": properties, "required": keys});
    }
    let list = |items, size: &usize| json!({"type": "array", "items": items, "minItems": size, "maxItems": size});
    output.shape.iter().rev().fold(one, list)
}

/// The same in the words of older schemas.
pub(super) fn plain_error() -> Value {
    json!({
        "type": "object",
        "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "request_id": {"type": "string"}},
        "required": ["error", "code"],
    })
}

/// The schema of every answer that is not the one asked for.
pub(super) fn error() -> Value {
    let detail = json!({
        "type": "object",
        "description": "One fault, of one value or of the body.",
        "properties": {
            "row": {"type": "integer", "minimum": 0, "description": "The row, counted from 0."},
            "path": {"type": "string", "description": "Where in a body of JSON it is, such as instances[0].age."},
            "line": {"type": "integer", "minimum": 1, "description": "The line of a CSV body, counted from 1."},
            "feature": {"type": "string", "description": "The feature, as the request or the model spells it."},
            "expected": {"type": "string", "description": "What would be right."},
            "got": {"type": "string", "description": "What was found."},
        },
        "required": ["expected", "got"],
    });
    json!({
        "type": "object",
        "properties": {
            "error": {"type": "string", "description": "What is wrong, and what to do."},
            "code": {"type": "string", "description": "The same for programs."},
            "details": {"type": "array", "items": detail},
            "request_id": {"type": "string", "description": "By which the server's log names the request."},
        },
        "required": ["error", "code", "details", "request_id"],
    })
}
