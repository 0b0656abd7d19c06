//! Requests and answers of the Open Inference Protocol as JSON, with or without binary tensors behind it.
//!
//! Elements go straight into their tensor: no JSON document is built in between. A client that writes a tensor's `data`
//! before its `datatype` has its request read twice.

use std::cell::RefCell;
use std::fmt;

use mainstay_models::{ModelName, Version};
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};

use super::{Announced, Error, Fault, Inputs, Metadata, Output, Request, TensorMetadata, Wanted, plain, raw};
use crate::tensor::{Datatype, Elements, Tensor};
use crate::wire::excerpt;

/// The deepest nesting of a tensor's data.
const DEPTH_MAX: usize = 8;
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

/// A request as far as its JSON says.
#[derive(Default)]
struct Draft {
    id: Option<String>,
    parameters: Parameters,
    inputs: Vec<DraftInput>,
    outputs: Vec<Wanted>,
}

#[derive(Default)]
struct DraftInput {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: Parameters,
    data: Data,
}

/// The elements of an input.
#[derive(Default, PartialEq)]
enum Data {
    #[default]
    None,
    Elements(Elements),
    /// They came before their datatype and shape.
    Postponed,
}

/// The parameters that mean something here; all others are passed over.
#[derive(Default)]
struct Parameters {
    binary_data_size: Option<usize>,
    binary_data: Option<bool>,
    binary_data_output: Option<bool>,
    classification: Option<usize>,
    timeout: Option<u64>,
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

/// Reads the JSON; `known` are the datatypes and shapes of the inputs, where they have been read before.
fn read(metadata: &Metadata, json: &[u8], rows_max: usize, known: &[(String, Vec<i64>)]) -> Result<Draft, Error> {
    let reading = Reading { metadata, rows_max, known, at: RefCell::default(), fault: RefCell::default() };
    let mut json = serde_json::Deserializer::from_slice(json);
    let draft = Whole(&reading).deserialize(&mut json).and_then(|draft| json.end().map(|()| draft));
    draft.map_err(|error| {
        reading.fault.take().unwrap_or_else(|| {
            let at = reading.at.take();
            Fault::new(at.path(), "JSON of a request for a prediction", excerpt(&error.to_string())).into()
        })
    })
}

/// What the parts of a request share while it is read.
struct Reading<'a> {
    metadata: &'a Metadata,
    rows_max: usize,
    known: &'a [(String, Vec<i64>)],
    at: RefCell<Place>,
    /// Why reading was ended, where it was not the JSON's fault.
    fault: RefCell<Option<Error>>,
}

/// Where in the request reading is.
#[derive(Default)]
struct Place {
    /// `inputs` or `outputs`, and the place in it.
    list: Option<(&'static str, usize)>,
    key: &'static str,
    elements: Vec<usize>,
}

impl Place {
    fn path(&self) -> String {
        let mut path = self.list.map(|(list, index)| format!("{list}[{index}]")).unwrap_or_default();
        if !self.key.is_empty() {
            path = if path.is_empty() { self.key.to_owned() } else { format!("{path}.{}", self.key) };
        }
        for index in &self.elements {
            path = format!("{path}[{index}]");
        }
        if path.is_empty() { "body".to_owned() } else { path }
    }
}

impl Reading<'_> {
    fn enter(&self, key: &'static str) {
        self.at.borrow_mut().key = key;
    }

    /// Ends reading with a fault at the place where it is.
    fn fail<E: serde::de::Error>(&self, expected: impl Into<String>, got: impl Into<String>) -> E {
        let path = self.at.borrow().path();
        self.fail_with(Fault::new(path, expected, got).into())
    }

    fn fail_with<E: serde::de::Error>(&self, error: Error) -> E {
        *self.fault.borrow_mut() = Some(error);
        E::custom("not a request")
    }

    /// Notes that `key` has been met, which it must be once.
    fn once<E: serde::de::Error>(&self, key: &'static str, seen: &mut Vec<&'static str>) -> Result<(), E> {
        self.enter(key);
        if seen.contains(&key) {
            return Err(self.fail("each key once", "it twice"));
        }
        seen.push(key);
        Ok(())
    }
}

