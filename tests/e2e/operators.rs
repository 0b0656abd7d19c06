//! What probes, Prometheus and people at the admin listeners are told.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{SETOSA, Server, World, eventually};

#[test]
fn a_server_is_ready_from_the_first_release_on_and_alive_before() {
    let world = World::new();
    let server = world.server(&[]);
    assert_eq!(server.probe("/live").status, 200);
    let ready = server.probe("/ready");
    assert_eq!((ready.status, ready.body.as_str()), (503, "no model is loaded yet\n"));
    let early = server.post("/predict", SETOSA);
    assert_eq!(
        (early.status, &early.json()["code"], early.header("retry-after")),
        (503, &json!("not_loaded"), Some("1"))
    );
    assert_eq!(server.status()["release"], json!(null));

    let sidecar = world.sidecar(&server);
    eventually("the server is ready", || (server.probe("/ready").status == 200).then_some(()));
    server.post("/predict", SETOSA).ok();
    eventually("the sidecar is ready", || (sidecar.probe("/ready").status == 200).then_some(()));
    assert_eq!(sidecar.probe("/live").status, 200);
}

#[test]
fn every_sample_belongs_to_a_family_with_a_help_and_a_type() {
    let world = World::new();
    let (server, sidecar) = world.rolling();
    server.post("/predict", SETOSA).ok();
    server.post("/models/nobody/predict", SETOSA);
    let commit = world.repository.roll_iris("1.1.0");
    server.until_live(&commit);
    server.post("/predict", SETOSA).ok();
    for (text, expected) in [
        (
            server.probe("/metrics"),
            &[
                ("mainstay_requests_total", "counter"),
                ("mainstay_request_duration_seconds", "histogram"),
                ("mainstay_rows_total", "counter"),
                ("mainstay_requests_in_flight", "gauge"),
                ("mainstay_reloads_total", "counter"),
                ("mainstay_release_age_seconds", "gauge"),
                ("mainstay_build_info", "gauge"),
            ][..],
        ),
        (sidecar.probe("/metrics"), &[]),
    ] {
        assert!(text.header("content-type").is_some_and(|value| value.starts_with("text/plain")), "{text:?}");
        let families = families(&text.body);
        assert!(families.len() >= expected.len().max(5), "{families:?}");
        for (name, kind) in expected {
            assert_eq!(families.get(name), Some(kind), "{name}");
        }
    }
    let requests = |labels: &str| server.metric(&format!("mainstay_requests_total{{{labels}}}"));
    assert_eq!(requests(r#"code="200",model="iris",version="1.1.0""#), Some(1.0));
    assert_eq!(requests(r#"code="404",model="",version="""#), Some(1.0));
    assert_eq!(requests(r#"code="200",model="iris",version="1.0.0""#), None, "what is unloaded is no longer shown");
    assert_eq!(server.metric(r#"mainstay_reloads_total{outcome="loaded"}"#), Some(3.0));
}

/// The families of a text in Prometheus's format, with their types; checks every line on the way.
fn families(text: &str) -> BTreeMap<&str, &str> {
    let mut helps = Vec::new();
    let mut types = BTreeMap::new();
    let mut series = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(help.len() > 10 && !helps.contains(&name), "{line}");
            helps.push(name);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(helps.contains(&name) && types.insert(name, kind).is_none(), "{line}");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = key.split('{').next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
            let histogram = of_histogram.into_iter().any(|name| types.get(name) == Some(&"histogram"));
            assert!(types.get(name).is_some_and(|kind| *kind != "histogram") || histogram, "{line} has no family");
            assert!(!series.contains(&key), "{line} is there twice");
            series.push(key);
        }
    }
    assert_eq!(helps.len(), types.len());
    types
}

#[test]
fn a_value_outside_the_training_range_is_served_and_counted() {
    let server = Server::start(&[]);
    let strange = SETOSA.replace("5.1", "50").replace("0.2", "-1");
    assert_eq!(server.post("/predict", &strange).ok()["model"], json!("iris"));
    server.post("/predict", SETOSA).ok();
    let counted = |feature: &str| {
        let labels = format!(r#"{{feature="{feature}",model="iris",version="1.1.0"}}"#);
        server.metric(&format!("mainstay_out_of_range_total{labels}"))
    };
    assert_eq!((counted("sepal length (cm)"), counted("petal width (cm)")), (Some(1.0), Some(1.0)));
    assert_eq!(counted("sepal width (cm)"), Some(0.0));
}
