//! Versions that must be signed by themselves, whoever signed the commit.

use std::fs;

use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::trust::Verify;

use crate::harness::{Bench, Repo, refusal, retry, status};
use crate::signing::ModelKey;

/// A sidecar that asks for signatures of models alone, by what stands in `entries`.
fn bench(repo: &Repo, entries: &[String]) -> Bench {
    let mut bench = Bench::following(&repo.address());
    let file = bench.settings.store.parent().unwrap().join("signers.yaml");
    bench.settings.trust.verify_models = true;
    bench.settings.trust.allowed_signers = Some(file);
    allow(&bench, entries);
    bench
}

fn allow(bench: &Bench, entries: &[String]) {
    let file = bench.settings.trust.allowed_signers.as_ref().unwrap();
    fs::write(file, format!("apiVersion: mainstay/v1\nsigners:\n{}", entries.concat())).unwrap();
}

const FOLDER: &str = "models/iris/1.0.0";

#[test]
fn a_version_that_nobody_signed_is_refused_and_goes_live_once_it_is_signed() {
    let (repo, key) = (Repo::serving_iris(), ModelKey::new());
    let bench = bench(&repo, &[key.entry("Training", "")]);
    let mut sidecar = bench.open();
    let refused = refusal(sidecar.reconcile());
    let expected = format!(
        "{FOLDER}/model.sig: is not in the commit, and models must be signed: \
         `model_signing sign key --private_key KEY --signature {FOLDER}/model.sig {FOLDER}`"
    );
    assert_eq!(refused, expected);
    let metrics = sidecar.board().metrics();
    assert!(metrics.contains("mainstay_sync_model_signature_failures_total{reason=\"unsigned\"} 1"), "{metrics}");
    assert!(bench.reader().current().unwrap().is_none());

    key.sign(&repo.path().join(FOLDER));
    repo.commit("Sign iris 1.0.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(bench.serves(), ("1.0.0".to_owned(), b"first forest".to_vec()));
    let seen = status(&sidecar);
    assert!(seen.verify_models && seen.verify == Verify::None && seen.verified.is_none());
    let signed: Vec<_> = seen.signed_models.iter().map(|one| (one.model.as_str(), one.signer.as_str())).collect();
    assert_eq!(signed, [("iris", "Training")]);
    assert!(sidecar.board().metrics().contains("mainstay_sync_model_signatures_verified_total 1"));
}

#[test]
fn what_was_changed_after_it_was_signed_does_not_go_live() {
    let (repo, key) = (Repo::serving_iris(), ModelKey::new());
    let folder = repo.path().join(FOLDER);
    key.sign(&folder);
    repo.commit("Sign iris 1.0.0");
    let bench = bench(&repo, &[key.entry("Training", "")]);
    let mut sidecar = bench.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);

    // Another model under the name of the signed one; its card says so truly.
    repo.write_model("iris", "1.0.0", b"second forest");
    repo.commit("Replace the forest");
    let refused = refusal(sidecar.reconcile());
    assert!(refused.starts_with(&format!("{FOLDER}/model.sig: signs a model.yaml with sha256 ")), "{refused}");
    assert_eq!(bench.serves().1, b"first forest");

    // The signed files as another version.
    repo.git(&["revert", "--no-edit", "HEAD"]);
    repo.write_model("iris", "1.1.0", b"first forest");
    fs::copy(folder.join("model.sig"), repo.path().join("models/iris/1.1.0/model.sig")).unwrap();
    repo.serve("iris", "1.1.0");
    repo.commit("Call it newer");
    let refused = refusal(sidecar.reconcile());
    assert!(refused.starts_with("models/iris/1.1.0/model.sig: signs a model.yaml with sha256 "), "{refused}");

    // A card that promises what was signed, beside other bytes: the store refuses those.
    repo.write_model("iris", "1.1.0", b"newer forest");
    key.sign(&repo.path().join("models/iris/1.1.0"));
    repo.write("models/iris/1.1.0/model.onnx", b"other forest");
    repo.commit("Swap the bytes");
    let refused = refusal(sidecar.reconcile());
    assert!(refused.starts_with("models/iris/1.1.0/model.yaml:"), "{refused}");
    assert!(refused.contains("artifact.sha256: models/iris/1.1.0/model.onnx has 12 bytes with sha256"), "{refused}");
    assert_eq!(bench.serves(), ("1.0.0".to_owned(), b"first forest".to_vec()));
}

#[test]
fn a_key_signs_what_its_entry_names_and_the_file_is_read_anew() {
    let (repo, key, other) = (Repo::serving_iris(), ModelKey::new(), ModelKey::new());
    key.sign(&repo.path().join(FOLDER));
    repo.commit("Sign iris 1.0.0");
    let bench = bench(&repo, &[other.entry("Other", "")]);
    let mut sidecar = bench.open();
    assert!(refusal(sidecar.reconcile()).contains("which is not one of the allowed signers' `modelKey`"));
    allow(&bench, &[key.entry("Training", "    models: [pred-main]\n")]);
    assert!(refusal(sidecar.reconcile()).contains("who may not sign the model `iris` for `prod`"));
    allow(&bench, &[key.entry("Training", "    environments: [dev]\n")]);
    assert!(refusal(sidecar.reconcile()).contains("who may not sign the model `iris` for `prod`"));
    fs::write(bench.settings.trust.allowed_signers.as_ref().unwrap(), "nonsense").unwrap();
    assert!(retry(sidecar.reconcile()).contains("cannot use the allowed signers"));
    allow(&bench, &[key.entry("Training", "    models: [iris]\n    environments: [prod]\n")]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
}

#[test]
fn a_preview_must_be_signed_too_and_a_link_is_no_signature() {
    let (repo, key) = (Repo::serving_iris(), ModelKey::new());
    key.sign(&repo.path().join(FOLDER));
    repo.write_model("iris", "2.0.0", b"a wilder forest");
    repo.write("environments/prod/serving.yaml", crate::harness::serving("iris", "1.0.0") + "    preview: [2.0.0]\n");
    repo.commit("Preview iris 2.0.0");
    let bench = bench(&repo, &[key.entry("Training", "")]);
    let mut sidecar = bench.open();
    assert!(refusal(sidecar.reconcile()).starts_with("models/iris/2.0.0/model.sig: is not in the commit"));

    let link = repo.path().join("models/iris/2.0.0/model.sig");
    std::os::unix::fs::symlink("../1.0.0/model.sig", &link).unwrap();
    repo.commit("Link to a signature");
    let refused = refusal(sidecar.reconcile());
    assert!(refused.contains("models/iris/2.0.0/model.sig is behind a symbolic link"), "{refused}");
    fs::remove_file(&link).unwrap();
    fs::write(&link, vec![b' '; (64 << 10) + 1]).unwrap();
    repo.commit("Pad it");
    assert!(refusal(sidecar.reconcile()).contains("65537"));
    key.sign(&repo.path().join("models/iris/2.0.0"));
    repo.commit("Sign iris 2.0.0");
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(status(&sidecar).signed_models.len(), 2);
}
