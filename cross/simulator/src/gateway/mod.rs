//! A gateway: a machine, a process on it while it lives, and nothing that outlives the process.

mod service;

use std::rc::Rc;
use std::time::{Duration, Instant};

use hedge_wire::{BootId, GatewayId, GatewayPresence, Topic};

pub(crate) use self::service::Service;
use crate::clock::{BEGINNING, Clock};
use crate::counts::Happening;
use crate::dice::{Dice, Stream};
use crate::net::link::LinkEvent;
use crate::net::packet::{Client, ConnectionId, Message, Packet, Route};
use crate::queue::{Event, GatewayEvent};
use crate::shared::{CLOUD, Shared};

/// How a gateway ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Kill,
    Power,
    Drain,
}

#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) machine: Machine,
    pub(crate) service: Option<Service>,
}

/// What outlives a gateway's process.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) index: u16,
    pub(crate) client: Client,
    pub(crate) id: GatewayId,
    pub(crate) dice: Dice,
    /// Counts processes.
    pub(crate) run: u32,
    clock: Clock,
    /// What the core's clock is counted from; only differences matter.
    zero: Instant,
}

impl Machine {
    pub(crate) fn now(&self, shared: &Shared) -> Instant {
        self.zero + self.clock.local(shared.now)
    }

    /// A name for the process of this run, as no other has it.
    pub(crate) fn process(&self) -> u32 {
        u32::from(self.index) << 16 | self.run
    }

    pub(crate) fn after(&self, wait: Duration, event: GatewayEvent, shared: &mut Shared) {
        shared.queue.push(shared.now + wait, Event::Gateway { gateway: self.index, run: self.run, event });
    }

    /// The presence of this run.
    pub(crate) fn presence(&self, online: bool, shared: &Shared) -> Rc<Message> {
        let boot = BootId(u64::from(self.process()));
        let models = vec![(shared.model.clone(), CLOUD)];
        let body = GatewayPresence { gateway: self.id.clone(), boot, online, models }.encode().into();
        let topic = Topic::GatewayPresence { gateway: self.id.clone() }.path(&shared.tenant).into();
        Rc::new(Message { route: Route::Presence(self.index), topic, body, expiry: None })
    }
}

impl Gateway {
    pub(crate) fn new(index: u16, seed: u64, shared: &mut Shared) -> Self {
        let mut dice = Dice::new(seed, Stream::Gateway(index));
        let drift = i32::try_from(dice.below(401)).expect("a few hundred") - 200;
        let clock =
            Clock { boot: BootId(1), began: BEGINNING - dice.millis(0..9_000_000), drift, wall: Duration::ZERO };
        let come = shared.weather.gateways_come + dice.millis(0..1000);
        shared.queue.push(shared.now + come, Event::GatewayStart { gateway: index });
        let machine = Machine {
            index,
            client: Client(shared.devices + index),
            id: GatewayId::parse(&format!("gw-{index}")).expect("letters and digits"),
            dice,
            run: 0,
            clock,
            zero: Instant::now(),
        };
        Self { machine, service: None }
    }

    pub(crate) fn start(&mut self, shared: &mut Shared) {
        if self.service.is_none() {
            self.machine.run += 1;
            let index = self.machine.index;
            shared.say(|| format!("gw-{index} begins"));
            self.service = Some(Service::begin(&self.machine, shared));
        }
    }

    pub(crate) fn on_event(&mut self, run: u32, event: GatewayEvent, shared: &mut Shared) {
        let Self { machine, service: Some(service) } = self else { return };
        if run == machine.run {
            service.on_event(event, machine, shared);
            self.leave_when_drained(shared);
        }
    }

    pub(crate) fn on_packet(&mut self, connection: ConnectionId, packet: Packet, shared: &mut Shared) {
        let Self { machine, service: Some(service) } = self else { return };
        if service.link.connection() != Some(connection) {
            return;
        }
        if let Some(event) = service.link.on_packet(packet, shared) {
            service.on_link(event, machine, shared);
        }
        self.leave_when_drained(shared);
    }

    pub(crate) fn on_alarm(&mut self, owner: u32, turn: u32, shared: &mut Shared) {
        let Self { machine, service: Some(service) } = self else { return };
        if owner == machine.run
            && let Some(event) = service.link.on_alarm(turn, shared)
        {
            service.on_link(event, machine, shared);
        }
    }

    pub(crate) fn on_lost(&mut self, connection: ConnectionId, shared: &mut Shared) {
        let Self { machine, service: Some(service) } = self else { return };
        if service.link.connection() == Some(connection)
            && let Some(event @ LinkEvent::Down) = service.link.lost(shared)
        {
            service.on_link(event, machine, shared);
        }
    }

    pub(crate) fn stop(&mut self, how: Stop, shared: &mut Shared) {
        let Self { machine, service: Some(service) } = self else { return };
        let index = machine.index;
        shared.say(|| format!("gw-{index} stops: {how:?}"));
        match how {
            Stop::Kill => shared.count(Happening::GatewayKills),
            Stop::Power => shared.count(Happening::GatewayPowerCuts),
            Stop::Drain => {
                service.drain(machine, shared);
                return self.leave_when_drained(shared);
            }
        }
        service.link.end(how != Stop::Power, shared);
        self.gone(shared);
    }

    /// A draining gateway that has answered everything says farewell.
    fn leave_when_drained(&mut self, shared: &mut Shared) {
        let Self { machine, service: Some(service) } = self else { return };
        if service.is_drained() {
            shared.count(Happening::GatewayDrains);
            service.leave(machine, shared);
            self.gone(shared);
        }
    }

    fn gone(&mut self, shared: &mut Shared) {
        self.service = None;
        let back = self.machine.dice.millis(500..20_000);
        shared.queue.push(shared.now + back, Event::GatewayStart { gateway: self.machine.index });
    }

    /// Whether nothing is under way or waits.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.service.as_ref().is_some_and(Service::is_at_rest)
    }
}
