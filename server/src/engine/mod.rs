//! A model that answers: loaded from bytes, checked against its spec, and run on any thread.
//!
//! Guarantees: a model file that reads other files or brings its own operators is refused before ONNX Runtime sees
//! it; an [`Engine`] has the inputs and outputs of its spec; a wrong answer of the model is an error and never a
//! panic; running takes no lock, and a session always goes back to its pool.
//!
//! Knows tensors and ONNX Runtime, and is the only module that does. Does not know HTTP, requests, which version
//! serves whom, or how models come and go.

mod answer;
#[cfg(test)]
#[path = "../../build.rs"]
#[allow(dead_code, clippy::print_stdout)]
mod build_script;
mod compiled;
mod golden;
mod interface;
mod onnx;
mod outputs;
mod parity;
mod pool;
mod runtime;
mod sessions;
mod signature;

use std::num::NonZeroUsize;
use std::time::Instant;

use mainstay_models::ModelSpec;
use serde::{Deserialize, Serialize};

pub use self::answer::Answer;
use self::compiled::Compiled;
pub use self::compiled::Unsupported;
pub use self::golden::GoldenMismatch;
pub use self::interface::{InputError, Interface, TensorInfo};
pub use self::onnx::InspectError;
pub use self::outputs::Prediction;
pub use self::parity::{Parity, ParityError};
pub use self::runtime::{LIBRARY_VARIABLE, Runtime, RuntimeError, TELEMETRY_VARIABLE, disable_telemetry};
use self::sessions::Sessions;
pub use self::signature::{Declared, SignatureMismatch, Tensor};
use crate::rows::Rows;

/// The most rows of one run: it bounds the memory of a run, however large the request. Larger inputs are run in pieces.
pub const ROWS_PER_RUN_MAX: usize = 4096;

/// A model in memory that any number of threads may run.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    interface: Interface,
}

#[derive(Debug)]
enum Kind {
    Sessions(Sessions),
    Compiled(Compiled),
}

/// How much one row costs, roughly, in steps of a nanosecond or two: what a request may cost that runs on the thread of
/// its connection.
const INLINE_STEPS_MAX: usize = 100_000;

/// A model file that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not an ONNX model, or not one that may be loaded.
    #[error("cannot accept the model file")]
    Inspect(#[from] InspectError),
    /// The compiled executor does not know the model's kind.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// ONNX Runtime refuses the model.
    #[error("cannot load the model into onnx runtime")]
    Session(#[from] ort::Error),
    /// The model has other inputs or outputs than its spec says.
    #[error("cannot use the model as its model.yaml describes it")]
    Signature(#[from] SignatureMismatch),
}

/// A run that gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Every session was busy until the deadline.
    #[error("cannot run the model in time: every session is busy")]
    Busy,
    /// The rows are not of this model's form.
    #[error("cannot run the model on {got}: it takes {expected}")]
    Rows {
        /// What the model takes.
        expected: String,
        /// What came.
        got: String,
    },
    /// ONNX Runtime failed.
    #[error("cannot run the model")]
    Session(#[from] ort::Error),
    /// A tensor that the model gave has the wrong shape.
    #[error("cannot use the model's tensor `{tensor}`: expected the shape {expected:?}, got {got:?}")]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// The shape that these rows must give.
        expected: Vec<usize>,
        /// The shape that came.
        got: Vec<i64>,
    },
    /// The model gave a label that is none of its classes.
    #[error(
        "cannot use the model's label {got} for row {row}: it is none of the {classes} classes; where labels are no indices, \
         name what stands for each class in output.label.values"
    )]
    Label {
        /// The row, counted from 0.
        row: usize,
        /// The label.
        got: i64,
        /// How many classes the spec names.
        classes: usize,
    },
    /// The model gave a text, or a map with a key, that is none of its classes or keys.
    #[error("cannot use what the model's `{tensor}` says of row {row}: `{got}` is not known to its model.yaml")]
    Unknown {
        /// The output's name in the model file.
        tensor: String,
        /// The row, counted from 0.
        row: usize,
        /// The text, cut to a printable length.
        got: String,
    },
    /// A map lacks a key.
    #[error("cannot use what the model's `{tensor}` says of row {row}: there is nothing for `{key}`")]
    Lacking {
        /// The output's name in the model file.
        tensor: String,
        /// The row, counted from 0.
        row: usize,
        /// The key.
        key: String,
    },
    /// The model gave a probability that is no number.
    #[error("cannot use the model's probability of class {class} for row {row}: it is NaN")]
    Probability {
        /// The row, counted from 0.
        row: usize,
        /// The class.
        class: usize,
    },
}

