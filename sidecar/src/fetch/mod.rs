//! Brings artifacts from elsewhere into the store: verified while they stream, gone on with where they were cut off.
//!
//! A place is asked only if the operator allows it, and each in turn until one has the bytes that the card promises:
//! nothing else than their digest makes them the right ones. Every download has a bound on its size, its time and its
//! slowness, and ends at once when something more urgent comes up. Nothing is tried twice, except that a download which
//! went on in the middle and came out wrong begins once from nothing.
//!
//! Knows places and bytes. Does not know git's objects, releases, or why a blob is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use mainstay_models::store::{AddError, Incoming};
use mainstay_models::uri::{Scheme, UriError};
use mainstay_models::{Blob, Publisher, Uri};
use tokio::sync::Notify;

use crate::Control;
use crate::board::Board;
use crate::trouble::{Refusal, Trouble};

pub mod dvc;
mod http;
pub mod lfs;
mod object;
mod oci;

/// How often a running download looks whether it is to end, and shows that the sidecar lives.
const GLANCE: Duration = Duration::from_millis(100);
/// How often it asks whether git still wants what is being fetched.
const WANTED_CHECK: Duration = Duration::from_secs(5);
/// How often it does after something called for a look at git, such as a webhook.
const CALLED_CHECK: Duration = Duration::from_secs(1);
/// For how many artifacts is remembered which version of them came in part.
const VALIDATORS_MAX: usize = 64;
/// How many artifacts of one commit are fetched at once.
const PARALLEL_MAX: usize = 4;
/// How long a place may take to begin to answer.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How many redirects are followed.
const REDIRECTS_MAX: usize = 4;
/// How much of another program's words goes into an error.
const WORDS_BYTES_MAX: usize = 400;

/// What a sidecar is told about places outside git.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folders whose content may be fetched; what lies in none of them is refused.
    pub allowed: Vec<Folder>,
    /// A file in the format of Docker's config.json that lets us into registries; read anew at each use.
    pub registry_config: Option<PathBuf>,
    /// The files with the bearer tokens of web servers, by host with its port; read anew at each use.
    pub token_files: BTreeMap<String, PathBuf>,
    /// Who we are to the clouds.
    pub variables: Variables,
    /// The largest artifact.
    pub bytes_max: u64,
    /// How long one artifact may take.
    pub deadline: Duration,
    /// How long it may go without [`Settings::pace_bytes`] having come.
    pub pace: Duration,
    /// How many bytes must come in each such time.
    pub pace_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allowed: Vec::new(),
            registry_config: None,
            token_files: BTreeMap::new(),
            variables: Variables::default(),
            bytes_max: 1 << 30,
            deadline: Duration::from_secs(1800),
            pace: Duration::from_secs(30),
            pace_bytes: 256 << 10,
        }
    }
}

