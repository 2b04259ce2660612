//! Products of matrices.

use hedge_tensor::DType;

use super::fact::{Call, Fact, Rule, broadcast};
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "MatMul" => |call| call.maybe(call.dtype(0), matrix_product(call, 0, 1)),
        "MatMulInteger" => |call| call.maybe(Some(DType::I32), matrix_product(call, 0, 1)),
        "QLinearMatMul" => |call| call.maybe(call.dtype(7), matrix_product(call, 0, 3)),
        "Gemm" => gemm,
        "Attention" => attention,
        _ => return None,
    })
}

/// numpy's `matmul` of two inputs.
fn matrix_product(call: &Call<'_>, left: usize, right: usize) -> Option<Vec<Dim>> {
    let (a, b) = (call.shape(left)?, call.shape(right)?);
    let one = [Dim::Known(1)];
    let left = if a.len() == 1 { [&one[..], a].concat() } else { a.to_vec() };
    let right = if b.len() == 1 { [b, &one[..]].concat() } else { b.to_vec() };
    let ([batch @ .., m, _], [others @ .., _, n]) = (left.as_slice(), right.as_slice()) else { return None };
    let mut dims = broadcast(batch, others)?;
    dims.extend((a.len() > 1).then(|| m.clone()));
    dims.extend((b.len() > 1).then(|| n.clone()));
    Some(dims)
}

fn gemm(call: &Call<'_>) -> Option<Vec<Fact>> {
    let side = |index: usize, attribute: &str, own: usize| match call.shape(index) {
        Some(shape) if shape.len() == 2 => shape[if call.node.int(attribute, 0) == 0 { own } else { 1 - own }].clone(),
        _ => Dim::Unknown,
    };
    call.like(vec![side(0, "transA", 0), side(1, "transB", 1)])
}

/// Of ONNX's attention only the form with four dimensions and no cache; of Hedge's the one form there is.
fn attention(call: &Call<'_>) -> Option<Vec<Fact>> {
    let (Some([batch, heads, length, _]), Some([_, _, _, size])) = (call.shape(0), call.shape(2)) else {
        return call.maybe(call.dtype(0), None);
    };
    call.like(vec![batch.clone(), heads.clone(), length.clone(), size.clone()])
}
