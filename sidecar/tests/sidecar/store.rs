//! What happens to the store itself: the disk damages it, somebody meddles, a second sidecar wants it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_models::Blob;
use mainstay_models::store::OpenError;
use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::board::Problem;
use mainstay_sidecar::{Control, Error, Health, Outcome, Sidecar, Sync};

use crate::harness::{Bench, LOCAL, Patient, Repo, eventually, get, post, status};

/// What the harness has iris 1.0.0 be, and the same with a bit flipped.
const GOOD: &[u8] = b"first forest";
const BAD: &[u8] = b"fir3t forest";

fn following(repo: &Repo) -> Bench {
    let mut bench = Bench::following(&repo.address());
    bench.settings.scrub_pause = Duration::ZERO;
    bench
}

fn blob_path(bench: &Bench, bytes: &[u8]) -> PathBuf {
    bench.settings.store.join("blobs/sha256").join(Blob::of(bytes).sha256.to_string())
}

fn gone(repo: &Repo) -> [PathBuf; 2] {
    let paths = [repo.path().join(".git"), repo.path().join("away")];
    fs::rename(&paths[0], &paths[1]).unwrap();
    paths
}

/// Enough passes for a whole round from wherever the scrub stands.
fn scrub(sidecar: &mut Sidecar) {
    for _ in 0..2 {
        sidecar.reconcile();
    }
}

#[test]
fn a_flipped_bit_is_found_and_its_blob_fetched_again_also_while_the_remote_is_gone() {
    let repo = Repo::serving_iris();
    let bench = following(&repo);
    let mut sidecar = bench.open();
    sidecar.reconcile();
    gone(&repo);
    fs::write(blob_path(&bench, GOOD), BAD).unwrap();
    scrub(&mut sidecar);
    assert_eq!(fs::read(blob_path(&bench, GOOD)).unwrap(), GOOD);
    assert_eq!(bench.serves(), ("1.0.0".to_owned(), GOOD.to_vec()));
    let aside = bench.settings.store.join("quarantine").join(format!("1-{}", Blob::of(GOOD).sha256));
    assert_eq!(fs::read(aside).unwrap(), BAD);
    assert!(status(&sidecar).damaged.is_empty());
    let metrics = sidecar.board().metrics();
    assert!(metrics.contains("mainstay_sync_damaged_blobs_total 1\n"), "{metrics}");
    assert!(!metrics.contains("mainstay_sync_scrubbed_bytes_total 0\n"), "{metrics}");
}

#[test]
fn a_lost_blob_of_the_live_release_is_back_after_one_pass() {
    let repo = Repo::serving_iris();
    let mut bench = following(&repo);
    // The scrub would take hours to come to it.
    bench.settings.scrub_bytes = 1;
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let spec = fs::read(repo.path().join("models/iris/1.0.0/model.yaml")).unwrap();
    for bytes in [GOOD, &spec] {
        fs::remove_file(blob_path(&bench, bytes)).unwrap();
        assert_eq!(sidecar.reconcile(), Pass::Unchanged);
        assert_eq!(fs::read(blob_path(&bench, bytes)).unwrap(), bytes);
    }
}

#[test]
fn a_damaged_blob_of_an_earlier_release_is_mended_too() {
    let repo = Repo::serving_iris();
    let bench = following(&repo);
    let mut sidecar = bench.open();
    sidecar.reconcile();
    repo.git(&["rm", "-r", "--quiet", "models/iris/1.0.0"]);
    repo.roll("1.1.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    fs::write(blob_path(&bench, GOOD), BAD).unwrap();
    scrub(&mut sidecar);
    assert_eq!(fs::read(blob_path(&bench, GOOD)).unwrap(), GOOD);
}

#[test]
fn what_cannot_be_had_stays_in_its_place_is_reported_and_is_mended_when_it_can() {
    let repo = Repo::serving_iris();
    let bench = following(&repo);
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let paths = gone(&repo);
    fs::remove_dir_all(bench.mirror()).unwrap();
    fs::write(blob_path(&bench, GOOD), BAD).unwrap();
    scrub(&mut sidecar);
    assert_eq!(fs::read(blob_path(&bench, GOOD)).unwrap(), BAD);
    assert_eq!(status(&sidecar).damaged, [Blob::of(GOOD).sha256]);
    assert!(status(&sidecar).release.is_some(), "it is still what is published");
    assert!(sidecar.board().metrics().contains("mainstay_sync_damaged_blobs_total 1\n"), "it is counted once");

    fs::rename(&paths[1], &paths[0]).unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert_eq!(fs::read(blob_path(&bench, GOOD)).unwrap(), GOOD);
    assert!(status(&sidecar).damaged.is_empty());
}

#[test]
fn a_store_is_read_whole_in_steps_of_any_size() {
    let repo = Repo::serving_iris();
    let mut bench = following(&repo);
    bench.settings.scrub_bytes = 100;
    let mut sidecar = bench.open();
    sidecar.reconcile();
    assert_eq!(status(&sidecar).last_scrub_unix_ms, None);
    eventually("the end of a round", || {
        sidecar.reconcile();
        status(&sidecar).last_scrub_unix_ms
    });
}

#[test]
fn a_release_that_something_else_took_away_is_published_anew() {
    let repo = Repo::serving_iris();
    let bench = following(&repo);
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let store = &bench.settings.store;
    let harms: [&dyn Fn(); 3] = [
        &|| fs::remove_file(store.join("current")).unwrap(),
        &|| fs::write(store.join(fs::read_link(store.join("current")).unwrap()), "{").unwrap(),
        &|| fs::remove_file(store.join(fs::read_link(store.join("current")).unwrap())).unwrap(),
    ];
    for harm in harms {
        let before = bench.current();
        harm();
        let now = eventually("a new release", || {
            sidecar.reconcile();
            bench.reader().current().ok().flatten().filter(|now| now.name.seq > before.name.seq)
        });
        assert_eq!(now.release, before.release);
        assert_eq!(status(&sidecar).release.as_ref().unwrap().name, now.name.to_string());
    }
}

#[test]
fn what_was_rolled_back_to_is_published_anew_and_not_what_the_rollback_keeps_out() {
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |_| {});
    patient.serves("1.0.0");
    repo.roll("1.1.0");
    patient.look("");
    patient.serves("1.1.0");
    patient.order("/rollback", "");
    let before = patient.bench.current();
    fs::remove_file(patient.bench.settings.store.join("current")).unwrap();
    patient.look("");
    let now = eventually("a new release", || patient.bench.reader().current().unwrap());
    assert_eq!((now.name.seq, &now.release), (before.name.seq + 1, &before.release));
    assert_eq!(patient.bench.serves().0, "1.0.0");
    assert_eq!(patient.status()["held_back"]["by"], "rollback");
}

