//! Ends a publisher, or fails its disk, at every single system call of its work, and finds the store's three facts
//! true each time, and nothing in the way of finishing the work.

use std::error::Error;
use std::path::Path;

use mainstay_models::{Blob, Publisher, Reader};
use nix::errno::Errno;

use crate::tracer::{Call, Kind, Stop, Tracee, begin, mark, traced_store};
use crate::{alone, facts, files, forking, publish, release, scrub};

const ARTIFACT: &[u8] = b"the third model";
/// What the child ends with: it did its work, at once or after an error that it was told of.
const DONE: i32 = 0;
const DONE_AFTER_ERROR: i32 = 10;

/// A folder in memory where there is such a place, since thousands of syncs of a disk take long and show nothing more.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A store with a past: two releases, a blob that nothing needs, and what a killed publisher left aside.
pub fn seed(root: &Path) -> facts::Seen {
    let publisher = Publisher::open(root).unwrap();
    publish(&publisher, 1, b"first");
    publish(&publisher, 2, b"the second");
    publisher.add(&Blob::of(b"needed by none"), &b"needed by none"[..]).unwrap();
    drop(publisher);
    std::fs::write(root.join("tmp/left"), "half a blo").unwrap();
    facts::check(root)
}

/// Everything that a publisher does: add, publish, collect.
fn work(publisher: &Publisher) -> Result<(), Box<dyn Error>> {
    let (release, blobs) = release(3, ARTIFACT);
    for bytes in &blobs {
        publisher.add(&Blob::of(bytes), &bytes[..])?;
    }
    publisher.publish(&release)?;
    publisher.collect(1)?;
    Ok(())
}

/// The child: opens the store and works; after an error it tries once more, as the next pass would.
#[test]
fn opens_and_works_under_the_tracer() {
    let Some(root) = traced_store() else { return };
    begin();
    let mut opened = Publisher::open(&root);
    let first = match &opened {
        Ok(publisher) => work(publisher),
        Err(_) => Err("not opened".into()),
    };
    mark();
    let Err(_) = first else { std::process::exit(DONE) };
    if opened.is_err() {
        opened = Publisher::open(&root);
    }
    work(&opened.unwrap()).unwrap();
    std::process::exit(DONE_AFTER_ERROR);
}

pub fn start(root: &Path) -> Tracee {
    Tracee::start("calls::opens_and_works_under_the_tracer", root)
}

/// The facts after a disturbance: nothing that was there has changed, and the live release is the old or the new one.
fn check(root: &Path, before: &facts::Seen) {
    facts::check_unchanged(before, &facts::check(root));
    let live = Reader::new(root).current_name().unwrap().unwrap();
    assert!(live.seq >= 2, "the live release went back");
}

/// A publisher that opens the store now finishes the work, and leaves nothing lying about.
fn finish(root: &Path, before: &facts::Seen) {
    let publisher = Publisher::open(root).unwrap();
    assert!(files(&root.join("tmp")).is_empty());
    work(&publisher).unwrap();
    facts::check_unchanged(before, &facts::check(root));
    let current = publisher.reader().current().unwrap().unwrap();
    assert_eq!(current.release, release(3, ARTIFACT).0);
    assert!(files(&root.join("tmp")).is_empty());
    assert_eq!(files(&root.join("releases")).len(), 2);
    assert!(!files(&root.join("blobs/sha256")).contains(&Blob::of(b"needed by none").sha256.to_string()));
}

/// Something that a publisher does, and what must hold of it.
struct Work {
    /// Makes the store that it is done in, and tells what is in it.
    seed: fn(&Path) -> facts::Seen,
    /// Starts the child that does it.
    start: fn(&Path) -> Tracee,
    /// What holds whatever became of the child.
    check: fn(&Path, &facts::Seen),
    /// Does it, as the next publisher would, and finds it done.
    finish: fn(&Path, &facts::Seen),
}

impl Work {
    /// Starts the child while no test holds a lock.
    fn begin(&self, root: &Path) -> Tracee {
        forking(|| (self.start)(root))
    }
}

const PUBLISHING: Work = Work { seed, start, check, finish };
const ARRIVING: Work = Work { seed, start: start_receiving, check, finish: finish_receiving };
const MENDING: Work = Work { seed: seed_damage, start: start_mending, check: check_damage, finish: finish_mending };

/// Kills the child before and after each of its system calls, each time in a store of its own. Says how many kills there
/// were.
fn kill_at_each_call(work: &Work) -> usize {
    let mut kills = 0;
    for calls in 0.. {
        let mut killed = false;
        for done in [false, true] {
            let dir = folder();
            let before = alone(|| (work.seed)(dir.path()));
            let mut tracee = work.begin(dir.path());
            let mut skipped = 0;
            killed = loop {
                match tracee.entry() {
                    Stop::End(code) => panic!("the child ended with {code} at no system call"),
                    Stop::Entry(_) if skipped == calls => {
                        if done && tracee.exit().is_none() {
                            break false;
                        }
                        tracee.kill();
                        kills += 1;
                        break true;
                    }
                    Stop::Entry(_) => {
                        skipped += 1;
                        if tracee.exit().is_none() {
                            break false;
                        }
                    }
                }
            };
            alone(|| (work.check)(dir.path(), &before));
            alone(|| (work.finish)(dir.path(), &before));
        }
        if !killed {
            break;
        }
    }
    println!("{kills} kills");
    kills
}

