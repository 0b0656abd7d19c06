//! The least that an HTTP server can do: hyper reads a request's body and gives the same bytes back each time.
//!
//! What a server under load costs beyond this is what it does itself.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;

/// Serves the bytes of `file` to everything, until it is killed; with `grpc` over HTTP/2 and with gRPC's good end. Says where.
pub fn serve(file: &Path, runtime_per_core: bool, grpc: bool) {
    let answer = Bytes::from(std::fs::read(file).unwrap());
    let threads = thread::available_parallelism().unwrap().get();
    if !runtime_per_core {
        let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        return runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            say(listener.local_addr().unwrap());
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(talk(stream, answer.clone(), grpc));
            }
        });
    }
    // One thread accepts and the runtimes take turns, so that each has as many connections as the others.
    let start = |_| {
        let (sender, mut streams) = mpsc::channel::<std::net::TcpStream>(1024);
        let answer = answer.clone();
        thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
                while let Some(stream) = streams.recv().await {
                    tokio::spawn(talk(TcpStream::from_std(stream).unwrap(), answer.clone(), grpc));
                }
            });
        });
        sender
    };
    let runtimes: Vec<_> = (0..threads).map(start).collect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    say(listener.local_addr().unwrap());
    for runtime in runtimes.iter().cycle() {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        runtime.blocking_send(stream).unwrap();
    }
}

fn say(address: SocketAddr) {
    println!("{address}");
    std::io::stdout().flush().unwrap();
}

async fn talk(stream: TcpStream, answer: Bytes, grpc: bool) {
    stream.set_nodelay(true).unwrap();
    let stream = TokioIo::new(stream);
    // Whichever way a connection ends, the next one is what matters.
    if grpc {
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move {
                let _ = request.into_body().collect().await;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let body = Full::new(answer).with_trailers(std::future::ready(Some(Ok(trailers))));
                Ok::<_, Infallible>(typed(Response::new(body), "application/grpc"))
            }
        });
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
    } else {
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(typed(Response::new(Full::new(answer)), "application/json"))
            }
        });
        let _ = http1::Builder::new().serve_connection(stream, service).await;
    }
}

fn typed<B>(mut response: Response<B>, content_type: &'static str) -> Response<B> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
