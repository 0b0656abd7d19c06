//! An answer as JSON, and the binary tensors behind it.

use mainstay_models::{ModelName, Version};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use crate::tensor::Elements;
use crate::wire::oip::{Output, raw};

/// Who answers a request: the head of its answer.
#[derive(Debug, Clone, Copy)]
pub struct Answering<'a> {
    /// The model.
    pub model: &'a ModelName,
    /// Its version.
    pub version: &'a Version,
    /// The request's id, where it had one.
    pub id: Option<&'a str>,
}

/// An answer's body and, where binary tensors follow it, the length of its JSON.
pub fn encode(answering: Answering<'_>, outputs: &[Output]) -> (Vec<u8>, Option<usize>) {
    let Answering { model, version, id } = answering;
    let elements = |output: &Output| if output.is_binary { 0 } else { output.tensor.elements().len() };
    // Grows at most once where the names are long.
    let mut text = Vec::with_capacity(384 + outputs.iter().map(elements).sum::<usize>() * 12);
    let mut binary = Vec::new();
    // The braces and keys are most of a small answer, and always the same.
    put_plain(&mut text, b"{\"model_name\":", model.as_str());
    put_plain(&mut text, b",\"model_version\":", version.as_str());
    if let Some(id) = id {
        put(&mut text, b",\"id\":", id);
    }
    text.extend_from_slice(b",\"outputs\":[");
    for (index, Output { tensor, is_binary }) in outputs.iter().enumerate() {
        let name: &[u8] = if index == 0 { b"{\"name\":" } else { b",{\"name\":" };
        put(&mut text, name, tensor.name());
        put(&mut text, b",\"shape\":", tensor.shape());
        put_plain(&mut text, b",\"datatype\":", tensor.elements().datatype().name());
        if *is_binary {
            let size_bytes = raw::encode_into(tensor.elements(), &mut binary);
            put(&mut text, b",\"parameters\":{\"binary_data_size\":", &size_bytes);
            text.push(b'}');
        } else {
            put(&mut text, b",\"data\":", &ElementsBody(tensor.elements()));
        }
        text.push(b'}');
    }
    text.extend_from_slice(b"]}");
    let is_text = outputs.iter().all(|output| !output.is_binary);
    let length = text.len();
    text.extend_from_slice(&binary);
    (text, (!is_text).then_some(length))
}

/// Appends `before`, and `value` as JSON.
fn put<T: Serialize + ?Sized>(text: &mut Vec<u8>, before: &[u8], value: &T) {
    text.extend_from_slice(before);
    serde_json::to_writer(text, value).expect("an answer has numbers and text");
}

/// Appends `before`, and a text in which JSON escapes nothing: the name of a model, a version or a datatype.
fn put_plain(text: &mut Vec<u8>, before: &[u8], value: &str) {
    debug_assert!(value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')));
    for part in [before, b"\"", value.as_bytes(), b"\""] {
        text.extend_from_slice(part);
    }
}

/// Elements as a flat list. What is no finite number is null, since JSON has no word for it.
struct ElementsBody<'a>(&'a Elements);

impl Serialize for ElementsBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Elements::Bool(elements) => elements.serialize(serializer),
            Elements::Uint8(elements) => elements.serialize(serializer),
            Elements::Uint16(elements) => elements.serialize(serializer),
            Elements::Uint32(elements) => elements.serialize(serializer),
            Elements::Uint64(elements) => elements.serialize(serializer),
            Elements::Int8(elements) => elements.serialize(serializer),
            Elements::Int16(elements) => elements.serialize(serializer),
            Elements::Int32(elements) => elements.serialize(serializer),
            Elements::Int64(elements) => elements.serialize(serializer),
            Elements::Fp32(elements) => elements.serialize(serializer),
            Elements::Fp64(elements) => elements.serialize(serializer),
            Elements::Fp16(elements) => serializer.collect_seq(elements.iter().map(|element| element.to_f32())),
            Elements::Bf16(elements) => serializer.collect_seq(elements.iter().map(|element| element.to_f32())),
            Elements::Bytes(elements) => {
                let mut list = serializer.serialize_seq(Some(elements.len()))?;
                for text in elements {
                    list.serialize_element(&String::from_utf8_lossy(text))?;
                }
                list.end()
            }
        }
    }
}
