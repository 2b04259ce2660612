//! What it costs that a graph is data: a network as ONNX through the executor, beside the same network written in Burn.
//!
//! Both run on the CPU backend, take the same host tensors and give host tensors back. Runs alternate in pairs, so that what
//! the machine does meanwhile falls on both; the figure is the median of the pairs' ratios.
//!
//! ```console
//! cargo bench --workspace --bench interpreter            # 1 thread; `-- 2` for two
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "interpreter/cnn.rs"]
mod cnn;
#[path = "interpreter/transformer.rs"]
mod transformer;

use std::time::{Duration, Instant};

use burn::tensor::{Device as BurnDevice, Tensor as Burn, TensorData};
use hedge_engine::{Device, Model};
use hedge_graph::Graph;
use hedge_tensor::Tensor;

/// Pairs are timed for so long, and at least so many.
const TIME: Duration = Duration::from_secs(4);
const PAIRS: usize = 30;

/// A network written by hand: host tensor in, numbers out.
type ByHand = Box<dyn Fn(&Tensor) -> Vec<f32>>;

fn main() {
    let threads = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1);
    hedge_engine::set_threads(threads);
    println!("{threads} thread(s), CPU\n");
    println!("| network | graph ms | by hand ms | ratio |\n| --- | --- | --- | --- |");
    for batch in [1, 16] {
        compare(&format!("digits CNN (edge), batch {batch}"), &cnn::edge(), &cnn::images(batch), &cnn::edge_by_hand());
        compare(
            &format!("digits CNN (cloud), batch {batch}"),
            &cnn::cloud(),
            &cnn::images(batch),
            &cnn::cloud_by_hand(),
        );
    }
    let stack = transformer::Stack::new();
    for (batch, length) in [(1, 16), (1, 128), (8, 64)] {
        let input = transformer::input(batch, length);
        let name = |attention: &str| format!("MiniLM's 6 layers, {batch} x {length} tokens, {attention}");
        compare(&name("attention as matmul and softmax"), &stack.graph(), &input, &stack.by_hand(false));
        compare(&name("attention as burn's module"), &stack.graph(), &input, &stack.by_hand(true));
    }
}

fn compare(name: &str, graph: &Graph, input: &Tensor, by_hand: &ByHand) {
    let mut model = Model::unproven(graph.clone(), Device::cpu()).unwrap();
    let inputs = [input.clone()];
    let mut interpreted = || model.run_arranged(&inputs).unwrap().remove(0).tensor;
    agree(&interpreted().to_vec::<f32>().unwrap(), &by_hand(input));
    let begun = Instant::now();
    let mut pairs = Vec::new();
    while pairs.len() < PAIRS || begun.elapsed() < TIME {
        // Who is first alternates, too.
        let pair = if pairs.len() % 2 == 0 {
            let graph = time(|| _ = interpreted());
            (graph, time(|| _ = by_hand(input)))
        } else {
            let hand = time(|| _ = by_hand(input));
            (time(|| _ = interpreted()), hand)
        };
        pairs.push(pair);
    }
    let ratio = median(pairs.iter().map(|(graph, hand)| graph / hand).collect());
    let graph = median(pairs.iter().map(|(graph, _)| *graph).collect());
    let hand = median(pairs.iter().map(|(_, hand)| *hand).collect());
    println!("| {name} | {graph:.4} | {hand:.4} | {ratio:.3} |");
}

/// Milliseconds.
fn time(f: impl FnOnce()) -> f64 {
    let started = Instant::now();
    f();
    started.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A comparison of two different networks would be worth nothing.
fn agree(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1f32, |largest, value| largest.max(value.abs()));
    let difference = a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(difference <= 1e-4 * largest, "the two networks differ by {difference}");
}

fn device() -> BurnDevice {
    BurnDevice::flex()
}

/// A weight as burn keeps it.
fn weight<const D: usize>(tensor: &Tensor) -> Burn<D> {
    let data = TensorData::new(tensor.to_vec::<f32>().unwrap(), tensor.shape().to_vec());
    Burn::from_data(data, &device())
}

/// Numbers between -1 and 1, the same in every run.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
