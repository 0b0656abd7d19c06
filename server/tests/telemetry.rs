//! The official ONNX Runtime library phones home by default. Loaded by the engine, it does not.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, process, thread};

use mainstay_models::ModelSpec;
use mainstay_server::engine::{Engine, LIBRARY_VARIABLE, Runtime, TELEMETRY_VARIABLE};

/// Set in a child process: this program again, with an environment and an ONNX Runtime of its own.
const CHILD: &str = "MAINSTAY_TEST_CHILD";

/// Runs one of the children below with these variables in an empty home folder. Gives what it said, and checks that
/// the folder is empty still.
fn run(child: &str, variables: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = process::Command::new(env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", child]).env(CHILD, "1").env("HOME", home.path());
    command.env_remove("XDG_CACHE_HOME").env_remove(TELEMETRY_VARIABLE).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 0, "something appeared in the home folder");
    said.into_owned()
}

/// How many threads this process has, and which files it holds open.
fn footprint() -> (usize, BTreeSet<PathBuf>) {
    let entries = |folder| fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // The listing's own descriptor is gone before it can be read.
    let files = entries("/proc/self/fd").filter_map(|file| std::fs::read_link(file).ok());
    (entries("/proc/self/task").count(), files.filter(|file| !file.starts_with("/proc")).collect())
}

#[test]
fn loading_and_running_a_model_leaves_no_trace() {
    run("child_that_runs_a_model", &[(TELEMETRY_VARIABLE, "1")]);
}

#[test]
fn child_that_runs_a_model() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/iris/1.0.0");
    let model = fs_err::read(format!("{folder}/model.onnx")).unwrap();
    let spec = ModelSpec::parse("model.yaml", &fs_err::read(format!("{folder}/model.yaml")).unwrap()).unwrap();
    let before = footprint();
    let runtime = Runtime::load().unwrap();
    let mut engine = Engine::load(&runtime, &model, &spec, NonZeroUsize::new(2).unwrap()).unwrap();
    engine.warm(&spec).unwrap();
    // Time for a thread of the library's to start, look something up or write.
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        engine.check_golden(&spec).unwrap();
        assert_eq!(footprint(), before);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_library_that_might_send_telemetry_is_not_loaded() {
    for variables in [&[][..], &[(TELEMETRY_VARIABLE, "0")]] {
        let said = run("child_that_fails_to_load", variables);
        assert!(said.contains("set ORT_DISABLE_TELEMETRY=1 before the program starts"), "{said}");
    }
}

#[test]
fn a_file_that_is_no_library_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), "no library").unwrap();
    let path = file.path().to_str().unwrap();
    let said = run("child_that_fails_to_load", &[(TELEMETRY_VARIABLE, "1"), (LIBRARY_VARIABLE, path)]);
    assert!(said.contains(&format!("cannot load the onnx runtime library {path}")), "{said}");
}

#[test]
#[allow(clippy::print_stdout)]
fn child_that_fails_to_load() {
    if env::var_os(CHILD).is_some() {
        println!("{}", Runtime::load().err().unwrap());
    }
}
