//! Whether a loaded model has the inputs and outputs that its spec says.

use std::fmt;

use mainstay_models::ModelSpec;
use ort::value::{Outlet, TensorElementType, ValueType};

/// A model whose inputs or outputs are not those of its spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model's {part}: model.yaml expects {expected}, the model file has {got}")]
pub struct SignatureMismatch {
    /// What differs.
    pub part: &'static str,
    /// What the spec says.
    pub expected: String,
    /// What the model file has.
    pub got: String,
}

/// A tensor that goes in or comes out, as the model file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// What its elements are, such as `f32`; none for what is no tensor.
    pub element: Option<String>,
    /// Its sizes; none where the model leaves one open.
    pub sizes: Vec<Option<usize>>,
    /// All of that in the words of errors.
    pub words: String,
}

/// What goes into a model and what comes out of it, by its file alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// What goes in.
    pub inputs: Vec<Tensor>,
    /// What comes out.
    pub outputs: Vec<Tensor>,
}

impl Declared {
    pub(super) fn of(inputs: &[Outlet], outputs: &[Outlet]) -> Self {
        let tensor = |outlet: &Outlet| {
            let (element, sizes) = match outlet.dtype() {
                ValueType::Tensor { ty, shape, .. } => {
                    (Some(ty.to_string()), shape.iter().map(|&size| usize::try_from(size).ok()).collect())
                }
                _ => (None, Vec::new()),
            };
            Tensor { name: outlet.name().to_owned(), element, sizes, words: outlet.dtype().to_string() }
        };
        Self { inputs: inputs.iter().map(tensor).collect(), outputs: outputs.iter().map(tensor).collect() }
    }
}

/// A size of a tensor, as a model declares it.
enum Size {
    /// Any, or undeclared.
    Rows,
    /// This one. A model need not declare it: what a run gives is checked again.
    Fixed(usize),
}

pub(super) fn check(inputs: &[Outlet], outputs: &[Outlet], spec: &ModelSpec) -> Result<(), SignatureMismatch> {
    let features = Size::Fixed(spec.input.features.len());
    let classes = Size::Fixed(spec.output.label.classes.len());
    if inputs.len() != 1 {
        let expected = format!("exactly one, `{}`", spec.input.tensor);
        return Err(SignatureMismatch { part: "inputs", expected, got: names(inputs) });
    }
    let float = TensorElementType::Float32;
    let int = TensorElementType::Int64;
    expect("input", inputs, &spec.input.tensor, float, &[&[Size::Rows, features]])?;
    // Some exporters give the labels as a column.
    expect("label output", outputs, &spec.output.label.tensor, int, &[&[Size::Rows], &[Size::Rows, Size::Fixed(1)]])?;
    expect("probability output", outputs, &spec.output.probability.tensor, float, &[&[Size::Rows, classes]])
}

/// Checks that `outlets` has a tensor of that name and element type, in one of `shapes`.
fn expect(
    part: &'static str,
    outlets: &[Outlet],
    name: &str,
    element: TensorElementType,
    shapes: &[&[Size]],
) -> Result<(), SignatureMismatch> {
    let Some(outlet) = outlets.iter().find(|outlet| outlet.name() == name) else {
        return Err(SignatureMismatch { part, expected: format!("`{name}`"), got: names(outlets) });
    };
    let fits = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            *ty == element
                && shapes.iter().any(|sizes| {
                    sizes.len() == shape.len()
                        && sizes.iter().zip(shape.iter()).all(|(size, &declared)| size.allows(declared))
                })
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let shapes: Vec<String> = shapes.iter().map(|sizes| list(sizes)).collect();
    let expected = format!("`{name}` of {element} {}", shapes.join(" or "));
    Err(SignatureMismatch { part, expected, got: outlet.dtype().to_string() })
}

fn names(outlets: &[Outlet]) -> String {
    let names: Vec<String> = outlets.iter().map(|outlet| format!("`{}`", outlet.name())).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn list(sizes: &[Size]) -> String {
    let sizes: Vec<String> = sizes.iter().map(Size::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

impl Size {
    /// ONNX Runtime says -1 of a size that the model leaves open.
    fn allows(&self, declared: i64) -> bool {
        match self {
            Self::Rows => declared < 0,
            Self::Fixed(size) => declared < 0 || usize::try_from(declared).is_ok_and(|declared| declared == *size),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows => f.write_str("any"),
            Self::Fixed(size) => size.fmt(f),
        }
    }
}
