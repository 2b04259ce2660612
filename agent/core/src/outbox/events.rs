//! What each event changes.

use std::time::Duration;

use hedge_wire::{Digest, Refusal, RequestId};

use super::Outbox;
use super::entry::{Entry, Seq, Stage};
use super::event::{
    Change, Ending, Expiry, HasBytes, Head, Mode, NotAccepted, OutboxAction, OutboxEvent, Ran, ResultHead, WriteId,
};
use crate::answer::Reason;
use crate::row::NotSent;

impl<A: HasBytes> Outbox<A> {
    pub(super) fn take(&mut self, event: OutboxEvent<A>, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        match event {
            OutboxEvent::Accept { id, digest, bytes, life } => self.accept(id, digest, bytes, life, now, actions),
            OutboxEvent::Persisted(write) => self.persisted(write, now, actions),
            OutboxEvent::NotPersisted(write) => self.not_persisted(write, now, actions),
            OutboxEvent::Fetched(id) => {
                if self.results.fetch(&id) {
                    actions.push(OutboxAction::Note(Change::Fetched(id)));
                }
            }
            OutboxEvent::CloudUp => self.cloud_up(now),
            OutboxEvent::CloudDown => self.cloud_down(now, actions),
            // Time acts with every event.
            OutboxEvent::Timer => {}
            OutboxEvent::Stop => self.stop(now, actions),
            OutboxEvent::Unreadable(id) => self.end(id, Ending::Damaged, now, actions),
            OutboxEvent::Verdict { id, answer } => self.end(id, Ending::Answered(answer), now, actions),
            OutboxEvent::Ran { id, ran } => {
                if let Some(seq) = self.found(id, |stage| matches!(stage, Stage::Running)) {
                    self.ran(seq, ran, now, actions);
                }
            }
            OutboxEvent::Sent(id) => {
                if let Some(seq) = self.sent(id) {
                    self.prove(seq, now, actions);
                }
            }
            OutboxEvent::NotSent { id, .. }
            | OutboxEvent::NoSubscribers(id)
            | OutboxEvent::Rejected(id)
            | OutboxEvent::BadVerdict(id)
            | OutboxEvent::Busy { id, .. }
            | OutboxEvent::Refused { id, .. } => {
                if let Some(seq) = self.sent(id) {
                    self.unanswered(seq, &event, now, actions);
                }
            }
        }
    }

    fn accept(
        &mut self,
        id: RequestId,
        digest: Digest,
        bytes: u64,
        life: Duration,
        now: Duration,
        actions: &mut Vec<OutboxAction<A>>,
    ) {
        match self.known(id, digest, bytes) {
            Err(why) => return actions.push(OutboxAction::Refuse { id, why }),
            Ok(Some(action)) => return actions.push(action),
            Ok(None) if self.ids.contains_key(&id) => return,
            Ok(None) => {}
        }
        let start = self.has_room_to_execute();
        let expires = now.saturating_add(life.min(self.settings.life));
        let expiry = Expiry::new(self.boot, expires, now);
        let head = Head { id, digest, bytes, attempts: u8::from(start), placed: false, expiry };
        let write = WriteId(self.next_write);
        let seq = self.insert(Entry::new(&head, expires, now, Stage::Accepting { write, start }));
        self.persist(seq, Change::Insert(head), actions);
    }

    /// What an id that is handed in again gets (nothing while it is being persisted), or why a new one is not accepted.
    fn known(&self, id: RequestId, digest: Digest, bytes: u64) -> Result<Option<OutboxAction<A>>, NotAccepted> {
        let entry = self.ids.get(&id).map(|&seq| self.entry(seq));
        let earlier = entry.map(|entry| entry.digest).or_else(|| self.results.digest(&id));
        match (earlier, entry) {
            (Some(earlier), _) if earlier != digest => Err(NotAccepted::OtherRequest),
            (Some(_), Some(entry)) => Ok(entry.is_accepted().then_some(OutboxAction::Accepted(id))),
            (Some(_), None) => Ok(Some(OutboxAction::Known(id))),
            (None, _) if self.results.standing(&id) == super::Standing::Gone => Err(NotAccepted::Gone),
            (None, _) => self.room_for(1, bytes).map(|()| None),
        }
    }

