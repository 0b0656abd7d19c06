//! A sidecar whose store another one publishes into: it reads, says so, and takes over when the other is gone.
//!
//! The kernel drops the other's lock with its process, so there is nothing to time out and nothing to clean up. Git is
//! not asked meanwhile: two sidecars are no more load on it than one.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use mainstay_models::store::{Current, OpenError};
use mainstay_models::{Publisher, Reader};
use tracing::{info, warn};

use crate::Control;
use crate::agent::{self, Agent};
use crate::board::{Board, Health, Problem, PublishedRelease, Sync, Times};
use crate::clock::Clock;
use crate::git::{self, Git};
use crate::ledger::Ledger;
use crate::server::Server;
use crate::trouble::Trouble;

/// Everything that an agent is made of, but for the store's lock.
#[derive(Debug)]
pub(crate) struct Standby {
    pub store: PathBuf,
    pub agent: agent::Settings,
    pub git: git::Settings,
    pub server: Option<Server>,
    pub board: Arc<Board>,
    pub control: Control,
    pub clock: Clock,
    /// Where the listeners find the ledger, once there is one.
    pub ledger: Arc<OnceLock<Arc<Ledger>>>,
}

impl Standby {
    /// The agent, if the store can be had now.
    pub fn open(&self) -> Result<Agent, OpenError> {
        let publisher = Arc::new(Publisher::open(&self.store)?);
        let (board, control, clock) = (self.board.clone(), self.control.clone(), self.clock.clone());
        let environment = &self.agent.environment;
        let ledger = Ledger::open(publisher.clone(), environment, clock.clone(), board.clone(), control.clone());
        let ledger = Arc::new(ledger);
        self.ledger.set(ledger.clone()).expect("a sidecar that publishes waits no more");
        let git = Git::new(self.git.clone(), control.clone());
        Ok(Agent::new(self.agent.clone(), git, publisher, ledger, self.server.clone(), board, control, clock))
    }

    /// The agent, once the other publisher is gone; until then, shows what that one has published.
    pub fn take_over(&self) -> Option<Agent> {
        self.board.beat();
        let problem = match self.open() {
            Ok(agent) => {
                info!("the other publisher is gone: took the store over");
                return Some(agent);
            }
            Err(OpenError::Locked { .. }) => {
                "another publisher holds the store: this one waits, and takes over when it is gone".to_owned()
            }
            Err(error) => Trouble::retry(&error).to_string(),
        };
        self.show(problem);
        None
    }

    fn show(&self, text: String) {
        let before = self.board.status();
        let problem = Some(Problem::Retry { text: text.clone() });
        let reader = Reader::new(&self.store);
        let shown = before.release.as_ref().map(|release| release.name.clone());
        let is_new = reader.current_name().is_ok_and(|name| name.map(|name| name.to_string()) != shown);
        if !is_new && before.problem == problem {
            return;
        }
        if before.problem != problem {
            warn!(problem = text, "waiting for the store");
        }
        let ours = |current: &Current| current.release.environment == self.agent.environment;
        let current = reader.current().ok().flatten().filter(ours);
        self.board.update(|status| {
            status.release = current.as_ref().map(|current| PublishedRelease::new(current, Times::default()));
            status.sync = Sync::Unknown;
            (status.health, status.health_reason) = match &status.release {
                Some(_) => (Health::Healthy, None),
                None => (Health::Degraded, Some("the other publisher has published nothing yet".to_owned())),
            };
            status.problem = problem;
        });
    }
}
