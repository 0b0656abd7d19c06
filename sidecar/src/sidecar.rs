//! The loop: a pass, a wait, a pass, until the end is asked for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mainstay_models::EnvironmentName;
use mainstay_models::store::OpenError;
use tracing::info;

use crate::Control;
use crate::admin::{Admin, Desk};
use crate::agent::{self, Agent, Pass};
use crate::board::{Board, Health, Status, Sync, Trigger};
use crate::clock::Clock;
use crate::fetch;
use crate::footprint;
use crate::git::{self, Address, Credentials, Reference, Transport};
use crate::inquiry::Inquiry;
use crate::ledger::Holds;
use crate::server::Server;
use crate::standby::Standby;
use crate::supply::Supply;
use crate::trust;

/// By how much, up or down, a wait differs from the interval, so that many sidecars do not ask at once.
const JITTER: f64 = 0.1;
/// How often at least one that waits for the store looks whether it is free.
const WAITING_CHECK: Duration = Duration::from_secs(1);

/// Everything that a sidecar is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configuration repository.
    pub repository: Address,
    /// What is followed in it.
    pub reference: Reference,
    /// The environment that is followed.
    pub environment: EnvironmentName,
    /// The store that is published into.
    pub store: PathBuf,
    /// A folder for git alone; `git` in the store where none is given.
    pub git_folder: Option<PathBuf>,
    /// The time between two looks at the repository.
    pub interval: Duration,
    /// Where the admin listener listens; none for no listener.
    pub admin: Option<SocketAddr>,
    /// The file with the token that changes through the admin listener need; none for changes from this host alone.
    pub admin_token_file: Option<PathBuf>,
    /// Where a listener for webhooks alone listens; none for no such listener.
    pub webhook: Option<SocketAddr>,
    /// The file with the secret that webhooks are signed with; none for no webhooks.
    pub webhook_secret_file: Option<PathBuf>,
    /// The base URL of the server's admin listener, `http://HOST:PORT`; none for no confirmation.
    pub server: Option<String>,
    /// How the repository lets us in.
    pub credentials: Credentials,
    /// The program that runs [`git::worker::run`] when it is started with `worker_arguments`.
    pub program: PathBuf,
    /// What to start it with.
    pub worker_arguments: Vec<String>,
    /// How long a fetch may take.
    pub fetch_deadline: Duration,
    /// How long any other question to git may take.
    pub request_deadline: Duration,
    /// The most bytes that one fetch may bring.
    pub transfer_bytes_max: u64,
    /// How long a fetch that has begun to bring something may go without [`Settings::pace_bytes`] having come.
    pub pace: Duration,
    /// See [`Settings::pace`].
    pub pace_bytes: u64,
    /// The largest artifact that is read from git.
    pub artifact_bytes_max: u64,
    /// What may be fetched from outside git.
    pub fetch: fetch::Settings,
    /// How many releases before the live one are kept.
    pub keep_releases: usize,
    /// What is asked of a commit before it is believed.
    pub trust: trust::Settings,
    /// How many bytes of the store a pass reads again to find damage.
    pub scrub_bytes: u64,
    /// The pause between two rounds of that through the whole store.
    pub scrub_pause: Duration,
    /// Whether to end after one pass.
    pub once: bool,
    /// What windows are held against.
    pub clock: Clock,
}

impl Settings {
    /// The usual settings, for a repository, an environment and a store.
    pub fn new(repository: Address, environment: EnvironmentName, store: PathBuf, program: PathBuf) -> Self {
        Self {
            repository,
            reference: "main".parse().expect("main is a reference"),
            environment,
            store,
            git_folder: None,
            interval: Duration::from_secs(1),
            admin: None,
            admin_token_file: None,
            webhook: None,
            webhook_secret_file: None,
            server: None,
            credentials: Credentials::default(),
            program,
            worker_arguments: vec!["git-worker".to_owned()],
            fetch_deadline: Duration::from_secs(120),
            request_deadline: Duration::from_secs(30),
            transfer_bytes_max: 1 << 30,
            // As for artifacts.
            pace: Duration::from_secs(30),
            pace_bytes: 256 << 10,
            artifact_bytes_max: 64 << 20,
            fetch: fetch::Settings::default(),
            keep_releases: 5,
            trust: trust::Settings::default(),
            // 22 GB a day at a pass a second.
            scrub_bytes: 256 << 10,
            scrub_pause: Duration::from_secs(600),
            once: false,
            clock: Clock::default(),
        }
    }
}

