//! How fast a commit becomes an answer, how fast it is taken back, and what following a repository costs.
//!
//! Starts the real programs on a real repository, which lies in a folder: a network adds its own round trips to every
//! figure that asks git. Prints each figure beside what it should be; a clock fails nothing here, only a failed request
//! or an error does. `cargo bench --bench gitops -- --help` says what can be chosen.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mainstay_models::CommitId;
use serde::Serialize;
use sha2::Sha256;

#[path = "../tests/e2e/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use all of it")]
mod harness;
#[path = "gitops/host.rs"]
mod host;
#[path = "load/process.rs"]
#[allow(dead_code, reason = "the load generator uses all of it")]
mod process;

use harness::{Load, SETOSA, Server, Sidecar, World, eventually};
use process::{cpu_seconds, family};

/// Measures what following a configuration repository takes, and prints it beside what it should take
///
/// Exit codes: 0 measured, 1 a request failed, 101 a program did not do what it should.
#[derive(Parser)]
struct Arguments {
    /// What is measured; all of it where nothing is named.
    parts: Vec<Part>,

    /// A tenth of the work or less: shows that it runs, not how fast.
    #[arg(long)]
    quick: bool,

    /// How many polls the memory is watched over; over https, a tenth of them where nothing is said here.
    #[arg(long)]
    polls: Option<u64>,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// From a push to the new version live, found by polling each second.
    Poll,
    /// From a push to the new version live, told by a webhook.
    Webhook,
    /// From the order to the earlier version live, without a repository.
    Rollback,
    /// Processor time and memory of looking at a repository that does not change, small and large.
    Idle,
    /// The same over https, with what it costs the git host; needs nginx and fcgiwrap.
    Https,
    /// Memory over very many looks over https, at a host that answers from a cache; not among what is measured where nothing
    /// is named.
    Soak,
    /// Many changes while clients ask.
    Changes,
}

/// One figure.
#[derive(Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// What it should stay below; none where it is only told.
    below: Option<f64>,
}

/// What was measured, and whether anybody watches.
struct Report {
    figures: Vec<Figure>,
    quick: bool,
    polls: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let all = [Part::Poll, Part::Webhook, Part::Rollback, Part::Idle, Part::Https, Part::Changes];
    let parts = if arguments.parts.is_empty() { &all[..] } else { &arguments.parts };
    let mut report = Report { figures: Vec::new(), quick: arguments.quick, polls: arguments.polls };
    for part in parts {
        match part {
            Part::Poll => report.poll(),
            Part::Webhook => report.webhook(),
            Part::Rollback => report.rollback(),
            Part::Idle => report.idle(),
            Part::Https | Part::Soak if !host::Host::is_possible() => {
                eprintln!("https is left out: it needs nginx and fcgiwrap");
            }
            Part::Https => report.https(),
            Part::Soak => report.soak(),
            Part::Changes => report.changes(),
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report.figures).unwrap());
    } else {
        report.print();
    }
    ExitCode::SUCCESS
}

impl Report {
    fn poll(&mut self) {
        let world = World::new();
        let server = world.server(&[]);
        let _sidecar = follow(&world, &server, &["--interval", "1s"]);
        server.until_live(&world.repository.head());
        let count = if self.quick { 5 } else { 200 };
        let mut took = Vec::new();
        for index in 0..count {
            self.progress("poll", index, count);
            // So that a commit comes anywhere between two looks: 617 and 1000 have no common factor.
            std::thread::sleep(Duration::from_millis(617));
            let commit = self.roll(&world, index);
            let begun = Instant::now();
            server.until_live(&commit);
            took.push(begun.elapsed());
        }
        self.quantiles("commit to live, a look each second", &took, 1200.0, 3000.0);
    }

