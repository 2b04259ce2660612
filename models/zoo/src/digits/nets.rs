//! The two architectures, untrained.
//!
//! ```text
//! image [N,1,16,16] u8 -> Cast f32 -> Mul 1/255 ─┐
//! edge   Conv 3x3 /2 6, Relu          -> Conv 3x3 /2 12, Relu         -> Flatten 192                    -> Gemm 10
//! cloud  Conv 3x3 16, Relu, MaxPool 2 -> Conv 3x3 32, Relu, MaxPool 2 -> Flatten 512 -> Gemm 128, Relu -> Gemm 10
//!                                                                                           logits [N,10] f32 <┘
//! ```
//!
//! Both take the same raw bytes: what a sensor gives is what goes over the wire, and the scaling is part of the model.
//! The edge model takes 16 thousand multiplications a sample, the cloud model 399 thousand.

use hedge_graph::{Dim, Graph, GraphBuilder, ValidateError};
use hedge_tensor::{DType, Tensor, TensorError};
use hedge_train::init::Initializer;
use thiserror::Error;

use super::stream::CANVAS;

/// The name of both models' input.
pub const INPUT: &str = "image";
/// The name of both models' output.
pub const OUTPUT: &str = "logits";
/// The digits.
pub const CLASSES: usize = 10;

/// The one constant that is not trained.
const SCALE: &str = "scale";
/// ONNX's code of `f32`, the target of `Cast`.
const TO_F32: i64 = 1;

/// Why an architecture could not be built.
#[derive(Debug, Error)]
pub enum NetError {
    /// A constant has an impossible shape.
    #[error("a weight of the bundled architecture cannot be made")]
    Weight(#[from] TensorError),
    /// The nodes do not fit together.
    #[error("the bundled architecture is no graph")]
    Graph(#[from] ValidateError),
}

/// The small model, with initial weights from `seed`.
pub(super) fn edge(seed: u64) -> Result<Graph, NetError> {
    let mut net = Net::new("digits-edge", seed);
    let stride = 2;
    let x = net.scaled_image();
    let x = net.conv_relu("conv1", &x, [1, 6], stride)?;
    let x = net.conv_relu("conv2", &x, [6, 12], stride)?;
    let x = net.flatten(&x);
    net.logits("out", &x, 12 * (CANVAS / 4) * (CANVAS / 4))
}

/// The large model, with initial weights from `seed`.
pub(super) fn cloud(seed: u64) -> Result<Graph, NetError> {
    let mut net = Net::new("digits-cloud", seed);
    let stride = 1;
    let x = net.scaled_image();
    let x = net.conv_relu("conv1", &x, [1, 16], stride)?;
    let x = net.halve(&x);
    let x = net.conv_relu("conv2", &x, [16, 32], stride)?;
    let x = net.halve(&x);
    let x = net.flatten(&x);
    let x = net.linear("hidden", None, &x, [32 * (CANVAS / 4) * (CANVAS / 4), 128])?;
    let x = net.builder.op("Relu", &[&x], &[]);
    net.logits("out", &x, 128)
}

/// The constants of `graph` that training changes.
pub(super) fn trainable(graph: &Graph) -> Vec<String> {
    graph.initializers.keys().filter(|name| *name != SCALE).cloned().collect()
}

struct Net {
    builder: GraphBuilder,
    weights: Initializer,
}

impl Net {
    fn new(name: &str, seed: u64) -> Self {
        let mut builder = GraphBuilder::new(name);
        builder
            .doc("Handwritten digits on the field stream; trained on UCI digits (E. Alpaydin, C. Kaynak; CC BY 4.0).");
        Net { builder, weights: Initializer::new(seed) }
    }

    fn scaled_image(&mut self) -> String {
        let shape = [Dim::named("N"), Dim::Known(1), Dim::Known(CANVAS), Dim::Known(CANVAS)];
        let image = self.builder.input(INPUT, DType::U8, &shape);
        let scale = self.builder.init(SCALE, Tensor::scalar(1.0f32 / 255.0));
        let floats = self.builder.op("Cast", &[&image], &[("to", TO_F32.into())]);
        self.builder.op("Mul", &[&floats, &scale], &[])
    }

    fn conv_relu(&mut self, name: &str, x: &str, [from, to]: [usize; 2], stride: i64) -> Result<String, NetError> {
        let (weight, bias) = self.parameters(name, &[to, from, 3, 3])?;
        let attributes =
            [("kernel_shape", [3, 3].into()), ("pads", [1, 1, 1, 1].into()), ("strides", [stride, stride].into())];
        let x = self.builder.op("Conv", &[x, &weight, &bias], &attributes);
        Ok(self.builder.op("Relu", &[&x], &[]))
    }

    fn halve(&mut self, x: &str) -> String {
        self.builder.op("MaxPool", &[x], &[("kernel_shape", [2, 2].into()), ("strides", [2, 2].into())])
    }

    fn flatten(&mut self, x: &str) -> String {
        self.builder.op("Flatten", &[x], &[("axis", 1.into())])
    }

    fn linear(
        &mut self,
        name: &str,
        output: Option<&str>,
        x: &str,
        [from, to]: [usize; 2],
    ) -> Result<String, NetError> {
        let (weight, bias) = self.parameters(name, &[to, from])?;
        let (inputs, attributes) = ([x, &weight, &bias], [("transB", 1.into())]);
        Ok(match output {
            Some(output) => self.builder.op_as(output, "Gemm", &inputs, &attributes),
            None => self.builder.op("Gemm", &inputs, &attributes),
        })
    }

    fn logits(mut self, name: &str, x: &str, from: usize) -> Result<Graph, NetError> {
        self.linear(name, Some(OUTPUT), x, [from, CLASSES])?;
        self.builder.output(OUTPUT, DType::F32, &[Dim::named("N"), Dim::Known(CLASSES)]);
        Ok(self.builder.finish()?)
    }

    /// A weight by He's rule and a bias of zeros; the first dimension is the output channel.
    fn parameters(&mut self, name: &str, shape: &[usize]) -> Result<(String, String), NetError> {
        let weight = self.weights.kaiming(shape)?;
        let bias = Tensor::zeros(DType::F32, vec![shape[0]])?;
        Ok((self.builder.init(&format!("{name}.weight"), weight), self.builder.init(&format!("{name}.bias"), bias)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_model_is_small_and_the_cloud_model_many_times_larger() {
        let (edge, cloud) = (edge(1).unwrap().parameters(), cloud(2).unwrap().parameters());
        assert!(edge <= 10_000, "{edge}");
        assert!(cloud >= 15 * edge, "{cloud} / {edge}");
    }

    #[test]
    fn everything_but_the_scale_is_trained() {
        let graph = edge(1).unwrap();
        let names = trainable(&graph);
        assert_eq!(names, ["conv1.bias", "conv1.weight", "conv2.bias", "conv2.weight", "out.bias", "out.weight"]);
    }
}
