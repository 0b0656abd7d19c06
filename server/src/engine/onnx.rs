//! Looks into a model file before ONNX Runtime does, and refuses what no model of ours needs.
//!
//! A model that passes reads no other file, has only operators that ONNX Runtime itself brings, none of which may go round
//! without end, and is not nested or large beyond reason. The messages here are the part of onnx.proto that says so; what they leave out (weights, names,
//! types) is skipped without being copied. No bytes make this panic or overflow the stack.

use prost::Message;

/// The most nodes, over all graphs and functions. The largest models that we know have thousands.
const NODES_MAX: usize = 100_000;
/// The deepest nesting of graphs in the branches and loops of graphs. Ours have none.
const GRAPH_DEPTH_MAX: usize = 8;
/// The operator sets that ONNX Runtime brings and that are specified with ONNX; the first is the default one.
const DOMAINS: [&str; 3] = ["", "ai.onnx", "ai.onnx.ml"];

/// A model file that is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// The bytes are no ONNX model.
    #[error("cannot read the file as an onnx model: export the model to onnx again")]
    Malformed(#[from] prost::DecodeError),
    /// There is nothing to run.
    #[error("the file has no graph: export the model to onnx again")]
    Empty,
    /// A tensor's values lie in another file.
    #[error("the tensor `{tensor}` lies outside the model file: save the model with its weights inside")]
    ExternalData {
        /// The tensor.
        tensor: String,
    },
    /// An operator that a library beside ONNX Runtime would have to bring.
    #[error("`{operator}` is of the operator set `{domain}`: use operators of ai.onnx and ai.onnx.ml only")]
    Domain {
        /// The operator or function; empty for the operator set as such.
        operator: String,
        /// Its operator set.
        domain: String,
    },
    /// An operator that may run without end, and be fast on the golden rows: how often it goes round may depend on the row.
    #[error("the operator `Loop` may run without end: use `Scan`, which ends with its input, or export without loops")]
    Endless,
    /// More nodes than any sensible model.
    #[error("the model has more than {NODES_MAX} nodes: simplify it")]
    TooManyNodes,
    /// Graphs in graphs.
    #[error("the model's graphs are nested more than {GRAPH_DEPTH_MAX} deep: simplify it")]
    TooDeep,
}

// The field numbers are those of onnx.proto, of IR version 13 and all before it.

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "20")]
    training_info: Vec<Training>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct Training {
    #[prost(message, optional, tag = "1")]
    initialization: Option<Graph>,
    #[prost(message, optional, tag = "2")]
    algorithm: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "9")]
    opset_import: Vec<OperatorSet>,
    #[prost(string, tag = "10")]
    domain: String,
    #[prost(message, repeated, tag = "11")]
    attribute_proto: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    t: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    g: Option<Graph>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
    #[prost(message, optional, tag = "22")]
    sparse_tensor: Option<SparseTensor>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    indices: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<Entry>,
    // A single value in onnx.proto. Read as many, since parsers differ in which of several they keep.
    #[prost(int32, repeated, packed = "false", tag = "14")]
    data_location: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {}

/// Refuses `model` unless it may be given to ONNX Runtime.
pub(super) fn inspect(model: &[u8]) -> Result<(), InspectError> {
    // The decoder stops at a hundred messages in one another, as ONNX Runtime's does.
    let model = Model::decode(model)?;
    if model.graph.is_none() {
        return Err(InspectError::Empty);
    }
    let mut inspector = Inspector { nodes: 0 };
    let training = model.training_info.iter().flat_map(|training| [&training.initialization, &training.algorithm]);
    for graph in training.chain([&model.graph]).flatten() {
        inspector.graph(graph, 0)?;
    }
    for function in &model.functions {
        check_domain(&function.name, &function.domain)?;
        check_imports(&function.opset_import)?;
        inspector.nodes(&function.node, 0)?;
        inspector.attributes(&function.attribute_proto, 0)?;
    }
    check_imports(&model.opset_import)
}

/// Walks a model, counting its nodes.
struct Inspector {
    nodes: usize,
}

impl Inspector {
    fn graph(&mut self, graph: &Graph, depth: usize) -> Result<(), InspectError> {
        if depth > GRAPH_DEPTH_MAX {
            return Err(InspectError::TooDeep);
        }
        graph.initializer.iter().try_for_each(check_tensor)?;
        graph.sparse_initializer.iter().try_for_each(check_sparse)?;
        self.nodes(&graph.node, depth)
    }

