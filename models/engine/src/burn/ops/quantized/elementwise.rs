//! Sums and products of two 8-bit tensors between scales (`com.microsoft`).

use std::borrow::Cow;

use super::super::{BoxOp, OpError, broadcast_shape, host, on_cpu};
use super::product::{Requantize, held, single, whole_of};
use super::{quantized, range_of, single_level};
use crate::burn::Value;

/// `QLinearAdd`: everything that does not depend on the elements is one number, to which the two products are added, each in
/// one fused step; that sum is rounded, zero point included.
pub(in super::super) fn add() -> Result<BoxOp, OpError> {
    binary(|a, b, scale, zero| {
        let (left, right) = (a.scale / scale, b.scale / scale);
        let fixed = f64::from(zero - (left * a.zero + right * b.zero));
        let (left, right) = (f64::from(left), f64::from(right));
        // A byte times a float is exact in 64 bits, so that one rounding to 32 makes the step a fused one.
        move |a: f32, b: f32| (f64::from(a) * left + f64::from((f64::from(b) * right + fixed) as f32)) as f32
    })
}

/// `QLinearMul`: the exact product times one factor, plus the zero point, each rounded.
pub(in super::super) fn mul() -> Result<BoxOp, OpError> {
    binary(|a, b, scale, zero| {
        let (factor, left, right) = (a.scale * b.scale / scale, a.zero, b.zero);
        move |a: f32, b: f32| (a - left) * (b - right) * factor + zero
    })
}

/// An operand's scale and zero point.
struct Level {
    scale: f32,
    zero: f32,
}

/// An operator whose function of two elements, before they are rounded and saturated, depends on the operands' levels and the
/// output's scale and zero point.
fn binary<F: Fn(f32, f32) -> f32>(
    pair: impl Fn(&Level, &Level, f32, f32) -> F + Send + Sync + 'static,
) -> Result<BoxOp, OpError> {
    on_cpu(move |context, mut inputs| {
        let (left, right) = (inputs.take(0)?, inputs.take(3)?);
        let rest = (0..8).map(|index| inputs.optional(index).map(Value::into_host).transpose());
        let rest = rest.collect::<Result<Vec<_>, _>>()?;
        let level = |index: usize, value: &Value, what: &str| {
            let (scale, zero) = single_level(&rest, index, value.dtype(), what)?;
            Ok::<_, OpError>(Level { scale, zero })
        };
        let (a, b) = (level(1, &left, "A_scale")?, level(4, &right, "B_scale")?);
        if left.dtype() != right.dtype() {
            return Err(OpError::new(format!("its inputs are {} and {}, not alike", left.dtype(), right.dtype())));
        }
        let output = Requantize::to(host::optional(&rest, 7), left.dtype())?;
        let pair = pair(&a, &b, single(host::need(&rest, 6)?, "C_scale")?, output.zero);
        let (low, high) = range_of(output.dtype)?;
        let shape = broadcast_shape(&left.shape(), &right.shape())?;
        let operands = [(whole_of(&left)?, left.shape()), (whole_of(&right)?, right.shape())];
        let values = zipped(operands, &shape, |a, b| quantized(pair(a, b), 0.0, low, high))?;
        held(values, shape, output.dtype, context)
    })
}

/// `f` of the elements that broadcasting to `shape` brings together.
fn zipped(
    [(left, own_left), (right, own_right)]: [(Cow<'_, [f32]>, Vec<usize>); 2],
    shape: &[usize],
    f: impl Fn(f32, f32) -> f32,
) -> Result<Vec<f32>, OpError> {
    if own_left == own_right {
        return Ok(left.iter().zip(right.iter()).map(|(&a, &b)| f(a, b)).collect());
    }
    let count = hedge_tensor::element_count(shape);
    let mut values = Vec::with_capacity(count.ok_or_else(|| OpError::new(format!("{shape:?} is too large")))?);
    let (length, outer) = shape.split_last().map_or((1, shape), |(&last, outer)| (last, outer));
    let (steps_a, steps_b) = (steps(&own_left, shape.len()), steps(&own_right, shape.len()));
    let rows = if length == 0 { 0 } else { outer.iter().product() };
    let last = |steps: &[usize]| steps.last().copied().unwrap_or(0);
    let (step_a, step_b) = (last(&steps_a), last(&steps_b));
    for row in 0..rows {
        let (mut from_a, mut from_b, mut rest) = (0, 0, row);
        for axis in (0..outer.len()).rev() {
            from_a += rest % outer[axis] * steps_a[axis];
            from_b += rest % outer[axis] * steps_b[axis];
            rest /= outer[axis];
        }
        values.extend((0..length).map(|at| f(left[from_a + at * step_a], right[from_b + at * step_b])));
    }
    Ok(values)
}

/// How far apart neighbours along each of `rank` dimensions are: 0 where there is one for all.
fn steps(shape: &[usize], rank: usize) -> Vec<usize> {
    let mut steps = vec![0; rank];
    let mut step = 1;
    for (to, &size) in steps.iter_mut().rev().zip(shape.iter().rev()) {
        *to = if size == 1 { 0 } else { step };
        step *= size;
    }
    steps
}
