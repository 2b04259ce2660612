//! Fixed-sequence testing of thresholds on labelled scores: the certificate's statistics.
//!
//! For each threshold l_j of the grid, from the one that accepts least: n_j labels accepted, k_j of them differing. "The
//! fraction is above alpha" is tested by the exact binomial p-value p_j = P(X <= k_j), X ~ Binomial(n, alpha) for the system
//! contract (all n labels) and X ~ Binomial(n_j, alpha) for the local one. The walk goes on while p_j <= delta and the last
//! threshold that passed is the certified one; since the order is settled before a calibration label is seen, all tests
//! together err with probability at most delta (fixed-sequence testing; Angelopoulos et al., "Learn then Test", 2021). Nothing is
//! assumed of how the fraction changes along the grid.
//!
//! The system walk starts at the first threshold. The local one starts where the *tune split* accepts enough for a test
//! to have power, and so that few tests come before the useful ones.

use serde::{Deserialize, Serialize};

use crate::{Contract, Grid, Target, cdf, least_samples};

/// A labelled request of the calibration.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Labelled {
    /// The score of the edge's answer. NaN counts and is never local.
    pub score: f32,
    /// Whether the edge's answer differs from the cloud's.
    pub differs: bool,
}

/// What a calibration came to.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Scores at or above it are inside the certificate; `None`: not certified, everything is offloaded.
    pub threshold: Option<f32>,
    /// Calibration labels.
    pub n: u64,
    /// Labels at or above the threshold.
    pub accepted: Option<u64>,
    /// Of those, the ones that differ.
    pub k: Option<u64>,
    /// The p-value at the threshold, at most delta.
    pub p_value: Option<f64>,
    /// Share of the calibration below the threshold, 0 to 1; 1 where nothing is certified.
    pub offload: f64,
    /// How many labels more, at the rates seen where the walk starts, would certify that first threshold: 0 when certified,
    /// `None` when no number would do, because the rate is not below alpha, or so near that it takes over ten million. An
    /// estimate: the next labels may differ more.
    pub needs_labels: Option<u64>,
}

/// Certifies the lowest threshold that `labels` allow. Costs one search in the grid per label.
#[must_use]
pub fn certify(target: &Target, grid: &Grid, labels: &[Labelled]) -> Outcome {
    Tally::of(grid, labels).certify(target, grid)
}

/// Labels counted per threshold: all that certifying needs of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tally {
    /// Labels, rejected ones included.
    pub(crate) n: u64,
    /// Labels accepted by each threshold.
    pub(crate) accepted: Vec<u64>,
    /// Differing labels accepted by each threshold.
    pub(crate) differing: Vec<u64>,
}

impl Tally {
    pub(crate) fn of(grid: &Grid, labels: &[Labelled]) -> Self {
        let mut bins = vec![[0; 2]; grid.len() + 1];
        for label in labels {
            bins[grid.bin(label.score)][usize::from(label.differs)] += 1;
        }
        Self::from_bins(&bins)
    }

    /// From the (agreeing, differing) labels of each bin of the grid, [`Grid::bin`].
    pub(crate) fn from_bins(bins: &[[u64; 2]]) -> Self {
        let thresholds = bins.len() - 1;
        let mut tally =
            Self { n: 0, accepted: Vec::with_capacity(thresholds), differing: Vec::with_capacity(thresholds) };
        let mut differing = 0;
        for [agree, differ] in bins {
            tally.n += agree + differ;
            differing += differ;
            tally.accepted.push(tally.n);
            tally.differing.push(differing);
        }
        tally.accepted.truncate(thresholds);
        tally.differing.truncate(thresholds);
        tally
    }

    pub(crate) fn certify(&self, target: &Target, grid: &Grid) -> Outcome {
        let start = first_tested(target, grid, self.n);
        match start.and_then(|start| self.walk(target, start)) {
            Some(j) => self.certified(target, grid, j),
            None => self.uncertified(target, grid, start.unwrap_or(grid.len() - 1)),
        }
    }

