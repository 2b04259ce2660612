//! Operators that read an input at other places than its own: resizing, warping, rearranging blocks.

use burn_backend::Scalar;
use burn_backend::TensorMetadata;
use burn_backend::ops::{FloatTensorOps, InterpolateMode, InterpolateOptions, ModuleOps};
use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::host::{strides, with_elements};
use super::number::{Number, tensor};
use super::precision::{empty, floats, narrowed, numbers, widened};
use super::taps::{Filter, Place, Resizing, Taps};
use super::{BoxOp, Builder, OpError, axis_of, one, size_of};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Resize" => resize,
        "Upsample" => upsample,
        "GridSample" => super::grid::grid_sample,
        "AffineGrid" => super::grid::affine_grid,
        "RoiAlign" => super::regions::roi_align,
        "DepthToSpace" => super::blocks::depth_to_space,
        "SpaceToDepth" => super::blocks::space_to_depth,
        "CenterCropPad" => super::blocks::center_crop_pad,
        _ => return None,
    })
}

/// Opset 10 has scales only; from opset 11 on there are a region, scales and sizes.
fn resize(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let resizing = if opset < 11 { Resizing::first(node)? } else { Resizing::read(node)? };
    let axes = node.ints("axes").map(<[i64]>::to_vec);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let axes = match &axes {
            Some(axes) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Result<Vec<_>, _>>()?,
            None => (0..shape.len()).collect(),
        };
        let mut given = |index: usize| -> Result<Option<Vec<f32>>, OpError> {
            let values = inputs.optional(index).map(|value| floats(&value.into_host()?)).transpose()?;
            Ok(values.filter(|values| !values.is_empty()))
        };
        let (region, scales) = if opset < 11 { (None, given(1)?) } else { (given(1)?, given(2)?) };
        let sizes = inputs.optional(3).map(|sizes| sizes.to_ints()).transpose()?;
        let places = match (scales, sizes.filter(|sizes| !sizes.is_empty())) {
            (Some(scales), None) => resizing.by_scales(&shape, &axes, &scales)?,
            (None, Some(sizes)) => {
                let sizes = sizes.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
                resizing.by_sizes(&shape, &axes, &sizes)?
            }
            _ => return Err(OpError::new("it needs either scales or sizes, and not both")),
        };
        resampled(x, &resizing, &resizing.with_region(places, &axes, region.as_deref())?, context)
    })
}

/// Scales are an attribute in opset 7 and an input from opset 9 on.
fn upsample(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let resizing = Resizing::first(node)?;
    let attribute = node.floats("scales").map(<[f32]>::to_vec);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let scales = match (&attribute, inputs.optional(1)) {
            (Some(scales), None) => scales.clone(),
            (_, Some(scales)) => floats(&scales.into_host()?)?,
            (None, None) => return Err(OpError::new("its scales are missing")),
        };
        let shape = x.shape();
        let axes: Vec<usize> = (0..shape.len()).collect();
        let places = resizing.by_scales(&shape, &axes, &scales)?;
        resampled(x, &resizing, &places, context)
    })
}

fn resampled(x: Value, resizing: &Resizing, places: &[Place], context: &Context) -> Result<Value, OpError> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let out: Vec<usize> = places.iter().map(|place| place.output).collect();
    if let Some(empty) = empty(dtype, &out)? {
        return Ok(empty);
    }
    if shape.contains(&0) {
        return Err(OpError::new(format!("its input {shape:?} has nothing to resize")));
    }
    let mut changed: Vec<usize> = (0..shape.len()).filter(|&axis| !places[axis].is_identity()).collect();
    // What shrinks goes first: nothing in between is larger than the input or the output.
    changed.sort_by_key(|&axis| places[axis].output > places[axis].input);
    if changed.is_empty() {
        return Ok(x);
    }
    if dtype.is_float()
        && shape.len() == 4
        && changed.iter().all(|&axis| axis >= 2)
        && let Some(options) = interpolation(resizing, &places[2..], context)
    {
        let y = B::interpolate(widened(x, context)?, [out[2], out[3]], options);
        return Ok(narrowed(y, dtype));
    }
    let taps = changed.iter().map(|&axis| Ok((axis, resizing.taps(&places[axis])?)));
    let taps = taps.collect::<Result<Vec<_>, OpError>>()?;
    if !dtype.is_float() {
        let x = x.into_host()?;
        return Ok(Value::host(with_elements!(dtype, T => on_host::<T>(&x, &taps, resizing))?));
    }
    let y = taps.iter().try_fold(widened(x, context)?, |x, (axis, taps)| along(x, *axis, taps, context))?;
    Ok(narrowed(y, dtype))
}

/// What burn does in one pass: images enlarged by whole factors to their nearest elements, and lines between elements.
fn interpolation(resizing: &Resizing, places: &[Place], context: &Context) -> Option<InterpolateOptions> {
    if resizing.is_plain_repetition(places) {
        return Some(InterpolateOptions::new(InterpolateMode::Nearest).with_align_corners(false));
    }
    // On a GPU burn tunes this kernel for each size and has no gradient of it; the selections below have one.
    let align = resizing.is_plain_linear(places).filter(|_| !context.is_gpu())?;
    Some(InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(align))
}

