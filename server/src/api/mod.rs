//! The life of a request: route, decode, pick, run, encode.
//!
//! Knows what each path means. Does not know sockets, how models come, or how bytes are laid out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

use crate::batch::{Runner, RunnerError};
use crate::catalog::{Catalog, LoadedVersion, Picked};
use crate::monitor::Metrics;
use crate::rows::Rows;
use crate::wire::DecodeError;
use crate::{page, wire};

mod error;
mod info;
mod route;

use self::route::{Route, route};
pub use error::ApiError;

/// The body of every answer: whole, since every answer is small.
pub type Body = Full<Bytes>;

/// Carries the name of the model that answered.
const MODEL: HeaderName = HeaderName::from_static("x-model");
/// Carries the version of the model that answered.
const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

/// The largest body that is decoded on its connection's thread: some 0.2 ms, which its other connections do not notice.
const INLINE_BODY_BYTES_MAX: usize = 64 << 10;

/// How much one request may ask for.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// The largest body.
    pub body_bytes_max: usize,
    /// The most rows.
    pub rows_max: usize,
    /// From the request's head to its answer.
    pub timeout: Duration,
}

/// Answers the requests of the data port.
pub struct Api {
    catalog: Arc<ArcSwap<Catalog>>,
    runner: Runner,
    metrics: Arc<Metrics>,
    limits: RequestLimits,
}

impl Api {
    /// Answers from what `catalog` shows at the moment of each request.
    pub fn new(catalog: Arc<ArcSwap<Catalog>>, runner: Runner, metrics: Arc<Metrics>, limits: RequestLimits) -> Self {
        Self { catalog, runner, metrics, limits }
    }

    /// Answers one request. Dropping the future drops the request's work, if it has not begun.
    pub async fn answer<B>(&self, request: Request<B>, request_id: &str) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (head, body) = request.into_parts();
        let result = match route(head.uri.path()) {
            Some(Route::Predict(model)) => self.predict(&head, body, model.as_deref(), request_id).await,
            Some(Route::Page) => self.show(&head, page::index),
            Some(Route::Asset(asset)) => self.show(&head, |_| asset.response()),
            Some(Route::Info) => self.show(&head, |catalog| json(info::render(catalog))),
            None => Err(ApiError::not_found()),
        };
        result.unwrap_or_else(|error| error.into_response(request_id))
    }

    /// Stops the runner, once no request is at hand.
    pub fn stop(self) {
        self.runner.stop();
    }

    /// What `look` sees in the catalog, for who only reads.
    fn show(&self, head: &Parts, look: impl FnOnce(&Catalog) -> Response<Body>) -> Result<Response<Body>, ApiError> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method(&head.method, "GET, HEAD"));
        }
        Ok(look(&self.catalog.load()))
    }

    async fn predict<B>(
        &self,
        head: &Parts,
        body: B,
        model: Option<&str>,
        request_id: &str,
    ) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let begun = Instant::now();
        self.metrics.in_flight.inc();
        // Counts down also where the client leaves and this future is dropped.
        let _in_flight = InFlight(&self.metrics);
        let version = head.uri.query().and_then(|query| wire::query_parameter(query, "version"));
        let picked = self.catalog.load().pick(model, version.as_deref());
        let picked = picked.map_err(ApiError::from).inspect_err(|e| self.metrics.refused(None, e.status()))?;
        let result = self.run(head, body, &picked, begun, request_id).await;
        if let Err(error) = &result {
            let spec = &picked.version.spec;
            self.metrics.refused(Some((&spec.name, &spec.version)), error.status());
        }
        result
    }

    async fn run<B>(
        &self,
        head: &Parts,
        body: B,
        picked: &Picked,
        begun: Instant,
        request_id: &str,
    ) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let version = &picked.version;
        let deadline = begun + self.limits.timeout;
        let rows = match head.method {
            Method::GET | Method::HEAD => wire::decode_query(&version.signature, head.uri.query().unwrap_or_default())?,
            Method::POST => {
                check_content(head)?;
                let body = self.read(body, deadline).await?;
                self.decode(version, body).await?
            }
            ref method => return Err(ApiError::method(method, "GET, HEAD, POST")),
        };
        let count = rows.len();
        version.metrics.received(&version.spec, version.signature.layout(), &rows);
        let prediction = self.runner.run(version, rows, deadline).await.inspect_err(|error| {
            if let RunnerError::Failed(cause) = error {
                let (model, version) = (&version.spec.name, &version.spec.version);
                tracing::error!(%model, %version, request_id, %cause, "a model failed to answer");
            }
        })?;
        let spec = &version.spec;
        let body = wire::encode_answer(spec, picked.commit.as_ref(), &prediction);
        let mut response = json(body);
        let value = |text: &str| HeaderValue::from_str(text).expect("names and versions are visible ASCII");
        response.headers_mut().insert(MODEL, value(spec.name.as_str()));
        response.headers_mut().insert(MODEL_VERSION, value(&spec.version.to_string()));
        version.metrics.answered(count, begun.elapsed());
        Ok(response)
    }

    /// Dropping the future lets a decoding that has begun run to its end, which the body's bound brings soon.
    async fn decode(&self, version: &Arc<LoadedVersion>, body: Bytes) -> Result<Rows, DecodeError> {
        let rows_max = self.limits.rows_max;
        if body.len() <= INLINE_BODY_BYTES_MAX {
            return wire::decode_records(&version.signature, &body, rows_max);
        }
        let version = Arc::clone(version);
        let decode = move || wire::decode_records(&version.signature, &body, rows_max);
        tokio::task::spawn_blocking(decode).await.expect("no body makes the decoder panic")
    }

    async fn read<B>(&self, body: B, deadline: Instant) -> Result<Bytes, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let bytes_max = self.limits.body_bytes_max;
        // Refused before it is read, where its length is announced.
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(ApiError::body_too_large(bytes_max));
        }
        match tokio::time::timeout_at(deadline.into(), Limited::new(body, bytes_max).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(ApiError::body_too_large(bytes_max)),
            Ok(Err(_)) => Err(ApiError::body_lost()),
            Err(_) => Err(ApiError::body_slow()),
        }
    }
}

/// Counts a request as being answered until it is dropped.
struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// Refuses a body that says of itself that it is not JSON. `application/x-www-form-urlencoded` passes,
/// since that is what curl says of every body that it is given with `-d`.
fn check_content(head: &Parts) -> Result<(), ApiError> {
    if head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(ApiError::content_encoding());
    }
    let Some(content_type) = head.headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let readable = ["application/json", "text/json", "application/x-www-form-urlencoded"].contains(&essence.as_str());
    if readable || essence.ends_with("+json") { Ok(()) } else { Err(ApiError::content_type()) }
}

fn json(body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // An answer holds foreign text, and a form may open it in a browser.
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
