//! What many pods ask of one git host, of an artifact store and of Prometheus, and how many pods a day of traffic needs.
//!
//! A discrete event simulation with a seed: the same arguments give the same figures and the same plots. What a look and
//! a fetch cost is measured by `cargo bench --bench gitops -- https --json`, whose output lies in `fleet/costs.json`. The
//! two days of traffic are a made and a recorded one: [`day`] says how.
//! `cargo bench --bench fleet` writes the plots of docs/fleet.md and docs/scale.md, and prints their tables.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people at a terminal")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser;

#[path = "fleet/autoscaler.rs"]
mod autoscaler;
#[path = "fleet/chance.rs"]
mod chance;
#[path = "fleet/costs.rs"]
mod costs;
#[path = "fleet/day.rs"]
mod day;
#[path = "fleet/host.rs"]
mod host;
#[path = "fleet/plot.rs"]
mod plot;

use costs::Costs;
use host::{Cache, Scenario, simulate};
use plot::{Line, Plot};

/// Simulates fleets of sidecars and servers, and draws what comes out
#[derive(Parser)]
struct Arguments {
    /// The folder for the plots.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fleet"))]
    plots: PathBuf,

    /// What chance begins with.
    #[arg(long, default_value_t = 7)]
    seed: u64,

    /// The git host's processors.
    #[arg(long, default_value_t = 16)]
    cores: usize,

    /// Write fleet/day.csv anew before it is read.
    #[arg(long)]
    new_day: bool,

    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.plots).unwrap();
    let here = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/fleet"));
    let costs = Costs::read(&here.join("costs.json"));
    if arguments.new_day {
        day::write(&here.join("day.csv"), arguments.seed);
    }
    let base = Scenario {
        pods: 10_000,
        interval_s: 10.0,
        jitter: 0.1,
        at_once: false,
        told_per_s: None,
        cache: None,
        cores: arguments.cores,
        commit_s: 60.0,
        end_s: 300.0,
        seed: arguments.seed,
    };
    start(&arguments, &base, &costs);
    commits(&arguments, &base, &costs);
    load(&arguments, &base, &costs);
    scale(&arguments, &costs);
    let made = day::read(&here.join("day.csv"));
    let mean = made.iter().sum::<f64>() / made.len() as f64;
    autoscaling(&arguments, "made", &made);
    autoscaling(&arguments, "recorded", &day::recorded(&here.join("recorded.csv"), mean));
}

/// Ten thousand pods begin in the same moment: how soon does jitter spread them?
fn start(arguments: &Arguments, base: &Scenario, costs: &Costs) {
    println!("## A start of all pods at once\n");
    println!("| | most advertisements in a second, first 10 s | in the third minute |\n|---|---:|---:|");
    let mut lines = Vec::new();
    for (name, jitter) in [("no jitter", 0.0), ("jitter of 10 %", 0.1)] {
        // As many processors as it takes: it is the demand that is looked at.
        let scenario = Scenario { jitter, at_once: true, cores: usize::MAX, commit_s: 1e9, end_s: 180.0, ..*base };
        let outcome = simulate(&scenario, costs);
        let most = |from: usize, to: usize| outcome.looks_per_s[from..to].iter().max().unwrap();
        println!("| {name} | {} | {} |", most(0, 10), most(120, 180));
        let points = outcome.looks_per_s.iter().enumerate().map(|(second, looks)| (second as f64, *looks as f64));
        lines.push(Line { name: name.to_owned(), points: points.collect() });
    }
    println!();
    Plot {
        title: "10,000 pods begin at once, a look each 10 s",
        x: "seconds",
        y: "advertisements a second",
        log_x: false,
        log_y: false,
        lines,
    }
    .write(&arguments.plots.join("start.svg"));
}

