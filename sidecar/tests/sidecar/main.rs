//! A real sidecar, a real git worker and real repositories; the server is a stand-in, or not there.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should stop")]

mod admin;
mod faults;
mod fetch;
mod git;
mod harness;
mod models;
mod operator;
mod policy;
mod signing;
mod store;
mod sync;
mod triggers;
mod trust;
mod walk;
