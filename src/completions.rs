//! `mainstay completions`: for shells.

use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

/// Prints the completions of a shell, such as `mainstay completions bash > /etc/bash_completion.d/mainstay`
#[derive(clap::Args)]
pub struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: &Arguments, mut command: Command) -> ExitCode {
    clap_complete::generate(arguments.shell, &mut command, "mainstay", &mut std::io::stdout());
    ExitCode::SUCCESS
}
