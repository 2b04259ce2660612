//! Random numbers that are part of the state: the n-th coin is a hash of the seed and n.
//!
//! A router restored from its state throws the coins that it would have thrown. Coins decide who is audited and which part a
//! label has, before anything is known of the answer; nothing secret depends on them.

use serde::{Deserialize, Serialize};

/// A sequence of coins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Coins {
    seed: u64,
    thrown: u64,
}

impl Coins {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    /// The next coin, uniform in 0..1.
    pub(crate) fn throw(&mut self) -> f64 {
        self.thrown = self.thrown.wrapping_add(1);
        let bits = mix(mix(self.seed) ^ self.thrown.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // 53 bits are what a double between 0 and 1 holds evenly.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, 2014).
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coins_are_uniform_and_those_of_another_seed_are_others() {
        let throw = |seed| {
            let mut coins = Coins::new(seed);
            (0..20_000).map(|_| coins.throw()).collect::<Vec<_>>()
        };
        let (a, b) = (throw(1), throw(2));
        assert_eq!(a, throw(1));
        for coins in [&a, &b] {
            for tenth in 0..10 {
                let low = f64::from(tenth) / 10.0;
                let inside = coins.iter().filter(|c| (low..low + 0.1).contains(*c)).count();
                // 2000 expected, standard deviation 42.
                assert!((1800..2200).contains(&inside), "{inside} in the tenth {tenth}");
            }
        }
        let together: f64 = a.iter().zip(&b).map(|(a, b)| (a - 0.5) * (b - 0.5)).sum::<f64>() / 20_000.0 * 12.0;
        assert!(together.abs() < 0.03, "correlation {together}");
    }
}
