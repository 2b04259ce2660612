//! A monitor over many devices of a class: their histograms of scores in one window, their labels in one alarm.
//!
//! A fleet sees a drift of all its devices sooner than any of them: hundred devices fill a window with five requests
//! each. What a device sends is what its [`Monitor`](crate::Monitor) saw since it last did: counts per bin of the
//! certificate's grid, the labels of its audits, and how many offloaded requests entered as agreement.
//!
//! The boost is for the class: it lasts while [`PooledMonitor::boosted`] says so, and a device takes it with
//! [`Monitor::boost_class`](crate::Monitor::boost_class). It is counted in windows of the class, not in those of a device:
//! a class tests as many more windows as it has devices, and a false boost must be as much shorter.

use serde::{Deserialize, Serialize};

use crate::alarm::InvalidMonitor;
use crate::watch::Watch;
use crate::{Contract, EProcess, Grid, MonitorConfig};

/// Watches one certificate on the requests of many devices.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PooledMonitor {
    config: MonitorConfig,
    grid: Grid,
    watch: Watch,
    alarm: EProcess,
}

impl PooledMonitor {
    /// A calm monitor; `grid` is the certificate's.
    ///
    /// # Errors
    ///
    /// As for [`Monitor::new`](crate::Monitor::new).
    pub fn new(config: MonitorConfig, grid: &Grid) -> Result<Self, InvalidMonitor> {
        config.check()?;
        Ok(Self {
            config,
            grid: grid.clone(),
            watch: Watch::new(&config, grid),
            alarm: match config.contract {
                Contract::Local => EProcess::with_reserve(config.alpha, config.delta_a)?,
                // Nobody here knows which labels are under way.
                Contract::System => EProcess::new(config.alpha, config.delta_a)?,
            },
        })
    }

    /// Takes in counts of scores per bin ([`Grid::bin`]). A window closes as soon as it holds enough scores, so it may hold
    /// more than one device's report tops it up with.
    pub fn scores(&mut self, counts: &[u32]) {
        if self.watch.add_counts(&self.config, counts) {
            self.watch.close(&self.config, &self.alarm);
        }
    }

    /// Takes in the label of one audit, of any device.
    pub fn label(&mut self, differs: bool) {
        self.alarm.label(differs);
    }

    /// Takes in offloaded requests that the coin chose under the system contract.
    pub fn offloaded(&mut self, requests: u64) {
        self.alarm.agreeing(requests);
    }

    /// Whether the certificate is to be revoked for the class. An alarm stays.
    #[must_use]
    pub fn alarmed(&self) -> bool {
        self.alarm.alarmed()
    }

    /// Whether the devices of the class are to audit more.
    #[must_use]
    pub fn boosted(&self) -> bool {
        self.watch.rate() > self.config.audit_rate
    }

    /// Windows tested.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.watch.windows
    }

    /// Of these, shifted.
    #[must_use]
    pub fn shifted(&self) -> u64 {
        self.watch.shifted
    }

    /// The alarm itself.
    #[must_use]
    pub fn alarm(&self) -> &EProcess {
        &self.alarm
    }
}
