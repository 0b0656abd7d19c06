//! Tensors while a graph is being compiled: which slot, or which known number, stands where.

use std::cell::RefCell;
use std::collections::HashSet;

use super::Unsupported;
use super::program::truncate;
use super::proto::{Attribute, Node, Tensor};

/// The most elements of a tensor: a table of weights may be large, but not absurd.
const KNOWN_MAX: usize = 1 << 22;

/// A size of a tensor: as many as there are rows, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dim {
    Rows,
    Fixed(usize),
}

/// What a tensor holds. `Shape` is the shape of a tensor, which may depend on the number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    F32,
    /// Only as it comes from float32, so that a slot of float32 holds it.
    F64,
    I64,
    I32,
    Bool,
    Shape,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Literal {
    F32(f32),
    F64(f64),
    I64(i64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Element {
    Slot(u32),
    Literal(Literal),
}

/// A tensor: its elements in order, without the axis of the rows, of which each has its own.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) kind: Type,
    pub(super) dims: Vec<Dim>,
    pub(super) elements: Vec<Element>,
}

impl Unsupported {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), node: None }
    }

    /// The same, of that node.
    pub(super) fn of(self, node: &Node) -> Self {
        Self { node: Some(node.op_type.clone()), ..self }
    }
}

impl Dim {
    /// How many elements of one row.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::Rows => 1,
            Self::Fixed(width) => *width,
        }
    }
}

impl Type {
    /// The type that onnx.proto numbers so.
    pub(super) fn of(number: i32) -> Result<Self, Unsupported> {
        match number {
            1 => Ok(Self::F32),
            6 => Ok(Self::I32),
            7 => Ok(Self::I64),
            9 => Ok(Self::Bool),
            11 => Ok(Self::F64),
            other => Err(Unsupported::new(format!("the element type {other}"))),
        }
    }

    pub(super) fn is_int(self) -> bool {
        matches!(self, Self::I64 | Self::I32 | Self::Bool)
    }
}

/// A tensor of the file.
pub(super) fn literal(tensor: &Tensor) -> Result<Value, Unsupported> {
    let kind = Type::of(tensor.data_type)?;
    let dims = tensor.dims.iter().map(|&dim| usize::try_from(dim).map(Dim::Fixed));
    let dims: Vec<Dim> = dims.collect::<Result<_, _>>().map_err(|_| Unsupported::new("a negative size"))?;
    let count = dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(dim.width()));
    let count = count.filter(|&count| count <= KNOWN_MAX).ok_or_else(|| Unsupported::new("so large a tensor"))?;
    let raw = &tensor.raw_data;
    let literals: Vec<Literal> = match kind {
        Type::F32 if raw.is_empty() => tensor.float_data.iter().map(|&v| Literal::F32(v)).collect(),
        Type::F32 => raw.as_chunks().0.iter().map(|&b| Literal::F32(f32::from_le_bytes(b))).collect(),
        Type::F64 if raw.is_empty() => tensor.double_data.iter().map(|&v| Literal::F64(v)).collect(),
        Type::F64 => raw.as_chunks().0.iter().map(|&b| Literal::F64(f64::from_le_bytes(b))).collect(),
        Type::I64 if raw.is_empty() => tensor.int64_data.iter().map(|&v| Literal::I64(v)).collect(),
        Type::I64 => raw.as_chunks().0.iter().map(|&b| Literal::I64(i64::from_le_bytes(b))).collect(),
        Type::I32 if !raw.is_empty() => {
            raw.as_chunks().0.iter().map(|&b| Literal::I64(i32::from_le_bytes(b).into())).collect()
        }
        Type::Bool if !raw.is_empty() => raw.iter().map(|&b| Literal::I64(i64::from(b != 0))).collect(),
        Type::I32 | Type::Bool | Type::Shape => tensor.int32_data.iter().map(|&v| Literal::I64(v.into())).collect(),
    };
    if literals.len() != count {
        return Err(Unsupported::new("another number of values than the tensor's shape says"));
    }
    Ok(Value { kind, dims, elements: literals.into_iter().map(Element::Literal).collect() })
}

