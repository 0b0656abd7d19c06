//! What clients ask, rightly and wrongly, and what they get.

use serde_json::{Value, json};

use crate::harness::{Answer, Connection, MILL, SETOSA, SETOSA_QUERY, Server, eventually};
use crate::platforms::{check_place, row};

/// The request that the users of the replaced system send.
const FIRST_REQUEST: &str = r#"[{"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.1, "petal width (cm)": 0.2},
 {"sepal length (cm)": 6.3, "sepal width (cm)": 2.9, "petal length (cm)": 6.3, "petal width (cm)": 1.8},
 {"sepal length (cm)": 6.7, "sepal width (cm)": 2.8, "petal length (cm)": 4.4, "petal width (cm)": 1.4}]"#;

#[test]
fn the_request_of_the_replaced_system_works_unchanged() {
    let server = Server::start(&[]);
    let answer = server.post("/predict", FIRST_REQUEST);
    let body = answer.ok();
    assert_eq!(body["prediction"], json!([0, 2, 1]));
    assert_eq!(body["label"], json!(["setosa", "virginica", "versicolor"]));
    assert_eq!((&body["model"], &body["version"], &body["commit"]), (&json!("iris"), &json!("1.1.0"), &Value::Null));
    for row in body["probability"].as_array().unwrap() {
        let sum: f64 = row.as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{row}");
    }
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-model-version"), Some("1.1.0"));
}

