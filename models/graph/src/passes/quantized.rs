//! Dequantization, an operator and quantization as one operator on integers.
//!
//! Quantizers write a layer as floats between a `DequantizeLinear` for each operand and a `QuantizeLinear` (the "QDQ" form).
//! What such a group gives depends on last bits: a sum of floats that lies beside a tie is rounded to another step than the
//! exact sum. onnxruntime computes the groups in integers by default, and these here are the same groups with the same
//! conditions (its `qdq_transformer`, on x86-64), so that answers are the same. Where it leaves floats, so does this:
//! signed operands of products stay floats unless they can be made unsigned, which takes that one node alone uses them.
//!
//! The sums of products must fit the whole numbers of 32-bit floats, which the executor needs to be fast; wider layers stay
//! as they are.

mod group;

use hedge_tensor::{DType, Tensor};

use super::pattern::{Rewrite, rewrite};
use super::scan::{Scan, input, is, output};
use crate::names::HashMap;
use crate::{Graph, Node};
use group::{Level, Levels};

/// The domain of onnxruntime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Up to here 32-bit floats hold every whole number.
const EXACT: f64 = 16_777_216.0;

/// No 8-bit number is farther from a zero point of its type.
const REACH: f64 = 255.0;

/// Replaces groups around an operator by the operator on integers; returns how many.
pub fn fuse_quantized_groups(graph: &mut Graph) -> usize {
    if !graph.nodes.iter().any(|node| is(node, "DequantizeLinear")) {
        return 0;
    }
    let mut count = make_unsigned(graph);
    loop {
        let takers = takers(graph);
        let found = rewrite(graph, |scan, index| matched(scan, &takers, index));
        count += found;
        if found == 0 {
            return count;
        }
    }
}

/// How many `QuantizeLinear` take each value.
fn takers(graph: &Graph) -> HashMap<String, usize> {
    let mut takers = HashMap::default();
    for node in graph.nodes.iter().filter(|node| is(node, "QuantizeLinear")) {
        *takers.entry(input(node, 0).to_owned()).or_default() += 1;
    }
    takers
}

/// Moves signed values that are made and used by one pair of nodes to the unsigned type, scale unchanged.
fn make_unsigned(graph: &mut Graph) -> usize {
    let scan = Scan::new(graph);
    let mut pairs = Vec::new();
    for (second, node) in graph.nodes.iter().enumerate().filter(|(_, node)| is(node, "DequantizeLinear")) {
        let value = input(node, 0);
        let Some((first, maker)) = scan.maker(value).filter(|(_, maker)| is(maker, "QuantizeLinear")) else { continue };
        let made = output(node).unwrap_or_default();
        let users = scan.takers(made) + usize::from(scan.is_pinned(made));
        let zero = |node: &Node| signed_zero(&scan, input(node, 2));
        if !scan.has_one_taker(value) || users > 1 || made.is_empty() {
            continue;
        }
        if let Some(level) = zero(node).filter(|level| Some(*level) == zero(maker)) {
            pairs.push((first, second, value.to_owned(), scan.fresh(value, "zero"), level));
        }
    }
    let count = pairs.len();
    for (first, second, value, name, level) in pairs {
        // Adding 128 to a signed byte turns its highest bit.
        let zero = Tensor::scalar((level as u8) ^ 0x80);
        graph.initializers.insert(name.clone(), zero);
        for node in [first, second] {
            graph.nodes[node].inputs[2].clone_from(&name);
            graph.nodes[node].attributes.remove("output_dtype");
        }
        graph.values.iter_mut().filter(|info| info.name == value).for_each(|info| info.dtype = Some(DType::U8));
    }
    count
}

fn signed_zero(scan: &Scan<'_>, name: &str) -> Option<i8> {
    let zero = scan.constant(name).filter(|zero| zero.dtype() == DType::I8 && zero.len() == 1)?;
    zero.to_vec::<i8>().ok()?.first().copied()
}

/// The group that ends at a node: in a quantization, or in a product that is used as floats.
fn matched(scan: &Scan<'_>, takers: &HashMap<String, usize>, index: usize) -> Option<Rewrite> {
    let last = &scan.graph.nodes[index];
    let made = output(last)?;
    if !is(last, "QuantizeLinear") {
        let products = is(last, "MatMul") || is(last, "Gemm");
        let (operator, inputs) =
            (products && !takers.contains_key(made)).then(|| integers(scan, last, None)).flatten()?;
        return Some(replaced(scan, last, last, operator, inputs, Vec::new()));
    }
    let level = Level::of_output(scan, last)?;
    let mut value = input(last, 0);
    let mut consumed = Vec::new();
    if let Some((clip, node)) = scan.maker(value).filter(|(_, node)| level.covers(scan, node)) {
        if !scan.has_one_taker(value) {
            return None;
        }
        consumed.push(clip);
        value = input(node, 0);
    }
    let (target, node) = scan.maker(value).filter(|_| scan.has_one_taker(value))?;
    output(node)?;
    consumed.push(target);
    let (operator, inputs) = integers(scan, node, Some(&level))?;
    Some(replaced(scan, last, node, operator, inputs, consumed))
}

