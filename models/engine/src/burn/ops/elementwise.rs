//! Operators that work element by element on two or more tensors.

use burn_backend::Scalar;
use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::{BoxOp, Builder, OpError, aligned, one};
use crate::burn::{B, Context, Primitive, Value};

type Binary = fn(Primitive, Primitive) -> Primitive;

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Add" => |_, _| arithmetic(B::float_add, B::int_add),
        "Sub" => |_, _| arithmetic(B::float_sub, B::int_sub),
        "Mul" => |_, _| arithmetic(B::float_mul, B::int_mul),
        "Div" => |_, _| arithmetic(B::float_div, B::int_div),
        "Pow" => |_, _| one(|context, mut inputs| power(inputs.take(0)?, inputs.take(1)?, context)),
        "Min" => |node, _| extremum(node, false),
        "Max" => |node, _| extremum(node, true),
        "Equal" => |_, _| comparison(Comparison::Equal),
        "Greater" => |_, _| comparison(Comparison::Greater),
        "GreaterOrEqual" => |_, _| comparison(Comparison::GreaterOrEqual),
        "Less" => |_, _| comparison(Comparison::Less),
        "LessOrEqual" => |_, _| comparison(Comparison::LessOrEqual),
        "And" => |_, _| logical(B::bool_and),
        "Or" => |_, _| logical(B::bool_or),
        "Not" => |_, _| one(|context, mut inputs| Ok(Value::bool(B::bool_not(inputs.take(0)?.into_bool(context)?)))),
        "Where" => |_, _| one(|context, mut inputs| select(inputs.take(0)?, inputs.take(1)?, inputs.take(2)?, context)),
        _ => return None,
    })
}

fn arithmetic(float: Binary, int: Binary) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let (a, b) = same_type(inputs.take(0)?, inputs.take(1)?)?;
        let (a, b) = aligned(a, b, context)?;
        if a.is_float() {
            return Ok(Value::float(float(a.into_float(context)?, b.into_float(context)?)));
        }
        let dtype = a.dtype();
        Ok(Value::int(int(a.into_int(context)?, b.into_int(context)?), dtype))
    })
}

fn same_type(a: Value, b: Value) -> Result<(Value, Value), OpError> {
    if a.dtype() == b.dtype() {
        return Ok((a, b));
    }
    Err(OpError::new(format!("its inputs are {} and {}, but must be of one type", a.dtype(), b.dtype())))
}

/// A scalar exponent is by far the usual one (squares, square roots) and has a faster kernel.
fn power(base: Value, exponent: Value, context: &Context) -> Result<Value, OpError> {
    if !base.is_float() {
        return Err(OpError::new(format!("a float base is needed, but it is {}", base.dtype())));
    }
    if exponent.shape().iter().product::<usize>() == 1 {
        let value =
            if exponent.is_float() { f64::from(exponent.to_floats()?[0]) } else { exponent.to_ints()?[0] as f64 };
        return Ok(Value::float(B::float_powf_scalar(base.into_float(context)?, Scalar::Float(value))));
    }
    let (base, exponent) = aligned(base, exponent, context)?;
    let exponent = if exponent.is_float() {
        exponent.into_float(context)?
    } else {
        B::int_into_float(exponent.into_int(context)?, burn_backend::FloatDType::F32)
    };
    Ok(Value::float(B::float_powf(base.into_float(context)?, exponent)))
}

fn extremum(node: &Node, largest: bool) -> Result<BoxOp, OpError> {
    if node.inputs.is_empty() {
        return Err(OpError::new("at least one input is needed"));
    }
    one(move |context, mut inputs| {
        let mut values = inputs.all().into_iter();
        let first = values.next().ok_or_else(|| OpError::new("input 0 is missing"))?;
        values.try_fold(first, |best, value| pick(best, value, largest, context))
    })
}

fn pick(a: Value, b: Value, largest: bool, context: &Context) -> Result<Value, OpError> {
    let comparison = if largest { Comparison::Greater } else { Comparison::Less };
    let condition = compare(a.clone(), b.clone(), comparison, context)?;
    select(condition, a, b, context)
}

#[derive(Clone, Copy)]
enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

fn comparison(kind: Comparison) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| compare(inputs.take(0)?, inputs.take(1)?, kind, context))
}

fn compare(a: Value, b: Value, kind: Comparison, context: &Context) -> Result<Value, OpError> {
    let (a, b) = same_type(a, b)?;
    let shape = super::broadcast_shape(&a.shape(), &b.shape())?;
    // Burn's comparisons do not all broadcast.
    let a = super::layout::expanded(a, &shape, context)?;
    let b = super::layout::expanded(b, &shape, context)?;
    let out = context.bool;
    if a.is_float() {
        let (a, b) = (a.into_float(context)?, b.into_float(context)?);
        return Ok(Value::bool(match kind {
            Comparison::Equal => B::float_equal(a, b, out),
            Comparison::Greater => B::float_greater(a, b, out),
            Comparison::GreaterOrEqual => B::float_greater_equal(a, b, out),
            Comparison::Less => B::float_lower(a, b, out),
            Comparison::LessOrEqual => B::float_lower_equal(a, b, out),
        }));
    }
    if a.dtype() == DType::Bool {
        return match kind {
            Comparison::Equal => Ok(Value::bool(B::bool_equal(a.into_bool(context)?, b.into_bool(context)?))),
            _ => Err(OpError::new("booleans have no order")),
        };
    }
    let (a, b) = (a.into_int(context)?, b.into_int(context)?);
    Ok(Value::bool(match kind {
        Comparison::Equal => B::int_equal(a, b, out),
        Comparison::Greater => B::int_greater(a, b, out),
        Comparison::GreaterOrEqual => B::int_greater_equal(a, b, out),
        Comparison::Less => B::int_lower(a, b, out),
        Comparison::LessOrEqual => B::int_lower_equal(a, b, out),
    }))
}

fn logical(f: Binary) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let (a, b) = aligned(inputs.take(0)?, inputs.take(1)?, context)?;
        Ok(Value::bool(f(a.into_bool(context)?, b.into_bool(context)?)))
    })
}

/// `a` where `condition` holds, `b` elsewhere.
fn select(condition: Value, a: Value, b: Value, context: &Context) -> Result<Value, OpError> {
    let (a, b) = same_type(a, b)?;
    let shape = super::broadcast_shape(&super::broadcast_shape(&condition.shape(), &a.shape())?, &b.shape())?;
    let mask = super::layout::expanded(condition, &shape, context)?.into_bool(context)?;
    let a = super::layout::expanded(a, &shape, context)?;
    let b = super::layout::expanded(b, &shape, context)?;
    let dtype = a.dtype();
    Ok(match dtype {
        DType::Bool => Value::bool(B::bool_mask_where(b.into_bool(context)?, mask, a.into_bool(context)?)),
        _ if dtype.is_float() => {
            Value::float(B::float_mask_where(b.into_float(context)?, mask, a.into_float(context)?))
        }
        _ => Value::int(B::int_mask_where(b.into_int(context)?, mask, a.into_int(context)?), dtype),
    })
}
