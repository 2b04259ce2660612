//! A new database in the place of the old one: after damage, and when the old one has grown too large.
//!
//! The new one is written beside the old one and synced before anything is renamed, so that whenever the power goes, one of
//! them is whole:
//!
//! ```text
//! database  database.new                 being written: thrown away at the next start
//! database.old or quarantine/…, database.new     the next start finishes this
//! database                               done
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::database::{Database, Fault};
use super::key::Key;
use super::row::{Account, Row};
use crate::replace::sync_folder;
use crate::store::remove_any as remove;

/// The places of one outbox's database.
pub(super) struct Places {
    folder: PathBuf,
}

impl Places {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.folder.join("database")
    }

    /// A copy of sled's file from before it was opened.
    pub(super) fn before(&self) -> PathBuf {
        self.folder.join("database.before")
    }

    fn new_one(&self) -> PathBuf {
        self.folder.join("database.new")
    }

    fn old_one(&self) -> PathBuf {
        self.folder.join("database.old")
    }

    /// Ends what the power interrupted.
    pub(super) fn settle(&self) -> io::Result<()> {
        if !self.database().exists() {
            for candidate in [self.new_one(), self.old_one()] {
                if candidate.exists() {
                    fs::rename(candidate, self.database())?;
                    break;
                }
            }
        }
        remove(&self.new_one())?;
        remove(&self.old_one())?;
        sync_folder(&self.folder)
    }

    /// Writes a database of these rows beside the one there is. `part` gives the parts of their bodies; a row of which one is missing
    /// is written as one whose body is lost, and comes back as such.
    pub(super) fn build(
        &self,
        rows: Vec<Row>,
        account: Account,
        part: impl Fn(&Row, &Key) -> Result<Option<Vec<u8>>, Fault>,
    ) -> Result<Vec<Row>, Fault> {
        let path = self.new_one();
        remove(&path)?;
        let built = write(&path, rows, account, part);
        if built.is_err() {
            // It takes space that is wanted.
            let _ = remove(&path);
        }
        built
    }

    /// Puts the new database in the place of the old one, which is closed and goes to where `keep` moves it.
    pub(super) fn swap(&self, keep: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        if self.database().exists() {
            keep(&self.database())?;
        }
        // Where it could not be kept, it must still not stand in the way.
        if self.database().exists() {
            fs::rename(self.database(), self.old_one())?;
        }
        fs::rename(self.new_one(), self.database())?;
        sync_folder(&self.folder)?;
        remove(&self.old_one())
    }
}

fn write(
    path: &Path,
    rows: Vec<Row>,
    account: Account,
    part: impl Fn(&Row, &Key) -> Result<Option<Vec<u8>>, Fault>,
) -> Result<Vec<Row>, Fault> {
    let database = Database::open(path)?;
    let mut written = Vec::with_capacity(rows.len());
    for mut row in rows {
        if !row.body.lost && !copy_parts(&database, &row, &part)? {
            row.body.lost = true;
        }
        database.put(&Key::Row(row.number), &row.encode(&account))?;
        written.push(row);
    }
    database.put(&Key::Account, &account.encode())?;
    database.barrier()?;
    database.close()?;
    sync_folder(path)?;
    Ok(written)
}

/// False if a part is missing; those before it are removed again.
fn copy_parts(
    database: &Database,
    row: &Row,
    part: impl Fn(&Row, &Key) -> Result<Option<Vec<u8>>, Fault>,
) -> Result<bool, Fault> {
    let keys = row.parts();
    for (at, key) in keys.iter().enumerate() {
        match part(row, key)? {
            Some(value) => database.put(key, &value)?,
            None => {
                keys[..at].iter().try_for_each(|key| database.remove(key))?;
                return Ok(false);
            }
        }
    }
    Ok(true)
}
