//! Normalizations, in inference mode.

use burn_backend::Scalar;
use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;

use super::{BoxOp, Builder, OpError, aligned, axis_of, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "BatchNormalization" => Some(batch),
        "LayerNormalization" => Some(layer),
        _ => None,
    }
}

fn batch(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    if node.int("training_mode", 0) != 0 {
        return Err(OpError::new("training_mode is not supported; export the model for inference"));
    }
    let epsilon = f64::from(node.float("epsilon", 1e-5));
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let channels = *shape.get(1).ok_or_else(|| OpError::new("its input has no channels"))?;
        let mut column = vec![1; shape.len()];
        column[1] = channels;
        let mut parameter = |index: usize| -> Result<Primitive, OpError> {
            reshaped(inputs.take(index)?, &column, context)?.into_float(context)
        };
        let (scale, bias, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let deviation = B::float_sqrt(B::float_add_scalar(variance, Scalar::Float(epsilon)));
        let factor = B::float_div(scale, deviation);
        let offset = B::float_sub(bias, B::float_mul(mean, factor.clone()));
        Ok(Value::float(B::float_add(B::float_mul(x.into_float(context)?, factor), offset)))
    })
}

fn layer(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", -1);
    let epsilon = f64::from(node.float("epsilon", 1e-5));
    if node.outputs.iter().skip(1).any(|output| !output.is_empty()) {
        return Err(OpError::new("its mean and deviation outputs are not supported; remove them"));
    }
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape();
        let axis = axis_of(axis, shape.len())?;
        let rows = [shape[..axis].iter().product(), shape[axis..].iter().product()];
        let x = reshaped(x, &rows, context)?.into_float(context)?;
        let y = reshaped(Value::float(standardized(x, epsilon)), &shape, context)?;
        let y = affine(y, inputs.take(1)?, context, B::float_mul)?;
        match inputs.optional(2) {
            Some(bias) => affine(y, bias, context, B::float_add),
            None => Ok(y),
        }
    })
}

fn affine(
    x: Value,
    parameter: Value,
    context: &Context,
    f: fn(Primitive, Primitive) -> Primitive,
) -> Result<Value, OpError> {
    let (x, parameter) = aligned(x, parameter, context)?;
    Ok(Value::float(f(x.into_float(context)?, parameter.into_float(context)?)))
}

/// Each row of a matrix with mean 0 and variance 1.
fn standardized(x: Primitive, epsilon: f64) -> Primitive {
    let centered = B::float_sub(x.clone(), B::float_mean_dim(x, 1));
    let variance = B::float_mean_dim(B::float_mul(centered.clone(), centered.clone()), 1);
    B::float_div(centered, B::float_sqrt(B::float_add_scalar(variance, Scalar::Float(epsilon))))
}
