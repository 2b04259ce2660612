//! The ledger: the rows once more, in a file of our own, so that what a damaged database loses can be named.
//!
//! ```text
//! ledger      records of 200 bytes, each a row, or that a request is gone (row.rs); a damaged one costs itself alone
//! record 0    an account: the records that follow were all rows at that time
//! ```
//!
//! Records are appended after the sync of what they tell, so the ledger never knows what journal and database did not have. They
//! are written at once and synced within a second: after a power cut the ledger may lack the last second, which they then have.
//! Nothing is read from it but at the start, where it is compared with the database and written anew.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use hedge_wire::RequestId;

use super::compare::totals;
use super::database::newer;
use super::room::is_full;
use super::row::{self, Account, ROW, Record, Row};
use super::table::Table;
use crate::replace::sync_folder;

/// Records that the file may hold beyond twice the rows there are, before it is written anew.
const SLACK: u64 = 4096;

/// The open ledger.
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    records: u64,
    /// Whether it lacks something for want of space.
    is_behind: bool,
    /// Whether everything appended is synced.
    synced: bool,
}

/// What a ledger tells.
#[derive(Default)]
pub(super) struct Evidence {
    /// The newest row of each request that was there.
    pub(super) rows: HashMap<RequestId, (Row, Account)>,
    /// The serial of the change by which a request went.
    pub(super) gone: HashMap<RequestId, u64>,
    /// The newest account.
    pub(super) newest: Account,
    /// Records that cannot be read.
    pub(super) unreadable: u64,
    /// Those of them that others follow: what a power cut leaves of an append is at the end.
    pub(super) damaged: u64,
}

impl Evidence {
    /// Reads the ledger at `path`. One that is not there tells nothing, one that cannot be read any further counts as one
    /// unreadable record.
    pub(super) fn read(path: &Path) -> Self {
        let mut evidence = Self::default();
        match evidence.read_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                evidence.unreadable += 1;
                evidence.damaged += 1;
            }
            _ => {}
        }
        evidence
    }

    fn read_all(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 * ROW, File::open(path)?);
        loop {
            let mut record = Vec::with_capacity(ROW);
            (&mut reader).take(ROW as u64).read_to_end(&mut record)?;
            if record.is_empty() {
                return Ok(());
            }
            self.take(&record);
        }
    }

    /// Whether it names what there was at its newest change, by that one's account: a power cut may have left a page and not the one
    /// before it.
    pub(super) fn is_whole(&self) -> bool {
        totals(self.rows.values().map(|(row, _)| row)) == (self.newest.live, self.newest.sum)
    }

    fn take(&mut self, record: &[u8]) {
        let account = match row::decode(record) {
            Some(Record::Account(account)) => account,
            Some(Record::Row(row, account)) => {
                self.rows.insert(row.id(), (row, account));
                account
            }
            Some(Record::Gone(_, id, account)) => {
                self.rows.remove(&id);
                self.gone.insert(id, account.serial);
                account
            }
            // What a power cut leaves of an append.
            None if record.len() < ROW || record.iter().all(|&byte| byte == 0) => return,
            None => {
                self.unreadable += 1;
                return;
            }
        };
        self.newest = newer(self.newest, account);
        self.damaged = self.unreadable;
    }
}

impl Ledger {
    /// Writes the ledger anew, with the account of the newest change that is on the disk. Where there is no space for that, the old
    /// one goes on, and what it lacks is made good later.
    pub(super) fn renew(path: &Path, table: &Table, durable: &Account) -> io::Result<Self> {
        match Self::create(path, durable, table.rows().into_iter()) {
            Err(error) if is_full(&error) => Self::go_on(path),
            created => created,
        }
    }

