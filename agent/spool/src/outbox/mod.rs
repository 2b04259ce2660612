//! The durable storage of requests: what `hedge_agent_core::outbox` has written, and what it is told after a restart.
//!
//! ```text
//! outbox/lock                   held by the process that uses the folder
//! outbox/journal-0, -1          what was accepted last (journal/)
//! outbox/database/              sled: a row for each request (row.rs), and bodies of up to 64 KiB (part.rs) under key.rs
//! outbox/ledger                 the rows once more (ledger.rs)
//! outbox/bodies/                larger bodies (files.rs)
//! outbox/under-way              what is being executed or sent (marks.rs)
//! outbox/reserve, -start        16 MiB, given back when the disk is full (room.rs)
//! outbox/quarantine/            databases that failed, payloads that killed the process (quarantine.rs)
//! outbox/database.before        a copy, while the database is being opened (open.rs)
//! outbox/database.new, .old     while it is written anew (rebuild.rs)
//! ```
//!
//! It decides nothing about requests. It carries a [`Change`] out whole or not at all, reports it after the barrier, and
//! never forgets silently: what was there and is not any more is named at the next start.
//!
//! # How a loss is noticed
//!
//! Numbers of requests are dense, and each row says how many rows there are and the sum of their numbers (the account), so the
//! newest row tells what must be there. Every value has a checksum over its key and itself. The ledger, a file of another
//! make, has the same rows. Where both agree, nothing is missing. Where they do not, or the database does not open, the values
//! are taken from the raw bytes of its files and of the journal's (raw.rs), a new database is made of them, and the old one
//! goes to the quarantine: so damage costs the request that it hit, by name, and no other.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_agent_core::outbox::{self, Change, Ending, ResultHead, Saved, UnderWay, WriteId};
use hedge_wire::{BootId, RequestId};

use self::committer::Counters;
use self::database::Database;
use self::files::Files;
use self::journal::{Journal, Last};
use self::marks::Marks;
use self::quarantine::Quarantine;
use self::queue::{Command, Queue};
use self::row::{How, Row, State};
use self::table::Table;
use crate::audits::AuditQueue;
use crate::lock::LockError;

mod checkpoint;
mod committer;
mod compare;
mod database;
mod files;
mod journal;
mod key;
mod ledger;
mod marks;
mod open;
mod pace;
mod part;
mod quarantine;
mod queue;
mod raw;
mod rebuild;
mod renew;
mod room;
mod row;
mod table;
mod watched;

#[cfg(test)]
mod tests;

pub use self::marks::Mark;
pub use self::part::INLINE_BYTES;

/// Attempts at reading a body: as it is, and when the database was opened anew.
const READ_TRIES: usize = 2;

/// Where the outbox lies, and its bounds.
#[derive(Clone, Debug)]
pub struct OutboxConfig {
    /// The folder; it is made where it does not exist.
    pub path: PathBuf,
    /// The most bytes of payloads; beyond it a new request finds no space.
    pub max_bytes: u64,
    /// Bytes of each half of the journal, which is carried over into the database when it is full. A group of changes is in one
    /// half, however large.
    pub journal_bytes: u64,
    /// How long a change stays in the journal, if it is not full before. What is over until then never reaches the database.
    pub journal_for: Duration,
    /// Space held back on the disk so that accepted requests can end when it is full.
    pub reserve_bytes: u64,
    /// With less than that on the disk it counts as full.
    pub least_free_bytes: u64,
    /// The most bytes of what is kept in quarantine, beyond its newest item.
    pub max_quarantine_bytes: u64,
    /// The machine's boot; without it nothing is known of what was under way when a process was killed.
    pub boot: Option<BootId>,
    /// Audits that are dropped when the disk is full, before the reserve is touched.
    pub audits: Option<AuditQueue>,
}

impl OutboxConfig {
    /// The defaults in a folder.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            max_bytes: 256 * 1024 * 1024,
            journal_bytes: 8 * 1024 * 1024,
            journal_for: Duration::from_secs(1),
            reserve_bytes: 16 * 1024 * 1024,
            least_free_bytes: 4 * 1024 * 1024,
            max_quarantine_bytes: 64 * 1024 * 1024,
            boot: None,
            audits: None,
        }
    }
}

