//! Ends the git worker with SIGKILL at the system calls of a fetch into its mirror, or has the disk refuse one of them, each
//! time as if anew: the next pass succeeds, and the store's three facts hold.
//!
//! Does so at some of the calls, spread over all of them; `MAINSTAY_TEST_EVERY_CALL=1` has it done at each. What follows is
//! a matter of what is then on the disk alone, so each such state is looked into once: most calls only read.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay_models::Digest;
use mainstay_sidecar::Control;
use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::git::{self, Git};
use nix::errno::Errno;

use crate::facts;
use crate::harness::{Bench, LONG, Repo, worker_program};
use crate::tracer::{Call, Kind, Stop, Tracee, begin, traced_store};

/// How many kills a fetch gets where not every call is asked for.
const KILLS: usize = 24;
/// How often each error of the disk is met likewise.
const REFUSALS: usize = 4;
/// More packs than a mirror may have: the next fetch makes a fresh one.
const MANY_PACKS: usize = 60;

/// The child: the worker, whose question is on its standard input.
#[test]
fn answers_under_the_tracer() {
    if traced_store().is_none() {
        return;
    }
    begin();
    git::worker::run();
}

/// A store with a release, a commit that it does not have yet, and the question that makes the worker fetch it.
struct Scene {
    bench: Bench,
    kept: tempfile::TempDir,
    question: Vec<u8>,
    before: facts::Seen,
    /// The states of the disk that have been looked into.
    states: BTreeSet<Digest>,
}

/// What becomes of a system call that the worker is about to do.
enum Fate {
    Done,
    Refused(Errno),
    Killed,
}

impl Scene {
    /// `change` is made to the worker's folder before the fetch.
    fn new(repo: &Repo, change: impl FnOnce(&Path)) -> Self {
        let mut bench = Bench::following(&repo.address());
        assert_eq!(bench.open().reconcile(), Pass::Published);
        repo.roll("1.1.0");
        let store = bench.settings.store.clone();
        change(&store.join("git"));
        let kept = tempfile::tempdir().unwrap();
        copy(&store, &kept.path().join("store"));
        let question = Self::question(&bench);
        bench.settings.interval = LONG;
        let scene = Self { before: facts::check(&store), bench, kept, question, states: BTreeSet::new() };
        scene.reset();
        scene
    }

    /// What the sidecar asks, taken down on its way to a worker.
    fn question(bench: &Bench) -> Vec<u8> {
        let (settings, folder) = (&bench.settings, tempfile::tempdir().unwrap());
        let file = folder.path().join("question");
        let tee = "tee \"$0\" | \"$1\"".to_owned();
        let [file_name, program] = [&file, &worker_program()].map(|path| path.display().to_string());
        let mut git = Git::new(
            git::Settings {
                program: PathBuf::from("/bin/sh"),
                worker_arguments: vec!["-c".to_owned(), tee, file_name, program],
                folder: settings.store.join("git"),
                lender: None,
                in_place: false,
                address: settings.repository.clone(),
                reference: settings.reference.clone(),
                credentials: settings.credentials.clone(),
                fetch_deadline: LONG,
                request_deadline: LONG,
                transfer_bytes_max: settings.transfer_bytes_max,
                pace: settings.pace,
                pace_bytes: settings.pace_bytes,
            },
            Control::new(),
        );
        git.fetch().unwrap();
        fs::read(file).unwrap()
    }

    fn reset(&self) {
        fs::remove_dir_all(&self.bench.settings.store).unwrap();
        copy(&self.kept.path().join("store"), &self.bench.settings.store);
    }

    /// Lets the worker do its system calls, each as `fate` has it, until it answers or ends.
    fn run(&self, mut fate: impl FnMut(usize, &Call) -> Fate) {
        self.reset();
        let (unread, mut stdin) = std::io::pipe().unwrap();
        let store = &self.bench.settings.store;
        let mut tracee = Tracee::start_with("kill::answers_under_the_tracer", store, Stdio::from(unread));
        stdin.write_all(&self.question).unwrap();
        for index in 0.. {
            match tracee.entry() {
                Stop::End(_) => return,
                Stop::Entry(call) if call.kind == Kind::Write && call.descriptor() == 1 => break,
                Stop::Entry(call) => match fate(index, &call) {
                    Fate::Done if tracee.exit().is_none() => return,
                    Fate::Done => {}
                    Fate::Refused(errno) => tracee.refuse(errno),
                    Fate::Killed => break,
                },
            }
        }
        tracee.kill();
    }

    /// What lies in the store, whenever it was written, and whatever the unfinished is called for the time being.
    fn state(&self) -> Digest {
        let (mut folders, mut state) = (vec![self.bench.settings.store.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let name = path.strip_prefix(&self.bench.settings.store).unwrap().display().to_string();
                let name = name.split("_git2_").next().unwrap().to_owned();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                let content = match () {
                    () if kind.is_symlink() => Digest::of(fs::read_link(&path).unwrap().as_os_str().as_bytes()),
                    () if kind.is_dir() => Digest::of(b"a folder"),
                    () => Digest::of(&fs::read(&path).unwrap()),
                };
                state.push(format!("{name} {content}"));
                if kind.is_dir() {
                    folders.push(path);
                }
            }
        }
        state.sort();
        Digest::of(state.join("\n").as_bytes())
    }

