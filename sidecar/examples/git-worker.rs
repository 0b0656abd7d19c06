//! The git worker as a program of its own, for the tests of this crate. Users have it as `mainstay git-worker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mainstay_sidecar::git::worker::run()
}
