//! Git LFS as people use it: its own client pushes beside git over https, and giftless keeps the files, in a folder of
//! its own or in S3.

use std::fs;
use std::path::Path;
use std::process::Command;

use mainstay_models::Blob;
use mainstay_sidecar::agent::Pass;

use crate::bench::{Bench, Repo, retry};
use crate::git::https_with;
use crate::harness::{Peer, cut_off_at, metric, model, tool};
use crate::objects::moto;
use crate::web::trusting;

/// Where giftless keeps files.
#[derive(Clone, Copy)]
enum Kept {
    /// In a folder, from which it gives them out itself, whole.
    Folder,
    /// In S3, to which it sends those who ask, with a signed address.
    Bucket,
}

/// In a process that trusts the server's authority: the server's port and folder.
fn trusted(test: &str, kept: Kept) -> Option<(u16, String)> {
    let mut others = None;
    let found = trusting(test, || {
        let bucket = moto();
        let mut store = None;
        let (peer, gateway) = https_with(|port, folder| {
            let giftless = giftless(port, folder, kept);
            let hand_on = format!(
                "proxy_pass {}; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https;",
                giftless.url()
            );
            store = Some(giftless);
            // The addresses of the files themselves are signed for whoever was let in to ask for them.
            format!(
                "client_max_body_size 10m;
                location ~ ^/git/config\\.git/info/lfs/objects/(storage|verify) {{ {hand_on} }}
                location ~ ^/git/config\\.git/info/lfs/ {{
                    auth_basic git; auth_basic_user_file {}/passwords; {hand_on} }}
                location /lfs/ {{ proxy_pass {}; proxy_set_header Host $http_host; }}",
                folder.display(),
                bucket.url(),
            )
        });
        let created = ureq::put(format!("{}/lfs", bucket.url())).send_empty();
        assert!(created.unwrap().status().is_success());
        others = Some((bucket, store, gateway));
        peer
    })?;
    let (address, folder) = found.split_once(' ').unwrap();
    Some((address.rsplit_once(':').unwrap().1.parse().unwrap(), folder.to_owned()))
}

