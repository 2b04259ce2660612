//! Precision inside an operator: 16-bit floats are summed in 32 bits, as ONNX's `stash_type` asks and onnxruntime does.

use burn_backend::FloatDType;
use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType as BurnType, TensorData, TensorMetadata};
use hedge_tensor::DType;

use super::OpError;
use super::host::{room, zeros};
use crate::burn::{B, Context, Primitive, Value};

/// The device's tensor of a float value, in 32 bits where it has 16.
pub(super) fn widened(value: Value, context: &Context) -> Result<Primitive, OpError> {
    let narrow = value.dtype() == DType::F16;
    let tensor = value.into_float(context)?;
    Ok(if narrow { B::float_cast(tensor, FloatDType::F32) } else { tensor })
}

/// The tensor as a value of the type `dtype`.
pub(super) fn narrowed(tensor: Primitive, dtype: DType) -> Value {
    Value::float(cast(tensor, dtype))
}

/// The tensor in the float type `dtype`.
pub(super) fn cast(tensor: Primitive, dtype: DType) -> Primitive {
    let to = float_type(dtype);
    if tensor.dtype() == BurnType::from(to) { tensor } else { B::float_cast(tensor, to) }
}

/// The elements of a float tensor on the host, for operators that need them to know their output's shape.
pub(super) fn floats(tensor: &hedge_tensor::Tensor) -> Result<Vec<f32>, OpError> {
    let values = tensor.to_doubles();
    let values =
        values.ok_or_else(|| OpError::new(format!("floats are needed, but this one is {}", tensor.dtype())))?;
    Ok(values.into_iter().map(|value| value as f32).collect())
}

/// Numbers made on the host, on the device in the type of `like`.
pub(super) fn numbers(values: &[f64], shape: &[usize], like: &Primitive, context: &Context) -> Primitive {
    let shape = shape.to_vec();
    let data = match like.dtype() {
        BurnType::F64 => TensorData::new(values.to_vec(), shape),
        BurnType::F16 => TensorData::new(values.iter().map(|&value| half::f16::from_f64(value)).collect(), shape),
        _ => TensorData::new(values.iter().map(|&value| value as f32).collect::<Vec<_>>(), shape),
    };
    B::float_from_data(data, &context.device)
}

/// Burn's name of a float type.
pub(super) fn float_type(dtype: DType) -> FloatDType {
    match dtype {
        DType::F16 => FloatDType::F16,
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

/// An empty result (burn's kernels do not all take tensors without elements), `None` for one with elements; one that is
/// beyond all memory is refused.
pub(super) fn empty(dtype: DType, shape: &[usize]) -> Result<Option<Value>, OpError> {
    if room(dtype, shape)? > 0 {
        return Ok(None);
    }
    Ok(Some(Value::host(zeros(dtype, shape)?)))
}
