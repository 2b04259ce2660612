//! Convolutions.

use burn_backend::Slice;
use burn_backend::ops::{ActivationOps, ConvOptions, FloatTensorOps, ModuleOps};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::layout::expanded;
use super::precision::{cast, empty, narrowed, widened};
use super::unary::clip_float;
use super::window::{Window, WindowSpec, spatial_of};
use super::{BoxOp, Builder, OpError, many, one, packed, reshaped, size_of};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "Conv" => Some(convolution),
        "CausalConvWithState" => Some(causal),
        "ConvTranspose" => Some(super::transposed::transposed),
        "DeformConv" => Some(super::deform::deformable),
        "Col2Im" => Some(super::unpool::col2im),
        _ => None,
    }
}

fn convolution(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::read(node)?;
    let groups = groups(node, "group")?;
    one(move |context, mut inputs| {
        let (x, weight) = (inputs.take(0)?, inputs.take(1)?);
        let bias = inputs.optional(2);
        convolve(x, weight, bias, &spec, groups, context)
    })
}

/// `hedge.Conv`: with bounds on what it gives. Where the weights are packed, [`packed`] applies them itself.
pub(super) fn bounded(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::read(node)?;
    let groups = groups(node, "group")?;
    let bounds = [bound(node, "least"), bound(node, "most")];
    one(move |context, mut inputs| {
        let (x, weight) = (inputs.take(0)?, inputs.take(1)?);
        let y = convolve(x, weight, inputs.optional(2), &spec, groups, context)?;
        within(y, bounds, context)
    })
}

/// `y` between the least and the most.
pub(super) fn within(y: Value, bounds: [Option<f32>; 2], context: &Context) -> Result<Value, OpError> {
    let [least, most] = bounds.map(|bound| bound.map(f64::from));
    Ok(Value::float(clip_float(y, least, most, context)?))
}

/// A bound of `hedge.Conv`.
pub(super) fn bound(node: &Node, name: &str) -> Option<f32> {
    node.attributes.contains_key(name).then(|| node.float(name, 0.0))
}

/// A count of groups, at least 1.
pub(super) fn groups(node: &Node, name: &str) -> Result<usize, OpError> {
    match size_of(node.int(name, 1))? {
        0 => Err(OpError::new(format!("{name} must be at least 1"))),
        groups => Ok(groups),
    }
}

fn convolve(
    x: Value,
    weight: Value,
    bias: Option<Value>,
    spec: &WindowSpec,
    groups: usize,
    context: &Context,
) -> Result<Value, OpError> {
    let (input, kernel) = (x.shape(), weight.shape());
    let window = placed(&input, &kernel, groups, spec)?;
    check_bias(bias.as_ref(), kernel[0])?;
    let dtype = x.dtype();
    let shape = [&[input[0], kernel[0]], window.outputs.as_slice()].concat();
    if let Some(empty) = empty(dtype, &shape)? {
        return Ok(empty);
    }
    if input.contains(&0) {
        return only_bias(bias, dtype, &shape, context);
    }
    let (x, weight, bias) = arranged(x, weight, bias, context)?;
    if context.is_plain_cpu()
        && let Some(y) = packed::once(&x, &weight, bias.as_ref(), &window, groups, context)?
    {
        return Ok(Value::float(cast(y, dtype)));
    }
    let y = match window.kernel.len() {
        1 => B::conv1d(x, weight, bias, options(&window, groups)),
        2 => B::conv2d(x, weight, bias, options(&window, groups)),
        _ => B::conv3d(x, weight, bias, options(&window, groups)),
    };
    Ok(Value::float(cast(y, dtype)))
}

/// The places that weights of the shape `kernel` take on an input, if they fit it.
pub(super) fn placed(input: &[usize], kernel: &[usize], groups: usize, spec: &WindowSpec) -> Result<Window, OpError> {
    let spatial = spatial_of(input)?;
    if kernel.len() != input.len()
        || Some(input[1]) != kernel[1].checked_mul(groups)
        || !kernel[0].is_multiple_of(groups)
    {
        return Err(OpError::new(format!(
            "an input of shape {input:?} does not fit weights {kernel:?} in {groups} groups"
        )));
    }
    let window = spec.resolve(spatial, Some(&kernel[2..]))?;
    if window.kernel != kernel[2..] {
        return Err(OpError::new(format!("kernel_shape is {:?}, but its weights are {kernel:?}", window.kernel)));
    }
    Ok(window)
}

