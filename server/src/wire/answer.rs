//! The answer to a prediction: columns, so that a client takes `prediction` as it is.

use mainstay_models::{CommitId, ModelName, Version};
use ndarray::ArrayView2;
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use crate::engine::Answer;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a ModelName,
    version: &'a Version,
    /// Null where the models came without git.
    commit: Option<&'a CommitId>,
    prediction: &'a [u32],
    label: Labels<'a>,
    #[serde(serialize_with = "rows")]
    probability: ArrayView2<'a, f32>,
}

/// The names of the predicted classes.
struct Labels<'a> {
    prediction: &'a [u32],
    classes: &'a [String],
}

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.prediction.iter().map(|class| self.classes[*class as usize].as_str()))
    }
}

fn rows<S: Serializer>(array: &ArrayView2<'_, f32>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(array.nrows()))?;
    for row in array.rows() {
        list.serialize_element(row.as_slice().expect("an answer's rows lie in one piece"))?;
    }
    list.end()
}

/// `answer` as JSON: `{"model","version","commit","prediction":[class],"label":[name],"probability":[[p]]}`.
pub fn encode(
    model: &ModelName,
    version: &Version,
    commit: Option<&CommitId>,
    classes: &[String],
    answer: &Answer,
) -> Vec<u8> {
    let prediction = &answer.labels;
    let label = Labels { prediction, classes };
    let body = Body { model, version, commit, prediction, label, probability: answer.probabilities.view() };
    // Grows at most once where the names are long or the numbers are many.
    let mut text = Vec::with_capacity(256 + prediction.len() * (24 + 12 * classes.len()));
    serde_json::to_writer(&mut text, &body).expect("an answer has finite numbers and text keys");
    text
}
