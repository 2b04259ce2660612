//! The thread that writes the state: the audits' database and the files of routes.
//!
//! Audits go out at once and survive the end of the process from then on; they are synced at most once a second, and before
//! any snapshot is saved (state.rs says why).

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::{self, Record};
use crate::audits::{LostBecause, count};
use crate::pending::{Pending, Waiting, Write};
use crate::replace::sync_folder;
use crate::routes::MAX_ROUTES;
use crate::snapshot;
use crate::state::{Counters, Inner, Save, Shared, StateConfig};
use crate::store::{self, Store, StoreError};

/// Audits written with one flush.
const BATCH: usize = 256;
/// The least time between two syncs of the queue, and between two saves that are in no hurry.
const PAUSE: Duration = Duration::from_secs(1);
/// What saves that are in no hurry may write on average.
const SOON_BYTES_PER_SEC: usize = 64 * 1024;
/// How often old audits are dropped and the size on disk is checked.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// The least time between two attempts to have a database, so that a dying disk is not worn out.
const REBUILD_EVERY: Duration = Duration::from_secs(60);

/// What the database held.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) pending: Pending,
    pub(crate) persisted_secs: u64,
}

/// Opens the queue's database; one that does not open is made anew, and where even that fails there is none.
pub(crate) fn open(config: &StateConfig, counters: &Counters) -> (Option<Store>, Contents) {
    match open_and_scan(config, counters) {
        Ok((store, contents)) => (Some(store), contents),
        Err(error) => {
            let path = database(config);
            tracing::warn!(path = %path.display(), %error, "the queue of audits is damaged or too large; starting an empty one");
            count(&counters.rebuilt, 1);
            let opened = remake(config);
            if let Err(error) = &opened {
                tracing::error!(%error, "audits are kept in memory only");
            }
            (opened.ok(), Contents::default())
        }
    }
}

/// Writes until told to close.
pub(crate) fn run(shared: &Arc<Shared>) {
    let now = Instant::now();
    let mut writer = Writer { shared, next_sweep: now + SWEEP_EVERY, sync_at: None, rebuild_at: now, unsaved: false };
    loop {
        let work = writer.wait();
        if work.shed {
            writer.shed();
        }
        writer.write_audits(work.everything || !work.saves.is_empty());
        work.saves.into_iter().for_each(|(model, save)| writer.save(model, save));
        // Whoever waited may have gone.
        work.barriers.into_iter().for_each(|barrier| barrier.try_send(()).unwrap_or_default());
        if work.closing {
            break;
        }
    }
    writer.close();
}

struct Writer<'a> {
    shared: &'a Arc<Shared>,
    next_sweep: Instant,
    /// When what was written is synced; none while everything is.
    sync_at: Option<Instant>,
    /// Not before then is another database tried.
    rebuild_at: Instant,
    /// Whether the last save failed, which is said once.
    unsaved: bool,
}

/// What is due.
struct Work {
    saves: BTreeMap<String, Save>,
    barriers: Vec<SyncSender<()>>,
    /// The audits are to be dropped.
    shed: bool,
    /// All audits are to be written and synced.
    everything: bool,
    closing: bool,
}

