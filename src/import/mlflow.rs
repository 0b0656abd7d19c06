//! What MLflow recorded of a run: from a tracking server's REST API, from a folder of runs, or from a model's folder alone.
//!
//! Reads models of the `onnx` flavour. Others are code or need it to be loaded, and are refused. Everything that comes is
//! bounded; of the records, what is of no use to a card is not looked at.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use mainstay_models::yaml::{self, FILE_BYTES_MAX};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Recorded, RecordedMetric, RecordedRun, Target, name_and_split, seed_of};
use crate::check::ARTIFACT_BYTES_MAX;

/// How long the server may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// What stays as it is in a path of an artifact.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Takes the model of an MLflow run
///
/// The run comes from a tracking server (with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD, where it
/// asks) or from a folder of runs, such as ./mlruns. Where the artifacts lie in a bucket, download the model with `mlflow
/// artifacts download` and give --model-dir as well.
///
///     mainstay import mlflow --tracking-uri http://127.0.0.1:5001 --run 0123abcd… \
///         --model pred-main --version 2.0.0 > card.yaml           # says what is missing; fill it in
///     mainstay import mlflow --tracking-uri http://127.0.0.1:5001 --run 0123abcd… \
///         --model pred-main --version 2.0.0 --card card.yaml --data train.csv --to config
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Where the runs are: a tracking server's address, or a folder of runs.
    #[arg(long, value_name = "URI", env = "MLFLOW_TRACKING_URI", default_value = "mlruns")]
    tracking_uri: String,

    /// The run's id.
    #[arg(long, value_name = "ID", required_unless_present = "model_dir")]
    run: Option<String>,

    /// The name under which the run logged the model, where it logged several.
    #[arg(long, value_name = "NAME")]
    artifact: Option<String>,

    /// A folder with the model, an MLmodel file in it, instead of what the run's artifacts have.
    #[arg(long, value_name = "DIR")]
    model_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(super) target: Target,
}

/// Why there is nothing to import.
#[derive(Debug, thiserror::Error)]
pub enum MlflowError {
    #[error("cannot reach the tracking server at {url}")]
    Unreachable { url: String, source: Box<ureq::Error> },
    #[error("the tracking server says to {what}: {words}")]
    Refused { what: String, words: String },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has more than {bytes_max} bytes")]
    Large { path: String, bytes_max: u64 },
    #[error("{path} is not what MLflow writes: {problem}")]
    Garbled { path: String, problem: String },
    #[error("there is no run {id} in {}: give the folder that has it in a folder of its experiment, or a server's address", root.display())]
    NoRun { id: String, root: PathBuf },
    #[error("the run {id} has logged no model{}: log one with mlflow.onnx.log_model", .named.as_ref().map_or(String::new(), |name| format!(" named {name}")))]
    NoModel { id: String, named: Option<String> },
    #[error("the run has logged several models: choose one of {names} with --artifact")]
    Several { names: String },
    #[error(
        "the model lies at {uri}: `mlflow artifacts download --artifact-uri {uri} --dst-path DIR`, and give --model-dir DIR"
    )]
    Elsewhere { uri: String },
    #[error("there is no MLmodel in {place}")]
    NoMlmodel { place: String },
    #[error(
        "the model is of the flavours {flavours}, and not of onnx. Such a file is or needs code, and loading it runs that \
         code: convert the model with skl2onnx (or onnxmltools, torch.onnx, tf2onnx) and log it with mlflow.onnx.log_model"
    )]
    Flavour { flavours: String },
    #[error("{path} is no path inside the model's folder")]
    Outside { path: String },
}

