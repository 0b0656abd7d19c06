//! What the JSON of a request says, part by part, with the place of each for errors.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ID_BYTES_MAX;
use super::elements::ElementsSeed;
use crate::tensor::Elements;
use crate::wire::excerpt;
use crate::wire::oip::{Error, Fault, Metadata, Wanted};

/// The deepest nesting of a tensor's data.
const DEPTH_MAX: usize = 8;

/// A request as far as its JSON says.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) id: Option<String>,
    pub(super) parameters: Parameters,
    pub(super) inputs: Vec<DraftInput>,
    pub(super) outputs: Vec<Wanted>,
}

#[derive(Default)]
pub(super) struct DraftInput {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<i64>,
    pub(super) parameters: Parameters,
    pub(super) data: Data,
}

/// The elements of an input.
#[derive(Default, PartialEq)]
pub(super) enum Data {
    #[default]
    None,
    Elements(Elements),
    /// They came before their datatype and shape.
    Postponed,
}

/// The parameters that mean something here; all others are passed over.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) binary_data_size: Option<usize>,
    pub(super) binary_data: Option<bool>,
    pub(super) binary_data_output: Option<bool>,
    pub(super) classification: Option<usize>,
    pub(super) timeout: Option<u64>,
}

/// Reads the JSON; `known` are the datatypes and shapes of the inputs, where they have been read before.
pub(super) fn read(
    metadata: &Metadata,
    json: &[u8],
    rows_max: usize,
    known: &[(String, Vec<i64>)],
) -> Result<Draft, Error> {
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
pub(super) struct Reading<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) rows_max: usize,
    known: &'a [(String, Vec<i64>)],
    pub(super) at: RefCell<Place>,
    /// Why reading was ended, where it was not the JSON's fault.
    fault: RefCell<Option<Error>>,
}

/// Where in the request reading is.
#[derive(Default)]
pub(super) struct Place {
    /// `inputs` or `outputs`, and the place in it.
    pub(super) list: Option<(&'static str, usize)>,
    key: &'static str,
    pub(super) elements: Vec<usize>,
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
    pub(super) fn fail<E: serde::de::Error>(&self, expected: impl Into<String>, got: impl Into<String>) -> E {
        let path = self.at.borrow().path();
        self.fail_with(Fault::new(path, expected, got).into())
    }

    pub(super) fn fail_with<E: serde::de::Error>(&self, error: Error) -> E {
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

    /// Ends reading where `key` has not been met.
    fn require<E: serde::de::Error>(&self, key: &'static str, seen: &[&'static str], expected: &str) -> Result<(), E> {
        if seen.contains(&key) {
            return Ok(());
        }
        self.enter(key);
        Err(self.fail(expected, "nothing"))
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

/// The next key of `known`, with its value yet to be read; all others are passed over.
fn next_key<'de, A: MapAccess<'de>>(
    map: &mut A,
    known: &'static [&'static str],
) -> Result<Option<&'static str>, A::Error> {
    while let Some(key) = map.next_key_seed(Key(known))? {
        if key.is_some() {
            return Ok(key);
        }
        map.next_value::<IgnoredAny>()?;
    }
    Ok(None)
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
        while let Some(key) = next_key(&mut map, KEYS)? {
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
        reading.require("inputs", &seen, "a list of tensors")?;
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
        while let Some(key) = next_key(&mut map, KEYS)? {
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
                            Data::Elements(map.next_value_seed(ElementsSeed::new(reading, datatype, shape)?)?)
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
            reading.require(key, &seen, "it")?;
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
        while let Some(key) = next_key(&mut map, KEYS)? {
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
        reading.require("name", &seen, "it")?;
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
        while let Some(key) = next_key(&mut map, KEYS)? {
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
