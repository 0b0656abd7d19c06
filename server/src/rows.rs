//! What a model is asked about: rows of values, as the model's input tensors take them.
//!
//! Most models take one float32 tensor with a column per feature, and their rows are that matrix; the rows of any other
//! model are its input tensors. A [`Sheet`] takes values feature by feature, as people and requests write them, and
//! encodes each as its tensor has it, without loss or not at all. Does not know requests, models or engines.

use std::cmp::Ordering;

use half::{bf16, f16};
use mainstay_models::spec::{Domain, Dtype, Feature, Input, Value};
use ndarray::{Array2, Axis};

use crate::tensor::{Datatype, Elements, Tensor};

/// Rows for one model.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Of a model whose features are the columns of one float32 tensor.
    Matrix(Array2<f32>),
    /// Of any other model: its input tensors in the card's order, each of shape `[rows, columns]`; never none.
    Tensors(Vec<Tensor>),
}

/// One value, before it is matched with a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// A number that was not written as an integer of 64 bits.
    Number(f64),
    /// An integer.
    Integer(i64),
    /// An integer above those of 64 bits with a sign.
    Large(u64),
    /// A text.
    Text(&'a str),
    /// True or false.
    Truth(bool),
    /// Anything that is a value of no feature, by its name in JSON.
    Other(&'static str),
}

/// A value that its feature does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch;

/// Where the features of a model lie in its input tensors.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Each tensor's name, and one row of it, with the defaults of its features.
    tensors: Vec<(String, Elements)>,
    /// The tensor and the column of each feature.
    places: Vec<(usize, usize)>,
    /// The columns, where the features are those of one float32 matrix.
    matrix: Option<Columns>,
}

/// The columns of one float32 matrix, in their order.
#[derive(Debug, Clone)]
struct Columns {
    defaults: Vec<f32>,
    /// The least and the greatest value of the feature's training range; of one without a range, of all numbers.
    least: Vec<f32>,
    greatest: Vec<f32>,
}

/// Rows that are being written: each begins with its features' defaults.
#[derive(Debug)]
pub struct Sheet<'l> {
    layout: &'l Layout,
    rows: usize,
    values: Values,
}

/// The values of a sheet. Nearly every request is of a matrix, which costs no more memory than its rows.
#[derive(Debug)]
enum Values {
    Matrix(Vec<f32>),
    Tensors(Vec<Elements>),
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.nrows(),
            Self::Tensors(tensors) => tensors.first().and_then(|tensor| tensor.shape().first()).copied().unwrap_or(0),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The golden rows of a card, whose features are `input`; their values are valid by the card's own promise.
    pub fn golden(input: &Input, rows: &[mainstay_models::spec::GoldenRow]) -> Self {
        let layout = Layout::new(input);
        let mut sheet = Sheet::new(&layout);
        for row in rows {
            sheet.push_row();
            for (column, (feature, value)) in input.features.iter().zip(&row.features).enumerate() {
                sheet.set(column, feature, &Cell::of(value)).expect("a card's values are of their features");
            }
        }
        sheet.finish()
    }

    /// The rows `from..to`, which must be among these.
    #[must_use]
    pub fn slice(&self, from: usize, to: usize) -> Self {
        match self {
            Self::Matrix(matrix) => Self::Matrix(matrix.slice_axis(Axis(0), (from..to).into()).to_owned()),
            Self::Tensors(tensors) => Self::Tensors(tensors.iter().map(|tensor| tensor.rows(from, to)).collect()),
        }
    }

