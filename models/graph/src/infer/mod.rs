//! Shape and type inference.
//!
//! One walk over the nodes. Each operator's rule says what it knows of the outputs from what is known of the inputs; what
//! no rule knows stays unknown, and nothing here is an error: whether a model is right is found out by running it. Small
//! integer values are followed, too (`Shape`, `Gather`, `Concat`, arithmetic), because exporters compute the shapes of
//! `Reshape`, `Expand` and `Slice` by them. A dimension is a number, a name, or unknown; arithmetic on names gives names
//! only where nothing changes.
//!
//! The declared types of inputs are believed: who runs a graph checks inputs against them. Declared types of values in
//! between are not believed, and replaced by what is found.
//!
//! Bounds: followed values have at most [`MAX_VALUES`] elements and shapes at most [`MAX_RANK`] dimensions, so the work is
//! in proportion to the graph.

mod body;
mod elementwise;
mod fact;
mod layout;
mod network;
mod number;
mod product;
mod reduce;
mod select;
mod sizes;
mod window;

#[cfg(test)]
mod tests;

use fact::{Call, Fact};

use crate::names::{HashMap, HashSet};
use crate::onnx::MAX_RANK;
use crate::{Dim, Graph, Node, ValueInfo};

/// The most elements of a value that is followed; shapes and axes have fewer.
const MAX_VALUES: usize = 64;

/// Fills [`Graph::values`] with what can be known of every value in between, bodies included, and completes the
/// declarations of outputs that leave something open.
pub fn infer_shapes(graph: &mut Graph) {
    infer_graph(graph, None, &[]);
}

/// What is known where a body stands.
struct Scope<'a> {
    facts: HashMap<String, Fact>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn fact(&self, name: &str) -> Option<&Fact> {
        self.facts.get(name).or_else(|| self.outer.and_then(|outer| outer.fact(name)))
    }
}

/// Infers one graph; `given` is known of its first inputs beside what they declare. Returns what is known of its outputs.
fn infer_graph(graph: &mut Graph, outer: Option<&Scope<'_>>, given: &[Fact]) -> Vec<Fact> {
    let mut scope = Scope { facts: HashMap::with_capacity_and_hasher(graph.nodes.len(), Default::default()), outer };
    for (index, input) in graph.inputs.iter().enumerate() {
        let declared = Fact { dtype: input.dtype, shape: input.shape.clone(), ..Fact::default() };
        let fact = match given.get(index) {
            Some(given) => declared.or(given),
            None => declared,
        };
        scope.facts.insert(input.name.clone(), fact);
    }
    let constants = graph.initializers.iter().map(|(name, tensor)| (name.clone(), Fact::of(tensor)));
    scope.facts.extend(constants);
    graph.values.clear();
    let opset = graph.opset;
    for node in &mut graph.nodes {
        let facts = infer_node(node, opset, &scope);
        for (name, fact) in node.outputs.iter().zip(facts).filter(|(name, _)| !name.is_empty()) {
            let fact = fact.bounded();
            if fact.dtype.is_some() || fact.shape.is_some() {
                let info = ValueInfo { name: name.clone(), dtype: fact.dtype, shape: fact.shape.clone() };
                graph.values.push(info);
            }
            scope.facts.insert(name.clone(), fact);
        }
    }
    complete_outputs(graph, &scope)
}

fn infer_node(node: &mut Node, opset: i64, scope: &Scope<'_>) -> Vec<Fact> {
    let known: Vec<Fact> = node.inputs.iter().map(|name| scope.fact(name).cloned().unwrap_or_default()).collect();
    if node.subgraphs().next().is_some() {
        return body::infer(node, scope, &known);
    }
    if !(node.domain.is_empty() || node.domain == "ai.onnx" || node.domain == crate::passes::DOMAIN) {
        return Vec::new();
    }
    let call = Call { node, opset, inputs: &known };
    let families = [
        elementwise::rule,
        sizes::rule,
        layout::rule,
        select::rule,
        window::rule,
        product::rule,
        reduce::rule,
        network::rule,
    ];
    let rule = families.iter().find_map(|family| family(&node.op));
    rule.and_then(|rule| rule(&call)).unwrap_or_default()
}

fn complete_outputs(graph: &mut Graph, scope: &Scope<'_>) -> Vec<Fact> {
    let mut facts = Vec::with_capacity(graph.outputs.len());
    for output in &mut graph.outputs {
        let fact = scope.fact(&output.name).cloned().unwrap_or_default();
        output.dtype = output.dtype.or(fact.dtype);
        match (&mut output.shape, &fact.shape) {
            (Some(declared), Some(found)) if declared.len() == found.len() => {
                for (dim, found) in declared.iter_mut().zip(found).filter(|(dim, _)| **dim == Dim::Unknown) {
                    dim.clone_from(found);
                }
            }
            (declared @ None, Some(found)) => *declared = Some(found.clone()),
            _ => {}
        }
        facts.push(fact);
    }
    let outputs: HashSet<&str> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
    graph.values.retain(|value| !outputs.contains(value.name.as_str()));
    facts
}
