//! Operators that move, pick and order elements: full width, gradients, and what a wrong index or size comes to.
//!
//! All on the CPU: a graphics adapter is taken away by other tests of this process. What is promised here is decided
//! before a device is reached; ONNX's cases run on adapters too.

use hedge_graph::{Attribute, GraphBuilder, Node};
use hedge_tensor::{DType, Tensor};

use super::{floats, named, one_operator};
use crate::burn::BurnExecutor;
use crate::train::{AdamW, Target, Trainer};
use crate::{Device, Executor, RunError};

/// One operator on inputs that are all given at run time, with `outputs` outputs.
fn on_inputs(
    op: &str,
    inputs: &[Tensor],
    attributes: &[(&str, Attribute)],
    outputs: usize,
) -> Result<Vec<Tensor>, RunError> {
    let mut graph = one_operator(op, inputs.len(), &[], attributes);
    for (declared, given) in graph.inputs.iter_mut().zip(inputs) {
        declared.dtype = Some(given.dtype());
        declared.shape = None;
    }
    for index in 1..outputs {
        let name = format!("y{index}");
        graph.nodes[0].outputs.push(name.clone());
        graph.outputs.push(hedge_graph::ValueInfo { name, dtype: None, shape: None });
    }
    graph.outputs[0].dtype = None;
    graph.outputs[0].shape = None;
    BurnExecutor.prepare(graph, &Device::cpu()).expect("the graph can be prepared").run(inputs)
}

fn ints(values: &[i64]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().to_vec())
}

#[test]
fn an_index_outside_its_dimension_is_an_error() {
    let x = || floats(&[2, 2], &[1., 2., 3., 4.]);
    let rows = |index: i64| Tensor::from_slice(&[1, 1], &[index]).unwrap();
    for index in [2, -3, i64::MAX, i64::MIN] {
        let cases = [
            ("Gather", vec![x(), ints(&[0, index])]),
            ("GatherElements", vec![x(), rows(index)]),
            ("GatherND", vec![x(), rows(index)]),
            ("ScatterElements", vec![x(), rows(index), floats(&[1, 1], &[9.])]),
            ("ScatterND", vec![x(), rows(index), floats(&[1, 2], &[9., 9.])]),
        ];
        for (op, inputs) in cases {
            let result = on_inputs(op, &inputs, &[], 1);
            assert!(matches!(result, Err(RunError::Node { .. })), "{op} of {index}: {result:?}");
        }
    }
}

#[test]
fn integers_of_full_width_move_unharmed() {
    let x = Tensor::from_slice(&[2, 2], &[u64::MAX, 1, u64::MAX - 1, 0]).unwrap();
    let run = |op: &str, more: &[Tensor], attributes: &[(&str, Attribute)]| {
        let inputs: Vec<Tensor> = std::iter::once(x.clone()).chain(more.iter().cloned()).collect();
        on_inputs(op, &inputs, attributes, 1).unwrap()[0].to_vec::<u64>().unwrap()
    };
    assert_eq!(run("Transpose", &[], &[]), [u64::MAX, u64::MAX - 1, 1, 0]);
    assert_eq!(run("Gather", &[ints(&[-1])], &[]), [u64::MAX - 1, 0]);
    assert_eq!(
        run("Slice", &[ints(&[-1]), ints(&[i64::MIN]), ints(&[1]), ints(&[-1])], &[]),
        [1, u64::MAX, 0, u64::MAX - 1]
    );
    assert_eq!(run("Tile", &[ints(&[1, 2])], &[])[..4], [u64::MAX, 1, u64::MAX, 1]);
    let add = [("reduction", text("add"))];
    let update = Tensor::from_slice(&[1, 2], &[2u64, 7]).unwrap();
    assert_eq!(
        run("ScatterND", &[Tensor::from_slice(&[1, 1], &[0i64]).unwrap(), update], &add),
        [1, 8, u64::MAX - 1, 0]
    );
}

#[test]
fn of_updates_to_one_place_the_last_stands_and_sums_take_them_all() {
    let x = floats(&[3], &[1., 2., 3.]);
    let (indices, updates) = (ints(&[1, 1, -2]), floats(&[3], &[10., 20., 30.]));
    for (reduction, expected) in [("none", 30.), ("add", 62.), ("mul", 12_000.), ("max", 30.), ("min", 2.)] {
        let inputs = [x.clone(), indices.clone(), updates.clone()];
        let y = on_inputs("ScatterElements", &inputs, &[("reduction", text(reduction))], 1).unwrap();
        assert_eq!(y[0].to_vec::<f32>().unwrap(), [1., expected, 3.], "{reduction}");
    }
}

