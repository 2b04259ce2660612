//! Deformable convolutions, whose windows' elements are moved by offsets.

use burn_backend::ops::{DeformConvOptions, FloatTensorOps, ModuleOps, PadMode};
use hedge_graph::Node;

use super::convolution::{arranged, check_bias, groups};
use super::precision::{cast, empty, widened};
use super::window::WindowSpec;
use super::{BoxOp, OpError, one};
use crate::burn::{B, Context, Value};

pub(super) fn deformable(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::read(node)?;
    let groups = (groups(node, "group")?, groups(node, "offset_group")?);
    one(move |context, mut inputs| {
        let (x, weight, offset) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let (bias, mask) = (inputs.optional(3), inputs.optional(4));
        convolve(Parts { x, weight, offset, bias, mask }, &spec, groups, context)
    })
}

struct Parts {
    x: Value,
    weight: Value,
    offset: Value,
    bias: Option<Value>,
    mask: Option<Value>,
}

fn convolve(
    parts: Parts,
    spec: &WindowSpec,
    (groups, offset_groups): (usize, usize),
    context: &Context,
) -> Result<Value, OpError> {
    let (input, kernel) = (parts.x.shape(), parts.weight.shape());
    let fits = input.len() == 4
        && kernel.len() == 4
        && Some(input[1]) == kernel[1].checked_mul(groups)
        && kernel[0] % groups == 0
        && input[1] % offset_groups == 0;
    if !fits {
        return Err(OpError::new(format!(
            "an input of shape {input:?} does not fit weights {kernel:?} in {groups} groups, {offset_groups} of offsets; \
             two spatial dimensions are supported"
        )));
    }
    check_bias(parts.bias.as_ref(), kernel[0])?;
    let window = spec.resolve(&input[2..], Some(&kernel[2..]))?;
    let points = offset_groups.saturating_mul(kernel[2]).saturating_mul(kernel[3]);
    let moved = |channels: usize| vec![input[0], channels, window.outputs[0], window.outputs[1]];
    check(&parts.offset, &moved(points.saturating_mul(2)), "offset")?;
    if let Some(mask) = &parts.mask {
        check(mask, &moved(points), "mask")?;
    }
    let dtype = parts.x.dtype();
    if let Some(empty) = empty(dtype, &moved(kernel[0]))? {
        return Ok(empty);
    }
    let (x, weight, bias) = arranged(parts.x, parts.weight, parts.bias, context)?;
    let place = |value: Value| widened(value, context);
    let (offset, mask) = (place(parts.offset)?, parts.mask.map(place).transpose()?);
    let symmetric = !window.is_asymmetric();
    // Zeros around the input are what burn reads outside of it, so that unequal pads can be added beforehand.
    let (x, padding) = if symmetric {
        (x, [window.pads[0].0, window.pads[1].0])
    } else {
        (B::float_pad(x, &[(0, 0), (0, 0), window.pads[0], window.pads[1]], PadMode::Constant(0.0)), [0, 0])
    };
    let options = DeformConvOptions::new(
        [window.strides[0], window.strides[1]],
        padding,
        [window.dilations[0], window.dilations[1]],
        groups,
        offset_groups,
    );
    Ok(Value::float(cast(B::deform_conv2d(x, offset, weight, mask, bias, options), dtype)))
}

fn check(value: &Value, shape: &[usize], name: &str) -> Result<(), OpError> {
    if value.shape() == shape {
        return Ok(());
    }
    Err(OpError::new(format!("its {name} has shape {:?}, but {shape:?} is needed", value.shape())))
}
