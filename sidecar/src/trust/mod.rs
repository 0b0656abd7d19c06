//! Decides whether a commit may follow the live one.
//!
//! Whoever can push can move a branch or a tag back to an old commit, which was signed and reviewed in its day. So
//! only a descendant of the live commit is followed, whatever its signature.
//!
//! Does not read what a commit asks for.

use mainstay_models::CommitId;

use crate::board::Board;
use crate::git::{Git, Relation};
use crate::trouble::{Refusal, Trouble};

/// What is asked of a commit before it is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether a commit may follow that does not descend from the live one.
    pub allow_rewind: bool,
}

/// Refuses a fetched commit that may not follow `live`. The first commit of all may always come.
pub(crate) fn check(
    settings: &Settings,
    git: &mut Git,
    board: &Board,
    commit: &CommitId,
    live: Option<&CommitId>,
) -> Result<(), Trouble> {
    let Some(live) = live else { return Ok(()) };
    if settings.allow_rewind {
        return Ok(());
    }
    let lineage = git.lineage(commit, live, 0).map_err(|e| Trouble::retry(&e))?;
    check_descent(commit, live, lineage.relation).inspect_err(|_| board.rewind_refused())?;
    Ok(())
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
