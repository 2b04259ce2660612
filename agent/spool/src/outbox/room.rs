//! Space on the disk: how much there is, and what is held back so that accepted work can end when there is none.
//!
//! ```text
//! reserve           12 MiB of blocks that are allocated, of no content; not there while the disk is full
//! reserve-start     4 MiB more, for the next start: opening a database takes space
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::replace::sync_folder;

const WORK: &str = "reserve";
const START: &str = "reserve-start";

/// The reserve of one outbox.
pub(super) struct Reserve {
    work: Part,
    start: Part,
}

struct Part {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// The reserve in a folder, as much of it as there is space for.
    pub(super) fn open(folder: &Path, bytes: u64) -> io::Result<Self> {
        let start = bytes / 4;
        let part = |name: &str, bytes| Part { path: folder.join(name), bytes, held: false };
        let mut reserve = Self { work: part(WORK, bytes - start), start: part(START, start) };
        reserve.take()?;
        Ok(reserve)
    }

    /// Gives back what is held for work; if there is no such, what is held for the start. False if there is neither.
    pub(super) fn release_for_the_start(folder: &Path) -> io::Result<bool> {
        for name in [WORK, START] {
            match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => return removed.map(|()| true),
            }
        }
        Ok(false)
    }

    pub(super) fn is_held(&self) -> bool {
        self.work.held && self.start.held
    }

    pub(super) fn bytes(&self) -> u64 {
        self.work.bytes + self.start.bytes
    }

    /// Takes what it lacks. False if there is no space for all of it.
    pub(super) fn take(&mut self) -> io::Result<bool> {
        Ok(self.start.take()? && self.work.take()?)
    }

    /// Gives back what is held for work.
    pub(super) fn release(&mut self) -> io::Result<()> {
        self.work.release()
    }
}

impl Part {
    /// False if there is no space for it; then nothing of it is held.
    fn take(&mut self) -> io::Result<bool> {
        if self.bytes == 0 {
            self.held = true;
            return Ok(true);
        }
        if !self.may_have_room() {
            self.release()?;
            return Ok(false);
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

    /// False where there is known to be not enough. To try all the same would take every block that there is, for a moment in which
    /// others find none.
    fn may_have_room(&self) -> bool {
        let held = fs::metadata(&self.path).map_or(0, |meta| meta.blocks() * 512);
        !lacks(self.path.parent().unwrap_or(&self.path), self.bytes.saturating_sub(held))
    }

    fn release(&mut self) -> io::Result<()> {
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

/// Whether so many bytes are known not to be free where `path` lies. A file system that does not tell is asked by writing.
pub(super) fn lacks(path: &Path, bytes: u64) -> bool {
    free(path).is_ok_and(|free| free < bytes)
}

/// Bytes that may still be written where `path` lies.
fn free(path: &Path) -> io::Result<u64> {
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
    use tempfile::TempDir;

    fn blocks(path: &Path) -> u64 {
        fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
    }

    #[test]
    fn the_reserve_is_blocks_and_not_only_a_length() {
        let folder = TempDir::new().unwrap();
        let [work, start] = [WORK, START].map(|name| folder.path().join(name));
        let mut reserve = Reserve::open(folder.path(), 1 << 20).unwrap();
        assert!(reserve.is_held() && reserve.bytes() == 1 << 20);
        assert!(blocks(&work) >= 3 << 18 && blocks(&start) >= 1 << 18);
        reserve.release().unwrap();
        assert!(!reserve.is_held() && !work.exists() && start.exists());
        reserve.release().unwrap();
        assert!(reserve.take().unwrap() && reserve.is_held());
        // A sparse one, as a copy of the folder may have it, is made good.
        fs::remove_file(&work).unwrap();
        File::create(&work).unwrap().set_len(3 << 18).unwrap();
        assert!(Reserve::open(folder.path(), 1 << 20).unwrap().is_held());
        assert!(blocks(&work) >= 3 << 18);
    }

    #[test]
    fn a_start_that_finds_no_space_gets_one_part_after_the_other() {
        let folder = TempDir::new().unwrap();
        Reserve::open(folder.path(), 1 << 20).unwrap();
        assert!(Reserve::release_for_the_start(folder.path()).unwrap());
        assert!(!folder.path().join(WORK).exists() && folder.path().join(START).exists());
        assert!(Reserve::release_for_the_start(folder.path()).unwrap());
        assert!(!Reserve::release_for_the_start(folder.path()).unwrap());
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
        let all = free(folder.path()).unwrap();
        let reserve = Reserve::open(folder.path(), all.saturating_mul(8)).unwrap();
        assert!(!reserve.is_held() && fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}
