//! Whether a compiled model gives the answers that ONNX Runtime gives.
//!
//! Both are asked about the golden rows, and about rows that are made to find where they part: every threshold of a
//! feature and its neighbours in the last bit, missing values, infinities, zeros of both signs, numbers too small and too
//! large, random ones inside and far outside what training saw, and pairs of rows as close as can be between which the
//! answer changes: a model that computes features cuts where no threshold of its file is. The rows are the same each time.

use mainstay_models::ModelSpec;
use mainstay_models::spec::Domain;
use ndarray::{Array2, ArrayView2, Axis, s};
use prost::Message as _;

use super::compiled::{Compiled, proto};
use super::golden;
use super::sessions::Sessions;
use super::{Engine, Kind, RunError};

/// The fewest rows that are compared.
const ROWS_MIN: usize = 10_000;
/// The most, however many thresholds there are.
const ROWS_MAX: usize = 50_000;
/// Rows of one run.
const ROWS_PER_RUN: usize = 512;
/// Between how many pairs of rows the place is sought where the answer changes.
const PAIRS: usize = 1_000;
/// After so many halvings no float32 lies between the two rows of a pair, unless the change is near zero.
const HALVINGS: usize = 32;
/// How many of the rows are compared alone too, since a model may take another path for one row.
const ALONE: usize = 500;
/// By how much a probability may differ; for numbers above 1, times them.
const TOLERANCE: f32 = 1e-6;
/// What stands in a row now and then.
const HOSTILE: [f32; 14] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    f32::MIN_POSITIVE,
    1e-20,
    1e20,
    -1e20,
    f32::MAX,
    f32::MIN,
    16_777_216.0,
];

/// The proof that a compiled model answers as ONNX Runtime does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parity {
    /// On how many rows.
    pub rows: usize,
}

