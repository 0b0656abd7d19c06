//! Who is believed: signatures, their signers' limits, and what became of both meanwhile.

use std::fs;
use std::path::PathBuf;

use mainstay_sidecar::Sidecar;
use mainstay_sidecar::agent::Pass;
use mainstay_sidecar::trouble::Trouble;
use mainstay_sidecar::trust::checkout::Checkout;
use mainstay_sidecar::trust::{Settings, Verify};
use ssh_key::HashAlg;

use crate::harness::{Bench, Repo, files_below, picky_server, refusal, retry, serving, status, worker_program};
use crate::signing::Person;

/// A sidecar that verifies, and the file that it goes by.
struct Court {
    bench: Bench,
    file: PathBuf,
}

impl Court {
    fn new(repo: &Repo, verify: Verify, entries: &[String]) -> Self {
        let mut bench = Bench::following(&repo.address());
        let file = bench.settings.store.parent().unwrap().join("signers.yaml");
        bench.settings.trust.verify = verify;
        bench.settings.trust.allowed_signers = Some(file.clone());
        let court = Self { bench, file };
        court.allow(entries);
        court
    }

    fn allow(&self, entries: &[String]) {
        fs::write(&self.file, format!("apiVersion: mainstay/v1\nsigners:\n{}", entries.concat())).unwrap();
    }

    fn open(&self) -> Sidecar {
        self.bench.open()
    }
}

fn metric(sidecar: &Sidecar, line: &str) {
    let text = sidecar.board().metrics();
    assert!(text.contains(line), "{line} is not in\n{text}");
}

#[test]
fn head_asks_for_the_newest_signature_alone() {
    let (repo, ada) = (Repo::serving_iris(), Person::new("Ada"));
    let court = Court::new(&repo, Verify::Head, &[ada.entry("")]);
    let mut sidecar = court.open();
    let unsigned = repo.head();
    let refused = refusal(sidecar.reconcile());
    assert!(
        refused.starts_with(&format!("commit {} is not signed. Have it signed again", unsigned.short())),
        "{refused}"
    );
    assert!(refused.contains("signers.yaml"), "{refused}");
    metric(&sidecar, "mainstay_sync_signature_failures_total{reason=\"unsigned\"} 1");
    assert_eq!(refusal(sidecar.reconcile()), refused);
    metric(&sidecar, "mainstay_sync_signature_failures_total{reason=\"unsigned\"} 1");

    repo.roll("1.1.0");
    let signed = ada.sign(repo.path());
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(court.bench.current().release.commit.id, signed);
    metric(&sidecar, "mainstay_sync_signatures_verified_total 1");
    let seen = status(&sidecar);
    let verified = seen.verified.as_ref().unwrap();
    assert_eq!((verified.signer.as_str(), verified.commits, verified.note), ("Ada", 1, None));
    assert_eq!(verified.fingerprint, ada.key.public_key().fingerprint(HashAlg::Sha256).to_string());
}

#[test]
fn strict_asks_every_commit_since_the_live_one_on_all_sides_of_a_merge() {
    let (repo, ada) = (Repo::serving_iris(), Person::new("Ada"));
    ada.sign(repo.path());
    let court = Court::new(&repo, Verify::Strict, &[ada.entry("")]);
    let mut sidecar = court.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let note = status(&sidecar).verified.as_ref().unwrap().note;
    assert!(note.unwrap().contains("only the newest was verified"), "an empty store is said");

    // A side branch with a commit that nobody signed, and a merge that somebody did.
    repo.git(&["checkout", "--quiet", "-b", "side"]);
    repo.write("notes", "x");
    let unsigned = repo.commit("Nobody's");
    repo.git(&["checkout", "--quiet", "main"]);
    repo.roll("1.1.0");
    ada.sign(repo.path());
    repo.git(&["merge", "--quiet", "--no-ff", "--no-edit", "side"]);
    ada.sign(repo.path());
    let refused = refusal(sidecar.reconcile());
    assert!(refused.starts_with(&format!("commit {} is not signed", unsigned.short())), "{refused}");
    assert_eq!(court.bench.serves().0, "1.0.0");

    // The same merge of a branch that is signed throughout.
    repo.git(&["checkout", "--quiet", "side"]);
    ada.sign(repo.path());
    repo.git(&["checkout", "--quiet", "main"]);
    repo.git(&["reset", "--hard", "--quiet", "HEAD^"]);
    repo.git(&["merge", "--quiet", "--no-ff", "--no-edit", "side"]);
    ada.sign(repo.path());
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let seen = status(&sidecar);
    assert_eq!((seen.verified.as_ref().unwrap().commits, seen.verified.as_ref().unwrap().note), (3, None));
}

