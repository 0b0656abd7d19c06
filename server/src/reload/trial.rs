//! A trial: a new version is loaded and checked in a child process first.
//!
//! A model can make ONNX Runtime crash, hang or take all memory. In the child that costs a log line: it gets no more than
//! its share of the memory that there is, and where memory runs out all the same, it is what the kernel ends first.

use std::fmt;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mainstay_models::{Blob, ModelSpec, Reader, ReleasedVersion};
#[cfg(target_os = "linux")]
use rustix::event::{PollFd, PollFlags, Timespec, poll};
#[cfg(target_os = "linux")]
use rustix::process::{Pid, PidfdFlags};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::memory::Share;
use crate::engine::{Engine, EngineChoice, Runtime};
use crate::priority;

/// How long a trial may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a trial lives on what the requests leave of the processors. Where they leave too little, it begins anew with a
/// share: the kernel lets nobody out of the first state who may not raise priorities.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much processor time a trial may use, in seconds: less than its time, so that a busy loop ends by itself.
const CPU_S_MAX: u64 = 50;
/// How much address space a trial may use, whatever it does with it.
const ADDRESS_SPACE_BYTES_MAX: u64 = 8 << 30;
/// What makes the kernel, where memory runs out, end a trial before anything else.
const OOM_SCORE_ADJ: &str = "1000";
/// The longest reason that is taken from a trial.
const REASON_BYTES_MAX: u64 = 4096;
/// How often a running trial is looked at: whether it is late, or no longer wanted.
const GLANCE: Duration = Duration::from_millis(20);

/// Runs trials with one program.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The program: this one, whose subcommand `trial` calls [`run`].
    pub program: PathBuf,
}

/// Which engine a version that passed may be served by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The compiled executor too: it gave ONNX Runtime's answers.
    Compiled,
    /// ONNX Runtime alone.
    Onnxruntime {
        /// Why not compiled.
        reason: String,
    },
}

/// What the child says of an admission, before the reason if there is one.
const COMPILED: &str = "compiled";

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiled => f.write_str(COMPILED),
            Self::Onnxruntime { reason } => f.write_str(reason),
        }
    }
}

/// Why a version did not pass.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The child could not be started or waited for.
    #[error("cannot run the trial of the version in a child process")]
    Start(#[source] std::io::Error),
    /// The version is not what its card says.
    #[error("{0}")]
    Refused(String),
    /// The version took too long.
    #[error("the version was not loaded and checked within {} s", TIMEOUT.as_secs())]
    Late,
    /// Nobody waits for it any more.
    #[error("the trial of the version was abandoned, since it is no longer asked for")]
    Abandoned,
    /// The child died: the version makes ONNX Runtime crash or exceeds the trial's memory.
    #[error("loading the version in a child process ended it ({how}): the model file crashes the runtime, or needs more than {} MiB", memory_bytes >> 20)]
    Died {
        /// The child's exit status.
        how: String,
        /// How much memory it was given.
        memory_bytes: u64,
    },
}

/// What a trial gets of the processors: the server's requests come first, and none is to be slower because a version is tried.
#[derive(Debug, Clone, Copy)]
enum Processor {
    /// Only what nobody else wants.
    Leftover,
    /// A quarter of one that somebody else wants all of.
    Share,
}

impl Trial {
    /// Loads and checks `version` of the store at `store` in a child process.
    pub fn check(&self, store: &Path, version: &ReleasedVersion) -> Result<Admission, TrialError> {
        self.check_until(store, version, &AtomicBool::new(false))
    }

    /// The same, which ends soon after `abandoned` becomes true.
    pub fn check_until(
        &self,
        store: &Path,
        version: &ReleasedVersion,
        abandoned: &AtomicBool,
    ) -> Result<Admission, TrialError> {
        self.check_patiently(store, version, abandoned, PATIENCE)
    }

    fn check_patiently(
        &self,
        store: &Path,
        version: &ReleasedVersion,
        abandoned: &AtomicBool,
        patience: Duration,
    ) -> Result<Admission, TrialError> {
        let begun = Instant::now();
        match self.attempt(store, version, abandoned, Processor::Leftover, patience) {
            Err(TrialError::Late) if begun.elapsed() < TIMEOUT => {
                tracing::info!("the requests leave a trial too little of the processors: it begins anew with a share");
                self.attempt(store, version, abandoned, Processor::Share, TIMEOUT.saturating_sub(patience))
            }
            outcome => outcome,
        }
    }