/// A key, as the one of `known` that it is; all others are alike.
struct Key(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|known| **known == key).copied())
    }
}

struct Whole<'a>(&'a Reading<'a>);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = Draft;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Draft, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = Draft;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with inputs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Draft, A::Error> {
        const KEYS: &[&str] = &["id", "parameters", "inputs", "outputs"];
        let (reading, mut draft, mut seen) = (self.0, Draft::default(), Vec::new());
        while let Some(key) = map.next_key_seed(Key(KEYS))? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            reading.once(key, &mut seen)?;
            let (inputs_max, outputs_max) = reading.metadata.counts();
            match key {
                "id" => draft.id = Some(map.next_value_seed(Id(reading))?),
                "parameters" => draft.parameters = map.next_value_seed(ParametersSeed(reading))?,
                "inputs" => {
                    let list = List { reading, list: "inputs", most: inputs_max, item: InputSeed };
                    draft.inputs = map.next_value_seed(list)?;
                }
                _ => {
                    let list = List { reading, list: "outputs", most: outputs_max, item: OutputSeed };
                    draft.outputs = map.next_value_seed(list)?;
                }
            }
            *reading.at.borrow_mut() = Place::default();
        }
        if !seen.contains(&"inputs") {
            reading.enter("inputs");
            return Err(reading.fail("a list of tensors", "nothing"));
        }
        Ok(draft)
    }
}

/// A text of bounded length.
struct Id<'a>(&'a Reading<'a>);

impl<'de> DeserializeSeed<'de> for Id<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Id<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<String, E> {
        if id.len() > ID_BYTES_MAX {
            return Err(self.0.fail(format!("at most {ID_BYTES_MAX} bytes"), format!("{} bytes", id.len())));
        }
        Ok(id.to_owned())
    }
}

/// `inputs` or `outputs`.
struct List<'a, F> {
    reading: &'a Reading<'a>,
    list: &'static str,
    most: usize,
    item: F,
}

/// A seed for one entry of a list.
trait Item<'a> {
    type Seed: for<'de> DeserializeSeed<'de, Value = Self::Value>;
    type Value;
    fn seed(&self, reading: &'a Reading<'a>, index: usize) -> Self::Seed;
}

struct InputSeed;
struct OutputSeed;

impl<'a> Item<'a> for InputSeed {
    type Seed = InputVisitor<'a>;
    type Value = DraftInput;
    fn seed(&self, reading: &'a Reading<'a>, index: usize) -> Self::Seed {
        InputVisitor { reading, index }
    }
}

impl<'a> Item<'a> for OutputSeed {
    type Seed = OutputVisitor<'a>;
    type Value = Wanted;
    fn seed(&self, reading: &'a Reading<'a>, _: usize) -> Self::Seed {
        OutputVisitor(reading)
    }
}

impl<'de, 'a, F: Item<'a>> DeserializeSeed<'de> for List<'a, F> {
    type Value = Vec<F::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, 'a, F: Item<'a>> Visitor<'de> for List<'a, F> {
    type Value = Vec<F::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tensors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Self { reading, list: name, most, item } = self;
        let mut values = Vec::new();
        loop {
            *reading.at.borrow_mut() = Place { list: Some((name, values.len())), ..Place::default() };
            let Some(value) = list.next_element_seed(item.seed(reading, values.len()))? else { return Ok(values) };
            if values.len() == most {
                *reading.at.borrow_mut() = Place { list: None, key: name, elements: Vec::new() };
                return Err(reading.fail(format!("at most the model's {most}"), "more"));
            }
            values.push(value);
        }
    }
}

struct InputVisitor<'a> {
    reading: &'a Reading<'a>,
    index: usize,
}

