//! Admission of queries: which is run, which waits, which is turned away, and who gets which reply.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hedge_tensor::NamedTensor;
use hedge_wire::{DeviceId, ModelId, Offer, Purpose, Query, Refusal, Reply, RequestId};

use crate::{
    lane::{Lane, Waiting},
    limits::Limits,
    recent::{Recent, Stored},
};

/// The least expiry of a reply: Message Expiry counts whole seconds, and a device that gave up still counts the reply.
pub(crate) const MIN_EXPIRY: Duration = Duration::from_secs(1);

/// Whose query it is: ids are a device's own, so one device can neither block nor read another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The device, from the topic.
    pub device: DeviceId,
    /// Its id for the query.
    pub id: RequestId,
}

/// What happens to a gateway.
#[derive(Debug)]
pub enum Event {
    /// A query was delivered and decoded.
    Arrived {
        /// The device, from the topic (the broker vouches for it), never from the body.
        device: DeviceId,
        /// The model, from the topic.
        model: ModelId,
        /// The body.
        query: Query,
    },
    /// A submitted query is done: with a verdict, a refusal, or `Busy` where the engine had no room after all.
    Finished {
        /// Which query.
        key: Key,
        /// The reply.
        reply: Reply,
    },
    /// Time passes; wanted a few times a second.
    Tick,
    /// Admit nothing more; what is admitted is finished.
    Drain,
}

/// What the shell must do, in this order.
#[derive(Debug)]
pub enum Action {
    /// Acknowledge the delivery of the event that was just handled.
    Ack(Arrival),
    /// Run the model on the inputs, then report [`Event::Finished`], whatever happens.
    Submit {
        /// Which query.
        key: Key,
        /// The model.
        model: ModelId,
        /// Its inputs: one row.
        inputs: Vec<NamedTensor>,
    },
    /// Publish an encoded [`Reply`].
    Reply {
        /// To whom, about what.
        key: Key,
        /// The encoded reply.
        body: Bytes,
        /// How long it is worth delivering.
        expiry: Duration,
        /// What it says.
        outcome: Outcome,
    },
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is in the queue.
    Admitted,
    /// It is in the queue, although the device has asked before: the first attempt was lost on its way, is with another
    /// gateway, or its reply is forgotten here. The model may run for it a second time, somewhere.
    Readmitted,
    /// It is the same query as one in the queue, whose reply will do.
    Joined,
    /// It was answered before; that reply is sent again.
    Repeated,
    /// It is answered at once with `Busy` or a refusal.
    TurnedAway,
}

/// What a reply says, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The model's outputs.
    Verdict,
    /// No room in the queue.
    QueueFull,
    /// The device's share of the queue is used up.
    DeviceShare,
    /// An audit: there is no room for more of them, or an answer needed its place.
    Audit,
    /// The gateway is about to stop.
    Draining,
    /// Final: there will be no verdict.
    Refused(Refusal),
}

/// The state; see the crate's invariants.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    lanes: BTreeMap<ModelId, Lane>,
    pending: HashMap<Key, Pending>,
    pending_bytes: usize,
    /// Pending queries of each device that has any.
    shares: HashMap<DeviceId, Share>,
    /// Pending audits of all devices.
    audits: usize,
    recent: Recent,
    draining: bool,
}

/// Pending queries of one device.
#[derive(Debug, Default)]
struct Share {
    answers: usize,
    audits: usize,
}

/// What a query that is not admitted yet is judged by.
struct Asked<'a> {
    model: &'a ModelId,
    deadline_ms: u32,
    purpose: Purpose,
    bytes: usize,
}

/// An admitted query.
#[derive(Debug)]
struct Pending {
    model: ModelId,
    purpose: Purpose,
    deadline: Instant,
    bytes: usize,
    /// Submitted and not yet reported.
    running: bool,
}

