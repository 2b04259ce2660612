//! Operators against values worked out by hand or by numpy; ONNX's own cases are the conformance suite's.

use hedge_graph::Attribute;
use hedge_tensor::{DType, Tensor};

use super::{floats, one_operator, run};
use crate::{PrepareError, RunError};

fn close(actual: &Tensor, shape: &[usize], expected: &[f32]) {
    assert_eq!(actual.shape(), shape);
    for (a, b) in actual.to_vec::<f32>().unwrap().iter().zip(expected) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
    }
}

#[test]
fn a_convolution_with_unequal_pads_and_strides_is_what_numpy_says() {
    let weight = floats(&[1, 1, 2, 2], &[1., 2., 3., 4.]);
    let attributes = [("pads", Attribute::Ints(vec![0, 1, 0, 0])), ("strides", Attribute::Ints(vec![1, 2]))];
    let graph = one_operator("Conv", 1, &[weight], &attributes);
    let x = floats(&[1, 1, 2, 3], &[1., 2., 3., 4., 5., 6.]);
    close(&run(&graph, &[x]).unwrap(), &[1, 1, 1, 2], &[18., 47.]);
}

#[test]
fn same_padding_follows_the_side_that_the_node_names() {
    let pool = |side: &str| {
        let attributes =
            [("kernel_shape", Attribute::Ints(vec![1, 2])), ("auto_pad", Attribute::String(side.as_bytes().to_vec()))];
        run(&one_operator("MaxPool", 1, &[], &attributes), &[floats(&[1, 1, 1, 3], &[3., 1., 2.])]).unwrap()
    };
    close(&pool("SAME_UPPER"), &[1, 1, 1, 3], &[3., 2., 2.]);
    close(&pool("SAME_LOWER"), &[1, 1, 1, 3], &[3., 3., 2.]);
}

#[test]
fn a_pool_whose_places_need_less_than_the_input_leaves_out_as_much_at_both_ends() {
    let pool = |op: &str, side: &str, size: usize| {
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![2, 1])),
            ("strides", Attribute::Ints(vec![1, 5])),
            ("auto_pad", Attribute::String(side.as_bytes().to_vec())),
        ];
        let row: Vec<f32> = (1..=size).map(|value| value as f32).collect();
        let x = floats(&[1, 1, 2, size], &row.repeat(2));
        run(&one_operator(op, 1, &[], &attributes), &[x]).unwrap().to_vec::<f32>().unwrap()[..2].to_vec()
    };
    // As onnxruntime 1.32 has it.
    for (side, size, expected) in [
        ("SAME_UPPER", 6, [1., 6.]),
        ("SAME_UPPER", 7, [1., 6.]),
        ("SAME_UPPER", 8, [2., 7.]),
        ("SAME_UPPER", 9, [2., 7.]),
        ("SAME_UPPER", 10, [3., 8.]),
        ("SAME_LOWER", 8, [1., 6.]),
        ("SAME_LOWER", 9, [2., 7.]),
        ("SAME_LOWER", 10, [2., 7.]),
    ] {
        for op in ["AveragePool", "MaxPool"] {
            assert_eq!(pool(op, side, size), expected, "{op} {side} {size}");
        }
    }
}

#[test]
fn an_average_over_unequal_pads_counts_only_the_input_unless_told_otherwise() {
    let pool = |count_pads: i64| {
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![1, 2])),
            ("pads", Attribute::Ints(vec![0, 1, 0, 0])),
            ("count_include_pad", Attribute::Int(count_pads)),
        ];
        run(&one_operator("AveragePool", 1, &[], &attributes), &[floats(&[1, 1, 1, 2], &[2., 4.])]).unwrap()
    };
    close(&pool(0), &[1, 1, 1, 2], &[2., 3.]);
    close(&pool(1), &[1, 1, 1, 2], &[1., 3.]);
}

#[test]
fn a_general_matrix_product_scales_turns_and_adds() {
    let attributes = [("alpha", Attribute::Float(2.)), ("beta", Attribute::Float(0.5)), ("transB", Attribute::Int(1))];
    let graph = one_operator("Gemm", 1, &[floats(&[1, 2], &[3., 4.]), floats(&[1], &[10.])], &attributes);
    close(&run(&graph, &[floats(&[2, 2], &[1., 0., 0., 1.])]).unwrap(), &[2, 1], &[11., 13.]);
}

#[test]
fn a_matrix_product_broadcasts_its_leading_dimensions() {
    let graph = one_operator("MatMul", 2, &[], &[]);
    let (a, b) = (floats(&[2, 1, 2], &[1., 2., 3., 4.]), floats(&[2, 1], &[1., 1.]));
    close(&run(&graph, &[a, b]).unwrap(), &[2, 1, 1], &[3., 7.]);
}

