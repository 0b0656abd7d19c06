//! The second listener, for operators: liveness, readiness, status, metrics.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::catalog::Catalog;
use crate::monitor::Metrics;
use crate::reload::Status;

/// What the admin listener shows.
#[derive(Clone)]
pub struct Admin {
    /// The models being served.
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// How the last pass of the reload went.
    pub status: Arc<ArcSwap<Status>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the server was told to stop, so that no new traffic should come.
    pub draining: Arc<AtomicBool>,
}

/// Answers on `listener` until `shutdown` completes.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

/// Ready while some version answers and the server was not told to stop.
async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if !admin.catalog.load().answers() {
        (StatusCode::SERVICE_UNAVAILABLE, "no model is loaded yet\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    Json(Status::clone(&admin.status.load()))
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}
