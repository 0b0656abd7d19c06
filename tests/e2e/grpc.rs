//! gRPC on the data port, frame by frame; `.ci/clients` asks with the real clients.

use bytes::{BufMut, Bytes, BytesMut};
use mainstay_server::wire::oip::grpc::proto::infer_parameter::ParameterChoice;
use mainstay_server::wire::oip::grpc::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use mainstay_server::wire::oip::grpc::proto::*;
use prost::Message;

use crate::harness::{LONG, SETOSA, Server};

/// The codes of gRPC that are expected here.
const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const DEADLINE_EXCEEDED: &str = "4";
const NOT_FOUND: &str = "5";
const PERMISSION_DENIED: &str = "7";
const RESOURCE_EXHAUSTED: &str = "8";
const UNIMPLEMENTED: &str = "12";
const UNAVAILABLE: &str = "14";

/// `messages` as they lie in the body of a call.
fn framed(messages: &[Vec<u8>]) -> Bytes {
    let mut frames = BytesMut::new();
    for message in messages {
        frames.put_u8(0);
        frames.put_u32(message.len().try_into().unwrap());
        frames.put_slice(message);
    }
    frames.freeze()
}

/// Sends `frames` in one call, with a header more, and ends the body there if that `is_all`; the answers, and the code and the
/// text of the status.
async fn exchange(
    server: &Server,
    path: &str,
    (name, value): (&str, &str),
    frames: Bytes,
    is_all: bool,
) -> (Vec<Bytes>, String, String) {
    let stream = tokio::net::TcpStream::connect(server.listen).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}{path}", server.listen))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(name, value);
    let mut client = client.ready().await.unwrap();
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    // A server that refuses the call need not take its body.
    let _ = body.send_data(frames, is_all);
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let (head, mut body) = answer.into_parts();
    let mut received = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        received.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
    let text = |name: &str| trailers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let mut answers = Vec::new();
    while !received.is_empty() {
        let length = u32::from_be_bytes(received[1..5].try_into().unwrap()) as usize;
        answers.push(received.split_to(5 + length).freeze().slice(5..));
    }
    (answers, text("grpc-status"), text("grpc-message"))
}

fn call(server: &Server, method: &str, header: (&str, &str), messages: &[Vec<u8>]) -> (Vec<Bytes>, String, String) {
    call_with(server, method, header, framed(messages), true)
}

/// The same of what the body of a call is or begins with.
fn call_with(
    server: &Server,
    method: &str,
    header: (&str, &str),
    frames: Bytes,
    is_all: bool,
) -> (Vec<Bytes>, String, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path =
        if method.starts_with('/') { method.to_owned() } else { format!("/inference.GRPCInferenceService/{method}") };
    let call = async { tokio::time::timeout(LONG, exchange(server, &path, header, frames, is_all)).await };
    runtime.block_on(call).unwrap()
}

fn ask<A: Message + Default>(server: &Server, method: &str, message: &impl Message) -> A {
    let (answers, code, text) = call(server, method, ("x-request-id", "order-66"), &[message.encode_to_vec()]);
    assert_eq!((code.as_str(), answers.len()), (OK, 1), "{method}: {text}");
    A::decode(answers[0].clone()).unwrap()
}

fn flower() -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: vec![5.1, 3.5, 1.1, 0.2], ..Default::default() };
    let input = InferInputTensor {
        name: "features".into(),
        datatype: "FP32".into(),
        shape: vec![1, 4],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: "iris".into(), id: "7".into(), inputs: vec![input], ..Default::default() }
}

