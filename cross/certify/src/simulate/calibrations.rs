//! Repeated calibrations from one pool: how often the procedure breaks its promise, and what keeping it costs.
//!
//! A pool of labelled requests is taken for the world: its mean is the truth. Each repetition draws n labels from it with
//! replacement, certifies, and compares the threshold with the truth. A repetition *violates* when it issued a certificate
//! whose true fraction exceeds alpha; violations are divided by all repetitions, as the promise is made over calibrations and not
//! over certificates. Beside it, on the same labels, the plug-in threshold that trusts the fraction seen, and the oracle
//! that knows the truth.
//!
//! Scores matter only through the bin of the grid they fall in, so a request is one byte and a calibration a histogram; one
//! draw of n serves all targets. Each repetition has a random stream of its own: the result depends on the seed, not on threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::sequence::{Tally, first_tested};
use crate::{Contract, GRID_THRESHOLDS, Grid, InvalidTarget, Labelled, Target, oracle};

/// What is repeated: a cell for each size, contract and alpha, in this order.
#[derive(Clone, PartialEq, Debug)]
pub struct CalibrationSettings {
    /// Calibrations per cell.
    pub repetitions: u32,
    /// Labels of a calibration.
    pub sizes: Vec<u32>,
    /// Largest fractions of differing answers, each 0 to 1.
    pub alphas: Vec<f64>,
    /// Error probability of the certificates, 0 to 1.
    pub delta: f64,
    /// Seed of all draws.
    pub seed: u64,
}

impl Default for CalibrationSettings {
    /// 2,000 calibrations of 1k, 2k, 5k and 10k labels for alpha 5, 2, 1 and 0.5 % at delta 5 %.
    fn default() -> Self {
        Self {
            repetitions: 2_000,
            sizes: vec![1_000, 2_000, 5_000, 10_000],
            alphas: vec![0.05, 0.02, 0.01, 0.005],
            delta: 0.05,
            seed: 1,
        }
    }
}

/// What came of the calibrations of one size for one target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CalibrationCell {
    /// The promise.
    pub target: Target,
    /// Labels of a calibration.
    pub n: u32,
    /// Calibrations.
    pub repetitions: u32,
    /// The certificates.
    pub certified: CalibrationTally,
    /// The naive choice on the same labels: the lowest threshold at which the fraction seen is at most alpha.
    pub plug_in: CalibrationTally,
    /// Share of the pool that the best of all thresholds offloads, 0 to 1.
    pub oracle_offload: f64,
    /// Fraction of the pool that differs: what answering everything locally would break.
    pub edge_differs: f64,
}

impl CalibrationCell {
    /// Share of all calibrations that violated by a certificate, 0 to 1.
    #[must_use]
    pub fn violation_rate(&self) -> f64 {
        self.certified.violations.len() as f64 / f64::from(self.repetitions)
    }

    /// The same of the plug-in.
    #[must_use]
    pub fn plug_in_violation_rate(&self) -> f64 {
        self.plug_in.violations.len() as f64 / f64::from(self.repetitions)
    }

    /// Share of all calibrations that issued a certificate, 0 to 1.
    #[must_use]
    pub fn certified_share(&self) -> f64 {
        f64::from(self.certified.issued) / f64::from(self.repetitions)
    }

    /// Standard error of a violation rate whose truth is delta.
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        let delta = self.target.delta();
        (delta * (1.0 - delta) / f64::from(self.repetitions)).sqrt()
    }

    /// The violation rate up to which chance may explain the excess over delta: three standard errors.
    #[must_use]
    pub fn violation_limit(&self) -> f64 {
        self.target.delta() + 3.0 * self.standard_error()
    }

    /// Whether the promise was kept.
    #[must_use]
    pub fn keeps_promise(&self) -> bool {
        self.violation_rate() <= self.violation_limit()
    }

    /// Offload above the oracle's, mean over all calibrations: 0.04 is four points.
    #[must_use]
    pub fn price(&self) -> f64 {
        self.certified.offload - self.oracle_offload
    }
}

