//! What lies in a repository: commits, files, folders, and how commits follow one another.

use std::collections::BTreeMap;

use git2::{Commit as GitCommit, ObjectType, Oid, Repository, Tree};
use mainstay_models::{Commit, CommitId};

use super::{Fault, commit_id, excerpt};
use crate::git::frame::{Failure, History, Lineage, Relation};

/// The largest tree, commit or tag object.
const OBJECT_BYTES_MAX: usize = 16 << 20;

pub(super) fn find_commit<'r>(repo: &'r Repository, id: &CommitId) -> Result<GitCommit<'r>, Fault> {
    let oid = Oid::from_str(id.as_str()).map_err(Fault::Mirror)?;
    check_size(repo, oid)?;
    repo.find_commit(oid).map_err(Fault::Mirror)
}

/// Looks at an object's size before anything unpacks it: a few bytes can claim to be gigabytes.
fn check_size(repo: &Repository, oid: Oid) -> Result<(), Fault> {
    let (size, _) = repo.odb().and_then(|odb| odb.read_header(oid)).map_err(Fault::Mirror)?;
    if size <= OBJECT_BYTES_MAX {
        return Ok(());
    }
    let (path, size_bytes, bytes_max) = (format!("object {oid}"), size as u64, OBJECT_BYTES_MAX as u64);
    Err(Fault::Other(Failure::TooLarge { path, size_bytes, bytes_max }))
}

pub(super) fn describe(commit: &GitCommit<'_>) -> Result<Commit, Fault> {
    Ok(Commit {
        id: commit_id(commit.id()),
        author: excerpt(&String::from_utf8_lossy(commit.author().name_bytes())),
        subject: excerpt(&String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default())),
        time_unix_s: commit.time().seconds(),
    })
}

/// What a path leads to in a commit.
enum Entry {
    File(Oid),
    Folder(Oid),
    Other(&'static str),
    None,
}

fn find_entry(repo: &Repository, commit: &GitCommit<'_>, path: &str) -> Result<Entry, Fault> {
    let mut tree_id = commit.tree_id();
    let mut segments = path.split('/').peekable();
    // By hand, since only so a path that is not there can be told from a tree that is lost.
    while let Some(segment) = segments.next() {
        check_size(repo, tree_id)?;
        let tree: Tree<'_> = repo.find_tree(tree_id).map_err(Fault::Mirror)?;
        let Some(entry) = tree.get_name(segment) else { return Ok(Entry::None) };
        match (entry.filemode(), segments.peek()) {
            (0o100644 | 0o100755 | 0o100664, None) => return Ok(Entry::File(entry.id())),
            (0o040000, None) => return Ok(Entry::Folder(entry.id())),
            (0o040000, Some(_)) => tree_id = entry.id(),
            (0o120000, _) => return Ok(Entry::Other("behind a symbolic link")),
            (0o160000, _) => return Ok(Entry::Other("in a submodule")),
            (_, Some(_)) => return Ok(Entry::None),
            (_, None) => return Ok(Entry::Other("not a regular file")),
        }
    }
    Ok(Entry::None)
}

pub(super) fn read(repo: &Repository, commit: &CommitId, path: &str, bytes_max: u64) -> Result<Vec<u8>, Fault> {
    let oid = match find_entry(repo, &find_commit(repo, commit)?, path)? {
        Entry::File(oid) => oid,
        Entry::Folder(_) => {
            return Err(Failure::NotAFile { path: path.to_owned(), kind: "a folder".to_owned() }.into());
        }
        Entry::Other(kind) => {
            return Err(Failure::NotAFile { path: path.to_owned(), kind: kind.to_owned() }.into());
        }
        Entry::None => return Err(Failure::NoFile { path: path.to_owned() }.into()),
    };
    let odb = repo.odb().map_err(Fault::Mirror)?;
    let (size, kind) = odb.read_header(oid).map_err(Fault::Mirror)?;
    if kind != ObjectType::Blob {
        return Err(Failure::NotAFile { path: path.to_owned(), kind: "not a blob".to_owned() }.into());
    }
    let size_bytes = size as u64;
    if size_bytes > bytes_max {
        return Err(Failure::TooLarge { path: path.to_owned(), size_bytes, bytes_max }.into());
    }
    Ok(odb.read(oid).map_err(Fault::Mirror)?.data().to_vec())
}

/// The bytes of a commit. libgit2 holds them against its id as it reads them.
pub(super) fn commit_object(repo: &Repository, commit: &CommitId, bytes_max: u64) -> Result<Vec<u8>, Fault> {
    let oid = find_commit(repo, commit)?.id();
    let object =
        repo.odb().and_then(|odb| odb.read(oid).map(|object| object.data().to_vec())).map_err(Fault::Mirror)?;
    if object.len() as u64 > bytes_max {
        let (path, size_bytes) = (format!("commit {}", commit.short()), object.len() as u64);
        return Err(Failure::TooLarge { path, size_bytes, bytes_max }.into());
    }
    Ok(object)
}

pub(super) fn folder(
    repo: &Repository,
    commit: &CommitId,
    name: &str,
    entries_max: usize,
) -> Result<BTreeMap<String, String>, Fault> {
    let top = find_commit(repo, commit)?.tree_id();
    check_size(repo, top)?;
    let top = repo.find_tree(top).map_err(Fault::Mirror)?;
    let Some(entry) = top.get_name(name).filter(|entry| entry.kind() == Some(ObjectType::Tree)) else {
        return Ok(BTreeMap::new());
    };
    check_size(repo, entry.id())?;
    let tree = repo.find_tree(entry.id()).map_err(Fault::Mirror)?;
    if tree.len() > entries_max {
        let (path, size_bytes, bytes_max) = (format!("folder {name}"), tree.len() as u64, entries_max as u64);
        return Err(Failure::TooLarge { path, size_bytes, bytes_max }.into());
    }
    // A name that is longer, or not text, is nobody's model.
    let named = |entry: git2::TreeEntry<'_>| {
        let name = std::str::from_utf8(entry.name_bytes()).ok().filter(|name| name.len() <= 100)?;
        Some((name.to_owned(), entry.id().to_string()))
    };
    Ok(tree.iter().filter_map(named).collect())
}

