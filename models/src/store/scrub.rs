//! Reads a store's blobs again, a piece at a time, and finds those that the disk has changed or lost.
//!
//! Finds only: what is damaged is replaced by [`Publisher::add`], as soon as somebody has the right bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::PoisonError;

use super::{Publisher, ReadError};
use crate::digest::Hasher;
use crate::{Blob, Release};

/// How much is read at a time.
const PIECE_BYTES: u64 = 64 << 10;

/// Where a scrub stands.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    /// The blobs of this round that are still to be read; the next one is the last.
    left: Vec<Blob>,
    reading: Option<Reading>,
}

/// A blob that is half read.
#[derive(Debug)]
struct Reading {
    blob: Blob,
    file: File,
    hasher: Hasher,
    size_bytes: u64,
}

/// What one step of a scrub came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// How many bytes were read.
    pub bytes: u64,
    /// The blobs that were found damaged, missing or unreadable in this step.
    pub damaged: Vec<Blob>,
    /// Whether every blob has been looked at: the next step begins anew.
    pub round_ended: bool,
}

impl Publisher {
    /// Reads on where the last step ended, at most `bytes_max` bytes, in the blobs of the live release first and then
    /// in those of the others that are kept. A blob that is found damaged counts as absent from then on.
    ///
    /// Publishing and adding do not wait for it; a second scrub would.
    pub fn scrub(&self, bytes_max: u64) -> Result<Scrubbed, ReadError> {
        // A blob that a panicking thread was reading is looked at in the next round.
        let mut scrub = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scrubbed = Scrubbed::default();
        if scrub.reading.is_none() && scrub.left.is_empty() {
            scrub.left = self.needed()?;
        }
        while scrubbed.bytes < bytes_max {
            let mut reading = match scrub.reading.take() {
                Some(reading) => reading,
                None => {
                    let Some(blob) = scrub.left.pop() else {
                        scrubbed.round_ended = true;
                        break;
                    };
                    match self.begin(blob)? {
                        Some(reading) => reading,
                        None => {
                            self.note_damage(blob, &mut scrubbed)?;
                            continue;
                        }
                    }
                }
            };
            match reading.read_on(bytes_max - scrubbed.bytes) {
                Ok(0) if reading.is_whole() => {}
                Ok(length) if length > 0 => {
                    scrubbed.bytes += length;
                    scrub.reading = Some(reading);
                }
                // A file that cannot be read to its end is as good as a damaged one.
                Ok(_) | Err(_) => self.note_damage(reading.blob, &mut scrubbed)?,
            }
        }
        Ok(scrubbed)
    }

    /// The blobs that were found damaged and have not been added again.
    pub fn damaged(&self) -> Vec<Blob> {
        self.damaged_blobs().iter().copied().collect()
    }

    /// The blobs of `release` that the store lacks, judged as [`Publisher::has`] does.
    pub fn lacking(&self, release: &Release) -> io::Result<Vec<Blob>> {
        let mut lacking = Vec::new();
        for blob in release.blobs() {
            if !self.has(&blob)? {
                lacking.push(blob);
            }
        }
        Ok(lacking)
    }

    /// The releases of the store that need `blob`, newest first; those that cannot be read are left out.
    pub fn releases_that_need(&self, blob: &Blob) -> Result<Vec<Release>, ReadError> {
        let releases = self.readable_releases()?;
        Ok(releases.into_iter().rev().filter(|release| release.blobs().any(|needed| needed == *blob)).collect())
    }

    /// Every blob of every release, once, those of the newest release last.
    fn needed(&self) -> Result<Vec<Blob>, ReadError> {
        let (mut needed, mut seen) = (Vec::new(), BTreeSet::new());
        for release in self.readable_releases()?.iter().rev() {
            needed.extend(release.blobs().filter(|blob| seen.insert(*blob)));
        }
        needed.reverse();
        Ok(needed)
    }

    fn begin(&self, blob: Blob) -> Result<Option<Reading>, ReadError> {
        let path = self.layout.blob(&blob.sha256);
        match File::open(&path) {
            Ok(file) => Ok(Some(Reading { blob, file, hasher: Hasher::default(), size_bytes: 0 })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Io { path, source }),
        }
    }

    fn note_damage(&self, blob: Blob, scrubbed: &mut Scrubbed) -> Result<(), ReadError> {
        // It may have been collected, or replaced by good bytes, since the round or its reading began.
        if !self.needed()?.contains(&blob) || self.reader().blob(&blob).is_ok() {
            return Ok(());
        }
        self.damaged_blobs().insert(blob);
        scrubbed.damaged.push(blob);
        Ok(())
    }
}

impl Reading {
    /// Reads one piece of at most `bytes_max` bytes; 0 at the end, which comes one byte after the promised one at most.
    fn read_on(&mut self, bytes_max: u64) -> io::Result<u64> {
        let left = (self.blob.size_bytes + 1).saturating_sub(self.size_bytes);
        let mut piece = Vec::new();
        let length = (&self.file).take(left.min(bytes_max).min(PIECE_BYTES)).read_to_end(&mut piece)? as u64;
        self.hasher.update(&piece);
        self.size_bytes += length;
        Ok(length)
    }

    fn is_whole(&mut self) -> bool {
        let got = Blob { sha256: std::mem::take(&mut self.hasher).finish(), size_bytes: self.size_bytes };
        got == self.blob
    }
}
