//! Sidecars and their git host, event by event.
//!
//! A sidecar looks, waits for the answer, and looks again an interval after it began, give or take the jitter, or at once
//! where the answer took longer. A look whose answer shows a new commit is followed by a fetch. The host answers in the
//! order of arrival, on as many processors as it has; who has waited longer than [`PATIENCE_S`] is gone. A cache keeps
//! the list of references for a while and asks for it once, however many want it; packs always come from the host.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::chance::Chance;
use super::costs::Costs;

/// How long a sidecar waits for the answer to a look, as `mainstay sync` does.
const PATIENCE_S: f64 = 30.0;
/// How far the host's work for an answer differs, up and down.
const WORK_SPREAD: f64 = 0.25;

/// What is simulated.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub pods: usize,
    pub interval_s: f64,
    /// The share of the interval by which a look may be early or late.
    pub jitter: f64,
    /// Whether all pods begin in the same second; else anywhere in the first interval.
    pub at_once: bool,
    /// How many pods a second are told of a commit, by a relay of the git host's webhook.
    pub told_per_s: Option<f64>,
    pub cache: Option<Cache>,
    /// The host's processors.
    pub cores: usize,
    /// When somebody pushes.
    pub commit_s: f64,
    pub end_s: f64,
    pub seed: u64,
}

/// Proxies that keep the list of references; pods are spread evenly over them.
#[derive(Clone, Copy)]
pub struct Cache {
    pub count: usize,
    pub lifetime_s: f64,
}

/// What came out.
pub struct Outcome {
    /// The looks that reach the git host, by the second.
    pub looks_per_s: Vec<u64>,
    /// The bytes that the git host sends and gets.
    pub bytes_per_s: Vec<f64>,
    /// The processors that are busy.
    pub busy_per_s: Vec<f64>,
    /// When each pod had the commit, in seconds since the push; those that had it, in order.
    had_s: Vec<f64>,
    pods: usize,
    answered: u64,
    given_up: u64,
}

impl Outcome {
    /// After how long so large a share of the pods had the commit; none where that did not come to be.
    pub fn had_after(&self, share: f64) -> Option<f64> {
        let count = (self.pods as f64 * share).ceil() as usize;
        self.had_s.get(count.saturating_sub(1)).copied()
    }

    pub fn given_up_share(&self) -> f64 {
        self.given_up as f64 / (self.given_up + self.answered).max(1) as f64
    }

    /// The share of the pods that had the commit, in %, over the seconds since the push.
    pub fn share_over_time(&self) -> Vec<(f64, f64)> {
        let step = (self.had_s.len() / 200).max(1);
        let share = |index: usize| (index + 1) as f64 / self.pods as f64 * 100.0;
        let points = self.had_s.iter().enumerate().step_by(step);
        points.map(|(index, had_s)| (had_s.max(0.05), share(index))).collect()
    }
}

/// What happens; times are in microseconds, so that they can be put in order.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Event {
    /// A processor of the host becomes free. Before all else of the same instant.
    Done(Job),
    /// A sidecar looks because it is time to; the number says for which time, as a later one may have taken its place.
    Due { pod: usize, turn: u32 },
    /// A sidecar is told.
    Told(usize),
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Job {
    asked_us: u64,
    begun_us: u64,
    kind: Kind,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Kind {
    Look(usize),
    /// For a cache.
    Refresh(usize),
    Fetch(usize),
}

#[derive(Clone, Default)]
struct Pod {
    began_us: u64,
    busy: bool,
    /// It was told of something while it was busy.
    again: bool,
    has: bool,
    turn: u32,
}

#[derive(Clone, Default)]
struct Proxy {
    /// When what it has was true; none before it has anything.
    as_of_us: Option<u64>,
    waiting: Vec<usize>,
}

struct World<'a> {
    scenario: &'a Scenario,
    costs: &'a Costs,
    chance: Chance,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    queue: VecDeque<Job>,
    free: usize,
    pods: Vec<Pod>,
    proxies: Vec<Proxy>,
    outcome: Outcome,
}

pub fn simulate(scenario: &Scenario, costs: &Costs) -> Outcome {
    let seconds = scenario.end_s.ceil() as usize + 1;
    let mut world = World {
        scenario,
        costs,
        chance: Chance::new(scenario.seed),
        events: BinaryHeap::new(),
        count: 0,
        queue: VecDeque::new(),
        free: scenario.cores,
        pods: vec![Pod::default(); scenario.pods],
        proxies: vec![Proxy::default(); scenario.cache.map_or(0, |cache| cache.count)],
        outcome: Outcome {
            looks_per_s: vec![0; seconds],
            bytes_per_s: vec![0.0; seconds],
            busy_per_s: vec![0.0; seconds],
            had_s: Vec::new(),
            pods: scenario.pods,
            answered: 0,
            given_up: 0,
        },
    };
    for pod in 0..scenario.pods {
        let within_s = if scenario.at_once { 1.0 } else { scenario.interval_s };
        let at = us(world.chance.between(0.0, within_s));
        world.at(at, Event::Due { pod, turn: 0 });
        if let Some(told_per_s) = scenario.told_per_s {
            world.at(us(scenario.commit_s + pod as f64 / told_per_s), Event::Told(pod));
        }
    }
    while let Some(Reverse((now, _, event))) = world.events.pop() {
        if now >= us(scenario.end_s) {
            break;
        }
        world.happen(now, event);
    }
    world.outcome.had_s.sort_by(f64::total_cmp);
    world.outcome
}

