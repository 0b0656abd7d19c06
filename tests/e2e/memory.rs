//! A server lives through any number of releases, and rushes of connections, without growing.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_models::{Blob, Commit, CommitId, Publisher, Release, ReleasedModel, ReleasedVersion};

use crate::harness::{Connection, Load, SETOSA, Server, World, eventually, shipped};

/// By how much the server may grow between the 100th and the 300th reload. A version that stays keeps at least its
/// weights, which are most of its file: 200 of them are some 18 MiB. Less than half of that is the allocator's.
const GROWTH_KIB_MAX: u64 = 8 << 10;

#[test]
#[cfg(target_os = "linux")]
fn memory_is_flat_over_three_hundred_reloads() {
    let world = World::new();
    let publisher = Publisher::open(&world.store).unwrap();
    let server = world.server(&[]);
    let mut counts = Vec::new();
    let mut clients = None;
    for reload in 1..=300 {
        let commit = publish_iris(&publisher, reload, if reload % 2 == 0 { "1.0.0" } else { "1.1.0" });
        server.until_live(&commit);
        clients.get_or_insert_with(|| Load::start(server.listen, 1, "/predict", SETOSA, Duration::from_millis(10)));
        if reload % 50 == 0 {
            counts.push(Count::of(&server));
        }
    }
    let answered = clients.unwrap().stop().iter().map(Vec::len).sum::<usize>();
    println!("{answered} requests answered meanwhile; after each 50 reloads: {counts:?}");
    let (hundred, last) = (&counts[1], counts.last().unwrap());
    let growth = last.rss_kib.saturating_sub(hundred.rss_kib);
    assert!(growth <= GROWTH_KIB_MAX, "{growth} KiB from reload 100 to 300");
    assert_eq!(last.threads, hundred.threads);
    // One or two more or less: the connection on which the status was asked for may not be closed yet.
    assert!(last.descriptors.abs_diff(hundred.descriptors) <= 2, "{last:?}");
    assert!(server.metric("mainstay_reloads_total{outcome=\"loaded\"}") == Some(300.0), "each release was loaded");
}

#[test]
#[cfg(target_os = "linux")]
fn what_a_rush_of_connections_took_is_given_back() {
    // All connections are one core's, which counts its own.
    let server = Server::start(&["--threads", "1"]);
    let body = " ".repeat(60 << 10);
    let connect = || {
        let mut connection = Connection::open(server.listen);
        assert_eq!(connection.ask("POST", "/predict", "", &body).unwrap().status, 400);
        connection
    };
    drop(connect());
    let before = Count::of(&server).rss_kib;
    let rush: Vec<_> = (0..400).map(|_| connect()).collect();
    let held = Count::of(&server).rss_kib - before;
    assert!(held > 8 << 10, "400 connections held {held} KiB: too little to tell whether it is given back");
    drop(rush);
    eventually("most of the memory was given back", || (Count::of(&server).rss_kib < before + held / 4).then_some(()));
}

/// Publishes a release that serves nothing but iris in `version`.
fn publish_iris(publisher: &Publisher, seq: usize, version: &str) -> CommitId {
    let model = shipped("iris", version);
    let released = ReleasedVersion { spec: Blob::of(model.spec), artifact: Blob::of(model.artifact) };
    publisher.add(&released.spec, model.spec).unwrap();
    publisher.add(&released.artifact, model.artifact).unwrap();
    let stable = version.parse().unwrap();
    let iris =
        ReleasedModel { versions: BTreeMap::from([(version.parse().unwrap(), released)]), stable, fallback: None };
    let id: CommitId = format!("{seq:040x}").parse().unwrap();
    let commit =
        Commit { id: id.clone(), author: "Ada".to_owned(), subject: format!("Roll iris to {version}"), time_unix_s: 0 };
    let models = BTreeMap::from([("iris".parse().unwrap(), iris)]);
    let release = Release::new("prod".parse().unwrap(), commit, "iris".parse().unwrap(), models, Vec::new()).unwrap();
    publisher.publish(&release).unwrap();
    publisher.collect(2).unwrap();
    id
}

/// What a process holds.
#[derive(Debug)]
struct Count {
    rss_kib: u64,
    threads: u64,
    descriptors: usize,
}

impl Count {
    fn of(server: &Server) -> Self {
        let process = format!("/proc/{}", server.program.id());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
        Self { rss_kib: field("VmRSS:"), threads: field("Threads:"), descriptors }
    }
}