#[test]
fn an_older_commit_is_refused_whatever_its_signature() {
    let (repo, ada) = (Repo::serving_iris(), Person::new("Ada"));
    let old = ada.sign(repo.path());
    for verify in [Verify::Head, Verify::Strict] {
        let mut court = Court::new(&repo, verify, &[ada.entry("")]);
        let mut sidecar = court.open();
        repo.roll("1.1.0");
        let live = ada.sign(repo.path());
        assert_eq!(sidecar.reconcile(), Pass::Published);
        repo.git(&["reset", "--hard", "--quiet", old.as_str()]);
        let refused = refusal(sidecar.reconcile());
        assert!(refused.contains(&format!("is older than the live {}", live.short())), "{refused}");
        assert_eq!(court.bench.serves().0, "1.1.0");
        drop(sidecar);
        court.bench.settings.trust.allow_rewind = true;
        assert_eq!(court.open().reconcile(), Pass::Published, "{verify:?}");
        assert_eq!(court.bench.serves().0, "1.0.0");
    }
}

#[test]
fn the_file_is_read_anew_since_keys_rotate() {
    let (repo, ada, eve) = (Repo::serving_iris(), Person::new("Ada"), Person::new("Eve"));
    ada.sign(repo.path());
    let court = Court::new(&repo, Verify::Head, &[ada.entry("")]);
    let mut sidecar = court.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    repo.roll("1.1.0");
    eve.sign(repo.path());
    let fingerprint = eve.key.public_key().fingerprint(HashAlg::Sha256).to_string();
    let refused = refusal(sidecar.reconcile());
    assert!(refused.contains(&format!("is signed with the key {fingerprint}, which is not one of")), "{refused}");
    // Another file, and the same commit is looked at again.
    court.allow(&[ada.entry(""), eve.entry("")]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
    court.allow(&[eve.entry("")]);
    repo.roll("1.2.0");
    ada.sign(repo.path());
    assert!(refusal(sidecar.reconcile()).contains("is not one of the allowed signers'"));
    metric(&sidecar, "mainstay_sync_signature_failures_total{reason=\"unknown_key\"} 2");
    // A file that is wrong or gone is nobody's commit's fault.
    fs::write(&court.file, "apiVersion: mainstay/v1\nsigners: 3\n").unwrap();
    let problem = retry(sidecar.reconcile());
    assert!(problem.starts_with("cannot use the allowed signers: ") && problem.contains(":2: signers"), "{problem}");
    fs::remove_file(&court.file).unwrap();
    assert!(retry(sidecar.reconcile()).starts_with("cannot read the allowed signers "));
    assert_eq!(court.bench.serves().0, "1.1.0");
    court.allow(&[ada.entry("")]);
    assert_eq!(sidecar.reconcile(), Pass::Published);
}

/// Two models, of which Ivy may change one.
fn two_models(repo: &Repo, iris: &str, rose: &str) {
    let text = serving("iris", iris) + &format!("  rose:\n    stable: {rose}\n");
    repo.write("environments/prod/serving.yaml", text);
}

#[test]
fn a_signer_changes_only_the_models_and_environments_that_the_file_names() {
    let (repo, ada, ivy) = (Repo::new(), Person::new("Ada"), Person::new("Ivy"));
    for version in ["1.0.0", "1.1.0"] {
        repo.write_model("iris", version, version.as_bytes());
        repo.write_model("rose", version, version.as_bytes());
    }
    two_models(&repo, "1.0.0", "1.0.0");
    repo.commit("Serve both");
    ada.sign(repo.path());
    let entries = [ada.entry(""), ivy.entry("    models: [iris]\n    environments: [prod]\n")];
    for verify in [Verify::Head, Verify::Strict] {
        let court = Court::new(&repo, verify, &entries);
        let mut sidecar = court.open();
        assert_eq!(sidecar.reconcile(), Pass::Published);
        let base = repo.head();
        let judged = |what: &str, sidecar: &mut Sidecar| {
            repo.commit(what);
            ivy.sign(repo.path());
            let pass = sidecar.reconcile();
            repo.git(&["reset", "--hard", "--quiet", base.as_str()]);
            pass
        };
        two_models(&repo, "1.0.0", "1.1.0");
        let refused = refusal(judged("The other model", &mut sidecar));
        assert!(
            refused.contains("is signed by Ivy (SHA256:") && refused.contains("change the model `rose`"),
            "{refused}"
        );
        // The same version with another card.
        repo.write_model("rose", "1.0.0", b"another");
        let refused = refusal(judged("The other model's bytes", &mut sidecar));
        assert!(refused.contains("change the model `rose`"), "{refused}");
        repo.write("environments/prod/serving.yaml", serving("iris", "1.0.0"));
        let refused = refusal(judged("The other model gone", &mut sidecar));
        assert!(refused.contains("change the model `rose`"), "{refused}");
        repo.write("environments/prod/serving.yaml", "nonsense");
        let refused = refusal(judged("Nonsense", &mut sidecar));
        assert!(refused.contains("more than single models"), "{refused}");
        metric(&sidecar, "mainstay_sync_signature_failures_total{reason=\"not_allowed\"} 4");

        // A newer commit by somebody else is no cover in strict: what is in between has a signer of its own.
        two_models(&repo, "1.0.0", "1.1.0");
        repo.commit("The other model");
        ivy.sign(repo.path());
        repo.write("notes", format!("{verify:?}"));
        repo.commit("A cover");
        ada.sign(repo.path());
        match verify {
            Verify::Strict => assert!(refusal(sidecar.reconcile()).contains("change the model `rose`")),
            _ => assert_eq!(sidecar.reconcile(), Pass::Published),
        }
        drop(sidecar);
        repo.git(&["reset", "--hard", "--quiet", base.as_str()]);

        let court = Court::new(&repo, verify, &entries);
        let mut sidecar = court.open();
        sidecar.reconcile();
        two_models(&repo, "1.1.0", "1.0.0");
        assert_eq!(judged("Her own model", &mut sidecar), Pass::Published);
        repo.git(&["reset", "--hard", "--quiet", base.as_str()]);
    }
    // On an empty store everything is new, and she may not answer for everything.
    two_models(&repo, "1.1.0", "1.0.0");
    repo.commit("Her own model");
    ivy.sign(repo.path());
    let court = Court::new(&repo, Verify::Strict, &entries);
    assert!(refusal(court.open().reconcile()).contains("change the model `rose`"));
}

#[test]
fn a_merge_cannot_take_back_what_its_signer_may_not_change() {
    let (repo, ada, ivy) = (Repo::new(), Person::new("Ada"), Person::new("Ivy"));
    for version in ["1.0.0", "1.1.0"] {
        repo.write_model("iris", version, version.as_bytes());
        repo.write_model("rose", version, version.as_bytes());
    }
    two_models(&repo, "1.0.0", "1.0.0");
    repo.commit("Serve both");
    let first = ada.sign(repo.path());
    two_models(&repo, "1.0.0", "1.1.0");
    repo.commit("Roll rose");
    let live = ada.sign(repo.path());
    let court = Court::new(&repo, Verify::Strict, &[ada.entry(""), ivy.entry("    models: [iris]\n")]);
    let mut sidecar = court.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    // From before the roll, with what is live as the second parent and nothing of it taken over.
    repo.git(&["checkout", "--quiet", "-B", "main", first.as_str()]);
    repo.git(&["merge", "--quiet", "--no-ff", "--no-edit", "--strategy=ours", live.as_str()]);
    ivy.sign(repo.path());
    let refused = refusal(sidecar.reconcile());
    assert!(refused.contains("change the model `rose`"), "{refused}");
}

/// Commits by git with ssh-keygen and GnuPG, in a repository that serves nothing: what is believed is refused for that.
#[test]
fn what_git_signed_itself_is_believed_from_a_repository() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trust");
    let repo = Repo::new();
    repo.git(&["fetch", "--quiet", fixtures.join("all.bundle").to_str().unwrap(), "HEAD:refs/heads/signed"]);
    for (name, expected) in [
        ("pgp-subkey", "environments/prod/serving.yaml: is not in the commit"),
        ("pgp-rsa", "environments/prod/serving.yaml: is not in the commit"),
        ("ssh-rsa-3072", "environments/prod/serving.yaml: is not in the commit"),
        ("ssh-ed25519-256", "environments/prod/serving.yaml: is not in the commit"),
        ("pgp-revoked", "its certificate is revoked"),
        ("pgp-stranger", "which is not one of the allowed signers'"),
        ("unsigned", "is not signed"),
    ] {
        let file = fixtures.join(format!("{name}.commit"));
        let id = repo.git(&["hash-object", "-t", "commit", file.to_str().unwrap()]);
        let mut court = Court::new(&repo, Verify::Head, &[]);
        court.bench.settings.trust.allowed_signers = Some(fixtures.join("signers.yaml"));
        court.bench.settings.reference = id.parse().unwrap();
        let refused = refusal(court.open().reconcile());
        assert!(refused.contains(expected), "{name}: {refused}");
    }
}

