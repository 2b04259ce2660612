//! Quantized operators where last bits decide: ties, saturation, wide sums. Expected values are worked out by hand or are
//! onnxruntime's own.

use hedge_graph::{Attribute, Graph, GraphBuilder, Node};
use hedge_tensor::{DType, Element, Tensor};

use super::run;

fn of<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

fn scalar<T: Element>(value: T) -> Option<Tensor> {
    Some(Tensor::scalar(value))
}

/// One operator that takes the inputs in order, `None` for those left out; its output.
fn quantized(domain: &str, op: &str, inputs: &[Option<Tensor>], attributes: &[(&str, Attribute)]) -> Tensor {
    let mut builder = GraphBuilder::new(op);
    let mut names = Vec::new();
    let mut given = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let name = format!("i{index}");
        match input {
            // The first is the network's; the others are constants, as they are in models.
            Some(tensor) if index == 0 => {
                builder.input(&name, tensor.dtype(), &[]);
                given.push(tensor.clone());
                names.push(name);
            }
            Some(tensor) => names.push(builder.init(&name, tensor.clone())),
            None => names.push(String::new()),
        }
    }
    builder.node(Node {
        op: op.into(),
        domain: domain.into(),
        inputs: names,
        outputs: vec!["y".into()],
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Node::default()
    });
    builder.output("y", DType::F32, &[]);
    let graph: Graph = builder.finish().unwrap();
    run(&graph, &given).unwrap()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    assert_eq!(tensor.dtype(), DType::U8);
    tensor.bytes().to_vec()
}

const MICROSOFT: &str = "com.microsoft";

#[test]
fn quantizing_rounds_ties_to_even_before_the_zero_point_and_saturates() {
    let x = of(&[8], &[0.5f32, 1.5, -0.5, -1.5, 1e30, -1e30, f32::NAN, 2.5]);
    let y = quantized("", "QuantizeLinear", &[Some(x), scalar(1f32), scalar(3u8)], &[]);
    assert_eq!(bytes(&y), [3, 5, 3, 1, 255, 0, 0, 5]);
}

#[test]
fn a_sum_is_rounded_with_its_zero_point() {
    // (1 + 0) / 2 is a tie: 0.5 + 1 goes to 2, where 0.5 alone would go to 0.
    let x = of(&[4], &[1u8, 3, 0, 255]);
    let other = of(&[1], &[0u8]);
    let level = |zero: u8| [scalar(0.25f32), scalar(zero)];
    let inputs = [&[Some(x)], &level(0)[..], &[Some(other)], &level(0), &[scalar(0.5f32), scalar(1u8)]].concat();
    assert_eq!(bytes(&quantized(MICROSOFT, "QLinearAdd", &inputs, &[])), [2, 2, 1, 128]);
}

#[test]
fn a_sum_broadcasts_over_every_dimension() {
    let level = [scalar(1f32), scalar(0i8)];
    let (a, b) = (of(&[2, 1, 2], &[1i8, 2, 3, 4]), of(&[2, 1], &[10i8, -20]));
    let inputs = [&[Some(a)], &level[..], &[Some(b)], &level, &level].concat();
    let y = quantized(MICROSOFT, "QLinearAdd", &inputs, &[]);
    assert_eq!(y.shape(), [2, 2, 2]);
    assert_eq!(y.to_vec::<i8>().unwrap(), [11, 12, -19, -18, 13, 14, -17, -16]);
}

#[test]
fn a_product_is_rounded_with_its_zero_point() {
    let level = [scalar(1f32), scalar(1u8)];
    let (a, b) = (of(&[3], &[2u8, 4, 0]), of(&[3], &[2u8, 2, 200]));
    let inputs = [&[Some(a)], &level[..], &[Some(b)], &level, &[scalar(2f32), scalar(1u8)]].concat();
    // 1 / 2 + 1, 3 / 2 + 1, and -199 / 2 + 1 below what the type holds.
    assert_eq!(bytes(&quantized(MICROSOFT, "QLinearMul", &inputs, &[])), [2, 2, 0]);
}

#[test]
fn an_average_over_a_window_rounds_with_its_zero_point_and_one_over_everything_before_it() {
    let x = of(&[1, 1, 1, 4], &[0u8, 1, 1, 2]);
    let inputs = [Some(x), scalar(1f32), scalar(0u8), scalar(1f32), scalar(1u8)];
    let pool = |size: i64| {
        let kernel = [("kernel_shape", Attribute::Ints(vec![1, size]))];
        bytes(&quantized(MICROSOFT, "QLinearAveragePool", &inputs, &kernel))
    };
    assert_eq!(pool(2), [2, 2, 2]);
    assert_eq!(pool(4), [2]);
    let half = of(&[1, 1, 1, 2], &[0u8, 1]);
    let inputs = [Some(half), scalar(1f32), scalar(0u8), scalar(1f32), scalar(1u8)];
    assert_eq!(bytes(&quantized(MICROSOFT, "QLinearGlobalAveragePool", &inputs, &[])), [1]);
    let kernel = [("kernel_shape", Attribute::Ints(vec![1, 2]))];
    assert_eq!(bytes(&quantized(MICROSOFT, "QLinearAveragePool", &inputs, &kernel)), [1]);
}

