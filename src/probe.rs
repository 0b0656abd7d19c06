//! `mainstay probe`: the question of a health check, where there is no shell and no curl.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::{failed, operator};

/// How long the answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How much of an answer is read: it is one line.
const ANSWER_BYTES_MAX: u64 = 1 << 10;

/// Asks a server or sidecar whether it is live, or ready
///
/// For health checks inside a container, which has neither shell nor curl.
///
/// Exit codes: 0 it is, 1 it is not, or does not answer within 2 s, 64 the command line is wrong.
#[derive(clap::Args)]
pub struct Arguments {
    /// What is asked.
    #[arg(value_enum, default_value_t = Question::Ready)]
    question: Question,

    /// The admin address of the server, or of the sidecar.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090", value_parser = operator::base_url)]
    admin: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Question {
    /// Whether the process answers, and a sidecar's loop goes round.
    Live,
    /// Whether a server can predict, and a sidecar has published a release.
    Ready,
}

/// Why the answer is not yes.
#[derive(Debug, thiserror::Error)]
enum No {
    #[error("cannot ask {url}")]
    Silent { url: String, source: ureq::Error },
    #[error("{url} says no: {words}")]
    Said { url: String, words: String },
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match ask(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(no) => failed(&no, 1),
    }
}

fn ask(arguments: &Arguments) -> Result<(), No> {
    let path = match arguments.question {
        Question::Live => "/live",
        Question::Ready => "/ready",
    };
    let url = format!("{}{path}", arguments.admin);
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_MAX))
        .max_redirects(0)
        .proxy(None)
        .http_status_as_error(false)
        .build();
    let answer = config.new_agent().get(&url).call();
    let mut answer = answer.map_err(|source| No::Silent { url: url.clone(), source })?;
    if answer.status().is_success() {
        return Ok(());
    }
    let mut words = String::new();
    // Only for people: a word that cannot be read changes nothing about the no.
    let _ = answer.body_mut().as_reader().take(ANSWER_BYTES_MAX).read_to_string(&mut words);
    Err(No::Said { url, words: words.trim().to_owned() })
}
