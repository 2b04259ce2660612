//! The task that asks the cloud about one row, attempt after attempt under one id, until there is a final reply.
//!
//! It ends with every reply and every refusal, and with the link. It goes on where an attempt stays without a reply: what that one
//! has brought on its way in parts is of use to the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::outbox::OutboxEvent;
use hedge_agent_core::{Answer, NotSent, Origin, Reason, RouteEvent, Source, Status};
use hedge_agent_spool::{Entry, Key, Mark, RowDigest};
use hedge_tensor::NamedTensor;
use hedge_wire::{Purpose, Query, Refusal, Reply, RequestId, Verdict};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::driver::{Happened, Mailbox};
use super::execution::{Tools, Unread, Use};
use super::ids::query_id;
use super::placed::Placed;
use super::record::{About, End, Request};
use crate::answered::Answered;
use crate::cloud::{CloudEvent, Question};
use crate::model::ServedModel;
use crate::row;

/// Attempts that may wait for the task; the outbox makes one when the one before is over.
pub(super) const ATTEMPTS: usize = 2;
/// How long an upload may take, whatever one attempt waits: gateways keep it for so long.
const UPLOAD_TIME: Duration = Duration::from_secs(60);

/// One time that the cloud is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) number: u8,
    /// How long it waits for its reply.
    pub(super) left: Duration,
    /// Unfinished attempts of the row, until the broker has the message; 0 where the process has survived that.
    pub(super) attempts: u8,
    /// Whether the router has counted its message already.
    pub(super) charged: bool,
}

/// The task's handle; the task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) attempts: mpsc::Sender<Attempt>,
    pub(super) task: AbortHandle,
}

/// What a task asks about.
pub(super) struct Subject {
    pub(super) id: RequestId,
    /// Of the payload.
    pub(super) bytes: u64,
    /// None where an earlier process has placed it.
    pub(super) placed: Option<Placed>,
    /// Since when this process knows of it.
    pub(super) since: Instant,
}

