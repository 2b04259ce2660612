//! RMSNorm written out (Zhang and Sennrich, 2019): `x / sqrt(mean(x^2) + eps) * scale` over the last dimension.

use super::layer_norm::{Spread, replaced, vector_beside};
use super::pattern::{Rewrite, either};
use super::scan::{Scan, input, is};

/// Puts `hedge.RMSNormalization` in the place of a written-out one.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let root = &scan.graph.nodes[index];
    let (scale, normal) = vector_beside(scan, root, "Mul")?;
    let (quotient, node) = scan.maker(normal).filter(|_| scan.has_one_taker(normal))?;
    let (x, mut spread) = if is(node, "Div") {
        (input(node, 0), Spread::of(scan, input(node, 1))?)
    } else {
        either(node, "Mul").into_iter().find_map(|(x, inverse)| {
            let (reciprocal, node) = scan.only(inverse, "Reciprocal").or_else(|| one_by(scan, inverse))?;
            let divisor = if is(node, "Div") { input(node, 1) } else { input(node, 0) };
            let mut spread = Spread::of(scan, divisor)?;
            spread.nodes.push(reciprocal);
            Some((x, spread))
        })?
    };
    spread.squares(scan, x)?;
    let (square, _) = scan.maker(spread.value)?;
    spread.nodes.extend([quotient, square]);
    Some(replaced(root, "RMSNormalization", vec![x.to_owned(), scale.to_owned()], spread))
}

/// `1 / value`.
fn one_by<'g>(scan: &Scan<'g>, value: &str) -> Option<(usize, &'g crate::Node)> {
    scan.only(value, "Div").filter(|(_, node)| scan.plain_scalar(input(node, 0)) == Some(1.0))
}