    /// One child, which ends within `timeout`.
    fn attempt(
        &self,
        store: &Path,
        version: &ReleasedVersion,
        abandoned: &AtomicBool,
        processor: Processor,
        timeout: Duration,
    ) -> Result<Admission, TrialError> {
        let memory_bytes = Share::now().bytes;
        let mut command = Command::new(&self.program);
        command
            .arg("trial")
            .arg("--store")
            .arg(store)
            .args(["--spec", &argument(&version.spec), "--artifact", &argument(&version.artifact)])
            .args(["--memory-bytes", &memory_bytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = start(command, processor).map_err(TrialError::Start)?;
        // Its share of the memory should do: where this is not possible, or not Linux, nothing is lost but the order.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), OOM_SCORE_ADJ);
        let begun = Instant::now();
        let mut deadline = begun + timeout;
        let end_of = End::of(&child);
        let status = loop {
            match child.try_wait().map_err(TrialError::Start)? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let last = begun + TIMEOUT;
                    let is_leftover = matches!(processor, Processor::Leftover);
                    if !is_leftover || deadline >= last || is_starved(computed(&child), timeout) {
                        end(child);
                        return Err(TrialError::Late);
                    }
                    // One that computes for long gains nothing by beginning anew.
                    deadline = last;
                }
                None if abandoned.load(Ordering::Relaxed) => {
                    end(child);
                    return Err(TrialError::Abandoned);
                }
                None => end_of.wait(),
            }
        };
        let mut reason = String::new();
        let stdout = child.stdout.take().expect("the child's standard output is a pipe");
        // What cannot be read of a dead child's last words is left out.
        let _ = stdout.take(REASON_BYTES_MAX).read_to_string(&mut reason);
        match status.code() {
            Some(0) if reason.trim() == COMPILED => Ok(Admission::Compiled),
            Some(0) => Ok(Admission::Onnxruntime { reason: reason.trim().to_owned() }),
            Some(1) if !reason.is_empty() => Err(TrialError::Refused(reason.trim().to_owned())),
            _ => Err(TrialError::Died { how: status.to_string(), memory_bytes }),
        }
    }
}

/// Starts a child that has what `processor` says from its first instruction on. By the time it could see to that itself, it
/// would have computed for some milliseconds.
fn start(mut command: Command, processor: Processor) -> std::io::Result<Child> {
    // A child inherits it from the thread that starts it; and who only takes what is left is not given a share again.
    let starter = std::thread::Builder::new().name("trial".to_owned()).spawn(move || {
        match processor {
            Processor::Leftover => priority::take_what_is_left(),
            Processor::Share => priority::step_back(),
        }
        command.spawn()
    })?;
    starter.join().expect("starting a process does not panic")
}

/// The end of a child, which the standard library cannot wait for with a deadline. To look for it each millisecond would take
/// more from the requests than the trial does.
struct End {
    #[cfg(target_os = "linux")]
    event: Option<std::os::fd::OwnedFd>,
}

impl End {
    fn of(child: &Child) -> Self {
        #[cfg(not(target_os = "linux"))]
        let _ = child;
        Self {
            // There is none before Linux 5.3, nor where no file can be opened.
            #[cfg(target_os = "linux")]
            event: rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok(),
        }
    }

    /// Waits for it, no longer than [`GLANCE`]; for as long where it cannot be waited for.
    fn wait(&self) {
        #[cfg(target_os = "linux")]
        if let Some(event) = &self.event {
            let glance = Timespec::try_from(GLANCE).expect("it is short");
            if poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&glance)).is_ok() {
                return;
            }
        }
        std::thread::sleep(GLANCE);
    }
}

/// Whether a child that has lived for so long and `computed` so much of it has had too little of the processors. Where that
/// is not known, it has.
fn is_starved(computed: Option<Duration>, lived: Duration) -> bool {
    computed.is_none_or(|computed| computed * 4 < lived)
}

