//! New versions while requests come at half of what the server can do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::SINGLE;
use super::bodies::{Form, requests};
use super::client::{self, Plan};
use super::contest::{self, Rules, at, latencies_ms};
use super::process::{self, Apart};
use super::report::{Report, Target};
use super::servers::Served;
use super::store::forest;

/// How often versions that have passed their trial are rolled for each that has not: they are live at once.
const PASSED_ROLLS: usize = 6;

impl Report {
    pub fn reload(&mut self) {
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
}
