//! What a query may not see, as numbers that are added to its scores: 0, or minus infinity.

use burn_backend::ops::{BoolTensorOps, FloatTensorOps};
use burn_backend::{Scalar, TensorData};
use hedge_tensor::DType;

use super::super::{OpError, broadcast_shape, with_rank};
use super::{cast, float_type};
use crate::burn::{B, Context, Primitive, Value};

/// What is allowed by position alone. Query `i` of a sample stands at `offset + i` among the keys.
pub(in super::super) struct Allowed {
    /// Whether keys behind the query are hidden.
    pub(in super::super) causal: bool,
    /// How many keys before the query are seen, and how many behind it; all without a number.
    pub(in super::super) left: Option<usize>,
    pub(in super::super) right: Option<usize>,
    /// One of each sample, or one of all.
    pub(in super::super) offsets: Vec<i64>,
    /// The keys of each sample that are filled, where not all are.
    pub(in super::super) filled: Option<Vec<i64>>,
}

/// An additive bias over `[batch, heads, queries, keys]`.
pub(in super::super) struct Bias {
    pub(super) tensor: Primitive,
    /// Whether some query may see no key at all.
    pub(super) may_be_empty: bool,
}

impl Bias {
    /// The bias of a mask (boolean, or additive itself) and of positions, for scores of the given shape and type; none
    /// where all is allowed.
    pub(in super::super) fn new(
        mask: Option<Value>,
        allowed: &Allowed,
        scores: [usize; 4],
        dtype: DType,
        context: &Context,
    ) -> Result<Option<Self>, OpError> {
        let mask = mask.map(|mask| additive(mask, scores, dtype, context)).transpose()?;
        let positions = allowed.bias(scores)?;
        let upload = |Positions { values, shape, .. }| {
            cast(B::float_from_data(TensorData::new(values, shape), &context.device), float_type(dtype))
        };
        Ok(match (mask, positions) {
            (None, None) => None,
            (Some(tensor), None) => Some(Bias { tensor, may_be_empty: true }),
            (None, Some(positions)) => {
                let may_be_empty = positions.empty;
                Some(Bias { tensor: upload(positions), may_be_empty })
            }
            (Some(mask), Some(positions)) => {
                Some(Bias { tensor: B::float_add(mask, upload(positions)), may_be_empty: true })
            }
        })
    }
}

/// The bias of positions.
struct Positions {
    values: Vec<f32>,
    /// `[batch or 1, 1, queries, keys]`.
    shape: Vec<usize>,
    /// Whether a query sees no key.
    empty: bool,
}

impl Allowed {
    fn bias(&self, [batch, _, queries, keys]: [usize; 4]) -> Result<Option<Positions>, OpError> {
        if !self.causal && self.left.is_none() && self.right.is_none() && self.filled.is_none() {
            return Ok(None);
        }
        let samples = self.offsets.len();
        if (samples != 1 && samples != batch) || self.filled.as_ref().is_some_and(|filled| filled.len() != samples) {
            return Err(OpError::new(format!("{samples} sequence lengths were given for a batch of {batch}")));
        }
        let shape = vec![samples, 1, queries, keys];
        let count = hedge_tensor::element_count(&shape).ok_or_else(|| OpError::new("its scores are too many"))?;
        let mut values = vec![f32::NEG_INFINITY; count];
        let mut empty = false;
        for (row, values) in values.chunks_mut(keys.max(1)).enumerate() {
            let (sample, query) = (row / queries, row % queries);
            let seen = self.seen(sample, query, keys);
            empty |= seen.is_empty();
            values[seen].fill(0.0);
        }
        Ok(Some(Positions { values, shape, empty }))
    }

    fn seen(&self, sample: usize, query: usize, keys: usize) -> std::ops::Range<usize> {
        let place = self.offsets[sample].saturating_add(query as i64);
        let mut end = self.filled.as_ref().map_or(keys as i64, |filled| filled[sample].min(keys as i64));
        if self.causal {
            end = end.min(place + 1);
        }
        if let Some(right) = self.right {
            end = end.min(place.saturating_add(right as i64).saturating_add(1));
        }
        let start = self.left.map_or(0, |left| place.saturating_sub(left as i64)).max(0);
        if end <= start { 0..0 } else { start as usize..end as usize }
    }
}

/// A mask as an additive bias with four dimensions; keys that it says nothing of are hidden.
fn additive(mask: Value, scores: [usize; 4], dtype: DType, context: &Context) -> Result<Primitive, OpError> {
    if mask.rank() > 4 || !(mask.is_float() || mask.dtype() == DType::Bool) {
        return Err(OpError::new(format!(
            "its mask is {} {:?}, but must be boolean or float, with at most 4 dimensions",
            mask.dtype(),
            mask.shape()
        )));
    }
    let mask = with_rank(mask, 4, context)?;
    let shape = mask.shape();
    let float = float_type(dtype);
    let hidden = Scalar::Float(f64::NEG_INFINITY);
    let tensor = if mask.is_float() {
        cast(mask.into_float(context)?, float)
    } else {
        let zeros = B::float_zeros(shape.clone().into(), &context.device, float);
        B::float_mask_fill(zeros, B::bool_not(mask.into_bool(context)?), hidden)
    };
    let [outer @ .., known] = shape.as_slice() else { return Ok(tensor) };
    let mut padded = outer.to_vec();
    padded.push(scores[3]);
    if broadcast_shape(&padded, &scores)? != scores || *known > scores[3] {
        return Err(OpError::new(format!("its mask of shape {shape:?} does not broadcast to {scores:?}")));
    }
    if *known == scores[3] {
        return Ok(tensor);
    }
    padded[3] = scores[3] - known;
    Ok(B::float_cat(vec![tensor, B::float_full(padded.into(), hidden, &context.device, float)], 3))
}
