//! Requests in which nothing is unusual: one float32 tensor, as the clients of Triton and a few lines of any language write it.
//!
//! As with [`crate::wire`]'s records, whatever is unusual, be it allowed or a fault, is left to [`super::json`], and this accepts
//! nothing that `json` does not, with the same values.

use ndarray::Array2;

use super::json::ID_BYTES_MAX;
use super::{Inputs, Metadata, Request, TensorMetadata, raw};
use crate::tensor::{Datatype, Elements};
use crate::wire::cursor::Cursor;

/// The request whose JSON is `json`, and which has the bytes `tail` behind it; nothing where anything is unusual.
pub(super) fn decode(metadata: &Metadata, json: &[u8], tail: &[u8], rows_max: usize) -> Option<Request> {
    let [expected] = &metadata.inputs[..] else { return None };
    if expected.datatype != Datatype::Fp32 {
        return None;
    }
    let mut cursor = Cursor::new(json);
    cursor.take(b'{')?;
    let mut id = None;
    if cursor.literal(b"\"id\"").is_some() {
        cursor.take(b':')?;
        id = Some(cursor.text().filter(|id| id.len() <= ID_BYTES_MAX)?.to_owned());
        cursor.take(b',')?;
    }
    cursor.literal(b"\"inputs\"")?;
    cursor.take(b':')?;
    cursor.take(b'[')?;
    cursor.take(b'{')?;
    let inputs = Inputs::Matrix(matrix(expected, &mut cursor, tail, rows_max)?);
    cursor.take(b'}')?;
    cursor.take(b']')?;
    let mut is_binary = false;
    if cursor.next()? == b',' {
        cursor.take(b',')?;
        cursor.literal(b"\"parameters\"")?;
        cursor.take(b':')?;
        cursor.take(b'{')?;
        cursor.literal(b"\"binary_data_output\"")?;
        cursor.take(b':')?;
        cursor.literal(b"true")?;
        cursor.take(b'}')?;
        is_binary = true;
    }
    cursor.take(b'}')?;
    let is_whole = cursor.next().is_none();
    is_whole.then(|| Request { id, inputs, outputs: Vec::new(), is_binary, timeout_us: None })
}

/// The rows of the tensor from the first key of its object to the end of its elements.
fn matrix(expected: &TensorMetadata, cursor: &mut Cursor<'_>, tail: &[u8], rows_max: usize) -> Option<Array2<f32>> {
    let (mut name, mut datatype, mut shape) = (None, None, None);
    let is_json = loop {
        let key = cursor.word()?;
        cursor.take(b':')?;
        match key {
            b"name" if name.is_none() => name = Some(cursor.word()?),
            b"datatype" if datatype.is_none() => datatype = Some(cursor.word()?),
            b"shape" if shape.is_none() => {
                cursor.take(b'[')?;
                let rows = cursor.count()?;
                cursor.take(b',')?;
                shape = Some((rows, cursor.count()?));
                cursor.take(b']')?;
            }
            b"data" => break true,
            b"parameters" => break false,
            _ => return None,
        }
        cursor.take(b',')?;
    };
    let (rows, columns) = shape?;
    let is_expected = name? == expected.name.as_bytes()
        && datatype? == Datatype::Fp32.name().as_bytes()
        && matches!(expected.shape[..], [-1, width] if usize::try_from(width) == Ok(columns))
        && rows <= rows_max;
    if !is_expected {
        return None;
    }
    let values = if is_json {
        // Bytes behind the JSON belong to nobody.
        if tail.is_empty() { values(cursor, rows, columns)? } else { return None }
    } else {
        cursor.take(b'{')?;
        cursor.literal(b"\"binary_data_size\"")?;
        cursor.take(b':')?;
        let has_all = cursor.count()? == tail.len();
        cursor.take(b'}')?;
        let Elements::Fp32(values) = raw::decode("", Datatype::Fp32, rows * columns, tail).ok()? else { return None };
        if has_all { values } else { return None }
    };
    Array2::from_shape_vec((rows, columns), values).ok()
}

