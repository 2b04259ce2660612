//! Constants of each channel, taken into the weights of the convolution or product before them.

use hedge_tensor::{DType, Tensor};

use super::pattern::{Rewrite, Scaled, either};
use super::scan::{Scan, input, is, output};
use crate::{Attribute, Node};

/// `x * factor + offset`, channel by channel; one element serves all channels.
pub(super) struct Affine {
    pub(super) factor: Option<Vec<f64>>,
    pub(super) offset: Option<Vec<f64>>,
}

impl Affine {
    fn factor(values: Vec<f64>) -> Self {
        Affine { factor: Some(values), offset: None }
    }

    fn offset(values: Vec<f64>) -> Self {
        Affine { factor: None, offset: Some(values) }
    }

    fn is_finite(&self) -> bool {
        self.factor.iter().chain(&self.offset).flatten().all(|value| value.is_finite())
    }
}

/// Takes a constant factor or addend of each channel into the weights and biases of the convolution or product before it.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let node = &scan.graph.nodes[index];
    output(node)?;
    let constant = |value: &str, layer: &str| channel_values(scan, value, layer);
    let (layer, affine) = match node.op.as_str() {
        "Mul" => either(node, "Mul").into_iter().find_map(|(a, x)| Some((x, Affine::factor(constant(a, x)?))))?,
        "Add" => either(node, "Add").into_iter().find_map(|(a, x)| Some((x, Affine::offset(constant(a, x)?))))?,
        "Div" if is(node, "Div") => {
            let divisor = constant(input(node, 1), input(node, 0))?;
            (input(node, 0), Affine::factor(divisor.into_iter().map(f64::recip).collect()))
        }
        "Sub" if is(node, "Sub") => {
            let taken = constant(input(node, 1), input(node, 0))?;
            (input(node, 0), Affine::offset(taken.into_iter().map(|value| -value).collect()))
        }
        _ => return None,
    };
    absorb(scan, index, layer, &affine)
}

/// The elements of a constant that differs along the channels of what the layer makes at most.
fn channel_values(scan: &Scan<'_>, value: &str, layer: &str) -> Option<Vec<f64>> {
    let tensor = scan.constant(value).filter(|tensor| tensor.dtype() == DType::F32)?;
    let (_, node) = scan.maker(layer)?;
    let weight = scan.constant(input(node, 1))?;
    // Convolutions give as many dimensions as their weights have, and `Gemm` two; of a `MatMul` the last is known.
    let rank = if is(node, "MatMul") { 1 } else { weight.shape().len() };
    let channel_axis = if is(node, "MatMul") { 0 } else { 1 };
    let missing = rank.checked_sub(tensor.shape().len())?;
    let along = |axis: usize| axis + missing == channel_axis;
    let fits = tensor.shape().iter().enumerate().all(|(axis, &size)| size == 1 || along(axis));
    fits.then(|| tensor.to_doubles()).flatten()
}

/// The layer that makes `value` for the node `index` alone, with the node's work in its weights.
pub(super) fn absorb(scan: &Scan<'_>, index: usize, value: &str, affine: &Affine) -> Option<Rewrite> {
    let (maker, layer) = scan.maker(value).filter(|_| scan.has_one_taker(value))?;
    let kind = Kind::of(layer)?;
    let weight = scan.constant(input(layer, 1)).filter(|weight| weight.dtype() == DType::F32)?;
    let channels = kind.channels(layer, weight)?;
    let spread = |values: &Vec<f64>| match values.len() {
        1 => Some(vec![values[0]; channels]),
        len => (len == channels).then(|| values.clone()),
    };
    let factor = affine.factor.as_ref().map(spread);
    let offset = affine.offset.as_ref().map(spread);
    // A failed spread is a mismatch, which is left to the executor to refuse.
    let (factor, offset) = (factor.map_or(Some(None), |f| f.map(Some))?, offset.map_or(Some(None), |o| o.map(Some))?);
    if !affine.is_finite() || kind == Kind::Product && offset.is_some() {
        return None;
    }
    let root = output(&scan.graph.nodes[index])?;
    let mut node = Node { outputs: vec![root.to_owned()], ..layer.clone() };
    let mut constants = Vec::new();
    let mut scaled = None;
    if let Some(factor) = &factor {
        let name = scan.fresh(root, "weight");
        let (from, scaling) = (input(layer, 1).to_owned(), kind.scaling(layer, weight.shape(), factor)?);
        node.inputs[1].clone_from(&name);
        scaled = Some(Scaled { name, alone: scan.has_one_taker(&from), from, scaling });
    }
    if let Some(bias) = new_bias(scan, layer, kind, channels, factor.as_deref(), offset.as_deref())? {
        let name = scan.fresh(root, "bias");
        constants.push((name.clone(), bias));
        node.inputs.truncate(2);
        node.inputs.push(name);
        if kind == Kind::Gemm {
            node.attributes.insert("beta".to_owned(), Attribute::Float(1.0));
        }
    }
    Some(Rewrite { constants, scaled, ..Rewrite::of(node, vec![maker]) })
}