impl Admission {
    /// The state of a gateway that serves `models`.
    pub fn new(limits: Limits, models: impl IntoIterator<Item = ModelId>) -> Self {
        Self {
            lanes: models.into_iter().map(|model| (model, Lane::default())).collect(),
            pending: HashMap::new(),
            pending_bytes: 0,
            shares: HashMap::new(),
            audits: 0,
            recent: Recent::new(&limits),
            draining: false,
            limits,
        }
    }

    /// Takes an event; `now` never goes back.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Arrived { device, model, query } => self.arrived(device, &model, query, now, &mut actions),
            Event::Finished { key, reply } => self.finished(&key, &reply, now, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
            Event::Drain => self.draining = true,
        }
        actions
    }

    /// What is to be said at once to the offer of a query that would come in parts; the delivery is to be acknowledged in any
    /// case. `None`: nothing speaks against granting it. What is true now may not be once all parts are there, and is then
    /// judged again; this saves the way of what would be turned away.
    pub fn offered(&mut self, device: &DeviceId, model: &ModelId, offer: &Offer, now: Instant) -> Option<Vec<Action>> {
        let key = Key { device: device.clone(), id: offer.id };
        let left = self.time_left(offer.deadline_ms);
        let mut actions = Vec::new();
        if self.knows(&key, left, now, &mut actions) {
            return Some(actions);
        }
        let (purpose, bytes) = (offer.purpose, offer.body.size());
        let victims = if purpose == Purpose::Answer { self.victims(bytes) } else { Vec::new() };
        let asked = Asked { model: &offer.model, deadline_ms: offer.deadline_ms, purpose, bytes };
        let (reply, outcome) = self.judge(&key, model, &asked, &victims).err()?;
        let body = encode(&reply).0;
        Some(vec![Action::Ack(Arrival::TurnedAway), Action::Reply { key, body, expiry: left.max(MIN_EXPIRY), outcome }])
    }

    /// Queries admitted and not yet answered.
    pub fn queued(&self) -> usize {
        self.pending.len()
    }

    /// Tensor bytes of these queries.
    pub fn queued_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Replies remembered, and their bytes.
    pub fn remembered(&self) -> (usize, usize) {
        (self.recent.len(), self.recent.bytes())
    }

    fn arrived(&mut self, device: DeviceId, model: &ModelId, query: Query, now: Instant, actions: &mut Vec<Action>) {
        let key = Key { device, id: query.id };
        let left = self.time_left(query.deadline_ms);
        if self.knows(&key, left, now, actions) {
            return;
        }
        let bytes = query.inputs.iter().map(|input| input.tensor.bytes().len()).sum();
        let victims = if query.purpose == Purpose::Answer { self.victims(bytes) } else { Vec::new() };
        let asked = Asked { model: &query.model, deadline_ms: query.deadline_ms, purpose: query.purpose, bytes };
        if let Err((reply, outcome)) = self.judge(&key, model, &asked, &victims) {
            actions.push(Action::Ack(Arrival::TurnedAway));
            let expiry = left.max(MIN_EXPIRY);
            actions.push(Action::Reply { key, body: encode(&reply).0, expiry, outcome });
            return;
        }
        let again = query.attempt > 0;
        actions.push(Action::Ack(if again { Arrival::Readmitted } else { Arrival::Admitted }));
        self.turn_away(&victims, actions);
        let purpose = query.purpose;
        self.admit(&key, Pending { model: model.clone(), purpose, deadline: now + left, bytes, running: false });
        let lane = self.lanes.get_mut(model).expect("judge saw the lane");
        lane.enqueue(purpose, Waiting { key, inputs: query.inputs });
        self.dispatch(model, now, actions);
    }

    /// What is remembered or under way is answered, or will be.
    fn knows(&mut self, key: &Key, left: Duration, now: Instant, actions: &mut Vec<Action>) -> bool {
        if let Some(Stored { body, outcome }) = self.recent.find(key).cloned() {
            actions.push(Action::Ack(Arrival::Repeated));
            actions.push(Action::Reply { key: key.clone(), body, expiry: left.max(MIN_EXPIRY), outcome });
            return true;
        }
        if let Some(pending) = self.pending.get_mut(key) {
            pending.deadline = pending.deadline.max(now + left);
            actions.push(Action::Ack(Arrival::Joined));
            return true;
        }
        false
    }

    fn time_left(&self, deadline_ms: u32) -> Duration {
        Duration::from_millis(deadline_ms.into()).min(self.limits.max_deadline)
    }

    /// Whether a new query may be admitted; otherwise the reply that says why not.
    fn judge(&self, key: &Key, model: &ModelId, query: &Asked<'_>, victims: &[Key]) -> Result<(), (Reply, Outcome)> {
        let refused = |kind, message| Err((Reply::Refused { id: key.id, kind, message }, Outcome::Refused(kind)));
        let busy = |outcome| Err((Reply::Busy { id: key.id, retry_ms: millis(self.limits.busy_retry) }, outcome));
        if query.model != model {
            let message = format!("the body asks for the model {}, the topic for {model}", query.model);
            return refused(Refusal::BadInput, message);
        }
        if !self.lanes.contains_key(model) {
            return refused(Refusal::UnknownModel, format!("this gateway serves no model {model}"));
        }
        if query.deadline_ms == 0 {
            return refused(Refusal::Expired, "no time was left on arrival".into());
        }
        if self.draining {
            return busy(Outcome::Draining);
        }
        let full = victims.is_empty() && self.is_full(self.pending.len(), self.pending_bytes, query.bytes);
        let Share { answers, audits } = self.shares.get(&key.device).unwrap_or(&Share { answers: 0, audits: 0 });
        match query.purpose {
            Purpose::Answer if full => busy(Outcome::QueueFull),
            Purpose::Answer if *answers >= self.limits.queue_per_device => busy(Outcome::DeviceShare),
            Purpose::Audit if full || self.audits >= self.limits.audits || *audits >= self.limits.audits_per_device => {
                busy(Outcome::Audit)
            }
            Purpose::Answer | Purpose::Audit => Ok(()),
        }
    }

    fn is_full(&self, pending: usize, pending_bytes: usize, bytes: usize) -> bool {
        pending >= self.limits.queue || pending_bytes + bytes > self.limits.queue_bytes
    }

    /// The audits that must lose their place for an answer of `bytes`; none where it fits, or where all would not do.
    fn victims(&self, bytes: usize) -> Vec<Key> {
        let (mut pending, mut held) = (self.pending.len(), self.pending_bytes);
        let mut victims = Vec::new();
        for key in self.lanes.values().flat_map(Lane::waiting_audits) {
            if !self.is_full(pending, held, bytes) {
                break;
            }
            pending -= 1;
            held -= self.pending.get(key).expect("a waiting query is pending").bytes;
            victims.push(key.clone());
        }
        if self.is_full(pending, held, bytes) { Vec::new() } else { victims }
    }

    fn turn_away(&mut self, audits: &[Key], actions: &mut Vec<Action>) {
        for key in audits {
            let pending = self.release(key).expect("a victim was pending");
            let lane = self.lanes.get_mut(&pending.model).expect("a pending query has a lane");
            lane.remove_unless(|waiting| waiting != key);
            let reply = Reply::Busy { id: key.id, retry_ms: millis(self.limits.busy_retry) };
            let (body, _) = encode(&reply);
            actions.push(Action::Reply { key: key.clone(), body, expiry: MIN_EXPIRY, outcome: Outcome::Audit });
        }
    }

    fn finished(&mut self, key: &Key, reply: &Reply, now: Instant, actions: &mut Vec<Action>) {
        // A second report, or one about a query that was not submitted, changes nothing.
        if !self.pending.get(key).is_some_and(|pending| pending.running) {
            return;
        }
        let pending = self.release(key).expect("the query was just seen");
        let lane = self.lanes.get_mut(&pending.model).expect("a pending query has a lane");
        lane.ended(pending.purpose);
        let (body, outcome) = encode(reply);
        if matches!(outcome, Outcome::Verdict | Outcome::Refused(_)) {
            self.recent.remember(now, key.clone(), Stored { body: body.clone(), outcome });
        }
        match pending.deadline.checked_duration_since(now) {
            Some(left) if left > Duration::ZERO => {
                let expiry = left.max(MIN_EXPIRY);
                actions.push(Action::Reply { key: key.clone(), body, expiry, outcome });
            }
            // The device has answered by itself; a repetition still gets the remembered reply.
            _ => actions.push(expired(key.clone(), "the model finished after the deadline")),
        }
        self.dispatch(&pending.model, now, actions);
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.recent.forget_old(now);
        let mut late = Vec::new();
        for lane in self.lanes.values_mut() {
            let in_time = |key: &Key| self.pending.get(key).is_some_and(|pending| pending.deadline > now);
            late.extend(lane.remove_unless(in_time));
        }
        for key in late {
            self.release(&key);
            actions.push(expired(key, "the deadline passed in the queue"));
        }
    }

    /// Gives a model's engine what it may have: answers in order of arrival, then audits.
    fn dispatch(&mut self, model: &ModelId, now: Instant, actions: &mut Vec<Action>) {
        loop {
            let lane = self.lanes.get_mut(model).expect("only models with a lane are dispatched");
            let Some(Waiting { key, inputs }) = lane.next(&self.limits) else { return };
            let pending = self.pending.get_mut(&key).expect("a waiting query is pending");
            if pending.deadline > now {
                pending.running = true;
                lane.began(pending.purpose);
                actions.push(Action::Submit { key, model: model.clone(), inputs });
            } else {
                self.release(&key);
                actions.push(expired(key, "the deadline passed in the queue"));
            }
        }
    }

    fn admit(&mut self, key: &Key, pending: Pending) {
        let share = self.shares.entry(key.device.clone()).or_default();
        match pending.purpose {
            Purpose::Answer => share.answers += 1,
            Purpose::Audit => {
                share.audits += 1;
                self.audits += 1;
            }
        }
        self.pending_bytes += pending.bytes;
        self.pending.insert(key.clone(), pending);
    }

    fn release(&mut self, key: &Key) -> Option<Pending> {
        let pending = self.pending.remove(key)?;
        self.pending_bytes -= pending.bytes;
        let share = self.shares.get_mut(&key.device).expect("a pending query is in its device's share");
        match pending.purpose {
            Purpose::Answer => share.answers -= 1,
            Purpose::Audit => {
                share.audits -= 1;
                self.audits -= 1;
            }
        }
        if share.answers + share.audits == 0 {
            self.shares.remove(&key.device);
        }
        Some(pending)
    }
}

/// An `Expired` that is not remembered: the query was not run, so a repetition with more time may still be.
fn expired(key: Key, message: &str) -> Action {
    let reply = Reply::Refused { id: key.id, kind: Refusal::Expired, message: message.into() };
    let (body, outcome) = encode(&reply);
    Action::Reply { key, body, expiry: MIN_EXPIRY, outcome }
}

/// The reply's bytes; where the outputs are beyond what a message may carry, a refusal that says so.
pub(crate) fn encode(reply: &Reply) -> (Bytes, Outcome) {
    let outcome = match reply {
        Reply::Verdict(_) => Outcome::Verdict,
        Reply::Busy { .. } => Outcome::QueueFull,
        Reply::Refused { kind, .. } => Outcome::Refused(*kind),
    };
    match reply.encode_checked() {
        Ok(body) => (body.into(), outcome),
        Err(error) => {
            let kind = Refusal::Internal;
            let refusal = Reply::Refused { id: reply.id(), kind, message: error.to_string() };
            (refusal.encode().into(), Outcome::Refused(kind))
        }
    }
}

pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
