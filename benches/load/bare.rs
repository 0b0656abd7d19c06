//! The least that an HTTP server can do: hyper reads a request's body and gives the same bytes back each time.
//!
//! What a server under load costs beyond this is what it does itself.

use std::convert::Infallible;
use std::io::Write as _;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;

/// Serves the bytes of `file` to everything, until it is killed. Prints the port.
pub fn serve(file: &Path, runtime_per_core: bool) {
    let answer = Bytes::from(std::fs::read(file).unwrap());
    let threads = thread::available_parallelism().unwrap().get();
    if runtime_per_core {
        // One thread accepts and the runtimes take turns, so that each has as many connections as the others.
        let runtimes: Vec<_> = (0..threads)
            .map(|_| {
                let (sender, mut streams) = mpsc::channel::<std::net::TcpStream>(1024);
                let answer = answer.clone();
                thread::spawn(move || {
                    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                    tokio::task::LocalSet::new().block_on(&runtime, async move {
                        while let Some(stream) = streams.recv().await {
                            tokio::task::spawn_local(talk(TcpStream::from_std(stream).unwrap(), answer.clone()));
                        }
                    });
                });
                sender
            })
            .collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        say(listener.local_addr().unwrap());
        for runtime in runtimes.iter().cycle() {
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            runtime.blocking_send(stream).unwrap();
        }
    } else {
        let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            say(listener.local_addr().unwrap());
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(talk(stream, answer.clone()));
            }
        });
    }
}

#[allow(clippy::print_stdout, reason = "the address is for whoever started this")]
fn say(address: std::net::SocketAddr) {
    println!("{address}");
    std::io::stdout().flush().unwrap();
}

async fn talk(stream: TcpStream, answer: Bytes) {
    stream.set_nodelay(true).unwrap();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            // A client that leaves within its body gets no answer.
            let _ = request.into_body().collect().await;
            let mut response = Response::new(Full::new(answer));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok::<_, Infallible>(response)
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
