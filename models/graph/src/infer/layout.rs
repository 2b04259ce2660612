//! Operators that move elements without picking among them.

use super::fact::{Call, Fact, Rule, axis_of, product};
use super::number::Number;
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Transpose" => transpose,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Concat" => concat,
        "Split" => split,
        "Pad" => pad,
        "DepthToSpace" => |call| blocks(call, true),
        "SpaceToDepth" => |call| blocks(call, false),
        _ => return None,
    })
}

fn reshape(call: &Call<'_>) -> Option<Vec<Fact>> {
    let target = call.node.ints("shape").map(|sizes| sizes.iter().map(|&size| Number::Known(size)).collect::<Vec<_>>());
    let Some(target) = target.or_else(|| call.value(1).map(<[Number]>::to_vec)) else {
        let rank = match call.shape(1) {
            Some(&[Dim::Known(rank)]) if rank <= super::MAX_RANK => rank,
            _ => return call.maybe(call.dtype(0), None),
        };
        return call.like(vec![Dim::Unknown; rank]);
    };
    let from = call.shape(0);
    let copies = call.node.int("allowzero", 0) == 0;
    let mut free = None;
    let mut dims = Vec::with_capacity(target.len());
    for (index, size) in target.iter().enumerate() {
        dims.push(match size {
            Number::Known(-1) => {
                free = Some(index);
                Dim::Unknown
            }
            Number::Known(0) if copies => from.and_then(|from| from.get(index).cloned()).unwrap_or(Dim::Unknown),
            size => size.dim(),
        });
    }
    if let (Some(free), Some(from)) = (free, from) {
        dims[free] = remainder(from, &dims, free).unwrap_or(Dim::Unknown);
    }
    let value = call.value(0).filter(|_| dims.len() <= 1).map(<[Number]>::to_vec);
    Some(vec![Fact { value, ..Fact::new(call.dtype(0), Some(dims)) }])
}

/// What is left of `from` for the dimension `free` when the others have taken theirs. Names that stand on both sides cancel.
fn remainder(from: &[Dim], to: &[Dim], free: usize) -> Option<Dim> {
    let mut names: Vec<&Dim> = from.iter().filter(|dim| !matches!(dim, Dim::Known(_))).collect();
    let others = to.iter().enumerate().filter(|(index, _)| *index != free).map(|(_, dim)| dim);
    for dim in others.clone().filter(|dim| !matches!(dim, Dim::Known(_))) {
        if *dim == Dim::Unknown {
            return None;
        }
        names.swap_remove(names.iter().position(|name| *name == dim)?);
    }
    let (total, taken) = (known_product(from.iter())?, known_product(others)?);
    if taken == 0 || !total.is_multiple_of(taken) {
        return None;
    }
    match (names.as_slice(), total / taken) {
        ([], size) => Some(Dim::Known(size)),
        ([name], 1) => Some((*name).clone()),
        _ => None,
    }
}

/// The product of the dimensions that are known.
fn known_product<'a>(mut dims: impl Iterator<Item = &'a Dim>) -> Option<usize> {
    dims.try_fold(1usize, |all, dim| match dim {
        Dim::Known(size) => all.checked_mul(*size),
        _ => Some(all),
    })
}

fn flatten(call: &Call<'_>) -> Option<Vec<Fact>> {
    let Some(shape) = call.shape(0) else { return call.like(vec![Dim::Unknown; 2]) };
    let axis = call.node.int("axis", 1);
    let axis = if axis == shape.len() as i64 { shape.len() } else { axis_of(axis, shape.len())? };
    call.like(vec![product(&shape[..axis]), product(&shape[axis..])])
}

fn transpose(call: &Call<'_>) -> Option<Vec<Fact>> {
    let order = call.node.ints("perm");
    let Some(shape) = call.shape(0) else {
        return call.maybe(call.dtype(0), order.map(|order| vec![Dim::Unknown; order.len()]));
    };
    let Some(order) = order else { return call.like(shape.iter().rev().cloned().collect()) };
    let axes = order.iter().map(|&axis| Some(shape[axis_of(axis, shape.len())?].clone()));
    call.like(axes.collect::<Option<_>>().filter(|dims: &Vec<Dim>| dims.len() == shape.len())?)
}

fn squeeze(call: &Call<'_>) -> Option<Vec<Fact>> {
    let shape = call.shape(0);
    let dims = shape.and_then(|shape| {
        let removed: Vec<usize> = match (call.ints_at("axes", 1), call.has(1)) {
            (Some(axes), _) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<_>>()?,
            (None, true) => return None,
            (None, false) if shape.iter().all(|dim| matches!(dim, Dim::Known(_))) => {
                (0..shape.len()).filter(|&axis| shape[axis] == Dim::Known(1)).collect()
            }
            _ => return None,
        };
        Some((0..shape.len()).filter(|axis| !removed.contains(axis)).map(|axis| shape[axis].clone()).collect())
    });
    let value = call.value(0).map(<[Number]>::to_vec);
    Some(vec![Fact { value, ..Fact::new(call.dtype(0), dims) }])
}

