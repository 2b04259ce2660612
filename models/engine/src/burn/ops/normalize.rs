//! Normalizations by what each input's own rows, channels or neighbourhoods hold.

use burn_backend::ops::{FloatTensorOps, ModuleOps, PadMode};
use burn_backend::{Scalar, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::pool::{raised, root};
use super::precision::{cast, empty, narrowed, widened};
use super::{BoxOp, Builder, OpError, aligned, axis_of, broadcast_shape, many, one, reshaped, size_of};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "BatchNormalization" => super::batch_norm::batch,
        "LayerNormalization" => layer,
        "RMSNormalization" => root_mean_square,
        "InstanceNormalization" => instance,
        "GroupNormalization" => group,
        "LpNormalization" => lp,
        "MeanVarianceNormalization" => mean_variance,
        "LRN" => local_response,
        _ => return None,
    })
}

fn epsilon(node: &Node) -> f64 {
    f64::from(node.float("epsilon", 1e-5))
}

fn layer(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (axis, epsilon) = (node.int("axis", -1), epsilon(node));
    let statistics = node.outputs.iter().skip(1).any(|output| !output.is_empty());
    let stash = i32::try_from(node.int("stash_type", 1)).ok().and_then(DType::from_onnx_code);
    let stash = stash.filter(|dtype| dtype.is_float()).unwrap_or(DType::F32);
    many(move |context, mut inputs| {
        let (x, scale, bias) = (inputs.take(0)?, inputs.take(1)?, inputs.optional(2));
        let (shape, dtype) = (x.shape(), x.dtype());
        let axis = axis_of(axis, shape.len())?;
        let mut rows = shape[..axis].to_vec();
        rows.resize(shape.len(), 1);
        check_parameter(&scale, &shape, "scale")?;
        bias.as_ref().map_or(Ok(()), |bias| check_parameter(bias, &shape, "bias"))?;
        if shape.contains(&0) {
            let outputs = [(dtype, &shape), (stash, &rows), (stash, &rows)];
            let zeros = |(dtype, shape): (DType, &Vec<usize>)| hedge_tensor::Tensor::zeros(dtype, shape.clone());
            return outputs.into_iter().map(|output| Ok(Value::host(zeros(output)?))).collect();
        }
        let last = [shape[shape.len() - 1]];
        let fits = |value: &Value| value.shape() == last && value.dtype() == dtype;
        // A GPU's kernel sums in the input's own type.
        let sums = dtype != DType::F16 || !context.is_gpu();
        if sums && !statistics && axis + 1 == shape.len() && fits(&scale) && bias.as_ref().is_none_or(fits) {
            let bias = bias.map(|bias| bias.into_float(context)).transpose()?;
            let (x, scale) = (x.into_float(context)?, scale.into_float(context)?);
            return Ok(vec![Value::float(B::layer_norm(x, scale, bias, epsilon))]);
        }
        let rank = shape.len();
        let (mean, centered) = centered(widened(x, context)?, axis..rank);
        let deviation = B::float_sqrt(plus(mean_of_squares(centered.clone(), axis..rank), epsilon));
        let y = B::float_div(centered, deviation.clone());
        let y = affine(y, Some(scale), bias, dtype, context)?;
        if !statistics {
            return Ok(vec![y]);
        }
        let inverse = B::float_recip(deviation);
        Ok(vec![y, Value::float(cast(mean, stash)), Value::float(cast(inverse, stash))])
    })
}

fn root_mean_square(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (axis, epsilon) = (node.int("axis", -1), epsilon(node));
    one(move |context, mut inputs| {
        let (x, scale) = (inputs.take(0)?, inputs.take(1)?);
        let (shape, dtype) = (x.shape(), x.dtype());
        let axis = axis_of(axis, shape.len())?;
        check_parameter(&scale, &shape, "scale")?;
        if let Some(empty) = empty(dtype, &shape)? {
            return Ok(empty);
        }
        let x = widened(x, context)?;
        let mean = mean_of_squares(x.clone(), axis..shape.len());
        let y = B::float_div(x, B::float_sqrt(plus(mean, epsilon)));
        affine(y, Some(scale), None, dtype, context)
    })
}

