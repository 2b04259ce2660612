//! Softmax, its logarithm and its limit, along one dimension or, before opset 13, over everything behind one.

use burn_backend::ops::{ActivationOps, BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn_backend::{Shape, TensorMetadata};
use hedge_graph::Node;

use super::convert::float_type;
use super::unary::in_single;
use super::{BoxOp, Builder, OpError, axis_of, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Softmax" => |node, opset| along_axis(node, opset, |x, axis, _| in_single(x, |x| B::softmax(x, axis))),
        "LogSoftmax" => |node, opset| along_axis(node, opset, |x, axis, _| in_single(x, |x| B::log_softmax(x, axis))),
        "Hardmax" => |node, opset| along_axis(node, opset, hardmax),
        _ => return None,
    })
}

/// Before opset 13 the tensor is seen as a matrix, split at `axis`; from 13 on one dimension is normalized.
fn along_axis(node: &Node, opset: i64, f: fn(Primitive, usize, &Context) -> Primitive) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", if opset < 13 { 1 } else { -1 });
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        if shape.contains(&0) {
            return Ok(x);
        }
        if opset < 13 && axis == shape.len() as i64 {
            // Split behind the last dimension, every row of the matrix is one element.
            let column: Vec<usize> = shape.iter().copied().chain([1]).collect();
            let y = f(reshaped(x, &column, context)?.into_float(context)?, shape.len(), context);
            return reshaped(Value::float(y), &shape, context);
        }
        let axis = axis_of(axis, shape.len())?;
        if opset >= 13 || axis + 1 == shape.len() {
            return Ok(Value::float(f(x.into_float(context)?, axis, context)));
        }
        let matrix = [shape[..axis].iter().product(), shape[axis..].iter().product()];
        let y = f(reshaped(x, &matrix, context)?.into_float(context)?, 1, context);
        reshaped(Value::float(y), &shape, context)
    })
}

/// 1 at the first of the largest elements, 0 elsewhere.
fn hardmax(x: Primitive, axis: usize, context: &Context) -> Primitive {
    let shape = x.shape();
    let mut along = vec![1; shape.len()];
    along[axis] = shape[axis];
    let float = float_type(Value::float(x.clone()).dtype());
    let first = B::int_expand(B::float_argmax(x, axis, context.int), shape.clone());
    let positions = B::int_arange(0..shape[axis] as i64, &context.device, context.int);
    let positions = B::int_expand(B::int_reshape(positions, Shape::from(along)), shape);
    B::bool_into_float(B::int_equal(first, positions, context.bool), float)
}
