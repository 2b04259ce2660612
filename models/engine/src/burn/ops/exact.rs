//! Exact element-wise work on host tensors: integers wrap at their own width, as numpy's and onnxruntime's do.
//!
//! Burn computes all integers at one width (64 bits on the CPU, 32 on a graphics adapter), which is wrong for narrow
//! types that overflow, for `u64` and, on an adapter, for `i64`. Integers in networks are mostly indices, masks and
//! shapes, so that exactness on the host costs little.

use hedge_tensor::{DType, Element, Tensor};

use super::host::{buffer, for_each_index, hosted, room, strides};
use super::{OpError, broadcast_shape};
use crate::burn::Value;

/// Runs `$body` with `$T` standing for the Rust type of an integer tensor's elements; other types are an error.
macro_rules! with_integers {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            hedge_tensor::DType::U8 => {
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
            other => Err($crate::burn::ops::OpError::new(format!("it is not defined on {other}"))),
        }
    };
}
pub(super) use with_integers;

/// An operation on two integers of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntBinary {
    Add,
    Sub,
    Mul,
    /// Rounds towards zero; by zero it is 0, as in numpy.
    Div,
    /// Has the sign of the divisor; by zero it is 0, as in numpy.
    Modulo,
    /// Has the sign of the dividend; by zero it is 0, as in numpy.
    Remainder,
    Min,
    Max,
    And,
    Or,
    Xor,
    /// By a negative amount, or one of at least the type's bits, all bits are shifted out.
    ShiftLeft,
    /// Keeps the sign of signed types.
    ShiftRight,
    /// The first where it is not negative, otherwise its product with the second.
    Prelu,
}

/// An operation on one integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntUnary {
    Neg,
    Abs,
    Sign,
    Not,
    Relu,
}

/// An integer type of ONNX.
pub(super) trait Integer: Element + Ord {
    /// The operation, at this type's width.
    fn binary(op: IntBinary) -> fn(Self, Self) -> Self;
    /// The operation, at this type's width.
    fn unary(op: IntUnary) -> fn(Self) -> Self;
    /// `base` to a power that is not negative.
    fn power(base: Self, exponent: u64) -> Self;
    /// The value, exactly.
    fn wide(self) -> i128;
    /// The lowest bits of `wide`.
    fn wrapped(wide: i128) -> Self;
    /// The smallest number of the type.
    fn smallest() -> Self;
    /// The largest number of the type.
    fn largest() -> Self;
}

macro_rules! integer {
    ($($T:ty),*) => {
        $(impl Integer for $T {
            fn binary(op: IntBinary) -> fn(Self, Self) -> Self {
                match op {
                    IntBinary::Add => <$T>::wrapping_add,
                    IntBinary::Sub => <$T>::wrapping_sub,
                    IntBinary::Mul => <$T>::wrapping_mul,
                    IntBinary::Div => |a, b| if b == 0 { 0 } else { a.wrapping_div(b) },
                    IntBinary::Remainder => |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) },
                    IntBinary::Modulo => |a, b| {
                        let rest = if b == 0 { 0 } else { a.wrapping_rem(b) };
                        #[allow(unused_comparisons, reason = "unsigned types have no negative rest")]
                        if rest != 0 && (rest < 0) != (b < 0) { rest.wrapping_add(b) } else { rest }
                    },
                    IntBinary::Min => Ord::min,
                    IntBinary::Max => Ord::max,
                    IntBinary::And => |a, b| a & b,
                    IntBinary::Or => |a, b| a | b,
                    IntBinary::Xor => |a, b| a ^ b,
                    IntBinary::ShiftLeft => |a, by| u32::try_from(by).ok().and_then(|by| a.checked_shl(by)).unwrap_or(0),
                    IntBinary::ShiftRight => |a, by| {
                        let shifted = u32::try_from(by).ok().and_then(|by| a.checked_shr(by));
                        // All but the sign is shifted out: shifting by one bit less, and once more, leaves it.
                        shifted.unwrap_or((a >> (<$T>::BITS - 1)) >> 1)
                    },
                    #[allow(unused_comparisons, reason = "unsigned types are never negative")]
                    IntBinary::Prelu => |x, slope| if x < 0 { x.wrapping_mul(slope) } else { x },
                }
            }

            fn unary(op: IntUnary) -> fn(Self) -> Self {
                match op {
                    IntUnary::Neg => <$T>::wrapping_neg,
                    #[allow(unused_comparisons, reason = "unsigned types are never negative")]
                    IntUnary::Abs => |x| if x < 0 { x.wrapping_neg() } else { x },
                    IntUnary::Sign => |x| Self::wrapped(x.wide().signum()),
                    IntUnary::Not => |x| !x,
                    IntUnary::Relu => |x| x.max(0),
                }
            }

            fn power(base: Self, mut exponent: u64) -> Self {
                let (mut power, mut square) = (1, base);
                while exponent > 0 {
                    if exponent & 1 == 1 {
                        power = <$T>::wrapping_mul(power, square);
                    }
                    square = square.wrapping_mul(square);
                    exponent >>= 1;
                }
                power
            }

            fn wide(self) -> i128 {
                i128::from(self)
            }

            fn wrapped(wide: i128) -> Self {
                wide as $T
            }

            fn smallest() -> Self {
                <$T>::MIN
            }

            fn largest() -> Self {
                <$T>::MAX
            }
        })*
    };
}
integer!(u8, i8, u16, i16, u32, i32, u64, i64);

