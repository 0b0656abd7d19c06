//! The bytes of tensors: little-endian and row by row, a string with its length in four bytes before it.

use half::{bf16, f16};

use super::Fault;
use crate::tensor::{Datatype, Elements};

/// The elements that `bytes` hold, which must be `count`; `path` is where the tensor stands in its request.
pub fn decode(path: &str, datatype: Datatype, count: usize, bytes: &[u8]) -> Result<Elements, Fault> {
    let Some(size_bytes) = datatype.size_bytes() else { return strings(path, count, bytes) };
    if count.checked_mul(size_bytes) != Some(bytes.len()) {
        let expected = format!("{count} elements of {size_bytes} bytes");
        return Err(Fault::new(path, expected, format!("{} bytes", bytes.len())));
    }
    Ok(match datatype {
        Datatype::Bool => {
            if let Some(at) = bytes.iter().position(|byte| *byte > 1) {
                return Err(Fault::new(format!("{path}[{at}]"), "0 or 1", bytes[at].to_string()));
            }
            Elements::Bool(bytes.iter().map(|byte| *byte == 1).collect())
        }
        Datatype::Uint8 => Elements::Uint8(bytes.to_vec()),
        Datatype::Int8 => Elements::Int8(bytes.iter().map(|byte| byte.cast_signed()).collect()),
        Datatype::Uint16 => Elements::Uint16(numbers(bytes, u16::from_le_bytes)),
        Datatype::Int16 => Elements::Int16(numbers(bytes, i16::from_le_bytes)),
        Datatype::Fp16 => Elements::Fp16(numbers(bytes, f16::from_le_bytes)),
        Datatype::Bf16 => Elements::Bf16(numbers(bytes, bf16::from_le_bytes)),
        Datatype::Uint32 => Elements::Uint32(numbers(bytes, u32::from_le_bytes)),
        Datatype::Int32 => Elements::Int32(numbers(bytes, i32::from_le_bytes)),
        Datatype::Fp32 => Elements::Fp32(numbers(bytes, f32::from_le_bytes)),
        Datatype::Uint64 => Elements::Uint64(numbers(bytes, u64::from_le_bytes)),
        Datatype::Int64 => Elements::Int64(numbers(bytes, i64::from_le_bytes)),
        Datatype::Fp64 => Elements::Fp64(numbers(bytes, f64::from_le_bytes)),
        Datatype::Bytes => unreachable!("strings have no size of their own"),
    })
}

/// `elements` as bytes.
pub fn encode(elements: &Elements) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(elements, &mut bytes);
    bytes
}

/// Appends the bytes of `elements`, and says how many they are.
pub(super) fn encode_into(elements: &Elements, to: &mut Vec<u8>) -> usize {
    fn put<T: Copy, const N: usize>(to: &mut Vec<u8>, elements: &[T], bytes: impl Fn(T) -> [u8; N]) {
        let from = to.len();
        to.resize(from + elements.len() * N, 0);
        for (chunk, element) in to[from..].as_chunks_mut().0.iter_mut().zip(elements) {
            *chunk = bytes(*element);
        }
    }
    let before = to.len();
    match elements {
        Elements::Bool(elements) => to.extend(elements.iter().map(|element| u8::from(*element))),
        Elements::Uint8(elements) => to.extend_from_slice(elements),
        Elements::Int8(elements) => put(to, elements, i8::to_le_bytes),
        Elements::Uint16(elements) => put(to, elements, u16::to_le_bytes),
        Elements::Fp16(elements) => put(to, elements, f16::to_le_bytes),
        Elements::Bf16(elements) => put(to, elements, bf16::to_le_bytes),
        Elements::Int16(elements) => put(to, elements, i16::to_le_bytes),
        Elements::Uint32(elements) => put(to, elements, u32::to_le_bytes),
        Elements::Int32(elements) => put(to, elements, i32::to_le_bytes),
        Elements::Fp32(elements) => put(to, elements, f32::to_le_bytes),
        Elements::Uint64(elements) => put(to, elements, u64::to_le_bytes),
        Elements::Int64(elements) => put(to, elements, i64::to_le_bytes),
        Elements::Fp64(elements) => put(to, elements, f64::to_le_bytes),
        Elements::Bytes(elements) => {
            for text in elements {
                let length = u32::try_from(text.len()).expect("no text is as long as 4 GiB");
                to.extend_from_slice(&length.to_le_bytes());
                to.extend_from_slice(text);
            }
        }
    }
    to.len() - before
}

