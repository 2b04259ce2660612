//! Activation functions, element by element.
//!
//! Where burn has a kernel of its own it is used: one pass over memory on the CPU, one launch on a device.

use burn_backend::Scalar;
use burn_backend::ops::{ActivationOps, BoolTensorOps, FloatTensorOps};
use hedge_graph::Node;

use super::convert::to_doubles;
use super::exact::{IntBinary, IntUnary, int_binary};
use super::unary::{float_or_int, in_single, plus, precise, precise_with, times, unary, vectorized};
use super::vector::Function;
use super::{BoxOp, Builder, Inputs, OpError, aligned, broadcast_shape, one};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Identity" => |_, _| one(|_, mut inputs| inputs.take(0)),
        "Relu" => |_, _| float_or_int(B::relu, IntUnary::Relu),
        "Sigmoid" => |_, _| vectorized(Function::Sigmoid, B::sigmoid),
        "Softplus" => |_, _| precise_with(softplus),
        "Softsign" => |_, _| precise(|x| B::float_div(x.clone(), plus(B::float_abs(x), 1.0))),
        "Mish" => |_, _| precise_with(|x, context| B::float_mul(B::float_tanh(softplus(x.clone(), context)), x)),
        "HardSwish" => |_, _| precise(|x| B::float_mul(hard_sigmoid(x.clone(), 1.0 / 6.0, 0.5), x)),
        "Gelu" => gelu,
        "LeakyRelu" => |node, _| {
            let slope = Scalar::Float(alpha(node, 0.01));
            unary(move |x| B::leaky_relu(x, slope))
        },
        "PRelu" => |_, _| one(|context, mut inputs| prelu(inputs.take(0)?, inputs.take(1)?, context)),
        "HardSigmoid" => |node, _| {
            let (alpha, beta) = (alpha(node, 0.2), f64::from(node.float("beta", 0.5)));
            precise(move |x| hard_sigmoid(x, alpha, beta))
        },
        "Elu" => |node, _| {
            let alpha = alpha(node, 1.0);
            precise(move |x| elu(x, alpha, 1.0))
        },
        "Celu" => |node, _| {
            let alpha = alpha(node, 1.0);
            precise(move |x| elu(x, alpha, 1.0 / alpha))
        },
        "Selu" => |node, _| {
            let (alpha, gamma) = (alpha(node, 1.673_263_2), f64::from(node.float("gamma", 1.050_701)));
            precise(move |x| times(elu(x, alpha, 1.0), gamma))
        },
        "ThresholdedRelu" => |node, _| {
            let threshold = alpha(node, 1.0);
            one(move |context, mut inputs| thresholded(inputs.take(0)?, threshold, context))
        },
        "Shrink" => shrink,
        "Swish" => |node, _| {
            let alpha = alpha(node, 1.0);
            precise(move |x| swish(x, alpha))
        },
        "SwiGLU" => swiglu,
        _ => return None,
    })
}

fn alpha(node: &Node, default: f32) -> f64 {
    f64::from(node.float("alpha", default))
}

/// `ln(1 + exp(x))`, without overflow.
fn softplus(x: Primitive, context: &Context) -> Primitive {
    if !context.is_gpu() {
        return B::float_neg(B::log_sigmoid(B::float_neg(x)));
    }
    // Burn composes `log_sigmoid` on a device of steps that subtract infinities.
    let tail = B::float_log1p(B::float_exp(B::float_neg(B::float_abs(x.clone()))));
    B::float_add(tail, B::relu(x))
}

fn hard_sigmoid(x: Primitive, alpha: f64, beta: f64) -> Primitive {
    B::hard_sigmoid(x, Scalar::Float(alpha), Scalar::Float(beta))
}

/// `x` where positive, `alpha * (exp(x * inner) - 1)` elsewhere.
fn elu(x: Primitive, alpha: f64, inner: f64) -> Primitive {
    let negative = B::float_clamp_max(x.clone(), Scalar::Float(0.0));
    let negative = if inner == 1.0 { negative } else { times(negative, inner) };
    B::float_add(times(plus(B::float_exp(negative), -1.0), alpha), B::relu(x))
}

