//! `mainstay promote`: a released version into an environment of a configuration repository, by a checked commit.
//!
//! Guarantees: nothing is pushed that `mainstay check` would not pass as it stands on the branch; nobody's push is
//! undone, since the change is made anew on top of it; an environment on hold is not touched; doing it twice does it
//! once. Knows git and files, and no running program: the sidecars find the commit by themselves.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use mainstay_models::edit::{self, EditError};
use mainstay_models::yaml::FILE_BYTES_MAX;
use mainstay_models::{Blob, EnvironmentName, ModelName, ModelSpec, Serving, Version, YamlError};
use mainstay_sidecar::git::{Address, AddressError};
use serde_json::{Value, json};

use crate::artifacts::Artifacts;
use crate::check::{self, CheckError, Findings, Signatures, files};
use crate::operator::{print_json, say, short};
use crate::repository::{Clone, GitError};
use crate::{USAGE, failed};

mod bundle;

use bundle::{Bundle, BundleError, write};

/// How often the change is made anew on what others have pushed meanwhile.
const ATTEMPTS_MAX: u32 = 20;
/// How often a branch that did not take a push is looked at, and how long after one another: a push that was being
/// taken at the same time shows only when it is done.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(400)];

/// Commits a released version into an environment of a configuration repository, once it has passed every check
///
/// Changes `models.MODEL.stable` in environments/ENV/serving.yaml, and nothing else in that file. With --from, the
/// version's card and model file come into the repository by the same commit, where they are not there yet. Before
/// anything is pushed, the result is checked as by `mainstay check`: the model is loaded in a child process and must
/// give its golden answers. If somebody else pushes meanwhile, the change is made and checked anew on top of theirs.
/// An environment that is on hold or suspended is left alone. Uses your own git: its name, signature and credentials.
///
///     mainstay promote --repo URL --env dev --model pred-main --version 1.1.0 --from models/pred-main/1.1.0
///
/// commits to the repository's default branch; for a review, push to a new branch and open a pull request from it:
///
///     mainstay promote --repo URL --env prod --model pred-main --version 1.1.0 --branch promote/pred-main-1.1.0
///
/// Exit codes: 0 promoted, or it was so already, or --dry-run found it good; 1 it would be refused or would not load, or
/// the repository has other bytes of that version; 2 git failed, or others kept pushing: try again; 3 the environment is
/// on hold; 64 the command line is wrong.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The configuration repository: https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or a folder.
    // Parsed later: clap would repeat what it does not take, and there may be a password in it.
    #[arg(long, value_name = "URL")]
    repo: String,

    /// The environment that is to serve the version.
    #[arg(long = "env", value_name = "NAME")]
    environment: EnvironmentName,

    /// The model.
    #[arg(long, value_name = "NAME")]
    model: ModelName,

    /// The version that is to answer.
    #[arg(long, value_name = "X.Y.Z")]
    version: Version,

    /// A folder that has the version's model.yaml, and the file that it names: itself, or in NAME/X.Y.Z or
    /// models/NAME/X.Y.Z below it.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,

    /// The branch to promote on [default: the repository's default branch].
    #[arg(long, value_name = "NAME")]
    base: Option<String>,

    /// Push to this new branch instead, so that a pull request can be opened from it.
    #[arg(long, value_name = "NAME", value_parser = parse_branch)]
    branch: Option<String>,

    /// Show the change and what the check says of it, and push nothing.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    signatures: Signatures,

    #[command(flatten)]
    artifacts: Artifacts,

    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// Why nothing was promoted.
#[derive(Debug, thiserror::Error)]
enum PromoteError {
    #[error("the repository's address holds credentials: take them out, your own git has them")]
    Credentials,
    #[error(transparent)]
    Address(AddressError),
    #[error("{file} is not in {branch}: make the environment first, with the models that it has now")]
    NoEnvironment { file: String, branch: String },
    #[error("cannot read {path} in the repository: {problem}")]
    Unreadable { path: String, problem: String },
    #[error(transparent)]
    Invalid(#[from] YamlError),
    #[error("{environment} is {how}: take that out of {file} first")]
    Held { environment: EnvironmentName, how: String, file: String },
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("{path} is not in the repository: bring it with --from DIR")]
    NoVersion { path: String },
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the check does not pass: nothing was pushed")]
    Bad(Box<Findings>),
    #[error("{model} {version} lies outside git and was not loaded: name its place with --allow-artifacts-from")]
    Unseen { model: ModelName, version: Version },
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("the branch {branch} is there and holds something else: merge it, delete it, or choose another name")]
    Taken { branch: String },
    #[error("--branch {branch} is the branch that is promoted on: leave it out to commit there")]
    SameBranch { branch: String },
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("others pushed to {branch} {ATTEMPTS_MAX} times while this was being checked: try again")]
    Crowded { branch: String },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Committed to the branch that is followed.
    Promoted,
    /// Pushed to a branch of its own.
    Proposed,
    /// The branch asks for that already.
    AlreadyPromoted,
    /// The branch of its own asks for that already.
    AlreadyProposed,
    /// It would pass.
    Good,
}

