//! What comes out of a model: a label with its probabilities, or tensors.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::golden::RawExpected;
use super::value::{Dtype, RawValue, Value};
use super::{check_label, check_labels};
use crate::yaml::Fault;

/// The most outputs of a model.
const OUTPUTS_MAX: usize = 256;
/// The most values of one output for one row.
const VALUES_PER_ROW_MAX: usize = 65_536;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutput {
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

    pub(super) fn validate(raw: Spanned<RawOutput>) -> Result<Self, Fault> {
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
    pub(super) fn golden(&self, raw: &RawExpected) -> Result<Vec<Value>, String> {
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
