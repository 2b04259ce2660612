//! What waits for the outbox's thread, in order and bounded.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_agent_core::outbox::{Change, Ending, WriteId};

use super::Shared;
use super::pace::Waiting;

/// Bytes of payloads that may wait for their group; a new request beyond it finds no space.
const MAX_QUEUED_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of payloads and answers in a group, and changes; more wait for the next.
const MAX_GROUP_BYTES: u64 = 4 * 1024 * 1024;
const MAX_GROUP: usize = 512;
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
    /// Those of the commands that are reported upon.
    writes: usize,
    /// A reader found the database unusable.
    pub(super) reopen: bool,
    /// Nothing more is taken.
    pub(super) closing: bool,
}

impl Command {
    pub(super) fn is_insertion(&self) -> bool {
        matches!(self.change, Change::Insert(_))
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
    /// Takes in a command; false where none is taken any more.
    pub(super) fn push(&mut self, mut command: Command) -> bool {
        if self.closing {
            return false;
        }
        if command.is_insertion() && self.bytes + command.body().len() as u64 > MAX_QUEUED_BYTES {
            command.payload = None;
        }
        self.bytes += command.body().len() as u64;
        self.writes += usize::from(command.write.is_some());
        self.commands.push_back(command);
        true
    }

    /// Puts notes that found no space in front again; they wait as new ones do.
    pub(super) fn put_back(&mut self, notes: Vec<Command>, now: Instant) {
        for note in notes.into_iter().rev() {
            self.bytes += note.body().len() as u64;
            self.commands.push_front(Command { at: now, ..note });
        }
    }

    pub(super) fn waiting(&self) -> Waiting {
        let first = |reported: bool| self.commands.iter().find(|command| command.write.is_some() == reported);
        Waiting {
            writes: self.writes,
            // Where there is none, the search would be through all.
            first_write: (self.writes > 0).then(|| first(true)).flatten().map(|command| command.at),
            first_note: (self.writes < self.commands.len()).then(|| first(false)).flatten().map(|command| command.at),
        }
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
            self.writes -= usize::from(command.write.is_some());
            group.push(command);
        }
        group
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
