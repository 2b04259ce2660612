//! A device: a machine with a clock and a disk, a process on it while it lives, and the programs that ask it.

mod caller;
mod cloud;
mod durable;
mod host;
mod plain;
mod planted;
mod process;
mod router;
mod upload;
mod writer;

use std::time::Duration;

use hedge_agent_core::outbox::Standing;

pub(crate) use self::host::{Death, Host};
pub(crate) use self::process::Process;
use crate::counts::Happening;
use crate::faults::Fault;
use crate::id::{Kind, id};
use crate::net::link::LinkEvent;
use crate::net::packet::{ConnectionId, Packet};
use crate::plant::Plant;
use crate::queue::{DeviceEvent, Event};
use crate::shared::Shared;

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) host: Host,
    pub(crate) process: Option<Process>,
}

impl Device {
    pub(crate) fn new(index: u16, seed: u64, shared: &mut Shared) -> Self {
        let mut host = Host::new(index, seed, shared);
        let wait = host.dice.millis(0..3000);
        shared.queue.push(shared.now + wait, Event::DeviceStart { device: index });
        Self { host, process: None }
    }

    /// A process is started, if the machine has power and none runs: it opens its store first.
    pub(crate) fn start(&mut self, shared: &mut Shared) {
        let Self { host, process } = self;
        if process.is_some() {
            return;
        }
        if !host.is_powered {
            host.boot(shared);
            let off = shared.now - host.off_since;
            shared.judge.powered(host.index, off);
        }
        host.run += 1;
        let takes = host.dice.millis(20..300);
        host.after(takes, DeviceEvent::Opened, shared);
    }

    pub(crate) fn on_event(&mut self, run: u32, event: DeviceEvent, shared: &mut Shared) {
        let Self { host, process } = self;
        if run != host.run || !host.is_powered {
            return;
        }
        match (process, event) {
            (None, DeviceEvent::Opened) => self.open(shared),
            (Some(_), DeviceEvent::Stopped) => self.stopped(shared),
            (Some(process), event) => {
                process.on_event(event, host, shared);
                self.bury(shared);
            }
            (None, _) => {}
        }
    }

    /// What an earlier process wrote is safe before it is told to anybody: the barrier comes first.
    fn open(&mut self, shared: &mut Shared) {
        if !shared.has(Plant::NoBarrierAtOpen) {
            self.host.store.sync();
        }
        let index = self.host.index;
        shared.say(|| format!("d{index} process begins"));
        self.host.disturbed = shared.now;
        self.process = Some(Process::begin(&mut self.host, shared));
        if self.host.dice.chance(5.0 * shared.weather.sudden) {
            let wait = self.host.dice.millis(0..1500);
            shared.queue.push(shared.now + wait, Event::Fault(Fault::Kill(index, Death::Power)));
        }
        self.bury(shared);
    }

    pub(crate) fn on_packet(&mut self, connection: ConnectionId, packet: Packet, shared: &mut Shared) {
        let Self { host, process: Some(process) } = self else { return };
        if process.link_mut().connection() != Some(connection) {
            return;
        }
        if let Some(event) = process.link_mut().on_packet(packet, shared) {
            process.on_link(event, host, shared);
        }
        self.bury(shared);
    }

    pub(crate) fn on_alarm(&mut self, owner: u32, turn: u32, shared: &mut Shared) {
        let Self { host, process: Some(process) } = self else { return };
        if owner != host.run {
            return;
        }
        if let Some(event) = process.link_mut().on_alarm(turn, shared) {
            process.on_link(event, host, shared);
        }
        self.bury(shared);
    }

    /// The connection is over, as far as this end can tell.
    pub(crate) fn on_lost(&mut self, connection: ConnectionId, shared: &mut Shared) {
        let Self { host, process: Some(process) } = self else { return };
        if process.link_mut().connection() != Some(connection) {
            return;
        }
        if let Some(LinkEvent::Down) = process.link_mut().lost(shared) {
            process.on_link(LinkEvent::Down, host, shared);
        }
        self.bury(shared);
    }

    pub(crate) fn ask_plainly(&mut self, number: u16, shared: &mut Shared) {
        let Self { host, process } = self;
        let question = host.questions[usize::from(number)];
        match process {
            Some(process) => process.begin_row(number, question, host, shared),
            // Nobody listens.
            None => shared.judge.row_ended(host.index, number, shared.now),
        }
        self.bury(shared);
    }

    pub(crate) fn call(&mut self, number: u16, step: crate::queue::Step, shared: &mut Shared) {
        self.on_call(number, step, shared);
        self.bury(shared);
    }

    /// The process is asked to end, and does so after a while.
    pub(crate) fn stop(&mut self, shared: &mut Shared) {
        let Self { host, process: Some(process) } = self else { return };
        let index = host.index;
        shared.say(|| format!("d{index} stops in order"));
        shared.judge.process_stops(index);
        process.stop(host, shared);
        let takes = host.dice.millis(0..1500);
        host.after(takes, DeviceEvent::Stopped, shared);
        self.bury(shared);
    }

