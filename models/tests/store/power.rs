//! Cuts the power after any system call of a publisher's work, in a model of a disk that keeps only what it was told to.
//!
//! The model is harsher than a real file system: bytes of a file are there only if the file was synced after the last
//! write, and every change to a folder that was not synced since may be there or not, each independently of the others,
//! the two halves of a rename too. All such states are looked at. What real calls a publisher makes is recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_models::{Publisher, Release};

use crate::tracer::{Call, Kind, Stop};
use crate::{alone, calls, forking, publish};

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Folder,
    File(usize),
    Link(PathBuf),
}

type Names = BTreeMap<PathBuf, Node>;

/// A store on a disk, as the programs see it and as a power cut would leave it.
struct Disk {
    root: PathBuf,
    seen: Names,
    kept: Names,
    /// What happened to names since their folder was last synced, oldest first; nothing is kept in `tmp/`.
    pending: Vec<(PathBuf, Option<Node>)>,
    /// Whether each file's bytes are on the disk.
    synced: Vec<bool>,
    /// The blobs that each release needs.
    needed: BTreeMap<usize, Vec<PathBuf>>,
    open: BTreeMap<i32, PathBuf>,
    states: usize,
}

impl Disk {
    /// A disk on which everything that is in the store now is kept.
    fn holding(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            seen: Names::new(),
            kept: Names::new(),
            pending: Vec::new(),
            synced: Vec::new(),
            needed: BTreeMap::new(),
            open: BTreeMap::new(),
            states: 0,
        };
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let node = if path.is_symlink() {
                    Node::Link(std::fs::read_link(&path).unwrap())
                } else if path.is_dir() {
                    folders.push(path.clone());
                    Node::Folder
                } else {
                    disk.new_file(true)
                };
                disk.note_release(&path, &node);
                disk.seen.insert(path, node);
            }
        }
        disk.kept = disk.seen.clone();
        disk
    }

    fn new_file(&mut self, synced: bool) -> Node {
        self.synced.push(synced);
        Node::File(self.synced.len() - 1)
    }

    /// Reads what a release needs while it can be read.
    fn note_release(&mut self, path: &Path, node: &Node) {
        let Node::File(file) = node else { return };
        if path.parent() == Some(&self.root.join("releases")) {
            let release: Release = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let blobs = release.blobs().map(|blob| self.root.join("blobs/sha256").join(blob.sha256.to_string()));
            self.needed.insert(*file, blobs.collect());
        }
    }

    fn change(&mut self, path: &Path, node: Option<Node>) {
        match node.clone() {
            Some(node) => self.seen.insert(path.to_owned(), node),
            None => self.seen.remove(path),
        };
        if path.parent() != Some(&self.root.join("tmp")) {
            self.pending.push((path.to_owned(), node));
        }
    }

    /// Does what a call has just done to the real store.
    fn apply(&mut self, call: &Call, paths: &[PathBuf], result: i64) {
        let inside = |path: &&PathBuf| path.starts_with(&self.root);
        match (call.kind, paths) {
            (Kind::Open, [path]) => {
                self.open.insert(result as i32, path.clone());
                if call.creates() && inside(&path) && !self.seen.contains_key(path) {
                    let file = self.new_file(false);
                    self.change(path, Some(file));
                }
            }
            (Kind::Close, _) => {
                self.open.remove(&call.descriptor());
            }
            (Kind::Write, _) => {
                if let Some(Node::File(file)) = self.opened(call) {
                    self.synced[file] = false;
                }
            }
            (Kind::Sync, _) => match self.opened(call) {
                Some(Node::File(file)) => self.synced[file] = true,
                _ => self.sync_folder(&self.open[&call.descriptor()].clone()),
            },
            (Kind::Rename, [from, to]) => {
                let node = self.seen[from].clone();
                // By its new name, under which it can be read.
                self.note_release(to, &node);
                self.change(from, None);
                self.change(to, Some(node));
            }
            (Kind::Link, [from, to]) => self.change(to, Some(self.seen[from].clone())),
            (Kind::Symlink, [target, path]) => self.change(path, Some(Node::Link(target.clone()))),
            (Kind::Unlink, [path]) => self.change(path, None),
            (Kind::MakeDir, [path]) => self.change(path, Some(Node::Folder)),
            _ => {}
        }
    }

    fn opened(&self, call: &Call) -> Option<Node> {
        self.seen.get(self.open.get(&call.descriptor())?).cloned()
    }

    fn sync_folder(&mut self, folder: &Path) {
        let (now, later) =
            std::mem::take(&mut self.pending).into_iter().partition(|(path, _)| path.parent() == Some(folder));
        self.pending = later;
        let now: Vec<_> = now;
        for (path, node) in now {
            set(&mut self.kept, path, node);
        }
    }

    /// Every store that a power cut might leave now.
    fn after_a_cut(&mut self) -> Vec<Names> {
        let count = self.pending.len();
        assert!(count <= 10, "{count} changes wait for a sync: {:?}", self.pending);
        let states: Vec<_> = (0..1_usize << count)
            .map(|chosen| {
                let mut names = self.kept.clone();
                for (_, (path, node)) in self.pending.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1) {
                    set(&mut names, path.clone(), node.clone());
                }
                names
            })
            .collect();
        self.states += states.len();
        states
    }

    /// The live release's file in what a cut left; or which of facts 1 and 2 does not hold.
    fn live(&self, names: &Names) -> Result<Option<PathBuf>, String> {
        // What lies in a folder that is not there is not there.
        let has = |path: &Path| {
            let mut folders = path.ancestors().skip(1).take_while(|folder| *folder != self.root);
            names.get(path).filter(|_| folders.all(|folder| names.get(folder) == Some(&Node::Folder)))
        };
        for (path, node) in names.iter().filter(|(path, _)| path.starts_with(self.root.join("blobs/sha256"))) {
            if matches!(node, Node::File(file) if !self.synced[*file]) {
                return Err(format!("{} has its name before its bytes", path.display()));
            }
        }
        let target = match names.get(&self.root.join("current")) {
            Some(Node::Link(target)) => target,
            None => return Ok(None),
            other => return Err(format!("current is {other:?}")),
        };
        let release = self.root.join(target);
        let Some(Node::File(file)) = has(&release) else {
            return Err(format!("current names {}, which is not there", target.display()));
        };
        if !self.synced[*file] {
            return Err("current names a release that has its name before its bytes".to_owned());
        }
        // More than the facts say: neither does an earlier release, to which one may want to go back, lack a blob.
        for (path, node) in names.iter().filter(|(path, _)| path.starts_with(self.root.join("releases"))) {
            let Node::File(file) = node else { continue };
            if let Some(blob) = self.needed[file].iter().find(|blob| has(blob).is_none()) {
                return Err(format!("{} lacks {}", path.display(), blob.display()));
            }
        }
        Ok(Some(release))
    }
}

