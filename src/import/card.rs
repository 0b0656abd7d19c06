//! Writes a model.yaml from what a tool recorded, what people say, and what the data looks like.
//!
//! Every text is quoted as JSON quotes it, which YAML reads the same, so that no text can become anything else.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use mainstay_models::{Blob, ModelName};
use mainstay_server::engine::{Answer, RunError};
use ndarray::Array2;

use super::facts::Facts;
use super::rows::{Histogram, Rows};
use super::{Recorded, Tensors};

/// How far an answer may be off that ONNX Runtime itself gave.
const TOLERANCE: f32 = 1e-5;
/// The most golden rows, and how many of them are examples or predicted as one class.
const GOLDEN_MAX: usize = 64;
const EXAMPLES_MAX: usize = 8;
const PER_CLASS: usize = 6;

/// A version that is to get a card.
pub struct Version<'a> {
    pub name: &'a ModelName,
    pub version: &'a mainstay_models::Version,
    pub facts: &'a Facts,
    pub recorded: &'a Recorded,
    pub tensors: &'a Tensors,
}

/// A row and the model's answer to it.
pub struct Golden {
    features: Vec<f32>,
    label: u32,
    probability: Vec<f32>,
    note: String,
}

/// How often each class was predicted for the data, and with which probability.
pub struct Classes(Vec<(u64, Histogram)>);

impl Golden {
    /// A row whose answer is yet to be asked for.
    pub fn unanswered(rows: &Rows, classes: usize) -> Self {
        let features = rows.values.row(0).to_vec();
        Self { features, label: 0, probability: vec![0.0; classes], note: String::new() }
    }
}

impl Classes {
    pub fn of(facts: &Facts, answer: &Answer) -> Self {
        let class = |index: usize| {
            let count = answer.labels.iter().filter(|label| **label as usize == index).count() as u64;
            (count, Histogram::between(0.0, 1.0, &answer.probabilities.column(index).to_vec()))
        };
        Self((0..facts.classes.len()).map(class).collect())
    }

    pub fn unknown(facts: &Facts) -> Self {
        Self(facts.classes.iter().map(|_| (0, Histogram::between(0.0, 1.0, &[]))).collect())
    }
}

/// Rows for the card, with the answers that ONNX Runtime gives now: the recorded examples, some that each class is
/// predicted for, and the ends of each feature's range.
pub fn golden(
    rows: &Rows,
    answer: &Answer,
    examples: &[Vec<f32>],
    facts: &Facts,
    ask: impl Fn(&Array2<f32>) -> Result<Answer, RunError>,
) -> Result<Vec<Golden>, RunError> {
    let mut chosen: Vec<(Vec<f32>, String)> = Vec::new();
    let row = |index: usize| rows.values.row(index).to_vec();
    for example in examples.iter().take(EXAMPLES_MAX) {
        chosen.push((example.clone(), "recorded as an example of the input".to_owned()));
    }
    for (index, class) in facts.classes.iter().enumerate() {
        let of: Vec<_> = (0..answer.labels.len()).filter(|row| answer.labels[*row] as usize == index).collect();
        let step = of.len().div_ceil(PER_CLASS).max(1);
        chosen.extend(
            of.iter().step_by(step).map(|at| (row(*at), format!("of the training data, predicted as {class}"))),
        );
    }
    for (index, feature) in facts.features.iter().enumerate() {
        let column = rows.values.column(index);
        let ends = [
            (0..column.len()).min_by(|a, b| column[*a].total_cmp(&column[*b])).map(|at| (at, "least")),
            (0..column.len()).max_by(|a, b| column[*a].total_cmp(&column[*b])).map(|at| (at, "greatest")),
        ];
        chosen.extend(ends.into_iter().flatten().map(|(at, end)| (row(at), format!("the {end} {}", feature.name))));
    }
    let mut seen = BTreeSet::new();
    chosen.retain(|(features, _)| seen.insert(features.iter().map(|value| value.to_bits()).collect::<Vec<_>>()));
    chosen.truncate(GOLDEN_MAX);
    let mut table = Array2::zeros((0, facts.features.len()));
    for (features, _) in &chosen {
        table.push_row(features.as_slice().into()).expect("each row has every feature");
    }
    let answers = ask(&table)?;
    let with_answer = |(index, (features, note)): (usize, (Vec<f32>, String))| Golden {
        features,
        label: answers.labels[index],
        probability: answers.probabilities.row(index).to_vec(),
        note,
    };
    Ok(chosen.into_iter().enumerate().map(with_answer).collect())
}

