//! Integer matrix products.

use std::sync::Arc;

use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::super::{BoxOp, Builder, OpError, broadcast_shape, host, on_host};
use super::product::{Kept, Requantize, multiply_all, single, widened};
use super::{float_tensor, floats, narrowed, quantized, range_of};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "MatMulInteger" => Some(|_, _| matmul_integer()),
        "QLinearMatMul" => Some(|_, _| qlinear_matmul()),
        _ => None,
    }
}

fn matmul_integer() -> Result<BoxOp, OpError> {
    let product = IntegerProduct::new();
    on_host(move |inputs| {
        let zero = |index| host::optional(inputs, index);
        let sums = product.run((host::need(inputs, 0)?, zero(2)), (host::need(inputs, 1)?, zero(3)))?;
        Ok(vec![Tensor::from_slice(&sums.shape, &sums.values)?])
    })
}

fn qlinear_matmul() -> Result<BoxOp, OpError> {
    let product = IntegerProduct::new();
    on_host(move |inputs| {
        let need = |index| host::need(inputs, index);
        let sums = product.run((need(0)?, Some(need(2)?)), (need(3)?, Some(need(5)?)))?;
        let zero = need(7)?;
        let (dtype, zeros, output) = (zero.dtype(), floats(zero)?, floats(need(6)?)?);
        let (low, high) = range_of(dtype)?;
        let rows = PerRow::new(floats(need(1)?)?, &sums, "a_scale")?;
        let columns = PerColumn::new(floats(need(4)?)?, &sums, "b_scale")?;
        let (outputs, zeros) = (PerRow::new(output, &sums, "y_scale")?, PerRow::new(zeros, &sums, "y_zero_point")?);
        let values: Vec<f32> = sums
            .values
            .iter()
            .enumerate()
            .map(|(index, &sum)| {
                let (row, column) = (index / sums.columns, index % sums.columns);
                let scale = rows.at(row) * columns.at(row, column) / outputs.at(row);
                quantized(sum as f32 * scale, zeros.at(row), low, high)
            })
            .collect();
        Ok(vec![narrowed(&values, &sums.shape, dtype)?])
    })
}

/// Sums times the scales of both operands, with a bias.
pub(in super::super) fn matmul_to_float() -> Result<BoxOp, OpError> {
    let product = IntegerProduct::new();
    on_host(move |inputs| {
        let (need, optional) = (|index| host::need(inputs, index), |index| host::optional(inputs, index));
        let sums = product.run((need(0)?, optional(4)), (need(1)?, optional(5)))?;
        let dtype = need(2)?.dtype();
        let values = sums.scaled(floats(need(2)?)?, floats(need(3)?)?, optional(6))?;
        Ok(vec![float_tensor(values, &sums.shape, dtype)?])
    })
}

/// As [`matmul_to_float`], of a left operand that is quantized on the way.
pub(in super::super) fn dynamic_matmul() -> Result<BoxOp, OpError> {
    let product = IntegerProduct::new();
    on_host(move |inputs| {
        let (need, optional) = (|index| host::need(inputs, index), |index| host::optional(inputs, index));
        let quantized = super::dynamic(&inputs[..1])?;
        let [x, scale, zero] = quantized.as_slice() else {
            return Err(OpError::new("its input was not quantized"));
        };
        let sums = product.run((x, Some(zero)), (need(1)?, optional(3)))?;
        let values = sums.scaled(floats(scale)?, floats(need(2)?)?, optional(4))?;
        Ok(vec![float_tensor(values, &sums.shape, DType::F32)?])
    })
}

/// A product of matrices, either of them transposed, to 8 bits or where it has no scale to floats. Its bias has the scale of
/// the product.
pub(in super::super) fn gemm(node: &Node) -> Result<BoxOp, OpError> {
    let (alpha, product) = (node.float("alpha", 1.0), IntegerProduct::new());
    let (transpose_a, transpose_b) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
    let turned = Kept::new();
    on_host(move |inputs| {
        let (need, optional) = (|index| host::need(inputs, index), |index| host::optional(inputs, index));
        let a = if transpose_a { transposed(need(0)?)? } else { need(0)?.clone() };
        let b = match transpose_b {
            true => turned.get(&[need(3)?], || transposed(need(3)?))?.as_ref().clone(),
            false => need(3)?.clone(),
        };
        let mut sums = product.run((&a, Some(need(2)?)), (&b, Some(need(5)?)))?;
        if let Some(bias) = optional(6) {
            sums.add(bias)?;
        }
        let scales = floats(need(4)?)?.into_iter().map(|scale| scale * alpha).collect();
        let Some(scale) = optional(7) else {
            let values = sums.scaled(floats(need(1)?)?, scales, None)?;
            return Ok(vec![float_tensor(values, &sums.shape, DType::F32)?]);
        };
        let output = Requantize::to(optional(8), a.dtype())?;
        let (low, high) = range_of(output.dtype)?;
        let divisor = single(scale, "y_scale")?;
        let factors: Vec<f32> = floats(need(1)?)?.into_iter().map(|scale| scale / divisor).collect();
        let values = sums.scaled(factors, scales, None)?;
        let values: Vec<f32> = values.into_iter().map(|value| quantized(value, output.zero, low, high)).collect();
        Ok(vec![narrowed(&values, &sums.shape, output.dtype)?])
    })
}

