//! What stands in for a version that a fresh server cannot load.

use mainstay_sidecar::agent::Pass;

use crate::harness::{Bench, Repo, eventually, picky_server, status};
use crate::signing::ModelKey;

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

#[test]
fn a_long_walk_takes_no_earlier_releases_place() {
    let repo = Repo::serving_iris();
    let mut bench = Bench::following(&repo.address());
    bench.settings.keep_releases = 2;
    bench.settings.server = Some(picky_server(&bench.settings.store, &["1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0"]));
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let mut commits = vec![repo.head(), repo.roll("1.1.0")];
    assert_eq!(sidecar.reconcile(), Pass::Published);
    for version in ["1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0"] {
        repo.roll(version);
    }
    commits.push(repo.head());
    eventually("the walk arrives", || {
        sidecar.reconcile();
        (published(&bench) == pair("1.6.0", Some("1.1.0"))).then_some(())
    });
    let kept: Vec<_> = bench.reader().releases().unwrap().into_iter().map(|name| name.commit).collect();
    assert_eq!(kept, commits);
}

#[test]
fn what_stands_in_for_a_signed_version_is_signed_too_and_what_is_passed_over_raises_no_alarm() {
    let (repo, key) = (Repo::serving_iris(), ModelKey::new());
    let sign = |version: &str| {
        key.sign(&repo.path().join(format!("models/iris/{version}")));
        repo.commit(&format!("Sign iris {version}"))
    };
    let signed = sign("1.0.0");
    repo.roll("1.1.0");
    repo.roll("1.2.0");
    sign("1.2.0");
    let mut bench = Bench::following(&repo.address());
    let file = bench.settings.store.parent().unwrap().join("signers.yaml");
    std::fs::write(&file, format!("apiVersion: mainstay/v1\nsigners:\n{}", key.entry("Training", ""))).unwrap();
    bench.settings.trust.verify_models = true;
    bench.settings.trust.allowed_signers = Some(file);
    bench.settings.server = Some(picky_server(&bench.settings.store, &["1.2.0"]));
    let mut sidecar = bench.open();
    // The commits from the newest: 1.2.0 unsigned, 1.1.0, then 1.0.0 signed, which is the first that may stand in.
    eventually("the signed one stands in", || {
        sidecar.reconcile();
        published(&bench).1
    });
    assert_eq!(published(&bench), pair("1.2.0", Some("1.0.0")));
    let release = bench.current().release;
    assert_eq!(release.models[&release.default].fallback.as_ref().unwrap().commit, signed);
    let metrics = sidecar.board().metrics();
    let raised = |name: &str| {
        let samples = metrics.lines().filter(|line| line.starts_with(name));
        samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum::<f64>()
    };
    assert_eq!(raised("mainstay_sync_model_signature_failures_total"), 0.0, "{metrics}");
    assert_eq!(raised("mainstay_sync_model_signatures_verified_total"), 1.0, "of the release itself");
}
