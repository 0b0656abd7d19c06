//! JSON records keyed by feature name: the dialect of `POST /predict`.
//!
//! A body is a list of records, one record, or `{"instances": […]}` around a list; a record may also be
//! a list of values in the order of the model's features. Values go straight into the rows: no JSON
//! document is built in between, so that a body costs no more memory than its rows.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::place::{self, Form, Place};
use super::{DecodeError, RowsBuilder, Signature};
use crate::rows::{Cell, Rows};

/// The rows that `body` asks about; at most `rows_max` of them.
pub fn decode(signature: &Signature, body: &[u8], rows_max: usize) -> Result<Rows, DecodeError> {
    let plain = signature.plain.as_ref().and_then(|plain| plain.decode(body, rows_max));
    plain.map_or_else(|| decode_carefully(signature, body, rows_max), Ok)
}

/// The same, whatever the body looks like.
pub(super) fn decode_carefully(signature: &Signature, body: &[u8], rows_max: usize) -> Result<Rows, DecodeError> {
    read(signature, body, rows_max, &Records)
}

/// How a dialect reads its body.
pub(super) trait Dialect {
    /// Reads it into the rows of `state`.
    fn parse<'de, D: Deserializer<'de>>(&self, state: Shared<'_, '_>, json: D) -> Result<(), D::Error>;
}

struct Records;

impl Dialect for Records {
    fn parse<'de, D: Deserializer<'de>>(&self, state: Shared<'_, '_>, json: D) -> Result<(), D::Error> {
        Body(state).deserialize(json)
    }
}

/// The rows that `dialect` finds in `body`.
pub(super) fn read(
    signature: &Signature,
    body: &[u8],
    rows_max: usize,
    dialect: &impl Dialect,
) -> Result<Rows, DecodeError> {
    let fresh = || {
        let rows = RowsBuilder { place: Some(Place::default()), ..RowsBuilder::new(signature, rows_max) };
        RefCell::new(State { rows, feature: None, is_in_value: false, too_many: false })
    };
    let state = fresh();
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = dialect.parse(&state, &mut json).and_then(|()| json.end());
    let mut state = state.into_inner();
    match parsed {
        Ok(()) => state.rows.finish(),
        Err(_) if state.too_many => Err(DecodeError::TooManyRows { rows_max }),
        Err(error) => match (no_value_at(body, &error), state.feature) {
            // Not JSON, but what several JSON writers write for a value: say which one it is.
            (Some(got), Some(column)) if state.is_in_value => {
                let name = signature.features[column].name.clone();
                state.rows.fault(name, signature.expected(column), got.to_owned());
                Err(DecodeError::Invalid(state.rows.details))
            }
            _ => {
                let problem = format!("the body is not a list of records as JSON: {error}");
                let path = place::of_failure(body, |json| dialect.parse(&fresh(), json));
                Err(DecodeError::malformed_at(path, problem, "a list of records as JSON", &error.to_string()))
            }
        },
    }
}

/// What is written in place of a value at which parsing stopped.
fn no_value_at(body: &[u8], error: &serde_json::Error) -> Option<&'static str> {
    // The library has no kinds for these; a test holds it to its words.
    let said = error.to_string();
    if said.starts_with("number out of range") {
        return Some("a number too large for any float");
    }
    if said.starts_with("lone leading surrogate") || said.starts_with("unexpected end of hex escape") {
        return Some("a text with half a surrogate pair");
    }
    non_finite_at(body, error)
}

/// The literal `NaN`, `Infinity` or `-Infinity` at which parsing stopped.
fn non_finite_at(body: &[u8], error: &serde_json::Error) -> Option<&'static str> {
    let line = body.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    // The column counts the bytes read, up to the one or two that were not expected.
    let starts = [2, 1].into_iter().filter_map(|back| line.get(error.column().checked_sub(back)?..));
    starts
        .flat_map(|rest| ["NaN", "Infinity", "-Infinity"].into_iter().filter(move |l| rest.starts_with(l.as_bytes())))
        .next()
}

