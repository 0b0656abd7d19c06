//! What operators may do without git: go back, hold, resume.

use std::net::TcpListener;
use std::time::Instant;

use mainstay_sidecar::Clock;

use crate::harness::{FakeServer, Patient, Repo, eventually, get, post};

/// A sidecar that has published iris 1.0.0, then 1.1.0.
fn rolled_once(repo: &Repo) -> Patient {
    let patient = Patient::following(&repo.address(), |_| {});
    patient.serves("1.0.0");
    repo.roll("1.1.0");
    patient.look("");
    patient.serves("1.1.0");
    patient
}

#[test]
fn a_rollback_needs_no_repository_and_is_in_the_store_when_it_is_answered() {
    let repo = Repo::serving_iris();
    let first = repo.head();
    let patient = rolled_once(&repo);
    let bad = repo.head();
    std::fs::rename(repo.path().join(".git"), repo.path().join("away")).unwrap();

    let started = Instant::now();
    let answer = patient.order("/rollback", "");
    let took = started.elapsed();
    eprintln!("rollback, from the order to its answer: {took:?}");
    assert_eq!(patient.bench.serves(), ("1.0.0".to_owned(), b"first forest".to_vec()));
    let current = patient.bench.current();
    // Not in place: a new release, which says what it is.
    assert_eq!((current.name.seq, &current.name.commit), (3, &first));
    let rollback = current.release.rollback.unwrap();
    assert_eq!((rollback.from.to_string(), rollback.to.to_string()), (format!("2-{bad}"), format!("1-{first}")));
    assert_eq!(answer["from"], rollback.from.to_string());

    let status = patient.status();
    assert_eq!(status["release"]["name"], current.name.to_string());
    assert_eq!(status["release"]["rollback"]["to"], format!("1-{first}"));
    assert_eq!(status["hold"]["rollback"]["commits"], serde_json::json!([bad.as_str()]));
    assert!(patient.board.metrics().contains("mainstay_sync_rollbacks_total 1"));
    assert!(patient.board.metrics().contains("mainstay_sync_hold{by=\"rollback\"} 1"));

    let history: serde_json::Value = serde_json::from_str(&get(patient.admin, "/history").1).unwrap();
    let seen: Vec<_> = history.as_array().unwrap().iter().map(|past| (past["seq"].as_u64(), &past["live"])).collect();
    assert_eq!(seen, [(Some(3), &true.into()), (Some(2), &false.into()), (Some(1), &false.into())]);
    assert_eq!((&history[1]["models"]["iris"], &history[1]["rollback"]), (&"1.1.0".into(), &serde_json::Value::Null));
}

#[test]
fn a_rollback_holds_over_a_restart_until_a_newer_commit_comes() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    let bad = repo.head();
    patient.order("/rollback", "");
    patient.look("");
    let status = patient.status();
    assert_eq!((&status["sync"], &status["problem"]), (&"OutOfSync".into(), &serde_json::Value::Null));
    assert_eq!((&status["held_back"]["by"], &status["last_pass"]["ended"]), (&"rollback".into(), &"held".into()));
    assert_eq!(status["held_back"]["commit"]["id"], bad.as_str());
    // Also a person's word does not bring back what was rolled back from.
    patient.look(r#"{"publish": true}"#);
    assert_eq!(patient.bench.serves().0, "1.0.0");

    let store = patient.bench.settings.store.clone();
    let folder = patient.stop();
    let patient = Patient::following(&repo.address(), |bench| bench.settings.store = store);
    patient.look("");
    assert_eq!(patient.status()["held_back"]["by"], "rollback");
    assert_eq!(patient.bench.serves().0, "1.0.0");

    repo.roll("1.2.0");
    patient.look("");
    patient.serves("1.2.0");
    let status = patient.status();
    assert_eq!((&status["sync"], &status["hold"]["rollback"]), (&"Synced".into(), &serde_json::Value::Null));
    assert_eq!(status["held_back"], serde_json::Value::Null);
    assert_eq!(patient.bench.current().name.seq, 4);
    drop(folder);
}

#[test]
fn a_revert_in_git_ends_the_hold_too() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    patient.order("/rollback", "");
    repo.git(&["revert", "--no-edit", "HEAD"]);
    patient.look("");
    let status = patient.status();
    assert_eq!((&status["sync"], &status["hold"]["rollback"]), (&"Synced".into(), &serde_json::Value::Null));
    assert_eq!(patient.bench.current().release.commit.id, repo.head());
    assert_eq!(patient.bench.serves().0, "1.0.0");

    // And so does a branch that is put back to the commit whose content is live.
    repo.roll("1.3.0");
    patient.look("");
    patient.order("/rollback", "");
    repo.git(&["reset", "--hard", "--quiet", "HEAD~1"]);
    patient.look("");
    let status = patient.status();
    assert_eq!((&status["sync"], &status["hold"]["rollback"]), (&"Synced".into(), &serde_json::Value::Null));
}

