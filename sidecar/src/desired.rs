//! Turns the files of one commit into the release that they ask for.
//!
//! A function of the commit alone: the same files give the same release, wherever and whenever. Every refusal says
//! file, line and field. Knows neither git nor the store: the files come through a closure, and what is needed of
//! the store is said as [`Source`]s.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_models::spec::Location;
use mainstay_models::store::AddError;
use mainstay_models::yaml::FILE_BYTES_MAX;
use mainstay_models::{
    Blob, EnvironmentName, ModelName, ModelSpec, Policy, ReleasedModel, ReleasedVersion, Serving, Uri, Version,
};

use crate::trouble::{Refusal, Trouble};

/// Why a file was not read.
#[derive(Debug)]
pub enum Unread {
    /// The commit has no such file.
    Missing,
    /// It is there, and not to be read: a link, a folder, too large.
    Unfit(String),
    /// It could not be read this time.
    Trouble(String),
}

/// What one commit asks for.
#[derive(Debug)]
pub struct Desired {
    /// The model that a request without a model's name gets.
    pub default: ModelName,
    /// The models.
    pub models: BTreeMap<ModelName, ReleasedModel>,
    /// The models that move only together.
    pub together: Vec<BTreeSet<ModelName>>,
    /// When that may go live.
    pub policy: Policy,
    /// The files of every version.
    pub versions: Vec<VersionFiles>,
    /// Where the bytes of every blob come from.
    pub sources: Vec<Source>,
}

/// The files of a version, which a signature of it must name.
#[derive(Debug, Clone)]
pub struct VersionFiles {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub version: Version,
    /// The bytes of its model.yaml.
    pub spec: Blob,
    /// The model file's name, without where it lies.
    pub artifact_file: String,
    /// The model file's bytes.
    pub artifact: Blob,
}

/// Where the bytes of a blob come from.
#[derive(Debug)]
pub struct Source {
    /// The bytes' reference.
    pub blob: Blob,
    /// The bytes, or where they are.
    pub origin: Origin,
}

/// The bytes of a blob, or where they are.
#[derive(Debug)]
pub enum Origin {
    /// The bytes of a model.yaml, which were needed to know what it asks for.
    Bytes(Vec<u8>),
    /// An artifact in the repository.
    Artifact(Artifact),
    /// An artifact that lies elsewhere.
    Elsewhere {
        /// The places that have it, the one to ask first in front.
        uris: Vec<Uri>,
        /// The model.yaml that names them.
        spec: String,
        /// The line in it where the digest stands; 0 where that is not known.
        line: u64,
    },
}

/// An artifact in the repository, and the place that promises what is in it.
#[derive(Debug)]
pub struct Artifact {
    /// Its path.
    pub path: String,
    /// The model.yaml.
    pub spec: String,
    /// The line in it where the digest stands; 0 where that is not known.
    pub line: u64,
}

impl Artifact {
    /// The refusal of what the model.yaml says about the artifact.
    pub fn refuse(&self, problem: impl Into<String>) -> Refusal {
        Refusal {
            file: self.spec.clone(),
            line: self.line,
            field: "artifact.sha256".to_owned(),
            problem: problem.into(),
        }
    }

    /// The refusal of bytes that the store did not take as the artifact; none where that was the store's own fault.
    pub fn refuse_bytes(&self, error: &AddError) -> Option<Refusal> {
        let path = &self.path;
        match error {
            AddError::Mismatch { got, .. } => {
                let (size, sha256) = (got.size_bytes, got.sha256);
                Some(self.refuse(format!("{path} has {size} bytes with sha256 {sha256}")))
            }
            AddError::TooLong { expected_bytes } => {
                Some(self.refuse(format!("{path} has more than {expected_bytes} bytes")))
            }
            AddError::Source(_) | AddError::Io { .. } => None,
        }
    }
}

