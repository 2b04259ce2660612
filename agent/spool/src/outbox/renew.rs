//! The database of a running outbox, opened anew after a fault, or written anew because it has grown too large.
//!
//! After a fault sled takes nothing any more, and what it holds is not known: it may have more than was reported, or less.
//! The table knows what was: where the database does not agree with it, even with what the journal has, a new one is made of what
//! can be found in raw bytes.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::committer::Committer;
use super::database::{Database, Fault, Scan};
use super::key::Key;
use super::raw;
use super::row::Row;

/// The database is written anew where its files are larger than this, and than so many times what it holds.
const COMPACT_FROM: u64 = 64 * 1024 * 1024;
const COMPACT_TIMES: u64 = 4;
/// After so many checkpoints in a row that a database fails in, it is written anew whatever can be read of it.
const FAILURES: u32 = 2;
/// What a row costs beside its body.
const ROW_COST: u64 = 512;

impl Committer {
    /// Closes the database and opens it again, if it agrees with the table and did not fail twice in a row; else it is written
    /// anew.
    pub(super) fn reopen(&mut self) -> Result<(), Fault> {
        // What else stood in its way is met again, or is gone.
        if let Err(fault @ Fault::Disk(_)) = self.wait_for_checkpoint() {
            return Err(fault);
        }
        self.shared.counters.reopened.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        let mut slot = shared.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(broken) = slot.take() {
            // How it takes that does not matter: it is read anew.
            let _ = broken.close();
        }
        match self.open_again() {
            Ok((database, scan)) if self.failed_checkpoints < FAILURES && self.agrees(&scan) => {
                *slot = Some(database);
                return Ok(());
            }
            Err(fault @ (Fault::Full(_) | Fault::Disk(_))) => return Err(fault),
            Err(fault) => tracing::warn!(%fault, "the outbox's database does not open again; writing it anew"),
            Ok((database, _)) => {
                let _ = database.close();
                tracing::warn!("the outbox's database lost something, or failed again; writing it anew");
            }
        }
        *slot = Some(self.salvage()?);
        self.failed_checkpoints = 0;
        // The new one has all of it.
        self.shared.journal.clear_all()
    }

    fn open_again(&self) -> Result<(Database, Scan), Fault> {
        let database = Database::open(&self.places.database())?;
        let scan = database.scan(Some(&self.shared.journal))?;
        Ok((database, scan))
    }

    /// Whether a database has, with the journal, what the table has, and no more.
    fn agrees(&self, scan: &Scan) -> bool {
        let table = self.shared.table();
        let has = |row: &Row| {
            let found = scan.rows.get(&row.id()).is_some_and(|(found, _)| found == row);
            found && (row.body.lost || scan.has_body(row))
        };
        scan.damaged.is_empty() && scan.rows.len() == table.len() && table.rows().into_iter().all(has)
    }

    /// A new database from the raw bytes of the old one and of the journal.
    fn salvage(&mut self) -> Result<Database, Fault> {
        let mut found = raw::Found::default();
        found.search(&self.places.database())?;
        self.shared.journal.paths().iter().try_for_each(|path| found.search(path))?;
        let rows = self.build(|row, key| Ok(found.part(row, key)?))?;
        let shared = Arc::clone(&self.shared);
        self.put_in_place(&rows, |old| shared.quarantine.take(old, "database").map(drop))
    }

    /// Writes a database of what the table has.
    fn build(&self, part: impl Fn(&Row, &Key) -> Result<Option<Vec<u8>>, Fault>) -> Result<Vec<Row>, Fault> {
        let mut table = self.shared.table();
        let rows: Vec<Row> = table.rows().into_iter().cloned().collect();
        table.restate();
        self.places.build(rows, table.account(), part)
    }

    fn put_in_place(&mut self, rows: &[Row], keep: impl FnOnce(&Path) -> io::Result<()>) -> Result<Database, Fault> {
        self.places.swap(keep)?;
        self.durable = {
            let mut table = self.shared.table();
            rows.iter().filter(|row| row.body.lost).for_each(|row| table.lose_body(&row.id()));
            table.account()
        };
        Database::open(&self.places.database())
    }

    /// Writes the database anew where it has grown too large for what it holds.
    pub(super) fn look_at_size(&mut self) -> Result<(), Fault> {
        let slot = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = slot.as_ref().and_then(|database| database.disk_bytes().ok()).unwrap_or(0);
        drop(slot);
        self.shared.counters.database_bytes.store(bytes, Ordering::Relaxed);
        let held = self.shared.table().held();
        let holds = held.payload_bytes + held.answer_bytes + (held.waiting + held.results) * ROW_COST;
        if bytes <= COMPACT_FROM.max(holds.saturating_mul(COMPACT_TIMES)) || self.is_full() {
            return Ok(());
        }
        self.checkpoint_all()?;
        match self.compact() {
            Err(fault @ Fault::Disk(_)) => Err(fault),
            Err(fault) => {
                tracing::warn!(%fault, "the outbox's database was not made smaller");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes the database anew, as small as what it holds. Where there is no space for that, the old one stays.
    fn compact(&mut self) -> Result<(), Fault> {
        self.shared.counters.compacted.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        let mut slot = shared.database.write().unwrap_or_else(PoisonError::into_inner);
        let Some(old) = slot.as_ref() else { return Ok(()) };
        let rows = self.build(|_, key| Ok(old.part(key)?))?;
        // How it takes that does not matter any more.
        let _ = slot.take().map(Database::close);
        *slot = Some(self.put_in_place(&rows, |_| Ok(()))?);
        Ok(())
    }
}
