//! A tensor as the protocols and ONNX models know it: a name, a shape, and elements of one datatype.
//!
//! Guarantees: a [`Tensor`] has as many elements as its shape says. Does not know protocols, models or engines.

use half::{bf16, f16};
use mainstay_models::spec::Dtype;
use smallvec::SmallVec;
use smol_str::SmolStr;

/// What the elements of a tensor are, by the names of the Open Inference Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// A truth value.
    Bool,
    /// An unsigned integer of 8 bits.
    Uint8,
    /// An unsigned integer of 16 bits.
    Uint16,
    /// An unsigned integer of 32 bits.
    Uint32,
    /// An unsigned integer of 64 bits.
    Uint64,
    /// A signed integer of 8 bits.
    Int8,
    /// A signed integer of 16 bits.
    Int16,
    /// A signed integer of 32 bits.
    Int32,
    /// A signed integer of 64 bits.
    Int64,
    /// An IEEE 754 number of 16 bits.
    Fp16,
    /// An IEEE 754 number of 32 bits.
    Fp32,
    /// An IEEE 754 number of 64 bits.
    Fp64,
    /// The upper half of an IEEE 754 number of 32 bits.
    Bf16,
    /// A string of bytes.
    Bytes,
}

/// The elements of a tensor, row by row.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each is its datatype's")]
pub enum Elements {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<f16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bf16(Vec<bf16>),
    Bytes(Vec<Vec<u8>>),
}

/// The sizes of a tensor; few, and so no memory of their own.
pub type Shape = SmallVec<[usize; 4]>;

/// The tensors of an answer; a classifier's are two, and need no memory for that.
pub type Tensors = SmallVec<[Tensor; 2]>;

/// A named tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Mostly short, and then without memory of its own.
    name: SmolStr,
    shape: Shape,
    elements: Elements,
}

/// A shape and elements that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the shape {shape:?} takes another number of elements than {elements}")]
pub struct ShapeError {
    /// The shape.
    pub shape: Shape,
    /// How many elements there are.
    pub elements: usize,
}

impl Datatype {
    const NAMES: [(Self, &'static str); 14] = [
        (Self::Bool, "BOOL"),
        (Self::Uint8, "UINT8"),
        (Self::Uint16, "UINT16"),
        (Self::Uint32, "UINT32"),
        (Self::Uint64, "UINT64"),
        (Self::Int8, "INT8"),
        (Self::Int16, "INT16"),
        (Self::Int32, "INT32"),
        (Self::Int64, "INT64"),
        (Self::Fp16, "FP16"),
        (Self::Fp32, "FP32"),
        (Self::Fp64, "FP64"),
        (Self::Bf16, "BF16"),
        (Self::Bytes, "BYTES"),
    ];

    /// The protocol's name for it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(datatype, _)| *datatype == self).expect("every datatype has a name").1
    }