#[test]
fn a_kill_at_any_system_call_leaves_the_three_facts_true_and_the_work_can_be_finished() {
    let kills = kill_at_each_call(&PUBLISHING);
    assert!(kills > 200, "only {kills} kills: does the tracer still see the work?");
}

/// The child: finds a damaged blob and replaces it; after an error it tries once more, as the next passes would.
#[test]
fn mends_under_the_tracer() {
    let Some(root) = traced_store() else { return };
    begin();
    let mut opened = Publisher::open(&root);
    let first = match &opened {
        Ok(publisher) => mend(publisher),
        Err(_) => Err("not opened".into()),
    };
    mark();
    let Err(_) = first else { std::process::exit(DONE) };
    if opened.is_err() {
        opened = Publisher::open(&root);
    }
    let publisher = opened.unwrap();
    // What could not be looked at in the round that the error fell into is found in the one after it.
    mend(&publisher).and_then(|()| mend(&publisher)).unwrap();
    std::process::exit(DONE_AFTER_ERROR);
}

/// Scrubs to the end of the round and replaces whatever is damaged.
fn mend(publisher: &Publisher) -> Result<(), Box<dyn Error>> {
    while !publisher.scrub(1 << 20)?.round_ended {}
    let good = release(1, scrub::GOOD).1;
    for blob in publisher.damaged() {
        // A disk that does not give a good blob's bytes makes that one damaged too.
        let bytes = good.iter().find(|bytes| Blob::of(bytes) == blob).unwrap();
        publisher.add(&blob, &bytes[..])?;
    }
    Ok(())
}

/// A release with a blob in which a bit has flipped; what it was before.
fn seed_damage(root: &Path) -> facts::Seen {
    publish(&Publisher::open(root).unwrap(), 1, scrub::GOOD);
    let before = facts::check(root);
    std::fs::write(scrub::blob_path(root, scrub::GOOD), scrub::BAD).unwrap();
    before
}

fn start_mending(root: &Path) -> Tracee {
    Tracee::start("calls::mends_under_the_tracer", root)
}

/// The damaged blob is in its place until the good one is, and the other one is good throughout.
fn check_damage(root: &Path, _: &facts::Seen) {
    let bytes = std::fs::read(scrub::blob_path(root, scrub::GOOD)).unwrap();
    assert!(bytes == scrub::GOOD || bytes == scrub::BAD);
    let [card, _] = release(1, scrub::GOOD).1;
    assert_eq!(std::fs::read(scrub::blob_path(root, &card)).unwrap(), card);
    assert_eq!(Reader::new(root).current_name().unwrap().unwrap().seq, 1);
}

fn finish_mending(root: &Path, before: &facts::Seen) {
    mend(&Publisher::open(root).unwrap()).unwrap();
    facts::check_unchanged(before, &facts::check(root));
    assert_eq!(std::fs::read(scrub::blob_path(root, scrub::GOOD)).unwrap(), scrub::GOOD);
    assert!(files(&root.join("tmp")).is_empty());
    // What was damaged is kept where the disk lets it be kept, which mending does not wait for.
    let quarantine = root.join("quarantine");
    assert!(!quarantine.exists() || files(&quarantine).len() <= 4);
}

#[test]
fn a_kill_at_any_system_call_of_mending_leaves_the_blob_in_its_place() {
    let kills = kill_at_each_call(&MENDING);
    assert!(kills > 100, "only {kills} kills: does the tracer still see the work?");
}

#[test]
fn a_full_or_failing_disk_at_any_system_call_of_mending_is_an_error_that_heals() {
    for (errno, least) in
        [(Errno::ENOSPC, 5), (Errno::EDQUOT, 5), (Errno::EROFS, 5), (Errno::EMFILE, 10), (Errno::EIO, 30)]
    {
        for lasts in [Lasts::Once, Lasts::On] {
            let faults = fail_each_call_of(&MENDING, errno, lasts);
            assert!(faults > least, "only {faults} faults of {errno}");
        }
    }
}

/// The child: receives a blob in two goes; after an error it tries once more, as the next pass would.
#[test]
fn receives_under_the_tracer() {
    let Some(root) = traced_store() else { return };
    begin();
    let mut opened = Publisher::open(&root);
    let first = match &opened {
        Ok(publisher) => receive(publisher),
        Err(_) => Err("not opened".into()),
    };
    mark();
    let Err(_) = first else { std::process::exit(DONE) };
    if opened.is_err() {
        opened = Publisher::open(&root);
    }
    receive(&opened.unwrap()).unwrap();
    std::process::exit(DONE_AFTER_ERROR);
}

