//! A real sidecar, a real git worker and real repositories; the server is a stand-in, or not there.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should stop")]

mod admin;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "../../../models/tests/store/facts.rs"]
mod facts;
mod faults;
mod fetch;
mod git;
mod harness;
// Where the tracer knows the system's calls; see the tests of the store, whose it is.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod kill;
mod models;
mod operator;
mod policy;
mod signing;
mod store;
mod sync;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "../../../models/tests/store/tracer.rs"]
#[allow(dead_code, reason = "the store's tests use all of it")]
mod tracer;
mod triggers;
mod trust;
mod walk;