/// Why something cannot be had from the outbox.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Another process has the same folder open; nothing was touched.
    #[error("the outbox {path} is in use by another process: stop it, or give this one a state_dir of its own")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be used.
    #[error("no durable requests can be kept at {path}: {why}; check that the folder is writable and the disk sound")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The disk has not even the space that opening takes. Nothing is lost.
    #[error("the outbox {path} cannot be opened on a full disk ({why}); free some space and start again")]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The system gave no thread.
    #[error("no thread for the outbox: {0}")]
    NoThread(#[source] io::Error),
    /// The payload or the answer is damaged, and will not be had any more.
    #[error("the payload or the answer of request {id} was damaged on the disk")]
    Damaged {
        /// Which request.
        id: RequestId,
    },
    /// The database cannot be read now; later it may.
    #[error("the outbox cannot be read now: {why}; try again")]
    Unavailable {
        /// What the database said.
        why: String,
    },
}

/// What became of a write.
#[derive(Debug)]
pub enum StoreReport {
    /// This write, and every one asked for before it, survives a power cut.
    Persisted(WriteId),
    /// Nothing of this write was kept, for want of space.
    NotPersisted(WriteId),
    /// The disk failed. Nothing is reported any more, and the process is to end: what it would go on from is in doubt.
    Failed(String),
}

/// What lay on the disk.
#[derive(Debug, Default)]
pub struct Found {
    /// Entries and results, in the order in which they were accepted.
    pub saved: Vec<Saved>,
    /// What was being executed or sent when the last process was killed, by the marks that it left; none if that is not known.
    pub under_way: Option<UnderWay>,
    /// What was damaged or lost since the last start, by name. Each is to be logged.
    pub damage: Vec<Damage>,
}

/// Something that was damaged or lost on the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The payload of a request that waits. It is among the saved ones, as damaged.
    #[error(
        "the payload of durable request {id} (number {number}) was damaged on the disk; it is answered with an error"
    )]
    Payload {
        /// Which request.
        id: RequestId,
        /// Its number.
        number: u64,
    },
    /// The answer of a request that ended. It is among the saved ones, as a result.
    #[error(
        "the answer to durable request {id} (number {number}) was damaged on the disk; who fetches it gets an error"
    )]
    Answer {
        /// Which request.
        id: RequestId,
        /// Its number.
        number: u64,
    },
    /// Requests of which nothing is left but that they were accepted.
    #[error("{count} durable requests were lost to damage on the disk: numbers {numbers}")]
    Unnamed {
        /// How many.
        count: u64,
        /// Which, as far as that is known.
        numbers: String,
    },
    /// The database was damaged; a new one was made of what was sound in it.
    #[error(
        "the outbox's database was damaged ({why}); {rows} requests were recovered into a new one; the old one is {kept}"
    )]
    Database {
        /// What is wrong with it.
        why: String,
        /// Requests recovered, with or without their payloads.
        rows: usize,
        /// Where the old one lies.
        kept: String,
    },
    /// The ledger was damaged; it was made anew from the database.
    #[error("{records} records of the outbox's ledger were damaged; it was written anew from the database")]
    Ledger {
        /// How many.
        records: u64,
    },
}

/// Counters since the start, and what is held now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OutboxStats {
    /// Requests that wait.
    pub waiting: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Results.
    pub results: u64,
    /// Bytes of the answers in them.
    pub answer_bytes: u64,
    /// Bytes of the database's files.
    pub database_bytes: u64,
    /// Items in quarantine.
    pub quarantined: u64,
    /// Whether the disk is full: no new request is taken.
    pub full: bool,
    /// Groups of changes that were synced.
    pub barriers: u64,
    /// Changes in them.
    pub changes: u64,
    /// Writes that found no space.
    pub refused: u64,
    /// How often the database was opened anew while the process ran.
    pub reopened: u64,
    /// How often it was written anew to make it smaller.
    pub compacted: u64,
}