/// The environment variables by which clouds tell a workload who it is and where its stores are. Some are secret.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok())).collect()
    }

    /// Those that begin with `prefix`, in the lower case that `object_store` knows them by.
    fn of(&self, prefix: &'static str) -> impl Iterator<Item = (String, &str)> {
        let named = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        named.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        let is_ours = |name: &str| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| name.starts_with(prefix));
        Self(variables.into_iter().filter(|(name, _)| is_ours(name)).collect())
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A place and everything below it, such as `s3://models/iris/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(String);

impl FromStr for Folder {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        // What lies in a folder is a place, so a folder with something in it must be one.
        format!("{}/x", text.trim_end_matches('/')).parse::<Uri>()?;
        Ok(Self(text.to_owned()))
    }
}

/// An artifact that is wanted, and where it is promised.
#[derive(Debug)]
pub struct Wanted {
    /// Which bytes.
    pub blob: Blob,
    /// Where they may be, in the order in which they are asked.
    pub places: Vec<Place>,
    /// The model.yaml that promises them.
    pub spec: String,
    /// The line in it where the digest stands; 0 where that is not known.
    pub line: u64,
}

/// Where an artifact may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A place that the card names; it must be allowed.
    Uri(Uri),
    /// The repository's own Git LFS store.
    Lfs(lfs::Store),
}

/// An answer that has begun.
struct Opened {
    /// Where its bytes begin: where they were asked from, or 0.
    offset: u64,
    /// How many bytes lie there, where that is said.
    total_bytes: Option<u64>,
    /// What tells this version of what lies there from others, in the place's own words.
    validator: Option<String>,
    bytes: BoxStream<'static, Result<Bytes, Failed>>,
}

/// Why a place did not give the bytes.
#[derive(Debug)]
enum Failed {
    /// It cannot begin in the middle.
    NotFromTheMiddle,
    /// Other bytes came than were promised.
    Wrong(String),
    /// Something else, for people to read.
    Other(String),
    /// The store could not take the bytes: no other place helps.
    Store(String),
}

/// Brings artifacts into one store.
#[derive(Debug)]
pub struct Fetcher {
    settings: Settings,
    /// The file with what lets us into the repository, which is where Git LFS asks for it too.
    token_file: Option<PathBuf>,
    control: Control,
    /// Where downloads are counted; none where nobody looks.
    board: Option<Arc<Board>>,
    /// Which version of an artifact came in part, and from where.
    validators: Mutex<BTreeMap<Blob, (Uri, String)>>,
}

impl Fetcher {
    /// Nothing is opened before something is wanted.
    pub fn new(settings: Settings, token_file: Option<PathBuf>, control: Control, board: Option<Arc<Board>>) -> Self {
        Self { settings, token_file, control, board, validators: Mutex::default() }
    }

    /// Whether a place may be asked.
    pub fn permits(&self, uri: &Uri) -> bool {
        self.settings.allowed.iter().any(|Folder(folder)| uri.lies_in(folder))
    }

    /// Brings every one of `wanted` into the store, several at once. Ends early, with a [`Trouble::Retry`], when
    /// `still_wanted` says that they are not, or an operator asks for something that does not wait.
    pub fn fetch(
        &self,
        publisher: &Arc<Publisher>,
        wanted: &[Wanted],
        mut still_wanted: impl FnMut() -> bool,
    ) -> Result<(), Trouble> {
        for wanted in wanted {
            self.check(wanted)?;
        }
        // Versions may share a model; its bytes come once.
        let mut blobs = BTreeSet::new();
        let wanted: Vec<_> = wanted.iter().filter(|wanted| blobs.insert(wanted.blob)).collect();
        let fail = |e: std::io::Error| Trouble::Retry(format!("cannot begin to download: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let cut = Notify::new();
        let (sender, ended) = mpsc::channel();
        // On a thread of its own: asking git may take long, and a download that waits meanwhile would seem slow.
        let fetched = std::thread::scope(|scope| {
            let (runtime, cut) = (&runtime, &cut);
            let download = move || {
                let downloads = stream::iter(wanted.iter().map(|wanted| self.bring(publisher, wanted)))
                    .buffer_unordered(PARALLEL_MAX)
                    .try_collect::<Vec<()>>();
                runtime.block_on(async {
                    tokio::select! {
                        fetched = downloads => {
                            // Nobody listens any more where it was cut at the same moment.
                            let _ = sender.send(fetched.map(|_| ()));
                        }
                        () = cut.notified() => {}
                    }
                });
            };
            std::thread::Builder::new().name("fetch".to_owned()).spawn_scoped(scope, download).map_err(fail)?;
            let mut checked = Instant::now();
            loop {
                match ended.recv_timeout(GLANCE) {
                    Ok(fetched) => return fetched,
                    Err(RecvTimeoutError::Timeout) => {}
                    // It panicked, which the end of the scope tells.
                    Err(RecvTimeoutError::Disconnected) => return Err(Trouble::Retry("a download died".to_owned())),
                }
                self.count(Board::beat);
                if let Err(trouble) = self.glance(&mut checked, &mut still_wanted) {
                    cut.notify_one();
                    return Err(trouble);
                }
            }
        });
        // Not dropped, which would wait for a name server that does not answer.
        runtime.shutdown_background();
        fetched
    }

    /// Whether a download is to go on.
    fn glance(&self, checked: &mut Instant, still_wanted: &mut impl FnMut() -> bool) -> Result<(), Trouble> {
        let cut = |why: &str| Err(Trouble::Retry(format!("a download was cut short: {why}")));
        if self.control.cuts_short() {
            return cut("something else comes first");
        }
        let is_called = !self.control.pause(Duration::ZERO);
        if checked.elapsed() < if is_called { CALLED_CHECK } else { WANTED_CHECK } {
            return Ok(());
        }
        // A newer commit must not wait for what an older one asks for.
        if !still_wanted() {
            return cut("git asks for another commit");
        }
        *checked = Instant::now();
        Ok(())
    }

    fn count(&self, tell: impl FnOnce(&Board)) {
        if let Some(board) = &self.board {
            tell(board);
        }
    }

    /// What no place can make right.
    fn check(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let Self { settings: Settings { bytes_max, .. }, .. } = self;
        if wanted.blob.size_bytes > *bytes_max {
            return Err(wanted.refuse("size_bytes", format!("more than the {bytes_max} bytes that are downloaded")));
        }
        for place in &wanted.places {
            if let Place::Uri(uri) = place
                && !self.permits(uri)
            {
                let problem = format!(
                    "{uri} may not be asked: the sidecar's --allow-artifacts-from names the folders that may, and none holds it"
                );
                return Err(wanted.refuse("uri", problem));
            }
        }
        Ok(())
    }

    /// Asks one place after another.
    async fn bring(&self, publisher: &Arc<Publisher>, wanted: &Wanted) -> Result<(), Trouble> {
        let mut failures = Vec::new();
        let mut wrong = 0;
        for place in &wanted.places {
            let brought = tokio::time::timeout(self.settings.deadline, self.ask(publisher, wanted, place)).await;
            let late = || Failed::Other(format!("took longer than {} s", self.settings.deadline.as_secs()));
            let failed = match brought.unwrap_or_else(|_| Err(late())) {
                Ok(()) => {
                    self.count(|board| board.downloaded(place.scheme(), "ok"));
                    return Ok(());
                }
                Err(failed) => failed,
            };
            let outcome = if matches!(failed, Failed::Wrong(_)) { "wrong" } else { "failed" };
            self.count(|board| board.downloaded(place.scheme(), outcome));
            let problem = match failed {
                Failed::NotFromTheMiddle => "cannot go on in the middle".to_owned(),
                Failed::Wrong(problem) => {
                    wrong += 1;
                    problem
                }
                Failed::Other(problem) => problem,
                Failed::Store(problem) => return Err(Trouble::Retry(problem)),
            };
            failures.push(format!("{place}: {problem}"));
        }
        let problem = failures.join("; ");
        // Where every place has other bytes, it is the card that is wrong.
        if wrong == wanted.places.len() {
            Err(wanted.refuse("sha256", problem).into())
        } else {
            Err(Trouble::Retry(format!("cannot fetch the artifact of {}: {problem}", wanted.spec)))
        }
    }

    /// Asks one place; from the middle, where something has come before, and once more from the beginning if that came
    /// out wrong.
    async fn ask(&self, publisher: &Arc<Publisher>, wanted: &Wanted, place: &Place) -> Result<(), Failed> {
        if let Place::Uri(uri) = place
            && uri.scheme() == Scheme::Oci
        {
            return oci::Registry::open(uri, self.settings.registry_config.as_deref())?
                .bring(self, publisher, &wanted.blob)
                .await;
        }
        let resumed = self.arrive(publisher, wanted, place).await?;
        match resumed {
            Arrived::Whole => Ok(()),
            Arrived::WrongAfterResuming => match self.arrive(publisher, wanted, place).await? {
                Arrived::Whole => Ok(()),
                Arrived::WrongAfterResuming => Err(Failed::Wrong("gives other bytes each time".to_owned())),
            },
        }
    }

    async fn arrive(&self, publisher: &Publisher, wanted: &Wanted, place: &Place) -> Result<Arrived, Failed> {
        let blob = &wanted.blob;
        let mut incoming = publisher.receive(blob).map_err(Failed::from)?;
        let opened = match self.open(place, blob, incoming.offset()).await {
            Err(Failed::NotFromTheMiddle) => self.open(place, blob, 0).await?,
            opened => opened?,
        };
        if let Some(total_bytes) = opened.total_bytes.filter(|total_bytes| *total_bytes != blob.size_bytes) {
            return Err(Failed::Wrong(format!("has {total_bytes} bytes")));
        }
        if opened.offset != incoming.offset() {
            incoming.restart().map_err(Failed::from)?;
        }
        if let Place::Uri(uri) = place {
            self.remember(blob, uri, opened.validator.clone());
        }
        self.pour(place.scheme(), opened, incoming).await
    }

    async fn open(&self, place: &Place, blob: &Blob, offset: u64) -> Result<Opened, Failed> {
        if offset == blob.size_bytes {
            // It was killed between the last byte and the name.
            return Ok(Opened { offset, total_bytes: None, validator: None, bytes: stream::empty().boxed() });
        }
        let opened = async {
            match place {
                Place::Uri(uri) => {
                    let validator = (offset > 0).then(|| self.validator(blob, uri)).flatten();
                    match uri.scheme() {
                        Scheme::Https | Scheme::Http => {
                            http::open(&self.settings, uri, offset, validator.as_deref()).await
                        }
                        _ => object::open(&self.settings.variables, uri, offset, validator).await,
                    }
                }
                Place::Lfs(store) => lfs::open(store, blob, offset, self.token_file.as_deref()).await,
            }
        };
        tokio::time::timeout(BEGIN_MAX, opened)
            .await
            .unwrap_or_else(|_| Err(Failed::Other(format!("has not begun to answer in {} s", BEGIN_MAX.as_secs()))))
    }

    /// The version that came in part from there, if that is known. Where it is not, as after a restart, the digest of the
    /// whole still tells.
    fn validator(&self, blob: &Blob, uri: &Uri) -> Option<String> {
        let validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        validators.get(blob).filter(|(from, _)| from == uri).map(|(_, validator)| validator.clone())
    }

    fn remember(&self, blob: &Blob, uri: &Uri, validator: Option<String>) {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        if validators.len() >= VALIDATORS_MAX {
            validators.clear();
        }
        match validator {
            Some(validator) => validators.insert(*blob, (uri.clone(), validator)),
            None => validators.remove(blob),
        };
    }

    /// Takes all bytes of an answer, at a bearable pace, into the store.
    async fn pour(&self, scheme: &'static str, opened: Opened, mut incoming: Incoming<'_>) -> Result<Arrived, Failed> {
        let resumed = incoming.offset() > 0;
        if resumed {
            self.count(Board::resumed);
        }
        let mut bytes = self.paced(opened.bytes);
        while let Some(piece) = bytes.try_next().await? {
            self.count(|board| board.downloaded_bytes(scheme, piece.len() as u64));
            match incoming.write(&piece) {
                Err(AddError::TooLong { .. }) if resumed => return Ok(Arrived::WrongAfterResuming),
                written => written?,
            }
        }
        match incoming.finish() {
            Ok(()) => Ok(Arrived::Whole),
            Err(AddError::Mismatch { .. }) if resumed => Ok(Arrived::WrongAfterResuming),
            Err(error) => Err(error.into()),
        }
    }

    /// The same bytes, or an error as soon as they come too slowly. Counted over stretches of time, since one that drips
    /// never lets a time-out between two reads run out.
    fn paced<'a>(
        &'a self,
        bytes: impl Stream<Item = Result<Bytes, Failed>> + Send + Unpin + 'a,
    ) -> BoxStream<'a, Result<Bytes, Failed>> {
        let Settings { pace, pace_bytes, .. } = self.settings;
        let stretch = tokio::time::Instant::now() + pace;
        stream::try_unfold((bytes, stretch, 0), move |(mut bytes, mut stretch, mut came)| async move {
            let slow = || Failed::Other(format!("gave less than {pace_bytes} bytes in {} s", pace.as_secs_f64()));
            let piece = tokio::time::timeout_at(stretch, bytes.next()).await;
            let Some(piece) = piece.map_err(|_| slow())?.transpose()? else { return Ok(None) };
            came += piece.len() as u64;
            if came >= pace_bytes {
                (stretch, came) = (tokio::time::Instant::now() + pace, 0);
            }
            Ok(Some((piece, (bytes, stretch, came))))
        })
        .boxed()
    }
}

/// How a download that came to its end did.
enum Arrived {
    Whole,
    /// The bytes that were there before belong to something else.
    WrongAfterResuming,
}

impl Wanted {
    fn refuse(&self, field: &str, problem: String) -> Refusal {
        Refusal { file: self.spec.clone(), line: self.line, field: format!("artifact.{field}"), problem }
    }
}

impl Place {
    fn scheme(&self) -> &'static str {
        match self {
            Self::Uri(uri) => uri.scheme().as_str(),
            Self::Lfs(_) => "lfs",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(uri) => uri.fmt(f),
            Self::Lfs(_) => f.write_str("Git LFS"),
        }
    }
}

impl Failed {
    /// What an error and its causes say, as far as a person wants to read it.
    fn other(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let mut words: Vec<String> = Vec::new();
        for cause in causes.map(ToString::to_string) {
            // Libraries like to repeat their causes in their own words.
            if !words.iter().any(|word| word.contains(&cause)) {
                words.push(cause);
            }
        }
        let mut text = unsigned(&words.join(": ")).replace(char::is_control, " ");
        if text.len() > WORDS_BYTES_MAX {
            text.truncate(text.floor_char_boundary(WORDS_BYTES_MAX));
            text.push('…');
        }
        Self::Other(text)
    }
}

/// The text without the queries of the addresses in it, which may be signatures.
fn unsigned(text: &str) -> String {
    let mut kept = String::new();
    let mut in_query = false;
    for c in text.chars() {
        in_query &= !(c.is_whitespace() || matches!(c, ')' | '"' | '\'' | '<' | '>'));
        if !in_query {
            kept.push(c);
        }
        in_query |= c == '?';
    }
    kept
}

impl From<AddError> for Failed {
    fn from(error: AddError) -> Self {
        match &error {
            AddError::Mismatch { got, .. } => {
                Self::Wrong(format!("has {} bytes with sha256 {}", got.size_bytes, got.sha256))
            }
            AddError::TooLong { expected_bytes } => Self::Wrong(format!("has more than {expected_bytes} bytes")),
            AddError::Source(_) | AddError::Io { .. } => match Trouble::retry(&error) {
                Trouble::Retry(problem) => Self::Store(problem),
                Trouble::Refused(_) => unreachable!("a retry is no refusal"),
            },
        }
    }
}

/// A client that follows no redirect, for requests that carry what lets us in.
fn client() -> Result<reqwest::Client, Failed> {
    build(client_builder())
}

/// A client that follows a few redirects, though never from https to plain text. It carries nothing secret.
fn following_client() -> Result<reqwest::Client, Failed> {
    build(client_builder().redirect(reqwest::redirect::Policy::custom(|attempt| {
        let was_secret = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > REDIRECTS_MAX {
            attempt.error("it redirects too often")
        } else if was_secret && attempt.url().scheme() != "https" {
            attempt.error("it redirects from https to plain text")
        } else {
            attempt.follow()
        }
    })))
}

fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_MAX)
        .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
}

fn build(client: reqwest::ClientBuilder) -> Result<reqwest::Client, Failed> {
    client.build().map_err(|e| Failed::other(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_programs_words_are_one_bounded_line_without_signatures() {
        let words = |text: &str| match Failed::other(&std::io::Error::other(text.to_owned())) {
            Failed::Other(text) => text,
            other => panic!("{other:?}"),
        };
        let text = words("cannot get (https://h.example/a?sig=SECRET&x=1)\nnow: refused");
        assert_eq!(text, "cannot get (https://h.example/a?) now: refused");
        assert!(words(&"x".repeat(1000)).len() <= WORDS_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn variables_show_their_names_and_not_their_values() {
        let variables = [("AWS_SECRET_ACCESS_KEY", "hush"), ("PATH", "elsewhere")];
        let owned = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(format!("{:?}", Variables::from_iter(owned)), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }
}
