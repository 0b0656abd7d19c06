//! What stands in for a version that a fresh server cannot load.

use mainstay_sidecar::agent::Pass;

use crate::harness::{Bench, Repo, eventually, picky_server, status};

/// What is asked for, and what stands in for it.
fn published(bench: &Bench) -> (String, Option<String>) {
    let release = bench.current().release;
    let model = &release.models[&release.default];
    (model.stable.to_string(), model.fallback.as_ref().map(|fallback| fallback.version.to_string()))
}

fn pair(stable: &str, fallback: Option<&str>) -> (String, Option<String>) {
    (stable.to_owned(), fallback.map(str::to_owned))
}

#[test]
fn the_walk_goes_back_step_by_step_also_over_a_restart_and_without_the_repository() {
    let repo = Repo::serving_iris();
    for version in ["1.1.0", "1.2.0", "1.3.0"] {
        repo.roll(version);
    }
    let head = repo.head();
    let mut bench = Bench::following(&repo.address());
    assert_eq!(bench.open().reconcile(), Pass::Published);
    let releases = || bench.reader().releases().unwrap().len();
    assert_eq!((published(&bench), releases()), (pair("1.3.0", None), 1));
    std::fs::rename(repo.path().join(".git"), repo.path().join("away")).unwrap();

    // The mirror has all that is needed. Each sidecar here takes one step, or more.
    let server = picky_server(&bench.settings.store, &["1.3.0", "1.2.0", "1.1.0"]);
    bench.settings.server = Some(server);
    bench.settings.interval = std::time::Duration::ZERO;
    for version in ["1.2.0", "1.1.0", "1.0.0"] {
        let mut sidecar = bench.open();
        eventually("a step back", || {
            sidecar.reconcile();
            (published(&bench) != pair("1.3.0", None) && *published(&bench).1.unwrap() <= *version).then_some(())
        });
    }
    let mut sidecar = bench.open();
    sidecar.reconcile();
    let seen = status(&sidecar);
    assert_eq!(published(&bench), pair("1.3.0", Some("1.0.0")));
    assert_eq!(seen.failed[0].fallback.as_ref().map(|fallback| fallback.state.as_str()), Some("live"));
    let reason = seen.health_reason.clone().unwrap();
    assert!(reason.starts_with("iris 1.3.0 did not load: it is bad; 1.0.0, as commit "), "{reason}");
    assert_eq!((&bench.current().release.commit.id, bench.serves().0.as_str()), (&head, "1.3.0"));
    let before = bench.current();
    sidecar.reconcile();
    assert_eq!(bench.current(), before, "what stands in stays");
}

#[test]
fn a_newer_commit_drops_what_stands_in_and_holds_do_not_keep_it_out() {
    let repo = Repo::serving_iris();
    repo.roll("1.1.0");
    let mut bench = Bench::following(&repo.address());
    bench.settings.server = Some(picky_server(&bench.settings.store, &["1.1.0"]));
    let store = bench.settings.store.clone();
    std::fs::create_dir_all(&store).unwrap();
    std::fs::write(
        store.join("hold.json"),
        r#"{"operator": {"reason": "freeze", "since_unix_ms": 1}, "rollback": null}"#,
    )
    .unwrap();
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(published(&bench), pair("1.1.0", Some("1.0.0")));

    std::fs::remove_file(store.join("hold.json")).unwrap();
    drop(sidecar);
    let mut sidecar = bench.open();
    repo.roll("1.2.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(published(&bench), pair("1.2.0", None));
    assert_eq!(status(&sidecar).walk_back, None);
}

#[test]
fn a_walk_that_finds_nothing_says_so_once_and_publishes_nothing() {
    let repo = Repo::serving_iris();
    repo.roll("1.1.0");
    let mut bench = Bench::following(&repo.address());
    bench.settings.server = Some(picky_server(&bench.settings.store, &["1.1.0", "1.0.0"]));
    let mut sidecar = bench.open();
    eventually("the walk ends", || {
        sidecar.reconcile();
        status(&sidecar).walk_back.clone()
    });
    let text = status(&sidecar).walk_back.clone().unwrap();
    assert_eq!(text, "no earlier commit has a version of iris that may stand in");
    let before = bench.current();
    sidecar.reconcile();
    assert_eq!((bench.current(), status(&sidecar).walk_back.clone()), (before, Some(text)));
}
