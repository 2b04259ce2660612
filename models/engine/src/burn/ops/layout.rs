//! Operators that arrange the same elements anew, one beside the other or again and again.

use burn_backend::Shape;
use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::host::{hosted, room, strides, zeros};
use super::movement::{NO_FILL, joined, moved, moves_on_host, whole};
use super::{BoxOp, Builder, Inputs, OpError, axis_of, broadcast_shape, by_kind, one, reshaped, size_of, with_rank};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Transpose" => transpose,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Concat" => concat,
        "Expand" => |_, _| one(|context, mut inputs| expand(inputs.take(0)?, &inputs.take(1)?, context)),
        "Tile" => |_, _| one(|context, mut inputs| tile(inputs.take(0)?, &inputs.take(1)?, context)),
        "Shape" => shape,
        "Size" => |_, _| {
            one(|_, mut inputs| {
                let count: usize = inputs.take(0)?.shape().iter().product();
                Ok(Value::host(Tensor::scalar(count as i64)))
            })
        },
        _ => return None,
    })
}

fn reshape(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let allow_zero = node.int("allowzero", 0) != 0;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let target = inputs.take(1)?.to_ints()?;
        let shape = resolve_reshape(&x.shape(), &target, allow_zero)?;
        reshaped(x, &shape, context)
    })
}

fn resolve_reshape(from: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>, OpError> {
    let wrong = || OpError::new(format!("{from:?} does not reshape to {target:?}"));
    let mut shape = Vec::with_capacity(target.len());
    let mut free = None;
    for (index, &size) in target.iter().enumerate() {
        match size {
            -1 if free.is_none() => {
                free = Some(index);
                shape.push(1);
            }
            0 if !allow_zero => shape.push(*from.get(index).ok_or_else(wrong)?),
            size => shape.push(usize::try_from(size).map_err(|_| wrong())?),
        }
    }
    if let Some(index) = free {
        let total: usize = from.iter().product();
        let known = hedge_tensor::element_count(&shape).ok_or_else(wrong)?;
        if known == 0 || !total.is_multiple_of(known) {
            return Err(wrong());
        }
        shape[index] = total / known;
    }
    Ok(shape)
}

fn flatten(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 1);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        // Flatten's axis may be one past the last dimension.
        let axis = if axis == shape.len() as i64 { shape.len() } else { axis_of(axis, shape.len())? };
        reshaped(x, &[counted_size(&shape[..axis])?, counted_size(&shape[axis..])?], context)
    })
}

/// The elements of some dimensions, which are not bounded where another one is 0.
pub(super) fn counted_size(shape: &[usize]) -> Result<usize, OpError> {
    hedge_tensor::element_count(shape).ok_or_else(|| OpError::new(format!("dimensions {shape:?} are too large")))
}

fn transpose(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let order = node.ints("perm").map(<[i64]>::to_vec);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let rank = x.rank();
        let axes = match &order {
            Some(order) => order.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?,
            None => (0..rank).rev().collect(),
        };
        let mut seen = axes.clone();
        seen.sort_unstable();
        if !seen.iter().copied().eq(0..rank) {
            return Err(OpError::new(format!("perm {axes:?} is no order of {rank} dimensions")));
        }
        permuted(x, &axes, context)
    })
}

/// The value with its dimensions in another order, `axes` being one.
pub(super) fn permuted(x: Value, axes: &[usize], context: &Context) -> Result<Value, OpError> {
    if axes.iter().copied().eq(0..axes.len()) {
        return Ok(x);
    }
    let shape = x.shape();
    if shape.contains(&0) {
        // Without elements, the other dimensions may be of any size: no table of them is made.
        let turned: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
        return Ok(Value::host(zeros(x.dtype(), &turned)?));
    }
    if moves_on_host(&x, context) {
        let x = hosted(x)?;
        let strides = strides(x.shape());
        let axes: Vec<_> = axes.iter().map(|&axis| whole(x.shape()[axis], strides[axis])).collect();
        return Ok(Value::host(moved(&x, &axes, NO_FILL)?));
    }
    by_kind!(
        x,
        context,
        |tensor| B::float_permute(tensor, axes),
        B::int_permute(tensor, axes),
        B::bool_permute(tensor, axes)
    )
}

