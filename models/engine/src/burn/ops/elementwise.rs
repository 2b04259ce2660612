//! Arithmetic on two or more tensors, element by element.
//!
//! Floats are burn's, with gradients and on any device; integers are computed exactly on the host (see [`super::exact`]).

use burn_backend::Scalar;
use burn_backend::ops::{BoolTensorOps, FloatTensorOps};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::compare::{Comparison, compare, select};
use super::convert::{converted, doubles, to_doubles};
use super::exact::{self, IntBinary, Integer, host_elements, int_binary, with_integers, zip};
use super::host::hosted;
use super::layout::expanded;
use super::unary::in_single;
use super::{BoxOp, Builder, OpError, aligned, broadcast_shape, one};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "Add" => |_, _| arithmetic(Arithmetic::Add),
        "Sub" => |_, _| arithmetic(Arithmetic::Sub),
        "Mul" => |_, _| arithmetic(Arithmetic::Mul),
        "Div" => |_, _| arithmetic(Arithmetic::Div),
        "Mod" => modulo,
        "Pow" => |_, _| one(|context, mut inputs| power(inputs.take(0)?, inputs.take(1)?, context)),
        "Sum" => |node, _| folded(node, sum),
        "Mean" => mean,
        "Min" => |node, _| folded(node, |a, b, context| extremum(a, b, Extremum::Min, context)),
        "Max" => |node, _| folded(node, |a, b, context| extremum(a, b, Extremum::Max, context)),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
}

impl Arithmetic {
    fn run(self, a: Value, b: Value, context: &Context) -> Result<Value, OpError> {
        if !a.is_float() {
            return int_binary(self.exact(), a, b);
        }
        if let Some(scalar) = host_scalar(&b, &a)? {
            return Ok(Value::float(self.by_scalar(a.into_float(context)?, scalar)));
        }
        if let Some(scalar) = host_scalar(&a, &b)?
            && self != Arithmetic::Div
        {
            return Ok(Value::float(self.of_scalar(scalar, b.into_float(context)?)));
        }
        let (a, b) = aligned(a, b, context)?;
        Ok(Value::float(self.float()(a.into_float(context)?, b.into_float(context)?)))
    }

    fn exact(self) -> IntBinary {
        match self {
            Arithmetic::Add => IntBinary::Add,
            Arithmetic::Sub => IntBinary::Sub,
            Arithmetic::Mul => IntBinary::Mul,
            Arithmetic::Div => IntBinary::Div,
        }
    }

    fn float(self) -> fn(Primitive, Primitive) -> Primitive {
        match self {
            Arithmetic::Add => B::float_add,
            Arithmetic::Sub => B::float_sub,
            Arithmetic::Mul => B::float_mul,
            Arithmetic::Div => B::float_div,
        }
    }

    fn by_scalar(self, x: Primitive, scalar: Scalar) -> Primitive {
        match self {
            Arithmetic::Add => B::float_add_scalar(x, scalar),
            Arithmetic::Sub => B::float_sub_scalar(x, scalar),
            Arithmetic::Mul => B::float_mul_scalar(x, scalar),
            Arithmetic::Div => B::float_div_scalar(x, scalar),
        }
    }

    /// Not for quotients, which a reciprocal would round twice.
    fn of_scalar(self, scalar: Scalar, x: Primitive) -> Primitive {
        match self {
            Arithmetic::Sub => B::float_add_scalar(B::float_neg(x), scalar),
            _ => self.by_scalar(x, scalar),
        }
    }
}

/// The only element of a float `value` that lies on the host, where combining it with `other` gives `other`'s shape:
/// it is passed to the device's kernel instead of being copied to the device first.
pub(super) fn host_scalar(value: &Value, other: &Value) -> Result<Option<Scalar>, OpError> {
    let fits = value.is_host() && value.rank() <= other.rank() && value.shape().iter().all(|&size| size == 1);
    // Two scalars stay two tensors: a device may have none without dimensions.
    if !fits || other.rank() == 0 || !value.is_float() {
        return Ok(None);
    }
    Ok(to_doubles(value)?.first().map(|&value| Scalar::Float(value)))
}

fn arithmetic(op: Arithmetic) -> Result<BoxOp, OpError> {
    one(move |context, mut inputs| {
        let (a, b) = same_type(inputs.take(0)?, inputs.take(1)?)?;
        op.run(a, b, context)
    })
}

pub(super) fn same_type(a: Value, b: Value) -> Result<(Value, Value), OpError> {
    if a.dtype() == b.dtype() {
        return Ok((a, b));
    }
    Err(OpError::new(format!("its inputs are {} and {}, but must be of one type", a.dtype(), b.dtype())))
}

/// Folds all inputs, of which there must be one at least, from the left.
fn folded(
    node: &Node,
    f: impl Fn(Value, Value, &Context) -> Result<Value, OpError> + Send + Sync + 'static,
) -> Result<BoxOp, OpError> {
    if node.inputs.is_empty() {
        return Err(OpError::new("at least one input is needed"));
    }
    one(move |context, mut inputs| {
        let mut values = inputs.all().into_iter();
        let first = values.next().ok_or_else(|| OpError::new("input 0 is missing"))?;
        values.try_fold(first, |result, value| f(result, value, context))
    })
}

fn sum(a: Value, b: Value, context: &Context) -> Result<Value, OpError> {
    let (a, b) = same_type(a, b)?;
    Arithmetic::Add.run(a, b, context)
}

