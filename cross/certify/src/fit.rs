//! Fitting the agreement head: logistic regression by Newton's method, which for it is iteratively reweighted least squares.
//!
//! Minimized is the negative log-likelihood plus `lambda/2 * w^2` for each weight, over standardized columns, in f64, from
//! a fixed start and in a fixed order: the same labels give the same head. The penalty makes the objective strictly
//! convex: data that a line separates, and a class that never differs, still get finite weights. The method is the one
//! of Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning" (2nd ed.), section 4.4.1, with a halved
//! step where a full one would not descend.

use std::collections::BTreeMap;

use crate::features::Features;
use crate::head::{AgreementHead, COLUMNS, MAX_CLASSES, columns};

/// The fewest labels that a head is fitted on.
pub const FEWEST_LABELS: usize = 100;

/// Labels that a predicted class needs for a weight of its own.
const FEWEST_OF_CLASS: usize = 5;

/// Penalties. A numeric weight is of a standardized column. A class is a guess about few rows: its log-odds are taken for
/// normal with a standard deviation of 0.3. The intercept is practically free.
const NUMERIC_PENALTY: f64 = 1.0;
const CLASS_PENALTY: f64 = 10.0;
const INTERCEPT_PENALTY: f64 = 1e-6;

/// Newton needs about eight steps; the bound is for what rounding might do.
const MOST_STEPS: usize = 50;
const MOST_HALVINGS: usize = 30;
/// The expected decrease, in nats of the whole objective, below which a step is not worth it.
const TOLERANCE: f64 = 1e-9;

/// Labels that no head can be fitted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// Too few rows had an answer and a label.
    #[error("{labels} labelled answers are too few to fit an agreement head: gather at least {FEWEST_LABELS}")]
    TooFew {
        /// Rows that had an answer.
        labels: usize,
    },
    /// There is nothing to tell apart.
    #[error("all {labels} labels are the same ({}): there is nothing to fit, use margin or msp", 
            if *differs { "differs" } else { "agrees" })]
    OneOutcome {
        /// Rows that had an answer.
        labels: usize,
        /// What they all are.
        differs: bool,
    },
}

impl AgreementHead {
    /// Fits a head on rows and whether the cloud's answer differed. Rows without an answer are left out: they score 0.
    pub fn fit(labels: &[(Features, bool)]) -> Result<Self, FitError> {
        let answered: Vec<&(Features, bool)> = labels.iter().filter(|(features, _)| features.is_answer()).collect();
        let count = answered.len();
        if count < FEWEST_LABELS {
            return Err(FitError::TooFew { labels: count });
        }
        let differs = answered[0].1;
        if answered.iter().all(|row| row.1 == differs) {
            return Err(FitError::OneOutcome { labels: count, differs });
        }
        let scale = Scale::of(&answered);
        let classes = frequent_classes(&answered);
        let rows: Vec<Row> = answered.iter().map(|(f, differs)| Row::new(f, *differs, &scale, &classes)).collect();
        let weights = minimize(&Objective { rows: &rows, size: DENSE + classes.len() });
        Ok(scale.unfold(&weights, &classes))
    }
}

/// The intercept and the numeric columns: every row has these.
const DENSE: usize = 1 + COLUMNS;

/// Mean and one over the standard deviation of each numeric column.
struct Scale {
    mean: [f64; COLUMNS],
    inverse: [f64; COLUMNS],
}

impl Scale {
    fn of(rows: &[&(Features, bool)]) -> Self {
        let count = rows.len() as f64;
        let (mut mean, mut inverse) = ([0.0; COLUMNS], [0.0; COLUMNS]);
        for row in rows {
            for (mean, value) in mean.iter_mut().zip(columns(&row.0)) {
                *mean += value / count;
            }
        }
        for row in rows {
            for ((square, value), mean) in inverse.iter_mut().zip(columns(&row.0)).zip(&mean) {
                *square += (value - mean).powi(2) / count;
            }
        }
        for (square, mean) in inverse.iter_mut().zip(&mean) {
            let deviation = square.sqrt();
            // A column that does not vary tells nothing, and its weight would be rounding.
            *square = if deviation > 1e-5 * (1.0 + mean.abs()) { deviation.recip() } else { 0.0 };
        }
        Self { mean, inverse }
    }

