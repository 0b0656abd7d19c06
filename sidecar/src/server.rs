//! Asks the server what it has loaded. Its status page is the only proof that a release is live.

use std::time::Duration;

use mainstay_models::Digest;
use mainstay_models::store::Current;
use serde::{Deserialize, Serialize};

/// How long the server may take to answer. It is a neighbour, and the stop of the sidecar waits for this.
const DEADLINE: Duration = Duration::from_millis(500);
/// The longest status page.
const STATUS_BYTES_MAX: u64 = 4 << 20;

/// The server's admin listener.
#[derive(Debug, Clone)]
pub struct Server {
    status_url: String,
    agent: ureq::Agent,
}

/// What the server says about a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Echo {
    /// It cannot be asked, or does not answer what was asked.
    Silent(String),
    /// It has not taken the release.
    Other,
    /// It has taken the release; these versions are not live.
    Taken(Vec<FailedModel>),
}

/// A version that is asked for and not live: the server could not load it, or one of its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedModel {
    /// The model.
    pub name: String,
    /// The version.
    pub version: String,
    /// What it is asked for as: `stable` or `preview`.
    #[serde(default)]
    pub role: String,
    /// `failed`, `held` where it is another one of its group that failed, or `unloaded` where a request did that.
    pub state: String,
    /// Why, in the server's words.
    pub reason: Option<String>,
    /// The version that answers instead; none where nothing does.
    #[serde(default)]
    pub serving: Option<String>,
    /// How it went with the version that the release brings along for this case, where it was needed.
    #[serde(default)]
    pub fallback: Option<TriedFallback>,
}

/// How it went with a version that stands in for one that is not live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriedFallback {
    /// The version.
    pub version: String,
    /// The commit that asked for it.
    pub commit: String,
    /// `live`, `failed` or `held`.
    pub state: String,
    /// Why it is not live.
    pub reason: Option<String>,
}

#[derive(Deserialize)]
struct StatusPage {
    release: Option<TakenRelease>,
    #[serde(default)]
    models: Vec<FailedModel>,
}

#[derive(Deserialize)]
struct TakenRelease {
    name: String,
    sha256: Digest,
}

impl Server {
    /// The server whose admin listener is at `base_url`; none where that is not plain HTTP to a host.
    pub fn new(base_url: &str) -> Option<Self> {
        let authority = base_url.strip_prefix("http://")?.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
            return None;
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(DEADLINE))
            .max_redirects(0)
            .proxy(None)
            .http_status_as_error(false);
        Some(Self { status_url: format!("http://{authority}/status"), agent: config.build().new_agent() })
    }

    /// Whether the server has taken `current`.
    pub fn echo(&self, current: &Current) -> Echo {
        let page = match self.page() {
            Ok(page) => page,
            Err(e) => return Echo::Silent(format!("cannot ask the server at {}: {e}", self.status_url)),
        };
        match page.release {
            Some(taken) if taken.name == current.name.to_string() && taken.sha256 == current.sha256 => {
                Echo::Taken(page.models.into_iter().filter(|model| model.state != "live").collect())
            }
            _ => Echo::Other,
        }
    }

    fn page(&self) -> Result<StatusPage, ureq::Error> {
        let mut response = self.agent.get(&self.status_url).call()?;
        response.body_mut().with_config().limit(STATUS_BYTES_MAX).read_json()
    }
}
