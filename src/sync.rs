//! `mainstay sync`: follows a configuration repository.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use mainstay_models::EnvironmentName;
use mainstay_sidecar::git::github::App;
use mainstay_sidecar::trust::{self, Verify};
use mainstay_sidecar::{Address, Control, Credentials, Error, Reference, Settings, Sidecar};

use crate::artifacts::Artifacts;
use crate::{USAGE, failed, shutdown};

/// Follows a configuration repository and publishes into a store what an environment asks for
///
/// Reads `environments/<env>/serving.yaml` and the `models/<name>/<version>/` that it names from one commit, verifies
/// every byte, and swaps the store's `current` once. A commit that is wrong is refused with file, line and field, and
/// what was published stays; so it does while the repository cannot be reached.
///
/// SIGHUP, a signed webhook and `mainstay sync-now` cause a look at the repository at once.
///
/// Exit codes with --once: 0 synced, 1 the commit was refused, 2 try again later, or held back, or another program
/// publishes into the store, for which a sidecar without --once waits. Always: 64 the command line is wrong.
#[derive(clap::Args)]
pub struct Arguments {
    /// The repository: https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or a folder.
    #[arg(long, value_name = "URL")]
    repo: Address,

    /// What to follow: a branch, a tag, a full reference, a commit, or a range of tags.
    ///
    /// A range begins with ^ ~ = < or >, or holds a *: '^1', '~1.2', '>=1.0, <2', '1.*'. It follows the highest tag in it,
    /// v1.2.3 or 1.2.3; pre-releases only where the range names one. Anything else is a name.
    #[arg(long = "ref", value_name = "REF", default_value = "main")]
    reference: Reference,

    /// The environment to follow.
    #[arg(long = "env", value_name = "NAME")]
    environment: EnvironmentName,

    /// The store to publish into; made where there is none.
    #[arg(long, value_name = "DIR")]
    store: PathBuf,

    /// Where the mirror of the repository is kept [default: `git` in the store].
    #[arg(long, value_name = "DIR")]
    git_dir: Option<PathBuf>,

    /// The time between two looks at the repository, such as 500ms or 1m.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,

    /// Where operators are answered: /live /ready /status /history /metrics, and their orders taken.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9091")]
    admin: SocketAddr,

    /// File with the token that orders need; without it they are taken from this host alone. Read anew at each use.
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,

    /// Where webhooks alone are answered, at /webhook, for a port that the repository's host can reach.
    #[arg(long, value_name = "ADDRESS", requires = "webhook_secret_file")]
    webhook: Option<SocketAddr>,

    /// File with the secret of the webhooks of GitHub, GitLab, Gitea or Bitbucket; read anew at each use.
    #[arg(long, value_name = "FILE")]
    webhook_secret_file: Option<PathBuf>,

    /// The admin address of the server that reads the store: its status is the proof that a release is live.
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// How many releases before the live one are kept in the store.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    keep_releases: usize,

    /// Which commits must be signed: none, the newest (head), or every commit since the live one (strict).
    ///
    /// With an empty store, strict verifies the newest commit and says so in /status. Needs --allowed-signers.
    #[arg(long, value_name = "none|head|strict", default_value = "none", value_parser = parse_verify)]
    verify: Verify,

    /// Refuse every version that has no model.sig beside its card, by a `modelKey` of the allowed signers.
    ///
    /// `model_signing sign key` of OpenSSF model signing makes it, for the version's folder. Needs --allowed-signers.
    #[arg(long, requires = "allowed_signers")]
    verify_models: bool,

    /// The YAML file of those who may sign, and what for; read anew at each use.
    ///
    /// Each of its `signers` has a `name`, a key (for commits `ssh`, one line, or `openpgp`, an armored certificate; for
    /// models `modelKey`, a public key in PEM), and if wished `environments`, `models`, `validFrom` and `validUntil`.
    /// docs/operating.md shows one.
    #[arg(long, value_name = "FILE")]
    allowed_signers: Option<PathBuf>,

    #[command(flatten)]
    artifacts: Artifacts,

