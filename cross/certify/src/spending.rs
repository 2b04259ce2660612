//! How much error probability each certificate of a series may spend.
//!
//! Recertifying after every alarm with the same delta would break some certificate sooner or later with probability
//! one. The m-th certificate therefore spends 6 delta / (pi^2 m^2), which sums to delta over all m (a union bound with the
//! weights of Basel's series, as in alpha-spending): with probability 1 - delta no certificate ever issued is broken.

use std::f64::consts::PI;

/// What the `m`-th certificate of a series may spend of `delta`. The first has m = 1; 0 is read as 1.
#[must_use]
pub fn delta_of(delta: f64, m: u32) -> f64 {
    let m = f64::from(m.max(1));
    6.0 * delta / (PI * PI * m * m)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_certificates_together_spend_delta_and_no_more() {
        let spent: f64 = (1..=1_000_000).map(|m| delta_of(0.05, m)).sum();
        assert!(spent < 0.05 && spent > 0.05 * 0.999_99, "{spent}");
        assert!((delta_of(0.05, 1) - 0.030_396_355).abs() < 1e-9);
        assert_eq!(delta_of(0.05, 2), delta_of(0.05, 1) / 4.0);
    }
}
