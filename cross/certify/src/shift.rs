//! Whether scores are still distributed as when the grid was drawn: Kolmogorov-Smirnov, two samples, disjoint windows.
//!
//! The reference is the grid of a certificate: the share of `n` tune scores at or above each of at most 100 thresholds. A
//! window of `m` scores is counted into the bins between them. The supremum runs over the thresholds only, which can only
//! make it smaller, and the p-value is that of *two* samples, `n` and `m`: the reference has an error of its own. Both
//! make the test conservative; ties do as well. A shift is no alarm: harmless shifts move scores too.

use serde::{Deserialize, Serialize};

use crate::Grid;

/// The result of one test.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shift {
    /// Largest difference of the two cumulative shares, 0..1.
    pub statistic: f64,
    /// Probability of such a difference or a larger one without a shift (asymptotic).
    pub p_value: f64,
}

/// Scores counted into the bins of a grid until there are enough for a test.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScoreWindow {
    counts: Vec<u32>,
    scores: u32,
}

/// Compares counts of scores per bin ([`Grid::bin`]) with the grid's own shares. Without scores nothing has shifted.
#[must_use]
pub fn shift(grid: &Grid, counts: &[u32]) -> Shift {
    compare(grid.accepted(), grid.tune_size(), counts)
}

/// [`shift`] of scores as they are.
#[must_use]
pub fn shift_of_scores(grid: &Grid, scores: &[f32]) -> Shift {
    let mut window = ScoreWindow::new(grid);
    for &score in scores {
        window.add(grid.bin(score));
    }
    shift(grid, window.counts())
}

impl ScoreWindow {
    /// An empty window over the bins of `grid`: one for each threshold and one below them all.
    #[must_use]
    pub fn new(grid: &Grid) -> Self {
        Self { counts: vec![0; grid.len() + 1], scores: 0 }
    }

    /// Counts one score that falls into `bin` ([`Grid::bin`]). A score in a bin that the grid does not have is not counted.
    pub fn add(&mut self, bin: usize) {
        self.add_many(bin, 1);
    }

    /// Counts the scores of another window, another device's for instance.
    pub fn add_counts(&mut self, counts: &[u32]) {
        for (bin, &count) in counts.iter().enumerate() {
            self.add_many(bin, count);
        }
    }

    /// How many scores it holds.
    #[must_use]
    pub fn scores(&self) -> u32 {
        self.scores
    }

    /// Scores per bin.
    #[must_use]
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Empties it for the next, disjoint window.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.scores = 0;
    }

    fn add_many(&mut self, bin: usize, scores: u32) {
        if let Some(count) = self.counts.get_mut(bin) {
            *count = count.saturating_add(scores);
            self.scores = self.scores.saturating_add(scores);
        }
    }
}

/// Compares counts per bin with `size` other scores, of which `accepted` are in each bin or one before.
pub(crate) fn compare(accepted: &[u64], size: u64, counts: &[u32]) -> Shift {
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    if total == 0 || size == 0 {
        return Shift { statistic: 0.0, p_value: 1.0 };
    }
    let (n, m) = (size as f64, total as f64);
    let mut seen = 0_u64;
    let mut statistic = 0.0_f64;
    for (&count, &accepted) in counts.iter().zip(accepted) {
        seen += u64::from(count);
        statistic = statistic.max((seen as f64 / m - accepted as f64 / n).abs());
    }
    Shift { statistic, p_value: kolmogorov_tail(statistic * (n * m / (n + m)).sqrt()) }
}

/// Probability that the supremum of a Brownian bridge exceeds `lambda`: `2 * sum over k of (-1)^(k-1) exp(-2 k^2 lambda^2)`
/// (Kolmogorov 1933, Smirnov 1948).
fn kolmogorov_tail(lambda: f64) -> f64 {
    // Below 0.2 the tail is 1 to more than 10 digits and the series converges slowly.
    if lambda < 0.2 {
        return 1.0;
    }
    let mut sum = 0.0;
    let mut sign = 1.0;
    for k in 1..=100 {
        let term = libm::exp(-2.0 * f64::from(k * k) * lambda * lambda);
        sum += sign * term;
        sign = -sign;
        if term < 1e-17 {
            break;
        }
    }
    (2.0 * sum).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_the_kolmogorov_distribution_has_its_tabled_values() {
        // Smirnov 1948, table: the classical critical values of 10, 5, 1 and 0.1 %.
        for (lambda, p) in [(1.2238, 0.1), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)] {
            assert!((kolmogorov_tail(lambda) / p - 1.0).abs() < 2e-3, "{lambda}: {}", kolmogorov_tail(lambda));
        }
        assert_eq!(kolmogorov_tail(0.0), 1.0);
        assert!(kolmogorov_tail(0.2) > 0.999_999);
        assert!(kolmogorov_tail(40.0) < 1e-300);
    }

    fn grid(n: u16) -> Grid {
        let scores: Vec<f32> = (0..n).map(|i| f32::from(i) / f32::from(n)).collect();
        Grid::from_scores(&scores).unwrap()
    }

    #[test]
    fn the_statistic_is_the_largest_difference_of_the_cumulative_shares() {
        // Thresholds 0.99, 0.98, .. 0.0, each accepting one hundredth more; nothing of the window is above 0.3.
        let scores: Vec<f32> = (0..500_u16).map(|i| f32::from(i) / 500.0 * 0.3).collect();
        let found = shift_of_scores(&grid(5_000), &scores);
        assert!((found.statistic - 0.7).abs() < 1e-9, "{found:?}");
        assert!(found.p_value < 1e-100);
    }

    #[test]
    fn the_reference_has_an_error_of_its_own() {
        let scores: Vec<f32> = (0..500_u16).map(|i| f32::from(i) / 500.0 * 0.9).collect();
        let (small, large) = (shift_of_scores(&grid(500), &scores), shift_of_scores(&grid(50_000), &scores));
        assert!((small.statistic - large.statistic).abs() < 0.011);
        assert!(small.p_value > 1e-2 && large.p_value < 1e-3, "{small:?} {large:?}");
    }

    #[test]
    fn scores_that_are_no_numbers_are_a_shift() {
        assert!(shift_of_scores(&grid(5_000), &[f32::NAN; 500]).p_value < 1e-9);
        assert_eq!(shift_of_scores(&grid(5_000), &[]), Shift { statistic: 0.0, p_value: 1.0 });
    }

    #[test]
    fn windows_of_devices_add_up_to_one() {
        let grid = grid(5_000);
        let scores: Vec<f32> = (0..500_u16).map(|i| f32::from(i) / 500.0).collect();
        let mut pooled = ScoreWindow::new(&grid);
        for part in scores.chunks(7) {
            let mut window = ScoreWindow::new(&grid);
            part.iter().for_each(|&score| window.add(grid.bin(score)));
            pooled.add_counts(window.counts());
        }
        assert_eq!(pooled.scores(), 500);
        assert_eq!(shift(&grid, pooled.counts()), shift_of_scores(&grid, &scores));
        pooled.add(usize::MAX);
        assert_eq!(pooled.scores(), 500);
    }
}
