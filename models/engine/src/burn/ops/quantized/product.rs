//! Exact integer products of 8-bit operands: zero points are taken off first, which leaves 9 bits and a sign, then rows of
//! 16-bit numbers are multiplied into sums of 32 bits. The inner loop is the form that compilers turn into
//! multiply-and-add-pairs instructions (`pmaddwd`, `smlal`), which baseline x86-64 has.
//!
//! Where sums cannot leave the whole numbers that 32-bit floats hold, which constant weights show beforehand, the kernels for
//! floats give the same sums, in any order and fused or not, and use the widest vectors of the machine.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use burn_backend::TensorData;
use burn_backend::ops::FloatTensorOps;
use hedge_tensor::{DType, Tensor};
use rayon::prelude::*;

use super::super::OpError;
use crate::burn::{B, Context, Value};

/// Rows of the left operand at a time, so that they and four of the right one stay in the first cache.
const BAND: usize = 16;

/// Up to here 32-bit floats hold every whole number.
const EXACT: f64 = 16_777_216.0;

/// No 8-bit number is farther from a zero point of its type.
const REACH: f64 = 255.0;

/// The most products of two 8-bit numbers whose sum is exact in 32-bit floats whatever they are.
pub(super) const EXACT_DEPTH: usize = (EXACT / (REACH * REACH)) as usize;

/// Whether sums of 8-bit numbers times these weights are exact in 32-bit floats.
pub(super) fn is_exact(weights: impl Iterator<Item = f32>) -> bool {
    weights.map(|weight| f64::from(weight.abs())).sum::<f64>() * REACH <= EXACT
}

/// The elements of an 8-bit tensor as floats, without their zero points yet.
pub(super) fn whole(tensor: &Tensor) -> Result<Vec<f32>, OpError> {
    match tensor.dtype() {
        DType::U8 => Ok(tensor.bytes().iter().map(|&byte| f32::from(byte)).collect()),
        DType::I8 => Ok(tensor.bytes().iter().map(|&byte| f32::from(byte.cast_signed())).collect()),
        other => Err(OpError::new(format!("8-bit integers are multiplied, but its input is {other}"))),
    }
}

/// The same of a value, where they lie if that is how the value is held.
pub(super) fn whole_of(value: &Value) -> Result<Cow<'_, [f32]>, OpError> {
    if !matches!(value.dtype(), DType::U8 | DType::I8) {
        return Err(OpError::new(format!("8-bit integers are needed, but its input is {}", value.dtype())));
    }
    value.held_singles().unwrap_or_else(|| Ok(Cow::Owned(whole(&value.clone().into_host()?)?)))
}

/// Whole numbers as a value of `dtype` that is held in floats, as the next operator takes it.
pub(super) fn held(values: Vec<f32>, shape: Vec<usize>, dtype: DType, context: &Context) -> Result<Value, OpError> {
    if values.is_empty() {
        return Ok(Value::host(Tensor::zeros(dtype, shape)?));
    }
    Ok(Value::int(B::float_from_data(TensorData::new(values, shape), &context.device), dtype))
}

/// The elements of an 8-bit tensor, without their zero points yet.
pub(super) fn widened(tensor: &Tensor) -> Result<Vec<i16>, OpError> {
    match tensor.dtype() {
        DType::U8 => Ok(tensor.bytes().iter().map(|&byte| i16::from(byte)).collect()),
        DType::I8 => Ok(tensor.bytes().iter().map(|&byte| i16::from(byte.cast_signed())).collect()),
        other => Err(OpError::new(format!("8-bit integers are multiplied, but its input is {other}"))),
    }
}

