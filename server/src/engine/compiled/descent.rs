//! Going down trees: eight lanes at a time, each with a tree and a row of its own, and several times eight side by side.
//!
//! A node is 8 bytes, so that large forests stay in the processor's caches, and the two that a branch leads to lie side by side:
//! the comparison is added to where the first lies. A leaf leads to itself: all lanes take as many steps as the deepest
//! needs, and nothing but memory decides when a step ends. Does not know what a tree means, or what its leaves hold.

/// Lanes of a [`Lanes`].
pub(super) const LANES: usize = 8;
/// So many of them go down side by side, so that the loads of one hide behind those of the others.
pub(super) const SIDE_BY_SIDE: usize = 16;
/// So many steps between two looks at whether all lanes have arrived, in deep trees.
const STEPS: u32 = 4;
/// The sign bit of a float, in the link of a node whose comparison is of the negated value.
const NEGATE: u32 = 1 << 31;

/// A branch, or what always leads to the same node: a leaf to itself, a detour to one that two branches lead to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// What a value is compared with by `<=`; NaN, below which nothing is, where there is nothing to compare.
    pub(super) threshold: f32,
    /// Whether the negated value is compared.
    pub(super) negate: bool,
    /// The slot of the value.
    pub(super) slot: u32,
    /// Where to go if the comparison does not hold, counted from the tree's root; if it holds, one further.
    pub(super) next: u32,
}

/// The nodes of all trees, one tree after another.
#[derive(Debug)]
pub(super) struct Nodes {
    packed: Vec<Packed>,
    /// How many bits of a link are `next`'s, below the slot's.
    next_bits: u32,
    /// How many slots are compared, from the first one on.
    slots: u32,
    /// Whether any node has [`NEGATE`].
    signed: bool,
}

/// Trees that cannot be laid out: a link has room for as many nodes and slots as its bits can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooWide {
    pub(super) nodes: u32,
    pub(super) slots: u32,
}

/// A node as it lies in memory.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Packed {
    threshold: f32,
    /// [`NEGATE`], the slot, and `next`.
    link: u32,
}

/// The node of each lane.
pub(super) type Places = [u32; LANES];

/// Eight lanes that are to go down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lanes {
    /// The root of each one's tree.
    pub(super) roots: [u32; LANES],
    /// The row of each.
    pub(super) rows: [u32; LANES],
    /// How many steps the deepest of the trees takes.
    pub(super) depth: u32,
}

impl Nodes {
    /// Lays `nodes` out, of which no tree has more than `longest`.
    pub(super) fn new(nodes: &[Node], longest: u32) -> Result<Self, TooWide> {
        let slots = nodes.iter().map(|node| node.slot + 1).max().unwrap_or(0);
        let bits = |count: u32| count.saturating_sub(1).checked_ilog2().map_or(0, |highest| highest + 1);
        let next_bits = bits(longest);
        if next_bits + bits(slots) > NEGATE.ilog2() {
            return Err(TooWide { nodes: longest, slots });
        }
        let pack = |node: &Node| {
            let sign = if node.negate { NEGATE } else { 0 };
            Packed { threshold: node.threshold, link: sign | node.slot << next_bits | node.next }
        };
        let signed = nodes.iter().any(|node| node.negate);
        Ok(Self { packed: nodes.iter().map(pack).collect(), next_bits, slots, signed })
    }

    /// Puts the leaves of at most [`SIDE_BY_SIDE`] `lanes` into `leaves`. `file` holds the values of `R` rows by slot.
    #[inline(always)]
    pub(super) fn descend<const R: usize>(&self, file: &[f32], lanes: &[Lanes], leaves: &mut [Places]) {
        #[cfg(target_arch = "x86_64")]
        if wide::pays() {
            return wide::descend::<R>(self, file, lanes, leaves);
        }
        self.descend_apart::<R>(file, lanes, leaves);
    }

    /// The same on any processor: eight lanes after another.
    #[inline(always)]
    fn descend_apart<const R: usize>(&self, file: &[f32], lanes: &[Lanes], leaves: &mut [Places]) {
        for (lanes, leaves) in lanes.iter().zip(leaves) {
            *leaves =
                if self.signed { self.steps::<R, true>(file, lanes) } else { self.steps::<R, false>(file, lanes) };
        }
    }

