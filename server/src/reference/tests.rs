//! The account of the shipped models and of many, held to what is served.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mainstay_models::embedded::MODELS;
use mainstay_models::spec::{Expected, GoldenRow};
use serde_json::json;

use super::*;
use crate::engine::EngineChoice;
use crate::monitor::Metrics;
use crate::reload::Loader;
use crate::rows::Rows;
use crate::wire::{decode_csv, decode_form, decode_query, decode_records};

const LIMITS: RequestLimits = RequestLimits { body_bytes_max: 1 << 20, rows_max: 100, timeout: Duration::from_secs(1) };

static LOADER: LazyLock<Loader> = LazyLock::new(|| Loader {
    engine: EngineChoice::Auto,
    metrics: Arc::new(Metrics::new("test")),
    sessions: NonZeroUsize::MIN,
});

fn shipped() -> Catalog {
    LOADER.embedded(&MODELS).unwrap()
}

/// The shipped models, and the first of them under many names.
fn many(count: usize) -> Catalog {
    let mut catalog = shipped();
    let model = catalog.models.values().next().unwrap().clone();
    for place in 0..count {
        catalog.models.insert(format!("copy-{place:03}").parse().unwrap(), model.clone());
    }
    catalog
}

#[test]
fn every_example_of_a_prediction_is_a_golden_row() {
    let catalog = shipped();
    let reference = Reference::of(&catalog, &LIMITS, Offered::default(), None);
    let mut answered = 0;
    for model in &reference.models {
        let spec = model.spec();
        let Rows::Matrix(known) = Rows::golden(&spec.input, &spec.golden.rows) else { panic!("not of one tensor") };
        let label = |row: &GoldenRow| match &row.expected {
            Expected::Class { label, .. } => *label,
            Expected::Tensors(_) => panic!("no classifier"),
        };
        let known = known.rows().into_iter().zip(&spec.golden.rows);
        let golden: BTreeSet<String> =
            known.map(|(row, known)| format!("{:?} {}", row.to_vec(), label(known))).collect();
        let group = reference.groups.iter().find(|group| group.name == model.name.as_str()).unwrap();
        let predictions = group.operations.iter().filter(|operation| operation.path.ends_with("/predict"));
        for operation in predictions {
            for example in &operation.examples {
                let signature = &model.version.signature;
                let rows = match &example.body {
                    None => decode_query(signature, &example.query_string()),
                    Some(("text/csv", body)) => decode_csv(signature, body.as_bytes(), true, 3),
                    Some(("application/x-www-form-urlencoded", body)) => decode_form(signature, body.as_bytes()),
                    Some((_, body)) => decode_records(signature, body.as_bytes(), 3),
                };
                assert_eq!(rows.is_ok(), example.status == 200, "{} {}: {rows:?}", operation.path, example.title);
                let Ok(Rows::Matrix(rows)) = rows else { continue };
                let labels = &example.answer.iter().find(|(key, _)| *key == "prediction").unwrap().1;
                for (row, label) in rows.rows().into_iter().zip(labels.as_array().unwrap()) {
                    assert!(golden.contains(&format!("{:?} {label}", row.to_vec())), "{}", example.title);
                    answered += 1;
                }
            }
        }
    }
    assert!(answered > 20, "{answered}");
}

#[test]
fn the_document_names_each_models_features_units_ranges_and_classes() {
    let catalog = shipped();
    let document = Reference::of(&catalog, &LIMITS, Offered::default(), None).openapi();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = &document["components"]["schemas"];
    let length = &schemas["iris.Record"]["properties"]["sepal length (cm)"];
    assert_eq!((&length["x-unit"], &length["x-training-range"]), (&json!("cm"), &json!([4.3, 7.9])));
    assert_eq!(length["examples"], json!([5.1]));
    assert_eq!(schemas["pred-main.Record"]["properties"]["type"]["enum"], json!(["L", "M", "H"]));
    assert_eq!(schemas["iris.Record"]["required"].as_array().unwrap().len(), 4);
    let labels = &schemas["iris.Answer"]["properties"]["label"]["items"]["enum"];
    assert_eq!(*labels, json!(["setosa", "versicolor", "virginica"]));
    let post = &document["paths"]["/models/iris/predict"]["post"];
    assert_eq!(post["responses"]["200"]["content"]["application/json"]["example"]["prediction"], json!([0, 2, 1]));
    assert!(post["responses"]["422"].is_object() && post["requestBody"]["content"]["text/csv"].is_object());
    assert!(document["paths"]["/predict"]["get"]["parameters"].as_array().unwrap().len() == 5);
}