impl<'de> DeserializeSeed<'de> for InputVisitor<'_> {
    type Value = DraftInput;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<DraftInput, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for InputVisitor<'_> {
    type Value = DraftInput;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor {\"name\", \"shape\", \"datatype\", \"data\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DraftInput, A::Error> {
        const KEYS: &[&str] = &["name", "shape", "datatype", "parameters", "data"];
        let Self { reading, index } = self;
        let (mut input, mut seen) = (DraftInput::default(), Vec::new());
        let known = reading.known.get(index);
        while let Some(key) = map.next_key_seed(Key(KEYS))? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            reading.once(key, &mut seen)?;
            match key {
                "name" => input.name = map.next_value()?,
                "datatype" => input.datatype = map.next_value()?,
                "shape" => input.shape = map.next_value_seed(Shape(reading))?,
                "parameters" => input.parameters = map.next_value_seed(ParametersSeed(reading))?,
                _ => {
                    let here = ["datatype", "shape"].iter().all(|key| seen.contains(key));
                    let announced = if here {
                        Some((&input.datatype, &input.shape))
                    } else {
                        known.map(|(datatype, shape)| (datatype, shape))
                    };
                    input.data = match announced {
                        Some((datatype, shape)) => {
                            Data::Elements(map.next_value_seed(DataSeed::new(reading, datatype, shape)?)?)
                        }
                        None => {
                            map.next_value::<IgnoredAny>()?;
                            Data::Postponed
                        }
                    };
                }
            }
        }
        for key in ["name", "shape", "datatype"] {
            if !seen.contains(&key) {
                reading.enter(key);
                return Err(reading.fail("it", "nothing"));
            }
        }
        Ok(input)
    }
}

struct OutputVisitor<'a>(&'a Reading<'a>);

impl<'de> DeserializeSeed<'de> for OutputVisitor<'_> {
    type Value = Wanted;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Wanted, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OutputVisitor<'_> {
    type Value = Wanted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an output {\"name\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wanted, A::Error> {
        const KEYS: &[&str] = &["name", "parameters"];
        let (reading, mut wanted, mut seen) = (self.0, Wanted::default(), Vec::new());
        while let Some(key) = map.next_key_seed(Key(KEYS))? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            reading.once(key, &mut seen)?;
            if key == "name" {
                wanted.name = map.next_value()?;
            } else {
                let parameters = map.next_value_seed(ParametersSeed(reading))?;
                // Triton's clients send 0 where nobody asks for classes.
                wanted.classes = parameters.classification.filter(|count| *count > 0);
                wanted.is_binary = parameters.binary_data;
            }
        }
        if !seen.contains(&"name") {
            reading.enter("name");
            return Err(reading.fail("it", "nothing"));
        }
        Ok(wanted)
    }
}

struct Shape<'a>(&'a Reading<'a>);

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Vec<i64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<i64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = Vec<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<i64>, A::Error> {
        let mut sizes = Vec::new();
        self.0.at.borrow_mut().elements.push(0);
        while let Some(size) = list.next_element()? {
            if sizes.len() == DEPTH_MAX {
                return Err(self.0.fail(format!("at most {DEPTH_MAX} sizes"), "more"));
            }
            sizes.push(size);
            self.0.at.borrow_mut().elements[0] += 1;
        }
        self.0.at.borrow_mut().elements.clear();
        Ok(sizes)
    }
}

struct ParametersSeed<'a>(&'a Reading<'a>);

impl<'de> DeserializeSeed<'de> for ParametersSeed<'_> {
    type Value = Parameters;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parameters, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ParametersSeed<'_> {
    type Value = Parameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
        const KEYS: &[&str] = &["binary_data_size", "binary_data", "binary_data_output", "classification", "timeout"];
        let (mut parameters, mut seen) = (Parameters::default(), Vec::new());
        while let Some(key) = map.next_key_seed(Key(KEYS))? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let path = match key {
                "binary_data_size" => "parameters.binary_data_size",
                "binary_data" => "parameters.binary_data",
                "binary_data_output" => "parameters.binary_data_output",
                "classification" => "parameters.classification",
                _ => "parameters.timeout",
            };
            self.0.once(path, &mut seen)?;
            match key {
                "binary_data_size" => parameters.binary_data_size = Some(map.next_value()?),
                "binary_data" => parameters.binary_data = Some(map.next_value()?),
                "binary_data_output" => parameters.binary_data_output = Some(map.next_value()?),
                "classification" => parameters.classification = Some(map.next_value()?),
                _ => parameters.timeout = Some(map.next_value()?),
            }
            self.0.enter("parameters");
        }
        Ok(parameters)
    }
}

