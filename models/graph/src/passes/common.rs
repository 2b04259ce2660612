//! Nodes that compute the same from the same.

use super::noop::redirect;
use super::scan::{Scan, output};
use crate::names::HashMap;
use crate::{Attribute, Graph, Node};

/// Lets the takers of nodes that repeat an earlier one take the earlier one's value; returns how many nodes are left idle.
pub fn share_common_nodes(graph: &mut Graph) -> usize {
    let scan = Scan::new(graph);
    let mut first: HashMap<String, &str> = HashMap::default();
    let mut same: HashMap<String, String> = HashMap::default();
    for node in &graph.nodes {
        let (Some(key), Some(made)) = (key(node, &same), output(node)) else { continue };
        match first.get(&key) {
            Some(earlier) if !scan.is_pinned(made) && scan.is_taken(made) => {
                same.insert(made.to_owned(), (*earlier).to_owned());
            }
            Some(_) => {}
            None => {
                first.insert(key, made);
            }
        }
    }
    redirect(graph, &same)
}

/// What a node computes, as text; none for what is not the same twice (random numbers), has bodies or is large.
fn key(node: &Node, same: &HashMap<String, String>) -> Option<String> {
    use std::fmt::Write;
    if node.op.starts_with("Random") || matches!(node.op.as_str(), "Bernoulli" | "Multinomial" | "Dropout") {
        return None;
    }
    let mut key = node.qualified_op();
    for input in &node.inputs {
        let name = same.get(input).unwrap_or(input);
        write!(key, "|{}:{name}", name.len()).ok()?;
    }
    for (name, value) in &node.attributes {
        match value {
            Attribute::Int(value) => write!(key, "|{name}={value}"),
            Attribute::Float(value) => write!(key, "|{name}=f{:08x}", value.to_bits()),
            Attribute::String(value) => write!(key, "|{name}={value:?}"),
            Attribute::Ints(values) if values.len() <= 16 => write!(key, "|{name}={values:?}"),
            _ => return None,
        }
        .ok()?;
    }
    Some(key)
}
