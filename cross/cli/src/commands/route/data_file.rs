//! Samples for a model's inputs as one safetensors file.
//!
//! ```text
//! NAME      a tensor for each input of the models, of the input's type; the first dimension counts the samples, the same for all.
//!           What the model takes: after the bundle's transforms.
//! split     optional, U8, I32 or I64, [samples]: 0 fits the agreement head, 1 tune, 2 calibration. Without it a sample's part is
//!           drawn at random.
//! label     optional, U8, I32 or I64, [samples]: the true class; it is reported on, never certified by.
//! ```

use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use hedge_certify::Role;
use hedge_tensor::{DType, NamedTensor, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use crate::failure::bad_usage;

/// The largest file that is read; it is read whole.
const MOST_BYTES: u64 = 8 << 30;
const SPLIT: &str = "split";
const LABEL: &str = "label";

/// The samples of a file.
#[derive(Debug)]
pub(super) struct DataFile {
    /// The samples of each input, in order.
    inputs: Vec<(String, Vec<Tensor>)>,
    /// What each sample is for, where the file says so.
    pub(super) roles: Option<Vec<Role>>,
    labels: Option<Vec<u32>>,
    samples: usize,
}

/// A data file that cannot be used.
#[derive(Debug, Error)]
enum DataError {
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
    #[error("it has {0} bytes; at most {MOST_BYTES} are read")]
    TooLarge(u64),
    #[error("it is no safetensors file")]
    Form(#[from] safetensors::SafeTensorError),
    #[error("tensor {name:?} is of type {dtype:?}, which no model takes")]
    Type { name: String, dtype: Dtype },
    #[error("tensor {name:?} has {has} samples along its first dimension, the others have {others}")]
    Samples { name: String, has: usize, others: usize },
    #[error("it holds no samples of any input")]
    Empty,
    #[error("tensor {name:?} holds {value} for sample {sample}; {takes}")]
    Value { name: &'static str, sample: usize, value: i64, takes: &'static str },
    #[error("tensor {name:?} must be U8, I32 or I64")]
    NotWhole { name: &'static str },
    #[error("a tensor's size and shape do not fit")]
    Tensor(#[from] hedge_tensor::TensorError),
}

impl DataFile {
    /// Reads a file; what is wrong with it is bad usage.
    pub(super) fn read(path: &Path) -> Result<Self> {
        read(path).map_err(|error| {
            let causes = format!("{:#}", anyhow::Error::new(error));
            bad_usage(
                format_args!("{}: {causes}", path.display()),
                "save a tensor for each model input with the samples along its first dimension, and `split` beside them",
            )
        })
    }

    /// How many samples there are.
    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// The inputs of some samples, stacked in this order, and their true classes.
    pub(super) fn batch(&self, samples: &[usize]) -> Result<(Vec<NamedTensor>, Vec<Option<u32>>)> {
        let stack = |(name, rows): &(String, Vec<Tensor>)| {
            let chosen: Vec<Tensor> = samples.iter().map(|&sample| rows[sample].clone()).collect();
            Ok(NamedTensor::new(name.clone(), Tensor::stack(&chosen)?))
        };
        let inputs = self.inputs.iter().map(stack).collect::<Result<Vec<_>>>().context("samples do not stack")?;
        let label = |&sample: &usize| self.labels.as_ref().map(|labels| labels[sample]);
        Ok((inputs, samples.iter().map(label).collect()))
    }
}

fn read(path: &Path) -> Result<DataFile, DataError> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > MOST_BYTES {
        return Err(DataError::TooLarge(bytes));
    }
    let file = Bytes::from(std::fs::read(path)?);
    let tensors = SafeTensors::deserialize(&file)?;
    let (mut inputs, mut roles, mut labels): (Vec<(String, Vec<Tensor>)>, _, _) = (Vec::new(), None, None);
    for (name, view) in tensors.tensors() {
        match name.as_str() {
            SPLIT => roles = Some(whole(SPLIT, &view)?),
            LABEL => labels = Some(whole(LABEL, &view)?),
            _ => {
                let rows = tensor(&name, &view, &file)?.rows()?;
                inputs.push((name, rows));
            }
        }
    }
    inputs.sort_by(|a, b| a.0.cmp(&b.0));
    let samples =
        inputs.iter().map(|(_, rows)| rows.len()).max().filter(|&samples| samples > 0).ok_or(DataError::Empty)?;
    let as_many = |name: &str, has: usize| {
        let name = name.to_owned();
        if has == samples { Ok(()) } else { Err(DataError::Samples { name, has, others: samples }) }
    };
    inputs.iter().try_for_each(|(name, rows)| as_many(name, rows.len()))?;
    for (name, values) in [(SPLIT, &roles), (LABEL, &labels)] {
        values.iter().try_for_each(|values: &Vec<i64>| as_many(name, values.len()))?;
    }
    Ok(DataFile {
        inputs,
        roles: roles.map(|values| values.into_iter().enumerate().map(role).collect()).transpose()?,
        labels: labels.map(|values| values.into_iter().enumerate().map(label).collect()).transpose()?,
        samples,
    })
}

fn role((sample, value): (usize, i64)) -> Result<Role, DataError> {
    match value {
        0 => Ok(Role::Fit),
        1 => Ok(Role::Tune),
        2 => Ok(Role::Calibration),
        _ => Err(DataError::Value { name: SPLIT, sample, value, takes: "it is 0 (fit), 1 (tune) or 2 (calibration)" }),
    }
}

fn label((sample, value): (usize, i64)) -> Result<u32, DataError> {
    let takes = "a class is 0 or more";
    u32::try_from(value).map_err(|_| DataError::Value { name: LABEL, sample, value, takes })
}

/// A tensor that shares the file's bytes.
fn tensor(name: &str, view: &TensorView<'_>, file: &Bytes) -> Result<Tensor, DataError> {
    let dtype = match view.dtype() {
        Dtype::BOOL => DType::Bool,
        Dtype::U8 => DType::U8,
        Dtype::I8 => DType::I8,
        Dtype::U16 => DType::U16,
        Dtype::I16 => DType::I16,
        Dtype::U32 => DType::U32,
        Dtype::I32 => DType::I32,
        Dtype::U64 => DType::U64,
        Dtype::I64 => DType::I64,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        dtype => return Err(DataError::Type { name: name.to_owned(), dtype }),
    };
    Ok(Tensor::new(dtype, view.shape().to_vec(), file.slice_ref(view.data()))?)
}

/// Whole numbers, one a sample.
fn whole(name: &'static str, view: &TensorView<'_>) -> Result<Vec<i64>, DataError> {
    let data = view.data();
    match (view.dtype(), view.shape()) {
        (Dtype::U8, [_]) => Ok(data.iter().map(|&value| i64::from(value)).collect()),
        (Dtype::I32, [_]) => Ok(data.as_chunks().0.iter().map(|&bytes| i64::from(i32::from_le_bytes(bytes))).collect()),
        (Dtype::I64, [_]) => Ok(data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()),
        _ => Err(DataError::NotWhole { name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Result<DataFile> {
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        DataFile::read(&path)
    }

    #[test]
    fn samples_are_taken_by_their_number() {
        let data = file(&[
            ("x", Dtype::U8, vec![3, 2], vec![0, 1, 10, 11, 20, 21]),
            ("label", Dtype::U8, vec![3], vec![7, 8, 9]),
            ("split", Dtype::U8, vec![3], vec![0, 2, 1]),
        ])
        .unwrap();
        assert_eq!(data.roles, Some(vec![Role::Fit, Role::Calibration, Role::Tune]));
        let (inputs, labels) = data.batch(&[2, 0]).unwrap();
        assert_eq!((inputs[0].name.as_str(), inputs[0].tensor.shape()), ("x", &[2, 2][..]));
        assert_eq!(inputs[0].tensor.bytes()[..], [20, 21, 0, 1]);
        assert_eq!(labels, [Some(9), Some(7)]);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_the_tensor() {
        let x = || ("x", Dtype::U8, vec![2], vec![0, 1]);
        for (tensors, said) in [
            (vec![], "no samples"),
            (vec![x(), ("split", Dtype::U8, vec![2], vec![1, 3])], "\"split\" holds 3 for sample 1"),
            (vec![x(), ("split", Dtype::U8, vec![1], vec![1])], "\"split\" has 1 samples"),
            (vec![x(), ("label", Dtype::F32, vec![2], vec![0; 8])], "\"label\" must be"),
            (vec![("x", Dtype::BF16, vec![1], vec![0; 2])], "BF16"),
        ] {
            let error = file(&tensors).unwrap_err();
            assert!(error.to_string().contains(said), "{error} does not say {said}");
            assert!(error.downcast_ref::<crate::failure::Usage>().is_some());
        }
    }
}
