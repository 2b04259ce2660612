//! Scores of one vector of class logits, between 0 (a guess) and 1 (certain).
//!
//! Scores are computed on float logits, never on quantized probabilities: ties at the top cost 20 points of offload.
//! Everything runs in f64 with the maximum subtracted first, so that logits of any size neither overflow nor lose the
//! difference of two close probabilities. A vector without an answer (empty, or with a NaN or +inf in it) scores 0, the
//! score that trusts it least. A class masked with -inf has probability 0.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which number stands for the confidence of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Softmax margin: the largest probability minus the second largest.
    #[default]
    Margin,
    /// Maximum softmax probability.
    Msp,
}

impl Score {
    /// The score of one row of logits, or of a model's own confidence.
    #[must_use]
    pub fn of(self, logits: &[f32]) -> f32 {
        match (own_confidence(logits), self) {
            (Some(confidence), _) => confidence,
            (None, Self::Margin) => margin(logits),
            (None, Self::Msp) => max_probability(logits),
        }
    }

    /// The name used in configuration and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Margin => "margin",
            Self::Msp => "msp",
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A score name that is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown score {0:?}: use \"margin\" or \"msp\"")]
pub struct UnknownScore(pub String);

impl FromStr for Score {
    type Err = UnknownScore;

    fn from_str(name: &str) -> Result<Self, UnknownScore> {
        match name {
            "margin" => Ok(Self::Margin),
            "msp" => Ok(Self::Msp),
            _ => Err(UnknownScore(name.to_owned())),
        }
    }
}

/// What a model says of itself that has no classes: a row of one number, brought to 0..1.
pub(crate) fn own_confidence(row: &[f32]) -> Option<f32> {
    match row {
        [one] if one.is_finite() => Some(one.clamp(0.0, 1.0)),
        _ => None,
    }
}

/// Class probabilities of a row of logits; empty when the logits have no answer.
#[must_use]
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let Some(max) = finite_maximum(logits) else {
        return Vec::new();
    };
    let mut probabilities: Vec<f64> = logits.iter().map(|&l| (f64::from(l) - max).exp()).collect();
    let sum: f64 = probabilities.iter().sum();
    for p in &mut probabilities {
        *p /= sum;
    }
    probabilities
}

/// Softmax margin: the largest class probability minus the second largest. A single class has margin 1.
#[must_use]
pub fn margin(logits: &[f32]) -> f32 {
    let Some(max) = finite_maximum(logits) else {
        return 0.0;
    };
    let (mut sum, mut second, mut seen_top) = (0.0_f64, 0.0_f64, false);
    for &logit in logits {
        let weight = (f64::from(logit) - max).exp();
        sum += weight;
        // The maximum itself has weight exactly 1; only its first occurrence is the top.
        if weight >= 1.0 && !seen_top {
            seen_top = true;
        } else if weight > second {
            second = weight;
        }
    }
    ((1.0 - second) / sum) as f32
}

/// The largest class probability.
#[must_use]
pub fn max_probability(logits: &[f32]) -> f32 {
    let Some(max) = finite_maximum(logits) else {
        return 0.0;
    };
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
    (1.0 / sum) as f32
}

/// Index of the largest logit; the lowest index wins a tie. NaN never wins; 0 for an empty row.
#[must_use]
pub fn top_class(logits: &[f32]) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (index, &logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|(_, top)| logit > top) {
            best = Some((index, logit));
        }
    }
    best.map_or(0, |(index, _)| index)
}

/// The largest logit, if the row has an answer at all.
fn finite_maximum(logits: &[f32]) -> Option<f64> {
    let mut max = f32::NEG_INFINITY;
    for &logit in logits {
        if logit.is_nan() || logit == f32::INFINITY {
            return None;
        }
        max = max.max(logit);
    }
    max.is_finite().then_some(f64::from(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-7, "{a} is not {b}");
    }

    #[test]
    fn softmax_of_logs_gives_back_the_odds() {
        // exp(ln 1, ln 2, ln 5) = 1 : 2 : 5
        let p = softmax(&[0.0, std::f32::consts::LN_2, 5.0_f32.ln()]);
        near(p[0], 0.125);
        near(p[1], 0.25);
        near(p[2], 0.625);
    }

    #[test]
    fn margin_is_the_difference_of_the_two_largest_probabilities() {
        near(f64::from(margin(&[0.0, std::f32::consts::LN_2, 5.0_f32.ln()])), 0.375);
        near(f64::from(margin(&[5.0_f32.ln(), 0.0, std::f32::consts::LN_2])), 0.375);
    }

    #[test]
    fn a_tie_at_the_top_has_no_margin() {
        assert_eq!(margin(&[3.0, 3.0]), 0.0);
        assert_eq!(margin(&[1.0, 3.0, 3.0]), 0.0);
        near(f64::from(max_probability(&[3.0, 3.0])), 0.5);
    }

    #[test]
    fn msp_is_the_largest_probability() {
        near(f64::from(max_probability(&[0.0, std::f32::consts::LN_2, 5.0_f32.ln()])), 0.625);
        near(f64::from(max_probability(&[0.0; 10])), 0.1);
    }

    #[test]
    fn huge_logits_neither_overflow_nor_lose_the_margin() {
        assert_eq!(margin(&[f32::MAX, 0.0]), 1.0);
        near(f64::from(margin(&[1000.0, 999.0])), 0.5_f64.tanh());
        near(softmax(&[-1e30, -1e30]).iter().sum(), 1.0);
    }

    #[test]
    fn a_single_class_is_certain_and_a_masked_class_has_no_weight() {
        assert_eq!(margin(&[-7.0]), 1.0);
        assert_eq!(margin(&[0.0, f32::NEG_INFINITY]), 1.0);
        assert_eq!(max_probability(&[0.0, f32::NEG_INFINITY]), 1.0);
    }

    #[test]
    fn a_row_without_an_answer_scores_nothing() {
        for row in [&[][..], &[f32::NAN, 1.0], &[f32::INFINITY, 1.0], &[f32::NEG_INFINITY]] {
            assert_eq!(margin(row), 0.0, "{row:?}");
            assert_eq!(max_probability(row), 0.0, "{row:?}");
            assert!(softmax(row).is_empty(), "{row:?}");
        }
    }

    #[test]
    fn the_lowest_index_wins_a_tie_for_the_top_class() {
        assert_eq!(top_class(&[1.0, 4.0, 4.0]), 1);
        assert_eq!(top_class(&[f32::NAN, -1.0, -2.0]), 1);
        assert_eq!(top_class(&[]), 0);
        assert_eq!(top_class(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
    }

    #[test]
    fn a_score_is_named_as_in_the_configuration() {
        assert_eq!("margin".parse(), Ok(Score::Margin));
        assert_eq!("msp".parse(), Ok(Score::Msp));
        assert_eq!(Score::Msp.to_string(), "msp");
        let error = "energy".parse::<Score>().expect_err("not a score we have");
        assert_eq!(error.to_string(), "unknown score \"energy\": use \"margin\" or \"msp\"");
        assert_eq!(Score::Margin.of(&[2.0, 2.0]), 0.0);
        assert_eq!(Score::Msp.of(&[2.0, 2.0]), 0.5);
    }
}
