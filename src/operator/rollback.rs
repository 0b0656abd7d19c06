//! `mainstay rollback`: back to an earlier release, at once and without git, and then in git too.

use std::collections::BTreeSet;
use std::process::ExitCode;

use mainstay_models::{EnvironmentName, ModelName, ReleaseName, Serving, Version};
use serde_json::{Value, json};

use super::{Finding, Sidecars, complain, print_json, say, short, text};
use crate::repository::{Clone, GitError};

/// The exit code of a rollback that git does not know of.
const NOT_COMMITTED: u8 = 3;

/// Returns to an earlier release from the store's own history, in milliseconds, and then commits that to git
///
/// Without RELEASE it is the newest earlier one that serves something else. It is live before git is asked for anything,
/// and holds until the repository asks for a newer commit than those rolled back from, or `mainstay resume`. Then the
/// environment's serving.yaml, and the cards it names, become what they were in that release's commit, by a new commit
/// that is pushed to the followed branch with your own git: its name, its signature, its credentials. That commit ends
/// the hold, and takes the way back to all other pods. Nobody else's push is ever undone.
///
/// Exit codes: 0 rolled back everywhere and committed, 1 refused by somebody, 2 somebody cannot be reached, 3 rolled back
/// everywhere, and git not changed.
#[derive(clap::Args)]
pub struct Arguments {
    /// Its number in `mainstay history`, its name, or the beginning of its commit.
    release: Option<String>,

    /// Leave git as it is.
    #[arg(long)]
    local: bool,

    /// Where to push to [default: the address that the sidecar follows].
    #[arg(long, value_name = "URL", conflicts_with = "local")]
    repo: Option<String>,

    #[command(flatten)]
    sidecars: Sidecars,
}

/// Why a rollback is not in git.
#[derive(Debug, thiserror::Error)]
enum NotCommitted {
    #[error("the sidecars are not all at one release of one branch of one repository: name one with --sidecar")]
    Several,
    #[error("they follow {0}, which is no branch: move it by hand")]
    NoBranch(String),
    #[error("commit {0} has no {1} that can be read")]
    NoServing(String, String),
    #[error("a sidecar's answer cannot be understood: {0}")]
    Garbled(String),
    #[error(transparent)]
    Git(#[from] GitError),
}

/// Where the way back is to be committed, and to what.
struct Way {
    repository: String,
    branch: String,
    environment: EnvironmentName,
    from: ReleaseName,
    to: ReleaseName,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let sidecars = &arguments.sidecars;
    let answers = sidecars.order("/rollback", &json!({ "to": arguments.release }));
    let show = |_: &str, rolled: &Value| {
        say(&format!("rolled back from {} to {}", text(rolled, "/from"), text(rolled, "/to")));
    };
    // In JSON there is one document, when everything has been done; for people each line comes when it is true.
    let finding = if sidecars.json {
        let silences = answers.iter().filter_map(|(_, answer)| answer.as_ref().err());
        silences.inspect(|silence| complain(*silence)).map(Finding::from).max().unwrap_or(Finding::Fine)
    } else {
        sidecars.tell(&answers, show, |_| Finding::Fine)
    };
    if finding != Finding::Fine || arguments.local {
        if sidecars.json {
            print_json(&sidecars.entries(&answers).into());
        } else if finding == Finding::Fine {
            say("it holds until git asks for a newer commit; `git revert` in the repository makes it last");
        }
        return finding.into();
    }
    let rolled = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let committed = way(sidecars, rolled).and_then(|way| {
        let address = arguments.repo.as_deref().unwrap_or(&way.repository);
        commit(&way, address).map(|commit| (commit, way.branch.clone()))
    });
    if sidecars.json {
        let mut entries = sidecars.entries(&answers);
        entries.push(match &committed {
            Ok((commit, branch)) => json!({ "git": { "commit": commit, "branch": branch } }),
            Err(problem) => json!({ "git": { "error": problem.to_string() } }),
        });
        print_json(&entries.into());
    }
    match committed {
        Ok((Some(commit), branch)) if !sidecars.json => {
            say(&format!("committed to {branch} as {}: every pod follows", short(&commit)));
        }
        Ok((None, branch)) if !sidecars.json => say(&format!("{branch} asks for that already")),
        Ok(_) => {}
        Err(problem) => {
            complain(&problem);
            if !sidecars.json {
                say("git is not changed: it holds here until git asks for a newer commit, and new pods do not have it");
            }
            return ExitCode::from(NOT_COMMITTED);
        }
    }
    ExitCode::SUCCESS
}

/// The one way back that all sidecars have gone.
fn way<'a>(sidecars: &Sidecars, rolled: impl Iterator<Item = &'a Value>) -> Result<Way, NotCommitted> {
    let ways: BTreeSet<_> = rolled.map(|rolled| (text(rolled, "/from"), text(rolled, "/to"))).collect();
    let statuses = sidecars.ask::<Value>("/status");
    let mut followed = BTreeSet::new();
    for (_, status) in &statuses {
        let status = status.as_ref().map_err(|silence| NotCommitted::Garbled(silence.to_string()))?;
        followed.insert(["/repository", "/reference", "/resolved", "/environment"].map(|path| text(status, path)));
    }
    // The numbers are each store's own.
    let commits: BTreeSet<_> = ways.iter().filter_map(|(_, to)| to.split_once('-')).map(|(_, commit)| commit).collect();
    let (Some([repository, reference, resolved, environment]), 1, 1) =
        (followed.pop_first(), followed.len() + 1, commits.len())
    else {
        return Err(NotCommitted::Several);
    };
    let branch = match resolved.strip_prefix("refs/heads/") {
        Some(branch) => branch.to_owned(),
        None => return Err(NotCommitted::NoBranch(if resolved.is_empty() { reference } else { resolved })),
    };
    let (from, to) = ways.into_iter().next().ok_or(NotCommitted::Several)?;
    let garbled = |text: &str| NotCommitted::Garbled(text.to_owned());
    Ok(Way {
        repository,
        branch,
        environment: environment.parse().map_err(|_| garbled(&environment))?,
        from: from.parse().map_err(|_| garbled(&from))?,
        to: to.parse().map_err(|_| garbled(&to))?,
    })
}

/// Commits and pushes; gives the commit, or none where git asks for that already.
fn commit(way: &Way, address: &str) -> Result<Option<String>, NotCommitted> {
    let clone = Clone::of(address, Some(&way.branch))?;
    let (to, path) = (way.to.commit.as_str(), Serving::path(&way.environment));
    let serving = clone.read(to, &path).and_then(|text| Serving::parse(&path, text.as_bytes()).ok());
    let serving = serving.ok_or_else(|| NotCommitted::NoServing(short(to).to_owned(), path.clone()))?;
    let folder = |name: &ModelName, version: &Version| format!("models/{name}/{version}");
    let models = serving.models.iter().flat_map(|(name, model)| model.versions().map(|version| folder(name, version)));
    let paths: Vec<_> = std::iter::once(path).chain(models).collect();
    clone.restore(to, &paths)?;
    let message = format!(
        "Roll {} back to {}\n\nWhat commit {to} served is served again, instead of what {} did.\n",
        way.environment,
        short(to),
        way.from.commit
    );
    let Some(commit) = clone.commit(&message)? else { return Ok(None) };
    clone.push()?;
    Ok(Some(commit))
}
