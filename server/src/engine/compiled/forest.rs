//! The trees of an ensemble as a model file has them: lists of nodes that name each other by numbers, and of scores that name
//! nodes.
//!
//! Guarantees: a [`Forest`] has whole trees only, none deeper than [`DEPTH_MAX`], and each of its leaves has a score. Does not
//! know how trees are laid out to be gone down.

use std::collections::HashMap;
use std::ops::Range;

use super::Unsupported;
use super::graph::Attributes;

/// The deepest tree. Training stops long before.
const DEPTH_MAX: usize = 256;

type Lowered<T> = Result<T, Unsupported>;

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

/// A node of a tree; the places that it leads to are among the nodes of its forest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    Branch {
        mode: Mode,
        slot: u32,
        threshold: f32,
        /// Whether a missing value goes to `then`.
        missing: bool,
        then: u32,
        otherwise: u32,
    },
    /// Which of the forest's scores are the leaf's.
    Leaf { from: u32, to: u32 },
}

/// The trees of an ensemble.
#[derive(Debug)]
pub(super) struct Forest {
    /// Tree after tree, in the order in which their scores are added; each from its root on.
    nodes: Vec<Node>,
    roots: Vec<u32>,
    /// Of which class, and the score.
    scores: Vec<(u32, f64)>,
    /// How many classes any score is of.
    pub(super) classes_named: usize,
    /// Whether no score is below zero.
    pub(super) all_positive: bool,
}

/// What a forest says of a class.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spoken {
    /// Every row has a score of it.
    pub(super) always: bool,
    /// Some row may have one.
    pub(super) ever: bool,
}

/// A list for each property of nodes.
struct Lists<'a> {
    slots: &'a [u32],
    double: bool,
    trees: &'a [i64],
    ids: &'a [i64],
    features: &'a [i64],
    modes: &'a [Vec<u8>],
    values: Vec<f64>,
    missing: &'a [i64],
    then: &'a [i64],
    otherwise: &'a [i64],
}

/// The nodes of one tree in the lists, found by their numbers.
struct Numbers {
    places: Range<usize>,
    first: i64,
    /// By number; nothing where they go on from the first one, as converters write them.
    sorted: Vec<(i64, usize)>,
}

/// Scores by the place of their leaf in the lists.
struct Scores {
    /// Where those of each node begin, and where the last ones end.
    at: Vec<u32>,
    all: Vec<(u32, f64)>,
    classes_named: usize,
    all_positive: bool,
}

/// A forest that is being put together.
struct Walk<'a> {
    lists: &'a Lists<'a>,
    scores: &'a Scores,
    nodes: Vec<Node>,
}

impl Forest {
    /// The trees whose features lie in `slots`, and whose scores are of so many `classes`: attributes that begin with `what`.
    pub(super) fn read(
        attributes: &Attributes<'_>,
        what: &str,
        slots: &[u32],
        classes: usize,
        double: bool,
    ) -> Lowered<Self> {
        let lists = Lists::read(attributes, slots, double)?;
        let trees = lists.by_tree()?;
        let scores = Scores::read(attributes, what, classes, &lists, &trees)?;
        let mut walk = Walk { lists: &lists, scores: &scores, nodes: Vec::with_capacity(lists.trees.len()) };
        let mut roots = Vec::with_capacity(trees.len());
        for tree in &trees {
            roots.push(walk.tree(tree, tree.places.start, 0)?);
        }
        let Walk { nodes, .. } = walk;
        let Scores { all: scores, classes_named, all_positive, .. } = scores;
        Ok(Self { nodes, roots, scores, classes_named, all_positive })
    }

    /// The roots of the trees, in the order in which their scores are added.
    pub(super) fn roots(&self) -> &[u32] {
        &self.roots
    }

    pub(super) fn node(&self, at: u32) -> Node {
        self.nodes[at as usize]
    }

    /// The scores from the place `from` up to `to`: classes and values.
    pub(super) fn scores(&self, from: u32, to: u32) -> &[(u32, f64)] {
        &self.scores[from as usize..to as usize]
    }

    /// The scores of each leaf of the tree `index`.
    fn leaves(&self, index: usize) -> impl Iterator<Item = &[(u32, f64)]> {
        let end = self.roots.get(index + 1).map_or(self.nodes.len(), |&root| root as usize);
        self.nodes[self.roots[index] as usize..end].iter().filter_map(|node| match *node {
            Node::Leaf { from, to } => Some(self.scores(from, to)),
            Node::Branch { .. } => None,
        })
    }

