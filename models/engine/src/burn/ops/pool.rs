//! Pooling over windows and over whole planes.

use burn_backend::ops::{ConvOptions, FloatTensorOps, ModuleOps, PadMode};
use burn_backend::{DType as BurnType, FloatDType, Scalar, Slice, TensorData, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::precision::{empty, narrowed, numbers, widened};
use super::window::{Window, WindowSpec, spatial_of};
use super::{BoxOp, Builder, OpError, on_host, one, pool_host, pool_planes, reshaped, simd};
use crate::burn::value::singles;
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "MaxPool" => max_pool,
        "AveragePool" => average_pool,
        "LpPool" => lp_pool,
        "GlobalAveragePool" => |_, _| global(|x| B::float_mean_dim(x, 2)),
        "GlobalMaxPool" => |_, _| global(|x| B::float_max_dim(x, 2)),
        "GlobalLpPool" => |node, _| {
            let p = power(node)?;
            global(move |x| root(B::float_sum_dim(raised(x, p), 2), p))
        },
        "MaxRoiPool" => super::roi_pool::max_roi_pool,
        "MaxUnpool" => super::unpool::max_unpool,
        _ => return None,
    })
}

fn max_pool(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::of_pool(node)?;
    let column_major = node.int("storage_order", 0) != 0;
    if node.outputs.get(1).is_some_and(|indices| !indices.is_empty()) {
        return on_host(move |inputs| pool_host::largest(super::host::need(inputs, 0)?, &spec, Some(column_major)));
    }
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        if !x.is_float() {
            let x = x.into_host().map_err(OpError::new)?;
            return Ok(Value::host(pool_host::largest(&x, &spec, None)?.remove(0)));
        }
        let (shape, dtype) = (x.shape(), x.dtype());
        let window = spec.resolve(spatial_of(&shape)?, None)?;
        if let Some(empty) = pooled_nothing(&shape, &window, dtype)? {
            return Ok(empty);
        }
        let (x, left) = from_first_place(x.into_float(context)?, &shape, &window);
        let y = largest(x, &left, &window, context);
        Ok(Value::float(B::float_reshape(y, output_shape(&shape, &window).into())))
    })
}

/// Burn pools planes: lines are planes of width 1, and volumes are pooled by their planes first, then along their depth.
fn largest(x: Primitive, shape: &[usize], window: &Window, context: &Context) -> Primitive {
    let planes = |x: Primitive, shape: [usize; 4]| B::float_reshape(x, shape.to_vec().into());
    match *shape {
        [n, c, length] => largest_of_planes(planes(x, [n, c, length, 1]), [length, 1], &window.along(&[0]), context),
        [n, c, d, h, w] => {
            let y = largest_of_planes(planes(x, [n, c * d, h, w]), [h, w], &window.along(&[1, 2]), context);
            let plane = window.outputs[1] * window.outputs[2];
            let depths = Window { outputs: vec![window.outputs[0], plane], ..window.along(&[0]) };
            largest_of_planes(planes(y, [n, c, d, plane]), [d, plane], &depths, context)
        }
        _ => largest_of_planes(x, [shape[2], shape[3]], window, context),
    }
}

fn largest_of_planes(x: Primitive, spatial: [usize; 2], window: &Window, context: &Context) -> Primitive {
    if context.is_plain_cpu()
        && let Some(y) = largest_in_rows(&x, spatial, window, context)
    {
        Value::float(x).into_buffer().into_iter().for_each(|buffer| context.buffers.give(buffer));
        return y;
    }
    let (x, padding) = if window.ceil || window.is_asymmetric() {
        // Shaders have no literal of infinity.
        let fill = if context.is_gpu() { f32::MIN } else { f32::NEG_INFINITY };
        (padded(x, &window.exact_pads(&spatial), fill), [0, 0])
    } else {
        (x, [window.pads[0].0, window.pads[1].0])
    };
    B::max_pool2d(x, pair(&window.kernel), pair(&window.strides), padding, pair(&window.dilations), false)
}

