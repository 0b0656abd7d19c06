//! The bodies that MLflow's scoring servers read: a data frame split or in records, instances, or inputs.
//!
//! Azure ML calls the split frame `input_data`. Values go straight into the rows; the body is read twice, since a frame's
//! columns may stand behind its data.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::place::{self, Form};
use super::records::{self, Dialect, Instances, Key, Shared, Value};
use super::{DecodeError, Signature, excerpt};
use crate::rows;

/// What a body has, without its values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outline {
    dataframe_split: Option<Object<SplitOutline>>,
    input_data: Option<Object<SplitOutline>>,
    dataframe_records: Option<IgnoredAny>,
    instances: Option<IgnoredAny>,
    inputs: Option<IgnoredAny>,
    /// For models that take parameters, which none of ours does.
    #[serde(rename = "params")]
    _params: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitOutline {
    columns: Option<Vec<String>>,
    #[serde(rename = "index")]
    _index: Option<IgnoredAny>,
    #[serde(rename = "data")]
    _data: IgnoredAny,
}

/// An object, where the library would also take a list of its values.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

/// The rows that `body` asks about, at most `rows_max` of them.
pub fn decode(signature: &Signature, body: &[u8], rows_max: usize) -> Result<rows::Rows, DecodeError> {
    let Object(outline): Object<Outline> = serde_json::from_slice(body).map_err(|e| {
        let text = excerpt(&e.to_string());
        let problem = format!("the body is not one that MLflow's servers read: {text}");
        let path = match e.is_data() {
            true => place::of_failure(body, |json| Object::<Outline>::deserialize(json)),
            // The outline passes over values, in one of which this may be.
            false => place::of_no_json(body),
        };
        DecodeError::malformed_at(path, problem, "a body that MLflow's servers read", &text)
    })?;
    let Outline { dataframe_split, input_data, dataframe_records, instances, inputs, .. } = outline;
    let given = [
        dataframe_split.is_some(),
        input_data.is_some(),
        dataframe_records.is_some(),
        instances.is_some(),
        inputs.is_some(),
    ];
    let count = given.into_iter().filter(|given| *given).count();
    if count != 1 {
        let forms = "exactly one of dataframe_split, dataframe_records, instances, inputs, and input_data";
        let (path, got) = (place::BODY.to_owned(), format!("{count} of them"));
        return Err(DecodeError::malformed_at(path, format!("send {forms}"), forms, &got));
    }
    let columns = dataframe_split.or(input_data).and_then(|Object(split)| split.columns);
    records::read(signature, body, rows_max, &Frames { columns: columns.as_deref() })
}

/// Bodies whose outline is known.
struct Frames<'a> {
    /// The names of a split frame's columns; without them the features' order holds.
    columns: Option<&'a [String]>,
}

impl Dialect for Frames<'_> {
    fn parse<'de, D: Deserializer<'de>>(&self, state: Shared<'_, '_>, json: D) -> Result<(), D::Error> {
        Top { state, columns: self.columns }.deserialize(json)
    }
}

/// The whole body.
struct Top<'a, 's> {
    state: Shared<'a, 's>,
    columns: Option<&'a [String]>,
}