    /// The one class that all scores of each tree are of, if so.
    pub(super) fn only_classes(&self) -> Option<Vec<u32>> {
        let of_leaf = |scores: &[(u32, f64)]| if let [(class, _)] = scores { Some(*class) } else { None };
        let of_tree = |index| {
            let mut classes = self.leaves(index).map(of_leaf);
            let first = classes.next()??;
            classes.all(|class| class == Some(first)).then_some(first)
        };
        (0..self.roots.len()).map(of_tree).collect()
    }

    /// What is said of each of so many classes.
    pub(super) fn spoken(&self, classes: usize) -> Vec<Spoken> {
        let mut spoken = vec![Spoken::default(); classes];
        let mut counts = vec![0_usize; classes];
        for index in 0..self.roots.len() {
            counts.fill(0);
            let mut leaves = 0;
            for leaf in self.leaves(index) {
                leaves += 1;
                leaf.iter().for_each(|(class, _)| counts[*class as usize] += 1);
            }
            for (class, &count) in spoken.iter_mut().zip(&counts) {
                class.always |= count == leaves;
                class.ever |= count > 0;
            }
        }
        spoken
    }
}

impl<'a> Lists<'a> {
    fn read(attributes: &Attributes<'a>, slots: &'a [u32], double: bool) -> Lowered<Self> {
        let ints = |name: &str| attributes.ints(name).map(Option::unwrap_or_default);
        attributes.ignore("nodes_hitrates");
        attributes.ignore("nodes_hitrates_as_tensor");
        let lists = Self {
            slots,
            double,
            trees: ints("nodes_treeids")?,
            ids: ints("nodes_nodeids")?,
            features: ints("nodes_featureids")?,
            modes: attributes.strings("nodes_modes")?,
            values: attributes.numbers("nodes_values", double)?,
            missing: ints("nodes_missing_value_tracks_true")?,
            then: ints("nodes_truenodeids")?,
            otherwise: ints("nodes_falsenodeids")?,
        };
        let nodes = lists.trees.len();
        let lengths = [
            lists.ids.len(),
            lists.features.len(),
            lists.modes.len(),
            lists.values.len(),
            lists.then.len(),
            lists.otherwise.len(),
        ];
        if lengths.iter().any(|&length| length != nodes) || nodes == 0 || u32::try_from(nodes).is_err() {
            return Err(Unsupported::new("lists of nodes that do not fit together"));
        }
        Ok(lists)
    }

    /// The nodes of each tree, in the order of the lists.
    fn by_tree(&self) -> Lowered<Vec<Numbers>> {
        let mut trees: Vec<Numbers> = Vec::new();
        let mut start = 0;
        for tree in self.trees.chunk_by(|a, b| a == b) {
            let places = start..start + tree.len();
            start = places.end;
            trees.push(Numbers::new(self.ids, places)?);
        }
        Ok(trees)
    }

    /// The comparison with a float32 that is the same, for every float32, as that with a float64.
    fn threshold(&self, mode: Mode, value: f64) -> Lowered<(Mode, f32)> {
        let near = value as f32;
        if !self.double || f64::from(near) == value {
            return Ok((mode, near));
        }
        // The greatest float32 below: nothing lies between it and the threshold.
        let below = if f64::from(near) > value { near.next_down() } else { near };
        match mode {
            Mode::Leq | Mode::Lt => Ok((Mode::Leq, below)),
            Mode::Gt | Mode::Gte => Ok((Mode::Gt, below)),
            Mode::Eq | Mode::Neq => Err(Unsupported::new("an equality with a float64 that is no float32")),
        }
    }
}

impl Numbers {
    fn new(ids: &[i64], places: Range<usize>) -> Lowered<Self> {
        let first = ids[places.start];
        let goes_on = |pair: &[i64]| pair[0].checked_add(1) == Some(pair[1]);
        let mut sorted = Vec::new();
        if !ids[places.clone()].windows(2).all(goes_on) {
            sorted = places.clone().map(|place| (ids[place], place)).collect();
            sorted.sort_unstable();
            if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return Err(Unsupported::new("two nodes of one number in a tree"));
            }
        }
        Ok(Self { places, first, sorted })
    }

    /// The place of the node that has the number `id`.
    fn find(&self, id: i64) -> Option<usize> {
        if self.sorted.is_empty() {
            let further = usize::try_from(id.checked_sub(self.first)?).ok()?;
            return self.places.start.checked_add(further).filter(|place| *place < self.places.end);
        }
        let at = self.sorted.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        Some(self.sorted[at].1)
    }
}

