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
//! the model gives it, as a class's index or its value in the card (INT64), or its name (BYTES); its probabilities, and maps, as a row of FP32 with one
//! column per class or key in the card's order, whatever form the model file gives them in.
//!
//! Does not know protocols, and nothing of ranges: a tensor's values are served as they are, also outside them.

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Output, OutputTensor};
use ndarray::Array2;
use smallvec::smallvec;

use super::Prediction;
use crate::rows::Rows;
use crate::tensor::{Datatype, Elements, Shape, Tensor, Tensors};

/// The tensors of a model.
#[derive(Debug, Clone)]
pub struct Interface {
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    is_matrix: bool,
    /// Where the model itself gives names of classes, all of them.
    class_names: Vec<String>,
    /// Where it gives neither names nor indices, the label of each class.
    class_values: Vec<i64>,
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
            class_values: spec
                .output
                .classifier()
                .map(|classifier| classifier.label.values.clone())
                .unwrap_or_default(),
        }
    }

    /// The interface of a model that is not loaded, as far as its card tells: labels are taken to come as indices.
    pub fn of_card(spec: &ModelSpec) -> Self {
        Self::new(spec, false)
    }

    /// What the model gives for a class, where that is a number.
    fn class_value(&self, class: u32) -> i64 {
        self.class_values.get(class as usize).copied().unwrap_or(i64::from(class))
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
    fn check(
        &self,
        index: usize,
        input: &TensorInfo,
        tensor: Tensor,
        rows: Option<usize>,
    ) -> Result<Tensor, InputError> {
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
    pub fn tensors(&self, prediction: Prediction) -> Tensors {
        let answer = match prediction {
            Prediction::Tensors(tensors) => return tensors.into(),
            Prediction::Classes(answer) => answer,
        };
        let rows = answer.labels.len();
        let label = |class: &u32| self.class_names.get(*class as usize).map(|name| name.clone().into_bytes());
        let labels = match self.outputs[0].datatype {
            Datatype::Bytes => Elements::Bytes(answer.labels.iter().filter_map(label).collect()),
            _ => Elements::Int64(answer.labels.iter().map(|&label| self.class_value(label)).collect()),
        };
        let classes = answer.probabilities.ncols();
        let probabilities = Elements::Fp32(answer.probabilities.into_raw_vec_and_offset().0);
        let tensor = |output: &TensorInfo, shape: Shape, elements| {
            Tensor::new(&output.name, shape, elements).expect("an answer has a label and all probabilities of each row")
        };
        smallvec![
            tensor(&self.outputs[0], smallvec![rows], labels),
            tensor(&self.outputs[1], smallvec![rows, classes], probabilities),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::{Duration, Instant};

    use half::{bf16, f16};
    use prost::Message;

    use super::super::compiled::proto;
    use super::super::{Engine, LoadError, Runtime};
    use super::*;

    /// A model of the folder `content`, which has one for each thing that goes in or comes out.
    fn model(name: &str) -> (ModelSpec, Engine) {
        let folder = format!("{}/tests/fixtures/content/{name}", env!("CARGO_MANIFEST_DIR"));
        let spec = ModelSpec::parse(name, &fs_err::read(format!("{folder}/model.yaml")).unwrap()).unwrap();
        let file = fs_err::read(format!("{folder}/model.onnx")).unwrap();
        let engine = Engine::load(&Runtime::load().unwrap(), &file, &spec, NonZeroUsize::MIN).unwrap();
        (spec, engine)
    }

    fn ask(engine: &Engine, given: Vec<Tensor>) -> Vec<Tensor> {
        let rows = engine.interface().rows(given, 100).unwrap();
        let prediction = engine.run(&rows, Instant::now() + Duration::from_secs(20)).unwrap();
        engine.interface().tensors(prediction).into_vec()
    }

    fn tensor(name: &str, shape: &[usize], elements: Elements) -> Tensor {
        Tensor::new(name, shape.to_vec(), elements).unwrap()
    }

    fn texts(texts: &[&str]) -> Elements {
        Elements::Bytes(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
    }

    fn shown(tensors: &[TensorInfo]) -> Vec<String> {
        let one = |tensor: &TensorInfo| format!("{} {} {:?}", tensor.name, tensor.datatype.name(), tensor.shape);
        tensors.iter().map(one).collect()
    }

    #[test]
    fn every_kind_of_model_loads_and_gives_its_golden_answers() {
        for name in
            ["columns", "zipmap", "maps", "regression", "several", "doubles", "one-row", "kinds", "halves", "brains"]
        {
            let (spec, mut engine) = model(name);
            engine.check_golden(&spec).unwrap_or_else(|e| panic!("{name}: {e}"));
            engine.warm(&spec).unwrap();
        }
    }

    #[test]
    fn the_metadata_has_the_models_own_names_and_types() {
        let (_, columns) = model("columns");
        let inputs = ["age INT64 [-1, 1]", "income FP32 [-1, 1]", "city BYTES [-1, 1]", "plan BYTES [-1, 1]"];
        assert_eq!(shown(columns.interface().inputs()), inputs);
        let outputs = ["output_label BYTES [-1]", "output_probability FP32 [-1, 3]"];
        assert_eq!(shown(columns.interface().outputs()), outputs);
        let (_, kinds) = model("kinds");
        assert_eq!(shown(kinds.interface().inputs())[3..], ["large UINT64 [-1, 1]", "small INT32 [-1, 2]"]);
        assert_eq!(shown(kinds.interface().outputs())[4..], ["negative INT32 [-1, 2]"]);
        let (_, zipmap) = model("zipmap");
        assert_eq!(shown(zipmap.interface().inputs()), ["features FP32 [-1, 4]"]);
        assert_eq!(shown(zipmap.interface().outputs())[0], "output_label INT64 [-1]");
        let (_, maps) = model("maps");
        assert_eq!(shown(maps.interface().outputs()), ["class INT64 [-1]", "scores FP32 [-1, 3]"]);
    }

    #[test]
    fn tensors_go_in_in_any_order_and_come_out_whole() {
        let (_, kinds) = model("kinds");
        let beyond = 9_007_199_254_740_993;
        let out = ask(
            &kinds,
            vec![
                tensor("small", &[2, 2], Elements::Int32(vec![1, 2, 3, 4])),
                tensor("text", &[2], texts(&["é", ""])),
                tensor("large", &[2, 1], Elements::Uint64(vec![u64::MAX, 0])),
                tensor("flag", &[2, 1], Elements::Bool(vec![true, false])),
                tensor("id", &[2, 1], Elements::Int64(vec![beyond, -beyond])),
            ],
        );
        assert_eq!(*out[0].elements(), Elements::Int64(vec![beyond + 1, -beyond + 1]));
        assert_eq!(*out[1].elements(), Elements::Bool(vec![false, true]));
        assert_eq!(*out[2].elements(), texts(&["é", ""]));
        assert_eq!(*out[3].elements(), Elements::Uint64(vec![u64::MAX, 0]));
        assert_eq!((out[4].shape(), out[4].elements()), (&[2, 2][..], &Elements::Int32(vec![-1, -2, -3, -4])));

        let (_, columns) = model("columns");
        let out = ask(
            &columns,
            vec![
                tensor("age", &[1, 1], Elements::Int64(vec![40])),
                tensor("income", &[1, 1], Elements::Fp32(vec![42.5])),
                tensor("city", &[1, 1], texts(&["Porto"])),
                tensor("plan", &[1, 1], texts(&["pro"])),
            ],
        );
        let Elements::Bytes(label) = out[0].elements() else { panic!("no text") };
        assert!([&b"leaves"[..], b"stays", b"wavers"].contains(&label[0].as_slice()));
        assert_eq!(out[1].shape(), [1, 3]);
    }

    #[test]
    fn no_rows_have_answers_of_no_rows() {
        let (_, zipmap) = model("zipmap");
        let out = ask(&zipmap, vec![tensor("features", &[0, 4], Elements::Fp32(vec![]))]);
        assert_eq!((out[0].shape(), out[1].shape()), (&[0][..], &[0, 3][..]));
        let (_, several) = model("several");
        let out = ask(&several, vec![tensor("features", &[0, 4], Elements::Fp32(vec![]))]);
        assert_eq!(out[0].shape(), [0, 2]);
    }

    /// A model that gives what it gets, of ONNX's type of that number, and a card that calls it `dtype`.
    fn echo(elem_type: i32, dtype: &str) -> Result<Engine, LoadError> {
        let info = |name: &str| {
            let dim = [(None, Some("rows".to_owned())), (Some(1), None)];
            let dim = dim.map(|(dim_value, dim_param)| proto::Dimension { dim_value, dim_param }).into();
            let tensor_type = proto::TensorType { elem_type, shape: Some(proto::Shape { dim }) };
            proto::Info { name: name.into(), r#type: Some(proto::Type { tensor_type: Some(tensor_type) }) }
        };
        let node = proto::Node {
            input: vec!["x".into()],
            output: vec!["y".into()],
            op_type: "Identity".into(),
            ..Default::default()
        };
        let graph = proto::Graph {
            node: vec![node],
            name: "echo".into(),
            input: vec![info("x")],
            output: vec![info("y")],
            ..Default::default()
        };
        let opset_import = vec![proto::OperatorSet { domain: String::new(), version: 23 }];
        let file = proto::Model { ir_version: 11, graph: Some(graph), opset_import, ..Default::default() };

        let (range, example, profile) = match dtype {
            "bool" => ("", "true", ""),
            "string" => ("", "a", ""),
            _ => ("range: [0, 1],", "1", "{name: x, edges: [0, 1], counts: [1]}"),
        };
        let head = std::str::from_utf8(mainstay_models::embedded::MODELS[0].spec).unwrap();
        let (head, _) = head.split_once("input:\n").unwrap();
        let card = format!(
            "{head}input:\n  features: [{{name: x, description: a, dtype: {dtype}, {range} example: {example}}}]\n\
             output: {{tensors: [{{tensor: y, dtype: {dtype}}}]}}\n\
             training: {{code: {{commit: unknown}}, data: {{name: a, source: b, rows: 1, sha256: {}}}, libraries: {{}}}}\n\
             metrics: []\n\
             golden: {{tolerance: 0.001, rows: [{{features: [{example}], outputs: {{y: {example}}}}}]}}\n\
             profile: {{features: [{profile}]}}\n",
            "0".repeat(64)
        );
        let spec = ModelSpec::parse("model.yaml", card.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{card}"));
        let engine = Engine::load(&Runtime::load().unwrap(), &file.encode_to_vec(), &spec, NonZeroUsize::MIN)?;
        engine.check_golden(&spec).unwrap_or_else(|e| panic!("{dtype}: {e}"));
        Ok(engine)
    }

    #[test]
    fn every_datatype_that_the_protocol_names_comes_out_as_it_went_in() {
        for (elem_type, dtype, elements) in [
            (1, "fp32", Elements::Fp32(vec![f32::MIN_POSITIVE, f32::MAX])),
            (2, "uint8", Elements::Uint8(vec![0, u8::MAX])),
            (3, "int8", Elements::Int8(vec![i8::MIN, i8::MAX])),
            (4, "uint16", Elements::Uint16(vec![0, u16::MAX])),
            (5, "int16", Elements::Int16(vec![i16::MIN, i16::MAX])),
            (6, "int32", Elements::Int32(vec![i32::MIN, i32::MAX])),
            (7, "int64", Elements::Int64(vec![i64::MIN, i64::MAX])),
            (8, "string", texts(&["", "é"])),
            (9, "bool", Elements::Bool(vec![true, false])),
            (10, "fp16", Elements::Fp16(vec![f16::MIN_POSITIVE_SUBNORMAL, f16::MAX])),
            (11, "fp64", Elements::Fp64(vec![f64::MIN_POSITIVE, f64::MAX])),
            (12, "uint32", Elements::Uint32(vec![0, u32::MAX])),
            (13, "uint64", Elements::Uint64(vec![0, u64::MAX])),
            (16, "bf16", Elements::Bf16(vec![bf16::MIN_POSITIVE_SUBNORMAL, bf16::MAX])),
        ] {
            let engine = echo(elem_type, dtype).unwrap();
            let datatype = elements.datatype();
            assert_eq!(
                (engine.interface().inputs()[0].datatype, engine.interface().outputs()[0].datatype),
                (datatype, datatype)
            );
            let out = ask(&engine, vec![tensor("x", &[2, 1], elements.clone())]);
            assert_eq!((out[0].elements(), out[0].shape()), (&elements, &[2][..]), "{dtype}");
        }
    }

    #[test]
    fn a_datatype_that_the_protocol_does_not_name_is_refused_when_it_is_loaded() {
        // Complex numbers, floats of 8 bits, integers of 4 bits, and floats of 4 bits.
        for elem_type in [14, 15, 17, 18, 19, 20, 21, 22, 23] {
            let refused = echo(elem_type, "fp32");
            assert!(
                matches!(refused, Err(LoadError::Signature(_) | LoadError::Session(_))),
                "{elem_type}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (_, kinds) = model("kinds");
        let refused = |given| kinds.interface().rows(given, 2).unwrap_err();
        let id = |count: usize| tensor("id", &[count, 1], Elements::Int64(vec![1; count]));
        assert!(matches!(refused(vec![id(1)]), InputError::Missing { name } if name == "flag"));
        assert!(matches!(refused(vec![id(1), id(1)]), InputError::Twice { index: 1, .. }));
        assert!(matches!(refused(vec![id(3)]), InputError::TooManyRows { index: 0, rows_max: 2 }));
        let flags = tensor("flag", &[2, 1], Elements::Bool(vec![true; 2]));
        let expected = InputError::Shape { index: 1, name: "flag".into(), expected: vec![1, 1], got: vec![2, 1] };
        assert_eq!(refused(vec![id(1), flags]), expected);
        let wrong = tensor("id", &[1, 1], Elements::Int32(vec![1]));
        assert_eq!(refused(vec![wrong]).to_string(), "the input `id` is INT32; send INT64");
        let other = tensor("other", &[1, 1], Elements::Int32(vec![1]));
        assert!(refused(vec![other]).to_string().starts_with("there is no input `other`; the inputs are id, flag,"));
        let zero = tensor("text", &[1], texts(&["a\0b"]));
        assert!(matches!(refused(vec![zero]), InputError::Text { index: 0, element: 0, .. }));
    }
}
