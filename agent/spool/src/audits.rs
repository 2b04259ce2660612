//! The audits that wait for the cloud: what callers see of them.
//!
//! First in, first out, bounded by number, bytes and age; the oldest leave first, and every loss is told with its ticket
//! ([`AuditQueue::take_lost`]), because a lost audit must not be waited for. An audit is leased, asked about, and finished
//! or released; leases end with the process, so after a restart the cloud is asked again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::audit::{self, Audit, Record};
use crate::pending::Waiting;
use crate::state::{Inner, Shared};

/// The most losses remembered until they are taken; more are only counted.
const MAX_LOST: usize = 65_536;

/// The queue; clones share it.
#[derive(Clone)]
pub struct AuditQueue {
    shared: Arc<Shared>,
}

/// An audit that the cloud is asked about now.
#[derive(Debug, PartialEq)]
pub struct Leased {
    /// Its place in the queue.
    pub number: u64,
    /// The audit.
    pub audit: Audit,
}

/// An audit that left the queue without a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The model's name.
    pub model: String,
    /// Its ticket.
    pub ticket: Vec<u8>,
    /// Why.
    pub why: LostBecause,
}

/// Why an audit left the queue without a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostBecause {
    /// For lack of room.
    Room,
    /// For its age.
    Age,
    /// Its record was damaged.
    Damage,
    /// Its model's data may not leave the device any more, or the model is gone.
    Withdrawn,
}

/// An audit that no queue could hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit is larger than {} bytes, or the agent is shutting down", audit::MAX_AUDIT_BYTES)]
pub struct AuditRefused;

/// Counters since the start, and what is held now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AuditStats {
    /// Audits that wait now.
    pub waiting: u64,
    /// Their bytes, with the overhead of each.
    pub bytes: u64,
    /// Audits taken in.
    pub queued: u64,
    /// Audits that got their verdict, or a refusal.
    pub finished: u64,
    /// Audits that left for lack of room.
    pub dropped: u64,
    /// Audits that left for their age.
    pub expired: u64,
    /// Audits that were withdrawn.
    pub withdrawn: u64,
    /// Records that were damaged or missing.
    pub damaged: u64,
    /// How often the database was deleted and made anew.
    pub rebuilt: u64,
}

impl fmt::Debug for AuditQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditQueue").field("path", &self.shared.config.path).finish_non_exhaustive()
    }
}

impl AuditQueue {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes in an audit: at once in memory, on disk a moment later.
    pub fn push(&self, audit: &Audit) -> Result<(), AuditRefused> {
        let config = &self.shared.config;
        let mut inner = self.shared.inner();
        let (number, stored_at) = (inner.pending.next(), inner.clock.now());
        let value = audit::encode(number, audit, stored_at).filter(|_| !inner.closing).ok_or(AuditRefused)?;
        inner.pending.push(Waiting::new(audit.model.clone(), audit.ticket.clone(), stored_at, value));
        let gone = inner.pending.evict_to(config.max_audits, config.max_audit_bytes);
        inner.lose(gone, LostBecause::Room, &self.shared.counters.dropped);
        drop(inner);
        count(&self.shared.counters.queued, 1);
        self.shared.wake.notify_all();
        Ok(())
    }

    /// The oldest audit that nobody is asking about, of a model that `wanted` names; it is to be finished or released. May
    /// read a record from the disk.
    #[must_use]
    pub fn lease(&self, wanted: impl Fn(&str) -> bool) -> Option<Leased> {
        loop {
            let (number, unwritten) = {
                let mut inner = self.shared.inner();
                inner.expire(&self.shared);
                inner.pending.lease(&wanted)?
            };
            let value = match unwritten {
                Some(value) => Some(value.to_vec()),
                None => self.shared.read(number),
            };
            match value.and_then(|value| audit::decode(number, &value)) {
                Some(Record::Waiting { audit, .. }) => return Some(Leased { number, audit }),
                Some(Record::Done) | None => {
                    let mut inner = self.shared.inner();
                    let gone = inner.pending.finish(number).into_iter().collect();
                    inner.lose(gone, LostBecause::Damage, &self.shared.counters.damaged);
                }
            }
        }
    }

    /// Gives a lease back: the cloud could not be asked, and is asked again later.
    pub fn release(&self, number: u64) {
        self.shared.inner().pending.release(number);
    }

    /// Takes an audit out for good; false if it had left already. Only what left now may be counted as evidence.
    pub fn finish(&self, number: u64) -> bool {
        let finished = self.shared.inner().pending.finish(number).is_some();
        if finished {
            count(&self.shared.counters.finished, 1);
            self.shared.wake.notify_all();
        }
        finished
    }

    /// Takes out the audits of models that `unwanted` names.
    pub fn withdraw(&self, unwanted: impl Fn(&str) -> bool) {
        let mut inner = self.shared.inner();
        let gone = inner.pending.remove_where(unwanted);
        inner.lose(gone, LostBecause::Withdrawn, &self.shared.counters.withdrawn);
        drop(inner);
        self.shared.wake.notify_all();
    }

    /// Drops all audits that wait and gives the space back that they take on the disk: audits go first when it is full. For a
    /// minute new ones wait in memory only. Blocks.
    pub fn shed(&self) {
        self.shared.inner().shed = true;
        self.sync();
    }

    /// What was lost since the last call.
    #[must_use]
    pub fn take_lost(&self) -> Vec<Lost> {
        self.shared.inner().lost.drain(..).collect()
    }

    /// Waits until the disk has everything given so far, whatever happens to the power. Blocks.
    pub fn sync(&self) {
        let (sender, done) = mpsc::sync_channel(1);
        let mut inner = self.shared.inner();
        if !inner.closing {
            inner.barriers.push(sender);
        }
        drop(inner);
        self.shared.wake.notify_all();
        // It ends without a word where the state is being closed, which writes everything out too.
        let _ = done.recv();
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> AuditStats {
        let (waiting, bytes) = {
            let inner = self.shared.inner();
            (inner.pending.waiting() as u64, inner.pending.bytes())
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.shared.counters;
        AuditStats {
            waiting,
            bytes,
            queued: read(&c.queued),
            finished: read(&c.finished),
            dropped: read(&c.dropped),
            expired: read(&c.expired),
            withdrawn: read(&c.withdrawn),
            damaged: read(&c.damaged),
            rebuilt: read(&c.rebuilt),
        }
    }
}

impl Inner {
    /// Remembers audits that left without a verdict.
    pub(crate) fn lose(&mut self, gone: Vec<Waiting>, why: LostBecause, counter: &AtomicU64) {
        count(counter, gone.len() as u64);
        for waiting in gone {
            if self.lost.len() < MAX_LOST {
                self.lost.push_back(Lost { model: waiting.model, ticket: waiting.ticket, why });
            }
        }
    }

    /// Drops what is too old.
    pub(crate) fn expire(&mut self, shared: &Shared) {
        let horizon = self.clock.now().saturating_sub(shared.config.max_audit_age.as_secs());
        let gone = self.pending.expire_before(horizon);
        self.lose(gone, LostBecause::Age, &shared.counters.expired);
    }
}

impl Shared {
    fn read(&self, number: u64) -> Option<Vec<u8>> {
        let store = self.store.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A database that fails here fails for the writer too, which then makes it anew.
        store.as_ref()?.read(&number.to_be_bytes()).ok().flatten()
    }
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
