//! The result cache: what callers see of it.
//!
//! Reads decide from the index in memory and touch the database only for a hit that is already on disk (a page of sled's
//! cache: microseconds). Writes go to a thread of their own through a bounded queue; when it is full the result is simply
//! not cached, which is counted. The cache never returns an error: at worst it misses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{MachineTime, TimeSource, TrustedClock};
use crate::index::Index;
use crate::key::Key;
use crate::store::{Store, StoreError};
use crate::value::{self, Entry, Header};
use crate::writer::{self, Command};

/// Writes that may wait for the disk. With values of at most 64 KiB this bounds their memory to 64 MiB.
const QUEUED_WRITES: usize = 1024;
/// Notes kept, and bytes of each.
const MAX_NOTES: usize = 256;
const MAX_NOTE_BYTES: usize = 256;

/// Where the cache lies and how large and old it may grow.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Folder of the database; it is deleted when damaged, so nothing else may be in it.
    pub path: PathBuf,
    /// Most bytes of entries, each counted with 256 bytes of overhead. The files may take a few times as much.
    pub max_bytes: u64,
    /// Entries older than this are not used any more.
    pub max_age: Duration,
}

impl CacheConfig {
    /// The files' bound: sled reclaims space in segments and some time after the entries left.
    pub(crate) fn max_disk_bytes(&self) -> u64 {
        self.max_bytes.saturating_mul(4).saturating_add(64 * 1024 * 1024)
    }
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another process has the same folder open; nothing was touched.
    #[error("the cache {path} is in use by another process: stop it, or give this one a state_dir of its own")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Not even an empty database can be made there.
    #[error("no cache can be made at {path}: {why}; check that the folder is writable and the disk not full")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the database or the system said.
        why: String,
    },
    /// The system gave no thread.
    #[error("no thread for the cache's writer: {0}")]
    NoThread(#[source] std::io::Error),
}

/// Counters since the start, and what is held now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CacheStats {
    /// Look-ups that found an entry.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Entries held now.
    pub entries: u64,
    /// Their bytes, with the overhead of each.
    pub bytes: u64,
    /// Entries that left for lack of room.
    pub evicted: u64,
    /// Entries that left for their age.
    pub expired: u64,
    /// Values that failed their checksum and were removed.
    pub corrupt: u64,
    /// Results not kept: too large, or too many waiting for the disk.
    pub dropped: u64,
    /// How often the database was deleted and made anew.
    pub rebuilt: u64,
}

/// The cache; clones share it.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
    sender: SyncSender<Command>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What callers and the writer thread share.
pub(crate) struct Shared {
    pub(crate) config: CacheConfig,
    /// Held for moments only, never during I/O.
    state: Mutex<State>,
    /// Written only while the database is replaced; readers that cannot have it at once miss.
    pub(crate) store: RwLock<Option<Store>>,
    pub(crate) counters: Counters,
}

pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) clock: TrustedClock,
    pub(crate) notes: BTreeMap<String, Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) rebuilt: AtomicU64,
}

impl Cache {
    /// Opens the cache, deleting and remaking it where it is damaged. Blocks for disk I/O.
    pub fn open(config: CacheConfig) -> Result<Self, CacheError> {
        Self::open_at(config, Box::new(MachineTime::new()))
    }

