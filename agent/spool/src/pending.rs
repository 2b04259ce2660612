//! Which audits wait, in the order in which they came: the part of the queue that bounds it, held in memory.
//!
//! Places are numbered without gaps from `first` on. What is done in the middle keeps its place until everything before it is
//! done too, so that on disk a gap means a lost record. A value is held here until it is on disk, so a queue without a disk
//! works as well, until the process ends.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// What an audit costs beside its value: its key on disk and its place in memory.
pub(crate) const AUDIT_OVERHEAD: u64 = 128;

/// The places of one queue.
#[derive(Default)]
pub(crate) struct Pending {
    first: u64,
    places: VecDeque<Place>,
    /// Places whose record on disk is not what it should be.
    dirty: BTreeSet<u64>,
    /// Records before `first` that are still on disk begin here.
    on_disk_from: u64,
    bytes: u64,
    waiting: usize,
}

enum Place {
    Waiting(Waiting),
    Done,
}

/// One audit that waits.
pub(crate) struct Waiting {
    pub(crate) cost: u64,
    pub(crate) stored_at: u64,
    pub(crate) model: String,
    pub(crate) ticket: Vec<u8>,
    /// Whether the cloud has been asked.
    pub(crate) leased: bool,
    /// Its value, until that is on disk.
    pub(crate) unwritten: Option<Arc<[u8]>>,
}

impl Waiting {
    /// One of these bytes that are not on disk yet.
    pub(crate) fn new(model: String, ticket: Vec<u8>, stored_at: u64, value: Vec<u8>) -> Self {
        let cost = value.len() as u64 + AUDIT_OVERHEAD;
        Self { cost, stored_at, model, ticket, leased: false, unwritten: Some(value.into()) }
    }
}

/// What is to be written for a place.
pub(crate) enum Write {
    Value(Arc<[u8]>),
    Done,
}

impl Pending {
    /// Goes on from the records found on disk from number `first` on; `None` for one that is done, or was lost.
    pub(crate) fn restore(first: u64, records: impl Iterator<Item = Option<Waiting>>) -> Self {
        let mut pending = Self { first, on_disk_from: first, ..Self::default() };
        for record in records {
            pending.places.push_back(record.map_or(Place::Done, Place::Waiting));
        }
        for waiting in pending.places.iter().filter_map(Place::waiting) {
            pending.bytes += waiting.cost;
            pending.waiting += 1;
        }
        // Those that were lost get a record again, so that they are not met once more.
        let done = pending.places.iter().enumerate().filter(|(_, place)| place.waiting().is_none());
        pending.dirty = done.map(|(at, _)| first + at as u64).collect();
        pending.trim_front();
        pending
    }

    /// The number of the next place.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// What they cost.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next place.
    pub(crate) fn push(&mut self, audit: Waiting) {
        self.bytes += audit.cost;
        self.waiting += 1;
        self.dirty.insert(self.next());
        self.places.push_back(Place::Waiting(audit));
    }

    /// The oldest of a model that `wanted` names which is not leased, leased from now on: its number, and its value if that
    /// is not on disk yet.
    pub(crate) fn lease(&mut self, wanted: impl Fn(&str) -> bool) -> Option<(u64, Option<Arc<[u8]>>)> {
        let free = |place: &mut Place| place.waiting().is_some_and(|audit| !audit.leased && wanted(&audit.model));
        let at = self.places.iter_mut().position(free)?;
        let Place::Waiting(waiting) = &mut self.places[at] else { return None };
        waiting.leased = true;
        Some((self.first + at as u64, waiting.unwritten.clone()))
    }

    /// Gives a lease back.
    pub(crate) fn release(&mut self, number: u64) {
        if let Some(Place::Waiting(waiting)) = self.place_mut(number) {
            waiting.leased = false;
        }
    }

    /// Takes out the audit of that number, if it still waits.
    pub(crate) fn finish(&mut self, number: u64) -> Option<Waiting> {
        let place = self.place_mut(number)?;
        let Place::Waiting(waiting) = std::mem::replace(place, Place::Done) else { return None };
        self.bytes -= waiting.cost;
        self.waiting -= 1;
        self.dirty.insert(number);
        self.trim_front();
        Some(waiting)
    }

    /// Takes out the oldest until at most so many places and bytes are taken.
    pub(crate) fn evict_to(&mut self, places: usize, bytes: u64) -> Vec<Waiting> {
        let mut gone = Vec::new();
        while self.places.len() > places || self.bytes > bytes {
            gone.extend(self.finish(self.first));
        }
        gone
    }

    /// Takes out what was stored before `horizon`, from the oldest on.
    pub(crate) fn expire_before(&mut self, horizon: u64) -> Vec<Waiting> {
        let mut gone = Vec::new();
        while self.places.front().and_then(Place::waiting).is_some_and(|oldest| oldest.stored_at < horizon) {
            gone.extend(self.finish(self.first));
        }
        gone
    }

    /// Takes out those of models that `unwanted` names.
    pub(crate) fn remove_where(&mut self, unwanted: impl Fn(&str) -> bool) -> Vec<Waiting> {
        let waiting = |place: &Place| place.waiting().is_some_and(|waiting| unwanted(&waiting.model));
        let places = self.places.iter().enumerate().filter(|(_, place)| waiting(place));
        let numbers: Vec<u64> = places.map(|(at, _)| self.first + at as u64).collect();
        numbers.into_iter().filter_map(|number| self.finish(number)).collect()
    }