/// By vectors, where that is possible.
fn largest_in_rows(x: &Primitive, spatial: [usize; 2], window: &Window, context: &Context) -> Option<Primitive> {
    if x.dtype() != BurnType::F32 || !simd::is_available() {
        return None;
    }
    let shape = x.shape();
    let values = singles(x).ok()?;
    let [rows, columns] = [window.axis(0, spatial[0]), window.axis(1, spatial[1])];
    let y = pool_planes::largest(&values, rows, columns, |count| context.buffers.take(count))?;
    let shape = [shape[0], shape[1], window.outputs[0], window.outputs[1]];
    Some(B::float_from_data(TensorData::new(y, shape), &context.device))
}

fn average_pool(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::of_pool(node)?;
    let count_pads = node.int("count_include_pad", 0) != 0;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let (shape, dtype) = (x.shape(), x.dtype());
        let window = spec.resolve(spatial_of(&shape)?, None)?;
        if let Some(empty) = pooled_nothing(&shape, &window, dtype)? {
            return Ok(empty);
        }
        let (x, left) = from_first_place(widened(x, context)?, &shape, &window);
        let y = average(x, &left, &window, count_pads, context);
        Ok(narrowed(B::float_reshape(y, output_shape(&shape, &window).into()), dtype))
    })
}

fn average(x: Primitive, shape: &[usize], window: &Window, count_pads: bool, context: &Context) -> Primitive {
    let dense = window.dilations.iter().all(|&dilation| dilation == 1);
    if dense && !window.ceil && !window.is_asymmetric() && shape.len() < 5 {
        let (x, window) = planes(x, shape, window);
        let padding = [window.pads[0].0, window.pads[1].0];
        return B::avg_pool2d(x, pair(&window.kernel), pair(&window.strides), padding, count_pads, false);
    }
    let y = mean_with_zeros(x, shape, window);
    match window.shares(&shape[2..], count_pads) {
        Some(factors) => {
            let shape: Vec<usize> = [1, 1].into_iter().chain(window.outputs.iter().copied()).collect();
            let full: Vec<usize> = shape_of(&y)[..2].iter().chain(&window.outputs).copied().collect();
            let factors = numbers(&factors, &shape, &y, context);
            B::float_mul(B::float_reshape(y, full.into()), factors)
        }
        None => y,
    }
}

/// The mean over each whole window, with zeros beyond the input. Windows with gaps and volumes are convolutions with
/// equal weights: burn's pools have neither.
fn mean_with_zeros(x: Primitive, shape: &[usize], window: &Window) -> Primitive {
    let dense = window.dilations.iter().all(|&dilation| dilation == 1);
    let pads = window.exact_pads(&shape[2..]);
    let x = padded(x, &pads, 0.0);
    if dense && shape.len() < 5 {
        let (x, window) = planes(x, &[&shape[..2], &padded_sizes(&shape[2..], &pads)].concat(), window);
        return B::avg_pool2d(x, pair(&window.kernel), pair(&window.strides), [0, 0], true, false);
    }
    let single: Vec<usize> = [shape[0] * shape[1], 1].into_iter().chain(padded_sizes(&shape[2..], &pads)).collect();
    let x = B::float_reshape(x, single.into());
    let volume: usize = window.kernel.iter().product();
    let weights: Vec<usize> = [1, 1].into_iter().chain(window.kernel.iter().copied()).collect();
    let weight = Scalar::Float(1.0 / volume as f64);
    let weights = B::float_full(weights.into(), weight, &x.device(), FloatDType::from(x.dtype()));
    let y = match shape.len() {
        3 => B::conv1d(x, weights, None, spread(window)),
        4 => B::conv2d(x, weights, None, spread(window)),
        _ => B::conv3d(x, weights, None, spread(window)),
    };
    let out: Vec<usize> = shape[..2].iter().chain(&window.outputs).copied().collect();
    B::float_reshape(y, out.into())
}

fn spread<const N: usize>(window: &Window) -> ConvOptions<N> {
    ConvOptions {
        stride: std::array::from_fn(|axis| window.strides[axis]),
        padding: [(0, 0); N],
        dilation: std::array::from_fn(|axis| window.dilations[axis]),
        groups: 1,
    }
}

fn lp_pool(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let spec = WindowSpec::of_pool(node)?;
    let p = power(node)?;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let (shape, dtype) = (x.shape(), x.dtype());
        let window = spec.resolve(spatial_of(&shape)?, None)?;
        if let Some(empty) = pooled_nothing(&shape, &window, dtype)? {
            return Ok(empty);
        }
        let (x, left) = from_first_place(widened(x, context)?, &shape, &window);
        let means = mean_with_zeros(raised(x, p), &left, &window);
        let volume: usize = window.kernel.iter().product();
        let y = root(B::float_mul_scalar(means, Scalar::Float(volume as f64)), p);
        Ok(narrowed(B::float_reshape(y, output_shape(&shape, &window).into()), dtype))
    })
}

