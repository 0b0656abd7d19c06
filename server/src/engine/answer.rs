//! What a model said about some rows.
//!
//! An answer has one label and one probability per class for each row; labels are classes, and no probability is NaN.

use ndarray::{Array2, ArrayView2, Axis};

use super::RunError;

/// A model's answer to some rows, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The label of each row, an index into the spec's classes.
    pub labels: Vec<u32>,
    /// The probability of each class for each row.
    pub probabilities: Array2<f32>,
}

/// What an answer to some rows must look like.
pub(super) struct Expected<'a> {
    pub(super) rows: usize,
    pub(super) classes: usize,
    pub(super) label: &'a str,
    pub(super) probability: &'a str,
    /// The label of each class; none where it is the class's index.
    pub(super) values: &'a [i64],
}

impl Expected<'_> {
    /// The class that a label means.
    fn class(&self, label: i64) -> Option<u32> {
        let index = match self.values {
            [] => usize::try_from(label).ok().filter(|&index| index < self.classes)?,
            values => values.iter().position(|&value| value == label)?,
        };
        u32::try_from(index).ok()
    }
}

impl Answer {
    pub(super) fn with_capacity(rows: usize, classes: usize) -> Self {
        let probabilities = Array2::from_shape_vec((0, classes), Vec::with_capacity(rows * classes));
        Self { labels: Vec::with_capacity(rows), probabilities: probabilities.expect("no rows take no values") }
    }

    /// Appends the output tensors of one run, once they are what they must be.
    pub(super) fn append(
        &mut self,
        expected: &Expected<'_>,
        (label_shape, labels): (&[i64], &[i64]),
        (probability_shape, probabilities): (&[i64], &[f32]),
    ) -> Result<(), RunError> {
        let Expected { rows, classes, .. } = *expected;
        let first = self.labels.len();
        // Some exporters give the labels as a column.
        let dimensions = if label_shape.len() == 2 { 2 } else { 1 };
        check_shape(expected.label, &[rows, 1][..dimensions], label_shape)?;
        check_shape(expected.probability, &[rows, classes], probability_shape)?;
        for (row, &label) in (first..).zip(labels) {
            self.labels.push(expected.class(label).ok_or(RunError::Label { row, got: label, classes })?);
        }
        if let Some(at) = probabilities.iter().position(|p| p.is_nan()) {
            return Err(RunError::Probability { row: first + at / classes, class: at % classes });
        }
        let probabilities = ArrayView2::from_shape((rows, classes), probabilities).expect("the shape has been checked");
        self.probabilities.append(Axis(0), probabilities).expect("the columns are the classes");
        Ok(())
    }
}

pub(super) fn check_shape(tensor: &str, expected: &[usize], got: &[i64]) -> Result<(), RunError> {
    if got.iter().map(|&size| usize::try_from(size).ok()).eq(expected.iter().map(|&size| Some(size))) {
        return Ok(());
    }
    Err(RunError::Shape { tensor: tensor.to_owned(), expected: expected.into(), got: got.into() })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    const EXPECTED: Expected<'_> =
        Expected { rows: 2, classes: 2, label: "label", probability: "probability", values: &[] };

    fn answer(labels: (&[i64], &[i64]), probabilities: (&[i64], &[f32])) -> Result<Answer, RunError> {
        let mut answer = Answer::with_capacity(2, 2);
        answer.append(&EXPECTED, labels, probabilities)?;
        answer.append(&EXPECTED, labels, probabilities)?;
        Ok(answer)
    }

    #[test]
    fn runs_follow_each_other_in_order() {
        let whole = answer((&[2, 1], &[1, 0]), (&[2, 2], &[0.1, 0.9, 0.8, 0.2])).unwrap();
        assert_eq!(whole.labels, [1, 0, 1, 0]);
        assert_eq!(whole.probabilities, array![[0.1, 0.9], [0.8, 0.2], [0.1, 0.9], [0.8, 0.2]]);
    }

    #[test]
    fn a_label_that_is_no_index_means_the_class_that_has_it() {
        let expected = Expected { values: &[7, -1], ..EXPECTED };
        let probabilities = (&[2, 2][..], &[0.1, 0.9, 0.8, 0.2][..]);
        let mut answer = Answer::with_capacity(2, 2);
        answer.append(&expected, (&[2], &[-1, 7]), probabilities).unwrap();
        assert_eq!(answer.labels, [1, 0]);
        let unknown = answer.append(&expected, (&[2], &[-1, 0]), probabilities);
        assert!(matches!(unknown, Err(RunError::Label { row: 3, got: 0, classes: 2 })), "{unknown:?}");
    }

    #[test]
    fn a_wrong_tensor_is_an_error_and_never_a_panic() {
        let good = (&[2, 2][..], &[0.1, 0.9, 0.8, 0.2][..]);
        assert!(matches!(answer((&[3], &[1, 0, 0]), good), Err(RunError::Shape { tensor, .. }) if tensor == "label"));
        assert!(matches!(answer((&[], &[1]), good), Err(RunError::Shape { .. })));
        assert!(
            matches!(answer((&[2], &[1, 0]), (&[2, 1], &[0.1, 0.9])), Err(RunError::Shape { tensor, .. }) if tensor == "probability")
        );
        assert!(matches!(answer((&[2], &[1, 2]), good), Err(RunError::Label { row: 1, got: 2, classes: 2 })));
        assert!(matches!(answer((&[2], &[-1, 0]), good), Err(RunError::Label { row: 0, got: -1, .. })));
        let nan = (&[2, 2][..], &[0.1, 0.9, f32::NAN, 0.2][..]);
        assert!(matches!(answer((&[2], &[1, 0]), nan), Err(RunError::Probability { row: 1, class: 0 })));
    }
}