impl Writer<'_> {
    /// Waits until something is due, and takes it.
    fn wait(&mut self) -> Work {
        let mut inner = self.shared.inner();
        loop {
            let now = Instant::now();
            if now >= self.next_sweep {
                self.next_sweep = now + SWEEP_EVERY;
                inner.expire(self.shared);
                drop(inner);
                self.check_size();
                inner = self.shared.inner();
            }
            let until = self.next_due(&inner, now);
            let Some(patience) = until.checked_duration_since(now).filter(|patience| !patience.is_zero()) else {
                return self.take(&mut inner, now);
            };
            let woken = self.shared.wake.wait_timeout(inner, patience);
            inner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn next_due(&self, inner: &MutexGuard<'_, Inner>, now: Instant) -> Instant {
        let urgent = inner.closing || !inner.barriers.is_empty() || inner.saves.values().any(|save| save.urgent);
        if urgent {
            return now;
        }
        let mut due = self.next_sweep;
        if inner.pending.is_dirty() {
            due = due.min(if self.has_store() { now } else { self.rebuild_at });
        }
        if !inner.saves.is_empty() {
            due = due.min(inner.soon_at);
        }
        self.sync_at.map_or(due, |at| due.min(at))
    }

    fn take(&self, inner: &mut MutexGuard<'_, Inner>, now: Instant) -> Work {
        let closing = inner.closing;
        let all = closing || now >= inner.soon_at;
        let waiting = std::mem::take(&mut inner.saves);
        let (saves, later) = waiting.into_iter().partition(|(_, save)| all || save.urgent);
        inner.saves = later;
        if all && !saves.is_empty() {
            let bytes: usize = BTreeMap::values(&saves).map(|save| save.state.len()).sum();
            inner.soon_at = now + PAUSE.max(Duration::from_secs((bytes / SOON_BYTES_PER_SEC) as u64));
        }
        let barriers = std::mem::take(&mut inner.barriers);
        let shed = std::mem::take(&mut inner.shed);
        Work { everything: closing || !barriers.is_empty(), shed, saves, barriers, closing }
    }

    fn has_store(&self) -> bool {
        self.shared.store.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Writes what is dirty; syncs where it is due, or `now`.
    fn write_audits(&mut self, now: bool) {
        loop {
            if !self.has_store() && !self.rebuild() {
                return;
            }
            let (gone, writes) = self.shared.inner().pending.take_dirty(BATCH);
            if gone.is_empty() && writes.is_empty() {
                break;
            }
            self.sync_at.get_or_insert_with(|| Instant::now() + PAUSE);
            let written = self.attempt(|store| {
                for (number, write) in &writes {
                    match write {
                        Write::Value(value) => store.write(&number.to_be_bytes(), value)?,
                        Write::Done => store.write(&number.to_be_bytes(), &audit::done(*number))?,
                    }
                }
                for number in gone.clone() {
                    store.remove(&number.to_be_bytes())?;
                }
                store.flush()
            });
            if written {
                let mut inner = self.shared.inner();
                writes.iter().for_each(|(number, _)| inner.pending.written(*number));
            }
        }
        if self.sync_at.is_some_and(|at| now || Instant::now() >= at) {
            self.sync_at = None;
            let path = database(&self.shared.config);
            self.attempt(|store| store.sync(&path));
        }
    }

    fn save(&mut self, model: String, save: Save) {
        let folder = self.shared.routes_folder();
        let path = snapshot::path(&folder, &model);
        let room = {
            let inner = self.shared.inner();
            inner.files.contains(&path) || inner.files.len() < MAX_ROUTES
        };
        let saved = match room {
            _ if !self.shared.is_kept() => Err("nothing is kept".to_owned()),
            true => snapshot::write(&folder, &model, &save.state).map_err(|error| error.to_string()),
            false => {
                Err(format!("{} holds {MAX_ROUTES} routes; remove those of models that are gone", folder.display()))
            }
        };
        let mut inner = self.shared.inner();
        match &saved {
            Ok(()) => {
                count(&self.shared.counters.saved, 1);
                inner.files.insert(path);
                self.unsaved = false;
            }
            Err(why) => {
                count(&self.shared.counters.save_failures, 1);
                if !std::mem::replace(&mut self.unsaved, true) && self.shared.is_kept() {
                    tracing::error!(model, why, "the state of a route was not saved");
                }
                // Tried again, unless something newer came meanwhile.
                let again = Save { state: save.state, urgent: false, waiters: Vec::new() };
                if room && !inner.closing && self.shared.is_kept() {
                    inner.saves.entry(model).or_insert(again);
                }
            }
        }
        drop(inner);
        // Whoever waited may have gone.
        save.waiters.into_iter().for_each(|waiter| drop(waiter.try_send(saved.clone())));
    }

    fn check_size(&mut self) {
        let limit = max_disk_bytes(&self.shared.config);
        if self.has_store() {
            self.attempt(|store| match store.disk_bytes()? {
                bytes if bytes > limit => Err(StoreError::TooLarge { bytes, limit }),
                _ => Ok(()),
            });
        }
    }

    /// Runs one operation; a failed one costs the database, and what was only in it.
    fn attempt(&mut self, operation: impl FnOnce(&Store) -> Result<(), StoreError>) -> bool {
        let outcome = match &*self.shared.store.read().unwrap_or_else(PoisonError::into_inner) {
            Some(store) => operation(store),
            None => return false,
        };
        let Err(error) = outcome else { return true };
        if let StoreError::Full(why) = &error {
            tracing::warn!(why, "the disk is full: the audits that wait are dropped");
            self.shed();
            return false;
        }
        let path = database(&self.shared.config);
        tracing::warn!(path = %path.display(), %error, "the queue of audits failed; starting an empty one");
        count(&self.shared.counters.rebuilt, 1);
        let broken = self.shared.store.write().unwrap_or_else(PoisonError::into_inner).take();
        // It is being thrown away; how it takes that does not matter.
        let _ = broken.map(Store::close);
        let mut inner = self.shared.inner();
        let gone = inner.pending.lose_written();
        inner.lose(gone, LostBecause::Damage, &self.shared.counters.damaged);
        false
    }

    /// Drops all audits and gives their space back; for a while others wait in memory only.
    fn shed(&mut self) {
        let store = self.shared.store.write().unwrap_or_else(PoisonError::into_inner).take();
        // It is being thrown away; how it takes that does not matter.
        let _ = store.map(Store::close);
        if let Err(error) = store::discard(&database(&self.shared.config)) {
            tracing::error!(%error, "the space of the audits cannot be given back");
        }
        let mut inner = self.shared.inner();
        let gone = inner.pending.remove_where(|_| true);
        // With the database went the records that said so.
        inner.pending.lose_written();
        inner.lose(gone, LostBecause::Room, &self.shared.counters.dropped);
        self.rebuild_at = Instant::now() + REBUILD_EVERY;
    }

    /// Whether there is a database again.
    fn rebuild(&mut self) -> bool {
        if Instant::now() < self.rebuild_at || !self.shared.is_kept() {
            self.rebuild_at = self.rebuild_at.max(Instant::now() + PAUSE);
            return false;
        }
        self.rebuild_at = Instant::now() + REBUILD_EVERY;
        match remake(&self.shared.config) {
            Ok(store) => {
                *self.shared.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
                true
            }
            Err(error) => {
                tracing::error!(%error, "audits are kept in memory only");
                false
            }
        }
    }

    fn close(&mut self) {
        let store = self.shared.store.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = store.map(Store::close) {
            tracing::warn!(%error, "the queue of audits did not close cleanly");
        }
    }
}

fn database(config: &StateConfig) -> std::path::PathBuf {
    config.path.join("audits")
}

/// sled reclaims space in segments and some time after the records left.
fn max_disk_bytes(config: &StateConfig) -> u64 {
    config.max_audit_bytes.saturating_mul(4).saturating_add(64 * 1024 * 1024)
}

fn remake(config: &StateConfig) -> Result<Store, StoreError> {
    let path = database(config);
    store::discard(&path).map_err(|error| StoreError::Failed(error.to_string()))?;
    let store = Store::open(&path, u64::MAX)?;
    // So that the new folder is still there after the power went.
    sync_folder(&config.path).map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(store)
}

fn open_and_scan(config: &StateConfig, counters: &Counters) -> Result<(Store, Contents), StoreError> {
    let store = Store::open(&database(config), max_disk_bytes(config))?;
    sync_folder(&config.path).map_err(|error| StoreError::Failed(error.to_string()))?;
    let mut found: BTreeMap<u64, Option<(Waiting, u64)>> = BTreeMap::new();
    let mut foreign = Vec::new();
    let mut damaged = 0;
    store.each_entry(|key, value| {
        let Ok(number) = key.try_into().map(u64::from_be_bytes) else {
            foreign.push(key.to_vec());
            return;
        };
        match audit::decode(number, value) {
            Some(Record::Waiting { audit, stored_at }) => {
                let mut waiting = Waiting::new(audit.model, audit.ticket, stored_at, value.to_vec());
                waiting.unwritten = None;
                found.insert(number, Some((waiting, stored_at)));
            }
            Some(Record::Done) => drop(found.insert(number, None)),
            None => {
                damaged += 1;
                found.insert(number, None);
            }
        }
    })?;
    for key in &foreign {
        store.remove(key)?;
    }
    let persisted_secs = found.values().flatten().map(|(_, stored_at)| *stored_at).max().unwrap_or(0);
    let (first, end) = match (found.first_key_value(), found.last_key_value()) {
        (Some((first, _)), Some((last, _))) => (*first, last.saturating_add(1)),
        _ => (0, 0),
    };
    let missing = end - first - found.len() as u64;
    if missing > 0 && end - first > 2 * config.max_audits as u64 {
        return Err(StoreError::Failed(format!("{missing} records of {} are missing", end - first)));
    }
    damaged += missing + foreign.len() as u64;
    if damaged > 0 {
        count(&counters.damaged, damaged);
        tracing::warn!(damaged, missing, "audits were lost to damage on the disk");
    }
    let records = (first..end).map(|number| found.remove(&number).flatten().map(|(waiting, _)| waiting));
    let pending = Pending::restore(first, records);
    Ok((store, Contents { pending, persisted_secs }))
}