    /// The datatype that the protocol calls so.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(datatype, _)| *datatype)
    }

    /// The protocol's name for what a card says.
    pub fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bool => Self::Bool,
            Dtype::Int8 => Self::Int8,
            Dtype::Int16 => Self::Int16,
            Dtype::Int32 => Self::Int32,
            Dtype::Int64 => Self::Int64,
            Dtype::Uint8 => Self::Uint8,
            Dtype::Uint16 => Self::Uint16,
            Dtype::Uint32 => Self::Uint32,
            Dtype::Uint64 => Self::Uint64,
            Dtype::Fp16 => Self::Fp16,
            Dtype::Bf16 => Self::Bf16,
            Dtype::Fp32 => Self::Fp32,
            Dtype::Fp64 => Self::Fp64,
            Dtype::String => Self::Bytes,
        }
    }

    /// Whether the protocol carries its elements as bytes alone: Triton takes none of them as JSON, nor typed over gRPC.
    pub fn is_binary_only(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16)
    }

    /// How many bytes an element takes; none where they differ.
    pub fn size_bytes(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl Elements {
    /// So many zeros; of texts, empty ones.
    pub fn zeros(datatype: Datatype, count: usize) -> Self {
        match datatype {
            Datatype::Bool => Self::Bool(vec![false; count]),
            Datatype::Uint8 => Self::Uint8(vec![0; count]),
            Datatype::Uint16 => Self::Uint16(vec![0; count]),
            Datatype::Uint32 => Self::Uint32(vec![0; count]),
            Datatype::Uint64 => Self::Uint64(vec![0; count]),
            Datatype::Int8 => Self::Int8(vec![0; count]),
            Datatype::Int16 => Self::Int16(vec![0; count]),
            Datatype::Int32 => Self::Int32(vec![0; count]),
            Datatype::Int64 => Self::Int64(vec![0; count]),
            Datatype::Fp16 => Self::Fp16(vec![f16::ZERO; count]),
            Datatype::Fp32 => Self::Fp32(vec![0.0; count]),
            Datatype::Fp64 => Self::Fp64(vec![0.0; count]),
            Datatype::Bf16 => Self::Bf16(vec![bf16::ZERO; count]),
            Datatype::Bytes => Self::Bytes(vec![Vec::new(); count]),
        }
    }

    /// Copies of the elements `from..to`.
    #[must_use]
    pub fn slice(&self, from: usize, to: usize) -> Self {
        let mut slice = Self::zeros(self.datatype(), 0);
        slice.extend_from_range(self, from, to);
        slice
    }

    /// Appends copies of all of `other`, which are of the same datatype; of another one, nothing is appended.
    pub fn extend_from(&mut self, other: &Self) {
        self.extend_from_range(other, 0, other.len());
    }

    fn extend_from_range(&mut self, other: &Self, from: usize, to: usize) {
        macro_rules! extend {
            ($($kind:ident),*) => {
                match (self, other) {
                    $((Self::$kind(values), Self::$kind(more)) => values.extend_from_slice(&more[from..to]),)*
                    _ => debug_assert!(false, "elements of different datatypes"),
                }
            };
        }
        extend!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Fp32, Fp64, Bf16, Bytes);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(elements) => elements.len(),
            Self::Uint8(elements) => elements.len(),
            Self::Uint16(elements) => elements.len(),
            Self::Fp16(elements) => elements.len(),
            Self::Bf16(elements) => elements.len(),
            Self::Uint32(elements) => elements.len(),
            Self::Uint64(elements) => elements.len(),
            Self::Int8(elements) => elements.len(),
            Self::Int16(elements) => elements.len(),
            Self::Int32(elements) => elements.len(),
            Self::Int64(elements) => elements.len(),
            Self::Fp32(elements) => elements.len(),
            Self::Fp64(elements) => elements.len(),
            Self::Bytes(elements) => elements.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they are.
    pub fn datatype(&self) -> Datatype {
        match self {
            Self::Bool(_) => Datatype::Bool,
            Self::Uint8(_) => Datatype::Uint8,
            Self::Uint16(_) => Datatype::Uint16,
            Self::Uint32(_) => Datatype::Uint32,
            Self::Uint64(_) => Datatype::Uint64,
            Self::Int8(_) => Datatype::Int8,
            Self::Int16(_) => Datatype::Int16,
            Self::Int32(_) => Datatype::Int32,
            Self::Int64(_) => Datatype::Int64,
            Self::Fp16(_) => Datatype::Fp16,
            Self::Fp32(_) => Datatype::Fp32,
            Self::Fp64(_) => Datatype::Fp64,
            Self::Bf16(_) => Datatype::Bf16,
            Self::Bytes(_) => Datatype::Bytes,
        }
    }
}

impl Tensor {
    /// A tensor of `elements`, which must be as many as `shape` says.
    pub fn new(name: impl Into<SmolStr>, shape: impl Into<Shape>, elements: Elements) -> Result<Self, ShapeError> {
        let shape = shape.into();
        // A product that overflows is no number of elements that fit in memory.
        let expected = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if expected == Some(elements.len()) {
            Ok(Self { name: name.into(), shape, elements })
        } else {
            Err(ShapeError { shape, elements: elements.len() })
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its sizes, the rows first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its rows `from..to`, which must be among these.
    #[must_use]
    pub fn rows(&self, from: usize, to: usize) -> Self {
        let width = self.shape[1..].iter().product::<usize>();
        let mut shape = self.shape.clone();
        shape[0] = to - from;
        Self { name: self.name.clone(), shape, elements: self.elements.slice(from * width, to * width) }
    }

    /// Its elements, row by row.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Its elements alone.
    pub fn into_elements(self) -> Elements {
        self.elements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_has_as_many_elements_as_its_shape_says() {
        let two = || Elements::Fp32(vec![1.0, 2.0]);
        assert_eq!(Tensor::new("x", vec![2, 1], two()).unwrap().shape(), [2, 1]);
        assert!(Tensor::new("x", vec![], Elements::Bool(vec![true])).is_ok());
        assert!(Tensor::new("x", vec![usize::MAX, 0], Elements::Bytes(vec![])).is_ok());
        for wrong in [vec![3], vec![], vec![2, usize::MAX], vec![0]] {
            assert_eq!(
                Tensor::new("x", wrong.clone(), two()).unwrap_err(),
                ShapeError { shape: wrong.into(), elements: 2 }
            );
        }
    }

    #[test]
    fn each_datatype_is_known_by_its_name() {
        for (datatype, name) in Datatype::NAMES {
            assert_eq!((datatype.name(), Datatype::named(name)), (name, Some(datatype)));
        }
        assert_eq!(Datatype::named("fp32"), None);
    }
}
