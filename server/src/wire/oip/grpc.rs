//! Requests and answers of the Open Inference Protocol as gRPC's messages.
//!
//! A request has all of its elements as bytes or all of them typed; an answer has them as bytes, as Triton's has.

use std::collections::HashMap;

use mainstay_models::{ModelName, Version};

use super::{Announced, Error, Fault, Inputs, Metadata, Output, Request, Wanted, raw};
use crate::tensor::{Datatype, Elements, Tensor};

/// The protocol's messages and its service, as the build makes them of `proto/inference.proto`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("inference");

    /// The description of the protocol that reflection gives.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
}

use proto::infer_parameter::ParameterChoice;
use proto::model_infer_response::InferOutputTensor;
use proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};

/// The request in `message`.
pub fn decode(metadata: &Metadata, message: ModelInferRequest, rows_max: usize) -> Result<Request, Error> {
    let ModelInferRequest { id, parameters, inputs: given, outputs, raw_input_contents, .. } = message;
    let (inputs_max, outputs_max) = metadata.counts();
    for (path, count, most) in [("inputs", given.len(), inputs_max), ("outputs", outputs.len(), outputs_max)] {
        if count > most {
            return Err(Fault::new(path, format!("at most the model's {most}"), count.to_string()).into());
        }
    }
    let is_raw = !raw_input_contents.is_empty();
    if is_raw && raw_input_contents.len() != given.len() {
        let got = format!("{} for {} inputs", raw_input_contents.len(), given.len());
        return Err(Fault::new("raw_input_contents", "one for each input, or none", got).into());
    }
    let mut inputs: Vec<Tensor> = Vec::with_capacity(given.len());
    for (index, input) in given.into_iter().enumerate() {
        let announced = Announced { index, name: &input.name, datatype: &input.datatype, shape: &input.shape };
        let (datatype, sizes) = metadata.admit(announced, inputs.iter().map(Tensor::name), rows_max)?;
        let count = sizes.iter().product();
        let elements = match (raw_input_contents.get(index), input.contents) {
            (Some(bytes), None) => raw::decode(&format!("raw_input_contents[{index}]"), datatype, count, bytes)?,
            (None, contents) => typed(index, datatype, contents.unwrap_or_default())?,
            (Some(_), Some(_)) => {
                let path = format!("inputs[{index}].contents");
                return Err(Fault::new(path, "nothing beside raw_input_contents", "contents").into());
            }
        };
        let got = elements.len();
        let tensor = Tensor::new(input.name, sizes, elements).map_err(|_| {
            let expected = format!("the {count} elements of the shape {:?}", input.shape);
            Fault::new(format!("inputs[{index}].contents"), expected, got.to_string())
        })?;
        inputs.push(tensor);
    }
    metadata.complete(&inputs)?;
    let outputs: Vec<_> = outputs
        .into_iter()
        .map(|output| {
            let classes = whole(&output.parameters, "classification").and_then(|count| usize::try_from(count).ok());
            Wanted { name: output.name, is_binary: None, classes: classes.filter(|count| *count > 0) }
        })
        .collect();
    metadata.check_wanted(&outputs)?;
    let timeout_us = whole(&parameters, "timeout").filter(|us| *us > 0);
    let (id, inputs) = (Some(id).filter(|id| !id.is_empty()), Inputs::Tensors(inputs));
    Ok(Request { id, inputs, outputs, is_binary: true, timeout_us })
}

/// The message that answers a request.
pub fn encode(model: &ModelName, version: &Version, id: Option<String>, outputs: &[Output]) -> ModelInferResponse {
    let size = |size: &usize| i64::try_from(*size).expect("sizes in memory fit 63 bits");
    let output = |output: &Output| InferOutputTensor {
        name: output.tensor.name().to_owned(),
        datatype: output.tensor.elements().datatype().name().to_owned(),
        shape: output.tensor.shape().iter().map(size).collect(),
        ..InferOutputTensor::default()
    };
    ModelInferResponse {
        model_name: model.to_string(),
        model_version: version.to_string(),
        id: id.unwrap_or_default(),
        outputs: outputs.iter().map(output).collect(),
        raw_output_contents: outputs.iter().map(|output| raw::encode(output.tensor.elements()).into()).collect(),
        ..ModelInferResponse::default()
    }
}

/// A parameter that is a whole number; one of another kind means nothing.
fn whole(parameters: &HashMap<String, InferParameter>, name: &str) -> Option<u64> {
    match parameters.get(name)?.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(number) => u64::try_from(*number).ok(),
        ParameterChoice::Uint64Param(number) => Some(*number),
        _ => None,
    }
}

/// The elements in the field of `contents` that a datatype has.
fn typed(index: usize, datatype: Datatype, contents: InferTensorContents) -> Result<Elements, Fault> {
    let path = format!("inputs[{index}].contents");
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    Ok(match datatype {
        Datatype::Bool => Elements::Bool(bool_contents),
        Datatype::Int8 => Elements::Int8(narrow(&path, datatype, int_contents)?),
        Datatype::Int16 => Elements::Int16(narrow(&path, datatype, int_contents)?),
        Datatype::Int32 => Elements::Int32(int_contents),
        Datatype::Int64 => Elements::Int64(int64_contents),
        Datatype::Uint8 => Elements::Uint8(narrow(&path, datatype, uint_contents)?),
        Datatype::Uint16 => Elements::Uint16(narrow(&path, datatype, uint_contents)?),
        Datatype::Uint32 => Elements::Uint32(uint_contents),
        Datatype::Uint64 => Elements::Uint64(uint64_contents),
        Datatype::Fp32 => Elements::Fp32(fp32_contents),
        Datatype::Fp64 => Elements::Fp64(fp64_contents),
        Datatype::Bytes => Elements::Bytes(bytes_contents.iter().map(|bytes| bytes.to_vec()).collect()),
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(Fault::new(path, format!("raw_input_contents for {}", datatype.name()), "contents"));
        }
    })
}

