//! What the outbox holds, in memory: a row for each request, and what follows from a change for the database and the ledger.
//!
//! It decides and does no I/O. A change is made here first and comes out as a [`Step`]; where the step does not reach the
//! disk, it is undone here.
//!
//! # Order within a step
//!
//! Of a step that the power interrupts the journal has a prefix, as sled has of what it was given. So each change has one value
//! that makes it, and it is written after what it rests on: parts of a payload before the last one, which has the row of the
//! entry with it, parts of an answer before the row of the result (which is newer than the entry's, so that an id has one or
//! the other), the account before the row that it no longer counts is removed. Parts without a row are swept at the next open.

use std::collections::HashMap;

use bytes::Bytes;
use hedge_agent_core::outbox::{Change, Ending, Saved};
use hedge_wire::{Digest, RequestId};

use super::key::{Key, Side};
use super::part::{self, INLINE_BYTES};
use super::row::{self, Account, Body, How, Row, State};

/// The rows, and counts of them.
#[derive(Default)]
pub(super) struct Table {
    rows: HashMap<RequestId, Row>,
    account: Account,
    /// How many rows name a file.
    files: HashMap<[u8; 32], usize>,
    held: Held,
}

/// What is held.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Held {
    pub(super) waiting: u64,
    pub(super) payload_bytes: u64,
    pub(super) results: u64,
    pub(super) answer_bytes: u64,
}

/// What a change means for the disk.
#[derive(Default)]
pub(super) struct Step {
    /// To be written in this order.
    pub(super) puts: Vec<(Key, Vec<u8>)>,
    /// To be removed after that.
    pub(super) removes: Vec<Key>,
    /// For the ledger, after the barrier.
    pub(super) record: Option<Vec<u8>>,
    undo: Option<(RequestId, Option<Row>)>,
}

impl Step {
    /// Takes these keys out.
    pub(super) fn removal(removes: Vec<Key>) -> Self {
        Self { removes, ..Self::default() }
    }

    /// The file that the row named before, which may be named no more.
    pub(super) fn released(&self) -> Option<[u8; 32]> {
        self.undo.as_ref()?.1.as_ref()?.body.file
    }
}

impl Table {
    /// What was found on disk.
    pub(super) fn restore(rows: Vec<Row>, account: Account) -> Self {
        let mut table = Self { account: Account { live: 0, sum: 0, ..account }, ..Self::default() };
        for row in rows {
            table.set(row.id(), Some(row));
        }
        table
    }

    pub(super) fn row(&self, id: &RequestId) -> Option<&Row> {
        self.rows.get(id)
    }

    /// All rows, in order of acceptance.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.values().collect();
        rows.sort_by_key(|row| row.number);
        rows
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn account(&self) -> Account {
        self.account
    }

    pub(super) fn held(&self) -> Held {
        self.held
    }

    pub(super) fn names_file(&self, file: &[u8; 32]) -> bool {
        self.files.contains_key(file)
    }

    /// From now on, changes are to survive by a further barrier.
    pub(super) fn next_barrier(&mut self) {
        self.account.barrier += 1;
    }

    /// The account once more, newer than any row: for a database that is written anew.
    pub(super) fn restate(&mut self) {
        self.account.serial += 1;
    }

    /// The body of this row is lost.
    pub(super) fn lose_body(&mut self, id: &RequestId) {
        if let Some(row) = self.rows.get_mut(id) {
            row.body.lost = true;
        }
    }

    /// Makes a change. One of a request that is not there changes nothing, except that a result is always kept.
    pub(super) fn change(&mut self, change: &Change<Bytes>, payload: Option<&Bytes>) -> Step {
        match change {
            Change::Insert(head) => {
                let number = self.number_of(&head.id);
                let payload = payload.map_or(&[][..], |bytes| bytes);
                let body = Body::of(payload);
                let parts = inline(&body, Side::Payload, number, head.id, payload);
                self.accept(Row { number, state: State::Waiting(head.clone()), body }, parts)
            }
            Change::Update(head) => match self.rows.get(&head.id) {
                Some(row) if matches!(row.state, State::Waiting(_)) => {
                    self.put(Row { state: State::Waiting(head.clone()), ..*row }, Vec::new(), Vec::new())
                }
                _ => Step::default(),
            },
            Change::Finish { head, ending } => {
                let number = self.number_of(&head.id);
                let (how, answer) = match ending {
                    Ending::Answered(answer) => (How::Answered, &answer[..]),
                    Ending::Poisoned { attempts } => (How::Poisoned { attempts: *attempts }, &[][..]),
                    Ending::Damaged => (How::Damaged, &[][..]),
                };
                let body = Body::of(answer);
                let parts = inline(&body, Side::Answer, number, head.id, answer);
                let payload = self.rows.get(&head.id).map_or(Vec::new(), Row::parts);
                self.put(Row { number, state: State::Ended(head.clone(), how), body }, parts, payload)
            }
            Change::Fetched(id) => match self.rows.get(id).map(|row| (row, &row.state)) {
                Some((row, State::Ended(head, how))) => {
                    let head = hedge_agent_core::outbox::ResultHead { fetched: true, ..head.clone() };
                    self.put(Row { state: State::Ended(head, *how), ..*row }, Vec::new(), Vec::new())
                }
                _ => Step::default(),
            },
            Change::Erase(id) => self.erase(id),
        }
    }

