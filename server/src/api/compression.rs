//! Compressed bodies: read where the client sends one, written where it asks for one and the answer is large.
//!
//! What is unpacked is bounded as a body is; packing and unpacking run on threads that may block.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::Response;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, VARY};
use http::request::Parts;

use super::{ApiError, Body};

/// The smallest answer that is packed: below it, packing costs more than sending.
const PACKED_BYTES_MIN: usize = 16 << 10;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    /// As HTTP means it: zlib around deflate.
    Deflate,
}

impl Coding {
    /// How a request's body is packed.
    pub fn of_body(head: &Parts) -> Result<Self, ApiError> {
        let Some(coding) = head.headers.get(CONTENT_ENCODING) else { return Ok(Self::Identity) };
        let name = coding.to_str().unwrap_or_default().trim();
        Self::named(name).ok_or_else(ApiError::content_encoding)
    }

    /// How an answer may be packed, by what the request accepts.
    fn accepted(head: &Parts) -> Self {
        let lists = head.headers.get_all(ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
        let mut best = Self::Identity;
        for entry in lists.flat_map(|list| list.split(',')) {
            let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
            let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok()).unwrap_or(1.0);
            match Self::named(name.trim()) {
                Some(coding) if weight > 0.0 && best != Self::Gzip => best = coding,
                _ => {}
            }
        }
        best
    }

    fn named(name: &str) -> Option<Self> {
        [("identity", Self::Identity), ("gzip", Self::Gzip), ("x-gzip", Self::Gzip), ("deflate", Self::Deflate)]
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known))
            .map(|(_, coding)| coding)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// `body`, which is packed, unpacked: at most `bytes_max` of it.
pub async fn inflate(coding: Coding, body: Bytes, bytes_max: usize) -> Result<Bytes, ApiError> {
    let unpack = move || {
        let mut unpacked = Vec::new();
        // One byte more than allowed tells that there is more.
        let limit = bytes_max as u64 + 1;
        let read = match coding {
            Coding::Gzip => MultiGzDecoder::new(&body[..]).take(limit).read_to_end(&mut unpacked),
            _ => ZlibDecoder::new(&body[..]).take(limit).read_to_end(&mut unpacked),
        };
        match read {
            Ok(_) if unpacked.len() > bytes_max => Err(ApiError::body_too_large(bytes_max)),
            Ok(_) => Ok(Bytes::from(unpacked)),
            Err(_) => Err(ApiError::body_packed(coding.name())),
        }
    };
    tokio::task::spawn_blocking(unpack).await.expect("no body makes the unpacking panic")
}

/// Whether an answer is large enough.
pub fn pays(response: &Response<Body>) -> bool {
    response.body().len() >= PACKED_BYTES_MIN
}

/// `response`, packed where the request accepts that.
pub async fn deflate(request: &Parts, response: Response<Body>) -> Response<Body> {
    let coding = Coding::accepted(request);
    if coding == Coding::Identity {
        return response;
    }
    let (mut head, bytes) = response.into_parts();
    let pack = move || {
        let packed = Vec::with_capacity(bytes.len() / 2);
        let written = match coding {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(packed, Compression::fast());
                encoder.write_all(&bytes).and_then(|()| encoder.finish())
            }
            _ => {
                let mut encoder = ZlibEncoder::new(packed, Compression::fast());
                encoder.write_all(&bytes).and_then(|()| encoder.finish())
            }
        };
        written.expect("writing into memory does not fail")
    };
    let packed = tokio::task::spawn_blocking(pack).await.expect("packing does not panic");
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    head.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(head, Body::from(packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &str) -> Parts {
        http::Request::get("/").header(ACCEPT_ENCODING, value).body(()).unwrap().into_parts().0
    }

    fn accepted(value: &str) -> Coding {
        Coding::accepted(&accepting(value))
    }

    #[test]
    fn an_answer_is_packed_as_the_client_accepts_it() {
        assert_eq!(accepted("gzip, deflate, br"), Coding::Gzip);
        assert_eq!(accepted("deflate"), Coding::Deflate);
        assert_eq!(accepted("br;q=1.0, gzip;q=0.5"), Coding::Gzip);
        for nothing in ["", "identity", "gzip;q=0", "br", "*"] {
            assert_eq!(accepted(nothing), Coding::Identity, "{nothing}");
        }
    }

    #[tokio::test]
    async fn what_is_packed_is_unpacked_again_within_its_bound() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let body = Bytes::from(vec![b'a'; 1 << 20]);
            let packed = deflate(&accepting(coding.name()), Response::new(body.clone())).await;
            assert_eq!(packed.headers()[CONTENT_ENCODING], coding.name());
            let packed = packed.into_body();
            assert!(packed.len() < body.len() / 50, "{}", packed.len());
            assert_eq!(inflate(coding, packed.clone(), 1 << 20).await.unwrap(), body);
            assert_eq!(inflate(coding, packed.clone(), (1 << 20) - 1).await.unwrap_err().status(), 413);
            assert_eq!(inflate(coding, packed.slice(..50), 1 << 20).await.unwrap_err().status(), 400);
        }
        assert!(!pays(&Response::new(Bytes::from_static(b"{}"))));
    }
}