impl<'de> DeserializeSeed<'de> for Top<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a data frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "dataframe_split" | "input_data" => {
                    self.state.borrow_mut().enter(format!("{key}.data"));
                    map.next_value_seed(Frame { state: self.state, columns: self.columns })?;
                }
                "dataframe_records" | "instances" => {
                    self.state.borrow_mut().enter(key);
                    map.next_value_seed(Instances(self.state))?;
                }
                "inputs" => {
                    self.state.borrow_mut().enter(key);
                    map.next_value_seed(Inputs(self.state))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Inputs: a list of rows, an object of columns, or an object with the model's one tensor.
struct Inputs<'a, 's>(Shared<'a, 's>);

impl<'de> DeserializeSeed<'de> for Inputs<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inputs<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows, or an object {\"feature\": [values], …}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Instances(self.0).visit_seq(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let state = self.0;
        let signature = state.borrow().rows.signature;
        let mut given = vec![false; signature.features.len()];
        // How many values the first column has, and its name.
        let mut first: Option<(usize, String)> = None;
        while let Some(name) = map.next_key::<String>()? {
            let Some(&column) = signature.column_of.get(&name) else {
                if first.is_none() && signature.is_of_one_tensor(&name) {
                    state.borrow_mut().enter(format!("inputs.{name}"));
                    map.next_value_seed(Instances(state))?;
                    return match map.next_key::<String>()? {
                        None => Ok(()),
                        Some(_) => Err(A::Error::custom(format_args!("something beside the tensor `{name}`"))),
                    };
                }
                map.next_value::<IgnoredAny>()?;
                let mut state = state.borrow_mut();
                state.set_form(Form::Holder);
                state.rows.unknown(&name);
                continue;
            };
            if std::mem::replace(&mut given[column], true) {
                return Err(A::Error::custom(format_args!("the column `{name}` twice")));
            }
            let values = map.next_value_seed(Column { state, column })?;
            match &first {
                None => first = Some((values, name)),
                Some((expected, _)) if values == *expected => {}
                Some((expected, of)) => {
                    return Err(A::Error::custom(format_args!(
                        "{values} values of `{name}`, and {expected} of `{of}`"
                    )));
                }
            }
        }
        let mut state = state.borrow_mut();
        state.set_form(Form::Holder);
        state.rows.end_columns(first.map_or(0, |(values, _)| values), given);
        Ok(())
    }
}

/// The values of one column, row by row; gives how many there are.
struct Column<'a, 's> {
    state: Shared<'a, 's>,
    column: usize,
}

impl<'de> DeserializeSeed<'de> for Column<'_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Column<'_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list with a value for each row")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<usize, A::Error> {
        let Self { state, column } = self;
        for row in 0.. {
            let value = ColumnValue { state, row, column };
            if list.next_element_seed(value)?.is_none() {
                return Ok(row);
            }
        }
        unreachable!("a list ends")
    }
}

/// A value of a column; its row begins only when there is one.
struct ColumnValue<'a, 's> {
    state: Shared<'a, 's>,
    row: usize,
    column: usize,
}

impl<'de> DeserializeSeed<'de> for ColumnValue<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { state, row, column } = self;
        state.borrow_mut().go_to(row, column)?;
        Value { state, key: Key::Column(column) }.deserialize(deserializer)
    }
}

/// A split frame: an object with its data, or the data, a list of rows.
struct Frame<'a, 's> {
    state: Shared<'a, 's>,
    columns: Option<&'a [String]>,
}

impl<'de> DeserializeSeed<'de> for Frame<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Frame<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a data frame {\"columns\", \"data\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "data" {
                map.next_value_seed(Rows { state: self.state, columns: self.columns })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The data of a split frame.
struct Rows<'a, 's> {
    state: Shared<'a, 's>,
    columns: Option<&'a [String]>,
}

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Some(columns) = self.columns else { return Instances(self.state).deserialize(deserializer) };
        deserializer.deserialize_seq(NamedRows { state: self.state, columns })
    }
}

struct NamedRows<'a, 's> {
    state: Shared<'a, 's>,
    columns: &'a [String],
}

impl<'de> Visitor<'de> for NamedRows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(NamedRow { state: self.state, columns: self.columns })?.is_some() {}
        Ok(())
    }
}

struct NamedRow<'a, 's> {
    state: Shared<'a, 's>,
    columns: &'a [String],
}

