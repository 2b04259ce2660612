//! Pooling over windows and over whole planes.

use burn_backend::ops::{FloatTensorOps, ModuleOps, PadMode};
use burn_backend::{FloatDType, TensorMetadata};
use hedge_graph::Node;

use super::window::{Window, WindowSpec, spatial_of};
use super::{BoxOp, Builder, OpError, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "MaxPool" => max_pool,
        "AveragePool" => average_pool,
        "GlobalAveragePool" => |_, _| global(B::float_mean_dim),
        "GlobalMaxPool" => |_, _| global(B::float_max_dim),
        _ => return None,
    })
}

fn max_pool(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::read(node)?;
    let ceil = node.int("ceil_mode", 0) != 0;
    if node.outputs.get(1).is_some_and(|indices| !indices.is_empty()) {
        return Err(OpError::new("its indices output is not supported; remove it"));
    }
    one(move |context, mut inputs| {
        pooled(inputs.take(0)?, &spec, context, |x, window| {
            let (x, padding) = symmetric(x, window, f64::from(f32::MIN));
            B::max_pool2d(x, pair(&window.kernel), pair(&window.strides), padding, pair(&window.dilations), ceil)
        })
    })
}

fn average_pool(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::read(node)?;
    let ceil = node.int("ceil_mode", 0) != 0;
    let count_pads = node.int("count_include_pad", 0) != 0;
    if node.ints("dilations").is_some_and(|dilations| dilations.iter().any(|&dilation| dilation != 1)) {
        return Err(OpError::new("dilated averages are not supported"));
    }
    one(move |context, mut inputs| {
        pooled(inputs.take(0)?, &spec, context, |x, window| average(x, window, count_pads, ceil))
    })
}

fn average(x: Primitive, window: &Window, count_pads: bool, ceil: bool) -> Primitive {
    let (kernel, strides) = (pair(&window.kernel), pair(&window.strides));
    if !window.is_asymmetric() {
        return B::avg_pool2d(x, kernel, strides, begins(window), count_pads, ceil);
    }
    let ones = B::float_ones(x.shape(), &x.device(), FloatDType::from(x.dtype()));
    let (padded, padding) = symmetric(x, window, 0.0);
    let sums = B::avg_pool2d(padded, kernel, strides, padding, true, ceil);
    if count_pads {
        return sums;
    }
    // The share of each window that lies on the input, by which its mean with the pads falls short.
    let (ones, padding) = symmetric(ones, window, 0.0);
    B::float_div(sums, B::avg_pool2d(ones, kernel, strides, padding, true, ceil))
}

/// Checks the input, resolves the window and runs a two-dimensional pool, through which one-dimensional ones go too.
fn pooled(
    x: Value,
    spec: &WindowSpec,
    context: &Context,
    pool: impl Fn(Primitive, &Window) -> Primitive,
) -> Result<Value, OpError> {
    let shape = x.shape();
    let spatial = spatial_of(&shape)?;
    let window = spec.resolve(spatial, None)?;
    match spatial.len() {
        2 => Ok(Value::float(pool(x.into_float(context)?, &window))),
        1 => {
            let plane = reshaped(x, &[shape[0], shape[1], shape[2], 1], context)?;
            let y = Value::float(pool(plane.into_float(context)?, &flat(&window)));
            let out = y.shape();
            reshaped(y, &out[..3], context)
        }
        _ => Err(OpError::new("pools over three spatial dimensions are not supported")),
    }
}

/// A one-dimensional window as a two-dimensional one that is 1 wide.
fn flat(window: &Window) -> Window {
    let with = |values: &[usize]| vec![values[0], 1];
    Window {
        kernel: with(&window.kernel),
        strides: with(&window.strides),
        dilations: with(&window.dilations),
        pads: vec![window.pads[0], (0, 0)],
    }
}

/// Burn pads pools equally at both ends: other paddings are done first, with `fill`.
fn symmetric(x: Primitive, window: &Window, fill: f64) -> (Primitive, [usize; 2]) {
    if !window.is_asymmetric() {
        return (x, begins(window));
    }
    let pads: Vec<(usize, usize)> = [(0, 0), (0, 0)].into_iter().chain(window.pads.iter().copied()).collect();
    (B::float_pad(x, &pads, PadMode::Constant(fill as f32)), [0, 0])
}

fn begins(window: &Window) -> [usize; 2] {
    [window.pads[0].0, window.pads[1].0]
}

fn pair(values: &[usize]) -> [usize; 2] {
    [values[0], values[1]]
}

fn global(f: fn(Primitive, usize) -> Primitive) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let spatial: usize = spatial_of(&shape)?.iter().product();
        // One reduction over the flattened plane instead of one a dimension.
        let planes = reshaped(x, &[shape[0], shape[1], spatial], context)?.into_float(context)?;
        let mut out = vec![shape[0], shape[1]];
        out.resize(shape.len(), 1);
        reshaped(Value::float(f(planes, 2)), &out, context)
    })
}
