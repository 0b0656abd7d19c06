//! The sidecar's own listener, for probes, operators and Prometheus; and one for webhooks alone.
//!
//! ```text
//! GET  /live      200 while the loop turns, whatever git does
//! GET  /ready     200 once a verified release is published, also while git is gone
//! GET  /status    JSON, see `Status`
//! GET  /metrics   Prometheus' text format
//! POST /sync      a pass now; with {"publish": true} it publishes what waits for a word
//! GET  /history   JSON: the releases that the store keeps, newest first
//! POST /rollback  back to an earlier release, {"to": RELEASE} or the newest that serves something else
//! POST /hold      {"reason": TEXT} keeps what is published until it is resumed
//! POST /resume    lifts what operators hold
//! POST /diff      JSON: what {"commit": REF} of the followed repository would change; see `inquiry`
//! POST /webhook   a pass now, if the request is signed; see `webhook`
//! ```
//!
//! Reading is for everybody who reaches the listener. A change is taken from the same host, or from whoever knows the
//! token where there is one, and never from a web page that somebody has open: browsers say where a request comes
//! from. A webhook proves itself by its signature instead. Nothing here waits for the loop. While another publisher
//! holds the store, orders and the history get 503: they are that one's.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};
use tracing::{info, warn};

use crate::Control;
use crate::board::{Board, Trigger};
use crate::git::{self, Failure};
use crate::inquiry::{Inquiry, InquiryError};
use crate::ledger::{Ledger, OrderError};
use crate::trouble::Trouble;
use crate::webhook::{self, Unsigned};

/// How long requests in flight may take once the end was asked for.
const DRAIN_MAX: Duration = Duration::from_millis(300);
/// The longest body of an order.
const ORDER_BYTES_MAX: usize = 64 << 10;
/// How long a webhook may take to come.
const WEBHOOK_MAX: Duration = Duration::from_secs(10);
/// What an order is told that only the publisher can follow.
const WAITING: &str = "another publisher holds the store and this sidecar waits: ask the one that publishes";
/// How many webhooks may be on their way at once; further ones get 503, and hosts try again.
const WEBHOOKS_MAX: usize = 32;

/// A running listener. Dropping it ends it and waits for that.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the listeners show, and what they may set going.
#[derive(Debug, Clone)]
pub struct Desk {
    /// What is shown.
    pub board: Arc<Board>,
    /// What is published, and held; none while another publisher holds the store.
    pub ledger: Arc<OnceLock<Arc<Ledger>>>,
    /// What is set going.
    pub control: Control,
    /// Who is asked what a commit would change.
    pub inquiry: Inquiry,
    /// After how long the loop counts as stuck.
    pub silence_max: Duration,
    /// The file with the token that a change needs; without one, changes are taken from the same host alone.
    pub token_file: Option<PathBuf>,
    /// The file with the secret of webhooks; without one there are none.
    pub webhook_secret_file: Option<PathBuf>,
}

#[derive(Debug, Clone)]
struct Shown {
    desk: Arc<Desk>,
    webhooks: Arc<Semaphore>,
    inquiries: Arc<Semaphore>,
}

impl Admin {
    /// Binds `address` and answers operators.
    pub fn start(address: SocketAddr, desk: Desk) -> io::Result<Self> {
        let shown = Shown::new(desk);
        let orders = Router::new()
            .route("/sync", post(sync))
            .route("/rollback", post(rollback))
            .route("/hold", post(hold))
            .route("/resume", post(resume))
            .route("/diff", post(diff))
            .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
            .layer(middleware::from_fn_with_state(shown.clone(), allowed));
        let router = Router::new()
            .route("/live", get(live))
            .route("/ready", get(ready))
            .route("/status", get(status))
            .route("/history", get(history))
            .route("/metrics", get(metrics))
            .route("/webhook", post(hook))
            .merge(orders);
        Self::answer("admin", address, router.with_state(shown))
    }

    /// Binds `address` and answers webhooks, and nothing else: for a port that the repository's host can reach.
    pub fn start_webhook(address: SocketAddr, desk: Desk) -> io::Result<Self> {
        let router = Router::new().route("/webhook", post(hook));
        Self::answer("webhook", address, router.with_state(Shown::new(desk)))
    }