/// `bias * factor + offset`; none where the layer has no bias and gets none.
fn new_bias(
    scan: &Scan<'_>,
    layer: &Node,
    kind: Kind,
    channels: usize,
    factor: Option<&[f64]>,
    offset: Option<&[f64]>,
) -> Option<Option<Tensor>> {
    let given = input(layer, 2);
    if given.is_empty() && offset.is_none() {
        return Some(None);
    }
    let mut bias = vec![0.0; channels];
    if !given.is_empty() {
        let tensor = scan.constant(given).filter(|tensor| tensor.dtype() == DType::F32)?;
        let rank = tensor.shape().len();
        let values = tensor.to_doubles()?;
        let per_channel = values.len() == channels && tensor.shape().last() == Some(&channels);
        if rank > 2 || !(per_channel || kind == Kind::Gemm && values.len() == 1) {
            return None;
        }
        let beta = if kind == Kind::Gemm { f64::from(layer.float("beta", 1.0)) } else { 1.0 };
        bias.iter_mut().enumerate().for_each(|(channel, bias)| *bias = beta * values[channel % values.len()]);
    }
    let at = |values: Option<&[f64]>, channel: usize, default: f64| values.map_or(default, |values| values[channel]);
    let mixed = bias.iter().enumerate().map(|(c, bias)| (bias * at(factor, c, 1.0) + at(offset, c, 0.0)) as f32);
    Tensor::from_slice(&[channels], &mixed.collect::<Vec<f32>>()).ok().map(Some)
}

/// The layers that have weights of each channel.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Convolution,
    Transposed,
    Gemm,
    Product,
}

impl Kind {
    fn of(layer: &Node) -> Option<Self> {
        output(layer)?;
        match layer.op.as_str() {
            _ if !(layer.domain.is_empty() || layer.domain == "ai.onnx") => None,
            "Conv" => Some(Kind::Convolution),
            "ConvTranspose" => Some(Kind::Transposed),
            "Gemm" => Some(Kind::Gemm),
            "MatMul" => Some(Kind::Product),
            _ => None,
        }
    }

    fn channels(self, layer: &Node, weight: &Tensor) -> Option<usize> {
        let shape = weight.shape();
        match self {
            Kind::Convolution => (shape.len() >= 3).then(|| shape[0]),
            Kind::Transposed => shape.get(1)?.checked_mul(groups(layer)?).filter(|_| shape.len() >= 3),
            Kind::Gemm if layer.int("transB", 0) != 0 => (shape.len() == 2).then(|| shape[0]),
            Kind::Gemm | Kind::Product => (shape.len() == 2).then(|| shape[1]),
        }
    }

    /// What multiplies weights of this shape with the factor of the channel that each belongs to.
    fn scaling(self, layer: &Node, shape: &[usize], factor: &[f64]) -> Option<Scaling> {
        let groups = groups(layer)?;
        let leading = self == Kind::Convolution || self == Kind::Gemm && layer.int("transB", 0) != 0;
        // The elements behind the dimension of the channels, how many channels that dimension tells apart, and how often it
        // comes until the next group's channels.
        let (inner, channels, repeats) = match self {
            _ if leading => (shape[1..].iter().product(), shape[0], 1),
            Kind::Transposed if !shape[0].is_multiple_of(groups) => return None,
            Kind::Transposed => (shape[2..].iter().product(), shape[1], (shape[0] / groups).max(1)),
            _ => (1, shape[1], usize::MAX),
        };
        Some(Scaling { factor: factor.to_vec(), inner, channels, repeats })
    }
}

/// A factor of each output channel of a layer, and where the channels lie in its weights.
pub(super) struct Scaling {
    factor: Vec<f64>,
    /// Elements of one channel that lie together.
    inner: usize,
    /// Channels that lie side by side.
    channels: usize,
    /// How often those come until the next ones do.
    repeats: usize,
}

impl Scaling {
    pub(super) fn apply(&self, weights: &mut [f32]) {
        let scale = |value: &mut f32, factor: f64| *value = (f64::from(*value) * factor) as f32;
        for (index, weights) in weights.chunks_mut((self.inner * self.channels).max(1)).enumerate() {
            let factors = &self.factor[index / self.repeats * self.channels..][..self.channels];
            if self.inner == 1 {
                weights.iter_mut().zip(factors).for_each(|(value, &factor)| scale(value, factor));
            } else {
                let channels = weights.chunks_mut(self.inner.max(1)).zip(factors);
                channels.for_each(|(values, &factor)| values.iter_mut().for_each(|value| scale(value, factor)));
            }
        }
    }
}

fn groups(layer: &Node) -> Option<usize> {
    usize::try_from(layer.int("group", 1)).ok().filter(|&groups| groups > 0)
}
