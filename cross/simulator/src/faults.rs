//! Faults: drawn beforehand from the weather, carried out when their time comes, and over when the world is healed.

use std::time::Duration;

use crate::clock::BEGINNING;
use crate::counts::Happening;
use crate::device::Death;
use crate::dice::{Dice, Stream};
use crate::gateway::Stop;
use crate::net::packet::{Client, End};
use crate::queue::Event;
use crate::shared::Shared;
use crate::world::World;

/// One change for the worse, or back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Cut(Client),
    Mend(Client),
    /// An end hears nothing any more: one of them, or with a second fault both.
    Deafen(Client, End),
    Undeafen(Client, End),
    /// What a KiB takes from now on.
    Slow(Client, Option<Duration>),
    Kill(u16, Death),
    Stop(u16),
    FillDisk(u16),
    FreeDisk(u16),
    Revoke(u16),
    StopBroker,
    StartBroker,
    StopGateway(u16, Stop),
}

/// Draws when things begin and end.
struct Planner<'a> {
    dice: Dice,
    shared: &'a mut Shared,
}

/// Puts all faults of a world into its queue.
pub(crate) fn plan(seed: u64, shared: &mut Shared) {
    let faults = shared.weather.faults;
    let (devices, gateways) = (shared.devices, shared.weather.gateways);
    for client in 0..devices + gateways {
        let mut planner = Planner { dice: Dice::new(!seed, Stream::Path(client)), shared };
        planner.path(Client(client), &faults);
    }
    for device in 0..devices {
        let mut planner = Planner { dice: Dice::new(!seed, Stream::Device(device)), shared };
        planner.device(device, &faults);
    }
    for gateway in 0..gateways {
        let mut planner = Planner { dice: Dice::new(!seed, Stream::Gateway(gateway)), shared };
        planner.gateway(gateway, &faults);
    }
    let mut planner = Planner { dice: Dice::new(!seed, Stream::Broker), shared };
    for at in planner.times(faults.broker_restarts) {
        let back = planner.dice.millis(100..10_000);
        planner.during(at, back, Fault::StopBroker, Fault::StartBroker);
    }
    shared.queue.push(BEGINNING + shared.weather.span, Event::Heal);
}

impl Planner<'_> {
    fn path(&mut self, client: Client, faults: &super::weather::Faults) {
        for at in self.times(faults.cuts) {
            let lasts = self.lasts();
            self.during(at, lasts, Fault::Cut(client), Fault::Mend(client));
        }
        for at in self.times(faults.holes) {
            let lasts = self.lasts();
            for end in [End::Client, End::Broker] {
                self.during(at, lasts, Fault::Deafen(client, end), Fault::Undeafen(client, end));
            }
        }
        for at in self.times(faults.one_way) {
            let (lasts, end) = (self.lasts(), self.dice.pick(&[End::Client, End::Broker]));
            self.during(at, lasts, Fault::Deafen(client, end), Fault::Undeafen(client, end));
        }
        for at in self.times(faults.slow) {
            let (lasts, kib) = (self.lasts(), self.dice.millis(50..2000));
            self.during(at, lasts, Fault::Slow(client, Some(kib)), Fault::Slow(client, None));
        }
    }

    fn device(&mut self, device: u16, faults: &super::weather::Faults) {
        for at in self.times(faults.kills) {
            self.push(at, Fault::Kill(device, Death::Killed { by: None }));
        }
        for at in self.times(faults.stops) {
            self.push(at, Fault::Stop(device));
        }
        for at in self.times(faults.power_cuts) {
            self.push(at, Fault::Kill(device, Death::Power));
        }
        for at in self.times(faults.full_disks) {
            let lasts = self.lasts();
            self.during(at, lasts, Fault::FillDisk(device), Fault::FreeDisk(device));
        }
        for at in self.times(faults.revocations) {
            self.push(at, Fault::Revoke(device));
        }
    }

    fn gateway(&mut self, gateway: u16, faults: &super::weather::Faults) {
        let ways = [
            (faults.gateway_kills, Stop::Kill),
            (faults.gateway_power_cuts, Stop::Power),
            (faults.gateway_drains, Stop::Drain),
        ];
        for (rate, how) in ways {
            for at in self.times(rate) {
                self.push(at, Fault::StopGateway(gateway, how));
            }
        }
    }

    /// Moments within the span, about `rate` of them.
    fn times(&mut self, rate: f64) -> Vec<Duration> {
        let (whole, rest) = (rate.floor() as usize, rate.fract());
        let count = self.dice.below(2 * whole + 1) + usize::from(self.dice.chance(rest));
        (0..count).map(|_| BEGINNING + self.shared.weather.span.mul_f64(self.dice.fraction())).collect()
    }

    /// Most faults are short; some last.
    fn lasts(&mut self) -> Duration {
        if self.dice.chance(0.3) { self.dice.millis(5000..40_000) } else { self.dice.millis(200..6000) }
    }

    fn push(&mut self, at: Duration, fault: Fault) {
        self.shared.queue.push(at, Event::Fault(fault));
    }

    fn during(&mut self, at: Duration, lasts: Duration, begin: Fault, end: Fault) {
        self.push(at, begin);
        self.push(at + lasts, end);
    }
}

