//! Ends the git worker with SIGKILL at the system calls of a fetch into its mirror, each time as if anew: the next pass
//! succeeds, and the store's three facts hold.
//!
//! Kills at some of the calls, spread over all of them; `MAINSTAY_TEST_EVERY_CALL=1` has it kill at each.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay_sidecar::Control;
use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::git::{self, Git};

use crate::facts;
use crate::harness::{Bench, LONG, Repo, worker_program};
use crate::tracer::{Kind, Stop, Tracee, begin, traced_store};

/// How many kills a fetch gets where not every call is asked for.
const KILLS: usize = 24;
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
        let scene = Self { before: facts::check(&store), bench, kept, question };
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

    /// Lets the worker do `calls` system calls and kills it there; how many it did, if it had answered by then.
    fn kill_after(&self, calls: usize) -> Option<usize> {
        self.reset();
        let (unread, mut stdin) = std::io::pipe().unwrap();
        let store = &self.bench.settings.store;
        let mut tracee = Tracee::start_with("kill::answers_under_the_tracer", store, Stdio::from(unread));
        stdin.write_all(&self.question).unwrap();
        let mut done = 0;
        let answered = loop {
            match tracee.entry() {
                Stop::End(code) => panic!("the worker ended with {code} after {done} calls"),
                Stop::Entry(call) if call.kind == Kind::Write && call.descriptor() == 1 => break Some(done),
                Stop::Entry(_) if done == calls => break None,
                Stop::Entry(_) => {
                    assert!(tracee.exit().is_some());
                    done += 1;
                }
            }
        };
        tracee.kill();
        answered
    }

    /// What holds after a kill.
    fn check(&self, what: &str) {
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

/// Kills the worker at the calls of a fetch, and says how many there are.
fn kill_at_the_calls(change: impl FnOnce(&Path)) -> usize {
    let repo = Repo::serving_iris();
    let scene = Scene::new(&repo, change);
    let all = scene.kill_after(usize::MAX).expect("it answers");
    scene.check("after its answer");
    let every = std::env::var_os("MAINSTAY_TEST_EVERY_CALL").is_some();
    for kill in (0..all).step_by(if every { 1 } else { (all / KILLS).max(1) }) {
        // How many there are differs a little from run to run: one that has answered is as good.
        scene.kill_after(kill);
        scene.check(&format!("killed after {kill} of {all} calls"));
    }
    all
}

#[test]
fn a_kill_in_the_first_fetch_is_made_good_by_the_next_pass() {
    let calls = kill_at_the_calls(|git| fs::remove_dir_all(git).unwrap());
    assert!(calls > 200, "only {calls} calls: does the tracer still see the work?");
}

#[test]
fn a_kill_in_a_fetch_into_a_mirror_is_made_good_by_the_next_pass() {
    let calls = kill_at_the_calls(|_| {});
    assert!(calls > 100, "only {calls} calls: does the tracer still see the work?");
}

#[test]
fn a_kill_while_a_fresh_mirror_takes_the_place_of_one_with_many_packs_is_made_good_by_the_next_pass() {
    let calls = kill_at_the_calls(|git| {
        for number in 0..MANY_PACKS {
            fs::write(git.join(format!("mirror/objects/pack/pack-{number}.pack")), "").unwrap();
        }
    });
    assert!(calls > 200, "only {calls} calls: does the tracer still see the work?");
}