/// What one way of choosing thresholds came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CalibrationTally {
    /// Calibrations that chose a threshold at all.
    pub issued: u32,
    /// The calibrations whose threshold has a true fraction above alpha, ascending from 0.
    pub violations: Vec<u32>,
    /// True share of requests below the threshold, mean over all calibrations; 1 for one without a threshold.
    pub offload: f64,
}

/// Repetitions that cannot be made.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum CalibrationError {
    /// There is no truth in the pool.
    #[error("the pool of calibrations is empty: give labelled requests")]
    EmptyPool,
    /// Nothing is repeated.
    #[error("calibrations need at least one repetition and sizes of at least one label")]
    Nothing,
    /// No promise can be tested.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
}

/// Repeats calibrations from `pool` with thresholds from `grid`, on all threads of the current pool.
pub fn simulate_calibrations(
    pool: &[Labelled],
    grid: &Grid,
    settings: &CalibrationSettings,
) -> Result<Vec<CalibrationCell>, CalibrationError> {
    if pool.is_empty() {
        return Err(CalibrationError::EmptyPool);
    }
    if settings.repetitions == 0 || settings.sizes.contains(&0) {
        return Err(CalibrationError::Nothing);
    }
    let targets = targets(settings)?;
    let world = World::new(pool, grid);
    let cells = settings.sizes.iter().flat_map(|&n| world.cells(n, &targets, settings)).collect::<Vec<_>>();
    Ok(with_oracle(cells, pool))
}

fn targets(settings: &CalibrationSettings) -> Result<Vec<Target>, InvalidTarget> {
    let of = |contract| settings.alphas.iter().map(move |&alpha| Target::new(contract, alpha, settings.delta));
    Contract::ALL.into_iter().flat_map(of).collect()
}

/// The oracle needs the scores themselves, once per target.
fn with_oracle(mut cells: Vec<CalibrationCell>, pool: &[Labelled]) -> Vec<CalibrationCell> {
    let mut known: Vec<(Target, f64)> = Vec::new();
    for cell in &mut cells {
        let found = known.iter().find(|(target, _)| *target == cell.target).map(|&(_, offload)| offload);
        cell.oracle_offload = found.unwrap_or_else(|| {
            let offload = oracle(cell.target.contract(), cell.target.alpha(), pool).offload;
            known.push((cell.target, offload));
            offload
        });
    }
    cells
}

/// The pool as the procedure sees it.
struct World<'a> {
    grid: &'a Grid,
    /// Of each request twice its bin, plus one if it differs.
    codes: Vec<u8>,
    truth: Tally,
    edge_differs: f64,
}

/// Codes of the largest grid: a bin for each threshold and one below them all.
const CODES: usize = 2 * (GRID_THRESHOLDS + 1);
const _: () = assert!(CODES <= 256, "a code is a byte");

/// The thresholds that one calibration chose, by their position in the grid.
#[derive(Clone, Copy)]
struct Choice {
    certified: Option<usize>,
    plug_in: Option<usize>,
}

impl<'a> World<'a> {
    fn new(pool: &[Labelled], grid: &'a Grid) -> Self {
        let code = |label: &Labelled| (2 * grid.bin(label.score) + usize::from(label.differs)) as u8;
        let differing = pool.iter().filter(|label| label.differs).count();
        Self {
            grid,
            codes: pool.iter().map(code).collect(),
            truth: Tally::of(grid, pool),
            edge_differs: differing as f64 / pool.len() as f64,
        }
    }

