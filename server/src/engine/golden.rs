//! Whether a model still gives the answers that its spec knows.

use mainstay_models::ModelSpec;
use ndarray::{Array2, ArrayView2, s};

use super::{Answer, RunError};

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
}

/// The features of all golden rows.
pub(super) fn rows(spec: &ModelSpec) -> Array2<f32> {
    let mut rows = Array2::zeros((0, spec.input.features.len()));
    for row in &spec.golden.rows {
        rows.push_row(row.features.as_slice().into()).expect("a golden row has one value per feature");
    }
    rows
}

/// Runs each golden row alone, since a model may take another path for one row, and all of them as one batch.
pub(super) fn check(
    spec: &ModelSpec,
    run: impl Fn(&ArrayView2<'_, f32>) -> Result<Answer, RunError>,
) -> Result<(), GoldenMismatch> {
    let rows = rows(spec);
    let alone = (0..rows.nrows()).map(|row| (row..row + 1, "alone"));
    for (range, how) in alone.chain([(0..rows.nrows(), "in the batch")]) {
        let answer = run(&rows.slice(s![range.clone(), ..])).map_err(|source| GoldenMismatch::Run {
            row: range.start,
            how,
            source,
        })?;
        for (i, row) in range.enumerate() {
            compare(spec, row, how, answer.labels[i], &answer.probabilities.row(i).to_vec())?;
        }
    }
    Ok(())
}

fn compare(
    spec: &ModelSpec,
    row: usize,
    how: &'static str,
    label: u32,
    probability: &[f32],
) -> Result<(), GoldenMismatch> {
    let golden = &spec.golden.rows[row];
    let tolerance = spec.golden.tolerance;
    if label != golden.label {
        return Err(GoldenMismatch::Label { row, how, expected: golden.label, got: label });
    }
    for (class, (&expected, &got)) in golden.probability.iter().zip(probability).enumerate() {
        // Written so that a NaN does not pass.
        let near = (expected - got).abs() <= tolerance;
        if !near {
            return Err(GoldenMismatch::Probability { row, how, class, expected, got, tolerance });
        }
    }
    Ok(())
}
