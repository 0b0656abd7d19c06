//! ONNX Runtime as an engine: a pool of sessions, one for each run at the same time.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use mainstay_models::ModelSpec;
use ndarray::{ArrayView2, Axis};
use ort::ep::CPU;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{PrimitiveTensorElementType, Tensor as OrtTensor, TensorRef};

use super::outputs::{Labels, Outputs, Prediction, describe, wrong_rows};
use super::pool::Pool;
use super::{GoldenMismatch, LoadError, RunError, Runtime, golden, onnx, signature};
use crate::rows::Rows;
use crate::tensor::{Datatype, Elements, Tensor};

/// A model in ONNX Runtime, with as many sessions as may run at the same time.
///
/// ONNX Runtime's `Run` must not be entered twice at once on one session, so each run has a session to itself. Each
/// session has its own copy of the weights.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) pool: Pool<Session>,
    plan: Plan,
    /// What [`super::Engine`] says of both, once it has been measured.
    inline_rows_max: usize,
    batch_rows_max: usize,
}

/// How long a run may keep the thread of a connection from its other connections.
const INLINE_TIME_MAX: Duration = Duration::from_millis(2);
/// The most rows of a run there, also of a model whose rows are over in no time.
const INLINE_ROWS_MAX: usize = 64;
/// From when on a row is worth the 50 µs that handing it to a worker costs, where that runs with it what waits behind it.
const JOINED_TIME_MIN: Duration = Duration::from_micros(250);
/// How long the first of many requests may wait for the others in its run, and the most rows of it.
const BATCH_TIME_MAX: Duration = Duration::from_millis(20);
const BATCH_ROWS_MAX: usize = 64;
/// How often a session runs one row to learn what that costs, and then a few. The least counts: the first run does what later
/// ones need not, and the thread may be interrupted.
const COST_RUNS: usize = 5;
const FEW_ROWS: usize = 8;

/// How a model is asked, and how its answer is read.
#[derive(Debug)]
pub(super) struct Plan {
    /// The input tensors, in the card's order.
    pub(super) inputs: Vec<InputPlan>,
    /// Whether they are one float32 tensor with a column per feature.
    pub(super) is_matrix: bool,
    /// How many rows one run takes: the model's own fixed number, which is one, or our bound.
    pub(super) rows_per_run: usize,
    pub(super) outputs: Outputs,
}