#[test]
fn softmax_before_opset_13_normalizes_everything_behind_its_axis() {
    let mut graph = one_operator("Softmax", 1, &[], &[("axis", Attribute::Int(1))]);
    let x = floats(&[1, 2, 2], &[0., 0., 0., 0.]);
    close(&run(&graph, std::slice::from_ref(&x)).unwrap(), &[1, 2, 2], &[0.5; 4]);
    graph.opset = 11;
    close(&run(&graph, &[x]).unwrap(), &[1, 2, 2], &[0.25; 4]);
}

#[test]
fn a_slice_may_run_backwards() {
    let ints = |values: &[i64]| Tensor::from_slice(&[values.len()], values).unwrap();
    let constants = [ints(&[-1]), ints(&[i64::MIN]), ints(&[0]), ints(&[-2])];
    let graph = one_operator("Slice", 1, &constants, &[]);
    close(&run(&graph, &[floats(&[5], &[0., 1., 2., 3., 4.])]).unwrap(), &[3], &[4., 2., 0.]);
}

#[test]
fn a_reshape_infers_one_dimension_and_copies_zeros() {
    let shape = Tensor::from_slice(&[2], &[0i64, -1]).unwrap();
    let graph = one_operator("Reshape", 1, &[shape], &[]);
    assert_eq!(run(&graph, &[Tensor::zeros(DType::F32, vec![2, 3, 4]).unwrap()]).unwrap().shape(), [2, 12]);
}

#[test]
fn shapes_that_do_not_fit_are_errors_with_the_nodes_name() {
    let cases = [
        (one_operator("Add", 2, &[], &[]), vec![floats(&[2], &[1., 2.]), floats(&[3], &[1., 2., 3.])]),
        (one_operator("MatMul", 2, &[], &[]), vec![floats(&[1, 2], &[1., 2.]), floats(&[3, 1], &[1., 2., 3.])]),
        (
            one_operator("Conv", 1, &[Tensor::zeros(DType::F32, vec![1, 3, 3, 3]).unwrap()], &[]),
            vec![Tensor::zeros(DType::F32, vec![1, 3, 2, 2]).unwrap()],
        ),
        (one_operator("Flatten", 1, &[], &[("axis", Attribute::Int(9))]), vec![floats(&[1], &[1.])]),
    ];
    for (graph, inputs) in cases {
        let error = run(&graph, &inputs).unwrap_err();
        assert!(matches!(&error, RunError::Node { node, .. } if node == "y"), "{error}");
    }
}

#[test]
fn what_an_operator_cannot_do_is_refused_and_never_left_out() {
    use crate::{Device, Executor, burn::BurnExecutor};
    let kernel = ("kernel_shape", Attribute::Ints(vec![2, 2]));
    let cases = [
        one_operator("AveragePool", 1, &[], &[kernel, ("auto_pad", Attribute::String(b"SIDEWAYS".to_vec()))]),
        one_operator("LpNormalization", 1, &[], &[("p", Attribute::Int(0))]),
        one_operator("Pad", 1, &[], &[("mode", Attribute::String(b"mirror".to_vec()))]),
    ];
    for graph in cases {
        let refused = BurnExecutor.prepare(graph, &Device::cpu()).err();
        assert!(matches!(refused, Some(PrepareError::Node { .. })), "{refused:?}");
    }
}

#[test]
fn all_missing_operators_are_named_at_once_with_their_nodes() {
    use crate::{Device, Executor, burn::BurnExecutor};
    let mut graph = one_operator("Frobnicate", 1, &[], &[]);
    let mut second = graph.nodes[0].clone();
    second.op = "Twiddle".to_owned();
    second.name = "z".to_owned();
    second.outputs = vec!["z".to_owned()];
    graph.nodes.push(second);
    let Err(PrepareError::MissingOperators { missing }) = BurnExecutor.prepare(graph, &Device::cpu()) else {
        panic!("the graph must not be prepared");
    };
    let names: Vec<(&str, &[String])> = missing.iter().map(|each| (each.op.as_str(), each.nodes.as_slice())).collect();
    assert_eq!(names, [("Frobnicate", &["y".to_owned()][..]), ("Twiddle", &["z".to_owned()][..])]);
}

#[test]
fn what_depends_on_constants_only_is_computed_once() {
    // Shape arithmetic on constants must not be left for the runs: the graph has no input at all.
    let mut builder = hedge_graph::GraphBuilder::new("constant");
    let a = builder.init("a", floats(&[2, 3], &[1.; 6]));
    let shape = builder.op("Shape", &[&a], &[]);
    builder.op_as("y", "Cast", &[&shape], &[("to", Attribute::Int(1))]);
    builder.output("y", DType::F32, &[2.into()]);
    close(&run(&builder.finish().unwrap(), &[]).unwrap(), &[2], &[2., 3.]);
}
