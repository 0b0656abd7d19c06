//! Lets the sidecar in as a GitHub App: tokens that live for an hour, for one repository, to read alone.
//!
//! The App's key signs a short-lived statement (docs.github.com, "Generating a JSON Web Token for a GitHub App"), which
//! GitHub changes for a token of the App's installation. The key's file is read anew for each token. Neither leaves this
//! process except to the API's own host and, over a pipe, to the git worker.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use reqwest::header::{ACCEPT, AUTHORIZATION};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Address;

/// How long GitHub may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// The longest answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// The longest key file, in bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;
/// How long a token is used: they live for an hour, and a fetch must not outlive one.
const USED_MAX: Duration = Duration::from_secs(50 * 60);
/// How long a statement holds, and how far GitHub's clock may be behind ours; together below GitHub's ten minutes.
const STATEMENT_S: u64 = 300;
const CLOCK_SKEW_S: u64 = 60;

/// A GitHub App that is installed where the repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its id, or its client id.
    pub id: String,
    /// The file with its private key, in PEM.
    pub key_file: PathBuf,
    /// The API: `https://api.github.com`, or that of a server of one's own.
    pub api: String,
}

/// Why there is no token. It never holds what GitHub answered, nor anything of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot get a token of the GitHub App: {0}")]
pub struct AppError(String);

/// A token, and since when it has been used.
pub(super) struct Token {
    text: String,
    since: Instant,
}

// A token must not get into a log by the way of a struct that holds it.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.since.elapsed() < USED_MAX
    }

    /// Whether it may be that it was taken back, and not that it was new and never right.
    pub(super) fn may_be_revoked(&self) -> bool {
        self.since.elapsed() > Duration::from_secs(60)
    }
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

#[derive(Deserialize)]
struct Granted {
    token: String,
}

impl App {
    /// A new token that reads `repository` and can do nothing else.
    pub(super) fn token(&self, repository: &Address) -> Result<Token, AppError> {
        let since = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| AppError(e.to_string()))?;
        let asked = runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, self.ask(repository)).await });
        // Not dropped, which would wait for a name server that does not answer.
        runtime.shutdown_background();
        let late = |_| AppError(format!("{} has not answered in {} s", self.api, ANSWER_MAX.as_secs()));
        Ok(Token { text: asked.map_err(late)??, since })
    }

    async fn ask(&self, repository: &Address) -> Result<String, AppError> {
        let (owner, name) = owner_and_name(repository)?;
        let statement = self.statement()?;
        let fail = |e: reqwest::Error| AppError(format!("cannot ask {}: {}", self.api, e.without_url()));
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(fail)?;
        let ask = async |request: reqwest::RequestBuilder, what: &str| {
            let request = request.header(AUTHORIZATION, format!("Bearer {statement}"));
            let request =
                request.header(ACCEPT, "application/vnd.github+json").header("X-GitHub-Api-Version", "2022-11-28");
            let mut answer = request.send().await.map_err(fail)?;
            if !answer.status().is_success() {
                return Err(AppError(format!("{} answers {} when asked for {what}", self.api, answer.status())));
            }
            let mut text = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(fail)? {
                text.extend_from_slice(&piece);
                if text.len() > ANSWER_BYTES_MAX {
                    return Err(AppError(format!("{} answers with more than {ANSWER_BYTES_MAX} bytes", self.api)));
                }
            }
            Ok(text)
        };
        let garbled = || AppError(format!("{} answers with something else than GitHub does", self.api));
        let url = format!("{}/repos/{owner}/{name}/installation", self.api);
        let installation = ask(client.get(url), "the App's installation in the repository").await?;
        let Installation { id } = serde_json::from_slice(&installation).map_err(|_| garbled())?;
        let url = format!("{}/app/installations/{id}/access_tokens", self.api);
        let least = json!({ "repositories": [name], "permissions": { "contents": "read" } });
        let granted = ask(client.post(url).body(least.to_string()), "a token").await?;
        let Granted { token } = serde_json::from_slice(&granted).map_err(|_| garbled())?;
        let plain = |b: u8| b.is_ascii_graphic();
        if token.is_empty() || !token.bytes().all(plain) { Err(garbled()) } else { Ok(token) }
    }

    /// What says that we are the App, for a few minutes.
    fn statement(&self) -> Result<String, AppError> {
        let key = self.key()?;
        let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let claims = json!({ "iat": now_unix_s - CLOCK_SKEW_S, "exp": now_unix_s + STATEMENT_S, "iss": self.id });
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let said = format!("{}.{}", encode(r#"{"alg":"RS256","typ":"JWT"}"#), encode(&claims.to_string()));
        let signed =
            Signer::new(MessageDigest::sha256(), &key).and_then(|mut s| s.sign_oneshot_to_vec(said.as_bytes()));
        let signature = signed.map_err(|_| self.unfit("cannot sign with it"))?;
        Ok(format!("{said}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    fn key(&self) -> Result<PKey<openssl::pkey::Private>, AppError> {
        let mut pem = Vec::new();
        let file = std::fs::File::open(&self.key_file).map_err(|e| self.unfit(&e.to_string()))?;
        file.take(KEY_BYTES_MAX).read_to_end(&mut pem).map_err(|e| self.unfit(&e.to_string()))?;
        PKey::private_key_from_pem(&pem).map_err(|_| self.unfit("it is no private key in PEM"))
    }

    fn unfit(&self, problem: &str) -> AppError {
        let path: &Path = &self.key_file;
        AppError(format!("the key file {}: {problem}", path.display()))
    }
}

/// `OWNER/NAME` at the end of a repository's address.
fn owner_and_name(repository: &Address) -> Result<(String, String), AppError> {
    let text = repository.as_str().trim_end_matches('/').trim_end_matches(".git");
    let mut parts = text.rsplit('/');
    let plain = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && *part != ".."
    };
    match (parts.next().filter(plain), parts.next().filter(plain)) {
        (Some(name), Some(owner)) => Ok((owner.to_owned(), name.to_owned())),
        _ => Err(AppError("the repository's address does not end with OWNER/NAME".to_owned())),
    }
}