    /// The first value that its feature does not take, where values came as tensors: the feature's place, the row, and the
    /// value in words. A category of a model of numbers is its index here.
    pub fn first_mismatch(&self, layout: &Layout, features: &[Feature]) -> Option<(usize, usize, String)> {
        let float = |value: f64, domain: &Domain| match domain {
            Domain::Category(categories) => value.fract() == 0.0 && (0.0..categories.len() as f64).contains(&value),
            _ => value.is_finite(),
        };
        let integer = |value: i128, domain: &Domain| match domain {
            Domain::Category(categories) => (0..categories.len() as i128).contains(&value),
            _ => true,
        };
        let fits = |elements: &Elements, at: usize, domain: &Domain| match elements {
            Elements::Fp16(values) => float(values[at].into(), domain),
            Elements::Bf16(values) => float(values[at].into(), domain),
            Elements::Fp32(values) => float(values[at].into(), domain),
            Elements::Fp64(values) => float(values[at], domain),
            Elements::Int8(values) => integer(values[at].into(), domain),
            Elements::Int16(values) => integer(values[at].into(), domain),
            Elements::Int32(values) => integer(values[at].into(), domain),
            Elements::Int64(values) => integer(values[at].into(), domain),
            Elements::Uint8(values) => integer(values[at].into(), domain),
            Elements::Uint16(values) => integer(values[at].into(), domain),
            Elements::Uint32(values) => integer(values[at].into(), domain),
            Elements::Uint64(values) => integer(values[at].into(), domain),
            Elements::Bytes(values) => match domain {
                Domain::Category(_) => {
                    std::str::from_utf8(&values[at]).is_ok_and(|text| domain.category_index(text).is_some())
                }
                _ => true,
            },
            Elements::Bool(_) => true,
        };
        // Nearly every request is of numbers, and all of them fit: that is seen without looking at each by itself.
        if let Self::Matrix(matrix) = self
            && features.iter().all(|feature| matches!(feature.domain, Domain::Number { .. }))
            && matrix.fold(true, |all, value| all & value.is_finite())
        {
            return None;
        }
        for row in 0..self.len() {
            for (index, (feature, &(tensor, column))) in features.iter().zip(&layout.places).enumerate() {
                let fits = match self {
                    Self::Matrix(matrix) => float(matrix[[row, column]].into(), &feature.domain),
                    Self::Tensors(tensors) => {
                        let at = row * layout.tensors[tensor].1.len() + column;
                        fits(tensors[tensor].elements(), at, &feature.domain)
                    }
                };
                if !fits {
                    return Some((index, row, self.words(layout, (tensor, column), row)));
                }
            }
        }
        None
    }

    /// One value in words.
    fn words(&self, layout: &Layout, (tensor, column): (usize, usize), row: usize) -> String {
        let tensors = match self {
            Self::Matrix(matrix) => return matrix[[row, column]].to_string(),
            Self::Tensors(tensors) => tensors,
        };
        let at = row * layout.tensors[tensor].1.len() + column;
        match tensors[tensor].elements() {
            Elements::Fp16(values) => values[at].to_string(),
            Elements::Bf16(values) => values[at].to_string(),
            Elements::Fp32(values) => values[at].to_string(),
            Elements::Fp64(values) => values[at].to_string(),
            Elements::Int64(values) => values[at].to_string(),
            Elements::Uint64(values) => values[at].to_string(),
            Elements::Bytes(values) => format!("the text \"{}\"", String::from_utf8_lossy(&values[at])),
            _ => "another value".to_owned(),
        }
    }

    /// Tells `tell` of each feature, by its place, of how many values lie outside its training range, if any do.
    pub fn each_outside(&self, layout: &Layout, features: &[Feature], mut tell: impl FnMut(usize, usize)) {
        match self {
            // Row after row, as the values lie; of most, nothing lies outside, which is seen without a look at each value.
            Self::Matrix(matrix) => {
                let columns = layout.matrix.as_ref().expect("rows of a matrix have its layout");
                for row in matrix.rows() {
                    if row.as_slice().is_some_and(|values| columns.contain(values)) {
                        continue;
                    }
                    for (index, &(_, column)) in layout.places.iter().enumerate() {
                        if !(columns.least[column]..=columns.greatest[column]).contains(&row[column]) {
                            tell(index, 1);
                        }
                    }
                }
            }
            Self::Tensors(tensors) => {
                for (index, (feature, &(tensor, column))) in features.iter().zip(&layout.places).enumerate() {
                    if let Domain::Number { min, max } = feature.domain {
                        let at = (column, layout.tensors[tensor].1.len());
                        match count_outside(tensors[tensor].elements(), at, (min, max)) {
                            0 => {}
                            count => tell(index, count),
                        }
                    }
                }
            }
        }
    }
}

