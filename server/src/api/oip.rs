//! The Open Inference Protocol over HTTP: health, metadata, statistics, and a prediction's life from bytes to bytes.
//!
//! What only reads is a document made from the catalog. Loading and unloading are refused, since git decides what is
//! served, unless the operator lets requests order it. Does not know how tensors lie in bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderName, Method, Response, StatusCode};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::compression::Coding;
use super::route::{Named, V2};
use super::{Api, ApiError, Body, document, json};
use crate::batch::Place;
use crate::catalog::{Catalog, LoadedVersion, PickError, Picked};
use crate::engine::Prediction;
use crate::monitor::{BatchStatistics, Phases};
use crate::reload::{Action, State, Status};
use crate::wire::oip::json::Answering;
use crate::wire::oip::{self, Inputs, Metadata, Request};
use crate::wire::{BODY, path_of_failure};

/// The length of the JSON before binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// The extensions of the protocol that are spoken.
const EXTENSIONS: [&str; 5] =
    ["classification", "model_configuration", "binary_tensor_data", "parameters", "statistics"];
/// The one that is spoken where requests may load and unload models.
const REPOSITORY_EXTENSION: &str = "model_repository";
/// What runs models, by the name that the protocol's clients know.
pub const PLATFORM: &str = "onnxruntime_onnx";

/// What may be said of the index that is wanted.
#[derive(Default, Deserialize)]
#[serde(default)]
struct IndexRequest {
    /// Whether only what is ready is wanted.
    ready: bool,
}

/// What may be said with an order to load or unload.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OrderRequest {
    parameters: BTreeMap<String, IgnoredAny>,
}

#[derive(Serialize)]
struct ModelBody<'a> {
    name: &'a str,
    versions: Vec<String>,
    platform: &'static str,
    #[serde(flatten)]
    metadata: &'a Metadata,
}

