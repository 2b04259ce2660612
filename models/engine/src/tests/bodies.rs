//! Operators with bodies, and recurrent ones: what ONNX's own cases do not ask.

use hedge_graph::{Attribute, Dim, Graph, GraphBuilder, Node, ValueInfo};
use hedge_tensor::{DType, Tensor};

use super::{floats, one_operator, run};
use crate::{Device, DeviceChoice, Executor, Model, PrepareError, RunError, burn::BurnExecutor};

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Attribute)]) -> Node {
    Node {
        name: outputs[0].to_owned(),
        op: op.to_owned(),
        inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
        outputs: outputs.iter().map(|&name| name.to_owned()).collect(),
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Node::default()
    }
}

fn body(inputs: &[(&str, DType)], nodes: Vec<Node>, outputs: &[(&str, DType)]) -> Attribute {
    let infos = |each: &[(&str, DType)]| each.iter().map(|(name, dtype)| ValueInfo::new(*name, *dtype, &[])).collect();
    Graph { inputs: infos(inputs), outputs: infos(outputs), nodes, opset: 17, ..Graph::default() }.into()
}

fn graph(inputs: &[(&str, DType)], constants: &[(&str, Tensor)], nodes: Vec<Node>) -> Graph {
    let mut builder = GraphBuilder::new("bodies");
    for (name, dtype) in inputs {
        builder.input(name, *dtype, &[Dim::Unknown]);
    }
    for (name, value) in constants {
        builder.init(name, value.clone());
    }
    nodes.into_iter().for_each(|node| builder.node(node));
    builder.output("y", DType::F32, &[Dim::Unknown]);
    builder.finish().expect("the graph is well formed")
}

/// `y = if c { x + 1 } else { if c { x } else { x * k } }`, in which the inner branch takes values two graphs further out.
fn branches() -> Node {
    let inner = node(
        "If",
        &["c"],
        &["inner"],
        &[
            ("then_branch", body(&[], vec![node("Identity", &["x"], &["same"], &[])], &[("same", DType::F32)])),
            ("else_branch", body(&[], vec![node("Mul", &["x", "k"], &["product"], &[])], &[("product", DType::F32)])),
        ],
    );
    let then = body(&[], vec![node("Add", &["x", "one"], &["sum"], &[])], &[("sum", DType::F32)]);
    let otherwise = body(&[], vec![inner], &[("inner", DType::F32)]);
    node("If", &["c"], &["y"], &[("then_branch", then), ("else_branch", otherwise)])
}

