//! The durable requests' shell: what the outbox wants is done, and told back to it.

use std::collections::VecDeque;
use std::time::Duration;

use hedge_agent_core::outbox::{Change, Ending, Head, Mode, NotAccepted, OutboxAction, OutboxEvent, Ran, Standing};
use hedge_agent_core::route::Decision;
use hedge_agent_core::{Ask, NotSent, Place, Reason, Status};
use hedge_wire::{Purpose, RequestId};

use super::caller::{Told, Waiter};
use super::host::{Death, Host};
use super::process::Process;
use super::upload::OFFERED_FROM;
use super::{planted, router};
use crate::counts::Happening;
use crate::id::{Kind, id, number};
use crate::judge::{Rule, Site};
use crate::payload::{Given, Payload, Trait};
use crate::plant::Plant;
use crate::queue::{DeviceEvent, Event};
use crate::shared::Shared;
use crate::store::Read;

/// What the outbox is told in answer to an action, at once.
type Events = VecDeque<OutboxEvent<Given>>;

impl Process {
    /// Hands a durable request in.
    pub(crate) fn post(
        &mut self,
        waiter: Waiter,
        payload: Payload,
        life: Duration,
        host: &mut Host,
        shared: &mut Shared,
    ) {
        let id = id(Kind::Durable, host.index, waiter.number.into());
        self.waiters.entry(id).or_default().push(waiter);
        self.hearing = Some(waiter);
        self.inserted = Some(payload);
        let (digest, bytes) = (payload.digest(), payload.bytes() as u64);
        self.feed(OutboxEvent::Accept { id, digest, bytes, life }, host, shared);
        self.hearing = None;
        self.inserted = None;
    }

    /// The owner has the result in its hands.
    pub(crate) fn fetched(&mut self, number: u16, host: &mut Host, shared: &mut Shared) {
        let id = id(Kind::Durable, host.index, number.into());
        self.feed(OutboxEvent::Fetched(id), host, shared);
    }

    /// Gives the outbox an event and carries out what it wants, until it has to wait.
    pub(super) fn feed(&mut self, event: OutboxEvent<Given>, host: &mut Host, shared: &mut Shared) {
        let mut events = Events::from([event]);
        while let Some(event) = events.pop_front() {
            if host.dying.is_some() {
                return;
            }
            let now = host.now(shared);
            let index = host.index;
            shared.say(|| format!("d{index} outbox: {event:?}"));
            host.over(&event);
            for action in self.outbox.on(event, now) {
                self.perform(action, &mut events, host, shared);
            }
            self.check_bounds(host, shared);
        }
    }

    /// Carries out what came of restoring.
    pub(super) fn carry_out(&mut self, actions: Vec<OutboxAction<Given>>, host: &mut Host, shared: &mut Shared) {
        let mut events = Events::new();
        for action in actions {
            self.perform(action, &mut events, host, shared);
        }
        self.check_bounds(host, shared);
        for event in events {
            self.feed(event, host, shared);
        }
    }

    fn perform(&mut self, action: OutboxAction<Given>, events: &mut Events, host: &mut Host, shared: &mut Shared) {
        let device = host.index;
        shared.say(|| format!("d{device} outbox wants: {action:?}"));
        match action {
            OutboxAction::Persist { write, change } => {
                if shared.has(Plant::UnwrittenAttempt) && planted::is_attempt(&change) {
                    return events.push_back(OutboxEvent::Persisted(write));
                }
                let payload = self.inserted.filter(|_| matches!(change, Change::Insert(_)));
                self.write(Some(write), change, payload, host, shared);
            }
            OutboxAction::Note(change) => self.note(change, host, shared),
            OutboxAction::Accepted(id) => self.accepted(id, host, shared),
            OutboxAction::Refuse { id, why } => self.refused(id, why, host, shared),
            OutboxAction::Known(id) => events.extend(self.known(id, host, shared)),
            OutboxAction::Execute { id, mode, attempts } => {
                host.mark(id, attempts);
                events.extend(self.execute(id, mode, host, shared));
            }
            OutboxAction::Publish { id, attempt, left, attempts } => {
                host.mark(id, attempts);
                events.extend(self.ask_durably(id, attempt, left, host, shared));
            }
            OutboxAction::Deliver { id, ending } => events.extend(self.deliver(id, &ending, host, shared)),
            OutboxAction::WakeAt(at) => self.wake_at(at, host, shared),
        }
    }