#[test]
fn every_form_of_a_request_gets_the_same_answer() {
    let server = Server::start(&[]);
    let expected = server.post("/predict", SETOSA).ok();
    let record = SETOSA.trim_matches(['[', ']']);
    for body in [record, &format!("{{\"instances\": {SETOSA}}}"), "[[5.1, 3.5, 1.1, 0.2]]"] {
        assert_eq!(server.post("/predict", body).ok(), expected, "{body}");
        assert_eq!(server.post("/models/iris/predict", body).ok(), expected, "{body}");
    }
    // As a browser sends what is typed into its address bar, and as it sends a form.
    for query in [SETOSA_QUERY.to_owned(), SETOSA_QUERY.replace("%20", "+").replace('(', "%28").replace(')', "%29")] {
        assert_eq!(server.get(&format!("/predict?{query}")).ok(), expected, "{query}");
        assert_eq!(server.get(&format!("/models/iris/predict?version=1.1.0&{query}")).ok(), expected, "{query}");
    }
    let mill = server.post("/models/pred-main/predict", MILL).ok();
    assert_eq!((&mill["model"], &mill["label"]), (&json!("pred-main"), &json!(["no failure"])));
    let mut curl = Connection::open(server.listen);
    let as_curl_says = "content-type: application/x-www-form-urlencoded\r\n";
    assert_eq!(curl.ask("POST", "/predict", as_curl_says, SETOSA).unwrap().ok(), expected);
    let form = SETOSA_QUERY.replace("%20", "+").replace('(', "%28").replace(')', "%29");
    let table = "petal width (cm),sepal length (cm),sepal width (cm),petal length (cm)\r\n.2,5.1,3.5,1.1\r\n";
    for (kind, body) in [
        ("application/x-www-form-urlencoded", form.as_str()),
        ("text/csv; charset=utf-8", table),
        ("Text/CSV; header=absent", "5.1,3.5,1.1,.2"),
    ] {
        let headers = format!("content-type: {kind}\r\n");
        assert_eq!(curl.ask("POST", "/predict", &headers, body).unwrap().ok(), expected, "{kind}");
    }
    // Who does not ask for a page is no browser, and only wants to know that somebody is there.
    let page = Connection::open(server.listen).ask("GET", "/", "accept: text/html,*/*;q=0.8\r\n", "").unwrap();
    assert!(page.status == 200 && page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    assert!(page.body.contains("iris") && page.body.contains("pred-main"));
}

/// A bad request: method, path, headers, body, and the status, code and words of its answer.
type Bad<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str, &'a str);

#[test]
fn every_bad_request_is_told_what_is_wrong_and_never_gets_a_5xx() {
    let server = Server::start(&["--rows-max", "3", "--body-bytes-max", "2000"]);
    let row = "[5.1, 3.5, 1.1, 0.2]";
    let four_rows = format!("[{row},{row},{row},{row}]");
    let long = format!("[{row}{}]", " ".repeat(2000));
    let with = |from: &str, to: &str| SETOSA.replace(from, to);
    let (missing, unknown) = (with(r#", "petal width (cm)": 0.2"#, ""), with("petal width", "petal wdith"));
    let (text, null, nan) = (with("0.2", "\"0.2\""), with("0.2", "null"), with("0.2", "NaN"));
    let (infinite, category) = (with("0.2", "1e39"), MILL.replace("\"M\"", "\"X\""));
    let query_nan = format!("/predict?{}", SETOSA_QUERY.replace("0.2", "NaN"));
    let query_unknown = format!("/predict?{SETOSA_QUERY}&colour=blue");
    let json = "content-type: application/json\r\n";
    let typed = "content-type: text/plain\r\n";
    let packed = "content-encoding: br\r\n";
    let not_packed = "content-encoding: gzip\r\n";
    let csv = "content-type: text/csv\r\n";
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let names = "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)";
    let table = format!("{names}\n5.1,3.5,1.1,0.2\n\n5.1,x,1.1,0.2\n");
    let four_lines = format!("{names}\n{}", "5.1,3.5,1.1,0.2\n".repeat(4));
    let cases: &[Bad<'_>] = &[
        ("POST", "/predict", json, "", 400, "malformed", "not a list of records"),
        ("POST", "/predict", json, "[{", 400, "malformed", "not a list of records"),
        ("POST", "/predict", json, "[]", 400, "malformed", "no row"),
        ("POST", "/predict", json, "\u{1}\u{2}", 400, "malformed", "not a list of records"),
        ("POST", "/predict", json, "[5.1, 3.5]", 400, "malformed", "not a list of records"),
        ("POST", "/models/irs/predict", json, SETOSA, 404, "unknown_model", "`irs`; there are iris, pred-main"),
        ("POST", "/models/%2e%2e%2fetc/predict", json, SETOSA, 404, "unknown_model", "there are iris, pred-main"),
        ("POST", "/predict?version=9.9.9", json, SETOSA, 404, "unknown_version", "`9.9.9` loaded; it has 1.1.0"),
        ("POST", "/predict?version=latest", json, SETOSA, 404, "unknown_version", "`latest`"),
        ("GET", "/favourites", "", "", 404, "not_found", "/models/{name}/predict"),
        ("GET", "/models/iris", "", "", 404, "not_found", "nothing at this path"),
        ("GET", "/../../etc/passwd", "", "", 404, "not_found", "nothing at this path"),
        ("DELETE", "/predict", "", "", 405, "method_not_allowed", "DELETE"),
        ("PUT", "/models/iris/predict", json, SETOSA, 405, "method_not_allowed", "use GET, HEAD, POST"),
        ("POST", "/info", json, "", 405, "method_not_allowed", "use GET, HEAD"),
        ("POST", "/", json, "", 405, "method_not_allowed", "use GET, HEAD"),
        ("POST", "/predict", json, &long, 413, "body_too_large", "2000 bytes"),
        ("POST", "/predict", json, &four_rows, 413, "too_many_rows", "3 rows"),
        ("POST", "/predict", typed, SETOSA, 415, "content_type", "application/json"),
        ("POST", "/predict", packed, SETOSA, 415, "content_encoding", "Content-Encoding"),
        ("POST", "/predict", not_packed, SETOSA, 400, "content_encoding", "not gzip"),
        ("POST", "/predict", json, &missing, 422, "invalid_rows", "`petal width (cm)`: expected a finite number"),
        ("POST", "/predict", json, &unknown, 422, "invalid_rows", "`petal wdith (cm)`: expected one of the features"),
        ("POST", "/predict", json, &text, 422, "invalid_rows", "got the text \"0.2\""),
        ("POST", "/predict", json, &null, 422, "invalid_rows", "got null"),
        ("POST", "/predict", json, &nan, 422, "invalid_rows", "got NaN"),
        ("POST", "/predict", json, &infinite, 422, "invalid_rows", "`petal width (cm)`"),
        ("POST", "/models/pred-main/predict", json, &category, 422, "invalid_rows", "expected one of L, M, H"),
        ("POST", "/predict", csv, SETOSA, 400, "malformed", "line 1 must name features"),
        ("POST", "/predict", csv, names, 400, "malformed", "no row"),
        ("POST", "/predict", csv, &four_lines, 413, "too_many_rows", "3 rows"),
        ("POST", "/predict", csv, &table, 422, "invalid_rows", "row 1, line 4, feature `sepal width (cm)`"),
        ("POST", "/predict", form, "colour=blue", 422, "invalid_rows", "`colour`"),
        ("POST", "/predict", form, "", 422, "invalid_rows", "got nothing (and 3 more)"),
        ("GET", "/predict", "", "", 422, "invalid_rows", "got nothing (and 3 more)"),
        ("GET", &query_nan, "", "", 422, "invalid_rows", "got NaN"),
        ("GET", &query_unknown, "", "", 422, "invalid_rows", "`colour`"),
    ];
    for (index, (method, path, headers, body, status, code, words)) in cases.iter().enumerate() {
        let what = format!("{method} {path} {body}");
        let id = format!("case-{index}");
        let is_json = *headers == json;
        let headers = format!("{headers}x-request-id: {id}\r\n");
        let answer = Connection::open(server.listen).ask(method, path, &headers, body).unwrap();
        assert_eq!((answer.status, answer.header("x-request-id")), (*status, Some(id.as_str())), "{what}: {answer:?}");
        let error = error_of(&answer);
        assert_eq!((&error["code"], &error["request_id"]), (&json!(code), &json!(id)), "{what}: {answer:?}");
        assert!(error["error"].as_str().unwrap().contains(words), "{what}: {answer:?}");
        let has_place = *status == 422 || (*code == "malformed" && is_json);
        assert_eq!(error["details"].as_array().unwrap().is_empty(), !has_place, "{what}: {answer:?}");
        let allow = answer.header("allow");
        assert_eq!(allow.is_some_and(|allow| words.ends_with(allow) || *words == "DELETE"), *status == 405, "{what}");
    }
    let error = error_of(&server.post("/predict", &unknown));
    let names = error["details"].as_array().unwrap().iter().map(|detail| &detail["feature"]);
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["petal wdith (cm)", "petal width (cm)"],
        "every fault is told, not the first"
    );
    server.post("/predict", SETOSA).ok();
}

#[test]
fn a_bad_value_is_told_its_place() {
    let server = Server::start(&[]);
    check_place(&server, "/predict", |bad| format!("[{}]", row(bad)), "[0][3]", false);
}

/// The typed shape that every error has, and nothing of the server's inside.
fn error_of(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let error = answer.json();
    let keys: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "details", "error", "request_id"], "{answer:?}");
    for detail in error["details"].as_array().unwrap() {
        let keys: Vec<_> = detail.as_object().unwrap().keys().map(String::as_str).collect();
        // A value has a row and a feature, and its path in JSON or its line in CSV; a body as a whole has a path alone.
        let known = match keys.len() {
            3 => vec!["expected", "got", "path"],
            4 => vec!["expected", "feature", "got", "row"],
            _ if keys.contains(&"line") => vec!["expected", "feature", "got", "line", "row"],
            _ => vec!["expected", "feature", "got", "path", "row"],
        };
        assert_eq!(keys, known, "{answer:?}");
    }
    for leak in [env!("CARGO_MANIFEST_DIR"), ".rs", ".onnx", "panicked", "0x", "line: "] {
        assert!(!answer.body.contains(leak), "{answer:?}");
    }
    error
}

