//! From a model's graph to a program: every tensor is taken apart into single values per row.
//!
//! What only moves values about (reshaping, splitting, selecting, joining) costs nothing at run time: it says which slot
//! stands where. What a converter never emits is refused by name, and so is whatever would let rows touch each other.

use std::collections::HashMap;

use super::Unsupported;
use super::graph::{Attributes, Dim, Element, Literal, Type, Value, literal};
use super::program::{Binary, Compare, Instruction, Program, Reduce, Unary};
use super::proto::{Graph, Model, Node};
use super::transform::Transform;

mod arithmetic;
mod linear;
mod moves;
mod trees;

/// The most slots of a program: a block of rows must fit into the processor's caches.
const SLOTS_MAX: usize = 1 << 16;
/// The oldest operator set whose operators broadcast and count their axes as those of today.
const OPSET_MIN: i64 = 7;

type Lowered<T> = Result<T, Unsupported>;

/// The names and sizes that a program must serve.
pub(super) struct Signature<'a> {
    pub(super) input: &'a str,
    pub(super) features: usize,
    /// In the order in which a program gives them.
    pub(super) outputs: Vec<Output<'a>>,
}

/// An output that a program must give.
pub(super) struct Output<'a> {
    pub(super) tensor: &'a str,
    /// `I64` or `F32`.
    pub(super) kind: Type,
    /// The sizes of what one row gets; empty for one value.
    pub(super) shape: Vec<usize>,
}

impl Output<'_> {
    /// One value for each row may come as a column.
    fn fits(&self, value: &Value) -> bool {
        let Some((Dim::Rows, sizes)) = value.dims.split_first() else { return false };
        let whole = sizes.iter().copied().eq(self.shape.iter().map(|&size| Dim::Fixed(size)));
        let column = self.shape.is_empty() && sizes == [Dim::Fixed(1)];
        value.kind == self.kind && (whole || column) && value.elements.len() == self.shape.iter().product::<usize>()
    }
}

pub(super) fn lower(model: &Model, signature: &Signature<'_>) -> Lowered<Program> {
    let graph = model.graph.as_ref().ok_or_else(|| Unsupported::new("a file without a graph"))?;
    if !model.functions.is_empty() {
        return Err(Unsupported::new("functions"));
    }
    for set in &model.opset_import {
        let default = set.domain.is_empty() || set.domain == "ai.onnx";
        if default && set.version < OPSET_MIN {
            return Err(Unsupported::new(format!("operator set {}", set.version)));
        }
    }
    let default_opset = model.opset_import.iter().filter(|set| set.domain != "ai.onnx.ml").map(|set| set.version).max();
    let mut compiler = Compiler {
        values: HashMap::new(),
        instructions: Vec::new(),
        float_slots: 0,
        int_slots: 0,
        floats: Vec::new(),
        ints: Vec::new(),
        opset: default_opset.unwrap_or(OPSET_MIN),
    };
    compiler.inputs(graph, signature)?;
    for node in &graph.node {
        compiler.node(node).map_err(|e| e.of(node))?;
    }
    compiler.finish(signature)
}

struct Compiler {
    values: HashMap<String, Value>,
    instructions: Vec<Instruction>,
    float_slots: u32,
    int_slots: u32,
    floats: Vec<(u32, f32)>,
    ints: Vec<(u32, i64)>,
    opset: i64,
}