    fn note(&mut self, change: Change<Given>, host: &mut Host, shared: &mut Shared) {
        match &change {
            Change::Erase(id) => {
                shared.count(Happening::Erased);
                shared.judge.record_mut(host.index, number(id)).erased = true;
            }
            Change::Update(head) if host.store.head(&head.id).is_some_and(|earlier| is_restamp(earlier, head)) => {
                shared.count(Happening::Restamps);
            }
            _ => {}
        }
        self.write(None, change, None, host, shared);
    }

    fn accepted(&mut self, id: RequestId, host: &Host, shared: &mut Shared) {
        if shared.judge.record(host.index, number(&id)).accepted.is_none() {
            shared.count(Happening::Accepted);
            let event = Event::LifeCheck { device: host.index, number: number(&id) };
            shared.queue.push(shared.now, event);
        } else {
            shared.count(Happening::Joined);
        }
        shared.judge.accepted(host.index, number(&id), shared.now);
        for waiter in self.waiters.get_mut(&id).into_iter().flatten() {
            waiter.accepted = true;
        }
    }

    /// As an answer to one who hands it in it is for that one alone, otherwise for everybody who waits.
    fn refused(&mut self, id: RequestId, why: NotAccepted, host: &mut Host, shared: &mut Shared) {
        shared.count(match why {
            NotAccepted::TooMany { .. } => Happening::RefusedTooMany,
            NotAccepted::TooLarge { .. } => Happening::RefusedTooLarge,
            NotAccepted::Unfetched { .. } => Happening::RefusedUnfetched,
            NotAccepted::DiskFull => Happening::RefusedDiskFull,
            NotAccepted::OtherRequest => Happening::RefusedOther,
            NotAccepted::Gone => Happening::RefusedGone,
        });
        let told = match self.hearing.take() {
            Some(_) => self.waiters.get_mut(&id).and_then(Vec::pop).into_iter().collect(),
            None => self.waiters.remove(&id).unwrap_or_default(),
        };
        told.into_iter().for_each(|waiter| host.tell(waiter, &Told::Refused(why), shared));
    }

    fn known(&mut self, id: RequestId, host: &mut Host, shared: &mut Shared) -> Option<OutboxEvent<Given>> {
        shared.count(Happening::Known);
        let waiter = self.waiters.get_mut(&id).and_then(Vec::pop)?;
        let ending = host.store.result(&id);
        let what = || format!("d{} {id} is known, and its result is not in the store", host.index);
        shared.require(ending.is_some(), Rule::NothingLost, what);
        host.tell(waiter, &Told::Ending(ending?), shared);
        Some(OutboxEvent::Fetched(id))
    }

    fn deliver(
        &mut self,
        id: RequestId,
        ending: &Ending<Given>,
        host: &mut Host,
        shared: &mut Shared,
    ) -> Option<OutboxEvent<Given>> {
        self.uploads.remove(&id);
        shared.count(Happening::Delivered);
        shared.count(match ending {
            Ending::Answered(Given::Answer { status: Status::Cloud, .. }) => Happening::EndedByCloud,
            Ending::Answered(Given::Answer { reason, .. }) if was_chosen(*reason) => Happening::EndedByEdge,
            Ending::Answered(Given::Answer { .. }) => Happening::EndedWithoutCloud,
            Ending::Answered(Given::Failed) => Happening::EndedFailed,
            Ending::Poisoned { .. } => Happening::EndedPoisoned,
            Ending::Damaged => Happening::EndedDamaged,
        });
        shared.judge.delivered(host.index, number(&id), ending, shared.now);
        let waiters = self.waiters.remove(&id).unwrap_or_default();
        let heard = !waiters.is_empty();
        waiters.into_iter().for_each(|waiter| host.tell(waiter, &Told::Ending(ending.clone()), shared));
        heard.then_some(OutboxEvent::Fetched(id))
    }

