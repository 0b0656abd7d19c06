//! Names that become path segments, labels and URL segments: checked once, here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// The longest name, in bytes: a DNS label, so that it fits Kubernetes labels too.
const NAME_BYTES_MAX: usize = 63;
/// The longest version, in bytes.
const VERSION_BYTES_MAX: usize = 64;

/// A name or version that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is not a name.
    #[error(
        "`{got}` is not a name: use 1 to 63 of a-z, 0-9, `-`, `_` and `.`, starting and ending with a letter or digit"
    )]
    Name {
        /// What was given, cut to a printable length.
        got: String,
    },
    /// The text is not a version.
    #[error(
        "`{got}` is not a version: write MAJOR.MINOR.PATCH, for example 1.2.0 or 1.2.0-rc.1, without build metadata"
    )]
    Version {
        /// What was given, cut to a printable length.
        got: String,
    },
}

/// Enough of a foreign text to recognise it, without control characters, so that it is safe in a log or an answer.
fn excerpt(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}

fn check_name(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(b);
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let good = bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().all(inner)
        && edge(bytes.first())
        && edge(bytes.last())
        && !text.contains("..");
    if good { Ok(()) } else { Err(NameError::Name { got: excerpt(text) }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check_name(&text).map(|()| Self(text))
            }
        }

        // Every answer has one: `serde` would copy it before it writes it.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        // Lets maps keyed by the name be searched with text that came from a request.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a model, such as `pred-main`.
    ModelName
}
name! {
    /// The name of an environment, such as `prod`.
    EnvironmentName
}

/// The version of a model: semantic versioning 2.0.0 without build metadata, since two versions that
/// differ only there would be equal in precedence and yet two things.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Version(Arc<Spelled>);

/// A version, and the same in words, which every answer has.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Spelled {
    /// First, since it orders.
    semver: semver::Version,
    text: Box<str>,
}

impl Version {
    /// The version in words.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for Version {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError::Version { got: excerpt(text) };
        if text.len() > VERSION_BYTES_MAX {
            return Err(refuse());
        }
        let semver = semver::Version::parse(text).map_err(|_| refuse())?;
        if semver.build.is_empty() { Ok(Self(Arc::new(Spelled { semver, text: text.into() }))) } else { Err(refuse()) }
    }
}

impl TryFrom<String> for Version {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "../a", "a..b", ".git", "a.", "-a", "A", "ä", "a\0b", "a b", &"a".repeat(64)]
        {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
        for good in ["a", "iris", "pred-main", "v1.2_x", &"a".repeat(63)] {
            assert_eq!(good.parse::<ModelName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn versions_are_semantic_and_have_no_build_metadata() {
        for bad in ["", "1", "1.0", "v1.0.0", "1.0.0+a", "01.0.0", "1.0.0 ", "../1.0.0"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
        let order: Vec<Version> = ["1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0"].map(|v| v.parse().unwrap()).into();
        assert!(order.is_sorted());
    }

    proptest! {
        #[test]
        fn any_accepted_name_is_one_safe_path_segment(text in "\\PC{0,70}") {
            if let Ok(name) = text.parse::<ModelName>() {
                let mut parts = std::path::Path::new(name.as_str()).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }

        #[test]
        fn any_accepted_version_survives_the_round_trip(text in "[0-9.a-z+-]{1,20}") {
            if let Ok(version) = text.parse::<Version>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
