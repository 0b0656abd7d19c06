//! `mainstay diff`: what is live against what git asks for.

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::status::groups;
use super::{Finding, Sidecars, Table, say, short, text};

/// Shows what is live against what git asks for, as far as it was verified
///
/// Exit codes: 0 no difference, 1 a difference, or none can be told, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    sidecars: Sidecars,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let answers = arguments.sidecars.ask::<Value>("/status");
    let answers: Vec<_> =
        answers.into_iter().map(|(url, answer)| (url, answer.map(|status| difference(&status)))).collect();
    let judge = |difference: &Value| {
        let same = difference["sync"] == "Synced";
        if same { Finding::Fine } else { Finding::NotSo }
    };
    arguments.sidecars.tell(&answers, |_, difference| show(difference), judge).into()
}

/// Both sides, and the models in which they differ.
fn difference(status: &Value) -> Value {
    let (live, asked) = (&status["release"], &status["held_back"]);
    let mut models = Vec::new();
    if asked.is_object() {
        let names: BTreeSet<_> =
            [live, asked].iter().flat_map(|side| side["models"].as_object()).flat_map(|models| models.keys()).collect();
        for name in names {
            let versions = |side: &Value| {
                let model = &side["models"][name.as_str()];
                let stable = text(model, "/stable");
                let loaded: Vec<_> =
                    model["versions"].as_object().into_iter().flat_map(|all| all.keys()).cloned().collect();
                (stable, loaded)
            };
            let ((from, had), (to, wants)) = (versions(live), versions(asked));
            if from != to {
                models.push(json!({ "model": name, "role": "stable", "from": from, "to": to }));
            }
            let preview = |side: &[String], stable: &str| -> Vec<String> {
                side.iter().filter(|version| *version != stable).cloned().collect()
            };
            let (had, wants) = (preview(&had, &from), preview(&wants, &to));
            if had != wants {
                models.push(json!({ "model": name, "role": "preview", "from": had.join(" "), "to": wants.join(" ") }));
            }
        }
    }
    if asked.is_object() {
        let names = |side: &Value| groups(side).iter().map(|group| group.join(" + ")).collect::<Vec<_>>();
        let (had, wants) = (names(live), names(asked));
        for (role, from, to) in wants
            .iter()
            .filter(|group| !had.contains(group))
            .map(|group| ("together", "", group.as_str()))
            .chain(had.iter().filter(|group| !wants.contains(group)).map(|group| ("together", group.as_str(), "")))
        {
            let yes = |group: &str| if group.is_empty() { "" } else { "yes" };
            models.push(json!({ "model": format!("{from}{to}"), "role": role, "from": yes(from), "to": yes(to) }));
        }
    }
    json!({
        "sync": status["sync"], "live": live["commit"], "asked": status["desired"], "asked_commit": asked["commit"],
        "held_back_by": asked["by"], "reason": asked["reason"], "problem": status["problem"], "models": models,
    })
}

fn show(difference: &Value) {
    let mut table = Table::default();
    let line = |commit: &str, subject: String| format!("{} {subject}", short(commit));
    table.fact("live", line(&text(difference, "/live/id"), text(difference, "/live/subject")));
    table.fact("asked for", line(&text(difference, "/asked"), text(difference, "/asked_commit/subject")));
    table.fact("held back by", text(difference, "/held_back_by"));
    table.fact("because", text(difference, "/reason"));
    table.fact("problem", text(difference, "/problem/text"));
    table.print();
    let models = difference["models"].as_array().map_or(&[][..], Vec::as_slice);
    if models.is_empty() {
        say(if difference["sync"] == "Synced" {
            "no difference"
        } else {
            "no difference in what is served can be told"
        });
        return;
    }
    say("");
    let mut table = Table::headed(&["MODEL", "ROLE", "LIVE", "ASKED FOR"]);
    for model in models {
        let cell =
            |path: &str| Some(text(model, path)).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
        table.row(["/model", "/role", "/from", "/to"].map(cell));
    }
    table.print();
}