impl World {
    pub(crate) fn on_fault(&mut self, fault: Fault) {
        if self.is_healed {
            return;
        }
        self.shared.say(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Cut(client) => {
                self.shared.count(Happening::Cuts);
                self.shared.cut(client);
            }
            Fault::Mend(client) => self.shared.net.path(client).is_cut = false,
            Fault::Deafen(client, end) => {
                let both = self.shared.net.path(client).is_deaf(end.other());
                self.shared.count(if both { Happening::Holes } else { Happening::OneWay });
                self.shared.deafen(client, end);
            }
            Fault::Undeafen(client, end) => self.undeafen(client, end),
            Fault::Slow(client, kib) => {
                self.shared.counts.add(Happening::Slow, usize::from(kib.is_some()));
                self.shared.net.path(client).slow = kib;
            }
            Fault::Kill(device, death) => self.devices[usize::from(device)].kill(death, &mut self.shared),
            Fault::Stop(device) => self.devices[usize::from(device)].stop(&mut self.shared),
            Fault::FillDisk(device) => self.devices[usize::from(device)].host.disk_is_full = true,
            Fault::FreeDisk(device) => self.free_disk(device),
            Fault::Revoke(device) => self.revoke(device),
            Fault::StopBroker => self.broker.stop(&mut self.shared),
            Fault::StartBroker => self.shared.net.broker_is_up = true,
            Fault::StopGateway(gateway, how) => self.gateways[usize::from(gateway)].stop(how, &mut self.shared),
        }
    }

    fn undeafen(&mut self, client: Client, end: End) {
        for (connection, packet) in self.shared.undeafen(client, end) {
            self.arrive(connection, end, packet);
        }
    }

    fn free_disk(&mut self, device: u16) {
        let host = &mut self.devices[usize::from(device)].host;
        (host.disk_is_full, host.disturbed) = (false, self.shared.now);
    }

    fn revoke(&mut self, device: u16) {
        let device = &mut self.devices[usize::from(device)];
        self.shared.counts.add(Happening::Revoked, usize::from(device.host.contract));
        device.host.revoked = true;
        if let Some(process) = &mut device.process {
            process.revoke(&device.host, &self.shared);
        }
    }

    /// No fault any more, and none to come; what is down comes up by itself.
    pub(crate) fn heal(&mut self) {
        self.shared.say(|| "healed: no fault from here on".to_owned());
        for client in 0..self.shared.net.paths.len() {
            let client = Client(u16::try_from(client).expect("clients are counted in 16 bits"));
            self.on_fault(Fault::Mend(client));
            self.on_fault(Fault::Slow(client, None));
            [End::Client, End::Broker].into_iter().for_each(|end| self.undeafen(client, end));
        }
        for device in 0..self.shared.devices {
            self.free_disk(device);
        }
        self.on_fault(Fault::StartBroker);
        self.is_healed = true;
        let now = self.shared.now;
        for gateway in 0..self.shared.weather.gateways {
            self.shared.queue.push(now + Duration::from_secs(1), Event::GatewayStart { gateway });
        }
        let weather = &mut self.shared.weather;
        (weather.rejections, weather.rot, weather.slow_syncs, weather.late_timers) = (0.0, 0.0, 0.0, 0.0);
        weather.engine_millis = weather.engine_millis.min(20);
        self.shared.queue.push(now + Duration::from_secs(1), Event::LookForRest);
    }
}