    fn nodes(&mut self, nodes: &[Node], depth: usize) -> Result<(), InspectError> {
        self.nodes += nodes.len();
        if self.nodes > NODES_MAX {
            return Err(InspectError::TooManyNodes);
        }
        nodes.iter().try_for_each(|node| {
            check_domain(&node.op_type, &node.domain)?;
            if node.op_type == "Loop" {
                return Err(InspectError::Endless);
            }
            self.attributes(&node.attribute, depth)
        })
    }

    fn attributes(&mut self, attributes: &[Attribute], depth: usize) -> Result<(), InspectError> {
        attributes.iter().try_for_each(|attribute| {
            attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
            attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors).try_for_each(check_sparse)?;
            attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| self.graph(graph, depth + 1))
        })
    }
}

fn check_sparse(sparse: &SparseTensor) -> Result<(), InspectError> {
    sparse.values.iter().chain(&sparse.indices).try_for_each(check_tensor)
}

fn check_tensor(tensor: &Tensor) -> Result<(), InspectError> {
    if tensor.external_data.is_empty() && tensor.data_location.iter().all(|&location| location == 0) {
        return Ok(());
    }
    Err(InspectError::ExternalData { tensor: tensor.name.clone() })
}

fn check_domain(operator: &str, domain: &str) -> Result<(), InspectError> {
    if DOMAINS.contains(&domain) {
        return Ok(());
    }
    Err(InspectError::Domain { operator: operator.to_owned(), domain: domain.to_owned() })
}

