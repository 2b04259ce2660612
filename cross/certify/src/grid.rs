//! The thresholds that a calibration may choose from.
//!
//! They are quantiles of scores that carry no label, from a split apart from the calibration: where the fixed sequence
//! may stop is settled before the first calibration label is seen. The same scores are the reference that later scores
//! are compared with (Kolmogorov-Smirnov).

use serde::{Deserialize, Serialize};

use crate::Fingerprint;

/// The most thresholds of a grid.
pub const GRID_THRESHOLDS: usize = 100;

/// Distinct thresholds, descending, with the share of the tune split that each accepts.
///
/// Positions count from 0: threshold 0 is the largest and accepts least. A score is *accepted* by a threshold when
/// `score >= threshold`; NaN never is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawGrid")]
pub struct Grid {
    thresholds: Vec<f32>,
    /// Tune scores at or above the threshold of the same position.
    accepted: Vec<u64>,
    tune_size: u64,
}

impl Grid {
    /// The quantiles of `scores` at the levels 1 - j/100, j = 1..=100, each one of the scores, equal ones once.
    ///
    /// A NaN score counts in the size of the tune split and is accepted by no threshold; infinite ones are no
    /// thresholds.
    pub fn from_scores(scores: &[f32]) -> Result<Self, GridError> {
        // Adding 0 makes -0 and 0 one score with one text.
        let mut ordered: Vec<f32> = scores.iter().filter(|score| !score.is_nan()).map(|score| score + 0.0).collect();
        ordered.sort_unstable_by(|a, b| b.total_cmp(a));
        let above = ordered.partition_point(|&score| score == f32::INFINITY);
        let finite = &ordered[above..ordered.partition_point(|&score| score > f32::NEG_INFINITY)];
        if finite.is_empty() {
            return Err(GridError::NoScores { scores: scores.len() });
        }
        let mut thresholds: Vec<f32> =
            (1..=GRID_THRESHOLDS).map(|j| finite[(j * finite.len()).div_ceil(GRID_THRESHOLDS) - 1]).collect();
        thresholds.dedup();
        let accepted = thresholds.iter().map(|&t| ordered.partition_point(|&score| score >= t) as u64).collect();
        Ok(Self { thresholds, accepted, tune_size: scores.len() as u64 })
    }

    /// The thresholds, largest first.
    #[must_use]
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    /// The number of thresholds, at most [`GRID_THRESHOLDS`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a grid is never empty")]
    pub fn len(&self) -> usize {
        self.thresholds.len()
    }

    /// The fraction of the tune split that threshold `j` (from 0) accepts, 0 to 1.
    ///
    /// # Panics
    ///
    /// Panics if there is no such threshold.
    #[must_use]
    pub fn accepted_share(&self, j: usize) -> f64 {
        self.accepted[j] as f64 / self.tune_size as f64
    }

    /// How many tune scores each threshold accepts.
    #[must_use]
    pub fn accepted(&self) -> &[u64] {
        &self.accepted
    }

    /// The number of scores that the grid was made of, NaN ones included.
    #[must_use]
    pub fn tune_size(&self) -> u64 {
        self.tune_size
    }

    /// The first threshold that accepts `score`, or [`len`](Self::len) if none does: the bin of a histogram with
    /// `len() + 1` bins. Allocates nothing.
    #[must_use]
    pub fn bin(&self, score: f32) -> usize {
        if score.is_nan() { self.len() } else { self.thresholds.partition_point(|&threshold| threshold > score) }
    }

    /// SHA-256 over the tune size and each (threshold, accepted), in order, all little-endian.
    #[must_use]
    pub fn digest(&self) -> Fingerprint {
        let mut bytes = self.tune_size.to_le_bytes().to_vec();
        for (threshold, accepted) in self.thresholds.iter().zip(&self.accepted) {
            bytes.extend(threshold.to_le_bytes());
            bytes.extend(accepted.to_le_bytes());
        }
        Fingerprint::of(&bytes)
    }
}

/// Scores or numbers that make no grid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// There is no score to take a quantile of.
    #[error("none of the {scores} tune scores is a finite number: gather unlabelled scores first")]
    NoScores {
        /// Scores given.
        scores: usize,
    },
    /// A grid that was read has no thresholds, or too many, or not one count for each.
    #[error("a grid has 1 to 100 thresholds and a count for each, not {thresholds} and {counts}")]
    Size {
        /// Thresholds read.
        thresholds: usize,
        /// Counts read.
        counts: usize,
    },
    /// A grid that was read does not descend, or its counts do not ascend up to the tune size.
    #[error("the grid is out of order at threshold {position}: thresholds descend, counts ascend up to the tune size")]
    Order {
        /// Position from 0.
        position: usize,
    },
}

