//! What a pass makes of a commit.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use mainstay_models::{Blob, Role};
use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::board::Board;
use mainstay_sidecar::{Health, Outcome, Sync, run};

use crate::harness::{Bench, FakeServer, Repo, Responder, eventually, http, refusal, retry, serving, status};

#[test]
fn a_commit_is_published_and_so_is_its_revert() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves(), ("1.0.0".to_owned(), b"first forest".to_vec()));

    let rolled = repo.roll("1.1.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves(), ("1.1.0".to_owned(), b"forest 1.1.0".to_vec()));
    assert_eq!(bench.current().release.commit.id, rolled);

    repo.git(&["revert", "--no-edit", "HEAD"]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves(), ("1.0.0".to_owned(), b"first forest".to_vec()));
    assert_eq!(bench.current().name.seq, 3);

    let status = status(&sidecar);
    assert_eq!((status.sync, status.health, &status.problem), (Sync::Synced, Health::Healthy, &None));
    let times = status.release.as_ref().unwrap().times;
    assert!(times.desired_unix_ms <= times.fetched_unix_ms && times.fetched_unix_ms <= times.verified_unix_ms);
    assert!(times.desired_unix_ms.is_some());
}

#[test]
fn a_release_names_the_commits_that_changed_what_is_served() {
    let repo = Repo::serving_iris();
    repo.write("README.md", "changes nothing that is served");
    repo.commit("Explain");
    let rolled = repo.roll("1.1.0");
    repo.write("environments/prod/serving.yaml", "nonsense");
    repo.commit("Break it");
    repo.serve("iris", "1.0.0");
    repo.commit("Mend it\n\nAt length.");
    let bench = Bench::following(&repo.address());
    assert_eq!(bench.open().reconcile(), Pass::Published);

    let release = bench.current().release;
    assert_eq!((release.commit.author.as_str(), release.commit.subject.as_str()), ("Ada", "Mend it"));
    let subjects: Vec<_> = release.changes.iter().map(|change| change.commit.subject.as_str()).collect();
    assert_eq!(subjects, ["Mend it", "Break it", "Roll iris to 1.1.0", "Serve iris 1.0.0"]);
    let show = |change: usize| {
        let moves = &release.changes[change].moves;
        assert!(moves.iter().all(|m| m.role == Role::Stable));
        moves
            .iter()
            .map(|m| (m.from.as_ref().map(ToString::to_string), m.to.as_ref().unwrap().to_string()))
            .collect::<Vec<_>>()
    };
    let moved = |from: Option<&str>, to: &str| vec![(from.map(str::to_owned), to.to_owned())];
    assert_eq!(show(0), moved(Some("1.1.0"), "1.0.0"), "compared with the last one that could be read");
    assert_eq!(show(1), vec![]);
    assert_eq!(show(2), moved(Some("1.0.0"), "1.1.0"));
    assert_eq!(show(3), moved(None, "1.0.0"));
    assert_eq!(release.changes[2].commit.id, rolled);
}