/// One dimension at a time: a weighted sum of a few selections, or a product with a matrix of weights where there are many.
fn along(x: Primitive, axis: usize, taps: &Taps, context: &Context) -> Result<Primitive, OpError> {
    const SELECTIONS: usize = 4;
    let rank = x.rank();
    let mut broad = vec![1; rank];
    broad[axis] = taps.outputs();
    let y = if taps.count <= SELECTIONS {
        let first = selection(x.clone(), axis, taps, 0, &broad, context)?;
        (1..taps.count).try_fold(first, |sum, tap| {
            Ok::<_, OpError>(B::float_add(sum, selection(x.clone(), axis, taps, tap, &broad, context)?))
        })?
    } else {
        let weights = numbers(&taps.matrix(), &[x.shape()[axis], taps.outputs()], &x, context);
        product(x, axis, weights)
    };
    let Some((fill, keep)) = taps.fill() else { return Ok(y) };
    let keep = numbers(&keep, &broad, &y, context);
    let fill = B::float_mul_scalar(B::float_sub_scalar(keep.clone(), Scalar::Float(1.0)), Scalar::Float(-fill));
    Ok(B::float_add(B::float_mul(y, keep), fill))
}

/// One weighted neighbour of every output element.
fn selection(
    x: Primitive,
    axis: usize,
    taps: &Taps,
    tap: usize,
    broad: &[usize],
    context: &Context,
) -> Result<Primitive, OpError> {
    let (positions, weights) = taps.tap(tap);
    let selected = B::float_select(x, axis, Value::ints(&positions).into_int(context)?);
    if weights.iter().all(|&weight| weight == 1.0) {
        return Ok(selected);
    }
    let weights = numbers(&weights, broad, &selected, context);
    Ok(B::float_mul(selected, weights))
}

/// The tensor with its dimension `axis` multiplied by a matrix.
fn product(x: Primitive, axis: usize, matrix: Primitive) -> Primitive {
    let last = x.rank() - 1;
    let x = if axis == last { x } else { B::float_swap_dims(x, axis, last) };
    let mut shape = x.shape().to_vec();
    let (rows, input, output) = (shape[..last].iter().product(), shape[last], matrix.shape()[1]);
    let y = B::float_matmul(B::float_reshape(x, vec![rows, input].into()), matrix);
    shape[last] = output;
    let y = B::float_reshape(y, shape.into());
    if axis == last { y } else { B::float_swap_dims(y, axis, last) }
}

/// Integers and booleans: selections as they are, sums in 32-bit floats that saturate. That is how onnxruntime sums, and a
/// third and two thirds of a whole number are that number in 32 bits only.
fn on_host<T: Number>(x: &Tensor, taps: &[(usize, Taps)], resizing: &Resizing) -> Result<Tensor, OpError> {
    let dtype = x.dtype();
    let mut shape = x.shape().to_vec();
    let plain = taps.iter().all(|(_, taps)| taps.count == 1 && taps.fill().is_none());
    let mut values = x.to_vec::<T>()?;
    if plain {
        for (axis, taps) in taps {
            values = lines(&values, &mut shape, *axis, taps, |line, tap| line(tap.positions[0]));
        }
        return tensor(dtype, &shape, &values);
    }
    let mut singles: Vec<f32> = values.into_iter().map(|value| value.to_f64() as f32).collect();
    for (axis, taps) in taps {
        let fill = taps.fill().map(|(fill, _)| fill as f32);
        singles = lines(&singles, &mut shape, *axis, taps, |line, tap| match fill {
            Some(fill) if tap.outside => fill,
            _ => tap.positions.iter().zip(tap.weights).map(|(&at, &weight)| line(at) * weight as f32).sum(),
        });
    }
    let values: Vec<T> = singles.into_iter().map(|sum| T::from_double(resizing.whole(f64::from(sum)))).collect();
    tensor(dtype, &shape, &values)
}

/// What one output element of a line is made of.
struct Tap<'a> {
    positions: &'a [usize],
    weights: &'a [f64],
    outside: bool,
}

/// Each line along `axis` as `f` makes it from the line and each output element's taps; the shape follows.
fn lines<V: Copy>(
    values: &[V],
    shape: &mut [usize],
    axis: usize,
    taps: &Taps,
    f: impl Fn(&dyn Fn(usize) -> V, Tap<'_>) -> V,
) -> Vec<V> {
    let inner = strides(shape)[axis];
    let input = shape[axis];
    let outer = values.len() / (inner * input);
    let mut made = Vec::with_capacity(outer * taps.outputs() * inner);
    for block in 0..outer {
        for output in 0..taps.outputs() {
            let row = output * taps.count..(output + 1) * taps.count;
            for offset in 0..inner {
                let line = |at: usize| values[(block * input + at) * inner + offset];
                let (positions, weights) = (&taps.positions[row.clone()], &taps.weights[row.clone()]);
                made.push(f(&line, Tap { positions, weights, outside: taps.outside[output] }));
            }
        }
    }
    shape[axis] = taps.outputs();
    made
}

impl Resizing {
    /// Whether every output element is the input element that it lies on, enlarged by whole factors.
    fn is_plain_repetition(&self, places: &[Place]) -> bool {
        let repeats = |place: &Place| {
            let factor = place.output / place.input;
            let taps =
                self.taps(place).ok().filter(|taps| taps.fill().is_none() && place.output.is_multiple_of(place.input));
            taps.is_some_and(|taps| taps.positions.iter().enumerate().all(|(at, &position)| position == at / factor))
        };
        matches!(self.filter, Filter::Nearest(_)) && places.iter().all(repeats)
    }
}
