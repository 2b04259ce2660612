//! Durable requests: what is accepted is answered, once, whatever happens to power, process, disk and link.
//!
//! ```text
//! Accept ─ persisted ─ Accepted ─ attempt persisted ─ Execute ─┬─ final ──────────────────────┐
//!   │                                                          └─ Offload ─ Publish ─ reply ──┼─ persisted ─ Deliver
//!   └ Refuse (full, other inputs)                                  ^   │ Busy, silence, down  │
//!                                                                  └───┘ full jitter, same id │
//!                                                      expired, refused ── Execute (local) ───┘
//! ```
//!
//! It decides states, retries, duplicates, poison and expiry. Payloads and results are the store's, which is told what to
//! write ([`Change`]) and says when it is safe; HTTP callers are the shell's: 200 where [`OutboxAction::Deliver`] comes by the
//! caller's deadline, 202 where only [`OutboxAction::Accepted`] did, an error where neither did.
//!
//! # What a durable request waits for
//!
//! A request that is not durable is answered `uncertified` as soon as the cloud cannot be asked. A durable one is one whose
//! caller would rather wait: where the router wants the cloud's answer, the request waits for the cloud until its `life` is
//! over, through cuts, restarts and reboots. So the router is to be told that the cloud may be asked, whatever the link does,
//! and a local answer ends a durable request only where the router gives one anyway (inside a certificate, over budget,
//! `hedge.place = edge`, `offload = never`, no broker configured) or where the cloud will not answer: the life is over, or the
//! gateway's refusal is final. Then it is executed locally and answered `uncertified`, with the reason.
//!
//! A reply is final where repeating the question cannot change it: a verdict, and the refusals `BadInput` and `Internal`.
//! `Busy`, `Expired` (the gateway was too slow for this attempt) and `UnknownModel` (it serves the model not now) are not.
//!
//! # Invariants
//!
//! 1. Accepted means persisted. From then on the request ends in exactly one [`Ending`], which is persisted before it is
//!    delivered; nothing but an ending removes the entry. An acknowledgement by a broker ends nothing.
//! 2. An id is delivered at most once by one process, and every process that knows its result gives the same. A reply to what
//!    has ended, or a second reply, changes nothing.
//! 3. An attempt is on disk before a request is executed, and before the first time that a process sends it. A request found
//!    with unfinished attempts is suspect: it is executed while nothing else that is unproved is. After
//!    [`poison_after`](OutboxSettings::poison_after) unfinished attempts it ends as poisoned. Where it is known what was
//!    under way when a process was killed, no other attempt counts.
//! 4. Bounded by [`OutboxSettings`]: entries, bytes, executions and messages at a time, results, every wait.
//! 5. Accepted work is never refused later: a full disk delays it and refuses new work only.
//! 6. No wall clock: a life is counted on the monotonic clock, and over a reboot by what was left when it was last written
//!    down, which happens at least eight times in a life.

mod entry;
mod event;
mod events;
mod restore;
mod results;
mod settings;
mod turns;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use hedge_wire::{BootId, RequestId};

use self::entry::{Entry, Load, Seq, Turn};
pub use self::event::{
    Change, Ending, Expiry, HasBytes, Head, Mode, NotAccepted, OutboxAction, OutboxEvent, Ran, ResultHead, WriteId,
};
pub use self::restore::{Saved, UnderWay, held};
use self::results::Results;
pub use self::settings::OutboxSettings;
use crate::route::coin::Coins;

/// What is known of an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing.
    Unknown,
    /// It is being persisted: not accepted yet.
    Accepting,
    /// Accepted, no result yet.
    Waiting,
    /// Its result is in the store.
    Done,
    /// It had a result, which is no longer kept.
    Gone,
}

/// The durable requests of one device.
#[derive(Debug)]
pub struct Outbox<A> {
    settings: OutboxSettings,
    boot: BootId,
    coins: Coins,
    entries: BTreeMap<Seq, Entry<A>>,
    ids: HashMap<RequestId, Seq>,
    /// The writes not yet reported upon.
    writes: HashMap<WriteId, Seq>,
    next_seq: u64,
    next_write: u64,
    bytes: u64,
    load: Load,
    /// Whose turn it is to be executed or sent, in order of arrival.
    turns: BTreeMap<Turn, BTreeSet<Seq>>,
    timers: BTreeSet<(Duration, Seq)>,
    results: Results,
    /// Whether the cloud may be asked.
    up: bool,
    /// Whether the process is to end: nothing is begun any more.
    stopping: bool,
    /// The time last asked for.
    wake: Option<Duration>,
}

impl<A: HasBytes> Outbox<A> {
    /// An empty outbox on a device whose monotonic clock belongs to `boot`; `seed` spreads its retries.
    #[must_use]
    pub fn new(settings: OutboxSettings, boot: BootId, seed: u64) -> Self {
        Self {
            settings,
            boot,
            coins: Coins::new(seed),
            entries: BTreeMap::new(),
            ids: HashMap::new(),
            writes: HashMap::new(),
            next_seq: 0,
            next_write: 0,
            bytes: 0,
            load: Load::default(),
            turns: BTreeMap::new(),
            timers: BTreeSet::new(),
            results: Results::default(),
            up: false,
            stopping: false,
            wake: None,
        }
    }

    /// Takes in an event and says what to do. `now` is monotonic.
    pub fn on(&mut self, event: OutboxEvent<A>, now: Duration) -> Vec<OutboxAction<A>> {
        let mut actions = Vec::new();
        self.take(event, now, &mut actions);
        self.settle(now, &mut actions);
        actions
    }

