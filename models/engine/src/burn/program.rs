//! A graph as a list of steps over numbered slots.

use std::collections::HashMap;

use hedge_graph::{Graph, Node};

use super::ops::{self, BoxOp, Inputs};
use super::{Context, Value};
use crate::check::check;
use crate::{PrepareError, RunError};

/// Integer values with at most this many elements are computed on the host, next to the shapes that they usually are.
const HOST_ELEMENTS: usize = 4096;

/// A prepared graph, for one device.
pub(crate) struct Program {
    steps: Vec<Step>,
    /// By slot; what is computed in a run has none.
    constants: Vec<Option<Value>>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    host: Context,
}

struct Step {
    node: String,
    op: String,
    run: BoxOp,
    inputs: Vec<Option<Source>>,
    outputs: Vec<Option<usize>>,
}

#[derive(Clone, Copy)]
struct Source {
    slot: usize,
    /// Whether no later step and no output needs the value: then it is moved, and the operator may work in place.
    last: bool,
}

impl Program {
    pub(crate) fn prepare(graph: &Graph, context: &Context) -> Result<Program, PrepareError> {
        let missing = check(graph).missing();
        if !missing.is_empty() {
            return Err(PrepareError::MissingOperators { missing });
        }
        let mut names = Names::default();
        let host = Context::host();
        let mut program =
            Program { steps: Vec::new(), constants: Vec::new(), inputs: Vec::new(), outputs: Vec::new(), host };
        program.place_initializers(graph, context, &mut names)?;
        let given = graph.inputs.iter().filter(|input| !graph.initializers.contains_key(&input.name));
        program.inputs = given.map(|input| names.slot(&input.name)).collect();
        for node in &graph.nodes {
            program.add(node, graph.opset, context, &mut names)?;
        }
        program.outputs = graph.outputs.iter().map(|output| names.slot(&output.name)).collect();
        program.constants.resize(names.count(), None);
        program.mark_last_uses();
        program.drop_unused_constants();
        Ok(program)
    }

    /// Runs the steps on `inputs`, in the order of the graph's inputs.
    pub(crate) fn run(&self, context: &Context, inputs: Vec<Value>) -> Result<Vec<Value>, RunError> {
        let mut slots = vec![None; self.constants.len()];
        for (&slot, value) in self.inputs.iter().zip(inputs) {
            slots[slot] = Some(value);
        }
        for step in &self.steps {
            let inputs =
                step.inputs.iter().map(|source| source.and_then(|source| self.read(source, &mut slots))).collect();
            let values = self.execute(step, context, Inputs::new(inputs))?;
            for (slot, value) in step.outputs.iter().zip(values) {
                if let Some(slot) = *slot {
                    slots[slot] = Some(value);
                }
            }
        }
        let output =
            |&slot: &usize| self.read(Source { slot, last: false }, &mut slots).ok_or_else(|| missing_output(slot));
        self.outputs.iter().map(output).collect()
    }

    /// What was computed in this run, or a constant.
    fn read(&self, source: Source, slots: &mut [Option<Value>]) -> Option<Value> {
        let computed = if source.last { slots[source.slot].take() } else { slots[source.slot].clone() };
        computed.or_else(|| self.constants[source.slot].clone())
    }

    fn execute(&self, step: &Step, context: &Context, inputs: Inputs) -> Result<Vec<Value>, RunError> {
        let on_host = step.run.is_on_host() || inputs.fit_the_host(HOST_ELEMENTS);
        let context = if on_host { &self.host } else { context };
        let fail = |why: String| RunError::Node { node: step.node.clone(), op: step.op.clone(), why };
        let values = step.run.run(context, inputs).map_err(|error| fail(error.to_string()))?;
        if !on_host {
            return Ok(values);
        }
        // What was computed from small integers alone stays on the host, floats made from them excepted.
        values.into_iter().map(|value| value.into_host().map(Value::host).map_err(fail)).collect()
    }

    /// Float weights go to the device once; integers stay on the host, where shapes and axes are read.
    fn place_initializers(&mut self, graph: &Graph, context: &Context, names: &mut Names) -> Result<(), PrepareError> {
        for (name, tensor) in &graph.initializers {
            let slot = names.slot(name);
            let value = Value::host(tensor.clone());
            let placed = if value.is_float() { value.into_device(context) } else { Ok(value) };
            let value = placed.map_err(|why| PrepareError::Node {
                node: name.clone(),
                op: "initializer".to_owned(),
                why: why.to_string(),
            })?;
            self.constants.resize(names.count(), None);
            self.constants[slot] = Some(value);
        }
        Ok(())
    }

    fn add(&mut self, node: &Node, opset: i64, context: &Context, names: &mut Names) -> Result<(), PrepareError> {
        let fail = |why: String| PrepareError::Node { node: node.display_name().to_owned(), op: node.op.clone(), why };
        let builder = ops::builder(&node.domain, &node.op).ok_or_else(|| fail("it is not supported".to_owned()))?;
        let run = builder(node, opset).map_err(|error| fail(error.to_string()))?;
        let slot = |names: &mut Names, name: &String| (!name.is_empty()).then(|| names.slot(name));
        let inputs =
            node.inputs.iter().map(|name| slot(names, name).map(|slot| Source { slot, last: false })).collect();
        let outputs = node.outputs.iter().map(|name| slot(names, name)).collect();
        let step = Step { node: node.display_name().to_owned(), op: node.op.clone(), run, inputs, outputs };
        self.constants.resize(names.count(), None);
        if step.inputs.iter().flatten().all(|source| self.constants[source.slot].is_some()) {
            return self.fold(&step, context).map_err(|error| fail(error.to_string()));
        }
        self.steps.push(step);
        Ok(())
    }

    /// Computes a step whose inputs are all constants, once and for all.
    fn fold(&mut self, step: &Step, context: &Context) -> Result<(), RunError> {
        let inputs =
            step.inputs.iter().map(|source| source.and_then(|source| self.constants[source.slot].clone())).collect();
        let values = self.execute(step, context, Inputs::new(inputs))?;
        for (slot, value) in step.outputs.iter().zip(values) {
            if let Some(slot) = *slot {
                self.constants[slot] = Some(value);
            }
        }
        Ok(())
    }

    fn mark_last_uses(&mut self) {
        let mut needed: Vec<bool> = self.constants.iter().map(Option::is_some).collect();
        self.outputs.iter().for_each(|&slot| needed[slot] = true);
        for step in self.steps.iter_mut().rev() {
            for source in step.inputs.iter_mut().rev().flatten() {
                source.last = !std::mem::replace(&mut needed[source.slot], true);
            }
        }
    }

    /// A folded step's own inputs need no memory any more.
    fn drop_unused_constants(&mut self) {
        let mut used = vec![false; self.constants.len()];
        let reads = self.steps.iter().flat_map(|step| step.inputs.iter().flatten()).map(|source| source.slot);
        reads.chain(self.outputs.iter().copied()).for_each(|slot| used[slot] = true);
        for (slot, used) in self.constants.iter_mut().zip(used) {
            if !used {
                *slot = None;
            }
        }
    }
}

fn missing_output(slot: usize) -> RunError {
    RunError::Device { why: format!("the graph's output in slot {slot} was never computed") }
}

/// Value names to slot numbers.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn slot(&mut self, name: &str) -> usize {
        let next = self.0.len();
        *self.0.entry(name.to_owned()).or_insert(next)
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}
