//! What ONNX Runtime gives, in whatever form a converter chose, as the answer that the spec describes.
//!
//! Guarantees: an answer has a value of every output for each row; a label is one of the classes that the spec names,
//! and a map has the keys that it names.

use std::collections::HashMap;

use half::{bf16, f16};
use mainstay_models::spec::OutputKind;
use ndarray::Axis;
use ort::session::SessionOutputs;
use ort::value::{DynMapValueType, DynValue, PrimitiveTensorElementType};

use super::answer::{Expected, check_shape};
use super::{Answer, RunError};
use crate::rows::Rows;
use crate::tensor::{Datatype, Elements, Tensor};

/// What a model says of some rows, in their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Prediction {
    /// Of a classifier.
    Classes(Answer),
    /// Of any other model: a tensor for each output of its card, in that order, the rows first.
    Tensors(Vec<Tensor>),
}

/// How the outputs of one model are read.
#[derive(Debug)]
pub(super) enum Outputs {
    Classifier {
        label: String,
        probability: String,
        classes: Names,
        labels: Labels,
        /// The label of each class; none where it is the class's index or name.
        values: Box<[i64]>,
        probabilities: Probabilities,
    },
    Tensors(Vec<OutputPlan>),
}

/// How a model gives labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Labels {
    Indices,
    Names,
}

/// How a model gives probabilities.
#[derive(Debug)]
pub(super) enum Probabilities {
    /// A matrix of these floats, which are answered as float32.
    Tensor(Datatype),
    /// A sequence of maps, as ZipMap makes them, with these keys: names of classes, or their labels.
    Maps(Names, Labels),
}

/// Names by their place, and places by their name.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) names: Vec<String>,
    places: HashMap<String, usize>,
}

/// How one output is read.
#[derive(Debug)]
pub(super) struct OutputPlan {
    pub(super) name: String,
    pub(super) tensor: String,
    pub(super) datatype: Datatype,
    pub(super) shape: Vec<usize>,
    pub(super) form: Form,
}

/// What one output is.
#[derive(Debug)]
pub(super) enum Form {
    Values,
    /// Of these classes.
    Labels(Names),
    /// With these keys, which the model has as integers (indices) or as texts (names).
    Maps(Names, Labels),
}

/// Collects the pieces of an answer.
pub(super) enum Collector {
    Classes(Answer),
    Tensors(Vec<Elements>),
}

impl Prediction {
    /// How many rows it is about.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(answer) => answer.labels.len(),
            Self::Tensors(tensors) => tensors.first().and_then(|tensor| tensor.shape().first()).copied().unwrap_or(0),
        }
    }

    /// Whether it is about none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it says of the rows `from..to`, which must be among these.
    #[must_use]
    pub fn slice(&self, from: usize, to: usize) -> Self {
        match self {
            Self::Classes(Answer { labels, probabilities }) => Self::Classes(Answer {
                labels: labels[from..to].to_vec(),
                probabilities: probabilities.slice_axis(Axis(0), (from..to).into()).to_owned(),
            }),
            Self::Tensors(tensors) => Self::Tensors(tensors.iter().map(|tensor| tensor.rows(from, to)).collect()),
        }
    }

    /// The answer of a classifier; none of another model.
    pub fn into_classes(self) -> Option<Answer> {
        match self {
            Self::Classes(answer) => Some(answer),
            Self::Tensors(_) => None,
        }
    }
}

impl Names {
    pub(super) fn new(names: &[String]) -> Self {
        let places = names.iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
        Self { names: names.to_vec(), places }
    }
}

impl Form {
    pub(super) fn of(kind: &OutputKind, keys: Labels) -> Self {
        match kind {
            OutputKind::Value => Self::Values,
            OutputKind::Label(classes) => Self::Labels(Names::new(classes)),
            OutputKind::Map(names) => Self::Maps(Names::new(names), keys),
        }
    }
}

impl Outputs {
    pub(super) fn collector(&self, rows: usize) -> Collector {
        match self {
            Self::Classifier { classes, .. } => Collector::Classes(Answer::with_capacity(rows, classes.names.len())),
            Self::Tensors(plans) => {
                Collector::Tensors(plans.iter().map(|plan| Elements::zeros(plan.datatype, 0)).collect())
            }
        }
    }

    /// The whole answer to `rows` rows.
    pub(super) fn finish(&self, rows: usize, collected: Collector) -> Prediction {
        match (self, collected) {
            (_, Collector::Classes(answer)) => Prediction::Classes(answer),
            (Self::Tensors(plans), Collector::Tensors(elements)) => Prediction::Tensors(
                plans
                    .iter()
                    .zip(elements)
                    .map(|(plan, elements)| {
                        let shape = [&[rows], plan.shape.as_slice()].concat();
                        Tensor::new(&plan.name, shape, elements).expect("the shape of each piece has been checked")
                    })
                    .collect(),
            ),
            (Self::Classifier { .. }, Collector::Tensors(_)) => unreachable!("a collector is used by its own outputs"),
        }
    }

