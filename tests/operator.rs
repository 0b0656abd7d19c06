//! The operator's commands, against real programs that follow a real repository.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should stop")]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mainstay_models::embedded;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Long enough for anything that is expected to happen.
const LONG: Duration = Duration::from_secs(60);

/// One of the two programs; killed when the test ends.
struct Program {
    child: Child,
    admin: String,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mainstay"))
            .args(["--log-format", "json"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (found, admin) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // Ends with the program.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("{line}");
                if let Some(admin) = serde_json::from_str::<Value>(&line)
                    .ok()
                    .and_then(|event| event["admin"].as_str().map(|address| format!("http://{address}")))
                {
                    let _ = found.send(admin);
                }
            }
        });
        let admin = admin.recv_timeout(LONG).expect("the program says where it listens");
        Self { child, admin }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration repository with the shipped irises, a sidecar that looks when it is told to, and a server.
struct Place {
    folder: TempDir,
    sidecar: Program,
    server: Program,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let repo = folder.path().join("config");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "--quiet", "--initial-branch=main", "."]);
        for model in embedded::MODELS.iter().filter(|model| model.name == "iris") {
            let folder = repo.join(format!("models/iris/{}", model.version));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("model.yaml"), model.spec).unwrap();
            std::fs::write(folder.join("model.onnx"), model.artifact).unwrap();
        }
        serve(&repo, "1.0.0", "");
        let store = folder.path().join("store");
        let store = store.to_str().unwrap();
        let server = Program::start(&["serve", "--store", store, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let address = format!("file://{}", repo.display());
        let sidecar = Program::start(&[
            "sync",
            "--repo",
            &address,
            "--env",
            "prod",
            "--store",
            store,
            "--interval",
            "1h",
            "--admin",
            "127.0.0.1:0",
            "--server",
            &server.admin,
        ]);
        Self { folder, sidecar, server }
    }

    fn repo(&self) -> std::path::PathBuf {
        self.folder.path().join("config")
    }

    /// The exit code and the words of a command that asks this place's sidecar.
    fn ask(&self, arguments: &[&str]) -> (i32, String) {
        mainstay(&[arguments, &["--sidecar", &self.sidecar.admin]].concat())
    }

    fn wait_for(&self, commit: &str) {
        let (code, words) = self.ask(&["wait", "--for", "live", "--commit", commit, "--timeout", "60s"]);
        assert_eq!(code, 0, "{words}");
    }
}

fn git(repo: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(repo)
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Commits that iris is to be at `version`, and gives the commit.
fn serve(repo: &Path, version: &str, policy: &str) -> String {
    let text = format!("apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n    stable: {version}\n{policy}");
    std::fs::create_dir_all(repo.join("environments/prod")).unwrap();
    std::fs::write(repo.join("environments/prod/serving.yaml"), text).unwrap();
    git(repo, &["add", "--all"]);
    git(repo, &["commit", "--quiet", "--message", &format!("Serve iris {version}")]);
    git(repo, &["rev-parse", "HEAD"])
}

fn mainstay(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mainstay")).args(arguments).output().unwrap();
    let words = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(words).unwrap())
}

