//! Findings for people, for machines, and for the pull request that they are about.

#![allow(clippy::print_stdout, reason = "the findings are what the command is asked for")]

use mainstay_sidecar::trust::Verified;

use super::compare::{Difference, MetricMove};
use super::{Finding, Findings, Judged};

/// One JSON document: a list with an entry per environment.
pub fn json(findings: &[Findings]) {
    println!("{}", serde_json::to_string_pretty(findings).expect("findings have text keys and finite numbers"));
}

/// Lines for people; `colour` where they are read on a terminal.
pub fn text(findings: &[Findings], live: Option<&str>, colour: bool) {
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let (good, bad) = (|text: &str| paint("32", text), |text: &str| paint("31", text));
    for Findings { environment, commit, refused, versions, together, differences } in findings {
        println!("{}", paint("1", &format!("environment {environment}")));
        if let Some(refusal) = refused {
            println!("  {} {refusal}", bad("would be refused:"));
            continue;
        }
        if let Some(commit) = commit {
            println!("  {} {}", good("good"), judged(commit));
        }
        for Finding { model, version, stable, golden_rows, loaded, failed, held, .. } in versions {
            let role = if *stable { "stable" } else { "preview" };
            match failed {
                None if !loaded => println!(
                    "  {} {model} {version} ({role}): the model lies outside git and was not looked at: give \
                     --allow-artifacts-from",
                    good("card is good")
                ),
                None if let Some(reason) = held => {
                    println!("  {} {model} {version} ({role}): {reason}", bad("would be held back:"));
                }
                None => println!(
                    "  {} {model} {version} ({role}): loads, and gives its {golden_rows} golden answers",
                    good("good")
                ),
                Some(reason) => println!("  {} {model} {version} ({role}): {reason}", bad("would not load:")),
            }
        }
        for group in together {
            let names: Vec<_> = group.iter().map(ToString::to_string).collect();
            println!("  move only together: {}", names.join(", "));
        }
        match live {
            Some(url) if differences.is_empty() => println!("  nothing differs from what is live at {url}"),
            Some(url) => println!("  against what is live at {url}:"),
            None => {}
        }
        for Difference { model, from, to, breaking, metrics } in differences {
            let version = |version: &Option<mainstay_models::Version>| {
                version.as_ref().map_or("none".to_owned(), ToString::to_string)
            };
            println!("    {model} {} -> {}", version(from), version(to));
            for breaks in breaking {
                println!("      {} {breaks}", bad("breaking:"));
            }
            for MetricMove { name, split, from, to } in metrics {
                let value = |value: &Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
                println!("      {:>8} -> {:<8} {name} ({split})", value(from), value(to));
            }
        }
    }
}

/// What a commit may do, and by whose word.
fn judged(Judged { id, live, verified }: &Judged) -> String {
    let live = live
        .as_ref()
        .map_or("nothing is known to be live".to_owned(), |live| format!("may follow the live {}", live.short()));
    let signed = verified.as_ref().map_or(String::new(), |verified| {
        let Verified { signer, fingerprint, commits, note, .. } = verified;
        let (plural, note) =
            (if *commits == 1 { "" } else { "s" }, note.map_or(String::new(), |note| format!(" ({note})")));
        format!("; signed by {signer} ({fingerprint}), {commits} commit{plural} verified{note}")
    });
    format!("commit {}: {live}{signed}", id.short())
}

/// Workflow commands of GitHub Actions, which it shows at the file and line that they name.
pub fn annotate(findings: &[Findings]) {
    for Findings { refused, versions, differences, environment, .. } in findings {
        if let Some(refusal) = refused {
            let message = if refusal.file.is_empty() {
                format!("{environment}: {}", refusal.problem)
            } else if refusal.field.is_empty() {
                refusal.problem.clone()
            } else {
                format!("{}: {}", refusal.field, refusal.problem)
            };
            // The commit itself lies in no file.
            let place = match refusal.file.as_str() {
                "" => String::new(),
                file => format!("file={},line={}", property(file), refusal.line.max(1)),
            };
            println!("::error {place}::{}", data(&message));
        }
        for version in versions {
            if let Some(reason) = &version.failed {
                println!(
                    "::error file={},line=1::{}",
                    property(&version.file),
                    data(&format!("would not load: {reason}"))
                );
            }
        }
        for difference in differences {
            for breaks in &difference.breaking {
                let message = format!("{} in {environment}: breaking: {breaks}", difference.model);
                println!("::warning ::{}", data(&message));
            }
        }
    }
}

/// A message as a workflow command takes it.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property's value as a workflow command takes it.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
