//! What the tests are written in: a configuration repository to commit to, a sidecar to follow it, a store to look at.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay_models::store::Current;
use mainstay_models::{Blob, CommitId, Digest, Reader};
use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::board::Board;
use mainstay_sidecar::git::{self, Git};
use mainstay_sidecar::{Control, Credentials, Outcome, Settings, Sidecar, Status};
use tempfile::TempDir;

/// Long enough for anything that is expected to happen; waiting this long means that it did not.
pub const LONG: Duration = Duration::from_secs(20);

/// The worker, which cargo builds beside the tests as an example.
pub fn worker_program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples/git-worker");
    assert!(program.exists(), "run `cargo build -p mainstay-sidecar --example git-worker` first");
    program
}

/// A working clone of a configuration repository, and the repository itself.
pub struct Repo {
    folder: TempDir,
}

impl Repo {
    pub fn new() -> Self {
        let repo = Self { folder: TempDir::new().unwrap() };
        repo.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repo
    }

    /// A repository whose environment `prod` serves iris 1.0.0.
    pub fn serving_iris() -> Self {
        let repo = Self::new();
        repo.write_model("iris", "1.0.0", b"first forest");
        repo.serve("iris", "1.0.0");
        repo.commit("Serve iris 1.0.0");
        repo
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn address(&self) -> String {
        format!("file://{}", self.path().display())
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.path())
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "Ada")
            .env("GIT_AUTHOR_EMAIL", "ada@example.org")
            .env("GIT_COMMITTER_NAME", "Ada")
            .env("GIT_COMMITTER_EMAIL", "ada@example.org")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn commit(&self, subject: &str) -> CommitId {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", subject]);
        self.head()
    }

    pub fn head(&self) -> CommitId {
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    /// A model.yaml and a model.onnx that belong together. The sidecar does not look into the latter.
    pub fn write_model(&self, name: &str, version: &str, artifact: &[u8]) {
        self.write_spec(name, version, Blob::of(artifact));
        self.write(&format!("models/{name}/{version}/model.onnx"), artifact);
    }

    /// A model.yaml that promises `artifact`.
    pub fn write_spec(&self, name: &str, version: &str, artifact: Blob) {
        let shipped = mainstay_models::embedded::MODELS[0];
        let text = String::from_utf8(shipped.spec.to_vec()).unwrap();
        let shipped = Blob::of(shipped.artifact);
        let text = text
            .replacen("name: iris", &format!("name: {name}"), 1)
            .replacen("version: 1.0.0", &format!("version: {version}"), 1)
            .replacen(&shipped.sha256.to_string(), &artifact.sha256.to_string(), 1)
            .replacen(&shipped.size_bytes.to_string(), &artifact.size_bytes.to_string(), 1);
        self.write(&format!("models/{name}/{version}/model.yaml"), text);
    }

    pub fn serve(&self, name: &str, version: &str) {
        self.write("environments/prod/serving.yaml", serving(name, version));
    }

    /// Rolls iris to a new version.
    pub fn roll(&self, version: &str) -> CommitId {
        self.write_model("iris", version, format!("forest {version}").as_bytes());
        self.serve("iris", version);
        self.commit(&format!("Roll iris to {version}"))
    }
}

pub fn serving(name: &str, version: &str) -> String {
    format!("apiVersion: mainstay/v1\ndefault: {name}\nmodels:\n  {name}:\n    stable: {version}\n")
}

/// A sidecar's surroundings: a folder for its store, and what it is told.
pub struct Bench {
    folder: TempDir,
    pub settings: Settings,
    pub control: Control,
}

impl Bench {
    pub fn following(address: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let store = folder.path().join("store");
        let environment = "prod".parse().unwrap();
        let mut settings = Settings::new(address.parse().unwrap(), environment, store, worker_program());
        settings.worker_arguments.clear();
        settings.interval = Duration::from_millis(50);
        Self { folder, settings, control: Control::new() }
    }

    /// A sidecar that holds the store. A child that another test forks has a copy of every lock until its own program
    /// runs, so a lock that was let go of just now may be held a moment longer.
    pub fn open(&self) -> Sidecar {
        eventually("the store is free", || {
            let sidecar = Sidecar::open(self.settings.clone(), self.control.clone()).unwrap();
            sidecar.agent().is_some().then_some(sidecar)
        })
    }

