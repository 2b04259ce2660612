//! `[models.route]`, `[models.budget]` and `[audits]`: what local answers promise, what that may cost, and how it is checked.

use std::path::PathBuf;
use std::time::Duration;

use hedge_agent_core::route::{BudgetSettings, InvalidRoute};
use hedge_agent_core::{Offload, RouteSettings};
use hedge_certify::{Contract, Plan, Score, Target};
use serde::Deserialize;

use super::{SettingsError, require, wrong};

/// The longest life of a certificate: ten years.
const MAX_LIFETIME_DAYS: u32 = 3650;
const SECS_PER_DAY: u64 = 86_400;
/// The most audits that may be configured to wait: each takes some hundred bytes of memory.
const MAX_WAITING: usize = 1_000_000;
/// The most that may be asked about at once.
const MAX_IN_FLIGHT: usize = 64;

/// `[models.route]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSection {
    /// What local answers promise: of which requests at most `alpha` get a local answer that differs from the cloud's:
    /// `system` (of all) or `local` (of those answered locally). Default: none, and then `threshold` decides and nothing is
    /// promised.
    pub contract: Option<String>,
    /// The largest fraction that may differ, 0..1. Default: 0.01.
    pub alpha: f64,
    /// How likely certificates may be wrong, all that this model ever gets together, 0..1. Default: 0.05.
    pub delta: f64,
    /// How likely a certificate that holds may ever be revoked by a false alarm, 0..1. Default: 0.05.
    pub delta_a: f64,
    /// A certificate made by `hedge route certify`. Default: none; the agent gathers labels for one of its own.
    pub certificate: Option<PathBuf>,
    /// The fraction of requests that is audited in calm times, 0..1. Default: 0.02.
    pub audit_rate: f64,
    /// The fraction while the scores have shifted, 0..1, at least `audit_rate`. Default: 0.2.
    pub boost_rate: f64,
    /// Labels to fit the agreement head on; 0 for none. Default: 1000.
    pub fit_labels: usize,
    /// Labels to choose the score and the thresholds to try on. Default: 1000.
    pub tune_labels: usize,
    /// Labels to certify on. Default: 5000.
    pub calibration_labels: usize,
    /// Labelled requests for which a new certificate is watched before it is used; 0 uses it at once. Default: 500.
    pub shadow_requests: u64,
    /// How long a certificate made here is valid. Days, 1 to 3650; default 30.
    pub lifetime_days: u32,
}

/// `[models.budget]`: upper bounds on what offloads and audits may take; without one of them a resource is not watched.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetSection {
    /// The largest fraction of requests sent to the cloud, 0..1. Default: none.
    pub offload_share: Option<f64>,
    /// The most bytes sent per request, on average. Bytes; default: none.
    pub bytes_per_request: Option<f64>,
    /// The most money spent per request, on average, in any currency. Default: none.
    pub cost_per_request: Option<f64>,
    /// What one offload costs, in that currency. Needed with `cost_per_request`.
    pub price_per_offload: Option<f64>,
    /// The most energy spent on offloads per request, on average. Joules; default: none.
    pub joules_per_request: Option<f64>,
    /// What one offload takes. Joules; needed with `joules_per_request`.
    pub joules_per_offload: Option<f64>,
}

/// `[audits]`: rows answered locally that the cloud is asked about later.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditsSection {
    /// The most audits that wait; beyond it the oldest is dropped. Default: 10000.
    pub max_waiting: usize,
    /// The most bytes of them (the files take a few times as much). Bytes; default 32 MiB.
    pub max_bytes: u64,
    /// Older ones are dropped. Seconds; default 604800 (a week).
    pub max_age_secs: u64,
    /// The most that the cloud is asked about at once, 1 to 64. Default: 4.
    pub max_in_flight: usize,
    /// How often the gateway is told what audits and labels have shown, so that it can pool a class of devices. Seconds;
    /// default 10.
    pub report_secs: u64,
}

