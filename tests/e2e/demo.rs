//! The demo does what it promises on a machine where nothing is set up, and its own words suffice to use it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Connection, Program, SETOSA, eventually, mainstay};

#[test]
fn the_demo_shows_a_roll_to_somebody_who_does_what_it_says() {
    let folder = TempDir::new().unwrap();
    let person = Person::new(folder.path());
    let demo = person.starts_the_demo();
    let greeting = demo.greeting();

    // Exactly the commands that it prints.
    let predict = &greeting.under("Predict")[0];
    assert_eq!(greeting.ask()["version"], json!("1.0.0"));
    if person.runs("command -v curl").is_some() {
        let answer: Value = serde_json::from_str(&person.runs(predict).expect("the curl line works")).unwrap();
        assert_eq!((&answer["version"], &answer["prediction"]), (&json!("1.0.0"), &json!([0])));
    }
    let roll = greeting.under("Roll iris").join("\n");
    let rolled = greeting.until_answered_by("1.1.0", || person.runs(&roll));
    demo.says("is live");
    demo.says("iris rolled from 1.0.0 to 1.1.0");
    let (enter, revert) = (&greeting.under("Roll iris")[0], &greeting.under("Roll it back")[0]);
    let reverted = greeting.until_answered_by("1.0.0", || person.runs(&format!("{enter}\n{revert}")));
    demo.says("iris rolled from 1.1.0 to 1.0.0");
    println!("from the commit to the first answer: {rolled:.2?}, and back {reverted:.2?}");

    let refused = format!("{enter}\necho 'canary: 5' >> environments/dev/serving.yaml\ngit commit -qam 'Misspell'");
    person.runs(&refused).expect("the commit is made");
    demo.says("was refused: environments/dev/serving.yaml:9: ");
    assert_eq!(greeting.ask()["version"], json!("1.0.0"));
    person.runs(&format!("{enter}\n{revert}")).expect("the revert is made");
    greeting.until_answered_by("1.1.0", || person.runs(&roll));
    let head = || person.runs(&format!("{enter}\ngit rev-parse HEAD")).unwrap();
    let left = head();
    demo.says(&format!("Commit {} by Demo Operator is live", &left[..10]));
    demo.ends_and_leaves_nobody();

    // A second start in the same folder goes on where the first one stopped, and says what fits there.
    let demo = person.starts_the_demo();
    let greeting = demo.greeting();
    assert_eq!((&greeting.ask()["version"], &greeting.ask()["commit"]), (&json!("1.1.0"), &json!(left.trim())));
    assert_eq!(head(), left, "it commits nothing by itself");
    greeting.until_answered_by("1.0.0", || person.runs(&greeting.under("Roll iris").join("\n")));
    demo.ends_and_leaves_nobody();
}

#[test]
fn the_demo_works_in_a_folder_as_people_name_them() {
    let folder = TempDir::new().unwrap();
    let mut person = Person::new(folder.path());
    person.dir = folder.path().join("Ada's demo");
    let demo = person.starts_the_demo();
    let greeting = demo.greeting();
    // It is the template, file by file, whose models are the shipped ones.
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/config-repo");
    let enter = &greeting.under("Roll iris")[0];
    let tracked = person.runs(&format!("{enter}\ngit ls-files")).unwrap();
    let tracked: Vec<_> = tracked.lines().map(PathBuf::from).collect();
    assert_eq!(tracked, files(&template));
    for path in tracked {
        let same = std::fs::read(person.dir.join("config").join(&path)).unwrap()
            == std::fs::read(template.join(&path)).unwrap();
        assert!(
            same,
            "examples/config-repo/{} is not what the demo has: copy it from there or to there",
            path.display()
        );
    }
    greeting.until_answered_by("1.1.0", || person.runs(&greeting.under("Roll iris").join("\n")));
    demo.ends_and_leaves_nobody();
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let person = Person::new(folder.path());
    let foreign = person.dir.join("config.git");
    std::fs::create_dir_all(&foreign).unwrap();
    let (code, _, stderr) = crate::harness::run(person.demo());
    assert!(code == 1 && stderr.contains("--dir"), "{code}: {stderr}");
    assert_eq!(std::fs::read_dir(foreign).unwrap().count(), 0);
}

