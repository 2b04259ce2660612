//! Operators that move elements without computing on them.

use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps, PadMode};
use burn_backend::{Shape, Slice};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::{
    BoxOp, Builder, Inputs, OpError, axis_of, broadcast_shape, by_kind, many, one, reshaped, size_of, with_rank,
};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Transpose" => transpose,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Concat" => concat,
        "Slice" => slice,
        "Split" => split,
        "Gather" => gather,
        "Expand" => |_, _| one(|context, mut inputs| expand(inputs.take(0)?, &inputs.take(1)?, context)),
        "Pad" => pad,
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
        reshaped(x, &[shape[..axis].iter().product(), shape[axis..].iter().product()], context)
    })
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

pub(super) fn permuted(x: Value, axes: &[usize], context: &Context) -> Result<Value, OpError> {
    if axes.iter().copied().eq(0..axes.len()) {
        return Ok(x);
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
        let removed = match axes_from(axes.as_ref(), &mut inputs)? {
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
        let added = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        let mut sizes = x.shape().into_iter();
        let shape: Vec<usize> =
            (0..rank).map(|axis| if added.contains(&axis) { 1 } else { sizes.next().unwrap_or(1) }).collect();
        reshaped(x, &shape, context)
    })
}

fn concat(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    one(move |context, mut inputs| {
        let values = inputs.all();
        let first = values.first().ok_or_else(|| OpError::new("it has no inputs"))?;
        let (dtype, shape) = (first.dtype(), first.shape());
        let axis = axis_of(axis, shape.len())?;
        for value in &values {
            let other = value.shape();
            let fits = other.len() == shape.len() && (0..shape.len()).all(|i| i == axis || other[i] == shape[i]);
            if !fits || value.dtype() != dtype {
                return Err(OpError::new(format!(
                    "{dtype} {shape:?} and {} {other:?} do not concatenate",
                    value.dtype()
                )));
            }
        }
        // Burn's kernels do not all take empty tensors; they add nothing.
        let values = values.into_iter().filter(|value| value.shape()[axis] > 0);
        match dtype {
            DType::Bool => {
                let tensors = values.map(|value| value.into_bool(context)).collect::<Result<_, _>>()?;
                Ok(Value::bool(B::bool_cat(tensors, axis)))
            }
            _ if dtype.is_float() => {
                let tensors = values.map(|value| value.into_float(context)).collect::<Result<_, _>>()?;
                Ok(Value::float(B::float_cat(tensors, axis)))
            }
            _ => {
                let tensors = values.map(|value| value.into_int(context)).collect::<Result<_, _>>()?;
                Ok(Value::int(B::int_cat(tensors, axis), dtype))
            }
        }
    })
}

/// Starts, ends, axes and steps are attributes before opset 10 and inputs from then on.
fn slice(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let attribute = |name: &str| node.ints(name).filter(|_| opset < 10).map(<[i64]>::to_vec);
    let (starts, ends, axes) = (attribute("starts"), attribute("ends"), attribute("axes"));
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let mut read = |index: usize, given: &Option<Vec<i64>>| match given {
            Some(values) => Ok(Some(values.clone())),
            None => inputs.optional(index).map(|value| value.to_ints()).transpose(),
        };
        let missing = |what: &str| OpError::new(format!("its {what} are missing"));
        let starts = read(1, &starts)?.ok_or_else(|| missing("starts"))?;
        let ends = read(2, &ends)?.ok_or_else(|| missing("ends"))?;
        let axes = read(3, &axes)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = read(4, &None)?.unwrap_or_else(|| vec![1; starts.len()]);
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return Err(OpError::new("its starts, ends, axes and steps are not equally many"));
        }
        let shape = x.shape();
        let mut slices: Vec<Slice> = shape.iter().map(|&size| Slice::new(0, Some(size as isize), 1)).collect();
        for index in 0..starts.len() {
            let axis = axis_of(axes[index], shape.len())?;
            slices[axis] = resolve_slice(shape[axis], starts[index], ends[index], steps[index])?;
        }
        sliced(x, &slices, context)
    })
}

/// One dimension's slice by numpy's rules, for burn, whose reversed slices are given by their range and a negative step.
fn resolve_slice(size: usize, start: i64, end: i64, step: i64) -> Result<Slice, OpError> {
    let size = size as i64;
    let counted = |bound: i64| if bound < 0 { bound.saturating_add(size) } else { bound };
    match step {
        0 => Err(OpError::new("a step of 0 slices nothing")),
        1.. => {
            let (start, end) = (counted(start).clamp(0, size), counted(end).clamp(0, size));
            Ok(Slice::new(start as isize, Some(end.max(start) as isize), step as isize))
        }
        _ => {
            let first = counted(start).clamp(-1, size - 1);
            let last = counted(end).clamp(-1, size - 1);
            Ok(Slice::new((last + 1).min(first + 1) as isize, Some((first + 1) as isize), step as isize))
        }
    }
}