impl RouteSection {
    /// What the sections come to for a model of this threshold and score.
    pub(super) fn resolve(
        &self,
        budget: &BudgetSection,
        (threshold, score, offload): (f32, Score, Offload),
        key: &dyn Fn(&str) -> String,
    ) -> Result<RouteSettings, SettingsError> {
        let of_route = |name: &str| key(&format!("route.{name}"));
        let plan = Plan { fit: self.fit_labels, tune: self.tune_labels, calibration: self.calibration_labels };
        plan.check().map_err(|error| wrong(&of_route("calibration_labels"), &error))?;
        let days = (1..=MAX_LIFETIME_DAYS).contains(&self.lifetime_days);
        require(days, &of_route("lifetime_days"), "must be 1 to 3650 days")?;
        let settings = RouteSettings {
            contract: self.target(&of_route)?,
            delta_a: self.delta_a,
            audit_rate: self.audit_rate,
            boost_rate: self.boost_rate,
            plan,
            shadow: self.shadow_requests,
            lifetime: Duration::from_secs(u64::from(self.lifetime_days) * SECS_PER_DAY),
            threshold,
            score,
            offload,
            budget: budget.settings(),
            seed: 0,
        };
        match settings.check() {
            Ok(()) => Ok(settings),
            Err(error @ InvalidRoute::Budget(_)) => Err(wrong(&key("budget"), &error)),
            Err(error) => Err(wrong(&key("route"), &error)),
        }
    }

    fn target(&self, key: &dyn Fn(&str) -> String) -> Result<Option<Target>, SettingsError> {
        let Some(contract) = &self.contract else {
            let alone = self.certificate.is_none();
            require(alone, &key("certificate"), "needs a contract: set route.contract to what it was made for")?;
            return Ok(None);
        };
        let contract: Contract = contract.parse().map_err(|error| wrong(&key("contract"), &error))?;
        Target::new(contract, self.alpha, self.delta).map(Some).map_err(|error| wrong(&key("alpha"), &error))
    }
}

impl BudgetSection {
    fn settings(&self) -> BudgetSettings {
        BudgetSettings {
            offload_share: self.offload_share,
            bytes_per_request: self.bytes_per_request,
            cost_per_request: self.cost_per_request,
            price_per_offload: self.price_per_offload.unwrap_or(0.0),
            joules_per_request: self.joules_per_request,
            joules_per_offload: self.joules_per_offload.unwrap_or(0.0),
            ..BudgetSettings::default()
        }
    }
}

impl AuditsSection {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let waiting = (1..=MAX_WAITING).contains(&self.max_waiting);
        require(waiting, "audits.max_waiting", "must be 1 to 1000000")?;
        require(self.max_age_secs > 0, "audits.max_age_secs", "must be at least 1")?;
        let in_flight = (1..=MAX_IN_FLIGHT).contains(&self.max_in_flight);
        require(in_flight, "audits.max_in_flight", "must be 1 to 64")?;
        require((1..=3600).contains(&self.report_secs), "audits.report_secs", "must be 1 to 3600 seconds")
    }
}

impl Default for RouteSection {
    fn default() -> Self {
        let Plan { fit, tune, calibration } = Plan::default();
        Self {
            contract: None,
            alpha: 0.01,
            delta: 0.05,
            delta_a: 0.05,
            certificate: None,
            audit_rate: 0.02,
            boost_rate: 0.2,
            fit_labels: fit,
            tune_labels: tune,
            calibration_labels: calibration,
            shadow_requests: 500,
            lifetime_days: 30,
        }
    }
}

impl Default for AuditsSection {
    fn default() -> Self {
        Self {
            max_waiting: 10_000,
            max_bytes: 32 * 1024 * 1024,
            max_age_secs: 7 * SECS_PER_DAY,
            max_in_flight: 4,
            report_secs: 10,
        }
    }
}
