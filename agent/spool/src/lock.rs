//! The lock of a folder: one process at a time uses what lies in it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for the lock of a process that is just ending.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// Why a folder is not locked.
pub(crate) enum LockError {
    /// Another process holds it.
    InUse,
    /// It cannot be made or locked.
    Unusable(io::Error),
}

/// Makes the folder where it does not exist and locks it, until the file is closed or the process ends.
pub(crate) fn lock(folder: &Path) -> Result<File, LockError> {
    fs::create_dir_all(folder).map_err(LockError::Unusable)?;
    let file = File::create(folder.join("lock")).map_err(LockError::Unusable)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => std::thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => return Err(LockError::InUse),
            Err(TryLockError::Error(error)) => return Err(LockError::Unusable(error)),
        }
    }
}
