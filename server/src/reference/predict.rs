//! The operations of `/predict` and `/models/{name}/predict`: Mainstay's own dialect.

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Expected, GoldenRow, Output, OutputKind, OutputTensor, Value as Known};
use serde_json::{Value, json};

use super::schema::{self, plain, value};
use super::{Answer, Example, Group, ModelReference, Operation, Parameter, ROWS_SHOWN, encoded, platforms, v2};
use crate::api::RequestLimits;

const JSON: &str = "application/json";
const CSV: &str = "text/csv";
const FORM: &str = "application/x-www-form-urlencoded";

const GET_ERRORS: &[u16] = &[404, 405, 422, 500, 503, 504];
const POST_ERRORS: &[u16] = &[400, 404, 405, 408, 413, 415, 422, 500, 503, 504];

/// The group of `model`.
pub(super) fn group(model: &ModelReference<'_>, limits: &RequestLimits, may_order: bool) -> Group {
    let spec = model.spec();
    let name = model.name;
    let mut description = format!("{} Version {} answers.", spec.description, spec.version);
    for (versions, what) in [(&model.same, "Answers when asked for"), (&model.different, "Takes other features")] {
        if !versions.is_empty() {
            let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
            description = format!("{description} {what}: {}.", versions.join(", "));
        }
    }
    let rows = golden_rows(spec);
    let path = format!("/models/{name}/predict");
    let mut operations = vec![get(model, &path, &rows), post(model, limits, &path, &rows)];
    if model.is_default {
        operations.push(get(model, "/predict", &rows));
        operations.push(post(model, limits, "/predict", &rows));
    }
    operations.extend(v2::model(model, may_order));
    operations.extend(platforms::model(model, limits));
    Group { name: name.to_string(), description, operations }
}

/// A golden row of each of the first few classes: each example shows another answer.
pub(super) fn golden_rows(spec: &ModelSpec) -> Vec<&GoldenRow> {
    let mut rows: Vec<&GoldenRow> = Vec::new();
    for row in &spec.golden.rows {
        let is_new = rows.iter().all(|shown| match (&shown.expected, &row.expected) {
            (Expected::Class { label: shown, .. }, Expected::Class { label, .. }) => shown != label,
            (shown, expected) => shown != expected,
        });
        // In a table or a query, an empty text is a feature that is left out.
        let can_be_written = row.features.iter().all(|value| !matches!(value, Known::Text(text) if text.is_empty()));
        if rows.len() < ROWS_SHOWN && is_new && can_be_written {
            rows.push(row);
        }
    }
    rows
}

fn id(model: &ModelReference<'_>, path: &str, verb: &str) -> String {
    if path == "/predict" { verb.to_owned() } else { format!("{verb}.{}", model.name) }
}

fn version_parameter(model: &ModelReference<'_>) -> Parameter {
    let mut versions = vec![model.spec().version.to_string()];
    versions.extend(model.same.iter().map(ToString::to_string));
    Parameter {
        name: "version".to_owned(),
        description: "Asks a loaded version; without it the stable one answers.".to_owned(),
        required: false,
        schema: json!({"type": "string", "enum": versions}),
        example: None,
    }
}

fn answer(model: &ModelReference<'_>, rows: &[&GoldenRow]) -> Answer {
    let spec = model.spec();
    let mut example = json!({
        "model": spec.name.as_str(),
        "version": spec.version.to_string(),
        "commit": model.commit,
    });
    for (key, value) in labels(spec, rows).into_iter().chain(others(spec, rows)) {
        example[key] = value;
    }
    Answer {
        description: "The predictions.".to_owned(),
        kind: JSON,
        schema: reference(model, "Answer"),
        example: (!rows.is_empty()).then_some(example),
    }
}

/// A reference to one of the schemas that [`super::openapi`] keeps for each model.
pub(super) fn reference(model: &ModelReference<'_>, what: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{}.{what}", model.name)})
}

/// The classes that the answer to `rows` names; none of a model that is no classifier.
pub(super) fn classes(spec: &ModelSpec, rows: &[&GoldenRow]) -> Option<Value> {
    labels(spec, rows).into_iter().next().map(|(_, indices)| indices)
}

