//! Bytes to rows, and answers to bytes: one file per dialect.
//!
//! Pure functions: no I/O, no clock, no model. A decoder gives either all rows of a request, encoded as the model
//! takes them, or what is wrong with them, row by row.

use std::collections::HashMap;
use std::fmt::Write as _;

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Domain, Feature};
use ndarray::Array2;
use serde::Serialize;

mod answer;
mod csv;
mod mlflow;
pub mod oip;
mod predictions;
mod query;
mod records;

pub use answer::encode as encode_answer;
pub use csv::{decode as decode_csv, names_columns};
pub use mlflow::decode as decode_mlflow;
pub use predictions::{csv as encode_predictions_csv, json as encode_predictions};
pub use query::{decode as decode_query, decode_form, parameter as query_parameter};
pub use records::decode as decode_records;

/// The most faults that one answer lists; further ones would help nobody.
const DETAILS_MAX: usize = 20;

/// Why the rows of a request cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not of the dialect's form.
    #[error("{0}")]
    Malformed(String),
    /// More rows than one request may have.
    #[error("the request has more than the {rows_max} rows allowed; send it in parts")]
    TooManyRows {
        /// The limit.
        rows_max: usize,
    },
    /// The form is right, but values are not what the model's features ask for.
    #[error("{}", invalid(.0))]
    Invalid(Vec<Detail>),
}

/// One fault of one value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detail {
    /// The row, counted from 0.
    pub row: usize,
    /// The line of the body, counted from 1, where the dialect is one of lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The feature's name as the request or the model spells it.
    pub feature: String,
    /// What would be right.
    pub expected: String,
    /// What was found.
    pub got: String,
}

fn invalid(details: &[Detail]) -> String {
    let Some(Detail { row, line, feature, expected, got }) = details.first() else { return "invalid rows".to_owned() };
    let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
    let mut text = format!("row {row}{line}, feature `{feature}`: expected {expected}, got {got}");
    if details.len() > 1 {
        let _ = write!(text, " (and {} more)", details.len() - 1);
    }
    text
}

/// A model's features, prepared for decoding.
#[derive(Debug)]
pub struct Signature {
    features: Vec<Feature>,
    column_of: HashMap<String, usize>,
    metadata: oip::Metadata,
}

/// One value of a request, before it is matched with a feature.
#[derive(Debug, Clone, PartialEq)]
enum Cell<'a> {
    Number(f64),
    Text(&'a str),
    /// Anything that is a value of no feature, by its name in JSON.
    Other(&'static str),
}

impl Signature {
    /// The signature that `spec` states.
    pub fn new(spec: &ModelSpec) -> Self {
        let features = spec.input.features.clone();
        let column_of = features.iter().enumerate().map(|(column, feature)| (feature.name.clone(), column)).collect();
        Self { features, column_of, metadata: oip::Metadata::new(spec) }
    }

    /// The model's tensors.
    pub fn metadata(&self) -> &oip::Metadata {
        &self.metadata
    }

    /// The names of all features, for people.
    fn names(&self) -> String {
        let names: Vec<_> = self.features.iter().map(|feature| feature.name.as_str()).collect();
        format!("one of the features {}", names.join(", "))
    }

    /// `cell` as the model takes it in `column`, or what was expected instead.
    fn encode(&self, column: usize, cell: &Cell<'_>) -> Result<f32, Mismatch> {
        let domain = &self.features[column].domain;
        match (domain, cell) {
            // A number that float32 cannot hold would reach the model as infinity.
            (Domain::Number { .. }, Cell::Number(number)) if (*number as f32).is_finite() => Ok(*number as f32),
            (Domain::Category(_), Cell::Text(text)) => domain.category_index(text).ok_or(Mismatch),
            _ => Err(Mismatch),
        }
    }

    /// What is right in `column`, in words.
    fn expected(&self, column: usize) -> String {
        let feature = &self.features[column];
        match &feature.domain {
            Domain::Number { min, max } => {
                let unit = feature.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
                format!("a finite number, usually {min} to {max}{unit}")
            }
            Domain::Category(categories) => format!("one of {}", categories.join(", ")),
        }
    }
}

/// A value that is not in its feature's domain.
struct Mismatch;

impl Cell<'_> {
    /// The value as an error shows it: short, and never more than one line.
    fn show(&self) -> String {
        match self {
            Cell::Number(number) if number.is_finite() && number.abs() >= 1e16 => format!("{number:e}"),
            Cell::Number(number) => number.to_string(),
            Cell::Text(text) => format!("the text \"{}\"", excerpt(text)),
            Cell::Other(what) => (*what).to_owned(),
        }
    }
}

