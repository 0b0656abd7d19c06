//! The life of a request: route, decode, pick, run, encode.
//!
//! Knows what each path means. Does not know sockets, how models come, or how bytes are laid out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Response};
use mainstay_models::{ModelName, ModelSpec};

use crate::batch::{Place, Runner, RunnerError};
use crate::catalog::{Catalog, LoadedVersion, Picked};
use crate::engine::Prediction;
use crate::monitor::{Metrics, Phases};
use crate::reference::{self, Offered, Reference};
use crate::reload::{Orders, Status};
use crate::rows::Rows;
use crate::wire::DecodeError;
use crate::{page, wire};

mod body;
mod body_form;
mod compression;
mod error;
mod info;
pub mod oip;
mod platform;
mod route;

use self::body_form::BodyForm;
use self::compression::Coding;
use self::route::{Platform, Route, route};
pub use error::ApiError;

/// The body of every answer: whole, since every answer is small.
pub type Body = Bytes;

/// Carries the name of the model that answered.
const MODEL: HeaderName = HeaderName::from_static("x-model");
/// Carries the version of the model that answered.
const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

/// The largest body that is decoded on its connection's thread: some 0.2 ms, which its other connections do not notice.
const INLINE_BODY_BYTES_MAX: usize = 64 << 10;

/// A body beyond which a look at the queue is cheaper than decoding in vain.
const LARGE_BODY_BYTES: usize = 4 << 10;
/// How many bytes a value takes in a body of few decimals.
const VALUE_BYTES: usize = 4;

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
    /// Whether the server was told to stop, so that no new traffic should come.
    draining: Arc<AtomicBool>,
    aliases: Aliases,
    repository: Repository,
    /// How many bodies another thread has decoded.
    decoded_elsewhere: AtomicUsize,
}

/// The models beside those that answer, and who changes what is served.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    /// How it went with every version that is asked for.
    pub status: Arc<ArcSwap<Status>>,
    /// Where requests leave orders to load and unload; none where they may not.
    pub orders: Option<Orders>,
}

/// Further paths that a platform was told to ask, or tells the server to answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aliases {
    /// Answered as `/ping` is.
    pub health: Option<String>,
    /// Answered as instances for the default model.
    pub predict: Option<String>,
}

impl Aliases {
    fn route(&self, path: &str) -> Option<Route<'static>> {
        let is = |alias: &Option<String>| alias.as_deref() == Some(path);
        if is(&self.health) {
            return Some(Route::Platform(Platform::Ping));
        }
        is(&self.predict).then_some(Route::Platform(Platform::Instances))
    }
}

impl Api {
    /// Answers from what `catalog` shows at the moment of each request.
    pub fn new(
        catalog: Arc<ArcSwap<Catalog>>,
        runner: Runner,
        metrics: Arc<Metrics>,
        limits: RequestLimits,
        draining: Arc<AtomicBool>,
    ) -> Self {
        let (aliases, repository) = (Aliases::default(), Repository::default());
        let decoded_elsewhere = AtomicUsize::new(0);
        Self { catalog, runner, metrics, limits, draining, aliases, repository, decoded_elsewhere }
    }

    /// The same with further paths.
    #[must_use]
    pub fn with_aliases(self, aliases: Aliases) -> Self {
        Self { aliases, ..self }
    }

    /// The same with what is known of the models that do not answer, and with orders where requests may give them.
    #[must_use]
    pub fn with_repository(self, repository: Repository) -> Self {
        Self { repository, ..self }
    }

