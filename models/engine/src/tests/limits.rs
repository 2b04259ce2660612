//! Results that no memory holds are errors: a process that asks for them is ended by the system, with all that it serves.

use hedge_graph::Attribute;

use super::{floats, one_operator, run};
use crate::RunError;

#[test]
fn a_result_that_no_memory_holds_is_refused_with_its_node() {
    let long = || floats(&[1 << 20, 1], &vec![1.; 1 << 20]);
    let flat = || floats(&[1, 1 << 20], &vec![1.; 1 << 20]);
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Sum", "Mean", "Greater", "MatMul", "Gemm"] {
        let refused = run(&one_operator(op, 2, &[], &[]), &[long(), flat()]);
        assert!(matches!(refused, Err(RunError::Node { .. })), "{op}: {refused:?}");
    }
}

#[test]
fn a_layer_whose_output_no_memory_holds_is_refused() {
    let weight = floats(&[1 << 18, 1, 1, 1], &vec![1.; 1 << 18]);
    let wide = [("strides", Attribute::Ints(vec![1 << 20, 1 << 20]))];
    let scales = floats(&[4], &[1., 1., 1e6, 1e6]);
    let image = |size: usize| floats(&[1, 1, size, size], &vec![1.; size * size]);
    let graphs = [
        (one_operator("Conv", 1, &[weight], &[]), image(256)),
        (one_operator("ConvTranspose", 1, &[floats(&[1, 1, 1, 1], &[1.])], &wide), image(4)),
        (one_operator("Resize", 1, &[floats(&[0], &[]), scales], &[]), image(4)),
    ];
    for (graph, x) in graphs {
        let refused = run(&graph, &[x]);
        assert!(matches!(refused, Err(RunError::Node { .. })), "{:?}: {refused:?}", graph.nodes[0].op);
    }
}