#[test]
fn a_branch_takes_values_from_graphs_at_any_depth_around_it() {
    let constants = [("one", Tensor::scalar(1f32)), ("k", Tensor::scalar(5f32))];
    let graph = graph(&[("c", DType::Bool), ("x", DType::F32)], &constants, vec![branches()]);
    let answer = |condition: bool| {
        let inputs = [Tensor::bools(&[1], &[condition]).unwrap(), floats(&[2], &[1., 2.])];
        run(&graph, &inputs).unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(answer(true), [2., 3.]);
    assert_eq!(answer(false), [5., 10.]);
}

#[test]
fn a_branch_by_a_constant_stands_in_for_its_node_and_may_hide_names_around_it() {
    // The branch calls a value of its own `x1`, as the graph around it does.
    let hiding = vec![node("Neg", &["x"], &["x1"], &[]), node("Abs", &["x1"], &["out"], &[])];
    let failing = vec![node("Reshape", &["one", "three"], &["r"], &[])];
    let choice = node(
        "If",
        &["c"],
        &["z"],
        &[
            ("then_branch", body(&[], hiding, &[("out", DType::F32)])),
            ("else_branch", body(&[], failing, &[("r", DType::F32)])),
        ],
    );
    let constants = [
        ("c", Tensor::bools(&[], &[true]).unwrap()),
        ("one", Tensor::scalar(1f32)),
        ("three", Tensor::from_slice(&[1], &[3i64]).unwrap()),
    ];
    let nodes = vec![node("Exp", &["x"], &["x1"], &[]), choice, node("Add", &["z", "x1"], &["y"], &[])];
    let graph = graph(&[("x", DType::F32)], &constants, nodes);
    assert_eq!(run(&graph, &[floats(&[1], &[0.])]).unwrap().to_vec::<f32>().unwrap(), [1.]);
    let runnable = BurnExecutor.prepare(graph, &Device::cpu()).unwrap().profile(&[floats(&[1], &[0.])]).unwrap();
    let ops: Vec<&str> = runnable.iter().map(|step| step.op.as_str()).collect();
    assert!(!ops.contains(&"If"), "{ops:?}");
}

#[test]
fn what_fails_only_in_a_branch_that_is_not_taken_does_not_fail_the_model() {
    let failing = vec![node("Reshape", &["one", "three"], &["r"], &[])];
    let fine = vec![node("Identity", &["x"], &["same"], &[])];
    let attributes = [
        ("then_branch", body(&[], fine, &[("same", DType::F32)])),
        ("else_branch", body(&[], failing, &[("r", DType::F32)])),
    ];
    let constants = [("one", Tensor::scalar(1f32)), ("three", Tensor::from_slice(&[1], &[3i64]).unwrap())];
    let graph =
        graph(&[("c", DType::Bool), ("x", DType::F32)], &constants, vec![node("If", &["c"], &["y"], &attributes)]);
    let answer = |condition: bool| run(&graph, &[Tensor::bools(&[], &[condition]).unwrap(), floats(&[1], &[7.])]);
    assert_eq!(answer(true).unwrap().to_vec::<f32>().unwrap(), [7.]);
    // The error names the node inside, not the one around it.
    assert!(matches!(answer(false), Err(RunError::Node { node, .. }) if node == "r"));
}

/// Doubles `x` in each of `m` iterations while it is below 100, and gathers what it was.
fn doubling() -> Graph {
    let nodes = vec![
        node("Add", &["v", "v"], &["twice"], &[]),
        node("ReduceMax", &["twice"], &["largest"], &[("keepdims", Attribute::Int(0))]),
        node("Less", &["largest", "limit"], &["going"], &[]),
        node("Identity", &["v"], &["before"], &[]),
    ];
    let inputs = [("i", DType::I64), ("c", DType::Bool), ("v", DType::F32)];
    let outputs = [("going", DType::Bool), ("twice", DType::F32), ("before", DType::F32)];
    let attribute = ("body", body(&inputs, nodes, &outputs));
    let looped = node("Loop", &["m", "", "x"], &["last", "y"], &[attribute]);
    graph(&[("m", DType::I64), ("x", DType::F32)], &[("limit", Tensor::scalar(100f32))], vec![looped])
}

#[test]
fn a_loop_ends_by_its_count_or_its_condition_and_gathers_each_iteration() {
    let answer = |trips: i64| run(&doubling(), &[Tensor::scalar(trips), floats(&[2], &[1., 10.])]).unwrap();
    assert_eq!(answer(2).shape(), [2, 2]);
    assert_eq!(answer(2).to_vec::<f32>().unwrap(), [1., 10., 2., 20.]);
    assert_eq!(answer(i64::MAX).shape(), [4, 2], "160 is not below 100");
    assert_eq!(answer(0).shape(), [0], "what the body declares has no dimensions");
}

#[test]
fn missing_operators_of_bodies_and_of_other_domains_are_named_as_the_graph_names_them() {
    let mut unknown = node("Frobnicate", &["x"], &["out"], &[]);
    unknown.domain = "com.example".to_owned();
    let branch = body(&[], vec![unknown], &[("out", DType::F32)]);
    let choice = node("If", &["c"], &["y"], &[("then_branch", branch.clone()), ("else_branch", branch)]);
    let graph = graph(&[("c", DType::Bool), ("x", DType::F32)], &[], vec![choice]);
    let error = BurnExecutor.prepare(graph, &Device::cpu()).err().expect("it is refused");
    assert!(matches!(error, PrepareError::MissingOperators { .. }));
    assert!(error.to_string().ends_with("com.example.Frobnicate (nodes out, out)"), "{error}");
}

#[test]
fn a_model_is_tried_on_longer_inputs_where_one_sample_is_too_short() {
    let mut builder = GraphBuilder::new("window");
    let x = builder.input("x", DType::F32, &[Dim::named("N"), 1.into(), Dim::named("L")]);
    let w = builder.init("w", Tensor::zeros(DType::F32, vec![1, 1, 100]).unwrap());
    builder.op_as("y", "Conv", &[&x, &w], &[]);
    builder.output("y", DType::F32, &[Dim::named("N"), 1.into(), Dim::Unknown]);
    assert!(Model::load(builder.finish().unwrap(), DeviceChoice::Cpu, None).is_ok());
}

#[test]
fn a_shorter_sequence_of_a_batch_ends_early_and_its_outputs_are_zeros() {
    // One hidden unit that adds its input to its state.
    let names = |names: &[&str]| Attribute::Strings(names.iter().map(|name| name.as_bytes().to_vec()).collect());
    for (direction, expected) in [("forward", [1., 10., 3., 0.]), ("reverse", [3., 10., 2., 0.])] {
        let constants = [
            floats(&[1, 1, 1], &[1.]),
            floats(&[1, 1, 1], &[1.]),
            floats(&[1, 2], &[0., 0.]),
            Tensor::from_slice(&[2], &[2i32, 1]).unwrap(),
        ];
        let attributes =
            [("hidden_size", Attribute::Int(1)), ("direction", direction.into()), ("activations", names(&["Affine"]))];
        let graph = one_operator("RNN", 1, &constants, &attributes);
        let y = run(&graph, &[floats(&[2, 2, 1], &[1., 10., 2., 20.])]).unwrap();
        assert_eq!(y.shape(), [2, 1, 2, 1]);
        assert_eq!(y.to_vec::<f32>().unwrap(), expected, "{direction}");
    }
}

#[test]
fn a_sequence_without_steps_leaves_no_state_as_in_onnxruntime() {
    let constants = [
        floats(&[1, 1, 1], &[1.]),
        floats(&[1, 1, 1], &[1.]),
        floats(&[1, 2], &[0., 0.]),
        Tensor::from_slice(&[2], &[0i32, 1]).unwrap(),
        floats(&[1, 2, 1], &[5., 6.]),
    ];
    let affine = Attribute::Strings(vec![b"Affine".to_vec()]);
    let mut graph = one_operator("RNN", 1, &constants, &[("hidden_size", Attribute::Int(1)), ("activations", affine)]);
    graph.nodes[0].outputs = vec![String::new(), "y".to_owned()];
    let last = run(&graph, &[floats(&[2, 2, 1], &[1., 10., 2., 20.])]).unwrap();
    assert_eq!(last.to_vec::<f32>().unwrap(), [0., 16.]);
}

#[test]
fn frames_of_a_real_signal_are_transformed_alike_by_product_and_by_fft() {
    let samples: Vec<f32> = (0..64).map(|index| (index as f32 * 0.7).sin()).collect();
    let step = Tensor::scalar(8i64);
    let length = Tensor::scalar(16i64);
    let transform = |shape: &[usize], values: &[f32]| {
        let mut graph = one_operator("STFT", 1, &[step.clone(), length.clone()], &[("onesided", Attribute::Int(0))]);
        graph.nodes[0].inputs = ["x0", "c0", "", "c1"].map(str::to_owned).to_vec();
        run(&graph, &[floats(shape, values)]).unwrap()
    };
    let real = transform(&[1, 64, 1], &samples);
    let complex: Vec<f32> = samples.iter().flat_map(|&sample| [sample, 0.0]).collect();
    let complex = transform(&[1, 64, 2], &complex);
    assert_eq!(real.shape(), [1, 7, 16, 2]);
    let (real, complex) = (real.to_vec::<f32>().unwrap(), complex.to_vec::<f32>().unwrap());
    assert!(real.iter().zip(&complex).all(|(a, b)| (a - b).abs() < 1e-5));
}