    fn answer(name: &str, address: SocketAddr, router: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
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
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(serve)?;
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

impl Shown {
    fn new(desk: Desk) -> Self {
        Self {
            desk: Arc::new(desk),
            webhooks: Arc::new(Semaphore::new(WEBHOOKS_MAX)),
            inquiries: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Lets an order through, or says why not.
async fn allowed(
    State(shown): State<Shown>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if headers.contains_key(ORIGIN) {
        return say(StatusCode::FORBIDDEN, "orders are not taken from web pages");
    }
    match &shown.desk.token_file {
        None if peer.ip().to_canonical().is_loopback() => {}
        None => {
            let text = "orders are taken from this host alone; --admin-token-file lets others give them";
            return say(StatusCode::FORBIDDEN, text);
        }
        Some(file) => {
            let Some(token) = secret(file, "the admin token cannot be read") else {
                return say(StatusCode::SERVICE_UNAVAILABLE, "the admin token cannot be read");
            };
            let given = headers.get(AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
            let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
            if !webhook::same(&token, given) {
                return say(StatusCode::UNAUTHORIZED, "an order needs `Authorization: Bearer` and the admin token");
            }
        }
    }
    next.run(request).await
}

/// A pass now.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SyncOrder {
    /// Whether to publish what waits for a word.
    publish: bool,
}

async fn sync(State(shown): State<Shown>, body: Bytes) -> Response {
    let order: SyncOrder = match order(&body) {
        Ok(order) => order,
        Err(problem) => return say(StatusCode::BAD_REQUEST, &problem),
    };
    let desk = &shown.desk;
    if desk.ledger.get().is_none() {
        // Kept for later, it would publish by surprise what comes after the other publisher is gone.
        return say(StatusCode::SERVICE_UNAVAILABLE, WAITING);
    }
    desk.board.triggered(Trigger::Operator);
    let trigger = if order.publish { desk.control.publish_now() } else { desk.control.trigger() };
    info!(publish = order.publish, "an operator asked for a pass");
    (StatusCode::ACCEPTED, Json(json!({ "trigger": trigger }))).into_response()
}

/// Back to an earlier release.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RollbackOrder {
    /// Which; the newest that serves something else where it is not said.
    to: Option<String>,
}

async fn rollback(State(shown): State<Shown>, body: Bytes) -> Response {
    match order::<RollbackOrder>(&body) {
        Ok(order) => obeyed(shown, move |ledger| ledger.roll_back(order.to.as_deref())).await,
        Err(problem) => say(StatusCode::BAD_REQUEST, &problem),
    }
}

/// Keep what is published.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HoldOrder {
    /// Why.
    reason: String,
}

async fn hold(State(shown): State<Shown>, body: Bytes) -> Response {
    match order::<HoldOrder>(&body) {
        Ok(order) => obeyed(shown, move |ledger| ledger.hold(&order.reason)).await,
        Err(problem) => say(StatusCode::BAD_REQUEST, &problem),
    }
}

async fn resume(State(shown): State<Shown>) -> Response {
    obeyed(shown, Ledger::resume).await
}

/// What a commit would change.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DiffOrder {
    /// A branch, a tag, or a commit.
    commit: String,
}

/// An order and no question for everybody, since git is asked for what the caller names.
async fn diff(State(shown): State<Shown>, body: Bytes) -> Response {
    let order: DiffOrder = match order(&body) {
        Ok(order) => order,
        Err(problem) => return say(StatusCode::BAD_REQUEST, &problem),
    };
    if shown.desk.ledger.get().is_none() {
        return say(StatusCode::SERVICE_UNAVAILABLE, WAITING);
    }
    let Ok(permit) = shown.inquiries.clone().try_acquire_owned() else {
        return say(StatusCode::SERVICE_UNAVAILABLE, "another diff is being made: ask again");
    };
    let desk = shown.desk.clone();
    let answered = tokio::task::spawn_blocking(move || {
        // Given back when git has answered, also where the caller is gone.
        let _permit = permit;
        desk.inquiry.answer(&order.commit)
    });
    match answered.await.expect("an inquiry does not panic") {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let code = match &error {
                InquiryError::Reference(_) => StatusCode::BAD_REQUEST,
                InquiryError::Git(git::Error::Failed(Failure::NoReference { .. } | Failure::NoTag { .. })) => {
                    StatusCode::NOT_FOUND
                }
                InquiryError::Git(_) | InquiryError::Unread(_) => StatusCode::BAD_GATEWAY,
                InquiryError::Store(_) | InquiryError::Folder { .. } | InquiryError::TooLong => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            };
            say(code, &Trouble::retry(&error).to_string())
        }
    }
}

async fn history(State(shown): State<Shown>) -> Response {
    obeyed(shown, Ledger::history).await
}

/// Has the ledger do what touches the disk, aside from the listener's thread.
async fn obeyed<T: Serialize + Send + 'static>(
    shown: Shown,
    act: impl FnOnce(&Ledger) -> Result<T, OrderError> + Send + 'static,
) -> Response {
    let Some(ledger) = shown.desk.ledger.get().cloned() else {
        return say(StatusCode::SERVICE_UNAVAILABLE, WAITING);
    };
    let done = tokio::task::spawn_blocking(move || act(&ledger)).await;
    match done.expect("the ledger does not panic") {
        Ok(done) => Json(done).into_response(),
        Err(error) => {
            let code = match &error {
                OrderError::Unknown(_) => StatusCode::NOT_FOUND,
                OrderError::Reason => StatusCode::BAD_REQUEST,
                error if error.is_internal() => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::CONFLICT,
            };
            say(code, &Trouble::retry(&error).to_string())
        }
    }
}

