//! Operators that make shapes, and values of a given shape.

use hedge_tensor::DType;

use super::MAX_VALUES;
use super::fact::{Call, Fact, Rule, broadcast, product};
use super::number::Number;
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Constant" => |call| Some(vec![Fact::of(&crate::passes::constant_of(call.node)?)]),
        "Shape" => shape,
        "Size" => |call| {
            let count = call.shape(0).map_or(Number::Unknown, |shape| Number::from(&product(shape)));
            Some(vec![Fact {
                dtype: Some(DType::I64),
                shape: Some(Vec::new()),
                value: Some(vec![count]),
                floats: None,
            }])
        },
        "ConstantOfShape" => constant_of_shape,
        "RandomNormal" | "RandomUniform" => |call| {
            let dims = call.node.ints("shape")?.iter().map(|&size| Number::Known(size).dim()).collect();
            call.maybe(call.type_attribute("dtype").or(Some(DType::F32)), Some(dims))
        },
        "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" | "EyeLike" => |call| {
            let dtype = call.type_attribute("dtype").or(call.dtype(0));
            call.maybe(dtype, call.shape(0).map(<[Dim]>::to_vec))
        },
        "Expand" => expand,
        "Tile" => tile,
        "Range" => range,
        _ => return None,
    })
}

fn shape(call: &Call<'_>) -> Option<Vec<Fact>> {
    let unknown = || vec![Fact::new(Some(DType::I64), Some(vec![Dim::Unknown]))];
    let Some(shape) = call.shape(0) else { return Some(unknown()) };
    let rank = shape.len() as i64;
    let bound = |value: i64| if value < 0 { value.saturating_add(rank) } else { value }.clamp(0, rank) as usize;
    let (start, end) = (bound(call.node.int("start", 0)), bound(call.node.int("end", rank)));
    Some(vec![Fact::ints(shape.get(start..end.max(start))?.iter().map(Number::from).collect())])
}

fn constant_of_shape(call: &Call<'_>) -> Option<Vec<Fact>> {
    let fill = call.node.tensor("value");
    let dtype = fill.map_or(DType::F32, hedge_tensor::Tensor::dtype);
    let Some(sizes) = call.value(0) else {
        let rank = match call.shape(0)? {
            [Dim::Known(rank)] if *rank <= MAX_VALUES => *rank,
            _ => return call.maybe(Some(dtype), None),
        };
        return call.maybe(Some(dtype), Some(vec![Dim::Unknown; rank]));
    };
    let dims: Vec<Dim> = sizes.iter().map(Number::dim).collect();
    let value = match (fill.map(Fact::of), dims.as_slice()) {
        (Some(fill), &[Dim::Known(count)]) if count <= MAX_VALUES => {
            fill.value.and_then(|value| Some(vec![value.first()?.clone(); count]))
        }
        _ => None,
    };
    Some(vec![Fact { value, ..Fact::new(Some(dtype), Some(dims)) }])
}

fn expand(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = || {
        let target: Vec<Dim> = match (call.value(1), call.shape(1)?) {
            (Some(sizes), _) => sizes.iter().map(Number::dim).collect(),
            (None, [Dim::Known(rank)]) if *rank <= MAX_VALUES => vec![Dim::Unknown; *rank],
            _ => return None,
        };
        broadcast(call.shape(0)?, &target)
    };
    let dims = dims();
    let value = match (call.value(0), dims.as_deref()) {
        (Some([number]), Some(&[Dim::Known(count)])) if count <= MAX_VALUES => Some(vec![number.clone(); count]),
        _ => None,
    };
    Some(vec![Fact { value, ..Fact::new(call.dtype(0), dims) }])
}

fn tile(call: &Call<'_>) -> Option<Vec<Fact>> {
    let Some(shape) = call.shape(0) else { return call.maybe(call.dtype(0), None) };
    let Some(repeats) = call.value(1).filter(|repeats| repeats.len() == shape.len()) else {
        return call.like(vec![Dim::Unknown; shape.len()]);
    };
    let times = |(dim, repeat): (&Dim, &Number)| Number::apply("Mul", &Number::from(dim), repeat).dim();
    call.like(shape.iter().zip(repeats).map(times).collect())
}

fn range(call: &Call<'_>) -> Option<Vec<Fact>> {
    let bound = |index: usize| call.value(index)?.first().cloned();
    let length = match (bound(0), bound(1), bound(2)) {
        (Some(Number::Known(start)), Some(Number::Known(limit)), Some(Number::Known(delta))) => {
            length_of_range(start, limit, delta).map_or(Dim::Unknown, Dim::Known)
        }
        (Some(Number::Known(0)), Some(limit), Some(Number::Known(1))) => limit.dim(),
        _ => Dim::Unknown,
    };
    call.like(vec![length])
}

fn length_of_range(start: i64, limit: i64, delta: i64) -> Option<usize> {
    let span = i128::from(limit) - i128::from(start);
    let delta = i128::from(delta);
    if delta == 0 {
        return None;
    }
    let count = if (span > 0) == (delta > 0) { (span.abs() + delta.abs() - 1) / delta.abs() } else { 0 };
    usize::try_from(count).ok()
}
