//! The device's side of a query in parts: what is sent next, to whom, and when it is pointless.
//!
//! ```text
//!   new ── Offer ──> offered ── Granted ──> sending ── every part delivered ──> sent
//!                       ^                      │
//!                       └── gateway gone ──────┘   until the row asks once more
//! ```
//!
//! It serves one row: deadline, `Busy`, refusals and the one retry are the row's ([`crate::Row`]), for which an upload is
//! a publish that takes long. [`Upload::ask`] is that publish.
//!
//! Invariants:
//! - at most [`WINDOW`] parts are with the broker at a time, so that other messages of the device wait for that much at most;
//! - a part is sent to the gateway of the latest grant only, and not while that gateway is known to hold it;
//! - an upload that makes progress is not offered anew: another gateway would begin at its first part.

use std::collections::{BTreeSet, VecDeque};

use hedge_wire::{BodyPlan, GatewayId, Grant};

/// Parts of one upload that wait for the broker's PUBACK at a time: 128 KiB, a second of a slow uplink.
const WINDOW: usize = 2;

/// One query in parts.
#[derive(Debug)]
pub struct Upload {
    plan: BodyPlan,
    state: State,
    /// Whether a grant or a delivered part came since the row last asked.
    progress: bool,
}

#[derive(Debug)]
enum State {
    /// No gateway takes parts: not offered yet, not granted yet, or the one that did is gone.
    Waiting,
    Sending {
        gateway: GatewayId,
        unsent: VecDeque<u32>,
        in_flight: BTreeSet<u32>,
        /// Still with the broker, for gateways that granted earlier.
        elsewhere: Vec<u32>,
    },
}

/// What happened to an upload.
#[derive(Clone, PartialEq, Debug)]
pub enum UploadEvent {
    /// A gateway grants it, for the first time or again.
    Granted(Grant),
    /// The broker has a part.
    Delivered {
        /// Which.
        part: u32,
    },
    /// A part was not taken for sending: the link's queue is full. It is tried again with the next event.
    NotSent {
        /// Which.
        part: u32,
    },
    /// Nobody takes parts there any more, the broker refused one, the gateway has replied (it holds nothing then), or the link
    /// was lost: nothing more is to be reported of parts under way.
    GatewayGone,
    /// Time passes.
    Tick,
}

/// What the caller has to do.
#[derive(Clone, PartialEq, Debug)]
pub enum UploadAction {
    /// Publish the offer on the query's topic.
    Offer,
    /// Publish a part to the gateway; report [`UploadEvent::Delivered`] or another event about it.
    Send {
        /// To whom.
        gateway: GatewayId,
        /// Which part.
        part: u32,
    },
}

impl Upload {
    /// An upload of a body that is cut so.
    #[must_use]
    pub fn new(plan: BodyPlan) -> Self {
        Self { plan, state: State::Waiting, progress: false }
    }

    /// How the body is cut.
    #[must_use]
    pub fn plan(&self) -> &BodyPlan {
        &self.plan
    }

    /// The row asks, for the first time or once more: offers the body, unless it is on its way.
    pub fn ask(&mut self) -> Vec<UploadAction> {
        let under_way = std::mem::take(&mut self.progress) && matches!(self.state, State::Sending { .. });
        if under_way { self.fill() } else { vec![UploadAction::Offer] }
    }

    /// Takes in an event and says what to do.
    pub fn on(&mut self, event: UploadEvent) -> Vec<UploadAction> {
        match event {
            UploadEvent::Granted(grant) => self.granted(grant),
            UploadEvent::Delivered { part } => {
                if let State::Sending { in_flight, elsewhere, .. } = &mut self.state {
                    // The broker takes messages in their order: the earlier one of two is meant.
                    match elsewhere.iter().position(|&earlier| earlier == part) {
                        Some(position) => _ = elsewhere.remove(position),
                        None => self.progress |= in_flight.remove(&part),
                    }
                }
                self.fill()
            }
            UploadEvent::NotSent { part } => {
                if let State::Sending { unsent, in_flight, .. } = &mut self.state
                    && in_flight.remove(&part)
                {
                    unsent.push_front(part);
                }
                Vec::new()
            }
            UploadEvent::GatewayGone => {
                self.state = State::Waiting;
                Vec::new()
            }
            UploadEvent::Tick => self.fill(),
        }
    }