/// The shape of what comes out of two shapes, element by element.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Unsupported> {
    let rank = a.len().max(b.len());
    let (a, b) = (padded(a, rank), padded(b, rank));
    let dims: Vec<Dim> = a
        .into_iter()
        .zip(b)
        .map(|pair| match pair {
            (a, b) if a == b => Ok(a),
            (dim, Dim::Fixed(1)) | (Dim::Fixed(1), dim) => Ok(dim),
            _ => Err(Unsupported::new("shapes that do not go together")),
        })
        .collect::<Result<_, _>>()?;
    if dims.iter().map(Dim::width).fold(1, usize::saturating_mul) > KNOWN_MAX {
        return Err(Unsupported::new("so large a tensor"));
    }
    // Every row with every row.
    if dims.iter().filter(|dim| **dim == Dim::Rows).count() > 1 {
        return Err(Unsupported::new("rows that meet other rows"));
    }
    Ok(dims)
}

fn padded(dims: &[Dim], rank: usize) -> Vec<Dim> {
    let mut padded = vec![Dim::Fixed(1); rank - dims.len()];
    padded.extend(dims);
    padded
}

/// All indices into a tensor of these widths, in order.
fn indices(widths: &[usize]) -> Vec<Vec<usize>> {
    widths.iter().fold(vec![Vec::new()], |indices, &width| {
        indices.iter().flat_map(|index| (0..width).map(move |i| [index.as_slice(), &[i]].concat())).collect()
    })
}

fn flat(index: &[usize], widths: &[usize]) -> usize {
    index.iter().zip(widths).fold(0, |at, (&i, &width)| at * width + i)
}

impl Value {
    pub(super) fn scalar(literal: Literal) -> Self {
        let kind = match literal {
            Literal::F32(_) => Type::F32,
            Literal::F64(_) => Type::F64,
            Literal::I64(_) => Type::I64,
        };
        Self { kind, dims: Vec::new(), elements: vec![Element::Literal(literal)] }
    }

    /// Known numbers, one for each column.
    pub(super) fn row(values: &[f32]) -> Self {
        let elements = values.iter().map(|&value| Element::Literal(Literal::F32(value))).collect();
        Self { kind: Type::F32, dims: vec![Dim::Fixed(values.len())], elements }
    }

    pub(super) fn known_ints(&self) -> Option<Vec<i64>> {
        let int = |element: &Element| match element {
            Element::Literal(Literal::I64(value)) => Some(*value),
            _ => None,
        };
        self.kind.is_int().then(|| self.elements.iter().map(int).collect()).flatten()
    }

    pub(super) fn known_floats(&self) -> Option<Vec<f32>> {
        let float = |element: &Element| match element {
            Element::Literal(Literal::F32(value)) => Some(*value),
            _ => None,
        };
        (self.kind == Type::F32).then(|| self.elements.iter().map(float).collect()).flatten()
    }

    /// A cast of numbers that are known now; none if they are not.
    pub(super) fn cast_known(&self, to: Type) -> Result<Option<Self>, Unsupported> {
        let mut elements = Vec::new();
        for element in &self.elements {
            let Element::Literal(literal) = element else { return Ok(None) };
            let number = match (*literal, to) {
                (same @ Literal::F32(_), Type::F32) | (same @ Literal::F64(_), Type::F64) => same,
                (Literal::F32(value), Type::F64) => Literal::F64(value.into()),
                (Literal::F64(value), Type::F32) => Literal::F32(value as f32),
                (Literal::F32(value), Type::I64) => Literal::I64(truncate(value)),
                (same @ Literal::I64(_), Type::I64) => same,
                (Literal::I64(value), Type::I32) if i32::try_from(value).is_ok() => Literal::I64(value),
                (Literal::I64(value), Type::F32) => Literal::F32(value as f32),
                (Literal::I64(value), Type::Bool) => Literal::I64(i64::from(value != 0)),
                _ => return Err(Unsupported::new(format!("a cast of {:?} to {to:?}", self.kind))),
            };
            elements.push(Element::Literal(number));
        }
        Ok(Some(Self { kind: to, dims: self.dims.clone(), elements }))
    }

