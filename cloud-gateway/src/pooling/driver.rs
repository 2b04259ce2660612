//! Gives the core what happens and carries out what it wants: writes, signs, publishes. Nothing is decided here.
//!
//! It blocks for disk I/O, so it has a thread of its own. A delivery is acknowledged last: once it is counted, and everything
//! that it led to is on disk.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use hedge_gateway_core::{Pool, PoolAction, PoolEvent, RestoreError};
use hedge_link::{Incoming, Link, LinkEvent, Outcome, Outgoing, PublishError, PublishId};
use hedge_wire::{ClassState, Evidence, Hash16, RouteSubject, SigningKey, TenantId, Topic};

use super::{
    journal::PoolJournal,
    store::{Found, Store},
};

pub(super) struct Driver<L> {
    tenant: TenantId,
    key: SigningKey,
    pool: Pool,
    store: Store,
    link: L,
    journal: PoolJournal,
    /// States on their way, by class and version; bounded by the link's queue and window.
    said: HashMap<PublishId, (Hash16, u64)>,
}

impl<L: Link> Driver<L> {
    pub(super) fn new(
        tenant: TenantId,
        key: SigningKey,
        pool: Pool,
        store: Store,
        link: L,
        journal: PoolJournal,
    ) -> Self {
        Self { tenant, key, pool, store, link, journal, said: HashMap::new() }
    }

    /// Goes on from what was found on disk. What cannot be read is set aside; its class begins anew, behind the number that
    /// it may have spent.
    pub(super) fn restore(&mut self, found: Vec<Found>, now: u64) {
        for Found { class, index, state } in found {
            let restored = match state {
                Some(Ok(state)) => self.pool.restore(&state, now),
                Some(Err(why)) => Err(RestoreError::Unreadable(why)),
                None => {
                    self.pool.spent(class, index);
                    continue;
                }
            };
            match restored {
                Ok(actions) => self.carry_out(actions, now),
                Err(error) => {
                    self.pool.spent(class, index);
                    self.leave(class, index, &error);
                }
            }
        }
        let counts = self.pool.counts();
        self.journal.restored(counts.classes);
        self.journal.holds(&counts);
    }

    /// Takes in what the link says.
    pub(super) fn on_link(&mut self, event: LinkEvent, now: u64) {
        match event {
            LinkEvent::Up { limits } => {
                self.journal.link(true);
                if !limits.retain {
                    self.journal.no_retain();
                }
                self.drive(PoolEvent::Link { up: true }, now);
            }
            LinkEvent::Down { .. } => {
                self.journal.link(false);
                self.said.clear();
                self.drive(PoolEvent::Link { up: false }, now);
            }
            LinkEvent::Message(message) => self.on_message(&message, now),
            LinkEvent::Published { id, outcome } => self.on_published(id, outcome, now),
        }
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: u64) {
        self.drive(PoolEvent::Tick, now);
    }

    /// The last that is done: nothing that was counted is only in memory afterwards.
    pub(super) fn stop(&mut self, now: u64) {
        self.drive(PoolEvent::Stop, now);
    }

    fn on_message(&mut self, message: &Incoming, now: u64) {
        match self.evidence(message) {
            Ok(event) => self.drive(event, now),
            // Acknowledged all the same: it would be no better when it came again.
            Err(error) => self.journal.malformed(&message.topic, &error),
        }
        self.link.ack(message);
    }

