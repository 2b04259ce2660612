//! Random bits for jitter and boot ids, from the keys that the standard library draws from the operating system. They need
//! only differ between devices and runs; nothing secret is made of them.

use std::hash::{BuildHasher, RandomState};

/// 64 random bits.
pub(crate) fn bits() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// A number in 0..1.
pub(crate) fn fraction() -> f64 {
    (bits() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_spread_over_0_to_1() {
        let draws: Vec<f64> = (0..1000).map(|_| fraction()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
        assert_ne!(bits(), bits());
    }
}
