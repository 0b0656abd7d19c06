//! model.yaml: a model's card and signature, reviewed in the same repository as what is served.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_saphyr::Spanned;

use self::artifact::RawArtifact;
use self::golden::RawGolden;
use self::input::RawInput;
use self::output::RawOutput;
use self::profile::RawProfile;
use crate::yaml::{self, Fault};
use crate::{ModelName, Version, YamlError};

mod artifact;
mod golden;
mod input;
mod output;
mod profile;
mod training;
mod value;

pub use artifact::{Artifact, Location};
pub use golden::{Expected, Golden, GoldenRow};
pub use input::{Domain, Feature, Input, InputTensor};
pub use output::{Classifier, LabelOutput, Output, OutputKind, OutputTensor, ProbabilityOutput};
pub use profile::{ClassProfile, FeatureProfile, Histogram, Profile};
pub use training::{Metric, Training, TrainingCode, TrainingData, TrainingRun};
pub use value::{Dtype, Value};

/// The most classes of a model, and categories of a feature.
const CLASSES_MAX: usize = 4096;
/// The longest name of a feature, class, category or tensor, in bytes.
const LABEL_BYTES_MAX: usize = 128;

/// A model version's card: what goes in, what comes out, where it comes from and how to tell that it works.
///
/// Categories travel to the model as their index in the feature's list, or as they are where the model takes texts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelSpec {
    /// The model's name.
    pub name: ModelName,
    /// The version.
    pub version: Version,
    /// What the model does, in a sentence or two for people.
    pub description: String,
    /// The model file.
    pub artifact: Artifact,
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
    /// Where the model comes from.
    pub training: Training,
    /// How good it is, and on which data that was measured.
    pub metrics: Vec<Metric>,
    /// Answers that any server must reproduce.
    pub golden: Golden,
    /// What the training data looked like, for drift.
    pub profile: Profile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSpec {
    api_version: Spanned<String>,
    name: ModelName,
    version: Version,
    description: Spanned<String>,
    artifact: RawArtifact,
    input: RawInput,
    output: Spanned<RawOutput>,
    training: Training,
    metrics: Vec<Spanned<Metric>>,
    golden: RawGolden,
    profile: RawProfile,
}

impl ModelSpec {
    /// Where a version's model.yaml lies in a configuration repository.
    pub fn path(name: &ModelName, version: &Version) -> String {
        format!("models/{name}/{version}/model.yaml")
    }

    /// Parses and validates a model.yaml; `file` is its path, for errors.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, YamlError> {
        yaml::parse(file, text, Self::validate)
    }

    fn validate(raw: RawSpec) -> Result<Self, Fault> {
        yaml::check_api_version(&raw.api_version)?;
        if raw.description.value.trim().is_empty() {
            return Err(Fault::at(&raw.description, "description", "is empty; say what the model does"));
        }
        if let Some((i, metric)) = raw.metrics.iter().enumerate().find(|(_, m)| !m.value.value.is_finite()) {
            return Err(Fault::at(metric, format!("metrics[{i}].value"), "is not a finite number"));
        }
        let artifact = Artifact::validate(raw.artifact)?;
        let input = Input::validate(raw.input)?;
        let output = Output::validate(raw.output)?;
        let profile = Profile::validate(raw.profile, &input, &output)?;
        let golden = Golden::validate(raw.golden, &input, &output)?;
        Ok(Self {
            name: raw.name,
            version: raw.version,
            description: raw.description.value,
            artifact,
            input,
            output,
            training: raw.training,
            metrics: raw.metrics.into_iter().map(|metric| metric.value).collect(),
            golden,
            profile,
        })
    }
}

fn check_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
        return Err("must have 1 to 128 bytes and no control character");
    }
    Ok(())
}

