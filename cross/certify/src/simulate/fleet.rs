//! A run of many devices that are watched as one, as a gateway does with their reports.

use super::drift::{DriftSettings, Fleet, Pending, Run, Scenario};
use super::stream::{Request, SplitMix64};
use crate::{Monitor, PooledMonitor, ScoreWindow};

/// A device and what it has not yet reported.
struct Device {
    monitor: Monitor,
    scores: ScoreWindow,
    labels: Vec<bool>,
    /// Offloaded requests that entered its alarm up to the last report.
    offloaded: u64,
    /// Its requests until the next report.
    until_report: u32,
}

/// One run: requests go to the devices in turn; the run ends with the pooled alarm.
pub(super) fn run(
    scenario: &Scenario<'_>,
    fleet: Fleet,
    (fresh, mut pooled): (&Monitor, PooledMonitor),
    settings: &DriftSettings,
    trace_every: u64,
    random: &mut SplitMix64,
) -> Run {
    let mut run = Run::default();
    let mut devices = devices(fleet, fresh);
    let mut pending = Pending::new(settings.label_delay);
    let mut turn = 0;
    for request in 0..settings.requests {
        let Request { bin, local, differs } = scenario.stream_at(request).draw(random.next());
        let device = &mut devices[turn];
        let audit = device.monitor.observe_binned(usize::from(bin), local, random.uniform());
        device.scores.add(usize::from(bin));
        run.count(request >= scenario.change_at, audit.is_some());
        if audit.is_some() {
            pending.push(request, (turn, differs));
        }
        while let Some((of, differs)) = pending.due(request) {
            devices[of].monitor.label(differs);
            devices[of].labels.push(differs);
        }
        let boosted = pooled.boosted();
        devices[turn].observed(fleet, &mut pooled);
        if pooled.boosted() != boosted {
            devices.iter_mut().for_each(|device| device.monitor.boost_class(!boosted));
        }
        if request + 1 == scenario.change_at || scenario.change_at == 0 {
            run.windows = [pooled.windows(), pooled.shifted()];
        }
        if request % trace_every == 0 {
            run.trace.points.push((request, pooled.alarm().wealth()));
        }
        if pooled.alarmed() {
            run.alarm_at = Some(request + 1);
            break;
        }
        turn = (turn + 1) % devices.len();
    }
    run
}

/// The devices at the start, their reports spread evenly over the interval.
fn devices(fleet: Fleet, fresh: &Monitor) -> Vec<Device> {
    let (count, every) = (u64::from(fleet.devices.max(1)), u64::from(fleet.report_every.max(1)));
    (0..count)
        .map(|index| Device {
            monitor: fresh.clone(),
            scores: ScoreWindow::new(fresh.grid()),
            labels: Vec::with_capacity(every as usize),
            offloaded: 0,
            until_report: (1 + index * every / count) as u32,
        })
        .collect()
}

impl Device {
    /// After a request: reports when it is time to.
    fn observed(&mut self, fleet: Fleet, pooled: &mut PooledMonitor) {
        self.until_report -= 1;
        if self.until_report > 0 {
            return;
        }
        self.until_report = fleet.report_every.max(1);
        pooled.scores(self.scores.counts());
        self.scores.clear();
        for differs in self.labels.drain(..) {
            pooled.label(differs);
        }
        let offloaded = self.monitor.counts().offloaded_labels;
        pooled.offloaded(offloaded - self.offloaded);
        self.offloaded = offloaded;
    }
}
