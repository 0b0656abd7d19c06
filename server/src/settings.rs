//! What the server can be told: a file, then the environment (`MAINSTAY_…`), then flags; later wins.
//!
//! A key that is not known is an error, wherever it stands, so that a misspelling never means a default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{ConfigBuilder, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use serde::Deserialize;

use crate::engine::EngineChoice;

mod platform;

pub use platform::PlatformError;

/// What precedes a key in the environment's variables.
const PREFIX: &str = "MAINSTAY_";

/// Everything that the server can be told. The documentation of each key is that of the flag of the same name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where predictions are answered.
    pub listen: SocketAddr,
    /// Where operators are answered.
    pub admin: SocketAddr,
    /// The store to follow; without one, the shipped models are served.
    #[serde(default)]
    pub store: Option<PathBuf>,
    /// A plain folder with models to serve, instead of a store.
    #[serde(default)]
    pub models: Option<PathBuf>,
    /// The largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// The most rows of a request.
    pub rows_max: usize,
    /// From a request's head to its answer, in seconds.
    pub request_timeout_s: f64,
    /// The most connections.
    pub connections_max: usize,
    /// The most requests at hand; further ones get 503.
    pub requests_max: usize,
    /// The most requests that wait for a worker; further ones get 503.
    pub queue_max: usize,
    /// How long the requests at hand may take once the server is told to stop, in seconds.
    pub drain_timeout_s: f64,
    /// Threads for connections, threads for large requests, and requests that one model answers at the same time;
    /// 0 means one per processor.
    pub threads: usize,
    /// What runs models.
    pub engine: EngineChoice,
    /// Whether requests may load and unload models.
    pub repository_control: bool,
    /// A further path that is answered as `/ping` is.
    #[serde(default)]
    pub health_route: Option<String>,
    /// A further path that is answered as `/v1/models/{default}:predict` is.
    #[serde(default)]
    pub predict_route: Option<String>,
}

