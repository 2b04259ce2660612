//! What no output needs: nodes, constants, declarations.

use crate::names::HashSet;
use crate::validate::captured_by;
use crate::{Graph, Node};

/// Removes nodes, constants and declared values that no output needs; returns how many nodes and constants went.
pub fn dead_nodes(graph: &mut Graph) -> usize {
    let mut needed: HashSet<&str> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
    let mut alive = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        alive[index] = node.outputs.iter().any(|name| !name.is_empty() && needed.contains(name.as_str()));
        if alive[index] {
            needed.extend(node.inputs.iter().map(String::as_str));
            needed.extend(node.subgraphs().flat_map(captured_by));
        }
    }
    let idle: Vec<String> = graph.initializers.keys().filter(|name| !needed.contains(name.as_str())).cloned().collect();
    let before = graph.nodes.len();
    let mut alive = alive.into_iter();
    graph.nodes.retain(|_: &Node| alive.next().unwrap_or(true));
    for name in &idle {
        graph.initializers.remove(name);
    }
    let removed = before - graph.nodes.len() + idle.len();
    if removed > 0 {
        let made: HashSet<&str> = graph.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str).collect();
        graph.values.retain(|value| made.contains(value.name.as_str()));
    }
    removed
}
