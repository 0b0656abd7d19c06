//! `mainstay diff`: what is live against what git asks for, or against a commit that somebody names.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use mainstay_models::ModelSpec;
use serde_json::{Value, json};

use super::status::groups;
use super::{Finding, Sidecars, Table, say, short, text};
use crate::check::compare::Live;

/// How long a sidecar may take to fetch a commit and tell of it.
const FETCHED_MAX: Duration = Duration::from_secs(150);

/// Shows what is live against what git asks for, or against any commit of the followed repository
///
/// Without COMMIT, as far as it was verified. With it, each sidecar reads that commit's files from the repository that it
/// follows, aside, and says what would change: versions, metrics old and new, and what in a model's inputs or classes
/// would break its clients. Nothing is published, no model file is fetched and no signature verified for that; it is an
/// order like others, so it needs the token where there is one.
///
/// Exit codes: 0 no difference, 1 a difference, or none can be told, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    /// A branch, a tag, a commit, or the first digits of one in `mainstay history`.
    commit: Option<String>,

    #[command(flatten)]
    sidecars: Sidecars,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let sidecars = &arguments.sidecars;
    let answers = match &arguments.commit {
        None => sidecars.ask::<Value>("/status"),
        Some(commit) => sidecars.order_patiently("/diff", &json!({ "commit": commit }), FETCHED_MAX),
    };
    let difference = |answer: &Value| match &arguments.commit {
        None => against_asked(answer),
        Some(_) => against_commit(answer),
    };
    let answers: Vec<_> =
        answers.into_iter().map(|(url, answer)| (url, answer.map(|answer| difference(&answer)))).collect();
    let judge = |difference: &Value| if is_none(difference) { Finding::Fine } else { Finding::NotSo };
    sidecars.tell(&answers, |_, difference| show(difference), judge).into()
}

/// Both sides of what a sidecar's status says, and the models in which they differ.
fn against_asked(status: &Value) -> Value {
    let (live, asked) = (&status["release"], &status["held_back"]);
    let models = if asked.is_object() { moves(live, asked) } else { Vec::new() };
    json!({
        "sync": status["sync"], "live": live["commit"], "asked": status["desired"], "asked_commit": asked["commit"],
        "held_back_by": asked["by"], "reason": asked["reason"], "problem": status["problem"], "models": models,
    })
}

/// Both sides of an answer about a commit, and what would change for clients.
fn against_commit(answer: &Value) -> Value {
    let (live, asked, refused) = (&answer["live"], &answer["asked"], &answer["refused"]);
    let cards = |side: &Value| -> Result<Vec<ModelSpec>, String> {
        let cards = side["cards"].as_object().into_iter().flatten();
        let parse = |(name, card): (&String, &Value)| ModelSpec::parse(name, card.as_str().unwrap_or("").as_bytes());
        cards.map(|card| parse(card).map_err(|error| error.to_string())).collect()
    };
    let (models, changes, unread) = match (asked.is_object(), cards(live), cards(asked)) {
        (false, ..) => (Vec::new(), Vec::new(), None),
        // A card that this program does not understand: the versions can be told all the same.
        (true, Err(problem), _) | (true, _, Err(problem)) => (moves(live, asked), Vec::new(), Some(problem)),
        (true, Ok(live_cards), Ok(cards)) => {
            let changes = Live::of(&live_cards).differences(&cards);
            (moves(live, asked), changes, None)
        }
    };
    let default = |side: &Value| side["default"].clone();
    let problem = if refused.is_object() {
        json!({ "kind": "refused", "text": refusal(refused) })
    } else {
        unread.map_or(Value::Null, |problem| json!({ "kind": "unread", "text": problem }))
    };
    let default =
        (asked.is_object() && default(live) != default(asked)).then(|| json!([default(live), default(asked)]));
    json!({
        "live": live["commit"], "asked": answer["commit"]["id"], "asked_commit": answer["commit"], "name": answer["name"],
        "problem": problem, "models": models, "default": default, "changes": changes,
    })
}

fn refusal(refused: &Value) -> String {
    let line = refused["line"].as_u64().filter(|line| *line > 0).map(|line| line.to_string());
    let parts = [Some(text(refused, "/file")), line, Some(text(refused, "/field")), Some(text(refused, "/problem"))];
    let parts: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    format!("would be refused: {}", parts.join(": "))
}