fn receive(publisher: &Publisher) -> Result<(), Box<dyn Error>> {
    let blob = Blob::of(ARTIFACT);
    for end in [ARTIFACT.len() / 2, ARTIFACT.len()] {
        if publisher.has(&blob)? {
            return Ok(());
        }
        let mut incoming = publisher.receive(&blob)?;
        let begin = incoming.offset() as usize;
        incoming.write(&ARTIFACT[begin..end.max(begin)])?;
        if end == ARTIFACT.len() {
            incoming.finish()?;
        }
    }
    Ok(())
}

fn start_receiving(root: &Path) -> Tracee {
    Tracee::start("calls::receives_under_the_tracer", root)
}

/// A publisher that opens the store now goes on with the arrival, and leaves nothing lying about.
fn finish_receiving(root: &Path, before: &facts::Seen) {
    receive(&Publisher::open(root).unwrap()).unwrap();
    facts::check_unchanged(before, &facts::check(root));
    assert_eq!(Reader::new(root).blob(&Blob::of(ARTIFACT)).unwrap(), ARTIFACT);
    assert!(files(&root.join("partial")).is_empty());
    assert!(files(&root.join("tmp")).is_empty());
}

#[test]
fn a_kill_at_any_system_call_of_an_arrival_leaves_the_three_facts_true_and_it_goes_on() {
    let kills = kill_at_each_call(&ARRIVING);
    assert!(kills > 100, "only {kills} kills: does the tracer still see the work?");
}

#[test]
fn a_full_or_failing_disk_at_any_system_call_of_an_arrival_is_an_error_that_heals() {
    for (errno, least) in
        [(Errno::ENOSPC, 8), (Errno::EDQUOT, 8), (Errno::EROFS, 8), (Errno::EMFILE, 8), (Errno::EIO, 30)]
    {
        for lasts in [Lasts::Once, Lasts::On] {
            let faults = fail_each_call_of(&ARRIVING, errno, lasts);
            assert!(faults > least, "only {faults} faults of {errno}");
        }
    }
}

/// How long a fault lasts.
#[derive(Clone, Copy, PartialEq)]
enum Lasts {
    /// For one call.
    Once,
    /// For every later call that it can fail, until the first attempt has ended.
    On,
}

/// Fails one call after the other of the whole work with `errno`, and says how often it did.
fn fail_each_call(errno: Errno, lasts: Lasts) -> usize {
    fail_each_call_of(&PUBLISHING, errno, lasts)
}

fn fail_each_call_of(work: &Work, errno: Errno, lasts: Lasts) -> usize {
    let mut faults = 0;
    let fits = |call: &Call| call.faults().contains(&errno);
    for calls in 0.. {
        let dir = folder();
        let before = alone(|| (work.seed)(dir.path()));
        let mut tracee = work.begin(dir.path());
        let mut met = 0;
        let mut trying = true;
        let mut what = None;
        let code = loop {
            let call = match tracee.entry() {
                Stop::End(code) => break code,
                Stop::Entry(call) => call,
            };
            trying &= call.kind != Kind::Mark;
            let fitting = trying && fits(&call);
            met += usize::from(fitting);
            if fitting && (met == calls + 1 || lasts == Lasts::On && met > calls) {
                what.get_or_insert(call);
                tracee.refuse(errno);
                alone(|| (work.check)(dir.path(), &before));
            } else if tracee.exit().is_none() {
                break DONE;
            }
        };
        let Some(call) = what else {
            assert_eq!(code, DONE);
            break;
        };
        faults += 1;
        assert!(matches!(code, DONE | DONE_AFTER_ERROR), "{errno} at {call:?}: the child ended with {code}");
        alone(|| (work.check)(dir.path(), &before));
        alone(|| (work.finish)(dir.path(), &before));
    }
    println!("{faults} faults of {errno}");
    faults
}

#[test]
fn a_full_disk_at_any_system_call_is_an_error_that_heals() {
    assert!(fail_each_call(Errno::ENOSPC, Lasts::Once) > 15);
    assert!(fail_each_call(Errno::ENOSPC, Lasts::On) > 15);
}

#[test]
fn a_used_up_quota_at_any_system_call_is_an_error_that_heals() {
    assert!(fail_each_call(Errno::EDQUOT, Lasts::Once) > 15);
}

#[test]
fn a_disk_that_turns_read_only_at_any_system_call_is_an_error_that_heals() {
    assert!(fail_each_call(Errno::EROFS, Lasts::Once) > 10);
    assert!(fail_each_call(Errno::EROFS, Lasts::On) > 10);
}

#[test]
fn no_file_descriptor_left_at_any_system_call_is_an_error_that_heals() {
    assert!(fail_each_call(Errno::EMFILE, Lasts::Once) > 10);
    assert!(fail_each_call(Errno::EMFILE, Lasts::On) > 10);
}

#[test]
fn an_error_of_the_disk_at_any_system_call_is_an_error_that_heals() {
    assert!(fail_each_call(Errno::EIO, Lasts::Once) > 50);
    assert!(fail_each_call(Errno::EIO, Lasts::On) > 50);
}

#[test]
fn a_lock_that_cannot_be_had_is_an_error_that_heals() {
    assert_eq!(fail_each_call(Errno::ENOLCK, Lasts::Once), 1);
}