fn transposed(tensor: &Tensor) -> Result<Tensor, OpError> {
    let &[rows, columns] = tensor.shape() else {
        return Err(OpError::new(format!("a matrix is needed, but this one has shape {:?}", tensor.shape())));
    };
    if tensor.dtype().size_bytes() != 1 {
        return Err(OpError::new(format!("8-bit integers are multiplied, but its input is {}", tensor.dtype())));
    }
    let bytes = tensor.bytes();
    let turned: Vec<u8> =
        (0..columns).flat_map(|column| bytes.iter().skip(column).step_by(columns.max(1)).take(rows).copied()).collect();
    Ok(Tensor::new(tensor.dtype(), vec![columns, rows], turned.into())?)
}

/// A product's sums, row by row over all batches.
pub(super) struct Sums {
    pub(super) values: Vec<i32>,
    /// By numpy's rules.
    pub(super) shape: Vec<usize>,
    pub(super) columns: usize,
    /// Rows of one matrix.
    rows: usize,
}

impl Sums {
    /// With a bias of 32-bit integers, which broadcasts over the matrix.
    fn add(&mut self, bias: &Tensor) -> Result<(), OpError> {
        let bias_values = bias.to_vec::<i32>()?;
        let (columns, rows) = (self.columns, self.rows);
        let steps = match *bias.shape() {
            [] | [1] | [1, 1] => (0, 0),
            [size] | [1, size] if size == columns => (0, 1),
            [size, 1] if size == rows => (1, 0),
            [first, second] if (first, second) == (rows, columns) => (columns, 1),
            _ => return Err(OpError::new(format!("a bias of shape {:?} does not fit {:?}", bias.shape(), self.shape))),
        };
        for (row, sums) in self.values.chunks_mut(columns.max(1)).enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum = sum.wrapping_add(bias_values[row * steps.0 + column * steps.1]);
            }
        }
        Ok(())
    }

    /// As floats, times the scales of rows and of columns, and with a bias of each column.
    fn scaled(&self, rows: Vec<f32>, columns: Vec<f32>, bias: Option<&Tensor>) -> Result<Vec<f32>, OpError> {
        let rows = PerRow::new(rows, self, "the left scale")?;
        let columns = PerColumn::new(columns, self, "the right scale")?;
        let bias = bias.map(|bias| PerColumn::new(floats(bias)?, self, "its bias")).transpose()?;
        let scaled = self.values.iter().enumerate().map(|(index, &sum)| {
            let (row, column) = (index / self.columns, index % self.columns);
            let product = sum as f32 * (rows.at(row) * columns.at(row, column));
            product + bias.as_ref().map_or(0.0, |bias| bias.at(row, column))
        });
        Ok(scaled.collect())
    }
}

/// Parameters of one, of each row of a matrix, or of each row of all matrices.
struct PerRow(Vec<f32>);

impl PerRow {
    fn new(values: Vec<f32>, sums: &Sums, what: &str) -> Result<Self, OpError> {
        let all = sums.values.len() / sums.columns.max(1);
        if values.len() == 1 || values.len() == sums.rows || values.len() == all || sums.values.is_empty() {
            return Ok(PerRow(values));
        }
        Err(OpError::new(format!("{what} has {} elements for {} rows", values.len(), sums.rows)))
    }

    fn at(&self, row: usize) -> f32 {
        self.0[row % self.0.len()]
    }
}

/// Parameters of one, of each column, or of each column of all matrices.
pub(super) struct PerColumn {
    values: Vec<f32>,
    columns: usize,
    rows: usize,
}

impl PerColumn {
    pub(super) fn new(values: Vec<f32>, sums: &Sums, what: &str) -> Result<Self, OpError> {
        let matrices = sums.values.len() / (sums.columns * sums.rows).max(1);
        let fits = [1, sums.columns, sums.columns * matrices].contains(&values.len()) || sums.values.is_empty();
        fits.then_some(PerColumn { values, columns: sums.columns, rows: sums.rows })
            .ok_or_else(|| OpError::new(format!("{what} does not fit {} columns", sums.columns)))
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f32 {
        self.values[(row / self.rows * self.columns + column) % self.values.len()]
    }
}

/// An operand and its zero points.
pub(super) type Operand<'a> = (&'a Tensor, Option<&'a Tensor>);

/// numpy's `matmul` of 8-bit tensors. A right operand of one matrix, as weights are, is laid out once.
pub(super) struct IntegerProduct {
    weights: Kept<Vec<i16>>,
}

impl IntegerProduct {
    pub(super) fn new() -> Self {
        IntegerProduct { weights: Kept::new() }
    }

