//! What a model was compiled to: instructions over slots, each of which holds one value of every row.
//!
//! A run goes over the rows in blocks. Slots lie one after another, the rows of a block side by side in each, so that an
//! instruction is a loop over neighbours. No slot is written twice, and none is read before it was written. A program
//! is never changed: any number of threads run it at the same time, each with scratch memory of its own.

use std::cell::RefCell;

use ndarray::ArrayView2;

use super::transform::{Transform, logistic, transform_apart};
use super::trees::Trees;

/// Rows of a large block, of which the values of an instruction fill some cache lines.
const LARGE: usize = 64;
/// Rows of a small block.
const SMALL: usize = 8;

/// A range of slots, or one slot over and over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) start: u32,
    /// 1, or 0 for the same slot each time.
    pub(super) step: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Neg,
    Abs,
    Exp,
    Sqrt,
    Reciprocal,
    Round,
    Floor,
    Ceil,
    Relu,
    Sigmoid,
    Tanh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    Max,
    L1,
    L2,
}

/// One step. `out` is the first slot that it writes; `a`, `b` and others are what it reads.
#[derive(Debug)]
pub(super) enum Instruction {
    Binary { op: Binary, out: u32, a: Operand, b: Operand, count: u32 },
    Unary { op: Unary, out: u32, a: Operand, count: u32 },
    Compare { op: Compare, out: u32, a: Operand, b: Operand, count: u32 },
    CompareInts { op: Compare, out: u32, a: Operand, b: Operand, count: u32 },
    And { out: u32, a: Operand, b: Operand, count: u32 },
    Or { out: u32, a: Operand, b: Operand, count: u32 },
    IsNan { out: u32, a: Operand, count: u32 },
    Select { out: u32, condition: Operand, a: Operand, b: Operand, count: u32 },
    SelectInts { out: u32, condition: Operand, a: Operand, b: Operand, count: u32 },
    ToInts { out: u32, a: Operand, count: u32 },
    ToFloats { out: u32, a: Operand, count: u32 },
    Lookup { out: u32, index: u32, table: Box<[i64]> },
    LookupFloats { out: u32, index: u32, table: Box<[f32]> },
    ArgMax { out: u32, of: Box<[u32]> },
    Reduce { op: Reduce, out: u32, of: Box<[u32]> },
    Softmax { out: u32, of: Box<[u32]> },
    Normalize { norm: Norm, out: u32, of: Box<[u32]> },
    Linear(Linear),
    Classify { out: u32, scores: u32, classes: u32, label: u32, labels: Box<[i64]>, transform: Transform },
    Trees(Box<Trees>),
}

/// Weighted sums of values: one for each target.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) of: Box<[u32]>,
    /// By value, then by target.
    pub(super) weights: Box<[f32]>,
    /// By target; none where nothing is added.
    pub(super) bias: Box<[f32]>,
    pub(super) targets: u32,
    pub(super) out: u32,
}

/// A compiled model.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) features: usize,
    pub(super) instructions: Vec<Instruction>,
    pub(super) float_slots: usize,
    pub(super) int_slots: usize,
    /// Slots that always hold the same.
    pub(super) floats: Vec<(u32, f32)>,
    pub(super) ints: Vec<(u32, i64)>,
    /// What comes out of a row: these integers, and these floats.
    pub(super) integers_out: Box<[u32]>,
    pub(super) floats_out: Box<[u32]>,
}

/// The memory of one run: one block's slots, and sums of trees.
#[derive(Debug, Default)]
struct Scratch {
    floats: Vec<f32>,
    ints: Vec<i64>,
    sums: Vec<f32>,
    doubles: Vec<f64>,
}

/// The same, lent to an instruction.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) floats: &'a mut [f32],
    pub(super) ints: &'a mut [i64],
    pub(super) sums: &'a mut [f32],
    pub(super) doubles: &'a mut [f64],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What comes out of a run, row by row.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    pub(super) integers: Vec<i64>,
    pub(super) floats: Vec<f32>,
}

impl Program {
    /// Roughly how many steps of some nanoseconds one row takes.
    pub(super) fn steps(&self) -> usize {
        let steps = |instruction: &Instruction| match instruction {
            Instruction::Trees(trees) => trees.ensemble.steps(),
            Instruction::Linear(linear) => linear.weights.len() / 4 + 1,
            _ => 4,
        };
        self.instructions.iter().map(steps).sum::<usize>() + self.features
    }