    /// The last threshold that passed, if the first tested one did.
    pub(crate) fn walk(&self, target: &Target, start: usize) -> Option<usize> {
        (start..self.accepted.len()).take_while(|&j| self.p_value(target, j) <= target.delta()).last()
    }

    /// The last threshold at which no more than `alpha` was seen.
    pub(crate) fn lowest_within(&self, contract: Contract, alpha: f64) -> Option<usize> {
        (0..self.accepted.len()).rfind(|&j| self.risk(contract, j) <= alpha)
    }

    /// The fraction seen at threshold `j`.
    pub(crate) fn risk(&self, contract: Contract, j: usize) -> f64 {
        contract.risk(self.differing[j], self.accepted[j], self.n)
    }

    fn p_value(&self, target: &Target, j: usize) -> f64 {
        p_value(target, self.differing[j], self.accepted[j], self.n)
    }

    fn certified(&self, target: &Target, grid: &Grid, j: usize) -> Outcome {
        Outcome {
            threshold: Some(grid.thresholds()[j]),
            n: self.n,
            accepted: Some(self.accepted[j]),
            k: Some(self.differing[j]),
            p_value: Some(self.p_value(target, j)),
            offload: (self.n - self.accepted[j]) as f64 / self.n as f64,
            needs_labels: Some(0),
        }
    }

    fn uncertified(&self, target: &Target, grid: &Grid, start: usize) -> Outcome {
        Outcome {
            threshold: None,
            n: self.n,
            accepted: None,
            k: None,
            p_value: None,
            offload: 1.0,
            needs_labels: self.needs_labels(target, grid, start),
        }
    }

    fn needs_labels(&self, target: &Target, grid: &Grid, start: usize) -> Option<u64> {
        let total = match target.contract() {
            Contract::System => least_trials(target, self.differing[start], self.n, self.n),
            Contract::Local => self.least_labels(target, grid, start),
        };
        total.map(|total| total.saturating_sub(self.n).max(1))
    }

    /// The least labels that would certify the local contract. More of them let the walk start at a higher threshold,
    /// where fewer answers differ: each threshold from `start` upwards is tried with the labels that make it the first.
    fn least_labels(&self, target: &Target, grid: &Grid, start: usize) -> Option<u64> {
        let mut best = None;
        for j in (0..=start).rev() {
            let first_from = labels_to_start_at(target, grid, j);
            if best.is_some_and(|best| best <= first_from) {
                break;
            }
            // What the tune split accepts stands in for a calibration that has accepted nothing.
            let seen = self.accepted[j] as f64 / self.n as f64;
            let share = if self.accepted[j] == 0 { grid.accepted_share(j) } else { seen };
            let from = self.accepted[j].max((first_from as f64 * share) as u64);
            let Some(trials) = least_trials(target, self.differing[j], self.accepted[j], from) else { continue };
            let total = first_from.max((trials as f64 / share).ceil() as u64);
            if first_tested(target, grid, total) == Some(j) && best.is_none_or(|best| total < best) {
                best = Some(total);
            }
        }
        best
    }
}

/// The exact p-value of "the fraction is above alpha", with `k` of `accepted` local answers differing among `n` labels.
pub(crate) fn p_value(target: &Target, k: u64, accepted: u64, n: u64) -> f64 {
    let trials = match target.contract() {
        Contract::System => n,
        Contract::Local => accepted,
    };
    cdf(k, trials, target.alpha())
}

/// Where the walk over the grid starts with `n` labels; `None` if no threshold accepts enough of the tune split. Looks at
/// no calibration label.
pub(crate) fn first_tested(target: &Target, grid: &Grid, n: u64) -> Option<usize> {
    match target.contract() {
        Contract::System => Some(0),
        Contract::Local => {
            let share = (labels_for_power(target) / n as f64).min(ENOUGH);
            (0..grid.len()).find(|&j| grid.accepted_share(j) >= share)
        }
    }
}

/// The local walk starts at a threshold that accepts this share of the tune split, however few the labels are.
const ENOUGH: f64 = 0.7;