impl MlflowError {
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A run, in the words of the REST API.
#[derive(Debug, Default, Deserialize)]
struct Run {
    info: RunInfo,
    #[serde(default)]
    data: RunData,
    #[serde(default)]
    inputs: RunInputs,
    #[serde(default)]
    outputs: RunOutputs,
}

#[derive(Debug, Default, Deserialize)]
struct RunInfo {
    run_id: String,
    #[serde(default)]
    run_name: Option<String>,
    #[serde(default)]
    artifact_uri: String,
}

#[derive(Debug, Default, Deserialize)]
struct RunData {
    #[serde(default)]
    metrics: Vec<Metric>,
    #[serde(default)]
    params: Vec<Pair>,
    #[serde(default)]
    tags: Vec<Pair>,
}

#[derive(Debug, Deserialize)]
struct Metric {
    key: String,
    // JSON has no NaN, which MLflow then writes as a text.
    value: Value,
    #[serde(default)]
    dataset_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Pair {
    key: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
struct RunInputs {
    #[serde(default)]
    dataset_inputs: Vec<DatasetInput>,
}

#[derive(Debug, Deserialize)]
struct DatasetInput {
    #[serde(default)]
    tags: Vec<Pair>,
    dataset: Dataset,
}

#[derive(Debug, Deserialize)]
struct Dataset {
    name: String,
    digest: String,
    #[serde(default)]
    source_type: String,
    #[serde(default)]
    source: String,
}

#[derive(Debug, Default, Deserialize)]
struct RunOutputs {
    #[serde(default)]
    model_outputs: Vec<ModelOutput>,
}

#[derive(Debug, Deserialize)]
struct ModelOutput {
    model_id: String,
}

/// A logged model, in the words of the REST API.
#[derive(Debug, Deserialize)]
struct LoggedModel {
    info: LoggedModelInfo,
}

#[derive(Debug, Deserialize)]
struct LoggedModelInfo {
    #[serde(default)]
    name: String,
    artifact_uri: String,
}

/// The file MLmodel.
#[derive(Debug, Deserialize)]
struct Mlmodel {
    #[serde(default)]
    flavors: BTreeMap<String, Value>,
    #[serde(default)]
    run_id: Option<String>,
    #[serde(default)]
    mlflow_version: Option<String>,
    #[serde(default)]
    model_id: Option<String>,
    #[serde(default)]
    model_uuid: Option<String>,
    #[serde(default)]
    signature: Option<Signature>,
    #[serde(default)]
    saved_input_example_info: Option<ExampleInfo>,
}

#[derive(Debug, Deserialize)]
struct Signature {
    /// JSON in a text.
    #[serde(default)]
    inputs: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ExampleInfo {
    artifact_path: String,
}

/// Where the runs are.
enum Tracking {
    Server(Server),
    Folder(PathBuf),
}

/// A tracking server.
struct Server {
    base: String,
    agent: ureq::Agent,
    authorization: Option<String>,
}

/// Where a model's files are.
enum Place<'a> {
    Folder(PathBuf),
    /// Below a path that the server hands out.
    Proxied(&'a Server, String),
}

/// Reads the run and its model.
pub fn record(arguments: &Arguments) -> Result<Recorded, MlflowError> {
    let tracking = Tracking::of(&arguments.tracking_uri);
    let run = arguments.run.as_deref().map(|id| tracking.run(id)).transpose()?;
    let place = match (&arguments.model_dir, &run) {
        (Some(dir), _) => Place::Folder(dir.clone()),
        (None, Some(run)) => tracking.model(run, arguments.artifact.as_deref())?,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let text =
        place.read("MLmodel", FILE_BYTES_MAX as u64)?.ok_or_else(|| MlflowError::NoMlmodel { place: place.name() })?;
    let mlmodel: Mlmodel = yaml::parse("MLmodel", &text, Ok)
        .map_err(|error| MlflowError::Garbled { path: place.name(), problem: error.to_string() })?;
    let Some(flavour) = mlmodel.flavors.get("onnx") else {
        let flavours: Vec<_> = mlmodel.flavors.keys().map(String::as_str).collect();
        return Err(MlflowError::Flavour { flavours: flavours.join(", ") });
    };
    let file = flavour["data"].as_str().unwrap_or("model.onnx");
    let model = place.read(file, ARTIFACT_BYTES_MAX)?;
    let model =
        model.ok_or_else(|| MlflowError::Garbled { path: place.name(), problem: format!("{file} is missing") })?;
    let garbled = |path: &str, problem: String| MlflowError::Garbled { path: path.to_owned(), problem };
    let examples = match &mlmodel.saved_input_example_info {
        Some(info) => place.read(&info.artifact_path, FILE_BYTES_MAX as u64)?.and_then(|text| examples(&text)),
        None => None,
    };
    let columns = match mlmodel.signature.as_ref().and_then(|signature| signature.inputs.as_ref()) {
        Some(inputs) => {
            let inputs: Vec<Value> =
                serde_json::from_str(inputs).map_err(|e| garbled("the signature", e.to_string()))?;
            // A tensor's signature has one entry, which is no column.
            let columns = inputs.iter().filter(|input| input["type"] != "tensor").map(|input| input["name"].as_str());
            columns.collect::<Option<Vec<_>>>().unwrap_or_default().into_iter().map(str::to_owned).collect()
        }
        None => Vec::new(),
    };
    let requirements = place.read("requirements.txt", FILE_BYTES_MAX as u64)?.unwrap_or_default();
    let mut recorded = Recorded { model, columns, examples, ..Recorded::default() };
    recorded.libraries = pinned(&String::from_utf8_lossy(&requirements));
    recorded.libraries.extend(mlmodel.mlflow_version.map(|version| ("mlflow".to_owned(), version)));
    recorded.run = RecordedRun {
        tool: "mlflow",
        id: mlmodel.run_id.or(mlmodel.model_id).or(mlmodel.model_uuid).unwrap_or_else(|| "unknown".to_owned()),
        ..RecordedRun::default()
    };
    if let Some(run) = run {
        run.tell(&mut recorded);
    }
    Ok(recorded)
}

impl Run {
    fn tell(self, recorded: &mut Recorded) {
        let tag = |tags: &[Pair], key: &str| tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.clone());
        recorded.commit = tag(&self.data.tags, "mlflow.source.git.commit");
        let parameters: BTreeMap<_, _> = self.data.params.into_iter().map(|pair| (pair.key, pair.value)).collect();
        recorded.seed = seed_of(&parameters);
        let mut splits = BTreeMap::new();
        let mut inputs = BTreeMap::new();
        for DatasetInput { tags, dataset } in self.inputs.dataset_inputs {
            let context = tag(&tags, "mlflow.data.context");
            let what = match &context {
                Some(context) => format!("{} ({context})", dataset.name),
                None => dataset.name.clone(),
            };
            if recorded.data.is_none() && context.as_deref().is_none_or(|context| context.starts_with("train")) {
                let source = format!("{} {}", dataset.source_type, dataset.source);
                recorded.data = Some((dataset.name.clone(), source.trim().to_owned()));
            }
            inputs.insert(what.clone(), dataset.digest);
            splits.insert(dataset.name, what);
        }
        let metric = |metric: Metric| {
            let value = metric.value.as_f64()?;
            let (name, split) = name_and_split(&metric.key);
            let of = metric.dataset_name.filter(|name| !name.is_empty());
            let of = of.map(|name| splits.get(&name).cloned().unwrap_or(name));
            Some(RecordedMetric { name, split: of.or(split), value })
        };
        let metrics = self.data.metrics.into_iter().filter(|metric| !metric.key.starts_with("system/"));
        recorded.metrics = metrics.filter_map(metric).collect();
        recorded.metrics.sort_by(|a, b| (&a.split, &a.name).cmp(&(&b.split, &b.name)));
        recorded.metrics.dedup_by(|a, b| (&a.split, &a.name) == (&b.split, &b.name));
        recorded.run =
            RecordedRun { tool: "mlflow", id: self.info.run_id, name: self.info.run_name, parameters, inputs };
    }
}

impl Tracking {
    fn of(uri: &str) -> Self {
        if uri.starts_with("http://") || uri.starts_with("https://") {
            return Self::Server(Server::new(uri.trim_end_matches('/')));
        }
        Self::Folder(local(uri).unwrap_or_else(|| uri.into()))
    }

    fn run(&self, id: &str) -> Result<Run, MlflowError> {
        #[derive(Deserialize)]
        struct Answer {
            run: Run,
        }
        match self {
            Self::Server(server) => {
                let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
                Ok(server.ask::<Answer>("get the run", &format!("runs/get?run_id={id}"))?.run)
            }
            Self::Folder(root) => folder::run(root, id),
        }
    }

    /// Where the model that the run logged lies.
    fn model(&self, run: &Run, named: Option<&str>) -> Result<Place<'_>, MlflowError> {
        #[derive(Deserialize)]
        struct Answer {
            model: LoggedModel,
        }
        let mut models = Vec::new();
        for ModelOutput { model_id } in &run.outputs.model_outputs {
            let info = match self {
                Self::Server(server) => {
                    let id = utf8_percent_encode(model_id, NON_ALPHANUMERIC);
                    server.ask::<Answer>("get the logged model", &format!("logged-models/{id}"))?.model.info
                }
                Self::Folder(root) => folder::model(root, &run.info.run_id, model_id)?,
            };
            models.push((info.name, info.artifact_uri));
        }
        if models.is_empty() {
            // Before MLflow 3 a model lay among the run's artifacts, and a tag says where.
            let history = run.data.tags.iter().find(|tag| tag.key == "mlflow.log-model.history");
            let history: Vec<Value> = history.and_then(|tag| serde_json::from_str(&tag.value).ok()).unwrap_or_default();
            let mut paths: Vec<_> = history.iter().filter_map(|entry| entry["artifact_path"].as_str()).collect();
            paths.dedup();
            models.extend(paths.iter().map(|path| ((*path).to_owned(), format!("{}/{path}", run.info.artifact_uri))));
        }
        models.retain(|(name, _)| named.is_none_or(|named| named == name));
        match &models[..] {
            [] => Err(MlflowError::NoModel { id: run.info.run_id.clone(), named: named.map(str::to_owned) }),
            [(_, uri)] => self.place(uri),
            several => {
                let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
                Err(MlflowError::Several { names: names.join(", ") })
            }
        }
    }

    fn place(&self, uri: &str) -> Result<Place<'_>, MlflowError> {
        match (self, uri.strip_prefix("mlflow-artifacts:"), local(uri)) {
            (Self::Server(server), Some(path), _) => {
                // mlflow-artifacts://HOST/PATH names the server itself, in its own words.
                let path =
                    path.strip_prefix("//").map_or(path, |rest| rest.split_once('/').map_or("", |(_, path)| path));
                Ok(Place::Proxied(server, path.trim_start_matches('/').to_owned()))
            }
            (_, None, Some(folder)) if folder.is_dir() => Ok(Place::Folder(folder)),
            _ => Err(MlflowError::Elsewhere { uri: uri.to_owned() }),
        }
    }
}

impl Server {
    fn new(base: &str) -> Self {
        let variable = |name: &str| std::env::var(format!("MLFLOW_TRACKING_{name}")).ok();
        let basic = |user: String| {
            let pair = format!("{user}:{}", variable("PASSWORD").unwrap_or_default());
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        };
        let authorization =
            variable("TOKEN").map(|token| format!("Bearer {token}")).or(variable("USERNAME").map(basic));
        let tls = ureq::tls::TlsConfig::builder()
            .provider(ureq::tls::TlsProvider::NativeTls)
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_MAX))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls);
        Self { base: base.to_owned(), agent: config.build().new_agent(), authorization }
    }

    fn ask<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, MlflowError> {
        let bytes = self.get(what, &format!("{}/api/2.0/mlflow/{path}", self.base), FILE_BYTES_MAX as u64)?;
        let refused = |words: String| MlflowError::Refused { what: what.to_owned(), words };
        let bytes = bytes.ok_or_else(|| refused("there is no such thing here".to_owned()))?;
        serde_json::from_slice(&bytes).map_err(|error| refused(format!("something else than was asked for ({error})")))
    }

    /// The body of an answer; none where there is no such thing.
    fn get(&self, what: &str, url: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, MlflowError> {
        let unreachable = |source| MlflowError::Unreachable { url: self.base.clone(), source: Box::new(source) };
        let mut request = self.agent.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut answer = request.call().map_err(unreachable)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        let mut body = answer.body_mut().as_reader().take(bytes_max + 1);
        body.read_to_end(&mut bytes).map_err(|error| unreachable(error.into()))?;
        if bytes.len() as u64 > bytes_max {
            return Err(MlflowError::Large { path: url.to_owned(), bytes_max });
        }
        if status == 404 {
            return Ok(None);
        }
        if !status.is_success() {
            let words: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let words = words["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
            return Err(MlflowError::Refused { what: what.to_owned(), words: words.chars().take(500).collect() });
        }
        Ok(Some(bytes))
    }
}

impl Place<'_> {
    fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Proxied(server, path) => format!("{}, {path}", server.base),
        }
    }

    /// The file at `path`; none where there is none.
    fn read(&self, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, MlflowError> {
        // What MLmodel names must not lead out of its folder.
        if path.starts_with('/') || path.split('/').any(|segment| segment == "..") {
            return Err(MlflowError::Outside { path: path.to_owned() });
        }
        match self {
            Self::Folder(folder) => read(&folder.join(path), bytes_max),
            Self::Proxied(server, root) => {
                let path = utf8_percent_encode(&format!("{root}/{path}"), PATH).to_string();
                let url = format!("{}/api/2.0/mlflow-artifacts/artifacts/{path}", server.base);
                server.get("get the model", &url, bytes_max)
            }
        }
    }
}