/// How much processor time a child's first thread, which does all of its work, has had.
fn computed(child: &Child) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{}/schedstat", child.id())).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn end(mut child: Child) {
    // A child that ended meanwhile cannot be killed; either way it is to be waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// A blob as an argument of the subcommand `trial`.
fn argument(blob: &Blob) -> String {
    format!("{}:{}", blob.sha256, blob.size_bytes)
}

/// Reads what [`Trial::check`] writes as an argument.
pub fn parse_argument(text: &str) -> Result<Blob, String> {
    let blob = || {
        let (sha256, size_bytes) = text.split_once(':')?;
        Some(Blob { sha256: sha256.parse().ok()?, size_bytes: size_bytes.parse().ok()? })
    };
    blob().ok_or_else(|| "write <sha256>:<size in bytes>".to_owned())
}

/// The child's part: limits itself to `memory_bytes` and more, then loads and checks the version, and finds out whether it may
/// be compiled. The error is one line for `/status`.
pub fn run(store: &Path, version: &ReleasedVersion, memory_bytes: u64) -> Result<Admission, String> {
    let limit = |maximum| Rlimit { current: Some(maximum), maximum: Some(maximum) };
    // What it can write to and nobody else has: the libraries' code that it maps takes no memory that cannot be had back.
    for (resource, maximum) in [
        (Resource::Data, memory_bytes),
        (Resource::As, ADDRESS_SPACE_BYTES_MAX),
        (Resource::Cpu, CPU_S_MAX),
        (Resource::Core, 0),
    ] {
        setrlimit(resource, limit(maximum)).map_err(|e| format!("cannot limit the trial's {resource:?}: {e}"))?;
    }
    let reader = Reader::new(store);
    let text = reader.blob(&version.spec).map_err(|e| super::sentence(&e))?;
    let spec = ModelSpec::parse("model.yaml", &text).map_err(|e| e.to_string())?;
    let artifact = reader.blob(&version.artifact).map_err(|e| super::sentence(&e))?;
    let runtime = Runtime::load().map_err(|e| super::sentence(&e))?;
    let oracle = onnxruntime(&runtime, &artifact, &spec, NonZeroUsize::MIN)?;
    Ok(match admit(&oracle, &artifact, &spec) {
        Ok(()) => Admission::Compiled,
        Err(reason) => Admission::Onnxruntime { reason },
    })
}

/// Whether a model that `oracle` has in ONNX Runtime may be compiled. The error is one line for people.
fn admit(oracle: &Engine, artifact: &[u8], spec: &ModelSpec) -> Result<(), String> {
    compile(artifact, spec)?.parity(oracle, artifact, spec).map(|_| ()).map_err(|e| super::sentence(&e))
}

/// Loads a version into the engine that is asked for and admitted. Gives also why it is not compiled, if it is not. The
/// error is one line for people.
pub(super) fn load(
    choice: EngineChoice,
    admission: &Admission,
    artifact: &[u8],
    spec: &ModelSpec,
    sessions: NonZeroUsize,
) -> Result<(Engine, Option<String>), String> {
    let reason = match (choice, admission) {
        (EngineChoice::Ort, _) => "onnx runtime is asked for".to_owned(),
        (_, Admission::Onnxruntime { reason }) => reason.clone(),
        (_, Admission::Compiled) => match compile(artifact, spec) {
            Ok(engine) => return Ok((engine, None)),
            Err(reason) => reason,
        },
    };
    if choice == EngineChoice::Compiled {
        return Err(format!("a compiled model is asked for, and this one cannot be: {reason}"));
    }
    let runtime = Runtime::load().map_err(|e| super::sentence(&e))?;
    onnxruntime(&runtime, artifact, spec, sessions).map(|engine| (engine, Some(reason)))
}

fn compile(artifact: &[u8], spec: &ModelSpec) -> Result<Engine, String> {
    let engine = Engine::compile(artifact, spec).map_err(|e| super::sentence(&e))?;
    engine.check_golden(spec).map_err(|e| super::sentence(&e))?;
    Ok(engine)
}

