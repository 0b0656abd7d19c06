//! The one mapping from everything that can go wrong with a request to a status code and an answer.
//!
//! What the client reads says whose fault it is and what to do. What only the operator may know goes to
//! the log, with the request's id, by which the two are brought together.

use std::borrow::Cow;

use http::header::{ACCEPT_ENCODING, ALLOW, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};
use serde::Serialize;
use tonic::Code;

use super::Body;
use crate::batch::RunnerError;
use crate::catalog::PickError;
use crate::reload::OrderError;
use crate::wire::oip::{self, Fault};
use crate::wire::{DecodeError, Detail};

/// An answer that is not the one asked for.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    details: Details,
    header: Option<Header>,
}

/// What exactly is wrong, by row and feature or by its path into the request.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Details {
    Rows(Vec<Detail>),
    Paths(Vec<Fault>),
}

/// A header that belongs to a status code.
#[derive(Debug)]
enum Header {
    AcceptEncoding(&'static str),
    Allow(&'static str),
    RetryAfter(&'static str),
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    code: &'a str,
    details: &'a Details,
    request_id: &'a str,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), details: Details::Rows(Vec::new()), header: None }
    }

    /// An error that passes by itself: the client should ask again after a second.
    fn passing(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        error.header = Some(Header::RetryAfter("1"));
        error
    }

    pub(super) fn not_found() -> Self {
        let message = "there is nothing at this path; predictions are at /predict and /models/{name}/predict";
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn method(method: &Method, allow: &'static str) -> Self {
        let message = format!("{method} is not answered at this path; use {allow}");
        let mut error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        error.header = Some(Header::Allow(allow));
        error
    }

    pub(super) fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("the body has more than the {bytes_max} bytes allowed; send it in parts");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    pub(super) fn body_lost() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended before it was complete")
    }

    pub(super) fn body_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_slow", "the body did not arrive in time")
    }

    pub(super) fn content_type() -> Self {
        let message =
            "this type of body is not read here; send application/json, text/csv or application/x-www-form-urlencoded";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message)
    }

    pub(super) fn content_encoding() -> Self {
        let message =
            "this coding of a body is not read here; send gzip, deflate, or the body without Content-Encoding";
        let mut error = Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", message);
        error.header = Some(Header::AcceptEncoding("gzip, deflate"));
        error
    }

    pub(super) fn body_packed(coding: &str) -> Self {
        let message = format!("the body is not {coding}, as its Content-Encoding says");
        Self::new(StatusCode::BAD_REQUEST, "content_encoding", message)
    }

    pub(crate) fn git_decides() -> Self {
        let message = "models are loaded and unloaded by a commit to the configuration repository, and not by a \
                       request, unless the server's operator allows it with --repository-control";
        Self::new(StatusCode::FORBIDDEN, "git_decides", message)
    }

    pub(super) fn overrides() -> Self {
        let message =
            "a model's configuration and files come from where its server loads it from, and not from a request";
        Self::new(StatusCode::FORBIDDEN, "overrides", message)
    }

    pub(super) fn unknown_model(name: &str) -> Self {
        let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        Self::new(StatusCode::NOT_FOUND, "unknown_model", format!("there is no model `{name}`"))
    }

    /// A body of options that is none.
    pub(super) fn options(path: impl Into<String>, got: impl Into<String>) -> Self {
        let fault = Fault::new(path, "an object of options", got);
        let message = fault.to_string();
        Self { details: Details::Paths(vec![fault]), ..Self::new(StatusCode::BAD_REQUEST, "malformed", message) }
    }

    pub(super) fn swagger() -> Self {
        let message = "there is no such version of this document; ask for version=2 or version=3";
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn not_ready() -> Self {
        Self::passing("not_loaded", "no model answers yet, or the server is stopping")
    }

    pub(super) fn read_only(what: &str) -> Self {
        let message =
            format!("the {what} cannot be changed by a request; its operator sets them when the server starts");
        Self::new(StatusCode::FORBIDDEN, "read_only", message)
    }

    pub(super) fn explain() -> Self {
        let message = "explanations are not made here; send the model's explainer to a server of its own";
        Self::new(StatusCode::NOT_IMPLEMENTED, "explain", message)
    }

    pub(super) fn shared_memory() -> Self {
        let message = "tensors in shared memory are not read here; send them in the request";
        Self::new(StatusCode::NOT_IMPLEMENTED, "shared_memory", message)
    }

    /// The server has as many requests at hand as it may.
    pub fn overloaded() -> Self {
        Self::passing("overloaded", "the server has as many requests as it can answer; try again in a second")
    }

    fn internal() -> Self {
        let message = "the server failed to answer; its operator finds the reason in the log under the request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// The status code of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer.
    pub fn into_response(self, request_id: &str) -> Response<Body> {
        let Self { status, code, message, details, header } = self;
        let body = ErrorBody { error: &message, code, details: &details, request_id };
        let body = serde_json::to_vec(&body).expect("an error has only text and numbers");
        let mut response = super::json(body);
        *response.status_mut() = status;
        if let Some(header) = header {
            let (name, value) = match header {
                Header::AcceptEncoding(codings) => (ACCEPT_ENCODING, codings),
                Header::Allow(methods) => (ALLOW, methods),
                Header::RetryAfter(seconds) => (RETRY_AFTER, seconds),
            };
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> Self {
        let code = match error.status {
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
            StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
            status if status.is_client_error() => Code::InvalidArgument,
            _ => Code::Internal,
        };
        Self::new(code, error.message)
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        let message = error.to_string();
        match error {
            DecodeError::Malformed { fault, .. } => {
                let details = Details::Paths(fault.into_iter().collect());
                Self { details, ..Self::new(StatusCode::BAD_REQUEST, "malformed", message) }
            }
            DecodeError::TooManyRows { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_rows", message),
            DecodeError::Invalid(details) => {
                let details = Details::Rows(details);
                Self { details, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_rows", message) }
            }
        }
    }
}

impl From<oip::Error> for ApiError {
    fn from(error: oip::Error) -> Self {
        let message = error.to_string();
        match error {
            oip::Error::TooManyRows { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_rows", message),
            oip::Error::Invalid(fault) => {
                let details = Details::Paths(vec![fault]);
                Self { details, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", message) }
            }
        }
    }
}

impl From<PickError> for ApiError {
    fn from(error: PickError) -> Self {
        let message = error.to_string();
        match error {
            PickError::Model { .. } => Self::new(StatusCode::NOT_FOUND, "unknown_model", message),
            PickError::Version { .. } => Self::new(StatusCode::NOT_FOUND, "unknown_version", message),
            PickError::Empty | PickError::Unloaded { .. } => Self::passing("not_loaded", message),
        }
    }
}

impl From<OrderError> for ApiError {
    fn from(error: OrderError) -> Self {
        let message = error.to_string();
        match error {
            OrderError::Unknown { .. } => Self::new(StatusCode::NOT_FOUND, "unknown_model", message),
            OrderError::Early => Self::passing("not_loaded", message),
            OrderError::Busy | OrderError::Stopping => Self::passing("overloaded", message),
            OrderError::Failed { .. } | OrderError::Source => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "load_failed", message)
            }
            OrderError::Late => Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", message),
        }
    }
}

impl From<RunnerError> for ApiError {
    fn from(error: RunnerError) -> Self {
        match error {
            RunnerError::Full => Self::overloaded(),
            RunnerError::Late => {
                let message = "the request's deadline passed before the model could run; it was not run";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", message)
            }
            RunnerError::Failed(_) => Self::internal(),
        }
    }
}
