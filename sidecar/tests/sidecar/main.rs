//! A real sidecar, a real git worker and real repositories; the server is a stand-in, or not there.

#![allow(clippy::unwrap_used)]

mod admin;
mod faults;
mod git;
mod harness;
mod store;
mod sync;
