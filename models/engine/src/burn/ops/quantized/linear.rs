//! Integer matrix products.

use std::borrow::Cow;
use std::sync::Arc;

use burn_backend::TensorData;
use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::super::linear::matmul;
use super::super::{BoxOp, Builder, OpError, broadcast_shape, host, on_cpu, on_host};
use super::product::{EXACT_DEPTH, Kept, Requantize, held, is_exact, multiply_all, single, whole, whole_of, widened};
use super::{float_tensor, floats, narrowed, quantized, range_of};
use crate::burn::{B, Context, Value};

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
        let sums = product.run(Left::tensor(host::need(inputs, 0)?, zero(2))?, (host::need(inputs, 1)?, zero(3)))?;
        Ok(vec![Tensor::from_slice(&sums.shape, &sums.values)?])
    })
}

fn qlinear_matmul() -> Result<BoxOp, OpError> {
    let product = IntegerProduct::new();
    on_cpu(move |context, mut inputs| {
        let a = inputs.take(0)?;
        let inputs = (0..8).map(|index| inputs.optional(index).map(Value::into_host).transpose());
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let need = |index| host::need(&inputs, index);
        let sums = product.run(Left::of(&a, Some(need(2)?))?, (need(3)?, Some(need(5)?)))?;
        let zero = need(7)?;
        let (dtype, zeros, output) = (zero.dtype(), floats(zero)?, floats(need(6)?)?);
        let (low, high) = range_of(dtype)?;
        let rows = PerRow::new(floats(need(1)?)?, &sums, "a_scale")?;
        let columns = PerColumn::new(floats(need(4)?)?, &sums, "b_scale")?;
        let (outputs, zeros) = (PerRow::new(output, &sums, "y_scale")?, PerRow::new(zeros, &sums, "y_zero_point")?);
        let mut values = sums.times(|row, column| rows.at(row) * columns.at(row, column) / outputs.at(row));
        for (row, values) in values.chunks_mut(sums.columns.max(1)).enumerate() {
            let zero = zeros.at(row);
            values.iter_mut().for_each(|value| *value = quantized(*value, zero, low, high));
        }
        held(values, sums.shape, dtype, context)
    })
}

/// Sums times the scales of both operands, with a bias.
pub(in super::super) fn matmul_to_float() -> Result<BoxOp, OpError> {
    let product = IntegerProduct::new();
    on_host(move |inputs| {
        let (need, optional) = (|index| host::need(inputs, index), |index| host::optional(inputs, index));
        let sums = product.run(Left::tensor(need(0)?, optional(4))?, (need(1)?, optional(5)))?;
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
        let sums = product.run(Left::tensor(x, Some(zero))?, (need(1)?, optional(3)))?;
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
        let mut sums = product.run(Left::tensor(&a, Some(need(2)?))?, (&b, Some(need(5)?)))?;
        if let Some(bias) = optional(6) {
            sums.add(bias)?;
        }
        // One factor for each column, made in this order.
        let left = alpha * single(need(1)?, "a_scale")?;
        let mut scales: Vec<f32> = floats(need(4)?)?.into_iter().map(|scale| left * scale).collect();
        let Some(scale) = optional(7) else {
            let values = sums.scaled(vec![1.0], scales, None)?;
            return Ok(vec![float_tensor(values, &sums.shape, DType::F32)?]);
        };
        let output = Requantize::to(optional(8), a.dtype())?;
        let (low, high) = range_of(output.dtype)?;
        let divisor = single(scale, "y_scale")?;
        scales.iter_mut().for_each(|scale| *scale /= divisor);
        let values = sums.scaled(vec![1.0], scales, None)?;
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
        let mut values = self.times(|row, column| rows.at(row) * columns.at(row, column));
        if let Some(bias) = &bias {
            for (row, values) in values.chunks_mut(self.columns.max(1)).enumerate() {
                values.iter_mut().enumerate().for_each(|(column, value)| *value += bias.at(row, column));
            }
        }
        Ok(values)
    }

    /// As floats, times a factor of each row and column.
    fn times(&self, factor: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.values.len());
        let mut factors: Vec<f32> = Vec::new();
        for (row, sums) in self.values.chunks(self.columns.max(1)).enumerate() {
            factors.clear();
            factors.extend((0..self.columns).map(|column| factor(row, column)));
            values.extend(sums.iter().zip(&factors).map(|(&sum, factor)| sum as f32 * factor));
        }
        values
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
        if let [value] = self.0.as_slice() { *value } else { self.0[row % self.0.len()] }
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
        if self.values.len() == self.columns {
            return self.values[column];
        }
        self.values[(row / self.rows * self.columns + column) % self.values.len()]
    }
}

/// The left operand as floats, and its zero points.
pub(super) struct Left<'a> {
    values: Cow<'a, [f32]>,
    shape: Vec<usize>,
    zeros: Option<Vec<i16>>,
}

impl<'a> Left<'a> {
    fn of(value: &'a Value, zero: Option<&Tensor>) -> Result<Self, OpError> {
        Ok(Left { values: whole_of(value)?, shape: value.shape(), zeros: zeros(zero, value.dtype())? })
    }

    fn tensor(tensor: &Tensor, zero: Option<&Tensor>) -> Result<Self, OpError> {
        let (values, shape) = (Cow::Owned(whole(tensor)?), tensor.shape().to_vec());
        Ok(Left { values, shape, zeros: zeros(zero, tensor.dtype())? })
    }