#[test]
fn a_bad_commit_is_refused_with_its_place_and_changes_nothing() {
    let good = serving("iris", "1.0.0");
    let promise = Blob::of(b"what was promised");
    type Spoil = Box<dyn Fn(&Repo)>;
    let serve = |text: String| -> Spoil { Box::new(move |repo| repo.write("environments/prod/serving.yaml", &text)) };
    let cases: Vec<(&str, Spoil, &str)> = vec![
        (
            "an unknown field",
            serve(good.replace("stable", "stabel")),
            "environments/prod/serving.yaml:5: models.iris.stabel: unknown field",
        ),
        (
            "a version that is not there",
            serve(good.replace("1.0.0", "9.9.9")),
            "environments/prod/serving.yaml:5: models.iris.stable: models/iris/9.9.9/model.yaml is not in the commit",
        ),
        (
            "no serving.yaml",
            Box::new(|repo| drop(repo.git(&["rm", "-q", "environments/prod/serving.yaml"]))),
            "environments/prod/serving.yaml: is not in the commit",
        ),
        (
            "a wrong digest",
            Box::new(move |repo| {
                repo.write_spec("iris", "1.0.0", promise);
                repo.write("models/iris/1.0.0/model.onnx", "what is not there");
            }),
            "models/iris/1.0.0/model.yaml:7: artifact.sha256: models/iris/1.0.0/model.onnx has 17 bytes with sha256",
        ),
        (
            "an artifact that is too long",
            Box::new(move |repo| {
                repo.write_spec("iris", "1.0.0", promise);
                repo.write("models/iris/1.0.0/model.onnx", "more than what was promised");
            }),
            "models/iris/1.0.0/model.onnx has 27 bytes, more than the 17 allowed",
        ),
        (
            "no artifact",
            Box::new(|repo| repo.write_spec("iris", "1.0.0", Blob::of(b"another"))),
            "models/iris/1.0.0/model.yaml:7: artifact.sha256",
        ),
        (
            "an artifact beyond the limit",
            Box::new(|repo| repo.write_model("iris", "1.0.0", &[7; 2000])),
            "models/iris/1.0.0/model.onnx has 2000 bytes, more than the 1000 allowed",
        ),
        (
            "a Git LFS pointer",
            Box::new(|repo| {
                repo.write_spec("iris", "1.0.0", Blob { size_bytes: 4000, ..Blob::of(b"large") });
                let sha256 = "0".repeat(64);
                let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 9\n");
                repo.write("models/iris/1.0.0/model.onnx", pointer);
            }),
            "is a Git LFS pointer to 9 bytes with sha256 000000",
        ),
        (
            "a card in another model's folder",
            Box::new(|repo| {
                repo.write_model("rose", "1.0.0", b"rose");
                let card = std::fs::read(repo.path().join("models/rose/1.0.0/model.yaml")).unwrap();
                repo.write("models/iris/1.0.0/model.yaml", card);
            }),
            "models/iris/1.0.0/model.yaml:2: name: `rose` lies in the folder of `iris`",
        ),
        (
            "a symbolic link for an artifact",
            Box::new(|repo| {
                repo.write_spec("iris", "1.0.0", Blob::of(b"another"));
                std::fs::remove_file(repo.path().join("models/iris/1.0.0/model.onnx")).unwrap();
                symlink("/etc/passwd", repo.path().join("models/iris/1.0.0/model.onnx")).unwrap();
            }),
            "models/iris/1.0.0/model.onnx is behind a symbolic link",
        ),
        (
            "a symbolic link for a folder",
            Box::new(|repo| {
                std::fs::rename(repo.path().join("models/iris"), repo.path().join("models/tulip")).unwrap();
                symlink("tulip", repo.path().join("models/iris")).unwrap();
            }),
            "models/iris/1.0.0/model.yaml is behind a symbolic link",
        ),
    ];
    for (what, spoil, expected) in cases {
        let repo = Repo::serving_iris();
        let mut bench = Bench::following(&repo.address());
        bench.settings.artifact_bytes_max = 1000;
        let mut sidecar = bench.open();
        assert_eq!(sidecar.reconcile(), Pass::Published, "{what}");
        let before = bench.current();

        spoil(&repo);
        let bad = repo.commit("Spoil it");
        let text = refusal(sidecar.reconcile());
        assert!(text.contains(expected), "{what}: {text}\n  should contain {expected}");
        assert_eq!(bench.current(), before, "{what}");
        let seen = serde_json::to_value(&*status(&sidecar)).unwrap();
        assert_eq!((&seen["sync"], &seen["health"]), (&"OutOfSync".into(), &"Healthy".into()), "{what}");
        assert_eq!(seen["problem"]["kind"], "refused");
        assert_eq!(seen["problem"]["commit"], bad.as_str());
        assert_eq!(seen["problem"]["text"], text);

        repo.git(&["revert", "--no-edit", "HEAD"]);
        assert_eq!(sidecar.reconcile(), Pass::Published, "{what}: the way back is open");
    }
}

#[test]
fn a_refused_commit_is_not_read_again_and_a_newer_one_is() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    repo.write("environments/prod/serving.yaml", "nonsense");
    repo.commit("Break it");
    let first = refusal(sidecar.reconcile());
    // Without a mirror, a fetch would make one, and a read would fail.
    std::fs::remove_dir_all(bench.mirror()).unwrap();
    assert_eq!(refusal(sidecar.reconcile()), first);
    assert!(!bench.mirror().join("objects/pack").exists() || is_empty(&bench.mirror().join("objects/pack")));
    repo.roll("1.1.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
}