#[test]
fn a_call_gets_the_answer_that_records_get() {
    let server = Server::start(&[]);
    let records = server.post("/predict", SETOSA).ok();
    let expected: Vec<f32> = serde_json::from_value(records["probability"][0].clone()).unwrap();
    let mut raw = flower();
    let values = raw.inputs[0].contents.take().unwrap().fp32_contents;
    raw.raw_input_contents = vec![values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into()];
    for request in [flower(), raw] {
        let answer: ModelInferResponse = ask(&server, "ModelInfer", &request);
        assert_eq!((answer.model_version.as_str(), answer.id.as_str()), ("1.1.0", "7"));
        assert_eq!((answer.outputs[1].name.as_str(), &answer.outputs[1].shape[..]), ("probabilities", &[1, 3][..]));
        assert_eq!(answer.raw_output_contents[0], 0i64.to_le_bytes()[..]);
        let given: Vec<f32> = answer.raw_output_contents[1]
            .chunks(4)
            .map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap()))
            .collect();
        assert_eq!(given, expected);
    }
    let mut best = flower();
    let classes = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(1)) };
    let parameters = [("classification".to_owned(), classes)].into();
    best.outputs = vec![InferRequestedOutputTensor { name: "probabilities".into(), parameters }];
    let answer: ModelInferResponse = ask(&server, "ModelInfer", &best);
    assert_eq!((answer.outputs.len(), answer.outputs[0].datatype.as_str()), (1, "BYTES"));
    assert!(answer.raw_output_contents[0].ends_with(b":0:setosa"));

    let mut bad = flower();
    bad.inputs[0].shape = vec![1, 3];
    let messages: Vec<_> = [flower(), bad, flower()].iter().map(Message::encode_to_vec).collect();
    let (answers, code, _) = call(&server, "ModelStreamInfer", ("a", "b"), &messages);
    let errors = answers.into_iter().map(|answer| ModelStreamInferResponse::decode(answer).unwrap().error_message);
    let errors: Vec<_> = errors.collect();
    assert_eq!((code.as_str(), errors.len(), errors[0].as_str(), errors[2].as_str()), (OK, 3, "", ""));
    assert!(errors[1].starts_with("inputs[0].shape[1]: expected 4, got 3"), "{errors:?}");

    let statistics: ModelStatisticsResponse =
        ask(&server, "ModelStatistics", &ModelStatisticsRequest { name: "iris".into(), ..Default::default() });
    let counted = &statistics.model_stats[0];
    assert_eq!((counted.inference_count, counted.inference_stats.as_ref().unwrap().fail.unwrap().count), (6, 1));
    let [batch] = &counted.batch_stats[..] else { panic!("{counted:?}") };
    assert_eq!((batch.batch_size, batch.compute_infer.unwrap().count), (1, 6));
}

#[test]
fn labels_that_are_no_indices_come_as_the_model_gives_them() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/server/tests/fixtures/content");
    let server = Server::start(&["--models", models]);
    let row = [-0.462_243_1, 2.125_285_4, 1.623_658, 1.013_725_2];
    for (model, label) in [("numbers", 3i64), ("signs", -1)] {
        let mut request = ModelInferRequest { model_name: model.into(), ..flower() };
        request.inputs[0].contents.as_mut().unwrap().fp32_contents = row.to_vec();
        let answer: ModelInferResponse = ask(&server, "ModelInfer", &request);
        assert_eq!(answer.raw_output_contents[0], label.to_le_bytes()[..], "{model}");
    }
}

#[test]
fn floats_of_16_bits_come_and_go_as_bytes() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/server/tests/fixtures/content");
    let server = Server::start(&["--models", models]);
    // 1.5 and 0.25, and their sum; 0.5, and twice that.
    for (model, input, datatype, kind, values, given) in [
        ("halves", "features", "FP16", DataType::TypeFp16, vec![0x00, 0x3e, 0x00, 0x34], [0x00, 0x3f]),
        ("brains", "x", "BF16", DataType::TypeBf16, vec![0x00, 0x3f], [0x80, 0x3f]),
    ] {
        let columns = values.len() / 2;
        let input = InferInputTensor {
            name: input.into(),
            datatype: datatype.into(),
            shape: vec![1, columns as i64],
            ..Default::default()
        };
        let mut request = ModelInferRequest {
            model_name: model.into(),
            inputs: vec![input],
            raw_input_contents: vec![values.into()],
            ..Default::default()
        };
        let answer: ModelInferResponse = ask(&server, "ModelInfer", &request);
        assert_eq!((answer.outputs[0].datatype.as_str(), &answer.raw_output_contents[0][..]), (datatype, &given[..]));

        // The message has no field for them.
        request.raw_input_contents.clear();
        let fp32_contents = vec![1.5; columns];
        request.inputs[0].contents = Some(InferTensorContents { fp32_contents, ..Default::default() });
        let (_, code, text) = call(&server, "ModelInfer", ("a", "b"), &[request.encode_to_vec()]);
        assert_eq!((code.as_str(), text.starts_with("inputs[0].contents:")), (INVALID_ARGUMENT, true), "{text}");
        let config: ModelConfigResponse =
            ask(&server, "ModelConfig", &ModelConfigRequest { name: model.into(), ..Default::default() });
        assert_eq!(config.config.unwrap().input[0].data_type(), kind);
    }
}