    fn widths(&self) -> Vec<usize> {
        self.dims.iter().map(Dim::width).collect()
    }

    /// `axis` counted from the front, which must not be that of the rows.
    fn axis(&self, axis: i64) -> Result<usize, Unsupported> {
        let from_front = if axis < 0 { axis + self.dims.len() as i64 } else { axis };
        let axis = usize::try_from(from_front).ok().filter(|&axis| axis < self.dims.len());
        match axis {
            Some(axis) if self.dims[axis] != Dim::Rows => Ok(axis),
            _ => Err(Unsupported::new("an axis across the rows")),
        }
    }

    pub(super) fn width(&self, axis: i64) -> Result<usize, Unsupported> {
        Ok(self.dims[self.axis(axis)?].width())
    }

    /// Its elements as they stand in a tensor of `dims`, with which it broadcasts.
    pub(super) fn expand(&self, dims: &[Dim]) -> Self {
        let own = padded(&self.dims, dims.len());
        if own == dims {
            return Self { kind: self.kind, dims: dims.into(), elements: self.elements.clone() };
        }
        let own: Vec<usize> = own.iter().map(Dim::width).collect();
        let widths: Vec<usize> = dims.iter().map(Dim::width).collect();
        let element = |index: &Vec<usize>| {
            let index: Vec<usize> = index.iter().zip(&own).map(|(&i, &width)| i.min(width - 1)).collect();
            self.elements[flat(&index, &own)]
        };
        Self { kind: self.kind, dims: dims.into(), elements: indices(&widths).iter().map(element).collect() }
    }

    /// The elements at `at` along `axis`, which becomes `shape`.
    pub(super) fn gather(&self, axis: i64, at: &[i64], shape: &[Dim]) -> Result<Self, Unsupported> {
        let axis = self.axis(axis)?;
        let widths = self.widths();
        let width = widths[axis] as i64;
        let at: Option<Vec<usize>> = at
            .iter()
            .map(|&i| usize::try_from(if i < 0 { i + width } else { i }).ok().filter(|&i| i < widths[axis]))
            .collect();
        let at = at.ok_or_else(|| Unsupported::new("an index beyond the tensor"))?;
        let mut chosen = widths.clone();
        chosen[axis] = at.len();
        if chosen.iter().copied().fold(1, usize::saturating_mul) > KNOWN_MAX {
            return Err(Unsupported::new("so large a tensor"));
        }
        let element = |index: &Vec<usize>| {
            let mut index = index.clone();
            index[axis] = at[index[axis]];
            self.elements[flat(&index, &widths)]
        };
        let elements = indices(&chosen).iter().map(element).collect();
        let dims = [&self.dims[..axis], shape, &self.dims[axis + 1..]].concat();
        Ok(Self { kind: self.kind, dims, elements })
    }

    pub(super) fn concat(values: &[Self], axis: i64) -> Result<Self, Unsupported> {
        let [first, ..] = values else { return Err(Unsupported::new("nothing to join")) };
        let axis = first.axis(axis)?;
        let others = |value: &Self| [&value.dims[..axis], &value.dims[axis + 1..]].concat();
        let fits = |value: &Self| {
            value.kind == first.kind
                && value.dims.len() == first.dims.len()
                && value.dims[axis] != Dim::Rows
                && others(value) == others(first)
        };
        if !values.iter().all(fits) {
            return Err(Unsupported::new("shapes that do not go together"));
        }
        let inner: usize = first.dims[axis + 1..].iter().map(Dim::width).product();
        let outer: usize = first.dims[..axis].iter().map(Dim::width).product();
        if values.iter().map(|value| value.elements.len()).sum::<usize>() > KNOWN_MAX {
            return Err(Unsupported::new("so large a tensor"));
        }
        let mut elements = Vec::new();
        for block in 0..outer {
            for value in values {
                let length = value.dims[axis].width() * inner;
                elements.extend_from_slice(&value.elements[block * length..][..length]);
            }
        }
        let mut dims = first.dims.clone();
        dims[axis] = Dim::Fixed(values.iter().map(|value| value.dims[axis].width()).sum());
        Ok(Self { kind: first.kind, dims, elements })
    }

