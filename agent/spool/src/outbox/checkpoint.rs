//! From the journal into the database: while a thread of its own carries over the half that was sealed, the other one takes
//! what is accepted.
//!
//! ```text
//! half of the journal ─ the last change of each key ─ database ─ barrier ─ the half is empty
//! ```
//!
//! Whatever interrupts it, the journal still has everything, and carrying it over again makes the same.
//!
//! One thread makes all that others need not wait for: what sled keeps in memory lies where the allocator put it for the thread
//! that wrote it.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::thread::JoinHandle;

use super::Shared;
use super::committer::Committer;
use super::database::{Database, Fault};
use super::journal::{HalfId, Journal};
use crate::store::caught;

/// The thread that makes checkpoints, one at a time.
pub(super) struct Checkpointer {
    /// None when it ends.
    halves: Option<SyncSender<HalfId>>,
    thread: Option<JoinHandle<()>>,
    is_at_work: bool,
}

impl Checkpointer {
    /// Starts the thread. What became of a checkpoint is put into the queue.
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (halves, sealed) = sync_channel(1);
        let work = move || {
            for half in sealed {
                let outcome = caught(|| shared.checkpoint(half)).unwrap_or_else(|why| Err(Fault::Broken(why)));
                shared.queue().checkpointed = Some(outcome);
                shared.wake.notify_all();
            }
        };
        let thread = std::thread::Builder::new().name("outbox-checkpoint".into()).spawn(work)?;
        Ok(Self { halves: Some(halves), thread: Some(thread), is_at_work: false })
    }

    fn begin(&mut self, half: HalfId) {
        let taken = self.halves.as_ref().is_some_and(|halves| halves.try_send(half).is_ok());
        self.is_at_work |= taken;
    }

    /// What became of the checkpoint that is being made; none if there is none.
    fn wait(&mut self, shared: &Shared) -> Option<Result<(), Fault>> {
        if !std::mem::take(&mut self.is_at_work) {
            return None;
        }
        let queue = shared.wake.wait_while(shared.queue(), |queue| queue.checkpointed.is_none());
        queue.unwrap_or_else(PoisonError::into_inner).checkpointed.take()
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.halves = None;
        // It fails only if there is nothing left to end.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Writes everything that the journal has into a database that nobody else uses, a little at a time. The journal keeps it.
pub(super) fn replay(
    journal: &Journal,
    database: &Database,
    step: impl Fn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    journal.replay_all(|entries| step().and_then(|()| database.apply(entries)))?;
    if journal.is_empty() { Ok(()) } else { database.barrier() }
}

impl Shared {
    /// Carries a half of the journal over, and empties it.
    fn checkpoint(&self, half: HalfId) -> Result<(), Fault> {
        let closed = || Fault::Broken("the database is not open".into());
        let write = || self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Readers have their turn after every few entries, and while the disk works.
        self.journal.replay(half, |entries| write().as_ref().ok_or_else(closed)?.apply(entries))?;
        let slot = write();
        slot.as_ref().ok_or_else(closed)?.flush()?;
        let slot = RwLockWriteGuard::downgrade(slot);
        slot.as_ref().ok_or_else(closed)?.sync()?;
        drop(slot);
        self.journal.clear(half)
    }

    pub(super) fn is_open(&self) -> bool {
        self.database.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Committer {
    /// Begins a checkpoint where a change has been in the journal for long enough.
    pub(super) fn begin_checkpoint_in_time(&mut self) -> Result<(), Fault> {
        let is_time = self.shared.journal.holds_for(self.shared.config.journal_for);
        if is_time { self.begin_checkpoint() } else { Ok(()) }
    }

    /// Begins a checkpoint of what the journal has, unless one is being made or the database is closed for want of space.
    fn begin_checkpoint(&mut self) -> Result<(), Fault> {
        if self.checkpointer.is_at_work {
            return Ok(());
        }
        if !self.shared.is_open() {
            return if self.is_full() { Ok(()) } else { self.reopen_or_be_full() };
        }
        if let Some(half) = self.shared.journal.seal() {
            self.checkpointer.begin(half);
        }
        Ok(())
    }

    /// Waits for the checkpoint that is being made, if there is one, and mends what stood in its way.
    pub(super) fn end_checkpoint(&mut self) -> Result<(), Fault> {
        let ended = self.wait_for_checkpoint();
        let looked = ended.and_then(|was_made| if was_made { self.look_at_size() } else { Ok(()) });
        looked.or_else(|fault| self.recover(fault))
    }

    /// Waits for the checkpoint that is being made, and says whether there was one.
    pub(super) fn wait_for_checkpoint(&mut self) -> Result<bool, Fault> {
        let Some(outcome) = self.checkpointer.wait(&self.shared) else { return Ok(false) };
        self.failed_checkpoints = match &outcome {
            Ok(()) => 0,
            Err(Fault::Broken(_)) => self.failed_checkpoints + 1,
            Err(_) => self.failed_checkpoints,
        };
        outcome.map(|()| true)
    }

    /// Carries over everything, in this thread.
    pub(super) fn checkpoint_all(&mut self) -> Result<(), Fault> {
        self.wait_for_checkpoint()?;
        self.shared.journal.filled().into_iter().try_for_each(|half| self.shared.checkpoint(half))
    }

    /// Room for so many bytes in the journal.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), Fault> {
        // After a start each of the halves may be full.
        for _ in 0..=2 {
            if self.shared.journal.has_room(bytes) {
                return Ok(());
            }
            self.end_checkpoint()?;
            if !self.shared.is_open() {
                self.reopen()?;
            }
            self.begin_checkpoint()?;
        }
        Err(Fault::Full("the journal is full, and the database takes nothing".into()))
    }

    /// After a fault: the database is opened anew. What was to be carried over is still in the journal.
    fn recover(&mut self, fault: Fault) -> Result<(), Fault> {
        match fault {
            Fault::Disk(_) => return Err(fault),
            Fault::Full(_) if self.audits_give_way() => {}
            Fault::Full(why) => self.become_full(&why),
            Fault::Broken(why) => tracing::warn!(why, "the outbox's database failed; opening it anew"),
        }
        self.reopen_or_be_full()
    }

    /// Opens the database anew. Where there is no space even for that, it stays closed until there is.
    pub(super) fn reopen_or_be_full(&mut self) -> Result<(), Fault> {
        match self.reopen() {
            Err(Fault::Full(why)) => {
                self.become_full(&why);
                Ok(())
            }
            reopened => reopened,
        }
    }
}
