//! One history from its seed to its rest, or to the first broken rule.

use std::time::Duration;

use crate::clock::BEGINNING;
use crate::counts::Counts;
use crate::device::Device;
use crate::faults;
use crate::gateway::Gateway;
use crate::judge::{Judge, Rule, Violation};
use crate::net::broker::Broker;
use crate::net::packet::{Client, ConnectionId, End, Packet};
use crate::payload::scrambled;
use crate::plant::Plant;
use crate::queue::Event;
use crate::shared::Shared;

/// Steps without time passing after which somebody loops.
const MOST_STEPS_AT_ONCE: u32 = 20_000;
/// Steps of a whole history after which somebody loops.
const MOST_STEPS: u64 = 3_000_000;
/// After the faults everything accepted is answered, and all is idle, within this time.
const REST_WITHIN: Duration = Duration::from_secs(180);

/// What is simulated beside the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// How many devices.
    pub devices: u16,
    /// A bug to be found.
    pub plant: Option<Plant>,
    /// Only this device takes part, exactly as it would among the others as far as its own luck goes.
    pub only: Option<u16>,
}

/// What came of a history.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// The history's seed.
    pub seed: u64,
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// What happened.
    pub counts: Counts,
    /// How many steps there were.
    pub steps: u64,
    /// How much time passed in it.
    pub simulated: Duration,
    /// How long after the last fault everything was at rest.
    pub rested_after: Option<Duration>,
    /// Of all steps: two runs of one seed have the same.
    pub fingerprint: u64,
}

pub(crate) struct World {
    pub(crate) shared: Shared,
    pub(crate) broker: Broker,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) devices: Vec<Device>,
    pub(crate) is_healed: bool,
    healed_at: Duration,
    rested_at: Option<Duration>,
    only: Option<u16>,
}

/// Runs the history of `seed`.
#[must_use]
pub fn simulate(seed: u64, setup: &Setup) -> Outcome {
    World::new(seed, setup, None).run(seed).0
}

/// Runs the history of `seed` and tells it, a line for everything that happens.
#[must_use]
pub fn trace(seed: u64, setup: &Setup) -> (Outcome, Vec<String>) {
    World::new(seed, setup, Some(Vec::new())).run(seed)
}

impl World {
    fn new(seed: u64, setup: &Setup, lines: Option<Vec<String>>) -> Self {
        let mut shared = Shared::new(seed, setup, lines);
        shared.say(|| format!("seed {seed}"));
        let (devices, gateways) = (setup.devices, shared.weather.gateways);
        let broker = Broker::new(seed, devices, gateways);
        let gateways = (0..gateways).map(|gateway| Gateway::new(gateway, seed, &mut shared)).collect();
        let devices: Vec<Device> = (0..devices).map(|device| Device::new(device, seed, &mut shared)).collect();
        let records = devices.iter().map(|device| device.host.records(&shared)).collect();
        shared.judge = Judge::new(records, shared.weather.plain);
        faults::plan(seed, &mut shared);
        Self {
            shared,
            broker,
            gateways,
            devices,
            is_healed: false,
            healed_at: Duration::ZERO,
            rested_at: None,
            only: setup.only,
        }
    }

