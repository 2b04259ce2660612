//! Rows of a table, picked by a product: `cast(ids == [0, 1, .. n-1]) @ table`, as JAX and TensorFlow write embeddings.
//!
//! `hedge.PickRows` takes `ids [.., 1]`, the table with a row of zeros behind its own (which is what an id of no row gives)
//! and optionally the shape that `ids` is spread to before it is compared. The `n` columns of each id are never made.

use hedge_tensor::{DType, Tensor};

use super::DOMAIN;
use super::pattern::{Rewrite, either};
use super::scan::{Scan, input, is};
use crate::{Dim, Node};

/// Puts `hedge.PickRows` in the place of a product with one-hot rows.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let root = &scan.graph.nodes[index];
    let table = scan.constant(input(root, 1)).filter(|_| is(root, "MatMul"))?;
    let &[rows, columns] = table.shape() else { return None };
    let (cast, node) = scan.only(input(root, 0), "Cast")?;
    let to_floats = node.int("to", 0) == i64::from(DType::F32.onnx_code());
    let (equal, node) = scan.only(input(node, 0), "Equal").filter(|_| to_floats)?;
    let spread = either(node, "Equal").into_iter().find(|(numbers, _)| counts_up_to(scan, numbers, rows))?.1;
    let (ids, shape, expand) = match scan.only(spread, "Expand") {
        Some((expand, node)) => (input(node, 0), Some(input(node, 1)), Some(expand)),
        None => (spread, None, None),
    };
    if scan.shape(ids)?.last() != Some(&Dim::Known(1)) {
        return None;
    }
    let name = scan.fresh(root.outputs.first()?, "table");
    let node = Node {
        name: root.name.clone(),
        op: "PickRows".to_owned(),
        domain: DOMAIN.to_owned(),
        inputs: [ids, &name].into_iter().chain(shape).map(str::to_owned).collect(),
        outputs: root.outputs.clone(),
        attributes: [].into(),
    };
    let constants = vec![(name, with_a_row_of_zeros(table, rows, columns)?)];
    let consumed = [cast, equal].into_iter().chain(expand).collect();
    Some(Rewrite { constants, ..Rewrite::of(node, consumed) })
}

/// Whether the value is the integers from 0 to `count` exclusive along its last dimension, and has no other one.
fn counts_up_to(scan: &Scan<'_>, value: &str, count: usize) -> bool {
    let numbers = scan.constant(value).filter(|tensor| tensor.shape().last() == Some(&count) && tensor.len() == count);
    let numbers: Option<Vec<i64>> = numbers.and_then(|tensor| match tensor.dtype() {
        DType::I64 => tensor.to_vec().ok(),
        DType::I32 => Some(tensor.to_vec::<i32>().ok()?.into_iter().map(i64::from).collect()),
        _ => None,
    });
    numbers.is_some_and(|numbers| numbers.into_iter().eq(0..count as i64))
}

/// None where it is not of finite single floats: a product also takes what stands in the other rows, times zero.
fn with_a_row_of_zeros(table: &Tensor, rows: usize, columns: usize) -> Option<Tensor> {
    let mut values = if table.dtype() == DType::F32 { table.to_vec::<f32>().ok()? } else { return None };
    if !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    values.resize(values.len() + columns, 0.0);
    Tensor::from_vec(&[rows + 1, columns], values).ok()
}