    /// The device is the one of the topic, which the broker lets only itself publish to.
    fn evidence(&self, message: &Incoming) -> Result<PoolEvent, String> {
        match Topic::parse(&self.tenant, &message.topic) {
            Ok(Topic::Labels { device }) => {
                let evidence = Evidence::decode_shared(&message.payload).map_err(|error| error.to_string())?;
                Ok(PoolEvent::Evidence { device, evidence: Box::new(evidence) })
            }
            Ok(_) => Err("a topic that no pool subscribes to".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn on_published(&mut self, id: PublishId, outcome: Outcome, now: u64) {
        // What is not here is void: it was published on a connection before, or deletes a state.
        let Some((class, version)) = self.said.remove(&id) else { return };
        match outcome {
            // The broker keeps it, also where nobody hears it yet.
            Outcome::Delivered | Outcome::NoSubscribers => {
                self.journal.confirmed();
                self.drive(PoolEvent::Confirmed { class, version }, now);
            }
            Outcome::Rejected { reason, .. } => self.journal.rejected(&reason),
        }
    }

    fn drive(&mut self, event: PoolEvent, now: u64) {
        let actions = self.pool.handle(event, now);
        self.carry_out(actions, now);
        self.journal.holds(&self.pool.counts());
    }

    fn carry_out(&mut self, actions: Vec<PoolAction>, now: u64) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                PoolAction::Persist(class) => {
                    let durable = self.save(class);
                    actions.extend(self.pool.handle(PoolEvent::Saved { class, durable }, now));
                }
                PoolAction::Publish(state) => self.publish(*state),
                PoolAction::Forget { subject, spent } => self.forget(&subject, spent),
                PoolAction::Note(note) => self.journal.note(&note),
            }
        }
    }

    fn save(&mut self, class: Hash16) -> bool {
        let Some(snapshot) = self.pool.save(class) else { return true };
        match self.store.write(class, &snapshot) {
            Ok(()) => {
                self.journal.saved();
                true
            }
            Err(error) => {
                self.journal.not_saved(class, &error);
                false
            }
        }
    }

    /// Signs and publishes a state. One that is too large goes without its certificate: a revocation must get through.
    fn publish(&mut self, mut state: ClassState) {
        let (class, version) = (state.subject.hash(), state.version);
        let mut sent = self.send(&state);
        if state.certificate.is_some()
            && let Err(Unsent::TooLarge(why)) = &sent
        {
            self.journal.omitted(&state.subject, why);
            state.certificate = None;
            sent = self.send(&state);
        }
        match sent {
            Ok(id) => {
                self.said.insert(id, (class, version));
            }
            // The core publishes again what is not confirmed.
            Err(Unsent::Refused(error)) => self.journal.unsent(error),
            Err(Unsent::TooLarge(why)) => self.journal.rejected(&why),
        }
    }

    fn send(&self, state: &ClassState) -> Result<PublishId, Unsent> {
        let body = state.encode_signed(&self.tenant, &self.key).map_err(|error| Unsent::TooLarge(error.to_string()))?;
        let sent = self.link.publish(retained(state.topic().path(&self.tenant), body.into()));
        sent.map_err(|error| match error {
            PublishError::TooLarge { .. } => Unsent::TooLarge(error.to_string()),
            PublishError::Down | PublishError::QueueFull | PublishError::Invalid => Unsent::Refused(error),
        })
    }

    fn forget(&mut self, subject: &RouteSubject, spent: u32) {
        let class = subject.hash();
        if let Err(error) = self.store.forget(class, spent) {
            self.journal.not_saved(class, &error);
        }
        let topic = Topic::ClassState { class: subject.class.clone(), subject: class };
        // An empty retained message deletes the one before.
        if let Err(error) = self.link.publish(retained(topic.path(&self.tenant), Bytes::new())) {
            self.journal.unsent(error);
        }
    }

    fn leave(&mut self, class: Hash16, index: u32, error: &RestoreError) {
        match error {
            RestoreError::Unreadable(why) => match self.store.set_aside(class) {
                Ok(aside) => self.journal.damaged(class, index, why, &aside),
                // The next state of the class has another name.
                Err(error) => self.journal.damaged(class, index, &format!("{why}; and it stays there: {error}"), &[]),
            },
            RestoreError::NotPooled { .. } | RestoreError::NoRoom { .. } => self.journal.not_restored(class, error),
        }
    }
}

/// Why a state is not on its way.
enum Unsent {
    TooLarge(String),
    Refused(PublishError),
}

fn retained(topic: String, body: Bytes) -> Outgoing {
    Outgoing { retain: true, ..Outgoing::new(topic, body) }
}
