//! Ensembles of trees, laid out for descending many at a time without branches.
//!
//! A node is 16 bytes, and the nodes of a tree follow each other depth first. Every kind of branch becomes `x <= t`, or
//! `-x <= t` where a missing value goes the other way, so that one comparison serves all. A leaf leads to itself: all
//! lanes take as many steps as the deepest needs, and nothing but memory decides when a step ends. Scores are added in
//! ONNX Runtime's order, so that they have its bits.

use super::program::Block;

/// Lanes that descend side by side, so that the loads of one hide behind those of the others.
const LANES: usize = 8;
/// So many steps between two looks at whether all lanes have arrived, in deep trees.
const STEPS: u32 = 4;
/// The sign bit of a float, in the slot of a node whose comparison is of the negated value.
const NEGATE: u32 = 1 << 31;

/// A branch, or a leaf that leads to itself.
#[derive(Debug, Clone, Copy)]
struct Node {
    threshold: f32,
    /// Where the value to compare lies, and [`NEGATE`].
    slot: u32,
    /// Where to go if the comparison does not hold, and if it does.
    next: [u32; 2],
}

/// How a branch compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Leq,
    Lt,
    Gte,
    Gt,
    Eq,
    Neq,
}

/// A tree as the model file has it.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    Branch {
        mode: Mode,
        slot: u32,
        threshold: f32,
        /// Whether a missing value goes to `then`.
        missing: bool,
        then: Box<Tree>,
        otherwise: Box<Tree>,
    },
    /// The score of each class that the leaf speaks of.
    Leaf(Vec<(usize, f64)>),
}

/// What the leaves hold. Scores are added as `f32` or `f64`, whichever the model file has.
#[derive(Debug)]
enum Leaves {
    /// One score, of the class that its tree speaks of; by node.
    Single { scores: Vec<f32>, class: Vec<u32> },
    /// A score of every class; by node, where it begins.
    Dense { at: Vec<u32>, scores: Vec<f32> },
    /// The same in `f64`.
    Double { at: Vec<u32>, scores: Vec<f64> },
}

/// Trees whose scores are added up.
#[derive(Debug)]
pub(super) struct Ensemble {
    nodes: Vec<Node>,
    /// By tree.
    roots: Vec<u32>,
    depths: Vec<u32>,
    /// The roots of [`LANES`] trees that descend together, and the depth of the deepest. The last may be fewer: its other
    /// lanes repeat its first tree in vain.
    groups: Vec<([u32; LANES], u32)>,
    leaves: Leaves,
    pub(super) classes: usize,
    /// Whether any node has [`NEGATE`].
    signed: bool,
}

/// An ensemble that cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TreeError {
    #[error("a threshold is {0}")]
    Threshold(String),
    #[error("its leaves hold too many scores")]
    TooLarge,
}

/// The most scores of an ensemble, and the most nodes.
const SCORES_MAX: usize = 1 << 26;