/// Reads what a commit asks for in `environment`; `read` gives the content of a file of at most so many bytes.
pub fn desired(
    environment: &EnvironmentName,
    mut read: impl FnMut(&str, u64) -> Result<Vec<u8>, Unread>,
) -> Result<Desired, Trouble> {
    let file = Serving::path(environment);
    let text = read(&file, FILE_BYTES_MAX as u64).map_err(|unread| match unread {
        Unread::Missing => {
            Refusal::whole(&file, format!("is not in the commit: it says what the environment `{environment}` serves"))
                .into()
        }
        Unread::Unfit(problem) => Refusal::whole(&file, problem).into(),
        Unread::Trouble(problem) => Trouble::Retry(problem),
    })?;
    let serving = Serving::parse(&file, &text)?;
    let Serving { default, models, together, policy, .. } = serving;
    let mut desired =
        Desired { default, models: BTreeMap::new(), together, policy, versions: Vec::new(), sources: Vec::new() };
    for (name, served) in &models {
        let mut versions = BTreeMap::new();
        for version in served.versions() {
            let role = if *version == served.stable { "stable" } else { "preview" };
            let asked = Asked { file: &file, text: &text, field: format!("models.{name}.{role}"), name, version };
            let (released, files, sources) = version_asked(&asked, &mut read)?;
            desired.versions.push(files);
            versions.insert(version.clone(), released);
            desired.sources.extend(sources);
        }
        desired.models.insert(name.clone(), ReleasedModel { stable: served.stable.clone(), versions, fallback: None });
    }
    Ok(desired)
}

/// The stable versions that a commit asks for of some models; none where it does not ask for all of them.
pub fn stable_of(
    environment: &EnvironmentName,
    names: &BTreeSet<ModelName>,
    mut read: impl FnMut(&str, u64) -> Result<Vec<u8>, Unread>,
) -> Result<Option<Vec<Stable>>, Trouble> {
    let file = Serving::path(environment);
    let text = match read(&file, FILE_BYTES_MAX as u64) {
        Ok(text) => text,
        Err(Unread::Missing | Unread::Unfit(_)) => return Ok(None),
        Err(Unread::Trouble(problem)) => return Err(Trouble::Retry(problem)),
    };
    let serving = Serving::parse(&file, &text)?;
    let mut stable = Vec::new();
    for name in names {
        let Some(served) = serving.models.get(name) else { return Ok(None) };
        let version = &served.stable;
        let asked = Asked { file: &file, text: &text, field: format!("models.{name}.stable"), name, version };
        let (bytes, files, sources) = version_asked(&asked, &mut read)?;
        stable.push(Stable { name: name.clone(), version: version.clone(), bytes, files, sources: sources.into() });
    }
    Ok(Some(stable))
}

/// The stable version of one model, and where its bytes come from.
#[derive(Debug)]
pub struct Stable {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub version: Version,
    /// Its bytes.
    pub bytes: ReleasedVersion,
    /// Its files, as a signature of it must name them.
    pub files: VersionFiles,
    /// Where they come from.
    pub sources: Vec<Source>,
}

/// A version, and the place in serving.yaml that asks for it.
struct Asked<'a> {
    file: &'a str,
    text: &'a [u8],
    field: String,
    name: &'a ModelName,
    version: &'a Version,
}

fn version_asked(
    asked: &Asked<'_>,
    read: &mut impl FnMut(&str, u64) -> Result<Vec<u8>, Unread>,
) -> Result<(ReleasedVersion, VersionFiles, [Source; 2]), Trouble> {
    let file = ModelSpec::path(asked.name, asked.version);
    let text = read(&file, FILE_BYTES_MAX as u64).map_err(|unread| match unread {
        Unread::Missing => Refusal {
            file: asked.file.to_owned(),
            line: line_of(asked.text, &[&format!("{}:", asked.name), &asked.version.to_string()]),
            field: asked.field.clone(),
            problem: format!("{file} is not in the commit"),
        }
        .into(),
        Unread::Unfit(problem) => Refusal::whole(&file, problem).into(),
        Unread::Trouble(problem) => Trouble::Retry(problem),
    })?;
    let spec = ModelSpec::parse(&file, &text)?;
    let refuse = |field: &str, value: &str, problem: String| {
        let (file, line, field) = (file.clone(), line_of(&text, &[value]), field.to_owned());
        Trouble::Refused(Refusal { file, line, field, problem })
    };
    if spec.name != *asked.name {
        let problem = format!("`{}` lies in the folder of `{}`", spec.name, asked.name);
        return Err(refuse("name", "name:", problem));
    }
    if spec.version != *asked.version {
        let problem = format!("{} lies in the folder of {}", spec.version, asked.version);
        return Err(refuse("version", "version:", problem));
    }
    let artifact = &spec.artifact;
    let line = line_of(&text, &[&artifact.blob.sha256.to_string()]);
    let released = ReleasedVersion { spec: Blob::of(&text), artifact: artifact.blob };
    let origin = match &artifact.location {
        Location::File(name) => {
            let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
            Origin::Artifact(Artifact { path: format!("{folder}/{name}"), spec: file.clone(), line })
        }
        Location::Uris(uris) => Origin::Elsewhere { uris: uris.clone(), spec: file.clone(), line },
    };
    let sources =
        [Source { blob: released.spec, origin: Origin::Bytes(text) }, Source { blob: released.artifact, origin }];
    let files = VersionFiles {
        name: spec.name,
        version: spec.version,
        spec: released.spec,
        artifact_file: spec.artifact.location.file_name().to_owned(),
        artifact: released.artifact,
    };
    Ok((released, files, sources))
}