/// The node on integers in the place of the group's last.
fn replaced(
    scan: &Scan<'_>,
    last: &Node,
    target: &Node,
    operator: &'static str,
    inputs: Vec<Operand>,
    consumed: Vec<usize>,
) -> Rewrite {
    let root = last.outputs[0].as_str();
    let mut node = Node { op: operator.to_owned(), outputs: vec![root.to_owned()], ..target.clone() };
    let standard = matches!(operator, "QLinearConv" | "QLinearMatMul") || operator == target.op;
    node.domain = if standard { String::new() } else { MICROSOFT.to_owned() };
    if operator == "QLinearSoftmax" {
        node.attributes.insert("opset".to_owned(), scan.graph.opset.into());
    }
    let mut constants = Vec::new();
    node.inputs = inputs
        .into_iter()
        .map(|operand| match operand {
            Operand::Value(name) => name,
            Operand::Zero(dtype) => {
                let name = scan.fresh(root, if dtype == DType::I8 { "signed_zero" } else { "unsigned_zero" });
                let zero = if dtype == DType::I8 { Tensor::scalar(0i8) } else { Tensor::scalar(0u8) };
                constants.push((name.clone(), zero));
                name
            }
        })
        .collect();
    Rewrite { constants, ..Rewrite::of(node, consumed) }
}

/// An input of a node on integers.
enum Operand {
    Value(String),
    /// A zero point that was left out.
    Zero(DType),
}

impl Operand {
    fn none() -> Self {
        Operand::Value(String::new())
    }
}

/// The operator on integers that gives what `node` does between its operands' levels and the output's, and its inputs.
fn integers(scan: &Scan<'_>, node: &Node, out: Option<&Level>) -> Option<(&'static str, Vec<Operand>)> {
    if !(node.domain.is_empty() || node.domain == "ai.onnx") {
        return None;
    }
    let levels: Vec<Level> = match node.op.as_str() {
        "Reshape" | "Transpose" | "Flatten" | "Squeeze" | "Unsqueeze" => vec![Level::of_input(scan, node, 0)?],
        _ => (0..node.inputs.len())
            .filter(|&index| !input(node, index).is_empty())
            .map(|index| Level::of_input(scan, node, index))
            .collect::<Option<_>>()?,
    };
    let levels = Levels { levels, out };
    let operator = match node.op.as_str() {
        "Conv" if levels.convolve(scan, node) => "QLinearConv",
        "MatMul" if levels.multiply(scan) => match out {
            Some(_) => "QLinearMatMul",
            None => return Some(("MatMulIntegerToFloat", levels.by_kind())),
        },
        "Gemm" if levels.add_product(scan, node) => return Some(("QGemm", levels.of_gemm())),
        "Add" if levels.are_alike(2) => "QLinearAdd",
        "Mul" if levels.are_alike(2) => "QLinearMul",
        "AveragePool" if levels.are_alike(1) && is_dense(node) => "QLinearAveragePool",
        "GlobalAveragePool" if levels.are_alike(1) => "QLinearGlobalAveragePool",
        "LeakyRelu" if levels.are_alike(1) => "QLinearLeakyRelu",
        "Sigmoid" if levels.are_alike(1) => "QLinearSigmoid",
        "Softmax" if levels.are_alike(1) => "QLinearSoftmax",
        "Concat" if levels.are_alike(node.inputs.len()) => return Some(("QLinearConcat", levels.of_concat())),
        "Reshape" => return Some(("Reshape", levels.moved(node)?)),
        "Transpose" => return Some(("Transpose", levels.moved(node)?)),
        "Flatten" => return Some(("Flatten", levels.moved(node)?)),
        "Squeeze" => return Some(("Squeeze", levels.moved(node)?)),
        "Unsqueeze" => return Some(("Unsqueeze", levels.moved(node)?)),
        _ => return None,
    };
    Some((operator, levels.in_order()))
}

fn is_dense(node: &Node) -> bool {
    node.ints("dilations").is_none_or(|dilations| dilations.iter().all(|&dilation| dilation == 1))
}
