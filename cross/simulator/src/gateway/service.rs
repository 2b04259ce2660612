//! A gateway's process: the cores, and the shell that decodes, runs and publishes, as `cloud-gateway` does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hedge_gateway_core::{Action, Admission, Arrival, Event, Key, Limits, Outcome, UploadAction, UploadEvent, Uploads};
use hedge_tensor::NamedTensor;
use hedge_wire::{Ask, DeviceId, ModelId, Part, Refusal, Reply, Topic, Verdict};

use super::Machine;
use crate::counts::Happening;
use crate::judge::{Rule, Site, Turn};
use crate::net::link::{CleanStart, Link, LinkEvent};
use crate::net::packet::{Message, Route};
use crate::payload::{Payload, Trait, misfit, outputs};
use crate::plant::Plant;
use crate::queue::GatewayEvent;
use crate::shared::{CLOUD, Shared};

/// How often the cores are told the time while they hold something, and while they do not.
const TICK: Duration = Duration::from_millis(100);
const IDLE_TICK: Duration = Duration::from_secs(2);
/// What a broker's whole seconds may hide.
const EXPIRY_ROUNDING: Duration = Duration::from_secs(1);
/// How long a draining gateway goes on.
const DRAIN: Duration = Duration::from_secs(3);
/// Publishes that may wait for the broker's word.
const LINK_QUEUE: usize = 1500;
/// What the engine tells the core to tell a device that finds it full.
const ENGINE_RETRY_MS: u32 = 200;

#[derive(Debug)]
pub(crate) struct Service {
    pub(super) link: Link,
    admission: Admission,
    uploads: Uploads,
    /// With the engine.
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Admitted and not replied to, by the judge's count.
    owed: BTreeSet<Key>,
    next_tick: Duration,
    is_draining: bool,
    drain_is_over: bool,
    /// What was computed last, for [`Plant::CrossedReplies`].
    last: Option<Payload>,
}

#[derive(Debug)]
struct Job {
    key: Key,
    payload: Payload,
}

impl Service {
    pub(super) fn begin(machine: &Machine, shared: &mut Shared) -> Self {
        let will = machine.presence(false, shared);
        let limits = match shared.has(Plant::NoBound) {
            true => Limits { queue: usize::MAX, queue_per_device: usize::MAX, ..shared.weather.limits.clone() },
            false => shared.weather.limits.clone(),
        };
        let mut service = Self {
            link: Link::new(machine.client, machine.run, CleanStart::Always, Some(will), LINK_QUEUE),
            admission: Admission::new(limits, [shared.model.clone()]),
            uploads: Uploads::new(machine.id.clone(), shared.weather.uploads.clone()),
            jobs: BTreeMap::new(),
            next_job: 0,
            owed: BTreeSet::new(),
            next_tick: Duration::ZERO,
            is_draining: false,
            drain_is_over: false,
            last: None,
        };
        service.link.start(shared);
        service.tick_later(machine, shared);
        service
    }

    pub(super) fn on_event(&mut self, event: GatewayEvent, machine: &mut Machine, shared: &mut Shared) {
        match event {
            GatewayEvent::Ran { job } => self.on_ran(job, machine, shared),
            GatewayEvent::Tick => self.on_tick(machine, shared),
            GatewayEvent::DrainOver => self.drain_is_over = true,
        }
    }

    pub(super) fn on_link(&mut self, event: LinkEvent, machine: &mut Machine, shared: &mut Shared) {
        match event {
            LinkEvent::Up => {
                let birth = machine.presence(true, shared);
                // The queue has room on a fresh connection.
                let _ = self.link.publish(birth, shared);
                self.drive_uploads(UploadEvent::LinkUp, machine, shared);
            }
            // What was under way may be lost; devices ask again and get the remembered replies.
            LinkEvent::Down | LinkEvent::Published { .. } => {}
            LinkEvent::Message { packet, message, left } => {
                self.on_message(packet, &message, left, machine, shared);
                self.hurry(machine, shared);
            }
        }
    }

    fn on_message(
        &mut self,
        packet: u32,
        message: &Message,
        left: Option<Duration>,
        machine: &mut Machine,
        shared: &mut Shared,
    ) {
        match Topic::parse(&shared.tenant, &message.topic) {
            Ok(Topic::Query { model, device }) => {
                self.on_question(packet, (device, model), message, left, machine, shared);
            }
            Ok(Topic::Part { device, .. }) => {
                let part = Part::decode(&message.body).expect("devices send well-formed parts");
                self.link.acknowledge(packet, shared);
                self.drive_uploads(UploadEvent::Part { device, part }, machine, shared);
            }
            topic => unreachable!("the broker delivers what was subscribed to, not {topic:?}"),
        }
    }

