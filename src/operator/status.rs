//! `mainstay status`: how it is.

use std::process::ExitCode;

use serde_json::Value;

use super::{Finding, Sidecars, Table, base_url, complain, get, print_json, say, short, text, time};

/// Shows what is live, whether that is what git asks for, and what holds it up if not
///
/// Exit codes: 0 Synced and Healthy everywhere, 1 not so, 2 somebody cannot be reached.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    sidecars: Sidecars,

    /// The server's admin address, to show each version that it has loaded; several for several pods.
    #[arg(long = "server", value_name = "URL", value_delimiter = ',', value_parser = base_url)]
    servers: Vec<String>,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let sidecars = &arguments.sidecars;
    let servers: Vec<_> = arguments.servers.iter().map(|url| (url, get::<Value>(url, "/status"))).collect();
    let answers = sidecars.ask::<Value>("/status");
    let mut worst = sidecars.tell(&answers, |_, status| show(status), judge);
    for (url, answer) in &servers {
        let found = match answer {
            Ok(page) => {
                if sidecars.json {
                    print_json(&serde_json::json!([{ "server": url, "answer": page }]));
                } else {
                    say("");
                    show_server(url, page);
                }
                judge_server(page)
            }
            Err(silence) => {
                complain(silence);
                silence.into()
            }
        };
        worst = worst.max(found);
    }
    worst.into()
}

/// Whether a sidecar is where it should be.
pub fn judge(status: &Value) -> Finding {
    if status["sync"] == "Synced" && status["health"] == "Healthy" { Finding::Fine } else { Finding::NotSo }
}

fn judge_server(page: &Value) -> Finding {
    let models = page["models"].as_array().map_or(&[][..], Vec::as_slice);
    let fine = page["trouble"].is_null() && models.iter().all(|model| model["state"] == "live");
    if fine { Finding::Fine } else { Finding::NotSo }
}

fn show(status: &Value) {
    let mut table = Table::default();
    table.fact("environment", text(status, "/environment"));
    table.fact("repository", format!("{} ({})", text(status, "/repository"), text(status, "/reference")));
    table.fact("sync", text(status, "/sync"));
    let reason = text(status, "/health_reason");
    let health = text(status, "/health");
    table.fact("health", if reason.is_empty() { health } else { format!("{health}: {reason}") });
    table.fact("walk back", text(status, "/walk_back"));
    table.fact("problem", text(status, "/problem/text"));
    let release = &status["release"];
    if release.is_object() {
        table.fact("live", format!("{}  {}", text(release, "/name"), text(release, "/commit/subject")));
        let rollback = text(release, "/rollback/to");
        table.fact("", if rollback.is_empty() { rollback } else { format!("rolled back to {rollback}") });
    } else {
        table.fact("live", "nothing");
    }
    table.fact("asked for", text(status, "/desired"));
    let held = &status["held_back"];
    if held.is_object() {
        let until = time(&held["until_unix_ms"]);
        let until = if until.is_empty() { until } else { format!(", until {until}") };
        let what = format!("{}  {}", short(&text(held, "/commit/id")), text(held, "/commit/subject"));
        table.fact("held back", format!("{what} ({}: {}{until})", text(held, "/by"), text(held, "/reason")));
    }
    table.fact("hold", text(status, "/hold/operator/reason"));
    table.print();
    let groups: Vec<Vec<&str>> = groups(release);
    let heads = ["MODEL", "STABLE", "PREVIEW", "MOVES WITH"];
    let mut models = Table::headed(if groups.is_empty() { &heads[..3] } else { &heads });
    for (name, model) in release["models"].as_object().into_iter().flatten() {
        let stable = text(model, "/stable");
        let versions = model["versions"].as_object();
        let preview: Vec<_> = versions
            .into_iter()
            .flat_map(|versions| versions.keys())
            .filter(|version| **version != stable)
            .cloned()
            .collect();
        let group = groups.iter().find(|group| group.contains(&name.as_str()));
        let others = group.into_iter().flatten().filter(|other| *other != name).copied().collect::<Vec<_>>().join(" ");
        let stand_in = text(model, "/fallback/version");
        let stable = if stand_in.is_empty() { stable } else { format!("{stable} (else {stand_in})") };
        let row = [name.clone(), stable, preview.join(" "), others];
        models.row(row);
    }
    if release.is_object() {
        say("");
        models.print();
    }
}

/// The models of a release that move only together.
pub fn groups(release: &Value) -> Vec<Vec<&str>> {
    let groups = release["together"].as_array().into_iter().flatten();
    groups.map(|group| group.as_array().into_iter().flatten().filter_map(Value::as_str).collect()).collect()
}

fn show_server(url: &str, page: &Value) {
    let mut table = Table::default();
    table.fact("server", url);
    table.fact("release", text(page, "/release/name"));
    table.fact("trouble", text(page, "/trouble"));
    let loading = page["loading"].as_array().into_iter().flatten();
    let loading: Vec<_> = loading.map(|one| format!("{} {}", text(one, "/name"), text(one, "/version"))).collect();
    table.fact("loading", loading.join(", "));
    table.print();
    let mut models = Table::headed(&["MODEL", "VERSION", "ROLE", "STATE", "SERVING", "OF", "REASON"]);
    for model in page["models"].as_array().into_iter().flatten() {
        let commit = text(model, "/commit");
        let [name, version, role, state, serving, reason] =
            ["/name", "/version", "/role", "/state", "/serving", "/reason"].map(|path| text(model, path));
        models.row([name, version, role, state, serving, short(&commit).to_owned(), reason]);
    }
    models.print();
}
