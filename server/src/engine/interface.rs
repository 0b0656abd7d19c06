//! A model as tensors: what dialects that speak of tensors, and not of features, see of it.
//!
//! A dialect such as the Open Inference Protocol uses it thus:
//!
//! 1. it shows [`Interface::inputs`] and [`Interface::outputs`] as the model's metadata: names, datatypes, and shapes
//!    with -1 for the rows;
//! 2. it decodes a request to tensors and gives them to [`Interface::rows`], in any order. What does not fit is an
//!    [`InputError`], which says which of the request's inputs and which part of it is to blame. The tensors are moved
//!    and not copied; those of a model that takes one float32 matrix become that matrix;
//! 3. it runs the rows through `batch::Runner`, as every dialect does;
//! 4. it gives the [`Prediction`] to [`Interface::tensors`], which names all outputs, in the order of the metadata, and
//!    encodes those that were asked for.
//!
//! Categories travel as the model itself takes them: to a model of numbers as their index. A classifier's label comes as
//! the model gives it, as a class's index (INT64) or name (BYTES); its probabilities, and maps, as a row of FP32 with one
//! column per class or key in the card's order, whatever form the model file gives them in.
//!
//! Does not know protocols, and nothing of ranges: a tensor's values are served as they are, also outside them.

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Output, OutputTensor};
use ndarray::Array2;

use super::Prediction;
use crate::rows::Rows;
use crate::tensor::{Datatype, Elements, Tensor};

/// The tensors of a model.
#[derive(Debug, Clone)]
pub struct Interface {
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    is_matrix: bool,
    /// Where the model itself gives names of classes, all of them.
    class_names: Vec<String>,
}

/// One tensor that goes in or comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// Its sizes; the first is the rows, -1 for any number.
    pub shape: Vec<i64>,
}

/// A tensor that the model does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// There is no such input.
    #[error("there is no input `{name}`; the inputs are {}", known.join(", "))]
    Unknown {
        /// Its place in the request.
        index: usize,
        /// Its name.
        name: String,
        /// The inputs that there are.
        known: Vec<String>,
    },
    /// An input stands twice.
    #[error("the input `{name}` stands twice")]
    Twice {
        /// The second one's place in the request.
        index: usize,
        /// Its name.
        name: String,
    },
    /// An input is missing.
    #[error("the input `{name}` is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// Its elements are of another datatype.
    #[error("the input `{name}` is {}; send {}", got.name(), expected.name())]
    Datatype {
        /// Its place in the request.
        index: usize,
        /// Its name.
        name: String,
        /// What the model takes.
        expected: Datatype,
        /// What came.
        got: Datatype,
    },
    /// Its shape is another, or says another number of rows than the first input's.
    #[error("the input `{name}` has the shape {got:?}; send {expected:?}, where -1 is any number of rows")]
    Shape {
        /// Its place in the request.
        index: usize,
        /// Its name.
        name: String,
        /// What the model takes.
        expected: Vec<i64>,
        /// What came.
        got: Vec<usize>,
    },
    /// More rows than one request may have.
    #[error("the request has more than the {rows_max} rows allowed; send it in parts")]
    TooManyRows {
        /// The place of the input in the request.
        index: usize,
        /// The limit.
        rows_max: usize,
    },
    /// A text that ONNX Runtime cannot take.
    #[error("the element {element} of the input `{name}` is not UTF-8, or has a zero byte in it")]
    Text {
        /// Its place in the request.
        index: usize,
        /// Its name.
        name: String,
        /// Which of its elements, counted from 0.
        element: usize,
    },
}

impl Interface {
    /// The interface of the model that `spec` describes; `names_classes` says that its label is a class's name.
    pub(super) fn new(spec: &ModelSpec, names_classes: bool) -> Self {
        let input = |tensor: &mainstay_models::spec::InputTensor| TensorInfo {
            name: tensor.name.clone(),
            datatype: Datatype::of(tensor.dtype),
            shape: vec![-1, tensor.columns.len() as i64],
        };
        let outputs = match &spec.output {
            Output::Classifier(classifier) => {
                let (label, classes) = (&classifier.label, classifier.label.classes.len() as i64);
                let datatype = if names_classes { Datatype::Bytes } else { Datatype::Int64 };
                let probability = classifier.probability.tensor.clone();
                vec![
                    TensorInfo { name: label.tensor.clone(), datatype, shape: vec![-1] },
                    TensorInfo { name: probability, datatype: Datatype::Fp32, shape: vec![-1, classes] },
                ]
            }
            Output::Tensors(outputs) => outputs
                .iter()
                .map(|output: &OutputTensor| TensorInfo {
                    name: output.name.clone(),
                    datatype: Datatype::of(output.dtype),
                    shape: std::iter::once(-1).chain(output.shape.iter().map(|&size| size as i64)).collect(),
                })
                .collect(),
        };
        Self {
            inputs: spec.input.tensors.iter().map(input).collect(),
            outputs,
            is_matrix: spec.input.matrix().is_some(),
            class_names: if names_classes { spec.output.classes().to_vec() } else { Vec::new() },
        }
    }