impl Scores {
    fn read(
        attributes: &Attributes<'_>,
        what: &str,
        classes: usize,
        lists: &Lists<'_>,
        trees: &[Numbers],
    ) -> Lowered<Self> {
        let ints = |name: &str| attributes.ints(&format!("{what}_{name}")).map(Option::unwrap_or_default);
        let (tree_of, node_of, class_of) = (ints("treeids")?, ints("nodeids")?, ints("ids")?);
        let weights = attributes.numbers(&format!("{what}_weights"), lists.double)?;
        let is_whole = [tree_of, node_of, class_of].iter().all(|list| list.len() == weights.len());
        if !is_whole || u32::try_from(weights.len()).is_err() {
            return Err(Unsupported::new("lists of scores that do not fit together"));
        }
        let mut by_id = HashMap::with_capacity(trees.len());
        for tree in trees {
            if by_id.insert(lists.trees[tree.places.start], tree).is_some() {
                return Err(Unsupported::new("a tree in two pieces"));
            }
        }
        let mut at = vec![0_u32; lists.trees.len() + 1];
        let mut places = Vec::with_capacity(weights.len());
        for (tree, node) in tree_of.iter().zip(node_of) {
            let place = by_id.get(tree).and_then(|tree| tree.find(*node));
            let place = place.ok_or_else(|| Unsupported::new("a score of a node that is none"))?;
            at[place + 1] += 1;
            places.push(place);
        }
        for place in 1..at.len() {
            at[place] += at[place - 1];
        }
        let mut next = at.clone();
        let mut all = vec![(0, 0.0); weights.len()];
        for ((&place, &class), &weight) in places.iter().zip(class_of).zip(&weights) {
            let class = usize::try_from(class).ok().filter(|&class| class < classes);
            let class = class.ok_or_else(|| Unsupported::new("a score of a class that is none"))?;
            all[next[place] as usize] = (class as u32, weight);
            next[place] += 1;
        }
        // By class, the node that had a score of it last, counted from 1.
        let mut last = vec![0; classes];
        for (place, pair) in at.windows(2).enumerate() {
            for (class, _) in &all[pair[0] as usize..pair[1] as usize] {
                if std::mem::replace(&mut last[*class as usize], place + 1) == place + 1 {
                    return Err(Unsupported::new("two scores of one class in a leaf"));
                }
            }
        }
        let classes_named = last.iter().filter(|node| **node > 0).count();
        let all_positive = weights.iter().all(|weight| *weight >= 0.0 || weight.is_nan());
        Ok(Self { at, all, classes_named, all_positive })
    }
}

