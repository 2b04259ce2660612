//! The scenarios that show what the alarm is worth, from pools of labelled requests: no drift, harmless ones, and one that
//! makes the risk three times alpha; alone and as a fleet, from the start and after calm times, with the boost and without.

use super::drift::{DriftReport, DriftSettings, Fleet, Scenario, simulate_drift};
use super::stream::{Pool, Stream, StreamError};
use crate::alarm::InvalidMonitor;
use crate::{Grid, Labelled, MonitorConfig};

/// What the scenarios are made of.
#[derive(Clone, Debug)]
pub struct DriftStudy<'a> {
    /// The certificate's grid.
    pub grid: &'a Grid,
    /// The certificate's threshold.
    pub threshold: f32,
    /// The monitor; its contract and alpha are the certificate's.
    pub monitor: MonitorConfig,
    /// Requests like those that were certified.
    pub calm: &'a [Labelled],
    /// Requests after shifts that should do no harm, each with a name.
    pub harmless: Vec<(String, &'a [Labelled])>,
    /// Requests after a harmful drift; calm ones are mixed in until the risk is [`Self::multiple`] of alpha. Where they differ
    /// less often than that, those that do are drawn more often, and the scenario is called *enriched*.
    pub drifted: Option<&'a [Labelled]>,
    /// The risk under drift in multiples of alpha.
    pub multiple: f64,
    /// The devices of the pooled scenarios.
    pub fleet: Fleet,
}

/// A study that cannot be made.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum StudyError {
    /// A pool or a mixture cannot be made.
    #[error("{name}: {source}")]
    Stream {
        /// Which pool.
        name: String,
        /// Why.
        source: StreamError,
    },
    /// The monitor's configuration is refused.
    #[error(transparent)]
    Monitor(#[from] InvalidMonitor),
}

impl<'a> DriftStudy<'a> {
    /// A study of calm requests alone, at three times alpha where a drift is added, with a fleet of 100 devices that report
    /// every 10 requests.
    #[must_use]
    pub fn new(grid: &'a Grid, threshold: f32, monitor: MonitorConfig, calm: &'a [Labelled]) -> Self {
        let fleet = Fleet { devices: 100, report_every: 10 };
        Self { grid, threshold, monitor, calm, harmless: Vec::new(), drifted: None, multiple: 3.0, fleet }
    }

    /// Simulates all scenarios, in the order in which they are reported. A change after calm times comes after a quarter of
    /// the requests.
    ///
    /// # Errors
    ///
    /// When a pool is empty, when the drifted one cannot be mixed to the risk, or the monitor's configuration is refused.
    pub fn run(&self, settings: &DriftSettings) -> Result<Vec<DriftReport>, StudyError> {
        let calm = self.pool("calm", self.calm)?;
        let harmless: Vec<(&str, Pool)> = self
            .harmless
            .iter()
            .map(|(name, labels)| Ok((name.as_str(), self.pool(name, labels)?)))
            .collect::<Result<_, StudyError>>()?;
        let drifted = self.drifted.map(|labels| self.pool("drifted", labels)).transpose()?;
        let mut scenarios = self.calm_scenarios(&calm, &harmless);
        let differing = drifted.as_ref().and_then(Pool::differing_only);
        if let Some(drifted) = &drifted {
            scenarios.extend(self.drift_scenarios(&calm, (drifted, differing.as_ref()), settings.requests / 4)?);
        }
        Ok(scenarios
            .iter()
            .map(|scenario| simulate_drift(scenario, self.grid, settings))
            .collect::<Result<_, InvalidMonitor>>()?)
    }

    fn calm_scenarios<'p>(&self, calm: &'p Pool, harmless: &'p [(&str, Pool)]) -> Vec<Scenario<'p>> {
        let none = Scenario::steady("none", self.monitor, Stream::of(calm));
        let pooled = Scenario { name: "none, fleet".to_owned(), fleet: Some(self.fleet), ..none.clone() };
        let shifts = harmless.iter().map(|(name, pool)| Scenario::steady(name, self.monitor, Stream::of(pool)));
        [none, pooled].into_iter().chain(shifts).collect()
    }

    fn drift_scenarios<'p>(
        &self,
        calm: &'p Pool,
        (drifted, differing): (&'p Pool, Option<&'p Pool>),
        change_at: u64,
    ) -> Result<Vec<Scenario<'p>>, StudyError> {
        let MonitorConfig { contract, alpha, audit_rate, .. } = self.monitor;
        let risk = self.multiple * alpha;
        let mixture = if drifted.risk(contract) < risk {
            Stream::with_risk(drifted, differing.unwrap_or(drifted), contract, risk)
        } else {
            Stream::with_risk(calm, drifted, contract, risk)
        };
        let drift = mixture.map_err(|source| StudyError::Stream { name: "drifted".to_owned(), source })?;
        let unboosted = MonitorConfig { boost_rate: audit_rate, ..self.monitor };
        let enriched = if drifted.risk(contract) < risk { ", enriched" } else { "" };
        let name = format!("{} alpha{enriched}", self.multiple);
        let steady = Scenario::steady(&name, self.monitor, drift);
        let after_calm = |base: &Scenario<'p>| Scenario {
            name: format!("{}, after calm", base.name),
            before: Stream::of(calm),
            change_at,
            ..base.clone()
        };
        let pooled = Scenario { name: format!("{name}, fleet"), fleet: Some(self.fleet), ..steady.clone() };
        let calm_first = [after_calm(&steady), after_calm(&pooled)];
        let no_boost = Scenario::steady(&format!("{name}, no boost"), unboosted, drift);
        Ok([steady, pooled, no_boost].into_iter().chain(calm_first).collect())
    }

    fn pool(&self, name: &str, labels: &[Labelled]) -> Result<Pool, StudyError> {
        Pool::new(labels, self.grid, self.threshold)
            .map_err(|source| StudyError::Stream { name: name.to_owned(), source })
    }
}
