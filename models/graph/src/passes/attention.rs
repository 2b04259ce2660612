//! Attention written out (Vaswani et al., 2017): `softmax(q k scale + mask) v`.
//!
//! `hedge.Attention` takes `q [batch, heads, queries, size]`, `k` with its last two dimensions exchanged as the product took
//! it, `v`, and optionally a mask that is added to the scores. The executor falls back to the steps written out where the
//! shapes of a run are others, so that nothing has to be known here.

use super::DOMAIN;
use super::pattern::{Rewrite, either, is_about};
use super::scan::{Scan, input, is};
use crate::{Attribute, Node};

/// Puts `hedge.Attention` in the place of a written-out attention.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let root = &scan.graph.nodes[index];
    if !is(root, "MatMul") {
        return None;
    }
    let (softmax, node) = scan.only(input(root, 0), "Softmax").filter(|(_, node)| is_over_last(scan, node))?;
    let plain = Scores::of(scan, input(node, 0), None);
    let scores = plain.or_else(|| masked(scan, input(node, 0)))?;
    let mut inputs = vec![scores.q.to_owned(), scores.k.to_owned(), input(root, 1).to_owned()];
    inputs.extend(scores.mask.map(str::to_owned));
    let node = Node {
        name: root.name.clone(),
        op: "Attention".to_owned(),
        domain: DOMAIN.to_owned(),
        inputs,
        outputs: root.outputs.clone(),
        attributes: [("scale".to_owned(), Attribute::Float(scores.scale as f32))].into(),
    };
    let consumed = scores.nodes.into_iter().chain([softmax]).collect();
    Some(Rewrite::of(node, consumed))
}

struct Scores<'g> {
    q: &'g str,
    k: &'g str,
    scale: f64,
    mask: Option<&'g str>,
    nodes: Vec<usize>,
}

impl<'g> Scores<'g> {
    /// A product of matrices, scaled or not.
    fn of(scan: &Scan<'g>, value: &'g str, mask: Option<&'g str>) -> Option<Self> {
        let (scale, product, mut nodes) = unscaled(scan, value).unwrap_or((1.0, value, Vec::new()));
        let (index, node) = scan.only(product, "MatMul")?;
        // Weights as keys or queries are a layer of their own kind.
        let weights = node.inputs.iter().any(|name| scan.constant(name).is_some());
        nodes.push(index);
        (!weights).then(|| Scores { q: input(node, 0), k: input(node, 1), scale, mask, nodes })
    }
}

fn masked<'g>(scan: &Scan<'g>, value: &'g str) -> Option<Scores<'g>> {
    let (sum, node) = scan.only(value, "Add")?;
    let mut scores = either(node, "Add").into_iter().find_map(|(a, mask)| Scores::of(scan, a, Some(mask)))?;
    scores.nodes.push(sum);
    Some(scores)
}

fn unscaled<'g>(scan: &Scan<'g>, value: &str) -> Option<(f64, &'g str, Vec<usize>)> {
    if let Some((index, node)) = scan.only(value, "Div") {
        let divisor = scan.plain_scalar(input(node, 1)).filter(|divisor| !is_about(*divisor, 0.0))?;
        return Some((1.0 / divisor, input(node, 0), vec![index]));
    }
    let (index, node) = scan.only(value, "Mul")?;
    let pairs = either(node, "Mul").into_iter();
    let (scale, rest) = pairs.filter_map(|(number, rest)| Some((scan.plain_scalar(number)?, rest))).next()?;
    Some((scale, rest, vec![index]))
}

fn is_over_last(scan: &Scan<'_>, node: &Node) -> bool {
    let axis = node.int("axis", if scan.graph.opset < 13 { 1 } else { -1 });
    axis == -1 || scan.rank(input(node, 0)).is_some_and(|rank| axis + 1 == rank as i64)
}