fn set(names: &mut Names, path: PathBuf, node: Option<Node>) {
    match node {
        Some(node) => names.insert(path, node),
        None => names.remove(&path),
    };
}

/// Records a publisher's work in the store at `root`, and cuts the power after each of its calls.
fn cut_after_each_call(root: &Path) -> usize {
    let mut disk = Disk::holding(root);
    let before = disk.live(&disk.kept).unwrap();
    let mut tracee = forking(|| calls::start(root));
    let mut acknowledged = false;
    while let Stop::Entry(call) = tracee.entry() {
        let paths: Vec<_> = call.paths().iter().map(|argument| tracee.path(&call, *argument)).collect();
        let Some(result) = tracee.exit() else { break };
        if result >= 0 {
            disk.apply(&call, &paths, result);
        }
        acknowledged |= call.kind == Kind::Mark;
        for names in disk.after_a_cut() {
            let live = disk.live(&names).unwrap_or_else(|broken| panic!("after {call:?}: {broken}"));
            assert!(live != before || !acknowledged, "a release that was said to be published would be lost");
        }
    }
    assert!(acknowledged);
    // The model has followed what really happened.
    let really = Disk::holding(root);
    assert!(really.seen.keys().eq(disk.seen.keys()), "{:?}\n{:?}", really.seen.keys(), disk.seen.keys());
    println!("{} states after a power cut", disk.states);
    disk.states
}

#[test]
fn a_power_cut_after_any_system_call_leaves_the_facts_true_and_loses_no_acknowledged_release() {
    let dir = calls::folder();
    alone(|| calls::seed(dir.path()));
    assert!(cut_after_each_call(dir.path()) > 100);
}

#[test]
fn a_power_cut_after_any_system_call_of_a_first_release_loses_nothing_either() {
    let dir = calls::folder();
    assert!(cut_after_each_call(dir.path()) > 100);
}

/// The model itself: what is not synced is lost in some state, or this test would prove nothing.
#[test]
fn the_model_of_a_power_cut_loses_what_was_not_synced() {
    let dir = calls::folder();
    publish(&Publisher::open(dir.path()).unwrap(), 1, b"first");
    let mut disk = Disk::holding(dir.path());
    let live = disk.live(&disk.kept).unwrap().unwrap();
    let blob = dir.path().join("blobs/sha256/new");
    let file = disk.new_file(false);
    disk.change(&blob, Some(file));
    let states = disk.after_a_cut();
    assert_eq!(states.iter().filter(|names| names.contains_key(&blob)).count(), 1);
    let broken = states.iter().filter(|names| disk.live(names).is_err()).count();
    assert_eq!(broken, 1, "a blob with a name and no bytes is noticed");
    let mut without = disk.kept.clone();
    without.remove(&live);
    assert!(disk.live(&without).is_err(), "a live release that is gone is noticed");
}
