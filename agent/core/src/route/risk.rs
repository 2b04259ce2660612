//! How likely a local answer of some score differs from the cloud's: what budgets weigh offloads by.
//!
//! Labels are counted per interval of the certificate's grid and made monotone in the score (isotonic regression by
//! pooling adjacent violators); between the thresholds the estimate is interpolated. Where labels are few the score itself counts:
//! an agreement head's score is the probability of agreement, and half of it is taken for a softmax score.
//!
//! It orders requests under a budget and nothing else: no status depends on it, so it may learn from the labels of requests
//! that it chose itself.

use hedge_certify::{Certificate, Labelled, Scoring};
use serde::{Deserialize, Serialize};

/// How many labels the score alone is worth.
const PRIOR: f32 = 2.0;
/// An interval with more labels forgets the older half.
const MEMORY: f32 = 400.0;
/// How much of the estimate is the score's own, so that equal estimates are still ordered.
const OWN: f32 = 0.05;

/// The estimate for one certificate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Risk {
    /// Of the disagreement that a score without any confidence stands for.
    scale: f32,
    /// The grid's, descending.
    thresholds: Vec<f32>,
    /// One more than thresholds: above the first, …, below the last.
    intervals: Vec<Interval>,
}

#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Interval {
    labels: f32,
    differing: f32,
    estimate: f32,
}

impl Risk {
    /// What nobody has labelled yet.
    pub(crate) fn new(certificate: &Certificate) -> Self {
        let thresholds = certificate.grid.thresholds().to_vec();
        let scale = if matches!(certificate.scoring, Scoring::Head(_)) { 1.0 } else { 0.5 };
        let mut risk = Self { scale, intervals: vec![Interval::default(); thresholds.len() + 1], thresholds };
        risk.fit();
        risk
    }

    /// What these labels say.
    pub(crate) fn of(certificate: &Certificate, labels: &[Labelled]) -> Self {
        let mut risk = Self::new(certificate);
        for label in labels {
            risk.count(label.score, label.differs);
        }
        risk.fit();
        risk
    }

    pub(crate) fn learn(&mut self, score: f32, differs: bool) {
        self.count(score, differs);
        self.fit();
    }

    /// The probability (0..1) that the local answer of this score differs.
    pub(crate) fn of_score(&self, score: f32) -> f64 {
        let at = self.interval(score);
        let own = self.prior(score);
        let value = self.intervals[at].estimate;
        // Interpolated towards the neighbour that is nearer; at a threshold the mean of both sides.
        let interpolated = match (at.checked_sub(1).map(|above| self.thresholds[above]), self.thresholds.get(at)) {
            (Some(high), Some(&low)) if high > low => {
                let depth = ((high - score) / (high - low)).clamp(0.0, 1.0);
                let above = 0.5 * (value + self.intervals[at - 1].estimate);
                let below = 0.5 * (value + self.intervals[at + 1].estimate);
                above + depth * (below - above)
            }
            _ => value,
        };
        f64::from(((1.0 - OWN) * interpolated + OWN * own).clamp(0.0, 1.0))
    }

    /// The estimate above which `share` of all requests lies, among those below the certificate's threshold; 0 where fewer are
    /// below it.
    pub(crate) fn price(&self, certificate: &Certificate, share: f64) -> f64 {
        let grid = &certificate.grid;
        let threshold = grid.bin(certificate.threshold);
        let mut left = share;
        for at in (threshold + 1..self.intervals.len()).rev() {
            // What the threshold below accepts beyond the one above it; at the bottom, what no threshold accepts.
            let accepted = if at < grid.len() { grid.accepted_share(at) } else { 1.0 };
            left -= accepted - grid.accepted_share(at - 1);
            if left <= 0.0 {
                return f64::from(self.intervals[at].estimate);
            }
        }
        0.0
    }

    fn count(&mut self, score: f32, differs: bool) {
        let at = self.interval(score);
        let interval = &mut self.intervals[at];
        if interval.labels >= MEMORY {
            interval.labels /= 2.0;
            interval.differing /= 2.0;
        }
        interval.labels += 1.0;
        interval.differing += f32::from(u8::from(differs));
    }