    /// The cells of one size: all targets see the same draws.
    fn cells(&self, n: u32, targets: &[Target], settings: &CalibrationSettings) -> Vec<CalibrationCell> {
        let starts: Vec<Option<usize>> = targets.iter().map(|t| first_tested(t, self.grid, u64::from(n))).collect();
        let repetitions: Vec<Vec<Choice>> = (0..settings.repetitions)
            .into_par_iter()
            .map(|repetition| {
                let seen = self.draw(n, repetition, settings.seed);
                targets.iter().zip(&starts).map(|(target, &start)| choose(&seen, target, start)).collect()
            })
            .collect();
        let cell = |(position, &target): (usize, &Target)| {
            let choices: Vec<Choice> = repetitions.iter().map(|choices| choices[position]).collect();
            CalibrationCell {
                target,
                n,
                repetitions: settings.repetitions,
                certified: self.tally(&target, choices.iter().map(|choice| choice.certified)),
                plug_in: self.tally(&target, choices.iter().map(|choice| choice.plug_in)),
                oracle_offload: 1.0,
                edge_differs: self.edge_differs,
            }
        };
        targets.iter().enumerate().map(cell).collect()
    }

    /// `n` labels drawn with replacement, counted.
    fn draw(&self, n: u32, repetition: u32, seed: u64) -> Tally {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(n) << 32 | u64::from(repetition));
        let size = self.codes.len() as u128;
        let mut counts = [0_u64; CODES];
        for _ in 0..n {
            // Uniform up to 2^-64 times the size of the pool.
            let at = ((u128::from(rng.next_u64()) * size) >> 64) as usize;
            counts[usize::from(self.codes[at])] += 1;
        }
        let (bins, _) = counts.as_chunks::<2>();
        Tally::from_bins(&bins[..=self.grid.len()])
    }

    /// Holds chosen thresholds against the truth.
    fn tally(&self, target: &Target, chosen: impl ExactSizeIterator<Item = Option<usize>>) -> CalibrationTally {
        let repetitions = chosen.len() as f64;
        let mut tally = CalibrationTally { issued: 0, violations: Vec::new(), offload: 0.0 };
        for (repetition, position) in chosen.enumerate() {
            let Some(j) = position else {
                tally.offload += 1.0;
                continue;
            };
            tally.issued += 1;
            tally.offload += (self.truth.n - self.truth.accepted[j]) as f64 / self.truth.n as f64;
            if self.truth.risk(target.contract(), j) > target.alpha() {
                tally.violations.push(repetition as u32);
            }
        }
        tally.offload /= repetitions;
        tally
    }
}

