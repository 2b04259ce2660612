//! Operators of the domain `com.microsoft`, which onnxruntime's optimizer and quantizer write into models: mostly several
//! ONNX operators in one, and built here from these.

mod attention;
mod group_query;
mod multi_head;
mod normalize;
mod quantized;
mod recurrent;
mod weights;

use burn_backend::Scalar;
use burn_backend::ops::{ActivationOps, FloatTensorOps};
use hedge_graph::{Attribute, Node};

use super::layout::permuted;
use super::{BoxOp, Builder, Inputs, OpError, aligned, attention as positions, builder as registered, one};
use crate::burn::{B, Context, Value};

/// The builder of an operator of `com.microsoft`.
pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        // ONNX has these too, and means the same by them.
        "Trilu" | "QuantizeLinear" | "DequantizeLinear" => return registered("", op),
        "Gelu" => |_, opset| gelu(opset, "none"),
        "FastGelu" => |_, opset| gelu(opset, "tanh"),
        "BiasGelu" => |_, opset| gelu(opset, "none"),
        "QuickGelu" => quick_gelu,
        "FusedConv" => fused_convolution,
        "FusedGemm" => fused_gemm,
        "FusedMatMul" | "TransposeMatMul" => fused_matmul,
        "RotaryEmbedding" => rotary_embedding,
        "NhwcMaxPool" => max_pool_of_channels_last,
        _ => {
            return normalize::builder(op)
                .or_else(|| attention::builder(op))
                .or_else(|| multi_head::builder(op))
                .or_else(|| quantized::builder(op))
                .or_else(|| weights::builder(op))
                .or_else(|| recurrent::builder(op))
                .or_else(|| group_query::builder(op));
        }
    })
}

/// What onnxruntime writes into ONNX's own domain although ONNX does not have it.
pub(super) fn unofficial(op: &str) -> Option<Builder> {
    (op == "SimplifiedLayerNormalization").then(|| normalize::builder(op)).flatten()
}

/// An ONNX operator inside another operator.
struct Part(BoxOp);

impl Part {
    fn new(op: &str, attributes: &[(&str, Attribute)], opset: i64) -> Result<Self, OpError> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Part::of(op, &Node { attributes, ..Node::default() }, opset)
    }

    /// With the attributes of `node`.
    fn of(op: &str, node: &Node, opset: i64) -> Result<Self, OpError> {
        let build = registered("", op).ok_or_else(|| OpError::new(format!("it needs {op}, which is not supported")))?;
        let attributes = node.attributes.clone();
        let node = Node { op: op.to_owned(), outputs: vec!["y".to_owned()], attributes, ..Node::default() };
        Ok(Part(build(&node, opset)?))
    }

    /// Its first output.
    fn run(&self, inputs: Vec<Option<Value>>, context: &Context) -> Result<Value, OpError> {
        let outputs = self.0.run(context, Inputs::new(inputs))?;
        outputs.into_iter().next().ok_or_else(|| OpError::new("one of its parts made nothing"))
    }
}

/// Refuses outputs that only training takes.
fn check_outputs(node: &Node, refused: std::ops::Range<usize>) -> Result<(), OpError> {
    let named = node.outputs.iter().enumerate().find(|(index, name)| refused.contains(index) && !name.is_empty());
    named.map_or(Ok(()), |(index, _)| Err(OpError::new(format!("its output {index} is not supported; remove it"))))
}

fn sum(a: Value, b: Option<Value>, context: &Context) -> Result<Value, OpError> {
    let Some(b) = b else { return Ok(a) };
    let (a, b) = aligned(a, b, context)?;
    Ok(Value::float(B::float_add(a.into_float(context)?, b.into_float(context)?)))
}

/// With a bias where a second input is there.
fn gelu(opset: i64, approximate: &'static str) -> Result<BoxOp, OpError> {
    let gelu = Part::new("Gelu", &[("approximate", approximate.into())], opset)?;
    one(move |context, mut inputs| {
        let x = inputs.take(0)?;
        gelu.run(vec![Some(sum(x, inputs.optional(1), context)?)], context)
    })
}

fn quick_gelu(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let alpha = Scalar::Float(f64::from(node.float("alpha", 1.702)));
    one(move |context, mut inputs| {
        let x = inputs.take(0)?.into_float(context)?;
        Ok(Value::float(B::float_mul(x.clone(), B::sigmoid(B::float_mul_scalar(x, alpha)))))
    })
}

