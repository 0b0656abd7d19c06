//! Kubernetes' HorizontalPodAutoscaler on requests a second, second by second.
//!
//! As autoscaling/v2 documents it: each 15 s it asks for `pods * rate / target`, changes nothing within a tenth of the
//! target, goes up by no more than its policies permit, and down to the most that it asked for in the last five minutes.
//! The rate is Prometheus's over the last minute, as old as a scrape.

use std::collections::VecDeque;

/// The requests a second that each pod is to have.
const TARGET: f64 = 1000.0;
const LEAST: u32 = 2;
const MOST: u32 = 200;
const PERIOD_S: usize = 15;
const TOLERANCE: f64 = 0.1;
/// Over how long a rate is taken, and how old it is.
const RATE_S: usize = 60;
const SCRAPE_S: usize = 15;
/// Going up: as many pods again, or two, whatever is more, each 30 s. Going down: one pod each 60 s, five minutes late.
const UP_S: usize = 30;
const UP_PODS: u32 = 2;
const DOWN_S: usize = 60;
const STABLE_S: usize = 300;

pub struct Outcome {
    /// The pods that answer, by the second.
    pub pods: Vec<u32>,
    /// How many pods came or went.
    pub changes: u32,
    /// The stretches, in seconds, in which a pod had more than twice its target.
    pub overloaded: Vec<u32>,
}

impl Outcome {
    pub fn pod_hours(&self) -> f64 {
        self.pods.iter().map(|pods| f64::from(*pods)).sum::<f64>() / 3600.0
    }
}

/// Runs through a day, given by the minute, with pods that answer `ready_s` after they were asked for.
pub fn run(day: &[f64], ready_s: usize) -> Outcome {
    let rate = |second: usize| {
        let (minute, share) = (second / 60, second as f64 % 60.0 / 60.0);
        day[minute] + (day[(minute + 1).min(day.len() - 1)] - day[minute]) * share
    };
    // It has run before: as many pods as the first minute needs.
    let mut wanted = ((day[0] / TARGET).ceil() as u32).max(LEAST);
    let mut ready = wanted;
    let mut coming: VecDeque<(usize, u32)> = VecDeque::new();
    let mut ups: VecDeque<(usize, u32)> = VecDeque::new();
    let mut downs: VecDeque<(usize, u32)> = VecDeque::new();
    let mut asked: VecDeque<(usize, u32)> = VecDeque::new();
    let mut outcome = Outcome { pods: Vec::new(), changes: 0, overloaded: Vec::new() };
    let mut over = 0;
    for second in 0..day.len() * 60 {
        while coming.front().is_some_and(|(at, _)| *at <= second) {
            ready += coming.pop_front().map_or(0, |(_, pods)| pods);
        }
        if rate(second) / f64::from(ready) > 2.0 * TARGET {
            over += 1;
        } else if over > 0 {
            outcome.overloaded.push(std::mem::take(&mut over));
        }
        outcome.pods.push(ready);
        if !second.is_multiple_of(PERIOD_S) || second < RATE_S + SCRAPE_S {
            continue;
        }
        let seen = second - SCRAPE_S - RATE_S..second - SCRAPE_S;
        let mean = seen.clone().map(rate).sum::<f64>() / seen.len() as f64;
        let ratio = mean / f64::from(ready) / TARGET;
        let ask = if (ratio - 1.0).abs() <= TOLERANCE { wanted } else { (mean / TARGET).ceil() as u32 };
        let ask = ask.clamp(LEAST, MOST);
        forget(&mut asked, second, STABLE_S);
        asked.push_back((second, ask));
        forget(&mut ups, second, UP_S);
        forget(&mut downs, second, DOWN_S);
        let all = |changes: &VecDeque<(usize, u32)>| changes.iter().map(|(_, pods)| pods).sum::<u32>();
        if ask > wanted {
            let before = wanted - all(&ups);
            let up = ask.min((2 * before).max(before + UP_PODS)).saturating_sub(wanted);
            if up > 0 {
                ups.push_back((second, up));
                coming.push_back((second + ready_s, up));
                wanted += up;
                outcome.changes += up;
            }
        } else {
            let highest = asked.iter().map(|(_, ask)| *ask).max().unwrap_or(ask);
            if highest < wanted && downs.is_empty() {
                downs.push_back((second, 1));
                wanted -= 1;
                ready = ready.min(wanted);
                outcome.changes += 1;
            }
        }
    }
    if over > 0 {
        outcome.overloaded.push(over);
    }
    outcome
}

/// Drops what is older than `age_s`.
fn forget(changes: &mut VecDeque<(usize, u32)>, now: usize, age_s: usize) {
    while changes.front().is_some_and(|(at, _)| at + age_s <= now) {
        changes.pop_front();
    }
}