/// Numbers of 32 bits as the fewer bits that they stand for.
fn narrow<W: Copy + ToString, N: TryFrom<W>>(path: &str, datatype: Datatype, wide: Vec<W>) -> Result<Vec<N>, Fault> {
    let number = |(at, &number): (usize, &W)| {
        let fault =
            |_| Fault::new(format!("{path}[{at}]"), format!("a number of {}", datatype.name()), number.to_string());
        N::try_from(number).map_err(fault)
    };
    wide.iter().enumerate().map(number).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

    use super::*;
    use crate::wire::oip::TensorMetadata;

    fn metadata(datatype: Datatype) -> Metadata {
        let tensor = |name: &str, datatype, shape: &[i64]| TensorMetadata {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
        };
        Metadata { inputs: vec![tensor("x", datatype, &[-1, 2])], outputs: vec![tensor("y", Datatype::Fp32, &[-1, 3])] }
    }

    fn message(datatype: Datatype, contents: Option<InferTensorContents>, raw: &[&[u8]]) -> ModelInferRequest {
        let input = InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.name().to_owned(),
            shape: vec![1, 2],
            contents,
            ..InferInputTensor::default()
        };
        let raw_input_contents = raw.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
        ModelInferRequest { inputs: vec![input], raw_input_contents, ..ModelInferRequest::default() }
    }

    fn floats(values: &[f32]) -> Option<InferTensorContents> {
        Some(InferTensorContents { fp32_contents: values.to_vec(), ..InferTensorContents::default() })
    }

    fn path(message: ModelInferRequest) -> String {
        let datatype = Datatype::named(&message.inputs[0].datatype).unwrap();
        match decode(&metadata(datatype), message, 10) {
            Err(Error::Invalid(fault)) => fault.path,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn elements_are_typed_or_bytes() {
        let bytes = raw::encode(&Elements::Fp32(vec![1.0, 2.0]));
        for message in [message(Datatype::Fp32, floats(&[1.0, 2.0]), &[]), message(Datatype::Fp32, None, &[&bytes])] {
            let request = decode(&metadata(Datatype::Fp32), message, 10).unwrap();
            assert_eq!(request.inputs.into_tensors("x")[0].elements(), &Elements::Fp32(vec![1.0, 2.0]));
        }
        let contents = InferTensorContents { int_contents: vec![-128, 127], ..InferTensorContents::default() };
        let request = decode(&metadata(Datatype::Int8), message(Datatype::Int8, Some(contents), &[]), 10).unwrap();
        assert_eq!(request.inputs.into_tensors("x")[0].elements(), &Elements::Int8(vec![-128, 127]));
        let large =
            InferTensorContents { int64_contents: vec![9_007_199_254_740_993, 1], ..InferTensorContents::default() };
        let request = decode(&metadata(Datatype::Int64), message(Datatype::Int64, Some(large), &[]), 10).unwrap();
        assert_eq!(request.inputs.into_tensors("x")[0].elements(), &Elements::Int64(vec![9_007_199_254_740_993, 1]));
    }

    #[test]
    fn every_fault_has_its_path_into_the_message() {
        let good = || message(Datatype::Fp32, floats(&[1.0, 2.0]), &[]);
        let with = |change: fn(&mut ModelInferRequest)| {
            let mut message = good();
            change(&mut message);
            path(message)
        };
        assert_eq!(path(message(Datatype::Fp32, floats(&[1.0]), &[])), "inputs[0].contents");
        assert_eq!(path(message(Datatype::Fp32, None, &[])), "inputs[0].contents");
        assert_eq!(path(message(Datatype::Fp32, floats(&[1.0, 2.0]), &[&[0; 8]])), "inputs[0].contents");
        assert_eq!(path(message(Datatype::Fp32, None, &[&[0; 7]])), "raw_input_contents[0]");
        assert_eq!(path(message(Datatype::Fp32, None, &[&[0; 8], &[0; 8]])), "raw_input_contents");
        assert_eq!(path(message(Datatype::Fp16, floats(&[1.0, 2.0]), &[])), "inputs[0].contents");
        let wide = InferTensorContents { uint_contents: vec![1, 256], ..InferTensorContents::default() };
        assert_eq!(path(message(Datatype::Uint8, Some(wide), &[])), "inputs[0].contents[1]");
        assert_eq!(with(|message| message.inputs[0].shape = vec![-1, 2]), "inputs[0].shape[0]");
        assert_eq!(with(|message| message.inputs[0].shape = vec![1, i64::MAX]), "inputs[0].shape[1]");
        assert_eq!(with(|message| message.inputs[0].shape = vec![2]), "inputs[0].shape");
        assert_eq!(with(|message| message.inputs[0].name = "z".into()), "inputs[0].name");
        assert_eq!(with(|message| message.inputs.push(message.inputs[0].clone())), "inputs");
        assert_eq!(with(|message| message.outputs.push(InferRequestedOutputTensor::default())), "outputs[0].name");
        let none = decode(&metadata(Datatype::Fp32), ModelInferRequest::default(), 10).unwrap_err();
        assert_eq!(none.to_string(), "inputs: expected the input `x`, got 0 others");
    }
}
