//! Mainstay's own executor: trees, linear models and the arithmetic around them, compiled once and run by any thread.
//!
//! Guarantees: compiling never panics, whatever the file says; a compiled model is never changed, so that no run waits for
//! another; a run allocates nothing per row. Whether the answers are ONNX Runtime's is not known here: that is what
//! [`super::parity`] finds out before a compiled model answers anybody.

mod descent;
mod forest;
mod graph;
mod lower;
mod program;
pub(super) mod proto;
mod transform;
mod trees;

use std::cell::RefCell;

use mainstay_models::ModelSpec;
use mainstay_models::spec::{self, Dtype, OutputKind};
use ndarray::ArrayView2;
use prost::Message;

use self::graph::Type;
use self::lower::{Output, Signature};
use self::program::{Outputs, Program};
use super::answer::Expected;
use super::outputs::wrong_rows;
use super::{Answer, Prediction, RunError};
use crate::rows::Rows;
use crate::tensor::{Elements, Tensor};

/// A model that only ONNX Runtime can serve, and what of it is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}the compiled executor does not know {what}", .node.as_ref().map(|node| format!("in {node}: ")).unwrap_or_default())]
pub struct Unsupported {
    what: String,
    node: Option<String>,
}

/// A compiled model.
#[derive(Debug)]
pub(super) struct Compiled {
    program: Program,
    form: Form,
    steps_per_row: usize,
}

/// What the integers and floats that a program gives mean.
#[derive(Debug)]
enum Form {
    Classifier {
        label: String,
        probability: String,
        classes: usize,
        /// The label of each class; none where it is the class's index.
        values: Vec<i64>,
    },
    Tensors(Vec<TensorOut>),
}

/// One output of a model that is no classifier.
#[derive(Debug)]
struct TensorOut {
    name: String,
    shape: Vec<usize>,
    /// Where its values begin among those of a row, and whether these are integers.
    first: usize,
    is_integer: bool,
    /// How many classes there are, where it is a label.
    classes: Option<usize>,
}

thread_local! {
    static OUTPUTS: RefCell<Outputs> = RefCell::default();
}

impl Compiled {
    /// Compiles a file that has passed [`super::onnx::inspect`].
    pub(super) fn new(model: &[u8], spec: &ModelSpec) -> Result<Self, Unsupported> {
        let model = proto::Model::decode(model).map_err(|e| Unsupported::new(format!("a file that says: {e}")))?;
        let Some(input) = spec.input.matrix() else {
            return Err(Unsupported::new("inputs other than one float32 tensor"));
        };
        let (form, outputs) = match &spec.output {
            spec::Output::Classifier(output) => classifier(output),
            spec::Output::Tensors(outputs) => tensors(outputs)?,
        };
        let program = lower::lower(&model, &Signature { input, features: spec.input.features.len(), outputs })?;
        Ok(Self { steps_per_row: program.steps(), program, form })
    }

    /// Roughly how many steps of a nanosecond or two a row takes.
    pub(super) fn steps_per_row(&self) -> usize {
        self.steps_per_row
    }

    /// Runs rows of the model's width.
    pub(super) fn run(&self, rows: &Rows) -> Result<Prediction, RunError> {
        let rows = match rows {
            Rows::Matrix(matrix) if matrix.ncols() == self.program.features => matrix.view(),
            other => return Err(wrong_rows(self.program.features, other)),
        };
        OUTPUTS.with_borrow_mut(|outputs| {
            outputs.integers.clear();
            outputs.floats.clear();
            self.program.run(&rows, outputs);
            self.form.prediction(rows.nrows(), outputs)
        })
    }

    /// Runs rows, and gives the integers and floats as they come, row by row.
    pub(super) fn run_raw(&self, rows: &ArrayView2<'_, f32>) -> (Vec<i64>, Vec<f32>) {
        let mut outputs = Outputs::default();
        self.program.run(rows, &mut outputs);
        (outputs.integers, outputs.floats)
    }
}

impl Form {
    fn prediction(&self, rows: usize, outputs: &Outputs) -> Result<Prediction, RunError> {
        match self {
            Self::Classifier { label, probability, classes, values } => {
                let expected = Expected { rows, classes: *classes, label, probability, values };
                let mut answer = Answer::with_capacity(rows, *classes);
                let shape = [rows as i64, *classes as i64];
                answer.append(&expected, (&shape[..1], &outputs.integers), (&shape, &outputs.floats))?;
                Ok(Prediction::Classes(answer))
            }
            Self::Tensors(tensors) => {
                tensors.iter().map(|tensor| tensor.of(rows, outputs)).collect::<Result<_, _>>().map(Prediction::Tensors)
            }
        }
    }
}

impl TensorOut {
    fn width(&self) -> usize {
        self.shape.iter().product()
    }

    fn of(&self, rows: usize, outputs: &Outputs) -> Result<Tensor, RunError> {
        let elements = if self.is_integer {
            let labels = columns(&outputs.integers, rows, self.first, self.width());
            if let Some(classes) = self.classes {
                let is_class = |label: i64| usize::try_from(label).is_ok_and(|label| label < classes);
                if let Some(at) = labels.iter().position(|&label| !is_class(label)) {
                    return Err(RunError::Label { row: at / self.width(), got: labels[at], classes });
                }
            }
            Elements::Int64(labels)
        } else {
            Elements::Fp32(columns(&outputs.floats, rows, self.first, self.width()))
        };
        let shape = [&[rows], self.shape.as_slice()].concat();
        Ok(Tensor::new(&self.name, shape, elements).expect("a program gives as many values as its outputs have"))
    }
}

/// `width` values of each row, from the one at `first` on.
fn columns<T: Copy>(values: &[T], rows: usize, first: usize, width: usize) -> Vec<T> {
    let each = values.len().checked_div(rows).unwrap_or_default();
    values.chunks(each.max(1)).flat_map(|row| &row[first..first + width]).copied().collect()
}

fn classifier(output: &spec::Classifier) -> (Form, Vec<Output<'_>>) {
    let (label, probability) = (&output.label.tensor, &output.probability.tensor);
    let classes = output.label.classes.len();
    let form = Form::Classifier {
        label: label.clone(),
        probability: probability.clone(),
        classes,
        values: output.label.values.clone(),
    };
    let outputs = vec![
        Output { tensor: label, kind: Type::I64, shape: Vec::new() },
        Output { tensor: probability, kind: Type::F32, shape: vec![classes] },
    ];
    (form, outputs)
}

fn tensors(outputs: &[spec::OutputTensor]) -> Result<(Form, Vec<Output<'_>>), Unsupported> {
    let (mut form, mut expected) = (Vec::new(), Vec::new());
    let (mut integers, mut floats) = (0, 0);
    for output in outputs {
        let (is_integer, classes) = match (&output.kind, output.dtype) {
            (OutputKind::Value, Dtype::Fp32) => (false, None),
            (OutputKind::Value, Dtype::Int64) => (true, None),
            (OutputKind::Label(classes), Dtype::Int64) => (true, Some(classes.len())),
            _ => return Err(Unsupported::new("outputs other than float32, int64 and labels that are indices")),
        };
        let (name, shape) = (output.name.clone(), output.shape.clone());
        let before = if is_integer { &mut integers } else { &mut floats };
        let tensor = TensorOut { name, shape, first: *before, is_integer, classes };
        *before += tensor.width();
        let kind = if is_integer { Type::I64 } else { Type::F32 };
        expected.push(Output { tensor: &output.tensor, kind, shape: tensor.shape.clone() });
        form.push(tensor);
    }
    Ok((Form::Tensors(form), expected))
}