fn swish(x: Primitive, alpha: f64) -> Primitive {
    let inner = if alpha == 1.0 { x.clone() } else { times(x.clone(), alpha) };
    B::float_mul(B::sigmoid(inner), x)
}

fn gelu(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    match node.string("approximate").unwrap_or("none") {
        "none" => vectorized(Function::Gelu, B::gelu),
        "tanh" => vectorized(Function::TanhGelu, tanh_gelu),
        other => Err(OpError::new(format!("approximate is {other:?}, but must be none or tanh"))),
    }
}

/// `x / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (x + 0.044715 * x^3)`, as `x * sigmoid(2 * u)`: fewer passes.
fn tanh_gelu(x: Primitive) -> Primitive {
    let scale = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let inner = plus(times(B::float_mul(x.clone(), x.clone()), scale * 0.044_715), scale);
    B::float_mul(B::sigmoid(B::float_mul(inner, x.clone())), x)
}

/// The slope broadcasts to `x`, not the other way round.
fn prelu(x: Value, slope: Value, context: &Context) -> Result<Value, OpError> {
    let (x, slope) = super::elementwise::same_type(x, slope)?;
    let shape = x.shape();
    if broadcast_shape(&shape, &slope.shape())? != shape {
        return Err(OpError::new(format!("a slope of {:?} does not broadcast to {shape:?}", slope.shape())));
    }
    if !x.is_float() {
        return int_binary(IntBinary::Prelu, x, slope);
    }
    let (x, slope) = aligned(x, slope, context)?;
    Ok(Value::float(B::prelu(x.into_float(context)?, slope.into_float(context)?)))
}

fn thresholded(x: Value, threshold: f64, context: &Context) -> Result<Value, OpError> {
    let x = x.into_float(context)?;
    // What is no number lies above no threshold.
    let above = B::float_greater_elem(x.clone(), Scalar::Float(threshold), context.bool);
    Ok(Value::float(B::float_mask_fill(x, B::bool_not(above), Scalar::Float(0.0))))
}

/// Towards zero by `bias` where it is farther than `lambd` from it, zero elsewhere; integers as well.
fn shrink(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (bias, limit) = (f64::from(node.float("bias", 0.0)), f64::from(node.float("lambd", 0.5)));
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        if !x.is_float() {
            let (shape, dtype) = (x.shape(), x.dtype());
            let values: Vec<f64> = to_doubles(&x)?.into_iter().map(|x| shrunk(x, bias, limit)).collect();
            return super::convert::numbers(&shape, &values, dtype);
        }
        let x = x.into_float(context)?;
        let low = B::float_lower_elem(x.clone(), Scalar::Float(-limit), context.bool);
        let high = B::float_greater_elem(x.clone(), Scalar::Float(limit), context.bool);
        let zero = times(x.clone(), 0.0);
        let shrunk = B::float_mask_where(zero, low, plus(x.clone(), bias));
        Ok(Value::float(B::float_mask_where(shrunk, high, plus(x, -bias))))
    })
}

fn shrunk(x: f64, bias: f64, limit: f64) -> f64 {
    if x < -limit {
        x + bias
    } else if x > limit {
        x - bias
    } else {
        0.0
    }
}

fn swiglu(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let alpha = alpha(node, 1.0);
    one(move |context: &Context, mut inputs: Inputs| {
        let (gate, linear) = super::elementwise::same_type(inputs.take(0)?, inputs.take(1)?)?;
        if gate.shape() != linear.shape() {
            return Err(OpError::new(format!("{:?} and {:?} must be one shape", gate.shape(), linear.shape())));
        }
        let gated = in_single(gate.into_float(context)?, |gate| swish(gate, alpha));
        Ok(Value::float(B::float_mul(gated, linear.into_float(context)?)))
    })
}