/// The file at `path`, of at most so many bytes; none where there is none.
fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, MlflowError> {
    let fail = |source| MlflowError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > bytes_max {
        return Err(MlflowError::Large { path: path.display().to_string(), bytes_max });
    }
    Ok(Some(bytes))
}

/// The folder that a `file:` address or a plain path names; none for another kind of address.
fn local(uri: &str) -> Option<PathBuf> {
    match uri.strip_prefix("file:") {
        Some(rest) => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            Some(PathBuf::from(percent_decode_str(path).decode_utf8().ok()?.into_owned()))
        }
        None if uri.contains(':') => None,
        None => Some(uri.into()),
    }
}

/// Rows of an input example, as MLflow writes them: a data frame in columns, or an array.
fn examples(text: &[u8]) -> Option<(Vec<String>, Vec<Vec<f32>>)> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let frame = value.get("dataframe_split").unwrap_or(&value);
    let rows = [&frame["data"], &frame["inputs"], frame].into_iter().find(|value| value.is_array())?;
    let columns = frame["columns"].as_array().map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned));
    let row = |row: &Value| row.as_array()?.iter().map(|cell| cell.as_f64().map(|cell| cell as f32)).collect();
    Some((columns.map(Iterator::collect).unwrap_or_default(), rows.as_array()?.iter().map(row).collect::<Option<_>>()?))
}

