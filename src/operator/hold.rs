//! `mainstay hold`: keep what is live.

use std::process::ExitCode;

use serde_json::json;

use super::{Finding, Sidecars, say};

/// Keeps what is live, whatever git asks for, until `mainstay resume`
///
/// It holds for the sidecars that are asked and survives their restart. For a whole environment, and where it is to be
/// reviewed, write `hold: {reason: …}` into its serving.yaml.
///
/// Exit codes: 0 held everywhere, 1 refused by somebody, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    /// Why, in one line, for those who will ask.
    #[arg(long, value_name = "TEXT")]
    reason: String,

    #[command(flatten)]
    sidecars: Sidecars,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let answers = arguments.sidecars.order("/hold", &json!({ "reason": arguments.reason }));
    arguments.sidecars.tell(&answers, |_, _| say("held until `mainstay resume`"), |_| Finding::Fine).into()
}