    /// Appends the outputs of a run of `rows` rows, the first of which is the row `first` of all.
    pub(super) fn append(
        &self,
        collector: &mut Collector,
        given: &SessionOutputs<'_>,
        rows: usize,
        first: usize,
    ) -> Result<(), RunError> {
        match (self, collector) {
            (
                Self::Classifier { label, probability, classes, labels, values, probabilities },
                Collector::Classes(answer),
            ) => {
                let expected = Expected { rows, classes: classes.names.len(), label, probability, values };
                let (label_value, probability_value) = (&given[label.as_str()], &given[probability.as_str()]);
                if let (Labels::Indices, Probabilities::Tensor(Datatype::Fp32)) = (labels, probabilities) {
                    let (label_shape, labels) = label_value.try_extract_tensor()?;
                    let (probability_shape, probabilities) = probability_value.try_extract_tensor()?;
                    return answer.append(&expected, (label_shape, labels), (probability_shape, probabilities));
                }
                let (label_shape, labels) = match labels {
                    Labels::Indices => {
                        let (shape, labels) = label_value.try_extract_tensor()?;
                        (shape.to_vec(), labels.to_vec())
                    }
                    Labels::Names => {
                        let (shape, names) = label_value.try_extract_strings()?;
                        let place = |(row, name): (usize, &String)| classes.place(label, first + row, name);
                        let places = names.iter().enumerate().map(place).collect::<Result<Vec<_>, _>>()?;
                        (shape.to_vec(), places.into_iter().map(|place| place as i64).collect())
                    }
                };
                let (probability_shape, probabilities) = match probabilities {
                    Probabilities::Tensor(datatype) => floats(probability_value, *datatype)?,
                    Probabilities::Maps(keys, kind) => {
                        let values = maps(probability_value, probability, keys, *kind, first)?;
                        (vec![(values.len() / classes.names.len()) as i64, classes.names.len() as i64], values)
                    }
                };
                answer.append(&expected, (&label_shape, &labels), (&probability_shape, &probabilities))
            }
            (Self::Tensors(plans), Collector::Tensors(collected)) => {
                for (plan, elements) in plans.iter().zip(collected) {
                    plan.append(elements, &given[plan.tensor.as_str()], rows, first)?;
                }
                Ok(())
            }
            _ => unreachable!("a collector is used by its own outputs"),
        }
    }
}

impl Outputs {
    /// The integers and floats of a model that could be compiled, as they come, row by row.
    pub(super) fn raw(&self, given: &SessionOutputs<'_>, rows: usize) -> Result<(Vec<i64>, Vec<f32>), RunError> {
        let plans = match self {
            Self::Classifier { label, probability, .. } => {
                let (_, labels) = given[label.as_str()].try_extract_tensor()?;
                let (_, probabilities) = given[probability.as_str()].try_extract_tensor()?;
                return Ok((labels.to_vec(), probabilities.to_vec()));
            }
            Self::Tensors(plans) => plans,
        };
        let (mut integers, mut floats) = (Vec::new(), Vec::new());
        for plan in plans {
            let value = &given[plan.tensor.as_str()];
            match plan.datatype {
                Datatype::Int64 => integers.push((plan.values(value, rows)?, plan.width())),
                Datatype::Fp32 if !matches!(plan.form, Form::Maps(..)) => {
                    floats.push((plan.values(value, rows)?, plan.width()));
                }
                _ => {
                    let expected = "outputs of int64 and float32".to_owned();
                    return Err(RunError::Rows { expected, got: format!("rows for `{}`", plan.name) });
                }
            }
        }
        Ok((by_row(&integers, rows), by_row(&floats, rows)))
    }
}

/// Tensors beside each other: the values of each row, with how many each tensor has of one.
fn by_row<T: Copy>(tensors: &[(&[T], usize)], rows: usize) -> Vec<T> {
    let row =
        |row: usize| tensors.iter().flat_map(move |(values, width)| values[row * width..][..*width].iter().copied());
    (0..rows).flat_map(row).collect()
}

impl Names {
    /// The place of a name that the model gave.
    fn place(&self, tensor: &str, row: usize, name: &str) -> Result<usize, RunError> {
        self.places.get(name).copied().ok_or_else(|| RunError::Unknown {
            tensor: tensor.to_owned(),
            row,
            got: name.chars().filter(|c| !c.is_control()).take(60).collect(),
        })
    }
}

