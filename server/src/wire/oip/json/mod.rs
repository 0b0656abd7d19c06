//! Requests and answers of the Open Inference Protocol as JSON, with or without binary tensors behind it.
//!
//! Elements go straight into their tensor: no JSON document is built in between. A client that writes a tensor's `data`
//! before its `datatype` has its request read twice.

use self::draft::{Data, DraftInput, Parameters, read};
use super::{Announced, Error, Fault, Inputs, Metadata, Request, plain, raw};
use crate::tensor::{Datatype, Elements, Tensor};

mod answer;
mod draft;
mod elements;

pub use answer::{Answering, encode};

/// The longest id that is taken and sent back.
pub(super) const ID_BYTES_MAX: usize = 1024;

/// The request in `body`, whose first `json_bytes` are JSON and the rest its binary tensors; all of it, where none is given.
pub fn decode(metadata: &Metadata, body: &[u8], json_bytes: Option<usize>, rows_max: usize) -> Result<Request, Error> {
    let (json, tail) = split(body, json_bytes)?;
    plain::decode(metadata, json, tail, rows_max).map_or_else(|| decode_carefully(metadata, json, tail, rows_max), Ok)
}

/// The request whose JSON is `json` and which has the bytes `tail` behind it, whatever it looks like.
pub(super) fn decode_carefully(
    metadata: &Metadata,
    json: &[u8],
    tail: &[u8],
    rows_max: usize,
) -> Result<Request, Error> {
    let mut draft = read(metadata, json, rows_max, &[])?;
    if draft.inputs.iter().any(|input| input.data == Data::Postponed) {
        let known: Vec<_> = draft.inputs.iter().map(|input| (input.datatype.clone(), input.shape.clone())).collect();
        draft = read(metadata, json, rows_max, &known)?;
    }
    let inputs = Inputs::Tensors(assemble(metadata, draft.inputs, tail, rows_max)?);
    metadata.check_wanted(&draft.outputs)?;
    let Parameters { binary_data_output, timeout, .. } = draft.parameters;
    let is_binary = binary_data_output.unwrap_or(false);
    Ok(Request { id: draft.id, inputs, outputs: draft.outputs, is_binary, timeout_us: timeout.filter(|us| *us > 0) })
}

/// The JSON of a body, and the bytes behind it.
fn split(body: &[u8], json_bytes: Option<usize>) -> Result<(&[u8], &[u8]), Error> {
    let Some(length) = json_bytes else { return Ok((body, &[])) };
    body.split_at_checked(length).ok_or_else(|| {
        let got = format!("{length} of {} bytes", body.len());
        Fault::new("inference-header-content-length", "no more bytes than the body has", got).into()
    })
}

/// The request that a body without any JSON is: the bytes of the model's one input.
pub fn decode_raw(metadata: &Metadata, body: &[u8], rows_max: usize) -> Result<Request, Error> {
    let [input] = &metadata.inputs[..] else {
        let got = format!("a model with {}", metadata.inputs.len());
        return Err(Fault::new("inference-header-content-length", "0 for a model of one input only", got).into());
    };
    let row: usize = input.shape.iter().filter_map(|size| usize::try_from(*size).ok()).product();
    let is_open = input.shape.iter().any(|size| *size < 0);
    let row_bytes = input.datatype.size_bytes().map(|size| size * row.max(1));
    let rows = match row_bytes {
        Some(row_bytes) if is_open => body.len() / row_bytes,
        _ => 1,
    };
    if is_open && rows > rows_max {
        return Err(Error::TooManyRows { rows_max });
    }
    let sizes = input.shape.iter().map(|size| usize::try_from(*size).unwrap_or(rows)).collect::<Vec<_>>();
    let count = sizes.iter().product();
    let elements = match input.datatype {
        // The one string needs no length.
        Datatype::Bytes if count == 1 => Elements::Bytes(vec![body.to_vec()]),
        datatype => raw::decode("inputs[0].data", datatype, count, body)?,
    };
    let tensor = Tensor::new(input.name.clone(), sizes, elements).expect("the bytes were held to the count");
    let inputs = Inputs::Tensors(vec![tensor]);
    Ok(Request { id: None, inputs, outputs: Vec::new(), is_binary: true, timeout_us: None })
}

