//! ONNX Runtime as an engine: a pool of sessions, one for each run at the same time.

use std::num::NonZeroUsize;
use std::time::Instant;

use mainstay_models::ModelSpec;
use ndarray::{ArrayView2, Axis, s};
use ort::ep::CPU;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::session::{Session, SessionOutputs};
use ort::value::TensorRef;

use super::answer::Expected;
use super::pool::Pool;
use super::{Answer, GoldenMismatch, LoadError, ROWS_PER_RUN_MAX, RunError, Runtime, golden, onnx, signature};

/// A model in ONNX Runtime, with as many sessions as may run at the same time.
///
/// ONNX Runtime's `Run` must not be entered twice at once on one session, so each run has a session to itself. Each
/// session has its own copy of the weights.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) pool: Pool<Session>,
    label: String,
    probability: String,
    features: usize,
    classes: usize,
}

impl Sessions {
    pub(super) fn load(
        runtime: &Runtime,
        model: &[u8],
        spec: &ModelSpec,
        sessions: NonZeroUsize,
    ) -> Result<Self, LoadError> {
        onnx::inspect(model)?;
        let mut builder = builder(runtime)?;
        let sessions: Vec<_> =
            (0..sessions.get()).map(|_| builder.commit_from_memory(model)).collect::<Result<_, _>>()?;
        signature::check(sessions[0].inputs(), sessions[0].outputs(), spec)?;
        Ok(Self {
            pool: Pool::new(sessions),
            label: spec.output.label.tensor.clone(),
            probability: spec.output.probability.tensor.clone(),
            features: spec.input.features.len(),
            classes: spec.output.label.classes.len(),
        })
    }

    pub(super) fn features(&self) -> usize {
        self.features
    }

    /// Runs `rows` now, or gives nothing if every session is busy.
    pub(super) fn try_run(&self, rows: &ArrayView2<'_, f32>) -> Option<Result<Answer, RunError>> {
        let mut session = self.pool.try_take()?;
        Some(self.run_on(&mut session, rows))
    }

    /// Runs `rows`, waiting for a session until `deadline` at most.
    pub(super) fn run(&self, rows: &ArrayView2<'_, f32>, deadline: Instant) -> Result<Answer, RunError> {
        let mut session = self.pool.take(deadline).ok_or(RunError::Busy)?;
        self.run_on(&mut session, rows)
    }

    /// Runs every idle session on one golden row, and on all of them.
    pub(super) fn warm(&self, spec: &ModelSpec) -> Result<(), RunError> {
        let rows = golden::rows(spec);
        // All of them at once, since a session that went back would be the next to come.
        let mut idle: Vec<_> = std::iter::from_fn(|| self.pool.try_take()).collect();
        for session in &mut idle {
            self.run_on(session, &rows.slice(s![..1, ..]))?;
            self.run_on(session, &rows.view())?;
        }
        Ok(())
    }

    pub(super) fn check_golden(&self, spec: &ModelSpec) -> Result<(), GoldenMismatch> {
        golden::check(spec, |rows| self.run_on(&mut self.pool.wait(), rows))
    }

    /// Runs at most [`ROWS_PER_RUN_MAX`] rows, and gives the labels and probabilities as they come.
    pub(super) fn run_raw(&self, rows: &ArrayView2<'_, f32>) -> Result<(Vec<i64>, Vec<f32>), RunError> {
        let mut session = self.pool.wait();
        let rows = rows.as_standard_layout();
        let outputs = session.run(ort::inputs![TensorRef::from_array_view(&rows)?])?;
        let ((_, labels), (_, probabilities)) = self.extract(&outputs)?;
        Ok((labels.to_vec(), probabilities.to_vec()))
    }

    #[allow(clippy::type_complexity, reason = "two tensors, each a shape and its values")]
    fn extract<'a>(
        &self,
        outputs: &'a SessionOutputs<'_>,
    ) -> Result<((&'a [i64], &'a [i64]), (&'a [i64], &'a [f32])), ort::Error> {
        let (label_shape, labels) = outputs[self.label.as_str()].try_extract_tensor()?;
        let (probability_shape, probabilities) = outputs[self.probability.as_str()].try_extract_tensor()?;
        Ok(((label_shape, labels), (probability_shape, probabilities)))
    }

    fn run_on(&self, session: &mut Session, rows: &ArrayView2<'_, f32>) -> Result<Answer, RunError> {
        let mut answer = Answer::with_capacity(rows.nrows(), self.classes);
        for piece in rows.axis_chunks_iter(Axis(0), ROWS_PER_RUN_MAX) {
            let piece = piece.as_standard_layout();
            let outputs = session.run(ort::inputs![TensorRef::from_array_view(&piece)?])?;
            let (labels, probabilities) = self.extract(&outputs)?;
            let expected = Expected {
                rows: piece.nrows(),
                classes: self.classes,
                label: &self.label,
                probability: &self.probability,
            };
            answer.append(&expected, labels, probabilities)?;
        }
        Ok(answer)
    }
}

/// How every session is set up.
///
/// Denormals are not flushed to zero: ONNX Runtime would switch that on for the thread that loads the first model and
/// for its children alone, so that answers would depend on the thread, in our own arithmetic too.
pub(super) fn builder(runtime: &Runtime) -> Result<SessionBuilder, ort::Error> {
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