    /// Runs `rows`, of which each has as many values as the model has features, and appends what comes out.
    pub(super) fn run(&self, rows: &ArrayView2<'_, f32>, outputs: &mut Outputs) {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut next = 0;
            while next < rows.nrows() {
                let left = rows.nrows() - next;
                // A small block that is not full costs less than its rows alone, from some rows on.
                let take = match left {
                    LARGE.. => LARGE,
                    5.. => left.min(SMALL),
                    _ => 1,
                };
                let block = rows.slice(ndarray::s![next..next + take, ..]);
                match take {
                    1 => self.block::<1>(&block, scratch, outputs),
                    LARGE => self.block::<LARGE>(&block, scratch, outputs),
                    _ => self.block::<SMALL>(&block, scratch, outputs),
                }
                next += take;
            }
        });
    }

    fn block<const R: usize>(&self, rows: &ArrayView2<'_, f32>, scratch: &mut Scratch, outputs: &mut Outputs) {
        scratch.fit(self.float_slots * R, self.int_slots * R);
        let whole = if R == 1 { rows.as_slice() } else { None };
        if let Some(row) = whole {
            scratch.floats[..row.len()].copy_from_slice(row);
        }
        let columns = rows.columns().into_iter().enumerate();
        for (feature, column) in columns.take(if whole.is_some() { 0 } else { self.features }) {
            let slot = &mut scratch.floats[feature * R..][..R];
            for (value, &given) in slot.iter_mut().zip(column) {
                *value = given;
            }
            // Places without a row run along, with something harmless.
            slot[rows.nrows()..].fill(0.0);
        }
        for &(slot, value) in &self.floats {
            scratch.floats[slot as usize * R..][..R].fill(value);
        }
        for &(slot, value) in &self.ints {
            scratch.ints[slot as usize * R..][..R].fill(value);
        }
        let mut block = Block {
            floats: &mut scratch.floats[..self.float_slots * R],
            ints: &mut scratch.ints[..self.int_slots * R],
            sums: &mut scratch.sums,
            doubles: &mut scratch.doubles,
        };
        self.execute::<R>(&mut block);
        for row in 0..rows.nrows() {
            outputs.integers.extend(self.integers_out.iter().map(|&slot| block.ints[slot as usize * R + row]));
            outputs.floats.extend(self.floats_out.iter().map(|&slot| block.floats[slot as usize * R + row]));
        }
    }

    fn execute<const R: usize>(&self, block: &mut Block<'_>) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what the function was compiled for.
            #[allow(unsafe_code)]
            return unsafe { self.execute_avx2::<R>(block) };
        }
        self.execute_with::<R>(block);
    }

    /// The same instructions, compiled for processors of the last ten years.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn execute_avx2<const R: usize>(&self, block: &mut Block<'_>) {
        self.execute_with::<R>(block);
    }

    #[inline(always)]
    fn execute_with<const R: usize>(&self, block: &mut Block<'_>) {
        for instruction in &self.instructions {
            instruction.run::<R>(block);
        }
    }
}

impl Scratch {
    /// Makes room. Sums need no more than the slots that they end in.
    fn fit(&mut self, floats: usize, ints: usize) {
        if self.floats.len() < floats {
            self.floats.resize(floats, 0.0);
            self.sums.resize(floats, 0.0);
            self.doubles.resize(floats, 0.0);
        }
        if self.ints.len() < ints {
            self.ints.resize(ints, 0);
        }
    }
}

