//! What routing keeps of a row of logits: enough for every score, small enough to store with a label and to send.
//!
//! One row becomes 36 bytes whatever the number of classes. The margin and the maximum probability are those of
//! [`margin`](crate::margin) and [`max_probability`](crate::max_probability), bit for bit. Serialized as one flat
//! sequence, `[margin, msp, entropy, class, [top; 5]]`, because thousands of them are stored and sent with their labels.
//!
//! A row without an answer (empty, or with a NaN or +inf in it) has [`Features::NO_ANSWER`]: every score of it is 0.

use serde::{Deserialize, Serialize};

use crate::score::own_confidence;

/// How many of the logits after the largest are kept.
pub const TOP: usize = 5;

/// The lowest value of a kept logit, relative to the largest: a class this far down has a probability of 4e-18 of the
/// top's. A masked class (-inf) and one that does not exist are there too, so that features stay finite.
pub const TOP_FLOOR: f32 = -40.0;

/// What the scores need of one row of class logits.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(from = "Flat", into = "Flat")]
pub struct Features {
    /// Softmax margin, 0..1: the largest class probability minus the second largest.
    pub margin: f32,
    /// Maximum softmax probability, 0..1; 0 only for a row without an answer.
    pub msp: f32,
    /// Shannon entropy of the class probabilities, in nats.
    pub entropy: f32,
    /// The predicted class: the lowest index among the largest logits.
    pub class: u32,
    /// The second to the sixth largest logit minus the largest, descending, each in [`TOP_FLOOR`]..0.
    pub top: [f32; TOP],
}

impl Features {
    /// The features of a row without an answer.
    pub const NO_ANSWER: Self = Self { margin: 0.0, msp: 0.0, entropy: 0.0, class: 0, top: [0.0; TOP] };

    /// The features of one row of logits, or of a model's own confidence: a row of one number, 0..1. Does not allocate.
    #[must_use]
    pub fn of(logits: &[f32]) -> Self {
        if let Some(confidence) = own_confidence(logits) {
            // That there is an answer is said by a positive msp.
            let msp = confidence.max(f32::MIN_POSITIVE);
            return Self { margin: confidence, msp, top: [TOP_FLOOR; TOP], ..Self::NO_ANSWER };
        }
        let Some(largest) = Largest::of(logits) else {
            return Self::NO_ANSWER;
        };
        let max = f64::from(largest.logit);
        let (mut sum, mut weighted) = (0.0_f64, 0.0_f64);
        for &logit in logits {
            let below = f64::from(logit) - max;
            let weight = below.exp();
            sum += weight;
            // A masked class is -inf * 0; its limit is 0.
            if weight > 0.0 {
                weighted += weight * below;
            }
        }
        let second = if logits.len() > 1 { (f64::from(largest.next[0]) - max).exp() } else { 0.0 };
        Self {
            margin: ((1.0 - second) / sum) as f32,
            msp: (1.0 / sum) as f32,
            // H = ln(sum) - E[logit - max]; rounding must not make it negative.
            entropy: (sum.ln() - weighted / sum).max(0.0) as f32,
            class: u32::try_from(largest.index).unwrap_or(u32::MAX),
            top: largest.next.map(|logit| (f64::from(logit) - max).max(f64::from(TOP_FLOOR)) as f32),
        }
    }

    /// Whether the row had an answer and every number of it is one. Features that came over a wire may have none.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.msp > 0.0
            && [self.margin, self.msp, self.entropy].iter().all(|v| v.is_finite())
            && self.top.iter().all(|v| v.is_finite())
    }
}

/// The form on disk and on the wire.
#[derive(Serialize, Deserialize)]
struct Flat(f32, f32, f32, u32, [f32; TOP]);

impl From<Features> for Flat {
    fn from(f: Features) -> Self {
        Self(f.margin, f.msp, f.entropy, f.class, f.top)
    }
}

impl From<Flat> for Features {
    fn from(Flat(margin, msp, entropy, class, top): Flat) -> Self {
        Self { margin, msp, entropy, class, top }
    }
}

/// The largest logit and those after it.
struct Largest {
    logit: f32,
    index: usize,
    next: [f32; TOP],
}

