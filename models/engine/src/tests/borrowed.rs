//! Operators of onnxruntime's own, and its answers where ONNX is silent: the numbers are its (1.32).

use hedge_graph::{Attribute, Dim, Graph, GraphBuilder, Node};
use hedge_tensor::{DType, Tensor};

use super::{floats, one_operator, run};
use crate::{Device, Executor, burn::BurnExecutor};

const MICROSOFT: &str = "com.microsoft";

fn attribute(name: &str, value: impl Into<Attribute>) -> (&str, Attribute) {
    (name, value.into())
}

/// All outputs of one operator of constants; absent inputs are `None`.
fn outputs(
    (domain, op): (&str, &str),
    opset: i64,
    inputs: &[Option<Tensor>],
    attributes: &[(&str, Attribute)],
    count: usize,
) -> Vec<Tensor> {
    let mut b = GraphBuilder::new(op);
    b.opset(opset);
    let named = inputs.iter().enumerate().map(|(index, input)| match input {
        Some(tensor) => b.init(&format!("c{index}"), tensor.clone()),
        None => String::new(),
    });
    let inputs: Vec<String> = named.collect();
    let outputs: Vec<String> = (0..count).map(|index| format!("y{index}")).collect();
    b.node(Node {
        name: op.to_owned(),
        op: op.to_owned(),
        domain: domain.to_owned(),
        inputs,
        outputs: outputs.clone(),
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    });
    outputs.iter().for_each(|name| b.output(name, DType::F32, &[Dim::Unknown]));
    let graph: Graph = b.finish().unwrap();
    BurnExecutor.prepare(graph, &Device::cpu()).unwrap().run(&[]).unwrap()
}

fn close(actual: &Tensor, shape: &[usize], expected: &[f32]) {
    assert_eq!(actual.shape(), shape);
    for (a, b) in actual.to_vec::<f32>().unwrap().iter().zip(expected) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
    }
}

fn of<T: hedge_tensor::Element>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

#[test]
fn a_query_among_more_keys_sees_those_up_to_its_own_place() {
    let (q, k) = (floats(&[1, 2, 1], &[0., 0.]), floats(&[1, 3, 1], &[1., 2., 3.]));
    let inputs = [Some(q), Some(k), Some(floats(&[1, 3, 1], &[1., 2., 4.]))];
    let attributes = [attribute("num_heads", 1), attribute("unidirectional", 1)];
    let y = outputs((MICROSOFT, "MultiHeadAttention"), 17, &inputs, &attributes, 1);
    close(&y[0], &[1, 2, 1], &[1., 1.5]);
}

#[test]
fn sequences_of_several_lengths_continue_where_each_of_them_ended() {
    let nothing = || Some(floats(&[2, 1, 2], &[0.; 4]));
    let past = |values: &[f32]| Some(floats(&[2, 1, 2, 1], values));
    let inputs = [
        nothing(),
        Some(floats(&[2, 1, 1], &[0., 0.])),
        Some(floats(&[2, 1, 1], &[3., 6.])),
        past(&[0.; 4]),
        past(&[1., 9., 2., 4.]),
        Some(of(&[2], &[1i32, 2])),
        Some(Tensor::scalar(3i32)),
    ];
    let attributes = [attribute("num_heads", 2), attribute("kv_num_heads", 1)];
    let y = outputs((MICROSOFT, "GroupQueryAttention"), 17, &inputs, &attributes, 3);
    close(&y[0], &[2, 1, 2], &[2., 2., 4., 4.]);
    close(&y[2], &[2, 1, 3, 1], &[1., 3., 0., 2., 4., 6.]);
}

#[test]
fn a_choice_between_quantized_tensors_is_in_the_outputs_scale() {
    let scalar = |value: f32| Some(Tensor::scalar(value));
    let zero = |value: u8| Some(Tensor::scalar(value));
    let (x, y) = (Some(of(&[2], &[10u8, 20])), Some(of(&[2], &[1u8, 2])));
    let condition = Some(Tensor::bools(&[2], &[true, false]).unwrap());
    let inputs = [condition, x, scalar(0.5), zero(0), y, scalar(1.), zero(0), scalar(0.5), zero(1)];
    let z = outputs((MICROSOFT, "QLinearWhere"), 17, &inputs, &[], 1);
    assert_eq!(z[0].to_vec::<u8>().unwrap(), [11, 5]);
}

#[test]
fn a_recurrent_network_of_8_bit_weights_rounds_what_it_multiplies_to_8_bits() {
    let inputs = [
        Some(floats(&[2, 1, 2], &[0.5, -1., 2., 1.5])),
        Some(of(&[1, 2, 4], &[10i8, -20, 30, 40, -50, 60, 70, -80])),
        Some(of(&[1, 1, 4], &[100i8, 50, -25, 12])),
        Some(floats(&[1, 8], &[0.1, 0.2, 0.3, 0.4, 0., 0., 0., 0.])),
        None,
        None,
        None,
        None,
        Some(floats(&[1], &[0.02])),
        Some(of(&[1], &[3i8])),
        Some(floats(&[1], &[0.02])),
        Some(of(&[1], &[0i8])),
    ];
    let y = outputs((MICROSOFT, "DynamicQuantizeLSTM"), 17, &inputs, &[attribute("hidden_size", 1)], 3);
    close(&y[0], &[2, 1, 1, 1], &[0.152_389_36, 0.399_430_27]);
    close(&y[2], &[1, 1, 1], &[0.584_625_2]);
}

