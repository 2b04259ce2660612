//! The encoder of all-MiniLM-L6-v2 with weights drawn at random: six layers of width 384, twelve heads, feed-forward 1536.
//!
//! The graph is what an exporter writes: MatMul and Add for a linear layer, GELU by Erf, attention by its parts.

use burn::tensor::module::{attention, layer_norm, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor as Burn, TensorData, activation};
use hedge_graph::{Attribute, Dim, Graph, GraphBuilder};
use hedge_tensor::{DType, Tensor};

use super::{ByHand, device, numbers, weight};

const LAYERS: usize = 6;
const WIDTH: usize = 384;
const HEADS: usize = 12;
const HEAD: usize = WIDTH / HEADS;
const FEED_FORWARD: usize = 1536;
const EPSILON: f32 = 1e-12;

/// The linear layers of an encoder layer with their sizes.
const LINEAR: [(&str, usize, usize); 6] = [
    ("query", WIDTH, WIDTH),
    ("key", WIDTH, WIDTH),
    ("value", WIDTH, WIDTH),
    ("output", WIDTH, WIDTH),
    ("up", WIDTH, FEED_FORWARD),
    ("down", FEED_FORWARD, WIDTH),
];

pub(super) fn input(batch: usize, length: usize) -> Tensor {
    Tensor::from_slice(&[batch, length, WIDTH], &numbers(batch * length * WIDTH, 3)).unwrap()
}

/// The weights, by name.
pub(super) struct Stack(Vec<(String, Tensor)>);

impl Stack {
    pub(super) fn new() -> Self {
        let mut weights = Vec::new();
        let mut draw = |name: String, shape: &[usize], scale: f32| {
            let values = numbers(shape.iter().product(), weights.len() as u32 + 11);
            let scaled: Vec<f32> = values.iter().map(|value| value * scale).collect();
            weights.push((name, Tensor::from_slice(shape, &scaled).unwrap()));
        };
        for layer in 0..LAYERS {
            for (name, from, to) in LINEAR {
                draw(format!("{layer}.{name}.weight"), &[from, to], (from as f32).powf(-0.5));
                draw(format!("{layer}.{name}.bias"), &[to], 0.1);
            }
            for name in ["norm1", "norm2"] {
                draw(format!("{layer}.{name}.weight"), &[WIDTH], 1.0);
                draw(format!("{layer}.{name}.bias"), &[WIDTH], 0.1);
            }
        }
        Stack(weights)
    }

    pub(super) fn graph(&self) -> Graph {
        let mut b = GraphBuilder::new("encoder");
        for (name, tensor) in &self.0 {
            b.init(name, tensor.clone());
        }
        let ints = |values: &[i64]| Tensor::from_slice(&[values.len()], values).unwrap();
        b.init("split", ints(&[0, 0, HEADS as i64, HEAD as i64]));
        b.init("merge", ints(&[0, 0, WIDTH as i64]));
        for (name, value) in [("scale", (HEAD as f32).powf(-0.5)), ("half", 0.5), ("root", 0.5f32.sqrt()), ("one", 1.0)]
        {
            b.init(name, Tensor::scalar(value));
        }
        let dims = [Dim::named("N"), Dim::named("L"), Dim::Known(WIDTH)];
        let mut x = b.input("x", DType::F32, &dims);
        for layer in 0..LAYERS {
            x = layer_of_graph(&mut b, layer, &x);
        }
        b.op_as("y", "Identity", &[&x], &[]);
        b.output("y", DType::F32, &dims);
        b.finish().unwrap()
    }

    /// The encoder in Burn, attention either by its parts or by burn's module.
    pub(super) fn by_hand(&self, module: bool) -> ByHand {
        let layers: Vec<Layer> = (0..LAYERS).map(|layer| self.layer(layer)).collect();
        Box::new(move |input| {
            let data = TensorData::new(input.to_vec::<f32>().unwrap(), input.shape().to_vec());
            let x = Burn::<3>::from_data(data, &device());
            let y = layers.iter().fold(x, |x, layer| layer.forward(x, module));
            y.into_data().try_to_vec::<f32>().unwrap()
        })
    }

