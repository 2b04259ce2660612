//! Blocks of space that become channels and back, and crops and pads around the centre.

use burn_backend::Slice;
use burn_backend::ops::{FloatTensorOps, PadMode};
use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::host::{elements, for_each_index, strides, tensor_of, with_elements};
use super::number::{Number, zeros};
use super::precision::empty;
use super::{BoxOp, OpError, axis_of, one, size_of};
use crate::burn::{B, Context, Value};

pub(super) fn depth_to_space(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (size, column_first) = (block(node)?, mode(node)?);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let [n, c, h, w] = four(&x)?;
        let area = size.checked_mul(size).filter(|&area| c.is_multiple_of(area));
        let channels =
            c / area.ok_or_else(|| OpError::new(format!("{c} channels are no blocks of {size} by {size}")))?;
        let (split, order) = if column_first {
            ([n, channels, size, size, h, w], [0, 1, 4, 2, 5, 3])
        } else {
            ([n, size, size, channels, h, w], [0, 3, 4, 1, 5, 2])
        };
        rearranged(x, &split, &order, &[n, channels, h * size, w * size], context)
    })
}

pub(super) fn space_to_depth(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (size, column_first) = (block(node)?, mode(node)?);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let [n, c, h, w] = four(&x)?;
        if !h.is_multiple_of(size) || !w.is_multiple_of(size) {
            return Err(OpError::new(format!("{h} by {w} elements are no blocks of {size} by {size}")));
        }
        let split = [n, c, h / size, size, w / size, size];
        let order = if column_first { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
        let channels = c.checked_mul(size).and_then(|c| c.checked_mul(size));
        let channels = channels.ok_or_else(|| OpError::new("its output has too many channels"))?;
        rearranged(x, &split, &order, &[n, channels, h / size, w / size], context)
    })
}

fn block(node: &Node) -> Result<usize, OpError> {
    match size_of(node.int("blocksize", 0))? {
        0 => Err(OpError::new("blocksize must be at least 1")),
        size => Ok(size),
    }
}

/// Whether a channel's elements lie together (`CRD`) or a block's (`DCR`).
fn mode(node: &Node) -> Result<bool, OpError> {
    match node.string("mode").unwrap_or("DCR") {
        "DCR" => Ok(false),
        "CRD" => Ok(true),
        other => Err(OpError::new(format!("mode {other:?} is neither DCR nor CRD"))),
    }
}

fn four(x: &Value) -> Result<[usize; 4], OpError> {
    let shape = x.shape();
    <[usize; 4]>::try_from(shape).map_err(|shape| OpError::new(format!("its input {shape:?} has not four dimensions")))
}

/// The input split into dimensions, these put into another order and joined again.
fn rearranged(x: Value, split: &[usize], order: &[usize], out: &[usize], context: &Context) -> Result<Value, OpError> {
    if let Some(empty) = empty(x.dtype(), out)? {
        return Ok(empty);
    }
    if x.is_float() {
        let split = B::float_reshape(x.into_float(context)?, split.to_vec().into());
        return Ok(Value::float(B::float_reshape(B::float_permute(split, order), out.to_vec().into())));
    }
    let x = x.into_host()?;
    Ok(Value::host(with_elements!(x.dtype(), T => permuted::<T>(&x, split, order, out))?))
}

fn permuted<T: Number>(x: &Tensor, split: &[usize], order: &[usize], out: &[usize]) -> Result<Tensor, OpError> {
    let values = elements::<T>(x)?;
    let steps = strides(split);
    let sizes: Vec<usize> = order.iter().map(|&axis| split[axis]).collect();
    let mut y = Vec::with_capacity(values.len());
    for_each_index(&sizes, |index| {
        y.push(values[index.iter().zip(order).map(|(&at, &axis)| at * steps[axis]).sum::<usize>()]);
        Ok(())
    })?;
    tensor_of(x.dtype(), out, &y)
}

pub(super) fn center_crop_pad(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axes = node.ints("axes").map(<[i64]>::to_vec);
    one(move |context, mut inputs| {
        let (x, target) = (inputs.take(0)?, inputs.take(1)?.to_ints()?);
        let mut out = x.shape();
        let axes = match &axes {
            Some(axes) => axes.iter().map(|&axis| axis_of(axis, out.len())).collect::<Result<Vec<_>, _>>()?,
            None => (0..out.len()).collect(),
        };
        if axes.len() != target.len() {
            return Err(OpError::new(format!("it has {} sizes for {} axes", target.len(), axes.len())));
        }
        for (&axis, &size) in axes.iter().zip(&target) {
            out[axis] = size_of(size)?;
        }
        centred(x, &out, context)
    })
}

fn centred(x: Value, out: &[usize], context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    if let Some(empty) = empty(x.dtype(), out)? {
        return Ok(empty);
    }
    if !x.is_float() || shape.contains(&0) {
        let x = x.into_host()?;
        return Ok(Value::host(with_elements!(x.dtype(), T => copied::<T>(&x, out))?));
    }
    let sizes = || shape.iter().zip(out);
    let crop = |(&from, &to): (&usize, &usize)| {
        let start = from.saturating_sub(to) / 2;
        Slice::new(start as isize, Some((start + from.min(to)) as isize), 1)
    };
    let pad = |(&from, &to): (&usize, &usize)| {
        let missing = to.saturating_sub(from);
        (missing / 2, missing - missing / 2)
    };
    let y = B::float_slice(x.into_float(context)?, &sizes().map(crop).collect::<Vec<_>>());
    let pads: Vec<(usize, usize)> = sizes().map(pad).collect();
    if pads.iter().all(|&pad| pad == (0, 0)) {
        return Ok(Value::float(y));
    }
    Ok(Value::float(B::float_pad(y, &pads, PadMode::Constant(0.0))))
}

fn copied<T: Number>(x: &Tensor, out: &[usize]) -> Result<Tensor, OpError> {
    let shape = x.shape();
    let values = elements::<T>(x)?;
    let mut y = zeros::<T>(out)?;
    let (from, to) = (strides(shape), strides(out));
    let common: Vec<usize> = shape.iter().zip(out).map(|(&from, &to)| from.min(to)).collect();
    let start = |large: usize, small: usize| large.saturating_sub(small) / 2;
    for_each_index(&common, |index| {
        let (mut source, mut target) = (0, 0);
        for (axis, &at) in index.iter().enumerate() {
            source += (at + start(shape[axis], out[axis])) * from[axis];
            target += (at + start(out[axis], shape[axis])) * to[axis];
        }
        y[target] = values[source];
        Ok(())
    })?;
    tensor_of(x.dtype(), out, &y)
}
