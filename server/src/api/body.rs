//! A request's body, whole, within its bound and its deadline.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;

use super::ApiError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// How long a body is at least, by what is announced; an error if that is more than `bytes_max`.
pub(super) fn announced_bytes(body: &impl Body, bytes_max: usize) -> Result<usize, ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).ok().filter(|announced| *announced <= bytes_max);
    announced.ok_or_else(|| ApiError::body_too_large(bytes_max))
}

/// Whether the client sends the body only once it is told to, as hyper does when the body is read first.
pub(super) fn is_held_back(head: &Parts) -> bool {
    head.headers.get(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads at most `bytes_max`, until `deadline`.
pub(super) async fn read<B>(body: B, bytes_max: usize, deadline: Instant) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes, Error: Into<Cause>>,
{
    within(body, bytes_max, deadline, collect).await
}

/// Reads the body of a request that is refused, within the same bounds, and keeps nothing of it: a client that is answered
/// before it has sent everything may not look for the answer, and its connection would have to end.
pub(super) async fn discard<B>(body: B, bytes_max: usize, deadline: Instant) -> Result<(), ApiError>
where
    B: Body<Data = Bytes, Error: Into<Cause>>,
{
    within(body, bytes_max, deadline, drain).await
}

/// What `take` makes of at most `bytes_max` of a body, until `deadline`.
async fn within<B: Body, T>(
    body: B,
    bytes_max: usize,
    deadline: Instant,
    take: impl AsyncFnOnce(Limited<B>) -> Result<T, Cause>,
) -> Result<T, ApiError> {
    // Refused before it is read, where its length is announced.
    announced_bytes(&body, bytes_max)?;
    let mut taking = pin!(take(Limited::new(body, bytes_max)));
    // A small body has come with its head: no timer is set for it.
    let taken = match poll_fn(|context| Poll::Ready(taking.as_mut().poll(context))).await {
        Poll::Ready(taken) => taken,
        Poll::Pending => match tokio::time::timeout_at(deadline.into(), taking).await {
            Ok(taken) => taken,
            Err(_) => return Err(ApiError::body_slow()),
        },
    };
    taken.map_err(
        |e| if e.is::<LengthLimitError>() { ApiError::body_too_large(bytes_max) } else { ApiError::body_lost() },
    )
}

async fn drain<B>(body: Limited<B>) -> Result<(), Cause>
where
    B: Body<Data = Bytes, Error: Into<Cause>>,
{
    let mut body = pin!(body);
    while body.frame().await.transpose()?.is_some() {}
    Ok(())
}

async fn collect<B>(body: Limited<B>) -> Result<Bytes, Cause>
where
    B: Body<Data = Bytes, Error: Into<Cause>>,
{
    let mut body = pin!(body);
    let Some(first) = body.frame().await.transpose()? else { return Ok(Bytes::new()) };
    match first.into_data() {
        // One piece stays where it is.
        Ok(whole) if body.is_end_stream() => Ok(whole),
        Ok(piece) => {
            let mut pieces = Vec::from(piece);
            while let Some(frame) = body.frame().await.transpose()? {
                // What is no data comes after all of it.
                let Ok(piece) = frame.into_data() else { break };
                pieces.extend_from_slice(&piece);
            }
            Ok(pieces.into())
        }
        Err(_trailers) => Ok(Bytes::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::Context;
    use std::time::Duration;

    use http::StatusCode;
    use http_body_util::{Empty, Full};
    use hyper::body::Frame;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// A body that comes piece by piece.
    struct Pieces(UnboundedReceiver<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(context).map(|piece| Some(Ok(Frame::data(Bytes::from_static(piece?.as_bytes())))))
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_body_is_the_same_in_one_piece_and_in_many() {
        let whole = read(Full::from("abcdef"), 6, later()).await.unwrap();
        let (pieces, coming) = unbounded_channel();
        let (read, ()) = tokio::join!(read(Pieces(coming), 6, later()), async move {
            for piece in ["ab", "c", "def"] {
                pieces.send(piece).unwrap();
                tokio::task::yield_now().await;
            }
        });
        assert_eq!((read.unwrap(), whole), (Bytes::from("abcdef"), Bytes::from("abcdef")));
        assert_eq!(super::read(Empty::new(), 0, later()).await.unwrap(), Bytes::new());
    }

    #[tokio::test]
    async fn a_body_beyond_its_bound_or_its_deadline_is_refused() {
        let status = |error: ApiError| error.status();
        let announced = read(Full::from("abcdef"), 5, later()).await.map_err(status);
        assert_eq!(announced, Err(StatusCode::PAYLOAD_TOO_LARGE));
        let (pieces, coming) = unbounded_channel();
        for piece in ["abc", "def"] {
            pieces.send(piece).unwrap();
        }
        assert_eq!(read(Pieces(coming), 5, later()).await.map_err(status), Err(StatusCode::PAYLOAD_TOO_LARGE));
        let (_pieces, coming) = unbounded_channel();
        assert_eq!(read(Pieces(coming), 5, Instant::now()).await.map_err(status), Err(StatusCode::REQUEST_TIMEOUT));
    }
}