/// A commit comes to ten thousand pods: what does the host bear, and when do all have it?
fn commits(arguments: &Arguments, base: &Scenario, costs: &Costs) {
    let cache = Some(Cache { count: 10, lifetime_s: 1.0 });
    let rows = [
        ("a look each 1 s", Scenario { interval_s: 1.0, ..*base }),
        ("a look each 10 s", *base),
        ("a look each 60 s", Scenario { interval_s: 60.0, ..*base }),
        (
            "a look each 600 s, told at 500 pods a second",
            Scenario { interval_s: 600.0, told_per_s: Some(500.0), ..*base },
        ),
        ("a look each 600 s, told at once", Scenario { interval_s: 600.0, told_per_s: Some(1e6), ..*base }),
        ("a look each 1 s at one of 10 caches", Scenario { interval_s: 1.0, cache, ..*base }),
        ("a look each 10 s at one of 10 caches", Scenario { cache, ..*base }),
    ];
    println!("## 10,000 pods, one git host with {} processors\n", base.cores);
    println!(
        "| | advertisements a second | Mbit/s | processors busy | looks given up | half have a commit after | 99 % | all |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut lines = Vec::new();
    for (name, scenario) in rows {
        let outcome = simulate(&scenario, costs);
        // The minute before the commit: nothing changes.
        let calm = 30..scenario.commit_s as usize;
        let mean = |values: &[f64]| values[calm.clone()].iter().sum::<f64>() / calm.len() as f64;
        let looks: Vec<f64> = outcome.looks_per_s.iter().map(|looks| *looks as f64).collect();
        let bits = mean(&outcome.bytes_per_s) * 8.0 / 1e6;
        let after = |share: f64| match outcome.had_after(share) {
            Some(seconds) => format!("{seconds:.1} s"),
            None => format!("not in {:.0} s", scenario.end_s - scenario.commit_s),
        };
        println!(
            "| {name} | {:.0} | {bits:.1} | {:.1} | {:.1} % | {} | {} | {} |",
            mean(&looks),
            mean(&outcome.busy_per_s),
            outcome.given_up_share() * 100.0,
            after(0.5),
            after(0.99),
            after(1.0),
        );
        lines.push(Line { name: name.to_owned(), points: outcome.share_over_time() });
    }
    println!();
    Plot {
        title: "When 10,000 pods have a commit",
        x: "seconds since the push",
        y: "share of the pods in %",
        log_x: true,
        log_y: false,
        lines,
    }
    .write(&arguments.plots.join("commit.svg"));
}

/// How many processors a git host needs for a number of pods.
fn load(arguments: &Arguments, base: &Scenario, costs: &Costs) {
    let cache = Some(Cache { count: 10, lifetime_s: 1.0 });
    let kinds = [
        ("a look each 1 s", 1.0, None),
        ("a look each 10 s", 10.0, None),
        ("a look each 60 s", 60.0, None),
        ("a look each 1 s at one of 10 caches", 1.0, cache),
    ];
    println!("## Processors that an unchanged repository keeps busy\n");
    println!("| pods | {} |\n|---:|{}", kinds.map(|(name, ..)| name).join(" | "), "---:|".repeat(kinds.len()));
    let mut lines: Vec<Line> =
        kinds.map(|(name, ..)| Line { name: name.to_owned(), points: Vec::new() }).into_iter().collect();
    for pods in [10, 30, 100, 300, 1000, 3000, 10_000] {
        let mut cells = Vec::new();
        for ((_, interval_s, cache), line) in kinds.iter().zip(&mut lines) {
            let (interval_s, cache) = (*interval_s, *cache);
            let scenario =
                Scenario { pods, interval_s, cache, cores: usize::MAX, commit_s: 1e9, end_s: 150.0, ..*base };
            let busy = &simulate(&scenario, costs).busy_per_s[30..150];
            let busy = busy.iter().sum::<f64>() / busy.len() as f64;
            cells.push(format!("{busy:.2}"));
            line.points.push((f64::from(pods as u32), busy.max(1e-3)));
        }
        println!("| {pods} | {} |", cells.join(" | "));
    }
    println!();
    Plot {
        title: "What an unchanged repository costs its host",
        x: "pods",
        y: "processors busy",
        log_x: true,
        log_y: true,
        lines,
    }
    .write(&arguments.plots.join("load.svg"));
}

/// What else grows with pods and models.
fn scale(arguments: &Arguments, costs: &Costs) {
    println!("## Time series in Prometheus\n\n| pods | 1 model | 10 models | 100 models |\n|---:|---:|---:|---:|");
    let models = [1.0, 10.0, 100.0];
    let mut lines: Vec<Line> = models
        .map(|count| Line { name: format!("{count:.0} models, one version each"), points: Vec::new() })
        .into_iter()
        .collect();
    for pods in [10.0, 100.0, 1000.0, 10_000.0] {
        let series = models.map(|models| pods * costs.series(models));
        println!("| {pods:.0} | {} |", series.map(|series| format!("{series:.0}")).join(" | "));
        for (line, series) in lines.iter_mut().zip(series) {
            line.points.push((pods, series));
        }
    }
    println!();
    Plot { title: "Time series of a fleet", x: "pods", y: "time series", log_x: true, log_y: true, lines }
        .write(&arguments.plots.join("series.svg"));

    println!("## Bytes that a roll takes from an artifact store or registry\n");
    println!(
        "| pods | model of 70 kB | 10 MB | 1 GB | seconds for 10 MB at 10 Gbit/s | for 1 GB |\n|---:|---:|---:|---:|---:|---:|"
    );
    for pods in [10.0, 100.0, 1000.0, 10_000.0] {
        let bytes = [70e3, 10e6, 1e9].map(|size| pods * size);
        let gigabytes = bytes.map(|bytes| format!("{:.2} GB", bytes / 1e9));
        let seconds = |bytes: f64| bytes * 8.0 / 10e9;
        println!("| {pods:.0} | {} | {:.1} | {:.0} |", gigabytes.join(" | "), seconds(bytes[1]), seconds(bytes[2]));
    }
    println!();
}

/// How many pods an autoscaler keeps through a day.
fn autoscaling(arguments: &Arguments, kind: &str, day: &[f64]) {
    println!("## A {kind} day of traffic\n");
    println!(
        "| a new pod answers after | pod hours | most pods | least | pods added and taken | seconds over twice the target | longest |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut lines = vec![Line {
        name: "requests a second, in hundreds".to_owned(),
        points: day.iter().enumerate().map(|(minute, rate)| (minute as f64 / 60.0, rate / 100.0)).collect(),
    }];
    let mut by_delay = BTreeMap::new();
    for ready_s in [5, 30, 120] {
        let outcome = autoscaler::run(day, ready_s);
        println!(
            "| {ready_s} s | {:.0} | {} | {} | {} | {} | {} s |",
            outcome.pod_hours(),
            outcome.pods.iter().max().unwrap(),
            outcome.pods.iter().min().unwrap(),
            outcome.changes,
            outcome.overloaded.iter().sum::<u32>(),
            outcome.overloaded.iter().max().unwrap_or(&0),
        );
        by_delay.insert(ready_s, outcome);
    }
    println!();
    let pods = &by_delay[&30].pods;
    let points = pods.iter().enumerate().step_by(60).map(|(second, pods)| (second as f64 / 3600.0, f64::from(*pods)));
    lines.push(Line { name: "pods that answer (ready after 30 s)".to_owned(), points: points.collect() });
    Plot {
        title: &format!("A {kind} day of traffic, and the pods that an autoscaler keeps for it"),
        x: "hour of the day",
        y: "pods; requests a second / 100",
        log_x: false,
        log_y: false,
        lines,
    }
    .write(&arguments.plots.join(format!("{kind}-day.svg")));
}