impl Instruction {
    #[inline(always)]
    fn run<const R: usize>(&self, block: &mut Block<'_>) {
        let Block { floats, ints, .. } = block;
        match self {
            &Self::Binary { op, out, a, b, count } => match op {
                Binary::Add => zip::<R, _>(floats, out, a, b, count, |a, b| a + b),
                Binary::Sub => zip::<R, _>(floats, out, a, b, count, |a, b| a - b),
                Binary::Mul => zip::<R, _>(floats, out, a, b, count, |a, b| a * b),
                Binary::Div => zip::<R, _>(floats, out, a, b, count, |a, b| a / b),
                Binary::Min => zip::<R, _>(floats, out, a, b, count, |a, b| if a.is_nan() || a < b { a } else { b }),
                Binary::Max => zip::<R, _>(floats, out, a, b, count, |a, b| if a.is_nan() || a > b { a } else { b }),
            },
            &Self::Unary { op, out, a, count } => match op {
                Unary::Neg => map::<R>(floats, out, a, count, |a| -a),
                Unary::Abs => map::<R>(floats, out, a, count, f32::abs),
                Unary::Exp => map::<R>(floats, out, a, count, f32::exp),
                Unary::Sqrt => map::<R>(floats, out, a, count, f32::sqrt),
                Unary::Reciprocal => map::<R>(floats, out, a, count, |a| 1.0 / a),
                Unary::Round => map::<R>(floats, out, a, count, f32::round_ties_even),
                Unary::Floor => map::<R>(floats, out, a, count, f32::floor),
                Unary::Ceil => map::<R>(floats, out, a, count, f32::ceil),
                Unary::Relu => map::<R>(floats, out, a, count, |a| if a < 0.0 { 0.0 } else { a }),
                Unary::Sigmoid => map::<R>(floats, out, a, count, logistic),
                Unary::Tanh => map::<R>(floats, out, a, count, f32::tanh),
            },
            &Self::Compare { op, out, a, b, count } => match op {
                Compare::Equal => judge::<R, _>(ints, floats, out, a, b, count, |a, b| a == b),
                Compare::NotEqual => judge::<R, _>(ints, floats, out, a, b, count, |a, b| a != b),
                Compare::Less => judge::<R, _>(ints, floats, out, a, b, count, |a, b| a < b),
                Compare::LessOrEqual => judge::<R, _>(ints, floats, out, a, b, count, |a, b| a <= b),
            },
            &Self::CompareInts { op, out, a, b, count } => zip::<R, _>(ints, out, a, b, count, |a, b| {
                i64::from(match op {
                    Compare::Equal => a == b,
                    Compare::NotEqual => a != b,
                    Compare::Less => a < b,
                    Compare::LessOrEqual => a <= b,
                })
            }),
            &Self::And { out, a, b, count } => zip::<R, _>(ints, out, a, b, count, |a, b| a & b),
            &Self::Or { out, a, b, count } => zip::<R, _>(ints, out, a, b, count, |a, b| a | b),
            &Self::IsNan { out, a, count } => judge::<R, _>(ints, floats, out, a, a, count, |a, _| a.is_nan()),
            &Self::Select { out, condition, a, b, count } => {
                for i in 0..count {
                    let (read, write) = floats.split_at_mut((out + i) as usize * R);
                    let (a, b, c) = (at::<R, _>(read, a, i), at::<R, _>(read, b, i), at::<R, _>(ints, condition, i));
                    for row in 0..R {
                        write[row] = if c[row] != 0 { a[row] } else { b[row] };
                    }
                }
            }
            &Self::SelectInts { out, condition, a, b, count } => {
                for i in 0..count {
                    let (read, write) = ints.split_at_mut((out + i) as usize * R);
                    let (a, b, c) = (at::<R, _>(read, a, i), at::<R, _>(read, b, i), at::<R, _>(read, condition, i));
                    for row in 0..R {
                        write[row] = if c[row] != 0 { a[row] } else { b[row] };
                    }
                }
            }
            &Self::ToInts { out, a, count } => {
                for i in 0..count {
                    let a = at::<R, _>(floats, a, i);
                    for (out, &a) in ints[(out + i) as usize * R..][..R].iter_mut().zip(a) {
                        *out = truncate(a);
                    }
                }
            }
            &Self::ToFloats { out, a, count } => {
                for i in 0..count {
                    let a = at::<R, _>(ints, a, i);
                    for (out, &a) in floats[(out + i) as usize * R..][..R].iter_mut().zip(a) {
                        *out = a as f32;
                    }
                }
            }
            Self::Lookup { out, index, table } => {
                for row in 0..R {
                    let index = ints[*index as usize * R + row] as usize;
                    ints[*out as usize * R + row] = table.get(index).copied().unwrap_or_default();
                }
            }
            Self::LookupFloats { out, index, table } => {
                for row in 0..R {
                    let index = ints[*index as usize * R + row] as usize;
                    floats[*out as usize * R + row] = table.get(index).copied().unwrap_or_default();
                }
            }
            Self::ArgMax { out, of } => {
                for row in 0..R {
                    let value = |i: usize| floats[of[i] as usize * R + row];
                    let mut best = 0;
                    for i in 1..of.len() {
                        if value(i) > value(best) {
                            best = i;
                        }
                    }
                    ints[*out as usize * R + row] = best as i64;
                }
            }
            Self::Reduce { op, out, of } => {
                let (read, write) = floats.split_at_mut(*out as usize * R);
                let write = &mut write[..R];
                write.copy_from_slice(&read[of[0] as usize * R..][..R]);
                for &slot in &of[1..] {
                    for (sum, &value) in write.iter_mut().zip(&read[slot as usize * R..][..R]) {
                        *sum = match op {
                            Reduce::Sum | Reduce::Mean => *sum + value,
                            Reduce::Prod => *sum * value,
                            Reduce::Max => {
                                if value > *sum {
                                    value
                                } else {
                                    *sum
                                }
                            }
                            Reduce::Min => {
                                if value < *sum {
                                    value
                                } else {
                                    *sum
                                }
                            }
                        };
                    }
                }
                if *op == Reduce::Mean {
                    write.iter_mut().for_each(|sum| *sum /= of.len() as f32);
                }
            }
            Self::Softmax { out, of } => {
                let (read, write) = floats.split_at_mut(*out as usize * R);
                for row in 0..R {
                    let value = |i: usize| read[of[i] as usize * R + row];
                    let max =
                        (0..of.len()).map(value).fold(f32::MIN, |max, value| if value > max { value } else { max });
                    let mut sum = 0.0;
                    for i in 0..of.len() {
                        let e = (value(i) - max).exp();
                        write[i * R + row] = e;
                        sum += e;
                    }
                    for i in 0..of.len() {
                        write[i * R + row] /= sum;
                    }
                }
            }
            Self::Normalize { norm, out, of } => {
                let (read, write) = floats.split_at_mut(*out as usize * R);
                for row in 0..R {
                    let value = |i: usize| read[of[i] as usize * R + row];
                    let all = (0..of.len()).map(value);
                    let by = match norm {
                        Norm::Max => all.fold(f32::MIN, |max, value| if max < value { value } else { max }),
                        Norm::L1 => all.fold(0.0, |sum, value| sum + value.abs()),
                        Norm::L2 => all.fold(0.0, |sum, value| sum + value * value),
                    };
                    for i in 0..of.len() {
                        let x = value(i);
                        write[i * R + row] = match norm {
                            _ if by == 0.0 => x,
                            Norm::L2 if x < 0.0 => -(x * x / by).sqrt(),
                            Norm::L2 => (x * x / by).sqrt(),
                            Norm::Max | Norm::L1 => x / by,
                        };
                    }
                }
            }
            Self::Linear(linear) => linear.run::<R>(floats),
            Self::Classify { out, scores, classes, label, labels, transform } => {
                let classes = *classes as usize;
                let (read, write) = floats.split_at_mut(*out as usize * R);
                for row in 0..R {
                    let score = |class: usize| read[*scores as usize * R + class * R + row];
                    ints[*label as usize * R + row] = if classes == 1 {
                        labels[usize::from(score(0) > 0.0)]
                    } else {
                        let best =
                            (1..classes).fold(0, |best, class| if score(class) > score(best) { class } else { best });
                        labels[best]
                    };
                    if classes == 1 {
                        // ONNX Runtime takes the one score for a probability, whatever the transform says.
                        (write[row], write[R + row]) = (1.0 - score(0), score(0));
                    } else {
                        for class in 0..classes {
                            write[class * R + row] = score(class);
                        }
                        transform_apart::<R>(*transform, &mut write[row..], classes);
                    }
                }
            }
            Self::Trees(trees) => trees.run::<R>(block),
        }
    }
}