fn choose(seen: &Tally, target: &Target, start: Option<usize>) -> Choice {
    Choice {
        certified: start.and_then(|start| seen.walk(target, start)),
        plug_in: seen.lowest_within(target.contract(), target.alpha()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of `n` requests with scores s spread evenly, of which the fraction (1 - s)^6 differs, spread evenly as well:
    /// a seventh of all.
    fn pool(n: u32) -> Vec<Labelled> {
        let mut owed = 0.0;
        (1..=n)
            .map(|i| {
                let score = f64::from(i) / f64::from(n);
                owed += (1.0 - score).powi(6);
                let differs = owed >= 1.0;
                owed -= f64::from(u8::from(differs));
                Labelled { score: score as f32, differs }
            })
            .collect()
    }

    fn grid() -> Grid {
        // Not the pool's own quantiles: a tune split is another sample.
        Grid::from_scores(&(0..1_500_u16).map(|i| (f32::from(i) / 1_500.0).powf(1.1)).collect::<Vec<_>>()).unwrap()
    }

    fn settings() -> CalibrationSettings {
        CalibrationSettings { repetitions: 400, sizes: vec![1_000, 5_000], ..CalibrationSettings::default() }
    }

    #[test]
    fn certificates_keep_their_promise_where_the_plug_in_breaks_it() {
        let cells = simulate_calibrations(&pool(20_000), &grid(), &settings()).unwrap();
        assert_eq!(cells.len(), 2 * 2 * 4);
        for cell in &cells {
            assert!(cell.keeps_promise(), "{} n {}: {}", cell.target, cell.n, cell.violation_rate());
            assert!(cell.edge_differs > cell.target.alpha());
            assert!(cell.price() > -0.001 && cell.certified.offload <= 1.0, "{cell:?}");
            if cell.n == 5_000 {
                assert!(cell.plug_in_violation_rate() > cell.violation_limit(), "{cell:?}");
                assert!(cell.certified_share() > 0.9, "{} n {}: {}", cell.target, cell.n, cell.certified_share());
            }
        }
    }

    #[test]
    fn more_labels_cost_less_offload() {
        let cells = simulate_calibrations(&pool(20_000), &grid(), &settings()).unwrap();
        let (few, many) = cells.split_at(8);
        assert!(few.iter().zip(many).all(|(few, many)| few.price() > many.price() && many.oracle_offload < 1.0));
    }

    #[test]
    fn what_is_counted_is_what_certify_would_say() {
        let (pool, grid) = (pool(3_000), grid());
        let world = World::new(&pool, &grid);
        let seen = world.draw(2_000, 7, 99);
        assert_eq!(seen.n, 2_000);
        // The same draw, as labels.
        let mut rng = ChaCha8Rng::seed_from_u64(99);
        rng.set_stream(2_000 << 32 | 7);
        let labels: Vec<Labelled> =
            (0..2_000).map(|_| pool[((u128::from(rng.next_u64()) * 3_000) >> 64) as usize]).collect();
        for contract in Contract::ALL {
            let target = Target::new(contract, 0.05, 0.05).unwrap();
            let chosen = choose(&seen, &target, first_tested(&target, &grid, 2_000));
            let threshold = chosen.certified.map(|j| grid.thresholds()[j]);
            assert_eq!(threshold, crate::certify(&target, &grid, &labels).threshold);
            let plug_in = chosen.plug_in.map(|j| grid.thresholds()[j]);
            assert_eq!(plug_in, crate::plug_in_on_grid(contract, 0.05, &grid, &labels));
        }
    }

    #[test]
    fn a_violation_is_a_true_fraction_above_alpha_and_equality_is_none() {
        // One of a hundred differs, at the lowest score.
        let pool: Vec<Labelled> = (0..100_u8).map(|i| Labelled { score: f32::from(i), differs: i == 0 }).collect();
        let grid = Grid::from_scores(&pool.iter().map(|label| label.score).collect::<Vec<_>>()).unwrap();
        let world = World::new(&pool, &grid);
        let tally = |alpha| {
            let target = Target::new(Contract::System, alpha, 0.05).unwrap();
            world.tally(&target, [Some(99), None, Some(98)].into_iter())
        };
        assert_eq!(tally(0.01), CalibrationTally { issued: 2, violations: vec![], offload: (0.0 + 1.0 + 0.01) / 3.0 });
        assert_eq!(tally(0.009_999).violations, [0]);
    }

    #[test]
    fn the_result_depends_on_the_seed_and_not_on_the_threads() {
        let settings = CalibrationSettings { repetitions: 50, sizes: vec![500], ..CalibrationSettings::default() };
        let (pool, grid) = (pool(2_000), grid());
        let with_threads = |threads| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            threads.install(|| simulate_calibrations(&pool, &grid, &settings).unwrap())
        };
        assert_eq!(with_threads(1), with_threads(3));
        let other = CalibrationSettings { seed: 2, ..settings.clone() };
        assert_ne!(with_threads(1), simulate_calibrations(&pool, &grid, &other).unwrap());
    }

    #[test]
    fn what_cannot_be_repeated_is_refused_by_name() {
        let run = |pool: &[Labelled], settings| simulate_calibrations(pool, &grid(), &settings).unwrap_err();
        assert_eq!(run(&[], settings()), CalibrationError::EmptyPool);
        assert_eq!(run(&pool(9), CalibrationSettings { repetitions: 0, ..settings() }), CalibrationError::Nothing);
        assert_eq!(run(&pool(9), CalibrationSettings { sizes: vec![5, 0], ..settings() }), CalibrationError::Nothing);
        let certain = CalibrationSettings { delta: 1.0, ..settings() };
        assert!(matches!(run(&pool(9), certain), CalibrationError::Target(InvalidTarget::Delta(_))));
    }
}
