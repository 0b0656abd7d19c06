//! Whether a loaded model has the inputs and outputs that its spec says.

use std::fmt;

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Classifier, Dtype, Output, OutputKind, OutputTensor};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::ROWS_PER_RUN_MAX;
use super::outputs::{Form, Labels, Names, OutputPlan, Outputs, Probabilities};
use super::sessions::{InputPlan, Plan};
use crate::tensor::Datatype;

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
    /// Any, or undeclared; or one, where the model takes one row at a time.
    Rows,
    /// This one. A model need not declare it: what a run gives is checked again.
    Fixed(usize),
    /// This one, or one: some converters declare a single column whatever a regressor gives.
    Claimed(usize),
}

/// How a model with these inputs and outputs is run as its spec says.
pub(super) fn plan(inputs: &[Outlet], outputs: &[Outlet], spec: &ModelSpec) -> Result<Plan, SignatureMismatch> {
    let expected = &spec.input.tensors;
    if inputs.len() != expected.len() {
        let names: Vec<String> = expected.iter().map(|tensor| format!("`{}`", tensor.name)).collect();
        let count = if names.len() == 1 { "one".to_owned() } else { names.len().to_string() };
        let expected = format!("exactly {count}, {}", names.join(", "));
        return Err(SignatureMismatch { part: "inputs", expected, got: names_of(inputs) });
    }
    let mut plans = Vec::with_capacity(expected.len());
    let mut one_row = false;
    for tensor in expected {
        let columns = tensor.columns.len();
        let whole = [Size::Rows, Size::Fixed(columns)];
        let list = [Size::Rows];
        let shapes: &[&[Size]] = if columns == 1 { &[&whole, &list] } else { &[&whole] };
        let declared = expect("input", inputs, &tensor.name, element(tensor.dtype), shapes)?;
        one_row |= declared.first() == Some(&1);
        plans.push(InputPlan {
            name: tensor.name.clone(),
            datatype: Datatype::of(tensor.dtype),
            columns,
            is_list: declared.len() == 1,
        });
    }
    let outputs = match &spec.output {
        Output::Classifier(classifier) => classifier_plan(outputs, classifier)?,
        Output::Tensors(tensors) => {
            Outputs::Tensors(tensors.iter().map(|tensor| output_plan(outputs, tensor)).collect::<Result<_, _>>()?)
        }
    };
    let rows_per_run = if one_row { 1 } else { ROWS_PER_RUN_MAX };
    Ok(Plan { inputs: plans, is_matrix: spec.input.matrix().is_some(), rows_per_run, outputs })
}

fn classifier_plan(outputs: &[Outlet], classifier: &Classifier) -> Result<Outputs, SignatureMismatch> {
    let Classifier { label, probability, .. } = classifier;
    let classes = &label.classes;
    let is_text = |outlet: &&Outlet| {
        matches!(outlet.dtype(), ValueType::Tensor { ty: TensorElementType::String, .. })
            && outlet.name() == label.tensor
    };
    let is_named = label.values.is_empty() && outputs.iter().any(|outlet| is_text(&outlet));
    let labels = if is_named { Labels::Names } else { Labels::Indices };
    let label_element = if labels == Labels::Names { TensorElementType::String } else { TensorElementType::Int64 };
    // Some exporters give the labels as a column.
    let shapes: [&[Size]; 2] = [&[Size::Rows], &[Size::Rows, Size::Fixed(1)]];
    expect("label output", outputs, &label.tensor, label_element, &shapes)?;
    let given = outputs.iter().find(|outlet| outlet.name() == probability.tensor).map(Outlet::dtype);
    let probabilities = match given.and_then(map_keys) {
        Some(Labels::Names) => Probabilities::Maps(Names::new(classes), Labels::Names),
        Some(Labels::Indices) => {
            let keys: Vec<String> = match label.values.as_slice() {
                [] => (0..classes.len()).map(|index| index.to_string()).collect(),
                values => values.iter().map(ToString::to_string).collect(),
            };
            Probabilities::Maps(Names::new(&keys), Labels::Indices)
        }
        None => {
            let shape = [Size::Rows, Size::Fixed(classes.len())];
            let dtype = match given {
                Some(ValueType::Tensor { ty: TensorElementType::Float16, .. }) => Dtype::Fp16,
                Some(ValueType::Tensor { ty: TensorElementType::Bfloat16, .. }) => Dtype::Bf16,
                Some(ValueType::Tensor { ty: TensorElementType::Float64, .. }) => Dtype::Fp64,
                _ => Dtype::Fp32,
            };
            expect("probability output", outputs, &probability.tensor, element(dtype), &[&shape])?;
            Probabilities::Tensor(Datatype::of(dtype))
        }
    };
    Ok(Outputs::Classifier {
        label: label.tensor.clone(),
        probability: probability.tensor.clone(),
        classes: Names::new(classes),
        labels,
        values: label.values.as_slice().into(),
        probabilities,
    })
}

