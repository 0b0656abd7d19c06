//! The sidecar's own listener, for probes, operators and Prometheus.
//!
//! ```text
//! GET /live      200 while the loop turns, whatever git does
//! GET /ready     200 once a verified release is published, also while git is gone
//! GET /status    JSON, see `Status`
//! GET /metrics   Prometheus' text format
//! ```
//!
//! Only reads the board; nothing here can change what is published or hold the loop up.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use crate::board::Board;

/// How long requests in flight may take once the end was asked for.
const DRAIN_MAX: Duration = Duration::from_millis(300);

/// A running listener. Dropping it ends it and waits for that.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Shown {
    board: Arc<Board>,
    silence_max: Duration,
}

impl Admin {
    /// Binds `address` and serves `board`. The loop counts as stuck after `silence_max`.
    pub fn start(address: SocketAddr, board: Arc<Board>, silence_max: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/live", get(live))
            .route("/ready", get(ready))
            .route("/status", get(status))
            .route("/metrics", get(metrics))
            .with_state(Shown { board, silence_max });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) })?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async move {
                let (drain, draining) = oneshot::channel::<()>();
                let server = axum::serve(listener, router).with_graceful_shutdown(async {
                    // Both an answer and a dropped sender mean the end.
                    let _ = draining.await;
                });
                let end = async {
                    let _ = stopped.await;
                    drop(drain);
                    tokio::time::sleep(DRAIN_MAX).await;
                };
                tokio::select! {
                    _ = server => {}
                    () = end => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the port that was chosen where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn live(State(shown): State<Shown>) -> Response {
    let silence = shown.board.silence();
    if silence <= shown.silence_max {
        return "live\n".into_response();
    }
    let text = format!("the loop has been silent for {} s\n", silence.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn ready(State(shown): State<Shown>) -> Response {
    if shown.board.status().release.is_some() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "no verified release is published yet\n").into_response()
}

async fn status(State(shown): State<Shown>) -> Response {
    Json(&*shown.board.status()).into_response()
}

async fn metrics(State(shown): State<Shown>) -> Response {
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], shown.board.metrics()).into_response()
}
