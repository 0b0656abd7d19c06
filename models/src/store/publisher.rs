//! Writes a store: the one program that may.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use fs_err as fs;
use tempfile::NamedTempFile;

use super::reader::{Current, ReadError};
use super::scrub::Scrub;
use super::{Layout, RELEASE_BYTES_MAX, Reader, ReleaseName, release_link};
use crate::digest::Hasher;
use crate::{Blob, Release, Rollback};

/// How many damaged files are kept for people to look at.
const QUARANTINE_MAX: usize = 4;

/// The writer of a store. While one lives, no other can be opened, in this or another process.
///
/// Every change is written aside, synced, and then given its name by one rename, so dropping or
/// killing the publisher between any two instructions leaves the store's three facts true.
#[derive(Debug)]
pub struct Publisher {
    pub(super) layout: Layout,
    /// Held, never read: the kernel drops the lock with the process, also when that is killed.
    lock: File,
    /// What the scrub found, until good bytes are there: `has` cannot see it by name and size.
    damaged: Mutex<BTreeSet<Blob>>,
    pub(super) scrub: Mutex<Scrub>,
}

/// Why a store could not be opened for publishing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another publisher holds the store.
    #[error("another program publishes into {path}: stop it, or give each its own store")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot open the store at {path} for publishing")]
    Io {
        /// The store's folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why bytes were not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The bytes are not those that were promised.
    #[error("the bytes have sha256 {} and size {}, not sha256 {} and size {}", got.sha256, got.size_bytes, expected.sha256, expected.size_bytes)]
    Mismatch {
        /// What was promised.
        expected: Blob,
        /// What came.
        got: Blob,
    },
    /// More bytes came than were promised; reading stopped there.
    #[error("more than the promised {expected_bytes} bytes came")]
    TooLong {
        /// How many were promised.
        expected_bytes: u64,
    },
    /// The source failed.
    #[error("cannot read the bytes from their source")]
    Source(#[source] io::Error),
    /// The store's file system refused.
    #[error("cannot write blob {} into the store", blob.sha256)]
    Io {
        /// The blob.
        blob: Blob,
        /// Why.
        source: io::Error,
    },
}

/// Why a release was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A blob of the release is not in the store.
    #[error("blob {} of the release is not in the store: add it first", .0.sha256)]
    Missing(Blob),
    /// The release is larger than a reader would read.
    #[error("the release's file would have {0} bytes, more than the {RELEASE_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// The store's file system refused.
    #[error("cannot publish release {name}")]
    Io {
        /// The release.
        name: ReleaseName,
        /// Why.
        source: io::Error,
    },
    /// The store's releases cannot be listed.
    #[error("cannot list the store's releases")]
    List(#[source] io::Error),
}

/// Why an earlier release was not published again.
#[derive(Debug, thiserror::Error)]
pub enum RepublishError {
    /// Nothing was ever published.
    #[error("nothing is published yet")]
    Empty,
    /// It cannot be read, or what is live cannot.
    #[error("cannot read the earlier release")]
    Read(#[from] ReadError),
    /// It cannot be published.
    #[error("cannot publish the earlier release again")]
    Publish(#[from] PublishError),
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Release files.
    pub releases: usize,
    /// Blobs.
    pub blobs: usize,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Closing the file would not do while a process that was just forked still has it, until it becomes another program.
        let _ = self.lock.unlock();
    }
}

impl Publisher {
    /// Opens the store at `root`, making it where there is none, and removes what a killed publisher left half done.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let layout = Layout { root: root.into() };
        let fail = |source| OpenError::Io { path: layout.root.clone(), source };
        for folder in [layout.blobs(), layout.releases(), layout.tmp()] {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let lock = File::options().create(true).truncate(false).write(true).open(layout.lock()).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: layout.lock() }),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        for entry in fs::read_dir(layout.tmp()).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let is_folder = entry.file_type().map_err(fail)?.is_dir();
            // Nobody here makes folders, but one that somebody made must not keep the store shut.
            if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }.map_err(fail)?;
        }
        // A killed publisher may have given names that the disk does not know yet; what is built on
        // them from here on must survive a power cut.
        for folder in [layout.blobs(), layout.releases(), layout.root.join("blobs"), layout.root.clone()] {
            sync_dir(&folder).map_err(fail)?;
        }
        Ok(Self { layout, lock, damaged: Mutex::default(), scrub: Mutex::default() })
    }

    /// A reader of the same store.
    pub fn reader(&self) -> Reader {
        Reader::new(&self.layout.root)
    }

    /// Whether the store has `blob`, judged by its name and size: the bytes were verified when they got that name.
    /// One that the scrub has found damaged is not had until it has been added again.
    pub fn has(&self, blob: &Blob) -> io::Result<bool> {
        if self.damaged_blobs().contains(blob) {
            return Ok(false);
        }
        match std::fs::metadata(self.layout.blob(&blob.sha256)) {
            Ok(metadata) => Ok(metadata.is_file() && metadata.len() == blob.size_bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Adds the bytes of `expected` from `source`, unless the store has them. This and [`Publisher::receive`] are the only
    /// ways into `blobs/`.
    ///
    /// A damaged file is replaced by the same one rename, when the good bytes are verified and on the disk: there is no
    /// moment at which its name is gone. The bad bytes are kept in `quarantine/`, where that can be done.
    pub fn add(&self, expected: &Blob, source: impl Read) -> Result<(), AddError> {
        let fail = |source| AddError::Io { blob: *expected, source };
        if self.has(expected).map_err(fail)? {
            return Ok(());
        }
        let mut file = self.temporary().map_err(fail)?;
        let mut source = source.take(expected.size_bytes.saturating_add(1));
        let mut hasher = Hasher::default();
        let mut size_bytes = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let piece = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => &buffer[..length],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(AddError::Source(e)),
            };
            size_bytes += piece.len() as u64;
            hasher.update(piece);
            file.write_all(piece).map_err(fail)?;
        }
        if size_bytes > expected.size_bytes {
            return Err(AddError::TooLong { expected_bytes: expected.size_bytes });
        }
        let got = Blob { sha256: hasher.finish(), size_bytes };
        if got != *expected {
            return Err(AddError::Mismatch { expected: *expected, got });
        }
        let path = self.layout.blob(&expected.sha256);
        self.make_way(&path);
        settle(file, &path).map_err(fail)?;
        self.damaged_blobs().remove(expected);
        Ok(())
    }

    /// Makes `release` the live one. All its blobs must have been added.
    pub fn publish(&self, release: &Release) -> Result<ReleaseName, PublishError> {
        let last = self.layout.list().map_err(PublishError::List)?.last().map_or(0, |name| name.seq);
        // Also where the live release's file was lost: one name never means two files.
        let live = self.reader().current_name().ok().flatten().map_or(0, |name| name.seq);
        let name = ReleaseName { seq: last.max(live) + 1, commit: release.commit.id.clone() };
        let fail = |source| PublishError::Io { name: name.clone(), source };
        for blob in release.blobs() {
            if !self.has(&blob).map_err(fail)? {
                return Err(PublishError::Missing(blob));
            }
        }
        let text = serde_json::to_vec_pretty(release).expect("a release has only text keys and finite values");
        if text.len() as u64 > RELEASE_BYTES_MAX {
            return Err(PublishError::TooLarge(text.len()));
        }
        let mut file = self.temporary().map_err(fail)?;
        file.write_all(&text).map_err(fail)?;
        settle(file, &self.layout.release(&name)).map_err(fail)?;
        if let Err(error) = self.swap(&name) {
            // A release that was never live must not pile up at each attempt, nor count among the previous ones. Where
            // the rename was done and only its sync failed, it is live.
            let is_other = match std::fs::read_link(self.layout.current()) {
                Ok(target) => target != release_link(&name),
                // Not there, or no link. Any other error leaves open what it is.
                Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput),
            };
            if is_other {
                let _ = std::fs::remove_file(self.layout.release(&name));
            }
            return Err(fail(error));
        }
        Ok(name)
    }

    /// Makes the content of an earlier release live again, as a new release that says so.
    ///
    /// A new release and not `current` pointing back: the sequence stays in the order of what happened, nothing that
    /// was written is changed, and whoever compares names sees a change.
    pub fn republish(&self, earlier: &ReleaseName) -> Result<ReleaseName, RepublishError> {
        let reader = self.reader();
        let live = reader.current_name()?.ok_or(RepublishError::Empty)?;
        let Current { name, release, .. } = reader.release(earlier.clone())?;
        // A way back to a way back is a way back to where that led.
        let to = release.rollback.as_ref().map_or(name, |rollback| rollback.to.clone());
        Ok(self.publish(&release.rolled_back(Rollback { from: live, to }))?)
    }

    /// Removes all but the live release and the `keep_previous` before it, and every blob that none of these needs.
    ///
    /// Of releases of one commit that follow one another, the newest alone counts and stays: one that brings along what
    /// stands in for a version, or is published anew since its file was damaged, takes no earlier one's place.
    pub fn collect(&self, keep_previous: usize) -> Result<Collected, ReadError> {
        let mut collected = Collected::default();
        let Some(current) = self.reader().current_name()? else { return Ok(collected) };
        let fail = |path: PathBuf| move |source| ReadError::Io { path, source };
        let names = self.layout.list().map_err(fail(self.layout.releases()))?;
        let mut newest_of_each: Vec<_> = names.iter().rev().filter(|name| name.seq <= current.seq).collect();
        newest_of_each.dedup_by_key(|name| &name.commit);
        let kept: BTreeSet<_> = newest_of_each.into_iter().take(keep_previous + 1).collect();
        let (mut needed, mut unreadable) = (BTreeSet::new(), BTreeSet::new());
        for name in &kept {
            match self.release(name) {
                Ok(release) => needed.extend(release.blobs().map(|blob| blob.sha256.to_string())),
                // An earlier one that the disk has damaged is of no use, and must not keep everything else for ever.
                Err(ReadError::Release { .. }) if **name != current => {
                    unreadable.insert(*name);
                }
                Err(error) => return Err(error),
            }
        }
        for name in names.iter().filter(|name| !kept.contains(name) || unreadable.contains(name)) {
            let path = self.layout.release(name);
            std::fs::remove_file(&path).map_err(fail(path))?;
            collected.releases += 1;
        }
        // Releases go before their blobs, for good: no release file may ever lack one.
        sync_dir(&self.layout.releases()).map_err(fail(self.layout.releases()))?;
        for entry in std::fs::read_dir(self.layout.blobs()).map_err(fail(self.layout.blobs()))? {
            let entry = entry.map_err(fail(self.layout.blobs()))?;
            if !entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                std::fs::remove_file(entry.path()).map_err(fail(entry.path()))?;
                collected.blobs += 1;
            }
        }
        self.damaged_blobs().retain(|blob| needed.contains(&blob.sha256.to_string()));
        Ok(collected)
    }

    /// The releases in the store that can be read, oldest first.
    pub(super) fn readable_releases(&self) -> Result<Vec<Release>, ReadError> {
        let names = self.layout.list().map_err(|source| ReadError::Io { path: self.layout.releases(), source })?;
        let mut releases = Vec::new();
        for name in &names {
            match self.release(name) {
                Ok(release) => releases.push(release),
                Err(ReadError::Release { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(releases)
    }

    pub(super) fn damaged_blobs(&self) -> MutexGuard<'_, BTreeSet<Blob>> {
        // A set is whole between any two of its methods.
        self.damaged.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn release(&self, name: &ReleaseName) -> Result<Release, ReadError> {
        let path = self.layout.release(name);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| ReadError::Release { path, source }),
            Err(source) => Err(ReadError::Io { path, source }),
        }
    }

    /// Sets aside what lies at a blob's name, where something does.
    pub(super) fn make_way(&self, path: &Path) {
        if std::fs::symlink_metadata(path).is_ok() {
            self.set_aside(path);
        }
    }

    /// Gives damaged bytes a second name in `quarantine/`, which holds the last few. They are for people to look at, so
    /// whatever fails here does not keep the good bytes out.
    fn set_aside(&self, path: &Path) {
        let Some(digest) = path.file_name().and_then(|name| name.to_str()) else { return };
        let folder = self.layout.quarantine();
        let _ = std::fs::create_dir_all(&folder);
        let Ok(entries) = std::fs::read_dir(&folder) else { return };
        let number = |name: &str| name.split_once('-').and_then(|(number, _)| number.parse::<u64>().ok());
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut numbered: Vec<_> = names.filter_map(|name| Some((number(&name)?, name))).collect();
        numbered.sort();
        let next = numbered.last().map_or(1, |(number, _)| number.saturating_add(1));
        for (_, name) in numbered.iter().rev().skip(QUARANTINE_MAX - 1) {
            let _ = std::fs::remove_file(folder.join(name));
        }
        // Never under its digest's name, which it does not deserve.
        let aside = folder.join(format!("{next}-{digest}"));
        let is_file = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
        let _ = if is_file {
            std::fs::hard_link(path, aside)
        } else {
            // No rename of a file can take the place of a folder.
            std::fs::rename(path, aside)
        };
    }

    /// A file aside, with a name that nothing else has. Readable by other users, since the serving
    /// program may run as one; nothing in a store is secret.
    fn temporary(&self) -> io::Result<NamedTempFile> {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        tempfile::Builder::new().permissions(mode).tempfile_in(self.layout.tmp())
    }

    /// Points `current` to `name`: a link made aside takes the old one's place in one rename.
    fn swap(&self, name: &ReleaseName) -> io::Result<()> {
        let target = release_link(name);
        let link = tempfile::Builder::new()
            .make_in(self.layout.tmp(), |path| std::os::unix::fs::symlink(&target, path))?
            .into_temp_path();
        fs::rename(&link, self.layout.current())?;
        // The rename took the name away: there is nothing left to delete.
        link.keep()?;
        sync_dir(&self.layout.root)
    }
}

/// Gives a finished temporary file its name for good: its bytes are on the disk before the name is.
fn settle(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    sync_dir(path.parent().expect("every file of a store lies in a folder"))
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