/// `out[m][n] = left[m] . right[n]` for rows of `depth` elements; rows of `out` begin `stride` apart.
pub(super) fn multiply(left: &[i16], right: &[i16], depth: usize, out: &mut [i32], stride: usize) {
    if depth == 0 {
        return;
    }
    let (quads, rest) = right.split_at(right.len() / (4 * depth) * (4 * depth));
    for (index, quad) in quads.chunks_exact(4 * depth).enumerate() {
        let (first, second) = quad.split_at(2 * depth);
        let ((a, b), (c, d)) = (first.split_at(depth), second.split_at(depth));
        for (row, out) in left.chunks_exact(depth).zip(out.chunks_mut(stride)) {
            out[4 * index..4 * index + 4].copy_from_slice(&[dot(row, a), dot(row, b), dot(row, c), dot(row, d)]);
        }
    }
    let done = quads.len() / depth;
    for (index, column) in rest.chunks_exact(depth).enumerate() {
        for (row, out) in left.chunks_exact(depth).zip(out.chunks_mut(stride)) {
            out[done + index] = dot(row, column);
        }
    }
}

/// As [`multiply`], shared among threads, with rows of `out` next to one another.
pub(super) fn multiply_all(left: &[i16], right: &[i16], depth: usize, out: &mut [i32]) {
    let columns = right.len().checked_div(depth).unwrap_or(0);
    if columns == 0 {
        return;
    }
    if left.len() / depth >= BAND {
        let bands = left.par_chunks(BAND * depth).zip(out.par_chunks_mut(BAND * columns));
        return bands.for_each(|(left, out)| multiply(left, right, depth, out, columns));
    }
    for (row, out) in left.chunks_exact(depth).zip(out.chunks_mut(columns)) {
        let parts = right.par_chunks(64 * depth).zip(out.par_chunks_mut(64));
        parts.for_each(|(right, out)| multiply(row, right, depth, out, right.len() / depth));
    }
}

fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).fold(0, |sum: i32, (&a, &b)| sum.wrapping_add(i32::from(a) * i32::from(b)))
}

/// What was made of operands, kept as long as the operands stay the same bytes, as constants do.
pub(super) struct Kept<T>(Mutex<Option<(Vec<Tensor>, Arc<T>)>>);

impl<T> Kept<T> {
    pub(super) fn new() -> Self {
        Kept(Mutex::new(None))
    }

    pub(super) fn get(
        &self,
        operands: &[&Tensor],
        make: impl FnOnce() -> Result<T, OpError>,
    ) -> Result<Arc<T>, OpError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, made)) = kept.as_ref()
            && known.len() == operands.len()
            && known.iter().zip(operands).all(|(known, operand)| is_same(known, operand))
        {
            return Ok(made.clone());
        }
        let made = Arc::new(make()?);
        // The operands are kept with it, so that no other tensor can come to lie where they do.
        *kept = Some((operands.iter().map(|&operand| operand.clone()).collect(), made.clone()));
        Ok(made)
    }
}

fn is_same(a: &Tensor, b: &Tensor) -> bool {
    a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes().as_ptr() == b.bytes().as_ptr()
}

/// How sums become quantized numbers again: times a scale, rounded half to even, moved by a zero point, saturated.
pub(super) struct Requantize {
    pub(super) dtype: DType,
    pub(super) zero: f32,
}

impl Requantize {
    /// To the type of `zero`, or to `dtype` without one.
    pub(super) fn to(zero: Option<&Tensor>, dtype: DType) -> Result<Self, OpError> {
        let Some(zero) = zero else { return Ok(Requantize { dtype, zero: 0.0 }) };
        match super::floats(zero)?.as_slice() {
            [value] => Ok(Requantize { dtype: zero.dtype(), zero: *value }),
            values => Err(OpError::new(format!("its output has one zero point, but {} are given", values.len()))),
        }
    }
}

/// The scale of a whole tensor.
pub(super) fn single(tensor: &Tensor, what: &str) -> Result<f32, OpError> {
    match super::floats(tensor)?.as_slice() {
        [value] => Ok(*value),
        values => Err(OpError::new(format!("{what} has {} elements, but must have one", values.len()))),
    }
}
