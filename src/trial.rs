//! `mainstay trial`: loads and checks one version of a store, for the server that started it.

use std::path::PathBuf;
use std::process::ExitCode;

use mainstay_models::{Blob, ReleasedVersion};
use mainstay_server::reload::{parse_trial_argument, run_trial};

/// Loads and checks one version of a store within limits on memory and processor time.
///
/// Exit codes: 0 the version is good, with `compiled` on standard output or why it cannot be; 1 it is not
/// good, with the reason on standard output.
#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    store: PathBuf,
    #[arg(long, value_parser = parse_trial_argument)]
    spec: Blob,
    #[arg(long, value_parser = parse_trial_argument)]
    artifact: Blob,
    /// How much memory the trial may take
    #[arg(long)]
    memory_bytes: u64,
}

#[allow(clippy::print_stdout, reason = "the answer to the server")]
pub fn run(arguments: &Arguments) -> ExitCode {
    let version = ReleasedVersion { spec: arguments.spec, artifact: arguments.artifact };
    match run_trial(&arguments.store, &version, arguments.memory_bytes) {
        Ok(admission) => {
            println!("{admission}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("{reason}");
            ExitCode::FAILURE
        }
    }
}