    fn persisted(&mut self, write: WriteId, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        let Some(seq) = self.writes.remove(&write) else { return };
        let Some(entry) = self.entries.get(&seq) else { return };
        match entry.stage {
            Stage::Accepting { write: own, start } if own == write => {
                actions.push(OutboxAction::Accepted(entry.id));
                match start {
                    true => self.execute(seq, actions),
                    false => self.change(seq, |entry| entry.stage = Stage::Turn),
                }
            }
            Stage::Starting { write: own } if own == write => self.started(seq, now, actions),
            Stage::Finishing { write: Some(own), .. } if own == write => self.finished(seq, now, actions),
            // The write of an attempt that a reply has overtaken.
            _ => {}
        }
    }

    fn not_persisted(&mut self, write: WriteId, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        let Some(seq) = self.writes.remove(&write) else { return };
        let Some(entry) = self.entries.get(&seq) else { return };
        let retry = now.saturating_add(self.settings.store_retry);
        match &entry.stage {
            Stage::Accepting { .. } => {
                let id = self.remove(seq).id;
                actions.push(OutboxAction::Refuse { id, why: NotAccepted::DiskFull });
            }
            Stage::Starting { write: own } if *own == write => self.change(seq, |entry| {
                entry.attempts = entry.attempts.saturating_sub(1);
                entry.stage = Stage::Waiting { due: Some(retry) };
            }),
            &Stage::Finishing { write: Some(own), unnoted, .. } if own == write => {
                self.change(seq, |entry| {
                    if let Stage::Finishing { write, retry_at, .. } = &mut entry.stage {
                        (*write, *retry_at) = (None, retry);
                    }
                });
                // The process may go before the ending is kept, and the next one must not blame what this one survived.
                if unnoted {
                    self.note(seq, now, actions);
                }
            }
            _ => {}
        }
    }

    fn ran(&mut self, seq: Seq, ran: Ran<A>, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        match ran {
            Ran::Final(answer) => self.finish(seq, Ending::Answered(answer), now, actions),
            Ran::Offload if self.entry(seq).mode == Mode::Routed => {
                self.change(seq, |entry| entry.placed = true);
                self.prove(seq, now, actions);
                // Sending may kill where executing did not: its first attempt is written down like any other.
                self.change(seq, |entry| {
                    entry.proved = false;
                    entry.stage = Stage::Turn;
                });
            }
            Ran::Offload => {
                self.prove(seq, now, actions);
                self.wait(seq, Duration::ZERO, now);
            }
            Ran::Again => {
                // Nothing was executed, so nothing is proved: a suspect stays one.
                if !self.stopping {
                    self.take_back(seq, now, actions);
                }
                self.wait(seq, Duration::ZERO, now);
            }
        }
    }

    /// The cloud was asked and will not answer this attempt; or never.
    fn unanswered(&mut self, seq: Seq, event: &OutboxEvent<A>, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        let never = match event {
            OutboxEvent::NotSent { why: NotSent::TooLarge, .. } => Some(Reason::TooLarge),
            OutboxEvent::BadVerdict(_) => Some(Reason::BadVerdict),
            OutboxEvent::Refused { refusal: Refusal::BadInput | Refusal::Internal, .. } => Some(Reason::CloudRefused),
            _ => None,
        };
        if let Some(why) = never {
            return self.do_without_the_cloud(seq, why, now, actions);
        }
        self.prove(seq, now, actions);
        let least = if let OutboxEvent::Busy { retry, .. } = event { *retry } else { Duration::ZERO };
        self.wait(seq, least, now);
    }

    /// Another try after `least` and a jittered wait.
    fn wait(&mut self, seq: Seq, least: Duration, now: Duration) {
        let tries = self.entry(seq).tries;
        let least = least.min(self.settings.backoff_cap);
        let due = now.saturating_add(least).saturating_add(self.backoff(tries));
        self.change(seq, |entry| {
            entry.tries = entry.tries.saturating_add(1);
            entry.stage = Stage::Waiting { due: Some(due) };
        });
    }

    fn cloud_up(&mut self, now: Duration) {
        self.up = true;
        let parked =
            |entry: &Entry<A>| entry.is_for_the_cloud() && matches!(entry.stage, Stage::Waiting { .. } | Stage::Turn);
        for seq in self.all(parked) {
            let due = now.saturating_add(self.backoff(0));
            self.change(seq, |entry| {
                entry.tries = 0;
                entry.stage = Stage::Waiting { due: Some(due) };
            });
        }
    }

