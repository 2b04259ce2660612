//! Tools for operators that compute on host tensors: access by type, strides, walks over indices.

use hedge_tensor::Tensor;

use super::OpError;

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
