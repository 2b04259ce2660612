//! Operators of vision models where ONNX's own cases are silent: older opsets, other types, nothing at all, mistakes.

use hedge_graph::{Attribute, Dim, Graph};
use hedge_tensor::{DType, Tensor};

use super::{floats, one_operator, real_device, run};
use crate::{DeviceChoice, Model, RanOn};

fn ints(values: &[i64]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().to_vec())
}

fn of_opset(opset: i64, mut graph: Graph) -> Graph {
    graph.opset = opset;
    graph
}

fn line(values: &[f32]) -> Tensor {
    floats(&[1, 1, values.len()], values)
}

#[test]
fn an_image_is_enlarged_alike_by_every_opsets_way_to_say_it() {
    let scales = floats(&[4], &[1., 1., 2., 2.]);
    let attribute = [("scales", Attribute::Floats(vec![1., 1., 2., 2.]))];
    let none = floats(&[0], &[]);
    let graphs = [
        of_opset(7, one_operator("Upsample", 1, &[], &attribute)),
        of_opset(9, one_operator("Upsample", 1, std::slice::from_ref(&scales), &[])),
        of_opset(10, one_operator("Resize", 1, std::slice::from_ref(&scales), &[])),
        of_opset(13, one_operator("Resize", 1, &[none.clone(), scales], &[])),
        of_opset(19, one_operator("Resize", 1, &[none.clone(), none, ints(&[1, 1, 4, 4])], &[])),
    ];
    for graph in graphs {
        let y = run(&graph, &[floats(&[1, 1, 2, 2], &[1., 2., 3., 4.])]).unwrap();
        assert_eq!(y.shape(), [1, 1, 4, 4]);
        let expected = [1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.];
        assert_eq!(y.to_vec::<f32>().unwrap(), expected, "opset {}", graph.opset);
    }
}

#[test]
fn integers_between_two_elements_are_cut_off_as_onnxruntime_does() {
    let attributes = [("mode", text("linear")), ("coordinate_transformation_mode", text("asymmetric"))];
    let graph = of_opset(13, one_operator("Resize", 1, &[floats(&[0], &[]), floats(&[1], &[2.])], &attributes));
    let y = run(&graph, &[Tensor::from_slice(&[2], &[1u8, 4]).unwrap()]).unwrap();
    assert_eq!(y.to_vec::<u8>().unwrap(), [1, 2, 4, 4]);
}

#[test]
fn an_average_counts_no_elements_behind_the_padding_in_ceil_mode() {
    let attributes = [
        ("kernel_shape", Attribute::Ints(vec![2])),
        ("strides", Attribute::Ints(vec![2])),
        ("ceil_mode", Attribute::Int(1)),
        ("count_include_pad", Attribute::Int(1)),
    ];
    let y = run(&one_operator("AveragePool", 1, &[], &attributes), &[line(&[1., 3., 8.])]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [2., 8.]);
}

#[test]
fn products_of_integers_wrap_at_their_own_width() {
    let matrix = |value: u32| Tensor::from_slice(&[1, 1], &[value]).unwrap();
    let y = run(&one_operator("MatMul", 2, &[], &[]), &[matrix(1 << 31), matrix(3)]).unwrap();
    assert_eq!(y.to_vec::<u32>().unwrap(), [1 << 31]);
}

#[test]
fn windows_and_products_over_nothing_give_nothing() {
    let nothing = |shape: &[usize]| Tensor::zeros(DType::F32, shape.to_vec()).unwrap();
    let weight = nothing(&[5, 3, 2, 2]);
    let y = run(&one_operator("Conv", 1, &[weight], &[]), &[nothing(&[0, 3, 4, 4])]).unwrap();
    assert_eq!(y.shape(), [0, 5, 3, 3]);
    let y = run(&one_operator("MatMul", 2, &[], &[]), &[nothing(&[2, 0]), nothing(&[0, 3])]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [0.; 6]);
}

#[test]
fn a_group_has_its_own_parameters_until_opset_20_and_a_channel_from_then_on() {
    let run_with = |opset: i64, parameters: usize| {
        let constants = [floats(&[parameters], &vec![1.; parameters]), floats(&[parameters], &vec![0.; parameters])];
        let attributes = [("num_groups", Attribute::Int(2))];
        let graph = of_opset(opset, one_operator("GroupNormalization", 1, &constants, &attributes));
        run(&graph, &[Tensor::zeros(DType::F32, vec![1, 4, 3]).unwrap()])
    };
    assert!(run_with(18, 2).is_ok() && run_with(21, 4).is_ok());
    assert!(run_with(18, 4).is_err() && run_with(21, 2).is_err());
}

#[test]
fn a_transposed_convolution_reaches_beyond_its_input_with_the_bias_alone() {
    let constants = [floats(&[1, 1, 1], &[2.]), floats(&[1], &[10.])];
    let attributes = [("strides", Attribute::Ints(vec![2])), ("output_padding", Attribute::Ints(vec![1]))];
    let y = run(&one_operator("ConvTranspose", 1, &constants, &attributes), &[line(&[1., 3.])]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [12., 10., 16., 10.]);
}

#[test]
fn sizes_of_a_model_that_no_memory_holds_are_refused() {
    let none = floats(&[0], &[]);
    let huge = [none.clone(), none, ints(&[1, 1, i64::MAX])];
    let graph = of_opset(19, one_operator("Resize", 1, &huge, &[]));
    assert!(run(&graph, &[line(&[1.])]).is_err());
    let block = [ints(&[i64::MAX, i64::MAX]), ints(&[1, 1])];
    assert!(run(&one_operator("Col2Im", 1, &block, &[]), &[line(&[1.])]).is_err());
}

/// Needs a Vulkan driver; a software one will do.
#[test]
fn a_gpu_spreads_a_volume_as_the_cpu_does_where_windows_are_shorter_than_their_stride() {
    let Some((_, _turn)) = real_device() else { return };
    let weights: Vec<f32> = (0..2 * 3 * 6).map(|index| index as f32 - 7.0).collect();
    let constants = [floats(&[2, 3, 1, 2, 3], &weights), floats(&[3], &[1., 2., 3.])];
    let attributes = [
        ("strides", Attribute::Ints(vec![3, 2, 4])),
        ("dilations", Attribute::Ints(vec![1, 2, 1])),
        ("pads", Attribute::Ints(vec![0, 1, 0, 0, 1, 2])),
        ("output_padding", Attribute::Ints(vec![2, 0, 1])),
    ];
    let mut graph = one_operator("ConvTranspose", 1, &constants, &attributes);
    graph.inputs[0].shape = Some([1, 2, 2, 3, 2].map(Dim::Known).to_vec());
    let x = floats(&[1, 2, 2, 3, 2], &(0..24).map(|index| index as f32).collect::<Vec<_>>());
    // A device whose outputs differ is refused here.
    let mut model = Model::load(graph.clone(), DeviceChoice::Gpu, None).expect("the device agrees with the CPU");
    let (spread, ran_on) = model.run_supervised(std::slice::from_ref(&x)).unwrap();
    assert_eq!(ran_on, RanOn::Device);
    // Whole numbers: sums are exact in any order.
    assert_eq!(spread[0].tensor, run(&graph, &[x]).unwrap());
}
