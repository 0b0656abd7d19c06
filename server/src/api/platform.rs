//! What platforms that host models ask of a container: KServe V1, MLflow, SageMaker, Vertex AI, Azure ML.
//!
//! They differ in paths and in the form of a body; a prediction is the same. Does not know which platform this is.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use serde_json::json;

use super::route::Platform;
use super::{Api, ApiError, Body, json};
use crate::catalog::{LoadedVersion, Picked};
use crate::monitor::Phases;
use crate::rows::Rows;
use crate::wire::{self, DecodeError, Signature};

/// How a body's rows are written.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// `{"instances": […]}`, or what `/predict` reads.
    Instances,
    /// What MLflow's servers read as JSON.
    Frame,
    /// A table, with or without a row of names.
    Csv,
}

impl Api {
    /// Answers what a platform asks for.
    pub(super) async fn answer_platform<B>(
        &self,
        head: &Parts,
        body: B,
        route: Platform<'_>,
        request_id: &str,
    ) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (model, form) = match &route {
            Platform::Predict(model) => (Some(&**model), Form::Instances),
            Platform::Instances => (None, Form::Instances),
            Platform::Invocations => (None, Form::Frame),
            Platform::Explain(_) if head.method == Method::POST => return Err(ApiError::explain()),
            Platform::Explain(_) => return Err(ApiError::method(&head.method, "POST")),
            Platform::Ping => {
                let empty = self.show(head, |_| Response::new(Body::default()))?;
                return if self.is_ready() { Ok(empty) } else { Err(ApiError::not_ready()) };
            }
            Platform::Version => {
                return self.show(head, |_| {
                    let mut response = Response::new(Body::from(env!("CARGO_PKG_VERSION")));
                    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                    response
                });
            }
            Platform::Models => {
                return self.show(head, |catalog| {
                    super::document(&json!({ "models": catalog.models.keys().collect::<Vec<_>>() }))
                });
            }
            Platform::Model(model) => {
                let picked = self.catalog.load().pick(Some(model), None)?;
                let body = json!({ "name": picked.version.spec.name, "ready": true });
                return self.show(head, |_| super::document(&body));
            }
        };
        if head.method != Method::POST {
            return Err(ApiError::method(&head.method, "POST"));
        }
        let begun = Instant::now();
        let _in_flight = self.metrics.begin();
        let picked = self.pick(model, None)?;
        let result = self.predict_plainly(head, body, form, &picked, begun, request_id).await;
        self.count_refusal(&picked, begun, &result);
        result
    }

    async fn predict_plainly<B>(
        &self,
        head: &Parts,
        body: B,
        form: Form,
        picked: &Picked,
        begun: Instant,
        request_id: &str,
    ) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let version = &picked.version;
        let form = form.of_body(head)?;
        let deadline = begun + self.limits.timeout;
        let (body, place) = self.read_rows(version, head, body, deadline).await?;
        let rows = self.decode_form(version, form, body).await?;
        let mut phases = Phases::decoded(begun, rows.len());
        let answer = self.run_rows(picked, rows, place, deadline, request_id, &mut phases).await?;
        let mut response = if wants_csv(head) {
            let mut response = Response::new(Body::from(wire::encode_predictions_csv(&version.spec, &answer)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/csv"));
            response
        } else {
            json(wire::encode_predictions(&version.spec, &answer))
        };
        super::name_version(&mut response, &version.spec);
        version.metrics.answered(&phases);
        Ok(response)
    }

    async fn decode_form(&self, version: &Arc<LoadedVersion>, form: Form, body: Bytes) -> Result<Rows, DecodeError> {
        let rows_max = self.limits.rows_max;
        self.on_its_thread(version, body, move |version, body| form.decode(&version.signature, body, rows_max)).await
    }
}

impl Form {
    /// The form of a body by its Content-Type, where `self` is what JSON means; one without a type is JSON.
    fn of_body(self, head: &Parts) -> Result<Self, ApiError> {
        let Some(content_type) = head.headers.get(CONTENT_TYPE) else { return Ok(self) };
        let content_type = content_type.to_str().unwrap_or_default().to_ascii_lowercase();
        let (essence, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
        let charset = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
        if charset.is_some_and(|charset| !matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii")) {
            return Err(ApiError::content_type());
        }
        match essence.trim() {
            "application/json" | "application/x-www-form-urlencoded" => Ok(self),
            "text/csv" => Ok(Self::Csv),
            _ => Err(ApiError::content_type()),
        }
    }

    fn decode(self, signature: &Signature, body: &[u8], rows_max: usize) -> Result<Rows, DecodeError> {
        match self {
            Self::Instances => wire::decode_records(signature, body, rows_max),
            Self::Frame => wire::decode_mlflow(signature, body, rows_max),
            // SageMaker's tables have no row of names, and MLflow's have one.
            Self::Csv => wire::decode_csv(signature, body, wire::names_columns(signature, body), rows_max),
        }
    }
}

/// Whether the client wants a table and no JSON.
fn wants_csv(head: &Parts) -> bool {
    let accept = head.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split([',', ';']).next().unwrap_or_default().trim().eq_ignore_ascii_case("text/csv")
}
