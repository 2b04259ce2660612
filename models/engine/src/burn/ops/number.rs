//! Arithmetic of element types on the host, as numpy does it: integers wrap around.

use hedge_tensor::{DType, Element, Tensor, element_count};

use super::OpError;

/// An element type that can be computed with.
pub(super) trait Number: Element + PartialOrd {
    /// The sum; integers wrap around.
    fn plus(self, other: Self) -> Self;
    /// The product; integers wrap around.
    fn times(self, other: Self) -> Self;
    /// The nearest 64-bit float.
    fn to_double(self) -> f64;
    /// The nearest value of the type: integers are rounded half to even and saturate.
    fn from_double(value: f64) -> Self;
}

/// As many zeros as a tensor of this shape has elements.
pub(super) fn zeros<T: Number>(shape: &[usize]) -> Result<Vec<T>, OpError> {
    let count = element_count(shape).filter(|&count| count <= isize::MAX as usize / size_of::<T>());
    let count = count.ok_or_else(|| OpError::new(format!("its output {shape:?} is too large")))?;
    Ok(vec![T::from_double(0.0); count])
}

/// The elements as a tensor of `dtype`, which they stand for: booleans are kept as bytes.
pub(super) fn tensor<T: Number>(dtype: DType, shape: &[usize], values: &[T]) -> Result<Tensor, OpError> {
    let stored = Tensor::from_slice(shape, values)?;
    Ok(Tensor::new(dtype, shape.to_vec(), stored.into_bytes())?)
}

macro_rules! integers {
    ($($T:ty),*) => {
        $(impl Number for $T {
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            fn to_double(self) -> f64 {
                self as f64
            }

            fn from_double(value: f64) -> Self {
                value.round_ties_even() as $T
            }
        })*
    };
}

macro_rules! floats {
    ($($T:ty),*) => {
        $(impl Number for $T {
            fn plus(self, other: Self) -> Self {
                self + other
            }

            fn times(self, other: Self) -> Self {
                self * other
            }

            fn to_double(self) -> f64 {
                f64::from(self)
            }

            fn from_double(value: f64) -> Self {
                value as $T
            }
        })*
    };
}

integers!(u8, i8, u16, i16, u32, i32, u64, i64);
floats!(f32, f64);

impl Number for half::f16 {
    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn times(self, other: Self) -> Self {
        self * other
    }

    fn to_double(self) -> f64 {
        self.to_f64()
    }

    fn from_double(value: f64) -> Self {
        half::f16::from_f64(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_in_sums_and_products_and_saturate_in_conversions() {
        assert_eq!(250u8.plus(10), 4);
        assert_eq!(100i8.times(2), -56);
        assert_eq!(u8::from_double(2.5), 2);
        assert_eq!(i8::from_double(-300.), -128);
    }
}
