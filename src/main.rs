//! The command line of Mainstay: it parses, wires and reports. Everything else is in the crates.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

mod artifacts;
mod check;
mod completions;
mod demo;
mod import;
mod man;
mod operator;
mod probe;
mod promote;
mod repository;
mod serve;
mod shutdown;
mod sync;
mod trial;

/// The exit code of a command line that cannot be understood (sysexits.h: EX_USAGE).
const USAGE: u8 = 64;

/// Serves trained models and does what git says.
///
/// `mainstay serve` answers predictions; `mainstay sync` follows a configuration repository and hands the server the
/// model versions that a commit asks for. They meet in a store, a folder that both see. `mainstay demo` shows it all.
/// The rest are for operators: they ask the sidecars, or give them orders.
///
/// Exit codes: 0 done, 1 failed, 64 the command line is wrong; each subcommand's help names its own.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// How log lines look: for people, or as JSON; by default the former on a terminal only.
    #[arg(long, global = true, value_enum, env = "MAINSTAY_LOG_FORMAT")]
    log_format: Option<LogFormat>,

    /// What is logged, such as `info` or `mainstay_server=debug`.
    #[arg(long, global = true, default_value = "info", env = "MAINSTAY_LOG", value_parser = parse_filter)]
    log: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Sync(Box<sync::Arguments>),
    Demo(demo::Arguments),
    Check(check::Arguments),
    Promote(Box<promote::Arguments>),
    Import(import::Arguments),
    Status(operator::status::Arguments),
    Diff(operator::diff::Arguments),
    History(operator::history::Arguments),
    SyncNow(operator::sync_now::Arguments),
    Rollback(operator::rollback::Arguments),
    Hold(operator::hold::Arguments),
    Resume(operator::resume::Arguments),
    Wait(operator::wait::Arguments),
    Probe(probe::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
    #[command(hide = true)]
    Trial(trial::Arguments),
    /// Answers the sidecar's questions to git on standard input and output.
    #[command(hide = true)]
    GitWorker,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    // Before any thread, and before anything can load the library.
    mainstay_server::engine::disable_telemetry();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come as errors too, and are none.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match arguments.command {
        // Its standard error belongs to the sidecar, which logs for it.
        Command::GitWorker => return mainstay_sidecar::git::worker::run(),
        Command::Trial(arguments) => return trial::run(&arguments),
        _ => {}
    }
    if let Err(error) = start_log(&arguments.log, arguments.log_format) {
        return failed(error.as_ref(), USAGE);
    }
    match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Sync(arguments) => sync::run(*arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Promote(arguments) => promote::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Status(arguments) => operator::status::run(&arguments),
        Command::Diff(arguments) => operator::diff::run(&arguments),
        Command::History(arguments) => operator::history::run(&arguments),
        Command::SyncNow(arguments) => operator::sync_now::run(&arguments),
        Command::Rollback(arguments) => operator::rollback::run(&arguments),
        Command::Hold(arguments) => operator::hold::run(&arguments),
        Command::Resume(arguments) => operator::resume::run(&arguments),
        Command::Wait(arguments) => operator::wait::run(&arguments),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, Arguments::command()),
        Command::Man(arguments) => man::run(&arguments, Arguments::command()),
        Command::Trial(_) | Command::GitWorker => unreachable!("they have returned above"),
    }
}

/// A filter that can be used. It stays text, since clap keeps copies of values, which a filter does not allow.
fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

fn start_log(filter: &str, format: Option<LogFormat>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::io::{IsTerminal as _, stderr};

    let filter = EnvFilter::try_new(filter)?;
    let format = format.unwrap_or(if stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    }
}

/// Prints `error` and its causes on one line, for people.
#[allow(clippy::print_stderr, reason = "the last word of a command that failed")]
fn failed(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    eprintln!("error: {text}");
    ExitCode::from(code)
}