    /// The head of raw features that standardized weights amount to.
    fn unfold(&self, weights: &[f64], classes: &BTreeMap<u32, usize>) -> AgreementHead {
        let mut intercept = weights[0];
        let mut raw = [0.0; COLUMNS];
        for (column, raw) in raw.iter_mut().enumerate() {
            let weight = weights[1 + column] * self.inverse[column];
            intercept -= weight * self.mean[column];
            *raw = weight as f32;
        }
        let classes = classes.iter().map(|(&class, &slot)| (class, weights[slot] as f32)).collect();
        AgreementHead { intercept: intercept as f32, weights: raw, classes }
    }
}

/// The weights' positions of the most frequent predicted classes.
fn frequent_classes(rows: &[&(Features, bool)]) -> BTreeMap<u32, usize> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.0.class).or_default() += 1;
    }
    let mut frequent: Vec<(u32, usize)> = counts.into_iter().filter(|&(_, count)| count >= FEWEST_OF_CLASS).collect();
    // Stable: among equally frequent ones the lower class stays first.
    frequent.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    frequent.truncate(MAX_CLASSES);
    frequent.into_iter().enumerate().map(|(at, (class, _))| (class, DENSE + at)).collect()
}

/// One label: its dense columns, the position of its class's weight, and whether the answers agreed.
struct Row {
    dense: [f64; DENSE],
    class: Option<usize>,
    agrees: bool,
}

impl Row {
    fn new(features: &Features, differs: bool, scale: &Scale, classes: &BTreeMap<u32, usize>) -> Self {
        let mut dense = [1.0; DENSE];
        for (column, value) in columns(features).into_iter().enumerate() {
            dense[1 + column] = (value - scale.mean[column]) * scale.inverse[column];
        }
        Self { dense, class: classes.get(&features.class).copied(), agrees: !differs }
    }

    fn log_odds(&self, weights: &[f64]) -> f64 {
        let numeric: f64 = self.dense.iter().zip(weights).map(|(value, weight)| value * weight).sum();
        numeric + self.class.map_or(0.0, |class| weights[class])
    }

    /// The columns that are not 0, with their positions.
    fn entries(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.dense.iter().copied().enumerate().chain(self.class.map(|class| (class, 1.0)))
    }
}

/// The penalized negative log-likelihood.
struct Objective<'a> {
    rows: &'a [Row],
    size: usize,
}

impl Objective<'_> {
    fn value(&self, weights: &[f64]) -> f64 {
        let loss: f64 = self.rows.iter().map(|row| softplus(row.signed(weights))).sum();
        let penalty: f64 = weights.iter().enumerate().map(|(at, w)| penalty(at) * w * w / 2.0).sum();
        loss + penalty
    }

    /// Gradient, and the lower triangle of the Hessian row by row.
    fn derivatives(&self, weights: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut gradient: Vec<f64> = weights.iter().enumerate().map(|(at, w)| penalty(at) * w).collect();
        let mut hessian = vec![0.0; self.size * self.size];
        for at in 0..self.size {
            hessian[at * self.size + at] = penalty(at);
        }
        for row in self.rows {
            let probability = logistic(row.log_odds(weights));
            let residual = probability - f64::from(u8::from(row.agrees));
            let curvature = probability * (1.0 - probability);
            for (i, value) in row.entries() {
                gradient[i] += residual * value;
                // Entries ascend by position, so the first ones up to i make the lower triangle.
                for (j, other) in row.entries().take_while(|&(j, _)| j <= i) {
                    hessian[i * self.size + j] += curvature * value * other;
                }
            }
        }
        (gradient, hessian)
    }
}

impl Row {
    /// The log-odds of the outcome that was *not* observed.
    fn signed(&self, weights: &[f64]) -> f64 {
        let log_odds = self.log_odds(weights);
        if self.agrees { -log_odds } else { log_odds }
    }
}

fn penalty(position: usize) -> f64 {
    match position {
        0 => INTERCEPT_PENALTY,
        1..DENSE => NUMERIC_PENALTY,
        _ => CLASS_PENALTY,
    }
}