/// Axes of `Squeeze` and `Unsqueeze`: an attribute before opset 13, an input from then on.
fn axes_from(attribute: Option<&Vec<i64>>, inputs: &mut Inputs) -> Result<Option<Vec<i64>>, OpError> {
    match attribute {
        Some(axes) => Ok(Some(axes.clone())),
        None => inputs.optional(1).map(|axes| axes.to_ints()).transpose(),
    }
}

fn squeeze(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axes = node.ints("axes").map(<[i64]>::to_vec);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        // No axes at all are as good as none given: ONNX is silent, onnxruntime is not.
        let removed = match axes_from(axes.as_ref(), &mut inputs)?.filter(|axes| !axes.is_empty()) {
            Some(axes) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Result<Vec<_>, _>>()?,
            None => (0..shape.len()).filter(|&axis| shape[axis] == 1).collect(),
        };
        if let Some(&axis) = removed.iter().find(|&&axis| shape[axis] != 1) {
            return Err(OpError::new(format!("dimension {axis} of {shape:?} is not 1 and cannot be squeezed")));
        }
        let kept: Vec<usize> =
            (0..shape.len()).filter(|axis| !removed.contains(axis)).map(|axis| shape[axis]).collect();
        reshaped(x, &kept, context)
    })
}

fn unsqueeze(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axes = node.ints("axes").map(<[i64]>::to_vec);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let axes = axes_from(axes.as_ref(), &mut inputs)?.ok_or_else(|| OpError::new("its axes are missing"))?;
        let rank = x.rank() + axes.len();
        let mut added = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        added.sort_unstable();
        if added.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(OpError::new(format!("axes {axes:?} name one twice")));
        }
        let mut sizes = x.shape().into_iter();
        let shape: Vec<usize> =
            (0..rank).map(|axis| if added.contains(&axis) { 1 } else { sizes.next().unwrap_or(1) }).collect();
        reshaped(x, &shape, context)
    })
}

fn concat(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    one(move |context, mut inputs| concatenated(inputs.all(), axis, context))
}

/// The values one after the other along `axis`, which may be negative.
pub(super) fn concatenated(values: Vec<Value>, axis: i64, context: &Context) -> Result<Value, OpError> {
    let first = values.first().ok_or_else(|| OpError::new("it has no inputs"))?;
    let (dtype, mut shape) = (first.dtype(), first.shape());
    let axis = axis_of(axis, shape.len())?;
    for value in &values {
        let other = value.shape();
        let fits = other.len() == shape.len() && (0..shape.len()).all(|i| i == axis || other[i] == shape[i]);
        if !fits || value.dtype() != dtype {
            let other_dtype = value.dtype();
            return Err(OpError::new(format!("{dtype} {shape:?} and {other_dtype} {other:?} do not concatenate")));
        }
    }
    // Burn's kernels do not all take empty tensors; they add nothing.
    let mut values: Vec<Value> = values.into_iter().filter(|value| value.shape()[axis] > 0).collect();
    shape[axis] = values.iter().map(|value| value.shape()[axis]).fold(0, usize::saturating_add);
    if room(dtype, &shape)? == 0 {
        return Ok(Value::host(zeros(dtype, &shape)?));
    }
    if values.len() == 1 {
        return Ok(values.remove(0));
    }
    // Integers on the host stay exact there, whatever a device would make of them.
    let on_host = |value: &Value| moves_on_host(value, context);
    if values.iter().any(|value| on_host(value) && !dtype.is_float()) || values.iter().all(on_host) {
        let parts = values.into_iter().map(hosted).collect::<Result<Vec<_>, _>>()?;
        return Ok(Value::host(joined(&parts, axis)?));
    }
    let values = values.into_iter();
    Ok(match dtype {
        DType::Bool => {
            let tensors = values.map(|value| value.into_bool(context)).collect::<Result<_, _>>()?;
            Value::bool(B::bool_cat(tensors, axis))
        }
        _ if dtype.is_float() => {
            let tensors = values.map(|value| value.into_float(context)).collect::<Result<_, _>>()?;
            Value::float(B::float_cat(tensors, axis))
        }
        _ => {
            let tensors = values.map(|value| value.into_int(context)).collect::<Result<_, _>>()?;
            Value::int(B::int_cat(tensors, axis), dtype)
        }
    })
}

