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

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use mainstay_models::ModelSpec;
use mainstay_server::engine::Engine;
use mainstay_server::rows::Rows;
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

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
#[path = "load/pauses.rs"]
mod pauses;
#[path = "fleet/plot.rs"]
mod plot;
#[path = "load/process.rs"]
#[allow(dead_code, reason = "what follows a repository is measured with it too")]
mod process;
#[path = "load/store.rs"]
mod store;

use bodies::{Form, requests, rows_of_each};
use client::Plan;
use contest::{Entrant, Rules, at, latencies_ms};
use harness::{Program, Server, eventually, mainstay};
use plot::{Line, Plot};
use process::{Apart, family, memory_mib, thread_seconds};
use store::{Store, forest, version};

/// How many different requests of one row, and of a hundred, are sent in turn.
const SINGLE: usize = 4096;
const HUNDRED: usize = 64;
/// How many models the server has where it has many, each in two versions.
const MANY: usize = 200;
/// How long a server is asked before a short round.
const WARM_BRIEFLY: Duration = Duration::from_millis(100);
/// How often versions that have passed their trial are rolled for each that has not: they are live at once.
const PASSED_ROLLS: usize = 6;

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

/// Servers beside each other.
#[derive(Serialize)]
struct Table {
    what: String,
    rows_per_request: usize,
    lines: Vec<contest::Line>,
}

/// One figure.
#[derive(Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// What it should be: `below` or `above` a value; none where it is only told.
    target: Option<Target>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Target {
    Below(f64),
    Above(f64),
}

/// A rival that is running.
#[derive(Deserialize)]
struct Peer {
    name: String,
    address: SocketAddr,
    path: String,
    /// Whether it is asked in the Open Inference Protocol.
    v2: bool,
    /// Where it is asked over gRPC, where it can be.
    grpc: Option<SocketAddr>,
    process: u32,
    /// From its start to its first answer.
    start_s: f64,
}

#[derive(Serialize)]
struct Report {
    tables: Vec<Table>,
    figures: Vec<Figure>,
    #[serde(skip)]
    rules: Rules,
    #[serde(skip)]
    bare_per_core: bool,
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
    let mut report = Report { tables: Vec::new(), figures: Vec::new(), rules, bare_per_core: arguments.bare_per_core };
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
            let messages = messages(rows, count);
            let answer = called_once("mainstay", served.server.listen, &messages[0]);
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

    fn reload(&mut self) {
        self.reload_of("all processors", Served::forest(&[]), None);
        let served = Served::forest(&["--threads", "1"]);
        // Its trials are kept there too.
        let apart = Apart::keep([served.server.program.id()]);
        self.reload_of("a processor of its own", served, Some(&apart));
    }