impl Version<'_> {
    /// The recorded examples, as far as they are rows of the model's features.
    pub fn examples(&self) -> Vec<Vec<f32>> {
        let Some((columns, rows)) = &self.recorded.examples else { return Vec::new() };
        let names: Vec<_> = self.facts.features.iter().map(|feature| feature.name.as_str()).collect();
        let places: Option<Vec<usize>> = if columns.is_empty() {
            Some((0..names.len()).collect())
        } else {
            names.iter().map(|name| columns.iter().position(|column| column == name)).collect()
        };
        let Some(places) = places else { return Vec::new() };
        let row = |row: &Vec<f32>| places.iter().map(|place| row.get(*place).copied()).collect::<Option<Vec<f32>>>();
        rows.iter().filter_map(row).filter(|row| row.iter().all(|value| value.is_finite())).collect()
    }

    /// The text of the model.yaml.
    pub fn card(&self, rows: &Rows, golden: &[Golden], classes: &Classes) -> String {
        let Self { name, version, facts, recorded, tensors } = self;
        let Blob { sha256, size_bytes } = Blob::of(&recorded.model);
        let mut out = format!(
            "apiVersion: mainstay/v1\nname: {name}\nversion: {version}\ndescription: {}\nartifact:\n  file: model.onnx\n  \
             sha256: {sha256}\n  size_bytes: {size_bytes}\n",
            text(&facts.description)
        );
        let mut line = |words: String| {
            out.push_str(&words);
            out.push('\n');
        };
        line(format!("input:\n  tensor: {}\n  features:", text(&tensors.input)));
        for (index, feature) in facts.features.iter().enumerate() {
            let sorted = rows.sorted(index);
            line(format!("    - name: {}\n      description: {}", text(&feature.name), text(&feature.description)));
            if let Some(unit) = &feature.unit {
                line(format!("      unit: {}", text(unit)));
            }
            match &feature.categories {
                Some(categories) => {
                    line(format!("      categories: {}", texts(categories)));
                    line(format!("      example: {}", text(&categories[most_frequent(&sorted)])));
                }
                None => {
                    line(format!("      range: [{}, {}]", sorted[0], sorted[sorted.len() - 1]));
                    line(format!("      example: {}", sorted[sorted.len() / 2]));
                }
            }
            if let Some(default) = &feature.default {
                line(format!("      default: {default}"));
            }
        }
        line(format!("output:\n  label: {{tensor: {}, classes: {}}}", text(&tensors.label), texts(&facts.classes)));
        line(format!("  probability: {{tensor: {}}}", text(&tensors.probability)));
        if let Some(threshold) = facts.threshold {
            line(format!("  threshold: {threshold}"));
        }
        line(self.training(rows));
        line(self.metrics());
        line(format!("golden:\n  tolerance: {}\n  rows:", facts.tolerance.unwrap_or(TOLERANCE)));
        for Golden { features, label, probability, note } in golden {
            let note = text(&format!("{note}; the answer is ONNX Runtime's at the import"));
            line(format!(
                "    - {{features: {}, label: {label}, probability: {}, note: {note}}}",
                numbers(features),
                numbers(probability)
            ));
        }
        line("profile:\n  features:".to_owned());
        for (index, feature) in facts.features.iter().enumerate() {
            let (name, sorted) = (text(&feature.name), rows.sorted(index));
            line(match &feature.categories {
                Some(categories) => {
                    let count = |index| sorted.iter().filter(|value| **value as usize == index).count();
                    let counts: Vec<_> = (0..categories.len()).map(count).collect();
                    format!("    - {{name: {name}, categories: {}, counts: {}}}", texts(categories), numbers(&counts))
                }
                None => format!("    - {{name: {name}, {}}}", histogram(&Histogram::of(&sorted))),
            });
        }
        line("  classes:".to_owned());
        for (class, (count, probability)) in facts.classes.iter().zip(&classes.0) {
            line(format!("    - {{name: {}, count: {count}, {}}}", text(class), histogram(probability)));
        }
        out
    }

    fn training(&self, rows: &Rows) -> String {
        let Self { facts, recorded, .. } = self;
        let commit = recorded.commit.as_ref().or(facts.commit.as_ref()).map_or("unknown", String::as_str);
        let said = facts.data.as_ref().map(|data| (data.name.as_str(), data.source.as_str()));
        let known = recorded.data.as_ref().map(|(name, source)| (name.as_str(), source.as_str()));
        let (name, source) = said.or(known).unwrap_or((&rows.name, "the file that was given at the import"));
        let mut out = format!("training:\n  code: {{commit: {}}}\n", text(commit));
        let _ = writeln!(
            out,
            "  data: {{name: {}, source: {}, rows: {}, sha256: {}}}",
            text(name),
            text(source),
            rows.values.nrows(),
            rows.file.sha256
        );
        if let Some(seed) = recorded.seed.or(facts.seed) {
            let _ = writeln!(out, "  seed: {seed}");
        }
        let map = |map: &std::collections::BTreeMap<String, String>| {
            let entries: Vec<_> = map.iter().map(|(key, value)| format!("{}: {}", text(key), text(value))).collect();
            format!("{{{}}}", entries.join(", "))
        };
        let _ = writeln!(out, "  libraries: {}", map(&recorded.libraries));
        let run = &recorded.run;
        let _ = write!(out, "  run:\n    tool: {}\n    id: {}", run.tool, text(&run.id));
        if let Some(name) = &run.name {
            let _ = write!(out, "\n    name: {}", text(name));
        }
        for (key, entries) in [("parameters", &run.parameters), ("inputs", &run.inputs)] {
            if !entries.is_empty() {
                let _ = write!(out, "\n    {key}: {}", map(entries));
            }
        }
        out
    }

    fn metrics(&self) -> String {
        let split = self.facts.split.as_deref().unwrap_or("not recorded");
        let metrics = self.recorded.metrics.iter().filter(|metric| metric.value.is_finite());
        let lines: Vec<_> = metrics
            .map(|metric| {
                let split = text(metric.split.as_deref().unwrap_or(split));
                format!("  - {{name: {}, split: {split}, value: {}}}", text(&metric.name), metric.value)
            })
            .collect();
        if lines.is_empty() { "metrics: []".to_owned() } else { format!("metrics:\n{}", lines.join("\n")) }
    }
}

