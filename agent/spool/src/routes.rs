//! The state of each model's route, as bytes: what callers see of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, TryRecvError};

use crate::snapshot::{self, DamagedSnapshot};
use crate::state::{Save, Shared};

/// The most models whose routes are kept.
pub(crate) const MAX_ROUTES: usize = 1024;

/// The saved routes; clones share them.
#[derive(Clone)]
pub struct RouteStore {
    shared: Arc<Shared>,
}

/// Counters since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RouteStats {
    /// Snapshots that reached the disk.
    pub saved: u64,
    /// Snapshots that did not; the state is tried again with the next one.
    pub failed: u64,
}

/// A snapshot that was not saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the route of model {model:?} was not saved: {why}; if the agent ends now, the route goes on from an earlier state"
)]
pub struct NotSaved {
    /// The model.
    pub model: String,
    /// What the system said.
    pub why: String,
}

/// A snapshot on its way to the disk. Dropping it leaves it on its way.
pub struct Saving {
    model: String,
    done: Receiver<Result<(), String>>,
}

impl RouteStore {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What an earlier process saved of the model's route. A damaged file is moved aside and is an error once: the route
    /// then starts from nothing. Blocks for disk I/O.
    pub fn load(&self, model: &str) -> Result<Option<Vec<u8>>, DamagedSnapshot> {
        if !self.shared.is_kept() {
            return Ok(None);
        }
        snapshot::read(&self.shared.routes_folder(), model)
    }

    /// Saves the state as soon as possible; [`Saving::wait`] tells when it is on disk. Of two calls for a model the later
    /// one's state is the one that stays.
    pub fn save_now(&self, model: &str, state: Vec<u8>) -> Saving {
        let (sender, done) = mpsc::sync_channel(1);
        let mut inner = self.shared.inner();
        if !inner.closing {
            let save = inner.saves.entry(model.to_owned()).or_insert_with(Save::none);
            save.state = state.into();
            save.urgent = true;
            save.waiters.push(sender);
        }
        drop(inner);
        self.shared.wake.notify_all();
        Saving { model: model.to_owned(), done }
    }

    /// Saves the state within moments: at most once a second, large states less often (64 KiB/s), because flash wears out.
    pub fn save_soon(&self, model: &str, state: Vec<u8>) {
        let mut inner = self.shared.inner();
        if !inner.closing {
            inner.saves.entry(model.to_owned()).or_insert_with(Save::none).state = state.into();
        }
        drop(inner);
        self.shared.wake.notify_all();
    }

    /// Where the snapshot of a model lies.
    #[must_use]
    pub fn path(&self, model: &str) -> PathBuf {
        snapshot::path(&self.shared.routes_folder(), model)
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> RouteStats {
        let counters = &self.shared.counters;
        let (saved, failed) = (&counters.saved, &counters.save_failures);
        RouteStats { saved: saved.load(Ordering::Relaxed), failed: failed.load(Ordering::Relaxed) }
    }
}

impl Save {
    fn none() -> Self {
        Self { state: Arc::default(), urgent: false, waiters: Vec::new() }
    }
}

impl Saving {
    /// Whether the state is on disk, or known not to be. After that the outcome is gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(self.done.try_recv(), Err(TryRecvError::Empty))
    }

    /// Waits until the state is on disk, or is known not to be. Blocks.
    pub fn wait(self) -> Result<(), NotSaved> {
        let done = self.done.recv().unwrap_or_else(|_| Err("the agent is shutting down".into()));
        done.map_err(|why| NotSaved { model: self.model, why })
    }
}
