//! Constants: out of nodes into the graph's table, and computed ahead.

use hedge_tensor::{Tensor, element_count};

use super::scan::{Scan, is, output};
use crate::{Attribute, Dim, Graph, Node};

/// Computes a node from constants, or declines.
pub type Evaluate<'a> = dyn Fn(&Graph, &Node, &[Option<&Tensor>]) -> Option<Vec<Tensor>> + 'a;

/// Larger results are left to the executor, which computes them on the device they are needed on.
const MAX_ELEMENTS: usize = 1 << 16;

/// Makes initializers of `Constant` nodes; returns how many.
pub fn lift_constants(graph: &mut Graph) -> usize {
    let mut lifted = Vec::new();
    graph.nodes.retain(|node| match (constant_of(node), output(node)) {
        (Some(tensor), Some(name)) => {
            lifted.push((name.to_owned(), tensor));
            false
        }
        _ => true,
    });
    let count = lifted.len();
    graph.initializers.extend(lifted);
    count
}

/// The value of a `Constant` node of numbers.
pub(crate) fn constant_of(node: &Node) -> Option<Tensor> {
    if !is(node, "Constant") {
        return None;
    }
    let (name, value) = node.attributes.iter().find(|(name, _)| name.starts_with("value"))?;
    match (name.as_str(), value) {
        ("value", Attribute::Tensor(tensor)) => Some(tensor.clone()),
        ("value_float", Attribute::Float(value)) => Some(Tensor::scalar(*value)),
        ("value_int", Attribute::Int(value)) => Some(Tensor::scalar(*value)),
        ("value_floats", Attribute::Floats(values)) => Tensor::from_slice(&[values.len()], values).ok(),
        ("value_ints", Attribute::Ints(values)) => Tensor::from_slice(&[values.len()], values).ok(),
        _ => None,
    }
}

/// Computes nodes whose inputs are all constants and whose outputs are known to be small; returns how many.
pub fn fold_constants(graph: &mut Graph, evaluate: &Evaluate<'_>) -> usize {
    let small = small_nodes(graph);
    let mut count = 0;
    for (index, small) in small.into_iter().enumerate() {
        if !small {
            continue;
        }
        let node = &graph.nodes[index];
        let inputs: Option<Vec<Option<&Tensor>>> = node
            .inputs
            .iter()
            .map(|name| if name.is_empty() { Some(None) } else { graph.initializers.get(name).map(Some) })
            .collect();
        let Some(values) = inputs.and_then(|inputs| evaluate(graph, node, &inputs)) else { continue };
        if values.len() < node.outputs.len() {
            continue;
        }
        let named: Vec<_> = node.outputs.iter().cloned().zip(values).filter(|(name, _)| !name.is_empty()).collect();
        graph.nodes[index].outputs.clear();
        graph.initializers.extend(named);
        count += 1;
    }
    if count > 0 {
        super::dead_nodes(graph);
    }
    count
}

/// Nodes that may be computed ahead as far as their operators and sizes say.
fn small_nodes(graph: &Graph) -> Vec<bool> {
    let scan = Scan::new(graph);
    let is_small = |name: &String| name.is_empty() || elements(&scan, name).is_some_and(|count| count <= MAX_ELEMENTS);
    let may = |node: &Node| {
        let random = node.op.starts_with("Random") || matches!(node.op.as_str(), "Bernoulli" | "Multinomial");
        !random && node.subgraphs().next().is_none() && node.outputs.iter().chain(&node.inputs).all(is_small)
    };
    graph.nodes.iter().map(may).collect()
}

fn elements(scan: &Scan<'_>, name: &str) -> Option<usize> {
    let sizes: Option<Vec<usize>> = scan
        .shape(name)?
        .into_iter()
        .map(|dim| match dim {
            Dim::Known(size) => Some(size),
            _ => None,
        })
        .collect();
    element_count(&sizes?)
}
