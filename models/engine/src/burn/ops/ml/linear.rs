//! Linear models.

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::super::host::{buffer, need, room};
use super::super::{BoxOp, Builder, OpError, on_host, size_of};
use super::Rows;
use super::scores::{Single, Transform, labels};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "LinearRegressor" => Some(regressor),
        "LinearClassifier" => Some(classifier),
        _ => None,
    }
}

/// `x w + b` for each target, in single floats.
struct Linear {
    /// `[targets, features]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    targets: usize,
}

impl Linear {
    fn read(node: &Node, targets: usize) -> Result<Self, OpError> {
        let floats = |name: &str| node.floats(name).unwrap_or_default().to_vec();
        let (weights, bias) = (floats("coefficients"), floats("intercepts"));
        if targets == 0 || !weights.len().is_multiple_of(targets) || !(bias.is_empty() || bias.len() == targets) {
            let (weights, bias) = (weights.len(), bias.len());
            return Err(OpError::new(format!(
                "it has {weights} coefficients and {bias} intercepts, which do not fit {targets} targets"
            )));
        }
        Ok(Linear { weights, bias, targets })
    }

    fn of(&self, row: &[f64]) -> Result<Vec<f32>, OpError> {
        let features = self.weights.len() / self.targets;
        if row.len() != features {
            return Err(OpError::new(format!("its rows have {} features, its coefficients {features}", row.len())));
        }
        let sum = |target: usize| {
            let weights = &self.weights[target * features..][..features];
            let products = weights.iter().zip(row).map(|(weight, x)| f64::from(*weight) * x);
            (products.sum::<f64>() + f64::from(self.bias.get(target).copied().unwrap_or(0.0))) as f32
        };
        Ok((0..self.targets).map(sum).collect())
    }
}

fn regressor(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (linear, transform) = (Linear::read(node, size_of(node.int("targets", 1))?)?, Transform::read(node)?);
    on_host(move |inputs| {
        let rows = Rows::of(need(inputs, 0)?)?;
        let mut scores = buffer(room(DType::F32, &[rows.rows, linear.targets])?)?;
        for row in rows.each() {
            let mut row = linear.of(row)?;
            transform.apply(&mut row);
            scores.extend(row);
        }
        Ok(vec![Tensor::from_vec(&[rows.rows, linear.targets], scores)?])
    })
}

fn classifier(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (labels, transform) = (labels(node, "classlabels_ints")?, Transform::read(node)?);
    let linear = Linear::read(node, node.floats("intercepts").map_or(labels.len(), <[f32]>::len))?;
    let one_for_two = linear.targets == 1 && labels.len() == 2;
    if !one_for_two && linear.targets != labels.len() {
        let (targets, labels) = (linear.targets, labels.len());
        return Err(OpError::new(format!("it has {targets} intercepts, but labels for {labels} classes")));
    }
    on_host(move |inputs| {
        let rows = Rows::of(need(inputs, 0)?)?;
        let width = if one_for_two { 2 } else { linear.targets };
        let mut chosen = Vec::with_capacity(rows.rows);
        let mut scores = buffer(room(DType::F32, &[rows.rows, width])?)?;
        for row in rows.each() {
            let mut row = linear.of(row)?;
            chosen.push(match row.as_slice() {
                [score] if one_for_two => labels[usize::from(*score > 0.0)],
                [score] => i64::from(*score > 0.0),
                several => labels[first_of_the_highest(several)],
            });
            if one_for_two {
                scores.extend(transform.both(row[0], Single::Share));
            } else {
                transform.apply(&mut row);
                scores.extend(row);
            }
        }
        Ok(vec![Tensor::from_slice(&[rows.rows], &chosen)?, Tensor::from_vec(&[rows.rows, width], scores)?])
    })
}

fn first_of_the_highest(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, class| if scores[class] > scores[best] { class } else { best })
}
