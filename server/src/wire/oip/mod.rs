//! The Open Inference Protocol (V2), with the extensions of Triton that its clients use.
//!
//! [`json`] is its dialect over HTTP, with tensors as JSON or as binary behind it, and [`raw`] the bytes of such tensors,
//! which gRPC carries too. A request is held to the model's [`Metadata`] before its tensors are built: every fault has
//! the path into the request, and no request takes more memory than the rows it may have.

use mainstay_models::ModelSpec;
use mainstay_models::spec::{self, Domain, Dtype, OutputKind};
use ndarray::Array2;
use serde::Serialize;
use smallvec::SmallVec;

use super::{Signature, excerpt};
use crate::engine::{InputError, Interface, Prediction, TensorInfo};
use crate::rows::Rows;
use crate::tensor::{Datatype, Elements, Tensor};

pub mod grpc;
pub mod json;
mod plain;
pub mod raw;

/// A tensor of a model; a size of -1 is the number of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorMetadata {
    /// Its name in the model file.
    pub name: String,
    /// What its elements are.
    #[serde(serialize_with = "datatype_name")]
    pub datatype: Datatype,
    /// Its sizes.
    pub shape: Vec<i64>,
}

/// What goes into a model and what comes out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// What goes in.
    pub inputs: Vec<TensorMetadata>,
    /// What comes out.
    pub outputs: Vec<TensorMetadata>,
}

/// A request for a prediction, its inputs checked.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// The client's name for it.
    pub id: Option<String>,
    /// What it asks about.
    pub inputs: Inputs,
    /// What is wanted; everything, where it is empty.
    pub outputs: Vec<Wanted>,
    /// Whether outputs are binary that do not say.
    pub is_binary: bool,
    /// How many microseconds the client waits, where it says so.
    pub timeout_us: Option<u64>,
}

/// The inputs of a request.
#[derive(Debug, PartialEq)]
pub enum Inputs {
    /// The rows of a model whose one input is a float32 matrix: nearly every request's, which so needs no name and no shape.
    Matrix(Array2<f32>),
    /// One tensor for each of the model's inputs, in the request's order.
    Tensors(Vec<Tensor>),
}

/// An output that a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether it is to be binary, where the request says so.
    pub is_binary: Option<bool>,
    /// Not the values but so many of the best classes.
    pub classes: Option<usize>,
}

/// An output of an answer.
#[derive(Debug, PartialEq)]
pub struct Output {
    /// The tensor.
    pub tensor: Tensor,
    /// Whether it goes as binary.
    pub is_binary: bool,
}

/// The outputs of an answer; most have no more.
pub type Outputs = SmallVec<[Output; 2]>;

/// Why a request is not one for this model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Something in it is not what the protocol or the model asks for.
    #[error("{0}")]
    Invalid(Fault),
    /// More rows than one request may have.
    #[error("the request has more than the {rows_max} rows allowed; send it in parts")]
    TooManyRows {
        /// The limit.
        rows_max: usize,
    },
}

/// One fault of a request.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[error("{path}: expected {expected}, got {got}")]
pub struct Fault {
    /// Where in the request, such as `inputs[0].shape[1]`.
    pub path: String,
    /// What would be right.
    pub expected: String,
    /// What was found.
    pub got: String,
}

/// An input as a request announces it, before its elements are known.
#[derive(Debug, Clone, Copy)]
pub struct Announced<'a> {
    /// Its place in the request.
    pub index: usize,
    /// Its name.
    pub name: &'a str,
    /// Its datatype's name.
    pub datatype: &'a str,
    /// Its sizes.
    pub shape: &'a [i64],
}