/// Loads a version into ONNX Runtime, holds it against its card, and warms it. The error is one line for people.
fn onnxruntime(runtime: &Runtime, artifact: &[u8], spec: &ModelSpec, sessions: NonZeroUsize) -> Result<Engine, String> {
    let mut engine = Engine::load(runtime, artifact, spec, sessions).map_err(|e| super::sentence(&e))?;
    engine.check_golden(spec).map_err(|e| super::sentence(&e))?;
    engine.warm(spec).map_err(|e| super::sentence(&e))?;
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What a trial says when its child is a shell script.
    fn verdict(script: &str) -> Result<Admission, TrialError> {
        verdict_until(script, &AtomicBool::new(false), PATIENCE)
    }

    fn verdict_until(script: &str, abandoned: &AtomicBool, patience: Duration) -> Result<Admission, TrialError> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let blob = Blob::of(b"");
        let version = ReleasedVersion { spec: blob, artifact: blob };
        Trial { program }.check_patiently(dir.path(), &version, abandoned, patience)
    }

    #[test]
    fn a_child_that_ends_well_is_a_pass_and_its_last_words_are_the_reason_otherwise() {
        assert_eq!(verdict("echo compiled").unwrap(), Admission::Compiled);
        let reason = "in If: the compiled executor does not know the operator If".to_owned();
        assert_eq!(verdict(&format!("echo '{reason}'")).unwrap(), Admission::Onnxruntime { reason });
        let Err(TrialError::Refused(reason)) = verdict("echo 'row 3 differs'; exit 1") else { panic!("taken") };
        assert_eq!(reason, "row 3 differs");
    }

    #[test]
    fn a_child_that_crashes_costs_the_version_and_nothing_else() {
        for script in ["kill -SEGV $$", "kill -KILL $$", "exit 101", "exit 1"] {
            let Err(error @ TrialError::Died { .. }) = verdict(script) else { panic!("{script} was taken") };
            assert!(error.to_string().contains("crashes the runtime"), "{error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_child_knows_its_share_of_the_memory_and_is_what_the_kernel_ends_first() {
        // The order comes just after the child has begun.
        let await_order = "for _ in $(seq 500); do read -r adj </proc/$$/oom_score_adj; \
                           if [ \"$adj\" = 1000 ]; then echo \"$*\"; exit 1; fi; sleep 0.01; done; exit 2";
        let Err(TrialError::Refused(arguments)) = verdict(await_order) else { panic!("it was never told") };
        let (_, bytes) = arguments.split_once(" --memory-bytes ").unwrap();
        assert!(bytes.parse::<u64>().unwrap() > 0, "{arguments}");
    }

    #[test]
    fn a_trial_that_nobody_waits_for_ends_with_its_child() {
        let abandoned = AtomicBool::new(true);
        let verdict = verdict_until("exec sleep 60", &abandoned, PATIENCE);
        assert!(matches!(verdict, Err(TrialError::Abandoned)), "{verdict:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_trial_for_which_nothing_is_left_of_the_processors_begins_anew_with_a_share() {
        // The 41st field is the policy, of which 5 lets all others go first; the second is in brackets and here without a space.
        let script = r#"read -r stat </proc/$$/stat; set -- $stat; [ "${41}" = 5 ] && exec sleep 60; echo compiled"#;
        let verdict = verdict_until(script, &AtomicBool::new(false), Duration::from_millis(200));
        assert_eq!(verdict.unwrap(), Admission::Compiled);
    }

    #[test]
    fn a_trial_that_has_had_a_quarter_of_a_processor_goes_on() {
        let starved = |computed_ms: u64| is_starved(Some(Duration::from_millis(computed_ms)), Duration::from_secs(10));
        assert_eq!([0, 2_499, 2_500, 10_000].map(starved), [true, true, false, false]);
        assert!(is_starved(None, Duration::from_secs(10)));
    }

    #[test]
    fn an_argument_names_a_blob() {
        let blob = Blob::of(b"abc");
        assert_eq!(parse_argument(&argument(&blob)), Ok(blob));
        for bad in ["", "abc", "abc:1", &format!("{}:x", blob.sha256), &blob.sha256.to_string()] {
            assert!(parse_argument(bad).is_err(), "{bad}");
        }
    }
}
