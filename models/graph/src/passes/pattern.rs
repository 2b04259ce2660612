//! What the recognising passes have in common: a pattern ends in one node, which is replaced where it stands; the nodes
//! before it, whose values nobody else takes, die.

use std::collections::BTreeMap;

use hedge_tensor::Tensor;

use super::absorb::Scaling;
use super::scan::{Scan, input, is};
use crate::names::HashSet;
use crate::{Graph, Node};

/// What takes the place of a pattern.
pub(super) struct Rewrite {
    /// Replaces the pattern's last node; it makes the same value.
    pub(super) node: Node,
    /// New constants, under names that are free.
    pub(super) constants: Vec<(String, Tensor)>,
    /// A constant in place of another one.
    pub(super) scaled: Option<Scaled>,
    /// The pattern's other nodes.
    pub(super) consumed: Vec<usize>,
}

impl Rewrite {
    /// One without new constants.
    pub(super) fn of(node: Node, consumed: Vec<usize>) -> Self {
        Rewrite { node, constants: Vec::new(), scaled: None, consumed }
    }
}

/// A constant that is another one, channel by channel times a factor.
pub(super) struct Scaled {
    /// A name that is free.
    pub(super) name: String,
    pub(super) from: String,
    /// Whether nobody else takes it: then it is scaled where it lies.
    pub(super) alone: bool,
    pub(super) scaling: Scaling,
}

/// A kind of pattern: what takes the place of one that ends in this node.
pub(super) type Matcher = fn(&Scan<'_>, usize) -> Option<Rewrite>;

/// Replaces each pattern that `matched` finds to end at a node; returns how many.
pub(super) fn rewrite(graph: &mut Graph, matched: impl Fn(&Scan<'_>, usize) -> Option<Rewrite>) -> usize {
    let found = find(&Scan::new(graph), matched);
    replace(graph, found)
}

/// Replaces the patterns of the first of these kinds that there are any of; says which kind, and how many. One scan serves all
/// kinds that are not there, which are most of them in most models.
pub(super) fn rewrite_first(graph: &mut Graph, kinds: &[Matcher]) -> Option<(usize, usize)> {
    let scan = Scan::new(graph);
    let found = kinds.iter().map(|matched| find(&scan, matched)).enumerate().find(|(_, found)| !found.is_empty());
    found.map(|(kind, found)| (kind, replace(graph, found)))
}

fn find(scan: &Scan<'_>, matched: impl Fn(&Scan<'_>, usize) -> Option<Rewrite>) -> Vec<(usize, Rewrite)> {
    let mut touched = HashSet::default();
    let mut rewrites = Vec::new();
    for index in 0..scan.graph.nodes.len() {
        let Some(found) = matched(scan, index) else { continue };
        // Patterns that share a node wait for the next round.
        if touched.contains(&index) || found.consumed.iter().any(|node| touched.contains(node)) {
            continue;
        }
        touched.insert(index);
        touched.extend(found.consumed.iter().copied());
        rewrites.push((index, found));
    }
    rewrites
}

/// Puts the rewrites where they belong; returns how many.
fn replace(graph: &mut Graph, rewrites: Vec<(usize, Rewrite)>) -> usize {
    let count = rewrites.len();
    for (index, found) in rewrites {
        graph.initializers.extend(found.constants);
        if let Some(scaled) = found.scaled {
            scaled.put_into(&mut graph.initializers);
        }
        graph.nodes[index] = found.node;
    }
    if count > 0 {
        super::dead_nodes(graph);
    }
    count
}

impl Scaled {
    fn put_into(self, constants: &mut BTreeMap<String, Tensor>) {
        let weight = if self.alone { constants.remove(&self.from) } else { constants.get(&self.from).cloned() };
        let scaled = weight.map(|weight| weight.changed(|values| self.scaling.apply(values)));
        if let Some(Ok(scaled)) = scaled {
            constants.insert(self.name, scaled);
        }
    }
}

/// The two inputs of a node of the operator `op`, in either order.
pub(super) fn either<'g>(node: &'g Node, op: &str) -> [(&'g str, &'g str); 2] {
    let pair = if is(node, op) { (input(node, 0), input(node, 1)) } else { ("", "") };
    [pair, (pair.1, pair.0)]
}

/// A product as its factors: numbers multiplied together, and values. Products that others take, too, are values.
pub(super) struct Product<'g> {
    pub(super) number: f64,
    pub(super) values: Vec<&'g str>,
    pub(super) nodes: Vec<usize>,
}

/// No pattern has more factors.
const MAX_FACTORS: usize = 6;

impl<'g> Product<'g> {
    /// The factors of what the node `index` makes; none where it is no product.
    pub(super) fn of(scan: &Scan<'g>, index: usize) -> Option<Self> {
        let mut product = Product { number: 1.0, values: Vec::new(), nodes: Vec::new() };
        product.add_node(scan, index, &scan.graph.nodes[index]).then_some(product)
    }

    /// The factors of a value that one node alone takes.
    pub(super) fn of_value(scan: &Scan<'g>, value: &str) -> Option<Self> {
        let (index, _) = scan.maker(value).filter(|_| scan.has_one_taker(value))?;
        Product::of(scan, index)
    }

    fn add_node(&mut self, scan: &Scan<'g>, index: usize, node: &'g Node) -> bool {
        let divisor = is(node, "Div").then(|| scan.plain_scalar(input(node, 1))).flatten();
        if let Some(divisor) = divisor.filter(|divisor| *divisor != 0.0) {
            self.nodes.push(index);
            self.number /= divisor;
            return self.add_value(scan, input(node, 0));
        }
        if !is(node, "Mul") || self.values.len() > MAX_FACTORS {
            return false;
        }
        self.nodes.push(index);
        self.add_value(scan, input(node, 0)) && self.add_value(scan, input(node, 1))
    }

    fn add_value(&mut self, scan: &Scan<'g>, value: &'g str) -> bool {
        if let Some(number) = scan.plain_scalar(value) {
            self.number *= number;
            return true;
        }
        let inner = scan.maker(value).filter(|_| scan.has_one_taker(value) && self.nodes.len() < MAX_FACTORS);
        if let Some((index, node)) = inner {
            let (number, values, nodes) = (self.number, self.values.len(), self.nodes.len());
            if self.add_node(scan, index, node) {
                return true;
            }
            self.number = number;
            self.values.truncate(values);
            self.nodes.truncate(nodes);
        }
        self.values.push(value);
        self.values.len() <= MAX_FACTORS
    }
}

/// Whether a number from a file is the constant meant, written in 16 bits or more.
pub(super) fn is_about(number: f64, meant: f64) -> bool {
    (number - meant).abs() <= 1e-3 * meant.abs()
}
