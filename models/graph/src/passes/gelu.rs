//! GELU as exporters write it out (Hendrycks and Gimpel, 2016): `0.5 u (1 + erf(u / sqrt 2))`, or the same with
//! `tanh(sqrt(2 / pi) (u + 0.044715 u^3))`, the factors in any order.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use super::DOMAIN;
use super::pattern::{Product, Rewrite, either, is_about};
use super::scan::{Scan, input, is};
use crate::{Attribute, Node};

/// Puts `hedge.Gelu` in the place of a written-out GELU.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let product = Product::of(scan, index)?;
    let &[a, b] = product.values.as_slice() else { return None };
    if !is_about(product.number, 0.5) {
        return None;
    }
    let (x, curve) = [(a, b), (b, a)].into_iter().find_map(|(x, bent)| Some((x, curve(scan, x, bent)?)))?;
    let consumed = product.nodes.into_iter().chain(curve.nodes).filter(|&node| node != index).collect();
    let root = &scan.graph.nodes[index];
    let node = Node {
        name: root.name.clone(),
        op: "Gelu".to_owned(),
        domain: DOMAIN.to_owned(),
        inputs: vec![x.to_owned()],
        outputs: root.outputs.clone(),
        attributes: [("approximate".to_owned(), Attribute::from(curve.approximate))].into(),
    };
    Some(Rewrite::of(node, consumed))
}

struct Curve {
    approximate: &'static str,
    nodes: Vec<usize>,
}

/// Whether `bent` is `1 + erf(…x…)` or `1 + tanh(…x…)`.
fn curve(scan: &Scan<'_>, x: &str, bent: &str) -> Option<Curve> {
    let (sum, node) = scan.only(bent, "Add")?;
    let value = either(node, "Add").into_iter().find(|(one, _)| scan.plain_scalar(one) == Some(1.0))?.1;
    if let Some((erf, node)) = scan.only(value, "Erf") {
        let inner = Product::of_value(scan, input(node, 0))?;
        let fits = is_about(inner.number, FRAC_1_SQRT_2) && inner.values == [x];
        let nodes = [sum, erf].into_iter().chain(inner.nodes).collect();
        return fits.then_some(Curve { approximate: "none", nodes });
    }
    let (tanh, node) = scan.only(value, "Tanh")?;
    let inner = Product::of_value(scan, input(node, 0))?;
    let &[polynomial] = inner.values.as_slice() else { return None };
    if !is_about(inner.number, FRAC_2_PI.sqrt()) {
        return None;
    }
    let (add, node) = scan.only(polynomial, "Add")?;
    let cubic = either(node, "Add").into_iter().find(|(first, _)| *first == x)?.1;
    let cubic = Product::of_value(scan, cubic).filter(|cubic| is_about(cubic.number, 0.044_715))?;
    let power = cube(scan, &cubic.values, x)?;
    let nodes = [sum, tanh, add].into_iter().chain(inner.nodes).chain(cubic.nodes).chain(power).collect();
    Some(Curve { approximate: "tanh", nodes })
}

/// The nodes of `x` to the power of 3, beside the products they stand in.
fn cube(scan: &Scan<'_>, values: &[&str], x: &str) -> Option<Vec<usize>> {
    if values == [x, x, x] {
        return Some(Vec::new());
    }
    let &[value] = values else { return None };
    let (power, node) = scan.only(value, "Pow")?;
    let fits = is(node, "Pow") && input(node, 0) == x && scan.plain_scalar(input(node, 1)) == Some(3.0);
    fits.then(|| vec![power])
}
