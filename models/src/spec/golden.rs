//! Rows with the answers that any server must reproduce.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::input::Input;
use super::output::{Output, OutputTensor};
use super::value::{RawValue, Value};
use crate::yaml::Fault;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGolden {
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
pub(super) enum RawExpected {
    One(RawValue),
    Several(Vec<RawValue>),
    Map(BTreeMap<String, RawValue>),
}

impl Golden {
    pub(super) fn validate(raw: RawGolden, input: &Input, output: &Output) -> Result<Self, Fault> {
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
