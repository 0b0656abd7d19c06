//! `mainstay serve`: answers predictions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, value_parser};
use mainstay_server::settings::{self, KEYS, Resolved};

use crate::{USAGE, failed, shutdown};

/// Variables of the environment that begin like a setting's and are none.
const OTHER_VARIABLES: [&str; 2] = ["MAINSTAY_LOG", "MAINSTAY_LOG_FORMAT"];

const ABOUT: &str = "Answers predictions over HTTP from the models of a store, or from the shipped ones";

const HELP: &str = "\
Every setting can stand in a TOML file (--config), in the environment (MAINSTAY_ROWS_MAX=100) or in a flag
(--rows-max 100); a later one in this list wins, and a key that is not known is an error.

  mainstay serve                                        the shipped models, on port 5000
  mainstay serve --models ./models                      the models of a plain folder
  mainstay serve --store /models --config serve.toml    what the store asks for, as it changes
  curl localhost:5000/predict -d '[[5.1, 3.5, 1.4, 0.2]]'

SIGTERM or Ctrl-C: readiness fails, the requests at hand are answered, then the program ends.
Exit codes: 0 stopped as told, 1 cannot serve, 64 the settings are wrong.";

/// The settings by flag. Not derived: the flags come from the one list of the settings' keys.
pub struct Arguments {
    config: Option<PathBuf>,
    print_config: bool,
    flags: BTreeMap<&'static str, String>,
}

impl clap::Args for Arguments {
    fn augment_args(command: Command) -> Command {
        let flag = |(key, default, help): &(&'static str, &'static str, &'static str)| {
            let help = if default.is_empty() { (*help).to_owned() } else { format!("{help} [default: {default}]") };
            Arg::new(*key).long(key.replace('_', "-")).value_name("VALUE").help(help)
        };
        command
            .about(ABOUT)
            .after_help(HELP)
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("TOML file with settings"),
            )
            .arg(
                Arg::new("print_config")
                    .long("print-config")
                    .action(ArgAction::SetTrue)
                    .help("Print the settings in force and where each comes from, and end"),
            )
            .args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Arguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flag = |(key, ..): &(&'static str, &str, &str)| Some((*key, matches.get_one::<String>(key)?.clone()));
        Ok(Self {
            config: matches.get_one("config").cloned(),
            print_config: matches.get_flag("print_config"),
            flags: KEYS.iter().filter_map(flag).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[allow(clippy::print_stdout, reason = "what --print-config is asked for")]
pub fn run(arguments: &Arguments) -> ExitCode {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let Resolved { settings, origins } =
        match settings::resolve(arguments.config.as_deref(), environment, &OTHER_VARIABLES, &arguments.flags) {
            Ok(resolved) => resolved,
            Err(error) => return failed(&error, USAGE),
        };
    if arguments.print_config {
        for (key, value, origin) in origins {
            println!("{key} = {value:?}  # {origin}");
        }
        return ExitCode::SUCCESS;
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(&error, 1),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    if let Err(error) = shutdown::on_request(move || drop(stop)) {
        return failed(&error, 1);
    }
    // Nothing is ever sent: the channel ends with the signal.
    let shutdown = async {
        let _ = stopped.await;
    };
    match mainstay_server::serve(&settings, program, shutdown) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}