fn check_imports(imports: &[OperatorSet]) -> Result<(), InspectError> {
    imports.iter().try_for_each(|import| check_domain("", &import.domain))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `model` with `more` added to its graph: in protobuf, a message after another of its kind is merged into it.
    fn with(model: &[u8], more: Graph) -> Vec<u8> {
        [model, &Model { graph: Some(more), ..Default::default() }.encode_to_vec()].concat()
    }

    pub(in crate::engine) fn with_external_data(model: &[u8]) -> Vec<u8> {
        with(model, Graph { initializer: vec![external()], ..Default::default() })
    }

    pub(in crate::engine) fn with_custom_operator(model: &[u8]) -> Vec<u8> {
        let node = Node { op_type: "Run".into(), domain: "com.example".into(), ..Default::default() };
        with(model, Graph { node: vec![node], ..Default::default() })
    }

    fn external() -> Tensor {
        Tensor { name: "weights".into(), external_data: vec![], data_location: vec![1] }
    }

    fn graph(attribute: Attribute) -> Graph {
        let node = Node { op_type: "If".into(), attribute: vec![attribute], ..Default::default() };
        Graph { node: vec![node], ..Default::default() }
    }

    fn inspect_graph(graph: Graph) -> Result<(), InspectError> {
        inspect(&with(&[], graph))
    }

    /// `levels` graphs, each in a node of the one around it.
    fn nested(levels: usize) -> Graph {
        (0..levels).fold(Graph::default(), |inner, _| graph(Attribute { g: Some(inner), ..Default::default() }))
    }

    #[test]
    fn external_data_is_refused_wherever_it_hides() {
        let sparse = || SparseTensor { values: None, indices: Some(external()) };
        let entry = Tensor { external_data: vec![Entry {}], ..Default::default() };
        let first_of_two = Tensor { data_location: vec![1, 7], ..Default::default() };
        let hidden = [
            Graph { initializer: vec![external()], ..Default::default() },
            Graph { initializer: vec![entry], ..Default::default() },
            Graph { initializer: vec![first_of_two], ..Default::default() },
            Graph { sparse_initializer: vec![sparse()], ..Default::default() },
            graph(Attribute { t: Some(external()), ..Default::default() }),
            graph(Attribute { tensors: vec![external()], ..Default::default() }),
            graph(Attribute { sparse_tensor: Some(sparse()), ..Default::default() }),
            graph(Attribute { sparse_tensors: vec![sparse()], ..Default::default() }),
        ];
        for place in hidden {
            let inner = graph(Attribute { graphs: vec![place.clone()], ..Default::default() });
            let function = Function { node: place.node.clone(), ..Default::default() };
            let training = Training { initialization: None, algorithm: Some(place.clone()) };
            let mut models = vec![
                Model { graph: Some(place.clone()), ..Default::default() },
                Model { graph: Some(inner), ..Default::default() },
                Model { graph: Some(Graph::default()), training_info: vec![training], ..Default::default() },
            ];
            if !place.node.is_empty() {
                models.push(Model { graph: Some(Graph::default()), functions: vec![function], ..Default::default() });
            }
            for model in models {
                let refused = inspect(&model.encode_to_vec());
                assert!(matches!(refused, Err(InspectError::ExternalData { .. })), "{model:?}");
            }
        }
    }

    #[test]
    fn operators_from_elsewhere_are_refused() {
        let domain = || "com.microsoft".to_owned();
        let bare = || Model { graph: Some(Graph::default()), ..Default::default() };
        let node = Node { op_type: "Gelu".into(), domain: domain(), ..Default::default() };
        let import = vec![OperatorSet { domain: domain() }];
        let function = Function { domain: domain(), ..Default::default() };
        for model in [
            Model { graph: Some(Graph { node: vec![node.clone()], ..Default::default() }), ..bare() },
            Model { opset_import: import.clone(), ..bare() },
            Model { functions: vec![function], ..bare() },
            Model { functions: vec![Function { node: vec![node], ..Default::default() }], ..bare() },
            Model { functions: vec![Function { opset_import: import, ..Default::default() }], ..bare() },
        ] {
            assert!(matches!(inspect(&model.encode_to_vec()), Err(InspectError::Domain { .. })), "{model:?}");
        }
    }

    #[test]
    fn a_loop_is_refused_wherever_it_hides_and_other_control_flow_is_not() {
        let node = |operator: &str| Node { op_type: operator.into(), ..Default::default() };
        let with = |node: Node| Graph { node: vec![node], ..Default::default() };
        let inner = |operator: &str| graph(Attribute { g: Some(with(node(operator))), ..Default::default() });
        assert_eq!(inspect_graph(with(node("Loop"))), Err(InspectError::Endless));
        assert_eq!(inspect_graph(inner("Loop")), Err(InspectError::Endless));
        let function = Function { node: vec![node("Loop")], ..Default::default() };
        let model = Model { graph: Some(Graph::default()), functions: vec![function], ..Default::default() };
        assert_eq!(inspect(&model.encode_to_vec()), Err(InspectError::Endless));
        for operator in ["Scan", "If"] {
            assert_eq!((inspect_graph(with(node(operator))), inspect_graph(inner(operator))), (Ok(()), Ok(())));
        }
    }

    #[test]
    fn absurd_models_are_refused() {
        assert_eq!(inspect(&[]), Err(InspectError::Empty));
        assert_eq!(inspect_graph(nested(GRAPH_DEPTH_MAX)), Ok(()));
        assert_eq!(inspect_graph(nested(GRAPH_DEPTH_MAX + 1)), Err(InspectError::TooDeep));
        let nodes = |count| Graph { node: vec![Node::default(); count], ..Default::default() };
        assert_eq!(inspect_graph(nodes(NODES_MAX)), Ok(()));
        assert_eq!(inspect_graph(nodes(NODES_MAX + 1)), Err(InspectError::TooManyNodes));
    }

    #[test]
    fn bytes_nested_ten_thousand_deep_do_not_overflow_the_stack() {
        // By hand and from the inside out, since the encoder would overflow: graph in attribute in node in graph.
        let mut reversed = Vec::new();
        for tag in [6, 5, 1].into_iter().cycle().take(30_000).chain([7]) {
            let mut head = vec![tag << 3 | 2];
            prost::encoding::encode_varint(reversed.len() as u64, &mut head);
            reversed.extend(head.into_iter().rev());
        }
        reversed.reverse();
        let Err(InspectError::Malformed(error)) = inspect(&reversed) else { panic!("nested too deep to be read") };
        assert!(error.to_string().contains("recursion limit reached"), "{error}");
    }

    fn any_graph() -> impl Strategy<Value = Vec<u8>> {
        // Tags of the messages above around random bytes: gets further in than random bytes alone.
        let leaf = prop::collection::vec(any::<u8>(), 0..40);
        leaf.prop_recursive(12, 64, 4, |inner| {
            prop::collection::vec((prop::sample::select(vec![1u8, 5, 6, 7, 8, 10, 11, 13, 14, 15]), inner), 1..4)
                .prop_map(|fields| {
                    let mut bytes = Vec::new();
                    for (tag, field) in fields {
                        bytes.push(tag << 3 | 2);
                        prost::encoding::encode_varint(field.len() as u64, &mut bytes);
                        bytes.extend(field);
                    }
                    bytes
                })
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), graph in any_graph()) {
            let _ = inspect(&bytes);
            let mut model = vec![7 << 3 | 2];
            prost::encoding::encode_varint(graph.len() as u64, &mut model);
            model.extend(graph);
            let _ = inspect(&model);
        }

        #[test]
        fn no_damage_to_a_real_model_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut model = include_bytes!("../../../models/iris/1.0.0/model.onnx").to_vec();
            let at = at.index(model.len());
            model[at] = byte;
            if cut {
                model.truncate(at);
            }
            let _ = inspect(&model);
        }
    }
}
