//! Pad: more, or fewer, elements at the ends of dimensions.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{Scalar, Shape, Slice, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::host::{self, hosted, room, zeros};
use super::index::picked;
use super::movement::{Reach, moved, moves_on_host};
use super::number::Number;
use super::slice::{Span, sliced};
use super::{BoxOp, Builder, Inputs, OpError, axis_of, one};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "Pad" => Some(pad),
        _ => None,
    }
}

/// What stands outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One value.
    Constant,
    /// The nearest element.
    Edge,
    /// The tensor mirrored at its last element, which is not repeated.
    Reflect,
    /// The tensor again.
    Wrap,
}

impl Mode {
    fn of(node: &Node) -> Result<Self, OpError> {
        match node.string("mode").unwrap_or("constant") {
            "constant" => Ok(Mode::Constant),
            "edge" => Ok(Mode::Edge),
            "reflect" => Ok(Mode::Reflect),
            "wrap" => Ok(Mode::Wrap),
            mode => Err(OpError::new(format!("mode {mode:?} is not supported"))),
        }
    }

    /// Which of `size` elements stands at `position`, counted from the first; `None` is the constant.
    fn source(self, position: i64, size: usize) -> Option<usize> {
        let size = size as i64;
        let source = match self {
            Mode::Constant => position,
            Mode::Edge => position.clamp(0, size - 1),
            Mode::Reflect if size == 1 => 0,
            Mode::Reflect => {
                let period = 2 * (size - 1);
                let at = position.rem_euclid(period);
                at.min(period - at)
            }
            Mode::Wrap => position.rem_euclid(size),
        };
        (0..size).contains(&source).then_some(source as usize)
    }
}

/// How many elements are added before and after a dimension; both 0 for most.
type Ends = Vec<(usize, usize)>;

/// Pads and value are attributes before opset 11 and inputs from then on.
fn pad(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let attribute = node.ints("pads").filter(|_| opset < 11).map(<[i64]>::to_vec);
    let value = Tensor::scalar(node.float("value", 0.0));
    let mode = Mode::of(node)?;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let pads = match &attribute {
            Some(pads) => pads.clone(),
            None => inputs.take(1)?.to_ints()?,
        };
        let fill = match inputs.optional(2) {
            Some(value) => Some(hosted(value)?).filter(|value| !value.is_empty()),
            None => None,
        };
        let fill = fill.as_ref().unwrap_or(&value);
        let axes = chosen_axes(&mut inputs, x.rank())?;
        let (x, ends) = cropped(x, &pads, &axes, context)?;
        let padded = padded_shape(&x, &ends, mode)?;
        if padded.contains(&0) {
            return Ok(Value::host(zeros(x.dtype(), &padded)?));
        }
        if ends.iter().all(|&(before, after)| before == 0 && after == 0) {
            return Ok(x);
        }
        if moves_on_host(&x, context) || !x.is_float() {
            return on_host(x, &ends, mode, fill);
        }
        if mode == Mode::Constant {
            return framed(x, &ends, fill, context);
        }
        repeated_outside(x, &ends, mode, context)
    })
}

fn chosen_axes(inputs: &mut Inputs, rank: usize) -> Result<Vec<usize>, OpError> {
    let Some(axes) = inputs.optional(3) else { return Ok((0..rank).collect()) };
    let axes = axes.to_ints()?.into_iter().map(|axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = axes.clone();
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(OpError::new(format!("axes {axes:?} name one twice")));
    }
    Ok(axes)
}

/// The value without what negative pads remove, and what is added then.
fn cropped(x: Value, pads: &[i64], axes: &[usize], context: &Context) -> Result<(Value, Ends), OpError> {
    if pads.len() != 2 * axes.len() {
        let (given, axes) = (pads.len(), axes.len());
        return Err(OpError::new(format!("{given} pads for {axes} dimensions; two for each are needed")));
    }
    let shape = x.shape();
    let mut spans: Vec<Span> = shape.iter().map(|&size| Span::run(0, size)).collect();
    let mut ends = vec![(0, 0); shape.len()];
    for (index, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[index], pads[axes.len() + index]);
        let added = |pad: i64| usize::try_from(pad.max(0)).unwrap_or(usize::MAX);
        let removed = |pad: i64| usize::try_from(pad.min(0).unsigned_abs()).unwrap_or(usize::MAX);
        let kept = shape[axis].checked_sub(removed(before)).and_then(|kept| kept.checked_sub(removed(after)));
        let kept = kept.ok_or_else(|| {
            OpError::new(format!("pads {before} and {after} remove more than dimension {axis} of {shape:?} has"))
        })?;
        spans[axis] = Span::run(removed(before), kept);
        ends[axis] = (added(before), added(after));
    }
    Ok((sliced(x, &spans, context)?, ends))
}

