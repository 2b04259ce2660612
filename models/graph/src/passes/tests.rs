//! What passes do to the structure; that results stay is the engine's to show, which can run them.

use hedge_tensor::{DType, Tensor};

use super::{Options, optimize, remove_no_ops};
use crate::{Attribute, Dim, Graph, GraphBuilder, Node, ValueInfo};

fn ops(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.op.as_str()).collect()
}

#[test]
fn a_value_that_a_body_captures_is_kept_under_its_name() {
    let body = Graph {
        outputs: vec![ValueInfo { name: "r".into(), dtype: None, shape: None }],
        nodes: vec![Node { op: "Neg".into(), inputs: vec!["h".into()], outputs: vec!["r".into()], ..Node::default() }],
        ..Graph::default()
    };
    let mut b = GraphBuilder::new("capture");
    let x = b.input("x", DType::F32, &[4.into()]);
    let c = b.input("c", DType::Bool, &[]);
    b.op_as("h", "Identity", &[&x], &[]);
    b.op_as("y", "If", &[&c], &[("then_branch", body.clone().into()), ("else_branch", body.into())]);
    b.output("y", DType::F32, &[4.into()]);
    let mut graph = b.finish().unwrap();
    optimize(&mut graph, &Options::default());
    graph.validate().unwrap();
    assert_eq!(ops(&graph), ["Identity", "If"]);
}

#[test]
fn an_output_that_is_an_input_passed_on_stays() {
    let mut b = GraphBuilder::new("pass");
    let x = b.input("x", DType::F32, &[4.into()]);
    b.op_as("y", "Identity", &[&x], &[]);
    b.output("y", DType::F32, &[4.into()]);
    let mut graph = b.finish().unwrap();
    assert_eq!(remove_no_ops(&mut graph), 0);
    assert_eq!(ops(&graph), ["Identity"]);
}

#[test]
fn constants_in_nodes_move_to_the_table_and_unused_ones_go() {
    let mut b = GraphBuilder::new("constants");
    let x = b.input("x", DType::F32, &[Dim::named("N")]);
    let two = b.op("Constant", &[], &[("value_float", Attribute::Float(2.0))]);
    b.init("idle", Tensor::zeros(DType::F32, vec![100]).unwrap());
    b.op("Exp", &[&x], &[]);
    b.op_as("y", "Mul", &[&x, &two], &[]);
    b.output("y", DType::F32, &[Dim::named("N")]);
    let mut graph = b.finish().unwrap();
    let report = optimize(&mut graph, &Options::default());
    assert_eq!(ops(&graph), ["Mul"]);
    assert_eq!(graph.initializers.keys().collect::<Vec<_>>(), [&two]);
    assert_eq!((report.counts["constants"], report.counts["dead nodes"]), (1, 2));
    assert_eq!(optimize(&mut graph, &Options::default()).total(), 0);
}

#[test]
fn weights_are_shared_and_not_copied() {
    let weights = Tensor::zeros(DType::F32, vec![64, 64]).unwrap();
    let mut b = GraphBuilder::new("weights");
    let x = b.input("x", DType::F32, &[Dim::named("N"), 64.into()]);
    b.init("w", weights.clone());
    b.op_as("y", "MatMul", &[&x, "w"], &[]);
    b.output("y", DType::F32, &[Dim::named("N"), 64.into()]);
    let mut graph = b.finish().unwrap();
    optimize(&mut graph, &Options::default());
    assert_eq!(graph.initializers["w"].bytes().as_ptr(), weights.bytes().as_ptr());
}

#[test]
fn a_long_chain_of_idle_nodes_goes_in_time() {
    let mut b = GraphBuilder::new("chain");
    let mut value = b.input("x", DType::F32, &[4.into()]);
    for _ in 0..50_000 {
        value = b.op("Identity", &[&value], &[]);
    }
    b.op_as("y", "Relu", &[&value], &[]);
    b.output("y", DType::F32, &[4.into()]);
    let mut graph = b.finish().unwrap();
    optimize(&mut graph, &Options::default());
    assert_eq!(ops(&graph), ["Relu"]);
}

#[test]
fn a_scale_without_elements_makes_no_group() {
    let mut b = GraphBuilder::new("empty");
    b.input("x", DType::U8, &[1.into(), 2.into()]);
    let (one, zero) = (b.init("one", Tensor::scalar(1f32)), b.init("zero", Tensor::scalar(0u8)));
    let empty = b.init("empty", Tensor::zeros(DType::F32, vec![0]).unwrap());
    b.init("w", Tensor::zeros(DType::I8, vec![2, 2]).unwrap());
    b.init("c", Tensor::zeros(DType::I32, vec![2]).unwrap());
    let x = b.op("DequantizeLinear", &["x", &one, &zero], &[]);
    let w = b.op("DequantizeLinear", &["w", &one], &[]);
    let c = b.op("DequantizeLinear", &["c", &empty], &[]);
    let g = b.op("Gemm", &[&x, &w, &c], &[]);
    b.op_as("y", "QuantizeLinear", &[&g, &one, &zero], &[]);
    b.output("y", DType::U8, &[1.into(), 2.into()]);
    let mut graph = b.finish().unwrap();
    assert_eq!(optimize(&mut graph, &Options { integers: true, ..Options::default() }).total(), 0);
}
