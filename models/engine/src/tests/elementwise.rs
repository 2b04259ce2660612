//! Element-wise operators, reductions, casts and losses: every type at its own width, older forms, gradients, and what
//! is refused. All on the CPU: a graphics adapter is taken away by other tests of this process.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{AutodiffBackend, read_sync};
use burn_dispatch::DispatchDevice;
use half::f16;
use hedge_graph::Attribute;
use hedge_tensor::{DType, Element, Tensor};

use super::{floats, one_operator};
use crate::burn::{B, BurnExecutor, Context, Program, Value};
use crate::{Device, Executor, RunError};

/// One operator of an opset on inputs of any type.
fn outputs(op: &str, opset: i64, inputs: &[Tensor], attributes: &[(&str, Attribute)]) -> Result<Vec<Tensor>, RunError> {
    let mut graph = one_operator(op, inputs.len(), &[], attributes);
    graph.opset = opset;
    for (declared, given) in graph.inputs.iter_mut().zip(inputs) {
        declared.dtype = Some(given.dtype());
        declared.shape = None;
    }
    graph.outputs[0].dtype = None;
    graph.outputs[0].shape = None;
    BurnExecutor.prepare(graph, &Device::cpu()).expect("the graph can be prepared").run(inputs)
}

fn output(op: &str, inputs: &[Tensor], attributes: &[(&str, Attribute)]) -> Tensor {
    outputs(op, 20, inputs, attributes).unwrap().remove(0)
}