impl Api {
    /// Answers what is under `/v2`.
    pub(super) async fn answer_v2<B>(
        &self,
        head: &Parts,
        body: B,
        route: V2<'_>,
        request_id: &str,
    ) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (allow, is_read) = match route {
            V2::Infer(_) | V2::Index | V2::Load(_) | V2::Unload(_) | V2::SharedMemory => {
                ("POST", head.method == Method::POST)
            }
            // Changing them is refused by name below, and not as a method.
            V2::Trace(_) | V2::Logging => {
                ("GET, HEAD, POST", matches!(head.method, Method::GET | Method::HEAD | Method::POST))
            }
            _ => ("GET, HEAD", matches!(head.method, Method::GET | Method::HEAD)),
        };
        if !is_read {
            return Err(ApiError::method(&head.method, allow));
        }
        match &route {
            V2::Infer(named) => return self.infer(head, body, named, request_id).await,
            V2::Index => return self.show_index(head, body).await,
            V2::Load(model) => return self.order_from(head, body, Action::Load, model).await,
            V2::Unload(model) => return self.order_from(head, body, Action::Unload, model).await,
            _ => {}
        }
        let catalog = self.catalog.load();
        let shown = match route {
            V2::Live => json!({ "live": true, "ready": self.is_ready() }),
            V2::Ready if self.is_ready() => json!({ "live": true, "ready": true }),
            V2::Ready => {
                let mut response = document(&json!({ "live": true, "ready": false }));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return Ok(response);
            }
            V2::Server => {
                json!({ "name": "mainstay", "version": env!("CARGO_PKG_VERSION"), "extensions": self.extensions() })
            }
            V2::Models => json!({ "models": catalog.models.keys().collect::<Vec<_>>() }),
            V2::Model(named) => {
                let picked = pick(&catalog, &named)?;
                let spec = &picked.version.spec;
                let versions = self.versions(&spec.name);
                let metadata = picked.version.signature.metadata();
                let body = ModelBody { name: spec.name.as_str(), versions, platform: PLATFORM, metadata };
                serde_json::to_value(body).expect("metadata has text and numbers")
            }
            V2::ModelReady(named) => {
                let picked = pick(&catalog, &named)?;
                json!({ "name": picked.version.spec.name, "ready": true })
            }
            V2::Config(named) => config(&pick(&catalog, &named)?.version, self.limits.rows_max),
            V2::Stats(named) => json!({ "model_stats": statistics(&catalog, named.as_ref())? }),
            V2::Infer(_) | V2::Index | V2::Load(_) | V2::Unload(_) => unreachable!("these have been answered"),
            V2::Trace(_) if head.method == Method::POST => return Err(ApiError::read_only("trace settings")),
            V2::Logging if head.method == Method::POST => return Err(ApiError::read_only("log settings")),
            V2::Trace(named) => {
                named.map(|named| pick(&catalog, &named)).transpose()?;
                json!({ "trace_level": ["OFF"], "trace_rate": "0", "trace_count": "0", "log_frequency": "0",
                                    "trace_file": "" })
            }
            V2::Logging => json!({ "log_file": "", "log_info": true, "log_warning": true, "log_error": true,
                                   "log_verbose_level": 0, "log_format": "default" }),
            V2::SharedMemoryStatus | V2::SharedMemory => return Err(ApiError::shared_memory()),
        };
        Ok(document(&shown))
    }

    /// The extensions of the protocol that are spoken here.
    pub(crate) fn extensions(&self) -> Vec<&'static str> {
        let repository = self.repository.orders.as_ref().map(|_| REPOSITORY_EXTENSION);
        EXTENSIONS.into_iter().chain(repository).collect()
    }

    /// The versions of all models, or those that are ready.
    pub(crate) fn index(&self, only_ready: bool) -> Vec<IndexEntry> {
        let mut entries = index(&self.catalog.load(), &self.repository.status.load());
        entries.retain(|entry| !only_ready || entry.state == READY);
        entries
    }

    /// Has a model loaded or unloaded, where the operator lets requests do so. `overrides` are the names of parameters.
    pub(crate) async fn order<'n>(
        &self,
        action: Action,
        model: &str,
        mut overrides: impl Iterator<Item = &'n str>,
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let orders = self.repository.orders.as_ref().ok_or_else(ApiError::git_decides)?;
        if overrides.any(|name| name == "config" || name.starts_with("file:")) {
            return Err(ApiError::overrides());
        }
        let Ok(name) = model.parse() else { return Err(ApiError::unknown_model(model)) };
        Ok(orders.give(action, name, deadline).await?)
    }

    async fn show_index<B>(&self, head: &Parts, body: B) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let asked: IndexRequest = self.read_options(head, body, Instant::now() + self.limits.timeout).await?;
        Ok(document(&json!(self.index(asked.ready))))
    }

    async fn order_from<B>(
        &self,
        head: &Parts,
        body: B,
        action: Action,
        model: &str,
    ) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        // Before the body is read, which may bring a whole model.
        if self.repository.orders.is_none() {
            return Err(ApiError::git_decides());
        }
        let deadline = Instant::now() + self.limits.timeout;
        let asked: OrderRequest = self.read_options(head, body, deadline).await?;
        self.order(action, model, asked.parameters.keys().map(String::as_str), deadline).await?;
        let done = match action {
            Action::Load => "load",
            Action::Unload => "unload",
        };
        Ok(document(&json!({ "name": model, done: true })))
    }

    /// A body that may be left out.
    async fn read_options<B, T>(&self, head: &Parts, body: B, deadline: Instant) -> Result<T, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
        T: DeserializeOwned + Default,
    {
        let body = self.read(Coding::of_body(head)?, body, deadline).await?;
        match body.trim_ascii().first() {
            None => return Ok(T::default()),
            // A list would do for an object, as far as the library cares.
            Some(b'{') => {}
            Some(_) => return Err(ApiError::options(BODY, "something that begins with no brace")),
        }
        serde_json::from_slice(&body)
            .map_err(|error| ApiError::options(path_of_failure(&body, |json| T::deserialize(json)), error.to_string()))
    }

    async fn infer<B>(
        &self,
        head: &Parts,
        body: B,
        named: &Named<'_>,
        request_id: &str,
    ) -> Result<Response<Body>, ApiError>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let begun = Instant::now();
        let _in_flight = self.metrics.begin();
        let picked = self.pick(Some(&named.model), named.version.as_deref())?;
        let result = self.infer_with(head, body, &picked, begun, request_id).await;
        self.count_refusal(&picked, begun, &result);
        result
    }

    async fn infer_with<B>(
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
        let json_bytes = header_length(head)?;
        let latest = begun + self.limits.timeout;
        let (body, place) = self.read_rows(version, head, body, latest).await?;
        let rows_max = self.limits.rows_max;
        let decode = move |version: &LoadedVersion, body: &Bytes| match json_bytes {
            Some(0) => oip::json::decode_raw(version.signature.metadata(), body, rows_max),
            json_bytes => oip::json::decode(version.signature.metadata(), body, json_bytes, rows_max),
        };
        let Request { id, inputs, outputs, is_binary, timeout_us } = self.on_its_thread(version, body, decode).await?;
        let (prediction, phases) =
            self.predict_v2(picked, inputs, place, begun, sooner(latest, begun, timeout_us), request_id).await?;
        let spec = &version.spec;
        let outputs = oip::outputs(spec, version.engine.interface(), prediction, &outputs, is_binary);
        let answering = Answering { model: &spec.name, version: &spec.version, id: id.as_deref() };
        let (body, json_bytes) = oip::json::encode(answering, &outputs);
        let mut response = json(body);
        if let Some(json_bytes) = json_bytes {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(HEADER_LENGTH, json_bytes.into());
        }
        super::name_version(&mut response, spec);
        version.metrics.answered(&phases);
        Ok(response)
    }

    /// A prediction for a request that `decode` makes of what has been read, its outputs, and the request's id.
    pub(crate) async fn infer_decoded(
        &self,
        model: &str,
        version: Option<&str>,
        deadline: Instant,
        request_id: &str,
        decode: impl FnOnce(&LoadedVersion) -> Result<Request, oip::Error>,
    ) -> Result<(Picked, Option<String>, oip::Outputs), ApiError> {
        let begun = Instant::now();
        let _in_flight = self.metrics.begin();
        let picked = self.pick(Some(model), version)?;
        let answered = async {
            let version = &picked.version;
            let Request { id, inputs, outputs, is_binary, timeout_us } = decode(version)?;
            let deadline = sooner(deadline, begun, timeout_us);
            let (prediction, phases) =
                self.predict_v2(&picked, inputs, Place::default(), begun, deadline, request_id).await?;
            let outputs = oip::outputs(&version.spec, version.engine.interface(), prediction, &outputs, is_binary);
            version.metrics.answered(&phases);
            Ok((id, outputs))
        }
        .await;
        self.count_refusal(&picked, begun, &answered);
        answered.map(|(id, outputs)| (picked, id, outputs))
    }

    /// What the model says of the inputs of a checked request that has `begun`.
    async fn predict_v2(
        &self,
        picked: &Picked,
        inputs: Inputs,
        place: Place<'_>,
        begun: Instant,
        deadline: Instant,
        request_id: &str,
    ) -> Result<(Prediction, Phases), ApiError> {
        let version = &picked.version;
        let rows = oip::rows(&version.signature, version.engine.interface(), inputs)?;
        let mut phases = Phases::decoded(begun, rows.len());
        let prediction = self.run_rows(picked, rows, place, deadline, request_id, &mut phases).await?;
        Ok((prediction, phases))
    }
}

