//! Asks a server over gRPC as fast as it answers: one thread, a few connections, a few calls at hand on each.
//!
//! Gives what [`super::client`] gives. An answer counts as 200 if its status in gRPC is 0. It costs more of the machine than
//! that client: HTTP/2 is spoken by a library.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use mainstay_server::wire::oip::grpc::proto::ModelInferResponse;
use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

use super::bodies::{FEATURES, rows_of_each};
use super::client::{Outcome, Plan, Sample};

const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Calls at hand on one connection.
const STREAMS: usize = 4;

/// One call's message, with the five bytes that gRPC puts before it.
pub fn message(rows: &[[f32; FEATURES]]) -> Vec<u8> {
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    let mut shape = Vec::new();
    varint(&mut shape, rows.len());
    varint(&mut shape, FEATURES);
    let mut input = Vec::new();
    field(&mut input, 1, b"features");
    field(&mut input, 2, b"FP32");
    field(&mut input, 3, &shape);
    let mut request = Vec::new();
    field(&mut request, 1, b"forest");
    field(&mut request, 5, &input);
    field(&mut request, 7, &bytes);
    let mut message = vec![0];
    message.extend(u32::try_from(request.len()).expect("a request is small").to_be_bytes());
    message.append(&mut request);
    message
}

/// A field of Protocol Buffers that has a length: a text, bytes, a message, or packed numbers.
fn field(message: &mut Vec<u8>, number: usize, bytes: &[u8]) {
    varint(message, number << 3 | 2);
    varint(message, bytes.len());
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Carries `plan` out, whose `connections` are the calls at hand; `mark` is called when the counting begins and when it ends.
pub fn run(plan: &Plan<'_>, mut mark: impl FnMut()) -> Outcome {
    assert!(plan.rate_per_s.is_none(), "gRPC is asked as fast as it answers");
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let requests: Rc<Vec<Bytes>> = Rc::new(plan.requests.iter().cloned().map(Bytes::from).collect());
        let next = Rc::new(RefCell::new(0));
        let samples = Rc::new(RefCell::new(Vec::with_capacity(1 << 20)));
        let began = Instant::now() + plan.warm;
        let ends = began + plan.time;
        let mut calls = Vec::new();
        for index in 0..plan.connections.div_ceil(STREAMS) {
            let sender = connect(plan.address).await;
            for _ in 0..STREAMS.min(plan.connections - index * STREAMS) {
                let (requests, next, samples) = (requests.clone(), next.clone(), samples.clone());
                let mut sender = sender.clone();
                calls.push(spawn_local(async move {
                    while Instant::now() < ends {
                        let which = next.replace_with(|which| (*which + 1) % requests.len());
                        let due = Instant::now();
                        let (status, _) = call(&mut sender, requests[which].clone()).await;
                        let now = Instant::now();
                        if now >= began && now < ends {
                            let due_since = due.saturating_duration_since(began);
                            let sample = Sample { due: due_since, waited: Duration::ZERO, took: now - due, status };
                            samples.borrow_mut().push(sample);
                        }
                    }
                }));
            }
        }
        tokio::time::sleep_until(began.into()).await;
        mark();
        tokio::time::sleep_until(ends.into()).await;
        mark();
        for call in calls {
            call.await.unwrap();
        }
        let samples = Rc::into_inner(samples).expect("every call has ended").into_inner();
        let good = samples.iter().filter(|sample: &&Sample| sample.status == 200).count();
        Outcome { began, samples, good, unsent: 0, lost: 0 }
    })
}

/// The label in the answer to a call of one row, whether its outputs are bytes or typed.
pub fn label(answer: &[u8]) -> i64 {
    // Behind the five bytes of gRPC.
    let answer = ModelInferResponse::decode(&answer[5..]).unwrap();
    let place = answer.outputs.iter().position(|output| output.name == "label").unwrap();
    match answer.raw_output_contents.get(place) {
        Some(bytes) => i64::from_le_bytes(bytes[..].try_into().unwrap()),
        None => answer.outputs[place].contents.as_ref().unwrap().int64_contents[0],
    }
}

/// The answer to one call: 200 or 500, and its message as it was framed.
pub fn ask(address: SocketAddr, message: &[u8]) -> (u16, Vec<u8>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new()
        .block_on(&runtime, async { call(&mut connect(address).await, Bytes::copy_from_slice(message)).await })
}

/// So many messages of gRPC, of so many rows each.
pub fn messages(rows: usize, count: usize) -> Vec<Vec<u8>> {
    rows_of_each(rows, count).map(|rows| message(&rows)).collect()
}

/// The good answer of `name` to one call.
pub fn called_once(name: &str, address: SocketAddr, message: &[u8]) -> Vec<u8> {
    let (status, answer) = ask(address, message);
    assert_eq!(status, 200, "{name}: {}", String::from_utf8_lossy(&answer));
    answer
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    sender
}

async fn call(sender: &mut SendRequest<Bytes>, message: Bytes) -> (u16, Vec<u8>) {
    let mut sender = sender.clone().ready().await.unwrap();
    let request = Request::post(format!("http://localhost{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut sending) = sender.send_request(request, false).unwrap();
    sending.send_data(message, true).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
    let good = trailers.get("grpc-status").is_some_and(|status| status == "0");
    (if good { 200 } else { 500 }, bytes)
}
