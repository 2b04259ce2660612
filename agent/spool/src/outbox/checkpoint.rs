//! From the journal into the database: while a thread of its own carries over the half that was sealed, the other one takes
//! what is accepted.
//!
//! ```text
//! half of the journal ─ the last change of each key ─ database ─ barrier ─ the half is empty
//! ```
//!
//! Whatever interrupts it, the half still has everything, and carrying it over again makes the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use super::Shared;
use super::committer::Committer;
use super::database::{Database, Fault};
use super::journal::{HalfId, Journal};
use crate::store::panic_text;

/// A checkpoint that is being made.
pub(super) type Running = JoinHandle<Result<(), Fault>>;

/// Writes everything that the journal has into a database that nobody else uses. The journal keeps it.
pub(super) fn replay(journal: &Journal, database: &Database) -> Result<(), Fault> {
    let halves = journal.filled();
    for half in &halves {
        journal.replay(*half, |entries| database.apply(entries))?;
    }
    if halves.is_empty() { Ok(()) } else { database.barrier() }
}

impl Shared {
    /// Carries a half of the journal over, and empties it.
    fn checkpoint(&self, half: HalfId) -> Result<(), Fault> {
        let closed = || Fault::Broken("the database is not open".into());
        // Readers have their turn after every few entries.
        self.journal.replay(half, |entries| {
            let slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().ok_or_else(closed)?.apply(entries)
        })?;
        {
            let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().ok_or_else(closed)?.barrier()?;
        }
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
        if self.checkpoint.is_some() {
            return Ok(());
        }
        if !self.shared.is_open() {
            return if self.is_full() { Ok(()) } else { self.reopen_or_be_full() };
        }
        let Some(half) = self.shared.journal.seal() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| shared.checkpoint(half)));
            shared.queue().checkpoint_ended = true;
            shared.wake.notify_all();
            outcome.unwrap_or_else(|panic| Err(Fault::Broken(panic_text(&*panic))))
        };
        match std::thread::Builder::new().name("outbox-checkpoint".into()).spawn(work) {
            Ok(running) => self.checkpoint = Some(running),
            // It takes longer for those who wait, and no more.
            Err(_) => self.shared.checkpoint(half).or_else(|fault| self.recover(fault))?,
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
        let Some(running) = self.checkpoint.take() else { return Ok(false) };
        let outcome = running.join().unwrap_or_else(|panic| Err(Fault::Broken(panic_text(&*panic))));
        self.shared.queue().checkpoint_ended = false;
        outcome.map(|()| true)
    }

    /// Carries over everything, in this thread.
    pub(super) fn checkpoint_all(&mut self) -> Result<(), Fault> {
        self.wait_for_checkpoint()?;
        self.shared.journal.filled().into_iter().try_for_each(|half| self.shared.checkpoint(half))
    }

    /// Room for so many bytes in the journal.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.shared.journal.has_room(bytes) {
            return Ok(());
        }
        self.end_checkpoint()?;
        if !self.shared.is_open() {
            self.reopen()?;
        }
        self.begin_checkpoint()?;
        match self.shared.journal.has_room(bytes) {
            true => Ok(()),
            false => Err(Fault::Full("the journal is full, and the database takes nothing".into())),
        }
    }

    /// After a fault: the database is opened anew, which has it take what the journal has.
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
