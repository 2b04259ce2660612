//! Training a graph: the executor that serves it, under autodiff, with some of its initializers as parameters.
//!
//! What to train on, for how long and at which rate is the business of `hedge-train`; here is one step.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::optim::{AdamW as BurnAdamW, AdamWConfig, Optimizer};
use burn::tensor::{Device as BurnDevice, Tensor as BurnTensor};
use burn_backend::ops::{ActivationOps, FloatTensorOps};
use burn_backend::{AutodiffBackend, Scalar, TensorData, read_sync};
use burn_dispatch::DispatchDevice;
use hedge_graph::{Graph, ValueInfo};
use hedge_tensor::{DType, NamedTensor, Tensor};
use thiserror::Error;

use crate::burn::{B, Context, Primitive, Program, Value, panic_message};
use crate::{Device, InputError, PrepareError, RunError, Signature};

/// The optimizer: decoupled weight decay (Loshchilov and Hutter, 2019).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamW {
    /// Decay of the mean of the gradients.
    pub beta_1: f32,
    /// Decay of the mean of their squares.
    pub beta_2: f32,
    /// What keeps the division from zero.
    pub epsilon: f32,
    /// The share of each parameter taken off at each step, times the learning rate.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 1e-2 }
    }
}

/// What a batch should come out as. The loss is `(1 - soft_weight) * cross-entropy(logits, labels) + soft_weight * T^2 *
/// KL(teacher at T || student at T)` (Hinton, Vinyals and Dean, 2015), averaged over the batch.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The class of each row.
    pub labels: &'a [u8],
    /// The teacher's logits, `[rows, classes]`; without them only the labels count.
    pub teacher_logits: Option<&'a Tensor>,
    /// The temperature T of the soft part.
    pub temperature: f32,
    /// The weight of the soft part, 0..1.
    pub soft_weight: f32,
}

/// Why a graph does not train.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum TrainError {
    /// The graph cannot be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The inputs do not fit the graph.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A step failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A parameter that the graph does not have.
    #[error("the graph has no float initializer {name:?} to train")]
    Parameter {
        /// Its name.
        name: String,
    },
    /// A target that does not fit the logits.
    #[error("the targets do not fit logits of shape {logits:?}: {why}")]
    Target {
        /// The shape of the graph's first output.
        logits: Vec<usize>,
        /// What is wrong.
        why: String,
    },
}

/// A graph in training, on the CPU.
pub struct Trainer {
    graph: Graph,
    signature: Signature,
    program: Program,
    context: Context,
    parameters: Vec<Parameter>,
    optimizer: BurnAdamW,
}

struct Parameter {
    name: String,
    shape: Vec<usize>,
    /// Flat: burn's optimizers work on tensors of a rank known to the compiler, and element by element one dimension
    /// serves all.
    value: BurnTensor<1>,
    state: Option<<BurnAdamW as Optimizer>::State<1>>,
}

impl Trainer {
    /// Prepares `graph`, whose first output are logits `[N, classes]`, to train the float initializers `trainable`.
    pub fn new(graph: &Graph, trainable: &[String], optimizer: AdamW) -> Result<Trainer, TrainError> {
        let device = Device::cpu();
        let plain = device.open().map_err(|why| PrepareError::Device { device: device.label(), why })?;
        let context = Context::new(DispatchDevice::autodiff(plain));
        let parameters = trainable.iter().map(|name| Parameter::read(graph, name)).collect::<Result<_, _>>()?;
        let program = Program::prepare(&with_parameters_as_inputs(graph, trainable), &context)?;
        let optimizer = AdamWConfig::new()
            .with_beta_1(optimizer.beta_1)
            .with_beta_2(optimizer.beta_2)
            .with_epsilon(optimizer.epsilon)
            .with_weight_decay(optimizer.weight_decay)
            .build();
        let signature = Signature::of(graph);
        Ok(Trainer { graph: graph.clone(), signature, program, context, parameters, optimizer })
    }