    fn stopped(&mut self, shared: &mut Shared) {
        let Self { host, process } = self;
        host.run += 1;
        if let Some(mut process) = process.take() {
            shared.count(Happening::DeviceStops);
            if !process.flush(host) {
                // What could not be taken back stands: to the requests this was as good as a death.
                shared.judge.process_died(host.index, None, |number| host.is_marked(number), shared.now);
            }
            process.end(true, host, shared);
        }
        let back = host.dice.millis(200..5000);
        shared.queue.push(shared.now + back, Event::DeviceStart { device: host.index });
    }

    /// Kills the process, with or without the machine. It comes back by itself.
    pub(crate) fn kill(&mut self, death: Death, shared: &mut Shared) {
        self.host.dying = Some(death);
        self.bury(shared);
    }

    /// If something has killed the process, it is dead now.
    fn bury(&mut self, shared: &mut Shared) {
        let Self { host, process } = self;
        let Some(death) = host.dying.take() else { return };
        let index = host.index;
        shared.say(|| format!("d{index} dies: {death:?}"));
        let powered = death != Death::Power;
        let by = if let Death::Killed { by } = death { by } else { None };
        // Whatever the process had asked for is void.
        host.run += 1;
        if let Some(process) = process.take() {
            // Who was under way when the power went, nobody can tell.
            let suspects = |number| !powered || host.is_marked(number);
            shared.judge.process_died(index, by, suspects, shared.now);
            process.end(powered, host, shared);
        } else if !powered {
            shared.judge.marks_lost(index);
        }
        host.dying = None;
        let back = match death {
            Death::Killed { by: Some(_) } => {
                shared.count(Happening::PoisonDeaths);
                host.dice.millis(200..2000)
            }
            Death::Killed { by: None } => {
                shared.count(Happening::DeviceKills);
                host.dice.millis(200..5000)
            }
            Death::Power => host.lose_power(shared),
        };
        shared.queue.push(shared.now + back, Event::DeviceStart { device: index });
    }

    /// What the device still waits for or works on.
    pub(crate) fn restlessness(&self, shared: &Shared) -> Option<String> {
        let Self { host, process } = self;
        let unasked = shared.judge.ends_of(host.index)[..host.questions.len()].contains(&0);
        let rests = process.as_ref().is_some_and(Process::is_at_rest);
        (!rests || unasked || !host.callers_are_done())
            .then(|| format!("d{} is not at rest: {:?} {:?}", host.index, host.calls, process))
    }

    /// Power fails once more, after everything: what was accepted is still answered.
    pub(crate) fn last_power_cut(&mut self, shared: &mut Shared) {
        let host = &mut self.host;
        host.store.cut_power(&mut host.dice);
        for (number, record) in shared.judge.records_of(host.index).to_vec().iter().enumerate() {
            let number = u16::try_from(number).expect("a handful of requests");
            let result = host.store.result(&id(Kind::Durable, host.index, number.into()));
            let kept = !record.is_owed() || result.is_some() && (record.ending.is_none() || record.ending == result);
            let what =
                || format!("d{} #{number} ended in {:?}, and the store has {result:?}", host.index, record.ending);
            shared.require(kept, crate::judge::Rule::NothingLost, what);
        }
    }

    /// Has a request been given up by when it had to be? Deaths, full disks and queues delay that, so there is some slack.
    pub(crate) fn check_life(&mut self, number: u16, shared: &mut Shared) {
        const SLACK: Duration = Duration::from_secs(20);
        let (index, record) = (self.host.index, shared.judge.record(self.host.index, number).clone());
        if !record.is_waiting() {
            return;
        }
        let waited = shared.now - record.asked - record.off;
        let bound = record.life * (record.reboots + 1) + SLACK;
        let undisturbed = !self.host.disk_is_full && shared.now - self.host.disturbed > SLACK;
        let waits = |process: &Process| process.standing(number, &self.host) == Standing::Waiting;
        let overdue = self.process.as_ref().is_some_and(waits) && undisturbed && waited > bound;
        let what = || format!("d{index} #{number} has waited {waited:?}, its life is {:?}", record.life);
        shared.require(!overdue, crate::judge::Rule::Life, what);
        let again = bound.saturating_sub(waited).max(Duration::from_secs(5)) + Duration::from_millis(1);
        shared.queue.push(shared.now + again, Event::LifeCheck { device: index, number });
    }
}

impl Host {
    /// Returns when power comes back.
    fn lose_power(&mut self, shared: &mut Shared) -> Duration {
        shared.count(Happening::PowerCuts);
        let lost = self.store.cut_power(&mut self.dice);
        shared.counts.add(Happening::WritesLost, lost);
        self.marks = None;
        if self.is_powered {
            self.off_since = shared.now;
        }
        self.is_powered = false;
        self.dice.millis(500..15_000)
    }
}
