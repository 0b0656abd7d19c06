//! What goes into a model: features, and the tensors that they are columns of.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::value::{Dtype, RawValue, Value};
use super::{check_label, check_labels};
use crate::yaml::Fault;

/// The most input features of a model.
const FEATURES_MAX: usize = 4096;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInput {
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

impl Input {
    /// The tensor's name, where all features are the columns of one float32 tensor, in their order.
    pub fn matrix(&self) -> Option<&str> {
        match self.tensors.as_slice() {
            [tensor] if tensor.dtype == Dtype::Fp32 => Some(&tensor.name),
            _ => None,
        }
    }

    pub(super) fn validate(raw: RawInput) -> Result<Self, Fault> {
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
    pub(super) fn golden(&self, raw: &RawValue) -> Result<Value, String> {
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