impl Ensemble {
    pub(super) fn new(trees: &[Tree], classes: usize, double: bool) -> Result<Self, TreeError> {
        let single = !double && trees.iter().all(|tree| tree.only_class().is_some());
        let leaves = match (single, double) {
            (true, _) => Leaves::Single { scores: Vec::new(), class: Vec::new() },
            (false, false) => Leaves::Dense { at: Vec::new(), scores: Vec::new() },
            (false, true) => Leaves::Double { at: Vec::new(), scores: Vec::new() },
        };
        let (nodes, roots, depths, groups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut ensemble = Self { nodes, roots, depths, groups, leaves, classes, signed: false };
        for tree in trees {
            if let Leaves::Single { class, .. } = &mut ensemble.leaves {
                class.push(tree.only_class().expect("every tree has one class, by the choice above"));
            }
            let (root, depth) = ensemble.lay(tree)?;
            ensemble.roots.push(root);
            ensemble.depths.push(depth);
        }
        let groups = ensemble.roots.chunks(LANES).zip(ensemble.depths.chunks(LANES));
        ensemble.groups = groups.map(|(roots, depths)| group(roots, depths)).collect();
        ensemble.signed = ensemble.nodes.iter().any(|node| node.slot & NEGATE != 0);
        Ok(ensemble)
    }

    /// Steps of one row, which is about what it costs.
    pub(super) fn steps(&self) -> usize {
        self.depths.iter().map(|&depth| depth as usize + 1).sum()
    }

    /// Appends a tree, and gives its root and its depth.
    fn lay(&mut self, tree: &Tree) -> Result<(u32, u32), TreeError> {
        match tree {
            Tree::Leaf(scores) => Ok((self.leaf(scores)?, 0)),
            Tree::Branch { mode, slot, threshold, missing, then, otherwise } => {
                let at = self.reserve()?;
                // An equality is two comparisons, the second of which may lie behind either side of the first.
                let second = matches!(mode, Mode::Eq | Mode::Neq).then(|| self.reserve()).transpose()?;
                let (then, deep) = self.lay(then)?;
                let (otherwise, deeper) = self.lay(otherwise)?;
                let node = |mode, missing, then, otherwise| branch(mode, *slot, *threshold, missing, then, otherwise);
                match (mode, second) {
                    // x == t: not above t, and not below it. A missing value that goes there fails the second comparison.
                    (Mode::Eq, Some(second)) => {
                        self.nodes[at as usize] = node(Mode::Leq, *missing, second, otherwise)?;
                        self.nodes[second as usize] = node(Mode::Lt, false, otherwise, then)?;
                    }
                    // x != t: above t, or below it. A missing value is not equal to anything.
                    (Mode::Neq, Some(second)) => {
                        self.nodes[at as usize] = node(Mode::Leq, false, second, then)?;
                        self.nodes[second as usize] = node(Mode::Lt, false, then, otherwise)?;
                    }
                    _ => self.nodes[at as usize] = node(*mode, *missing, then, otherwise)?,
                }
                Ok((at, 1 + u32::from(second.is_some()) + deep.max(deeper)))
            }
        }
    }

    fn reserve(&mut self) -> Result<u32, TreeError> {
        let at = self.nodes.len() as u32;
        if self.nodes.len() >= SCORES_MAX {
            return Err(TreeError::TooLarge);
        }
        self.nodes.push(Node { threshold: 0.0, slot: 0, next: [at, at] });
        match &mut self.leaves {
            Leaves::Single { scores, .. } => scores.push(0.0),
            Leaves::Dense { at, .. } | Leaves::Double { at, .. } => at.push(0),
        }
        Ok(at)
    }

    fn leaf(&mut self, leaf: &[(usize, f64)]) -> Result<u32, TreeError> {
        let node = self.reserve()?;
        let classes = self.classes;
        // What a leaf does not speak of gets a zero, which adds nothing.
        let of = |class: usize| leaf.iter().find(|(other, _)| *other == class).map_or(0.0, |(_, score)| *score);
        match &mut self.leaves {
            Leaves::Single { scores, .. } => scores[node as usize] = leaf.first().map_or(0.0, |leaf| leaf.1) as f32,
            Leaves::Dense { at, scores } if scores.len() + classes <= SCORES_MAX => {
                at[node as usize] = scores.len() as u32;
                scores.extend((0..classes).map(|class| of(class) as f32));
            }
            Leaves::Double { at, scores } if scores.len() + classes <= SCORES_MAX => {
                at[node as usize] = scores.len() as u32;
                scores.extend((0..classes).map(of));
            }
            _ => return Err(TreeError::TooLarge),
        }
        Ok(node)
    }

    /// Adds every tree's scores to `sums`, which has room for `R` rows of every class: class by class if `f32`, as they
    /// come if `f64`. `file` holds the rows' values by slot.
    #[inline(always)]
    pub(super) fn add<const R: usize>(&self, file: &[f32], sums: &mut [f32], doubles: &mut [f64]) {
        if self.signed {
            self.add_signed::<R, true>(file, sums, doubles);
        } else {
            self.add_signed::<R, false>(file, sums, doubles);
        }
    }

    #[inline(always)]
    fn add_signed<const R: usize, const SIGNED: bool>(&self, file: &[f32], sums: &mut [f32], doubles: &mut [f64]) {
        if R == 1 {
            // Eight trees of one row.
            for (group, &(mut at, depth)) in self.groups.iter().enumerate() {
                let first = group * LANES;
                self.descend::<1, SIGNED>(file, &mut at, [0; LANES], depth);
                for (i, &leaf) in at.iter().take(self.roots.len() - first).enumerate() {
                    self.score::<1>(first + i, leaf, 0, sums, doubles);
                }
            }
        } else {
            for (tree, (&root, &depth)) in self.roots.iter().zip(&self.depths).enumerate() {
                for row in (0..R).step_by(LANES) {
                    let mut at = [root; LANES];
                    self.descend::<R, SIGNED>(file, &mut at, std::array::from_fn(|i| row + i), depth);
                    for (i, &leaf) in at.iter().enumerate() {
                        self.score::<R>(tree, leaf, row + i, sums, doubles);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn descend<const R: usize, const SIGNED: bool>(
        &self,
        file: &[f32],
        at: &mut [u32; LANES],
        rows: [usize; LANES],
        depth: u32,
    ) {
        let nodes = self.nodes.as_slice();
        let mut left = depth;
        while left > 0 {
            let steps = if left > 2 * STEPS { STEPS } else { left };
            let before = *at;
            for _ in 0..steps {
                for lane in 0..LANES {
                    let node = &nodes[at[lane] as usize];
                    let value = if SIGNED {
                        let value = file[(node.slot & !NEGATE) as usize * R + rows[lane]];
                        f32::from_bits(value.to_bits() ^ (node.slot & NEGATE))
                    } else {
                        file[node.slot as usize * R + rows[lane]]
                    };
                    at[lane] = node.next[usize::from(value <= node.threshold)];
                }
            }
            left -= steps;
            // No lane moved: all are at leaves, in a tree that is deeper elsewhere.
            if left > 0 && before == *at {
                break;
            }
        }
    }

    #[inline(always)]
    fn score<const R: usize>(&self, tree: usize, leaf: u32, row: usize, sums: &mut [f32], doubles: &mut [f64]) {
        let leaf = leaf as usize;
        match &self.leaves {
            Leaves::Single { scores, class } => sums[class[tree] as usize * R + row] += scores[leaf],
            Leaves::Dense { at, scores } => {
                let scores = &scores[at[leaf] as usize..][..self.classes];
                for (class, score) in scores.iter().enumerate() {
                    sums[class * R + row] += score;
                }
            }
            Leaves::Double { at, scores } => {
                let scores = &scores[at[leaf] as usize..][..self.classes];
                for (class, score) in scores.iter().enumerate() {
                    doubles[class * R + row] += score;
                }
            }
        }
    }
}

/// At most [`LANES`] trees that descend together.
fn group(roots: &[u32], depths: &[u32]) -> ([u32; LANES], u32) {
    let mut lanes = [roots[0]; LANES];
    lanes[..roots.len()].copy_from_slice(roots);
    (lanes, depths.iter().copied().max().unwrap_or(0))
}

/// A node that compares as `mode` says, with one `<=` in which a missing value never holds.
fn branch(mode: Mode, slot: u32, threshold: f32, missing: bool, then: u32, otherwise: u32) -> Result<Node, TreeError> {
    let odd = || TreeError::Threshold(threshold.to_string());
    // Nothing lies below the least: such a comparison has no `<=` that is the same.
    let below = |t: f32| if t == f32::NEG_INFINITY { Err(odd()) } else { Ok(t.next_down()) };
    if threshold.is_nan() {
        return Err(odd());
    }
    // As a comparison from above or from below, of which the one holds where the other does not.
    let (upper, strict, then, otherwise, missing_then) = match mode {
        Mode::Leq => (true, false, then, otherwise, missing),
        Mode::Lt => (true, true, then, otherwise, missing),
        Mode::Gte => (false, false, then, otherwise, missing),
        Mode::Gt => (false, true, then, otherwise, missing),
        Mode::Eq | Mode::Neq => unreachable!("an equality has been made into two comparisons"),
    };
    // The side where `<=` holds must be the one where a missing value does not go.
    let (upper, strict, holds, fails) =
        if missing_then { (!upper, !strict, otherwise, then) } else { (upper, strict, then, otherwise) };
    let (threshold, slot) = match (upper, strict) {
        (true, false) => (threshold, slot),
        (true, true) => (below(threshold)?, slot),
        (false, false) => (-threshold, slot | NEGATE),
        (false, true) => (below(-threshold)?, slot | NEGATE),
    };
    Ok(Node { threshold, slot, next: [fails, holds] })
}

impl Tree {
    /// The one class that all its leaves speak of, if so.
    fn only_class(&self) -> Option<u32> {
        match self {
            Self::Leaf(scores) => match scores.as_slice() {
                [(class, _)] => Some(*class as u32),
                _ => None,
            },
            Self::Branch { then, otherwise, .. } => {
                let class = then.only_class()?;
                (otherwise.only_class()? == class).then_some(class)
            }
        }
    }

    /// Whether every leaf speaks of `class`, and whether any does.
    pub(super) fn speaks_of(&self, class: usize) -> (bool, bool) {
        match self {
            Self::Leaf(scores) => {
                let speaks = scores.iter().any(|(other, _)| *other == class);
                (speaks, speaks)
            }
            Self::Branch { then, otherwise, .. } => {
                let ((all, any), (also_all, also_any)) = (then.speaks_of(class), otherwise.speaks_of(class));
                (all && also_all, any || also_any)
            }
        }
    }
}

/// What becomes of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl Transform {
    /// In place, of two scores or more.
    pub(super) fn apply(self, scores: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            Self::Softmax => {
                let max = max(scores);
                let mut sum = 0.0;
                for score in scores.iter_mut() {
                    *score = (*score - max).exp();
                    sum += *score;
                }
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            Self::SoftmaxZero => {
                let max = max(scores);
                let low = (-max).exp();
                let mut sum = 0.0;
                for score in scores.iter_mut() {
                    // ONNX Runtime's idea of zero.
                    if *score > 0.000_000_1 || *score < -0.000_000_1 {
                        *score = (*score - max).exp();
                        sum += *score;
                    } else {
                        *score *= low;
                    }
                }
                scores.iter_mut().for_each(|score| *score /= sum);
            }
        }
    }
}

fn max(scores: &[f32]) -> f32 {
    scores.iter().fold(f32::MIN, |max, &score| if score > max { score } else { max })
}

pub(super) fn logistic(value: f32) -> f32 {
    let v = 1.0 / (1.0 + (-value.abs()).exp());
    if value < 0.0 { 1.0 - v } else { v }
}

/// ONNX Runtime's approximation of the inverse of the normal distribution.
pub(super) fn probit(value: f32) -> f32 {
    let x = 2.0 * value - 1.0;
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    let v2 = 1.0 / 0.147 * log;
    std::f32::consts::SQRT_2 * (sign * (-v + (v * v - v2).sqrt()).sqrt())
}

/// A TreeEnsembleClassifier or a TreeEnsembleRegressor: an ensemble and what is made of its scores.
#[derive(Debug)]
pub(super) struct Trees {
    pub(super) ensemble: Ensemble,
    pub(super) finish: Finish,
    /// Whether scores are added as `f64`.
    pub(super) double: bool,
    pub(super) base: Vec<f64>,
    /// The first of the slots for what comes out.
    pub(super) out: u32,
}

#[derive(Debug)]
pub(super) enum Finish {
    Classify {
        labels: Vec<i64>,
        transform: Transform,
        /// All leaves speak of the same one of two classes.
        binary: bool,
        all_positive: bool,
        /// Which classes any leaf speaks of.
        scored: Vec<bool>,
        /// The slot for the label.
        label: u32,
    },
    Regress {
        average: bool,
    },
}

impl Trees {
    #[inline(always)]
    pub(super) fn run<const R: usize>(&self, block: &mut Block<'_>) {
        let classes = self.ensemble.classes;
        let Block { floats, ints, sums, doubles } = block;
        if self.double {
            doubles[..classes * R].fill(0.0);
        } else {
            sums[..classes * R].fill(0.0);
        }
        self.ensemble.add::<R>(floats, sums, doubles);
        let out = self.out as usize * R;
        for row in 0..R {
            if self.double {
                self.finish::<R, f64>(row, doubles, &mut floats[out..], ints);
            } else {
                self.finish::<R, f32>(row, sums, &mut floats[out..], ints);
            }
        }
    }

    /// Makes the answer for one row of its scores, which it may overwrite.
    #[inline(always)]
    fn finish<const R: usize, W: Score>(&self, row: usize, sums: &mut [W], out: &mut [f32], ints: &mut [i64]) {
        let classes = self.ensemble.classes;
        let base = |class: usize| W::of(self.base[class]);
        match &self.finish {
            Finish::Regress { average } => {
                for class in 0..classes {
                    let mut score = sums[class * R + row];
                    if *average {
                        score = score / W::of(self.ensemble.roots.len() as f64);
                    }
                    if !self.base.is_empty() {
                        score = score + base(class);
                    }
                    out[class * R + row] = score.narrow();
                }
            }
            Finish::Classify { labels, transform, binary, all_positive, scored, label } => {
                let label = &mut ints[*label as usize * R + row];
                if classes > 2 {
                    for (class, &base) in self.base.iter().enumerate() {
                        sums[class * R + row] = sums[class * R + row] + W::of(base);
                    }
                    let mut best: Option<(usize, W)> = None;
                    for class in (0..classes).filter(|&class| scored[class] || !self.base.is_empty()) {
                        let score = sums[class * R + row];
                        if best.is_none_or(|(_, best)| score > best) {
                            best = Some((class, score));
                        }
                    }
                    *label = labels[best.map_or(0, |(class, _)| class)];
                    // The classes of a row lie apart: bring them together.
                    for class in 0..classes {
                        out[class * R + row] = sums[class * R + row].narrow();
                    }
                    transform_apart::<R>(*transform, &mut out[row..], classes);
                    return;
                }
                let (mut first, mut second) = (sums[row], sums[R + row]);
                let mut has_second = scored[1];
                let mut pair = true;
                match self.base.len() {
                    2 if has_second => {
                        second = base(1) + first;
                        first = -second;
                    }
                    2 => {
                        second = second + base(1);
                        first = first + base(0);
                    }
                    1 => {
                        first = first + base(0);
                        pair = has_second;
                    }
                    _ => pair = has_second,
                }
                if !pair {
                    has_second = false;
                }
                let deciding = if has_second {
                    second
                } else if scored[0] {
                    first
                } else {
                    W::of(0.0)
                };
                // What no leaf speaks of reads as zero from here on, whatever was added to it.
                let first = if scored[0] { first } else { W::of(0.0) };
                let second = if scored[1] { second } else { W::of(0.0) };
                let positive = if *binary && *all_positive { deciding > W::of(0.5) } else { deciding > W::of(0.0) };
                *label = match (*binary, positive) {
                    (true, positive) => labels[usize::from(positive)],
                    // ONNX Runtime does not ask the model for its labels here.
                    (false, positive) => i64::from(positive),
                };
                let (first, second) = if pair {
                    let mut pair = [first.narrow(), second.narrow()];
                    transform.apply(&mut pair);
                    (pair[0], pair[1])
                } else if *transform == Transform::Probit {
                    (probit(first.narrow()), 0.0)
                } else if *transform == Transform::Logistic {
                    (logistic((-first).narrow()), logistic(first.narrow()))
                } else if *binary && *all_positive {
                    ((W::of(1.0) - first).narrow(), first.narrow())
                } else {
                    ((-first).narrow(), first.narrow())
                };
                out[row] = first;
                out[R + row] = second;
            }
        }
    }
}

/// Transforms scores that lie `R` apart.
#[inline(always)]
pub(super) fn transform_apart<const R: usize>(transform: Transform, scores: &mut [f32], classes: usize) {
    if R == 1 {
        return transform.apply(&mut scores[..classes]);
    }
    if transform == Transform::None {
        return;
    }
    // Few models have more classes; a longer row is done in the loop's own memory.
    let mut few = [0.0; 64];
    let mut many = Vec::new();
    let row = if classes <= few.len() {
        &mut few[..classes]
    } else {
        many.resize(classes, 0.0);
        many.as_mut_slice()
    };
    for class in 0..classes {
        row[class] = scores[class * R];
    }
    transform.apply(row);
    for class in 0..classes {
        scores[class * R] = row[class];
    }
}

/// What scores are added as.
trait Score:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
{
    fn of(value: f64) -> Self;
    fn narrow(self) -> f32;
}

impl Score for f32 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value as Self
    }

    #[inline(always)]
    fn narrow(self) -> f32 {
        self
    }
}

impl Score for f64 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn narrow(self) -> f32 {
        self as f32
    }
}