#[test]
fn an_operator_rolls_back_holds_and_resumes() {
    let place = Place::new();
    let first = git(&place.repo(), &["rev-parse", "HEAD"]);
    place.wait_for(&first);
    let (code, words) = place.ask(&["status", "--server", &place.server.admin]);
    assert_eq!(code, 0, "{words}");
    for expected in ["Synced", "Healthy", &format!("1-{first}"), "Serve iris 1.0.0", "MODEL", "live"] {
        assert!(words.contains(expected), "{expected} is not in\n{words}");
    }
    assert!(!words.contains('\u{1b}'), "no colour but on a terminal");

    let second = serve(&place.repo(), "1.1.0", "");
    let (code, words) = place.ask(&["sync-now"]);
    assert_eq!((code, words.contains("published: ")), (0, true), "{words}");
    place.wait_for(&second[..10]);

    // Back without git, to a version that the server has tried before.
    std::fs::rename(place.repo().join(".git"), place.repo().join("away")).unwrap();
    let started = Instant::now();
    let (code, words) = place.ask(&["rollback", "--local"]);
    assert_eq!((code, words.contains(&format!("rolled back from 2-{second} to 1-{first}"))), (0, true), "{words}");
    eprintln!("`mainstay rollback`, with the start of the process: {:?}", started.elapsed());
    place.wait_for(&first);
    eprintln!("and until `mainstay wait` says that it is live: {:?}", started.elapsed());
    std::fs::rename(place.repo().join("away"), place.repo().join(".git")).unwrap();

    let (code, words) = place.ask(&["sync-now"]);
    assert_eq!((code, words.contains("held back by rollback")), (1, true), "{words}");
    let (code, words) = place.ask(&["diff"]);
    assert_eq!(code, 1, "{words}");
    assert!(words.lines().any(|line| line.split_whitespace().eq(["iris", "stable", "1.0.0", "1.1.0"])), "{words}");
    let (code, words) = place.ask(&["history"]);
    assert_eq!(code, 0);
    let lines: Vec<_> = words.lines().collect();
    assert_eq!(lines.len(), 4, "{words}");
    assert!(lines[1].starts_with("3 ") && lines[1].contains('*') && lines[1].contains("(rolled back to 1)"), "{words}");
    let (code, words) = place.ask(&["wait", "--commit", &second, "--timeout", "100ms"]);
    assert_eq!((code, words.contains("rolled back from 2 to 1")), (1, true), "{words}");

    let (code, words) = place.ask(&["resume"]);
    assert_eq!((code, words.contains("lifted the rollback's hold")), (0, true), "{words}");
    place.wait_for(&second);
    assert_eq!(place.ask(&["diff"]), (0, place.ask(&["diff"]).1));
    assert!(place.ask(&["diff"]).1.contains("no difference"));

    assert_eq!(place.ask(&["hold", "--reason", "the audit"]).0, 0);
    serve(&place.repo(), "1.0.0", "");
    let (code, words) = place.ask(&["sync-now"]);
    assert_eq!((code, words.contains("held back by operator: the audit")), (1, true), "{words}");
    let (code, words) = place.ask(&["status", "--json"]);
    let status: Value = serde_json::from_str(&words).unwrap();
    assert_eq!((code, &status[0]["answer"]["hold"]["operator"]["reason"]), (1, &"the audit".into()));
    assert_eq!(place.ask(&["resume"]).0, 0);
    let (code, words) = place.ask(&["rollback", "99"]);
    assert_eq!((code, words.contains("`mainstay history` lists them")), (1, true), "{words}");
}

#[test]
fn a_hangup_is_a_look_at_the_repository_and_not_the_end() {
    let place = Place::new();
    place.wait_for(&git(&place.repo(), &["rev-parse", "HEAD"]));
    for version in ["1.1.0", "1.0.0"] {
        let commit = serve(&place.repo(), version, "");
        place.sidecar.signal(Signal::HUP);
        place.wait_for(&commit);
    }
    // Several pods: each is asked, and the worst answer is the exit code.
    let other = Place::new();
    let (code, words) = place.ask(&["wait", "--sidecar", &other.sidecar.admin]);
    assert_eq!((code, words.matches("Synced and Healthy").count()), (0, 2), "{words}");
    let admin = other.sidecar.admin.clone();
    drop(other);
    let (code, words) = place.ask(&["status", "--sidecar", &admin]);
    assert_eq!((code, words.contains("Healthy"), words.contains("cannot reach")), (2, true, true), "{words}");
}

#[test]
fn a_manual_change_waits_for_sync_now_and_not_for_a_look() {
    let place = Place::new();
    place.wait_for(&git(&place.repo(), &["rev-parse", "HEAD"]));
    let commit = serve(&place.repo(), "1.1.0", "sync: manual\n");
    let (code, words) = place.ask(&["sync-now", "--look"]);
    assert_eq!((code, words.contains("held back by manual")), (1, true), "{words}");
    assert_eq!(place.ask(&["sync-now"]).0, 0);
    place.wait_for(&commit);
}

