//! What the admin listener answers.

use std::collections::BTreeSet;

use crate::harness::{Bench, Repo, get};

#[test]
fn ready_means_that_a_verified_release_is_published_not_that_git_answers() {
    let repo = Repo::serving_iris();
    let mut bench = Bench::following(&repo.address());
    bench.settings.admin = Some("127.0.0.1:0".parse().unwrap());
    let mut sidecar = bench.open();
    let admin = sidecar.admin_address().unwrap();
    assert_eq!(get(admin, "/live").0, 200);
    assert_eq!(get(admin, "/ready").0, 503);
    sidecar.reconcile();
    assert_eq!(get(admin, "/ready").0, 200);
    std::fs::rename(repo.path().join(".git"), repo.path().join("away")).unwrap();
    sidecar.reconcile();
    assert_eq!(get(admin, "/ready").0, 200);
    assert_eq!(get(admin, "/live").0, 200);
    assert_eq!(get(admin, "/nothing").0, 404);

    let (code, body) = get(admin, "/status");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    assert_eq!((&status["sync"], &status["problem"]["kind"]), (&"Unknown".into(), &"retry".into()));
    assert_eq!(status["release"]["models"]["iris"]["stable"], "1.0.0");
    assert_eq!(status["release"]["times"]["live_unix_ms"], serde_json::Value::Null);
    assert_eq!(status["last_pass"]["ended"], "retry");
    drop(sidecar);
    assert!(std::net::TcpStream::connect(admin).is_err(), "a dropped sidecar does not listen");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::following("/nowhere");
    bench.settings.admin = Some(taken.local_addr().unwrap());
    let error = mainstay_sidecar::Sidecar::open(bench.settings, bench.control).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {} (--admin)", taken.local_addr().unwrap()));
}

/// The rules of `promtool check metrics` that concern us.
#[test]
fn metrics_follow_the_conventions() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    sidecar.reconcile();
    let text = sidecar.board().metrics();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.') && name.starts_with("mainstay_sync_"), "{line}");
            helped.insert(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(!["_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "{line}");
            assert!(!["_ms", "_milliseconds", "_kb"].iter().any(|unit| name.contains(unit)), "{line}");
        }
    }
    let head = repo.head();
    for expected in [
        "mainstay_sync_passes_total{outcome=\"published\"} 1",
        "mainstay_sync_passes_total{outcome=\"unchanged\"} 1",
        "mainstay_sync_passes_total{outcome=\"refused\"} 0",
        "mainstay_sync_releases_published_total 1",
        "mainstay_sync_git_workers_started_total 1",
        "mainstay_sync_state{state=\"Synced\"} 1",
        "mainstay_sync_state{state=\"OutOfSync\"} 0",
        "mainstay_sync_health{state=\"Healthy\"} 1",
        &format!("mainstay_sync_desired_info{{commit=\"{head}\"}} 1"),
        &format!("mainstay_sync_release_info{{commit=\"{head}\",environment=\"prod\",name=\"1-{head}\"}} 1"),
        "mainstay_sync_release_stage_timestamp_seconds{stage=\"verified\"}",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}