    pub fn reader(&self) -> Reader {
        Reader::new(&self.settings.store)
    }

    pub fn current(&self) -> Current {
        self.reader().current().unwrap().expect("a release is published")
    }

    /// The stable version of the default model that is published, and its artifact.
    pub fn serves(&self) -> (String, Vec<u8>) {
        let release = self.current().release;
        let model = &release.models[&release.default];
        let artifact = self.reader().blob(&model.versions[&model.stable].artifact).unwrap();
        (model.stable.to_string(), artifact)
    }

    pub fn mirror(&self) -> PathBuf {
        self.settings.store.join("git/mirror")
    }
}

/// A port of the system's choice.
pub const LOCAL: &str = "127.0.0.1:0";

/// A sidecar that looks at git only when it is told to.
pub struct Patient {
    pub bench: Bench,
    pub board: Arc<Board>,
    pub admin: SocketAddr,
    pub webhook: Option<SocketAddr>,
    running: Option<JoinHandle<Outcome>>,
}

impl Patient {
    pub fn following(repo: &str, change: impl FnOnce(&mut Bench)) -> Self {
        let mut bench = Bench::following(repo);
        bench.settings.interval = Duration::from_secs(3600);
        bench.settings.admin = Some(LOCAL.parse().unwrap());
        change(&mut bench);
        let sidecar = bench.open();
        let (board, admin) = (sidecar.board(), sidecar.admin_address().unwrap());
        let webhook = sidecar.webhook_address();
        let running = Some(std::thread::spawn(move || sidecar.run()));
        Self { bench, board, admin, webhook, running }
    }

    pub fn serves(&self, version: &str) {
        eventually(version, || {
            let status = self.board.status();
            let release = status.release.as_ref()?;
            (release.models.values().next()?.stable.to_string() == version).then_some(())
        });
    }

    /// Ends it, and keeps its store.
    pub fn stop(mut self) -> TempDir {
        std::mem::replace(&mut self.bench.folder, TempDir::new().unwrap())
    }

    /// Has a pass made, and waits for its end.
    pub fn look(&self, order: &str) {
        let (code, body) = post(self.admin, "/sync", &[], order);
        assert_eq!(code, 202, "{body}");
        self.answered(serde_json::from_str::<serde_json::Value>(&body).unwrap()["trigger"].as_u64().unwrap());
    }

    /// Gives an order that is followed, and the answer.
    pub fn order(&self, path: &str, body: &str) -> serde_json::Value {
        let (code, text) = post(self.admin, path, &[], body);
        assert_eq!(code, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The status as an operator reads it.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&get(self.admin, "/status").1).unwrap()
    }

