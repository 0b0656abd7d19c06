//! Calls of a model from code, ready to copy: each works as it stands.
//!
//! A call is a template with slots, filled here with the example of each feature. The page's script fills it again with
//! what stands in the form, so that there is one template of each.

use mainstay_models::spec::{Dtype, Feature, InputTensor, Output, Value as Known};
use mainstay_models::{ModelName, ModelSpec};
use serde_json::Value;

use super::view::{FieldView, FormView, encoded};
use crate::tensor::Datatype;

const CURL: &str = "curl {{url|sh}} \\\n  -H 'content-type: application/json' \\\n  -d {{records|sh}}";

const REQUESTS: &str = "\
import requests

answer = requests.post({{url|json}}, json={{python}}, timeout=30)
answer.raise_for_status()
print(answer.json())";

const JAVASCRIPT: &str = r#"const answer = await fetch({{url|json}}, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({{records}}),
});
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.json());"#;

/// The same for a model of integers that no number of JavaScript's holds: the body is a text, and so is the answer.
const JAVASCRIPT_EXACT: &str = r#"const answer = await fetch({{url|json}}, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: {{records|js}},
});
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.text());"#;

/// A call in one language.
pub(super) struct Call {
    /// What it is written in and with.
    pub(super) title: &'static str,
    /// By which programs find it on the page.
    pub(super) id: &'static str,
    /// The template.
    pub(super) template: String,
    /// The template with its slots filled.
    pub(super) text: String,
}

/// The calls that ask what `form` asks of the model `name`, where `base_url` is the server.
pub(super) fn calls(form: &FormView<'_>, name: &ModelName, base_url: &str) -> Vec<Call> {
    let version = form.picked().map(ToString::to_string).unwrap_or_default();
    let query = if version.is_empty() { String::new() } else { format!("?version={version}") };
    let url = format!("{base_url}/models/{name}/predict{query}");
    let host = base_url.trim_start_matches("http://");
    let spec = &form.versions[0].spec;
    // In the form's order, as the page's script writes it.
    let records = |value: fn(&Value) -> String| {
        let field = |field: &FieldView<'_>| format!("{}:{}", json(&field.feature.name), value(&field.value()));
        format!("[{{{}}}]", form.fields.iter().map(field).collect::<Vec<_>>().join(","))
    };
    let (records, python) = (records(Value::to_string), records(literal));
    let row: Vec<String> = spec.input.features.iter().map(|feature| encoded(feature, &feature.example)).collect();
    let row = format!("[{}]", row.join(", "));
    let slot = |slot: &str| match slot {
        "url|sh" => quoted(&url),
        "url|json" => json(&url),
        "records|sh" => quoted(&records),
        "records|js" => format!("'{}'", records.replace('\\', "\\\\").replace('\'', "\\'")),
        "records" => records.clone(),
        "python" => python.clone(),
        "row" => row.clone(),
        "host|json" => json(host),
        "version|json" => json(&version),
        slot => {
            let place = slot.strip_prefix("tensor").and_then(|place| place.parse().ok());
            let tensor = place.and_then(|place: usize| spec.input.tensors.get(place));
            tensor.map(|tensor| cells(spec, tensor)).unwrap_or_default()
        }
    };
    let is_exact = spec.input.features.iter().any(|feature| matches!(feature.dtype, Dtype::Int64 | Dtype::Uint64));
    let templates = [
        ("curl", "curl", CURL.to_owned()),
        ("Python, requests", "requests", REQUESTS.to_owned()),
        ("Python, tritonclient", "tritonclient", triton(name.as_str(), spec)),
        ("JavaScript", "javascript", if is_exact { JAVASCRIPT_EXACT } else { JAVASCRIPT }.to_owned()),
    ];
    let call = |(title, id, template): (_, _, String)| Call { title, id, text: fill(&template, slot), template };
    templates.into_iter().map(call).collect()
}

