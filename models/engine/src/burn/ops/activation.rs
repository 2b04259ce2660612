//! Operators on one tensor, element by element, and the softmax family.

use burn_backend::Scalar;
use burn_backend::ops::{ActivationOps, FloatTensorOps, IntTensorOps};
use hedge_graph::Node;

use super::{BoxOp, Builder, OpError, aligned, axis_of, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Relu" => |_, _| unary(B::relu),
        "Sigmoid" => |_, _| unary(B::sigmoid),
        "Tanh" => |_, _| unary(B::float_tanh),
        "Exp" => |_, _| unary(B::float_exp),
        "Log" => |_, _| unary(B::float_log),
        "Sqrt" => |_, _| unary(B::float_sqrt),
        "Erf" => |_, _| unary(B::float_erf),
        "Floor" => |_, _| unary(B::float_floor),
        "Ceil" => |_, _| unary(B::float_ceil),
        "Round" => |_, _| unary(B::float_round),
        "Reciprocal" => |_, _| unary(B::float_recip),
        "Sin" => |_, _| unary(B::float_sin),
        "Cos" => |_, _| unary(B::float_cos),
        "Softplus" => |_, _| unary(|x| B::float_neg(B::log_sigmoid(B::float_neg(x)))),
        "Softsign" => |_, _| unary(|x| B::float_div(x.clone(), plus(B::float_abs(x), 1.0))),
        "HardSwish" => |_, _| unary(hard_swish),
        "Gelu" => gelu,
        "Neg" => |_, _| float_or_int(B::float_neg, B::int_neg),
        "Abs" => |_, _| float_or_int(B::float_abs, B::int_abs),
        "Sign" => |_, _| float_or_int(B::float_sign, B::int_sign),
        "LeakyRelu" => |node, _| {
            let slope = Scalar::Float(f64::from(node.float("alpha", 0.01)));
            unary(move |x| B::leaky_relu(x, slope))
        },
        "HardSigmoid" => |node, _| {
            let (alpha, beta) = (f64::from(node.float("alpha", 0.2)), f64::from(node.float("beta", 0.5)));
            unary(move |x| clamp(plus(times(x, alpha), beta), 0.0, 1.0))
        },
        "Elu" => |node, _| {
            let alpha = f64::from(node.float("alpha", 1.0));
            unary(move |x| elu(x, alpha))
        },
        "PRelu" => |_, _| {
            one(|context, mut inputs| {
                let (x, slope) = aligned(inputs.take(0)?, inputs.take(1)?, context)?;
                let (x, slope) = (x.into_float(context)?, slope.into_float(context)?);
                let negative = B::float_mul(slope, B::float_clamp_max(x.clone(), Scalar::Float(0.0)));
                Ok(Value::float(B::float_add(B::relu(x), negative)))
            })
        },
        "Clip" => clip,
        "Softmax" => |node, opset| softmax(node, opset, B::softmax),
        "LogSoftmax" => |node, opset| softmax(node, opset, B::log_softmax),
        "Identity" => |_, _| one(|_, mut inputs| inputs.take(0)),
        // Inference mode: the mask output (all true) is left out, as onnxruntime does unless it is asked for.
        "Dropout" => dropout,
        _ => return None,
    })
}

fn unary(f: impl Fn(Primitive) -> Primitive + Send + Sync + 'static) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| Ok(Value::float(f(inputs.take(0)?.into_float(context)?))))
}

fn float_or_int(float: fn(Primitive) -> Primitive, int: fn(Primitive) -> Primitive) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        if x.is_float() {
            return Ok(Value::float(float(x.into_float(context)?)));
        }
        let dtype = x.dtype();
        Ok(Value::int(int(x.into_int(context)?), dtype))
    })
}

fn plus(x: Primitive, value: f64) -> Primitive {
    B::float_add_scalar(x, Scalar::Float(value))
}

fn times(x: Primitive, value: f64) -> Primitive {
    B::float_mul_scalar(x, Scalar::Float(value))
}

fn clamp(x: Primitive, low: f64, high: f64) -> Primitive {
    B::float_clamp(x, Scalar::Float(low), Scalar::Float(high))
}