fn instance(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let epsilon = epsilon(node);
    one(move |context, mut inputs| {
        let (x, scale, bias) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let channels = channels_of(&x.shape())?;
        grouped(x, channels, Some((scale, bias, channels)), epsilon, context)
    })
}

/// Scale and bias are one for each group before opset 21 and one for each channel from then on.
fn group(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let epsilon = epsilon(node);
    let groups = size_of(node.int("num_groups", 0))?;
    one(move |context, mut inputs| {
        let (x, scale, bias) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let channels = channels_of(&x.shape())?;
        let parameters = if opset < 21 { groups } else { channels };
        grouped(x, groups, Some((scale, bias, parameters)), epsilon, context)
    })
}

fn channels_of(shape: &[usize]) -> Result<usize, OpError> {
    shape.get(1).copied().ok_or_else(|| OpError::new(format!("its input {shape:?} has no channels")))
}

/// Each of `groups` groups of channels with mean 0 and variance 1, then scaled and moved by so many parameters.
fn grouped(
    x: Value,
    groups: usize,
    parameters: Option<(Value, Value, usize)>,
    epsilon: f64,
    context: &Context,
) -> Result<Value, OpError> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let channels = channels_of(&shape)?;
    if groups == 0 || channels % groups != 0 {
        return Err(OpError::new(format!("{channels} channels do not divide into {groups} groups")));
    }
    if let Some(empty) = empty(dtype, &shape)? {
        return Ok(empty);
    }
    let size: usize = shape[1..].iter().product();
    let rows = reshaped(x, &[shape[0], groups, size / groups], context)?;
    let (_, centered) = centered(widened(rows, context)?, 2..3);
    let variance = mean_of_squares(centered.clone(), 2..3);
    let y = B::float_div(centered, B::float_sqrt(plus(variance, epsilon)));
    let y = match parameters {
        Some((scale, bias, count)) => {
            for (parameter, name) in [(&scale, "scale"), (&bias, "bias")] {
                if parameter.shape() != [count] {
                    let shape = parameter.shape();
                    return Err(OpError::new(format!("its {name} has shape {shape:?}, but [{count}] is needed")));
                }
            }
            let y = B::float_reshape(y, vec![shape[0], count, size / count].into());
            let scale = reshaped(scale, &[1, count, 1], context)?;
            let bias = reshaped(bias, &[1, count, 1], context)?;
            affine(y, Some(scale), Some(bias), dtype, context)?
        }
        None => narrowed(y, dtype),
    };
    reshaped(y, &shape, context)
}

fn lp(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", -1);
    let p = match node.int("p", 2) {
        p @ 1.. => p as f64,
        p => return Err(OpError::new(format!("p is {p}, but must be 1 or 2"))),
    };
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let (shape, dtype) = (x.shape(), x.dtype());
        let axis = axis_of(axis, shape.len())?;
        if let Some(empty) = empty(dtype, &shape)? {
            return Ok(empty);
        }
        let x = widened(x, context)?;
        let norm = root(B::float_sum_dim(raised(x.clone(), p), axis), p);
        // Where all is zero it stays so, instead of becoming no number.
        let nothing = B::float_equal_elem(norm.clone(), Scalar::Float(0.0), context.bool);
        let norm = B::float_mask_fill(norm, nothing, Scalar::Float(1.0));
        Ok(narrowed(B::float_div(x, norm), dtype))
    })
}

fn mean_variance(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    // ONNX's own definition of the operator adds this to the deviation.
    const EPSILON: f64 = 1e-9;
    let axes = node.ints("axes").map_or_else(|| vec![0, 2, 3], <[i64]>::to_vec);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let (shape, dtype) = (x.shape(), x.dtype());
        let axes = axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Result<Vec<_>, _>>()?;
        if let Some(empty) = empty(dtype, &shape)? {
            return Ok(empty);
        }
        let (_, centered) = centered(widened(x, context)?, axes.iter().copied());
        let deviation = B::float_sqrt(mean_of_squares(centered.clone(), axes.iter().copied()));
        Ok(narrowed(B::float_div(centered, plus(deviation, EPSILON)), dtype))
    })
}

