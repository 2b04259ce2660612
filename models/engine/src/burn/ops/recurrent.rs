//! Recurrent networks: `RNN`, `GRU`, `LSTM`.
//!
//! The inputs of all steps are multiplied by their weights at once; only the product with the state is left to each step.
//! All is burn primitives, so that gradients flow. Letters are ONNX's: `X` `[length, batch, input]`, `W` and `R`
//! `[directions, gates * hidden, ...]`, `B` both biases, `P` the peepholes; layout 1 has the batch first.

use burn_backend::ops::{BoolTensorOps, FloatTensorOps};
use burn_backend::{Scalar, Shape, Slice, TensorData, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::{DType, Tensor};

use super::layout::{expanded, permuted};
use super::quantized::{dynamic_range, quantized};
use super::recurrent_activation::{Activation, activations};
use super::{Builder, Inputs, OpError, many, reshaped, size_of};
use crate::burn::value::singles;
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    match op {
        "RNN" => Some(|node, _| {
            let layer = Layer::read(node, Cell::Simple)?;
            many(move |context, inputs| layer.run(inputs, context))
        }),
        "GRU" => Some(|node, _| {
            let layer = Layer::read(node, Cell::Gru { reset_last: node.int("linear_before_reset", 0) != 0 })?;
            many(move |context, inputs| layer.run(inputs, context))
        }),
        "LSTM" => Some(|node, _| {
            let layer = lstm(node)?;
            many(move |context, inputs| layer.run(inputs, context))
        }),
        _ => None,
    }
}

pub(super) fn lstm(node: &Node) -> Result<Layer, OpError> {
    Layer::read(node, Cell::Lstm { coupled: node.int("input_forget", 0) != 0 })
}

