//! `GET /info`: what is served, from which bytes, trained how, and which commits changed it.

use mainstay_models::spec::{Domain, Dtype, Feature, Metric, Output, OutputKind, OutputTensor, Training};
use mainstay_models::{Blob, Change, CommitId, ModelName, Version};
use serde::Serialize;

use crate::catalog::{Catalog, CatalogModel, LoadedVersion};
use crate::engine::EngineName;

#[derive(Serialize)]
struct Info<'a> {
    server: &'static str,
    release: Option<Release<'a>>,
    default: Option<&'a ModelName>,
    models: Vec<Model<'a>>,
    changes: &'a [Change],
}

#[derive(Serialize)]
struct Release<'a> {
    name: String,
    commit: &'a CommitId,
    sha256: String,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a ModelName,
    stable: Option<&'a Version>,
    commit: Option<&'a CommitId>,
    versions: Vec<VersionInfo<'a>>,
}

#[derive(Serialize)]
struct VersionInfo<'a> {
    version: &'a Version,
    description: &'a str,
    artifact: Blob,
    spec: Blob,
    features: Vec<FeatureInfo<'a>>,
    /// Of a classifier; else empty.
    classes: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<OutputInfo<'a>>,
    engine: EngineName,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_compiled: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    training: &'a Training,
    metrics: &'a [Metric],
}

#[derive(Serialize)]
struct FeatureInfo<'a> {
    name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    categories: Option<&'a [String]>,
    dtype: Dtype,
    required: bool,
}

/// One output of a model that is no classifier.
#[derive(Serialize)]
struct OutputInfo<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    dtype: Dtype,
    /// The sizes of what one row gets; empty for one value.
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<&'a [String]>,
}

/// The info of `catalog` as JSON.
pub(super) fn render(catalog: &Catalog) -> Vec<u8> {
    let info = Info {
        server: concat!("mainstay ", env!("CARGO_PKG_VERSION")),
        release: catalog.release.as_ref().map(|release| Release {
            name: release.name.to_string(),
            commit: &release.name.commit,
            sha256: release.sha256.to_string(),
        }),
        default: catalog.default.as_ref(),
        models: catalog.models.iter().map(|(name, model)| Model::of(name, model)).collect(),
        changes: &catalog.changes,
    };
    serde_json::to_vec_pretty(&info).expect("an info has finite numbers and text keys")
}

impl<'a> Model<'a> {
    fn of(name: &'a ModelName, model: &'a CatalogModel) -> Self {
        let versions = model.versions.values().map(|version| VersionInfo::of(version)).collect();
        Self { name, stable: model.stable.as_ref(), commit: model.commit.as_ref(), versions }
    }
}

impl<'a> VersionInfo<'a> {
    fn of(version: &'a LoadedVersion) -> Self {
        let spec = &version.spec;
        Self {
            version: &spec.version,
            description: &spec.description,
            artifact: version.blobs.artifact,
            spec: version.blobs.spec,
            features: spec.input.features.iter().map(FeatureInfo::of).collect(),
            classes: spec.output.classes(),
            outputs: match &spec.output {
                Output::Classifier(_) => Vec::new(),
                Output::Tensors(outputs) => outputs.iter().map(OutputInfo::of).collect(),
            },
            engine: version.engine.name(),
            not_compiled: version.not_compiled.as_deref(),
            threshold: spec.output.classifier().and_then(|classifier| classifier.threshold),
            training: &spec.training,
            metrics: &spec.metrics,
        }
    }
}

impl<'a> FeatureInfo<'a> {
    fn of(feature: &'a Feature) -> Self {
        let (range, categories) = match &feature.domain {
            Domain::Number { min, max } => (Some([*min, *max]), None),
            Domain::Category(categories) => (None, Some(categories.as_slice())),
            Domain::Text | Domain::Truth => (None, None),
        };
        Self {
            name: &feature.name,
            description: &feature.description,
            unit: feature.unit.as_deref(),
            range,
            categories,
            dtype: feature.dtype,
            required: feature.default.is_none(),
        }
    }
}

impl<'a> OutputInfo<'a> {
    fn of(output: &'a OutputTensor) -> Self {
        let (classes, keys) = match &output.kind {
            OutputKind::Value => (None, None),
            OutputKind::Label(classes) => (Some(classes.as_slice()), None),
            OutputKind::Map(keys) => (None, Some(keys.as_slice())),
        };
        Self {
            name: &output.name,
            description: output.description.as_deref(),
            unit: output.unit.as_deref(),
            dtype: output.dtype,
            shape: &output.shape,
            classes,
            keys,
        }
    }
}
