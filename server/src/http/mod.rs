//! The data listener: accepts, speaks HTTP/1.1 and HTTP/2, bounds everything, and drains gracefully.
//!
//! A connection is given to the core with the fewest, and stays there: `core` says what a core is. The layers of a
//! request, from the outside in:
//!
//! 1. its id: the client's `x-request-id`, or a new one; on every answer, also on errors;
//! 2. the limit on requests at hand: beyond it, 503 with Retry-After before more of the body is read. What is answered in the
//!    next turn of its core is never at hand, and takes part in nothing that the cores share;
//! 3. [`Api::answer`], or [`Grpc::answer`] for a call, with a deadline on the body and on the queue.
//!
//! A connection has a deadline for its first request, and all connections together have a bound. Dropping a
//! connection drops its request.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::connection::Link;
use self::pieces::Pieces;
use crate::api::{Api, ApiError};
use crate::grpc::Grpc;

mod connection;
mod core;
mod pieces;
mod turns;

/// Carries the id by which an answer and the log's lines about it are brought together.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most requests at hand on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// The most connections that wait to be accepted: all that the kernel allows, which is 4096 unless `net.core.somaxconn` says
/// otherwise. A client beyond it hears nothing and tries again after a second.
const BACKLOG: u32 = 4096;

/// How much all clients together may ask for.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The most connections; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// The most requests at hand.
    pub requests_max: usize,
    /// How long the requests at hand may take once the server is told to stop.
    pub drain_timeout: Duration,
}

/// How a core speaks to its connections. Each core has its own, since counting references is work that cores would share.
struct Front {
    protocol: auto::Builder<TokioExecutor>,
    api: Arc<Api>,
    grpc: Arc<Grpc>,
    /// The requests at hand on all cores.
    at_hand: Arc<AtomicUsize>,
    requests_max: usize,
}

/// A request's place among those at hand, until dropped.
struct Place<'a>(&'a AtomicUsize);

/// Answers every request on `listener` with `api` on as many cores until `shutdown` completes, and then those at hand.
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    grpc: Arc<Grpc>,
    cores: NonZeroUsize,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let ConnectionLimits { connections_max, requests_max, drain_timeout } = limits;
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    // A core looks after the idle ones, without a timer for each request. Head and body are sent as one, which costs less.
    protocol.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX).writev(false);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(30));
    let at_hand = Arc::new(AtomicUsize::new(0));
    let start = |(index, seat)| {
        let (protocol, api, grpc) = (protocol.clone(), Arc::clone(&api), Arc::clone(&grpc));
        let front = Front { protocol, api, grpc, at_hand: Arc::clone(&at_hand), requests_max };
        core::start(index, seat, Arc::new(front), connections_max, drain_timeout)
    };
    let seats = turns::seats(cores).into_iter().enumerate();
    let (arrivals, ends): (Vec<_>, Vec<_>) = seats.map(start).collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
    let places = Arc::new(Semaphore::new(connections_max));
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let core = arrivals.iter().min_by_key(|core| core.connections()).expect("there is a core");
        core.give(stream, place);
    }
    drop(listener);
    drop(arrivals);
    let mut was_cut_off = false;
    for end in ends {
        was_cut_off |= end.wait().await;
    }
    if was_cut_off {
        tracing::warn!(timeout_s = drain_timeout.as_secs_f64(), "requests were cut off at the end of the drain");
    }
    Ok(())
}

impl Front {
    /// Answers the requests of one connection until it ends, as `link` may tell it to.
    async fn serve(self: Arc<Self>, stream: tokio::net::TcpStream, link: Arc<Link>) {
        let service = service_fn(|request: Request<Incoming>| {
            let (front, link) = (Arc::clone(&self), Arc::clone(&link));
            async move {
                let _at_hand = link.request(request.version() == Version::HTTP_2);
                let id = request_id(&request);
                let mut response = if Grpc::is_call(&request) {
                    front.call(request, text(&id)).await.map(Either::Right)
                } else {
                    let (head, body) = request.into_parts();
                    front.answer(&head, body, text(&id)).await.map(|body| Either::Left(Pieces(body)))
                };
                response.headers_mut().insert(REQUEST_ID, id);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = pin!(self.protocol.serve_connection(TokioIo::new(stream), service));
        if let Some(Err(error)) = link.drive(connection, |connection| connection.graceful_shutdown()).await {
            tracing::debug!(error, "a connection ended early");
        }
    }

    async fn answer(&self, head: &Parts, body: Incoming, id: &str) -> Response<Bytes> {
        let answered = self.bounded(pin!(self.api.answer(head, body, id))).await;
        answered.unwrap_or_else(|| ApiError::overloaded().into_response(id))
    }

    async fn call(&self, request: Request<Incoming>, id: &str) -> Response<tonic::body::Body> {
        self.bounded(pin!(self.grpc.answer(request, id))).await.unwrap_or_else(Grpc::overloaded)
    }

    /// What `answer` gives; nothing, and no more of it, if it must wait while as many do as may. What waits for a worker
    /// has been admitted by the queue, whose bound it has: to turn it away here would make its decoding vain.
    async fn bounded<T>(&self, mut answer: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut has_waited = false;
        let answered = poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            // What shares a run with other requests of this turn is answered in the next.
            Poll::Pending if !has_waited => {
                has_waited = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(answered) = answered.await {
            return Some(answered);
        }
        let _place = self.admit()?;
        Some(answer.await)
    }

    /// A place for a request, if there is one.
    fn admit(&self) -> Option<Place<'_>> {
        let place = Place(&self.at_hand);
        // Those that are turned away are counted for that moment too, which can only turn more away.
        let at_hand = self.at_hand.fetch_add(1, Ordering::Relaxed);
        (at_hand < self.requests_max + self.api.queued()).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it, an answer in two segments waits 40 ms for the client's acknowledgement.
                if stream.set_nodelay(true).is_ok()
                    && let Ok(stream) = stream.into_std()
                {
                    return (stream, place);
                }
            }
            Err(error) if transient(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: accepting at once again would only burn the processor.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// The client's id for the request where it is short and printable, else a new one.
fn request_id(request: &Request<Incoming>) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let mut buffer = uuid::Uuid::encode_buffer();
        let id = uuid::Uuid::new_v4().simple().encode_lower(&mut buffer);
        HeaderValue::from_str(id).expect("an id has only hexadecimal digits")
    })
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().expect("an id is printable ASCII")
}

/// Listens on `address`; `flag` is what a user changes where that fails. To be called in a runtime.
pub fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, BindError> {
    listen(address).map_err(|source| BindError { address, flag, source })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Else a server that follows one could not listen until the last of its connections is forgotten. Elsewhere it means more.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: stop the program that does, or choose another address with {flag}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_that_come_all_at_once_need_not_wait_until_they_are_accepted() {
        let listener = bind(([127, 0, 0, 1], 0).into(), "--listen").unwrap();
        let address = listener.local_addr().unwrap();
        // Beyond the backlog, connecting would not end before somebody accepts, and nobody does.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(30)).unwrap();
        assert_eq!((0..400).map(connect).collect::<Vec<_>>().len(), 400);
    }
}