pub(super) fn lineage(
    repo: &Repository,
    commit: &CommitId,
    earlier: &CommitId,
    commits_max: usize,
) -> Result<Lineage, Fault> {
    let commit = find_commit(repo, commit)?.id();
    let earlier = Oid::from_str(earlier.as_str()).map_err(Fault::Mirror)?;
    if !repo.odb().map_err(Fault::Mirror)?.exists(earlier) {
        // Before anybody is blamed for it: a mirror that lost objects lacks more than that, and is cured.
        let mut walk = repo.revwalk().map_err(Fault::Mirror)?;
        walk.push(commit).and_then(|()| walk.try_for_each(|oid| oid.map(drop))).map_err(Fault::Mirror)?;
        return Ok(Lineage { relation: Relation::Gone, commits: Vec::new(), complete: false });
    }
    let descends = |from, of| repo.graph_descendant_of(from, of).map_err(Fault::Mirror);
    let relation = if commit == earlier || descends(commit, earlier)? {
        Relation::Descendant
    } else if descends(earlier, commit)? {
        Relation::Ancestor
    } else {
        Relation::Apart
    };
    // Where clocks were wrong the walk may go too far back, which is a commit too many and never one too few.
    let mut walk = repo.revwalk().map_err(Fault::Mirror)?;
    let between = walk
        .push(commit)
        .and_then(|()| walk.hide(earlier))
        .and_then(|()| walk.take(commits_max + 1).map(|oid| oid.map(commit_id)).collect::<Result<Vec<_>, _>>());
    let mut commits = between.map_err(Fault::Mirror)?;
    let complete = commits.len() <= commits_max;
    commits.truncate(commits_max);
    Ok(Lineage { relation, commits, complete })
}

pub(super) fn history(
    repo: &Repository,
    start: &CommitId,
    paths: &[String],
    commits_max: usize,
    entries_max: usize,
) -> Result<History, Fault> {
    let content = |commit: &GitCommit<'_>| {
        let id = |path: &String| match find_entry(repo, commit, path)? {
            Entry::File(oid) | Entry::Folder(oid) => Ok::<_, Fault>(Some(oid)),
            Entry::Other(_) | Entry::None => Ok(None),
        };
        paths.iter().map(id).collect::<Result<Vec<_>, _>>()
    };
    let nothing = vec![None; paths.len()];
    let mut commits = Vec::new();
    let mut commit = find_commit(repo, start)?;
    let mut after = content(&commit)?;
    for _ in 0..commits_max {
        // A parent that is not there is the edge of a shallow remote.
        let parent = commit.parent_id(0).ok().and_then(|id| repo.find_commit(id).ok());
        let before = parent.as_ref().map_or_else(|| Ok(nothing.clone()), content)?;
        if before != after {
            if commits.len() == entries_max {
                return Ok(History { commits, complete: false });
            }
            commits.push(describe(&commit)?);
        }
        let Some(parent) = parent else { return Ok(History { commits, complete: true }) };
        (commit, after) = (parent, before);
    }
    Ok(History { commits, complete: false })
}