    fn layer(&self, layer: usize) -> Layer {
        let find = |name: &str, part: &str| {
            let name = format!("{layer}.{name}.{part}");
            &self.0.iter().find(|(other, _)| *other == name).unwrap().1
        };
        let part = |name: &str| Linear { weight: weight(find(name, "weight")), bias: weight(find(name, "bias")) };
        let norm = |name: &str| (weight(find(name, "weight")), weight(find(name, "bias")));
        let [query, key, value, output, up, down] = LINEAR.map(|(name, _, _)| part(name));
        Layer { query, key, value, output, up, down, norm1: norm("norm1"), norm2: norm("norm2") }
    }
}

fn layer_of_graph(b: &mut GraphBuilder, layer: usize, x: &str) -> String {
    let linear = |b: &mut GraphBuilder, x: &str, name: &str| {
        let product = b.op("MatMul", &[x, &format!("{layer}.{name}.weight")], &[]);
        b.op("Add", &[&product, &format!("{layer}.{name}.bias")], &[])
    };
    let heads = |b: &mut GraphBuilder, name: &str, order: [i64; 4]| {
        let all = linear(b, x, name);
        let split = b.op("Reshape", &[&all, "split"], &[]);
        b.op("Transpose", &[&split], &[("perm", order.into())])
    };
    let norm = |b: &mut GraphBuilder, x: &str, name: &str| {
        let inputs = [x, &format!("{layer}.{name}.weight"), &format!("{layer}.{name}.bias")];
        b.op("LayerNormalization", &inputs, &[("axis", (-1).into()), ("epsilon", EPSILON.into())])
    };
    let (q, k) = (heads(b, "query", [0, 2, 1, 3]), heads(b, "key", [0, 2, 3, 1]));
    let product = b.op("MatMul", &[&q, &k], &[]);
    let scores = b.op("Mul", &[&product, "scale"], &[]);
    let weights = b.op("Softmax", &[&scores], &[("axis", (-1).into())]);
    let v = heads(b, "value", [0, 2, 1, 3]);
    let context = b.op("MatMul", &[&weights, &v], &[]);
    let turned = b.op("Transpose", &[&context], &[("perm", Attribute::Ints(vec![0, 2, 1, 3]))]);
    let merged = b.op("Reshape", &[&turned, "merge"], &[]);
    let attended = linear(b, &merged, "output");
    let sum = b.op("Add", &[&attended, x], &[]);
    let x = norm(b, &sum, "norm1");
    let up = linear(b, &x, "up");
    let halved = b.op("Mul", &[&up, "half"], &[]);
    let scaled = b.op("Mul", &[&up, "root"], &[]);
    let erf = b.op("Erf", &[&scaled], &[]);
    let shifted = b.op("Add", &[&erf, "one"], &[]);
    let gelu = b.op("Mul", &[&halved, &shifted], &[]);
    let down = linear(b, &gelu, "down");
    let sum = b.op("Add", &[&down, &x], &[]);
    norm(b, &sum, "norm2")
}

struct Linear {
    weight: Burn<2>,
    bias: Burn<1>,
}

impl Linear {
    fn forward(&self, x: Burn<3>) -> Burn<3> {
        linear(x, self.weight.clone(), Some(self.bias.clone()))
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    up: Linear,
    down: Linear,
    norm1: (Burn<1>, Burn<1>),
    norm2: (Burn<1>, Burn<1>),
}

impl Layer {
    fn forward(&self, x: Burn<3>, module: bool) -> Burn<3> {
        let [batch, length, _] = x.dims();
        let heads = |linear: &Linear| linear.forward(x.clone()).reshape([batch, length, HEADS, HEAD]).swap_dims(1, 2);
        let (q, k, v) = (heads(&self.query), heads(&self.key), heads(&self.value));
        let context = if module {
            attention(q, k, v, None, None, AttentionModuleOptions::default())
        } else {
            let scores = q.matmul(k.transpose()) * (HEAD as f32).powf(-0.5);
            activation::softmax(scores, 3).matmul(v)
        };
        let merged = context.swap_dims(1, 2).reshape([batch, length, WIDTH]);
        let x = norm(self.output.forward(merged) + x, &self.norm1);
        let y = self.down.forward(activation::gelu(self.up.forward(x.clone())));
        norm(y + x, &self.norm2)
    }
}

fn norm(x: Burn<3>, (gamma, beta): &(Burn<1>, Burn<1>)) -> Burn<3> {
    layer_norm(x, gamma.clone(), Some(beta.clone()), f64::from(EPSILON))
}