/// How many elements of one column of so many lie outside `min..=max`.
fn count_outside(elements: &Elements, at: (usize, usize), (min, max): (f64, f64)) -> usize {
    fn count<T: Copy>(values: &[T], (column, width): (usize, usize), outside: impl Fn(T) -> bool) -> usize {
        values.iter().skip(column).step_by(width).filter(|value| outside(**value)).count()
    }
    // A float is compared as one of its own width: the edge itself may lie between two of them.
    fn floats<T: Copy + PartialOrd>(
        values: &[T],
        at: (usize, usize),
        (min, max): (f64, f64),
        edge: impl Fn(f64) -> T,
    ) -> usize {
        let range = edge(min)..=edge(max);
        count(values, at, |value| !range.contains(&value))
    }
    macro_rules! outside {
        ($values:expr) => {
            count($values, at, |value| !(min..=max).contains(&f64::from(value)))
        };
    }
    match elements {
        Elements::Fp16(values) => floats(values, at, (min, max), |edge| f16::from_f32(to_odd(edge))),
        Elements::Bf16(values) => floats(values, at, (min, max), |edge| bf16::from_f32(to_odd(edge))),
        Elements::Fp32(values) => floats(values, at, (min, max), |edge| edge as f32),
        Elements::Fp64(values) => outside!(values),
        Elements::Int8(values) => outside!(values),
        Elements::Int16(values) => outside!(values),
        Elements::Int32(values) => outside!(values),
        Elements::Uint8(values) => outside!(values),
        Elements::Uint16(values) => outside!(values),
        Elements::Uint32(values) => outside!(values),
        // Among numbers that a float64 rounds, a range is no more exact than it.
        Elements::Int64(values) => count(values, at, |value| !(min..=max).contains(&(value as f64))),
        Elements::Uint64(values) => count(values, at, |value| !(min..=max).contains(&(value as f64))),
        Elements::Bool(_) | Elements::Bytes(_) => 0,
    }
}

impl From<Array2<f32>> for Rows {
    fn from(matrix: Array2<f32>) -> Self {
        Self::Matrix(matrix)
    }
}

impl<'a> Cell<'a> {
    /// The value of a card.
    pub fn of(value: &'a Value) -> Self {
        match value {
            Value::Truth(truth) => Self::Truth(*truth),
            Value::Integer(integer) => match i64::try_from(*integer) {
                Ok(integer) => Self::Integer(integer),
                Err(_) => u64::try_from(*integer).map_or(Self::Other("an integer beyond 64 bits"), Self::Large),
            },
            Value::Number(number) => Self::Number(*number),
            Value::Text(text) => Self::Text(text),
        }
    }

    /// What `text` says where a value can only be written as text: in a URL, a form or a table. It is taken as `feature`
    /// takes its values, and stays a text where it cannot be.
    pub fn written(text: &'a str, feature: &Feature) -> Self {
        let trimmed = text.trim();
        match (&feature.domain, trimmed) {
            (Domain::Number { .. }, _) => {
                let integer = || trimmed.parse().map(Cell::Integer).or_else(|_| trimmed.parse().map(Cell::Large)).ok();
                let number = || trimmed.parse().map(Cell::Number).ok();
                integer().or_else(number).unwrap_or(Cell::Text(text))
            }
            (Domain::Truth, "true" | "True" | "TRUE") => Cell::Truth(true),
            (Domain::Truth, "false" | "False" | "FALSE") => Cell::Truth(false),
            (Domain::Truth | Domain::Category(_) | Domain::Text, _) => Cell::Text(text),
        }
    }

    fn float64(&self) -> Result<f64, Mismatch> {
        match *self {
            Cell::Number(number) => Ok(number),
            Cell::Integer(integer) => Ok(integer as f64),
            Cell::Large(integer) => Ok(integer as f64),
            Cell::Text(_) | Cell::Truth(_) | Cell::Other(_) => Err(Mismatch),
        }
        .and_then(|number| if number.is_finite() { Ok(number) } else { Err(Mismatch) })
    }