impl Walk<'_> {
    /// Appends the part of `tree` that begins at `place`, and gives where it lies.
    fn tree(&mut self, tree: &Numbers, place: usize, depth: usize) -> Lowered<u32> {
        let (lists, at) = (self.lists, self.nodes.len());
        // A node that is met twice makes more nodes than there are.
        if at == lists.trees.len() || depth > DEPTH_MAX {
            return Err(Unsupported::new("a tree that is too deep, or none"));
        }
        let mode = match lists.modes[place].as_slice() {
            b"LEAF" => {
                let (from, to) = (self.scores.at[place], self.scores.at[place + 1]);
                if from == to {
                    return Err(Unsupported::new("a leaf without a score"));
                }
                self.nodes.push(Node::Leaf { from, to });
                return Ok(at as u32);
            }
            b"BRANCH_LEQ" => Mode::Leq,
            b"BRANCH_LT" => Mode::Lt,
            b"BRANCH_GTE" => Mode::Gte,
            b"BRANCH_GT" => Mode::Gt,
            b"BRANCH_EQ" => Mode::Eq,
            b"BRANCH_NEQ" => Mode::Neq,
            _ => return Err(Unsupported::new("another kind of branch")),
        };
        let feature = usize::try_from(lists.features[place]).ok().and_then(|feature| lists.slots.get(feature));
        let slot = *feature.ok_or_else(|| Unsupported::new("a branch on a feature that is none"))?;
        let (mode, threshold) = lists.threshold(mode, lists.values[place])?;
        let missing = lists.missing.get(place) == Some(&1);
        let child = |id| tree.find(id).ok_or_else(|| Unsupported::new("a branch to a node that is none"));
        let (first, second) = (child(lists.then[place])?, child(lists.otherwise[place])?);
        // Before those that it leads to, whose places are not known yet.
        self.nodes.push(Node::Leaf { from: 0, to: 0 });
        let (then, otherwise) = (self.tree(tree, first, depth + 1)?, self.tree(tree, second, depth + 1)?);
        self.nodes[at] = Node::Branch { mode, slot, threshold, missing, then, otherwise };
        Ok(at as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::Attribute;
    use super::*;

    /// Two trees, `x <= 1 ? a : (x <= 2 ? b : c)` and `d`, whose nodes have these numbers.
    fn attributes(numbers: [i64; 5]) -> Vec<Attribute> {
        let [root, a, second, b, c] = numbers;
        let ints =
            |name: &str, ints: &[i64]| Attribute { name: name.into(), ints: ints.into(), ..Attribute::default() };
        let floats =
            |name: &str, floats: &[f32]| Attribute { name: name.into(), floats: floats.into(), ..Attribute::default() };
        let modes = ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"].map(|mode| mode.as_bytes().to_vec());
        vec![
            ints("nodes_treeids", &[4, 4, 4, 4, 4, 9]),
            ints("nodes_nodeids", &[root, a, second, b, c, 0]),
            ints("nodes_featureids", &[0; 6]),
            Attribute { name: "nodes_modes".into(), strings: modes.into(), ..Attribute::default() },
            floats("nodes_values", &[1.0, 0.0, 2.0, 0.0, 0.0, 0.0]),
            ints("nodes_truenodeids", &[a, 0, b, 0, 0, 0]),
            ints("nodes_falsenodeids", &[second, 0, c, 0, 0, 0]),
            // The last tree's comes first.
            ints("class_treeids", &[9, 4, 4, 4]),
            ints("class_nodeids", &[0, a, b, c]),
            ints("class_ids", &[1, 0, 0, 0]),
            floats("class_weights", &[0.5, 1.0, 2.0, 3.0]),
        ]
    }

    fn read(attributes: &[Attribute]) -> Lowered<Forest> {
        Forest::read(&Attributes::new(attributes), "class", &[7], 2, false)
    }

    /// The tree at `root` as text.
    fn shown(forest: &Forest, root: u32) -> String {
        match forest.node(root) {
            Node::Leaf { from, to } => format!("{:?}", forest.scores(from, to)),
            Node::Branch { slot, threshold, then, otherwise, .. } => {
                format!("(s{slot} <= {threshold} ? {} : {})", shown(forest, then), shown(forest, otherwise))
            }
        }
    }

    #[test]
    fn nodes_are_found_by_whatever_numbers_they_have() {
        for numbers in [[0, 1, 2, 3, 4], [-2, -1, 0, 1, 2], [8, 3, 5, 1, 2], [i64::MAX, i64::MIN, 0, 7, 6]] {
            let forest = read(&attributes(numbers)).unwrap();
            let trees: Vec<_> = forest.roots().iter().map(|&root| shown(&forest, root)).collect();
            assert_eq!(trees, ["(s7 <= 1 ? [(0, 1.0)] : (s7 <= 2 ? [(0, 2.0)] : [(0, 3.0)]))", "[(1, 0.5)]"]);
            assert_eq!(forest.only_classes(), Some(vec![0, 1]));
            assert_eq!((forest.classes_named, forest.all_positive), (2, true));
            assert!(forest.spoken(2).iter().all(|class| class.always && class.ever));
        }
    }

    #[test]
    fn what_is_no_forest_is_refused_by_its_reason() {
        let ints =
            |name: &str, ints: &[i64]| Attribute { name: name.into(), ints: ints.into(), ..Attribute::default() };
        for (changed, reason) in [
            (ints("nodes_nodeids", &[0, 1, 2, 3, 3, 0]), "two nodes of one number"),
            (ints("nodes_nodeids", &[0, 1, 2, 3, 4]), "do not fit together"),
            (ints("nodes_treeids", &[4, 4, 9, 4, 4, 9]), "two pieces"),
            (ints("nodes_falsenodeids", &[0, 0, 4, 0, 0, 0]), "too deep, or none"),
            (ints("nodes_falsenodeids", &[5, 0, 4, 0, 0, 0]), "a branch to a node that is none"),
            (ints("nodes_featureids", &[1; 6]), "a feature that is none"),
            (ints("class_nodeids", &[0, 1, 3, 5]), "a score of a node that is none"),
            (ints("class_nodeids", &[0, 1, 3, 3]), "two scores of one class"),
            (ints("class_ids", &[2, 0, 0, 0]), "a class that is none"),
            (ints("class_treeids", &[4, 4, 4, 4]), "a leaf without a score"),
        ] {
            let mut attributes = attributes([0, 1, 2, 3, 4]);
            let at = attributes.iter().position(|attribute| attribute.name == changed.name).unwrap();
            attributes[at] = changed.clone();
            let error = read(&attributes).unwrap_err().to_string();
            assert!(error.contains(reason), "{changed:?}: {error}");
        }
    }
}
