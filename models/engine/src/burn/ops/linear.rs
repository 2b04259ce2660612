//! Matrix products.

use burn_backend::Scalar;
use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;

use super::{BoxOp, Builder, OpError, aligned, broadcast_shape, one, reshaped, with_rank};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "MatMul" => Some(|_, _| one(|context, mut inputs| matmul(inputs.take(0)?, inputs.take(1)?, context))),
        "Gemm" => Some(gemm),
        _ => None,
    }
}

/// numpy's `matmul`: vectors become matrices and lose the added dimension again, leading dimensions broadcast.
fn matmul(a: Value, b: Value, context: &Context) -> Result<Value, OpError> {
    let (left, right) = (a.shape(), b.shape());
    if left.is_empty() || right.is_empty() {
        return Err(OpError::new("a scalar has no matrix product"));
    }
    let (row, column) = (left.len() == 1, right.len() == 1);
    let a = if row { reshaped(a, &[1, left[0]], context)? } else { a };
    let b = if column { reshaped(b, &[right[0], 1], context)? } else { b };
    let (left, right) = (a.shape(), b.shape());
    let (m, k) = (left[left.len() - 2], left[left.len() - 1]);
    let n = right[right.len() - 1];
    if k != right[right.len() - 2] {
        return Err(OpError::new(format!("{left:?} and {right:?} have no matrix product")));
    }
    let mut shape = broadcast_shape(&left[..left.len() - 2], &right[..right.len() - 2])?;
    let rank = shape.len() + 2;
    let product = if right.len() == 2 && left.len() > 2 {
        // Weights on the right: one tall matrix instead of a batch of small ones.
        let tall: usize = left[..left.len() - 1].iter().product();
        B::float_matmul(reshaped(a, &[tall, k], context)?.into_float(context)?, b.into_float(context)?)
    } else {
        let (a, b) = (with_rank(a, rank, context)?, with_rank(b, rank, context)?);
        B::float_matmul(a.into_float(context)?, b.into_float(context)?)
    };
    if !row {
        shape.push(m);
    }
    if !column {
        shape.push(n);
    }
    reshaped(Value::float(product), &shape, context)
}

fn gemm(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
    let (transpose_a, transpose_b) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
    one(move |context, mut inputs| {
        let a = turned(inputs.take(0)?, transpose_a, context)?;
        let b = turned(inputs.take(1)?, transpose_b, context)?;
        let (left, right) = (a.shape(), b.shape());
        if left.len() != 2 || right.len() != 2 || left[1] != right[0] {
            return Err(OpError::new(format!("{left:?} and {right:?} have no matrix product")));
        }
        let product = scaled(B::float_matmul(a.into_float(context)?, b.into_float(context)?), alpha);
        let Some(c) = inputs.optional(2) else { return Ok(Value::float(product)) };
        let (product, c) = aligned(Value::float(product), c, context)?;
        Ok(Value::float(B::float_add(product.into_float(context)?, scaled(c.into_float(context)?, beta))))
    })
}

fn turned(value: Value, transpose: bool, context: &Context) -> Result<Value, OpError> {
    if !transpose || value.rank() != 2 {
        return Ok(value);
    }
    Ok(Value::float(B::float_transpose(value.into_float(context)?)))
}

fn scaled(x: Primitive, factor: f32) -> Primitive {
    if factor == 1.0 { x } else { B::float_mul_scalar(x, Scalar::Float(f64::from(factor))) }
}
