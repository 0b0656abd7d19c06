//! What the training data looked like, for drift.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::input::{Domain, Feature, Input};
use super::output::Output;
use crate::yaml::Fault;

/// What the training data looked like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Profile {
    /// One per feature, in the input's order; none of features that are any text, or true or false.
    pub features: Vec<Option<FeatureProfile>>,
    /// One per class, in the classes' order; empty where the model is no classifier.
    pub classes: Vec<ClassProfile>,
}

/// The values of one feature in the training data.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureProfile {
    /// A histogram of numbers.
    Number(Histogram),
    /// How often each category occurred, in the feature's order.
    Category(Vec<u64>),
}

/// How often one class was predicted for the training data.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClassProfile {
    /// Rows predicted as this class.
    pub count: u64,
    /// The class's predicted probability over all rows.
    pub probability: Histogram,
}

/// Counts between edges: `counts[i]` values lie in `edges[i]..edges[i + 1]`, the last edge included.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// Strictly increasing; one more than `counts`.
    pub edges: Vec<f64>,
    /// How many values lie between two edges.
    pub counts: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProfile {
    features: Spanned<Vec<Spanned<RawFeatureProfile>>>,
    classes: Option<Spanned<Vec<Spanned<RawClassProfile>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFeatureProfile {
    name: String,
    edges: Option<Vec<f64>>,
    categories: Option<Vec<String>>,
    counts: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClassProfile {
    name: String,
    count: u64,
    edges: Vec<f64>,
    counts: Vec<u64>,
}

impl Profile {
    pub(super) fn validate(raw: RawProfile, input: &Input, output: &Output) -> Result<Self, Fault> {
        let profiled = |feature: &&Feature| matches!(feature.domain, Domain::Number { .. } | Domain::Category(_));
        let count = input.features.iter().filter(profiled).count();
        if raw.features.value.len() != count {
            let problem = format!("must have {count} entries, one per feature with a range or categories");
            return Err(Fault::at(&raw.features, "profile.features", problem));
        }
        let classes = output.classes();
        let raw_classes = match raw.classes {
            Some(raw) if raw.value.len() == classes.len() => raw.value,
            None if classes.is_empty() => Vec::new(),
            Some(raw) => {
                let problem = format!("must have {} entries, one per class", classes.len());
                return Err(Fault::at(&raw, "profile.classes", problem));
            }
            None => {
                let problem = format!("needs {} entries beside, one per class", classes.len());
                return Err(Fault::at(&raw.features, "profile.classes", problem));
            }
        };
        let mut features = Vec::with_capacity(input.features.len());
        let mut entries = raw.features.value.into_iter().enumerate();
        for feature in &input.features {
            if !profiled(&feature) {
                features.push(None);
                continue;
            }
            let (index, profile) = entries.next().expect("there is one for each such feature");
            let field = format!("profile.features[{index}]");
            let entry = &profile.value;
            if entry.name != feature.name {
                return Err(Fault::at(&profile, field + ".name", format!("must be `{}`", feature.name)));
            }
            features.push(Some(match (&feature.domain, &entry.edges, &entry.categories) {
                (Domain::Category(known), None, Some(categories))
                    if known == categories && entry.counts.len() == known.len() =>
                {
                    FeatureProfile::Category(entry.counts.clone())
                }
                (Domain::Category(_), ..) => {
                    let problem = "needs the feature's `categories` and as many `counts`";
                    return Err(Fault::at(&profile, field, problem));
                }
                (_, Some(edges), None) => FeatureProfile::Number(
                    Histogram::new(edges, &entry.counts).map_err(|problem| Fault::at(&profile, field, problem))?,
                ),
                _ => return Err(Fault::at(&profile, field, "needs `edges` and `counts`")),
            }));
        }
        let mut class_profiles = Vec::with_capacity(classes.len());
        for (index, (profile, class)) in raw_classes.into_iter().zip(classes).enumerate() {
            let field = format!("profile.classes[{index}]");
            let RawClassProfile { name, count, edges, counts } = &profile.value;
            if name != class {
                return Err(Fault::at(&profile, field + ".name", format!("must be `{class}`")));
            }
            let probability = Histogram::new(edges, counts).map_err(|problem| Fault::at(&profile, field, problem))?;
            class_profiles.push(ClassProfile { count: *count, probability });
        }
        Ok(Self { features, classes: class_profiles })
    }
}

impl Histogram {
    fn new(edges: &[f64], counts: &[u64]) -> Result<Self, &'static str> {
        if counts.is_empty() || edges.len() != counts.len() + 1 {
            return Err("needs one more edge than counts");
        }
        if !edges.is_sorted_by(|a, b| a < b) || !edges.iter().all(|edge| edge.is_finite()) {
            return Err("needs edges that are finite and strictly increasing");
        }
        Ok(Self { edges: edges.to_vec(), counts: counts.to_vec() })
    }
}
