//! Calls of a model from code, ready to copy: each works as it stands.
//!
//! A call is a template with slots, filled here with the example of each feature. The page's script fills it again with
//! what stands in the form, so that there is one template of each.

use mainstay_models::ModelName;
use mainstay_models::spec::Output;
use serde_json::{Map, Value};

use super::view::{FormView, encoded};

const CURL: &str = "curl {{url|sh}} \\\n  -H 'content-type: application/json' \\\n  -d {{records|sh}}";

const REQUESTS: &str = "\
import requests

answer = requests.post({{url|json}}, json={{records}}, timeout=30)
answer.raise_for_status()
print(answer.json())";

const JAVASCRIPT: &str = r#"const answer = await fetch({{url|json}}, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({{records}}),
});
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.json());"#;

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
    let record: Map<String, Value> =
        form.fields.iter().map(|field| (field.feature.name.clone(), field.value())).collect();
    let records = Value::from(vec![Value::Object(record)]);
    let row: Vec<String> = spec.input.features.iter().map(|feature| encoded(feature, &feature.example)).collect();
    let row = format!("[{}]", row.join(", "));
    let slot = |slot: &str| match slot {
        "url|sh" => quoted(&url),
        "url|json" => json(&url),
        "records|sh" => quoted(&records.to_string()),
        "records" => records.to_string(),
        "row" => row.clone(),
        "host|json" => json(host),
        "version|json" => json(&version),
        _ => String::new(),
    };
    let templates = [
        ("curl", "curl", Some(CURL.to_owned())),
        ("Python, requests", "requests", Some(REQUESTS.to_owned())),
        ("Python, tritonclient", "tritonclient", triton(name.as_str(), spec)),
        ("JavaScript", "javascript", Some(JAVASCRIPT.to_owned())),
    ];
    let call = |(title, id, template): (_, _, String)| Call { title, id, text: fill(&template, slot), template };
    let shown = templates.into_iter().filter_map(|(title, id, template)| Some((title, id, template?)));
    shown.map(call).collect()
}

/// None of a model whose features lie in several tensors: its call is no longer one to copy and change.
fn triton(name: &str, spec: &mainstay_models::ModelSpec) -> Option<String> {
    let (input, columns) = (json(spec.input.matrix()?), spec.input.features.len());
    let outputs: Vec<&str> = match &spec.output {
        Output::Classifier(classifier) => {
            vec![classifier.label.tensor.as_str(), classifier.probability.tensor.as_str()]
        }
        Output::Tensors(outputs) => outputs.iter().map(|output| output.name.as_str()).collect(),
    };
    let outputs: Vec<String> = outputs.into_iter().map(|name| format!("answer.as_numpy({})", json(name))).collect();
    Some(format!(
        "\
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient({{{{host|json}}}})
rows = triton.InferInput({input}, [1, {columns}], \"FP32\")
rows.set_data_from_numpy(np.array([{{{{row}}}}], dtype=np.float32))
answer = client.infer({name}, [rows], model_version={{{{version|json}}}})
print({outputs})",
        name = json(name),
        outputs = outputs.join(", "),
    ))
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