    pub(crate) fn open_at(config: CacheConfig, time: Box<dyn TimeSource>) -> Result<Self, CacheError> {
        let counters = Counters::default();
        let (store, contents) = writer::open(&config, &counters)?;
        let mut state = State {
            index: contents.index,
            clock: TrustedClock::new(time, contents.persisted_secs),
            notes: contents.notes,
        };
        let stale = state.trim(&config, &counters);
        let shared = Arc::new(Shared { config, state: Mutex::new(state), store: RwLock::new(Some(store)), counters });
        let (sender, commands) = mpsc::sync_channel(QUEUED_WRITES);
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("cache-writer".into())
            .spawn(move || writer::run(&for_thread, &commands, &stale))
            .map_err(CacheError::NoThread)?;
        Ok(Self { shared, sender, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// The entry under `key`, if there is one young enough.
    #[must_use]
    pub fn fetch(&self, key: &Key) -> Option<Entry> {
        let found = self.find(key);
        let counter = if found.is_some() { &self.shared.counters.hits } else { &self.shared.counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps `entry` under `key`. It is found from now on, and on disk a moment later.
    pub fn store(&self, key: Key, entry: &Entry) {
        if !self.try_store(key, entry) {
            self.shared.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A small fact that outlives the process, such as the digest of the cloud's model seen last.
    #[must_use]
    pub fn note(&self, name: &str) -> Option<Vec<u8>> {
        self.shared.state().notes.get(name).cloned()
    }

    /// Remembers `value` under `name`; at most 256 notes of at most 256 bytes, more are not kept.
    pub fn set_note(&self, name: &str, value: &[u8]) {
        let mut state = self.shared.state();
        let known = state.notes.get(name);
        let room = known.is_some() || state.notes.len() < MAX_NOTES;
        if !room || value.len() > MAX_NOTE_BYTES || name.len() > MAX_NOTE_BYTES || known.is_some_and(|v| v == value) {
            return;
        }
        state.notes.insert(name.to_owned(), value.to_vec());
        // A note that finds the queue full stays in memory and is written when it changes next.
        let _ = self.sender.try_send(Command::Note { name: name.to_owned(), value: value.to_vec() });
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let (entries, bytes) = {
            let state = self.shared.state();
            (state.index.len() as u64, state.index.bytes())
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.shared.counters;
        CacheStats {
            hits: read(&c.hits),
            misses: read(&c.misses),
            entries,
            bytes,
            evicted: read(&c.evicted),
            expired: read(&c.expired),
            corrupt: read(&c.corrupt),
            dropped: read(&c.dropped),
            rebuilt: read(&c.rebuilt),
        }
    }

    /// Writes out what waits and closes the database. Blocks; later calls miss.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Both fail only if the thread is already gone, and then there is nothing left to close.
            let _ = self.sender.send(Command::Close);
            let _ = thread.join();
        }
    }

    fn find(&self, key: &Key) -> Option<Entry> {
        let waiting = {
            let mut state = self.shared.state();
            let slot = state.index.slot(key)?;
            if state.horizon(&self.shared.config) > slot.stored_at {
                // The writer's sweep removes it.
                return None;
            }
            state.index.unwritten(key)
        };
        let bytes = match waiting {
            Some(value) => return value::decode(key, &value),
            None => self.read(key)?,
        };
        let entry = value::decode(key, &bytes);
        if entry.is_none() {
            self.shared.counters.corrupt.fetch_add(1, Ordering::Relaxed);
            self.forget(key);
        }
        entry
    }

    fn read(&self, key: &Key) -> Option<Vec<u8>> {
        let store = self.shared.store.try_read().ok()?;
        match store.as_ref()?.read(&key.0) {
            Ok(Some(value)) => Some(value),
            Ok(None) => {
                // The index has it and the database does not: a record that was lost.
                self.forget(key);
                None
            }
            Err(error) => {
                let _ = self.sender.try_send(Command::Rebuild { why: error.to_string() });
                None
            }
        }
    }

    fn forget(&self, key: &Key) {
        self.shared.state().index.remove(key);
        let _ = self.sender.try_send(Command::Remove { key: *key });
    }

    fn try_store(&self, key: Key, entry: &Entry) -> bool {
        let max_bytes = self.shared.config.max_bytes;
        let mut state = self.shared.state();
        let sequence = state.index.next_sequence();
        let stored_at = state.clock.now();
        let Some(value) = value::encode(&key, entry, Header { stored_at, sequence }) else {
            return false;
        };
        let value: Arc<[u8]> = Arc::from(value);
        let command = Command::Write { key, sequence, value: Arc::clone(&value) };
        // Sent under the lock, so that the writer sees commands in the order of the index's changes.
        match self.sender.try_send(command) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
        }
        state.index.insert_unwritten(key, sequence, stored_at, value);
        for key in state.index.evict_to(max_bytes) {
            self.shared.counters.evicted.fetch_add(1, Ordering::Relaxed);
            let _ = self.sender.try_send(Command::Remove { key });
        }
        true
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held would have left counts at worst off by one entry.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Entries stored before this second are too old.
    pub(crate) fn horizon(&mut self, config: &CacheConfig) -> u64 {
        self.clock.now().saturating_sub(config.max_age.as_secs())
    }

    /// Removes what is too old or too much from the index; the keys are to be removed from the database.
    pub(crate) fn trim(&mut self, config: &CacheConfig, counters: &Counters) -> Vec<Key> {
        let horizon = self.horizon(config);
        let mut gone = self.index.expire_before(horizon);
        counters.expired.fetch_add(gone.len() as u64, Ordering::Relaxed);
        let evicted = self.index.evict_to(config.max_bytes);
        counters.evicted.fetch_add(evicted.len() as u64, Ordering::Relaxed);
        gone.extend(evicted);
        gone
    }
}

/// The writer calls this when the error is not one that a new database cures.
pub(crate) fn unusable(config: &CacheConfig, error: &StoreError) -> CacheError {
    let path = config.path.clone();
    match error {
        StoreError::InUse => CacheError::InUse { path },
        other => CacheError::Unusable { path, why: other.to_string() },
    }
}

#[cfg(test)]
mod tests;
