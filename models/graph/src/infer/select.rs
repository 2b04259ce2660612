//! Operators that pick elements.

use hedge_tensor::DType;

use super::fact::{Call, Fact, Rule, axis_of, broadcast};
use super::number::Number;
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Slice" => slice,
        "Gather" => gather,
        "GatherElements" => |call| call.maybe(call.dtype(0), call.shape(1).map(<[Dim]>::to_vec)),
        "GatherND" => gather_nd,
        "OneHot" => one_hot,
        "PickRows" => pick_rows,
        "TopK" => top_k,
        "NonZero" => |call| {
            let rank = call.rank(0).map_or(Dim::Unknown, |rank| Dim::Known(rank.max(1)));
            call.maybe(Some(DType::I64), Some(vec![rank, Dim::Unknown]))
        },
        "Compress" => |call| {
            let rank = if call.node.attributes.contains_key("axis") { call.rank(0) } else { Some(1) };
            call.maybe(call.dtype(0), rank.map(|rank| vec![Dim::Unknown; rank]))
        },
        "NonMaxSuppression" => |call| call.maybe(Some(DType::I64), Some(vec![Dim::Unknown, Dim::Known(3)])),
        _ => return None,
    })
}

fn slice(call: &Call<'_>) -> Option<Vec<Fact>> {
    let Some(shape) = call.shape(0) else { return call.maybe(call.dtype(0), None) };
    let count = match (call.node.ints("starts"), call.shape(1)) {
        (Some(starts), _) => starts.len(),
        (None, Some(&[Dim::Known(count)])) => count,
        _ => return call.like(vec![Dim::Unknown; shape.len()]),
    };
    let given = |name: &str, index: usize| match call.node.ints(name) {
        Some(values) => Some(values.iter().map(|&value| Number::Known(value)).collect::<Vec<_>>()),
        None => call.value(index).map(<[Number]>::to_vec),
    };
    let (starts, ends) = (given("starts", 1), given("ends", 2));
    let axes = match (call.ints_at("axes", 3), call.has(3)) {
        (Some(axes), _) => axes,
        (None, false) => (0..count as i64).collect(),
        (None, true) => return call.like(vec![Dim::Unknown; shape.len()]),
    };
    let axes: Vec<usize> = axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<_>>()?;
    let steps = if call.has(4) { call.value(4).map(<[Number]>::to_vec) } else { Some(vec![Number::Known(1); count]) };
    let mut dims = shape.to_vec();
    let mut range = None;
    for (index, &axis) in axes.iter().enumerate() {
        let at = |values: &Option<Vec<Number>>| values.as_ref().and_then(|values| values.get(index).cloned());
        let (start, end, step) = (at(&starts), at(&ends), at(&steps).and_then(|step| step.known()));
        dims[axis] = sliced(&shape[axis], start.as_ref(), end.as_ref(), step);
        range = start.and_then(|start| start.known()).zip(end.and_then(|end| end.known())).zip(step);
    }
    let value = match (call.value(0), range) {
        (Some(values), Some(((start, end), step))) if shape.len() == 1 && axes.len() == 1 => {
            picked(values, start, end, step)
        }
        _ => None,
    };
    Some(vec![Fact { value, ..Fact::new(call.dtype(0), Some(dims)) }])
}

/// The size of a dimension after slicing it.
fn sliced(dim: &Dim, start: Option<&Number>, end: Option<&Number>, step: Option<i64>) -> Dim {
    let (Some(start), Some(end), Some(step)) = (start, end, step) else { return Dim::Unknown };
    match (dim, start, end) {
        (&Dim::Known(size), Number::Known(start), Number::Known(end)) => {
            positions(size, *start, *end, step).map_or(Dim::Unknown, |positions| Dim::Known(positions.len()))
        }
        // All of a dimension: from its start to as far as exporters write.
        (dim, Number::Known(0), Number::Known(end)) if step == 1 && *end >= i64::from(i32::MAX) => dim.clone(),
        // The dimension's own name as the end: all of it, too.
        (Dim::Named(name), Number::Known(0), Number::Named(end)) if step == 1 && name == end => dim.clone(),
        _ => Dim::Unknown,
    }
}

