//! Functions of single floats on the CPU as polynomials, which the compiler turns into vector instructions: burn's CPU backend
//! calls the C library once an element.
//!
//! `tanh` is the rational function of Eigen and of onnxruntime's kernels, with the same roundings: a model that amplifies
//! last bits (Magika does) then gives the same answers. `erf` is N. Juffa's (2018, error below 1 ulp of the exact value),
//! `exp` a Cephes-style polynomial after the reduction by ln 2.
//!
//! There is no gradient here: under autodiff, on a GPU and for other widths burn's own functions are used.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType as BurnType, TensorData, TensorMetadata, read_sync};
use rayon::prelude::*;

use super::OpError;
use crate::burn::{B, Context, Primitive};

/// Below so many elements threads cost more than they give.
const PARALLEL: usize = 1 << 15;

/// What to compute of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::burn) enum Function {
    /// The hyperbolic tangent.
    Tanh,
    /// The error function.
    Erf,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`.
    TanhGelu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

/// The function on a tensor, by vectors where that is possible and by `otherwise` where it is not.
pub(in crate::burn) fn apply(
    function: Function,
    x: Primitive,
    context: &Context,
    otherwise: fn(Primitive) -> Primitive,
) -> Result<Primitive, OpError> {
    if context.is_gpu() || context.is_autodiff() || x.dtype() != BurnType::F32 {
        return Ok(otherwise(x));
    }
    let shape = x.shape();
    let data = read_sync(B::float_into_data(x)).map_err(|error| OpError::new(error.to_string()))?;
    let mut values = data.try_into_vec::<f32>().map_err(|error| OpError::new(format!("{error:?}")))?;
    if values.len() < PARALLEL {
        each(function, &mut values);
    } else {
        values.par_chunks_mut(PARALLEL / 4).for_each(|chunk| each(function, chunk));
    }
    Ok(B::float_from_data(TensorData::new(values, shape), &context.device))
}

/// With the widest instructions that the processor has and that fuse a product with a sum.
#[cfg(target_arch = "x86_64")]
fn each(function: Function, values: &mut [f32]) {
    match pulp::x86::V3::try_new() {
        Some(simd) => pulp::Simd::vectorize(simd, Each::<true> { function, values }),
        None => Each::<false> { function, values }.run(),
    }
}

/// Fused products are in every processor of this kind.
#[cfg(target_arch = "aarch64")]
fn each(function: Function, values: &mut [f32]) {
    Each::<true> { function, values }.run();
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn each(function: Function, values: &mut [f32]) {
    Each::<false> { function, values }.run();
}

struct Each<'a, const FUSED: bool> {
    function: Function,
    values: &'a mut [f32],
}

impl<const FUSED: bool> Each<'_, FUSED> {
    #[inline(always)]
    fn run(self) {
        match self.function {
            Function::Tanh => self.values.iter_mut().for_each(|value| *value = tanh::<FUSED>(*value)),
            Function::Erf => self.values.iter_mut().for_each(|value| *value = erf::<FUSED>(*value)),
            Function::Gelu => self.values.iter_mut().for_each(|value| *value = gelu::<FUSED>(*value)),
            Function::TanhGelu => self.values.iter_mut().for_each(|value| *value = tanh_gelu::<FUSED>(*value)),
            Function::Sigmoid => self.values.iter_mut().for_each(|value| *value = sigmoid::<FUSED>(*value)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl pulp::WithSimd for Each<'_, true> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.run();
    }
}

/// `a * b + c`, rounded once where the processor can (in software that would take longer than all the rest).
#[inline(always)]
fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Horner's scheme, the highest power first.
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for &coefficient in &coefficients[1..] {
        sum = fma::<FUSED>(sum, x, coefficient);
    }
    sum
}

#[inline(always)]
fn tanh<const FUSED: bool>(x: f32) -> f32 {
    const ODD: [f32; 7] =
        [-2.760_768_5e-16, 2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3];
    const EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_5e-3, 4.893_525e-3];
    let x = x.clamp(-9.0, 9.0);
    let square = x * x;
    x * polynomial::<FUSED, 7>(square, ODD) / polynomial::<FUSED, 4>(square, EVEN)
}

#[inline(always)]
fn erf<const FUSED: bool>(x: f32) -> f32 {
    /// Beyond it the function is 1 in single precision.
    const LARGEST: f32 = 3.925;
    const BOUNDARY: f32 = 0.921_875;
    const SMALL: [f32; 6] =
        [-5.991_05e-4, 4.993_396e-3, -2.676_673_4e-2, 1.128_180_3e-1, -3.761_248_6e-1, 1.283_791_5e-1];
    const LARGE: [f32; 7] =
        [1.729_489_3e-5, -3.832_086_8e-4, 3.883_934_4e-3, -2.425_456e-2, 1.067_778_5e-1, 6.348_467e-1, 1.287_175_1e-1];
    let size = x.abs().min(LARGEST);
    let small = fma::<FUSED>(polynomial::<FUSED, 6>(size * size, SMALL), size, size);
    let large = 1.0 - exp::<FUSED>(-fma::<FUSED>(polynomial::<FUSED, 7>(size, LARGE), size, size));
    // `min` has dropped a NaN.
    if x.is_nan() { x } else { (if size > BOUNDARY { large } else { small }).copysign(x) }
}

#[inline(always)]
fn gelu<const FUSED: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// In the order, and with the roundings, of the nodes that exporters write.
#[inline(always)]
fn tanh_gelu<const FUSED: bool>(x: f32) -> f32 {
    /// sqrt(2 / pi)
    const ROOT: f32 = 0.797_884_6;
    let cubic = x * (x * (0.044_715 * x));
    x * (0.5 * (1.0 + tanh::<FUSED>(ROOT * (x + cubic))))
}

#[inline(always)]
fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    let power = exp::<FUSED>(-x.abs().min(80.0));
    let upper = 1.0 / (1.0 + power);
    // `min` has dropped a NaN.
    if x.is_nan() {
        x
    } else if x < 0.0 {
        power * upper
    } else {
        upper
    }
}

/// For arguments from -80 to 0, which is all that is asked of it here.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// ln 2 in two parts, so that the reduction is exact.
    const LN_2: [f32; 2] = [-6.931_457_5e-1, -1.428_606_8e-6];
    /// 1.5 * 2^23: adding it leaves the integer part in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 7] = [1.383_198_1e-3, 8.375_5e-3, 4.166_895e-2, 1.666_644_7e-1, 4.999_998_5e-1, 1.0, 1.0];
    let shifted = fma::<FUSED>(x, std::f32::consts::LOG2_E, ROUNDER);
    let power = shifted - ROUNDER;
    let rest = fma::<FUSED>(power, LN_2[1], fma::<FUSED>(power, LN_2[0], x));
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    polynomial::<FUSED, 7>(rest, COEFFICIENTS) * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(function: Function, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        each(function, &mut values);
        values
    }

    /// Abramowitz and Stegun 7.1.5, in double precision: enough terms for |x| < 3; beyond, erf is 1 within 3e-5.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120u32 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn grid() -> Vec<f32> {
        (-6000..=6000).map(|step| step as f32 / 2000.0).collect()
    }

    #[test]
    fn a_tangent_is_within_three_ulp_of_one_of_the_exact_one() {
        for (x, y) in grid().into_iter().zip(of(Function::Tanh, &grid())) {
            assert!((f64::from(y) - f64::from(x).tanh()).abs() < 3.6e-7, "tanh({x}) is not {y}");
        }
    }

    #[test]
    fn error_functions_are_within_an_ulp_of_one_of_the_exact_one() {
        for (x, y) in grid().into_iter().zip(of(Function::Erf, &grid())) {
            assert!((f64::from(y) - erf_series(f64::from(x))).abs() < 1.3e-7, "erf({x}) is not {y}");
        }
        for (x, y) in grid().into_iter().zip(of(Function::Gelu, &grid())) {
            let exact = 0.5 * f64::from(x) * (1.0 + erf_series(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2));
            assert!((f64::from(y) - exact).abs() < 4e-7, "gelu({x}) is not {y}");
        }
        for (x, y) in grid().into_iter().zip(of(Function::TanhGelu, &grid())) {
            let wide = f64::from(x);
            let inner = std::f64::consts::FRAC_2_PI.sqrt() * (wide + 0.044_715 * wide.powi(3));
            assert!((f64::from(y) - 0.5 * wide * (1.0 + inner.tanh())).abs() < 8e-7, "gelu({x}) is not {y}");
        }
    }

    #[test]
    fn a_sigmoid_is_exact_to_its_last_bits() {
        let grid: Vec<f32> = (-9000..=9000).map(|step| step as f32 / 100.0).collect();
        for (x, y) in grid.iter().zip(of(Function::Sigmoid, &grid)) {
            let exact = 1.0 / (1.0 + (-f64::from(*x)).exp());
            // Below -80 the answer is that of -80: 1.8e-35.
            assert!((f64::from(y) - exact).abs() < 3e-7 * exact.max(1e-28), "sigmoid({x}) is not {y} but {exact}");
        }
    }

    #[test]
    fn ends_and_what_is_no_number_stay_what_they_are() {
        let far = [f32::INFINITY, f32::NEG_INFINITY, 100.0, -100.0];
        assert_eq!(of(Function::Erf, &far), [1.0, -1.0, 1.0, -1.0]);
        let tangents = of(Function::Tanh, &far);
        assert_eq!(of(Function::Sigmoid, &far[..3]), [1.0, of(Function::Sigmoid, &[-80.0])[0], 1.0]);
        assert!(tangents.iter().all(|value| (value.abs() - 1.0).abs() < 3e-7), "{tangents:?}");
        let all = [Function::Tanh, Function::Erf, Function::Gelu, Function::TanhGelu, Function::Sigmoid];
        for function in all {
            assert!(of(function, &[f32::NAN])[0].is_nan(), "{function:?}");
        }
        assert_eq!(of(Function::Erf, &[-0.0])[0].to_bits(), (-0.0f32).to_bits());
    }
}