    pub(super) fn run(&self, left: Operand, right: Operand) -> Result<Sums, OpError> {
        let (a, b) = (left.0.shape().to_vec(), right.0.shape().to_vec());
        let none = || OpError::new(format!("{a:?} and {b:?} have no matrix product"));
        let (row, column) = (a.len() == 1, b.len() == 1);
        let full_a = if row { vec![1, a[0]] } else { a.clone() };
        let full_b = if column { vec![b[0], 1] } else { b.clone() };
        let ([outer_a @ .., rows, depth], [outer_b @ .., other, columns]) = (full_a.as_slice(), full_b.as_slice())
        else {
            return Err(none());
        };
        if depth != other {
            return Err(none());
        }
        let (rows, depth, columns) = (*rows, *depth, *columns);
        let batch = broadcast_shape(outer_a, outer_b)?;
        let lefts = left_rows(left, rows, depth)?;
        let rights = match outer_b {
            [] => {
                let operands: Vec<&Tensor> = std::iter::once(right.0).chain(right.1).collect();
                self.weights.get(&operands, || right_rows(right, depth, columns))?
            }
            _ => Arc::new(right_rows(right, depth, columns)?),
        };
        let mut shape = batch.clone();
        shape.extend((!row).then_some(rows));
        shape.extend((!column).then_some(columns));
        let size = hedge_tensor::element_count(&batch).and_then(|count| count.checked_mul(rows * columns));
        let mut values = vec![0; size.ok_or_else(none)?];
        if outer_b.iter().all(|&size| size == 1) && outer_a == batch {
            multiply_all(&lefts, &rights, depth, &mut values);
        } else if rows * columns > 0 {
            for (index, out) in values.chunks_mut(rows * columns).enumerate() {
                let a = position(index, &batch, outer_a) * rows * depth;
                let b = position(index, &batch, outer_b) * columns * depth;
                multiply_all(&lefts[a..a + rows * depth], &rights[b..b + columns * depth], depth, out);
            }
        }
        Ok(Sums { values, shape, columns, rows })
    }
}

/// Where the matrix lies that broadcasting takes for matrix `index` of `batch`.
fn position(mut index: usize, batch: &[usize], own: &[usize]) -> usize {
    let (mut position, mut step) = (0, 1);
    for axis in (0..batch.len()).rev() {
        let place = index % batch[axis];
        index /= batch[axis];
        if let Some(size) = (axis + own.len()).checked_sub(batch.len()).map(|axis| own[axis]) {
            position += if size == 1 { 0 } else { place * step };
            step *= size;
        }
    }
    position
}

/// The left operand's rows without zero points, which are one or one for each row.
fn left_rows((tensor, zero): Operand, rows: usize, depth: usize) -> Result<Vec<i16>, OpError> {
    let mut values = widened(tensor)?;
    let Some(zeros) = zeros(zero, tensor.dtype())? else { return Ok(values) };
    let all = values.len() / depth.max(1);
    if ![1, rows, all].contains(&zeros.len()) && !values.is_empty() {
        return Err(OpError::new(format!("{} zero points do not fit {rows} rows", zeros.len())));
    }
    for (row, values) in values.chunks_mut(depth.max(1)).enumerate() {
        let zero = zeros[row % zeros.len()];
        values.iter_mut().for_each(|value| *value -= zero);
    }
    Ok(values)
}

/// The right operand's columns, each made a row, without zero points, which are one or one for each column.
fn right_rows((tensor, zero): Operand, depth: usize, columns: usize) -> Result<Vec<i16>, OpError> {
    let values = widened(tensor)?;
    let zeros = zeros(zero, tensor.dtype())?.unwrap_or_else(|| vec![0]);
    let matrices = values.len() / (depth * columns).max(1);
    if ![1, columns, columns * matrices].contains(&zeros.len()) && !values.is_empty() {
        return Err(OpError::new(format!("{} zero points do not fit {columns} columns", zeros.len())));
    }
    let mut rows = vec![0; values.len()];
    for (index, row) in rows.chunks_mut(depth.max(1)).enumerate() {
        let (matrix, column) = (index / columns, index % columns);
        let zero = zeros[index % zeros.len()];
        let column = values[matrix * depth * columns + column..].iter().step_by(columns);
        row.iter_mut().zip(column).for_each(|(to, from)| *to = from - zero);
    }
    Ok(rows)
}

/// Zero points; none where they are all 0.
pub(super) fn zeros(tensor: Option<&Tensor>, dtype: DType) -> Result<Option<Vec<i16>>, OpError> {
    let Some(tensor) = tensor else { return Ok(None) };
    if tensor.dtype() != dtype {
        return Err(OpError::new(format!("its zero point is {}, but the input {dtype}", tensor.dtype())));
    }
    let zeros = widened(tensor)?;
    if zeros.is_empty() {
        return Err(OpError::new("its zero point has no elements"));
    }
    Ok(zeros.iter().any(|&zero| zero != 0).then_some(zeros))
}
