//! How fast the server answers, beside a bare HTTP server that does nothing and, where they are given, beside its rivals.
//!
//! Starts the real program on a real store with a forest of 100 trees. `cargo bench --bench load -- --help` says what can be
//! chosen, docs/performance.md what came out and what is not fair about it, and benches/peers/run starts the rivals. A
//! clock fails nothing here, only a wrong answer or none does.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use mainstay_models::ModelSpec;
use mainstay_server::engine::Engine;
use mainstay_server::rows::Rows;
use ndarray::Array2;
use tempfile::TempDir;

#[path = "load/bare.rs"]
mod bare;
#[path = "load/bodies.rs"]
mod bodies;
#[path = "fleet/chance.rs"]
#[allow(dead_code, reason = "the fleet uses all of it")]
mod chance;
#[path = "load/client.rs"]
mod client;
#[path = "load/contest.rs"]
mod contest;
#[path = "load/grpc.rs"]
mod grpc;
#[path = "../tests/e2e/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use all of it")]
mod harness;
#[path = "load/network.rs"]
mod network;
#[path = "load/overload.rs"]
mod overload;
#[path = "load/pauses.rs"]
mod pauses;
#[path = "load/peers.rs"]
mod peers;
#[path = "fleet/plot.rs"]
mod plot;
#[path = "load/process.rs"]
#[allow(dead_code, reason = "what follows a repository is measured with it too")]
mod process;
#[path = "load/reload.rs"]
mod reload;
#[path = "load/report.rs"]
mod report;
#[path = "load/servers.rs"]
mod servers;
#[path = "load/store.rs"]
mod store;

use bodies::{Form, requests, rows_of_each};
use contest::{Entrant, Rules};
use plot::{Line, Plot};
use process::{Apart, family, memory_mib, thread_seconds};
use report::{Report, Target};
use servers::{Bare, Served, started};
use store::{Store, forest, version};

/// How many different requests of one row, and of a hundred, are sent in turn.
const SINGLE: usize = 4096;
const HUNDRED: usize = 64;
/// How many models the server has where it has many, each in two versions.
const MANY: usize = 200;
/// How long a server is asked before a short round.
const WARM_BRIEFLY: Duration = Duration::from_millis(100);

/// Measures the server beside a bare HTTP server, in rounds in which each takes its turn
///
/// Exit codes: 0 measured, 101 a program did not do what it should.
#[derive(Parser)]
struct Arguments {
    /// What is measured; all of it, without peers, where nothing is named.
    parts: Vec<Part>,

    /// How many rounds, of which the medians are told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long each takes its turn, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,

    /// One short round: shows that it runs, not how fast.
    #[arg(long)]
    quick: bool,

    /// The rivals that are running, as benches/peers/run writes it.
    #[arg(long)]
    peers: Option<PathBuf>,

    /// The folder for the plot.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance"))]
    plots: PathBuf,

    /// The bare server has one runtime per processor, instead of one for all.
    #[arg(long)]
    bare_per_core: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Serve this file's bytes to everything: the bare server, as it is started by this program.
    #[arg(long, hide = true)]
    bare: Option<PathBuf>,