impl Asker {
    /// Asks once more; false where the task has ended.
    pub(super) fn again(&self, attempt: Attempt) -> bool {
        self.attempts.try_send(attempt).is_ok()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks, and says in the mailbox what came of it.
pub(super) async fn ask(tools: Arc<Tools>, mailbox: Mailbox, subject: Subject, mut attempts: mpsc::Receiver<Attempt>) {
    let id = subject.id;
    let Some(mut attempt) = attempts.recv().await else { return };
    let _room = tools.room(subject.bytes, Use::Question).await;
    let mut mark = tools.mark(id, attempt.attempts);
    let (request, digest) = match tools.stored_with_digest(id).await {
        Ok(stored) => stored,
        Err(Unread::Now) => return over(&mailbox, id, OutboxEvent::NotSent { id, why: NotSent::QueueFull }).await,
        Err(Unread::Ever) => return over(&mailbox, id, OutboxEvent::Unreadable(id)).await,
    };
    let Request { about, place, inputs } = request;
    // Without the model there is nothing to hold a verdict against: this ends as any execution without it does.
    let Ok(model) = tools.model(&about.model) else {
        return over(&mailbox, id, OutboxEvent::Refused { id, refusal: Refusal::BadInput }).await;
    };
    let query = Query {
        id: query_id(&id, &digest),
        model: model.settings.cloud_model.clone(),
        edge: model.digest,
        attempt: 0,
        deadline_ms: 0,
        boot: tools.rows.cloud.boot(),
        inputs,
        purpose: Purpose::Answer,
    };
    let question = tools.rows.cloud.question(query.id).with_time_for_uploads(UPLOAD_TIME);
    let placed = subject.placed.unwrap_or_else(|| Placed::earlier(place));
    let mut asking = Asking { tools, mailbox, id, about, model, query, question, placed, since: subject.since };
    while let Some(next) = asking.attempt(attempt, mark, &mut attempts).await {
        attempt = next;
        mark = asking.tools.mark(id, attempt.attempts);
    }
}

/// The task ends with this.
async fn over(mailbox: &Mailbox, id: RequestId, event: OutboxEvent<Bytes>) {
    mailbox.put(Happened::Over(id, event)).await;
}

struct Asking {
    tools: Arc<Tools>,
    mailbox: Mailbox,
    id: RequestId,
    about: About,
    model: Arc<ServedModel>,
    query: Query,
    question: Question,
    placed: Placed,
    since: Instant,
}

impl Asking {
    /// Asks once; the next attempt where this one stays without a reply, none when it is over. The row is marked until the broker
    /// has the message.
    async fn attempt(
        &mut self,
        attempt: Attempt,
        mut mark: Option<Mark>,
        attempts: &mut mpsc::Receiver<Attempt>,
    ) -> Option<Attempt> {
        let (id, asked_at) = (self.id, Instant::now());
        if let Err(event) = self.send(attempt) {
            over(&self.mailbox, id, event).await;
            return None;
        }
        loop {
            tokio::select! {
                event = self.question.next() => match event {
                    CloudEvent::Delivered => {
                        drop(mark.take());
                        self.mailbox.put(Happened::Event(OutboxEvent::Sent(id))).await;
                    }
                    event => {
                        let event = self.heard(event, asked_at);
                        over(&self.mailbox, id, event).await;
                        return None;
                    }
                },
                next = attempts.recv() => {
                    self.tell(Err(Reason::Deadline), asked_at);
                    return next;
                }
            }
        }
    }

    fn send(&mut self, attempt: Attempt) -> Result<(), OutboxEvent<Bytes>> {
        let id = self.id;
        // Somebody is there, but perhaps nobody who serves this model.
        if self.tools.rows.cloud.view().may_offload(&self.query.model).is_err() {
            return Err(OutboxEvent::NoSubscribers(id));
        }
        if !attempt.charged {
            self.model.route.tell(RouteEvent::Sent { bytes: row::offload_bytes(&self.query.inputs) });
        }
        let deadline_ms = u32::try_from(attempt.left.as_millis()).unwrap_or(u32::MAX);
        let query = Query { attempt: attempt.number, deadline_ms, ..self.query.clone() };
        self.question.ask(query, attempt.left).map_err(|why| OutboxEvent::NotSent { id, why })
    }

    /// What ends this task.
    fn heard(&self, event: CloudEvent, asked_at: Instant) -> OutboxEvent<Bytes> {
        let id = self.id;
        match event {
            CloudEvent::Reply(Reply::Verdict(verdict)) => self.verdict(verdict, asked_at),
            CloudEvent::Reply(Reply::Busy { retry_ms, .. }) => {
                self.tell(Err(Reason::CloudBusy), asked_at);
                OutboxEvent::Busy { id, retry: Duration::from_millis(u64::from(retry_ms)) }
            }
            CloudEvent::Reply(Reply::Refused { kind, message, .. }) => {
                tracing::debug!(%id, ?kind, message, "the gateway refused a durable row");
                self.tell(Err(Reason::CloudRefused), asked_at);
                OutboxEvent::Refused { id, refusal: kind }
            }
            CloudEvent::NotSent(why) => OutboxEvent::NotSent { id, why },
            CloudEvent::NoSubscribers => OutboxEvent::NoSubscribers(id),
            CloudEvent::Rejected => OutboxEvent::Rejected(id),
            CloudEvent::LinkDown | CloudEvent::Delivered => OutboxEvent::NotSent { id, why: NotSent::Down },
        }
    }

    fn verdict(&self, verdict: Verdict, asked_at: Instant) -> OutboxEvent<Bytes> {
        let (id, model, rows) = (self.id, &self.model, &self.tools.rows);
        let outputs = match model.accept(verdict.outputs) {
            Ok(outputs) => outputs,
            Err(error) => {
                rows.metrics.bad_verdicts.inc();
                tracing::warn!(gateway = %verdict.gateway, %error, "a verdict does not fit the model; refused");
                return OutboxEvent::BadVerdict(id);
            }
        };
        rows.cloud.saw_digest(&model.settings.cloud_model, verdict.cloud);
        if let Some(cache) = &rows.cache {
            let key = Key::cloud(verdict.cloud.as_bytes(), &RowDigest::of(&self.query.inputs));
            cache.store(key, &Entry { outputs: outputs.clone(), score: None });
        }
        self.tell(Ok(()), asked_at);
        self.label(&outputs, verdict.cloud);
        let answer = Answer {
            confidence: model.score(&outputs),
            outputs,
            source: Source::Cloud,
            status: Status::Cloud,
            reason: self.placed.why,
            origin: Origin::Cloud { digest: verdict.cloud, gateway: Some(verdict.gateway) },
        };
        row::account(rows, model, Ok(&answer), self.since.elapsed());
        let end = End { about: self.about.clone(), outcome: Ok(Answered::new(answer, model)) };
        OutboxEvent::Verdict { id, answer: end.encode() }
    }

    /// A local answer of the model that serves now is a label; one of a model before it is not.
    fn label(&self, outputs: &[NamedTensor], cloud: hedge_wire::Digest) {
        if let Some(label) = self.placed.label.as_ref().filter(|label| label.edge == self.model.digest) {
            row::label(&self.tools.rows, &self.model, label.ticket, &label.local, (outputs, cloud));
        }
    }

    /// The router hears how it went.
    fn tell(&self, outcome: Result<(), Reason>, asked_at: Instant) {
        self.model.route.tell(RouteEvent::Heard { outcome, waited: asked_at.elapsed() });
    }
}
