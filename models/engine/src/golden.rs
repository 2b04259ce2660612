//! Golden vectors: inputs with known outputs, by which a device shows that it computes what it should.
//!
//! Kernels are wrong silently now and then (a reduction over a transposed tensor, a fused one), so a device serves a model
//! only after the model's golden vectors agreed on it.

use std::time::Duration;

use hedge_graph::Dim;
use hedge_tensor::{DType, NamedTensor, Tensor, TensorError, element_count};
use thiserror::Error;

use crate::{LoadError, PrepareError, RunError, Signature};

/// The sizes that stand in for the free dimensions of made-up inputs behind the batch, one after the other until the model
/// runs: some need a window's length of sound, some a few words.
const FREE_SIZES: [usize; 5] = [1, 16, 128, 512, 1024];

/// No made-up input has more elements: a picture of 2048 by 2048 in colours has fewer, and sizes that are tried after one
/// another on many free dimensions soon have more than memory holds.
const MOST_ELEMENTS: usize = 1 << 24;

/// How far a device may be from the reference: this much, or this much of the reference's largest value if that is more.
pub(crate) const TOLERANCE: f64 = 1e-3;

/// Inputs and, where they are known, the outputs that belong to them.
#[derive(Clone, PartialEq, Debug)]
pub struct Golden {
    /// One value for each of the model's inputs.
    pub inputs: Vec<NamedTensor>,
    /// The outputs that the inputs must give; empty: what the CPU gives is the reference.
    pub outputs: Vec<NamedTensor>,
}

/// Golden inputs that cannot be made.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("no golden input can be made for {name:?}: {why}")]
pub struct GoldenError {
    name: String,
    why: Unmade,
}

/// Why no input can be made up.
#[derive(Debug, Clone, PartialEq, Error)]
enum Unmade {
    #[error(
        "its shape {0:?} has more than {MOST_ELEMENTS} elements; give the model golden vectors of its own in a bundle"
    )]
    TooLarge(Vec<usize>),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// How two sets of outputs compare.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Agreement {
    /// The largest absolute difference, in units of max(1, largest absolute value of the reference tensor).
    pub error: f64,
}

/// Why a device may not run a model.
#[derive(Debug, Clone, PartialEq, Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("its golden outputs differ by {0:.2e} where {TOLERANCE:.0e} is allowed")]
    Disagrees(f64),
    #[error("its golden outputs have other shapes, types or non-finite values")]
    Differs,
    #[error("it was not ready within {0:?}")]
    NotReady(Duration),
    #[error("it is in quarantine after a fault")]
    Quarantined,
}

