//! The alarm: an e-process that bets against "at most a fraction alpha differs from the cloud".
//!
//! Each label multiplies the wealth of every bet c by `1 + (c/alpha) * (L - alpha)`. While the probability of `L = 1`,
//! given all that was seen before, is at most alpha, the sum of all wealth is a non-negative supermartingale that starts
//! at 1: by Ville's inequality it ever reaches `1/delta_a` with probability at most `delta_a`. No number of looks is fixed
//! beforehand and none costs anything. (Waudby-Smith and Ramdas, *Estimating means of bounded random variables by
//! betting*, JRSS-B 2024.)
//!
//! **A reserve.** Bets that are all placed at the start are lost in calm times: at a third of alpha they shrink by 1.7 % with
//! each label, and after 2,000 labels a drift would first have to win that back. [`EProcess::with_reserve`] keeps half of the
//! wealth to place it on the same bets later: a little before each label, and a part of it when scores have shifted
//! ([`EProcess::renew`]). The wealth is then the mean over bets *and* starting times; what is placed when depends on the past
//! only, so nothing changes in the bound. (Herbster and Warmuth, *Tracking the best expert*, Machine Learning 1998; Shin,
//! Ramdas and Rinaldo, *E-detectors*, NEJSDS 2024.) It costs a few labels when the drift is there from the start, and saves
//! half of the time and more when it comes after calm ones.
//!
//! Wealth must not be placed on labels that are known to differ more often than alpha allows. Where all labels come back
//! alike, as the local contract's do, it is placed as they come. Under the system contract an offloaded request is labelled at
//! once, so that the labels under way are those of local answers alone; there it is placed before a label is asked for, and
//! only if none is under way ([`Monitor`](crate::Monitor)). Who cannot know that, as the gateway that hears of many devices,
//! goes without a reserve.
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

/// The part of the wealth that is not placed at the start.
const RESERVE: f64 = 0.5;

/// The reserve falls with the square root of the labels, from this many on: half of it is placed within 600 labels, a
/// fifth is left after 5,000.
const RESERVE_LABELS: f64 = 200.0;

/// No wealth shrinks below this, so that none is lost for ever; what it adds is nothing beside 1.
const LEAST_WEALTH: f64 = 1e-300;

/// No wealth grows beyond this, so that none becomes infinite long after the alarm.
const MOST_WEALTH: f64 = 1e300;

/// Wealth of the bets against the target, and whether they ever won.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EProcess {
    alpha: f64,
    delta_a: f64,
    /// Wealth of each of [`BETS`].
    placed: [f64; BETS.len()],
    /// Wealth that is not placed yet.
    reserve: f64,
    renewals: u32,
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
        Self::placing(alpha, delta_a, 0.0)
    }

    /// The same with a reserve. [`Self::label`] places of it with each label, which is sound for labels that come back in no
    /// other order than they were asked for, or nearly so.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`].
    pub fn with_reserve(alpha: f64, delta_a: f64) -> Result<Self, InvalidMonitor> {
        Self::placing(alpha, delta_a, RESERVE)
    }

    fn placing(alpha: f64, delta_a: f64, reserve: f64) -> Result<Self, InvalidMonitor> {
        strictly_inside("alpha", alpha)?;
        strictly_inside("delta_a", delta_a)?;
        let placed = [(1.0 - reserve) / BETS.len() as f64; BETS.len()];
        Ok(Self { alpha, delta_a, placed, reserve, renewals: 0, labels: 0, differing: 0, alarmed_at: None })
    }

    /// Takes in one label: whether the local answer differs from the cloud's.
    pub fn label(&mut self, differs: bool) {
        self.advance();
        self.bet(differs);
    }

    /// Places of the reserve what is due before a label.
    pub(crate) fn advance(&mut self) {
        self.place(self.reserve * 0.5 / (RESERVE_LABELS + self.labels as f64));
    }

    /// Takes in one label with what is placed.
    pub(crate) fn bet(&mut self, differs: bool) {
        self.labels += 1;
        self.differing += u64::from(differs);
        let deviation = (if differs { 1.0 } else { 0.0 } - self.alpha) / self.alpha;
        for (wealth, bet) in self.placed.iter_mut().zip(BETS) {
            *wealth = (*wealth * (1.0 + bet * deviation)).clamp(LEAST_WEALTH, MOST_WEALTH);
        }
        if self.alarmed_at.is_none() && self.wealth() >= self.line() {
            self.alarmed_at = Some(self.labels);
        }
    }

    /// Takes in many labels that agree, as [`Self::label`] does one by one.
    pub fn agreeing(&mut self, labels: u64) {
        for _ in 0..labels {
            self.label(false);
        }
    }

    /// Places a part of the reserve now: half of it the first time, a third the next, so that some is left however often
    /// scores shift. Nothing without a reserve.
    ///
    /// The moment may be chosen by all that was seen of requests whose labels are in, and by the scores of others only if
    /// their labels come before: a score says something of its own label.
    pub fn renew(&mut self) {
        self.renewals = self.renewals.saturating_add(1);
        self.place(self.reserve / (1.0 + f64::from(self.renewals)));
    }

    fn place(&mut self, amount: f64) {
        self.reserve -= amount;
        for wealth in &mut self.placed {
            *wealth += amount / BETS.len() as f64;
        }
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

    /// The wealth of all bets and the reserve; 1 at the start, never negative, finite always.
    #[must_use]
    pub fn wealth(&self) -> f64 {
        self.reserve + self.placed.iter().sum::<f64>()
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
    fn with_a_reserve_the_wealth_is_the_mean_over_bets_and_starting_times() {
        // Processes without a reserve that start at each label or renewal, weighted with what was placed there.
        let mut alarm = EProcess::with_reserve(0.01, 0.05).unwrap();
        let mut started = vec![(RESERVE, EProcess::new(0.01, 0.05).unwrap())];
        let mut reserve = RESERVE;
        let start = |started: &mut Vec<_>, reserve: &mut f64, part: f64| {
            started.push((*reserve * part, EProcess::new(0.01, 0.05).unwrap()));
            *reserve *= 1.0 - part;
        };
        for i in 0..400_u32 {
            if i == 150 || i == 300 {
                alarm.renew();
                start(&mut started, &mut reserve, if i == 150 { 1.0 / 2.0 } else { 1.0 / 3.0 });
            }
            start(&mut started, &mut reserve, 0.5 / (RESERVE_LABELS + f64::from(i)));
            alarm.label(i % 61 == 7);
            started.iter_mut().for_each(|(_, process)| process.label(i % 61 == 7));
            let sum: f64 = started.iter().map(|(weight, process)| weight * process.wealth()).sum();
            assert!((alarm.wealth() / (reserve + sum) - 1.0).abs() < 1e-11, "{i}");
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
        alarm.agreeing(1_000_000);
        assert!(alarm.wealth() < 0.01);
        assert_eq!(alarm.alarmed_at(), Some(2));
    }

    #[test]
    fn no_number_of_labels_makes_the_wealth_infinite_or_nothing() {
        for differs in [false, true] {
            let mut alarm = EProcess::with_reserve(1e-6, 1e-9).unwrap();
            for label in 0..3_000_000 {
                alarm.label(differs);
                if label % 1_000 == 0 {
                    alarm.renew();
                }
            }
            assert!(alarm.wealth().is_finite() && alarm.wealth() > 0.0, "{}", alarm.wealth());
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
