//! `mainstay man`: the manual page, of the program or of one subcommand.

use std::process::ExitCode;

use clap::Command;

use crate::{USAGE, failed};

/// Prints the manual page, such as `mainstay man rollback | man -l -`
#[derive(clap::Args)]
pub struct Arguments {
    /// The subcommand; the whole program without it.
    subcommand: Option<String>,
}

pub fn run(arguments: &Arguments, mut command: Command) -> ExitCode {
    command.build();
    let page = match &arguments.subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone().display_name(format!("mainstay-{name}")),
            None => return failed(&std::io::Error::other(format!("there is no subcommand `{name}`")), USAGE),
        },
    };
    match clap_mangen::Man::new(page).render(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}
