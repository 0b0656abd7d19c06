//! What the machine-learning platforms tell a container, as settings: the weakest ones, which everything else beats.
//!
//! | platform | tells | becomes |
//! |---|---|---|
//! | SageMaker | the folder `/opt/ml/model`, and `SAGEMAKER_BIND_TO_PORT` where a port is chosen | `models`, where there is anything in it; `listen` on that port, or 8080 |
//! | Vertex AI | `AIP_HTTP_PORT`, `AIP_STORAGE_URI`, `AIP_HEALTH_ROUTE`, `AIP_PREDICT_ROUTE` | `listen`; `models`, where it is a folder of this machine; `health_route`; `predict_route` |
//! | Azure Machine Learning | `AZUREML_MODEL_DIR` | `models` |
//!
//! A bucket that Vertex AI names is not read: a server that then answered from other models would be wrong in silence, so
//! that is an error, unless the models to serve are named otherwise. Does not know what is answered at a path.

use std::collections::BTreeMap;
use std::path::Path;

/// Where SageMaker unpacks a model.
pub(super) const SAGEMAKER_MODEL: &str = "/opt/ml/model";

/// What a platform asks for that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A port that is none.
    #[error("cannot use {variable}={value}: it is no port")]
    Port {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// Models in a bucket.
    #[error(
        "cannot read models from AIP_STORAGE_URI={0}: put them into the image, or mount the bucket, and name their folder with MAINSTAY_MODELS"
    )]
    Bucket(String),
}

/// What a platform tells.
#[derive(Debug)]
pub(super) struct Platform {
    pub(super) settings: Vec<Told>,
    /// What is wrong if no models are named otherwise.
    pub(super) unreadable: Option<PlatformError>,
}

/// A setting that a platform tells.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) key: &'static str,
    pub(super) value: String,
    /// What says so.
    pub(super) origin: fn(&str) -> String,
}

/// What `environment` tells, and the folder `sagemaker`, which other platforms do not have.
pub(super) fn told_by(environment: &BTreeMap<String, String>, sagemaker: &Path) -> Result<Platform, PlatformError> {
    let variable = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let listen = |name: &'static str, port: &str| match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(format!("0.0.0.0:{port}")),
        _ => Err(PlatformError::Port { variable: name, value: port.chars().take(40).collect() }),
    };
    let mut settings = Vec::new();
    let mut unreadable = None;
    if let Ok(mut entries) = std::fs::read_dir(sagemaker) {
        let value = listen("SAGEMAKER_BIND_TO_PORT", variable("SAGEMAKER_BIND_TO_PORT").unwrap_or("8080"))?;
        settings.push(Told { key: "listen", value, origin: |_| "SageMaker".to_owned() });
        // An endpoint may have no model of its own.
        if entries.next().is_some() {
            let value = sagemaker.display().to_string();
            settings.push(Told { key: "models", value, origin: |_| "SageMaker".to_owned() });
        }
    }
    if let Some(port) = variable("AIP_HTTP_PORT") {
        let value = listen("AIP_HTTP_PORT", port)?;
        settings.push(Told { key: "listen", value, origin: |_| "environment AIP_HTTP_PORT".to_owned() });
    }
    if let Some(uri) = variable("AIP_STORAGE_URI") {
        if uri.contains("://") {
            unreadable = Some(PlatformError::Bucket(uri.to_owned()));
        } else {
            let value = uri.to_owned();
            settings.push(Told { key: "models", value, origin: |_| "environment AIP_STORAGE_URI".to_owned() });
        }
    }
    if let Some(route) = variable("AIP_HEALTH_ROUTE") {
        let value = route.to_owned();
        settings.push(Told { key: "health_route", value, origin: |_| "environment AIP_HEALTH_ROUTE".to_owned() });
    }
    if let Some(route) = variable("AIP_PREDICT_ROUTE") {
        let value = route.to_owned();
        settings.push(Told { key: "predict_route", value, origin: |_| "environment AIP_PREDICT_ROUTE".to_owned() });
    }
    if let Some(folder) = variable("AZUREML_MODEL_DIR") {
        let value = folder.to_owned();
        settings.push(Told { key: "models", value, origin: |_| "environment AZUREML_MODEL_DIR".to_owned() });
    }
    Ok(Platform { settings, unreadable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(environment: &[(&str, &str)], sagemaker: &Path) -> Result<Vec<(&'static str, String)>, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let platform = told_by(&environment, sagemaker).map_err(|e| e.to_string())?;
        match platform.unreadable {
            Some(error) => Err(error.to_string()),
            None => Ok(platform.settings.into_iter().map(|told| (told.key, told.value)).collect()),
        }
    }

    #[test]
    fn each_platform_is_known_by_what_it_tells() {
        let none = Path::new("/there/is/no/such/folder");
        assert_eq!(told(&[("HOME", "/"), ("AIP_STORAGE_URI", "")], none), Ok(vec![]));
        let vertex = [("AIP_HTTP_PORT", "8080"), ("AIP_STORAGE_URI", "/models")];
        let expected = vec![("listen", "0.0.0.0:8080".to_owned()), ("models", "/models".to_owned())];
        assert_eq!(told(&vertex, none), Ok(expected));
        assert_eq!(told(&[("AZUREML_MODEL_DIR", "/var/m")], none), Ok(vec![("models", "/var/m".to_owned())]));
        let bucket = told(&[("AIP_STORAGE_URI", "gs://bucket/model")], none).unwrap_err();
        assert!(bucket.contains("gs://bucket/model") && bucket.contains("MAINSTAY_MODELS"), "{bucket}");
        assert!(told(&[("AIP_HTTP_PORT", "http")], none).unwrap_err().contains("AIP_HTTP_PORT=http"));
    }

    #[test]
    fn sagemaker_is_known_by_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(told(&[], folder.path()), Ok(vec![("listen", "0.0.0.0:8080".to_owned())]));
        std::fs::write(folder.path().join("model.yaml"), "").unwrap();
        let models = folder.path().display().to_string();
        let port = [("SAGEMAKER_BIND_TO_PORT", "9000")];
        assert_eq!(told(&port, folder.path()), Ok(vec![("listen", "0.0.0.0:9000".to_owned()), ("models", models)]));
    }
}
