//! What the server says may be asked of it, asked.

use serde_json::{Value, json};

use crate::harness::{Answer, Connection, Server};

/// The collection in docs/, which is that of the shipped models.
const COLLECTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/mainstay.postman_collection.json");

/// Every request of `folder`, with the names of the folders that it lies in.
fn requests(folder: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for item in folder["item"].as_array().unwrap() {
        let name = item["name"].as_str().unwrap();
        match item.get("request") {
            Some(_) => found.push((name.to_owned(), item)),
            None => found.extend(requests(item).into_iter().map(|(inner, item)| (format!("{name} > {inner}"), item))),
        }
    }
    found
}

fn send(server: &Server, request: &Value) -> Answer {
    let path = request["url"]["raw"].as_str().unwrap().strip_prefix("{{baseUrl}}").unwrap();
    let header =
        |header: &Value| format!("{}: {}\r\n", header["key"].as_str().unwrap(), header["value"].as_str().unwrap());
    let headers: String = request["header"].as_array().unwrap().iter().map(header).collect();
    let body = request["body"]["raw"].as_str().unwrap_or_default();
    Connection::open(server.listen).ask(request["method"].as_str().unwrap(), path, &headers, body).unwrap()
}

#[test]
fn every_request_of_the_collection_is_answered_as_its_tests_say() {
    for settings in [&[][..], &["--health-route", "/alive", "--predict-route", "/predict"]] {
        answers_its_collection(&Server::start(settings));
    }
}

fn answers_its_collection(server: &Server) {
    let collection = server.get("/postman.json").ok();
    let requests = requests(&collection);
    assert!(requests.len() > 30, "{}", requests.len());
    for (name, item) in requests {
        let answer = send(server, &item["request"]);
        for line in item["event"][0]["script"]["exec"].as_array().unwrap() {
            let line = line.as_str().unwrap();
            if let Some((_, status)) = line.split_once("to.have.status(") {
                assert!(status.starts_with(&answer.status.to_string()), "{name}: {line}: {answer:?}");
            }
            if let Some((key, value)) =
                line.split_once("pm.response.json()['").and_then(|(_, l)| l.split_once("']).to.eql("))
            {
                let value: Value = serde_json::from_str(value.strip_suffix("));").unwrap()).unwrap();
                assert_eq!(answer.json()[key], value, "{name}: {answer:?}");
            }
        }
    }
}

/// `BLESS=1 cargo test --test e2e the_collection_in_docs` writes it anew.
#[test]
fn the_collection_in_docs_is_that_of_the_shipped_models() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.listen);
    connection.send("GET /postman.json HTTP/1.1\r\nhost: localhost:5000\r\n\r\n").unwrap();
    let text = serde_json::to_string_pretty(&connection.answer().unwrap().ok()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(COLLECTION, &text).unwrap();
    }
    let committed = std::fs::read_to_string(COLLECTION).unwrap();
    assert!(committed == text, "docs/mainstay.postman_collection.json is stale: run this test once with BLESS=1");
}

#[test]
fn the_documents_describe_all_models_or_one() {
    let server = Server::start(&[]);
    let whole = server.get("/openapi.json").ok();
    assert!(whole["paths"]["/predict"].is_object() && whole["paths"]["/models/pred-main/predict"].is_object());
    let one = server.get("/openapi.json?model=pred-main").ok();
    assert!(one["paths"]["/models/iris/predict"].is_null() && one["paths"]["/models/pred-main/predict"].is_object());
    let none = server.get("/openapi.json?model=nothing");
    assert_eq!((none.status, &none.json()["code"]), (404, &json!("unknown_model")));
    let page = server.get("/docs");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("/models/pred-main/predict") && page.body.contains("air temperature [K]"));
    assert!(!server.get("/docs?model=iris").body.contains("air temperature [K]"));
    let own = format!("http://{}", server.listen);
    let mut connection = Connection::open(server.listen);
    connection.send(format!("GET /postman.json HTTP/1.1\r\nhost: {}\r\n\r\n", server.listen)).unwrap();
    assert_eq!(connection.answer().unwrap().ok()["variable"][0]["value"], json!(own));
}