/// The files below a folder, in the order in which git lists them.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found.sort_by_key(|path| path.as_os_str().to_owned());
    found
}

/// Somebody with an empty home, who never told git a name.
struct Person {
    home: PathBuf,
    dir: PathBuf,
}

impl Person {
    fn new(folder: &Path) -> Self {
        let home = folder.join("home");
        std::fs::create_dir(&home).unwrap();
        Self { home, dir: folder.join("demo") }
    }

    fn set_up(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
            command.env_remove(name);
        }
        command.env("HOME", &self.home).env("GIT_CONFIG_NOSYSTEM", "1").env_remove("XDG_CONFIG_HOME");
        command.env_remove("EMAIL").current_dir(&self.home);
    }

    fn demo(&self) -> Command {
        let dir = self.dir.to_str().unwrap();
        let mut command = mainstay(&["demo", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        self.set_up(&mut command);
        command
    }

    fn starts_the_demo(&self) -> Demo {
        Demo(Program::spawn_parent(self.demo()))
    }

    /// What a shell prints; none where it fails.
    fn runs(&self, commands: &str) -> Option<String> {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", commands]);
        self.set_up(&mut shell);
        let output = shell.output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

struct Demo(Program);

impl Demo {
    fn says(&self, words: &str) {
        eventually(&format!("the demo says `{words}`"), || {
            let ended = self.0.has_ended();
            let said = self.0.stdout().contains(words);
            assert!(said || !ended, "the demo ended before it said `{words}`");
            said.then_some(())
        });
    }

    fn greeting(&self) -> Greeting {
        self.says("Ctrl-C stops everything.");
        Greeting(self.0.stdout())
    }

    fn ends_and_leaves_nobody(mut self) {
        let family = descendants(self.0.id());
        assert!(cfg!(not(target_os = "linux")) || family.len() >= 2, "the two programs: {family:?}");
        self.0.signal(Signal::INT);
        assert_eq!(self.0.ended(), 0);
        let left: Vec<_> = family.iter().filter(|(id, begun)| process(*id).is_some_and(|p| p.1 == *begun)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The words with which the demo says what can be done.
struct Greeting(String);

impl Greeting {
    /// The indented lines under a heading.
    fn under(&self, heading: &str) -> Vec<String> {
        let lines = self.0.lines().skip_while(|line| !line.starts_with(&format!("  {heading}"))).skip(1);
        lines.map_while(|line| line.strip_prefix("      ")).map(str::to_owned).collect()
    }

    fn ask(&self) -> Value {
        let url = &self.under("Open")[0];
        let address = url.strip_prefix("http://").unwrap().trim_end_matches('/').parse().unwrap();
        Connection::open(address).ask("POST", "/predict", "", SETOSA).unwrap().ok()
    }

    /// How long it takes from the beginning of `change` until `version` answers.
    fn until_answered_by(&self, version: &str, change: impl FnOnce() -> Option<String>) -> Duration {
        let begun = Instant::now();
        change().expect("the printed commands work");
        eventually(&format!("{version} answers"), || (self.ask()["version"] == version).then_some(()));
        begun.elapsed()
    }
}

/// The parent of a process and when it began, which tells it from a later one with the same id.
fn process(id: u32) -> Option<(u32, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields[1].parse().ok()?, fields[19].parse().ok()?))
}

/// The children of a process, and theirs.
fn descendants(id: u32) -> Vec<(u32, u64)> {
    // Where there is no /proc, nothing is known and nothing is asserted.
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let children = ids.filter_map(|child| process(child).filter(|(parent, _)| *parent == id).map(|(_, t)| (child, t)));
    children.flat_map(|child| std::iter::once(child).chain(descendants(child.0))).collect()
}
