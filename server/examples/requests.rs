//! Answers the same few requests of one row again and again, without sockets: `requests COUNT predict` or `requests COUNT v2`.
//! `.ci/instructions` counts what one of them costs.

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use mainstay_models::embedded;
use mainstay_server::api::{Api, RequestLimits};
use mainstay_server::batch::Runner;
use mainstay_server::engine::EngineChoice;
use mainstay_server::monitor::Metrics;
use mainstay_server::reload::Loader;

const RECORDS: [&str; 4] = [
    r#"[{"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.4, "petal width (cm)": 0.2}]"#,
    r#"[{"sepal length (cm)": 6.3, "sepal width (cm)": 2.9, "petal length (cm)": 5.6, "petal width (cm)": 1.8}]"#,
    r#"[{"sepal length (cm)": 5.9, "sepal width (cm)": 3.0, "petal length (cm)": 4.2, "petal width (cm)": 1.5}]"#,
    r#"[{"sepal length (cm)": 4.6, "sepal width (cm)": 3.1, "petal length (cm)": 1.5, "petal width (cm)": 0.2}]"#,
];

/// The same flowers in the Open Inference Protocol.
const TENSORS: [&str; 4] = [
    r#"{"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}"#,
    r#"{"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [6.3, 2.9, 5.6, 1.8]}]}"#,
    r#"{"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [5.9, 3.0, 4.2, 1.5]}]}"#,
    r#"{"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [4.6, 3.1, 1.5, 0.2]}]}"#,
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().ok_or("say how many requests")?.parse()?;
    let (path, bodies) = match arguments.next().as_deref() {
        Some("predict") => ("/predict", RECORDS),
        Some("v2") => ("/v2/models/iris/infer", TENSORS),
        _ => return Err("say which requests: predict or v2".into()),
    };
    let metrics = Arc::new(Metrics::new("none"));
    let loader = Loader { engine: EngineChoice::Compiled, metrics: Arc::clone(&metrics), sessions: NonZeroUsize::MIN };
    let catalog = Arc::new(ArcSwap::from_pointee(loader.embedded(&embedded::MODELS)?));
    let limits = RequestLimits { body_bytes_max: 1 << 20, rows_max: 100, timeout: Duration::from_secs(60) };
    let api = Api::new(catalog, Runner::start(1, 1)?, metrics, limits, Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for body in bodies.iter().cycle().take(count) {
            let request = Request::post(path).header("content-type", "application/json");
            let (head, body) = request.body(Full::new(Bytes::from_static(body.as_bytes())))?.into_parts();
            let response = api.answer(&head, body, "id").await;
            if response.status() != StatusCode::OK {
                return Err(format!("answered with {}", response.status()).into());
            }
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    api.stop();
    Ok(())
}
