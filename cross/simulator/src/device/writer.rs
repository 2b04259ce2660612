//! The store's one writing thread: writes are handed in, applied in order a group at a time, and reported after the barrier.

use std::collections::VecDeque;
use std::time::Duration;

use hedge_agent_core::OutboxEvent;
use hedge_agent_core::outbox::{Change, WriteId};

use super::host::{Death, Host};
use super::process::Process;
use crate::counts::Happening;
use crate::faults::Fault;
use crate::payload::{Given, Payload};
use crate::plant::Plant;
use crate::queue::{DeviceEvent, Event};
use crate::shared::Shared;
use crate::store::Write;

/// How long a group gathers.
const GROUP: Duration = Duration::from_millis(5);
/// How many writes make a group.
const GROUP_SIZE: usize = 32;
/// How long a note may wait for a barrier.
const NOTE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Writer {
    waiting: VecDeque<HandedIn>,
    /// When the next group is applied.
    due: Option<Duration>,
    /// What the barrier under way will report.
    syncing: Option<Vec<WriteId>>,
}

#[derive(Debug)]
struct HandedIn {
    /// None for a note.
    id: Option<WriteId>,
    write: Write,
}

impl Writer {
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.syncing.is_none()
    }

    fn is_urgent(&self) -> bool {
        self.waiting.iter().any(|handed_in| handed_in.id.is_some())
    }
}

impl Process {
    /// A write of the outbox; with an insertion comes its payload.
    pub(super) fn write(
        &mut self,
        id: Option<WriteId>,
        change: Change<Given>,
        payload: Option<Payload>,
        host: &mut Host,
        shared: &mut Shared,
    ) {
        let payload = payload.map(|payload| (payload, !host.dice.chance(shared.weather.rot)));
        self.writer.waiting.push_back(HandedIn { id, write: Write { change, payload } });
        self.plan_commit(host, shared);
        if host.dice.chance(shared.weather.sudden) {
            let death = host.dice.pick(&[Death::Power, Death::Killed { by: None }]);
            let event = Event::Fault(Fault::Kill(host.index, death));
            shared.queue.push(shared.now + host.dice.millis(0..25), event);
        }
    }

    /// The store is closed in order: what waits is written, as far as there is space, and is safe. Whether there was for all.
    pub(crate) fn flush(&mut self, host: &mut Host) -> bool {
        let mut waiting = std::mem::take(&mut self.writer.waiting).into_iter();
        let all = waiting.all(|HandedIn { write, .. }| {
            let finds_space = Self::finds_space(&write.change, host);
            if finds_space {
                host.store.apply(write);
            }
            finds_space
        });
        host.store.sync();
        all
    }

    fn plan_commit(&mut self, host: &Host, shared: &mut Shared) {
        if self.writer.syncing.is_some() || self.writer.waiting.is_empty() {
            return;
        }
        let wait = match (self.writer.waiting.len() >= GROUP_SIZE, self.writer.is_urgent()) {
            (true, _) => Duration::ZERO,
            (false, true) => GROUP,
            (false, false) => NOTE,
        };
        let at = shared.now + wait;
        if self.writer.due.is_none_or(|due| at < due) {
            self.writer.due = Some(at);
            host.after(wait, DeviceEvent::Commit, shared);
        }
    }

    /// A group is applied, as far as there is space, and the barrier begins.
    pub(super) fn commit(&mut self, host: &mut Host, shared: &mut Shared) {
        if self.writer.due != Some(shared.now) {
            return;
        }
        self.writer.due = None;
        let (mut written, mut failed, mut kept) = (Vec::new(), Vec::new(), VecDeque::new());
        let (mut applied, mut blocked) = (0, false);
        for HandedIn { id, write } in std::mem::take(&mut self.writer.waiting) {
            if blocked || !Self::finds_space(&write.change, host) {
                match id {
                    Some(id) => failed.push(id),
                    // A note is tried again, and nothing that came after it overtakes it.
                    None => {
                        blocked = true;
                        kept.push_back(HandedIn { id, write });
                    }
                }
                continue;
            }
            host.store.apply(write);
            applied += 1;
            written.extend(id);
        }
        self.writer.waiting = kept;
        if applied > 0 {
            self.begin_barrier(written, host, shared);
        }
        for id in failed {
            shared.count(Happening::DiskFull);
            self.feed(OutboxEvent::NotPersisted(id), host, shared);
        }
        self.plan_commit(host, shared);
    }

    /// A full disk takes no new payload, and other writes by luck: what was preallocated for them is used up now and then.
    fn finds_space(change: &Change<Given>, host: &mut Host) -> bool {
        !host.disk_is_full || !matches!(change, Change::Insert(_)) && host.dice.chance(0.5)
    }

    fn begin_barrier(&mut self, written: Vec<WriteId>, host: &mut Host, shared: &mut Shared) {
        let slow = host.dice.chance(shared.weather.slow_syncs);
        if slow {
            shared.count(Happening::SlowSyncs);
        }
        let took = if slow { host.dice.millis(200..1500) } else { host.dice.millis(1..12) };
        host.after(took, DeviceEvent::Synced, shared);
        if shared.has(Plant::AckBeforeBarrier) {
            self.writer.syncing = Some(Vec::new());
            written.into_iter().for_each(|id| self.feed(OutboxEvent::Persisted(id), host, shared));
        } else {
            self.writer.syncing = Some(written);
        }
    }

    /// The barrier is through: what was applied before it survives.
    pub(super) fn synced(&mut self, host: &mut Host, shared: &mut Shared) {
        host.store.sync();
        let written = self.writer.syncing.take().unwrap_or_default();
        for id in written {
            self.feed(OutboxEvent::Persisted(id), host, shared);
        }
        self.plan_commit(host, shared);
    }
}
