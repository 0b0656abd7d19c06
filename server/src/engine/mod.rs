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
mod golden;
mod onnx;
mod pool;
mod runtime;
mod signature;

use std::num::NonZeroUsize;
use std::time::Instant;

use mainstay_models::ModelSpec;
use ndarray::{ArrayView2, Axis, s};
use ort::ep::CPU;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::value::TensorRef;

pub use self::answer::Answer;
use self::answer::Expected;
pub use self::golden::GoldenMismatch;
pub use self::onnx::InspectError;
use self::pool::Pool;
pub use self::runtime::{LIBRARY_VARIABLE, Runtime, RuntimeError, TELEMETRY_VARIABLE, disable_telemetry};
pub use self::signature::{Declared, SignatureMismatch, Tensor};

/// The most rows of one run: it bounds the memory of a run, however large the request. Larger inputs are run in pieces.
pub const ROWS_PER_RUN_MAX: usize = 4096;

/// A model in memory, with as many sessions as may run at the same time.
///
/// ONNX Runtime's `Run` must not be entered twice at once on one session, so each run has a session to itself. Each
/// session has its own copy of the weights.
#[derive(Debug)]
pub struct Engine {
    sessions: Pool<Session>,
    label: String,
    probability: String,
    features: usize,
    classes: usize,
}

