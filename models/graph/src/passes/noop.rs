//! Nodes that give back what they take.

use super::scan::{Scan, input, is, output};
use crate::names::HashMap;
use crate::{Attribute, Dim, Graph, Node};

/// Removes nodes that change nothing and joins chains of transpositions and reshapes; returns how many.
pub fn remove_no_ops(graph: &mut Graph) -> usize {
    let joined = join_chains(graph);
    let scan = Scan::new(graph);
    let mut same: HashMap<String, String> = HashMap::default();
    let mut renamed: HashMap<String, String> = HashMap::default();
    for node in &graph.nodes {
        let (Some(made), true) = (output(node), is_no_op(&scan, node)) else { continue };
        let source = input(node, 0);
        if !scan.is_pinned(made) {
            let source = same.get(source).map_or(source, String::as_str).to_owned();
            same.insert(made.to_owned(), source);
        } else if can_be_renamed(&scan, source) && !same.contains_key(source) && is_output(graph, made) {
            renamed.insert(source.to_owned(), made.to_owned());
        }
    }
    // A value that gets an output's name must not be one that others were sent to under its old name.
    renamed.retain(|source, _| !same.values().any(|target| target == source));
    let count = redirect(graph, &same) + rename(graph, &renamed);
    joined + count
}

/// Sends the takers of each value of `same` to the value it stands for; the maker is left idle and removed.
pub(super) fn redirect(graph: &mut Graph, same: &HashMap<String, String>) -> usize {
    if same.is_empty() {
        return 0;
    }
    for name in graph.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
        if let Some(target) = same.get(name) {
            name.clone_from(target);
        }
    }
    super::dead_nodes(graph);
    same.len()
}

/// Lets the makers of the values make an output under its own name, in place of the node that only passed it on.
fn rename(graph: &mut Graph, renamed: &HashMap<String, String>) -> usize {
    if renamed.is_empty() {
        return 0;
    }
    graph.nodes.retain(|node| {
        let passes_on = |source: &String| renamed.get(source).is_some_and(|name| node.outputs.first() == Some(name));
        !node.inputs.first().is_some_and(passes_on)
    });
    for name in graph.nodes.iter_mut().flat_map(|node| &mut node.outputs) {
        if let Some(target) = renamed.get(name) {
            name.clone_from(target);
        }
    }
    graph.values.retain(|value| !renamed.contains_key(&value.name));
    renamed.len()
}

fn can_be_renamed(scan: &Scan<'_>, value: &str) -> bool {
    scan.maker(value).is_some() && scan.has_one_taker(value)
}

fn is_output(graph: &Graph, value: &str) -> bool {
    graph.outputs.iter().filter(|output| output.name == value).count() == 1
}

fn is_no_op(scan: &Scan<'_>, node: &Node) -> bool {
    if !(node.domain.is_empty() || node.domain == "ai.onnx") || input(node, 0).is_empty() {
        return false;
    }
    let x = input(node, 0);
    match node.op.as_str() {
        "Identity" => true,
        "Dropout" => input(node, 2).is_empty() || is_false(scan, input(node, 2)),
        "Cast" => {
            let to = i32::try_from(node.int("to", 0)).ok().and_then(hedge_tensor::DType::from_onnx_code);
            to.is_some() && scan.dtype(x) == to
        }
        "Transpose" => node.ints("perm").is_some_and(|order| order.iter().copied().eq(0..order.len() as i64)),
        "Reshape" | "Flatten" | "Expand" | "Squeeze" | "Slice" => keeps_shape(scan, node),
        "Pad" => pads_nothing(scan, node),
        "Mul" | "Div" => is_neutral(scan, node, 1.0),
        "Add" | "Sub" => is_neutral(scan, node, 0.0),
        "Concat" | "Sum" | "Max" | "Min" | "Mean" => node.inputs.len() == 1,
        _ => false,
    }
}

fn is_false(scan: &Scan<'_>, value: &str) -> bool {
    scan.constant(value).and_then(|tensor| tensor.to_bools().ok()).is_some_and(|values| values == [false])
}

/// Whether a node that only moves elements in their order gives the shape it takes. A slice may run backwards, so its
/// steps must be known.
fn keeps_shape(scan: &Scan<'_>, node: &Node) -> bool {
    let (Some(from), Some(to)) = (scan.shape(input(node, 0)), output(node).and_then(|made| scan.shape(made))) else {
        return false;
    };
    let steps = input(node, 4);
    let forward = steps.is_empty() || scan.ints(steps).is_some_and(|steps| steps.iter().all(|&step| step == 1));
    forward && from == to && from.iter().all(|dim| matches!(dim, Dim::Known(_)))
}

fn pads_nothing(scan: &Scan<'_>, node: &Node) -> bool {
    let given = node.ints("pads").map(<[i64]>::to_vec);
    let pads = given.or_else(|| scan.ints(input(node, 1)));
    pads.is_some_and(|pads| pads.iter().all(|&pad| pad == 0))
}

/// Whether the second input is a number that changes nothing. A first one is the business of no exporter seen.
fn is_neutral(scan: &Scan<'_>, node: &Node, number: f64) -> bool {
    let Some((value, rank)) = scan.scalar(input(node, 1)) else { return false };
    value == number && (rank == 0 || scan.rank(input(node, 0)).is_some_and(|of| of >= rank))
}

/// Lets the second of two transpositions or reshapes do the work of both.
fn join_chains(graph: &mut Graph) -> usize {
    let scan = Scan::new(graph);
    let mut changes = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let Some((_, before)) = scan.maker(input(node, 0)) else { continue };
        if is(node, "Transpose") && is(before, "Transpose") {
            if let (Some(first), Some(second)) = (before.ints("perm"), node.ints("perm"))
                && let Some(order) = composed(first, second)
            {
                changes.push((index, input(before, 0).to_owned(), Some(order)));
            }
        } else if is(node, "Reshape") && is(before, "Reshape") {
            let whole = scan.ints(input(node, 1)).is_some_and(|shape| !shape.contains(&0));
            if whole && node.int("allowzero", 0) == 0 {
                changes.push((index, input(before, 0).to_owned(), None));
            }
        }
    }
    let count = changes.len();
    // Later nodes first would see their makers unchanged; in order, a chain shortens from its front.
    for (index, source, order) in changes {
        let node = &mut graph.nodes[index];
        node.inputs[0] = source;
        if let Some(order) = order {
            node.attributes.insert("perm".to_owned(), Attribute::Ints(order));
        }
    }
    if count > 0 {
        super::dead_nodes(graph);
    }
    count
}

fn composed(first: &[i64], second: &[i64]) -> Option<Vec<i64>> {
    if first.len() != second.len() {
        return None;
    }
    second.iter().map(|&axis| first.get(usize::try_from(axis).ok()?).copied()).collect()
}