#[test]
fn every_reference_points_at_something_and_every_operation_has_an_id_of_its_own() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let catalog = many(5);
    let reference = Reference::of(&catalog, &LIMITS, Offered::default(), None);
    let document = reference.openapi();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for pointer in found {
        assert!(document.pointer(pointer.trim_start_matches('#')).is_some(), "{pointer}");
    }
    let operations: Vec<&Operation> = reference.groups.iter().flat_map(|group| &group.operations).collect();
    let ids: BTreeSet<&str> = operations.iter().map(|operation| operation.id.as_str()).collect();
    assert_eq!(ids.len(), operations.len());
}

#[test]
fn many_models_are_described_within_bounds_and_each_alone() {
    let catalog = many(200);
    let whole = Reference::of(&catalog, &LIMITS, Offered::default(), None);
    assert_eq!((whole.models.len(), whole.left_out.len()), (MODELS_MAX, 202 - MODELS_MAX));
    assert!(whole.models.iter().any(|model| model.is_default), "the default model is always described");
    let left_out = whole.left_out.last().copied().unwrap();
    let document = whole.openapi();
    assert!(document["info"]["description"].as_str().unwrap().contains(left_out.as_str()));
    assert!(text(&document).len() < 4 << 20, "{} bytes", text(&document).len());
    let alone = Reference::of(&catalog, &LIMITS, Offered::default(), Some(left_out));
    assert_eq!((alone.models.len(), alone.left_out.len()), (1, 0));
    assert!(alone.openapi()["paths"][format!("/models/{left_out}/predict")].is_object());
}

#[test]
fn an_empty_catalog_has_an_account_too() {
    let document = Reference::of(&Catalog::default(), &LIMITS, Offered::default(), None).openapi();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert!(paths.iter().all(|path| !path.contains("predict")), "{paths:?}");
    let swagger = Reference::of(&Catalog::default(), &LIMITS, Offered::default(), None).swagger(2);
    assert_eq!(swagger["definitions"]["ServiceInput"]["example"], json!({}));
}

#[test]
fn a_version_that_takes_other_features_is_named_and_not_offered() {
    let mut catalog = shipped();
    let iris = catalog.models.get_mut("iris").unwrap();
    for (number, other) in [("1.2.0", false), ("2.0.0", true)] {
        let mut loaded = LOADER.embedded(&MODELS).unwrap().models.remove("iris").unwrap().versions.into_values();
        let mut loaded = Arc::into_inner(loaded.next().unwrap()).unwrap();
        loaded.spec.version = number.parse().unwrap();
        if other {
            loaded.spec.input.features[0].name = "sepal area".to_owned();
        }
        iris.versions.insert(loaded.spec.version.clone(), Arc::new(loaded));
    }
    let document = Reference::of(&catalog, &LIMITS, Offered::default(), None).openapi();
    let versions = &document["paths"]["/predict"]["get"]["parameters"][0]["schema"]["enum"];
    assert_eq!(*versions, json!(["1.1.0", "1.2.0"]));
    let tag = document["tags"].as_array().unwrap().iter().find(|tag| tag["name"] == "iris").unwrap();
    assert!(tag["description"].as_str().unwrap().contains("2.0.0"), "{tag}");
}

/// The source of the router, whose patterns are held against the account.
const ROUTER: &str = include_str!("../api/route.rs");

/// The paths that a function of the router has patterns for: its alternatives written out, each name as `*`.
fn patterns(function: &str) -> Vec<String> {
    let (_, body) = ROUTER.split_once(&format!("fn {function}")).unwrap();
    let body = body.split("\n}\n").next().unwrap();
    let mut paths = Vec::new();
    for pattern in body.lines().filter_map(|line| line.trim().strip_prefix('[')?.split_once("] =>")) {
        let mut found = vec![String::new()];
        // Where any segments may stand, none has to.
        for segment in pattern.0.split(", ").filter(|segment| !matches!(*segment, "" | "..")) {
            let names: Vec<&str> = match segment {
                "rest @ .." => vec!["…"],
                literal if literal.starts_with('"') => {
                    literal.split(" | ").map(|name| name.trim_matches('"')).collect()
                }
                _ => vec!["*"],
            };
            found = found.iter().flat_map(|path| names.iter().map(move |name| format!("{path}/{name}"))).collect();
        }
        paths.extend(found);
    }
    assert!(!paths.is_empty(), "{function}");
    paths
}