fn output_plan(outputs: &[Outlet], output: &OutputTensor) -> Result<OutputPlan, SignatureMismatch> {
    let mut keys = Labels::Names;
    if let OutputKind::Map(_) = output.kind {
        let Some(outlet) = outputs.iter().find(|outlet| outlet.name() == output.tensor) else {
            let expected = format!("`{}`", output.tensor);
            return Err(SignatureMismatch { part: "output", expected, got: names_of(outputs) });
        };
        keys = map_keys(outlet.dtype()).ok_or_else(|| SignatureMismatch {
            part: "output",
            expected: format!("`{}` of maps from i64 or string to f32, one per row", output.tensor),
            got: outlet.dtype().to_string(),
        })?;
    } else {
        let whole: Vec<Size> =
            std::iter::once(Size::Rows).chain(output.shape.iter().map(|&size| Size::Claimed(size))).collect();
        let column = [Size::Rows, Size::Fixed(1)];
        let shapes: &[&[Size]] = if output.shape.is_empty() { &[&whole, &column] } else { &[&whole] };
        expect("output", outputs, &output.tensor, element(output.dtype), shapes)?;
    }
    Ok(OutputPlan {
        name: output.name.clone(),
        tensor: output.tensor.clone(),
        datatype: Datatype::of(output.dtype),
        shape: output.shape.clone(),
        form: Form::of(&output.kind, keys),
    })
}

/// The keys' kind, where a value is a sequence of maps to float32, as ZipMap makes them.
fn map_keys(value: &ValueType) -> Option<Labels> {
    let ValueType::Sequence(inner) = value else { return None };
    match **inner {
        ValueType::Map { key: TensorElementType::String, value: TensorElementType::Float32 } => Some(Labels::Names),
        ValueType::Map { key: TensorElementType::Int64, value: TensorElementType::Float32 } => Some(Labels::Indices),
        _ => None,
    }
}

fn element(dtype: Dtype) -> TensorElementType {
    match dtype {
        Dtype::Bool => TensorElementType::Bool,
        Dtype::Int8 => TensorElementType::Int8,
        Dtype::Int16 => TensorElementType::Int16,
        Dtype::Int32 => TensorElementType::Int32,
        Dtype::Int64 => TensorElementType::Int64,
        Dtype::Uint8 => TensorElementType::Uint8,
        Dtype::Uint16 => TensorElementType::Uint16,
        Dtype::Uint32 => TensorElementType::Uint32,
        Dtype::Uint64 => TensorElementType::Uint64,
        Dtype::Fp16 => TensorElementType::Float16,
        Dtype::Bf16 => TensorElementType::Bfloat16,
        Dtype::Fp32 => TensorElementType::Float32,
        Dtype::Fp64 => TensorElementType::Float64,
        Dtype::String => TensorElementType::String,
    }
}

/// Checks that `outlets` has a tensor of that name and element type, in one of `shapes`; gives the sizes that it declares.
fn expect<'o>(
    part: &'static str,
    outlets: &'o [Outlet],
    name: &str,
    element: TensorElementType,
    shapes: &[&[Size]],
) -> Result<&'o [i64], SignatureMismatch> {
    let Some(outlet) = outlets.iter().find(|outlet| outlet.name() == name) else {
        return Err(SignatureMismatch { part, expected: format!("`{name}`"), got: names_of(outlets) });
    };
    if let ValueType::Tensor { ty, shape, .. } = outlet.dtype()
        && *ty == element
        && shapes.iter().any(|sizes| {
            sizes.len() == shape.len() && sizes.iter().zip(shape.iter()).all(|(size, &declared)| size.allows(declared))
        })
    {
        return Ok(shape);
    }
    let shapes: Vec<String> = shapes.iter().map(|sizes| list(sizes)).collect();
    let expected = format!("`{name}` of {element} {}", shapes.join(" or "));
    let hint = match outlet.dtype() {
        // What the card means may be right, and only its type is left out.
        ValueType::Tensor { ty: TensorElementType::Float16, .. } if element == TensorElementType::Float32 => {
            "; say `dtype: fp16` of features and `output.tensors`, or put a Cast beside it into the graph"
        }
        ValueType::Tensor { ty: TensorElementType::Bfloat16, .. } if element == TensorElementType::Float32 => {
            "; say `dtype: bf16` of features and `output.tensors`, or put a Cast beside it into the graph"
        }
        _ => "",
    };
    Err(SignatureMismatch { part, expected, got: format!("{}{hint}", outlet.dtype()) })
}

fn names_of(outlets: &[Outlet]) -> String {
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
            // One: the model takes a row at a time, or its converter thought of one.
            Self::Rows => declared < 0 || declared == 1,
            Self::Claimed(_) if declared == 1 => true,
            Self::Fixed(size) | Self::Claimed(size) => {
                declared < 0 || usize::try_from(declared).is_ok_and(|declared| declared == *size)
            }
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows => f.write_str("any"),
            Self::Fixed(size) | Self::Claimed(size) => size.fmt(f),
        }
    }
}
