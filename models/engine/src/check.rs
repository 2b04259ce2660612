//! Which operators a graph uses, and which of them nobody here can run.

use std::collections::BTreeMap;

use hedge_graph::Graph;

use crate::burn::is_supported;

/// How many node names of one operator are listed; a large model may have hundreds.
const LISTED_NODES: usize = 32;

/// What [`check`] found.
#[derive(Clone, PartialEq, Debug)]
pub struct CheckReport {
    /// Every operator that the graph uses, in alphabetical order.
    pub operators: Vec<OperatorUse>,
}

/// One operator and the nodes that use it.
#[derive(Clone, PartialEq, Debug)]
pub struct OperatorUse {
    /// The operator's domain, empty for ONNX's own.
    pub domain: String,
    /// The operator's name.
    pub op: String,
    /// The names of its nodes; a node without a name is called by its first output.
    pub nodes: Vec<String>,
    /// Whether there is an implementation.
    pub supported: bool,
}

impl CheckReport {
    /// The operators that are missing.
    pub fn missing(&self) -> Vec<OperatorUse> {
        self.operators.iter().filter(|operator| !operator.supported).cloned().collect()
    }
}

impl std::fmt::Display for OperatorUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.domain.is_empty() {
            write!(f, "{}.", self.domain)?;
        }
        let shown = &self.nodes[..self.nodes.len().min(LISTED_NODES)];
        write!(f, "{} (nodes {}", self.op, shown.join(", "))?;
        match self.nodes.len() - shown.len() {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}

/// Lists every operator of `graph`, subgraphs included, and says which are missing: all of them, not the first.
pub fn check(graph: &Graph) -> CheckReport {
    let mut uses = BTreeMap::new();
    collect(graph, &mut uses);
    let operators = uses
        .into_iter()
        .map(|((domain, op), nodes)| {
            let supported = is_supported(&domain, &op);
            OperatorUse { domain, op, nodes, supported }
        })
        .collect();
    CheckReport { operators }
}

fn collect(graph: &Graph, uses: &mut BTreeMap<(String, String), Vec<String>>) {
    for node in &graph.nodes {
        let domain = if node.domain == "ai.onnx" { String::new() } else { node.domain.clone() };
        uses.entry((domain, node.op.clone())).or_default().push(node.display_name().to_owned());
        node.subgraphs().for_each(|subgraph| collect(subgraph, uses));
    }
}