    /// The same elements in another shape. The rows must stay in front, or behind axes of one.
    pub(super) fn reshape(&self, shape: &[i64]) -> Result<Self, Unsupported> {
        let refused = || Unsupported::new("a shape that mixes rows");
        let in_front = |dims: &[Dim]| {
            let at = dims.iter().position(|dim| *dim == Dim::Rows);
            at.is_none_or(|at| dims[..at].iter().all(|dim| dim.width() == 1))
        };
        let has_rows = self.dims.contains(&Dim::Rows);
        let mut dims = Vec::new();
        for (i, &size) in shape.iter().enumerate() {
            dims.push(match size {
                0 => Some(*self.dims.get(i).ok_or_else(refused)?),
                -1 => None,
                size => Some(Dim::Fixed(usize::try_from(size).map_err(|_| refused())?)),
            });
        }
        let known: usize = dims.iter().flatten().map(Dim::width).product();
        let open = dims.iter().filter(|dim| dim.is_none()).count();
        let count = self.elements.len();
        let kept = dims.contains(&Some(Dim::Rows));
        let filled = match open {
            0 => None,
            // The open size is that of the rows, of which there is one; or it is whatever remains.
            1 if has_rows && !kept && known == count => Some(Dim::Rows),
            1 if has_rows == kept && known > 0 && count.is_multiple_of(known) => Some(Dim::Fixed(count / known)),
            _ => return Err(refused()),
        };
        let dims: Vec<Dim> = dims.into_iter().map(|dim| dim.or(filled)).collect::<Option<_>>().ok_or_else(refused)?;
        let whole: usize = dims.iter().map(Dim::width).product();
        let rows = dims.iter().filter(|dim| **dim == Dim::Rows).count();
        if whole != count || rows != usize::from(has_rows) || !in_front(&self.dims) || !in_front(&dims) {
            return Err(refused());
        }
        Ok(Self { kind: self.kind, dims, elements: self.elements.clone() })
    }

    pub(super) fn squeeze(&self, axes: Vec<i64>) -> Result<Self, Unsupported> {
        let axes: HashSet<usize> = axes.into_iter().map(|axis| self.axis(axis)).collect::<Result<_, _>>()?;
        let dropped = |i: usize| self.dims[i] == Dim::Fixed(1) && (axes.is_empty() || axes.contains(&i));
        if axes.iter().any(|&axis| !dropped(axis)) {
            return Err(Unsupported::new("an axis that is not one wide"));
        }
        let dims = (0..self.dims.len()).filter(|&i| !dropped(i)).map(|i| self.dims[i]).collect();
        Ok(Self { kind: self.kind, dims, elements: self.elements.clone() })
    }

    pub(super) fn unsqueeze(&self, axes: Vec<i64>) -> Result<Self, Unsupported> {
        let rank = (self.dims.len() + axes.len()) as i64;
        let axes: HashSet<i64> = axes.into_iter().map(|axis| if axis < 0 { axis + rank } else { axis }).collect();
        let mut old = self.dims.iter().copied();
        let dims: Option<Vec<Dim>> =
            (0..rank).map(|i| if axes.contains(&i) { Some(Dim::Fixed(1)) } else { old.next() }).collect();
        let dims = dims.ok_or_else(|| Unsupported::new("these axes"))?;
        Ok(Self { kind: self.kind, dims, elements: self.elements.clone() })
    }

    /// The shape without `axes`, and which elements meet in each element of it.
    pub(super) fn groups(&self, axes: &[i64], keep: bool) -> Result<(Vec<Dim>, Vec<Vec<usize>>), Unsupported> {
        if axes.is_empty() || self.elements.is_empty() {
            return Err(Unsupported::new("all axes at once"));
        }
        let axes: HashSet<usize> = axes.iter().map(|&axis| self.axis(axis)).collect::<Result<_, _>>()?;
        let kept: Vec<Dim> =
            (0..self.dims.len()).map(|i| if axes.contains(&i) { Dim::Fixed(1) } else { self.dims[i] }).collect();
        let (widths, small): (Vec<usize>, Vec<usize>) = (self.widths(), kept.iter().map(Dim::width).collect());
        let mut groups = vec![Vec::new(); small.iter().product()];
        for index in indices(&widths) {
            let within: Vec<usize> = index.iter().zip(&small).map(|(&i, &width)| i.min(width - 1)).collect();
            groups[flat(&within, &small)].push(flat(&index, &widths));
        }
        let dims = if keep { kept } else { (0..kept.len()).filter(|i| !axes.contains(i)).map(|i| kept[i]).collect() };
        Ok((dims, groups))
    }
}

