//! Sequences of tensors and optionals.

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::layout::concatenated;
use super::slice::narrowed;
use super::{BoxOp, Builder, OpError, axis_of, reshaped, size_of, within};
use crate::burn::{Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "SequenceConstruct" => |_, _| within(|_, mut inputs| Ok(vec![construct(inputs.all())?])),
        "SequenceEmpty" => empty,
        "SequenceAt" => |_, _| {
            within(|_, mut inputs| {
                let mut values = inputs.take(0)?.into_sequence()?;
                let index = position(&inputs.take(1)?, values.len(), values.len())?;
                Ok(vec![values.swap_remove(index)])
            })
        },
        "SequenceInsert" => |_, _| {
            within(|_, mut inputs| {
                let (mut values, value) = (inputs.take(0)?.into_sequence()?, inputs.take(1)?);
                let end = values.len();
                let index = match inputs.optional(2) {
                    Some(index) => position(&index, end, end + 1)?,
                    None => end,
                };
                values.insert(index, value);
                Ok(vec![construct(values)?])
            })
        },
        "SequenceErase" => |_, _| {
            within(|_, mut inputs| {
                let sequence = inputs.take(0)?;
                let dtype = sequence.dtype();
                let mut values = sequence.into_sequence()?;
                let end = values.len();
                let index = match inputs.optional(1) {
                    Some(index) => position(&index, end, end)?,
                    None => end.checked_sub(1).ok_or_else(|| OpError::new("there is nothing to erase"))?,
                };
                values.remove(index);
                Ok(vec![Value::sequence(values, dtype)])
            })
        },
        "SequenceLength" => |_, _| {
            within(|_, mut inputs| {
                let length = inputs.take(0)?.into_sequence()?.len();
                Ok(vec![Value::host(Tensor::scalar(length as i64))])
            })
        },
        "SplitToSequence" => split,
        "ConcatFromSequence" => concat,
        "Optional" => |_, _| within(|_, mut inputs| Ok(vec![inputs.optional(0).unwrap_or_else(Value::nothing)])),
        "OptionalHasElement" => |_, _| {
            within(|_, mut inputs| {
                let there = inputs.optional(0).is_some_and(|value| !value.is_nothing());
                Ok(vec![Value::host(Tensor::bools(&[], &[there])?)])
            })
        },
        "OptionalGetElement" => |_, _| {
            within(|_, mut inputs| match inputs.take(0)? {
                value if value.is_nothing() => Err(OpError::new("its optional is empty")),
                value => Ok(vec![value]),
            })
        },
        _ => return None,
    })
}

fn construct(values: Vec<Value>) -> Result<Value, OpError> {
    let first = values.first().ok_or_else(|| OpError::new("it has no inputs"))?;
    let dtype = first.dtype();
    match values.iter().find(|value| value.dtype() != dtype || value.is_sequence()) {
        None => Ok(Value::sequence(values, dtype)),
        Some(other) => Err(OpError::new(format!("{} does not go into a sequence of {dtype}", other.dtype()))),
    }
}

fn empty(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let code = node.int("dtype", i64::from(DType::F32.onnx_code()));
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    let dtype = dtype.ok_or_else(|| OpError::new(format!("a sequence of ONNX type {code} is not supported")))?;
    within(move |_, _| Ok(vec![Value::sequence(Vec::new(), dtype)]))
}

/// An index, counted from the end where it is negative, that must be below `limit`.
fn position(index: &Value, length: usize, limit: usize) -> Result<usize, OpError> {
    let index = index.to_ints()?.first().copied().ok_or_else(|| OpError::new("its position is missing"))?;
    let counted = if index < 0 { index + length as i64 } else { index };
    match usize::try_from(counted) {
        Ok(position) if position < limit => Ok(position),
        _ => Err(OpError::new(format!("position {index} is outside a sequence of {length}"))),
    }
}

/// Without sizes every part is 1 wide and, unless told otherwise, keeps that dimension; one size is that of all but the last.
fn split(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (axis, keep) = (node.int("axis", 0), node.int("keepdims", 1) != 0);
    within(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let dtype = x.dtype();
        let shape = x.shape();
        let axis = axis_of(axis, shape.len())?;
        let sizes = match inputs.optional(1) {
            None if !keep => return Ok(vec![Value::sequence(unstacked(&x, axis, context)?, dtype)]),
            None => vec![1; shape[axis]],
            Some(sizes) if sizes.rank() == 0 => chunks(shape[axis], size_of(sizes.to_ints()?[0])?)?,
            Some(sizes) => sizes.to_ints()?.into_iter().map(size_of).collect::<Result<_, _>>()?,
        };
        if sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size)) != Some(shape[axis]) {
            return Err(OpError::new(format!("dimension {axis} of {shape:?} does not split into {sizes:?}")));
        }
        let mut start = 0;
        let parts = sizes.into_iter().map(|size| {
            start += size;
            narrowed(x.clone(), axis, start - size, size, context)
        });
        Ok(vec![Value::sequence(parts.collect::<Result<_, _>>()?, dtype)])
    })
}

fn chunks(length: usize, size: usize) -> Result<Vec<usize>, OpError> {
    if size == 0 {
        return Err(OpError::new("parts of size 0 never end"));
    }
    Ok((0..length).step_by(size).map(|start| size.min(length - start)).collect())
}

fn concat(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (axis, new_axis) = (node.int("axis", 0), node.int("new_axis", 0) != 0);
    within(move |context, mut inputs| {
        let values = inputs.take(0)?.into_sequence()?;
        let first = values.first().ok_or_else(|| OpError::new("there is nothing to concatenate"))?;
        let axis = axis_of(axis, first.rank() + usize::from(new_axis))?;
        let joined = if new_axis { stacked(values, axis, context) } else { concatenated(values, axis as i64, context) };
        Ok(vec![joined?])
    })
}

/// The slices of `value` along `axis`, which they lose.
pub(super) fn unstacked(value: &Value, axis: usize, context: &Context) -> Result<Vec<Value>, OpError> {
    // Floats are cut where they are computed with: once there, not part by part.
    let value = if value.is_float() { value.clone().into_device(context)? } else { value.clone() };
    let mut rest = value.shape();
    let count = rest.remove(axis);
    (0..count).map(|index| reshaped(narrowed(value.clone(), axis, index, 1, context)?, &rest, context)).collect()
}

/// The values along a new axis.
pub(super) fn stacked(values: Vec<Value>, axis: usize, context: &Context) -> Result<Value, OpError> {
    let widened = values.into_iter().map(|value| {
        let mut shape = value.shape();
        shape.insert(axis.min(shape.len()), 1);
        reshaped(value, &shape, context)
    });
    concatenated(widened.collect::<Result<_, _>>()?, axis as i64, context)
}
