//! Nodes with bodies.

use super::fact::Fact;
use super::{Scope, infer_graph};
use crate::{Attribute, Dim, Graph, Node};

/// Infers the bodies of a node, and what their outputs say of the node's.
pub(super) fn infer(node: &mut Node, scope: &Scope<'_>, known: &[Fact]) -> Vec<Fact> {
    match node.op.as_str() {
        "If" => {
            let mut branches = bodies(node).map(|body| infer_graph(body, Some(scope), &[]));
            let first = branches.next().unwrap_or_default();
            let second = branches.next().unwrap_or_default();
            first.into_iter().zip(&second).map(|(a, b)| a.and(b)).collect()
        }
        "Loop" => {
            // What a loop carries may change its shape from turn to turn, so only types are taken in.
            let counter = Fact::new(Some(hedge_tensor::DType::I64), Some(Vec::new()));
            let condition = Fact::new(Some(hedge_tensor::DType::Bool), Some(Vec::new()));
            let carried = known.iter().skip(2).map(|fact| Fact::new(fact.dtype, None));
            let given: Vec<Fact> = [counter, condition].into_iter().chain(carried).collect();
            let states = known.len().saturating_sub(2);
            let results = bodies(node).next().map(|body| infer_graph(body, Some(scope), &given)).unwrap_or_default();
            let result =
                |(index, fact): (usize, Fact)| if index < states { carried_fact(&fact) } else { stacked(fact) };
            results.into_iter().skip(1).enumerate().map(result).collect()
        }
        _ => {
            bodies(node).for_each(|body| {
                infer_graph(body, Some(scope), &[]);
            });
            Vec::new()
        }
    }
}

fn bodies(node: &mut Node) -> impl Iterator<Item = &mut Graph> {
    node.attributes.values_mut().filter_map(|attribute| match attribute {
        Attribute::Graph(body) => Some(body.as_mut()),
        _ => None,
    })
}

fn carried_fact(fact: &Fact) -> Fact {
    Fact::new(fact.dtype, None)
}

/// One element for each turn.
fn stacked(fact: Fact) -> Fact {
    let shape = fact.shape.map(|shape| std::iter::once(Dim::Unknown).chain(shape).collect());
    Fact::new(fact.dtype, shape)
}
