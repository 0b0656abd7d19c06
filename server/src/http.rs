//! The data listener: accepts, speaks HTTP/1.1 and HTTP/2, bounds everything, and drains gracefully.
//!
//! The layers of a request, from the outside in:
//!
//! 1. its id: the client's `x-request-id`, or a new one; on every answer, also on errors;
//! 2. the limit on requests at hand: beyond it, 503 with Retry-After before the body is read;
//! 3. [`Api::answer`], with a deadline on the body and on the queue.
//!
//! A connection has a deadline for its first request, and all connections together have a bound. Dropping a
//! connection drops its request.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, ServiceExt};

use crate::api::{Api, ApiError, Body};
use crate::grpc::Grpc;

/// Carries the id by which an answer and the log's lines about it are brought together.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// How long a client may take until its first request has begun.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may idle, and a further request's head may take: hyper has one time for both. Longer than load
/// balancers keep idle connections (60 s is usual), so that they never use one that the server is just closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most requests at hand on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

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

/// Answers every request on `listener` with `api` until `shutdown` completes, and then those at hand.
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    grpc: Arc<Grpc>,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(30));
    let stack = ServiceBuilder::new().load_shed().concurrency_limit(limits.requests_max).service(tower::service_fn(
        move |(request, id): (Request<Incoming>, HeaderValue)| {
            let (api, grpc) = (Arc::clone(&api), Grpc::is_call(&request).then(|| Arc::clone(&grpc)));
            async move {
                Ok::<_, Infallible>(match grpc {
                    Some(grpc) => grpc.answer(request, text(&id)).await.map(Either::Right),
                    None => api.answer(request, text(&id)).await.map(Either::Left),
                })
            }
        },
    ));
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let stack = stack.clone();
        let begun = Arc::new(AtomicBool::new(false));
        let first = Arc::clone(&begun);
        let service = service_fn(move |request: Request<Incoming>| {
            first.store(true, Ordering::Relaxed);
            let stack = stack.clone();
            async move {
                let (id, is_call) = (request_id(&request), Grpc::is_call(&request));
                // The limit is the only layer that fails, and it fails at once.
                let answered = stack.oneshot((request, id.clone())).await;
                let mut response: Response<Either<Body, tonic::body::Body>> = answered.unwrap_or_else(|_| {
                    if is_call {
                        Grpc::overloaded().map(Either::Right)
                    } else {
                        ApiError::overloaded().into_response(text(&id)).map(Either::Left)
                    }
                });
                response.headers_mut().insert(REQUEST_ID, id);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            // hyper's own timeout begins once it knows the protocol, which a silent client never tells.
            let ended = match tokio::time::timeout(FIRST_TIMEOUT, &mut connection).await {
                Err(_) if !begun.load(Ordering::Relaxed) => Ok(()),
                Err(_) => connection.await,
                Ok(ended) => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!(timeout_s = limits.drain_timeout.as_secs_f64(), "requests were cut off at the end of the drain");
    }
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    loop {
        let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it, an answer in two segments waits 40 ms for the client's acknowledgement.
                if stream.set_nodelay(true).is_ok() {
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
        let id = uuid::Uuid::new_v4().simple().to_string();
        HeaderValue::from_str(&id).expect("an id has only hexadecimal digits")
    })
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().expect("an id is printable ASCII")
}

/// Listens on `address`; `flag` is what a user changes where that fails.
pub async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, flag, source })
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: stop the program that does, or choose another address with {flag}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    source: io::Error,
}
