//! What makes a graph executable: every value is made once, before it is taken.
//!
//! This is about names only. Whether operators exist and types fit is an executor's business, because it depends on
//! what the executor can do.
//!
//! A subgraph (the body of `If`, `Loop`, `Scan`) sees the values of the graphs around it, so a node takes what its
//! bodies take from outside, too; both the order and the check honour that. A name that a body defines again hides the
//! outer one: ONNX forbids it, exporters do it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use thiserror::Error;

use crate::names::{HashMap, HashSet};
use crate::{Graph, Node};

/// How deep subgraphs may be nested. Real models use two or three levels; the bound keeps recursion on the stack.
pub const MAX_SUBGRAPH_DEPTH: usize = 16;

/// How many nodes of a cycle a message names.
const NODES_NAMED: usize = 8;

/// Why a graph cannot be executed in any order.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValidateError {
    /// Two inputs, constants or nodes make the same value.
    #[error("value '{value}' is defined twice in graph '{graph}'; every value needs one source")]
    Duplicate {
        /// The graph's name.
        graph: String,
        /// The value's name.
        value: String,
    },
    /// A node takes a value that nothing makes.
    #[error("node {node} takes value '{value}', which nothing in graph '{graph}' makes")]
    Undefined {
        /// The graph's name.
        graph: String,
        /// The node's label.
        node: String,
        /// The value's name.
        value: String,
    },
    /// An output is a value that nothing makes.
    #[error("output '{value}' of graph '{graph}' is made by no node, input or constant")]
    UndefinedOutput {
        /// The graph's name.
        graph: String,
        /// The value's name.
        value: String,
    },
    /// Nodes wait for one another.
    #[error("nodes of graph '{graph}' wait for one another: {}", nodes.join(" -> "))]
    Cycle {
        /// The graph's name.
        graph: String,
        /// Labels along the cycle, the first eight at most.
        nodes: Vec<String>,
    },
    /// A node stands before one whose output it takes.
    #[error(
        "node {node} of graph '{graph}' stands before the one that makes its input '{value}'; sort the graph first"
    )]
    NotSorted {
        /// The graph's name.
        graph: String,
        /// The node's label.
        node: String,
        /// The value's name.
        value: String,
    },
    /// Subgraphs are nested beyond the bound.
    #[error("subgraphs are nested deeper than {MAX_SUBGRAPH_DEPTH} levels in graph '{graph}'")]
    TooDeep {
        /// The name of the graph at the bound.
        graph: String,
    },
}

impl Graph {
    /// Checks that every value is defined once and before its use, here and in subgraphs.
    pub fn validate(&self) -> Result<(), ValidateError> {
        check_depth(self, MAX_SUBGRAPH_DEPTH)?;
        check_graph(self, None)
    }

    /// Brings the nodes into an order in which every value is made before it is taken, here and in subgraphs, and
    /// validates the result. A sorted graph stays as it is.
    pub fn sort(&mut self) -> Result<(), ValidateError> {
        check_depth(self, MAX_SUBGRAPH_DEPTH)?;
        sort_graph(self)?;
        check_graph(self, None)
    }
}

fn check_depth(graph: &Graph, levels: usize) -> Result<(), ValidateError> {
    let Some(left) = levels.checked_sub(1) else {
        return Err(ValidateError::TooDeep { graph: graph.name.clone() });
    };
    graph.nodes.iter().flat_map(Node::subgraphs).try_for_each(|subgraph| check_depth(subgraph, left))
}

/// The names that a subgraph sees around it.
struct Scope<'a> {
    names: &'a HashSet<&'a str>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.outer.is_some_and(|outer| outer.has(name))
    }
}

fn check_graph(graph: &Graph, outer: Option<&Scope<'_>>) -> Result<(), ValidateError> {
    let makers = makers(graph)?;
    let mut seen: HashSet<&str> = makers.iter().filter(|(_, maker)| maker.is_none()).map(|(&name, _)| name).collect();
    for node in &graph.nodes {
        for value in taken_by(node) {
            let known = seen.contains(value);
            let later = makers.contains_key(value);
            if !known && later {
                return Err(not_sorted(graph, node, value));
            }
            if !known && !outer.is_some_and(|scope| scope.has(value)) {
                return Err(undefined(graph, node, value));
            }
        }
        for subgraph in node.subgraphs() {
            check_graph(subgraph, Some(&Scope { names: &seen, outer }))?;
        }
        seen.extend(made_by(node));
    }
    let missing = graph.outputs.iter().map(|output| output.name.as_str());
    match missing.into_iter().find(|name| !seen.contains(name) && !outer.is_some_and(|scope| scope.has(name))) {
        Some(value) => Err(ValidateError::UndefinedOutput { graph: graph.name.clone(), value: value.to_owned() }),
        None => Ok(()),
    }
}

