//! Passes: rewrites of a graph that leave its results as they are.
//!
//! They are for running a model, never for keeping it: an executor runs them on its own copy, training does without, and
//! nothing writes an optimized graph back to a user's file. Operators that stand for recognised patterns live in the
//! domain `hedge` ([`DOMAIN`]) whatever the model's operator set, and only executors of Hedge know them.
//!
//! What every pass keeps: the names, types and order of inputs and outputs; values that a body captures; a value that
//! somebody else takes, too. Weights are shared, not copied, unless a pass computes new ones. Each pass looks at each node a
//! bounded number of times, with maps from values to their makers and takers.
//!
//! Not here, because the executor does not gain: other activations than bounds into convolutions, transpositions into products (burn's are views that its product takes as they are), biases into
//! `MatMul` (burn adds them in a step of their own).

mod absorb;
mod attention;
mod batch_norm;
mod bounds;
mod common;
mod constants;
mod dead;
mod gelu;
mod layer_norm;
mod noop;
mod one_hot;
mod pattern;
mod quantized;
mod rms_norm;
mod scalars;
mod scan;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use common::share_common_nodes;
pub(crate) use constants::constant_of;
pub use constants::{Evaluate, fold_constants, lift_constants};
pub use dead::dead_nodes;
pub use noop::remove_no_ops;
pub use quantized::fuse_quantized_groups;
pub use scalars::flatten_scalars;

use self::pattern::Matcher;
use crate::Graph;

/// The domain of the operators that passes make.
pub const DOMAIN: &str = "hedge";

/// The passes run at most this often: one pass makes work for another a few times, and a hostile graph may ask for more.
const MAX_ROUNDS: usize = 4;

/// What [`optimize`] does.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Computes nodes whose inputs are all constants; without it none is computed.
    pub evaluate: Option<&'a Evaluate<'a>>,
    /// Computes quantized layers in integers: for executors that have these operators where they run.
    pub integers: bool,
}

/// How often each pass changed something, by its name; passes that changed nothing are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The counts.
    pub counts: BTreeMap<&'static str, usize>,
}

impl Report {
    /// The number of all changes.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    fn run(&mut self, passes: &[Pass], graph: &mut Graph) {
        for (name, pass) in passes {
            let count = pass(graph);
            self.add(name, count);
        }
    }

    /// Each kind of pattern once.
    fn rewrite(&mut self, graph: &mut Graph) {
        let kinds = PATTERNS.map(|(_, matched)| matched);
        let mut next = 0;
        while let Some((kind, count)) = pattern::rewrite_first(graph, &kinds[next..]) {
            self.add(PATTERNS[next + kind].0, count);
            next += kind + 1;
        }
    }

    fn add(&mut self, pass: &'static str, count: usize) {
        if count > 0 {
            *self.counts.entry(pass).or_default() += count;
        }
    }
}

type Pass = (&'static str, fn(&mut Graph) -> usize);

/// What makes a graph plainer, so that patterns are found.
const PLAINER: [Pass; 3] =
    [("no-ops", remove_no_ops), ("scalars", flatten_scalars), ("common nodes", share_common_nodes)];

/// Patterns of nodes, each with what one node in their place is called, in the order in which they are looked for.
const PATTERNS: [(&str, Matcher); 8] = [
    ("BatchNorm", batch_norm::matched),
    ("channel constants", absorb::matched),
    ("bounds", bounds::matched),
    ("GELU", gelu::matched),
    ("LayerNorm", layer_norm::matched),
    ("RMSNorm", rms_norm::matched),
    ("attention", attention::matched),
    ("one-hot products", one_hot::matched),
];

/// What patterns leave behind.
const REST: [Pass; 2] = [("no-ops", remove_no_ops), ("dead nodes", dead_nodes)];

/// Runs all passes until none finds anything more. A valid graph stays valid; a second call changes nothing.
pub fn optimize(graph: &mut Graph, options: &Options<'_>) -> Report {
    let mut report = Report::default();
    report.add("constants", lift_constants(graph));
    report.add("dead nodes", dead_nodes(graph));
    if options.integers {
        // Before weights are dequantized ahead of time.
        report.add("quantized groups", fuse_quantized_groups(graph));
    }
    for _ in 0..MAX_ROUNDS {
        let before = report.total();
        crate::infer::infer_shapes(graph);
        if let Some(evaluate) = options.evaluate {
            report.add("constants", fold_constants(graph, evaluate));
        }
        report.run(&PLAINER, graph);
        report.rewrite(graph);
        report.run(&REST, graph);
        if report.total() == before {
            break;
        }
    }
    report
}
