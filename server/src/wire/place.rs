//! Where in a body of JSON something stands: the path that an error gives to who sent it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::de::SliceRead;
use serde_path_to_error::{Deserializer, Segment, Track};

use super::excerpt;

/// The path of a body as a whole.
pub const BODY: &str = "body";

/// Where the value at hand of some rows stands.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// What holds the rows, such as `instances`; empty where it is the body.
    holder: String,
    /// How the row at hand is written in it.
    pub(super) form: Form,
}

/// How a row is written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Form {
    /// It is the holder: an object with a value for each feature.
    #[default]
    Holder,
    /// An object in the holder, which is a list.
    Record,
    /// A list in the holder; no value of it is at hand.
    Row,
    /// The same; the value at hand is the one at this place in it.
    List(usize),
    /// A value in each of the holder's lists, which there is one of for each feature.
    Columns,
}

impl Place {
    /// Goes to rows that are held elsewhere.
    pub(super) fn enter(&mut self, holder: String) {
        *self = Self { holder, form: Form::Holder };
    }

    /// Where the value of `feature` of the row `row` stands, or would.
    pub(super) fn path(&self, row: usize, feature: &str) -> String {
        let Self { holder, form } = self;
        let dot = if holder.is_empty() { "" } else { "." };
        match form {
            Form::Holder => format!("{holder}{dot}{feature}"),
            Form::Record => format!("{holder}[{row}].{feature}"),
            Form::Row => format!("{holder}[{row}]"),
            Form::List(at) => format!("{holder}[{row}][{at}]"),
            Form::Columns => format!("{holder}{dot}{feature}[{row}]"),
        }
    }

    /// Where the rows are held.
    pub(super) fn list(&self) -> &str {
        if self.holder.is_empty() { BODY } else { &self.holder }
    }
}

/// Where `parse` fails to read `body`. It reads it once more: nobody else pays for keeping count of the place.
pub fn of_failure<T>(
    body: &[u8],
    parse: impl FnOnce(Deserializer<'_, '_, &mut serde_json::Deserializer<SliceRead<'_>>>) -> serde_json::Result<T>,
) -> String {
    let mut track = Track::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let _ = parse(Deserializer::new(&mut json, &mut track));
    let mut path = String::new();
    for segment in &track.path() {
        match segment {
            Segment::Seq { index } => path.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&excerpt(key));
            }
            // A key that is no text, after which there is nothing.
            Segment::Unknown => {}
        }
    }
    if path.is_empty() { BODY.to_owned() } else { path }
}

/// Where `body` ceases to be JSON.
pub(super) fn of_no_json(body: &[u8]) -> String {
    of_failure(body, |json| Anything::deserialize(json))
}

/// Any value, looked into and not kept.
struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Anything {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, Self>()?.is_some() {}
        Ok(self)
    }
}