/// The open outbox; clones share it. When the last is dropped it is closed.
#[derive(Clone)]
pub struct OutboxStore {
    running: Arc<Running>,
}

struct Running {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What callers and the thread share.
pub(in crate::outbox) struct Shared {
    config: OutboxConfig,
    queue: Mutex<Queue>,
    wake: Condvar,
    table: Mutex<Table>,
    journal: Arc<Journal>,
    /// Locked for writing while anything is written to it, until it is flushed. None while it cannot be opened.
    database: RwLock<Option<Database>>,
    files: Files,
    quarantine: Quarantine,
    /// None where the boot is not known.
    marks: Option<Arc<Marks>>,
    counters: Counters,
    /// Locked until the outbox is closed.
    lock: File,
}

impl OutboxStore {
    /// Opens the outbox and says what it holds. `report` is called from the outbox's thread, which waits meanwhile, once for a
    /// group of writes, so that whoever listens is woken once; it may persist and note, but not read or close. Blocks for disk
    /// I/O.
    pub fn open(
        config: OutboxConfig,
        report: impl FnMut(Vec<StoreReport>) + Send + 'static,
    ) -> Result<(Self, Found), OutboxError> {
        let unusable = |error: &io::Error| unusable(&config, error);
        let lock = crate::lock::lock(&config.path).map_err(|error| match error {
            LockError::InUse => OutboxError::InUse { path: config.path.clone() },
            LockError::Unusable(error) => unusable(&error),
        })?;
        let opened = open::open(&config)?;
        let mut found = opened.found;
        let marks = config.boot.map(|boot| {
            let path = config.path.join("under-way");
            found.under_way = Marks::read(&path, boot);
            let held = outbox::held(&found.saved, found.under_way.as_ref());
            Arc::new(Marks::begin(&path, boot, &held))
        });
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(config.max_bytes)),
            wake: Condvar::new(),
            table: Mutex::new(opened.table),
            journal: opened.journal,
            database: RwLock::new(Some(opened.database)),
            files: opened.files,
            quarantine: opened.quarantine,
            marks,
            counters: Counters::default(),
            lock,
            config,
        });
        let thread = committer::start(Arc::clone(&shared), opened.ledger, opened.reserve, Box::new(report))
            .map_err(OutboxError::NoThread)?;
        Ok((Self { running: Arc::new(Running { shared, thread: Mutex::new(Some(thread)) }) }, found))
    }

    /// Has a change written and reported upon. The payload goes with an insertion. Does not block.
    pub fn persist(&self, write: WriteId, change: Change<Bytes>, payload: Option<Bytes>) {
        self.running.shared.submit(Command { write: Some(write), change, payload, at: Instant::now() });
    }

    /// Has a change written in the same order: with the next barrier, a second later at the latest. Does not block.
    pub fn note(&self, change: Change<Bytes>) {
        self.running.shared.submit(Command { write: None, change, payload: None, at: Instant::now() });
    }

    /// Marks a request as being executed or sent, so that the process after one that is killed meanwhile knows. Does not block.
    #[must_use]
    pub fn mark(&self, id: RequestId, attempts: u8) -> Option<Mark> {
        self.running.shared.marks.as_ref().filter(|_| attempts > 0).map(|marks| marks.mark(id, attempts))
    }

    /// The payload of a request that waits; none if there is no such request. Blocks for disk I/O.
    pub fn payload(&self, id: &RequestId) -> Result<Option<Bytes>, OutboxError> {
        let waits = |row: &Row| matches!(row.state, State::Waiting(_)).then_some(());
        Ok(self.running.shared.read(id, waits)?.map(|(_, bytes)| bytes))
    }

    /// The result of a request that ended; none if there is none. Blocks for disk I/O.
    pub fn result(&self, id: &RequestId) -> Result<Option<(ResultHead, Ending<Bytes>)>, OutboxError> {
        let ended = |row: &Row| match &row.state {
            State::Ended(head, how) => Some((head.clone(), *how)),
            State::Waiting(_) => None,
        };
        let read = self.running.shared.read(id, ended)?;
        Ok(read.map(|((head, how), answer)| match how {
            How::Answered => (head, Ending::Answered(answer)),
            How::Poisoned { attempts } => (head, Ending::Poisoned { attempts }),
            How::Damaged => (head, Ending::Damaged),
        }))
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> OutboxStats {
        self.running.shared.stats()
    }

    /// Writes out everything and ends the thread. Blocks; what is given later is not kept.
    pub fn close(&self) {
        self.running.close();
    }
}

