//! A sled database, the cache's or the audits', behind calls that do not panic.
//!
//! sled 0.34 panics on some damage, at open as well as later, so every call runs under `catch_unwind` and a panic is one
//! more [`StoreError`]. What does not open, or has grown out of its bounds, is moved aside, deleted and made anew; the
//! one thing that is never deleted is a database that another process holds open.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Memory for sled's own page cache (its default is 1 GiB).
const PAGE_CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// How often sled writes the cache's and the audits' buffers out by itself. A crash loses at most this much of what was not
/// flushed.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for the lock of a database that is just being closed.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// The most characters that are told of a panic.
const MAX_PANIC_TEXT: usize = 200;

/// Why an operation on the database failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("another process holds the database open")]
    InUse,
    #[error("the database panicked: {0}")]
    Panicked(String),
    #[error("{0}")]
    Failed(String),
    #[error("{bytes} bytes on disk, more than {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("no space: {0}")]
    Full(String),
    #[error("input or output failed: {0}")]
    Disk(String),
}

/// Who has sled write its buffers out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushing {
    /// A thread of sled's, every second. It also syncs, and only logs where that fails.
    Background,
    /// The caller alone, by [`Store::flush`].
    ByCaller,
}

/// One open database. Dropping it does not panic either.
pub(crate) struct Store(Option<Trees>);

struct Trees {
    entries: sled::Tree,
    notes: sled::Tree,
    db: sled::Db,
}

impl Store {
    /// Opens what lies at `path`, or makes it.
    pub(crate) fn open(path: &Path, max_disk_bytes: u64) -> Result<Self, StoreError> {
        Self::open_with(path, max_disk_bytes, Flushing::Background)
    }

    /// Likewise, with a say in who flushes.
    pub(crate) fn open_with(path: &Path, max_disk_bytes: u64, flushing: Flushing) -> Result<Self, StoreError> {
        let bytes = disk_bytes(path);
        if bytes > max_disk_bytes {
            return Err(StoreError::TooLarge { bytes, limit: max_disk_bytes });
        }
        let started = Instant::now();
        loop {
            match guarded(|| Self::open_once(path, flushing)) {
                Err(StoreError::InUse) if started.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_POLL),
                other => return other,
            }
        }
    }

    fn open_once(path: &Path, flushing: Flushing) -> Result<Self, sled::Error> {
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(PAGE_CACHE_BYTES)
            .flush_every_ms((flushing == Flushing::Background).then_some(FLUSH_EVERY.as_millis() as u64))
            .open()?;
        Ok(Self(Some(Trees { entries: db.open_tree("entries")?, notes: db.open_tree("notes")?, db })))
    }

    pub(crate) fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(|| self.trees().entries.get(key).map(|value| value.map(|bytes| bytes.to_vec())))
    }

    pub(crate) fn write(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        guarded(|| self.trees().entries.insert(key, value).map(drop))
    }

    pub(crate) fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        guarded(|| self.trees().entries.remove(key).map(drop))
    }

    pub(crate) fn write_note(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        guarded(|| self.trees().notes.insert(name, value).map(drop))
    }

    /// Visits every note.
    pub(crate) fn each_note(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        each(&self.trees().notes, &mut visit)
    }

    /// Visits every entry, in no useful order.
    pub(crate) fn each_entry(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        each(&self.trees().entries, &mut visit)
    }

    /// Hands everything to the operating system: from then on it survives the end of this process, not of the power.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        guarded(|| self.trees().db.flush().map(drop))
    }

    /// Everything survives the end of the power from now on: sled's own flush is `sync_file_range`, which is no barrier.
    pub(crate) fn sync(&self, path: &Path) -> Result<(), StoreError> {
        self.flush()?;
        let synced = fs::File::open(path.join("db")).and_then(|file| file.sync_all());
        synced.map_err(|error| StoreError::Failed(format!("fsync: {error}")))
    }

    pub(crate) fn disk_bytes(&self) -> Result<u64, StoreError> {
        guarded(|| self.trees().db.size_on_disk())
    }

    /// Closes the database; a panic on the way out is only worth knowing.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        self.let_go()
    }

    fn trees(&self) -> &Trees {
        self.0.as_ref().expect("only closing takes them")
    }

    fn let_go(&mut self) -> Result<(), StoreError> {
        let trees = self.0.take();
        guarded(move || {
            drop(trees);
            Ok(())
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Who wants to know closes it.
        let _ = self.let_go();
    }
}

/// Deletes whatever lies at `path`. It is moved aside first, so that a crash in between never leaves half a database.
pub(crate) fn discard(path: &Path) -> io::Result<()> {
    let aside = aside(path);
    remove_any(&aside)?;
    match fs::rename(path, &aside) {
        Ok(()) => remove_any(&aside),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => remove_any(path),
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".discarded");
    PathBuf::from(name)
}

/// Deletes a file or a folder; one that is not there is deleted already.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes of a file, or of the files in a folder.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let files = fs::read_dir(path).into_iter().flatten().flatten();
            files.map(|file| disk_bytes(&file.path())).sum()
        }
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

fn each(tree: &sled::Tree, visit: &mut impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
    guarded(|| {
        for pair in tree.iter() {
            let (key, value) = pair?;
            visit(&key, &value);
        }
        Ok(())
    })
}

fn guarded<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
    match caught(call) {
        Ok(Ok(value)) => Ok(value),
        // sled reports a held lock as an I/O error of kind Other with this text.
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
            Err(StoreError::InUse)
        }
        Ok(Err(sled::Error::Io(error))) => Err(from_io(&error)),
        Ok(Err(error)) => Err(StoreError::Failed(error.to_string())),
        Err(why) => Err(StoreError::Panicked(why)),
    }
}

/// Whether a sector cannot be read any more; whatever else fails may work later.
pub(crate) fn is_bad_sector(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::IO)
}

/// What an error of the system means for a database.
pub(crate) fn from_io(error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(error.to_string()),
        _ => StoreError::Disk(error.to_string()),
    }
}

/// What the work gives, or what it said when it panicked.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned());
    // sled prints whole segments.
    text.chars().take(MAX_PANIC_TEXT).collect()
}
