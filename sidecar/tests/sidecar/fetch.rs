//! Artifacts that lie on web servers, with servers that behave in every odd way that one line of code can bring about.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

use mainstay_models::Blob;
use mainstay_sidecar::agent::Pass;

use crate::harness::{Bench, Patient, Repo, eventually, refusal, retry, serving};

/// A web server: `answer` gets a request's head in lower case and writes what it likes.
struct Web {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (requests.clone(), Arc::new(answer));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, log, answer) = (stream.unwrap(), log.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut byte) {
                            Ok(1) => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                    log.lock().unwrap().push(head.clone());
                    answer(&head, &mut stream);
                });
            }
        });
        Self { address, requests }
    }

    /// One that has `content` at every path, and knows no ranges.
    fn with(content: &'static [u8]) -> Self {
        Self::start(|_, stream| whole(stream, "", content))
    }

    fn uri(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn request(&self, index: usize) -> String {
        self.requests.lock().unwrap()[index].clone()
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// Answers; whoever asked may be gone already.
fn send(stream: &mut TcpStream, status: &str, headers: &str, length: usize, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn whole(stream: &mut TcpStream, headers: &str, content: &[u8]) {
    send(stream, "200 OK", headers, content.len(), content);
}

fn part(stream: &mut TcpStream, from: usize, content: &[u8]) {
    let (rest, total) = (&content[from..], content.len());
    let range = format!("Content-Range: bytes {from}-{}/{total}\r\nETag: \"one\"\r\n", total - 1);
    send(stream, "206 Partial Content", &range, rest.len(), rest);
}

/// Waits until the other side has closed.
fn hold(stream: &mut TcpStream) {
    while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
}

const MODEL: &[u8] = b"a forest that was grown elsewhere, and is long enough to be cut in two";
const CUT: usize = 30;

/// Commits a version of iris whose artifact lies at `uris`, and serves it.
fn serve_from(repo: &Repo, version: &str, artifact: &[u8], uris: &[String]) {
    repo.write_spec("iris", version, Blob::of(artifact));
    let path = format!("models/iris/{version}/model.yaml");
    let card = std::fs::read_to_string(repo.path().join(&path)).unwrap();
    let mirrors = match &uris[1..] {
        [] => String::new(),
        mirrors => format!("\n  mirrors: [{}]", mirrors.join(", ")),
    };
    repo.write(&path, card.replacen("file: model.onnx", &format!("uri: {}{mirrors}", uris[0]), 1));
    repo.serve("iris", version);
    repo.commit(&format!("Serve iris {version} from elsewhere"));
}

/// A repository whose artifact lies at `uris`, and a bench that may fetch it.
fn bench(webs: &[&Web]) -> (Repo, Bench) {
    let repo = Repo::new();
    let uris: Vec<_> = webs.iter().map(|web| web.uri("iris/model.onnx")).collect();
    serve_from(&repo, "1.0.0", MODEL, &uris);
    let mut bench = Bench::following(&repo.address());
    allow(&mut bench, webs);
    (repo, bench)
}

fn allow(bench: &mut Bench, webs: &[&Web]) {
    bench.settings.fetch.allowed = webs.iter().map(|web| web.uri("iris/").parse().unwrap()).collect();
}

fn partial(bench: &Bench) -> Option<Vec<u8>> {
    std::fs::read(bench.settings.store.join("partial").join(Blob::of(MODEL).sha256.to_string())).ok()
}

#[test]
fn an_artifact_on_a_web_server_is_published_and_fetched_once() {
    let web = Web::with(MODEL);
    let (repo, bench) = bench(&[&web]);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves(), ("1.0.0".to_owned(), MODEL.to_vec()));
    assert!(
        web.request(0).contains("get /iris/model.onnx http/1.1")
            && web.request(0).contains("accept-encoding: identity")
    );
    repo.commit("Say something else");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(web.count(), 1);
    let metrics = sidecar.board().metrics();
    assert!(metrics.contains(r#"mainstay_sync_downloads_total{outcome="ok",scheme="http"} 1"#), "{metrics}");
    assert!(metrics.contains(&format!(r#"mainstay_sync_downloaded_bytes_total{{scheme="http"}} {}"#, MODEL.len())));
}

#[test]
fn a_place_that_nobody_allowed_is_refused_and_not_asked() {
    let web = Web::with(MODEL);
    let (_repo, mut bench) = bench(&[&web]);
    for allowed in [vec![], vec![web.uri("iris2/").parse().unwrap()], vec!["https://127.0.0.1/".parse().unwrap()]] {
        bench.settings.fetch.allowed = allowed;
        let text = refusal(bench.open().reconcile());
        assert!(text.starts_with("models/iris/1.0.0/model.yaml:7: artifact.uri: http://127.0.0.1:"), "{text}");
        assert!(text.contains("--allow-artifacts-from"), "{text}");
    }
    assert_eq!(web.count(), 0);
}

#[test]
fn a_download_that_was_cut_off_goes_on_where_it_was_if_it_is_the_same_version_still() {
    let web = Web::start(|head, stream| match head.contains("range: bytes=30-") {
        true => part(stream, CUT, MODEL),
        false => send(stream, "200 OK", "ETag: \"one\"\r\n", MODEL.len(), &MODEL[..CUT]),
    });
    let (_repo, bench) = bench(&[&web]);
    let mut sidecar = bench.open();
    let text = retry(sidecar.reconcile());
    assert!(text.contains("cannot fetch the artifact of models/iris/1.0.0/model.yaml: http://127.0.0.1"), "{text}");
    assert_eq!(partial(&bench).unwrap(), &MODEL[..CUT]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(web.request(1).contains("if-range: \"one\""));
    assert_eq!(bench.serves().1, MODEL);
    assert_eq!(partial(&bench), None);
    let metrics = sidecar.board().metrics();
    assert!(metrics.contains(&format!(r#"downloaded_bytes_total{{scheme="http"}} {}"#, MODEL.len())), "{metrics}");
    assert!(metrics.contains("mainstay_sync_downloads_resumed_total 1"));
}

#[test]
fn a_download_goes_on_after_a_restart_of_the_sidecar() {
    let web = Web::start(|head, stream| match head.contains("range: bytes=30-") {
        true => part(stream, CUT, MODEL),
        false => send(stream, "200 OK", "", MODEL.len(), &MODEL[..CUT]),
    });
    let (_repo, bench) = bench(&[&web]);
    retry(bench.open().reconcile());
    assert_eq!(bench.open().reconcile(), Pass::Published);
    assert_eq!((bench.serves().1.as_slice(), web.count()), (MODEL, 2));
}

#[test]
fn what_comes_whole_instead_of_in_part_is_taken_from_its_beginning() {
    // Another version lies there, or the server knows no ranges, or what lies there has become shorter and then longer.
    type Answer = fn(&mut TcpStream);
    let answers: [(&str, Answer); 2] = [
        ("whole", |stream| whole(stream, "ETag: \"two\"\r\n", MODEL)),
        ("416", |stream| send(stream, "416 Range Not Satisfiable", "", 0, b"")),
    ];
    for (name, answer) in answers {
        let cut = Mutex::new(false);
        let web = Web::start(move |head, stream| {
            let first = !std::mem::replace(&mut *cut.lock().unwrap(), true);
            if first {
                send(stream, "200 OK", "ETag: \"one\"\r\n", MODEL.len(), b"some other bytes entirely");
            } else if head.contains("range: bytes=") {
                answer(stream);
            } else {
                whole(stream, "", MODEL);
            }
        });
        let (_repo, bench) = bench(&[&web]);
        let mut sidecar = bench.open();
        retry(sidecar.reconcile());
        assert_eq!(sidecar.reconcile(), Pass::Published, "{name}");
        assert_eq!(bench.serves().1, MODEL, "{name}");
    }
}

#[test]
fn a_part_that_does_not_go_with_what_was_there_is_fetched_whole_at_once() {
    let cut = Mutex::new(false);
    let web = Web::start(move |head, stream| {
        let first = !std::mem::replace(&mut *cut.lock().unwrap(), true);
        match (first, head.contains("range: bytes=30-")) {
            (true, _) => send(stream, "200 OK", "", MODEL.len(), &[b'x'; CUT]),
            (false, true) => part(stream, CUT, MODEL),
            (false, false) => whole(stream, "", MODEL),
        }
    });
    let (_repo, bench) = bench(&[&web]);
    let mut sidecar = bench.open();
    retry(sidecar.reconcile());
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!((bench.serves().1.as_slice(), web.count()), (MODEL, 3));
}

#[test]
fn mirrors_are_asked_in_their_order_until_one_has_the_bytes() {
    let gone = Web::start(|_, stream| send(stream, "404 Not Found", "", 0, b""));
    let wrong = Web::with(b"as long as the model, but it is another one: its bytes are different..");
    let good = Web::with(MODEL);
    let never = Web::with(MODEL);
    let (_repo, bench) = bench(&[&gone, &wrong, &good, &never]);
    assert_eq!(bench.open().reconcile(), Pass::Published);
    assert_eq!(bench.serves().1, MODEL);
    assert_eq!([&gone, &wrong, &good, &never].map(Web::count), [1, 1, 1, 0]);
}

#[test]
fn bytes_that_are_wrong_everywhere_refuse_the_card_and_nothing_is_kept() {
    let wrong = Web::with(b"as long as the model, but it is another one: its bytes are different..");
    let long = Web::with(b"much longer than the model is, so that not even its length is what the card promises");
    let endless = Web::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b'x'; 1024]).is_ok() {}
    });
    let (_repo, bench) = bench(&[&wrong, &long, &endless]);
    let text = refusal(bench.open().reconcile());
    assert!(text.starts_with("models/iris/1.0.0/model.yaml:8: artifact.sha256: http://"), "{text}");
    for problem in ["has 70 bytes with sha256", "has 84 bytes", "has more than 70 bytes"] {
        assert!(text.contains(problem), "{problem}: {text}");
    }
    assert_eq!(partial(&bench), None);
}

#[test]
fn what_is_nowhere_right_now_is_tried_again_and_every_place_is_named() {
    let gone = Web::start(|_, stream| send(stream, "404 Not Found", "", 0, b""));
    let closed = Web::start(|_, stream| send(stream, "403 Forbidden", "", 0, b"secret words"));
    let (_repo, bench) = bench(&[&gone, &closed]);
    let text = retry(bench.open().reconcile());
    assert!(text.contains(&format!("{}: answers 404 Not Found", gone.uri("iris/model.onnx"))), "{text}");
    assert!(text.contains(&format!("{}: answers 403 Forbidden", closed.uri("iris/model.onnx"))), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_server_that_sends_too_little_in_a_time_is_left() {
    let dripping = Web::start(|_, stream| {
        send(stream, "200 OK", "", MODEL.len(), &MODEL[..CUT]);
        hold(stream);
    });
    let (_repo, mut bench) = bench(&[&dripping]);
    bench.settings.fetch.pace = Duration::from_millis(200);
    bench.settings.fetch.pace_bytes = 1000;
    let text = retry(bench.open().reconcile());
    assert!(text.contains("gave less than 1000 bytes in 0.2 s"), "{text}");
    assert_eq!(partial(&bench).unwrap(), &MODEL[..CUT], "what has come is kept");
    bench.settings.fetch.pace = Duration::from_secs(60);
    bench.settings.fetch.deadline = Duration::from_millis(200);
    let text = retry(bench.open().reconcile());
    assert!(text.contains("took longer than"), "{text}");
}

#[test]
fn a_redirect_leads_only_where_it_may() {
    let good = Web::with(MODEL);
    let to = good.uri("iris/elsewhere");
    let redirecting = |to: String| {
        Web::start(move |_, stream| send(stream, "302 Found", &format!("Location: {to}?signature=hush\r\n"), 0, b""))
    };
    let web = redirecting(to);
    let (_repo, mut bench) = bench(&[&web]);
    let text = retry(bench.open().reconcile());
    assert!(text.contains("redirects to http://127.0.0.1, where it may not be followed"), "{text}");
    assert!(!text.contains("hush") && good.count() == 0, "{text}");
    allow(&mut bench, &[&web, &good]);
    assert_eq!(bench.open().reconcile(), Pass::Published);
    assert!(good.request(0).contains("get /iris/elsewhere?signature=hush http/1.1"));

    for (to, problem) in [
        ("https://169.254.169.254/latest", "redirects to https://169.254.169.254, where it may not be followed"),
        ("file:///etc/passwd", "redirects to file://, where it may not be followed"),
    ] {
        let web = redirecting(to.to_owned());
        let (_repo, bench) = self::bench(&[&web]);
        let text = retry(bench.open().reconcile());
        assert!(text.contains(problem), "{text}");
    }
    let circle = Web::start(|_, stream| send(stream, "302 Found", "Location: /iris/again\r\n", 0, b""));
    let (_repo, bench) = self::bench(&[&circle]);
    assert!(retry(bench.open().reconcile()).contains("redirects more than 4 times"));
    assert_eq!(circle.count(), 5);
}

#[test]
fn several_artifacts_are_fetched_at_once() {
    // Each answer waits for the other request.
    let both = Barrier::new(2);
    let web = Web::start(move |head, stream| {
        both.wait();
        whole(stream, "", if head.contains("/iris/a ") { b"model a" } else { b"model b" });
    });
    let repo = Repo::new();
    serve_from(&repo, "1.0.0", b"model a", &[web.uri("iris/a")]);
    serve_from(&repo, "1.1.0", b"model b", &[web.uri("iris/b")]);
    repo.write("environments/prod/serving.yaml", serving("iris", "1.0.0") + "    preview: [1.1.0]\n");
    repo.commit("Serve both");
    let mut bench = Bench::following(&repo.address());
    allow(&mut bench, &[&web]);
    assert_eq!(bench.open().reconcile(), Pass::Published);
}

#[test]
fn versions_that_share_a_model_fetch_it_once() {
    let web = Web::with(MODEL);
    let repo = Repo::new();
    serve_from(&repo, "1.0.0", MODEL, &[web.uri("iris/a")]);
    serve_from(&repo, "1.1.0", MODEL, &[web.uri("iris/b")]);
    repo.write("environments/prod/serving.yaml", serving("iris", "1.0.0") + "    preview: [1.1.0]\n");
    repo.commit("Serve both");
    let mut bench = Bench::following(&repo.address());
    allow(&mut bench, &[&web]);
    assert_eq!(bench.open().reconcile(), Pass::Published);
    assert_eq!(web.count(), 1);
}

#[test]
fn the_end_does_not_wait_for_a_download() {
    let (sender, asked) = mpsc::channel();
    let web = Web::start(move |_, stream| {
        send(stream, "200 OK", "", MODEL.len(), &MODEL[..CUT]);
        sender.send(()).unwrap();
        hold(stream);
    });
    let (_repo, bench) = bench(&[&web]);
    let sidecar = bench.open();
    let running = std::thread::spawn(move || sidecar.run());
    asked.recv().unwrap();
    eventually("the first bytes", || partial(&bench).filter(|bytes| bytes == &MODEL[..CUT]));
    bench.control.stop();
    running.join().unwrap();
    assert_eq!(partial(&bench).unwrap(), &MODEL[..CUT]);
}

#[test]
fn a_newer_commit_does_not_wait_for_a_stuck_download() {
    let (sender, asked) = mpsc::channel();
    let web = Web::start(move |_, stream| {
        send(stream, "200 OK", "", MODEL.len(), &MODEL[..CUT]);
        let _ = sender.send(());
        hold(stream);
    });
    let repo = Repo::serving_iris();
    let patient = Patient::following(&repo.address(), |bench| allow(bench, &[&web]));
    patient.serves("1.0.0");
    serve_from(&repo, "1.1.0", MODEL, &[web.uri("iris/model.onnx")]);
    patient.bench.control.trigger();
    asked.recv().unwrap();
    repo.roll("1.2.0");
    patient.bench.control.trigger();
    patient.serves("1.2.0");
    assert_eq!(partial(&patient.bench), None, "what nobody wants any more is thrown away");
}

#[test]
fn a_lost_blob_is_fetched_again_from_where_it_came() {
    let web = Web::with(MODEL);
    let (_repo, bench) = bench(&[&web]);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let blob = bench.settings.store.join("blobs/sha256").join(Blob::of(MODEL).sha256.to_string());
    std::fs::remove_file(&blob).unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert_eq!(std::fs::read(&blob).unwrap(), MODEL);
    assert_eq!(web.count(), 2);
}