/// What the answer to `rows` says exactly.
fn labels(spec: &ModelSpec, rows: &[&GoldenRow]) -> Vec<(&'static str, Value)> {
    let indices: Vec<u32> = rows
        .iter()
        .filter_map(|row| match &row.expected {
            Expected::Class { label, .. } => Some(*label),
            Expected::Tensors(_) => None,
        })
        .collect();
    let Output::Classifier(classifier) = &spec.output else { return Vec::new() };
    let label = |index: &u32| classifier.label.classes.get(*index as usize).cloned();
    let labels = json!(indices.iter().map(label).collect::<Vec<_>>());
    vec![("prediction", json!(indices)), ("label", labels)]
}

/// What it says beside: probabilities, or the outputs of a model that is no classifier.
fn others(spec: &ModelSpec, rows: &[&GoldenRow]) -> Vec<(&'static str, Value)> {
    let outputs = match &spec.output {
        Output::Classifier(_) => return vec![("probability", probabilities(rows))],
        Output::Tensors(outputs) => outputs,
    };
    let column = |(at, output): (usize, &OutputTensor)| {
        let row = |row: &&GoldenRow| match &row.expected {
            Expected::Tensors(expected) => {
                expected.get(at).map_or(Value::Null, |values| output_value(output, &output.shape, values))
            }
            Expected::Class { .. } => Value::Null,
        };
        rows.iter().map(row).collect::<Value>()
    };
    let columns: Vec<(String, Value)> =
        outputs.iter().enumerate().map(|(at, output)| (output.name.clone(), column((at, output)))).collect();
    let mut said = Vec::new();
    if let Some((_, first)) = columns.first() {
        said.push(("prediction", first.clone()));
    }
    if columns.len() > 1 {
        said.push(("outputs", Value::Object(columns.into_iter().collect())));
    }
    said
}

/// Known values in the shape of what one row gets.
fn output_value(output: &OutputTensor, shape: &[usize], values: &[Known]) -> Value {
    if let OutputKind::Map(keys) = &output.kind {
        return Value::Object(keys.iter().zip(values).map(|(key, known)| (key.clone(), value(known))).collect());
    }
    match shape.split_first() {
        None => values.first().map_or(Value::Null, value),
        Some((size, rest)) => values.chunks(values.len() / size).map(|part| output_value(output, rest, part)).collect(),
    }
}

fn probabilities(rows: &[&GoldenRow]) -> Value {
    let row = |row: &&GoldenRow| match &row.expected {
        Expected::Class { probability, .. } => probability.iter().map(schema::number).collect::<Value>(),
        Expected::Tensors(_) => Value::Null,
    };
    rows.iter().map(row).collect()
}

fn get(model: &ModelReference<'_>, path: &str, rows: &[&GoldenRow]) -> Operation {
    let spec = model.spec();
    let first = &rows[..rows.len().min(1)];
    let mut parameters = vec![version_parameter(model)];
    let mut query = Vec::new();
    for (column, feature) in spec.input.features.iter().enumerate() {
        let example = value(first.first().map_or(&feature.example, |row| &row.features[column]));
        query.push((feature.name.clone(), plain(&example)));
        parameters.push(Parameter {
            name: feature.name.clone(),
            description: schema::feature_description(feature),
            required: feature.default.is_none(),
            schema: schema::feature(feature),
            example: Some(example),
        });
    }
    let misspelt: Vec<_> = query.iter().map(|(name, value)| (format!("{name}?"), value.clone())).collect();
    let wrong = Example {
        title: "a feature that there is not".to_owned(),
        query: misspelt,
        body: None,
        status: 422,
        answer: vec![("code", "invalid_rows".into())],
    };
    let right = Example {
        title: "one row".to_owned(),
        query,
        body: None,
        status: 200,
        answer: if first.is_empty() { Vec::new() } else { labels(spec, first) },
    };
    Operation {
        id: id(model, path, "ask"),
        method: "GET",
        path: path.to_owned(),
        summary: format!("One prediction by {}, from the query", model.name),
        description: "For a browser's address bar and for HTML forms: a parameter per feature.".to_owned(),
        parameters,
        bodies: Vec::new(),
        answer: Some(answer(model, first)),
        errors: GET_ERRORS,
        unready: None,
        examples: vec![right, wrong],
    }
}