/// As read, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrid {
    thresholds: Vec<f32>,
    accepted: Vec<u64>,
    tune_size: u64,
}

impl TryFrom<RawGrid> for Grid {
    type Error = GridError;

    fn try_from(raw: RawGrid) -> Result<Self, GridError> {
        let RawGrid { thresholds, accepted, tune_size } = raw;
        if thresholds.is_empty() || thresholds.len() > GRID_THRESHOLDS || thresholds.len() != accepted.len() {
            return Err(GridError::Size { thresholds: thresholds.len(), counts: accepted.len() });
        }
        let (mut above, mut below) = (f32::INFINITY, 0);
        for (position, (&threshold, &count)) in thresholds.iter().zip(&accepted).enumerate() {
            if !(threshold.is_finite() && threshold < above && count > below && count <= tune_size) {
                return Err(GridError::Order { position });
            }
            (above, below) = (threshold, count);
        }
        Ok(Self { thresholds, accepted, tune_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundredths(n: u16) -> Vec<f32> {
        (1..=n).map(|i| f32::from(i) / f32::from(n)).collect()
    }

    #[test]
    fn each_threshold_accepts_one_hundredth_more_down_to_the_smallest_score() {
        let scores = hundredths(1_000);
        let grid = Grid::from_scores(&scores).unwrap();
        assert_eq!(grid.len(), 100);
        assert_eq!(grid.thresholds()[99], scores[0]);
        for j in 0..100 {
            assert_eq!(grid.accepted()[j], 10 * (j as u64 + 1));
        }
        assert_eq!(grid.accepted_share(69), 0.7);
    }

    #[test]
    fn equal_scores_make_one_threshold() {
        let grid = Grid::from_scores(&[0.9, 0.5, 0.5, 0.5, 0.0, -0.0]).unwrap();
        assert_eq!(grid.thresholds(), [0.9, 0.5, 0.0]);
        assert_eq!(grid.accepted(), [1, 4, 6]);
    }

    #[test]
    fn a_score_that_is_no_number_counts_and_is_never_accepted() {
        let grid = Grid::from_scores(&[f32::NAN, 0.5, f32::INFINITY, f32::NEG_INFINITY]).unwrap();
        assert_eq!((grid.thresholds(), grid.accepted(), grid.tune_size()), (&[0.5][..], &[2][..], 4));
        for nothing in [&[][..], &[f32::NAN, f32::INFINITY]] {
            assert_eq!(Grid::from_scores(nothing), Err(GridError::NoScores { scores: nothing.len() }));
        }
    }

    #[test]
    fn a_bin_is_the_first_threshold_that_accepts_the_score() {
        let grid = Grid::from_scores(&[0.9, 0.5, 0.1]).unwrap();
        for (score, bin) in
            [(1.0, 0), (0.9, 0), (0.89, 1), (0.5, 1), (0.1, 2), (0.09, 3), (f32::NAN, 3), (f32::INFINITY, 0)]
        {
            assert_eq!(grid.bin(score), bin, "{score}");
        }
    }

    #[test]
    fn a_grid_is_read_back_equal_and_a_spoilt_one_is_refused() {
        let grid = Grid::from_scores(&hundredths(777)).unwrap();
        let text = serde_json::to_string(&grid).unwrap();
        let read: Grid = serde_json::from_str(&text).unwrap();
        assert_eq!((read.digest(), &read), (grid.digest(), &grid));
        for spoilt in [
            r#"{"thresholds":[],"accepted":[],"tune_size":5}"#,
            r#"{"thresholds":[0.5],"accepted":[1,2],"tune_size":5}"#,
            r#"{"thresholds":[0.5,0.5],"accepted":[1,2],"tune_size":5}"#,
            r#"{"thresholds":[0.5,0.4],"accepted":[2,2],"tune_size":5}"#,
            r#"{"thresholds":[0.5,0.4],"accepted":[2,6],"tune_size":5}"#,
            r#"{"thresholds":[0.5,1e39],"accepted":[2,3],"tune_size":5}"#,
        ] {
            assert!(serde_json::from_str::<Grid>(spoilt).is_err(), "{spoilt}");
        }
    }

    #[test]
    fn the_digest_knows_every_number_of_the_grid() {
        let grid = Grid { thresholds: vec![0.5, 0.25], accepted: vec![1, 3], tune_size: 4 };
        let others = [
            Grid { thresholds: vec![0.5, 0.125], ..grid.clone() },
            Grid { accepted: vec![2, 3], ..grid.clone() },
            Grid { tune_size: 5, ..grid.clone() },
        ];
        assert!(others.iter().all(|other| other.digest() != grid.digest()));
    }
}