#[test]
fn how_far_behind_it_is_and_what_a_pass_costs_is_measured() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    let metric = |sidecar: &mainstay_sidecar::Sidecar, name: &str| {
        let text = sidecar.board().metrics();
        let line =
            text.lines().find_map(|line| line.strip_prefix("mainstay_sync_")?.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse::<f64>().unwrap()
    };
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(metric(&sidecar, "behind_seconds"), 0.0);
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert!(metric(&sidecar, "pass_cpu_seconds_total{outcome=\"published\"}") > 0.0);
    assert!(metric(&sidecar, "pass_cpu_seconds_total{outcome=\"unchanged\"}") > 0.0);

    assert_eq!(metric(&sidecar, "digest_failures_total{source=\"git\"}"), 0.0);
    repo.write_spec("iris", "1.1.0", Blob::of(b"forest 1.1.0"));
    repo.write("models/iris/1.1.0/model.onnx", "another forest");
    repo.serve("iris", "1.1.0");
    repo.commit("Roll to a file that is not what its card says");
    refusal(sidecar.reconcile());
    let behind = metric(&sidecar, "behind_seconds");
    assert!(behind > 0.0);
    refusal(sidecar.reconcile());
    assert!(metric(&sidecar, "behind_seconds") > behind, "it counts from when it was first behind");
    assert_eq!(metric(&sidecar, "digest_failures_total{source=\"git\"}"), 1.0);
    repo.roll("1.2.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(metric(&sidecar, "behind_seconds"), 0.0);
}

fn is_empty(folder: &std::path::Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn an_unchanged_poll_fetches_nothing_and_writes_nothing() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let before = bench.current();
    std::fs::remove_dir_all(bench.mirror()).unwrap();
    for _ in 0..3 {
        assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    }
    assert!(is_empty(&bench.mirror().join("objects/pack")), "a fetch would have brought a pack");
    assert_eq!(bench.current(), before);
    assert_eq!(sidecar.agent().unwrap().git_workers_started(), 1);
}

#[test]
fn a_range_of_tags_is_followed_release_by_release() {
    let repo = Repo::serving_iris();
    let mut bench = Bench::following(&repo.address());
    bench.settings.reference = "^1".parse().unwrap();
    let mut sidecar = bench.open();
    let problem = retry(sidecar.reconcile());
    assert!(problem.contains("has no tag in the range `^1`; 0 of its tags are versions"), "{problem}");
    repo.git(&["tag", "v1.0.0"]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    repo.roll("1.1.0");
    assert_eq!(sidecar.reconcile(), Pass::Unchanged, "a commit without a tag is not followed");
    repo.git(&["tag", "v1.1.0-rc.1"]);
    assert_eq!(sidecar.reconcile(), Pass::Unchanged, "a pre-release was not asked for");
    repo.git(&["tag", "--annotate", "--message", "1.1.0", "v1.1.0"]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves().0, "1.1.0");
    let seen = status(&sidecar);
    assert_eq!((seen.reference.as_str(), seen.resolved.as_deref()), ("^1", Some("refs/tags/v1.1.0")));
    // A second tag of the same commit changes the name and nothing else.
    repo.git(&["tag", "v1.1.1"]);
    std::fs::remove_dir_all(bench.mirror()).unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert_eq!(status(&sidecar).resolved.as_deref(), Some("refs/tags/v1.1.1"));
    assert!(is_empty(&bench.mirror().join("objects/pack")), "a fetch would have brought a pack");
}

#[test]
fn a_restart_finds_its_release_and_publishes_nothing() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    bench.open().reconcile();
    let before = bench.current();
    let mut sidecar = bench.open();
    assert!(status(&sidecar).release.is_some(), "ready before git is asked");
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert_eq!(bench.current(), before);
}

#[test]
fn an_older_commit_is_refused_and_its_revert_is_not() {
    let repo = Repo::serving_iris();
    let first = repo.head();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    let second = repo.roll("1.1.0");
    sidecar.reconcile();
    repo.git(&["reset", "--hard", "--quiet", first.as_str()]);
    let refused = refusal(sidecar.reconcile());
    let expected = format!("commit {} is older than the live {}", first.short(), second.short());
    assert!(refused.starts_with(&expected) && refused.contains("git revert"), "{refused}");
    assert_eq!(bench.serves().0, "1.1.0");
    assert_eq!(refusal(sidecar.reconcile()), refused);
    assert!(sidecar.board().metrics().contains("mainstay_sync_rewinds_refused_total 1"), "once for a commit");

    // A restart knows what was live, and so does a mirror that is made anew: without what was live in it.
    drop(sidecar);
    let mut sidecar = bench.open();
    assert_eq!(refusal(sidecar.reconcile()), refused);
    std::fs::remove_dir_all(bench.mirror()).unwrap();
    let mut sidecar = {
        drop(sidecar);
        bench.open()
    };
    let gone = refusal(sidecar.reconcile());
    assert!(gone.contains("which is not in its repository any more"), "{gone}");

    repo.git(&["reset", "--hard", "--quiet", second.as_str()]);
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert_eq!(status(&sidecar).problem, None);
    repo.git(&["revert", "--no-edit", "HEAD"]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves().0, "1.0.0");
}

#[test]
fn another_history_is_refused_until_what_is_live_is_merged_into_it() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    sidecar.reconcile();
    repo.git(&["checkout", "--quiet", "--orphan", "other"]);
    repo.roll("3.0.0");
    repo.git(&["branch", "--move", "main", "before"]);
    repo.git(&["branch", "--move", "other", "main"]);
    let refused = refusal(sidecar.reconcile());
    assert!(refused.contains("does not descend from the live") && refused.contains("git merge"), "{refused}");
    assert_eq!(bench.serves().0, "1.0.0");
    repo.git(&["merge", "--quiet", "--strategy=ours", "--allow-unrelated-histories", "--no-edit", "before"]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves().0, "3.0.0");
}

