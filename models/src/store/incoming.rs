//! The arrival of a blob from far away: hashed while it comes, and gone on with where it was cut off.
//!
//! What has come so far lies in `partial/<sha256>`, also over a restart. It is no part of what readers see, and nothing
//! believes it: its bytes are hashed again when the arrival goes on, and the whole must be what was promised before it
//! gets its name in `blobs/`. A power cut may leave other bytes in it than came; that ends as a mismatch, which throws
//! it away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::SystemTime;

use super::publisher::{AddError, Publisher, sync_dir};
use crate::Blob;
use crate::digest::Hasher;

/// How many unfinished arrivals are kept; of more, the oldest go.
const PARTIAL_MAX: usize = 16;

/// A blob that is on its way into the store. Dropping it keeps what has come.
#[derive(Debug)]
pub struct Incoming<'a> {
    publisher: &'a Publisher,
    expected: Blob,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size_bytes: u64,
}

impl Publisher {
    /// Begins the arrival of `expected`, or goes on with one that was cut off. There is one at a time for each blob.
    pub fn receive(&self, expected: &Blob) -> Result<Incoming<'_>, AddError> {
        let fail = |source| AddError::Io { blob: *expected, source };
        let folder = self.layout.partial();
        fs::create_dir_all(&folder).map_err(fail)?;
        let path = folder.join(expected.sha256.to_string());
        if !path.exists() {
            self.make_room().map_err(fail)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path);
        let file = file.map_err(fail)?;
        // Two that write into one file could change it after one of them has given it its name.
        file.try_lock().map_err(|e| fail(e.into()))?;
        let mut incoming =
            Incoming { publisher: self, expected: *expected, path, file, hasher: Hasher::default(), size_bytes: 0 };
        incoming.read_again().map_err(fail)?;
        Ok(incoming)
    }

    /// Throws away what has come of blobs that nobody waits for any more.
    pub fn forget_arrivals(&self) -> io::Result<()> {
        match fs::read_dir(self.layout.partial()) {
            Ok(entries) => entries.into_iter().try_for_each(|entry| fs::remove_file(entry?.path())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn make_room(&self) -> io::Result<()> {
        let mut arrivals = Vec::new();
        for entry in fs::read_dir(self.layout.partial())? {
            let entry = entry?;
            arrivals.push((entry.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
        }
        arrivals.sort();
        let surplus = (arrivals.len() + 1).saturating_sub(PARTIAL_MAX);
        arrivals.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

impl Incoming<'_> {
    /// How many bytes have come: where the source has to go on.
    pub fn offset(&self) -> u64 {
        self.size_bytes
    }

    /// Begins from nothing, for a source that cannot go on in the middle.
    pub fn restart(&mut self) -> Result<(), AddError> {
        let fail = |source| AddError::Io { blob: self.expected, source };
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(fail)?;
        (self.hasher, self.size_bytes) = (Hasher::default(), 0);
        Ok(())
    }

    /// Takes the bytes that come next. More than was promised is refused, and ends the arrival.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), AddError> {
        let (blob, expected_bytes) = (self.expected, self.expected.size_bytes);
        if self.size_bytes + bytes.len() as u64 > expected_bytes {
            self.throw_away();
            return Err(AddError::TooLong { expected_bytes });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            // Hashed as far as it was written: after an error, the digest is still that of the file.
            match self.file.write(rest) {
                Ok(0) => return Err(AddError::Io { blob, source: io::ErrorKind::WriteZero.into() }),
                Ok(length) => {
                    self.hasher.update(&rest[..length]);
                    self.size_bytes += length as u64;
                    rest = &rest[length..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(AddError::Io { blob, source }),
            }
        }
        Ok(())
    }

    /// Gives the blob its name, if it is what was promised. What is not is thrown away.
    pub fn finish(mut self) -> Result<(), AddError> {
        let expected = self.expected;
        let got = Blob { sha256: std::mem::take(&mut self.hasher).finish(), size_bytes: self.size_bytes };
        if got != expected {
            self.throw_away();
            return Err(AddError::Mismatch { expected, got });
        }
        let fail = |source| AddError::Io { blob: expected, source };
        self.file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(fail)?;
        self.file.sync_all().map_err(fail)?;
        let name = self.publisher.layout.blob(&expected.sha256);
        self.publisher.make_way(&name);
        fs::rename(&self.path, &name).map_err(fail)?;
        sync_dir(name.parent().expect("every file of a store lies in a folder")).map_err(fail)?;
        self.publisher.damaged_blobs().remove(&expected);
        Ok(())
    }

    /// Hashes what is there. More than was promised cannot be part of it.
    fn read_again(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.expected.size_bytes {
            self.file.set_len(0)?;
        }
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    self.hasher.update(&buffer[..length]);
                    self.size_bytes += length as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn throw_away(&self) {
        // What stays by mistake is hashed, found wrong and thrown away the next time.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Publisher) {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::open(folder.path()).unwrap();
        (folder, publisher)
    }

    #[test]
    fn an_arrival_goes_on_where_it_was_cut_off_also_over_a_restart() {
        let (folder, publisher) = store();
        let blob = Blob::of(b"the whole model");
        let mut incoming = publisher.receive(&blob).unwrap();
        assert_eq!(incoming.offset(), 0);
        incoming.write(b"the whole").unwrap();
        drop(incoming);
        assert!(!publisher.has(&blob).unwrap());
        drop(publisher);

        let publisher = Publisher::open(folder.path()).unwrap();
        let mut incoming = publisher.receive(&blob).unwrap();
        assert_eq!(incoming.offset(), 9);
        incoming.write(b" model").unwrap();
        incoming.finish().unwrap();
        assert!(publisher.has(&blob).unwrap());
        assert_eq!(publisher.reader().blob(&blob).unwrap(), b"the whole model");
        assert_eq!(fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn wrong_bytes_get_no_name_and_are_not_gone_on_with() {
        let (_folder, publisher) = store();
        let blob = Blob::of(b"the whole model");
        let mut incoming = publisher.receive(&blob).unwrap();
        incoming.write(b"another thing!!").unwrap();
        assert!(matches!(incoming.finish(), Err(AddError::Mismatch { .. })));
        let mut incoming = publisher.receive(&blob).unwrap();
        assert_eq!(incoming.offset(), 0);
        incoming.write(b"the").unwrap();
        assert!(matches!(incoming.write(b" whole model and more"), Err(AddError::TooLong { expected_bytes: 15 })));
        let mut incoming = publisher.receive(&blob).unwrap();
        assert_eq!(incoming.offset(), 0);
        incoming.write(b"the").unwrap();
        incoming.restart().unwrap();
        incoming.write(b"the whole model").unwrap();
        incoming.finish().unwrap();
        assert!(publisher.has(&blob).unwrap());
    }

    #[test]
    fn a_blob_arrives_once_at_a_time() {
        let (_folder, publisher) = store();
        let blob = Blob::of(b"the whole model");
        let first = publisher.receive(&blob).unwrap();
        assert!(matches!(publisher.receive(&blob), Err(AddError::Io { .. })));
        drop(first);
        publisher.receive(&blob).unwrap();
    }

    #[test]
    fn unfinished_arrivals_are_bounded_and_can_be_forgotten() {
        let (folder, publisher) = store();
        for number in 0..PARTIAL_MAX + 5 {
            publisher.receive(&Blob::of(number.to_string().as_bytes())).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path().join("partial")).unwrap().count(), PARTIAL_MAX);
        publisher.forget_arrivals().unwrap();
        assert_eq!(fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
    }
}
