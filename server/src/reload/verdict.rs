//! Whether the models of a group move to the versions that a release asks for: all of them, or none.
//!
//! A pure function of what is known about each version. A model that is in no group is a group of one.

use std::collections::BTreeSet;

use mainstay_models::{ModelName, Release, ReleasedVersion, Version};

/// A version of a model, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub name: ModelName,
    pub version: Version,
    pub bytes: ReleasedVersion,
}

/// What becomes of a group's stable versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// These are not decided yet; what was served before stays meanwhile.
    Wait(Vec<Wanted>),
    /// Every one answers as it is asked for.
    Move,
    /// Every one stays as it was, since this one failed.
    Keep(Wanted),
    /// Every one answers as an earlier commit asked for it, since this one failed and not all were served before.
    FallBack(Wanted),
    /// Nothing answers, since an order said so; of one model, and nothing that [`decide`] says.
    Unloaded,
}

/// Decides about `group`. `loads` says whether a version can be had, or nothing where that is not known yet; `served`
/// says whether anything answered for a model before.
pub(super) fn decide(
    group: &BTreeSet<ModelName>,
    release: &Release,
    loads: impl Fn(&Wanted) -> Option<bool>,
    served: impl Fn(&ModelName) -> bool,
) -> Verdict {
    let asked: Vec<_> = group.iter().map(|name| stable(release, name)).collect();
    if let Some(failed) = asked.iter().find(|wanted| loads(wanted) == Some(false)) {
        let failed = failed.clone();
        let fallbacks: Vec<_> = group.iter().filter_map(|name| fallback(release, name)).collect();
        if group.iter().all(served) || fallbacks.len() < group.len() {
            return Verdict::Keep(failed);
        }
        return match undecided(&fallbacks, &loads) {
            _ if fallbacks.iter().any(|wanted| loads(wanted) == Some(false)) => Verdict::Keep(failed),
            Some(wait) => Verdict::Wait(wait),
            None => Verdict::FallBack(failed),
        };
    }
    undecided(&asked, &loads).map_or(Verdict::Move, Verdict::Wait)
}

fn undecided(wanted: &[Wanted], loads: impl Fn(&Wanted) -> Option<bool>) -> Option<Vec<Wanted>> {
    let undecided: Vec<_> = wanted.iter().filter(|wanted| loads(wanted).is_none()).cloned().collect();
    (!undecided.is_empty()).then_some(undecided)
}

/// The stable version that a release asks for.
pub(super) fn stable(release: &Release, name: &ModelName) -> Wanted {
    let model = &release.models[name];
    Wanted { name: name.clone(), version: model.stable.clone(), bytes: model.versions[&model.stable] }
}

/// The version that a release brings along for the case that the stable one does not load.
pub(super) fn fallback(release: &Release, name: &ModelName) -> Option<Wanted> {
    let fallback = release.models[name].fallback.as_ref()?;
    Some(Wanted { name: name.clone(), version: fallback.version.clone(), bytes: fallback.bytes })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mainstay_models::{Blob, Commit, Fallback, ReleasedModel};

    use super::*;

    fn bytes(text: &str) -> ReleasedVersion {
        ReleasedVersion { spec: Blob::of(text.as_bytes()), artifact: Blob::of(text.as_bytes()) }
    }

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    /// `a` and `b` move together, each from a fallback 1.0.0 to 2.0.0.
    fn release() -> Release {
        let id = "1".repeat(40).parse().unwrap();
        let commit = Commit { id, author: "Ada".to_owned(), subject: "Serve".to_owned(), time_unix_s: 0 };
        let model = |name: &str| {
            let fallback =
                Fallback { version: version("1.0.0"), bytes: bytes(&format!("{name} 1")), commit: commit.id.clone() };
            let versions = BTreeMap::from([(version("2.0.0"), bytes(&format!("{name} 2")))]);
            ReleasedModel { stable: version("2.0.0"), versions, fallback: Some(fallback) }
        };
        let models = BTreeMap::from(["a", "b"].map(|name| (name.parse().unwrap(), model(name))));
        let release =
            Release::new("prod".parse().unwrap(), commit.clone(), "a".parse().unwrap(), models, Vec::new()).unwrap();
        let group = release.models.keys().cloned().collect();
        release.moving_together(vec![group]).unwrap()
    }

    /// The verdict where it is known of these that they load, or do not, and where these were served before.
    fn verdict(known: &[(&str, &str, bool)], served: &[&str]) -> Verdict {
        let release = release();
        let loads = |wanted: &Wanted| {
            let is = |(name, version, _): &&(&str, &str, bool)| {
                wanted.name.as_str() == *name && wanted.version.to_string() == *version
            };
            known.iter().find(is).map(|(_, _, loads)| *loads)
        };
        decide(&release.together[0], &release, loads, |name| served.contains(&name.as_str()))
    }

    fn wanted(name: &str, number: &str) -> Wanted {
        let bytes = bytes(&format!("{name} {}", &number[..1]));
        Wanted { name: name.parse().unwrap(), version: version(number), bytes }
    }

    #[test]
    fn a_group_moves_when_all_of_it_can() {
        for served in [&["a", "b"][..], &[]] {
            assert_eq!(verdict(&[("a", "2.0.0", true)], served), Verdict::Wait(vec![wanted("b", "2.0.0")]));
            assert_eq!(verdict(&[("a", "2.0.0", true), ("b", "2.0.0", true)], served), Verdict::Move);
        }
    }

    #[test]
    fn a_group_stays_as_it_was_as_soon_as_one_of_it_fails() {
        for rest in [&[("a", "2.0.0", true)][..], &[], &[("a", "1.0.0", true), ("b", "1.0.0", true)]] {
            let known = [&[("b", "2.0.0", false)], rest].concat();
            assert_eq!(verdict(&known, &["a", "b"]), Verdict::Keep(wanted("b", "2.0.0")), "{known:?}");
        }
    }

    #[test]
    fn a_group_of_which_not_all_was_served_falls_back_as_a_whole_or_not_at_all() {
        let failed = ("a", "2.0.0", false);
        for served in [&["b"][..], &[]] {
            assert_eq!(verdict(&[failed], served), Verdict::Wait(vec![wanted("a", "1.0.0"), wanted("b", "1.0.0")]));
            let one = [failed, ("a", "1.0.0", true)];
            assert_eq!(verdict(&one, served), Verdict::Wait(vec![wanted("b", "1.0.0")]));
            let both = [failed, ("a", "1.0.0", true), ("b", "1.0.0", true)];
            assert_eq!(verdict(&both, served), Verdict::FallBack(wanted("a", "2.0.0")));
            let half = [failed, ("b", "1.0.0", false)];
            assert_eq!(verdict(&half, served), Verdict::Keep(wanted("a", "2.0.0")));
        }
    }
}
