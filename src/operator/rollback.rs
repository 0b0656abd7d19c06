//! `mainstay rollback`: back to an earlier release, without git.

use std::process::ExitCode;

use serde_json::json;

use super::{Finding, Sidecars, say, text};

/// Returns to an earlier release from the store's own history, in milliseconds and without git
///
/// Without RELEASE it is the newest earlier one that serves something else. It stays until the repository asks for a
/// newer commit than those rolled back from, or `mainstay resume`. The repository is not changed: `git revert` there
/// is what makes the way back last, for new pods too.
///
/// Exit codes: 0 rolled back everywhere, 1 refused by somebody, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    /// Its number in `mainstay history`, its name, or the beginning of its commit.
    release: Option<String>,

    #[command(flatten)]
    sidecars: Sidecars,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let sidecars = &arguments.sidecars;
    let answers = sidecars.order("/rollback", &json!({ "to": arguments.release }));
    let show = |_: &str, rolled: &serde_json::Value| {
        say(&format!("rolled back from {} to {}", text(rolled, "/from"), text(rolled, "/to")));
        say("it holds until git asks for a newer commit; `git revert` in the repository makes it last");
    };
    sidecars.tell(&answers, show, |_| Finding::Fine).into()
}
