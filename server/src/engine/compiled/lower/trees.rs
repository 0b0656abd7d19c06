//! Ensembles of trees.

use super::{Compiler, Lowered, transform};
use crate::engine::compiled::Unsupported;
use crate::engine::compiled::forest::Forest;
use crate::engine::compiled::graph::{Attributes, Dim, Type, Value};
use crate::engine::compiled::program::Instruction;
use crate::engine::compiled::proto::Node;
use crate::engine::compiled::transform::Transform;
use crate::engine::compiled::trees::{Ensemble, Finish, Trees};

impl Compiler {
    pub(super) fn trees(&mut self, node: &Node, attributes: &Attributes<'_>, classifier: bool) -> Lowered<Vec<Value>> {
        let input = self.input(node, 0)?;
        if !matches!(input.dims.as_slice(), [Dim::Rows, Dim::Fixed(_)]) {
            return Err(Unsupported::new("this shape"));
        }
        // float64 that came from float32 is compared as float32, see forest.rs.
        let double = input.kind == Type::F64;
        let slots = self.float_slots_of(&Value { kind: if double { Type::F32 } else { input.kind }, ..input })?;
        let (labels, classes) = if classifier {
            let labels = attributes.ints("classlabels_int64s")?.unwrap_or_default().to_vec();
            if labels.len() < 2 {
                return Err(Unsupported::new("labels that are not two integers or more"));
            }
            let classes = labels.len();
            (labels, classes)
        } else {
            (Vec::new(), attributes.int("n_targets", 1)?.clamp(0, 1 << 12) as usize)
        };
        let what = if classifier { "class" } else { "target" };
        let forest = Forest::read(attributes, what, &slots, classes, double)?;
        let transform = transform(&attributes.string("post_transform", "NONE")?)?;
        let base = attributes.numbers("base_values", double)?;
        let aggregate = attributes.string("aggregate_function", "SUM")?;
        let average = aggregate == "AVERAGE";
        if !(aggregate == "SUM" || (average && !classifier)) {
            return Err(Unsupported::new(format!("the aggregate {aggregate}")));
        }
        let out = self.float_slots(classes)?;
        let mut values = Vec::new();
        let (finish, base) = if classifier {
            if ![0, 1, classes].contains(&base.len()) || (base.len() == 1 && classes > 2) {
                return Err(Unsupported::new("another number of base values than classes"));
            }
            let spoken = forest.spoken(classes);
            // ONNX Runtime tells a class without a score from one with the score 0.
            if spoken.iter().any(|class| class.ever && !class.always) {
                return Err(Unsupported::new("a class that some rows have no score of"));
            }
            let scored: Vec<bool> = spoken.iter().map(|class| class.ever).collect();
            // ONNX Runtime leaves the second probability unwritten.
            if transform == Transform::Probit && classes == 2 && !scored[1] && base.len() < 2 {
                return Err(Unsupported::new("the transform PROBIT of one score for two classes"));
            }
            let label = self.int_slots(1)?;
            values.push(Self::fresh(Type::I64, vec![Dim::Rows], label));
            let binary = classes == 2 && forest.classes_named == 1;
            if !binary && classes == 2 && labels != [0, 1] {
                return Err(Unsupported::new("two classes with labels of their own"));
            }
            let all_positive = forest.all_positive;
            (Finish::Classify { labels, transform, binary, all_positive, scored, label }, base)
        } else {
            if transform != Transform::None || ![0, classes].contains(&base.len()) {
                return Err(Unsupported::new("a transform or other base values"));
            }
            (Finish::Regress { average }, base)
        };
        values.push(Self::fresh(Type::F32, vec![Dim::Rows, Dim::Fixed(classes)], out));
        let ensemble = Ensemble::new(&forest, classes, double).map_err(|e| Unsupported::new(e.to_string()))?;
        self.emit(Instruction::Trees(Box::new(Trees { ensemble, finish, double, base, out })));
        Ok(values)
    }
}
