//! Operators that run graphs of their own: `If`, `Loop`, `Scan`, `SequenceMap`.
//!
//! A body is a program whose inputs are followed by the values that it captures; a node takes what its bodies capture
//! behind its own inputs. Nothing here is without bounds: neither iterations nor what they gather.

use hedge_graph::{Graph, Node, ValueInfo};
use hedge_tensor::{DType, Tensor, element_count};

use super::sequence::{stacked, unstacked};
use super::{BoxOp, Inputs, OpError, axis_of, within};
use crate::PrepareError;
use crate::burn::{Context, Program, Value};

/// Iterations of one loop. A loop over the samples of a minute of audio has fewer; one without end has more.
const MAX_ITERATIONS: u64 = 1 << 24;

/// Bytes that the outputs gathered over the iterations of one loop may take.
const MAX_GATHERED_BYTES: usize = 1 << 31;

/// A prepared body.
pub(in crate::burn) struct Body {
    pub(in crate::burn) program: Program,
    /// The names that it takes from the graphs around it, in the order of its further inputs.
    pub(in crate::burn) captures: Vec<String>,
}

/// Prepares one body.
pub(in crate::burn) type Prepare<'a> = dyn FnMut(&Graph) -> Result<Body, PrepareError> + 'a;

/// Reads a node of the given opset; returns with it the names that its bodies capture.
pub(in crate::burn) type Builder = fn(&Node, i64, &mut Prepare<'_>) -> Result<(BoxOp, Vec<String>), PrepareError>;

/// The builder of an operator with bodies, `None` where there is none.
pub(in crate::burn) fn builder(domain: &str, op: &str) -> Option<Builder> {
    if !(domain.is_empty() || domain == "ai.onnx") {
        return None;
    }
    match op {
        "If" => Some(branch),
        "Loop" => Some(repeat),
        "Scan" => Some(scan),
        "SequenceMap" => Some(map),
        _ => None,
    }
}

/// The value of a condition.
pub(in crate::burn) fn truth(value: &Value) -> Result<bool, OpError> {
    let values = value.clone().into_host()?.to_bools()?;
    match values[..] {
        [value] => Ok(value),
        _ => Err(OpError::new(format!("a condition is one boolean, but this one has {}", values.len()))),
    }
}

impl Body {
    fn run(&self, context: &Context, inputs: Vec<Value>) -> Result<Vec<Value>, OpError> {
        self.program.run(context, inputs).map_err(|error| OpError::Body(Box::new(error)))
    }
}

fn branch(node: &Node, _: i64, prepare: &mut Prepare<'_>) -> Result<(BoxOp, Vec<String>), PrepareError> {
    let mut read = |name: &str| {
        let graph = body_of(node, name)?;
        let (made, taken) = (graph.outputs.len(), node.outputs.len());
        if made < taken {
            return Err(wrong(node, format!("its {name} makes {made} values, but the node {taken}")));
        }
        prepare(graph)
    };
    let (then, otherwise) = (read("then_branch")?, read("else_branch")?);
    let mut captures = then.captures.clone();
    captures.extend(otherwise.captures.iter().filter(|name| !then.captures.contains(name)).cloned());
    // Where a branch finds each of its captured values among those of both.
    let places = |body: &Body| -> Vec<usize> {
        body.captures.iter().filter_map(|name| captures.iter().position(|other| other == name)).collect()
    };
    let (then_places, otherwise_places) = (places(&then), places(&otherwise));
    let own = node.inputs.len();
    let run = within(move |context, mut inputs| {
        let taken = truth(&inputs.take(0)?)?;
        let (body, places) = if taken { (&then, &then_places) } else { (&otherwise, &otherwise_places) };
        let captured = places.iter().map(|place| inputs.take(own + place)).collect::<Result<_, _>>()?;
        drop(inputs);
        body.run(context, captured)
    });
    Ok((run.map_err(|error| wrong(node, error.to_string()))?, captures))
}

fn repeat(node: &Node, _: i64, prepare: &mut Prepare<'_>) -> Result<(BoxOp, Vec<String>), PrepareError> {
    let graph = body_of(node, "body")?;
    let own = node.inputs.len();
    let carried = own.saturating_sub(2);
    if own < 2 || graph.inputs.len() != 2 + carried || graph.outputs.len() <= carried {
        let (takes, makes) = (graph.inputs.len(), graph.outputs.len());
        let why = format!("its body takes {takes} values and makes {makes}, which does not fit {own} inputs");
        return Err(wrong(node, why));
    }
    let gathered = graph.outputs[carried + 1..].to_vec();
    let body = prepare(graph)?;
    let captures = body.captures.clone();
    let run = within(move |context, mut inputs| {
        let captured = captured(&mut inputs, own)?;
        let trips = inputs.optional(0).map(|trips| trips.to_ints()).transpose()?;
        let trips = trips.and_then(|trips| trips.first().copied());
        let mut condition = match inputs.optional(1) {
            Some(condition) => condition,
            None => Value::host(Tensor::bools(&[], &[true])?),
        };
        let mut state: Vec<Value> =
            (2..own).map(|index| inputs.optional(index).unwrap_or_else(Value::nothing)).collect();
        let mut gathering = Gathering::new(&gathered);
        let mut iteration = 0;
        while trips.is_none_or(|trips| iteration < trips) && truth(&condition)? {
            check_iteration(iteration)?;
            let mut arguments = vec![Value::host(Tensor::scalar(iteration)), condition];
            arguments.append(&mut state);
            arguments.extend(captured.iter().cloned());
            let mut outputs = body.run(context, arguments)?.into_iter();
            condition = outputs.next().ok_or_else(|| OpError::new("its body makes no condition"))?;
            state.extend(outputs.by_ref().take(carried));
            gathering.add(outputs)?;
            iteration += 1;
        }
        for values in gathering.finish() {
            state.push(values.stacked(0, context)?);
        }
        Ok(state)
    });
    Ok((run.map_err(|error| wrong(node, error.to_string()))?, captures))
}

fn check_iteration(iteration: i64) -> Result<(), OpError> {
    if iteration.unsigned_abs() < MAX_ITERATIONS {
        return Ok(());
    }
    Err(OpError::new(format!("it is still running after {MAX_ITERATIONS} iterations, which is the most allowed")))
}

/// How a `Scan` walks over its inputs and lays out what it gathers.
struct Walk {
    states: usize,
    /// For each input that is walked over: its axis, and whether it is walked backwards.
    inputs: Vec<(i64, bool)>,
    /// For each output that is gathered: the axis it is stacked on, and whether the last comes first.
    outputs: Vec<(i64, bool)>,
    gathered: Vec<ValueInfo>,
}

fn scan(node: &Node, opset: i64, prepare: &mut Prepare<'_>) -> Result<(BoxOp, Vec<String>), PrepareError> {
    let graph = body_of(node, "body")?;
    let own = node.inputs.len();
    let walk = Walk::read(node, graph, opset)?;
    let body = prepare(graph)?;
    let captures = body.captures.clone();
    let run = within(move |context, mut inputs| {
        let captured = captured(&mut inputs, own)?;
        if opset < 9 {
            return walk.batch(&body, &captured, inputs, context);
        }
        let states = (0..walk.states).map(|index| inputs.take(index)).collect::<Result<_, _>>()?;
        let walked = inputs.rest(walk.states).into_iter().flatten().collect();
        let (mut outputs, gathered) = walk.all(&body, &captured, states, walked, None, context)?;
        for (values, &(axis, _)) in gathered.into_iter().zip(&walk.outputs) {
            outputs.push(values.stacked(axis, context)?);
        }
        Ok(outputs)
    });
    Ok((run.map_err(|error| wrong(node, error.to_string()))?, captures))
}

impl Walk {
    /// Before opset 9 there is a first input for the lengths, every other has a leading batch, and the walk is along the
    /// second dimension.
    fn read(node: &Node, graph: &Graph, opset: i64) -> Result<Walk, PrepareError> {
        let walked = usize::try_from(node.int("num_scan_inputs", 0)).unwrap_or_default();
        let given = node.inputs.len() - usize::from(opset < 9 && !node.inputs.is_empty());
        if walked == 0 || graph.inputs.len() != given || given < walked || graph.outputs.len() < given - walked {
            let (takes, makes) = (graph.inputs.len(), graph.outputs.len());
            let why = format!(
                "its body takes {takes} values and makes {makes}, which does not fit {given} inputs, {walked} walked over"
            );
            return Err(wrong(node, why));
        }
        let states = given - walked;
        let at = |name: &str, index: usize| {
            node.ints(name).and_then(|values| values.get(index)).copied().unwrap_or_default()
        };
        let directions = if opset < 9 { "directions" } else { "scan_input_directions" };
        let inputs = (0..walked).map(|index| (at("scan_input_axes", index), at(directions, index) == 1)).collect();
        let gathered = graph.outputs[states..].to_vec();
        let outputs = (0..gathered.len())
            .map(|index| (at("scan_output_axes", index), at("scan_output_directions", index) == 1))
            .collect();
        Ok(Walk { states, inputs, outputs, gathered })
    }

    /// One walk, of `length` steps or as many as the inputs have. Returns the last states and what was gathered.
    fn all(
        &self,
        body: &Body,
        captured: &[Value],
        mut states: Vec<Value>,
        walked: Vec<Value>,
        length: Option<usize>,
        context: &Context,
    ) -> Result<(Vec<Value>, Vec<Gathered>), OpError> {
        let mut parts = Vec::with_capacity(walked.len());
        for (value, &(axis, backwards)) in walked.into_iter().zip(&self.inputs) {
            let axis = axis_of(axis, value.rank())?;
            let mut slices = unstacked(&value, axis, context)?;
            slices.truncate(length.unwrap_or(usize::MAX));
            if backwards {
                slices.reverse();
            }
            parts.push(slices);
        }
        let steps = parts.first().map_or(0, Vec::len);
        if parts.iter().any(|slices| slices.len() != steps) {
            return Err(OpError::new("the inputs that it walks over are not equally long"));
        }
        let mut gathering = Gathering::new(&self.gathered);
        let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
        for _ in 0..steps {
            let slices = parts.iter_mut().filter_map(Iterator::next);
            let arguments = states.into_iter().chain(slices).chain(captured.iter().cloned()).collect();
            let mut outputs = body.run(context, arguments)?.into_iter();
            states = outputs.by_ref().take(self.states).collect();
            gathering.add(outputs)?;
        }
        let mut gathered = gathering.finish();
        for (values, &(_, backwards)) in gathered.iter_mut().zip(&self.outputs) {
            if backwards {
                values.values.reverse();
            }
        }
        Ok((states, gathered))
    }

    /// One walk for each sample of a batch (opset 8); a shorter sample's outputs are filled with zeros.
    fn batch(
        &self,
        body: &Body,
        captured: &[Value],
        mut inputs: Inputs,
        context: &Context,
    ) -> Result<Vec<Value>, OpError> {
        let lengths = inputs.optional(0).map(|lengths| lengths.to_ints()).transpose()?;
        let values: Vec<Value> = inputs.rest(1).into_iter().flatten().collect();
        let longest = values.last().and_then(|value| value.shape().get(1).copied()).unwrap_or_default();
        let samples = values.into_iter().map(|value| unstacked(&value, 0, context)).collect::<Result<Vec<_>, _>>()?;
        let count = samples.first().map_or(0, Vec::len);
        if samples.iter().any(|values| values.len() != count) {
            return Err(OpError::new("its inputs are not equally many samples"));
        }
        let mut samples: Vec<_> = samples.into_iter().map(Vec::into_iter).collect();
        let mut columns = vec![Vec::with_capacity(count); self.states + self.gathered.len()];
        for sample in 0..count {
            let length = lengths.as_ref().and_then(|lengths| lengths.get(sample)).copied();
            let length = length.map(super::size_of).transpose()?;
            let mut row: Vec<Value> = samples.iter_mut().filter_map(Iterator::next).collect();
            let walked = row.split_off(self.states.min(row.len()));
            let (states, gathered) = self.all(body, captured, row, walked, length, context)?;
            for (column, value) in columns.iter_mut().zip(states) {
                column.push(value);
            }
            for (column, values) in columns[self.states..].iter_mut().zip(gathered) {
                column.push(values.filled(longest)?.stacked(0, context)?);
            }
        }
        columns.into_iter().map(|values| stacked(values, 0, context)).collect()
    }
}

/// Applies the body to each tensor of a sequence; further inputs are sequences as long as the first, or one tensor for all.
fn map(node: &Node, _: i64, prepare: &mut Prepare<'_>) -> Result<(BoxOp, Vec<String>), PrepareError> {
    let graph = body_of(node, "body")?;
    let own = node.inputs.len();
    if graph.inputs.len() != own || own == 0 {
        return Err(wrong(node, format!("its body takes {} values, but the node {own}", graph.inputs.len())));
    }
    let types: Vec<DType> = graph.outputs.iter().map(|output| output.dtype.unwrap_or(DType::F32)).collect();
    let body = prepare(graph)?;
    let captures = body.captures.clone();
    let run = within(move |context, mut inputs| {
        let captured = captured(&mut inputs, own)?;
        let first = inputs.take(0)?.into_sequence()?;
        let others = (1..own).map(|index| inputs.take(index)).collect::<Result<Vec<_>, _>>()?;
        let mut columns = vec![Vec::with_capacity(first.len()); types.len()];
        for (index, value) in first.into_iter().enumerate() {
            let mut arguments = vec![value];
            for other in &others {
                arguments.push(element(other, index)?);
            }
            arguments.extend(captured.iter().cloned());
            for (column, value) in columns.iter_mut().zip(body.run(context, arguments)?) {
                column.push(value);
            }
        }
        Ok(columns.into_iter().zip(&types).map(|(values, &dtype)| Value::sequence(values, dtype)).collect())
    });
    Ok((run.map_err(|error| wrong(node, error.to_string()))?, captures))
}

fn element(value: &Value, index: usize) -> Result<Value, OpError> {
    if !value.is_sequence() {
        return Ok(value.clone());
    }
    let values = value.clone().into_sequence()?;
    values.get(index).cloned().ok_or_else(|| OpError::new("its sequences are not equally long"))
}

/// What the iterations of a loop make, one list for each output.
struct Gathering {
    lists: Vec<Gathered>,
    bytes: usize,
}

struct Gathered {
    values: Vec<Value>,
    declared: ValueInfo,
}

impl Gathering {
    fn new(declared: &[ValueInfo]) -> Self {
        let list = |declared: &ValueInfo| Gathered { values: Vec::new(), declared: declared.clone() };
        Gathering { lists: declared.iter().map(list).collect(), bytes: 0 }
    }

    fn add(&mut self, values: impl Iterator<Item = Value>) -> Result<(), OpError> {
        for (list, value) in self.lists.iter_mut().zip(values) {
            let elements = element_count(&value.shape()).unwrap_or(usize::MAX);
            self.bytes = self.bytes.saturating_add(elements.saturating_mul(value.dtype().size_bytes()));
            if self.bytes > MAX_GATHERED_BYTES {
                return Err(OpError::new(format!("it gathers more than {MAX_GATHERED_BYTES} bytes")));
            }
            list.values.push(value);
        }
        Ok(())
    }

    fn finish(self) -> Vec<Gathered> {
        self.lists
    }
}

impl Gathered {
    /// All values along a new axis. Without a value, the shape is what the body declares; dimensions that it leaves free
    /// are 0.
    fn stacked(self, axis: i64, context: &Context) -> Result<Value, OpError> {
        if let Some(first) = self.values.first() {
            let axis = axis_of(axis, first.rank() + 1)?;
            return stacked(self.values, axis, context);
        }
        let declared = self.declared.shape.unwrap_or_default();
        let mut shape: Vec<usize> = declared
            .iter()
            .map(|dim| match dim {
                hedge_graph::Dim::Known(size) => *size,
                _ => 0,
            })
            .collect();
        let axis = axis_of(axis, shape.len() + 1)?;
        shape.insert(axis, 0);
        Ok(Value::host(Tensor::zeros(self.declared.dtype.unwrap_or(DType::F32), shape)?))
    }

    /// The values followed by zeros, `length` in all.
    fn filled(mut self, length: usize) -> Result<Self, OpError> {
        if let Some(first) = self.values.first() {
            let zeros = Value::host(Tensor::zeros(first.dtype(), first.shape())?);
            self.values.resize(length.max(self.values.len()), zeros);
        }
        Ok(self)
    }
}

fn captured(inputs: &mut Inputs, own: usize) -> Result<Vec<Value>, OpError> {
    let missing = || OpError::new("a value that its body takes from outside is missing");
    inputs.rest(own).into_iter().map(|value| value.ok_or_else(missing)).collect()
}

fn body_of<'a>(node: &'a Node, name: &str) -> Result<&'a Graph, PrepareError> {
    node.graph(name).ok_or_else(|| wrong(node, format!("its {name} is missing")))
}

fn wrong(node: &Node, why: String) -> PrepareError {
    PrepareError::Node { node: node.display_name().to_owned(), op: node.qualified_op(), why }
}
