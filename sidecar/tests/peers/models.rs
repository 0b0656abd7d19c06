//! Versions signed by the reference implementation of OpenSSF model signing.

use std::fs;
use std::path::Path;
use std::process::Command;

use mainstay_sidecar::agent::Pass;

use crate::bench::{Bench, Repo, refusal};
use crate::harness::tool;

/// Signs as a training pipeline does, with a key in `key`, and the tool's own options.
fn sign(key: &Path, folder: &Path, options: &[&str]) {
    let mut command = Command::new(tool("venv/bin/model_signing"));
    command.args(["sign", "key", "--private_key"]).arg(key).arg("--signature").arg(folder.join("model.sig"));
    succeed(command.args(options).arg(folder));
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A key pair made by OpenSSL's own program; gives the public key's text.
fn make_key(curve: &str, path: &Path) -> String {
    succeed(Command::new("openssl").args(["ecparam", "-genkey", "-noout", "-name", curve, "-out"]).arg(path));
    let public = path.with_extension("pub");
    succeed(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(path).arg("-out").arg(&public));
    fs::read_to_string(public).unwrap()
}

#[test]
#[ignore = "needs the program that .ci/peers installs"]
fn what_the_reference_implementation_signs_goes_live_and_nothing_else() {
    for curve in ["prime256v1", "secp384r1", "secp521r1"] {
        let repo = Repo::serving_iris();
        let mut bench = Bench::following(&repo.address());
        let folder = bench.settings.store.parent().unwrap().to_owned();
        let pem = make_key(curve, &folder.join("key")).replace('\n', "\n      ");
        let signers = folder.join("signers.yaml");
        let entry = format!("  - name: Training\n    modelKey: |\n      {pem}\n");
        fs::write(&signers, format!("apiVersion: mainstay/v1\nsigners:\n{entry}")).unwrap();
        bench.settings.trust.verify_models = true;
        bench.settings.trust.allowed_signers = Some(signers);
        let mut sidecar = bench.open();
        assert!(refusal(sidecar.reconcile()).contains("models must be signed"));

        let version = repo.path().join("models/iris/1.0.0");
        sign(&folder.join("key"), &version, &[]);
        repo.commit("Sign iris 1.0.0");
        assert_eq!(sidecar.reconcile(), Pass::Published, "{curve}");

        // What the tool itself finds good is good here, and the other way round.
        let mut verify = Command::new(tool("venv/bin/model_signing"));
        verify.args(["verify", "key", "--public_key"]).arg(folder.join("key.pub")).arg("--signature");
        verify.arg(version.join("model.sig")).arg(&version);
        succeed(&mut verify);
        repo.write_model("iris", "1.0.0", b"another forest");
        repo.commit("Replace the forest");
        assert!(!verify.output().unwrap().status.success());
        assert!(refusal(sidecar.reconcile()).contains("signs a model.yaml with sha256"));

        // A note beside the model is no part of it: the tool is told so.
        fs::write(version.join("NOTES.md"), "a note").unwrap();
        sign(&folder.join("key"), &version, &[]);
        repo.commit("Sign the note too");
        assert!(refusal(sidecar.reconcile()).contains("also signs NOTES.md"));
        sign(&folder.join("key"), &version, &["--ignore-paths", version.join("NOTES.md").to_str().unwrap()]);
        repo.commit("Sign the model alone");
        assert_eq!(sidecar.reconcile(), Pass::Published, "{curve}");

        make_key(curve, &folder.join("stranger"));
        sign(&folder.join("stranger"), &version, &["--ignore-paths", version.join("NOTES.md").to_str().unwrap()]);
        repo.commit("Sign with another key");
        assert!(refusal(sidecar.reconcile()).contains("which is not one of the allowed signers' `modelKey`"));
    }
}
