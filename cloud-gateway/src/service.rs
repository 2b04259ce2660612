//! The gateway's loop: link events, finished runs, time and the wish to stop become events of the core, whose actions
//! are carried out here.
//!
//! It decides nothing about queries; it decodes, runs and publishes. It owns the core's state, so there is no lock.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hedge_engine::{
    RunError,
    worker::{RowOutput, SubmitError},
};
use hedge_gateway_core::{Action, Admission, Arrival, Event, Key, Outcome, UploadAction, UploadEvent, Uploads};
use hedge_link::{Incoming, Link, LinkEvent, LinkEvents, Outgoing, PublishId};
use hedge_tensor::NamedTensor;
use hedge_wire::{
    Ask, DecodeError, DeviceId, GatewayId, ModelId, Offer, Part, Refusal, Reply, RequestId, TenantId, Topic, Verdict,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

use crate::{health::Health, journal::Journal, models::Served};

/// How often the core is told the time: how late a query may notice that it expired in the queue.
const TICK: Duration = Duration::from_millis(100);

/// How long the refusal of a body that cannot be read is worth delivering.
const REFUSAL_EXPIRY: Duration = Duration::from_secs(5);

/// What a broker's whole seconds may hide: it may round what is left of a message's expiry down.
const EXPIRY_ROUNDING: Duration = Duration::from_secs(1);

/// Why a service ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// A model's thread has ended, which only a fault in the engine does.
    #[error("the model {model} stopped running; its log lines say why")]
    ModelStopped {
        /// Which.
        model: ModelId,
    },
    /// The link has ended, which only a fault in it does.
    #[error("the link to the broker ended by itself")]
    LinkEnded,
    /// The service's task panicked, which is a fault in it.
    #[error("a fault in the gateway: {reason}")]
    Crashed {
        /// What the panic said.
        reason: String,
    },
}

/// What a service serves, and as whom.
pub(crate) struct Identity {
    pub(crate) tenant: TenantId,
    pub(crate) gateway: GatewayId,
    /// How long a stopping service goes on.
    pub(crate) drain: Duration,
    pub(crate) busy_retry: Duration,
}

/// A run that has ended.
struct Run {
    key: Key,
    model: ModelId,
    /// `Err`: the model's thread is gone.
    result: Result<Result<RowOutput, RunError>, oneshot::error::RecvError>,
}

pub(crate) struct Service<L> {
    identity: Identity,
    models: BTreeMap<ModelId, Served>,
    link: L,
    admission: Admission,
    uploads: Uploads,
    journal: Journal,
    health: Arc<Health>,
    /// Runs under way; bounded by the core's `running_per_model`.
    running: JoinSet<Run>,
    /// Replies that the broker has not confirmed; bounded by the link's queue and window.
    unconfirmed: HashSet<PublishId>,
    /// Set once the service cannot go on.
    failed: Option<ServiceError>,
}

impl<L: Link> Service<L> {
    pub(crate) fn new(
        identity: Identity,
        models: BTreeMap<ModelId, Served>,
        link: L,
        (admission, uploads): (Admission, Uploads),
        journal: Journal,
        health: Arc<Health>,
    ) -> Self {
        Self {
            identity,
            models,
            link,
            admission,
            uploads,
            journal,
            health,
            running: JoinSet::new(),
            unconfirmed: HashSet::new(),
            failed: None,
        }
    }

