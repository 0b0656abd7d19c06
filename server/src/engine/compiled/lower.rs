//! From a model's graph to a program: every tensor is taken apart into single values per row.
//!
//! What only moves values about (reshaping, splitting, selecting, joining) costs nothing at run time: it says which slot
//! stands where. What a converter never emits is refused by name, and so is whatever would let rows touch each other.

use std::collections::HashMap;

use super::Unsupported;
use super::forest::Forest;
use super::graph::{Attributes, Dim, Element, Literal, Type, Value, broadcast, literal};
use super::program::{Binary, Compare, Instruction, Linear, Norm, Operand, Program, Reduce, Unary};
use super::proto::{Graph, Model, Node};
use super::trees::{Ensemble, Finish, Transform, Trees};

/// The most slots of a program: a block of rows must fit into the processor's caches.
const SLOTS_MAX: usize = 1 << 16;
/// The most values of a matrix that rows are multiplied with. Where many requests wait for a model with larger ones, ONNX Runtime
/// computes their rows together, in less time than they take here one after the other.
const PRODUCT_MAX: usize = 1 << 17;
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

    // Arithmetic.

    fn arithmetic(&mut self, node: &Node, op: Binary) -> Lowered<Value> {
        let mut value = self.input(node, 0)?;
        for i in 1..node.input.len() {
            value = self.binary(&value, &self.input(node, i)?, op)?;
        }
        Ok(value)
    }

    fn binary(&mut self, a: &Value, b: &Value, op: Binary) -> Lowered<Value> {
        let dims = broadcast(&a.dims, &b.dims)?;
        let a = self.float_slots_of(&a.expand(&dims))?;
        let b = self.float_slots_of(&b.expand(&dims))?;
        let out = self.float_slots(a.len())?;
        for run in runs(&[&a, &b]) {
            let (a, b) = (run.operands[0], run.operands[1]);
            self.emit(Instruction::Binary { op, out: out + run.at, a, b, count: run.count });
        }
        Ok(Self::fresh(Type::F32, dims, out))
    }

    fn unary(&mut self, node: &Node, op: Unary) -> Lowered<Value> {
        let input = self.input(node, 0)?;
        let slots = self.float_slots_of(&input)?;
        let out = self.float_slots(slots.len())?;
        for run in runs(&[&slots]) {
            self.emit(Instruction::Unary { op, out: out + run.at, a: run.operands[0], count: run.count });
        }
        Ok(Self::fresh(Type::F32, input.dims, out))
    }

    fn comparison(&mut self, node: &Node, op: Compare, turned: bool) -> Lowered<Value> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        if turned { self.compare(&b, a, op) } else { self.compare(&a, b, op) }
    }

    fn compare(&mut self, a: &Value, b: Value, op: Compare) -> Lowered<Value> {
        let dims = broadcast(&a.dims, &b.dims)?;
        let (a, b) = (a.expand(&dims), b.expand(&dims));
        if a.kind == Type::F32 {
            let (a, b) = (self.float_slots_of(&a)?, self.float_slots_of(&b)?);
            let out = self.int_slots(a.len())?;
            for run in runs(&[&a, &b]) {
                let (a, b) = (run.operands[0], run.operands[1]);
                self.emit(Instruction::Compare { op, out: out + run.at, a, b, count: run.count });
            }
            return Ok(Self::fresh(Type::Bool, dims, out));
        }
        // What comes out must lie behind what goes in, numbers that are known now too.
        let (a, b) = (self.int_slots_of(&a)?, self.int_slots_of(&b)?);
        let out = self.int_slots(a.len())?;
        for run in runs(&[&a, &b]) {
            let (a, b) = (run.operands[0], run.operands[1]);
            self.emit(Instruction::CompareInts { op, out: out + run.at, a, b, count: run.count });
        }
        Ok(Self::fresh(Type::Bool, dims, out))
    }

    fn logic(&mut self, node: &Node) -> Lowered<Value> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        let dims = broadcast(&a.dims, &b.dims)?;
        let (a, b) = (self.int_slots_of(&a.expand(&dims))?, self.int_slots_of(&b.expand(&dims))?);
        let out = self.int_slots(a.len())?;
        for run in runs(&[&a, &b]) {
            let (a, b, out, count) = (run.operands[0], run.operands[1], out + run.at, run.count);
            self.emit(match node.op_type.as_str() {
                "And" => Instruction::And { out, a, b, count },
                _ => Instruction::Or { out, a, b, count },
            });
        }
        Ok(Self::fresh(Type::Bool, dims, out))
    }

    fn is_nan(&mut self, node: &Node) -> Lowered<Value> {
        let input = self.input(node, 0)?;
        let slots = self.float_slots_of(&input)?;
        let out = self.int_slots(slots.len())?;
        for run in runs(&[&slots]) {
            self.emit(Instruction::IsNan { out: out + run.at, a: run.operands[0], count: run.count });
        }
        Ok(Self::fresh(Type::Bool, input.dims, out))
    }

    fn select(&mut self, condition: &Value, a: &Value, b: &Value) -> Lowered<Value> {
        let dims = broadcast(&broadcast(&condition.dims, &a.dims)?, &b.dims)?;
        let condition = self.int_slots_of(&condition.expand(&dims))?;
        let (kind, a, b) = (a.kind, a.expand(&dims), b.expand(&dims));
        if kind == Type::F32 {
            let (a, b) = (self.float_slots_of(&a)?, self.float_slots_of(&b)?);
            let out = self.float_slots(a.len())?;
            for run in runs(&[&condition, &a, &b]) {
                let (condition, a, b) = (run.operands[0], run.operands[1], run.operands[2]);
                self.emit(Instruction::Select { out: out + run.at, condition, a, b, count: run.count });
            }
            return Ok(Self::fresh(kind, dims, out));
        }
        let (a, b) = (self.int_slots_of(&a)?, self.int_slots_of(&b)?);
        let out = self.int_slots(a.len())?;
        for run in runs(&[&condition, &a, &b]) {
            let (condition, a, b) = (run.operands[0], run.operands[1], run.operands[2]);
            self.emit(Instruction::SelectInts { out: out + run.at, condition, a, b, count: run.count });
        }
        Ok(Self::fresh(kind, dims, out))
    }

    fn cast(&mut self, value: Value, to: Type) -> Lowered<Value> {
        if let Some(known) = value.cast_known(to)? {
            return Ok(known);
        }
        match (value.kind, to) {
            (from, to) if from == to => Ok(value),
            // A float32 loses nothing in a float64, and comes back as it was.
            (Type::F32, Type::F64) | (Type::F64, Type::F32) => Ok(Value { kind: to, ..value }),
            (Type::F32, Type::I64) => {
                let slots = self.float_slots_of(&value)?;
                let out = self.int_slots(slots.len())?;
                for run in runs(&[&slots]) {
                    self.emit(Instruction::ToInts { out: out + run.at, a: run.operands[0], count: run.count });
                }
                Ok(Self::fresh(to, value.dims, out))
            }
            // A float beyond an int32 is left to the processor: values that small come out of a comparison, or a sum of
            // probabilities.
            (Type::F32, Type::I32) => Ok(Value { kind: to, ..self.cast(value, Type::I64)? }),
            (Type::F32, Type::Bool) => self.compare(&value, Value::scalar(Literal::F32(0.0)), Compare::NotEqual),
            (Type::I64 | Type::I32, Type::Bool) => {
                self.compare(&value, Value::scalar(Literal::I64(0)), Compare::NotEqual)
            }
            (from, Type::F32) if from.is_int() => {
                let slots = self.int_slots_of(&value)?;
                let out = self.float_slots(slots.len())?;
                for run in runs(&[&slots]) {
                    self.emit(Instruction::ToFloats { out: out + run.at, a: run.operands[0], count: run.count });
                }
                Ok(Self::fresh(to, value.dims, out))
            }
            (Type::Bool | Type::I32, Type::I64) | (Type::Bool, Type::I32) => Ok(Value { kind: to, ..value }),
            (from, to) => Err(Unsupported::new(format!("a cast of {from:?} to {to:?}"))),
        }
    }

    fn softmax(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let axis = attributes.int("axis", if self.opset < 13 { 1 } else { -1 })?;
        let input = self.input(node, 0)?;
        if !matches!(input.dims.as_slice(), [Dim::Rows, Dim::Fixed(_)]) || !matches!(axis, 1 | -1) {
            return Err(Unsupported::new("this axis"));
        }
        let of = self.float_slots_of(&input)?.into();
        let out = self.float_slots(input.elements.len())?;
        self.emit(Instruction::Softmax { out, of });
        Ok(Self::fresh(Type::F32, input.dims, out))
    }

    fn arg_max(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let axis = attributes.int("axis", 0)?;
        let keep = attributes.int("keepdims", 1)? != 0;
        if attributes.int("select_last_index", 0)? != 0 {
            return Err(Unsupported::new("the last of several greatest values"));
        }
        let input = self.input(node, 0)?;
        let (dims, groups) = input.groups(&[axis], keep)?;
        let slots = self.float_slots_of(&input)?;
        let out = self.int_slots(groups.len())?;
        for (i, group) in groups.iter().enumerate() {
            let of = group.iter().map(|&i| slots[i]).collect();
            self.emit(Instruction::ArgMax { out: out + i as u32, of });
        }
        Ok(Self::fresh(Type::I64, dims, out))
    }

    fn reduce(&mut self, node: &Node, attributes: &Attributes<'_>, op: Reduce) -> Lowered<Value> {
        let axes = self.axes(node, attributes)?;
        let keep = attributes.int("keepdims", 1)? != 0;
        attributes.ignore("noop_with_empty_axes");
        let input = self.input(node, 0)?;
        let (dims, groups) = input.groups(&axes, keep)?;
        let slots = self.float_slots_of(&input)?;
        let out = self.float_slots(groups.len())?;
        for (i, group) in groups.iter().enumerate() {
            let of = group.iter().map(|&i| slots[i]).collect();
            self.emit(Instruction::Reduce { op, out: out + i as u32, of });
        }
        Ok(Self::fresh(Type::F32, dims, out))
    }

    // What moves values about.

    fn concat(&mut self, node: &Node, axis: i64) -> Lowered<Value> {
        let values = (0..node.input.len()).map(|i| self.input(node, i)).collect::<Lowered<Vec<_>>>()?;
        Value::concat(&values, axis)
    }

    fn extract(&mut self, node: &Node) -> Lowered<Value> {
        let (data, index) = (self.input(node, 0)?, self.input(node, 1)?);
        match index.known_ints() {
            Some(indices) if data.dims.len() == 2 => data.gather(1, &indices, &[Dim::Fixed(indices.len())]),
            None if data.dims.len() == 1 && index.elements.len() == 1 => {
                self.lookup(&data, &index, vec![Dim::Fixed(1), Dim::Rows])
            }
            _ => Err(Unsupported::new("these shapes")),
        }
    }

    fn gather(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let axis = attributes.int("axis", 0)?;
        let (data, index) = (self.input(node, 0)?, self.input(node, 1)?);
        match index.known_ints() {
            Some(indices) => data.gather(axis, &indices, &index.dims),
            None if axis == 0 && data.dims.len() == 1 && index.elements.len() == 1 => {
                let dims = index.dims.clone();
                self.lookup(&data, &index, dims)
            }
            None => Err(Unsupported::new("these shapes")),
        }
    }

    /// The element of `table`, known now, that each row's `index` names.
    fn lookup(&mut self, table: &Value, index: &Value, dims: Vec<Dim>) -> Lowered<Value> {
        let index = self.int_slots_of(index)?[0];
        if let Some(table_ints) = table.known_ints() {
            let out = self.int_slots(1)?;
            self.emit(Instruction::Lookup { out, index, table: table_ints.into() });
            return Ok(Self::fresh(table.kind, dims, out));
        }
        let table = table.known_floats().ok_or_else(|| Unsupported::new("a table that depends on the rows"))?;
        let out = self.float_slots(1)?;
        self.emit(Instruction::LookupFloats { out, index, table: table.into() });
        Ok(Self::fresh(Type::F32, dims, out))
    }

    fn constant_of_shape(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let shape = self.input(node, 0)?;
        if shape.kind != Type::Shape {
            return Err(Unsupported::new("a shape that is not that of a tensor"));
        }
        let value = attributes.tensor("value").and_then(|tensor| literal(&tensor))?;
        let [element] = value.elements.as_slice() else { return Err(Unsupported::new("more than one value")) };
        let count = shape.dims.iter().map(Dim::width).product();
        Ok(Value { kind: value.kind, dims: shape.dims, elements: vec![*element; count] })
    }

    fn slice(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let input = self.input(node, 0)?;
        let of = |name: &str, i: usize| match attributes.ints(name)? {
            Some(values) => Ok(Some(values.to_vec())),
            None if node.input.get(i).is_some_and(|name| !name.is_empty()) => self.ints(node, i).map(Some),
            None => Ok(None),
        };
        let (starts, ends) = (of("starts", 1)?.unwrap_or_default(), of("ends", 2)?.unwrap_or_default());
        let axes = of("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = of("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if starts.len() != ends.len() || axes.len() != starts.len() || steps.iter().any(|&step| step != 1) {
            return Err(Unsupported::new("steps"));
        }
        let mut value = input;
        for ((start, end), axis) in starts.into_iter().zip(ends).zip(axes) {
            let width = value.width(axis)? as i64;
            let within = |at: i64| if at < 0 { (at + width).max(0) } else { at.min(width) };
            let indices: Vec<i64> = (within(start)..within(end)).collect();
            value = value.gather(axis, &indices, &[Dim::Fixed(indices.len())])?;
        }
        Ok(value)
    }

    fn split(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Vec<Value>> {
        let axis = attributes.int("axis", 0)?;
        let input = self.input(node, 0)?;
        let (width, parts) = (input.width(axis)?, node.output.len());
        attributes.ignore("num_outputs");
        let sizes = match attributes.ints("split")? {
            Some(sizes) => sizes.to_vec(),
            None if node.input.len() > 1 => self.ints(node, 1)?,
            None if width % parts == 0 => vec![(width / parts) as i64; parts],
            None => return Err(Unsupported::new("unequal parts")),
        };
        if sizes.iter().any(|&size| size < 0) || sizes.iter().sum::<i64>() != width as i64 {
            return Err(Unsupported::new("these parts"));
        }
        let mut from = 0;
        let parts = sizes.into_iter().map(|size| {
            let indices: Vec<i64> = (from..from + size).collect();
            from += size;
            input.gather(axis, &indices, &[Dim::Fixed(indices.len())])
        });
        parts.collect()
    }

    // Preparation and linear models.

    fn scaler(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let (offset, scale) = (attributes.floats("offset")?, attributes.floats("scale")?);
        let input = self.input(node, 0)?;
        if offset.len() != scale.len() || offset.is_empty() {
            return Err(Unsupported::new("as many offsets as scales"));
        }
        let moved = self.binary(&input, &Value::row(offset), Binary::Sub)?;
        self.binary(&moved, &Value::row(scale), Binary::Mul)
    }

    fn imputer(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let imputed = attributes.floats("imputed_value_floats")?;
        let replaced = attributes.float("replaced_value_float", 0.0)?;
        let input = self.input(node, 0)?;
        let is_missing = if replaced.is_nan() {
            self.is_nan(node)?
        } else {
            self.compare(&input, Value::scalar(Literal::F32(replaced)), Compare::Equal)?
        };
        let width = input.dims.last().map_or(1, Dim::width);
        // Where the lengths do not agree, the first value stands for all.
        let imputed = if imputed.len() == width { imputed } else { &imputed[..1.min(imputed.len())] };
        if imputed.is_empty() {
            return Err(Unsupported::new("integers"));
        }
        self.select(&is_missing, &Value::row(imputed), &input)
    }

    fn normalizer(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let norm = match attributes.string("norm", "MAX")?.as_str() {
            "MAX" => Norm::Max,
            "L1" => Norm::L1,
            "L2" => Norm::L2,
            other => return Err(Unsupported::new(format!("the norm {other}"))),
        };
        let input = self.input(node, 0)?;
        if !matches!(input.dims.as_slice(), [Dim::Rows, Dim::Fixed(_)]) {
            return Err(Unsupported::new("this shape"));
        }
        let of = self.float_slots_of(&input)?.into();
        let out = self.float_slots(input.elements.len())?;
        self.emit(Instruction::Normalize { norm, out, of });
        Ok(Self::fresh(Type::F32, input.dims, out))
    }

    /// Rows times a matrix that is known now, with `weights` by value and then by target.
    fn linear(&mut self, input: &Value, weights: Vec<f32>, bias: Vec<f32>, targets: usize) -> Lowered<Value> {
        if !matches!(input.dims.as_slice(), [Dim::Rows, Dim::Fixed(_)]) || targets == 0 {
            return Err(Unsupported::new("this shape"));
        }
        let fits = weights.len() == input.elements.len() * targets && (bias.is_empty() || bias.len() == targets);
        if !fits {
            return Err(Unsupported::new("another number of weights than values"));
        }
        let of = self.float_slots_of(input)?.into();
        let out = self.float_slots(targets)?;
        let linear = Linear { of, weights: weights.into(), bias: bias.into(), targets: targets as u32, out };
        self.emit(Instruction::Linear(linear));
        Ok(Self::fresh(Type::F32, vec![Dim::Rows, Dim::Fixed(targets)], out))
    }

    fn product(&mut self, node: &Node, transposed: bool, bias: Option<Vec<f32>>) -> Lowered<Value> {
        let (input, matrix) = (self.input(node, 0)?, self.input(node, 1)?);
        let (Some(mut weights), [Dim::Fixed(height), Dim::Fixed(width)]) =
            (matrix.known_floats(), matrix.dims.as_slice())
        else {
            return Err(Unsupported::new("a product with what is not a known matrix"));
        };
        if height.saturating_mul(*width) > PRODUCT_MAX {
            return Err(Unsupported::new(format!(
                "a matrix of {height} x {width}, which ONNX Runtime multiplies faster"
            )));
        }
        let mut targets = *width;
        if transposed {
            weights = transpose(&weights, *height);
            targets = *height;
        }
        self.linear(&input, weights, bias.unwrap_or_default(), targets)
    }

    fn gemm(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let plain = attributes.float("alpha", 1.0)? == 1.0 && attributes.float("beta", 1.0)? == 1.0;
        let transposed = attributes.int("transB", 0)? != 0;
        if !plain || attributes.int("transA", 0)? != 0 {
            return Err(Unsupported::new("alpha, beta or transA"));
        }
        let targets = match self.input(node, 1)?.dims.as_slice() {
            [Dim::Fixed(height), Dim::Fixed(width)] => {
                if transposed {
                    *height
                } else {
                    *width
                }
            }
            _ => return Err(Unsupported::new("this shape")),
        };
        let bias = match node.input.len() {
            ..3 => None,
            _ => {
                let bias = self.input(node, 2)?.known_floats();
                let bias = bias.ok_or_else(|| Unsupported::new("a bias that depends on the rows"))?;
                Some(if bias.len() == 1 { vec![bias[0]; targets] } else { bias })
            }
        };
        self.product(node, transposed, bias)
    }

    fn linear_regressor(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let targets = attributes.int("targets", 1)?.max(0) as usize;
        let (coefficients, intercepts) = (attributes.floats("coefficients")?, attributes.floats("intercepts")?);
        if transform(&attributes.string("post_transform", "NONE")?)? != Transform::None {
            return Err(Unsupported::new("a transform of a regression"));
        }
        let bias = if intercepts.len() == targets { intercepts.to_vec() } else { Vec::new() };
        self.linear(&self.input(node, 0)?, transpose(coefficients, targets), bias, targets)
    }

    fn linear_classifier(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Vec<Value>> {
        let coefficients = attributes.floats("coefficients")?;
        let intercepts = attributes.floats("intercepts")?;
        let labels = attributes.ints("classlabels_ints")?.unwrap_or_default();
        let transform = transform(&attributes.string("post_transform", "NONE")?)?;
        attributes.ignore("multi_class");
        let classes = intercepts.len();
        let pair = classes == 1 && labels.len() == 2;
        if !(pair || (classes >= 2 && labels.len() == classes)) || (pair && transform == Transform::Probit) {
            return Err(Unsupported::new("labels that are not one integer for each score"));
        }
        let input = self.input(node, 0)?;
        let scores = self.linear(&input, transpose(coefficients, classes), intercepts.to_vec(), classes)?;
        let (scores, width) = (self.float_slots_of(&scores)?[0], classes.max(2));
        let (out, label) = (self.float_slots(width)?, self.int_slots(1)?);
        self.emit(Instruction::Classify {
            out,
            scores,
            classes: classes as u32,
            label,
            labels: labels.into(),
            transform,
        });
        Ok(vec![
            Self::fresh(Type::I64, vec![Dim::Rows], label),
            Self::fresh(Type::F32, vec![Dim::Rows, Dim::Fixed(width)], out),
        ])
    }

    // Trees.

    fn trees(&mut self, node: &Node, attributes: &Attributes<'_>, classifier: bool) -> Lowered<Vec<Value>> {
        let input = self.input(node, 0)?;
        if !matches!(input.dims.as_slice(), [Dim::Rows, Dim::Fixed(_)]) {
            return Err(Unsupported::new("this shape"));
        }
        // float64 that came from float32 is compared as float32, see [`super::forest`].
        let double = input.kind == Type::F64;
        let slots = self.float_slots_of(&Value { kind: if double { Type::F32 } else { input.kind }, ..input })?;
        let (labels, classes) = if classifier {
            let labels = attributes.ints("classlabels_int64s")?.unwrap_or_default().to_vec();
            if labels.len() < 2 {
                return Err(Unsupported::new("labels that are not two integers or more"));
            }
            let classes = labels.len();
            (labels, classes)
        } else {
            (Vec::new(), attributes.int("n_targets", 1)?.clamp(0, 1 << 12) as usize)
        };
        let what = if classifier { "class" } else { "target" };
        let forest = Forest::read(attributes, what, &slots, classes, double)?;
        let transform = transform(&attributes.string("post_transform", "NONE")?)?;
        let base = attributes.numbers("base_values", double)?;
        let aggregate = attributes.string("aggregate_function", "SUM")?;
        let average = aggregate == "AVERAGE";
        if !(aggregate == "SUM" || (average && !classifier)) {
            return Err(Unsupported::new(format!("the aggregate {aggregate}")));
        }
        let out = self.float_slots(classes)?;
        let mut values = Vec::new();
        let (finish, base) = if classifier {
            if ![0, 1, classes].contains(&base.len()) || (base.len() == 1 && classes > 2) {
                return Err(Unsupported::new("another number of base values than classes"));
            }
            let spoken = forest.spoken(classes);
            // ONNX Runtime tells a class without a score from one with the score 0.
            if spoken.iter().any(|class| class.ever && !class.always) {
                return Err(Unsupported::new("a class that some rows have no score of"));
            }
            let scored: Vec<bool> = spoken.iter().map(|class| class.ever).collect();
            // ONNX Runtime leaves the second probability unwritten.
            if transform == Transform::Probit && classes == 2 && !scored[1] && base.len() < 2 {
                return Err(Unsupported::new("the transform PROBIT of one score for two classes"));
            }
            let label = self.int_slots(1)?;
            values.push(Self::fresh(Type::I64, vec![Dim::Rows], label));
            let binary = classes == 2 && forest.classes_named == 1;
            if !binary && classes == 2 && labels != [0, 1] {
                return Err(Unsupported::new("two classes with labels of their own"));
            }
            let all_positive = forest.all_positive;
            (Finish::Classify { labels, transform, binary, all_positive, scored, label }, base)
        } else {
            if transform != Transform::None || ![0, classes].contains(&base.len()) {
                return Err(Unsupported::new("a transform or other base values"));
            }
            (Finish::Regress { average }, base)
        };
        values.push(Self::fresh(Type::F32, vec![Dim::Rows, Dim::Fixed(classes)], out));
        let ensemble = Ensemble::new(&forest, classes, double).map_err(|e| Unsupported::new(e.to_string()))?;
        self.emit(Instruction::Trees(Box::new(Trees { ensemble, finish, double, base, out })));
        Ok(values)
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

/// A matrix of `height` rows turned into one of as many columns; whatever does not fit is left as it is, and refused later.
fn transpose(matrix: &[f32], height: usize) -> Vec<f32> {
    if height == 0 || !matrix.len().is_multiple_of(height) {
        return matrix.to_vec();
    }
    let width = matrix.len() / height;
    (0..matrix.len()).map(|i| matrix[i % height * width + i / height]).collect()
}

/// Elements whose operands go on in even steps.
struct Run {
    at: u32,
    count: u32,
    operands: Vec<Operand>,
}

/// Cuts lists of slots into runs that are as long as can be.
fn runs(lists: &[&[u32]]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let length = lists.first().map_or(0, |list| list.len());
    let mut at = 0;
    while at < length {
        let mut count = 1;
        let step = |list: &[u32]| list.get(at + 1).map_or(0, |next| next.wrapping_sub(list[at]));
        let steps: Vec<u32> = lists.iter().map(|list| step(list)).collect();
        if steps.iter().all(|&step| step <= 1) {
            while at + count < length
                && lists
                    .iter()
                    .zip(&steps)
                    .all(|(list, step)| list[at + count].wrapping_sub(list[at + count - 1]) == *step)
            {
                count += 1;
            }
        }
        let operand =
            |(list, &step): (&&[u32], &u32)| Operand { start: list[at], step: if count > 1 { step } else { 0 } };
        let operands = lists.iter().zip(&steps).map(operand).collect();
        runs.push(Run { at: at as u32, count: count as u32, operands });
        at += count;
    }
    runs
}
