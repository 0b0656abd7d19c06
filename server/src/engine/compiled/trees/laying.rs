//! From the nodes of a model file to those that are gone down.
//!
//! Every kind of branch becomes `x <= t`, or `-x <= t` where a missing value goes the other way, so that one comparison serves
//! all.

use super::Leaves;
use crate::engine::compiled::descent::{Node, TooWide};
use crate::engine::compiled::forest::{self, Forest, Mode};

/// The most scores of an ensemble, and the most nodes.
const SCORES_MAX: usize = 1 << 26;

/// An ensemble that cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::engine::compiled) enum TreeError {
    #[error("a threshold is {0}")]
    Threshold(String),
    #[error("its leaves hold too many scores")]
    TooLarge,
    #[error("a tree of {nodes} nodes over {slots} values")]
    Links { nodes: u32, slots: u32 },
}

impl From<TooWide> for TreeError {
    fn from(TooWide { nodes, slots }: TooWide) -> Self {
        Self::Links { nodes, slots }
    }
}

/// An ensemble that is being laid out.
pub(super) struct Laying<'a> {
    pub(super) forest: &'a Forest,
    pub(super) nodes: Vec<Node>,
    /// Where the tree at hand begins.
    pub(super) root: u32,
    pub(super) leaves: Leaves,
    pub(super) classes: usize,
}

impl Laying<'_> {
    /// Lays out what begins at the node `tree` of the forest, to lie `at`, and gives its depth.
    pub(super) fn lay(&mut self, tree: u32, at: u32) -> Result<u32, TreeError> {
        let (mode, test, missing, then, otherwise) = match self.forest.node(tree) {
            forest::Node::Leaf { from, to } => return self.leaf(self.forest.scores(from, to), at).map(|()| 0),
            forest::Node::Branch { mode, slot, threshold, missing, then, otherwise } => {
                (mode, (slot, threshold), missing, then, otherwise)
            }
        };
        // An equality is two comparisons: not above, and not below. The second may lead where the first does.
        match mode {
            // A missing value that goes there fails the second comparison.
            Mode::Eq => {
                let [second, elsewhere] = self.branch(at, Mode::Leq, test, missing)?;
                let [below, equal] = self.branch(second, Mode::Lt, test, false)?;
                self.detour(below, elsewhere);
                let (deep, deeper) = (self.lay(then, equal)?, self.lay(otherwise, elsewhere)?);
                Ok((2 + deep).max(3 + deeper))
            }
            // A missing value is not equal to anything.
            Mode::Neq => {
                let [second, elsewhere] = self.branch(at, Mode::Leq, test, false)?;
                let [below, equal] = self.branch(second, Mode::Lt, test, false)?;
                self.detour(below, elsewhere);
                let (deep, deeper) = (self.lay(otherwise, equal)?, self.lay(then, elsewhere)?);
                Ok((2 + deep).max(3 + deeper))
            }
            _ => {
                let [holds, fails] = self.branch(at, mode, test, missing)?;
                Ok(1 + self.lay(then, holds)?.max(self.lay(otherwise, fails)?))
            }
        }
    }

    /// Makes the node `at` compare a slot with a threshold as `mode` says, with one `<=` in which a missing value never holds.
    /// Gives the places for what follows where the comparison holds, and where it does not.
    fn branch(
        &mut self,
        at: u32,
        mode: Mode,
        (slot, threshold): (u32, f32),
        missing: bool,
    ) -> Result<[u32; 2], TreeError> {
        let odd = || TreeError::Threshold(threshold.to_string());
        // Nothing lies below the least: such a comparison has no `<=` that is the same.
        let below = |t: f32| if t == f32::NEG_INFINITY { Err(odd()) } else { Ok(t.next_down()) };
        if threshold.is_nan() {
            return Err(odd());
        }
        // As a comparison from above or from below, of which the one holds where the other does not.
        let (upper, strict) = match mode {
            Mode::Leq => (true, false),
            Mode::Lt => (true, true),
            Mode::Gte => (false, false),
            Mode::Gt => (false, true),
            Mode::Eq | Mode::Neq => unreachable!("an equality has been made into two comparisons"),
        };
        // The side where `<=` holds must be the one where a missing value does not go.
        let (upper, strict) = if missing { (!upper, !strict) } else { (upper, strict) };
        let (threshold, negate) = match (upper, strict) {
            (true, false) => (threshold, false),
            (true, true) => (below(threshold)?, false),
            (false, false) => (-threshold, true),
            (false, true) => (below(-threshold)?, true),
        };
        let next = self.reserve(2)?;
        self.nodes[at as usize] = Node { threshold, negate, slot, next: next - self.root };
        Ok(if missing { [next, next + 1] } else { [next + 1, next] })
    }

    /// Makes the node `at` lead to `to`.
    fn detour(&mut self, at: u32, to: u32) {
        self.nodes[at as usize] = Node { threshold: f32::NAN, negate: false, slot: 0, next: to - self.root };
    }

    pub(super) fn reserve(&mut self, count: u32) -> Result<u32, TreeError> {
        let at = self.nodes.len() as u32;
        if self.nodes.len() >= SCORES_MAX {
            return Err(TreeError::TooLarge);
        }
        for new in at..at + count {
            self.nodes.push(Node { threshold: f32::NAN, negate: false, slot: 0, next: new - self.root });
            match &mut self.leaves {
                Leaves::One { scores, .. } | Leaves::Single { scores, .. } => scores.push(0.0),
                Leaves::Dense { at, .. } | Leaves::Double { at, .. } => at.push(0),
            }
        }
        Ok(at)
    }

    fn leaf(&mut self, leaf: &[(u32, f64)], node: u32) -> Result<(), TreeError> {
        self.detour(node, node);
        let classes = self.classes;
        match &mut self.leaves {
            Leaves::One { scores, .. } | Leaves::Single { scores, .. } => {
                scores[node as usize] = leaf.first().map_or(0.0, |leaf| leaf.1) as f32;
            }
            Leaves::Dense { at, scores } if scores.len() + classes <= SCORES_MAX => {
                at[node as usize] = scores.len() as u32;
                append(scores, classes, leaf.iter().map(|&(class, score)| (class, score as f32)));
            }
            Leaves::Double { at, scores } if scores.len() + classes <= SCORES_MAX => {
                at[node as usize] = scores.len() as u32;
                append(scores, classes, leaf.iter().copied());
            }
            _ => return Err(TreeError::TooLarge),
        }
        Ok(())
    }
}

/// Appends the scores of a leaf to `scores`. What it does not speak of gets a zero, which adds nothing.
fn append<T: Copy + Default>(scores: &mut Vec<T>, classes: usize, leaf: impl Iterator<Item = (u32, T)>) {
    let first = scores.len();
    scores.resize(first + classes, T::default());
    leaf.for_each(|(class, score)| scores[first + class as usize] = score);
}
