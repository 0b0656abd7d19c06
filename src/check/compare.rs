//! What would change for the clients of what is live.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_models::spec::{Domain, Dtype, Feature, Metric, Output, OutputKind, OutputTensor};
use mainstay_models::{CommitId, ModelName, ModelSpec, Version};
use serde::{Deserialize, Serialize};

use super::CheckError;

/// How long the live server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer.
const INFO_BYTES_MAX: u64 = 64 << 20;

/// What a live server serves.
#[derive(Debug)]
pub struct Live {
    /// The commit of its release; none where it has no release, or that is not known.
    pub commit: Option<CommitId>,
    models: BTreeMap<ModelName, LiveVersion>,
}

/// The stable version of a live model.
#[derive(Debug, Deserialize)]
struct LiveVersion {
    version: Version,
    features: Vec<LiveFeature>,
    classes: Vec<String>,
    /// Of a model that is no classifier.
    #[serde(default)]
    outputs: Vec<LiveOutput>,
    metrics: Vec<Metric>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct LiveOutput {
    name: String,
    unit: Option<String>,
    dtype: Dtype,
    shape: Vec<usize>,
    classes: Option<Vec<String>>,
    keys: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct LiveFeature {
    name: String,
    unit: Option<String>,
    categories: Option<Vec<String>>,
    /// None where the server is older than what it says.
    dtype: Option<Dtype>,
    required: bool,
}

#[derive(Deserialize)]
struct Info {
    release: Option<InfoRelease>,
    models: Vec<InfoModel>,
}

#[derive(Deserialize)]
struct InfoRelease {
    commit: CommitId,
}

#[derive(Deserialize)]
struct InfoModel {
    name: ModelName,
    stable: Option<Version>,
    versions: Vec<LiveVersion>,
}

/// What differs between a model as it is live and as it would be.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// The model.
    pub model: ModelName,
    /// The version that is live; none for a new model.
    pub from: Option<Version>,
    /// The version that would be; none for a model that would go.
    pub to: Option<Version>,
    /// What would break clients that work now.
    pub breaking: Vec<String>,
    /// Metrics that either version states: on the same split they can be compared.
    pub metrics: Vec<MetricMove>,
}

/// A metric of the live and of the new version.
#[derive(Debug, Serialize)]
pub struct MetricMove {
    /// What was measured.
    pub name: String,
    /// On which data.
    pub split: String,
    /// The live version's value; none where it states none.
    pub from: Option<f64>,
    /// The new version's value; none where it states none.
    pub to: Option<f64>,
}

impl Live {
    /// Asks the server whose data address is `url`.
    pub fn ask(url: &str) -> Result<Self, CheckError> {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).proxy(None).max_redirects(0).build();
        let info = || -> Result<Info, ureq::Error> {
            let mut response = config.new_agent().get(format!("{}/info", url.trim_end_matches('/'))).call()?;
            response.body_mut().with_config().limit(INFO_BYTES_MAX).read_json()
        };
        let info = info().map_err(|e| CheckError::Live { url: url.to_owned(), source: Box::new(e) })?;
        let stable = |model: InfoModel| {
            let stable = model.stable?;
            Some((model.name, model.versions.into_iter().find(|version| version.version == stable)?))
        };
        let commit = info.release.map(|release| release.commit);
        Ok(Self { commit, models: info.models.into_iter().filter_map(stable).collect() })
    }

    /// What is live, by the cards of the stable versions.
    pub fn of(cards: &[ModelSpec]) -> Self {
        let models = cards.iter().map(|card| (card.name.clone(), LiveVersion::of(card))).collect();
        Self { commit: None, models }
    }

