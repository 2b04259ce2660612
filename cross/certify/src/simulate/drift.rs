//! Runs of the monitor over streams whose true risk is known: how often the alarm is false, how soon a true one rings.
//!
//! A run draws its requests with replacement from a [`Stream`], and after `change_at` of them from another. It ends with
//! the alarm, since that voids the certificate, or with its last request. An alarm is *false* when the true risk of the
//! stream it rang in is at most alpha. Every run has random numbers of its own, so that the result depends on the seed and
//! not on the number of threads.

use std::collections::VecDeque;

use rayon::prelude::*;
use serde::Serialize;

use super::fleet;
use super::stream::{Request, SplitMix64, Stream};
use crate::alarm::InvalidMonitor;
use crate::{Contract, Grid, Monitor, MonitorConfig, PooledMonitor};

/// How much to simulate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriftSettings {
    /// Runs of each scenario.
    pub runs: u32,
    /// Requests of a run; all devices together.
    pub requests: u64,
    /// Requests between an audited one and its label.
    pub label_delay: u32,
    /// Seed of all runs.
    pub seed: u64,
    /// Runs of which the wealth is recorded.
    pub traces: u32,
    /// Requests between two points of a trace.
    pub trace_every: u32,
}

impl Default for DriftSettings {
    fn default() -> Self {
        Self { runs: 1_000, requests: 200_000, label_delay: 50, seed: 1, traces: 5, trace_every: 100 }
    }
}

/// Devices that are watched as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Fleet {
    /// How many; requests go to them in turn.
    pub devices: u32,
    /// Requests of a device between two reports of its evidence.
    pub report_every: u32,
}

/// One situation to simulate.
#[derive(Clone, Debug)]
pub struct Scenario<'a> {
    /// What it is called in reports.
    pub name: String,
    /// The monitor, of each device too.
    pub monitor: MonitorConfig,
    /// Requests before the change.
    pub before: Stream<'a>,
    /// Requests from the change on.
    pub after: Stream<'a>,
    /// Number of requests before the change.
    pub change_at: u64,
    /// One device that is watched alone where `None`.
    pub fleet: Option<Fleet>,
}

impl<'a> Scenario<'a> {
    /// A stream that stays as it is.
    #[must_use]
    pub fn steady(name: &str, monitor: MonitorConfig, stream: Stream<'a>) -> Self {
        Self { name: name.to_owned(), monitor, before: stream, after: stream, change_at: 0, fleet: None }
    }

    /// The stream in force at a request, counted from 0.
    pub(super) fn stream_at(&self, request: u64) -> &Stream<'a> {
        if request < self.change_at { &self.before } else { &self.after }
    }
}

/// What the runs of a scenario came to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DriftReport {
    /// Name of the scenario.
    pub name: String,
    /// Whose disagreements count.
    pub contract: Contract,
    /// The certified fraction.
    pub alpha: f64,
    /// Probability of a false alarm that is allowed.
    pub delta_a: f64,
    /// Runs.
    pub runs: u32,
    /// Requests of a run.
    pub requests: u64,
    /// Requests before the change.
    pub change_at: u64,
    /// The devices that were watched as one.
    pub fleet: Option<Fleet>,
    /// True risk before the change.
    pub risk_before: f64,
    /// True risk from the change on.
    pub risk_after: f64,
    /// Fraction answered locally from the change on.
    pub local_share: f64,
    /// Runs with an alarm.
    pub alarms: u32,
    /// Runs with an alarm while the true risk was at most alpha.
    pub false_alarms: u32,
    /// `delta_a` and three standard errors of the share of as many runs: more false alarms than this refute the bound.
    pub false_alarms_allowed: f64,
    /// Requests from the change to the alarm, of the runs that had none before.
    pub to_alarm: Quantiles,
    /// Audits per request before the change; from the start where there is none.
    pub audits_before: f64,
    /// Audits per request from the change to the alarm or the end.
    pub audits_after: f64,
    /// Windows of scores tested before the change (from the start where there is none), and those that were shifted.
    pub windows: u64,
    /// Of these, shifted.
    pub shifted: u64,
    /// Wealth of the first runs.
    pub traces: Vec<Trace>,
}

impl DriftReport {
    /// Whether the runs are in keeping with the bound on false alarms.
    #[must_use]
    pub fn keeps_promise(&self) -> bool {
        f64::from(self.false_alarms) <= self.false_alarms_allowed * f64::from(self.runs)
    }
}

/// Quantiles of the number of requests; `None` where the quantile is a run without an alarm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Quantiles {
    /// One run in ten was faster.
    pub p10: Option<u64>,
    /// The median.
    pub p50: Option<u64>,
    /// Nine runs in ten were faster.
    pub p90: Option<u64>,
    /// 99 of 100 runs were faster.
    pub p99: Option<u64>,
}

/// Wealth along one run.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Trace {
    /// (requests so far, wealth); the alarm rings at `1/delta_a`.
    pub points: Vec<(u64, f64)>,
    /// Requests up to the alarm.
    pub alarm_at: Option<u64>,
}

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Requests up to the alarm, the last one included.
    pub(super) alarm_at: Option<u64>,
    /// Requests and audits before the change and from then on.
    pub(super) requests: [u64; 2],
    pub(super) audits: [u64; 2],
    /// Windows and shifted windows while calm.
    pub(super) windows: [u64; 2],
    pub(super) trace: Trace,
}

impl Run {
    pub(super) fn count(&mut self, changed: bool, audited: bool) {
        self.requests[usize::from(changed)] += 1;
        self.audits[usize::from(changed)] += u64::from(audited);
    }
}

