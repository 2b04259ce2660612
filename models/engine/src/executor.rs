//! What an executor is: it prepares a graph for a device once, and runs it many times.

use std::time::{Duration, Instant};

use hedge_graph::Graph;
use hedge_tensor::Tensor;
use thiserror::Error;

use crate::Device;

/// Turns graphs into something that runs.
pub trait Executor: Send + Sync {
    /// The name that people choose it by.
    fn name(&self) -> &'static str;

    /// Does once all that need not be done at each call: resolves operators, folds constants, moves weights to `device`. Weights
    /// that nobody else holds are worked on where they lie, and freed as they are packed.
    fn prepare(&self, graph: Graph, device: &Device) -> Result<Box<dyn Runnable>, PrepareError>;
}

/// A prepared graph.
pub trait Runnable: Send {
    /// Runs the graph on `inputs`, which are in the order of the graph's inputs; outputs come in the order of the
    /// graph's outputs, and are complete when this returns (nothing is left in a device queue).
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError>;

    /// The labels of the nodes that ran on the CPU so far although the device is a GPU, because it lacks their type or
    /// operator; shape arithmetic does not count. Empty on the CPU.
    fn on_cpu(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs the graph once as [`Runnable::run`] does and measures each step until the device is done with it; a node with
    /// bodies is one step. Nodes that were computed at preparation have none.
    fn profile(&mut self, inputs: &[Tensor]) -> Result<Vec<StepTime>, RunError> {
        let started = Instant::now();
        self.run(inputs)?;
        Ok(vec![StepTime::of_all(started.elapsed())])
    }
}

/// How long one step of a run took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTime {
    /// The node's name.
    pub node: String,
    /// Its operator, with the domain.
    pub op: String,
    /// From the end of the step before to the end of this one.
    pub time: Duration,
}

impl StepTime {
    /// The time of a run whose steps are not known.
    pub(crate) fn of_all(time: Duration) -> Self {
        StepTime { node: "the whole graph".to_owned(), op: String::new(), time }
    }
}

/// Why a graph cannot be prepared.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum PrepareError {
    /// Operators that the executor does not know: all of them, each with its nodes.
    #[error("this model needs operators that are not supported: {}", list(.missing))]
    MissingOperators {
        /// Each missing operator and the names of the nodes that use it.
        missing: Vec<crate::OperatorUse>,
    },
    /// A node that asks for something its operator does not allow or that is not supported.
    #[error("node {node:?} ({op}): {why}")]
    Node {
        /// The node's name.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong with it.
        why: String,
    },
    /// The device did not open.
    #[error("the device {device} cannot be opened: {why}; use `--device cpu`")]
    Device {
        /// The device's label.
        device: String,
        /// The driver's words.
        why: String,
    },
}

/// Why a run gave no outputs.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RunError {
    /// A node's inputs do not fit its operator, or a shape came out wrong at run time.
    #[error("node {node:?} ({op}): {why}")]
    Node {
        /// The node's name.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong.
        why: String,
    },
    /// The inputs do not fit the model.
    #[error(transparent)]
    Input(#[from] crate::InputError),
    /// The executor or its driver panicked.
    #[error("the model panicked: {why}")]
    Panic {
        /// What it said.
        why: String,
    },
    /// The executor or its driver gave up.
    #[error("the device failed while running the model: {why}")]
    Device {
        /// What it said.
        why: String,
    },
}

fn list(missing: &[crate::OperatorUse]) -> String {
    let each: Vec<String> = missing.iter().map(ToString::to_string).collect();
    each.join(", ")
}
