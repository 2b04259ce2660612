//! Numbers that an exporter wrote with dimensions, as `[1, 1, 1]`.

use hedge_tensor::Tensor;

use super::scan::{Scan, input, is};
use crate::names::HashMap;
use crate::{Graph, Node};

/// Where both sides of an operator are broadcast alike.
const ARITHMETIC: [&str; 5] = ["Add", "Sub", "Mul", "Div", "Pow"];

/// Gives arithmetic a constant of one element without its dimensions, where these add none to the result; returns how often.
/// What the recognising passes look for is a plain number, and an executor broadcasts none.
pub fn flatten_scalars(graph: &mut Graph) -> usize {
    let scan = Scan::new(graph);
    let mut plain: HashMap<&str, (String, Tensor)> = HashMap::default();
    let mut places = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate().filter(|(_, node)| ARITHMETIC.iter().any(|op| is(node, op))) {
        for side in 0..2 {
            let Some(tensor) = superfluous_dimensions(&scan, node, side) else { continue };
            let value = input(node, side);
            let Ok(number) = tensor.clone().reshaped(Vec::new()) else { continue };
            let (name, _) = plain.entry(value).or_insert_with(|| (scan.fresh(value, "number"), number));
            places.push((index, side, name.clone()));
        }
    }
    let constants: Vec<(String, Tensor)> = plain.into_values().collect();
    graph.initializers.extend(constants);
    let count = places.len();
    for (index, side, name) in places {
        graph.nodes[index].inputs[side] = name;
    }
    count
}

/// The constant on this side of the node, where it is one element with dimensions that the other side, which is computed, has as
/// well. One dimension is as good as none to whoever looks for a number.
fn superfluous_dimensions<'g>(scan: &Scan<'g>, node: &Node, side: usize) -> Option<&'g Tensor> {
    let tensor = scan.constant(input(node, side)).filter(|tensor| tensor.len() == 1)?;
    let (rank, other) = (tensor.shape().len(), input(node, 1 - side));
    (rank > 1 && scan.constant(other).is_none() && rank <= scan.rank(other)?).then_some(tensor)
}