#[test]
fn what_calls_show_is_what_is_served() {
    let server = Server::start(&[]);
    assert!(ask::<ServerLiveResponse>(&server, "ServerLive", &ServerLiveRequest {}).live);
    assert!(ask::<ServerReadyResponse>(&server, "ServerReady", &ServerReadyRequest {}).ready);
    let named = ModelReadyRequest { name: "iris".into(), version: String::new() };
    assert!(ask::<ModelReadyResponse>(&server, "ModelReady", &named).ready);
    let metadata: ModelMetadataResponse =
        ask(&server, "ModelMetadata", &ModelMetadataRequest { name: "iris".into(), version: "1.1.0".into() });
    assert_eq!((&metadata.inputs[0].shape[..], metadata.inputs[0].datatype.as_str()), (&[-1, 4][..], "FP32"));
    let about: ServerMetadataResponse = ask(&server, "ServerMetadata", &ServerMetadataRequest {});
    assert!(about.extensions.contains(&"statistics".to_owned()));
    let config: ModelConfigResponse =
        ask(&server, "ModelConfig", &ModelConfigRequest { name: "iris".into(), ..Default::default() });
    let config = config.config.unwrap();
    assert_eq!(
        (config.max_batch_size, config.input[0].data_type(), &config.input[0].dims[..]),
        (10_000, DataType::TypeFp32, &[4][..])
    );
    let index: RepositoryIndexResponse = ask(&server, "RepositoryIndex", &RepositoryIndexRequest::default());
    assert_eq!((index.models.len(), index.models[0].state.as_str()), (2, "READY"));
}

/// What is wrong with a request, and the code and words of its status.
type Bad = (fn(&mut ModelInferRequest), &'static str, &'static str);