/// What was done, for people and programs.
struct Promotion {
    outcome: Outcome,
    /// The stable version before.
    from: Option<Version>,
    /// The branch that was pushed to, or would be.
    branch: String,
    commit: Option<String>,
    /// The version's card.
    spec: Option<ModelSpec>,
    checked: Option<Findings>,
    difference: Option<String>,
    /// What keeps the commit from going live at once.
    waits: Option<String>,
}

/// What is to be committed, written and staged.
struct Prepared {
    from: Option<Version>,
    spec: ModelSpec,
    waits: Option<String>,
    /// What is changed.
    paths: Vec<String>,
    /// What a check of the environment depends on.
    depends: Vec<String>,
}

impl PromoteError {
    fn code(&self) -> u8 {
        match self {
            Self::Git(_) | Self::Crowded { .. } | Self::Check(_) => 2,
            Self::Held { .. } => 3,
            Self::Credentials | Self::Address(_) => USAGE,
            _ => 1,
        }
    }
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Proposed => "proposed",
            Self::AlreadyPromoted => "already promoted",
            Self::AlreadyProposed => "already proposed",
            Self::Good => "good",
        }
    }
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let promoted = promote(arguments);
    if arguments.json {
        print_json(&match &promoted {
            Ok(promotion) => document(arguments, promotion),
            Err(error) => refusal(arguments, error),
        });
    }
    match promoted {
        Ok(promotion) => {
            if !arguments.json {
                tell(arguments, &promotion);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            if let (PromoteError::Bad(findings), false) = (&error, arguments.json) {
                check::report::text(std::slice::from_ref(&**findings), None, std::io::stdout().is_terminal());
            }
            failed(&error, error.code())
        }
    }
}

fn promote(arguments: &Arguments) -> Result<Promotion, PromoteError> {
    let files =
        arguments.from.as_deref().map(|dir| Bundle::read(dir, &arguments.model, &arguments.version)).transpose()?;
    let address: Address = arguments.repo.parse().map_err(|error| match error {
        AddressError::Credentials => PromoteError::Credentials,
        error => PromoteError::Address(error),
    })?;
    let clone = Clone::of(address.as_str(), arguments.base.as_deref())?;
    let target = arguments.branch.as_deref().unwrap_or(clone.branch());
    if arguments.branch.as_deref() == Some(clone.branch()) {
        return Err(PromoteError::SameBranch { branch: target.to_owned() });
    }
    let mut passed: Option<(String, Findings)> = None;
    for attempt in 1..=ATTEMPTS_MAX {
        if attempt > 1 {
            clone.renew()?;
        }
        let Some(prepared) = prepare(arguments, &clone, files.as_ref())? else {
            return Ok(Promotion::already(Outcome::AlreadyPromoted, clone.branch()));
        };
        let before = match &arguments.branch {
            None => Some(clone.head()?),
            Some(branch) => match clone.fetch(branch)? {
                Some(tip) if proposes(arguments, &clone, &tip) => {
                    return Ok(Promotion::already(Outcome::AlreadyProposed, branch));
                }
                // What was merged long ago may be gone on with.
                Some(tip) if !clone.contains(&tip) => return Err(PromoteError::Taken { branch: branch.clone() }),
                tip => tip,
            },
        };
        // A check is a function of these files: where others changed none of them, it still holds.
        let key = clone.staged(&prepared.depends)?;
        let findings = match passed.take() {
            Some((of, findings)) if of == key => findings,
            _ => checked(arguments, &clone)?,
        };
        let done = |outcome, commit, findings, difference| Promotion {
            outcome,
            from: prepared.from.clone(),
            branch: target.to_owned(),
            commit,
            spec: Some(prepared.spec.clone()),
            checked: Some(findings),
            difference,
            waits: prepared.waits.clone(),
        };
        if arguments.dry_run {
            let difference = difference(&clone, &prepared.paths)?;
            return Ok(done(Outcome::Good, None, findings, Some(difference)));
        }
        let message = message(arguments, &prepared);
        let commit = clone.commit(&message)?;
        match clone.push_to(target) {
            Ok(()) => {
                let outcome = if arguments.branch.is_some() { Outcome::Proposed } else { Outcome::Promoted };
                return Ok(done(outcome, commit, findings, None));
            }
            Err(refused) => {
                if !moved(&clone, target, before.as_deref())? {
                    return Err(refused.into());
                }
            }
        }
        passed = Some((key, findings));
    }
    Err(PromoteError::Crowded { branch: target.to_owned() })
}

