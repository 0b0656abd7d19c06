//! A git host over https as people run one: git's HTTP backend behind nginx, with a password. It counts what it costs.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::harness::eventually;
use super::process::{cpu_seconds, ended_children_seconds};

/// How often the backend is run to find out what it costs.
const RUNS: u32 = 50;

/// Where its lists of references come from.
#[derive(Clone, Copy, PartialEq)]
pub enum Answers {
    /// From git, each anew.
    Made,
    /// From git once, and from nginx's cache for an hour.
    Cached,
}

/// The host. It ends with this.
pub struct Host {
    nginx: Child,
    gateway: Child,
    folder: PathBuf,
    backend: String,
    relay: Relay,
}

impl Host {
    /// Whether this machine has what it takes.
    pub fn is_possible() -> bool {
        Path::new("/usr/sbin/nginx").exists() && Path::new("/usr/sbin/fcgiwrap").exists()
    }

    /// Serves the repositories that lie in `folder`.
    pub fn start(folder: &Path, answers: Answers) -> Self {
        let at = folder.display();
        let openssl = |arguments: &[&str]| {
            let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
            let mut command = Command::new("openssl");
            let output = command.current_dir(folder).args(arguments).args(key).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        openssl(&["req", "-x509", "-subj", "/CN=Authority", "-keyout", "ca.key", "-out", "ca.pem"]);
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        let host = ["req", "-x509", "-subj", "/CN=localhost", "-addext", names, "-addext", "basicConstraints=CA:FALSE"];
        openssl(
            &[&host[..], &["-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "host.key", "-out", "host.pem"]].concat(),
        );
        let hashed = Command::new("openssl").args(["passwd", "-apr1", "open"]).output().unwrap().stdout;
        let hashed = String::from_utf8(hashed).unwrap();
        fs::write(folder.join("passwords"), format!("x-access-token:{hashed}")).unwrap();
        fs::write(folder.join("token"), "open").unwrap();
        let backend = Command::new("git").arg("--exec-path").output().unwrap().stdout;
        let backend = String::from_utf8(backend).unwrap().trim().to_owned() + "/git-http-backend";
        let mut command = Command::new("/usr/sbin/fcgiwrap");
        command.arg("-s").arg(format!("unix:{at}/gateway")).stdin(Stdio::null()).stderr(Stdio::null());
        let gateway = command.spawn().unwrap();
        eventually("the gateway listens", || folder.join("gateway").exists().then_some(()));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
            .concat();
        // The backend forbids it, for hosts whose references change.
        let cached = "fastcgi_cache lists; fastcgi_cache_key $request_method$request_uri; fastcgi_cache_valid 200 1h; \
                      fastcgi_ignore_headers Cache-Control Expires;";
        let cached = if answers == Answers::Cached { cached } else { "" };
        let configuration = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}}
            http {{ {temporary} fastcgi_cache_path {at}/cache keys_zone=lists:1m; access_log off; server {{ {cached}
                listen 127.0.0.1:{port} ssl; ssl_certificate {at}/host.pem; ssl_certificate_key {at}/host.key;
                location / {{
                    auth_basic git; auth_basic_user_file {at}/passwords; fastcgi_pass unix:{at}/gateway;
                    fastcgi_param SCRIPT_FILENAME {backend}; fastcgi_param GIT_PROJECT_ROOT {at};
                    fastcgi_param GIT_HTTP_EXPORT_ALL 1; fastcgi_param PATH_INFO $uri;
                    fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD $request_method;
                    fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;
                    fastcgi_param REMOTE_USER $remote_user; }} }} }}"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(file);
        let nginx = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("nginx listens", || TcpStream::connect(address).ok());
        Self { nginx, gateway, folder: folder.to_owned(), backend, relay: Relay::start(address) }
    }

    /// Where a repository is, for those who know the password.
    pub fn address(&self, repository: &str) -> String {
        format!("https://{}/{repository}", self.relay.address)
    }

    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub fn token_file(&self) -> String {
        self.folder.join("token").display().to_string()
    }

    /// The bytes that went over the wire, both ways, without the heads of the packets.
    pub fn bytes(&self) -> u64 {
        self.relay.bytes.load(Ordering::Relaxed)
    }

    /// The connections that were made.
    pub fn connections(&self) -> u64 {
        self.relay.connections.load(Ordering::Relaxed)
    }

    /// The processor time that the web server and the gateway have used; the backend's is [`Host::backend_seconds`].
    pub fn web_seconds(&self) -> f64 {
        cpu_seconds(&[self.nginx.id(), self.gateway.id()])
    }

    /// The processor time of one run of git's backend: for a list of references, or for the pack from one commit to
    /// another.
    pub fn backend_seconds(&self, repository: &str, pack: Option<(&str, &str)>) -> f64 {
        let line = |text: String| format!("{:04x}{text}", text.len() + 4);
        let body = pack.map(|(from, to)| {
            let want = line(format!("want {to} ofs-delta side-band-64k no-progress\n"));
            format!("{want}0000{}{}", line(format!("have {from}\n")), line("done\n".to_owned()))
        });
        let before = ended_children_seconds();
        for _ in 0..RUNS {
            let mut command = Command::new(&self.backend);
            let (method, path) = if body.is_some() { ("POST", "git-upload-pack") } else { ("GET", "info/refs") };
            command.env("GIT_PROJECT_ROOT", &self.folder).env("GIT_HTTP_EXPORT_ALL", "1").env("REMOTE_USER", "x");
            command.env("REQUEST_METHOD", method).env("PATH_INFO", format!("/{repository}/{path}"));
            command.env("QUERY_STRING", "service=git-upload-pack");
            command.env("CONTENT_TYPE", "application/x-git-upload-pack-request");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(body.as_deref().unwrap_or_default().as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap().stdout;
            let has = |what: &[u8]| output.windows(what.len()).any(|window| window == what);
            assert!(if body.is_some() { has(b"PACK") } else { has(b"refs/heads/main") });
        }
        (ended_children_seconds() - before) / f64::from(RUNS)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in [&mut self.nginx, &mut self.gateway] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Hands connections on and counts their bytes. Its threads end with the program.
struct Relay {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (bytes, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, made) = (bytes.clone(), connections.clone());
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
                made.fetch_add(1, Ordering::Relaxed);
                for (from, to) in [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())] {
                    let (from, to, counted) = (from.unwrap(), to.unwrap(), counted.clone());
                    std::thread::spawn(move || hand_on(from, to, &counted));
                }
            }
        });
        Self { address, bytes, connections }
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut piece = [0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        counted.fetch_add(count as u64, Ordering::Relaxed);
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