    /// A number that float32 cannot hold would reach the model as infinity.
    fn float32(&self) -> Result<f32, Mismatch> {
        let number = self.float64()? as f32;
        if number.is_finite() { Ok(number) } else { Err(Mismatch) }
    }

    fn float16(&self) -> Result<f16, Mismatch> {
        let number = f16::from_f32(to_odd(self.float64()?));
        if number.is_finite() { Ok(number) } else { Err(Mismatch) }
    }

    fn brain_float(&self) -> Result<bf16, Mismatch> {
        let number = bf16::from_f32(to_odd(self.float64()?));
        if number.is_finite() { Ok(number) } else { Err(Mismatch) }
    }

    /// Some writers of JSON know only floats: `3.0` is an integer, as long as a float tells it from its neighbours.
    fn integer<T: TryFrom<i128>>(&self) -> Result<T, Mismatch> {
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        let integer = match *self {
            Cell::Integer(integer) => i128::from(integer),
            Cell::Large(integer) => i128::from(integer),
            Cell::Number(number) if number.fract() == 0.0 && number.abs() < EXACT_MAX => number as i128,
            _ => return Err(Mismatch),
        };
        T::try_from(integer).map_err(|_| Mismatch)
    }
}

impl Layout {
    /// How the features of `input` lie.
    pub fn new(input: &Input) -> Self {
        let mut tensors: Vec<_> = input
            .tensors
            .iter()
            .map(|tensor| (tensor.name.clone(), Elements::zeros(Datatype::of(tensor.dtype), tensor.columns.len())))
            .collect();
        let mut places = vec![(0, 0); input.features.len()];
        for (index, tensor) in input.tensors.iter().enumerate() {
            for (column, &feature) in tensor.columns.iter().enumerate() {
                places[feature] = (index, column);
            }
        }
        for (feature, &(tensor, column)) in input.features.iter().zip(&places) {
            if let Some(default) = &feature.default {
                let row = &mut tensors[tensor].1;
                encode(row, column, feature, &Cell::of(default)).expect("a card's default is of its feature");
            }
        }
        let matrix = match tensors.first() {
            Some((_, Elements::Fp32(defaults))) if input.matrix().is_some() => Some(Columns::new(input, defaults)),
            _ => None,
        };
        Self { tensors, places, matrix }
    }
}

impl Columns {
    fn new(input: &Input, defaults: &[f32]) -> Self {
        let domains = input.tensors[0].columns.iter().map(|&feature| &input.features[feature].domain);
        let range = |domain: &Domain| match *domain {
            // A float32 is compared as one: the edge itself may lie between two of them.
            Domain::Number { min, max } => (min as f32, max as f32),
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        };
        let (least, greatest) = domains.map(range).unzip();
        Self { defaults: defaults.to_vec(), least, greatest }
    }

    /// Whether all values of a row lie in their ranges.
    fn contain(&self, row: &[f32]) -> bool {
        let mut all = true;
        for ((value, least), greatest) in row.iter().zip(&self.least).zip(&self.greatest) {
            // Without a branch, eight are compared at once.
            all &= (value >= least) & (value <= greatest);
        }
        all
    }
}

impl Layout {
    /// Whether the features are the columns of one float32 matrix.
    pub fn is_matrix(&self) -> bool {
        self.matrix.is_some()
    }

    /// The tensor and the column of a feature, by their places.
    pub fn place(&self, feature: usize) -> (usize, usize) {
        self.places[feature]
    }
}

impl<'l> Sheet<'l> {
    /// A sheet without rows.
    pub fn new(layout: &'l Layout) -> Self {
        let empty = || layout.tensors.iter().map(|(_, row)| Elements::zeros(row.datatype(), 0)).collect();
        let values = if layout.matrix.is_some() { Values::Matrix(Vec::new()) } else { Values::Tensors(empty()) };
        Self { layout, rows: 0, values }
    }