#[test]
fn a_commit_that_is_checked_out_is_judged_alike_and_its_repository_left_as_it_is() {
    let (repo, ada) = (Repo::serving_iris(), Person::new("Ada"));
    ada.sign(repo.path());
    let court = Court::new(&repo, Verify::Strict, &[ada.entry("")]);
    let mut sidecar = court.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let live = repo.head();
    let trust = court.bench.settings.trust.clone();
    let judge = |settings: &Settings| {
        let folder = tempfile::tempdir().unwrap();
        let mut checkout = Checkout::open(repo.path(), worker_program(), folder.path().join("git")).unwrap();
        assert_eq!(*checkout.commit(), repo.head());
        checkout.judge(settings, &"prod".parse().unwrap(), Some(&live))
    };
    repo.roll("1.1.0");
    let before = files_below(repo.path());
    let Err(Trouble::Refused(refused)) = judge(&trust) else { panic!("it is not signed") };
    assert_eq!(files_below(repo.path()), before);
    assert_eq!(refusal(sidecar.reconcile()), refused.to_string());
    assert!(judge(&Settings { verify: Verify::None, allowed_signers: None, ..trust.clone() }).unwrap().is_none());

    ada.sign(repo.path());
    let verified = judge(&trust).unwrap().unwrap();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    assert_eq!(status(&sidecar).verified.as_ref(), Some(&verified));

    // Going back to before what is live.
    let live = repo.head();
    repo.git(&["reset", "--hard", "--quiet", "HEAD^"]);
    let folder = tempfile::tempdir().unwrap();
    let mut checkout = Checkout::open(repo.path(), worker_program(), folder.path().join("git")).unwrap();
    let Err(Trouble::Refused(refused)) = checkout.judge(&trust, &"prod".parse().unwrap(), Some(&live)) else {
        panic!("it is older than what is live")
    };
    assert_eq!(refusal(sidecar.reconcile()), refused.to_string());
}