/// Builds the inputs' tensors from JSON and from the bytes behind it.
fn assemble(
    metadata: &Metadata,
    drafts: Vec<DraftInput>,
    mut tail: &[u8],
    rows_max: usize,
) -> Result<Vec<Tensor>, Error> {
    let mut inputs: Vec<Tensor> = Vec::with_capacity(drafts.len());
    for (index, DraftInput { name, datatype, shape, parameters, data }) in drafts.into_iter().enumerate() {
        let announced = Announced { index, name: &name, datatype: &datatype, shape: &shape };
        let (datatype, sizes) = metadata.admit(announced, inputs.iter().map(Tensor::name), rows_max)?;
        let count = sizes.iter().product();
        let path = format!("inputs[{index}].data");
        let elements = match (data, parameters.binary_data_size) {
            (Data::Elements(elements), None) => elements,
            (Data::None, Some(size_bytes)) => {
                let (bytes, rest) = tail.split_at_checked(size_bytes).ok_or_else(|| {
                    let path = format!("inputs[{index}].parameters.binary_data_size");
                    Fault::new(path, format!("at most the {} bytes that are left", tail.len()), size_bytes.to_string())
                })?;
                tail = rest;
                raw::decode(&path, datatype, count, bytes)?
            }
            (Data::None, None) => return Err(Fault::new(path, "the tensor's elements", "nothing").into()),
            _ => return Err(Fault::new(path, "either data or binary_data_size", "both").into()),
        };
        let got = elements.len();
        let tensor = Tensor::new(name, sizes, elements)
            .map_err(|_| Fault::new(path, format!("the {count} elements of the shape {shape:?}"), got.to_string()))?;
        inputs.push(tensor);
    }
    if !tail.is_empty() {
        let got = format!("{} bytes more", tail.len());
        return Err(Fault::new("inputs", "a binary_data_size for every byte behind the JSON", got).into());
    }
    metadata.complete(&inputs)?;
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::wire::oip::{Output, TensorMetadata};

    fn metadata(inputs: &[(&str, Datatype, &[i64])]) -> Metadata {
        let tensor = |(name, datatype, shape): &(&str, Datatype, &[i64])| TensorMetadata {
            name: (*name).to_owned(),
            datatype: *datatype,
            shape: shape.to_vec(),
        };
        let outputs = [("label", Datatype::Int64, &[-1][..]), ("scores", Datatype::Fp32, &[-1, 3])];
        Metadata { inputs: inputs.iter().map(tensor).collect(), outputs: outputs.iter().map(tensor).collect() }
    }

    fn floats() -> Metadata {
        metadata(&[("x", Datatype::Fp32, &[-1, 2])])
    }

    fn of(metadata: &Metadata, body: &str) -> Result<Request, Error> {
        decode(metadata, body.as_bytes(), None, 100)
    }

    fn fault(metadata: &Metadata, body: &str) -> Fault {
        match of(metadata, body) {
            Err(Error::Invalid(fault)) => fault,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn elements(metadata: &Metadata, body: &str) -> Elements {
        let inputs = of(metadata, body).unwrap_or_else(|e| panic!("{body}: {e}")).inputs;
        inputs.into_tensors("x").remove(0).into_elements()
    }

    #[test]
    fn data_may_be_flat_or_nested_and_stand_anywhere() {
        let expected = Elements::Fp32(vec![1.0, 2.5, -3.0, 4e-3]);
        for body in [
            r#"{"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, -3, 4e-3]}]}"#,
            r#"{"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2.5], [-3, 4e-3]]}]}"#,
            r#"{"inputs": [{"data": [[1, 2.5], [-3, 4e-3]], "datatype": "FP32", "shape": [2, 2], "name": "x"}]}"#,
            r#"{"x": [{}], "outputs": [], "inputs": [{"name": "x", "datatype": "FP32", "a": 1, "\u0064ata": [1, 2.5, -3.0, 0.004],
                "parameters": {"content_type": "np", "b": {"c": []}}, "shape": [2, 2]}], "parameters": {"headers": {}}}"#,
        ] {
            assert_eq!(elements(&floats(), body), expected);
        }
        let none = r#"{"inputs": [{"name": "x", "shape": [0, 2], "datatype": "FP32", "data": []}]}"#;
        assert_eq!(elements(&floats(), none), Elements::Fp32(vec![]));
    }

    #[test]
    fn integers_keep_every_digit_and_texts_every_character() {
        let body = |datatype: &str, data: &str| {
            format!(r#"{{"inputs": [{{"name": "x", "shape": [2], "datatype": "{datatype}", "data": {data}}}]}}"#)
        };
        let of = |datatype: Datatype, data: &str| {
            elements(&metadata(&[("x", datatype, &[-1])]), &body(datatype.name(), data))
        };
        let large = of(Datatype::Int64, "[9007199254740993, -9223372036854775808]");
        assert_eq!(large, Elements::Int64(vec![9_007_199_254_740_993, i64::MIN]));
        assert_eq!(of(Datatype::Uint64, "[18446744073709551615, 1.0]"), Elements::Uint64(vec![u64::MAX, 1]));
        assert_eq!(of(Datatype::Bool, "[true, false]"), Elements::Bool(vec![true, false]));
        let texts = of(Datatype::Bytes, r#"["é\u0000", "\ud83d\ude00"]"#);
        assert_eq!(texts, Elements::Bytes(vec!["é\0".into(), "😀".into()]));
        for (datatype, data, got) in [
            (Datatype::Int64, "[1, 9223372036854775808]", "9223372036854775808"),
            (Datatype::Int64, "[1, 1e19]", "1e19"),
            (Datatype::Uint8, "[1, 256]", "256"),
            (Datatype::Uint8, "[1, -1]", "-1"),
            (Datatype::Int32, "[1, 1.5]", "1.5"),
            (Datatype::Int32, "[1, true]", "true"),
            (Datatype::Bool, "[true, 1]", "1"),
            (Datatype::Fp32, "[1, 1e39]", "1e39"),
            (Datatype::Fp32, "[1, \"2\"]", "the text \"2\""),
            (Datatype::Fp64, "[1, null]", "null"),
            (Datatype::Fp64, "[1, {}]", "an object"),
            (Datatype::Bytes, "[\"1\", 2]", "2"),
        ] {
            let fault = fault(&metadata(&[("x", datatype, &[-1])]), &body(datatype.name(), data));
            assert_eq!((fault.path.as_str(), fault.got.as_str()), ("inputs[0].data[1]", got), "{datatype:?} {data}");
        }
    }

    #[test]
    fn every_fault_has_its_path_into_the_request() {
        let good = json!({"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]});
        let with = |key: &str, value: serde_json::Value| {
            let mut input = good.clone();
            input[key] = value;
            json!({ "inputs": [input] }).to_string()
        };
        let deep = format!(
            r#"{{"inputs": [{{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": {}"#,
            "[".repeat(100_000)
        );
        let twice = r#"{"name": "x", "name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}"#;
        for (body, path) in [
            (String::new(), "body"),
            ("[]".to_owned(), "body"),
            ("{".to_owned(), "body"),
            ("{}".to_owned(), "inputs"),
            (r#"{"inputs": []}"#.to_owned(), "inputs"),
            (r#"{"inputs": [1]}"#.to_owned(), "inputs[0]"),
            (r#"{"inputs": {}}"#.to_owned(), "inputs"),
            (r#"{"inputs": [], "inputs": []}"#.to_owned(), "inputs"),
            (format!(r#"{{"inputs": [{twice}]}}"#), "inputs[0].name"),
            (json!({"inputs": [good, good]}).to_string(), "inputs"),
            (r#"{"id": 7, "inputs": []}"#.to_owned(), "id"),
            (json!({"id": "a".repeat(2000), "inputs": [good]}).to_string(), "id"),
            (r#"{"parameters": {"binary_data_output": "yes"}}"#.to_owned(), "parameters.binary_data_output"),
            (r#"{"parameters": {"timeout": 1, "timeout": 2}}"#.to_owned(), "parameters.timeout"),
            (r#"{"parameters": {"timeout": 1, x}}"#.to_owned(), "parameters"),
            (with("name", json!("y")), "inputs[0].name"),
            (with("name", json!(1)), "inputs[0].name"),
            (with("datatype", json!("FP64")), "inputs[0].datatype"),
            (with("datatype", json!("fp32")), "inputs[0].datatype"),
            (with("datatype", json!("FP16")), "inputs[0].datatype"),
            (with("shape", json!([-1, 2])), "inputs[0].shape[0]"),
            (with("shape", json!([1, -2])), "inputs[0].shape[1]"),
            (with("shape", json!([1, 2, 1])), "inputs[0].shape"),
            (with("shape", json!([2])), "inputs[0].shape"),
            (with("shape", json!([2, 1])), "inputs[0].shape[1]"),
            (with("shape", json!([1, 2.5])), "inputs[0].shape[1]"),
            (with("shape", json!([1, "2"])), "inputs[0].shape[1]"),
            (with("shape", json!([1, 18_446_744_073_709_551_615_u64])), "inputs[0].shape[1]"),
            (with("shape", json!([4_611_686_018_427_387_904_i64, 4])), "inputs[0].shape"),
            (with("shape", json!([1, 1, 1, 1, 1, 1, 1, 1, 1])), "inputs[0].shape[8]"),
            (with("shape", json!("1,2")), "inputs[0].shape"),
            (with("data", json!([1])), "inputs[0].data"),
            (with("data", json!([1, 2, 3])), "inputs[0].data[2]"),
            (with("data", json!(1)), "inputs[0].data"),
            (with("data", json!([[1, 2], [3]])), "inputs[0].data[1][0]"),
            (with("data", json!([[1], [2]])), "inputs[0].data[0]"),
            (with("data", json!([[1, 2], 3])), "inputs[0].data[1]"),
            (with("data", json!([[[1, 2]]])), "inputs[0].data[0][0]"),
            (with("data", json!([1, null])), "inputs[0].data[1]"),
            (with("data", json!([1, "\u{e9}"])), "inputs[0].data[1]"),
            (with("data", json!([1, 2])).replace("\"data\":[1,2]", "\"data\":[1,1e400]"), "inputs[0].data[1]"),
            (with("name", json!("LONE")).replace("LONE", "\\ud800"), "inputs[0].name"),
            (deep, "inputs[0].data[0][0]"),
            (with("parameters", json!({"binary_data_size": 8})), "inputs[0].data"),
            (with("parameters", json!({"binary_data_size": -8})), "inputs[0].parameters.binary_data_size"),
            (json!({"inputs": [good], "outputs": [{"name": "y"}]}).to_string(), "outputs[0].name"),
            (json!({"inputs": [good], "outputs": [{}]}).to_string(), "outputs[0].name"),
            (
                json!({"inputs": [good], "outputs": [{"name": "label"}, {"name": "label"}]}).to_string(),
                "outputs[1].name",
            ),
            (
                json!({"inputs": [good], "outputs": [{"name": "label", "parameters": {"classification": 1}}]})
                    .to_string(),
                "outputs[0].parameters.classification",
            ),
        ] {
            let fault = fault(&floats(), &body);
            assert_eq!(fault.path, path, "{body:.200}: {fault}");
        }
        let many = json!({"inputs": [{"name": "x", "shape": [101, 2], "datatype": "FP32", "data": vec![1; 202]}]});
        assert!(matches!(of(&floats(), &many.to_string()), Err(Error::TooManyRows { rows_max: 100 })));
        let two = metadata(&[("x", Datatype::Fp32, &[-1, 2]), ("y", Datatype::Fp32, &[-1])]);
        let missing = json!({ "inputs": [good] }).to_string();
        assert_eq!(fault(&two, &missing).path, "inputs");
        assert_eq!(fault(&two, &json!({"inputs": [good, good]}).to_string()).path, "inputs[1].name");
        let longer = json!({"name": "y", "shape": [2], "datatype": "FP32", "data": [1, 2]});
        assert_eq!(fault(&two, &json!({"inputs": [good, longer]}).to_string()).path, "inputs[1].shape[0]");
    }

    #[test]
    fn binary_tensors_follow_in_the_requests_order() {
        let two = metadata(&[("x", Datatype::Fp32, &[-1, 2]), ("y", Datatype::Bytes, &[-1])]);
        let head = r#"{"id": "7", "inputs": [
            {"name": "y", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}],
            "parameters": {"binary_data_output": true}, "outputs": [{"name": "label", "parameters": {"binary_data": false}}]}"#;
        let tail = [&[2, 0, 0, 0, b'h', b'i'][..], &1f32.to_le_bytes(), &2f32.to_le_bytes()].concat();
        let body = [head.as_bytes(), &tail].concat();
        let request = decode(&two, &body, Some(head.len()), 100).unwrap();
        assert_eq!((request.id.as_deref(), request.is_binary), (Some("7"), true));
        assert_eq!(request.outputs[0].is_binary, Some(false));
        let inputs = request.inputs.into_tensors("x");
        assert_eq!(inputs[0].elements(), &Elements::Bytes(vec![b"hi".to_vec()]));
        assert_eq!(inputs[1].elements(), &Elements::Fp32(vec![1.0, 2.0]));

        let path = |body: &[u8], length| match decode(&two, body, Some(length), 100) {
            Err(Error::Invalid(fault)) => fault.path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path(&body[..body.len() - 1], head.len()), "inputs[1].parameters.binary_data_size");
        assert_eq!(path(&[&body[..], &[0]].concat(), head.len()), "inputs");
        assert_eq!(path(&body, body.len() + 1), "inference-header-content-length");
        assert_eq!(path(&body, head.len() - 1), "body");
        let short = head.replace("\"binary_data_size\": 8", "\"binary_data_size\": 4");
        assert_eq!(path(&[short.as_bytes(), &tail[..10]].concat(), short.len()), "inputs[1].data");
    }

    #[test]
    fn a_body_of_bytes_alone_is_the_one_input() {
        let bytes = raw::encode(&Elements::Fp32(vec![1.0, 2.0, 3.0, 4.0]));
        let request = decode_raw(&floats(), &bytes, 100).unwrap();
        assert!(request.is_binary);
        assert_eq!(request.inputs.into_tensors("x")[0].shape(), [2, 2]);
        assert!(decode_raw(&floats(), &bytes[..9], 100).is_err());
        assert!(matches!(decode_raw(&floats(), &bytes, 1), Err(Error::TooManyRows { rows_max: 1 })));
        let text = metadata(&[("x", Datatype::Bytes, &[-1, 1])]);
        assert_eq!(
            decode_raw(&text, b"hello", 100).unwrap().inputs.into_tensors("x")[0].elements(),
            &Elements::Bytes(vec![b"hello".to_vec()])
        );
    }

    #[test]
    fn an_answer_says_who_answers_and_carries_every_datatype() {
        let output = |elements: Elements, is_binary| {
            let tensor = Tensor::new("y", vec![elements.len()], elements).unwrap();
            Output { tensor, is_binary }
        };
        let (model, version) = ("iris".parse().unwrap(), "1.0.0".parse().unwrap());
        let answering = Answering { model: &model, version: &version, id: Some("7") };
        let outputs = [
            output(Elements::Fp32(vec![0.1, f32::NAN]), false),
            output(Elements::Int64(vec![9_007_199_254_740_993]), false),
            output(Elements::Bytes(vec!["é".into()]), false),
            output(Elements::Fp16(vec![f16::ONE, f16::NEG_INFINITY, f16::MIN_POSITIVE_SUBNORMAL]), false),
            output(Elements::Bf16(vec![bf16::ONE]), false),
        ];
        let (body, length) = encode(answering, &outputs);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((length, &body["model_name"], &body["id"]), (None, &json!("iris"), &json!("7")));
        let data = |index: usize| body["outputs"][index]["data"].to_string();
        assert_eq!([data(0), data(1), data(2)], ["[0.1,null]", "[9007199254740993]", "[\"é\"]"]);
        assert_eq!([data(3), data(4)], ["[1.0,null,5.9604645e-8]", "[1.0]"]);

        let (body, length) = encode(Answering { id: None, ..answering }, &[output(Elements::Fp32(vec![1.0]), true)]);
        let (head, tail) = body.split_at(length.unwrap());
        let head: serde_json::Value = serde_json::from_slice(head).unwrap();
        assert_eq!(tail, 1f32.to_le_bytes());
        assert_eq!(
            head["outputs"][0],
            json!({"name": "y", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}})
        );
        assert!(head.get("id").is_none());
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(body in "[\\[\\]{}:, 0-9.eE\"a-z]{0,80}", length in 0..90usize) {
            let _ = of(&floats(), &body);
            let _ = decode(&floats(), body.as_bytes(), Some(length), 3);
            let input = format!(r#"{{"inputs": [{{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": {body}"#);
            let _ = of(&floats(), &input);
        }
    }
}
