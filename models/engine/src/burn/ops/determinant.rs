//! Determinants, by elimination with row pivots in 64-bit floats.

use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::host::{need, with_elements};
use super::number::{Number, tensor};
use super::{BoxOp, OpError, on_host};

pub(super) fn determinant(_: &Node, _: i64) -> Result<BoxOp, OpError> {
    on_host(|inputs| {
        let x = need(inputs, 0)?;
        let shape = x.shape();
        let [batch @ .., rows, columns] = shape else {
            return Err(OpError::new(format!("its input {shape:?} is no matrix")));
        };
        if rows != columns || !x.dtype().is_float() {
            return Err(OpError::new(format!(
                "{} {shape:?} has no determinant: square float matrices have",
                x.dtype()
            )));
        }
        Ok(vec![with_elements!(x.dtype(), T => each::<T>(x, batch, *rows))?])
    })
}

fn each<T: Number>(x: &Tensor, batch: &[usize], size: usize) -> Result<Tensor, OpError> {
    let values: Vec<f64> = x.to_vec::<T>()?.into_iter().map(Number::to_f64).collect();
    let matrices: usize = batch.iter().product();
    let of = |matrix: usize| eliminated(values[matrix * size * size..(matrix + 1) * size * size].to_vec(), size);
    let determinants: Vec<T> = (0..matrices).map(|matrix| T::from_double(of(matrix))).collect();
    tensor(x.dtype(), batch, &determinants)
}

/// The determinant of a matrix of `size` rows: the product of the pivots, its sign turned with each exchange of rows.
fn eliminated(mut matrix: Vec<f64>, size: usize) -> f64 {
    let mut determinant = 1.0;
    for column in 0..size {
        let magnitude = |row: usize| matrix[row * size + column].abs();
        let pivot = (column..size).max_by(|&a, &b| magnitude(a).total_cmp(&magnitude(b))).unwrap_or(column);
        let value = matrix[pivot * size + column];
        if value == 0.0 {
            return 0.0;
        }
        if pivot != column {
            (0..size).for_each(|at| matrix.swap(pivot * size + at, column * size + at));
            determinant = -determinant;
        }
        determinant *= value;
        for row in column + 1..size {
            let factor = matrix[row * size + column] / value;
            for at in column..size {
                matrix[row * size + at] -= factor * matrix[column * size + at];
            }
        }
    }
    determinant
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_of_rows_turns_the_sign_and_dependent_rows_give_zero() {
        assert_eq!(eliminated(vec![0., 1., 1., 0.], 2), -1.);
        assert_eq!(eliminated(vec![1., 2., 2., 4.], 2), 0.);
        assert_eq!(eliminated(Vec::new(), 0), 1.);
    }
}