    /// How many rows have been begun.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Begins a row.
    pub fn push_row(&mut self) {
        match (&mut self.values, &self.layout.matrix) {
            (Values::Matrix(values), Some(columns)) => values.extend_from_slice(&columns.defaults),
            (Values::Matrix(_), None) => unreachable!("a sheet of a matrix has its layout"),
            (Values::Tensors(tensors), _) => {
                for (elements, (_, row)) in tensors.iter_mut().zip(&self.layout.tensors) {
                    elements.extend_from(row);
                }
            }
        }
        self.rows += 1;
    }

    /// Sets a value of the row that was begun last; `feature` is the one at the place `index`.
    pub fn set(&mut self, index: usize, feature: &Feature, cell: &Cell<'_>) -> Result<(), Mismatch> {
        self.set_in(self.rows - 1, index, feature, cell)
    }

    /// The same of the row `row`, which has been begun.
    pub fn set_in(&mut self, row: usize, index: usize, feature: &Feature, cell: &Cell<'_>) -> Result<(), Mismatch> {
        let (tensor, column) = self.layout.places[index];
        let at = row * self.layout.tensors[tensor].1.len() + column;
        match &mut self.values {
            Values::Matrix(values) => {
                values[at] = match (&feature.domain, cell) {
                    (Domain::Category(_), Cell::Text(text)) => {
                        feature.domain.category_index(text).ok_or(Mismatch)? as f32
                    }
                    (Domain::Category(_), _) => return Err(Mismatch),
                    _ => cell.float32()?,
                };
                Ok(())
            }
            Values::Tensors(tensors) => encode(&mut tensors[tensor], at, feature, cell),
        }
    }

    /// The rows.
    pub fn finish(self) -> Rows {
        let whole = "every row adds one value per column";
        let tensors = match self.values {
            Values::Matrix(values) => {
                let shape = (self.rows, self.layout.places.len());
                return Rows::Matrix(Array2::from_shape_vec(shape, values).expect(whole));
            }
            Values::Tensors(tensors) => tensors,
        };
        let tensor = |(elements, (name, row)): (Elements, &(String, Elements))| {
            Tensor::new(name, vec![self.rows, row.len()], elements).expect(whole)
        };
        Rows::Tensors(tensors.into_iter().zip(&self.layout.tensors).map(tensor).collect())
    }
}

/// A float32 that rounds to the 16 bits that `number` itself rounds to: of the two beside it, the one whose last bit is set.
///
/// The library's own conversion from 64 bits goes by way of the nearest float32 on some processors, and rounds twice.
fn to_odd(number: f64) -> f32 {
    let nearest = number as f32;
    match f64::from(nearest).partial_cmp(&number) {
        _ if nearest.to_bits() & 1 == 1 => nearest,
        Some(Ordering::Less) => nearest.next_up(),
        Some(Ordering::Greater) => nearest.next_down(),
        Some(Ordering::Equal) | None => nearest,
    }
}

fn encode(elements: &mut Elements, at: usize, feature: &Feature, cell: &Cell<'_>) -> Result<(), Mismatch> {
    if let Domain::Category(_) = feature.domain {
        let Cell::Text(text) = cell else { return Err(Mismatch) };
        let index = feature.domain.category_index(text).ok_or(Mismatch)?;
        return match feature.dtype {
            Dtype::String => put(elements, at, cell),
            _ => put(elements, at, &Cell::Integer(index as i64)),
        };
    }
    put(elements, at, cell)
}