    /// One step of the optimizer on a batch at learning rate `lr`; returns the batch's loss before the step.
    pub fn step(&mut self, inputs: &[NamedTensor], target: &Target<'_>, lr: f64) -> Result<f32, TrainError> {
        let inputs = self.signature.arrange(inputs.to_vec())?;
        let step = || self.unguarded_step(inputs, target, lr);
        catch_unwind(AssertUnwindSafe(step))
            .unwrap_or_else(|panic| Err(TrainError::Run(RunError::Device { why: panic_message(panic.as_ref()) })))
    }

    /// The graph with the parameters as they are now.
    pub fn export(&self) -> Result<Graph, TrainError> {
        let mut graph = self.graph.clone();
        for parameter in &self.parameters {
            graph.initializers.insert(parameter.name.clone(), parameter.tensor()?);
        }
        Ok(graph)
    }

    fn unguarded_step(&mut self, inputs: Vec<NamedTensor>, target: &Target<'_>, lr: f64) -> Result<f32, TrainError> {
        let leaves: Vec<Primitive> = self.parameters.iter().map(|parameter| parameter.leaf(&self.context)).collect();
        let values = inputs.into_iter().map(|input| Value::host(input.tensor));
        let values = values.chain(leaves.iter().cloned().map(Value::float)).collect();
        let logits = self.program.run(&self.context, values)?.swap_remove(0);
        let loss = self.loss(logits, target)?;
        let value = scalar(B::inner(loss.clone()))?;
        let mut gradients = B::backward(loss);
        for (parameter, leaf) in self.parameters.iter_mut().zip(&leaves) {
            if let Some(gradient) = B::grad_remove(leaf, &mut gradients) {
                parameter.update(gradient, &self.optimizer, lr)?;
            }
        }
        Ok(value)
    }

    fn loss(&self, logits: Value, target: &Target<'_>) -> Result<Primitive, TrainError> {
        let shape = logits.shape();
        let wrong = |why: String| TrainError::Target { logits: shape.clone(), why };
        let &[rows, classes] = shape.as_slice() else {
            return Err(wrong("logits must have two dimensions".to_owned()));
        };
        if target.labels.len() != rows {
            return Err(wrong(format!("there are {} labels", target.labels.len())));
        }
        let logits = logits.into_float(&self.context).map_err(|error| wrong(error.to_string()))?;
        let one_hot = one_hot(target.labels, classes).map_err(wrong)?;
        let hard = self.cross_entropy(logits.clone(), &one_hot, [rows, classes], 1.0)?;
        let Some(teacher) = target.teacher_logits else { return Ok(hard) };
        if teacher.shape() != [rows, classes] {
            return Err(wrong(format!("the teacher's have shape {:?}", teacher.shape())));
        }
        let teacher = teacher.to_vec::<f32>().map_err(|error| wrong(error.to_string()))?;
        let soft_targets = softmax_rows(&teacher, classes, target.temperature);
        // Cross-entropy with the teacher is the KL divergence and a constant.
        let soft = self.cross_entropy(logits, &soft_targets, [rows, classes], target.temperature)?;
        let weight = f64::from(target.soft_weight);
        let scale = weight * f64::from(target.temperature).powi(2);
        Ok(B::float_add(
            B::float_mul_scalar(hard, Scalar::Float(1.0 - weight)),
            B::float_mul_scalar(soft, Scalar::Float(scale)),
        ))
    }

    /// The mean over the rows of `-sum(probabilities * log_softmax(logits / temperature))`.
    fn cross_entropy(
        &self,
        logits: Primitive,
        probabilities: &[f32],
        shape: [usize; 2],
        temperature: f32,
    ) -> Result<Primitive, TrainError> {
        let wrong = |why: String| TrainError::Target { logits: shape.to_vec(), why };
        let targets = Tensor::from_slice(&shape, probabilities).map_err(|error| wrong(error.to_string()))?;
        let targets = Value::host(targets).into_float(&self.context).map_err(|error| wrong(error.to_string()))?;
        let scaled = B::float_mul_scalar(logits, Scalar::Float(1.0 / f64::from(temperature)));
        let likelihood = B::float_sum(B::float_mul(targets, B::log_softmax(scaled, 1)));
        Ok(B::float_mul_scalar(likelihood, Scalar::Float(-1.0 / shape[0] as f64)))
    }
}

