//! What has been measured, and how it is told.

use serde::Serialize;

use super::contest::{self, Entrant, Rules};

/// Servers beside each other.
#[derive(Serialize)]
pub struct Table {
    what: String,
    rows_per_request: usize,
    lines: Vec<contest::Line>,
}

/// One figure.
#[derive(Serialize)]
pub struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// What it should be: `below` or `above` a value; none where it is only told.
    target: Option<Target>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Below(f64),
    Above(f64),
}

/// All of it.
#[derive(Serialize)]
pub struct Report {
    tables: Vec<Table>,
    figures: Vec<Figure>,
    #[serde(skip)]
    pub rules: Rules,
    /// Whether the bare server has a runtime for each processor.
    #[serde(skip)]
    pub bare_per_core: bool,
}

impl Report {
    pub fn new(rules: Rules, bare_per_core: bool) -> Self {
        Self { tables: Vec::new(), figures: Vec::new(), rules, bare_per_core }
    }

    pub fn contest(
        &mut self,
        what: &str,
        rows_per_request: usize,
        entrants: &[Entrant],
        connections: usize,
    ) -> &[contest::Line] {
        self.contest_by(self.rules, what, rows_per_request, entrants, connections, None)
    }

    pub fn contest_by(
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

    pub fn figure(&mut self, what: String, value: f64, unit: &'static str, target: Option<Target>) {
        eprintln!("{what}: {value:.3} {unit}");
        self.figures.push(Figure { what, value, unit, target });
    }

    pub fn print(&self) {
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
