//! Whole routers, simulated: what a budget costs, and how a drift is survived without a human.

use anyhow::{Context, Result};
use clap::Args;
use hedge_agent_core::route::simulate::{
    BudgetFigures, PoolRow, Recovery, RecoveryFigures, simulate_budget, simulate_recovery,
};
use hedge_agent_core::{Offload, RouteSettings};
use hedge_certify::{Contract, Target};
use rayon::prelude::*;
use serde::Serialize;

use crate::output::progress;

/// How much of it is simulated.
#[derive(Args, Clone)]
pub(super) struct RouterEffort {
    /// Caps on the share of requests that goes to the cloud, audits included.
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',', default_values_t = [0.05, 0.1, 0.2])]
    caps: Vec<f64>,
    /// Runs of a whole router under each cap, and through each drift.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    router_runs: u64,
    /// Requests of a run under a cap.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    router_requests: u64,
}

/// What is drawn from.
pub(super) struct Rows {
    pub(super) calm: Vec<PoolRow>,
    pub(super) drifted: Option<Vec<PoolRow>>,
}

/// What routers under budgets and through a drift came to.
#[derive(Default)]
pub(super) struct Routers {
    pub(super) budgets: Vec<BudgetFigures>,
    pub(super) recoveries: Vec<Recovered>,
}

/// Drifts of one contract.
#[derive(Serialize)]
pub(super) struct Recovered {
    pub(super) contract: Contract,
    pub(super) runs: Vec<RecoveryFigures>,
}

/// Certified requests before a drift.
const CALM: u64 = 5_000;
/// Requests after it, at most.
const DRIFTED: u64 = 200_000;

/// Simulates both, at `target`'s alpha and delta.
pub(super) fn simulate(rows: &Rows, target: Target, effort: &RouterEffort, seed: u64) -> Result<Routers> {
    if effort.router_runs == 0 {
        return Ok(Routers::default());
    }
    let contracts = if rows.drifted.is_some() { Contract::ALL.len() } else { 0 };
    let bar = progress("routers", (effort.caps.len() + contracts) as u64);
    let seeds = seed..seed + effort.router_runs;
    let settings = |contract| settings(contract, target);
    let budget = |&cap: &f64| {
        let figures = settings(Contract::System).and_then(|settings| {
            simulate_budget(&rows.calm, &settings, cap, effort.router_requests, seeds.clone())
                .with_context(|| format!("a router under a cap of {cap}"))
        });
        bar.inc(1);
        figures
    };
    let budgets = effort.caps.par_iter().map(budget).collect::<Result<Vec<_>>>()?;
    let mut recoveries = Vec::new();
    if let Some(drifted) = &rows.drifted {
        for contract in Contract::ALL {
            let settings = settings(contract)?;
            let run = |seed| {
                let recovery = Recovery { calm: CALM, drifted: DRIFTED, seed };
                simulate_recovery(&rows.calm, drifted, &settings, recovery).context("a router through a drift")
            };
            let runs = seeds.clone().into_par_iter().map(run).collect::<Result<Vec<_>>>()?;
            recoveries.push(Recovered { contract, runs });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(Routers { budgets, recoveries })
}

fn settings(contract: Contract, target: Target) -> Result<RouteSettings> {
    let target = Target::new(contract, target.alpha(), target.delta())?;
    // With a contract its certificate decides, and not a threshold.
    Ok(RouteSettings { contract: Some(target), ..RouteSettings::uncertified(1.0, Offload::Auto) })
}

/// The smallest number that half of the runs do not exceed; `None` if that is a run without one.
pub(super) fn median(runs: &[RecoveryFigures], of: impl Fn(&RecoveryFigures) -> Option<u64>) -> Option<u64> {
    let mut numbers: Vec<u64> = runs.iter().map(|run| of(run).unwrap_or(u64::MAX)).collect();
    numbers.sort_unstable();
    numbers.get(numbers.len().checked_sub(1)? / 2).copied().filter(|&number| number < u64::MAX)
}

/// The mean of the runs that have one.
pub(super) fn mean(runs: &[RecoveryFigures], of: impl Fn(&RecoveryFigures) -> Option<f64>) -> Option<f64> {
    let numbers: Vec<f64> = runs.iter().filter_map(of).collect();
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(alarm: Option<u64>, offload_before: Option<f64>) -> RecoveryFigures {
        RecoveryFigures { alarm, offload_before, ..RecoveryFigures::default() }
    }

    #[test]
    fn a_run_without_an_alarm_counts_as_a_late_one() {
        let runs = [run(Some(7), None), run(None, None), run(Some(3), None)];
        assert_eq!(median(&runs, |run| run.alarm), Some(7));
        assert_eq!(median(&runs[1..2], |run| run.alarm), None);
        assert_eq!(median(&[], |run| run.alarm), None);
    }

    #[test]
    fn the_mean_is_of_the_runs_that_have_a_number() {
        let runs = [run(None, Some(0.25)), run(None, None), run(None, Some(0.75))];
        assert_eq!(mean(&runs, |run| run.offload_before), Some(0.5));
        assert_eq!(mean(&runs[1..2], |run| run.offload_before), None);
    }
}