fn padded_shape(x: &Value, ends: &Ends, mode: Mode) -> Result<Vec<usize>, OpError> {
    let shape = x.shape();
    let padded = shape.iter().zip(ends).map(|(&size, &(before, after))| {
        if size == 0 && mode != Mode::Constant && (before > 0 || after > 0) {
            return Err(OpError::new(format!("{shape:?} has nothing to repeat beyond its empty dimension")));
        }
        let padded = size.checked_add(before).and_then(|sum| sum.checked_add(after));
        padded.ok_or_else(|| OpError::new(format!("pads {before} and {after} are too large")))
    });
    let padded = padded.collect::<Result<Vec<_>, _>>()?;
    room(x.dtype(), &padded)?;
    Ok(padded)
}

fn sources(size: usize, (before, after): (usize, usize), mode: Mode) -> impl Iterator<Item = Option<usize>> {
    let first = -(before as i64);
    (first..(size + after) as i64).map(move |position| mode.source(position, size))
}

fn on_host(x: Value, ends: &Ends, mode: Mode, fill: &Tensor) -> Result<Value, OpError> {
    let x = hosted(x)?;
    let fill = element_bytes(fill, x.dtype())?;
    let strides = host::strides(x.shape());
    let axis = |axis: usize| -> Reach {
        let scaled = |index: usize| index * strides[axis];
        sources(x.shape()[axis], ends[axis], mode).map(|source| source.map(scaled)).collect()
    };
    let axes: Vec<Reach> = (0..strides.len()).map(axis).collect();
    Ok(Value::host(moved(&x, &axes, fill)?))
}

/// The first element of `fill`, in type `dtype`.
fn element_bytes(fill: &Tensor, dtype: DType) -> Result<[u8; 8], OpError> {
    let mut element = [0; 8];
    let own = if fill.dtype() == dtype {
        fill.bytes().slice(..dtype.size_bytes())
    } else {
        // The attribute of old opsets is a float whatever the tensor's type.
        let value = first(fill)?;
        host::with_elements!(dtype, T => Tensor::scalar(<T as Number>::from_f64(value)).into_bytes())
    };
    element[..own.len()].copy_from_slice(&own);
    Ok(element)
}

fn first(fill: &Tensor) -> Result<f64, OpError> {
    let values = host::with_elements!(fill.dtype(), T => {
        host::elements::<T>(fill)?.first().map(|value| Number::to_f64(*value))
    });
    values.ok_or_else(|| OpError::new("its constant value is empty"))
}

/// The value in a frame of one number.
fn framed(x: Value, ends: &Ends, fill: &Tensor, context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    let outer: Vec<usize> = shape.iter().zip(ends).map(|(size, (before, after))| size + before + after).collect();
    let inner: Vec<Slice> = shape
        .iter()
        .zip(ends)
        .map(|(&size, &(before, _))| Slice::new(before as isize, Some((before + size) as isize), 1))
        .collect();
    let x = x.into_float(context)?;
    let frame = B::float_full(Shape::from(outer), Scalar::Float(first(fill)?), &context.device, x.dtype().into());
    Ok(Value::float(B::float_slice_assign(frame, &inner, x)))
}

/// Each padded dimension picked anew, so that gradients of elements that stand in several places add up.
fn repeated_outside(x: Value, ends: &Ends, mode: Mode, context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    ends.iter().enumerate().filter(|(_, ends)| **ends != (0, 0)).try_fold(x, |x, (axis, &ends)| {
        let indices = sources(shape[axis], ends, mode).flatten().collect();
        picked(x, axis, indices, context)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(mode: Mode, size: usize) -> Vec<usize> {
        sources(size, (4, 4), mode).flatten().collect()
    }

    #[test]
    fn what_stands_outside_goes_on_as_far_as_it_must() {
        assert_eq!(around(Mode::Edge, 3), [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2]);
        assert_eq!(around(Mode::Reflect, 3), [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]);
        assert_eq!(around(Mode::Wrap, 3), [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(around(Mode::Constant, 3), [0, 1, 2]);
        assert_eq!(around(Mode::Reflect, 1), [0; 9]);
    }
}