    fn webhook(&mut self) {
        const SECRET: &str = "a secret for this run";
        let world = World::new();
        let server = world.server(&[]);
        let file = world.folder.path().join("secret");
        std::fs::write(&file, SECRET).unwrap();
        let sidecar = follow(&world, &server, &["--interval", "1h", "--webhook-secret-file", file.to_str().unwrap()]);
        server.until_live(&world.repository.head());
        // What comes after the push is the host's, so the clock begins with it.
        let body = r#"{"ref": "refs/heads/main"}"#;
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let signature = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let count = if self.quick { 5 } else { 100 };
        let mut took = Vec::new();
        for index in 0..count {
            self.progress("webhook", index, count);
            let commit = self.roll(&world, index);
            let begun = Instant::now();
            let request = ureq::post(format!("http://{}/webhook", sidecar.admin))
                .header("X-Hub-Signature-256", format!("sha256={signature}"))
                .header("X-GitHub-Event", "push")
                .send(body);
            assert_eq!(request.unwrap().status(), 202);
            server.until_live(&commit);
            took.push(begun.elapsed());
        }
        self.quantiles("webhook to live", &took, 300.0, 300.0);
    }

    fn rollback(&mut self) {
        let world = World::new();
        let (server, sidecar) = world.rolling();
        let rolled = world.repository.roll_iris("1.1.0");
        server.until_live(&rolled);
        std::fs::rename(&world.repository.bare, world.folder.path().join("gone")).unwrap();
        let count = if self.quick { 5 } else { 50 };
        let mut took = Vec::new();
        for index in 0..count {
            self.progress("rollback", index, count);
            // Back and back again: both versions' trials are remembered, as those of what was live are.
            let history: serde_json::Value = sidecar.probe("/history").ok();
            let earlier = history[1]["name"].as_str().unwrap().to_owned();
            let before = server.status()["release"]["name"].clone();
            let begun = Instant::now();
            let order = serde_json::json!({ "to": earlier });
            ureq::post(format!("http://{}/rollback", sidecar.admin)).send_json(order).unwrap();
            eventually("the rollback is live", || Some(()).filter(|()| server.status()["release"]["name"] != before));
            took.push(begun.elapsed());
        }
        self.quantiles("rollback to live, without a repository", &took, 50.0, 50.0);
    }

    /// How many polls are watched, unless somebody said.
    fn polls(&self, usual: u64, quick: u64) -> u64 {
        self.polls.unwrap_or(if self.quick { quick } else { usual })
    }

    fn idle(&mut self) {
        let polls = self.polls(20_000, 200);
        for (what, files) in [("a repository of 12 files", 0), ("a repository of 20,000 files", 20_000)] {
            let world = World::new();
            if files > 0 {
                add_notes(&world, files);
            }
            let server = world.server(&[]);
            let sidecar = follow(&world, &server, &["--interval", "10ms"]);
            server.until_live(&world.repository.head());
            self.watch(what, &sidecar, polls);
        }
    }

    /// What looks cost and what a sidecar holds meanwhile; gives how many looks were watched.
    fn watch(&mut self, what: &str, sidecar: &Sidecar, polls: u64) -> f64 {
        let pids = family(sidecar.program.id());
        // What only the beginning needs is over.
        eventually("it polls", || (looks(sidecar) > 100.0).then_some(()));
        let (looks_before, seconds_before) = (looks(sidecar), cpu_seconds(&pids));
        let before = ["Pss:", "Anonymous:"].map(|kind| memory(&pids, kind));
        let mut seen = looks_before;
        while seen - looks_before < polls as f64 {
            std::thread::sleep(Duration::from_millis(500));
            // On a busy machine a look may take longer than the pause here.
            seen = eventually("it polls on", || Some(looks(sidecar)).filter(|now| *now > seen));
            self.progress(what, (seen - looks_before) as usize, polls as usize);
        }
        let watched = looks(sidecar) - looks_before;
        let each = (cpu_seconds(&pids) - seconds_before) / watched;
        assert_eq!(family(sidecar.program.id()), pids, "the git worker is the same throughout");
        let [shared_once, own] = ["Pss:", "Anonymous:"].map(|kind| memory(&pids, kind));
        self.figure(format!("processor time of a look, {what}"), each * 1e3, "ms", Some(3.0));
        self.figure(format!("memory of both processes, {what}"), shared_once / 1e6, "MB", Some(20.0));
        let twice = memory(&pids, "Rss:") / 1e6;
        self.figure(format!("the same, counting twice what they share, {what}"), twice, "MB", Some(20.0));
        let largest = pids.iter().map(|id| memory(&[*id], "Rss:")).fold(0.0, f64::max);
        self.figure(format!("the larger of the two alone, {what}"), largest / 1e6, "MB", Some(20.0));
        self.figure(format!("of it all no file's, {what}"), own / 1e6, "MB", None);
        for (kind, grown) in [("memory", shared_once - before[0]), ("what is no file's", own - before[1])] {
            self.figure(format!("{kind} grown over {watched} looks, {what}"), grown / 1e3, "kB", None);
        }
        watched
    }

