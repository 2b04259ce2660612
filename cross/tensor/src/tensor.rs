//! The tensor itself.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::{DType, Element};

/// A row-major, little-endian, immutable tensor; cloning shares its bytes.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

/// A tensor and the name of the model's input or output that it belongs to.
#[derive(Clone, PartialEq, Debug)]
pub struct NamedTensor {
    /// The input's or output's name in the model.
    pub name: String,
    /// Its value.
    pub tensor: Tensor,
}

impl NamedTensor {
    /// Names `tensor`.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Self {
        NamedTensor { name: name.into(), tensor }
    }
}

/// Why a tensor could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TensorError {
    /// The product of the dimensions does not fit the address space.
    #[error("shape {shape:?} of {dtype} has more elements than can be addressed; check its dimensions")]
    TooManyElements {
        /// The element type.
        dtype: DType,
        /// The offending shape.
        shape: Vec<usize>,
    },
    /// The bytes given are not as many as dtype and shape ask for.
    #[error("shape {shape:?} of {dtype} takes {expected} bytes, but {actual} were given")]
    WrongLength {
        /// The element type.
        dtype: DType,
        /// The declared shape.
        shape: Vec<usize>,
        /// Bytes that dtype and shape ask for.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A tensor was read as another type than its own.
    #[error("the tensor holds {actual}, but was read as {asked}")]
    WrongType {
        /// The type asked for.
        asked: DType,
        /// The tensor's own type.
        actual: DType,
    },
    /// A scalar has no rows.
    #[error("a tensor without dimensions has no rows")]
    NoRows,
    /// Rows that do not fit on one another.
    #[error("row {index} is {dtype} {shape:?}, which does not stack on {first_dtype} {first_shape:?}")]
    RowMismatch {
        /// Which row.
        index: usize,
        /// Its type.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
        /// The type of the first row.
        first_dtype: DType,
        /// The shape of the first row.
        first_shape: Vec<usize>,
    },
}

/// The number of elements of `shape`, `None` where it overflows.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))
}

impl Tensor {
    /// A tensor over `data`, whose length must be what `dtype` and `shape` ask for.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self, TensorError> {
        let expected = byte_count(dtype, &shape)?;
        if expected != data.len() {
            return Err(TensorError::WrongLength { dtype, shape, expected, actual: data.len() });
        }
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor that copies `values`.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Result<Self, TensorError> {
        Tensor::new(T::DTYPE, shape.to_vec(), Bytes::copy_from_slice(bytemuck::cast_slice(values)))
    }

