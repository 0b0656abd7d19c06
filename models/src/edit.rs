//! Changes a serving.yaml as a careful person would: the few characters that matter, and nothing else.
//!
//! Guarantees: what comes out parses, and means what went in with the one change that was asked for; comments, order,
//! quotes and line ends stay. A file in which that cannot be done surely is left to a person. Places are found by the
//! parser; that the change is the right one is not believed but compared.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::{ModelName, Serving, Version, YamlError};

/// Why a file was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The file is not one that could be served.
    #[error(transparent)]
    Invalid(#[from] YamlError),
    /// It is written in a way that cannot surely be changed by a program.
    #[error("cannot change {file} in place, since {why}: say by hand that models.{model}.stable is {version}")]
    Unsure {
        /// The file.
        file: String,
        /// What stood in the way.
        why: String,
        /// The model to change.
        model: ModelName,
        /// The version that it was to have.
        version: Version,
    },
}

/// Where in the file the versions stand. Fields that are of no concern here are left to [`Serving`].
#[derive(Deserialize)]
struct Places {
    models: BTreeMap<ModelName, ModelPlaces>,
}

#[derive(Deserialize)]
struct ModelPlaces {
    stable: Spanned<Version>,
    preview: Option<Spanned<Vec<Spanned<Version>>>>,
}

/// One replacement: these bytes by that text.
type Change = (Range<usize>, String);

/// The text of `file` with `version` as the stable one of `model`, which need not be in it yet.
///
/// A version that was there for preview is so no longer.
pub fn with_stable(file: &str, text: &str, model: &ModelName, version: &Version) -> Result<String, EditError> {
    let unsure =
        |why: String| EditError::Unsure { file: file.to_owned(), why, model: model.clone(), version: version.clone() };
    let mut wanted = Serving::parse(file, text.as_bytes())?;
    let places: Places = serde_saphyr::from_str(text).map_err(|error| unsure(error.to_string()))?;
    let changes = match (wanted.models.get_mut(model), places.models.get(model)) {
        (Some(served), Some(places)) => {
            served.stable = version.clone();
            let mut changes = vec![replaced(text, &places.stable, version).map_err(&unsure)?];
            if served.preview.remove(version) {
                changes.extend(unpreviewed(text, places, version).map_err(&unsure)?);
            }
            changes
        }
        _ => {
            let alone =
                format!("apiVersion: mainstay/v1\ndefault: {model}\nmodels:\n  {model}:\n    stable: {version}\n");
            wanted.models.extend(Serving::parse(file, alone.as_bytes())?.models);
            vec![added(text, model, version).map_err(&unsure)?]
        }
    };
    let changed = apply(text, changes);
    match Serving::parse(file, changed.as_bytes()) {
        Ok(serving) if serving == wanted => Ok(changed),
        Ok(_) => Err(unsure("it would mean something else then".to_owned())),
        Err(error) => Err(unsure(format!("it would not be valid then ({error})"))),
    }
}

/// The bytes that a value takes in the text, without its quotes.
fn place(text: &str, value: &Spanned<Version>) -> Result<Range<usize>, String> {
    let strange = || format!("line {} writes a version in an unusual way", value.referenced.line());
    let start = value.referenced.span().byte_offset().ok_or_else(strange)?;
    let start = usize::try_from(start).map_err(|_| strange())?;
    let rest = text.get(start..).ok_or_else(strange)?;
    let quotes = usize::from(rest.starts_with(['"', '\'']));
    let written = value.value.to_string();
    if rest[quotes..].starts_with(&written) {
        Ok(start + quotes..start + quotes + written.len())
    } else {
        Err(strange())
    }
}

fn replaced(text: &str, value: &Spanned<Version>, version: &Version) -> Result<Change, String> {
    place(text, value).map(|range| (range, version.to_string()))
}

