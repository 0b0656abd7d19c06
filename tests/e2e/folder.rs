//! Models of a plain folder, and everything that goes into models and comes out of them, over HTTP.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Server, eventually, mainstay, run};

/// A model for each thing that goes in or comes out, as converters make them.
const CONTENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/server/tests/fixtures/content");

fn copied(names: &[&str], to: &Path) {
    for name in names {
        let folder = to.join(name).join("1.0.0");
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["model.yaml", "model.onnx"] {
            std::fs::copy(Path::new(CONTENT).join(name).join(file), folder.join(file)).unwrap();
        }
    }
}

fn close(got: &Value, expected: f64, what: &str) {
    let got = got.as_f64().unwrap_or_else(|| panic!("{what}: {got}"));
    assert!((got - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{what}: {got} instead of {expected}");
}

#[test]
fn whatever_goes_into_a_model_and_comes_out_of_it_is_served() {
    let server = Server::start(&["--models", CONTENT]);
    let ask = |model: &str, body: &str| server.post(&format!("/models/{model}/predict"), body).ok();

    // Texts and numbers in tensors of their own, labels as texts, and probabilities as a map by name.
    let row = r#"[{"age": 40, "income": 42.5, "city": "Porto", "plan": "gratuit ☂"}, {"age": 70, "income": 80, "city": "Köln"}]"#;
    let leaves = ask("columns", row);
    let labels = leaves["label"].as_array().unwrap();
    assert!(labels.iter().all(|label| ["leaves", "stays", "wavers"].contains(&label.as_str().unwrap())), "{leaves}");
    for (row, label) in labels.iter().enumerate() {
        let index = leaves["prediction"][row].as_u64().unwrap() as usize;
        assert_eq!(*label, ["leaves", "stays", "wavers"][index]);
        let probability: Vec<f64> =
            leaves["probability"][row].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
        close(&json!(probability.iter().sum::<f64>()), 1.0, "the sum of probabilities");
        assert!(probability.iter().all(|p| *p <= probability[index]), "{leaves}");
    }
    let alone = ask("columns", &row.replace(r#", {"age": 70, "income": 80, "city": "Köln"}"#, ""));
    assert_eq!(alone["probability"][0], leaves["probability"][0]);

    // A map by index, of a card like any other classifier's; and the same model's outputs as they come.
    let rows = "[[0.1, 0.2, 0.3, 0.4], [-1, 2, 0.5, 1]]";
    let (zipmap, maps) = (ask("zipmap", rows), ask("maps", rows));
    assert_eq!((&maps["outputs"]["class"], &maps["prediction"]), (&zipmap["label"], &zipmap["label"]));
    for row in 0..2 {
        for class in 0..3 {
            assert_eq!(maps["outputs"]["scores"][row][class.to_string()], zipmap["probability"][row][class]);
        }
    }

    // A number and a class, of one model.
    let both = ask("both", rows);
    assert_eq!(both["prediction"], both["outputs"]["price"]);
    for row in 0..2 {
        let dear = both["outputs"]["price"][row].as_f64().unwrap() > 0.0;
        assert_eq!(both["outputs"]["side"][row], if dear { "dear" } else { "cheap" }, "{both}");
    }
    for model in ["regression", "several", "both"] {
        assert_eq!(server.status_of(model)["engine"], "compiled", "{}", server.status_of(model));
    }

    // Regression: one number, or several.
    let price = ask("regression", rows);
    assert_eq!((price["prediction"].as_array().unwrap().len(), &price["outputs"]), (2, &Value::Null));
    assert!(price["prediction"][0].is_f64() && price.get("label").is_none(), "{price}");
    assert_eq!(ask("several", rows)["prediction"][1].as_array().unwrap().len(), 2);

    // A difference that no float32 knows.
    let sum = |large: &str| ask("doubles", &format!("[[{large}, 0.5]]"))["prediction"][0].as_f64().unwrap();
    assert!((sum("1000000000.25") - sum("1000000000.125") - 0.125).abs() < 1e-6);

    // One row at a time, however many are asked about.
    let three = ask("one-row", "[[0.1, 0.2, 0.3, 0.4], [-1, 2, 0.5, 1], [0.1, 0.2, 0.3, 0.4]]");
    assert_eq!(three["probability"][0], three["probability"][2]);
    assert_ne!(three["probability"][0], three["probability"][1]);
    assert_eq!(ask("one-row", "[[-1, 2, 0.5, 1]]")["probability"][0], three["probability"][1]);

    // Integers that no float holds, truth values, and texts, in and out.
    let body = r#"[{"id": 9007199254740993, "flag": true, "text": "a ☂", "large": 18446744073709551615, "first": -3, "second": 4}]"#;
    let kinds = ask("kinds", body);
    let expected = json!({"next": [9_007_199_254_740_994_u64], "unflagged": [false], "echo": ["a ☂"],
        "same": [18_446_744_073_709_551_615_u64], "negative": [[3, -4]]});
    assert_eq!((&kinds["outputs"], &kinds["prediction"]), (&expected, &expected["next"]));
    // Floats of 16 bits: numbers are rounded to them, and those that they cannot hold are refused.
    let halves = ask("halves", r#"[[1.5, 0.25], {"a": 0.1, "b": 0}, [65519, 0]]"#);
    assert_eq!(halves["outputs"]["same"][0], json!([1.5, 0.25]));
    let sums = &halves["prediction"];
    assert_eq!(
        (sums[0].as_f64(), sums[1].as_f64(), sums[2].as_f64()),
        (Some(1.75), Some(0.099_975_586), Some(65504.0))
    );
    assert_eq!(ask("brains", r#"[[0.5], {"x": 0.1}]"#)["prediction"], json!([1.0, 0.200_195_31]));
    for (model, row, feature) in
        [("halves", "[65520, 0]", "a"), ("halves", "[0, -1e5]", "b"), ("brains", "[3.4e38]", "x")]
    {
        let answer = server.post(&format!("/models/{model}/predict"), &format!("[{row}]"));
        assert_eq!((answer.status, &answer.json()["details"][0]["feature"]), (422, &json!(feature)), "{row}");
    }
    for (path, body) in [
        ("/v1/models/halves:predict", r#"{"instances": [[1.5, 0.25]]}"#),
        ("/v1/models/halves:predict", r#"{"instances": [{"b": 0.25, "a": 1.5}]}"#),
    ] {
        assert_eq!(server.post(path, body).ok(), json!({"predictions": [{"sum": 1.75, "same": [1.5, 0.25]}]}));
    }
    // A classifier's probabilities of 64 and of 16 bits, answered as float32.
    let wide = ask("wide-classes", r#"[[0.5, -1, 2, 0.25], {"a": 0, "b": 0, "c": 0, "d": 0}]"#);
    for (row, label) in wide["prediction"].as_array().unwrap().iter().enumerate() {
        let of = |class: usize| wide["probability"][row][class].as_f64().unwrap();
        close(&json!(of(0) + of(1)), 1.0, "the sum of probabilities");
        assert_eq!(label, usize::from(of(1) > of(0)), "{wide}");
    }
    for model in ["half-classes", "brain-classes"] {
        // What softmax gives, of which both kinds hold these exactly.
        let answer = ask(model, "[[0, 0, -4], [1, 1, 1]]");
        assert_eq!(answer["prediction"], json!([0, 0]), "{answer}");
        let of = |row: usize| answer["probability"][row][1].as_f64().unwrap() as f32;
        let rounded = if model == "half-classes" { [0.495_361_33, 0.333_251_95] } else { [0.496_093_75, 0.333_984_38] };
        assert_eq!([of(0), of(1)], rounded, "{answer}");
        let input = r#"{"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]}"#;
        let request = format!(r#"{{"inputs": [{input}], "outputs": [{{"name": "probabilities"}}]}}"#);
        let output = &server.post(&format!("/v2/models/{model}/infer"), &request).ok()["outputs"][0];
        assert_eq!(
            (&output["datatype"], output["data"][0].as_f64().map(|p| p as f32)),
            (&json!("FP32"), Some(rounded[1])),
            "{output}"
        );
    }
    // As an address bar has them.
    let query = "id=9007199254740993&flag=false&text=&large=18446744073709551615&first=1&second=2";
    assert_eq!(server.get(&format!("/models/kinds/predict?{query}")).ok()["outputs"]["unflagged"], json!([true]));
}

#[test]
fn labels_that_are_no_indices_are_the_models_own_where_tensors_are_spoken_of() {
    let server = Server::start(&["--models", CONTENT]);
    // The golden rows' own, of which the card knows the classes.
    for (model, tensor, row, class, name, label) in [
        ("numbers", "label", "[-0.20915422, -1.9109353, 0.6847903, -0.25954941]", 2, "seven", 7),
        ("numbers", "label", "[-0.4622431, 2.1252854, 1.6236579, 1.0137252]", 0, "three", 3),
        ("signs", "output_label", "[-0.4622431, 2.1252854, 1.6236579, 1.0137252]", 0, "outlier", -1),
    ] {
        let plain = server.post(&format!("/models/{model}/predict"), &format!("[{row}]")).ok();
        assert_eq!((&plain["prediction"], &plain["label"]), (&json!([class]), &json!([name])), "{model}: {plain}");
        let input = format!(r#"{{"name": "features", "datatype": "FP32", "shape": [1, 4], "data": {row}}}"#);
        let request = format!(r#"{{"inputs": [{input}], "outputs": [{{"name": "{tensor}"}}]}}"#);
        let answer = server.post(&format!("/v2/models/{model}/infer"), &request).ok();
        assert_eq!(answer["outputs"][0]["data"], json!([label]), "{model}: {answer}");
        assert_eq!(answer["outputs"][0]["datatype"], "INT64");
    }
    assert_eq!(server.status_of("numbers")["engine"], "compiled");
}

#[test]
fn what_makes_no_sense_to_serve_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    copied(&["numbers", "columns"], folder.path());
    let half = concat!(env!("CARGO_MANIFEST_DIR"), "/server/tests/fixtures/refused/half");
    for file in ["model.yaml", "model.onnx"] {
        let to = folder.path().join("half");
        std::fs::create_dir_all(&to).unwrap();
        std::fs::copy(Path::new(half).join(file), to.join(file)).unwrap();
    }
    let edit = |model: &str, from: &str, to: &str| {
        let card = folder.path().join(model).join("1.0.0/model.yaml");
        let text = std::fs::read_to_string(&card).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&card, text.replacen(from, to, 1)).unwrap();
    };
    // A card that takes them for indices, and one that takes names for integers.
    edit("numbers", r#", "values": [3, 5, 7]"#, "");
    edit("columns", r#"["leaves", "stays", "wavers"]"#, r#"["leaves", "stays", "wavers"], "values": [1, 2, 3]"#);
    copied(&["zipmap"], folder.path());
    let server = Server::start(&["--models", folder.path().to_str().unwrap()]);
    for (model, words) in [
        ("half", "say `dtype: fp16`"),
        ("numbers", "output.label.values"),
        ("columns", "expects `output_label` of i64"),
    ] {
        let status = server.status_of(model);
        assert!(status["state"] == "failed" && status["reason"].as_str().unwrap().contains(words), "{status}");
    }
}

#[test]
fn a_value_of_another_kind_is_refused_by_its_feature() {
    let server = Server::start(&["--models", CONTENT]);
    let row = json!({"id": 1, "flag": true, "text": "a", "large": 1, "first": 1, "second": 2});
    for (feature, value, expected) in [
        ("id", json!(0.5), "an integer of int64"),
        ("id", json!(1e300), "an integer of int64"),
        ("id", json!(9_223_372_036_854_775_808_u64), "an integer of int64"),
        ("id", json!("1"), "an integer of int64"),
        ("flag", json!(1), "true or false"),
        ("text", json!(1), "a text without zero bytes"),
        ("text", json!("a\u{0}b"), "a text without zero bytes"),
        ("large", json!(-1), "an integer of uint64"),
        ("first", json!(2_147_483_648_u64), "an integer of int32"),
        ("first", Value::Null, "an integer of int32"),
    ] {
        let mut row = row.clone();
        row[feature] = value.clone();
        let answer = server.post("/models/kinds/predict", &json!([row]).to_string());
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, &body["details"][0]["feature"]), (422, &json!(feature)), "{value}: {body}");
        assert!(body["details"][0]["expected"].as_str().unwrap().starts_with(expected), "{body}");
    }
    let city = server.post("/models/columns/predict", r#"[{"age": 1, "income": 1, "city": "Rome"}]"#);
    assert_eq!(city.status, 422);
    assert!(city.body.contains("one of Köln, Lyon, Porto"), "{}", city.body);
}

#[test]
fn a_folder_is_served_without_a_model_that_does_not_keep_its_word() {
    let folder = tempfile::tempdir().unwrap();
    copied(&["regression", "zipmap"], folder.path());
    let card = folder.path().join("regression/1.0.0/model.yaml");
    let text = std::fs::read_to_string(&card).unwrap();
    // The known answers are others, so the trial fails.
    let (before, rest) = text.split_once("\"price\": ").unwrap();
    let (_, after) = rest.split_once('}').unwrap();
    std::fs::write(&card, format!("{before}\"price\": 77777}}{after}")).unwrap();
    let server = Server::start(&["--models", folder.path().to_str().unwrap()]);
    assert_eq!(server.post("/models/zipmap/predict", "[[1, 2, 3, 4]]").status, 200);
    assert_eq!(server.post("/models/regression/predict", "[[1, 2, 3, 4]]").status, 503);
    let status = server.status_of("regression");
    assert_eq!(status["state"], "failed");
    assert!(status["reason"].as_str().unwrap().contains("golden row 0"), "{status}");
    eventually("the server is ready", || (server.probe("/ready").status == 200).then_some(()));
}

#[test]
fn a_folder_with_one_model_is_enough_and_its_bytes_are_held_against_the_card() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.yaml", "model.onnx"] {
        std::fs::copy(Path::new(CONTENT).join("several").join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    // As Azure Machine Learning says it.
    let mut command = mainstay(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--print-config"]);
    command.env("AZUREML_MODEL_DIR", path);
    let (code, said, _) = run(command);
    assert!(code == 0 && said.contains(&format!("models = \"{path}\"  # environment AZUREML_MODEL_DIR")), "{said}");
    let server = Server::start(&["--models", path]);
    assert_eq!(server.post("/predict", "[[1, 2, 3, 4]]").ok()["prediction"][0].as_array().unwrap().len(), 2);
    drop(server);

    let file = folder.path().join("model.onnx");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (code, _, said) =
        run(mainstay(&["serve", "--models", path, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]));
    assert_eq!(code, 1);
    assert!(said.contains("is not the file that its model.yaml names"), "{said}");
}

#[test]
fn the_dialects_of_others_have_typed_tensors_too() {
    let server = Server::start(&["--models", CONTENT]);
    let described = server.get("/v2/models/columns").ok();
    assert_eq!(described["inputs"][2], json!({"name": "city", "datatype": "BYTES", "shape": [-1, 1]}));
    assert_eq!(described["outputs"][0], json!({"name": "output_label", "datatype": "BYTES", "shape": [-1]}));

    let tensor = |name: &str, datatype: &str, shape: [usize; 2], data: Value| json!({"name": name, "datatype": datatype, "shape": shape, "data": data});
    let body = json!({"inputs": [
        tensor("small", "INT32", [1, 2], json!([3, -4])),
        tensor("id", "INT64", [1, 1], json!([9_007_199_254_740_993_u64])),
        tensor("flag", "BOOL", [1, 1], json!([true])),
        tensor("text", "BYTES", [1, 1], json!(["a ☂"])),
        tensor("large", "UINT64", [1, 1], json!([u64::MAX])),
    ]});
    let answer = server.post("/v2/models/kinds/infer", &body.to_string()).ok();
    let of = |name: &str| {
        let outputs = answer["outputs"].as_array().unwrap();
        outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("{answer}"))["data"].clone()
    };
    assert_eq!((of("next"), of("unflagged")), (json!([9_007_199_254_740_994_u64]), json!([false])));
    assert_eq!((of("echo"), of("same"), of("negative")), (json!(["a ☂"]), json!([u64::MAX]), json!([-3, 4])));

    let columns = |city: &str| {
        let inputs = [
            tensor("age", "INT64", [1, 1], json!([40])),
            tensor("income", "FP32", [1, 1], json!([42.5])),
            tensor("city", "BYTES", [1, 1], json!([city])),
            tensor("plan", "BYTES", [1, 1], json!(["pro"])),
        ];
        let wanted = [
            json!({"name": "output_label"}),
            json!({"name": "output_probability", "parameters": {"classification": 1}}),
        ];
        server.post("/v2/models/columns/infer", &json!({"inputs": inputs, "outputs": wanted}).to_string())
    };
    let answer = columns("Lyon").ok();
    let label = answer["outputs"][0]["data"][0].as_str().unwrap();
    assert!(answer["outputs"][1]["data"][0].as_str().unwrap().ends_with(&format!(":{label}")), "{answer}");
    let refused = columns("Rome");
    assert!(refused.status == 400 && refused.body.contains("inputs[2].data[0][0]"), "{}", refused.body);

    let instances = r#"{"instances": [[0.1, 0.2, 0.3, 0.4], [-1, 2, 0.5, 1]]}"#;
    let plain = server.post("/models/regression/predict", instances).ok();
    let predictions = server.post("/v1/models/regression:predict", instances).ok();
    assert_eq!(predictions["predictions"], plain["prediction"]);
    let maps = server.post("/v1/models/maps:predict", instances).ok();
    let plain = server.post("/models/maps/predict", instances).ok();
    assert_eq!(maps["predictions"][1]["scores"], plain["outputs"]["scores"][1]);
    assert_eq!(maps["predictions"][1]["class"], plain["outputs"]["class"][1]);
}
