//! What the tests are written in: a world with a configuration repository, a store, and programs that meet in it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

mod client;
mod load;
mod program;
mod repository;

pub use client::{Answer, Connection};
pub use load::Load;
pub use program::{Program, Server, Sidecar, mainstay, run};
pub use repository::{Repository, edited, shipped};

/// Long enough for anything that is expected to happen; waiting this long means that it did not.
pub const LONG: Duration = Duration::from_secs(30);
/// How often something is looked at that is waited for.
const GLANCE: Duration = Duration::from_millis(3);

/// One row of which every shipped iris says setosa, as the address bar and as a body.
pub const SETOSA_QUERY: &str =
    "sepal%20length%20(cm)=5.1&sepal%20width%20(cm)=3.5&petal%20length%20(cm)=1.1&petal%20width%20(cm)=0.2";
pub const SETOSA: &str =
    r#"[{"sepal length (cm)": 5.1, "sepal width (cm)": 3.5, "petal length (cm)": 1.1, "petal width (cm)": 0.2}]"#;
pub const MILL: &str = r#"[{"type": "M", "air temperature [K]": 300.1, "process temperature [K]": 310.1,
    "rotational speed [rpm]": 1503, "torque [Nm]": 40.1, "tool wear [min]": 108}]"#;

/// A configuration repository that serves iris 1.0.0 and pred-main 1.0.0, and room for a store.
pub struct World {
    pub repository: Repository,
    pub store: PathBuf,
    /// Last, since the others lie in it.
    pub folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self { repository: Repository::make(folder.path()), store: folder.path().join("store"), folder }
    }

    /// A server that follows the store.
    pub fn server(&self, arguments: &[&str]) -> Server {
        Server::start(&[&["--store", self.store.to_str().unwrap()], arguments].concat())
    }

    /// A sidecar that follows the repository, publishes into the store and asks `server` about it.
    pub fn sidecar(&self, server: &Server) -> Sidecar {
        Sidecar::start(&[&self.sync_arguments()[..], &["--interval", "50ms", "--server", &server.admin_url()]].concat())
    }

    pub fn sync_arguments(&self) -> [&str; 6] {
        let (bare, store) = (self.repository.bare.to_str().unwrap(), self.store.to_str().unwrap());
        ["--repo", bare, "--store", store, "--env", "prod"]
    }

    /// Server and sidecar, once the repository's first commit is live.
    pub fn rolling(&self) -> (Server, Sidecar) {
        let server = self.server(&[]);
        let sidecar = self.sidecar(&server);
        server.until_live(&self.repository.head());
        (server, sidecar)
    }
}

/// Waits until `look` gives something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begun.elapsed() < LONG, "in {} s it did not happen that {what}", LONG.as_secs());
        std::thread::sleep(GLANCE);
    }
}
