//! Which score ranks best: chosen by the area under the risk-coverage curve on the tune split, never hard-coded.
//!
//! The choice looks at tune labels, never at the calibration's, so a certificate's bound is untouched by it.

use crate::features::Features;
use crate::head::{AgreementHead, Scoring};
use crate::sequence::Labelled;

/// Area under the risk-coverage curve, 0 to 1, lower is better: the mean, over all sizes m, of the fraction that differs
/// among the m rows of highest score (Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", 2017).
///
/// Rows of equal score are taken in the mean of all their orders, so ties neither help nor hurt by luck. NaN ranks last. 0
/// for no rows.
#[must_use]
pub fn aurc(rows: &[Labelled]) -> f64 {
    // NaN is nowhere accepted: like a score below all others.
    let rank = |row: &Labelled| if row.score.is_nan() { f32::NEG_INFINITY } else { row.score };
    let mut sorted = rows.to_vec();
    sorted.sort_unstable_by(|a, b| rank(b).total_cmp(&rank(a)));

    let (mut taken, mut differing, mut area) = (0.0, 0.0, 0.0);
    for ties in sorted.chunk_by(|a, b| rank(a) == rank(b)) {
        let rate = ties.iter().filter(|row| row.differs).count() as f64 / ties.len() as f64;
        for _ in ties {
            taken += 1.0;
            differing += rate;
            area += differing / taken;
        }
    }
    if rows.is_empty() { 0.0 } else { area / rows.len() as f64 }
}

/// A score that could be used, and how well it ranks.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// The score.
    pub scoring: Scoring,
    /// Area under its risk-coverage curve on the tune split.
    pub aurc: f64,
}

/// Margin, maximum probability and, where `fit` allows one, the agreement head, by their area on `tune`, best first; the simpler
/// first where they are equal. Rows are features and whether the cloud's answer differed.
#[must_use]
pub fn candidates(fit: &[(Features, bool)], tune: &[(Features, bool)]) -> Vec<Candidate> {
    let mut scorings = vec![Scoring::Margin, Scoring::Msp];
    // Labels that make no head are no failure: the softmax scores need none.
    scorings.extend(AgreementHead::fit(fit).ok().map(Scoring::Head));
    let mut candidates: Vec<Candidate> =
        scorings.into_iter().map(|scoring| Candidate { aurc: aurc(&scored(&scoring, tune)), scoring }).collect();
    candidates.sort_by(|a, b| a.aurc.total_cmp(&b.aurc));
    candidates
}

/// The score that ranks best on `tune`, with an agreement head fitted on `fit` alone among the candidates.
#[must_use]
pub fn choose(fit: &[(Features, bool)], tune: &[(Features, bool)]) -> Scoring {
    candidates(fit, tune).swap_remove(0).scoring
}

/// The rows under one score.
pub(crate) fn scored(scoring: &Scoring, rows: &[(Features, bool)]) -> Vec<Labelled> {
    rows.iter().map(|(features, differs)| Labelled { score: scoring.score(features), differs: *differs }).collect()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn rows(scores: &[f32], differing: &[u8]) -> Vec<Labelled> {
        scores.iter().zip(differing).map(|(&score, &d)| Labelled { score, differs: d == 1 }).collect()
    }

    #[test]
    fn the_area_is_the_mean_risk_over_all_coverages() {
        // Risks by coverage: 0, 1/2, 1/3, 2/4.
        let area = aurc(&rows(&[0.9, 0.8, 0.7, 0.6], &[0, 1, 0, 1]));
        assert!((area - (0.5 + 1.0 / 3.0 + 0.5) / 4.0).abs() < 1e-12, "{area}");
        assert_eq!(aurc(&rows(&[0.1, 0.9], &[0, 0])), 0.0);
        assert_eq!(aurc(&rows(&[0.1, 0.9], &[1, 1])), 1.0);
        assert_eq!(aurc(&[]), 0.0);
    }

    #[test]
    fn ties_count_as_the_mean_of_their_orders() {
        let orders = [[0, 1, 1], [1, 0, 1], [1, 1, 0]].map(|order| aurc(&rows(&[0.9, 0.8, 0.7], &order)));
        let tied = aurc(&rows(&[0.5; 3], &[1, 0, 1]));
        assert!((tied - orders.iter().sum::<f64>() / 3.0).abs() < 1e-12, "{tied} {orders:?}");
    }

    #[test]
    fn a_score_that_is_not_a_number_ranks_last() {
        let last = aurc(&rows(&[f32::NAN, 0.1, 0.2], &[1, 0, 0]));
        assert_eq!(last, aurc(&rows(&[0.0, 0.1, 0.2], &[1, 0, 0])));
    }

    /// Rows whose edge is too sure of class 0, where half differ; of the others as many as the margin says.
    fn overconfident(seed: u64, count: usize) -> Vec<(Features, bool)> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|_| {
                let logits: [f32; 5] = std::array::from_fn(|_| random.random_range(-4.0..4.0));
                let features = Features::of(&logits);
                let rate = if features.class == 0 { 0.5 } else { 0.2 * (1.0 - features.margin) };
                (features, random.random::<f32>() < rate)
            })
            .collect()
    }

    #[test]
    fn the_head_is_chosen_where_classes_differ_in_honesty() {
        let candidates = candidates(&overconfident(1, 2_000), &overconfident(2, 2_000));
        assert_eq!(candidates[0].scoring.name(), "head");
        assert!(candidates[0].aurc < 0.7 * candidates[1].aurc, "{} {}", candidates[0].aurc, candidates[1].aurc);
    }

    #[test]
    fn a_head_that_misleads_is_not_chosen() {
        // Fitted where the labels say the opposite of what the tune split says.
        let mut wrong = overconfident(3, 2_000);
        wrong.iter_mut().for_each(|row| row.1 = !row.1);
        assert_ne!(choose(&wrong, &overconfident(4, 2_000)).name(), "head");
    }

    #[test]
    fn without_labels_for_a_head_a_softmax_score_is_chosen() {
        assert_ne!(choose(&[], &overconfident(5, 500)).name(), "head");
        assert_eq!(choose(&[], &[]), Scoring::Margin);
    }
}
