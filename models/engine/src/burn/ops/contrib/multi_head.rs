//! `MultiHeadAttention`: queries, keys and values come projected, apart or packed.

use hedge_graph::Node;

use super::super::attention::{behind, heads_apart, part};
use super::super::layout::permuted;
use super::super::{BoxOp, Builder, OpError, many, reshaped};
use super::attention::Heads;
use super::{check_outputs, sum};
use crate::burn::{Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    (op == "MultiHeadAttention").then_some(multi_head)
}

fn multi_head(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    check_outputs(node, 3..4)?;
    let heads = Heads::read(node)?;
    many(move |context, mut inputs| {
        let (q, k, v) = (inputs.take(0)?, inputs.optional(1), inputs.optional(2));
        let bias = inputs.optional(3);
        let (mask, added) = (inputs.optional(4), inputs.optional(5));
        let (past_key, past_value) = (inputs.optional(6), inputs.optional(7));
        if inputs.optional(9).is_some() {
            return Err(OpError::new("a cache_indirection is not supported"));
        }
        let [q, k, v] = operands(q, k, v, bias, heads.count, context)?;
        let past = past_key.as_ref().and_then(|past| past.shape().get(2).copied()).unwrap_or(0);
        let (k, v) = (behind(past_key, k, context)?, behind(past_value, v, context)?);
        let output = heads.attend((q, k.clone(), v.clone()), past, mask, added, context)?;
        Ok(vec![output, k, v])
    })
}

/// Queries, keys and values with heads apart, from any of the forms they come in.
fn operands(
    q: Value,
    k: Option<Value>,
    v: Option<Value>,
    bias: Option<Value>,
    heads: usize,
    context: &Context,
) -> Result<[Value; 3], OpError> {
    let (q, k, v) = match (k, v) {
        (Some(k), Some(v)) => (q, k, v),
        (Some(packed), None) => {
            let [k, v] = unpacked(packed, context)?;
            (q, k, v)
        }
        (None, _) => {
            let [q, k, v] = unpacked(q, context)?;
            (q, k, v)
        }
    };
    let (width, keys) = (width_of(&q), width_of(&k));
    let apart = |x: Value| heads_apart(x, heads, context);
    let Some(bias) = bias else { return Ok([apart(q)?, apart(k)?, apart(v)?]) };
    let length: usize = bias.shape().iter().product();
    if length < width + keys {
        return Err(OpError::new(format!(
            "a bias of {length} elements does not fit queries and keys of {width} and {keys}"
        )));
    }
    let bias = bias.into_float(context)?;
    let biased = |x: Value, start: usize, end: usize| -> Result<Value, OpError> {
        // A cache of keys has its bias already.
        if x.rank() == 4 {
            return Ok(x);
        }
        apart(sum(x, Some(Value::float(part(bias.clone(), 0, start..end))), context)?)
    };
    Ok([biased(q, 0, width)?, biased(k, width, width + keys)?, biased(v, width + keys, length)?])
}

fn width_of(x: &Value) -> usize {
    match x.shape().as_slice() {
        &[_, heads, _, size] => heads * size,
        shape => shape.last().copied().unwrap_or(0),
    }
}

/// `[batch, length, heads, N, size]` as N tensors `[batch, length, heads * size]`.
fn unpacked<const N: usize>(x: Value, context: &Context) -> Result<[Value; N], OpError> {
    let shape = x.shape();
    let &[batch, length, heads, count, size] = shape.as_slice() else {
        return Err(OpError::new(format!("a tensor of shape {shape:?} packs no queries, keys and values")));
    };
    if count != N {
        return Err(OpError::new(format!("a tensor of shape {shape:?} packs {count} tensors, but {N} are needed")));
    }
    let first = permuted(x, &[3, 0, 1, 2, 4], context)?.into_float(context)?;
    let mut parts = Vec::with_capacity(N);
    for index in 0..N {
        let one = Value::float(part(first.clone(), 0, index..index + 1));
        parts.push(reshaped(one, &[batch, length, heads * size], context)?);
    }
    parts.try_into().map_err(|_| OpError::new("its packed tensors are not as many as they should be"))
}