/// Writes what is to be committed into the clone; none where the branch asks for that already.
fn prepare(arguments: &Arguments, clone: &Clone, files: Option<&Bundle>) -> Result<Option<Prepared>, PromoteError> {
    let Arguments { environment, model, version, .. } = arguments;
    let (file, card) = (Serving::path(environment), ModelSpec::path(model, version));
    let missing = || PromoteError::NoEnvironment { file: file.clone(), branch: clone.branch().to_owned() };
    let text = read(clone, &file)?.ok_or_else(missing)?;
    let serving = Serving::parse(&file, &text)?;
    let mut paths = match files {
        Some(files) => files.missing_in(clone.folder())?,
        None => Vec::new(),
    };
    let from = serving.models.get(model).map(|served| served.stable.clone());
    if from.as_ref() == Some(version) && paths.is_empty() {
        return Ok(None);
    }
    let held = match &serving.policy.hold {
        _ if serving.policy.suspend => Some("suspended".to_owned()),
        Some(reason) => Some(format!("on hold ({reason})")),
        None => None,
    };
    if let Some(how) = held {
        return Err(PromoteError::Held { environment: environment.clone(), how, file });
    }
    let text = std::str::from_utf8(&text).expect("what was parsed is UTF-8");
    let changed = edit::with_stable(&file, text, model, version)?;
    if let Some(files) = files {
        files.write_into(clone.folder(), &paths)?;
    }
    let spec = read(clone, &card)?.ok_or_else(|| PromoteError::NoVersion { path: card.clone() })?;
    let spec = ModelSpec::parse(&card, &spec)?;
    write(&clone.folder().join(&file), changed.as_bytes())?;
    paths.push(file.clone());
    clone.stage(&paths)?;
    let changed = Serving::parse(&file, changed.as_bytes())?;
    let folder = |name: &ModelName, version: &Version| format!("models/{name}/{version}");
    let folders = changed.models.iter().flat_map(|(name, model)| model.versions().map(|version| folder(name, version)));
    let depends = [file, ".dvc/config".to_owned()].into_iter().chain(folders).collect();
    let closed = serving.policy.closed(jiff::Timestamp::now());
    let waits = match closed {
        _ if serving.policy.manual => Some("it waits for `mainstay sync-now`, as the environment says".to_owned()),
        Some(closed) => Some(match closed.until {
            Some(until) => format!("it waits for a window, until {until}: {}", closed.reason),
            None => format!("it waits for a window: {}", closed.reason),
        }),
        None => None,
    };
    Ok(Some(Prepared { from, spec, waits, paths, depends }))
}

/// The file at `path` in the clone, which is never reached through a link; none where there is none.
fn read(clone: &Clone, path: &str) -> Result<Option<Vec<u8>>, PromoteError> {
    use mainstay_sidecar::desired::Unread;
    match files::read(clone.folder(), path, FILE_BYTES_MAX as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Unread::Missing) => Ok(None),
        Err(Unread::Unfit(problem) | Unread::Trouble(problem)) => {
            Err(PromoteError::Unreadable { path: path.to_owned(), problem })
        }
    }
}

/// What both programs would say, where that is good.
fn checked(arguments: &Arguments, clone: &Clone) -> Result<Findings, PromoteError> {
    let Arguments { model, version, .. } = arguments;
    let findings =
        check::environment(clone.folder(), &arguments.environment, &arguments.artifacts, &arguments.signatures)?;
    if !findings.good() {
        return Err(PromoteError::Bad(Box::new(findings)));
    }
    let seen = findings.versions.iter().any(|one| one.model == *model && one.version == *version && one.loaded);
    if seen { Ok(findings) } else { Err(PromoteError::Unseen { model: model.clone(), version: version.clone() }) }
}

