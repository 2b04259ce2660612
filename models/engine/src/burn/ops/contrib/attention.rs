//! `Attention` with the projections of its input inside, also of a quantized input.

use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;
use hedge_tensor::DType;

use super::super::attention::mask::{Allowed, Bias};
use super::super::attention::scores::{Scoring, attend};
use super::super::attention::{behind, heads_apart, heads_together, part};
use super::super::{BoxOp, Builder, Inputs, OpError, aligned, many, reshaped, size_of};
use super::{Part, sum};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Attention" => attention,
        "QAttention" => quantized,
        _ => return None,
    })
}

/// What all attention of this domain has in common.
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) causal: bool,
    scale: Option<f64>,
    /// What is added to the scores of masked keys.
    filter: f32,
}

impl Heads {
    pub(super) fn read(node: &Node) -> Result<Self, OpError> {
        let count = size_of(node.int("num_heads", 0))?;
        if count == 0 {
            return Err(OpError::new("num_heads must be at least 1"));
        }
        Ok(Heads {
            count,
            causal: node.int("unidirectional", 0) != 0,
            scale: Some(f64::from(node.float("scale", 0.0))).filter(|&scale| scale != 0.0),
            filter: node.float("mask_filter_value", -10_000.0),
        })
    }

    /// Attention of queries, keys and values with heads apart, after `past` keys that are among the keys already.
    pub(super) fn attend(
        &self,
        (q, k, v): (Value, Value, Value),
        past: usize,
        mask: Option<Value>,
        bias: Option<Value>,
        context: &Context,
    ) -> Result<Value, OpError> {
        let (queries, keys) = (q.shape(), k.shape());
        let scores = [queries[0], queries[1], queries[2], keys[2]];
        let mask = mask.map(|mask| self.additive(&mask, scores, q.dtype())).transpose()?;
        let mask = match (mask, bias) {
            (Some(mask), bias) => Some(sum(mask, bias, context)?),
            (None, bias) => bias,
        };
        let allowed =
            Allowed { causal: self.causal, left: None, right: None, offsets: vec![past as i64], filled: None };
        let bias = Bias::new(mask, &allowed, scores, q.dtype(), context)?;
        let scoring = Scoring { scale: self.scale, softcap: 0.0, precision: None, shown: None };
        heads_together(attend(q, k, v, bias, &scoring, context)?.output, context)
    }

    /// A mask of integers (1 for keys that are seen, or how many are) as a bias.
    fn additive(&self, mask: &Value, [batch, _, queries, keys]: [usize; 4], dtype: DType) -> Result<Value, OpError> {
        let (shape, values) = (mask.shape(), mask.to_ints()?);
        let wrong = || OpError::new(format!("a mask of shape {shape:?} does not fit {batch} sequences of {keys} keys"));
        let biased = |kept: bool| if kept { 0.0 } else { self.filter };
        let (bias, rows): (Vec<f32>, usize) = match *shape.as_slice() {
            // How many keys each sequence has, and in the second form where each begins.
            [count] if count == batch || count == 2 * batch => {
                let start = |sample: usize| values.get(batch + sample).copied().unwrap_or(0);
                let seen = |sample: usize, key: usize| (start(sample)..values[sample]).contains(&(key as i64));
                ((0..batch * keys).map(|index| biased(seen(index / keys, index % keys))).collect(), 1)
            }
            [samples, length] if samples == batch && length == keys => {
                (values.iter().map(|&kept| biased(kept != 0)).collect(), 1)
            }
            [samples, rows, length] if samples == batch && rows == queries && length == keys => {
                (values.iter().map(|&kept| biased(kept != 0)).collect(), queries)
            }
            _ => return Err(wrong()),
        };
        let bias = super::super::quantized::float_tensor(bias, &[batch, 1, rows, keys], dtype)?;
        Ok(Value::host(bias))
    }
}

fn check(node: &Node) -> Result<(), OpError> {
    for name in ["do_rotary", "past_present_share_buffer"] {
        if node.int(name, 0) != 0 {
            return Err(OpError::new(format!("{name} is not supported")));
        }
    }
    Ok(())
}

fn attention(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let projected = Projected::read(node, opset)?;
    many(move |context, mut inputs| {
        let (x, weights, bias) = (inputs.take(0)?, inputs.take(1)?, inputs.optional(2));
        let (mask, past, added) = (inputs.optional(3), inputs.optional(4), inputs.optional(5));
        projected.run(x, (weights, bias), (mask, past, added), context)
    })
}