fn check_labels(labels: &[String]) -> Result<(), &'static str> {
    if labels.is_empty() || labels.len() > CLASSES_MAX {
        return Err("must have 1 to 4096 entries");
    }
    labels.iter().try_for_each(|label| check_label(label))?;
    if labels.iter().collect::<BTreeSet<_>>().len() < labels.len() {
        return Err("has an entry twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = include_str!("../../iris/1.0.0/model.yaml");

    fn parse(text: &str) -> Result<ModelSpec, YamlError> {
        ModelSpec::parse("models/iris/1.0.0/model.yaml", text.as_bytes())
    }

    #[test]
    fn a_card_is_read_whole() {
        let spec = parse(GOOD).unwrap();
        assert_eq!((spec.name.as_str(), spec.version.to_string().as_str()), ("iris", "1.0.0"));
        assert_eq!(spec.input.features[3].name, "petal width (cm)");
        assert_eq!(spec.input.features[3].domain, Domain::Number { min: 0.1, max: 2.5 });
        assert_eq!(spec.output.classes(), ["setosa", "versicolor", "virginica"]);
        assert_eq!(spec.input.matrix(), Some("features"));
        assert_eq!(spec.golden.rows[1].features, [6.3, 2.9, 6.3, 1.8].map(Value::Number));
        assert_eq!(spec.profile.classes.iter().map(|class| class.count).sum::<u64>(), spec.training.data.rows);
    }

    #[test]
    fn every_refusal_names_file_line_and_field() {
        for (from, to, expected) in [
            ("unit: cm", "units: cm", "14: input.features[0].units: unknown field `units`"),
            ("mainstay/v1", "mainstay/v2", "1: apiVersion: `mainstay/v2` is not known"),
            ("name: iris\n", "name: Iris\n", "2: name: `Iris` is not a name"),
            ("version: 1.0.0", "version: 1.0", "3: version: `1.0` is not a version"),
            ("file: model.onnx", "file: ../model.onnx", "6: artifact.file: names no file beside"),
            ("file: model.onnx", "uri: ftp://models/model.onnx", "6: artifact.uri: is no place that can be read"),
            ("file: model.onnx", "file: model.onnx\n  uri: s3://models/a", "7: artifact.uri: stands beside `file`"),
            ("  file: model.onnx\n", "", "6: artifact: needs either `file` or `uri`"),
            (
                "file: model.onnx",
                "file: model.onnx\n  mirrors: [s3://a/b]",
                "7: artifact.mirrors[0]: is for an artifact",
            ),
            ("file: model.onnx", "uri: s3://a/b\n  mirrors: [s3://a/b]", "7: artifact.mirrors[0]: stands twice"),
            ("sha256: c9cae", "sha256: C9cae", "7: artifact.sha256: not a sha256"),
            ("size_bytes: 71528", "size_bytes: 0", "8: artifact.size_bytes: is 0"),
            ("range: [4.3, 7.9]", "range: [7.9, 4.3]", "15: input.features[0].range: is not [least, greatest]"),
            ("      range: [4.3, 7.9]\n", "", "12: input.features[0]: needs either `range` or `categories`"),
            ("example: 5.1", "example: long", "16: input.features[0].example: is not a finite number"),
            ("example: 5.1", "example: .nan", "16: input.features[0].example: non-finite float `.nan`"),
            ("sepal width (cm)", "sepal length (cm)", "17: input.features[1].name: stands twice"),
            ("name: sepal width (cm)", "name: version", "17: input.features[1].name: is reserved"),
            ("classes: [setosa, versicolor", "classes: [setosa, setosa", "output.label.classes: has an entry twice"),
            ("classes: [setosa", "values: [1, 2], classes: [setosa", "output.label.values: needs one for each class"),
            ("classes: [setosa", "values: [1, 1, 2], classes: [setosa", "output.label.values: has an entry twice"),
            ("tolerance: 1.0e-05", "tolerance: 0", "golden.tolerance: must be above 0"),
            ("features: [5.1, 3.5, 1.1, 0.2]", "features: [5.1, 3.5, 1.1]", "golden.rows[0].features: must have 4"),
            ("0.2], label: 0", "0.2], label: 3", "golden.rows[0].label: must be below 3"),
            ("probability: [1.0, 0.0, 0.0]", "probability: [1.5, 0.0, 0.0]", "golden.rows[0].probability: must have 3"),
            ("gate: 0.93", "gate: high", "metrics[0].gate: "),
            ("seed: 20240601", "seed: -1", "training.seed: "),
            ("  threshold: 2\n", "", "output.threshold: is for models of two classes"),
        ] {
            // The one case that adds a line instead of changing one.
            let text = match from.strip_prefix("  threshold") {
                Some(_) => GOOD.replacen("training:\n", &format!("{from}training:\n"), 1),
                None => GOOD.replacen(from, to, 1),
            };
            assert_ne!(text, GOOD, "{from}");
            let message = parse(&text).expect_err(from).to_string();
            assert!(message.starts_with("models/iris/1.0.0/model.yaml:"), "{message}");
            assert!(message.contains(expected), "{message}\n  should contain {expected}");
        }
    }

    #[test]
    fn categories_are_texts_and_an_example_is_one_of_them() {
        let categories = |example: &str| {
            let feature = format!("categories: [S, M]\n      example: {example}");
            parse(&GOOD.replacen("range: [4.3, 7.9]\n      example: 5.1", &feature, 1))
        };
        let problem = |example| categories(example).unwrap_err().to_string();
        assert!(problem("X").contains("input.features[0].example: is not one of S, M"));
        assert!(problem("1").contains("put a category that looks like a number in quotes"));
        // The profile of the feature still has a number's histogram.
        assert!(problem("M").contains("profile.features[0]: needs the feature's `categories`"));
    }

    #[test]
    fn a_default_makes_a_feature_optional() {
        let spec = parse(&GOOD.replacen("example: 5.1", "example: 5.1\n      default: 5.8", 1)).unwrap();
        assert_eq!(spec.input.features[0].default, Some(Value::Number(5.8)));
        assert_eq!(spec.input.features[1].default, None);
    }

    /// A card with these features and outputs; every other part is such as fits any model.
    fn typed(features: &str, output: &str, rows: &str, profile: &str) -> Result<ModelSpec, YamlError> {
        let (head, _) = GOOD.split_once("input:\n").unwrap();
        parse(&format!(
            "{head}input:\n  features:\n{features}output: {output}\n\
             training: {{code: {{commit: unknown}}, data: {{name: a, source: b, rows: 1, sha256: {}}}, libraries: {{}}}}\n\
             metrics: []\ngolden:\n  tolerance: 0.001\n  rows: [{rows}]\nprofile: {{features: [{profile}]}}\n",
            "0".repeat(64)
        ))
    }

    const COLUMNS: &str = "  - {name: id, description: a, dtype: int64, range: [0, 9007199254740993], example: 1}
  - {name: flag, description: a, dtype: bool, example: true, default: false}
  - {name: text, description: a, dtype: string, example: \"1\"}
  - {name: city, description: a, dtype: string, categories: [Lyon, \"7\"], example: Lyon}
  - {name: x, description: a, tensor: both, dtype: fp64, range: [0.5, 1], example: 1}
  - {name: size, description: a, tensor: both, dtype: fp64, categories: [S, M], example: M}
";
    const OUTPUTS: &str = "{tensors: [{tensor: variable, name: price, dtype: fp64}, {tensor: pair, shape: [2]}, \
                           {tensor: kind, kind: label, dtype: string, classes: [a, b]}, \
                           {tensor: map, kind: map, keys: [0, 1]}]}";
    const ROW: &str = "{features: [9007199254740993, true, \"\", \"7\", 1, 1], \
                       outputs: {price: 1, pair: [1, 2.5], kind: b, map: {\"0\": 1, \"1\": 0.5}}}";
    const PROFILE: &str = "{name: id, edges: [0, 1], counts: [1]}, \
                           {name: city, categories: [Lyon, \"7\"], counts: [1, 1]}, \
                           {name: x, edges: [0, 1], counts: [1]}, \
                           {name: size, categories: [S, M], counts: [1, 1]}";

    #[test]
    fn features_name_their_tensors_and_types_and_outputs_are_listed() {
        let spec = typed(COLUMNS, OUTPUTS, ROW, PROFILE).unwrap();
        let tensors: Vec<_> = spec.input.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.columns.len())).collect();
        let expected = [
            ("id", Dtype::Int64, 1),
            ("flag", Dtype::Bool, 1),
            ("text", Dtype::String, 1),
            ("city", Dtype::String, 1),
            ("both", Dtype::Fp64, 2),
        ];
        assert_eq!(tensors, expected);
        assert_eq!((spec.input.matrix(), spec.input.tensors[4].columns.as_slice()), (None, &[4, 5][..]));
        let row = &spec.golden.rows[0];
        assert_eq!(row.features[0], Value::Integer(9_007_199_254_740_993));
        assert_eq!(row.features[5], Value::Text("M".into()));
        let Expected::Tensors(expected) = &row.expected else { panic!("no classifier") };
        assert_eq!(expected[1], [Value::Number(1.0), Value::Number(2.5)]);
        assert_eq!(expected[3], [Value::Number(1.0), Value::Number(0.5)]);
        let Output::Tensors(outputs) = &spec.output else { panic!("no classifier") };
        assert_eq!((outputs[0].name.as_str(), outputs[0].tensor.as_str()), ("price", "variable"));
        assert_eq!(outputs[3].shape, [2]);
        assert_eq!(spec.profile.features.iter().filter(|profile| profile.is_some()).count(), 4);
    }

    #[test]
    fn a_refusal_of_a_typed_card_names_the_field_too() {
        for (from, to, expected) in [
            ("dtype: int64,", "dtype: int65,", "input.features[0].dtype: "),
            ("example: true", "example: 1", "input.features[1].example: is neither true nor false"),
            ("example: \"1\"", "example: 1", "input.features[2].example: is not a text"),
            ("example: \"1\"", "example: a, range: [0, 1]", "input.features[2].range: is for numbers"),
            (
                "tensor: both, dtype: fp64, cat",
                "tensor: both, cat",
                "input.features[5].dtype: is fp32 in the tensor `both`",
            ),
            ("range: [0, 9007199254740993], example: 1", "range: [0, 1], example: 1.5", "is not an integer of int64"),
            (
                "tensor: both, dtype: fp64, range: [0.5, 1]",
                "dtype: fp16, range: [0.5, 65520]",
                "input.features[4].range",
            ),
            (
                "tensor: both, dtype: fp64, range: [0.5, 1], example: 1",
                "dtype: bf16, range: [0, 1], example: 3.4e38",
                "finite",
            ),
            ("dtype: fp64}", "dtype: fp65}", "output"),
            ("tensor: pair", "tensor: variable", "output.tensors[1]"),
            ("classes: [a, b]", "classes: [a]", "output.tensors[2].classes: names fewer than two"),
            ("kind: label, dtype: string, classes: [a, b]", "kind: label", "output.tensors[2]: needs `classes`"),
            ("keys: [0, 1]", "keys: [0, 0]", "output.tensors[3].keys: has an entry twice"),
            ("shape: [2]", "shape: [0]", "output.tensors[1].shape: must have"),
            ("{tensors:", "{threshold: 0.5, tensors:", "output: needs either `label` and `probability`, or `tensors`"),
            ("kind: b", "kind: c", "golden.rows[0].outputs.kind: is not one of a, b"),
            ("price: 1,", "", "golden.rows[0].outputs.price: is missing"),
            ("price: 1,", "price: 1, cost: 1,", "golden.rows[0].outputs.cost: is no output"),
            ("pair: [1, 2.5]", "pair: 1", "golden.rows[0].outputs.pair: must be a list of 2 values"),
            ("\"1\": 0.5", "\"2\": 0.5", "golden.rows[0].outputs.map: has the key `2`"),
            ("[9007199254740993, true", "[0.5, true", "golden.rows[0].features: `id` is not an integer of int64"),
            ("\"7\", 1, 1]", "\"7\", 1, 2]", "golden.rows[0].features: `size` is not the index of one of S, M"),
        ] {
            let change = |text: &str| text.replacen(from, to, 1);
            let (columns, outputs, row) = (change(COLUMNS), change(OUTPUTS), change(ROW));
            assert!(columns != COLUMNS || outputs != OUTPUTS || row != ROW, "{from}");
            let message = typed(&columns, &outputs, &row, PROFILE).expect_err(from).to_string();
            assert!(message.contains(expected), "{message}\n  should contain {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_damaged_card_is_refused_or_still_right_but_never_a_panic(
            at in any::<prop::sample::Index>(), length in 0usize..40, instead in "[ -~\n]{0,12}",
        ) {
            let at = at.index(GOOD.len());
            let end = (at + length).min(GOOD.len());
            let text = format!("{}{instead}{}", &GOOD[..at], &GOOD[end..]);
            if let Ok(spec) = parse(&text) {
                let features = spec.input.features.len();
                prop_assert!(spec.golden.rows.iter().all(|row| row.features.len() == features));
            }
        }
    }
}
