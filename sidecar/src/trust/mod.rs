//! Decides whether a commit may follow the live one.
//!
//! Two questions, whatever the commit asks for. Does it descend from the live one? Whoever can push can move a branch
//! back to an old commit, which was signed in its day. And is it signed, by somebody who may sign what it changes?
//!
//! ```text
//! signers   the file of allowed signers; whether a signature is one of theirs, and permits what is touched
//! model     whether a version's files are signed by somebody who may sign models
//! ssh, openpgp   one kind of signature each
//! touched   what two commits have different
//! checkout  asks the same of a commit that is checked out, before it is pushed or merged
//! ```
//!
//! The commits come from the git worker; nothing is verified in it or by libgit2.

use std::path::PathBuf;

use mainstay_models::yaml::FILE_BYTES_MAX;
use mainstay_models::{CommitId, Digest, EnvironmentName, Serving};
use serde::Serialize;

use crate::board::{Board, now_unix_ms};
use crate::git::{self, Failure, Git, Relation, Signed};
use crate::trouble::{Refusal, Trouble};

pub mod checkout;
pub mod model;
mod openpgp;
pub mod signers;
mod ssh;
pub mod touched;

use signers::{Distrust, Signers};
use touched::{Content, Touched};

/// The most commits that are verified for one release.
const COMMITS_MAX: usize = 5000;
/// The largest commit object whose signature is looked at.
const COMMIT_BYTES_MAX: u64 = 1 << 20;
/// The most folders in `models/`.
const FOLDERS_MAX: usize = 4000;

/// What is asked of a commit before it is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which commits must be signed.
    pub verify: Verify,
    /// Whether every version must be signed too, by itself.
    pub verify_models: bool,
    /// The file of allowed signers; given exactly if signatures are verified.
    pub allowed_signers: Option<PathBuf>,
    /// Whether a commit may follow that does not descend from the live one.
    pub allow_rewind: bool,
}

/// Which commits must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// None.
    #[default]
    None,
    /// The newest.
    Head,
    /// Every commit after the live one, by all parents.
    Strict,
}

/// Whose word was taken for the release that was published last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verified {
    /// The commit of the release.
    pub commit: CommitId,
    /// Who signed it.
    pub signer: String,
    /// The key.
    pub fingerprint: String,
    /// How many commits were verified.
    pub commits: usize,
    /// What was not verified that could have been.
    pub note: Option<&'static str>,
}

impl Settings {
    /// Whether it is clear what is asked.
    pub fn is_complete(&self) -> bool {
        (self.verify != Verify::None || self.verify_models) == self.allowed_signers.is_some()
    }

    /// Stands for what the file of allowed signers says now: what was refused may be allowed once it says something else.
    pub(crate) fn mark(&self) -> Option<Digest> {
        let bytes = std::fs::read(self.allowed_signers.as_ref()?).ok()?;
        Some(Digest::of(&bytes))
    }
}

/// A commit, and what its changes are seen against.
struct Claim {
    commit: CommitId,
    against: Against,
}

enum Against {
    /// Each of its parents.
    Parents,
    /// One commit; nothing at all where there is none.
    Commit(Option<CommitId>),
}

/// Asks the two questions of commits that may become releases.
pub(crate) struct Judge<'a> {
    pub settings: &'a Settings,
    pub environment: &'a EnvironmentName,
    pub git: &'a mut Git,
    /// None where no sidecar runs.
    pub board: Option<&'a Board>,
    /// Whether the metrics tell of signatures: what is passed over in the past is nobody's attempt of today.
    pub counts: bool,
}

