//! Convolutions.

use burn_backend::ops::{ConvOptions, ModuleOps};
use hedge_graph::Node;

use super::window::{Window, WindowSpec, spatial_of};
use super::{BoxOp, Builder, OpError, one, size_of};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "Conv" => Some(convolution),
        _ => None,
    }
}

fn convolution(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::read(node)?;
    let groups = size_of(node.int("group", 1))?;
    if groups == 0 {
        return Err(OpError::new("group must be at least 1"));
    }
    one(move |context, mut inputs| {
        let (x, weight) = (inputs.take(0)?, inputs.take(1)?);
        let bias = inputs.optional(2);
        convolve(x, weight, bias, &spec, groups, context)
    })
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
    let spatial = spatial_of(&input)?;
    if kernel.len() != input.len() || input[1] != kernel[1] * groups || kernel[0] % groups != 0 {
        return Err(OpError::new(format!(
            "an input of shape {input:?} does not fit weights {kernel:?} in {groups} groups"
        )));
    }
    if let Some(shape) = bias.as_ref().map(Value::shape).filter(|shape| *shape != [kernel[0]]) {
        return Err(OpError::new(format!("its bias has shape {shape:?}, but there are {} output channels", kernel[0])));
    }
    let window = spec.resolve(spatial, Some(&kernel[2..]))?;
    let (x, weight) = (x.into_float(context)?, weight.into_float(context)?);
    let bias = bias.map(|bias| bias.into_float(context)).transpose()?;
    Ok(Value::float(match spatial.len() {
        1 => B::conv1d(x, weight, bias, options(&window, groups)),
        2 => B::conv2d(x, weight, bias, options(&window, groups)),
        _ => B::conv3d(x, weight, bias, options(&window, groups)),
    }))
}

fn options<const N: usize>(window: &Window, groups: usize) -> ConvOptions<N> {
    ConvOptions {
        stride: std::array::from_fn(|axis| window.strides[axis]),
        padding: std::array::from_fn(|axis| window.pads[axis]),
        dilation: std::array::from_fn(|axis| window.dilations[axis]),
        groups,
    }
}
