//! Attention and what stands around it: scaled dot products of queries and keys, rotary positions, linear recurrences.
//!
//! All of it is burn primitives, so it runs on every device and has gradients.

mod linear;
pub(super) mod mask;
pub(super) mod rotary;
pub(super) mod scores;

use burn_backend::ops::FloatTensorOps;
use burn_backend::{FloatDType, Slice, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::DType;

use self::mask::{Allowed, Bias};
use self::scores::{Attended, Mode, Scoring, attend};
use super::layout::permuted;
use super::{BoxOp, Builder, OpError, many, reshaped, size_of};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "Attention" => Some(attention),
        "RotaryEmbedding" => Some(rotary::rotary_embedding),
        "LinearAttention" => Some(linear::linear_attention),
        _ => None,
    }
}

fn attention(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let heads = (size_of(node.int("q_num_heads", 0))?, size_of(node.int("kv_num_heads", 0))?);
    let causal = node.int("is_causal", 0) != 0;
    let window = |name: &str| usize::try_from(node.int(name, -1)).ok().filter(|_| opset >= 25);
    let (left, right) = (window("left_window_size"), window("right_window_size"));
    let wants = node.outputs.get(3).is_some_and(|name| !name.is_empty());
    let scoring = Scoring {
        scale: node.attributes.contains_key("scale").then(|| f64::from(node.float("scale", 1.0))),
        softcap: f64::from(node.float("softcap", 0.0)),
        precision: match node.int("softmax_precision", 0) {
            0 => None,
            code => Some(precision_of(code)?),
        },
        shown: wants.then(|| Mode::read(node.int("qk_matmul_output_mode", 0))).transpose()?,
    };
    many(move |context, mut inputs| {
        let (q, k, v) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let packed = q.rank() == 3;
        let q = heads_apart(q, heads.0, context)?;
        let (k, v) = (heads_apart(k, heads.1, context)?, heads_apart(v, heads.1, context)?);
        let mask = inputs.optional(3);
        let (past_key, past_value) = (inputs.optional(4), inputs.optional(5));
        let filled = inputs.optional(6).map(|lengths| lengths.to_ints()).transpose()?;
        let past = past_key.as_ref().map_or(0, |past| past.shape().get(2).copied().unwrap_or(0));
        let (k, v) = (behind(past_key, k, context)?, behind(past_value, v, context)?);
        let (shape, keys) = (q.shape(), k.shape());
        let offsets = match &filled {
            Some(filled) => filled.iter().map(|&filled| filled - shape[2] as i64).collect(),
            None => vec![past as i64],
        };
        let allowed = Allowed { causal, left, right, offsets, filled };
        let bias = Bias::new(mask, &allowed, [shape[0], shape[1], shape[2], keys[2]], q.dtype(), context)?;
        let Attended { output, shown } = attend(q, k.clone(), v.clone(), bias, &scoring, context)?;
        let output = if packed { heads_together(output, context)? } else { output };
        Ok([Some(output), Some(k), Some(v), shown].into_iter().flatten().collect())
    })
}

/// `[batch, length, heads * size]` as `[batch, heads, length, size]`, which 4-dimensional tensors are already.
pub(super) fn heads_apart(x: Value, heads: usize, context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    match shape.as_slice() {
        [_, _, _, _] => Ok(x),
        &[batch, length, hidden] if heads > 0 && hidden % heads == 0 => {
            let apart = reshaped(x, &[batch, length, heads, hidden / heads], context)?;
            permuted(apart, &[0, 2, 1, 3], context)
        }
        _ => Err(OpError::new(format!("a tensor of shape {shape:?} does not split into {heads} heads"))),
    }
}

/// The inverse of [`heads_apart`].
pub(super) fn heads_together(x: Value, context: &Context) -> Result<Value, OpError> {
    let x = permuted(x, &[0, 2, 1, 3], context)?;
    let shape = x.shape();
    reshaped(x, &[shape[0], shape[1], shape[2] * shape[3]], context)
}

/// `new` appended to `past` along the sequence.
pub(super) fn behind(past: Option<Value>, new: Value, context: &Context) -> Result<Value, OpError> {
    let Some(past) = past.filter(|past| !past.shape().contains(&0)) else { return Ok(new) };
    let (old, shape) = (past.shape(), new.shape());
    if old.len() != 4 || shape.len() != 4 || [0, 1, 3].iter().any(|&axis| old[axis] != shape[axis]) {
        return Err(OpError::new(format!("a past of shape {old:?} does not continue with {shape:?}")));
    }
    Ok(Value::float(B::float_cat(vec![past.into_float(context)?, new.into_float(context)?], 2)))
}

fn precision_of(code: i64) -> Result<FloatDType, OpError> {
    match i32::try_from(code).ok().and_then(DType::from_onnx_code) {
        Some(dtype) if dtype.is_float() => Ok(float_type(dtype)),
        _ => Err(OpError::new(format!("a softmax_precision of ONNX type {code} is not supported"))),
    }
}

fn float_type(dtype: DType) -> FloatDType {
    match dtype {
        DType::F16 => FloatDType::F16,
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

/// `tensor` in the type `dtype`.
fn cast(tensor: Primitive, dtype: FloatDType) -> Primitive {
    if tensor.dtype() == dtype.into() { tensor } else { B::float_cast(tensor, dtype) }
}

/// The places `range` of one dimension.
pub(super) fn part(tensor: Primitive, axis: usize, range: std::ops::Range<usize>) -> Primitive {
    let shape = tensor.shape();
    let mut slices: Vec<Slice> = shape.iter().map(|&size| Slice::new(0, Some(size as isize), 1)).collect();
    slices[axis] = Slice::new(range.start as isize, Some(range.end as isize), 1);
    B::float_slice(tensor, &slices)
}