/// One input tensor of a model.
#[derive(Debug)]
pub(super) struct InputPlan {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    pub(super) columns: usize,
    /// Whether the model takes its one column as a list.
    pub(super) is_list: bool,
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
        let plan = signature::plan(sessions[0].inputs(), sessions[0].outputs(), spec)?;
        // No other models can have the rows of many requests in one run.
        let batch_rows_max = if plan.is_matrix && plan.rows_per_run > 1 { BATCH_ROWS_MAX } else { 1 };
        Ok(Self { pool: Pool::new(sessions), plan, inline_rows_max: INLINE_ROWS_MAX, batch_rows_max })
    }

    /// Whether the label of a classifier is the name of its class.
    pub(super) fn names_classes(&self) -> bool {
        matches!(self.plan.outputs, Outputs::Classifier { labels: Labels::Names, .. })
    }

    /// Runs `rows` now, or gives nothing if every session is busy.
    pub(super) fn try_run(&self, rows: &Rows) -> Option<Result<Prediction, RunError>> {
        let mut session = self.pool.try_take()?;
        Some(self.run_on(&mut session, rows))
    }

    /// Runs `rows`, waiting for a session until `deadline` at most.
    pub(super) fn run(&self, rows: &Rows, deadline: Instant) -> Result<Prediction, RunError> {
        let mut session = self.pool.take(deadline).ok_or(RunError::Busy)?;
        self.run_on(&mut session, rows)
    }

    /// The most rows that may run on the thread of a connection.
    pub(super) fn inline_rows_max(&self) -> usize {
        self.inline_rows_max
    }

    /// The most rows of a run for many requests.
    pub(super) fn batch_rows_max(&self) -> usize {
        self.batch_rows_max
    }

    /// Runs every idle session on a few golden rows, each alone, and on all of them; and learns what rows cost.
    pub(super) fn warm(&mut self, spec: &ModelSpec) -> Result<(), RunError> {
        let rows = golden::rows(spec);
        let few = match &rows {
            Rows::Matrix(matrix) if self.batch_rows_max > 1 => {
                let indices: Vec<_> = (0..matrix.nrows()).cycle().take(FEW_ROWS).collect();
                Some(Rows::Matrix(matrix.select(Axis(0), &indices)))
            }
            _ => None,
        };
        let (mut one_row, mut few_rows) = (Duration::MAX, Duration::MAX);
        // All of them at once, since a session that went back would be the next to come.
        let mut idle: Vec<_> = std::iter::from_fn(|| self.pool.try_take()).collect();
        for session in &mut idle {
            for row in (0..rows.len()).cycle().take(COST_RUNS) {
                let row = rows.slice(row, row + 1);
                one_row = one_row.min(self.time(session, &row)?);
            }
            for few in std::iter::repeat_n(&few, COST_RUNS).flatten() {
                few_rows = few_rows.min(self.time(session, few)?);
            }
            self.run_on(session, &rows)?;
        }
        drop(idle);
        if few.is_some() {
            self.batch_rows_max = batch_rows(one_row, few_rows);
        }
        self.inline_rows_max = inline_rows(one_row, self.batch_rows_max > 1);
        Ok(())
    }

    /// How long a run takes.
    fn time(&self, session: &mut Session, rows: &Rows) -> Result<Duration, RunError> {
        let begun = Instant::now();
        self.run_on(session, rows)?;
        Ok(begun.elapsed())
    }

    pub(super) fn check_golden(&self, spec: &ModelSpec) -> Result<(), GoldenMismatch> {
        golden::check(spec, |rows| self.run_on(&mut self.pool.wait(), rows))
    }

    /// Runs at most [`super::ROWS_PER_RUN_MAX`] rows of a model that could be compiled, and gives its integers and floats as
    /// they come, row by row.
    pub(super) fn run_raw(&self, rows: &ArrayView2<'_, f32>) -> Result<(Vec<i64>, Vec<f32>), RunError> {
        let mut session = self.pool.wait();
        let rows = rows.as_standard_layout();
        let outputs = session.run(ort::inputs![TensorRef::from_array_view(&rows)?])?;
        self.plan.outputs.raw(&outputs, rows.nrows())
    }

    fn run_on(&self, session: &mut Session, rows: &Rows) -> Result<Prediction, RunError> {
        let Plan { inputs, is_matrix, rows_per_run, outputs } = &self.plan;
        let mut collector = outputs.collector(rows.len());
        match rows {
            Rows::Matrix(matrix) if *is_matrix && matrix.ncols() == inputs[0].columns => {
                for (i, piece) in matrix.axis_chunks_iter(Axis(0), *rows_per_run).enumerate() {
                    let piece = piece.as_standard_layout();
                    let given = session.run(ort::inputs![TensorRef::from_array_view(&piece)?])?;
                    outputs.append(&mut collector, &given, piece.nrows(), i * rows_per_run)?;
                }
            }
            Rows::Tensors(tensors) if !is_matrix && self.fits(tensors) => {
                for first in (0..rows.len()).step_by(*rows_per_run) {
                    let count = (*rows_per_run).min(rows.len() - first);
                    let values = inputs.iter().zip(tensors).map(|(input, tensor)| {
                        let value = input.value(tensor.elements(), first, count)?;
                        Ok((input.name.as_str(), value))
                    });
                    let values = values.collect::<Result<Vec<_>, ort::Error>>()?;
                    let given = session.run(values)?;
                    outputs.append(&mut collector, &given, count, first)?;
                }
            }
            other if *is_matrix => return Err(wrong_rows(inputs[0].columns, other)),
            other => {
                let one = |input: &InputPlan| format!("`{}` of {}", input.name, input.datatype.name());
                let expected = inputs.iter().map(one).collect::<Vec<_>>().join(", ");
                return Err(RunError::Rows { expected, got: describe(other) });
            }
        }
        Ok(outputs.finish(rows.len(), collector))
    }

    /// Whether `tensors` are this model's inputs, in order and with the same number of rows.
    fn fits(&self, tensors: &[Tensor]) -> bool {
        let rows = tensors.first().map_or(0, |tensor| tensor.shape().first().copied().unwrap_or(0));
        let fits = |(input, tensor): (&InputPlan, &Tensor)| {
            (input.name == tensor.name())
                && input.datatype == tensor.elements().datatype()
                && tensor.shape() == [rows, input.columns]
        };
        tensors.len() == self.plan.inputs.len() && self.plan.inputs.iter().zip(tensors).all(fits)
    }
}

