//! Conversions between types.

use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn_backend::{FloatDType, Scalar};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::{BoxOp, Builder, OpError, one};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Cast" => cast,
        _ => return None,
    })
}

fn cast(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let code = node.int("to", 0);
    let to = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    let to = to.ok_or_else(|| OpError::new(format!("a cast to ONNX type {code} is not supported")))?;
    one(move |context, mut inputs| converted(inputs.take(0)?, to, context))
}

fn converted(x: Value, to: DType, context: &Context) -> Result<Value, OpError> {
    let from = x.dtype();
    if from == to {
        return Ok(x);
    }
    if to.is_float() {
        return Ok(Value::float(into_float(x, float_type(to), context)?));
    }
    if to == DType::Bool {
        let zero = Scalar::Int(0);
        return Ok(Value::bool(if from.is_float() {
            B::float_not_equal_elem(x.into_float(context)?, Scalar::Float(0.0), context.bool)
        } else {
            B::int_not_equal_elem(x.into_int(context)?, zero, context.bool)
        }));
    }
    let tensor = match from {
        DType::Bool => B::bool_into_int(x.into_bool(context)?, context.int),
        _ if from.is_float() => B::float_into_int(x.into_float(context)?, context.int),
        _ => x.into_int(context)?,
    };
    wrapped(tensor, to)
}

fn into_float(x: Value, to: FloatDType, context: &Context) -> Result<Primitive, OpError> {
    Ok(match x.dtype() {
        DType::Bool => B::bool_into_float(x.into_bool(context)?, to),
        dtype if dtype.is_float() => B::float_cast(x.into_float(context)?, to),
        _ => B::int_into_float(x.into_int(context)?, to),
    })
}

/// An integer narrower than the device's wraps around, as onnxruntime's casts do.
fn wrapped(tensor: Primitive, to: DType) -> Result<Value, OpError> {
    let bits = 8 * to.size_bytes() as u32;
    if bits >= 32 {
        return Ok(Value::int(tensor, to));
    }
    let modulus = 1i64 << bits;
    let signed = matches!(to, DType::I8 | DType::I16);
    let offset = if signed { modulus / 2 } else { 0 };
    let shifted = B::int_remainder_scalar(B::int_add_scalar(tensor, Scalar::Int(offset)), Scalar::Int(modulus));
    Ok(Value::int(B::int_sub_scalar(shifted, Scalar::Int(offset)), to))
}

fn float_type(dtype: DType) -> FloatDType {
    match dtype {
        DType::F16 => FloatDType::F16,
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}