    /// What holds after a worker's end, however it came.
    fn check(&mut self, what: &str) {
        if !self.states.insert(self.state()) {
            return;
        }
        let store = &self.bench.settings.store;
        facts::check_unchanged(&self.before, &facts::check(store));
        assert_eq!(self.bench.serves().0, "1.0.0", "{what}: a fetch publishes nothing");
        assert_eq!(self.bench.open().reconcile(), Pass::Published, "{what}");
        assert_eq!(self.bench.serves().0, "1.1.0", "{what}");
        facts::check_unchanged(&self.before, &facts::check(store));
        assert!(!store.join("git/mirror.new").exists(), "{what}");
        let packs = fs::read_dir(self.bench.mirror().join("objects/pack")).unwrap().flatten();
        let left: Vec<_> = packs.map(|entry| entry.file_name()).filter(|name| is_partial(name)).collect();
        assert!(left.is_empty(), "{what}: {left:?} is left over");
    }
}

fn is_partial(name: &std::ffi::OsStr) -> bool {
    !Path::new(name).extension().is_some_and(|extension| extension == "pack" || extension == "idx")
}

/// Copies a folder with its links.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// The calls of a fetch that is left alone.
fn calls_of(scene: &mut Scene) -> Vec<Call> {
    let mut calls = Vec::new();
    scene.run(|_, call| {
        calls.push(*call);
        Fate::Done
    });
    scene.check("after its answer");
    calls
}

/// Some of so many, `wanted` of them unless every one is asked for.
fn some_of(all: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let every = std::env::var_os("MAINSTAY_TEST_EVERY_CALL").is_some();
    (0..all).step_by(if every { 1 } else { (all / wanted).max(1) })
}

/// Kills the worker at the calls of a fetch, and says how many there are.
fn kill_at_the_calls(change: impl FnOnce(&Path)) -> usize {
    let repo = Repo::serving_iris();
    let mut scene = Scene::new(&repo, change);
    let all = calls_of(&mut scene).len();
    for kill in some_of(all, KILLS) {
        // How many there are differs a little from run to run: one that has answered is as good.
        scene.run(|index, _| if index == kill { Fate::Killed } else { Fate::Done });
        scene.check(&format!("killed after {kill} of {all} calls"));
    }
    eprintln!("{all} calls, {} states of the disk", scene.states.len());
    all
}

/// Has the disk refuse the calls of a fetch, in each way in which it may.
fn refuse_the_calls(change: impl FnOnce(&Path)) {
    let repo = Repo::serving_iris();
    let mut scene = Scene::new(&repo, change);
    let calls = calls_of(&mut scene);
    for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EROFS, Errno::EIO, Errno::EMFILE] {
        let fitting = calls.iter().filter(|call| call.faults().contains(&errno)).count();
        assert!(fitting > 0, "no call can meet {errno}: does the tracer still see the work?");
        for refused in some_of(fitting, REFUSALS) {
            let mut met = 0;
            scene.run(|_, call| {
                let fits = call.faults().contains(&errno);
                met += usize::from(fits);
                if fits && met == refused + 1 { Fate::Refused(errno) } else { Fate::Done }
            });
            scene.check(&format!("{errno} at {refused} of {fitting} calls that can meet it"));
        }
    }
}

#[test]
fn a_kill_in_the_first_fetch_is_made_good_by_the_next_pass() {
    let calls = kill_at_the_calls(|git| fs::remove_dir_all(git).unwrap());
    assert!(calls > 200, "only {calls} calls: does the tracer still see the work?");
}

#[test]
fn a_disk_that_fails_in_the_first_fetch_is_made_good_by_the_next_pass() {
    refuse_the_calls(|git| fs::remove_dir_all(git).unwrap());
}

#[test]
fn a_disk_that_fails_in_a_fetch_into_a_mirror_is_made_good_by_the_next_pass() {
    refuse_the_calls(|_| {});
}

#[test]
fn a_kill_in_a_fetch_into_a_mirror_is_made_good_by_the_next_pass() {
    let calls = kill_at_the_calls(|_| {});
    assert!(calls > 100, "only {calls} calls: does the tracer still see the work?");
}

#[test]
fn a_kill_while_a_fresh_mirror_takes_the_place_of_one_with_many_packs_is_made_good_by_the_next_pass() {
    let calls = kill_at_the_calls(pile_up);
    assert!(calls > 200, "only {calls} calls: does the tracer still see the work?");
}

#[test]
fn a_disk_that_fails_while_a_fresh_mirror_takes_the_place_of_one_with_many_packs_is_made_good_by_the_next_pass() {
    refuse_the_calls(pile_up);
}

fn pile_up(git: &Path) {
    for number in 0..MANY_PACKS {
        fs::write(git.join(format!("mirror/objects/pack/pack-{number}.pack")), "").unwrap();
    }
}