    /// What would change if `wanted` were the stable versions.
    pub fn differences(&self, wanted: &[ModelSpec]) -> Vec<Difference> {
        let gone = self.models.iter().filter(|(name, _)| !wanted.iter().any(|spec| spec.name == **name));
        let gone = gone.map(|(name, live)| Difference {
            model: name.clone(),
            from: Some(live.version.clone()),
            to: None,
            breaking: vec!["the model would no longer be served".to_owned()],
            metrics: Vec::new(),
        });
        let moved = wanted.iter().filter_map(|spec| {
            let live = self.models.get(&spec.name);
            if live.is_some_and(|live| live.version == spec.version) {
                return None;
            }
            Some(Difference {
                model: spec.name.clone(),
                from: live.map(|live| live.version.clone()),
                to: Some(spec.version.clone()),
                breaking: live.map_or_else(Vec::new, |live| breaking(live, spec)),
                metrics: metrics(live.map_or(&[], |live| &live.metrics), &spec.metrics),
            })
        });
        gone.chain(moved).collect()
    }
}

impl LiveVersion {
    fn of(card: &ModelSpec) -> Self {
        let feature = |feature: &Feature| LiveFeature {
            name: feature.name.clone(),
            unit: feature.unit.clone(),
            categories: match &feature.domain {
                Domain::Category(categories) => Some(categories.clone()),
                Domain::Number { .. } | Domain::Text | Domain::Truth => None,
            },
            dtype: Some(feature.dtype),
            required: feature.default.is_none(),
        };
        Self {
            version: card.version.clone(),
            features: card.input.features.iter().map(feature).collect(),
            classes: card.output.classes().to_vec(),
            outputs: outputs(card),
            metrics: card.metrics.clone(),
        }
    }
}

fn outputs(card: &ModelSpec) -> Vec<LiveOutput> {
    let output = |output: &OutputTensor| LiveOutput {
        name: output.name.clone(),
        unit: output.unit.clone(),
        dtype: output.dtype,
        shape: output.shape.clone(),
        classes: if let OutputKind::Label(classes) = &output.kind { Some(classes.clone()) } else { None },
        keys: if let OutputKind::Map(keys) = &output.kind { Some(keys.clone()) } else { None },
    };
    match &card.output {
        Output::Classifier(_) => Vec::new(),
        Output::Tensors(outputs) => outputs.iter().map(output).collect(),
    }
}

/// What clients of `live` would meet with in `spec`.
fn breaking(live: &LiveVersion, spec: &ModelSpec) -> Vec<String> {
    let mut breaks = Vec::new();
    for old in &live.features {
        match spec.input.features.iter().find(|new| new.name == old.name) {
            None => breaks.push(format!("feature `{}` is gone: requests that name it would get 422", old.name)),
            Some(new) => feature(old, new, &mut breaks),
        }
    }
    for new in &spec.input.features {
        if new.default.is_none() && !live.features.iter().any(|old| old.name == new.name) {
            breaks.push(format!("feature `{}` is new and required", new.name));
        }
    }
    let classes = spec.output.classes();
    if live.classes != classes {
        let (old, new) = (live.classes.join(", "), classes.join(", "));
        let words = |classes: String| if classes.is_empty() { "none".to_owned() } else { classes };
        breaks.push(format!("the classes were {} and would be {}", words(old), words(new)));
    }
    let outputs = outputs(spec);
    for old in &live.outputs {
        match outputs.iter().find(|new| new.name == old.name) {
            None => breaks.push(format!("the output `{}` is gone", old.name)),
            Some(new) if new != old => {
                breaks.push(format!("the output `{}` would have another form or unit", old.name))
            }
            Some(_) => {}
        }
    }
    // What answers with the first output as `prediction` must go on doing so.
    if let (Some(old), Some(new)) = (live.outputs.first(), outputs.first())
        && old.name != new.name
    {
        breaks.push(format!("`prediction` was `{}` and would be `{}`", old.name, new.name));
    }
    breaks
}