fn post(model: &ModelReference<'_>, limits: &RequestLimits, path: &str, rows: &[&GoldenRow]) -> Operation {
    let spec = model.spec();
    let records: Vec<Value> = rows.iter().map(|row| schema::record(spec, row)).collect();
    let lists: Vec<Vec<Value>> = rows.iter().map(|row| list(row)).collect();
    let body = |title: &str, kind, text: String, rows: &[&GoldenRow]| Example {
        title: title.to_owned(),
        query: Vec::new(),
        body: Some((kind, text)),
        status: 200,
        answer: labels(spec, rows),
    };
    let fault = |title: &str, kind, text: &str, status, code: &str| Example {
        title: title.to_owned(),
        query: Vec::new(),
        body: Some((kind, text.to_owned())),
        status,
        answer: vec![("code", code.into())],
    };
    let mut examples = Vec::new();
    if let (Some(record), Some(list)) = (records.first(), lists.first()) {
        let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("a JSON value can be written");
        examples.push(body("records", JSON, pretty(&json!(records)), rows));
        examples.push(body("one record", JSON, pretty(record), &rows[..1]));
        examples.push(body("rows without names", JSON, pretty(&json!({"instances": lists})), rows));
        examples.push(body("a table", CSV, table(spec, &lists), rows));
        examples.push(body("a form", FORM, form(spec, list), &rows[..1]));
    }
    examples.push(fault("what is not JSON", JSON, "[{", 400, "malformed"));
    examples.push(fault("a record without features", JSON, "[{}]", 422, "invalid_rows"));
    examples.push(fault("a type that is not read", "text/plain", "hello", 415, "content_type"));
    Operation {
        id: id(model, path, "predict"),
        method: "POST",
        path: path.to_owned(),
        summary: format!("Predictions by {}", model.name),
        description: format!(
            "Reads JSON, CSV with a line of feature names first, and HTML forms; at most {} rows and {} bytes.",
            limits.rows_max, limits.body_bytes_max
        ),
        parameters: vec![version_parameter(model)],
        bodies: vec![
            (JSON, request(model, limits)),
            (CSV, table_of(model, limits)),
            (FORM, reference(model, "Record")),
        ],
        answer: Some(answer(model, rows)),
        errors: POST_ERRORS,
        unready: None,
        examples,
    }
}

/// The schema of a JSON body.
fn request(model: &ModelReference<'_>, limits: &RequestLimits) -> Value {
    json!({"anyOf": [rows_of(model, limits), reference(model, "Record"), instances(model, limits)]})
}

/// The schema of `{"instances": […]}`.
pub(super) fn instances(model: &ModelReference<'_>, limits: &RequestLimits) -> Value {
    json!({
        "type": "object",
        "properties": {"instances": rows_of(model, limits), "parameters": {"description": "Passed over."}},
        "required": ["instances"],
        "additionalProperties": false,
    })
}

fn rows_of(model: &ModelReference<'_>, limits: &RequestLimits) -> Value {
    json!({
        "type": "array",
        "items": {"anyOf": [reference(model, "Record"), reference(model, "Row")]},
        "minItems": 1,
        "maxItems": limits.rows_max,
    })
}

/// The schema of a table: what its lines mean.
fn table_of(model: &ModelReference<'_>, limits: &RequestLimits) -> Value {
    json!({
        "type": "array",
        "description": "A table: the first line names the features, each further one is a row.",
        "items": reference(model, "Record"),
        "minItems": 1,
        "maxItems": limits.rows_max,
    })
}

pub(super) fn list(row: &GoldenRow) -> Vec<Value> {
    row.features.iter().map(value).collect()
}

fn table(spec: &ModelSpec, rows: &[Vec<Value>]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = spec.input.features.iter().map(|feature| feature.name.clone()).collect::<Vec<_>>();
    for line in std::iter::once(names).chain(rows.iter().map(|row| row.iter().map(plain).collect())) {
        writer.write_record(line).expect("lines of one length go into memory");
    }
    String::from_utf8(writer.into_inner().expect("memory takes it")).expect("text gives text")
}

fn form(spec: &ModelSpec, row: &[Value]) -> String {
    let pairs = spec.input.features.iter().zip(row);
    let pairs: Vec<String> =
        pairs.map(|(feature, value)| format!("{}={}", encoded(&feature.name), encoded(&plain(value)))).collect();
    pairs.join("&")
}
