//! A real web server over TLS, with an authority of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mainstay_sidecar::Outcome;
use mainstay_sidecar::agent::Pass;

use crate::bench::{eventually, retry};
use crate::harness::{Peer, bench, cut_off_at, metric, model, repository};

/// An authority, and a certificate of it for this machine.
pub fn make_certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").current_dir(folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(
        &[&["req", "-x509", "-subj", "/CN=Authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"], &key[..]]
            .concat(),
    );
    let name = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2", "-keyout", "host.key", "-out", "host.pem"];
    openssl(&[&["req", "-x509"], &name[..], &signed, &key].concat());
}

/// nginx with the model at `/iris/model.onnx`; `locations` says what else it does.
fn nginx(locations: &str) -> Peer {
    Peer::start(|port, folder| {
        make_certificates(folder);
        std::fs::create_dir_all(folder.join("files/iris")).unwrap();
        std::fs::create_dir_all(folder.join("files/open")).unwrap();
        std::fs::write(folder.join("files/iris/model.onnx"), model()).unwrap();
        std::fs::write(folder.join("files/open/model.onnx"), model()).unwrap();
        let at = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
            .concat();
        let configuration = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}}
            http {{ {temporary} access_log {at}/access; server {{
                listen 127.0.0.1:{port} ssl; ssl_certificate {at}/host.pem; ssl_certificate_key {at}/host.key;
                root {at}/files; {locations} }} }}"
        );
        crate::harness::nginx(folder, &configuration)
    })
}

/// Runs a test of this file again, as a process that trusts the authority in `folder`: what is trusted is read once.
/// Says whether this is that process.
pub fn trusting(test: &str, start: impl FnOnce() -> Peer) -> Option<String> {
    trusting_with(test, || (start(), Vec::new()))
}

/// The same, with further variables of that process.
pub fn trusting_with(test: &str, start: impl FnOnce() -> (Peer, Vec<(&'static str, String)>)) -> Option<String> {
    if let Ok(address) = std::env::var("MAINSTAY_TEST_PEER") {
        return Some(address);
    }
    let (peer, variables) = start();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.envs(variables);
    command.args([test, "--exact", "--ignored", "--nocapture"]);
    command.env("MAINSTAY_TEST_PEER", format!("{} {}", peer.address, peer.folder.path().display()));
    let authority = peer.folder.path().join("ca.pem");
    // git has a variable of its own.
    command.env("SSL_CERT_FILE", &authority).env("GIT_SSL_CAINFO", &authority).env_remove("SSL_CERT_DIR");
    let output = command.output().unwrap();
    let access = std::fs::read_to_string(peer.folder.path().join("access")).unwrap_or_default();
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(ran && output.status.success(), "{}\n{access}", String::from_utf8_lossy(&output.stderr));
    None
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_web_server_is_fetched_from_by_tls_and_gone_on_with() {
    let Some(peer) = trusting("web::a_web_server_is_fetched_from_by_tls_and_gone_on_with", || nginx("")) else {
        return;
    };
    let address = peer.split(' ').next().unwrap();
    let repo = repository(&format!("https://{address}/iris/model.onnx"), &model());
    let bench = bench(&repo, &format!("https://{address}/iris/"), &[]);
    cut_off_at(&bench, &model(), 1_000_000);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(bench.serves().1 == model());
    assert_eq!(metric(&sidecar.board().metrics(), "mainstay_sync_downloaded_bytes_total{scheme=\"https\"}"), 200_000);
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_web_server_whose_authority_nobody_trusts_is_not_believed() {
    let peer = nginx("");
    let address = peer.address;
    let repo = repository(&format!("https://{address}/iris/model.onnx"), &model());
    let text = retry(bench(&repo, &format!("https://{address}/"), &[]).open().reconcile());
    assert!(text.contains("certificate"), "{text}");
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_token_goes_to_its_host_and_not_along_a_redirect() {
    let test = "web::a_token_goes_to_its_host_and_not_along_a_redirect";
    let start = || {
        nginx(
            "location /iris/ { if ($http_authorization != 'Bearer hush') { return 401; } }
             location /away/ { return 302 https://localhost:$server_port/open/model.onnx; }
             location /open/ { if ($http_authorization) { return 400; } }",
        )
    };
    let Some(peer) = trusting(test, start) else { return };
    let (address, folder) = peer.split_once(' ').unwrap();
    let token = Path::new(folder).join("token");
    let open = |path: &str| {
        let repo = repository(&format!("https://{address}/{path}/model.onnx"), &model());
        let mut bench = bench(&repo, &format!("https://{address}/"), &[]);
        bench.settings.fetch.token_files.insert(address.to_owned(), token.clone());
        (bench.open(), bench, repo)
    };
    let (mut sidecar, _bench, _repo) = open("iris");
    assert!(retry(sidecar.reconcile()).contains("the file with its token cannot be read"));
    std::fs::write(&token, "wrong\n").unwrap();
    assert!(retry(sidecar.reconcile()).contains("answers 401"));
    std::fs::write(&token, "hush\n").unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let (mut sidecar, _bench, _repo) = open("away");
    assert_eq!(sidecar.reconcile(), Pass::Published);
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_web_server_that_drips_is_left_and_one_that_is_slow_is_stopped_at_once() {
    let test = "web::a_web_server_that_drips_is_left_and_one_that_is_slow_is_stopped_at_once";
    let Some(peer) = trusting(test, || nginx("limit_rate 10k;")) else { return };
    let address = peer.split(' ').next().unwrap();
    let repo = repository(&format!("https://{address}/iris/model.onnx"), &model());
    let mut bench = bench(&repo, &format!("https://{address}/"), &[]);
    bench.settings.fetch.pace = Duration::from_millis(1500);
    bench.settings.fetch.pace_bytes = 256 << 10;
    assert!(retry(bench.open().reconcile()).contains("gave less than 262144 bytes in 1.5 s"));
    bench.settings.fetch.pace = Duration::from_secs(60);
    let sidecar = bench.open();
    let board = sidecar.board();
    let running = std::thread::spawn(move || sidecar.run());
    eventually("a first byte", || board.metrics().contains("downloaded_bytes_total{").then_some(()));
    bench.control.stop();
    assert_eq!(running.join().unwrap(), Outcome::Synced);
}
