//! How often a request asks the allocator for memory, counted: a bound that no clock is needed for.
//!
//! What hyper and the kernel ask for is not counted; a request comes here with its body read.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use mainstay_models::embedded;
use mainstay_server::api::{Api, RequestLimits};
use mainstay_server::batch::Runner;
use mainstay_server::engine::EngineChoice;
use mainstay_server::monitor::Metrics;
use mainstay_server::reload::Loader;

/// Hands out the system's memory and counts how often this thread asked for some.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    COUNT.set(COUNT.get() + 1);
}

// SAFETY: everything is the system allocator's; the count is a number of the thread without a destructor.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often a request of one row asks for memory at most: for its rows, its label and probabilities, the text of its answer
/// and the head of it.
const ONE_ROW_MAX: usize = 10;
/// The same in the Open Inference Protocol, whose answer has integers for labels.
const ONE_ROW_V2_MAX: usize = 11;

/// A server of the shipped models without its sockets, where at most `queue_max` requests wait for a worker.
fn api(queue_max: usize) -> Api {
    let metrics = Arc::new(Metrics::new("none"));
    let loader = Loader { engine: EngineChoice::Compiled, metrics: Arc::clone(&metrics), sessions: NonZeroUsize::MIN };
    let catalog = Arc::new(ArcSwap::from_pointee(loader.embedded(&embedded::MODELS).unwrap()));
    let limits = RequestLimits { body_bytes_max: 1 << 20, rows_max: 10_000, timeout: Duration::from_secs(60) };
    Api::new(catalog, Runner::start(1, queue_max).unwrap(), metrics, limits, Arc::default())
}

/// How often memory is asked for by a request to `path` with `body`, from its head to its answer.
fn allocations(api: &Api, path: &str, body: String) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = Bytes::from(body);
    let ask = || {
        let request = Request::post(path).header("content-type", "application/json");
        let (head, body) = request.body(Full::new(body.clone())).unwrap().into_parts();
        let before = COUNT.get();
        let response = runtime.block_on(api.answer(&head, body, "id"));
        let asked = COUNT.get() - before;
        assert_eq!(response.status(), StatusCode::OK);
        asked
    };
    // The first run of a thread makes its scratch memory.
    ask();
    let asked = ask();
    assert_eq!(ask(), asked, "the same request, and another number");
    asked
}

/// A body that comes in equal pieces, with its length announced.
struct Pieces {
    piece: Bytes,
    left: usize,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        self.left = left;
        Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.piece.len() * self.left) as u64)
    }
}

fn records(rows: usize) -> String {
    let record = |row: usize| {
        let value = row as f64 % 7.0 / 2.0 + 0.3;
        format!(
            r#"{{"sepal length (cm)": {value}, "sepal width (cm)": 3.5, "petal length (cm)": {value}, "petal width (cm)": 0.2}}"#
        )
    };
    format!("[{}]", (0..rows).map(record).collect::<Vec<_>>().join(", "))
}

fn tensor(rows: usize) -> String {
    let values = vec!["5.1, 3.5, 1.4, 0.2"; rows].join(", ");
    format!(r#"{{"inputs": [{{"name": "features", "shape": [{rows}, 4], "datatype": "FP32", "data": [{values}]}}]}}"#)
}

#[test]
fn a_request_of_one_row_asks_for_little_memory() {
    let api = api(4);
    let asked = allocations(&api, "/predict", records(1));
    assert!(asked <= ONE_ROW_MAX, "{asked} times");
    let asked = allocations(&api, "/v2/models/iris/infer", tensor(1));
    assert!(asked <= ONE_ROW_V2_MAX, "{asked} times in the Open Inference Protocol");
}

#[test]
fn no_row_asks_for_memory_of_its_own() {
    let api = api(4);
    let allocations = |path, body| allocations(&api, path, body);
    let (few, many) = (allocations("/predict", records(100)), allocations("/predict", records(200)));
    // What doubles while it grows does so once more.
    assert!(many <= few + 2, "{few} times for 100 rows, {many} times for 200");
    let lists = |rows| allocations("/predict", format!("[{}]", vec!["[5.1, 3.5, 1.4, 0.2]"; rows].join(", ")));
    assert!(lists(200) <= lists(100) + 2);
    let tensors = |rows| allocations("/v2/models/iris/infer", tensor(rows));
    assert!(tensors(200) <= tensors(100) + 2);
}

#[test]
fn what_finds_no_place_is_read_and_not_stored() {
    let api = api(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let piece = Bytes::from(vec![b' '; 64 << 10]);
    let refused = |pieces| {
        let mut body = Pieces { piece: piece.clone(), left: pieces };
        let (head, ()) = Request::post("/predict").body(()).unwrap().into_parts();
        let before = COUNT.get();
        let response = runtime.block_on(api.answer(&head, &mut body, "id"));
        let asked = COUNT.get() - before;
        assert_eq!((response.status(), body.left), (StatusCode::SERVICE_UNAVAILABLE, 0));
        assert_eq!(response.headers()["retry-after"], "1");
        asked
    };
    refused(16);
    assert_eq!(refused(16), refused(8));
    // What is too large is told so, whatever else there is.
    let (head, ()) = Request::post("/predict").body(()).unwrap().into_parts();
    let response = runtime.block_on(api.answer(&head, Pieces { piece, left: 17 }, "id"));
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
