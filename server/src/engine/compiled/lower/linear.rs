//! What prepares values, and linear models.

use super::{Compiler, Lowered, transform};
use crate::engine::compiled::Unsupported;
use crate::engine::compiled::graph::{Attributes, Dim, Literal, Type, Value};
use crate::engine::compiled::program::{Binary, Compare, Instruction, Linear, Norm};
use crate::engine::compiled::proto::Node;
use crate::engine::compiled::transform::Transform;

/// The most values of a matrix that rows are multiplied with. Where many requests wait for a model with larger ones, ONNX Runtime
/// computes their rows together, in less time than they take here one after the other.
const PRODUCT_MAX: usize = 1 << 17;

impl Compiler {
    pub(super) fn scaler(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let (offset, scale) = (attributes.floats("offset")?, attributes.floats("scale")?);
        let input = self.input(node, 0)?;
        if offset.len() != scale.len() || offset.is_empty() {
            return Err(Unsupported::new("as many offsets as scales"));
        }
        let moved = self.binary(&input, &Value::row(offset), Binary::Sub)?;
        self.binary(&moved, &Value::row(scale), Binary::Mul)
    }

    pub(super) fn imputer(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
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

    pub(super) fn normalizer(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
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

    pub(super) fn product(&mut self, node: &Node, transposed: bool, bias: Option<Vec<f32>>) -> Lowered<Value> {
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

    pub(super) fn gemm(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
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

    pub(super) fn linear_regressor(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Value> {
        let targets = attributes.int("targets", 1)?.max(0) as usize;
        let (coefficients, intercepts) = (attributes.floats("coefficients")?, attributes.floats("intercepts")?);
        if transform(&attributes.string("post_transform", "NONE")?)? != Transform::None {
            return Err(Unsupported::new("a transform of a regression"));
        }
        let bias = if intercepts.len() == targets { intercepts.to_vec() } else { Vec::new() };
        self.linear(&self.input(node, 0)?, transpose(coefficients, targets), bias, targets)
    }

    pub(super) fn linear_classifier(&mut self, node: &Node, attributes: &Attributes<'_>) -> Lowered<Vec<Value>> {
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
}

/// A matrix of `height` rows turned into one of as many columns; whatever does not fit is left as it is, and refused later.
fn transpose(matrix: &[f32], height: usize) -> Vec<f32> {
    if height == 0 || !matrix.len().is_multiple_of(height) {
        return matrix.to_vec();
    }
    let width = matrix.len() / height;
    (0..matrix.len()).map(|i| matrix[i % height * width + i / height]).collect()
}