/// A text as YAML reads it.
pub fn text(text: &str) -> String {
    serde_json::to_string(text).expect("a text can be written")
}

fn texts(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|one| text(one)).collect();
    format!("[{}]", texts.join(", "))
}

fn numbers<T: Display>(numbers: &[T]) -> String {
    let numbers: Vec<_> = numbers.iter().map(T::to_string).collect();
    format!("[{}]", numbers.join(", "))
}

fn histogram(histogram: &Histogram) -> String {
    format!("edges: {}, counts: {}", numbers(&histogram.edges), numbers(&histogram.counts))
}

/// The index that occurs most often in `sorted`.
fn most_frequent(sorted: &[f32]) -> usize {
    let longest = sorted.chunk_by(|a, b| a == b).max_by_key(|run| run.len());
    longest.and_then(|run| run.first()).map_or(0, |value| *value as usize)
}

#[cfg(test)]
mod tests {
    use mainstay_models::ModelSpec;
    use mainstay_models::spec::Value;

    use super::*;

    #[test]
    fn a_card_is_valid_whatever_people_and_tools_call_things() {
        let strange = "a: [b], \"c\" #d {e} \\ \u{1f600} 'f' %";
        let feature =
            |name: &str, rest: &str| format!("  - {{name: {}, description: {}{rest}}}\n", text(name), text(strange));
        let facts = format!(
            "description: {}\nfeatures:\n{}{}classes: [{}, other]\nthreshold: 0.5\n",
            text(strange),
            feature(strange, ", unit: \"%\""),
            feature("size", ", categories: [\"1\", \"no\"], default: \"no\""),
            text(strange)
        );
        let facts = Facts::parse("card.yaml", facts.as_bytes()).unwrap();
        let values = ndarray::array![[0.1, 0.0], [1e30, 1.0], [-1e-30, 1.0]];
        let rows = Rows { file: Blob::of(b"data"), name: "data.csv".to_owned(), values };
        let mut recorded = Recorded { model: b"model".to_vec(), seed: Some(7), ..Recorded::default() };
        recorded.run.tool = "mlflow";
        recorded.run.id = strange.to_owned();
        recorded.run.parameters.insert(strange.to_owned(), "yes\nno".to_owned());
        recorded.metrics.push(super::super::RecordedMetric { name: "f1".to_owned(), split: None, value: 1.0 });
        recorded.examples = Some((vec!["size".to_owned(), strange.to_owned()], vec![vec![1.0, 2.5]]));
        let tensors = Tensors {
            input: strange.to_owned(),
            label: "l".to_owned(),
            probability: "p".to_owned(),
            features: None,
            classes: None,
        };
        let (name, version) = ("iris".parse().unwrap(), "1.0.0-rc.1".parse().unwrap());
        let version = Version { name: &name, version: &version, facts: &facts, recorded: &recorded, tensors: &tensors };
        assert_eq!(version.examples(), [[2.5, 1.0]]);
        let half = |rows: usize| Answer { labels: vec![1; rows], probabilities: Array2::from_elem((rows, 2), 0.5) };
        let golden = golden(&rows, &half(3), &version.examples(), &facts, |rows| Ok(half(rows.nrows()))).unwrap();
        assert_eq!(golden.len(), 4);
        let card = version.card(&rows, &golden, &Classes::of(&facts, &half(3)));
        let spec = ModelSpec::parse("model.yaml", card.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{card}"));
        assert_eq!((spec.input.matrix().unwrap(), spec.input.features[0].name.as_str()), (strange, strange));
        assert_eq!(spec.input.features[1].default, Some(Value::Text("no".to_owned())));
        assert_eq!(spec.golden.rows[0].features, [Value::Number(2.5), Value::Text("no".to_owned())]);
        assert_eq!(spec.golden.rows[2].features, [Value::Number(1e30), Value::Text("no".to_owned())]);
        assert_eq!(spec.profile.classes[1].count, 3);
        let run = spec.training.run.unwrap();
        assert_eq!((run.id.as_str(), run.parameters[strange].as_str()), (strange, "yes\nno"));
        assert_eq!((spec.training.seed, spec.training.data.rows), (Some(7), 3));
        assert_eq!(spec.metrics[0].split, "not recorded");
    }
}