impl Judge<'_> {
    /// Refuses a fetched commit that may not follow `live`. Says who signed it, where that is asked.
    pub(crate) fn check(&mut self, commit: &CommitId, live: Option<&CommitId>) -> Result<Option<Verified>, Trouble> {
        let lineage = live.map(|live| self.git.lineage(commit, live, COMMITS_MAX)).transpose();
        let lineage = lineage.map_err(|e| Trouble::retry(&e))?;
        let (mut relation, mut between) = (None, Vec::new());
        if let (Some(live), Some(lineage)) = (live, lineage) {
            if !self.settings.allow_rewind {
                let count = |_: &Refusal| self.board.iter().for_each(|board| board.rewind_refused());
                check_descent(commit, live, lineage.relation).inspect_err(count)?;
            }
            if self.settings.verify == Verify::Strict && !lineage.complete && lineage.relation != Relation::Gone {
                let (commit, live) = (commit.short(), live.short());
                let problem = format!(
                    "more than {COMMITS_MAX} commits lie between the live {live} and {commit}, too many to verify: \
                     let it pass once with `--verify head`"
                );
                return Err(Refusal::commit(problem).into());
            }
            (relation, between) = (Some(lineage.relation), lineage.commits);
        }
        let Some(path) = self.settings.allowed_signers.as_ref().filter(|_| self.settings.verify != Verify::None) else {
            return Ok(None);
        };
        let signers = Signers::read(path).map_err(Trouble::Retry)?;
        let (claims, note) = claims(self.settings.verify, commit, live, relation, between);
        let mut newest = None;
        // The oldest first, since that is the first that somebody has to mend.
        for claim in claims.iter().rev() {
            self.board.iter().for_each(|board| board.beat());
            let (name, fingerprint) = self.verify(&signers, claim)?;
            if claim.commit == *commit {
                newest = Some((name, fingerprint));
            }
        }
        let (signer, fingerprint) = newest.expect("the commit is among those that are verified");
        Ok(Some(Verified { commit: commit.clone(), signer, fingerprint, commits: claims.len(), note }))
    }

    /// Refuses an earlier commit that nothing may be taken from: where signatures are verified, it must have one of its
    /// own, by somebody who may sign what it changed, however good that of the commit is that descends from it.
    pub(crate) fn check_earlier(&mut self, commit: &CommitId) -> Result<(), Trouble> {
        let Some(path) = self.settings.allowed_signers.as_ref().filter(|_| self.settings.verify != Verify::None) else {
            return Ok(());
        };
        let signers = Signers::read(path).map_err(Trouble::Retry)?;
        self.verify(&signers, &Claim { commit: commit.clone(), against: Against::Parents }).map(drop)
    }

    /// Who signed a commit, if it is somebody who may.
    fn verify(&mut self, signers: &Signers, claim: &Claim) -> Result<(String, String), Trouble> {
        let commit = &claim.commit;
        let signed = match self.git.signed(commit, COMMIT_BYTES_MAX) {
            Ok(Some(signed)) => signed,
            Ok(None) => return Err(Refusal::commit(format!("commit {} is not well formed", commit.short())).into()),
            Err(git::Error::Failed(failure @ Failure::TooLarge { .. })) => {
                return Err(Refusal::commit(failure.to_string()).into());
            }
            Err(error) => return Err(Trouble::retry(&error)),
        };
        let now_unix_s = (now_unix_ms() / 1000) as i64;
        let entries = match signers.verify(&signed, now_unix_s) {
            Ok(entries) => entries,
            Err(distrust) => return Err(self.distrust(commit, distrust)),
        };
        // What is touched costs some reading, and matters only to those who may not touch everything.
        if !entries.iter().any(|entry| entry.allows_all_of(self.environment)) {
            let touched = self.touched(&signed, claim)?;
            if let Err(distrust) = Signers::permit(&entries, self.environment, &touched) {
                return Err(self.distrust(commit, distrust));
            }
        }
        if let Some(board) = self.board.filter(|_| self.counts) {
            board.signature_verified();
        }
        let signer = entries.first().expect("a good signature is by somebody");
        Ok((signer.name.clone(), signer.fingerprint.clone()))
    }

    fn distrust(&self, commit: &CommitId, distrust: Distrust) -> Trouble {
        if let Some(board) = self.board.filter(|_| self.counts) {
            board.signature_failed(distrust.reason);
        }
        let path = self.settings.allowed_signers.as_deref().unwrap_or(std::path::Path::new("")).display();
        Refusal::commit(format!(
            "commit {} {}. Have it signed again by somebody who may (`git rebase --exec 'git commit --amend --no-edit -S'` \
             from the commit before, and push), or change {path}",
            commit.short(),
            distrust.text
        ))
        .into()
    }

    fn touched(&mut self, signed: &Signed, claim: &Claim) -> Result<Touched, Trouble> {
        let after = self.content(&claim.commit)?;
        let bases = match &claim.against {
            Against::Commit(base) => vec![base.clone()],
            Against::Parents if signed.parents.is_empty() => vec![None],
            // A merge answers for whatever differs from any side, so that no side can be dropped in silence.
            Against::Parents => signed.parents.iter().cloned().map(Some).collect(),
        };
        let mut touched = Touched::default();
        for base in bases {
            let before = base.map(|base| self.content(&base)).transpose()?;
            touched.add(Touched::between(before.as_ref(), &after));
        }
        Ok(touched)
    }

    fn content(&mut self, commit: &CommitId) -> Result<Content, Trouble> {
        let path = Serving::path(self.environment);
        let serving = match self.git.read(commit, &path, FILE_BYTES_MAX as u64) {
            Ok(text) => Serving::parse(&path, &text).ok(),
            Err(git::Error::Failed(Failure::NoFile { .. } | Failure::NotAFile { .. } | Failure::TooLarge { .. })) => {
                None
            }
            Err(error) => return Err(Trouble::retry(&error)),
        };
        match self.git.folder(commit, "models", FOLDERS_MAX) {
            Ok(folders) => Ok(Content { serving, folders }),
            Err(git::Error::Failed(failure @ Failure::TooLarge { .. })) => {
                Err(Refusal::commit(format!("commit {}: {failure}", commit.short())).into())
            }
            Err(error) => Err(Trouble::retry(&error)),
        }
    }
}

