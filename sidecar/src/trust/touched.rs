//! What of an environment two commits have different: the models, and whatever is not of one model.
//!
//! Compares more than the versions that are asked for: a card or a file that changes under a version is a change too.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_models::policy::Policy;
use mainstay_models::{ModelName, Serving};

/// What a commit says about an environment, as far as it is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Its serving.yaml; none where it is not there or not one.
    pub serving: Option<Serving>,
    /// The folders in `models/`, each with the object id that stands for everything in it.
    pub folders: BTreeMap<String, String>,
}

/// What is different between two commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// The models that are asked for differently, or whose folder is different.
    pub models: BTreeSet<ModelName>,
    /// Whether there is more, or it cannot be said what.
    pub rest: bool,
}

impl Touched {
    /// What `after` has different from `before`; everything where there was nothing before.
    pub fn between(before: Option<&Content>, after: &Content) -> Self {
        let unknown = Self { models: BTreeSet::new(), rest: true };
        let Some(new) = &after.serving else {
            // The same nonsense as before is no change.
            return if before == Some(after) { Self::default() } else { unknown };
        };
        let Some(before) = before else {
            return Self { models: new.models.keys().cloned().collect(), rest: new.policy != Policy::default() };
        };
        let Some(old) = &before.serving else { return unknown };
        let folder = |content: &Content, name: &ModelName| content.folders.get(name.as_str()).cloned();
        let names: BTreeSet<_> = old.models.keys().chain(new.models.keys()).cloned().collect();
        let different = |name: &ModelName| {
            old.models.get(name) != new.models.get(name) || folder(before, name) != folder(after, name)
        };
        let mut models: BTreeSet<_> = names.into_iter().filter(different).collect();
        if old.default != new.default {
            models.extend([old.default.clone(), new.default.clone()]);
        }
        // Whatever else serving.yaml comes to hold is of no single model.
        let mut same = old.clone();
        (same.models, same.default) = (new.models.clone(), new.default.clone());
        Self { models, rest: same != *new }
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty() && !self.rest
    }

    /// Adds what is different elsewhere.
    pub fn add(&mut self, other: Self) {
        self.models.extend(other.models);
        self.rest |= other.rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(serving: &str, folders: &[(&str, &str)]) -> Content {
        let serving = Serving::parse("serving.yaml", format!("apiVersion: mainstay/v1\n{serving}").as_bytes()).ok();
        let folders = folders.iter().map(|(name, id)| (name.to_string(), id.to_string())).collect();
        Content { serving, folders }
    }

    #[test]
    fn a_model_is_touched_by_what_is_asked_for_and_by_what_is_in_its_folder() {
        let both = "default: a\nmodels:\n  a:\n    stable: 1.0.0\n  b:\n    stable: 1.0.0\n";
        let folders = [("a", "1"), ("b", "1"), ("other", "1")];
        let before = content(both, &folders);
        let names = |after: &Content| {
            let touched = Touched::between(Some(&before), after);
            assert!(!touched.rest);
            touched.models.iter().map(ModelName::to_string).collect::<Vec<_>>()
        };
        assert!(names(&before).is_empty());
        assert_eq!(names(&content(&both.replacen("1.0.0", "1.1.0", 1), &folders)), ["a"]);
        assert_eq!(names(&content(both, &[("a", "1"), ("b", "2"), ("other", "2")])), ["b"]);
        assert_eq!(names(&content("default: a\nmodels:\n  a:\n    stable: 1.0.0\n", &folders)), ["b"]);
        assert_eq!(names(&content(&both.replacen("default: a", "default: b", 1), &folders)), ["a", "b"]);
        let first = Touched::between(None, &before);
        assert_eq!((first.models.len(), first.rest), (2, false));
    }

    #[test]
    fn what_cannot_be_read_touches_everything() {
        let good = content("default: a\nmodels:\n  a:\n    stable: 1.0.0\n", &[]);
        let bad = content("nonsense", &[]);
        assert!(Touched::between(Some(&good), &bad).rest);
        assert!(Touched::between(Some(&bad), &good).rest);
        assert!(Touched::between(None, &bad).rest);
        assert!(Touched::between(Some(&bad), &bad).is_empty());
    }
}