    fn execute(
        &mut self,
        id: RequestId,
        mode: Mode,
        host: &mut Host,
        shared: &mut Shared,
    ) -> Option<OutboxEvent<Given>> {
        if let Mode::Local(why) = mode {
            self.check_reason(number(&id), why, host, shared);
        }
        if self.outbox.tries_a_suspect() {
            shared.count(Happening::Suspects);
        }
        let payload = match self.read(id, host, shared) {
            Ok(payload) => payload,
            Err(event) => return Some(event),
        };
        if host.dice.chance(0.02) {
            shared.count(Happening::PutOff);
            return Some(OutboxEvent::Ran { id, ran: Ran::Again });
        }
        self.executing.insert(id, (mode, payload));
        let took = host.dice.millis(1..30);
        host.after(took, DeviceEvent::Executed { id }, shared);
        None
    }

    /// Why the cloud is not waited for any more has to be true.
    fn check_reason(&self, number: u16, why: Reason, host: &Host, shared: &mut Shared) {
        let payload = shared.judge.record(host.index, number).payload;
        let right = match why {
            Reason::Deadline => {
                shared.count(Happening::LifeOver);
                return shared.judge.gave_up(host.index, number, shared.now);
            }
            Reason::CloudRefused => payload.has(Trait::CloudFails) || payload.has(Trait::CloudRefuses),
            Reason::BadVerdict => payload.has(Trait::BadVerdict),
            Reason::TooLarge => !host.uploads && payload.bytes() > OFFERED_FROM,
            _ => false,
        };
        let what = || format!("d{} #{number} goes on without the cloud because of {}", host.index, why.name());
        shared.require(right, Rule::Patience, what);
    }

    /// The payload, as far as the disk gives it back.
    fn read(&self, id: RequestId, host: &Host, shared: &mut Shared) -> Result<Payload, OutboxEvent<Given>> {
        match host.store.payload(&id) {
            Read::Whole(payload) => Ok(payload),
            read => {
                let what = || format!("d{} {id} is to be executed and has no payload", host.index);
                shared.require(read == Read::Rotten, Rule::NothingLost, what);
                shared.count(Happening::Rotten);
                shared.judge.record_mut(host.index, number(&id)).rotten = true;
                Err(OutboxEvent::Unreadable(id))
            }
        }
    }

    pub(super) fn executed(&mut self, id: RequestId, host: &mut Host, shared: &mut Shared) {
        let Some((mode, payload)) = self.executing.remove(&id) else { return };
        if payload.has(Trait::KillsExecution) {
            host.dying = Some(Death::Killed { by: Some(number(&id)) });
            return;
        }
        let ran = match mode {
            Mode::Routed => self.routed(id, payload, host, shared),
            Mode::Local(why) => Ran::Final(edge_answer(id, payload, Status::Uncertified, why, shared)),
        };
        self.feed(OutboxEvent::Ran { id, ran }, host, shared);
    }

    /// The router is told that the cloud may be asked, whatever the link does: the outbox can wait.
    fn routed(&mut self, id: RequestId, payload: Payload, host: &mut Host, shared: &mut Shared) -> Ran<Given> {
        if payload.has(Trait::EdgeFails) {
            return Ran::Offload;
        }
        let ask = Ask {
            features: Some(router::features(payload)),
            place: Place::Auto,
            stand_in: false,
            may_offload: Ok(()),
            time_left: None,
        };
        match self.decide(&ask, payload, host, shared) {
            Decision::Offload { .. } => Ran::Offload,
            Decision::Local { status, reason, .. } => {
                let status = planted::status(status, host, shared);
                let certified = host.is_certified(shared);
                let what = || format!("d{} {id} is certified, and nothing certifies it", host.index);
                shared.require(status != Status::Certified || certified, Rule::Certified, what);
                Ran::Final(edge_answer(id, payload, status, reason, shared))
            }
        }
    }

