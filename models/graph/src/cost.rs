//! What a graph costs to run: parameters, multiply-accumulates (MACs) and memory, for given sizes of its inputs.
//!
//! MACs are those of convolutions, matrix products, attention and recurrent layers; what works element by element is left out, as
//! is usual. A size that is not found out counts as 1. Bodies count once, however often they run.

use std::collections::BTreeMap;

use hedge_tensor::{DType, Tensor};

use crate::infer::infer_shapes;
use crate::names::{HashMap, HashSet};
use crate::{Dim, Graph, Node, ValueInfo};

/// Sizes for free dimensions.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// By the dimension's name.
    pub named: BTreeMap<String, usize>,
    /// For each free dimension without a size of its own.
    pub default: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { named: BTreeMap::new(), default: 1 }
    }
}

/// One node's share.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeCost {
    /// The node's name.
    pub node: String,
    /// The operator with its domain.
    pub op: String,
    /// The first output's type, where it is known.
    pub dtype: Option<DType>,
    /// The first output's shape, where it is known.
    pub shape: Option<Vec<Dim>>,
    /// The elements of the weights that it is the first to take.
    pub parameters: usize,
    /// Multiply-accumulates.
    pub macs: u64,
    /// The bytes of its outputs.
    pub bytes: u64,
}

/// A graph's costs.
#[derive(Clone, PartialEq, Debug)]
pub struct Cost {
    /// Of each node, in the order of execution.
    pub nodes: Vec<NodeCost>,
    /// The elements of all weights, each counted once.
    pub parameters: usize,
    /// All multiply-accumulates.
    pub macs: u64,
    /// The bytes of all constants.
    pub weight_bytes: u64,
    /// The most bytes of inputs and values in between that live at one time, where each dies at its last use.
    pub peak_bytes: u64,
}

impl Cost {
    /// The costs of `graph` with free dimensions of the given sizes.
    pub fn of(graph: &Graph, sizes: &Sizes) -> Cost {
        let mut bound = graph.clone();
        bound.inputs.iter_mut().for_each(|input| bind(input, sizes));
        // Open declarations of outputs say less than what is found, once the inputs are known.
        let closed = |shape: &Vec<Dim>| shape.iter().all(|dim| matches!(dim, Dim::Known(_)));
        bound.outputs.iter_mut().for_each(|output| output.shape = output.shape.take().filter(closed));
        infer_shapes(&mut bound);
        let infos = bound.values.iter().chain(&bound.inputs).chain(&bound.outputs);
        let infos: HashMap<&str, &ValueInfo> = infos.map(|info| (info.name.as_str(), info)).collect();
        let view = View { graph: &bound, infos };
        let mut counted = HashSet::default();
        let nodes: Vec<NodeCost> = bound.nodes.iter().map(|node| view.node(node, &mut counted)).collect();
        Cost {
            parameters: graph.parameters(),
            macs: nodes.iter().fold(0, |all: u64, node| all.saturating_add(node.macs)),
            weight_bytes: weight_bytes(graph),
            peak_bytes: view.peak(),
            nodes,
        }
    }
}

fn bind(value: &mut ValueInfo, sizes: &Sizes) {
    for dim in value.shape.iter_mut().flatten() {
        *dim = match &*dim {
            Dim::Known(size) => Dim::Known(*size),
            Dim::Named(name) => Dim::Known(sizes.named.get(name).copied().unwrap_or(sizes.default)),
            Dim::Unknown => Dim::Known(sizes.default),
        };
    }
}

fn weight_bytes(graph: &Graph) -> u64 {
    let own: u64 = graph.initializers.values().map(|tensor| tensor.bytes().len() as u64).sum();
    let nested: u64 = graph.nodes.iter().flat_map(Node::subgraphs).map(weight_bytes).sum();
    own + nested
}

struct View<'g> {
    graph: &'g Graph,
    infos: HashMap<&'g str, &'g ValueInfo>,
}

impl<'g> View<'g> {
    fn node(&self, node: &'g Node, counted: &mut HashSet<&'g str>) -> NodeCost {
        let mut parameters: usize = node.subgraphs().map(Graph::parameters).sum();
        for name in &node.inputs {
            let weight = self.graph.initializers.get(name).filter(|tensor| is_weight(tensor));
            if let Some(weight) = weight.filter(|_| counted.insert(name)) {
                parameters += weight.len();
            }
        }
        let info = node.outputs.first().and_then(|name| self.infos.get(name.as_str()));
        let bodies = node.subgraphs().map(|body| Cost::of(body, &Sizes::default()).macs);
        NodeCost {
            node: node.display_name().to_owned(),
            op: node.qualified_op(),
            dtype: info.and_then(|info| info.dtype),
            shape: info.and_then(|info| info.shape.clone()),
            parameters,
            macs: bodies.fold(self.macs(node).unwrap_or(0), u64::saturating_add),
            bytes: node.outputs.iter().fold(0, |all, name| self.bytes(name).saturating_add(all)),
        }
    }

    fn sizes(&self, value: &str) -> Option<Vec<u64>> {
        if let Some(tensor) = self.graph.initializers.get(value) {
            return Some(tensor.shape().iter().map(|&size| size as u64).collect());
        }
        let shape = self.infos.get(value)?.shape.as_ref()?;
        Some(shape.iter().map(|dim| if let Dim::Known(size) = dim { *size as u64 } else { 1 }).collect())
    }

