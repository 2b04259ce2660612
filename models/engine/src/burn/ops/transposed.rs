//! Transposed convolutions: each input element spreads a weighted window over the output.

use burn_backend::Slice;
use burn_backend::ops::{ConvTransposeOptions, FloatTensorOps, ModuleOps, PadMode};
use hedge_graph::Node;

use super::convolution::{arranged, check_bias, groups, only_bias};
use super::precision::{cast, empty};
use super::window::{sizes_of, spatial_of};
use super::{BoxOp, OpError, one};
use crate::burn::{B, Context, Primitive, Value};

/// The attributes as they stand in the node.
struct Spec {
    kernel: Option<Vec<i64>>,
    strides: Option<Vec<i64>>,
    dilations: Option<Vec<i64>>,
    pads: Option<Vec<i64>>,
    output_padding: Option<Vec<i64>>,
    output_shape: Option<Vec<i64>>,
    padding: Padding,
    groups: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Explicit,
    SameUpper,
    SameLower,
    Valid,
}

/// One spatial dimension, resolved: the full spread is cut by `before` at its begin and to `size` in all.
struct Axis {
    stride: usize,
    dilation: usize,
    kernel: usize,
    before: usize,
    size: usize,
}

pub(super) fn transposed(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let ints = |name: &str| node.ints(name).map(<[i64]>::to_vec);
    let padding = match node.string("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => Padding::Explicit,
        "SAME_UPPER" => Padding::SameUpper,
        "SAME_LOWER" => Padding::SameLower,
        "VALID" => Padding::Valid,
        other => {
            return Err(OpError::new(format!("auto_pad {other:?} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")));
        }
    };
    let spec = Spec {
        kernel: ints("kernel_shape"),
        strides: ints("strides"),
        dilations: ints("dilations"),
        pads: ints("pads"),
        output_padding: ints("output_padding"),
        output_shape: ints("output_shape"),
        padding,
        groups: groups(node, "group")?,
    };
    one(move |context, mut inputs| {
        let (x, weight) = (inputs.take(0)?, inputs.take(1)?);
        convolve(x, weight, inputs.optional(2), &spec, context)
    })
}

fn convolve(x: Value, weight: Value, bias: Option<Value>, spec: &Spec, context: &Context) -> Result<Value, OpError> {
    let (input, kernel) = (x.shape(), weight.shape());
    let spatial = spatial_of(&input)?;
    if kernel.len() != input.len() || input[1] != kernel[0] || kernel[0] % spec.groups != 0 {
        return Err(OpError::new(format!(
            "an input of shape {input:?} does not fit transposed weights {kernel:?} in {} groups",
            spec.groups
        )));
    }
    let channels = kernel[1].checked_mul(spec.groups).ok_or_else(|| OpError::new("it has too many channels"))?;
    check_bias(bias.as_ref(), channels)?;
    let mut axes = spec.resolve(spatial, &kernel[2..])?;
    let dtype = x.dtype();
    let shape: Vec<usize> = [input[0], channels].into_iter().chain(axes.iter().map(|axis| axis.size)).collect();
    if let Some(empty) = empty(dtype, &shape)? {
        return Ok(empty);
    }
    if input.contains(&0) {
        return only_bias(bias, dtype, &shape, context);
    }
    let (x, mut weight, bias) = arranged(x, weight, bias, context)?;
    if context.is_gpu() && spatial.len() == 3 {
        weight = reaching(weight, &mut axes);
    }
    let y = match spatial.len() {
        1 => B::conv_transpose1d(x, weight, bias.clone(), options(&axes, spatial, spec.groups)),
        2 => B::conv_transpose2d(x, weight, bias.clone(), options(&axes, spatial, spec.groups)),
        _ => B::conv_transpose3d(x, weight, bias.clone(), options(&axes, spatial, spec.groups)),
    };
    Ok(Value::float(cast(fitted(y, bias, &shape, &axes, spatial), dtype)))
}