impl Compiler {
    fn inputs(&mut self, graph: &Graph, signature: &Signature<'_>) -> Lowered<()> {
        for tensor in &graph.initializer {
            self.values.insert(tensor.name.clone(), literal(tensor)?);
        }
        let inputs: Vec<_> = graph.input.iter().filter(|input| !self.values.contains_key(&input.name)).collect();
        let [input] = inputs.as_slice() else { return Err(Unsupported::new("more than one input")) };
        let shape = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).filter(|t| t.elem_type == 1);
        let dims = shape.and_then(|t| t.shape.as_ref()).map(|shape| shape.dim.as_slice());
        let width = |dim: Option<i64>| dim.is_none_or(|dim| dim < 0 || dim == signature.features as i64);
        match dims {
            Some([_, second]) if input.name == signature.input && width(second.dim_value) => {}
            _ => return Err(Unsupported::new("an input that is not the card's rows of float32")),
        }
        let slots = self.float_slots(signature.features)?;
        let elements = (0..signature.features as u32).map(|i| Element::Slot(slots + i)).collect();
        let dims = vec![Dim::Rows, Dim::Fixed(signature.features)];
        self.values.insert(input.name.clone(), Value { kind: Type::F32, dims, elements });
        Ok(())
    }

    fn finish(mut self, signature: &Signature<'_>) -> Lowered<Program> {
        let (mut integers, mut floats) = (Vec::new(), Vec::new());
        for output in &signature.outputs {
            let missing = || Unsupported::new(format!("a graph without the output `{}`", output.tensor));
            let value = self.values.get(output.tensor).cloned().ok_or_else(missing)?;
            if !output.fits(&value) {
                return Err(Unsupported::new("outputs whose shapes are not the card's"));
            }
            for &element in &value.elements {
                match output.kind {
                    Type::I64 => integers.push(self.int_slot(element)?),
                    _ => floats.push(self.float_slot(element)?),
                }
            }
        }
        Ok(Program {
            features: signature.features,
            instructions: self.instructions,
            float_slots: self.float_slots as usize,
            int_slots: self.int_slots as usize,
            floats: self.floats,
            ints: self.ints,
            integers_out: integers.into(),
            floats_out: floats.into(),
        })
    }

    fn node(&mut self, node: &Node) -> Lowered<()> {
        let attributes = Attributes::new(&node.attribute);
        let outputs = self.operator(node, &attributes)?;
        attributes.all_used()?;
        let named = node.output.iter().filter(|name| !name.is_empty()).count();
        if named > outputs.len() {
            return Err(Unsupported::new("so many outputs"));
        }
        for (name, value) in node.output.iter().zip(outputs) {
            self.values.insert(name.clone(), value);
        }
        Ok(())
    }

    fn operator(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Vec<Value>> {
        let one = |value: Lowered<Value>| value.map(|value| vec![value]);
        match node.op_type.as_str() {
            "TreeEnsembleClassifier" => self.trees(node, attributes, true),
            "TreeEnsembleRegressor" => self.trees(node, attributes, false),
            "LinearClassifier" => self.linear_classifier(node, attributes),
            "LinearRegressor" => one(self.linear_regressor(node, attributes)),
            "MatMul" => one(self.product(node, false, None)),
            "Gemm" => one(self.gemm(node, attributes)),
            "Scaler" => one(self.scaler(node, attributes)),
            "Imputer" => one(self.imputer(node, attributes)),
            "Normalizer" => one(self.normalizer(node, attributes)),
            "Binarizer" => {
                let threshold = Value::scalar(Literal::F32(attributes.float("threshold", 0.0)?));
                let above = self.compare(&threshold, self.input(node, 0)?.clone(), Compare::Less)?;
                one(self.cast(above, Type::F32))
            }
            "Add" => one(self.arithmetic(node, Binary::Add)),
            "Sub" => one(self.arithmetic(node, Binary::Sub)),
            "Mul" => one(self.arithmetic(node, Binary::Mul)),
            "Div" => one(self.arithmetic(node, Binary::Div)),
            "Sum" => one(self.arithmetic(node, Binary::Add)),
            "Min" => one(self.arithmetic(node, Binary::Min)),
            "Max" => one(self.arithmetic(node, Binary::Max)),
            "Neg" => one(self.unary(node, Unary::Neg)),
            "Abs" => one(self.unary(node, Unary::Abs)),
            "Exp" => one(self.unary(node, Unary::Exp)),
            "Sqrt" => one(self.unary(node, Unary::Sqrt)),
            "Reciprocal" => one(self.unary(node, Unary::Reciprocal)),
            "Round" => one(self.unary(node, Unary::Round)),
            "Floor" => one(self.unary(node, Unary::Floor)),
            "Ceil" => one(self.unary(node, Unary::Ceil)),
            "Relu" => one(self.unary(node, Unary::Relu)),
            "Sigmoid" => one(self.unary(node, Unary::Sigmoid)),
            "Tanh" => one(self.unary(node, Unary::Tanh)),
            "Equal" => one(self.comparison(node, Compare::Equal, false)),
            "Less" => one(self.comparison(node, Compare::Less, false)),
            "LessOrEqual" => one(self.comparison(node, Compare::LessOrEqual, false)),
            "Greater" => one(self.comparison(node, Compare::Less, true)),
            "GreaterOrEqual" => one(self.comparison(node, Compare::LessOrEqual, true)),
            "And" | "Or" => one(self.logic(node)),
            "Not" => {
                let zero = Value { kind: Type::Bool, ..Value::scalar(Literal::I64(0)) };
                one(self.compare(&self.input(node, 0)?, zero, Compare::Equal))
            }
            "IsNaN" => one(self.is_nan(node)),
            "Where" => {
                let (condition, a, b) = (self.input(node, 0)?, self.input(node, 1)?, self.input(node, 2)?);
                one(self.select(&condition, &a, &b))
            }
            "Cast" => {
                let kind = Type::of(attributes.int("to", 0)? as i32)?;
                attributes.ignore("saturate");
                one(self.cast(self.input(node, 0)?, kind))
            }
            "Softmax" => one(self.softmax(node, attributes)),
            "ArgMax" => one(self.arg_max(node, attributes)),
            "ReduceSum" => one(self.reduce(node, attributes, Reduce::Sum)),
            "ReduceMean" => one(self.reduce(node, attributes, Reduce::Mean)),
            "ReduceMax" => one(self.reduce(node, attributes, Reduce::Max)),
            "ReduceMin" => one(self.reduce(node, attributes, Reduce::Min)),
            "ReduceProd" => one(self.reduce(node, attributes, Reduce::Prod)),
            "ArrayFeatureExtractor" => one(self.extract(node)),
            "Gather" => one(self.gather(node, attributes)),
            "ConstantOfShape" => one(self.constant_of_shape(node, attributes)),
            "Shape" => {
                let input = self.input(node, 0)?;
                Ok(vec![Value { kind: Type::Shape, dims: input.dims, elements: Vec::new() }])
            }
            "Constant" => one(attributes.tensor("value").and_then(|tensor| literal(&tensor))),
            "Identity" | "FeatureVectorizer" if node.input.len() == 1 => {
                attributes.ignore("inputdimensions");
                Ok(vec![self.input(node, 0)?])
            }
            "FeatureVectorizer" => {
                attributes.ignore("inputdimensions");
                one(self.concat(node, 1))
            }
            "Concat" => one(self.concat(node, attributes.int("axis", 0)?)),
            "Reshape" => {
                let shape = self.ints(node, 1)?;
                attributes.ignore("allowzero");
                one(self.input(node, 0)?.reshape(&shape))
            }
            "Flatten" if attributes.int("axis", 1)? == 1 => one(self.input(node, 0)?.reshape(&[0, -1])),
            "Squeeze" | "Unsqueeze" => {
                let axes = self.axes(node, attributes)?;
                let input = self.input(node, 0)?;
                one(if node.op_type == "Squeeze" { input.squeeze(axes) } else { input.unsqueeze(axes) })
            }
            "Slice" => one(self.slice(node, attributes)),
            "Split" => self.split(node, attributes),
            other => Err(Unsupported::new(format!("the operator {other}"))),
        }
    }

    fn input(&self, node: &Node, i: usize) -> Lowered<Value> {
        let name = node.input.get(i).filter(|name| !name.is_empty());
        let value = name.and_then(|name| self.values.get(name));
        value.cloned().ok_or_else(|| Unsupported::new(format!("a missing input {i}")))
    }

    /// The input `i`, which must be integers that are known now.
    fn ints(&self, node: &Node, i: usize) -> Lowered<Vec<i64>> {
        let value = self.input(node, i)?;
        value.known_ints().ok_or_else(|| Unsupported::new("sizes or indices that depend on the rows"))
    }

    /// The axes: an attribute in old operator sets, an input in new ones; none where there are none.
    fn axes(&self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Vec<i64>> {
        match attributes.ints("axes")? {
            Some(axes) => Ok(axes.to_vec()),
            None if node.input.len() > 1 => self.ints(node, 1),
            None => Ok(Vec::new()),
        }
    }

    // Slots.

    fn float_slots(&mut self, count: usize) -> Lowered<u32> {
        let first = self.float_slots;
        if self.float_slots as usize + count > SLOTS_MAX {
            return Err(Unsupported::new(format!("more than {SLOTS_MAX} values per row")));
        }
        self.float_slots += count as u32;
        Ok(first)
    }

    fn int_slots(&mut self, count: usize) -> Lowered<u32> {
        let first = self.int_slots;
        if self.int_slots as usize + count > SLOTS_MAX {
            return Err(Unsupported::new(format!("more than {SLOTS_MAX} values per row")));
        }
        self.int_slots += count as u32;
        Ok(first)
    }

    fn float_slot(&mut self, element: Element) -> Lowered<u32> {
        let value = match element {
            Element::Slot(slot) => return Ok(slot),
            Element::Literal(Literal::F32(value)) => value,
            Element::Literal(_) => return Err(Unsupported::new("a number of another type")),
        };
        if let Some((slot, _)) = self.floats.iter().find(|(_, known)| known.to_bits() == value.to_bits()) {
            return Ok(*slot);
        }
        let slot = self.float_slots(1)?;
        self.floats.push((slot, value));
        Ok(slot)
    }

    fn int_slot(&mut self, element: Element) -> Lowered<u32> {
        let value = match element {
            Element::Slot(slot) => return Ok(slot),
            Element::Literal(Literal::I64(value)) => value,
            Element::Literal(_) => return Err(Unsupported::new("a number of another type")),
        };
        if let Some((slot, _)) = self.ints.iter().find(|(_, known)| *known == value) {
            return Ok(*slot);
        }
        let slot = self.int_slots(1)?;
        self.ints.push((slot, value));
        Ok(slot)
    }

    fn float_slots_of(&mut self, value: &Value) -> Lowered<Vec<u32>> {
        if value.kind != Type::F32 {
            return Err(Unsupported::new(format!("values of type {:?}", value.kind)));
        }
        value.elements.iter().map(|&element| self.float_slot(element)).collect()
    }

    fn int_slots_of(&mut self, value: &Value) -> Lowered<Vec<u32>> {
        if !value.kind.is_int() {
            return Err(Unsupported::new(format!("values of type {:?}", value.kind)));
        }
        value.elements.iter().map(|&element| self.int_slot(element)).collect()
    }

    fn emit(&mut self, instruction: Instruction) {
        self.instructions.push(instruction);
    }

    /// A value of new slots, of which the first is `out`.
    fn fresh(kind: Type, dims: Vec<Dim>, out: u32) -> Value {
        let count = dims.iter().map(Dim::width).product::<usize>() as u32;
        Value { kind, dims, elements: (out..out + count).map(Element::Slot).collect() }
    }
}

fn transform(name: &str) -> Lowered<Transform> {
    match name {
        "NONE" => Ok(Transform::None),
        "LOGISTIC" => Ok(Transform::Logistic),
        "SOFTMAX" => Ok(Transform::Softmax),
        "SOFTMAX_ZERO" => Ok(Transform::SoftmaxZero),
        "PROBIT" => Ok(Transform::Probit),
        other => Err(Unsupported::new(format!("the transform {other}"))),
    }
}