impl Fault {
    /// A fault at `path`.
    pub fn new(path: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { path: path.into(), expected: expected.into(), got: got.into() }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl Metadata {
    /// What `interface` says.
    pub fn of(interface: &Interface) -> Self {
        let tensor = |tensor: &TensorInfo| TensorMetadata {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape: tensor.shape.clone(),
        };
        Self {
            inputs: interface.inputs().iter().map(tensor).collect(),
            outputs: interface.outputs().iter().map(tensor).collect(),
        }
    }

    /// The sizes of an announced input, once they are right; `seen` are the names that came before it.
    pub fn admit<'s>(
        &self,
        announced: Announced<'_>,
        seen: impl Iterator<Item = &'s str>,
        rows_max: usize,
    ) -> Result<(Datatype, Vec<usize>), Error> {
        let Announced { index, name, datatype, shape } = announced;
        let at = |key: &str| format!("inputs[{index}].{key}");
        let Some(expected) = self.inputs.iter().find(|input| input.name == name) else {
            return Err(Fault::new(at("name"), self.input_names(), shown(name)).into());
        };
        if seen.into_iter().any(|before| before == name) {
            return Err(Fault::new(at("name"), "each input once", format!("{} twice", shown(name))).into());
        }
        if Datatype::named(datatype) != Some(expected.datatype) {
            return Err(Fault::new(at("datatype"), expected.datatype.name(), shown(datatype)).into());
        }
        if shape.len() != expected.shape.len() {
            let expected = format!("{} sizes, {:?}", expected.shape.len(), expected.shape);
            return Err(Fault::new(at("shape"), expected, format!("{} sizes", shape.len())).into());
        }
        let mut sizes = Vec::with_capacity(shape.len());
        for (axis, (&size, &wanted)) in shape.iter().zip(&expected.shape).enumerate() {
            let fits = if wanted < 0 { size >= 0 } else { size == wanted };
            let known = usize::try_from(size).ok().filter(|_| fits).ok_or_else(|| {
                let wanted = if wanted < 0 { "a number of rows".to_owned() } else { wanted.to_string() };
                Fault::new(format!("inputs[{index}].shape[{axis}]"), wanted, size.to_string())
            })?;
            if wanted < 0 && known > rows_max {
                return Err(Error::TooManyRows { rows_max });
            }
            sizes.push(known);
        }
        Ok((expected.datatype, sizes))
    }

    /// Says which input is missing, if one is, and whether all have the same number of rows.
    pub fn complete(&self, inputs: &[Tensor]) -> Result<(), Error> {
        if let Some(missing) = self.inputs.iter().find(|input| !inputs.iter().any(|given| given.name() == input.name)) {
            let got = format!("{} others", inputs.len());
            return Err(Fault::new("inputs", format!("the input {}", shown(&missing.name)), got).into());
        }
        let rows = |tensor: &Tensor| tensor.shape().first().copied();
        let different = inputs.iter().position(|input| rows(input) != rows(&inputs[0]));
        if let Some(index) = different {
            let (expected, got) = (rows(&inputs[0]).unwrap_or(0), rows(&inputs[index]).unwrap_or(0));
            let path = format!("inputs[{index}].shape[0]");
            return Err(Fault::new(path, format!("{expected} rows as inputs[0]"), got.to_string()).into());
        }
        Ok(())
    }

    /// Refuses what `wanted` asks for and the model does not have.
    pub fn check_wanted(&self, wanted: &[Wanted]) -> Result<(), Error> {
        for (index, output) in wanted.iter().enumerate() {
            let at = |key: &str| format!("outputs[{index}].{key}");
            let Some(known) = self.outputs.iter().find(|known| known.name == output.name) else {
                let names: Vec<_> = self.outputs.iter().map(|output| shown(&output.name)).collect();
                return Err(Fault::new(at("name"), format!("one of {}", names.join(", ")), shown(&output.name)).into());
            };
            if wanted[..index].iter().any(|before| before.name == output.name) {
                return Err(Fault::new(at("name"), "each output once", format!("{} twice", shown(&output.name))).into());
            }
            let has_classes = known.datatype == Datatype::Fp32 && known.shape.len() == 2;
            if output.classes.is_some() && !has_classes {
                let expected = "classification of an output with a score for each class";
                return Err(Fault::new(at("parameters.classification"), expected, shown(&output.name)).into());
            }
        }
        Ok(())
    }

    /// The most inputs that a request may have, and the most outputs that it may ask for.
    fn counts(&self) -> (usize, usize) {
        (self.inputs.len(), self.outputs.len())
    }

    fn input_names(&self) -> String {
        let names: Vec<_> = self.inputs.iter().map(|input| shown(&input.name)).collect();
        format!("one of the inputs {}", names.join(", "))
    }
}

/// The rows of a checked request, whose values are held to the features that they are of.
pub fn rows(signature: &Signature, interface: &Interface, inputs: Inputs) -> Result<Rows, Error> {
    let (rows, names) = match inputs {
        Inputs::Matrix(matrix) => (Rows::Matrix(matrix), Vec::new()),
        Inputs::Tensors(tensors) => {
            // Of one input the place is known.
            let several = if tensors.len() > 1 { &tensors[..] } else { &[] };
            let names = several.iter().map(|tensor| tensor.name().to_owned()).collect();
            (tensor_rows(interface, tensors)?, names)
        }
    };
    if let Some((feature, row, got)) = rows.first_mismatch(&signature.layout, &signature.features) {
        let (tensor, column) = signature.layout.place(feature);
        let input = names.iter().position(|name| *name == interface.inputs()[tensor].name).unwrap_or_default();
        let feature = &signature.features[feature];
        let expected = match (&feature.domain, feature.dtype) {
            (Domain::Category(categories), Dtype::String) => {
                format!("one of {} for `{}`", categories.join(", "), feature.name)
            }
            (Domain::Category(categories), _) => {
                format!("the place of a category of `{}`, 0 to {}", feature.name, categories.len() - 1)
            }
            _ => format!("a finite number for `{}`", feature.name),
        };
        return Err(Fault::new(format!("inputs[{input}].data[{row}][{column}]"), expected, excerpt(&got)).into());
    }
    Ok(rows)
}

fn tensor_rows(interface: &Interface, tensors: Vec<Tensor>) -> Result<Rows, Fault> {
    interface.rows(tensors, usize::MAX).map_err(|error| {
        let (path, got) = match &error {
            InputError::Text { index, element, .. } => (format!("inputs[{index}].data[{element}]"), "other bytes"),
            _ => ("inputs".to_owned(), "something else"),
        };
        Fault::new(path, format!("what the model takes ({error})"), got)
    })
}

/// What `wanted` asks for of an answer, in its order.
pub fn outputs(
    spec: &ModelSpec,
    interface: &Interface,
    prediction: Prediction,
    wanted: &[Wanted],
    is_binary: bool,
) -> Outputs {
    let tensors = interface.tensors(prediction);
    if wanted.is_empty() {
        return tensors.into_iter().map(|tensor| Output { tensor, is_binary }).collect();
    }
    let output = |wanted: &Wanted| {
        let is_binary = wanted.is_binary.unwrap_or(is_binary);
        let tensor = tensors.iter().find(|tensor| tensor.name() == wanted.name);
        let tensor = tensor.expect("what is wanted has been checked");
        let tensor = match wanted.classes {
            Some(count) => best(tensor, &class_names(spec, tensor.name()), count),
            None => tensor.clone(),
        };
        Output { tensor, is_binary }
    };
    wanted.iter().map(output).collect()
}

/// What the scores of an output are of; none of an output that the card does not name classes of.
fn class_names(spec: &ModelSpec, output: &str) -> Vec<String> {
    match &spec.output {
        spec::Output::Classifier(classifier) => classifier.label.classes.clone(),
        spec::Output::Tensors(outputs) => match outputs.iter().find(|known| known.name == output).map(|o| &o.kind) {
            Some(OutputKind::Map(keys)) => keys.clone(),
            _ => Vec::new(),
        },
    }
}

/// The `count` best classes of each row as `score:index:name`, the best first.
fn best(scores: &Tensor, classes: &[String], count: usize) -> Tensor {
    let (rows, width) = (scores.shape()[0], scores.shape().get(1).copied().unwrap_or(1));
    let Elements::Fp32(values) = scores.elements() else { return scores.clone() };
    let count = count.min(width);
    let mut elements = Vec::with_capacity(rows * count);
    for row in values.chunks_exact(width) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let words = |&class: &usize| match classes.get(class) {
            Some(name) => format!("{:.6}:{class}:{name}", row[class]).into_bytes(),
            None => format!("{:.6}:{class}", row[class]).into_bytes(),
        };
        elements.extend(order.iter().take(count).map(words));
    }
    let whole = "each row has as many of its best classes";
    Tensor::new(scores.name(), vec![rows, count], Elements::Bytes(elements)).expect(whole)
}

fn datatype_name<S: serde::Serializer>(datatype: &Datatype, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(datatype.name())
}

fn shown(name: &str) -> String {
    format!("`{}`", excerpt(name))
}

#[cfg(test)]
impl Inputs {
    /// The tensors, whichever way they came; `name` is that of a matrix.
    fn into_tensors(self, name: &str) -> Vec<Tensor> {
        match self {
            Self::Tensors(tensors) => tensors,
            Self::Matrix(matrix) => {
                let shape = matrix.shape().to_vec();
                let elements = Elements::Fp32(matrix.into_raw_vec_and_offset().0);
                vec![Tensor::new(name, shape, elements).unwrap()]
            }
        }
    }
}