    fn cloud_down(&mut self, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        self.up = false;
        for seq in self.all(|entry| matches!(entry.stage, Stage::Sent { .. })) {
            self.prove(seq, now, actions);
            self.change(seq, |entry| entry.stage = Stage::Waiting { due: None });
        }
    }

    /// What was begun is not held against the requests: the process ends, and they are not to blame.
    fn stop(&mut self, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        self.stopping = true;
        for seq in self.all(|entry| matches!(entry.stage, Stage::Starting { .. })) {
            self.not_begun(seq, now, actions);
        }
        // The process may have gone before these are known to be on the disk.
        for seq in self.all(|entry| matches!(entry.stage, Stage::Accepting { start: true, .. })) {
            self.take_back(seq, now, actions);
            self.change(seq, |entry| {
                if let Stage::Accepting { start, .. } = &mut entry.stage {
                    *start = false;
                }
            });
        }
        let begun = |entry: &Entry<A>| !entry.proved && matches!(entry.stage, Stage::Running | Stage::Sent { .. });
        for seq in self.all(begun) {
            self.take_back(seq, now, actions);
        }
    }

    /// Does what is due. That it is done with every event, late timers or not, is why no wake-up is asked for in the past.
    pub(super) fn take_time(&mut self, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        // Each entry is moved past `now` by what is done with it.
        while let Some(&(_, seq)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.wake_entry(seq, now, actions);
        }
    }

    fn wake_entry(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        let entry = self.entry(seq);
        if let Stage::Finishing { ending, .. } = &entry.stage {
            let ending = ending.clone();
            return self.finish(seq, ending, now, actions);
        }
        if entry.mode == Mode::Routed && entry.expires <= now {
            return self.do_without_the_cloud(seq, Reason::Deadline, now, actions);
        }
        match entry.stage {
            Stage::Sent { until } if until <= now => {
                self.prove(seq, now, actions);
                self.wait(seq, Duration::ZERO, now);
            }
            Stage::Waiting { due: Some(due) } if due <= now => self.change(seq, |entry| entry.stage = Stage::Turn),
            _ => self.restamp(seq, now, actions),
        }
    }

    /// Writes down what is left, so that a reboot costs little of it.
    fn restamp(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        self.change(seq, |entry| entry.restamp_at = now.saturating_add(entry.restamp_every));
        self.note(seq, now, actions);
    }

    fn end(&mut self, id: RequestId, ending: Ending<A>, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        if let Some(seq) = self.found(id, |stage| !matches!(stage, Stage::Accepting { .. })) {
            self.finish(seq, ending, now, actions);
        }
    }

    pub(super) fn finish(&mut self, seq: Seq, ending: Ending<A>, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        // Once it is kept, the ending takes the entry, attempts and all, off the disk.
        let unnoted = self.survive(seq);
        let expiry = Expiry::new(self.boot, now.saturating_add(self.settings.keep), now);
        let entry = self.entry(seq);
        let head = ResultHead { id: entry.id, digest: entry.digest, bytes: ending.bytes(), fetched: false, expiry };
        let write = self.persist(seq, Change::Finish { head, ending: ending.clone() }, actions);
        let stage = Stage::Finishing { write: Some(write), retry_at: now, unnoted, ending };
        self.change(seq, |entry| entry.stage = stage);
    }

    fn finished(&mut self, seq: Seq, now: Duration, actions: &mut Vec<OutboxAction<A>>) {
        let entry = self.remove(seq);
        let Stage::Finishing { ending, .. } = entry.stage else { return };
        let expires = now.saturating_add(self.settings.keep);
        self.results.insert(entry.id, entry.digest, ending.bytes(), expires);
        actions.push(OutboxAction::Deliver { id: entry.id, ending });
    }

    /// The entry that the cloud was asked about.
    fn sent(&self, id: RequestId) -> Option<Seq> {
        self.found(id, |stage| matches!(stage, Stage::Sent { .. }))
    }

    /// The entry of this id, where it has not ended and its stage is `wanted`.
    fn found(&self, id: RequestId, wanted: impl Fn(&Stage<A>) -> bool) -> Option<Seq> {
        let seq = self.ids.get(&id).copied()?;
        let entry = self.entry(seq);
        (!entry.is_finishing() && wanted(&entry.stage)).then_some(seq)
    }

    fn all(&self, wanted: impl Fn(&Entry<A>) -> bool) -> Vec<Seq> {
        self.entries.iter().filter(|(_, entry)| wanted(entry)).map(|(&seq, _)| seq).collect()
    }
}
