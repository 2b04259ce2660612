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
mod scan;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use absorb::fuse_channel_constants;
pub use attention::recognise_attention;
pub use batch_norm::fuse_batch_norm;
pub use bounds::fuse_bounds;
pub use common::share_common_nodes;
pub(crate) use constants::constant_of;
pub use constants::{Evaluate, fold_constants, lift_constants};
pub use dead::dead_nodes;
pub use gelu::recognise_gelu;
pub use layer_norm::recognise_layer_norm;
pub use noop::remove_no_ops;
pub use one_hot::recognise_one_hot_products;
pub use quantized::fuse_quantized_groups;
pub use rms_norm::recognise_rms_norm;

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

    fn add(&mut self, pass: &'static str, count: usize) {
        if count > 0 {
            *self.counts.entry(pass).or_default() += count;
        }
    }
}

type Pass = (&'static str, fn(&mut Graph) -> usize);

const PASSES: [Pass; 12] = [
    ("no-ops", remove_no_ops),
    ("common nodes", share_common_nodes),
    ("BatchNorm", fuse_batch_norm),
    ("channel constants", fuse_channel_constants),
    ("bounds", fuse_bounds),
    ("GELU", recognise_gelu),
    ("LayerNorm", recognise_layer_norm),
    ("RMSNorm", recognise_rms_norm),
    ("attention", recognise_attention),
    ("one-hot products", recognise_one_hot_products),
    ("no-ops", remove_no_ops),
    ("dead nodes", dead_nodes),
];

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
        for (name, pass) in PASSES {
            let count = pass(graph);
            report.add(name, count);
        }
        if report.total() == before {
            break;
        }
    }
    report
}
