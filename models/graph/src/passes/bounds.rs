//! Bounds on what a convolution gives (`Relu`, `Clip` with constant bounds), taken into it: a kernel applies them while the sums are
//! still in registers.

use hedge_tensor::{DType, Tensor};

use super::DOMAIN;
use super::pattern::Rewrite;
use super::scan::{Scan, input, is, output};
use crate::{Attribute, Node};

/// Puts `hedge.Conv`, whose outputs lie between its attributes `least` and `most` (either may be absent), in the place of a
/// convolution with a bound behind it.
pub(super) fn matched(scan: &Scan<'_>, index: usize) -> Option<Rewrite> {
    let root = &scan.graph.nodes[index];
    let bounds = Bounds::of(scan, root)?;
    let (maker, layer) = scan.only(input(root, 0), "Conv")?;
    output(layer)?;
    scan.constant(input(layer, 1)).filter(|weight| weight.dtype() == DType::F32)?;
    let mut node = Node { domain: DOMAIN.to_owned(), outputs: vec![output(root)?.to_owned()], ..layer.clone() };
    node.attributes.extend(bounds.attributes());
    Some(Rewrite::of(node, vec![maker]))
}

/// `min(max(x, least), most)`.
struct Bounds {
    least: Option<f32>,
    most: Option<f32>,
}

impl Bounds {
    /// Of single floats, whose layer the node follows.
    fn of(scan: &Scan<'_>, node: &Node) -> Option<Self> {
        if is(node, "Relu") {
            return Some(Bounds { least: Some(0.0), most: None });
        }
        if !is(node, "Clip") {
            return None;
        }
        if scan.graph.opset < 11 {
            let (least, most) = (node.float("min", f32::MIN), node.float("max", f32::MAX));
            return Some(Bounds { least: Some(least), most: Some(most) });
        }
        let bound = |index: usize| match input(node, index) {
            "" => Some(None),
            name => single(scan.constant(name)?).map(Some),
        };
        Some(Bounds { least: bound(1)?, most: bound(2)? })
    }

    fn attributes(self) -> impl Iterator<Item = (String, Attribute)> {
        let named = [("least", self.least), ("most", self.most)];
        named.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), Attribute::Float(bound?))))
    }
}

/// The element of a tensor that is one number; not a number is no bound.
fn single(tensor: &Tensor) -> Option<f32> {
    match tensor.to_vec::<f32>().ok()?.as_slice() {
        [bound] if !bound.is_nan() => Some(*bound),
        _ => None,
    }
}
