//! Operators that order elements: TopK and Unique.

use std::cmp::Ordering;

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::host::{buffer, elements, integers, need, room, single, strides, tensor_of, with_elements, zeros};
use super::movement::{NO_FILL, moved, reaching, untouched, whole};
use super::number::Number;
use super::{BoxOp, Builder, OpError, axis_of, on_host, size_of};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "TopK" => Some(top_k),
        "Unique" => Some(unique),
        _ => None,
    }
}

/// How many is an attribute before opset 10 and an input from then on. The result is in order even where the node does not
/// ask for it.
fn top_k(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", -1);
    let largest = node.int("largest", 1) != 0;
    let attribute = if opset < 10 { Some(size_of(node.int("k", -1))?) } else { None };
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let k = match attribute {
            Some(k) => k,
            None => size_of(single(&integers(need(inputs, 1)?)?, "k")?)?,
        };
        let axis = axis_of(axis, x.shape().len())?;
        if k > x.shape()[axis] {
            return Err(OpError::new(format!("dimension {axis} of {:?} has no {k} elements", x.shape())));
        }
        with_elements!(x.dtype(), T => first_in_order::<T>(x, axis, k, largest))
    })
}

/// The first `k` values along `axis` and where they were; of equal ones, the one in front comes first.
fn first_in_order<T: Number>(x: &Tensor, axis: usize, k: usize, largest: bool) -> Result<Vec<Tensor>, OpError> {
    let mut shape = x.shape().to_vec();
    let (size, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    shape[axis] = k;
    let count = room(DType::I64, &shape)?;
    let source = elements::<T>(x)?;
    let mut values = vec![T::ZERO; count];
    let mut indices = vec![0i64; count];
    let mut order: Vec<usize> = buffer(size)?;
    for lane in 0..if count == 0 { 0 } else { count / k } {
        let (outer, inside) = (lane / inner, lane % inner);
        let at = |step: usize| source[(outer * size + step) * inner + inside];
        let before = |a: &usize, b: &usize| {
            let by_value = at(*a).order(&at(*b));
            (if largest { by_value.reverse() } else { by_value }).then(a.cmp(b))
        };
        order.clear();
        order.extend(0..size);
        if k < size {
            order.select_nth_unstable_by(k, before);
        }
        order[..k].sort_unstable_by(before);
        for (rank, &step) in order[..k].iter().enumerate() {
            let target = (outer * k + rank) * inner + inside;
            values[target] = at(step);
            indices[target] = step as i64;
        }
    }
    Ok(vec![tensor_of(x.dtype(), &shape, &values)?, Tensor::from_slice(&shape, &indices)?])
}

fn unique(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let sorted = node.int("sorted", 1) != 0;
    let axis = node.attributes.contains_key("axis").then(|| node.int("axis", 0));
    on_host(move |inputs| {
        let x = need(inputs, 0)?;
        let (x, axis) = match axis {
            Some(axis) => (x.clone(), axis_of(axis, x.shape().len())?),
            None => (x.clone().reshaped(vec![x.len()])?, 0),
        };
        let groups = with_elements!(x.dtype(), T => Groups::of::<T>(&x, axis, sorted))?;
        let list = |values: &[usize]| {
            let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
            Tensor::from_slice(&[values.len()], &values)
        };
        let (first, inverse, counts) = (list(&groups.first)?, list(&groups.inverse)?, list(&groups.counts)?);
        Ok(vec![chosen(&x, axis, &groups.first)?, first, inverse, counts])
    })
}

/// Slices along an axis, those that are equal together.
struct Groups {
    /// The first slice of each group.
    first: Vec<usize>,
    /// The group of each slice.
    inverse: Vec<usize>,
    /// How many slices each group has.
    counts: Vec<usize>,
}

impl Groups {
    fn of<T: Number>(x: &Tensor, axis: usize, sorted: bool) -> Result<Self, OpError> {
        let count = room(DType::I64, &[x.shape()[axis]])?;
        let rows = rows::<T>(x, axis)?;
        let width = rows.len() / count.max(1);
        let row = |index: usize| &rows[index * width..(index + 1) * width];
        // Equal slices stay in their order, so that the first of a group comes first.
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| compared(row(a), row(b)));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in order {
            match groups.last_mut() {
                Some(group) if compared(row(group[0]), row(index)).is_eq() => group.push(index),
                _ => groups.push(vec![index]),
            }
        }
        if !sorted {
            groups.sort_by_key(|group| group[0]);
        }
        let mut inverse = vec![0; count];
        for (number, group) in groups.iter().enumerate() {
            group.iter().for_each(|&index| inverse[index] = number);
        }
        let first = groups.iter().map(|group| group[0]).collect();
        Ok(Groups { first, inverse, counts: groups.iter().map(Vec::len).collect() })
    }
}

/// These slices along `axis`.
fn chosen(x: &Tensor, axis: usize, slices: &[usize]) -> Result<Tensor, OpError> {
    if x.is_empty() {
        let mut shape = x.shape().to_vec();
        shape[axis] = slices.len();
        return zeros(x.dtype(), &shape);
    }
    let mut axes = untouched(x.shape());
    axes[axis] = reaching(slices.iter().copied(), strides(x.shape())[axis]);
    moved(x, &axes, NO_FILL)
}

/// The slices along `axis`, one after the other.
fn rows<T: Number>(x: &Tensor, axis: usize) -> Result<Vec<T>, OpError> {
    if x.is_empty() {
        return Ok(Vec::new());
    }
    let strides = strides(x.shape());
    let others = (0..strides.len()).filter(|&other| other != axis);
    let axes: Vec<_> = std::iter::once(axis).chain(others).map(|axis| whole(x.shape()[axis], strides[axis])).collect();
    elements(&moved(x, &axes, NO_FILL)?)
}

fn compared<T: Number>(a: &[T], b: &[T]) -> Ordering {
    let differing = a.iter().zip(b).map(|(a, b)| a.order(b)).find(|order| order.is_ne());
    differing.unwrap_or(Ordering::Equal)
}