fn unsqueeze(call: &Call<'_>) -> Option<Vec<Fact>> {
    let dims = call.shape(0).and_then(|shape| {
        let axes = call.ints_at("axes", 1)?;
        let rank = shape.len() + axes.len();
        let added: Vec<usize> = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<_>>()?;
        let mut sizes = shape.iter().cloned();
        (0..rank).map(|axis| if added.contains(&axis) { Some(Dim::Known(1)) } else { sizes.next() }).collect()
    });
    let flat = dims.as_ref().is_some_and(|dims: &Vec<Dim>| dims.len() <= 1);
    let value = call.value(0).filter(|_| flat).map(<[Number]>::to_vec);
    Some(vec![Fact { value, ..Fact::new(call.dtype(0), dims) }])
}

fn concat(call: &Call<'_>) -> Option<Vec<Fact>> {
    let values = (0..call.inputs.len()).map(|index| call.value(index)).collect::<Option<Vec<_>>>();
    let value = values.map(|values| values.concat());
    Some(vec![Fact { value, ..Fact::new(call.dtype(0), concatenated(call)) }])
}

fn concatenated(call: &Call<'_>) -> Option<Vec<Dim>> {
    let known = (0..call.inputs.len()).find_map(|index| call.shape(index))?;
    let axis = call.axis(0, known.len())?;
    let mut dims = known.to_vec();
    dims[axis] = Dim::Known(0);
    for index in 0..call.inputs.len() {
        let Some(shape) = call.shape(index) else {
            dims[axis] = Dim::Unknown;
            continue;
        };
        if shape.len() != dims.len() {
            return None;
        }
        for (at, (dim, other)) in dims.iter_mut().zip(shape).enumerate() {
            if at == axis {
                *dim = Number::apply("Add", &Number::from(&*dim), &Number::from(other)).dim();
            } else if !matches!(dim, Dim::Known(_)) && *other != Dim::Unknown {
                dim.clone_from(other);
            }
        }
    }
    Some(dims)
}

fn split(call: &Call<'_>) -> Option<Vec<Fact>> {
    let parts = call.node.outputs.len();
    let Some(shape) = call.shape(0) else { return Some(vec![Fact::new(call.dtype(0), None); parts]) };
    let axis = call.axis(0, shape.len())?;
    let sizes = call.ints_at("split", 1);
    let even = |index: usize| match &shape[axis] {
        Dim::Known(size) if !call.has(1) && parts > 0 => {
            let chunk = size.div_ceil(parts);
            Dim::Known(chunk.min(size.saturating_sub(chunk * index)))
        }
        _ => Dim::Unknown,
    };
    let size = |index: usize| match &sizes {
        Some(sizes) => sizes.get(index).map_or(Dim::Unknown, |&size| Number::Known(size).dim()),
        None => even(index),
    };
    let fact = |index: usize| {
        let mut dims = shape.to_vec();
        dims[axis] = size(index);
        Fact::new(call.dtype(0), Some(dims))
    };
    Some((0..parts).map(fact).collect())
}

fn pad(call: &Call<'_>) -> Option<Vec<Fact>> {
    let Some(shape) = call.shape(0) else { return call.maybe(call.dtype(0), None) };
    let unknown = || call.like(vec![Dim::Unknown; shape.len()]);
    let given = call.node.ints("pads").map(|pads| pads.iter().map(|&pad| Number::Known(pad)).collect::<Vec<_>>());
    let Some(pads) = given.or_else(|| call.value(1).map(<[Number]>::to_vec)) else { return unknown() };
    let axes: Vec<usize> = match (call.has(3), call.ints(3)) {
        (false, _) => (0..shape.len()).collect(),
        (true, Some(axes)) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Option<_>>()?,
        (true, None) => return unknown(),
    };
    if pads.len() != 2 * axes.len() {
        return unknown();
    }
    let mut dims = shape.to_vec();
    for (index, &axis) in axes.iter().enumerate() {
        let both = Number::apply("Add", &pads[index], &pads[axes.len() + index]);
        dims[axis] = Number::apply("Add", &Number::from(&dims[axis]), &both).dim();
    }
    call.like(dims)
}

fn blocks(call: &Call<'_>, to_space: bool) -> Option<Vec<Fact>> {
    let [batch, channels, height, width] = call.shape(0)? else { return None };
    let size = usize::try_from(call.node.int("blocksize", 0)).ok().filter(|&size| size > 0)?;
    let scaled = |dim: &Dim, up: bool, by: usize| match dim {
        Dim::Known(value) if up => value.checked_mul(by).map_or(Dim::Unknown, Dim::Known),
        Dim::Known(value) => Dim::Known(value / by),
        _ => Dim::Unknown,
    };
    let area = size.checked_mul(size)?;
    call.like(vec![
        batch.clone(),
        scaled(channels, !to_space, area),
        scaled(height, to_space, size),
        scaled(width, to_space, size),
    ])
}