    /// The rows without zero points, which are one or one for each row.
    fn floats(self, rows: usize, depth: usize) -> Result<Vec<f32>, OpError> {
        let mut values = self.values.into_owned();
        let Some(zeros) = self.zeros else { return Ok(values) };
        if ![1, rows, values.len() / depth.max(1)].contains(&zeros.len()) && !values.is_empty() {
            return Err(OpError::new(format!("{} zero points do not fit {rows} rows", zeros.len())));
        }
        for (row, values) in values.chunks_mut(depth.max(1)).enumerate() {
            let zero = f32::from(zeros[row % zeros.len()]);
            values.iter_mut().for_each(|value| *value -= zero);
        }
        Ok(values)
    }
}

/// An operand and its zero points.
pub(super) type Operand<'a> = (&'a Tensor, Option<&'a Tensor>);

/// numpy's `matmul` of 8-bit tensors. A right operand of one matrix, as weights are, is laid out once.
pub(super) struct IntegerProduct {
    weights: Kept<Right>,
    host: Context,
}

/// The right operand without its zero points.
enum Right {
    /// As it lies, in floats, where these give exact sums.
    Floats(Value),
    /// Its columns as rows.
    Rows(Vec<i16>),
}

impl Right {
    fn of(right: Operand, (depth, columns): (usize, usize), host: &Context) -> Result<Self, OpError> {
        let exact = |values: &[f32]| (0..columns).all(|at| is_exact(values[at..].iter().step_by(columns).copied()));
        if columns > 0 && (depth <= EXACT_DEPTH || right.0.shape().len() <= 2) {
            let values = right_floats(right, depth, columns)?;
            if depth <= EXACT_DEPTH || exact(&values) {
                let value = Value::host(Tensor::from_slice(right.0.shape(), &values)?);
                return Ok(Right::Floats(Value::float(value.into_float(host)?)));
            }
        }
        Ok(Right::Rows(right_rows(right, depth, columns)?))
    }
}

impl IntegerProduct {
    pub(super) fn new() -> Self {
        IntegerProduct { weights: Kept::new(), host: Context::host() }
    }

    pub(super) fn run(&self, left: Left, right: Operand) -> Result<Sums, OpError> {
        let (a, b) = (left.shape.clone(), right.0.shape().to_vec());
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
        let prepare = || Right::of(right, (depth, columns), &self.host);
        let rights = match outer_b {
            [] => {
                let operands: Vec<&Tensor> = std::iter::once(right.0).chain(right.1).collect();
                self.weights.get(&operands, prepare)?
            }
            _ => Arc::new(prepare()?),
        };
        let mut shape = batch.clone();
        shape.extend((!row).then_some(rows));
        shape.extend((!column).then_some(columns));
        host::room(DType::I32, &shape)?;
        let rights = match rights.as_ref() {
            Right::Floats(rights) if !shape.contains(&0) && depth > 0 => {
                let data = TensorData::new(left.floats(rows, depth)?, a.clone());
                let lefts = Value::float(B::float_from_data(data, &self.host.device));
                let product = matmul(lefts, rights.clone(), &self.host)?;
                let values = product.singles()?.iter().map(|&sum| sum as i32).collect();
                return Ok(Sums { values, shape, columns, rows });
            }
            Right::Floats(_) => return Ok(Sums { values: vec![0; shape.iter().product()], shape, columns, rows }),
            Right::Rows(rights) => rights,
        };
        let lefts: Vec<i16> = left.floats(rows, depth)?.into_iter().map(|value| value as i16).collect();
        let size = hedge_tensor::element_count(&batch).and_then(|count| count.checked_mul(rows * columns));
        let mut values = vec![0; size.ok_or_else(none)?];
        if outer_b.iter().all(|&size| size == 1) && outer_a == batch {
            multiply_all(&lefts, rights, depth, &mut values);
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

fn column_zeros((tensor, zero): Operand, depth: usize, columns: usize) -> Result<Vec<i16>, OpError> {
    let zeros = zeros(zero, tensor.dtype())?.unwrap_or_else(|| vec![0]);
    let matrices = tensor.len() / (depth * columns).max(1);
    if ![1, columns, columns * matrices].contains(&zeros.len()) && !tensor.is_empty() {
        return Err(OpError::new(format!("{} zero points do not fit {columns} columns", zeros.len())));
    }
    Ok(zeros)
}

/// The right operand as it lies, without zero points, which are one or one for each column.
fn right_floats(right: Operand, depth: usize, columns: usize) -> Result<Vec<f32>, OpError> {
    let mut values = whole(right.0)?;
    let zeros = column_zeros(right, depth, columns)?;
    for (row, values) in values.chunks_mut(columns).enumerate() {
        let first = row / depth * columns;
        let zeros = (first..).map(|column| f32::from(zeros[column % zeros.len()]));
        values.iter_mut().zip(zeros).for_each(|(value, zero)| *value -= zero);
    }
    Ok(values)
}

/// The right operand's columns, each made a row, without zero points.
fn right_rows(right: Operand, depth: usize, columns: usize) -> Result<Vec<i16>, OpError> {
    let values = widened(right.0)?;
    let zeros = column_zeros(right, depth, columns)?;
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