/// Where the versions of two sides differ.
fn moves(live: &Value, asked: &Value) -> Vec<Value> {
    let mut models = Vec::new();
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
        // A version keeps its name and not its bytes: allowed to git, and nothing that a table of versions shows.
        let both = |side: &Value| side["models"][name.as_str()]["versions"].as_object().cloned().unwrap_or_default();
        for (version, bytes) in both(asked) {
            if both(live).get(&version).is_some_and(|before| *before != bytes) {
                models.push(
                    json!({ "model": name, "role": "bytes", "from": version, "to": format!("{version}, changed") }),
                );
            }
        }
    }
    let names = |side: &Value| groups(side).iter().map(|group| group.join(" + ")).collect::<BTreeSet<_>>();
    let (had, wants) = (names(live), names(asked));
    for (only, from, to) in [(had.difference(&wants), "yes", ""), (wants.difference(&had), "", "yes")] {
        models.extend(only.map(|group| json!({ "model": group, "role": "together", "from": from, "to": to })));
    }
    models
}

/// Whether there is none, and that is certain.
fn is_none(difference: &Value) -> bool {
    match &difference["sync"] {
        Value::Null => {
            let empty = |field: &str| difference[field].as_array().is_none_or(Vec::is_empty);
            difference["problem"].is_null() && empty("models") && empty("default") && empty("changes")
        }
        sync => sync == "Synced",
    }
}

fn show(difference: &Value) {
    let mut table = Table::default();
    let line = |commit: &str, subject: String| format!("{} {subject}", short(commit));
    let named = difference["sync"].is_null();
    table.fact("live", line(&text(difference, "/live/id"), text(difference, "/live/subject")));
    let asked = line(&text(difference, "/asked"), text(difference, "/asked_commit/subject"));
    table.fact(if named { "against" } else { "asked for" }, asked);
    table.fact("held back by", text(difference, "/held_back_by"));
    table.fact("because", text(difference, "/reason"));
    table.fact("problem", text(difference, "/problem/text"));
    table.print();
    let models = difference["models"].as_array().map_or(&[][..], Vec::as_slice);
    if is_none(difference) {
        say("no difference");
        return;
    }
    if models.is_empty() && difference["default"].is_null() {
        if !named || difference["problem"].is_null() {
            say("no difference in what is served can be told");
        }
        return;
    }
    say("");
    let mut table = Table::headed(&["MODEL", "ROLE", "LIVE", if named { "AGAINST" } else { "ASKED FOR" }]);
    let cell =
        |value: &Value, path: &str| Some(text(value, path)).filter(|text| !text.is_empty()).unwrap_or("-".to_owned());
    for model in models {
        table.row(["/model", "/role", "/from", "/to"].map(|path| cell(model, path)));
    }
    if let Value::Array(_) = &difference["default"] {
        table.row([
            "-".to_owned(),
            "default".to_owned(),
            cell(difference, "/default/0"),
            cell(difference, "/default/1"),
        ]);
    }
    table.print();
    show_changes(difference["changes"].as_array().map_or(&[][..], Vec::as_slice));
}

/// What changes for clients, and how good the versions say that they are.
fn show_changes(changes: &[Value]) {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    if changes.iter().any(|change| !list(change, "breaking").is_empty()) {
        say("");
    }
    for change in changes {
        for breaks in list(change, "breaking") {
            let line = format!("breaking: {}: {}", text(change, "/model"), breaks.as_str().unwrap_or_default());
            say(&super::table::alarm(&line));
        }
    }
    let metrics = changes.iter().flat_map(|change| list(change, "metrics").into_iter().map(move |m| (change, m)));
    let metrics: Vec<_> = metrics.collect();
    if metrics.is_empty() {
        return;
    }
    say("");
    let mut table = Table::headed(&["MODEL", "METRIC", "SPLIT", "LIVE", "AGAINST"]);
    for (change, metric) in metrics {
        let value = |field: &str| metric[field].as_f64().map_or("-".to_owned(), |value| format!("{value:.4}"));
        let [model, name, split] = [text(change, "/model"), text(&metric, "/name"), text(&metric, "/split")];
        table.row([model, name, split, value("from"), value("to")]);
    }
    table.print();
}