    /// What is known of `id`.
    #[must_use]
    pub fn standing(&self, id: &RequestId) -> Standing {
        match self.ids.get(id).map(|seq| self.entries[seq].is_accepted()) {
            Some(true) => Standing::Waiting,
            Some(false) => Standing::Accepting,
            None => self.results.standing(id),
        }
    }

    /// Whether so many more requests, with so many bytes of payload, would be accepted now. To hand in some only for others of
    /// them to be refused is work for nothing.
    ///
    /// # Errors
    ///
    /// What they would be refused for.
    pub fn room_for(&self, requests: usize, bytes: u64) -> Result<(), NotAccepted> {
        let (held, limit) = (self.entries.len() + self.results.unfetched(), self.settings.entries);
        if held.saturating_add(requests) > limit {
            return Err(NotAccepted::TooMany { held, limit });
        }
        let (held, limit) = (self.results.unfetched_bytes(), self.settings.result_bytes);
        if held >= limit {
            return Err(NotAccepted::Unfetched { held, limit });
        }
        let limit = self.settings.refuse_from();
        match self.bytes.saturating_add(bytes) > limit {
            true => Err(NotAccepted::TooLarge { held: self.bytes, limit }),
            false => Ok(()),
        }
    }

    /// Requests without an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of their payloads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Requests being executed now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.load.running
    }

    /// Requests asked of the cloud now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.load.in_flight
    }

    /// Results kept: not fetched yet, and all.
    #[must_use]
    pub fn results(&self) -> (usize, usize) {
        (self.results.unfetched(), self.results.len())
    }

    /// Whether a request that was being executed when the process died is being tried, alone.
    #[must_use]
    pub fn tries_a_suspect(&self) -> bool {
        self.load.suspects > 0
    }

    /// What every event ends with: what is due is done, turns are taken, results are dropped, the next wake-up is asked for.
    fn settle(&mut self, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        self.take_time(now, actions);
        self.take_turns(now, actions);
        for id in self.results.drop_old(now, self.settings.results, self.settings.result_bytes) {
            actions.push(OutboxAction::Note(Change::Erase(id)));
        }
        let timers = self.timers.first().map(|&(at, _)| at);
        let wake = [timers, self.results.next_expiry()].into_iter().flatten().min();
        if wake != self.wake {
            self.wake = wake;
            actions.extend(wake.map(OutboxAction::WakeAt));
        }
    }

    fn entry(&self, seq: Seq) -> &Entry<A> {
        self.entries.get(&seq).expect("a sequence number in use names an entry")
    }

    /// The only way to change an entry: keeps load, turns and timers in step with it.
    fn change<T>(&mut self, seq: Seq, change: impl FnOnce(&mut Entry<A>) -> T) -> T {
        let entry = self.entries.get_mut(&seq).expect("a sequence number in use names an entry");
        let (load, turn, wake) = (entry.load(), entry.turn(), entry.wake());
        let out = change(entry);
        let (load_after, turn_after, wake_after) = (entry.load(), entry.turn(), entry.wake());
        self.load.replace(load, load_after);
        self.index(seq, (turn, wake), (turn_after, wake_after));
        out
    }

    fn insert(&mut self, entry: Entry<A>) -> Seq {
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        self.bytes += entry.bytes;
        self.ids.insert(entry.id, seq);
        self.load.replace(Load::default(), entry.load());
        self.index(seq, (None, None), (entry.turn(), entry.wake()));
        self.entries.insert(seq, entry);
        seq
    }

    fn remove(&mut self, seq: Seq) -> Entry<A> {
        let entry = self.entries.remove(&seq).expect("a sequence number in use names an entry");
        self.load.replace(entry.load(), Load::default());
        self.index(seq, (entry.turn(), entry.wake()), (None, None));
        self.ids.remove(&entry.id);
        self.bytes -= entry.bytes;
        entry
    }

    fn index(
        &mut self,
        seq: Seq,
        (turn, wake): (Option<Turn>, Option<Duration>),
        (turn_after, wake_after): (Option<Turn>, Option<Duration>),
    ) {
        if turn != turn_after {
            if let Some(set) = turn.and_then(|turn| self.turns.get_mut(&turn)) {
                set.remove(&seq);
            }
            if let Some(turn) = turn_after {
                self.turns.entry(turn).or_default().insert(seq);
            }
        }
        if wake != wake_after {
            wake.map(|at| self.timers.remove(&(at, seq)));
            wake_after.map(|at| self.timers.insert((at, seq)));
        }
    }

    fn persist(&mut self, seq: Seq, change: Change<A>, actions: &mut Vec<OutboxAction<A>>) -> WriteId {
        let write = WriteId(self.next_write);
        self.next_write += 1;
        self.writes.insert(write, seq);
        actions.push(OutboxAction::Persist { write, change });
        write
    }

    /// A wait before try number `tries` after the first: full jitter.
    fn backoff(&mut self, tries: u32) -> Duration {
        let bound = doubled(self.settings.backoff_base, tries, self.settings.backoff_cap);
        bound.mul_f64(self.coins.throw())
    }
}

/// `base` doubled `times` times, at most `cap`.
fn doubled(base: Duration, times: u32, cap: Duration) -> Duration {
    let factor = 2_u32.checked_pow(times).unwrap_or(u32::MAX);
    base.checked_mul(factor).unwrap_or(cap).min(cap)
}
