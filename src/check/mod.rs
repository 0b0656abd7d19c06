//! `mainstay check`: what the sidecar and the server would say of a configuration repository, before it is merged.
//!
//! Nothing is checked here: the commit goes before the sidecar's judge, the files go through the sidecar's resolution,
//! into a store of their own, and each version through the server's trial in a child process.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use mainstay_models::yaml::FILE_BYTES_MAX;
use mainstay_models::{Blob, CommitId, EnvironmentName, ModelName, ModelSpec, Publisher, Reader, Serving, Version};
use mainstay_server::reload::{Trial, TrialError};
use mainstay_sidecar::Control;
use mainstay_sidecar::desired::{Desired, Unread, desired};
use mainstay_sidecar::fetch::Fetcher;
use mainstay_sidecar::supply::Supply;
use mainstay_sidecar::trouble::{Refusal, Trouble};
use mainstay_sidecar::trust::checkout::{Checkout, CheckoutError};
use mainstay_sidecar::trust::{self, Verified, Verify, model};
use serde::Serialize;
use tempfile::TempDir;

use crate::artifacts::Artifacts;
use crate::sync::parse_verify;
use crate::{USAGE, failed};

pub mod compare;
pub mod files;
pub mod report;

use compare::Difference;

/// The largest artifact that is read: what the sidecar reads from git.
pub const ARTIFACT_BYTES_MAX: u64 = 64 << 20;

/// Checks a configuration repository as the sidecar and the server would, models loaded and replayed too
///
/// For the repository's pull requests: every file that an environment needs is parsed, every model file is held against
/// its digest, loaded in a child process, and must give its golden answers. With --live, says what would change against
/// a running server: versions, metrics, and what in a model's inputs or classes would break its clients. Artifacts outside
/// git are fetched and checked too where --allow-artifacts-from says so; else only what the cards say is. In GitHub
/// Actions, what is wrong becomes an annotation at its file and line.
///
/// With --verify, also judges the commit that is checked out, as a sidecar that has the live one would:
///
///     mainstay check --verify strict --allowed-signers FILE --since $(git merge-base origin/main HEAD)
///
/// Exit codes: 0 good, 1 something would be refused or would not load, 2 it cannot be told: the live server, the
/// repository or an artifact cannot be read, the clone is shallow, or files are not as they were committed; 64 the command
/// line is wrong.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A checkout of the configuration repository.
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,

    /// The environment to check; may be given several times [default: all in environments/].
    #[arg(long = "env", value_name = "NAME")]
    environments: Vec<EnvironmentName>,

    /// The data address of a server to compare with, such as http://127.0.0.1:5000.
    #[arg(long, value_name = "URL")]
    live: Option<String>,

    #[command(flatten)]
    trust: Trust,

    #[command(flatten)]
    artifacts: Artifacts,

    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// What is asked of the commit that is checked out, and of versions.
#[derive(clap::Args)]
struct Trust {
    /// Judge the commit that is checked out as `mainstay sync` does with the same flags: it must descend from the live one,
    /// and be signed (head), or every commit since the live one (strict).
    ///
    /// PATH must be the top of a clone, and its files be as they were committed. Without --since and --live nothing is known to
    /// be live, and strict verifies the newest commit alone, and says so.
    #[arg(long, value_name = "none|head|strict", value_parser = parse_verify)]
    verify: Option<Verify>,

    /// The whole id of the commit that is live [default: that of --live].
    #[arg(long, value_name = "COMMIT", requires = "verify")]
    since: Option<CommitId>,

    /// Also let a commit pass that does not descend from the live one.
    #[arg(long, requires = "verify")]
    allow_rewind: bool,

    /// Refuse every version that is not signed by a `modelKey` of the allowed signers, as the sidecar does.
    #[arg(long)]
    verify_models: bool,

    /// The sidecar's file of allowed signers.
    #[arg(long, value_name = "FILE")]
    allowed_signers: Option<PathBuf>,
}