    /// A tensor of `values`, which are not copied.
    pub fn from_vec<T: Element + Send>(shape: &[usize], values: Vec<T>) -> Result<Self, TensorError> {
        struct Owner<T>(Vec<T>);
        impl<T: Element> AsRef<[u8]> for Owner<T> {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Tensor::new(T::DTYPE, shape.to_vec(), Bytes::from_owner(Owner(values)))
    }

    /// A [`DType::Bool`] tensor.
    pub fn bools(shape: &[usize], values: &[bool]) -> Result<Self, TensorError> {
        let bytes: Vec<u8> = values.iter().map(|&value| u8::from(value)).collect();
        Tensor::new(DType::Bool, shape.to_vec(), Bytes::from(bytes))
    }

    /// A tensor without dimensions.
    pub fn scalar<T: Element>(value: T) -> Self {
        Tensor { dtype: T::DTYPE, shape: Vec::new(), data: Bytes::copy_from_slice(bytemuck::bytes_of(&value)) }
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: Vec<usize>) -> Result<Self, TensorError> {
        let bytes = byte_count(dtype, &shape)?;
        Ok(Tensor { dtype, shape, data: Bytes::from(vec![0; bytes]) })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements' bytes, row-major and little-endian.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// The elements' bytes, without the tensor around them.
    pub fn into_bytes(self) -> Bytes {
        self.data
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size_bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// A copy of the elements; `T` must be the tensor's own type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::WrongType { asked: T::DTYPE, actual: self.dtype });
        }
        // Bytes have no alignment of their own; where they happen to be aligned, memory need not be zeroed before it is filled.
        Ok(match bytemuck::try_cast_slice(&self.data) {
            Ok(values) => values.to_vec(),
            Err(_) => bytemuck::allocation::pod_collect_to_vec(&self.data),
        })
    }

    /// The tensor with its elements changed by `f`: where they lie if nobody else holds them, else in a copy. `T` must be the
    /// tensor's own type.
    pub fn changed<T: Element + Send>(self, f: impl FnOnce(&mut [T])) -> Result<Self, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::WrongType { asked: T::DTYPE, actual: self.dtype });
        }
        let mut data = match self.data.try_into_mut() {
            Ok(alone) if bytemuck::try_cast_slice::<u8, T>(&alone).is_ok() => alone,
            Ok(unaligned) => return Tensor { data: unaligned.freeze(), ..self }.changed_copy(f),
            Err(shared) => return Tensor { data: shared, ..self }.changed_copy(f),
        };
        f(bytemuck::cast_slice_mut(&mut data));
        Ok(Tensor { data: data.freeze(), ..self })
    }

    fn changed_copy<T: Element + Send>(&self, f: impl FnOnce(&mut [T])) -> Result<Self, TensorError> {
        let mut values = self.to_vec()?;
        f(&mut values);
        Tensor::from_vec(&self.shape, values)
    }

    /// The elements of a float tensor of any width, exactly; `None` for other types.
    pub fn to_doubles(&self) -> Option<Vec<f64>> {
        match self.dtype {
            DType::F16 => self.to_vec::<half::f16>().ok().map(|values| values.into_iter().map(f64::from).collect()),
            DType::F32 => self.to_vec::<f32>().ok().map(|values| values.into_iter().map(f64::from).collect()),
            _ => self.to_vec::<f64>().ok(),
        }
    }

    /// A copy of a [`DType::Bool`] tensor's elements; every byte but 0 is true.
    pub fn to_bools(&self) -> Result<Vec<bool>, TensorError> {
        if self.dtype != DType::Bool {
            return Err(TensorError::WrongType { asked: DType::Bool, actual: self.dtype });
        }
        Ok(self.data.iter().map(|&byte| byte != 0).collect())
    }

    /// The same elements under another shape with as many.
    pub fn reshaped(self, shape: Vec<usize>) -> Result<Self, TensorError> {
        Tensor::new(self.dtype, shape, self.data)
    }

    /// The slices along the first dimension, each with a leading dimension of 1; they share this tensor's bytes.
    pub fn rows(&self) -> Result<Vec<Tensor>, TensorError> {
        let (&count, rest) = self.shape.split_first().ok_or(TensorError::NoRows)?;
        let shape: Vec<usize> = std::iter::once(1).chain(rest.iter().copied()).collect();
        let bytes = byte_count(self.dtype, &shape)?;
        let row = |index: usize| Tensor {
            dtype: self.dtype,
            shape: shape.clone(),
            data: self.data.slice(index * bytes..(index + 1) * bytes),
        };
        Ok((0..count).map(row).collect())
    }

    /// The concatenation of `rows` along the first dimension: the inverse of [`Tensor::rows`].
    pub fn stack(rows: &[Tensor]) -> Result<Tensor, TensorError> {
        let first = rows.first().filter(|row| !row.shape.is_empty()).ok_or(TensorError::NoRows)?;
        if rows.len() == 1 {
            return Ok(first.clone());
        }
        let mut shape = first.shape.clone();
        shape[0] = 0;
        let mut data = BytesMut::with_capacity(rows.iter().map(|row| row.data.len()).sum());
        for (index, row) in rows.iter().enumerate() {
            if row.dtype != first.dtype || row.shape.get(1..) != first.shape.get(1..) {
                return Err(row_mismatch(index, row, first));
            }
            shape[0] += row.shape[0];
            data.extend_from_slice(&row.data);
        }
        Tensor::new(first.dtype, shape, data.freeze())
    }

    /// The index of the first NaN or infinity of a float tensor.
    pub fn first_non_finite(&self) -> Option<usize> {
        // All exponent bits set is what NaN and the infinities share, and nothing else has (IEEE 754, 3.4).
        match self.dtype {
            DType::F16 => self.first_with_bits(|b: [u8; 2]| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
            DType::F32 => self.first_with_bits(|b: [u8; 4]| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
            DType::F64 => self
                .first_with_bits(|b: [u8; 8]| u64::from_le_bytes(b) & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000),
            _ => None,
        }
    }

    /// Whether a float tensor has a NaN.
    pub fn has_nan(&self) -> bool {
        // Seldom more than one pass over the bytes: most tensors have neither NaN nor infinities.
        self.first_non_finite().is_some()
            && self.to_doubles().is_some_and(|values| values.iter().any(|value| value.is_nan()))
    }

    fn first_with_bits<const N: usize>(&self, test: impl Fn([u8; N]) -> bool) -> Option<usize> {
        self.data.as_chunks::<N>().0.iter().position(|&bytes| test(bytes))
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?}, {} bytes)", self.dtype, self.shape, self.data.len())
    }
}

fn byte_count(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    element_count(shape)
        .and_then(|count| count.checked_mul(dtype.size_bytes()))
        .ok_or_else(|| TensorError::TooManyElements { dtype, shape: shape.to_vec() })
}

