//! What the git worker does and refuses to do.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::git::github::App;
use mainstay_sidecar::git::{Error, Failure};
use mainstay_sidecar::{Credentials, Sidecar};
use tempfile::TempDir;

use crate::harness::{Bench, LONG, Repo, Responder, files_below, git, git_borrowing, git_with, http, worker_program};

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
            let advertised = git.advertised().unwrap();
            assert_eq!(advertised.commit, *expected, "{reference}");
            let fetched = git.fetch().unwrap();
            assert_eq!(fetched.advertised, advertised, "{reference}");
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
fn a_range_follows_the_highest_tag_in_it() {
    let repo = Repo::serving_iris();
    let first = repo.head();
    repo.git(&["tag", "v1.0.0"]);
    let second = repo.roll("1.1.0");
    repo.git(&["tag", "--annotate", "--message", "1.1", "inner"]);
    repo.git(&["tag", "--annotate", "--message", "1.1, again", "1.1.0", "inner"]);
    let third = repo.roll("1.2.0");
    repo.git(&["tag", "--annotate", "--message", "soon", "v1.2.0-rc.1"]);
    repo.git(&["tag", "v2.0.0"]);
    for (range, tag, expected) in [
        ("^1", "refs/tags/1.1.0", &second),
        ("~1.0", "refs/tags/v1.0.0", &first),
        (">=1.0, <2", "refs/tags/1.1.0", &second),
        ("1.*", "refs/tags/1.1.0", &second),
        ("*", "refs/tags/v2.0.0", &third),
        (">=1.2.0-rc.0, <2", "refs/tags/v1.2.0-rc.1", &third),
    ] {
        for address in [repo.address(), repo.path().to_str().unwrap().to_owned()] {
            let folder = TempDir::new().unwrap();
            let mut git = git(folder.path(), &address, range);
            let advertised = git.advertised().unwrap();
            assert_eq!((advertised.name.as_str(), &advertised.commit), (tag, expected), "{range}");
            assert_eq!(git.fetch().unwrap().advertised, advertised, "{range}");
            assert_eq!(git.describe(expected).unwrap().id, *expected);
        }
    }
    let folder = TempDir::new().unwrap();
    let say = |range: &str| git(folder.path(), &repo.address(), range).advertised().unwrap_err().to_string();
    let error = say("^3");
    assert!(error.contains("has no tag in the range `^3`; 4 of its tags are versions: tag a commit"), "{error}");
    repo.git(&["tag", "v1.1.0", first.as_str()]);
    let error = say("^1");
    assert!(error.contains("has the tags `1.1.0` and `v1.1.0`, which are one version and two commits"), "{error}");
}

#[test]
fn a_tag_that_is_no_commit_is_named_and_costs_no_mirror() {
    let repo = Repo::serving_iris();
    let folder = TempDir::new().unwrap();
    git(folder.path(), &repo.address(), "main").fetch().unwrap();
    repo.git(&["tag", "v9.0.0", "HEAD^{tree}"]);
    let error = git(folder.path(), &repo.address(), "*").fetch().unwrap_err().to_string();
    assert!(error.starts_with("`refs/tags/v9.0.0` in ") && error.contains("points to a tree"), "{error}");
    let packs = fs::read_dir(folder.path().join("git/mirror/objects/pack")).unwrap().count();
    assert!(packs > 0, "the mirror is kept");
}

