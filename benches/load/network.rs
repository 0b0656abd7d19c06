//! A neural network that reads far more weights than a row has numbers, so that eight rows at once cost little more than one.

use mainstay_models::Blob;
use prost::Message;

use super::bodies::FEATURES;
use super::store::CARD;

/// Both hidden layers have as many neurons: 17 MB of weights between them, more than the nearer caches hold.
const NEURONS: usize = 2048;

/// Data types of ONNX.
const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// The network as an ONNX file: two hidden layers with rectifiers, and a softmax over two classes.
pub fn file() -> Vec<u8> {
    let mut graph = Graph { name: "network".to_owned(), ..Graph::default() };
    let mut values = "features".to_owned();
    let layers = [(FEATURES, NEURONS), (NEURONS, NEURONS), (NEURONS, 2)];
    for (layer, (rows, columns)) in layers.into_iter().enumerate() {
        let weights = format!("weights_{layer}");
        graph.initializers.push(matrix(&weights, rows, columns));
        values = graph.compute("MatMul", &[&values, &weights], &format!("sums_{layer}"), &[]);
        if layer + 1 < layers.len() {
            values = graph.compute("Relu", &[&values], &format!("neurons_{layer}"), &[]);
        }
    }
    let shares = graph.compute("Softmax", &[&values], "probabilities", &[("axis", 1)]);
    graph.compute("ArgMax", &[&shares], "label", &[("axis", 1), ("keepdims", 0)]);
    graph.inputs = vec![tensor("features", FLOAT, Some(FEATURES))];
    graph.outputs = vec![tensor("label", INT64, None), tensor("probabilities", FLOAT, Some(2))];
    let opset = Opset { domain: String::new(), version: 17 };
    Model { ir_version: 8, graph: Some(graph), opsets: vec![opset] }.encode_to_vec()
}

/// The card of `file`: the forest's, whose features it has, with a golden row of its own.
pub fn card(file: &[u8]) -> String {
    let Blob { sha256, size_bytes } = Blob::of(file);
    let (before, rest) = CARD.split_once("artifact:").unwrap();
    let (_, rest) = rest.split_once("input:").unwrap();
    let (about, rest) = rest.split_once("golden:").unwrap();
    let (_, profile) = rest.split_once("profile:").unwrap();
    let row = format!("{{features: {:?}, label: 0, probability: [0.5, 0.5]}}", [0.5; FEATURES]);
    format!(
        "{}artifact: {{file: model.onnx, sha256: {sha256}, size_bytes: {size_bytes}}}\ninput:{about}\
         golden:\n  tolerance: 0.001\n  rows: [{row}]\nprofile:{profile}",
        before.replacen("name: forest", "name: network", 1)
    )
}

/// Weights that differ and keep the sums small; those of the classes are 0, so that both are as likely.
fn matrix(name: &str, rows: usize, columns: usize) -> Weights {
    let scale = if columns == 2 { 0.0 } else { 1.0 / (rows as f32).sqrt() };
    let value = |index: usize| ((index * 7919 % 1009) as f32 / 504.0 - 1.0) * scale;
    let bytes = (0..rows * columns).flat_map(|index| value(index).to_le_bytes()).collect();
    Weights { shape: vec![rows as i64, columns as i64], data_type: FLOAT, name: name.to_owned(), bytes }
}

/// A tensor of any number of rows.
fn tensor(name: &str, element: i32, columns: Option<usize>) -> Value {
    let rows = Dimension { size: None, name: Some("rows".to_owned()) };
    let columns = columns.map(|columns| Dimension { size: Some(columns as i64), name: None });
    let shape = Shape { dimensions: [rows].into_iter().chain(columns).collect() };
    let tensor = Tensor { element, shape: Some(shape) };
    Value { name: name.to_owned(), kind: Some(Kind { tensor: Some(tensor) }) }
}

impl Graph {
    /// Adds a node of one output, and gives the output's name.
    fn compute(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]) -> String {
        let attribute = |(name, value): &(&str, i64)| Attribute { name: (*name).to_owned(), value: *value, kind: 2 };
        self.nodes.push(Node {
            inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
            outputs: vec![output.to_owned()],
            operator: operator.to_owned(),
            attributes: attributes.iter().map(attribute).collect(),
        });
        output.to_owned()
    }
}

// What of onnx.proto is needed here: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opsets: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<Weights>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    outputs: Vec<String>,
    #[prost(string, tag = "4")]
    operator: String,
    #[prost(message, repeated, tag = "5")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    value: i64,
    /// 2 is a whole number.
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Weights {
    #[prost(int64, repeated, tag = "1")]
    shape: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(message, optional, tag = "1")]
    tensor: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dimensions: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    size: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}
