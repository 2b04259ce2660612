//! Operators that pick elements by their index.
//!
//! Every index is checked before it reaches a kernel: burn's CPU kernels panic on one outside, its GPU kernels read
//! whatever lies there.

use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn_backend::{IntDType, TensorData};
use hedge_graph::Node;

use super::host::{self, for_each_index, hosted, room, zeros};
use super::layout::counted_size;
use super::movement::{NO_FILL, moved, moves_on_host, reaching, untouched};
use super::slice::{Span, narrowed, sliced};
use super::{BoxOp, Builder, OpError, axis_of, by_kind, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Gather" => gather,
        "GatherElements" => gather_elements,
        "GatherND" => gather_nd,
        "Compress" => compress,
        "ReverseSequence" => reverse_sequence,
        _ => return None,
    })
}

/// The value at these indices of one dimension, each of which must lie in it.
pub(super) fn picked(x: Value, axis: usize, indices: Vec<usize>, context: &Context) -> Result<Value, OpError> {
    let mut shape = x.shape();
    let in_a_row = indices.windows(2).all(|pair| pair[1] == pair[0] + 1);
    if let (Some(&first), true) = (indices.first(), in_a_row) {
        // One element or neighbours, as positions are: a view where the device has views.
        return narrowed(x, axis, first, indices.len(), context);
    }
    shape[axis] = indices.len();
    if room(x.dtype(), &shape)? == 0 {
        return Ok(Value::host(zeros(x.dtype(), &shape)?));
    }
    if moves_on_host(&x, context) {
        let x = hosted(x)?;
        let mut axes = untouched(x.shape());
        axes[axis] = reaching(indices, host::strides(x.shape())[axis]);
        return Ok(Value::host(moved(&x, &axes, NO_FILL)?));
    }
    let count = indices.len();
    let indices = positions(indices, &[count], context)?;
    by_kind!(
        x,
        context,
        |tensor| B::float_select(tensor, axis, indices),
        B::int_select(tensor, axis, indices),
        B::bool_select(tensor, axis, indices)
    )
}

/// Indices as the device's integers.
pub(super) fn positions(indices: Vec<usize>, shape: &[usize], context: &Context) -> Result<Primitive, OpError> {
    let data = if context.int == IntDType::I64 {
        let indices: Vec<i64> = indices.into_iter().map(|index| index as i64).collect();
        TensorData::new(indices, shape.to_vec())
    } else {
        let narrow = |index: usize| {
            i32::try_from(index).map_err(|_| OpError::new(format!("index {index} does not fit this device's integers")))
        };
        TensorData::new(indices.into_iter().map(narrow).collect::<Result<Vec<i32>, _>>()?, shape.to_vec())
    };
    Ok(B::int_from_data(data, &context.device))
}

/// `index` counted from the front of a dimension of `size`; negative ones count from its end.
pub(super) fn counted(index: i64, size: usize) -> Result<usize, OpError> {
    let position = if index < 0 { index.checked_add_unsigned(size as u64) } else { Some(index) };
    match position.and_then(|position| usize::try_from(position).ok()) {
        Some(position) if position < size => Ok(position),
        _ => Err(OpError::new(format!("index {index} is outside a dimension of {size}"))),
    }
}

fn gather(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    one(move |context, mut inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let (shape, index_shape) = (x.shape(), indices.shape());
        let axis = axis_of(axis, shape.len())?;
        let flat = indices.to_ints()?.into_iter().map(|index| counted(index, shape[axis]));
        let picked = picked(x, axis, flat.collect::<Result<Vec<_>, _>>()?, context)?;
        let out: Vec<usize> = shape[..axis].iter().chain(&index_shape).chain(&shape[axis + 1..]).copied().collect();
        reshaped(picked, &out, context)
    })
}

fn gather_elements(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    one(move |context, mut inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let (shape, out) = (x.shape(), indices.shape());
        let axis = axis_of(axis, shape.len())?;
        check_elements(&shape, &out, axis)?;
        let flat = indices.to_ints()?.into_iter().map(|index| counted(index, shape[axis]));
        let flat = flat.collect::<Result<Vec<_>, _>>()?;
        if flat.is_empty() {
            return Ok(Value::host(zeros(x.dtype(), &out)?));
        }
        if moves_on_host(&x, context) {
            let total = shape.iter().product();
            let x = hosted(x)?.reshaped(vec![total])?;
            let places = element_places(&shape, &out, axis, &flat)?;
            return Ok(Value::host(moved(&x, &[reaching(places, 1)], NO_FILL)?.reshaped(out)?));
        }
        // Burn wants the other dimensions equal, ONNX lets them be smaller.
        let crop = |i: usize| Span::run(0, if i == axis { shape[i] } else { out[i] });
        let x = sliced(x, &(0..shape.len()).map(crop).collect::<Vec<_>>(), context)?;
        let indices = positions(flat, &out, context)?;
        by_kind!(
            x,
            context,
            |tensor| B::float_gather(axis, tensor, indices),
            B::int_gather(axis, tensor, indices),
            B::bool_gather(axis, tensor, indices)
        )
    })
}

/// Refuses an index tensor that reaches beyond the data in a dimension other than `axis`.
pub(super) fn check_elements(shape: &[usize], indices: &[usize], axis: usize) -> Result<(), OpError> {
    let within = |i: usize| i == axis || indices[i] <= shape[i];
    if indices.len() == shape.len() && (0..shape.len()).all(within) {
        return Ok(());
    }
    Err(OpError::new(format!("indices of {indices:?} do not fit {shape:?} along dimension {axis}")))
}