/// The deadline of a request that has `begun`: the latest that there may be, or the one that its client asks for.
fn sooner(latest: Instant, begun: Instant, timeout_us: Option<u64>) -> Instant {
    let asked = timeout_us.and_then(|us| begun.checked_add(Duration::from_micros(us)));
    asked.map_or(latest, |asked| asked.min(latest))
}

/// The version that a path names.
fn pick(catalog: &Catalog, named: &Named<'_>) -> Result<Picked, ApiError> {
    Ok(catalog.pick(Some(&named.model), named.version.as_deref())?)
}

/// How long the JSON of a body is, where the client says so.
fn header_length(head: &Parts) -> Result<Option<usize>, ApiError> {
    let Some(length) = head.headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = length.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        oip::Error::from(oip::Fault::new(HEADER_LENGTH.as_str(), "the number of bytes of the JSON", "another text"))
            .into()
    })
}

/// A model's configuration as Triton's clients read it.
pub fn config(version: &LoadedVersion, rows_max: usize) -> Value {
    let spec = &version.spec;
    let tensors = |tensors: &[oip::TensorMetadata]| {
        let tensor = |tensor: &oip::TensorMetadata| json!({ "name": tensor.name, "data_type": data_type(tensor), "dims": tensor.shape.get(1..).unwrap_or(&[]) });
        tensors.iter().map(tensor).collect::<Vec<_>>()
    };
    let metadata = version.signature.metadata();
    json!({
        "name": spec.name, "platform": PLATFORM, "backend": "onnxruntime", "version_policy": { "specific": {} },
        "max_batch_size": rows_max, "input": tensors(&metadata.inputs), "output": tensors(&metadata.outputs),
    })
}