#[test]
fn a_request_gets_its_own_id_back_or_a_new_one() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.listen);
    let mut id_of = |headers: &str| {
        let answer = connection.ask("POST", "/predict", headers, SETOSA).unwrap();
        answer.ok();
        answer.header("x-request-id").expect("every answer has an id").to_owned()
    };
    assert_eq!(id_of("x-request-id: order-66/b\r\n"), "order-66/b");
    let new = id_of("");
    assert!(new.len() == 32 && new != id_of(""), "{new}");
    let too_long = "a".repeat(129);
    for odd in ["two words", "", "caf\u{e9}", &too_long] {
        assert_eq!(id_of(&format!("x-request-id: {odd}\r\n")).len(), 32, "{odd}");
    }
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    let server = Server::start(&["--body-bytes-max", "2000"]);
    let mut announced = Connection::open(server.listen);
    let head = "POST /predict HTTP/1.1\r\nhost: test\r\n";
    announced.send(format!("{head}content-length: 99999999999\r\nexpect: 100-continue\r\n\r\n")).unwrap();
    let answer = announced.answer().unwrap();
    assert_eq!((answer.status, &error_of(&answer)["code"]), (413, &json!("body_too_large")));

    let mut chunked = Connection::open(server.listen);
    chunked.send(format!("{head}transfer-encoding: chunked\r\n\r\n")).unwrap();
    for _ in 0..3 {
        chunked.send(format!("400\r\n{}\r\n", " ".repeat(0x400))).unwrap();
    }
    let answer = chunked.answer().unwrap();
    assert_eq!((answer.status, &error_of(&answer)["code"]), (413, &json!("body_too_large")));

    let mut small = Connection::open(server.listen);
    let length = SETOSA.len();
    small.send(format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{SETOSA}\r\n0\r\n\r\n")).unwrap();
    assert_eq!(small.answer().unwrap().ok()["prediction"], json!([0]));
}

