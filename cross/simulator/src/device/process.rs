//! A device's process: the cores, and the shell that carries out what they want.
//!
//! It does what `agent` does, with simulated parts: the outbox over a store with barriers, plain rows, uploads, audits, one link. All of
//! it is gone when the process dies.

use std::collections::BTreeMap;

use hedge_agent_core::outbox::{Mode, Saved, Standing};
use hedge_agent_core::route::Decision;
use hedge_agent_core::{Ask, CloudView, Outbox, OutboxEvent, RouteEvent, Router, Ticket};
use hedge_certify::{Features, Fingerprint};
use hedge_wire::{BootId, RequestId};

use super::caller::{Told, Waiter, Who};
use super::cloud::Published;
use super::host::Host;
use super::plain::PlainRow;
use super::router;
use super::upload::Sending;
use super::writer::Writer;
use crate::id::{Kind, id, number};
use crate::net::link::{CleanStart, Link};
use crate::payload::{Given, Payload, RunId};
use crate::plant::Plant;
use crate::queue::DeviceEvent;
use crate::shared::{CLOUD, Shared};

#[derive(Debug)]
pub(crate) struct Process {
    pub(super) outbox: Outbox<Given>,
    pub(super) writer: Writer,
    /// Requests and unfetched results that were found in the store: a power cut may forget that one was fetched.
    pub(super) found: usize,
    /// How many times the outbox said when it wants to be woken: only the last one counts.
    pub(super) wakes: u32,
    pub(super) executing: BTreeMap<RequestId, (Mode, Payload)>,
    pub(super) waiters: BTreeMap<RequestId, Vec<Waiter>>,
    /// Who hands a request in at this moment, and what.
    pub(super) hearing: Option<Waiter>,
    pub(super) inserted: Option<Payload>,

    pub(super) link: Link,
    pub(super) view: CloudView,
    /// What the outbox was told of the cloud.
    pub(super) cloud_is_up: bool,
    pub(super) publishes: BTreeMap<u32, Published>,
    pub(super) uploads: BTreeMap<RequestId, Sending>,

    pub(super) router: Router,
    pub(super) rows: BTreeMap<u16, PlainRow>,
    pub(super) cached_verdicts: BTreeMap<Payload, RunId>,
    pub(super) cached_results: BTreeMap<Payload, RunId>,
    pub(super) audits: BTreeMap<RequestId, (Ticket, Features)>,
    pub(super) audits_asked: u32,
}

impl Process {
    /// A process begins on what it finds in the store.
    pub(crate) fn begin(host: &mut Host, shared: &mut Shared) -> Self {
        let seed = host.dice.bits();
        let mut saved = host.store.saved();
        if shared.has(Plant::OldBootsDeadline) {
            super::planted::take_for_this_boot(&mut saved, host.clock.boot);
        }
        for item in &saved {
            if let Saved::Damaged(head) = item {
                shared.judge.record_mut(host.index, number(&head.id)).rotten = true;
            }
        }
        let now = host.now(shared);
        let settings = shared.weather.outbox.clone();
        let under_way = host.take_marks(&saved);
        let (outbox, actions) = Outbox::restore(settings, host.clock.boot, seed, saved, under_way.as_ref(), now);
        let (queue, found) = (shared.weather.link_queue, outbox.waiting() + outbox.results().0);
        let mut process = Self {
            outbox,
            writer: Writer::default(),
            found,
            wakes: 0,
            executing: BTreeMap::new(),
            waiters: BTreeMap::new(),
            hearing: None,
            inserted: None,
            link: Link::new(host.client, host.run, CleanStart::FirstConnect, None, queue),
            view: CloudView::new(true),
            cloud_is_up: false,
            publishes: BTreeMap::new(),
            uploads: BTreeMap::new(),
            router: router::router(host.contract),
            rows: BTreeMap::new(),
            cached_verdicts: BTreeMap::new(),
            cached_results: BTreeMap::new(),
            audits: BTreeMap::new(),
            audits_asked: u32::from(u16::try_from(host.run).unwrap_or(u16::MAX)) << 16,
        };
        process.carry_out(actions, host, shared);
        process.introduce(host, shared);
        if host.revoked {
            process.revoke(host, shared);
        }
        process.link.start(shared);
        process
    }