    /// Serve them over gRPC.
    #[arg(long, hide = true)]
    bare_grpc: bool,

    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// One row a request, with 1, 16 and 64 connections.
    Single,
    /// One row a request, at half of what the server can do on a processor of its own.
    Half,
    /// What requests cost on a processor of its own, beside a load generator that never sleeps.
    Apart,
    /// A hundred rows a request.
    Hundred,
    /// The Open Inference Protocol: JSON, binary tensors, gRPC.
    V2,
    /// The compiled forest beside ONNX Runtime's.
    Engines,
    /// A neural network, of which many rows cost little more than one: what waits is run together.
    Network,
    /// 200 models of two versions beside one model.
    Many,
    /// New versions while requests come at half of what the server can do.
    Reload,
    /// Three times as many requests as the server can answer.
    Overload,
    /// How long an answer takes at each rate, drawn into `--plots`.
    Curve,
    /// From the start until it answers, with memory and idle processor time.
    Start,
    /// The rivals that `--peers` names.
    Peers,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.bare {
        bare::serve(file, arguments.bare_per_core, arguments.bare_grpc);
        return ExitCode::SUCCESS;
    }
    let of_itself = [
        Part::Single,
        Part::Half,
        Part::Apart,
        Part::Hundred,
        Part::V2,
        Part::Engines,
        Part::Network,
        Part::Many,
        Part::Reload,
        Part::Overload,
        Part::Curve,
        Part::Start,
    ];
    let parts = if arguments.parts.is_empty() { &of_itself[..] } else { &arguments.parts };
    let rules = if arguments.quick {
        Rules { rounds: 1, warm: WARM_BRIEFLY, time: Duration::from_millis(300), is_alone: false }
    } else {
        let time = Duration::from_secs_f64(arguments.seconds);
        Rules { rounds: arguments.rounds, warm: Duration::from_millis(500), time, is_alone: false }
    };
    let mut report = Report::new(rules, arguments.bare_per_core);
    for part in parts {
        match part {
            Part::Single => report.single(),
            Part::Half => report.half(),
            Part::Apart => report.apart(),
            Part::Hundred => report.hundred(),
            Part::V2 => report.v2(),
            Part::Engines => report.engines(),
            Part::Network => report.network(),
            Part::Many => report.many(),
            Part::Reload => report.reload(),
            Part::Overload => report.overload(),
            Part::Curve => report.curve(&arguments.plots),
            Part::Start => report.start(),
            Part::Peers => report.peers(arguments.peers.as_deref().expect("--peers names the rivals")),
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
    } else {
        report.print();
    }
    ExitCode::SUCCESS
}

impl Report {
    fn single(&mut self) {
        let served = Served::forest(&[]);
        for (what, form, path) in [
            ("one row with names, /predict", Form::Records, "/predict"),
            ("one row as a list, /predict", Form::Instances, "/predict"),
        ] {
            let requests = requests(form, path, 1, SINGLE);
            let bare = self.bare(&served, &requests);
            let entrants = [bare.entrant(&requests), served.entrant("mainstay", requests)];
            for connections in [1, 16, 64] {
                self.contest(what, 1, &entrants, connections);
            }
        }
    }

    fn half(&mut self) {
        let what = "one row as a list, on a processor of its own";
        let requests = requests(Form::Instances, "/predict", 1, SINGLE);
        let served = Served::forest(&["--threads", "1"]);
        let bare = self.bare(&served, &requests);
        let entrants = [bare.entrant(&requests), served.entrant("mainstay", requests.clone())];
        let apart = Apart::keep(entrants.iter().map(|entrant| entrant.process));
        let peak = served.peak(&requests, self.rules);
        let rules = Rules { is_alone: true, ..self.rules };
        let lines = self.contest_by(rules, &format!("{what}, at half of its peak"), 1, &entrants, 64, Some(peak / 2.0));
        let ratio =
            |line: &contest::Line| (line.server.clone(), line.window_p99_ms / line.p50_ms, line.p99_ms / line.p50_ms);
        let ratios: Vec<_> = lines.iter().map(ratio).collect();
        drop(apart);
        for (server, windows, whole) in ratios {
            let target = (server == "mainstay").then_some(Target::Below(3.0));
            let within = format!("{} ms", contest::WINDOW.as_millis());
            let what = "p99 over p50 at half of the peak";
            self.figure(format!("{what}, {server}, median of what is asked within {within}"), windows, "", target);
            self.figure(format!("{what}, {server}, whole rounds"), whole, "", None);
        }
        let pauses = pauses::measure(self.rules.time * self.rules.rounds as u32);
        let longest_ms = pauses.longest.as_secs_f64() * 1e3;
        self.figure("programs that only look at the clock: longest pause".to_owned(), longest_ms, "ms", None);
        let share = pauses.share * 100.0;
        self.figure("programs that only look at the clock: lost in pauses above 0.1 ms".to_owned(), share, "%", None);
    }

