//! The Mersenne Twister as numpy's `RandomState` runs it, so that a seed draws what ONNX's reference draws from it.
//!
//! Makoto Matsumoto and Takuji Nishimura, "Mersenne Twister: A 623-dimensionally equidistributed uniform pseudo-random
//! number generator", 1998. Not for secrets.

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// A source of numbers that one seed determines.
pub(super) struct Mersenne {
    words: Vec<u32>,
    next: usize,
    spare_normal: Option<f64>,
}

impl Mersenne {
    pub(super) fn new(seed: u32) -> Self {
        let mut words = vec![seed];
        for index in 1..WORDS as u32 {
            let last = words[index as usize - 1];
            words.push(1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(index));
        }
        Mersenne { words, next: WORDS, spare_normal: None }
    }

    /// At least 0 and less than 1, with 53 random bits.
    pub(super) fn uniform(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// Of mean 0 and deviation 1, by Marsaglia's polar method, which makes two at a time.
    pub(super) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square < 1.0 && square != 0.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare_normal = Some(factor * x);
                return factor * y;
            }
        }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for index in 0..WORDS {
            let joined = (self.words[index] & 0x8000_0000) | (self.words[(index + 1) % WORDS] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[index] = self.words[(index + SHIFT) % WORDS] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_what_numpy_draws() {
        // numpy.random.RandomState(0).random_sample(3) and, from a fresh state, .standard_normal(3).
        let mut source = Mersenne::new(0);
        let uniform = [source.uniform(), source.uniform(), source.uniform()];
        assert_eq!(uniform, [0.5488135039273248, 0.7151893663724195, 0.6027633760716439]);
        let mut source = Mersenne::new(0);
        let normal = [source.normal(), source.normal(), source.normal()];
        assert_eq!(normal, [1.764052345967664, 0.4001572083672233, 0.9787379841057392]);
    }

    #[test]
    fn the_source_does_not_run_dry() {
        let mut source = Mersenne::new(42);
        let mean = (0..10_000).map(|_| source.uniform()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