/// What goes into a model and what comes out of it, for somebody who is yet to write its card.
pub fn declared(runtime: &Runtime, model: &[u8]) -> Result<Declared, LoadError> {
    onnx::inspect(model)?;
    let session = sessions::builder(runtime)?.commit_from_memory(model)?;
    Ok(Declared::of(session.inputs(), session.outputs()))
}

impl Engine {
    /// Loads a model into ONNX Runtime, for `sessions` runs at the same time.
    ///
    /// Takes a second for a large forest and a millisecond for a small one, for each session; call it on a thread that may block.
    pub fn load(runtime: &Runtime, model: &[u8], spec: &ModelSpec, sessions: NonZeroUsize) -> Result<Self, LoadError> {
        let sessions = Sessions::load(runtime, model, spec, sessions)?;
        let interface = Interface::new(spec, sessions.names_classes());
        Ok(Self { kind: Kind::Sessions(sessions), interface })
    }

    /// Compiles a model. Its answers are believed to be right only once [`Engine::parity`] has shown it.
    pub fn compile(model: &[u8], spec: &ModelSpec) -> Result<Self, LoadError> {
        onnx::inspect(model)?;
        let compiled = Compiled::new(model, spec)?;
        Ok(Self { kind: Kind::Compiled(compiled), interface: Interface::new(spec, false) })
    }

    /// The model as tensors that go in and come out.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// What runs the model.
    pub fn name(&self) -> EngineName {
        match &self.kind {
            Kind::Sessions(_) => EngineName::Onnxruntime,
            Kind::Compiled(_) => EngineName::Compiled,
        }
    }

    /// Whether any number of threads may run it at the same time.
    pub fn is_reentrant(&self) -> bool {
        matches!(self.kind, Kind::Compiled(_))
    }

    /// The most rows that may run on the thread of a connection, which its other connections wait for meanwhile.
    pub fn inline_rows_max(&self) -> usize {
        match &self.kind {
            Kind::Sessions(sessions) => sessions.inline_rows_max(),
            Kind::Compiled(compiled) => INLINE_STEPS_MAX / compiled.steps_per_row().max(1),
        }
    }

    /// The most rows of one run that answers many requests; one where that costs no less than a run of each.
    pub fn batch_rows_max(&self) -> usize {
        match &self.kind {
            Kind::Sessions(sessions) => sessions.batch_rows_max(),
            Kind::Compiled(_) => 1,
        }
    }

    /// Runs `rows` now, or gives nothing if every session is busy.
    pub fn try_run(&self, rows: &Rows) -> Option<Result<Prediction, RunError>> {
        match &self.kind {
            Kind::Sessions(sessions) => sessions.try_run(rows),
            Kind::Compiled(compiled) => Some(compiled.run(rows)),
        }
    }

    /// Runs `rows`, waiting for a session until `deadline` at most. The run itself is not cut short.
    pub fn run(&self, rows: &Rows, deadline: Instant) -> Result<Prediction, RunError> {
        match &self.kind {
            Kind::Sessions(sessions) => sessions.run(rows, deadline),
            Kind::Compiled(compiled) => compiled.run(rows),
        }
    }

    /// Runs every idle session on golden rows: what ONNX Runtime puts off until the first run is done before a request comes, and
    /// what rows cost is known. A compiled model puts nothing off, and its cost is counted.
    pub fn warm(&mut self, spec: &ModelSpec) -> Result<(), RunError> {
        match &mut self.kind {
            Kind::Sessions(sessions) => sessions.warm(spec),
            Kind::Compiled(_) => Ok(()),
        }
    }

    /// Runs the golden rows, each alone and all as one batch, and compares the answers with the known ones.
    pub fn check_golden(&self, spec: &ModelSpec) -> Result<(), GoldenMismatch> {
        match &self.kind {
            Kind::Sessions(sessions) => sessions.check_golden(spec),
            Kind::Compiled(compiled) => golden::check(spec, |rows| compiled.run(rows)),
        }
    }
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// ONNX Runtime.
    Onnxruntime,
    /// Mainstay's own executor.
    Compiled,
}