/// The libraries that a requirements.txt pins.
fn pinned(requirements: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, version) = line.split(['#', ';']).next()?.split_once("==")?;
        Some((name.trim().to_owned(), version.trim().to_owned()))
    };
    requirements.lines().filter_map(line).collect()
}

/// Runs that a tracking server's file store, or MLflow without a server, keeps in folders.
mod folder {
    use super::*;

    #[derive(Deserialize)]
    struct RunMeta {
        #[serde(default)]
        run_name: Option<String>,
        #[serde(default)]
        artifact_uri: String,
    }

    #[derive(Deserialize)]
    struct InputMeta {
        source_id: String,
        #[serde(default)]
        tags: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    struct ModelMeta {
        #[serde(default)]
        name: String,
        #[serde(default, alias = "artifact_location")]
        artifact_uri: String,
    }

    pub fn run(root: &Path, id: &str) -> Result<Run, MlflowError> {
        let folder = find(root, id)?;
        let meta: RunMeta = meta(&folder)?;
        let artifact_uri = present(&meta.artifact_uri, folder.join("artifacts"));
        let info = RunInfo { run_id: id.to_owned(), run_name: meta.run_name, artifact_uri };
        let pairs = |name: &str| -> Result<Vec<Pair>, MlflowError> {
            Ok(files(&folder.join(name))?.into_iter().map(|(key, value)| Pair { key, value }).collect())
        };
        let metrics = files(&folder.join("metrics"))?.into_iter().filter_map(|(key, text)| {
            // Time, value, step, and since MLflow 3 the data's name and digest.
            let words: Vec<_> = text.lines().last()?.split(' ').collect();
            let value = Value::from(words.get(1)?.parse::<f64>().ok()?);
            Some(Metric { key, value, dataset_name: words.get(3).map(|name| (*name).to_owned()) })
        });
        let data = RunData { metrics: metrics.collect(), params: pairs("params")?, tags: pairs("tags")? };
        let experiment = folder.parent().unwrap_or(root);
        let mut inputs = RunInputs::default();
        for folder in folders(&folder.join("inputs"))? {
            let InputMeta { source_id, tags } = match self::meta(&folder) {
                Ok(meta) => meta,
                // A model that went in has another form.
                Err(MlflowError::Garbled { .. }) => continue,
                Err(error) => return Err(error),
            };
            let dataset = experiment.join("datasets").join(&source_id);
            if dataset.is_dir() {
                let tags = tags.into_iter().map(|(key, value)| Pair { key, value }).collect();
                inputs.dataset_inputs.push(DatasetInput { tags, dataset: self::meta(&dataset)? });
            }
        }
        let name = |folder: PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let model_outputs = folders(&folder.join("outputs"))?.into_iter().map(|f| ModelOutput { model_id: name(f) });
        Ok(Run { info, data, inputs, outputs: RunOutputs { model_outputs: model_outputs.collect() } })
    }

