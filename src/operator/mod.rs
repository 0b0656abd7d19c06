//! The operator's commands: each a question or an order to the sidecars' admin listeners, and a table of the answers.
//!
//! Thin on purpose: what they say is what `/status` and `/history` say, so that `curl` is as good. Reads what it needs
//! of an answer and lets the rest be, so that an older command understands a newer sidecar.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub mod diff;
pub mod history;
pub mod hold;
pub mod resume;
pub mod rollback;
pub mod status;
pub mod sync_now;
mod table;
pub mod wait;

pub use table::Table;

/// How long a sidecar or server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How often is asked whether something has come about.
pub const CHECK: Duration = Duration::from_millis(50);

/// Which sidecars are asked, and how the answer looks.
#[derive(clap::Args)]
pub struct Sidecars {
    /// The sidecar's admin address; given several times, or with commas between, for several pods.
    #[arg(long = "sidecar", value_name = "URL", value_delimiter = ',', value_parser = base_url)]
    #[arg(default_value = "http://127.0.0.1:9091")]
    pub urls: Vec<String>,

    /// File with the token that the sidecar takes orders with.
    #[arg(long, value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,

    /// Print the answers as JSON, one entry per sidecar.
    #[arg(long)]
    pub json: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Silence {
    /// Nobody answers there.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        cause: String,
    },
    /// It does not do what it is told.
    #[error("{url} refuses: {words}")]
    Refused {
        /// The address.
        url: String,
        /// Its words.
        words: String,
    },
}

/// What a command found: the worst of its answers is its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// As it should be.
    Fine = 0,
    /// Not so.
    NotSo = 1,
    /// Somebody cannot be reached.
    Unreachable = 2,
}

impl From<Finding> for ExitCode {
    fn from(finding: Finding) -> Self {
        ExitCode::from(finding as u8)
    }
}

impl From<&Silence> for Finding {
    fn from(silence: &Silence) -> Self {
        match silence {
            Silence::Unreachable { .. } => Self::Unreachable,
            Silence::Refused { .. } => Self::NotSo,
        }
    }
}

/// The base of an admin listener's addresses.
pub fn base_url(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')).unwrap_or_default();
    if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
        return Err("write it as http://HOST:PORT".to_owned());
    }
    Ok(format!("http://{authority}"))
}

impl Sidecars {
    /// What each says to a question, in the order in which they were given.
    pub fn ask<T: DeserializeOwned>(&self, path: &str) -> Vec<(&str, Result<T, Silence>)> {
        self.urls.iter().map(|url| (url.as_str(), get(url, path))).collect()
    }

    /// What each says to an order.
    pub fn order(&self, path: &str, order: &Value) -> Vec<(&str, Result<Value, Silence>)> {
        self.urls.iter().map(|url| (url.as_str(), self.post(url, path, order))).collect()
    }

    /// What each says to an order that takes a while.
    pub fn order_patiently(
        &self,
        path: &str,
        order: &Value,
        answer_max: Duration,
    ) -> Vec<(&str, Result<Value, Silence>)> {
        self.urls.iter().map(|url| (url.as_str(), self.post_within(url, path, order, answer_max))).collect()
    }

    /// What one says to an order.
    pub fn post(&self, url: &str, path: &str, order: &Value) -> Result<Value, Silence> {
        self.post_within(url, path, order, ANSWER_MAX)
    }

    fn post_within(&self, url: &str, path: &str, order: &Value, answer_max: Duration) -> Result<Value, Silence> {
        let mut request = agent(answer_max).post(format!("{url}{path}"));
        if let Some(file) = &self.token_file {
            let token = std::fs::read_to_string(file)
                .map_err(|error| Silence::Refused { url: file.display().to_string(), words: error.to_string() })?;
            request = request.header("Authorization", format!("Bearer {}", token.trim_end()));
        }
        read(url, request.send_json(order))
    }

    /// Whether several answer, so that each needs its name in the table.
    pub fn several(&self) -> bool {
        self.urls.len() > 1
    }

    /// The answers as JSON, an entry per sidecar.
    pub fn entries<T: serde::Serialize>(&self, answers: &[(&str, Result<T, Silence>)]) -> Vec<Value> {
        let entry = |(url, answer): &(&str, Result<T, Silence>)| match answer {
            Ok(answer) => serde_json::json!({ "sidecar": url, "answer": answer }),
            Err(silence) => serde_json::json!({ "sidecar": url, "error": silence.to_string() }),
        };
        answers.iter().map(entry).collect()
    }

    /// Prints the answers as JSON, or has `show` print them; what is missing goes to standard error.
    pub fn tell<T: serde::Serialize>(
        &self,
        answers: &[(&str, Result<T, Silence>)],
        show: impl Fn(&str, &T),
        judge: impl Fn(&T) -> Finding,
    ) -> Finding {
        if self.json {
            print_json(&self.entries(answers).into());
        }
        let mut worst = Finding::Fine;
        for (url, answer) in answers {
            worst = worst.max(match answer {
                Ok(answer) => {
                    if !self.json {
                        if self.several() {
                            say(&table::bold(url));
                        }
                        show(url, answer);
                    }
                    judge(answer)
                }
                Err(silence) => {
                    complain(silence);
                    silence.into()
                }
            });
        }
        worst
    }
}

/// What `url` says to a question.
pub fn get<T: DeserializeOwned>(url: &str, path: &str) -> Result<T, Silence> {
    read(url, agent(ANSWER_MAX).get(format!("{url}{path}")).call())
}

fn agent(answer_max: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(answer_max))
        .max_redirects(0)
        .proxy(None)
        .http_status_as_error(false);
    config.build().new_agent()
}

fn read<T: DeserializeOwned>(
    url: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, Silence> {
    let unreachable = |cause: ureq::Error| Silence::Unreachable { url: url.to_owned(), cause: cause.to_string() };
    let mut answer = answer.map_err(unreachable)?;
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(unreachable)?;
    if !answer.status().is_success() {
        let words = if text.trim().is_empty() { answer.status().to_string() } else { text.trim().to_owned() };
        return Err(Silence::Refused { url: url.to_owned(), words });
    }
    serde_json::from_str(&text).map_err(|error| Silence::Refused {
        url: url.to_owned(),
        words: format!("its answer is not what a sidecar or server says: {error}"),
    })
}

/// Prints a line of the answer.
#[allow(clippy::print_stdout, reason = "the answer that was asked for")]
pub fn say(line: &str) {
    println!("{line}");
}

/// Prints JSON for programs.
pub fn print_json(value: &Value) {
    say(&serde_json::to_string_pretty(value).expect("a JSON value can be written"));
}

/// Prints what is wrong, beside the answer.
#[allow(clippy::print_stderr, reason = "the answer goes to standard output, and this is none")]
pub fn complain(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
}

/// Whether colours are for anybody.
pub fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The text at a path in an answer; empty where there is none.
pub fn text(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The first ten digits of a commit.
pub fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// A time in ms since 1970, for people who read logs: in UTC.
pub fn time(unix_ms: &Value) -> String {
    let time = unix_ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}
