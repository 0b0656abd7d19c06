//! The reloader against a real store and real engines; its trials are a script that hangs or refuses as it is told.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use mainstay_models::embedded::MODELS;
use mainstay_models::{
    Blob, Commit, CommitId, Fallback, Publisher, Release, ReleaseName, ReleasedModel, ReleasedVersion, Version,
};
use tempfile::TempDir;

use super::*;
use crate::engine::EngineChoice;

/// Long enough for anything that is expected to happen; waiting this long means that it did not.
const LONG: Duration = Duration::from_secs(20);

/// What trials are run with: a script that takes what is not in a list of the bad or of the hanging, and writes down what
/// it was asked.
const PROGRAM: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 2
spec="${5%%:*}"
echo "$spec" >> asked
if grep -qs "$spec" bad; then echo "it is bad"; exit 1; fi
if grep -qs "$spec" hangs; then echo $$ > pid; exec sleep 600; fi
exit 0
"#;

/// The version that answers for a model, and the number of the commit that asked for it; none where none answers.
type Answering = Option<(String, u32)>;

/// A store, and a reloader that follows it.
struct World {
    folder: TempDir,
    publisher: Publisher,
    catalog: Arc<ArcSwap<Catalog>>,
    status: Arc<ArcSwap<Status>>,
    watch: Option<Watch>,
    orders: Option<Orders>,
}

impl World {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;

        let folder = TempDir::new().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, PROGRAM).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let publisher = Publisher::open(folder.path().join("store")).unwrap();
        Self { folder, publisher, catalog: Arc::default(), status: Arc::default(), watch: None, orders: None }
    }

    /// One of which a first release answers, with these versions of iris and pred-main.
    fn live(iris: &str, pred_main: &str) -> Self {
        let mut world = Self::new();
        world.start();
        world.take(&world.release(1, iris, pred_main));
        world
    }

    fn start(&mut self) {
        let loader =
            Loader { engine: EngineChoice::Auto, metrics: Arc::new(Metrics::new("test")), sessions: NonZeroUsize::MIN };
        let trial = Trial { program: self.file("program") };
        let (catalog, status) = (Arc::clone(&self.catalog), Arc::clone(&self.status));
        let mut reloader = Reloader::new(self.publisher.reader(), trial, loader, catalog, status).unwrap();
        self.orders = Some(reloader.take_orders());
        self.watch = Some(reloader.watch().unwrap());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A version with the bytes of a shipped one, in the store.
    fn version(&self, name: &str, version: &str) -> ReleasedVersion {
        let shipped = MODELS.iter().find(|model| model.name == name).unwrap();
        let text = std::str::from_utf8(shipped.spec).unwrap();
        let text = text.replacen(&format!("version: {}", shipped.version), &format!("version: {version}"), 1);
        let bytes = ReleasedVersion { spec: Blob::of(text.as_bytes()), artifact: Blob::of(shipped.artifact) };
        self.publisher.add(&bytes.spec, text.as_bytes()).unwrap();
        self.publisher.add(&bytes.artifact, shipped.artifact).unwrap();
        bytes
    }

    /// Puts a version on a list: `bad` or `hangs`.
    fn note(&self, list: &str, name: &str, version: &str) {
        let line = self.version(name, version).spec.sha256.to_string();
        let before = std::fs::read_to_string(self.file(list)).unwrap_or_default();
        std::fs::write(self.file(list), before + &line + "\n").unwrap();
    }

    /// How often a version was tried.
    fn trials(&self, name: &str, version: &str) -> usize {
        let digest = self.version(name, version).spec.sha256.to_string();
        std::fs::read_to_string(self.file("asked")).unwrap_or_default().matches(&digest).count()
    }

    /// A release of the commit with this number, which asks for these versions of iris and pred-main.
    fn release(&self, commit: u32, iris: &str, pred_main: &str) -> Release {
        let model = |name: &str, version: &str| {
            let stable: Version = version.parse().unwrap();
            let versions = BTreeMap::from([(stable.clone(), self.version(name, version))]);
            (name.parse().unwrap(), ReleasedModel { stable, versions, fallback: None })
        };
        let models = BTreeMap::from([model("iris", iris), model("pred-main", pred_main)]);
        let commit = Commit { id: id(commit), author: "Ada".to_owned(), subject: "Serve".to_owned(), time_unix_s: 0 };
        Release::new("prod".parse().unwrap(), commit, "iris".parse().unwrap(), models, Vec::new()).unwrap()
    }

    /// The same, whose models move together.
    fn together(&self, commit: u32, iris: &str, pred_main: &str) -> Release {
        let release = self.release(commit, iris, pred_main);
        let group = release.models.keys().cloned().collect();
        release.moving_together(vec![group]).unwrap()
    }

    fn publish(&self, release: &Release) -> ReleaseName {
        self.publisher.publish(release).unwrap()
    }

    /// Waits until the pass of a release is done.
    fn done(&self, name: &ReleaseName) {
        let is_done = || self.status.load().release.as_ref().is_some_and(|release| release.name == name.to_string());
        eventually("the pass is done", is_done);
    }

    fn take(&self, release: &Release) {
        self.done(&self.publish(release));
    }

    /// What answers for a model.
    fn answers(&self, model: &str) -> Answering {
        let catalog = self.catalog.load();
        let model = catalog.models.get(model)?;
        let commit = u32::from_str_radix(model.commit.as_ref()?.as_str(), 16).unwrap();
        Some((model.stable.as_ref()?.to_string(), commit))
    }

    /// The same for iris and pred-main.
    fn both(&self) -> (Answering, Answering) {
        (self.answers("iris"), self.answers("pred-main"))
    }

    fn status_of(&self, model: &str) -> VersionStatus {
        self.status.load().models.iter().find(|status| status.name.as_str() == model).unwrap().clone()
    }

    /// Gives an order and waits for its end.
    fn order(&self, action: Action, model: &str) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let orders = self.orders.as_ref().unwrap();
        let order = orders.give(action, model.parse().unwrap(), Instant::now() + LONG);
        runtime.block_on(order).map_err(|error| error.to_string())
    }

    fn is_loading(&self, version: &str) -> bool {
        self.status.load().loading.iter().any(|loading| loading.version.to_string() == version)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.stop();
        }
    }
}

