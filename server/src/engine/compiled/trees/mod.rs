//! Ensembles of trees, and what is made of their scores.
//!
//! Scores are added in ONNX Runtime's order, so that they have its bits.

use self::laying::{Laying, TreeError};
use super::descent::{LANES, Lanes, Nodes, SIDE_BY_SIDE};
use super::forest::Forest;
use super::program::Block;
use super::transform::{Transform, logistic, probit, transform_apart};

mod laying;

/// What the leaves hold. Scores are added as `f32` or `f64`, whichever the model file has.
#[derive(Debug)]
enum Leaves {
    /// One score, by node; all of the same class.
    One { scores: Vec<f32>, class: u32 },
    /// One score, of the class that its tree speaks of; by node.
    Single { scores: Vec<f32>, class: Vec<u32> },
    /// A score of every class; by node, where it begins. [`FEW`] more follow the last.
    Dense { at: Vec<u32>, scores: Vec<f32> },
    /// The same in `f64`.
    Double { at: Vec<u32>, scores: Vec<f64> },
}

/// Trees whose scores are added up.
#[derive(Debug)]
pub(super) struct Ensemble {
    nodes: Nodes,
    /// By tree.
    roots: Vec<u32>,
    depths: Vec<u32>,
    /// Eight trees each, at their roots. The last may be fewer: its other lanes repeat its first tree in vain.
    groups: Vec<Lanes>,
    leaves: Leaves,
    pub(super) classes: usize,
}

/// So many sums are held in a register, or half as many in half of one.
const FEW: usize = 8;
impl Ensemble {
    pub(super) fn new(forest: &Forest, classes: usize, double: bool) -> Result<Self, TreeError> {
        let single = if double { None } else { forest.only_classes() };
        let leaves = match (single, double) {
            (Some(class), _) => match class.as_slice() {
                [first, rest @ ..] if rest.iter().all(|class| class == first) => {
                    Leaves::One { scores: Vec::new(), class: *first }
                }
                _ => Leaves::Single { scores: Vec::new(), class },
            },
            (None, false) => Leaves::Dense { at: Vec::new(), scores: Vec::new() },
            (None, true) => Leaves::Double { at: Vec::new(), scores: Vec::new() },
        };
        let mut laying = Laying { forest, nodes: Vec::new(), root: 0, leaves, classes };
        let (mut roots, mut depths, mut longest) = (Vec::new(), Vec::new(), 0);
        for &tree in forest.roots() {
            let root = laying.reserve(1)?;
            laying.root = root;
            roots.push(root);
            depths.push(laying.lay(tree, root)?);
            longest = longest.max(laying.nodes.len() as u32 - root);
        }
        let Laying { nodes, mut leaves, .. } = laying;
        if let Leaves::Dense { scores, .. } = &mut leaves {
            scores.extend([0.0; FEW]);
        }
        let nodes = Nodes::new(&nodes, longest)?;
        let groups =
            roots.chunks(LANES).zip(depths.chunks(LANES)).map(|(roots, depths)| group(roots, depths)).collect();
        Ok(Self { nodes, roots, depths, groups, leaves, classes })
    }

    /// Steps of one row, which is about what it costs.
    pub(super) fn steps(&self) -> usize {
        self.depths.iter().map(|&depth| depth as usize + 1).sum()
    }

