//! model.yaml: a model's card and signature, reviewed in the same repository as what is served.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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
/// The longest text as a value of a feature or an output in a card, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// The most outputs of a model.
const OUTPUTS_MAX: usize = 256;
/// The most values of one output for one row.
const VALUES_PER_ROW_MAX: usize = 65_536;

/// A model version's card: what goes in, what comes out, where it comes from and how to tell that it works.
///
/// Categories travel to the model as their index in the feature's list, or as they are where the model takes texts.
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

/// What goes in.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Input {
    /// The model's input tensors, in the order of their first features; never empty, names unique.
    pub tensors: Vec<InputTensor>,
    /// What requests name, in order; never empty, names unique.
    pub features: Vec<Feature>,
}

/// One input tensor of the model, of shape `[rows, columns]`; a model may also declare one column as `[rows]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InputTensor {
    /// Its name in the model file.
    pub name: String,
    /// What its elements are.
    pub dtype: Dtype,
    /// Which features are its columns: places in [`Input::features`], in order; never empty.
    pub columns: Vec<usize>,
}

/// What the elements of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Dtype {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    String,
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
    /// What the model takes it as.
    pub dtype: Dtype,
    /// Which values it takes.
    pub domain: Domain,
    /// A typical value.
    pub example: Value,
    /// The value of a row that leaves the feature out; without one the feature is required.
    pub default: Option<Value>,
}

/// The values of a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// Any finite number that the feature's [`Dtype`] holds; training saw `min..=max`.
    Number {
        /// The least value seen in training.
        min: f64,
        /// The greatest value seen in training.
        max: f64,
    },
    /// One of these texts; never empty, unique. A model that takes numbers gets the index.
    Category(Vec<String>),
    /// Any text.
    Text,
    /// True or false.
    Truth,
}

/// A value of a feature or an output, as people and requests write it: a category is its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Value {
    Truth(bool),
    /// Of every integer that an int64 or uint64 holds, without loss.
    Integer(i128),
    Number(f64),
    Text(String),
}

/// What comes out.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// One of several classes, and how probable each is.
    Classifier(Classifier),
    /// Anything else: the outputs that are answered, in order; never empty, names and tensors unique.
    Tensors(Vec<OutputTensor>),
}

/// A label for each row, and a probability for each class.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Classifier {
    /// The label: the model gives the class's index or, as a text, its name.
    pub label: LabelOutput,
    /// The probabilities: the model gives `[rows, classes]`, or a map from class to probability for each row.
    pub probability: ProbabilityOutput,
    /// Of a two-class model: the probability of the last class from which it is chosen.
    pub threshold: Option<f32>,
}

/// One output of a model that is no plain classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputTensor {
    /// The name that answers use.
    pub name: String,
    /// Its name in the model file.
    pub tensor: String,
    /// What it means.
    pub description: Option<String>,
    /// Its unit, where it has one.
    pub unit: Option<String>,
    /// What the model gives it as; of a map, what its values are.
    pub dtype: Dtype,
    /// What it is.
    pub kind: OutputKind,
    /// The sizes of what one row gets; empty for one value, one size for a map: its keys.
    pub shape: Vec<usize>,
}

/// What an output is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// Values as they are, as of a regression.
    Value,
    /// One of these classes: an int64 output gives the index, a text output the name. At least two, unique.
    Label(Vec<String>),
    /// A map for each row, which has exactly these keys; never empty, unique. Keys that are integers stand here as texts.
    Map(Vec<String>),
}

/// The label tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelOutput {
    /// The tensor's name in the model file.
    pub tensor: String,
    /// The classes' names; a label is an index into them. At least two, unique.
    pub classes: Vec<String>,
    /// What the model gives for each class, where that is neither its index nor its name; else empty. Unique.
    pub values: Vec<i64>,
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
    /// One value per feature.
    pub features: Vec<Value>,
    /// What the model answers.
    pub expected: Expected,
    /// Why this row is here.
    pub note: Option<String>,
}

/// A known answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// Of a classifier.
    Class {
        /// The label, an index into the classes.
        label: u32,
        /// One probability per class.
        probability: Vec<f32>,
    },
    /// Of any other model: for each of its outputs the row's values, row-major; of a map in the order of its keys.
    Tensors(Vec<Vec<Value>>),
}