pub(super) fn expand(x: Value, shape: &Value, context: &Context) -> Result<Value, OpError> {
    let target = shape.to_ints()?.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
    let shape = broadcast_shape(&x.shape(), &target)?;
    expanded(x, &shape, context)
}

/// The value repeated along its dimensions of 1 up to `shape`, which it must broadcast to.
pub(super) fn expanded(x: Value, shape: &[usize], context: &Context) -> Result<Value, OpError> {
    let x = with_rank(x, shape.len(), context)?;
    let from = x.shape();
    if from == shape {
        return Ok(x);
    }
    if room(x.dtype(), shape)? == 0 {
        return Ok(Value::host(zeros(x.dtype(), shape)?));
    }
    if moves_on_host(&x, context) {
        let strides = strides(&from);
        let axis = |axis: usize| match from[axis] {
            1 => vec![Some(0); shape[axis]],
            size => whole(size, strides[axis]),
        };
        let axes: Vec<_> = (0..shape.len()).map(axis).collect();
        return Ok(Value::host(moved(&hosted(x)?, &axes, NO_FILL)?));
    }
    let shape = Shape::from(shape.to_vec());
    by_kind!(
        x,
        context,
        |tensor| B::float_expand(tensor, shape),
        B::int_expand(tensor, shape),
        B::bool_expand(tensor, shape)
    )
}

fn tile(x: Value, repeats: &Value, context: &Context) -> Result<Value, OpError> {
    let from = x.shape();
    let times = repeats.to_ints()?.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
    if times.len() != from.len() {
        return Err(OpError::new(format!("{} repeats for {from:?}; one for each dimension is needed", times.len())));
    }
    let sizes = from.iter().zip(&times).map(|(size, times)| size.checked_mul(*times)).collect::<Option<Vec<_>>>();
    let shape = sizes.ok_or_else(|| OpError::new(format!("{times:?} times {from:?} is too large")))?;
    if room(x.dtype(), &shape)? == 0 {
        return Ok(Value::host(zeros(x.dtype(), &shape)?));
    }
    if moves_on_host(&x, context) {
        let strides = strides(&from);
        let axis = |axis: usize| whole(from[axis], strides[axis]).repeat(times[axis]);
        let axes: Vec<_> = (0..from.len()).map(axis).collect();
        return Ok(Value::host(moved(&hosted(x)?, &axes, NO_FILL)?));
    }
    let repeated = times.into_iter().enumerate().filter(|&(_, times)| times != 1);
    repeated.into_iter().try_fold(x, |x, (axis, times)| {
        by_kind!(
            x,
            context,
            |tensor| B::float_repeat_dim(tensor, axis, times),
            B::int_repeat_dim(tensor, axis, times),
            B::bool_repeat_dim(tensor, axis, times)
        )
    })
}

/// A part of the dimensions from opset 15 on.
fn shape(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (start, end) = (node.int("start", 0), node.int("end", i64::MAX));
    one(move |_, mut inputs| {
        let shape: Vec<i64> = inputs.take(0)?.shape().into_iter().map(|size| size as i64).collect();
        let rank = shape.len() as i64;
        let clamp = |bound: i64| (if bound < 0 { bound.saturating_add(rank) } else { bound }).clamp(0, rank) as usize;
        let (start, end) = (clamp(start), clamp(end));
        Ok(Value::ints(shape.get(start..end).unwrap_or_default()))
    })
}