pub(super) struct State<'s> {
    pub(super) rows: RowsBuilder<'s>,
    /// The column whose value is being read, or was last.
    feature: Option<usize>,
    /// Whether one is being read.
    is_in_value: bool,
    too_many: bool,
}

impl State<'_> {
    pub(super) fn begin_row<E: Error>(&mut self) -> Result<(), E> {
        self.too_many = !self.rows.begin_row();
        if self.too_many { Err(E::custom("too many rows")) } else { Ok(()) }
    }

    /// Goes to a row of which only the value in `column` comes next.
    pub(super) fn go_to<E: Error>(&mut self, row: usize, column: usize) -> Result<(), E> {
        self.set_form(Form::Columns);
        self.too_many = !self.rows.go_to(row, column);
        if self.too_many { Err(E::custom("too many rows")) } else { Ok(()) }
    }
}

impl State<'_> {
    /// Goes to the rows that `holder` has.
    pub(super) fn enter(&mut self, holder: impl Into<String>) {
        if let Some(place) = &mut self.rows.place {
            place.enter(holder.into());
        }
    }

    /// Says how the value that comes next is written.
    pub(super) fn set_form(&mut self, form: Form) {
        if let Some(place) = &mut self.rows.place {
            place.form = form;
        }
    }
}

pub(super) type Shared<'a, 's> = &'a RefCell<State<'s>>;

/// The whole body.
struct Body<'a, 's>(Shared<'a, 's>);

impl<'de> DeserializeSeed<'de> for Body<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Body<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records, one record, or {\"instances\": [records]}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Instances(self.0).visit_seq(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut first = map.next_key_seed(KeyOf(self.0))?;
        // The keys may come in any order.
        let has_parameters = matches!(&first, Some(Key::Unknown(name)) if name == "parameters");
        if has_parameters {
            map.next_value::<IgnoredAny>()?;
            first = map.next_key_seed(KeyOf(self.0))?;
        }
        // A feature of that name comes first.
        if !matches!(&first, Some(Key::Unknown(name)) if name == "instances") {
            if has_parameters {
                return Err(A::Error::custom("`parameters` is no feature, and no `instances` follow it"));
            }
            return read_record(self.0, map, first);
        }
        self.0.borrow_mut().enter("instances");
        map.next_value_seed(Instances(self.0))?;
        // KServe's V1 protocol allows `parameters` beside the instances; no model of ours takes any.
        while let Some(key) = map.next_key::<String>()? {
            if key != "parameters" {
                return Err(A::Error::custom(format_args!("`{}` beside `instances`", super::excerpt(&key))));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// A list of records.
pub(super) struct Instances<'a, 's>(pub(super) Shared<'a, 's>);

impl<'de> DeserializeSeed<'de> for Instances<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Instances<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Record(self.0))?.is_some() {}
        Ok(())
    }
}

/// One record: an object keyed by feature name, or a list in the features' order.
struct Record<'a, 's>(Shared<'a, 's>);

impl<'de> DeserializeSeed<'de> for Record<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Record<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record {\"feature\": value, …}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.borrow_mut().set_form(Form::Record);
        let first = map.next_key_seed(KeyOf(self.0))?;
        read_record(self.0, map, first)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.borrow_mut().begin_row()?;
        let columns = self.0.borrow().rows.signature.features.len();
        for column in 0..columns {
            self.0.borrow_mut().set_form(Form::List(column));
            if list.next_element_seed(Value { state: self.0, key: Key::Column(column) })?.is_none() {
                break;
            }
        }
        if list.next_element::<IgnoredAny>()?.is_some() {
            let mut state = self.0.borrow_mut();
            state.set_form(Form::List(columns));
            let names = state.rows.signature.names();
            state.rows.fault(format!("[{columns}]"), names, format!("more than {columns} values"));
            drop(state);
            while list.next_element::<IgnoredAny>()?.is_some() {}
        }
        self.0.borrow_mut().set_form(Form::Row);
        self.0.borrow_mut().rows.end_row();
        Ok(())
    }
}