impl Trust {
    fn settings(&self) -> Result<trust::Settings, CheckError> {
        let Self { verify, allow_rewind, verify_models, ref allowed_signers, .. } = *self;
        let (verify, allowed_signers) = (verify.unwrap_or_default(), allowed_signers.clone());
        let settings = trust::Settings { verify, verify_models, allowed_signers, allow_rewind };
        if settings.is_complete() { Ok(settings) } else { Err(CheckError::Signers(mainstay_sidecar::Error::Signers)) }
    }
}

/// Whose signatures versions must have.
#[derive(Default, clap::Args)]
pub struct Signatures {
    /// Refuse every version that is not signed by a `modelKey` of the allowed signers, as the sidecar does.
    #[arg(long, requires = "allowed_signers")]
    verify_models: bool,

    /// The sidecar's file of allowed signers.
    #[arg(long, value_name = "FILE", requires = "verify_models")]
    allowed_signers: Option<PathBuf>,
}

/// What was found in one environment.
#[derive(Debug, Serialize)]
pub struct Findings {
    environment: EnvironmentName,
    /// The commit that was judged; none where the files alone were asked about.
    commit: Option<Judged>,
    /// Why the sidecar would refuse the commit.
    refused: Option<Refusal>,
    pub versions: Vec<Finding>,
    /// The models that would move only together.
    together: Vec<BTreeSet<ModelName>>,
    /// Against what is live; empty where nothing was compared, or nothing differs.
    differences: Vec<Difference>,
}

/// The commit that is checked out, before the sidecar's judge.
#[derive(Debug, Serialize)]
pub struct Judged {
    id: CommitId,
    /// What it was held against; none where nothing is known to be live.
    live: Option<CommitId>,
    /// Who signed it; none where it is refused, or no signature is asked for.
    verified: Option<Verified>,
}

/// What was found of one version.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub model: ModelName,
    pub version: Version,
    stable: bool,
    /// The card's path.
    file: String,
    golden_rows: usize,
    /// Whether the model's bytes were looked at, and not its card alone.
    pub loaded: bool,
    /// Why the server would not serve it.
    failed: Option<String>,
    /// Why it would wait, although it is good: for another model that it moves together with.
    held: Option<String>,
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("cannot list the environments in {}: give a checkout of the configuration repository", path.display())]
    Environments { path: PathBuf, source: std::io::Error },
    #[error("there is no environment in {}: give a checkout of the configuration repository", path.display())]
    Empty { path: PathBuf },
    #[error("cannot work in a temporary folder")]
    Folder(#[source] std::io::Error),
    #[error("cannot make a store in a temporary folder")]
    Store(#[from] mainstay_models::store::OpenError),
    #[error("{0}")]
    Unreadable(String),
    #[error(transparent)]
    Signers(mainstay_sidecar::Error),
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    #[error("cannot ask the live server at {url}")]
    Live { url: String, source: Box<ureq::Error> },
}

impl Findings {
    pub fn good(&self) -> bool {
        self.refused.is_none() && self.versions.iter().all(|version| version.failed.is_none())
    }

    /// Notes which stable versions would wait for another one of their group.
    fn hold_groups(&mut self) {
        for group in &self.together {
            let in_group = |finding: &Finding| finding.stable && group.contains(&finding.model);
            let failed = self.versions.iter().find(|finding| in_group(finding) && finding.failed.is_some());
            let Some(failed) = failed.map(|failed| format!("{} {}", failed.model, failed.version)) else { continue };
            for finding in self.versions.iter_mut().filter(|finding| in_group(finding) && finding.failed.is_none()) {
                finding.held = Some(format!("{failed} of its group would not load"));
            }
        }
    }
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match check(arguments) {
        Ok(findings) => {
            let good = findings.iter().all(Findings::good);
            if arguments.json {
                report::json(&findings);
            } else {
                report::text(&findings, arguments.live.as_deref(), std::io::stdout().is_terminal());
            }
            // A workflow that asks for JSON reads it itself.
            if !arguments.json && std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
                report::annotate(&findings);
            }
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error @ CheckError::Signers(_)) => failed(&error, USAGE),
        Err(error @ (CheckError::Live { .. } | CheckError::Checkout(_) | CheckError::Unreadable(_))) => {
            failed(&error, 2)
        }
        Err(error) => failed(&error, 1),
    }
}

