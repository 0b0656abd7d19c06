//! The servers that are measured: Mainstay with forests, and a bare HTTP server that does nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_models::Version;
use tempfile::{NamedTempFile, TempDir};

use super::contest::{self, Entrant, Rules};
use super::harness::{Program, Server, eventually, mainstay};
use super::store::{Store, forest};

/// A server with forests from a store.
pub struct Served {
    pub server: Server,
    store: Store,
    pub models: Vec<(String, Vec<Version>)>,
    /// Last, since the store lies in it.
    _folder: TempDir,
}

impl Served {
    pub fn forest(arguments: &[&str]) -> Self {
        Self::new(&[forest(0)], arguments)
    }

    pub fn new(models: &[(String, Vec<Version>)], arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("store");
        let store = Store::new(&path);
        let server = Server::start(&[&["--store", path.to_str().unwrap()], arguments].concat());
        let mut served = Self { server, store, models: Vec::new(), _folder: folder };
        served.roll(models.to_vec());
        served
    }

    /// Publishes models, and waits until all of them are live. Gives when the server could see them, and when they were.
    pub fn roll(&mut self, models: Vec<(String, Vec<Version>)>) -> (Instant, Instant) {
        // From its log, since to be asked would cost it more than some of what is measured meanwhile.
        let before = self.server.program.told("released");
        let (commit, begun) = self.store.publish(&models);
        self.server.program.until_told("released", before, Duration::from_secs(900));
        let live = Instant::now();
        let status = self.server.status();
        assert_eq!(status["release"]["commit"], commit.as_str(), "{status:#}");
        let is_live = status["models"].as_array().unwrap().iter().all(|entry| entry["state"] == "live");
        assert!(is_live, "{status:#}");
        self.models = models;
        (begun, live)
    }

    pub fn entrant(&self, name: &str, requests: Vec<Vec<u8>>) -> Entrant {
        let (address, process) = (self.server.listen, self.server.program.id());
        Entrant { name: name.to_owned(), address, process, requests, grpc: false }
    }

    /// Requests a second that it can answer.
    pub fn peak(&self, requests: &[Vec<u8>], rules: Rules) -> f64 {
        let entrant = self.entrant("mainstay", requests.to_vec());
        contest::hold(&[entrant], 64, None, rules)[0].requests_per_s
    }
}

/// The bare server. It ends with this.
pub struct Bare {
    child: Child,
    pub address: SocketAddr,
    _answer: NamedTempFile,
}

impl Bare {
    pub fn start(answer: &[u8], per_core: bool, grpc: bool) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(answer).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--bare").arg(file.path());
        if per_core {
            command.arg("--bare-per-core");
        }
        if grpc {
            command.arg("--bare-grpc");
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap(), _answer: file }
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn entrant(&self, requests: &[Vec<u8>]) -> Entrant {
        let (address, process) = (self.address, self.process());
        Entrant { name: "bare hyper".to_owned(), address, process, requests: requests.to_vec(), grpc: false }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `mainstay serve`, started and ready; its ports are chosen beforehand, so that nothing but its answer is waited for.
pub fn started(arguments: &[&str]) -> (Program, SocketAddr) {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (listen, admin) = (free(), free());
    let ports = ["serve".to_owned(), format!("--listen={listen}"), format!("--admin={admin}")];
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let program = Program::spawn(mainstay(&[&ports[..], arguments].concat()));
    let look = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    eventually("the server is ready", || {
        let mut stream = TcpStream::connect(admin).ok()?;
        stream.write_all(look.as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.contains(" 200 ").then_some(())
    });
    (program, listen)
}
