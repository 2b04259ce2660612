//! What becomes of sums: labels, probabilities, and two scores where one was computed.

use hedge_graph::Node;

use super::super::OpError;

/// `post_transform`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transform {
    None,
    Softmax,
    Logistic,
    /// Softmax over what is not zero.
    SoftmaxZero,
    Probit,
}

/// What the one score of two classes is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Single {
    /// The second class's share of 1.
    Share,
    /// A sum that is positive for the second class.
    Signed,
}

impl Transform {
    pub(super) fn read(node: &Node) -> Result<Self, OpError> {
        match node.string("post_transform").unwrap_or("NONE") {
            "NONE" | "" => Ok(Transform::None),
            "SOFTMAX" => Ok(Transform::Softmax),
            "LOGISTIC" => Ok(Transform::Logistic),
            "SOFTMAX_ZERO" => Ok(Transform::SoftmaxZero),
            "PROBIT" => Ok(Transform::Probit),
            other => Err(OpError::new(format!("post_transform {other:?} is not known"))),
        }
    }

    /// As `TreeEnsemble` numbers them.
    pub(super) fn of_number(number: i64) -> Result<Self, OpError> {
        let known =
            [Transform::None, Transform::Softmax, Transform::Logistic, Transform::SoftmaxZero, Transform::Probit];
        let found = usize::try_from(number).ok().and_then(|index| known.get(index)).copied();
        found.ok_or_else(|| OpError::new(format!("post_transform {number} is not known")))
    }

    /// Of one row. A score that is alone stays, unless it is to be a quantile.
    pub(super) fn apply(self, scores: &mut [f32]) {
        match self {
            Transform::None => {}
            Transform::Logistic | Transform::Softmax | Transform::SoftmaxZero if scores.len() == 1 => {}
            Transform::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Transform::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            Transform::Softmax => softmax(scores, |_| true),
            Transform::SoftmaxZero => softmax(scores, |score| score.abs() > 1e-7),
        }
    }

    /// Of the one score of two classes: those of both.
    pub(super) fn both(self, score: f32, kind: Single) -> [f32; 2] {
        match (self, kind) {
            (Transform::Probit, _) => [probit(1.0 - score), probit(score)],
            (Transform::Logistic, _) => [logistic(-score), logistic(score)],
            (_, Single::Share) => [1.0 - score, score],
            (_, Single::Signed) => [-score, score],
        }
    }
}

/// The labels of classes.
pub(super) fn labels(node: &Node, name: &str) -> Result<Vec<i64>, OpError> {
    match node.ints(name) {
        Some(labels) if !labels.is_empty() => Ok(labels.to_vec()),
        _ => Err(OpError::new(format!("it has no {name}; labels that are texts are not supported"))),
    }
}

fn logistic(x: f32) -> f32 {
    let y = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - y } else { y }
}

/// The normal distribution's quantile, by an error function's inverse in closed form (Winitzki, 2008, with a = 0.147).
fn probit(p: f32) -> f32 {
    let x = 2.0 * p - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    let root = (half * half - log / 0.147).sqrt();
    std::f32::consts::SQRT_2 * (root - half).sqrt().copysign(x)
}

/// Softmax over those that take part; the others are only scaled alike.
fn softmax(scores: &mut [f32], takes_part: impl Fn(f32) -> bool) {
    let most = scores.iter().copied().fold(f32::MIN, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if takes_part(*score) {
            *score = (*score - most).exp();
            sum += *score;
        } else {
            *score *= (-most).exp();
        }
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}