/// How a sidecar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The last pass left published what git asks for; or the end was asked for.
    Synced,
    /// The last pass refused the commit.
    Refused,
    /// The last pass failed in a way that the next might not, or what git asks for is held back.
    Retry,
}

impl Outcome {
    /// The exit code for scripts.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Synced => 0,
            Self::Refused => 1,
            Self::Retry => 2,
        }
    }
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be published into.
    #[error("cannot start the sidecar")]
    Store(#[from] OpenError),
    /// A listener cannot listen.
    #[error("cannot listen on {address} ({flag})")]
    Listen {
        /// The flag that names the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The server's address is not one.
    #[error("--server is not http://HOST:PORT")]
    Server,
    /// Webhooks are listened for and none could be told from a stranger's.
    #[error("--webhook needs --webhook-secret-file")]
    WebhookSecret,
    /// A host cannot be told from an impostor.
    #[error("the repository is reached by ssh: give --ssh-key-file and --known-hosts-file")]
    Ssh,
    /// It would not be clear what is verified.
    #[error(
        "signatures are verified with --allowed-signers FILE and one of --verify head, --verify strict, --verify-models"
    )]
    Signers,
}

/// A sidecar that is ready to run: the store is locked or waited for, the listener listens.
#[derive(Debug)]
pub struct Sidecar {
    role: Role,
    board: Arc<Board>,
    admin: Option<Admin>,
    webhook: Option<Admin>,
    control: Control,
    interval: Duration,
    once: bool,
}

/// What a sidecar is to its store.
#[derive(Debug)]
enum Role {
    /// It publishes.
    Publishing(Box<Agent>),
    /// Another one publishes.
    Waiting(Box<Standby>),
}

impl Sidecar {
    /// Opens the store and the listener. Nothing is asked of git or the server yet. Where another publisher holds the
    /// store, this one waits for it, unless it is to make one pass only, which is an error then.
    pub fn open(settings: Settings, control: Control) -> Result<Self, Error> {
        let credentials = &settings.credentials;
        let ssh_complete = credentials.ssh_key_file.is_some() && credentials.known_hosts_file.is_some();
        if settings.repository.transport() == Transport::Ssh && !ssh_complete {
            return Err(Error::Ssh);
        }
        if settings.webhook.is_some() && settings.webhook_secret_file.is_none() {
            return Err(Error::WebhookSecret);
        }
        if !settings.trust.is_complete() {
            return Err(Error::Signers);
        }
        let server = settings.server.as_deref().map(|url| Server::new(url).ok_or(Error::Server)).transpose()?;
        let board = Arc::new(Board::new(Status {
            environment: settings.environment.clone(),
            repository: settings.repository.to_string(),
            reference: settings.reference.to_string(),
            resolved: None,
            verify: settings.trust.verify,
            verified: None,
            verify_models: settings.trust.verify_models,
            signed_models: Vec::new(),
            sync: Sync::Unknown,
            health: Health::Progressing,
            health_reason: None,
            failed: Vec::new(),
            walk_back: None,
            problem: None,
            desired: None,
            held_back: None,
            hold: Holds::default(),
            release: None,
            last_pass: None,
            last_success_unix_ms: None,
            damaged: Vec::new(),
            last_scrub_unix_ms: None,
        }));
        let silence_max = settings.fetch_deadline + 2 * settings.request_deadline + 4 * settings.interval;
        let supply = Supply {
            artifact_bytes_max: settings.artifact_bytes_max,
            lfs: Some(fetch::lfs::Store::of(&settings.repository)),
        };
        let token_file = settings.credentials.token_file.clone();
        let git_settings = git::Settings {
            program: settings.program,
            worker_arguments: settings.worker_arguments,
            folder: settings.git_folder.unwrap_or_else(|| settings.store.join("git")),
            lender: None,
            in_place: false,
            address: settings.repository,
            reference: settings.reference,
            credentials: settings.credentials,
            fetch_deadline: settings.fetch_deadline,
            request_deadline: settings.request_deadline,
            transfer_bytes_max: settings.transfer_bytes_max,
            pace: settings.pace,
            pace_bytes: settings.pace_bytes,
        };
        let inquiry = Inquiry {
            git: git_settings.clone(),
            environment: settings.environment.clone(),
            store: settings.store.clone(),
            control: control.clone(),
        };
        let agent_settings = agent::Settings {
            environment: settings.environment,
            keep_releases: settings.keep_releases,
            supply,
            fetch: settings.fetch,
            token_file,
            confirm_max: settings.interval,
            trust: settings.trust,
            scrub_bytes: settings.scrub_bytes,
            scrub_pause: settings.scrub_pause,
        };
        let ledger = Arc::new(OnceLock::new());
        let standby = Standby {
            store: settings.store,
            agent: agent_settings,
            git: git_settings,
            server,
            board: board.clone(),
            control: control.clone(),
            clock: settings.clock,
            ledger: ledger.clone(),
        };
        let role = match standby.open() {
            Ok(agent) => Role::Publishing(Box::new(agent)),
            Err(OpenError::Locked { .. }) if !settings.once => Role::Waiting(Box::new(standby)),
            Err(error) => return Err(error.into()),
        };
        let desk = Desk {
            board: board.clone(),
            ledger,
            control: control.clone(),
            inquiry,
            silence_max,
            token_file: settings.admin_token_file,
            webhook_secret_file: settings.webhook_secret_file,
        };
        let listen = |address: Option<SocketAddr>, flag, start: fn(SocketAddr, Desk) -> std::io::Result<Admin>| {
            let start =
                |address| start(address, desk.clone()).map_err(|source| Error::Listen { flag, address, source });
            address.map(start).transpose()
        };
        let admin = listen(settings.admin, "--admin", Admin::start)?;
        let webhook = listen(settings.webhook, "--webhook", Admin::start_webhook)?;
        Ok(Self { role, board, admin, webhook, control, interval: settings.interval, once: settings.once })
    }