/// What the training data looked like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Profile {
    /// One per feature, in the input's order; none of features that are any text, or true or false.
    pub features: Vec<Option<FeatureProfile>>,
    /// One per class, in the classes' order; empty where the model is no classifier.
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
    output: Spanned<RawOutput>,
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
    tensor: Option<String>,
    dtype: Option<Dtype>,
    features: Spanned<Vec<Spanned<RawFeature>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFeature {
    name: Spanned<String>,
    description: String,
    unit: Option<String>,
    tensor: Option<String>,
    dtype: Option<Dtype>,
    range: Option<Spanned<[f64; 2]>>,
    categories: Option<Spanned<Vec<String>>>,
    example: Spanned<RawValue>,
    default: Option<Spanned<RawValue>>,
}

/// A value as a person writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawValue {
    Truth(bool),
    Integer(i64),
    /// Above the integers of 64 bits with a sign.
    Large(u64),
    Number(f64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOutput {
    label: Option<RawLabel>,
    probability: Option<ProbabilityOutput>,
    threshold: Option<Spanned<f32>>,
    tensors: Option<Spanned<Vec<Spanned<RawOutputTensor>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOutputTensor {
    tensor: String,
    name: Option<String>,
    description: Option<String>,
    unit: Option<String>,
    kind: Option<RawKind>,
    dtype: Option<Dtype>,
    #[serde(default)]
    shape: Vec<usize>,
    classes: Option<Vec<String>>,
    keys: Option<Vec<RawValue>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    Value,
    Label,
    Map,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLabel {
    tensor: String,
    classes: Spanned<Vec<String>>,
    values: Option<Spanned<Vec<i64>>>,
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
    features: Vec<RawValue>,
    label: Option<u32>,
    probability: Option<Vec<f32>>,
    outputs: Option<BTreeMap<String, RawExpected>>,
    note: Option<String>,
}

/// What one output gives one row.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawExpected {
    One(RawValue),
    Several(Vec<RawValue>),
    Map(BTreeMap<String, RawValue>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    features: Spanned<Vec<Spanned<RawFeatureProfile>>>,
    classes: Option<Spanned<Vec<Spanned<RawClassProfile>>>>,
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
        let profile = Profile::validate(raw.profile, &input, &output)?;
        let golden = Golden::validate(raw.golden, &input, &output)?;
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
    /// The tensor's name, where all features are the columns of one float32 tensor, in their order.
    pub fn matrix(&self) -> Option<&str> {
        match self.tensors.as_slice() {
            [tensor] if tensor.dtype == Dtype::Fp32 => Some(&tensor.name),
            _ => None,
        }
    }

    fn validate(raw: RawInput) -> Result<Self, Fault> {
        let count = raw.features.value.len();
        if count == 0 || count > FEATURES_MAX {
            let problem = format!("has {count} features; it must have 1 to {FEATURES_MAX}");
            return Err(Fault::at(&raw.features, "input.features", problem));
        }
        let mut names = BTreeSet::new();
        let mut tensors: Vec<InputTensor> = Vec::new();
        let mut tensor_of: BTreeMap<String, usize> = BTreeMap::new();
        let mut features = Vec::with_capacity(count);
        for (index, feature) in raw.features.value.into_iter().enumerate() {
            let field = format!("input.features[{index}]");
            let name = feature.value.name.value.clone();
            check_label(&name).map_err(|p| Fault::at(&feature.value.name, format!("{field}.name"), p))?;
            if name == "version" {
                let problem = "is reserved: a URL's query names the version by it";
                return Err(Fault::at(&feature.value.name, format!("{field}.name"), problem));
            }
            if !names.insert(name.clone()) {
                return Err(Fault::at(&feature.value.name, format!("{field}.name"), "stands twice"));
            }
            let dtype = feature.value.dtype.or(raw.dtype).unwrap_or(Dtype::Fp32);
            let tensor = feature.value.tensor.clone().or_else(|| raw.tensor.clone()).unwrap_or(name);
            check_label(&tensor).map_err(|p| Fault::at(&feature, format!("{field}.tensor"), p))?;
            let at = *tensor_of.entry(tensor).or_insert_with_key(|name| {
                tensors.push(InputTensor { name: name.clone(), dtype, columns: Vec::new() });
                tensors.len() - 1
            });
            let tensor = &mut tensors[at];
            if tensor.dtype != dtype {
                let problem = format!("is {dtype} in the tensor `{}`, which is {}", tensor.name, tensor.dtype);
                return Err(Fault::at(&feature, format!("{field}.dtype"), problem));
            }
            tensor.columns.push(index);
            features.push(Feature::validate(feature, dtype, &field)?);
        }
        Ok(Self { tensors, features })
    }
}

impl Dtype {
    /// Its name in a card.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp32 => "fp32",
            Self::Fp64 => "fp64",
            Self::String => "string",
        }
    }

    /// The least and the greatest integer that it holds; none where it holds other things than integers.
    pub fn integers(self) -> Option<(i128, i128)> {
        let signed = |bits: u32| Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1));
        let unsigned = |bits: u32| Some((0, (1 << bits) - 1));
        match self {
            Self::Int8 => signed(8),
            Self::Int16 => signed(16),
            Self::Int32 => signed(32),
            Self::Int64 => signed(64),
            Self::Uint8 => unsigned(8),
            Self::Uint16 => unsigned(16),
            Self::Uint32 => unsigned(32),
            Self::Uint64 => unsigned(64),
            Self::Bool | Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64 | Self::String => None,
        }
    }

    /// The bound that numbers must stay within so that they are finite as this type; none where it holds no fractions.
    pub fn end(self) -> Option<f64> {
        match self {
            // Halfway from the greatest number to what would be the next, from where rounding leads to infinity.
            Self::Fp16 => Some(65_520.0),
            Self::Bf16 => Some(3.396_177_529_230_46e38),
            Self::Fp32 => Some(3.402_823_567_797_336_6e38),
            Self::Fp64 => Some(f64::INFINITY),
            _ => None,
        }
    }

    fn holds(self, number: f64) -> bool {
        number.abs() < self.end().unwrap_or(f64::INFINITY)
    }

    /// The greatest place in a list that it tells from its neighbours; none where no card's list is that long.
    fn greatest_place(self) -> Option<i128> {
        match self {
            Self::Fp16 => Some(2048),
            Self::Bf16 => Some(256),
            _ => self.integers().map(|(_, greatest)| greatest),
        }
    }

    /// `raw` as a value of this type, or what would be one.
    fn value(self, raw: &RawValue) -> Result<Value, String> {
        let number = match *raw {
            RawValue::Integer(integer) => Some(integer as f64),
            RawValue::Large(integer) => Some(integer as f64),
            RawValue::Number(number) => Some(number),
            RawValue::Truth(_) | RawValue::Text(_) => None,
        };
        let integer = match *raw {
            RawValue::Integer(integer) => Some(i128::from(integer)),
            RawValue::Large(integer) => Some(i128::from(integer)),
            _ => None,
        };
        match (self, raw) {
            _ if self.end().is_some() => match number.filter(|number| self.holds(*number)) {
                Some(number) => Ok(Value::Number(number)),
                None => Err("is not a finite number".to_owned()),
            },
            (Self::Bool, RawValue::Truth(truth)) => Ok(Value::Truth(*truth)),
            (Self::Bool, _) => Err("is neither true nor false".to_owned()),
            (Self::String, RawValue::Text(text)) if text.len() <= TEXT_BYTES_MAX && !text.contains('\0') => {
                Ok(Value::Text(text.clone()))
            }
            (Self::String, _) => Err("is not a text; put one that looks like a number in quotes".to_owned()),
            _ => match (integer, self.integers()) {
                (Some(integer), Some((least, greatest))) if (least..=greatest).contains(&integer) => {
                    Ok(Value::Integer(integer))
                }
                _ => Err(format!("is not an integer of {self}")),
            },
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Feature {
    fn validate(raw: Spanned<RawFeature>, dtype: Dtype, field: &str) -> Result<Self, Fault> {
        let domain = match (&raw.value.range, &raw.value.categories, dtype) {
            (None, None, Dtype::String) => Domain::Text,
            (None, None, Dtype::Bool) => Domain::Truth,
            (Some(range), _, Dtype::String | Dtype::Bool) => {
                return Err(Fault::at(range, format!("{field}.range"), format!("is for numbers, and this is {dtype}")));
            }
            (Some(range), None, _) => {
                let [min, max] = range.value;
                if !(min <= max && dtype.holds(min) && dtype.holds(max)) {
                    return Err(Fault::at(range, format!("{field}.range"), "is not [least, greatest]"));
                }
                Domain::Number { min, max }
            }
            (None, Some(categories), _) if dtype != Dtype::Bool => {
                check_labels(&categories.value)
                    .map_err(|problem| Fault::at(categories, format!("{field}.categories"), problem))?;
                // The model gets the index, which the type has to hold.
                if dtype.greatest_place().is_some_and(|greatest| categories.value.len() as i128 > greatest) {
                    let problem = format!("has more entries than {dtype} can number");
                    return Err(Fault::at(categories, format!("{field}.categories"), problem));
                }
                Domain::Category(categories.value.clone())
            }
            (_, Some(categories), Dtype::Bool) => {
                return Err(Fault::at(categories, format!("{field}.categories"), "is not for bool"));
            }
            _ => return Err(Fault::at(&raw, field, "needs either `range` or `categories`")),
        };
        let value = |value: &Spanned<RawValue>, key: &str| {
            domain.value(dtype, &value.value).map_err(|problem| Fault::at(value, format!("{field}.{key}"), problem))
        };
        let example = value(&raw.value.example, "example")?;
        let default = raw.value.default.as_ref().map(|default| value(default, "default")).transpose()?;
        let RawFeature { name, description, unit, .. } = raw.value;
        Ok(Self { name: name.value, description, unit, dtype, domain, example, default })
    }

    /// `raw` as a golden row has it: categories that the model takes as numbers may stand as their index.
    fn golden(&self, raw: &RawValue) -> Result<Value, String> {
        let index = match *raw {
            RawValue::Integer(index) => usize::try_from(index).ok(),
            RawValue::Number(index) if index >= 0.0 && index.fract() == 0.0 => Some(index as usize),
            _ => None,
        };
        match (&self.domain, index) {
            (Domain::Category(categories), Some(index)) if self.dtype != Dtype::String => categories
                .get(index)
                .map(|category| Value::Text(category.clone()))
                .ok_or_else(|| format!("is not the index of one of {}", categories.join(", "))),
            _ => self.domain.value(self.dtype, raw),
        }
    }
}

impl Domain {
    fn value(&self, dtype: Dtype, raw: &RawValue) -> Result<Value, String> {
        match (self, raw) {
            (Self::Category(categories), RawValue::Text(text)) if categories.contains(text) => {
                Ok(Value::Text(text.clone()))
            }
            (Self::Category(categories), RawValue::Text(_)) => Err(format!("is not one of {}", categories.join(", "))),
            (Self::Category(categories), _) => Err(format!(
                "is not one of {}; put a category that looks like a number in quotes",
                categories.join(", ")
            )),
            _ => dtype.value(raw),
        }
    }

    /// The place of the category `text`; none for another text or another domain.
    pub fn category_index(&self, text: &str) -> Option<usize> {
        match self {
            Self::Category(categories) => categories.iter().position(|c| c == text),
            Self::Number { .. } | Self::Text | Self::Truth => None,
        }
    }
}

impl fmt::Display for Value {
    /// As people write it, without quotes. Numbers far from 1 have an exponent, and each reads back as itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truth(truth) => truth.fmt(f),
            Self::Integer(integer) => integer.fmt(f),
            Self::Number(number) if *number == 0.0 || (1e-4..1e7).contains(&number.abs()) => number.fmt(f),
            Self::Number(number) => write!(f, "{number:e}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Output {
    /// The classifier, where it is one.
    pub fn classifier(&self) -> Option<&Classifier> {
        match self {
            Self::Classifier(classifier) => Some(classifier),
            Self::Tensors(_) => None,
        }
    }

    /// The classifier's classes; empty where it is none.
    pub fn classes(&self) -> &[String] {
        self.classifier().map_or(&[], |classifier| &classifier.label.classes)
    }

    fn validate(raw: Spanned<RawOutput>) -> Result<Self, Fault> {
        let problem = "needs either `label` and `probability`, or `tensors`";
        let neither = Fault::at(&raw, "output", problem);
        match raw.value {
            RawOutput { label: Some(label), probability: Some(probability), threshold, tensors: None } => {
                Classifier::validate(label, probability, threshold).map(Self::Classifier)
            }
            RawOutput { label: None, probability: None, threshold: None, tensors: Some(tensors) } => {
                OutputTensor::validate_all(tensors).map(Self::Tensors)
            }
            _ => Err(neither),
        }
    }
}

impl Classifier {
    fn validate(
        label: RawLabel,
        probability: ProbabilityOutput,
        threshold: Option<Spanned<f32>>,
    ) -> Result<Self, Fault> {
        let classes = &label.classes;
        check_labels(&classes.value).map_err(|problem| Fault::at(classes, "output.label.classes", problem))?;
        if classes.value.len() < 2 {
            return Err(Fault::at(classes, "output.label.classes", "names fewer than two classes"));
        }
        if let Some(values) = &label.values {
            let fail = |problem| Err(Fault::at(values, "output.label.values", problem));
            if values.value.len() != classes.value.len() {
                return fail("needs one for each class");
            }
            if values.value.iter().collect::<BTreeSet<_>>().len() < values.value.len() {
                return fail("has an entry twice");
            }
        }
        if let Some(threshold) = &threshold
            && !(classes.value.len() == 2 && (0.0..=1.0).contains(&threshold.value))
        {
            let problem = "is for models of two classes and lies between 0 and 1";
            return Err(Fault::at(threshold, "output.threshold", problem));
        }
        Ok(Self {
            label: LabelOutput {
                tensor: label.tensor,
                classes: label.classes.value,
                values: label.values.map(|values| values.value).unwrap_or_default(),
            },
            probability,
            threshold: threshold.map(|threshold| threshold.value),
        })
    }
}

impl OutputTensor {
    /// How many values one row gets.
    pub fn values_per_row(&self) -> usize {
        self.shape.iter().product()
    }

    fn validate_all(raw: Spanned<Vec<Spanned<RawOutputTensor>>>) -> Result<Vec<Self>, Fault> {
        let count = raw.value.len();
        if count == 0 || count > OUTPUTS_MAX {
            let problem = format!("has {count} outputs; it must have 1 to {OUTPUTS_MAX}");
            return Err(Fault::at(&raw, "output.tensors", problem));
        }
        let (mut names, mut tensors) = (BTreeSet::new(), BTreeSet::new());
        let mut outputs = Vec::with_capacity(count);
        for (index, output) in raw.value.into_iter().enumerate() {
            let field = format!("output.tensors[{index}]");
            let fault = |key: &str, problem: String| Fault::at(&output, format!("{field}{key}"), problem);
            let validated = Self::validate(&output.value).map_err(|(key, problem)| fault(key, problem))?;
            if !names.insert(validated.name.clone()) {
                return Err(fault(".name", "stands twice".to_owned()));
            }
            if !tensors.insert(validated.tensor.clone()) {
                return Err(fault(".tensor", "stands twice".to_owned()));
            }
            outputs.push(validated);
        }
        Ok(outputs)
    }

    /// The error is the field, with its dot, and what is wrong with it.
    fn validate(raw: &RawOutputTensor) -> Result<Self, (&'static str, String)> {
        let name = raw.name.clone().unwrap_or_else(|| raw.tensor.clone());
        check_label(&raw.tensor).map_err(|problem| (".tensor", problem.to_owned()))?;
        check_label(&name).map_err(|problem| (".name", problem.to_owned()))?;
        let mut shape = raw.shape.clone();
        let kind = match (raw.kind.unwrap_or(RawKind::Value), &raw.classes, &raw.keys) {
            (RawKind::Value, None, None) => OutputKind::Value,
            (RawKind::Label, Some(classes), None) => {
                check_labels(classes).map_err(|problem| (".classes", problem.to_owned()))?;
                if classes.len() < 2 {
                    return Err((".classes", "names fewer than two classes".to_owned()));
                }
                OutputKind::Label(classes.clone())
            }
            (RawKind::Map, None, Some(keys)) => {
                let key = |key: &RawValue| match key {
                    RawValue::Integer(key) => Ok(key.to_string()),
                    RawValue::Text(key) => Ok(key.clone()),
                    _ => Err((".keys", "has an entry that is neither a text nor an integer".to_owned())),
                };
                let keys = keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
                check_labels(&keys).map_err(|problem| (".keys", problem.to_owned()))?;
                if !shape.is_empty() {
                    return Err((".shape", "is not for maps: `keys` says how many values there are".to_owned()));
                }
                shape = vec![keys.len()];
                OutputKind::Map(keys)
            }
            _ => {
                return Err((
                    "",
                    "needs `classes` with `kind: label`, `keys` with `kind: map`, else neither".to_owned(),
                ));
            }
        };
        let values = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if !values.is_some_and(|values| (1..=VALUES_PER_ROW_MAX).contains(&values)) || shape.len() > 4 {
            return Err((".shape", format!("must have at most 4 sizes, and 1 to {VALUES_PER_ROW_MAX} values in all")));
        }
        let dtype = raw.dtype.unwrap_or(if raw.kind == Some(RawKind::Label) { Dtype::Int64 } else { Dtype::Fp32 });
        match (&kind, dtype) {
            (OutputKind::Label(_), Dtype::Int64 | Dtype::String) => {}
            (OutputKind::Label(_), _) => return Err((".dtype", "of a label is int64 or string".to_owned())),
            (OutputKind::Map(_), Dtype::Fp32) => {}
            (OutputKind::Map(_), _) => return Err((".dtype", "of a map is fp32".to_owned())),
            (OutputKind::Value, _) => {}
        }
        let (description, unit) = (raw.description.clone(), raw.unit.clone());
        Ok(Self { name, tensor: raw.tensor.clone(), description, unit, dtype, kind, shape })
    }

    /// The known values of one row, or what is wrong with them.
    fn golden(&self, raw: &RawExpected) -> Result<Vec<Value>, String> {
        let one = |raw: &RawValue| match (&self.kind, raw) {
            (OutputKind::Label(classes), RawValue::Text(class)) if classes.contains(class) => {
                Ok(Value::Text(class.clone()))
            }
            (OutputKind::Label(classes), _) => Err(format!("is not one of {}", classes.join(", "))),
            _ => self.dtype.value(raw),
        };
        match (&self.kind, raw) {
            (OutputKind::Map(keys), RawExpected::Map(map)) => {
                if let Some(key) = map.keys().find(|key| !keys.contains(key)) {
                    return Err(format!("has the key `{key}`, which is not one of {}", keys.join(", ")));
                }
                let value = |key: &String| map.get(key).ok_or_else(|| format!("lacks the key `{key}`")).and_then(one);
                keys.iter().map(value).collect()
            }
            (OutputKind::Map(keys), _) => Err(format!("must be a map with the keys {}", keys.join(", "))),
            (_, RawExpected::One(value)) if self.shape.is_empty() => one(value).map(|value| vec![value]),
            (_, RawExpected::Several(values)) if !self.shape.is_empty() && values.len() == self.values_per_row() => {
                values.iter().map(one).collect()
            }
            _ if self.shape.is_empty() => Err("must be one value".to_owned()),
            _ => Err(format!("must be a list of {} values", self.values_per_row())),
        }
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
        let mut rows = Vec::with_capacity(raw.rows.value.len());
        for (index, row) in raw.rows.value.into_iter().enumerate() {
            let field = format!("golden.rows[{index}]");
            let fault = |key: String, problem: String| Fault::at(&row, format!("{field}{key}"), problem);
            let count = input.features.len();
            if row.value.features.len() != count {
                return Err(fault(".features".to_owned(), format!("must have {count} values")));
            }
            let mut features = Vec::with_capacity(count);
            for (feature, raw) in input.features.iter().zip(&row.value.features) {
                let value = feature.golden(raw);
                features.push(value.map_err(|p| fault(".features".to_owned(), format!("`{}` {p}", feature.name)))?);
            }
            let expected = Expected::validate(&row.value, output).map_err(|(key, problem)| fault(key, problem))?;
            rows.push(GoldenRow { features, expected, note: row.value.note });
        }
        Ok(Self { tolerance: raw.tolerance.value, rows })
    }
}

impl Expected {
    /// The error is the field, with its dot, and what is wrong with it.
    fn validate(row: &RawGoldenRow, output: &Output) -> Result<Self, (String, String)> {
        let fail = |key: &str, problem: String| Err((key.to_owned(), problem));
        match (output, &row.outputs) {
            (Output::Classifier(classifier), None) => {
                let classes = classifier.label.classes.len();
                let Some(label) = row.label.filter(|label| (*label as usize) < classes) else {
                    return fail(".label", format!("must be below {classes}"));
                };
                match &row.probability {
                    Some(probability)
                        if probability.len() == classes && probability.iter().all(|p| (0.0..=1.0).contains(p)) =>
                    {
                        Ok(Self::Class { label, probability: probability.clone() })
                    }
                    _ => fail(".probability", format!("must have {classes} numbers between 0 and 1")),
                }
            }
            (Output::Classifier(_), Some(_)) => fail(".outputs", "is for models with `output.tensors`".to_owned()),
            (Output::Tensors(_), _) if row.label.is_some() || row.probability.is_some() => {
                fail("", "needs `outputs` instead of `label` and `probability`".to_owned())
            }
            (Output::Tensors(_), None) => fail("", "needs `outputs`".to_owned()),
            (Output::Tensors(outputs), Some(expected)) => {
                if let Some(name) = expected.keys().find(|name| !outputs.iter().any(|output| output.name == **name)) {
                    return fail(&format!(".outputs.{name}"), "is no output of the model".to_owned());
                }
                let values = |output: &OutputTensor| {
                    let field = format!(".outputs.{}", output.name);
                    match expected.get(&output.name) {
                        Some(raw) => output.golden(raw).map_err(|problem| (field, problem)),
                        None => Err((field, "is missing".to_owned())),
                    }
                };
                outputs.iter().map(values).collect::<Result<_, _>>().map(Self::Tensors)
            }
        }
    }
}

impl Profile {
    fn validate(raw: RawProfile, input: &Input, output: &Output) -> Result<Self, Fault> {
        let profiled = |feature: &&Feature| matches!(feature.domain, Domain::Number { .. } | Domain::Category(_));
        let count = input.features.iter().filter(profiled).count();
        if raw.features.value.len() != count {
            let problem = format!("must have {count} entries, one per feature with a range or categories");
            return Err(Fault::at(&raw.features, "profile.features", problem));
        }
        let classes = output.classes();
        let raw_classes = match raw.classes {
            Some(raw) if raw.value.len() == classes.len() => raw.value,
            None if classes.is_empty() => Vec::new(),
            Some(raw) => {
                let problem = format!("must have {} entries, one per class", classes.len());
                return Err(Fault::at(&raw, "profile.classes", problem));
            }
            None => {
                let problem = format!("needs {} entries beside, one per class", classes.len());
                return Err(Fault::at(&raw.features, "profile.classes", problem));
            }
        };
        let mut features = Vec::with_capacity(input.features.len());
        let mut entries = raw.features.value.into_iter().enumerate();
        for feature in &input.features {
            if !profiled(&feature) {
                features.push(None);
                continue;
            }
            let (index, profile) = entries.next().expect("there is one for each such feature");
            let field = format!("profile.features[{index}]");
            let entry = &profile.value;
            if entry.name != feature.name {
                return Err(Fault::at(&profile, field + ".name", format!("must be `{}`", feature.name)));
            }
            features.push(Some(match (&feature.domain, &entry.edges, &entry.categories) {
                (Domain::Category(known), None, Some(categories))
                    if known == categories && entry.counts.len() == known.len() =>
                {
                    FeatureProfile::Category(entry.counts.clone())
                }
                (Domain::Category(_), ..) => {
                    let problem = "needs the feature's `categories` and as many `counts`";
                    return Err(Fault::at(&profile, field, problem));
                }
                (_, Some(edges), None) => FeatureProfile::Number(
                    Histogram::new(edges, &entry.counts).map_err(|problem| Fault::at(&profile, field, problem))?,
                ),
                _ => return Err(Fault::at(&profile, field, "needs `edges` and `counts`")),
            }));
        }
        let mut class_profiles = Vec::with_capacity(classes.len());
        for (index, (profile, class)) in raw_classes.into_iter().zip(classes).enumerate() {
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
        assert_eq!(spec.output.classes(), ["setosa", "versicolor", "virginica"]);
        assert_eq!(spec.input.matrix(), Some("features"));
        assert_eq!(spec.golden.rows[1].features, [6.3, 2.9, 6.3, 1.8].map(Value::Number));
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
            ("classes: [setosa", "values: [1, 2], classes: [setosa", "output.label.values: needs one for each class"),
            ("classes: [setosa", "values: [1, 1, 2], classes: [setosa", "output.label.values: has an entry twice"),
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
        assert_eq!(spec.input.features[0].default, Some(Value::Number(5.8)));
        assert_eq!(spec.input.features[1].default, None);
    }

    /// A card with these features and outputs; every other part is such as fits any model.
    fn typed(features: &str, output: &str, rows: &str, profile: &str) -> Result<ModelSpec, YamlError> {
        let (head, _) = GOOD.split_once("input:\n").unwrap();
        parse(&format!(
            "{head}input:\n  features:\n{features}output: {output}\n\
             training: {{code: {{commit: unknown}}, data: {{name: a, source: b, rows: 1, sha256: {}}}, libraries: {{}}}}\n\
             metrics: []\ngolden:\n  tolerance: 0.001\n  rows: [{rows}]\nprofile: {{features: [{profile}]}}\n",
            "0".repeat(64)
        ))
    }

    const COLUMNS: &str = "  - {name: id, description: a, dtype: int64, range: [0, 9007199254740993], example: 1}
  - {name: flag, description: a, dtype: bool, example: true, default: false}
  - {name: text, description: a, dtype: string, example: \"1\"}
  - {name: city, description: a, dtype: string, categories: [Lyon, \"7\"], example: Lyon}
  - {name: x, description: a, tensor: both, dtype: fp64, range: [0.5, 1], example: 1}
  - {name: size, description: a, tensor: both, dtype: fp64, categories: [S, M], example: M}
";
    const OUTPUTS: &str = "{tensors: [{tensor: variable, name: price, dtype: fp64}, {tensor: pair, shape: [2]}, \
                           {tensor: kind, kind: label, dtype: string, classes: [a, b]}, \
                           {tensor: map, kind: map, keys: [0, 1]}]}";
    const ROW: &str = "{features: [9007199254740993, true, \"\", \"7\", 1, 1], \
                       outputs: {price: 1, pair: [1, 2.5], kind: b, map: {\"0\": 1, \"1\": 0.5}}}";
    const PROFILE: &str = "{name: id, edges: [0, 1], counts: [1]}, \
                           {name: city, categories: [Lyon, \"7\"], counts: [1, 1]}, \
                           {name: x, edges: [0, 1], counts: [1]}, \
                           {name: size, categories: [S, M], counts: [1, 1]}";

    #[test]
    fn features_name_their_tensors_and_types_and_outputs_are_listed() {
        let spec = typed(COLUMNS, OUTPUTS, ROW, PROFILE).unwrap();
        let tensors: Vec<_> = spec.input.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.columns.len())).collect();
        let expected = [
            ("id", Dtype::Int64, 1),
            ("flag", Dtype::Bool, 1),
            ("text", Dtype::String, 1),
            ("city", Dtype::String, 1),
            ("both", Dtype::Fp64, 2),
        ];
        assert_eq!(tensors, expected);
        assert_eq!((spec.input.matrix(), spec.input.tensors[4].columns.as_slice()), (None, &[4, 5][..]));
        let row = &spec.golden.rows[0];
        assert_eq!(row.features[0], Value::Integer(9_007_199_254_740_993));
        assert_eq!(row.features[5], Value::Text("M".into()));
        let Expected::Tensors(expected) = &row.expected else { panic!("no classifier") };
        assert_eq!(expected[1], [Value::Number(1.0), Value::Number(2.5)]);
        assert_eq!(expected[3], [Value::Number(1.0), Value::Number(0.5)]);
        let Output::Tensors(outputs) = &spec.output else { panic!("no classifier") };
        assert_eq!((outputs[0].name.as_str(), outputs[0].tensor.as_str()), ("price", "variable"));
        assert_eq!(outputs[3].shape, [2]);
        assert_eq!(spec.profile.features.iter().filter(|profile| profile.is_some()).count(), 4);
    }

    #[test]
    fn a_refusal_of_a_typed_card_names_the_field_too() {
        for (from, to, expected) in [
            ("dtype: int64,", "dtype: int65,", "input.features[0].dtype: "),
            ("example: true", "example: 1", "input.features[1].example: is neither true nor false"),
            ("example: \"1\"", "example: 1", "input.features[2].example: is not a text"),
            ("example: \"1\"", "example: a, range: [0, 1]", "input.features[2].range: is for numbers"),
            (
                "tensor: both, dtype: fp64, cat",
                "tensor: both, cat",
                "input.features[5].dtype: is fp32 in the tensor `both`",
            ),
            ("range: [0, 9007199254740993], example: 1", "range: [0, 1], example: 1.5", "is not an integer of int64"),
            (
                "tensor: both, dtype: fp64, range: [0.5, 1]",
                "dtype: fp16, range: [0.5, 65520]",
                "input.features[4].range",
            ),
            (
                "tensor: both, dtype: fp64, range: [0.5, 1], example: 1",
                "dtype: bf16, range: [0, 1], example: 3.4e38",
                "finite",
            ),
            ("dtype: fp64}", "dtype: fp65}", "output"),
            ("tensor: pair", "tensor: variable", "output.tensors[1]"),
            ("classes: [a, b]", "classes: [a]", "output.tensors[2].classes: names fewer than two"),
            ("kind: label, dtype: string, classes: [a, b]", "kind: label", "output.tensors[2]: needs `classes`"),
            ("keys: [0, 1]", "keys: [0, 0]", "output.tensors[3].keys: has an entry twice"),
            ("shape: [2]", "shape: [0]", "output.tensors[1].shape: must have"),
            ("{tensors:", "{threshold: 0.5, tensors:", "output: needs either `label` and `probability`, or `tensors`"),
            ("kind: b", "kind: c", "golden.rows[0].outputs.kind: is not one of a, b"),
            ("price: 1,", "", "golden.rows[0].outputs.price: is missing"),
            ("price: 1,", "price: 1, cost: 1,", "golden.rows[0].outputs.cost: is no output"),
            ("pair: [1, 2.5]", "pair: 1", "golden.rows[0].outputs.pair: must be a list of 2 values"),
            ("\"1\": 0.5", "\"2\": 0.5", "golden.rows[0].outputs.map: has the key `2`"),
            ("[9007199254740993, true", "[0.5, true", "golden.rows[0].features: `id` is not an integer of int64"),
            ("\"7\", 1, 1]", "\"7\", 1, 2]", "golden.rows[0].features: `size` is not the index of one of S, M"),
        ] {
            let change = |text: &str| text.replacen(from, to, 1);
            let (columns, outputs, row) = (change(COLUMNS), change(OUTPUTS), change(ROW));
            assert!(columns != COLUMNS || outputs != OUTPUTS || row != ROW, "{from}");
            let message = typed(&columns, &outputs, &row, PROFILE).expect_err(from).to_string();
            assert!(message.contains(expected), "{message}\n  should contain {expected}");
        }
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
