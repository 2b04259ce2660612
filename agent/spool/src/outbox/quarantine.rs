//! What was damaged, or did harm: kept for people to look at, bounded, and never used again.
//!
//! ```text
//! quarantine/00000007-database/            a database that failed
//! quarantine/00000008-<request id>         the payload of a request that killed the process
//! ```
//!
//! Names begin with a number that counts up, so that the oldest is known without a clock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hedge_wire::RequestId;

use crate::store::{disk_bytes, remove_any as remove};

/// The most that is kept.
const MAX_ITEMS: usize = 16;

/// The folder of what is kept away.
pub(super) struct Quarantine {
    folder: PathBuf,
    max_bytes: u64,
}

impl Quarantine {
    /// The quarantine in `folder`, which is made when it is needed. The newest item is kept even if it is larger than
    /// `max_bytes`.
    pub(super) fn new(folder: PathBuf, max_bytes: u64) -> Self {
        Self { folder, max_bytes }
    }

    /// Moves a file or folder here, and says where it lies now.
    pub(super) fn take(&self, path: &Path, what: &str) -> io::Result<PathBuf> {
        let to = self.next(what)?;
        fs::rename(path, &to)?;
        self.trim()?;
        Ok(to)
    }

    /// Keeps the payload of a request.
    pub(super) fn keep(&self, id: &RequestId, payload: &[u8]) -> io::Result<()> {
        fs::write(self.next(&id.to_string())?, payload)?;
        self.trim()
    }

    /// Items held, and their bytes.
    pub(super) fn held(&self) -> (usize, u64) {
        let items = self.items();
        (items.len(), items.iter().map(|(_, path)| disk_bytes(path)).sum())
    }

    /// Removes everything: on a full disk, accepted work is worth more.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.items().iter().try_for_each(|(_, path)| remove(path))
    }

    fn next(&self, what: &str) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let next = self.items().last().map_or(0, |(number, _)| number + 1);
        Ok(self.folder.join(format!("{next:08}-{what}")))
    }

    /// Removes the oldest while there are too many.
    fn trim(&self) -> io::Result<()> {
        let mut items = self.items();
        while items.len() > MAX_ITEMS || (items.len() > 1 && self.held().1 > self.max_bytes) {
            remove(&items.remove(0).1)?;
        }
        Ok(())
    }

    /// What there is, the oldest first.
    fn items(&self) -> Vec<(u64, PathBuf)> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut items: Vec<(u64, PathBuf)> = files.map(|file| (number(&file.path()), file.path())).collect();
        items.sort();
        items
    }
}

fn number(path: &Path) -> u64 {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn the_oldest_leave_for_number_and_for_size() {
        let folder = TempDir::new().unwrap();
        let quarantine = Quarantine::new(folder.path().join("quarantine"), 1000);
        let id = RequestId::from_bytes([7; 16]);
        for _ in 0..MAX_ITEMS + 3 {
            quarantine.keep(&id, &[1; 10]).unwrap();
        }
        assert_eq!(quarantine.held(), (MAX_ITEMS, 10 * MAX_ITEMS as u64));
        quarantine.keep(&id, &[1; 900]).unwrap();
        assert_eq!(quarantine.held(), (11, 1000));
        quarantine.keep(&id, &[1; 5000]).unwrap();
        assert_eq!(quarantine.held(), (1, 5000), "the newest stays, whatever its size");
        quarantine.clear().unwrap();
        assert_eq!(quarantine.held(), (0, 0));
    }

    #[test]
    fn a_folder_is_moved_whole() {
        let folder = TempDir::new().unwrap();
        let quarantine = Quarantine::new(folder.path().join("quarantine"), 1000);
        let database = folder.path().join("database");
        fs::create_dir(&database).unwrap();
        fs::write(database.join("db"), b"bytes").unwrap();
        let kept = quarantine.take(&database, "database").unwrap();
        assert!(!database.exists());
        assert_eq!(fs::read(kept.join("db")).unwrap(), b"bytes");
        assert_eq!(kept.file_name().unwrap(), "00000000-database");
    }
}