/// Every path that the router knows.
fn routed() -> Vec<String> {
    let continued = |paths: Vec<String>, function: &str| -> Vec<String> {
        let ends = patterns(function);
        let whole = |path: String| match path.strip_suffix("/…") {
            Some(start) => ends.iter().map(|end| format!("{start}{end}")).collect(),
            None => vec![path],
        };
        paths.into_iter().flat_map(whole).collect()
    };
    let v2 = continued(patterns("v2<"), "v2_model");
    let mut paths = Vec::new();
    for path in patterns("route(") {
        match path.strip_suffix("/…") {
            Some(start) => paths.extend(v2.iter().map(|end| format!("{start}{end}"))),
            None => paths.push(path),
        }
    }
    // The verbs behind a colon.
    let verbs = ROUTER.lines().filter_map(|line| line.trim().strip_prefix("Some((model, \"")?.split_once("\")) =>"));
    let verbs: Vec<String> = verbs.map(|(verb, _)| format!("/v1/models/*:{verb}")).collect();
    assert_eq!(verbs.len(), 2);
    paths.into_iter().chain(verbs).collect()
}

#[test]
fn every_path_that_the_router_knows_is_in_the_account() {
    let catalog = shipped();
    let reference = Reference::of(&catalog, &LIMITS, Offered::default(), None);
    let document = reference.openapi();
    let documented: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let fits = |pattern: &str, path: &str| {
        let names = |(pattern, name): (&str, &str)| match pattern.strip_prefix('*') {
            Some("") => !name.contains(':'),
            Some(verb) => name.ends_with(verb),
            None => pattern == name,
        };
        pattern.split('/').count() == path.split('/').count() && pattern.split('/').zip(path.split('/')).all(names)
    };
    // The page's own files are no interface.
    let routed: Vec<String> = routed().into_iter().filter(|pattern| pattern != "/*").collect();
    assert!(routed.len() > 40, "{routed:?}");
    for pattern in &routed {
        assert!(documented.iter().any(|path| fits(pattern, path)), "{pattern} is answered and not described");
    }
    for path in documented {
        assert!(routed.iter().any(|pattern| fits(pattern, path)), "{path} is described and not answered");
    }
    // Each is in the Postman collection by an example, or more.
    for operation in reference.groups.iter().flat_map(|group| &group.operations) {
        assert!(!operation.examples.is_empty(), "{} {}", operation.method, operation.path);
    }
}

#[test]
fn further_paths_are_in_the_account_and_stand_for_those_that_they_are_called_as() {
    let catalog = shipped();
    let offered = Offered { health_route: Some("/alive"), predict_route: Some("/predict"), ..Offered::default() };
    let reference = Reference::of(&catalog, &LIMITS, offered, None);
    let paths = &reference.openapi()["paths"];
    let keys = |path: &str| paths[path].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        (keys("/alive"), keys("/predict"), keys("/ping")),
        (vec!["get".into()], vec!["post".into()], vec!["get".into()])
    );
    let answer = &paths["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["example"];
    assert_eq!(*answer, json!({"predictions": [0, 2, 1]}));
    let collection = reference.postman("http://test").to_string();
    assert!(collection.contains("{{baseUrl}}/alive"), "{collection}");
    // Without a model there is nobody to predict.
    let empty = Catalog::default();
    let paths = &Reference::of(&empty, &LIMITS, offered, None).openapi()["paths"];
    assert!(paths["/alive"].is_object() && paths["/predict"].is_null());
}

#[test]
fn azure_is_told_of_the_default_model_in_both_its_versions() {
    let catalog = shipped();
    let reference = Reference::of(&catalog, &LIMITS, Offered::default(), None);
    let [two, three] = [2, 3].map(|version| reference.swagger(version));
    assert_eq!((&two["swagger"], &three["openapi"]), (&json!("2.0"), &json!("3.0.3")));
    let example = &two["definitions"]["ServiceInput"]["example"]["input_data"];
    assert_eq!(example["columns"].as_array().unwrap().len(), 4);
    assert_eq!(*example, three["components"]["schemas"]["ServiceInput"]["example"]["input_data"]);
    assert_eq!(two["paths"]["/score"]["post"]["operationId"], "RunMLService");
}