fn numbers<T, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|chunk| number(*chunk)).collect()
}

fn strings(path: &str, count: usize, mut bytes: &[u8]) -> Result<Elements, Fault> {
    // Each takes four bytes at least: what is reserved is never more than what came.
    let mut elements = Vec::with_capacity(count.min(bytes.len() / 4));
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((text, rest)) = rest.split_at_checked(length) else {
            let at = format!("{path}[{}]", elements.len());
            return Err(Fault::new(at, format!("{length} bytes"), format!("{} bytes", rest.len())));
        };
        if elements.len() == count {
            return Err(Fault::new(path, format!("{count} strings"), "more"));
        }
        elements.push(text.to_vec());
        bytes = rest;
    }
    if bytes.is_empty() && elements.len() == count {
        return Ok(Elements::Bytes(elements));
    }
    let got = format!("{} and {} bytes more", elements.len(), bytes.len());
    Err(Fault::new(path, format!("{count} strings, each with its length in 4 bytes"), got))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_again_unchanged() {
        for elements in [
            Elements::Bool(vec![true, false]),
            Elements::Uint8(vec![0, 255]),
            Elements::Int8(vec![-128, 127]),
            Elements::Uint16(vec![1, u16::MAX]),
            Elements::Int16(vec![i16::MIN, 2]),
            Elements::Fp16(vec![f16::ONE, f16::MIN_POSITIVE_SUBNORMAL]),
            Elements::Bf16(vec![bf16::MAX]),
            Elements::Uint32(vec![u32::MAX]),
            Elements::Int32(vec![i32::MIN]),
            Elements::Fp32(vec![1.5, f32::MIN_POSITIVE]),
            Elements::Uint64(vec![u64::MAX]),
            Elements::Int64(vec![9_007_199_254_740_993, i64::MIN]),
            Elements::Fp64(vec![0.1]),
            Elements::Bytes(vec![b"".to_vec(), b"caf\xc3\xa9".to_vec(), vec![0, 255]]),
            Elements::Fp32(vec![]),
        ] {
            let bytes = encode(&elements);
            assert_eq!(decode("x", elements.datatype(), elements.len(), &bytes).unwrap(), elements);
        }
        assert_eq!(encode(&Elements::Fp32(vec![1.0])), [0, 0, 0x80, 0x3f]);
        assert_eq!(encode(&Elements::Fp16(vec![f16::ONE])), [0, 0x3c]);
        assert_eq!(encode(&Elements::Bf16(vec![bf16::ONE])), [0x80, 0x3f]);
        assert_eq!(encode(&Elements::Bytes(vec![b"ab".to_vec()])), [2, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn bytes_that_do_not_add_up_are_faults() {
        for (datatype, count, bytes) in [
            (Datatype::Fp32, 2, &[0; 7][..]),
            (Datatype::Fp32, usize::MAX, &[0; 4]),
            (Datatype::Bool, 1, &[2]),
            (Datatype::Bytes, 1, &[]),
            (Datatype::Bytes, 1, &[1, 0, 0, 0]),
            (Datatype::Bytes, 1, &[0xff, 0xff, 0xff, 0xff, 1]),
            (Datatype::Bytes, 1, &[0, 0, 0, 0, 0]),
            (Datatype::Bytes, 1, &[0, 0, 0, 0, 0, 0, 0, 0]),
            (Datatype::Bytes, usize::MAX, &[0, 0, 0, 0]),
        ] {
            assert!(decode("inputs[0].data", datatype, count, bytes).unwrap_err().path.starts_with("inputs[0].data"));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), count in 0..20usize) {
            for datatype in [Datatype::Bytes, Datatype::Fp32, Datatype::Bool, Datatype::Int64] {
                let _ = decode("x", datatype, count, &bytes);
            }
        }
    }
}