fn id(commit: u32) -> CommitId {
    format!("{commit:040x}").parse().unwrap()
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "it did not happen that {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn at(version: &str, commit: u32) -> Answering {
    Some((version.to_owned(), commit))
}

#[test]
fn a_version_that_hangs_delays_no_other_model_and_gives_way_to_a_newer_release() {
    let world = World::live("1.0.0", "1.0.0");
    world.note("hangs", "iris", "1.1.0");
    let first = world.status.load().release.as_ref().unwrap().name.clone();

    world.publish(&world.release(2, "1.1.0", "1.1.0"));
    eventually("the other model moves", || world.answers("pred-main") == at("1.1.0", 2));
    assert_eq!(world.answers("iris"), at("1.0.0", 1));
    assert!(world.is_loading("1.1.0"), "{:?}", world.status.load().loading);
    assert_eq!(world.status.load().release.as_ref().unwrap().name, first, "the release is not whole yet");

    // It is still asked for, so it is not begun again.
    world.publish(&world.release(3, "1.1.0", "1.2.0"));
    eventually("the other model moves on", || world.answers("pred-main") == at("1.2.0", 3));
    assert_eq!((world.answers("iris"), world.trials("iris", "1.1.0")), (at("1.0.0", 1), 1));

    let process = format!("/proc/{}", std::fs::read_to_string(world.file("pid")).unwrap().trim());
    world.take(&world.release(4, "1.2.0", "1.2.0"));
    assert_eq!(world.both(), (at("1.2.0", 4), at("1.2.0", 4)));
    eventually("the trial's process is gone", || !Path::new(&process).exists());
    assert!(world.status.load().loading.is_empty());
}

#[test]
fn a_first_release_answers_as_it_gets_ready_and_counts_as_ready_when_it_is_whole() {
    let mut world = World::new();
    world.note("hangs", "iris", "1.0.0");
    world.start();
    world.publish(&world.release(1, "1.0.0", "1.0.0"));
    eventually("one model answers", || world.answers("pred-main").is_some());
    assert!(!world.catalog.load().answers(), "the other one may still come");
    let pick = world.catalog.load().pick(None, None).err();
    assert!(matches!(pick, Some(crate::catalog::PickError::Unloaded { .. })), "{pick:?}");
    world.take(&world.release(2, "1.1.0", "1.0.0"));
    assert!(world.catalog.load().answers());
}

