//! A catalog as the template wants it: in the order of the page, with every number as people read it.

use askama::Template;
use jiff::Timestamp;
use mainstay_models::spec::{Domain, Dtype, Feature, Metric, Value};
use mainstay_models::{Change, CommitId, ModelName, ModelSpec, Role, Version};

use super::Asset;
use super::calls::{Call, calls};
use crate::catalog::{Catalog, CatalogModel, LiveRelease, LoadedVersion};
use crate::reference::takes_the_same;

/// How many metrics of a version are shown at once; the others open on demand.
const METRICS_SHOWN: usize = 3;

/// The whole page.
#[derive(Template)]
#[template(path = "index.html")]
pub(super) struct Index<'a> {
    server: &'static str,
    base_url: &'a str,
    release: Option<&'a LiveRelease>,
    default: Option<&'a ModelName>,
    models: Vec<ModelView<'a>>,
    changes: Vec<ChangeView<'a>>,
}

struct ModelView<'a> {
    name: &'a ModelName,
    is_default: bool,
    commit: Option<&'a CommitId>,
    /// None where it could not be loaded; then nothing of the model answers.
    stable: Option<VersionView<'a>>,
    others: Vec<VersionView<'a>>,
    forms: Vec<FormView<'a>>,
}

struct VersionView<'a> {
    version: &'a LoadedVersion,
    spec: &'a ModelSpec,
    file: &'a str,
    size: String,
    metrics: Vec<MetricGroup<'a>>,
    more_metrics: Vec<MetricGroup<'a>>,
    more_count: usize,
}

/// Metrics that were measured on the same data.
struct MetricGroup<'a> {
    split: &'a str,
    metrics: Vec<&'a Metric>,
}

/// One form for all versions that take the same features; most models need one.
pub(super) struct FormView<'a> {
    /// The model's place on the page and the form's place in the model: part of every id, since names may hold anything.
    id: String,
    /// The first is the one filled in; of the stable version's form it is the stable one.
    pub(super) versions: Vec<&'a LoadedVersion>,
    has_stable: bool,
    pub(super) fields: Vec<FieldView<'a>>,
    /// The classes' names as JSON, for the script.
    classes: String,
}

pub(super) struct FieldView<'a> {
    id: String,
    pub(super) feature: &'a Feature,
    example: String,
    /// Of a number: the least and the greatest value that training saw.
    range: Option<(String, String)>,
    /// What can be chosen, where it can only be chosen.
    categories: Vec<&'a str>,
    /// For the script: `number`, `integer`, `category`, `name`, `text` or `truth`. A category is its place to the model, and
    /// a name is itself.
    kind: &'static str,
    /// The place of the model's input that it goes to.
    tensor: usize,
}

struct ChangeView<'a> {
    change: &'a Change,
    /// For machines and for people; none where the commit's time is no time.
    time: Option<(String, String)>,
}

impl<'a> Index<'a> {
    pub(super) fn of(catalog: &'a Catalog, base_url: &'a str) -> Self {
        let models = catalog.models.iter().enumerate();
        Self {
            server: concat!("mainstay ", env!("CARGO_PKG_VERSION")),
            base_url,
            release: catalog.release.as_ref(),
            default: catalog.default.as_ref(),
            models: models.map(|(i, (name, model))| ModelView::of(i, name, model, catalog.default.as_ref())).collect(),
            changes: catalog.changes.iter().map(ChangeView::of).collect(),
        }
    }
}

impl<'a> ModelView<'a> {
    fn of(place: usize, name: &'a ModelName, model: &'a CatalogModel, default: Option<&ModelName>) -> Self {
        let stable = model.stable.as_ref().and_then(|stable| model.versions.get(stable));
        let is_stable = |version: &LoadedVersion| Some(&version.spec.version) == model.stable.as_ref();
        // The newest first: the one that is most likely meant.
        let others = || model.versions.values().rev().map(AsRef::as_ref).filter(|version| !is_stable(version));
        let mut forms: Vec<FormView<'a>> = Vec::new();
        if let Some(stable) = stable {
            for version in std::iter::once(stable.as_ref()).chain(others()) {
                match forms.iter_mut().find(|form| takes_the_same(&form.versions[0].spec, &version.spec)) {
                    Some(form) => form.versions.push(version),
                    None => forms.push(FormView::of(format!("{place}-{}", forms.len()), version, is_stable(version))),
                }
            }
        }
        Self {
            name,
            is_default: Some(name) == default,
            commit: model.commit.as_ref(),
            stable: stable.map(|version| VersionView::of(version)),
            others: others().map(VersionView::of).collect(),
            forms,
        }
    }
}

impl<'a> VersionView<'a> {
    fn of(version: &'a LoadedVersion) -> Self {
        let spec = &version.spec;
        // What decided about the release says most; among the rest, the author's order does.
        let mut metrics: Vec<&Metric> = spec.metrics.iter().collect();
        metrics.sort_by_key(|metric| metric.gate.is_none());
        let more = metrics.split_off(metrics.len().min(METRICS_SHOWN));
        Self {
            version,
            spec,
            file: spec.artifact.location.file_name(),
            size: size(version.blobs.artifact.size_bytes),
            more_count: more.len(),
            metrics: MetricGroup::of(metrics),
            more_metrics: MetricGroup::of(more),
        }
    }
}

