//! Groups of dequantization, operator and quantization: which become operators on integers, and what they give.

use hedge_graph::passes::{Options, optimize};
use hedge_graph::{Attribute, Graph, GraphBuilder};
use hedge_tensor::{DType, Tensor};

use super::run;
use crate::burn::optimized;

fn of<T: hedge_tensor::Element>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

/// A graph in the making, in which values are quantized and dequantized.
struct Quantizer(GraphBuilder);

impl Quantizer {
    fn new(dtype: DType, shape: &[usize]) -> Self {
        let mut builder = GraphBuilder::new("groups");
        builder.input("x", dtype, &shape.iter().map(|&size| size.into()).collect::<Vec<_>>());
        Quantizer(builder)
    }

    fn level(&mut self, op: &str, value: &str, scale: Tensor, zero: Tensor, axis: i64) -> String {
        let name = format!("{value}.{op}");
        let (scale, zero) = (self.0.init(&format!("{name}.s"), scale), self.0.init(&format!("{name}.z"), zero));
        self.0.op_as(&name, op, &[value, &scale, &zero], &[("axis", Attribute::Int(axis))]);
        name
    }

    fn floats(&mut self, value: &str, scale: f32, zero: u8) -> String {
        self.level("DequantizeLinear", value, Tensor::scalar(scale), Tensor::scalar(zero), 1)
    }

    fn bytes(&mut self, value: &str, scale: f32, zero: u8) -> String {
        self.level("QuantizeLinear", value, Tensor::scalar(scale), Tensor::scalar(zero), 1)
    }

    /// Constant weights with scales along `axis`.
    fn weights(&mut self, name: &str, values: Tensor, scales: &[f32], axis: i64) -> String {
        self.0.init(name, values);
        let (scales, zeros) = (of(&[scales.len()], scales), of(&[scales.len()], &vec![0i8; scales.len()]));
        self.level("DequantizeLinear", name, scales, zeros, axis)
    }

    fn bias(&mut self, values: &[i32], scale: f32) -> String {
        self.0.init("bias", of(&[values.len()], values));
        self.level("DequantizeLinear", "bias", Tensor::scalar(scale), Tensor::scalar(0i32), 0)
    }

    fn finish(mut self, output: &str, dtype: DType) -> Graph {
        self.0.output(output, dtype, &[]);
        let mut graph = self.0.finish().unwrap();
        graph.outputs[0].shape = None;
        graph
    }
}

fn ops(graph: &Graph) -> Vec<String> {
    let (fused, _) = optimized(graph);
    fused.validate().unwrap();
    assert_eq!(optimized(&fused).1.total(), 0, "a second time changes nothing");
    fused.nodes.iter().map(hedge_graph::Node::qualified_op).collect()
}

#[test]
fn a_group_gives_what_exact_sums_round_to() {
    // 158 * 45 - 160 * 36 is 1350, a step of 0.7 * 0.02 / 0.12: 157.49999 in floats, 157.50000 from integers. onnxruntime
    // says 158, and 157 with its optimizer switched off.
    let mut q = Quantizer::new(DType::U8, &[1, 2, 1, 1]);
    let x = q.floats("x", 0.7, 0);
    let w = q.weights("w", of(&[1, 2, 1, 1], &[45i8, -36]), &[0.02], 0);
    let c = q.0.op("Conv", &[&x, &w], &[]);
    let y = q.bytes(&c, 0.12, 0);
    let graph = q.finish(&y, DType::U8);
    assert_eq!(ops(&graph), ["QLinearConv"]);
    let y = run(&graph, &[of(&[1, 2, 1, 1], &[158u8, 160])]).unwrap();
    assert_eq!(y.bytes().to_vec(), [158]);
}

#[test]
fn gpus_keep_floats() {
    let mut q = Quantizer::new(DType::U8, &[1, 4]);
    let x = q.floats("x", 0.5, 0);
    let a = q.0.op("Add", &[&x, &x], &[]);
    let y = q.bytes(&a, 1.0, 0);
    let mut graph = q.finish(&y, DType::U8);
    assert_eq!(ops(&graph), ["com.microsoft.QLinearAdd"]);
    optimize(&mut graph, &Options::default());
    assert_eq!(graph.nodes.iter().filter(|node| node.op == "Add").count(), 1);
}

#[test]
fn a_relu_goes_where_the_type_ends_at_its_zero_point_only() {
    let graph = |zero: u8| {
        let mut q = Quantizer::new(DType::U8, &[1, 1, 4]);
        let x = q.floats("x", 0.5, 7);
        let w = q.weights("w", of(&[2, 1, 3], &[1i8, -2, 3, -4, 5, -6]), &[0.1, 0.2], 0);
        let b = q.bias(&[10, -20], 0.05);
        let c = q.0.op("Conv", &[&x, &w, &b], &[]);
        let r = q.0.op("Relu", &[&c], &[]);
        let y = q.bytes(&r, 0.3, zero);
        q.finish(&y, DType::U8)
    };
    // The bias is on the scale of the first channel only.
    assert!(!ops(&graph(0)).contains(&"QLinearConv".to_owned()));
    let with_relu = |zero: u8| {
        let mut q = Quantizer::new(DType::U8, &[1, 1, 4]);
        let x = q.floats("x", 0.5, 7);
        let w = q.weights("w", of(&[1, 1, 3], &[1i8, -2, 3]), &[0.1], 0);
        let b = q.bias(&[10], 0.05);
        let c = q.0.op("Conv", &[&x, &w, &b], &[]);
        let r = q.0.op("Relu", &[&c], &[]);
        let y = q.bytes(&r, 0.3, zero);
        q.finish(&y, DType::U8)
    };
    assert_eq!(ops(&with_relu(0)), ["QLinearConv"]);
    assert!(ops(&with_relu(1)).contains(&"hedge.Conv".to_owned()), "in floats, with the bound in it");
    // (x - 7) . w + 10 is -8 and 20 in twentieths: below 0, and 1 in steps of 0.3, which is 3.33.
    let y = run(&with_relu(0), &[of(&[1, 1, 4], &[7u8, 16, 7, 12])]).unwrap();
    assert_eq!(y.bytes().to_vec(), [0, 6]);
}

