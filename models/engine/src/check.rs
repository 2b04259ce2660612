//! Which operators a graph uses, and which of them nobody here can run.

use std::collections::HashMap;

use hedge_graph::Graph;

use crate::PrepareError;
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
    CheckReport { operators: uses(graph).into_iter().map(OperatorUse::of).collect() }
}

/// Refuses a graph with operators that are missing.
pub(crate) fn require_all(graph: &Graph) -> Result<(), PrepareError> {
    let missing = uses(graph).into_iter().filter(|((domain, op), _)| !is_supported(domain, op));
    match missing.map(OperatorUse::of).collect::<Vec<OperatorUse>>() {
        none if none.is_empty() => Ok(()),
        missing => Err(PrepareError::MissingOperators { missing }),
    }
}

/// A domain, an operator and the names of its nodes.
type Use<'g> = ((&'g str, &'g str), Vec<&'g str>);

fn uses(graph: &Graph) -> Vec<Use<'_>> {
    let mut uses = HashMap::new();
    collect(graph, &mut uses);
    let mut uses: Vec<Use<'_>> = uses.into_iter().collect();
    uses.sort_unstable();
    uses
}

fn collect<'g>(graph: &'g Graph, uses: &mut HashMap<(&'g str, &'g str), Vec<&'g str>>) {
    for node in &graph.nodes {
        let domain = if node.domain == "ai.onnx" { "" } else { &node.domain };
        uses.entry((domain, &node.op)).or_default().push(node.display_name());
        node.subgraphs().for_each(|subgraph| collect(subgraph, uses));
    }
}

impl OperatorUse {
    fn of(((domain, op), nodes): Use<'_>) -> Self {
        let supported = is_supported(domain, op);
        let nodes = nodes.into_iter().map(str::to_owned).collect();
        OperatorUse { domain: domain.to_owned(), op: op.to_owned(), nodes, supported }
    }
}
