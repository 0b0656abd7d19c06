//! Git's own servers: its HTTP backend behind nginx with TLS and passwords, and OpenSSH.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mainstay_sidecar::agent::Pass;

use crate::bench::{Bench, Repo, eventually, retry};
use crate::harness::{Peer, nginx};
use crate::web::{make_certificates, trusting};

/// The program that runs git's HTTP backend for nginx. It ends with this.
pub struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nginx with repositories at `/git/`, for those who know the password, which `let_in` writes.
pub fn https() -> (Peer, Gateway) {
    https_with(|_, _| String::new())
}

/// The same, which also does what `locations` makes of its port and folder.
pub fn https_with(locations: impl FnOnce(u16, &Path) -> String) -> (Peer, Gateway) {
    let backend = output(Command::new("git").arg("--exec-path")) + "/git-http-backend";
    let mut gateway = None;
    let peer = Peer::start(|port, folder| {
        make_certificates(folder);
        fs::create_dir(folder.join("git")).unwrap();
        let at = folder.display();
        let mut command = Command::new("/usr/sbin/fcgiwrap");
        command.arg("-s").arg(format!("unix:{at}/gateway")).stdin(Stdio::null()).stderr(Stdio::null());
        gateway = Some(Gateway(command.spawn().unwrap()));
        eventually("the gateway listens", || folder.join("gateway").exists().then_some(()));
        let_in(folder, "first");
        let locations = locations(port, folder);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
            .concat();
        nginx(
            folder,
            &format!(
                r#"daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}}
                http {{ {temporary} log_format who '$host $uri "$http_authorization"'; access_log {at}/access who;
                server {{
                    listen 127.0.0.1:{port} ssl; listen 127.0.0.2:{port} ssl;
                    ssl_certificate {at}/host.pem; ssl_certificate_key {at}/host.key;
                    location /git/ {{
                        auth_basic git; auth_basic_user_file {at}/passwords;
                        fastcgi_pass unix:{at}/gateway;
                        fastcgi_param SCRIPT_FILENAME {backend};
                        fastcgi_param GIT_PROJECT_ROOT {at};
                        fastcgi_param GIT_HTTP_EXPORT_ALL 1;
                        fastcgi_param PATH_INFO $uri;
                        fastcgi_param QUERY_STRING $query_string;
                        fastcgi_param REQUEST_METHOD $request_method;
                        fastcgi_param CONTENT_TYPE $content_type;
                        fastcgi_param CONTENT_LENGTH $content_length;
                        fastcgi_param REMOTE_USER $remote_user;
                    }}
                    location /moved/ {{ auth_basic git; auth_basic_user_file {at}/passwords; try_files /none @away; }}
                    location @away {{ return 302 https://localhost:{port}/git$uri?$query_string; }}
                    location /portal/ {{ default_type text/html; return 200 "<html>Please accept our terms</html>"; }}
                    location /busy/ {{ return 503; }}
                    {locations}
                }} }}"#
            ),
        )
    });
    (peer, gateway.unwrap())
}

/// Makes `password` the one that nginx takes from now on.
fn let_in(folder: &Path, password: &str) {
    let hashed = output(Command::new("openssl").args(["passwd", "-apr1", password]));
    fs::write(folder.join("passwords"), format!("x-access-token:{hashed}\n")).unwrap();
}

pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A bare copy of `repo` in `folder`, which `push` brings up to date.
pub fn serve(repo: &Repo, folder: &Path) -> PathBuf {
    let bare = folder.join("config.git");
    repo.git(&["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
    repo.git(&["remote", "add", "origin", bare.to_str().unwrap()]);
    bare
}

fn push(repo: &Repo) {
    repo.git(&["push", "--quiet", "--force", "origin", "main"]);
}

/// In a process that trusts the server's authority: the server's port and folder.
fn trusted_https(test: &str) -> Option<(u16, PathBuf)> {
    let mut gateway = None;
    let found = trusting(test, || {
        let (peer, own) = https();
        gateway = Some(own);
        peer
    })?;
    let (address, folder) = found.split_once(' ').unwrap();
    Some((address.rsplit_once(':').unwrap().1.parse().unwrap(), folder.into()))
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_repository_is_followed_over_https_while_its_password_rotates() {
    let Some((port, folder)) = trusted_https("git::a_repository_is_followed_over_https_while_its_password_rotates")
    else {
        return;
    };
    let repo = Repo::serving_iris();
    let bare = serve(&repo, &folder.join("git"));
    let mut bench = Bench::following(&format!("https://127.0.0.1:{port}/git/config.git"));
    let token = folder.join("token");
    fs::write(&token, "first\n").unwrap();
    bench.settings.credentials.token_file = Some(token.clone());
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);

    let_in(&folder, "second");
    repo.roll("1.1.0");
    push(&repo);
    let text = retry(sidecar.reconcile());
    assert!(text.contains("the credentials were not accepted") && !text.contains("first"), "{text}");
    assert_eq!(bench.serves().0, "1.0.0");

    fs::write(&token, "second\n").unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves().0, "1.1.0");

    // Somebody moves the branch back: nothing goes with it.
    repo.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    push(&repo);
    assert!(matches!(sidecar.reconcile(), Pass::Refused(_)));
    repo.git(&["--git-dir", bare.to_str().unwrap(), "update-ref", "-d", "refs/heads/main"]);
    let text = retry(sidecar.reconcile());
    assert!(text.contains("main"), "{text}");
    assert_eq!(bench.serves().0, "1.1.0");
    repo.git(&["reset", "--quiet", "--hard", "ORIG_HEAD"]);
    repo.roll("1.2.0");
    push(&repo);
    assert_eq!(sidecar.reconcile(), Pass::Published);
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn twenty_thousand_files_are_followed_over_https_without_a_checkout() {
    let test = "git::twenty_thousand_files_are_followed_over_https_without_a_checkout";
    let Some((port, folder)) = trusted_https(test) else { return };
    let repo = Repo::serving_iris();
    for number in 0..20_000 {
        repo.write(&format!("notes/{:03}/{number}.md", number % 200), number.to_string());
    }
    repo.commit("Add notes");
    serve(&repo, &folder.join("git"));
    let mut bench = Bench::following(&format!("https://127.0.0.1:{port}/git/config.git"));
    fs::write(folder.join("token"), "first").unwrap();
    bench.settings.credentials.token_file = Some(folder.join("token"));
    assert_eq!(bench.open().reconcile(), Pass::Published);
    assert!(!bench.settings.store.join("git").join("notes").exists() && !bench.mirror().join("notes").exists());
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn what_is_not_the_repositorys_host_gets_no_password_and_changes_nothing() {
    let test = "git::what_is_not_the_repositorys_host_gets_no_password_and_changes_nothing";
    let Some((port, folder)) = trusted_https(test) else { return };
    let repo = Repo::serving_iris();
    serve(&repo, &folder.join("git"));
    let token = folder.join("token");
    fs::write(&token, "first").unwrap();
    let say = |address: String| {
        let mut bench = Bench::following(&address);
        bench.settings.credentials.token_file = Some(token.clone());
        let text = retry(bench.open().reconcile());
        assert!(!text.contains("first"), "{text}");
        text
    };
    let text = say(format!("https://127.0.0.1:{port}/moved/config.git"));
    assert!(text.contains("redirect"), "{text}");
    let access = fs::read_to_string(folder.join("access")).unwrap();
    let elsewhere: Vec<_> = access.lines().filter(|line| line.starts_with("localhost ")).collect();
    assert!(elsewhere.is_empty(), "{access}");
    assert!(access.contains("/moved/config.git/info/refs \"Basic "), "it was let in before it was led away: {access}");

    say(format!("https://127.0.0.1:{port}/portal/config.git"));
    let text = say(format!("https://127.0.0.1:{port}/busy/config.git"));
    assert!(text.contains("503"), "{text}");
    let text = say(format!("https://127.0.0.2:{port}/git/config.git"));
    assert!(text.contains("certificate"), "the certificate is for another host: {text}");
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_host_whose_authority_nobody_trusts_is_not_believed() {
    let (peer, _gateway) = https();
    let repo = Repo::serving_iris();
    serve(&repo, &peer.folder.path().join("git"));
    let bench = Bench::following(&format!("https://{}/git/config.git", peer.address));
    let text = retry(bench.open().reconcile());
    assert!(text.contains("its certificate is not one that is trusted for it"), "{text}");
}

/// OpenSSH with a host key of its own, which lets in who has `client`, a key in its folder.
fn sshd() -> Peer {
    // Where sshd, as root, wants its empty folder; as somebody else it does not look.
    let _ = fs::create_dir_all("/run/sshd");
    Peer::start(|port, folder| {
        for name in ["host", "client", "stranger"] {
            key(&folder.join(name));
        }
        let at = folder.display();
        let git = output(Command::new("git").arg("--exec-path"));
        let configuration = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/client.pub\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nSetEnv PATH={git}:/usr/local/bin:/usr/bin:/bin\n"
        );
        fs::write(folder.join("sshd_config"), configuration).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
        command
    })
}

fn key(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    output(command.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(path));
}

/// Says that the server's host key is the one in `name`.
fn known(peer: &Peer, name: &str) {
    let public = fs::read_to_string(peer.folder.path().join(name).with_extension("pub")).unwrap();
    let line = format!("[127.0.0.1]:{} {public}", peer.address.port());
    fs::write(peer.folder.path().join("known_hosts"), line).unwrap();
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_repository_is_followed_over_ssh_from_the_host_that_is_known() {
    let peer = sshd();
    let folder = peer.folder.path();
    let repo = Repo::serving_iris();
    let bare = serve(&repo, folder);
    let user = output(Command::new("id").arg("-un"));
    let mut bench = Bench::following(&format!("ssh://{user}@{}{}", peer.address, bare.display()));
    bench.settings.credentials.ssh_key_file = Some(folder.join("client"));
    bench.settings.credentials.known_hosts_file = Some(folder.join("known_hosts"));
    known(&peer, "host");
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published, "{}", fs::read_to_string(folder.join("log")).unwrap());

    repo.roll("1.1.0");
    push(&repo);
    // Somebody else's key at that address.
    known(&peer, "stranger");
    let text = retry(sidecar.reconcile());
    assert!(text.contains("its host key is not the one in the known_hosts file"), "{text}");
    // Nobody's.
    fs::write(folder.join("known_hosts"), "").unwrap();
    let text = retry(sidecar.reconcile());
    assert!(text.contains("its host key is not the one in the known_hosts file"), "{text}");
    assert_eq!(bench.serves().0, "1.0.0");

    // The right host, and a key that it does not know; then the key is replaced where it lies.
    known(&peer, "host");
    fs::rename(folder.join("client"), folder.join("kept")).unwrap();
    fs::copy(folder.join("stranger"), folder.join("client")).unwrap();
    let text = retry(sidecar.reconcile());
    assert!(text.contains("cannot reach"), "{text}");
    fs::rename(folder.join("kept"), folder.join("client")).unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves().0, "1.1.0");
}
