//! `mainstay wait`: until something is so.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::Value;

use super::{CHECK, Finding, Sidecars, say, short, text};

/// Waits until a commit is published, or live, on every sidecar
///
/// Exit codes: 0 it is so, 1 not within the time, 2 somebody could not be reached at the end of it.
#[derive(clap::Args)]
pub struct Arguments {
    /// What for.
    #[arg(long = "for", value_name = "STATE", value_enum, default_value_t = State::Live)]
    state: State,

    /// The commit, or at least the first four digits of it; without it, whatever git asks for.
    #[arg(long, value_name = "COMMIT", value_parser = digits)]
    commit: Option<String>,

    /// For how long.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    #[command(flatten)]
    sidecars: Sidecars,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    /// It is verified and in the store.
    Published,
    /// The server answers with it, with every model loaded.
    Live,
}

fn digits(text: &str) -> Result<String, String> {
    let hex = text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
    if (4..=64).contains(&text.len()) && hex {
        Ok(text.to_owned())
    } else {
        Err("4 to 64 digits of a commit".to_owned())
    }
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let sidecars = &arguments.sidecars;
    let due = Instant::now() + arguments.timeout;
    loop {
        // A pod that is not there yet may be there soon.
        let answers = sidecars.ask::<Value>("/status");
        let all = answers.iter().all(|(_, answer)| answer.as_ref().is_ok_and(|status| arguments.is_so(status)));
        if all || Instant::now() >= due {
            let judge = |status: &Value| if arguments.is_so(status) { Finding::Fine } else { Finding::NotSo };
            return sidecars.tell(&answers, |_, status| show(status), judge).into();
        }
        std::thread::sleep(CHECK);
    }
}

impl Arguments {
    fn is_so(&self, status: &Value) -> bool {
        let commit = text(status, "/release/commit/id");
        let right = match &self.commit {
            Some(wanted) => commit.starts_with(wanted.as_str()),
            None => status["sync"] == "Synced",
        };
        right && !commit.is_empty() && (matches!(self.state, State::Published) || status["health"] == "Healthy")
    }
}

fn show(status: &Value) {
    let commit = text(status, "/release/commit/id");
    let subject = text(status, "/release/commit/subject");
    let state = format!("{} and {}", text(status, "/sync"), text(status, "/health"));
    let problem = [text(status, "/problem/text"), text(status, "/held_back/reason"), text(status, "/health_reason")];
    let problem = problem.into_iter().find(|problem| !problem.is_empty());
    let problem = problem.map_or_else(String::new, |problem| format!(": {problem}"));
    say(&format!("{} {subject}: {state}{problem}", short(&commit)).replace(char::is_control, " "));
}
