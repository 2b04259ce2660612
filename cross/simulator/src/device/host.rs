//! A device's machine: what outlives its process, and what of it outlives a reboot.

use std::rc::Rc;
use std::time::Duration;

use hedge_agent_core::outbox::{OutboxEvent, Saved, UnderWay, held};
use hedge_wire::{BootId, DeviceId, RequestId, Topic};

use super::caller::{Call, Question};
use super::router;
use crate::clock::{BEGINNING, Clock};
use crate::counts::Happening;
use crate::dice::{Dice, Stream};
use crate::id::{Kind, id};
use crate::net::packet::Client;
use crate::queue::{DeviceEvent, Event};
use crate::shared::Shared;
use crate::store::Store;

/// How a process ends before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// `kill -9`, by a fault, or by the durable request of this number.
    Killed { by: Option<u16> },
    /// The machine loses power.
    Power,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) index: u16,
    pub(crate) client: Client,
    pub(crate) query_topic: Rc<str>,
    pub(crate) clock: Clock,
    pub(crate) is_powered: bool,
    pub(crate) off_since: Duration,
    pub(crate) store: Store,
    /// What is being executed or sent, in a file that a killed process leaves behind. None before the first, and after a power cut.
    pub(crate) marks: Option<UnderWay>,
    pub(crate) disk_is_full: bool,
    /// When the disk or the process last came back.
    pub(crate) disturbed: Duration,
    pub(crate) dice: Dice,
    pub(crate) calls: Vec<Call>,
    pub(crate) questions: Vec<Question>,
    /// Whether it knows uploads.
    pub(crate) uploads: bool,
    /// Whether its model has a certificate, and whether that was revoked.
    pub(crate) contract: bool,
    pub(crate) revoked: bool,
    /// Counts processes.
    pub(crate) run: u32,
    /// Set by what kills the process.
    pub(crate) dying: Option<Death>,
}

impl Host {
    pub(crate) fn new(index: u16, seed: u64, shared: &mut Shared) -> Self {
        let mut dice = Dice::new(seed, Stream::Device(index));
        let name = DeviceId::parse(&format!("d{index}")).expect("a letter and digits");
        let topic = Topic::Query { model: shared.model.clone(), device: name }.path(&shared.tenant);
        let up_for = dice.millis(0..9_000_000);
        let clock = boot(&mut dice, BEGINNING - up_for, 0, shared);
        let (uploads, contract) = (dice.chance(0.9), dice.chance(0.5));
        let (calls, questions) = super::caller::script(index, &mut dice, shared);
        Self {
            index,
            client: Client(index),
            query_topic: topic.into(),
            clock,
            is_powered: true,
            off_since: Duration::ZERO,
            store: Store::default(),
            marks: None,
            disk_is_full: false,
            disturbed: Duration::ZERO,
            dice,
            calls,
            questions,
            uploads,
            contract,
            revoked: false,
            run: 0,
            dying: None,
        }
    }

    /// The machine boots: its monotonic clock begins anew.
    pub(crate) fn boot(&mut self, shared: &mut Shared) {
        self.clock = boot(&mut self.dice, shared.now, self.clock.boot.0, shared);
        self.is_powered = true;
    }

    /// What the last process left under way, if it left its marks; those of the one that begins take their place.
    pub(crate) fn take_marks(&mut self, saved: &[Saved]) -> Option<UnderWay> {
        let left = self.marks.take();
        self.marks = Some(held(saved, left.as_ref()));
        left
    }

    /// Something is executed or sent.
    pub(crate) fn mark(&mut self, id: RequestId, attempts: u8) {
        if attempts > 0 {
            self.marks.get_or_insert_default().insert(id, attempts);
        }
    }

    pub(crate) fn is_marked(&self, number: u16) -> bool {
        let id = id(Kind::Durable, self.index, number.into());
        self.marks.as_ref().is_some_and(|marks| marks.contains_key(&id))
    }

    /// What the outbox is told ends that.
    pub(crate) fn over<A>(&mut self, event: &OutboxEvent<A>) {
        use OutboxEvent::{
            BadVerdict, Busy, NoSubscribers, NotSent, Ran, Refused, Rejected, Sent, Unreadable, Verdict,
        };
        if let Ran { id, .. }
        | Sent(id)
        | NotSent { id, .. }
        | NoSubscribers(id)
        | Rejected(id)
        | Unreadable(id)
        | Verdict { id, .. }
        | BadVerdict(id)
        | Busy { id, .. }
        | Refused { id, .. } = event
        {
            let Some(marks) = &mut self.marks else { return };
            // What was held against it before this attempt stands.
            match marks.get_mut(id) {
                Some(attempts) if *attempts > 1 => *attempts -= 1,
                _ => drop(marks.remove(id)),
            }
        }
    }

    pub(crate) fn now(&self, shared: &Shared) -> Duration {
        self.clock.local(shared.now)
    }

    /// Whether local answers may be certified, by what the world knows.
    pub(crate) fn is_certified(&self, shared: &Shared) -> bool {
        self.contract && !self.revoked && router::in_force(self.clock.wall(shared.now))
    }

    /// Has an event come after some time.
    pub(crate) fn after(&self, wait: Duration, event: DeviceEvent, shared: &mut Shared) {
        shared.queue.push(shared.now + wait, Event::Device { device: self.index, run: self.run, event });
    }

    /// Has an event come when the monotonic clock says `local`, or somewhat later, as timers do.
    pub(crate) fn at(&mut self, local: Duration, event: DeviceEvent, shared: &mut Shared) {
        let mut at = self.clock.world(local).max(shared.now);
        if self.dice.chance(shared.weather.late_timers) {
            shared.count(Happening::LateTimers);
            at += self.dice.millis(1..1000);
        }
        shared.queue.push(at, Event::Device { device: self.index, run: self.run, event });
    }
}

/// One boot in three comes up in 1970.
fn boot(dice: &mut Dice, began: Duration, earlier: u64, shared: &mut Shared) -> Clock {
    let wall = if dice.chance(0.3) {
        shared.count(Happening::ClocksIn1970);
        Duration::ZERO
    } else {
        router::TODAY
    };
    let drift = i32::try_from(dice.below(401)).expect("a few hundred") - 200;
    Clock { boot: BootId(earlier + 1), began, drift, wall }
}
