//! `mainstay import`: a model that another tool trained and recorded becomes a version with a card.
//!
//! Guarantees: what is written passes `mainstay check`, since it was checked before it got its place; nothing in a card
//! is made up: what the tool did not record and nobody says is left out or asked for; a version that is there already
//! is never changed. Knows tools only through [`Recorded`], which [`mlflow`] and [`dvc`] fill.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mainstay_models::{EnvironmentName, ModelName, ModelSpec, Version, YamlError};
use mainstay_server::engine::{self, Declared, Engine, LoadError, RunError, Runtime, RuntimeError, Tensor};
use ndarray::Array2;

use crate::artifacts::Artifacts;
use crate::check::{self, CheckError, Findings, Signatures};
use crate::failed;
use crate::operator::say;

mod card;
mod dvc;
mod facts;
mod mlflow;
mod rows;

use facts::Facts;
use rows::{Rows, RowsError};

/// How long the model may take for the rows of the data, at once.
const RUN: std::time::Duration = std::time::Duration::from_secs(300);

/// Makes a version with a card from a model that MLflow or DVC recorded
///
/// Writes models/MODEL/VERSION/model.yaml and model.onnx below --to, ready for `mainstay promote --from`. The tool's record
/// gives the lineage: run, parameters, metrics, commit, digests. What a record does not have comes from you: --card says
/// what the model and its features mean, and --data has the rows that it was trained on, for the ranges, the reference
/// profile and the golden rows. Without --card, what it is to say is printed, filled in as far as the record goes.
///
/// The result is checked as by `mainstay check` before it is written. Models that carry code, such as pickles, are refused.
///
/// Exit codes: 0 written, or there already with the same bytes; 1 refused, or more is to be said; 2 the record cannot be
/// reached; 64 the command line is wrong.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    from: From,
}

#[derive(clap::Subcommand)]
enum From {
    Mlflow(mlflow::Arguments),
    Dvc(dvc::Arguments),
}

/// What the version is to be, and where.
#[derive(clap::Args)]
struct Target {
    /// The model that this is a version of.
    #[arg(long, value_name = "NAME")]
    model: ModelName,

    /// The version.
    #[arg(long, value_name = "X.Y.Z")]
    version: Version,

    /// What only people know of the model, in YAML; without it, a beginning is printed.
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,

    /// The rows that the model was trained on: CSV whose first line names the features. Other columns are not read.
    #[arg(long, value_name = "FILE.csv")]
    data: Option<PathBuf>,

    /// The folder below which models/NAME/X.Y.Z is written: a checkout of a configuration repository, or any.
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
}

/// What a tool knows of a model.
#[derive(Debug, Default)]
struct Recorded {
    /// The model file.
    model: Vec<u8>,
    /// The features' names, where they are recorded.
    columns: Vec<String>,
    /// Rows that were recorded as examples of the input, with their columns' names where these are known.
    examples: Option<(Vec<String>, Vec<Vec<f32>>)>,
    metrics: Vec<RecordedMetric>,
    /// The commit of the training code.
    commit: Option<String>,
    seed: Option<u64>,
    libraries: BTreeMap<String, String>,
    /// What the data is called and where it comes from.
    data: Option<(String, String)>,
    run: RecordedRun,
}

#[derive(Debug, Clone)]
struct RecordedMetric {
    name: String,
    /// On which data; none where that is not recorded.
    split: Option<String>,
    value: f64,
}