impl<'a> MetricGroup<'a> {
    fn of(metrics: Vec<&'a Metric>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for metric in metrics {
            match groups.iter_mut().find(|group| group.split == metric.split) {
                Some(group) => group.metrics.push(metric),
                None => groups.push(Self { split: &metric.split, metrics: vec![metric] }),
            }
        }
        groups
    }

    fn has_gate(&self) -> bool {
        self.metrics.iter().any(|metric| metric.gate.is_some())
    }

    fn has_note(&self) -> bool {
        self.metrics.iter().any(|metric| metric.note.is_some())
    }
}

impl<'a> FormView<'a> {
    fn of(id: String, version: &'a LoadedVersion, has_stable: bool) -> Self {
        let features = version.spec.input.features.iter().enumerate();
        let tensors = &version.spec.input.tensors;
        let tensor = |i| tensors.iter().position(|tensor| tensor.columns.contains(&i)).unwrap_or_default();
        let fields = features.map(|(i, feature)| FieldView::of(format!("{id}-{i}"), feature, tensor(i))).collect();
        let classes = serde_json::to_string(version.spec.output.classes()).expect("a list of texts is JSON");
        Self { id, versions: vec![version], has_stable, fields, classes }
    }

    /// The version that an answer may come from although the form does not name it: the stable one, where it is alone.
    fn unnamed(&self) -> Option<&Version> {
        let alone = self.has_stable && self.versions.len() == 1;
        alone.then(|| &self.versions[0].spec.version)
    }

    /// The version that the form names, where it names one.
    pub(super) fn picked(&self) -> Option<&Version> {
        self.unnamed().is_none().then(|| &self.versions[0].spec.version)
    }

    fn calls(&self, name: &ModelName, base_url: &str) -> Vec<Call> {
        calls(self, name, base_url)
    }

    /// Which class is chosen from which probability, per version that has a threshold.
    fn thresholds(&self) -> Vec<(&Version, &str, f32)> {
        let threshold = |version: &&'a LoadedVersion| {
            let spec = &version.spec;
            let classifier = spec.output.classifier()?;
            Some((&spec.version, classifier.label.classes.last()?.as_str(), classifier.threshold?))
        };
        self.versions.iter().filter_map(threshold).collect()
    }
}

impl<'a> FieldView<'a> {
    fn of(id: String, feature: &'a Feature, tensor: usize) -> Self {
        let (range, categories, kind) = match &feature.domain {
            Domain::Number { min, max } => {
                let kind = if feature.dtype.integers().is_some() { "integer" } else { "number" };
                (Some((bound(feature, *min), bound(feature, *max))), Vec::new(), kind)
            }
            Domain::Category(categories) => {
                let kind = if feature.dtype == Dtype::String { "name" } else { "category" };
                (None, categories.iter().map(String::as_str).collect(), kind)
            }
            Domain::Text => (None, Vec::new(), "text"),
            Domain::Truth => (None, vec!["true", "false"], "truth"),
        };
        let example = feature.example.to_string();
        Self { id, feature, example, range, categories, kind, tensor }
    }

    /// The example as JSON has it.
    pub(super) fn value(&self) -> serde_json::Value {
        crate::reference::written(&self.feature.example)
    }

    /// The value of a row that leaves the feature out, as the model gets it.
    fn default(&self) -> Option<String> {
        self.feature.default.as_ref().map(|default| encoded(self.feature, default))
    }

    /// What the feature means, as a sentence that others may follow.
    fn description(&self) -> String {
        crate::reference::sentence(&self.feature.description)
    }

    fn unit(&self) -> &str {
        self.feature.unit.as_deref().unwrap_or_default()
    }

    /// Whether the name says the unit already, as in `torque [Nm]`.
    fn names_unit(&self) -> bool {
        let (name, unit) = (&self.feature.name, self.unit());
        [format!("({unit})"), format!("[{unit}]")].iter().any(|end| name.ends_with(end))
    }
}

impl<'a> ChangeView<'a> {
    fn of(change: &'a Change) -> Self {
        let time = Timestamp::from_second(change.commit.time_unix_s).ok();
        let time = time.map(|time| (time.to_string(), time.strftime("%Y-%m-%d %H:%M UTC").to_string()));
        Self { change, time }
    }
}

/// A value as a model of numbers gets it: a category as its index.
pub(super) fn encoded(feature: &Feature, value: &Value) -> String {
    match value {
        Value::Text(text) => {
            feature.domain.category_index(text).map_or_else(|| text.clone(), |index| index.to_string())
        }
        value => value.to_string(),
    }
}

/// The end of a range: an integer is read digit by digit.
pub(super) fn bound(feature: &Feature, value: f64) -> String {
    if feature.dtype.integers().is_some() { format!("{value:.0}") } else { number(value) }
}

/// A number as an input takes it: short, and exactly itself when it is read again.
fn number(value: f64) -> String {
    Value::Number(value).to_string()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
