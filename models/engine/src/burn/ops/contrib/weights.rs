//! Products with weights of 2, 4 or 8 bits in blocks, and the inverse of matrices.

use std::sync::{Mutex, PoisonError};

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::super::quantized::{float_tensor, floats};
use super::super::{BoxOp, Builder, OpError, on_host, one, size_of};
use super::{Part, sum};
use crate::burn::Value;

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "MatMulNBits" => matmul,
        "Inverse" => |_, _| on_host(|inputs| Ok(vec![inverse(super::super::host::need(inputs, 0)?)?])),
        _ => return None,
    })
}

/// Weights `[N, K]` in blocks of `block` along K, each block packed into whole bytes, the first number lowest.
#[derive(Clone, Copy)]
struct Packing {
    rows: usize,
    depth: usize,
    block: usize,
    bits: usize,
}

/// Weights as they came and as they are used; constants come again as the same bytes.
struct Unpacked {
    packed: Tensor,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
    weights: Value,
}

fn matmul(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let size = |name: &str, default: i64| size_of(node.int(name, default));
    let packing =
        Packing { rows: size("N", 0)?, depth: size("K", 0)?, block: size("block_size", 0)?, bits: size("bits", 4)? };
    if ![2, 4, 8].contains(&packing.bits) || packing.block == 0 || !(packing.block * packing.bits).is_multiple_of(8) {
        return Err(OpError::new(format!(
            "blocks of {} numbers of {} bits are not supported",
            packing.block, packing.bits
        )));
    }
    if node.int("weight_prepacked", 0) != 0 {
        return Err(OpError::new("weight_prepacked is not supported"));
    }
    let matmul = Part::new("MatMul", &[], opset)?;
    let kept: Mutex<Option<Unpacked>> = Mutex::new(None);
    one(move |context, mut inputs| {
        let (a, packed) = (inputs.take(0)?, inputs.take(1)?.into_host().map_err(OpError::new)?);
        let dtype = a.dtype();
        let read = |value: Value| floats(&value.into_host().map_err(OpError::new)?);
        let scales = read(inputs.take(2)?)?;
        let zeros = match inputs.optional(3) {
            Some(zeros) if zeros.is_float() => Some(read(zeros)?),
            Some(zeros) => Some(packing.unpack_zeros(&zeros.into_host().map_err(OpError::new)?)?),
            None => None,
        };
        if inputs.optional(4).is_some() {
            return Err(OpError::new("a g_idx is not supported"));
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.as_ref().filter(|known| known.is(&packed, &scales, zeros.as_deref(), dtype));
        let weights = match known {
            Some(known) => known.weights.clone(),
            None => {
                let unpacked = packing.unpack(&packed, &scales, zeros.as_deref())?;
                let tensor = float_tensor(unpacked, &[packing.depth, packing.rows], dtype)?;
                let weights = Value::host(tensor).into_device(context)?;
                *kept = Some(Unpacked { packed, scales, zeros, weights: weights.clone() });
                weights
            }
        };
        drop(kept);
        sum(matmul.run(vec![Some(a), Some(weights)], context)?, inputs.optional(5), context)
    })
}

impl Unpacked {
    fn is(&self, packed: &Tensor, scales: &[f32], zeros: Option<&[f32]>, dtype: DType) -> bool {
        self.packed.bytes().as_ptr() == packed.bytes().as_ptr()
            && self.packed.len() == packed.len()
            && self.scales == scales
            && self.zeros.as_deref() == zeros
            && self.weights.dtype() == dtype
    }
}

impl Packing {
    fn blocks(self) -> usize {
        self.depth.div_ceil(self.block)
    }

    fn number(self, bytes: &[u8], index: usize) -> u8 {
        let bit = index * self.bits;
        let mask = u8::MAX >> (8 - self.bits);
        bytes[bit / 8] >> (bit % 8) & mask
    }

    /// The zero points of all blocks; each row of them begins in a byte of its own.
    fn unpack_zeros(self, zeros: &Tensor) -> Result<Vec<f32>, OpError> {
        let row = (self.blocks() * self.bits).div_ceil(8);
        let bytes = zeros.bytes();
        if zeros.dtype() != DType::U8 || Some(bytes.len()) != row.checked_mul(self.rows) {
            return Err(OpError::new(format!(
                "zero points of {} {:?} do not fit its weights",
                zeros.dtype(),
                zeros.shape()
            )));
        }
        let rows = bytes.chunks(row.max(1));
        Ok(rows.flat_map(|row| (0..self.blocks()).map(|block| f32::from(self.number(row, block)))).collect())
    }

    /// The weights as `[K, N]`, which is how they are multiplied.
    fn unpack(self, packed: &Tensor, scales: &[f32], zeros: Option<&[f32]>) -> Result<Vec<f32>, OpError> {
        let (blocks, stored) = (self.blocks(), self.block * self.bits / 8);
        let count = self.rows.checked_mul(blocks).filter(|&count| {
            count.checked_mul(stored) == Some(packed.bytes().len())
                && scales.len() == count
                && zeros.is_none_or(|zeros| zeros.len() == count)
        });
        if packed.dtype() != DType::U8 || count.is_none() {
            return Err(OpError::new(format!(
                "weights of {} {:?} with {} scales do not make {} rows of {}",
                packed.dtype(),
                packed.shape(),
                scales.len(),
                self.rows,
                self.depth
            )));
        }
        let middle = f32::from(1u8 << (self.bits - 1));
        let mut weights = vec![0.0; self.depth * self.rows];
        for (index, bytes) in packed.bytes().chunks(stored).enumerate() {
            let (row, start) = (index / blocks, index % blocks * self.block);
            let zero = zeros.map_or(middle, |zeros| zeros[index]);
            for place in 0..self.block.min(self.depth - start) {
                let number = f32::from(self.number(bytes, place));
                weights[(start + place) * self.rows + row] = (number - zero) * scales[index];
            }
        }
        Ok(weights)
    }
}

/// The inverse of each matrix, by elimination with the largest pivot of each column.
fn inverse(x: &Tensor) -> Result<Tensor, OpError> {
    let shape = x.shape();
    let [.., rows, columns] = shape else { return Err(OpError::new("a matrix is needed")) };
    if rows != columns {
        return Err(OpError::new(format!("{shape:?} is not square, so that it has no inverse")));
    }
    let values =
        x.to_doubles().ok_or_else(|| OpError::new(format!("floats are needed, but this one is {}", x.dtype())))?;
    let size = *rows;
    let mut inverses = Vec::with_capacity(values.len());
    for matrix in values.chunks((size * size).max(1)) {
        inverses.extend(inverted(matrix.to_vec(), size)?);
    }
    match x.dtype() {
        DType::F64 => Ok(Tensor::from_slice(shape, &inverses)?),
        dtype => float_tensor(inverses.into_iter().map(|value| value as f32).collect(), shape, dtype),
    }
}

fn inverted(mut matrix: Vec<f64>, size: usize) -> Result<Vec<f64>, OpError> {
    let mut inverse: Vec<f64> = (0..size * size).map(|index| f64::from(u8::from(index % (size + 1) == 0))).collect();
    for column in 0..size {
        let size_of = |row: &usize| matrix[row * size + column].abs();
        let pivot = (column..size).max_by(|a, b| size_of(a).total_cmp(&size_of(b))).unwrap_or(column);
        let head = matrix[pivot * size + column];
        if head == 0.0 {
            return Err(OpError::new("its matrix is singular"));
        }
        for values in [&mut matrix, &mut inverse] {
            for place in 0..size {
                values.swap(column * size + place, pivot * size + place);
                values[column * size + place] /= head;
            }
        }
        for row in (0..size).filter(|&row| row != column) {
            let factor = matrix[row * size + column];
            for values in [&mut matrix, &mut inverse] {
                for place in 0..size {
                    values[row * size + place] -= factor * values[column * size + place];
                }
            }
        }
    }
    Ok(inverse)
}
