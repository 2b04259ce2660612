//! Operators of the domain `ai.onnx.ml`: what tables of numbers become in forests, linear models and the steps around them, as
//! scikit-learn's, LightGBM's and XGBoost's converters write them.
//!
//! Labels are integers: tensors have no texts here. Where ONNX leaves open what a classifier's scores are, they are
//! onnxruntime's. All of it is computed on the host, in single floats where onnxruntime does.

mod features;
mod forest;
mod linear;
mod scores;
mod trees;

use hedge_tensor::{DType, Tensor};

use super::host::{elements, with_elements};
use super::number::Number;
use super::{Builder, OpError};

/// The builder of an operator of `ai.onnx.ml`.
pub(super) fn builder(op: &str) -> Option<Builder> {
    features::builder(op).or_else(|| forest::builder(op)).or_else(|| linear::builder(op))
}

/// Rows of numbers of any type.
struct Rows {
    values: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Rows {
    /// A matrix, or a vector as one row of it.
    fn of(x: &Tensor) -> Result<Self, OpError> {
        let (rows, columns) = match *x.shape() {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            ref other => return Err(OpError::new(format!("its input is {other:?}, but must be rows of features"))),
        };
        Ok(Rows { values: numbers(x)?, rows, columns })
    }

    fn each(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.rows).map(|row| &self.values[row * self.columns..][..self.columns])
    }
}

/// The elements of any type. What a float of 32 bits does not hold is rounded to one, unless it came as one of 64.
fn numbers(x: &Tensor) -> Result<Vec<f64>, OpError> {
    if x.dtype() == DType::F64 {
        return Ok(x.to_vec()?);
    }
    with_elements!(x.dtype(), T => Ok(elements::<T>(x)?.into_iter().map(|value| f64::from(value.to_f64() as f32)).collect()))
}

/// A sum as it is in 32 bits, or in 64.
fn rounded(sum: f64, dtype: DType) -> f64 {
    if dtype == DType::F64 { sum } else { f64::from(sum as f32) }
}
