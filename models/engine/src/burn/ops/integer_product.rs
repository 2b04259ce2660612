//! Matrix products of integers, exact as numpy's: they wrap around at the type's width, where burn computes in one width
//! for all.

use hedge_tensor::Tensor;

use super::OpError;
use super::host::{for_each_index, strides};
use super::number::{Number, tensor, zeros};

/// The products of the matrices in `a` and `b`, whose leading dimensions broadcast to `batch`.
pub(super) fn product<T: Number>(a: &Tensor, b: &Tensor, batch: &[usize]) -> Result<Tensor, OpError> {
    let (left, right) = (a.shape(), b.shape());
    let (m, k, n) = (left[left.len() - 2], left[left.len() - 1], right[right.len() - 1]);
    let shape = [batch, &[m, n]].concat();
    let (a, b) = (a.to_vec::<T>()?, b.to_vec::<T>()?);
    let mut y = zeros::<T>(&shape)?;
    let mut matrix = 0;
    for_each_index(batch, |index| {
        let a = &a[matrix_at(left, index) * m * k..][..m * k];
        let b = &b[matrix_at(right, index) * k * n..][..k * n];
        let y = &mut y[matrix * m * n..][..m * n];
        for (row, a) in y.chunks_mut(n).zip(a.chunks(k)) {
            for (&factor, b) in a.iter().zip(b.chunks(n)) {
                row.iter_mut().zip(b).for_each(|(y, &b)| *y = y.plus(factor.times(b)));
            }
        }
        matrix += 1;
        Ok(())
    })?;
    tensor::<T>(T::DTYPE, &shape, &y)
}

/// Which matrix of `shape` stands at an index of the dimensions that its leading ones broadcast to.
fn matrix_at(shape: &[usize], index: &[usize]) -> usize {
    let leading = &shape[..shape.len() - 2];
    let index = &index[index.len() - leading.len()..];
    let steps = strides(leading);
    (0..leading.len()).map(|axis| if leading[axis] == 1 { 0 } else { index[axis] * steps[axis] }).sum()
}

/// `alpha * product + beta * addend`, the addend broadcast; factors other than 1 are applied in 64-bit floats.
pub(super) fn scaled_sum<T: Number>(
    product: &Tensor,
    addend: Option<&Tensor>,
    alpha: f32,
    beta: f32,
) -> Result<Tensor, OpError> {
    let shape = product.shape().to_vec();
    let mut y = product.to_vec::<T>()?;
    let scaled = |value: T, factor: f32| {
        if factor == 1.0 { value } else { T::from_double((value.to_f64() * f64::from(factor)).trunc()) }
    };
    y.iter_mut().for_each(|value| *value = scaled(*value, alpha));
    if let Some(addend) = addend {
        let from = addend.shape();
        let values = addend.to_vec::<T>()?;
        let steps = strides(from);
        let mut next = y.iter_mut();
        for_each_index(&shape, |index| {
            let index = &index[index.len() - from.len()..];
            let at: usize =
                (0..from.len()).map(|axis| if from[axis] == 1 { 0 } else { index[axis] * steps[axis] }).sum();
            if let Some(value) = next.next() {
                *value = value.plus(scaled(values[at], beta));
            }
            Ok(())
        })?;
    }
    tensor(product.dtype(), &shape, &y)
}

/// A matrix with its rows as columns.
pub(super) fn turned<T: Number>(x: &Tensor) -> Result<Tensor, OpError> {
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    let values = x.to_vec::<T>()?;
    let turned: Vec<T> = (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect();
    tensor(x.dtype(), &[columns, rows], &turned)
}
