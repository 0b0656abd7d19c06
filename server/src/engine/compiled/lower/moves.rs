//! What moves values about, which costs nothing at run time but for a table that is looked up.

use super::{Compiler, Lowered};
use crate::engine::compiled::Unsupported;
use crate::engine::compiled::graph::{Attributes, Dim, Type, Value, literal};
use crate::engine::compiled::program::Instruction;
use crate::engine::compiled::proto::Node;

impl Compiler {
    pub(super) fn concat(&mut self, node: &Node, axis: i64) -> Lowered<Value> {
        let values = (0..node.input.len()).map(|i| self.input(node, i)).collect::<Lowered<Vec<_>>>()?;
        Value::concat(&values, axis)
    }

    pub(super) fn extract(&mut self, node: &Node) -> Lowered<Value> {
        let (data, index) = (self.input(node, 0)?, self.input(node, 1)?);
        match index.known_ints() {
            Some(indices) if data.dims.len() == 2 => data.gather(1, &indices, &[Dim::Fixed(indices.len())]),
            None if data.dims.len() == 1 && index.elements.len() == 1 => {
                self.lookup(&data, &index, vec![Dim::Fixed(1), Dim::Rows])
            }
            _ => Err(Unsupported::new("these shapes")),
        }
    }

    pub(super) fn gather(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
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

    pub(super) fn constant_of_shape(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let shape = self.input(node, 0)?;
        if shape.kind != Type::Shape {
            return Err(Unsupported::new("a shape that is not that of a tensor"));
        }
        let value = attributes.tensor("value").and_then(|tensor| literal(&tensor))?;
        let [element] = value.elements.as_slice() else { return Err(Unsupported::new("more than one value")) };
        let count = shape.dims.iter().map(Dim::width).product();
        Ok(Value { kind: value.kind, dims: shape.dims, elements: vec![*element; count] })
    }

    pub(super) fn slice(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
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

    pub(super) fn split(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Vec<Value>> {
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
}
