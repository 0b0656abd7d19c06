//! What serving.yaml says about when a change may go live.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mainstay_sidecar::Clock;

use crate::harness::{Patient, Repo, eventually, serving};

/// A clock that a test sets, in seconds since 1970.
#[derive(Clone)]
struct Hand(Arc<AtomicI64>);

impl Hand {
    fn at(time: &str) -> Self {
        Self(Arc::new(AtomicI64::new(seconds(time))))
    }

    fn set(&self, time: &str) {
        self.0.store(seconds(time), Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let hand = self.0.clone();
        Clock::new(move || jiff::Timestamp::from_second(hand.load(Ordering::SeqCst)).unwrap())
    }
}

fn seconds(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap().as_second()
}

/// Commits that iris is to be at `version`, under a policy.
fn ask(repo: &Repo, version: &str, policy: &str) {
    repo.write_model("iris", version, format!("forest {version}").as_bytes());
    repo.write("environments/prod/serving.yaml", serving("iris", version) + policy);
    repo.commit(&format!("Ask for {version}"));
}

#[test]
fn manual_waits_for_a_word_and_the_word_holds_once() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |_| {});
    patient.serves("1.0.0");
    ask(&repo, "1.1.0", "sync: manual\n");
    patient.look("");
    assert_eq!(patient.bench.serves().0, "1.0.0");
    let held = &patient.status()["held_back"];
    assert_eq!((&held["by"], &held["until_unix_ms"]), (&"manual".into(), &serde_json::Value::Null));
    assert!(held["reason"].as_str().unwrap().contains("mainstay sync-now"));
    patient.look(r#"{"publish": true}"#);
    patient.serves("1.1.0");
    assert_eq!(patient.status()["sync"], "Synced");
    ask(&repo, "1.2.0", "sync: manual\n");
    patient.look("");
    assert_eq!(patient.bench.serves().0, "1.1.0");
    ask(&repo, "1.2.0", "sync: auto\n");
    patient.look("");
    patient.serves("1.2.0");
}

#[test]
fn a_change_held_back_by_a_window_goes_live_when_it_opens() {
    let repo = Repo::serving_iris();
    // A Saturday.
    let hand = Hand::at("2026-11-21T12:00:00Z");
    let patient = Patient::following(&repo.address(), |bench| bench.settings.clock = hand.clock());
    patient.serves("1.0.0");
    let windows = "windows:\n- {allow: [mon-fri], from: \"09:00\", to: \"17:00\", timezone: Europe/Berlin}\n- {deny: [mon], to: \"12:00\", timezone: UTC, reason: the stocktaking}\n";
    ask(&repo, "1.1.0", windows);
    patient.look("");
    let held = &patient.status()["held_back"];
    let opens = seconds("2026-11-23T12:00:00Z") * 1000;
    assert_eq!((&held["by"], held["until_unix_ms"].as_i64()), (&"window".into(), Some(opens)));
    // What git forbids, no order permits.
    patient.look(r#"{"publish": true}"#);
    assert_eq!(patient.bench.serves().0, "1.0.0");
    assert!(patient.board.metrics().contains("mainstay_sync_held_back{by=\"window\"} 1"));

    hand.set("2026-11-23T11:59:59Z");
    patient.look("");
    assert_eq!(patient.bench.serves().0, "1.0.0");
    assert_eq!(patient.status()["held_back"]["reason"], "the stocktaking");
    // From here the loop wakes by itself, an hour before its next poll.
    hand.set("2026-11-23T12:00:00Z");
    patient.serves("1.1.0");
    eventually("synced", || (patient.status()["sync"] == "Synced").then_some(()));
    assert!(patient.board.metrics().contains("mainstay_sync_held_back{by=\"window\"} 0"));
}

#[test]
fn a_rollback_and_a_revert_do_not_wait_for_the_same_things() {
    let repo = Repo::serving_iris();
    let hand = Hand::at("2026-11-20T12:00:00Z");
    let patient = Patient::following(&repo.address(), |bench| bench.settings.clock = hand.clock());
    patient.serves("1.0.0");
    ask(&repo, "1.1.0", "windows: [{deny: [sat, sun], timezone: UTC}]\n");
    patient.look("");
    patient.serves("1.1.0");
    hand.set("2026-11-21T12:00:00Z");
    patient.order("/rollback", "");
    assert_eq!(patient.bench.serves().0, "1.0.0", "the way back is never closed");
}

#[test]
fn a_hold_in_git_keeps_what_is_live_and_does_not_keep_a_new_pod_from_serving() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |_| {});
    patient.serves("1.0.0");
    ask(&repo, "1.1.0", "hold: {reason: the audit}\n");
    patient.look(r#"{"publish": true}"#);
    let held = &patient.status()["held_back"];
    assert_eq!((&held["by"], &held["reason"]), (&"hold".into(), &"the audit".into()));
    assert_eq!(patient.bench.serves().0, "1.0.0");

    let new = Patient::following(&repo.address(), |_| {});
    new.serves("1.1.0");
}

#[test]
fn suspend_publishes_nothing_not_even_a_first_release() {
    let repo = Repo::serving_iris();
    ask(&repo, "1.1.0", "suspend: true\n");
    let patient = Patient::following(&repo.address(), |_| {});
    patient.look(r#"{"publish": true}"#);
    let status = patient.status();
    assert_eq!((&status["release"], &status["held_back"]["by"]), (&serde_json::Value::Null, &"suspend".into()));
    assert_eq!(status["health_reason"], "nothing is published: `suspend: true` in serving.yaml");
    ask(&repo, "1.1.0", "");
    patient.look("");
    patient.serves("1.1.0");
}

#[test]
fn a_bad_commit_is_refused_before_its_window_opens() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |_| {});
    patient.serves("1.0.0");
    ask(&repo, "1.1.0", "hold: {reason: the audit}\n");
    repo.write("models/iris/1.1.0/model.onnx", "another");
    repo.commit("Spoil it");
    patient.look("");
    let status = patient.status();
    assert_eq!((&status["problem"]["kind"], &status["held_back"]), (&"refused".into(), &serde_json::Value::Null));
}