impl Running {
    fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.shared.queue().closing = true;
            self.shared.wake.notify_all();
            // Each fails only if there is nothing left to close.
            let _ = thread.join();
            let _ = self.shared.lock.unlock();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the row that `wanted` wants, with what it says of it.
    fn read<T>(&self, id: &RequestId, wanted: impl Fn(&Row) -> Option<T>) -> Result<Option<(T, Bytes)>, OutboxError> {
        let mut why = String::new();
        for _ in 0..READ_TRIES {
            let Some(row) = self.table().row(id).cloned() else { return Ok(None) };
            let Some(wants) = wanted(&row) else { return Ok(None) };
            match self.body(&row) {
                Ok(Some(bytes)) => return Ok(Some((wants, bytes))),
                // Unless it changed meanwhile.
                Ok(None) if self.table().row(id) == Some(&row) => return Err(OutboxError::Damaged { id: *id }),
                Ok(None) => {}
                Err(error) => {
                    why = error;
                    self.have_it_reopened();
                }
            }
        }
        Err(OutboxError::Unavailable { why })
    }

    /// The bytes of a row's body; none if they are damaged.
    fn body(&self, row: &Row) -> Result<Option<Bytes>, String> {
        if row.body.lost {
            return Ok(None);
        }
        let bytes = match &row.body.file {
            Some(file) => self.files.read(file, row.body.length).map_err(|error| error.to_string())?,
            None => assemble(row, |key| self.part(key))?,
        };
        Ok(bytes.filter(|bytes| row.body.is(bytes)))
    }

    /// A part of a body; none if it is missing or damaged.
    fn part(&self, key: &key::Key) -> Result<Option<Vec<u8>>, String> {
        match self.journal.last(key).map_err(|error| error.to_string())? {
            Last::Value(value) => Ok(database::part_of(key, value)),
            Last::Gone => Ok(None),
            Last::Elsewhere => {
                let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
                let database = database.as_ref().ok_or("there is no space for the database")?;
                database.part(key).map_err(|error| error.to_string())
            }
        }
    }

    fn stats(&self) -> OutboxStats {
        let held = self.table().held();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        OutboxStats {
            waiting: held.waiting,
            payload_bytes: held.payload_bytes,
            results: held.results,
            answer_bytes: held.answer_bytes,
            database_bytes: read(&counters.database_bytes),
            quarantined: self.quarantine.held().0 as u64,
            full: counters.full.load(Ordering::Relaxed),
            barriers: read(&counters.barriers),
            changes: read(&counters.changes),
            refused: read(&counters.refused),
            reopened: read(&counters.reopened),
            compacted: read(&counters.compacted),
        }
    }
}

/// A body from the values of its parts; none if one of them is missing or damaged.
fn assemble<E>(row: &Row, part: impl Fn(&key::Key) -> Result<Option<Vec<u8>>, E>) -> Result<Option<Bytes>, E> {
    let mut body = Vec::new();
    for key in row.parts() {
        match part(&key)? {
            Some(value) => body.extend_from_slice(&value[row::HEADER..]),
            None => return Ok(None),
        }
    }
    Ok(Some(body.into()))
}

fn unusable(config: &OutboxConfig, error: &io::Error) -> OutboxError {
    let (path, why) = (config.path.clone(), error.to_string());
    match room::is_full(error) {
        true => OutboxError::NoSpace { path, why },
        false => OutboxError::Unusable { path, why },
    }
}