/// ln(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The weights where the objective is least.
fn minimize(objective: &Objective<'_>) -> Vec<f64> {
    let mut weights = vec![0.0; objective.size];
    let mut value = objective.value(&weights);
    for _ in 0..MOST_STEPS {
        let (gradient, hessian) = objective.derivatives(&weights);
        // The penalty keeps the Hessian positive definite; where rounding says otherwise, this is as near as can be told.
        let Some(step) = solve(hessian, &gradient) else { break };
        let decrease: f64 = gradient.iter().zip(&step).map(|(g, s)| g * s).sum();
        if decrease < TOLERANCE {
            break;
        }
        let Some((next, lower)) = descend(objective, &weights, value, &step, decrease) else { break };
        (weights, value) = (next, lower);
    }
    weights
}

/// The point along `-step` that is lower by a fair part of what the slope promises: the whole step, or a halved one.
fn descend(
    objective: &Objective<'_>,
    from: &[f64],
    value: f64,
    step: &[f64],
    decrease: f64,
) -> Option<(Vec<f64>, f64)> {
    let mut length = 1.0;
    for _ in 0..MOST_HALVINGS {
        let next: Vec<f64> = from.iter().zip(step).map(|(weight, s)| weight - length * s).collect();
        let lower = objective.value(&next);
        if lower <= value - 1e-4 * length * decrease {
            return Some((next, lower));
        }
        length /= 2.0;
    }
    None
}