fn read_record<'de, A: MapAccess<'de>>(state: Shared<'_, '_>, mut map: A, first: Option<Key>) -> Result<(), A::Error> {
    state.borrow_mut().begin_row()?;
    let mut next = first;
    while let Some(key) = next {
        map.next_value_seed(Value { state, key })?;
        next = map.next_key_seed(KeyOf(state))?;
    }
    state.borrow_mut().rows.end_row();
    Ok(())
}

/// Where a record's value belongs.
pub(super) enum Key {
    Column(usize),
    /// No feature is called so.
    Unknown(String),
}

impl Key {
    /// Where the value called `name` of the record at hand belongs.
    pub(super) fn of(name: &str, state: Shared<'_, '_>) -> Self {
        let state = state.borrow();
        let Signature { features, column_of, .. } = state.rows.signature;
        // Clients write the features in the model's order, row after row.
        let next = state.feature.map_or(0, |column| column + 1) % features.len().max(1);
        if features.get(next).is_some_and(|feature| feature.name == name) {
            return Self::Column(next);
        }
        column_of.get(name).map_or_else(|| Self::Unknown(name.to_owned()), |&column| Self::Column(column))
    }
}

/// A record's key, looked up while it is read: the name of a feature takes no memory.
struct KeyOf<'a, 's>(Shared<'a, 's>);

impl<'de> DeserializeSeed<'de> for KeyOf<'_, '_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf<'_, '_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a feature")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key, E> {
        Ok(Key::of(name, self.0))
    }
}

/// One value, which goes into the row at hand.
pub(super) struct Value<'a, 's> {
    pub(super) state: Shared<'a, 's>,
    pub(super) key: Key,
}

