//! `mainstay history`: what was live, in the order in which it was.

use std::process::ExitCode;

use serde_json::Value;

use super::{Finding, Sidecars, Table, short, text, time};

/// Lists the releases that a store keeps, newest first: what `mainstay rollback` can return to
///
/// Exit codes: 0 listed, 1 refused, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    sidecars: Sidecars,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let answers = arguments.sidecars.ask::<Value>("/history");
    arguments.sidecars.tell(&answers, |_, history| show(history), |_| Finding::Fine).into()
}

fn show(history: &Value) {
    let mut table = Table::headed(&["RELEASE", "LIVE", "PUBLISHED", "COMMIT", "MODELS", "SUBJECT"]);
    for past in history.as_array().into_iter().flatten() {
        let models = past["models"].as_object().into_iter().flatten();
        let models: Vec<_> = models
            .map(|(name, version)| {
                let stands_in = past["fallbacks"][name].as_str().map(|version| format!(" (else {version})"));
                format!("{name} {}{}", version.as_str().unwrap_or("?"), stands_in.unwrap_or_default())
            })
            .collect();
        let to = past.pointer("/rollback/to").and_then(Value::as_str).and_then(|name| name.split('-').next());
        let problem = text(past, "/problem");
        let subject = if problem.is_empty() { text(past, "/commit/subject") } else { format!("({problem})") };
        table.row([
            text(past, "/seq"),
            if past["live"] == true { "*".to_owned() } else { String::new() },
            time(&past["published_unix_ms"]),
            short(&text(past, "/commit/id")).to_owned(),
            models.join(", "),
            to.map_or(subject.clone(), |to| format!("{subject} (rolled back to {to})")),
        ]);
    }
    table.print();
}