fn power(node: &Node) -> Result<f64, OpError> {
    match node.int("p", 2) {
        p @ 1.. => Ok(p as f64),
        p => Err(OpError::new(format!("p is {p}, but must be at least 1"))),
    }
}

/// |x|^p; the usual squares without a logarithm.
pub(super) fn raised(x: Primitive, p: f64) -> Primitive {
    match p {
        1.0 => B::float_abs(x),
        2.0 => B::float_mul(x.clone(), x),
        p => B::float_powf_scalar(B::float_abs(x), Scalar::Float(p)),
    }
}

/// The p-th root of what is not negative.
pub(super) fn root(x: Primitive, p: f64) -> Primitive {
    match p {
        1.0 => x,
        2.0 => B::float_sqrt(x),
        p => B::float_powf_scalar(x, Scalar::Float(1.0 / p)),
    }
}

fn global(f: impl Fn(Primitive) -> Primitive + Send + Sync + 'static) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let (shape, dtype) = (x.shape(), x.dtype());
        let spatial: usize = match shape.get(2..) {
            Some(spatial) => spatial.iter().product(),
            None => return Err(OpError::new(format!("its input {shape:?} has no batch and channels"))),
        };
        let mut out = vec![shape[0], shape[1]];
        out.resize(shape.len(), 1);
        if let Some(empty) = empty(dtype, &out)? {
            return Ok(empty);
        }
        if spatial == 0 {
            return Err(OpError::new(format!("its input {shape:?} has nothing to pool")));
        }
        // One reduction over the flattened plane instead of one a dimension.
        let planes = widened(reshaped(x, &[shape[0], shape[1], spatial], context)?, context)?;
        reshaped(narrowed(f(planes), dtype), &out, context)
    })
}

/// The empty result of pooling nothing; what has elements must come from some.
fn pooled_nothing(shape: &[usize], window: &Window, dtype: DType) -> Result<Option<Value>, OpError> {
    match empty(dtype, &output_shape(shape, window))? {
        None if shape.contains(&0) => Err(OpError::new(format!("its input {shape:?} has nothing to pool"))),
        empty => Ok(empty),
    }
}

/// The input without what lies before the window's first place, and its shape.
fn from_first_place(x: Primitive, shape: &[usize], window: &Window) -> (Primitive, Vec<usize>) {
    if window.skips.iter().all(|&skip| skip == 0) {
        return (x, shape.to_vec());
    }
    let skips = [&[0, 0], &window.skips[..]].concat();
    let slices: Vec<Slice> = skips.iter().zip(shape).map(|(&skip, &size)| Slice::from(skip..size)).collect();
    let left = skips.iter().zip(shape).map(|(skip, size)| size - skip).collect();
    (B::float_slice(x, &slices), left)
}

fn output_shape(shape: &[usize], window: &Window) -> Vec<usize> {
    shape[..2].iter().chain(&window.outputs).copied().collect()
}

/// Lines as planes of width 1, with their window; planes as they are.
fn planes(x: Primitive, shape: &[usize], window: &Window) -> (Primitive, Window) {
    if shape.len() == 3 {
        return (B::float_reshape(x, vec![shape[0], shape[1], shape[2], 1].into()), window.along(&[0]));
    }
    (x, window.clone())
}

fn padded(x: Primitive, pads: &[(usize, usize)], fill: f32) -> Primitive {
    if pads.iter().all(|&pad| pad == (0, 0)) {
        return x;
    }
    let all = [&[(0, 0), (0, 0)], pads].concat();
    B::float_pad(x, &all, PadMode::Constant(fill))
}

fn padded_sizes(spatial: &[usize], pads: &[(usize, usize)]) -> Vec<usize> {
    spatial.iter().zip(pads).map(|(&size, &(begin, end))| size + begin + end).collect()
}

fn shape_of(x: &Primitive) -> Vec<usize> {
    x.shape().to_vec()
}

fn pair(values: &[usize]) -> [usize; 2] {
    [values[0], values[1]]
}
