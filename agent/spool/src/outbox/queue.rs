//! What waits for the outbox's thread, in order and bounded.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_agent_core::outbox::{Change, Ending, WriteId};

use super::Shared;
use super::database::Fault;
use super::pace::Waiting;
use super::part::INLINE_BYTES;

/// Bytes of payloads and answers in a group, and changes; more wait for the next.
const MAX_GROUP_BYTES: u64 = 4 * 1024 * 1024;
const MAX_GROUP: usize = 512;
/// What a change takes in the journal beside a body: heads of its parts, a row, an account, removals.
const ENTRIES_COST: usize = 4 * 1024;
/// The longest that a reader waits for a database that is opened anew.
const REOPEN_PATIENCE: Duration = Duration::from_secs(2);

/// A change on its way to the disk.
pub(super) struct Command {
    /// To be reported upon; none for a note.
    pub(super) write: Option<WriteId>,
    pub(super) change: Change<Bytes>,
    /// Of an insertion; one without finds no space.
    pub(super) payload: Option<Bytes>,
    pub(super) at: Instant,
}

/// What waits for the thread.
#[derive(Default)]
pub(super) struct Queue {
    commands: VecDeque<Command>,
    bytes: u64,
    /// Bytes of payloads and answers that may wait for their group; a new request beyond it finds no space.
    max_bytes: u64,
    waiting: Waiting,
    /// With so many writes the thread is to be woken; before that with the first of a kind.
    pub(super) wake_at: usize,
    /// What became of the checkpoint that was being made.
    pub(super) checkpointed: Option<Result<(), Fault>>,
    /// A reader found the database unusable.
    pub(super) reopen: bool,
    /// Nothing more is taken.
    pub(super) closing: bool,
}

impl Command {
    pub(super) fn is_insertion(&self) -> bool {
        matches!(self.change, Change::Insert(_))
    }

    /// What it takes in the journal at the most.
    pub(super) fn journal_bytes(&self) -> u64 {
        let body = self.body().len();
        (if body > INLINE_BYTES { 0 } else { body } + ENTRIES_COST) as u64
    }

    /// The payload or the answer that it brings.
    pub(super) fn body(&self) -> &[u8] {
        match &self.change {
            Change::Finish { ending: Ending::Answered(answer), .. } => answer,
            _ => self.payload.as_deref().unwrap_or_default(),
        }
    }
}

impl Queue {
    /// One for an outbox of so many bytes.
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    /// Takes in a command, and says whether the thread is to be woken. None is taken when it closes.
    pub(super) fn push(&mut self, mut command: Command) -> bool {
        if self.closing {
            return false;
        }
        if command.is_insertion() && self.bytes + command.body().len() as u64 > self.max_bytes {
            command.payload = None;
        }
        self.bytes += command.body().len() as u64;
        let is_first = self.waiting.add(&command);
        self.commands.push_back(command);
        is_first || self.waiting.writes == self.wake_at
    }

    /// Puts notes that found no space in front again; they wait as new ones do. When it closes they are dropped: each but costs
    /// an attempt that is counted, or time for which a result is kept.
    pub(super) fn put_back(&mut self, notes: Vec<Command>, now: Instant) {
        if self.closing {
            return;
        }
        for note in notes.into_iter().rev() {
            self.bytes += note.body().len() as u64;
            self.commands.push_front(Command { at: now, ..note });
        }
        self.count();
    }

    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// The next group.
    pub(super) fn take(&mut self) -> Vec<Command> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(command) = self.commands.front() {
            bytes += command.body().len() as u64;
            if group.len() == MAX_GROUP || (bytes > MAX_GROUP_BYTES && !group.is_empty()) {
                break;
            }
            let command = self.commands.pop_front().expect("it was looked at");
            self.bytes -= command.body().len() as u64;
            group.push(command);
        }
        self.count();
        group
    }

    fn count(&mut self) {
        self.waiting = Waiting::default();
        for command in &self.commands {
            self.waiting.add(command);
        }
    }
}

impl Waiting {
    /// Counts a command, and says whether it is the first of its kind.
    fn add(&mut self, command: &Command) -> bool {
        let first = match command.write {
            Some(_) => &mut self.first_write,
            None => &mut self.first_note,
        };
        let is_first = first.is_none();
        first.get_or_insert(command.at);
        self.writes += usize::from(command.write.is_some());
        is_first
    }
}

impl Shared {
    pub(super) fn submit(&self, command: Command) {
        if self.queue().push(command) {
            self.wake.notify_all();
        }
    }

    /// Has the thread open the database anew, and waits for that.
    pub(super) fn have_it_reopened(&self) {
        let mut queue = self.queue();
        queue.reopen = true;
        self.wake.notify_all();
        let waited = self.wake.wait_timeout_while(queue, REOPEN_PATIENCE, |queue| queue.reopen && !queue.closing);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_wire::RequestId;

    fn command(write: Option<u64>) -> Command {
        let change = Change::Erase(RequestId::from_bytes([1; 16]));
        Command { write: write.map(WriteId), change, payload: None, at: Instant::now() }
    }

    fn writes(group: &[Command]) -> Vec<Option<u64>> {
        group.iter().map(|command| command.write.map(|write| write.0)).collect()
    }

    #[test]
    fn a_group_is_bounded_and_keeps_the_order() {
        let mut queue = Queue::new(u64::MAX);
        for number in 0..MAX_GROUP as u64 + 1 {
            queue.push(command(Some(number)));
        }
        assert_eq!(queue.waiting().writes, MAX_GROUP + 1);
        assert_eq!(queue.take().len(), MAX_GROUP);
        assert_eq!(writes(&queue.take()), [Some(MAX_GROUP as u64)]);
        assert!(queue.take().is_empty() && queue.waiting().first_write.is_none());
    }

    #[test]
    fn a_group_has_at_least_one_change_however_large() {
        let mut queue = Queue::new(u64::MAX);
        let large = Bytes::from(vec![0; MAX_GROUP_BYTES as usize + 1]);
        for number in 0..2 {
            queue.push(Command { payload: Some(large.clone()), ..command(Some(number)) });
        }
        assert_eq!(writes(&queue.take()), [Some(0)]);
        assert_eq!(writes(&queue.take()), [Some(1)]);
    }

    #[test]
    fn the_thread_is_woken_for_the_first_of_a_kind_and_when_there_are_enough() {
        let mut queue = Queue { wake_at: 3, ..Queue::new(u64::MAX) };
        let woken = [None, None, Some(1), Some(2), Some(3), Some(4)].map(|write| queue.push(command(write)));
        assert_eq!(woken, [true, false, true, false, true, false]);
        queue.take();
        assert!(queue.push(command(Some(5))));
    }

    #[test]
    fn notes_that_found_no_space_come_first_again_and_nothing_is_taken_when_it_closes() {
        let mut queue = Queue::new(u64::MAX);
        queue.push(command(Some(1)));
        let later = Instant::now() + Duration::from_secs(1);
        queue.put_back(vec![command(None), command(None)], later);
        assert_eq!(queue.waiting().first_note, Some(later));
        assert_eq!(writes(&queue.take()), [None, None, Some(1)]);
        queue.closing = true;
        queue.put_back(vec![command(None)], later);
        assert!(!queue.push(command(None)) && queue.take().is_empty());
    }
}
