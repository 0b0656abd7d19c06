//! SageMaker: `/invocations` with a table without names, `/ping`.

use serde_json::json;

use super::{check_predictions, rows};
use crate::harness::{Connection, Server};

const PATH: &str = "/invocations";

#[test]
fn a_table_without_names_gets_a_line_for_each_row() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/ping").status, 200);
    check_predictions(&server, PATH, &json!({"instances": rows()}));
    let headers = "content-type: text/csv\r\naccept: text/csv\r\n";
    let table = "5.1,3.5,1.1,0.2\n6.3,2.9,6.3,1.8";
    let answer = Connection::open(server.listen).ask("POST", PATH, headers, table).unwrap();
    assert_eq!((answer.body.as_str(), answer.header("content-type")), ("0\n2\n", Some("text/csv")));
}

#[test]
fn another_type_and_another_coding_are_told() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.listen);
    for headers in ["content-type: text/plain\r\n", "content-type: text/csv; charset=latin1\r\n"] {
        let answer = connection.ask("POST", PATH, headers, "1,2,3,4").unwrap();
        assert_eq!((answer.status, answer.json()["code"].as_str()), (415, Some("content_type")), "{headers}");
    }
}
