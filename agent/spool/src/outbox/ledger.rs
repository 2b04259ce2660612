//! The ledger: the rows once more, in a file of our own, so that what a damaged database loses can be named.
//!
//! ```text
//! ledger      records of 200 bytes, each a row, or that a request is gone (row.rs); a damaged one costs itself alone
//! record 0    an account: the records that follow were all rows at that time
//! ```
//!
//! Records are appended after the barrier of what they tell, so the ledger never knows what the database did not have. They
//! are written at once and synced within a second: after a power cut the ledger may lack the last second, which the database
//! then has. Nothing is read from it but at the start, where it is compared with the database and written anew.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use hedge_wire::RequestId;

use super::database::newer;
use super::row::{self, Account, ROW, Record, Row};
use crate::snapshot::sync_folder;

/// Records that the file may hold beyond twice the rows there are, before it is written anew.
const SLACK: u64 = 4096;

/// The open ledger.
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    records: u64,
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
    /// The serial up to which it is complete: what it does not name was not there.
    pub(super) whole_to: u64,
    /// Records that cannot be read.
    pub(super) unreadable: u64,
}

impl Evidence {
    /// Reads the ledger at `path`; one that is not there tells nothing.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut evidence = Self::default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(evidence),
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::with_capacity(64 * ROW, file);
        let mut first = true;
        loop {
            let mut record = Vec::with_capacity(ROW);
            (&mut reader).take(ROW as u64).read_to_end(&mut record)?;
            if record.is_empty() {
                return Ok(evidence);
            }
            evidence.take(&record, first);
            first = false;
        }
    }

    fn take(&mut self, record: &[u8], first: bool) {
        let account = match row::decode(record) {
            Some(Record::Account(account)) => {
                self.whole_to = if first { account.serial } else { self.whole_to };
                account
            }
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
    }
}

impl Ledger {
    /// Writes the ledger anew, durably: whenever the power goes, the old one or the new one is there.
    pub(super) fn create<'a>(path: &Path, account: &Account, rows: impl Iterator<Item = &'a Row>) -> io::Result<Self> {
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
        Ok(Self { file, path: path.to_owned(), records, synced: true })
    }

    /// Appends records: they survive the end of the process at once, that of the power with [`sync`](Self::sync).
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.synced = false;
        self.file.write_all(records)?;
        self.records += (records.len() / ROW) as u64;
        Ok(())
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