    /// The database is new: what was only on disk is lost, everything else has to be written again.
    pub(crate) fn lose_written(&mut self) -> Vec<Waiting> {
        let written = |place: &Place| place.waiting().is_some_and(|waiting| waiting.unwritten.is_none());
        let places = self.places.iter().enumerate().filter(|(_, place)| written(place));
        let numbers: Vec<u64> = places.map(|(at, _)| self.first + at as u64).collect();
        let lost = numbers.into_iter().filter_map(|number| self.finish(number)).collect();
        self.on_disk_from = self.first;
        self.dirty = (self.first..self.next()).collect();
        lost
    }

    /// Whether the disk has to be written to.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.on_disk_from < self.first
    }

    /// Some of what has to be written: records to remove, and at most `count` to write. It counts as written from now on.
    pub(crate) fn take_dirty(&mut self, count: usize) -> (Range<u64>, Vec<(u64, Write)>) {
        let gone = self.on_disk_from..self.first;
        self.on_disk_from = self.first;
        let mut writes = Vec::new();
        while let (true, Some(number)) = (writes.len() < count, self.dirty.pop_first()) {
            match self.place_mut(number) {
                Some(Place::Waiting(Waiting { unwritten: Some(value), .. })) => {
                    let value = Arc::clone(value);
                    writes.push((number, Write::Value(value)));
                }
                Some(Place::Done) => writes.push((number, Write::Done)),
                Some(Place::Waiting(_)) | None => {}
            }
        }
        (gone, writes)
    }

    /// The value of this place has reached the disk.
    pub(crate) fn written(&mut self, number: u64) {
        if let Some(Place::Waiting(waiting)) = self.place_mut(number) {
            waiting.unwritten = None;
        }
    }

    fn place_mut(&mut self, number: u64) -> Option<&mut Place> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.places.get_mut(at)
    }

    fn trim_front(&mut self) {
        while let Some(Place::Done) = self.places.front() {
            self.places.pop_front();
            self.dirty.remove(&self.first);
            self.first += 1;
        }
    }
}

impl Place {
    fn waiting(&self) -> Option<&Waiting> {
        match self {
            Self::Waiting(waiting) => Some(waiting),
            Self::Done => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(model: &str, stored_at: u64) -> Waiting {
        Waiting::new(model.into(), vec![], stored_at, vec![0; 72])
    }

    fn filled(count: u64) -> Pending {
        let mut pending = Pending::default();
        (0..count).for_each(|at| pending.push(waiting("m", 100 + at)));
        pending
    }

    fn write_all(pending: &mut Pending) -> (Range<u64>, Vec<u64>) {
        let (gone, writes) = pending.take_dirty(usize::MAX);
        writes.iter().for_each(|(number, _)| pending.written(*number));
        (gone, writes.into_iter().map(|(number, _)| number).collect())
    }

    #[test]
    fn the_oldest_that_is_free_is_leased_next() {
        let mut pending = filled(2);
        assert_eq!(pending.lease(|_| true).map(|(number, _)| number), Some(0));
        assert_eq!(pending.lease(|_| true).map(|(number, _)| number), Some(1));
        assert!(pending.lease(|_| true).is_none());
        pending.release(0);
        assert_eq!(pending.lease(|_| true).map(|(number, _)| number), Some(0));
    }

    #[test]
    fn a_place_in_the_middle_is_kept_until_all_before_it_are_done() {
        let mut pending = filled(3);
        write_all(&mut pending);
        assert!(pending.finish(1).is_some() && pending.finish(1).is_none(), "done once");
        assert_eq!(write_all(&mut pending), (0..0, vec![1]));
        assert!(pending.finish(0).is_some());
        assert_eq!(write_all(&mut pending), (0..2, vec![]), "both records go together");
        assert_eq!((pending.waiting(), pending.bytes(), pending.next()), (1, 200, 3));
    }

    #[test]
    fn what_is_done_before_it_was_written_never_is() {
        let mut pending = filled(1);
        pending.finish(0);
        assert_eq!(write_all(&mut pending), (0..1, vec![]));
        assert!(!pending.is_dirty());
    }

    #[test]
    fn the_oldest_leave_for_room_and_for_age_even_if_leased() {
        let mut pending = filled(5);
        pending.lease(|_| true);
        assert_eq!(pending.evict_to(4, u64::MAX).len(), 1);
        assert_eq!(pending.evict_to(9, 600).len(), 1);
        assert_eq!(pending.expire_before(103).iter().map(|gone| gone.stored_at).collect::<Vec<_>>(), [102]);
        assert_eq!(pending.waiting(), 2);
    }

    #[test]
    fn places_that_are_done_count_as_places_so_that_a_stuck_one_cannot_hold_them_for_ever() {
        let mut pending = filled(10);
        (1..10).for_each(|number| drop(pending.finish(number)));
        assert_eq!(pending.evict_to(9, u64::MAX).len(), 1);
        assert_eq!((pending.waiting(), pending.next()), (0, 10));
    }

    #[test]
    fn with_a_new_database_what_was_only_on_disk_is_lost_and_the_rest_is_written_again() {
        let mut pending = filled(2);
        write_all(&mut pending);
        pending.push(waiting("m", 200));
        pending.finish(0);
        assert_eq!(pending.lose_written().len(), 1);
        assert_eq!(write_all(&mut pending), (2..2, vec![2]));
    }

    #[test]
    fn the_audits_of_a_model_can_be_withdrawn() {
        let mut pending = filled(2);
        pending.push(waiting("private", 1));
        assert_eq!(pending.remove_where(|model| model == "private").len(), 1);
        assert_eq!(pending.waiting(), 2);
    }
}
