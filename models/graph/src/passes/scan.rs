//! A graph seen from its values: who makes each, who takes it, what is known of it.

use hedge_tensor::{DType, Tensor};

use crate::names::{HashMap, HashSet};
use crate::validate::captured_by;
use crate::{Dim, Graph, Node, ValueInfo};

pub(super) struct Scan<'g> {
    pub(super) graph: &'g Graph,
    makers: HashMap<&'g str, usize>,
    takes: HashMap<&'g str, usize>,
    /// Outputs and what bodies capture: nobody may rename these or make do without.
    pinned: HashSet<&'g str>,
    infos: HashMap<&'g str, &'g ValueInfo>,
}

impl<'g> Scan<'g> {
    pub(super) fn new(graph: &'g Graph) -> Self {
        let mut makers = HashMap::with_capacity_and_hasher(graph.nodes.len(), Default::default());
        let mut takes: HashMap<&str, usize> = HashMap::with_capacity_and_hasher(graph.nodes.len(), Default::default());
        let mut pinned: HashSet<&str> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
        for (index, node) in graph.nodes.iter().enumerate() {
            makers.extend(node.outputs.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), index)));
            for name in node.inputs.iter().filter(|name| !name.is_empty()) {
                *takes.entry(name).or_default() += 1;
            }
            pinned.extend(node.subgraphs().flat_map(captured_by));
        }
        let infos = graph.values.iter().chain(&graph.outputs).chain(&graph.inputs);
        Scan { graph, makers, takes, pinned, infos: infos.map(|info| (info.name.as_str(), info)).collect() }
    }

    /// The node that makes the value.
    pub(super) fn maker(&self, value: &str) -> Option<(usize, &'g Node)> {
        self.makers.get(value).map(|&index| (index, &self.graph.nodes[index]))
    }

    /// The node of ONNX's operator `op` that makes the value for one taker alone.
    pub(super) fn only(&self, value: &str, op: &str) -> Option<(usize, &'g Node)> {
        self.maker(value).filter(|(_, node)| is(node, op) && self.has_one_taker(value))
    }

    pub(super) fn has_one_taker(&self, value: &str) -> bool {
        self.takes.get(value) == Some(&1) && !self.is_pinned(value)
    }

    pub(super) fn takers(&self, value: &str) -> usize {
        self.takes.get(value).copied().unwrap_or(0)
    }

    pub(super) fn is_pinned(&self, value: &str) -> bool {
        self.pinned.contains(value)
    }

    pub(super) fn is_taken(&self, value: &str) -> bool {
        self.takes.contains_key(value) || self.is_pinned(value)
    }

    pub(super) fn constant(&self, value: &str) -> Option<&'g Tensor> {
        self.graph.initializers.get(value)
    }

    /// The one element of a constant float, with the number of its dimensions.
    pub(super) fn scalar(&self, value: &str) -> Option<(f64, usize)> {
        let tensor = self.constant(value).filter(|tensor| tensor.len() == 1)?;
        Some((*tensor.to_doubles()?.first()?, tensor.shape().len()))
    }

    /// The one element of a constant float that does not add dimensions to what it meets.
    pub(super) fn plain_scalar(&self, value: &str) -> Option<f64> {
        self.scalar(value).filter(|(_, rank)| *rank <= 1).map(|(number, _)| number)
    }

    /// The elements of a constant of 64-bit integers.
    pub(super) fn ints(&self, value: &str) -> Option<Vec<i64>> {
        self.constant(value)?.to_vec::<i64>().ok()
    }

    pub(super) fn dtype(&self, value: &str) -> Option<DType> {
        self.constant(value).map(Tensor::dtype).or_else(|| self.infos.get(value)?.dtype)
    }

    pub(super) fn shape(&self, value: &str) -> Option<Vec<Dim>> {
        let constant = self.constant(value).map(|tensor| tensor.shape().iter().map(|&size| Dim::Known(size)).collect());
        constant.or_else(|| self.infos.get(value)?.shape.clone())
    }

    pub(super) fn rank(&self, value: &str) -> Option<usize> {
        self.shape(value).map(|shape| shape.len())
    }

    /// A name that nothing has yet.
    pub(super) fn fresh(&self, base: &str, suffix: &str) -> String {
        let mut name = format!("{base}.{suffix}");
        while self.makers.contains_key(name.as_str())
            || self.graph.initializers.contains_key(&name)
            || self.infos.contains_key(name.as_str())
        {
            name.push('_');
        }
        name
    }
}

/// Whether the node is ONNX's own operator `op`.
pub(super) fn is(node: &Node, op: &str) -> bool {
    (node.domain.is_empty() || node.domain == "ai.onnx") && node.op == op
}

/// Input `index` of the node, empty where it has none.
pub(super) fn input(node: &Node, index: usize) -> &str {
    node.inputs.get(index).map_or("", String::as_str)
}

/// The only output of the node; none where it has several.
pub(super) fn output(node: &Node) -> Option<&str> {
    match node.outputs.as_slice() {
        [first, rest @ ..] if rest.iter().all(String::is_empty) && !first.is_empty() => Some(first),
        _ => None,
    }
}
