//! Convolutions, pools and what else slides over spatial dimensions.

use hedge_tensor::DType;

use super::fact::{Call, Fact, Rule};
use super::number::Number;
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Conv" => |call| convolution(call, 1, call.dtype(0)),
        "ConvInteger" => |call| convolution(call, 1, Some(DType::I32)),
        "QLinearConv" => |call| convolution(call, 3, call.dtype(7)),
        "ConvTranspose" => transposed,
        "MaxPool" => |call| {
            let dims = pooled(call);
            Some(vec![Fact::new(call.dtype(0), dims.clone()), Fact::new(Some(DType::I64), dims)])
        },
        "AveragePool" | "LpPool" => |call| call.maybe(call.dtype(0), pooled(call)),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => |call| {
            let mut dims = call.shape(0)?.to_vec();
            dims.get_mut(2..)?.fill(Dim::Known(1));
            call.like(dims)
        },
        "Resize" => |call| resize(call, if call.opset < 11 { (1, 2) } else { (2, 3) }),
        "Upsample" => |call| resize(call, (1, usize::MAX)),
        "GridSample" => |call| {
            let (x, grid) = (call.shape(0)?, call.shape(1)?);
            let spatial = grid.get(1..grid.len().checked_sub(1)?)?;
            call.like([x.get(..2)?, spatial].concat())
        },
        _ => return None,
    })
}

/// What a node says of its window, for `rank` spatial dimensions.
struct Window {
    kernel: Vec<Dim>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    auto_pad: String,
    ceil: bool,
}

impl Window {
    fn read(call: &Call<'_>, rank: usize, kernel: Option<&[Dim]>) -> Option<Self> {
        let ones = || vec![1; rank];
        let ints = |name: &str| call.node.ints(name).map(<[i64]>::to_vec);
        let given =
            call.node.ints("kernel_shape").map(|sizes| sizes.iter().map(|&size| Number::Known(size).dim()).collect());
        let window = Window {
            kernel: given.or_else(|| kernel.map(<[Dim]>::to_vec))?,
            strides: ints("strides").unwrap_or_else(ones),
            dilations: ints("dilations").unwrap_or_else(ones),
            pads: ints("pads").unwrap_or_else(|| vec![0; 2 * rank]),
            auto_pad: call.node.string("auto_pad").unwrap_or("NOTSET").to_owned(),
            ceil: call.node.int("ceil_mode", 0) != 0,
        };
        let fits = window.kernel.len() == rank && window.strides.len() == rank && window.dilations.len() == rank;
        (fits && window.pads.len() == 2 * rank && window.strides.iter().all(|&stride| stride > 0)).then_some(window)
    }

    fn output(&self, axis: usize, dim: &Dim) -> Dim {
        let (&Dim::Known(size), &Dim::Known(kernel)) = (dim, &self.kernel[axis]) else { return Dim::Unknown };
        self.size(axis, size, kernel).and_then(|size| usize::try_from(size).ok()).map_or(Dim::Unknown, Dim::Known)
    }

    fn size(&self, axis: usize, size: usize, kernel: usize) -> Option<i64> {
        let (size, kernel) = (i64::try_from(size).ok()?, i64::try_from(kernel).ok()?);
        let stride = self.strides[axis];
        let extent = kernel.checked_sub(1)?.checked_mul(self.dilations[axis])?.checked_add(1)?;
        if self.auto_pad.starts_with("SAME") {
            return Some((size.checked_add(stride)? - 1) / stride);
        }
        let (begin, end) =
            if self.auto_pad == "VALID" { (0, 0) } else { (self.pads[axis], self.pads[self.kernel.len() + axis]) };
        let left = size.checked_add(begin)?.checked_add(end)?.checked_sub(extent)?;
        if left < 0 {
            return None;
        }
        let up = if self.ceil && left % stride != 0 { 1 } else { 0 };
        let count = left / stride + 1 + up;
        // A last window that would start in the padding behind the input is left out.
        let starts_outside = up == 1 && (count - 1).checked_mul(stride)? >= size.checked_add(begin)?;
        Some(if starts_outside { count - 1 } else { count })
    }
}