/// The positions that a slice picks, first to last, as ONNX clamps them; sizes of shapes only.
struct Positions {
    first: i64,
    count: usize,
    step: i64,
}

impl Positions {
    fn len(&self) -> usize {
        self.count
    }
}

fn positions(size: usize, start: i64, end: i64, step: i64) -> Option<Positions> {
    let size = i64::try_from(size).ok()?;
    let counted = |bound: i64| if bound < 0 { bound.saturating_add(size) } else { bound };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let first = if step > 0 { counted(start).clamp(0, size) } else { counted(start).clamp(0.min(size - 1), size - 1) };
    let last = counted(end).clamp(low, high);
    let span = if step > 0 { last - first } else { first - last };
    let stride = step.checked_abs().filter(|&stride| stride > 0)?;
    let count = if span > 0 { (span - 1) / stride + 1 } else { 0 };
    Some(Positions { first, count: usize::try_from(count).ok()?, step })
}

fn picked(values: &[Number], start: i64, end: i64, step: i64) -> Option<Vec<Number>> {
    let positions = positions(values.len(), start, end, step)?;
    let at = |index: usize| values.get(usize::try_from(positions.first + index as i64 * positions.step).ok()?).cloned();
    (0..positions.count).map(at).collect()
}

fn gather(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = || {
        let (shape, indices) = (call.shape(0)?, call.shape(1)?);
        let axis = call.axis(0, shape.len())?;
        Some([&shape[..axis], indices, &shape[axis + 1..]].concat())
    };
    let value = || {
        let values = call.value(0).filter(|_| call.rank(0) == Some(1))?;
        let indices = call.ints(1)?;
        indices.iter().map(|&index| values.get(axis_of(index, values.len())?).cloned()).collect::<Option<Vec<_>>>()
    };
    Some(vec![Fact { value: value(), ..Fact::new(call.dtype(0), dims()) }])
}

/// `hedge.PickRows`: the ids, spread to a shape where one is given, with the table's columns in place of their last dimension.
fn pick_rows(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = || {
        let target: Vec<Dim> = if call.has(2) { call.value(2)?.iter().map(Number::dim).collect() } else { Vec::new() };
        let ids = broadcast(call.shape(0)?, &target)?;
        Some([ids.split_last()?.1, call.shape(1)?.get(1..)?].concat())
    };
    call.maybe(call.dtype(1), dims())
}

fn gather_nd(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = || {
        let (shape, indices) = (call.shape(0)?, call.shape(1)?);
        let batch = usize::try_from(call.node.int("batch_dims", 0)).ok()?;
        let (Dim::Known(depth), leading) = indices.split_last()? else { return None };
        Some([leading, shape.get(batch.checked_add(*depth)?..)?].concat())
    };
    call.maybe(call.dtype(0), dims())
}

fn one_hot(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = || {
        let mut dims = call.shape(0)?.to_vec();
        let axis = call.axis(-1, dims.len() + 1)?;
        let depth = call.value(1).and_then(|depth| depth.first()).map_or(Dim::Unknown, Number::dim);
        dims.insert(axis, depth);
        Some(dims)
    };
    call.maybe(call.dtype(2), dims())
}

fn top_k(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = || {
        let mut dims = call.shape(0)?.to_vec();
        let axis = call.axis(-1, dims.len())?;
        let attribute = call.node.attributes.contains_key("k").then(|| Number::Known(call.node.int("k", 0)));
        let count = attribute.or_else(|| call.value(1)?.first().cloned());
        dims[axis] = count.map_or(Dim::Unknown, |count| count.dim());
        Some(dims)
    };
    let dims = dims();
    Some(vec![Fact::new(call.dtype(0), dims.clone()), Fact::new(Some(DType::I64), dims)])
}
