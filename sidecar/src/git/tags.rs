//! Chooses the tag that a range of versions means, among all that a remote advertises.
//!
//! Looks at each advertised name twice and keeps only the best, so that a hundred thousand cost no memory here.

use std::collections::BTreeMap;

use semver::{Version, VersionReq};

/// The longest name of a tag that is looked at.
const NAME_BYTES_MAX: usize = 256;

/// Why a range means no tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoTag {
    /// No tag in the range.
    None {
        /// How many tags are versions.
        versions: usize,
    },
    /// Tags of the same version that point to different commits, such as `v1.2.3` and `1.2.3`.
    Ambiguous(String, String),
}

/// The full name and the commit of the highest version in `range`.
///
/// `heads` are names as a remote advertises them: an annotated tag comes once by its name and once, with `^{}` after
/// it, as what it points to in the end.
pub fn highest<'a, T: Copy + Eq>(
    range: &VersionReq,
    heads: impl Iterator<Item = (&'a str, T)> + Clone,
) -> Result<(String, T), NoTag> {
    let mut versions = 0;
    let mut best: Option<Version> = None;
    for (name, _) in heads.clone() {
        let Some((_, version, peeled)) = version_tag(name) else { continue };
        versions += usize::from(!peeled);
        if range.matches(&version) && best.as_ref().is_none_or(|best| version.cmp_precedence(best).is_gt()) {
            best = Some(version);
        }
    }
    let best = best.ok_or(NoTag::None { versions })?;
    // What follows the plus sign does not order versions, and a `v` does not either: there may be several.
    let mut found: BTreeMap<&str, (T, bool)> = BTreeMap::new();
    for (name, id) in heads {
        let Some((name, version, peeled)) = version_tag(name) else { continue };
        if version.cmp_precedence(&best).is_eq() && (peeled || !found.get(name).is_some_and(|(_, peeled)| *peeled)) {
            found.insert(name, (id, peeled));
        }
    }
    let mut found = found.into_iter();
    let (name, (id, _)) = found.next().expect("the best was found among the same names");
    match found.find(|(_, (other, _))| *other != id) {
        Some((other, _)) => Err(NoTag::Ambiguous(short(name), short(other))),
        None => Ok((name.to_owned(), id)),
    }
}

/// The full name of a tag that is a version, the version, and whether what it points to is meant.
fn version_tag(name: &str) -> Option<(&str, Version, bool)> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let (name, peeled) = name.strip_suffix("^{}").map_or((name, false), |name| (name, true));
    let tag = name.strip_prefix("refs/tags/")?;
    let version = Version::parse(tag.strip_prefix('v').unwrap_or(tag)).ok()?;
    Some((name, version, peeled))
}

fn short(name: &str) -> String {
    name.trim_start_matches("refs/tags/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(range: &str, heads: &[(&str, u32)]) -> Result<(String, u32), NoTag> {
        highest(&VersionReq::parse(range).unwrap(), heads.iter().copied())
    }

    #[test]
    fn the_highest_version_in_the_range_is_chosen() {
        let heads = [
            ("HEAD", 9),
            ("refs/heads/v1.9.0", 8),
            ("refs/tags/1.2.10", 1),
            ("refs/tags/nightly", 7),
            ("refs/tags/v1.10.0", 2),
            ("refs/tags/v1.2.3", 3),
            ("refs/tags/v1.11.0-rc.1", 4),
            ("refs/tags/v2.0.0", 5),
            ("refs/tags/v1.99", 6),
        ];
        for (range, expected) in [
            ("^1", "v1.10.0"),
            ("~1.2", "1.2.10"),
            (">=1.0, <2", "v1.10.0"),
            ("1.*", "v1.10.0"),
            ("*", "v2.0.0"),
            ("=1.2.3", "v1.2.3"),
            // A pre-release only where the range asks for it.
            (">=1.11.0-rc.0, <2", "v1.11.0-rc.1"),
        ] {
            assert_eq!(short(&choose(range, &heads).unwrap().0), expected, "{range}");
        }
        assert_eq!(choose("^3", &heads), Err(NoTag::None { versions: 5 }));
        assert_eq!(choose("~1.11", &heads), Err(NoTag::None { versions: 5 }));
    }

    #[test]
    fn an_annotated_tag_is_what_it_points_to() {
        let heads = [("refs/tags/v1.0.0", 1), ("refs/tags/v1.0.0^{}", 2)];
        assert_eq!(choose("^1", &heads), Ok(("refs/tags/v1.0.0".to_owned(), 2)));
        let turned = [heads[1], heads[0]];
        assert_eq!(choose("^1", &turned), Ok(("refs/tags/v1.0.0".to_owned(), 2)));
    }

    #[test]
    fn two_spellings_of_a_version_must_mean_one_commit() {
        let same = [("refs/tags/1.0.0", 2), ("refs/tags/v1.0.0", 1), ("refs/tags/v1.0.0^{}", 2)];
        assert_eq!(choose("^1", &same), Ok(("refs/tags/1.0.0".to_owned(), 2)));
        for other in ["refs/tags/1.0.0", "refs/tags/v1.0.0+b"] {
            let heads = [(other, 3), ("refs/tags/v1.0.0", 1), ("refs/tags/v1.0.0^{}", 2)];
            assert!(matches!(choose("^1", &heads), Err(NoTag::Ambiguous(..))), "{other}");
        }
    }
}
