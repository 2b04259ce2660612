//! Comparisons, logic on booleans, and choosing by a condition.

use burn_backend::Scalar;
use burn_backend::ops::{BoolTensorOps, FloatTensorOps};
use hedge_graph::Node;
use hedge_tensor::{DType, Element, Tensor};

use super::elementwise::{host_scalar, same_type};
use super::exact::{bool_tensor, broadcast_strides, host_elements, room_for, walk, zip};
use super::host::with_elements;
use super::layout::expanded;
use super::{BoxOp, Builder, OpError, broadcast_shape, one};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Equal" => |_, _| comparison(Comparison::Equal),
        "Greater" => |_, _| comparison(Comparison::Greater),
        "GreaterOrEqual" => |_, _| comparison(Comparison::GreaterOrEqual),
        "Less" => |_, _| comparison(Comparison::Less),
        "LessOrEqual" => |_, _| comparison(Comparison::LessOrEqual),
        "And" => |_, _| logical(Logic::And),
        "Or" => |_, _| logical(Logic::Or),
        "Xor" => |_, _| logical(Logic::Xor),
        "Not" => |_, _| one(|context, mut inputs| Ok(Value::bool(B::bool_not(inputs.take(0)?.into_bool(context)?)))),
        "Where" => |_, _| one(|context, mut inputs| select(inputs.take(0)?, inputs.take(1)?, inputs.take(2)?, context)),
        "IsNaN" => |_, _| {
            one(|context, mut inputs| {
                Ok(Value::bool(B::float_is_nan(inputs.take(0)?.into_float(context)?, context.bool)))
            })
        },
        "IsInf" => is_infinite,
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

fn comparison(kind: Comparison) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| compare(inputs.take(0)?, inputs.take(1)?, kind, context))
}

/// Whether the comparison holds of each pair of elements; of a NaN none does.
pub(super) fn compare(a: Value, b: Value, kind: Comparison, context: &Context) -> Result<Value, OpError> {
    let (a, b) = same_type(a, b)?;
    if !a.is_float() {
        return compare_exactly(a, b, kind);
    }
    if let Some(scalar) = host_scalar(&b, &a)? {
        return Ok(Value::bool(compare_to_scalar(a.into_float(context)?, scalar, kind, context)));
    }
    let shape = broadcast_shape(&a.shape(), &b.shape())?;
    // Burn's comparisons do not all broadcast.
    let (a, b) = (expanded(a, &shape, context)?, expanded(b, &shape, context)?);
    let (a, b, out) = (a.into_float(context)?, b.into_float(context)?, context.bool);
    Ok(Value::bool(match kind {
        Comparison::Equal => B::float_equal(a, b, out),
        Comparison::Greater => B::float_greater(a, b, out),
        Comparison::GreaterOrEqual => B::float_greater_equal(a, b, out),
        Comparison::Less => B::float_lower(a, b, out),
        Comparison::LessOrEqual => B::float_lower_equal(a, b, out),
    }))
}

fn compare_to_scalar(x: Primitive, scalar: Scalar, kind: Comparison, context: &Context) -> Primitive {
    let out = context.bool;
    match kind {
        Comparison::Equal => B::float_equal_elem(x, scalar, out),
        Comparison::Greater => B::float_greater_elem(x, scalar, out),
        Comparison::GreaterOrEqual => B::float_greater_equal_elem(x, scalar, out),
        Comparison::Less => B::float_lower_elem(x, scalar, out),
        Comparison::LessOrEqual => B::float_lower_equal_elem(x, scalar, out),
    }
}

/// Integers and booleans, on the host.
fn compare_exactly(a: Value, b: Value, kind: Comparison) -> Result<Value, OpError> {
    if a.dtype() == DType::Bool && kind != Comparison::Equal {
        return Err(OpError::new("booleans have no order"));
    }
    let (a, b) = (host_elements(a)?, host_elements(b)?);
    let (shape, values) = with_elements!(a.dtype(), T => compared::<T>(&a, &b, kind))?;
    bool_tensor(shape, values)
}

