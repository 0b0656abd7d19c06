//! What only people know of a model: what it does, what its features and classes mean, in which units.

use std::fmt::Write as _;

use mainstay_models::YamlError;
use mainstay_models::yaml;
use serde::Deserialize;

use super::Recorded;
use super::card::text;

/// The file that `--card` names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    pub description: String,
    /// In the model's order.
    pub features: Vec<Feature>,
    /// In the order of the labels.
    pub classes: Vec<String>,
    pub threshold: Option<f32>,
    /// What the training data is called and where it comes from.
    pub data: Option<Data>,
    /// The commit of the training code, where the record has none.
    pub commit: Option<String>,
    pub seed: Option<u64>,
    /// On which data those metrics were measured whose record does not say.
    pub split: Option<String>,
    pub tolerance: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    pub name: String,
    pub description: String,
    pub unit: Option<String>,
    /// Of a feature that the model gets as an index: the texts, in the order of the indexes.
    pub categories: Option<Vec<String>>,
    pub default: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub name: String,
    pub source: String,
}

impl Facts {
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, YamlError> {
        let facts: Self = yaml::parse(file, text, Ok)?;
        let empty = facts.features.iter().find(|feature| feature.description.trim().is_empty());
        match empty {
            Some(feature) => Err(YamlError {
                file: file.to_owned(),
                line: 0,
                field: format!("features: {}", feature.name),
                problem: "has no description; say what it means".to_owned(),
            }),
            None => Ok(facts),
        }
    }
}

/// A file to fill in, with what is known.
pub fn beginning(recorded: &Recorded, features: Option<usize>, classes: Option<usize>) -> String {
    let mut out =
        "# What only you know of the model. Units and categories make its answers safe to use: fill them in.\n"
            .to_owned();
    let _ = writeln!(out, "description: ''               # what the model does, for people");
    let _ = writeln!(out, "features:                     # in the model's order");
    let numbered = || (0..features.unwrap_or(1)).map(|index| format!("feature {index}")).collect();
    let names: Vec<String> = if recorded.columns.is_empty() { numbered() } else { recorded.columns.clone() };
    for name in &names {
        let _ = writeln!(out, "  - name: {}", text(name));
        let _ = writeln!(out, "    description: ''           # what it means");
        let _ = writeln!(out, "    # unit: mm                # where it has one");
        let _ = writeln!(out, "    # categories: [S, M, L]   # where the model gets the index of a text");
    }
    let classes: Vec<_> = (0..classes.unwrap_or(2)).map(|index| text(&format!("class {index}"))).collect();
    let _ = writeln!(out, "classes: [{}]   # in the order of the labels", classes.join(", "));
    if recorded.data.is_none() {
        let _ = writeln!(
            out,
            "data: {{name: '', source: ''}}  # what the training data is called, and where it comes from"
        );
    }
    if recorded.metrics.iter().any(|metric| metric.split.is_none()) {
        let _ =
            writeln!(out, "split: ''                     # on which data the metrics were measured that do not say so");
    }
    out
}