impl Largest {
    /// `None` for a row without an answer.
    fn of(logits: &[f32]) -> Option<Self> {
        let mut found = Self { logit: f32::NEG_INFINITY, index: 0, next: [f32::NEG_INFINITY; TOP] };
        for (index, &logit) in logits.iter().enumerate() {
            if logit.is_nan() || logit == f32::INFINITY {
                return None;
            }
            if logit > found.logit {
                found.demote(found.logit);
                (found.logit, found.index) = (logit, index);
            } else if logit > found.next[TOP - 1] {
                found.demote(logit);
            }
        }
        found.logit.is_finite().then_some(found)
    }

    /// Sorts a logit in after the largest; the last falls off.
    fn demote(&mut self, logit: f32) {
        let mut falling = logit;
        for kept in &mut self.next {
            if falling > *kept {
                std::mem::swap(kept, &mut falling);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::{Score, margin, max_probability, softmax, top_class};

    /// Rows of many sizes with ties, masked classes and far-apart logits.
    fn rows() -> Vec<Vec<f32>> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 28 {
                0 => f32::NEG_INFINITY,
                1 => 3.0,
                2 => (state >> 8) as f32 / 1e4,
                _ => (state >> 8) as f32 / 1e6 - 8.0,
            }
        };
        (1..200).map(|n| (0..1 + n % 23).map(|_| next()).chain([0.5]).collect()).collect()
    }

    #[test]
    fn margin_msp_and_class_are_those_of_the_scores_bit_for_bit() {
        for row in rows() {
            let f = Features::of(&row);
            assert_eq!(f.margin.to_bits(), margin(&row).to_bits(), "{row:?}");
            assert_eq!(f.msp.to_bits(), max_probability(&row).to_bits(), "{row:?}");
            assert_eq!(f.class as usize, top_class(&row), "{row:?}");
            assert!(f.is_answer(), "{row:?}");
        }
    }

    #[test]
    fn entropy_is_that_of_the_probabilities() {
        for row in rows() {
            let expected: f64 = softmax(&row).iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
            assert!((f64::from(Features::of(&row).entropy) - expected).abs() < 1e-6, "{row:?}");
        }
    }

    #[test]
    fn a_single_number_is_the_models_own_confidence() {
        for (number, confidence) in [(0.25, 0.25), (0.0, 0.0), (-7.0, 0.0), (1.5, 1.0)] {
            let features = Features::of(&[number]);
            assert_eq!((features.margin, features.class), (confidence, 0));
            assert!(features.is_answer(), "{number}");
            assert_eq!((Score::Margin.of(&[number]), Score::Msp.of(&[number])), (confidence, confidence));
        }
        assert_eq!(Features::of(&[f32::NAN]), Features::NO_ANSWER);
    }

    #[test]
    fn the_top_is_sorted_relative_to_the_largest_and_never_below_the_floor() {
        for row in rows() {
            let mut sorted = row.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted.resize(sorted.len().max(TOP + 1), f32::NEG_INFINITY);
            let expected: Vec<f32> =
                sorted[1..=TOP].iter().map(|l| (f64::from(*l) - f64::from(sorted[0])).max(-40.0) as f32).collect();
            assert_eq!(Features::of(&row).top.to_vec(), expected, "{row:?}");
        }
        assert_eq!(Features::of(&[2.0, 2.0]).top, [0.0, TOP_FLOOR, TOP_FLOOR, TOP_FLOOR, TOP_FLOOR]);
    }

    #[test]
    fn a_row_without_an_answer_has_the_features_of_none() {
        for row in [&[][..], &[f32::NAN, 1.0], &[1.0, f32::INFINITY], &[f32::NEG_INFINITY; 3]] {
            assert_eq!(Features::of(row), Features::NO_ANSWER, "{row:?}");
        }
        assert!(!Features::NO_ANSWER.is_answer());
        assert!(!Features { entropy: f32::NAN, ..Features::of(&[1.0, 2.0]) }.is_answer());
    }

    #[test]
    fn features_are_one_flat_sequence() {
        let features =
            Features { margin: 0.5, msp: 0.75, entropy: 1.5, class: 3, top: [-1.0, -2.0, -2.5, -40.0, -40.0] };
        let json = serde_json::to_string(&features).unwrap();
        assert_eq!(json, "[0.5,0.75,1.5,3,[-1.0,-2.0,-2.5,-40.0,-40.0]]");
        assert_eq!(serde_json::from_str::<Features>(&json).unwrap(), features);
    }
}
