//! The disk of one device, under what an outbox's store promises.
//!
//! ```text
//! handed in ── applied (page cache) ── barrier ── synced
//!    kill: lost      kill: kept          power cut: kept
//!                    power cut: a part is kept, seeded: a prefix, or any of the writes
//! ```
//!
//! A write is kept whole or not at all. What has been synced is never torn, but a payload may rot. While the disk is full, writes
//! fail one by one.

use std::collections::BTreeMap;

use hedge_agent_core::outbox::{Change, Ending, Head, ResultHead, Saved};
use hedge_wire::RequestId;

use crate::dice::Dice;
use crate::payload::{Given, Payload};

/// A change with the payload that it brings.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) change: Change<Given>,
    /// With an insertion: the payload, and whether it will be readable.
    pub(crate) payload: Option<(Payload, bool)>,
}

/// What is read back of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    Whole(Payload),
    Rotten,
    Missing,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    applied: Tables,
    synced: Tables,
    /// Applied and not synced.
    log: Vec<Write>,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    /// By order of insertion.
    entries: BTreeMap<u64, Entry>,
    order: BTreeMap<RequestId, u64>,
    next: u64,
    results: BTreeMap<RequestId, (ResultHead, Ending<Given>)>,
}

#[derive(Clone, Debug)]
struct Entry {
    head: Head,
    payload: Payload,
    readable: bool,
}

impl Store {
    pub(crate) fn apply(&mut self, write: Write) {
        self.applied.apply(&write);
        self.log.push(write);
    }

    /// The barrier.
    pub(crate) fn sync(&mut self) {
        for write in self.log.drain(..) {
            self.synced.apply(&write);
        }
    }

    /// Power fails. Returns how many writes are lost.
    pub(crate) fn cut_power(&mut self, dice: &mut Dice) -> usize {
        let log = std::mem::take(&mut self.log);
        let (written, prefix) = (log.len(), dice.chance(0.5));
        let mut left = dice.below(written + 1);
        let mut lost = 0;
        for write in log {
            let kept = if prefix { left > 0 } else { dice.chance(0.5) };
            left = left.saturating_sub(1);
            match kept {
                true => self.synced.apply(&write),
                false => lost += 1,
            }
        }
        self.applied.clone_from(&self.synced);
        lost
    }

    /// The entry of `id` leaves the disk at once: what no store may do.
    pub(crate) fn drop_entry(&mut self, id: &RequestId) {
        self.applied.remove(id);
        self.synced.remove(id);
    }

    pub(crate) fn payload(&self, id: &RequestId) -> Read {
        match self.applied.order.get(id).map(|order| &self.applied.entries[order]) {
            Some(Entry { payload, readable: true, .. }) => Read::Whole(*payload),
            Some(_) => Read::Rotten,
            None => Read::Missing,
        }
    }

    pub(crate) fn head(&self, id: &RequestId) -> Option<&Head> {
        self.applied.order.get(id).map(|order| &self.applied.entries[order].head)
    }

    pub(crate) fn result(&self, id: &RequestId) -> Option<Ending<Given>> {
        self.applied.results.get(id).map(|(_, ending)| ending.clone())
    }

    /// What a process finds when it begins, entries in the order in which they came.
    pub(crate) fn saved(&self) -> Vec<Saved> {
        let results = self.applied.results.values().map(|(head, _)| Saved::Result(head.clone()));
        let entries = self.applied.entries.values().map(|entry| match entry.readable {
            true => Saved::Entry(entry.head.clone()),
            false => Saved::Damaged(entry.head.clone()),
        });
        results.chain(entries).collect()
    }
}

impl Tables {
    fn apply(&mut self, write: &Write) {
        match &write.change {
            Change::Insert(head) => self.insert(head, write.payload),
            Change::Update(head) => {
                if let Some(order) = self.order.get(&head.id) {
                    self.entries.get_mut(order).expect("an order names an entry").head = head.clone();
                }
            }
            Change::Finish { head, ending } => {
                self.remove(&head.id);
                self.results.insert(head.id, (head.clone(), ending.clone()));
            }
            Change::Fetched(id) => {
                if let Some((head, _)) = self.results.get_mut(id) {
                    head.fetched = true;
                }
            }
            Change::Erase(id) => {
                self.results.remove(id);
            }
        }
    }

    fn insert(&mut self, head: &Head, payload: Option<(Payload, bool)>) {
        let (payload, readable) = payload.expect("an insertion brings its payload");
        self.remove(&head.id);
        self.order.insert(head.id, self.next);
        self.entries.insert(self.next, Entry { head: head.clone(), payload, readable });
        self.next += 1;
    }

    fn remove(&mut self, id: &RequestId) {
        if let Some(order) = self.order.remove(id) {
            self.entries.remove(&order);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hedge_agent_core::outbox::Expiry;
    use hedge_wire::BootId;

    use super::*;
    use crate::dice::Stream;

    fn id(number: u8) -> RequestId {
        RequestId::from_bytes([number; 16])
    }

    fn insertion(number: u8) -> Write {
        let payload = Payload::new(0, number.into(), 0, 0, 20);
        let expiry = Expiry { boot: BootId(1), at: Duration::ZERO, left: Duration::ZERO };
        let head = Head { id: id(number), digest: payload.digest(), bytes: 20, attempts: 0, placed: false, expiry };
        Write { change: Change::Insert(head), payload: Some((payload, number != 9)) }
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
        let (mut least, mut most) = (usize::MAX, 0);
        for seed in 0..100 {
            let (mut store, mut dice) = (Store::default(), Dice::new(seed, Stream::Device(0)));
            store.apply(insertion(1));
            store.sync();
            (2..6).for_each(|number| store.apply(insertion(number)));
            assert_eq!(store.saved().len(), 5, "a process reads what another wrote");
            let lost = store.cut_power(&mut dice);
            assert_eq!(store.saved().len(), 5 - lost);
            assert_ne!(store.payload(&id(1)), Read::Missing, "seed {seed}");
            (least, most) = (least.min(lost), most.max(lost));
        }
        assert_eq!((least, most), (0, 4));
    }

    #[test]
    fn an_entry_becomes_its_result_in_one() {
        let mut store = Store::default();
        store.apply(insertion(1));
        store.apply(insertion(9));
        assert_eq!(store.payload(&id(9)), Read::Rotten);
        let Saved::Entry(head) = store.saved().remove(0) else { panic!("an entry") };
        let result = ResultHead { id: head.id, digest: head.digest, bytes: 0, fetched: false, expiry: head.expiry };
        let change = Change::Finish { head: result, ending: Ending::Damaged };
        store.apply(Write { change, payload: None });
        assert_eq!((store.payload(&id(1)), store.result(&id(1))), (Read::Missing, Some(Ending::Damaged)));
        store.apply(Write { change: Change::Erase(id(1)), payload: None });
        assert_eq!(store.result(&id(1)), None);
    }
}