/// Where the elements of an index tensor of shape `indices` lie in a dense tensor of `shape`, its values counting along
/// `axis`.
pub(super) fn element_places(
    shape: &[usize],
    indices: &[usize],
    axis: usize,
    values: &[usize],
) -> Result<Vec<usize>, OpError> {
    let strides = host::strides(shape);
    let mut values = values.iter();
    let mut places = Vec::with_capacity(values.len());
    for_each_index(indices, |index| {
        let along = values.next().ok_or_else(|| OpError::new("an index is missing"))?;
        let others = (0..index.len()).filter(|&i| i != axis).map(|i| index[i] * strides[i]);
        places.push(others.sum::<usize>() + along * strides[axis]);
        Ok(())
    })?;
    Ok(places)
}

fn gather_nd(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let batch = super::size_of(node.int("batch_dims", 0))?;
    one(move |context, mut inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let (shape, index_shape) = (x.shape(), indices.shape());
        let rows = tuple_rows(&shape, &index_shape, batch, &indices.to_ints()?)?;
        let (prefix, depth) = (&index_shape[..index_shape.len() - 1], index_shape[index_shape.len() - 1]);
        let out: Vec<usize> = prefix.iter().chain(&shape[batch + depth..]).copied().collect();
        if room(x.dtype(), &out)? == 0 {
            return Ok(Value::host(zeros(x.dtype(), &out)?));
        }
        let table = as_rows(x, batch + depth, context)?;
        reshaped(picked(table, 0, rows, context)?, &out, context)
    })
}

/// The value as a matrix whose rows are indexed by the first `leading` dimensions.
pub(super) fn as_rows(x: Value, leading: usize, context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    let (rows, columns) = shape.split_at(leading);
    reshaped(x, &[counted_size(rows)?, counted_size(columns)?], context)
}

/// The row that each tuple of an index tensor means (its last dimension is the tuple), in a tensor of `shape` whose rows
/// are indexed by the `batch` dimensions that both share and then by the tuple.
pub(super) fn tuple_rows(
    shape: &[usize],
    indices: &[usize],
    batch: usize,
    values: &[i64],
) -> Result<Vec<usize>, OpError> {
    let wrong = || OpError::new(format!("indices of {indices:?} do not fit {shape:?} with {batch} batch dimensions"));
    let (&depth, prefix) = indices.split_last().ok_or_else(wrong)?;
    let fits = depth > 0 && prefix.len() >= batch && batch + depth <= shape.len() && prefix[..batch] == shape[..batch];
    if !fits {
        return Err(wrong());
    }
    let sizes = &shape[batch..batch + depth];
    let strides = host::strides(sizes);
    let per_batch: usize = sizes.iter().product();
    let tuples_per_batch: usize = prefix[batch..].iter().product();
    let tuples: usize = prefix.iter().product();
    (0..tuples)
        .map(|tuple| {
            let values = &values[tuple * depth..(tuple + 1) * depth];
            let own = values
                .iter()
                .zip(sizes)
                .zip(&strides)
                .map(|((&value, &size), &stride)| counted(value, size).map(|position| position * stride));
            Ok((tuple / tuples_per_batch) * per_batch + own.sum::<Result<usize, OpError>>()?)
        })
        .collect()
}

/// The slices along an axis (of the flat tensor where there is none) whose condition is true.
fn compress(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.attributes.contains_key("axis").then(|| node.int("axis", 0));
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let condition = hosted(inputs.take(1)?)?.to_bools()?;
        let (x, axis) = match axis {
            Some(axis) => {
                let axis = axis_of(axis, x.rank())?;
                (x, axis)
            }
            None => {
                let total = x.shape().iter().product();
                (reshaped(x, &[total], context)?, 0)
            }
        };
        let indices: Vec<usize> = (0..).zip(&condition).filter(|(_, keep)| **keep).map(|(index, _)| index).collect();
        match indices.last() {
            Some(&last) if last >= x.shape()[axis] => {
                Err(OpError::new(format!("condition {last} is true beyond dimension {axis} of {:?}", x.shape())))
            }
            _ => picked(x, axis, indices, context),
        }
    })
}

/// Along one of the first two dimensions, the first elements of each slice of the other are turned around.
fn reverse_sequence(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (batch_axis, time_axis) = (node.int("batch_axis", 1), node.int("time_axis", 0));
    if !matches!((batch_axis, time_axis), (0, 1) | (1, 0)) {
        return Err(OpError::new(format!("batch_axis {batch_axis} and time_axis {time_axis} are not 0 and 1")));
    }
    let batch_first = batch_axis == 0;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let lengths = inputs.take(1)?.to_ints()?;
        let [outer, inner, ..] = shape[..] else {
            return Err(OpError::new(format!("two dimensions are needed, but it has {shape:?}")));
        };
        let (batches, steps) = if batch_first { (outer, inner) } else { (inner, outer) };
        if lengths.len() != batches || lengths.iter().any(|&length| length < 0 || length > steps as i64) {
            return Err(OpError::new(format!("lengths {lengths:?} do not fit {batches} sequences of {steps}")));
        }
        if shape.contains(&0) {
            return Ok(x);
        }
        let row = |row: usize| {
            let (first, second) = (row / inner, row % inner);
            let (batch, step) = if batch_first { (first, second) } else { (second, first) };
            let length = lengths[batch] as usize;
            let source = if step < length { length - 1 - step } else { step };
            if batch_first { batch * inner + source } else { source * inner + batch }
        };
        let rows = (0..outer * inner).map(row).collect();
        reshaped(picked(as_rows(x, 2, context)?, 0, rows, context)?, &shape, context)
    })
}