impl OutputPlan {
    fn append(&self, elements: &mut Elements, given: &DynValue, rows: usize, first: usize) -> Result<(), RunError> {
        if let Form::Maps(keys, kind) = &self.form {
            let values = maps(given, &self.tensor, keys, *kind, first)?;
            check_shape(
                &self.tensor,
                &[rows, keys.names.len()],
                &[(values.len() / keys.names.len()) as i64, keys.names.len() as i64],
            )?;
            elements.extend_from(&Elements::Fp32(values));
            return Ok(());
        }
        if let Elements::Bytes(texts) = elements {
            let (shape, given) = given.try_extract_strings()?;
            self.check(rows, shape)?;
            for (at, text) in given.into_iter().enumerate() {
                if let Form::Labels(classes) = &self.form {
                    classes.place(&self.tensor, first + at / self.width(), &text)?;
                }
                texts.push(text.into_bytes());
            }
            return Ok(());
        }
        macro_rules! extend {
            ($($kind:ident),*) => {
                match elements {
                    $(Elements::$kind(values) => values.extend_from_slice(self.values(given, rows)?),)*
                    Elements::Bytes(_) => unreachable!("texts have been dealt with"),
                }
            };
        }
        let before = elements.len();
        extend!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64);
        if let (Form::Labels(classes), Elements::Int64(labels)) = (&self.form, &*elements) {
            let classes = classes.names.len();
            let wrong = |label: &&i64| !usize::try_from(**label).is_ok_and(|label| label < classes);
            if let Some(at) = labels[before..].iter().position(|label| wrong(&label)) {
                let row = first + at / self.width();
                return Err(RunError::Label { row, got: labels[before + at], classes });
            }
        }
        Ok(())
    }

    fn values<'a, T: PrimitiveTensorElementType>(&self, given: &'a DynValue, rows: usize) -> Result<&'a [T], RunError> {
        let (shape, values) = given.try_extract_tensor()?;
        self.check(rows, shape)?;
        Ok(values)
    }

    /// One value for each row may come as a column.
    fn check(&self, rows: usize, shape: &[i64]) -> Result<(), RunError> {
        let column = self.shape.is_empty() && shape.len() == 2;
        let sizes = if column { vec![rows, 1] } else { [&[rows], self.shape.as_slice()].concat() };
        check_shape(&self.tensor, &sizes, shape)
    }

    fn width(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A tensor of floats of any width, its shape before it.
fn floats(given: &DynValue, datatype: Datatype) -> Result<(Vec<i64>, Vec<f32>), RunError> {
    fn read<T: PrimitiveTensorElementType>(given: &DynValue, to: fn(&T) -> f32) -> ort::Result<(Vec<i64>, Vec<f32>)> {
        let (shape, values) = given.try_extract_tensor()?;
        Ok((shape.to_vec(), values.iter().map(to).collect()))
    }
    Ok(match datatype {
        Datatype::Fp16 => read::<f16>(given, |value| value.to_f32())?,
        Datatype::Bf16 => read::<bf16>(given, |value| value.to_f32())?,
        Datatype::Fp64 => read::<f64>(given, |value| *value as f32)?,
        _ => read::<f32>(given, |value| *value)?,
    })
}

/// The values of a sequence of maps, row by row in the order of `keys`.
fn maps(given: &DynValue, tensor: &str, keys: &Names, kind: Labels, first: usize) -> Result<Vec<f32>, RunError> {
    let maps = given.try_extract_sequence::<DynMapValueType>()?;
    let width = keys.names.len();
    let mut values = Vec::with_capacity(maps.len() * width);
    let mut seen = vec![false; width];
    for (row, map) in maps.iter().enumerate() {
        let begin = values.len();
        values.resize(begin + width, 0.0);
        seen.fill(false);
        let mut put = |place: usize, value: f32| {
            values[begin + place] = value;
            seen[place] = true;
        };
        match kind {
            Labels::Names => {
                for (key, value) in map.try_extract_key_values::<String, f32>()? {
                    put(keys.place(tensor, first + row, &key)?, value);
                }
            }
            Labels::Indices => {
                for (key, value) in map.try_extract_key_values::<i64, f32>()? {
                    put(keys.place(tensor, first + row, &key.to_string())?, value);
                }
            }
        }
        if let Some(place) = seen.iter().position(|seen| !seen) {
            let (tensor, key) = (tensor.to_owned(), keys.names[place].clone());
            return Err(RunError::Lacking { tensor, row: first + row, key });
        }
    }
    Ok(values)
}

/// The error for rows that are of another model's form; this one takes a matrix of so many columns.
pub(super) fn wrong_rows(columns: usize, got: &Rows) -> RunError {
    RunError::Rows { expected: format!("rows of {columns} features"), got: describe(got) }
}

/// Rows in words.
pub(super) fn describe(rows: &Rows) -> String {
    match rows {
        Rows::Matrix(matrix) => format!("rows of {} features", matrix.ncols()),
        Rows::Tensors(tensors) => {
            let tensor = |t: &Tensor| format!("`{}` of {} {:?}", t.name(), t.elements().datatype().name(), t.shape());
            tensors.iter().map(tensor).collect::<Vec<_>>().join(", ")
        }
    }
}