    /// The judge hears what the process knows of every request.
    fn introduce(&self, host: &mut Host, shared: &mut Shared) {
        for number in 0..u16::try_from(host.calls.len()).expect("a handful of requests") {
            let id = id(Kind::Durable, host.index, number.into());
            let result = host.store.result(&id);
            let standing = self.outbox.standing(&id);
            shared.judge.restored((host.index, number), standing, result.as_ref(), shared.now);
            if let (Some(ending), true) = (result, shared.has(Plant::DeliverAgain)) {
                shared.judge.delivered(host.index, number, &ending, shared.now);
            }
        }
    }

    /// The process dies; those who wait for it see their connections break.
    pub(crate) fn end(mut self, powered: bool, host: &mut Host, shared: &mut Shared) {
        self.link.end(powered, shared);
        for waiter in std::mem::take(&mut self.waiters).into_values().flatten() {
            host.tell(waiter, &Told::Nothing, shared);
        }
        for row in std::mem::take(&mut self.rows).into_values() {
            row.cut_off(host, shared);
        }
    }

    pub(crate) fn on_event(&mut self, event: DeviceEvent, host: &mut Host, shared: &mut Shared) {
        match event {
            DeviceEvent::Opened | DeviceEvent::Stopped => {}
            DeviceEvent::Settle { connection } => {
                if self.link.connection() == Some(connection) && self.link.is_up() {
                    self.view.settle();
                    self.view_changed(host, shared);
                }
            }
            DeviceEvent::Commit => self.commit(host, shared),
            DeviceEvent::Synced => self.synced(host, shared),
            DeviceEvent::Wake { asked } => self.woken(asked, host, shared),
            DeviceEvent::Executed { id } => self.executed(id, host, shared),
            DeviceEvent::RowRan { row } => self.row_ran(row, host, shared),
            DeviceEvent::RowWake { row, asked } => self.row_woken(row, asked, host, shared),
            DeviceEvent::Upload { id } => self.upload_goes_on(id, host, shared),
            DeviceEvent::AuditOver { id } => self.audit_lost(id, host, shared),
        }
    }

    pub(crate) fn standing(&self, number: u16, host: &Host) -> Standing {
        self.outbox.standing(&id(Kind::Durable, host.index, number.into()))
    }

    /// The owner hangs up.
    pub(crate) fn stop_waiting(&mut self, number: u16, host: &Host) -> Option<Waiter> {
        let waiters = self.waiters.get_mut(&id(Kind::Durable, host.index, number.into()))?;
        let position = waiters.iter().position(|waiter| waiter.who == Who::Owner)?;
        Some(waiters.remove(position))
    }

    /// What the router says of an input, whose local result is there.
    pub(super) fn decide(&mut self, ask: &Ask, payload: Payload, host: &Host, shared: &Shared) -> Decision {
        let wall = host.clock.wall(shared.now);
        self.router.decide(ask, payload.bytes() as u64, wall)
    }

    pub(super) fn tell_router(&mut self, event: RouteEvent, host: &Host, shared: &Shared) {
        self.router.on(event, host.clock.wall(shared.now));
    }

    /// The cloud runs the model that it always ran.
    pub(super) fn tell_digest(&mut self, host: &Host, shared: &Shared) {
        if let Some(digest) = self.view.current_digest(&shared.model) {
            debug_assert_eq!(digest, CLOUD);
            self.tell_router(RouteEvent::CloudDigest(Fingerprint(digest.0)), host, shared);
        }
    }

    pub(crate) fn revoke(&mut self, host: &Host, shared: &Shared) {
        self.tell_router(router::revocation(), host, shared);
    }

    /// Whether nothing is under way or waits.
    pub(crate) fn is_at_rest(&self) -> bool {
        let durable = self.outbox.waiting() + self.outbox.running() + self.outbox.in_flight() + self.executing.len();
        let rest = self.rows.len() + self.uploads.len() + self.audits.len() + self.link.unacknowledged();
        durable + rest == 0 && self.outbox.bytes() == 0 && self.writer.is_idle() && self.link.is_up()
    }

    /// Ends in order: begins nothing any more.
    pub(crate) fn stop(&mut self, host: &mut Host, shared: &mut Shared) {
        self.feed(OutboxEvent::Stop, host, shared);
    }

    pub(crate) fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// What a process calls its run on the wire.
pub(super) fn run_id(host: &Host) -> BootId {
    BootId(u64::from(host.index) << 32 | u64::from(host.run))
}