/// Every key, its default, and what it is for. An empty default means none.
pub const KEYS: [(&str, &str, &str); 16] = [
    ("listen", "0.0.0.0:5000", "Address where predictions are answered"),
    ("admin", "127.0.0.1:9090", "Address where operators are answered: /live /ready /status /metrics"),
    ("store", "", "Folder of the store to follow; without one the shipped models are served"),
    ("models", "", "Plain folder with models to serve: every model.yaml in it and up to three folders below"),
    ("body_bytes_max", "8388608", "Largest body of a request, in bytes"),
    ("rows_max", "10000", "Most rows of a request"),
    ("request_timeout_s", "30", "From a request's head to its answer, in seconds"),
    ("connections_max", "4096", "Most connections; further ones wait"),
    ("requests_max", "1024", "Most requests that wait for their body; further ones get 503"),
    ("queue_max", "256", "Most requests that wait for a worker; further ones get 503"),
    ("drain_timeout_s", "10", "Time for the requests at hand once told to stop, in seconds"),
    ("threads", "0", "Threads for connections and for large requests; 0 is one per processor"),
    ("engine", "auto", "What runs models: auto, ort, or compiled, which refuses those that only ONNX Runtime can run"),
    (
        "repository_control",
        "false",
        "Whether whoever reaches the server may load and unload models, as with Triton: true or false",
    ),
    ("health_route", "", "Further path that answers whether the server does, as AIP_HEALTH_ROUTE of Vertex AI"),
    (
        "predict_route",
        "",
        "Further path that answers instances by the default model, as AIP_PREDICT_ROUTE of Vertex AI",
    ),
];

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A key or value is wrong.
    #[error("cannot use the settings: {0}")]
    Config(#[from] ConfigError),
    /// A variable of the environment names no key.
    #[error("the environment's variable {PREFIX}{0} names no setting; `mainstay serve --help` lists them")]
    Variable(String),
    /// What a platform asks for cannot be had.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A value is out of its bounds.
    #[error("cannot use the setting {key}: {problem}")]
    Bounds {
        /// The key.
        key: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The settings in force, and where each comes from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// Each key with its value and its source, in the order of [`KEYS`].
    pub origins: Vec<(&'static str, String, String)>,
}

/// Resolves the settings from `file`, the variables `environment` and the given `flags`, by key.
///
/// Of the environment, variables that do not begin with `MAINSTAY_` are passed over, and so are the
/// ones in `other_variables`, which name something else of this program.
pub fn resolve(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    other_variables: &[&str],
    flags: &BTreeMap<&'static str, String>,
) -> Result<Resolved, SettingsError> {
    let mut variables = BTreeMap::new();
    let environment: BTreeMap<String, String> = environment.collect();
    for (name, value) in &environment {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        if other_variables.contains(&name.as_str()) {
            continue;
        }
        let known = KEYS.iter().find(|(known, ..)| key == known.to_ascii_uppercase());
        let (key, ..) = known.ok_or_else(|| SettingsError::Variable(key.to_owned()))?;
        variables.insert(*key, value.clone());
    }
    let defaults =
        KEYS.iter().filter(|(_, default, _)| !default.is_empty()).map(|(key, value, _)| (*key, (*value).to_owned()));
    let mut builder: ConfigBuilder<DefaultState> = ConfigBuilder::default();
    builder = builder.add_source(Named::new(defaults.collect(), |_| "default".to_owned()));
    let platform = platform::told_by(&environment, Path::new(platform::SAGEMAKER_MODEL))?;
    let (of_models, others): (Vec<_>, Vec<_>) = platform.settings.into_iter().partition(|told| told.key == "models");
    let source = |told: platform::Told| Named::new(BTreeMap::from([(told.key, told.value)]), told.origin);
    for told in others {
        builder = builder.add_source(source(told));
    }
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml));
    }
    builder = builder
        .add_source(Named::new(variables, |key| format!("environment {PREFIX}{}", key.to_ascii_uppercase())))
        .add_source(Named::new(flags.clone(), |key| format!("flag --{}", key.replace('_', "-"))));
    let mut config = builder.clone().build()?;
    let mut values = config.collect()?;
    // Who names a store or a folder means that one alone, whatever a platform says.
    if !values.contains_key("store") && !values.contains_key("models") {
        platform.unreadable.map_or(Ok(()), Err)?;
        for told in of_models {
            builder = builder.add_source(source(told));
        }
        config = builder.build()?;
        values = config.collect()?;
    }
    let origin = |(key, ..): &(&'static str, &str, &str)| match values.get(*key) {
        Some(value) => (*key, value.to_string(), value.origin().unwrap_or("default").to_owned()),
        None => (*key, String::new(), "default".to_owned()),
    };
    let origins = KEYS.iter().map(origin).collect();
    let settings: Settings = config.try_deserialize()?;
    settings.check()?;
    Ok(Resolved { settings, origins })
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        if self.store.as_ref().is_some_and(|store| store.as_os_str().is_empty()) {
            return Err(SettingsError::Bounds { key: "store", problem: "must name a folder" });
        }
        if self.models.as_ref().is_some_and(|models| models.as_os_str().is_empty()) {
            return Err(SettingsError::Bounds { key: "models", problem: "must name a folder" });
        }
        if self.models.is_some() && self.store.is_some() {
            return Err(SettingsError::Bounds { key: "models", problem: "stands beside `store`; keep one" });
        }
        for (key, route) in [("health_route", &self.health_route), ("predict_route", &self.predict_route)] {
            if route.as_ref().is_some_and(|route| !route.starts_with('/')) {
                return Err(SettingsError::Bounds { key, problem: "must be a path that begins with /" });
            }
        }
        let positive = [
            ("body_bytes_max", self.body_bytes_max),
            ("rows_max", self.rows_max),
            ("connections_max", self.connections_max),
            ("requests_max", self.requests_max),
            ("queue_max", self.queue_max),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(SettingsError::Bounds { key, problem: "must be at least 1" });
        }
        for (key, seconds) in [("request_timeout_s", self.request_timeout_s), ("drain_timeout_s", self.drain_timeout_s)]
        {
            if !(seconds > 0.0 && seconds <= 86_400.0) {
                return Err(SettingsError::Bounds { key, problem: "must be above 0 and at most a day" });
            }
        }
        Ok(())
    }
}

/// Values with a source that [`Resolved::origins`] can name.
#[derive(Debug, Clone)]
struct Named {
    values: BTreeMap<&'static str, String>,
    origin: fn(&str) -> String,
}

impl Named {
    fn new(values: BTreeMap<&'static str, String>, origin: fn(&str) -> String) -> Self {
        Self { values, origin }
    }
}

