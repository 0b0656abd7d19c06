//! Bytes to rows, and answers to bytes: one file per dialect.
//!
//! Pure functions: no I/O, no clock, no model. A decoder gives either all rows of a request, encoded as the model
//! takes them, or what is wrong with them, row by row.

use std::collections::HashMap;
use std::fmt::Write as _;

use mainstay_models::ModelSpec;
use mainstay_models::spec::{Domain, Feature};
use serde::Serialize;

use self::oip::Fault;
use self::place::Place;
use self::plain::Plain;
use crate::engine::Interface;
use crate::rows::{Cell, Layout, Mismatch, Rows, Sheet};

mod answer;
mod csv;
mod cursor;
mod mlflow;
pub mod oip;
mod place;
mod plain;
mod predictions;
mod query;
mod records;

pub use answer::encode as encode_answer;
pub use csv::{decode as decode_csv, names_columns};
pub use mlflow::decode as decode_mlflow;
pub use place::{BODY, of_failure as path_of_failure};
pub use predictions::{csv as encode_predictions_csv, json as encode_predictions};
pub use query::{decode as decode_query, decode_form, parameter as query_parameter};
pub use records::decode as decode_records;

/// The most faults that one answer lists; further ones would help nobody.
const DETAILS_MAX: usize = 20;

/// Why the rows of a request cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not of the dialect's form.
    #[error("{problem}{}", at(.fault.as_ref()))]
    Malformed {
        /// What is wrong with them.
        problem: String,
        /// The same with its place, where they are JSON.
        fault: Option<Fault>,
    },
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
    /// Where in the body, such as `instances[0].age`, where it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
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

impl DecodeError {
    /// A body that is no JSON and not of its form either.
    fn malformed(problem: impl Into<String>) -> Self {
        Self::Malformed { problem: problem.into(), fault: None }
    }

    /// A body of JSON that is not what is `expected` at `path`.
    fn malformed_at(path: String, problem: String, expected: &str, got: &str) -> Self {
        Self::Malformed { problem, fault: Some(Fault::new(path, expected, excerpt(got))) }
    }
}

/// The place of a fault that is not the whole body's.
fn at(fault: Option<&Fault>) -> String {
    match fault {
        Some(Fault { path, .. }) if path != place::BODY => format!(" (in {path})"),
        _ => String::new(),
    }
}

fn invalid(details: &[Detail]) -> String {
    let Some(Detail { row, line, feature, expected, got, .. }) = details.first() else {
        return "invalid rows".to_owned();
    };
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
    layout: Layout,
    plain: Option<Plain>,
    metadata: oip::Metadata,
}

impl Signature {
    /// The signature that `spec` states.
    pub fn new(spec: &ModelSpec) -> Self {
        let features = spec.input.features.clone();
        let column_of = features.iter().enumerate().map(|(column, feature)| (feature.name.clone(), column)).collect();
        let metadata = oip::Metadata::of(&Interface::of_card(spec));
        let layout = Layout::new(&spec.input);
        let plain = Plain::new(&features, &layout);
        Self { features, column_of, layout, plain, metadata }
    }

    /// The same of a model that is loaded: its file says in which form its labels come.
    #[must_use]
    pub fn with_interface(self, interface: &Interface) -> Self {
        Self { metadata: oip::Metadata::of(interface), ..self }
    }

    /// The model's tensors.
    pub fn metadata(&self) -> &oip::Metadata {
        &self.metadata
    }

    /// Whether the model has one input, and it is called `name`.
    fn is_of_one_tensor(&self, name: &str) -> bool {
        matches!(&self.metadata.inputs[..], [input] if input.name == name)
    }

    /// The names of all features, for people.
    fn names(&self) -> String {
        let names: Vec<_> = self.features.iter().map(|feature| feature.name.as_str()).collect();
        format!("one of the features {}", names.join(", "))
    }

    /// Where the features lie in the model's tensors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What is right in `column`, in words.
    fn expected(&self, column: usize) -> String {
        let feature = &self.features[column];
        match &feature.domain {
            Domain::Number { min, max } => {
                let unit = feature.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
                let kind = match feature.dtype.integers() {
                    Some(_) => format!("an integer of {}", feature.dtype),
                    None => "a finite number".to_owned(),
                };
                format!("{kind}, usually {min} to {max}{unit}")
            }
            Domain::Category(categories) => format!("one of {}", categories.join(", ")),
            Domain::Text => "a text without zero bytes".to_owned(),
            Domain::Truth => "true or false".to_owned(),
        }
    }
}