fn put(elements: &mut Elements, at: usize, cell: &Cell<'_>) -> Result<(), Mismatch> {
    match (elements, cell) {
        (Elements::Fp16(values), _) => values[at] = cell.float16()?,
        (Elements::Bf16(values), _) => values[at] = cell.brain_float()?,
        (Elements::Fp32(values), _) => values[at] = cell.float32()?,
        (Elements::Fp64(values), _) => values[at] = cell.float64()?,
        (Elements::Int8(values), _) => values[at] = cell.integer()?,
        (Elements::Int16(values), _) => values[at] = cell.integer()?,
        (Elements::Int32(values), _) => values[at] = cell.integer()?,
        (Elements::Int64(values), _) => values[at] = cell.integer()?,
        (Elements::Uint8(values), _) => values[at] = cell.integer()?,
        (Elements::Uint16(values), _) => values[at] = cell.integer()?,
        (Elements::Uint32(values), _) => values[at] = cell.integer()?,
        (Elements::Uint64(values), _) => values[at] = cell.integer()?,
        (Elements::Bool(values), Cell::Truth(truth)) => values[at] = *truth,
        // ONNX Runtime's texts end at a zero byte.
        (Elements::Bytes(values), Cell::Text(text)) if !text.contains('\0') => values[at] = text.as_bytes().to_vec(),
        (Elements::Bool(_) | Elements::Bytes(_), _) => return Err(Mismatch),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mainstay_models::ModelSpec;

    use super::*;

    fn typed() -> Input {
        let text = include_str!("../tests/fixtures/content/columns/model.yaml");
        ModelSpec::parse("model.yaml", text.as_bytes()).unwrap().input
    }

    fn try_set(dtype: &str, cell: &Cell<'_>) -> Result<Rows, Mismatch> {
        let domain = match dtype {
            "bool" | "string" => "",
            _ => "range: [0, 1], ",
        };
        let example = match dtype {
            "bool" => "true",
            "string" => "a",
            _ => "1",
        };
        let text = std::str::from_utf8(mainstay_models::embedded::MODELS[0].spec).unwrap();
        let (start, rest) = text.split_once("input:\n").unwrap();
        let (_, rest) = rest.split_once("output:\n").unwrap();
        let (end, _) = rest.split_once("golden:\n").unwrap();
        let (_, profile) = rest.split_once("  classes:\n    - ").unwrap();
        let profiled = match domain {
            "" => "[]",
            _ => "[{name: x, edges: [0, 1], counts: [1]}]",
        };
        let card = format!(
            "{start}input:\n  features: [{{name: x, description: x, dtype: {dtype}, {domain}example: {example}}}]\noutput:\n{end}\
             golden: {{tolerance: 0.1, rows: [{{features: [{example}], label: 0, probability: [1, 0, 0]}}]}}\n\
             profile:\n  features: {profiled}\n  classes:\n    - {profile}"
        );
        let input = ModelSpec::parse("model.yaml", card.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{card}")).input;
        let layout = Layout::new(&input);
        let mut sheet = Sheet::new(&layout);
        sheet.push_row();
        sheet.set(0, &input.features[0], cell)?;
        Ok(sheet.finish())
    }

    #[test]
    fn an_integer_arrives_without_loss_or_not_at_all() {
        let set = |dtype, cell| match try_set(dtype, &cell)? {
            Rows::Tensors(tensors) => Ok(tensors[0].elements().clone()),
            Rows::Matrix(_) => panic!("{dtype} is no float32"),
        };
        let beyond = 9_007_199_254_740_993;
        assert_eq!(set("int64", Cell::Integer(beyond)), Ok(Elements::Int64(vec![beyond])));
        assert_eq!(set("int64", Cell::Integer(i64::MIN)), Ok(Elements::Int64(vec![i64::MIN])));
        assert_eq!(set("uint64", Cell::Large(u64::MAX)), Ok(Elements::Uint64(vec![u64::MAX])));
        assert_eq!(set("int64", Cell::Large(u64::MAX)), Err(Mismatch));
        assert_eq!(set("int64", Cell::Number(3.0)), Ok(Elements::Int64(vec![3])));
        // It may have been 9007199254740993.
        assert_eq!(set("int64", Cell::Number(9_007_199_254_740_992.0)), Err(Mismatch));
        assert_eq!(set("int64", Cell::Number(0.5)), Err(Mismatch));
        assert_eq!(set("int8", Cell::Integer(-128)), Ok(Elements::Int8(vec![-128])));
        assert_eq!(set("int8", Cell::Integer(128)), Err(Mismatch));
        assert_eq!(set("uint8", Cell::Integer(-1)), Err(Mismatch));
        assert_eq!(set("fp64", Cell::Number(0.1)), Ok(Elements::Fp64(vec![0.1])));
        assert_eq!(set("fp16", Cell::Number(0.1)), Ok(Elements::Fp16(vec![f16::from_bits(0x2e66)])));
        assert_eq!(set("fp16", Cell::Integer(65_519)), Ok(Elements::Fp16(vec![f16::MAX])));
        assert_eq!(set("fp16", Cell::Integer(65_520)), Err(Mismatch));
        // The nearest float32 of each lies at the middle of two float16.
        assert_eq!(set("fp16", Cell::Number(65_519.999_999_999_99)), Ok(Elements::Fp16(vec![f16::MAX])));
        assert_eq!(set("fp16", Cell::Number(-65_519.999_999_999_99)), Ok(Elements::Fp16(vec![f16::MIN])));
        assert_eq!(set("fp16", Cell::Number(1.000_488_281_251)), Ok(Elements::Fp16(vec![f16::from_bits(0x3c01)])));
        assert_eq!(set("fp16", Cell::Number(1.000_488_281_25)), Ok(Elements::Fp16(vec![f16::ONE])));
        assert_eq!(set("fp16", Cell::Number(1e300)), Err(Mismatch));
        assert_eq!(set("bf16", Cell::Number(0.1)), Ok(Elements::Bf16(vec![bf16::from_bits(0x3dcd)])));
        assert_eq!(set("bf16", Cell::Number(3.4e38)), Err(Mismatch));
        assert_eq!(set("bf16", Cell::Number(3.396_177_529_230_459e38)), Ok(Elements::Bf16(vec![bf16::MAX])));
        assert_eq!(set("bf16", Cell::Number(3.396_177_529_230_46e38)), Err(Mismatch));
        assert_eq!(set("bool", Cell::Truth(true)), Ok(Elements::Bool(vec![true])));
        assert_eq!(set("bool", Cell::Integer(1)), Err(Mismatch));
        assert_eq!(set("string", Cell::Text("é")), Ok(Elements::Bytes(vec!["é".into()])));
        assert_eq!(set("string", Cell::Text("a\0b")), Err(Mismatch));
        assert_eq!(set("string", Cell::Integer(1)), Err(Mismatch));
    }

    #[test]
    fn a_float32_model_has_a_matrix() {
        let Ok(Rows::Matrix(matrix)) = try_set("fp32", &Cell::Integer(2)) else { panic!("no matrix") };
        assert_eq!(matrix, ndarray::array![[2.0]]);
        assert!(try_set("fp32", &Cell::Number(1e39)).is_err());
    }

    #[test]
    fn values_outside_their_range_are_counted_by_column() {
        let input = typed();
        let layout = Layout::new(&input);
        let mut sheet = Sheet::new(&layout);
        let age = input.features.iter().position(|feature| feature.name == "age").unwrap();
        for value in [5, 40, 300] {
            sheet.push_row();
            sheet.set(age, &input.features[age], &Cell::Integer(value)).unwrap();
        }
        let rows = sheet.finish();
        let outside = |rows: &Rows| {
            let mut count = 0;
            rows.each_outside(&layout, &input.features, |feature, more| count += if feature == age { more } else { 0 });
            count
        };
        assert_eq!((rows.len(), outside(&rows), outside(&rows.slice(1, 2))), (3, 2, 0));

        let input = ModelSpec::parse("model.yaml", mainstay_models::embedded::MODELS[0].spec).unwrap().input;
        let rows = Rows::from(ndarray::array![[5.1, 99.0, 1.4, 0.2], [5.1, 3.5, 1.4, -1.0], [5.1, -3.5, 1.4, 0.2]]);
        let mut counts = [0; 4];
        rows.each_outside(&Layout::new(&input), &input.features, |feature, more| counts[feature] += more);
        assert_eq!(counts, [0, 2, 0, 1]);
    }
}
