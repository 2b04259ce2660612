//! `GroupQueryAttention`: several heads of queries share one of keys, whose cache each sequence fills at its own length.
//!
//! `seqlens_k` is one less than the keys that each sequence has with the new ones. Where as many tokens are new as there are
//! keys at all, nothing is past: sequences then begin together and end in padding.

use burn_backend::ops::FloatTensorOps;
use hedge_graph::Node;
use hedge_tensor::Tensor;

use super::super::attention::mask::{Allowed, Bias};
use super::super::attention::rotary::{Rotation, rotate};
use super::super::attention::scores::{Scoring, attend};
use super::super::attention::{heads_apart, heads_together, part};
use super::super::host::room;
use super::super::{BoxOp, Builder, Inputs, OpError, many, size_of};
use super::check_outputs;
use crate::burn::{B, Context, Value};

pub(super) fn builder(op: &str) -> Option<Builder> {
    (op == "GroupQueryAttention").then_some(group_query)
}

struct Grouped {
    heads: usize,
    key_heads: usize,
    /// Whether positions turn queries and keys, and if so whether the elements of a pair are neighbours.
    interleaved: Option<bool>,
    window: Option<usize>,
    scoring: Scoring,
}

impl Grouped {
    fn read(node: &Node) -> Result<Self, OpError> {
        for name in ["smooth_softmax", "qk_output", "k_quant_type", "v_quant_type"] {
            if node.int(name, 0) > 0 {
                return Err(OpError::new(format!("{name} is not supported")));
            }
        }
        check_outputs(node, 3..5)?;
        let (heads, key_heads) = (size_of(node.int("num_heads", 0))?, size_of(node.int("kv_num_heads", 0))?);
        if key_heads == 0 || heads == 0 || heads % key_heads != 0 {
            return Err(OpError::new(format!("{heads} heads of queries do not share {key_heads} of keys")));
        }
        let scale = Some(f64::from(node.float("scale", 0.0))).filter(|&scale| scale != 0.0);
        let softcap = f64::from(node.float("softcap", 0.0));
        Ok(Grouped {
            heads,
            key_heads,
            interleaved: (node.int("do_rotary", 0) != 0).then(|| node.int("rotary_interleaved", 0) != 0),
            // The query's own key counts among those of its window.
            window: usize::try_from(node.int("local_window_size", -1)).ok().filter(|&window| window > 0),
            scoring: Scoring { scale, softcap, precision: None, shown: None },
        })
    }
}

fn group_query(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let grouped = Grouped::read(node)?;
    many(move |context, mut inputs| grouped.run(&mut inputs, context))
}

impl Grouped {
    fn run(&self, inputs: &mut Inputs, context: &Context) -> Result<Vec<Value>, OpError> {
        let [q, k, v] = self.operands(inputs, context)?;
        let (past_key, past_value) = (inputs.optional(3), inputs.optional(4));
        let lengths = Lengths::read(inputs, &q)?;
        let tables = inputs.optional(7).zip(inputs.optional(8));
        let positions = inputs.optional(9);
        let added = inputs.optional(10);
        if inputs.optional(11).is_some() {
            return Err(OpError::new("a head_sink is not supported"));
        }
        let (q, k) = match (self.interleaved, tables) {
            (None, _) => (q, k),
            (Some(interleaved), Some(tables)) => {
                let angles = tables.0.shape().last().copied().unwrap_or(0);
                let rotation = Rotation::of_heads(angles.saturating_mul(2), interleaved);
                let positions = match positions {
                    Some(positions) => positions,
                    None => lengths.positions()?,
                };
                let turned = |x: Value| rotate(x, tables.clone(), Some(positions.clone()), rotation, context);
                (turned(q)?, turned(k)?)
            }
            (Some(_), None) => return Err(OpError::new("its tables of angles are missing")),
        };
        let k = lengths.continued(past_key, k, context)?;
        let v = lengths.continued(past_value, v, context)?;
        let (queries, keys) = (q.shape(), k.shape());
        let allowed = Allowed {
            causal: true,
            left: self.window.map(|window| window - 1),
            right: None,
            offsets: lengths.past.iter().map(|&past| past as i64).collect(),
            filled: None,
        };
        let scores = [queries[0], queries[1], queries[2], keys[2]];
        let bias = Bias::new(added, &allowed, scores, q.dtype(), context)?;
        let output = attend(q, k.clone(), v.clone(), bias, &self.scoring, context)?.output;
        Ok(vec![heads_together(output, context)?, k, v])
    }

