//! The flags about artifacts that lie outside git, which `sync` and `check` share.

use std::path::PathBuf;
use std::time::Duration;

use mainstay_sidecar::fetch::{Folder, Settings, Variables};

#[derive(clap::Args)]
pub struct Artifacts {
    /// A folder outside git that artifacts may be fetched from, such as s3://models/ or oci://registry.example/models/; may
    /// be given several times. What a card names elsewhere is refused.
    ///
    /// s3, gs and az use the workload's own identity, by the variables that each cloud sets; docs/operating.md says which.
    #[arg(long, value_name = "URI")]
    allow_artifacts_from: Vec<Folder>,

    /// File in the format of Docker's config.json that lets us into registries; read anew at each use.
    #[arg(long, value_name = "FILE")]
    registry_config: Option<PathBuf>,

    /// File with the bearer token for an https host, with its port if it has one; read anew at each use. May be given
    /// several times.
    #[arg(long, value_name = "HOST=FILE", value_parser = parse_token_file)]
    artifact_token_file: Vec<(String, PathBuf)>,

    /// How long fetching one artifact may take.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = humantime::parse_duration)]
    download_timeout: Duration,
}

impl Artifacts {
    /// Nothing may be fetched.
    pub fn none() -> Self {
        let (allow_artifacts_from, artifact_token_file) = (Vec::new(), Vec::new());
        Self { allow_artifacts_from, registry_config: None, artifact_token_file, download_timeout: Duration::ZERO }
    }

    /// Whether anything may be fetched.
    pub fn any_allowed(&self) -> bool {
        !self.allow_artifacts_from.is_empty()
    }

    pub fn settings(&self) -> Settings {
        Settings {
            allowed: self.allow_artifacts_from.clone(),
            registry_config: self.registry_config.clone(),
            token_files: self.artifact_token_file.iter().cloned().collect(),
            variables: Variables::of_process(),
            deadline: self.download_timeout,
            ..Settings::default()
        }
    }
}

fn parse_token_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((host, file)) if !host.is_empty() && !file.is_empty() => Ok((host.to_owned(), file.into())),
        _ => Err("write HOST=FILE".to_owned()),
    }
}
