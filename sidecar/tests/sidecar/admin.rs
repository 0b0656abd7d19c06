//! What the admin listener answers.

use std::collections::BTreeSet;

use crate::harness::{Bench, Patient, Repo, get, post};

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

#[test]
fn what_a_commit_would_change_is_told_and_changes_nothing() {
    let repo = Repo::serving_iris();
    let live = repo.head();
    let patient = Patient::following(&repo.address(), |_| {});
    patient.serves("1.0.0");
    repo.git(&["checkout", "--quiet", "-b", "next"]);
    let next = repo.roll("1.1.0");
    repo.write("environments/prod/serving.yaml", "nonsense");
    let broken = repo.commit("Break it");
    repo.git(&["branch", "broken"]);
    repo.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    repo.git(&["checkout", "--quiet", "main"]);

    let ask = |commit: &str| patient.order("/diff", &serde_json::json!({ "commit": commit }).to_string());
    for name in ["next", "refs/heads/next", next.as_str()] {
        let answer = ask(name);
        assert_eq!(answer["commit"]["id"], next.as_str(), "{name}");
        assert_eq!(answer["live"]["models"]["iris"]["stable"], "1.0.0");
        assert_eq!(answer["asked"]["models"]["iris"]["stable"], "1.1.0");
        let card = |side: &str| answer[side]["cards"]["iris"].as_str().unwrap().to_owned();
        assert!(card("live").contains("version: 1.0.0") && card("asked").contains("version: 1.1.0"));
    }
    // What is live, also by the digits that people are shown.
    for name in ["main", live.as_str(), live.short()] {
        let answer = ask(name);
        assert_eq!((&answer["live"], &answer["commit"]["id"]), (&answer["asked"], &live.as_str().into()), "{name}");
        assert_eq!(answer["asked"]["cards"], serde_json::json!({}));
    }
    let answer = ask("broken");
    assert_eq!((&answer["commit"]["id"], &answer["asked"]), (&broken.as_str().into(), &serde_json::Value::Null));
    assert_eq!(answer["refused"]["file"], "environments/prod/serving.yaml");

    for (order, code, expected) in [
        ("{\"commit\": \"nobody\"}", 404, "nobody"),
        ("{\"commit\": \"\"}", 400, "not a reference"),
        ("{\"commit\": \"-x\"}", 400, "not a reference"),
        ("{\"repo\": \"/etc\"}", 400, "unknown field"),
        (&format!("{{\"commit\": \"{}\"}}", "0".repeat(40)), 502, ""),
    ] {
        let (got, text) = post(patient.admin, "/diff", &[], order);
        assert_eq!((got, text.contains(expected)), (code, true), "{order}: {text}");
    }
    assert!(!patient.bench.settings.store.join("git/diff").exists());
    assert_eq!(patient.bench.current().release.commit.id, live);
    assert_eq!(patient.board.status().desired.as_ref(), Some(&live));
}

#[test]
fn git_is_asked_about_a_commit_only_for_those_who_may_give_orders() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |bench| {
        let token = bench.settings.store.parent().unwrap().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        bench.settings.admin_token_file = Some(token);
    });
    patient.serves("1.0.0");
    let order = "{\"commit\": \"main\"}";
    let ask = |headers: &[(&str, &str)]| post(patient.admin, "/diff", headers, order).0;
    assert_eq!(ask(&[]), 401);
    assert_eq!(ask(&[("Authorization", "Bearer wrong")]), 401);
    assert_eq!(ask(&[("Authorization", "Bearer secret"), ("Origin", "http://page.example")]), 403);
    assert_eq!(get(patient.admin, "/diff?commit=main").0, 401);
    assert_eq!(ask(&[("Authorization", "Bearer secret")]), 200);
}