#[test]
fn models_that_move_together_move_in_one_swap_or_not_at_all() {
    let mut world = World::new();
    world.start();
    world.take(&world.together(1, "1.0.0", "1.0.0"));
    world.note("bad", "pred-main", "1.1.0");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (stop, catalog) = (Arc::clone(&stop), Arc::clone(&world.catalog));
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let catalog = catalog.load();
                let [iris, pred_main] = ["iris", "pred-main"].map(|name| &catalog.models[name]);
                assert_eq!((&iris.stable, &iris.commit), (&pred_main.stable, &pred_main.commit));
            }
        }
    });

    world.take(&world.together(2, "1.1.0", "1.1.0"));
    for model in ["iris", "pred-main"] {
        assert_eq!(world.answers(model), at("1.0.0", 1));
    }
    let (iris, pred_main) = (world.status_of("iris"), world.status_of("pred-main"));
    assert_eq!((iris.state, pred_main.state), (State::Held, State::Failed));
    assert_eq!(iris.reason.as_deref(), Some("held back since pred-main 1.1.0 of its group failed"));
    assert_eq!((iris.serving.unwrap().to_string(), iris.commit), ("1.0.0".to_owned(), Some(id(1))));

    // Neither is there anything of a model that hangs, until it is decided.
    world.note("hangs", "iris", "1.2.0");
    world.publish(&world.together(3, "1.2.0", "1.2.0"));
    eventually("it hangs", || world.file("pid").exists() && world.trials("pred-main", "1.2.0") == 1);
    assert_eq!(world.answers("pred-main"), at("1.0.0", 1));

    world.take(&world.together(4, "1.3.0", "1.3.0"));
    // A way back is a move like any other.
    world.take(&world.together(5, "1.0.0", "1.0.0"));
    world.take(&world.together(6, "1.3.0", "1.1.0"));
    assert_eq!(world.both(), (at("1.0.0", 5), at("1.0.0", 5)));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    watcher.join().unwrap();
    assert_eq!(world.status_of("iris").state, State::Held);

    // A member that stays as it is stays with its commit too.
    world.take(&world.together(7, "1.0.0", "1.1.0"));
    assert_eq!((world.status_of("iris").state, world.answers("iris")), (State::Live, at("1.0.0", 5)));
}

#[test]
fn on_a_fresh_server_a_group_answers_as_a_whole_or_not_at_all() {
    let mut world = World::new();
    world.note("bad", "iris", "1.2.0");
    world.note("bad", "iris", "1.1.0");
    world.start();
    world.take(&world.together(3, "1.2.0", "1.2.0"));
    assert_eq!(world.both(), (None, None));
    assert_eq!(world.status_of("pred-main").state, State::Held);

    let with_fallback = |commit: u32, version: &str| {
        let mut release = world.together(3, "1.2.0", "1.2.0");
        for (name, model) in &mut release.models {
            let bytes = world.version(name.as_str(), version);
            model.fallback = Some(Fallback { version: version.parse().unwrap(), bytes, commit: id(commit) });
        }
        release
    };
    world.take(&with_fallback(2, "1.1.0"));
    assert_eq!(world.both(), (None, None));
    assert_eq!(world.status_of("iris").fallback.unwrap().state, State::Failed);

    world.take(&with_fallback(1, "1.0.0"));
    assert_eq!(world.both(), (at("1.0.0", 1), at("1.0.0", 1)));
    let iris = world.status_of("iris");
    assert_eq!((iris.state, iris.fallback.unwrap().state), (State::Failed, State::Live));
    assert!(world.catalog.load().answers());
    assert_eq!(world.trials("iris", "1.2.0"), 1, "another release of the same commit changes nothing about it");

    world.take(&world.together(4, "1.2.0", "1.2.0"));
    assert_eq!(world.trials("iris", "1.2.0"), 2, "another commit does");
    assert_eq!(world.both(), (at("1.0.0", 1), at("1.0.0", 1)));
    world.take(&world.together(5, "1.3.0", "1.2.0"));
    assert_eq!(world.both(), (at("1.3.0", 5), at("1.2.0", 5)));
}