/// The value as an error shows it: short, and never more than one line.
fn show(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Number(number) if number.is_finite() && number.abs() >= 1e16 => format!("{number:e}"),
        Cell::Number(number) => number.to_string(),
        Cell::Integer(integer) => integer.to_string(),
        Cell::Large(integer) => integer.to_string(),
        Cell::Text(text) => format!("the text \"{}\"", excerpt(text)),
        Cell::Truth(truth) => truth.to_string(),
        Cell::Other(what) => (*what).to_owned(),
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
    sheet: Sheet<'s>,
    /// Which columns the row at hand has had.
    seen: Vec<bool>,
    /// How many rows are whole; the place of the row at hand.
    rows: usize,
    /// Where the value at hand stands, in a body of JSON.
    place: Option<Place>,
    details: Vec<Detail>,
}

impl<'s> RowsBuilder<'s> {
    fn new(signature: &'s Signature, rows_max: usize) -> Self {
        let seen = vec![false; signature.features.len()];
        let sheet = Sheet::new(&signature.layout);
        Self { signature, rows_max, sheet, seen, rows: 0, place: None, details: Vec::new() }
    }

    /// Begins a row; false where there are too many.
    fn begin_row(&mut self) -> bool {
        if self.rows == self.rows_max {
            return false;
        }
        self.seen.fill(false);
        self.sheet.push_row();
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
        if let Err(Mismatch) = self.sheet.set_in(self.rows, column, &self.signature.features[column], cell) {
            self.fault(name(), self.signature.expected(column), show(cell));
        }
    }

    /// Goes to a row of which only the value in `column` comes next; false where there are too many. For bodies that have
    /// their values column by column.
    fn go_to(&mut self, row: usize, column: usize) -> bool {
        if row == self.sheet.len() {
            if row == self.rows_max {
                return false;
            }
            self.sheet.push_row();
        }
        self.rows = row;
        self.seen[column] = false;
        true
    }

    /// Ends `rows` rows that came column by column; `given` are the columns that came.
    fn end_columns(&mut self, rows: usize, given: Vec<bool>) {
        (self.rows, self.seen) = (0, given);
        if rows > 0 {
            self.note_missing();
        }
        self.rows = rows;
    }

    fn end_row(&mut self) {
        self.note_missing();
        self.rows += 1;
    }

    /// Notes the features that the row at hand lacks.
    fn note_missing(&mut self) {
        let required = |(feature, seen): (&Feature, &bool)| !seen && feature.default.is_none();
        let missing: Vec<usize> = (0..self.seen.len())
            .filter(|&column| required((&self.signature.features[column], &self.seen[column])))
            .collect();
        for column in missing {
            let name = self.signature.features[column].name.clone();
            self.fault(name, self.signature.expected(column), "nothing".to_owned());
        }
    }

    fn fault(&mut self, feature: String, expected: String, got: String) {
        if self.details.len() < DETAILS_MAX {
            let path = self.place.as_ref().map(|place| place.path(self.rows, &feature));
            self.details.push(Detail { row: self.rows, path, line: None, feature, expected, got });
        }
    }

    fn finish(self) -> Result<Rows, DecodeError> {
        if !self.details.is_empty() {
            return Err(DecodeError::Invalid(self.details));
        }
        if self.rows == 0 {
            let problem = "the request has no row; send at least one record".to_owned();
            let fault = self.place.map(|place| Fault::new(place.list(), "at least one row", "none"));
            return Err(DecodeError::Malformed { problem, fault });
        }
        Ok(self.sheet.finish())
    }
}

#[cfg(test)]
mod test_signatures {
    use super::*;

    /// The matrix that some rows are.
    pub fn matrix(rows: Rows) -> ndarray::Array2<f32> {
        match rows {
            Rows::Matrix(matrix) => matrix,
            Rows::Tensors(_) => panic!("not of one float32 tensor"),
        }
    }

    /// The signature of the shipped model `name`, newest version.
    pub fn shipped(name: &str) -> Signature {
        let shipped = mainstay_models::embedded::MODELS.iter().rev().find(|model| model.name == name).unwrap();
        Signature::new(&ModelSpec::parse("model.yaml", shipped.spec).unwrap())
    }
}
