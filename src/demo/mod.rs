//! `mainstay demo`: the whole of Mainstay on one machine, with a repository to commit to.
//!
//! Makes the repository, starts the two programs as a pod would, and says in words what they do. The demo itself
//! serves nothing and publishes nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use mainstay_models::Version;

use crate::{failed, shutdown};

mod narrator;
mod program;
mod repository;

use narrator::Narrator;
use program::{Program, ProgramError};
use repository::{Repository, RepositoryError};

/// The environment of the demo's repository that is followed.
const ENVIRONMENT: &str = "dev";
/// How often the two programs are asked what happened.
const GLANCE: Duration = Duration::from_millis(100);
/// How long the first release may take to be live.
const FIRST_RELEASE: Duration = Duration::from_secs(60);

/// Shows it all: a repository, the sidecar, the server, and how to roll a model by committing
///
/// Makes a configuration repository with the shipped models (a bare repository, and a clone to work in), follows it
/// with `mainstay sync`, serves it with `mainstay serve`, and says what happens. Needs git. A folder that a demo has
/// left is taken up again. Ctrl-C stops everything.
///
/// Exit codes: 0 stopped as told, 1 failed, 64 the command line is wrong.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder for the repository, the store and the logs.
    #[arg(long, value_name = "DIR", default_value = "mainstay-demo")]
    dir: PathBuf,

    /// Where predictions are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,

    /// Where the server's operators are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
}

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot use the folder {}: choose another with --dir", dir.display())]
    Folder { dir: PathBuf, source: std::io::Error },
    #[error("cannot start the demo")]
    Start(#[from] std::io::Error),
    #[error("the first release was not live after {} s: the logs in {} say why", FIRST_RELEASE.as_secs(), logs.display())]
    Silent { logs: PathBuf },
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let (stop, stopped) = mpsc::channel();
    let result = shutdown::on_request(move || drop(stop)).map_err(DemoError::Start);
    match result.and_then(|()| demonstrate(arguments, &stopped)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

fn demonstrate(arguments: &Arguments, stopped: &Receiver<()>) -> Result<(), DemoError> {
    let folder = |source| DemoError::Folder { dir: arguments.dir.clone(), source };
    std::fs::create_dir_all(arguments.dir.join("logs")).map_err(folder)?;
    let dir = std::fs::canonicalize(&arguments.dir).map_err(folder)?;
    let (store, logs) = (dir.join("store"), dir.join("logs"));
    say(&format!("Making the configuration repository in {}", dir.display()));
    let repository = Repository::open_or_make(&dir)?;

    say("Starting the server and the sidecar");
    let this = std::env::current_exe()?;
    let serve = Program::start(&this, "serve", &logs, |command| {
        command.arg("--store").arg(&store);
        command.args(["--listen", &arguments.listen.to_string(), "--admin", &arguments.admin.to_string()]);
    })?;
    let url = |address: SocketAddr| format!("http://{address}");
    let (data_url, admin_url) = (url(serve.address("listen")?), url(serve.address("admin")?));
    let sync = Program::start(&this, "sync", &logs, |command| {
        command.arg("--repo").arg(&repository.bare).arg("--store").arg(&store);
        command.args(["--env", ENVIRONMENT, "--interval", "500ms", "--admin", "127.0.0.1:0", "--server", &admin_url]);
    })?;

    let mut narrator = Narrator::new(&data_url, &url(sync.address("admin")?));
    let begun = Instant::now();
    let mut greeted = false;
    loop {
        narrator.look().iter().for_each(|line| say(line));
        if !greeted && narrator.live() {
            greet(&data_url, &admin_url, &repository.clone, &logs, narrator.iris());
            greeted = true;
        }
        if !greeted && begun.elapsed() > FIRST_RELEASE {
            return Err(DemoError::Silent { logs });
        }
        serve.check()?;
        sync.check()?;
        // Nothing is ever sent: the channel ends with the signal.
        if stopped.recv_timeout(GLANCE) == Err(mpsc::RecvTimeoutError::Disconnected) {
            break;
        }
    }
    say("Stopping");
    // The sidecar first, so that it does not miss the server.
    sync.stop()?;
    serve.stop()?;
    Ok(())
}

/// What a person needs to try it; `iris` is the version that an earlier demo may have left.
#[allow(clippy::print_stdout, reason = "what the demo is asked for")]
fn greet(data_url: &str, admin_url: &str, clone: &Path, logs: &Path, iris: Option<&Version>) {
    // As a shell quotes it: a person's folder may have any name.
    let clone = clone.display().to_string().replace('\'', r"'\''");
    let logs = logs.display();
    let from = iris.map_or("1.0.0".to_owned(), Version::to_string);
    let to = if from == "1.1.0" { "1.0.0" } else { "1.1.0" };
    let pattern = from.replace('.', r"\.");
    println!(
        r#"
  Open
      {data_url}/

  Predict
      curl -s {data_url}/predict -d '[{{"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.1, "petal width (cm)": 0.2}}]'

  Roll iris from {from} to {to} (in this clone, a hook pushes every commit)
      cd '{clone}'
      sed -i.bak '/^  iris:/,/stable:/s/{pattern}/{to}/' environments/{ENVIRONMENT}/serving.yaml
      git commit -am 'Roll iris to {to}'

  Roll it back
      git revert --no-edit HEAD

  Look behind
      {admin_url}/status   {admin_url}/metrics   {logs}

  Ctrl-C stops everything.
"#
    );
}

#[allow(clippy::print_stdout, reason = "what the demo is asked for")]
fn say(line: &str) {
    println!("{line}");
}
