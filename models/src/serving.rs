//! serving.yaml: what an environment asks for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use crate::policy::{Policy, RawHold, RawPolicy, RawSync, RawWindow};
use crate::yaml::{self, Fault};
use crate::{EnvironmentName, ModelName, Version, YamlError};

/// The most models that one environment may ask for.
const MODELS_MAX: usize = 1000;
/// The most versions of one model that may be loaded for preview.
const PREVIEW_MAX: usize = 16;

/// What an environment asks for: a complete statement, so that what it omits is unloaded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Serving {
    /// The model that a request without a model's name gets; one of `models`.
    pub default: ModelName,
    /// The models to serve; never empty.
    pub models: BTreeMap<ModelName, ServedModel>,
    /// The models whose stable versions move only together, each group of at least two; no model is in two.
    pub together: Vec<BTreeSet<ModelName>>,
    /// When a change may go live.
    pub policy: Policy,
}

/// Which versions of one model an environment asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedModel {
    /// The version that answers unless a request names another.
    pub stable: Version,
    /// Versions that are loaded and answer only requests that name them; `stable` is not among them.
    pub preview: BTreeSet<Version>,
}

impl ServedModel {
    /// Every version asked for, the stable one first.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.stable).chain(&self.preview)
    }
}

/// One difference between what two commits ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The model concerned.
    pub model: ModelName,
    /// In which role its version changed.
    pub role: Role,
    /// The version before; none where the model or preview is new.
    pub from: Option<Version>,
    /// The version after; none where it was removed.
    pub to: Option<Version>,
}