    fn on_question(
        &mut self,
        packet: u32,
        (device, model): (DeviceId, ModelId),
        message: &Message,
        left: Option<Duration>,
        machine: &mut Machine,
        shared: &mut Shared,
    ) {
        shared.count(Happening::Queries);
        let left = left.map_or(u32::MAX, |left| {
            u32::try_from(left.saturating_add(EXPIRY_ROUNDING).as_millis()).unwrap_or(u32::MAX)
        });
        match Ask::decode_shared(&message.body).expect("devices send well-formed questions") {
            Ask::Query(mut query) => {
                query.deadline_ms = query.deadline_ms.min(left);
                self.drive(Event::Arrived { device, model, query }, Some(packet), machine, shared);
            }
            Ask::Offer(mut offer) => {
                offer.deadline_ms = offer.deadline_ms.min(left);
                let asked = Key { device: device.clone(), id: offer.id };
                let said = self.admission.offered(&device, &model, &offer, machine.now(shared));
                match said {
                    Some(actions) => {
                        let what = || format!("gw-{} answers an offer by {actions:?}", machine.index);
                        shared.require(matches!(actions[0], Action::Ack(_)), Rule::RepliesOnce, what);
                        let mut events = VecDeque::new();
                        self.perform(actions, (Some(packet), Some(&asked)), &mut events, machine, shared);
                    }
                    None => {
                        self.link.acknowledge(packet, shared);
                        self.drive_uploads(UploadEvent::Offered { device, offer }, machine, shared);
                    }
                }
            }
        }
    }