impl Parameter {
    fn read(graph: &Graph, name: &str) -> Result<Parameter, TrainError> {
        let missing = || TrainError::Parameter { name: name.to_owned() };
        let tensor = graph.initializers.get(name).filter(|tensor| tensor.dtype() == DType::F32).ok_or_else(missing)?;
        let values = tensor.to_vec::<f32>().map_err(|_| missing())?;
        let value = flat(TensorData::new(values, [tensor.len()]));
        Ok(Parameter { name: name.to_owned(), shape: tensor.shape().to_vec(), value, state: None })
    }

    /// A tracked tensor with the parameter's value. Values cross between burn's two tensor interfaces as data: the crate
    /// offers no other bridge, and a copy costs little beside a step.
    fn leaf(&self, context: &Context) -> Primitive {
        let (bytes, _, dtype) = self.value.to_data().into_parts();
        let data = TensorData::from_bytes(bytes, self.shape.clone(), dtype);
        B::float_set_require_grad(B::float_from_data(data, &context.device), true)
    }

    fn update(&mut self, gradient: Primitive, optimizer: &BurnAdamW, lr: f64) -> Result<(), TrainError> {
        let (bytes, shape, dtype) = read(gradient)?.into_parts();
        let gradient = flat(TensorData::from_bytes(bytes, [shape.num_elements()], dtype));
        let (updated, state) = optimizer.step(lr, self.value.clone(), gradient, self.state.take());
        self.value = updated;
        self.state = state;
        Ok(())
    }

    fn tensor(&self) -> Result<Tensor, TrainError> {
        let failed = |why: String| TrainError::Run(RunError::Device { why });
        let values = self.value.to_data().try_into_vec::<f32>().map_err(|error| failed(format!("{error:?}")))?;
        Tensor::from_slice(&self.shape, &values).map_err(|error| failed(error.to_string()))
    }
}

fn flat(data: TensorData) -> BurnTensor<1> {
    BurnTensor::from_data(data, &BurnDevice::flex())
}

fn with_parameters_as_inputs(graph: &Graph, trainable: &[String]) -> Graph {
    let mut graph = graph.clone();
    graph.inputs.retain(|input| !trainable.contains(&input.name));
    for name in trainable {
        graph.initializers.remove(name);
        graph.inputs.push(ValueInfo { name: name.clone(), dtype: Some(DType::F32), shape: None });
    }
    graph.outputs.truncate(1);
    graph
}

fn one_hot(labels: &[u8], classes: usize) -> Result<Vec<f32>, String> {
    let mut values = vec![0f32; labels.len() * classes];
    for (row, &label) in labels.iter().enumerate() {
        let class = usize::from(label);
        if class >= classes {
            return Err(format!("label {label} of row {row} is none of {classes} classes"));
        }
        values[row * classes + class] = 1.0;
    }
    Ok(values)
}

fn softmax_rows(logits: &[f32], classes: usize, temperature: f32) -> Vec<f32> {
    let mut probabilities = Vec::with_capacity(logits.len());
    for row in logits.chunks(classes) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = row.iter().map(|logit| ((logit - largest) / temperature).exp()).collect();
        let sum: f32 = powers.iter().sum();
        probabilities.extend(powers.into_iter().map(|power| power / sum));
    }
    probabilities
}

fn read(tensor: Primitive) -> Result<TensorData, TrainError> {
    let data = read_sync(B::float_into_data(tensor));
    data.map_err(|error| TrainError::Run(RunError::Device { why: error.to_string() }))
}

fn scalar(tensor: Primitive) -> Result<f32, TrainError> {
    Ok(read(tensor)?.iter::<f32>().next().unwrap_or(f32::NAN))
}