fn mean(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let total = folded(node, sum)?;
    let count = Scalar::Float(node.inputs.len() as f64);
    one(move |context, inputs| {
        let total = total.run(context, inputs)?.pop().ok_or_else(|| OpError::new("input 0 is missing"))?;
        Ok(Value::float(B::float_div_scalar(total.into_float(context)?, count)))
    })
}

/// The remainder of floats is exact on the host; on an adapter it is not, and undefined by zero and infinities.
fn modulo(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let like_c = node.int("fmod", 0) != 0;
    one(move |_, mut inputs| {
        let (a, b) = same_type(inputs.take(0)?, inputs.take(1)?)?;
        if !a.is_float() {
            return int_binary(if like_c { IntBinary::Remainder } else { IntBinary::Modulo }, a, b);
        }
        let (dtype, a, b) = (a.dtype(), doubles(host_elements(a)?)?, doubles(host_elements(b)?)?);
        let (shape, values) = zip(&a, &b, if like_c { |a: f64, b: f64| a % b } else { floored_remainder })?;
        super::convert::numbers(&shape, &values, dtype)
    })
}

/// `a - floor(a / b) * b` with the sign of `b`, zeros included.
fn floored_remainder(a: f64, b: f64) -> f64 {
    let rest = a % b;
    match rest {
        0.0 => 0f64.copysign(b),
        _ if rest.is_sign_negative() != b.is_sign_negative() => rest + b,
        _ => rest,
    }
}

/// The result has the base's type, whatever the exponent's.
fn power(base: Value, exponent: Value, context: &Context) -> Result<Value, OpError> {
    if !base.is_float() {
        return int_power(base, exponent);
    }
    // One exponent is by far the usual case (squares, square roots) and has faster kernels.
    if exponent.shape().iter().all(|&size| size == 1) && exponent.rank() <= base.rank() {
        let value = to_doubles(&exponent)?.first().copied().unwrap_or(1.0);
        return Ok(Value::float(power_of_one(base.into_float(context)?, value)));
    }
    let dtype = base.dtype();
    let wide = if dtype == DType::F16 { DType::F32 } else { dtype };
    let (base, exponent) = (converted(base, wide, context)?, converted(exponent, wide, context)?);
    let (base, exponent) = aligned(base, exponent, context)?;
    let power = B::float_powf(base.into_float(context)?, exponent.into_float(context)?);
    converted(Value::float(power), dtype, context)
}

fn power_of_one(base: Primitive, exponent: f64) -> Primitive {
    if exponent == 0.5 {
        return B::float_sqrt(base);
    }
    if exponent == 2.0 {
        return B::float_mul(base.clone(), base);
    }
    in_single(base, |base| B::float_powf_scalar(base, Scalar::Float(exponent)))
}

/// Exact for integer exponents; by others (and by negative ones) the real power, cut off to an integer.
fn int_power(base: Value, exponent: Value) -> Result<Value, OpError> {
    let (base, exponent) = (hosted(base)?, hosted(exponent)?);
    with_integers!(base.dtype(), T => {
        if exponent.dtype().is_float() {
            let exponent = doubles(exponent)?;
            let (shape, values) = zip(&base, &exponent, |base: T, exponent: f64| real_power(base, exponent))?;
            return exact::tensor(&shape, &values);
        }
        with_integers!(exponent.dtype(), E => {
            let f = |base: T, exponent: E| match u64::try_from(exponent.wide()) {
                Ok(exponent) => <T as Integer>::power(base, exponent),
                Err(_) => real_power(base, exponent.wide() as f64),
            };
            let (shape, values) = zip(&base, &exponent, f)?;
            exact::tensor(&shape, &values)
        })
    })
}

fn real_power<T: Integer + super::convert::Castable>(base: T, exponent: f64) -> T {
    T::narrow(super::convert::Wide::Float((base.wide() as f64).powf(exponent)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extremum {
    Min,
    Max,
}

/// A NaN in either is the result, as numpy and onnxruntime have it.
fn extremum(a: Value, b: Value, kind: Extremum, context: &Context) -> Result<Value, OpError> {
    let (a, b) = same_type(a, b)?;
    if !a.is_float() {
        return int_binary(if kind == Extremum::Max { IntBinary::Max } else { IntBinary::Min }, a, b);
    }
    let clamp = if kind == Extremum::Max { B::float_clamp_min } else { B::float_clamp_max };
    for (x, bound) in [(&a, &b), (&b, &a)] {
        // A NaN bound does not clamp on every device.
        if let Some(Scalar::Float(bound)) = host_scalar(bound, x)?
            && !bound.is_nan()
        {
            return Ok(Value::float(clamp(x.clone().into_float(context)?, Scalar::Float(bound))));
        }
    }
    let shape = broadcast_shape(&a.shape(), &b.shape())?;
    let (a, b) = (expanded(a, &shape, context)?, expanded(b, &shape, context)?);
    let comparison = if kind == Extremum::Max { Comparison::Greater } else { Comparison::Less };
    let better = compare(a.clone(), b.clone(), comparison, context)?.into_bool(context)?;
    // Where `b` is NaN, `a` is not better; where `a` is NaN, it must count as such.
    let nan = B::float_is_nan(a.clone().into_float(context)?, context.bool);
    let better = Value::bool(B::bool_or(nan, better));
    select(better, a, b, context)
}