    /// Gives admission an event and carries out what it wants; `delivery` is the message that it is about.
    fn drive(&mut self, event: Event, delivery: Option<u32>, machine: &mut Machine, shared: &mut Shared) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let asked = match &event {
                Event::Arrived { device, query, .. } => Some(Key { device: device.clone(), id: query.id }),
                _ => None,
            };
            let actions = self.admission.handle(event, machine.now(shared));
            let acks = actions.iter().filter(|action| matches!(action, Action::Ack(_))).count();
            let what = || format!("gw-{} acknowledges {acks} times: {actions:?}", machine.index);
            shared.require(acks == usize::from(asked.is_some()), Rule::RepliesOnce, what);
            self.perform(actions, (delivery, asked.as_ref()), &mut events, machine, shared);
        }
        self.check_bounds(machine, shared);
    }

    fn perform(
        &mut self,
        actions: Vec<Action>,
        (delivery, asked): (Option<u32>, Option<&Key>),
        events: &mut VecDeque<Event>,
        machine: &mut Machine,
        shared: &mut Shared,
    ) {
        // What is replied at once, to what was not taken in.
        let mut at_once = false;
        for action in actions {
            let index = machine.index;
            shared.say(|| format!("gw-{index} wants: {action:?}"));
            match action {
                Action::Ack(arrival) => {
                    if let Some(packet) = delivery {
                        self.link.acknowledge(packet, shared);
                    }
                    at_once = matches!(arrival, Arrival::Repeated | Arrival::TurnedAway);
                    count_arrival(arrival, shared);
                    self.owe(arrival, asked, machine, shared);
                    if arrival == Arrival::Repeated && shared.has(Plant::ForgetDedup) {
                        self.run_again(asked, machine, shared);
                    }
                }
                Action::Submit { key, inputs, .. } => {
                    if let Err(reply) = self.submit(&key, &inputs, machine, shared) {
                        events.push_back(Event::Finished { key, reply });
                    }
                }
                Action::Reply { key, body, expiry, outcome } => {
                    count_outcome(outcome, shared);
                    if !(at_once && asked == Some(&key)) {
                        self.pay(&key, machine, shared);
                    }
                    self.reply(&key, body, expiry, shared);
                }
            }
        }
    }

    /// What was admitted is owed one reply.
    fn owe(&mut self, arrival: Arrival, asked: Option<&Key>, machine: &Machine, shared: &mut Shared) {
        if let (Arrival::Admitted | Arrival::Readmitted, Some(key)) = (arrival, asked) {
            let new = self.owed.insert(key.clone());
            let what = || format!("gw-{} takes {key:?} in twice", machine.index);
            shared.require(new, Rule::RepliesOnce, what);
        }
    }

    fn pay(&mut self, key: &Key, machine: &Machine, shared: &mut Shared) {
        let owed = self.owed.remove(key);
        let what = || format!("gw-{} replies to {key:?}, which it owes nothing", machine.index);
        shared.require(owed, Rule::RepliesOnce, what);
    }

    /// Hands a question to the engine; `Err` is the reply where it has no room.
    fn submit(
        &mut self,
        key: &Key,
        inputs: &[NamedTensor],
        machine: &mut Machine,
        shared: &mut Shared,
    ) -> Result<(), Reply> {
        let Some(payload) = Payload::read(inputs) else {
            let what = format!("gw-{} got other inputs than {key:?} sent", machine.index);
            shared.judge.violated(Rule::RightAnswer, shared.now, what);
            return Ok(());
        };
        if self.jobs.len() >= shared.weather.engine_room {
            shared.count(Happening::EngineFull);
            return Err(Reply::Busy { id: key.id, retry_ms: ENGINE_RETRY_MS });
        }
        self.run(Job { key: key.clone(), payload }, machine, shared);
        Ok(())
    }

    fn run(&mut self, job: Job, machine: &mut Machine, shared: &mut Shared) {
        shared.count(Happening::Runs);
        let limits = &shared.weather.limits;
        // A memory that is short of places forgets by number, which the judge does not count.
        let memory = (limits.replies >= Limits::default().replies).then_some(limits.reply_age);
        let turn = shared.judge.executions.begins(machine.process(), job.key.id, shared.now, memory);
        let what = || format!("gw-{} runs {:?} again, which it runs or remembers", machine.index, job.key);
        shared.require(turn != Turn::Wrong, Rule::RunsOnce, what);
        if turn == Turn::Again {
            shared.count(Happening::RunsAgain);
        }
        let takes = machine.dice.millis(1..shared.weather.engine_millis);
        machine.after(takes, GatewayEvent::Ran { job: self.next_job }, shared);
        self.jobs.insert(self.next_job, job);
        self.next_job += 1;
    }

    /// What [`Plant::ForgetDedup`] does.
    fn run_again(&mut self, key: Option<&Key>, machine: &mut Machine, shared: &mut Shared) {
        if let (Some(key), Some(payload)) = (key, self.last) {
            self.run(Job { key: key.clone(), payload }, machine, shared);
        }
    }

    fn on_ran(&mut self, job: u64, machine: &mut Machine, shared: &mut Shared) {
        let Job { key, payload } = self.jobs.remove(&job).expect("a job ends once");
        shared.judge.executions.ends(machine.process(), key.id, shared.now);
        let earlier = self.last.replace(payload).filter(|_| shared.has(Plant::CrossedReplies)).unwrap_or(payload);
        let refused = |kind| Reply::Refused { id: key.id, kind, message: "the input has this trait".to_owned() };
        let reply = if payload.has(Trait::CloudFails) {
            refused(Refusal::Internal)
        } else if payload.has(Trait::CloudRefuses) {
            refused(Refusal::BadInput)
        } else {
            let run = shared.judge.run(Some(key.id), earlier, Site::Cloud);
            let outputs = if payload.has(Trait::BadVerdict) { misfit() } else { outputs(earlier, run) };
            let (id, gateway) = (key.id, machine.id.clone());
            Reply::Verdict(Verdict { id, cloud: CLOUD, gateway, outputs, queue_us: 0, model_us: 0 })
        };
        self.drive(Event::Finished { key, reply }, None, machine, shared);
    }

    fn reply(&mut self, key: &Key, body: Bytes, expiry: Duration, shared: &mut Shared) {
        let topic: Rc<str> = Topic::Reply { device: key.device.clone() }.path(&shared.tenant).into();
        let number = key.device.as_str().trim_start_matches('d').parse().expect("the simulated devices have numbers");
        let expiry = Some(expiry.as_secs() + u64::from(expiry.subsec_nanos() > 0));
        // A reply that the link does not take is asked for again.
        let _ = self.link.publish(Rc::new(Message { route: Route::Reply(number), topic, body, expiry }), shared);
    }

    fn drive_uploads(&mut self, event: UploadEvent, machine: &mut Machine, shared: &mut Shared) {
        for action in self.uploads.handle(event, machine.now(shared)) {
            let index = machine.index;
            shared.say(|| format!("gw-{index} upload: {}", in_short(&action)));
            match action {
                UploadAction::Grant { key, body, expiry } => self.reply(&key, body, expiry, shared),
                UploadAction::Reply { key, body, expiry, outcome } => {
                    match outcome {
                        Outcome::Refused(Refusal::Expired) => shared.count(Happening::UploadsExpired),
                        outcome => count_outcome(outcome, shared),
                    }
                    self.reply(&key, body, expiry, shared);
                }
                UploadAction::Assembled { device, model, query } => {
                    shared.count(Happening::Assembled);
                    self.drive(Event::Arrived { device, model, query }, None, machine, shared);
                }
                UploadAction::Dropped(_) => shared.count(Happening::PartsDropped),
            }
        }
        self.check_bounds(machine, shared);
    }

    fn on_tick(&mut self, machine: &mut Machine, shared: &mut Shared) {
        if shared.now != self.next_tick {
            return;
        }
        self.drive(Event::Tick, None, machine, shared);
        self.drive_uploads(UploadEvent::Tick, machine, shared);
        self.tick_later(machine, shared);
    }

    fn tick_later(&mut self, machine: &Machine, shared: &mut Shared) {
        let wait = if self.holds_something() { TICK } else { IDLE_TICK };
        self.next_tick = shared.now + wait;
        machine.after(wait, GatewayEvent::Tick, shared);
    }

    /// Something may have come into an idle gateway.
    fn hurry(&mut self, machine: &Machine, shared: &mut Shared) {
        if self.holds_something() && self.next_tick > shared.now + TICK {
            self.tick_later(machine, shared);
        }
    }

    fn holds_something(&self) -> bool {
        self.admission.queued() > 0 || self.uploads.open().0 > 0
    }

    fn check_bounds(&self, machine: &Machine, shared: &mut Shared) {
        let (limits, uploads) = (&shared.weather.limits, &shared.weather.uploads);
        let (queued, bytes) = (self.admission.queued(), self.admission.queued_bytes());
        let (replies, reply_bytes) = self.admission.remembered();
        let ((open, reserved), held) = (self.uploads.open(), self.uploads.held_bytes());
        let right = queued <= limits.queue
            && bytes <= limits.queue_bytes
            && (replies <= limits.replies && reply_bytes <= limits.reply_bytes)
            && (open <= uploads.uploads && reserved <= uploads.bytes && held <= reserved)
            && queued == self.owed.len()
            && self.jobs.len() <= limits.running_per_model.min(shared.weather.engine_room);
        let what = || {
            format!(
                "gw-{} holds {queued} questions of {bytes} bytes, {replies} replies of {reply_bytes} bytes, {open} uploads of \
                 {reserved} bytes ({held} held), {} jobs; it owes {} replies",
                machine.index,
                self.jobs.len(),
                self.owed.len()
            )
        };
        shared.require(right, Rule::GatewayBounds, what);
    }

    pub(super) fn drain(&mut self, machine: &mut Machine, shared: &mut Shared) {
        if !self.is_draining {
            self.is_draining = true;
            self.drive(Event::Drain, None, machine, shared);
            machine.after(DRAIN, GatewayEvent::DrainOver, shared);
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        let done = self.admission.queued() == 0 && self.link.unacknowledged() == 0;
        self.is_draining && (done || self.drain_is_over)
    }

    /// Says farewell, so that there is no will.
    pub(super) fn leave(&mut self, machine: &Machine, shared: &mut Shared) {
        let farewell = machine.presence(false, shared);
        let _ = self.link.publish(farewell, shared);
        self.link.leave(shared);
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let bytes = self.admission.queued_bytes() + self.uploads.open().1 + self.uploads.held_bytes();
        let works = self.holds_something() || bytes > 0 || !self.jobs.is_empty();
        !works && self.link.is_up() && self.link.unacknowledged() == 0
    }
}

