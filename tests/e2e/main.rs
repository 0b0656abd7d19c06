//! Mainstay end to end: the real programs, a real git repository, real clients.
//!
//! Each test has a world of its own, on ports that the kernel chose, and leaves nothing behind.

// The harness is no `#[test]` function, where clippy.toml allows the first: a harness that fails must fail the test.
// What is printed is seen where a test fails, and measured numbers where somebody asks for them.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod check;
mod demo;
mod folder;
mod grpc;
mod harness;
mod lifecycle;
mod memory;
mod oip;
mod operators;
mod platforms;
mod promote;
mod reference;
mod repository;
mod requests;
mod rolling;
#[path = "../../sidecar/tests/sidecar/signing.rs"]
mod signing;
mod standing_in;
