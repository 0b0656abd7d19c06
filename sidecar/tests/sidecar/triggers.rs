//! Who may cause a pass before its time, and that none who may is forgotten.

use std::net::TcpListener;

use mainstay_sidecar::{Error, Sidecar};

use crate::harness::{Bench, LOCAL, Patient, Repo, eventually, get, post};

const SECRET: &str = "It's a Secret to Everybody";
const SIGNED: (&str, &str) =
    ("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");

fn secret_file(bench: &Bench, name: &str, secret: &str) -> std::path::PathBuf {
    let file = bench.settings.store.with_file_name(name);
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    file
}

#[test]
fn a_signed_webhook_is_a_pass_now_and_an_unsigned_one_is_nothing() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |bench| {
        bench.settings.webhook = Some(LOCAL.parse().unwrap());
        bench.settings.webhook_secret_file = Some(secret_file(bench, "secret", SECRET));
    });
    patient.serves("1.0.0");
    let (admin, webhook) = (patient.admin, patient.webhook.unwrap());
    repo.roll("1.1.0");
    for address in [admin, webhook] {
        assert_eq!(post(address, "/webhook", &[], "Hello, World!").0, 401);
        assert_eq!(post(address, "/webhook", &[SIGNED], "Hello!").0, 401);
        assert_eq!(get(address, "/webhook").0, 405);
    }
    let forged = patient.board.metrics();
    assert!(forged.contains("mainstay_sync_webhooks_refused_total 4"), "{forged}");
    assert!(forged.contains("mainstay_sync_triggers_total{by=\"webhook\"} 0"), "{forged}");

    assert_eq!(post(webhook, "/webhook", &[SIGNED], "Hello, World!"), (202, "a pass follows\n".to_owned()));
    patient.serves("1.1.0");
    repo.roll("1.2.0");
    assert_eq!(post(admin, "/webhook", &[SIGNED], "Hello, World!").0, 202);
    patient.serves("1.2.0");
    // What it says is not believed: this one names no branch at all.
    assert_eq!(post(webhook, "/webhook", &[("X-Gitlab-Token", SECRET)], "not even JSON").0, 202);
    for path in ["/status", "/metrics", "/live", "/sync"] {
        assert_eq!(get(webhook, path).0, 404, "the open port answers nothing else: {path}");
    }
}

#[test]
fn a_rotated_webhook_secret_counts_at_once_and_an_empty_one_lets_nobody_in() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |bench| {
        bench.settings.webhook_secret_file = Some(secret_file(bench, "secret", SECRET));
    });
    let hook = |token| post(patient.admin, "/webhook", &[("X-Gitlab-Token", token)], "").0;
    assert_eq!(hook(SECRET), 202);
    secret_file(&patient.bench, "secret", "rotated");
    assert_eq!((hook(SECRET), hook("rotated")), (401, 202));
    secret_file(&patient.bench, "secret", "");
    assert_eq!((hook(""), hook("rotated")), (503, 503));
}

#[test]
fn without_a_secret_there_is_no_webhook() {
    let mut bench = Bench::following("/nowhere");
    bench.settings.admin = Some(LOCAL.parse().unwrap());
    let sidecar = bench.open();
    assert_eq!(post(sidecar.admin_address().unwrap(), "/webhook", &[SIGNED], "Hello, World!").0, 404);
    drop(sidecar);
    bench.settings.webhook = Some(LOCAL.parse().unwrap());
    assert!(matches!(Sidecar::open(bench.settings, bench.control), Err(Error::WebhookSecret)));
}

#[test]
fn an_operator_causes_a_pass_and_learns_which_one_answers() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |_| {});
    patient.serves("1.0.0");
    repo.roll("1.1.0");
    let (code, body) = post(patient.admin, "/sync", &[], "");
    let trigger = serde_json::from_str::<serde_json::Value>(&body).unwrap()["trigger"].as_u64().unwrap();
    assert_eq!(code, 202);
    patient.answered(trigger);
    patient.serves("1.1.0");
    let (code, text) = post(patient.admin, "/sync", &[], r#"{"pubish": true}"#);
    assert_eq!(code, 400);
    assert!(text.contains("unknown field `pubish`"), "{text}");
    assert_eq!(post(patient.admin, "/sync", &[], &" ".repeat(70_000)).0, 413);
    assert_eq!(get(patient.admin, "/sync").0, 405);
}

#[test]
fn an_order_from_a_web_page_or_without_the_token_is_not_taken() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |bench| {
        bench.settings.admin_token_file = Some(secret_file(bench, "token", "open sesame"));
    });
    let sync = |headers: &[(&str, &str)]| post(patient.admin, "/sync", headers, "").0;
    let token = ("Authorization", "Bearer open sesame");
    assert_eq!(sync(&[]), 401);
    assert_eq!(sync(&[("Authorization", "Bearer open")]), 401);
    assert_eq!(sync(&[("Authorization", "open sesame")]), 401);
    assert_eq!(sync(&[token, ("Origin", "http://localhost:9091")]), 403);
    assert_eq!(sync(&[token]), 202);
    secret_file(&patient.bench, "token", "rotated");
    assert_eq!((sync(&[token]), sync(&[("Authorization", "Bearer rotated")])), (401, 202));
    std::fs::remove_file(patient.bench.settings.store.with_file_name("token")).unwrap();
    assert_eq!(sync(&[token]), 503, "a token that cannot be read opens nothing");
    assert_eq!(get(patient.admin, "/status").0, 200, "looking needs no token");
}

#[test]
fn a_trigger_during_a_pass_causes_another_pass() {
    // A remote that is there and says nothing: the pass has begun once it is connected to.
    let remote = TcpListener::bind(LOCAL).unwrap();
    let patient = Patient::following(&format!("http://{}/config", remote.local_addr().unwrap()), |_| {});
    let first = remote.accept().unwrap();
    let (code, _) = post(patient.admin, "/sync", &[], "");
    assert_eq!(code, 202);
    assert_eq!(post(patient.admin, "/sync", &[], "").0, 202);
    // The first pass ends with its connection; the next would be an hour away.
    drop(first);
    let second = remote.accept().unwrap();
    let pass = eventually("the end of the first pass", || patient.board.status().last_pass);
    assert_eq!(pass.trigger, 0, "the first pass began before the triggers");
    drop(second);
    patient.answered(2);
}