#[test]
fn every_bad_call_has_its_status() {
    let server = Server::start(&["--rows-max", "10", "--body-bytes-max", "20000"]);
    let nothing = ("a", "b");
    let status = |method: &str, header, messages: &[Vec<u8>]| {
        let (_, code, text) = call(&server, method, header, messages);
        (code, text)
    };
    let infer = |change: fn(&mut ModelInferRequest)| {
        let mut request = flower();
        change(&mut request);
        status("ModelInfer", nothing, &[request.encode_to_vec()])
    };
    let cases: [Bad; 8] = [
        (|r| r.model_name = "irs".into(), NOT_FOUND, "irs"),
        (|r| r.model_version = "9.9.9".into(), NOT_FOUND, "9.9.9"),
        (|r| r.inputs.clear(), INVALID_ARGUMENT, "inputs: expected"),
        (|r| r.inputs[0].shape = vec![-1, 4], INVALID_ARGUMENT, "inputs[0].shape[0]"),
        (|r| r.inputs[0].shape = vec![i64::MAX, 4], RESOURCE_EXHAUSTED, "10 rows"),
        (|r| r.raw_input_contents.push(Bytes::from_static(&[0; 16])), INVALID_ARGUMENT, "inputs[0].contents"),
        (|r| r.raw_input_contents.resize(5000, Bytes::new()), INVALID_ARGUMENT, "raw_input_contents"),
        (
            |r| r.inputs[0].contents.as_mut().unwrap().fp32_contents[1] = f32::NAN,
            INVALID_ARGUMENT,
            "inputs[0].data[0][1]",
        ),
    ];
    for (change, code, words) in cases {
        let (given, text) = infer(change);
        let text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy();
        assert!(given == code && text.contains(words), "{given}: {text}");
    }
    assert_eq!(status("ModelInfer", nothing, &[vec![0xff; 30]]).0, "13", "bytes that are no message");
    assert_eq!(status("ModelInfer", nothing, &[vec![0; 30_000]]).0, "11", "more bytes than a message may have");
    assert_eq!(status("ModelInfer", ("grpc-timeout", "1n"), &[flower().encode_to_vec()]).0, DEADLINE_EXCEEDED);
    assert_eq!(status("ModelInfer", ("grpc-timeout", "soon"), &[flower().encode_to_vec()]).0, INVALID_ARGUMENT);
    assert_eq!(status("RepositoryModelLoad", nothing, &[vec![]]).0, PERMISSION_DENIED);
    assert_eq!(status("SystemSharedMemoryStatus", nothing, &[vec![]]).0, UNIMPLEMENTED);
    assert_eq!(status("/no.such.Service/Method", nothing, &[vec![]]).0, UNIMPLEMENTED);
    assert_eq!(status("/grpc.health.v1.Health/Check", nothing, &[vec![]]).0, OK);
    assert_eq!(status("/grpc.health.v1.Health/Check", nothing, &[b"\x0a\x01x".to_vec()]).0, NOT_FOUND);
    assert_eq!(infer(|_| {}).0, OK);
}

#[test]
fn a_call_loads_and_unloads_where_the_operator_allows_it() {
    let server = Server::start(&["--repository-control", "true"]);
    let unload = RepositoryModelUnloadRequest { model_name: "iris".into(), ..Default::default() };
    let load = RepositoryModelLoadRequest { model_name: "iris".into(), ..Default::default() };
    let named = ModelReadyRequest { name: "iris".into(), version: String::new() };
    let is_ready = || ask::<ModelReadyResponse>(&server, "ModelReady", &named).ready;
    ask::<RepositoryModelUnloadResponse>(&server, "RepositoryModelUnload", &unload);
    assert!(!is_ready());
    let index: RepositoryIndexResponse = ask(&server, "RepositoryIndex", &RepositoryIndexRequest::default());
    assert_eq!(
        (index.models[0].state.as_str(), index.models[0].reason.as_str()),
        ("UNAVAILABLE", "unloaded by a request")
    );
    ask::<RepositoryModelLoadResponse>(&server, "RepositoryModelLoad", &load);
    assert!(is_ready());
    let config = ModelRepositoryParameter::default();
    let overriding = RepositoryModelLoadRequest { parameters: [("config".to_owned(), config)].into(), ..load };
    let status = |message: Vec<u8>| call(&server, "RepositoryModelLoad", ("a", "b"), &[message]).1;
    assert_eq!(status(overriding.encode_to_vec()), PERMISSION_DENIED);
    let unknown = RepositoryModelLoadRequest { model_name: "irs".into(), ..Default::default() };
    assert_eq!(status(unknown.encode_to_vec()), NOT_FOUND);
}

#[test]
fn more_calls_than_allowed_are_told_to_come_back() {
    // On one thread, so that the first request has begun to wait when the next is read.
    let server = Server::start(&["--requests-max", "1", "--threads", "1"]);
    let whole = framed(&[flower().encode_to_vec()]);
    let half = || call_with(&server, "ModelInfer", ("a", "b"), whole.slice(..20), false).1;
    let (mut first, withheld) = server.half_asked();
    assert_eq!(half(), UNAVAILABLE);
    first.send(withheld).unwrap();
    first.answer().unwrap().ok();
    assert_eq!(call_with(&server, "ModelInfer", ("a", "b"), whole.clone(), true).1, OK);
}