/// Which engine is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// Compiled where that is shown to give ONNX Runtime's answers, else ONNX Runtime.
    #[default]
    Auto,
    /// ONNX Runtime for every model.
    Ort,
    /// Compiled, or not served.
    Compiled,
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::thread;
    use std::time::Duration;

    use mainstay_models::spec::{Classifier, Expected, Output};
    use ndarray::{ArrayView2, s};

    use super::*;

    const FOREST: &[u8] = include_bytes!("../../../models/iris/1.0.0/model.onnx");

    fn spec(version: &str) -> ModelSpec {
        let file = format!("{}/../models/iris/{version}/model.yaml", env!("CARGO_MANIFEST_DIR"));
        ModelSpec::parse(&file, &fs_err::read(&file).unwrap()).unwrap()
    }

    fn load(model: &[u8], spec: &ModelSpec, sessions: usize) -> Result<Engine, LoadError> {
        Engine::load(&Runtime::load().unwrap(), model, spec, NonZeroUsize::new(sessions).unwrap())
    }

    fn forest(sessions: usize) -> Engine {
        load(FOREST, &spec("1.0.0"), sessions).unwrap()
    }

    fn sessions(engine: &Engine) -> &Sessions {
        match &engine.kind {
            Kind::Sessions(sessions) => sessions,
            Kind::Compiled(_) => panic!("not in onnx runtime"),
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// What a classifier says of `rows`.
    fn run(engine: &Engine, rows: &ArrayView2<'_, f32>) -> Answer {
        engine.run(&rows.to_owned().into(), soon()).unwrap().into_classes().unwrap()
    }

    fn classifier(spec: &mut ModelSpec) -> &mut Classifier {
        match &mut spec.output {
            Output::Classifier(classifier) => classifier,
            Output::Tensors(_) => panic!("no classifier"),
        }
    }

    #[test]
    fn the_shipped_models_load_warm_up_and_give_their_golden_answers() {
        for version in ["1.0.0", "1.1.0"] {
            let spec = spec(version);
            let model =
                fs_err::read(format!("{}/../models/iris/{version}/model.onnx", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let mut engine = load(&model, &spec, 2).unwrap();
            engine.warm(&spec).unwrap();
            engine.check_golden(&spec).unwrap();
        }
    }

    #[test]
    fn more_rows_than_one_run_takes_are_answered_in_their_order() {
        let engine = forest(1);
        let golden = golden::matrix(&spec("1.0.0"));
        let rows = ndarray::Array2::from_shape_fn((ROWS_PER_RUN_MAX + 3, 4), |(row, feature)| {
            golden[[row % golden.nrows(), feature]]
        });
        let whole = run(&engine, &rows.view());
        let alone = run(&engine, &golden.view());
        assert_eq!(whole.probabilities.dim(), (ROWS_PER_RUN_MAX + 3, 3));
        for row in 0..rows.nrows() {
            assert_eq!(whole.labels[row], alone.labels[row % golden.nrows()]);
            assert_eq!(whole.probabilities.row(row), alone.probabilities.row(row % golden.nrows()));
        }
    }

    #[test]
    fn rows_may_lie_in_memory_in_any_order_and_may_be_none() {
        let engine = forest(1);
        let golden = golden::matrix(&spec("1.0.0"));
        let columns_first = golden.t().as_standard_layout().into_owned().reversed_axes();
        assert!(!columns_first.is_standard_layout());
        let expected = run(&engine, &golden.view());
        assert_eq!(run(&engine, &columns_first.view()), expected);
        let none = run(&engine, &golden.slice(s![..0, ..]));
        assert_eq!((none.labels.len(), none.probabilities.dim()), (0, (0, 3)));
    }

    #[test]
    fn rows_of_another_width_are_refused() {
        let refused = forest(1).run(&ndarray::Array2::zeros((2, 5)).into(), soon());
        let refused = refused.unwrap_err().to_string();
        assert_eq!(refused, "cannot run the model on rows of 5 features: it takes rows of 4 features");
    }

    #[test]
    fn a_busy_engine_says_so_at_once_or_at_the_deadline() {
        let engine = forest(1);
        let rows = Rows::Matrix(ndarray::Array2::zeros((1, 4)));
        let busy = sessions(&engine).pool.wait();
        assert!(engine.try_run(&rows).is_none());
        let late = engine.run(&rows, Instant::now() + Duration::from_millis(5));
        assert!(matches!(late, Err(RunError::Busy)));
        drop(busy);
        assert!(engine.try_run(&rows).unwrap().is_ok());
    }

    #[test]
    fn many_threads_share_few_sessions_and_get_their_own_answers() {
        let engine = forest(2);
        let golden = golden::matrix(&spec("1.0.0"));
        let expected = run(&engine, &golden.view());
        thread::scope(|scope| {
            for thread in 0..8 {
                let (engine, golden, expected) = (&engine, &golden, &expected);
                scope.spawn(move || {
                    for i in 0..500 {
                        let row = (thread + i) % golden.nrows();
                        let answer = run(engine, &golden.slice(s![row..=row, ..]));
                        assert_eq!(answer.probabilities.row(0), expected.probabilities.row(row));
                    }
                });
            }
        });
    }

    #[test]
    fn a_spec_that_does_not_fit_the_model_is_refused_with_both_sides() {
        let change = |change: fn(&mut ModelSpec)| {
            let mut spec = spec("1.0.0");
            change(&mut spec);
            match load(FOREST, &spec, 1) {
                Err(LoadError::Signature(mismatch)) => mismatch.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            change(|spec| spec.input.tensors[0].name = "rows".into()),
            "the model's input: model.yaml expects `rows`, the model file has `features`"
        );
        assert_eq!(
            change(|spec| spec.input.tensors[0].columns.truncate(3)),
            "the model's input: model.yaml expects `features` of f32 [any, 3], the model file has Tensor<f32>(N, 4)"
        );
        assert_eq!(
            change(|spec| classifier(spec).label.classes.push("other".into())),
            "the model's probability output: model.yaml expects `probabilities` of f32 [any, 4], the model file has Tensor<f32>(N, 3)"
        );
        assert_eq!(
            change(|spec| classifier(spec).label.tensor = "probabilities".into()),
            "the model's label output: model.yaml expects `probabilities` of i64 [any] or [any, 1], the model file has Tensor<f32>(N, 3)"
        );
        assert_eq!(
            change(|spec| classifier(spec).probability.tensor = "label".into()),
            "the model's probability output: model.yaml expects `label` of f32 [any, 3], the model file has Tensor<i64>(N)"
        );
        assert_eq!(
            change(|spec| classifier(spec).probability.tensor = "scores".into()),
            "the model's probability output: model.yaml expects `scores`, the model file has `label`, `probabilities`"
        );
    }

    #[test]
    fn damaged_and_forbidden_models_are_errors() {
        let refused = |model: &[u8]| load(model, &spec("1.0.0"), 1).unwrap_err();
        for length in [0, 1, 100, FOREST.len() / 2, FOREST.len() - 1] {
            assert!(matches!(refused(&FOREST[..length]), LoadError::Inspect(_)), "{length}");
        }
        assert!(matches!(refused(b"no model at all"), LoadError::Inspect(InspectError::Malformed(_))));
        let external = refused(&onnx::tests::with_external_data(FOREST));
        assert_eq!(
            external.source().unwrap().to_string(),
            "the tensor `weights` lies outside the model file: save the model with its weights inside"
        );
        let custom = refused(&onnx::tests::with_custom_operator(FOREST));
        assert_eq!(
            custom.source().unwrap().to_string(),
            "`Run` is of the operator set `com.example`: use operators of ai.onnx and ai.onnx.ml only"
        );
        // Well-formed, and no graph that could run.
        let twice = [FOREST, FOREST].concat();
        assert!(matches!(refused(&twice), LoadError::Session(_)));
    }

    #[test]
    fn a_file_is_read_as_onnx_also_when_it_bears_the_mark_of_another_format() {
        // A field that ONNX does not know, with the mark of ONNX Runtime's own format at its place, before a good model.
        let marked = [&[0xaa, 0x06, 6, 0][..], b"ORTM", &[0], FOREST].concat();
        load(&marked, &spec("1.0.0"), 1).unwrap();
    }

    #[test]
    fn a_golden_row_that_differs_is_named() {
        let engine = forest(1);
        let mut spec = spec("1.0.0");
        let expected =
            |spec: &mut ModelSpec, row: usize, change: fn(&mut u32, &mut Vec<f32>)| match &mut spec.golden.rows[row]
                .expected
            {
                Expected::Class { label, probability } => change(label, probability),
                Expected::Tensors(_) => panic!("no classifier"),
            };
        expected(&mut spec, 1, |label, _| *label = 0);
        assert_eq!(
            engine.check_golden(&spec).unwrap_err().to_string(),
            "golden row 1 alone: expected the label 0, got 2"
        );
        expected(&mut spec, 1, |label, _| *label = 2);
        expected(&mut spec, 3, |_, probability| probability[0] = 0.5);
        spec.golden.tolerance = 0.25;
        assert_eq!(
            engine.check_golden(&spec).unwrap_err().to_string(),
            "golden row 3 alone: expected the probability 0.5 of class 0 within 0.25, got 0.9699994"
        );
    }
}
