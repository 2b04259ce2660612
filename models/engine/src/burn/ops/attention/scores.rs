//! Scaled dot-product attention over `[batch, heads, length, size]`. A key's head may serve several heads of queries: their
//! queries then stand below one another in one product, so that no key is copied.

use burn_backend::ops::{ActivationOps, BoolTensorOps, FloatTensorOps};
use burn_backend::{FloatDType, Scalar, TensorMetadata};
use hedge_tensor::DType;

use super::super::host::room;
use super::super::{OpError, reshaped};
use super::mask::Bias;
use super::{cast, float_type};
use crate::burn::{B, Context, Primitive, Value};

/// What is done to scores.
pub(in super::super) struct Scoring {
    /// The reciprocal root of the size where there is none.
    pub(in super::super) scale: Option<f64>,
    /// Scores are bent to stay below it; 0 for not at all.
    pub(in super::super) softcap: f64,
    /// The type of the softmax, where it is not the queries'.
    pub(in super::super) precision: Option<FloatDType>,
    /// What is to be shown of the scores.
    pub(in super::super) shown: Option<Mode>,
}

/// A stage of the scores.
#[derive(Clone, Copy, PartialEq)]
pub(in super::super) enum Mode {
    Raw,
    Capped,
    Biased,
    Probabilities,
}

impl Mode {
    pub(super) fn read(mode: i64) -> Result<Self, OpError> {
        Ok(match mode {
            0 => Mode::Raw,
            1 => Mode::Capped,
            2 => Mode::Biased,
            3 => Mode::Probabilities,
            other => return Err(OpError::new(format!("qk_matmul_output_mode is {other}, but must be 0 to 3"))),
        })
    }
}

/// What attention gives.
pub(in super::super) struct Attended {
    /// `[batch, heads, queries, size of a value]`.
    pub(in super::super) output: Value,
    /// The scores at the stage asked for.
    pub(in super::super) shown: Option<Value>,
}

pub(in super::super) fn attend(
    q: Value,
    k: Value,
    v: Value,
    bias: Option<Bias>,
    scoring: &Scoring,
    context: &Context,
) -> Result<Attended, OpError> {
    let sizes = Sizes::of(&q, &k, &v)?;
    let dtype = q.dtype();
    room(dtype, &[sizes.batch, sizes.heads, sizes.queries, sizes.keys])?;
    let scale = scoring.scale.unwrap_or_else(|| 1.0 / (sizes.size as f64).sqrt());
    let (q, k) = scaled(q.into_float(context)?, k.into_float(context)?, scale, dtype);
    let q = regrouped(q, &sizes.grouped(sizes.size), context)?;
    let scores = B::float_matmul(q, B::float_transpose(k));
    let mut scores = regrouped(scores, &[sizes.batch, sizes.heads, sizes.queries, sizes.keys], context)?;
    let mut shown = scoring.shown.filter(|&mode| mode == Mode::Raw).map(|_| scores.clone());
    if scoring.softcap > 0.0 {
        let cap = Scalar::Float(scoring.softcap);
        scores = B::float_mul_scalar(B::float_tanh(B::float_div_scalar(scores, cap)), cap);
    }
    shown = shown.or_else(|| (scoring.shown == Some(Mode::Capped)).then(|| scores.clone()));
    if let Some(bias) = &bias {
        scores = B::float_add(scores, bias.tensor.clone());
    }
    shown = shown.or_else(|| (scoring.shown == Some(Mode::Biased)).then(|| scores.clone()));
    let precision = scoring.precision.unwrap_or(float_type(dtype));
    // Graphics adapters have no exponentials of 64 bits.
    let narrowed = context.is_gpu() && precision == FloatDType::F64 && dtype != DType::F64;
    let scores = cast(scores, if narrowed { FloatDType::F32 } else { precision });
    let probabilities = cast(softmax(scores, bias, context), float_type(dtype));
    shown = shown.or_else(|| (scoring.shown == Some(Mode::Probabilities)).then(|| probabilities.clone()));
    let output = B::float_matmul(
        regrouped(probabilities, &sizes.grouped(sizes.keys), context)?,
        cast(v.into_float(context)?, float_type(dtype)),
    );
    let output = regrouped(output, &[sizes.batch, sizes.heads, sizes.queries, sizes.value], context)?;
    Ok(Attended { output: Value::float(output), shown: shown.map(Value::float) })
}

/// Halves would overflow if all of the scale came after the product, or lose numbers if all of it came before.
fn scaled(q: Primitive, k: Primitive, scale: f64, dtype: DType) -> (Primitive, Primitive) {
    if dtype == DType::F16 && scale > 0.0 {
        let root = Scalar::Float(scale.sqrt());
        return (B::float_mul_scalar(q, root), B::float_mul_scalar(k, root));
    }
    (B::float_mul_scalar(q, Scalar::Float(scale)), k)
}

/// A query that sees no key gets probabilities of 0, where a softmax alone would say NaN (and so would its gradient: such
/// rows do not reach it).
fn softmax(scores: Primitive, bias: Option<Bias>, context: &Context) -> Primitive {
    let Some(bias) = bias.filter(|bias| bias.may_be_empty) else { return stepwise(scores) };
    let best = B::float_max_dim(B::float_detach(bias.tensor), 3);
    let empty = B::float_equal_elem(best, Scalar::Float(f64::NEG_INFINITY), context.bool);
    let empty = B::bool_expand(empty, scores.shape());
    let filled = B::float_mask_fill(scores, empty.clone(), Scalar::Float(0.0));
    B::float_mask_fill(stepwise(filled), empty, Scalar::Float(0.0))
}

/// Halves are rounded after each step, as ONNX's reference does; burn's own softmax works on them in 32 bits.
fn stepwise(scores: Primitive) -> Primitive {
    if scores.dtype() != burn_backend::DType::F16 {
        return B::softmax(scores, 3);
    }
    let best = B::float_max_dim(B::float_detach(scores.clone()), 3);
    let powers = B::float_exp(B::float_sub(scores, best));
    B::float_div(powers.clone(), B::float_sum_dim(powers, 3))
}

fn regrouped(tensor: Primitive, shape: &[usize], context: &Context) -> Result<Primitive, OpError> {
    reshaped(Value::float(tensor), shape, context)?.into_float(context)
}

struct Sizes {
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    value: usize,
}

impl Sizes {
    fn of(q: &Value, k: &Value, v: &Value) -> Result<Self, OpError> {
        let (a, b, c) = (q.shape(), k.shape(), v.shape());
        let wrong = || OpError::new(format!("queries {a:?}, keys {b:?} and values {c:?} do not fit one another"));
        let (&[batch, heads, queries, size], &[_, key_heads, keys, _], &[_, _, _, value]) =
            (a.as_slice(), b.as_slice(), c.as_slice())
        else {
            return Err(wrong());
        };
        let fits = b == [batch, key_heads, keys, size] && c == [batch, key_heads, keys, value];
        if !fits || key_heads == 0 || heads % key_heads != 0 {
            return Err(wrong());
        }
        Ok(Sizes { batch, heads, key_heads, queries, keys, size, value })
    }

    /// Queries of all heads that share a key's head, below one another.
    fn grouped(&self, last: usize) -> [usize; 4] {
        [self.batch, self.key_heads, self.heads / self.key_heads * self.queries, last]
    }
}