#[test]
fn a_fallback_is_for_a_model_of_which_nothing_answers() {
    let world = World::live("1.1.0", "1.0.0");
    world.note("bad", "iris", "1.2.0");
    let mut release = world.release(2, "1.2.0", "1.0.0");
    let fallback = Fallback { version: "1.0.0".parse().unwrap(), bytes: world.version("iris", "1.0.0"), commit: id(0) };
    release.models.get_mut("iris").unwrap().fallback = Some(fallback);
    world.take(&release);
    assert_eq!((world.answers("iris"), world.trials("iris", "1.0.0")), (at("1.1.0", 1), 0));
    assert!(world.status_of("iris").fallback.is_none());
}

#[test]
fn a_model_that_an_order_unloads_is_out_until_another_order_or_another_version() {
    let mut world = World::new();
    world.start();
    assert_eq!(world.order(Action::Load, "iris").unwrap_err(), OrderError::Early.to_string());
    world.take(&world.release(1, "1.0.0", "1.0.0"));
    world.order(Action::Load, "iris").unwrap();
    assert_eq!((world.answers("iris"), world.trials("iris", "1.0.0")), (at("1.0.0", 1), 1), "it was live");

    world.order(Action::Unload, "iris").unwrap();
    assert_eq!(world.both(), (None, at("1.0.0", 1)));
    world.take(&world.release(2, "1.0.0", "1.1.0"));
    assert_eq!(world.both(), (None, at("1.1.0", 2)), "the same of iris");
    let iris = world.status_of("iris");
    assert_eq!((iris.state, iris.serving), (State::Unloaded, None));

    world.order(Action::Load, "iris").unwrap();
    assert_eq!(world.answers("iris"), at("1.0.0", 2));
    world.order(Action::Unload, "iris").unwrap();
    world.take(&world.release(3, "1.1.0", "1.1.0"));
    assert_eq!(world.answers("iris"), at("1.1.0", 3));
    for action in [Action::Load, Action::Unload] {
        assert!(world.order(action, "irs").unwrap_err().contains("there are iris, pred-main"));
    }
}

#[test]
fn a_load_says_why_it_fails_and_waits_for_no_other_model() {
    let world = World::live("1.0.0", "1.0.0");
    world.note("bad", "iris", "1.1.0");
    world.take(&world.release(2, "1.1.0", "1.0.0"));
    let refused = world.order(Action::Load, "iris").unwrap_err();
    assert_eq!(refused, "cannot load model `iris`: version 1.1.0: it is bad");
    assert_eq!((world.answers("iris"), world.trials("iris", "1.1.0")), (at("1.0.0", 1), 2), "what answered stays");

    world.note("hangs", "pred-main", "1.1.0");
    world.publish(&world.release(3, "1.1.0", "1.1.0"));
    // The new commit has the bad one tried again beside it: an order would get the outcome of that.
    eventually("the other model alone hangs", || {
        let status = world.status.load();
        let alone = matches!(&status.loading[..], [version] if version.name.as_str() == "pred-main");
        alone && world.file("pid").exists()
    });
    std::fs::write(world.file("bad"), "").unwrap();
    world.order(Action::Load, "iris").unwrap();
    assert_eq!(world.both(), (at("1.1.0", 3), at("1.0.0", 2)));
    world.order(Action::Unload, "pred-main").unwrap();
    eventually("nothing is waited for any more", || world.status.load().loading.is_empty());
    assert_eq!((world.answers("pred-main"), world.status_of("pred-main").state), (None, State::Unloaded));
}

#[test]
fn a_group_moves_without_the_member_that_was_unloaded_and_never_half_with_it() {
    let mut world = World::new();
    world.start();
    world.take(&world.together(1, "1.0.0", "1.0.0"));
    world.order(Action::Unload, "pred-main").unwrap();
    world.take(&world.together(2, "1.1.0", "1.0.0"));
    assert_eq!(world.both(), (at("1.1.0", 2), None));
    world.note("bad", "iris", "1.2.0");
    world.take(&world.together(3, "1.2.0", "1.0.0"));
    assert_eq!(world.both(), (at("1.1.0", 2), None));
    let held = world.order(Action::Load, "pred-main").unwrap_err();
    assert!(held.ends_with("held back since iris 1.2.0 of its group failed"), "{held}");
    assert_eq!(world.both(), (at("1.1.0", 2), None));
    world.take(&world.together(4, "1.1.0", "1.0.0"));
    assert_eq!(world.both(), (at("1.1.0", 4), at("1.0.0", 4)));
}