/// All elements, in one list or in one for each row.
fn values(cursor: &mut Cursor<'_>, rows: usize, columns: usize) -> Option<Vec<f32>> {
    if rows == 0 || columns == 0 {
        return None;
    }
    cursor.take(b'[')?;
    let is_nested = cursor.next()? == b'[';
    // As many as are told, but no more memory than what has come can need.
    let mut values = Vec::with_capacity((rows * columns).min(cursor.bytes()));
    for row in 0..rows {
        if row > 0 {
            cursor.take(b',')?;
        }
        if is_nested {
            cursor.take(b'[')?;
        }
        for column in 0..columns {
            if column > 0 {
                cursor.take(b',')?;
            }
            let value = cursor.number()? as f32;
            if !value.is_finite() {
                return None;
            }
            values.push(value);
        }
        if is_nested {
            cursor.take(b']')?;
        }
    }
    cursor.take(b']')?;
    Some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::json;
    use super::*;

    const ROWS_MAX: usize = 3;

    fn metadata() -> Metadata {
        let tensor =
            |name: &str, datatype, shape: &[i64]| TensorMetadata { name: name.into(), datatype, shape: shape.into() };
        Metadata {
            inputs: vec![tensor("x", Datatype::Fp32, &[-1, 2])],
            outputs: vec![tensor("label", Datatype::Int64, &[-1])],
        }
    }

    fn plain(body: &str, tail: &[u8]) -> Option<Request> {
        decode(&metadata(), body.as_bytes(), tail, ROWS_MAX)
    }

    /// With a matrix, as this reader gives it.
    fn careful(body: &str, tail: &[u8]) -> Result<Request, super::super::Error> {
        let request = json::decode_carefully(&metadata(), body.as_bytes(), tail, ROWS_MAX)?;
        let tensor = request.inputs.into_tensors("x").remove(0);
        let (shape, elements) = ((tensor.shape()[0], tensor.shape()[1]), tensor.into_elements());
        let Elements::Fp32(values) = elements else { panic!("{elements:?}") };
        Ok(Request { inputs: Inputs::Matrix(Array2::from_shape_vec(shape, values).unwrap()), ..request })
    }

    #[test]
    fn what_clients_write_is_read() {
        for (body, tail) in [
            (
                r#"{"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, -3e-1, 0]}]}"#,
                &[][..],
            ),
            (
                r#"{"inputs":[{"shape":[2,2],"datatype":"FP32","name":"x","data":[[1,2.5],[0.1,12345678901234567890]]}]}"#,
                &[],
            ),
            (r#" {"id":"é","inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2] } ] } "#, &[]),
            (
                r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}],"parameters":{"binary_data_output":true}}"#,
                &[0, 0, 128, 63, 0, 0, 0, 64],
            ),
        ] {
            assert_eq!(plain(body, tail), careful(body, tail).ok(), "{body}");
            assert!(plain(body, tail).is_some(), "{body}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_a_parser() {
        let body = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#;
        assert!(plain(body, &[]).is_some());
        assert_eq!(plain(body, &[0]), None);
        for (from, to) in [
            ("[1,2]}", "[1]}"),
            ("[1,2]}", "[1,2,3]}"),
            ("[1,2]}", "[[1],[2]]}"),
            ("[1,2]}", "[[1,2]}"),
            ("[1,2]}", "[1,\"2\"]}"),
            ("[1,2]}", "[1,1e39]}"),
            ("[1,2],", "[9,2],"),
            ("[1,2],", "[-1,2],"),
            ("[1,2],", "[1.0,2],"),
            ("[1,2],", "[01,2],"),
            ("[1,2],", "[1],"),
            ("\"x\"", "\"y\""),
            ("\"x\"", "\"\\u0078\""),
            ("FP32", "FP64"),
            ("}]}", "}],\"outputs\":[]}"),
            ("}]}", "}]} x"),
            ("}]}", "}]"),
            ("}]}", "},{}]}"),
            ("{\"inputs", "{\"id\":1,\"inputs"),
            ("\"shape", "\"name\":\"x\",\"shape"),
        ] {
            let changed = body.replacen(from, to, 1);
            assert_ne!(changed, body);
            assert_eq!(plain(&changed, &[]), None, "{changed}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_a_parser_reads(
            values in proptest::collection::vec(prop_oneof![any::<f64>().prop_map(|value| value.to_string()), any::<i64>().prop_map(|value| value.to_string())], 0..6),
            rows in 0_usize..4,
            cut in proptest::option::of((0_usize..120, "[\\PC]{0,2}")),
        ) {
            let values = values.join(",");
            let mut body = format!("{{\"id\":\"a\",\"inputs\":[{{\"name\":\"x\",\"shape\":[{rows},2],\"datatype\":\"FP32\",\"data\":[{values}]}}]}}");
            if let Some((at, text)) = cut
                && at < body.len()
            {
                body.replace_range(at..=at, &text);
            }
            if let Some(request) = plain(&body, &[]) {
                prop_assert_eq!(Ok(request), careful(&body, &[]));
            }
        }
    }
}
