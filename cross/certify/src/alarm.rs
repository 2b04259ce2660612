//! The alarm: an e-process that bets against "at most a fraction alpha differs from the cloud".
//!
//! Each label multiplies the wealth of every bet c by `1 + (c/alpha) * (L - alpha)`. While the probability of `L = 1`,
//! given all that was seen before, is at most alpha, each wealth is a non-negative supermartingale that starts at 1, and
//! so is their mean: by Ville's inequality it ever reaches `1/delta_a` with probability at most `delta_a`. No number of
//! looks is fixed beforehand and none costs anything. (Waudby-Smith and Ramdas, *Estimating means of bounded random
//! variables by betting*, JRSS-B 2024.)
//!
//! Whether a request is labelled may depend on everything before it, its own label excepted: the audit coin, the audit
//! rate in force and late answers do no harm, and the wealth needs no weighting by propensities.

use serde::{Deserialize, Serialize};

/// The bets c: at alpha 1 % they stake 2, 5, 10, 20 and 40 times the deviation of a label from alpha. Each is below 1,
/// so that no wealth can turn negative; the smallest is the best bet (Kelly) against three times alpha at alpha 1 %.
pub const BETS: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.4];

/// What is wrong with the parameters of an alarm or a monitor.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum InvalidMonitor {
    /// A probability that must lie strictly between 0 and 1.
    #[error("{name} is {value}: it must lie strictly between 0 and 1")]
    NotInside {
        /// Which parameter.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// A rate that must lie between 0 and 1.
    #[error("{name} is {value}: it must lie between 0 and 1")]
    NotAShare {
        /// Which parameter.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// The boosted rate is below the calm one.
    #[error("the boosted audit rate {boosted} is below the calm rate {calm}: raise boost_rate or lower audit_rate")]
    BoostBelowCalm {
        /// The boosted rate.
        boosted: f64,
        /// The calm rate.
        calm: f64,
    },
    /// A window that can hold no score.
    #[error("a window of 0 scores tests nothing: use 500")]
    EmptyWindow,
}

/// Wealth of the bets against the target, and whether they ever won.
///
/// Only the two counts are state: the wealth is computed from them, so that it neither drifts nor depends on the order in
/// which late labels arrive.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EProcess {
    alpha: f64,
    delta_a: f64,
    labels: u64,
    differing: u64,
    alarmed_at: Option<u64>,
}

impl EProcess {
    /// An alarm for the target `alpha` that is false, ever, with probability at most `delta_a`.
    ///
    /// # Errors
    ///
    /// When one of them does not lie strictly between 0 and 1.
    pub fn new(alpha: f64, delta_a: f64) -> Result<Self, InvalidMonitor> {
        strictly_inside("alpha", alpha)?;
        strictly_inside("delta_a", delta_a)?;
        Ok(Self { alpha, delta_a, labels: 0, differing: 0, alarmed_at: None })
    }

    /// Takes in one label: whether the local answer differs from the cloud's.
    pub fn label(&mut self, differs: bool) {
        self.labels += 1;
        self.differing += u64::from(differs);
        // A label that agrees only loses wealth.
        if differs && self.alarmed_at.is_none() && self.log_wealth() >= -self.delta_a.ln() {
            self.alarmed_at = Some(self.labels);
        }
    }

    /// Takes in many labels that agree, as [`Self::label`] does one by one.
    pub fn agreeing(&mut self, labels: u64) {
        self.labels += labels;
    }

    /// Whether the wealth ever reached the line. An alarm stays.
    #[must_use]
    pub fn alarmed(&self) -> bool {
        self.alarmed_at.is_some()
    }

    /// How many labels had come in when the alarm rang, that label included.
    #[must_use]
    pub fn alarmed_at(&self) -> Option<u64> {
        self.alarmed_at
    }

    /// Mean wealth of the bets; 1 at the start. It under- and overflows to 0 and infinity: see [`Self::log_wealth`].
    #[must_use]
    pub fn wealth(&self) -> f64 {
        self.log_wealth().exp()
    }

    /// Natural logarithm of the mean wealth; finite always.
    #[must_use]
    pub fn log_wealth(&self) -> f64 {
        let logs = self.log_wealths();
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logs.iter().map(|log| (log - largest).exp()).sum();
        largest + (sum / BETS.len() as f64).ln()
    }

    /// Natural logarithm of the wealth of each of [`BETS`].
    #[must_use]
    pub fn log_wealths(&self) -> [f64; BETS.len()] {
        let agreeing = (self.labels - self.differing) as f64;
        let differing = self.differing as f64;
        BETS.map(|bet| agreeing * libm::log1p(-bet) + differing * libm::log1p(bet * (1.0 - self.alpha) / self.alpha))
    }

    /// The wealth at which the alarm rings: `1/delta_a`.
    #[must_use]
    pub fn line(&self) -> f64 {
        self.delta_a.recip()
    }

    /// Labels taken in.
    #[must_use]
    pub fn labels(&self) -> u64 {
        self.labels
    }

    /// Labels of which the local answer differed.
    #[must_use]
    pub fn differing(&self) -> u64 {
        self.differing
    }
}

pub(crate) fn strictly_inside(name: &'static str, value: f64) -> Result<(), InvalidMonitor> {
    if value > 0.0 && value < 1.0 { Ok(()) } else { Err(InvalidMonitor::NotInside { name, value }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wealth_is_the_mean_of_the_bets_products() {
        let mut alarm = EProcess::new(0.01, 0.05).unwrap();
        let mut wealths = [1.0_f64; 5];
        for (i, differs) in [false, true, false, false, true, false].into_iter().cycle().take(60).enumerate() {
            let differs = differs && i % 5 == 0;
            alarm.label(differs);
            for (wealth, c) in wealths.iter_mut().zip(BETS) {
                *wealth *= 1.0 + c / 0.01 * (f64::from(u8::from(differs)) - 0.01);
            }
            let mean = wealths.iter().sum::<f64>() / 5.0;
            assert!((alarm.wealth() / mean - 1.0).abs() < 1e-12, "{i}: {} is not {mean}", alarm.wealth());
        }
    }

    #[test]
    fn an_alarm_stays_whatever_comes_after() {
        let mut alarm = EProcess::new(0.01, 0.05).unwrap();
        assert_eq!((alarm.wealth(), alarm.line(), alarm.alarmed()), (1.0, 20.0, false));
        alarm.label(true);
        assert!(!alarm.alarmed(), "one label of five bets is worth 16.1");
        alarm.label(true);
        assert_eq!(alarm.alarmed_at(), Some(2));
        alarm.agreeing(100_000);
        assert!(alarm.wealth() < 1e-3);
        assert_eq!(alarm.alarmed_at(), Some(2));
    }

    #[test]
    fn no_number_of_labels_makes_the_wealth_a_nan() {
        for differs in [false, true] {
            let mut alarm = EProcess::new(1e-6, 1e-9).unwrap();
            for _ in 0..3_000_000 {
                alarm.label(differs);
            }
            assert!(alarm.log_wealth().is_finite() && !alarm.wealth().is_nan());
            assert_eq!(alarm.alarmed(), differs);
        }
    }

    #[test]
    fn a_parameter_that_is_no_probability_is_refused_by_name() {
        for bad in [0.0, 1.0, -0.5, f64::NAN, f64::INFINITY] {
            assert!(EProcess::new(bad, 0.05).unwrap_err().to_string().starts_with("alpha is"));
            assert!(EProcess::new(0.01, bad).unwrap_err().to_string().starts_with("delta_a is"));
        }
    }
}
