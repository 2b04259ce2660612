//! What an operator chooses about the routing of one model.

use std::time::Duration;

use hedge_certify::{Plan, PlanError, Score, Target};

use super::budget::{BudgetSettings, InvalidBudget};
use crate::row::Offload;

/// How one model is routed.
#[derive(Clone, PartialEq, Debug)]
pub struct RouteSettings {
    /// What local answers promise; without one nothing is certified and [`threshold`](Self::threshold) decides.
    pub contract: Option<Target>,
    /// How likely the alarm may ever sound while the contract holds (0..1).
    pub delta_a: f64,
    /// Which fraction of the requests is audited in calm times (0..1).
    pub audit_rate: f64,
    /// Which fraction while the scores are distributed unlike the reference (0..1).
    pub boost_rate: f64,
    /// How many labels make a certificate.
    pub plan: Plan,
    /// How many labelled requests a new certificate is watched for before it is used; 0 uses it at once.
    pub shadow: u64,
    /// How long a certificate issued here is valid.
    pub lifetime: Duration,
    /// The score below which the cloud is asked where there is no contract.
    pub threshold: f32,
    /// Which score that is.
    pub score: Score,
    /// Whether rows may leave the device at all.
    pub offload: Offload,
    /// What offloads may cost.
    pub budget: BudgetSettings,
    /// Where the coins start.
    pub seed: u64,
}

impl RouteSettings {
    /// Settings of a model without a contract, routed by `threshold`.
    #[must_use]
    pub fn uncertified(threshold: f32, offload: Offload) -> Self {
        Self {
            contract: None,
            delta_a: 0.05,
            audit_rate: 0.02,
            boost_rate: 0.2,
            plan: Plan::default(),
            shadow: 500,
            lifetime: Duration::from_secs(30 * 24 * 3600),
            threshold,
            score: Score::default(),
            offload,
            budget: BudgetSettings::default(),
            seed: 0,
        }
    }

    /// Whether a router can work with these settings.
    pub fn check(&self) -> Result<(), InvalidRoute> {
        if !(self.delta_a > 0.0 && self.delta_a < 1.0) {
            return Err(InvalidRoute::DeltaA(self.delta_a));
        }
        for (name, value) in [("audit_rate", self.audit_rate), ("boost_rate", self.boost_rate)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(InvalidRoute::Rate { name, value });
            }
        }
        if self.boost_rate < self.audit_rate {
            return Err(InvalidRoute::BoostBelowCalm { boosted: self.boost_rate, calm: self.audit_rate });
        }
        if self.contract.is_some() {
            self.plan.check()?;
        }
        if self.lifetime < Duration::from_secs(1) {
            return Err(InvalidRoute::Lifetime);
        }
        Ok(self.budget.check()?)
    }
}

/// Settings that no router can work with.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum InvalidRoute {
    /// The probability of a false alarm is none.
    #[error("delta_a is {0}: it must lie strictly between 0 and 1")]
    DeltaA(f64),
    /// A rate is none.
    #[error("{name} is {value}: it must lie between 0 and 1")]
    Rate {
        /// Which.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// The boost would lower the rate.
    #[error("the boosted audit rate {boosted} is below the calm rate {calm}: raise boost_rate or lower audit_rate")]
    BoostBelowCalm {
        /// The boosted rate.
        boosted: f64,
        /// The calm rate.
        calm: f64,
    },
    /// Certificates would expire at once.
    #[error("a certificate's lifetime is under 1 s: allow at least the time of its own calibration")]
    Lifetime,
    /// No campaign can follow the plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The budget is none.
    #[error(transparent)]
    Budget(#[from] InvalidBudget),
}
