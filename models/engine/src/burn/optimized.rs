//! Graphs as they are run: optimized, in a copy.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hedge_graph::passes::{Options, Report, optimize};
use hedge_graph::{Graph, Node, ValueInfo};
use hedge_tensor::Tensor;

use super::prepare::Preparation;
use super::{Context, Program};
use crate::PrepareError;
use crate::check::require_all;

/// The graph that the executor runs on the CPU in place of `graph`, and what was done to it. The copy shares the weights.
pub fn optimized(graph: &Graph) -> (Graph, Report) {
    let mut copy = graph.clone();
    let report = optimize(&mut copy, &options(true));
    (copy, report)
}

/// Prepares the optimized graph; one with missing operators is refused before anything is done to it.
pub(super) fn prepare(mut graph: Graph, context: &Context) -> Result<Program, PrepareError> {
    require_all(&graph)?;
    optimize(&mut graph, &options(context.is_plain_cpu()));
    let weights = std::mem::take(&mut graph.initializers);
    Preparation::of_model(&graph, weights, context)
}

/// Without `integers` quantized layers stay floats: integers are computed on the host, which a GPU would wait for.
fn options(integers: bool) -> Options<'static> {
    Options { evaluate: Some(&evaluate), integers }
}

/// Computes one node on the CPU from constants; what fails is left for the run, which says why.
fn evaluate(graph: &Graph, node: &Node, inputs: &[Option<&Tensor>]) -> Option<Vec<Tensor>> {
    let given = node.inputs.iter().zip(inputs).filter_map(|(name, tensor)| Some((name.clone(), (*tensor)?.clone())));
    let made = node.outputs.iter().filter(|name| !name.is_empty());
    let alone = Graph {
        initializers: given.collect(),
        outputs: made.map(|name| ValueInfo { name: name.clone(), dtype: None, shape: None }).collect(),
        nodes: vec![node.clone()],
        opset: graph.opset,
        ..Graph::default()
    };
    let host = Context::host();
    let run = || {
        let values = Program::prepare(&alone, &host).ok()?.run(&host, Vec::new()).ok()?;
        values.into_iter().map(|value| value.into_host().ok()).collect::<Option<Vec<Tensor>>>()
    };
    let mut values = catch_unwind(AssertUnwindSafe(run)).ok().flatten()?.into_iter();
    // An output that nobody takes gets no value of its own; its place must be kept.
    node.outputs.iter().map(|name| if name.is_empty() { Some(Tensor::scalar(0i64)) } else { values.next() }).collect()
}