impl Spec {
    fn resolve(&self, spatial: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, OpError> {
        let rank = spatial.len();
        let each = |given: &Option<Vec<i64>>, name: &str, default: usize| match given {
            Some(values) => sizes_of(values, rank, name),
            None => Ok(vec![default; rank]),
        };
        if let Some(given) = &self.kernel
            && sizes_of(given, rank, "kernel_shape")? != kernel
        {
            return Err(OpError::new(format!("kernel_shape is {given:?}, but its weights have {kernel:?}")));
        }
        let strides = each(&self.strides, "strides", 1)?;
        let dilations = each(&self.dilations, "dilations", 1)?;
        if kernel.iter().chain(&strides).chain(&dilations).any(|&size| size == 0) {
            return Err(OpError::new("its kernel, strides and dilations must be positive"));
        }
        let extra = each(&self.output_padding, "output_padding", 0)?;
        let pads = match (&self.pads, self.padding) {
            (Some(pads), Padding::Explicit) => sizes_of(pads, 2 * rank, "pads")?,
            _ => vec![0; 2 * rank],
        };
        let wanted = self.wanted(rank)?;
        let axis = |axis: usize| {
            let (stride, dilation) = (strides[axis], dilations[axis]);
            let spread = (kernel[axis] - 1)
                .checked_mul(dilation)
                .zip(spatial[axis].saturating_sub(1).checked_mul(stride))
                .and_then(|(extent, reach)| extent.checked_add(reach)?.checked_add(1)?.checked_add(extra[axis]));
            let spread = spread.ok_or_else(|| OpError::new("its output is too large"))?;
            let (before, size) = match wanted.as_ref().map(|sizes| sizes[axis]) {
                Some(size) => (self.before(spread.saturating_sub(size)), size),
                None if matches!(self.padding, Padding::SameUpper | Padding::SameLower) => {
                    let size =
                        spatial[axis].checked_mul(stride).ok_or_else(|| OpError::new("its output is too large"))?;
                    (self.before(spread.saturating_sub(size)), size)
                }
                None => {
                    let (begin, end) = (pads[axis], pads[rank + axis]);
                    (begin, spread.saturating_sub(begin.saturating_add(end)))
                }
            };
            Ok(Axis { stride, dilation, kernel: kernel[axis], before, size })
        };
        (0..rank).map(axis).collect()
    }

    /// The output sizes that the node asks for; some exporters write batch and channels too.
    fn wanted(&self, rank: usize) -> Result<Option<Vec<usize>>, OpError> {
        let Some(sizes) = &self.output_shape else { return Ok(None) };
        let spatial = if sizes.len() == rank + 2 { &sizes[2..] } else { &sizes[..] };
        sizes_of(spatial, rank, "output_shape").map(Some)
    }

    /// What of a total padding comes before the output; ONNX gives the odd element to the begin unless SAME_UPPER.
    fn before(&self, total: usize) -> usize {
        if self.padding == Padding::SameUpper { total / 2 } else { total - total / 2 }
    }
}

/// The weights with zeros behind them, so that each window reaches as far as its stride. On GPUs burn 0.22.1's kernel for three
/// dimensions leaves out inputs where it does not (`kernel * dilation < stride`). What the zeros add to the spread is cut.
fn reaching(weight: Primitive, axes: &mut [Axis]) -> Primitive {
    let lacking = |axis: &Axis| axis.stride.div_ceil(axis.dilation).saturating_sub(axis.kernel);
    let behind: Vec<usize> = axes.iter().map(lacking).collect();
    if behind.iter().all(|&zeros| zeros == 0) {
        return weight;
    }
    axes.iter_mut().zip(&behind).for_each(|(axis, zeros)| axis.kernel += zeros);
    let pads: Vec<(usize, usize)> = [0, 0].into_iter().chain(behind).map(|zeros| (0, zeros)).collect();
    B::float_pad(weight, &pads, PadMode::Constant(0.0))
}

/// Burn pads both ends alike: the padding that both have is its, the rest is cut or added afterwards.
fn options<const N: usize>(axes: &[Axis], spatial: &[usize], groups: usize) -> ConvTransposeOptions<N> {
    ConvTransposeOptions::new(
        std::array::from_fn(|axis| axes[axis].stride),
        std::array::from_fn(|axis| common(&axes[axis], spatial[axis])),
        [0; N],
        std::array::from_fn(|axis| axes[axis].dilation),
        groups,
    )
}

fn common(axis: &Axis, size: usize) -> usize {
    axis.before.min(spread(axis, size).saturating_sub(axis.before + axis.size))
}

/// The elements that the input spreads over, before any padding.
fn spread(axis: &Axis, size: usize) -> usize {
    (size - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1
}

/// Cuts the spread to the output, which may also reach beyond it: there only the bias is.
fn fitted(y: Primitive, bias: Option<Primitive>, shape: &[usize], axes: &[Axis], spatial: &[usize]) -> Primitive {
    let all = |size: usize| Slice::new(0, Some(size as isize), 1);
    let mut slices = vec![all(shape[0]), all(shape[1])];
    let mut pads = vec![(0, 0); 2];
    for (axis, &size) in axes.iter().zip(spatial) {
        let common = common(axis, size);
        let there = spread(axis, size) - 2 * common;
        let begin = (axis.before - common).min(there);
        let end = (begin + axis.size).min(there);
        slices.push(Slice::new(begin as isize, Some(end as isize), 1));
        pads.push((0, axis.size - (end - begin)));
    }
    let whole = axes.iter().zip(spatial).zip(&slices[2..]).all(|((axis, &size), slice)| {
        slice.start == 0 && slice.end == Some((spread(axis, size) - 2 * common(axis, size)) as isize)
    });
    let y = if whole { y } else { B::float_slice(y, &slices) };
    if pads.iter().all(|&pad| pad == (0, 0)) {
        return y;
    }
    let Some(bias) = bias else { return B::float_pad(y, &pads, PadMode::Constant(0.0)) };
    let mut column = vec![1; shape.len()];
    column[1] = shape[1];
    let bias = B::float_reshape(bias, column.into());
    B::float_add(B::float_pad(B::float_sub(y, bias.clone()), &pads, PadMode::Constant(0.0)), bias)
}
