//! From a graph to a program: names become slots, operators closures, and what depends on constants only is computed.
//!
//! A body is prepared like a model. A name that it does not define is one of the graphs around it: where it is a constant
//! there, it is one here, so that folding works inside; else the body captures it, and the node around the body takes it as
//! a further input. A node whose condition is a constant is replaced by the branch that it takes.

use std::collections::{BTreeMap, HashMap};

use hedge_graph::{Attribute, Graph, Node};
use hedge_tensor::{DType, Tensor};

use super::ops::control::{self, Body};
use super::ops::{self, BoxOp, Inputs};
use super::program::{Program, Source, Step};
use super::{Context, Value, gpu};
use crate::{PrepareError, RunError};

/// Operators whose outputs differ from run to run, whatever their inputs.
const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"];

pub(super) struct Preparation<'a> {
    context: &'a Context,
    host: Context,
    opset: i64,
    outer: Option<&'a Preparation<'a>>,
    /// Names to slots: the graph's own, and behind them those of the branches that are being inlined, innermost last.
    scopes: Vec<HashMap<String, usize>>,
    steps: Vec<Step>,
    constants: Vec<Option<Value>>,
    /// Names that only the graphs around know, and the slots that they get here.
    captures: Vec<(String, usize)>,
    /// How many nodes take each value; empty where bodies may take some, too.
    takers: HashMap<String, usize>,
}

impl<'a> Preparation<'a> {
    /// Of a graph whose operators are all known; `weights` are in place of its initializers. Each is freed when it is packed, if nobody else holds it: the next
    /// one that is packed then finds memory that has been touched before.
    pub(super) fn of_model(
        graph: &Graph,
        weights: BTreeMap<String, Tensor>,
        context: &Context,
    ) -> Result<Program, PrepareError> {
        Ok(Preparation::new(graph.opset, context, None).program(graph, weights)?.program)
    }

    fn new(opset: i64, context: &'a Context, outer: Option<&'a Preparation<'a>>) -> Self {
        Preparation {
            context,
            host: Context::host(),
            opset,
            outer,
            scopes: vec![HashMap::new()],
            steps: Vec::new(),
            constants: Vec::new(),
            captures: Vec::new(),
            takers: HashMap::new(),
        }
    }

    fn program(mut self, graph: &Graph, weights: BTreeMap<String, Tensor>) -> Result<Body, PrepareError> {
        let given: Vec<&str> =
            graph.inputs.iter().map(|input| input.name.as_str()).filter(|name| !weights.contains_key(*name)).collect();
        self.place(weights)?;
        self.takers = takers(graph);
        let mut inputs: Vec<usize> = given.into_iter().map(|name| self.define(name)).collect();
        self.add_all(graph)?;
        let outputs = graph.outputs.iter().map(|output| self.resolve(&output.name).into()).collect();
        inputs.extend(self.captures.iter().map(|(_, slot)| slot));
        let Preparation { steps, constants, captures, host, .. } = self;
        let mut program = Program { steps, constants, inputs, outputs, host };
        program.mark_last_uses();
        program.drop_unused_constants();
        Ok(Body { program, captures: captures.into_iter().map(|(name, _)| name).collect() })
    }

    /// Float weights go to the device once; integers stay on the host, where shapes and axes are read.
    fn place(&mut self, weights: BTreeMap<String, Tensor>) -> Result<(), PrepareError> {
        for (name, tensor) in weights {
            let value = Value::host(tensor);
            let placed = if value.is_float() { value.into_device(self.context) } else { Ok(value) };
            let placed = placed.map_err(|why| PrepareError::Node {
                node: name.clone(),
                op: "initializer".to_owned(),
                why: why.to_string(),
            })?;
            let slot = self.define(&name);
            self.constants[slot] = Some(placed);
        }
        Ok(())
    }

    fn add_all(&mut self, graph: &Graph) -> Result<(), PrepareError> {
        graph.nodes.iter().try_for_each(|node| self.add(node))
    }

    fn add(&mut self, node: &Node) -> Result<(), PrepareError> {
        if let Some(branch) = self.decided_branch(node) {
            return self.inline(node, branch);
        }
        let (run, captured) = self.operator(node)?;
        let own = node.inputs.iter().map(|name| (!name.is_empty()).then(|| self.resolve(name).into()));
        let mut inputs: Vec<Option<Source>> = own.collect();
        inputs.extend(captured.iter().map(|name| Some(self.resolve(name).into())));
        let outputs = node.outputs.iter().map(|name| (!name.is_empty()).then(|| self.define(name))).collect();
        let needs_cpu = self.context.is_gpu() && (gpu::lacks(&node.op) || self.makes_what_the_device_lacks(node));
        let mut step =
            Step { node: node.display_name().to_owned(), op: node.qualified_op(), run, needs_cpu, inputs, outputs };
        if self.is_constant(&step) && !is_random(node) {
            return self.fold(step);
        }
        let constant = |index: usize| self.constants[step.inputs.get(index).copied().flatten()?.slot].clone();
        let packed = ops::with_constants(node, self.context, constant);
        if let Some(run) = packed.map_err(|error| wrong(node, error.to_string()))? {
            step.run = run;
            for (name, source) in node.inputs.iter().skip(1).zip(step.inputs.drain(1..)) {
                let slot = source.map(|source| source.slot).filter(|_| self.takers.get(name) == Some(&1));
                slot.into_iter().for_each(|slot| self.constants[slot] = None);
            }
        }
        self.steps.push(step);
        Ok(())
    }

