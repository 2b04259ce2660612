//! `[models.route]`: what certificates of a class of devices promise. The names are those of the agents' own section, and so
//! must be contract and alpha; delta at most theirs.

use hedge_certify::{Contract, Plan, Target};
use hedge_gateway_core::PoolSettings;
use serde::Deserialize;

use super::PlanError;

/// The longest life of a certificate: ten years.
const MAX_LIFETIME_DAYS: u32 = 3650;
const SECS_PER_DAY: u64 = 86_400;

/// `[models.route]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteConfig {
    /// Of which requests at most `alpha` get a local answer that differs: `system` (of all) or `local` (of those answered
    /// locally). Required.
    pub contract: String,
    /// The largest fraction that may differ, 0..1. Default: 0.01.
    pub alpha: f64,
    /// How likely certificates may be wrong, all that a class ever gets together, 0..1. Default: 0.05.
    pub delta: f64,
    /// How likely a certificate that holds may ever be revoked by a false alarm, 0..1. Default: 0.05.
    pub delta_a: f64,
    /// Labels to fit the agreement head on; 0 for none. Default: 1000.
    pub fit_labels: usize,
    /// Labels to choose the score and the thresholds to try on. Default: 1000.
    pub tune_labels: usize,
    /// Labels to certify on. Default: 5000.
    pub calibration_labels: usize,
    /// How long a certificate is valid. Days, 1 to 3650; default 30.
    pub lifetime_days: u32,
}

impl Default for RouteConfig {
    fn default() -> Self {
        let Plan { fit, tune, calibration } = Plan::default();
        Self {
            contract: String::new(),
            alpha: 0.01,
            delta: 0.05,
            delta_a: 0.05,
            fit_labels: fit,
            tune_labels: tune,
            calibration_labels: calibration,
            lifetime_days: 30,
        }
    }
}

impl RouteConfig {
    /// What the section comes to for the model of this name.
    pub(super) fn settings(&self, model: &str) -> Result<PoolSettings, PlanError> {
        let wrong = |key, why: String| PlanError::Route { model: model.to_owned(), key, why };
        let contract: Contract = self
            .contract
            .parse()
            .map_err(|error: hedge_certify::UnknownContract| wrong("contract", error.to_string()))?;
        let target =
            Target::new(contract, self.alpha, self.delta).map_err(|error| wrong("alpha", error.to_string()))?;
        let plan = Plan { fit: self.fit_labels, tune: self.tune_labels, calibration: self.calibration_labels };
        plan.check().map_err(|error| wrong("calibration_labels", error.to_string()))?;
        if !(1..=MAX_LIFETIME_DAYS).contains(&self.lifetime_days) {
            return Err(wrong("lifetime_days", "must be 1 to 3650 days".into()));
        }
        let lifetime_secs = u64::from(self.lifetime_days) * SECS_PER_DAY;
        PoolSettings::new(target, self.delta_a, plan, lifetime_secs)
            .map_err(|error| wrong("delta_a", error.to_string()))
    }
}
