//! Thresholds without a bound: what one labelled sample suggests, and what one who knew the truth would choose.
//!
//! A row is answered locally when `score >= threshold`. The fraction of all rows that get a local answer which differs
//! from the cloud's can only fall as the threshold rises; the fraction of the locally answered ones may go up and down. Both are
//! the lowest threshold whose fraction meets alpha, wherever it is on the way.

use serde::{Deserialize, Serialize};

use crate::sequence::Tally;
use crate::{Contract, Grid, Labelled};

/// The smallest of the observed scores that, used as threshold, leaves at most the fraction `target_disagreement`
/// (0..1) of *all* pairs with a local answer that disagrees with the cloud's.
///
/// `pairs` are (score of the edge's answer, whether it agrees with the cloud's). Pairs of equal score stand or fall
/// together. A NaN score is never answered locally. Where no threshold meets the target, and where there are no pairs,
/// the result is `f32::INFINITY`: ask the cloud always. A score below every observed one stays below the threshold:
/// nothing is known about it.
#[must_use]
pub fn plug_in_threshold(pairs: &[(f32, bool)], target_disagreement: f64) -> f32 {
    let labels: Vec<Labelled> = pairs.iter().map(|&(score, agrees)| Labelled { score, differs: !agrees }).collect();
    oracle(Contract::System, target_disagreement, &labels).threshold.unwrap_or(f32::INFINITY)
}

/// The lowest threshold of `grid` at which the fraction *seen* in `labels` is at most `alpha`: what a calibration without a
/// test would use. It breaks alpha about every second time.
#[must_use]
pub fn plug_in_on_grid(contract: Contract, alpha: f64, grid: &Grid, labels: &[Labelled]) -> Option<f32> {
    Tally::of(grid, labels).lowest_within(contract, alpha).map(|j| grid.thresholds()[j])
}

/// The best that any threshold can do on a sample that is the whole truth.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Oracle {
    /// The lowest of all scores that keeps alpha as a threshold; `None` if none does.
    pub threshold: Option<f32>,
    /// Share of the sample below it, 0 to 1; 1 where there is none.
    pub offload: f64,
}

/// The lowest threshold, of all scores in `truth`, that keeps `alpha` on `truth` itself.
///
/// Rows of equal score stand or fall together. A NaN score counts and is never answered locally.
#[must_use]
pub fn oracle(contract: Contract, alpha: f64, truth: &[Labelled]) -> Oracle {
    let mut sorted: Vec<Labelled> = truth.iter().copied().filter(|row| !row.score.is_nan()).collect();
    sorted.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));

    let total = truth.len() as u64;
    let mut best = Oracle { threshold: None, offload: 1.0 };
    let (mut accepted, mut differing) = (0_u64, 0_u64);
    for group in sorted.chunk_by(|a, b| a.score == b.score) {
        accepted += group.len() as u64;
        differing += group.iter().filter(|row| row.differs).count() as u64;
        if contract.risk(differing, accepted, total) <= alpha {
            let offload = (total - accepted) as f64 / total as f64;
            best = Oracle { threshold: Some(group[0].score), offload };
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(f32, bool); 5] = [(0.9, true), (0.8, true), (0.7, false), (0.6, true), (0.5, false)];

    #[test]
    fn the_threshold_is_the_smallest_score_that_meets_the_target() {
        // One of five disagrees at 0.7 and above, two of five at 0.5 and above.
        assert_eq!(plug_in_threshold(&PAIRS, 0.0), 0.8);
        assert_eq!(plug_in_threshold(&PAIRS, 0.19), 0.8);
        assert_eq!(plug_in_threshold(&PAIRS, 0.2), 0.6);
        assert_eq!(plug_in_threshold(&PAIRS, 0.4), 0.5);
        assert_eq!(plug_in_threshold(&PAIRS, 1.0), 0.5);
    }

    #[test]
    fn the_order_of_the_pairs_does_not_matter() {
        let mut reversed = PAIRS;
        reversed.reverse();
        assert_eq!(plug_in_threshold(&reversed, 0.2), 0.6);
    }

    #[test]
    fn pairs_of_equal_score_stand_or_fall_together() {
        let pairs = [(0.9, true), (0.8, true), (0.8, false)];
        assert_eq!(plug_in_threshold(&pairs, 0.1), 0.9);
        assert_eq!(plug_in_threshold(&pairs, 0.34), 0.8);
    }

    #[test]
    fn without_a_threshold_that_meets_the_target_everything_goes_to_the_cloud() {
        assert_eq!(plug_in_threshold(&[], 0.5), f32::INFINITY);
        assert_eq!(plug_in_threshold(&[(0.9, false)], 0.5), f32::INFINITY);
        assert_eq!(plug_in_threshold(&[(0.9, true)], -1.0), f32::INFINITY);
    }

    #[test]
    fn a_score_that_is_not_a_number_counts_but_never_stays_local() {
        let pairs = [(f32::NAN, false), (0.5, false), (0.9, true), (0.8, true)];
        assert_eq!(plug_in_threshold(&pairs, 0.25), 0.5);
        assert_eq!(plug_in_threshold(&pairs, 0.24), 0.8);
    }

    #[test]
    fn the_local_contract_may_be_kept_again_below_where_it_is_broken() {
        let rows = |pairs: &[(f32, bool)]| -> Vec<Labelled> {
            pairs.iter().map(|&(score, differs)| Labelled { score, differs }).collect()
        };
        // Of the local answers one half, a third, a quarter and a half again differ.
        let labels = rows(&[(0.9, false), (0.8, true), (0.7, false), (0.6, false), (0.5, true), (0.4, true)]);
        assert_eq!(oracle(Contract::Local, 0.25, &labels), Oracle { threshold: Some(0.6), offload: 2.0 / 6.0 });
        assert_eq!(oracle(Contract::System, 0.25, &labels), Oracle { threshold: Some(0.6), offload: 2.0 / 6.0 });
        assert_eq!(oracle(Contract::Local, 0.25, &labels[1..2]), Oracle { threshold: None, offload: 1.0 });
        let grid = Grid::from_scores(&[0.9, 0.65, 0.5]).unwrap();
        assert_eq!(plug_in_on_grid(Contract::Local, 0.35, &grid, &labels), Some(0.65));
        assert_eq!(plug_in_on_grid(Contract::System, 0.35, &grid, &labels), Some(0.5));
        assert_eq!(plug_in_on_grid(Contract::System, 0.1, &Grid::from_scores(&[0.5]).unwrap(), &labels), None);
    }
}
