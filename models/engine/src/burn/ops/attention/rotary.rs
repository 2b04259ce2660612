//! Rotary positions: pairs of a head's elements are turned by an angle that grows with the token's position.

use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;

use super::super::{BoxOp, OpError, one, reshaped, size_of};
use super::part;
use crate::burn::{B, Context, Primitive, Value};

/// What a node says of the rotation.
#[derive(Clone, Copy)]
pub(in super::super) struct Rotation {
    heads: usize,
    /// How much of a head is turned; 0 for all of it.
    turned: usize,
    /// Whether the elements of a pair are neighbours, rather than half a head apart.
    interleaved: bool,
    /// A factor of the result, of com.microsoft.
    scale: f64,
}

impl Rotation {
    pub(in super::super) fn read(node: &Node) -> Result<Self, OpError> {
        Ok(Rotation {
            heads: size_of(node.int("num_heads", 0))?,
            turned: size_of(node.int("rotary_embedding_dim", 0))?,
            interleaved: node.int("interleaved", 0) != 0,
            scale: f64::from(node.float("scale", 1.0)),
        })
    }

    /// Of tensors with heads apart, the first `turned` elements of each.
    pub(in super::super) fn of_heads(turned: usize, interleaved: bool) -> Self {
        Rotation { heads: 0, turned, interleaved, scale: 1.0 }
    }
}

pub(super) fn rotary_embedding(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let rotation = Rotation::read(node)?;
    one(move |context, mut inputs| {
        let (x, cos, sin) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        rotate(x, (cos, sin), inputs.optional(3), rotation, context)
    })
}

/// `x` is `[batch, heads, length, size]` or `[batch, length, heads * size]`; the tables are `[positions, half]`, or with
/// no `positions` given `[batch, length, half]`.
pub(in super::super) fn rotate(
    x: Value,
    tables: (Value, Value),
    positions: Option<Value>,
    rotation: Rotation,
    context: &Context,
) -> Result<Value, OpError> {
    let shape = x.shape();
    let wrong = || OpError::new(format!("a tensor of shape {shape:?} has no {} heads to rotate", rotation.heads));
    // Sizes are [batch, a, b, size], where the tokens are along a or along b.
    let (sizes, tokens) = match *shape.as_slice() {
        [batch, heads, length, size] => ([batch, heads, length, size], 2),
        [batch, length, hidden] => {
            let turned = tables.0.shape().last().copied().unwrap_or(0) * 2;
            let heads = if rotation.heads > 0 || turned == 0 { rotation.heads } else { hidden / turned };
            if heads == 0 || hidden % heads != 0 {
                return Err(wrong());
            }
            ([batch, length, heads, hidden / heads], 1)
        }
        _ => return Err(wrong()),
    };
    let turned = if rotation.turned == 0 { sizes[3] } else { rotation.turned };
    if turned > sizes[3] || turned % 2 != 0 {
        return Err(OpError::new(format!("{turned} of {} elements do not make pairs", sizes[3])));
    }
    let ids = positions.map(|positions| position_ids(&positions, sizes[0], sizes[tokens])).transpose()?;
    let table = |table: Value| angles(table, ids.as_deref(), (sizes, tokens), turned / 2, context);
    let (cos, sin) = (table(tables.0)?, table(tables.1)?);
    let x = reshaped(x, &sizes, context)?.into_float(context)?;
    let rest = (turned < sizes[3]).then(|| part(x.clone(), 3, turned..sizes[3]));
    let x = if rest.is_some() { part(x, 3, 0..turned) } else { x };
    let y = turn(x, cos, sin, sizes, turned / 2, rotation.interleaved);
    let y = rest.map_or(y.clone(), |rest| B::float_cat(vec![y, rest], 3));
    let y = if rotation.scale == 1.0 { y } else { B::float_mul_scalar(y, burn_backend::Scalar::Float(rotation.scale)) };
    reshaped(Value::float(y), &shape, context)
}

/// The position of every token; a single number is that of the first.
fn position_ids(positions: &Value, batch: usize, length: usize) -> Result<Vec<i64>, OpError> {
    let (shape, ids) = (positions.shape(), positions.to_ints()?);
    if ids.len() == batch * length && (shape.len() == 2 || length == 1) {
        return Ok(ids);
    }
    match ids.as_slice() {
        [first] => Ok((0..batch).flat_map(|_| (0..length as i64).map(|place| first + place)).collect()),
        _ => Err(OpError::new(format!("positions of shape {shape:?} do not fit {batch} sequences of {length} tokens"))),
    }
}

/// A table's rows at the tokens' positions, under a shape that broadcasts over `sizes`.
fn angles(
    table: Value,
    ids: Option<&[i64]>,
    (sizes, tokens): ([usize; 4], usize),
    half: usize,
    context: &Context,
) -> Result<Primitive, OpError> {
    let shape = table.shape();
    let wrong = || OpError::new(format!("a table of shape {shape:?} has no angles for {half} pairs of each token"));
    if shape.last() != Some(&half) {
        return Err(wrong());
    }
    let mut out = sizes;
    out[3 - tokens] = 1;
    out[3] = half;
    let Some(ids) = ids else {
        if shape.len() == 3 && shape[0] == 1 {
            out[0] = 1;
        }
        return if shape.iter().product::<usize>() == out.iter().product::<usize>() {
            reshaped(table, &out, context)?.into_float(context)
        } else {
            Err(wrong())
        };
    };
    if shape.len() != 2 {
        return Err(wrong());
    }
    if let Some(id) = ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= shape[0])) {
        return Err(OpError::new(format!("position {id} is outside a table of {} positions", shape[0])));
    }
    let rows = B::float_select(table.into_float(context)?, 0, Value::ints(ids).into_int(context)?);
    reshaped(Value::float(rows), &out, context)?.into_float(context)
}

fn turn(x: Primitive, cos: Primitive, sin: Primitive, sizes: [usize; 4], half: usize, interleaved: bool) -> Primitive {
    let [batch, a, b, _] = sizes;
    let (first, second) = if interleaved {
        let pairs = B::float_reshape(x, vec![batch, a, b, half, 2].into());
        let member =
            |index: usize| B::float_reshape(part(pairs.clone(), 4, index..index + 1), vec![batch, a, b, half].into());
        (member(0), member(1))
    } else {
        (part(x.clone(), 3, 0..half), part(x, 3, half..2 * half))
    };
    let real = B::float_sub(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), sin.clone()));
    let imaginary = B::float_add(B::float_mul(first, sin), B::float_mul(second, cos));
    if !interleaved {
        return B::float_cat(vec![real, imaginary], 3);
    }
    let column = |tensor: Primitive| B::float_reshape(tensor, vec![batch, a, b, half, 1].into());
    let pairs = B::float_cat(vec![column(real), column(imaginary)], 4);
    B::float_reshape(pairs, vec![batch, a, b, 2 * half].into())
}