    fn bytes(&self, value: &str) -> u64 {
        let Some(sizes) = self.sizes(value) else { return 0 };
        let width = self.infos.get(value).and_then(|info| info.dtype).map_or(4, DType::size_bytes);
        product(&sizes).saturating_mul(width as u64)
    }

    fn macs(&self, node: &Node) -> Option<u64> {
        let input = |index: usize| self.sizes(node.inputs.get(index)?);
        let output = || self.sizes(node.outputs.first()?);
        let last = |sizes: &[u64]| sizes.last().copied().unwrap_or(1);
        Some(match node.op.as_str() {
            // Each output element takes all weights of its channel.
            "Conv" | "ConvInteger" | "FusedConv" => times(product(&output()?), product(input(1)?.get(1..)?)),
            "QLinearConv" => times(product(&output()?), product(input(3)?.get(1..)?)),
            "ConvTranspose" => times(product(&input(0)?), product(input(1)?.get(1..)?)),
            "MatMul" | "MatMulInteger" | "QLinearMatMul" => times(product(&output()?), last(&input(0)?)),
            "Gemm" => {
                let a = input(0)?;
                times(product(&output()?), *a.get(if node.int("transA", 0) == 0 { 1 } else { 0 })?)
            }
            // Queries by keys, and probabilities by values.
            "Attention" => {
                let (q, v) = (input(0)?, input(2)?);
                let keys = *v.get(v.len().checked_sub(2)?)?;
                times(times(product(&q), keys), 1).saturating_add(times(product(&output()?), keys))
            }
            "LSTM" | "GRU" | "RNN" => {
                let x = input(0)?;
                let weights = product(&input(1)?).saturating_add(product(&input(2)?));
                times(product(x.get(..2)?), weights)
            }
            _ => 0,
        })
    }

    /// Inputs and values in between, each from where it is made to where it is used last.
    fn peak(&self) -> u64 {
        let mut last: HashMap<&str, usize> = HashMap::default();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let captured = node.subgraphs().flat_map(crate::validate::captured_by);
            last.extend(node.inputs.iter().map(String::as_str).chain(captured).map(|name| (name, index)));
        }
        let end = self.graph.nodes.len();
        last.extend(self.graph.outputs.iter().map(|output| (output.name.as_str(), end)));
        let mut live: u64 = self.graph.inputs.iter().map(|input| self.bytes(&input.name)).fold(0, u64::saturating_add);
        let mut peak = live;
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let made = node.outputs.iter().map(|name| self.bytes(name));
            live = made.fold(live, u64::saturating_add);
            peak = peak.max(live);
            let mut dying: Vec<&str> = node.inputs.iter().chain(&node.outputs).map(String::as_str).collect();
            dying.sort_unstable();
            dying.dedup();
            let dead = |name: &&&str| {
                !self.graph.initializers.contains_key(**name) && last.get(**name).is_none_or(|&at| at == index)
            };
            let freed = dying.iter().filter(dead).map(|name| self.bytes(name)).fold(0, u64::saturating_add);
            live = live.saturating_sub(freed);
        }
        peak
    }
}

fn is_weight(tensor: &Tensor) -> bool {
    !matches!(tensor.dtype(), DType::I64 | DType::Bool)
}

fn product(sizes: &[u64]) -> u64 {
    sizes.iter().fold(1, |all, size| all.saturating_mul(*size))
}

fn times(a: u64, b: u64) -> u64 {
    a.saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attribute, GraphBuilder};

    /// 3 channels of 8 x 8 to 4, then to 2 numbers.
    fn network() -> Graph {
        let mut b = GraphBuilder::new("network");
        let x = b.input("x", DType::F32, &[Dim::named("N"), 3.into(), 8.into(), 8.into()]);
        let w = b.init("w", Tensor::zeros(DType::F32, vec![4, 3, 3, 3]).unwrap());
        let c = b.op("Conv", &[&x, &w], &[("pads", Attribute::from([1, 1, 1, 1]))]);
        let r = b.op("Relu", &[&c], &[]);
        let f = b.op("Flatten", &[&r], &[]);
        let v = b.init("v", Tensor::zeros(DType::F32, vec![256, 2]).unwrap());
        b.op_as("y", "MatMul", &[&f, &v], &[]);
        b.output("y", DType::F32, &[Dim::named("N"), 2.into()]);
        b.finish().unwrap()
    }

    #[test]
    fn products_are_counted_for_the_sizes_asked_for() {
        let cost = Cost::of(&network(), &Sizes::default());
        assert_eq!(cost.macs, 4 * 64 * 27 + 256 * 2);
        let named = [("N".to_owned(), 5)].into();
        assert_eq!(Cost::of(&network(), &Sizes { named, default: 1 }).macs, 5 * cost.macs);
        assert_eq!(cost.parameters, 4 * 27 + 512);
        assert_eq!(cost.weight_bytes, 4 * (4 * 27 + 512));
    }

    #[test]
    fn a_value_lives_until_its_last_use() {
        // The most is alive at the ReLU: what it takes and what it makes, 4 x 8 x 8 each.
        assert_eq!(Cost::of(&network(), &Sizes::default()).peak_bytes, 2 * 4 * 256);
    }
}