/// A compiled model that must not answer.
#[derive(Debug, thiserror::Error)]
pub enum ParityError {
    /// A row on which the two differ.
    #[error("the compiled model and onnx runtime differ on the row {row:?}: {compiled} instead of {expected}")]
    Differs {
        /// The row.
        row: Vec<f32>,
        /// What the compiled model says of it.
        compiled: String,
        /// What ONNX Runtime says.
        expected: String,
    },
    /// ONNX Runtime gave nothing to compare with.
    #[error("cannot run the rows to compare in onnx runtime")]
    Run(#[from] RunError),
    /// There are not two engines, one of each kind.
    #[error("a compiled model is to be compared with one in onnx runtime")]
    Kinds,
}

impl Engine {
    /// Compares this compiled model of `model` with the same model in ONNX Runtime.
    pub fn parity(&self, oracle: &Self, model: &[u8], spec: &ModelSpec) -> Result<Parity, ParityError> {
        match (&self.kind, &oracle.kind) {
            (Kind::Compiled(compiled), Kind::Sessions(sessions)) => {
                let rows = rows(spec, &thresholds(model));
                compare(compiled, sessions, &golden::matrix(spec))?;
                compare(compiled, sessions, &rows)?;
                let changes = changes(compiled, &rows);
                compare(compiled, sessions, &changes)?;
                Ok(Parity { rows: rows.nrows() + changes.nrows() })
            }
            _ => Err(ParityError::Kinds),
        }
    }
}

/// What an engine says of some rows, row by row: integers and floats, which of a classifier are labels and probabilities.
type Said = (Vec<i64>, Vec<f32>);

/// What is said of one of `rows` rows.
fn of_row(said: &Said, row: usize, rows: usize) -> (&[i64], &[f32]) {
    let (integers, floats) = (said.0.len() / rows, said.1.len() / rows);
    (&said.0[row * integers..][..integers], &said.1[row * floats..][..floats])
}

/// Compares both on `rows`, in batches of several sizes and some rows alone.
pub(super) fn compare(compiled: &Compiled, sessions: &Sessions, rows: &Array2<f32>) -> Result<(), ParityError> {
    for batch in rows.axis_chunks_iter(Axis(0), ROWS_PER_RUN) {
        let together = sessions.run_raw(&batch)?;
        judge(&batch, &compiled.run_raw(&batch), &together, None)?;
    }
    let every = rows.nrows().div_ceil(ALONE);
    for row in (0..rows.nrows()).step_by(every) {
        // ONNX Runtime multiplies matrices in another order for one row. Either answer is its answer.
        let one = rows.slice(s![row..=row, ..]);
        let alone = sessions.run_raw(&one)?;
        let among = rows.slice(s![row..(row + 2).min(rows.nrows()), ..]);
        let among = sessions.run_raw(&among)?;
        judge(&one, &compiled.run_raw(&one), &alone, Some(&among))?;
    }
    Ok(())
}

fn judge(rows: &ArrayView2<'_, f32>, compiled: &Said, expected: &Said, or: Option<&Said>) -> Result<(), ParityError> {
    for (i, row) in rows.rows().into_iter().enumerate() {
        let equal = |expected: &Said| {
            let (got, expected) = (of_row(compiled, i, rows.nrows()), of_row(expected, i, rows.nrows()));
            // With a probability that is no number, the answer is an error and its label is not read.
            let error = expected.1.iter().any(|probability| probability.is_nan());
            (error || got.0 == expected.0)
                && got.1.len() == expected.1.len()
                && got.1.iter().zip(expected.1).all(|(&got, &expected)| near(got, expected))
        };
        if !equal(expected) && !or.is_some_and(equal) {
            let say = |said: &Said| {
                let (integers, floats) = of_row(said, i, rows.nrows());
                format!("the integers {integers:?} and the floats {floats:?}")
            };
            return Err(ParityError::Differs { row: row.to_vec(), compiled: say(compiled), expected: say(expected) });
        }
    }
    Ok(())
}

fn near(got: f32, expected: f32) -> bool {
    got == expected
        || (got.is_nan() && expected.is_nan())
        || (got - expected).abs() <= TOLERANCE * expected.abs().max(1.0)
}

/// The thresholds of all trees of a model, by the number of the feature that they are compared with. In a model that
/// computes features they may be thresholds of computed ones, which no row meets exactly: [`changes`] finds those.
fn thresholds(model: &[u8]) -> Vec<Vec<f32>> {
    let graph = proto::Model::decode(model).ok().and_then(|model| model.graph).unwrap_or_default();
    let mut thresholds = Vec::new();
    for node in &graph.node {
        let find = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
        let (Some(features), Some(modes)) = (find("nodes_featureids"), find("nodes_modes")) else { continue };
        let doubles = find("nodes_values_as_tensor").and_then(|attribute| attribute.t.as_ref());
        let floats = find("nodes_values").map(|attribute| attribute.floats.as_slice()).unwrap_or_default();
        for (i, (&feature, mode)) in features.ints.iter().zip(&modes.strings).enumerate() {
            let double =
                || doubles.and_then(|t| t.raw_data.as_chunks().0.get(i).map(|&b| f64::from_le_bytes(b) as f32));
            let value = floats.get(i).copied().or_else(double);
            let (Ok(feature), Some(value)) = (usize::try_from(feature), value) else { continue };
            if mode == b"LEAF" || feature > 4096 {
                continue;
            }
            if thresholds.len() <= feature {
                thresholds.resize(feature + 1, Vec::new());
            }
            thresholds[feature].push(value);
        }
    }
    for values in &mut thresholds {
        values.sort_by(f32::total_cmp);
        values.dedup();
    }
    thresholds
}

/// The rows to compare on.
fn rows(spec: &ModelSpec, thresholds: &[Vec<f32>]) -> Array2<f32> {
    let features = &spec.input.features;
    let cuts = |feature: usize| thresholds.get(feature).map(Vec::as_slice).unwrap_or_default();
    // A fourth of the rows is about thresholds, of which each comes with its neighbours.
    let most = (0..features.len()).map(|feature| cuts(feature).len() * 3).max().unwrap_or_default();
    let count = (most * 4).clamp(ROWS_MIN, ROWS_MAX);
    let mut random = Random(0x6d61_696e_7374_6179);
    let mut rows = Array2::zeros((count, features.len()));
    for (i, mut row) in rows.rows_mut().into_iter().enumerate() {
        for (feature, value) in row.iter_mut().enumerate() {
            let (min, max) = match &features[feature].domain {
                Domain::Number { min, max } => (*min as f32, *max as f32),
                Domain::Category(categories) => (0.0, (categories.len() - 1) as f32),
                // None of these is a float32, so no compiled model has them.
                Domain::Text | Domain::Truth => (0.0, 1.0),
            };
            let within = min + (max - min) * random.unit();
            *value = match (i % 4, &features[feature].domain, cuts(feature)) {
                (0, Domain::Category(_), _) => within.round(),
                (0, ..) | (3, ..) => within,
                (1, ..) => within + (max - min).max(1.0) * 4.0 * (random.unit() - 0.5),
                (_, _, []) => within,
                (_, _, cuts) => {
                    let at = i / 4 + feature;
                    let cut = cuts[at / 3 % cuts.len()];
                    [cut, cut.next_up(), cut.next_down()][at % 3]
                }
            };
        }
        if i % 4 == 3 {
            for _ in 0..=random.below(2) {
                let feature = random.below(features.len());
                row[feature] = HOSTILE[random.below(HOSTILE.len())];
            }
        }
    }
    rows
}

/// Pairs of neighbouring rows between which the compiled model's answer changes, found by halving the way between rows
/// that training could have seen.
fn changes(compiled: &Compiled, rows: &Array2<f32>) -> Array2<f32> {
    let seen = rows.slice(s![..;4, ..]);
    let pairs = PAIRS.min(seen.nrows() - 1);
    let (mut from, mut to) = (seen.slice(s![..pairs, ..]).to_owned(), seen.slice(s![1..=pairs, ..]).to_owned());
    let said = compiled.run_raw(&from.view());
    for _ in 0..HALVINGS {
        let middle = (&from + &to) / 2.0;
        let there = compiled.run_raw(&middle.view());
        for pair in 0..pairs {
            let same = of_row(&there, pair, pairs) == of_row(&said, pair, pairs);
            if same { &mut from } else { &mut to }.row_mut(pair).assign(&middle.row(pair));
        }
    }
    ndarray::concatenate![Axis(0), from, to]
}

/// SplitMix64: the same numbers each time, whatever library is in use.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 16_777_216.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use mainstay_models::embedded;
    use mainstay_models::spec::{Output, Value};