fn check(arguments: &Arguments) -> Result<Vec<Findings>, CheckError> {
    let Trust { verify, since, .. } = &arguments.trust;
    let mut checker = Checker::new(&arguments.path, &arguments.artifacts, arguments.trust.settings()?)?;
    if verify.is_some() {
        checker.look_at_the_commit()?;
    }
    let environments = match arguments.environments.as_slice() {
        [] => checker.environments()?,
        given => given.to_vec(),
    };
    let live = arguments.live.as_deref().map(compare::Live::ask).transpose()?;
    checker.live = since.clone().or_else(|| live.as_ref()?.commit.clone());
    environments.into_iter().map(|environment| checker.environment(environment, live.as_ref())).collect()
}

/// What both programs would say of one environment of the checkout at `root`.
pub fn environment(
    root: &Path,
    environment: &EnvironmentName,
    artifacts: &Artifacts,
    signatures: &Signatures,
) -> Result<Findings, CheckError> {
    let trust = trust::Settings {
        verify_models: signatures.verify_models,
        allowed_signers: signatures.allowed_signers.clone(),
        ..trust::Settings::default()
    };
    Checker::new(root, artifacts, trust)?.environment(environment.clone(), None)
}

/// A checkout, and a store of its own to put its bytes into.
struct Checker<'a> {
    root: &'a Path,
    trust: trust::Settings,
    /// None where the files alone are asked about.
    checkout: Option<Checkout>,
    /// What the checkout's commit is held against.
    live: Option<CommitId>,
    publisher: Arc<Publisher>,
    /// None where nothing may be fetched.
    fetcher: Option<Fetcher>,
    trial: Trial,
    /// The store's, and git's; last, since both work in it.
    folder: TempDir,
}

impl<'a> Checker<'a> {
    fn new(root: &'a Path, artifacts: &Artifacts, trust: trust::Settings) -> Result<Self, CheckError> {
        let folder = tempfile::tempdir().map_err(CheckError::Folder)?;
        let publisher = Arc::new(Publisher::open(folder.path())?);
        let program = std::env::current_exe().map_err(CheckError::Folder)?;
        let fetcher = Fetcher::new(artifacts.settings(), None, Control::new(), None);
        let fetcher = artifacts.any_allowed().then_some(fetcher);
        let (checkout, live) = (None, None);
        Ok(Self { root, trust, checkout, live, publisher, fetcher, trial: Trial { program }, folder })
    }

    /// From here on asks about the commit that is checked out too.
    fn look_at_the_commit(&mut self) -> Result<(), CheckError> {
        let (program, scratch) = (self.trial.program.clone(), self.folder.path().join("git"));
        self.checkout = Some(Checkout::open(self.root, program, scratch)?);
        Ok(())
    }

    /// The environments of the checkout, in the order of their names; of the commit too, where that is asked about.
    fn environments(&mut self) -> Result<Vec<EnvironmentName>, CheckError> {
        let mut names = files::environments(self.root)?;
        if let Some(checkout) = &mut self.checkout {
            for name in checkout.environments()? {
                let file = checkout.read(&Serving::path(&name), FILE_BYTES_MAX as u64);
                if !names.contains(&name) && !matches!(file, Err(Unread::Missing)) {
                    names.push(name);
                }
            }
            names.sort();
        }
        Ok(names)
    }