#[test]
fn a_size_beyond_all_memory_is_an_error_and_not_the_end_of_the_process() {
    let huge = i64::MAX / 2;
    let one = || floats(&[1], &[1.]);
    let whole = Tensor::scalar;
    let cases = [
        ("Expand", vec![one(), ints(&[1 << 40])], vec![]),
        ("Expand", vec![one(), ints(&[huge, huge])], vec![]),
        ("Tile", vec![one(), ints(&[huge])], vec![]),
        ("Pad", vec![one(), ints(&[huge, huge])], vec![]),
        ("Pad", vec![one(), ints(&[1 << 40, 0])], vec![("mode", text("edge"))]),
        ("ConstantOfShape", vec![ints(&[1 << 40])], vec![]),
        ("Range", vec![whole(0i64), whole(i64::MAX), whole(1i64)], vec![]),
        ("OneHot", vec![ints(&[0]), whole(huge), floats(&[2], &[0., 1.])], vec![]),
        ("EyeLike", vec![one()], vec![]),
        ("Reshape", vec![one(), ints(&[huge, 4, 2])], vec![]),
    ];
    for (op, inputs, attributes) in cases {
        let result = on_inputs(op, &inputs, &attributes, 1);
        assert!(matches!(result, Err(RunError::Node { .. })), "{op}: {result:?}");
    }
}

#[test]
fn dimensions_of_any_size_are_harmless_where_there_are_no_elements() {
    let many = 1usize << 40;
    let empty = Tensor::zeros(DType::F32, vec![0, many, 2]).unwrap();
    let turned = on_inputs("Transpose", std::slice::from_ref(&empty), &[], 1).unwrap();
    assert_eq!(turned[0].shape(), [2, many, 0]);
    let padded = on_inputs("Pad", &[empty.clone(), ints(&[0, 1, 0, 0, 0, 0])], &[], 1).unwrap();
    assert_eq!(padded[0].shape(), [0, many + 1, 2]);
    for (op, more, outputs) in [
        ("Trilu", vec![], 1),
        ("ReverseSequence", vec![Tensor::zeros(DType::I64, vec![many, 0]).unwrap()], 1),
        ("CumSum", vec![Tensor::scalar(1i64)], 1),
        ("Unique", vec![], 4),
        ("TopK", vec![ints(&[1])], 2),
        ("NonZero", vec![], 1),
        ("GatherND", vec![Tensor::zeros(DType::I64, vec![many, 0]).unwrap()], 1),
    ] {
        let inputs: Vec<Tensor> = std::iter::once(empty.clone()).chain(more).collect();
        // An answer or an error: what matters is that there is one, at once.
        let _ = on_inputs(op, &inputs, &[("axis", Attribute::Int(0))], outputs);
    }
}

#[test]
fn the_largest_are_ordered_by_value_and_then_by_place_and_nan_is_above_all_numbers() {
    let x = floats(&[6], &[2., f32::NAN, 7., 2., 7., f32::NEG_INFINITY]);
    let top = |largest: i64| {
        let attributes = [("largest", Attribute::Int(largest))];
        on_inputs("TopK", &[x.clone(), ints(&[4])], &attributes, 2).unwrap()[1].to_vec::<i64>().unwrap()
    };
    assert_eq!(top(1), [1, 2, 4, 0]);
    assert_eq!(top(0), [5, 0, 3, 2]);
    let too_many = on_inputs("TopK", &[x, ints(&[7])], &[], 2);
    assert!(matches!(too_many, Err(RunError::Node { .. })), "{too_many:?}");
}

#[test]
fn equal_rows_are_found_once_with_their_places_and_counts() {
    let x = Tensor::from_slice(&[4, 2], &[3u16, 1, 2, 9, 3, 1, 2, 8]).unwrap();
    let attributes = [("axis", Attribute::Int(0)), ("sorted", Attribute::Int(0))];
    let y = on_inputs("Unique", &[x], &attributes, 4).unwrap();
    assert_eq!((y[0].shape(), y[0].to_vec::<u16>().unwrap()), (&[3, 2][..], vec![3, 1, 2, 9, 2, 8]));
    let lists: Vec<Vec<i64>> = y[1..].iter().map(|list| list.to_vec().unwrap()).collect();
    assert_eq!(lists, [vec![0, 1, 3], vec![0, 1, 0, 2], vec![2, 1, 1]]);
}

