//! LayerNorm written out (Ba, Kiros and Hinton, 2016): `d = x - mean(x)`, `d / sqrt(mean(d^2) + eps) * scale + bias` over the
//! last dimension.

use super::DOMAIN;
use super::pattern::{Rewrite, either};
use super::scan::{Scan, input, is};
use crate::{Attribute, Node};

/// Puts `hedge.LayerNormalization` in the place of a written-out one.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let root = &scan.graph.nodes[index];
    let (bias, scaled) = vector_beside(scan, root, "Add")?;
    let (scale_node, node) = scan.only(scaled, "Mul")?;
    let (scale, normal) = vector_beside(scan, node, "Mul")?;
    let (quotient, node) = scan.only(normal, "Div")?;
    let (centered, deviation) = (input(node, 0), input(node, 1));
    let mut spread = Spread::of(scan, deviation)?;
    let (square, _) = scan.maker(spread.value)?;
    let (sub, node) = scan.maker(centered).filter(|(_, node)| is(node, "Sub"))?;
    // The centred value serves the square and the quotient, nobody else.
    let squared_takes = spread.squares(scan, centered)?;
    if scan.takers(centered) != squared_takes + 1 || scan.is_pinned(centered) {
        return None;
    }
    let (mean, mean_node) = scan.only(input(node, 1), "ReduceMean")?;
    let x = input(node, 0);
    if input(mean_node, 0) != x || !is_over_last(scan, mean_node) {
        return None;
    }
    let same_size = scan.constant(scale)?.shape() == scan.constant(bias)?.shape();
    spread.nodes.extend([scale_node, quotient, square, sub, mean]);
    let inputs = vec![x.to_owned(), scale.to_owned(), bias.to_owned()];
    same_size.then(|| replaced(root, "LayerNormalization", inputs, spread))
}

/// `sqrt(mean(square) + epsilon)`.
pub(super) struct Spread<'g> {
    pub(super) epsilon: f64,
    /// The squares that the mean is of.
    pub(super) value: &'g str,
    pub(super) nodes: Vec<usize>,
}

impl<'g> Spread<'g> {
    pub(super) fn of(scan: &Scan<'g>, deviation: &str) -> Option<Self> {
        let (root, node) = match scan.only(deviation, "Sqrt") {
            Some(found) => found,
            None => scan.only(deviation, "Pow").filter(|(_, node)| scan.plain_scalar(input(node, 1)) == Some(0.5))?,
        };
        let (sum, node) = scan.only(input(node, 0), "Add")?;
        let pairs = either(node, "Add").into_iter();
        let (epsilon, mean) = pairs.filter_map(|(a, b)| Some((scan.plain_scalar(a)?, b))).next()?;
        let (reduce, node) = scan.only(mean, "ReduceMean").filter(|(_, node)| is_over_last(scan, node))?;
        Some(Spread { epsilon, value: input(node, 0), nodes: vec![root, sum, reduce] })
    }

    /// How often the square takes `x`; none where it is not the square of it, or serves others, too.
    pub(super) fn squares(&self, scan: &Scan<'_>, x: &str) -> Option<usize> {
        let (_, node) = scan.maker(self.value).filter(|_| scan.has_one_taker(self.value))?;
        if is(node, "Pow") && input(node, 0) == x && scan.plain_scalar(input(node, 1)) == Some(2.0) {
            return Some(1);
        }
        (is(node, "Mul") && input(node, 0) == x && input(node, 1) == x).then_some(2)
    }
}

/// The node that makes what the pattern's last one made.
pub(super) fn replaced(root: &Node, op: &str, inputs: Vec<String>, spread: Spread<'_>) -> Rewrite {
    let attributes =
        [("axis".to_owned(), Attribute::Int(-1)), ("epsilon".to_owned(), Attribute::Float(spread.epsilon as f32))];
    let node = Node {
        name: root.name.clone(),
        op: op.to_owned(),
        domain: DOMAIN.to_owned(),
        inputs,
        outputs: root.outputs.clone(),
        attributes: attributes.into(),
    };
    Rewrite::of(node, spread.nodes)
}

/// The input of a node `op` that is a constant of one dimension, and the other input.
pub(super) fn vector_beside<'g>(scan: &Scan<'g>, node: &'g Node, op: &str) -> Option<(&'g str, &'g str)> {
    let is_vector = |name: &str| scan.constant(name).is_some_and(|tensor| tensor.shape().len() == 1);
    either(node, op).into_iter().find(|(vector, other)| is_vector(vector) && !other.is_empty() && !is_vector(other))
}

/// Whether the node reduces the last dimension and keeps it as 1. A positive axis needs the rank to say so.
fn is_over_last(scan: &Scan<'_>, node: &Node) -> bool {
    let axes = node.ints("axes").map(<[i64]>::to_vec).or_else(|| scan.ints(input(node, 1)));
    let Some(&[axis]) = axes.as_deref() else { return false };
    let last = axis == -1 || scan.rank(input(node, 0)).is_some_and(|rank| axis + 1 == rank as i64);
    last && node.int("keepdims", 1) != 0
}
