//! Reductions.

use hedge_tensor::DType;

use super::fact::{Call, Fact, Rule, axis_of};
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduction,
        "ArgMax" | "ArgMin" => |call| {
            let dims = call.shape(0).and_then(|shape| reduced(call, shape, &[call.axis(0, shape.len())?]));
            call.maybe(Some(DType::I64), dims)
        },
        _ => return None,
    })
}

fn reduction(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = call.shape(0).and_then(|shape| {
        let axes = match (call.ints_at("axes", 1), call.has(1)) {
            (Some(axes), _) if !axes.is_empty() => axes,
            // Axes that come at run time: the rank is kept if dimensions are.
            (None, true) => {
                let kept = call.node.int("keepdims", 1) != 0;
                return kept.then(|| vec![Dim::Unknown; shape.len()]);
            }
            _ if call.node.int("noop_with_empty_axes", 0) != 0 => return Some(shape.to_vec()),
            _ => (0..shape.len() as i64).collect(),
        };
        let axes: Vec<usize> = axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<_>>()?;
        reduced(call, shape, &axes)
    });
    call.maybe(call.dtype(0), dims)
}

fn reduced(call: &Call<'_>, shape: &[Dim], axes: &[usize]) -> Option<Vec<Dim>> {
    let kept = call.node.int("keepdims", 1) != 0;
    let dims = shape.iter().enumerate().filter(|(axis, _)| kept || !axes.contains(axis));
    Some(dims.map(|(axis, dim)| if axes.contains(&axis) { Dim::Known(1) } else { dim.clone() }).collect())
}