fn us(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

impl World<'_> {
    fn at(&mut self, when: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, event)));
    }

    fn happen(&mut self, now: u64, event: Event) {
        match event {
            Event::Due { pod, turn } if turn == self.pods[pod].turn && !self.pods[pod].busy => self.look(now, pod),
            Event::Due { .. } => {}
            Event::Told(pod) if self.pods[pod].busy => self.pods[pod].again = true,
            Event::Told(pod) => self.look(now, pod),
            Event::Done(job) => {
                self.free = self.free.saturating_add(1);
                self.done(now, job);
                self.serve(now);
            }
        }
    }

    fn look(&mut self, now: u64, pod: usize) {
        self.pods[pod] = Pod { began_us: now, busy: true, again: false, ..self.pods[pod] };
        let Some(cache) = self.scenario.cache else { return self.ask(now, Kind::Look(pod)) };
        let index = pod % cache.count;
        let proxy = &mut self.proxies[index];
        match proxy.as_of_us {
            Some(as_of) if now - as_of < us(cache.lifetime_s) => self.answered(now, pod, as_of),
            _ => {
                proxy.waiting.push(pod);
                if proxy.waiting.len() == 1 {
                    self.ask(now, Kind::Refresh(index));
                }
            }
        }
    }

    fn ask(&mut self, now: u64, kind: Kind) {
        if !matches!(kind, Kind::Fetch(_)) {
            self.outcome.looks_per_s[(now / 1_000_000) as usize] += 1;
        }
        self.queue.push_back(Job { asked_us: now, begun_us: now, kind });
        self.serve(now);
    }

    /// Has free processors begin with what waits.
    fn serve(&mut self, now: u64) {
        while self.free > 0
            && let Some(mut job) = self.queue.pop_front()
        {
            if let Kind::Look(pod) = job.kind
                && now - job.asked_us > us(PATIENCE_S)
            {
                self.outcome.given_up += 1;
                self.rest(now, pod);
                continue;
            }
            job.begun_us = now;
            let (work_s, bytes) = match job.kind {
                Kind::Look(_) | Kind::Refresh(_) => (self.costs.look_s, self.costs.look_bytes),
                // It asks for the list again on the connection on which it fetches.
                Kind::Fetch(_) => {
                    (self.costs.look_s + self.costs.pack_s, self.costs.fetch_bytes - self.costs.look_bytes)
                }
            };
            let work_s = work_s * self.chance.between(1.0 - WORK_SPREAD, 1.0 + WORK_SPREAD);
            let second = (now / 1_000_000) as usize;
            self.outcome.bytes_per_s[second] += bytes;
            self.busy(now, work_s);
            self.free -= 1;
            self.at(now + us(work_s), Event::Done(job));
        }
    }

    /// Counts a stretch of work in each second that it lies in.
    fn busy(&mut self, now: u64, work_s: f64) {
        let (mut from, to) = (now as f64 / 1e6, now as f64 / 1e6 + work_s);
        while from < to {
            let second = from as usize;
            let until = to.min(second as f64 + 1.0);
            if let Some(busy) = self.outcome.busy_per_s.get_mut(second) {
                *busy += until - from;
            }
            from = until;
        }
    }

    fn done(&mut self, now: u64, job: Job) {
        match job.kind {
            Kind::Look(pod) => self.answered(now, pod, job.begun_us),
            Kind::Refresh(index) => {
                self.proxies[index].as_of_us = Some(job.begun_us);
                for pod in std::mem::take(&mut self.proxies[index].waiting) {
                    self.answered(now, pod, job.begun_us);
                }
            }
            Kind::Fetch(pod) => {
                self.pods[pod].has = true;
                self.outcome.had_s.push(now as f64 / 1e6 - self.scenario.commit_s);
                self.rest(now, pod);
            }
        }
    }

    /// A look is answered with what was true at `as_of`.
    fn answered(&mut self, now: u64, pod: usize, as_of: u64) {
        self.outcome.answered += 1;
        if as_of >= us(self.scenario.commit_s) && !self.pods[pod].has {
            self.ask(now, Kind::Fetch(pod));
        } else {
            self.rest(now, pod);
        }
    }

    /// A pass is over; the next one is counted from its beginning.
    fn rest(&mut self, now: u64, pod: usize) {
        let Scenario { interval_s, jitter, .. } = *self.scenario;
        let interval_s = interval_s * self.chance.between(1.0 - jitter, 1.0 + jitter);
        let Pod { began_us, again, turn, .. } = &mut self.pods[pod];
        *turn += 1;
        let due = if *again { now } else { (*began_us + us(interval_s)).max(now) };
        let turn = *turn;
        self.pods[pod].busy = false;
        self.at(due, Event::Due { pod, turn });
    }
}
