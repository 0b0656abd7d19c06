//! The files of one version, brought from where they were made into a checkout of a configuration repository.
//!
//! The card, the file that it names if that lies beside it, and the version's signature; nothing else of the folder. What is there already must
//! have the same bytes: a version never changes.

use std::path::{Path, PathBuf};

use mainstay_models::spec::Location;
use mainstay_models::yaml::FILE_BYTES_MAX;
use mainstay_models::{ModelName, ModelSpec, Version, YamlError};
use mainstay_sidecar::desired::Unread;

use crate::check::{ARTIFACT_BYTES_MAX, files};

/// The signature of a version's files, as OpenSSF model signing writes it.
const SIGNATURE: &str = "model.sig";

/// Why the files are not brought.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// They are not there.
    #[error("there is no model.yaml of {name} {version} in {}: give the folder that has it, or one with models/{name}/{version} in it", dir.display())]
    Missing { dir: PathBuf, name: ModelName, version: Version },
    /// One cannot be read.
    #[error("cannot read {path}: {problem}")]
    Unreadable { path: String, problem: String },
    /// The card is not valid.
    #[error(transparent)]
    Card(#[from] YamlError),
    /// It is another version's card.
    #[error("{} is the card of {name} {version}", path.display())]
    Other { path: PathBuf, name: ModelName, version: Version },
    /// The repository has something else under that name.
    #[error("the repository has {path} with other bytes: a version never changes, so release this as another one")]
    Differs { path: String },
    /// The repository's copy cannot be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// A version's files, by their paths in a configuration repository.
pub struct Bundle(Vec<(String, Vec<u8>)>);

impl Bundle {
    /// Reads them from `dir`, or where they lie below it.
    pub fn read(dir: &Path, name: &ModelName, version: &Version) -> Result<Self, BundleError> {
        let below = [String::new(), format!("{name}/{version}"), format!("models/{name}/{version}")];
        let folder = below.iter().map(|below| dir.join(below)).find(|folder| folder.join("model.yaml").is_file());
        let missing = || BundleError::Missing { dir: dir.to_owned(), name: name.clone(), version: version.clone() };
        let folder = folder.ok_or_else(missing)?;
        let path = folder.join("model.yaml");
        let text = take(&folder, "model.yaml", FILE_BYTES_MAX as u64)?;
        let spec = ModelSpec::parse(&path.display().to_string(), &text)?;
        if (&spec.name, &spec.version) != (name, version) {
            return Err(BundleError::Other { path, name: spec.name, version: spec.version });
        }
        let mut files = vec![(ModelSpec::path(name, version), text)];
        if let Location::File(file) = &spec.artifact.location {
            let bytes = take(&folder, file, ARTIFACT_BYTES_MAX)?;
            files.push((format!("models/{name}/{version}/{file}"), bytes));
        }
        if folder.join(SIGNATURE).exists() {
            let bytes = take(&folder, SIGNATURE, FILE_BYTES_MAX as u64)?;
            files.push((format!("models/{name}/{version}/{SIGNATURE}"), bytes));
        }
        Ok(Self(files))
    }

    /// Those that the checkout at `root` does not have; the others must be the same.
    pub fn missing_in(&self, root: &Path) -> Result<Vec<String>, BundleError> {
        let mut missing = Vec::new();
        for (path, bytes) in &self.0 {
            match files::read(root, path, bytes.len() as u64) {
                Ok(there) if there == *bytes => {}
                Ok(_) => return Err(BundleError::Differs { path: path.clone() }),
                Err(Unread::Missing) => missing.push(path.clone()),
                Err(Unread::Unfit(_)) => return Err(BundleError::Differs { path: path.clone() }),
                Err(Unread::Trouble(problem)) => return Err(BundleError::Unreadable { path: path.clone(), problem }),
            }
        }
        Ok(missing)
    }

    /// Writes those at `paths`, which the checkout has been found not to have.
    pub fn write_into(&self, root: &Path, paths: &[String]) -> Result<(), BundleError> {
        self.0
            .iter()
            .filter(|(path, _)| paths.contains(path))
            .try_for_each(|(path, bytes)| write(&root.join(path), bytes))
    }
}

/// Writes a file, and the folders that it lies in.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let folder = path.parent().expect("a file of a repository lies in a folder");
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, bytes));
    written.map_err(|source| BundleError::Write { path: path.to_owned(), source })
}

fn take(folder: &Path, name: &str, bytes_max: u64) -> Result<Vec<u8>, BundleError> {
    files::read(folder, name, bytes_max).map_err(|unread| {
        let path = folder.join(name).display().to_string();
        match unread {
            Unread::Missing => BundleError::Unreadable { path, problem: "it is not there".to_owned() },
            Unread::Unfit(problem) | Unread::Trouble(problem) => BundleError::Unreadable { path, problem },
        }
    })
}
