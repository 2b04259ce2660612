//! The outbox's sled database: its barrier, and what is read from it at the start.
//!
//! # The barrier
//!
//! sled 0.34's `flush` is `sync_file_range` on Linux, which survives the end of the process and not of the power: of 67,557
//! acknowledged writes 44,883 were lost in 60 power cuts, and 26 times the database did not open. So a barrier is `flush`,
//! then `fsync` of `<folder>/db` through a descriptor that is open from the start: a new one would not be told of a write that
//! failed earlier. What fsync reports is not tried again, because the kernel drops the pages that it could not write.
//!
//! # Between barriers
//!
//! sled takes what `sync_file_range` wrote for safe: once pages are rewritten elsewhere it overwrites the segment that they
//! were in, a segment's length (512 KiB) later at the earliest. If the power goes before the next barrier, both may be lost: with
//! groups of megabytes, 11 of 20,339 acknowledged changes were undone in 40 cuts. So the file has the attribute that makes every
//! write synchronous (`chattr +S`). On file systems without it a barrier comes at least after every 64 KiB, which sled writes
//! several times over, but not eight times. Before sled opens a file, what an earlier process left to the system is synced.
//!
//! # One writer
//!
//! All writes come from one thread at a time, without batches, and nothing reads until they are flushed: a reader of sled's may
//! split a leaf, which is a write. sled wakes those who wait for a buffer only where it is written by the thread that sealed it;
//! with a batch or a second thread a failed write is not announced, and `flush` waits for ever.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use hedge_wire::RequestId;

use super::journal::{Entry, Journal};
use super::key::Key;
use super::part::{self, Part};
use super::row::{self, Account, Record, Row};
use crate::replace::sync_folder;
use crate::store::{Flushing, Store, StoreError, from_io};

/// The most bytes that are written between two barriers where writes are not synchronous.
const PORTION: usize = 64 * 1024;
/// What a removal counts for, in bytes written: now and then it costs a page.
const REMOVAL: usize = 512;

/// The open database.
pub(super) struct Database {
    store: Store,
    /// `<folder>/db`, for fsync.
    file: File,
    /// The most bytes that may be written between two barriers.
    portion: usize,
}

/// Why a change did not reach the disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// There is no space; a database that found none has to be opened anew.
    #[error("the disk is full ({0})")]
    Full(String),
    /// The database failed; opened anew it may work.
    #[error("{0}")]
    Broken(String),
    /// The disk failed. What was written is in doubt, and nothing is tried again.
    #[error("{0}")]
    Disk(String),
}

/// What a database held.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) rows: HashMap<RequestId, (Row, Account)>,
    /// The newest account.
    pub(super) newest: Account,
    /// The parts that are sound.
    pub(super) parts: HashSet<Key>,
    /// The keys of values that are not what was written.
    pub(super) damaged: Vec<Vec<u8>>,
}