/// The products are of floats, which hold 8-bit numbers exactly.
fn quantized(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let projected = Projected::read(node, opset)?;
    let dequantize = Part::new("DequantizeLinear", &[], opset)?;
    many(move |context, mut inputs| {
        let whole = |inputs: &mut Inputs, value: usize, scale: usize, zero: usize| {
            let operands = vec![Some(inputs.take(value)?), Some(inputs.take(scale)?), inputs.optional(zero)];
            dequantize.run(operands, context)
        };
        let (x, weights) = (whole(&mut inputs, 0, 3, 6)?, whole(&mut inputs, 1, 4, 7)?);
        let bias = inputs.optional(2);
        let (mask, past) = (inputs.optional(5), inputs.optional(8));
        projected.run(x, (weights, bias), (mask, past, None), context)
    })
}

/// Attention of an input to itself.
struct Projected {
    heads: Heads,
    matmul: Part,
    /// The widths of queries, keys and values, where they differ.
    widths: Option<Vec<usize>>,
}

impl Projected {
    fn read(node: &Node, opset: i64) -> Result<Self, OpError> {
        check(node)?;
        let widths = node.ints("qkv_hidden_sizes").filter(|widths| !widths.is_empty());
        let widths = widths.map(|widths| widths.iter().map(|&width| size_of(width)).collect()).transpose()?;
        Ok(Projected { heads: Heads::read(node)?, matmul: Part::new("MatMul", &[], opset)?, widths })
    }

    fn run(
        &self,
        x: Value,
        (weights, bias): (Value, Option<Value>),
        (mask, past, added): (Option<Value>, Option<Value>, Option<Value>),
        context: &Context,
    ) -> Result<Vec<Value>, OpError> {
        let all = sum(self.matmul.run(vec![Some(x), Some(weights)], context)?, bias, context)?;
        let shape = all.shape();
        let width = shape.last().copied().unwrap_or(0);
        let widths = self.widths.clone().unwrap_or_else(|| vec![width / 3; 3]);
        if shape.len() != 3 || widths.len() != 3 || widths.iter().sum::<usize>() != width {
            return Err(OpError::new(format!("a projection of shape {shape:?} does not split into {widths:?}")));
        }
        let all = all.into_float(context)?;
        let split = |start: usize, width: usize| {
            heads_apart(Value::float(part(all.clone(), 2, start..start + width)), self.heads.count, context)
        };
        let (q, k) = (split(0, widths[0])?, split(widths[0], widths[1])?);
        let v = split(widths[0] + widths[1], widths[2])?;
        let (past_key, past_value) = past.map(|past| halves(past, context)).transpose()?.unzip();
        let past = past_key.as_ref().map_or(0, |past| past.shape()[2]);
        let (k, v) = (behind(past_key, k, context)?, behind(past_value, v, context)?);
        let output = self.heads.attend((q, k.clone(), v.clone()), past, mask, added, context)?;
        if k.shape() != v.shape() {
            return Ok(vec![output]);
        }
        Ok(vec![output, stacked(k, v, context)?])
    }
}

/// The keys and values of a past in one tensor.
fn halves(past: Value, context: &Context) -> Result<(Value, Value), OpError> {
    let shape = past.shape();
    let &[2, batch, heads, length, size] = shape.as_slice() else {
        return Err(OpError::new(format!("a past of shape {shape:?} has no keys and values")));
    };
    if shape.contains(&0) {
        return Ok((past.clone(), past));
    }
    let past = past.into_float(context)?;
    let half = |index: usize| {
        reshaped(Value::float(part(past.clone(), 0, index..index + 1)), &[batch, heads, length, size], context)
    };
    Ok((half(0)?, half(1)?))
}

/// The inverse of [`halves`].
fn stacked(k: Value, v: Value, context: &Context) -> Result<Value, OpError> {
    let shape = [&[1], k.shape().as_slice()].concat();
    let (k, v) = (reshaped(k, &shape, context)?, reshaped(v, &shape, context)?);
    let (k, v) = aligned(k, v, context)?;
    Ok(Value::float(B::float_cat(vec![k.into_float(context)?, v.into_float(context)?], 0)))
}