    fn apart(&mut self) {
        let served = Served::forest(&["--threads", "1"]);
        let apart = Apart::keep([served.server.program.id()]);
        let rules = Rules { is_alone: true, ..self.rules };
        let v2 = "/v2/models/forest/infer";
        let mut hundred_us = f64::NAN;
        for (what, form, path, rows, count) in [
            ("one row with names, /predict", Form::Records, "/predict", 1, SINGLE),
            ("one row as a list, /predict", Form::Instances, "/predict", 1, SINGLE),
            ("one row, Open Inference Protocol, JSON", Form::V2, v2, 1, SINGLE),
            ("one row, Open Inference Protocol, binary", Form::V2Binary, v2, 1, SINGLE),
            ("100 rows, Open Inference Protocol, binary", Form::V2Binary, v2, 100, HUNDRED),
        ] {
            let requests = requests(form, path, rows, count);
            // Started on one processor, it has one thread, which needs no other to give it work.
            let bare = self.bare(&served, &requests);
            let entrants = [bare.entrant(&requests), served.entrant("mainstay", requests)];
            apart.add(entrants[0].process);
            for connections in if rows == 1 { &[16, 64][..] } else { &[16] } {
                let what = format!("{what}, on a processor of its own");
                let lines = self.contest_by(rules, &what, rows, &entrants, *connections, None);
                if rows == 100 {
                    hundred_us = lines[1].cpu_us;
                }
            }
        }
        let engine_us = engine_us(rules);
        drop(apart);
        self.figure("the engine alone, 100 rows".to_owned(), engine_us, "us", None);
        let what = "100 rows as binary tensors: rows a second of processor time, of the engine's own".to_owned();
        self.figure(what, engine_us / hundred_us, "", Some(Target::Above(0.8)));
    }

    fn hundred(&mut self) {
        let served = Served::forest(&[]);
        let requests = requests(Form::Instances, "/predict", 100, HUNDRED);
        let bare = self.bare(&served, &requests);
        let entrants = [bare.entrant(&requests), served.entrant("mainstay", requests)];
        self.contest("100 rows as lists, /predict", 100, &entrants, 16);
    }

    fn v2(&mut self) {
        let served = Served::forest(&[]);
        let path = "/v2/models/forest/infer";
        for (what, form, rows, count) in [
            ("one row, Open Inference Protocol, JSON", Form::V2, 1, SINGLE),
            ("one row, Open Inference Protocol, binary", Form::V2Binary, 1, SINGLE),
            ("100 rows, Open Inference Protocol, JSON", Form::V2, 100, HUNDRED),
            ("100 rows, Open Inference Protocol, binary", Form::V2Binary, 100, HUNDRED),
        ] {
            let requests = requests(form, path, rows, count);
            let bare = self.bare(&served, &requests);
            let entrants = [bare.entrant(&requests), served.entrant("mainstay", requests)];
            for connections in if rows == 1 { &[16, 64][..] } else { &[16] } {
                self.contest(what, rows, &entrants, *connections);
            }
        }
        for (what, rows, count) in [("one row, gRPC", 1, SINGLE), ("100 rows, gRPC", 100, HUNDRED)] {
            let messages = grpc::messages(rows, count);
            let answer = grpc::called_once("mainstay", served.server.listen, &messages[0]);
            let bare = Bare::start(&answer, self.bare_per_core, true);
            let mut entrants = [bare.entrant(&messages), served.entrant("mainstay", messages)];
            for entrant in &mut entrants {
                entrant.grpc = true;
            }
            self.contest(what, rows, &entrants, 16);
        }
    }