    pub fn answered(&self, trigger: u64) {
        eventually("the pass that answers", || (self.board.status().last_pass?.trigger >= trigger).then_some(()));
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.bench.control.stop();
        let running = self.running.take().unwrap().join();
        assert!(running.is_ok() || std::thread::panicking());
    }
}

/// Git alone, for what a pass does not show.
pub fn git(folder: &Path, address: &str, reference: &str) -> Git {
    git_with(folder, address, reference, Credentials::default(), LONG)
}

pub fn git_with(folder: &Path, address: &str, reference: &str, credentials: Credentials, deadline: Duration) -> Git {
    Git::new(git_settings(folder, address, reference, credentials, deadline), Control::new())
}

/// Git alone, which has what the worker in `lender` has.
pub fn git_borrowing(folder: &Path, address: &str, reference: &str, lender: &Path) -> Git {
    let settings = git_settings(folder, address, reference, Credentials::default(), LONG);
    Git::new(git::Settings { lender: Some(lender.join("git")), ..settings }, Control::new())
}

fn git_settings(
    folder: &Path,
    address: &str,
    reference: &str,
    credentials: Credentials,
    deadline: Duration,
) -> git::Settings {
    git::Settings {
        program: worker_program(),
        worker_arguments: Vec::new(),
        folder: folder.join("git"),
        lender: None,
        in_place: false,
        address: address.parse().unwrap(),
        reference: reference.parse().unwrap(),
        credentials,
        fetch_deadline: deadline,
        request_deadline: deadline,
        transfer_bytes_max: 10 << 20,
        pace: LONG,
        pace_bytes: 1,
    }
}

/// The files in a folder, and in all that it holds.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

pub fn refusal(pass: Pass) -> String {
    match pass {
        Pass::Refused(refusal) => refusal.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub fn retry(pass: Pass) -> String {
    match pass {
        Pass::Retry(problem) => problem,
        other => panic!("expected a retry, got {other:?}"),
    }
}

/// Waits until `done` says so.
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(started.elapsed() < LONG, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The whole answer to a GET.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The whole answer to a POST with some headers.
pub fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A stand-in that answers each HTTP request with what `answer` makes of it, and remembers the requests.
pub struct Responder {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Responder {
    pub fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut piece = [0; 1024];
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(count) if count > 0 => request.extend_from_slice(&piece[..count]),
                        _ => break,
                    }
                }
                // A connection that is closed with something unread takes its answer with it.
                let head = request.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                while request.len() < head + length.unwrap_or(0) {
                    match stream.read(&mut piece) {
                        Ok(count) if count > 0 => request.extend_from_slice(&piece[..count]),
                        _ => break,
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let reply = answer(&request);
                log.lock().unwrap().push(request);
                let _ = stream.write_all(reply.as_bytes());
            }
        });
        Self { address, requests }
    }
}

pub fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// A stand-in for the server, which has taken what it is told that it has.
#[derive(Clone, Default)]
pub struct FakeServer {
    taken: Arc<Mutex<Option<(String, Digest)>>>,
    failed: Arc<Mutex<BTreeMap<String, String>>>,
}

impl FakeServer {
    pub fn start(&self) -> String {
        let server = self.clone();
        let responder = Responder::start(move |_| http("200 OK", "", &server.page()));
        format!("http://{}", responder.address)
    }

    pub fn take(&self, current: &Current) {
        *self.taken.lock().unwrap() = Some((current.name.to_string(), current.sha256));
    }

    pub fn fail(&self, model: &str, reason: &str) {
        self.failed.lock().unwrap().insert(model.to_owned(), reason.to_owned());
    }

    pub fn page(&self) -> String {
        let release = match &*self.taken.lock().unwrap() {
            Some((name, sha256)) => format!(r#"{{"name":"{name}","sha256":"{sha256}","commit":"-"}}"#),
            None => "null".to_owned(),
        };
        let models: Vec<_> = (self.failed.lock().unwrap().iter())
            .map(|(name, reason)| {
                format!(r#"{{"name":"{name}","version":"1.0.0","state":"failed","reason":"{reason}","more":1}}"#)
            })
            .collect();
        format!(r#"{{"release":{release},"models":[{}],"more":{{}}}}"#, models.join(","))
    }
}

/// A stand-in for a fresh server, which has taken whatever is published, and loads all versions but some.
pub fn picky_server(store: &Path, bad: &'static [&'static str]) -> String {
    let reader = Reader::new(store);
    let responder = Responder::start(move |_| {
        let Ok(Some(current)) = reader.current() else { return http("200 OK", "", r#"{"release":null}"#) };
        let is_bad = |version: &str| bad.contains(&version);
        let models = current.release.models.iter().map(|(name, model)| {
            let stable = model.stable.to_string();
            let fallback = model.fallback.as_ref().filter(|_| is_bad(&stable));
            let fallback = fallback.map(|fallback| (fallback.version.to_string(), fallback.commit.to_string()));
            let state = |version: &str| if is_bad(version) { "failed" } else { "live" };
            let serving = if is_bad(&stable) {
                fallback.as_ref().map(|(version, _)| version.clone())
            } else {
                Some(stable.clone())
            };
            serde_json::json!({
                "name": name, "version": stable, "role": "stable", "state": state(&stable), "reason": "it is bad",
                "serving": serving.filter(|version| !is_bad(version)),
                "fallback": fallback.map(|(version, commit)| serde_json::json!({
                    "state": state(&version), "version": version, "commit": commit, "reason": null
                })),
            })
        });
        let page = serde_json::json!({
            "release": { "name": current.name, "sha256": current.sha256 }, "models": models.collect::<Vec<_>>(),
        });
        http("200 OK", "", &page.to_string())
    });
    format!("http://{}", responder.address)
}

/// A status as a person would ask for it.
pub fn status(sidecar: &Sidecar) -> Arc<Status> {
    sidecar.board().status()
}
