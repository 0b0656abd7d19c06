//! What a model and a release are, on disk: the contract between the program that publishes and the program that serves.
//!
//! Parsing is validating: a value of these types is right by construction, and what is wrong with a
//! file is said with the file, the line and the field. The crate knows files and bytes. It does not
//! know git, HTTP, ONNX Runtime or any clock.
//!
//! The models that Mainstay ships lie in this crate's folder too and are [`embedded`].

pub mod digest;
pub mod edit;
pub mod embedded;
pub mod name;
pub mod policy;
pub mod release;
pub mod serving;
pub mod spec;
pub mod store;
pub mod uri;
pub mod yaml;

pub use digest::{Blob, Digest};
pub use name::{EnvironmentName, ModelName, NameError, Version};
pub use policy::Policy;
pub use release::{Change, Commit, CommitId, Fallback, Release, ReleasedModel, ReleasedVersion, Rollback};
pub use serving::{Move, Role, Serving};
pub use spec::ModelSpec;
pub use store::{Publisher, Reader, ReleaseName};
pub use uri::Uri;
pub use yaml::YamlError;