/// The commits that must be signed, newest first, and what is not verified for want of something to go by.
fn claims(
    verify: Verify,
    commit: &CommitId,
    live: Option<&CommitId>,
    relation: Option<Relation>,
    between: Vec<CommitId>,
) -> (Vec<Claim>, Option<&'static str>) {
    // What is live and still there is what the newest commit changes; otherwise everything is new.
    let known = live.filter(|_| relation != Some(Relation::Gone)).cloned();
    let note = match (verify, &known) {
        (Verify::Strict, None) => Some("nothing was live to go by: of all commits, only the newest was verified"),
        _ => None,
    };
    let whole = |known| vec![Claim { commit: commit.clone(), against: Against::Commit(known) }];
    if verify != Verify::Strict || known.is_none() {
        return (whole(known), note);
    }
    let mut claims = match relation {
        Some(Relation::Descendant) if between.contains(commit) => Vec::new(),
        // A rewind that is allowed: its newest commit also answers for all that is different from what is live.
        _ => whole(known),
    };
    claims.extend(between.into_iter().map(|commit| Claim { commit, against: Against::Parents }));
    (claims, note)
}

/// Refuses a commit that does not descend from the live one.
fn check_descent(commit: &CommitId, live: &CommitId, relation: Relation) -> Result<(), Refusal> {
    let (commit, live) = (commit.short(), live.short());
    let way_out = "--allow-rewind permits it, once or always";
    Err(Refusal::commit(match relation {
        Relation::Descendant => return Ok(()),
        Relation::Ancestor => format!(
            "commit {commit} is older than the live {live}: nobody may bring an old version back by moving a branch or \
             deleting a tag. To go back, make a new commit with `git revert`; {way_out}"
        ),
        Relation::Apart => format!(
            "commit {commit} does not descend from the live {live}: the history was rewritten, or a tag lies on another \
             line of it. Put the live commit back into the history (`git merge {live}`, and `git revert` to undo it); \
             {way_out}"
        ),
        Relation::Gone => format!(
            "commit {commit} does not descend from the live {live}, which is not in its repository any more: the history \
             was rewritten. Push the live commit again and merge it; {way_out}"
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_asks_every_commit_since_the_live_one_and_says_when_it_cannot() {
        let id = |digit: &str| digit.repeat(40).parse::<CommitId>().unwrap();
        let (new, middle, live) = (id("3"), id("2"), id("1"));
        let ask = |verify, live: Option<&CommitId>, relation, between: &[&CommitId]| {
            let between = between.iter().copied().cloned().collect();
            let (claims, note) = claims(verify, &new, live, relation, between);
            let show = |claim: &Claim| match &claim.against {
                Against::Parents => format!("{}/parents", &claim.commit.as_str()[..1]),
                Against::Commit(base) => {
                    format!("{}/{}", &claim.commit.as_str()[..1], base.as_ref().map_or("-", |base| &base.as_str()[..1]))
                }
            };
            (claims.iter().map(show).collect::<Vec<_>>().join(" "), note.is_some())
        };
        let said = |text: &str, note| (text.to_owned(), note);
        let descendant = Some(Relation::Descendant);
        assert_eq!(ask(Verify::Head, Some(&live), descendant, &[&new, &middle]), said("3/1", false));
        assert_eq!(ask(Verify::Strict, Some(&live), descendant, &[&new, &middle]), said("3/parents 2/parents", false));
        assert_eq!(ask(Verify::Head, None, None, &[]), said("3/-", false));
        assert_eq!(ask(Verify::Strict, None, None, &[]), said("3/-", true));
        // Allowed rewinds, and the same commit once more.
        assert_eq!(ask(Verify::Strict, Some(&live), Some(Relation::Ancestor), &[]), said("3/1", false));
        assert_eq!(ask(Verify::Strict, Some(&live), Some(Relation::Apart), &[&new]), said("3/1 3/parents", false));
        assert_eq!(ask(Verify::Strict, Some(&live), Some(Relation::Gone), &[]), said("3/-", true));
        assert_eq!(ask(Verify::Strict, Some(&new), descendant, &[]), said("3/3", false));
    }

    #[test]
    fn only_a_descendant_follows() {
        let (new, live) = ("1".repeat(40).parse().unwrap(), "2".repeat(40).parse().unwrap());
        let check = |relation| check_descent(&new, &live, relation);
        assert_eq!(check(Relation::Descendant), Ok(()));
        for relation in [Relation::Ancestor, Relation::Apart, Relation::Gone] {
            let text = check(relation).unwrap_err().to_string();
            assert!(text.starts_with("commit 1111111111 ") && text.contains("the live 2222222222"), "{text}");
            assert!(text.contains("--allow-rewind") && !text.contains("  "), "{text}");
        }
    }
}