#[test]
fn padding_that_counts_counts_the_whole_window() {
    let x = of(&[1, 1, 3], &[8u8, 8, 8]);
    let inputs = [Some(x), scalar(1f32), scalar(0u8), scalar(1f32), scalar(0u8)];
    let pool = |count: i64| {
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![2])),
            ("strides", Attribute::Ints(vec![2])),
            ("ceil_mode", Attribute::Int(1)),
            ("count_include_pad", Attribute::Int(count)),
        ];
        bytes(&quantized(MICROSOFT, "QLinearAveragePool", &inputs, &attributes))
    };
    assert_eq!((pool(1), pool(0)), (vec![8, 4], vec![8, 8]));
}

#[test]
fn averages_of_places_that_need_less_than_the_input_leave_out_as_much_at_both_ends() {
    let pool = |pad: &str, size: u8, stride: i64| {
        let x = of(&[1, 1, usize::from(size)], &(1..=size).collect::<Vec<u8>>());
        let inputs = [Some(x), scalar(1f32), scalar(0u8), scalar(1f32), scalar(0u8)];
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![1])),
            ("strides", Attribute::Ints(vec![stride])),
            ("auto_pad", Attribute::String(pad.into())),
        ];
        bytes(&quantized(MICROSOFT, "QLinearAveragePool", &inputs, &attributes))
    };
    assert_eq!((pool("SAME_UPPER", 6, 3), pool("SAME_UPPER", 10, 5)), (vec![2, 5], vec![3, 8]));
    assert_eq!((pool("SAME_LOWER", 6, 3), pool("SAME_LOWER", 10, 5)), (vec![1, 4], vec![2, 7]));
}

#[test]
fn averages_are_the_same_with_channels_last() {
    let pool = |shape: &[usize], values: &[u8], last: i64| {
        let inputs = [Some(of(shape, values)), scalar(0.5f32), scalar(3u8), scalar(0.25f32), scalar(0u8)];
        let attributes = [("kernel_shape", Attribute::Ints(vec![2, 1])), ("channels_last", Attribute::Int(last))];
        quantized(MICROSOFT, "QLinearAveragePool", &inputs, &attributes)
    };
    let first = pool(&[1, 2, 2, 2], &[3, 4, 5, 6, 10, 20, 30, 40], 0);
    let last = pool(&[1, 2, 2, 2], &[3, 10, 4, 20, 5, 30, 6, 40], 1);
    assert_eq!((first.shape(), last.shape()), (&[1, 2, 1, 2][..], &[1, 1, 2, 2][..]));
    assert_eq!((bytes(&first), bytes(&last)), (vec![2, 4, 34, 54], vec![2, 34, 4, 54]));
}

#[test]
fn a_softmax_takes_its_scales_inverse_rounded_down() {
    let softmax = |scale: f32, values: &[u8]| {
        let x = of(&[1, values.len()], values);
        let inputs = [Some(x), scalar(0.1f32), scalar(7u8), scalar(scale), scalar(0u8)];
        bytes(&quantized(MICROSOFT, "QLinearSoftmax", &inputs, &[("opset", Attribute::Int(13))]))
    };
    // 1 / 0.35 is 2.86, of which 2 is taken.
    assert_eq!(softmax(0.35, &[50]), [2]);
    assert_eq!(softmax(1.0 / 256.0, &[10, 10, 10, 10]), [64; 4]);
    // Far below the largest nothing is left; the largest saturates.
    assert_eq!(softmax(1.0 / 256.0, &[255, 0]), [255, 0]);
}

#[test]
fn a_softmax_before_opset_13_is_over_everything_behind_its_axis() {
    let softmax = |opset: i64| {
        let inputs =
            [Some(of(&[1, 2, 2], &[5i8; 4])), scalar(0.1f32), scalar(0i8), scalar(1.0f32 / 64.0), scalar(-64i8)];
        let attributes = [("opset", Attribute::Int(opset)), ("axis", Attribute::Int(1))];
        quantized(MICROSOFT, "QLinearSoftmax", &inputs, &attributes).to_vec::<i8>().unwrap()
    };
    assert_eq!((softmax(13), softmax(12)), (vec![-32; 4], vec![-48; 4]));
}