impl Database {
    /// Opens the database in `folder`, or makes it there.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let path = folder.join("db");
        let is_new = !path.exists();
        if !is_new {
            File::open(&path).and_then(|file| file.sync_all())?;
        }
        let store = Store::open_with(folder, u64::MAX, Flushing::ByCaller)?;
        let file = File::open(&path)?;
        let portion = if write_through(&file) { usize::MAX } else { PORTION };
        let database = Self { store, file, portion };
        if is_new {
            database.barrier()?;
            sync_folder(folder)?;
        }
        Ok(database)
    }

    /// Writes changes of the journal, in their order, and has sled write them out.
    pub(super) fn apply(&self, entries: &[Entry]) -> Result<(), Fault> {
        let mut unsynced: usize = 0;
        for Entry { key, value, .. } in entries {
            match value {
                Some(value) => self.put(key, value)?,
                None => self.remove(key)?,
            }
            unsynced = unsynced.saturating_add(value.as_ref().map_or(REMOVAL, Vec::len));
            if unsynced >= self.portion {
                self.barrier()?;
                unsynced = 0;
            }
        }
        // What was not written out sled holds in memory, however much it is.
        if self.portion < usize::MAX { self.barrier() } else { self.flush() }
    }

    pub(super) fn put(&self, key: &Key, value: &[u8]) -> Result<(), Fault> {
        Ok(self.store.write(&key.bytes(), value)?)
    }

    pub(super) fn remove(&self, key: &Key) -> Result<(), Fault> {
        Ok(self.store.remove(&key.bytes())?)
    }

    /// Everything survives the end of the power from now on.
    pub(super) fn barrier(&self) -> Result<(), Fault> {
        self.flush()?;
        self.sync()
    }

    /// The first half of a barrier. Nothing may read meanwhile.
    pub(super) fn flush(&self) -> Result<(), Fault> {
        Ok(self.store.flush()?)
    }

    /// The second half of a barrier.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        self.file.sync_all().map_err(|error| Fault::Disk(format!("fsync of the outbox's database failed: {error}")))
    }

    /// A part, without the row that may be behind it; none if it is missing or damaged.
    pub(super) fn part(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.store.read(&key.bytes())?.and_then(|value| part_of(key, value)))
    }

    pub(super) fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.store.disk_bytes()
    }

    /// Reads everything; with a journal, as it will be when it has what that has.
    pub(super) fn scan(&self, journal: Option<&Journal>) -> Result<Scan, Fault> {
        let mut scan = Scan::default();
        let is_older = |key: &[u8]| journal.zip(Key::parse(key)).is_some_and(|(journal, key)| journal.changes(&key));
        self.store.each_entry(|key, value| {
            if !is_older(key) {
                scan.take(key, value);
            }
        })?;
        let Some(journal) = journal else { return Ok(scan) };
        journal.replay_all(|entries| {
            let values = entries.iter().filter_map(|entry| entry.value.as_ref().map(|value| (entry.key, value)));
            values.for_each(|(key, value)| scan.take(&key.bytes(), value));
            Ok(())
        })?;
        Ok(scan)
    }

    pub(super) fn close(self) -> Result<(), StoreError> {
        self.store.close()
    }
}

impl Scan {
    /// Takes in what was found under a key.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) {
        let is_sound = match Key::parse(key) {
            Some(key @ Key::Part(_, number, _)) => {
                let (part, row) = part::split(value);
                let is_part = is_part(&key, part);
                is_part.then(|| self.parts.insert(key));
                is_part && row.is_none_or(|row| self.take_record(Key::Row(number), row))
            }
            Some(key @ (Key::Row(_) | Key::Account)) => self.take_record(key, value),
            None => false,
        };
        if !is_sound {
            self.damaged.push(key.to_vec());
        }
    }

    /// False if that is not what belongs under the key. Of two rows of a request the newer one counts.
    fn take_record(&mut self, key: Key, value: &[u8]) -> bool {
        let account = match row::decode(value) {
            Some(Record::Row(row, account)) if key == Key::Row(row.number) => {
                if self.rows.get(&row.id()).is_none_or(|(_, known)| known.serial < account.serial) {
                    self.rows.insert(row.id(), (row, account));
                }
                account
            }
            Some(Record::Account(account)) if key == Key::Account => account,
            _ => return false,
        };
        self.newest = newer(self.newest, account);
        true
    }

    /// Whether a row's body is there as a whole, as far as it lies in the database.
    pub(super) fn has_body(&self, row: &Row) -> bool {
        row.parts().iter().all(|key| self.parts.contains(key))
    }
}

/// The account that was written last.
pub(super) fn newer(one: Account, other: Account) -> Account {
    if other.serial > one.serial { other } else { one }
}

/// Has the file system make every write to the file synchronous, whoever writes. False where it cannot.
#[cfg(target_os = "linux")]
fn write_through(file: &File) -> bool {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::SYNC)).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn write_through(_: &File) -> bool {
    false
}

/// The part in the value of a key, without the row that may be behind it; none if it is damaged.
pub(super) fn part_of(key: &Key, mut value: Vec<u8>) -> Option<Vec<u8>> {
    let length = part::split(&value).0.len();
    value.truncate(length);
    is_part(key, &value).then_some(value)
}

