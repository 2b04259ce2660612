//! Normalizations of transformers, with what is added before them.

use burn_backend::Scalar;
use burn_backend::ops::FloatTensorOps;
use burn_backend::{FloatDType, TensorMetadata};
use hedge_graph::{Attribute, Node};
use hedge_tensor::{DType, Tensor};

use super::super::{BoxOp, Builder, OpError, axis_of, many, one, reshaped};
use super::{Part, check_outputs, sum};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "SkipLayerNormalization" => skip_layer,
        "SkipSimplifiedLayerNormalization" => skip_simplified,
        "SimplifiedLayerNormalization" => simplified,
        "EmbedLayerNormalization" => embed,
        _ => return None,
    })
}

fn layer(node: &Node, opset: i64) -> Result<Part, OpError> {
    let epsilon = node.float("epsilon", 1e-12);
    Part::new("LayerNormalization", &[("axis", Attribute::Int(-1)), ("epsilon", epsilon.into())], opset)
}

fn skip_layer(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    check_outputs(node, 1..3)?;
    let layer = layer(node, opset)?;
    many(move |context, mut inputs| {
        let x = sum(inputs.take(0)?, Some(inputs.take(1)?), context)?;
        let (gamma, beta) = (inputs.take(2)?, inputs.optional(3));
        let x = sum(x, inputs.optional(4), context)?;
        let y = layer.run(vec![Some(x.clone()), Some(gamma), beta], context)?;
        Ok(vec![y, x.clone(), x.clone(), x])
    })
}

fn skip_simplified(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    check_outputs(node, 1..3)?;
    let epsilon = f64::from(node.float("epsilon", 1e-12));
    many(move |context, mut inputs| {
        let x = sum(inputs.take(0)?, Some(inputs.take(1)?), context)?;
        let gamma = inputs.take(2)?;
        let x = sum(x, inputs.optional(3), context)?;
        let y = root_mean_square(x.clone(), gamma, -1, epsilon, context)?;
        Ok(vec![y, x.clone(), x.clone(), x])
    })
}

fn simplified(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    check_outputs(node, 1..2)?;
    let (axis, epsilon) = (node.int("axis", -1), f64::from(node.float("epsilon", 1e-5)));
    one(move |context, mut inputs| root_mean_square(inputs.take(0)?, inputs.take(1)?, axis, epsilon, context))
}

/// `x` over the root of its mean square, computed in at least 32 bits.
fn root_mean_square(x: Value, gamma: Value, axis: i64, epsilon: f64, context: &Context) -> Result<Value, OpError> {
    let shape = x.shape();
    let axis = axis_of(axis, shape.len())?;
    let rows = [shape[..axis].iter().product(), shape[axis..].iter().product()];
    if gamma.shape().iter().product::<usize>() != rows[1] {
        return Err(OpError::new(format!("a scale of shape {:?} does not fit {shape:?}", gamma.shape())));
    }
    let gamma = reshaped(gamma, &[1, rows[1]], context)?.into_float(context)?;
    let x = reshaped(x, &rows, context)?.into_float(context)?;
    let halves = x.dtype() == burn_backend::DType::F16;
    let wide = if halves { B::float_cast(x, FloatDType::F32) } else { x };
    let square = B::float_mean_dim(B::float_mul(wide.clone(), wide.clone()), 1);
    let y = B::float_div(wide, B::float_sqrt(B::float_add_scalar(square, Scalar::Float(epsilon))));
    let y = if halves { B::float_cast(y, FloatDType::F16) } else { y };
    reshaped(Value::float(B::float_mul(y, gamma)), &shape, context)
}

/// Words, positions and segments looked up, added and normalized.
fn embed(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let layer = layer(node, opset)?;
    let gather = Part::new("Gather", &[("axis", Attribute::Int(0))], opset)?;
    many(move |context, mut inputs| {
        let (ids, segments) = (inputs.take(0)?, inputs.optional(1));
        let (words, positions, table) = (inputs.take(2)?, inputs.take(3)?, inputs.optional(4));
        let (gamma, beta) = (inputs.take(5)?, inputs.take(6)?);
        let &[batch, length] = ids.shape().as_slice() else {
            return Err(OpError::new(format!("its ids have shape {:?}, but must be sequences", ids.shape())));
        };
        let places = match inputs.optional(8) {
            Some(places) => places,
            None => Value::host(Tensor::from_slice(&[1, length], &(0..length as i64).collect::<Vec<_>>())?),
        };
        let lookup = |table: Value, ids: Value| gather.run(vec![Some(table), Some(ids)], context);
        let mut x = sum(lookup(words, ids)?, Some(lookup(positions, places)?), context)?;
        if let (Some(table), Some(segments)) = (table, segments) {
            x = sum(x, Some(lookup(table, segments)?), context)?;
        }
        let y = layer.run(vec![Some(x.clone()), Some(gamma), Some(beta)], context)?;
        let lengths = match inputs.optional(7) {
            Some(mask) if mask.dtype() != DType::Bool => mask
                .to_ints()?
                .chunks(length.max(1))
                .map(|row| row.iter().filter(|&&kept| kept != 0).count() as i32)
                .collect(),
            _ => vec![0; batch],
        };
        Ok(vec![y, Value::host(Tensor::from_slice(&[batch], &lengths)?), x])
    })
}