/// Accepted labels at which a local test has some power: 2.5 times what it needs when none differs.
fn labels_for_power(target: &Target) -> f64 {
    2.5 * least_samples(target.alpha(), target.delta()) as f64
}

/// The fewest labels with which the local walk starts at threshold `j` or a higher one.
fn labels_to_start_at(target: &Target, grid: &Grid, j: usize) -> u64 {
    let share = grid.accepted_share(j);
    let labels = if share >= ENOUGH { 0 } else { (labels_for_power(target) / share).ceil() as u64 };
    // A quotient of a rounded quotient may miss the share by its last digit.
    if labels_for_power(target) / labels as f64 <= share || share >= ENOUGH { labels } else { labels.saturating_add(1) }
}

/// No certificate of more labels is believed.
pub(crate) const MOST_LABELS: u64 = 1_000_000_000;

/// Beyond this many labels it is more honest to say that no number of them would do.
const MOST_TRIALS: u64 = 10_000_000;

/// How many trials, at least `from`, would pass the test if the same fraction differed as `k` of `trials`; `None` if none.
///
/// Whole numbers differ, so that the p-value jumps up with each further one and falls in between: the least number of them is
/// looked for first with which the most trials that it stands for pass.
fn least_trials(target: &Target, k: u64, trials: u64, from: u64) -> Option<u64> {
    if k == 0 {
        let least = from.max(least_samples(target.alpha(), target.delta()));
        return (least <= MOST_LABELS).then_some(least);
    }
    if k as f64 / trials as f64 >= target.alpha() {
        return None;
    }
    let passes = |differing: u64, trials: u64| cdf(differing, trials, target.alpha()) <= target.delta();
    let most_with = |differing: u64| (u128::from(differing) * u128::from(trials) / u128::from(k)) as u64;
    let mut enough = (u128::from(k) * u128::from(from)).div_ceil(u128::from(trials)) as u64;
    let mut fails = enough - 1;
    while !passes(enough, most_with(enough)) {
        if most_with(enough) > MOST_TRIALS {
            return None;
        }
        fails = enough;
        enough *= 2;
    }
    let differing = first_that(fails, enough, |differing| passes(differing, most_with(differing)));
    let too_few = from.max(most_with(differing - 1) + 1) - 1;
    Some(first_that(too_few, most_with(differing), |trials| passes(differing, trials)))
}

