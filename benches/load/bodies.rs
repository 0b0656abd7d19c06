//! Requests with other rows each time, put together before the clock runs.

use std::fmt::Write as _;

use super::chance::Chance;

/// How many features the forest takes.
pub const FEATURES: usize = 20;

/// How a server wants to be asked.
#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    /// Rows that name their features.
    Records,
    /// Rows in the features' order, as `{"instances": [[…]]}`.
    Instances,
    /// The Open Inference Protocol, in JSON.
    V2,
    /// The Open Inference Protocol, with the tensors' bytes behind the JSON, both ways.
    V2Binary,
}

/// `count` requests of `rows` rows each to `path`; the same ones each time.
pub fn requests(form: Form, path: &str, rows: usize, count: usize) -> Vec<Vec<u8>> {
    rows_of_each(rows, count).map(|rows| request(form, path, &rows)).collect()
}

/// What `count` requests of `rows` rows each ask about; the same each time.
pub fn rows_of_each(rows: usize, count: usize) -> impl Iterator<Item = Vec<[f32; FEATURES]>> {
    let mut chance = Chance::new(11);
    (0..count).map(move |_| rows_of(&mut chance, rows))
}

/// Values as the forest was trained on them.
fn rows_of(chance: &mut Chance, rows: usize) -> Vec<[f32; FEATURES]> {
    (0..rows).map(|_| std::array::from_fn(|_| (chance.noise() * 1e4).round() as f32 / 1e4)).collect()
}

fn request(form: Form, path: &str, rows: &[[f32; FEATURES]]) -> Vec<u8> {
    let mut headers = "Content-Type: application/json\r\n".to_owned();
    let mut body = match form {
        Form::Records => {
            let record = |row: &[f32; FEATURES]| {
                let fields = row.iter().enumerate().map(|(index, value)| format!("\"f{index:02}\": {value}"));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            };
            format!("[{}]", rows.iter().map(record).collect::<Vec<_>>().join(", ")).into_bytes()
        }
        Form::Instances => format!("{{\"instances\": {}}}", lists(rows)).into_bytes(),
        Form::V2 => {
            let shape = format!("[{}, {FEATURES}]", rows.len());
            let input = format!("\"name\": \"features\", \"datatype\": \"FP32\", \"shape\": {shape}");
            format!("{{\"inputs\": [{{{input}, \"data\": {}}}]}}", lists(rows)).into_bytes()
        }
        Form::V2Binary => {
            let size = rows.len() * FEATURES * 4;
            let input = format!(
                "{{\"name\": \"features\", \"datatype\": \"FP32\", \"shape\": [{}, {FEATURES}], \"parameters\": {{\"binary_data_size\": {size}}}}}",
                rows.len()
            );
            let json = format!("{{\"inputs\": [{input}], \"parameters\": {{\"binary_data_output\": true}}}}");
            headers = format!(
                "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {}\r\n",
                json.len()
            );
            let mut body = json.into_bytes();
            body.extend(rows.iter().flatten().flat_map(|value| value.to_le_bytes()));
            body
        }
    };
    let mut whole = String::new();
    let length = body.len();
    write!(whole, "POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n")
        .expect("a string takes everything");
    let mut whole = whole.into_bytes();
    whole.append(&mut body);
    whole
}

fn lists(rows: &[[f32; FEATURES]]) -> String {
    let list =
        |row: &[f32; FEATURES]| format!("[{}]", row.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    format!("[{}]", rows.iter().map(list).collect::<Vec<_>>().join(", "))
}
