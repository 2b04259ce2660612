//! What a pool promises, and its bounds.

use hedge_certify::{Contract, InvalidMonitor, MonitorConfig, Plan, Target};
use hedge_wire::{Evidence, limits::MAX_REVOKED};

/// Certificates of the devices' own that one class's alarm may rest on: all of them can be revoked in one class state.
pub(crate) const MAX_OWN_CERTIFICATES: usize = MAX_REVOKED / 2;

/// Settings of a pool. They are checked once, by [`PoolSettings::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// What class certificates promise; delta is that of a class's whole series.
    pub(crate) target: Target,
    /// How scores and audits are watched.
    pub(crate) monitor: MonitorConfig,
    /// Labels of one campaign.
    pub(crate) plan: Plan,
    /// How long a certificate holds, in seconds.
    pub(crate) lifetime_secs: u64,
    /// How long a boost lasts unless it is renewed, in seconds.
    pub(crate) boost_secs: u64,
    /// How often what was only counted is written to disk, in seconds.
    pub(crate) persist_secs: u64,
    /// After how long without evidence a class or a device is forgotten, in seconds.
    pub(crate) forget_secs: u64,
    /// Classes of the model, each of one subject.
    pub(crate) max_classes: usize,
    /// Devices of one class.
    pub(crate) max_devices: usize,
}

/// Settings that promise nothing that can be watched.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidPool {
    /// The alarm or the shift of the scores.
    #[error(transparent)]
    Monitor(#[from] InvalidMonitor),
    /// A number that must be at least 1.
    #[error("{what} must be at least 1")]
    Zero {
        /// Which.
        what: &'static str,
    },
}

impl PoolSettings {
    /// Settings for `target` with a plan of labels and default bounds: 256 classes of 10,000 devices, certificates of
    /// `lifetime_secs`, boosts of 15 minutes; alarm and windows by [`MonitorConfig::new`] with `delta_a`.
    ///
    /// # Errors
    ///
    /// [`InvalidPool`], where no alarm could be computed, or something would hold nothing.
    pub fn new(target: Target, delta_a: f64, plan: Plan, lifetime_secs: u64) -> Result<Self, InvalidPool> {
        let monitor = MonitorConfig { delta_a, ..MonitorConfig::new(target.contract(), target.alpha()) };
        hedge_certify::EProcess::new(monitor.alpha, monitor.delta_a)?;
        for (what, number) in [("lifetime_secs", lifetime_secs), ("the plan's calibration", plan.calibration as u64)] {
            if number == 0 {
                return Err(InvalidPool::Zero { what });
            }
        }
        Ok(Self {
            target,
            monitor,
            plan,
            lifetime_secs,
            boost_secs: 15 * 60,
            persist_secs: 5,
            forget_secs: 60 * 86_400,
            max_classes: 256,
            max_devices: 10_000,
        })
    }

    /// With other bounds on classes and on devices of a class.
    #[must_use]
    pub fn with_bounds(self, max_classes: usize, max_devices: usize) -> Self {
        Self { max_classes, max_devices, ..self }
    }

    /// Whether audits of this evidence measure what this pool promises.
    pub(crate) fn is_target_of(&self, evidence: &Evidence) -> bool {
        let contract = match evidence.contract {
            hedge_wire::Contract::System => Contract::System,
            hedge_wire::Contract::Local => Contract::Local,
        };
        contract == self.target.contract() && evidence.alpha == self.target.alpha()
    }
}