#[test]
fn a_release_that_cannot_be_read_still_says_what_nothing_may_go_back_behind() {
    let repo = Repo::serving_iris();
    let first = repo.head();
    let bench = Bench::following(&repo.address());
    let second = repo.roll("1.1.0");
    bench.open().reconcile();
    std::fs::write(bench.settings.store.join(format!("releases/1-{second}.json")), "{").unwrap();
    repo.git(&["reset", "--hard", "--quiet", first.as_str()]);
    assert!(refusal(bench.open().reconcile()).contains("is older than the live"));
    repo.git(&["reset", "--hard", "--quiet", second.as_str()]);
    assert_eq!(bench.open().reconcile(), Pass::Unchanged, "it was made anew from its own commit at the first look");
    assert_eq!(bench.serves().0, "1.1.0");
}

#[test]
fn a_deleted_tag_does_not_bring_the_one_before_it_back() {
    let repo = Repo::serving_iris();
    repo.git(&["tag", "v1.0.0"]);
    repo.roll("1.1.0");
    repo.git(&["tag", "v1.1.0"]);
    let mut bench = Bench::following(&repo.address());
    bench.settings.reference = "^1".parse().unwrap();
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    repo.git(&["tag", "--delete", "v1.1.0"]);
    assert!(refusal(sidecar.reconcile()).contains("is older than the live"));
    assert_eq!(bench.serves().0, "1.1.0");
}

#[test]
fn a_force_push_is_followed_where_that_is_allowed() {
    let repo = Repo::serving_iris();
    let first = repo.head();
    let mut bench = Bench::following(&repo.address());
    bench.settings.trust.allow_rewind = true;
    let mut sidecar = bench.open();
    repo.roll("1.1.0");
    sidecar.reconcile();
    repo.git(&["reset", "--hard", "--quiet", first.as_str()]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves().0, "1.0.0");

    repo.git(&["checkout", "--quiet", "--orphan", "other"]);
    repo.roll("3.0.0");
    repo.git(&["branch", "--force", "main", "other"]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves().0, "3.0.0");
    assert_eq!(bench.current().release.changes.len(), 1);
}

#[test]
fn old_releases_are_collected_and_the_kept_ones_stay() {
    let repo = Repo::serving_iris();
    let mut bench = Bench::following(&repo.address());
    bench.settings.keep_releases = 1;
    let mut sidecar = bench.open();
    sidecar.reconcile();
    for version in ["1.1.0", "1.2.0", "1.3.0"] {
        repo.roll(version);
        assert_eq!(sidecar.reconcile(), Pass::Published);
    }
    let count = |folder: &str| std::fs::read_dir(bench.settings.store.join(folder)).unwrap().count();
    assert_eq!((count("releases"), count("blobs/sha256")), (2, 4));
}

