//! The Open Inference Protocol, as clients ask for predictions, and what they get for bad requests.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::harness::{Answer, Connection, LONG, SETOSA, Server, World};

const INFER: &str = "/v2/models/iris/infer";

/// A request for `rows` flowers.
fn flowers(rows: usize) -> Value {
    let data: Vec<_> = (0..rows).flat_map(|_| [5.1, 3.5, 1.1, 0.2]).collect();
    json!({"id": "7", "inputs": [{"name": "features", "shape": [rows, 4], "datatype": "FP32", "data": data}]})
}

/// Posts bytes; status, headers and body of the answer.
fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut request = ureq::http::Request::post(format!("{}{path}", server.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LONG)).proxy(None);
    let mut response = config.build().new_agent().run(request.body(body).unwrap()).unwrap();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    (response.status().as_u16(), headers.collect(), response.body_mut().read_to_vec().unwrap())
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[test]
fn what_the_protocol_shows_is_what_is_served() {
    let world = World::new();
    let (server, _sidecar) = world.rolling();
    assert_eq!(server.get("/v2/health/live").ok(), json!({"live": true, "ready": true}));
    assert_eq!(server.get("/v2/health/ready").ok(), json!({"live": true, "ready": true}));
    let about = server.get("/v2/").ok();
    assert_eq!(about["name"], "mainstay");
    assert!(about["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
    assert_eq!(server.get("/v2/models").ok(), json!({"models": ["iris", "pred-main"]}));
    let expected = json!({
        "name": "iris", "versions": ["1.0.0"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]},
                    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    });
    for path in ["/v2/models/iris", "/v2/models/iris/versions/1.0.0", "/v2/models/ir%69s/"] {
        assert_eq!(server.get(path).ok(), expected, "{path}");
    }
    assert_eq!(server.get("/v2/models/iris/versions/1.0.0/ready").ok(), json!({"name": "iris", "ready": true}));
    let config = server.get("/v2/models/iris/config").ok();
    assert_eq!(config["input"], json!([{"name": "features", "data_type": "TYPE_FP32", "dims": [4]}]));
    assert_eq!((&config["max_batch_size"], &config["output"][0]["dims"]), (&json!(10_000), &json!([])));
    let index = server.post("/v2/repository/index", "").ok();
    assert_eq!(index[0], json!({"name": "iris", "version": "1.0.0", "state": "READY", "reason": ""}));
    assert_eq!(server.get("/v2/logging").ok()["log_file"], "");
    assert_eq!(server.get("/v2/models/iris/trace/setting").ok()["trace_level"], json!(["OFF"]));

    let before = server.get("/v2/models/iris/stats").ok()["model_stats"][0].clone();
    server.post(INFER, &flowers(5).to_string()).ok();
    server.post(INFER, "{}");
    let after = server.get("/v2/models/stats").ok()["model_stats"][0].clone();
    let grown = |pointer: &str| after.pointer(pointer).unwrap().as_u64() > before.pointer(pointer).unwrap().as_u64();
    assert_eq!((&after["inference_count"], &after["execution_count"]), (&json!(5), &json!(1)));
    assert_eq!(
        (&after["inference_stats"]["success"]["count"], &after["inference_stats"]["fail"]["count"]),
        (&json!(1), &json!(1))
    );
    for part in ["success", "compute_input", "compute_infer", "compute_output"] {
        assert!(grown(&format!("/inference_stats/{part}/ns")), "{part}: {after}");
    }
    assert!(grown("/last_inference"));
    server.post(INFER, &flowers(1).to_string()).ok();
    server.post("/predict", SETOSA).ok();
    let batches = server.get("/v2/models/iris/stats").ok()["model_stats"][0]["batch_stats"].clone();
    let counts = |batch: &Value| (batch["batch_size"].clone(), batch["compute_infer"]["count"].clone());
    let counted: Vec<_> = batches.as_array().unwrap().iter().map(counts).collect();
    assert_eq!(counted, [(json!(1), json!(2)), (json!(5), json!(1))], "{batches}");
    assert!(batches[1]["compute_infer"]["ns"].as_u64().unwrap() > 0, "{batches}");
}

#[test]
fn tensors_get_the_answer_that_records_get() {
    let server = Server::start(&[]);
    let expected = server.post("/predict", SETOSA).ok();
    let probability = expected["probability"][0].clone();
    for path in [INFER, "/v2/models/iris/versions/1.1.0/infer"] {
        let answer = server.post(path, &flowers(1).to_string());
        let whole = json!({
            "model_name": "iris", "model_version": "1.1.0", "id": "7",
            "outputs": [{"name": "label", "shape": [1], "datatype": "INT64", "data": [0]},
                        {"name": "probabilities", "shape": [1, 3], "datatype": "FP32", "data": probability}],
        });
        assert_eq!(answer.ok(), whole);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!((answer.header("x-model"), answer.header("x-model-version")), (Some("iris"), Some("1.1.0")));
    }
    let mut chosen = flowers(2);
    chosen["outputs"] = json!([{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "label"}]);
    let outputs = server.post(INFER, &chosen.to_string()).ok()["outputs"].clone();
    assert_eq!(
        (&outputs[0]["shape"], &outputs[0]["datatype"], &outputs[1]["data"]),
        (&json!([2, 2]), &json!("BYTES"), &json!([0, 0]))
    );
    let best = outputs[0]["data"][0].as_str().unwrap();
    assert!(best.starts_with("0.99") && best.ends_with(":0:setosa"), "{best}");
    let none = server.post(INFER, &flowers(0).to_string()).ok();
    assert_eq!((&none["outputs"][0]["data"], &none["outputs"][1]["shape"]), (&json!([]), &json!([0, 3])));
}

#[test]
fn binary_tensors_go_both_ways_and_may_be_packed() {
    let server = Server::start(&[]);
    let values: Vec<u8> = [5.1f32, 3.5, 1.1, 0.2].iter().flat_map(|value| value.to_le_bytes()).collect();
    let head = json!({
        "inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "label", "parameters": {"binary_data": true}}],
    })
    .to_string();
    let length = head.len().to_string();
    let body = [head.as_bytes(), &values].concat();
    let length_header = ("inference-header-content-length", length.as_str());
    let gzip = |body: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(&body).unwrap();
    let forms = [
        (vec![length_header], body.clone()),
        (vec![length_header, ("content-encoding", "gzip")], gzip(&body)),
        (vec![length_header, ("content-encoding", "deflate")], deflate.finish().unwrap()),
    ];
    for (headers, body) in forms {
        let (status, answered, body) = post(&server, INFER, &headers, &body);
        assert_eq!((status, header(&answered, "content-type")), (200, Some("application/octet-stream")));
        let (head, tail) =
            body.split_at(header(&answered, "inference-header-content-length").unwrap().parse().unwrap());
        let head: Value = serde_json::from_slice(head).unwrap();
        assert_eq!(
            head["outputs"],
            json!([{"name": "label", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}])
        );
        assert_eq!(tail, 0i64.to_le_bytes());
    }
    // Nothing but the tensor's bytes, of two rows.
    let (status, answered, body) = post(&server, INFER, &[("inference-header-content-length", "0")], &values.repeat(2));
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let length: usize = header(&answered, "inference-header-content-length").unwrap().parse().unwrap();
    assert_eq!(body.len() - length, 2 * 8 + 2 * 3 * 4);

    let large = flowers(5000).to_string();
    let (status, answered, packed) = post(&server, INFER, &[("accept-encoding", "gzip")], large.as_bytes());
    assert_eq!((status, header(&answered, "content-encoding")), (200, Some("gzip")));
    let mut text = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["outputs"][0]["shape"], json!([5000]));
    let (_, answered, _) = post(&server, INFER, &[("accept-encoding", "identity")], large.as_bytes());
    assert_eq!(header(&answered, "content-encoding"), None);
}