    fn ask_durably(
        &mut self,
        id: RequestId,
        attempt: u8,
        left: Duration,
        host: &mut Host,
        shared: &mut Shared,
    ) -> Option<OutboxEvent<Given>> {
        shared.count(if attempt == 0 { Happening::Asked } else { Happening::AskedAgain });
        let settings = &shared.weather.outbox;
        let what = || format!("d{} {id} waits {left:?} for a reply", host.index);
        let patient = left <= settings.reply_cap && left > Duration::ZERO;
        shared.require(patient, Rule::DeviceBounds, what);
        let payload = match self.read(id, host, shared) {
            Ok(payload) => payload,
            Err(event) => return Some(event),
        };
        if payload.has(Trait::KillsSending) {
            host.dying = Some(Death::Killed { by: Some(number(&id)) });
            return None;
        }
        match self.ask(id, payload, attempt, left, Purpose::Answer, host, shared) {
            Ok(()) => None,
            Err(why) => {
                if why == NotSent::TooLarge {
                    shared.count(Happening::MessageTooLarge);
                }
                Some(OutboxEvent::NotSent { id, why })
            }
        }
    }

    fn wake_at(&mut self, at: Duration, host: &mut Host, shared: &mut Shared) {
        let now = host.now(shared);
        let what = || format!("d{} asks at {now:?} to be woken at {at:?}", host.index);
        shared.require(at > now, Rule::WakesAhead, what);
        self.wakes += 1;
        if !(shared.has(Plant::LostWakeUp) && host.dice.chance(0.2)) {
            host.at(at, DeviceEvent::Wake { asked: self.wakes }, shared);
        }
    }

    pub(super) fn woken(&mut self, asked: u32, host: &mut Host, shared: &mut Shared) {
        if asked != self.wakes {
            return;
        }
        self.feed(OutboxEvent::Timer, host, shared);
        if shared.has(Plant::BusyLoop) {
            host.after(Duration::ZERO, DeviceEvent::Wake { asked: self.wakes }, shared);
        }
    }

    fn check_bounds(&self, host: &Host, shared: &mut Shared) {
        let (outbox, settings) = (&self.outbox, &shared.weather.outbox);
        let (unfetched, results) = outbox.results();
        let held = outbox.waiting() + unfetched;
        let right = held <= settings.entries.max(self.found)
            && outbox.bytes() <= settings.refuse_from()
            && outbox.running() <= settings.running
            && outbox.in_flight() <= settings.in_flight
            && results - unfetched <= settings.results;
        let what = || {
            let (bytes, running, in_flight) = (outbox.bytes(), outbox.running(), outbox.in_flight());
            let fetched = results - unfetched;
            format!(
                "d{} holds {held} requests, {bytes} bytes, {running} running, {in_flight} asked, {fetched} fetched",
                host.index
            )
        };
        shared.require(right, Rule::DeviceBounds, what);
    }

    /// The cloud's word on a durable request.
    pub(super) fn on_durable_verdict(&mut self, id: RequestId, given: Given, host: &mut Host, shared: &mut Shared) {
        if self.outbox.standing(&id) == Standing::Waiting {
            shared.judge.check_id(host.index, id, &given, shared.now);
        }
        let id =
            if shared.has(Plant::OtherAnswer) { planted::another(id, &self.executing, &self.publishes) } else { id };
        self.feed(OutboxEvent::Verdict { id, answer: given }, host, shared);
    }
}

/// Whether nothing but the life is written down.
fn is_restamp(earlier: &Head, head: &Head) -> bool {
    earlier.expiry != head.expiry && (earlier.attempts, earlier.placed) == (head.attempts, head.placed)
}

/// Whether the router gave a local answer although the cloud might have been asked.
fn was_chosen(reason: Reason) -> bool {
    matches!(reason, Reason::InsideCertificate | Reason::NoCertificate | Reason::OverBudget)
}

fn edge_answer(id: RequestId, payload: Payload, status: Status, reason: Reason, shared: &mut Shared) -> Given {
    if payload.has(Trait::EdgeFails) {
        return Given::Failed;
    }
    let run = shared.judge.run(Some(id), payload, Site::Edge);
    Given::Answer { payload, run, status, reason }
}