/// Enough of a foreign text to recognise it, on one line.
fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Collects rows value by value, and with them everything that is wrong.
struct RowsBuilder<'s> {
    signature: &'s Signature,
    rows_max: usize,
    values: Vec<f32>,
    /// Which columns the row at hand has had.
    seen: Vec<bool>,
    rows: usize,
    details: Vec<Detail>,
}

impl<'s> RowsBuilder<'s> {
    fn new(signature: &'s Signature, rows_max: usize) -> Self {
        let seen = vec![false; signature.features.len()];
        Self { signature, rows_max, values: Vec::new(), seen, rows: 0, details: Vec::new() }
    }

    /// Begins a row; false where there are too many.
    fn begin_row(&mut self) -> bool {
        if self.rows == self.rows_max {
            return false;
        }
        self.seen.fill(false);
        let missing = self.signature.features.iter().map(|feature| feature.default.unwrap_or_default());
        self.values.extend(missing);
        true
    }

    /// Sets the value of the feature called `name`.
    fn set_named(&mut self, name: &str, cell: &Cell<'_>) {
        match self.signature.column_of.get(name) {
            Some(&column) => self.set(column, cell),
            None => self.unknown(name),
        }
    }

    /// Notes that there is no feature called `name`.
    fn unknown(&mut self, name: &str) {
        self.fault(excerpt(name), self.signature.names(), "an unknown feature".to_owned());
    }

    fn set(&mut self, column: usize, cell: &Cell<'_>) {
        let name = || self.signature.features[column].name.clone();
        if std::mem::replace(&mut self.seen[column], true) {
            return self.fault(name(), "each feature once".to_owned(), "it twice".to_owned());
        }
        match self.signature.encode(column, cell) {
            Ok(value) => {
                let row = self.rows * self.signature.features.len();
                self.values[row + column] = value;
            }
            Err(Mismatch) => self.fault(name(), self.signature.expected(column), cell.show()),
        }
    }

    fn end_row(&mut self) {
        let required = |(feature, seen): (&Feature, &bool)| !seen && feature.default.is_none();
        let missing: Vec<usize> = (0..self.seen.len())
            .filter(|&column| required((&self.signature.features[column], &self.seen[column])))
            .collect();
        for column in missing {
            let name = self.signature.features[column].name.clone();
            self.fault(name, self.signature.expected(column), "nothing".to_owned());
        }
        self.rows += 1;
    }

    fn fault(&mut self, feature: String, expected: String, got: String) {
        if self.details.len() < DETAILS_MAX {
            self.details.push(Detail { row: self.rows, line: None, feature, expected, got });
        }
    }

    fn finish(self) -> Result<Array2<f32>, DecodeError> {
        if !self.details.is_empty() {
            return Err(DecodeError::Invalid(self.details));
        }
        if self.rows == 0 {
            return Err(DecodeError::Malformed("the request has no row; send at least one record".to_owned()));
        }
        let shape = (self.rows, self.signature.features.len());
        Ok(Array2::from_shape_vec(shape, self.values).expect("every row begun adds one value per feature"))
    }
}

#[cfg(test)]
mod test_signatures {
    use super::*;

    /// The signature of the shipped model `name`, newest version.
    pub fn shipped(name: &str) -> Signature {
        let shipped = mainstay_models::embedded::MODELS.iter().rev().find(|model| model.name == name).unwrap();
        Signature::new(&ModelSpec::parse("model.yaml", shipped.spec).unwrap())
    }
}