/// The elements of a tensor, flat or nested as its shape is.
struct DataSeed<'a> {
    reading: &'a Reading<'a>,
    elements: RefCell<Elements>,
    shape: &'a [i64],
    count: usize,
}

impl<'a> DataSeed<'a> {
    fn new<E: serde::de::Error>(reading: &'a Reading<'a>, datatype: &str, shape: &'a [i64]) -> Result<Self, E> {
        let index = reading.at.borrow().list.map_or(0, |(_, index)| index);
        let path = format!("inputs[{index}].datatype");
        let known = Datatype::named(datatype).filter(|datatype| !datatype.is_binary_only());
        let elements = known.map(|datatype| Elements::zeros(datatype, 0)).ok_or_else(|| {
            let got = format!("`{}`", excerpt(datatype));
            reading
                .fail_with(Fault::new(path, "a datatype that JSON can carry; FP16 and BF16 go as binary", got).into())
        })?;
        if let Some(axis) = shape.iter().position(|size| *size < 0) {
            let path = format!("inputs[{index}].shape[{axis}]");
            return Err(reading.fail_with(Fault::new(path, "a size of 0 or more", shape[axis].to_string()).into()));
        }
        let sizes = shape.iter().map(|size| usize::try_from(*size).ok());
        let count = sizes.into_iter().try_fold(1usize, |product, size| product.checked_mul(size?));
        let row = |input: &TensorMetadata| input.shape.iter().skip(1).product::<i64>();
        let row = reading.metadata.inputs.iter().map(row).max().unwrap_or(1);
        let most = reading.rows_max.saturating_mul(usize::try_from(row).unwrap_or(1));
        let Some(count) = count.filter(|count| *count <= most) else {
            let rows_max = reading.rows_max;
            let rows = shape.first().copied().unwrap_or(0);
            let error = if count.is_some() && usize::try_from(rows).is_ok_and(|rows| rows > rows_max) {
                Error::TooManyRows { rows_max }
            } else {
                let path = format!("inputs[{index}].shape");
                Fault::new(path, format!("at most {most} elements"), format!("the shape {shape:?}")).into()
            };
            return Err(reading.fail_with(error));
        };
        Ok(Self { reading, elements: RefCell::new(elements), shape, count })
    }
}

impl<'de> DeserializeSeed<'de> for DataSeed<'_> {
    type Value = Elements;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Elements, D::Error> {
        deserializer.deserialize_any(DataVisitor { data: &self, depth: 0 })?;
        let got = self.elements.borrow().len();
        if got != self.count {
            let expected = format!("the {} elements of the shape {:?}", self.count, self.shape);
            return Err(self.reading.fail(expected, got.to_string()));
        }
        Ok(self.elements.into_inner())
    }
}

