//! What DVC tracks: the output of a `.dvc` file, or of a stage in a pipeline, with what went into it.
//!
//! The bytes come from the workspace if they are the ones that are meant, and else by the `dvc` that is installed, which
//! knows every kind of remote and the person's credentials. They must have the MD5 that DVC has recorded: a locator, no
//! proof, since the card gets a sha256.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_models::yaml::{self, FILE_BYTES_MAX};
use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Recorded, RecordedMetric, RecordedRun, Target, name_and_split, seed_of};
use crate::check::ARTIFACT_BYTES_MAX;

/// The most parameters and metrics that are taken.
const ENTRIES_MAX: usize = 1000;

/// Takes a model that DVC tracks
///
/// OUTPUT is the model file as DVC names it, with a `.dvc` file beside it or as the output of a stage in dvc.yaml and
/// dvc.lock. A stage's command, parameters, dependencies and metrics become the lineage, and the repository's commit too.
/// Where the file itself is not in the workspace, `dvc get` brings it from the cache or the remote.
///
///     mainstay import dvc models/model.onnx --model pred-main --version 2.0.0 > card.yaml   # fill it in
///     mainstay import dvc models/model.onnx --model pred-main --version 2.0.0 --card card.yaml --data data/train.csv --to ../config
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The model file, or its .dvc file.
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,

    #[command(flatten)]
    pub(super) target: Target,
}

/// Why there is nothing to import.
#[derive(Debug, thiserror::Error)]
pub enum DvcError {
    #[error("{} is in no DVC repository: there is no .dvc folder above it", path.display())]
    NoRepository { path: PathBuf },
    #[error("DVC does not track {}: neither is there a .dvc file beside it, nor does a dvc.lock name it", path.display())]
    Untracked { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not what DVC writes: {problem}", path.display())]
    Garbled { path: PathBuf, problem: String },
    #[error("{} is tracked as a folder: track the model file by itself", path.display())]
    Folder { path: PathBuf },
    #[error("{} is not here as DVC has recorded it, and dvc is not installed: `dvc pull` where it is", path.display())]
    NoDvc { path: PathBuf, source: std::io::Error },
    #[error("dvc cannot get {}: {words}", path.display())]
    Get { path: PathBuf, words: String },
    #[error("{} has the md5 {got}, and DVC has recorded {recorded}", path.display())]
    Mismatch { path: PathBuf, recorded: String, got: String },
    #[error("{} has more than {ARTIFACT_BYTES_MAX} bytes", path.display())]
    Large { path: PathBuf },
    #[error("{} is not an ONNX file. Pickles and their like carry code: convert the model with skl2onnx and track that", path.display())]
    NotOnnx { path: PathBuf },
}

impl DvcError {
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Get { .. })
    }
}

/// A `.dvc` file.
#[derive(Debug, Deserialize)]
struct Pointer {
    outs: Vec<Entry>,
}

/// A dvc.lock.
#[derive(Debug, Deserialize)]
struct Lock {
    #[serde(default)]
    stages: BTreeMap<String, Stage>,
}

#[derive(Debug, Deserialize)]
struct Stage {
    #[serde(default)]
    cmd: Value,
    #[serde(default)]
    deps: Vec<Entry>,
    /// By file, by name.
    #[serde(default)]
    params: BTreeMap<String, BTreeMap<String, Value>>,
    #[serde(default)]
    outs: Vec<Entry>,
}

/// Something that DVC tracks.
#[derive(Debug, Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    md5: Option<String>,
}

/// A dvc.yaml, as far as it says where metrics are.
#[derive(Debug, Default, Deserialize)]
struct Pipeline {
    #[serde(default)]
    stages: BTreeMap<String, PipelineStage>,
    #[serde(default)]
    metrics: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct PipelineStage {
    #[serde(default)]
    metrics: Vec<Value>,
}

/// Reads what DVC tracks.
pub fn record(arguments: &Arguments) -> Result<Recorded, DvcError> {
    let given = &arguments.output;
    let path = if given.extension().is_some_and(|extension| extension == "dvc") {
        given.with_extension("")
    } else {
        given.clone()
    };
    let path = std::path::absolute(&path).map_err(|source| DvcError::Read { path: path.clone(), source })?;
    if path.extension().is_none_or(|extension| extension != "onnx") {
        return Err(DvcError::NotOnnx { path });
    }
    let folders = || path.ancestors().skip(1);
    let root = folders().find(|folder| folder.join(".dvc").is_dir());
    let root = root.ok_or_else(|| DvcError::NoRepository { path: path.clone() })?;
    let mut recorded = Recorded::default();
    let md5 = match parse::<Pointer>(&with_suffix(&path, ".dvc"))? {
        Some(pointer) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let entry = pointer.outs.into_iter().find(|entry| entry.path == name);
            entry.and_then(|entry| entry.md5)
        }
        None => stage(&path, folders().take_while(|folder| folder.starts_with(root)), &mut recorded)?,
    };
    let md5 = md5.ok_or_else(|| DvcError::Untracked { path: path.clone() })?;
    if md5.ends_with(".dir") {
        return Err(DvcError::Folder { path });
    }
    recorded.commit = commit(root);
    recorded.model = bytes(root, &path, &md5, recorded.commit.as_deref())?;
    let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
    recorded.seed = seed_of(&recorded.run.parameters);
    recorded.run = RecordedRun { tool: "dvc", id: format!("md5 {md5}"), name: Some(name), ..recorded.run };
    Ok(recorded)
}

