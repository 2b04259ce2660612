//! Operators that draw numbers.
//!
//! A node with a seed draws the same numbers in every run; without one, others in each.

use std::hash::{BuildHasher, Hasher, RandomState};

use burn_backend::ops::FloatTensorOps;
use hedge_graph::{Attribute, Node};
use hedge_tensor::{DType, Tensor};

use super::convert::{numbers, to_doubles};
use super::exact::room_for;
use super::mersenne::Mersenne;
use super::{BoxOp, Builder, Inputs, OpError, many, one, size_of};
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    Some(match op {
        "RandomNormal" => |node, _| of_shape(node, Distribution::normal(node)),
        "RandomUniform" => |node, _| of_shape(node, Distribution::uniform(node)),
        "RandomNormalLike" => |node, _| like(node, Distribution::normal(node)),
        "RandomUniformLike" => |node, _| like(node, Distribution::uniform(node)),
        "Bernoulli" => bernoulli,
        "Multinomial" => multinomial,
        "Dropout" => dropout,
        _ => return None,
    })
}

/// A node's `seed`, a float or an integer; without one there is another at each [`Seed::source`].
#[derive(Clone, Copy, Debug)]
struct Seed(Option<u32>);

impl Seed {
    fn of(node: &Node) -> Self {
        Seed(match node.attributes.get("seed") {
            Some(Attribute::Int(seed)) => Some(*seed as u32),
            // Whole numbers are their own seeds, as in numpy; others are told apart by their bits.
            Some(Attribute::Float(seed)) if seed.fract() == 0.0 => Some(*seed as i64 as u32),
            Some(Attribute::Float(seed)) => Some(seed.to_bits()),
            _ => None,
        })
    }

    fn source(self) -> Mersenne {
        Mersenne::new(self.0.unwrap_or_else(|| RandomState::new().build_hasher().finish() as u32))
    }
}

#[derive(Clone, Copy, Debug)]
enum Distribution {
    Normal { mean: f64, scale: f64 },
    Uniform { low: f64, high: f64 },
}

impl Distribution {
    fn normal(node: &Node) -> Self {
        Distribution::Normal { mean: node.float("mean", 0.0).into(), scale: node.float("scale", 1.0).into() }
    }

    fn uniform(node: &Node) -> Self {
        Distribution::Uniform { low: node.float("low", 0.0).into(), high: node.float("high", 1.0).into() }
    }

    fn draw(self, source: &mut Mersenne) -> f64 {
        match self {
            Distribution::Normal { mean, scale } => mean + scale * source.normal(),
            Distribution::Uniform { low, high } => low + (high - low) * source.uniform(),
        }
    }

    fn tensor(self, shape: &[usize], dtype: DType, seed: Seed) -> Result<Value, OpError> {
        let mut source = seed.source();
        let values = drawn(shape, || self.draw(&mut source))?;
        numbers(shape, &values, dtype)
    }
}

fn drawn(shape: &[usize], mut draw: impl FnMut() -> f64) -> Result<Vec<f64>, OpError> {
    let mut values = room_for(shape)?;
    let count: usize = shape.iter().product();
    values.extend((0..count).map(|_| draw()));
    Ok(values)
}

/// The type that `dtype` names, which an operator may leave to its input.
fn named_type(node: &Node) -> Result<Option<DType>, OpError> {
    let Some(Attribute::Int(code)) = node.attributes.get("dtype") else { return Ok(None) };
    let dtype = i32::try_from(*code).ok().and_then(DType::from_onnx_code);
    dtype.map(Some).ok_or_else(|| OpError::new(format!("ONNX type {code} is not supported")))
}

fn of_shape(node: &Node, distribution: Distribution) -> Result<BoxOp, OpError> {
    let shape = node.ints("shape").ok_or_else(|| OpError::new("it has no shape"))?;
    let shape = shape.iter().map(|&size| size_of(size)).collect::<Result<Vec<_>, _>>()?;
    let (dtype, seed) = (named_type(node)?.unwrap_or(DType::F32), Seed::of(node));
    one(move |_, _| distribution.tensor(&shape, dtype, seed))
}

