//! `mainstay sync-now`: look, and publish, at once.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{CHECK, Finding, Sidecars, Silence, get, say, short, text};

/// Looks at the repository now, and publishes what it asks for, also under `sync: manual`
///
/// Windows, holds and `suspend` stay in force: the way past them is a commit, or `mainstay resume`.
///
/// Exit codes: 0 what git asks for is published, 1 it is not, with the reason, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    sidecars: Sidecars,

    /// Only look: what waits for a word goes on waiting.
    #[arg(long)]
    look: bool,

    /// How long to wait for the outcome.
    #[arg(long, value_name = "TIME", default_value = "150s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let sidecars = &arguments.sidecars;
    let due = Instant::now() + arguments.timeout;
    let answers = sidecars.order("/sync", &json!({ "publish": !arguments.look }));
    let outcomes: Vec<_> =
        answers.into_iter().map(|(url, answer)| (url, answer.and_then(|answer| outcome(url, &answer, due)))).collect();
    sidecars.tell(&outcomes, |_, status| show(status), judge).into()
}

/// The status once the pass that answers the order has ended, or at `due`.
fn outcome(url: &str, answer: &Value, due: Instant) -> Result<Value, Silence> {
    loop {
        let status: Value = get(url, "/status")?;
        let answered = status.pointer("/last_pass/trigger").and_then(Value::as_u64) >= answer["trigger"].as_u64();
        if answered || Instant::now() >= due {
            return Ok(json!({ "answered": answered, "status": status }));
        }
        std::thread::sleep(CHECK);
    }
}

fn judge(outcome: &Value) -> Finding {
    let synced = outcome.pointer("/status/sync").is_some_and(|sync| sync == "Synced");
    if synced && outcome["answered"] == true { Finding::Fine } else { Finding::NotSo }
}

fn show(outcome: &Value) {
    let status = &outcome["status"];
    let line = if outcome["answered"] != true {
        "no pass has ended yet".to_owned()
    } else if status["sync"] == "Synced" {
        format!("published: {} {}", short(&text(status, "/release/commit/id")), text(status, "/release/commit/subject"))
    } else if status["held_back"].is_object() {
        format!("held back by {}: {}", text(status, "/held_back/by"), text(status, "/held_back/reason"))
    } else {
        format!("not published: {}", text(status, "/problem/text"))
    };
    say(&line.replace(char::is_control, " "));
}
