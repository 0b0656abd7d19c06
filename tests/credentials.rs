//! No credential is ever in a log, an error, or what a redirect leads to: each kind is used against a host that leads the
//! sidecar away or turns it down, with everything logged that the program and its libraries have to say.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should stop")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

/// Answers each request with what `answer` makes of its head, and remembers the heads. Ends with the test's process.
struct Host {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Host {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let seen = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let head = head_of(&stream);
                let answer = answer(&head);
                seen.lock().unwrap().push(head);
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn port(&self) -> u16 {
        self.address.port()
    }
}

fn head_of(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(length) if length > 0 => bytes.extend_from_slice(&piece[..length]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// What one pass of a sidecar that logs everything has to say, all of it.
fn sync(folder: &Path, repo: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let store = folder.join("store");
    let output = Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .args(["--log", "trace", "sync", "--once", "--env", "prod", "--repo", repo, "--store"])
        .arg(&store)
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(!output.status.success(), "it was turned down");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// `secret` is not in `text`, in no form in which it travels.
fn hides(text: &str, secret: &str) {
    let basic = STANDARD.encode(format!("x-access-token:{secret}"));
    for form in [secret.to_owned(), STANDARD.encode(secret), basic] {
        assert!(!text.contains(&form), "{form} is in\n{text}");
    }
}

fn file(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A host that asks for a password, and leads away whoever gives one; and the host that it leads to.
fn leading_away() -> (Host, Host) {
    let elsewhere = Host::start(|_| http("200 OK", "", ""));
    let port = elsewhere.port();
    let host = Host::start(move |head| {
        if !head.to_lowercase().contains("authorization: basic ") {
            return http("401 Unauthorized", "WWW-Authenticate: Basic realm=\"git\"\r\n", "");
        }
        let location = format!("Location: http://localhost:{port}/config.git/info/refs?service=git-upload-pack\r\n");
        http("302 Found", &location, "")
    });
    (host, elsewhere)
}

#[test]
fn a_token_for_git_is_neither_told_nor_led_away() {
    let folder = TempDir::new().unwrap();
    let (host, elsewhere) = leading_away();
    let token = file(folder.path(), "token", "t0ken-of-the-file\n");
    let repo = format!("http://{}/ada/config.git", host.address);
    let said = sync(folder.path(), &repo, &["--token-file", token.to_str().unwrap()], &[]);
    assert!(said.contains("redirect"), "{said}");
    hides(&said, "t0ken-of-the-file");
    // It was given where it belongs, and nowhere else.
    assert!(host.heads().iter().any(|head| head.contains(&STANDARD.encode("x-access-token:t0ken-of-the-file"))));
    assert!(elsewhere.heads().is_empty(), "{:?}", elsewhere.heads());

    // What is no token is not told either.
    let token = file(folder.path(), "token", "t0ken-of-the-file and-an0ther\n");
    let said = sync(folder.path(), &repo, &["--token-file", token.to_str().unwrap()], &[]);
    assert!(said.contains("does not hold one token"), "{said}");
    hides(&said, "t0ken-of-the-file");
    hides(&said, "and-an0ther");
}

#[test]
fn a_github_apps_key_and_token_are_neither_told_nor_led_away() {
    let folder = TempDir::new().unwrap();
    let (host, elsewhere) = leading_away();
    let key = openssl::rsa::Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
    let key = String::from_utf8(key).unwrap();
    let key_file = file(folder.path(), "app.pem", &key);
    let repo = format!("http://{}/ada/config.git", host.address);
    let ask = |api: &Host| {
        let (key_file, api) = (key_file.to_str().unwrap(), format!("http://{}", api.address));
        let said = sync(
            folder.path(),
            &repo,
            &["--github-app-id", "1234", "--github-app-key-file", key_file, "--github-api", &api],
            &[],
        );
        for line in key.lines().filter(|line| !line.starts_with('-')) {
            hides(&said, line);
        }
        said
    };
    let api = Host::start(|head| match head.starts_with("POST ") {
        true => http("201 Created", "", r#"{"token": "ghs_t0ken-of-the-app"}"#),
        false => http("200 OK", "", r#"{"id": 77}"#),
    });
    let said = ask(&api);
    assert!(said.contains("redirect"), "{said}");
    hides(&said, "ghs_t0ken-of-the-app");
    let statement = |head: &String| Some(head.lines().find_map(|line| line.split_once("Bearer "))?.1.trim().to_owned());
    let statements: Vec<_> = api.heads().iter().filter_map(statement).collect();
    assert_eq!(statements.len(), 2, "{:?}", api.heads());
    for statement in statements {
        hides(&said, &statement);
    }
    assert!(elsewhere.heads().is_empty());

    // An API that leads away, and one that is no API.
    let port = elsewhere.port();
    let away = Host::start(move |_| http("302 Found", &format!("Location: http://localhost:{port}/\r\n"), ""));
    ask(&away);
    let odd = Host::start(|_| http("201 Created", "", r#"{"id": 77, "token": "ghs t0ken-with-a-gap"}"#));
    hides(&ask(&odd), "t0ken-with-a-gap");
    assert!(elsewhere.heads().is_empty());
}

#[test]
fn a_key_for_ssh_is_not_told() {
    let folder = TempDir::new().unwrap();
    let key =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nbm90LWEta2V5LWJ1dC1hLXNlY3JldA==\n-----END OPENSSH PRIVATE KEY-----\n";
    let key = file(folder.path(), "key", key);
    let known = file(folder.path(), "known_hosts", "");
    let host = Host::start(|_| "SSH-2.0-nobody\r\n".to_owned());
    let arguments = ["--ssh-key-file", key.to_str().unwrap(), "--known-hosts-file", known.to_str().unwrap()];
    let said = sync(folder.path(), &format!("ssh://git@{}/config.git", host.address), &arguments, &[]);
    hides(&said, "bm90LWEta2V5LWJ1dC1hLXNlY3JldA==");
    assert!(said.contains("cannot reach"), "{said}");
}

#[test]
fn a_proxys_password_is_not_told() {
    let folder = TempDir::new().unwrap();
    let proxy = Host::start(|_| http("407 Proxy Authentication Required", "Proxy-Authenticate: Basic\r\n", ""));
    for address in [format!("http://ada:pr0xy-password@{}", proxy.address), "http://ada:pr0xy-password@:no/".to_owned()]
    {
        let said = sync(folder.path(), "https://git.example/ada/config.git", &[], &[("HTTPS_PROXY", &address)]);
        hides(&said, "pr0xy-password");
        hides(&said, "ada:pr0xy-password");
        assert!(said.contains("cannot reach"), "{said}");
    }
    assert!(!proxy.heads().is_empty(), "the proxy was asked");
}

#[test]
fn a_clouds_secret_and_a_registrys_password_are_neither_told_nor_led_away() {
    let folder = TempDir::new().unwrap();
    let elsewhere = Host::start(|_| http("200 OK", "", ""));
    let port = elsewhere.port();
    let away = Host::start(move |_| {
        http("307 Temporary Redirect", &format!("Location: http://localhost:{port}/models/model.onnx\r\n"), "")
    });
    let config =
        format!(r#"{{"auths": {{"registry.invalid": {{"auth": "{}"}}}}}}"#, STANDARD.encode("ada:registry-passw0rd"));
    let config = file(folder.path(), "config.json", &config);
    let token = file(folder.path(), "artifact-token", "t0ken-of-the-artifacts");
    for (uri, allowed) in [
        ("s3://models/iris/model.onnx", "s3://models/"),
        ("oci://registry.invalid/models/iris:1", "oci://registry.invalid/"),
        ("https://files.invalid/iris/model.onnx", "https://files.invalid/"),
    ] {
        let repo = repository(&folder.path().join(&uri[..2]), uri);
        let token = format!("files.invalid={}", token.display());
        let arguments = [
            "--allow-artifacts-from",
            allowed,
            "--registry-config",
            config.to_str().unwrap(),
            "--artifact-token-file",
            &token,
            "--download-timeout",
            "5s",
        ];
        let endpoint = format!("http://{}", away.address);
        let variables = [
            ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "s3cret-of-the-cloud"),
            ("AWS_SESSION_TOKEN", "sessi0n-of-the-cloud"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        let said = sync(folder.path(), &repo, &arguments, &variables);
        assert!(said.contains("cannot fetch the artifact"), "{said}");
        for secret in [
            "s3cret-of-the-cloud",
            "sessi0n-of-the-cloud",
            "registry-passw0rd",
            "ada:registry-passw0rd",
            "t0ken-of-the-artifacts",
        ] {
            hides(&said, secret);
        }
    }
    assert!(!away.heads().is_empty(), "the store of objects was asked");
    for head in elsewhere.heads() {
        hides(&head, "sessi0n-of-the-cloud");
        assert!(!head.to_lowercase().contains("authorization"), "{head}");
    }
}

/// A repository whose one model lies at `uri`.
fn repository(folder: &Path, uri: &str) -> String {
    let model = mainstay_models::embedded::MODELS.iter().find(|model| model.name == "iris").unwrap();
    let card = std::str::from_utf8(model.spec).unwrap().replacen("file: model.onnx", &format!("uri: {uri}"), 1);
    let serving = format!("apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n    stable: {}\n", model.version);
    for (path, text) in [
        (format!("models/iris/{}/model.yaml", model.version), card),
        ("environments/prod/serving.yaml".into(), serving),
    ] {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    for arguments in
        [&["init", "--quiet", "--initial-branch=main"][..], &["add", "--all"], &["commit", "--quiet", "-m", "Serve"]]
    {
        let git = Command::new("git")
            .current_dir(folder)
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .status();
        assert!(git.unwrap().success());
    }
    format!("file://{}", folder.display())
}