    fn reload_of(&mut self, whose: &str, mut served: Served, apart: Option<&Apart>) {
        let requests = requests(Form::Instances, "/predict", 1, SINGLE);
        let rules = Rules { is_alone: apart.is_some(), ..self.rules };
        let peak = served.peak(&requests, rules);
        let (address, requests) = (served.server.listen, &requests);
        let rounds = self.rules.rounds.max(2);
        let plan = |time| Plan {
            address,
            requests,
            connections: 64,
            rate_per_s: Some(peak / 2.0),
            is_alone: rules.is_alone,
            warm: rules.warm,
            time,
        };
        let within = format!("p99 of what is asked within {} ms, median", contest::WINDOW.as_millis());
        // Off the generator, whose requests would be late and not the server's answers, and whose processor may never be idle.
        let step_aside = || {
            process::take_what_is_left();
            if let Some(apart) = apart {
                apart.add_thread();
            }
        };
        let done = AtomicBool::new(false);
        let beside = std::thread::scope(|scope| {
            scope.spawn(|| {
                step_aside();
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let outcome = client::run(&plan(rules.time * rounds as u32), || {});
            done.store(true, Ordering::Relaxed);
            contest::median(contest::window_p99_ms(outcome.samples.iter().map(|sample| ((), sample.due, sample))))
        });
        // The least that a trial can cost, which computes in the same way and does more.
        self.figure(format!("{whose}, beside a loop that takes what is left: {within}"), beside, "ms", None);
        for (which, rolls) in [("new versions", rounds), ("versions that passed before", rounds * PASSED_ROLLS)] {
            let what = format!("{whose}, {which}");
            // A reload with its trial takes some seconds beside the load.
            let time = (self.rules.time + Duration::from_secs(6)) * rounds as u32;
            let pause = self.rules.time * rounds as u32 / (2 * rolls as u32);
            let done = AtomicBool::new(false);
            let (outcome, spans) = std::thread::scope(|scope| {
                let asking = scope.spawn(|| {
                    let outcome = client::run(&plan(time), || {});
                    done.store(true, Ordering::Relaxed);
                    outcome
                });
                let rolling = scope.spawn(|| {
                    step_aside();
                    let mut spans = Vec::new();
                    std::thread::sleep(self.rules.warm + self.rules.time / 2);
                    for patch in (10..10 + rounds as u64).cycle().take(rolls) {
                        let (begun, live) = served.roll(vec![forest(patch)]);
                        if done.load(Ordering::Relaxed) {
                            // Where nothing is left of the processors, a trial ends only after the load.
                            break;
                        }
                        spans.push((begun, live));
                        // So that there is time without a reload to compare with.
                        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
                    }
                    assert!(!spans.is_empty(), "a reload takes longer than the load: give it more --seconds");
                    spans
                });
                let spans = rolling.join().unwrap();
                (asking.join().unwrap(), spans)
            });
            // Where in the run something was due, each reload being a part of its own and so is what lies behind it.
            let place = |due: Duration| {
                let due = outcome.began + due;
                let at = spans.partition_point(|(from, _)| *from <= due);
                let Some((from, to)) = at.checked_sub(1).map(|last| spans[last]) else {
                    return ((0, false), due - outcome.began);
                };
                if due < to { ((at, true), due - from) } else { ((at, false), due - to) }
            };
            let placed = outcome.samples.iter().map(|sample| {
                let (part, since) = place(sample.due);
                (part, since, sample)
            });
            let (during, calm): (Vec<_>, Vec<_>) = placed.partition(|((_, is_reload), ..)| *is_reload);
            let failed = outcome.samples.iter().filter(|sample| sample.status != 200).count();
            self.figure(format!("{what}: reloads during the load"), spans.len() as f64, "", None);
            let took = spans.iter().map(|(from, to)| (*to - *from).as_secs_f64() * 1e3).collect();
            self.figure(format!("{what}: published until live, median"), contest::median(took), "ms", None);
            let [calm, during] = [calm, during].map(|answers| {
                let whole = at(&latencies_ms(answers.iter().map(|(_, _, sample)| *sample)), 0.99);
                (contest::median(contest::window_p99_ms(answers.into_iter())), whole)
            });
            self.figure(format!("{what}: {within}, without a reload"), calm.0, "ms", None);
            self.figure(format!("{what}: {within}, during a reload"), during.0, "ms", None);
            let ratio = during.0 / calm.0;
            self.figure(format!("{what}: {within}, of that without"), ratio, "", Some(Target::Below(1.1)));
            self.figure(format!("{what}: p99 without a reload"), calm.1, "ms", None);
            self.figure(format!("{what}: p99 during a reload"), during.1, "ms", None);
            let failed = failed + outcome.lost + outcome.unsent;
            self.figure(format!("{what}: failed requests"), failed as f64, "", Some(Target::Below(1.0)));
        }
    }

    fn overload(&mut self) {
        // What a request costs beside a refusal of it is what matters here.
        for (engine_name, engine) in [("compiled", "auto"), ("ONNX Runtime", "ort")] {
            // Large enough that the load generator is not what is overloaded.
            for (rows, count) in [(100, HUNDRED), (1000, HUNDRED / 10)] {
                let what = format!("{engine_name}, {rows} rows");
                let requests = requests(Form::Instances, "/predict", rows, count);
                let served = Served::forest(&["--engine", engine]);
                self.overload_of(&format!("{what}, all processors"), &served, &requests, self.rules);
                drop(served);
                let served = Served::forest(&["--engine", engine, "--threads", "1"]);
                let _apart = Apart::keep([served.server.program.id()]);
                let rules = Rules { is_alone: true, ..self.rules };
                self.overload_of(&format!("{what}, a processor of its own"), &served, &requests, rules);
            }
        }
    }

    fn overload_of(&mut self, what: &str, served: &Served, requests: &[Vec<u8>], rules: Rules) {
        let ids = family(served.server.program.id());
        let before = memory_mib(&ids);
        let mut memory = Vec::new();
        let mut peaks = Vec::new();
        let mut goodput = Vec::new();
        let mut shed = Vec::new();
        let mut outcomes = Vec::new();
        for _ in 0..rules.rounds {
            // Anew before each, since a machine's speed moves from one second to the next.
            let peak = served.peak(requests, Rules { rounds: 1, ..rules });
            let plan = Plan {
                address: served.server.listen,
                requests,
                connections: 2000,
                rate_per_s: Some(peak * 3.0),
                is_alone: rules.is_alone,
                warm: rules.warm,
                time: rules.time,
            };
            // Once when the counting begins, and once when it ends.
            let outcome = client::run(&plan, || memory.push(memory_mib(&ids)));
            goodput.push(outcome.good as f64 / rules.time.as_secs_f64() / peak);
            peaks.push(peak);
            let refused = outcome.samples.iter().filter(|sample| sample.status == 503);
            shed.extend(refused.map(|sample| (sample.took - sample.waited).as_secs_f64() * 1e3));
            outcomes.push(outcome);
        }
        let all = outcomes.iter().flat_map(|outcome| &outcome.samples);
        let other = all.clone().filter(|sample| !matches!(sample.status, 200 | 503)).count();
        let took = latencies_ms(all.filter(|sample| sample.status == 200));
        shed.sort_by(f64::total_cmp);
        self.figure(format!("{what}: peak"), contest::median(peaks), "/s", None);
        self.figure(
            format!("{what}: goodput at three times the peak, of the peak"),
            contest::median(goodput),
            "",
            Some(Target::Above(0.95)),
        );
        self.figure(format!("{what}: requests refused with 503"), shed.len() as f64, "", None);
        self.figure(
            format!("{what}: a refusal, from sent to answered: p99"),
            at(&shed, 0.99),
            "ms",
            Some(Target::Below(5.0)),
        );
        self.figure(format!("{what}: an answer, from due to answered: p50"), at(&took, 0.5), "ms", None);
        self.figure(format!("{what}: an answer, from due to answered: p99"), at(&took, 0.99), "ms", None);
        let unsent: usize = outcomes.iter().map(|outcome| outcome.unsent).sum();
        self.figure(format!("{what}: requests that found no connection in time"), unsent as f64, "", None);
        let lost: usize = outcomes.iter().map(|outcome| outcome.lost).sum();
        self.figure(format!("{what}: other answers, or none"), (other + lost) as f64, "", Some(Target::Below(1.0)));
        self.figure(format!("{what}: memory before"), before, "MiB", None);
        self.figure(format!("{what}: memory at the end of the first time"), memory[1], "MiB", None);
        self.figure(format!("{what}: memory at the end of the last time"), *memory.last().unwrap(), "MiB", None);
        // A server looks at its connections once a second.
        std::thread::sleep(Duration::from_secs(3));
        self.figure(format!("{what}: memory 3 s afterwards"), memory_mib(&ids), "MiB", None);
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

    /// One row a call, beside those of `peers` that speak gRPC.
    fn grpc_peers(&mut self, peers: &[Peer], served: &Served) {
        let messages = messages(1, SINGLE);
        let called = |name: &str, address, process| {
            let (name, requests) = (name.to_owned(), messages.clone());
            Entrant { name, address, process, requests, grpc: true }
        };
        let answer = |entrant: &Entrant| called_once(&entrant.name, entrant.address, &entrant.requests[0]);
        let mainstay = called("mainstay, compiled", served.server.listen, served.server.program.id());
        let mine = answer(&mainstay);
        let expected = grpc::label(&mine);
        let bare = Bare::start(&mine, self.bare_per_core, true);
        let mut entrants = vec![called("bare hyper", bare.address, bare.child.id()), mainstay];
        for peer in peers {
            let Some(address) = peer.grpc else { continue };
            let entrant = called(&peer.name, address, peer.process);
            assert_eq!(grpc::label(&answer(&entrant)), expected, "{} answers what the others answer", peer.name);
            entrants.push(entrant);
        }
        for connections in [16, 64] {
            self.contest("one row, rivals over gRPC", 1, &entrants, connections);
        }
    }

    fn peers(&mut self, file: &Path) {
        let peers: Vec<Peer> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let (served, ort) = (Served::forest(&[]), Served::forest(&["--engine", "ort"]));
        for (what, rows, count) in [("one row, rivals", 1, SINGLE), ("100 rows, rivals", 100, HUNDRED)] {
            let own = requests(Form::Instances, "/predict", rows, count);
            let bare = self.bare(&served, &own);
            let mut entrants = vec![
                bare.entrant(&own),
                served.entrant("mainstay, compiled", own.clone()),
                ort.entrant("mainstay, ONNX Runtime", own),
            ];
            let expected = labels(&ask(&entrants[1]));
            assert_eq!(expected.len(), rows);
            for peer in &peers {
                let form = if peer.v2 { Form::V2 } else { Form::Instances };
                let entrant = Entrant {
                    name: peer.name.clone(),
                    address: peer.address,
                    process: peer.process,
                    requests: requests(form, &peer.path, rows, count),
                    grpc: false,
                };
                assert_eq!(labels(&ask(&entrant)), expected, "{} answers what the others answer", peer.name);
                entrants.push(entrant);
            }
            for connections in if rows == 1 { &[16, 64][..] } else { &[16] } {
                self.contest(what, rows, &entrants, *connections);
            }
        }
        self.grpc_peers(&peers, &served);
        for peer in &peers {
            let memory = memory_mib(&family(peer.process));
            self.figure(format!("memory after that load, {}", peer.name), memory, "MiB", None);
            self.figure(format!("from the start to the first answer, {}", peer.name), peer.start_s, "s", None);
        }
        for (name, served) in [("mainstay, compiled", &served), ("mainstay, ONNX Runtime", &ort)] {
            let memory = memory_mib(&family(served.server.program.id()));
            self.figure(format!("memory after that load, {name}"), memory, "MiB", None);
        }
    }

    /// A bare server that gives what `served` answers to the first of `requests`.
    fn bare(&self, served: &Served, requests: &[Vec<u8>]) -> Bare {
        let (status, answer) = client::ask(served.server.listen, &requests[0]);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        Bare::start(client::body(&answer), self.bare_per_core, false)
    }

    fn contest(
        &mut self,
        what: &str,
        rows_per_request: usize,
        entrants: &[Entrant],
        connections: usize,
    ) -> &[contest::Line] {
        self.contest_by(self.rules, what, rows_per_request, entrants, connections, None)
    }

    fn contest_by(
        &mut self,
        rules: Rules,
        what: &str,
        rows_per_request: usize,
        entrants: &[Entrant],
        connections: usize,
        rate_per_s: Option<f64>,
    ) -> &[contest::Line] {
        eprintln!("{what}, {connections} connections");
        let lines = contest::hold(entrants, connections, rate_per_s, rules);
        for line in &lines {
            assert_eq!(line.failed, 0, "every request to {} is answered with 200", line.server);
        }
        self.tables.push(Table { what: what.to_owned(), rows_per_request, lines });
        &self.tables.last().expect("one was just added").lines
    }

    fn figure(&mut self, what: String, value: f64, unit: &'static str, target: Option<Target>) {
        eprintln!("{what}: {value:.3} {unit}");
        self.figures.push(Figure { what, value, unit, target });
    }

    fn print(&self) {
        let mut last = "";
        for Table { what, rows_per_request, lines } in &self.tables {
            if last != what {
                println!("\n### {what}\n");
                println!(
                    "| server | connections | requests/s | of the first | rows/s | CPU µs a request | of the first | p50 ms | p99 ms | spread |"
                );
                println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
            }
            last = what;
            for line in lines {
                println!(
                    "| {} | {} | {:.0} | {:.3} | {:.0} | {:.1} | {:.2} | {:.3} | {:.3} | {:.0} % |",
                    line.server,
                    line.connections,
                    line.requests_per_s,
                    line.of_first,
                    line.requests_per_s * *rows_per_request as f64,
                    line.cpu_us,
                    line.cpu_of_first,
                    line.p50_ms,
                    line.p99_ms,
                    line.spread * 100.0,
                );
            }
        }
        if self.figures.is_empty() {
            return;
        }
        println!("\n| | | should be | is it |\n|---|---:|---|---|");
        for Figure { what, value, unit, target } in &self.figures {
            let (should, is) = match target {
                Some(Target::Below(below)) => (format!("below {below:.3} {unit}"), *value < *below),
                Some(Target::Above(above)) => (format!("above {above:.3} {unit}"), *value > *above),
                None => (String::new(), true),
            };
            let verdict = match (target, is) {
                (None, _) => "",
                (_, true) => "yes",
                (_, false) => "no",
            };
            println!("| {what} | {value:.3} {unit} | {} | {verdict} |", should.trim_end());
        }
    }
}

/// A server with forests from a store.
struct Served {
    server: Server,
    store: Store,
    models: Vec<(String, Vec<mainstay_models::Version>)>,
    /// Last, since the store lies in it.
    _folder: TempDir,
}

impl Served {
    fn forest(arguments: &[&str]) -> Self {
        Self::new(&[forest(0)], arguments)
    }

    fn new(models: &[(String, Vec<mainstay_models::Version>)], arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("store");
        let store = Store::new(&path);
        let server = Server::start(&[&["--store", path.to_str().unwrap()], arguments].concat());
        let mut served = Self { server, store, models: Vec::new(), _folder: folder };
        served.roll(models.to_vec());
        served
    }

    /// Publishes models, and waits until all of them are live. Gives when the server could see them, and when they were.
    fn roll(&mut self, models: Vec<(String, Vec<mainstay_models::Version>)>) -> (Instant, Instant) {
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

    fn entrant(&self, name: &str, requests: Vec<Vec<u8>>) -> Entrant {
        let (address, process) = (self.server.listen, self.server.program.id());
        Entrant { name: name.to_owned(), address, process, requests, grpc: false }
    }

    /// Requests a second that it can answer.
    fn peak(&self, requests: &[Vec<u8>], rules: Rules) -> f64 {
        let entrant = self.entrant("mainstay", requests.to_vec());
        contest::hold(&[entrant], 64, None, rules)[0].requests_per_s
    }
}

/// The bare server. It ends with this.
struct Bare {
    child: Child,
    address: SocketAddr,
    _answer: NamedTempFile,
}

impl Bare {
    fn start(answer: &[u8], per_core: bool, grpc: bool) -> Self {
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

    fn entrant(&self, requests: &[Vec<u8>]) -> Entrant {
        let (address, process) = (self.address, self.child.id());
        Entrant { name: "bare hyper".to_owned(), address, process, requests: requests.to_vec(), grpc: false }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// `mainstay serve`, started and ready; its ports are chosen beforehand, so that nothing but its answer is waited for.
fn started(arguments: &[&str]) -> (Program, SocketAddr) {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (listen, admin) = (free(), free());
    let ports = ["serve".to_owned(), format!("--listen={listen}"), format!("--admin={admin}")];
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let program = Program::spawn(mainstay(&[&ports[..], arguments].concat()));
    let look = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    eventually("the server is ready", || {
        let mut stream = std::net::TcpStream::connect(admin).ok()?;
        stream.write_all(look.as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.contains(" 200 ").then_some(())
    });
    (program, listen)
}

/// The body of the answer to an entrant's first request.
fn ask(entrant: &Entrant) -> Value {
    let (status, answer) = client::ask(entrant.address, &entrant.requests[0]);
    assert_eq!(status, 200, "{}: {}", entrant.name, String::from_utf8_lossy(&answer));
    serde_json::from_slice(client::body(&answer)).unwrap()
}

/// So many messages of gRPC, of so many rows each.
fn messages(rows: usize, count: usize) -> Vec<Vec<u8>> {
    rows_of_each(rows, count).map(|rows| grpc::message(&rows)).collect()
}

/// The good answer of `name` to one call.
fn called_once(name: &str, address: SocketAddr, message: &[u8]) -> Vec<u8> {
    let (status, answer) = grpc::ask(address, message);
    assert_eq!(status, 200, "{name}: {}", String::from_utf8_lossy(&answer));
    answer
}

/// The classes in an answer, in whichever form it has.
fn labels(answer: &Value) -> Vec<i64> {
    let outputs = answer["outputs"].as_array().into_iter().flatten();
    let list = match outputs.clone().find(|output| output["name"] == "label") {
        Some(output) => &output["data"],
        None => &answer["prediction"],
    };
    list.as_array().unwrap_or_else(|| panic!("{answer:#}")).iter().map(|label| label.as_i64().unwrap()).collect()
}