    /// Answers one request. Dropping the future drops the request's work, if it has not begun.
    pub async fn answer<B>(&self, head: &Parts, body: B, request_id: &str) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let route = self.aliases.route(head.uri.path()).or_else(|| route(head.uri.path()));
        let may_be_large = matches!(route, Some(Route::Predict(_) | Route::Platform(_) | Route::V2(_)));
        let result = match route {
            Some(Route::Predict(model)) => self.predict(head, body, model.as_deref(), request_id).await,
            Some(Route::Page) if wants_page(head) => {
                let base_url = base_url(head);
                self.show(head, |catalog| page::index(catalog, &base_url))
            }
            // What KServe's clients and load balancers ask; neither can use a page.
            Some(Route::Page) => self.show(head, |_| document(&serde_json::json!({ "status": "alive" }))),
            Some(Route::Asset(asset)) => self.show(head, |_| asset.response()),
            Some(Route::Platform(route)) => self.answer_platform(head, body, route, request_id).await,
            Some(Route::V2(route)) => self.answer_v2(head, body, route, request_id).await,
            Some(Route::Info) => self.show(head, |catalog| json(info::render(catalog))),
            Some(Route::Docs) => self.describe(head, page::docs),
            Some(Route::OpenApi) if head.uri.query().is_none() => {
                self.show(head, |catalog| json(catalog.documents.openapi(catalog, &self.limits, self.offered())))
            }
            Some(Route::OpenApi) => self.describe(head, |reference| json(reference::text(&reference.openapi()))),
            Some(Route::Swagger) => self.swagger(head),
            Some(Route::Postman) => {
                let base_url = base_url(head);
                self.describe(head, |reference| json(reference::text(&reference.postman(&base_url))))
            }
            None => Err(ApiError::not_found()),
        };
        let response = result.unwrap_or_else(|error| error.into_response(request_id));
        if may_be_large && compression::pays(&response) { compression::deflate(head, response).await } else { response }
    }

    /// How many requests have a worker's answer to come.
    pub(crate) fn queued(&self) -> usize {
        self.runner.callers()
    }

    /// How many times another thread has computed for a request so far.
    pub(crate) fn handed_over(&self) -> usize {
        self.runner.handed_over() + self.decoded_elsewhere.load(Ordering::Relaxed)
    }

    /// How many times a request has found no place in the queue so far.
    pub(crate) fn refused(&self) -> usize {
        self.runner.refused()
    }

    /// How much one request may ask for.
    pub fn limits(&self) -> RequestLimits {
        self.limits
    }

    /// What is served now.
    pub(crate) fn catalog(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.catalog.load()
    }

    /// Whether requests are answered, and new ones may come.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_draining() && self.catalog.load().answers()
    }

    /// What is answered beside what every server does.
    fn offered(&self) -> Offered<'_> {
        let Aliases { health, predict } = &self.aliases;
        Offered {
            may_order: self.repository.orders.is_some(),
            health_route: health.as_deref(),
            predict_route: predict.as_deref(),
        }
    }

    /// Whether the server was told to stop.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The loaded versions of a model.
    pub(crate) fn versions(&self, model: &ModelName) -> Vec<String> {
        let catalog = self.catalog.load();
        catalog
            .models
            .get(model)
            .map(|model| model.versions.keys().map(ToString::to_string).collect())
            .unwrap_or_default()
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

    /// What `look` sees in the account of all models, or of the one that the query names.
    fn describe(
        &self,
        head: &Parts,
        look: impl FnOnce(&Reference<'_>) -> Response<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let model = head.uri.query().and_then(|query| wire::query_parameter(query, "model"));
        let catalog = self.catalog.load();
        let picked = model.map(|model| catalog.pick(Some(&model), None)).transpose()?;
        let only = picked.as_ref().map(|picked| &picked.version.spec.name);
        self.show(head, |_| look(&Reference::of(&catalog, &self.limits, self.offered(), only)))
    }

    /// What Azure Machine Learning is told of the default model.
    fn swagger(&self, head: &Parts) -> Result<Response<Body>, ApiError> {
        let asked = head.uri.query().and_then(|query| wire::query_parameter(query, "version"));
        let version = match asked.as_deref() {
            None | Some("2") => 2,
            Some("3") => 3,
            Some(_) => return Err(ApiError::swagger()),
        };
        self.show(head, |catalog| {
            let reference = Reference::of(catalog, &self.limits, self.offered(), catalog.default.as_ref());
            json(reference::text(&reference.swagger(version)))
        })
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
        let _in_flight = self.metrics.begin();
        let version = head.uri.query().and_then(|query| wire::query_parameter(query, "version"));
        let picked = self.pick(model, version.as_deref())?;
        let result = self.run(head, body, &picked, begun, request_id).await;
        self.count_refusal(&picked, begun, &result);
        result
    }

    /// The version that answers a prediction; a request for one that is not there is counted as refused.
    fn pick(&self, model: Option<&str>, version: Option<&str>) -> Result<Picked, ApiError> {
        let picked = self.catalog.load().pick(model, version).map_err(ApiError::from);
        picked.inspect_err(|e| self.metrics.refused(None, e.status()))
    }

    /// Counts a request that `picked` does not answer.
    fn count_refusal<T>(&self, picked: &Picked, begun: Instant, result: &Result<T, ApiError>) {
        if let Err(error) = result {
            let spec = &picked.version.spec;
            self.metrics.refused(Some((&spec.name, &spec.version)), error.status());
            picked.version.metrics.failed(begun.elapsed());
        }
    }

    /// Runs decoded rows of a request, at `place` if need be, not after `deadline`.
    async fn run_rows(
        &self,
        picked: &Picked,
        rows: Rows,
        place: Place<'_>,
        deadline: Instant,
        request_id: &str,
        phases: &mut Phases,
    ) -> Result<Prediction, ApiError> {
        let version = &picked.version;
        version.metrics.received(&version.spec, version.signature.layout(), &rows);
        let ran = self.runner.run(version, rows, place, phases.decoded_at(), deadline).await.inspect_err(|error| {
            if let RunnerError::Failed(cause) = error {
                let (model, version) = (&version.spec.name, &version.spec.version);
                tracing::error!(%model, %version, request_id, %cause, "a model failed to answer");
            }
        })?;
        phases.ran(ran.shared_rows);
        Ok(ran.prediction)
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
        let (rows, place) = match head.method {
            Method::GET | Method::HEAD => {
                let query = head.uri.query().unwrap_or_default();
                (wire::decode_query(&version.signature, query)?, Place::default())
            }
            Method::POST => {
                let form = BodyForm::of(head)?;
                let (body, place) = self.read_rows(version, head, body, deadline).await?;
                (self.decode(version, form, body).await?, place)
            }
            ref method => return Err(ApiError::method(method, "GET, HEAD, POST")),
        };
        let mut phases = Phases::decoded(begun, rows.len());
        let prediction = self.run_rows(picked, rows, place, deadline, request_id, &mut phases).await?;
        let spec = &version.spec;
        let body = wire::encode_answer(spec, picked.commit.as_ref(), &prediction);
        let mut response = json(body);
        name_version(&mut response, spec);
        version.metrics.answered(&phases);
        Ok(response)
    }

    /// The body of a prediction, and where its rows can run. A large one that, by its length, would find no place is turned
    /// away before it is stored, where its length is announced, and else before it is decoded, which is most of what turning it
    /// away would cost.
    async fn read_rows<B>(
        &self,
        version: &LoadedVersion,
        head: &Parts,
        body: B,
        deadline: Instant,
    ) -> Result<(Bytes, Place<'_>), ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let coding = Coding::of_body(head)?;
        // One that is packed has no fewer bytes afterwards. The place is not kept: who sends slowly would keep it from others.
        let announced_bytes = body::announced_bytes(&body, self.limits.body_bytes_max)?;
        if self.find_place(version, announced_bytes).is_none() {
            if !body::is_held_back(head) {
                body::discard(body, self.limits.body_bytes_max, deadline).await?;
            }
            return Err(ApiError::overloaded());
        }
        let body = self.read(coding, body, deadline).await?;
        let place = self.find_place(version, body.len()).ok_or_else(ApiError::overloaded)?;
        Ok((body, place))
    }

    /// Where the rows of a body of so many bytes can run, if they can; a small one looks for its place once it is decoded.
    fn find_place(&self, version: &LoadedVersion, body_bytes: usize) -> Option<Place<'_>> {
        if body_bytes <= LARGE_BODY_BYTES {
            return Some(Place::default());
        }
        let rows = body_bytes / (version.spec.input.features.len() * VALUE_BYTES).max(1);
        self.runner.find_place(version, rows)
    }

    /// Dropping the future lets a decoding that has begun run to its end, which the body's bound brings soon.
    async fn decode(&self, version: &Arc<LoadedVersion>, form: BodyForm, body: Bytes) -> Result<Rows, DecodeError> {
        let rows_max = self.limits.rows_max;
        self.on_its_thread(version, body, move |version, body| form.decode(&version.signature, body, rows_max)).await
    }

    /// Decodes a body here if it is small, and else on a thread that may block.
    async fn on_its_thread<T: Send + 'static>(
        &self,
        version: &Arc<LoadedVersion>,
        body: Bytes,
        decode: impl FnOnce(&LoadedVersion, &Bytes) -> T + Send + 'static,
    ) -> T {
        if body.len() <= INLINE_BODY_BYTES_MAX {
            return decode(version, &body);
        }
        self.decoded_elsewhere.fetch_add(1, Ordering::Relaxed);
        let version = Arc::clone(version);
        tokio::task::spawn_blocking(move || decode(&version, &body)).await.expect("no body makes a decoder panic")
    }

    /// The whole body, unpacked; its bound holds before and after.
    async fn read<B>(&self, coding: Coding, body: B, deadline: Instant) -> Result<Bytes, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let bytes_max = self.limits.body_bytes_max;
        let body = body::read(body, bytes_max, deadline).await?;
        if coding == Coding::Identity { Ok(body) } else { compression::inflate(coding, body, bytes_max).await }
    }
}

/// Says in the head of an answer which version gave it.
fn name_version(response: &mut Response<Body>, spec: &ModelSpec) {
    let value = |text: &str| HeaderValue::from_str(text).expect("names and versions are visible ASCII");
    response.headers_mut().insert(MODEL, value(spec.name.as_str()));
    response.headers_mut().insert(MODEL_VERSION, value(spec.version.as_str()));
}

/// Where the client reaches this server, as far as it says so.
fn base_url(head: &Parts) -> String {
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    let authority: Option<Authority> = head.uri.authority().cloned().or(host);
    let authority = authority.filter(|authority| !authority.as_str().contains('@'));
    format!("http://{}", authority.as_ref().map_or("localhost:5000", Authority::as_str))
}

/// Whether the client is a browser, which names what it shows.
fn wants_page(head: &Parts) -> bool {
    head.headers.get(ACCEPT).is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
}

fn document(value: &serde_json::Value) -> Response<Body> {
    json(serde_json::to_vec(value).expect("a document has text keys"))
}

fn json(body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // An answer holds foreign text, and a form may open it in a browser.
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
