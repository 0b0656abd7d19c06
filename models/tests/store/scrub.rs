//! What the disk does to a store, and how it is found and mended.

use std::path::{Path, PathBuf};

use mainstay_models::store::PublishError;
use mainstay_models::{Blob, Publisher, Release};

use crate::{files, publish, release};

pub const GOOD: &[u8] = b"the first model";
pub const BAD: &[u8] = b"the f1rst model";

pub fn blob_path(root: &Path, bytes: &[u8]) -> PathBuf {
    root.join("blobs/sha256").join(Blob::of(bytes).sha256.to_string())
}

/// Scrubs until every blob has been looked at, and returns what was found and how much was read.
pub fn scrub(publisher: &Publisher, bytes_max: u64) -> (Vec<Blob>, u64) {
    let (mut damaged, mut bytes) = (Vec::new(), 0);
    loop {
        let step = publisher.scrub(bytes_max).unwrap();
        assert!(step.bytes <= bytes_max, "{step:?}");
        damaged.extend(step.damaged);
        bytes += step.bytes;
        if step.round_ended {
            return (damaged, bytes);
        }
    }
}

#[test]
fn a_scrub_reads_every_blob_of_every_release_in_small_steps_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    assert_eq!(scrub(&publisher, 10), (vec![], 0), "a store without releases is soon read");
    publish(&publisher, 1, GOOD);
    publish(&publisher, 2, &[7; 300_000]);
    // Needed by no release, so nobody's concern.
    publisher.add(&Blob::of(b"spare"), &b"spare"[..]).unwrap();
    let spare = |name: &String| *name == Blob::of(b"spare").sha256.to_string();
    let folder = dir.path().join("blobs/sha256");
    let sizes = files(&folder).into_iter().filter(|name| !spare(name)).map(|name| folder.join(name).metadata());
    let all: u64 = sizes.map(|metadata| metadata.unwrap().len()).sum();
    for bytes_max in [1000, 70_000, 1 << 30] {
        assert_eq!(scrub(&publisher, bytes_max), (vec![], all), "in steps of {bytes_max}");
    }
}

#[test]
fn a_flipped_bit_is_found_counts_as_absent_and_is_mended_by_adding() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    publish(&publisher, 1, GOOD);
    publish(&publisher, 2, b"the second one");
    let blob = Blob::of(GOOD);
    std::fs::write(blob_path(dir.path(), GOOD), BAD).unwrap();
    assert!(publisher.has(&blob).unwrap(), "its name and its size say nothing");

    assert_eq!(scrub(&publisher, 8).0, [blob]);
    assert_eq!(publisher.damaged(), [blob]);
    assert!(!publisher.has(&blob).unwrap());
    assert_eq!(publisher.lacking(&release(1, GOOD).0).unwrap(), [blob]);
    assert!(matches!(publisher.publish(&release(3, GOOD).0), Err(PublishError::Missing(_))));
    let asking: Vec<Release> = publisher.releases_that_need(&blob).unwrap();
    assert_eq!(asking, [release(1, GOOD).0]);
    // It stays in its place until there is something better.
    assert_eq!(std::fs::read(blob_path(dir.path(), GOOD)).unwrap(), BAD);
    publisher.add(&blob, BAD).unwrap_err();
    assert_eq!(std::fs::read(blob_path(dir.path(), GOOD)).unwrap(), BAD);

    publisher.add(&blob, GOOD).unwrap();
    assert_eq!(publisher.reader().blob(&blob).unwrap(), GOOD);
    assert!(publisher.has(&blob).unwrap() && publisher.damaged().is_empty());
    let aside = dir.path().join("quarantine").join(format!("1-{}", blob.sha256));
    assert_eq!(std::fs::read(aside).unwrap(), BAD);
    assert_eq!(scrub(&publisher, 1 << 20).0, []);
    publisher.publish(&release(3, GOOD).0).unwrap();
}

#[test]
fn a_lost_a_cut_and_an_unreadable_blob_are_found_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    publish(&publisher, 1, GOOD);
    let path = blob_path(dir.path(), GOOD);
    let harms: [fn(&Path); 4] = [
        |_| {},
        |path| std::fs::write(path, &GOOD[1..]).unwrap(),
        |path| std::fs::write(path, [GOOD, b"!"].concat()).unwrap(),
        |path| std::fs::create_dir(path).unwrap(),
    ];
    for harm in harms {
        std::fs::remove_file(&path).unwrap();
        harm(&path);
        assert_eq!(scrub(&publisher, 7).0, [Blob::of(GOOD)]);
        publisher.add(&Blob::of(GOOD), GOOD).unwrap();
        assert_eq!(scrub(&publisher, 7).0, []);
    }
}

#[test]
fn the_quarantine_keeps_the_last_few_and_never_by_their_digests() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    publish(&publisher, 1, GOOD);
    for damage in 0..7_u8 {
        std::fs::write(blob_path(dir.path(), GOOD), [damage; GOOD.len()]).unwrap();
        assert_eq!(scrub(&publisher, 1 << 20).0.len(), 1);
        publisher.add(&Blob::of(GOOD), GOOD).unwrap();
    }
    let digest = Blob::of(GOOD).sha256;
    let kept: Vec<_> = files(&dir.path().join("quarantine")).into_iter().collect();
    assert_eq!(kept, [4, 5, 6, 7].map(|number| format!("{number}-{digest}")));
}

#[test]
fn what_a_release_no_longer_needs_is_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    publish(&publisher, 1, GOOD);
    std::fs::write(blob_path(dir.path(), GOOD), BAD).unwrap();
    assert_eq!(scrub(&publisher, 1 << 20).0.len(), 1);
    publish(&publisher, 2, b"another");
    publisher.collect(0).unwrap();
    assert_eq!(publisher.damaged(), []);
    publish(&publisher, 3, GOOD);
    assert_eq!(publisher.reader().blob(&Blob::of(GOOD)).unwrap(), GOOD);
}

#[test]
fn a_damaged_earlier_release_keeps_nothing_from_being_collected() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    let first = publish(&publisher, 1, GOOD);
    publish(&publisher, 2, b"another");
    std::fs::write(dir.path().join(format!("releases/{first}.json")), "{").unwrap();
    assert_eq!(scrub(&publisher, 1 << 20).0, []);
    let collected = publisher.collect(5).unwrap();
    assert_eq!((collected.releases, collected.blobs), (1, 2));
    crate::facts::check(dir.path());
}

#[test]
fn a_swap_that_keeps_failing_leaves_no_releases_behind() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(dir.path()).unwrap();
    // No link can take the place of a folder.
    std::fs::create_dir(dir.path().join("current")).unwrap();
    let (release, blobs) = release(1, GOOD);
    for bytes in &blobs {
        publisher.add(&Blob::of(bytes), &bytes[..]).unwrap();
    }
    for _ in 0..5 {
        assert!(matches!(publisher.publish(&release), Err(PublishError::Io { .. })));
    }
    assert!(files(&dir.path().join("releases")).len() <= 1);
    std::fs::remove_dir(dir.path().join("current")).unwrap();
    publisher.publish(&release).unwrap();
    assert!(files(&dir.path().join("tmp")).is_empty());
}

#[test]
fn a_folder_among_the_temporary_files_does_not_keep_the_store_shut() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("tmp/made/by hand")).unwrap();
    Publisher::open(dir.path()).unwrap();
    assert!(files(&dir.path().join("tmp")).is_empty());
}