/// A list of elements or of lists, or an element: `depth` says in how many lists it lies.
#[derive(Clone, Copy)]
struct DataVisitor<'a, 'b> {
    data: &'b DataSeed<'a>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for DataVisitor<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl DataVisitor<'_, '_> {
    fn expected(&self) -> String {
        let datatype = self.data.elements.borrow().datatype();
        match datatype {
            Datatype::Bool => "true or false, and not 0 or 1".to_owned(),
            Datatype::Bytes => "a text".to_owned(),
            Datatype::Fp32 | Datatype::Fp64 => {
                format!("a finite number that is {} ", datatype.name()).trim().to_owned()
            }
            _ => format!("a whole number in the range of {}", datatype.name()),
        }
    }

    fn refuse<E: serde::de::Error>(self, got: impl Into<String>) -> E {
        self.data.reading.fail(self.expected(), got)
    }

    fn push<E: serde::de::Error>(
        self,
        put: impl FnOnce(&mut Elements) -> bool,
        got: impl Fn() -> String,
    ) -> Result<bool, E> {
        let data = self.data;
        if self.depth == 0 {
            return Err(data.reading.fail("a list", got()));
        }
        let put = {
            let elements = &mut *data.elements.borrow_mut();
            if elements.len() == data.count {
                let expected = format!("the {} elements of the shape {:?}", data.count, data.shape);
                return Err(data.reading.fail(expected, "more"));
            }
            put(elements)
        };
        if put { Ok(false) } else { Err(self.refuse(got())) }
    }
}

/// A number as an element of an integer type, where it is one.
fn integer<T: TryFrom<i128>>(list: &mut Vec<T>, number: i128) -> bool {
    T::try_from(number).map(|number| list.push(number)).is_ok()
}

fn put_integer(elements: &mut Elements, number: i128) -> bool {
    match elements {
        Elements::Uint8(list) => integer(list, number),
        Elements::Uint16(list) => integer(list, number),
        Elements::Uint32(list) => integer(list, number),
        Elements::Uint64(list) => integer(list, number),
        Elements::Int8(list) => integer(list, number),
        Elements::Int16(list) => integer(list, number),
        Elements::Int32(list) => integer(list, number),
        Elements::Int64(list) => integer(list, number),
        Elements::Fp32(_) | Elements::Fp64(_) => put_number(elements, number as f64),
        Elements::Bool(_) | Elements::Fp16(_) | Elements::Bf16(_) | Elements::Bytes(_) => false,
    }
}

fn put_number(elements: &mut Elements, number: f64) -> bool {
    match elements {
        Elements::Fp32(list) => {
            list.push(number as f32);
            (number as f32).is_finite()
        }
        Elements::Fp64(list) => {
            list.push(number);
            number.is_finite()
        }
        // Above 2^53 a number with a point need not be the integer that was meant.
        _ if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 => put_integer(elements, number as i128),
        _ => false,
    }
}

impl<'de> Visitor<'de> for DataVisitor<'_, '_> {
    /// Whether it is a list.
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("elements of a tensor")
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<bool, E> {
        self.push(|elements| put_number(elements, number), || format!("{number:?}"))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<bool, E> {
        self.push(|elements| put_integer(elements, i128::from(number)), || number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<bool, E> {
        self.push(|elements| put_integer(elements, i128::from(number)), || number.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> Result<bool, E> {
        let put = |elements: &mut Elements| {
            if let Elements::Bool(list) = elements {
                list.push(truth);
            }
            elements.datatype() == Datatype::Bool
        };
        self.push(put, || truth.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
        let put = |elements: &mut Elements| {
            if let Elements::Bytes(list) = elements {
                list.push(text.as_bytes().to_vec());
            }
            elements.datatype() == Datatype::Bytes
        };
        self.push(put, || format!("the text \"{}\"", excerpt(text)))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<bool, E> {
        Err(self.refuse("null"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<bool, A::Error> {
        Err(self.refuse("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let Self { data, depth } = self;
        let reading = data.reading;
        if depth >= data.shape.len().max(1) {
            return Err(
                reading.fail(format!("lists nested as the shape {:?}, or one list", data.shape), "a deeper list")
            );
        }
        reading.at.borrow_mut().elements.push(0);
        let (mut count, mut are_lists) = (0, None);
        while let Some(is_list) = list.next_element_seed(DataVisitor { data, depth: depth + 1 })? {
            if *are_lists.get_or_insert(is_list) != is_list {
                return Err(reading.fail("elements or lists", "both"));
            }
            count += 1;
            if let Some(index) = reading.at.borrow_mut().elements.last_mut() {
                *index = count;
            }
        }
        reading.at.borrow_mut().elements.pop();
        // One flat list may hold everything; lists in lists must be as long as the shape says, or rows would shift.
        let is_nested = depth > 0 || are_lists == Some(true);
        let expected = data.shape.get(depth).copied();
        let is_whole = depth + 1 == data.shape.len() || are_lists == Some(true) || count == 0;
        if is_nested && !(is_whole && i64::try_from(count).ok() == expected) {
            let expected = format!("lists nested as the shape {:?}", data.shape);
            return Err(reading.fail(expected, format!("a list of {count}")));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

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
