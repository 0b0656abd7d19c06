//! `mainstay resume`: do what git says again.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Finding, Sidecars, say, text};

/// Lifts what `mainstay hold` and `mainstay rollback` hold, so that what git asks for is published
///
/// Exit codes: 0 lifted, or nothing was held, 1 refused by somebody, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    sidecars: Sidecars,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let answers = arguments.sidecars.order("/resume", &json!({}));
    arguments.sidecars.tell(&answers, |_, holds| show(holds), |_| Finding::Fine).into()
}

fn show(holds: &Value) {
    if holds["operator"].is_object() {
        say(&format!("lifted the hold: {}", text(holds, "/operator/reason")));
    }
    if holds["rollback"].is_object() {
        say(&format!("lifted the rollback's hold: {} may come back", text(holds, "/rollback/from")));
    }
    if holds["operator"].is_null() && holds["rollback"].is_null() {
        say("nothing was held");
    }
}