#[test]
fn live_means_that_the_server_echoes_this_release_whole() {
    let repo = Repo::serving_iris();
    let server = FakeServer::default();
    let mut bench = Bench::following(&repo.address());
    bench.settings.server = Some(server.start());
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let seen = status(&sidecar);
    assert_eq!((seen.sync, seen.health), (Sync::Synced, Health::Progressing));
    assert_eq!(seen.release.as_ref().unwrap().times.loaded_unix_ms, None);

    // The right name with other bytes is another release.
    let mut lie = bench.current();
    lie.sha256 = mainstay_models::Digest::of(b"lie");
    server.take(&lie);
    sidecar.reconcile();
    assert_eq!(status(&sidecar).health, Health::Progressing);

    server.take(&bench.current());
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    let seen = status(&sidecar);
    assert_eq!(seen.health, Health::Healthy);
    let times = seen.release.as_ref().unwrap().times;
    assert!(times.live_unix_ms.is_some() && times.verified_unix_ms <= times.loaded_unix_ms);
    assert!(sidecar.board().metrics().contains("mainstay_sync_commit_to_live_seconds_count 1"));

    server.fail("iris", "the golden row 3 differs");
    sidecar.reconcile();
    let seen = status(&sidecar);
    assert_eq!((seen.sync, seen.health), (Sync::Synced, Health::Degraded));
    assert_eq!(seen.health_reason.as_deref(), Some("iris 1.0.0 did not load: the golden row 3 differs"));
    assert_eq!(seen.failed.len(), 1);
}

#[test]
fn a_release_is_not_said_to_be_live_before_the_server_was_asked_about_it() {
    let repo = Repo::serving_iris();
    let board = Arc::new(OnceLock::<Arc<Board>>::new());
    let said = Arc::new(Mutex::new(BTreeMap::new()));
    let (seen, shown) = (said.clone(), board.clone());
    let server = FakeServer::default();
    let page = server.clone();
    // The status while the sidecar waits for the server's answer: what everybody reads meanwhile.
    let asked = Responder::start(move |_| {
        let status = shown.get().unwrap().status();
        let commit = status.release.as_ref().unwrap().commit.id.clone();
        seen.lock().unwrap().entry(commit).or_insert(status.health);
        http("200 OK", "", &page.page())
    });
    let mut bench = Bench::following(&repo.address());
    bench.settings.server = Some(format!("http://{}", asked.address));
    let mut sidecar = bench.open();
    board.set(sidecar.board()).unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    server.take(&bench.current());
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert_eq!(status(&sidecar).health, Health::Healthy);
    let rolled = repo.roll("1.1.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(said.lock().unwrap()[&rolled], Health::Progressing);
}

#[test]
fn a_newer_commit_pre_empts_waiting_for_the_server() {
    let repo = Repo::serving_iris();
    let mut bench = Bench::following(&repo.address());
    bench.settings.server = Some(FakeServer::default().start());
    let sidecar = bench.open();
    let board = sidecar.board();
    let control = bench.control.clone();
    let running = std::thread::spawn(move || sidecar.run());
    eventually("the first release", || board.status().release.clone());
    let rolled = repo.roll("1.1.0");
    eventually("the second release", || {
        board.status().release.as_ref().is_some_and(|release| release.commit.id == rolled).then_some(())
    });
    control.stop();
    assert_eq!(running.join().unwrap(), Outcome::Synced);
}

#[test]
fn once_ends_with_what_scripts_need_to_know() {
    let repo = Repo::serving_iris();
    let mut bench = Bench::following(&repo.address());
    bench.settings.once = true;
    let outcome = |bench: &Bench| run(bench.settings.clone(), bench.control.clone()).unwrap();
    assert_eq!(outcome(&bench), Outcome::Synced);
    assert_eq!(outcome(&bench), Outcome::Synced);
    repo.write("environments/prod/serving.yaml", "nonsense");
    repo.commit("Break it");
    assert_eq!(outcome(&bench), Outcome::Refused);
    bench.settings.reference = "gone".parse().unwrap();
    assert_eq!(outcome(&bench), Outcome::Retry);
    assert_eq!([Outcome::Synced, Outcome::Refused, Outcome::Retry].map(Outcome::exit_code), [0, 1, 2]);
}

#[test]
fn a_trigger_is_a_pass_now() {
    let repo = Repo::serving_iris();
    let mut bench = Bench::following(&repo.address());
    bench.settings.interval = Duration::from_secs(3600);
    let sidecar = bench.open();
    let board = sidecar.board();
    let control = bench.control.clone();
    let running = std::thread::spawn(move || sidecar.run());
    eventually("the first release", || board.status().release.clone());
    let rolled = repo.roll("1.1.0");
    control.trigger();
    eventually("the second release", || {
        board.status().release.as_ref().is_some_and(|release| release.commit.id == rolled).then_some(())
    });
    control.stop();
    running.join().unwrap();
}