async fn hook(State(shown): State<Shown>, headers: HeaderMap, body: Body) -> Response {
    let desk = &shown.desk;
    let Some(file) = &desk.webhook_secret_file else { return StatusCode::NOT_FOUND.into_response() };
    let Ok(_permit) = shown.webhooks.try_acquire() else {
        return say(StatusCode::SERVICE_UNAVAILABLE, "too many webhooks at once");
    };
    let Some(secret) = secret(file, "the webhook secret cannot be read") else {
        return say(StatusCode::SERVICE_UNAVAILABLE, "the webhook secret cannot be read");
    };
    let verdict = tokio::time::timeout(WEBHOOK_MAX, webhook::verify(&secret, &headers, body)).await;
    let (code, text) = match verdict.unwrap_or(Err(Unsigned::BrokenOff)) {
        Ok(()) => {
            desk.board.triggered(Trigger::Webhook);
            desk.control.trigger();
            return say(StatusCode::ACCEPTED, "a pass follows");
        }
        Err(Unsigned::Forged) => (StatusCode::UNAUTHORIZED, "no signature that fits the body and the secret"),
        Err(Unsigned::TooLong) => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
        Err(Unsigned::BrokenOff) => (StatusCode::REQUEST_TIMEOUT, "the body did not come"),
    };
    desk.board.webhook_refused();
    say(code, text)
}

/// What an order's body says; an empty one says nothing.
fn order<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, String> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|e| format!("the order cannot be read: {e}"))
}

/// A secret from its file; the reason why it cannot be read is the log's, not the caller's.
fn secret(file: &Path, event: &str) -> Option<Vec<u8>> {
    webhook::read_secret(file).map_err(|error| warn!(file = %file.display(), %error, "{event}")).ok()
}

fn say(code: StatusCode, text: &str) -> Response {
    (code, format!("{text}\n")).into_response()
}

async fn live(State(shown): State<Shown>) -> Response {
    let silence = shown.desk.board.silence();
    if silence <= shown.desk.silence_max {
        return "live\n".into_response();
    }
    let text = format!("the loop has been silent for {} s\n", silence.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn ready(State(shown): State<Shown>) -> Response {
    if shown.desk.board.status().release.is_some() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "no verified release is published yet\n").into_response()
}

async fn status(State(shown): State<Shown>) -> Response {
    Json(&*shown.desk.board.status()).into_response()
}

async fn metrics(State(shown): State<Shown>) -> Response {
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], shown.desk.board.metrics()).into_response()
}
