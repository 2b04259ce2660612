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

/// How much of its delta one certificate spends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spending {
    /// All of it: a certificate made once, by hand.
    Whole,
    /// The share of the m-th certificate of a series, counted from 1.
    Series(u32),
}

impl Spending {
    /// The error probability that may be spent of `delta`.
    #[must_use]
    pub fn of(self, delta: f64) -> f64 {
        match self {
            Self::Whole => delta,
            Self::Series(m) => delta_of(delta, m),
        }
    }

    /// The number of the certificate: a single one is the first.
    #[must_use]
    pub fn index(self) -> u32 {
        match self {
            Self::Whole => 1,
            Self::Series(m) => m.max(1),
        }
    }
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
