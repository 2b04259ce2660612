//! Reductions along dimensions.

use burn_backend::ops::{FloatTensorOps, IntTensorOps};
use burn_backend::{IntDType, Scalar};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::{BoxOp, Builder, OpError, axis_of, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "ReduceMean" => |node, opset| reduction(node, opset >= 18, B::float_mean_dim, None),
        "ReduceSum" => |node, opset| reduction(node, opset >= 13, B::float_sum_dim, Some(B::int_sum_dim)),
        "ReduceProd" => |node, opset| reduction(node, opset >= 18, B::float_prod_dim, Some(B::int_prod_dim)),
        "ReduceMax" => |node, opset| reduction(node, opset >= 18, B::float_max_dim, Some(B::int_max_dim)),
        "ReduceMin" => |node, opset| reduction(node, opset >= 18, B::float_min_dim, Some(B::int_min_dim)),
        "ArgMax" => |node, _| arg(node, B::float_argmax),
        "ArgMin" => |node, _| arg(node, B::float_argmin),
        "ReduceL2" => |node, opset| {
            reduction(node, opset >= 18, |x, axis| B::float_sqrt(B::float_sum_dim(squared(x), axis)), None)
        },
        "ReduceSumSquare" => {
            |node, opset| reduction(node, opset >= 18, |x, axis| B::float_sum_dim(squared(x), axis), None)
        }
        _ => return None,
    })
}

type Along = fn(Primitive, usize) -> Primitive;

fn squared(x: Primitive) -> Primitive {
    B::float_powf_scalar(x, Scalar::Float(2.0))
}

/// Axes are an attribute in older opsets and an input in newer ones; none means all, or nothing at all where the node
/// says `noop_with_empty_axes`.
fn reduction(node: &Node, axes_as_input: bool, float: Along, int: Option<Along>) -> Result<BoxOp, OpError> {
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
            None if noop => return Ok(x),
            None => (0..shape.len()).collect(),
        };
        // The axes are made one, so that functions which do not compose (the L2 norm) are applied once.
        let kept: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
        let rows: usize = kept.iter().map(|&axis| shape[axis]).product();
        let reduced: usize = axes.iter().map(|&axis| shape[axis]).product();
        let order: Vec<usize> = kept.iter().chain(&axes).copied().collect();
        let matrix = reshaped(super::layout::permuted(x, &order, context)?, &[rows, reduced], context)?;
        let y = along(matrix, float, int, context)?;
        let out: Vec<usize> = if keep {
            (0..shape.len()).map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect()
        } else {
            kept.iter().map(|&axis| shape[axis]).collect()
        };
        reshaped(y, &out, context)
    })
}

fn along(x: Value, float: Along, int: Option<Along>, context: &Context) -> Result<Value, OpError> {
    if x.is_float() {
        return Ok(Value::float(float(x.into_float(context)?, 1)));
    }
    let dtype = x.dtype();
    let int = int.ok_or_else(|| OpError::new(format!("it is not supported on {dtype}")))?;
    Ok(Value::int(int(x.into_int(context)?, 1), dtype))
}

fn arg(node: &Node, f: fn(Primitive, usize, IntDType) -> Primitive) -> Result<BoxOp, OpError> {
    if node.int("select_last_index", 0) != 0 {
        return Err(OpError::new("select_last_index is not supported"));
    }
    let (axis, keep) = (node.int("axis", 0), node.int("keepdims", 1) != 0);
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let axis = axis_of(axis, shape.len())?;
        let y = Value::int(f(x.into_float(context)?, axis, context.int), DType::I64);
        let mut out = shape;
        if keep {
            out[axis] = 1;
        } else {
            out.remove(axis);
        }
        reshaped(y, &out, context)
    })
}