/// `weight` is the index of the weights `[channels out, channels in / groups, kernel…]`.
fn convolution(call: &Call<'_>, weight: usize, dtype: Option<DType>) -> Option<Vec<Fact>> {
    let kernel = call.shape(weight);
    let Some(shape) = call.shape(0).or(kernel.filter(|_| call.shape(0).is_none())).filter(|shape| shape.len() >= 3)
    else {
        return call.maybe(dtype, None);
    };
    let channels = kernel.map_or(Dim::Unknown, |kernel| kernel[0].clone());
    let mut dims = vec![Dim::Unknown; shape.len()];
    dims[1] = channels;
    if call.shape(0).is_some() {
        dims[0] = shape[0].clone();
        if let Some(window) = Window::read(call, shape.len() - 2, kernel.and_then(|kernel| kernel.get(2..))) {
            (2..shape.len()).for_each(|axis| dims[axis] = window.output(axis - 2, &shape[axis]));
        }
    }
    call.maybe(dtype, Some(dims))
}

fn pooled(call: &Call<'_>) -> Option<Vec<Dim>> {
    let shape = call.shape(0).filter(|shape| shape.len() >= 3)?;
    let window = Window::read(call, shape.len() - 2, None)?;
    let spatial = shape[2..].iter().enumerate().map(|(axis, dim)| window.output(axis, dim));
    Some(shape[..2].iter().cloned().chain(spatial).collect())
}

fn transposed(call: &Call<'_>) -> Option<Vec<Fact>> {
    let (Some(shape), Some(kernel)) = (call.shape(0), call.shape(1)) else { return call.maybe(call.dtype(0), None) };
    if shape.len() < 3 || kernel.len() != shape.len() {
        return None;
    }
    let rank = shape.len() - 2;
    let group = Number::Known(call.node.int("group", 1));
    let mut dims = vec![Dim::Unknown; shape.len()];
    dims[0] = shape[0].clone();
    dims[1] = Number::apply("Mul", &Number::from(&kernel[1]), &group).dim();
    if let Some(sizes) = call.node.ints("output_shape") {
        let spatial = sizes.get(sizes.len().checked_sub(rank)?..)?;
        spatial.iter().zip(&mut dims[2..]).for_each(|(&size, dim)| *dim = Number::Known(size).dim());
        return call.like(dims);
    }
    let window = Window::read(call, rank, kernel.get(2..))?;
    let extra = call.node.ints("output_padding").map_or_else(|| vec![0; rank], <[i64]>::to_vec);
    for axis in 0..rank {
        let (&Dim::Known(size), &Dim::Known(width)) = (&shape[axis + 2], &window.kernel[axis]) else { continue };
        let (size, width, stride) = (i64::try_from(size).ok()?, i64::try_from(width).ok()?, window.strides[axis]);
        let full = size.checked_sub(1)?.checked_mul(stride)?.checked_add(*extra.get(axis)?)?;
        let extent = width.checked_sub(1)?.checked_mul(window.dilations[axis])?.checked_add(1)?;
        let total = match window.auto_pad.as_str() {
            "SAME_UPPER" | "SAME_LOWER" => size.checked_mul(stride)?,
            "VALID" => full.checked_add(extent)?,
            _ => full.checked_add(extent)?.checked_sub(window.pads[axis])?.checked_sub(window.pads[rank + axis])?,
        };
        dims[axis + 2] = Number::Known(total).dim();
    }
    call.like(dims)
}

/// The inputs with scales and sizes have these indices. Scales are followed from constants only.
fn resize(call: &Call<'_>, (scales, sizes): (usize, usize)) -> Option<Vec<Fact>> {
    let Some(shape) = call.shape(0) else { return call.maybe(call.dtype(0), None) };
    let plain = call.node.string("keep_aspect_ratio_policy").is_none_or(|policy| policy == "stretch");
    if !plain || call.node.ints("axes").is_some() {
        return call.like(vec![Dim::Unknown; shape.len()]);
    }
    if let Some(sizes) = call.value(sizes).filter(|sizes| sizes.len() == shape.len()) {
        return call.like(sizes.iter().map(Number::dim).collect());
    }
    let given = call.inputs.get(scales).and_then(|fact| fact.floats.as_deref());
    match call.node.floats("scales").or(given).filter(|scales| scales.len() == shape.len()) {
        Some(scales) => call.like(shape.iter().zip(scales).map(|(dim, &scale)| scaled(dim, scale)).collect()),
        None => call.like(vec![Dim::Unknown; shape.len()]),
    }
}

fn scaled(dim: &Dim, scale: f32) -> Dim {
    match dim {
        dim if scale == 1.0 => dim.clone(),
        // What is beyond the numbers that a float counts by ones is not followed.
        &Dim::Known(size) if size < 1 << 24 && (0.0..65536.0).contains(&scale) => {
            Dim::Known((size as f32 * scale).floor() as usize)
        }
        _ => Dim::Unknown,
    }
}
