//! A graph as a list of steps over numbered slots.

use hedge_graph::Graph;

use super::ops::{BoxOp, Inputs, OpError, Place};
use super::prepare::Preparation;
use super::{Context, Value};
use crate::check::require_all;
use crate::{PrepareError, RunError};

/// Integer values with at most this many elements are computed on the host, next to the shapes that they usually are.
const HOST_ELEMENTS: usize = 4096;

/// A prepared graph, for one device.
pub(crate) struct Program {
    pub(super) steps: Vec<Step>,
    /// By slot; what is computed in a run has none.
    pub(super) constants: Vec<Option<Value>>,
    /// The slots of the graph's inputs, then those of the values that a body captures.
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<Source>,
    pub(super) host: Context,
}

/// One node's operator and where its values lie.
pub(super) struct Step {
    pub(super) node: String,
    pub(super) op: String,
    pub(super) run: BoxOp,
    /// Whether the device lacks the operator, or a type that the node makes.
    pub(super) needs_cpu: bool,
    pub(super) inputs: Vec<Option<Source>>,
    pub(super) outputs: Vec<Option<usize>>,
}

#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) slot: usize,
    /// Whether nothing later needs the value: then it is moved, and the operator may work in place.
    pub(super) last: bool,
}

impl From<usize> for Source {
    fn from(slot: usize) -> Self {
        Source { slot, last: false }
    }
}

impl Program {
    /// Prepares a graph as it is.
    pub(crate) fn prepare(graph: &Graph, context: &Context) -> Result<Program, PrepareError> {
        require_all(graph)?;
        Preparation::of_model(graph, graph.initializers.clone(), context)
    }

    /// Runs the steps on `inputs`, in the order of the graph's inputs; a body's captured values come behind them.
    pub(crate) fn run(&self, context: &Context, inputs: Vec<Value>) -> Result<Vec<Value>, RunError> {
        self.run_observed(context, inputs, |_, _| Ok(()))
    }

    /// The same; `after` is told the node and the operator of each step when it has run.
    pub(crate) fn run_observed(
        &self,
        context: &Context,
        inputs: Vec<Value>,
        mut after: impl FnMut(&str, &str) -> Result<(), RunError>,
    ) -> Result<Vec<Value>, RunError> {
        let mut slots = vec![None; self.constants.len()];
        for (&slot, value) in self.inputs.iter().zip(inputs) {
            slots[slot] = Some(value);
        }
        for step in &self.steps {
            let inputs =
                step.inputs.iter().map(|source| source.and_then(|source| self.read(source, &mut slots))).collect();
            let values = step.execute(context, &self.host, Inputs::new(inputs))?;
            for (slot, value) in step.outputs.iter().zip(values) {
                if let Some(slot) = *slot {
                    slots[slot] = Some(value);
                }
            }
            after(&step.node, &step.op)?;
        }
        let output = |&source: &Source| self.read(source, &mut slots).ok_or_else(|| missing_output(source.slot));
        self.outputs.iter().map(output).collect()
    }

    /// How many steps hand their work to burn's thread pool, however little it is.
    pub(super) fn steps_on_threads(&self) -> usize {
        let hands_over = |step: &&Step| match step.op.as_str() {
            "AveragePool" | "ConvTranspose" => true,
            // With constant weights it has a kernel that asks first, and no other input.
            "Conv" | "hedge.Conv" => step.inputs.len() > 1,
            _ => false,
        };
        self.steps.iter().filter(hands_over).count()
    }

    /// What was computed in this run, or a constant.
    fn read(&self, source: Source, slots: &mut [Option<Value>]) -> Option<Value> {
        let computed = if source.last { slots[source.slot].take() } else { slots[source.slot].clone() };
        computed.or_else(|| self.constants[source.slot].clone())
    }

    /// Notes where each value is used last, and which nobody uses.
    pub(super) fn mark_last_uses(&mut self) {
        let mut needed: Vec<bool> = self.constants.iter().map(Option::is_some).collect();
        let mut mark = |source: &mut Source| source.last = !std::mem::replace(&mut needed[source.slot], true);
        self.outputs.iter_mut().rev().for_each(&mut mark);
        for step in self.steps.iter_mut().rev() {
            step.inputs.iter_mut().rev().flatten().for_each(&mut mark);
        }
        for output in self.steps.iter_mut().flat_map(|step| &mut step.outputs) {
            *output = output.filter(|&slot| needed[slot]);
        }
    }

    /// A folded step's own inputs need no memory any more.
    pub(super) fn drop_unused_constants(&mut self) {
        let mut used = vec![false; self.constants.len()];
        let reads = self.steps.iter().flat_map(|step| step.inputs.iter().flatten());
        reads.chain(&self.outputs).for_each(|source| used[source.slot] = true);
        for (slot, used) in self.constants.iter_mut().zip(used) {
            if !used {
                *slot = None;
            }
        }
    }
}

impl Step {
    /// Runs the operator on the device, or on `host` where it belongs there or the device cannot run it.
    pub(super) fn execute(&self, context: &Context, host: &Context, inputs: Inputs) -> Result<Vec<Value>, RunError> {
        let fail = |error: OpError| error.of(&self.node, &self.op);
        let place = self.run.place();
        if place == Place::Within {
            return self.run.run(context, inputs).map_err(fail);
        }
        // A GPU's integers are narrower than the host's, so that integers on the host are best computed there.
        let small = inputs.fit_the_host(if context.is_gpu() { usize::MAX } else { HOST_ELEMENTS });
        let beyond = context.is_gpu() && (self.needs_cpu || inputs.are_beyond(context));
        let here = place == Place::Anywhere || place == Place::Cpu && !context.is_gpu();
        if here && !small && !beyond {
            return self.run.run(context, inputs).map_err(fail);
        }
        if context.is_gpu() && !small {
            context.note_on_cpu(&format!("{} '{}'", self.op, self.node));
        }
        let inputs = if beyond { inputs.on_host().map_err(fail)? } else { inputs };
        let values = self.run.run(host, inputs).map_err(fail)?;
        // What was computed from small integers alone stays on the host, floats made from them excepted.
        values.into_iter().map(|value| value.on_host().map_err(fail)).collect()
    }
}

fn missing_output(slot: usize) -> RunError {
    RunError::Device { why: format!("the graph's output in slot {slot} was never computed") }
}