/// A model file that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not an ONNX model, or not one that may be loaded.
    #[error("cannot accept the model file")]
    Inspect(#[from] InspectError),
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
    /// The rows are not of this model's width.
    #[error("cannot run the model on rows of {got} features: it takes {expected}")]
    Features {
        /// How many features the model takes.
        expected: usize,
        /// How many the rows have.
        got: usize,
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
    #[error("cannot use the model's label {got} for row {row}: it has {classes} classes")]
    Label {
        /// The row, counted from 0.
        row: usize,
        /// The label.
        got: i64,
        /// How many classes the spec names.
        classes: usize,
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
    let session = builder(runtime)?.commit_from_memory(model)?;
    Ok(Declared::of(session.inputs(), session.outputs()))
}

impl Engine {
    /// Loads a model for `sessions` runs at the same time.
    ///
    /// Takes a second for a large forest and a millisecond for a small one, for each session; call it on a thread that may block.
    pub fn load(runtime: &Runtime, model: &[u8], spec: &ModelSpec, sessions: NonZeroUsize) -> Result<Self, LoadError> {
        onnx::inspect(model)?;
        let mut builder = builder(runtime)?;
        let sessions: Vec<_> =
            (0..sessions.get()).map(|_| builder.commit_from_memory(model)).collect::<Result<_, _>>()?;
        signature::check(sessions[0].inputs(), sessions[0].outputs(), spec)?;
        Ok(Self {
            sessions: Pool::new(sessions),
            label: spec.output.label.tensor.clone(),
            probability: spec.output.probability.tensor.clone(),
            features: spec.input.features.len(),
            classes: spec.output.label.classes.len(),
        })
    }

    /// Runs `rows` now, or gives nothing if every session is busy.
    pub fn try_run(&self, rows: &ArrayView2<'_, f32>) -> Option<Result<Answer, RunError>> {
        let mut session = self.sessions.try_take()?;
        Some(self.run_on(&mut session, rows))
    }

    /// Runs `rows`, waiting for a session until `deadline` at most. The run itself is not cut short.
    pub fn run(&self, rows: &ArrayView2<'_, f32>, deadline: Instant) -> Result<Answer, RunError> {
        let mut session = self.sessions.take(deadline).ok_or(RunError::Busy)?;
        self.run_on(&mut session, rows)
    }

    /// Runs every idle session on one golden row, and on all of them: what ONNX Runtime puts off until the first run
    /// is done before a request comes.
    pub fn warm(&self, spec: &ModelSpec) -> Result<(), RunError> {
        let rows = golden::rows(spec);
        // All of them at once, since a session that went back would be the next to come.
        let mut idle: Vec<_> = std::iter::from_fn(|| self.sessions.try_take()).collect();
        for session in &mut idle {
            self.run_on(session, &rows.slice(s![..1, ..]))?;
            self.run_on(session, &rows.view())?;
        }
        Ok(())
    }

    /// Runs the golden rows, each alone and all as one batch, and compares the answers with the known ones.
    pub fn check_golden(&self, spec: &ModelSpec) -> Result<(), GoldenMismatch> {
        golden::check(spec, |rows| self.run_on(&mut self.sessions.wait(), rows))
    }

    fn run_on(&self, session: &mut Session, rows: &ArrayView2<'_, f32>) -> Result<Answer, RunError> {
        if rows.ncols() != self.features {
            return Err(RunError::Features { expected: self.features, got: rows.ncols() });
        }
        let mut answer = Answer::with_capacity(rows.nrows(), self.classes);
        for piece in rows.axis_chunks_iter(Axis(0), ROWS_PER_RUN_MAX) {
            let piece = piece.as_standard_layout();
            let outputs = session.run(ort::inputs![TensorRef::from_array_view(&piece)?])?;
            let (label_shape, labels) = outputs[self.label.as_str()].try_extract_tensor()?;
            let (probability_shape, probabilities) = outputs[self.probability.as_str()].try_extract_tensor()?;
            let expected = Expected {
                rows: piece.nrows(),
                classes: self.classes,
                label: &self.label,
                probability: &self.probability,
            };
            answer.append(&expected, (label_shape, labels), (probability_shape, probabilities))?;
        }
        Ok(answer)
    }
}

/// How every session is set up.
///
/// Denormals are not flushed to zero: ONNX Runtime would switch that on for the thread that loads the first model and
/// for its children alone, so that answers would depend on the thread, in our own arithmetic too.
fn builder(runtime: &Runtime) -> Result<SessionBuilder, ort::Error> {
    let builder = Session::builder(runtime.environment())?
        // Small models lose by sharing a run between threads: the cores run different requests instead.
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        // The number of rows differs from run to run, which a plan of memory does not survive.
        .with_memory_pattern(false)?
        // An arena grows with the largest run and never shrinks, and going without costs nothing that can be measured.
        .with_execution_providers([CPU::default().with_arena_allocator(false).build()])?
        .with_device_allocated_initializers()?
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        // ONNX Runtime would recognise its own format too, by four bytes, and that one has not been inspected.
        .with_config_entry("session.load_model_format", "ONNX")?;
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::thread;
    use std::time::Duration;

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

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn the_shipped_models_load_warm_up_and_give_their_golden_answers() {
        for version in ["1.0.0", "1.1.0"] {
            let spec = spec(version);
            let model =
                fs_err::read(format!("{}/../models/iris/{version}/model.onnx", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let engine = load(&model, &spec, 2).unwrap();
            engine.warm(&spec).unwrap();
            engine.check_golden(&spec).unwrap();
        }
    }

    #[test]
    fn more_rows_than_one_run_takes_are_answered_in_their_order() {
        let engine = forest(1);
        let golden = golden::rows(&spec("1.0.0"));
        let rows = ndarray::Array2::from_shape_fn((ROWS_PER_RUN_MAX + 3, 4), |(row, feature)| {
            golden[[row % golden.nrows(), feature]]
        });
        let whole = engine.run(&rows.view(), soon()).unwrap();
        let alone = engine.run(&golden.view(), soon()).unwrap();
        assert_eq!(whole.probabilities.dim(), (ROWS_PER_RUN_MAX + 3, 3));
        for row in 0..rows.nrows() {
            assert_eq!(whole.labels[row], alone.labels[row % golden.nrows()]);
            assert_eq!(whole.probabilities.row(row), alone.probabilities.row(row % golden.nrows()));
        }
    }

    #[test]
    fn rows_may_lie_in_memory_in_any_order_and_may_be_none() {
        let engine = forest(1);
        let golden = golden::rows(&spec("1.0.0"));
        let columns_first = golden.t().as_standard_layout().into_owned().reversed_axes();
        assert!(!columns_first.is_standard_layout());
        let expected = engine.run(&golden.view(), soon()).unwrap();
        assert_eq!(engine.run(&columns_first.view(), soon()).unwrap(), expected);
        let none = engine.run(&golden.slice(s![..0, ..]), soon()).unwrap();
        assert_eq!((none.labels.len(), none.probabilities.dim()), (0, (0, 3)));
    }

    #[test]
    fn rows_of_another_width_are_refused() {
        let refused = forest(1).run(&ndarray::Array2::zeros((2, 5)).view(), soon());
        assert!(matches!(refused, Err(RunError::Features { expected: 4, got: 5 })));
    }

    #[test]
    fn a_busy_engine_says_so_at_once_or_at_the_deadline() {
        let engine = forest(1);
        let rows = ndarray::Array2::zeros((1, 4));
        let busy = engine.sessions.wait();
        assert!(engine.try_run(&rows.view()).is_none());
        let late = engine.run(&rows.view(), Instant::now() + Duration::from_millis(5));
        assert!(matches!(late, Err(RunError::Busy)));
        drop(busy);
        assert!(engine.try_run(&rows.view()).unwrap().is_ok());
    }

    #[test]
    fn many_threads_share_few_sessions_and_get_their_own_answers() {
        let engine = forest(2);
        let golden = golden::rows(&spec("1.0.0"));
        let expected = engine.run(&golden.view(), soon()).unwrap();
        thread::scope(|scope| {
            for thread in 0..8 {
                let (engine, golden, expected) = (&engine, &golden, &expected);
                scope.spawn(move || {
                    for i in 0..500 {
                        let row = (thread + i) % golden.nrows();
                        let answer = engine.run(&golden.slice(s![row..=row, ..]), soon()).unwrap();
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
            change(|spec| spec.input.tensor = "rows".into()),
            "the model's input: model.yaml expects `rows`, the model file has `features`"
        );
        assert_eq!(
            change(|spec| drop(spec.input.features.pop())),
            "the model's input: model.yaml expects `features` of f32 [any, 3], the model file has Tensor<f32>(N, 4)"
        );
        assert_eq!(
            change(|spec| spec.output.label.classes.push("other".into())),
            "the model's probability output: model.yaml expects `probabilities` of f32 [any, 4], the model file has Tensor<f32>(N, 3)"
        );
        assert_eq!(
            change(|spec| spec.output.label.tensor = "probabilities".into()),
            "the model's label output: model.yaml expects `probabilities` of i64 [any] or [any, 1], the model file has Tensor<f32>(N, 3)"
        );
        assert_eq!(
            change(|spec| spec.output.probability.tensor = "label".into()),
            "the model's probability output: model.yaml expects `label` of f32 [any, 3], the model file has Tensor<i64>(N)"
        );
        assert_eq!(
            change(|spec| spec.output.probability.tensor = "scores".into()),
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
        spec.golden.rows[1].label = 0;
        assert_eq!(
            engine.check_golden(&spec).unwrap_err().to_string(),
            "golden row 1 alone: expected the label 0, got 2"
        );
        spec.golden.rows[1].label = 2;
        spec.golden.rows[3].probability[0] = 0.5;
        spec.golden.tolerance = 0.25;
        assert_eq!(
            engine.check_golden(&spec).unwrap_err().to_string(),
            "golden row 3 alone: expected the probability 0.5 of class 0 within 0.25, got 0.9699994"
        );
    }
}
