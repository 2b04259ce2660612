//! What is simulated on pairs of which the truth is taken to be known: repeated calibrations, and runs of the monitor.

use anyhow::Result;
use clap::Args;
use hedge_certify::simulate::{
    CalibrationCell, CalibrationSettings, DriftReport, DriftSettings, DriftStudy, simulate_calibrations,
};
use hedge_certify::{Contract, Labelled, MonitorConfig, Target};

use super::certify::Tested;
use super::ranks::Ranked;
use super::routers::{self, RouterEffort, Routers, Rows};
use crate::failure::bad_usage;
use crate::output::{progress, waiting};

/// Points of a recorded run.
const TRACE_POINTS: u64 = 1_000;

/// How much is simulated.
#[derive(Args, Clone)]
pub(super) struct Effort {
    /// Calibrations of each cell.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repetitions: u32,
    /// Labels of a calibration: a row of cells each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_000, 2_000, 5_000, 10_000])]
    sizes: Vec<u32>,
    /// Shares that may differ: a row of cells each.
    #[arg(long, value_name = "A,…", value_delimiter = ',', default_values_t = [0.05, 0.02, 0.01, 0.005])]
    alphas: Vec<f64>,
    /// The alpha that is watched over and drawn.
    #[arg(long, value_name = "A", default_value_t = 0.01)]
    alpha: f64,
    /// The probability that a calibration misleads.
    #[arg(long, value_name = "D", default_value_t = 0.05)]
    delta: f64,
    #[command(flatten)]
    routers: RouterEffort,
    /// Runs of the monitor in each scenario.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Requests of a run.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
}

/// Requests under conditions that have a name.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) labels: Vec<Labelled>,
}

/// The world that is simulated.
pub(super) struct World {
    pub(super) ranked: Ranked,
    /// Where more differs.
    pub(super) drifted: Option<Named>,
    /// Other than calm, but no worse.
    pub(super) harmless: Vec<Named>,
    /// Calm and drifted requests as a router sees them.
    pub(super) rows: Rows,
}

/// What came of it.
pub(super) struct Study {
    /// Certified on all calibration requests, of both contracts at the watched alpha.
    pub(super) tested: Vec<Tested>,
    pub(super) cells: Vec<CalibrationCell>,
    pub(super) drift: Vec<DriftReport>,
    pub(super) routers: Routers,
    /// What could not be simulated, and why.
    pub(super) notes: Vec<String>,
}

impl Effort {
    /// Of both contracts, at the watched alpha.
    fn targets(&self) -> Result<Vec<Target>> {
        let target = |contract| Target::new(contract, self.alpha, self.delta);
        let targets: Result<Vec<Target>, _> = Contract::ALL.into_iter().map(target).collect();
        targets.map_err(|error| bad_usage(error, "alpha and delta are shares: 0.01 is 1 %"))
    }

    fn drift_settings(&self, seed: u64) -> DriftSettings {
        let every = (self.requests / TRACE_POINTS).clamp(1, u64::from(u32::MAX));
        DriftSettings {
            runs: self.runs,
            requests: self.requests,
            seed,
            trace_every: every as u32,
            ..DriftSettings::default()
        }
    }

    pub(super) fn alpha(&self) -> f64 {
        self.alpha
    }
}

/// Simulates all of it; `seed` is that of all draws.
pub(super) fn study(world: &World, effort: &Effort, seed: u64) -> Result<Study> {
    let to_score = |rank| world.ranked.score(rank);
    let targets = effort.targets()?;
    let test = |target| Tested::new(target, &world.ranked.grid, &world.ranked.cal, to_score);
    let tested: Vec<Tested> = targets.iter().copied().map(test).collect();
    let cells = calibrations(world, effort, seed)?;
    let mut notes = Vec::new();
    let drift = drift(world, &tested, &effort.drift_settings(seed), &mut notes)?;
    let routers = routers::simulate(&world.rows, targets[0], &effort.routers, seed)?;
    Ok(Study { tested, cells, drift, routers, notes })
}

fn calibrations(world: &World, effort: &Effort, seed: u64) -> Result<Vec<CalibrationCell>> {
    let bar = progress("calibrations", effort.sizes.len() as u64);
    let mut cells = Vec::new();
    // A size at a time, so that there is progress to show; draws do not depend on the other sizes.
    for &size in &effort.sizes {
        let settings = CalibrationSettings {
            repetitions: effort.repetitions,
            sizes: vec![size],
            alphas: effort.alphas.clone(),
            delta: effort.delta,
            seed,
        };
        let more = simulate_calibrations(&world.ranked.cal, &world.ranked.grid, &settings)
            .map_err(|error| bad_usage(error, "give sizes of at least 1, and shares: --alphas 0.02,0.01"))?;
        cells.extend(more);
        bar.inc(1);
    }
    bar.finish_and_clear();
    // As people compare them: the labels of one promise below each other.
    let place = |cell: &CalibrationCell| effort.alphas.iter().position(|&alpha| alpha == cell.target.alpha());
    cells.sort_by_key(|cell| (cell.target.contract() == Contract::Local, place(cell), cell.n));
    Ok(cells)
}

/// Watches over the certified threshold of each contract.
fn drift(
    world: &World,
    tested: &[Tested],
    settings: &DriftSettings,
    notes: &mut Vec<String>,
) -> Result<Vec<DriftReport>> {
    let mut reports = Vec::new();
    for tested in tested {
        let contract = tested.target.contract();
        let Some(threshold) = tested.outcome.threshold else {
            notes.push(format!("{contract} contract: there is nothing to watch, {}.", tested.shortfall()));
            continue;
        };
        let bar = waiting(&format!("monitor, {contract} contract"));
        let monitor = MonitorConfig::new(contract, tested.target.alpha());
        let mut study = DriftStudy::new(&world.ranked.grid, threshold, monitor, &world.ranked.cal);
        study.harmless = world.harmless.iter().map(|named| (named.name.clone(), named.labels.as_slice())).collect();
        study.drifted = world.drifted.as_ref().map(|named| named.labels.as_slice());
        match study.run(settings) {
            Ok(more) => reports.extend(more),
            Err(error) => notes.push(format!("{contract} contract: the monitor was not simulated: {error}.")),
        }
        bar.finish_and_clear();
    }
    Ok(reports)
}