/// Each element divided by what the channels around it hold.
fn local_response(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (alpha, beta) = (f64::from(node.float("alpha", 1e-4)), f64::from(node.float("beta", 0.75)));
    let bias = f64::from(node.float("bias", 1.0));
    let size = match size_of(node.int("size", 0))? {
        0 => return Err(OpError::new("size must be at least 1")),
        size => size,
    };
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let (shape, dtype) = (x.shape(), x.dtype());
        let channels = channels_of(&shape)?;
        if let Some(empty) = empty(dtype, &shape)? {
            return Ok(empty);
        }
        let plane = [shape[0], 1, channels, shape[2..].iter().product()];
        let x = widened(reshaped(x, &plane, context)?, context)?;
        // Farther channels than there are add nothing, and would only be padding.
        let before = ((size - 1) / 2).min(channels);
        let after = (size - 1 - (size - 1) / 2).min(channels);
        let window = before + after + 1;
        let pads = [(0, 0), (0, 0), (before, after), (0, 0)];
        let squares = B::float_pad(B::float_mul(x.clone(), x.clone()), &pads, PadMode::Constant(0.0));
        let means = B::avg_pool2d(squares, [window, 1], [1, 1], [0, 0], true, false);
        let share = alpha * window as f64 / size as f64;
        let base = plus(B::float_mul_scalar(means, Scalar::Float(share)), bias);
        let y = B::float_div(x, B::float_powf_scalar(base, Scalar::Float(beta)));
        reshaped(narrowed(y, dtype), &shape, context)
    })
}

/// The mean along the axes, which are kept as 1, and the tensor less it.
pub(super) fn centered(x: Primitive, axes: impl Iterator<Item = usize>) -> (Primitive, Primitive) {
    let mean = mean_along(x.clone(), axes);
    (mean.clone(), B::float_sub(x, mean))
}

pub(super) fn mean_of_squares(x: Primitive, axes: impl Iterator<Item = usize>) -> Primitive {
    mean_along(B::float_mul(x.clone(), x), axes)
}

fn mean_along(x: Primitive, axes: impl Iterator<Item = usize>) -> Primitive {
    axes.fold(x, B::float_mean_dim)
}

pub(super) fn plus(x: Primitive, value: f64) -> Primitive {
    B::float_add_scalar(x, Scalar::Float(value))
}

fn check_parameter(parameter: &Value, shape: &[usize], name: &str) -> Result<(), OpError> {
    let given = parameter.shape();
    if broadcast_shape(&given, shape)? == shape {
        return Ok(());
    }
    Err(OpError::new(format!("its {name} has shape {given:?}, which is too large for {shape:?}")))
}

/// `x * scale + bias`, as `dtype`.
fn affine(
    x: Primitive,
    scale: Option<Value>,
    bias: Option<Value>,
    dtype: DType,
    context: &Context,
) -> Result<Value, OpError> {
    type Step = (Option<Value>, fn(Primitive, Primitive) -> Primitive);
    let steps: [Step; 2] = [(scale, B::float_mul), (bias, B::float_add)];
    let y = steps.into_iter().try_fold(x, |x, (parameter, f)| {
        let Some(parameter) = parameter else { return Ok(x) };
        let wide = x.dtype();
        let (x, parameter) = aligned(Value::float(x), parameter, context)?;
        let (x, parameter) = (x.into_float(context)?, parameter.into_float(context)?);
        let parameter = if parameter.dtype() == wide { parameter } else { B::float_cast(parameter, wide.into()) };
        Ok::<_, OpError>(f(x, parameter))
    })?;
    Ok(narrowed(y, dtype))
}