#[test]
fn a_constant_may_be_given_in_any_of_its_forms_but_as_text() {
    let constant = |name: &str, value: Attribute| {
        let mut builder = GraphBuilder::new("constant");
        builder.op_as("y", "Constant", &[], &[(name, value)]);
        builder.output("y", DType::F32, &[]);
        let graph = builder.finish().expect("the graph is well formed");
        BurnExecutor.prepare(graph, &Device::cpu()).map(|mut runnable| runnable.run(&[]).unwrap().remove(0)).ok()
    };
    assert_eq!(constant("value_int", Attribute::Int(7)), Some(Tensor::scalar(7i64)));
    assert_eq!(constant("value_ints", Attribute::Ints(vec![])), Some(ints(&[])));
    assert_eq!(constant("value_float", Attribute::Float(0.5)), Some(Tensor::scalar(0.5f32)));
    assert_eq!(constant("value_floats", Attribute::Floats(vec![1., 2.])), Some(floats(&[2], &[1., 2.])));
    assert_eq!(constant("value_string", text("no")), None);
}

#[test]
fn integers_contract_exactly_where_floats_would_round() {
    let a = Tensor::from_slice(&[1, 2], &[i64::MAX, 3]).unwrap();
    let b = Tensor::from_slice(&[2, 1], &[1i64, -1]).unwrap();
    let y = on_inputs("Einsum", &[a.clone(), b.clone()], &[("equation", text("ij,jk->ik"))], 1).unwrap();
    assert_eq!(y[0].to_vec::<i64>().unwrap(), [i64::MAX - 3]);
}

#[test]
fn gradients_pass_what_moves_picks_and_contracts() {
    // The weight is turned, padded, cut, reordered, doubled, written over, summed up and taken apart again before it meets
    // the input: a broken gradient anywhere would leave the loss where it is.
    let mut builder = GraphBuilder::new("moved");
    let x = builder.input("x", DType::F32, &[1.into(), 2.into()]);
    let weight = builder.init("w", Tensor::zeros(DType::F32, vec![2, 2]).unwrap());
    let mut init = |name: &str, values: &[i64]| builder.init(name, ints(values));
    let (pads, starts, ends) = (init("pads", &[2, 0, 2, 0]), init("starts", &[-2]), init("ends", &[-7]));
    let (axis, step, order) = (init("axis", &[0]), init("step", &[-1]), init("order", &[1, 0, 1, 0]));
    let (split, repeats, last) = (init("split", &[2, 2]), init("repeats", &[1, 2]), init("last", &[1]));
    let places = builder.init("places", Tensor::from_slice(&[1, 1], &[3i64]).unwrap());
    let updates = builder.init("updates", floats(&[1, 2], &[0., 0.]));
    let columns = builder.init("columns", Tensor::from_slice(&[2, 2], &[0i64, 1, 0, 1]).unwrap());
    let turned = builder.op("Transpose", &[&weight], &[]);
    let padded = builder.op("Pad", &[&turned, &pads], &[("mode", text("reflect"))]);
    let cut = builder.op("Slice", &[&padded, &starts, &ends, &axis, &step], &[]);
    let picked = builder.op("Gather", &[&cut, &order], &[]);
    let written = builder.op("ScatterND", &[&picked, &places, &updates], &[]);
    builder.node(Node {
        op: "Split".to_owned(),
        inputs: vec![written, split],
        outputs: vec!["first".to_owned(), "second".to_owned()],
        ..Node::default()
    });
    let doubled = builder.op("Tile", &["first", &repeats], &[]);
    let halves = builder.op("GatherElements", &[&doubled, &columns], &[("axis", Attribute::Int(1))]);
    let summed = builder.op("CumSum", &[&halves, &last], &[("exclusive", Attribute::Int(0))]);
    let kept = builder.op("Trilu", &[&summed], &[("upper", Attribute::Int(0))]);
    builder.op_as("logits", "Einsum", &[&x, &kept], &[("equation", text("ni,ij->nj"))]);
    builder.output("logits", DType::F32, &[1.into(), 2.into()]);
    let graph = builder.finish().expect("the graph is well formed");
    let mut trainer = Trainer::new(&graph, &["w".to_owned()], AdamW::default()).unwrap();
    let inputs = named("x", floats(&[1, 2], &[1., 1.]));
    let target = Target { labels: &[1], teacher_logits: None, temperature: 1.0, soft_weight: 0.0 };
    let losses: Vec<f32> = (0..50).map(|_| trainer.step(&inputs, &target, 0.1).unwrap()).collect();
    assert!(losses[49] < 0.1 * losses[0], "{losses:?}");
}