/// `QLinearConv` with scales of 1 and the zero points given.
fn convolved(x: Tensor, zeros: (u8, u8), w: Tensor, scales: &[f32], bias: Option<Tensor>, pads: [i64; 4]) -> Vec<u8> {
    let weight_zeros = Tensor::zeros(w.dtype(), if scales.len() == 1 { vec![] } else { vec![scales.len()] }).unwrap();
    let weight_scale = if scales.len() == 1 { Tensor::scalar(scales[0]) } else { of(&[scales.len()], scales) };
    let inputs = [
        Some(x),
        scalar(1f32),
        scalar(zeros.0),
        Some(w),
        Some(weight_scale),
        Some(weight_zeros),
        scalar(1f32),
        scalar(zeros.1),
        bias,
    ];
    bytes(&quantized("", "QLinearConv", &inputs, &[("pads", Attribute::Ints(pads.to_vec()))]))
}

#[test]
fn padding_is_the_zero_point_and_not_the_number_0() {
    let (x, w) = (of(&[1, 1, 2, 2], &[9u8; 4]), of(&[1, 1, 3, 3], &[1i8; 9]));
    assert_eq!(convolved(x, (9, 4), w, &[1.0], None, [1; 4]), [4; 4]);
}

#[test]
fn each_output_channel_has_its_own_scale_and_bias() {
    let (x, w) = (of(&[1, 1, 1, 1], &[3u8]), of(&[3, 1, 1, 1], &[1i8, 2, -1]));
    let bias = Some(of(&[3], &[0i32, 1, 100]));
    // 3 * 0.5 is a tie, (6 + 1) * 2 and (100 - 3) / 4.
    assert_eq!(convolved(x, (0, 0), w, &[0.5, 2.0, 0.25], bias, [0; 4]), [2, 14, 24]);
}

#[test]
fn sums_beyond_the_whole_numbers_of_floats_stay_exact() {
    const DEPTH: usize = 300;
    let mut left = vec![255u8; DEPTH];
    left[7] = 254;
    let right = vec![255u8; DEPTH];
    let exact = 255 * 255 * 299 + 254 * 255;
    assert_ne!(f64::from(exact as f32), f64::from(exact), "the sum must not be one that floats hold");
    let product = quantized("", "MatMulInteger", &[Some(of(&[1, DEPTH], &left)), Some(of(&[DEPTH, 1], &right))], &[]);
    assert_eq!(product.to_vec::<i32>().unwrap(), [exact]);
    let (x, w) = (of(&[1, DEPTH, 1, 1], &left), of(&[1, DEPTH, 1, 1], &right));
    let convolved = quantized("", "ConvInteger", &[Some(x), Some(w)], &[]);
    assert_eq!(convolved.to_vec::<i32>().unwrap(), [exact]);
}

#[test]
fn a_bias_beyond_the_whole_numbers_of_floats_is_added_exactly() {
    let (x, w) = (of(&[1, 1, 1, 1], &[1u8]), of(&[1, 1, 1, 1], &[1i8]));
    // 2^24 + 1 - 2^24: floats would lose the 1 before the scale makes it visible.
    let bias = Some(of(&[1], &[16_777_216i32]));
    let y = convolved(x, (0, 0), w, &[1.0 / 16_777_216.0], bias, [0; 4]);
    assert_eq!(y, [1]);
}

#[test]
fn an_integer_product_takes_zero_points_of_rows_and_of_columns() {
    let inputs = [
        Some(of(&[2, 2], &[1u8, 2, 3, 4])),
        Some(of(&[2, 2], &[1i8, -2, 3, 4])),
        Some(of(&[2], &[1u8, 2])),
        Some(of(&[2], &[1i8, -1])),
    ];
    let y = quantized("", "MatMulInteger", &inputs, &[]);
    assert_eq!(y.to_vec::<i32>().unwrap(), [2, 5, 4, 9]);
}

#[test]
fn an_integer_product_broadcasts_over_batches() {
    let a: Vec<u8> = (0..12).collect();
    let b: Vec<u8> = (0..12).rev().collect();
    let y = quantized("", "MatMulInteger", &[Some(of(&[3, 1, 2, 2], &a)), Some(of(&[3, 2, 2], &b))], &[]);
    assert_eq!(y.shape(), [3, 3, 2, 2]);
    let sums = y.to_vec::<i32>().unwrap();
    let expected = |i: usize, j: usize, row: usize, column: usize| -> i32 {
        (0..2).map(|k| i32::from(a[i * 4 + row * 2 + k]) * i32::from(b[j * 4 + k * 2 + column])).sum()
    };
    for (at, sum) in sums.into_iter().enumerate() {
        assert_eq!(sum, expected(at / 12, at / 4 % 3, at / 2 % 2, at % 2), "sum {at}");
    }
}

#[test]
fn batch_normalization_inverts_the_deviation_before_it_scales() {
    // The quotient scale / deviation gives 10.304182; onnxruntime gives this.
    let one = |value: f32| Some(of(&[1], &[value]));
    let inputs = [Some(of(&[1, 1, 1], &[7.6f32])), one(2.5), one(0.0), one(0.0), one(3.4)];
    let y = quantized("", "BatchNormalization", &inputs, &[]);
    assert_eq!(y.to_vec::<f32>().unwrap(), [10.304_181]);
}
