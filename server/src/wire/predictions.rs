//! The answers of KServe V1, MLflow, Vertex AI, SageMaker and Azure ML: one prediction per row, and nothing else.

use serde::Serialize;

use crate::engine::Answer;

#[derive(Serialize)]
struct Body<'a> {
    predictions: &'a [u32],
}

/// `{"predictions": [class]}`.
pub fn json(answer: &Answer) -> Vec<u8> {
    serde_json::to_vec(&Body { predictions: &answer.labels }).expect("an answer has numbers and text keys")
}

/// A line for each row.
pub fn csv(answer: &Answer) -> Vec<u8> {
    answer.labels.iter().map(|label| format!("{label}\n")).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_prediction() {
        let answer = Answer { labels: vec![2, 0], probabilities: ndarray::Array2::zeros((2, 3)) };
        assert_eq!(json(&answer), br#"{"predictions":[2,0]}"#);
        assert_eq!(csv(&answer), b"2\n0\n");
    }
}
