//! Conversions between element types.
//!
//! ONNX leaves a float outside the target's range undefined; here it becomes what numpy and onnxruntime make of it on
//! x86: it is cut off to 32 bits (64 for the types of that width and `u32`), outside of which, and for NaN, it is the
//! smallest integer, and then to the target's lowest bits. Integers wrap around.

use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn_backend::{FloatDType, TensorData};
use hedge_graph::Node;
use hedge_tensor::{DType, Element, Tensor};

use super::exact::{bool_tensor, host_elements, tensor};
use super::host::{hosted, need, with_elements};
use super::{Builder, OpError, on_host, one};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Cast" => |node, _| {
            let to = target(node)?;
            one(move |context, mut inputs| converted(inputs.take(0)?, to, context))
        },
        "CastLike" => |_, _| {
            one(|context, mut inputs| {
                let to = inputs.take(1)?.dtype();
                converted(inputs.take(0)?, to, context)
            })
        },
        "BitCast" => |node, _| {
            let to = target(node)?;
            on_host(move |inputs| Ok(vec![reinterpreted(need(inputs, 0)?, to)?]))
        },
        _ => return None,
    })
}

fn target(node: &Node) -> Result<DType, OpError> {
    let code = node.int("to", 0);
    let to = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    to.ok_or_else(|| OpError::new(format!("a cast to ONNX type {code} is not supported")))
}

/// The value in another type. Towards floats that the device has it stays there, where gradients pass from float to float;
/// towards integers it is exact, which a device's own integers are not.
pub(super) fn converted(x: Value, to: DType, context: &Context) -> Result<Value, OpError> {
    let from = x.dtype();
    if from == to {
        return Ok(x);
    }
    if to == DType::F32 && x.is_host() && context.is_plain_cpu() && !x.shape().is_empty() && !x.shape().contains(&0) {
        let (shape, x) = (x.shape(), host_elements(x)?);
        let singles = with_elements!(x.dtype(), S => x.to_vec::<S>()?.into_iter().map(Castable::single).collect());
        return Ok(Value::float(B::float_from_data(TensorData::new::<f32, _>(singles, shape), &context.device)));
    }
    if x.is_host() || !to.is_float() || !context.has(to) {
        return converted_on_host(&host_elements(x)?, to);
    }
    let float = float_type(to);
    Ok(Value::float(match from {
        DType::Bool => B::bool_into_float(x.into_bool(context)?, float),
        _ if from.is_float() => B::float_cast(x.into_float(context)?, float),
        _ => B::int_into_float(x.into_int(context)?, float),
    }))
}

/// Booleans come as `U8`.
fn converted_on_host(x: &Tensor, to: DType) -> Result<Value, OpError> {
    with_elements!(x.dtype(), S => {
        let values = x.to_vec::<S>()?;
        if to == DType::Bool {
            let bytes = values.into_iter().map(|value| u8::from(value.widen().is_true())).collect();
            return bool_tensor(x.shape().to_vec(), bytes);
        }
        with_elements!(to, T => {
            let converted: Vec<T> = values.into_iter().map(|value| T::narrow(value.widen())).collect();
            tensor(x.shape(), &converted)
        })
    })
}

fn reinterpreted(x: &Tensor, to: DType) -> Result<Tensor, OpError> {
    let from = x.dtype();
    if from.size_bytes() != to.size_bytes() {
        return Err(OpError::new(format!("the bits of {from} cannot be read as {to}, which is not as wide")));
    }
    Ok(Tensor::new(to, x.shape().to_vec(), x.bytes().clone())?)
}