    pub fn model(root: &Path, run: &str, id: &str) -> Result<LoggedModelInfo, MlflowError> {
        let run = find(root, run)?;
        let folder = run.parent().unwrap_or(root).join("models").join(id);
        let ModelMeta { name, artifact_uri } = meta(&folder)?;
        Ok(LoggedModelInfo { name, artifact_uri: present(&artifact_uri, folder.join("artifacts")) })
    }

    /// The address, or the folder where that is if everything was moved.
    fn present(uri: &str, beside: PathBuf) -> String {
        if beside.is_dir() { beside.display().to_string() } else { uri.to_owned() }
    }

    fn find(root: &Path, id: &str) -> Result<PathBuf, MlflowError> {
        let missing = || MlflowError::NoRun { id: id.to_owned(), root: root.to_owned() };
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(missing());
        }
        let experiments = folders(root)?;
        let found = experiments.into_iter().map(|folder| folder.join(id)).find(|run| run.join("meta.yaml").is_file());
        found.ok_or_else(missing)
    }

    fn meta<T: DeserializeOwned>(folder: &Path) -> Result<T, MlflowError> {
        let path = folder.join("meta.yaml");
        let text = read(&path, FILE_BYTES_MAX as u64)?.unwrap_or_default();
        yaml::parse("meta.yaml", &text, Ok)
            .map_err(|error| MlflowError::Garbled { path: path.display().to_string(), problem: error.to_string() })
    }

