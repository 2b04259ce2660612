//! The activation functions of recurrent networks, with their parameters.

use burn_backend::Scalar;
use burn_backend::ops::{ActivationOps, FloatTensorOps};
use hedge_graph::Node;

use super::OpError;
use crate::burn::{B, Primitive};

/// A function and its parameters; ONNX's table "Activation functions" of `RNN`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Softsign,
    Softplus,
    Affine { alpha: f64, beta: f64 },
    LeakyRelu { alpha: f64 },
    ThresholdedRelu { alpha: f64 },
    ScaledTanh { alpha: f64, beta: f64 },
    HardSigmoid { alpha: f64, beta: f64 },
    Elu { alpha: f64 },
}

/// The functions of each direction: those that the node names, or `defaults`. Values of `activation_alpha` and
/// `activation_beta` belong to the functions that take one, in their order.
pub(super) fn activations(node: &Node, defaults: &[&str], directions: usize) -> Result<Vec<Vec<Activation>>, OpError> {
    let named: Vec<String> = match node.strings("activations") {
        Some(names) => names.iter().map(|name| String::from_utf8_lossy(name).to_lowercase()).collect(),
        None => (0..directions).flat_map(|_| defaults.iter().map(|name| name.to_lowercase())).collect(),
    };
    if named.len() != defaults.len() * directions {
        let needed = defaults.len() * directions;
        return Err(OpError::new(format!("it names {} activations where {needed} are needed", named.len())));
    }
    let mut alphas = node.floats("activation_alpha").unwrap_or_default().iter().map(|&alpha| f64::from(alpha));
    let mut betas = node.floats("activation_beta").unwrap_or_default().iter().map(|&beta| f64::from(beta));
    let functions = named.iter().map(|name| {
        let mut alpha = |default: f64| alphas.next().unwrap_or(default);
        let mut beta = |default: f64| betas.next().unwrap_or(default);
        Ok(match name.as_str() {
            "relu" => Activation::Relu,
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            "affine" => Activation::Affine { alpha: alpha(1.0), beta: beta(0.0) },
            "leakyrelu" => Activation::LeakyRelu { alpha: alpha(0.01) },
            "thresholdedrelu" => Activation::ThresholdedRelu { alpha: alpha(1.0) },
            "scaledtanh" => Activation::ScaledTanh { alpha: alpha(1.0), beta: beta(1.0) },
            "hardsigmoid" => Activation::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) },
            "elu" => Activation::Elu { alpha: alpha(1.0) },
            other => return Err(OpError::new(format!("there is no activation {other:?}"))),
        })
    });
    let functions = functions.collect::<Result<Vec<_>, _>>()?;
    Ok(functions.chunks(defaults.len()).map(<[Activation]>::to_vec).collect())
}

impl Activation {
    pub(super) fn apply(self, x: Primitive) -> Primitive {
        match self {
            Activation::Relu => B::relu(x),
            Activation::Tanh => B::float_tanh(x),
            Activation::Sigmoid => B::sigmoid(x),
            Activation::Softsign => B::float_div(x.clone(), plus(B::float_abs(x), 1.0)),
            Activation::Softplus => B::float_neg(B::log_sigmoid(B::float_neg(x))),
            Activation::Affine { alpha, beta } => plus(times(x, alpha), beta),
            Activation::LeakyRelu { alpha } => B::leaky_relu(x, Scalar::Float(alpha)),
            Activation::ThresholdedRelu { alpha } => {
                let dtype =
                    burn_backend::get_device_settings::<B>(&burn_backend::TensorMetadata::device(&x)).bool_dtype;
                let below = B::float_lower_equal_elem(x.clone(), Scalar::Float(alpha), dtype);
                B::float_mask_fill(x, below, Scalar::Float(0.0))
            }
            Activation::ScaledTanh { alpha, beta } => times(B::float_tanh(times(x, beta)), alpha),
            Activation::HardSigmoid { alpha, beta } => {
                B::float_clamp(plus(times(x, alpha), beta), Scalar::Float(0.0), Scalar::Float(1.0))
            }
            Activation::Elu { alpha } => {
                let negative = B::float_clamp_max(x.clone(), Scalar::Float(0.0));
                B::float_add(B::relu(x), times(plus(B::float_exp(negative), -1.0), alpha))
            }
        }
    }
}

fn plus(x: Primitive, value: f64) -> Primitive {
    B::float_add_scalar(x, Scalar::Float(value))
}

fn times(x: Primitive, value: f64) -> Primitive {
    B::float_mul_scalar(x, Scalar::Float(value))
}
