//! What the git worker does and refuses to do.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mainstay_sidecar::git::{Error, Failure};
use mainstay_sidecar::{Credentials, Sidecar};
use tempfile::TempDir;

use crate::harness::{Bench, LONG, Repo, Responder, git, git_with, http, worker_program};

#[test]
fn branches_tags_full_names_and_commits_are_followed() {
    let repo = Repo::serving_iris();
    let first = repo.head();
    repo.git(&["tag", "--annotate", "--message", "one", "v1"]);
    repo.git(&["tag", "--annotate", "--message", "one again", "nested", "v1"]);
    let second = repo.roll("1.1.0");
    repo.git(&["branch", "team/next"]);
    repo.git(&["tag", "main-like", first.as_str()]);
    repo.git(&["branch", "main-like"]);
    let path = repo.path().to_str().unwrap().to_owned();
    for (reference, expected) in [
        ("main", &second),
        ("HEAD", &second),
        ("team/next", &second),
        ("refs/heads/main", &second),
        ("v1", &first),
        ("nested", &first),
        ("refs/tags/v1", &first),
        ("main-like", &second),
        (first.as_str(), &first),
    ] {
        for address in [repo.address(), path.clone()] {
            let folder = TempDir::new().unwrap();
            let mut git = git(folder.path(), &address, reference);
            assert_eq!(git.advertised().unwrap(), *expected, "{reference}");
            let fetched = git.fetch().unwrap();
            assert_eq!(fetched.commit, *expected, "{reference}");
            assert!(fetched.bytes > 0, "{reference}");
            assert_eq!(git.describe(expected).unwrap().id, *expected);
            assert_eq!(git.workers_started(), 1);
        }
    }
}

#[test]
fn a_reference_that_is_not_there_is_named() {
    let repo = Repo::serving_iris();
    let folder = TempDir::new().unwrap();
    let error = git(folder.path(), &repo.address(), "mian").advertised().unwrap_err();
    assert!(matches!(error, Error::Failed(Failure::NoReference { .. })));
    assert!(error.to_string().ends_with("has no branch or tag `mian`: create it there, or follow another with --ref"));
    let empty = Repo::new();
    assert!(git(folder.path(), &empty.address(), "main").advertised().is_err());
}

#[test]
fn only_regular_files_of_a_known_size_are_read() {
    let repo = Repo::serving_iris();
    repo.write("large", vec![7; 3 << 20]);
    repo.write("run.sh", "echo");
    fs::set_permissions(repo.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("large", repo.path().join("link")).unwrap();
    let head = repo.head();
    fs::create_dir(repo.path().join("sub")).unwrap();
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},sub")]);
    let commit = repo.commit("Odd things");
    let folder = TempDir::new().unwrap();
    let mut git = git(folder.path(), &repo.address(), "main");
    git.fetch().unwrap();

    assert_eq!(git.read(&commit, "large", 3 << 20).unwrap(), vec![7; 3 << 20]);
    assert_eq!(git.read(&commit, "run.sh", 100).unwrap(), b"echo");
    let mut say = |path: &str| git.read(&commit, path, (3 << 20) - 1).unwrap_err().to_string();
    assert_eq!(say("large"), "large has 3145728 bytes, more than the 3145727 allowed");
    assert_eq!(say("link"), "link is behind a symbolic link: only regular files are read");
    assert_eq!(say("sub"), "sub is in a submodule: only regular files are read");
    assert_eq!(say("sub/file"), "sub/file is in a submodule: only regular files are read");
    assert_eq!(say("models"), "models is a folder: only regular files are read");
    for missing in ["nothing", "large/x", "models/../large", "/large", "", "models//iris"] {
        assert_eq!(say(missing), format!("{missing} is not in the commit"));
    }
    assert_eq!(git.workers_started(), 1, "a refusal costs no worker");
}

#[test]
fn a_fetch_beyond_its_limit_is_cut() {
    let repo = Repo::serving_iris();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(12 << 20)
    .collect();
    repo.write("noise", noise);
    repo.commit("Noise");
    let folder = TempDir::new().unwrap();
    let error = git(folder.path(), &repo.address(), "main").fetch().unwrap_err().to_string();
    assert!(error.contains("more than the 10485760 bytes allowed for one fetch"), "{error}");
}

