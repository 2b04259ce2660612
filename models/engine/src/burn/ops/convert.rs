//! Constants, shapes and types.

use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn_backend::{FloatDType, Scalar};
use hedge_graph::{Attribute, Node};
use hedge_tensor::{DType, Tensor};

use super::{BoxOp, Builder, OpError, one, size_of};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Constant" => constant,
        "ConstantOfShape" => constant_of_shape,
        "Shape" => shape,
        "Size" => |_, _| {
            one(|_, mut inputs| {
                let count: usize = inputs.take(0)?.shape().iter().product();
                Ok(Value::host(Tensor::scalar(count as i64)))
            })
        },
        "Cast" => cast,
        _ => return None,
    })
}

fn constant(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (name, value) = node.attributes.iter().next().ok_or_else(|| OpError::new("it has no value"))?;
    let tensor = match value {
        Attribute::Tensor(tensor) => tensor.clone(),
        Attribute::Int(value) => Tensor::scalar(*value),
        Attribute::Float(value) => Tensor::scalar(*value),
        Attribute::Ints(values) => Tensor::from_slice(&[values.len()], values)?,
        Attribute::Floats(values) => Tensor::from_slice(&[values.len()], values)?,
        _ => return Err(OpError::new(format!("a constant by {name:?} is not supported"))),
    };
    one(move |context, _| {
        let value = Value::host(tensor.clone());
        if value.is_float() { value.into_device(context) } else { Ok(value) }
    })
}

fn constant_of_shape(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let value = node.tensor("value").cloned().unwrap_or_else(|| Tensor::scalar(0f32));
    if value.len() != 1 {
        return Err(OpError::new("its value must have one element"));
    }
    one(move |_, mut inputs| {
        let shape = inputs.take(0)?.to_ints()?.into_iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
        let zeros = Tensor::zeros(value.dtype(), shape)?;
        let bytes = value.bytes().repeat(zeros.len());
        Ok(Value::host(Tensor::new(value.dtype(), zeros.shape().to_vec(), bytes.into())?))
    })
}

fn shape(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (start, end) = (node.int("start", 0), node.int("end", i64::MAX));
    one(move |_, mut inputs| {
        let shape: Vec<i64> = inputs.take(0)?.shape().into_iter().map(|size| size as i64).collect();
        let rank = shape.len() as i64;
        let clamp = |bound: i64| (if bound < 0 { bound.saturating_add(rank) } else { bound }).clamp(0, rank) as usize;
        let (start, end) = (clamp(start), clamp(end));
        Ok(Value::ints(shape.get(start..end).unwrap_or_default()))
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
