//! Functions of one tensor, element by element: rounding, roots, exponentials, trigonometry, and clipping.

use burn_backend::Scalar;
use burn_backend::ops::FloatTensorOps;
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
        "Exp" => |_, _| unary(B::float_exp),
        "Log" => |_, _| unary(B::float_log),
        "Erf" => |_, _| vectorized(Function::Erf, B::float_erf),
        "Sin" => |_, _| unary(B::float_sin),
        "Cos" => |_, _| unary(B::float_cos),
        "Tan" => |_, _| unary(B::float_tan),
        "Asin" => |_, _| unary(B::float_asin),
        "Acos" => |_, _| unary(B::float_acos),
        "Atan" => |_, _| unary(B::float_atan),
        "Sinh" => |_, _| unary(B::float_sinh),
        "Cosh" => |_, _| unary(B::float_cosh),
        "Tanh" => |_, _| vectorized(Function::Tanh, B::float_tanh),
        "Asinh" => |_, _| unary(B::float_asinh),
        "Acosh" => |_, _| unary(B::float_acosh),
        "Atanh" => |_, _| unary(B::float_atanh),
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
        Ok(Value::float(vector::apply(function, inputs.take(0)?.into_float(context)?, context, otherwise)?))
    })
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
    let has = |name: &str| opset < 11 && node.attributes.contains_key(name);
    let attribute = |name: &str| has(name).then(|| f64::from(node.float(name, 0.0)));
    let (low, high) = (attribute("min"), attribute("max"));
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
fn clip_float(x: Value, low: Option<f64>, high: Option<f64>, context: &Context) -> Result<Primitive, OpError> {
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
