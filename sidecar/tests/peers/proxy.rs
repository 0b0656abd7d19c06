//! A repository behind tinyproxy, which lets only those through who know its password.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mainstay_sidecar::agent::Pass;

use crate::bench::{Bench, Repo, retry};
use crate::git::{Gateway, https, serve};
use crate::harness::Peer;
use crate::web::trusting_with;

/// A proxy that writes down, in `proxy.log` of its folder, whom it connected where.
fn tinyproxy() -> Peer {
    Peer::start(|port, folder| {
        let at = folder.display();
        let configuration = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile \"{at}/proxy.log\"\nLogLevel Connect\n\
             Allow 127.0.0.1\nBasicAuth builder hunter2\n"
        );
        fs::write(folder.join("tinyproxy.conf"), configuration).unwrap();
        let mut command = Command::new("/usr/bin/tinyproxy");
        command.arg("-d").arg("-c").arg(folder.join("tinyproxy.conf"));
        command
    })
}

/// What a sidecar needs that follows the repository of a server, in a process that trusts the server's authority.
struct Place {
    bench: Bench,
    port: u16,
    /// The server's folder.
    folder: PathBuf,
}

/// Has `test` run in a process whose proxy is what `address` makes of the real one's `HOST:PORT`.
fn behind_a_proxy(test: &str, address: impl Fn(&str) -> String, around: &str) -> Option<Place> {
    let mut kept: Vec<(Gateway, Peer)> = Vec::new();
    let found = trusting_with(test, || {
        let ((peer, gateway), proxy) = (https(), tinyproxy());
        let log = proxy.folder.path().join("proxy.log").display().to_string();
        let address = address(&proxy.address.to_string());
        kept.push((gateway, proxy));
        let variables =
            vec![("HTTPS_PROXY", address), ("NO_PROXY", around.to_owned()), ("MAINSTAY_TEST_PROXY_LOG", log)];
        (peer, variables)
    })?;
    let (address, folder) = found.split_once(' ').unwrap();
    let (port, folder) = (address.rsplit_once(':').unwrap().1.parse().unwrap(), PathBuf::from(folder));
    serve(&Repo::serving_iris(), &folder.join("git"));
    let mut bench = Bench::following(&format!("https://127.0.0.1:{port}/git/config.git"));
    fs::write(folder.join("token"), "first").unwrap();
    bench.settings.credentials.token_file = Some(folder.join("token"));
    Some(Place { bench, port, folder })
}

/// What the proxy wrote down.
fn log() -> String {
    fs::read_to_string(std::env::var("MAINSTAY_TEST_PROXY_LOG").unwrap()).unwrap()
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_repository_is_followed_through_a_proxy_that_asks_for_a_password() {
    let test = "proxy::a_repository_is_followed_through_a_proxy_that_asks_for_a_password";
    let Some(place) = behind_a_proxy(test, |proxy| format!("http://builder:hunter2@{proxy}"), "") else { return };
    let mut sidecar = place.bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    let (log, expected) = (log(), format!("CONNECT 127.0.0.1:{}", place.port));
    assert!(log.contains(&expected), "{log}");
    // The repository's host gets its own password and not the proxy's.
    let access = fs::read_to_string(place.folder.join("access")).unwrap();
    assert!(access.contains("Basic ") && !access.contains("YnVpbGRlcjpodW50ZXIy"), "{access}");
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_host_that_no_proxy_names_is_reached_without_one() {
    let test = "proxy::a_host_that_no_proxy_names_is_reached_without_one";
    let Some(place) = behind_a_proxy(test, |proxy| format!("http://builder:hunter2@{proxy}"), "127.0.0.1") else {
        return;
    };
    assert_eq!(place.bench.open().reconcile(), Pass::Published);
    assert!(!log().contains("CONNECT"), "{}", log());
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_proxy_that_does_not_let_us_through_is_said_without_its_password() {
    let test = "proxy::a_proxy_that_does_not_let_us_through_is_said_without_its_password";
    let Some(place) = behind_a_proxy(test, |proxy| format!("http://builder:Wrong-one@{proxy}"), "") else { return };
    let text = retry(place.bench.open().reconcile());
    assert!(text.contains("cannot reach") && text.contains("proxy") && !text.contains("Wrong-one"), "{text}");
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_proxys_address_that_is_none_is_said_without_its_password() {
    let test = "proxy::a_proxys_address_that_is_none_is_said_without_its_password";
    let Some(place) = behind_a_proxy(test, |_| "http://builder:Wrong-one@:port/x".to_owned(), "") else { return };
    let text = retry(place.bench.open().reconcile());
    assert!(text.contains("the proxy's address cannot be used") && !text.contains("Wrong-one"), "{text}");
}