fn sliced(x: Value, slices: &[Slice], context: &Context) -> Result<Value, OpError> {
    by_kind!(
        x,
        context,
        |tensor| B::float_slice(tensor, slices),
        B::int_slice(tensor, slices),
        B::bool_slice(tensor, slices)
    )
}

fn split(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    let attribute = node.ints("split").map(<[i64]>::to_vec);
    let parts = node.outputs.len();
    many(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let axis = axis_of(axis, shape.len())?;
        let given = match &attribute {
            Some(sizes) => Some(sizes.clone()),
            None => inputs.optional(1).map(|sizes| sizes.to_ints()).transpose()?,
        };
        let sizes = match given {
            Some(sizes) => sizes.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?,
            None => even_parts(shape[axis], parts),
        };
        if sizes.iter().sum::<usize>() != shape[axis] || sizes.len() != parts {
            return Err(OpError::new(format!("dimension {axis} of {shape:?} does not split into {sizes:?}")));
        }
        let mut start = 0;
        sizes
            .into_iter()
            .map(|size| {
                let mut slices: Vec<Slice> = shape.iter().map(|&size| Slice::new(0, Some(size as isize), 1)).collect();
                slices[axis] = Slice::new(start as isize, Some((start + size) as isize), 1);
                start += size;
                sliced(x.clone(), &slices, context)
            })
            .collect()
    })
}

/// As equal as they can be, the last one smaller (opset 18).
fn even_parts(size: usize, parts: usize) -> Vec<usize> {
    let each = size.div_ceil(parts.max(1));
    (0..parts).map(|part| each.min(size.saturating_sub(part * each))).collect()
}

fn gather(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    one(move |context, mut inputs| {
        let (x, indices) = (inputs.take(0)?, inputs.take(1)?);
        let (shape, index_shape) = (x.shape(), indices.shape());
        let axis = axis_of(axis, shape.len())?;
        let size = shape[axis] as i64;
        let mut flat = indices.to_ints()?;
        for index in &mut flat {
            if *index < -size || *index >= size {
                return Err(OpError::new(format!("index {index} is outside dimension {axis} of {shape:?}")));
            }
            *index += if *index < 0 { size } else { 0 };
        }
        let flat = Value::ints(&flat).into_int(context)?;
        let picked = by_kind!(
            x,
            context,
            |tensor| B::float_select(tensor, axis, flat),
            B::int_select(tensor, axis, flat),
            B::bool_select(tensor, axis, flat)
        )?;
        let out: Vec<usize> = shape[..axis].iter().chain(&index_shape).chain(&shape[axis + 1..]).copied().collect();
        reshaped(picked, &out, context)
    })
}

fn expand(x: Value, shape: &Value, context: &Context) -> Result<Value, OpError> {
    let target = shape.to_ints()?.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
    let shape = broadcast_shape(&x.shape(), &target)?;
    expanded(x, &shape, context)
}

/// The value repeated along its dimensions of 1 up to `shape`, which it must broadcast to.
pub(super) fn expanded(x: Value, shape: &[usize], context: &Context) -> Result<Value, OpError> {
    let x = with_rank(x, shape.len(), context)?;
    if x.shape() == shape {
        return Ok(x);
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

/// Pads are an attribute before opset 11 and an input from then on.
fn pad(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let attribute = node.ints("pads").filter(|_| opset < 11).map(<[i64]>::to_vec);
    let fill = node.float("value", 0.0);
    let mode = node.string("mode").unwrap_or("constant").to_owned();
    if !matches!(mode.as_str(), "constant" | "reflect" | "edge") {
        return Err(OpError::new(format!("mode {mode:?} is not supported")));
    }
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let pads = match &attribute {
            Some(pads) => pads.clone(),
            None => inputs.take(1)?.to_ints()?,
        };
        let fill = match inputs.optional(2) {
            Some(value) => value.to_floats()?.first().copied().unwrap_or(fill),
            None => fill,
        };
        let rank = x.rank();
        let axes = match inputs.optional(3) {
            Some(axes) => axes.to_ints()?.into_iter().map(|axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(OpError::new(format!(
                "{} pads for {} dimensions; two for each are needed",
                pads.len(),
                axes.len()
            )));
        }
        let mut padding = vec![(0, 0); rank];
        for (index, &axis) in axes.iter().enumerate() {
            padding[axis] = (size_of(pads[index])?, size_of(pads[axes.len() + index])?);
        }
        let mode = match mode.as_str() {
            "reflect" => PadMode::Reflect,
            "edge" => PadMode::Edge,
            _ => PadMode::Constant(fill),
        };
        Ok(Value::float(B::float_pad(x.into_float(context)?, &padding, mode)))
    })
}