    /// Adds every tree's scores to `sums`, which has room for `R` rows of every class: class by class if `f32`, as they
    /// come if `f64`. `file` holds the rows' values by slot.
    #[inline(always)]
    pub(super) fn add<const R: usize>(&self, file: &[f32], sums: &mut [f32], doubles: &mut [f64]) {
        let mut leaves = [[0; LANES]; SIDE_BY_SIDE];
        if R == 1 {
            // Eight trees of the row in each.
            let together = evenly(self.groups.len());
            for (chunk, groups) in self.groups.chunks(together).enumerate() {
                self.nodes.descend::<1>(file, groups, &mut leaves);
                let first = chunk * together * LANES;
                let trees = (groups.len() * LANES).min(self.roots.len() - first);
                self.score_row(first, &leaves.as_flattened()[..trees], sums, doubles);
            }
        } else {
            // Eight rows of a tree in each.
            let mut lanes = [Lanes::default(); SIDE_BY_SIDE];
            let of_tree = R / LANES;
            let together = (evenly(self.roots.len() * of_tree) / of_tree).max(1);
            for (chunk, roots) in self.roots.chunks(together).enumerate() {
                let first = chunk * together;
                let lanes = &mut lanes[..roots.len() * of_tree];
                for (i, lanes) in lanes.iter_mut().enumerate() {
                    let (tree, row) = (i / of_tree, i % of_tree * LANES);
                    let rows = std::array::from_fn(|lane| (row + lane) as u32);
                    *lanes = Lanes { roots: [roots[tree]; LANES], rows, depth: self.depths[first + tree] };
                }
                self.nodes.descend::<R>(file, lanes, &mut leaves);
                for (i, leaves) in leaves.iter().take(lanes.len()).enumerate() {
                    let (tree, row) = (i / of_tree, i % of_tree * LANES);
                    for (lane, &leaf) in leaves.iter().enumerate() {
                        self.score::<R>(first + tree, leaf, row + lane, sums, doubles);
                    }
                }
            }
        }
    }

    /// Adds the scores of one row's `leaves`, of as many trees from the tree `first` on. Sums stay in registers where there are
    /// few: in memory, each addition would wait for the one before it to be stored.
    #[inline(always)]
    fn score_row(&self, first: usize, leaves: &[u32], sums: &mut [f32], doubles: &mut [f64]) {
        match &self.leaves {
            Leaves::One { scores, class } => {
                let sum = &mut sums[*class as usize];
                *sum = leaves.iter().fold(*sum, |sum, &leaf| sum + scores[leaf as usize]);
            }
            Leaves::Dense { at, scores } if self.classes <= FEW / 2 => {
                add_few::<{ FEW / 2 }>(leaves, at, scores, &mut sums[..self.classes]);
            }
            Leaves::Dense { at, scores } if self.classes <= FEW => {
                add_few::<FEW>(leaves, at, scores, &mut sums[..self.classes]);
            }
            _ => {
                for (tree, &leaf) in (first..).zip(leaves) {
                    self.score::<1>(tree, leaf, 0, sums, doubles);
                }
            }
        }
    }

    #[inline(always)]
    fn score<const R: usize>(&self, tree: usize, leaf: u32, row: usize, sums: &mut [f32], doubles: &mut [f64]) {
        let leaf = leaf as usize;
        match &self.leaves {
            Leaves::One { scores, class } => sums[*class as usize * R + row] += scores[leaf],
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

/// Adds the scores of leaves to the sums of at most `N` classes. What a leaf's scores are followed by is added where nothing is read.
#[inline(always)]
fn add_few<const N: usize>(leaves: &[u32], at: &[u32], scores: &[f32], sums: &mut [f32]) {
    let mut few = [0.0; N];
    few[..sums.len()].copy_from_slice(sums);
    for &leaf in leaves {
        let from = at[leaf as usize] as usize;
        for (sum, score) in few.iter_mut().zip(&scores[from..from + N]) {
            *sum += score;
        }
    }
    sums.copy_from_slice(&few[..sums.len()]);
}

/// At most [`LANES`] trees that go down together.
fn group(roots: &[u32], depths: &[u32]) -> Lanes {
    let mut all = [roots[0]; LANES];
    all[..roots.len()].copy_from_slice(roots);
    Lanes { roots: all, rows: [0; LANES], depth: depths.iter().copied().max().unwrap_or(0) }
}

/// How many of `count` go down side by side, so that no time has few of them.
fn evenly(count: usize) -> usize {
    count.div_ceil(count.div_ceil(SIDE_BY_SIDE).max(1)).max(1)
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