#[test]
fn half_of_what_is_needed_to_verify_is_an_error_at_the_start() {
    for (verify, file) in [(Verify::Head, None), (Verify::None, Some(PathBuf::from("/signers.yaml")))] {
        let mut bench = Bench::following("/nowhere");
        bench.settings.trust.verify = verify;
        bench.settings.trust.allowed_signers = file;
        let error = Sidecar::open(bench.settings.clone(), bench.control.clone()).unwrap_err().to_string();
        assert!(error.contains("--verify") && error.contains("--allowed-signers"), "{error}");
    }
}

#[test]
fn what_stands_in_for_a_version_that_does_not_load_has_a_good_signature_of_its_own() {
    let (repo, ada, bob) = (Repo::serving_iris(), Person::new("Ada"), Person::new("Bob"));
    let trusted = ada.sign(repo.path());
    repo.roll("1.1.0");
    repo.roll("1.2.0");
    bob.sign(repo.path());
    repo.roll("1.3.0");
    ada.sign(repo.path());
    let mut court = Court::new(&repo, Verify::Head, &[ada.entry("")]);
    court.bench.settings.server = Some(picky_server(&court.bench.settings.store, &["1.3.0"]));
    let mut sidecar = court.open();
    assert_eq!(sidecar.reconcile(), Pass::Published);
    let current = court.bench.current();
    let fallback = current.release.models["iris"].fallback.as_ref().expect("something stands in");
    assert_eq!((fallback.version.to_string(), &fallback.commit), ("1.0.0".to_owned(), &trusted));
    // What was passed over was nobody's attempt.
    for reason in ["unsigned", "unknown_key"] {
        metric(&sidecar, &format!("mainstay_sync_signature_failures_total{{reason=\"{reason}\"}} 0"));
    }
    metric(&sidecar, "mainstay_sync_signatures_verified_total 1");
    assert_eq!(sidecar.reconcile(), Pass::Unchanged);
    assert_eq!(court.bench.current(), current);
}