    fn run(mut self, seed: u64) -> (Outcome, Vec<String>) {
        let (mut steps, mut at_once, mut fingerprint) = (0_u64, 0_u32, seed);
        while let Some((at, event)) = self.shared.queue.pop() {
            steps += 1;
            at_once = if at == self.shared.now { at_once + 1 } else { 0 };
            self.shared.now = at;
            fingerprint = scrambled(fingerprint ^ u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
            let loops = at_once > MOST_STEPS_AT_ONCE || steps > MOST_STEPS;
            self.shared.require(!loops, Rule::NoBusyLoop, || format!("step {steps}: {event:?}"));
            if !self.is_left_out(&event) {
                self.step(event);
            }
            if self.shared.judge.violation().is_some() || self.rested_at.is_some() {
                break;
            }
        }
        let healed_at = self.healed_at;
        let outcome = Outcome {
            seed,
            violation: self.shared.judge.violation().cloned(),
            counts: self.shared.counts,
            steps,
            simulated: self.shared.now - BEGINNING,
            rested_after: self.rested_at.map(|at| at - healed_at),
            fingerprint,
        };
        (outcome, self.shared.lines.unwrap_or_default())
    }

    /// Whether the event begins something on a device that takes no part.
    fn is_left_out(&self, event: &Event) -> bool {
        let whose = match event {
            Event::DeviceStart { device } | Event::Call { device, .. } | Event::Plain { device, .. } => Some(*device),
            _ => None,
        };
        whose.is_some_and(|device| self.only.is_some_and(|only| only != device))
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive { connection, to, packet } => {
                if let Some(packet) = self.shared.hears(connection, to, packet) {
                    self.arrive(connection, to, packet);
                }
            }
            Event::Reset { connection, to } => self.lost(connection, to),
            Event::Silence { connection, end, hole } => {
                if self.shared.gives_up(connection, end, hole) {
                    self.lost(connection, end);
                }
            }
            Event::Link { client, owner, turn } => match self.gateway_of(client) {
                None => self.devices[usize::from(client.0)].on_alarm(owner, turn, &mut self.shared),
                Some(gateway) => self.gateways[gateway].on_alarm(owner, turn, &mut self.shared),
            },
            Event::SessionEnds { client, absences } => self.broker.on_session_end(client, absences),
            Event::Device { device, run, event } => {
                self.devices[usize::from(device)].on_event(run, event, &mut self.shared);
            }
            Event::Gateway { gateway, run, event } => {
                self.gateways[usize::from(gateway)].on_event(run, event, &mut self.shared);
            }
            Event::Call { device, number, step } => {
                self.devices[usize::from(device)].call(number, step, &mut self.shared);
            }
            Event::Plain { device, number } => {
                self.devices[usize::from(device)].ask_plainly(number, &mut self.shared);
            }
            Event::DeviceStart { device } => self.devices[usize::from(device)].start(&mut self.shared),
            Event::GatewayStart { gateway } => self.gateways[usize::from(gateway)].start(&mut self.shared),
            Event::LifeCheck { device, number } => {
                self.devices[usize::from(device)].check_life(number, &mut self.shared);
            }
            Event::Fault(fault) => self.on_fault(fault),
            Event::Heal => {
                self.healed_at = self.shared.now;
                self.heal();
            }
            Event::LookForRest => self.look_for_rest(),
        }
    }

    /// A packet is heard.
    pub(crate) fn arrive(&mut self, connection: ConnectionId, to: End, packet: Packet) {
        match to {
            End::Broker => self.broker.on_packet(connection, packet, &mut self.shared),
            End::Client => {
                let client = self.shared.net.client(connection);
                match self.gateway_of(client) {
                    None => self.devices[usize::from(client.0)].on_packet(connection, packet, &mut self.shared),
                    Some(gateway) => self.gateways[gateway].on_packet(connection, packet, &mut self.shared),
                }
            }
        }
    }

    /// An end finds that its connection is over.
    fn lost(&mut self, connection: ConnectionId, end: End) {
        let client = self.shared.net.client(connection);
        match (end, self.gateway_of(client)) {
            (End::Broker, _) => self.broker.on_closed(connection, &mut self.shared),
            (End::Client, None) => self.devices[usize::from(client.0)].on_lost(connection, &mut self.shared),
            (End::Client, Some(gateway)) => self.gateways[gateway].on_lost(connection, &mut self.shared),
        }
    }

    fn gateway_of(&self, client: Client) -> Option<usize> {
        client.0.checked_sub(self.shared.devices).map(usize::from)
    }

    fn look_for_rest(&mut self) {
        let restless = self.restless();
        if let Some(who) = restless {
            let in_time = self.shared.now < self.healed_at + REST_WITHIN;
            self.shared.require(in_time, Rule::ComesToRest, || who);
            let again = self.shared.now + Duration::from_secs(1);
            return self.shared.queue.push(again, Event::LookForRest);
        }
        self.rested_at = Some(self.shared.now);
        for device in self.devices.iter_mut().filter(|device| self.only.is_none_or(|only| only == device.host.index)) {
            device.last_power_cut(&mut self.shared);
        }
    }

    /// Who still waits for something or works on something.
    fn restless(&self) -> Option<String> {
        let takes_part = |device: &&Device| self.only.is_none_or(|only| only == device.host.index);
        let device = self.devices.iter().filter(takes_part).find_map(|device| device.restlessness(&self.shared));
        let gateway = || {
            let gateway = self.gateways.iter().find(|gateway| !gateway.is_at_rest())?;
            Some(format!("gw-{} is not at rest: {:?}", gateway.machine.index, gateway.service))
        };
        let broker = || {
            let undelivered = self.broker.undelivered();
            (undelivered > 0 && self.only.is_none()).then(|| format!("the broker holds {undelivered} messages"))
        };
        device.or_else(gateway).or_else(broker)
    }
}
