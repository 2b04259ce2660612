//! What every party of the world reaches for: the time, what is going to happen, the paths, and whoever looks on.

use std::time::Duration;

use hedge_wire::{Digest, ModelId, TenantId};

use crate::clock::BEGINNING;
use crate::counts::{Counts, Happening};
use crate::judge::{Judge, Rule};
use crate::net::Net;
use crate::plant::Plant;
use crate::queue::Queue;
use crate::weather::Weather;
use crate::world::Setup;

/// The model that every gateway runs.
pub(crate) const CLOUD: Digest = Digest([0xc1; 32]);
/// The model that every device runs.
pub(crate) const EDGE: Digest = Digest([0xe1; 32]);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) now: Duration,
    pub(crate) queue: Queue,
    pub(crate) net: Net,
    pub(crate) weather: Weather,
    pub(crate) judge: Judge,
    pub(crate) counts: Counts,
    pub(crate) plant: Option<Plant>,
    pub(crate) tenant: TenantId,
    pub(crate) model: ModelId,
    pub(crate) devices: u16,
    /// What happens, in words, where somebody reads it.
    pub(crate) lines: Option<Vec<String>>,
}

impl Shared {
    pub(crate) fn new(seed: u64, setup: &Setup, lines: Option<Vec<String>>) -> Self {
        let weather = Weather::of(seed);
        Self {
            now: BEGINNING,
            queue: Queue::default(),
            net: Net::new(seed, setup.devices + weather.gateways),
            weather,
            judge: Judge::new(Vec::new(), 0),
            counts: Counts::default(),
            plant: setup.plant,
            tenant: TenantId::parse("sim").expect("an id"),
            model: ModelId::from_name("model"),
            devices: setup.devices,
            lines,
        }
    }

    pub(crate) fn count(&mut self, what: Happening) {
        self.counts.add(what, 1);
    }

    pub(crate) fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// A line of the trace.
    pub(crate) fn say(&mut self, who: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let since = self.now.saturating_sub(BEGINNING);
            lines.push(format!("{:11.6} {}", since.as_secs_f64(), who()));
        }
    }

    /// A rule is broken, if `holds` is false.
    pub(crate) fn require(&mut self, holds: bool, rule: Rule, what: impl FnOnce() -> String) {
        if !holds {
            self.judge.violated(rule, self.now, what());
        }
    }
}