/// `op` on two integer tensors of one type, which broadcast.
pub(super) fn int_binary(op: IntBinary, a: Value, b: Value) -> Result<Value, OpError> {
    let (a, b) = (hosted(a)?, hosted(b)?);
    with_integers!(a.dtype(), T => {
        let f = <T as Integer>::binary(op);
        let (shape, values) = zip::<T, T, T>(&a, &b, f)?;
        tensor(&shape, &values)
    })
}

/// `op` on an integer tensor.
pub(super) fn int_unary(op: IntUnary, x: Value) -> Result<Value, OpError> {
    let x = hosted(x)?;
    with_integers!(x.dtype(), T => {
        let values: Vec<T> = x.to_vec::<T>()?.into_iter().map(<T as Integer>::unary(op)).collect();
        tensor(x.shape(), &values)
    })
}

/// The value's elements on the host, where booleans are `U8`, so that all of them have a Rust type.
pub(super) fn host_elements(value: Value) -> Result<Tensor, OpError> {
    let tensor = hosted(value)?;
    if tensor.dtype() != DType::Bool {
        return Ok(tensor);
    }
    let shape = tensor.shape().to_vec();
    Ok(Tensor::new(DType::U8, shape, tensor.into_bytes())?)
}

/// A host value of these elements.
pub(super) fn tensor<T: Element>(shape: &[usize], values: &[T]) -> Result<Value, OpError> {
    Ok(Value::host(Tensor::from_slice(shape, values)?))
}

/// A boolean host value of these bytes, each 0 or 1.
pub(super) fn bool_tensor(shape: Vec<usize>, values: Vec<u8>) -> Result<Value, OpError> {
    Ok(Value::host(Tensor::new(DType::Bool, shape, values.into())?))
}

/// `f` on the elements of two host tensors under numpy's broadcasting, with the shape of the result.
pub(super) fn zip<A: Element, B: Element, R: Element>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(A, B) -> R,
) -> Result<(Vec<usize>, Vec<R>), OpError> {
    let shape = broadcast_shape(a.shape(), b.shape())?;
    let (left, right) = (a.to_vec::<A>()?, b.to_vec::<B>()?);
    let mut values = room_for(&shape)?;
    if a.shape() == b.shape() {
        values.extend(left.into_iter().zip(right).map(|(a, b)| f(a, b)));
    } else {
        let strides = [broadcast_strides(a.shape(), &shape), broadcast_strides(b.shape(), &shape)];
        walk_rows(&shape, &strides, |[i, j], columns, steps| match steps {
            [0, 1] => {
                let one = left[i];
                values.extend(right[j..j + columns].iter().map(|&b| f(one, b)));
            }
            [1, 0] => {
                let one = right[j];
                values.extend(left[i..i + columns].iter().map(|&a| f(a, one)));
            }
            [1, 1] => values.extend(left[i..i + columns].iter().zip(&right[j..j + columns]).map(|(&a, &b)| f(a, b))),
            _ => values.extend((0..columns).map(|column| f(left[i + column * steps[0]], right[j + column * steps[1]]))),
        })?;
    }
    Ok((shape, values))
}

/// An empty vector with room for a tensor of `shape`; an error where memory does not suffice, for a broadcast can be
/// far larger than what it is made from.
pub(super) fn room_for<T: Element>(shape: &[usize]) -> Result<Vec<T>, OpError> {
    buffer(room(T::DTYPE, shape)?)
}

/// The strides by which a dense tensor of shape `from` is read as one of shape `to`, to which it broadcasts.
pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(from);
    let missing = to.len() - from.len();
    let stride = |axis: usize| match axis.checked_sub(missing) {
        Some(axis) if from[axis] != 1 => own[axis],
        _ => 0,
    };
    (0..to.len()).map(stride).collect()
}

