//! Starts real servers on this machine, in folders of their own, and ends them with the test that started them.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use mainstay_models::Blob;
use mainstay_sidecar::fetch::Variables;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tempfile::TempDir;

use crate::bench::{Bench, Repo, eventually};

/// The model that every peer has.
pub fn model() -> Vec<u8> {
    (0_u32..300_000).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// A program that `.ci/peers` has installed.
pub fn tool(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/peers");
    let tool = root.join(path);
    assert!(tool.exists(), "run .ci/peers first: it installs {path}");
    tool
}

/// A port for a server that cannot choose one by itself. It lies below those that the kernel gives to whoever asks for any:
/// until the server has it, no other test's listener and no connection, its own waiting one among them, can be given it.
fn own_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_000..16_000;
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Where two runs are at work, they begin at different places.
    let first = std::process::id() % 1_000 * 6;
    let next = || PORTS.start + (first + ASKED.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
    let mut ports = std::iter::repeat_with(|| u16::try_from(next()).unwrap()).take(PORTS.len());
    ports.find(|port| is_free(*port)).expect("a port of 6,000 is free")
}

/// Whether nobody listens there. Does not listen itself: a program that another test starts at this moment has a copy of whatever
/// is open here until it runs, and who waits for the server would find that one.
fn is_free(port: u16) -> bool {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok()
}

/// A server, with a folder of its own; it ends with this.
pub struct Peer {
    pub address: SocketAddr,
    pub folder: TempDir,
    child: Child,
}

impl Peer {
    /// Starts what `command` makes of a port and a folder, and waits until it listens.
    pub fn start(command: impl FnOnce(u16, &Path) -> Command) -> Self {
        let (port, folder) = (own_port(), TempDir::new().unwrap());
        let mut command = command(port, folder.path());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut peer = Self { address, folder, child: command.spawn().unwrap() };
        eventually("the server listens", || {
            let ended = peer.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(peer.folder.path().join("log")).unwrap());
            TcpStream::connect(address).ok()
        });
        peer
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command of a web server that does what `configuration` says.
pub fn nginx(folder: &Path, configuration: &str) -> Command {
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration).unwrap();
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(file);
    command
}

/// A repository that serves iris 1.0.0 with `artifact`, which lies at `uri`.
pub fn repository(uri: &str, artifact: &[u8]) -> Repo {
    let repo = Repo::new();
    repo.write_spec("iris", "1.0.0", Blob::of(artifact));
    let path = "models/iris/1.0.0/model.yaml";
    let card = std::fs::read_to_string(repo.path().join(path)).unwrap();
    repo.write(path, card.replacen("file: model.onnx", &format!("uri: {uri}"), 1));
    repo.serve("iris", "1.0.0");
    repo.commit("Serve iris 1.0.0 from elsewhere");
    repo
}

/// A sidecar's surroundings that may fetch from below `allowed`, as who `variables` say.
pub fn bench(repo: &Repo, allowed: &str, variables: &[(&str, &str)]) -> Bench {
    let mut bench = Bench::following(&repo.address());
    bench.settings.fetch.allowed = vec![allowed.parse().unwrap()];
    bench.settings.fetch.variables = variables_of(variables);
    bench
}

pub fn variables_of(variables: &[(&str, &str)]) -> Variables {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Puts the beginning of `artifact` where a download that was cut off leaves it.
pub fn cut_off_at(bench: &Bench, artifact: &[u8], length: usize) {
    let folder = bench.settings.store.join("partial");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(Blob::of(artifact).sha256.to_string()), &artifact[..length]).unwrap();
}

/// The value of a metric.
pub fn metric(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

#[test]
fn a_port_that_was_found_free_has_no_listener_also_while_programs_start() {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
        let mut ports = std::iter::repeat_with(own_port).take(2_000);
        let taken = ports.find(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok());
        done.store(true, Ordering::Relaxed);
        assert_eq!(taken, None, "somebody listens there");
    });
}