fn triton(name: &str, spec: &ModelSpec) -> String {
    let outputs: Vec<&str> = match &spec.output {
        Output::Classifier(classifier) => {
            vec![classifier.label.tensor.as_str(), classifier.probability.tensor.as_str()]
        }
        Output::Tensors(outputs) => outputs.iter().map(|output| output.name.as_str()).collect(),
    };
    let outputs: Vec<String> = outputs.into_iter().map(|name| format!("answer.as_numpy({})", json(name))).collect();
    let (inputs, asked) = match spec.input.matrix() {
        Some(input) => (
            format!(
                "\
rows = triton.InferInput({input}, [1, {columns}], \"FP32\")
rows.set_data_from_numpy(np.array([{{{{row}}}}], dtype=np.float32))",
                input = json(input),
                columns = spec.input.features.len(),
            ),
            "[rows]",
        ),
        None => (inputs(spec), "inputs"),
    };
    format!(
        "\
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient({{{{host|json}}}})
{inputs}
answer = client.infer({name}, {asked}, model_version={{{{version|json}}}})
print({outputs})",
        name = json(name),
        outputs = outputs.join(", "),
    )
}

/// The inputs of a model that takes something else than one float32 tensor.
fn inputs(spec: &ModelSpec) -> String {
    let line = |(place, tensor): (usize, &InputTensor)| {
        let (kind, dtype) = numpy(tensor.dtype);
        format!("    ({}, \"{kind}\", {dtype}, {{{{tensor{place}}}}}),\n", json(&tensor.name))
    };
    let lines: String = spec.input.tensors.iter().enumerate().map(line).collect();
    let is_brain = |tensor: &InputTensor| tensor.dtype == Dtype::Bf16;
    let import = if spec.input.tensors.iter().any(is_brain) { "import ml_dtypes\n\n" } else { "" };
    format!(
        "\
{import}inputs = []
for name, kind, dtype, row in [
{lines}]:
    tensor = triton.InferInput(name, [1, len(row)], kind)
    tensor.set_data_from_numpy(np.array([row], dtype=dtype))
    inputs.append(tensor)"
    )
}

/// A type of elements as the protocol calls it, and as Python does.
fn numpy(dtype: Dtype) -> (&'static str, String) {
    let numpy = match dtype {
        // numpy has no such type, and the client asks for this one.
        Dtype::Bf16 => return (Datatype::of(dtype).name(), "ml_dtypes.bfloat16".to_owned()),
        Dtype::Bool => "bool_",
        Dtype::Fp16 => "float16",
        Dtype::Fp32 => "float32",
        Dtype::Fp64 => "float64",
        Dtype::String => "object_",
        integer => integer.name(),
    };
    (Datatype::of(dtype).name(), format!("np.{numpy}"))
}

/// The examples of the features that go to `tensor`, as a list of Python's.
fn cells(spec: &ModelSpec, tensor: &InputTensor) -> String {
    let cell = |feature: &Feature| match &feature.example {
        Known::Truth(truth) => literal(&Value::Bool(*truth)),
        Known::Text(text) if feature.dtype == Dtype::String => json(text),
        example => encoded(feature, example),
    };
    let cells: Vec<String> = tensor.columns.iter().map(|&column| cell(&spec.input.features[column])).collect();
    format!("[{}]", cells.join(", "))
}

/// A value of a record as Python writes it.
fn literal(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        value => value.to_string(),
    }
}

/// `template` with each `{{slot}}` replaced, once: what is put in is not looked at again.
fn fill(template: &str, slot: impl Fn(&str) -> String) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, after)| Some((before, after.split_once("}}")?)))
    {
        text.push_str(before);
        text.push_str(&slot(name));
        rest = after;
    }
    text.push_str(rest);
    text
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// `text` as JSON, which is how Python and JavaScript write it too.
fn json(text: &str) -> String {
    Value::from(text).to_string()
}