/// giftless behind a web server that decides who is let in, at `port`.
fn giftless(port: u16, folder: &Path, kept: Kept) -> Peer {
    let transfer = match kept {
        Kept::Folder => format!(
            "factory: giftless.transfer.basic_streaming:factory
    options: {{storage_class: 'giftless.storage.local_storage:LocalStorage', storage_options: {{path: {}/lfs}}}}",
            folder.display()
        ),
        Kept::Bucket => format!(
            "factory: giftless.transfer.basic_external:factory
    options: {{storage_class: 'giftless.storage.amazon_s3:AmazonS3Storage',
      storage_options: {{bucket_name: lfs, endpoint: 'https://127.0.0.1:{port}'}}}}"
        ),
    };
    let configuration = format!(
        "LEGACY_ENDPOINTS: false
AUTH_PROVIDERS: ['giftless.auth.allow_anon:read_write']
PRE_AUTHORIZED_ACTION_PROVIDER:
  options: {{private_key: a key of this test that is long enough}}
MIDDLEWARE: [{{class: 'werkzeug.middleware.proxy_fix:ProxyFix', kwargs: {{x_proto: 1}}}}]
TRANSFER_ADAPTERS:
  basic:
    {transfer}
"
    );
    Peer::start(|own_port, own_folder| {
        let file = own_folder.join("giftless.yaml");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(tool("venv/bin/python"));
        command.args(["-m", "flask", "--app", "giftless.wsgi_entrypoint", "run", "--port", &own_port.to_string()]);
        command.current_dir(own_folder).env("GIFTLESS_CONFIG_FILE", file);
        command.env("AWS_CA_BUNDLE", folder.join("ca.pem")).env("AWS_DEFAULT_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "giftless").env("AWS_SECRET_ACCESS_KEY", "secret");
        command
    })
}

/// Commits a version of iris whose file Git LFS keeps, and pushes both as their author would.
fn push(repo: &Repo, port: u16, folder: &str, version: &str, artifact: &[u8]) {
    let path = format!("models/iris/{version}/model.onnx");
    repo.write_model("iris", version, artifact);
    repo.serve("iris", version);
    repo.commit(&format!("Roll iris to {version}"));
    let pointer = repo.git(&["show", &format!("HEAD:{path}")]);
    assert!(pointer.starts_with("version https://git-lfs.github.com/spec/v1"), "{pointer}");
    let passwords = Path::new(folder).join("author");
    fs::write(&passwords, format!("https://x-access-token:first@127.0.0.1:{port}\n")).unwrap();
    let helper = format!("credential.helper=store --file={}", passwords.display());
    let to = format!("https://127.0.0.1:{port}/git/config.git");
    repo.git(&["-c", &helper, "push", "--quiet", &to, "main"]);
}

/// A repository whose models are kept by Git LFS.
fn repository(folder: &str) -> Repo {
    let repo = Repo::new();
    repo.git(&["init", "--quiet", "--bare", "--initial-branch=main", &format!("{folder}/git/config.git")]);
    repo.git(&["lfs", "install", "--local"]);
    repo.git(&["lfs", "track", "*.onnx"]);
    repo
}

fn following(port: u16, folder: &str) -> Bench {
    let mut bench = Bench::following(&format!("https://127.0.0.1:{port}/git/config.git"));
    bench.settings.credentials.token_file = Some(Path::new(folder).join("token"));
    bench
}

const BYTES: &str = "mainstay_sync_downloaded_bytes_total{scheme=\"lfs\"}";

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_model_that_git_lfs_keeps_is_fetched_with_the_repositorys_own_password() {
    let test = "lfs::a_model_that_git_lfs_keeps_is_fetched_with_the_repositorys_own_password";
    let Some((port, folder)) = trusted(test, Kept::Folder) else { return };
    let token = Path::new(&folder).join("token");
    fs::write(&token, "first\n").unwrap();
    let (repo, artifact) = (repository(&folder), model());
    push(&repo, port, &folder, "1.0.0", &artifact);
    let bench = following(port, &folder);
    // This server gives out nothing from the middle, so what was begun is begun again.
    cut_off_at(&bench, &artifact, 1_000_000);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(bench.serves() == ("1.0.0".to_owned(), artifact.clone()));
    assert_eq!(metric(&sidecar.board().metrics(), BYTES), artifact.len() as u64);

    // What the server lost is tried again, and comes when it is there again.
    let other: Vec<u8> = artifact.iter().rev().copied().collect();
    push(&repo, port, &folder, "1.1.0", &other);
    let kept = Path::new(&folder).join("lfs/git/config").join(Blob::of(&other).sha256.to_string());
    fs::rename(&kept, kept.with_extension("lost")).unwrap();
    let text = retry(sidecar.reconcile());
    assert!(text.contains("Git LFS: does not have it (error 404)"), "{text}");
    // Its disk changes a byte.
    let mut bytes = other.clone();
    bytes[7] ^= 1;
    fs::write(&kept, bytes).unwrap();
    let text = crate::bench::refusal(sidecar.reconcile());
    assert!(text.contains("artifact.sha256: Git LFS: has 1200000 bytes with sha256"), "{text}");
    assert_eq!(bench.serves().0, "1.0.0");
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_model_that_git_lfs_keeps_in_a_bucket_is_gone_on_with() {
    let test = "lfs::a_model_that_git_lfs_keeps_in_a_bucket_is_gone_on_with";
    let Some((port, folder)) = trusted(test, Kept::Bucket) else { return };
    let token = Path::new(&folder).join("token");
    fs::write(&token, "first\n").unwrap();
    let (repo, artifact) = (repository(&folder), model());
    push(&repo, port, &folder, "1.0.0", &artifact);
    let bench = following(port, &folder);
    cut_off_at(&bench, &artifact, 1_000_000);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(bench.serves().1 == artifact);
    let metrics = sidecar.board().metrics();
    assert_eq!(metric(&metrics, BYTES), 200_000);
    assert_eq!(metric(&metrics, "mainstay_sync_downloads_resumed_total"), 1);
    // The password opens the repository, and stays there.
    let access = fs::read_to_string(Path::new(&folder).join("access")).unwrap();
    let at_bucket: Vec<_> = access.lines().filter(|line| line.contains(" /lfs/")).collect();
    assert!(!at_bucket.is_empty() && at_bucket.iter().all(|line| !line.contains("Basic")), "{access}");
}
