//! Payloads and answers above 64 KiB: files named by the SHA-256 of what they hold.
//!
//! ```text
//! bodies/<64 hex digits>     the bytes
//! bodies/<64 hex digits>.part
//! ```
//!
//! A file is written beside its name, synced and renamed before the row that names it is written, and removed after the
//! barrier of the change by which the last row stopped naming it. What lies there without a row is swept at the start.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hedge_wire::Digest;

use crate::replace::sync_folder;
use crate::store::is_bad_sector;

/// The folder of large bodies.
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Opens the folder, or makes it.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Puts `bytes` under their digest. The name survives the end of the power after [`sync`](Self::sync).
    pub(super) fn write(&self, digest: &[u8; 32], bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        let part = path.with_extension("part");
        let written = File::create(&part).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| fs::rename(&part, &path));
        if renamed.is_err() {
            // What is left of it takes space that is wanted.
            let _ = fs::remove_file(&part);
        }
        renamed
    }

    /// All names survive the end of the power.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.folder)
    }

    /// Whether a file of that digest and length is there; its content is checked where it is read.
    pub(super) fn has(&self, digest: &[u8; 32], length: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|meta| meta.is_file() && meta.len() == length)
    }

    /// The bytes of that digest; none if they are not there, or are others.
    pub(super) fn read(&self, digest: &[u8; 32], length: u64) -> io::Result<Option<Bytes>> {
        let file = match File::open(self.path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        match file.take(length + 1).read_to_end(&mut bytes) {
            Err(error) if is_bad_sector(&error) => return Ok(None),
            read => read?,
        };
        Ok((Digest::of(&bytes).0 == *digest).then(|| bytes.into()))
    }

    /// Removes a file; one that cannot be removed is swept at the next start.
    pub(super) fn remove(&self, digest: &[u8; 32]) {
        let _ = fs::remove_file(self.path(digest));
    }

    /// Removes what `named` does not name.
    pub(super) fn sweep(&self, named: impl Fn(&[u8; 32]) -> bool) -> io::Result<()> {
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            if !digest_of(&path).is_some_and(|digest| named(&digest)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    pub(super) fn path(&self, digest: &[u8; 32]) -> PathBuf {
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name)
    }
}

fn digest_of(path: &Path) -> Option<[u8; 32]> {
    let name = path.file_name()?.to_str()?;
    Digest::parse(&format!("sha256:{name}")).ok().map(|digest| digest.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_file_is_found_by_its_digest_and_checked_when_it_is_read() {
        let folder = TempDir::new().unwrap();
        let files = Files::open(folder.path().join("bodies")).unwrap();
        let digest = Digest::of(b"content").0;
        assert_eq!(files.read(&digest, 7).unwrap(), None);
        files.write(&digest, b"content").unwrap();
        files.sync().unwrap();
        assert!(files.has(&digest, 7) && !files.has(&digest, 8));
        assert_eq!(files.read(&digest, 7).unwrap(), Some(Bytes::from_static(b"content")));
        for damaged in [&b"contenT"[..], b"conten", b"content and more", b""] {
            fs::write(files.path(&digest), damaged).unwrap();
            assert_eq!(files.read(&digest, 7).unwrap(), None, "{damaged:?}");
        }
        files.remove(&digest);
        assert!(!files.has(&digest, 7));
    }

    #[test]
    fn what_no_row_names_is_swept() {
        let folder = TempDir::new().unwrap();
        let files = Files::open(folder.path().to_owned()).unwrap();
        let [named, orphan] = [Digest::of(b"a").0, Digest::of(b"b").0];
        files.write(&named, b"a").unwrap();
        files.write(&orphan, b"b").unwrap();
        fs::write(files.path(&named).with_extension("part"), b"half").unwrap();
        files.sweep(|digest| *digest == named).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(left, [files.path(&named)]);
    }
}