impl Golden {
    /// Fixed pseudo-random inputs for a model without golden vectors of its own, with the outputs that `run` gives for them: one
    /// row, and the first size of the other free dimensions with which the model runs.
    pub fn made_up(
        signature: &Signature,
        mut run: impl FnMut(&[Tensor]) -> Result<Vec<Tensor>, RunError>,
    ) -> Result<Golden, LoadError> {
        let mut first = None;
        for free in FREE_SIZES {
            let inputs = match Golden::inputs(signature, free) {
                Ok(inputs) => inputs,
                // What is wrong with a smaller size says more than that a larger one is too large.
                Err(error) => return Err(first.map_or(error.into(), LoadError::from)),
            };
            let tensors: Vec<Tensor> = inputs.iter().map(|input| input.tensor.clone()).collect();
            match run(&tensors) {
                Ok(outputs) => {
                    let names = signature.outputs.iter().map(|port| port.name.clone());
                    let outputs = names.zip(outputs).map(|(name, tensor)| NamedTensor { name, tensor }).collect();
                    return Ok(Golden { inputs, outputs });
                }
                Err(error @ RunError::Node { .. }) => first = first.or(Some(error)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(first.expect("there are sizes to try").into())
    }

    fn inputs(signature: &Signature, free: usize) -> Result<Vec<NamedTensor>, GoldenError> {
        // A name is one size: that of the rows, wherever it stands, is 1.
        let leading = signature.inputs.iter().filter_map(|port| port.shape.as_ref()?.first());
        let rows: Vec<&Dim> = leading.filter(|dim| matches!(dim, Dim::Named(_))).collect();
        let inputs = signature.inputs.iter().map(|port| {
            let size = |(axis, dim): (usize, &Dim)| match dim {
                Dim::Known(size) => *size,
                dim if axis == 0 || rows.contains(&dim) => 1,
                _ => free,
            };
            let shape: Vec<usize> = port.shape.iter().flatten().enumerate().map(size).collect();
            let tensor = made_up(port.dtype, shape).map_err(|why| GoldenError { name: port.name.clone(), why })?;
            Ok(NamedTensor::new(port.name.clone(), tensor))
        });
        inputs.collect()
    }
}

impl Agreement {
    /// Compares `actual` with `reference`, output by output; `None` where names, types or shapes differ or where a value
    /// is finite on one side only.
    pub fn of(actual: &[NamedTensor], reference: &[NamedTensor]) -> Option<Agreement> {
        let mut error = 0f64;
        for expected in reference {
            let found = actual.iter().find(|output| output.name == expected.name)?;
            error = error.max(difference(&found.tensor, &expected.tensor)?);
        }
        Some(Agreement { error })
    }

    /// Refuses outputs that do not agree with the reference.
    pub(crate) fn check(actual: &[NamedTensor], reference: &[NamedTensor]) -> Result<(), Refusal> {
        match Agreement::of(actual, reference) {
            Some(agreement) if agreement.is_close() => Ok(()),
            Some(agreement) => Err(Refusal::Disagrees(agreement.error)),
            None => Err(Refusal::Differs),
        }
    }

    /// Whether the difference is within what is allowed between devices.
    pub fn is_close(self) -> bool {
        self.error <= TOLERANCE
    }
}

/// Numbers in [-1, 1) for floats, 0 or 1 for everything else: valid as pixels, token ids and masks alike.
fn made_up(dtype: DType, shape: Vec<usize>) -> Result<Tensor, Unmade> {
    let Some(count) = element_count(&shape).filter(|&count| count <= MOST_ELEMENTS) else {
        return Err(Unmade::TooLarge(shape));
    };
    // A linear congruential generator (Knuth, MMIX): it only has to be the same everywhere.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32
    };
    let mut float = || f64::from(next()) * (1.0 / f64::from(1u32 << 23)) - 1.0;
    Ok(match dtype {
        DType::F32 => Tensor::from_vec(&shape, (0..count).map(|_| float() as f32).collect())?,
        DType::F64 => Tensor::from_vec(&shape, (0..count).map(|_| float()).collect())?,
        DType::F16 => Tensor::from_vec(&shape, (0..count).map(|_| half::f16::from_f64(float())).collect())?,
        _ => {
            let mut bytes = Vec::with_capacity(count * dtype.size_bytes());
            for _ in 0..count {
                bytes.push(u8::from(float() > 0.0));
                bytes.resize(bytes.len() + dtype.size_bytes() - 1, 0);
            }
            Tensor::new(dtype, shape, bytes.into())?
        }
    })
}

fn difference(actual: &Tensor, reference: &Tensor) -> Option<f64> {
    if actual.dtype() != reference.dtype() || actual.shape() != reference.shape() {
        return None;
    }
    if !reference.dtype().is_float() {
        return (actual == reference).then_some(0.0);
    }
    let (actual, reference) = (actual.to_doubles()?, reference.to_doubles()?);
    let scale = reference.iter().filter(|value| value.is_finite()).fold(1f64, |scale, value| scale.max(value.abs()));
    let mut error = 0f64;
    for (a, b) in actual.into_iter().zip(reference) {
        if a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        if !a.is_finite() || !b.is_finite() {
            return None;
        }
        error = error.max((a - b).abs() / scale);
    }
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(values: &[f32]) -> Vec<NamedTensor> {
        vec![NamedTensor::new("y", Tensor::from_slice(&[values.len()], values).unwrap())]
    }

    #[test]
    fn agreement_is_relative_to_the_largest_reference_above_one() {
        assert!(Agreement::of(&named(&[1000.5]), &named(&[1000.0])).unwrap().is_close());
        assert!(!Agreement::of(&named(&[0.502]), &named(&[0.5])).unwrap().is_close());
    }

    #[test]
    fn a_nan_where_the_reference_has_none_never_agrees() {
        assert_eq!(Agreement::of(&named(&[f32::NAN]), &named(&[0.0])), None);
        assert_eq!(Agreement::of(&named(&[f32::INFINITY]), &named(&[0.0])), None);
        assert!(Agreement::of(&named(&[f32::NAN]), &named(&[f32::NAN])).unwrap().is_close());
    }

    fn signature(shape: &[Dim]) -> Signature {
        let mut b = hedge_graph::GraphBuilder::new("relu");
        let x = b.input("x", DType::F32, shape);
        b.op_as("y", "Relu", &[&x], &[]);
        b.output("y", DType::F32, shape);
        Signature::of(&b.finish().unwrap())
    }

    #[test]
    fn an_input_that_is_declared_larger_than_memory_is_refused_and_never_made() {
        let ran = |_: &[Tensor]| -> Result<Vec<Tensor>, RunError> { panic!("nothing was made to run on") };
        let refused = Golden::made_up(&signature(&[(1 << 20).into(), (1 << 20).into()]), ran).unwrap_err();
        assert!(matches!(refused, LoadError::Golden(_)), "{refused}");
    }

    #[test]
    fn sizes_are_tried_until_they_are_too_large_and_the_first_failure_is_told() {
        let mut tried = Vec::new();
        let fails = |inputs: &[Tensor]| {
            tried.push(inputs[0].len());
            Err(RunError::Node { node: "n".into(), op: "Conv".into(), why: format!("{} is not 3", tried.len()) })
        };
        let free = vec![Dim::Unknown; 5];
        let refused = Golden::made_up(&signature(&free), fails).unwrap_err();
        assert!(refused.to_string().contains("1 is not 3"), "{refused}");
        assert_eq!(tried, [1, 16 * 16 * 16 * 16]);
    }

    #[test]
    fn a_missing_output_or_another_shape_never_agrees() {
        assert_eq!(Agreement::of(&[], &named(&[0.0])), None);
        assert_eq!(Agreement::of(&named(&[0.0, 1.0]), &named(&[0.0])), None);
    }
}