/// A loop for each comparison: one that chose between them at each element would not be compiled to vectors.
fn compared<T: Element + PartialOrd>(
    a: &Tensor,
    b: &Tensor,
    kind: Comparison,
) -> Result<(Vec<usize>, Vec<u8>), OpError> {
    match kind {
        Comparison::Equal => zip(a, b, |a: T, b: T| u8::from(a == b)),
        Comparison::Greater => zip(a, b, |a: T, b: T| u8::from(a > b)),
        Comparison::GreaterOrEqual => zip(a, b, |a: T, b: T| u8::from(a >= b)),
        Comparison::Less => zip(a, b, |a: T, b: T| u8::from(a < b)),
        Comparison::LessOrEqual => zip(a, b, |a: T, b: T| u8::from(a <= b)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logic {
    And,
    Or,
    Xor,
}

fn logical(op: Logic) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let (a, b) = (inputs.take(0)?, inputs.take(1)?);
        let shape = broadcast_shape(&a.shape(), &b.shape())?;
        let (a, b) = (expanded(a, &shape, context)?, expanded(b, &shape, context)?);
        let (a, b) = (a.into_bool(context)?, b.into_bool(context)?);
        Ok(Value::bool(match op {
            Logic::And => B::bool_and(a, b),
            Logic::Or => B::bool_or(a, b),
            Logic::Xor => B::bool_xor(a, b),
        }))
    })
}

fn is_infinite(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (negative, positive) = (node.int("detect_negative", 1) != 0, node.int("detect_positive", 1) != 0);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let x = x.into_float(context)?;
        let equal = |x: Primitive, bound: f64| B::float_equal_elem(x, Scalar::Float(bound), context.bool);
        Ok(match (negative, positive) {
            (true, true) => Value::bool(equal(B::float_abs(x), f64::INFINITY)),
            (false, true) => Value::bool(equal(x, f64::INFINITY)),
            (true, false) => Value::bool(equal(x, f64::NEG_INFINITY)),
            (false, false) => Value::host(Tensor::zeros(DType::Bool, shape)?),
        })
    })
}

/// `a` where `condition` holds, `b` elsewhere.
pub(super) fn select(condition: Value, a: Value, b: Value, context: &Context) -> Result<Value, OpError> {
    let (a, b) = same_type(a, b)?;
    let shape = broadcast_shape(&broadcast_shape(&condition.shape(), &a.shape())?, &b.shape())?;
    let dtype = a.dtype();
    if !dtype.is_float() && dtype != DType::Bool {
        return select_exactly(condition, a, b, &shape);
    }
    if b.shape() == shape
        && let Some(scalar) = host_scalar(&a, &b)?
    {
        let mask = expanded(condition, &shape, context)?.into_bool(context)?;
        return Ok(Value::float(B::float_mask_fill(b.into_float(context)?, mask, scalar)));
    }
    let mask = expanded(condition, &shape, context)?.into_bool(context)?;
    let (a, b) = (expanded(a, &shape, context)?, expanded(b, &shape, context)?);
    Ok(match dtype {
        DType::Bool => Value::bool(B::bool_mask_where(b.into_bool(context)?, mask, a.into_bool(context)?)),
        _ => Value::float(B::float_mask_where(b.into_float(context)?, mask, a.into_float(context)?)),
    })
}

/// Integers, on the host: a 64-bit one may not fit the device.
fn select_exactly(condition: Value, a: Value, b: Value, shape: &[usize]) -> Result<Value, OpError> {
    if condition.dtype() != DType::Bool {
        return Err(OpError::new(format!("its condition is {}, but must be BOOL", condition.dtype())));
    }
    let tensors = [host_elements(condition)?, host_elements(a)?, host_elements(b)?];
    with_elements!(tensors[1].dtype(), T => picked::<T>(&tensors, shape))
}

fn picked<T: Element>([condition, a, b]: &[Tensor; 3], shape: &[usize]) -> Result<Value, OpError> {
    let (mask, left, right) = (condition.bytes(), a.to_vec::<T>()?, b.to_vec::<T>()?);
    let strides = [condition, a, b].map(|tensor| broadcast_strides(tensor.shape(), shape));
    let mut values = room_for(shape)?;
    walk(shape, &strides, |[c, i, j]| values.push(if mask[c] != 0 { left[i] } else { right[j] }))?;
    super::exact::tensor(shape, &values)
}