/// Takes `version` out of the model's versions for preview.
fn unpreviewed(text: &str, places: &ModelPlaces, version: &Version) -> Result<Vec<Change>, String> {
    let strange = || format!("the preview of {version} is written in an unusual way");
    let preview = places.preview.as_ref().map(|preview| &preview.value).ok_or_else(strange)?;
    let index = preview.iter().position(|item| item.value == *version).ok_or_else(strange)?;
    let item = place(text, &preview[index])?;
    let line = line_around(text, item.start);
    let written = text[line.clone()].trim();
    let unquoted = |text: &str| text.trim().trim_matches(['"', '\'']) == version.to_string();
    // `- 1.1.0`, perhaps with a comment that is about it.
    if let Some(rest) = written.strip_prefix("- ") {
        if !unquoted(rest.split(" #").next().unwrap_or(rest)) {
            return Err(strange());
        }
        let mut changes = vec![(line.clone(), String::new())];
        if preview.len() == 1 {
            let above = line.start.checked_sub(1).map(|end| line_around(text, end)).ok_or_else(strange)?;
            if text[above.clone()].trim() != "preview:" {
                return Err(strange());
            }
            changes.push((above, String::new()));
        }
        return Ok(changes);
    }
    // The list as the only thing of its line.
    let alone =
        written.strip_prefix("preview:").map(str::trim).and_then(|list| list.strip_prefix('[')?.strip_suffix(']'));
    if alone.is_some_and(unquoted) {
        return Ok(vec![(line, String::new())]);
    }
    // One of several in brackets, with the comma beside it.
    let item = match text[..item.start].chars().next_back() {
        Some('"' | '\'') => item.start - 1..item.end + 1,
        _ => item,
    };
    let range = match (index, preview.get(index + 1)) {
        (_, Some(next)) => item.start..place(text, next)?.start,
        (0, None) => item,
        (_, None) => place(text, &preview[index - 1])?.end..item.end,
    };
    // The quotes of a neighbour lie between; they are of the same kind on both sides of one comma.
    let between = text[range.clone()].replacen(&version.to_string(), "", 1);
    if between.chars().all(|c| c == ',' || c == ' ') { Ok(vec![(range, String::new())]) } else { Err(strange()) }
}

/// Adds the model after the others.
fn added(text: &str, model: &ModelName, version: &Version) -> Result<Change, String> {
    let end_of_line = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let says_something = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let (mut at, mut inside, mut first, mut step) = (0, false, None, None);
    let mut last = None;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        if !says_something(line) {
            continue;
        }
        if !inside {
            inside = line.strip_prefix("models:").is_some_and(|rest| !says_something(rest));
        } else if indent(line) == 0 {
            break;
        } else {
            let outer = *first.get_or_insert(indent(line));
            if indent(line) > outer {
                step.get_or_insert(indent(line) - outer);
            }
            last = Some(start + line.trim_end_matches(['\r', '\n']).len());
        }
    }
    let (Some(last), Some(first)) = (last, first) else {
        return Err("its models do not stand below one another".to_owned());
    };
    let (outer, inner) = (" ".repeat(first), " ".repeat(first + step.unwrap_or(2)));
    Ok((last..last, format!("{end_of_line}{outer}{model}:{end_of_line}{inner}stable: {version}")))
}

/// The bytes of the line in which `at` lies, with its end.
fn line_around(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |length| at + length + 1);
    start..end
}