/// A tensor's datatype as a configuration names it.
pub fn data_type(tensor: &oip::TensorMetadata) -> String {
    let name = tensor.datatype.name();
    format!("TYPE_{}", if name == "BYTES" { "STRING" } else { name })
}

/// The versions that statistics are about: of everything, of a model, or one.
pub fn counted(
    catalog: &Catalog,
    model: Option<&str>,
    version: Option<&str>,
) -> Result<Vec<Arc<LoadedVersion>>, PickError> {
    let Some(model) = model else {
        return Ok(catalog.models.values().flat_map(|model| model.versions.values().map(Arc::clone)).collect());
    };
    let picked = catalog.pick(Some(model), version)?.version;
    if version.is_some() {
        return Ok(vec![picked]);
    }
    Ok(catalog.models[&picked.spec.name].versions.values().map(Arc::clone).collect())
}

fn statistics(catalog: &Catalog, named: Option<&Named<'_>>) -> Result<Vec<Value>, ApiError> {
    let statistics = |version: Arc<LoadedVersion>| {
        let counts = version.metrics.statistics();
        let duration = |(count, ns): (u64, u64)| json!({ "count": count, "ns": ns });
        let batch = |batch: &BatchStatistics| {
            json!({ "batch_size": batch.rows, "compute_input": duration(batch.input),
                    "compute_infer": duration(batch.run), "compute_output": duration(batch.output) })
        };
        let batches: Vec<_> = counts.batches.iter().map(batch).collect();
        json!({
            "name": version.spec.name, "version": version.spec.version, "last_inference": counts.last_unix_ms,
            "inference_count": counts.rows, "execution_count": counts.runs,
            "inference_stats": {
                "success": duration(counts.success), "fail": duration(counts.fail), "queue": duration(counts.queue),
                "compute_input": duration(counts.input), "compute_infer": duration(counts.run),
                "compute_output": duration(counts.output), "cache_hit": duration((0, 0)), "cache_miss": duration((0, 0)),
            },
            "response_stats": {}, "batch_stats": batches, "memory_usage": [],
        })
    };
    let (model, version) = (named.map(|named| &*named.model), named.and_then(|named| named.version.as_deref()));
    Ok(counted(catalog, model, version)?.into_iter().map(statistics).collect())
}

/// The state of a version that answers.
const READY: &str = "READY";
/// That of one that does not.
const UNAVAILABLE: &str = "UNAVAILABLE";

/// One entry of the repository's index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct IndexEntry {
    /// The model.
    pub name: String,
    /// Its version; empty where none is known.
    pub version: String,
    /// `READY`, `LOADING` or `UNAVAILABLE`.
    pub state: &'static str,
    /// Why it is not ready.
    pub reason: Cow<'static, str>,
}

/// Every version of every model: those that answer, those that are asked for and do not, and those that are loading.
fn index(catalog: &Catalog, status: &Status) -> Vec<IndexEntry> {
    let mut entries: BTreeMap<(String, String), (&'static str, Cow<'static, str>)> = BTreeMap::new();
    for version in &status.models {
        let reason = match version.state {
            State::Held => version.reason.clone().unwrap_or_default().into(),
            State::Unloaded => "unloaded by a request".into(),
            // The whole of it may have paths of this machine.
            State::Failed => "failed its checks; the server's status says why".into(),
            State::Live => "no longer answers".into(),
        };
        entries.insert((version.name.to_string(), version.version.to_string()), (UNAVAILABLE, reason));
    }
    for version in &status.loading {
        entries.insert((version.name.to_string(), version.version.to_string()), ("LOADING", "".into()));
    }
    for (name, model) in &catalog.models {
        for version in model.versions.keys() {
            entries.insert((name.to_string(), version.to_string()), (READY, "".into()));
        }
    }
    let known: BTreeSet<String> = entries.keys().map(|(name, _)| name.clone()).collect();
    for name in catalog.models.keys().filter(|name| !known.contains(name.as_str())) {
        entries.insert((name.to_string(), String::new()), (UNAVAILABLE, "none of its versions is loaded yet".into()));
    }
    let entry = |((name, version), (state, reason))| IndexEntry { name, version, state, reason };
    entries.into_iter().map(entry).collect()
}