    /// Estimates that do not fall from the surest interval to the least sure one.
    fn fit(&mut self) {
        let mut blocks: Vec<(f32, f32, usize)> = Vec::with_capacity(self.intervals.len());
        for at in 0..self.intervals.len() {
            let Interval { labels, differing, .. } = self.intervals[at];
            let middle = match (at.checked_sub(1).map(|above| self.thresholds[above]), self.thresholds.get(at)) {
                (Some(high), Some(&low)) => 0.5 * (high + low),
                (None, Some(&low)) => low,
                (Some(high), None) => 0.5 * high,
                (None, None) => 0.5,
            };
            let mut block = (labels + PRIOR, differing + PRIOR * self.prior(middle), 1);
            while let Some(&(weight, sum, len)) = blocks.last() {
                if sum / weight <= block.1 / block.0 {
                    break;
                }
                blocks.pop();
                block = (block.0 + weight, block.1 + sum, block.2 + len);
            }
            blocks.push(block);
        }
        let estimates = blocks.iter().flat_map(|&(weight, sum, len)| std::iter::repeat_n(sum / weight, len));
        for (interval, estimate) in self.intervals.iter_mut().zip(estimates) {
            interval.estimate = estimate;
        }
    }

    fn prior(&self, score: f32) -> f32 {
        let score = if score.is_nan() { 0.0 } else { score.clamp(0.0, 1.0) };
        self.scale * (1.0 - score)
    }

    fn interval(&self, score: f32) -> usize {
        if score.is_nan() {
            return self.thresholds.len();
        }
        self.thresholds.partition_point(|&threshold| threshold > score)
    }
}

#[cfg(test)]
mod tests {
    use hedge_certify::{Contract, Fingerprint, Grid, Issue, Spending, Subject, Target, Window};

    use super::*;
    use crate::route::coin::Coins;

    /// Disagreement falls with the square of a uniform score.
    fn labels(seed: u64, count: usize) -> Vec<Labelled> {
        let mut coins = Coins::new(seed);
        (0..count)
            .map(|_| {
                let score = coins.throw();
                Labelled { score: score as f32, differs: coins.throw() < truth(score) }
            })
            .collect()
    }

    fn truth(score: f64) -> f64 {
        0.6 * (1.0 - score).powi(2)
    }

    fn certificate() -> Certificate {
        let one = Fingerprint([1; 32]);
        let subject = Subject {
            edge: one,
            cloud: one,
            device_class: "cpu".into(),
            transforms: one,
            comparison: "top-class".into(),
        };
        let issue = Issue {
            subject,
            scoring: Scoring::Margin,
            target: Target::new(Contract::System, 0.01, 0.05).unwrap(),
            spending: Spending::Whole,
            grid: Grid::from_scores(&labels(1, 2_000).iter().map(|label| label.score).collect::<Vec<_>>()).unwrap(),
            window: Window { first_unix_secs: 1, last_unix_secs: 2 },
            issued_unix_secs: 3,
            lifetime_secs: 1_000,
        };
        Certificate::issue(issue, &labels(2, 5_000)).unwrap()
    }

    #[test]
    fn the_estimate_falls_with_the_score_and_comes_near_the_truth() {
        let risk = Risk::of(&certificate(), &labels(3, 7_000));
        let (mut last, mut error) = (f64::INFINITY, 0.0);
        for hundredth in 0..=100 {
            let score = f64::from(hundredth) / 100.0;
            let estimate = risk.of_score(score as f32);
            assert!(estimate < last, "it rises at {score}");
            error += (estimate - truth(score)).abs() / 101.0;
            last = estimate;
        }
        assert!(error < 0.03, "off by {error} in the mean");
        assert!(risk.of_score(f32::NAN) >= risk.of_score(0.0));
    }

    #[test]
    fn the_price_is_the_disagreement_above_which_a_share_lies() {
        let certificate = certificate();
        let risk = Risk::of(&certificate, &labels(3, 7_000));
        // The least sure tenth has scores below 0.1.
        let price = risk.price(&certificate, 0.1);
        assert!((price - truth(0.1)).abs() < 0.08, "{price}");
        assert_eq!(risk.price(&certificate, 1.0), 0.0, "the certificate wants less than that");
    }

    #[test]
    fn labels_correct_a_score_that_is_surer_than_it_should_be() {
        let mut risk = Risk::new(&certificate());
        let before = risk.of_score(0.5);
        for label in 0..2_000_u16 {
            risk.learn(0.4 + f32::from(label % 200) / 1000.0, true);
        }
        assert!(risk.of_score(0.5) > 0.9 && before < 0.3, "{before}, then {}", risk.of_score(0.5));
    }
}
