//! The agreement head: a logistic regression that says how likely the edge's answer is the cloud's.
//!
//! It sees the sorted top logits relative to the largest, margin, maximum probability and entropy, and the predicted class one-hot
//! for a bounded number of classes. Fitted on cloud answers it ranks requests better than a softmax score alone, because models
//! are surer of some classes than they should be. Its probability is an ordinary score: the certificate's bound
//! does not depend on whether it is calibrated, only how much stays local does.
//!
//! Weights are those of the raw features (the standardization of the fit is folded in) and f32: a certificate carries them
//! as decimal text, and nine digits read back exactly with every parser.

use serde::{Deserialize, Serialize};

use crate::features::{Features, TOP};
use crate::score::Score;

/// How many predicted classes may have a weight of their own; the others share the intercept.
pub const MAX_CLASSES: usize = 128;

/// The numeric columns: margin, msp, entropy, then the top logits.
pub(crate) const COLUMNS: usize = 3 + TOP;

/// A fitted logistic regression of "the edge's answer is the cloud's".
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawHead")]
pub struct AgreementHead {
    pub(crate) intercept: f32,
    /// Log-odds per unit of each numeric column.
    pub(crate) weights: [f32; COLUMNS],
    /// Log-odds of predicted classes, ascending by class.
    pub(crate) classes: Vec<(u32, f32)>,
}

impl AgreementHead {
    /// The probability, 0..1, that the edge's answer is the cloud's; 0 for a row without an answer. Does not allocate.
    #[must_use]
    pub fn score(&self, features: &Features) -> f32 {
        if !features.is_answer() {
            return 0.0;
        }
        let class = self.classes.binary_search_by_key(&features.class, |&(class, _)| class);
        let offset = class.map_or(0.0, |at| self.classes[at].1);
        let mut log_odds = f64::from(self.intercept) + f64::from(offset);
        for (weight, value) in self.weights.iter().zip(columns(features)) {
            log_odds += f64::from(*weight) * value;
        }
        (1.0 / (1.0 + (-log_odds).exp())) as f32
    }
}

/// The numeric columns of one row.
pub(crate) fn columns(features: &Features) -> [f64; COLUMNS] {
    let [a, b, c, d, e] = features.top;
    [features.margin, features.msp, features.entropy, a, b, c, d, e].map(f64::from)
}

/// A head as read, before it is believed.
#[derive(Deserialize)]
struct RawHead {
    intercept: f32,
    weights: [f32; COLUMNS],
    classes: Vec<(u32, f32)>,
}

/// A head that cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A weight is infinite or not a number.
    #[error("a weight of the agreement head is not a finite number")]
    NotFinite,
    /// More classes than a fit may make.
    #[error("the agreement head has weights for {0} classes, more than {MAX_CLASSES}")]
    TooManyClasses(usize),
    /// The classes are not strictly ascending.
    #[error("the agreement head's classes are not in ascending order")]
    Unordered,
}

impl TryFrom<RawHead> for AgreementHead {
    type Error = HeadError;

    fn try_from(RawHead { intercept, weights, classes }: RawHead) -> Result<Self, HeadError> {
        if classes.len() > MAX_CLASSES {
            return Err(HeadError::TooManyClasses(classes.len()));
        }
        if !classes.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(HeadError::Unordered);
        }
        let finite = |weights: &[f32]| weights.iter().all(|weight| weight.is_finite());
        if !finite(&[intercept]) || !finite(&weights) || !classes.iter().all(|(_, weight)| weight.is_finite()) {
            return Err(HeadError::NotFinite);
        }
        Ok(Self { intercept, weights, classes })
    }
}

/// Which number stands for the trust in an answer: what a certificate is about.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// Softmax margin.
    #[default]
    Margin,
    /// Maximum softmax probability.
    Msp,
    /// The agreement head's probability.
    Head(AgreementHead),
}

impl Scoring {
    /// The score of a row, 0 (a guess) to 1 (certain). Does not allocate.
    #[must_use]
    pub fn score(&self, features: &Features) -> f32 {
        match self {
            Self::Margin => features.margin,
            Self::Msp => features.msp,
            Self::Head(head) => head.score(features),
        }
    }

    /// The name used in reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Margin => "margin",
            Self::Msp => "msp",
            Self::Head(_) => "head",
        }
    }
}

impl From<Score> for Scoring {
    fn from(score: Score) -> Self {
        match score {
            Score::Margin => Self::Margin,
            Score::Msp => Self::Msp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> AgreementHead {
        AgreementHead {
            intercept: -1.0,
            weights: [2.0, 0.0, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0],
            classes: vec![(3, 0.25), (9, -4.0)],
        }
    }

    fn features(class: u32) -> Features {
        Features { margin: 0.5, msp: 0.7, entropy: 0.1, class, top: [-2.0, -3.0, -4.0, -40.0, -40.0] }
    }

    #[test]
    fn the_score_is_the_logistic_of_the_weighted_features_and_the_class() {
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        // -1 + 2 * 0.5 + 0.5 * 2 = 1
        assert!((head().score(&features(1)) - sigmoid(1.0)).abs() < 1e-7);
        assert!((head().score(&features(3)) - sigmoid(1.25)).abs() < 1e-7);
        assert!((head().score(&features(9)) - sigmoid(-3.0)).abs() < 1e-7);
    }

    #[test]
    fn a_row_without_an_answer_scores_nothing_under_every_scoring() {
        for scoring in [Scoring::Margin, Scoring::Msp, Scoring::Head(head())] {
            assert_eq!(scoring.score(&Features::NO_ANSWER), 0.0, "{}", scoring.name());
        }
        assert_eq!(head().score(&Features { entropy: f32::NAN, ..features(3) }), 0.0);
    }

    #[test]
    fn the_configured_scores_are_scorings_of_the_same_name_and_value() {
        let logits = [0.3, 2.5, -1.0];
        for score in [Score::Margin, Score::Msp] {
            let scoring = Scoring::from(score);
            assert_eq!(scoring.name(), score.name());
            assert_eq!(scoring.score(&Features::of(&logits)), score.of(&logits));
        }
    }

    #[test]
    fn a_scoring_reads_back_as_it_was() {
        for scoring in [Scoring::Margin, Scoring::Msp, Scoring::Head(head())] {
            let json = serde_json::to_string(&scoring).unwrap();
            assert_eq!(serde_json::from_str::<Scoring>(&json).unwrap(), scoring, "{json}");
            let cbor = minicbor_serde::to_vec(&scoring).unwrap();
            assert_eq!(minicbor_serde::from_slice::<Scoring>(&cbor).unwrap(), scoring, "{json}");
        }
        assert_eq!(serde_json::to_string(&Scoring::Msp).unwrap(), "\"msp\"");
    }

    #[test]
    fn a_head_that_cannot_be_one_is_refused_by_name() {
        let written = serde_json::to_string(&head()).unwrap();
        let refused = |from: &str, to: &str| {
            assert!(written.contains(from), "{written}");
            serde_json::from_str::<AgreementHead>(&written.replace(from, to)).unwrap_err().to_string()
        };
        assert!(refused("[3,0.25]", "[9,0.25]").contains("ascending"));
        assert!(refused("[3,0.25]", "[3,1e39]").contains("finite"));
        let many: Vec<String> = (0..=MAX_CLASSES).map(|c| format!("[{c},0.0]")).collect();
        assert!(refused("[3,0.25],[9,-4.0]", &many.join(",")).contains("129 classes"));
    }
}