#[test]
fn resume_publishes_what_a_rollback_kept_out() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    patient.order("/rollback", "");
    let lifted = patient.order("/resume", "");
    assert_eq!(lifted["rollback"]["commits"], serde_json::json!([repo.head().as_str()]));
    patient.serves("1.1.0");
    assert_eq!(patient.order("/resume", ""), serde_json::json!({"operator": null, "rollback": null}));
}

#[test]
fn rolling_back_again_goes_further_back_and_never_to_what_was_left() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    // A commit that changes nothing that is served is no way back.
    repo.write("README.md", "words");
    repo.commit("Explain");
    patient.look("");
    repo.roll("1.2.0");
    patient.look("");
    let serves = || patient.bench.serves().0;
    patient.order("/rollback", "");
    assert_eq!((serves(), patient.bench.current().name.seq), ("1.1.0".to_owned(), 5));
    patient.order("/rollback", "");
    assert_eq!((serves(), patient.bench.current().name.seq), ("1.0.0".to_owned(), 6));
    assert_eq!(post(patient.admin, "/rollback", &[], "").0, 409);
    let kept_out = patient.status()["hold"]["rollback"]["commits"].as_array().unwrap().len();
    assert_eq!(kept_out, 2, "both commits that were rolled back from");

    // Naming one is another matter: by its place, its commit, its name.
    patient.order("/rollback", r#"{"to": "2"}"#);
    assert_eq!(serves(), "1.1.0");
    patient.order("/rollback", &format!(r#"{{"to": "{}"}}"#, &repo.head().as_str()[..12]));
    assert_eq!(serves(), "1.2.0");
    let name = serde_json::to_string(&patient.bench.reader().releases().unwrap().first().unwrap()).unwrap();
    patient.order("/rollback", &format!(r#"{{"to": {name}}}"#));
    assert_eq!(serves(), "1.0.0");
    let (code, text) = post(patient.admin, "/rollback", &[], r#"{"to": "77"}"#);
    assert_eq!((code, text.contains("`77`; `mainstay history` lists them")), (404, true), "{text}");
    let (code, text) = post(patient.admin, "/rollback", &[], r#"{"to": "1"}"#);
    assert_eq!((code, text.contains("serves what is live")), (409, true), "{text}");
}

#[test]
fn a_rollback_is_live_while_git_hangs() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    let store = patient.bench.settings.store.clone();
    let folder = patient.stop();

    // Accepts and never answers; a question to it would take half a minute.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = FakeServer::default();
    let address = format!("http://{}/config", hung.local_addr().unwrap());
    let patient = Patient::following(&address, |bench| {
        bench.settings.store = store;
        bench.settings.server = Some(server.start());
    });
    let _connection = hung.accept().unwrap();
    let started = Instant::now();
    patient.order("/rollback", "");
    eprintln!("rollback while git hangs, from the order to its answer: {:?}", started.elapsed());
    server.take(&patient.bench.current());
    eventually("live", || (patient.status()["health"] == "Healthy").then_some(()));
    assert_eq!(patient.bench.serves().0, "1.0.0");
    assert!(patient.status()["release"]["times"]["live_unix_ms"].is_u64());
    drop(folder);
}

#[test]
fn a_hold_keeps_what_is_live_over_a_restart_until_it_is_resumed() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |bench| {
        bench.settings.clock = Clock::new(|| "2026-11-22T12:00:00Z".parse().unwrap());
    });
    patient.serves("1.0.0");
    for nothing in ["", r#"{"reason": " "}"#, r#"{"reason": "two\nlines"}"#] {
        assert_eq!(post(patient.admin, "/hold", &[], nothing).0, 400);
    }
    patient.order("/hold", r#"{"reason": "the audit"}"#);
    repo.roll("1.1.0");
    patient.look("");
    let held = &patient.status()["held_back"];
    assert_eq!((&held["by"], &held["reason"]), (&"operator".into(), &"the audit".into()));
    assert_eq!(held["models"]["iris"]["stable"], "1.1.0", "what would go live is shown");
    assert_eq!(patient.bench.serves().0, "1.0.0");

    let store = patient.bench.settings.store.clone();
    let folder = patient.stop();
    let patient = Patient::following(&repo.address(), |bench| bench.settings.store = store);
    let hold = serde_json::json!({"reason": "the audit", "since_unix_ms": 1_795_348_800_000_u64});
    assert_eq!(patient.status()["hold"]["operator"], hold);
    patient.look(r#"{"publish": true}"#);
    assert_eq!(patient.bench.serves().0, "1.0.0");
    patient.order("/resume", "");
    patient.serves("1.1.0");
    drop(folder);
}

#[test]
fn holds_that_cannot_be_read_hold_everything() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    let store = patient.bench.settings.store.clone();
    let folder = patient.stop();
    std::fs::write(store.join("hold.json"), "{half").unwrap();
    repo.roll("1.2.0");
    let patient = Patient::following(&repo.address(), |bench| bench.settings.store = store);
    patient.look("");
    assert_eq!(patient.bench.serves().0, "1.1.0");
    assert!(patient.status()["held_back"]["reason"].as_str().unwrap().contains("mainstay resume"));
    patient.order("/resume", "");
    patient.serves("1.2.0");
    drop(folder);
}

#[test]
fn before_the_first_release_there_is_nothing_to_go_back_to() {
    let patient = Patient::following("/nowhere", |_| {});
    assert_eq!(post(patient.admin, "/rollback", &[], "").0, 409);
    assert_eq!(get(patient.admin, "/history"), (200, "[]".to_owned()));
}

/// A sidecar on the store of another one that has ended, where `damage` was done meanwhile.
fn after_damage(repo: &Repo, patient: Patient, damage: impl FnOnce(&std::path::Path)) -> (tempfile::TempDir, Patient) {
    let store = patient.bench.settings.store.clone();
    let folder = patient.stop();
    damage(&store);
    let patient = Patient::following(&repo.address(), |bench| bench.settings.store = store);
    patient.look("");
    (folder, patient)
}

/// Makes the file of the live release one that is none.
fn spoil_current(store: &std::path::Path) {
    let file = store.join(std::fs::read_link(store.join("current")).unwrap());
    std::fs::write(file, "{").unwrap();
}

#[test]
fn a_hold_holds_also_what_is_live_and_cannot_be_read_after_a_restart() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    let live = repo.head();
    patient.order("/hold", r#"{"reason": "the audit"}"#);
    repo.roll("1.2.0");
    patient.look("");
    let (_folder, patient) = after_damage(&repo, patient, spoil_current);
    // It was made anew from its commit, and what is newer is still held back.
    let current = patient.bench.current();
    assert_eq!((current.name.seq, &current.release.commit.id), (3, &live));
    assert_eq!(patient.bench.serves().0, "1.1.0");
    assert_eq!(patient.status()["held_back"]["by"], "operator");

    // Without git, and nothing to make it from, nothing is put in its place.
    let git = repo.path().join(".git");
    let (_other_folder, patient) = after_damage(&repo, patient, |store| {
        spoil_current(store);
        std::fs::remove_dir_all(store.join("git")).unwrap();
        for release in ["1", "2"] {
            let files = std::fs::read_dir(store.join("releases")).unwrap();
            let file = files
                .map(|file| file.unwrap().path())
                .find(|file| file.file_name().unwrap().to_str().unwrap().starts_with(&format!("{release}-")));
            std::fs::remove_file(file.unwrap()).unwrap();
        }
        std::fs::rename(&git, git.with_file_name("away")).unwrap();
    });
    assert!(patient.bench.reader().current().is_err());
    assert_eq!(patient.status()["problem"]["kind"], "retry");
    std::fs::rename(git.with_file_name("away"), &git).unwrap();
    patient.look("");
    assert_eq!((patient.bench.serves().0.as_str(), patient.bench.current().name.seq), ("1.1.0", 4));
}

#[test]
fn a_rollback_holds_also_where_its_release_cannot_be_read_after_a_restart() {
    let repo = Repo::serving_iris();
    let first = repo.head();
    let patient = rolled_once(&repo);
    patient.order("/rollback", "");
    let away = repo.path().join("away");
    // The store has its content under another name, so git is not needed.
    let (_folder, patient) = after_damage(&repo, patient, |store| {
        spoil_current(store);
        std::fs::rename(repo.path().join(".git"), &away).unwrap();
    });
    let current = patient.bench.current();
    assert_eq!((current.name.seq, &current.release.commit.id), (4, &first));
    assert_eq!(current.release.rollback.unwrap().to.to_string(), format!("1-{first}"));
    std::fs::rename(&away, repo.path().join(".git")).unwrap();
    patient.look("");
    assert_eq!(patient.status()["held_back"]["by"], "rollback");
    assert_eq!(patient.bench.serves().0, "1.0.0");
}

#[test]
fn an_earlier_release_that_cannot_be_read_hides_no_other() {
    let repo = Repo::serving_iris();
    let patient = rolled_once(&repo);
    let spoilt = patient.bench.current().name;
    repo.roll("1.2.0");
    patient.look("");
    std::fs::write(patient.bench.settings.store.join(format!("releases/{spoilt}.json")), "{").unwrap();
    let history: serde_json::Value = serde_json::from_str(&get(patient.admin, "/history").1).unwrap();
    let seen: Vec<_> = history.as_array().unwrap().iter().map(|past| past["seq"].as_u64().unwrap()).collect();
    assert_eq!(seen, [3, 2, 1]);
    assert_eq!(
        (&history[1]["commit"]["id"], &history[0]["problem"]),
        (&spoilt.commit.as_str().into(), &serde_json::Value::Null)
    );
    assert!(history[1]["problem"].as_str().unwrap().contains("is not a release"), "{history}");

    let (code, text) = post(patient.admin, "/rollback", &[], r#"{"to": "2"}"#);
    assert!(code == 500 && text.contains("is not a release"), "{code}: {text}");
    patient.order("/rollback", "");
    assert_eq!(patient.bench.serves().0, "1.0.0");
}