#[test]
fn a_bad_request_is_told_the_path_to_its_fault() {
    let server = Server::start(&["--rows-max", "10", "--body-bytes-max", "100000"]);
    let of = |change: &dyn Fn(&mut Value)| {
        let mut request = flowers(1);
        change(&mut request);
        request.to_string()
    };
    let good = flowers(1).to_string();
    let cases = [
        (of(&|r| r["inputs"][0]["shape"] = json!([-1, 4])), 400, "inputs[0].shape[0]"),
        (of(&|r| r["inputs"][0]["shape"] = json!([1_i64 << 62, 4])), 400, "inputs[0].shape"),
        (of(&|r| r["inputs"][0]["shape"] = json!([1, 3])), 400, "inputs[0].data[3]"),
        (of(&|r| r["inputs"][0]["data"] = json!([1, 2, 3])), 400, "inputs[0].data"),
        (of(&|r| r["inputs"][0]["data"] = json!([1, 2, 3, "4"])), 400, "inputs[0].data[3]"),
        (of(&|r| r["inputs"] = json!([])), 400, "inputs"),
        (of(&|r| r["inputs"] = json!([r["inputs"][0], r["inputs"][0]])), 400, "inputs"),
        (of(&|r| r["inputs"][0]["name"] = json!("features_")), 400, "inputs[0].name"),
        (of(&|r| r["outputs"] = json!([{"name": "scores"}])), 400, "outputs[0].name"),
        (good.replace("5.1", "1e400"), 400, "inputs[0].data[0]"),
        (good.replace("5.1", "NaN"), 400, "inputs[0].data"),
        (good.replace("features", "\\udc00"), 400, "inputs[0].name"),
        (good.replace("\"id\"", "\"inputs\": [], \"id\""), 400, "inputs"),
        (format!("{{\"inputs\": {}", "[".repeat(90_000)), 400, "inputs[0]"),
    ];
    for (body, status, path) in cases {
        let answer = server.post(INFER, &body);
        let error = answer.json();
        assert_eq!((answer.status, &error["details"][0]["path"]), (status, &json!(path)), "{body:.200}: {error}");
        assert_eq!(
            (answer.header("content-type"), &error["code"]),
            (Some("application/json"), &json!("invalid_request"))
        );
        assert!(error["error"].as_str().unwrap().starts_with(path), "{error}");
    }
    let code = |answer: Answer| (answer.status, answer.json()["code"].as_str().unwrap().to_owned());
    assert_eq!(code(server.post(INFER, &flowers(11).to_string())), (413, "too_many_rows".into()));
    assert_eq!(code(server.post(INFER, &" ".repeat(100_001))), (413, "body_too_large".into()));
    assert_eq!(code(server.post("/v2/models/irs/infer", &good)), (404, "unknown_model".into()));
    assert_eq!(code(server.post("/v2/models/iris/versions/9.9.9/infer", &good)), (404, "unknown_version".into()));
    assert_eq!(code(server.get(INFER)), (405, "method_not_allowed".into()));
    assert_eq!(code(server.post("/v2/health/live", "")), (405, "method_not_allowed".into()));
    assert_eq!(code(server.get("/v2/nothing")), (404, "not_found".into()));
    assert_eq!(code(server.post("/v2/repository/models/iris/load", "{}")), (403, "git_decides".into()));
    assert_eq!(code(server.post("/v2/repository/models/iris/unload", "")), (403, "git_decides".into()));
    assert_eq!(code(server.post("/v2/logging", r#"{"log_file": "/etc/passwd"}"#)), (403, "read_only".into()));
    assert_eq!(code(server.get("/v2/systemsharedmemory/status")), (501, "shared_memory".into()));

    let status = |headers: &[(&str, &str)], body: &[u8]| {
        let (status, _, body) = post(&server, INFER, headers, body);
        let error: Value = serde_json::from_slice(&body).unwrap();
        (status, error["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(status(&[("content-encoding", "br")], good.as_bytes()), (415, "content_encoding".into()));
    assert_eq!(status(&[("content-encoding", "gzip")], good.as_bytes()), (400, "content_encoding".into()));
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 10 << 20]).unwrap();
    assert_eq!(status(&[("content-encoding", "gzip")], &bomb.finish().unwrap()), (413, "body_too_large".into()));
    for length in ["-1", "x", "99999"] {
        let header = [("inference-header-content-length", length)];
        assert_eq!(status(&header, good.as_bytes()), (400, "invalid_request".into()), "{length}");
    }
    let nan: Vec<u8> = [5.1f32, f32::NAN, 1.1, 0.2].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(status(&[("inference-header-content-length", "0")], &nan), (400, "invalid_request".into()));
    server.post(INFER, &good).ok();
}

#[test]
fn floats_of_16_bits_come_and_go_as_bytes() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/server/tests/fixtures/content");
    let server = Server::start(&["--models", models]);
    // 1.5 and 0.25, and their sum; 0.5, and twice that.
    for (model, input, datatype, values, output, given, number) in [
        ("halves", "features", "FP16", &[0x00, 0x3e, 0x00, 0x34][..], "sum", [0x00, 0x3f], 1.75),
        ("brains", "x", "BF16", &[0x00, 0x3f], "double", [0x80, 0x3f], 1.0),
    ] {
        let metadata = server.get(&format!("/v2/models/{model}")).ok();
        let types = [&metadata["inputs"][0]["datatype"], &metadata["outputs"][0]["datatype"]];
        assert_eq!(types, [datatype, datatype], "{metadata}");
        let config = server.get(&format!("/v2/models/{model}/config")).ok();
        assert_eq!(config["input"][0]["data_type"], format!("TYPE_{datatype}"));

        let path = format!("/v2/models/{model}/infer");
        let shape = [1, values.len() / 2];
        let request = |is_binary: bool, size_bytes: usize| {
            let parameters = json!({"binary_data_size": size_bytes});
            json!({
                "inputs": [{"name": input, "datatype": datatype, "shape": shape, "parameters": parameters}],
                "outputs": [{"name": output, "parameters": {"binary_data": is_binary}}],
            })
        };
        let infer = |head: &Value, tail: &[u8]| {
            let head = head.to_string();
            let length = [("inference-header-content-length", &*head.len().to_string())];
            let (status, headers, answer) = post(&server, &path, &length, &[head.as_bytes(), tail].concat());
            let length = header(&headers, "inference-header-content-length");
            let (head, tail) = answer.split_at(length.map_or(answer.len(), |length| length.parse().unwrap()));
            (status, serde_json::from_slice::<Value>(head).unwrap(), tail.to_vec())
        };
        let (status, head, tail) = infer(&request(true, values.len()), values);
        assert_eq!((status, tail.as_slice()), (200, &given[..]), "{head}");
        let (status, head, _) = infer(&request(false, values.len()), values);
        assert_eq!((status, &head["outputs"][0]["data"]), (200, &json!([number])), "{head}");
        // The bytes alone.
        let (status, ..) = post(&server, &path, &[("inference-header-content-length", "0")], values);
        assert_eq!(status, 200);

        let fault = |head: &Value, tail: &[u8]| {
            let (status, answer, _) = infer(head, tail);
            (status, answer["details"][0]["path"].as_str().unwrap_or_default().to_owned())
        };
        let infinite = [&values[..values.len() - 2], &[0x80, 0x7f]].concat();
        assert_eq!(fault(&request(true, values.len()), &infinite).1, format!("inputs[0].data[0][{}]", shape[1] - 1));
        assert_eq!(fault(&request(true, values.len() - 1), &values[1..]), (400, "inputs[0].data".into()));
        // Triton refuses them too.
        let data = vec![1.5; shape[1]];
        let numbers = json!({"inputs": [{"name": input, "datatype": datatype, "shape": shape, "data": data}]});
        assert_eq!(fault(&numbers, &[]), (400, "inputs[0].datatype".into()));
    }
}

#[test]
fn bad_input_of_every_dialect_is_told_its_place() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/server/tests/fixtures/content");
    let server = Server::start(&["--models", models]);
    let tensors = |data: &str| {
        let other = |name: &str, datatype: &str, columns: usize, data: &str| {
            format!(r#"{{"name": "{name}", "shape": [1, {columns}], "datatype": "{datatype}", "data": {data}}}"#)
        };
        let fixed = [
            other("flag", "BOOL", 1, "[true]"),
            other("text", "BYTES", 1, r#"["a"]"#),
            other("large", "UINT64", 1, "[1]"),
            other("small", "INT32", 2, "[1, 2]"),
        ];
        format!(r#"{{"inputs": [{}, {}]}}"#, other("id", "INT64", 1, data), fixed.join(", "))
    };
    let record =
        |id: &str| format!(r#"{{"id": {id}, "flag": true, "text": "a", "large": 1, "first": 1, "second": 2}}"#);
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    // Each as the value of the feature `id`, an int64.
    for bad in ["1e400", "9223372036854775808", "1.5", "NaN", r#""\ud800""#, "null", &deep] {
        let answer = server.post("/v2/models/kinds/infer", &tensors(&format!("[{bad}]")));
        let error = answer.json();
        let path = error["details"][0]["path"].as_str().unwrap_or_default();
        assert!(answer.status == 400 && path.starts_with("inputs[0].data"), "{bad:.40}: {error}");
        for (path, body, place) in [
            ("/models/kinds/predict", format!("[{}]", record(bad)), "[0].id"),
            ("/models/kinds/predict", record(bad), "id"),
            ("/v1/models/kinds:predict", format!(r#"{{"instances": [{}]}}"#, record(bad)), "instances[0].id"),
        ] {
            let answer = server.post(path, &body);
            let fault = &answer.json()["details"][0];
            assert_eq!(
                (answer.status, &fault["row"], &fault["feature"], &fault["path"]),
                (422, &json!(0), &json!("id"), &json!(place)),
                "{path} {bad:.40}"
            );
        }
    }
    // Integers that no float64 holds, in and out.
    let answer = server.post("/v2/models/kinds/infer", &tensors("[9223372036854775806]")).ok();
    assert!(answer.to_string().contains("9223372036854775807"), "{answer}");
    let answer = server.post("/models/kinds/predict", &format!("[{}]", record("9223372036854775806")));
    assert!(answer.ok().to_string().contains("9223372036854775807"), "{answer:?}");

    let twice = record("1").replace(r#""flag""#, r#""id": 2, "flag""#);
    let answer = server.post("/models/kinds/predict", &format!("[{twice}]"));
    assert_eq!((answer.status, &answer.json()["details"][0]["got"]), (422, &json!("it twice")));
    let missing = record("1").replace(r#""flag": true, "#, "").replace(r#""text": "a", "#, "");
    let answer = server.post("/models/kinds/predict", &format!("[{}, {missing}]", record("1")));
    let fault = &answer.json()["details"][0];
    assert_eq!((answer.status, &fault["row"], &fault["feature"]), (422, &json!(1), &json!("text")), "{fault}");
}

#[test]
fn a_million_chunks_are_one_body() {
    let server = Server::start(&[]);
    let mut request = flowers(1).to_string();
    request.push_str(&" ".repeat(1_000_000 - request.len()));
    let mut connection = Connection::open(server.listen);
    let mut chunks = format!("POST {INFER} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    for byte in request.bytes() {
        chunks.extend_from_slice(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']);
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    connection.send(chunks).unwrap();
    assert_eq!(connection.answer().unwrap().ok()["outputs"][0]["data"], json!([0]));
}
