//! What goes wrong, and that what was published stays and everything heals by itself.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::{Health, Outcome, Sync};

use crate::harness::{Bench, LONG, Repo, eventually, retry, status};

fn is_alive(process: u32) -> bool {
    Command::new("kill").args(["-0", &process.to_string()]).status().unwrap().success()
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap().success());
}

#[test]
fn a_remote_that_is_gone_changes_nothing_and_its_return_is_noticed() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let before = bench.current();
    let (here, away) = (repo.path().join(".git"), repo.path().join("away"));
    fs::rename(&here, &away).unwrap();
    let problem = retry(sidecar.reconcile());
    assert!(problem.starts_with(&format!("cannot reach {}: ", repo.address())), "{problem}");
    assert_eq!(bench.current(), before);
    let seen = status(&sidecar);
    assert_eq!((seen.sync, seen.health), (Sync::Unknown, Health::Healthy));
    assert_eq!(seen.desired.as_ref(), Some(&before.release.commit.id), "what was known stays known");

    // Also a restart keeps serving what it had.
    drop(sidecar);
    let mut sidecar = bench.open();
    retry(sidecar.reconcile());
    assert!(status(&sidecar).release.is_some());

    fs::rename(&away, &here).unwrap();
    repo.roll("1.1.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(status(&sidecar).problem, None);
}

#[test]
fn a_remote_that_never_answers_is_cut_at_the_deadline_and_its_worker_killed() {
    // The kernel accepts; nobody ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::following(&format!("http://{}/config", listener.local_addr().unwrap()));
    bench.settings.request_deadline = Duration::from_millis(700);
    let mut sidecar = bench.open();
    let started = Instant::now();
    let problem = retry(sidecar.reconcile());
    let took = started.elapsed();
    assert!(problem.contains("within 0.7 s: the git worker was killed"), "{problem}");
    assert!((Duration::from_millis(700)..Duration::from_millis(1500)).contains(&took), "{took:?}");
    assert_eq!(sidecar.agent().unwrap().git_worker_id(), None);
    // Its end of the connection is closed, so it is gone.
    let mut connection = listener.accept().unwrap().0;
    connection.set_read_timeout(Some(LONG)).unwrap();
    let mut request = Vec::new();
    connection.read_to_end(&mut request).unwrap();
    assert!(request.starts_with(b"GET /config/info/refs"));
    assert!(retry(sidecar.reconcile()).contains("was killed"));
    assert_eq!(sidecar.agent().unwrap().git_workers_started(), 2);
}

#[test]
fn a_stop_does_not_wait_for_a_hung_remote() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::following(&format!("http://{}/config", listener.local_addr().unwrap()));
    let sidecar = bench.open();
    let control = bench.control.clone();
    let running = std::thread::spawn(move || sidecar.run());
    // It hangs once the connection is there.
    let connection = listener.accept().unwrap();
    let asked = Instant::now();
    control.stop();
    assert_eq!(running.join().unwrap(), Outcome::Synced);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    drop(connection);
}

#[test]
fn a_killed_worker_is_replaced() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let worker = sidecar.agent().unwrap().git_worker_id().unwrap();
    kill(worker);
    repo.roll("1.1.0");
    let problem = retry(sidecar.reconcile());
    assert!(problem.contains("the git worker died (signal: 9 (SIGKILL))"), "{problem}");
    assert!(!is_alive(worker));
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(sidecar.agent().unwrap().git_workers_started(), 2);
    let worker = sidecar.agent().unwrap().git_worker_id().unwrap();
    drop(sidecar);
    assert!(!is_alive(worker), "a dropped sidecar leaves no worker");
}

#[test]
fn a_damaged_mirror_heals() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 6] = [
        ("it is gone", |mirror| fs::remove_dir_all(mirror).unwrap()),
        ("its packs are cut", |mirror| for_each_pack(mirror, |path| fs::write(path, "PACK").unwrap())),
        ("its packs are gone", |mirror| for_each_pack(mirror, |path| fs::remove_file(path).unwrap())),
        ("its head is nonsense", |mirror| fs::write(mirror.join("HEAD"), [0xff; 100]).unwrap()),
        ("its configuration is nonsense", |mirror| fs::write(mirror.join("config"), "[core\n").unwrap()),
        ("a killed worker left a lock", |mirror| {
            fs::create_dir_all(mirror.join("refs/mainstay")).unwrap();
            fs::write(mirror.join("refs/mainstay/target.lock"), "").unwrap();
        }),
    ];
    for (what, damage) in cases {
        let repo = Repo::serving_iris();
        let bench = Bench::following(&repo.address());
        let mut sidecar = bench.open();
        sidecar.reconcile();
        let before = bench.current();
        damage(&bench.mirror());
        assert_eq!(sidecar.reconcile(), Pass::Unchanged, "{what}: an unchanged poll does not need it");
        assert_eq!(bench.current(), before);
        repo.roll("1.1.0");
        let first = sidecar.reconcile();
        let second = sidecar.reconcile();
        let healed = first == Pass::Published || (matches!(first, Pass::Retry(_)) && second == Pass::Published);
        assert!(healed, "{what}: {first:?}, {second:?}");
        assert_eq!(bench.serves().0, "1.1.0", "{what}");
    }
}

fn for_each_pack(mirror: &Path, damage: impl Fn(&Path)) {
    let mut packs = 0;
    for entry in fs::read_dir(mirror.join("objects/pack")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "pack") {
            fs::set_permissions(entry.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
            damage(&entry.path());
            packs += 1;
        }
    }
    assert!(packs > 0);
}

#[test]
fn partial_packs_of_killed_workers_are_removed() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let partial = bench.mirror().join("objects/pack/pack_git2_partial");
    fs::write(&partial, "half").unwrap();
    repo.roll("1.1.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(!partial.exists());
}

#[test]
fn a_branch_that_is_deleted_and_made_again_is_followed_again() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    repo.git(&["branch", "--move", "main", "away"]);
    assert!(retry(sidecar.reconcile()).contains("has no branch or tag `main`"));
    assert_eq!(bench.serves().0, "1.0.0");
    repo.roll("1.1.0");
    repo.git(&["branch", "--move", "away", "main"]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
}

#[test]
fn a_store_that_cannot_be_written_is_retried() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    let tmp = bench.settings.store.join("tmp");
    fs::remove_dir(&tmp).unwrap();
    let problem = retry(sidecar.reconcile());
    assert!(problem.contains("into the store"), "{problem}");
    assert_eq!(status(&sidecar).sync, Sync::OutOfSync);
    fs::create_dir(&tmp).unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Published);
}

#[test]
fn a_running_sidecar_follows_one_commit_after_another() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let sidecar = bench.open();
    let board = sidecar.board();
    let control = bench.control.clone();
    let running = std::thread::spawn(move || sidecar.run());
    eventually("the first release", || board.status().release.clone());
    for version in ["1.1.0", "1.2.0", "1.3.0"] {
        let commit = repo.roll(version);
        eventually(version, || {
            board.status().release.as_ref().is_some_and(|release| release.commit.id == commit).then_some(())
        });
    }
    control.stop();
    running.join().unwrap();
}
