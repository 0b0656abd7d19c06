//! Whether a model still gives the answers that its spec knows.

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Expected, GoldenRow, Output, OutputKind, Value};
use ndarray::Array2;

use super::{Prediction, RunError};
use crate::rows::Rows;
use crate::tensor::{Elements, Tensor};

/// A golden row that the model does not reproduce. Rows are counted from 0.
#[derive(Debug, thiserror::Error)]
pub enum GoldenMismatch {
    /// The model gave no answer.
    #[error("cannot run golden row {row} {how}")]
    Run {
        /// The row, or the first of the batch.
        row: usize,
        /// Alone, or in the batch.
        how: &'static str,
        /// Why.
        source: RunError,
    },
    /// Another label.
    #[error("golden row {row} {how}: expected the label {expected}, got {got}")]
    Label {
        /// The row.
        row: usize,
        /// Alone, or in the batch.
        how: &'static str,
        /// The known label.
        expected: u32,
        /// The model's.
        got: u32,
    },
    /// A probability further off than the tolerance.
    #[error(
        "golden row {row} {how}: expected the probability {expected} of class {class} within {tolerance}, got {got}"
    )]
    Probability {
        /// The row.
        row: usize,
        /// Alone, or in the batch.
        how: &'static str,
        /// The class.
        class: usize,
        /// The known probability.
        expected: f32,
        /// The model's.
        got: f32,
        /// By how much it may differ.
        tolerance: f32,
    },
    /// Another value of an output that is no classifier's.
    #[error("golden row {row} {how}: expected {expected} of `{output}`{}, got {got}", within(*.tolerance))]
    Value {
        /// The row.
        row: usize,
        /// Alone, or in the batch.
        how: &'static str,
        /// The output.
        output: String,
        /// The known value.
        expected: String,
        /// The model's.
        got: String,
        /// By how much it may differ; none where it must be equal.
        tolerance: Option<f32>,
    },
}

fn within(tolerance: Option<f32>) -> String {
    tolerance.map_or_else(String::new, |tolerance| format!(" within {tolerance}"))
}

/// The features of all golden rows.
pub(super) fn rows(spec: &ModelSpec) -> Rows {
    Rows::golden(&spec.input, &spec.golden.rows)
}

/// The same, of a model that takes one float32 matrix; of any other, no rows.
pub(super) fn matrix(spec: &ModelSpec) -> Array2<f32> {
    match rows(spec) {
        Rows::Matrix(matrix) => matrix,
        Rows::Tensors(_) => Array2::zeros((0, spec.input.features.len())),
    }
}

/// Runs each golden row alone, since a model may take another path for one row, and all of them as one batch.
pub(super) fn check(
    spec: &ModelSpec,
    run: impl Fn(&Rows) -> Result<Prediction, RunError>,
) -> Result<(), GoldenMismatch> {
    let rows = rows(spec);
    let alone = (0..rows.len()).map(|row| (row..row + 1, "alone"));
    for (range, how) in alone.chain([(0..rows.len(), "in the batch")]) {
        let answer = run(&rows.slice(range.start, range.end));
        let answer = answer.map_err(|source| GoldenMismatch::Run { row: range.start, how, source })?;
        for (i, row) in range.enumerate() {
            compare(spec, (row, how), &answer, i)?;
        }
    }
    Ok(())
}

/// Compares the row `i` of an answer with a golden row.
fn compare(
    spec: &ModelSpec,
    (row, how): (usize, &'static str),
    answer: &Prediction,
    i: usize,
) -> Result<(), GoldenMismatch> {
    let GoldenRow { expected, .. } = &spec.golden.rows[row];
    let tolerance = spec.golden.tolerance;
    match (answer, expected) {
        (Prediction::Classes(answer), Expected::Class { label, probability }) => {
            let (expected, got) = (*label, answer.labels[i]);
            if expected != got {
                return Err(GoldenMismatch::Label { row, how, expected, got });
            }
            for (class, (&expected, &got)) in probability.iter().zip(answer.probabilities.row(i)).enumerate() {
                // Written so that a NaN does not pass.
                let near = (expected - got).abs() <= tolerance;
                if !near {
                    return Err(GoldenMismatch::Probability { row, how, class, expected, got, tolerance });
                }
            }
        }
        (Prediction::Tensors(tensors), Expected::Tensors(expected)) => {
            let Output::Tensors(outputs) = &spec.output else { unreachable!("a card's golden rows are of its output") };
            for ((tensor, expected), output) in tensors.iter().zip(expected).zip(outputs) {
                for (at, expected) in expected.iter().enumerate() {
                    let at = i * width_of(tensor) + at;
                    if let Err((got, tolerance)) = near(tensor.elements(), at, expected, &output.kind, tolerance) {
                        let (output, expected) = (output.name.clone(), expected.to_string());
                        return Err(GoldenMismatch::Value { row, how, output, expected, got, tolerance });
                    }
                }
            }
        }
        _ => unreachable!("an engine answers as its card says"),
    }
    Ok(())
}

/// How many elements one row has.
fn width_of(tensor: &Tensor) -> usize {
    tensor.shape()[1..].iter().product()
}

/// Whether an element is the known value, or near it where it is a float. The error is the element in words, and by how much
/// it may differ.
fn near(
    elements: &Elements,
    at: usize,
    expected: &Value,
    kind: &OutputKind,
    tolerance: f32,
) -> Result<(), (String, Option<f32>)> {
    let float = |got: f64| {
        let Value::Number(expected) = *expected else { return Err((got.to_string(), None)) };
        // Of large values, the tolerance is a share of them. Written so that a NaN does not pass.
        let near = (expected - got).abs() <= f64::from(tolerance) * expected.abs().max(1.0);
        if near { Ok(()) } else { Err((got.to_string(), Some(tolerance))) }
    };
    let exact = |got: Value| if got == *expected { Ok(()) } else { Err((got.to_string(), None)) };
    let integer = |got: i128| match kind {
        OutputKind::Label(classes) => {
            let class = usize::try_from(got).ok().and_then(|got| classes.get(got));
            exact(class.map_or(Value::Integer(got), |class| Value::Text(class.clone())))
        }
        OutputKind::Value | OutputKind::Map(_) => exact(Value::Integer(got)),
    };
    match elements {
        Elements::Fp16(values) => float(f64::from(values[at])),
        Elements::Bf16(values) => float(f64::from(values[at])),
        Elements::Fp32(values) => float(f64::from(values[at])),
        Elements::Fp64(values) => float(values[at]),
        Elements::Bool(values) => exact(Value::Truth(values[at])),
        Elements::Bytes(values) => exact(Value::Text(String::from_utf8_lossy(&values[at]).into_owned())),
        Elements::Int8(values) => integer(values[at].into()),
        Elements::Int16(values) => integer(values[at].into()),
        Elements::Int32(values) => integer(values[at].into()),
        Elements::Int64(values) => integer(values[at].into()),
        Elements::Uint8(values) => integer(values[at].into()),
        Elements::Uint16(values) => integer(values[at].into()),
        Elements::Uint32(values) => integer(values[at].into()),
        Elements::Uint64(values) => integer(values[at].into()),
    }
}