/// What a version is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Answers the model's traffic.
    Stable,
    /// Answers only when asked for by version.
    Preview,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawServing {
    api_version: Spanned<String>,
    default: Spanned<ModelName>,
    models: Spanned<BTreeMap<ModelName, RawServedModel>>,
    #[serde(default)]
    together: Vec<Spanned<Vec<Spanned<ModelName>>>>,
    sync: Option<RawSync>,
    #[serde(default)]
    suspend: bool,
    hold: Option<RawHold>,
    #[serde(default)]
    windows: Vec<Spanned<RawWindow>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServedModel {
    stable: Version,
    #[serde(default)]
    preview: Vec<Spanned<Version>>,
}

impl Serving {
    /// Where an environment's serving.yaml lies in a configuration repository.
    pub fn path(environment: &EnvironmentName) -> String {
        format!("environments/{environment}/serving.yaml")
    }

    /// Parses and validates a serving.yaml; `file` is its path, for errors.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, YamlError> {
        yaml::parse(file, text, Self::validate)
    }

    fn validate(raw: RawServing) -> Result<Self, Fault> {
        yaml::check_api_version(&raw.api_version)?;
        if raw.models.value.is_empty() {
            return Err(Fault::at(&raw.models, "models", "names no model; name at least one"));
        }
        if raw.models.value.len() > MODELS_MAX {
            return Err(Fault::at(&raw.models, "models", format!("more than {MODELS_MAX} models")));
        }
        if !raw.models.value.contains_key(&raw.default.value) {
            let problem = format!("`{}` is not one of `models`", raw.default.value);
            return Err(Fault::at(&raw.default, "default", problem));
        }
        let mut models = BTreeMap::new();
        for (name, served) in raw.models.value {
            let mut preview = BTreeSet::new();
            for (index, version) in served.preview.into_iter().enumerate() {
                let field = format!("models.{name}.preview[{index}]");
                if version.value == served.stable {
                    return Err(Fault::at(&version, field, "is the stable version already"));
                }
                if index >= PREVIEW_MAX {
                    return Err(Fault::at(&version, field, format!("more than {PREVIEW_MAX} preview versions")));
                }
                if preview.contains(&version.value) {
                    return Err(Fault::at(&version, field, "stands twice"));
                }
                preview.insert(version.value);
            }
            models.insert(name, ServedModel { stable: served.stable, preview });
        }
        let together = Self::validate_groups(raw.together, &models)?;
        let policy = RawPolicy { sync: raw.sync, suspend: raw.suspend, hold: raw.hold, windows: raw.windows };
        Ok(Self { default: raw.default.value, models, together, policy: Policy::validate(policy)? })
    }

    fn validate_groups(
        raw: Vec<Spanned<Vec<Spanned<ModelName>>>>,
        models: &BTreeMap<ModelName, ServedModel>,
    ) -> Result<Vec<BTreeSet<ModelName>>, Fault> {
        let mut groups: Vec<BTreeSet<ModelName>> = Vec::new();
        for (index, group) in raw.into_iter().enumerate() {
            if group.value.len() < 2 {
                let problem = "names fewer than two models; one alone moves as it is";
                return Err(Fault::at(&group, format!("together[{index}]"), problem));
            }
            let mut members = BTreeSet::new();
            for (place, name) in group.value.into_iter().enumerate() {
                let fault = |problem: &str| {
                    let problem = format!("`{}` {problem}", name.value);
                    Fault::at(&name, format!("together[{index}][{place}]"), problem)
                };
                if !models.contains_key(&name.value) {
                    return Err(fault("is not one of `models`"));
                }
                if groups.iter().any(|group| group.contains(&name.value)) {
                    return Err(fault("is in another group already: make them one group"));
                }
                if members.contains(&name.value) {
                    return Err(fault("stands twice"));
                }
                members.insert(name.value);
            }
            groups.push(members);
        }
        Ok(groups)
    }

    /// What changed since `previous`, by model; everything is new where there was nothing before.
    pub fn moves_from(&self, previous: Option<&Self>) -> Vec<Move> {
        let none = BTreeMap::new();
        let before = previous.map_or(&none, |serving| &serving.models);
        let names: BTreeSet<_> = before.keys().chain(self.models.keys()).collect();
        let mut moves = Vec::new();
        for name in names {
            let (old, new) = (before.get(name), self.models.get(name));
            let mut push = |role, from: Option<&Version>, to: Option<&Version>| {
                if from != to {
                    moves.push(Move { model: name.clone(), role, from: from.cloned(), to: to.cloned() });
                }
            };
            push(Role::Stable, old.map(|m| &m.stable), new.map(|m| &m.stable));
            let previews = |model: Option<&ServedModel>| model.map(|m| m.preview.clone()).unwrap_or_default();
            let (old, new) = (previews(old), previews(new));
            old.difference(&new).for_each(|gone| push(Role::Preview, Some(gone), None));
            new.difference(&old).for_each(|come| push(Role::Preview, None, Some(come)));
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n    stable: 1.0.0\n  pred-main:\n    stable: 2.3.1\n    preview: [2.6.0]\n";

    fn refusal(text: &str) -> String {
        Serving::parse("environments/prod/serving.yaml", text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_serving_is_read_whole() {
        let serving = Serving::parse("serving.yaml", GOOD.as_bytes()).unwrap();
        assert_eq!(serving.default.as_str(), "iris");
        let versions: Vec<_> = serving.models["pred-main"].versions().map(ToString::to_string).collect();
        assert_eq!(versions, ["2.3.1", "2.6.0"]);
    }

    #[test]
    fn every_refusal_names_file_line_and_field() {
        for (from, to, expected) in [
            ("stable: 1.0.0", "stabel: 1.0.0", ":5: models.iris.stabel: unknown field `stabel`"),
            ("stable: 1.0.0", "stable: 1.0", ":5: models.iris.stable: `1.0` is not a version"),
            ("default: iris", "default: rose", ":2: default: `rose` is not one of `models`"),
            ("iris:\n", "Iris:\n", ":4: models"),
            ("mainstay/v1", "mainstay/v9", ":1: apiVersion: `mainstay/v9` is not known"),
            ("[2.6.0]", "[2.3.1]", ":8: models.pred-main.preview[0]: is the stable version already"),
            ("[2.6.0]", "[2.6.0, 2.6.0]", ":8: models.pred-main.preview[1]: stands twice"),
            ("[2.6.0]", "&a [2.6.0]", "serving.yaml:8"),
            ("default: iris\n", "", "missing field `default`"),
            ("default: iris\n", "default: iris\ndefault: iris\n", ":3"),
            ("    stable: 1.0.0\n", "    stable: [\n", "serving.yaml:"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let message = refusal(&text);
            assert!(message.starts_with("environments/prod/serving.yaml:"), "{message}");
            assert!(message.contains(expected), "{message}\n  should contain {expected}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_group_names_two_models_that_are_served_and_in_no_other_group() {
        let with = |groups: &str| format!("{GOOD}  other:\n    stable: 1.0.0\ntogether:\n{groups}");
        let serving = Serving::parse("", with("  - [pred-main, iris]\n").as_bytes()).unwrap();
        let names: Vec<_> = serving.together[0].iter().map(ModelName::as_str).collect();
        assert_eq!((serving.together.len(), names), (1, vec!["iris", "pred-main"]));
        assert!(Serving::parse("", GOOD.as_bytes()).unwrap().together.is_empty());
        for (groups, expected) in [
            ("  - [iris]\n", ":12: together[0]: names fewer than two models"),
            ("  - []\n", ":12: together[0]: names fewer than two models"),
            ("  - [iris, rose]\n", ":12: together[0][1]: `rose` is not one of `models`"),
            ("  - [iris, iris]\n", ":12: together[0][1]: `iris` stands twice"),
            ("  - [iris, other]\n  - [pred-main, iris]\n", ":13: together[1][1]: `iris` is in another group already"),
            ("  - iris\n", ":12: together[0]"),
        ] {
            let message = refusal(&with(groups));
            assert!(message.contains(expected), "{message}\n  should contain {expected}");
        }
    }

    #[test]
    fn moves_name_what_changed_and_nothing_else() {
        let old = Serving::parse("", GOOD.as_bytes()).unwrap();
        assert!(old.moves_from(Some(&old)).is_empty());
        let new = GOOD.replace("1.0.0", "1.1.0").replace("[2.6.0]", "[2.7.0]");
        let new = Serving::parse("", new.as_bytes()).unwrap();
        let show = |m: &Move| {
            let version = |v: &Option<Version>| v.as_ref().map_or("-".to_owned(), ToString::to_string);
            format!("{} {:?} {} {}", m.model, m.role, version(&m.from), version(&m.to))
        };
        let moves: Vec<_> = new.moves_from(Some(&old)).iter().map(show).collect();
        assert_eq!(moves, ["iris Stable 1.0.0 1.1.0", "pred-main Preview 2.6.0 -", "pred-main Preview - 2.7.0"]);
        assert_eq!(old.moves_from(None).len(), 3);
    }

    #[test]
    fn a_file_that_would_grow_or_nest_without_end_is_refused() {
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n";
        assert!(refusal(bomb).contains("serving.yaml"));
        assert!(refusal(&"[".repeat(100_000)).contains("serving.yaml"));
        assert!(refusal(&" ".repeat(yaml::FILE_BYTES_MAX + 1)).contains("more than"));
    }
}