    fn environment(
        &mut self,
        environment: EnvironmentName,
        live: Option<&compare::Live>,
    ) -> Result<Findings, CheckError> {
        let mut findings = Findings {
            environment,
            commit: None,
            refused: None,
            versions: Vec::new(),
            together: Vec::new(),
            differences: Vec::new(),
        };
        let resolved = self.judge(&mut findings).and_then(|()| {
            let (root, trust, checkout) = (self.root, &self.trust, &mut self.checkout);
            let mut read = |path: &str, bytes_max| read(root, checkout, path, bytes_max);
            let desired = desired(&findings.environment, &mut read)?;
            model::check(trust, &findings.environment, &desired.versions, None, read)?;
            self.add(desired)
        });
        let (desired, unseen) = match resolved {
            Ok(added) => added,
            Err(Trouble::Refused(refusal)) => {
                findings.refused = Some(refusal);
                return Ok(findings);
            }
            Err(Trouble::Retry(problem)) => return Err(CheckError::Unreadable(problem)),
        };
        let reader = self.publisher.reader();
        let mut stable = Vec::new();
        for (name, model) in &desired.models {
            for (version, blobs) in &model.versions {
                let file = ModelSpec::path(name, version);
                let spec = spec_of(&reader, &file, &blobs.spec)?;
                let loaded = !unseen.contains(&blobs.artifact);
                let trial = if loaded { self.trial.check(reader.root(), blobs).map(drop) } else { Ok(()) };
                let failed = match trial {
                    Ok(()) => None,
                    Err(TrialError::Start(source)) => return Err(CheckError::Folder(source)),
                    Err(refused) => Some(refused.to_string()),
                };
                findings.versions.push(Finding {
                    model: name.clone(),
                    version: version.clone(),
                    stable: *version == model.stable,
                    file,
                    golden_rows: spec.golden.rows.len(),
                    loaded,
                    failed,
                    held: None,
                });
                if *version == model.stable {
                    stable.push(spec);
                }
            }
        }
        findings.together = desired.together;
        findings.hold_groups();
        findings.differences = live.map_or_else(Vec::new, |live| live.differences(&stable));
        Ok(findings)
    }

    /// Asks the sidecar's judge about the commit, where that is asked about.
    fn judge(&mut self, findings: &mut Findings) -> Result<(), Trouble> {
        let Some(checkout) = &mut self.checkout else { return Ok(()) };
        let judged = Judged { id: checkout.commit().clone(), live: self.live.clone(), verified: None };
        let judged = findings.commit.insert(judged);
        judged.verified = checkout.judge(&self.trust, &findings.environment, self.live.as_ref())?;
        Ok(())
    }

    /// Puts every blob into the store, which verifies it. Gives also the blobs that nobody may fetch.
    fn add(&mut self, mut desired: Desired) -> Result<(Desired, BTreeSet<Blob>), Trouble> {
        // Git LFS brings its files into a checkout by itself.
        let supply = Supply { artifact_bytes_max: ARTIFACT_BYTES_MAX, lfs: None };
        let mut wanted = Vec::new();
        for source in std::mem::take(&mut desired.sources) {
            let read = |path: &str, bytes_max| read(self.root, &mut self.checkout, path, bytes_max);
            wanted.extend(supply.add(&self.publisher, source, read)?);
        }
        match &self.fetcher {
            Some(fetcher) => fetcher.fetch(&self.publisher, &wanted, || true).map(|()| (desired, BTreeSet::new())),
            None => Ok((desired, wanted.iter().map(|wanted| wanted.blob).collect())),
        }
    }
}

/// The content of a file of a checkout, which must be that of the commit where that is asked about.
fn read(root: &Path, checkout: &mut Option<Checkout>, path: &str, bytes_max: u64) -> Result<Vec<u8>, Unread> {
    let here = files::read(root, path, bytes_max);
    match checkout {
        None => here,
        Some(checkout) => {
            let committed = checkout.read(path, bytes_max);
            files::same(path, checkout.commit(), here, committed)
        }
    }
}

fn spec_of(reader: &Reader, file: &str, blob: &mainstay_models::Blob) -> Result<ModelSpec, CheckError> {
    let text = reader.blob(blob).map_err(|e| CheckError::Unreadable(e.to_string()))?;
    ModelSpec::parse(file, &text).map_err(|e| CheckError::Unreadable(e.to_string()))
}
