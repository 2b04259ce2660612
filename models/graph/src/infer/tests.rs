//! What is found out, by family.

use hedge_tensor::{DType, Tensor};

use crate::{Attribute, Dim, Graph, GraphBuilder, infer::infer_shapes};

fn named(name: &str) -> Dim {
    Dim::named(name)
}

fn ints(values: &[i64]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

/// The shape and type found for `value` in `graph`.
fn found(graph: &mut Graph, value: &str) -> (Option<DType>, Option<Vec<Dim>>) {
    infer_shapes(graph);
    let info = graph.values.iter().chain(&graph.outputs).find(|info| info.name == value);
    info.map_or((None, None), |info| (info.dtype, info.shape.clone()))
}

fn open_output(b: GraphBuilder, name: &str) -> Graph {
    let mut b = b;
    b.output(name, DType::F32, &[]);
    let mut graph = b.finish().unwrap();
    graph.outputs[0].shape = None;
    graph.outputs[0].dtype = None;
    graph
}

#[test]
fn a_shape_taken_apart_and_put_together_again_is_followed_through_a_reshape() {
    let mut b = GraphBuilder::new("heads");
    let x = b.input("x", DType::F32, &[named("N"), named("L"), 384.into()]);
    let shape = b.op("Shape", &[&x], &[]);
    let zero = b.init("zero", ints(&[0]));
    let rows = b.op("Gather", &[&shape, &zero], &[]);
    let tail = b.init("tail", ints(&[-1, 12, 32]));
    let target = b.op("Concat", &[&rows, &tail], &[("axis", Attribute::Int(0))]);
    b.op_as("y", "Reshape", &[&x, &target], &[]);
    let expected = vec![named("N"), named("L"), 12.into(), 32.into()];
    assert_eq!(found(&mut open_output(b, "y"), "y"), (Some(DType::F32), Some(expected)));
}

#[test]
fn a_convolution_keeps_the_batch_and_computes_its_spatial_sizes() {
    let mut b = GraphBuilder::new("conv");
    let x = b.input("x", DType::F32, &[named("N"), 3.into(), 32.into(), Dim::Unknown]);
    let w = b.init("w", Tensor::zeros(DType::F32, vec![16, 3, 3, 3]).unwrap());
    let attributes = [("strides", Attribute::from([2, 2])), ("pads", Attribute::from([1, 1, 1, 1]))];
    b.op_as("y", "Conv", &[&x, &w], &attributes);
    let expected = vec![named("N"), 16.into(), 16.into(), Dim::Unknown];
    assert_eq!(found(&mut open_output(b, "y"), "y").1, Some(expected));
}

#[test]
fn products_broadcast_their_batches_and_comparisons_are_booleans() {
    let mut b = GraphBuilder::new("product");
    let x = b.input("x", DType::F32, &[named("N"), 1.into(), 4.into(), 8.into()]);
    let k = b.input("k", DType::F32, &[12.into(), 8.into(), named("L")]);
    let y = b.op("MatMul", &[&x, &k], &[]);
    b.op_as("z", "Greater", &[&y, &y], &[]);
    let expected = vec![named("N"), 12.into(), 4.into(), named("L")];
    assert_eq!(found(&mut open_output(b, "z"), "z"), (Some(DType::Bool), Some(expected)));
}

#[test]
fn a_slice_computes_what_it_leaves() {
    let mut b = GraphBuilder::new("slice");
    let x = b.input("x", DType::F32, &[10.into(), named("L")]);
    let (starts, ends) = (b.init("s", ints(&[-2, 0])), b.init("e", ints(&[i64::MIN, i64::MAX])));
    let (axes, steps) = (b.init("a", ints(&[0, 1])), b.init("t", ints(&[-3, 1])));
    b.op_as("y", "Slice", &[&x, &starts, &ends, &axes, &steps], &[]);
    assert_eq!(found(&mut open_output(b, "y"), "y").1, Some(vec![3.into(), named("L")]));
}

#[test]
fn scales_of_a_constant_resize_what_is_known_and_leave_names_that_they_keep() {
    let mut b = GraphBuilder::new("resize");
    let x = b.input("x", DType::F32, &[named("N"), 3.into(), 5.into(), Dim::Unknown]);
    let scales = b.init("s", Tensor::from_slice(&[4], &[1f32, 1., 2.5, 2.]).unwrap());
    b.op_as("y", "Resize", &[&x, "", &scales], &[]);
    let expected = vec![named("N"), 3.into(), 12.into(), Dim::Unknown];
    assert_eq!(found(&mut open_output(b, "y"), "y").1, Some(expected));
}

#[test]
fn an_unknown_operator_leaves_its_outputs_unknown_and_the_rest_as_it_was() {
    let mut b = GraphBuilder::new("unknown");
    let x = b.input("x", DType::F32, &[4.into()]);
    let odd = b.op("Frobnicate", &[&x], &[]);
    b.op_as("y", "Add", &[&x, &odd], &[]);
    let mut graph = open_output(b, "y");
    assert_eq!(found(&mut graph, "y"), (Some(DType::F32), None));
    assert!(graph.values.iter().all(|value| value.name != odd));
}

#[test]
fn a_declared_output_is_never_overwritten() {
    let mut b = GraphBuilder::new("declared");
    let x = b.input("x", DType::F32, &[4.into(), named("N")]);
    b.op_as("y", "Relu", &[&x], &[]);
    b.output("y", DType::F16, &[Dim::Unknown, named("M")]);
    let expected = vec![4.into(), named("M")];
    assert_eq!(found(&mut b.finish().unwrap(), "y"), (Some(DType::F16), Some(expected)));
}

#[test]
fn branches_agree_on_what_is_known_of_a_choice() {
    let branch = |size: i64| {
        let mut graph = Graph { opset: 17, ..Graph::default() };
        graph.nodes = vec![crate::Node {
            op: "Expand".into(),
            inputs: vec!["x".into(), "shape".into()],
            outputs: vec!["r".into()],
            ..crate::Node::default()
        }];
        graph.initializers.insert("shape".into(), ints(&[2, size]));
        graph.outputs = vec![crate::ValueInfo { name: "r".into(), dtype: None, shape: None }];
        graph
    };
    let mut b = GraphBuilder::new("choice");
    let condition = b.input("c", DType::Bool, &[]);
    b.input("x", DType::F32, &[1.into(), 1.into()]);
    b.op_as("y", "If", &[&condition], &[("then_branch", branch(3).into()), ("else_branch", branch(4).into())]);
    assert_eq!(found(&mut open_output(b, "y"), "y"), (Some(DType::F32), Some(vec![2.into(), Dim::Unknown])));
}
