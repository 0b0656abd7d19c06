//! Mainstay's own executor: trees, linear models and the arithmetic around them, compiled once and run by any thread.
//!
//! Guarantees: compiling never panics, whatever the file says; a compiled model is never changed, so that no run waits for
//! another; a run allocates nothing per row. Whether the answers are ONNX Runtime's is not known here: that is what
//! [`super::parity`] finds out before a compiled model answers anybody.

mod graph;
mod lower;
mod program;
pub(super) mod proto;
mod trees;

use std::cell::RefCell;

use mainstay_models::ModelSpec;
use ndarray::ArrayView2;
use prost::Message;

use self::lower::Signature;
use self::program::{Outputs, Program};
use super::answer::Expected;
use super::outputs::wrong_rows;
use super::{Answer, Prediction, RunError};
use crate::rows::Rows;

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
    label: String,
    probability: String,
    classes: usize,
    steps_per_row: usize,
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
        let Some(output) = spec.output.classifier() else {
            return Err(Unsupported::new("outputs other than a label and probabilities"));
        };
        let (label, probability) = (&output.label.tensor, &output.probability.tensor);
        let signature = Signature {
            input,
            features: spec.input.features.len(),
            label,
            probability,
            classes: output.label.classes.len(),
        };
        let program = lower::lower(&model, &signature)?;
        Ok(Self {
            steps_per_row: program.steps(),
            program,
            label: label.clone(),
            probability: probability.clone(),
            classes: signature.classes,
        })
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
            outputs.labels.clear();
            outputs.probabilities.clear();
            self.program.run(&rows, outputs);
            let count = rows.nrows() as i64;
            let expected = Expected {
                rows: rows.nrows(),
                classes: self.classes,
                label: &self.label,
                probability: &self.probability,
            };
            let mut answer = Answer::with_capacity(rows.nrows(), self.classes);
            let shape = [count, self.classes as i64];
            answer.append(&expected, (&[count], &outputs.labels), (&shape, &outputs.probabilities))?;
            Ok(Prediction::Classes(answer))
        })
    }

    /// Runs rows, and gives the labels and probabilities as they come.
    pub(super) fn run_raw(&self, rows: &ArrayView2<'_, f32>) -> (Vec<i64>, Vec<f32>) {
        let mut outputs = Outputs::default();
        self.program.run(rows, &mut outputs);
        (outputs.labels, outputs.probabilities)
    }
}
