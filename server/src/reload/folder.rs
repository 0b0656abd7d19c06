//! A plain folder of models, without a store and without git: read when the server starts, and of a model again when that
//! is ordered.
//!
//! Every model.yaml in the folder, and up to three folders below, is a version, with its model file beside it; so are
//! laid out `DIR/<name>/<version>/model.yaml`, what SageMaker unpacks, and what Azure Machine Learning mounts. A
//! serving.yaml in the folder says what is served as what, as in a configuration repository; without one it is everything,
//! and of each model the highest version is stable.
//!
//! Guarantees: a version is held against its card, its digest first, and is tried in a child process, as one of a
//! release; one that fails is told, and keeps none of the others from being served.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mainstay_models::store::{AddError, OpenError, ReadError};
use mainstay_models::{Blob, ModelName, ModelSpec, Publisher, ReleasedVersion, Role, Serving, Version, YamlError};

use super::{Loader, State, Status, Trial, VersionStatus, sentence};
use crate::catalog::{Catalog, CatalogModel, LoadedVersion};

/// How deep below the folder a card may lie.
const DEPTH_MAX: usize = 3;
/// The most versions.
const VERSIONS_MAX: usize = 256;
/// The most entries that are looked at.
const ENTRIES_MAX: usize = 16_384;
/// The largest card; a parser's own bound is the same.
const CARD_BYTES_MAX: u64 = 4 << 20;