/// The node that makes each value; `None` for inputs and constants.
fn makers(graph: &Graph) -> Result<HashMap<&str, Option<usize>>, ValidateError> {
    let inputs = graph.inputs.iter().map(|input| (input.name.as_str(), None));
    let constants = graph.initializers.keys().map(|name| (name.as_str(), None));
    let nodes = graph.nodes.iter().enumerate();
    let made = nodes.flat_map(|(index, node)| made_by(node).map(move |name| (name, Some(index))));
    let mut makers = HashMap::default();
    for (name, maker) in inputs.chain(constants).chain(made) {
        if makers.insert(name, maker).is_some() {
            return Err(ValidateError::Duplicate { graph: graph.name.clone(), value: name.to_owned() });
        }
    }
    Ok(makers)
}

fn made_by(node: &Node) -> impl Iterator<Item = &str> {
    node.outputs.iter().map(String::as_str).filter(|name| !name.is_empty())
}

/// What a node takes by itself and through its bodies.
fn taken_by(node: &Node) -> Vec<&str> {
    let own = node.inputs.iter().map(String::as_str).filter(|name| !name.is_empty());
    own.chain(node.subgraphs().flat_map(captured_by)).collect()
}

/// The names that a subgraph takes from the graphs around it.
pub(crate) fn captured_by(graph: &Graph) -> Vec<&str> {
    let constants = graph.initializers.keys().map(String::as_str);
    let inputs = graph.inputs.iter().map(|input| input.name.as_str());
    let own: HashSet<&str> = constants.chain(inputs).chain(graph.nodes.iter().flat_map(made_by)).collect();
    let taken = graph.nodes.iter().flat_map(taken_by);
    let given = graph.outputs.iter().map(|output| output.name.as_str());
    let mut names: Vec<&str> = taken.chain(given).filter(|name| !own.contains(name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn sort_graph(graph: &mut Graph) -> Result<(), ValidateError> {
    let order = order(graph)?;
    let mut nodes: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    graph.nodes = order.into_iter().filter_map(|index| nodes[index].take()).collect();
    for subgraph in graph.nodes.iter_mut().flat_map(Node::subgraphs_mut) {
        sort_graph(subgraph)?;
    }
    Ok(())
}

/// Kahn's algorithm, taking the node that stood first among those that are ready, so that a sorted graph is unchanged.
fn order(graph: &Graph) -> Result<Vec<usize>, ValidateError> {
    let makers = makers(graph)?;
    let mut waits = vec![0usize; graph.nodes.len()];
    let mut takers = vec![Vec::new(); graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        for maker in taken_by(node).into_iter().filter_map(|value| makers.get(value).copied().flatten()) {
            waits[index] += 1;
            takers[maker].push(index);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        waits.iter().enumerate().filter(|(_, waits)| **waits == 0).map(|(index, _)| Reverse(index)).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &taker in &takers[index] {
            waits[taker] -= 1;
            if waits[taker] == 0 {
                ready.push(Reverse(taker));
            }
        }
    }
    if order.len() < waits.len() { Err(cycle(graph, &makers, &waits)) } else { Ok(order) }
}

/// Walks from a node that still waits to one that it waits for, until a node comes again.
fn cycle(graph: &Graph, makers: &HashMap<&str, Option<usize>>, waits: &[usize]) -> ValidateError {
    let waits_for = |index: usize| {
        let values = taken_by(&graph.nodes[index]);
        let mut nodes = values.into_iter().filter_map(|value| makers.get(value).copied().flatten());
        nodes.find(|&maker| waits[maker] > 0)
    };
    let mut path: Vec<usize> = waits.iter().position(|&waits| waits > 0).into_iter().collect();
    while let Some(next) = path.last().and_then(|&index| waits_for(index)) {
        if let Some(start) = path.iter().position(|&index| index == next) {
            path.drain(..start);
            break;
        }
        path.push(next);
    }
    let nodes = path.iter().take(NODES_NAMED).map(|&index| graph.nodes[index].label()).collect();
    ValidateError::Cycle { graph: graph.name.clone(), nodes }
}

fn undefined(graph: &Graph, node: &Node, value: &str) -> ValidateError {
    ValidateError::Undefined { graph: graph.name.clone(), node: node.label(), value: value.to_owned() }
}

fn not_sorted(graph: &Graph, node: &Node, value: &str) -> ValidateError {
    ValidateError::NotSorted { graph: graph.name.clone(), node: node.label(), value: value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attribute, ValueInfo};

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Node { op: op.into(), inputs: names(inputs), outputs: names(outputs), ..Node::default() }
    }

    fn values(names: &[&str]) -> Vec<ValueInfo> {
        names.iter().map(|&name| ValueInfo { name: name.to_owned(), dtype: None, shape: None }).collect()
    }

    fn graph(nodes: Vec<Node>) -> Graph {
        Graph { name: "g".into(), inputs: values(&["x"]), outputs: values(&["y"]), nodes, ..Graph::default() }
    }

    #[test]
    fn a_cycle_is_named_along_its_nodes_only() {
        let mut cyclic = graph(vec![
            node("Neg", &["x"], &["n"]),
            node("Add", &["n", "b"], &["a"]),
            node("Abs", &["a"], &["b"]),
            node("Relu", &["b"], &["y"]),
        ]);
        let error = cyclic.sort().unwrap_err();
        assert_eq!(error.to_string(), "nodes of graph 'g' wait for one another: Add 'a' -> Abs 'b'");
    }

    #[test]
    fn a_node_that_takes_its_own_output_is_a_cycle() {
        let mut cyclic = graph(vec![node("Add", &["x", "y"], &["y"])]);
        assert_eq!(cyclic.sort().unwrap_err().to_string(), "nodes of graph 'g' wait for one another: Add 'y'");
    }

    #[test]
    fn a_value_that_nothing_makes_is_named_with_its_taker() {
        let mut broken = graph(vec![node("Add", &["x", "ghost"], &["y"])]);
        let message = broken.sort().unwrap_err().to_string();
        assert_eq!(message, "node Add 'y' takes value 'ghost', which nothing in graph 'g' makes");
    }

    #[test]
    fn a_value_made_twice_is_named() {
        let mut broken = graph(vec![node("Abs", &["x"], &["y"]), node("Neg", &["x"], &["y"])]);
        assert!(matches!(broken.sort(), Err(ValidateError::Duplicate { value, .. }) if value == "y"));
        let broken = graph(vec![node("Abs", &["x"], &["x"])]);
        assert!(matches!(broken.validate(), Err(ValidateError::Duplicate { value, .. }) if value == "x"));
    }

    #[test]
    fn an_output_that_nothing_makes_is_named() {
        let broken = graph(vec![node("Abs", &["x"], &["z"])]);
        assert!(matches!(broken.validate(), Err(ValidateError::UndefinedOutput { value, .. }) if value == "y"));
    }

    #[test]
    fn validation_refuses_an_order_that_sorting_mends() {
        let mut late = graph(vec![node("Neg", &["h"], &["y"]), node("Abs", &["x"], &["h"])]);
        assert!(matches!(late.validate(), Err(ValidateError::NotSorted { value, .. }) if value == "h"));
        late.sort().unwrap();
        late.validate().unwrap();
    }

    #[test]
    fn an_absent_optional_input_and_an_unwanted_output_are_no_values() {
        graph(vec![node("Clip", &["x", "", ""], &["y", "", ""])]).validate().unwrap();
    }

    fn body(nodes: Vec<Node>) -> Attribute {
        Graph { name: "body".into(), outputs: values(&["r"]), nodes, ..Graph::default() }.into()
    }

    #[test]
    fn a_node_waits_for_what_its_body_takes_from_outside() {
        let mut branch = node("If", &["x"], &["y"]);
        branch.attributes.insert("then_branch".into(), body(vec![node("Neg", &["h"], &["r"])]));
        let mut outer = graph(vec![branch, node("Abs", &["x"], &["h"])]);
        assert!(matches!(outer.validate(), Err(ValidateError::NotSorted { .. })));
        outer.sort().unwrap();
        assert_eq!(outer.nodes[1].op, "If");
    }

    #[test]
    fn a_body_that_takes_what_no_scope_has_is_refused() {
        let mut branch = node("If", &["x"], &["y"]);
        branch.attributes.insert("then_branch".into(), body(vec![node("Neg", &["ghost"], &["r"])]));
        let error = graph(vec![branch]).validate().unwrap_err();
        assert!(matches!(error, ValidateError::Undefined { value, .. } if value == "ghost"));
    }

    #[test]
    fn nesting_beyond_the_bound_is_refused() {
        let mut nested = graph(vec![node("Abs", &["x"], &["y"])]);
        for _ in 0..=MAX_SUBGRAPH_DEPTH {
            let mut branch = node("If", &["x"], &["y"]);
            branch.attributes.insert("then_branch".into(), nested.into());
            nested = graph(vec![branch]);
        }
        assert!(matches!(nested.validate(), Err(ValidateError::TooDeep { .. })));
    }
}
