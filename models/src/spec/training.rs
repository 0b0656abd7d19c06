//! Where a model comes from, and how good it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;

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
