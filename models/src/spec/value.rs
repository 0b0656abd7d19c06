//! Types of numbers and texts, and values of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest text as a value of a feature or an output in a card, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// What the elements of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Dtype {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    String,
}

/// A value of a feature or an output, as people and requests write it: a category is its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Value {
    Truth(bool),
    /// Of every integer that an int64 or uint64 holds, without loss.
    Integer(i128),
    Number(f64),
    Text(String),
}

/// A value as a person writes it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RawValue {
    Truth(bool),
    Integer(i64),
    /// Above the integers of 64 bits with a sign.
    Large(u64),
    Number(f64),
    Text(String),
}

impl Dtype {
    /// Its name in a card.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp32 => "fp32",
            Self::Fp64 => "fp64",
            Self::String => "string",
        }
    }

    /// The least and the greatest integer that it holds; none where it holds other things than integers.
    pub fn integers(self) -> Option<(i128, i128)> {
        let signed = |bits: u32| Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1));
        let unsigned = |bits: u32| Some((0, (1 << bits) - 1));
        match self {
            Self::Int8 => signed(8),
            Self::Int16 => signed(16),
            Self::Int32 => signed(32),
            Self::Int64 => signed(64),
            Self::Uint8 => unsigned(8),
            Self::Uint16 => unsigned(16),
            Self::Uint32 => unsigned(32),
            Self::Uint64 => unsigned(64),
            Self::Bool | Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64 | Self::String => None,
        }
    }

    /// The bound that numbers must stay within so that they are finite as this type; none where it holds no fractions.
    pub fn end(self) -> Option<f64> {
        match self {
            // Halfway from the greatest number to what would be the next, from where rounding leads to infinity.
            Self::Fp16 => Some(65_520.0),
            Self::Bf16 => Some(3.396_177_529_230_46e38),
            Self::Fp32 => Some(3.402_823_567_797_336_6e38),
            Self::Fp64 => Some(f64::INFINITY),
            _ => None,
        }
    }

    pub(super) fn holds(self, number: f64) -> bool {
        number.abs() < self.end().unwrap_or(f64::INFINITY)
    }

    /// The greatest place in a list that it tells from its neighbours; none where no card's list is that long.
    pub(super) fn greatest_place(self) -> Option<i128> {
        match self {
            Self::Fp16 => Some(2048),
            Self::Bf16 => Some(256),
            _ => self.integers().map(|(_, greatest)| greatest),
        }
    }

    /// `raw` as a value of this type, or what would be one.
    pub(super) fn value(self, raw: &RawValue) -> Result<Value, String> {
        let number = match *raw {
            RawValue::Integer(integer) => Some(integer as f64),
            RawValue::Large(integer) => Some(integer as f64),
            RawValue::Number(number) => Some(number),
            RawValue::Truth(_) | RawValue::Text(_) => None,
        };
        let integer = match *raw {
            RawValue::Integer(integer) => Some(i128::from(integer)),
            RawValue::Large(integer) => Some(i128::from(integer)),
            _ => None,
        };
        match (self, raw) {
            _ if self.end().is_some() => match number.filter(|number| self.holds(*number)) {
                Some(number) => Ok(Value::Number(number)),
                None => Err("is not a finite number".to_owned()),
            },
            (Self::Bool, RawValue::Truth(truth)) => Ok(Value::Truth(*truth)),
            (Self::Bool, _) => Err("is neither true nor false".to_owned()),
            (Self::String, RawValue::Text(text)) if text.len() <= TEXT_BYTES_MAX && !text.contains('\0') => {
                Ok(Value::Text(text.clone()))
            }
            (Self::String, _) => Err("is not a text; put one that looks like a number in quotes".to_owned()),
            _ => match (integer, self.integers()) {
                (Some(integer), Some((least, greatest))) if (least..=greatest).contains(&integer) => {
                    Ok(Value::Integer(integer))
                }
                _ => Err(format!("is not an integer of {self}")),
            },
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Value {
    /// As people write it, without quotes. Numbers far from 1 have an exponent, and each reads back as itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truth(truth) => truth.fmt(f),
            Self::Integer(integer) => integer.fmt(f),
            Self::Number(number) if *number == 0.0 || (1e-4..1e7).contains(&number.abs()) => number.fmt(f),
            Self::Number(number) => write!(f, "{number:e}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}
