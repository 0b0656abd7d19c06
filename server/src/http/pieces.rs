//! An answer's body in pieces of a bounded size.
//!
//! Head and body are copied into one buffer of their connection, since sending one piece costs less than sending two; that
//! buffer keeps the size that it once had. So it is given no more of a large body at a time than this.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The largest piece.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// A body that is there as a whole.
pub(super) struct Pieces(pub(super) Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.0.len().min(PIECE_BYTES_MAX);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.0.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_pieces_are_the_whole_and_the_last_is_known_as_such() {
        for length in [0, 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1, 3 * PIECE_BYTES_MAX] {
            let whole: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let mut body = Pieces(whole.clone().into());
            let mut got = Vec::new();
            while !body.is_end_stream() {
                assert_eq!(body.size_hint().exact(), Some((length - got.len()) as u64));
                let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert!((1..=PIECE_BYTES_MAX).contains(&piece.len()));
                got.extend_from_slice(&piece);
            }
            assert!(body.frame().await.is_none());
            assert_eq!(got, whole);
        }
    }
}
