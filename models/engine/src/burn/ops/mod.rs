//! ONNX operators on burn primitives. Each file is a family; the registry below is the list of what is supported.
//!
//! A builder reads a node's attributes once and returns the closure that runs it. Closures check what burn would panic
//! on, so that a model's mistake is an error with the node's name. Operators with bodies are built by [`control`], which
//! is given the means to prepare them.

mod activation;
mod arg;
mod attention;
mod batch_norm;
mod blocks;
mod compare;
mod contraction;
mod contrib;
pub(super) mod control;
mod convert;
mod convolution;
mod deform;
mod detect;
mod determinant;
mod direct;
mod einsum;
mod elementwise;
mod exact;
mod fused;
mod generate;
mod grid;
mod host;
mod index;
mod integer;
mod integer_product;
mod layout;
mod linear;
mod loss;
mod marks;
mod mersenne;
mod ml;
mod movement;
mod ngrams;
mod normalize;
mod number;
mod packed;
mod pad;
mod pool;
mod pool_host;
mod pool_planes;
mod precision;
mod quantized;
mod random;
mod recurrent;
mod recurrent_activation;
mod reduce;
mod regions;
mod resample;
mod roi_pool;
mod running;
mod scatter;
mod sequence;
mod signal;
mod simd;
mod slice;
mod softmax;
mod sort;
mod taper;
mod taps;
mod transposed;
mod unary;
mod unpool;
mod vector;
mod window;

use hedge_graph::Node;
use hedge_tensor::{Tensor, TensorError};

use super::{Context, Value};
use crate::RunError;

/// What runs a node on its inputs.
type Run = dyn Fn(&Context, Inputs) -> Result<Vec<Value>, OpError> + Send + Sync;

/// A prepared operator.
pub(crate) struct BoxOp {
    run: Box<Run>,
    place: Place,
}

/// Where an operator computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Where it is told to.
    Anywhere,
    /// On the host whatever the device: its inputs are brought there and its outputs stay.
    Host,
    /// On the CPU: where that is the device as anywhere, where it is not as on the host.
    Cpu,
    /// It only moves values or runs a body, whose operators each have a place of their own.
    Within,
}

impl BoxOp {
    pub(crate) fn run(&self, context: &Context, inputs: Inputs) -> Result<Vec<Value>, OpError> {
        (self.run)(context, inputs)
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }
}

/// Reads a node of the given opset.
pub(crate) type Builder = fn(&Node, i64) -> Result<BoxOp, OpError>;

/// Why an operator gave no outputs; the program adds which node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum OpError {
    /// Something is wrong with the node or its inputs.
    #[error("{0}")]
    Node(String),
    /// The device gave up.
    #[error("{0}")]
    Device(String),
    /// A node of the operator's body failed: that is the node to be told of.
    #[error("{0}")]
    Body(Box<RunError>),
}

impl OpError {
    pub(crate) fn new(why: impl Into<OpError>) -> Self {
        why.into()
    }

    /// The error of a run, in which `node` ran `op`.
    pub(crate) fn of(self, node: &str, op: &str) -> RunError {
        match self {
            OpError::Node(why) => RunError::Node { node: node.to_owned(), op: op.to_owned(), why },
            OpError::Device(why) => RunError::Device { why },
            OpError::Body(error) => *error,
        }
    }
}

impl From<String> for OpError {
    fn from(why: String) -> Self {
        OpError::Node(why)
    }
}

impl From<&str> for OpError {
    fn from(why: &str) -> Self {
        OpError::Node(why.to_owned())
    }
}

impl From<TensorError> for OpError {
    fn from(error: TensorError) -> Self {
        OpError::Node(error.to_string())
    }
}

/// Whether there is an implementation of the operator, in any opset.
pub(crate) fn is_known(domain: &str, op: &str) -> bool {
    builder(domain, op).is_some() || control::builder(domain, op).is_some()
}

/// The builder of an operator without bodies, `None` where there is none.
pub(crate) fn builder(domain: &str, op: &str) -> Option<Builder> {
    match domain {
        "" | "ai.onnx" => {}
        hedge_graph::passes::DOMAIN => return fused::builder(op),
        "com.microsoft" => return contrib::builder(op),
        "ai.onnx.ml" => return ml::builder(op),
        _ => return None,
    }
    let families = [
        elementwise::builder,
        compare::builder,
        unary::builder,
        activation::builder,
        softmax::builder,
        convolution::builder,
        pool::builder,
        linear::builder,
        normalize::builder,
        layout::builder,
        slice::builder,
        pad::builder,
        reduce::builder,
        arg::builder,
        convert::builder,
        integer::builder,
        index::builder,
        scatter::builder,
        marks::builder,
        ngrams::builder,
        sort::builder,
        generate::builder,
        running::builder,
        einsum::builder,
        resample::builder,
        recurrent::builder,
        sequence::builder,
        attention::builder,
        quantized::builder,
        signal::builder,
        taper::builder,
        detect::builder,
        loss::builder,
        random::builder,
        contrib::unofficial,
    ];
    families.iter().find_map(|family| family(op))
}