/// Solves `matrix * x = right` by Cholesky decomposition; only the lower triangle is read. `None` if the matrix is not positive
/// definite.
fn solve(mut matrix: Vec<f64>, right: &[f64]) -> Option<Vec<f64>> {
    let size = right.len();
    for i in 0..size {
        for j in 0..=i {
            let (row, other) = (&matrix[i * size..i * size + j], &matrix[j * size..j * size + j]);
            let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            let rest = matrix[i * size + j] - dot;
            matrix[i * size + j] = if i == j {
                if rest.is_nan() || rest <= 0.0 {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / matrix[j * size + j]
            };
        }
    }
    let mut x = right.to_vec();
    for i in 0..size {
        let dot: f64 = (0..i).map(|j| matrix[i * size + j] * x[j]).sum();
        x[i] = (x[i] - dot) / matrix[i * size + i];
    }
    for i in (0..size).rev() {
        let dot: f64 = (i + 1..size).map(|j| matrix[j * size + i] * x[j]).sum();
        x[i] = (x[i] - dot) / matrix[i * size + i];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Logits of `classes` classes with one on top by 0 to 8.
    fn draw(random: &mut ChaCha8Rng, classes: usize) -> Features {
        let mut logits: Vec<f32> = (0..classes).map(|_| random.random_range(-2.0..0.0)).collect();
        let top = random.random_range(0..classes);
        logits[top] = random.random_range(0.0..8.0);
        Features::of(&logits)
    }

    /// Labels whose odds of agreement the caller knows.
    fn labels(seed: u64, count: usize, classes: usize, log_odds: impl Fn(&Features) -> f64) -> Vec<(Features, bool)> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|_| {
                let features = draw(&mut random, classes);
                (features, random.random::<f64>() >= logistic(log_odds(&features)))
            })
            .collect()
    }

    #[test]
    fn the_odds_that_made_the_labels_are_found_again() {
        let truth = |f: &Features| -1.0 - 0.8 * f64::from(f.top[0]) - if f.class == 2 { 3.0 } else { 0.0 };
        let head = AgreementHead::fit(&labels(1, 20_000, 4, truth)).unwrap();
        let worst = labels(2, 1_000, 4, truth)
            .iter()
            .map(|(f, _)| (f64::from(head.score(f)) - logistic(truth(f))).abs())
            .fold(0.0, f64::max);
        assert!(worst < 0.06, "off by {worst}");
    }

    #[test]
    fn the_mean_probability_is_the_observed_agreement() {
        // The score equation of the (all but unpenalized) intercept.
        let data = labels(3, 2_000, 10, |f| f64::from(f.margin) * 4.0 - 1.0);
        let head = AgreementHead::fit(&data).unwrap();
        let mean: f64 = data.iter().map(|(f, _)| f64::from(head.score(f))).sum::<f64>() / 2_000.0;
        let agreed = data.iter().filter(|(_, differs)| !differs).count() as f64 / 2_000.0;
        assert!((mean - agreed).abs() < 1e-5, "{mean} is not {agreed}");
    }

    #[test]
    fn labels_that_a_line_separates_give_finite_weights_and_a_perfect_order() {
        let mut data = labels(4, 1_000, 3, |_| 0.0);
        data.retain(|(features, _)| !(0.3..0.7).contains(&features.margin));
        for (features, differs) in &mut data {
            *differs = features.margin < 0.5;
        }
        let head = AgreementHead::fit(&data).unwrap();
        let scores = |differing: bool| data.iter().filter(move |row| row.1 == differing).map(|(f, _)| head.score(f));
        let highest = scores(true).fold(0.0, f32::max);
        let lowest = scores(false).fold(1.0, f32::min);
        assert!(0.0 < highest && highest < lowest && lowest < 1.0, "{highest} {lowest} {head:?}");
        let json = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<AgreementHead>(&json).unwrap(), head, "it passes its own check");
    }

    #[test]
    fn a_class_that_the_edge_is_too_sure_of_gets_a_lower_score() {
        let data = labels(5, 3_000, 10, |f| if f.class == 7 { 0.0 } else { 3.0 });
        let head = AgreementHead::fit(&data).unwrap();
        let at = |class| head.score(&Features { class, ..data[0].0 });
        assert!(at(7) < at(1) - 0.2, "{} against {}", at(7), at(1));
    }

    #[test]
    fn the_same_labels_give_the_same_head() {
        let data = labels(6, 500, 10, |f| f64::from(f.margin));
        assert_eq!(AgreementHead::fit(&data), AgreementHead::fit(&data));
    }

    #[test]
    fn only_frequent_classes_get_a_weight_and_not_more_than_the_bound() {
        let data = labels(7, 4_000, 300, |f| f64::from(f.margin));
        let head = AgreementHead::fit(&data).unwrap();
        assert_eq!(head.classes.len(), MAX_CLASSES);
        let mut rare = labels(8, 200, 3, |_| 1.0);
        rare.iter_mut().take(FEWEST_OF_CLASS - 1).for_each(|(features, _)| features.class = 99);
        let head = AgreementHead::fit(&rare).unwrap();
        assert!(head.classes.iter().all(|&(class, _)| class != 99), "{head:?}");
    }

    #[test]
    fn columns_that_do_not_vary_carry_no_weight() {
        // Two classes: four of the five kept logits do not exist.
        let head = AgreementHead::fit(&labels(9, 500, 2, |f| f64::from(f.margin) * 3.0)).unwrap();
        assert_eq!(head.weights[4..], [0.0; 4]);
        assert!(head.weights[..4].iter().any(|&w| w != 0.0));
    }

    #[test]
    fn labels_that_tell_nothing_are_refused_by_name() {
        let mut data = labels(10, FEWEST_LABELS, 3, |_| 0.0);
        data[0].0 = Features::NO_ANSWER;
        assert_eq!(AgreementHead::fit(&data), Err(FitError::TooFew { labels: FEWEST_LABELS - 1 }));
        data[0].0 = data[1].0;
        data.iter_mut().for_each(|row| row.1 = false);
        let error = AgreementHead::fit(&data).unwrap_err();
        assert_eq!(error, FitError::OneOutcome { labels: FEWEST_LABELS, differs: false });
        assert!(error.to_string().contains("(agrees)"), "{error}");
    }

    #[test]
    fn extreme_features_still_give_finite_weights() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let data: Vec<(Features, bool)> = (0..300)
            .map(|_| {
                let wild = f32::from_bits(random.next_u32());
                let features = draw(&mut random, 3);
                (Features { entropy: wild, top: [wild, -wild, 0.0, 0.0, wild], ..features }, random.random())
            })
            .collect();
        let head = AgreementHead::fit(&data).unwrap();
        assert!(head.intercept.is_finite() && head.weights.iter().all(|w| w.is_finite()), "{head:?}");
    }

    #[test]
    fn cholesky_solves_and_refuses_what_is_not_positive_definite() {
        let x = solve(vec![4.0, 0.0, 2.0, 3.0], &[10.0, 8.0]).unwrap();
        // [4 2; 2 3] x = [10 8] has the solution [1.75, 1.5].
        assert!((x[0] - 1.75).abs() < 1e-12 && (x[1] - 1.5).abs() < 1e-12, "{x:?}");
        assert_eq!(solve(vec![1.0, 0.0, 2.0, 1.0], &[1.0, 1.0]), None);
    }
}
