//! Reductions along dimensions.
//!
//! Every one is brought into the form `[outer, reduced, inner]` and computed along the middle dimension, once.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType as BurnType, Scalar, Shape, Slice, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::convert::numbers;
use super::exact::{Integer, host_elements, room_for, tensor, with_integers};
use super::host::hosted;
use super::unary::in_single;
use super::{BoxOp, Builder, OpError, axis_of, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "ReduceSum" => |node, opset| reduction(node, opset >= 13, Kind::Sum),
        "ReduceMean" => |node, opset| reduction(node, opset >= 18, Kind::Mean),
        "ReduceProd" => |node, opset| reduction(node, opset >= 18, Kind::Prod),
        "ReduceMax" => |node, opset| reduction(node, opset >= 18, Kind::Max),
        "ReduceMin" => |node, opset| reduction(node, opset >= 18, Kind::Min),
        "ReduceL1" => |node, opset| reduction(node, opset >= 18, Kind::L1),
        "ReduceL2" => |node, opset| reduction(node, opset >= 18, Kind::L2),
        "ReduceSumSquare" => |node, opset| reduction(node, opset >= 18, Kind::SumSquare),
        "ReduceLogSum" => |node, opset| reduction(node, opset >= 18, Kind::LogSum),
        "ReduceLogSumExp" => |node, opset| reduction(node, opset >= 18, Kind::LogSumExp),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Mean,
    Prod,
    Max,
    Min,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// Axes are an attribute in older opsets and an input in newer ones; none means all, or no reduction at all where the
/// node says `noop_with_empty_axes`.
fn reduction(node: &Node, axes_as_input: bool, kind: Kind) -> Result<BoxOp, OpError> {
    let axes = node.ints("axes").map(<[i64]>::to_vec);
    let keep = node.int("keepdims", 1) != 0;
    let noop = node.int("noop_with_empty_axes", 0) != 0;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let given =
            if axes_as_input { inputs.optional(1).map(|axes| axes.to_ints()).transpose()? } else { axes.clone() };
        let shape = x.shape();
        let axes = match given.filter(|axes| !axes.is_empty()) {
            Some(axes) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Result<Vec<_>, _>>()?,
            // Each element is then reduced by itself, so that functions like the norm still apply.
            None if noop => Vec::new(),
            None => (0..shape.len()).collect(),
        };
        let reduced: Vec<bool> = (0..shape.len()).map(|axis| axes.contains(&axis)).collect();
        let y = run(kind, x, &reduced, context)?;
        let sizes = shape.iter().zip(&reduced);
        let out: Vec<usize> = if keep {
            sizes.map(|(&size, &reduced)| if reduced { 1 } else { size }).collect()
        } else {
            sizes.filter(|(_, reduced)| !**reduced).map(|(&size, _)| size).collect()
        };
        reshaped(y, &out, context)
    })
}

fn run(kind: Kind, x: Value, reduced: &[bool], context: &Context) -> Result<Value, OpError> {
    let dtype = x.dtype();
    let [outer, middle, inner] = blocks(&x.shape(), reduced);
    if middle == 0 && dtype.is_float() {
        let identity = vec![kind.of_nothing(); outer * inner];
        return numbers(&[outer, inner], &identity, dtype);
    }
    if outer * inner == 0 {
        return Ok(Value::host(Tensor::zeros(dtype, vec![outer, inner])?));
    }
    let x = reshaped(grouped(x, reduced, context)?, &[outer, middle, inner], context)?;
    if dtype.is_float() {
        let sum = if context.is_gpu() { B::float_sum_dim } else { sum_in_fours };
        return Ok(Value::float(kind.of_floats(x.into_float(context)?, sum)));
    }
    kind.of_integers(x, [outer, middle, inner])
}

/// The sizes before, of and behind the reduced dimensions, once they are [`grouped`].
fn blocks(shape: &[usize], reduced: &[bool]) -> [usize; 3] {
    let middle = shape.iter().zip(reduced).filter(|(_, reduced)| **reduced).map(|(size, _)| size).product();
    let kept = |axes: std::ops::Range<usize>| axes.filter(|&axis| !reduced[axis]).map(|axis| shape[axis]).product();
    match neighbours(reduced) {
        Some(first) => [kept(0..first), middle, kept(first..shape.len())],
        None => [kept(0..shape.len()), middle, 1],
    }
}

/// The first reduced dimension, where the reduced ones are neighbours: then nothing has to be moved.
fn neighbours(reduced: &[bool]) -> Option<usize> {
    let first = reduced.iter().position(|&reduced| reduced).unwrap_or(reduced.len());
    let count = reduced[first..].iter().take_while(|&&reduced| reduced).count();
    (!reduced[first + count..].contains(&true)).then_some(first)
}

/// The tensor with its reduced dimensions next to each other: as it is where they are, behind the others where not.
fn grouped(x: Value, reduced: &[bool], context: &Context) -> Result<Value, OpError> {
    if neighbours(reduced).is_some() {
        return Ok(x);
    }
    let order = |wanted: bool| (0..reduced.len()).filter(move |&axis| reduced[axis] == wanted);
    let order: Vec<usize> = order(false).chain(order(true)).collect();
    super::layout::permuted(x, &order, context)
}

impl Kind {
    /// The reduction of no elements.
    fn of_nothing(self) -> f64 {
        match self {
            Kind::Sum | Kind::L1 | Kind::L2 | Kind::SumSquare => 0.0,
            Kind::Prod => 1.0,
            Kind::Mean => f64::NAN,
            Kind::Max | Kind::LogSum | Kind::LogSumExp => f64::NEG_INFINITY,
            Kind::Min => f64::INFINITY,
        }
    }