/// The node's operator with its constant inputs taken in, in the form that it needs them in; it takes its first input alone.
/// `None` where nothing is gained by that. `constant` gives the inputs that are constants, by their index.
pub(crate) fn with_constants(
    node: &Node,
    context: &Context,
    constant: impl Fn(usize) -> Option<Value>,
) -> Result<Option<BoxOp>, OpError> {
    let ours = matches!(node.domain.as_str(), "" | "ai.onnx" | hedge_graph::passes::DOMAIN);
    if ours && node.op == "Conv" && context.is_plain_cpu() {
        return packed::convolution(node, constant);
    }
    Ok(None)
}

/// The values of a node's inputs; absent optional ones are `None`.
pub(crate) struct Inputs(Vec<Option<Value>>);

impl Inputs {
    pub(crate) fn new(values: Vec<Option<Value>>) -> Self {
        Inputs(values)
    }

    /// Takes input `index`, which the operator needs.
    pub(crate) fn take(&mut self, index: usize) -> Result<Value, OpError> {
        self.optional(index).ok_or_else(|| OpError::new(format!("input {index} is missing")))
    }

    /// Takes input `index`, which may be absent.
    pub(crate) fn optional(&mut self, index: usize) -> Option<Value> {
        self.0.get_mut(index).and_then(Option::take)
    }

    /// Takes all inputs that are there.
    pub(crate) fn all(&mut self) -> Vec<Value> {
        self.0.iter_mut().filter_map(Option::take).collect()
    }

    /// Gives input `index` back, to be taken once more.
    pub(crate) fn put_back(&mut self, index: usize, value: Option<Value>) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = value;
        }
    }

    /// The inputs from `index` on, absent ones included.
    pub(crate) fn rest(&mut self, index: usize) -> Vec<Option<Value>> {
        self.0.split_off(index.min(self.0.len()))
    }

    /// Whether `context`'s device can neither hold nor compute one of them.
    pub(crate) fn are_beyond(&self, context: &Context) -> bool {
        self.0.iter().flatten().any(|value| value.is_beyond(context))
    }

    /// The same inputs, all of them on the host.
    pub(crate) fn on_host(self) -> Result<Inputs, OpError> {
        let values = self.0.into_iter().map(|value| value.map(Value::on_host).transpose());
        Ok(Inputs(values.collect::<Result<_, _>>()?))
    }

    /// Whether all inputs are on the host and either scalars or integers and booleans with at most `elements` each.
    pub(crate) fn fit_the_host(&self, elements: usize) -> bool {
        let small = |value: &Value| !value.is_float() && value.shape().iter().product::<usize>() <= elements;
        let fits = |value: &Value| value.is_host() && (value.rank() == 0 || small(value));
        self.0.iter().flatten().count() > 0 && self.0.iter().flatten().all(fits)
    }
}

/// Boxes a closure with one output.
fn one(f: impl Fn(&Context, Inputs) -> Result<Value, OpError> + Send + Sync + 'static) -> Result<BoxOp, OpError> {
    many(move |context, inputs| Ok(vec![f(context, inputs)?]))
}

/// Boxes a closure with several outputs.
fn many(f: impl Fn(&Context, Inputs) -> Result<Vec<Value>, OpError> + Send + Sync + 'static) -> Result<BoxOp, OpError> {
    Ok(BoxOp { run: Box::new(f), place: Place::Anywhere })
}

/// Boxes an operator that only moves values, or runs a body.
fn within(
    f: impl Fn(&Context, Inputs) -> Result<Vec<Value>, OpError> + Send + Sync + 'static,
) -> Result<BoxOp, OpError> {
    Ok(BoxOp { run: Box::new(f), place: Place::Within })
}

/// Boxes an operator that computes on host tensors: one whose output's shape depends on values, or that works on integers
/// exactly. It has no gradient.
fn on_host(
    f: impl Fn(&[Option<Tensor>]) -> Result<Vec<Tensor>, OpError> + Send + Sync + 'static,
) -> Result<BoxOp, OpError> {
    let run = move |_: &Context, mut inputs: Inputs| {
        let tensors = (0..inputs.0.len()).map(|index| inputs.optional(index).map(Value::into_host).transpose());
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        Ok(f(&tensors)?.into_iter().map(Value::host).collect())
    };
    Ok(BoxOp { run: Box::new(run), place: Place::Host })
}

