//! Arithmetic and order on the elements of host tensors, alike for every type.
//!
//! Integers wrap around at their own width and floats follow IEEE 754, as numpy's and onnxruntime's kernels do.

use std::cmp::Ordering;

use half::f16;
use hedge_tensor::{DType, Element, Tensor, element_count};

use super::OpError;

/// A type of elements that a host kernel computes on; booleans are `u8`, 0 or 1.
pub(super) trait Number: Element + PartialOrd + Send + Sync {
    const ZERO: Self;
    const ONE: Self;

    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;

    /// A total order: NaN equals itself and follows all numbers, as numpy sorts; both zeros are equal.
    fn order(&self, other: &Self) -> Ordering;

    /// The nearest double.
    fn to_f64(self) -> f64;
    /// The value of this type next to a double, as Rust's `as` converts.
    fn from_f64(value: f64) -> Self;
    /// The nearest value of the type: integers are rounded half to even and saturate.
    fn from_double(value: f64) -> Self;
    /// The integer part; what does not fit is the nearest that does, NaN is 0.
    fn to_i64(self) -> i64;
    /// The value as a wide integer; of a float, the integer part.
    fn to_i128(self) -> i128;
    /// The lowest bits of a wide integer; of a float, the nearest value.
    fn from_i128(value: i128) -> Self;

    /// The smaller one; NaN where either is.
    fn smaller(self, other: Self) -> Self {
        if is_nan(self) || (!is_nan(other) && self.order(&other).is_le()) { self } else { other }
    }

    /// The larger one; NaN where either is.
    fn larger(self, other: Self) -> Self {
        if self.order(&other).is_ge() { self } else { other }
    }
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

#[allow(clippy::eq_op, reason = "NaN is what does not equal itself")]
fn is_nan<T: Number>(value: T) -> bool {
    value != value
}

macro_rules! integers {
    ($($T:ty),*) => {
        $(impl Number for $T {
            const ZERO: Self = 0;
            const ONE: Self = 1;

            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            fn order(&self, other: &Self) -> Ordering {
                self.cmp(other)
            }

            fn to_f64(self) -> f64 {
                self as f64
            }

            fn from_f64(value: f64) -> Self {
                value as $T
            }

            fn from_double(value: f64) -> Self {
                value.round_ties_even() as $T
            }

            fn to_i64(self) -> i64 {
                i64::try_from(self).unwrap_or(i64::MAX)
            }

            fn to_i128(self) -> i128 {
                i128::from(self)
            }

            fn from_i128(value: i128) -> Self {
                value as $T
            }
        })*
    };
}

macro_rules! floats {
    ($($T:ty: $zero:expr, $one:expr, $widen:expr, $narrow:expr;)*) => {
        $(impl Number for $T {
            const ZERO: Self = $zero;
            const ONE: Self = $one;

            fn plus(self, other: Self) -> Self {
                self + other
            }

            fn times(self, other: Self) -> Self {
                self * other
            }

            fn order(&self, other: &Self) -> Ordering {
                self.partial_cmp(other).unwrap_or_else(|| self.is_nan().cmp(&other.is_nan()))
            }

            fn to_f64(self) -> f64 {
                $widen(self)
            }

            fn from_f64(value: f64) -> Self {
                $narrow(value)
            }

            fn from_double(value: f64) -> Self {
                $narrow(value)
            }

            fn to_i64(self) -> i64 {
                self.to_f64() as i64
            }

            fn to_i128(self) -> i128 {
                self.to_f64() as i128
            }

            fn from_i128(value: i128) -> Self {
                $narrow(value as f64)
            }
        })*
    };
}

integers!(u8, i8, u16, i16, u32, i32, u64, i64);
floats! {
    f16: f16::ZERO, f16::ONE, f16::to_f64, f16::from_f64;
    f32: 0.0, 1.0, f64::from, |value| value as f32;
    f64: 0.0, 1.0, |value| value, |value| value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_follows_all_numbers_and_is_what_an_extremum_over_it_is() {
        assert_eq!(f32::NAN.order(&f32::INFINITY), Ordering::Greater);
        assert_eq!(f32::NAN.order(&f32::NAN), Ordering::Equal);
        assert_eq!((-0f64).order(&0.0), Ordering::Equal);
        assert!(f16::NAN.smaller(f16::ONE).is_nan() && f16::ONE.smaller(f16::NAN).is_nan());
        assert!(1f32.larger(f32::NAN).is_nan() && f32::NAN.larger(1.0).is_nan());
        assert_eq!((2u64.smaller(u64::MAX), 2i8.larger(-3)), (2, 2));
    }

    #[test]
    fn integers_wrap_and_floats_saturate_on_the_way_to_indices() {
        assert_eq!((200u8.plus(100), i64::MAX.plus(1)), (44, i64::MIN));
        assert_eq!((u64::MAX.to_i64(), f32::NAN.to_i64(), (-2.7f64).to_i64()), (i64::MAX, 0, -2));
        assert_eq!((u8::from_double(2.5), i8::from_double(-300.)), (2, -128));
    }
}
