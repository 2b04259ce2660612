//! Space on the disk: how much there is, and what is held back so that accepted work can end when there is none.
//!
//! ```text
//! reserve     16 MiB of blocks that are allocated, of no content; not there while the disk is full
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::replace::sync_folder;

/// The reserve of one outbox.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// The reserve at `path`, taken if there is space for it.
    pub(super) fn open(path: PathBuf, bytes: u64) -> io::Result<Self> {
        let mut reserve = Self { path, bytes, held: false };
        reserve.take()?;
        Ok(reserve)
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the reserve, or what it lacks. False if there is no space for it; then nothing of it is held.
    pub(super) fn take(&mut self) -> io::Result<bool> {
        if self.bytes == 0 {
            self.held = true;
            return Ok(true);
        }
        let allocated = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
        let allocated = allocated.and_then(|mut file| allocate(&mut file, self.bytes));
        self.held = match allocated {
            Ok(()) => {
                sync_folder(self.path.parent().unwrap_or(&self.path))?;
                true
            }
            Err(error) if is_full(&error) => {
                self.release()?;
                false
            }
            Err(error) => return Err(error),
        };
        Ok(self.held)
    }

    /// Gives the space back.
    pub(super) fn release(&mut self) -> io::Result<()> {
        self.held = false;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Blocks for the whole length, so that it is no sparse file. They are written to only where the file system cannot give them
/// otherwise, because that takes time and wears flash out.
fn allocate(file: &mut File, bytes: u64) -> io::Result<()> {
    file.set_len(file.metadata()?.len().min(bytes))?;
    match fallocate(&*file, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => fill(file, bytes)?,
        allocated => allocated?,
    }
    file.sync_all()
}

/// Bytes that no file system makes smaller.
fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    let (mut left, mut state) = (bytes, 1_u64);
    while left > 0 {
        let chunk: Vec<u8> = std::iter::repeat_with(|| {
            // xorshift
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(8192)
        .flatten()
        .take(usize::try_from(left).unwrap_or(usize::MAX))
        .collect();
        file.write_all(&chunk)?;
        left -= chunk.len() as u64;
    }
    Ok(())
}

/// Bytes that may still be written where `path` lies.
pub(super) fn free(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether an error says that there is no space.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use tempfile::TempDir;

    #[test]
    fn the_reserve_is_blocks_and_not_only_a_length() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("reserve");
        let mut reserve = Reserve::open(path.clone(), 1 << 20).unwrap();
        assert!(reserve.is_held());
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
        reserve.release().unwrap();
        assert!(!reserve.is_held() && !path.exists());
        reserve.release().unwrap();
        assert!(reserve.take().unwrap());
        // A sparse one, as a copy of the folder may have it, is made good.
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        assert!(Reserve::open(path.clone(), 1 << 20).unwrap().is_held());
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    }

    #[test]
    fn where_blocks_cannot_be_asked_for_they_are_written() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("reserve");
        fill(&mut File::create(&path).unwrap(), 100_001).unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 100_001);
        assert!(content.chunks(16).collect::<std::collections::HashSet<_>>().len() > 6000, "it cannot be compressed");
    }

    #[test]
    fn a_reserve_for_which_there_is_no_space_is_not_held_and_takes_none() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("reserve");
        let all = free(folder.path()).unwrap();
        let reserve = Reserve::open(path.clone(), all.saturating_mul(4)).unwrap();
        assert!(!reserve.is_held() && !path.exists());
    }
}