fn apply(text: &str, mut changes: Vec<Change>) -> String {
    // From the end on, so that what comes before stays where it is.
    changes.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = text.to_owned();
    for (range, instead) in changes {
        text.replace_range(range, &instead);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "environments/dev/serving.yaml";

    fn roll(text: &str, model: &str, version: &str) -> Result<String, EditError> {
        with_stable(FILE, text, &model.parse().unwrap(), &version.parse().unwrap())
    }

    /// A file whose models are `models`, among things that must stay.
    fn file(models: &str) -> String {
        format!(
            "# Ours: ask Ada.\napiVersion: mainstay/v1\ndefault:   iris # bare\nmodels:\n{models}\nsync: auto # for now\n"
        )
    }

    #[test]
    fn only_the_version_changes_however_it_is_written() {
        for (before, after) in [
            ("  iris:\n    stable: 1.0.0 # since May\n", "  iris:\n    stable: 1.1.0 # since May\n"),
            ("  iris:\n    stable: \"1.0.0\"\n", "  iris:\n    stable: \"1.1.0\"\n"),
            ("  iris:\n    stable:   '1.0.0'\n", "  iris:\n    stable:   '1.1.0'\n"),
            ("  iris:\n    stable: >-\n      1.0.0\n", "  iris:\n    stable: >-\n      1.1.0\n"),
            ("  iris: { stable: 1.0.0 }\n", "  iris: { stable: 1.1.0 }\n"),
            ("    iris:\n        stable: 1.0.0\n", "    iris:\n        stable: 1.1.0\n"),
            (
                "  # one\n  iris:\n    preview: [2.0.0]\n    # two\n    stable: 1.0.0\n",
                "  # one\n  iris:\n    preview: [2.0.0]\n    # two\n    stable: 1.1.0\n",
            ),
            (
                "  # ünïcode 🔑\n  iris:\n    stable: 1.0.0\n  b:\n    stable: 1.0.0\n",
                "  # ünïcode 🔑\n  iris:\n    stable: 1.1.0\n  b:\n    stable: 1.0.0\n",
            ),
        ] {
            assert_eq!(roll(&file(before), "iris", "1.1.0").as_deref(), Ok(&*file(after)));
            let windows = |text: &str| file(text).replace('\n', "\r\n");
            assert_eq!(roll(&windows(before), "iris", "1.1.0").as_deref(), Ok(&*windows(after)));
        }
    }

    #[test]
    fn what_was_for_preview_is_so_no_longer() {
        for (before, after) in [
            ("preview: [1.1.0]\n    stable: 1.0.0\n", "stable: 1.1.0\n"),
            ("stable: 1.0.0\n    preview: ['1.1.0']\n", "stable: 1.1.0\n"),
            ("stable: 1.0.0\n    preview: [1.1.0] # try\n", "stable: 1.1.0\n    preview: [] # try\n"),
            ("stable: 1.0.0\n    preview: [1.1.0, 2.0.0]\n", "stable: 1.1.0\n    preview: [2.0.0]\n"),
            ("stable: 1.0.0\n    preview: [2.0.0, 1.1.0]\n", "stable: 1.1.0\n    preview: [2.0.0]\n"),
            ("stable: 1.0.0\n    preview: [2.0.0, 1.1.0, 3.0.0]\n", "stable: 1.1.0\n    preview: [2.0.0, 3.0.0]\n"),
            ("stable: 1.0.0\n    preview:\n      - 1.1.0 # new\n", "stable: 1.1.0\n"),
            (
                "stable: 1.0.0\n    preview:\n      - 2.0.0\n      - 1.1.0\n",
                "stable: 1.1.0\n    preview:\n      - 2.0.0\n",
            ),
        ] {
            let file = |model: &str| file(&format!("  iris:\n    {model}"));
            assert_eq!(roll(&file(before), "iris", "1.1.0").as_deref(), Ok(&*file(after)), "{before}");
        }
    }

    #[test]
    fn a_new_model_comes_after_the_others_and_looks_like_them() {
        let (before, after) =
            ("  iris:\n    stable: 1.0.0\n", "  iris:\n    stable: 1.0.0\n  pred-main:\n    stable: 2.0.0\n");
        assert_eq!(roll(&file(before), "pred-main", "2.0.0").as_deref(), Ok(&*file(after)));
        let before = "apiVersion: mainstay/v1\ndefault: iris\nmodels: # all\n    iris:\n        stable: 1.0.0";
        let after = format!("{before}\n    pred-main:\n        stable: 2.0.0");
        assert_eq!(roll(before, "pred-main", "2.0.0").as_deref(), Ok(&*after));
    }

    #[test]
    fn a_file_that_cannot_surely_be_changed_is_left_to_a_person() {
        for (models, model) in [
            ("  iris:\n    stable: \"1\\x2e0.0\"\n", "iris"),
            ("  iris:\n    stable: 1.0.0\n    preview: [\n      1.1.0, # new\n      2.0.0]\n", "iris"),
        ] {
            let refused = roll(&file(models), model, "1.1.0");
            assert!(matches!(refused, Err(EditError::Unsure { .. })), "{refused:?}");
        }
        let flow = "{apiVersion: mainstay/v1, default: iris, models: {iris: {stable: 1.0.0}}}\n";
        assert_eq!(roll(flow, "iris", "1.1.0").unwrap(), flow.replace("1.0.0", "1.1.0"));
        let refused = roll(flow, "pred-main", "1.1.0").unwrap_err().to_string();
        assert_eq!(
            refused,
            "cannot change environments/dev/serving.yaml in place, since its models do not stand below one another: \
             say by hand that models.pred-main.stable is 1.1.0"
        );
        assert!(matches!(roll("models: {}", "iris", "1.1.0"), Err(EditError::Invalid(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_strange_file_is_refused_or_changed_in_that_model_alone(
            at in any::<prop::sample::Index>(), length in 0usize..8, instead in "[ -~\n]{0,10}",
        ) {
            let good = file("  iris:\n    stable: 1.0.0\n    preview: [1.1.0, 2.0.0]\n  b:\n    stable: '3.0.0'\n");
            let at = at.index(good.len());
            let end = (at + length).min(good.len());
            let text = format!("{}{instead}{}", &good[..at], &good[end..]);
            if let Ok(changed) = roll(&text, "iris", "1.1.0") {
                let (before, after) = (Serving::parse("", text.as_bytes()).unwrap(), Serving::parse("", changed.as_bytes()).unwrap());
                prop_assert_eq!(after.models["iris"].stable.to_string(), "1.1.0");
                prop_assert!(after.moves_from(Some(&before)).iter().all(|moved| moved.model.as_str() == "iris"));
                prop_assert_eq!(after.policy, before.policy);
            }
        }
    }
}