    /// Also follow a commit that does not descend from the live one: an older commit, or a rewritten history.
    ///
    /// Without it, going back is `git revert`, which makes a new commit; a branch or tag that is moved back is refused.
    #[arg(long)]
    allow_rewind: bool,

    /// File with the token or password for https; read anew at each use.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The id of a GitHub App that is installed where the repository is, and may read its contents.
    ///
    /// The sidecar gets a token for that repository alone, and another before that one is an hour old.
    #[arg(long, value_name = "ID", requires = "github_app_key_file", conflicts_with = "token_file")]
    github_app_id: Option<String>,

    /// File with the App's private key; read anew for each token.
    #[arg(long, value_name = "FILE", requires = "github_app_id")]
    github_app_key_file: Option<PathBuf>,

    /// The API that makes the App's tokens: another than GitHub's own for GitHub Enterprise.
    #[arg(long, value_name = "URL", default_value = "https://api.github.com", value_parser = parse_api)]
    github_api: String,

    /// File with the private key for ssh.
    #[arg(long, value_name = "FILE")]
    ssh_key_file: Option<PathBuf>,

    /// File with the host keys that are trusted for ssh.
    #[arg(long, value_name = "FILE")]
    known_hosts_file: Option<PathBuf>,

    /// Make one pass and end, without an admin listener.
    #[arg(long)]
    once: bool,
}

pub fn parse_verify(text: &str) -> Result<Verify, String> {
    match text {
        "none" => Ok(Verify::None),
        "head" => Ok(Verify::Head),
        "strict" => Ok(Verify::Strict),
        _ => Err("write none, head or strict".to_owned()),
    }
}

/// The base of an API that secrets are sent to.
fn parse_api(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let is_here = ["http://127.0.0.1:", "http://localhost:"].iter().any(|here| text.starts_with(here));
    let authority = text.split_once("://").map_or("", |(_, rest)| rest);
    if (text.starts_with("https://") || is_here) && !authority.is_empty() && !authority.contains(['@', '?', '#']) {
        Ok(text.to_owned())
    } else {
        Err("write it as https://HOST/PATH".to_owned())
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_secs(86_400);
    if allowed.contains(&interval) { Ok(interval) } else { Err("must lie between 10ms and 1day".to_owned()) }
}

pub fn run(arguments: Arguments) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(&error, 1),
    };
    let mut settings = Settings::new(arguments.repo, arguments.environment, arguments.store, program);
    settings.reference = arguments.reference;
    settings.git_folder = arguments.git_dir;
    settings.interval = arguments.interval;
    settings.admin = (!arguments.once).then_some(arguments.admin);
    settings.admin_token_file = arguments.admin_token_file;
    settings.webhook = arguments.webhook.filter(|_| !arguments.once);
    settings.webhook_secret_file = arguments.webhook_secret_file;
    settings.server = arguments.server;
    settings.keep_releases = arguments.keep_releases;
    settings.trust = trust::Settings {
        verify: arguments.verify,
        verify_models: arguments.verify_models,
        allowed_signers: arguments.allowed_signers,
        allow_rewind: arguments.allow_rewind,
    };
    settings.fetch = arguments.artifacts.settings();
    settings.once = arguments.once;
    settings.credentials = Credentials {
        token_file: arguments.token_file,
        ssh_key_file: arguments.ssh_key_file,
        known_hosts_file: arguments.known_hosts_file,
        github_app: arguments.github_app_id.zip(arguments.github_app_key_file).map(|(id, key_file)| App {
            id,
            key_file,
            api: arguments.github_api,
        }),
    };
    let control = Control::new();
    let stopped = control.clone();
    if let Err(error) = shutdown::on_request(move || stopped.stop()) {
        return failed(&error, 1);
    }
    let sidecar = match Sidecar::open(settings, control) {
        Ok(sidecar) => sidecar,
        Err(error @ (Error::Server | Error::Ssh | Error::Signers | Error::WebhookSecret)) => {
            return failed(&error, USAGE);
        }
        Err(error) => return failed(&error, 2),
    };
    if let Err(error) = shutdown::on_hangup(sidecar.on_signal()) {
        return failed(&error, 1);
    }
    ExitCode::from(sidecar.run().exit_code())
}