impl Linear {
    /// Adds up in the order of the values, with one rounding a step, as ONNX Runtime does for more than one row.
    #[inline(always)]
    fn run<const R: usize>(&self, floats: &mut [f32]) {
        let (read, write) = floats.split_at_mut(self.out as usize * R);
        let targets = self.targets as usize;
        let write = &mut write[..targets * R];
        write.fill(0.0);
        for (&slot, weights) in self.of.iter().zip(self.weights.chunks_exact(targets)) {
            let value = &read[slot as usize * R..][..R];
            for (sums, &weight) in write.chunks_exact_mut(R).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(value) {
                    *sum = value.mul_add(weight, *sum);
                }
            }
        }
        for (sums, &bias) in write.chunks_exact_mut(R).zip(&self.bias) {
            sums.iter_mut().for_each(|sum| *sum += bias);
        }
    }
}

#[inline(always)]
fn at<const R: usize, T>(slots: &[T], operand: Operand, i: u32) -> &[T] {
    &slots[(operand.start + i * operand.step) as usize * R..][..R]
}

#[inline(always)]
fn zip<const R: usize, T: Copy>(slots: &mut [T], out: u32, a: Operand, b: Operand, count: u32, f: impl Fn(T, T) -> T) {
    for i in 0..count {
        let (read, write) = slots.split_at_mut((out + i) as usize * R);
        let (a, b, write) = (at::<R, _>(read, a, i), at::<R, _>(read, b, i), &mut write[..R]);
        for row in 0..R {
            write[row] = f(a[row], b[row]);
        }
    }
}

#[inline(always)]
fn map<const R: usize>(slots: &mut [f32], out: u32, a: Operand, count: u32, f: impl Fn(f32) -> f32) {
    zip::<R, _>(slots, out, a, a, count, |a, _| f(a));
}

#[inline(always)]
fn judge<const R: usize, F: Fn(f32, f32) -> bool>(
    ints: &mut [i64],
    floats: &[f32],
    out: u32,
    a: Operand,
    b: Operand,
    count: u32,
    f: F,
) {
    for i in 0..count {
        let (a, b) = (at::<R, _>(floats, a, i), at::<R, _>(floats, b, i));
        let write = &mut ints[(out + i) as usize * R..][..R];
        for row in 0..R {
            write[row] = i64::from(f(a[row], b[row]));
        }
    }
}

/// A float to an integer as the processor does it, and so ONNX Runtime.
pub(super) fn truncate(value: f32) -> i64 {
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value);
    if cfg!(target_arch = "x86_64") && !fits { i64::MIN } else { value as i64 }
}
