//! One of the two programs, as a child: its log goes to a file, its end is noticed, its stop is awaited.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take until it listens.
const START: Duration = Duration::from_secs(30);
/// How long a program may take to stop: the server's drain, and some more.
const STOP: Duration = Duration::from_secs(15);

/// A running program. Dropping it ends it at once.
pub struct Program {
    name: &'static str,
    child: Mutex<Child>,
    log: PathBuf,
    /// The fields of the event by which the program says where it listens.
    listening: serde_json::Value,
    last_words: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started or waited for.
    #[error("cannot run `mainstay {name}`")]
    Io { name: &'static str, source: std::io::Error },
    /// It ended, and these were its last words.
    #[error("`mainstay {name}` ended: {words}")]
    Ended { name: &'static str, words: String },
    /// It did not say where it listens.
    #[error("`mainstay {name}` did not start within {} s: its log {} says why", START.as_secs(), log.display())]
    Silent { name: &'static str, log: PathBuf },
}

impl Program {
    /// Starts `program` with the subcommand `name`, and waits until it listens.
    pub fn start(
        program: &Path,
        name: &'static str,
        logs: &Path,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<Self, ProgramError> {
        let io = |source| ProgramError::Io { name, source };
        let log = logs.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).map_err(io)?;
        let mut command = Command::new(program);
        command.arg(name).env("MAINSTAY_LOG_FORMAT", "json").stdin(Stdio::null()).stderr(Stdio::piped());
        // A Ctrl-C in the terminal is for the demo, which then stops the programs in their order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        arguments(&mut command);
        let mut child = command.spawn().map_err(io)?;
        let stderr = child.stderr.take().expect("the child's standard error is a pipe");
        let last_words = Arc::default();
        let (listening, listens) = mpsc::channel();
        let words = Arc::clone(&last_words);
        let reader =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || read(stderr, file, &listening, &words));
        let mut program = Self {
            name,
            child: Mutex::new(child),
            log,
            listening: serde_json::Value::Null,
            last_words,
            reader: Some(reader.map_err(io)?),
        };
        program.listening = program.wait_until_it_listens(&listens)?;
        Ok(program)
    }

    fn wait_until_it_listens(&self, listens: &Receiver<serde_json::Value>) -> Result<serde_json::Value, ProgramError> {
        match listens.recv_timeout(START) {
            Ok(event) => Ok(event),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(ProgramError::Silent { name: self.name, log: self.log.clone() })
            }
            // Its standard error ended without the event: so did the program.
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// An address of the event by which the program said where it listens.
    pub fn address(&self, key: &str) -> Result<SocketAddr, ProgramError> {
        let address = self.listening[key].as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| ProgramError::Silent { name: self.name, log: self.log.clone() })
    }

    /// Fails where the program has ended.
    pub fn check(&self) -> Result<(), ProgramError> {
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
        match status.map_err(|source| ProgramError::Io { name: self.name, source })? {
            None => Ok(()),
            Some(_) => Err(self.ended()),
        }
    }

    fn ended(&self) -> ProgramError {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let words = if words.is_empty() { format!("its log {} says why", self.log.display()) } else { words };
        ProgramError::Ended { name: self.name, words }
    }

    /// Asks the program to stop and waits for it; ends it if it takes too long.
    pub fn stop(self) -> Result<(), ProgramError> {
        let io = |source| ProgramError::Io { name: self.name, source };
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // A program that has ended meanwhile cannot be told anything.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let deadline = Instant::now() + STOP;
        while child.try_wait().map_err(io)?.is_none() {
            if Instant::now() > deadline {
                child.kill().map_err(io)?;
                child.wait().map_err(io)?;
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Both fail only where the program has ended.
        let _ = child.kill();
        let _ = child.wait();
        drop(child);
        if let Some(reader) = self.reader.take() {
            // Its input has ended with the program.
            let _ = reader.join();
        }
    }
}

/// Copies a program's log into `file`, reports the event by which it says where it listens, and remembers what
/// it said first that was no event: the sentence with which it ended.
fn read(stderr: ChildStderr, mut file: std::fs::File, listening: &Sender<serde_json::Value>, words: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        // A full disk must not stop the program, which would block on its pipe.
        let _ = writeln!(file, "{line}");
        match serde_json::from_str::<serde_json::Value>(&line) {
            Ok(event) if event["admin"].is_string() => {
                let _ = listening.send(event);
            }
            Ok(_) => {}
            Err(_) => {
                // The first of several: what follows an error is advice.
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                if words.is_empty() {
                    line.trim_start_matches("error: ").clone_into(&mut words);
                }
            }
        }
    }
}
