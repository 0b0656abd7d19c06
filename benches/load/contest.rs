//! Servers that take turns: in each round each is asked for the same time, and compared with the first within the round.
//!
//! What the machine does meanwhile changes over minutes more than between neighbours, so ratios are taken per round and
//! their median is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::client::{self, Plan, Sample};
use super::grpc;
use super::process::{cpu_seconds, family};

/// Most pauses of the machine spoil one or two pieces of a run that are as long as this, and most pieces see none.
pub const WINDOW: Duration = Duration::from_millis(50);
/// The fewest answers of which 99 % can be told from all.
const WINDOW_ANSWERS_MIN: usize = 200;

/// A server, or a way to ask one.
pub struct Entrant {
    pub name: String,
    pub address: SocketAddr,
    /// The server's process; its descendants count too.
    pub process: u32,
    /// Whole requests, or gRPC's messages.
    pub requests: Vec<Vec<u8>>,
    pub grpc: bool,
}

/// How a contest is held.
#[derive(Clone, Copy)]
pub struct Rules {
    pub rounds: usize,
    pub warm: Duration,
    pub time: Duration,
    /// Whether this process has a processor of its own.
    pub is_alone: bool,
}

/// What came of one entrant, in medians over the rounds.
#[derive(Serialize)]
pub struct Line {
    pub server: String,
    pub connections: usize,
    pub requests_per_s: f64,
    /// Of the first entrant's in the same round.
    pub of_first: f64,
    pub cpu_us: f64,
    pub cpu_of_first: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The median of the windows' p99.
    pub window_p99_ms: f64,
    /// How far the rounds' throughput lies apart: the difference of the quartiles over the median.
    pub spread: f64,
    /// Answers other than 200, and none at all.
    pub failed: usize,
}

struct Round {
    per_s: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    window_p99_ms: f64,
    failed: usize,
}

/// Lets `entrants` take turns, at `rate_per_s` or as fast as they answer.
pub fn hold(entrants: &[Entrant], connections: usize, rate_per_s: Option<f64>, rules: Rules) -> Vec<Line> {
    let mut rounds: Vec<Vec<Round>> = Vec::new();
    for _ in 0..rules.rounds {
        rounds.push(entrants.iter().map(|entrant| round(entrant, connections, rate_per_s, rules)).collect());
    }
    let line = |(index, entrant): (usize, &Entrant)| {
        let of = |what: fn(&Round) -> f64| median(rounds.iter().map(|round| what(&round[index])).collect());
        let ratio = |what: fn(&Round) -> f64| {
            median(rounds.iter().map(|round| what(&round[index]) / what(&round[0])).collect())
        };
        let mut sorted: Vec<_> = rounds.iter().map(|round| round[index].per_s).collect();
        sorted.sort_by(f64::total_cmp);
        Line {
            server: entrant.name.clone(),
            connections,
            requests_per_s: of(|round| round.per_s),
            of_first: ratio(|round| round.per_s),
            cpu_us: of(|round| round.cpu_us),
            cpu_of_first: ratio(|round| round.cpu_us),
            p50_ms: of(|round| round.p50_ms),
            p99_ms: of(|round| round.p99_ms),
            window_p99_ms: of(|round| round.window_p99_ms),
            spread: (at(&sorted, 0.75) - at(&sorted, 0.25)) / at(&sorted, 0.5),
            failed: rounds.iter().map(|round| round[index].failed).sum(),
        }
    };
    entrants.iter().enumerate().map(line).collect()
}

fn round(entrant: &Entrant, connections: usize, rate_per_s: Option<f64>, rules: Rules) -> Round {
    let plan = Plan {
        address: entrant.address,
        requests: &entrant.requests,
        connections,
        rate_per_s,
        is_alone: rules.is_alone,
        warm: rules.warm,
        time: rules.time,
    };
    let ids = family(entrant.process);
    let mut cpu = Vec::new();
    let mark = || cpu.push(cpu_seconds(&ids));
    let outcome = if entrant.grpc { grpc::run(&plan, mark) } else { client::run(&plan, mark) };
    let answered = outcome.samples.iter().filter(|sample| sample.status == 200).count();
    assert!(answered > 0, "{} answered nothing with 200", entrant.name);
    let took = latencies_ms(outcome.samples.iter());
    Round {
        per_s: answered as f64 / rules.time.as_secs_f64(),
        cpu_us: (cpu[1] - cpu[0]) * 1e6 / outcome.samples.len() as f64,
        p50_ms: at(&took, 0.5),
        p99_ms: at(&took, 0.99),
        window_p99_ms: median(window_p99_ms(outcome.samples.iter().map(|sample| ((), sample.due, sample)))),
        failed: outcome.samples.len() - answered + outcome.lost + outcome.unsent,
    }
}

/// The p99 of each window's answers, in milliseconds. Given are the answers, in which part of the run each was due, and when in
/// that part.
pub fn window_p99_ms<'a, P: Ord>(answers: impl Iterator<Item = (P, Duration, &'a Sample)>) -> Vec<f64> {
    let mut windows: BTreeMap<(P, u128), Vec<&Sample>> = BTreeMap::new();
    for (part, due, sample) in answers {
        windows.entry((part, due.as_nanos() / WINDOW.as_nanos())).or_default().push(sample);
    }
    let enough = windows.into_values().filter(|answers| answers.len() >= WINDOW_ANSWERS_MIN);
    enough.map(|answers| at(&latencies_ms(answers.into_iter()), 0.99)).collect()
}

/// Sorted.
pub fn latencies_ms<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<f64> {
    let mut took: Vec<_> = samples.map(|sample| sample.took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    took
}

/// The value below which `share` of the sorted ones lie; NaN where there are none.
pub fn at(sorted: &[f64], share: f64) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        count => sorted[((count - 1) as f64 * share).round() as usize],
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    at(&values, 0.5)
}