/// Simulates one scenario; `grid` is the certificate's, that the pools were made with.
///
/// # Errors
///
/// When the monitor's configuration is refused.
pub fn simulate_drift(
    scenario: &Scenario<'_>,
    grid: &Grid,
    settings: &DriftSettings,
) -> Result<DriftReport, InvalidMonitor> {
    let fresh = Monitor::new(scenario.monitor, grid)?;
    let pooled = PooledMonitor::new(scenario.monitor, grid)?;
    let tag = scenario.name.bytes().fold(0_u64, |tag, byte| tag.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let runs: Vec<Run> = (0..settings.runs)
        .into_par_iter()
        .map(|index| {
            let mut random = SplitMix64::of(settings.seed, tag, u64::from(index));
            let trace_every = if index < settings.traces { u64::from(settings.trace_every) } else { u64::MAX };
            match scenario.fleet {
                None => run_alone(scenario, fresh.clone(), settings, trace_every, &mut random),
                Some(fleet) => {
                    fleet::run(scenario, fleet, (&fresh, pooled.clone()), settings, trace_every, &mut random)
                }
            }
        })
        .collect();
    Ok(report(scenario, settings, runs))
}

fn run_alone(
    scenario: &Scenario<'_>,
    mut monitor: Monitor,
    settings: &DriftSettings,
    trace_every: u64,
    random: &mut SplitMix64,
) -> Run {
    let mut run = Run::default();
    let mut pending = Pending::new(settings.label_delay);
    for request in 0..settings.requests {
        let changed = request >= scenario.change_at;
        let Request { bin, local, differs } = scenario.stream_at(request).draw(random.next());
        let audit = monitor.observe_binned(usize::from(bin), local, random.uniform());
        run.count(changed, audit.is_some());
        if audit.is_some() {
            pending.push(request, differs);
        }
        while let Some(differs) = pending.due(request) {
            monitor.label(differs);
        }
        if request + 1 == scenario.change_at || scenario.change_at == 0 {
            run.windows = [monitor.counts().windows, monitor.counts().shifted];
        }
        if request % trace_every == 0 {
            run.trace.points.push((request, monitor.wealth()));
        }
        if monitor.alarmed() {
            run.alarm_at = Some(request + 1);
            break;
        }
    }
    run
}

/// Audits whose labels are under way, in the order in which they come back.
pub(super) struct Pending<T> {
    delay: u64,
    labels: VecDeque<(u64, T)>,
}

impl<T: Copy> Pending<T> {
    pub(super) fn new(delay: u32) -> Self {
        Self { delay: u64::from(delay), labels: VecDeque::with_capacity(delay as usize + 1) }
    }

    pub(super) fn push(&mut self, request: u64, label: T) {
        self.labels.push_back((request + self.delay, label));
    }

    /// The next label that has come back by `request`.
    pub(super) fn due(&mut self, request: u64) -> Option<T> {
        self.labels.pop_front_if(|(at, _)| *at <= request).map(|(_, label)| label)
    }
}

fn report(scenario: &Scenario<'_>, settings: &DriftSettings, mut runs: Vec<Run>) -> DriftReport {
    let MonitorConfig { contract, alpha, delta_a, .. } = scenario.monitor;
    let (risk_before, risk_after) = (scenario.before.risk(contract), scenario.after.risk(contract));
    let traces = runs.iter_mut().take(settings.traces as usize).map(take_trace).collect();
    // A risk that was mixed to be alpha may exceed it in the last digit.
    let harmless = |alarm_at: u64| {
        let risk = if alarm_at <= scenario.change_at { risk_before } else { risk_after };
        risk <= alpha * (1.0 + 1e-9)
    };
    let alarms: Vec<u64> = runs.iter().filter_map(|run| run.alarm_at).collect();
    let sum = |of: fn(&Run) -> u64| runs.iter().map(of).sum::<u64>();
    let calm = usize::from(scenario.change_at == 0);
    DriftReport {
        name: scenario.name.clone(),
        contract,
        alpha,
        delta_a,
        runs: settings.runs,
        requests: settings.requests,
        change_at: scenario.change_at,
        fleet: scenario.fleet,
        risk_before,
        risk_after,
        local_share: scenario.after.local_share(),
        alarms: alarms.len() as u32,
        false_alarms: alarms.iter().filter(|&&at| harmless(at)).count() as u32,
        false_alarms_allowed: delta_a + 3.0 * (delta_a * (1.0 - delta_a) / f64::from(settings.runs)).sqrt(),
        to_alarm: to_alarm(&runs, scenario.change_at),
        audits_before: share(
            runs.iter().map(|run| run.audits[calm]).sum(),
            runs.iter().map(|run| run.requests[calm]).sum(),
        ),
        audits_after: share(sum(|run| run.audits[1]), sum(|run| run.requests[1])),
        windows: sum(|run| run.windows[0]),
        shifted: sum(|run| run.windows[1]),
        traces,
    }
}

fn take_trace(run: &mut Run) -> Trace {
    Trace { alarm_at: run.alarm_at, ..std::mem::take(&mut run.trace) }
}

fn to_alarm(runs: &[Run], change_at: u64) -> Quantiles {
    let mut waits: Vec<u64> = runs
        .iter()
        .filter(|run| run.alarm_at.is_none_or(|at| at > change_at))
        .map(|run| run.alarm_at.map_or(u64::MAX, |at| at - change_at))
        .collect();
    waits.sort_unstable();
    let quantile = |of_hundred: usize| {
        let rank = (waits.len() * of_hundred).div_ceil(100).checked_sub(1)?;
        waits.get(rank).copied().filter(|&wait| wait < u64::MAX)
    };
    Quantiles { p10: quantile(10), p50: quantile(50), p90: quantile(90), p99: quantile(99) }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