    fn engines(&mut self) {
        let (compiled, ort) = (Served::forest(&[]), Served::forest(&["--engine", "ort"]));
        let one = |connections| ("one row, engines", 1, SINGLE, connections);
        for (what, rows, count, connections) in [one(16), one(64), ("100 rows, engines", 100, HUNDRED, 16)] {
            let requests = requests(Form::Instances, "/predict", rows, count);
            let bare = self.bare(&compiled, &requests);
            let entrants = [
                bare.entrant(&requests),
                compiled.entrant("mainstay, compiled", requests.clone()),
                ort.entrant("mainstay, ONNX Runtime", requests),
            ];
            self.contest(what, rows, &entrants, connections);
        }
        for (name, served) in [("compiled", &compiled), ("ONNX Runtime", &ort)] {
            let memory = memory_mib(&family(served.server.program.id()));
            let below = if name == "compiled" { 25.0 } else { 100.0 };
            self.figure(format!("memory after that load, {name}"), memory, "MiB", Some(Target::Below(below)));
        }
    }

    fn network(&mut self) {
        let folder = TempDir::new().unwrap();
        let version = folder.path().join("network/1.0.0");
        std::fs::create_dir_all(&version).unwrap();
        let file = network::file();
        std::fs::write(version.join("model.yaml"), network::card(&file)).unwrap();
        std::fs::write(version.join("model.onnx"), file).unwrap();
        let (program, address) = started(&["--models", folder.path().to_str().unwrap()]);
        let requests = requests(Form::Instances, "/predict", 1, SINGLE);
        let entrant = Entrant { name: "mainstay".to_owned(), address, process: program.id(), requests, grpc: false };
        let rates = [1, 2, 16, 64].map(|connections| {
            let lines = self.contest("one row, a neural network", 1, std::slice::from_ref(&entrant), connections);
            (connections, lines[0].requests_per_s)
        });
        let one = rates[0].1;
        for (connections, rate) in &rates[1..] {
            // Each by itself, they could be no more times as many than there are processors.
            let target = (*connections == 64).then_some(Target::Above(4.0));
            let what = format!("a neural network, {connections} connections: requests a second, of those with one");
            self.figure(what, rate / one, "", target);
        }
    }

    fn many(&mut self) {
        let names: Vec<String> = (0..MANY).map(|index| format!("forest-{index:03}")).collect();
        let both = vec![version(0), version(1)];
        let models: Vec<_> = names.iter().map(|name| (name.clone(), both.clone())).collect();
        let begun = Instant::now();
        let mut many = Served::new(&models, &[]);
        let took = begun.elapsed();
        self.figure(format!("{MANY} models of two versions: from nothing until live"), took.as_secs_f64(), "s", None);
        let mut one = Served::forest(&[]);
        let of_many: Vec<_> = names
            .iter()
            .zip(0..)
            .flat_map(|(name, from)| {
                let path = format!("/models/{name}/predict");
                requests(Form::Instances, &path, 1, 20 + from % 2)
            })
            .collect();
        let of_one = requests(Form::Instances, "/models/forest/predict", 1, SINGLE);
        let of_last = requests(Form::Instances, &format!("/models/{}/predict", names[MANY - 1]), 1, SINGLE);
        let entrants = [
            one.entrant("one model", of_one),
            many.entrant("one of 200 models", of_last),
            // Each with trees of its own, which no cache has room for.
            many.entrant("200 models in turn", of_many),
        ];
        let lines = self.contest("one row, many models", 1, &entrants, 16);
        let ratio = lines[1].cpu_of_first;
        self.figure(
            format!("processor time of a request with {MANY} models, of that with one"),
            ratio,
            "",
            Some(Target::Below(1.2)),
        );
        let each = memory_mib(&family(many.server.program.id()));
        self.figure(format!("memory of {MANY} models of two versions"), each, "MiB", None);
        let mut took = Vec::new();
        for served in [&mut one, &mut many] {
            let mut models = served.models.clone();
            models[0].1[0] = version(7);
            let (begun, live) = served.roll(models);
            took.push((live - begun).as_secs_f64() * 1e3);
        }
        self.figure("a new version, one model: published until live".to_owned(), took[0], "ms", None);
        let what = format!("a new version, {MANY} models: published until live");
        self.figure(what, took[1], "ms", Some(Target::Below(took[0] * 1.2)));
    }