#[derive(Debug, Default)]
struct RecordedRun {
    tool: &'static str,
    id: String,
    name: Option<String>,
    parameters: BTreeMap<String, String>,
    inputs: BTreeMap<String, String>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error(transparent)]
    Mlflow(#[from] mlflow::MlflowError),
    #[error(transparent)]
    Dvc(#[from] dvc::DvcError),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Card(#[from] YamlError),
    #[error(
        "more is to be said: save what is printed above, fill it in, and give it with --card, and the training data with --data"
    )]
    NoCard,
    #[error(
        "--data is missing: give the rows that the model was trained on, for its ranges, its profile and its golden rows"
    )]
    NoData,
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot import the model file")]
    Load(#[from] LoadError),
    #[error("the model's {0}")]
    Unfit(String),
    #[error("cannot run the model on the data")]
    Run(#[from] RunError),
    #[error("the card names {said} features, and the model takes {takes}")]
    Width { said: usize, takes: usize },
    #[error("the check does not pass: nothing was written")]
    Bad(Box<Findings>),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("{} is there with other bytes: a version never changes, so choose another", path.display())]
    There { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let (target, recorded) = match &arguments.from {
        From::Mlflow(arguments) => (&arguments.target, mlflow::record(arguments).map_err(ImportError::from)),
        From::Dvc(arguments) => (&arguments.target, dvc::record(arguments).map_err(ImportError::from)),
    };
    match recorded.and_then(|recorded| import(target, &recorded)) {
        Ok(folder) => {
            say(&format!("{} {} is in {}", target.model, target.version, folder.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            if let ImportError::Bad(findings) = &error {
                check::report::text(std::slice::from_ref(&**findings), None, false);
            }
            let unreachable = match &error {
                ImportError::Mlflow(error) => error.is_unreachable(),
                ImportError::Dvc(error) => error.is_unreachable(),
                _ => false,
            };
            failed(&error, if unreachable { 2 } else { 1 })
        }
    }
}

fn import(target: &Target, recorded: &Recorded) -> Result<PathBuf, ImportError> {
    let runtime = Runtime::load()?;
    let tensors = Tensors::of(&engine::declared(&runtime, &recorded.model)?)?;
    let Some(path) = &target.card else {
        say(&facts::beginning(recorded, tensors.features, tensors.classes));
        return Err(ImportError::NoCard);
    };
    let text = std::fs::read(path).map_err(|source| ImportError::Read { path: path.clone(), source })?;
    let facts = Facts::parse(&path.display().to_string(), &text)?;
    if let Some(takes) = tensors.features.filter(|takes| *takes != facts.features.len()) {
        return Err(ImportError::Width { said: facts.features.len(), takes });
    }
    let rows = Rows::read(target.data.as_deref().ok_or(ImportError::NoData)?, &facts)?;
    let version =
        card::Version { name: &target.model, version: &target.version, facts: &facts, recorded, tensors: &tensors };

    // A card that is valid and knows no answer yet, so that the model can be asked.
    let draft =
        version.card(&rows, &[card::Golden::unanswered(&rows, facts.classes.len())], &card::Classes::unknown(&facts));
    let spec = ModelSpec::parse("the card that was made", draft.as_bytes())?;
    let engine = Engine::load(&runtime, &recorded.model, &spec, NonZeroUsize::MIN)?;
    let ask = |rows: &Array2<f32>| {
        let prediction = engine.run(&rows.clone().into(), std::time::Instant::now() + RUN)?;
        Ok(prediction.into_classes().expect("the card that was made is a classifier's"))
    };
    let answer = ask(&rows.values)?;
    let golden = card::golden(&rows, &answer, &version.examples(), &facts, ask)?;
    let text = version.card(&rows, &golden, &card::Classes::of(&facts, &answer));

    checked(target, &text, &recorded.model)?;
    let folder = target.to.join(format!("models/{}/{}", target.model, target.version));
    place(&folder.join("model.yaml"), text.as_bytes())?;
    place(&folder.join("model.onnx"), &recorded.model)?;
    Ok(folder)
}

/// Passes the version through everything that a repository with it would have to pass.
fn checked(target: &Target, card: &str, model: &[u8]) -> Result<(), ImportError> {
    let folder = tempfile::tempdir().map_err(|source| ImportError::Write { path: std::env::temp_dir(), source })?;
    let Target { model: name, version, .. } = target;
    let serving = format!("apiVersion: mainstay/v1\ndefault: {name}\nmodels:\n  {name}:\n    stable: {version}\n");
    let root = folder.path();
    place(&root.join("environments/import/serving.yaml"), serving.as_bytes())?;
    place(&root.join(ModelSpec::path(name, version)), card.as_bytes())?;
    place(&root.join(format!("models/{name}/{version}/model.onnx")), model)?;
    let environment: EnvironmentName = "import".parse().expect("`import` is a name");
    let findings = check::environment(root, &environment, &Artifacts::none(), &Signatures::default())?;
    if findings.good() { Ok(()) } else { Err(ImportError::Bad(Box::new(findings))) }
}

/// Writes a file that is not there; one that is must have these bytes.
fn place(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let write = |source| ImportError::Write { path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(there) if there == bytes => return Ok(()),
        Ok(_) => return Err(ImportError::There { path: path.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(write(error)),
    }
    std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).map_err(write)?;
    std::fs::write(path, bytes).map_err(write)
}

/// The model's tensors that Mainstay needs.
struct Tensors {
    input: String,
    label: String,
    probability: String,
    /// How many features and classes there are, where the file says so.
    features: Option<usize>,
    classes: Option<usize>,
}

impl Tensors {
    fn of(declared: &Declared) -> Result<Self, ImportError> {
        let is = |tensor: &Tensor, element: &str| tensor.element.as_deref() == Some(element);
        let list = |tensors: &[Tensor]| {
            tensors.iter().map(|tensor| format!("`{}` of {}", tensor.name, tensor.words)).collect::<Vec<_>>().join(", ")
        };
        let [input] = &declared.inputs[..] else {
            return Err(ImportError::Unfit(format!(
                "inputs are {}: export it with one float32 input [rows, features], with skl2onnx by \
                 initial_types=[('features', FloatTensorType([None, N]))]",
                list(&declared.inputs)
            )));
        };
        if !(is(input, "f32") && input.sizes.len() == 2 && input.sizes[0].is_none()) {
            return Err(ImportError::Unfit(format!(
                "input is {}: export it as float32 [rows, features] with any number of rows",
                list(&declared.inputs)
            )));
        }
        let outputs = &declared.outputs;
        let label = outputs.iter().find(|tensor| is(tensor, "i64") && matches!(tensor.sizes.len(), 1 | 2));
        let label = label.ok_or_else(|| {
            ImportError::Unfit(format!(
                "outputs are {}, and none is an int64 label: train a classifier on the classes' indexes",
                list(outputs)
            ))
        })?;
        let probability = outputs.iter().find(|tensor| is(tensor, "f32") && tensor.sizes.len() == 2);
        let probability = probability.ok_or_else(|| {
            ImportError::Unfit(format!(
                "outputs are {}, and none is a float32 tensor of probabilities [rows, classes]: export it again, with \
                 skl2onnx by options={{'zipmap': False}}",
                list(outputs)
            ))
        })?;
        Ok(Self {
            input: input.name.clone(),
            label: label.name.clone(),
            probability: probability.name.clone(),
            features: input.sizes[1],
            classes: probability.sizes[1],
        })
    }
}

/// What a metric is called, and on which data it was measured, where its name says so.
fn name_and_split(name: &str) -> (String, Option<String>) {
    const SPLITS: [(&str, &str); 9] = [
        ("training", "training"),
        ("train", "training"),
        ("validation", "validation"),
        ("valid", "validation"),
        ("val", "validation"),
        ("eval", "validation"),
        ("testing", "test"),
        ("test", "test"),
        ("holdout", "held out"),
    ];
    let separator = |c: char| matches!(c, '_' | '.' | '/' | '-' | ' ');
    for (word, split) in SPLITS {
        let rest = name.strip_prefix(word).and_then(|rest| rest.strip_prefix(separator));
        let rest = rest.or_else(|| name.strip_suffix(word).and_then(|rest| rest.strip_suffix(separator)));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            return (rest.to_owned(), Some(split.to_owned()));
        }
    }
    (name.to_owned(), None)
}

/// The seed among the parameters, by the names that libraries give it.
fn seed_of(parameters: &BTreeMap<String, String>) -> Option<u64> {
    ["seed", "random_state", "random_seed"].iter().find_map(|name| parameters.get(*name)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_says_where_it_was_measured_at_the_beginning_or_at_the_end() {
        for (name, expected) in [
            ("test_f1", ("f1", Some("test"))),
            ("training_accuracy_score", ("accuracy_score", Some("training"))),
            ("val/loss", ("loss", Some("validation"))),
            ("accuracy_test", ("accuracy", Some("test"))),
            ("latest", ("latest", None)),
            ("test", ("test", None)),
            ("trainable", ("trainable", None)),
        ] {
            let (short, split) = name_and_split(name);
            assert_eq!((short.as_str(), split.as_deref()), expected);
        }
    }

    #[test]
    fn models_of_another_form_are_refused_with_what_to_do() {
        let tensor = |name: &str, element: Option<&str>, sizes: &[Option<usize>]| Tensor {
            name: name.to_owned(),
            element: element.map(str::to_owned),
            sizes: sizes.to_vec(),
            words: format!("{element:?} {sizes:?}"),
        };
        let input = || vec![tensor("x", Some("f32"), &[None, Some(4)])];
        let label = || tensor("label", Some("i64"), &[None]);
        let probability = || tensor("probabilities", Some("f32"), &[None, Some(3)]);
        let say = |inputs, outputs| Tensors::of(&Declared { inputs, outputs }).err().unwrap().to_string();
        assert!(say([input(), input()].concat(), vec![label(), probability()]).contains("FloatTensorType"));
        let double = vec![tensor("x", Some("f64"), &[None, Some(4)])];
        assert!(say(double, vec![label(), probability()]).contains("float32 [rows, features]"));
        assert!(say(input(), vec![label(), tensor("p", None, &[])]).contains("'zipmap': False"));
        assert!(say(input(), vec![probability()]).contains("int64 label"));
        let good = Tensors::of(&Declared { inputs: input(), outputs: vec![probability(), label()] }).ok().unwrap();
        assert_eq!((good.label.as_str(), good.features, good.classes), ("label", Some(4), Some(3)));
    }

    #[test]
    fn a_version_that_is_there_is_never_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        place(&path, b"x").unwrap();
        place(&path, b"x").unwrap();
        assert!(matches!(place(&path, b"y"), Err(ImportError::There { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }
}
