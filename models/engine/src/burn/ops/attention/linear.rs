//! Linear attention: a matrix for each head remembers keys and values, token after token.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{FloatDType, Scalar, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::super::{BoxOp, Inputs, OpError, many, size_of};
use super::{cast, float_type, heads_apart, heads_together, part};
use crate::burn::{B, Context, Primitive, Value};

struct Rule {
    /// Whether the memory fades.
    gated: bool,
    /// Whether only what is new of a value is written.
    delta: bool,
    heads: usize,
    key_heads: usize,
    scale: f64,
}

impl Rule {
    fn read(node: &Node) -> Result<Self, OpError> {
        let (gated, delta) = match node.string("update_rule").unwrap_or("gated_delta") {
            "linear" => (false, false),
            "gated" => (true, false),
            "delta" => (false, true),
            "gated_delta" => (true, true),
            other => {
                return Err(OpError::new(format!(
                    "update_rule is {other:?}, but must be linear, gated, delta or gated_delta"
                )));
            }
        };
        let (heads, key_heads) = (size_of(node.int("q_num_heads", 0))?, size_of(node.int("kv_num_heads", 0))?);
        if heads == 0 || key_heads == 0 || heads % key_heads != 0 {
            return Err(OpError::new(format!("{heads} heads of queries do not share {key_heads} heads of keys")));
        }
        Ok(Rule { gated, delta, heads, key_heads, scale: f64::from(node.float("scale", 0.0)) })
    }
}

pub(super) fn linear_attention(node: &Node, _: i64) -> Result<BoxOp, OpError> {
    let rule = Rule::read(node)?;
    many(move |context, mut inputs| {
        let query = inputs.take(0)?;
        let dtype = query.dtype();
        let memory = inputs.optional(3);
        let memory_type = memory.as_ref().map_or(dtype, Value::dtype);
        let tokens = Tokens::read(query, memory, &mut inputs, &rule, context)?;
        let (output, memory) = tokens.run(&rule);
        let output = heads_together(Value::float(cast(output, float_type(dtype))), context)?;
        Ok(vec![output, Value::float(cast(memory, float_type(memory_type)))])
    })
}

/// The inputs with heads apart, `[batch, heads, length, size]`, in the type that is computed in: at least 32 bits.
struct Tokens {
    queries: Primitive,
    keys: Primitive,
    values: Primitive,
    memory: Primitive,
    /// `[batch, key heads, length, size of a key or 1]`, in logarithms.
    decay: Option<Primitive>,
    /// `[batch, key heads or 1, length, 1]`.
    rate: Option<Primitive>,
    length: usize,
    size: usize,
}

impl Tokens {
    fn read(
        query: Value,
        memory: Option<Value>,
        inputs: &mut Inputs,
        rule: &Rule,
        context: &Context,
    ) -> Result<Self, OpError> {
        let float = if query.dtype() == DType::F64 { FloatDType::F64 } else { FloatDType::F32 };
        let apart = |x: Value, heads: usize| -> Result<Primitive, OpError> {
            if x.rank() != 3 {
                return Err(OpError::new(format!("its inputs have 3 dimensions, but one has shape {:?}", x.shape())));
            }
            Ok(cast(heads_apart(x, heads, context)?.into_float(context)?, float))
        };
        let queries = apart(query, rule.heads)?;
        let keys = apart(inputs.take(1)?, rule.key_heads)?;
        let values = apart(inputs.take(2)?, rule.key_heads)?;
        let (q, k, v) = (queries.shape(), keys.shape(), values.shape());
        let (batch, length, size) = (q[0], q[2], q[3]);
        if length == 0 || k.as_slice() != [batch, rule.key_heads, length, size] || v[0] != batch || v[2] != length {
            return Err(OpError::new(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit one another")));
        }
        let shape = [batch, rule.key_heads, size, v[3]];
        let memory = match memory {
            Some(memory) if memory.shape() == shape => cast(memory.into_float(context)?, float),
            Some(memory) => {
                return Err(OpError::new(format!("its state is {:?}, but must be {shape:?}", memory.shape())));
            }
            None => B::float_zeros(shape.to_vec().into(), &context.device, float),
        };
        let gate = |value: Option<Value>, used: bool, what: &str, widths: &[usize], heads: usize| match value {
            Some(value) if used => {
                let shape = value.shape();
                if shape.len() != 3 || shape[..2] != [batch, length] || !widths.contains(&shape[2]) {
                    return Err(OpError::new(format!("its {what} of shape {shape:?} does not fit queries {q:?}")));
                }
                apart(value, heads.min(shape[2])).map(Some)
            }
            None if used => Err(OpError::new(format!("its update_rule needs the input {what}"))),
            _ => Ok(None),
        };
        let decay =
            gate(inputs.optional(4), rule.gated, "decay", &[rule.key_heads, rule.key_heads * size], rule.key_heads)?;
        let rate = gate(inputs.optional(5), rule.delta, "beta", &[rule.key_heads, 1], rule.key_heads)?;
        Ok(Tokens { queries, keys, values, memory, decay, rate, length, size })
    }

    fn run(self, rule: &Rule) -> (Primitive, Primitive) {
        let scale = if rule.scale == 0.0 { 1.0 / (self.size as f64).sqrt() } else { rule.scale };
        let shape = self.queries.shape();
        let (batch, value) = (shape[0], self.values.shape()[3]);
        let group = rule.heads / rule.key_heads;
        let mut memory = self.memory;
        let mut outputs = Vec::with_capacity(self.length);
        for token in 0..self.length {
            let at = |tensor: &Primitive| part(tensor.clone(), 2, token..token + 1);
            if let Some(decay) = &self.decay {
                memory = B::float_mul(memory, B::float_transpose(B::float_exp(at(decay))));
            }
            let (key, mut new) = (at(&self.keys), at(&self.values));
            if let Some(rate) = &self.rate {
                let known = B::float_matmul(key.clone(), memory.clone());
                new = B::float_mul(B::float_sub(new, known), at(rate));
            }
            memory = B::float_add(memory, B::float_mul(B::float_transpose(key), new));
            let queries = B::float_reshape(at(&self.queries), vec![batch, rule.key_heads, group, self.size].into());
            let output = B::float_matmul(queries, memory.clone());
            outputs.push(B::float_reshape(output, vec![batch, rule.heads, 1, value].into()));
        }
        let outputs = if outputs.len() == 1 { outputs.remove(0) } else { B::float_cat(outputs, 2) };
        (B::float_mul_scalar(outputs, Scalar::Float(scale)), memory)
    }
}