#[test]
fn regions_are_pooled_in_bins_of_whole_elements_and_give_zeros_outside_the_image() {
    let x = floats(&[1, 1, 4, 4], &(0..16).map(|value| value as f32).collect::<Vec<_>>());
    let regions = floats(&[3, 5], &[0., 0., 0., 3., 3., 0., 1., 1., 2., 2., 0., 6., 6., 8., 8.]);
    let graph = one_operator("MaxRoiPool", 1, &[regions], &[("pooled_shape", Attribute::Ints(vec![2, 2]))]);
    let y = run(&graph, &[x]).unwrap();
    close(&y, &[3, 1, 2, 2], &[5., 7., 13., 15., 5., 6., 9., 10., 0., 0., 0., 0.]);
}

#[test]
fn a_window_that_is_larger_than_its_input_by_less_than_a_stride_has_a_place() {
    for (op, expected) in [("MaxPool", 4.), ("AveragePool", 2.5)] {
        let pool = |stride: i64| {
            let attributes = [("kernel_shape", Attribute::Ints(vec![3])), ("strides", Attribute::Ints(vec![stride]))];
            run(&one_operator(op, 1, &[], &attributes), &[floats(&[1, 1, 2], &[1., 4.])]).unwrap()
        };
        close(&pool(2), &[1, 1, 1], &[expected]);
        assert_eq!(pool(1).shape(), [1, 1, 0], "{op}");
    }
}

#[test]
fn what_is_no_number_is_below_every_threshold() {
    let y = run(&one_operator("ThresholdedRelu", 1, &[], &[]), &[floats(&[3], &[f32::NAN, 2., 0.5])]).unwrap();
    close(&y, &[3], &[0., 2., 0.]);
}

#[test]
fn no_axes_to_squeeze_are_all_of_them() {
    let graph = one_operator("Squeeze", 1, &[of::<i64>(&[0], &[])], &[]);
    assert_eq!(run(&graph, &[floats(&[1, 2, 1], &[1., 2.])]).unwrap().shape(), [2]);
}

#[test]
fn half_of_a_complex_signals_frequencies_are_half_of_them() {
    let constants = [Tensor::scalar(1i64), floats(&[4], &[1.; 4])];
    let y = run(&one_operator("STFT", 1, &constants, &[]), &[floats(&[1, 4, 2], &[1.; 8])]).unwrap();
    close(&y, &[1, 1, 3, 2], &[4., 4., 0., 0., 0., 0.]);
}

#[test]
fn halves_are_divided_as_halves_from_opset_23_on() {
    let half = |value: f32| Some(Tensor::scalar(half::f16::from_f32(value)));
    for (opset, expected) in [(21, 21u8), (23, 22)] {
        let y = outputs(("", "QuantizeLinear"), opset, &[half(4.5), half(0.209_350_59)], &[], 1);
        assert_eq!(y[0].to_vec::<u8>().unwrap(), [expected], "opset {opset}");
    }
}

#[test]
fn tensorflows_older_centres_are_half_an_element_further() {
    let x = floats(&[1, 1, 1, 4], &[1., 2., 4., 8.]);
    let constants = [floats(&[0], &[]), floats(&[4], &[1., 1., 1., 2.])];
    let attributes = [attribute("mode", "linear"), attribute("coordinate_transformation_mode", "tf_half_pixel_for_nn")];
    let mut graph = one_operator("Resize", 1, &constants, &attributes);
    graph.opset = 11;
    close(&run(&graph, &[x]).unwrap(), &[1, 1, 1, 8], &[1.25, 1.75, 2.5, 3.5, 5., 7., 8., 8.]);
}

#[test]
fn booleans_are_cropped_and_padded_with_none() {
    let inputs = [Some(Tensor::bools(&[1, 2], &[true, true]).unwrap()), Some(of(&[2], &[2i64, 1]))];
    let y = outputs(("", "CenterCropPad"), 18, &inputs, &[], 1);
    assert_eq!((y[0].shape(), y[0].to_bools().unwrap()), (&[2, 1][..], vec![true, false]));
}

#[test]
fn integers_between_two_equal_ones_are_those() {
    let inputs = [Some(of(&[1, 1, 1, 4], &[5u8, 1, 7, 3])), Some(floats(&[4], &[1., 1., 1., 3.]))];
    let y = outputs(("", "Upsample"), 9, &inputs, &[attribute("mode", "linear")], 1);
    assert_eq!(y[0].to_vec::<u8>().unwrap(), [5, 3, 2, 1, 3, 5, 7, 5, 4, 3, 3, 3]);
}