    #[inline(always)]
    fn steps<const R: usize, const SIGNED: bool>(&self, file: &[f32], lanes: &Lanes) -> Places {
        let (nodes, next_bits, Lanes { roots, rows, depth }) = (self.packed.as_slice(), self.next_bits, *lanes);
        let next_mask = (1 << next_bits) - 1;
        let mut at = roots;
        for steps in in_steps(depth) {
            let before = at;
            for _ in 0..steps {
                for lane in 0..LANES {
                    let Packed { threshold, link } = nodes[at[lane] as usize];
                    let slot = if SIGNED { (link & !NEGATE) >> next_bits } else { link >> next_bits };
                    let mut value = file[slot as usize * R + rows[lane] as usize];
                    if SIGNED {
                        value = f32::from_bits(value.to_bits() ^ (link & NEGATE));
                    }
                    at[lane] = roots[lane] + (link & next_mask) + u32::from(value <= threshold);
                }
            }
            if at == before {
                break;
            }
        }
        at
    }
}

/// Numbers of steps that make `depth` together. Where none of one has moved a lane, all are at leaves, of trees that are deeper
/// elsewhere.
#[inline(always)]
fn in_steps(depth: u32) -> impl Iterator<Item = u32> {
    let mut left = depth;
    std::iter::from_fn(move || {
        let steps = if left > 2 * STEPS { STEPS } else { left };
        left -= steps;
        (steps > 0).then_some(steps)
    })
}