pub(super) fn float_type(dtype: DType) -> FloatDType {
    match dtype {
        DType::F16 => FloatDType::F16,
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

/// Any number of an ONNX type, exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wide {
    Int(i128),
    Float(f64),
}

impl Wide {
    fn is_true(self) -> bool {
        match self {
            Wide::Int(value) => value != 0,
            Wide::Float(value) => value != 0.0,
        }
    }
}

/// The numbers that tensors hold.
pub(super) trait Castable: Element {
    /// The value, exactly.
    fn widen(self) -> Wide;
    /// The value as ONNX's `Cast` makes it.
    fn narrow(wide: Wide) -> Self;
    /// The nearest single float: what [`Castable::narrow`] makes of the value, in one step.
    fn single(self) -> f32;
}

macro_rules! integer_number {
    ($($T:ty => $cut:ident),* $(,)?) => {
        $(impl Castable for $T {
            fn widen(self) -> Wide {
                Wide::Int(i128::from(self))
            }

            fn narrow(wide: Wide) -> Self {
                match wide {
                    Wide::Int(value) => value as $T,
                    Wide::Float(value) => $cut(value) as $T,
                }
            }

            fn single(self) -> f32 {
                self as f32
            }
        })*
    };
}
integer_number!(
    u8 => cut_to_i32, i8 => cut_to_i32, u16 => cut_to_i32, i16 => cut_to_i32, i32 => cut_to_i32, u32 => cut_to_i64,
    i64 => cut_to_i64, u64 => cut_to_u64,
);

fn cut_to_i32(value: f64) -> i32 {
    let value = value.trunc();
    if (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value) { value as i32 } else { i32::MIN }
}

fn cut_to_i64(value: f64) -> i64 {
    // 2^63 itself is the first double that does not fit.
    if value < -(i64::MIN as f64) { value as i64 } else { i64::MIN }
}

fn cut_to_u64(value: f64) -> u64 {
    let bound = -(i64::MIN as f64);
    if value < bound || value.is_nan() {
        return cut_to_i64(value) as u64;
    }
    if value < 2.0 * bound { value as u64 } else { 0 }
}

impl Castable for half::f16 {
    fn widen(self) -> Wide {
        Wide::Float(f64::from(self))
    }

    fn narrow(wide: Wide) -> Self {
        to_half(f64::narrow(wide))
    }

    fn single(self) -> f32 {
        f32::from(self)
    }
}

/// The nearest half. Of the two singles around a number that is none itself the one with the odd last bit is taken, so
/// that rounding that to a half is as rounding the number; `half` itself drops the last bits of a double.
fn to_half(value: f64) -> half::f16 {
    let single = value as f32;
    let (exact, bits) = (f64::from(single), single.to_bits());
    let odd = match exact.abs().partial_cmp(&value.abs()) {
        Some(std::cmp::Ordering::Less) => bits | 1,
        Some(std::cmp::Ordering::Greater) if bits & 1 == 0 && single.is_finite() => bits - 1,
        _ => bits,
    };
    half::f16::from_f32(f32::from_bits(odd))
}

impl Castable for f32 {
    fn widen(self) -> Wide {
        Wide::Float(f64::from(self))
    }

    fn narrow(wide: Wide) -> Self {
        match wide {
            Wide::Int(value) => value as f32,
            Wide::Float(value) => value as f32,
        }
    }

    fn single(self) -> f32 {
        self
    }
}

impl Castable for f64 {
    fn widen(self) -> Wide {
        Wide::Float(self)
    }

    fn narrow(wide: Wide) -> Self {
        match wide {
            Wide::Int(value) => value as f64,
            Wide::Float(value) => value,
        }
    }

    fn single(self) -> f32 {
        self as f32
    }
}

/// The elements of any tensor (booleans as `U8`) as doubles; only 64-bit integers may be rounded.
pub(super) fn doubles(x: Tensor) -> Result<Tensor, OpError> {
    if x.dtype() == DType::F64 {
        return Ok(x);
    }
    hosted(converted_on_host(&x, DType::F64)?)
}

/// The elements of any value as doubles; waits for the device.
pub(super) fn to_doubles(value: &Value) -> Result<Vec<f64>, OpError> {
    Ok(doubles(host_elements(value.clone())?)?.to_vec::<f64>()?)
}

/// A host value of these numbers in any type.
pub(super) fn numbers(shape: &[usize], values: &[f64], dtype: DType) -> Result<Value, OpError> {
    let wide = Tensor::from_slice(shape, values)?;
    if dtype == DType::F64 {
        return Ok(Value::host(wide));
    }
    converted_on_host(&wide, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast<S: Castable, T: Castable>(value: S) -> T {
        T::narrow(value.widen())
    }

    #[test]
    fn a_single_made_in_one_step_is_the_one_made_in_two() {
        fn agrees<S: Castable>(values: &[S]) {
            values.iter().for_each(|&value| assert_eq!(value.single(), cast::<S, f32>(value), "{value:?}"));
        }
        agrees(&[i64::MIN, i64::MAX, (1 << 24) + 1, (1 << 53) + 1, -16_777_217]);
        agrees(&[u64::MAX, (1 << 25) + 3]);
        agrees(&[0u8, 1, 255]);
        agrees(&[0.1f64, 1e300, -1e-310]);
        agrees(&[half::f16::MAX, half::f16::MIN_POSITIVE]);
    }

    #[test]
    fn floats_are_cut_off_and_leave_their_lowest_bits() {
        assert_eq!([cast::<f32, i8>(-1.9), cast::<f32, i8>(300.7)], [-1, 44]);
        assert_eq!([cast::<f32, u8>(-1.5), cast::<f32, u8>(70000.)], [255, 112]);
        assert_eq!([cast::<f64, u16>(-129.), cast::<f64, u16>(3e9)], [65407, 0]);
        assert_eq!([cast::<f32, u32>(3e9), cast::<f32, u32>(-1.)], [3_000_000_000, u32::MAX]);
    }

    #[test]
    fn floats_that_no_integer_holds_become_the_smallest() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30] {
            assert_eq!((cast::<f64, i32>(value), cast::<f64, i64>(value)), (i32::MIN, i64::MIN));
            assert_eq!(cast::<f64, i8>(value), 0);
        }
        assert_eq!([cast::<f64, u64>(1e19), cast::<f64, u64>(f64::NAN)], [10_000_000_000_000_000_000, 1 << 63]);
    }

    #[test]
    fn integers_wrap_and_large_ones_round_to_the_nearest_float() {
        assert_eq!([cast::<i64, u8>(-1), cast::<u64, u8>(u64::MAX)], [255, 255]);
        assert_eq!(cast::<u64, i64>(u64::MAX), -1);
        assert_eq!(cast::<i64, f32>(16_777_217), 16_777_216.);
        assert_eq!(cast::<u64, f64>(u64::MAX), 18_446_744_073_709_551_616.);
    }

    #[test]
    fn halves_overflow_to_infinity_and_round_only_once() {
        assert_eq!(cast::<f32, half::f16>(70000.), half::f16::INFINITY);
        assert_eq!(cast::<i64, half::f16>(-70000), half::f16::NEG_INFINITY);
        // Through f32 this would round to a tie first, and then away from the nearest half.
        assert_eq!(cast::<f64, half::f16>(1.0 + f64::powi(2.0, -11) + f64::powi(2.0, -40)).to_f64(), 1.0009765625);
    }

    #[test]
    fn everything_but_zero_is_true() {
        let values = Tensor::from_slice(&[4], &[0f32, -0., f32::NAN, 0.1]).unwrap();
        let cast = converted_on_host(&values, DType::Bool).unwrap().into_host().unwrap();
        assert_eq!(cast.to_bools().unwrap(), [false, false, true, true]);
    }
}