    /// Reduces the middle dimension of three; `sum` adds along one.
    fn of_floats(self, x: Primitive, sum: fn(Primitive, usize) -> Primitive) -> Primitive {
        let squares = |x: Primitive| B::float_sum_dim(B::float_mul(x.clone(), x), 1);
        match self {
            // The sum of a mean of halves may be larger than any half.
            Kind::Sum => in_single(x, |x| sum(x, 1)),
            Kind::Mean => {
                let count = x.shape()[1] as f64;
                in_single(x, |x| B::float_div_scalar(sum(x, 1), Scalar::Float(count)))
            }
            Kind::Prod => B::float_prod_dim(x, 1),
            Kind::Max => B::float_max_dim(x, 1),
            Kind::Min => B::float_min_dim(x, 1),
            Kind::L1 => in_single(x, |x| B::float_sum_dim(B::float_abs(x), 1)),
            Kind::L2 => in_single(x, |x| B::float_sqrt(squares(x))),
            Kind::SumSquare => in_single(x, squares),
            Kind::LogSum => in_single(x, |x| B::float_log(B::float_sum_dim(x, 1))),
            Kind::LogSumExp => in_single(x, log_sum_exp),
        }
    }

    fn of_integers(self, x: Value, [outer, middle, inner]: [usize; 3]) -> Result<Value, OpError> {
        if x.dtype() == DType::Bool {
            return self.of_booleans(x, [outer, middle, inner]);
        }
        let x = host_elements(x)?;
        with_integers!(x.dtype(), T => {
            let values = x.to_vec::<T>()?;
            let mut reduced = room_for(&[outer, inner])?;
            for row in 0..outer * inner {
                let start = row / inner * middle * inner + row % inner;
                reduced.push(self.of_row((0..middle).map(|position| values[start + position * inner])));
            }
            tensor::<T>(&[outer, inner], &reduced)
        })
    }

    /// ONNX has no other reductions of booleans.
    fn of_booleans(self, x: Value, blocks: [usize; 3]) -> Result<Value, OpError> {
        if !matches!(self, Kind::Max | Kind::Min) {
            return Err(OpError::new("it is not defined on BOOL"));
        }
        let bytes = hosted(self.of_integers(Value::host(host_elements(x)?), blocks)?)?;
        let shape = bytes.shape().to_vec();
        // The least of no bytes is 255, which is true as well.
        let bools = bytes.into_bytes().iter().map(|&byte| u8::from(byte != 0)).collect();
        super::exact::bool_tensor(shape, bools)
    }

    /// Sums wrap around; means and roots are cut off to integers.
    fn of_row<T: Integer>(self, row: impl Iterator<Item = T>) -> T {
        let real = |value: f64| T::wrapped(value as i128);
        let row = row.map(T::wide);
        match self {
            Kind::Sum => T::wrapped(row.sum()),
            Kind::L1 => T::wrapped(row.map(i128::abs).sum()),
            Kind::SumSquare => T::wrapped(row.map(|value| value.wrapping_mul(value)).fold(0, i128::wrapping_add)),
            Kind::Prod => row.fold(T::wrapped(1), |product, value| T::wrapped(product.wide().wrapping_mul(value))),
            Kind::Mean => {
                let (sum, count) = row.fold((0, 0), |(sum, count), value| (sum + value, count + 1));
                T::wrapped(if count == 0 { 0 } else { sum / count })
            }
            Kind::Max => row.max().map_or_else(T::smallest, T::wrapped),
            Kind::Min => row.min().map_or_else(T::largest, T::wrapped),
            Kind::L2 => real(row.map(|value| (value as f64).powi(2)).sum::<f64>().sqrt()),
            Kind::LogSum => real((row.sum::<i128>() as f64).ln()),
            Kind::LogSumExp => {
                let values: Vec<f64> = row.map(|value| value as f64).collect();
                let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                real(most + values.iter().map(|value| (value - most).exp()).sum::<f64>().ln())
            }
        }
    }
}

/// The sum along dimension `axis`, the second of three, as onnxruntime's matrix kernel adds: four rows, then these sums one
/// after the other. The order is as good as any other, but a variance by E[x^2] - E[x]^2 turns the last bits of two sums
/// into a factor of what follows (Magika's first normalization does), and then another order is another answer.
fn sum_in_fours(x: Primitive, axis: usize) -> Primitive {
    const ROWS: usize = 4;
    let shape = x.shape();
    let (outer, middle, inner) = (shape[0], shape[1], shape[2]);
    if outer == 1 || inner == 1 || middle <= ROWS {
        return B::float_sum_dim(x, axis);
    }
    let head = middle / ROWS * ROWS;
    let rows = |from: usize, to: usize| {
        let whole = Slice::full();
        B::float_slice(x.clone(), &[whole, Slice::from(from..to), whole])
    };
    let blocks = B::float_reshape(rows(0, head), Shape::from(vec![outer, head / ROWS, ROWS, inner]));
    let sums = B::float_reshape(B::float_sum_dim(blocks, 2), Shape::from(vec![outer, head / ROWS, inner]));
    let sums = if head == middle { sums } else { B::float_cat(vec![sums, rows(head, middle)], 1) };
    B::float_sum_dim(sums, axis)
}

/// Shifted by the largest element, so that nothing overflows; the shift is kept finite, for infinities among the
/// elements must not cancel out.
fn log_sum_exp(x: Primitive) -> Primitive {
    let limit = if x.dtype() == BurnType::F64 { f64::MAX } else { f64::from(f32::MAX) };
    let most = B::float_max_dim(B::float_detach(x.clone()), 1);
    let most = B::float_clamp(most, Scalar::Float(-limit), Scalar::Float(limit));
    B::float_add(B::float_log(B::float_sum_dim(B::float_exp(B::float_sub(x, most.clone())), 1)), most)
}