#[test]
fn a_body_that_does_not_come_is_the_clients_fault() {
    let server = Server::start(&["--request-timeout-s", "0.3"]);
    let (mut slow, _) = server.half_asked();
    let answer = slow.answer().unwrap();
    assert_eq!((answer.status, &error_of(&answer)["code"]), (408, &json!("body_slow")));
    server.post("/predict", SETOSA).ok();
}

#[test]
fn what_is_not_http_is_turned_away_and_harms_nobody() {
    let server = Server::start(&[]);
    let huge = format!("GET /info HTTP/1.1\r\nhost: test\r\nx-large: {}\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET /info HTTP/1.1\r\nhost: test\r\n{}\r\n", "x: y\r\n".repeat(200));
    let smuggled = "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello";
    for (bytes, status) in [
        ("what is this\r\n\r\n", 400),
        ("GET /info HTTP/9.9\r\n\r\n", 400),
        ("GET /in fo HTTP/1.1\r\nhost: test\r\n\r\n", 400),
        (smuggled, 400),
        (&many, 431),
        (&huge, 431),
    ] {
        let mut connection = Connection::open(server.listen);
        // The server may hang up before it has read everything.
        let _ = connection.send(bytes);
        match connection.answer() {
            Ok(answer) => assert_eq!(answer.status, status, "{bytes:.60}: {answer:?}"),
            Err(error) => assert!(bytes.len() > 10_000, "{bytes:.60}: {error}"),
        }
        assert!(connection.closed(), "{bytes:.60}");
    }
    server.post("/predict", SETOSA).ok();
}

#[test]
fn more_requests_than_allowed_are_told_to_come_back() {
    let server = Server::start(&["--requests-max", "1", "--threads", "1", "--engine", "ort"]);
    let (mut first, withheld) = server.half_asked();
    // What need not wait, not even for a body, is answered all the same: on the one thread that there is, so that the
    // first request has begun to wait by then.
    server.get("/info").ok();
    // And what has come whole, in one piece, and waits for a worker has a place in the queue.
    let many = format!("[{}]", ["[5.1,3.5,1.4,0.2]"; 100].join(","));
    Connection::open(server.listen).ask("POST", "/predict", "", &many).unwrap().ok();
    let second = server.half_ask().0.answer().unwrap();
    assert_eq!((second.status, &error_of(&second)["code"]), (503, &json!("overloaded")));
    assert_eq!(second.header("retry-after"), Some("1"));
    assert!(second.header("x-request-id").is_some());
    assert_eq!(server.probe("/ready").status, 200, "operators are answered by another door");
    first.send(withheld).unwrap();
    first.answer().unwrap().ok();
    let (mut third, withheld) = server.half_asked();
    third.send(withheld).unwrap();
    third.answer().unwrap().ok();
}

