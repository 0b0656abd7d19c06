//! What computes value by value, and over the values of an axis.

use super::{Compiler, Lowered};
use crate::engine::compiled::Unsupported;
use crate::engine::compiled::graph::{Attributes, Dim, Literal, Type, Value, broadcast};
use crate::engine::compiled::program::{Binary, Compare, Instruction, Operand, Reduce, Unary};
use crate::engine::compiled::proto::Node;

impl Compiler {
    pub(super) fn arithmetic(&mut self, node: &Node, op: Binary) -> Lowered<Value> {
        let mut value = self.input(node, 0)?;
        for i in 1..node.input.len() {
            value = self.binary(&value, &self.input(node, i)?, op)?;
        }
        Ok(value)
    }

    pub(super) fn binary(&mut self, a: &Value, b: &Value, op: Binary) -> Lowered<Value> {
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

    pub(super) fn unary(&mut self, node: &Node, op: Unary) -> Lowered<Value> {
        let input = self.input(node, 0)?;
        let slots = self.float_slots_of(&input)?;
        let out = self.float_slots(slots.len())?;
        for run in runs(&[&slots]) {
            self.emit(Instruction::Unary { op, out: out + run.at, a: run.operands[0], count: run.count });
        }
        Ok(Self::fresh(Type::F32, input.dims, out))
    }

    pub(super) fn comparison(&mut self, node: &Node, op: Compare, turned: bool) -> Lowered<Value> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        if turned { self.compare(&b, a, op) } else { self.compare(&a, b, op) }
    }

    pub(super) fn compare(&mut self, a: &Value, b: Value, op: Compare) -> Lowered<Value> {
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

    pub(super) fn logic(&mut self, node: &Node) -> Lowered<Value> {
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

    pub(super) fn is_nan(&mut self, node: &Node) -> Lowered<Value> {
        let input = self.input(node, 0)?;
        let slots = self.float_slots_of(&input)?;
        let out = self.int_slots(slots.len())?;
        for run in runs(&[&slots]) {
            self.emit(Instruction::IsNan { out: out + run.at, a: run.operands[0], count: run.count });
        }
        Ok(Self::fresh(Type::Bool, input.dims, out))
    }

    pub(super) fn select(&mut self, condition: &Value, a: &Value, b: &Value) -> Lowered<Value> {
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

    pub(super) fn cast(&mut self, value: Value, to: Type) -> Lowered<Value> {
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

    pub(super) fn softmax(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
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

    pub(super) fn arg_max(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
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

    pub(super) fn reduce(&mut self, node: &Node, attributes: &Attributes<'_>, op: Reduce) -> Lowered<Value> {
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
