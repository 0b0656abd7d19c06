//! Kills a publishing process with SIGKILL at random moments, and finds the store's three facts true each time.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use mainstay_models::{Blob, Publisher};
use rand::{RngExt, SeedableRng};

use crate::{facts, forking, publish};

/// Names the store to the child; its absence makes `publishes_until_killed` pass at once.
const STORE: &str = "MAINSTAY_TEST_KILLED_STORE";
const KILLS: usize = 200;

/// The child: publishes and collects without end. It says when it has begun, so that kills fall into the work.
#[test]
fn publishes_until_killed() {
    let Some(store) = std::env::var_os(STORE) else { return };
    let publisher = Publisher::open(store).unwrap();
    eprintln!("publishing");
    for commit in 0.. {
        let artifact: Vec<u8> = (0..200_000_u32).map(|i| (i.wrapping_mul(commit as u32 + 1) >> 7) as u8).collect();
        publish(&publisher, commit, &artifact);
        publisher.collect(1).unwrap();
    }
}

#[test]
fn two_hundred_kills_leave_the_three_facts_true() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let mut before = facts::Seen::new();
    let mut published = 0;
    for _ in 0..KILLS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kill::publishes_until_killed", "--nocapture", "--test-threads=1"]);
        command.env(STORE, dir.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = forking(|| command.spawn()).unwrap();
        let begun =
            BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok).any(|l| l == "publishing");
        assert!(begun, "the child could not open the store that its killed predecessor left");
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        child.kill().unwrap();
        child.wait().unwrap();

        let now = facts::check(dir.path());
        facts::check_unchanged(&before, &now);
        before = now;
        if let Some(name) = mainstay_models::Reader::new(dir.path()).current_name().unwrap() {
            assert!(name.seq >= published, "the live release went back");
            published = name.seq;
        }
    }
    assert!(published > 50, "the children published too little ({published}) for the kills to mean anything");
    let publisher = Publisher::open(dir.path()).unwrap();
    publisher.add(&Blob::of(b"after"), &b"after"[..]).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}
