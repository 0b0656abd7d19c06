//! What goes wrong, and that what was published stays and everything heals by itself.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

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
    // Nothing else would end the question so soon: libgit2 itself waits longer, and says something else.
    let problem = retry(sidecar.reconcile());
    assert!(problem.contains("within 0.7 s: the git worker was killed"), "{problem}");
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

/// Answers as a git host does, and of the pack that is asked for sends a byte now and then, until nobody reads it any more.
fn drip(stream: TcpStream) {
    let mut answer = stream.try_clone().unwrap();
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let mut asked = BufReader::new(stream);
    let mut head = String::new();
    while asked.read_line(&mut head).is_ok_and(|length| length > 0) {
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        if head.starts_with("GET") {
            let reference = line(&format!("{} refs/heads/main\0ofs-delta\n", "5".repeat(40)));
            let body = format!("{}0000{reference}0000", line("# service=git-upload-pack\n"));
            let kind = "application/x-git-upload-pack-advertisement";
            let length = body.len();
            write!(answer, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
                .unwrap();
        } else {
            let kind = "application/x-git-upload-pack-result";
            write!(answer, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 1000000\r\n\r\n").unwrap();
            // One blob of 4095 bytes, which begins as bytes that are not compressed do.
            let begun = b"0008NAK\nPACK\0\0\0\x02\0\0\0\x01\xbf\xff\x01\x78\x01\x01\xff\x0f\x00\xf0";
            let mut sent = answer.write_all(begun);
            while sent.is_ok() {
                std::thread::sleep(Duration::from_millis(20));
                sent = answer.write_all(b"x");
            }
        }
        head.clear();
    }
}

#[test]
fn a_remote_that_drips_is_left_and_its_worker_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::following(&format!("http://{}/config", listener.local_addr().unwrap()));
    bench.settings.pace = Duration::from_millis(300);
    bench.settings.pace_bytes = 1000;
    let host = std::thread::spawn(move || {
        // One for the look, one for the fetch.
        let drips: Vec<_> =
            listener.incoming().take(2).map(|stream| stream.map(|s| std::thread::spawn(|| drip(s)))).collect();
        drips.into_iter().for_each(|drip| drip.unwrap().join().unwrap());
    });
    let mut sidecar = bench.open();
    let problem = retry(sidecar.reconcile());
    assert!(problem.contains("it gave less than 1000 bytes in 0.3 s"), "{problem}");
    assert_eq!(sidecar.agent().unwrap().git_worker_id(), None);
    // Its end of the connection is closed, so it is gone.
    host.join().unwrap();
}

#[test]
fn a_stop_does_not_wait_for_a_hung_remote() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::following(&format!("http://{}/config", listener.local_addr().unwrap()));
    bench.settings.request_deadline = Duration::from_secs(3600);
    let sidecar = bench.open();
    let control = bench.control.clone();
    let running = std::thread::spawn(move || sidecar.run());
    let mut connection = listener.accept().unwrap().0;
    // With a byte of an answer now and then, nothing ends the question but the stop.
    let host = std::thread::spawn(move || {
        let mut sent = connection.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(20));
            sent = connection.write_all(b"x");
        }
    });
    control.stop();
    eventually("the sidecar stops", || running.is_finished().then_some(()));
    assert_eq!(running.join().unwrap(), Outcome::Synced);
    // Nobody reads the answer any more: the worker is gone.
    host.join().unwrap();
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
