//! DVC as people use it: its own program makes the pointer and pushes the file, to S3 and to a web server.

use std::fs;
use std::path::Path;
use std::process::Command;

use mainstay_models::Blob;
use mainstay_sidecar::agent::Pass;

use crate::bench::{Repo, refusal, retry};
use crate::git::output;
use crate::harness::{Peer, bench, cut_off_at, metric, model, nginx, tool};
use crate::objects::moto;
use crate::web::{make_certificates, trusting};

/// A repository that serves iris 1.0.0, whose file DVC keeps in the remote `address`. `own` is what its author alone sets.
fn repository(address: &str, own: &[[&str; 2]]) -> Repo {
    let repo = Repo::new();
    let dvc = |arguments: &[&str]| {
        let mut command = Command::new(tool("dvc/bin/dvc"));
        command.args(arguments).current_dir(repo.path()).env("DVC_NO_ANALYTICS", "1");
        command.env("DVC_SITE_CACHE_DIR", repo.path().join(".git/dvc")).env("AWS_DEFAULT_REGION", "us-east-1");
        output(command.env("AWS_ACCESS_KEY_ID", "author").env("AWS_SECRET_ACCESS_KEY", "secret"))
    };
    dvc(&["init", "--quiet"]);
    dvc(&["remote", "add", "--default", "store", address]);
    for [name, value] in own {
        dvc(&["remote", "modify", "--local", "store", name, value]);
    }
    repo.write_model("iris", "1.0.0", &model());
    repo.serve("iris", "1.0.0");
    dvc(&["add", "--quiet", "models/iris/1.0.0/model.onnx"]);
    dvc(&["push", "--quiet"]);
    repo.commit("Serve iris 1.0.0, which DVC keeps");
    let files = repo.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
    assert!(files.contains("model.onnx.dvc\n") && !files.contains("model.onnx\n"), "{files}");
    repo
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_model_that_dvc_keeps_in_s3_is_found_and_only_where_that_is_allowed() {
    let peer = moto();
    let created = ureq::put(format!("{}/models", peer.url())).send_empty();
    assert!(created.unwrap().status().is_success());
    let url = peer.url();
    let repo = repository("s3://models/dvc", &[["endpointurl", &url]]);
    let variables =
        [("AWS_ENDPOINT_URL", url.as_str()), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    let text = refusal(bench(&repo, "s3://models/other/", &variables).open().reconcile());
    assert!(text.contains("s3://models/dvc/files/md5/") && text.contains("--allow-artifacts-from"), "{text}");
    let bench = bench(&repo, "s3://models/dvc/", &variables);
    cut_off_at(&bench, &model(), 1_000_000);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert!(bench.serves().1 == model());
    assert_eq!(metric(&sidecar.board().metrics(), "mainstay_sync_downloaded_bytes_total{scheme=\"s3\"}"), 200_000);

    // The pointer is no proof: a card that promises other bytes is wrong.
    let mut other = model();
    other[7] ^= 1;
    repo.write_spec("iris", "1.0.0", Blob::of(&other));
    repo.commit("Promise other bytes");
    let text = refusal(sidecar.reconcile());
    assert!(text.contains("artifact.sha256: s3://models/dvc/files/md5/"), "{text}");
}

#[test]
#[ignore = "needs the servers that .ci/peers installs"]
fn a_model_that_dvc_keeps_on_a_web_server_is_found_with_the_token_of_that_server() {
    let test = "dvc::a_model_that_dvc_keeps_on_a_web_server_is_found_with_the_token_of_that_server";
    let start = || {
        Peer::start(|port, folder| {
            make_certificates(folder);
            fs::create_dir(folder.join("files")).unwrap();
            let at = folder.display();
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
                .concat();
            let configuration = format!(
                "daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}}
                http {{ {temporary} access_log {at}/access; client_max_body_size 10m; server {{
                    listen 127.0.0.1:{port} ssl; ssl_certificate {at}/host.pem; ssl_certificate_key {at}/host.key;
                    root {at}/files; location /dvc/ {{ dav_methods PUT; create_full_put_path on;
                        if ($http_authorization != 'Bearer hush') {{ return 401; }} }} }} }}"
            );
            nginx(folder, &configuration)
        })
    };
    let Some(peer) = trusting(test, start) else { return };
    let (address, folder) = peer.split_once(' ').unwrap();
    let authority = format!("{folder}/ca.pem");
    let own = [
        ["ssl_verify", authority.as_str()],
        ["method", "PUT"],
        ["auth", "custom"],
        ["custom_auth_header", "Authorization"],
        ["password", "Bearer hush"],
    ];
    let repo = repository(&format!("https://{address}/dvc"), &own);
    let mut bench = bench(&repo, &format!("https://{address}/dvc/"), &[]);
    assert!(retry(bench.open().reconcile()).contains("answers 401"));
    let token = Path::new(folder).join("token");
    fs::write(&token, "hush\n").unwrap();
    bench.settings.fetch.token_files.insert(address.to_owned(), token);
    assert_eq!(bench.open().reconcile(), Pass::Published);
    assert!(bench.serves().1 == model());
}
