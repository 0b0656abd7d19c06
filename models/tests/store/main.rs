//! The store, as its two users meet it: what may be published, what is collected, what a reader believes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::RwLock;

use mainstay_models::store::{AddError, OpenError, PublishError, ReadError};
use mainstay_models::{Blob, Commit, CommitId, Publisher, Reader, Release, ReleasedModel, ReleasedVersion, Rollback};
use proptest::prelude::*;

// Stopping at system calls is ptrace's business, which is different on every system and processor: the two that
// Mainstay is deployed on have it. Elsewhere `kill` has to do.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls;
mod facts;
mod kill;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod power;
mod scrub;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tracer;

/// A child has copies of all descriptors between its fork and its program, and with them the locks that other tests hold:
/// while one is forked, nothing is locked that is to be let go of.
static FORKING: RwLock<()> = RwLock::new(());

/// Does something with locks while no test forks.
fn alone<T>(work: impl FnOnce() -> T) -> T {
    let _no_fork = FORKING.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    work()
}

/// Starts a child while no test holds a lock.
fn forking<T>(start: impl FnOnce() -> T) -> T {
    let _forking = FORKING.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    start()
}

/// A release of one model whose artifact is `artifact`.
fn release(commit: u64, artifact: &[u8]) -> (Release, [Vec<u8>; 2]) {
    let spec = format!("the card of {} bytes", artifact.len()).into_bytes();
    let version = "1.0.0".parse().unwrap();
    let released = ReleasedVersion { spec: Blob::of(&spec), artifact: Blob::of(artifact) };
    let model = ReleasedModel {
        stable: version,
        versions: BTreeMap::from([("1.0.0".parse().unwrap(), released)]),
        fallback: None,
    };
    let id: CommitId = format!("{commit:040x}").parse().unwrap();
    let commit = Commit { id, author: "A".into(), subject: "S".into(), time_unix_s: 0 };
    let models = BTreeMap::from([("iris".parse().unwrap(), model)]);
    let release = Release::new("prod".parse().unwrap(), commit, "iris".parse().unwrap(), models, vec![]).unwrap();
    (release, [spec, artifact.to_vec()])
}

/// Adds what the release needs and publishes it.
fn publish(publisher: &Publisher, commit: u64, artifact: &[u8]) -> mainstay_models::ReleaseName {
    let (release, blobs) = release(commit, artifact);
    for bytes in &blobs {
        publisher.add(&Blob::of(bytes), &bytes[..]).unwrap();
    }
    publisher.publish(&release).unwrap()
}

fn files(folder: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    std::fs::read_dir(folder).unwrap().map(name).collect()
}

#[test]
fn what_is_published_is_what_a_reader_finds() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::new(dir.path());
    assert!(reader.current().unwrap().is_none());
    let publisher = Publisher::open(dir.path()).unwrap();
    assert!(reader.current().unwrap().is_none());

    let first = publish(&publisher, 1, b"model one");
    let second = publish(&publisher, 2, b"model two");
    assert_eq!((first.seq, second.seq), (1, 2));
    let current = reader.current().unwrap().unwrap();
    assert_eq!(current.name, second);
    assert_eq!(current.release, release(2, b"model two").0);
    assert_eq!(reader.blob(&Blob::of(b"model two")).unwrap(), b"model two");
    assert_eq!(
        std::fs::read_link(dir.path().join("current")).unwrap(),
        Path::new("releases").join(format!("{second}.json"))
    );
    assert!(files(&dir.path().join("tmp")).is_empty());
}

#[test]
fn a_release_that_lacks_a_blob_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    let (release, [spec, _]) = release(1, b"absent");
    publisher.add(&Blob::of(&spec), &spec[..]).unwrap();
    assert!(matches!(publisher.publish(&release), Err(PublishError::Missing(blob)) if blob == Blob::of(b"absent")));
    assert!(publisher.reader().current().unwrap().is_none());
}

#[test]
fn bytes_that_are_not_the_promised_ones_get_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    let promised = Blob::of(b"the promised bytes");
    assert!(matches!(publisher.add(&promised, &b"some other bytes.."[..]), Err(AddError::Mismatch { .. })));
    assert!(matches!(publisher.add(&promised, &b"short"[..]), Err(AddError::Mismatch { .. })));
    let endless = std::io::repeat(7);
    assert!(matches!(publisher.add(&promised, endless), Err(AddError::TooLong { expected_bytes: 18 })));
    let broken = (&b"the pro"[..]).chain(Broken);
    assert!(matches!(publisher.add(&promised, broken), Err(AddError::Source(_))));
    assert!(files(&dir.path().join("blobs/sha256")).is_empty());
    assert!(files(&dir.path().join("tmp")).is_empty());
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ConnectionReset.into())
    }
}