/// Calls `f` with the offsets of each element of `shape` in `N` tensors that are read by these strides.
pub(super) fn walk<const N: usize>(
    shape: &[usize],
    strides: &[Vec<usize>; N],
    mut f: impl FnMut([usize; N]),
) -> Result<(), OpError> {
    walk_rows(shape, strides, |start, columns, steps| {
        for column in 0..columns {
            f(std::array::from_fn(|which| start[which] + column * steps[which]));
        }
    })
}

/// Calls `f` with the offsets of the first element of each row of `shape`, the row's elements, and the steps between them.
fn walk_rows<const N: usize>(
    shape: &[usize],
    strides: &[Vec<usize>; N],
    mut f: impl FnMut([usize; N], usize, [usize; N]),
) -> Result<(), OpError> {
    let Some((&columns, rows)) = shape.split_last() else {
        f([0; N], 1, [1; N]);
        return Ok(());
    };
    let steps: [usize; N] = std::array::from_fn(|which| strides[which][rows.len()]);
    for_each_index(rows, |index| {
        let offset = |which: usize| index.iter().zip(&strides[which]).map(|(index, stride)| index * stride).sum();
        f(std::array::from_fn(offset), columns, steps);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary<T: Integer>(op: IntBinary, a: T, b: T) -> T {
        T::binary(op)(a, b)
    }

    #[test]
    fn arithmetic_wraps_at_the_types_own_width() {
        assert_eq!(binary(IntBinary::Add, 200u8, 100), 44);
        assert_eq!(binary(IntBinary::Sub, i8::MIN, 1), i8::MAX);
        assert_eq!(binary(IntBinary::Mul, u64::MAX, 2), u64::MAX - 1);
        assert_eq!(i16::power(-3, 11), (-3i16).wrapping_pow(11));
        assert_eq!(u64::power(2, 64), 0);
    }

    #[test]
    fn division_rounds_towards_zero_and_never_panics() {
        assert_eq!(binary(IntBinary::Div, -7i32, 2), -3);
        assert_eq!(binary(IntBinary::Div, i64::MIN, -1), i64::MIN);
        assert_eq!(binary(IntBinary::Div, 7u16, 0), 0);
        assert_eq!(binary(IntBinary::Modulo, i8::MIN, -1), 0);
        assert_eq!(binary(IntBinary::Remainder, 7i8, 0), 0);
    }

    #[test]
    fn the_two_remainders_differ_by_whose_sign_they_have() {
        assert_eq!([binary(IntBinary::Modulo, -4i32, 3), binary(IntBinary::Modulo, 4, -3)], [2, -2]);
        assert_eq!([binary(IntBinary::Remainder, -4i32, 3), binary(IntBinary::Remainder, 4, -3)], [-1, 1]);
        assert_eq!(binary(IntBinary::Modulo, u64::MAX, 10), 5);
    }

    #[test]
    fn shifting_too_far_leaves_the_sign_alone() {
        assert_eq!(binary(IntBinary::ShiftLeft, 1u8, 8), 0);
        assert_eq!(binary(IntBinary::ShiftLeft, 1i32, -1), 0);
        assert_eq!(binary(IntBinary::ShiftRight, -5i8, 100), -1);
        assert_eq!(binary(IntBinary::ShiftRight, -5i64, -1), -1);
        assert_eq!(binary(IntBinary::ShiftRight, u64::MAX, 64), 0);
        assert_eq!(binary(IntBinary::ShiftRight, -8i16, 2), -2);
    }

    #[test]
    fn tensors_broadcast_over_outer_and_inner_dimensions() {
        let a = Tensor::from_slice(&[2, 1], &[10i32, 20]).unwrap();
        let b = Tensor::from_slice(&[3], &[1i32, 2, 3]).unwrap();
        let (shape, values) = zip(&a, &b, |a: i32, b: i32| a + b).unwrap();
        assert_eq!((shape, values), (vec![2, 3], vec![11, 12, 13, 21, 22, 23]));
        let scalar = Tensor::scalar(5i32);
        assert_eq!(zip(&scalar, &scalar, |a: i32, b: i32| a * b).unwrap(), (vec![], vec![25]));
        let none = Tensor::from_slice::<i32>(&[0, 3], &[]).unwrap();
        assert_eq!(zip(&none, &b, |a: i32, b: i32| a * b).unwrap(), (vec![0, 3], vec![]));
    }

    #[test]
    fn a_broadcast_beyond_memory_is_an_error() {
        assert!(room_for::<u64>(&[usize::MAX / 2, 8]).is_err());
        assert!(room_for::<u64>(&[1 << 50, 1 << 10]).is_err());
    }
}