/// With AVX-512, where one instruction loads for eight lanes.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    use super::{LANES, Lanes, NEGATE, Node, Nodes, Places, SIDE_BY_SIDE, in_steps};

    /// So many values of a row are held in registers.
    const HELD_MAX: usize = 32;

    /// Whether [`descend`] is quicker here than going down eight lanes after another. Most processors that can do it load for
    /// eight lanes as fast as eight loads; those whose makers had to close a leak in that instruction take several times as long.
    /// So it is tried, once.
    pub(super) fn pays() -> bool {
        static PAYS: OnceLock<bool> = OnceLock::new();
        *PAYS.get_or_init(|| can() && is_quicker())
    }

    pub(super) fn can() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl")
    }

    /// To be called only where the processor [`can`] do it.
    #[inline]
    pub(super) fn descend<const R: usize>(nodes: &Nodes, file: &[f32], lanes: &[Lanes], leaves: &mut [Places]) {
        let is_counted = |len: usize| len > 0 && i32::try_from(len).is_ok();
        assert!(lanes.len() <= SIDE_BY_SIDE && is_counted(file.len()) && is_counted(nodes.packed.len()));
        let is_held = R == 1 && nodes.slots as usize <= HELD_MAX;
        // SAFETY: the processor has what the functions were compiled for.
        #[allow(unsafe_code)]
        unsafe {
            match (nodes.signed, is_held) {
                (false, false) => steps::<R, false, false>(nodes, file, lanes, leaves),
                (false, true) => steps::<R, false, true>(nodes, file, lanes, leaves),
                (true, false) => steps::<R, true, false>(nodes, file, lanes, leaves),
                (true, true) => steps::<R, true, true>(nodes, file, lanes, leaves),
            }
        }
    }

    /// The first values of a row, in two registers.
    #[target_feature(enable = "avx512f")]
    fn held(row: &[f32]) -> [__m512; 2] {
        [0, 1].map(|half| {
            let values = &row[(half * HELD_MAX / 2).min(row.len())..];
            let mask = ((1_u32 << values.len().min(HELD_MAX / 2)) - 1) as __mmask16;
            // SAFETY: no more is read than the mask allows, which are no more than there are.
            #[allow(unsafe_code)]
            unsafe {
                _mm512_maskz_loadu_ps(mask, values.as_ptr())
            }
        })
    }

    /// Reads nothing but nodes and values, of each of which there is one at least, whatever the links say. If the values are
    /// `HELD`, they are those of one row and are taken from registers, which is quicker than loading each.
    #[target_feature(enable = "avx2,avx512f,avx512vl")]
    fn steps<const R: usize, const SIGNED: bool, const HELD: bool>(
        nodes: &Nodes,
        file: &[f32],
        lanes: &[Lanes],
        leaves: &mut [Places],
    ) {
        let vector = |values: &[u32; LANES]| {
            let [a, b, c, d, e, f, g, h] = values.map(u32::cast_signed);
            _mm256_setr_epi32(a, b, c, d, e, f, g, h)
        };
        let zero = _mm256_setzero_si256();
        let (mut at, mut roots, mut rows) = ([zero; SIDE_BY_SIDE], [zero; SIDE_BY_SIDE], [zero; SIDE_BY_SIDE]);
        let mut depth = 0;
        for (i, lanes) in lanes.iter().enumerate() {
            (at[i], roots[i], rows[i]) = (vector(&lanes.roots), vector(&lanes.roots), vector(&lanes.rows));
            depth = depth.max(lanes.depth);
        }
        let every = |value: u32| _mm256_set1_epi32(value.cast_signed());
        let (last_node, last_value) = (every(nodes.packed.len() as u32 - 1), every(file.len() as u32 - 1));
        let (next_mask, slot_mask) = (every((1 << nodes.next_bits) - 1), every(!NEGATE));
        let to_slot = _mm_cvtsi32_si128(nodes.next_bits.cast_signed());
        let to_place = _mm_cvtsi32_si128(R.ilog2().cast_signed());
        let at = &mut at[..lanes.len()];
        let [low, high] = if HELD { held(file) } else { [_mm512_setzero_ps(); 2] };
        for steps in in_steps(depth) {
            let mut moved = zero;
            for step in 0..steps {
                for ((at, &root), &row) in at.iter_mut().zip(&roots).zip(&rows) {
                    let node = _mm256_min_epu32(*at, last_node);
                    // SAFETY: `node` counts nodes of 8 bytes, and is at most the last one's.
                    #[allow(unsafe_code)]
                    let node = unsafe { _mm512_i32gather_epi64::<8>(node, nodes.packed.as_ptr().cast()) };
                    let threshold = _mm256_castsi256_ps(_mm512_cvtepi64_epi32(node));
                    let link = _mm512_cvtepi64_epi32(_mm512_srli_epi64::<32>(node));
                    let unsigned = if SIGNED { _mm256_and_si256(link, slot_mask) } else { link };
                    let slot = _mm256_srl_epi32(unsigned, to_slot);
                    let mut value = if HELD {
                        _mm512_castps512_ps256(_mm512_permutex2var_ps(low, _mm512_castsi256_si512(slot), high))
                    } else {
                        let place = if R == 1 { slot } else { _mm256_add_epi32(_mm256_sll_epi32(slot, to_place), row) };
                        let place = _mm256_min_epu32(place, last_value);
                        // SAFETY: `place` counts values of 4 bytes, and is at most the last one's.
                        #[allow(unsafe_code)]
                        unsafe {
                            _mm256_i32gather_ps::<4>(file.as_ptr(), place)
                        }
                    };
                    if SIGNED {
                        let sign = _mm256_castsi256_ps(_mm256_andnot_si256(slot_mask, link));
                        value = _mm256_xor_ps(value, sign);
                    }
                    // All bits where it holds, which is -1.
                    let holds = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LE_OQ>(value, threshold));
                    let next = _mm256_add_epi32(root, _mm256_and_si256(link, next_mask));
                    let next = _mm256_sub_epi32(next, holds);
                    if step + 1 == steps {
                        moved = _mm256_or_si256(moved, _mm256_xor_si256(next, *at));
                    }
                    *at = next;
                }
            }
            if _mm256_testz_si256(moved, moved) == 1 {
                break;
            }
        }
        for (leaves, &at) in leaves.iter_mut().zip(&*at) {
            // SAFETY: both have the size of eight integers, and any bits are integers.
            #[allow(unsafe_code)]
            let at: Places = unsafe { std::mem::transmute(at) };
            *leaves = at;
        }
    }

    /// Goes down complete trees both ways, a few times each, in less than a millisecond.
    fn is_quicker() -> bool {
        const DEPTH: u32 = 8;
        const SLOTS: u32 = 16;
        /// More than one, so that values are loaded too.
        const ROWS: usize = 8;
        let leaves_from = (1 << DEPTH) - 1;
        let tree: Vec<Node> = (0..2 * leaves_from + 1)
            .map(|at| {
                let is_leaf = at >= leaves_from;
                let threshold = if is_leaf { f32::NAN } else { (at * 7 % SLOTS) as f32 };
                Node { threshold, negate: false, slot: at * 5 % SLOTS, next: if is_leaf { at } else { 2 * at + 1 } }
            })
            .collect();
        let trees = LANES * SIDE_BY_SIDE;
        let nodes =
            Nodes::new(&tree.repeat(trees), tree.len() as u32).expect("a link has room for 511 nodes and 16 slots");
        let file: Vec<f32> = (0..SLOTS * ROWS as u32).map(|place| (place * 11 % SLOTS) as f32).collect();
        let lanes: Vec<Lanes> = (0..SIDE_BY_SIDE)
            .map(|i| Lanes {
                roots: std::array::from_fn(|lane| ((i * LANES + lane) * tree.len()) as u32),
                rows: [0; LANES],
                depth: DEPTH,
            })
            .collect();
        let time = |descend: &dyn Fn(&mut [Places])| {
            let mut leaves = black_box([[0; LANES]; SIDE_BY_SIDE]);
            let begun = Instant::now();
            descend(&mut leaves);
            black_box(&leaves);
            begun.elapsed()
        };
        let mut best = [Duration::MAX; 2];
        // The least of some is that of a moment in which nothing else had the processor.
        for _ in 0..16 {
            best[0] = best[0].min(time(&|leaves| nodes.descend_apart::<ROWS>(&file, &lanes, leaves)));
            best[1] = best[1].min(time(&|leaves| descend::<ROWS>(&nodes, &file, &lanes, leaves)));
        }
        best[1] < best[0]
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    /// Numbers that are the same each time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) as u32) % end
        }

        fn value(&mut self) -> f32 {
            const ODD: [f32; 5] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
            match self.below(8) {
                0 => ODD[self.below(5) as usize],
                _ => self.below(9) as f32 - 4.0,
            }
        }
    }

    /// Trees of all depths up to some, with leaves at every one of them; gives where each begins, and its depth.
    fn forest(numbers: &mut Numbers, slots: u32, signed: bool) -> (Nodes, Vec<(u32, u32)>) {
        let (mut all, mut roots, mut longest) = (Vec::new(), Vec::new(), 0);
        for _ in 0..SIDE_BY_SIDE {
            let deepest = numbers.below(24);
            let leaf = |at| Node { threshold: f32::NAN, negate: false, slot: 0, next: at };
            let (mut tree, mut level, mut depth) = (vec![leaf(0)], vec![0], 0);
            while depth < deepest && !level.is_empty() {
                let mut below = Vec::new();
                for at in level {
                    let next = tree.len() as u32;
                    tree.extend([leaf(next), leaf(next + 1)]);
                    let negate = signed && numbers.below(2) == 0;
                    tree[at as usize] = Node { threshold: numbers.value(), negate, slot: numbers.below(slots), next };
                    // Some trees are all but a line, and none is large.
                    below.push(next + numbers.below(2));
                    if depth < 4 && numbers.below(2) == 0 {
                        below.push(next + u32::from(below.last() == Some(&next)));
                    }
                }
                (level, depth) = (below, depth + 1);
            }
            roots.push((all.len() as u32, depth));
            longest = longest.max(tree.len() as u32);
            all.extend(tree);
        }
        (Nodes::new(&all, longest).unwrap(), roots)
    }

    fn both_ways<const R: usize>(numbers: &mut Numbers, nodes: &Nodes, roots: &[(u32, u32)]) {
        let file: Vec<f32> = (0..nodes.slots as usize * R).map(|_| numbers.value()).collect();
        for count in [1, 7, SIDE_BY_SIDE] {
            let mut lanes = [Lanes::default(); SIDE_BY_SIDE];
            for lanes in &mut lanes {
                let trees: [_; LANES] = std::array::from_fn(|_| roots[numbers.below(roots.len() as u32) as usize]);
                lanes.roots = trees.map(|(root, _)| root);
                lanes.rows = std::array::from_fn(|_| numbers.below(R as u32));
                lanes.depth = trees.iter().map(|(_, depth)| *depth).max().unwrap();
            }
            let (mut apart, mut together) = ([[0; LANES]; SIDE_BY_SIDE], [[0; LANES]; SIDE_BY_SIDE]);
            nodes.descend_apart::<R>(&file, &lanes[..count], &mut apart);
            wide::descend::<R>(nodes, &file, &lanes[..count], &mut together);
            assert_eq!(apart, together);
            // They are leaves, which lead to themselves.
            for (lanes, leaves) in lanes.iter().zip(&apart).take(count) {
                for (root, leaf) in lanes.roots.iter().zip(leaves) {
                    let link = nodes.packed[*leaf as usize].link;
                    assert_eq!(root + (link & ((1 << nodes.next_bits) - 1)), *leaf);
                }
            }
        }
    }

    #[test]
    fn lanes_that_go_side_by_side_come_to_the_same_leaves() {
        if !wide::can() {
            // Nothing else is done on such a processor.
            assert!(!wide::pays());
            return;
        }
        let mut numbers = Numbers(1);
        for round in 0..200 {
            let slots = [1, 5, 16, 17, 32, 33, 100][round % 7];
            let (nodes, roots) = forest(&mut numbers, slots, round % 2 == 0);
            both_ways::<1>(&mut numbers, &nodes, &roots);
            both_ways::<8>(&mut numbers, &nodes, &roots);
            both_ways::<64>(&mut numbers, &nodes, &roots);
        }
    }
}
