//! Clients that keep asking while something else happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Connection;

/// A request that was answered with 200.
pub struct Seen {
    pub begun: Instant,
    pub ended: Instant,
    pub prediction: Prediction,
}

#[derive(Debug, Deserialize)]
pub struct Prediction {
    pub version: String,
    pub commit: String,
    pub label: Vec<String>,
}

/// Clients at work, each with one connection that it never renews.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Seen>>>,
}

impl Load {
    /// Starts `clients` that post `body` to `path`, each with `pause` between an answer and the next request.
    pub fn start(address: SocketAddr, clients: usize, path: &'static str, body: &'static str, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut connection = Connection::open(address);
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = connection.ask("POST", path, "content-type: application/json\r\n", body);
                    let answer = answer.unwrap_or_else(|error| panic!("request {} failed: {error}", seen.len()));
                    let ended = Instant::now();
                    assert_eq!(answer.status, 200, "request {}: {answer:?}", seen.len());
                    let prediction: Prediction = serde_json::from_str(&answer.body).unwrap();
                    assert_eq!(answer.header("x-model-version"), Some(prediction.version.as_str()));
                    seen.push(Seen { begun, ended, prediction });
                    // The rate of the load; nothing waits for it.
                    std::thread::sleep(pause);
                }
                seen
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop }
    }

    /// Fails if a request failed; otherwise what each connection saw, in order.
    pub fn stop(mut self) -> Vec<Vec<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).map(|client| client.join().expect("no request fails")).collect()
    }
}

/// A test that fails for another reason stops its clients before its server.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}
