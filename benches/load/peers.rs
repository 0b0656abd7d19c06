//! The rivals that are running, beside Mainstay.

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::bodies::{Form, requests};
use super::contest::Entrant;
use super::process::{family, memory_mib};
use super::report::Report;
use super::servers::{Bare, Served};
use super::{HUNDRED, SINGLE, client, grpc};

/// A rival that is running.
#[derive(Deserialize)]
struct Peer {
    name: String,
    address: SocketAddr,
    path: String,
    /// Whether it is asked in the Open Inference Protocol.
    v2: bool,
    /// Where it is asked over gRPC, where it can be.
    grpc: Option<SocketAddr>,
    process: u32,
    /// From its start to its first answer.
    start_s: f64,
}

impl Report {
    /// One row a call, beside those of `peers` that speak gRPC.
    fn grpc_peers(&mut self, peers: &[Peer], served: &Served) {
        let messages = grpc::messages(1, SINGLE);
        let called = |name: &str, address, process| {
            let (name, requests) = (name.to_owned(), messages.clone());
            Entrant { name, address, process, requests, grpc: true }
        };
        let answer = |entrant: &Entrant| grpc::called_once(&entrant.name, entrant.address, &entrant.requests[0]);
        let mainstay = called("mainstay, compiled", served.server.listen, served.server.program.id());
        let mine = answer(&mainstay);
        let expected = grpc::label(&mine);
        let bare = Bare::start(&mine, self.bare_per_core, true);
        let mut entrants = vec![called("bare hyper", bare.address, bare.process()), mainstay];
        for peer in peers {
            let Some(address) = peer.grpc else { continue };
            let entrant = called(&peer.name, address, peer.process);
            assert_eq!(grpc::label(&answer(&entrant)), expected, "{} answers what the others answer", peer.name);
            entrants.push(entrant);
        }
        for connections in [16, 64] {
            self.contest("one row, rivals over gRPC", 1, &entrants, connections);
        }
    }

    pub fn peers(&mut self, file: &Path) {
        let peers: Vec<Peer> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let (served, ort) = (Served::forest(&[]), Served::forest(&["--engine", "ort"]));
        for (what, rows, count) in [("one row, rivals", 1, SINGLE), ("100 rows, rivals", 100, HUNDRED)] {
            let own = requests(Form::Instances, "/predict", rows, count);
            let bare = self.bare(&served, &own);
            let mut entrants = vec![
                bare.entrant(&own),
                served.entrant("mainstay, compiled", own.clone()),
                ort.entrant("mainstay, ONNX Runtime", own),
            ];
            let expected = labels(&ask(&entrants[1]));
            assert_eq!(expected.len(), rows);
            for peer in &peers {
                let form = if peer.v2 { Form::V2 } else { Form::Instances };
                let entrant = Entrant {
                    name: peer.name.clone(),
                    address: peer.address,
                    process: peer.process,
                    requests: requests(form, &peer.path, rows, count),
                    grpc: false,
                };
                assert_eq!(labels(&ask(&entrant)), expected, "{} answers what the others answer", peer.name);
                entrants.push(entrant);
            }
            for connections in if rows == 1 { &[16, 64][..] } else { &[16] } {
                self.contest(what, rows, &entrants, *connections);
            }
        }
        self.grpc_peers(&peers, &served);
        for peer in &peers {
            let memory = memory_mib(&family(peer.process));
            self.figure(format!("memory after that load, {}", peer.name), memory, "MiB", None);
            self.figure(format!("from the start to the first answer, {}", peer.name), peer.start_s, "s", None);
        }
        for (name, served) in [("mainstay, compiled", &served), ("mainstay, ONNX Runtime", &ort)] {
            let memory = memory_mib(&family(served.server.program.id()));
            self.figure(format!("memory after that load, {name}"), memory, "MiB", None);
        }
    }
}

/// The body of the answer to an entrant's first request.
fn ask(entrant: &Entrant) -> Value {
    let (status, answer) = client::ask(entrant.address, &entrant.requests[0]);
    assert_eq!(status, 200, "{}: {}", entrant.name, String::from_utf8_lossy(&answer));
    serde_json::from_slice(client::body(&answer)).unwrap()
}

/// The classes in an answer, in whichever form it has.
fn labels(answer: &Value) -> Vec<i64> {
    let outputs = answer["outputs"].as_array().into_iter().flatten();
    let list = match outputs.clone().find(|output| output["name"] == "label") {
        Some(output) => &output["data"],
        None => &answer["prediction"],
    };
    list.as_array().unwrap_or_else(|| panic!("{answer:#}")).iter().map(|label| label.as_i64().unwrap()).collect()
}