/// The MD5 of the stage's output at `path`, by the nearest dvc.lock that names it; tells what else it knows.
fn stage<'a>(
    path: &Path,
    folders: impl Iterator<Item = &'a Path>,
    recorded: &mut Recorded,
) -> Result<Option<String>, DvcError> {
    for folder in folders {
        let Some(lock) = parse::<Lock>(&folder.join("dvc.lock"))? else { continue };
        let is_it = |entry: &Entry| folder.join(&entry.path) == path;
        let Some((name, stage)) = lock.stages.into_iter().find(|(_, stage)| stage.outs.iter().any(is_it)) else {
            continue;
        };
        let run = &mut recorded.run;
        for (key, value) in stage.params.into_values().flatten() {
            flatten(&key, &value, &mut |key, value| {
                run.parameters.insert(key, plain(value));
            });
        }
        if !stage.cmd.is_null() {
            run.parameters.insert("command".to_owned(), plain(&stage.cmd));
        }
        for Entry { path, md5 } in stage.deps {
            run.inputs.extend(md5.map(|md5| (path, format!("md5 {md5}"))));
        }
        recorded.metrics = metrics(folder, &name)?;
        return Ok(stage.outs.into_iter().find(is_it).and_then(|entry| entry.md5));
    }
    Ok(None)
}

/// What the metrics files of a stage, and those of the whole pipeline, say.
fn metrics(folder: &Path, stage: &str) -> Result<Vec<RecordedMetric>, DvcError> {
    let mut pipeline: Pipeline = parse(&folder.join("dvc.yaml"))?.unwrap_or_default();
    let own = pipeline.stages.remove(stage).unwrap_or_default().metrics;
    let mut found: Vec<RecordedMetric> = Vec::new();
    for file in own.iter().chain(&pipeline.metrics) {
        // A path, or a path with options.
        let file = file.as_str().or_else(|| file.as_object()?.keys().next().map(String::as_str));
        let Some(values) = file.map(|file| parse::<Value>(&folder.join(file))).transpose()?.flatten() else { continue };
        flatten("", &values, &mut |key, value| {
            if let (Some(value), true) = (value.as_f64(), found.len() < ENTRIES_MAX) {
                let (name, split) = name_and_split(&key);
                found.push(RecordedMetric { name, split, value });
            }
        });
    }
    Ok(found)
}

/// Every value of a document, with its path in it: `train.seed`.
fn flatten(at: &str, value: &Value, take: &mut impl FnMut(String, &Value)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                flatten(&key, value, take);
            }
        }
        value => take(at.to_owned(), value),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The bytes that DVC means: those of the workspace, or what `dvc get` brings.
fn bytes(root: &Path, path: &Path, md5: &str, commit: Option<&str>) -> Result<Vec<u8>, DvcError> {
    let right = |bytes: &[u8]| hex(&Md5::digest(bytes)) == md5;
    if let Some(bytes) = read(path)?.filter(|bytes| right(bytes)) {
        return Ok(bytes);
    }
    let fail = |source| DvcError::Read { path: path.to_owned(), source };
    let folder = tempfile::tempdir().map_err(fail)?;
    let out = folder.path().join("model.onnx");
    let inside = path.strip_prefix(root).unwrap_or(path);
    // Bounded by DVC's own time-outs: how long a remote takes for a large file, nobody here can know.
    let mut get = Command::new("dvc");
    get.args(["get", "--quiet", "--out"]).arg(&out);
    // Without a commit it would take the workspace's file, which is not the one that is meant.
    get.args(commit.iter().flat_map(|commit| ["--rev", commit]));
    let got = get.arg(root).arg(inside).output().map_err(|source| DvcError::NoDvc { path: path.to_owned(), source })?;
    if !got.status.success() {
        let words = String::from_utf8_lossy(&got.stderr).trim().replace('\n', " ").chars().take(1000).collect();
        return Err(DvcError::Get { path: path.to_owned(), words });
    }
    let bytes = read(&out)?.unwrap_or_default();
    if right(&bytes) {
        return Ok(bytes);
    }
    Err(DvcError::Mismatch { path: path.to_owned(), recorded: md5.to_owned(), got: hex(&Md5::digest(&bytes)) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The commit of the repository, where everything that is tracked is as that commit has it.
fn commit(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    git(&["diff", "--quiet", "HEAD"])?;
    git(&["rev-parse", "HEAD"])
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// A YAML or JSON file of DVC's; none where there is none.
fn parse<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DvcError> {
    let Some(text) = read(path)? else { return Ok(None) };
    if text.len() > FILE_BYTES_MAX {
        return Err(DvcError::Large { path: path.to_owned() });
    }
    let garbled = |problem: String| DvcError::Garbled { path: path.to_owned(), problem };
    yaml::parse("file", &text, Ok).map(Some).map_err(|error| garbled(error.problem))
}

/// The file at `path`; none where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, DvcError> {
    use std::io::Read as _;
    let fail = |source| DvcError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(ARTIFACT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > ARTIFACT_BYTES_MAX {
        return Err(DvcError::Large { path: path.to_owned() });
    }
    Ok(Some(bytes))
}
