//! Whose turn it is: suspects first and alone, then in order of arrival, within the bounds of executions and messages.

use std::time::Duration;

use super::entry::{Seq, Stage, Turn};
use super::event::{Change, HasBytes, Mode, OutboxAction};
use super::{Outbox, doubled};
use crate::answer::Reason;

/// An attempt that has less time left than this is not worth sending.
const LEAST_USEFUL: Duration = Duration::from_millis(1);

impl<A: HasBytes> Outbox<A> {
    pub(super) fn take_turns(&mut self, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        if self.stopping {
            return;
        }
        while let Some(seq) = self.next_turn() {
            self.begin(seq, now, actions);
        }
    }

    /// Whether an execution may begin at once, without waiting for a turn.
    pub(super) fn has_room_to_execute(&self) -> bool {
        let first = self.first(Turn::Execution).is_none();
        first && self.load.running < self.settings.running && !self.holds_back() && !self.stopping
    }

    fn next_turn(&self) -> Option<Seq> {
        if let Some(suspect) = self.next_suspect() {
            // What is under way ends before it starts, so that the next death is its own.
            return if self.load.unproved == 0 { Some(suspect) } else { self.next_send(true) };
        }
        if self.load.suspects > 0 {
            return self.next_send(true);
        }
        let execution = self.first(Turn::Execution).filter(|_| self.load.running < self.settings.running);
        execution.or_else(|| self.next_send(false))
    }

    fn next_suspect(&self) -> Option<Seq> {
        self.first(Turn::SuspectExecution).or_else(|| self.first(Turn::SuspectSend).filter(|_| self.may_send()))
    }

    /// The next message; where only `proved` entries may be sent, one of these.
    fn next_send(&self, proved: bool) -> Option<Seq> {
        if !self.may_send() {
            return None;
        }
        let mut turns = self.turns.get(&Turn::Send)?.iter().copied();
        turns.find(|&seq| !proved || self.entry(seq).proved)
    }

    fn holds_back(&self) -> bool {
        self.load.suspects > 0 || self.next_suspect().is_some()
    }

    fn may_send(&self) -> bool {
        self.up && self.load.in_flight < self.settings.in_flight
    }

    fn first(&self, turn: Turn) -> Option<Seq> {
        self.turns.get(&turn).and_then(|set| set.first().copied())
    }

    /// Writes the attempt first, unless the process has survived the same.
    fn begin(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        let entry = self.entry(seq);
        if entry.is_for_the_cloud() && entry.proved {
            return self.publish(seq, now, actions);
        }
        let boot = self.boot;
        let head = self.change(seq, |entry| {
            // A second execution may kill where the first did not: it proves itself again.
            entry.proved = false;
            entry.attempts = entry.attempts.saturating_add(1);
            entry.head(boot, now)
        });
        let write = self.persist(seq, Change::Update(head), actions);
        self.change(seq, |entry| entry.stage = Stage::Starting { write });
    }

    /// The attempt is on disk.
    pub(super) fn started(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        if !self.entry(seq).is_for_the_cloud() {
            return self.execute(seq, actions);
        }
        if self.up {
            self.publish(seq, now, actions);
        } else {
            self.not_begun(seq, now, actions);
        }
    }

    /// The attempt that was written down did not take place.
    pub(super) fn not_begun(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        self.take_back(seq, now, actions);
        self.change(seq, |entry| entry.stage = Stage::Waiting { due: None });
    }

    /// The attempt that was written down is none.
    pub(super) fn take_back(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        self.change(seq, |entry| entry.attempts = entry.attempts.saturating_sub(1));
        self.note(seq, now, actions);
    }

    /// Brings what the disk says of the entry up to date; nothing waits for it.
    pub(super) fn note(&self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        actions.push(OutboxAction::Note(Change::Update(self.entry(seq).head(self.boot, now))));
    }

    pub(super) fn execute(&mut self, seq: Seq, actions: &mut Vec<OutboxAction<A>>) {
        let (id, mode, attempts) = self.change(seq, |entry| {
            entry.stage = Stage::Running;
            (entry.id, entry.mode, entry.attempts)
        });
        actions.push(OutboxAction::Execute { id, mode, attempts });
    }

    fn publish(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        let entry = self.entry(seq);
        let patience = doubled(self.settings.reply_within, entry.tries, self.settings.reply_cap);
        let left = patience.min(entry.expires.saturating_sub(now));
        if left < LEAST_USEFUL {
            if matches!(entry.stage, Stage::Starting { .. }) {
                self.take_back(seq, now, actions);
            }
            return self.do_without_the_cloud(seq, Reason::Deadline, now, actions);
        }
        let (id, attempt, attempts) = self.change(seq, |entry| {
            entry.stage = Stage::Sent { until: now.saturating_add(left) };
            entry.sends = entry.sends.saturating_add(1);
            (entry.id, entry.sends - 1, entry.attempts)
        });
        actions.push(OutboxAction::Publish { id, attempt, left, attempts });
    }

    /// The cloud will not answer: executed locally as soon as its turn comes.
    pub(super) fn do_without_the_cloud(
        &mut self,
        seq: Seq,
        why: Reason,
        now: Duration,
        actions: &mut Vec<OutboxAction<A>>,
    ) {
        self.prove(seq, now, actions);
        self.change(seq, |entry| {
            entry.mode = Mode::Local(why);
            entry.stage = Stage::Turn;
        });
    }

    /// As [`survive`](Self::survive), and written down.
    pub(super) fn prove(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        if self.survive(seq) {
            self.note(seq, now, actions);
        }
    }

    /// If the entry is being executed or sent, the process has survived that: the attempt is not held against it. To be
    /// called before its stage changes. Whether this is news.
    pub(super) fn survive(&mut self, seq: Seq) -> bool {
        let entry = self.entry(seq);
        if entry.proved || !matches!(entry.stage, Stage::Running | Stage::Sent { .. }) {
            return false;
        }
        self.change(seq, |entry| {
            entry.proved = true;
            entry.suspect = false;
            entry.attempts = 0;
        });
        true
    }
}