/// As a host would say it: half of the tags annotated, so that 100,000 names are advertised twice over.
#[test]
fn a_hundred_thousand_tags_are_looked_through_in_little_memory() {
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let commit = |n: u32| format!("{n:040x}");
    let mut body = line("# service=git-upload-pack\n") + "0000";
    body += &line(&format!("{} HEAD\0side-band-64k ofs-delta agent=test\n", commit(7)));
    for n in 0..100_000 {
        body += &line(&format!("{} refs/tags/v1.{}.{}\n", commit(n + 1), n / 1000, n % 1000));
        if n % 2 == 1 {
            body += &line(&format!("{} refs/tags/v1.{}.{}^{{}}\n", commit(n + 1_000_001), n / 1000, n % 1000));
        }
    }
    body += "0000";
    let kind = "Content-Type: application/x-git-upload-pack-advertisement\r\n";
    let host = Responder::start(move |_| http("200 OK", kind, &body));
    let folder = TempDir::new().unwrap();
    let mut git = git(folder.path(), &format!("http://{}/config", host.address), "^1");
    for _ in 0..3 {
        let advertised = git.advertised().unwrap();
        assert_eq!(advertised.name, "refs/tags/v1.99.999");
        assert_eq!(advertised.commit.as_str(), commit(1_100_000));
    }
    assert_eq!(host.requests.lock().unwrap().len(), 3, "a poll is one advertisement");
    #[cfg(target_os = "linux")]
    {
        let worker = git.worker_id().unwrap();
        let text = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak_kib < 100 << 10, "the worker needed {peak_kib} KiB");
    }
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
fn a_github_app_lets_us_in_with_a_token_that_its_key_asked_for() {
    let folder = TempDir::new().unwrap();
    let key_file = folder.path().join("app.pem");
    let key = openssl::rsa::Rsa::generate(2048).unwrap();
    fs::write(&key_file, key.private_key_to_pem().unwrap()).unwrap();
    let public = openssl::pkey::PKey::from_rsa(key).unwrap();
    // A stand-in for GitHub's API, which cannot be had: it believes what the App's key has signed, and nothing else.
    let api = Responder::start(move |request| {
        let bearer = request
            .lines()
            .find_map(|line| line.to_lowercase().starts_with("authorization: bearer ").then(|| &line[22..]));
        let (said, signature) = bearer.unwrap().trim().rsplit_once('.').unwrap();
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let mut verifier = openssl::sign::Verifier::new(openssl::hash::MessageDigest::sha256(), &public).unwrap();
        let good = verifier.verify_oneshot(&decode(signature), said.as_bytes()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&decode(said.split_once('.').unwrap().1)).unwrap();
        let lives_s = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        let first = request.lines().next().unwrap();
        match () {
            () if !good || claims["iss"] != "1234" || lives_s > 600 => http("401 Unauthorized", "", "{}"),
            () if first == "GET /repos/ada/config/installation HTTP/1.1" => http("200 OK", "", r#"{"id": 77}"#),
            () if first == "POST /app/installations/77/access_tokens HTTP/1.1" => {
                http("201 Created", "", r#"{"token": "ghs_secret", "expires_at": "2030-01-01T00:00:00Z"}"#)
            }
            () => http("404 Not Found", "", "{}"),
        }
    });
    // The base64 of x-access-token:ghs_secret.
    let expected = "authorization: basic eC1hY2Nlc3MtdG9rZW46Z2hzX3NlY3JldA==".to_lowercase();
    let host = Responder::start(move |request| match request.to_lowercase().contains(&expected) {
        true => http("418 I'm a teapot", "", ""),
        false => http("401 Unauthorized", "WWW-Authenticate: Basic realm=\"git\"\r\n", ""),
    });
    let app = |id: &str| {
        let api = format!("http://{}", api.address);
        Credentials {
            github_app: Some(App { id: id.to_owned(), key_file: key_file.clone(), api }),
            ..Credentials::default()
        }
    };
    let address = format!("http://{}/ada/config.git", host.address);
    let mut git = git_with(folder.path(), &address, "main", app("1234"), LONG);
    for _ in 0..2 {
        let error = git.advertised().unwrap_err().to_string();
        assert!(error.contains("418") && !error.contains("secret"), "{error}");
    }
    let asked = api.requests.lock().unwrap().len();
    assert_eq!(asked, 2, "a token is used again while it is fresh");

    let mut git = git_with(folder.path(), &address, "main", app("4321"), LONG);
    let error = git.advertised().unwrap_err().to_string();
    assert!(error.contains("answers 401 Unauthorized when asked for the App's installation"), "{error}");
    fs::write(&key_file, "no key").unwrap();
    let error = git.advertised().unwrap_err().to_string();
    assert!(error.ends_with("it is no private key in PEM"), "{error}");
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
        "in_place": false,
        "reference": "main",
        "credentials": {},
        "transfer_bytes_max": 0,
        "pace": std::time::Duration::from_secs(30),
        "pace_bytes": 1,
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

#[test]
fn packs_do_not_pile_up_and_every_commit_still_becomes_its_release() {
    let repo = Repo::serving_iris();
    let bench = Bench::following(&repo.address());
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let packs = || {
        let entries = std::fs::read_dir(bench.mirror().join("objects/pack")).unwrap().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
    };
    let mut most = 0;
    for patch in 1..=60 {
        let commit = repo.roll(&format!("1.0.{patch}"));
        assert_eq!(sidecar.reconcile(), Pass::Published, "commit {patch}");
        assert_eq!(bench.current().release.commit.id, commit);
        // What came before the fresh mirror is known to it too.
        assert_eq!(bench.current().release.changes.len(), 20.min(patch + 1));
        most = most.max(packs());
    }
    assert!(most < 60 && packs() < most, "{most} packs at most, {} at the end", packs());
    assert!(!bench.mirror().with_extension("new").exists());
}

#[test]
fn what_another_mirror_has_is_borrowed_and_not_fetched_again() {
    let repo = Repo::serving_iris();
    // Nothing that compresses: xorshift, by Marsaglia.
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let noise: Vec<u8> = (0..300_000).map(&mut next).collect();
    repo.write("noise", &noise);
    let first = repo.commit("Make noise");
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [lender, borrower, other] = folders.each_ref().map(tempfile::TempDir::path);

    // Nothing to lend yet.
    let fetched = git_borrowing(other, &repo.address(), "main", lender).fetch().unwrap();
    assert!(fetched.bytes > 100_000, "{}", fetched.bytes);
    let whole = fetched.bytes;

    git(lender, &repo.address(), "main").fetch().unwrap();
    let second = repo.roll("1.1.0");
    let before = files_below(&lender.join("git"));
    let mut borrowing = git_borrowing(borrower, &repo.address(), "main", lender);
    let fetched = borrowing.fetch().unwrap();
    assert_eq!(fetched.advertised.commit, second);
    assert!(fetched.bytes < whole / 10, "{} of {whole}", fetched.bytes);
    assert_eq!(borrowing.read(&second, "noise", 1 << 20).unwrap(), noise);
    assert_eq!(borrowing.describe(&first).unwrap().subject, "Make noise");
    assert_eq!(files_below(&lender.join("git")), before, "the lender is left alone");

    // A lender that goes away takes what it lent with it; the borrower begins anew by itself.
    fs::remove_dir_all(lender.join("git")).unwrap();
    assert!(borrowing.read(&second, "noise", 1 << 20).is_err());
    assert!(borrowing.fetch().unwrap().bytes > whole / 2);
    assert_eq!(borrowing.read(&second, "noise", 1 << 20).unwrap(), noise);
}
