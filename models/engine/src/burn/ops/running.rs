//! Sums and products that run along a dimension.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{Scalar, Shape, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::host::{elements, hosted, single, tensor_of, with_elements};
use super::layout::concatenated;
use super::movement::moves_on_host;
use super::number::Number;
use super::slice::narrowed;
use super::{BoxOp, Builder, OpError, axis_of, one};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "CumSum" => Some(|node, _| running(node, Kind::Sum)),
        "CumProd" => Some(|node, _| running(node, Kind::Product)),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Product,
}

impl Kind {
    /// What an empty sum or product is.
    fn start<T: Number>(self) -> T {
        match self {
            Kind::Sum => T::ZERO,
            Kind::Product => T::ONE,
        }
    }

    fn apply<T: Number>(self, a: T, b: T) -> T {
        match self {
            Kind::Sum => a.plus(b),
            Kind::Product => a.times(b),
        }
    }

    fn on_device(self, x: Primitive, axis: usize) -> Primitive {
        match self {
            Kind::Sum => B::float_cumsum(x, axis),
            Kind::Product => B::float_cumprod(x, axis),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Way {
    kind: Kind,
    /// Whether an element is left out of its own result.
    exclusive: bool,
    /// Whether it runs from the end to the front.
    reverse: bool,
}

fn running(node: &Node, kind: Kind) -> Result<BoxOp, OpError> {
    let way = Way { kind, exclusive: node.int("exclusive", 0) != 0, reverse: node.int("reverse", 0) != 0 };
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        if x.dtype() == DType::Bool {
            return Err(OpError::new("truth values have no sum"));
        }
        let axis = axis_of(single(&inputs.take(1)?.to_ints()?, "axis")?, x.rank())?;
        if moves_on_host(&x, context) || !x.is_float() {
            return Ok(Value::host(on_host(&hosted(x)?, axis, way)?));
        }
        on_device(x, axis, way, context)
    })
}

fn on_host(x: &Tensor, axis: usize, way: Way) -> Result<Tensor, OpError> {
    if x.is_empty() {
        return Ok(x.clone());
    }
    let (size, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
    with_elements!(x.dtype(), T => {
        let mut values = elements::<T>(x)?;
        for block in values.chunks_exact_mut(size * inner) {
            for lane in 0..inner {
                let mut sum: T = way.kind.start();
                for step in 0..size {
                    let step = if way.reverse { size - 1 - step } else { step };
                    let value = &mut block[step * inner + lane];
                    let next = way.kind.apply(sum, *value);
                    *value = if way.exclusive { sum } else { next };
                    sum = next;
                }
            }
        }
        tensor_of(x.dtype(), x.shape(), &values)
    })
}

fn on_device(x: Value, axis: usize, way: Way, context: &Context) -> Result<Value, OpError> {
    let turned = |x: Primitive| if way.reverse { B::float_flip(x, &[axis]) } else { x };
    let mut x = Value::float(turned(x.into_float(context)?));
    if way.exclusive {
        x = shifted(x, axis, way.kind, context)?;
    }
    Ok(Value::float(turned(way.kind.on_device(x.into_float(context)?, axis))))
}

/// One step later, with what an empty sum or product is in front.
fn shifted(x: Value, axis: usize, kind: Kind, context: &Context) -> Result<Value, OpError> {
    let mut shape = x.shape();
    let rest = narrowed(x.clone(), axis, 0, shape[axis] - 1, context)?;
    shape[axis] = 1;
    let dtype = x.into_float(context)?.dtype();
    let start = Scalar::Float(kind.start::<f64>());
    let front = B::float_full(Shape::from(shape), start, &context.device, dtype.into());
    concatenated(vec![Value::float(front), rest], axis as i64, context)
}