fn row_mismatch(index: usize, row: &Tensor, first: &Tensor) -> TensorError {
    TensorError::RowMismatch {
        index,
        dtype: row.dtype,
        shape: row.shape.clone(),
        first_dtype: first.dtype,
        first_shape: first.shape.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_whose_product_overflows_is_refused_before_anything_is_allocated() {
        let error = Tensor::zeros(DType::F32, vec![usize::MAX, 2]).unwrap_err();
        assert!(matches!(error, TensorError::TooManyElements { .. }));
        let error = Tensor::new(DType::F32, vec![usize::MAX / 2], Bytes::new()).unwrap_err();
        assert!(matches!(error, TensorError::TooManyElements { .. }));
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused_with_both_lengths() {
        let error = Tensor::new(DType::I16, vec![3], Bytes::from_static(&[0; 5])).unwrap_err();
        assert_eq!(error.to_string(), "shape [3] of INT16 takes 6 bytes, but 5 were given");
    }

    #[test]
    fn rows_stack_back_to_the_tensor_they_came_from_and_share_its_bytes() {
        let whole = Tensor::from_slice(&[3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let rows = whole.rows().unwrap();
        assert_eq!(rows[1].shape(), [1, 2]);
        assert_eq!(rows[1].to_vec::<f32>().unwrap(), [3., 4.]);
        assert_eq!(rows[0].bytes().as_ptr(), whole.bytes().as_ptr());
        assert_eq!(Tensor::stack(&rows).unwrap(), whole);
    }

    #[test]
    fn rows_of_another_shape_do_not_stack() {
        let rows = [Tensor::scalar(1u8).reshaped(vec![1, 1]).unwrap(), Tensor::zeros(DType::U8, vec![1, 2]).unwrap()];
        assert!(matches!(Tensor::stack(&rows), Err(TensorError::RowMismatch { index: 1, .. })));
        assert_eq!(Tensor::stack(&[]), Err(TensorError::NoRows));
        assert_eq!(Tensor::stack(&[Tensor::scalar(1u8)]), Err(TensorError::NoRows));
    }

    #[test]
    fn non_finite_numbers_are_found_in_every_float_type() {
        assert_eq!(Tensor::from_slice(&[3], &[0f32, f32::MAX, f32::NAN]).unwrap().first_non_finite(), Some(2));
        assert_eq!(Tensor::from_slice(&[2], &[f64::NEG_INFINITY, 0.]).unwrap().first_non_finite(), Some(0));
        assert_eq!(Tensor::from_slice(&[1], &[half::f16::INFINITY]).unwrap().first_non_finite(), Some(0));
        assert_eq!(Tensor::from_slice(&[2], &[f32::MAX, f32::MIN_POSITIVE]).unwrap().first_non_finite(), None);
        assert_eq!(Tensor::from_slice(&[1], &[u32::MAX]).unwrap().first_non_finite(), None);
    }

    #[test]
    fn an_infinity_is_no_nan() {
        assert!(Tensor::from_slice(&[2], &[f64::INFINITY, f64::NAN]).unwrap().has_nan());
        assert!(Tensor::scalar(half::f16::NAN).has_nan());
        assert!(!Tensor::scalar(f32::NEG_INFINITY).has_nan());
        assert!(!Tensor::scalar(u32::MAX).has_nan());
    }

    #[test]
    fn elements_are_changed_where_they_lie_unless_somebody_else_holds_them() {
        let double = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= 2.0);
        let bytes: Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let place = bytes.as_ptr();
        let alone = Tensor::new(DType::F32, vec![3], bytes.into()).unwrap().changed(double).unwrap();
        assert_eq!(alone.bytes().as_ptr(), place);
        let copy = alone.clone().changed(double).unwrap();
        assert_eq!(alone.to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0]);
        assert_eq!((copy.shape(), copy.to_vec::<f32>().unwrap()), (&[3][..], vec![4.0, 8.0, 12.0]));
        let mut unaligned = BytesMut::from(&[&[0], &alone.bytes()[..]].concat()[..]);
        let unaligned = Tensor::new(DType::F32, vec![3], unaligned.split_off(1).freeze()).unwrap();
        assert_eq!(unaligned.changed(double).unwrap(), copy);
        assert!(matches!(alone.changed(|_: &mut [f64]| ()), Err(TensorError::WrongType { .. })));
    }

    #[test]
    fn unaligned_bytes_are_read_correctly() {
        let mut bytes = vec![0xff];
        bytes.extend_from_slice(&7f64.to_le_bytes());
        let tensor = Tensor::new(DType::F64, vec![1], Bytes::from(bytes).slice(1..)).unwrap();
        assert_eq!(tensor.to_vec::<f64>().unwrap(), [7.]);
    }

    #[test]
    fn floats_of_every_width_widen_exactly() {
        assert_eq!(Tensor::scalar(half::f16::from_f32(0.5)).to_doubles(), Some(vec![0.5]));
        assert_eq!(Tensor::scalar(0.1f32).to_doubles(), Some(vec![f64::from(0.1f32)]));
        assert_eq!(Tensor::scalar(0.1f64).to_doubles(), Some(vec![0.1]));
        assert_eq!(Tensor::scalar(1u8).to_doubles(), None);
    }

    #[test]
    fn reading_as_another_type_is_an_error() {
        let error = Tensor::scalar(1i64).to_vec::<i32>().unwrap_err();
        assert_eq!(error.to_string(), "the tensor holds INT64, but was read as INT32");
    }
}
