//! Which keys are cached, how large and how old each is: the part of the cache that bounds it, held in memory.
//!
//! A miss is decided here and costs no disk access. Entries leave in the order in which they came (first in, first out):
//! then the oldest is also the first to go for lack of room, age and room share one queue, and a hit writes nothing.
//! Values not yet on disk are held here too, so that an answer is found again from the moment it was stored.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::key::Key;

/// What an entry costs beside its value: its key on disk and its slots in memory, counted against `max_bytes`.
pub(crate) const ENTRY_OVERHEAD: u64 = 256;

#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) sequence: u64,
    pub(crate) cost: u64,
    pub(crate) stored_at: u64,
}

/// The index of one database.
#[derive(Default)]
pub(crate) struct Index {
    slots: HashMap<Key, Slot>,
    order: BTreeMap<u64, Key>,
    unwritten: HashMap<Key, (u64, Arc<[u8]>)>,
    bytes: u64,
    next: u64,
}

impl Index {
    /// The sequence number of the next insertion.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next
    }

    pub(crate) fn slot(&self, key: &Key) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    pub(crate) fn unwritten(&self, key: &Key) -> Option<Arc<[u8]>> {
        self.unwritten.get(key).map(|(_, value)| Arc::clone(value))
    }

    /// Notes an entry whose value of `length` bytes is on disk.
    pub(crate) fn insert(&mut self, key: Key, sequence: u64, stored_at: u64, length: usize) {
        self.remove(&key);
        let cost = length as u64 + ENTRY_OVERHEAD;
        // Two values can carry the same sequence number only after damage; the later one wins.
        if let Some(displaced) = self.order.insert(sequence, key)
            && let Some(slot) = self.slots.remove(&displaced)
        {
            self.bytes -= slot.cost;
        }
        self.slots.insert(key, Slot { sequence, cost, stored_at });
        self.bytes += cost;
        self.next = self.next.max(sequence.saturating_add(1));
    }

    /// Notes an entry whose value is still on its way to the disk.
    pub(crate) fn insert_unwritten(&mut self, key: Key, sequence: u64, stored_at: u64, value: Arc<[u8]>) {
        self.insert(key, sequence, stored_at, value.len());
        self.unwritten.insert(key, (sequence, value));
    }

    /// Forgets the copy in memory of a value that has reached the disk.
    pub(crate) fn written(&mut self, key: &Key, sequence: u64) {
        if self.unwritten.get(key).is_some_and(|(newest, _)| *newest == sequence) {
            self.unwritten.remove(key);
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        self.unwritten.remove(key);
        let Some(slot) = self.slots.remove(key) else {
            return false;
        };
        self.order.remove(&slot.sequence);
        self.bytes -= slot.cost;
        true
    }

    /// Removes and returns the oldest entries until at most `max_bytes` are held.
    pub(crate) fn evict_to(&mut self, max_bytes: u64) -> Vec<Key> {
        self.pop_while(|index, _| index.bytes > max_bytes)
    }

    /// Removes and returns the entries stored before `horizon`.
    pub(crate) fn expire_before(&mut self, horizon: u64) -> Vec<Key> {
        self.pop_while(|_, slot| slot.stored_at < horizon)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn pop_while(&mut self, wanted: impl Fn(&Self, Slot) -> bool) -> Vec<Key> {
        let mut removed = Vec::new();
        while let Some((_, &key)) = self.order.first_key_value() {
            let slot = self.slots[&key];
            if !wanted(self, slot) {
                break;
            }
            self.remove(&key);
            removed.push(key);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key([n; 32])
    }

    fn filled() -> Index {
        let mut index = Index::default();
        for n in 0..4 {
            index.insert(key(n), u64::from(n), 100 + u64::from(n), 100);
        }
        index
    }

    #[test]
    fn the_oldest_entries_leave_first_until_the_rest_fits() {
        let mut index = filled();
        assert_eq!(index.bytes(), 4 * (100 + ENTRY_OVERHEAD));
        assert_eq!(index.evict_to(2 * (100 + ENTRY_OVERHEAD)), [key(0), key(1)]);
        assert_eq!((index.len(), index.bytes()), (2, 2 * (100 + ENTRY_OVERHEAD)));
        assert_eq!(index.evict_to(0), [key(2), key(3)]);
        assert_eq!((index.len(), index.bytes()), (0, 0));
    }

    #[test]
    fn entries_older_than_the_horizon_leave() {
        let mut index = filled();
        assert_eq!(index.expire_before(102), [key(0), key(1)]);
        assert!(index.slot(&key(2)).is_some());
    }

    #[test]
    fn an_entry_that_is_stored_again_becomes_the_youngest_and_counts_once() {
        let mut index = filled();
        index.insert(key(0), 4, 200, 50);
        assert_eq!(index.len(), 4);
        assert_eq!(index.bytes(), 3 * 100 + 50 + 4 * ENTRY_OVERHEAD);
        assert_eq!(index.evict_to(50 + ENTRY_OVERHEAD), [key(1), key(2), key(3)]);
    }

    #[test]
    fn a_value_is_held_in_memory_until_that_very_version_is_on_disk() {
        let mut index = Index::default();
        index.insert_unwritten(key(1), 0, 9, Arc::from(&b"old"[..]));
        index.insert_unwritten(key(1), 1, 9, Arc::from(&b"new"[..]));
        index.written(&key(1), 0);
        assert_eq!(index.unwritten(&key(1)).as_deref(), Some(&b"new"[..]));
        index.written(&key(1), 1);
        assert_eq!(index.unwritten(&key(1)), None);
        assert!(index.slot(&key(1)).is_some());
    }

    #[test]
    fn two_values_with_one_sequence_number_do_not_break_the_accounts() {
        let mut index = Index::default();
        index.insert(key(1), 5, 9, 10);
        index.insert(key(2), 5, 9, 20);
        assert_eq!((index.len(), index.bytes()), (1, 20 + ENTRY_OVERHEAD));
        assert_eq!(index.next_sequence(), 6);
    }
}