    /// Where the admin listener listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Where the listener for webhooks listens.
    pub fn webhook_address(&self) -> Option<SocketAddr> {
        self.webhook.as_ref().map(Admin::address)
    }

    /// The status and the metrics, to be read while the sidecar runs.
    pub fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// One pass, for callers that have a loop of their own.
    pub fn reconcile(&mut self) -> Pass {
        if let Role::Waiting(standby) = &self.role {
            match standby.take_over() {
                Some(agent) => self.role = Role::Publishing(Box::new(agent)),
                None => return Pass::Waiting,
            }
        }
        match &mut self.role {
            Role::Publishing(agent) => agent.reconcile(),
            Role::Waiting(_) => Pass::Waiting,
        }
    }

    /// Asks for a pass because a signal came; for the program, which owns the signals.
    pub fn on_signal(&self) -> impl Fn() + Send + 'static {
        let (board, control) = (self.board.clone(), self.control.clone());
        move || {
            board.triggered(Trigger::Signal);
            control.trigger();
        }
    }

    /// The agent; none while another publisher holds the store.
    pub fn agent(&self) -> Option<&Agent> {
        match &self.role {
            Role::Publishing(agent) => Some(agent),
            Role::Waiting(_) => None,
        }
    }

    /// Passes and waits until the end is asked for; one pass if told so. Blocks: give it a thread of its own.
    ///
    /// When it returns the git worker is dead, the listener closed and every thread joined.
    pub fn run(mut self) -> Outcome {
        let status = self.board.status();
        let (repository, reference) = (&status.repository, &status.reference);
        let (environment, admin) = (&status.environment, self.admin_address().map(tracing::field::display));
        let webhook = self.webhook_address().map(tracing::field::display);
        info!(repository, reference, %environment, admin, webhook, "following a repository");
        let mut busy = true;
        loop {
            let started = Instant::now();
            let pass = self.reconcile();
            // The first pass that finds nothing to do: what came before is not needed until there is something again.
            let was_busy = std::mem::replace(&mut busy, pass != Pass::Unchanged);
            if was_busy && !busy {
                footprint::give_back();
            }
            let (outcome, interval) = match pass {
                Pass::Published | Pass::Unchanged => (Outcome::Synced, self.interval),
                Pass::Refused(_) => (Outcome::Refused, self.interval),
                Pass::Held(_) | Pass::Retry(_) => (Outcome::Retry, self.interval),
                Pass::Waiting => (Outcome::Retry, self.interval.min(WAITING_CHECK)),
            };
            if self.once {
                return outcome;
            }
            // From the start of the pass, so that waiting for the server does not slow the poll down.
            let jitter = rand::random_range(1.0 - JITTER..=1.0 + JITTER);
            let mut due = started + interval.mul_f64(jitter);
            if let Some(opens_in) = self.agent().and_then(Agent::opens_in) {
                due = due.min(Instant::now() + opens_in);
            }
            self.control.wait_until(due);
            if self.control.stopped() {
                info!("stopped");
                return Outcome::Synced;
            }
        }
    }
}

/// Opens a sidecar and runs it.
pub fn run(settings: Settings, control: Control) -> Result<Outcome, Error> {
    Ok(Sidecar::open(settings, control)?.run())
}