impl Value<'_, '_> {
    fn set(self, cell: &Cell<'_>) {
        let state = &mut *self.state.borrow_mut();
        state.is_in_value = false;
        let rows = &mut state.rows;
        match self.key {
            Key::Column(column) => rows.set(column, cell),
            Key::Unknown(name) => rows.unknown(&name),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let mut state = self.state.borrow_mut();
        state.is_in_value = true;
        state.feature = match self.key {
            Key::Column(column) => Some(column),
            Key::Unknown(_) => None,
        };
        drop(state);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.set(&Cell::Number(number));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.set(&i64::try_from(number).map_or(Cell::Large(number), Cell::Integer));
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.set(&Cell::Integer(number));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.set(&Cell::Text(text));
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.set(&Cell::Truth(value));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.set(&Cell::Other("null"));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        self.set(&Cell::Other("a list"));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.set(&Cell::Other("an object"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Detail;
    use crate::wire::test_signatures::{matrix, shipped};

    const FIRST_REQUEST: &str = r#"[
        {"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.1, "petal width (cm)": 0.2},
        {"petal width (cm)": 1.8, "sepal length (cm)": 6.3, "sepal width (cm)": 2.9, "petal length (cm)": 6}]"#;

    fn iris(body: &str) -> Result<Array2<f32>, DecodeError> {
        decode(&shipped("iris"), body.as_bytes(), 100).map(matrix)
    }

    fn details(body: &str) -> Vec<Detail> {
        match iris(body) {
            Err(DecodeError::Invalid(details)) => details,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn records_in_every_form_give_the_same_rows() {
        let rows = iris(FIRST_REQUEST).unwrap();
        assert_eq!(rows, ndarray::array![[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.0, 1.8]]);
        assert_eq!(iris(&format!(r#"{{"instances": {FIRST_REQUEST}, "parameters": {{"a": [1]}}}}"#)).unwrap(), rows);
        assert_eq!(iris(&format!(r#"{{"parameters": {{"a": [1]}}, "instances": {FIRST_REQUEST}}}"#)).unwrap(), rows);
        assert_eq!(iris(r#"{"instances": [[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6, 1.8]]}"#).unwrap(), rows);
        let one = FIRST_REQUEST.split_inclusive('}').next().unwrap().trim_start_matches('[');
        assert_eq!(iris(one).unwrap(), rows.slice(ndarray::s![..1, ..]));
        assert_eq!(iris(&one.replace("sepal", "\\u0073epal")).unwrap().nrows(), 1);
    }

    #[test]
    fn a_category_travels_as_its_index() {
        let row = |kind: &str| {
            let body = format!(
                r#"{{"type": {kind}, "air temperature [K]": 300, "process temperature [K]": 310,
                   "rotational speed [rpm]": 1500, "torque [Nm]": 40, "tool wear [min]": 0}}"#
            );
            decode(&shipped("pred-main"), body.as_bytes(), 1)
        };
        assert_eq!(matrix(row(r#""L""#).unwrap())[[0, 0]], 0.0);
        assert_eq!(matrix(row(r#""H""#).unwrap())[[0, 0]], 2.0);
        for bad in [r#""X""#, "0", "null"] {
            let Err(DecodeError::Invalid(details)) = row(bad) else { panic!("{bad}") };
            assert_eq!((details[0].feature.as_str(), details[0].expected.as_str()), ("type", "one of L, M, H"));
        }
    }

    #[test]
    fn every_fault_names_its_row_and_feature() {
        let body = FIRST_REQUEST.replace("\"petal width (cm)\": 0.2", "\"petal wdith (cm)\": 0.2");
        let shown: Vec<_> = details(&body).into_iter().map(|d| (d.row, d.feature, d.got)).collect();
        assert_eq!(
            shown,
            [
                (0, "petal wdith (cm)".to_owned(), "an unknown feature".to_owned()),
                (0, "petal width (cm)".to_owned(), "nothing".to_owned())
            ]
        );
        for (value, got) in [
            ("\"1.8\"", "the text \"1.8\""),
            ("null", "null"),
            ("true", "true"),
            ("[1.8]", "a list"),
            ("{\"a\": 1}", "an object"),
            ("1e39", "1e39"),
            ("NaN", "NaN"),
            ("Infinity", "Infinity"),
            ("-Infinity", "-Infinity"),
            ("1e400", "a number too large for any float"),
            ("\"\\ud800\"", "a text with half a surrogate pair"),
            ("\"\\ud800\\u0041\"", "a text with half a surrogate pair"),
        ] {
            let details = details(&FIRST_REQUEST.replace("1.8", value));
            assert_eq!((details[0].row, details[0].feature.as_str()), (1, "petal width (cm)"), "{value}");
            assert!(details[0].expected.starts_with("a finite number, usually 0.1 to 2.5 cm"), "{value}");
            assert_eq!(details[0].got, got);
        }
        assert_eq!(details(r#"{"petal width (cm)": 1, "petal width (cm)": 2}"#)[0].got, "it twice");
        assert_eq!(details("[[1, 2, 3, 4, 5, 6]]")[0].got, "more than 4 values");
        assert_eq!(details("[[1, 2, 3]]")[0].feature, "petal width (cm)");
        assert_eq!(details("[{}, {}, {}, {}, {}, {}, {}]").len(), 20);
    }

    #[test]
    fn what_is_not_a_list_of_records_is_told_its_place() {
        for (body, path) in [
            ("", "body"),
            ("[", "body"),
            ("[{}", "body"),
            ("null", "body"),
            ("1", "body"),
            ("\"a\"", "body"),
            ("[1]", "[0]"),
            ("[{}, null]", "[1]"),
            ("[]", "body"),
            ("{\"instances\": {}}", "instances"),
            ("{\"instances\": []}", "instances"),
            ("{\"instances\": [[1, 2, 3, 4], 5]}", "instances[1]"),
            ("[{}] []", "body"),
            ("[{},]", "body"),
            ("{\"instances\": [], \"extra\": 1}", "body"),
            ("{\"parameters\": 1, \"a\": 1}", "body"),
            ("[{}, {\"a\": 1e400}]", "[1].a"),
            ("[{\"a\": NaN}]", "[0].a"),
            ("[{\"sepal length (cm)\": 1, \"\\ud800\": 1}]", "[0]"),
            ("[{\"sepal length (cm)\": 1x}]", "[0]"),
            ("[{\"sepal length (cm)\": x}]", "[0].sepal length (cm)"),
        ] {
            match iris(body) {
                Err(DecodeError::Malformed { fault: Some(fault), .. }) => assert_eq!(fault.path, path, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        let deepest = iris(&"[".repeat(100_000)).unwrap_err();
        assert!(
            matches!(&deepest, DecodeError::Malformed { fault: Some(fault), .. } if fault.path == "[0][0][0]"),
            "{deepest:?}"
        );
        assert!(iris("[[1], 2]").unwrap_err().to_string().ends_with(" (in [1])"));
        let deep = format!("[{{\"sepal length (cm)\": {}{}}}]", "[".repeat(100_000), "]".repeat(100_000));
        // Passed over without recursion.
        assert_eq!(details(&deep)[0].got, "a list");
    }

    #[test]
    fn every_fault_of_a_value_has_its_path() {
        let paths = |body: &str| details(body).into_iter().map(|d| d.path.unwrap()).collect::<Vec<_>>();
        let record = |value: &str| {
            format!(
                r#"{{"sepal length (cm)": {value}, "sepal width (cm)": 1, "petal length (cm)": 1, "petal width (cm)": 1}}"#
            )
        };
        let (good, bad) = (record("1"), record("null"));
        assert_eq!(paths(&bad), ["sepal length (cm)"]);
        assert_eq!(paths(&format!("[{good}, {bad}]")), ["[1].sepal length (cm)"]);
        assert_eq!(paths(&format!(r#"{{"instances": [{good}, {bad}]}}"#)), ["instances[1].sepal length (cm)"]);
        assert_eq!(paths(&format!("[{}]", record("1e400"))), ["[0].sepal length (cm)"]);
        assert_eq!(paths("[[1, 2, 3, 4], [1, 2, null, 4, 5]]"), ["[1][2]", "[1][4]"]);
        assert_eq!(paths(r#"{"instances": [[1, 2, NaN, 4]]}"#), ["instances[0][2]"]);
        assert_eq!(paths(r#"[[1, 2]]"#), ["[0]", "[0]"]);
        assert_eq!(paths(&format!("[{}]", good.replace('{', r#"{"colour": 1, "#))), ["[0].colour"]);
        let without = good.replace(r#", "petal width (cm)": 1"#, "");
        assert_eq!(paths(&format!("[{without}]")), ["[0].petal width (cm)"]);
    }

    #[test]
    fn rows_beyond_the_limit_are_refused() {
        let body = format!("[{}]", vec!["[1,2,3,4]"; 101].join(","));
        assert_eq!(iris(&body), Err(DecodeError::TooManyRows { rows_max: 100 }));
        assert_eq!(iris(&body.replacen("[1,2,3,4],", "", 1)).unwrap().nrows(), 100);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&shipped("iris"), &body, 3);
        }

        #[test]
        fn no_almost_right_body_makes_the_decoder_panic(body in "[\\[\\]{}:, 0-9.eE\"NanIfity-]{0,60}") {
            let _ = iris(&body);
        }

        #[test]
        fn rows_arrive_in_order_and_unchanged(rows in prop::collection::vec(any::<[i16; 4]>(), 1..20)) {
            let body = serde_json::to_vec(&rows).unwrap();
            let decoded = matrix(decode(&shipped("iris"), &body, 20).unwrap());
            let expected: Vec<f32> = rows.iter().flatten().map(|v| f32::from(*v)).collect();
            prop_assert_eq!(decoded.into_raw_vec_and_offset().0, expected);
        }
    }
}