    /// Whether every part is with the broker: now the verdict is waited for.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        matches!(&self.state, State::Sending { unsent, in_flight, .. } if unsent.is_empty() && in_flight.is_empty())
    }

    /// Sends what the gateway does not hold. Parts under way to it are not sent again: they still arrive, or it grants again.
    fn granted(&mut self, grant: Grant) -> Vec<UploadAction> {
        let (in_flight, elsewhere) = match std::mem::replace(&mut self.state, State::Waiting) {
            State::Sending { gateway, in_flight, elsewhere, .. } if gateway == grant.gateway => (in_flight, elsewhere),
            State::Sending { in_flight, mut elsewhere, .. } => {
                elsewhere.extend(in_flight);
                (BTreeSet::new(), elsewhere)
            }
            State::Waiting => (BTreeSet::new(), Vec::new()),
        };
        let wanted = |part: &u32| !grant.held.contains(*part) && !in_flight.contains(part);
        let unsent = (0..self.plan.parts()).filter(wanted).collect();
        self.state = State::Sending { gateway: grant.gateway, unsent, in_flight, elsewhere };
        self.progress = true;
        self.fill()
    }

    fn fill(&mut self) -> Vec<UploadAction> {
        let State::Sending { gateway, unsent, in_flight, elsewhere } = &mut self.state else { return Vec::new() };
        let mut actions = Vec::new();
        while in_flight.len() + elsewhere.len() < WINDOW
            && let Some(part) = unsent.pop_front()
        {
            in_flight.insert(part);
            actions.push(UploadAction::Send { gateway: gateway.clone(), part });
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use hedge_wire::{PartSet, RequestId};

    use super::*;

    const PART: usize = 4096;

    fn upload(parts: usize) -> Upload {
        Upload::new(BodyPlan::of(&vec![7; parts * PART], PART).unwrap())
    }

    fn grant(gateway: &str, held: &[u32]) -> UploadEvent {
        let mut set = PartSet::default();
        held.iter().for_each(|&part| assert!(set.insert(part)));
        let gateway = GatewayId::parse(gateway).unwrap();
        UploadEvent::Granted(Grant { id: RequestId::from_bytes([1; 16]), gateway, held: set })
    }

    /// The actions in a line: `offer`, or `gw-1:0 gw-1:1`.
    fn told(actions: &[UploadAction]) -> String {
        let told = actions.iter().map(|action| match action {
            UploadAction::Offer => "offer".to_owned(),
            UploadAction::Send { gateway, part } => format!("{gateway}:{part}"),
        });
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn parts_go_to_the_gateway_that_granted_two_at_a_time() {
        let mut upload = upload(4);
        assert_eq!(told(&upload.ask()), "offer");
        assert_eq!(told(&upload.on(grant("gw-1", &[]))), "gw-1:0 gw-1:1");
        assert_eq!(told(&upload.on(UploadEvent::Tick)), "");
        assert_eq!(told(&upload.on(UploadEvent::Delivered { part: 1 })), "gw-1:2");
        assert_eq!(told(&upload.on(UploadEvent::Delivered { part: 1 })), "", "a second word about it says nothing");
        assert_eq!(told(&upload.on(UploadEvent::Delivered { part: 0 })), "gw-1:3");
        assert!(!upload.is_sent());
        upload.on(UploadEvent::Delivered { part: 2 });
        upload.on(UploadEvent::Delivered { part: 3 });
        assert!(upload.is_sent());
    }

    #[test]
    fn a_retry_while_parts_are_delivered_offers_nothing_anew_and_one_without_progress_does() {
        let mut upload = upload(9);
        upload.ask();
        upload.on(grant("gw-1", &[]));
        upload.on(UploadEvent::Delivered { part: 0 });
        assert_eq!(told(&upload.ask()), "");
        assert_eq!(told(&upload.ask()), "offer", "nothing moved since");
        let mut unheard = Upload::new(*upload.plan());
        unheard.ask();
        assert_eq!(told(&unheard.ask()), "offer");
    }

    #[test]
    fn what_the_gateway_holds_or_is_about_to_get_is_not_sent_again() {
        let mut upload = upload(6);
        upload.ask();
        assert_eq!(told(&upload.on(grant("gw-1", &[0, 2]))), "gw-1:1 gw-1:3");
        // Granted again: parts 1 and 3 are still with the broker.
        assert_eq!(told(&upload.on(grant("gw-1", &[0, 2]))), "");
        upload.on(UploadEvent::Delivered { part: 1 });
        upload.on(UploadEvent::Delivered { part: 3 });
        upload.on(UploadEvent::Delivered { part: 4 });
        upload.on(UploadEvent::Delivered { part: 5 });
        assert!(upload.is_sent());
        // They were lost after all: the gateway says what it lacks.
        assert_eq!(told(&upload.on(grant("gw-1", &[0, 1, 2, 4]))), "gw-1:3 gw-1:5");
    }

    #[test]
    fn when_its_gateway_dies_the_retry_finds_another_one_which_gets_everything() {
        let mut upload = upload(3);
        upload.ask();
        upload.on(grant("gw-1", &[]));
        upload.on(UploadEvent::Delivered { part: 0 });
        assert_eq!(told(&upload.on(UploadEvent::GatewayGone)), "");
        assert_eq!(told(&upload.on(UploadEvent::Delivered { part: 1 })), "", "a late word about the dead one");
        assert_eq!(told(&upload.ask()), "offer");
        assert_eq!(told(&upload.on(grant("gw-2", &[]))), "gw-2:0 gw-2:1");
    }

    /// The simulator found four parts with the broker where the retry's offer was granted by another gateway.
    #[test]
    fn parts_for_an_earlier_gateway_take_up_the_window_until_the_broker_has_them() {
        let mut upload = upload(4);
        upload.ask();
        upload.ask();
        assert_eq!(told(&upload.on(grant("gw-1", &[]))), "gw-1:0 gw-1:1");
        assert_eq!(told(&upload.on(grant("gw-2", &[]))), "");
        assert_eq!(told(&upload.on(UploadEvent::Delivered { part: 0 })), "gw-2:0");
        assert_eq!(told(&upload.on(UploadEvent::Delivered { part: 1 })), "gw-2:1");
        assert_eq!(told(&upload.on(UploadEvent::Delivered { part: 0 })), "gw-2:2");
        assert_eq!(told(&upload.on(UploadEvent::GatewayGone)), "");
        assert_eq!(told(&upload.on(grant("gw-1", &[]))), "gw-1:0 gw-1:1", "of what is void nothing is waited for");
    }

    #[test]
    fn a_part_that_the_link_did_not_take_is_sent_later() {
        let mut upload = upload(3);
        upload.ask();
        upload.on(grant("gw-1", &[]));
        assert_eq!(told(&upload.on(UploadEvent::NotSent { part: 1 })), "", "not at once: the queue is full");
        assert_eq!(told(&upload.on(UploadEvent::Tick)), "gw-1:1");
    }

    /// The two halves of the protocol against each other, with everything that can be lost being lost.
    #[test]
    fn every_part_reaches_the_gateway_whatever_is_lost() {
        for seed in 0..300u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |bound: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % bound
            };
            let (mut upload, mut held, mut steps) = (upload(20), PartSet::default(), 0);
            let mut actions = VecDeque::from(upload.ask());
            while held.len() < 20 {
                steps += 1;
                assert!(steps < 10_000, "seed {seed}: {held:?}");
                let event = match actions.pop_front() {
                    // An offer may be lost: the row asks again, or the gateway that knows of it grants again.
                    Some(UploadAction::Offer) if below(3) == 0 => UploadEvent::Tick,
                    Some(UploadAction::Offer) => regrant(&held),
                    Some(UploadAction::Send { part, .. }) => match below(4) {
                        0 => UploadEvent::NotSent { part },
                        // The broker had it, and lost it on the way to the gateway.
                        1 => UploadEvent::Delivered { part },
                        _ => {
                            held.insert(part);
                            UploadEvent::Delivered { part }
                        }
                    },
                    None if below(2) == 0 => regrant(&held),
                    None => {
                        actions.extend(upload.ask());
                        UploadEvent::Tick
                    }
                };
                actions.extend(upload.on(event));
            }
        }
    }

    fn regrant(held: &PartSet) -> UploadEvent {
        let gateway = GatewayId::parse("gw-1").unwrap();
        UploadEvent::Granted(Grant { id: RequestId::from_bytes([1; 16]), gateway, held: held.clone() })
    }
}