#[test]
fn signed_values_of_one_user_become_unsigned_and_others_stay_floats() {
    let graph = |users: usize| {
        let mut q = Quantizer::new(DType::F32, &[1, 2]);
        let level = (Tensor::scalar(0.5f32), Tensor::scalar(-3i8));
        let signed = q.level("QuantizeLinear", "x", level.0.clone(), level.1.clone(), 1);
        let x = q.level("DequantizeLinear", &signed, level.0.clone(), level.1.clone(), 1);
        let w = q.weights("w", of(&[2, 2], &[1i8, 2, 3, 4]), &[0.5, 0.25], 1);
        let p = q.0.op("MatMul", &[&x, &w], &[]);
        let last = q.level("QuantizeLinear", &p, Tensor::scalar(1f32), Tensor::scalar(5i8), 1);
        let y = q.level("DequantizeLinear", &last, Tensor::scalar(1f32), Tensor::scalar(5i8), 1);
        let y = if users == 2 { q.0.op("Sub", &[&y, &x], &[]) } else { y };
        q.finish(&y, DType::F32)
    };
    assert_eq!(ops(&graph(1)), ["QuantizeLinear", "QLinearMatMul", "DequantizeLinear"]);
    assert!(ops(&graph(2)).contains(&"MatMul".to_owned()));
    // 2.25 and -60.25 are 4.5 and -120.5 steps, which go to 4 and -120.
    let y = run(&graph(1), &[of(&[1, 2], &[2.25f32, -60.25])]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [-89.0, -59.0]);
}

#[test]
fn weights_whose_sums_floats_may_not_hold_stay_floats() {
    let graph = |depth: usize| {
        let mut q = Quantizer::new(DType::U8, &[1, depth]);
        let x = q.floats("x", 0.01, 0);
        let w = q.weights("w", of(&[depth, 1], &vec![127i8; depth]), &[0.01], 1);
        let p = q.0.op("MatMul", &[&x, &w], &[]);
        let y = q.bytes(&p, 1.0, 0);
        q.finish(&y, DType::U8)
    };
    // 2^24 / (255 * 127) is 518.06.
    assert_eq!(ops(&graph(518)), ["QLinearMatMul"]);
    assert!(ops(&graph(519)).contains(&"MatMul".to_owned()));
}

#[test]
fn a_product_used_as_floats_is_one_of_integers_too() {
    let mut q = Quantizer::new(DType::U8, &[2, 3]);
    let x = q.floats("x", 0.5, 2);
    let w = q.weights("w", of(&[3, 2], &[1i8, 2, 3, 4, 5, 6]), &[0.5, 0.25], 1);
    let p = q.0.op("MatMul", &[&x, &w], &[]);
    let y = q.0.op("Relu", &[&p], &[]);
    let graph = q.finish(&y, DType::F32);
    assert_eq!(ops(&graph), ["com.microsoft.MatMulIntegerToFloat", "Relu"]);
    let y = run(&graph, &[of(&[2, 3], &[2u8, 3, 4, 0, 2, 2])]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.25, 2.0, 0.0, 0.0]);
}

#[test]
fn a_gemm_takes_its_bias_and_its_turned_weights_along() {
    let mut q = Quantizer::new(DType::U8, &[1, 2]);
    let x = q.floats("x", 0.5, 0);
    let w = q.weights("w", of(&[3, 2], &[1i8, 2, 3, 4, 5, 6]), &[0.5], 0);
    let b = q.bias(&[4, 0, -4], 0.25);
    let g = q.0.op("Gemm", &[&x, &w, &b], &[("transB", Attribute::Int(1))]);
    let y = q.bytes(&g, 0.25, 1);
    let graph = q.finish(&y, DType::U8);
    assert_eq!(ops(&graph), ["com.microsoft.QGemm"]);
    assert_eq!(run(&graph, &[of(&[1, 2], &[1u8, 2])]).unwrap().bytes().to_vec(), [10, 12, 14]);
}

#[test]
fn what_only_moves_elements_moves_integers_between_equal_levels() {
    let graph = |scale: f32| {
        let mut q = Quantizer::new(DType::U8, &[2, 3]);
        let x = q.floats("x", 0.5, 9);
        let t = q.0.op("Transpose", &[&x], &[("perm", Attribute::Ints(vec![1, 0]))]);
        let y = q.bytes(&t, scale, 9);
        q.finish(&y, DType::U8)
    };
    assert_eq!(ops(&graph(0.5)), ["Transpose"]);
    assert_eq!(ops(&graph(0.25)), ["DequantizeLinear", "Transpose", "QuantizeLinear"]);
    assert_eq!(run(&graph(0.5), &[of(&[2, 3], &[1u8, 2, 3, 4, 5, 6])]).unwrap().bytes().to_vec(), [1, 4, 2, 5, 3, 6]);
}
