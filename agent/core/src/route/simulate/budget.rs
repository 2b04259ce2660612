//! Budgets under a certificate: what is spent, and what it costs in agreement.

use hedge_certify::{Labelled, Scoring};
use serde::Serialize;

use super::{Device, PoolRow, SimulationError, patience};
use crate::answer::{Reason, Status};
use crate::route::ask::Decision;
use crate::route::budget::BudgetSettings;
use crate::route::event::Transition;
use crate::route::settings::RouteSettings;

/// What runs under one cap came to; means over the seeds that got a certificate unless said otherwise.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct BudgetFigures {
    /// The cap: at most this fraction of the requests goes to the cloud, audits included.
    pub cap: f64,
    /// Requests of each run.
    pub requests: u64,
    /// Runs.
    pub runs: u64,
    /// Runs that got no certificate and are in none of the means.
    pub uncertifiable: u64,
    /// Fraction of the requests that went to the cloud, audits included.
    pub offload: f64,
    /// The largest of any run.
    pub offload_max: f64,
    /// By how much any run was ever ahead of its cap, in fractions of all its requests.
    pub excess_max: f64,
    /// Fraction of the requests that were audited.
    pub audits: f64,
    /// Fraction of all requests whose answer differs from the cloud's.
    pub disagreement: f64,
    /// The same of the best static threshold on the same score, with the same offload, on the same requests.
    pub static_disagreement: f64,
    /// Fraction answered locally as certified.
    pub certified: f64,
    /// Fraction of all requests answered as certified and differing from the cloud's.
    pub certified_disagreement: f64,
    /// Fraction answered locally for want of budget.
    pub over_budget: f64,
    /// Answers that called themselves better than they are, in all runs: must be 0.
    pub unflagged: u64,
    /// Alarms, in all runs.
    pub alarms: u64,
}

/// Runs `requests` requests under an offload cap of `cap` for each seed, after a certificate was issued and watched without a
/// budget.
pub fn simulate_budget(
    pool: &[PoolRow],
    settings: &RouteSettings,
    cap: f64,
    requests: u64,
    seeds: impl IntoIterator<Item = u64>,
) -> Result<BudgetFigures, SimulationError> {
    if pool.is_empty() {
        return Err(SimulationError::EmptyPool);
    }
    let capped =
        RouteSettings { budget: BudgetSettings { offload_share: Some(cap), ..settings.budget }, ..settings.clone() };
    let mut figures = BudgetFigures { cap, requests, ..BudgetFigures::default() };
    let mut certified_runs = 0_u64;
    for seed in seeds {
        figures.runs += 1;
        match run(pool, settings, &capped, requests, seed)? {
            Some(run) => {
                certified_runs += 1;
                figures.add(&run);
            }
            None => figures.uncertifiable += 1,
        }
    }
    figures.divide(certified_runs.max(1) as f64);
    Ok(figures)
}

/// What happened in one run.
#[derive(Default)]
struct Run {
    offloads: u64,
    audits: u64,
    wrong: u64,
    certified: u64,
    certified_wrong: u64,
    over_budget: u64,
    unflagged: u64,
    alarms: u64,
    excess: f64,
    static_disagreement: f64,
}

fn run(
    pool: &[PoolRow],
    settings: &RouteSettings,
    capped: &RouteSettings,
    requests: u64,
    seed: u64,
) -> Result<Option<Run>, SimulationError> {
    let mut device = Device::new(settings, seed)?;
    if !device.certify(pool, patience(settings)) {
        return Ok(None);
    }
    device.restart(RouteSettings { seed, ..capped.clone() })?;
    let scoring = device.router.certificate().map(|certificate| certificate.scoring.clone()).unwrap_or_default();
    let cap = capped.budget.offload_share.unwrap_or(1.0);
    let notes = device.notes.len();
    let mut run = Run::default();
    let mut stream = Vec::with_capacity(usize::try_from(requests).unwrap_or_default());
    for request in 1..=requests {
        let (row, outcome) = device.request(pool);
        stream.push(row);
        run.unflagged += u64::from(outcome.unflagged);
        run.wrong += u64::from(outcome.wrong);
        match outcome.decision {
            Decision::Offload { .. } => run.offloads += 1,
            Decision::Local { status, reason, audit } => {
                run.audits += u64::from(audit.is_some());
                run.over_budget += u64::from(reason == Reason::OverBudget);
                run.certified += u64::from(status == Status::Certified);
                run.certified_wrong += u64::from(status == Status::Certified && outcome.wrong);
            }
        }
        let ahead = (run.offloads + run.audits) as f64 - cap * request as f64;
        run.excess = run.excess.max(ahead / requests as f64);
    }
    run.alarms = device.notes[notes..].iter().filter(|(_, note)| is_alarm(note)).count() as u64;
    run.static_disagreement = best_static(&stream, &scoring, run.offloads + run.audits);
    Ok(Some(run))
}

fn is_alarm(note: &Transition) -> bool {
    matches!(note, Transition::Alarm { .. })
}

/// The disagreement left when the `offloads` least sure of these requests go to the cloud: no threshold chosen beforehand does
/// better on this score. Of equal scores a part goes, by the mean.
fn best_static(stream: &[PoolRow], scoring: &Scoring, offloads: u64) -> f64 {
    let mut rows: Vec<Labelled> =
        stream.iter().map(|row| Labelled { score: scoring.score(&row.features), differs: row.differs }).collect();
    rows.sort_by(|a, b| a.score.total_cmp(&b.score));
    let mut left = offloads as f64;
    let mut wrong = 0.0;
    for ties in rows.chunk_by(|a, b| a.score == b.score) {
        let differing = ties.iter().filter(|row| row.differs).count() as f64;
        let gone = left.min(ties.len() as f64);
        wrong += differing * (1.0 - gone / ties.len() as f64);
        left -= gone;
    }
    wrong / stream.len().max(1) as f64
}

impl BudgetFigures {
    fn add(&mut self, run: &Run) {
        let requests = self.requests.max(1) as f64;
        let share = |count: u64| count as f64 / requests;
        let offload = share(run.offloads + run.audits);
        self.offload += offload;
        self.offload_max = self.offload_max.max(offload);
        self.excess_max = self.excess_max.max(run.excess);
        self.audits += share(run.audits);
        self.disagreement += share(run.wrong);
        self.static_disagreement += run.static_disagreement;
        self.certified += share(run.certified);
        self.certified_disagreement += share(run.certified_wrong);
        self.over_budget += share(run.over_budget);
        self.unflagged += run.unflagged;
        self.alarms += run.alarms;
    }

    fn divide(&mut self, runs: f64) {
        for sum in [
            &mut self.offload,
            &mut self.audits,
            &mut self.disagreement,
            &mut self.static_disagreement,
            &mut self.certified,
            &mut self.certified_disagreement,
            &mut self.over_budget,
        ] {
            *sum /= runs;
        }
    }
}
