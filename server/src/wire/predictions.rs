//! The answers of KServe V1, MLflow, Vertex AI, SageMaker and Azure ML: one prediction per row, and nothing else.
//!
//! Of a classifier it is the class's index; of a model with one output, what that gives; of one with several, all of them
//! by name.

use mainstay_models::ModelSpec;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use super::answer::Columns;
use crate::engine::Prediction;

#[derive(Serialize)]
struct Body<T> {
    predictions: T,
}

/// Rows of several outputs.
struct Records<'a, 'c>(&'c Columns<'a>);

struct Record<'a, 'c>(&'c Columns<'a>, usize);

impl Serialize for Records<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.0.rows()).map(|row| Record(self.0, row)))
    }
}

impl Serialize for Record<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for column in self.0.iter() {
            map.serialize_entry(column.name(), &column.row(self.1))?;
        }
        map.end()
    }
}

/// `{"predictions": [prediction]}`.
pub fn json(spec: &ModelSpec, prediction: &Prediction) -> Vec<u8> {
    let columns = Columns::of(spec, prediction);
    let encoded = match (prediction, columns.iter().next()) {
        (Prediction::Classes(answer), _) => serde_json::to_vec(&Body { predictions: &answer.labels }),
        (Prediction::Tensors(_), Some(column)) if columns.is_one() => serde_json::to_vec(&Body { predictions: column }),
        (Prediction::Tensors(_), _) => serde_json::to_vec(&Body { predictions: Records(&columns) }),
    };
    encoded.expect("an answer has numbers, texts and text keys")
}

/// A line for each row, with a cell for each output; what is no single value stands in its cell as JSON.
pub fn csv(spec: &ModelSpec, prediction: &Prediction) -> Vec<u8> {
    if let Prediction::Classes(answer) = prediction {
        return answer.labels.iter().map(|label| format!("{label}\n")).collect::<String>().into_bytes();
    }
    let columns = Columns::of(spec, prediction);
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    for row in 0..columns.rows() {
        let cell = |value: Value| match value {
            Value::String(text) => text,
            value => value.to_string(),
        };
        let cells = columns.iter().map(|column| {
            cell(serde_json::to_value(column.row(row)).expect("an answer has numbers, texts and text keys"))
        });
        writer.write_record(cells).expect("writing to memory does not fail");
    }
    writer.into_inner().expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use mainstay_models::embedded;

    use super::*;
    use crate::engine::Answer;
    use crate::tensor::{Elements, Tensor};

    #[test]
    fn each_row_has_its_prediction() {
        let spec = ModelSpec::parse("model.yaml", embedded::MODELS[0].spec).unwrap();
        let answer = Answer { labels: vec![2, 0], probabilities: ndarray::Array2::zeros((2, 3)) };
        let answer = Prediction::Classes(answer);
        assert_eq!(json(&spec, &answer), br#"{"predictions":[2,0]}"#);
        assert_eq!(csv(&spec, &answer), b"2\n0\n");
    }

    #[test]
    fn several_outputs_stand_by_their_names_and_one_alone() {
        let text = include_bytes!("../../tests/fixtures/content/maps/model.yaml");
        let maps = ModelSpec::parse("model.yaml", text).unwrap();
        let tensor = |name: &str, shape: &[usize], elements| Tensor::new(name, shape.to_vec(), elements).unwrap();
        let answer = Prediction::Tensors(vec![
            tensor("class", &[1], Elements::Int64(vec![2])),
            tensor("scores", &[1, 3], Elements::Fp32(vec![0.25, 0.0, 0.75])),
        ]);
        let expected = br#"{"predictions":[{"class":"high","scores":{"0":0.25,"1":0.0,"2":0.75}}]}"#;
        assert_eq!(json(&maps, &answer), expected);
        assert!(csv(&maps, &answer).starts_with(b"high,"));
        let text = include_bytes!("../../tests/fixtures/content/regression/model.yaml");
        let price = ModelSpec::parse("model.yaml", text).unwrap();
        let answer = Prediction::Tensors(vec![tensor("price", &[2], Elements::Fp32(vec![1.5, f32::NAN]))]);
        assert_eq!(json(&price, &answer), br#"{"predictions":[1.5,null]}"#);
        assert_eq!(csv(&price, &answer), b"1.5\nnull\n");
    }
}
