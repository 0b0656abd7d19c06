//! The elements of a tensor, straight into it.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::draft::Reading;
use crate::tensor::{Datatype, Elements};
use crate::wire::excerpt;
use crate::wire::oip::{Error, Fault, TensorMetadata};

/// The elements of a tensor, flat or nested as its shape is.
pub(super) struct ElementsSeed<'a> {
    reading: &'a Reading<'a>,
    elements: RefCell<Elements>,
    shape: &'a [i64],
    count: usize,
}

impl<'a> ElementsSeed<'a> {
    pub(super) fn new<E: serde::de::Error>(
        reading: &'a Reading<'a>,
        datatype: &str,
        shape: &'a [i64],
    ) -> Result<Self, E> {
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

impl<'de> DeserializeSeed<'de> for ElementsSeed<'_> {
    type Value = Elements;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Elements, D::Error> {
        deserializer.deserialize_any(ElementsVisitor { data: &self, depth: 0 })?;
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
struct ElementsVisitor<'a, 'b> {
    data: &'b ElementsSeed<'a>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for ElementsVisitor<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl ElementsVisitor<'_, '_> {
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

impl<'de> Visitor<'de> for ElementsVisitor<'_, '_> {
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
        while let Some(is_list) = list.next_element_seed(ElementsVisitor { data, depth: depth + 1 })? {
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