    /// The folders in a folder, in order; none where there is no such folder.
    fn folders(path: &Path) -> Result<Vec<PathBuf>, MlflowError> {
        Ok(entries(path)?.into_iter().filter(|path| path.is_dir()).collect())
    }

    fn entries(path: &Path) -> Result<Vec<PathBuf>, MlflowError> {
        let fail = |source| MlflowError::Read { path: path.to_owned(), source };
        let listing = match std::fs::read_dir(path) {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut paths = listing.map(|entry| Ok(entry.map_err(fail)?.path())).collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        Ok(paths)
    }

    /// The files of a folder and of one folder deeper, by name: a key may have one slash, as in `val/f1`.
    fn files(path: &Path) -> Result<Vec<(String, String)>, MlflowError> {
        let mut found = Vec::new();
        for entry in entries(path)? {
            let deeper = if entry.is_dir() { entries(&entry)? } else { vec![entry] };
            for file in deeper.into_iter().filter(|path| path.is_file()) {
                let key = file.strip_prefix(path).unwrap_or(&file).to_string_lossy().into_owned();
                let text = read(&file, FILE_BYTES_MAX as u64)?.unwrap_or_default();
                found.push((key, String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_read_in_each_form_that_mlflow_has() {
        let rows = vec![vec![1.0, 2.5]];
        for (text, columns) in [
            (r#"{"columns": ["a", "b"], "data": [[1, 2.5]]}"#, vec!["a".to_owned(), "b".to_owned()]),
            (
                r#"{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2.5]]}}"#,
                vec!["a".to_owned(), "b".to_owned()],
            ),
            (r#"{"inputs": [[1, 2.5]]}"#, vec![]),
            ("[[1, 2.5]]", vec![]),
        ] {
            assert_eq!(examples(text.as_bytes()), Some((columns, rows.clone())), "{text}");
        }
        assert_eq!(examples(br#"[["text"]]"#), None);
    }

    #[test]
    fn only_what_is_pinned_is_a_known_version() {
        let libraries = pinned("mlflow==3.1.0\nonnx == 1.17.0 # pinned\nnumpy>=2\nfoo==1; python_version < '3'\n");
        let pairs: Vec<_> = libraries.iter().map(|(name, version)| format!("{name} {version}")).collect();
        assert_eq!(pairs, ["foo 1", "mlflow 3.1.0", "onnx 1.17.0"]);
    }

    #[test]
    fn a_model_file_outside_its_folder_is_not_read() {
        let place = Place::Folder("/".into());
        for path in ["/etc/passwd", "../x", "a/../../x"] {
            assert!(matches!(place.read(path, 10), Err(MlflowError::Outside { .. })), "{path}");
        }
    }

    #[test]
    fn addresses_of_folders_are_told_from_others() {
        assert_eq!(local("file:///a%20b"), Some("/a b".into()));
        assert_eq!(local("mlruns"), Some("mlruns".into()));
        assert_eq!(local("s3://bucket/x"), None);
    }
}
