//! The bundled task's two networks, from their own files.

use burn::tensor::module::{conv2d, linear, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Int, Tensor as Burn, TensorData, activation::relu};
use hedge_graph::Graph;
use hedge_tensor::Tensor;

use super::{ByHand, device, numbers, weight};

fn read(file: &'static [u8]) -> Graph {
    Graph::read(bytes::Bytes::from_static(file)).unwrap()
}

pub(super) fn edge() -> Graph {
    read(include_bytes!("../../../zoo/digits/edge.onnx"))
}

pub(super) fn cloud() -> Graph {
    read(include_bytes!("../../../zoo/digits/cloud.onnx"))
}

pub(super) fn images(batch: usize) -> Tensor {
    let pixels: Vec<u8> = numbers(batch * 256, 7).iter().map(|value| (value.abs() * 255.0) as u8).collect();
    Tensor::from_slice(&[batch, 1, 16, 16], &pixels).unwrap()
}

/// Pixels to numbers, as the files do it.
fn pixels(input: &Tensor, scale: f32) -> Burn<4> {
    let data = TensorData::new(input.to_vec::<u8>().unwrap(), input.shape().to_vec());
    Burn::<4, Int>::from_data(data, &device()).float() * scale
}

fn numbers_of(output: Burn<2>) -> Vec<f32> {
    output.into_data().try_to_vec::<f32>().unwrap()
}

pub(super) fn edge_by_hand() -> ByHand {
    let graph = edge();
    let constant = |name: &str| graph.initializers[name].clone();
    let scale = constant("scale").to_vec::<f32>().unwrap()[0];
    let (w1, b1) = (weight::<4>(&constant("conv1.weight")), weight::<1>(&constant("conv1.bias")));
    let (w2, b2) = (weight::<4>(&constant("conv2.weight")), weight::<1>(&constant("conv2.bias")));
    let (w3, b3) = (weight::<2>(&constant("out.weight")).transpose(), weight::<1>(&constant("out.bias")));
    Box::new(move |input| {
        let options = || ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
        let x = pixels(input, scale);
        let x = relu(conv2d(x, w1.clone(), Some(b1.clone()), options()));
        let x = relu(conv2d(x, w2.clone(), Some(b2.clone()), options()));
        numbers_of(linear(x.flatten::<2>(1, 3), w3.clone(), Some(b3.clone())))
    })
}

pub(super) fn cloud_by_hand() -> ByHand {
    let graph = cloud();
    let constant = |name: &str| graph.initializers[name].clone();
    let scale = constant("scale").to_vec::<f32>().unwrap()[0];
    let (w1, b1) = (weight::<4>(&constant("conv1.weight")), weight::<1>(&constant("conv1.bias")));
    let (w2, b2) = (weight::<4>(&constant("conv2.weight")), weight::<1>(&constant("conv2.bias")));
    let (w3, b3) = (weight::<2>(&constant("hidden.weight")).transpose(), weight::<1>(&constant("hidden.bias")));
    let (w4, b4) = (weight::<2>(&constant("out.weight")).transpose(), weight::<1>(&constant("out.bias")));
    Box::new(move |input| {
        let options = || ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        let pool = |x| max_pool2d(x, MaxPoolOptions::new([2, 2]));
        let x = pixels(input, scale);
        let x = pool(relu(conv2d(x, w1.clone(), Some(b1.clone()), options())));
        let x = pool(relu(conv2d(x, w2.clone(), Some(b2.clone()), options())));
        let x = relu(linear(x.flatten::<2>(1, 3), w3.clone(), Some(b3.clone())));
        numbers_of(linear(x, w4.clone(), Some(b4.clone())))
    })
}