    fn soak(&mut self) {
        let polls = self.polls(100_000, 200);
        let world = World::new();
        let host = host::Host::start(world.folder.path(), host::Answers::Cached);
        let (address, token) = (host.address("config.git"), host.token_file());
        let authority = host.authority().display().to_string();
        let arguments = [&world.sync_arguments()[2..], &["--repo", &address, "--token-file", &token]].concat();
        let variables = [("SSL_CERT_FILE", authority.as_str())];
        let sidecar = Sidecar::start_with(&[&arguments[..], &["--interval", "10ms"]].concat(), &variables);
        sidecar.until("it follows", |status| status["sync"] == "Synced");
        self.watch("https from a cache", &sidecar, polls);
    }

    fn https(&mut self) {
        let polls = self.polls(2_000, 100);
        let world = World::new();
        let host = host::Host::start(world.folder.path(), host::Answers::Made);
        let (address, token) = (host.address("config.git"), host.token_file());
        let authority = host.authority().display().to_string();
        let variables = [("SSL_CERT_FILE", authority.as_str())];
        let follow = |store: &str, interval: &str, own: &[&str]| {
            let store = world.folder.path().join(store).display().to_string();
            let arguments = ["--repo", &address, "--env", "prod", "--store", &store, "--token-file", &token];
            Sidecar::start_with(&[&arguments[..], &["--interval", interval], own].concat(), &variables)
        };
        let what = "over https";
        let sidecar = follow("first", "20ms", &[]);
        sidecar.until("it follows", |status| status["sync"] == "Synced");
        eventually("it polls", || (looks(&sidecar) > 10.0).then_some(()));
        let before = (looks(&sidecar), host.bytes(), host.connections(), host.web_seconds());
        self.watch(what, &sidecar, polls);
        let looks = looks(&sidecar) - before.0;
        let each = |now: f64, before: f64| (now - before) / looks;
        self.figure("bytes of a look, both ways".to_owned(), each(host.bytes() as f64, before.1 as f64), "B", None);
        let connections = each(host.connections() as f64, before.2 as f64);
        self.figure("connections of a look".to_owned(), connections, "", None);
        let web = each(host.web_seconds(), before.3);
        let list = host.backend_seconds("config.git", None);
        self.figure("git host's processor time of a look, TLS and web server".to_owned(), web * 1e3, "ms", None);
        self.figure("git host's processor time of a look, git itself".to_owned(), list * 1e3, "ms", None);
        let text = sidecar.probe("/metrics").body;
        self.figure("time series of a sidecar".to_owned(), series(&text), "", None);
        add_notes(&world, 20_000);
        let head = world.repository.head();
        sidecar
            .until("it follows the notes", |status| status["desired"] == head.as_str() && status["sync"] == "Synced");
        self.watch("over https, 20,000 files", &sidecar, polls);
        drop(sidecar);

        let server = Server::start(&["--store", world.folder.path().join("second").to_str().unwrap()]);
        let sidecar = follow("second", "1h", &["--server", &server.admin_url()]);
        server.until_live(&world.repository.head());
        let count = if self.quick { 3 } else { 20 };
        let mut last = world.repository.head();
        let (mut bytes, mut packs) = (0, 0.0);
        for index in 0..count {
            self.progress("fetches over https", index, count);
            let commit = self.roll(&world, index);
            let before = host.bytes();
            ureq::post(format!("http://{}/sync", sidecar.admin)).send_empty().unwrap();
            server.until_live(&commit);
            sidecar.until("the pass is over", |status| status["health"] == "Healthy");
            bytes += host.bytes() - before;
            packs += host.backend_seconds("config.git", Some((last.as_str(), commit.as_str())));
            last = commit;
        }
        self.figure("bytes of a pass that fetches a roll".to_owned(), bytes as f64 / count as f64, "B", None);
        self.figure("git host's processor time of a pack".to_owned(), packs / count as f64 * 1e3, "ms", None);
        // Every kind of series appears with the first request.
        for (model, body) in [("iris", SETOSA), ("pred-main", harness::MILL)] {
            server.post(&format!("/models/{model}/predict"), body);
        }
        let text = server.probe("/metrics").body;
        let of_iris = series(&text.lines().filter(|line| line.contains("\"iris\"")).collect::<Vec<_>>().join("\n"));
        self.figure("time series of a server with two models".to_owned(), series(&text), "", None);
        self.figure("of those, of iris alone".to_owned(), of_iris, "", None);
    }