fn feature(old: &LiveFeature, new: &Feature, breaks: &mut Vec<String>) {
    let name = &new.name;
    // A server that does not say what a feature is knows numbers and categories only.
    let was = match (&old.categories, old.dtype.unwrap_or(Dtype::Fp32)) {
        (Some(_), _) => "a category",
        (None, Dtype::String) => "a text",
        (None, Dtype::Bool) => "true or false",
        (None, _) => "a number",
    };
    let is = match &new.domain {
        Domain::Category(_) => "a category",
        Domain::Text => "a text",
        Domain::Truth => "true or false",
        Domain::Number { .. } => "a number",
    };
    // Every category is a text.
    if was != is && (was, is) != ("a category", "a text") {
        breaks.push(format!("feature `{name}` was {was} and would be {is}"));
    }
    if was == "a number"
        && is == "a number"
        && old.dtype.is_none_or(|old| old.integers().is_none())
        && new.dtype.integers().is_some()
    {
        breaks.push(format!("feature `{name}` would take integers only"));
    }
    if let (Some(old), Domain::Category(new)) = (&old.categories, &new.domain) {
        let gone: Vec<_> = old.iter().filter(|category| !new.contains(category)).map(String::as_str).collect();
        if !gone.is_empty() {
            breaks.push(format!("feature `{name}` would no longer take {}", gone.join(", ")));
        }
    }
    if old.unit != new.unit {
        let unit = |unit: &Option<String>| unit.as_ref().map_or("none".to_owned(), |unit| format!("`{unit}`"));
        breaks.push(format!("the unit of feature `{name}` was {} and would be {}", unit(&old.unit), unit(&new.unit)));
    }
    if !old.required && new.default.is_none() {
        breaks.push(format!("feature `{name}` was optional and would be required"));
    }
}

fn metrics(old: &[Metric], new: &[Metric]) -> Vec<MetricMove> {
    let same = |a: &Metric, b: &Metric| a.name == b.name && a.split == b.split;
    let value = |of: &[Metric], like: &Metric| of.iter().find(|metric| same(metric, like)).map(|metric| metric.value);
    let only_old = old.iter().filter(|metric| !new.iter().any(|other| same(metric, other)));
    new.iter()
        .chain(only_old)
        .map(|metric| MetricMove {
            name: metric.name.clone(),
            split: metric.split.clone(),
            from: value(old, metric),
            to: value(new, metric),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mainstay_models::embedded::MODELS;

    use super::*;

    fn spec(change: impl Fn(&str) -> String) -> ModelSpec {
        let text = change(std::str::from_utf8(MODELS[3].spec).unwrap());
        ModelSpec::parse("model.yaml", text.as_bytes()).unwrap()
    }

    #[test]
    fn what_breaks_a_client_is_named_and_what_does_not_is_not() {
        let old = LiveVersion::of(&spec(str::to_owned));
        let breaks = |change: &dyn Fn(&str) -> String| breaking(&old, &spec(change)).join("; ");
        assert_eq!(breaks(&str::to_owned), "");
        assert_eq!(
            breaks(&|text| text.replace("torque [Nm]", "moment [Nm]")),
            "feature `torque [Nm]` is gone: requests that name it would get 422; feature `moment [Nm]` is new and required"
        );
        assert_eq!(
            breaks(&|text| text.replace("unit: rpm", "unit: Hz")),
            "the unit of feature `rotational speed [rpm]` was `rpm` and would be `Hz`"
        );
        assert_eq!(
            breaks(&|text| text.replace("no failure", "fine")),
            "the classes were no failure, failure and would be fine, failure"
        );
        assert_eq!(
            breaks(&|text| text.replace("[L, M, H]", "[L, M, X]").replace("example: H", "example: M")),
            "feature `type` would no longer take H"
        );
        let mut whole = spec(str::to_owned);
        whole.input.features[3].dtype = Dtype::Int64;
        assert_eq!(breaking(&old, &whole).join("; "), "feature `rotational speed [rpm]` would take integers only");
    }

    #[test]
    fn metrics_are_compared_on_the_same_split_only() {
        let old = spec(str::to_owned).metrics;
        let mut new = old.clone();
        new[0].value = 0.5;
        new[1].split = "another".to_owned();
        let moves = metrics(&old, &new);
        assert_eq!((moves[0].from, moves[0].to), (Some(old[0].value), Some(0.5)));
        assert_eq!((moves[1].from, moves[1].to), (None, Some(old[1].value)));
        assert_eq!(moves.len(), old.len() + 1);
        assert_eq!((moves[old.len()].from, moves[old.len()].to), (Some(old[1].value), None));
    }
}