/// The first number above `fails` that is as wanted; `enough` is.
fn first_that(mut fails: u64, mut enough: u64, wanted: impl Fn(u64) -> bool) -> u64 {
    while enough - fails > 1 {
        let middle = fails + (enough - fails) / 2;
        if wanted(middle) { enough = middle } else { fails = middle }
    }
    enough
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    fn target(contract: Contract, alpha: f64) -> Target {
        Target::new(contract, alpha, 0.05).unwrap()
    }

    /// 1,000 tune scores 0.001 .. 1.000: threshold j accepts the share (j + 1) / 100.
    fn grid() -> Grid {
        Grid::from_scores(&(1..=1_000_u16).map(|i| f32::from(i) / 1_000.0).collect::<Vec<_>>()).unwrap()
    }

    /// `n` labels of evenly spread scores that differ below `edge`.
    fn differing_below(edge: f32, n: u16) -> Vec<Labelled> {
        (1..=n).map(|i| f32::from(i) / f32::from(n)).map(|score| Labelled { score, differs: score < edge }).collect()
    }

    fn uniform(rng: &mut ChaCha8Rng) -> f32 {
        (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    #[test]
    fn the_walk_stops_before_the_first_threshold_that_fails() {
        // 2,000 labels, one per 0.0005; those below 0.5 differ. System, alpha 5 %: the most that passes is k = 83.
        let outcome = certify(&target(Contract::System, 0.05), &grid(), &differing_below(0.5, 2_000));
        let k = outcome.k.unwrap();
        assert!(cdf(k, 2_000, 0.05) <= 0.05 && cdf(k + 20, 2_000, 0.05) > 0.05, "{outcome:?}");
        assert_eq!(outcome.p_value, Some(cdf(k, 2_000, 0.05)));
        assert_eq!(outcome.accepted, Some(1_001 + k));
        assert_eq!(outcome.offload, (999 - k) as f64 / 2_000.0);
        assert_eq!(outcome.needs_labels, Some(0));
    }

    #[test]
    fn a_threshold_beyond_a_failed_one_is_never_certified() {
        // Everything between 0.80 and 0.85 differs, nothing below: lower thresholds would pass again on their own.
        let labels: Vec<Labelled> = differing_below(0.0, 10_000)
            .into_iter()
            .map(|label| Labelled { differs: (0.80..0.85).contains(&label.score), ..label })
            .collect();
        let outcome = certify(&target(Contract::Local, 0.1), &grid(), &labels);
        assert!(outcome.threshold.unwrap() > 0.80, "{outcome:?}");
    }

    #[test]
    fn the_local_walk_starts_where_the_tune_split_accepts_enough() {
        // 2.5 * 299 of 10,000 is 7.5 %: threshold 7 accepts 8 %. Never more than 70 %.
        let local = target(Contract::Local, 0.01);
        assert_eq!(first_tested(&local, &grid(), 10_000), Some(7));
        assert_eq!(first_tested(&local, &grid(), 1_000), Some(69));
        assert_eq!(first_tested(&local, &grid(), 0), Some(69));
        assert_eq!(first_tested(&target(Contract::System, 0.01), &grid(), 10_000), Some(0));
        let mostly_nan = Grid::from_scores(&[f32::NAN, f32::NAN, 0.5]).unwrap();
        assert_eq!(first_tested(&local, &mostly_nan, 1_000), None);
        assert_eq!(certify(&local, &mostly_nan, &differing_below(0.0, 1_000)).threshold, None);
    }

    #[test]
    fn too_few_labels_certify_nothing_and_name_how_many_more_would() {
        for contract in Contract::ALL {
            let target = target(contract, 0.01);
            let outcome = certify(&target, &grid(), &differing_below(0.0, 200));
            assert_eq!((outcome.threshold, outcome.offload), (None, 1.0));
            let more = outcome.needs_labels.unwrap() as u16;
            let certified = |n| certify(&target, &grid(), &differing_below(0.0, n)).threshold.is_some();
            assert!(certified(200 + more) && !certified(200 + more - 10), "{contract} {more}");
        }
        let none = certify(&target(Contract::Local, 0.01), &grid(), &[]);
        assert_eq!((none.threshold, none.needs_labels), (None, Some(428)), "299 of the 70 % that are accepted");
    }

    #[test]
    fn more_labels_help_where_a_higher_start_keeps_alpha() {
        // A tenth of the labels below 0.5 differs: 2.9 % of what the start of 70 % accepts, nothing of the upper half.
        let labels = |n: u16| -> Vec<Labelled> {
            let differs = |label: &Labelled, i: usize| label.score < 0.5 && i.is_multiple_of(10);
            let all = differing_below(0.0, n).into_iter().enumerate();
            all.map(|(i, label)| Labelled { differs: differs(&label, i), ..label }).collect()
        };
        let local = target(Contract::Local, 0.01);
        let outcome = certify(&local, &grid(), &labels(1_000));
        let more = outcome.needs_labels.unwrap() as u16;
        assert!(outcome.threshold.is_none() && more < 500, "{outcome:?}");
        assert!(certify(&local, &grid(), &labels(1_000 + more)).threshold.is_some());
    }

    #[test]
    fn no_number_of_labels_is_named_where_the_rate_is_not_below_alpha() {
        let all_differ = certify(&target(Contract::Local, 0.01), &grid(), &differing_below(2.0, 5_000));
        assert_eq!((all_differ.threshold, all_differ.needs_labels), (None, None));
        let local = target(Contract::Local, 0.01);
        assert_eq!(least_trials(&local, 10, 1_000, 1_000), None);
        let out_of_reach = certify(&target(Contract::Local, 1e-300), &grid(), &differing_below(0.0, 1_000));
        assert_eq!((out_of_reach.threshold, out_of_reach.needs_labels), (None, None));
        assert_eq!(least_trials(&local, 9_999, 1_000_000, 1_000_000), None, "too many to name");
        let n = least_trials(&local, 9, 1_000, 1_000).unwrap();
        assert!(cdf((9 * n).div_ceil(1_000), n, 0.01) <= 0.05 && n > 20_000, "{n}");
    }

    #[test]
    fn no_smaller_number_of_labels_at_the_rate_seen_would_do() {
        for (k, trials, alpha, delta) in [
            (3, 298, 0.02, 1e-6),
            (1, 90, 0.02, 0.05),
            (7, 1_000, 0.01, 0.05),
            (2, 350, 0.01, 0.01),
            (0, 10, 0.1, 0.05),
        ] {
            let target = Target::new(Contract::System, alpha, delta).unwrap();
            let passes = |n: &u64| cdf((k * n).div_ceil(trials), *n, alpha) <= delta;
            let least = (trials..).find(passes).unwrap();
            assert_eq!(least_trials(&target, k, trials, trials), Some(least), "{k} of {trials}");
            let later = (least + 1..).find(passes).unwrap();
            assert_eq!(least_trials(&target, k, trials, least + 1), Some(later), "{k} of {trials}, from {least}");
        }
    }

    #[test]
    fn a_score_that_is_no_number_counts_and_is_never_local() {
        let mut labels = differing_below(0.0, 1_000);
        labels.extend((0..1_000).map(|_| Labelled { score: f32::NAN, differs: true }));
        let outcome = certify(&target(Contract::System, 0.01), &grid(), &labels);
        assert_eq!((outcome.n, outcome.accepted, outcome.offload), (2_000, Some(1_000), 0.5));
    }

    #[test]
    fn an_outcome_is_what_its_definition_says_whatever_the_labels() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for round in 0..300 {
            let n = rng.next_u32() as usize % 3_000;
            let (slope, ties) = (uniform(&mut rng) * 0.3, rng.next_u32().is_multiple_of(2));
            let mut labels: Vec<Labelled> = (0..n)
                .map(|_| {
                    let score = uniform(&mut rng);
                    let score = if ties { (score * 8.0).floor() / 8.0 } else { score };
                    Labelled { score, differs: uniform(&mut rng) < slope * (1.0 - score) }
                })
                .collect();
            let scores: Vec<f32> = (0..1 + rng.next_u32() % 500).map(|_| uniform(&mut rng)).collect();
            let grid = Grid::from_scores(&scores).unwrap();
            let contract = Contract::ALL[round % 2];
            let target = target(contract, [0.05, 0.02, 0.01][round % 3]);
            let outcome = certify(&target, &grid, &labels);
            assert_eq!(outcome.threshold, by_definition(&target, &grid, &labels), "round {round}");
            labels.reverse();
            assert_eq!(certify(&target, &grid, &labels), outcome, "round {round}: the order of labels matters");
        }
    }

    fn by_definition(target: &Target, grid: &Grid, labels: &[Labelled]) -> Option<f32> {
        let least = (target.delta().ln() / (1.0 - target.alpha()).ln()).ceil();
        let share = (2.5 * least / labels.len() as f64).min(0.7);
        let mut certified = None;
        for (j, &threshold) in grid.thresholds().iter().enumerate() {
            if target.contract() == Contract::Local && grid.accepted_share(j) < share {
                continue;
            }
            let accepted: Vec<_> = labels.iter().filter(|label| label.score >= threshold).collect();
            let k = accepted.iter().filter(|label| label.differs).count() as u64;
            let trials = if target.contract() == Contract::Local { accepted.len() } else { labels.len() } as u64;
            if cdf(k, trials, target.alpha()) > target.delta() {
                break;
            }
            certified = Some(threshold);
        }
        certified
    }
}
