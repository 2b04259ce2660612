//! Operators that put updates into a tensor at given indices.
//!
//! Without a reduction, the result is picked from the data and the updates put one behind the other: where indices repeat,
//! the last update stands, as in numpy and onnxruntime, on every device alike, and each element that is left has its
//! gradient. Sums of floats are burn's own; other reductions are rare and computed on the host.

use burn_backend::ops::FloatTensorOps;
use burn_backend::tensor::IndexingUpdateOp;
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::host::{elements, hosted, tensor_of, with_elements};
use super::index::{as_rows, check_elements, counted, element_places, picked, positions, tuple_rows};
use super::layout::concatenated;
use super::movement::moves_on_host;
use super::number::Number;
use super::{BoxOp, Builder, OpError, axis_of, one, reshaped};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Scatter" => |node, _| scatter_elements(node, Reduction::None),
        "ScatterElements" => |node, _| scatter_elements(node, Reduction::of(node)?),
        "ScatterND" => scatter_nd,
        "TensorScatter" => tensor_scatter,
        _ => return None,
    })
}

/// What becomes of an element that an update meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    /// The update replaces it.
    None,
    Add,
    Mul,
    Min,
    Max,
}

impl Reduction {
    fn of(node: &Node) -> Result<Self, OpError> {
        match node.string("reduction").unwrap_or("none") {
            "none" => Ok(Reduction::None),
            "add" => Ok(Reduction::Add),
            "mul" => Ok(Reduction::Mul),
            "min" => Ok(Reduction::Min),
            "max" => Ok(Reduction::Max),
            other => Err(OpError::new(format!("reduction {other:?} is not supported"))),
        }
    }

    fn apply<T: Number>(self, old: T, update: T) -> T {
        match self {
            Reduction::None => update,
            Reduction::Add => old.plus(update),
            Reduction::Mul => old.times(update),
            Reduction::Min => old.smaller(update),
            Reduction::Max => old.larger(update),
        }
    }

    /// Of truth values, a sum is whether any is true and a product whether all are.
    fn on(self, dtype: DType) -> Self {
        match self {
            Reduction::Add if dtype == DType::Bool => Reduction::Max,
            Reduction::Mul if dtype == DType::Bool => Reduction::Min,
            other => other,
        }
    }
}

fn scatter_elements(node: &Node, reduction: Reduction) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", 0);
    one(move |context, mut inputs| {
        let (x, indices, updates) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let (shape, index_shape) = (x.shape(), indices.shape());
        let axis = axis_of(axis, shape.len())?;
        check_elements(&shape, &index_shape, axis)?;
        check_updates(&x, &updates, &index_shape)?;
        let along = indices.to_ints()?.into_iter().map(|index| counted(index, shape[axis]));
        let places = element_places(&shape, &index_shape, axis, &along.collect::<Result<Vec<_>, _>>()?)?;
        if updates.shape().contains(&0) {
            return Ok(x);
        }
        let x = as_rows(x, shape.len(), context)?;
        let updates = as_rows(updates, index_shape.len(), context)?;
        reshaped(put(x, updates, &places, reduction, context)?, &shape, context)
    })
}

fn scatter_nd(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let reduction = Reduction::of(node)?;
    one(move |context, mut inputs| {
        let (x, indices, updates) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let (shape, index_shape) = (x.shape(), indices.shape());
        let rows = tuple_rows(&shape, &index_shape, 0, &indices.to_ints()?)?;
        let (prefix, depth) = (&index_shape[..index_shape.len() - 1], index_shape[index_shape.len() - 1]);
        let wanted: Vec<usize> = prefix.iter().chain(&shape[depth..]).copied().collect();
        check_updates(&x, &updates, &wanted)?;
        if updates.shape().contains(&0) {
            return Ok(x);
        }
        let x = as_rows(x, depth, context)?;
        let updates = as_rows(updates, prefix.len(), context)?;
        reshaped(put(x, updates, &rows, reduction, context)?, &shape, context)
    })
}