/// An action without the bytes that it carries.
fn in_short(action: &UploadAction) -> String {
    match action {
        UploadAction::Grant { key, .. } => format!("grant {}", key.id),
        UploadAction::Reply { key, outcome, .. } => format!("reply {} {outcome:?}", key.id),
        UploadAction::Assembled { query, .. } => format!("assembled {}", query.id),
        UploadAction::Dropped(fault) => format!("dropped {fault:?}"),
    }
}

fn count_arrival(arrival: Arrival, shared: &mut Shared) {
    match arrival {
        Arrival::Joined => shared.count(Happening::QueriesJoined),
        Arrival::Repeated => shared.count(Happening::QueriesRepeated),
        Arrival::Readmitted => shared.count(Happening::Readmitted),
        Arrival::Admitted | Arrival::TurnedAway => {}
    }
}

fn count_outcome(outcome: Outcome, shared: &mut Shared) {
    match outcome {
        Outcome::QueueFull => shared.count(Happening::QueueFull),
        Outcome::DeviceShare => shared.count(Happening::ShareFull),
        Outcome::Refused(Refusal::Expired) => shared.count(Happening::ExpiredInQueue),
        Outcome::Verdict | Outcome::Audit | Outcome::Draining | Outcome::Refused(_) => {}
    }
}