/// Boxes an operator with one output that computes on the CPU, in the CPU's floats.
fn on_cpu(f: impl Fn(&Context, Inputs) -> Result<Value, OpError> + Send + Sync + 'static) -> Result<BoxOp, OpError> {
    Ok(BoxOp { place: Place::Cpu, ..one(f)? })
}

/// `axis` counted from the front, for a tensor of `rank` dimensions.
fn axis_of(axis: i64, rank: usize) -> Result<usize, OpError> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(counted) {
        Ok(axis) if axis < rank => Ok(axis),
        _ => Err(OpError::new(format!("axis {axis} is outside a tensor of {rank} dimensions"))),
    }
}

/// A dimension that came as an integer.
fn size_of(value: i64) -> Result<usize, OpError> {
    usize::try_from(value).map_err(|_| OpError::new(format!("{value} is no size")))
}

/// Runs the variant of an operation that fits the value's type; the result has the same ONNX type.
macro_rules! by_kind {
    ($value:expr, $context:expr, |$tensor:ident| $float:expr, $int:expr, $bool:expr) => {{
        let value: $crate::burn::Value = $value;
        let dtype = value.dtype();
        if dtype.is_float() {
            let $tensor = value.into_float($context)?;
            Ok::<_, $crate::burn::ops::OpError>($crate::burn::Value::float($float))
        } else if dtype == hedge_tensor::DType::Bool {
            let $tensor = value.into_bool($context)?;
            Ok($crate::burn::Value::bool($bool))
        } else {
            let $tensor = value.into_int($context)?;
            Ok($crate::burn::Value::int($int, dtype))
        }
    }};
}
use by_kind;

/// The value under another shape with as many elements.
fn reshaped(value: Value, shape: &[usize], context: &Context) -> Result<Value, OpError> {
    use burn_backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
    let from = value.shape();
    // The target may be anything that a model says; what is there has been counted.
    if hedge_tensor::element_count(shape) != Some(from.iter().product()) {
        return Err(OpError::new(format!("{from:?} does not reshape to {shape:?}")));
    }
    if from == shape {
        return Ok(value);
    }
    if value.is_host() || (shape.is_empty() && context.is_gpu()) {
        let tensor = value.into_host()?;
        return Ok(Value::host(tensor.reshaped(shape.to_vec())?));
    }
    let shape = burn_backend::Shape::from(shape.to_vec());
    by_kind!(
        value,
        context,
        |tensor| super::B::float_reshape(tensor, shape),
        super::B::int_reshape(tensor, shape),
        super::B::bool_reshape(tensor, shape)
    )
}

/// The shape that `a` and `b` broadcast to (ONNX "Broadcasting": numpy's rule).
fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, OpError> {
    let rank = a.len().max(b.len());
    let at =
        |shape: &[usize], index: usize| (index + shape.len()).checked_sub(rank).map_or(1, |position| shape[position]);
    (0..rank)
        .map(|index| match (at(a, index), at(b, index)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(OpError::new(format!("{a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// The value with leading dimensions of 1 up to `rank`.
fn with_rank(value: Value, rank: usize, context: &Context) -> Result<Value, OpError> {
    let shape = value.shape();
    if shape.len() >= rank {
        return Ok(value);
    }
    let mut padded = vec![1; rank - shape.len()];
    padded.extend(shape);
    reshaped(value, &padded, context)
}

/// The two values with as many dimensions as the larger, checked to broadcast to something that memory holds.
fn aligned(a: Value, b: Value, context: &Context) -> Result<(Value, Value), OpError> {
    let shape = broadcast_shape(&a.shape(), &b.shape())?;
    host::room(a.dtype(), &shape)?;
    let rank = shape.len();
    Ok((with_rank(a, rank, context)?, with_rank(b, rank, context)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_by_numpys_rule() {
        assert_eq!(broadcast_shape(&[2, 1, 3], &[4, 1]).unwrap(), [2, 4, 3]);
        assert_eq!(broadcast_shape(&[], &[5]).unwrap(), [5]);
        assert!(broadcast_shape(&[2], &[3]).is_err());
    }

    #[test]
    fn an_axis_outside_the_tensor_is_refused() {
        assert_eq!(axis_of(-1, 3).unwrap(), 2);
        assert!(axis_of(3, 3).is_err());
        assert!(axis_of(-4, 3).is_err());
    }

    #[test]
    fn operators_of_other_domains_are_not_taken_for_onnx_ones() {
        assert!(builder("", "Add").is_some());
        assert!(builder("ai.onnx", "Add").is_some());
        assert!(builder("com.microsoft", "Add").is_none());
        assert!(builder("com.microsoft", "FusedConv").is_some());
        assert!(builder("", "FusedConv").is_none());
    }
}
