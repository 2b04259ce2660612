//! What routing must not forget: the state of each model's route and the audits that wait for the cloud.
//!
//! ```text
//! state/lock          held by the process that uses the folder
//! state/routes/       a file for each model (snapshot.rs)
//! state/audits/       a database of the queue (audit.rs)
//! ```
//!
//! One thread writes all of it, in an order that keeps evidence from counting twice: an audit leaves the queue before its
//! verdict is counted, and the queue is synced before a snapshot is. After a crash a verdict may be missing, which is
//! independent of what it said; none is there twice.
//!
//! Nothing here is ever the reason why the agent does not answer: a disk that takes nothing leaves a queue in memory and
//! routes that start from nothing at the next start, which is said once and counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::audits::{AuditQueue, Lost};
use crate::clock::{MachineTime, TimeSource, TrustedClock};
use crate::lock::{LockError, lock};
use crate::pending::Pending;
use crate::replace::sync_folder;
use crate::routes::RouteStore;
use crate::snapshot;
use crate::state_writer::{self, Contents};
use crate::store::Store;

/// Where the state lies and how many audits may wait.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// The folder; it is made where it does not exist.
    pub path: PathBuf,
    /// The most audits that wait; beyond it the oldest is dropped.
    pub max_audits: usize,
    /// The most bytes of them, each counted with 128 bytes of overhead. The files may take a few times as much.
    pub max_audit_bytes: u64,
    /// Older audits are dropped.
    pub max_audit_age: Duration,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has the same folder open; nothing was touched.
    #[error("the state {path} is in use by another process: stop it, or give this one a state_dir of its own")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be made or locked.
    #[error("no state can be kept at {path}: {why}; check that the folder is writable and the disk not full")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The system gave no thread.
    #[error("no thread for the state's writer: {0}")]
    NoThread(#[source] io::Error),
}

/// The open state; clones share it. When the last is dropped it is closed.
#[derive(Clone)]
pub struct State {
    running: Arc<Running>,
}

/// What was found on disk.
#[derive(Default)]
struct Opened {
    store: Option<Store>,
    contents: Contents,
    files: BTreeSet<PathBuf>,
    counters: Counters,
}

struct Running {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What callers and the writer thread share.
pub(crate) struct Shared {
    pub(crate) config: StateConfig,
    /// Held for moments only, never during I/O.
    inner: Mutex<Inner>,
    pub(crate) wake: Condvar,
    /// The queue's database; written only while it is replaced.
    pub(crate) store: RwLock<Option<Store>>,
    pub(crate) counters: Counters,
    /// Locked until the state is closed; none where nothing can be kept.
    lock: Option<File>,
}

pub(crate) struct Inner {
    pub(crate) pending: Pending,
    pub(crate) lost: VecDeque<Lost>,
    pub(crate) clock: TrustedClock,
    /// Snapshots that wait to be saved, by model.
    pub(crate) saves: BTreeMap<String, Save>,
    /// When those that are in no hurry are due.
    pub(crate) soon_at: Instant,
    /// The files there are, which bounds them.
    pub(crate) files: BTreeSet<PathBuf>,
    /// The audits give way to what is worth more.
    pub(crate) shed: bool,
    /// Who waits for everything to be on disk.
    pub(crate) barriers: Vec<SyncSender<()>>,
    pub(crate) closing: bool,
}

/// One snapshot on its way to the disk.
pub(crate) struct Save {
    pub(crate) state: Arc<[u8]>,
    pub(crate) urgent: bool,
    pub(crate) waiters: Vec<SyncSender<Result<(), String>>>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) saved: AtomicU64,
    pub(crate) save_failures: AtomicU64,
    pub(crate) queued: AtomicU64,
    pub(crate) finished: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) withdrawn: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) rebuilt: AtomicU64,
}

impl State {
    /// Opens the state. Blocks for disk I/O; a damaged queue is deleted and made anew.
    pub fn open(config: StateConfig) -> Result<Self, StateError> {
        Self::open_at(config, Box::new(MachineTime::new()))
    }

    pub(crate) fn open_at(config: StateConfig, time: Box<dyn TimeSource>) -> Result<Self, StateError> {
        let unusable = |error: io::Error| StateError::Unusable { path: config.path.clone(), why: error.to_string() };
        let lock = lock(&config.path).map_err(|error| match error {
            LockError::InUse => StateError::InUse { path: config.path.clone() },
            LockError::Unusable(error) => unusable(error),
        })?;
        let files = prepare(&config.path).map_err(unusable)?;
        let counters = Counters::default();
        let (store, contents) = state_writer::open(&config, &counters);
        Self::start(config, time, Some(lock), Opened { store, contents, files, counters })
    }

    /// A state that touches no disk: audits wait in memory, and no route is saved.
    pub fn volatile(config: StateConfig) -> Result<Self, StateError> {
        Self::start(config, Box::new(MachineTime::new()), None, Opened::default())
    }

    fn start(
        config: StateConfig,
        time: Box<dyn TimeSource>,
        lock: Option<File>,
        opened: Opened,
    ) -> Result<Self, StateError> {
        let Opened { store, contents, files, counters } = opened;
        let inner = Inner {
            pending: contents.pending,
            lost: VecDeque::new(),
            clock: TrustedClock::new(time, contents.persisted_secs),
            saves: BTreeMap::new(),
            soon_at: Instant::now(),
            files,
            shed: false,
            barriers: Vec::new(),
            closing: false,
        };
        let (inner, store) = (Mutex::new(inner), RwLock::new(store));
        let shared = Arc::new(Shared { config, inner, wake: Condvar::new(), store, counters, lock });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("state-writer".into())
            .spawn(move || state_writer::run(&for_thread))
            .map_err(StateError::NoThread)?;
        Ok(Self { running: Arc::new(Running { shared, thread: Mutex::new(Some(thread)) }) })
    }

    /// The routes.
    #[must_use]
    pub fn routes(&self) -> RouteStore {
        RouteStore::new(Arc::clone(&self.running.shared))
    }

    /// The audits.
    #[must_use]
    pub fn audits(&self) -> AuditQueue {
        AuditQueue::new(Arc::clone(&self.running.shared))
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
            self.shared.inner().closing = true;
            self.shared.wake.notify_all();
            // Each fails only if there is nothing left to close: the thread panicked, or the file is not locked.
            let _ = thread.join();
            let _ = self.shared.lock.as_ref().map(File::unlock);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held would have left counts at worst off by one audit.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything may be written.
    pub(crate) fn is_kept(&self) -> bool {
        self.lock.is_some()
    }

    /// The folder of snapshots.
    pub(crate) fn routes_folder(&self) -> PathBuf {
        routes_folder(&self.config.path)
    }
}

fn routes_folder(path: &Path) -> PathBuf {
    path.join("routes")
}

/// Makes the folder of snapshots and lists what is in it.
fn prepare(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let routes = routes_folder(path);
    fs::create_dir_all(&routes)?;
    sync_folder(path)?;
    let files = fs::read_dir(&routes)?.map(|file| Ok(file?.path()));
    let files: io::Result<BTreeSet<PathBuf>> = files.collect();
    Ok(files?.into_iter().filter(|path| snapshot::is_snapshot(path)).collect())
}

#[cfg(test)]
mod tests;