    /// Writes the ledger anew, durably: whenever the power goes, the old one or the new one is there.
    fn create<'a>(path: &Path, account: &Account, rows: impl Iterator<Item = &'a Row>) -> io::Result<Self> {
        let part = path.with_extension("part");
        let mut out = io::BufWriter::new(File::create(&part)?);
        out.write_all(&account.encode())?;
        let mut records = 1;
        for row in rows {
            out.write_all(&row.encode(account))?;
            records += 1;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        sync_folder(path.parent().unwrap_or(path))?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self { file, path: path.to_owned(), records, is_behind: false, synced: true })
    }

    /// Goes on with what is there, but for a torn end.
    fn go_on(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let records = file.metadata()?.len() / ROW as u64;
        file.set_len(records * ROW as u64)?;
        Ok(Self { file, path: path.to_owned(), records, is_behind: true, synced: true })
    }

    /// Appends records: they survive the end of the process at once, that of the power with [`sync`](Self::sync). Where
    /// there is no space for them, they are made good when the ledger is renewed: it is evidence, and what it tells survives.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() || self.is_behind {
            return Ok(());
        }
        self.synced = false;
        match self.file.write_all(records) {
            Err(error) if is_full(&error) => {
                self.is_behind = true;
                // So that what is appended later begins where a record does.
                self.file.set_len(self.records * ROW as u64)?;
            }
            written => {
                written?;
                self.records += (records.len() / ROW) as u64;
            }
        }
        Ok(())
    }

    /// Whether it lacks something for want of space.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether it is longer than `rows` rows are worth.
    pub(super) fn is_long(&self, rows: usize) -> bool {
        self.records > 2 * rows as u64 + SLACK
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Everything appended survives the end of the power.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced = true;
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_agent_core::outbox::{Expiry, Head};
    use hedge_wire::{BootId, Digest};
    use std::time::Duration;
    use tempfile::TempDir;

    use crate::outbox::row::{Body, State};

    fn account(serial: u64) -> Account {
        Account { serial, barrier: 2, next: 3, live: 4, sum: 5 }
    }

    fn row(number: u64) -> Row {
        let expiry = Expiry { boot: BootId(1), at: Duration::ZERO, left: Duration::ZERO };
        let (id, digest) = (RequestId::from_bytes([number as u8; 16]), Digest([1; 32]));
        let head = Head { id, digest, bytes: 0, attempts: 0, placed: false, expiry };
        Row { number, state: State::Waiting(head), body: Body::default() }
    }

    fn ids(evidence: &Evidence) -> Vec<u64> {
        let mut numbers: Vec<u64> = evidence.rows.values().map(|(row, _)| row.number).collect();
        numbers.sort();
        numbers
    }

    #[test]
    fn a_ledger_tells_what_it_was_told() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger");
        assert_eq!(ids(&Evidence::read(&path)), Vec::<u64>::new());
        let mut ledger = Ledger::create(&path, &account(1), [row(0), row(1)].iter()).unwrap();
        ledger.append(&row(2).encode(&account(2))).unwrap();
        ledger.append(&row::gone(0, &row(0).id(), &account(3))).unwrap();
        assert!(!ledger.is_synced());
        ledger.sync().unwrap();
        let evidence = Evidence::read(&path);
        assert_eq!(ids(&evidence), [1, 2]);
        assert_eq!((evidence.newest, evidence.unreadable), (account(3), 0));
        assert_eq!(evidence.gone, [(row(0).id(), 3)].into());
    }

    #[test]
    fn the_layout_is_the_one_drawn_above() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::create(&path, &account(1), [].iter()).unwrap();
        ledger.append(&row::gone(6, &RequestId::from_bytes([7; 16]), &account(1))).unwrap();
        let mut golden = Vec::new();
        for (kind, crc, number, id) in [(0, ACCOUNT_CRC, 0_u64, 0), (3, GONE_CRC, 6, 7)] {
            let begin = golden.len();
            golden.extend_from_slice(b"hob1");
            golden.extend_from_slice(&[kind, 0, 0, 0, 160, 0, 0, 0]);
            golden.extend_from_slice(&crc);
            golden.extend_from_slice(&number.to_le_bytes());
            golden.extend_from_slice(&[id; 16]);
            [1_u64, 2, 3, 4, 5].iter().for_each(|count| golden.extend_from_slice(&count.to_le_bytes()));
            golden.resize(begin + ROW, 0);
        }
        assert_eq!(fs::read(&path).unwrap(), golden);
    }

    #[test]
    fn a_flipped_bit_costs_one_record_and_a_torn_tail_none() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger");
        Ledger::create(&path, &account(1), (0..3).map(row).collect::<Vec<_>>().iter()).unwrap();
        let sound = fs::read(&path).unwrap();
        for bit in (0..sound.len() * 8).step_by(37) {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            let evidence = Evidence::read(&path);
            let is_last = bit / 8 >= 3 * ROW;
            assert_eq!((evidence.unreadable, evidence.damaged), (1, u64::from(!is_last)), "bit {bit}");
            assert!(evidence.rows.len() >= 2);
        }
        for length in 3 * ROW..4 * ROW {
            fs::write(&path, &sound[..length]).unwrap();
            let evidence = Evidence::read(&path);
            assert_eq!((ids(&evidence), evidence.unreadable), (vec![0, 1], 0), "{length} bytes");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(Evidence::read(&path).damaged, 1, "a file that cannot be read");
        fs::remove_dir(&path).unwrap();
        // Blocks that were allocated and never written.
        fs::write(&path, [&sound[..], &[0; 3 * ROW]].concat()).unwrap();
        assert_eq!(Evidence::read(&path).unreadable, 0);
    }

    #[test]
    fn a_ledger_is_whole_if_it_names_as_many_rows_as_its_newest_account_counts_wherever_it_is_damaged() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger");
        let three = Account { live: 3, sum: 3, ..account(7) };
        Ledger::create(&path, &three, (0..3).map(row).collect::<Vec<_>>().iter()).unwrap();
        let sound = fs::read(&path).unwrap();
        assert!(Evidence::read(&path).is_whole());
        for record in 1..=3 {
            for lost in [0, 0xA5] {
                let mut content = sound.clone();
                content[record * ROW..(record + 1) * ROW].fill(lost);
                fs::write(&path, content).unwrap();
                assert!(!Evidence::read(&path).is_whole(), "record {record}");
            }
        }
    }

    // CRC-32C of the keys and the records drawn above, from an implementation of its own.
    const ACCOUNT_CRC: [u8; 4] = [215, 99, 101, 246];
    const GONE_CRC: [u8; 4] = [214, 229, 63, 247];
}
