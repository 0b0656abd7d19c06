//! The real programs as children: what they say is kept, what they serve is found, and none outlives its test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay_models::CommitId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::client::{Answer, Connection, ask};
use super::eventually;

/// How many lines of a program's log a failed test shows.
const TAIL_LINES: usize = 30;

/// `mainstay` with `arguments`, without the settings of whoever runs the tests.
pub fn mainstay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MAINSTAY_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end: exit code, standard output, standard error.
pub fn run(command: Command) -> (i32, String, String) {
    let mut program = Program::spawn(command);
    let code = program.ended();
    (code, program.stdout(), program.stderr())
}

/// What has been said by now, and that there is more of it.
type Lines = Arc<(Mutex<Vec<String>>, Condvar)>;

/// A running program. Dropping it ends it.
pub struct Program {
    child: Child,
    what: String,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
    /// How long it is given to end by itself before it is killed: some, where it has children of its own.
    patience: Duration,
}

impl Program {
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, out) = collect(child.stdout.take().unwrap());
        let (stderr, err) = collect(child.stderr.take().unwrap());
        let what = command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
        Self { child, what, stdout, stderr, readers: vec![out, err], patience: Duration::ZERO }
    }

    /// A program with children that it ends itself, if it is told to.
    pub fn spawn_parent(command: Command) -> Self {
        let mut program = Self::spawn(command);
        program.patience = Duration::from_secs(20);
        program
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        self.stdout.0.lock().unwrap().join("\n")
    }

    pub fn stderr(&self) -> String {
        self.stderr.0.lock().unwrap().join("\n")
    }

    /// How often its log has told this by now.
    #[allow(dead_code, reason = "the load benchmark waits for it, whose looking must cost the server nothing")]
    pub fn told(&self, message: &str) -> usize {
        count(&self.stderr.0.lock().unwrap(), message)
    }

    /// Waits until it has told this more often than `times`.
    #[allow(dead_code, reason = "see `told`")]
    pub fn until_told(&self, message: &str, times: usize, patience: Duration) {
        let (lines, more) = &*self.stderr;
        let waiting = |lines: &mut Vec<String>| count(lines, message) <= times;
        let (lines, wait) = more.wait_timeout_while(lines.lock().unwrap(), patience, waiting).unwrap();
        drop(lines);
        assert!(!wait.timed_out(), "`{}` did not tell that it {message}:\n{}", self.what, self.stderr());
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, and gives its exit code.
    pub fn ended(&mut self) -> i32 {
        let status = eventually("the program ends", || self.child.try_wait().unwrap());
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status.code().unwrap_or_else(|| panic!("`{}` ended by {status}", self.what))
    }

    /// The addresses where it listens, from the event in its log that tells them.
    fn listening(&self) -> Value {
        let event = eventually("the program listens or ends", || {
            let lines = self.stderr.0.lock().unwrap();
            let mut events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let event = events.find(|event| event["admin"].is_string());
            event.or_else(|| self.has_ended().then_some(Value::Null))
        });
        assert!(event.is_object(), "`{}` ended:\n{}", self.what, self.stderr());
        event
    }

    /// Whether everything that it will ever say has been collected.
    pub fn has_ended(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let begun = Instant::now();
        while self.patience > begun.elapsed() && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            std::thread::sleep(super::GLANCE);
        }
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for (name, lines) in [("output", &self.stdout), ("log", &self.stderr)] {
                let lines = lines.0.lock().unwrap();
                let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
                eprintln!("--- the end of the {name} of `mainstay {}` ---\n{tail}", self.what);
            }
        }
    }
}

fn collect(source: impl Read + Send + 'static) -> (Lines, JoinHandle<()>) {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            kept.0.lock().unwrap().push(line);
            kept.1.notify_all();
        }
    });
    (lines, reader)
}

/// How many of the lines are events with this message.
fn count(lines: &[String], message: &str) -> usize {
    let message = format!(r#""message":"{message}""#);
    lines.iter().filter(|line| line.contains(&message)).count()
}

fn address(event: &Value, key: &str) -> SocketAddr {
    event[key].as_str().unwrap().parse().unwrap()
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask(ureq::http::Request::get(format!("http://{address}{path}")).body(()).unwrap())
}

/// `mainstay serve`.
pub struct Server {
    pub program: Program,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let ports = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let program = Program::spawn(mainstay(&[&ports[..], arguments].concat()));
        let event = program.listening();
        Self { listen: address(&event, "listen"), admin: address(&event, "admin"), program }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    pub fn get(&self, path: &str) -> Answer {
        get(self.listen, path)
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        let request = ureq::http::Request::post(format!("http://{}{path}", self.listen));
        ask(request.header("content-type", "application/json").body(body).unwrap())
    }

    /// An answer of the admin listener.
    pub fn probe(&self, path: &str) -> Answer {
        get(self.admin, path)
    }

    pub fn status(&self) -> Value {
        self.probe("/status").ok()
    }

    /// What `/status` says about a version that the release asks for.
    pub fn status_of(&self, model: &str) -> Value {
        let status = self.status();
        let models = status["models"].as_array().unwrap();
        models.iter().find(|entry| entry["name"] == model).unwrap_or_else(|| panic!("{status:#}")).clone()
    }

    /// Waits until the server has taken what `commit` asks for.
    pub fn until_live(&self, commit: &CommitId) -> Value {
        eventually(&format!("commit {commit} is live"), || {
            let status = self.status();
            (status["release"]["commit"] == commit.as_str()).then_some(status)
        })
    }

    /// The value of the metric whose line begins with `series`; none where there is no such line.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.probe("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }

    /// A connection on which a prediction was asked for, of whose body the server has only a part.
    pub fn half_asked(&self) -> (Connection, &'static str) {
        let asked = self.half_ask();
        eventually("the request is at hand", || {
            self.metric("mainstay_requests_in_flight").filter(|count| *count == 1.0)
        });
        asked
    }

    /// The same, whether or not the server has it yet.
    pub fn half_ask(&self) -> (Connection, &'static str) {
        let (sent, withheld) = super::SETOSA.split_at(20);
        let mut connection = Connection::open(self.listen);
        let length = super::SETOSA.len();
        let head = format!("POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
        connection.send(head + sent).unwrap();
        (connection, withheld)
    }
}

/// `mainstay sync`.
pub struct Sidecar {
    pub program: Program,
    pub admin: SocketAddr,
}

impl Sidecar {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// One with something more in its environment.
    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = mainstay(&[&["sync", "--admin", "127.0.0.1:0"], arguments].concat());
        command.envs(variables.iter().copied());
        let program = Program::spawn(command);
        Self { admin: address(&program.listening(), "admin"), program }
    }

    pub fn probe(&self, path: &str) -> Answer {
        get(self.admin, path)
    }

    pub fn status(&self) -> Value {
        self.probe("/status").ok()
    }

    /// Waits until the status is one that `fits`.
    pub fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the sidecar's status says {what}"), || Some(self.status()).filter(&fits))
    }

    /// Waits until `commit` is refused, and gives the refusal.
    pub fn until_refused(&self, commit: &CommitId) -> Value {
        let refused =
            |status: &Value| status["problem"]["kind"] == "refused" && status["problem"]["commit"] == commit.as_str();
        self.until(&format!("{commit} is refused"), refused)["problem"].clone()
    }
}
