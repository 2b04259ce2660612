//! The thread that owns all writes to the cache's database: insertions, removals, sweeps, and replacing the database
//! when it fails.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::{CacheConfig, CacheError, Counters, Shared, unusable};
use crate::index::Index;
use crate::key::Key;
use crate::store::{self, Store, StoreError};
use crate::value;

/// How often old entries are swept, the clock is persisted and the size on disk is checked.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// The least time between two attempts to remake the database, so that a dying disk is not worn out.
const REBUILD_EVERY: Duration = Duration::from_secs(60);
/// The note that holds the highest trusted second.
const CLOCK_NOTE: &str = "clock";

/// What the thread is asked to do.
pub(crate) enum Command {
    Write { key: Key, sequence: u64, value: Arc<[u8]> },
    Remove { key: Key },
    Note { name: String, value: Vec<u8> },
    Rebuild { why: String },
    Close,
}

/// What an opened database held.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) index: Index,
    pub(crate) notes: BTreeMap<String, Vec<u8>>,
    pub(crate) persisted_secs: u64,
}

/// Opens the database and reads its index; where that fails, deletes it and makes a new one.
pub(crate) fn open(config: &CacheConfig, counters: &Counters) -> Result<(Store, Contents), CacheError> {
    match open_and_scan(config, counters) {
        Ok(opened) => Ok(opened),
        Err(error @ StoreError::InUse) => Err(unusable(config, &error)),
        Err(error) => {
            let path = config.path.display();
            tracing::warn!(%path, %error, "the result cache is damaged or too large; starting an empty one");
            counters.rebuilt.fetch_add(1, Ordering::Relaxed);
            store::discard(&config.path).map_err(|io| unusable(config, &StoreError::Failed(io.to_string())))?;
            open_and_scan(config, counters).map_err(|error| unusable(config, &error))
        }
    }
}

/// Serves commands until told to close, or until every sender is gone.
pub(crate) fn run(shared: &Arc<Shared>, commands: &Receiver<Command>, stale: &[Key]) {
    let mut writer = Writer { shared, next_sweep: Instant::now() + SWEEP_EVERY, last_rebuild: None };
    for key in stale {
        writer.remove(key);
    }
    loop {
        let patience = writer.next_sweep.saturating_duration_since(Instant::now());
        match commands.recv_timeout(patience) {
            Ok(Command::Write { key, sequence, value }) => writer.write(&key, sequence, &value),
            Ok(Command::Remove { key }) => writer.remove(&key),
            Ok(Command::Note { name, value }) => writer.attempt(|store| store.write_note(&name, &value)),
            Ok(Command::Rebuild { why }) => writer.rebuild(&why),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => break,
        }
        if Instant::now() >= writer.next_sweep {
            writer.sweep();
        }
    }
    writer.close();
}

struct Writer<'a> {
    shared: &'a Arc<Shared>,
    next_sweep: Instant,
    last_rebuild: Option<Instant>,
}

impl Writer<'_> {
    fn write(&mut self, key: &Key, sequence: u64, value: &[u8]) {
        // An entry that was evicted or replaced while it waited need not be written.
        if self.shared.state().index.slot(key).is_some_and(|slot| slot.sequence == sequence) {
            self.attempt(|store| store.write(&key.0, value));
        }
        self.shared.state().index.written(key, sequence);
    }

    fn remove(&mut self, key: &Key) {
        // It may have been stored again since; then its write comes later in the queue, or is already done.
        if self.shared.state().index.slot(key).is_none() {
            self.attempt(|store| store.remove(&key.0));
        }
    }

    fn sweep(&mut self) {
        self.next_sweep = Instant::now() + SWEEP_EVERY;
        let (gone, now) = {
            let mut state = self.shared.state();
            (state.trim(&self.shared.config, &self.shared.counters), state.clock.now())
        };
        for key in &gone {
            self.remove(key);
        }
        self.attempt(|store| store.write_note(CLOCK_NOTE, &now.to_le_bytes()));
        let limit = self.shared.config.max_disk_bytes();
        self.attempt(|store| match store.disk_bytes()? {
            bytes if bytes > limit => Err(StoreError::TooLarge { bytes, limit }),
            _ => Ok(()),
        });
    }

    fn close(&mut self) {
        let now = self.shared.state().clock.now();
        self.attempt(|store| store.write_note(CLOCK_NOTE, &now.to_le_bytes()));
        self.attempt(Store::flush);
        let store = self.shared.store.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = store.map(Store::close) {
            tracing::warn!(%error, "the result cache did not close cleanly");
        }
        self.shared.state().index.clear();
    }

    /// Runs one operation; a failed one costs the database. Without a database it tries to have one again.
    fn attempt(&mut self, operation: impl FnOnce(&Store) -> Result<(), StoreError>) {
        let outcome = match &*self.shared.store.read().unwrap_or_else(PoisonError::into_inner) {
            Some(store) => operation(store),
            None => Err(StoreError::Failed("there is no database".into())),
        };
        if let Err(error) = outcome {
            self.rebuild(&error.to_string());
        }
    }

    fn rebuild(&mut self, why: &str) {
        if self.last_rebuild.is_some_and(|last| last.elapsed() < REBUILD_EVERY) {
            return;
        }
        self.last_rebuild = Some(Instant::now());
        tracing::warn!(path = %self.shared.config.path.display(), why, "the result cache failed; starting an empty one");
        self.shared.counters.rebuilt.fetch_add(1, Ordering::Relaxed);
        let mut slot = self.shared.store.write().unwrap_or_else(PoisonError::into_inner);
        let notes = {
            let mut state = self.shared.state();
            state.index.clear();
            state.notes.clone()
        };
        if let Some(broken) = slot.take() {
            // It is being thrown away; how it takes that does not matter.
            let _ = broken.close();
        }
        match store::discard(&self.shared.config.path)
            .map_err(|error| StoreError::Failed(error.to_string()))
            .and_then(|()| Store::open(&self.shared.config.path, u64::MAX))
        {
            Ok(store) => {
                for (name, value) in &notes {
                    // Notes are conveniences; the next change writes one that was missed.
                    let _ = store.write_note(name, value);
                }
                *slot = Some(store);
            }
            Err(error) => tracing::error!(%error, "there is no result cache for now"),
        }
    }
}

fn open_and_scan(config: &CacheConfig, counters: &Counters) -> Result<(Store, Contents), StoreError> {
    let store = Store::open(&config.path, config.max_disk_bytes())?;
    let mut contents = Contents::default();
    let mut damaged = Vec::new();
    store.each_entry(|raw, value| {
        let key = <[u8; 32]>::try_from(raw).map(Key);
        match key.ok().and_then(|key| Some((key, value::check(&key, value)?))) {
            Some((key, header)) => {
                contents.persisted_secs = contents.persisted_secs.max(header.stored_at);
                contents.index.insert(key, header.sequence, header.stored_at, value.len());
            }
            None => damaged.push(raw.to_vec()),
        }
    })?;
    counters.corrupt.fetch_add(damaged.len() as u64, Ordering::Relaxed);
    for key in &damaged {
        store.remove(key)?;
    }
    store.each_note(|name, value| {
        if let (Ok(name), true) = (std::str::from_utf8(name), name != CLOCK_NOTE.as_bytes()) {
            contents.notes.insert(name.to_owned(), value.to_vec());
        }
        if let (b"clock", Ok(secs)) = (name, value.try_into()) {
            contents.persisted_secs = contents.persisted_secs.max(u64::from_le_bytes(secs));
        }
    })?;
    Ok((store, contents))
}
