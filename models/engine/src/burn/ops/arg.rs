//! Where along a dimension the largest or smallest element is.

use burn_backend::Scalar;
use burn_backend::ops::{FloatTensorOps, IntTensorOps};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::exact::{host_elements, tensor, with_integers};
use super::host::strides;
use super::{BoxOp, Builder, OpError, axis_of, one, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "ArgMax" => |node, _| arg(node, Extreme::Largest),
        "ArgMin" => |node, _| arg(node, Extreme::Smallest),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extreme {
    Largest,
    Smallest,
}

fn arg(node: &Node, extreme: Extreme) -> Result<BoxOp, OpError> {
    let (axis, keep) = (node.int("axis", 0), node.int("keepdims", 1) != 0);
    let last = node.int("select_last_index", 0) != 0;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let mut out = x.shape();
        let axis = axis_of(axis, out.len())?;
        if out[axis] == 0 {
            return Err(OpError::new(format!("dimension {axis} of {out:?} has no elements")));
        }
        out[axis] = 1;
        let found = if out.contains(&0) {
            Value::host(Tensor::zeros(DType::I64, out.clone())?)
        } else if x.is_float() {
            Value::int(of_floats(x.into_float(context)?, axis, extreme, last, context), DType::I64)
        } else {
            of_integers(&host_elements(x)?, axis, extreme, last)?
        };
        if !keep {
            out.remove(axis);
        }
        reshaped(found, &out, context)
    })
}

/// The last one is the first from behind.
fn of_floats(x: Primitive, axis: usize, extreme: Extreme, last: bool, context: &Context) -> Primitive {
    use burn_backend::TensorMetadata;
    let size = x.shape()[axis] as i64;
    let x = if last { B::float_flip(x, &[axis]) } else { x };
    let found = match extreme {
        Extreme::Largest => B::float_argmax(x, axis, context.int),
        Extreme::Smallest => B::float_argmin(x, axis, context.int),
    };
    if last { B::int_add_scalar(B::int_neg(found), Scalar::Int(size - 1)) } else { found }
}

fn of_integers(x: &Tensor, axis: usize, extreme: Extreme, last: bool) -> Result<Value, OpError> {
    let mut out = x.shape().to_vec();
    let (size, stride) = (out[axis], strides(&out)[axis]);
    out[axis] = 1;
    with_integers!(x.dtype(), T => {
        let values = x.to_vec::<T>()?;
        let better = |new: T, best: T| match extreme {
            Extreme::Largest => new > best || (last && new == best),
            Extreme::Smallest => new < best || (last && new == best),
        };
        let along = |start: usize| {
            let at = |position: usize| values[start + position * stride];
            (1..size).fold(0, |best, position| if better(at(position), at(best)) { position } else { best }) as i64
        };
        let starts = (0..values.len() / size).map(|row| row / stride * stride * size + row % stride);
        tensor(&out, &starts.map(along).collect::<Vec<i64>>())
    })
}