/// How many rows may run on the thread of a connection where one alone takes so long, and many may be one run or not. Many take
/// less than each alone.
fn inline_rows(one_row: Duration, are_joined: bool) -> usize {
    if are_joined && one_row >= JOINED_TIME_MIN {
        return 0;
    }
    let rows = INLINE_TIME_MAX.as_nanos() / one_row.as_nanos().max(1);
    usize::try_from(rows).map_or(INLINE_ROWS_MAX, |rows| rows.min(INLINE_ROWS_MAX))
}

/// How many rows a run for many requests may have where one alone takes so long, and [`FEW_ROWS`] together: one unless that
/// saves a fifth, which what is measured here and now may be wrong by.
fn batch_rows(one_row: Duration, few_rows: Duration) -> usize {
    let alone = one_row.saturating_mul(FEW_ROWS as u32);
    if few_rows.saturating_mul(5) > alone.saturating_mul(4) {
        return 1;
    }
    let rows = BATCH_TIME_MAX.as_nanos() * FEW_ROWS as u128 / few_rows.as_nanos().max(1);
    usize::try_from(rows).map_or(BATCH_ROWS_MAX, |rows| rows.clamp(1, BATCH_ROWS_MAX))
}

impl InputPlan {
    /// The rows `first..first + count` of a tensor of this input's datatype, as ONNX Runtime takes them.
    fn value<'v>(
        &self,
        elements: &'v Elements,
        first: usize,
        count: usize,
    ) -> Result<SessionInputValue<'v>, ort::Error> {
        fn view<'v, T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
            shape: &[usize],
            values: &'v [T],
        ) -> Result<SessionInputValue<'v>, ort::Error> {
            TensorRef::from_array_view((shape.to_vec(), values)).map(SessionInputValue::from)
        }
        let shape = if self.is_list { &[count][..] } else { &[count, self.columns] };
        let range = first * self.columns..(first + count) * self.columns;
        match elements {
            Elements::Bool(values) => view(shape, &values[range]),
            Elements::Uint8(values) => view(shape, &values[range]),
            Elements::Uint16(values) => view(shape, &values[range]),
            Elements::Uint32(values) => view(shape, &values[range]),
            Elements::Uint64(values) => view(shape, &values[range]),
            Elements::Int8(values) => view(shape, &values[range]),
            Elements::Int16(values) => view(shape, &values[range]),
            Elements::Int32(values) => view(shape, &values[range]),
            Elements::Int64(values) => view(shape, &values[range]),
            Elements::Fp16(values) => view(shape, &values[range]),
            Elements::Bf16(values) => view(shape, &values[range]),
            Elements::Fp32(values) => view(shape, &values[range]),
            Elements::Fp64(values) => view(shape, &values[range]),
            Elements::Bytes(values) => {
                // Whoever makes rows has checked that texts are UTF-8; if not, the model sees what is not as U+FFFD.
                let text = |text: &Vec<u8>| String::from_utf8_lossy(text).into_owned();
                let texts: Vec<_> = values[range].iter().map(text).collect();
                OrtTensor::from_string_array((shape.to_vec(), texts.as_slice())).map(SessionInputValue::from)
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_runs_on_the_thread_of_a_connection_as_long_as_that_is_short() {
        let rows = |one_row_us| inline_rows(Duration::from_micros(one_row_us), false);
        assert_eq!([0, 10, 40, 1_500, 2_001].map(rows), [64, 64, 50, 1, 0]);
        assert_eq!(inline_rows(Duration::MAX, false), 0);
        // What waits for a worker is one run there, and one after the other here.
        let rows = |one_row_us| inline_rows(Duration::from_micros(one_row_us), true);
        assert_eq!([0, 10, 40, 249, 250, 1_500].map(rows), [64, 64, 50, 8, 0, 0]);
    }

    #[test]
    fn requests_are_one_run_where_that_saves_much_and_none_waits_long_for_the_others() {
        let rows =
            |one_row_us, few_rows_us| batch_rows(Duration::from_micros(one_row_us), Duration::from_micros(few_rows_us));
        // A small model, trees, a neural network, an image; one that each row costs the same; one that is slow with many.
        assert_eq!([rows(10, 11), rows(11, 57), rows(3_000, 5_000), rows(30_000, 100_000)], [64, 64, 32, 1]);
        assert_eq!([rows(100, 640), rows(100, 641), rows(1_000, 8_000), rows(10, 1_000)], [64, 1, 1, 1]);
        assert_eq!(batch_rows(Duration::ZERO, Duration::ZERO), 64);
    }
}
