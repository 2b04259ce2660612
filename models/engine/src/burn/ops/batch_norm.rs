//! Batch normalization: by stored statistics, or by the batch's own, which it then mixes into the stored ones.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{Scalar, TensorMetadata};
use hedge_graph::Node;
use hedge_tensor::DType;

use super::normalize::{centered, mean_of_squares, plus};
use super::precision::{cast, empty, narrowed, widened};
use super::{BoxOp, Inputs, OpError, many, reshaped};
use crate::burn::{B, Context, Primitive, Value};

pub(super) fn batch(node: &Node, opset: i64) -> Result<BoxOp, OpError> {
    let norm = BatchNorm {
        epsilon: f64::from(node.float("epsilon", 1e-5)),
        momentum: f64::from(node.float("momentum", 0.9)),
        // Until opset 8, statistics could be kept for each element instead of each channel.
        by_channel: opset >= 9 || node.int("spatial", 1) != 0,
        older: opset < 14,
    };
    let asked = node.outputs.iter().skip(1).any(|output| !output.is_empty());
    // Before opset 14 asking for statistics is what asks for training.
    let training = if norm.older { asked } else { node.int("training_mode", 0) != 0 };
    many(move |context, mut inputs| {
        let x = inputs.take(0)?;
        let parameters = norm.parameters(&x, &mut inputs, context)?;
        if let Some(empty) = empty(x.dtype(), &x.shape())? {
            let kept = [parameters.mean, parameters.variance].map(Value::float);
            return Ok([empty].into_iter().chain(kept.into_iter().filter(|_| training)).collect());
        }
        if training { norm.train(x, parameters, context) } else { Ok(vec![norm.apply(x, parameters, context)?]) }
    })
}

struct BatchNorm {
    epsilon: f64,
    momentum: f64,
    by_channel: bool,
    older: bool,
}

/// On the device, shaped to broadcast to the input.
struct Parameters {
    scale: Primitive,
    bias: Primitive,
    mean: Primitive,
    variance: Primitive,
    /// The statistics' own shape and type, which their outputs have.
    shape: Vec<usize>,
    dtype: DType,
}

impl BatchNorm {
    fn parameters(&self, x: &Value, inputs: &mut Inputs, context: &Context) -> Result<Parameters, OpError> {
        let shape = x.shape();
        let mut broad = vec![1; shape.len()];
        let own = match shape.get(1) {
            // A tensor of one dimension is a batch of one channel.
            None => vec![1],
            Some(&channels) if self.by_channel => {
                broad[1] = channels;
                vec![channels]
            }
            Some(_) => {
                broad[1..].copy_from_slice(&shape[1..]);
                shape[1..].to_vec()
            }
        };
        let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let mut dtype = x.dtype();
        let mut read = |index: usize| -> Result<Primitive, OpError> {
            let value = inputs.take(index)?;
            if value.shape() != own {
                let given = value.shape();
                return Err(OpError::new(format!("input {index} has shape {given:?}, but {own:?} is needed")));
            }
            dtype = value.dtype();
            Ok(cast(reshaped(value, &broad, context)?.into_float(context)?, wide))
        };
        let (scale, bias, mean, variance) = (read(1)?, read(2)?, read(3)?, read(4)?);
        Ok(Parameters { scale, bias, mean, variance, shape: own, dtype })
    }

    fn apply(&self, x: Value, parameters: Parameters, context: &Context) -> Result<Value, OpError> {
        let Parameters { scale, bias, mean, variance, .. } = parameters;
        let dtype = x.dtype();
        // The inverse is rounded before the scale is applied, as onnxruntime does it: quantized models turn a last bit into
        // a whole step.
        let factor = B::float_mul(scale, B::float_recip(B::float_sqrt(plus(variance, self.epsilon))));
        let offset = B::float_sub(bias, B::float_mul(mean, factor.clone()));
        Ok(narrowed(B::float_add(B::float_mul(widened(x, context)?, factor), offset), dtype))
    }

    fn train(&self, x: Value, parameters: Parameters, context: &Context) -> Result<Vec<Value>, OpError> {
        let dtype = x.dtype();
        let x = widened(x, context)?;
        let kept = parameters.mean.shape().to_vec();
        let axes = |rank: usize| (0..rank).filter(|&axis| kept[axis] == 1 && (axis != 1 || !self.by_channel));
        let rank = kept.len();
        let (mean, centered) = centered(x, axes(rank));
        let variance = mean_of_squares(centered.clone(), axes(rank));
        let factor = B::float_div(parameters.scale, B::float_sqrt(plus(variance.clone(), self.epsilon)));
        let y = narrowed(B::float_add(B::float_mul(centered, factor), parameters.bias), dtype);
        let mixed = |stored: Primitive, own: Primitive| {
            let stored = B::float_mul_scalar(stored, Scalar::Float(self.momentum));
            B::float_add(stored, B::float_mul_scalar(own, Scalar::Float(1.0 - self.momentum)))
        };
        let mut statistics = vec![mixed(parameters.mean, mean.clone()), mixed(parameters.variance, variance.clone())];
        if self.older {
            statistics.extend([mean, variance]);
        }
        let output = |tensor: Primitive| reshaped(narrowed(tensor, parameters.dtype), &parameters.shape, context);
        std::iter::once(Ok(y)).chain(statistics.into_iter().map(output)).collect()
    }
}
