//! model.yaml: a model's card and signature, reviewed in the same repository as what is served.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use crate::uri::UriError;
use crate::yaml::{self, Fault};
use crate::{Blob, Digest, ModelName, Uri, Version, YamlError};

/// The most input features of a model.
const FEATURES_MAX: usize = 4096;
/// The most classes of a model, and categories of a feature.
const CLASSES_MAX: usize = 4096;
/// The largest artifact, in bytes.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// The most places beside the first that an artifact may lie in.
const MIRRORS_MAX: usize = 7;
/// The longest name of a feature, class, category or tensor, in bytes.
const LABEL_BYTES_MAX: usize = 128;

/// A model version's card: what goes in, what comes out, where it comes from and how to tell that it works.
///
/// Categories travel to the model as their index in the feature's list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelSpec {
    /// The model's name.
    pub name: ModelName,
    /// The version.
    pub version: Version,
    /// What the model does, in a sentence or two for people.
    pub description: String,
    /// The model file.
    pub artifact: Artifact,
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
    /// Where the model comes from.
    pub training: Training,
    /// How good it is, and on which data that was measured.
    pub metrics: Vec<Metric>,
    /// Answers that any server must reproduce.
    pub golden: Golden,
    /// What the training data looked like, for drift.
    pub profile: Profile,
}

/// A reference to the model file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Artifact {
    /// Where its bytes are.
    pub location: Location,
    /// Its bytes.
    pub blob: Blob,
}

/// Where a model file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The name of a file beside the model.yaml.
    File(String),
    /// Outside git: the places that have it, the one to ask first in front; never empty.
    Uris(Vec<Uri>),
}

/// What goes in: one float32 tensor of shape `[rows, features]`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Input {
    /// The tensor's name in the model file.
    pub tensor: String,
    /// The columns, in order; never empty, names unique.
    pub features: Vec<Feature>,
}

/// One column of the input.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Feature {
    /// The name that requests use.
    pub name: String,
    /// What it means.
    pub description: String,
    /// Its unit, where it has one.
    pub unit: Option<String>,
    /// Which values it takes.
    pub domain: Domain,
    /// A typical value, encoded as the model gets it.
    pub example: f32,
    /// The value of a row that leaves the feature out, encoded; without one the feature is required.
    pub default: Option<f32>,
}

/// The values of a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// Any finite number; training saw `min..=max`.
    Number {
        /// The least value seen in training.
        min: f32,
        /// The greatest value seen in training.
        max: f32,
    },
    /// One of these texts; never empty, unique. The model gets the index.
    Category(Vec<String>),
}

/// What comes out: a label tensor (int64, `[rows]`) and a probability tensor (float32, `[rows, classes]`).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// The label.
    pub label: LabelOutput,
    /// The probabilities.
    pub probability: ProbabilityOutput,
    /// Of a two-class model: the probability of the last class from which it is chosen.
    pub threshold: Option<f32>,
}

/// The label tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelOutput {
    /// The tensor's name in the model file.
    pub tensor: String,
    /// The classes' names; a label is an index into them. At least two, unique.
    pub classes: Vec<String>,
}

/// The probability tensor.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProbabilityOutput {
    /// The tensor's name in the model file.
    pub tensor: String,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Training {
    /// The code that trained it.
    pub code: TrainingCode,
    /// The data that it was trained on.
    pub data: TrainingData,
    /// The seed of every random choice, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The versions of the libraries that took part.
    pub libraries: BTreeMap<String, String>,
    /// The record that a training tool kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<TrainingRun>,
}

/// The record that a training tool, such as MLflow or DVC, kept of how a model came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainingRun {
    /// The tool.
    pub tool: String,
    /// By what the tool knows it: a run's id, or the digest of what it tracks.
    pub id: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was chosen before training.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// What the tool says went in: by name, with the digest that the tool has of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
}

/// The code that trained a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainingCode {
    /// The commit, or `unknown`.
    pub commit: String,
    /// The digest over the training package's source files, which holds without git too; where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_sha256: Option<Digest>,
}

/// The data that a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainingData {
    /// What it is called.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// How many rows.
    pub rows: u64,
    /// The digest of the rows.
    pub sha256: Digest,
}

/// One measured quality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Metric {
    /// What was measured.
    pub name: String,
    /// On which data.
    pub split: String,
    /// The value, or the mean of several.
    pub value: f64,
    /// The standard deviation over the splits, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
    /// The least value with which the model may be released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<f64>,
    /// What a reader must know to read the value rightly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Rows with known answers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Golden {
    /// By how much a probability may differ; labels must be equal.
    pub tolerance: f32,
    /// The rows, never empty.
    pub rows: Vec<GoldenRow>,
}