    fn changes(&mut self) {
        let world = World::new();
        let (server, _sidecar) = world.rolling();
        let load = Load::start(server.listen, 4, "/models/iris/predict", SETOSA, Duration::ZERO);
        let count = if self.quick { 20 } else { 1000 };
        let begun = Instant::now();
        for index in 0..count {
            self.progress("changes under load", index, count);
            server.until_live(&self.roll(&world, index));
        }
        let took = begun.elapsed();
        // Ends the program if one failed.
        let requests: usize = load.stop().iter().map(Vec::len).sum();
        self.figure(format!("failed requests over {count} changes"), 0.0, "", Some(1.0));
        self.figure(format!("answered requests over {count} changes"), requests as f64, "", None);
        self.figure("changes a second, each its own commit".to_owned(), count as f64 / took.as_secs_f64(), "", None);
    }

    /// Commits the other one of two versions, and pushes it.
    fn roll(&self, world: &World, index: usize) -> CommitId {
        world.repository.roll_iris(if index.is_multiple_of(2) { "1.1.0" } else { "1.0.0" })
    }

    fn quantiles(&mut self, what: &str, took: &[Duration], median_ms: f64, worst_ms: f64) {
        let mut took: Vec<_> = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
        let count = took.len();
        self.figure(format!("{what}: median of {count}"), at(0.5), "ms", Some(median_ms));
        self.figure(format!("{what}: 99 % of {count} below"), at(0.99), "ms", Some(worst_ms));
    }

    fn figure(&mut self, what: String, value: f64, unit: &'static str, below: Option<f64>) {
        self.figures.push(Figure { what, value, unit, below });
    }

    fn progress(&self, what: &str, done: usize, all: usize) {
        let end = if std::io::stderr().is_terminal() { "\r" } else { "\n" };
        // In a log, a line now and then.
        if end == "\r" || done.is_multiple_of((all / 5).max(1)) {
            eprint!("{what}: {done} of {all}{end}");
        }
    }

    fn print(&self) {
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or_default();
        for Figure { what, value, unit, below } in &self.figures {
            let verdict = match below {
                Some(below) if value < below => format!("below {below} {unit}"),
                Some(below) => format!("NOT below {below} {unit}"),
                None => String::new(),
            };
            println!("{what:<width$}  {value:>10.3} {unit:<3} {}", verdict.trim_end());
        }
    }
}

/// A sidecar that follows the world's repository for `server`.
fn follow(world: &World, server: &Server, own: &[&str]) -> Sidecar {
    let admin = server.admin_url();
    Sidecar::start(&[&world.sync_arguments()[..], &["--server", &admin], own].concat())
}

/// Commits so many files that say nothing of models.
fn add_notes(world: &World, files: usize) {
    for number in 0..files {
        world.repository.write(&format!("notes/{:03}/{number}.md", number % 200), number.to_string());
    }
    world.repository.commit("Add notes");
}

/// How many times a sidecar has looked at its repository and found it unchanged.
fn looks(sidecar: &Sidecar) -> f64 {
    let text = sidecar.probe("/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix("mainstay_sync_passes_total{outcome=\"unchanged\"} "));
    line.map_or(0.0, |count| count.parse::<f64>().unwrap())
}

/// How many time series a page of metrics has.
fn series(metrics: &str) -> f64 {
    metrics.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count() as f64
}

/// The memory of processes, in bytes: by `Pss:` what they share is counted once, as a container's limit counts it, by
/// `Rss:` as often as it is shared, and by `Anonymous:` what is in no file.
fn memory(ids: &[u32], by: &str) -> f64 {
    let of = |id: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(by)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    };
    ids.iter().map(of).sum()
}