/// The activation of a fused operator; `parameters` as they are listed there.
fn activation(node: &Node, parameters: &[f32], opset: i64) -> Result<Option<Part>, OpError> {
    let parameter = |index: usize, default: f32| Attribute::Float(parameters.get(index).copied().unwrap_or(default));
    Ok(Some(match node.string("activation").unwrap_or("") {
        "" => return Ok(None),
        op @ ("Relu" | "Tanh" | "Sigmoid" | "HardSwish" | "Softplus") => Part::new(op, &[], opset)?,
        "LeakyRelu" => Part::new("LeakyRelu", &[("alpha", parameter(0, 0.01))], opset)?,
        "HardSigmoid" => Part::new("HardSigmoid", &[("alpha", parameter(0, 0.2)), ("beta", parameter(1, 0.5))], opset)?,
        // Its bounds are attributes in opset 6.
        "Clip" => Part::new("Clip", &[("min", parameter(0, f32::MIN)), ("max", parameter(1, f32::MAX))], 6)?,
        other => return Err(OpError::new(format!("a fused activation {other:?} is not supported"))),
    }))
}

fn activated(activation: Option<&Part>, x: Value, context: &Context) -> Result<Value, OpError> {
    activation.map_or(Ok(x.clone()), |activation| activation.run(vec![Some(x)], context))
}

fn fused_convolution(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let convolution = Part::of("Conv", node, opset)?;
    let activation = activation(node, node.floats("activation_params").unwrap_or_default(), opset)?;
    one(move |context, mut inputs| {
        let own = vec![Some(inputs.take(0)?), Some(inputs.take(1)?), inputs.optional(2)];
        let y = sum(convolution.run(own, context)?, inputs.optional(3), context)?;
        activated(activation.as_ref(), y, context)
    })
}

fn fused_gemm(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let gemm = Part::of("Gemm", node, opset)?;
    let parameters: Vec<f32> = ["activation_alpha", "activation_beta", "activation_gamma"]
        .iter()
        .map_while(|name| node.attributes.contains_key(*name).then(|| node.float(name, 0.0)))
        .collect();
    let activation = activation(node, &parameters, opset)?;
    one(move |context, mut inputs| {
        let own = vec![Some(inputs.take(0)?), Some(inputs.take(1)?), inputs.optional(2)];
        activated(activation.as_ref(), gemm.run(own, context)?, context)
    })
}

fn fused_matmul(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let matmul = Part::new("MatMul", &[], opset)?;
    let alpha = f64::from(node.float("alpha", 1.0));
    let flag = |name: &str| node.int(name, 0) != 0;
    let (left, right) = ((flag("transA"), flag("transBatchA")), (flag("transB"), flag("transBatchB")));
    one(move |context, mut inputs| {
        let a = turned(inputs.take(0)?, left, context)?;
        let b = turned(inputs.take(1)?, right, context)?;
        let y = matmul.run(vec![Some(a), Some(b)], context)?;
        if alpha == 1.0 {
            return Ok(y);
        }
        Ok(Value::float(B::float_mul_scalar(y.into_float(context)?, Scalar::Float(alpha))))
    })
}

/// An operand with its matrices transposed, or with its rows brought from the front to behind the batch.
fn turned(x: Value, (transposed, from_front): (bool, bool), context: &Context) -> Result<Value, OpError> {
    let rank = x.rank();
    if rank < 2 {
        return Ok(x);
    }
    let mut axes: Vec<usize> = (0..rank).collect();
    if from_front {
        axes[..rank - 1].rotate_left(1);
    }
    if transposed {
        axes.swap(rank - 2, rank - 1);
    }
    permuted(x, &axes, context)
}

fn rotary_embedding(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    if node.int("is_packed_batching", 0) != 0 {
        return Err(OpError::new("is_packed_batching is not supported"));
    }
    let rotation = positions::rotary::Rotation::read(node)?;
    one(move |context, mut inputs| {
        let (x, ids) = (inputs.take(0)?, inputs.take(1)?);
        let tables = (inputs.take(2)?, inputs.take(3)?);
        positions::rotary::rotate(x, tables, Some(ids), rotation, context)
    })
}

fn max_pool_of_channels_last(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let pool = Part::of("MaxPool", node, opset)?;
    one(move |context, mut inputs| {
        let x = channels_first(inputs.take(0)?, context)?;
        channels_last(pool.run(vec![Some(x)], context)?, context)
    })
}

fn channels_first(x: Value, context: &Context) -> Result<Value, OpError> {
    let rank = check_channels(&x)?;
    let axes: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    permuted(x, &axes, context)
}

fn channels_last(x: Value, context: &Context) -> Result<Value, OpError> {
    let rank = check_channels(&x)?;
    let axes: Vec<usize> = std::iter::once(0).chain(2..rank).chain([1]).collect();
    permuted(x, &axes, context)
}

fn check_channels(x: &Value) -> Result<usize, OpError> {
    let rank = x.rank();
    (rank >= 3).then_some(rank).ok_or_else(|| OpError::new("its input has a batch, channels and spatial dimensions"))
}