impl Source for Named {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let value = |(key, text): (&&'static str, &String)| {
            let origin = (self.origin)(key);
            ((*key).to_owned(), Value::new(Some(&origin), ValueKind::String(text.clone())))
        };
        Ok(self.values.iter().map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(
        file: Option<&str>,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Resolved, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = file.map(|text| {
            let path = dir.path().join("mainstay.toml");
            std::fs::write(&path, text).unwrap();
            path
        });
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        resolve(path.as_deref(), environment, &["MAINSTAY_LOG"], &flags).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_the_default() {
        let file = "rows_max = 1\nqueue_max = 1\nthreads = 1\n";
        let environment =
            [("MAINSTAY_QUEUE_MAX", "2"), ("MAINSTAY_THREADS", "2"), ("MAINSTAY_LOG", "x"), ("HOME", "/")];
        let Resolved { settings, origins } = resolved(Some(file), &environment, &[("threads", "3")]).unwrap();
        assert_eq!((settings.rows_max, settings.queue_max, settings.threads), (1, 2, 3));
        assert_eq!(settings.listen, "0.0.0.0:5000".parse().unwrap());
        let origin = |key: &str| origins.iter().find(|(k, ..)| *k == key).unwrap().2.clone();
        assert!(origin("rows_max").ends_with("mainstay.toml"), "{origins:?}");
        assert_eq!(origin("queue_max"), "environment MAINSTAY_QUEUE_MAX");
        assert_eq!((origin("threads").as_str(), origin("admin").as_str()), ("flag --threads", "default"));
    }

    #[test]
    fn a_platforms_variables_are_defaults() {
        let environment = [("AIP_PREDICT_ROUTE", "/a:predict"), ("AIP_HEALTH_ROUTE", "/a"), ("AIP_MODE", "PREDICTION")];
        let Resolved { settings, origins } = resolved(Some("health_route = \"/b\"\n"), &environment, &[]).unwrap();
        let routes = (settings.health_route.as_deref(), settings.predict_route.as_deref());
        assert_eq!(routes, (Some("/b"), Some("/a:predict")));
        let origin = origins.iter().find(|(key, ..)| *key == "predict_route").unwrap();
        assert_eq!(origin.2, "environment AIP_PREDICT_ROUTE");
    }

    #[test]
    fn what_a_platform_tells_is_beaten_by_whatever_is_said_otherwise() {
        let vertex = [("AIP_HTTP_PORT", "8080"), ("AIP_STORAGE_URI", "gs://bucket/model")];
        assert!(resolved(None, &vertex, &[]).unwrap_err().contains("gs://bucket/model"));
        let named = resolved(Some("store = \"/store\"\n"), &vertex, &[]).unwrap();
        assert_eq!(named.settings.listen, "0.0.0.0:8080".parse().unwrap());
        assert_eq!((named.settings.store, named.settings.models), (Some("/store".into()), None));
        let azure = [("AZUREML_MODEL_DIR", "/azure")];
        let Resolved { settings, origins } = resolved(None, &azure, &[("listen", "0.0.0.0:1")]).unwrap();
        assert_eq!((settings.models, settings.listen), (Some("/azure".into()), "0.0.0.0:1".parse().unwrap()));
        assert!(origins.contains(&("models", "/azure".to_owned(), "environment AZUREML_MODEL_DIR".to_owned())));
        let flag = resolved(None, &azure, &[("models", "/mine")]).unwrap();
        assert_eq!(flag.settings.models, Some("/mine".into()));
        let both = resolved(None, &[], &[("models", "/mine"), ("store", "/store")]).unwrap_err();
        assert!(both.contains("models: stands beside `store`"), "{both}");
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        let error = resolved(Some("rows_mx = 1\n"), &[], &[]).unwrap_err();
        assert!(error.contains("rows_mx"), "{error}");
        let error = resolved(None, &[("MAINSTAY_ROWS_MX", "1")], &[]).unwrap_err();
        assert!(error.contains("MAINSTAY_ROWS_MX"), "{error}");
    }

    #[test]
    fn a_value_that_cannot_be_is_an_error_that_names_its_key() {
        for (key, value) in [
            ("rows_max", "0"),
            ("rows_max", "-1"),
            ("rows_max", "many"),
            ("request_timeout_s", "0"),
            ("request_timeout_s", "NaN"),
            ("drain_timeout_s", "inf"),
            ("listen", "5000"),
            ("store", ""),
            ("models", ""),
            ("predict_route", "predict"),
        ] {
            let error = resolved(None, &[], &[(key, value)]).unwrap_err();
            assert!(error.contains(key), "{key}={value}: {error}");
        }
    }
}
