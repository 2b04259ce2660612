//! Functions of one tensor, element by element: rounding, roots, exponentials, trigonometry, and clipping.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType as BurnType, FloatDType, Scalar, TensorMetadata};
use hedge_graph::Node;

use super::convert::to_doubles;
use super::exact::{IntBinary, IntUnary, int_binary, int_unary};
use super::vector::{self, Function};
use super::{BoxOp, Builder, OpError, one};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Neg" => |_, _| float_or_int(B::float_neg, IntUnary::Neg),
        "Abs" => |_, _| float_or_int(B::float_abs, IntUnary::Abs),
        "Sign" => |_, _| float_or_int(B::float_sign, IntUnary::Sign),
        "Floor" => |_, _| unary(B::float_floor),
        "Ceil" => |_, _| unary(B::float_ceil),
        // Burn rounds halves to even, as ONNX asks.
        "Round" => |_, _| unary(B::float_round),
        "Reciprocal" => |_, _| unary(B::float_recip),
        "Sqrt" => |_, _| unary(B::float_sqrt),
        "Exp" => |_, _| precise(B::float_exp),
        "Log" => |_, _| precise(B::float_log),
        "Erf" => |_, _| vectorized(Function::Erf, B::float_erf),
        "Sin" => |_, _| precise(B::float_sin),
        "Cos" => |_, _| precise(B::float_cos),
        "Tan" => |_, _| precise(B::float_tan),
        "Asin" => |_, _| precise(B::float_asin),
        "Acos" => |_, _| precise(B::float_acos),
        "Atan" => |_, _| precise_with(arc_tangent),
        "Sinh" => |_, _| precise(B::float_sinh),
        "Cosh" => |_, _| precise(B::float_cosh),
        "Tanh" => |_, _| vectorized(Function::Tanh, B::float_tanh),
        "Asinh" => |_, _| precise(B::float_asinh),
        "Acosh" => |_, _| precise(B::float_acosh),
        "Atanh" => |_, _| precise(B::float_atanh),
        "Clip" => clip,
        _ => return None,
    })
}

/// Boxes a function on a float tensor.
pub(super) fn unary(f: impl Fn(Primitive) -> Primitive + Send + Sync + 'static) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| Ok(Value::float(f(inputs.take(0)?.into_float(context)?))))
}

/// Boxes a function on a float tensor that the CPU computes by vectors.
pub(super) fn vectorized(function: Function, otherwise: fn(Primitive) -> Primitive) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let x = inputs.take(0)?.into_float(context)?;
        if x.dtype() == BurnType::F16 {
            return Ok(Value::float(in_single(x, otherwise)));
        }
        Ok(Value::float(vector::apply(function, x, context, otherwise)?))
    })
}

/// Boxes a function that 16 bits are too few to compute in.
pub(super) fn precise(f: impl Fn(Primitive) -> Primitive + Send + Sync + 'static) -> Result<BoxOp, OpError> {
    precise_with(move |x, _| f(x))
}

/// Boxes a function that 16 bits are too few to compute in, and which depends on the device.
pub(super) fn precise_with(
    f: impl Fn(Primitive, &Context) -> Primitive + Send + Sync + 'static,
) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let x = inputs.take(0)?.into_float(context)?;
        Ok(Value::float(in_single(x, |x| f(x, context))))
    })
}

/// `f`, of halves computed in 32 bits and rounded once, as onnxruntime does it.
pub(super) fn in_single(x: Primitive, f: impl FnOnce(Primitive) -> Primitive) -> Primitive {
    if x.dtype() != BurnType::F16 {
        return f(x);
    }
    B::float_cast(f(B::float_cast(x, FloatDType::F32)), FloatDType::F16)
}

/// A shader's arc tangent of NaN may be a number.
fn arc_tangent(x: Primitive, context: &Context) -> Primitive {
    if !context.is_gpu() {
        return B::float_atan(x);
    }
    let nan = B::float_is_nan(x.clone(), context.bool);
    B::float_mask_where(B::float_atan(x.clone()), nan, x)
}

/// Boxes a function on a float or an integer tensor.
pub(super) fn float_or_int(float: fn(Primitive) -> Primitive, int: IntUnary) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        if x.is_float() { Ok(Value::float(float(x.into_float(context)?))) } else { int_unary(int, x) }
    })
}

pub(super) fn plus(x: Primitive, value: f64) -> Primitive {
    B::float_add_scalar(x, Scalar::Float(value))
}

pub(super) fn times(x: Primitive, value: f64) -> Primitive {
    B::float_mul_scalar(x, Scalar::Float(value))
}

/// Bounds are attributes before opset 11 and inputs from then on.
fn clip(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    // The bounds that an older node does not name are the largest singles: infinities become finite.
    let attribute = |name: &str, default: f32| (opset < 11).then(|| f64::from(node.float(name, default)));
    let (low, high) = (attribute("min", f32::MIN), attribute("max", f32::MAX));
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let (low_input, high_input) = (inputs.optional(1), inputs.optional(2));
        if !x.is_float() {
            return clip_int(x, low_input, high_input);
        }
        let low = bound(low_input)?.or(low);
        let high = bound(high_input)?.or(high);
        Ok(Value::float(clip_float(x, low, high, context)?))
    })
}

fn bound(value: Option<Value>) -> Result<Option<f64>, OpError> {
    let Some(value) = value else { return Ok(None) };
    match to_doubles(&value)?.as_slice() {
        [bound] => Ok(Some(*bound)),
        other => Err(OpError::new(format!("a bound must be one number, but it is {}", other.len()))),
    }
}

/// The order matters where the bounds are crossed: ONNX says min(max(x, low), high).
pub(super) fn clip_float(
    x: Value,
    low: Option<f64>,
    high: Option<f64>,
    context: &Context,
) -> Result<Primitive, OpError> {
    let x = x.into_float(context)?;
    let low = low.filter(|&low| low != f64::NEG_INFINITY);
    let high = high.filter(|&high| high != f64::INFINITY);
    Ok(match (low, high) {
        (Some(low), Some(high)) if low <= high => B::float_clamp(x, Scalar::Float(low), Scalar::Float(high)),
        (Some(low), Some(high)) => B::float_clamp_max(B::float_clamp_min(x, Scalar::Float(low)), Scalar::Float(high)),
        (Some(low), None) => B::float_clamp_min(x, Scalar::Float(low)),
        (None, Some(high)) => B::float_clamp_max(x, Scalar::Float(high)),
        (None, None) => x,
    })
}

fn clip_int(x: Value, low: Option<Value>, high: Option<Value>) -> Result<Value, OpError> {
    let clipped = |x: Value, bound: Option<Value>, op: IntBinary| match bound {
        Some(bound) if bound.dtype() != x.dtype() || bound.shape().iter().any(|&size| size != 1) => Err(OpError::new(
            format!("a bound must be one {}, but it is {} {:?}", x.dtype(), bound.dtype(), bound.shape()),
        )),
        Some(bound) => int_binary(op, x, bound),
        None => Ok(x),
    };
    let x = clipped(x, low, IntBinary::Max)?;
    clipped(x, high, IntBinary::Min)
}