#[test]
fn a_large_request_that_finds_no_place_is_refused_and_its_connection_goes_on() {
    let server = Server::start(&["--queue-max", "1", "--threads", "1", "--engine", "ort"]);
    let body = format!("[{}]", ["[5.1,3.5,1.4,0.2]"; 10_000].join(","));
    // Some at the same time, so that most come while others are decoded and run.
    let ask = || {
        let mut connection = Connection::open(server.listen);
        let mut refused = 0;
        for _ in 0..5 {
            let answer = connection.ask("POST", "/predict", "", &body).unwrap();
            if answer.status == 503 {
                assert_eq!(error_of(&answer)["code"], json!("overloaded"));
                assert_eq!(answer.header("retry-after"), Some("1"));
                refused += 1;
            } else {
                assert_eq!(answer.ok()["prediction"].as_array().unwrap().len(), 10_000);
            }
            // What was refused has been read to its end, or this would not be understood.
            connection.ask("POST", "/predict", "", SETOSA).unwrap();
        }
        refused
    };
    eventually("large requests find no place", || {
        let refused: usize = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        (refused > 0).then_some(())
    });
}

#[test]
fn a_client_that_asks_before_it_sends_a_large_body_is_refused_before_it_does() {
    let server = Server::start(&["--queue-max", "1", "--threads", "1", "--engine", "ort"]);
    let body = format!("[{}]", ["[5.1,3.5,1.4,0.2]"; 10_000].join(","));
    let head = format!("POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
    let ask = || {
        let mut connection = Connection::open(server.listen);
        connection.send(format!("{head}expect: 100-continue\r\n\r\n")).unwrap();
        let first = connection.answer().unwrap();
        if first.status == 100 {
            connection.send(&body).unwrap();
            assert!(matches!(connection.answer().unwrap().status, 200 | 503));
            return 0;
        }
        assert_eq!((first.status, &error_of(&first)["code"]), (503, &json!("overloaded")));
        // Whatever would come now could be the body, or not.
        assert!(connection.closed());
        1
    };
    eventually("a client is refused before it sends", || {
        let refused: usize = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..12).map(|_| scope.spawn(|| (0..5).map(|_| ask()).sum::<usize>())).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        (refused > 0).then_some(())
    });
}

#[test]
fn requests_that_share_a_run_are_never_too_many_and_get_their_own_answers() {
    let server = Server::start(&["--requests-max", "1", "--threads", "1", "--engine", "ort"]);
    let mut connections: Vec<_> = (0..9).map(|_| Connection::open(server.listen)).collect();
    // One of each species, in turn.
    let rows = ["5.1,3.5,1.4,0.2", "6.0,2.7,4.1,1.2", "6.5,3.0,5.8,2.2"];
    eventually("requests share a run", || {
        for (index, connection) in connections.iter_mut().enumerate() {
            let body = format!("[[{}]]", rows[index % 3]);
            let length = body.len();
            let head = format!("POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
            connection.send(head + &body).unwrap();
        }
        for (index, connection) in connections.iter_mut().enumerate() {
            assert_eq!(connection.answer().unwrap().ok()["prediction"], json!([index % 3]));
        }
        let counted = server.get("/v2/models/iris/stats").ok()["model_stats"][0].clone();
        let count = |name: &str| counted[name].as_u64().unwrap();
        assert_eq!(count("inference_count") % 9, 0);
        (count("execution_count") < count("inference_count")).then_some(())
    });
}

#[test]
fn http_2_with_prior_knowledge_is_answered_too() {
    let server = Server::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let versions = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.listen).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..20 {
            client = client.ready().await.unwrap();
            let request = http::Request::post(format!("http://{}/predict", server.listen)).body(()).unwrap();
            let (answer, mut body) = client.send_request(request, false).unwrap();
            body.send_data(SETOSA.into(), true).unwrap();
            answers.push(answer);
        }
        let mut versions = Vec::new();
        for answer in answers {
            let answer = answer.await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
            versions.push(answer.headers()["x-model-version"].to_str().unwrap().to_owned());
            let mut body = answer.into_body();
            let data: bytes::Bytes = body.data().await.unwrap().unwrap();
            assert!(data.starts_with(br#"{"model":"iris""#), "{data:?}");
        }
        versions
    });
    assert_eq!(versions, vec!["1.1.0"; 20], "twenty at once, on one connection");
}
