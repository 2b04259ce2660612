//! Matrix products.

use burn_backend::Scalar;
use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::host::{room, with_elements, zeros};
use super::precision::{narrowed, widened};
use super::{BoxOp, Builder, OpError, aligned, broadcast_shape, integer_product, one, reshaped, with_rank};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "MatMul" => Some(|_, _| one(|context, mut inputs| matmul(inputs.take(0)?, inputs.take(1)?, context))),
        "Gemm" => Some(gemm),
        "Det" => Some(super::determinant::determinant),
        _ => None,
    }
}

/// numpy's `matmul`: vectors become matrices and lose the added dimension again, leading dimensions broadcast.
pub(super) fn matmul(a: Value, b: Value, context: &Context) -> Result<Value, OpError> {
    let (left, right) = (a.shape(), b.shape());
    if left.is_empty() || right.is_empty() {
        return Err(OpError::new("a scalar has no matrix product"));
    }
    let dtype = same_type(&a, &b)?;
    let (row, column) = (left.len() == 1, right.len() == 1);
    let a = if row { reshaped(a, &[1, left[0]], context)? } else { a };
    let b = if column { reshaped(b, &[right[0], 1], context)? } else { b };
    let (left, right) = (a.shape(), b.shape());
    let (m, k) = (left[left.len() - 2], left[left.len() - 1]);
    let n = right[right.len() - 1];
    if k != right[right.len() - 2] {
        return Err(OpError::new(format!("{left:?} and {right:?} have no matrix product")));
    }
    let batch = broadcast_shape(&left[..left.len() - 2], &right[..right.len() - 2])?;
    let product = product(a, b, &batch, dtype, context)?;
    let mut shape = batch;
    shape.extend((!row).then_some(m));
    shape.extend((!column).then_some(n));
    reshaped(product, &shape, context)
}

fn same_type(a: &Value, b: &Value) -> Result<DType, OpError> {
    if a.dtype() == b.dtype() && a.dtype() != DType::Bool {
        return Ok(a.dtype());
    }
    Err(OpError::new(format!("its inputs are {} and {}, but must be numbers of one type", a.dtype(), b.dtype())))
}

/// The products of matrices that fit each other, `batch` of them.
fn product(a: Value, b: Value, batch: &[usize], dtype: DType, context: &Context) -> Result<Value, OpError> {
    let (left, right) = (a.shape(), b.shape());
    let (m, k, n) = (left[left.len() - 2], left[left.len() - 1], right[right.len() - 1]);
    let shape = [batch, &[m, n]].concat();
    if room(dtype, &shape)? == 0 || k == 0 {
        return Ok(Value::host(zeros(dtype, &shape)?));
    }
    if !dtype.is_float() {
        let (a, b) = (a.into_host().map_err(OpError::new)?, b.into_host().map_err(OpError::new)?);
        let y = with_elements!(dtype, T => integer_product::product::<T>(&a, &b, batch))?;
        return Ok(Value::host(y));
    }
    if right.len() == 2 && left.len() > 2 {
        // Weights on the right: one tall matrix instead of a batch of small ones.
        let tall: usize = left[..left.len() - 1].iter().product();
        let y = B::float_matmul(reshaped(a, &[tall, k], context)?.into_float(context)?, b.into_float(context)?);
        return reshaped(Value::float(y), &shape, context);
    }
    let rank = shape.len();
    let (a, b) = (with_rank(a, rank, context)?, with_rank(b, rank, context)?);
    Ok(Value::float(B::float_matmul(a.into_float(context)?, b.into_float(context)?)))
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
        let dtype = same_type(&a, &b)?;
        let out = [left[0], right[1]];
        // Halves are scaled and added in 32 bits, and rounded once.
        let wide = |value: Value| match dtype {
            DType::F16 if !value.shape().contains(&0) => Ok(Value::float(widened(value, context)?)),
            _ => Ok::<_, OpError>(value),
        };
        let product = product(wide(a)?, wide(b)?, &[], dtype, context)?;
        // A factor of 0 leaves the addend out, even where it is no number.
        let addend = inputs.optional(2).filter(|_| beta != 0.0);
        if let Some(c) = &addend
            && (c.dtype() != dtype || broadcast_shape(&c.shape(), &out).ok().as_deref() != Some(&out[..]))
        {
            return Err(OpError::new(format!("{} {:?} is not added to {dtype} {out:?}", c.dtype(), c.shape())));
        }
        if out.contains(&0) {
            return Ok(product);
        }
        if !dtype.is_float() {
            let product = product.into_host().map_err(OpError::new)?;
            let addend = addend.map(|c| c.into_host().map_err(OpError::new)).transpose()?;
            let y =
                with_elements!(dtype, T => integer_product::scaled_sum::<T>(&product, addend.as_ref(), alpha, beta))?;
            return Ok(Value::host(y));
        }
        let product = scaled(wide(product)?.into_float(context)?, alpha);
        let Some(c) = addend else { return Ok(narrowed(product, dtype)) };
        let (product, c) = aligned(Value::float(product), wide(c)?, context)?;
        let sum = B::float_add(product.into_float(context)?, scaled(c.into_float(context)?, beta));
        Ok(narrowed(sum, dtype))
    })
}

fn turned(value: Value, transpose: bool, context: &Context) -> Result<Value, OpError> {
    if !transpose || value.rank() != 2 {
        return Ok(value);
    }
    if !value.is_float() {
        let tensor = value.into_host().map_err(OpError::new)?;
        return Ok(Value::host(with_elements!(tensor.dtype(), T => integer_product::turned::<T>(&tensor))?));
    }
    if value.shape().contains(&0) {
        let shape: Vec<usize> = value.shape().into_iter().rev().collect();
        return Ok(Value::host(Tensor::zeros(value.dtype(), shape)?));
    }
    Ok(Value::float(B::float_transpose(value.into_float(context)?)))
}

fn scaled(x: Primitive, factor: f32) -> Primitive {
    if factor == 1.0 { x } else { B::float_mul_scalar(x, Scalar::Float(f64::from(factor))) }
}