    use super::super::{LoadError, Runtime};
    use super::proto::{Attribute, Dimension, Graph, Info, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type};
    use super::*;

    fn oracle(model: &[u8], spec: &ModelSpec) -> Result<Engine, LoadError> {
        Engine::load(&Runtime::load().unwrap(), model, spec, NonZeroUsize::MIN)
    }

    /// A card for a model of so many features and classes, with the names that all models here have.
    fn card(features: usize, classes: usize) -> ModelSpec {
        let mut spec = ModelSpec::parse("model.yaml", embedded::MODELS[0].spec).unwrap();
        let mut feature = spec.input.features[0].clone();
        feature.domain = Domain::Number { min: -2.0, max: 2.0 };
        spec.input.tensors[0].name = "features".into();
        spec.input.tensors[0].columns = (0..features).collect();
        spec.input.features = vec![feature; features];
        let Output::Classifier(output) = &mut spec.output else { panic!("no classifier") };
        output.label.tensor = "label".into();
        output.label.classes = (0..classes).map(|class| class.to_string()).collect();
        output.probability.tensor = "probabilities".into();
        spec.golden.rows.iter_mut().for_each(|row| row.features.resize(features, Value::Number(0.5)));
        spec
    }

    /// The test that lets the shipped models be served compiled without a trial.
    #[test]
    fn every_shipped_model_is_compiled_with_the_answers_of_onnx_runtime() {
        for shipped in embedded::MODELS {
            let spec = ModelSpec::parse("model.yaml", shipped.spec).unwrap();
            let compiled = Engine::compile(shipped.artifact, &spec).unwrap();
            compiled.check_golden(&spec).unwrap();
            let oracle = oracle(shipped.artifact, &spec).unwrap();
            let parity = compiled.parity(&oracle, shipped.artifact, &spec).unwrap();
            assert!(parity.rows >= ROWS_MIN);
        }
    }