    fn curve(&mut self, folder: &Path) {
        let served = Served::forest(&[]);
        let requests = requests(Form::Instances, "/predict", 1, SINGLE);
        let bare = self.bare(&served, &requests);
        let peak = served.peak(&requests, self.rules);
        let entrants = [bare.entrant(&requests), served.entrant("mainstay", requests)];
        let rounds = Rules { rounds: self.rules.rounds.min(3), ..self.rules };
        let mut lines = Vec::new();
        for quantile in ["half", "99 %"] {
            let line = |entrant: &Entrant| Line { name: format!("{}, {quantile}", entrant.name), points: Vec::new() };
            lines.extend(entrants.iter().map(line));
        }
        for share in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9] {
            eprintln!("one row, {:.0} requests/s", peak * share);
            let outcome = contest::hold(&entrants, 64, Some(peak * share), rounds);
            for (index, line) in outcome.iter().enumerate() {
                lines[index].points.push((peak * share, line.p50_ms));
                lines[entrants.len() + index].points.push((peak * share, line.p99_ms));
            }
        }
        std::fs::create_dir_all(folder).unwrap();
        let title = "One row a request, 64 connections: answered within";
        let plot = Plot { title, x: "requests a second", y: "milliseconds", log_x: false, log_y: true, lines };
        plot.write(&folder.join("latency.svg"));
    }

    fn start(&mut self) {
        let times = self.rules.rounds;
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("store");
        Store::new(&path).publish(&[forest(0)]);
        let path = path.to_str().unwrap();
        for (what, arguments, ready_ms, mib) in [
            ("shipped models", &[][..], Some(50.0), None),
            ("shipped models, ONNX Runtime", &["--engine", "ort"][..], None, Some(100.0)),
            ("a store with the forest", &["--store", path][..], None, Some(25.0)),
        ] {
            let mut ready = Vec::new();
            let mut memory = Vec::new();
            for _ in 0..times {
                let begun = Instant::now();
                let (program, _) = started(arguments);
                ready.push(begun.elapsed().as_secs_f64() * 1e3);
                memory.push(memory_mib(&family(program.id())));
            }
            let target = ready_ms.map(Target::Below);
            self.figure(format!("from the start until ready, {what}"), contest::median(ready), "ms", target);
            let target = mib.map(Target::Below);
            self.figure(format!("memory once ready, {what}"), contest::median(memory), "MiB", target);
        }
        let (program, _) = started(&["--store", path]);
        // What the beginning leaves to be done is over.
        std::thread::sleep(self.rules.time);
        let time = self.rules.time * 4;
        let before = thread_seconds(program.id());
        std::thread::sleep(time);
        let share = (thread_seconds(program.id()) - before) / time.as_secs_f64() * 100.0;
        self.figure("processor time while nobody asks".to_owned(), share, "%", Some(Target::Below(0.1)));
    }

    /// A bare server that gives what `served` answers to the first of `requests`.
    fn bare(&self, served: &Served, requests: &[Vec<u8>]) -> Bare {
        let (status, answer) = client::ask(served.server.listen, &requests[0]);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        Bare::start(client::body(&answer), self.bare_per_core, false)
    }
}

/// How long the compiled forest takes for the hundred rows of each request by itself: the median of the rounds.
fn engine_us(rules: Rules) -> f64 {
    let spec = ModelSpec::parse("model.yaml", store::CARD.as_bytes()).unwrap();
    let engine = Engine::compile(store::FILE, &spec).unwrap();
    let rows: Vec<Rows> = rows_of_each(100, HUNDRED).map(|rows| Array2::from(rows).into()).collect();
    let run = |time: Duration| {
        let (begun, mut runs) = (Instant::now(), 0);
        for rows in rows.iter().cycle() {
            if begun.elapsed() >= time {
                break;
            }
            engine.run(rows, begun + 2 * time).unwrap();
            runs += 1;
        }
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(runs)
    };
    run(rules.warm);
    contest::median((0..rules.rounds).map(|_| run(rules.time)).collect())
}