/// Input, weights and bias on the device. Sums in 16 bits would drift, as a GPU's do,
/// and the CPU has no arithmetic in them.
pub(super) fn arranged(
    x: Value,
    weight: Value,
    bias: Option<Value>,
    context: &Context,
) -> Result<(Primitive, Primitive, Option<Primitive>), OpError> {
    let dtype = x.dtype();
    if weight.dtype() != dtype || bias.as_ref().is_some_and(|bias| bias.dtype() != dtype) {
        return Err(OpError::new(format!("its input is {dtype}, its weights {}; they must be alike", weight.dtype())));
    }
    let place = |value: Value| widened(value, context);
    Ok((place(x)?, place(weight)?, bias.map(place).transpose()?))
}

/// What a convolution over nothing but padding gives.
pub(super) fn only_bias(
    bias: Option<Value>,
    dtype: DType,
    shape: &[usize],
    context: &Context,
) -> Result<Value, OpError> {
    let Some(bias) = bias else { return Ok(Value::host(Tensor::zeros(dtype, shape.to_vec())?)) };
    let mut column = vec![1; shape.len()];
    column[1] = shape[1];
    expanded(reshaped(bias, &column, context)?, shape, context)
}

pub(super) fn check_bias(bias: Option<&Value>, channels: usize) -> Result<(), OpError> {
    match bias.map(Value::shape).filter(|shape| *shape != [channels]) {
        Some(shape) => {
            Err(OpError::new(format!("its bias has shape {shape:?}, but there are {channels} output channels")))
        }
        None => Ok(()),
    }
}

fn options<const N: usize>(window: &Window, groups: usize) -> ConvOptions<N> {
    ConvOptions {
        stride: std::array::from_fn(|axis| window.strides[axis]),
        padding: std::array::from_fn(|axis| window.pads[axis]),
        dilation: std::array::from_fn(|axis| window.dilations[axis]),
        groups,
    }
}

/// A depthwise convolution over what came before; it hands on the elements that the next call continues from.
fn causal(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let activated = match node.string("activation").unwrap_or("none") {
        "none" | "" => false,
        "silu" | "swish" => true,
        other => return Err(OpError::new(format!("activation {other:?} is none of none, silu, swish"))),
    };
    many(move |context, mut inputs| {
        let (x, weight) = (inputs.take(0)?, inputs.take(1)?);
        let (bias, past) = (inputs.optional(2), inputs.optional(3));
        let padded = preceded(x, past, weight.shape().last().copied().unwrap_or(0), context)?;
        let (shape, dtype) = (padded.shape(), padded.dtype());
        let kernel = weight.shape();
        let state = kernel.last().copied().unwrap_or(1) - 1;
        let y = convolve(padded.clone(), weight, bias, &WindowSpec::plain(), shape[1], context)?;
        let y = if activated { silu(y, dtype, context)? } else { y };
        Ok(vec![y, tail(padded, state, context)?])
    })
}

/// The input behind the `kernel - 1` elements before it, which are zeros where there are none.
fn preceded(x: Value, past: Option<Value>, kernel: usize, context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    let dtype = x.dtype();
    let before = kernel.checked_sub(1).filter(|_| shape.len() == 3).ok_or_else(|| {
        OpError::new(format!("its input {shape:?} must have three dimensions, and its weights an element at least"))
    })?;
    let before_shape = [shape[0], shape[1], before];
    let past = match past {
        Some(past) if past.shape() == before_shape && past.dtype() == dtype => past,
        Some(past) => {
            return Err(OpError::new(format!(
                "past_state is {} {:?}, but {dtype} {before_shape:?} is needed",
                past.dtype(),
                past.shape()
            )));
        }
        None => Value::host(Tensor::zeros(dtype, before_shape.to_vec())?),
    };
    if before_shape.contains(&0) {
        return Ok(x);
    }
    if shape.contains(&0) {
        return Ok(past);
    }
    Ok(Value::float(B::float_cat(vec![past.into_float(context)?, x.into_float(context)?], 2)))
}

fn silu(x: Value, dtype: DType, context: &Context) -> Result<Value, OpError> {
    let x = widened(x, context)?;
    Ok(narrowed(B::float_mul(x.clone(), B::sigmoid(x)), dtype))
}

/// The last `count` elements of the last of three dimensions.
fn tail(x: Value, count: usize, context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    if let Some(empty) = empty(x.dtype(), &[shape[0], shape[1], count])? {
        return Ok(empty);
    }
    let all = |size: usize| Slice::new(0, Some(size as isize), 1);
    let last = Slice::new((shape[2] - count) as isize, Some(shape[2] as isize), 1);
    Ok(Value::float(B::float_slice(x.into_float(context)?, &[all(shape[0]), all(shape[1]), last])))
}