/// A folder of which nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder or a file in it cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A card or the serving.yaml is wrong.
    #[error("cannot use the folder of models")]
    Yaml(#[from] YamlError),
    /// There is nothing to serve.
    #[error("there is no model.yaml in {0} or up to {DEPTH_MAX} folders below: put one beside each model file")]
    Empty(PathBuf),
    /// More than a sensible folder.
    #[error("there are more than {VERSIONS_MAX} versions or {ENTRIES_MAX} files in {0}: name a smaller folder")]
    TooMany(PathBuf),
    /// Two cards say that they are the same version.
    #[error("{first} and {second} are both version {version} of {name}: keep one")]
    Twice {
        /// The model.
        name: ModelName,
        /// The version.
        version: Version,
        /// One card.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The serving.yaml asks for a version that is not there.
    #[error("serving.yaml asks for {name} {version}, of which the folder has no model.yaml")]
    Missing {
        /// The model.
        name: ModelName,
        /// The version.
        version: Version,
    },
    /// The place for trials cannot be made.
    #[error("cannot make a folder for trials in the folder for temporary files (TMPDIR)")]
    Temporary(#[source] io::Error),
    /// The place for trials cannot be used.
    #[error("cannot use the folder for trials")]
    Open(#[from] OpenError),
    /// None of the versions loads.
    #[error("none of the models in {folder} can be served: {reason}")]
    Failed {
        /// The folder.
        folder: PathBuf,
        /// Why the first one cannot.
        reason: String,
    },
}

/// Why one version cannot be served.
#[derive(Debug, thiserror::Error)]
enum VersionError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not the file that its model.yaml names")]
    Digest { path: PathBuf, source: AddError },
    #[error("cannot keep the card for the trial")]
    Card(#[source] AddError),
    #[error("cannot read back what was verified")]
    Back(#[from] ReadError),
    #[error(transparent)]
    Trial(#[from] super::TrialError),
    #[error("{0}")]
    Load(String),
}

/// A version in a folder.
struct Found {
    card: PathBuf,
    text: Vec<u8>,
    spec: ModelSpec,
}

type Versions = BTreeMap<ModelName, BTreeMap<Version, Found>>;

/// What lies in a folder.
struct Folder {
    found: Versions,
    /// What is to be served as what.
    asked: BTreeMap<ModelName, Vec<(Version, Role)>>,
    /// The model that a request without a model's name gets.
    default: Option<ModelName>,
}

/// A model as a folder has it, or as near to it as its versions load.
pub(super) struct FolderModel {
    pub(super) model: CatalogModel,
    pub(super) statuses: Vec<VersionStatus>,
    /// The first version that does not load, and why, where that may be told to who is no operator.
    pub(super) failed: Option<(Version, Option<String>)>,
}

impl Loader {
    /// Loads what lies in the folder `root`, each version after a trial, and says how it went.
    pub fn folder(&self, root: &Path, trial: &Trial) -> Result<(Catalog, Status), FolderError> {
        let Folder { mut found, asked, default } = Folder::read(root)?;
        let aside = tempfile::tempdir().map_err(FolderError::Temporary)?;
        let bench = Bench { publisher: Publisher::open(aside.path())?, trial, abandoned: &AtomicBool::new(false) };
        let mut catalog = Catalog { default, ..Catalog::default() };
        let mut status = Status::default();
        for (name, versions) in asked {
            let found = found.remove(&name).expect("what is asked for has been found");
            let loaded = self.model(&name, versions, found, &CatalogModel::default(), &bench);
            catalog.models.insert(name, loaded.model);
            status.models.extend(loaded.statuses);
        }
        if catalog.answers() {
            return Ok((catalog, status));
        }
        let reason = status.models.into_iter().find_map(|version| version.reason).unwrap_or_default();
        Err(FolderError::Failed { folder: root.to_owned(), reason })
    }

    /// Loads what the folder `root` has of one model now, of which `before` was served; the names of all where it has
    /// none. A version that is served from the same bytes is left as it is.
    pub(super) fn folder_model(
        &self,
        root: &Path,
        name: &ModelName,
        before: &CatalogModel,
        trial: &Trial,
        abandoned: &AtomicBool,
    ) -> Result<Result<FolderModel, Vec<String>>, FolderError> {
        let Folder { mut found, mut asked, .. } = Folder::read(root)?;
        let (Some(versions), Some(found)) = (asked.remove(name), found.remove(name)) else {
            return Ok(Err(asked.keys().map(ToString::to_string).collect()));
        };
        let aside = tempfile::tempdir().map_err(FolderError::Temporary)?;
        let bench = Bench { publisher: Publisher::open(aside.path())?, trial, abandoned };
        Ok(Ok(self.model(name, versions, found, before, &bench)))
    }

    fn model(
        &self,
        name: &ModelName,
        asked: Vec<(Version, Role)>,
        mut found: BTreeMap<Version, Found>,
        before: &CatalogModel,
        bench: &Bench<'_>,
    ) -> FolderModel {
        let (mut model, mut statuses, mut failed) = (CatalogModel::default(), Vec::new(), None);
        for (version, role) in asked {
            let found = found.remove(&version).expect("what is asked for has been found");
            let sha256 = found.spec.artifact.blob.sha256;
            let kept = before.versions.get(&version).filter(|kept| kept.blobs == found.blobs());
            let loaded = match kept {
                Some(kept) => Ok(Arc::clone(kept)),
                None => self.version(found, bench).map(Arc::new),
            };
            let reason = loaded.as_ref().err().map(|error| sentence(error));
            match &loaded {
                Ok(loaded) => {
                    if kept.is_none() {
                        tracing::info!(model = %name, %version, sha256 = sha256.short(), "loaded");
                    }
                    if role == Role::Stable {
                        model.stable = Some(version.clone());
                    }
                    model.versions.insert(version.clone(), Arc::clone(loaded));
                }
                Err(error) => {
                    tracing::warn!(model = %name, %version, reason, "a version failed; it is not served");
                    failed.get_or_insert_with(|| (version.clone(), error.for_clients()));
                }
            }
            let loaded = loaded.ok();
            statuses.push(VersionStatus {
                name: name.clone(),
                version: version.clone(),
                role,
                state: if loaded.is_some() { State::Live } else { State::Failed },
                sha256,
                serving: loaded.is_some().then(|| version.clone()),
                commit: None,
                reason,
                fallback: None,
                engine: loaded.as_ref().map(|loaded| loaded.engine.name()),
                not_compiled: loaded.and_then(|loaded| loaded.not_compiled.clone()),
            });
        }
        // What was served before stays where what shall replace it does not load.
        if let (None, Some((version, kept))) = (&model.stable, before.stable_version()) {
            model.stable = Some(version.clone());
            model.versions.entry(version.clone()).or_insert_with(|| Arc::clone(kept));
            let stable = statuses.iter_mut().filter(|status| status.role == Role::Stable);
            stable.for_each(|status| status.serving = Some(version.clone()));
        }
        FolderModel { model, statuses, failed }
    }

    fn version(&self, found: Found, bench: &Bench<'_>) -> Result<LoadedVersion, VersionError> {
        let blobs = found.blobs();
        let Found { card, text, spec } = found;
        bench.publisher.add(&blobs.spec, text.as_slice()).map_err(VersionError::Card)?;
        // Where the card names a place outside, the file may still lie here: its digest says whether it is the one.
        let path = card.with_file_name(spec.artifact.location.file_name());
        let file = File::open(&path).map_err(|source| VersionError::Read { path: path.clone(), source })?;
        bench.publisher.add(&blobs.artifact, file).map_err(|source| VersionError::Digest { path, source })?;
        let reader = bench.publisher.reader();
        let admission = bench.trial.check_until(reader.root(), &blobs, bench.abandoned)?;
        let artifact = reader.blob(&blobs.artifact)?;
        self.load(spec, blobs, &artifact, &admission).map_err(VersionError::Load)
    }
}

/// What a load from a folder needs.
struct Bench<'b> {
    publisher: Publisher,
    trial: &'b Trial,
    abandoned: &'b AtomicBool,
}

impl Found {
    fn blobs(&self) -> ReleasedVersion {
        ReleasedVersion { spec: Blob::of(&self.text), artifact: self.spec.artifact.blob }
    }
}

impl VersionError {
    /// The reason for who may load models but need not know this machine's paths.
    fn for_clients(&self) -> Option<String> {
        match self {
            Self::Digest { .. } => Some("its model file is not the one that its model.yaml names".to_owned()),
            Self::Trial(error) => Some(sentence(error)),
            Self::Load(reason) => Some(reason.clone()),
            Self::Read { .. } | Self::Card(_) | Self::Back(_) => None,
        }
    }
}

impl Folder {
    fn read(root: &Path) -> Result<Self, FolderError> {
        let found = find(root)?;
        let serving = serving(root)?;
        let mut asked: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut first = None;
        for (name, version, role) in asked_versions(root, &found, serving.as_ref())? {
            first.get_or_insert_with(|| name.clone());
            asked.entry(name).or_default().push((version, role));
        }
        Ok(Self { found, asked, default: serving.map(|serving| serving.default).or(first) })
    }
}

/// Every version in the folder.
fn find(root: &Path) -> Result<Versions, FolderError> {
    let mut versions = Versions::new();
    let mut folders = vec![(root.to_owned(), 0)];
    let (mut cards, mut entries) = (0, 0);
    while let Some((folder, depth)) = folders.pop() {
        let fail = |source| FolderError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(FolderError::TooMany(root.to_owned()));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Such as `.git`, and what Kubernetes keeps beside the links of a mounted volume.
            if name.starts_with('.') {
                continue;
            }
            if name == "model.yaml" {
                cards += 1;
                if cards > VERSIONS_MAX {
                    return Err(FolderError::TooMany(root.to_owned()));
                }
                add(&mut versions, path)?;
            } else if depth < DEPTH_MAX && path.is_dir() {
                folders.push((path, depth + 1));
            }
        }
    }
    if versions.is_empty() { Err(FolderError::Empty(root.to_owned())) } else { Ok(versions) }
}

fn add(versions: &mut Versions, card: PathBuf) -> Result<(), FolderError> {
    let text = read(&card)?;
    let spec = ModelSpec::parse(&card.display().to_string(), &text)?;
    let (name, version) = (spec.name.clone(), spec.version.clone());
    let of_model = versions.entry(name.clone()).or_default();
    if let Some(other) = of_model.get(&version) {
        return Err(FolderError::Twice { name, version, first: other.card.clone(), second: card });
    }
    of_model.insert(version, Found { card, text, spec });
    Ok(())
}

fn serving(root: &Path) -> Result<Option<Serving>, FolderError> {
    let path = root.join("serving.yaml");
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(Serving::parse(&path.display().to_string(), &read(&path)?)?))
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    let fail = |source| FolderError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    // One byte more than the parser takes, which then says so.
    File::open(path).map_err(fail)?.take(CARD_BYTES_MAX + 1).read_to_end(&mut text).map_err(fail)?;
    Ok(text)
}

/// What is to be served as what.
fn asked_versions(
    root: &Path,
    found: &Versions,
    serving: Option<&Serving>,
) -> Result<Vec<(ModelName, Version, Role)>, FolderError> {
    let mut asked = Vec::new();
    let Some(serving) = serving else {
        for (name, versions) in found {
            let highest = versions.keys().next_back().ok_or_else(|| FolderError::Empty(root.to_owned()))?;
            for version in versions.keys() {
                let role = if version == highest { Role::Stable } else { Role::Preview };
                asked.push((name.clone(), version.clone(), role));
            }
        }
        return Ok(asked);
    };
    for (name, model) in &serving.models {
        for version in model.versions() {
            if !found.get(name).is_some_and(|versions| versions.contains_key(version)) {
                return Err(FolderError::Missing { name: name.clone(), version: version.clone() });
            }
            let role = if *version == model.stable { Role::Stable } else { Role::Preview };
            asked.push((name.clone(), version.clone(), role));
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use mainstay_models::embedded::MODELS;

    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn what(folder: &tempfile::TempDir) -> Result<Vec<String>, String> {
        let found = find(folder.path()).map_err(|e| sentence(&e))?;
        let serving = serving(folder.path()).map_err(|e| sentence(&e))?;
        let asked = asked_versions(folder.path(), &found, serving.as_ref()).map_err(|e| sentence(&e))?;
        Ok(asked.into_iter().map(|(name, version, role)| format!("{name} {version} {role:?}")).collect())
    }

    #[test]
    fn cards_are_found_in_the_folder_and_below_it_and_the_highest_version_is_stable() {
        let single = folder(&[("model.yaml", MODELS[0].spec), (".hidden/model.yaml", b"no card")]);
        assert_eq!(what(&single), Ok(vec!["iris 1.0.0 Stable".to_owned()]));
        let several = folder(&[
            ("iris/1.1.0/model.yaml", MODELS[1].spec),
            ("iris/1.0.0/model.yaml", MODELS[0].spec),
            ("a/b/c/model.yaml", MODELS[2].spec),
            ("too/deep/to/be/found/model.yaml", b"no card"),
        ]);
        let found = ["iris 1.0.0 Preview", "iris 1.1.0 Stable", "pred-main 1.0.0 Stable"];
        assert_eq!(what(&several), Ok(found.map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_serving_file_says_what_is_served() {
        let serving = b"apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris: {stable: 1.0.0, preview: [1.1.0]}\n";
        let mut files: Vec<(&str, &[u8])> = vec![
            ("1/model.yaml", MODELS[0].spec),
            ("2/model.yaml", MODELS[1].spec),
            ("3/model.yaml", MODELS[2].spec),
            ("serving.yaml", serving),
        ];
        assert_eq!(what(&folder(&files)).unwrap(), ["iris 1.0.0 Stable", "iris 1.1.0 Preview"]);
        files.remove(1);
        let missing = what(&folder(&files)).unwrap_err();
        assert_eq!(missing, "serving.yaml asks for iris 1.1.0, of which the folder has no model.yaml");
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_told_with_its_path() {
        assert!(what(&folder(&[])).unwrap_err().contains("there is no model.yaml in "));
        let twice = folder(&[("a/model.yaml", MODELS[0].spec), ("b/model.yaml", MODELS[0].spec)]);
        assert!(what(&twice).unwrap_err().contains("are both version 1.0.0 of iris: keep one"));
        let wrong = folder(&[("a/model.yaml", b"apiVersion: mainstay/v2\n")]);
        assert!(what(&wrong).unwrap_err().contains("a/model.yaml:"));
    }
}
