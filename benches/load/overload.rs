//! Three times as many requests as the server can answer.

use std::time::Duration;

use super::HUNDRED;
use super::bodies::{Form, requests};
use super::client::{self, Plan};
use super::contest::{self, Rules, at, latencies_ms};
use super::process::{Apart, family, memory_mib};
use super::report::{Report, Target};
use super::servers::Served;

impl Report {
    pub fn overload(&mut self) {
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
}