    /// Serves until asked to stop and drained, or until it cannot go on.
    pub(crate) async fn run(
        mut self,
        mut events: LinkEvents,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ServiceError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drain_until = None;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.on_link(event, Instant::now()),
                    None => return Err(ServiceError::LinkEnded),
                },
                () = self.finish_one(), if !self.running.is_empty() => {}
                _ = ticks.tick() => self.tick(Instant::now()),
                // A dropped sender is a wish to stop, too.
                _ = stop.wait_for(|stop| *stop), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + self.identity.drain);
                    self.begin_drain();
                }
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if drain_until.is_some_and(|until| self.is_drained() || Instant::now() >= until) {
                self.journal.drained(self.admission.queued(), self.unconfirmed.len());
                return Ok(());
            }
        }
    }

    pub(crate) fn begin_drain(&mut self) {
        self.health.draining();
        self.journal.draining(self.admission.queued());
        self.drive(Event::Drain, None, Instant::now());
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.admission.queued() == 0 && self.unconfirmed.is_empty()
    }

    pub(crate) fn on_link(&mut self, event: LinkEvent, now: Instant) {
        match event {
            LinkEvent::Up { limits } => {
                self.health.link_up();
                self.journal.link_up(&limits);
                self.upload(UploadEvent::LinkUp, now);
            }
            LinkEvent::Down { reason } => {
                // What was under way may be lost; the devices ask again and get the remembered replies.
                self.unconfirmed.clear();
                self.health.link_down(&reason);
                self.journal.link_down();
            }
            LinkEvent::Message(message) => self.on_message(&message, now),
            LinkEvent::Published { id, outcome } => {
                self.unconfirmed.remove(&id);
                self.journal.not_delivered(&outcome, now);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.drive(Event::Tick, None, now);
        self.upload(UploadEvent::Tick, now);
    }

    fn on_message(&mut self, message: &Incoming, now: Instant) {
        self.journal.received(message.payload.len());
        match Topic::parse(&self.identity.tenant, &message.topic) {
            Ok(Topic::Query { model, device }) => self.on_ask(message, device, model, now),
            Ok(Topic::Part { gateway, device }) if gateway == self.identity.gateway => {
                self.on_part(message, device, now);
            }
            Ok(_) => self.drop_message(message, &"a topic that no gateway subscribes to", now),
            Err(error) => self.drop_message(message, &error, now),
        }
    }

    fn on_ask(&mut self, message: &Incoming, device: DeviceId, model: ModelId, now: Instant) {
        match Ask::decode_shared(&message.payload) {
            Ok(Ask::Query(mut query)) => {
                query.deadline_ms = query.deadline_ms.min(left(message));
                self.drive(Event::Arrived { device, model, query }, Some(message), now);
            }
            Ok(Ask::Offer(mut offer)) => {
                offer.deadline_ms = offer.deadline_ms.min(left(message));
                self.on_offer(message, device, &model, offer, now);
            }
            Err(error) => {
                self.refuse_unreadable(message, device, &error, now);
                self.drop_message(message, &error, now);
            }
        }
    }

    /// A query that would come in parts: answered like a query where it can be, otherwise granted where there is room.
    fn on_offer(&mut self, message: &Incoming, device: DeviceId, model: &ModelId, offer: Offer, now: Instant) {
        match self.admission.offered(&device, model, &offer, now) {
            Some(actions) => {
                self.carry_out(actions, Some(message), now);
            }
            None => {
                self.link.ack(message);
                self.upload(UploadEvent::Offered { device, offer }, now);
            }
        }
    }

    fn on_part(&mut self, message: &Incoming, device: DeviceId, now: Instant) {
        match Part::decode(&message.payload) {
            Ok(part) => {
                // What is lost now is asked for again.
                self.link.ack(message);
                self.journal.part();
                self.upload(UploadEvent::Part { device, part }, now);
            }
            Err(error) => self.drop_message(message, &error, now),
        }
    }

    fn upload(&mut self, event: UploadEvent, now: Instant) {
        for action in self.uploads.handle(event, now) {
            match action {
                UploadAction::Grant { key, body, expiry } => {
                    self.journal.granted(body.len());
                    self.publish(&key, body, expiry, now);
                }
                UploadAction::Reply { key, body, expiry, outcome } => {
                    self.reply(&key, body, expiry, outcome, false, now);
                }
                UploadAction::Assembled { device, model, query } => {
                    self.journal.assembled();
                    self.drive(Event::Arrived { device, model, query }, None, now);
                }
                UploadAction::Dropped(fault) => self.journal.part_dropped(fault),
            }
        }
        self.journal.uploads(&self.uploads);
    }

    /// Acknowledged, because it would be as malformed when it came again.
    fn drop_message(&self, message: &Incoming, error: &dyn std::fmt::Display, now: Instant) {
        self.link.ack(message);
        self.journal.malformed(&message.topic, error, now);
    }

    /// A body that cannot be read is refused where the message's properties say which query it was.
    fn refuse_unreadable(&mut self, message: &Incoming, device: DeviceId, error: &DecodeError, now: Instant) {
        let Some(Ok(id)) = message.correlation.as_deref().map(<[u8; 16]>::try_from) else { return };
        let id = RequestId::from_bytes(id);
        let refusal = Reply::Refused { id, kind: Refusal::BadInput, message: error.to_string() };
        self.publish(&Key { device, id }, refusal.encode().into(), REFUSAL_EXPIRY, now);
    }

    /// Gives the core an event and carries out what it wants; `delivery` is the message that the event is about.
    fn drive(&mut self, event: Event, delivery: Option<&Incoming>, now: Instant) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.admission.handle(event, now);
            events.extend(self.carry_out(actions, delivery, now));
        }
        self.journal.holds(&self.admission);
    }

    /// Carries out what the core wants in answer to one event; what cannot be run is finished at once.
    fn carry_out(&mut self, actions: Vec<Action>, delivery: Option<&Incoming>, now: Instant) -> Vec<Event> {
        let (mut repeated, mut finished) = (false, Vec::new());
        for action in actions {
            match action {
                Action::Ack(arrival) => {
                    repeated = arrival == Arrival::Repeated;
                    if let Some(message) = delivery {
                        self.link.ack(message);
                    }
                    self.journal.arrived(arrival);
                }
                Action::Submit { key, model, inputs } => {
                    if let Err(reply) = self.submit(&key, &model, inputs) {
                        finished.push(Event::Finished { key, reply });
                    }
                }
                Action::Reply { key, body, expiry, outcome } => {
                    self.reply(&key, body, expiry, outcome, repeated, now);
                }
            }
        }
        finished
    }

    /// Hands a query to its model; `Err` is the reply where that cannot be done.
    fn submit(&mut self, key: &Key, model: &ModelId, inputs: Vec<NamedTensor>) -> Result<(), Reply> {
        let worker = &self.models.get(model).expect("the core submits only what is served").worker;
        let refused = |kind, message| Err(Reply::Refused { id: key.id, kind, message });
        let row = match worker.signature().split(inputs) {
            Ok(mut rows) if rows.len() == 1 => rows.remove(0),
            Ok(rows) => return refused(Refusal::BadInput, format!("{} rows; a query carries one", rows.len())),
            Err(error) => return refused(Refusal::BadInput, error.to_string()),
        };
        match worker.submit(row) {
            Ok(result) => {
                let (key, model) = (key.clone(), model.clone());
                self.running.spawn(async move { Run { key, model, result: result.await } });
                Ok(())
            }
            Err(SubmitError::QueueFull { .. }) => {
                let retry_ms = u32::try_from(self.identity.busy_retry.as_millis()).unwrap_or(u32::MAX);
                Err(Reply::Busy { id: key.id, retry_ms })
            }
            Err(SubmitError::Stopped) => {
                self.model_stopped(model);
                refused(Refusal::Internal, "the model has stopped".into())
            }
        }
    }

    /// Waits for a run to end and answers its query. Nothing is lost when this is dropped while it waits.
    pub(crate) async fn finish_one(&mut self) {
        // The only task that could fail does nothing but wait; `None` is for a caller without runs.
        if let Some(Ok(run)) = self.running.join_next().await {
            self.on_run(run, Instant::now());
        }
    }

    fn on_run(&mut self, run: Run, now: Instant) {
        let Run { key, model, result } = run;
        let refused = |kind, message| Reply::Refused { id: key.id, kind, message };
        let reply = match result {
            Ok(Ok(row)) => {
                self.journal.ran(&model, &row);
                self.verdict(key.id, &model, row)
            }
            Ok(Err(RunError::Input(error))) => refused(Refusal::BadInput, error.to_string()),
            Ok(Err(error)) => {
                self.journal.run_failed(&model, &error, now);
                refused(Refusal::Internal, error.to_string())
            }
            Err(_) => {
                self.model_stopped(&model);
                refused(Refusal::Internal, "the model has stopped".into())
            }
        };
        self.drive(Event::Finished { key, reply }, None, now);
    }

    fn verdict(&self, id: RequestId, model: &ModelId, row: RowOutput) -> Reply {
        Reply::Verdict(Verdict {
            id,
            cloud: self.models.get(model).expect("only served models run").digest,
            gateway: self.identity.gateway.clone(),
            outputs: row.outputs,
            queue_us: micros(row.queue_time),
            model_us: micros(row.model_time),
        })
    }

    fn model_stopped(&mut self, model: &ModelId) {
        self.health.model_stopped(model);
        self.failed.get_or_insert_with(|| ServiceError::ModelStopped { model: model.clone() });
    }

    fn reply(&mut self, key: &Key, body: Bytes, expiry: Duration, outcome: Outcome, repeated: bool, now: Instant) {
        self.journal.replied(key, outcome, body.len(), repeated);
        self.publish(key, body, expiry, now);
    }

    /// Publishes to the device's own reply topic, whatever response topic its message asked for.
    fn publish(&mut self, key: &Key, body: Bytes, expiry: Duration, now: Instant) {
        let topic = Topic::Reply { device: key.device.clone() }.path(&self.identity.tenant);
        let correlation = Some(Bytes::copy_from_slice(key.id.as_bytes()));
        let message = Outgoing { expiry: Some(expiry), correlation, ..Outgoing::new(topic, body) };
        match self.link.publish(message) {
            Ok(id) => {
                self.unconfirmed.insert(id);
            }
            Err(error) => self.journal.not_published(key, error, now),
        }
    }
}

/// What the broker left of a message's time, in milliseconds: the body's deadline does not know how long it lay there.
fn left(message: &Incoming) -> u32 {
    let expiry = message.expiry.map(|expiry| expiry.saturating_add(EXPIRY_ROUNDING).as_millis());
    expiry.and_then(|millis| u32::try_from(millis).ok()).unwrap_or(u32::MAX)
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
