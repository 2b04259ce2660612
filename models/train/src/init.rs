//! Initial weights.

use hedge_tensor::{Tensor, TensorError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Draws initial weights from a seed, in the order in which they are asked for.
#[derive(Clone, Debug)]
pub struct Initializer {
    rng: ChaCha8Rng,
}

impl Initializer {
    /// Draws from `seed`.
    pub fn new(seed: u64) -> Self {
        Initializer { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Weights for a layer before a ReLU: uniform, of variance 2 / fan-in (He et al., 2015, "Delving deep into
    /// rectifiers"), so that activations keep their scale through the layers. The first dimension is the output
    /// channel, as in `Conv` and in `Gemm` with `transB`; the fan-in is the product of the others.
    pub fn kaiming(&mut self, shape: &[usize]) -> Result<Tensor, TensorError> {
        let count = hedge_tensor::element_count(shape)
            .ok_or_else(|| TensorError::TooManyElements { dtype: hedge_tensor::DType::F32, shape: shape.to_vec() })?;
        let fan_in: usize = shape.iter().skip(1).product();
        let bound = (6.0 / fan_in.max(1) as f32).sqrt();
        let weights: Vec<f32> = (0..count).map(|_| bound * self.symmetric()).collect();
        Tensor::from_slice(shape, &weights)
    }

    /// Uniform in [-1, 1).
    fn symmetric(&mut self) -> f32 {
        const STEP: f32 = 2.0 / (1 << 24) as f32;
        (self.rng.next_u32() >> 8) as f32 * STEP - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_weights_and_another_seed_others() {
        let draw = |seed| Initializer::new(seed).kaiming(&[4, 3]).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn weights_have_the_variance_that_keeps_activations_in_scale() {
        let weights = Initializer::new(1).kaiming(&[100, 8, 3, 3]).unwrap().to_vec::<f32>().unwrap();
        let variance = weights.iter().map(|weight| f64::from(weight * weight)).sum::<f64>() / weights.len() as f64;
        assert!((variance * 72.0 / 2.0 - 1.0).abs() < 0.05, "{variance}");
    }
}