/// What a step computes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Cell {
    Simple,
    /// `reset_last`: the reset gate comes after the product with the state, not before.
    Gru {
        reset_last: bool,
    },
    /// `coupled`: what is forgotten is what is not taken in.
    Lstm {
        coupled: bool,
    },
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Cell::Simple => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm { .. } => 4,
        }
    }

    fn default_activations(self) -> &'static [&'static str] {
        match self {
            Cell::Simple => &["Tanh"],
            Cell::Gru { .. } => &["Sigmoid", "Tanh"],
            Cell::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// A node's attributes.
pub(super) struct Layer {
    cell: Cell,
    /// For each direction whether it runs backwards.
    directions: Vec<bool>,
    activations: Vec<Vec<Activation>>,
    clip: Option<f64>,
    batch_first: bool,
    hidden: Option<usize>,
    /// Whether the outputs of all steps are asked for, not the last ones alone.
    all_steps: bool,
    /// Whether what is multiplied by weights is rounded to 8 bits before, the inputs of all steps together and each step's
    /// state by itself.
    in_bytes: bool,
}

impl Layer {
    fn read(node: &Node, cell: Cell) -> Result<Self, OpError> {
        let directions = match node.string("direction").unwrap_or("forward") {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => {
                return Err(OpError::new(format!("direction {other:?} is none of forward, reverse, bidirectional")));
            }
        };
        Ok(Layer {
            cell,
            activations: activations(node, cell.default_activations(), directions.len())?,
            directions,
            clip: node.attributes.contains_key("clip").then(|| f64::from(node.float("clip", 0.0))),
            batch_first: node.int("layout", 0) != 0,
            hidden: node
                .attributes
                .contains_key("hidden_size")
                .then(|| size_of(node.int("hidden_size", 0)))
                .transpose()?,
            all_steps: node.outputs.first().is_some_and(|name| !name.is_empty()),
            in_bytes: false,
        })
    }

    /// The same with what is multiplied by weights in 8 bits.
    pub(super) fn in_bytes(self) -> Self {
        Layer { in_bytes: true, ..self }
    }
}

/// The sizes of one run.
#[derive(Clone, Copy)]
struct Sizes {
    length: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    gates: usize,
}

/// One direction's weights, ready to multiply from the right.
struct Weights {
    /// `[input, gates * hidden]`
    input: Primitive,
    /// `[hidden, gates * hidden]`
    state: Primitive,
    /// Both biases, `[1, gates * hidden]` each.
    biases: Option<[Primitive; 2]>,
    /// `[1, 3 * hidden]`
    peepholes: Option<Primitive>,
}

impl Layer {
    pub(super) fn run(&self, mut inputs: Inputs, context: &Context) -> Result<Vec<Value>, OpError> {
        let mut x = inputs.take(0)?;
        let (w, r) = (inputs.take(1)?, inputs.take(2)?);
        if x.rank() == 3 && self.batch_first {
            x = permuted(x, &[1, 0, 2], context)?;
        }
        let sizes = self.sizes(&x, &w, &r)?;
        let (dtype, directions) = (x.dtype(), self.directions.len());
        let width = sizes.gates * sizes.hidden;
        let bias = expect(inputs.optional(3), &[directions, 2 * width])?;
        let lengths = inputs.optional(4).map(|lengths| lengths.to_ints()).transpose()?;
        let initial_h = self.state(inputs.optional(5), sizes, context)?;
        let initial_c = self.state(inputs.optional(6), sizes, context)?;
        let peepholes = expect(inputs.optional(7), &[directions, 3 * sizes.hidden])?;
        if sizes.length == 0 || sizes.batch == 0 {
            return self.without_steps(sizes, dtype, initial_h, initial_c);
        }
        let masks = masks(lengths.as_deref(), sizes, context)?;
        let zeros =
            || Value::host(Tensor::zeros(dtype, vec![directions, sizes.batch, sizes.hidden])?).into_float(context);
        let (initial_h, initial_c) = (
            initial_h.map_or_else(zeros, |value| value.into_float(context))?,
            initial_c.map_or_else(zeros, |value| value.into_float(context))?,
        );
        let x = reshaped(x, &[sizes.length * sizes.batch, sizes.input], context)?.into_float(context)?;
        let [w, r] = [w.into_float(context)?, r.into_float(context)?];
        let bias = bias.map(|bias| bias.into_float(context)).transpose()?;
        let peepholes = peepholes.map(|peepholes| peepholes.into_float(context)).transpose()?;
        let (mut all, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
        for (index, &backwards) in self.directions.iter().enumerate() {
            let bias = bias.clone().map(|bias| row(bias, index));
            let weights = Weights {
                input: B::float_swap_dims(matrix(w.clone(), index, width, sizes.input), 0, 1),
                state: B::float_swap_dims(matrix(r.clone(), index, width, sizes.hidden), 0, 1),
                biases: bias.map(|bias| [columns(bias.clone(), 0, width), columns(bias, width, 2 * width)]),
                peepholes: peepholes.clone().map(|peepholes| row(peepholes, index)),
            };
            let state = |initial: &Primitive| matrix(initial.clone(), index, sizes.batch, sizes.hidden);
            let pass = Pass { layer: self, activations: &self.activations[index], weights, sizes, masks: &masks };
            let (outputs, h, c) = pass.run(x.clone(), state(&initial_h), state(&initial_c), backwards)?;
            all.push(outputs);
            last_h.push(lifted(h, sizes));
            last_c.push(lifted(c, sizes));
        }
        let mut outputs = vec![self.all_outputs(all, sizes, context)?];
        outputs.push(self.turned_state(Value::float(B::float_cat(last_h, 0)), context)?);
        if matches!(self.cell, Cell::Lstm { .. }) {
            outputs.push(self.turned_state(Value::float(B::float_cat(last_c, 0)), context)?);
        }
        Ok(outputs)
    }

    fn sizes(&self, x: &Value, w: &Value, r: &Value) -> Result<Sizes, OpError> {
        let (x_shape, w_shape, r_shape) = (x.shape(), w.shape(), r.shape());
        let wrong = || OpError::new(format!("X {x_shape:?}, W {w_shape:?} and R {r_shape:?} do not fit"));
        let gates = self.cell.gates();
        let (&[length, batch, input], &[directions, width, from], &[_, _, hidden]) =
            (x_shape.as_slice(), w_shape.as_slice(), r_shape.as_slice())
        else {
            return Err(wrong());
        };
        let fits = from == input
            && directions == self.directions.len()
            && Some(width) == gates.checked_mul(hidden)
            && r_shape == [directions, width, hidden]
            && self.hidden.is_none_or(|size| size == hidden);
        if fits && hidden > 0 { Ok(Sizes { length, batch, input, hidden, gates }) } else { Err(wrong()) }
    }

    /// An initial state as `[directions, batch, hidden]`.
    fn state(&self, value: Option<Value>, sizes: Sizes, context: &Context) -> Result<Option<Value>, OpError> {
        let Some(value) = value else { return Ok(None) };
        let value = if value.rank() == 3 { self.turned_state(value, context)? } else { value };
        expect(Some(value), &[self.directions.len(), sizes.batch, sizes.hidden])
    }

    /// Between `[directions, batch, hidden]` and the node's layout; the way there is the way back.
    fn turned_state(&self, value: Value, context: &Context) -> Result<Value, OpError> {
        if self.batch_first { permuted(value, &[1, 0, 2], context) } else { Ok(value) }
    }

    /// The outputs of all steps, each direction's in the order of the inputs, as `[length, directions, batch, hidden]`.
    fn all_outputs(&self, all: Vec<Vec<Primitive>>, sizes: Sizes, context: &Context) -> Result<Value, OpError> {
        if !self.all_steps {
            // Nobody takes it.
            return Ok(Value::nothing());
        }
        let shape = Shape::from(vec![sizes.length, 1, sizes.batch, sizes.hidden]);
        let directions = all.into_iter().map(|outputs| B::float_reshape(B::float_cat(outputs, 0), shape.clone()));
        let value = Value::float(B::float_cat(directions.collect(), 1));
        if self.batch_first { permuted(value, &[2, 0, 1, 3], context) } else { Ok(value) }
    }

    fn without_steps(
        &self,
        sizes: Sizes,
        dtype: DType,
        initial_h: Option<Value>,
        initial_c: Option<Value>,
    ) -> Result<Vec<Value>, OpError> {
        let (directions, Sizes { length, batch, hidden, .. }) = (self.directions.len(), sizes);
        let (all, state) = if self.batch_first {
            (vec![batch, length, directions, hidden], vec![batch, directions, hidden])
        } else {
            (vec![length, directions, batch, hidden], vec![directions, batch, hidden])
        };
        let zeros = |shape: Vec<usize>| Ok::<_, OpError>(Value::host(Tensor::zeros(dtype, shape)?));
        let host = Context::host();
        let mut outputs = vec![zeros(all)?];
        let states = if matches!(self.cell, Cell::Lstm { .. }) { vec![initial_h, initial_c] } else { vec![initial_h] };
        for initial in states {
            outputs.push(match initial {
                Some(value) => self.turned_state(value.on_host()?, &host)?,
                None => zeros(state.clone())?,
            });
        }
        Ok(outputs)
    }
}

/// One direction over the whole sequence.
struct Pass<'a> {
    layer: &'a Layer,
    activations: &'a [Activation],
    weights: Weights,
    sizes: Sizes,
    /// By step: where a sample's sequence has not ended yet; empty where none ends early.
    masks: &'a [Primitive],
}

impl Pass<'_> {
    /// Returns the outputs of all steps, in the order of the inputs, and the last states.
    fn run(
        &self,
        x: Primitive,
        mut h: Primitive,
        mut c: Primitive,
        backwards: bool,
    ) -> Result<(Vec<Primitive>, Primitive, Primitive), OpError> {
        let Sizes { length, batch, hidden, .. } = self.sizes;
        let inputs = self.of_all_steps(x)?;
        let mut outputs = vec![None; length];
        for step in 0..length {
            let at = if backwards { length - 1 - step } else { step };
            let input = rows(inputs.clone(), at * batch, (at + 1) * batch);
            let (next_h, next_c) = self.step(input, h.clone(), c.clone())?;
            let output = match self.masks.get(at) {
                None => next_h.clone(),
                Some(mask) => B::float_mask_fill(next_h.clone(), B::bool_not(mask.clone()), Scalar::Float(0.0)),
            };
            (h, c) = match self.masks.get(at) {
                None => (next_h, next_c),
                Some(mask) => (masked(next_h, h, mask), masked(next_c, c, mask)),
            };
            outputs[at] = self.layer.all_steps.then_some(output);
        }
        // A sequence without any step leaves no state behind, not even its first one: ONNX does not say, onnxruntime does.
        let left = |state: Primitive| match self.masks.first() {
            None => state,
            Some(mask) => B::float_mask_fill(state, B::bool_not(mask.clone()), Scalar::Float(0.0)),
        };
        let (h, c) = (left(h), left(c));
        let shape = Shape::from(vec![1, batch, hidden]);
        let outputs = outputs.into_iter().flatten().map(|output| B::float_reshape(output, shape.clone())).collect();
        Ok((outputs, h, c))
    }

    /// What each step takes from its input, `[length * batch, gates * hidden]`, with the biases that may be added before.
    fn of_all_steps(&self, x: Primitive) -> Result<Primitive, OpError> {
        let product = B::float_matmul(self.factor(x)?, self.weights.input.clone());
        let Some([input, state]) = &self.weights.biases else { return Ok(product) };
        let product = B::float_add(product, input.clone());
        Ok(if self.bias_within() { product } else { B::float_add(product, state.clone()) })
    }

    /// What is multiplied by weights, as it is or as 8 bits tell it.
    fn factor(&self, x: Primitive) -> Result<Primitive, OpError> {
        if self.layer.in_bytes { in_bytes(&x) } else { Ok(x) }
    }

    /// Whether the state's bias belongs inside of the reset gate's product.
    fn bias_within(&self) -> bool {
        self.layer.cell == Cell::Gru { reset_last: true }
    }

    fn step(&self, input: Primitive, h: Primitive, c: Primitive) -> Result<(Primitive, Primitive), OpError> {
        Ok(match self.layer.cell {
            Cell::Simple => {
                let sum = B::float_add(input, B::float_matmul(h, self.weights.state.clone()));
                (self.activate(0, sum), c)
            }
            Cell::Gru { reset_last: true } => (self.gru_reset_last(&input, h), c),
            Cell::Gru { reset_last: false } => (self.gru_reset_first(&input, h), c),
            Cell::Lstm { coupled } => self.lstm(input, self.factor(h)?, c, coupled),
        })
    }

    /// Gates: update, reset, hidden.
    fn gru_reset_last(&self, input: &Primitive, h: Primitive) -> Primitive {
        let mut recurrent = B::float_matmul(h.clone(), self.weights.state.clone());
        if let Some([_, bias]) = &self.weights.biases {
            recurrent = B::float_add(recurrent, bias.clone());
        }
        let gate = |index: usize| B::float_add(self.gate(input, index), self.gate(&recurrent, index));
        let (update, reset) = (self.activate(0, gate(0)), self.activate(0, gate(1)));
        let candidate = B::float_add(self.gate(input, 2), B::float_mul(reset, self.gate(&recurrent, 2)));
        blend(update, h, self.activate(1, candidate))
    }

    fn gru_reset_first(&self, input: &Primitive, h: Primitive) -> Primitive {
        let hidden = self.sizes.hidden;
        let gates = B::float_matmul(h.clone(), columns(self.weights.state.clone(), 0, 2 * hidden));
        let gate = |index: usize| B::float_add(self.gate(input, index), self.gate(&gates, index));
        let (update, reset) = (self.activate(0, gate(0)), self.activate(0, gate(1)));
        let weights = columns(self.weights.state.clone(), 2 * hidden, 3 * hidden);
        let recurrent = B::float_matmul(B::float_mul(reset, h.clone()), weights);
        let candidate = B::float_add(self.gate(input, 2), recurrent);
        blend(update, h, self.activate(1, candidate))
    }

    /// Gates: input, output, forget, cell. Peepholes: input, output, forget.
    fn lstm(&self, input: Primitive, h: Primitive, c: Primitive, coupled: bool) -> (Primitive, Primitive) {
        let sums = B::float_add(input, B::float_matmul(h, self.weights.state.clone()));
        let gate = |index: usize, cell: &Primitive, peephole: usize| {
            let sum = self.gate(&sums, index);
            let Some(peepholes) = &self.weights.peepholes else { return sum };
            B::float_add(sum, B::float_mul(self.gate(peepholes, peephole), cell.clone()))
        };
        let taken = self.activate(0, gate(0, &c, 0));
        let kept = if coupled {
            B::float_add_scalar(B::float_neg(taken.clone()), Scalar::Float(1.0))
        } else {
            self.activate(0, gate(2, &c, 2))
        };
        let candidate = self.activate(1, self.gate(&sums, 3));
        let c = B::float_add(B::float_mul(kept, c), B::float_mul(taken, candidate));
        let output = self.activate(0, gate(1, &c, 1));
        (B::float_mul(output, self.activations[2].apply(c.clone())), c)
    }

    /// The columns of one gate.
    fn gate(&self, sums: &Primitive, index: usize) -> Primitive {
        let hidden = self.sizes.hidden;
        columns(sums.clone(), index * hidden, (index + 1) * hidden)
    }

    fn activate(&self, index: usize, sum: Primitive) -> Primitive {
        let sum = match self.layer.clip {
            Some(clip) => B::float_clamp(sum, Scalar::Float(-clip), Scalar::Float(clip)),
            None => sum,
        };
        self.activations[index].apply(sum)
    }
}

/// The nearest numbers that unsigned 8 bits hold between the tensor's smallest and largest, or zero.
fn in_bytes(x: &Primitive) -> Result<Primitive, OpError> {
    let mut values = singles(x)?.into_owned();
    let (scale, zero) = dynamic_range(&values);
    values.iter_mut().for_each(|value| *value = (quantized(*value / scale, zero, 0.0, 255.0) - zero) * scale);
    Ok(B::float_from_data(TensorData::new(values, x.shape().to_vec()), &x.device()))
}

/// `candidate` where `update` is 0, `h` where it is 1.
fn blend(update: Primitive, h: Primitive, candidate: Primitive) -> Primitive {
    let change = B::float_sub(h, candidate.clone());
    B::float_add(candidate, B::float_mul(update, change))
}

/// By step, `[batch, hidden]` booleans of the samples whose sequences go on; nothing where all go on to the end.
fn masks(lengths: Option<&[i64]>, sizes: Sizes, context: &Context) -> Result<Vec<Primitive>, OpError> {
    let Some(lengths) = lengths else { return Ok(Vec::new()) };
    if lengths.len() != sizes.batch {
        return Err(OpError::new(format!("there are {} sequence lengths for {} samples", lengths.len(), sizes.batch)));
    }
    let lengths = lengths.iter().map(|&length| size_of(length)).collect::<Result<Vec<_>, _>>()?;
    if lengths.iter().all(|&length| length >= sizes.length) {
        return Ok(Vec::new());
    }
    let mask = |step: usize| {
        let going: Vec<bool> = lengths.iter().map(|&length| step < length).collect();
        let column = Value::host(Tensor::bools(&[sizes.batch, 1], &going)?);
        expanded(column, &[sizes.batch, sizes.hidden], context)?.into_bool(context)
    };
    (0..sizes.length).map(mask).collect()
}

fn masked(new: Primitive, old: Primitive, mask: &Primitive) -> Primitive {
    B::float_mask_where(new, B::bool_not(mask.clone()), old)
}

fn expect(value: Option<Value>, shape: &[usize]) -> Result<Option<Value>, OpError> {
    match value {
        Some(value) if value.shape() != shape => {
            Err(OpError::new(format!("an input of shape {:?} must have shape {shape:?}", value.shape())))
        }
        value => Ok(value),
    }
}

/// Matrix `index` of `[n, height, width]`.
fn matrix(tensor: Primitive, index: usize, height: usize, width: usize) -> Primitive {
    let slices = [range(index, index + 1), range(0, height), range(0, width)];
    B::float_reshape(B::float_slice(tensor, &slices), Shape::from(vec![height, width]))
}

fn lifted(state: Primitive, sizes: Sizes) -> Primitive {
    B::float_reshape(state, Shape::from(vec![1, sizes.batch, sizes.hidden]))
}

fn row(tensor: Primitive, index: usize) -> Primitive {
    rows(tensor, index, index + 1)
}

fn rows(tensor: Primitive, start: usize, end: usize) -> Primitive {
    B::float_slice(tensor, &[range(start, end)])
}

/// Columns of a matrix.
fn columns(tensor: Primitive, start: usize, end: usize) -> Primitive {
    B::float_slice(tensor, &[Slice::full(), range(start, end)])
}

fn range(start: usize, end: usize) -> Slice {
    Slice::new(start as isize, Some(end as isize), 1)
}
