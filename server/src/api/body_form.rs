//! What the body of a prediction is, by what its request says of it.

use http::header::CONTENT_TYPE;
use http::request::Parts;

use super::ApiError;
use crate::rows::Rows;
use crate::wire::{self, DecodeError, Signature};

/// The form of a body of `/predict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyForm {
    /// JSON.
    Records,
    /// A table.
    Csv {
        /// Whether its first line names the features.
        has_header: bool,
    },
    /// A form, or JSON: curl says of every body that it is given with `-d` that it is a form.
    FormOrRecords,
}

impl BodyForm {
    /// The form that the body after `head` has; one without a Content-Type is JSON.
    pub(super) fn of(head: &Parts) -> Result<Self, ApiError> {
        let Some(content_type) = head.headers.get(CONTENT_TYPE) else { return Ok(Self::Records) };
        // As nearly every client writes it.
        if content_type == "application/json" {
            return Ok(Self::Records);
        }
        let content_type = content_type.to_str().unwrap_or_default().to_ascii_lowercase();
        let (essence, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
        match essence.trim() {
            "application/x-www-form-urlencoded" => Ok(Self::FormOrRecords),
            "text/csv" => {
                // RFC 4180 has a parameter for it.
                let has_header = !parameters.split(';').any(|parameter| parameter.trim() == "header=absent");
                Ok(Self::Csv { has_header })
            }
            "application/json" | "text/json" => Ok(Self::Records),
            essence if essence.ends_with("+json") => Ok(Self::Records),
            _ => Err(ApiError::content_type()),
        }
    }

    /// The rows that `body` asks about, at most `rows_max` of them.
    pub(super) fn decode(self, signature: &Signature, body: &[u8], rows_max: usize) -> Result<Rows, DecodeError> {
        match self {
            Self::Csv { has_header } => wire::decode_csv(signature, body, has_header, rows_max),
            Self::FormOrRecords if !matches!(body.trim_ascii_start().first(), Some(b'[' | b'{')) => {
                wire::decode_form(signature, body)
            }
            Self::Records | Self::FormOrRecords => wire::decode_records(signature, body, rows_max),
        }
    }
}