#[test]
fn the_folder_belongs_to_us_alone() {
    let repo = Repo::serving_iris();
    let folder = TempDir::new().unwrap();
    git(folder.path(), &repo.address(), "main").fetch().unwrap();
    let mode = fs::metadata(folder.path().join("git")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_token_is_read_anew_each_time_and_never_repeated() {
    // The base64 of x-access-token:second.
    let second = "authorization: basic eC1hY2Nlc3MtdG9rZW46c2Vjb25k".to_lowercase();
    let host = Responder::start(move |request| match request.to_lowercase().contains(&second) {
        true => http("418 I'm a teapot", "", ""),
        false => http("401 Unauthorized", "WWW-Authenticate: Basic realm=\"git\"\r\n", ""),
    });
    let folder = TempDir::new().unwrap();
    let token_file = folder.path().join("token");
    fs::write(&token_file, "first-secret\n").unwrap();
    let credentials = Credentials { token_file: Some(token_file.clone()), ..Credentials::default() };
    let address = format!("http://{}/config", host.address);
    let mut git = git_with(folder.path(), &address, "main", credentials, LONG);
    let mut say = || git.advertised().unwrap_err().to_string();
    let error = say();
    assert!(error.contains("the credentials were not accepted") && !error.contains("secret"), "{error}");
    fs::write(&token_file, "second").unwrap();
    let error = say();
    assert!(error.contains("418"), "{error}");
    fs::write(&token_file, "two\nlines\n").unwrap();
    let error = say();
    assert!(error.contains("does not hold one token on one line") && !error.contains("two"), "{error}");
    fs::remove_file(&token_file).unwrap();
    let error = say();
    assert!(error.contains("cannot use the token file"), "{error}");
}

#[test]
fn a_redirect_to_another_host_is_not_followed() {
    let elsewhere = Responder::start(|_| http("200 OK", "", ""));
    let location = format!("http://localhost:{}/config/info/refs?service=git-upload-pack", elsewhere.address.port());
    let host = Responder::start(move |_| http("302 Found", &format!("Location: {location}\r\n"), ""));
    let folder = TempDir::new().unwrap();
    let address = format!("http://{}/config", host.address);
    let error = git(folder.path(), &address, "main").advertised().unwrap_err().to_string();
    assert!(error.contains("cannot redirect from '127.0.0.1' to 'localhost'"), "{error}");
    assert!(elsewhere.requests.lock().unwrap().is_empty());
}

/// libgit2 1.9.7 reads through a null pointer when a redirect on the same host has no query. A later one may not;
/// what matters is that whatever a remote does to libgit2 costs a worker and no more.
#[test]
fn a_remote_that_crashes_libgit2_costs_one_question() {
    let elsewhere = Responder::start(|_| http("200 OK", "", ""));
    let location = format!("http://{}/config/info/refs", elsewhere.address);
    let host = Responder::start(move |_| http("302 Found", &format!("Location: {location}\r\n"), ""));
    let bench = Bench::following(&format!("http://{}/config", host.address));
    let mut sidecar = bench.open();
    for _ in 0..2 {
        crate::harness::retry(sidecar.reconcile());
    }
}

#[test]
fn without_credentials_the_answer_is_what_to_give() {
    let host = Responder::start(|_| http("401 Unauthorized", "WWW-Authenticate: Basic realm=\"git\"\r\n", ""));
    let folder = TempDir::new().unwrap();
    let address = format!("http://{}/config", host.address);
    let error = git(folder.path(), &address, "main").advertised().unwrap_err().to_string();
    assert!(error.contains("it asks for credentials: give --token-file"), "{error}");
}

#[test]
fn a_page_that_is_not_git_is_refused() {
    let portal = Responder::start(|_| http("200 OK", "Content-Type: text/html\r\n", "<html>Log in</html>"));
    let folder = TempDir::new().unwrap();
    let mut git = git(folder.path(), &format!("http://{}/config", portal.address), "main");
    assert!(matches!(git.advertised(), Err(Error::Failed(Failure::Remote { .. }))));
}

#[test]
fn ssh_without_known_hosts_is_refused_at_the_start() {
    let mut bench = Bench::following("ssh://git@127.0.0.1/config");
    let error = Sidecar::open(bench.settings.clone(), bench.control.clone()).unwrap_err().to_string();
    assert_eq!(error, "the repository is reached by ssh: give --ssh-key-file and --known-hosts-file");
    bench.settings.credentials.ssh_key_file = Some("/key".into());
    assert!(Sidecar::open(bench.settings.clone(), bench.control.clone()).is_err());
    bench.settings.credentials.known_hosts_file = Some("/known_hosts".into());
    Sidecar::open(bench.settings.clone(), bench.control.clone()).unwrap();
}

#[test]
fn a_worker_whose_parent_is_gone_ends_whatever_it_waits_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = TempDir::new().unwrap();
    let job = serde_json::to_vec(&serde_json::json!({
        "home": folder.path(),
        "address": format!("http://{}/config", listener.local_addr().unwrap()),
        "reference": "main",
        "credentials": {},
        "transfer_bytes_max": 0,
        "request": "Advertise",
    }));
    let job = job.unwrap();
    let piped = || std::process::Stdio::piped();
    let mut child = std::process::Command::new(worker_program()).stdin(piped()).stdout(piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&u32::try_from(job.len()).unwrap().to_be_bytes()).unwrap();
    stdin.write_all(&job).unwrap();
    let connection = listener.accept().unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it waits for the remote");
    // What the kernel does when the parent is killed.
    drop(stdin);
    crate::harness::eventually("the worker's end", || child.try_wait().unwrap());
    drop(connection);
}

#[test]
fn a_worker_that_cannot_start_or_talks_nonsense_is_an_error() {
    let mut bench = Bench::following("/nowhere");
    bench.settings.request_deadline = Duration::from_secs(5);
    bench.settings.program = "/nowhere/mainstay".into();
    let say = |bench: &Bench| crate::harness::retry(bench.open().reconcile());
    assert!(say(&bench).starts_with("cannot start the git worker /nowhere/mainstay: "), "{}", say(&bench));
    bench.settings.program = "/bin/sh".into();
    bench.settings.worker_arguments = ["-c", "echo so sorry >&2; exit 3"].map(str::to_owned).to_vec();
    assert!(say(&bench).ends_with("the git worker died (exit status: 3): so sorry"), "{}", say(&bench));
    bench.settings.worker_arguments = ["-c", "echo nonsense; sleep 60"].map(str::to_owned).to_vec();
    assert!(say(&bench).ends_with("the git worker answered out of turn and was killed"), "{}", say(&bench));
}