/// The line, counted from 1, that holds the last of `marks`, each looked for from where the one before was found;
/// 0 if there is none. The parsed files do not keep their lines, and a place to look beats none.
fn line_of(text: &[u8], marks: &[&str]) -> u64 {
    let text = String::from_utf8_lossy(text);
    let mut from = 0;
    for mark in marks {
        match text[from..].find(mark) {
            Some(offset) => from += offset,
            None => return 0,
        }
    }
    text[..from].matches('\n').count() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVING: &str =
        "apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n    stable: 1.0.0\n    preview: [1.1.0]\n";

    /// The shipped iris models, in a tree where `changed` has other contents.
    fn read(changed: Option<(&str, Result<&str, Unread>)>) -> Result<Desired, Trouble> {
        let mut files = BTreeMap::from([("environments/prod/serving.yaml".to_owned(), SERVING.as_bytes().to_vec())]);
        for model in mainstay_models::embedded::MODELS {
            files.insert(format!("models/{}/{}/model.yaml", model.name, model.version), model.spec.to_vec());
        }
        let mut changed = changed.map(|(path, content)| (path.to_owned(), content.map(str::as_bytes)));
        desired(&"prod".parse().unwrap(), |path, _| match changed.take() {
            Some((other, content)) if other == path => content.map(<[u8]>::to_vec),
            kept => {
                changed = kept;
                files.get(path).cloned().ok_or(Unread::Missing)
            }
        })
    }

    #[test]
    fn every_version_is_resolved_to_its_bytes() {
        let desired = read(None).unwrap();
        let model = &desired.models["iris"];
        assert_eq!(model.stable.to_string(), "1.0.0");
        assert_eq!(model.versions.len(), 2);
        for (version, shipped) in model.versions.values().zip(mainstay_models::embedded::MODELS) {
            assert_eq!(version.spec, Blob::of(shipped.spec));
            assert_eq!(version.artifact, Blob::of(shipped.artifact));
        }
        let blobs: Vec<_> = desired.sources.iter().map(|source| source.blob).collect();
        let needed: Vec<_> = model.versions.values().flat_map(|version| [version.spec, version.artifact]).collect();
        assert_eq!(blobs, needed);
        let Origin::Artifact(artifact) = &desired.sources[1].origin else { panic!("an artifact comes second") };
        assert_eq!((artifact.path.as_str(), artifact.line), ("models/iris/1.0.0/model.onnx", 7));
    }

    #[test]
    fn an_artifact_elsewhere_is_resolved_to_its_places() {
        let text = String::from_utf8(mainstay_models::embedded::MODELS[0].spec.to_vec()).unwrap();
        let text = text.replace("file: model.onnx", "uri: s3://models/iris\n  mirrors: [https://models.example/iris]");
        let desired = read(Some(("models/iris/1.0.0/model.yaml", Ok(&text)))).unwrap();
        let Origin::Elsewhere { uris, spec, line } = &desired.sources[1].origin else { panic!("it lies elsewhere") };
        let uris: Vec<_> = uris.iter().map(ToString::to_string).collect();
        assert_eq!(uris, ["s3://models/iris", "https://models.example/iris"]);
        assert_eq!((spec.as_str(), *line), ("models/iris/1.0.0/model.yaml", 8));
    }

    #[test]
    fn a_missing_version_is_the_fault_of_the_line_that_asks_for_it() {
        let trouble = read(Some(("models/iris/1.1.0/model.yaml", Err(Unread::Missing)))).unwrap_err();
        let expected = "refused: environments/prod/serving.yaml:6: models.iris.preview: models/iris/1.1.0/model.yaml is not in the commit";
        assert_eq!(trouble.to_string(), expected);
    }

    #[test]
    fn what_git_cannot_tell_this_time_is_nobodys_fault() {
        for path in ["environments/prod/serving.yaml", "models/iris/1.0.0/model.yaml"] {
            let trouble = read(Some((path, Err(Unread::Trouble("the pipe broke".to_owned()))))).unwrap_err();
            assert_eq!(trouble, Trouble::Retry("the pipe broke".to_owned()));
        }
    }
}