fn hard_swish(x: Primitive) -> Primitive {
    B::float_mul(x.clone(), clamp(plus(times(x, 1.0 / 6.0), 0.5), 0.0, 1.0))
}

fn elu(x: Primitive, alpha: f64) -> Primitive {
    let negative = B::float_clamp_max(x.clone(), Scalar::Float(0.0));
    B::float_add(B::relu(x), times(plus(B::float_exp(negative), -1.0), alpha))
}

fn gelu(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    match node.string("approximate").unwrap_or("none") {
        "none" => unary(B::gelu),
        "tanh" => unary(tanh_gelu),
        other => Err(OpError::new(format!("approximate is {other:?}, but must be none or tanh"))),
    }
}

fn tanh_gelu(x: Primitive) -> Primitive {
    let cube = B::float_mul(B::float_mul(x.clone(), x.clone()), x.clone());
    let inner = times(B::float_add(x.clone(), times(cube, 0.044_715)), (2.0 / std::f64::consts::PI).sqrt());
    times(B::float_mul(x, plus(B::float_tanh(inner), 1.0)), 0.5)
}

/// Bounds are attributes before opset 11 and inputs from then on.
fn clip(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let attribute = |name: &str| (opset < 11).then(|| node.float(name, f32::NAN)).filter(|bound| !bound.is_nan());
    let (low, high) = (attribute("min"), attribute("max"));
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let low_input = inputs.optional(1);
        let high_input = inputs.optional(2);
        if x.is_float() {
            let bound = |value: Option<Value>| value.map(|value| value.to_floats()).transpose();
            let low = bound(low_input)?.and_then(|values| values.first().copied()).or(low);
            let high = bound(high_input)?.and_then(|values| values.first().copied()).or(high);
            return Ok(Value::float(clip_float(x.into_float(context)?, low, high)));
        }
        let bound = |value: Option<Value>| value.map(|value| value.to_ints()).transpose();
        let low = bound(low_input)?.and_then(|values| values.first().copied());
        let high = bound(high_input)?.and_then(|values| values.first().copied());
        let dtype = x.dtype();
        Ok(Value::int(clip_int(x.into_int(context)?, low, high), dtype))
    })
}

fn clip_float(x: Primitive, low: Option<f32>, high: Option<f32>) -> Primitive {
    match (low, high) {
        // The order matters where low > high: ONNX says min(max(x, low), high).
        (Some(low), Some(high)) if low <= high => clamp(x, f64::from(low), f64::from(high)),
        (low, high) => {
            let x = low.map_or(x.clone(), |low| B::float_clamp_min(x, Scalar::Float(f64::from(low))));
            high.map_or(x.clone(), |high| B::float_clamp_max(x, Scalar::Float(f64::from(high))))
        }
    }
}

fn clip_int(x: Primitive, low: Option<i64>, high: Option<i64>) -> Primitive {
    let x = low.map_or(x.clone(), |low| B::int_clamp_min(x, Scalar::Int(low)));
    high.map_or(x.clone(), |high| B::int_clamp_max(x, Scalar::Int(high)))
}

/// Before opset 13 the tensor is seen as a matrix, split at `axis`; from 13 on one dimension is normalized.
fn softmax(node: &Node, opset: i64, f: fn(Primitive, usize) -> Primitive) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", if opset < 13 { 1 } else { -1 });
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let axis = axis_of(axis, shape.len())?;
        if opset >= 13 || axis + 1 == shape.len() {
            return Ok(Value::float(f(x.into_float(context)?, axis)));
        }
        let matrix = [shape[..axis].iter().product(), shape[axis..].iter().product()];
        let y = f(reshaped(x, &matrix, context)?.into_float(context)?, 1);
        reshaped(Value::float(y), &shape, context)
    })
}

fn dropout(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    if node.outputs.get(1).is_some_and(|mask| !mask.is_empty()) {
        return Err(OpError::new("its mask output is not supported; remove it"));
    }
    one(|_: &Context, mut inputs| inputs.take(0))
}