#[test]
fn a_second_publisher_is_kept_out_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    alone(|| {
        let first = Publisher::open(dir.path()).unwrap();
        assert!(matches!(Publisher::open(dir.path()), Err(OpenError::Locked { .. })));
        drop(first);
        Publisher::open(dir.path()).unwrap();
    });
}

#[test]
fn a_damaged_blob_is_noticed_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    publish(&publisher, 1, b"model one");
    let blob = Blob::of(b"model one");
    let path = dir.path().join("blobs/sha256").join(blob.sha256.to_string());
    for damaged in [&b"model 0ne"[..], b"model", b"model one and more"] {
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(publisher.reader().blob(&blob), Err(ReadError::Damaged { .. })));
    }
    // A wrong size is seen without reading the bytes, and adding them again mends it.
    assert!(!publisher.has(&blob).unwrap());
    publisher.add(&blob, &b"model one"[..]).unwrap();
    assert_eq!(publisher.reader().blob(&blob).unwrap(), b"model one");
}

#[test]
fn a_current_that_is_no_release_is_an_error_and_not_a_release() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    let reader = publisher.reader();
    for target in ["/etc/passwd", "releases/../../x.json", "releases/07-ab.json", "releases/x"] {
        std::os::unix::fs::symlink(target, dir.path().join("current")).unwrap();
        assert!(matches!(reader.current(), Err(ReadError::Link { .. })), "{target}");
        std::fs::remove_file(dir.path().join("current")).unwrap();
    }
    let name = publish(&publisher, 1, b"model");
    std::fs::write(dir.path().join(format!("releases/{name}.json")), "{").unwrap();
    assert!(matches!(reader.current(), Err(ReadError::Release { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn collecting_keeps_the_live_release_the_previous_ones_and_all_their_blobs(
        artifacts in prop::collection::vec(0u8..6, 1..12),
        keep in 0usize..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let publisher = Publisher::open(dir.path()).unwrap();
        for (index, artifact) in artifacts.iter().enumerate() {
            publish(&publisher, index as u64, &[*artifact; 4]);
        }
        publisher.collect(keep).unwrap();
        facts::check(dir.path());
        prop_assert_eq!(files(&dir.path().join("releases")).len(), artifacts.len().min(keep + 1));
        let kept: BTreeSet<_> = artifacts.iter().rev().take(keep + 1).collect();
        // One card serves them all, since it depends on the artifact's length alone.
        prop_assert_eq!(files(&dir.path().join("blobs/sha256")).len(), kept.len() + 1);
        prop_assert_eq!(publisher.collect(keep).unwrap(), Default::default());
    }
}

#[test]
fn releases_of_one_commit_in_a_row_take_one_place_among_those_that_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    // Commit 2 three times, as when something comes to stand in, and commit 1 again after it.
    for (commit, artifact) in [(1, 0_u8), (2, 1), (2, 2), (2, 3), (1, 4), (3, 5), (3, 6)] {
        publish(&publisher, commit, &[artifact; 4]);
    }
    let kept = |keep| {
        publisher.collect(keep).unwrap();
        facts::check(dir.path());
        publisher.reader().releases().unwrap().into_iter().map(|name| name.seq).collect::<Vec<_>>()
    };
    assert_eq!(kept(9), [1, 4, 5, 7]);
    assert_eq!(kept(2), [4, 5, 7]);
    assert_eq!(kept(0), [7]);
}

#[test]
fn a_way_back_is_a_new_release_with_the_earlier_ones_content() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    let reader = publisher.reader();
    let first = publish(&publisher, 1, b"model one");
    let second = publish(&publisher, 2, b"model two");
    let before = facts::check(dir.path());
    let third = publisher.republish(&first).unwrap();
    facts::check_unchanged(&before, &facts::check(dir.path()));
    assert_eq!((third.seq, &third.commit), (3, &first.commit));
    let current = reader.current().unwrap().unwrap();
    assert!(current.release.serves_as(&release(1, b"model one").0));
    assert_eq!(current.release.rollback, Some(Rollback { from: second.clone(), to: first.clone() }));

    // A way back to a way back names where that led; what is not kept is no way back.
    publisher.republish(&second).unwrap();
    publisher.republish(&third).unwrap();
    assert_eq!(reader.current().unwrap().unwrap().release.rollback.unwrap().to, first);
    publisher.collect(0).unwrap();
    assert_eq!(reader.releases().unwrap().len(), 1);
    assert!(publisher.republish(&second).is_err());
    facts::check(dir.path());
}