    /// The tensors that go in.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// The tensors that come out.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// The rows of which `given` are the input tensors, each once and in any order; at most `rows_max`, possibly none.
    pub fn rows(&self, given: Vec<Tensor>, rows_max: usize) -> Result<Rows, InputError> {
        let mut placed: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        let mut rows = None;
        for (index, tensor) in given.into_iter().enumerate() {
            let Some(place) = self.inputs.iter().position(|input| input.name == tensor.name()) else {
                let known = self.inputs.iter().map(|input| input.name.clone()).collect();
                return Err(InputError::Unknown { index, name: tensor.name().to_owned(), known });
            };
            if placed[place].is_some() {
                return Err(InputError::Twice { index, name: tensor.name().to_owned() });
            }
            let tensor = self.check(index, &self.inputs[place], tensor, rows)?;
            let count = *rows.get_or_insert(tensor.shape()[0]);
            if count > rows_max {
                return Err(InputError::TooManyRows { index, rows_max });
            }
            placed[place] = Some(tensor);
        }
        let mut tensors = Vec::with_capacity(placed.len());
        for (tensor, input) in placed.into_iter().zip(&self.inputs) {
            tensors.push(tensor.ok_or_else(|| InputError::Missing { name: input.name.clone() })?);
        }
        if self.is_matrix
            && let Some(tensor) = tensors.pop_if(|tensor| matches!(tensor.elements(), Elements::Fp32(_)))
        {
            let shape = (tensor.shape()[0], tensor.shape()[1]);
            if let Elements::Fp32(values) = tensor.into_elements() {
                let matrix = Array2::from_shape_vec(shape, values);
                return Ok(Rows::Matrix(matrix.expect("a tensor has as many elements as its shape says")));
            }
        }
        Ok(Rows::Tensors(tensors))
    }

    /// `tensor` in the shape `[rows, columns]`, once it is what `input` takes; `rows` is how many the others have.
    fn check(&self, index: usize, input: &TensorInfo, tensor: Tensor, rows: Option<usize>) -> Result<Tensor, InputError> {
        let name = || tensor.name().to_owned();
        let got = tensor.elements().datatype();
        if got != input.datatype {
            return Err(InputError::Datatype { index, name: name(), expected: input.datatype, got });
        }
        let columns = usize::try_from(input.shape[1]).expect("a tensor has a column for each of its features");
        let fits = match *tensor.shape() {
            [count, width] => width == columns && rows.is_none_or(|rows| rows == count),
            // One column may come as a list.
            [count] => columns == 1 && rows.is_none_or(|rows| rows == count),
            _ => false,
        };
        if !fits {
            let mut expected = input.shape.clone();
            if let Some(rows) = rows {
                expected[0] = rows as i64;
            }
            return Err(InputError::Shape { index, name: name(), expected, got: tensor.shape().to_vec() });
        }
        if let Elements::Bytes(texts) = tensor.elements()
            && let Some(element) = texts.iter().position(|t| t.contains(&0) || std::str::from_utf8(t).is_err())
        {
            return Err(InputError::Text { index, name: name(), element });
        }
        if tensor.shape().len() == 2 {
            return Ok(tensor);
        }
        let (name, count) = (name(), tensor.shape()[0]);
        Ok(Tensor::new(name, vec![count, 1], tensor.into_elements()).expect("one column has an element per row"))
    }

    /// The output tensors of `prediction`, which the model of this interface made; in the order of [`Interface::outputs`].
    pub fn tensors(&self, prediction: Prediction) -> Vec<Tensor> {
        let answer = match prediction {
            Prediction::Tensors(tensors) => return tensors,
            Prediction::Classes(answer) => answer,
        };
        let rows = answer.labels.len();
        let label = |class: &u32| self.class_names.get(*class as usize).map(|name| name.clone().into_bytes());
        let labels = match self.outputs[0].datatype {
            Datatype::Bytes => Elements::Bytes(answer.labels.iter().filter_map(label).collect()),
            _ => Elements::Int64(answer.labels.iter().map(|&label| i64::from(label)).collect()),
        };
        let classes = answer.probabilities.ncols();
        let probabilities = Elements::Fp32(answer.probabilities.into_raw_vec_and_offset().0);
        let tensor = |output: &TensorInfo, shape, elements| {
            Tensor::new(&output.name, shape, elements).expect("an answer has a label and all probabilities of each row")
        };
        vec![
            tensor(&self.outputs[0], vec![rows], labels),
            tensor(&self.outputs[1], vec![rows, classes], probabilities),
        ]
    }
}