fn is_part(key: &Key, value: &[u8]) -> bool {
    Part::decode(value).is_some_and(|part| Key::Part(part.side, part.number, part.part) == *key)
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(why) => Self::Full(why),
            StoreError::Disk(why) => Self::Disk(why),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        from_io(&error).into()
    }
}

#[cfg(test)]
impl Database {
    /// From now on fsync fails.
    pub(super) fn break_fsync(&mut self) {
        let (reader, _) = std::io::pipe().expect("a pipe");
        self.file = File::from(std::os::fd::OwnedFd::from(reader));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::key::Side;
    use crate::outbox::table::Table;
    use bytes::Bytes;
    use hedge_agent_core::outbox::{Change, Expiry, Head};
    use hedge_wire::{BootId, Digest};
    use std::time::Duration;

    fn head(attempts: u8) -> Head {
        let expiry = Expiry { boot: BootId(1), at: Duration::ZERO, left: Duration::ZERO };
        let (id, digest) = (RequestId::from_bytes([1; 16]), Digest([1; 32]));
        Head { id, digest, bytes: 1, attempts, placed: false, expiry }
    }

    /// What accepting a request writes, and what trying it writes.
    fn written(payload: &[u8]) -> Vec<(Key, Vec<u8>)> {
        let mut table = Table::default();
        let accepted = table.change(&Change::Insert(head(0)), Some(&Bytes::copy_from_slice(payload)));
        let tried = table.change(&Change::Update(head(1)), None);
        [accepted.puts, tried.puts].concat()
    }

    fn scanned<'a>(values: impl IntoIterator<Item = &'a (Key, Vec<u8>)>) -> Scan {
        let mut scan = Scan::default();
        values.into_iter().for_each(|(key, value)| scan.take(&key.bytes(), value));
        scan
    }

    fn attempts(scan: &Scan) -> Vec<u8> {
        let attempts = |(row, _): &(Row, Account)| match &row.state {
            row::State::Waiting(head) => head.attempts,
            row::State::Ended(..) => unreachable!("nothing ended"),
        };
        scan.rows.values().map(attempts).collect()
    }

    #[test]
    fn a_small_request_is_one_value_with_its_row_in_it_and_a_larger_one_has_it_in_its_last() {
        for (payload, parts) in [(&[7; 10][..], 1), (&[7; part::PART_BYTES + 1], 2)] {
            let values = written(payload);
            assert_eq!(values.len(), parts + 1);
            let scan = scanned(&values[..parts]);
            assert_eq!((attempts(&scan), scan.parts.len(), scan.damaged.len()), (vec![0], parts, 0));
            assert!(scan.has_body(&scan.rows.values().next().unwrap().0) && scan.newest.serial == 1);
            assert!(attempts(&scanned(&values[..parts - 1])).is_empty(), "it is made by its last value");
        }
        assert_eq!(written(&[])[0].0, Key::Row(0), "nothing has no part");
    }

    #[test]
    fn of_two_rows_of_a_request_the_newer_one_counts_in_whatever_order_they_are_read() {
        let values = written(&[7; 10]);
        assert_eq!(attempts(&scanned(&values)), [1]);
        assert_eq!(attempts(&scanned(values.iter().rev())), [1]);
    }

    #[test]
    fn whatever_is_wrong_with_a_value_of_a_part_and_a_row_is_damage() {
        let (key, value) = written(&[7; 10]).remove(0);
        let damaged = |value: &[u8]| scanned([&(key, value.to_vec())]).damaged.len();
        assert_eq!(damaged(&value), 0);
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(damaged(&flipped), 1, "bit {bit}");
        }
        let part = part::split(&value).0.len();
        for length in (0..value.len()).filter(|&length| length != part) {
            assert_eq!(damaged(&value[..length]), 1, "{length} bytes");
        }
        let elsewhere = (Key::Part(Side::Payload, 1, 0), value);
        assert_eq!(scanned([&elsewhere]).damaged.len(), 1, "under another's key");
    }
}