#[test]
fn any_commit_can_be_held_against_what_is_live() {
    let place = Place::new();
    let first = git(&place.repo(), &["rev-parse", "HEAD"]);
    place.wait_for(&first);
    git(&place.repo(), &["checkout", "--quiet", "-b", "next"]);
    let next = serve(&place.repo(), "1.1.0", "");
    // A version whose clients must change, and then one that no sidecar would take.
    let card = embedded::MODELS.iter().find(|model| (model.name, model.version) == ("iris", "1.1.0")).unwrap();
    let text = std::str::from_utf8(card.spec).unwrap();
    let text = text.replacen("version: 1.1.0", "version: 2.0.0", 1).replace("unit: cm", "unit: inch");
    let folder = place.repo().join("models/iris/2.0.0");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.yaml"), text).unwrap();
    std::fs::write(folder.join("model.onnx"), card.artifact).unwrap();
    let breaking = serve(&place.repo(), "2.0.0", "");
    let broken = serve(&place.repo(), "3.0.0", "");
    git(&place.repo(), &["branch", "broken"]);
    git(&place.repo(), &["tag", "breaking", &breaking]);
    git(&place.repo(), &["reset", "--quiet", "--hard", &next]);
    git(&place.repo(), &["checkout", "--quiet", "main"]);

    for same in ["main", &first, &first[..10]] {
        let (code, words) = place.ask(&["diff", same]);
        assert_eq!((code, words.contains("no difference")), (0, true), "{same}: {words}");
    }
    let (code, words) = place.ask(&["diff", "next"]);
    assert_eq!(code, 1, "{words}");
    let has = |words: &str, cells: &[&str]| words.lines().any(|line| line.split_whitespace().eq(cells.iter().copied()));
    assert!(has(&words, &["iris", "stable", "1.0.0", "1.1.0"]), "{words}");
    assert!(words.contains(&format!("against  {} Serve iris 1.1.0", &next[..10])), "{words}");
    assert!(words.contains("0.9467") && !words.contains("breaking"), "{words}");

    let (code, words) = place.ask(&["diff", "breaking", "--json"]);
    assert_eq!(code, 1, "{words}");
    let difference = serde_json::from_str::<Value>(&words).unwrap()[0]["answer"].take();
    assert_eq!((&difference["live"]["id"], &difference["asked"]), (&first.as_str().into(), &breaking.as_str().into()));
    assert_eq!(difference["models"][0]["to"], "2.0.0");
    let breaks = difference["changes"][0]["breaking"][0].as_str().unwrap();
    assert!(
        breaks.starts_with("the unit of feature `") && breaks.ends_with("was `cm` and would be `inch`"),
        "{breaks}"
    );
    let (_, words) = place.ask(&["diff", "breaking"]);
    assert!(words.contains("breaking: iris: the unit of feature"), "{words}");

    let (code, words) = place.ask(&["diff", "broken"]);
    assert_eq!((code, words.contains(&broken[..10])), (1, true), "{words}");
    let expected =
        "would be refused: environments/prod/serving.yaml: 5: models.iris.stable: models/iris/3.0.0/model.yaml";
    assert!(words.contains(expected), "{words}");
    let (code, words) = place.ask(&["diff", "nobody"]);
    assert_eq!((code, words.contains("nobody")), (1, true), "{words}");
    // Nothing of that went live.
    assert_eq!(place.ask(&["wait", "--commit", &first]).0, 0);
}

#[test]
fn nobody_there_and_a_wrong_command_line_have_codes_of_their_own() {
    // Held, and nobody listens there: no other test can be given it.
    let held = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&held, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let url = format!("http://{}", SocketAddr::try_from(getsockname(&held).unwrap()).unwrap());
    for arguments in
        [&["status"][..], &["diff"], &["diff", "main"], &["history"], &["sync-now"], &["rollback"], &["resume"]]
    {
        let (code, words) = mainstay(&[arguments, &["--sidecar", &url]].concat());
        assert_eq!((code, words.contains("cannot reach")), (2, true), "{arguments:?}: {words}");
    }
    assert_eq!(mainstay(&["wait", "--timeout", "10ms", "--sidecar", &url]).0, 2);
    for wrong in [
        &["status", "--sidecar", "ftp://somewhere"][..],
        &["hold"],
        &["wait", "--commit", "HEAD"],
        &["wait", "--for", "ever"],
        &["completions", "csh"],
        &["man", "nothing"],
    ] {
        assert_eq!(mainstay(wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, words) = mainstay(&["completions", shell]);
        assert_eq!((code, words.contains("rollback") && words.contains("sync-now")), (0, true), "{shell}");
    }
    let (code, page) = mainstay(&["man"]);
    assert_eq!((code, page.starts_with(".ie")), (0, true), "{}", &page[..60]);
    assert!(page.contains("rollback") && !page.contains("git\\-worker"));
    let (code, page) = mainstay(&["man", "rollback"]);
    assert_eq!((code, page.contains("mainstay\\-rollback") && page.contains("RELEASE")), (0, true), "{page}");
}
