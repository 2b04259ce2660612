//! Operators that cut tensors: Slice and Split.

use burn_backend::Slice;
use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use hedge_graph::Node;

use super::host::{hosted, zeros};
use super::movement::{NO_FILL, moved, moves_on_host, reaching};
use super::{BoxOp, Builder, OpError, axis_of, by_kind, host, many, one, size_of};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "Slice" => Some(slice),
        "Split" => Some(split),
        _ => None,
    }
}

/// Ends by which models say that they do not know where a dimension ends.
const NO_END: [i64; 2] = [i32::MAX as i64, i64::MAX];

/// What is taken of one dimension: `count` elements from `first` on, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    first: usize,
    count: usize,
    /// Never 0; at most the dimension's size where more than one element is taken.
    step: isize,
}

impl Span {
    /// `count` elements in a row.
    pub(super) fn run(first: usize, count: usize) -> Self {
        Span { first, count, step: 1 }
    }

    /// `start:end:step` of a dimension: bounds count from the end where they are negative and may lie outside. As ONNX has
    /// it, a reversed slice that starts in front of the first element takes that one, where numpy takes none. As
    /// onnxruntime has it, the largest integers mean "as far as it goes" in reversed slices, too.
    fn resolve(size: usize, start: i64, end: i64, step: i64) -> Result<Self, OpError> {
        let size = size as i64;
        let counted = |bound: i64| if bound < 0 { bound.saturating_add(size) } else { bound };
        let (first, count) = match step {
            0 => return Err(OpError::new("a step of 0 slices nothing")),
            1.. => {
                let (first, end) = (counted(start).clamp(0, size), counted(end).clamp(0, size));
                (first, (end - first).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
            _ => {
                let last = (size - 1).max(0);
                let end = if NO_END.contains(&end) { -1 } else { counted(end).clamp(-1, last) };
                let first = counted(start).clamp(0, last);
                (first, (first - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
        };
        let count = if size == 0 { 0 } else { count as usize };
        // A single element needs no step; without it, a step has no more digits than a size.
        let step = if count > 1 { step as isize } else { 1 };
        Ok(Span { first: first as usize, count, step })
    }

    fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |index| self.first.wrapping_add_signed(self.step * index as isize))
    }

    /// In burn's terms, whose reversed slices are a range and a negative step.
    fn to_burn(self) -> Slice {
        let last = self.first.wrapping_add_signed(self.step * (self.count as isize - 1));
        let (low, high) = (self.first.min(last), self.first.max(last));
        Slice::new(low as isize, Some(high as isize + 1), self.step)
    }
}

/// The value cut to one span a dimension.
pub(super) fn sliced(x: Value, spans: &[Span], context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    if spans.iter().zip(&shape).all(|(span, &size)| *span == Span::run(0, size)) {
        return Ok(x);
    }
    let cut: Vec<usize> = spans.iter().map(|span| span.count).collect();
    if cut.contains(&0) {
        return Ok(Value::host(zeros(x.dtype(), &cut)?));
    }
    if moves_on_host(&x, context) {
        let strides = host::strides(&shape);
        let axes: Vec<_> = spans.iter().zip(strides).map(|(span, stride)| reaching(span.indices(), stride)).collect();
        return Ok(Value::host(moved(&hosted(x)?, &axes, NO_FILL)?));
    }
    let slices: Vec<Slice> = spans.iter().map(|span| span.to_burn()).collect();
    by_kind!(
        x,
        context,
        |tensor| B::float_slice(tensor, &slices),
        B::int_slice(tensor, &slices),
        B::bool_slice(tensor, &slices)
    )
}

/// `count` elements of one dimension from `first` on.
pub(super) fn narrowed(x: Value, axis: usize, first: usize, count: usize, context: &Context) -> Result<Value, OpError> {
    let mut spans: Vec<Span> = x.shape().iter().map(|&size| Span::run(0, size)).collect();
    spans[axis] = Span::run(first, count);
    sliced(x, &spans, context)
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
        let mut spans: Vec<Span> = shape.iter().map(|&size| Span::run(0, size)).collect();
        for index in 0..starts.len() {
            let axis = axis_of(axes[index], shape.len())?;
            spans[axis] = Span::resolve(shape[axis], starts[index], ends[index], steps[index])?;
        }
        sliced(x, &spans, context)
    })
}

/// The sizes of the parts are an attribute before opset 13 and an input from then on.
fn split(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    let attribute = node.ints("split").filter(|_| opset < 13).map(<[i64]>::to_vec);
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
        let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        if total != Some(shape[axis]) || sizes.len() != parts {
            return Err(OpError::new(format!(
                "dimension {axis} of {shape:?} does not split into {parts} parts of {sizes:?}"
            )));
        }
        let mut first = 0;
        let mut part = |size: usize| {
            let start = first;
            first += size;
            narrowed(x.clone(), axis, start, size, context)
        };
        sizes.into_iter().map(&mut part).collect()
    })
}

/// As equal as they can be, the last one smaller (opset 18).
fn even_parts(size: usize, parts: usize) -> Vec<usize> {
    let each = size.div_ceil(parts.max(1));
    (0..parts).map(|part| each.min(size.saturating_sub(part * each))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(size: usize, start: i64, end: i64, step: i64) -> Vec<usize> {
        Span::resolve(size, start, end, step).unwrap().indices().collect()
    }

    #[test]
    fn bounds_are_counted_and_clamped() {
        assert_eq!(indices(5, 1, -1, 2), [1, 3]);
        assert_eq!(indices(5, -100, i64::MAX, 1), [0, 1, 2, 3, 4]);
        assert_eq!(indices(5, -1, i64::MIN, -2), [4, 2, 0]);
        assert_eq!(indices(5, 100, 1, -1), [4, 3, 2]);
        assert_eq!(indices(5, 3, 1, 1), [] as [usize; 0]);
        assert_eq!(indices(0, 0, i64::MIN, -1), [] as [usize; 0]);
        assert_eq!(indices(5, -100, i64::MIN, -1), [0]);
        assert_eq!(indices(5, -1, i64::MAX, -2), [4, 2, 0]);
    }

    #[test]
    fn extreme_steps_take_one_element() {
        assert_eq!(indices(5, 2, i64::MAX, i64::MAX), [2]);
        assert_eq!(indices(5, -1, i64::MIN, i64::MIN), [4]);
        assert!(Span::resolve(5, 0, 5, 0).is_err());
    }

    #[test]
    fn a_reversed_span_is_burns_range_from_its_last_element() {
        let span = Span::resolve(6, 5, 0, -2).unwrap();
        assert_eq!(span.indices().collect::<Vec<_>>(), [5, 3, 1]);
        assert_eq!(span.to_burn(), Slice::new(1, Some(6), -2));
    }

    #[test]
    fn uneven_parts_leave_the_last_smaller() {
        assert_eq!(even_parts(7, 4), [2, 2, 2, 1]);
        assert_eq!(even_parts(1, 3), [1, 0, 0]);
    }
}
