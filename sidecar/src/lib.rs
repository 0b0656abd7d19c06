//! Git in, a store out: follows a configuration repository and publishes what it asks for.
//!
//! Guarantees: what is published was read from one commit, whole, and every byte of it was verified; a commit
//! that is refused changes nothing; a remote that is gone, hung or hostile changes nothing and blocks nothing.
//! Does not know HTTP predictions, ONNX Runtime, or how the server loads a model: the two programs meet in the
//! store, and the server's status page is the only proof that it took a release.
//!
//! Policy in git, operators and their rollbacks may hold a change back; nothing that is live waits for it.
//!
//! ```text
//! git ──> agent ──> desired ──> store        (and back: server's status ──> agent ──> admin)
//! ```

pub mod admin;
pub mod agent;
pub mod board;
pub mod clock;
pub mod control;
pub mod desired;
pub mod fetch;
mod footprint;
pub mod git;
pub mod inquiry;
pub mod ledger;
mod server;
mod sidecar;
mod standby;
pub mod supply;
pub mod trouble;
pub mod trust;
mod webhook;

pub use board::{Health, Status, Sync};
pub use clock::Clock;
pub use control::Control;
pub use git::{Address, Credentials, Reference};
pub use sidecar::{Error, Outcome, Settings, Sidecar, run};