fn row<T: Element>(values: &[T]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

fn bools(values: &[bool]) -> Tensor {
    Tensor::bools(&[values.len()], values).unwrap()
}

#[test]
fn integers_wrap_and_divide_at_their_own_width() {
    assert_eq!(output("Add", &[row(&[250u8]), row(&[10u8])], &[]), row(&[4u8]));
    assert_eq!(output("Mul", &[row(&[i64::MAX]), row(&[2i64])], &[]), row(&[-2i64]));
    assert_eq!(output("Sub", &[row(&[0u64]), row(&[1u64])], &[]), row(&[u64::MAX]));
    assert_eq!(output("Div", &[row(&[-7i16, 7]), row(&[2i16, 0])], &[]), row(&[-3i16, 0]));
    assert_eq!(output("Max", &[row(&[u64::MAX]), row(&[1u64])], &[]), row(&[u64::MAX]));
    assert_eq!(output("ReduceSum", &[row(&[u32::MAX, 2])], &[]), row(&[1u32]));
}

#[test]
fn comparisons_see_every_bit_of_a_64_bit_integer() {
    let (a, b) = (row(&[u64::MAX, 1 << 63]), row(&[1u64, (1 << 63) + 1]));
    assert_eq!(output("Greater", &[a.clone(), b.clone()], &[]), bools(&[true, false]));
    assert_eq!(output("Equal", &[a, b], &[]), bools(&[false, false]));
}

#[test]
fn a_power_has_the_type_of_its_base() {
    assert_eq!(output("Pow", &[row(&[3i32, -2]), row(&[2f32, 3.])], &[]), row(&[9i32, -8]));
    assert_eq!(output("Pow", &[row(&[2i64]), row(&[62u8])], &[]), row(&[1i64 << 62]));
    assert_eq!(output("Pow", &[row(&[4f64, 9.]), row(&[2i32, 1])], &[]), row(&[16f64, 9.]));
    assert_eq!(output("Pow", &[row(&[2i32, 1]), row(&[-1i32, -1])], &[]), row(&[0i32, 1]));
}

#[test]
fn a_nan_wins_every_minimum_and_maximum() {
    let (a, b) = (row(&[f32::NAN, 1., 5.]), row(&[1., f32::NAN, 2.]));
    for (op, last) in [("Max", 5.), ("Min", 2.)] {
        let values = output(op, &[a.clone(), b.clone()], &[]).to_vec::<f32>().unwrap();
        assert!(values[0].is_nan() && values[1].is_nan() && values[2] == last, "{op}: {values:?}");
    }
    let values = output("Max", &[a, Tensor::scalar(3f32)], &[]).to_vec::<f32>().unwrap();
    assert!(values[0].is_nan() && values[1..] == [3., 5.], "{values:?}");
}

#[test]
fn crossed_bounds_clip_to_the_upper_one() {
    let clip = |low: Tensor, high: Tensor, x: Tensor| output("Clip", &[x, low, high], &[]);
    assert_eq!(clip(Tensor::scalar(3f32), Tensor::scalar(1f32), row(&[0f32, 2., 9.])), row(&[1f32, 1., 1.]));
    assert_eq!(clip(Tensor::scalar(3u64), Tensor::scalar(u64::MAX), row(&[0, u64::MAX])), row(&[3, u64::MAX]));
    let old = outputs("Clip", 10, &[row(&[-9f32, 9.])], &[("max", Attribute::Float(1.))]).unwrap();
    assert_eq!(old, [row(&[-9f32, 1.])]);
}

#[test]
fn casts_cut_off_wrap_and_overflow_as_onnxruntime_does() {
    let cast = |x: Tensor, to: DType| output("Cast", &[x], &[("to", Attribute::Int(to.onnx_code().into()))]);
    assert_eq!(cast(row(&[-1.5f32, 300.7]), DType::U8), row(&[255u8, 44]));
    assert_eq!(cast(row(&[i64::MIN, 300]), DType::I8), row(&[0i8, 44]));
    assert_eq!(cast(row(&[70000f32, -0.1]), DType::F16), row(&[f16::INFINITY, f16::from_f32(-0.1)]));
    assert_eq!(cast(row(&[f64::NAN, 0.]), DType::Bool), bools(&[true, false]));
    assert_eq!(cast(bools(&[true, false]), DType::U64), row(&[1u64, 0]));
    assert_eq!(cast(row(&[(1i64 << 53) + 1]), DType::U64), row(&[(1u64 << 53) + 1]));
}

#[test]
fn bits_are_read_as_another_type_of_their_width_only() {
    let to = |dtype: DType| [("to", Attribute::Int(dtype.onnx_code().into()))];
    assert_eq!(output("BitCast", &[row(&[1f32])], &to(DType::U32)), row(&[0x3f80_0000u32]));
    assert!(matches!(outputs("BitCast", 26, &[row(&[1f32])], &to(DType::U16)), Err(RunError::Node { .. })));
}

#[test]
fn reductions_of_nothing_are_their_identities() {
    let nothing = || Tensor::from_slice::<f32>(&[2, 0], &[]).unwrap();
    let axis = row(&[1i64]);
    let cases =
        [("ReduceSum", 0.), ("ReduceProd", 1.), ("ReduceMax", f32::NEG_INFINITY), ("ReduceLogSum", f32::NEG_INFINITY)];
    for (op, identity) in cases {
        assert_eq!(output(op, &[nothing(), axis.clone()], &[]), floats(&[2, 1], &[identity; 2]), "{op}");
    }
    let integers = Tensor::from_slice::<i8>(&[0], &[]).unwrap();
    assert_eq!(output("ReduceMin", &[integers], &[]), row(&[i8::MAX]));
}

#[test]
fn reduced_dimensions_need_not_be_neighbours() {
    let x = Tensor::from_slice(&[2, 2, 2], &[1f32, 2., 3., 4., 5., 6., 7., 8.]).unwrap();
    let sums = output("ReduceSum", &[x, row(&[0i64, -1])], &[("keepdims", Attribute::Int(0))]);
    assert_eq!(sums, row(&[14f32, 22.]));
}

#[test]
fn a_sum_of_large_exponentials_neither_overflows_nor_loses_infinities() {
    let of = |values: &[f32]| output("ReduceLogSumExp", &[row(values)], &[]).to_vec::<f32>().unwrap()[0];
    assert!((of(&[1000., 1000.]) - 1000.6931).abs() < 1e-3);
    assert_eq!(of(&[f32::NEG_INFINITY; 2]), f32::NEG_INFINITY);
    assert_eq!(of(&[f32::INFINITY, 1.]), f32::INFINITY);
}

#[test]
fn a_mean_of_halves_does_not_overflow_on_its_way() {
    let x = Tensor::from_slice(&[2000], &[f16::from_f32(100.); 2000]).unwrap();
    assert_eq!(output("ReduceMean", &[x], &[]), row(&[f16::from_f32(100.)]));
}

#[test]
fn the_last_of_equal_extremes_is_found_where_asked_for() {
    let last = [("select_last_index", Attribute::Int(1))];
    assert_eq!(output("ArgMax", &[row(&[3f32, 1., 3.])], &last), row(&[2i64]));
    assert_eq!(output("ArgMax", &[row(&[3u64, 1, u64::MAX, 3])], &[]), row(&[2i64]));
    assert_eq!(output("ArgMin", &[row(&[1i8, -5, -5])], &last), row(&[2i64]));
}

#[test]
fn types_that_do_not_go_together_are_refused() {
    let cases = [
        ("Add", vec![row(&[1f32]), row(&[1i32])]),
        ("Add", vec![bools(&[true]), bools(&[true])]),
        ("Less", vec![bools(&[true]), bools(&[true])]),
        ("BitwiseAnd", vec![row(&[1f32]), row(&[1f32])]),
        ("Where", vec![row(&[1i32]), row(&[1i32]), row(&[1i32])]),
        ("PRelu", vec![row(&[1f32]), floats(&[2, 1], &[1., 2.])]),
        ("Exp", vec![row(&[1i32])]),
        ("ReduceSum", vec![bools(&[true])]),
        ("ArgMax", vec![Tensor::from_slice::<f32>(&[0], &[]).unwrap()]),
    ];
    for (op, inputs) in cases {
        let result = outputs(op, 20, &inputs, &[]);
        assert!(matches!(result, Err(RunError::Node { .. })), "{op}: {result:?}");
    }
}

#[test]
fn a_target_that_is_no_class_is_refused_unless_it_is_the_ignored_one() {
    let scores = || floats(&[2, 2], &[-1., -2., f32::NEG_INFINITY, -4.]);
    let targets = row(&[1i64, -100]);
    let ignored = [("ignore_index", Attribute::Int(-100))];
    assert_eq!(output("NegativeLogLikelihoodLoss", &[scores(), targets.clone()], &ignored), Tensor::scalar(2f32));
    let refused = outputs("NegativeLogLikelihoodLoss", 13, &[scores(), targets], &[]);
    assert!(matches!(refused, Err(RunError::Node { .. })), "{refused:?}");
}

#[test]
fn a_seed_draws_the_same_numbers_in_every_run_and_none_draws_others() {
    let shape = ("shape", Attribute::Ints(vec![4]));
    let drawn = |attributes: &[(&str, Attribute)]| output("RandomNormal", &[], attributes);
    let seeded = [shape.clone(), ("seed", Attribute::Float(3.))];
    assert_eq!(drawn(&seeded), drawn(&seeded));
    assert_ne!(drawn(std::slice::from_ref(&shape)), drawn(&[shape]));
}

#[test]
fn training_drops_a_share_and_scales_the_rest() {
    let x = floats(&[1000], &[1.; 1000]);
    let inputs = [x, Tensor::scalar(0.25f32), Tensor::bools(&[], &[true]).unwrap()];
    let values = output("Dropout", &inputs, &[("seed", Attribute::Int(1))]).to_vec::<f32>().unwrap();
    let kept = values.iter().filter(|&&value| (value - 4. / 3.).abs() < 1e-6).count();
    let dropped = values.iter().filter(|&&value| value == 0.).count();
    assert_eq!(kept + dropped, 1000);
    assert!((200..300).contains(&dropped), "{dropped}");
}

/// The gradient of the sum of the operator's output with regard to its first input.
fn gradient(op: &str, inputs: &[Tensor], attributes: &[(&str, Attribute)]) -> Vec<f32> {
    let mut graph = one_operator(op, inputs.len(), &[], attributes);
    graph.opset = 20;
    let plain = Device::cpu().open().unwrap();
    let context = Context::new(DispatchDevice::autodiff(plain));
    let program = Program::prepare(&graph, &context).unwrap();
    let leaf = Value::host(inputs[0].clone()).into_float(&context).unwrap();
    let leaf = B::float_set_require_grad(leaf, true);
    let rest = inputs[1..].iter().cloned().map(Value::host);
    let values = std::iter::once(Value::float(leaf.clone())).chain(rest).collect();
    let y = program.run(&context, values).unwrap().swap_remove(0);
    // Burn has no gradient of the sum of a scalar.
    let scalar = y.rank() == 0;
    let y = y.into_float(&context).unwrap();
    let mut gradients = B::backward(if scalar { y } else { B::float_sum(y) });
    let gradient = B::grad_remove(&leaf, &mut gradients).expect("the input has a gradient");
    read_sync(B::float_into_data(gradient)).unwrap().try_to_vec::<f32>().unwrap()
}

/// The same by differences.
fn slope(op: &str, inputs: &[Tensor], attributes: &[(&str, Attribute)]) -> Vec<f32> {
    let values = inputs[0].to_vec::<f32>().unwrap();
    let total = |index: usize, step: f32| {
        let mut moved = values.clone();
        moved[index] += step;
        let mut inputs = inputs.to_vec();
        inputs[0] = floats(inputs[0].shape(), &moved);
        output(op, &inputs, attributes).to_vec::<f32>().unwrap().into_iter().map(f64::from).sum::<f64>()
    };
    (0..values.len()).map(|index| ((total(index, 5e-3) - total(index, -5e-3)) / 1e-2) as f32).collect()
}

#[test]
fn gradients_are_the_slopes_of_what_is_computed() {
    let x = || floats(&[2, 3], &[-1.3, 0.4, 2.2, -0.3, 0.9, -2.1]);
    let other = || floats(&[3], &[0.5, 1.5, -0.7]);
    let positive = || floats(&[2, 3], &[1.3, 0.4, 2.2, 0.3, 0.9, 2.1]);
    let alone = ["Elu", "Celu", "Selu", "Mish", "Softplus", "HardSwish", "LeakyRelu", "Gelu", "Softsign", "Atan"];
    let mut cases: Vec<(&str, Vec<Tensor>)> = alone.iter().map(|&op| (op, vec![x()])).collect();
    cases.extend(["ReduceLogSumExp", "ReduceL2", "ReduceMax", "ReduceProd"].map(|op| (op, vec![x(), row(&[1i64])])));
    cases.extend(["Max", "Min", "Mul", "Div", "PRelu"].map(|op| (op, vec![x(), other()])));
    cases.extend(["Sub", "Div", "Max"].map(|op| (op, vec![x(), Tensor::scalar(0.7f32)])));
    cases.push(("Pow", vec![positive(), other()]));
    cases.push(("Clip", vec![x(), Tensor::scalar(-1f32), Tensor::scalar(1f32)]));
    cases.push(("NegativeLogLikelihoodLoss", vec![x(), row(&[2i64, 0])]));
    cases.push(("SoftmaxCrossEntropyLoss", vec![x(), row(&[2i64, 0])]));
    for (op, inputs) in cases {
        let (exact, differences) = (gradient(op, &inputs, &[]), slope(op, &inputs, &[]));
        let close = exact.iter().zip(&differences).all(|(a, b)| (a - b).abs() <= 2e-2 * b.abs().max(1.0));
        assert!(close, "{op}: {exact:?} is not {differences:?}");
    }
}