impl<'de> DeserializeSeed<'de> for NamedRow<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for NamedRow<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row, a list with a value for each column")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { state, columns } = self;
        state.borrow_mut().begin_row()?;
        for (read, name) in columns.iter().enumerate() {
            state.borrow_mut().set_form(Form::List(read));
            if list.next_element_seed(Value { state, key: Key::of(name, state) })?.is_none() {
                return Err(A::Error::custom(format_args!("a row of {read} values for {} columns", columns.len())));
            }
        }
        if list.next_element::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom(format_args!("a row of more values than the {} columns", columns.len())));
        }
        state.borrow_mut().set_form(Form::Row);
        state.borrow_mut().rows.end_row();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::test_signatures::{matrix, shipped};

    fn iris(body: &str) -> Result<Array2<f32>, DecodeError> {
        decode(&shipped("iris"), body.as_bytes(), 3).map(matrix)
    }

    const COLUMNS: &str = r#"["petal width (cm)", "sepal length (cm)", "sepal width (cm)", "petal length (cm)"]"#;

    #[test]
    fn every_form_of_a_frame_gives_the_same_rows() {
        let expected = ndarray::array![[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.3, 1.8]];
        let lists = "[[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.3, 1.8]]";
        let split = format!(
            r#"{{"columns": {COLUMNS}, "index": [0, 1], "data": [[0.2, 5.1, 3.5, 1.1], [1.8, 6.3, 2.9, 6.3]]}}"#
        );
        let late = format!(r#"{{"data": [[0.2, 5.1, 3.5, 1.1], [1.8, 6.3, 2.9, 6.3]], "columns": {COLUMNS}}}"#);
        let record = |values: [f32; 4]| {
            let [a, b, c, d] = values;
            format!(
                r#"{{"sepal length (cm)": {a}, "sepal width (cm)": {b}, "petal length (cm)": {c}, "petal width (cm)": {d}}}"#
            )
        };
        let records = format!("[{}, {}]", record([5.1, 3.5, 1.1, 0.2]), record([6.3, 2.9, 6.3, 1.8]));
        for body in [
            format!(r#"{{"dataframe_split": {split}}}"#),
            format!(r#"{{"params": {{"a": 1}}, "dataframe_split": {late}}}"#),
            format!(r#"{{"input_data": {split}}}"#),
            format!(r#"{{"dataframe_split": {{"data": {lists}}}}}"#),
            format!(r#"{{"dataframe_records": {records}}}"#),
            format!(r#"{{"instances": {lists}, "params": {{}}}}"#),
            format!(r#"{{"inputs": {records}}}"#),
            r#"{"inputs": {"petal width (cm)": [0.2, 1.8], "sepal length (cm)": [5.1, 6.3], "sepal width (cm)": [3.5, 2.9], "petal length (cm)": [1.1, 6.3]}}"#.to_owned(),
            format!(r#"{{"inputs": {{"features": {lists}}}}}"#),
        ] {
            assert_eq!(iris(&body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for (body, path) in [
            ("", "body"),
            ("[]", "body"),
            ("{}", "body"),
            ("[[5.1, 3.5, 1.1, 0.2]]", "body"),
            (r#"{"instances": [[1, 2, 3, 4]], "inputs": [[1, 2, 3, 4]]}"#, "body"),
            (r#"{"frame": []}"#, "frame"),
            (r#"{"instances": [], "instances": []}"#, "body"),
            (r#"{"inputs": {"petal width (cm)": 1}}"#, "inputs.petal width (cm)"),
            (r#"{"inputs": {"petal width (cm)": [1], "petal width (cm)": [1]}}"#, "inputs"),
            (r#"{"inputs": {"petal width (cm)": [1, 2], "sepal width (cm)": [1]}}"#, "inputs"),
            (r#"{"inputs": {"features": [[1, 2, 3, 4]], "petal width (cm)": [1]}}"#, "inputs"),
            (r#"{"inputs": {"petal width (cm)": [], "sepal width (cm)": []}}"#, "inputs"),
            (r#"{"inputs": {}}"#, "inputs"),
            (r#"{"inputs": [[1, 2, 3, 4], 7]}"#, "inputs[1]"),
            (r#"{"instances": {"petal width (cm)": [1]}}"#, "instances"),
            (r#"{"dataframe_records": [{"petal width (cm)": 1}, []], "params": 1x}"#, "body"),
            (r#"{"dataframe_records": []}"#, "dataframe_records"),
            (r#"{"dataframe_split": {"columns": ["petal width (cm)"], "data": [[1, 2]]}}"#, "dataframe_split.data[0]"),
            (
                r#"{"dataframe_split": {"columns": ["petal width (cm)", "sepal width (cm)"], "data": [[1, 2], [1]]}}"#,
                "dataframe_split.data[1]",
            ),
            (r#"{"dataframe_split": {"columns": [1], "data": []}}"#, "dataframe_split.columns[0]"),
            (r#"{"input_data": {"columns": ["petal width (cm)"], "data": []}}"#, "input_data.data"),
            (r#"{"dataframe_split": {"columns": ["petal width (cm)"]}}"#, "dataframe_split"),
            (r#"{"dataframe_split": [[1, 2, 3, 4]]}"#, "dataframe_split"),
        ] {
            match iris(body) {
                Err(DecodeError::Malformed { fault: Some(fault), .. }) => assert_eq!(fault.path, path, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        let unknown = r#"{"dataframe_split": {"columns": ["colour"], "data": [["blue"]]}}"#;
        let Err(DecodeError::Invalid(details)) = iris(unknown) else { panic!("taken") };
        assert_eq!(details[0].feature, "colour");
        let faults = |body: &str| match iris(body) {
            Err(DecodeError::Invalid(details)) => {
                details.into_iter().map(|fault| (fault.row, fault.feature, fault.got)).collect::<Vec<_>>()
            }
            other => panic!("{body}: {other:?}"),
        };
        let missing = faults(r#"{"inputs": {"petal width (cm)": [1, "x"], "colour": [1]}}"#);
        assert_eq!(missing[0], (1, "petal width (cm)".to_owned(), "the text \"x\"".to_owned()));
        assert_eq!((missing.len(), missing[1].1.as_str(), missing[2].2.as_str()), (5, "colour", "nothing"));
        let paths = |body: &str| match iris(body) {
            Err(DecodeError::Invalid(details)) => details.into_iter().map(|d| d.path.unwrap()).collect::<Vec<_>>(),
            other => panic!("{body}: {other:?}"),
        };
        let columns = paths(r#"{"inputs": {"petal width (cm)": [1, "x"], "colour": [1]}}"#);
        assert_eq!(columns[..3], ["inputs.petal width (cm)[1]", "inputs.colour", "inputs.sepal length (cm)"]);
        let tensor = r#"{"inputs": {"features": [[1, 2, 3, 4], [1, 2, 3, true]]}}"#;
        assert_eq!(paths(tensor), ["inputs.features[1][3]"]);
        let split = |data: &str| format!(r#"{{"input_data": {{"columns": {COLUMNS}, "data": {data}}}}}"#);
        assert_eq!(
            paths(&split("[[1, 2, 3, 4], [1, null, 3, 1e400]]")),
            ["input_data.data[1][1]", "input_data.data[1][3]"]
        );
        let fewer = r#"{"dataframe_split": {"columns": ["colour"], "data": [["blue"]]}}"#;
        assert_eq!(paths(fewer)[..2], ["dataframe_split.data[0][0]", "dataframe_split.data[0]"]);
        assert_eq!(paths(r#"{"instances": [[1, 2, 3, "4"]]}"#), ["instances[0][3]"]);
        let many = r#"{"inputs": {"petal width (cm)": [1, 2, 3, 4]}}"#;
        assert_eq!(iris(many), Err(DecodeError::TooManyRows { rows_max: 3 }));
        let four = r#"{"instances": [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]}"#;
        assert_eq!(iris(four), Err(DecodeError::TooManyRows { rows_max: 3 }));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(rest in "[\\[\\]{}:, 0-9.eE\"a-z]{0,60}") {
            let _ = iris(&rest);
            let _ = iris(&format!(r#"{{"dataframe_split": {{"columns": ["a"], "data": [{rest}"#));
            let _ = iris(&format!(r#"{{"inputs": {{"petal width (cm)": [{rest}"#));
        }
    }
}
