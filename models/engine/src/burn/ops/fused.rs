//! Operators that passes make of patterns (`hedge_graph::passes`): each gives what the nodes it stands for gave.

use burn_backend::ops::{ActivationOps, AttentionModuleOptions, FloatTensorOps, ModuleOps};
use burn_backend::{Scalar, Shape};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::index::picked;
use super::layout::expand;
use super::linear::matmul;
use super::{BoxOp, Builder, OpError, activation, aligned, convolution, normalize, one, reshaped};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "Gelu" => activation::builder(op),
        "LayerNormalization" | "RMSNormalization" => normalize::builder(op),
        "Attention" => Some(attention),
        "Conv" => Some(convolution::bounded),
        "PickRows" => Some(pick_rows),
        _ => None,
    }
}

/// The rows of a table that ids `[.., 1]` mean, spread to a shape first where one is given. The table's last row is that of
/// every id which is none of the others'.
fn pick_rows(_: &Node, _: i64) -> Result<BoxOp, OpError> {
    one(|context, mut inputs| {
        let (mut ids, table) = (inputs.take(0)?, inputs.take(1)?);
        let size = table.shape();
        let &[rows, columns] = size.as_slice() else {
            return Err(OpError::new(format!("rows are picked of a matrix, not of {size:?}")));
        };
        let none = rows.saturating_sub(1);
        if let Some(shape) = inputs.optional(2) {
            ids = spread(ids, shape.to_ints()?, none, context)?;
        }
        let mut out = ids.shape();
        match out.last_mut() {
            Some(last) if *last == 1 => *last = columns,
            _ => return Err(OpError::new(format!("ids of {out:?} do not have 1 as their last dimension"))),
        }
        let row = |id: i64| usize::try_from(id).ok().filter(|&row| row < none).unwrap_or(none);
        let rows = ids.to_ints()?.into_iter().map(row).collect();
        reshaped(picked(table, 0, rows, context)?, &out, context)
    })
}

/// The ids in the shape that they are compared with `columns` numbers in; that last dimension is not made.
fn spread(ids: Value, mut shape: Vec<i64>, columns: usize, context: &Context) -> Result<Value, OpError> {
    if let Some(last) = shape.last_mut() {
        if *last != 1 && *last != columns as i64 {
            return Err(OpError::new(format!("{last} ids are not compared with {columns} numbers")));
        }
        *last = 1;
    }
    expand(ids, &Value::ints(&shape), context)
}

/// `softmax(q k scale + mask) v`, with `k` as the product takes it: its last two dimensions are size and keys.
fn attention(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let scale = f64::from(node.float("scale", 1.0));
    one(move |context, mut inputs| {
        let (q, k, v) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let mask = inputs.optional(3);
        match Sizes::of(&q, &k, &v, mask.as_ref()) {
            // Burn's kernel for the CPU keeps the scores of a head in the cache; those for GPUs do not all take a bias.
            Some(sizes) if !context.is_gpu() => in_one(q, k, v, mask, scale, &sizes, context),
            _ => in_steps(q, k, v, mask, scale, context),
        }
    })
}

/// Sizes of a call that burn's kernel takes.
struct Sizes {
    queries: usize,
    keys: usize,
}

impl Sizes {
    fn of(q: &Value, k: &Value, v: &Value, mask: Option<&Value>) -> Option<Self> {
        let (a, b, c) = (q.shape(), k.shape(), v.shape());
        let (&[batch, heads, queries, size], &[_, _, _, keys]) = (a.as_slice(), b.as_slice()) else { return None };
        let fits = b == [batch, heads, size, keys] && c.len() == 4 && c[..3] == [batch, heads, keys];
        let scores = [batch, heads, queries, keys];
        let one_or = |(have, want): (&usize, &usize)| have == want || *have == 1;
        let masked = mask.is_none_or(|mask| {
            let shape = mask.shape();
            shape.len() == 4 && shape.iter().zip(&scores).all(one_or) && mask.dtype() == DType::F32
        });
        let floats = [q, k, v].iter().all(|value| value.dtype() == DType::F32);
        let empty = a.contains(&0) || b.contains(&0) || c.contains(&0);
        (fits && masked && floats && !empty).then_some(Sizes { queries, keys })
    }
}

fn in_one(
    q: Value,
    k: Value,
    v: Value,
    mask: Option<Value>,
    scale: f64,
    sizes: &Sizes,
    context: &Context,
) -> Result<Value, OpError> {
    let (q, k, v) = (q.into_float(context)?, k.into_float(context)?, v.into_float(context)?);
    let bias = mask.map(|mask| -> Result<_, OpError> {
        // The kernel reads one tile for all heads where there is one, but wants the tile itself whole.
        let shape = mask.shape();
        let tile = Shape::from(vec![shape[0], shape[1], sizes.queries, sizes.keys]);
        Ok(B::float_expand(mask.into_float(context)?, tile))
    });
    let options = AttentionModuleOptions { scale: Some(scale), ..AttentionModuleOptions::default() };
    Ok(Value::float(B::attention(q, B::float_swap_dims(k, 2, 3), v, None, bias.transpose()?, options)))
}

/// As it was written out; queries are scaled, which are fewer than scores.
fn in_steps(
    q: Value,
    k: Value,
    v: Value,
    mask: Option<Value>,
    scale: f64,
    context: &Context,
) -> Result<Value, OpError> {
    let q = if scale == 1.0 || !q.is_float() {
        q
    } else {
        Value::float(B::float_mul_scalar(q.into_float(context)?, Scalar::Float(scale)))
    };
    let mut scores = matmul(q, k, context)?;
    if let Some(mask) = mask {
        let (a, b) = aligned(scores, mask, context)?;
        scores = Value::float(B::float_add(a.into_float(context)?, b.into_float(context)?));
    }
    let last = scores.rank().checked_sub(1).ok_or_else(|| OpError::new("a scalar has no softmax"))?;
    let probabilities = B::softmax(scores.into_float(context)?, last);
    matmul(Value::float(probabilities), v, context)
}
