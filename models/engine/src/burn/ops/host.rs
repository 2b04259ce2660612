//! Tools for operators that compute on host tensors: access by type, bounded memory, strides, walks over indices.

use hedge_tensor::{DType, Element, Tensor, element_count};

use super::OpError;
use super::number::Number;
use crate::burn::Value;

/// The most bytes that one result may take. Arithmetic on sizes in a model, or in its input, can ask for anything, and a
/// process that runs out of memory is killed, not answered.
const LARGEST_RESULT: usize = 1 << 32;

/// Runs `$body` with `$T` standing for the Rust type of the tensor's elements; booleans are `u8`.
///
/// ```text
/// with_elements!(x.dtype(), T => picked::<T>(x, &indices))
/// ```
macro_rules! with_elements {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            hedge_tensor::DType::Bool | hedge_tensor::DType::U8 => {
                type $T = u8;
                $body
            }
            hedge_tensor::DType::I8 => {
                type $T = i8;
                $body
            }
            hedge_tensor::DType::U16 => {
                type $T = u16;
                $body
            }
            hedge_tensor::DType::I16 => {
                type $T = i16;
                $body
            }
            hedge_tensor::DType::U32 => {
                type $T = u32;
                $body
            }
            hedge_tensor::DType::I32 => {
                type $T = i32;
                $body
            }
            hedge_tensor::DType::U64 => {
                type $T = u64;
                $body
            }
            hedge_tensor::DType::I64 => {
                type $T = i64;
                $body
            }
            hedge_tensor::DType::F16 => {
                type $T = half::f16;
                $body
            }
            hedge_tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            hedge_tensor::DType::F64 => {
                type $T = f64;
                $body
            }
        }
    };
}
pub(super) use with_elements;

/// Input `index` of a host operator, which the operator needs.
pub(super) fn need(inputs: &[Option<Tensor>], index: usize) -> Result<&Tensor, OpError> {
    optional(inputs, index).ok_or_else(|| OpError::new(format!("input {index} is missing")))
}

/// Input `index` of a host operator, which may be absent.
pub(super) fn optional(inputs: &[Option<Tensor>], index: usize) -> Option<&Tensor> {
    inputs.get(index).and_then(Option::as_ref)
}

/// The elements as Rust values; those of booleans are `u8`.
pub(super) fn elements<T: Element>(tensor: &Tensor) -> Result<Vec<T>, OpError> {
    if tensor.dtype() != DType::Bool {
        return Ok(tensor.to_vec()?);
    }
    Ok(Tensor::new(DType::U8, tensor.shape().to_vec(), tensor.bytes().clone())?.to_vec()?)
}

/// The inverse of [`elements`].
pub(super) fn tensor_of<T: Element>(dtype: DType, shape: &[usize], values: &[T]) -> Result<Tensor, OpError> {
    let tensor = Tensor::from_slice(shape, values)?;
    Ok(if dtype == DType::Bool { Tensor::new(dtype, shape.to_vec(), tensor.into_bytes())? } else { tensor })
}

/// The elements of any type as integers; floats lose what is behind the point.
pub(super) fn integers(tensor: &Tensor) -> Result<Vec<i64>, OpError> {
    with_elements!(tensor.dtype(), T => Ok(elements::<T>(tensor)?.into_iter().map(Number::to_i64).collect()))
}

/// The one element of a scalar, or of a tensor with a single element; `what` names it in the error.
pub(super) fn single(values: &[i64], what: &str) -> Result<i64, OpError> {
    match values {
        [value] => Ok(*value),
        _ => Err(OpError::new(format!("its {what} has {} elements, but must have one", values.len()))),
    }
}

/// The value's tensor on the host.
pub(super) fn hosted(value: Value) -> Result<Tensor, OpError> {
    // There is nothing to read of an empty one, and not every device can be asked.
    let shape = value.shape();
    if shape.contains(&0) {
        return zeros(value.dtype(), &shape);
    }
    value.into_host().map_err(OpError::new)
}

/// The number of elements of a result, refused where it is beyond all memory.
pub(super) fn room(dtype: DType, shape: &[usize]) -> Result<usize, OpError> {
    let bytes = element_count(shape).and_then(|count| count.checked_mul(dtype.size_bytes()));
    match bytes.filter(|&bytes| bytes <= LARGEST_RESULT) {
        Some(bytes) => Ok(bytes / dtype.size_bytes()),
        None => Err(OpError::new(format!("a result of {dtype} {shape:?} is too large"))),
    }
}

/// An empty vector with space for `count` elements, refused where there is no memory for them.
pub(super) fn buffer<T>(count: usize) -> Result<Vec<T>, OpError> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|error| OpError::new(format!("no memory for {count} elements: {error}")))?;
    Ok(values)
}

/// Zeros on the host.
pub(super) fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, OpError> {
    room(dtype, shape)?;
    Ok(Tensor::zeros(dtype, shape.to_vec())?)
}

/// A tensor of one element `count` times, given by its bytes.
pub(super) fn repeated(dtype: DType, shape: &[usize], element: &[u8]) -> Result<Tensor, OpError> {
    let count = room(dtype, shape)?;
    let mut bytes = buffer(count * element.len())?;
    for _ in 0..count {
        bytes.extend_from_slice(element);
    }
    Ok(Tensor::new(dtype, shape.to_vec(), bytes.into())?)
}

/// How far apart neighbours of each dimension lie in a dense tensor of this shape.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Calls `f` with each index of `shape`, the last dimension fastest.
pub(super) fn for_each_index(
    shape: &[usize],
    mut f: impl FnMut(&[usize]) -> Result<(), OpError>,
) -> Result<(), OpError> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index)?;
        let mut axis = shape.len();
        loop {
            let Some(next) = axis.checked_sub(1) else { return Ok(()) };
            axis = next;
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}