/// A node's attributes, of which each must be asked for: one that nobody knows could mean anything.
pub(super) struct Attributes<'a> {
    all: &'a [Attribute],
    used: RefCell<HashSet<String>>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(all: &'a [Attribute]) -> Self {
        Self { all, used: RefCell::default() }
    }

    pub(super) fn all_used(&self) -> Result<(), Unsupported> {
        let used = self.used.borrow();
        match self.all.iter().find(|attribute| !used.contains(&attribute.name)) {
            Some(unknown) => Err(Unsupported::new(format!("the attribute {}", unknown.name))),
            None => Ok(()),
        }
    }

    pub(super) fn ignore(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    /// The attribute of that name, which must be of that type in onnx.proto's numbers if it says so.
    fn get(&self, name: &str, number: i32) -> Result<Option<&'a Attribute>, Unsupported> {
        self.ignore(name);
        let found = self.all.iter().find(|attribute| attribute.name == name);
        match found {
            Some(attribute) if attribute.r#type != number && attribute.r#type != 0 => {
                Err(Unsupported::new(format!("the attribute {name} of another type")))
            }
            found => Ok(found),
        }
    }

    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, Unsupported> {
        Ok(self.get(name, 1)?.map_or(default, |attribute| attribute.f))
    }

    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, Unsupported> {
        Ok(self.get(name, 2)?.map_or(default, |attribute| attribute.i))
    }

    pub(super) fn string(&self, name: &str, default: &str) -> Result<String, Unsupported> {
        let text = self.get(name, 3)?.map(|attribute| String::from_utf8_lossy(&attribute.s).into_owned());
        Ok(text.unwrap_or_else(|| default.to_owned()))
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Tensor, Unsupported> {
        let tensor = self.get(name, 4)?.and_then(|attribute| attribute.t.clone());
        tensor.ok_or_else(|| Unsupported::new(format!("no attribute {name}")))
    }

    pub(super) fn floats(&self, name: &str) -> Result<&'a [f32], Unsupported> {
        Ok(self.get(name, 6)?.map(|attribute| attribute.floats.as_slice()).unwrap_or_default())
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Unsupported> {
        Ok(self.get(name, 7)?.map(|attribute| attribute.ints.as_slice()))
    }

    pub(super) fn strings(&self, name: &str) -> Result<&'a [Vec<u8>], Unsupported> {
        Ok(self.get(name, 8)?.map(|attribute| attribute.strings.as_slice()).unwrap_or_default())
    }

    /// Floats, or the tensor `<name>_as_tensor` of the type that the trees have.
    pub(super) fn numbers(&self, name: &str, double: bool) -> Result<Vec<f64>, Unsupported> {
        let floats = self.floats(name)?;
        let name = format!("{name}_as_tensor");
        let Some(attribute) = self.get(&name, 4)? else { return Ok(floats.iter().copied().map(f64::from).collect()) };
        let value = literal(attribute.t.as_ref().ok_or_else(|| Unsupported::new(format!("no tensor {name}")))?)?;
        let expected = if double { Type::F64 } else { Type::F32 };
        if !floats.is_empty() || value.kind != expected {
            return Err(Unsupported::new(format!("the attribute {name} beside another, or of another type")));
        }
        let number = |element: &Element| match element {
            Element::Literal(Literal::F32(value)) => f64::from(*value),
            Element::Literal(Literal::F64(value)) => *value,
            _ => f64::NAN,
        };
        Ok(value.elements.iter().map(number).collect())
    }
}