    #[test]
    fn what_the_converters_make_is_compiled_with_the_answers_of_onnx_runtime() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/converters");
        let mut seen = 0;
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "onnx") {
                continue;
            }
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let model = fs_err::read(&path).unwrap();
            let spec = card(6, if name.ends_with('3') { 3 } else { 2 });
            let compiled = Engine::compile(&model, &spec).unwrap_or_else(|e| panic!("{name}: {e}"));
            let oracle = oracle(&model, &spec).unwrap();
            compiled.parity(&oracle, &model, &spec).unwrap_or_else(|e| panic!("{name}: {e}"));
            seen += 1;
        }
        assert!(seen >= 20, "only {seen} models");
    }

    #[test]
    fn a_model_that_is_computed_otherwise_is_found_out() {
        let shipped = embedded::MODELS[0];
        let spec = ModelSpec::parse("model.yaml", shipped.spec).unwrap();
        let oracle = oracle(shipped.artifact, &spec).unwrap();
        let mut model = Model::decode(shipped.artifact).unwrap();
        let node = &mut model.graph.as_mut().unwrap().node[0];
        let values = node.attribute.iter_mut().find(|attribute| attribute.name == "nodes_values").unwrap();
        // One threshold of hundreds, by one bit.
        values.floats[0] = values.floats[0].next_up();
        let compiled = Engine::compile(&model.encode_to_vec(), &spec).unwrap();
        let found = compiled.parity(&oracle, shipped.artifact, &spec);
        assert!(matches!(found, Err(ParityError::Differs { .. })), "{found:?}");
    }

    #[test]
    fn a_model_of_another_kind_is_refused_by_name() {
        let node = node("", "Einsum", &["features"], &["probabilities"], vec![]);
        let refused = Engine::compile(&file(vec![node], vec![], 3), &card(3, 2)).unwrap_err();
        assert_eq!(refused.to_string(), "in Einsum: the compiled executor does not know the operator Einsum");
    }

    #[test]
    fn a_matrix_that_many_rows_are_better_multiplied_with_at_once_is_refused() {
        let columns = 1 << 16;
        let node = node("", "MatMul", &["features", "matrix"], &["probabilities"], vec![]);
        let (dims, float_data) = (vec![3, columns], vec![0.0; 3 * columns as usize]);
        let matrix = Tensor { dims, data_type: 1, float_data, name: "matrix".into(), ..Default::default() };
        let refused = Engine::compile(&file(vec![node], vec![matrix], 3), &card(3, 2)).unwrap_err();
        let reason = "does not know a matrix of 3 x 65536, which ONNX Runtime multiplies faster";
        assert!(refused.to_string().ends_with(reason), "{refused}");
    }

    #[test]
    fn rows_are_found_on_both_sides_of_a_change() {
        let shipped = embedded::MODELS[3];
        let spec = ModelSpec::parse("model.yaml", shipped.spec).unwrap();
        let compiled = Engine::compile(shipped.artifact, &spec).unwrap();
        let Kind::Compiled(compiled) = &compiled.kind else { unreachable!() };
        let pairs = changes(compiled, &rows(&spec, &thresholds(shipped.artifact)));
        let (_, said) = compiled.run_raw(&pairs.view());
        let apart = |pair: usize| said[pair * 2] != said[(pair + PAIRS) * 2];
        let close = |pair: usize| {
            let rows = pairs.row(pair).into_iter().zip(pairs.row(pair + PAIRS));
            rows.into_iter().all(|(from, to)| (from - to).abs() <= 4.0 * f32::EPSILON * from.abs().max(1.0))
        };
        let found = (0..PAIRS).filter(|&pair| apart(pair) && close(pair)).count();
        assert!(found * 10 >= PAIRS * 9, "{found} of {PAIRS}");
    }

    // Random models.

    fn ints(name: &str, ints: Vec<i64>) -> Attribute {
        Attribute { name: name.into(), ints, r#type: 7, ..Default::default() }
    }

    fn floats(name: &str, floats: Vec<f32>) -> Attribute {
        Attribute { name: name.into(), floats, r#type: 6, ..Default::default() }
    }

    fn text(name: &str, text: &str) -> Attribute {
        Attribute { name: name.into(), s: text.into(), r#type: 3, ..Default::default() }
    }

    fn int(name: &str, i: i64) -> Attribute {
        Attribute { name: name.into(), i, r#type: 2, ..Default::default() }
    }

    fn doubles(name: &str, values: &[f64]) -> Attribute {
        let t = Tensor {
            dims: vec![values.len() as i64],
            data_type: 11,
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        };
        Attribute { name: name.into(), t: Some(t), r#type: 4, ..Default::default() }
    }

    fn node(domain: &str, op_type: &str, input: &[&str], output: &[&str], attribute: Vec<Attribute>) -> Node {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Node { input: names(input), output: names(output), op_type: op_type.into(), attribute, domain: domain.into() }
    }

    fn info(name: &str, elem_type: i32, widths: &[usize]) -> Info {
        let rows = Dimension { dim_value: None, dim_param: Some("N".into()) };
        let fixed = widths.iter().map(|&width| Dimension { dim_value: Some(width as i64), dim_param: None });
        let shape = Shape { dim: [rows].into_iter().chain(fixed).collect() };
        let tensor_type = TensorType { elem_type, shape: Some(shape) };
        Info { name: name.into(), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
    }

    fn file(node: Vec<Node>, initializer: Vec<Tensor>, features: usize) -> Vec<u8> {
        let graph = Graph {
            node,
            name: "random".into(),
            initializer,
            input: vec![info("features", 1, &[features])],
            output: vec![info("label", 7, &[]), info("probabilities", 1, &[2])],
        };
        file_of(graph)
    }

    fn file_of(graph: Graph) -> Vec<u8> {
        let set = |domain: &str, version| OperatorSet { domain: domain.into(), version };
        let opset_import = vec![set("", 17), set("ai.onnx.ml", 3)];
        Model { ir_version: 8, graph: Some(graph), opset_import, functions: vec![] }.encode_to_vec()
    }

    impl Random {
        fn value(&mut self) -> f32 {
            match self.below(8) {
                0 => HOSTILE[3 + self.below(5)],
                1 => (self.unit() * 8.0 - 4.0).round(),
                _ => self.unit() * 4.0 - 2.0,
            }
        }

        fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
            of[self.below(of.len())]
        }

        fn some(&mut self, count: usize) -> Vec<f32> {
            (0..count).map(|_| self.value()).collect()
        }
    }

    const TRANSFORMS: [&str; 5] = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"];
    const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

    /// The lists of a random ensemble.
    #[derive(Default)]
    struct Lists {
        tree: Vec<i64>,
        id: Vec<i64>,
        feature: Vec<i64>,
        mode: Vec<Vec<u8>>,
        value: Vec<f32>,
        missing: Vec<i64>,
        then: Vec<i64>,
        otherwise: Vec<i64>,
        scores: Vec<(i64, i64, i64, f32)>,
    }

    fn grow(
        random: &mut Random,
        lists: &mut Lists,
        tree: i64,
        depth: usize,
        mode: &str,
        features: usize,
        scores: &[i64],
    ) {
        let at = lists.tree.len();
        let id = lists.tree.iter().filter(|&&other| other == tree).count() as i64;
        let leaf = depth == 0 || (id > 0 && random.below(4) == 0);
        lists.tree.push(tree);
        lists.id.push(id);
        lists.feature.push(random.below(features) as i64);
        let mode_here = if mode == "any" { random.pick(&MODES) } else { mode };
        lists.mode.push(if leaf { "LEAF" } else { mode_here }.into());
        lists.value.push(random.value());
        lists.missing.push(random.below(2) as i64);
        lists.then.push(0);
        lists.otherwise.push(0);
        if leaf {
            for &class in scores {
                let score = random.value();
                lists.scores.push((tree, id, class, score));
            }
            return;
        }
        let next = |lists: &Lists| lists.tree.iter().filter(|&&other| other == tree).count() as i64;
        lists.then[at] = next(lists);
        grow(random, lists, tree, depth - 1, mode, features, scores);
        lists.otherwise[at] = next(lists);
        grow(random, lists, tree, depth - 1, mode, features, scores);
    }

    fn trees(random: &mut Random, features: usize, classes: usize) -> (Vec<Attribute>, bool) {
        let mode = if random.below(2) == 0 { "any" } else { random.pick(&MODES) };
        let mut lists = Lists::default();
        let kind = random.below(3);
        let only = [random.below(classes) as i64];
        for tree in 0..1 + random.below(20) as i64 {
            let all: Vec<i64> = (0..classes as i64).collect();
            let one = [tree % classes as i64];
            let scores: &[i64] = match kind {
                0 => &all,
                1 => &one,
                _ => &only,
            };
            let depth = random.below(7);
            grow(random, &mut lists, tree, depth, mode, features, scores);
        }
        if random.below(2) == 0 {
            lists.scores.iter_mut().for_each(|score| score.3 = score.3.abs());
        }
        let strings = Attribute { name: "nodes_modes".into(), strings: lists.mode, r#type: 8, ..Default::default() };
        let mut attributes = vec![
            strings,
            ints("nodes_treeids", lists.tree),
            ints("nodes_nodeids", lists.id),
            ints("nodes_featureids", lists.feature),
            ints("nodes_truenodeids", lists.then),
            ints("nodes_falsenodeids", lists.otherwise),
            ints("class_treeids", lists.scores.iter().map(|score| score.0).collect()),
            ints("class_nodeids", lists.scores.iter().map(|score| score.1).collect()),
            ints("class_ids", lists.scores.iter().map(|score| score.2).collect()),
            ints("classlabels_int64s", (0..classes as i64).collect()),
            text("post_transform", random.pick(&TRANSFORMS)),
        ];
        if random.below(2) == 0 {
            attributes.push(ints("nodes_missing_value_tracks_true", lists.missing));
        }
        let double = random.below(3) == 0;
        let weights: Vec<f32> = lists.scores.iter().map(|score| score.3).collect();
        let base = match random.below(3) {
            0 if classes == 2 => random.some(1),
            1 => random.some(classes),
            _ => Vec::new(),
        };
        if double {
            let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v) * 1.000_000_001).collect::<Vec<_>>();
            // An equality with what no float32 is equal to is left to ONNX Runtime.
            let values: Vec<f64> = lists.value.iter().map(|&v| f64::from(v)).collect();
            attributes.push(doubles("nodes_values_as_tensor", &values));
            attributes.push(doubles("class_weights_as_tensor", &wide(&weights)));
            if !base.is_empty() {
                attributes.push(doubles("base_values_as_tensor", &wide(&base)));
            }
        } else {
            attributes.push(floats("nodes_values", lists.value));
            attributes.push(floats("class_weights", weights));
            if !base.is_empty() {
                attributes.push(floats("base_values", base));
            }
        }
        (attributes, double)
    }

    /// A random model: perhaps preparation, then trees or weights.
    fn random_model(random: &mut Random) -> (Vec<u8>, ModelSpec) {
        const ML: &str = "ai.onnx.ml";
        let (features, classes) = (1 + random.below(6), 2 + random.below(3));
        let mut nodes = Vec::new();
        let mut last = "features";
        if random.below(3) == 0 {
            let width = if random.below(2) == 0 { features } else { 1 };
            let prepare = match random.below(3) {
                0 => ("Scaler", vec![floats("offset", random.some(width)), floats("scale", random.some(width))]),
                1 => {
                    let replaced = if random.below(2) == 0 { f32::NAN } else { random.value() };
                    let replaced =
                        Attribute { name: "replaced_value_float".into(), f: replaced, r#type: 1, ..Default::default() };
                    ("Imputer", vec![floats("imputed_value_floats", random.some(width)), replaced])
                }
                _ => ("Normalizer", vec![text("norm", random.pick(&["MAX", "L1", "L2"]))]),
            };
            nodes.push(node(ML, prepare.0, &[last], &["prepared"], prepare.1));
            last = "prepared";
        }
        if random.below(3) > 0 {
            let (attributes, double) = trees(random, features, classes);
            if double {
                nodes.push(node("", "Cast", &[last], &["wide"], vec![int("to", 11)]));
                last = "wide";
            }
            nodes.push(node(ML, "TreeEnsembleClassifier", &[last], &["label", "probabilities"], attributes));
        } else {
            let scores = if classes == 2 && random.below(2) == 0 { 1 } else { classes };
            let attributes = vec![
                floats("coefficients", random.some(scores * features)),
                floats("intercepts", random.some(scores)),
                ints("classlabels_ints", (0..classes as i64).collect()),
                text("post_transform", random.pick(&TRANSFORMS[..4])),
            ];
            nodes.push(node(ML, "LinearClassifier", &[last], &["label", "probabilities"], attributes));
        }
        let graph = Graph {
            node: nodes,
            name: "random".into(),
            initializer: vec![],
            input: vec![info("features", 1, &[features])],
            output: vec![info("label", 7, &[]), info("probabilities", 1, &[classes])],
        };
        (file_of(graph), card(features, classes))
    }

    #[test]
    fn random_models_are_compiled_with_the_answers_of_onnx_runtime() {
        let count: u64 = std::env::var("MAINSTAY_TEST_MODELS").map_or(150, |count| count.parse().unwrap());
        let (mut same, mut refused, mut apart) = (0, 0, 0);
        for seed in 0..count {
            let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let (model, spec) = random_model(&mut random);
            let Ok(oracle) = oracle(&model, &spec) else { continue };
            let Ok(compiled) = Engine::compile(&model, &spec) else {
                refused += 1;
                continue;
            };
            let (Kind::Compiled(compiled), Kind::Sessions(oracle)) = (&compiled.kind, &oracle.kind) else {
                unreachable!()
            };
            let all = rows(&spec, &thresholds(&model));
            let some = all.slice(s![..2_000, ..]).into_owned();
            let compared = compare(compiled, oracle, &some);
            if let Err(error) = compared.and_then(|()| compare(compiled, oracle, &changes(compiled, &some))) {
                let what = Model::decode(model.as_slice()).unwrap().graph.unwrap();
                let what: Vec<_> = what.node.iter().map(|node| node.op_type.as_str()).collect();
                // ONNX Runtime adds up products in an order of its own for some shapes. Then it serves the model.
                assert_eq!(what.last(), Some(&"LinearClassifier"), "model {seed} ({what:?}): {error}");
                apart += 1;
                continue;
            }
            same += 1;
        }
        let counts = format!("{same} the same, {refused} refused, {apart} linear ones apart");
        assert!(same * 2 >= count && apart * 10 <= count, "{counts}");
    }

    #[test]
    fn no_damage_to_a_model_makes_compiling_panic() {
        let shipped = embedded::MODELS[3];
        let spec = ModelSpec::parse("model.yaml", shipped.spec).unwrap();
        let mut random = Random(7);
        for _ in 0..300 {
            let mut model = shipped.artifact.to_vec();
            for _ in 0..1 + random.below(4) {
                let at = random.below(model.len());
                model[at] = random.next() as u8;
            }
            if let Ok(compiled) = Engine::compile(&model, &spec) {
                let _ = compiled.check_golden(&spec);
            }
        }
    }
}
