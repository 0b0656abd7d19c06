//! How the programs start, refuse to start, live without their neighbours, and end.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use mainstay_models::Reader;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{Connection, Load, SETOSA, Server, Sidecar, World, eventually, mainstay, run};

#[test]
fn sigterm_lets_the_request_at_hand_finish_and_turns_new_ones_away() {
    // Longer than anybody waits here: what ends it is the request's end.
    let mut server = Server::start(&["--drain-timeout-s", "600"]);
    let mut idle = Connection::open(server.listen);
    assert_eq!(idle.ask("POST", "/predict", "", SETOSA).unwrap().status, 200);
    let (mut connection, withheld) = server.half_asked();

    server.program.signal(Signal::TERM);
    let ready = eventually("readiness fails", || Some(server.probe("/ready")).filter(|answer| answer.status == 503));
    assert_eq!(ready.body, "draining\n");
    eventually("connections are refused", || TcpStream::connect(server.listen).err());
    assert!(idle.closed(), "a connection without a request is closed at once");
    assert_eq!(server.probe("/live").status, 200);
    assert_eq!(server.metric("mainstay_requests_in_flight"), Some(1.0));

    connection.send(withheld).unwrap();
    let answer = connection.answer().unwrap();
    assert_eq!(answer.ok()["prediction"], json!([0]));
    assert!(connection.closed());
    assert_eq!(server.program.ended(), 0);
}