    /// Takes back what the steps changed, the last first. Numbers and serials are not used again.
    pub(super) fn undo(&mut self, steps: Vec<Step>) {
        for (id, row) in steps.into_iter().rev().filter_map(|step| step.undo) {
            self.set(id, row);
        }
    }

    fn number_of(&self, id: &RequestId) -> u64 {
        self.rows.get(id).map_or(self.account.next, |row| row.number)
    }

    /// A new row, in one value with the last part of its payload: half as many to write where payloads are small.
    fn accept(&mut self, row: Row, mut puts: Vec<(Key, Vec<u8>)>) -> Step {
        let key = Key::Row(row.number);
        let (value, undo) = self.counted(row);
        match puts.last_mut() {
            Some((_, last)) => last.extend_from_slice(&value),
            None => puts.push((key, value.clone())),
        }
        Step { puts, removes: Vec::new(), record: Some(value), undo: Some(undo) }
    }

    fn put(&mut self, row: Row, mut puts: Vec<(Key, Vec<u8>)>, mut removes: Vec<Key>) -> Step {
        let key = Key::Row(row.number);
        // What is written anew is not removed.
        removes.retain(|removed| puts.iter().all(|(written, _)| written != removed));
        let (value, undo) = self.counted(row);
        puts.push((key, value.clone()));
        Step { puts, removes, record: Some(value), undo: Some(undo) }
    }

    /// Takes the row in as the next change: its bytes, and what undoes it.
    fn counted(&mut self, row: Row) -> (Vec<u8>, (RequestId, Option<Row>)) {
        let id = row.id();
        self.account.next = self.account.next.max(row.number + 1);
        self.account.serial += 1;
        let before = self.set(id, Some(row));
        (self.rows[&id].encode(&self.account), (id, before))
    }

    fn erase(&mut self, id: &RequestId) -> Step {
        let Some(row) = self.set(*id, None) else { return Step::default() };
        self.account.serial += 1;
        let puts = vec![(Key::Account, self.account.encode())];
        let removes = [vec![Key::Row(row.number)], row.parts()].concat();
        let record = Some(row::gone(row.number, id, &self.account));
        Step { puts, removes, record, undo: Some((*id, Some(row))) }
    }

    /// The only way to change a row: keeps the counts in step.
    fn set(&mut self, id: RequestId, row: Option<Row>) -> Option<Row> {
        let before = self.rows.remove(&id);
        if let Some(before) = &before {
            self.count(before, false);
        }
        if let Some(row) = row {
            self.count(&row, true);
            self.rows.insert(id, row);
        }
        before
    }

    fn count(&mut self, row: &Row, comes: bool) {
        let by = |count: &mut u64, amount: u64| {
            *count = if comes { count.wrapping_add(amount) } else { count.wrapping_sub(amount) };
        };
        by(&mut self.account.live, 1);
        by(&mut self.account.sum, row.number);
        let (number, bytes) = match row.state {
            State::Waiting(_) => (&mut self.held.waiting, &mut self.held.payload_bytes),
            State::Ended(..) => (&mut self.held.results, &mut self.held.answer_bytes),
        };
        by(number, 1);
        by(bytes, row.body.length);
        if let Some(file) = row.body.file {
            let users = self.files.entry(file).or_default();
            *users = if comes { *users + 1 } else { *users - 1 };
            if *users == 0 {
                self.files.remove(&file);
            }
        }
    }
}

impl Body {
    /// What is known of a body beside its bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let file = (bytes.len() > INLINE_BYTES).then(|| Digest::of(bytes).0);
        Self { length: bytes.len() as u64, crc: crc32c::crc32c(bytes), file, lost: false }
    }

    /// Whether these are its bytes.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        self.length == bytes.len() as u64 && self.crc == crc32c::crc32c(bytes)
    }
}

impl Row {
    pub(super) fn side(&self) -> Side {
        match self.state {
            State::Waiting(_) => Side::Payload,
            State::Ended(..) => Side::Answer,
        }
    }

    /// The keys of its body's parts in the database.
    pub(super) fn parts(&self) -> Vec<Key> {
        let count = if self.body.file.is_some() { 0 } else { part::count(self.body.length) };
        (0..count).map(|part| Key::Part(self.side(), self.number, part)).collect()
    }

    /// The row as the outbox is told of it.
    pub(super) fn saved(&self) -> Saved {
        match &self.state {
            State::Waiting(head) if self.body.lost => Saved::Damaged(head.clone()),
            State::Waiting(head) => Saved::Entry(head.clone()),
            State::Ended(head, _) => Saved::Result(head.clone()),
        }
    }
}

fn inline(body: &Body, side: Side, number: u64, id: RequestId, bytes: &[u8]) -> Vec<(Key, Vec<u8>)> {
    match body.file {
        Some(_) => Vec::new(),
        None => part::cut(side, number, id, bytes).collect(),
    }
}