/// A row with its known answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GoldenRow {
    /// One value per feature, encoded.
    pub features: Vec<f32>,
    /// The label, an index into the classes.
    pub label: u32,
    /// One probability per class.
    pub probability: Vec<f32>,
    /// Why this row is here.
    pub note: Option<String>,
}

/// What the training data looked like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Profile {
    /// One per feature, in the input's order.
    pub features: Vec<FeatureProfile>,
    /// One per class, in the classes' order.
    pub classes: Vec<ClassProfile>,
}

/// The values of one feature in the training data.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureProfile {
    /// A histogram of numbers.
    Number(Histogram),
    /// How often each category occurred, in the feature's order.
    Category(Vec<u64>),
}

/// How often one class was predicted for the training data.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClassProfile {
    /// Rows predicted as this class.
    pub count: u64,
    /// The class's predicted probability over all rows.
    pub probability: Histogram,
}

/// Counts between edges: `counts[i]` values lie in `edges[i]..edges[i + 1]`, the last edge included.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// Strictly increasing; one more than `counts`.
    pub edges: Vec<f64>,
    /// How many values lie between two edges.
    pub counts: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSpec {
    api_version: Spanned<String>,
    name: ModelName,
    version: Version,
    description: Spanned<String>,
    artifact: RawArtifact,
    input: RawInput,
    output: RawOutput,
    training: Training,
    metrics: Vec<Spanned<Metric>>,
    golden: RawGolden,
    profile: RawProfile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArtifact {
    file: Option<Spanned<String>>,
    uri: Option<Spanned<String>>,
    #[serde(default)]
    mirrors: Vec<Spanned<String>>,
    sha256: Spanned<Digest>,
    size_bytes: Spanned<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInput {
    tensor: String,
    features: Spanned<Vec<Spanned<RawFeature>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFeature {
    name: Spanned<String>,
    description: String,
    unit: Option<String>,
    range: Option<Spanned<[f32; 2]>>,
    categories: Option<Spanned<Vec<String>>>,
    example: Spanned<RawValue>,
    default: Option<Spanned<RawValue>>,
}

/// A feature's value as a person writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawValue {
    Number(f32),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOutput {
    label: RawLabel,
    probability: ProbabilityOutput,
    threshold: Option<Spanned<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLabel {
    tensor: String,
    classes: Spanned<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGolden {
    tolerance: Spanned<f32>,
    rows: Spanned<Vec<Spanned<RawGoldenRow>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGoldenRow {
    features: Vec<f32>,
    label: u32,
    probability: Vec<f32>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    features: Spanned<Vec<Spanned<RawFeatureProfile>>>,
    classes: Spanned<Vec<Spanned<RawClassProfile>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFeatureProfile {
    name: String,
    edges: Option<Vec<f64>>,
    categories: Option<Vec<String>>,
    counts: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClassProfile {
    name: String,
    count: u64,
    edges: Vec<f64>,
    counts: Vec<u64>,
}

impl ModelSpec {
    /// Where a version's model.yaml lies in a configuration repository.
    pub fn path(name: &ModelName, version: &Version) -> String {
        format!("models/{name}/{version}/model.yaml")
    }

    /// Parses and validates a model.yaml; `file` is its path, for errors.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, YamlError> {
        yaml::parse(file, text, Self::validate)
    }

    fn validate(raw: RawSpec) -> Result<Self, Fault> {
        yaml::check_api_version(&raw.api_version)?;
        if raw.description.value.trim().is_empty() {
            return Err(Fault::at(&raw.description, "description", "is empty; say what the model does"));
        }
        if let Some((i, metric)) = raw.metrics.iter().enumerate().find(|(_, m)| !m.value.value.is_finite()) {
            return Err(Fault::at(metric, format!("metrics[{i}].value"), "is not a finite number"));
        }
        let artifact = Artifact::validate(raw.artifact)?;
        let input = Input::validate(raw.input)?;
        let output = Output::validate(raw.output)?;
        let golden = Golden::validate(raw.golden, &input, &output)?;
        let profile = Profile::validate(raw.profile, &input, &output)?;
        Ok(Self {
            name: raw.name,
            version: raw.version,
            description: raw.description.value,
            artifact,
            input,
            output,
            training: raw.training,
            metrics: raw.metrics.into_iter().map(|metric| metric.value).collect(),
            golden,
            profile,
        })
    }
}

impl Artifact {
    fn validate(raw: RawArtifact) -> Result<Self, Fault> {
        let size_bytes = raw.size_bytes.value;
        if size_bytes == 0 || size_bytes > ARTIFACT_BYTES_MAX {
            let problem = format!("is {size_bytes}; it must lie between 1 and {ARTIFACT_BYTES_MAX}");
            return Err(Fault::at(&raw.size_bytes, "artifact.size_bytes", problem));
        }
        let location = match (raw.file, raw.uri) {
            (Some(file), None) => {
                if let Some(mirror) = raw.mirrors.first() {
                    return Err(Fault::at(mirror, "artifact.mirrors[0]", "is for an artifact with a `uri`"));
                }
                Location::file(file)?
            }
            (None, Some(uri)) => Location::uris(&uri, &raw.mirrors)?,
            (Some(_), Some(uri)) => return Err(Fault::at(&uri, "artifact.uri", "stands beside `file`; keep one")),
            (None, None) => {
                return Err(Fault::at(&raw.sha256, "artifact", "needs either `file` or `uri`"));
            }
        };
        Ok(Self { location, blob: Blob { sha256: raw.sha256.value, size_bytes } })
    }
}

impl Location {
    /// The file's name, without where it lies: that is nothing for clients to know.
    pub fn file_name(&self) -> &str {
        match self {
            Self::File(name) => name,
            Self::Uris(uris) => uris.first().and_then(|uri| uri.path().rsplit('/').next()).unwrap_or_default(),
        }
    }

    fn file(name: Spanned<String>) -> Result<Self, Fault> {
        let text = &name.value;
        let segment = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if text.is_empty() || text.len() > LABEL_BYTES_MAX || text.starts_with('.') || !text.bytes().all(segment) {
            let problem = "names no file beside model.yaml; use letters, digits, `-`, `_` and `.`";
            return Err(Fault::at(&name, "artifact.file", problem));
        }
        Ok(Self::File(name.value))
    }

    fn uris(uri: &Spanned<String>, mirrors: &[Spanned<String>]) -> Result<Self, Fault> {
        let mut uris = vec![uri.value.parse().map_err(|e: UriError| Fault::at(uri, "artifact.uri", e.to_string()))?];
        for (index, mirror) in mirrors.iter().enumerate() {
            let fault = |problem: String| Fault::at(mirror, format!("artifact.mirrors[{index}]"), problem);
            if index >= MIRRORS_MAX {
                return Err(fault(format!("more than {MIRRORS_MAX} mirrors")));
            }
            let parsed = mirror.value.parse().map_err(|e: UriError| fault(e.to_string()))?;
            if uris.contains(&parsed) {
                return Err(fault("stands twice".to_owned()));
            }
            uris.push(parsed);
        }
        Ok(Self::Uris(uris))
    }
}

impl Input {
    fn validate(raw: RawInput) -> Result<Self, Fault> {
        let count = raw.features.value.len();
        if count == 0 || count > FEATURES_MAX {
            let problem = format!("has {count} features; it must have 1 to {FEATURES_MAX}");
            return Err(Fault::at(&raw.features, "input.features", problem));
        }
        let mut names = BTreeSet::new();
        let mut features = Vec::with_capacity(count);
        for (index, feature) in raw.features.value.into_iter().enumerate() {
            let field = format!("input.features[{index}]");
            let name = feature.value.name.value.clone();
            check_label(&name).map_err(|p| Fault::at(&feature.value.name, format!("{field}.name"), p))?;
            if name == "version" {
                let problem = "is reserved: a URL's query names the version by it";
                return Err(Fault::at(&feature.value.name, format!("{field}.name"), problem));
            }
            if !names.insert(name) {
                return Err(Fault::at(&feature.value.name, format!("{field}.name"), "stands twice"));
            }
            features.push(Feature::validate(feature, &field)?);
        }
        Ok(Self { tensor: raw.tensor, features })
    }
}

impl Feature {
    fn validate(raw: Spanned<RawFeature>, field: &str) -> Result<Self, Fault> {
        let domain = match (&raw.value.range, &raw.value.categories) {
            (Some(range), None) => {
                let [min, max] = range.value;
                if !(min.is_finite() && max.is_finite() && min <= max) {
                    return Err(Fault::at(range, format!("{field}.range"), "is not [least, greatest]"));
                }
                Domain::Number { min, max }
            }
            (None, Some(categories)) => {
                check_labels(&categories.value)
                    .map_err(|problem| Fault::at(categories, format!("{field}.categories"), problem))?;
                Domain::Category(categories.value.clone())
            }
            _ => return Err(Fault::at(&raw, field, "needs either `range` or `categories`")),
        };
        let encode = |value: &Spanned<RawValue>, key: &str| {
            domain.encode(&value.value).map_err(|problem| Fault::at(value, format!("{field}.{key}"), problem))
        };
        let example = encode(&raw.value.example, "example")?;
        let default = raw.value.default.as_ref().map(|value| encode(value, "default")).transpose()?;
        let RawFeature { name, description, unit, .. } = raw.value;
        Ok(Self { name: name.value, description, unit, domain, example, default })
    }
}

impl Domain {
    fn encode(&self, value: &RawValue) -> Result<f32, String> {
        match (self, value) {
            (Self::Number { .. }, RawValue::Number(number)) if number.is_finite() => Ok(*number),
            (Self::Number { .. }, _) => Err("is not a finite number".to_owned()),
            (Self::Category(categories), RawValue::Text(text)) => {
                self.category_index(text).ok_or_else(|| format!("is not one of {}", categories.join(", ")))
            }
            (Self::Category(categories), RawValue::Number(_)) => Err(format!(
                "is not one of {}; put a category that looks like a number in quotes",
                categories.join(", ")
            )),
        }
    }

    /// The value by which the model knows the category `text`; none for another text or a number's domain.
    pub fn category_index(&self, text: &str) -> Option<f32> {
        match self {
            Self::Category(categories) => categories.iter().position(|c| c == text).map(|index| index as f32),
            Self::Number { .. } => None,
        }
    }
}

impl Output {
    fn validate(raw: RawOutput) -> Result<Self, Fault> {
        let classes = &raw.label.classes;
        check_labels(&classes.value).map_err(|problem| Fault::at(classes, "output.label.classes", problem))?;
        if classes.value.len() < 2 {
            return Err(Fault::at(classes, "output.label.classes", "names fewer than two classes"));
        }
        if let Some(threshold) = &raw.threshold
            && !(classes.value.len() == 2 && (0.0..=1.0).contains(&threshold.value))
        {
            let problem = "is for models of two classes and lies between 0 and 1";
            return Err(Fault::at(threshold, "output.threshold", problem));
        }
        Ok(Self {
            label: LabelOutput { tensor: raw.label.tensor, classes: raw.label.classes.value },
            probability: raw.probability,
            threshold: raw.threshold.map(|threshold| threshold.value),
        })
    }
}

impl Golden {
    fn validate(raw: RawGolden, input: &Input, output: &Output) -> Result<Self, Fault> {
        if !(raw.tolerance.value > 0.0 && raw.tolerance.value <= 0.1) {
            return Err(Fault::at(&raw.tolerance, "golden.tolerance", "must be above 0 and at most 0.1"));
        }
        if raw.rows.value.is_empty() {
            return Err(Fault::at(&raw.rows, "golden.rows", "has no row; without one nothing can be checked"));
        }
        let classes = output.label.classes.len();
        let mut rows = Vec::with_capacity(raw.rows.value.len());
        for (index, row) in raw.rows.value.into_iter().enumerate() {
            let field = format!("golden.rows[{index}]");
            let RawGoldenRow { features, label, probability, .. } = &row.value;
            if features.len() != input.features.len() || !features.iter().all(|v| v.is_finite()) {
                let problem = format!("must have {} finite numbers", input.features.len());
                return Err(Fault::at(&row, field + ".features", problem));
            }
            if *label as usize >= classes {
                return Err(Fault::at(&row, field + ".label", format!("must be below {classes}")));
            }
            if probability.len() != classes || !probability.iter().all(|p| (0.0..=1.0).contains(p)) {
                let problem = format!("must have {classes} numbers between 0 and 1");
                return Err(Fault::at(&row, field + ".probability", problem));
            }
            let RawGoldenRow { features, label, probability, note } = row.value;
            rows.push(GoldenRow { features, label, probability, note });
        }
        Ok(Self { tolerance: raw.tolerance.value, rows })
    }
}

impl Profile {
    fn validate(raw: RawProfile, input: &Input, output: &Output) -> Result<Self, Fault> {
        if raw.features.value.len() != input.features.len() {
            let problem = format!("must have {} entries, one per feature", input.features.len());
            return Err(Fault::at(&raw.features, "profile.features", problem));
        }
        let classes = &output.label.classes;
        if raw.classes.value.len() != classes.len() {
            let problem = format!("must have {} entries, one per class", classes.len());
            return Err(Fault::at(&raw.classes, "profile.classes", problem));
        }
        let mut features = Vec::with_capacity(input.features.len());
        for (index, (profile, feature)) in raw.features.value.into_iter().zip(&input.features).enumerate() {
            let field = format!("profile.features[{index}]");
            let entry = &profile.value;
            if entry.name != feature.name {
                return Err(Fault::at(&profile, field + ".name", format!("must be `{}`", feature.name)));
            }
            features.push(match (&feature.domain, &entry.edges, &entry.categories) {
                (Domain::Number { .. }, Some(edges), None) => FeatureProfile::Number(
                    Histogram::new(edges, &entry.counts).map_err(|problem| Fault::at(&profile, field, problem))?,
                ),
                (Domain::Category(known), None, Some(categories))
                    if known == categories && entry.counts.len() == known.len() =>
                {
                    FeatureProfile::Category(entry.counts.clone())
                }
                (Domain::Number { .. }, ..) => return Err(Fault::at(&profile, field, "needs `edges` and `counts`")),
                (Domain::Category(_), ..) => {
                    let problem = "needs the feature's `categories` and as many `counts`";
                    return Err(Fault::at(&profile, field, problem));
                }
            });
        }
        let mut class_profiles = Vec::with_capacity(classes.len());
        for (index, (profile, class)) in raw.classes.value.into_iter().zip(classes).enumerate() {
            let field = format!("profile.classes[{index}]");
            let RawClassProfile { name, count, edges, counts } = &profile.value;
            if name != class {
                return Err(Fault::at(&profile, field + ".name", format!("must be `{class}`")));
            }
            let probability = Histogram::new(edges, counts).map_err(|problem| Fault::at(&profile, field, problem))?;
            class_profiles.push(ClassProfile { count: *count, probability });
        }
        Ok(Self { features, classes: class_profiles })
    }
}

impl Histogram {
    fn new(edges: &[f64], counts: &[u64]) -> Result<Self, &'static str> {
        if counts.is_empty() || edges.len() != counts.len() + 1 {
            return Err("needs one more edge than counts");
        }
        if !edges.is_sorted_by(|a, b| a < b) || !edges.iter().all(|edge| edge.is_finite()) {
            return Err("needs edges that are finite and strictly increasing");
        }
        Ok(Self { edges: edges.to_vec(), counts: counts.to_vec() })
    }
}

fn check_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
        return Err("must have 1 to 128 bytes and no control character");
    }
    Ok(())
}

fn check_labels(labels: &[String]) -> Result<(), &'static str> {
    if labels.is_empty() || labels.len() > CLASSES_MAX {
        return Err("must have 1 to 4096 entries");
    }
    labels.iter().try_for_each(|label| check_label(label))?;
    if labels.iter().collect::<BTreeSet<_>>().len() < labels.len() {
        return Err("has an entry twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = include_str!("../iris/1.0.0/model.yaml");

    fn parse(text: &str) -> Result<ModelSpec, YamlError> {
        ModelSpec::parse("models/iris/1.0.0/model.yaml", text.as_bytes())
    }

    #[test]
    fn a_card_is_read_whole() {
        let spec = parse(GOOD).unwrap();
        assert_eq!((spec.name.as_str(), spec.version.to_string().as_str()), ("iris", "1.0.0"));
        assert_eq!(spec.input.features[3].name, "petal width (cm)");
        assert_eq!(spec.input.features[3].domain, Domain::Number { min: 0.1, max: 2.5 });
        assert_eq!(spec.output.label.classes, ["setosa", "versicolor", "virginica"]);
        assert_eq!(spec.golden.rows[1].features, [6.3, 2.9, 6.3, 1.8]);
        assert_eq!(spec.profile.classes.iter().map(|class| class.count).sum::<u64>(), spec.training.data.rows);
    }

    #[test]
    fn every_refusal_names_file_line_and_field() {
        for (from, to, expected) in [
            ("unit: cm", "units: cm", "14: input.features[0].units: unknown field `units`"),
            ("mainstay/v1", "mainstay/v2", "1: apiVersion: `mainstay/v2` is not known"),
            ("name: iris\n", "name: Iris\n", "2: name: `Iris` is not a name"),
            ("version: 1.0.0", "version: 1.0", "3: version: `1.0` is not a version"),
            ("file: model.onnx", "file: ../model.onnx", "6: artifact.file: names no file beside"),
            ("file: model.onnx", "uri: ftp://models/model.onnx", "6: artifact.uri: is no place that can be read"),
            ("file: model.onnx", "file: model.onnx\n  uri: s3://models/a", "7: artifact.uri: stands beside `file`"),
            ("  file: model.onnx\n", "", "6: artifact: needs either `file` or `uri`"),
            (
                "file: model.onnx",
                "file: model.onnx\n  mirrors: [s3://a/b]",
                "7: artifact.mirrors[0]: is for an artifact",
            ),
            ("file: model.onnx", "uri: s3://a/b\n  mirrors: [s3://a/b]", "7: artifact.mirrors[0]: stands twice"),
            ("sha256: c9cae", "sha256: C9cae", "7: artifact.sha256: not a sha256"),
            ("size_bytes: 71528", "size_bytes: 0", "8: artifact.size_bytes: is 0"),
            ("range: [4.3, 7.9]", "range: [7.9, 4.3]", "15: input.features[0].range: is not [least, greatest]"),
            ("      range: [4.3, 7.9]\n", "", "12: input.features[0]: needs either `range` or `categories`"),
            ("example: 5.1", "example: long", "16: input.features[0].example: is not a finite number"),
            ("example: 5.1", "example: .nan", "16: input.features[0].example: non-finite float `.nan`"),
            ("sepal width (cm)", "sepal length (cm)", "17: input.features[1].name: stands twice"),
            ("name: sepal width (cm)", "name: version", "17: input.features[1].name: is reserved"),
            ("classes: [setosa, versicolor", "classes: [setosa, setosa", "output.label.classes: has an entry twice"),
            ("tolerance: 1.0e-05", "tolerance: 0", "golden.tolerance: must be above 0"),
            ("features: [5.1, 3.5, 1.1, 0.2]", "features: [5.1, 3.5, 1.1]", "golden.rows[0].features: must have 4"),
            ("0.2], label: 0", "0.2], label: 3", "golden.rows[0].label: must be below 3"),
            ("probability: [1.0, 0.0, 0.0]", "probability: [1.5, 0.0, 0.0]", "golden.rows[0].probability: must have 3"),
            ("gate: 0.93", "gate: high", "metrics[0].gate: "),
            ("seed: 20240601", "seed: -1", "training.seed: "),
            ("  threshold: 2\n", "", "output.threshold: is for models of two classes"),
        ] {
            // The one case that adds a line instead of changing one.
            let text = match from.strip_prefix("  threshold") {
                Some(_) => GOOD.replacen("training:\n", &format!("{from}training:\n"), 1),
                None => GOOD.replacen(from, to, 1),
            };
            assert_ne!(text, GOOD, "{from}");
            let message = parse(&text).expect_err(from).to_string();
            assert!(message.starts_with("models/iris/1.0.0/model.yaml:"), "{message}");
            assert!(message.contains(expected), "{message}\n  should contain {expected}");
        }
    }

    #[test]
    fn categories_are_texts_and_an_example_is_one_of_them() {
        let categories = |example: &str| {
            let feature = format!("categories: [S, M]\n      example: {example}");
            parse(&GOOD.replacen("range: [4.3, 7.9]\n      example: 5.1", &feature, 1))
        };
        let problem = |example| categories(example).unwrap_err().to_string();
        assert!(problem("X").contains("input.features[0].example: is not one of S, M"));
        assert!(problem("1").contains("put a category that looks like a number in quotes"));
        // The profile of the feature still has a number's histogram.
        assert!(problem("M").contains("profile.features[0]: needs the feature's `categories`"));
    }

    #[test]
    fn a_default_makes_a_feature_optional() {
        let spec = parse(&GOOD.replacen("example: 5.1", "example: 5.1\n      default: 5.8", 1)).unwrap();
        assert_eq!(spec.input.features[0].default, Some(5.8));
        assert_eq!(spec.input.features[1].default, None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_damaged_card_is_refused_or_still_right_but_never_a_panic(
            at in any::<prop::sample::Index>(), length in 0usize..40, instead in "[ -~\n]{0,12}",
        ) {
            let at = at.index(GOOD.len());
            let end = (at + length).min(GOOD.len());
            let text = format!("{}{instead}{}", &GOOD[..at], &GOOD[end..]);
            if let Ok(spec) = parse(&text) {
                let features = spec.input.features.len();
                prop_assert!(spec.golden.rows.iter().all(|row| row.features.len() == features));
            }
        }
    }
}
