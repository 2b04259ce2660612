//! Operators on 8-bit numbers between two scales. Those that are functions of one element are computed as floats, which hold
//! them exactly, and quantized again; the others have arithmetic of their own.

use hedge_graph::{Attribute, Node};

use super::super::layout::concatenated;
use super::super::quantized::{elementwise, linear, pool, softmax};
use super::super::{BoxOp, Builder, Inputs, OpError, one};
use super::Part;
use crate::burn::{Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "QLinearAdd" => |_, _| elementwise::add(),
        "QLinearMul" => |_, _| elementwise::mul(),
        "QLinearSigmoid" => |_, opset| unary(Part::new("Sigmoid", &[], opset)?, opset),
        "QLinearLeakyRelu" => |node, opset| unary(Part::of("LeakyRelu", node, opset)?, opset),
        "QLinearSoftmax" => |node, _| softmax::softmax(node),
        "QLinearGlobalAveragePool" => |node, _| pool::global_average(node),
        "QLinearAveragePool" => |node, _| pool::average(node),
        "QLinearConcat" => concat,
        "QLinearWhere" => |_, opset| choice(opset),
        "QGemm" => |node, _| linear::gemm(node),
        "MatMulIntegerToFloat" => |_, _| linear::matmul_to_float(),
        "DynamicQuantizeMatMul" => |_, _| linear::dynamic_matmul(),
        _ => return None,
    })
}

/// The ways into floats and out of them.
struct Gates {
    dequantize: Part,
    quantize: Part,
}

impl Gates {
    fn new(opset: i64) -> Result<Self, OpError> {
        // By tensor only; the axis is that of a tensor with any number of dimensions.
        let axis = [("axis", Attribute::Int(0))];
        Ok(Gates {
            dequantize: Part::new("DequantizeLinear", &axis, opset)?,
            quantize: Part::new("QuantizeLinear", &axis, opset)?,
        })
    }

    /// The operand at `index`, with its scale and zero point behind it.
    fn take(&self, inputs: &mut Inputs, index: usize, context: &Context) -> Result<Value, OpError> {
        let x = inputs.take(index)?;
        self.dequantize.run(vec![Some(x), Some(inputs.take(index + 1)?), inputs.optional(index + 2)], context)
    }

    /// To the scale and zero point at `index`.
    fn give(&self, x: Value, inputs: &mut Inputs, index: usize, context: &Context) -> Result<Value, OpError> {
        self.quantize.run(vec![Some(x), Some(inputs.take(index)?), inputs.optional(index + 1)], context)
    }
}

fn unary(part: Part, opset: i64) -> Result<BoxOp, OpError> {
    let gates = Gates::new(opset)?;
    one(move |context, mut inputs| {
        let x = gates.take(&mut inputs, 0, context)?;
        let y = part.run(vec![Some(x)], context)?;
        gates.give(y, &mut inputs, 3, context)
    })
}

fn choice(opset: i64) -> Result<BoxOp, OpError> {
    let (gates, part) = (Gates::new(opset)?, Part::new("Where", &[], opset)?);
    one(move |context, mut inputs| {
        let condition = inputs.take(0)?;
        let (x, y) = (gates.take(&mut inputs, 1, context)?, gates.take(&mut inputs, 4, context)?);
        gates.give(part.run(vec![Some(condition), Some(x), Some(y)], context)?, &mut inputs, 7, context)
    })
}

fn concat(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let gates = Gates::new(opset)?;
    let (axis, count) = (node.int("axis", 0), node.inputs.len().saturating_sub(2) / 3);
    one(move |context, mut inputs| {
        let parts =
            (0..count).map(|index| gates.take(&mut inputs, 2 + 3 * index, context)).collect::<Result<_, _>>()?;
        gates.give(concatenated(parts, axis, context)?, &mut inputs, 0, context)
    })
}
