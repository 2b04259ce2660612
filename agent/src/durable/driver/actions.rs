//! What the outbox wants, carried out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::outbox::{Change, Ending, Mode, NotAccepted, OutboxAction, Standing, WriteId};
use hedge_wire::RequestId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Caller, Driver, News};
use crate::durable::asker::{self, ATTEMPTS, Asker, Attempt, Subject};
use crate::durable::execution;

impl Driver {
    /// Carries out what the outbox wants; `heard` is the caller who was just heard, and about which row.
    pub(super) fn carry_out(&mut self, actions: Vec<OutboxAction<Bytes>>, heard: Option<(&RequestId, &Caller)>) {
        // The payload of what has just been accepted, for the execution that may follow.
        let mut fresh = None;
        for action in actions {
            match action {
                OutboxAction::Persist { write, change } => self.persist(write, change),
                OutboxAction::Note(change) => self.store.note(change),
                OutboxAction::Accepted(id) => {
                    fresh = self.payloads.remove(&id).map(|payload| (id, payload));
                    self.accepted(&id, heard);
                }
                OutboxAction::Refuse { id, why } => self.refuse(&id, why, heard),
                OutboxAction::Known(id) => {
                    self.metrics.outbox.request("known");
                    self.tell(&id, &News::Known, heard);
                }
                OutboxAction::Execute { id, mode, attempts } => {
                    let payload = fresh.take().filter(|(of, _)| *of == id).map(|(_, payload)| payload);
                    self.execute((id, attempts), mode, payload);
                }
                OutboxAction::Publish { id, attempt, left, attempts } => self.publish((id, attempts), attempt, left),
                OutboxAction::Deliver { id, ending } => self.deliver(&id, ending),
                OutboxAction::WakeAt(time) => self.wake = self.clock.instant(time).map(Instant::from_std),
            }
        }
    }

    fn persist(&mut self, write: WriteId, change: Change<Bytes>) {
        let payload = match &change {
            Change::Insert(head) => self.payloads.get(&head.id).cloned(),
            Change::Update(_) | Change::Finish { .. } | Change::Fetched(_) | Change::Erase(_) => None,
        };
        self.written.insert(write, Instant::now());
        self.store.persist(write, change, payload);
    }

    fn accepted(&mut self, id: &RequestId, heard: Option<(&RequestId, &Caller)>) {
        self.metrics.outbox.request(if heard.is_some() { "joined" } else { "accepted" });
        self.tell(id, &News::Accepted, heard);
    }

    fn refuse(&mut self, id: &RequestId, why: NotAccepted, heard: Option<(&RequestId, &Caller)>) {
        self.metrics.outbox.refused(&why);
        self.tell(id, &News::Refused(why), heard);
        // An earlier request of the id stays.
        if self.outbox.standing(id) == Standing::Unknown {
            self.forget(id);
        }
    }

    fn execute(&mut self, (id, attempts): (RequestId, u8), mode: Mode, payload: Option<Bytes>) {
        let Some(known) = self.known.get_mut(&id) else { return };
        if let Mode::Local(reason) = mode {
            self.metrics.outbox.without_cloud(reason);
            known.asker = None;
        }
        let (tools, mailbox, bytes) = (Arc::clone(&self.tools), self.mailbox.clone(), known.bytes);
        let task = self.tasks.spawn(async move {
            let happened = execution::execute(&tools, (id, attempts), (bytes, payload), mode).await;
            mailbox.put(happened).await;
        });
        self.executing.insert(task.id(), id);
    }

    fn publish(&mut self, (id, attempts): (RequestId, u8), number: u8, left: Duration) {
        let Some(known) = self.known.get_mut(&id) else { return };
        self.metrics.outbox.attempts.inc();
        let charged = known.placed.as_mut().is_some_and(|placed| std::mem::take(&mut placed.charged));
        let attempt = Attempt { number, left, attempts, charged };
        if known.asker.as_ref().is_some_and(|asker| asker.again(attempt)) {
            return;
        }
        let (attempts, next) = mpsc::channel(ATTEMPTS);
        attempts.try_send(attempt).expect("a new channel has room");
        let subject = Subject { id, bytes: known.bytes, placed: known.placed.clone(), since: known.since };
        let task = self.tasks.spawn(asker::ask(Arc::clone(&self.tools), self.mailbox.clone(), subject, next));
        known.asker = Some(Asker { attempts, task });
    }

    fn deliver(&mut self, id: &RequestId, ending: Ending<Bytes>) {
        match &ending {
            Ending::Answered(_) => self.metrics.outbox.request("answered"),
            Ending::Poisoned { attempts } => {
                tracing::error!(%id, attempts, "a durable request has killed the process; it is answered with an error");
                self.metrics.outbox.request("poisoned");
            }
            Ending::Damaged => self.metrics.outbox.request("damaged"),
        }
        self.tell(id, &News::Ended(ending), None);
        self.forget(id);
    }

    /// Tells the caller who was just heard about the row, or else everyone who waits for it.
    fn tell(&self, id: &RequestId, news: &News, heard: Option<(&RequestId, &Caller)>) {
        match heard.filter(|(of, _)| *of == id) {
            Some((_, caller)) => caller.tell(news),
            None => self.callers.get(id).into_iter().flatten().for_each(|caller| caller.tell(news)),
        }
    }

    /// It has ended, or is not accepted.
    fn forget(&mut self, id: &RequestId) {
        self.callers.remove(id);
        self.payloads.remove(id);
        let known = self.known.remove(id);
        self.labels -= usize::from(known.is_some_and(|known| known.has_label()));
    }
}

impl Caller {
    fn tell(&self, news: &News) {
        // There is room for all that is told; who has gone needs no word.
        let _ = self.news.try_send((self.row, news.clone()));
    }
}
