//! The sidecar against the real servers that it is made for; `.ci/peers` installs them and runs this.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should stop")]

#[path = "../sidecar/harness.rs"]
#[allow(dead_code, reason = "what the other tests need of it")]
mod bench;
mod dvc;
mod git;
mod harness;
mod lfs;
mod models;
mod objects;
mod proxy;
mod registry;
mod web;
