//! Losses between scores of classes and the classes themselves.
//!
//! Scores are `[N, C, d1, …]`, targets `[N, d1, …]`. Targets and weights are read on the host, where they are checked;
//! what is done with the scores is burn's, so that they have gradients.

use burn_backend::Scalar;
use burn_backend::ops::{ActivationOps, FloatTensorOps};
use hedge_graph::{Attribute, Node};

use super::convert::{numbers, to_doubles};
use super::exact::{bool_tensor, tensor};
use super::unary::in_single;
use super::{BoxOp, Builder, OpError, many, one, reshaped};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "NegativeLogLikelihoodLoss" => negative_log_likelihood,
        "SoftmaxCrossEntropyLoss" => softmax_cross_entropy,
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug)]
enum Reduction {
    None,
    Sum,
    /// By the sum of the weights, where there are any.
    Mean,
}

/// What a node says about its loss.
#[derive(Clone, Copy, Debug)]
struct Loss {
    reduction: Reduction,
    /// A class whose targets count for nothing; it need not be one of the classes.
    ignored: Option<i64>,
}

impl Loss {
    fn of(node: &Node) -> Result<Self, OpError> {
        let reduction = match node.string("reduction").unwrap_or("mean") {
            "none" => Reduction::None,
            "sum" => Reduction::Sum,
            "mean" => Reduction::Mean,
            other => return Err(OpError::new(format!("reduction is {other:?}, but must be none, sum or mean"))),
        };
        let ignored = match node.attributes.get("ignore_index") {
            Some(Attribute::Int(class)) => Some(*class),
            _ => None,
        };
        Ok(Loss { reduction, ignored })
    }
}

fn negative_log_likelihood(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let loss = Loss::of(node)?;
    one(move |context, mut inputs| {
        let (scores, classes, weights) = (inputs.take(0)?, inputs.take(1)?, inputs.optional(2));
        let targets = Targets::read(&scores.shape(), &classes, weights.as_ref(), loss.ignored)?;
        loss.between(scores, &targets, context)
    })
}

/// The second output, where it is asked for, is the logarithm of the softmax.
fn softmax_cross_entropy(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let loss = Loss::of(node)?;
    many(move |context, mut inputs| {
        let (scores, classes, weights) = (inputs.take(0)?, inputs.take(1)?, inputs.optional(2));
        let shape = scores.shape();
        let targets = Targets::read(&shape, &classes, weights.as_ref(), loss.ignored)?;
        let logarithms = if shape.contains(&0) {
            scores
        } else {
            Value::float(in_single(scores.into_float(context)?, |scores| B::log_softmax(scores, 1)))
        };
        let value = loss.between(logarithms.clone(), &targets, context)?;
        Ok(vec![value, logarithms])
    })
}

/// The class of each element, ready to pick its score, and how much it counts.
struct Targets {
    /// `[N, d1, …]`
    shape: Vec<usize>,
    /// 0 where ignored.
    classes: Vec<i64>,
    /// 0 where ignored.
    weights: Vec<f64>,
    ignored: Vec<u8>,
}

impl Targets {
    fn read(scores: &[usize], targets: &Value, weights: Option<&Value>, ignored: Option<i64>) -> Result<Self, OpError> {
        let shape = targets.shape();
        let [batch, count, rest @ ..] = scores else {
            return Err(OpError::new(format!("scores need a batch and classes, but their shape is {scores:?}")));
        };
        if shape.split_first() != Some((batch, rest)) {
            return Err(OpError::new(format!("targets of {shape:?} do not fit scores of {scores:?}")));
        }
        let of_class = weights.map(to_doubles).transpose()?;
        if of_class.as_ref().is_some_and(|weights| weights.len() != *count) {
            return Err(OpError::new(format!("there are {count} classes, but not as many weights")));
        }
        let mut read = Targets { shape, classes: Vec::new(), weights: Vec::new(), ignored: Vec::new() };
        for class in targets.to_ints()? {
            let skip = ignored == Some(class);
            let index = if skip { 0 } else { class };
            let Some(index) = usize::try_from(index).ok().filter(|index| index < count) else {
                return Err(OpError::new(format!("class {class} is none of {count}")));
            };
            let weight = of_class.as_ref().map_or(1.0, |weights| weights[index]);
            read.classes.push(index as i64);
            read.weights.push(if skip { 0.0 } else { weight });
            read.ignored.push(u8::from(skip));
        }
        Ok(read)
    }
}

impl Loss {
    /// Between logarithms of probabilities and the targets.
    fn between(self, scores: Value, targets: &Targets, context: &Context) -> Result<Value, OpError> {
        let (dtype, shape, count) = (scores.dtype(), targets.shape.as_slice(), targets.classes.len());
        let total: f64 = targets.weights.iter().sum();
        if count == 0 {
            return match self.reduction {
                Reduction::None => numbers(shape, &[], dtype),
                Reduction::Sum => numbers(&[], &[0.0], dtype),
                Reduction::Mean => numbers(&[], &[f64::NAN], dtype),
            };
        }
        let mut one_class = scores.shape();
        one_class[1] = 1;
        let classes = tensor(&one_class, &targets.classes)?.into_int(context)?;
        let picked = Value::float(B::float_gather(1, scores.into_float(context)?, classes));
        let picked = reshaped(picked, shape, context)?.into_float(context)?;
        let weights = numbers(shape, &targets.weights, dtype)?.into_float(context)?;
        let mut each = B::float_neg(B::float_mul(picked, weights));
        if targets.ignored.contains(&1) {
            // The score of an ignored one may be infinite, and then no weight makes it 0.
            let ignored = bool_tensor(shape.to_vec(), targets.ignored.clone())?.into_bool(context)?;
            each = B::float_mask_fill(each, ignored, Scalar::Float(0.0));
        }
        let sum = |each| -> Result<_, OpError> {
            let row = reshaped(Value::float(each), &[1, count], context)?.into_float(context)?;
            Ok(B::float_sum_dim(row, 1))
        };
        match self.reduction {
            Reduction::None => Ok(Value::float(each)),
            Reduction::Sum => reshaped(Value::float(sum(each)?), &[], context),
            Reduction::Mean => {
                reshaped(Value::float(B::float_div_scalar(sum(each)?, Scalar::Float(total))), &[], context)
            }
        }
    }
}
