//! Recurrent networks.

use super::fact::{Call, Fact, Rule};
use super::number::Number;
use crate::Dim;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "LSTM" | "GRU" | "RNN" => recurrent,
        _ => return None,
    })
}

/// All states `[length, directions, batch, hidden]`, then the last ones `[directions, batch, hidden]`.
fn recurrent(call: &Call<'_>) -> Option<Vec<Fact>> {
    let hidden = match (call.node.attributes.contains_key("hidden_size"), call.shape(2)) {
        (true, _) => Number::Known(call.node.int("hidden_size", 0)).dim(),
        (false, Some([.., last])) => last.clone(),
        _ => Dim::Unknown,
    };
    let directions = Dim::Known(if call.node.string("direction") == Some("bidirectional") { 2 } else { 1 });
    let (first, second) = match call.shape(0) {
        Some([first, second, _]) => (first.clone(), second.clone()),
        _ => (Dim::Unknown, Dim::Unknown),
    };
    let (all, last) = if call.node.int("layout", 0) == 0 {
        (vec![first, directions.clone(), second.clone(), hidden.clone()], vec![directions, second, hidden])
    } else {
        (vec![first.clone(), second, directions.clone(), hidden.clone()], vec![first, directions, hidden])
    };
    let fact = |dims: &Vec<Dim>| Fact::new(call.dtype(0), Some(dims.clone()));
    Some(vec![fact(&all), fact(&last), fact(&last)])
}