    /// Queries, keys and values with heads apart; all three may come in one tensor.
    fn operands(&self, inputs: &mut Inputs, context: &Context) -> Result<[Value; 3], OpError> {
        let (q, k, v) = (inputs.take(0)?, inputs.optional(1), inputs.optional(2));
        let apart = |x: Value, heads: usize| heads_apart(x, heads, context);
        if let (Some(k), Some(v)) = (k, v) {
            return Ok([apart(q, self.heads)?, apart(k, self.key_heads)?, apart(v, self.key_heads)?]);
        }
        let packed = apart(q, self.heads + 2 * self.key_heads)?.into_float(context)?;
        let split = |from: usize, count: usize| Value::float(part(packed.clone(), 1, from..from + count));
        let keys = self.heads + self.key_heads;
        Ok([split(0, self.heads), split(self.heads, self.key_heads), split(keys, self.key_heads)])
    }
}

/// How long the sequences are.
struct Lengths {
    /// New tokens of each sequence.
    new: usize,
    /// The keys of each sequence before the new ones.
    past: Vec<usize>,
    /// The keys that there is room for.
    total: usize,
}

impl Lengths {
    fn read(inputs: &mut Inputs, q: &Value) -> Result<Self, OpError> {
        let (last, total) = (inputs.take(5)?.to_ints()?, inputs.take(6)?.to_ints()?);
        let &[batch, _, new, _] = q.shape().as_slice() else {
            return Err(OpError::new(format!("queries of shape {:?} have no heads", q.shape())));
        };
        let wrong =
            || OpError::new(format!("lengths {last:?} of {total:?} do not fit {batch} sequences of {new} new tokens"));
        let total = total.first().and_then(|&total| usize::try_from(total).ok()).ok_or_else(wrong)?;
        let past = |&last: &i64| {
            let past = if new == total { 0 } else { last.checked_add(1)?.checked_sub(new as i64)? };
            usize::try_from(past).ok().filter(|past| past + new <= total)
        };
        let past = last.iter().map(past).collect::<Option<Vec<_>>>().filter(|past| past.len() == batch);
        Ok(Lengths { new, past: past.ok_or_else(wrong)?, total })
    }

    /// The place of each new token in its sequence, `[batch, new]`.
    fn positions(&self) -> Result<Value, OpError> {
        let places = self.past.iter().flat_map(|&past| past as i64..(past + self.new) as i64);
        Ok(Value::host(Tensor::from_vec(&[self.past.len(), self.new], places.collect::<Vec<i64>>())?))
    }

    /// The cache with the new keys behind each sequence's past, in at least as much room as before.
    fn continued(&self, past: Option<Value>, new: Value, context: &Context) -> Result<Value, OpError> {
        let (shape, dtype) = (new.shape(), new.dtype());
        let old = past.filter(|past| !past.shape().contains(&0));
        let before = old.as_ref().map_or(vec![shape[0], shape[1], 0, shape[3]], Value::shape);
        let fits = before.len() == 4 && [0, 1, 3].iter().all(|&axis| before[axis] == shape[axis]);
        if !fits || self.past.iter().any(|&past| past > before[2]) || shape[2] != self.new {
            return Err(OpError::new(format!("a past of shape {before:?} does not continue with {shape:?}")));
        }
        let length = self.total.max(before[2]);
        room(dtype, &[shape[0], shape[1], length, shape[3]])?;
        let (old, new) = (old.map(|old| old.into_float(context)).transpose()?, new.into_float(context)?);
        let sequence = |(sample, &past): (usize, &usize)| {
            let of_sample = |tensor| part(tensor, 0, sample..sample + 1);
            let mut parts = Vec::new();
            if let Some(old) = old.clone().filter(|_| past > 0) {
                parts.push(part(of_sample(old), 2, 0..past));
            }
            parts.push(of_sample(new.clone()));
            let rest = length - past - self.new;
            if rest > 0 {
                let zeros = Tensor::zeros(dtype, vec![1, shape[1], rest, shape[3]])?;
                parts.push(Value::host(zeros).into_float(context)?);
            }
            Ok(B::float_cat(parts, 2))
        };
        let sequences = self.past.iter().enumerate().map(sequence).collect::<Result<Vec<_>, OpError>>()?;
        Ok(Value::float(B::float_cat(sequences, 0)))
    }
}