/// Whether the commit at `tip` asks for the version, with the same bytes.
fn proposes(arguments: &Arguments, clone: &Clone, tip: &str) -> bool {
    let Arguments { environment, model, version, .. } = arguments;
    let file = Serving::path(environment);
    let serving = clone.read(tip, &file).and_then(|text| Serving::parse(&file, text.as_bytes()).ok());
    let asks = serving.is_some_and(|s| s.models.get(model).is_some_and(|served| served.stable == *version));
    asks && clone.same(tip, &format!("models/{model}/{version}"))
}

/// Whether `branch` at the remote is no longer at `before`: somebody else pushed.
fn moved(clone: &Clone, branch: &str, before: Option<&str>) -> Result<bool, GitError> {
    for pause in LOOKS {
        std::thread::sleep(pause);
        if clone.fetch(branch)?.as_deref() != before {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is changed: the lines of serving.yaml, and how much elsewhere.
fn difference(clone: &Clone, paths: &[String]) -> Result<String, GitError> {
    let parts = paths.iter().rev().map(|path| clone.difference(path, path.ends_with("/serving.yaml")));
    Ok(parts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// What the history will say: who reads it wants to know which bytes, and what they were made from.
fn message(arguments: &Arguments, prepared: &Prepared) -> String {
    let Arguments { environment, model, version, .. } = arguments;
    let spec = &prepared.spec;
    let from = prepared.from.as_ref().map_or("none".to_owned(), ToString::to_string);
    let Blob { sha256, size_bytes } = spec.artifact.blob;
    format!(
        "Promote {model} {version} to {environment}\n\n{model}: {from} -> {version}\n\nModel: {model}\nVersion: {version}\n\
         Environment: {environment}\nArtifact-SHA256: {sha256}\nArtifact-Bytes: {size_bytes}\nTraining-Commit: {}\n\
         Training-Data-SHA256: {}\n",
        spec.training.code.commit, spec.training.data.sha256
    )
}

impl Promotion {
    fn already(outcome: Outcome, branch: &str) -> Self {
        let branch = branch.to_owned();
        Self { outcome, from: None, branch, commit: None, spec: None, checked: None, difference: None, waits: None }
    }
}

fn tell(arguments: &Arguments, promotion: &Promotion) {
    let Arguments { environment, model, version, .. } = arguments;
    let Promotion { branch, .. } = promotion;
    if let Some(difference) = &promotion.difference {
        say(difference);
    }
    if let Some(findings) = &promotion.checked {
        check::report::text(std::slice::from_ref(findings), None, std::io::stdout().is_terminal());
    }
    let from = promotion.from.as_ref().map_or("none".to_owned(), ToString::to_string);
    let commit = promotion.commit.as_deref().map_or("", short);
    say(&match promotion.outcome {
        Outcome::Promoted => {
            format!("promoted {model} {from} -> {version} in {environment}: committed to {branch} as {commit}")
        }
        Outcome::Proposed => {
            format!("pushed {model} {from} -> {version} in {environment} to {branch} as {commit}: open a pull request")
        }
        Outcome::AlreadyPromoted => format!("{branch} asks for {model} {version} in {environment} already"),
        Outcome::AlreadyProposed => format!("{branch} proposes {model} {version} in {environment} already"),
        Outcome::Good => {
            format!("{model} {from} -> {version} in {environment} would pass; nothing was pushed to {branch}")
        }
    });
    if let Some(waits) = &promotion.waits {
        say(waits);
    }
}

fn document(arguments: &Arguments, promotion: &Promotion) -> Value {
    let spec = promotion.spec.as_ref();
    json!({
        "outcome": promotion.outcome.as_str(),
        "environment": arguments.environment,
        "model": arguments.model,
        "version": arguments.version,
        "from": promotion.from,
        "branch": promotion.branch,
        "commit": promotion.commit,
        "artifact": spec.map(|spec| spec.artifact.blob),
        "training": spec.map(|spec| &spec.training),
        "waits": promotion.waits,
        "difference": promotion.difference,
        "check": promotion.checked,
    })
}

fn refusal(arguments: &Arguments, error: &PromoteError) -> Value {
    let outcome = match error.code() {
        2 => "try again",
        3 => "held",
        USAGE => "not understood",
        _ => "refused",
    };
    let check = if let PromoteError::Bad(findings) = error { Some(findings) } else { None };
    json!({
        "outcome": outcome,
        "environment": arguments.environment,
        "model": arguments.model,
        "version": arguments.version,
        "problem": error.to_string(),
        "check": check,
    })
}

/// A branch's name that is no option of git's; whether it is a name at all, git says.
fn parse_branch(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('-') || text.contains([':', ' ', '*']) {
        return Err("is not the name of a branch".to_owned());
    }
    Ok(text.to_owned())
}