/// Writes new steps into a cache of a fixed number of steps, for each sample from its own step on (opset 24).
fn tensor_scatter(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let axis = node.int("axis", -2);
    let circular = match node.string("mode").unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        mode => return Err(OpError::new(format!("mode {mode:?} is not supported"))),
    };
    one(move |context, mut inputs| {
        let (cache, update) = (inputs.take(0)?, inputs.take(1)?);
        let (shape, update_shape) = (cache.shape(), update.shape());
        let axis = axis_of(axis, shape.len())?;
        if axis == 0 {
            return Err(OpError::new("axis 0 is the batch and holds no steps"));
        }
        let mut wanted = shape.clone();
        wanted[axis] = update_shape.get(axis).copied().unwrap_or(0).min(shape[axis]);
        check_updates(&cache, &update, &wanted)?;
        let starts = match inputs.optional(2) {
            Some(starts) => starts.to_ints()?,
            None => vec![0; shape[0]],
        };
        if starts.len() != shape[0] {
            return Err(OpError::new(format!("{} write indices for a batch of {}", starts.len(), shape[0])));
        }
        let lanes: usize = shape[..axis].iter().product();
        let lanes_per_sample: usize = shape[1..axis].iter().product();
        let (size, steps) = (shape[axis], wanted[axis]);
        let row = |lane: usize, step: usize| {
            let start = starts[lane / lanes_per_sample];
            let at = start.checked_add_unsigned(step as u64);
            let at = if circular { at.map(|at| at.rem_euclid(size as i64)) } else { at.filter(|_| start >= 0) };
            let at = at.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < size);
            let at = at.ok_or_else(|| OpError::new(format!("{steps} steps from {start} on do not fit {size}")))?;
            Ok::<_, OpError>(lane * size + at)
        };
        let rows = (0..lanes).flat_map(|lane| (0..steps).map(move |step| (lane, step)));
        let rows = rows.map(|(lane, step)| row(lane, step)).collect::<Result<Vec<_>, _>>()?;
        if update_shape.contains(&0) {
            return Ok(cache);
        }
        let (table, update) = (as_rows(cache, axis + 1, context)?, as_rows(update, axis + 1, context)?);
        reshaped(put(table, update, &rows, Reduction::None, context)?, &shape, context)
    })
}

fn check_updates(x: &Value, updates: &Value, wanted: &[usize]) -> Result<(), OpError> {
    if updates.shape() == wanted && updates.dtype() == x.dtype() {
        return Ok(());
    }
    let (dtype, given, shape) = (x.dtype(), updates.dtype(), updates.shape());
    Err(OpError::new(format!("its updates are {given} {shape:?}, but must be {dtype} {wanted:?}")))
}

/// `updates`, a row each and at least one, put into the rows of `x` that `rows` names.
fn put(x: Value, updates: Value, rows: &[usize], reduction: Reduction, context: &Context) -> Result<Value, OpError> {
    if reduction == Reduction::None {
        return replaced(x, updates, rows, context);
    }
    let on_device = x.is_float() && !moves_on_host(&x, context) && !moves_on_host(&updates, context);
    if reduction == Reduction::Add && on_device {
        let indices = positions(rows.to_vec(), &[rows.len()], context)?;
        let (x, updates) = (x.into_float(context)?, updates.into_float(context)?);
        return Ok(Value::float(B::float_select_assign(x, 0, indices, updates, IndexingUpdateOp::Add)));
    }
    Ok(Value::host(reduced(&hosted(x)?, &hosted(updates)?, rows, reduction)?))
}

fn replaced(x: Value, updates: Value, rows: &[usize], context: &Context) -> Result<Value, OpError> {
    let count = x.shape()[0];
    let mut sources: Vec<usize> = (0..count).collect();
    for (update, &row) in rows.iter().enumerate() {
        sources[row] = count + update;
    }
    picked(concatenated(vec![x, updates], 0, context)?, 0, sources, context)
}

fn reduced(x: &Tensor, updates: &Tensor, rows: &[usize], reduction: Reduction) -> Result<Tensor, OpError> {
    let reduction = reduction.on(x.dtype());
    let width = x.shape()[1];
    with_elements!(x.dtype(), T => {
        let mut values = elements::<T>(x)?;
        let updates = elements::<T>(updates)?;
        for (&row, update) in rows.iter().zip(updates.chunks_exact(width)) {
            for (old, &update) in values[row * width..(row + 1) * width].iter_mut().zip(update) {
                *old = reduction.apply(*old, update);
            }
        }
        tensor_of(x.dtype(), x.shape(), &values)
    })
}