    /// The node's operator and the names that its bodies capture.
    fn operator(&self, node: &Node) -> Result<(BoxOp, Vec<String>), PrepareError> {
        let fail = |why: String| wrong(node, why);
        if let Some(build) = control::builder(&node.domain, &node.op) {
            let mut prepare = |graph: &Graph| {
                Preparation::new(self.opset, self.context, Some(self)).program(graph, graph.initializers.clone())
            };
            return build(node, self.opset, &mut prepare);
        }
        let build = ops::builder(&node.domain, &node.op).ok_or_else(|| fail("it is not supported".to_owned()))?;
        let run = build(node, self.opset).map_err(|error| fail(error.to_string()))?;
        Ok((run, Vec::new()))
    }

    /// Whether an attribute says that the node makes a type that the device does not compute in.
    fn makes_what_the_device_lacks(&self, node: &Node) -> bool {
        let made = ["to", "dtype"].iter().filter_map(|name| node.attributes.get(*name));
        let mut types = made.filter_map(|attribute| match attribute {
            Attribute::Int(code) => i32::try_from(*code).ok().and_then(DType::from_onnx_code),
            _ => None,
        });
        types.any(|dtype| !self.context.has(dtype) || is_wide(dtype))
    }

    /// The branch that an `If` takes whatever the inputs are.
    fn decided_branch<'g>(&self, node: &'g Node) -> Option<&'g Graph> {
        if node.op != "If" || !node.domain.is_empty() {
            return None;
        }
        let condition = self.known(node.inputs.first()?)?;
        let taken = if control::truth(&condition).ok()? { "then_branch" } else { "else_branch" };
        node.graph(taken).filter(|graph| graph.outputs.len() == node.outputs.len())
    }

    /// Adds a branch's nodes as if they stood here; its names hide those around it until its end.
    fn inline(&mut self, node: &Node, branch: &Graph) -> Result<(), PrepareError> {
        self.scopes.push(HashMap::new());
        let added = self.place(branch.initializers.clone()).and_then(|()| self.add_all(branch));
        let outputs: Vec<usize> = branch.outputs.iter().map(|output| self.resolve(&output.name)).collect();
        self.scopes.pop();
        added?;
        for (name, slot) in node.outputs.iter().zip(outputs) {
            self.bind(name, slot);
        }
        Ok(())
    }

    fn is_constant(&self, step: &Step) -> bool {
        step.inputs.iter().flatten().all(|source| self.constants[source.slot].is_some())
    }

    /// Computes a step whose inputs are all constants, once and for all.
    fn fold(&mut self, step: Step) -> Result<(), PrepareError> {
        let input = |source: &Option<Source>| source.and_then(|source| self.constants[source.slot].clone());
        let inputs = Inputs::new(step.inputs.iter().map(input).collect());
        let values = match step.execute(self.context, &self.host, inputs) {
            Ok(values) => values,
            // A body may be one that is never run, often because it would fail.
            Err(_) if self.outer.is_some() => {
                self.steps.push(step);
                return Ok(());
            }
            Err(RunError::Node { node, op, why }) => return Err(PrepareError::Node { node, op, why }),
            Err(error) => return Err(PrepareError::Node { node: step.node, op: step.op, why: error.to_string() }),
        };
        for (slot, value) in step.outputs.iter().zip(values) {
            let Some(slot) = *slot else { continue };
            // Weights that were made on the host, as dequantized ones are, go to the device once like any other.
            let placed = if value.is_host() && value.is_float() { value.into_device(self.context) } else { Ok(value) };
            let placed = placed.map_err(|why| PrepareError::Node {
                node: step.node.clone(),
                op: step.op.clone(),
                why: why.to_string(),
            })?;
            self.constants[slot] = Some(placed);
        }
        Ok(())
    }

    /// The value of a constant, here or in a graph around.
    fn known(&self, name: &str) -> Option<Value> {
        match self.find(name) {
            Some(slot) => self.constants[slot].clone(),
            None => self.outer.and_then(|outer| outer.known(name)),
        }
    }

    /// The slot of a value that a node takes; one that is unknown here comes from the graphs around.
    fn resolve(&mut self, name: &str) -> usize {
        if let Some(slot) = self.find(name) {
            return slot;
        }
        let known = self.outer.and_then(|outer| outer.known(name));
        let slot = self.constants.len();
        if known.is_none() && self.outer.is_some() {
            self.captures.push((name.to_owned(), slot));
        }
        self.constants.push(known);
        self.scopes[0].insert(name.to_owned(), slot);
        slot
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    /// A new slot for a value that is made here.
    fn define(&mut self, name: &str) -> usize {
        let slot = self.constants.len();
        self.constants.push(None);
        self.bind(name, slot);
        slot
    }

    fn bind(&mut self, name: &str, slot: usize) {
        if let Some(scope) = self.scopes.last_mut().filter(|_| !name.is_empty()) {
            scope.insert(name.to_owned(), slot);
        }
    }
}

/// Integers of these types may not fit a GPU's 32 bits. What is on the host already stays there; a node that makes them from
/// floats is run where they are right.
fn is_wide(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::U64 | DType::U32)
}

/// How many nodes take each value, the graph's outputs being one more taker; nothing where bodies may take values, too.
fn takers(graph: &Graph) -> HashMap<String, usize> {
    let mut takers = HashMap::new();
    if graph.nodes.iter().any(|node| node.subgraphs().next().is_some()) {
        return takers;
    }
    let taken = graph.nodes.iter().flat_map(|node| &node.inputs).chain(graph.outputs.iter().map(|output| &output.name));
    taken.for_each(|name| *takers.entry(name.clone()).or_default() += 1);
    takers
}

fn is_random(node: &Node) -> bool {
    RANDOM.contains(&node.op.as_str()) || node.subgraphs().flat_map(|graph| &graph.nodes).any(is_random)
}

fn wrong(node: &Node, why: String) -> PrepareError {
    PrepareError::Node { node: node.display_name().to_owned(), op: node.qualified_op(), why }
}