/// Orchestrators stop what they have just started. A server that says that it listens must not die of the signal.
#[test]
fn a_sigterm_right_after_the_start_is_a_clean_end() {
    // Many at once, so that between listening and the signal the processors have something else to do.
    let start = |_| {
        std::thread::spawn(|| {
            let mut command = mainstay(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            let mut log = BufReader::new(child.stderr.take().unwrap());
            log.read_line(&mut String::new()).unwrap();
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            // It ends, by one way or another, within its drain's ten seconds.
            child.wait().unwrap()
        })
    };
    for _ in 0..5 {
        let servers: Vec<_> = (0..8).map(start).collect();
        for server in servers {
            let status = server.join().unwrap();
            assert!(status.success(), "{status}");
        }
    }
}

#[test]
fn a_request_that_never_comes_does_not_hold_the_end_up() {
    // The request alone would keep it for longer than anybody waits here.
    let mut server = Server::start(&["--drain-timeout-s", "0.3", "--request-timeout-s", "600"]);
    let (_connection, _) = server.half_asked();
    server.program.signal(Signal::TERM);
    assert_eq!(server.program.ended(), 0);
}

#[test]
fn a_taken_port_is_told_with_the_flag_that_moves_it() {
    let world = World::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let demo = world.folder.path().join("demo");
    let demo = demo.to_str().unwrap();
    for (arguments, flag) in [
        (vec!["serve", "--listen", &taken, "--admin", "127.0.0.1:0"], "--listen"),
        (vec!["serve", "--listen", "127.0.0.1:0", "--admin", &taken], "--admin"),
        (vec!["demo", "--dir", demo, "--listen", &taken, "--admin", "127.0.0.1:0"], "--listen"),
        (vec!["demo", "--dir", demo, "--listen", "127.0.0.1:0", "--admin", &taken], "--admin"),
    ] {
        let (code, _, stderr) = run(mainstay(&arguments));
        let last = stderr.lines().last().unwrap();
        assert!(code == 1 && last.starts_with("error: "), "{arguments:?}: {code}: {stderr}");
        assert!(last.contains(&taken) && last.contains(flag), "{last}");
    }
    let sync = [&["sync", "--admin", &taken], &world.sync_arguments()[..]].concat();
    let (code, _, stderr) = run(mainstay(&sync));
    assert!(code == 2 && stderr.contains(&taken) && stderr.contains("--admin"), "{code}: {stderr}");
}

#[test]
fn a_misspelt_setting_is_an_error_that_names_it() {
    let world = World::new();
    let file = world.folder.path().join("serve.toml");
    let file = file.to_str().unwrap();
    let refused = |file_text: &str, arguments: &[&str], variables: &[(&str, &str)], named: &str| {
        std::fs::write(file, file_text).unwrap();
        let mut command = mainstay(&[&["serve", "--config", file], arguments].concat());
        command.envs(variables.iter().copied());
        let (code, stdout, stderr) = run(command);
        assert!(code == 64 && stderr.contains(named) && stdout.is_empty(), "{named}: {code}: {stderr}");
    };
    refused("rows_maxx = 100", &[], &[], "rows_maxx");
    refused("", &[], &[("MAINSTAY_ROWS_MAXX", "100")], "MAINSTAY_ROWS_MAXX");
    refused("", &["--rows-maxx", "100"], &[], "--rows-maxx");
    refused("rows_max = 'many'", &[], &[], "rows_max");
    refused("", &[], &[("MAINSTAY_ROWS_MAX", "many")], "rows_max");
    refused("", &["--rows-max", "0"], &[], "rows_max");
    refused("rows_max =", &[], &[], "serve.toml");
    std::fs::remove_file(file).unwrap();
    let (code, _, stderr) = run(mainstay(&["serve", "--config", file]));
    assert!(code == 64 && stderr.contains("serve.toml"), "{code}: {stderr}");
}

#[test]
fn a_log_filter_that_is_none_is_told_with_its_flag() {
    let (code, _, stderr) = run(mainstay(&["serve", "--log", "a=b=c"]));
    assert!(code == 64 && stderr.contains("--log"), "{code}: {stderr}");
}

#[test]
fn print_config_shows_each_value_and_where_it_comes_from() {
    let world = World::new();
    let file = world.folder.path().join("serve.toml");
    std::fs::write(&file, "rows_max = 1\nqueue_max = 2\nthreads = 3\n").unwrap();
    let mut command = mainstay(&["serve", "--print-config", "--config", file.to_str().unwrap(), "--threads", "5"]);
    command.env("MAINSTAY_QUEUE_MAX", "4").env("MAINSTAY_THREADS", "4").env("MAINSTAY_LOG", "info");
    let (code, stdout, stderr) = run(command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let from_file = stdout.lines().find(|line| line.starts_with("rows_max = \"1\"  # "));
    assert!(from_file.is_some_and(|line| line.ends_with("serve.toml")), "{stdout}");
    for line in [
        "queue_max = \"4\"  # environment MAINSTAY_QUEUE_MAX",
        "threads = \"5\"  # flag --threads",
        "admin = \"127.0.0.1:9090\"  # default",
    ] {
        assert!(stdout.lines().any(|shown| shown == line), "{line} is not in:\n{stdout}");
    }
    assert_eq!(stdout.lines().count(), mainstay_server::settings::KEYS.len(), "every setting is there once");
}

#[test]
fn sync_once_tells_scripts_how_it_went() {
    let world = World::new();
    let once = |more: &[&str]| run(mainstay(&[&["sync", "--once"], &world.sync_arguments()[..], more].concat()));
    let (code, _, log) = once(&[]);
    assert_eq!(code, 0, "{log}");
    let published = || Reader::new(&world.store).current().unwrap().unwrap();
    let good = published();
    assert_eq!(good.release.commit.id, world.repository.head());
    assert_eq!((once(&[]).0, published()), (0, good.clone()), "nothing is to be done again");

    world.repository.roll_iris("9.9.9");
    let (code, _, log) = once(&[]);
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("environments/prod/serving.yaml:5") && log.contains("models.iris.stable"), "{log}");
    let (code, _, log) = once(&["--ref", "nowhere"]);
    assert!(code == 2 && log.contains("nowhere"), "{code}: {log}");
    std::fs::rename(&world.repository.bare, world.folder.path().join("moved.git")).unwrap();
    let (code, _, log) = once(&[]);
    assert_eq!(code, 2, "{log}");
    assert_eq!(published(), good, "what was published stays");

    for wrong in [["--interval", "soon"], ["--env", "a/b"], ["--server", "localhost"], ["--onec", ""]] {
        let right = world.sync_arguments();
        let right = if wrong[0] == "--env" { &right[..4] } else { &right };
        let (code, _, log) = run(mainstay(&[&["sync", "--once"], right, &wrong].concat()));
        assert!(code == 64 && log.contains(wrong[0]), "{wrong:?}: {code}: {log}");
    }
    assert_eq!(run(mainstay(&["sync", "--once"])).0, 64);
}

#[test]
fn the_server_answers_on_while_the_remote_is_gone_and_the_sidecar_says_so() {
    let world = World::new();
    let (server, sidecar) = world.rolling();
    let first = world.repository.head();
    let clients = Load::start(server.listen, 1, "/predict", SETOSA, Duration::from_millis(2));
    let away = world.folder.path().join("away.git");

    std::fs::rename(&world.repository.bare, &away).unwrap();
    let gone = sidecar.until("that it cannot look, and that what is published is well", |status| {
        status["problem"]["kind"] == "retry" && status["health"] == "Healthy"
    });
    assert_eq!(gone["sync"], json!("Unknown"));
    let bare = world.repository.bare.display();
    assert_eq!(gone["problem"]["text"], json!(format!("cannot reach {bare}: there is no such folder")));
    assert_eq!(sidecar.probe("/ready").status, 200, "what was published stays published");
    std::fs::rename(&away, &world.repository.bare).unwrap();
    sidecar.until("that it can look again", |status| status["problem"].is_null() && status["sync"] == "Synced");
    let rolled = world.repository.roll_iris("1.1.0");
    server.until_live(&rolled);

    let seen = clients.stop();
    let commits: Vec<_> = seen[0].iter().map(|request| request.prediction.commit.as_str()).collect();
    assert!(commits.iter().all(|commit| [first.as_str(), rolled.as_str()].contains(commit)));
}

#[test]
fn each_program_restarts_alone_and_finds_everything_in_the_store() {
    let world = World::new();
    let (server, sidecar) = world.rolling();
    let rolled = world.repository.roll_iris("1.1.0");
    server.until_live(&rolled);
    let before = (server.get("/info").ok(), listing(&world.store));
    drop(sidecar);
    drop(server);
    let away = world.folder.path().join("away.git");
    std::fs::rename(&world.repository.bare, &away).unwrap();

    let server = world.server(&[]);
    server.until_live(&rolled);
    assert_eq!(server.post("/predict", SETOSA).ok()["version"], json!("1.1.0"));
    assert_eq!(server.get("/info").ok(), before.0, "without git and without the sidecar");

    let sidecar = world.sidecar(&server);
    sidecar.until("that it cannot look", |status| status["problem"]["kind"] == "retry");
    assert_eq!((sidecar.probe("/live").status, sidecar.probe("/ready").status), (200, 200));
    std::fs::rename(&away, &world.repository.bare).unwrap();
    sidecar.until("Synced", |status| status["sync"] == "Synced" && status["health"] == "Healthy");
    assert_eq!(listing(&world.store), before.1, "nothing new was published");
    assert_eq!(server.get("/info").ok(), before.0);
}

/// The releases of a store, and the live one.
fn listing(store: &Path) -> Vec<String> {
    let releases = std::fs::read_dir(store.join("releases")).unwrap();
    let mut names: Vec<_> = releases.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.push(std::fs::read_link(store.join("current")).unwrap().display().to_string());
    names
}

#[test]
fn a_store_has_one_publisher_and_the_next_one_waits() {
    let world = World::new();
    let (_server, first) = world.rolling();
    let (code, _, stderr) = run(mainstay(&[&["sync", "--once"], &world.sync_arguments()[..]].concat()));
    assert!(code == 2 && stderr.contains("another program publishes"), "{code}: {stderr}");

    let second = Sidecar::start(&world.sync_arguments());
    let status = second.until("the second waits", |status| status["problem"]["kind"] == "retry");
    assert!(status["problem"]["text"].as_str().unwrap().contains("another publisher holds the store"), "{status}");
    assert_eq!(second.probe("/ready").status, 200);
    drop(first);
    second.until("the second has taken over", |status| status["sync"] == "Synced");
}

#[test]
fn a_sidecar_without_a_server_publishes_and_is_ready() {
    let world = World::new();
    let mut sidecar = Sidecar::start(&world.sync_arguments());
    let status = sidecar.until("Synced", |status| status["sync"] == "Synced");
    assert_eq!((&status["health"], sidecar.probe("/ready").status), (&json!("Healthy"), 200));
    sidecar.program.signal(Signal::TERM);
    assert_eq!(sidecar.program.ended(), 0);
}

#[test]
fn a_probe_says_by_its_exit_code_whether_a_program_is_ready() {
    let mut server = Server::start(&[]);
    let url = server.admin_url();
    assert_eq!(run(mainstay(&["probe", "--admin", &url])).0, 0);
    assert_eq!(run(mainstay(&["probe", "live", "--admin", &url])).0, 0);

    let (mut connection, withheld) = server.half_asked();
    server.program.signal(Signal::TERM);
    eventually("readiness fails", || Some(server.probe("/ready")).filter(|answer| answer.status == 503));
    let (code, _, words) = run(mainstay(&["probe", "--admin", &url]));
    assert_eq!((code, words), (1, format!("error: {url}/ready says no: draining")));
    assert_eq!(run(mainstay(&["probe", "live", "--admin", &url])).0, 0);

    connection.send(withheld).unwrap();
    connection.answer().unwrap();
    assert_eq!(server.program.ended(), 0);
    let (code, _, words) = run(mainstay(&["probe", "--admin", &url]));
    assert!(code == 1 && words.contains("cannot ask"), "{code} {words}");
    assert_eq!(run(mainstay(&["probe", "--admin", "https://127.0.0.1"])).0, 64);
}