#[test]
fn a_second_sidecar_reads_while_it_waits_and_takes_over() {
    let repo = Repo::serving_iris();
    let bench = following(&repo);
    let mut first = bench.open();
    let mut settings = bench.settings.clone();
    settings.admin = Some("127.0.0.1:0".parse().unwrap());
    let control = Control::new();
    let second = Sidecar::open(settings, control.clone()).unwrap();
    let (board, admin) = (second.board(), second.admin_address().unwrap());
    assert!(second.agent().is_none());
    let running = std::thread::spawn(move || second.run());

    eventually("its status", || board.status().problem.clone());
    let Some(Problem::Retry { text }) = board.status().problem.clone() else { panic!("it waits") };
    assert!(text.starts_with("another publisher holds the store"), "{text}");
    assert_eq!((get(admin, "/live").0, get(admin, "/ready").0), (200, 503));
    first.reconcile();
    eventually("its readiness", || (get(admin, "/ready").0 == 200).then_some(()));
    assert_eq!((board.status().sync, board.status().health), (Sync::Unknown, Health::Healthy));
    assert_eq!(board.status().release.as_ref().unwrap().name, bench.current().name.to_string());

    let rolled = repo.roll("1.1.0");
    assert_eq!(first.reconcile(), Pass::Published);
    eventually("the new release in its status", || {
        (board.status().release.as_ref()?.commit.id == rolled).then_some(())
    });
    drop(first);
    eventually("its first own pass", || board.status().last_pass);
    let rolled = repo.roll("1.2.0");
    eventually("its first own release", || (board.status().release.as_ref()?.commit.id == rolled).then_some(()));
    assert_eq!((board.status().sync, &board.status().problem), (Sync::Synced, &None));
    control.stop();
    assert_eq!(running.join().unwrap(), Outcome::Synced);
}

#[test]
fn one_that_waits_follows_no_order_and_says_who_does() {
    let repo = Repo::serving_iris();
    let bench = following(&repo);
    let mut first = bench.open();
    first.reconcile();
    let mut settings = bench.settings.clone();
    settings.admin = Some(LOCAL.parse().unwrap());
    let mut second = Sidecar::open(settings, Control::new()).unwrap();
    let admin = second.admin_address().unwrap();
    assert_eq!(second.reconcile(), Pass::Waiting);
    for (path, body) in [("/rollback", ""), ("/hold", r#"{"reason": "the audit"}"#), ("/resume", ""), ("/sync", "")] {
        let (code, text) = post(admin, path, &[], body);
        assert_eq!(code, 503, "{path}: {text}");
        assert!(text.starts_with("another publisher holds the store"), "{path}: {text}");
    }
    assert_eq!(get(admin, "/history").0, 503);
    drop(first);
    assert_eq!(second.reconcile(), Pass::Unchanged);
    assert_eq!(post(admin, "/hold", &[], r#"{"reason": "the audit"}"#).0, 200);
    assert_eq!(status(&second).hold.operator.as_ref().unwrap().reason, "the audit");
}

#[test]
fn one_pass_does_not_wait_for_a_store_that_another_holds() {
    let repo = Repo::serving_iris();
    let mut bench = following(&repo);
    let first = bench.open();
    bench.settings.once = true;
    let error = mainstay_sidecar::run(bench.settings.clone(), Control::new()).unwrap_err();
    assert!(matches!(error, Error::Store(OpenError::Locked { .. })), "{error}");
    drop(first);
    assert_eq!(mainstay_sidecar::run(bench.settings.clone(), Control::new()).unwrap(), Outcome::Synced);
}
