//! The answer to a prediction: columns, so that a client takes `prediction` as it is.

use std::borrow::Cow;

use mainstay_models::spec::{Output, OutputKind, OutputTensor};
use mainstay_models::{CommitId, ModelName, ModelSpec, Version};
use ndarray::ArrayView2;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

use crate::engine::{Answer, Prediction};
use crate::tensor::{Elements, Tensor};

#[derive(Serialize)]
struct Classes<'a> {
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

/// What is no classifier's: the first output, and all of them where there are several.
#[derive(Serialize)]
struct Tensors<'a> {
    model: &'a ModelName,
    version: &'a Version,
    commit: Option<&'a CommitId>,
    prediction: Option<Column<'a>>,
    #[serde(skip_serializing_if = "Columns::is_one")]
    outputs: Columns<'a>,
}

pub(super) struct Columns<'a>(Vec<Column<'a>>);

/// One output: an entry per row.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    output: &'a OutputTensor,
    tensor: &'a Tensor,
}

/// One row of one output, or a part of it.
pub(super) struct Part<'a> {
    column: Column<'a>,
    /// The sizes of the part; of one value, none.
    shape: &'a [usize],
    /// Where its elements begin.
    first: usize,
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

impl<'a> Columns<'a> {
    /// The outputs of a model that is no classifier; none of one that is.
    pub(super) fn of(spec: &'a ModelSpec, prediction: &'a Prediction) -> Self {
        match (&spec.output, prediction) {
            (Output::Tensors(outputs), Prediction::Tensors(tensors)) => {
                Self(outputs.iter().zip(tensors).map(|(output, tensor)| Column { output, tensor }).collect())
            }
            _ => Self(Vec::new()),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Column<'a>> {
        self.0.iter()
    }

    pub(super) fn rows(&self) -> usize {
        self.0.first().map_or(0, |column| column.tensor.shape()[0])
    }

    pub(super) fn is_one(&self) -> bool {
        self.0.len() == 1
    }
}

impl<'a> Column<'a> {
    pub(super) fn name(&self) -> &'a str {
        &self.output.name
    }

    /// What one row gets.
    pub(super) fn row(&self, row: usize) -> Part<'a> {
        let shape = &self.tensor.shape()[1..];
        Part { column: *self, shape, first: row * shape.iter().product::<usize>() }
    }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|column| (&column.output.name, column)))
    }
}

impl Serialize for Column<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.tensor.shape()[0]).map(|row| self.row(row)))
    }
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { column, shape, first } = *self;
        let Some((size, rest)) = shape.split_first() else { return column.element(first, serializer) };
        let width: usize = rest.iter().product();
        let part = |at: usize| Part { column, shape: rest, first: first + at * width };
        match &column.output.kind {
            OutputKind::Map(keys) => {
                let mut map = serializer.serialize_map(Some(keys.len()))?;
                for (at, key) in keys.iter().enumerate() {
                    map.serialize_entry(key, &part(at))?;
                }
                map.end()
            }
            OutputKind::Value | OutputKind::Label(_) => serializer.collect_seq((0..*size).map(part)),
        }
    }
}

impl Column<'_> {
    /// One element. A label is its class's name; a number that is none is null, as JSON has nothing else for it.
    fn element<S: Serializer>(self, at: usize, serializer: S) -> Result<S::Ok, S::Error> {
        match self.tensor.elements() {
            Elements::Bool(values) => values[at].serialize(serializer),
            Elements::Uint8(values) => values[at].serialize(serializer),
            Elements::Uint16(values) => values[at].serialize(serializer),
            Elements::Uint32(values) => values[at].serialize(serializer),
            Elements::Uint64(values) => values[at].serialize(serializer),
            Elements::Int8(values) => values[at].serialize(serializer),
            Elements::Int16(values) => values[at].serialize(serializer),
            Elements::Int32(values) => values[at].serialize(serializer),
            Elements::Int64(values) => match &self.output.kind {
                OutputKind::Label(classes) => classes[values[at] as usize].serialize(serializer),
                OutputKind::Value | OutputKind::Map(_) => values[at].serialize(serializer),
            },
            Elements::Fp16(values) => values[at].to_f32().serialize(serializer),
            Elements::Bf16(values) => values[at].to_f32().serialize(serializer),
            Elements::Fp32(values) => values[at].serialize(serializer),
            Elements::Fp64(values) => values[at].serialize(serializer),
            Elements::Bytes(values) => {
                let text: Cow<'_, str> = String::from_utf8_lossy(&values[at]);
                text.serialize(serializer)
            }
        }
    }
}

/// What the model of `spec` said, as JSON: `{"model","version","commit","prediction":[class],"label":[name],"probability":[[p]]}`
/// of a classifier, `{"model","version","commit","prediction":[value],"outputs":{name:[value]}}` of any other model.
pub fn encode(spec: &ModelSpec, commit: Option<&CommitId>, prediction: &Prediction) -> Vec<u8> {
    let (model, version) = (&spec.name, &spec.version);
    let encoded = match (prediction, &spec.output) {
        (Prediction::Classes(Answer { labels, probabilities }), _) => {
            let (prediction, classes) = (labels.as_slice(), spec.output.classes());
            let label = Labels { prediction, classes };
            let probability = probabilities.view();
            // Grows at most once where the names are long or the numbers are many.
            let mut text = Vec::with_capacity(256 + prediction.len() * (24 + 12 * classes.len()));
            let answer = Classes { model, version, commit, prediction, label, probability };
            serde_json::to_writer(&mut text, &answer).map(|()| text)
        }
        (Prediction::Tensors(_), _) => {
            let columns = Columns::of(spec, prediction);
            let prediction = columns.0.first().copied();
            serde_json::to_vec(&Tensors { model, version, commit, prediction, outputs: columns })
        }
    };
    encoded.expect("an answer has numbers, texts and text keys")
}