fn like(node: &Node, distribution: Distribution) -> Result<BoxOp, OpError> {
    let (dtype, seed) = (named_type(node)?, Seed::of(node));
    one(move |_, mut inputs| {
        let x = inputs.take(0)?;
        distribution.tensor(&x.shape(), dtype.unwrap_or(x.dtype()), seed)
    })
}

/// 1 with the probability that each element names, otherwise 0.
fn bernoulli(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let (dtype, seed) = (named_type(node)?, Seed::of(node));
    one(move |_, mut inputs| {
        let x = inputs.take(0)?;
        let mut source = seed.source();
        let draw = |probability: f64| if source.uniform() < probability { 1.0 } else { 0.0 };
        let values: Vec<f64> = to_doubles(&x)?.into_iter().map(draw).collect();
        numbers(&x.shape(), &values, dtype.unwrap_or(x.dtype()))
    })
}

/// Classes drawn from rows of logarithms of probabilities, which need not be normalized.
fn multinomial(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let samples = size_of(node.int("sample_size", 1))?;
    let (dtype, seed) = (named_type(node)?.unwrap_or(DType::I32), Seed::of(node));
    one(move |_, mut inputs| {
        let x = inputs.take(0)?;
        let [rows, classes] = x.shape()[..] else {
            return Err(OpError::new(format!("a matrix is needed, but its input has shape {:?}", x.shape())));
        };
        if classes == 0 {
            return Err(OpError::new("there are no classes to draw from"));
        }
        let (logits, mut source) = (to_doubles(&x)?, seed.source());
        let mut drawn = room_for(&[rows, samples])?;
        for row in logits.chunks(classes) {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = row.iter().map(|logit| (logit - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            drawn.extend((0..samples).map(|_| class_at(&weights, source.uniform() * total) as f64));
        }
        numbers(&[rows, samples], &drawn, dtype)
    })
}

/// The class whose share of the weights holds `point`.
fn class_at(weights: &[f64], point: f64) -> usize {
    let mut end = 0.0;
    let within = |weight: &f64| {
        end += weight;
        point < end
    };
    weights.iter().position(within).unwrap_or(weights.len() - 1)
}

/// What it leaves out, and in which type it says so, depends on the opset: before 12 it never trains.
fn dropout(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let wants_mask = node.outputs.get(1).is_some_and(|mask| !mask.is_empty());
    let seed = Seed::of(node);
    many(move |context: &Context, mut inputs: Inputs| {
        let x = inputs.take(0)?;
        let number = |value: Option<Value>| value.map(|value| to_doubles(&value)).transpose();
        let ratio = number(inputs.optional(1))?.and_then(|ratio| ratio.first().copied()).unwrap_or(0.5);
        let training = number(inputs.optional(2))?.is_some_and(|flag| flag.first().is_some_and(|&flag| flag != 0.0));
        let shape = x.shape();
        let mask_type = if opset < 10 { x.dtype() } else { DType::Bool };
        if opset < 12 || !training || ratio == 0.0 {
            let mask = if wants_mask { Some(ones(&shape, mask_type)?) } else { None };
            return Ok(std::iter::once(x).chain(mask).collect());
        }
        if !(0.0..1.0).contains(&ratio) {
            return Err(OpError::new(format!("ratio is {ratio}, but must be at least 0 and less than 1")));
        }
        let mut source = seed.source();
        let kept = drawn(&shape, || f64::from(u8::from(source.uniform() >= ratio)))?;
        let scaled: Vec<f64> = kept.iter().map(|kept| kept / (1.0 - ratio)).collect();
        let factor = numbers(&shape, &scaled, x.dtype())?;
        let mask = if wants_mask { Some(numbers(&shape, &kept, mask_type)?) } else { None };
        let y = Value::float(B::float_mul(x.into_float(context)?, factor.into_float(context)?));
        Ok(std::iter::once(y).chain(mask).collect())
    })
}

fn ones(shape: &[usize], dtype: DType) -> Result<Value, OpError> {
    if dtype == DType::Bool {
        let mut bytes: Vec<u8> = room_for(shape)?;
        bytes.resize(shape.iter().product(), 1);
        return Ok(Value::host(Tensor::new(DType::Bool, shape.to_vec(), bytes.into())?));
    }
    numbers(shape, &drawn(shape, || 1.0)?, dtype)
}
